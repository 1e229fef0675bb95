/* The order of training data: every window once per epoch, as data.h defines it. */
#include "base/random.h"
#include "support/train_support.h"
#include "train/data.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdlib.h>
#undef fail
#include <cmocka.h>

static void permutations_are_bijective(void **state)
{
	(void)state;
	const int64_t sizes[] = {1, 2, 3, 4, 5, 15, 16, 17, 100, 1023, 1024, 1025};
	for (int i = 0; i < (int)(sizeof sizes / sizeof *sizes); i++)
		for (int64_t epoch = 0; epoch < 3; epoch++) {
			char *seen = calloc((size_t)sizes[i], 1);
			assert_non_null(seen);
			for (int64_t p = 0; p < sizes[i]; p++) {
				int64_t w = data_permute(99, epoch, p, sizes[i]);
				assert_in_range(w, 0, sizes[i] - 1);
				assert_false(seen[w]);
				seen[w] = 1;
			}
			free(seen);
		}
}

/* Epochs and seeds have different orders, and none is the order of the text.  A random permutation of
 * 1000 keeps a place, or shares one with another permutation, once on average (Poisson): more than 10 of
 * them happen with probability 1e-8. */
static void permutations_differ(void **state)
{
	(void)state;
	int same_epoch = 0, same_seed = 0, in_place = 0;
	for (int64_t p = 0; p < 1000; p++) {
		int64_t w = data_permute(5, 0, p, 1000);
		in_place += w == p;
		same_epoch += w == data_permute(5, 1, p, 1000);
		same_seed += w == data_permute(6, 0, p, 1000);
	}
	assert_in_range(in_place, 0, 10);
	assert_in_range(same_epoch, 0, 10);
	assert_in_range(same_seed, 0, 10);
	/* large counts, up to where 4^h leaves 32 bits */
	int64_t huge = (INT64_C(1) << 40) + 12345;
	for (int64_t p = 0; p < 100; p++)
		assert_in_range(data_permute(1, 7, huge - 1 - p, huge), 0, huge - 1);
}

/* The definition once more, written down from data.h; tests/golden/golden.py is a third. */
static int64_t permute_by_definition(uint64_t seed, int64_t e, int64_t p, int64_t windows)
{
	int h = 1;
	while (((int64_t)1 << (2 * h)) < windows)
		h++;
	int64_t half = (int64_t)1 << h;
	do {
		int64_t l = p / half, r = p % half;
		for (int round = 0; round < 4; round++) {
			uint64_t f =
			    random_bits(seed, UINT64_C(4294967296),
					(uint64_t)(4 * e + round) * UINT64_C(4294967296) + (uint64_t)r);
			int64_t next = l ^ (int64_t)(f % (uint64_t)half);
			l = r;
			r = next;
		}
		p = l * half + r;
	} while (p >= windows);
	return p;
}

static void order_is_the_documented_one(void **state)
{
	(void)state;
	for (int64_t p = 0; p < 333; p++)
		for (int64_t e = 0; e < 3; e++)
			assert_int_equal(data_permute(42, e, p, 333), permute_by_definition(42, e, p, 333));
	assert_int_equal(data_windows(0, 4), 0);
	assert_int_equal(data_windows(1, 4), 0);
	assert_int_equal(data_windows(4, 4), 0);
	assert_int_equal(data_windows(5, 4), 1);
	assert_int_equal(data_windows(8, 4), 1);
	assert_int_equal(data_windows(9, 4), 2);
}

/* Tokens are their own positions, so that what a batch holds tells where it came from. */
static void batches_come_from_the_text(void **state)
{
	(void)state;
	enum { N = 1007, T = 10, BATCH = 3 };
	an_ctx *ctx;
	an_tokens *tokens;
	int32_t ids[N], input[BATCH * T], target[BATCH * T], scratch[T + 1];
	bool predicted[N] = {0};
	assert_int_equal(an_ctx_open(NULL, &ctx), AN_OK);
	for (int i = 0; i < N; i++)
		ids[i] = i;
	check_ok(ctx, an_tokens_copy(ctx, ids, N, N, &tokens));
	int64_t windows = data_windows(N, T);
	assert_int_equal(windows, 100);
	for (int64_t g = 0; g < windows; g += BATCH) {
		data_batch(tokens, 3, BATCH, T, g, input, target, scratch);
		for (int b = 0; b < BATCH && g + b < windows; b++)
			for (int i = 0; i < T; i++) {
				assert_int_equal(input[b * T + i], (int)data_begin(3, N, T, g + b) + i);
				assert_int_equal(target[b * T + i], input[b * T + i] + 1);
				assert_false(predicted[target[b * T + i]]);
				predicted[target[b * T + i]] = true;
			}
	}
	/* an epoch predicts all tokens but the first and the (N-1)%T that are left over at its ends */
	int left = 0;
	for (int i = 1; i < N; i++)
		left += !predicted[i];
	assert_int_equal(left, (N - 1) % T);
	/* which ones those are changes */
	bool moved = false;
	for (int64_t e = 1; e < 20; e++) {
		size_t first = N;
		for (int64_t p = 0; p < windows; p++) {
			size_t begin = data_begin(3, N, T, e * windows + p);
			assert_in_range(begin, 0, N - T - 1);
			first = begin < first ? begin : first;
		}
		moved |= first != data_begin(3, N, T, 0) % T;
	}
	assert_true(moved);
	an_tokens_close(tokens);
	an_ctx_close(ctx);
}

static void evaluation_covers_everything_once(void **state)
{
	(void)state;
	enum { N = 53, T = 8, BATCH = 3 };
	an_ctx *ctx;
	an_tokens *tokens;
	int32_t ids[N], input[BATCH * T], target[BATCH * T], scratch[T + 1];
	assert_int_equal(an_ctx_open(NULL, &ctx), AN_OK);
	for (int i = 0; i < N; i++)
		ids[i] = i;
	check_ok(ctx, an_tokens_copy(ctx, ids, N, N, &tokens));
	for (int count = 1; count < N; count++) {
		int next = 1;
		for (int64_t first = 0; first * T < count; first += BATCH) {
			data_eval_batch(tokens, count, BATCH, T, first, input, target, scratch);
			for (int i = 0; i < BATCH * T; i++) {
				if (target[i] < 0)
					continue;
				assert_int_equal(target[i], next++);
				assert_int_equal(input[i], target[i] - 1);
			}
		}
		assert_int_equal(next, count + 1);
	}
	an_tokens_close(tokens);
	an_ctx_close(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(permutations_are_bijective),        cmocka_unit_test(permutations_differ),
	    cmocka_unit_test(order_is_the_documented_one),       cmocka_unit_test(batches_come_from_the_text),
	    cmocka_unit_test(evaluation_covers_everything_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
