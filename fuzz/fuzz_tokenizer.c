/* tokenizer.json: an accepted tokenizer encodes without loss whatever it does not refuse. */
static const char *const input_name = "tokenizer.json";
#include "fuzz.h"

static void try_input(an_ctx *ctx, const char *path, const char *text, size_t len)
{
	static const uint8_t sample[] = "It was, it's 12 \xc3\xa9t\xc3\xa9s\n\t \xff\xf0\x9f\x98\x80 end";
	an_tokenizer *t;
	(void)text;
	(void)len;
	if (!accepted(ctx, an_tokenizer_load(ctx, path, &t)))
		return;
	int32_t *ids;
	size_t n, at = 0, size;
	if (accepted(ctx, an_encode(t, sample, sizeof sample - 1, &ids, &n))) {
		for (size_t i = 0; i < n; i++) {
			const uint8_t *bytes = an_token_bytes(t, ids[i], &size);
			if (!bytes || at + size > sizeof sample - 1 || memcmp(sample + at, bytes, size) != 0)
				abort();
			at += size;
		}
		if (at != sizeof sample - 1)
			abort();
		an_ids_free(ctx, ids, n);
	}
	an_tokenizer_free(t);
}
