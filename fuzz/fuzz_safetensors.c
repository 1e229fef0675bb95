/* safetensors: every byte of every tensor of an accepted file can be read. */
static const char *const input_name = "model.safetensors";
#include "fuzz.h"

static void try_input(an_ctx *ctx, const char *path, const char *text, size_t len)
{
	an_safetensors *s;
	(void)text;
	(void)len;
	if (!accepted(ctx, an_safetensors_open(ctx, path, &s)))
		return;
	unsigned sum = 0;
	for (int i = 0; i < an_safetensors_count(s); i++) {
		an_tensor_info t, found;
		an_safetensors_at(s, i, &t);
		if (!an_safetensors_find(s, t.name, &found) || found.data != t.data)
			abort();
		for (size_t j = 0; j < t.bytes; j++)
			sum += ((const uint8_t *)t.data)[j];
	}
	an_safetensors_metadata(s, sum & 1 ? "format" : "step");
	an_safetensors_close(s);
}
