/* The order of training and evaluation windows; data.h has the definition. */
#include "train/data.h"

#include "base/random.h"

#define STREAM_ORDER (UINT64_C(1) << 32)
#define STREAM_BEGIN (STREAM_ORDER + 1)
#define ROUNDS       4

int64_t data_windows(size_t n, int tokens) { return n ? (int64_t)((n - 1) / (size_t)tokens) : 0; }

int64_t data_permute(uint64_t seed, int64_t epoch, int64_t p, int64_t windows)
{
	int h = 1;
	while (INT64_C(1) << 2 * h < windows)
		h++;
	uint64_t mask = (UINT64_C(1) << h) - 1, x = (uint64_t)p;
	do {
		uint64_t left = x >> h, right = x & mask;
		for (uint64_t r = 0; r < ROUNDS; r++) {
			uint64_t key = ((uint64_t)epoch * ROUNDS + r) << 32;
			uint64_t next = left ^ (random_bits(seed, STREAM_ORDER, key + right) & mask);
			left = right;
			right = next;
		}
		x = left << h | right;
	} while (x >= (uint64_t)windows);
	return (int64_t)x;
}

size_t data_begin(uint64_t seed, size_t n, int tokens, int64_t g)
{
	int64_t windows = data_windows(n, tokens), epoch = g / windows;
	uint64_t left_over = (n - 1) % (size_t)tokens;
	uint64_t shift = random_bits(seed, STREAM_BEGIN, (uint64_t)epoch) % (left_over + 1);
	return (size_t)data_permute(seed, epoch, g % windows, windows) * (size_t)tokens + (size_t)shift;
}

void data_batch(const an_tokens *from, uint64_t seed, int batch, int tokens, int64_t g, int32_t *input,
		int32_t *target, int32_t *scratch)
{
	for (int b = 0; b < batch; b++) {
		size_t begin = data_begin(seed, an_tokens_count(from), tokens, g + b), n = (size_t)tokens;
		an_tokens_get(from, begin, n + 1, scratch);
		memcpy(input + (size_t)b * n, scratch, n * sizeof *input);
		memcpy(target + (size_t)b * n, scratch + 1, n * sizeof *target);
	}
}

void data_eval_batch(const an_tokens *from, int64_t count, int batch, int tokens, int64_t first,
		     int32_t *input, int32_t *target, int32_t *scratch)
{
	for (int b = 0; b < batch; b++, input += tokens, target += tokens) {
		int64_t begin = (first + b) * tokens, left = count - begin;
		int n = left <= 0 ? 0 : (int)MIN(left, tokens);
		if (n)
			an_tokens_get(from, (size_t)begin, (size_t)n + 1, scratch);
		for (int i = 0; i < tokens; i++) {
			/* attention is causal: what stands behind the end reaches nothing that counts */
			input[i] = i < n ? scratch[i] : 0;
			target[i] = i < n ? scratch[i + 1] : -1;
		}
	}
}

an_status data_check(an_ctx *ctx, const an_tokens *t, const char *what, int32_t vocab, uint64_t *hash)
{
	int32_t part[4096];
	size_t n = an_tokens_count(t);
	uint64_t h = hash_bytes(HASH_INIT, &n, sizeof n);
	for (size_t at = 0; at < n; at += LENGTH(part)) {
		size_t here = MIN(n - at, (size_t)LENGTH(part));
		an_tokens_get(t, at, here, part);
		for (size_t i = 0; i < here; i++)
			if (part[i] < 0 || part[i] >= vocab)
				return fail(ctx, AN_USAGE,
					    "%s: token %zu is %d, but the model's vocabulary has %d", what,
					    at + i, part[i], vocab);
		h = hash_bytes(h, part, here * sizeof *part);
	}
	*hash = h;
	return AN_OK;
}
