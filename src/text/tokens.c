/* Token files: little-endian whatever the machine is. */
#include "anneal/text.h"
#include "base/file.h"

struct an_tokens {
	an_ctx *ctx;
	file_view view;
	int width;
	size_t n;
};

an_status an_tokens_write(an_ctx *ctx, const char *path, const int32_t *ids, size_t n, int width)
{
	if (width != 2 && width != 4)
		return fail(ctx, AN_USAGE, "%s: a token takes 2 or 4 bytes, not %d", path, width);
	int64_t limit = width == 2 ? 65536 : INT64_C(1) << 31;
	for (size_t i = 0; i < n; i++)
		if (ids[i] < 0 || ids[i] >= limit)
			return fail(ctx, AN_USAGE, "%s: token %zu is %d, which does not fit into %d bytes",
				    path, i, ids[i], width);
	file_out *f;
	TRY(file_create(ctx, path, &f));
	for (size_t i = 0; i < n; i++) {
		uint8_t b[4] = {(uint8_t)ids[i], (uint8_t)(ids[i] >> 8), (uint8_t)(ids[i] >> 16),
				(uint8_t)(ids[i] >> 24)};
		file_write(f, b, (size_t)width);
	}
	return file_commit(f);
}

static uint32_t get(const an_tokens *t, size_t i)
{
	const uint8_t *p = t->view.data + i * (size_t)t->width;
	uint32_t low = (uint32_t)(p[0] | p[1] << 8);
	return t->width == 2 ? low : low | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static an_status check(const an_tokens *t, const char *path, int32_t vocab)
{
	size_t size = t->view.size, width = (size_t)t->width;
	if (size == 0)
		return fail(t->ctx, AN_FORMAT, "%s: is empty, expected tokens of %zu bytes each", path,
			    width);
	if (size % width)
		return fail(t->ctx, AN_FORMAT,
			    "%s: has %zu bytes, which are not tokens of %zu bytes each; the file is cut off "
			    "or no token file",
			    path, size, width);
	for (size_t i = 0; i < t->n; i++)
		if (get(t, i) >= (uint32_t)vocab)
			return fail(t->ctx, AN_FORMAT,
				    "%s: token %zu is %u, but the vocabulary has %d tokens; the file belongs "
				    "to another tokenizer or is damaged",
				    path, i, get(t, i), vocab);
	return AN_OK;
}

an_status an_tokens_open(an_ctx *ctx, const char *path, int width, int32_t vocab, an_tokens **out)
{
	*out = NULL;
	if (width != 2 && width != 4)
		return fail(ctx, AN_USAGE, "%s: a token takes 2 or 4 bytes, not %d", path, width);
	if (vocab < 1)
		return fail(ctx, AN_USAGE, "%s: a vocabulary of %d tokens", path, vocab);
	an_tokens *t = mem_zalloc(ctx, sizeof *t);
	if (!t)
		return fail_memory(ctx, sizeof *t);
	t->ctx = ctx;
	t->width = width;
	an_status s = file_open_view(ctx, path, &t->view);
	if (s == AN_OK) {
		t->n = t->view.size / (size_t)width;
		s = check(t, path, vocab);
	}
	if (s == AN_OK)
		*out = t;
	else
		an_tokens_close(t);
	return s;
}

an_status an_tokens_copy(an_ctx *ctx, const int32_t *ids, size_t n, int32_t vocab, an_tokens **out)
{
	*out = NULL;
	size_t size;
	for (size_t i = 0; i < n; i++)
		if (ids[i] < 0 || ids[i] >= vocab)
			return fail(ctx, AN_USAGE, "token %zu is %d, but the vocabulary has %d tokens", i,
				    ids[i], vocab);
	if (__builtin_mul_overflow(n, sizeof *ids, &size))
		return fail_memory(ctx, SIZE_MAX);
	an_tokens *t = mem_zalloc(ctx, sizeof *t);
	uint8_t *data = mem_alloc(ctx, size);
	if (!t || !data) {
		mem_free(ctx, t, sizeof *t);
		mem_free(ctx, data, size);
		return fail_memory(ctx, size);
	}
	for (size_t i = 0; i < n; i++)
		for (int k = 0; k < 4; k++)
			data[4 * i + (size_t)k] = (uint8_t)(ids[i] >> 8 * k);
	*t = (an_tokens){ctx, {data, size, false}, 4, n};
	*out = t;
	return AN_OK;
}

void an_tokens_close(an_tokens *t)
{
	if (!t)
		return;
	file_close_view(t->ctx, &t->view);
	mem_free(t->ctx, t, sizeof *t);
}

size_t an_tokens_count(const an_tokens *t) { return t->n; }

void an_tokens_get(const an_tokens *t, size_t begin, size_t n, int32_t *out)
{
	for (size_t i = 0; i < n; i++)
		out[i] = (int32_t)get(t, begin + i);
}

int64_t an_tokens_bytes(const an_tokens *t, size_t begin, size_t n, const an_tokenizer *by)
{
	int64_t sum = 0;
	for (size_t i = begin; i < begin + n; i++) {
		size_t len;
		int32_t id = (int32_t)get(t, i);
		if (id != an_tokenizer_end(by) && an_token_bytes(by, id, &len))
			sum += (int64_t)len;
	}
	return sum;
}
