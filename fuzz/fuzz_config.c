/* config.json: an accepted configuration makes a model. */
static const char *const input_name = "config.json";
#include "fuzz.h"

static void try_input(an_ctx *ctx, const char *path, const char *text, size_t len)
{
	an_llama_config c;
	an_model *m;
	(void)text;
	(void)len;
	if (accepted(ctx, an_hf_config_read(ctx, path, &c)) && c.layers < 1000 &&
	    accepted(ctx, an_llama_new(ctx, &c, &m)))
		an_model_free(m);
}
