/* Embedding, cross-entropy, norm and AdamW against double precision; the same bits at any number
 * of threads and on every instruction set. */
#include "base/random.h"
#include "support/kernel_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static int nisa;
static const uint32_t *isas;
enum { RUNS = CHECK_POOLS + 3 };
/* Every instruction set on one thread, then every pool. */
static uint32_t run_isa(int run) { return isas[run % nisa]; }
static pool *run_pool(int run) { return run < 3 ? NULL : check_pools()[run - 3]; }

static void test_embed(void **state)
{
	(void)state;
	static const int size[][3] = {{10, 5, 3}, {100, 70, 65}, {31, 288, 257}, {3, 1, 1}, {500, 64, 1}};
	for (int c = 0; c < LENGTH(size); c++) {
		const int vocab = size[c][0], dim = size[c][1], n = size[c][2];
		float *table = malloc(sizeof *table * (size_t)(vocab * dim)),
		      *grad = malloc(sizeof *grad * (size_t)(vocab * dim));
		int32_t *token = malloc(sizeof *token * (size_t)n);
		half *x = malloc(sizeof *x * (size_t)(dim * n)), *dx = malloc(sizeof *dx * (size_t)(dim * n));
		for (int i = 0; i < vocab * dim; i++)
			table[i] = (float)check_uniform(1, i, -3, 3);
		for (int i = 0; i < dim * n; i++)
			dx[i] = half_from_double(check_uniform(2, i, -3, 3));
		for (int s = 0; s < n; s++)
			token[s] = (int32_t)check_uniform(3, s, 0, MIN(vocab, 7)); /* many equal ones */
		token[n - 1] = vocab - 1;
		for (int run = 0; run < RUNS; run++) {
			k_embed(run_pool(run), run_isa(run), x, table, token, dim, n);
			for (int i = 0; i < dim * n; i++)
				assert_int_equal(x[i], half_from_float(table[token[i % n] * dim + i / n]));
			for (int i = 0; i < vocab * dim; i++)
				grad[i] = (float)(i % 5);
			k_embed_grad(run_pool(run), run_isa(run), grad, dx, token, dim, n, 0.3f);
			for (int t = 0; t < vocab; t++)
				for (int d = 0; d < dim; d++) {
					float want = (float)((t * dim + d) % 5); /* in order: the very bits */
					for (int s = 0; s < n; s++)
						if (token[s] == t)
							want += 0.3f * half_to_float(dx[d * n + s]);
					if (grad[t * dim + d] != want)
						fail_msg("run %d token %d channel %d: %a, expected %a", run,
							 t, d, (double)grad[t * dim + d], (double)want);
				}
		}
		free(table);
		free(grad);
		free(token);
		free(x);
		free(dx);
	}
}

/* The loss of a column is max - x_t + log(sum): (V + 30) 2^-23 relative to sum's terms plus the roundings of
 * numbers up to |max - x_t|; a gradient is a softmax (see test_ewise) times the scale, rounded to fp16. */
static void test_cross_entropy(void **state)
{
	(void)state;
	static const int size[][2] = {{7, 5},     {1, 3},     {65, 33}, {1000, 1},
				      {321, 100}, {4096, 64}, {63, 2},  {2113, 300}};
	for (int c = 0; c < LENGTH(size); c++) {
		const int vocab = size[c][0], n = size[c][1];
		half *logits = malloc(sizeof *logits * (size_t)(vocab * n)),
		     *work = malloc(sizeof *work * (size_t)(vocab * n));
		half *first = malloc(sizeof *first * (size_t)(vocab * n));
		int32_t *target = malloc(sizeof *target * (size_t)n);
		float *loss = malloc(sizeof *loss * (size_t)n);
		double first_sum = 0, sum, want_sum = 0, bound_sum = 0;
		int64_t counted, want_counted = 0;
		for (int i = 0; i < vocab * n; i++)
			logits[i] = half_from_double(check_uniform(4, i, -12, 12) * (i % 13 == 0 ? 40 : 1));
		for (int s = 0; s < n; s++)
			target[s] = s % 5 == 4 ? -1 : (int32_t)check_uniform(5, s, 0, vocab);
		const float scale = 1024.0f / (float)n;
		for (int run = 0; run < RUNS; run++) {
			memcpy(work, logits, sizeof *work * (size_t)(vocab * n));
			k_cross_entropy(run_pool(run), run_isa(run), work, target, vocab, n, scale, &sum,
					loss, &counted);
			if (run == 0) {
				memcpy(first, work, sizeof *work * (size_t)(vocab * n));
				first_sum = sum;
			}
			assert_memory_equal(first, work, sizeof *work * (size_t)(vocab * n));
			assert_true(sum == first_sum);
			double again;
			memcpy(work, logits, sizeof *work * (size_t)(vocab * n));
			k_cross_entropy(run_pool(run), run_isa(run), work, target, vocab, n, 0, &again, NULL,
					NULL);
			assert_true(sum == again);
			assert_memory_equal(logits, work,
					    sizeof *work * (size_t)(vocab * n)); /* no gradient wanted */
		}
		for (int s = 0; s < n; s++) {
			double max = -INFINITY, total = 0;
			for (int v = 0; v < vocab; v++)
				max = fmax(max, (double)half_to_float(logits[v * n + s]));
			for (int v = 0; v < vocab; v++)
				total += exp((double)half_to_float(logits[v * n + s]) - max);
			for (int v = 0; v < vocab; v++) {
				double d = max - (double)half_to_float(logits[v * n + s]);
				double p = exp(-d) / total,
				       want = target[s] < 0 ? 0 : (double)scale * (p - (v == target[s]));
				double bound = (double)scale * (p * ((double)vocab + d + 8) * 0x1p-23 +
								(v == target[s] ? 0x1p-24 : 0));
				bound += fmax(fabs(want) * 0x1p-11, 0x1p-25) * 1.01;
				double got = (double)half_to_float(first[v * n + s]);
				if (!(fabs(got - want) <= bound))
					fail_msg("%dx%d gradient [%d][%d]: %.9g, expected %.9g +- %.3g",
						 vocab, n, v, s, got, want, bound);
			}
			double want = 0, bound = 0;
			if (target[s] >= 0) {
				double d = max - (double)half_to_float(logits[target[s] * n + s]);
				want = d + log(total);
				bound = ((double)vocab + 40 + d + log(total)) * 0x1p-23;
				want_counted++;
			}
			if (!(fabs((double)loss[s] - want) <= bound))
				fail_msg("%dx%d loss [%d]: %.9g, expected %.9g +- %.3g", vocab, n, s,
					 (double)loss[s], want, bound);
			want_sum += want;
			bound_sum += bound;
		}
		assert_true(fabs(first_sum - want_sum) <= bound_sum);
		assert_int_equal(counted, want_counted);
		free(logits);
		free(work);
		free(first);
		free(target);
		free(loss);
	}
}

/* Logits of -inf take no part, also where all of the first rows are. */
static void test_masked_logits(void **state)
{
	(void)state;
	enum { V = 5000, N = 70 };
	half *x = malloc(V * N * sizeof *x), *first = malloc(V * N * sizeof *x);
	int32_t target[N];
	double first_sum = 0, sum;
	for (int run = 0; run < RUNS; run++) {
		for (int v = 0; v < V; v++)
			for (int s = 0; s < N; s++)
				x[v * N + s] =
				    v < 4000 + s || v % 3 ? 0xfc00 : half_from_float((float)(s % 7));
		for (int s = 0; s < N; s++)
			target[s] = (4000 + s + 2) / 3 * 3;
		k_cross_entropy(run_pool(run), run_isa(run), x, target, V, N, 1, &sum, NULL, NULL);
		if (run == 0) {
			first_sum = sum;
			memcpy(first, x, V * N * sizeof *x);
		}
		assert_true(sum == first_sum);
		assert_memory_equal(x, first, V * N * sizeof *x);
	}
	double want = 0;
	for (int s = 0; s < N; s++) {
		const int equal = (V - 1) / 3 - (4000 + s + 2) / 3 + 1;
		want += log(equal);
		for (int v = 0; v < V; v++) {
			double p = v < 4000 + s || v % 3 ? 0 : 1.0 / equal - (v == target[s]);
			assert_true(fabs((double)half_to_float(x[v * N + s]) - p) <= fabs(p) * 0x1p-10);
		}
	}
	assert_true(fabs(sum - want) <= want * 0x1p-20);
	free(x);
	free(first);
}

/* Squares are exact in double; n additions of 2^-53 each. */
static void test_sum_squares(void **state)
{
	(void)state;
	static const int64_t size[] = {0, 1, 2, 15, 16, 17, 4095, 4097, 1000003};
	float *x = malloc(sizeof *x * 1000003);
	for (int64_t i = 0; i < 1000003; i++)
		x[i] = (float)check_uniform(6, i, -1, 1) * (i % 1000 == 0 ? 1e30f : 1);
	for (int c = 0; c < LENGTH(size); c++) {
		long double want = 0;
		for (int64_t i = 0; i < size[c]; i++)
			want += (long double)x[i] * (long double)x[i];
		double first = 0;
		for (int run = 0; run < RUNS; run++) {
			bool finite;
			double got = k_sum_squares(run_pool(run), run_isa(run), x, size[c], &finite);
			assert_true(finite);
			if (run == 0)
				first = got;
			assert_true(got == first);
			assert_true(fabsl((long double)got - want) <= want * (long double)size[c] * 0x1p-53L);
		}
	}
	const float bad[] = {NAN, INFINITY, -INFINITY};
	for (int i = 0; i < 3; i++)
		for (int run = 0; run < RUNS; run++) {
			float kept = x[777777];
			bool finite = true;
			x[777777] = bad[i];
			k_sum_squares(run_pool(run), run_isa(run), x, 1000003, &finite);
			assert_false(finite);
			x[777777] = kept;
		}
	free(x);
}

/* Draws are those of the scalar generator, to the bit. */
static void test_normal(void **state)
{
	(void)state;
	enum { N = 200003 };
	float *x = malloc(N * sizeof *x);
	static const double std[] = {0.02, 1, 0.0040824829046386};
	for (int c = 0; c < LENGTH(std); c++)
		for (int run = 0; run < RUNS; run++) {
			const int n = run < 3 ? N : 16384 + 511 * run;
			x[n - 1] = NAN;
			k_normal(run_pool(run), run_isa(run), x, 7, (uint64_t)c, std[c], n);
			for (int i = 0; i < n; i += run % 7 + 1)
				assert_true(x[i] ==
					    (float)(std[c] * random_normal(7, (uint64_t)c, (uint64_t)i)));
			assert_false(isnan(x[n - 1]));
		}
	free(x);
}

/* AdamW and the conversion of its weights in one pass: the bits of one after the other. */
typedef struct adamw_of {
	uint32_t isa;
	const k_adamw *h;
	float *w, *g, *m, *v;
	int64_t n;
	int made;
} adamw_of;

static const float *make(void *arg, int64_t begin, int64_t n)
{
	adamw_of *a = arg;
	assert_true(begin >= 0 && n > 0 && begin + n <= a->n);
	__atomic_fetch_add(&a->made, (int)n, __ATOMIC_RELAXED);
	k_adamw_block(a->isa, a->h, a->w + begin, a->g + begin, a->m + begin, a->v + begin, n);
	return a->w + begin;
}

static void test_adamw_and_conversion(void **state)
{
	(void)state;
	/* around vectors, around blocks, and large enough for stores past the caches */
	static const int size[] = {1, 15, 16, 17, 63, 65, 2047, 2049, 20000, (1 << 19) + 2049};
	enum { MOST = (1 << 19) + 2049 };
	const k_adamw h = {.lr = 1e-2f,
			   .beta1 = 0.9f,
			   .beta2 = 0.95f,
			   .eps = 1e-8f,
			   .decay = 0.1f,
			   .c1 = 0.1f,
			   .c2 = 0.05f,
			   .g_scale = 0.5f};
	float *init[4], *want[4], *got[4];
	for (int a = 0; a < 4; a++) {
		init[a] = malloc(MOST * sizeof(float));
		want[a] = malloc(MOST * sizeof(float));
		got[a] = malloc(MOST * sizeof(float));
		for (int i = 0; i < MOST; i++)
			init[a][i] = (float)check_uniform(20 + a, i, a == 3 ? 0 : -1, 1);
	}
	uint16_t *to = malloc((MOST + 4) * sizeof *to);
	for (int c = 0; c < LENGTH(size); c++)
		for (int run = 0; run < (size[c] == MOST ? 3 + 2 : RUNS); run++) {
			const int n = size[c], shift = run % 3; /* of the destination: any address */
			for (int a = 0; a < 4; a++) {
				memcpy(want[a], init[a], (size_t)n * sizeof(float));
				memcpy(got[a], init[a], (size_t)n * sizeof(float));
			}
			k_adamw_step(NULL, 0, &h, want[0], want[1], want[2], want[3], n);
			adamw_of of = {run_isa(run), &h, got[0], got[1], got[2], got[3], n, 0};
			to[shift + n] = 0xabcd;
			k_store_made(run_pool(run), run_isa(run), to + shift, c % 2 ? K_F16 : K_BF16, n, make,
				     &of);
			assert_int_equal(of.made, n);
			assert_int_equal(to[shift + n], 0xabcd);
			for (int a = 0; a < 4; a++)
				assert_memory_equal(got[a], want[a], (size_t)n * sizeof(float));
			for (int i = 0; i < n; i++)
				assert_int_equal(to[shift + i], c % 2 ? half_from_float(want[0][i])
								      : bfloat_from_float(want[0][i]));
			if (c % 2)
				continue;
			memcpy(got[0], init[0], (size_t)n * sizeof(float));
			of.w = got[1]; /* values as they are */
			k_store_made(run_pool(run), run_isa(run), got[0], K_F32, n, make, &of);
			assert_memory_equal(got[0], got[1], (size_t)n * sizeof(float));
		}
	for (int a = 0; a < 4; a++) {
		free(init[a]);
		free(want[a]);
		free(got[a]);
	}
	free(to);
}

/* Each of m, v, w passes through at most 8 roundings of terms no larger than those summed here. */
static void test_adamw(void **state)
{
	(void)state;
	enum { N = 40003 };
	float *init[4], *got[4], *first[3];
	for (int a = 0; a < 4; a++) {
		init[a] = malloc(N * sizeof(float));
		got[a] = malloc(N * sizeof(float));
		for (int i = 0; i < N; i++)
			init[a][i] =
			    (float)check_uniform(7 + a, i, a == 3 ? 0 : -1, 1) * (a == 3 ? 1e-3f : 1);
	}
	for (int a = 0; a < 3; a++)
		first[a] = malloc(N * sizeof(float));
	init[3][5] = init[2][5] = init[1][5] = 0; /* a weight that never had a gradient: 0 / (0 + eps) */
	k_adamw h = {.lr = 1e-3f,
		     .beta1 = 0.9f,
		     .beta2 = 0.95f,
		     .eps = 1e-8f,
		     .decay = 0.1f,
		     .c1 = 0.271f,
		     .c2 = 0.142625f,
		     .g_scale = 0.37f};
	for (int run = 0; run < RUNS; run++) {
		for (int a = 0; a < 4; a++)
			memcpy(got[a], init[a], N * sizeof(float));
		/* w, g, m, v */
		k_adamw_step(run_pool(run), run_isa(run), &h, got[0], got[1], got[2], got[3], N);
		for (int a = 0; a < 3; a++) {
			float *now = got[a == 0 ? 0 : a + 1];
			if (run == 0)
				memcpy(first[a], now, N * sizeof(float));
			assert_memory_equal(first[a], now, N * sizeof(float));
		}
		assert_memory_equal(got[1], init[1], N * sizeof(float));
	}
	const double u = 0x1p-24;
	for (int i = 0; i < N; i++) {
		double w = (double)init[0][i], g = (double)init[1][i] * (double)h.g_scale,
		       m0 = (double)init[2][i], v0 = (double)init[3][i];
		double b1 = (double)h.beta1, b2 = (double)h.beta2, m = b1 * m0 + (1 - b1) * g,
		       v = b2 * v0 + (1 - b2) * g * g;
		double em = 8 * u * (fabs(b1 * m0) + fabs((1 - b1) * g)), ev = 8 * u * v;
		double step = (m / (double)h.c1) / (sqrt(v / (double)h.c2) + (double)h.eps);
		double want = w - (double)h.lr * (step + (double)h.decay * w);
		double es = v > 0 ? em / (double)h.c1 / sqrt(v / (double)h.c2) + 12 * u * fabs(step) : 0;
		double ew = (double)h.lr * (es + 8 * u * fabs(step) + 8 * u * fabs((double)h.decay * w)) +
			    2 * u * fabs(w);
		assert_true(fabs((double)got[2][i] - m) <= em);
		assert_true(fabs((double)got[3][i] - v) <= ev);
		if (!(fabs((double)got[0][i] - want) <= ew))
			fail_msg("w[%d] = %.9g, expected %.9g +- %.3g", i, (double)got[0][i], want, ew);
	}
	for (int a = 0; a < 4; a++) {
		free(init[a]);
		free(got[a]);
		if (a < 3)
			free(first[a]);
	}
}

static int begin(void **state)
{
	(void)state;
	isas = check_isas(&nisa);
	return 0;
}
static int end(void **state)
{
	(void)state;
	check_pools_stop();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_embed),
					   cmocka_unit_test(test_cross_entropy),
					   cmocka_unit_test(test_masked_logits),
					   cmocka_unit_test(test_sum_squares),
					   cmocka_unit_test(test_normal),
					   cmocka_unit_test(test_adamw),
					   cmocka_unit_test(test_adamw_and_conversion)};
	return cmocka_run_group_tests(tests, begin, end);
}
