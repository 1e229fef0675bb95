/* Token files. */
static const char *const input_name = "train.bin";
#include "fuzz.h"

static void try_input(an_ctx *ctx, const char *path, const char *text, size_t len)
{
	(void)text;
	(void)len;
	for (int width = 2; width <= 4; width += 2) {
		an_tokens *t;
		if (!accepted(ctx, an_tokens_open(ctx, path, width, 4096, &t)))
			continue;
		for (size_t i = 0; i < an_tokens_count(t); i++) {
			int32_t id;
			an_tokens_get(t, i, 1, &id);
			if (id < 0 || id >= 4096)
				abort();
		}
		an_tokens_close(t);
	}
}
