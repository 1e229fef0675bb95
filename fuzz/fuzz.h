/* What the fuzz targets share.  Each file beside this one is one target: it defines try_input(), which
 * gets the name of a file with the bytes to read (and, with a NUL after them, the bytes themselves).
 * Nothing may crash, leak or read beyond its memory; a refusal must leave a message. */
#ifndef FUZZ_H
#define FUZZ_H

#include <anneal/anneal.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The file's name within its folder; some readers go by it. */
static const char *const input_name;

static void try_input(an_ctx *ctx, const char *path, const char *text, size_t len);

/* A refusal without a word is a bug too. */
static inline bool accepted(an_ctx *ctx, an_status s)
{
	if (s != AN_OK && !*an_message(ctx))
		abort();
	return s == AN_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char dir[64], path[128];
	if (!*dir) {
		snprintf(dir, sizeof dir, "/tmp/anneal-fuzz-%ld", (long)getpid());
		if (mkdir(dir, 0700) != 0)
			abort();
		snprintf(path, sizeof path, "%s/%s", dir, input_name);
	}
	FILE *f = fopen(path, "wb");
	if (!f || fwrite(data, 1, size, f) != size || fclose(f) != 0)
		abort();
	char *text = malloc(size + 1);
	an_ctx *ctx;
	an_ctx_options opt = {.threads = 1, .isa = "portable"}; /* the same everywhere */
	if (!text || an_ctx_open(&opt, &ctx) != AN_OK)
		abort();
	if (size)
		memcpy(text, data, size);
	text[size] = 0;
	try_input(ctx, path, text, size);
	an_ctx_close(ctx);
	free(text);
	unlink(path);
	return 0;
}

#endif
