/* Counters of contractions against a count of every product in integers. */
#include "kernel/kernel.h"
#include "support/kernel_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* Whether the product of two operands that are not 0 contributes: rules 1 to 3 of kernel/gemm_fixed.h. */
static bool contributes(half x, half w)
{
	int fx = x >> 10 & 31, fw = w >> 10 & 31, e = MAX(fx, 1) + MAX(fw, 1) - 30;
	int64_t p = (int64_t)((x & 1023) + (fx ? 1024 : 0)) * ((w & 1023) + (fw ? 1024 : 0));
	return e > 3 ||
	       (e >= -16 && p * (INT64_C(1) << (e + 16)) >= INT64_C(1) << 19); /* p 2^(e - 20) >= 2^-17 */
}

typedef struct product {
	int64_t m, n, k, batch;
	half *a, *b, *bias; /* a[batch][m][k], b[batch][k][n], bias[m] */
	bool turned;        /* A is stored [k][m], B [n][k], C [n][m] */
	bool biased, shared_b;
} product;

static int64_t at_a(const product *q, int64_t z, int64_t i, int64_t e)
{
	return z * q->m * q->k + (q->turned ? e * q->m + i : i * q->k + e);
}
static int64_t at_b(const product *q, int64_t z, int64_t e, int64_t j)
{
	return (q->shared_b ? 0 : z) * q->k * q->n + (q->turned ? j * q->k + e : e * q->n + j);
}

static bool finite16(half h) { return (h & 0x7c00) != 0x7c00; }

static k_counts brute_force(const product *q, const half *c, k_precision precision)
{
	k_counts n = {.results = q->batch * q->m * q->n};
	for (int64_t z = 0; z < q->batch; z++)
		for (int64_t i = 0; i < q->m; i++)
			for (int64_t j = 0; j < q->n; j++) {
				const half y = c[z * q->m * q->n + (q->turned ? j * q->m + i : i * q->n + j)];
				bool finite = true, met = false, kept = false;
				int64_t sum[2] = {0}; /* in units of 2^-48, of 2^0 */
				if (q->biased) {
					finite = finite16(q->bias[i]);
					met = q->bias[i] & 0x7fff;
					kept = fabsf(half_to_float(q->bias[i])) >= 0x1p-17f;
				}
				for (int64_t e = 0; e < q->k; e++) {
					const half x = q->a[at_a(q, z, i, e)], w = q->b[at_b(q, z, e, j)];
					finite &= finite16(x) && finite16(w);
					if (!(x & 0x7fff) || !(w & 0x7fff))
						continue;
					met = true;
					n.products++;
					if (precision != K_FIXED) {
						double p =
						    (double)half_to_float(x) * (double)half_to_float(w);
						if (!isfinite(p))
							continue;
						sum[0] += (int64_t)(fmod(p, 1) * 0x1p48);
						sum[1] += (int64_t)trunc(p);
					} else if (contributes(x, w))
						kept = true;
					else
						n.lost++;
				}
				if (precision != K_FIXED) {
					kept = false;
					const int64_t one = INT64_C(1) << 48;
					met = sum[0] % one || sum[1] + sum[0] / one;
				}
				if ((y & 0x7fff) == 0x7c00)
					n.overflowed += finite;
				else if ((y & 0x7fff) == 0)
					n.vanished += met && !kept;
				else if (finite16(y))
					n.largest = fmaxf(n.largest, fabsf(half_to_float(y)));
			}
	return n;
}

/* What operands are drawn from: every pattern, around the cut-off, mostly zeros, subnormals and their
 * partners, small enough to lose everything, large. */
enum { PATTERNS, CUT_OFF, ZEROS, SUBNORMALS, TINY, LARGE, KINDS };

static half draw(int kind, uint64_t seed, uint64_t i)
{
	const double u = check_uniform(seed, i, -1, 1), v = check_uniform(seed + 1000, i, 0, 1);
	switch (kind) {
	case PATTERNS: return (half)(65536 * v);
	case CUT_OFF: return half_from_double(u * ldexp(1, -(int)(v * 17)));
	case ZEROS: return v < 0.9 ? (u < 0 ? 0x8000 : 0) : half_from_double(u * 0x1p-9);
	case SUBNORMALS:
		return v < 0.5 ? (half)(1024 * fabs(u)) : half_from_double(u * ldexp(1, (int)(18 * v) - 10));
	case TINY: return half_from_double(u * 0x1p-10);
	default: return half_from_double(u * 200);
	}
}

static void compare(int64_t m, int64_t n, int64_t k, int64_t batch, int ka, int kb, int flags, uint64_t seed)
{
	product q = {.m = m,
		     .n = n,
		     .k = k,
		     .batch = batch,
		     .turned = flags & 1,
		     .biased = flags & 2,
		     .shared_b = flags & 4};
	q.a = malloc((size_t)(batch * m * k) * 2 + 2);
	q.b = malloc((size_t)(batch * k * n) * 2 + 2);
	q.bias = malloc((size_t)m * 2 + 2);
	half *c = malloc((size_t)(batch * m * n) * 2 + 2);
	assert_true(q.a && q.b && q.bias && c);
	for (int64_t i = 0; i < batch * m * k; i++)
		q.a[i] = draw(ka, seed, (uint64_t)i);
	for (int64_t i = 0; i < batch * k * n; i++)
		q.b[i] = draw(kb, seed + 1, (uint64_t)i);
	for (int64_t i = 0; i < m; i++)
		q.bias[i] =
		    i % 3 ? draw(TINY, seed + 2, (uint64_t)i) & 0x1ff : draw(ka, seed + 3, (uint64_t)i);
	k_gemm_args g = {.m = m, .n = n, .k = k, .nbatch = 1, .batch = {batch}, .precision = K_FIXED};
	g.a = (k_matrix){q.a, K_F16, q.turned ? 1 : k, q.turned ? m : 1, {m * k}};
	g.b = (k_matrix){q.b, K_F16, q.turned ? 1 : n, q.turned ? k : 1, {q.shared_b ? 0 : k * n}};
	g.c = (k_matrix){c, K_F16, q.turned ? 1 : n, q.turned ? m : 1, {m * n}};
	if (q.biased)
		g.bias = (k_matrix){q.bias, K_F16, 1, 0, {0}};
	for (int exact = 0; exact < 2; exact++) {
		if (exact) {
			g.precision = K_EXACT;
			g.bias.data = NULL;
			q.biased = false;
		}
		const k_gemm_row *row = k_gemm_select(&g, isa_detect());
		void *scratch = malloc(k_gemm_scratch(row, &g, 1));
		assert_non_null(scratch);
		k_gemm(NULL, row, &g, scratch);
		free(scratch);
		k_counts want = brute_force(&q, c, g.precision);
		int sets;
		const uint32_t *isa = check_isas(&sets);
		for (int t = 0; t < CHECK_POOLS * sets; t++) {
			k_counts got = {.products = 1,
					.lost = 2,
					.results = 3,
					.overflowed = 4,
					.vanished = 5,
					.largest = 0};
			k_gemm_count(check_pools()[t % CHECK_POOLS], isa[t / CHECK_POOLS], &g, &got);
			if (got.products - 1 != want.products || got.lost - 2 != want.lost ||
			    got.results - 3 != want.results || got.overflowed - 4 != want.overflowed ||
			    got.vanished - 5 != want.vanished || got.largest != want.largest)
				fail_msg("%d x %dx%dx%d, data %d %d, flags %d, exact %d, pool and set %d: "
					 "products "
					 "%lld lost %lld "
					 "overflowed %lld vanished %lld largest %g, expected %lld %lld %lld "
					 "%lld %g",
					 (int)batch, (int)m, (int)n, (int)k, ka, kb, flags, exact, t,
					 (long long)got.products - 1, (long long)got.lost - 2,
					 (long long)got.overflowed - 4, (long long)got.vanished - 5,
					 (double)got.largest, (long long)want.products, (long long)want.lost,
					 (long long)want.overflowed, (long long)want.vanished,
					 (double)want.largest);
		}
	}
	free(q.a), free(q.b), free(q.bias), free(c);
}

static void test_random(void **state)
{
	(void)state;
	uint64_t seed = 1;
	for (int ka = 0; ka < KINDS; ka++)
		for (int kb = 0; kb < KINDS; kb++)
			for (int flags = 0; flags < 8; flags++, seed++)
				compare(1 + (int64_t)(seed * 7 % 83), 1 + (int64_t)(seed * 5 % 71),
					(int64_t)(seed * 11 % 97), 1 + (int64_t)(seed % 3), ka, kb, flags,
					seed);
}

/* Every pair of a subnormal and a number around [2^-2, 2^7), and of numbers around the cut-off. */
static void test_all_pairs(void **state)
{
	(void)state;
	enum { N = 1024 };
	static half a[N], b[N], c[N * N];
	k_gemm_args g = {.m = N, .n = N, .k = 1, .precision = K_FIXED};
	g.a = (k_matrix){a, K_F16, 1, 1, {0}};
	g.b = (k_matrix){b, K_F16, 1, 1, {0}};
	g.c = (k_matrix){c, K_F16, N, 1, {0}};
	for (int field = 0; field < 25; field++) /* A: all subnormals, then all numbers of exponent -9 */
		for (int normal = 0; normal < 2; normal++) {
			int64_t lost = 0;
			for (int i = 0; i < N; i++) {
				a[i] = (half)(i | (normal ? 6 << 10 : 0));
				b[i] = (half)(i | field << 10);
			}
			for (int i = 0; i < N; i++)
				for (int j = 0; j < N; j++)
					lost += a[i] && b[j] && !contributes(a[i], b[j]);
			int sets;
			const uint32_t *isa = check_isas(&sets);
			for (int s = 0; s < sets; s++) {
				k_counts got = {0};
				k_gemm_count(NULL, isa[s], &g, &got);
				assert_int_equal(got.lost, lost);
				assert_int_equal(got.vanished, lost); /* C is 0 */
			}
		}
}

/* fp32 operands: what is 0, what is finite. */
static void test_single(void **state)
{
	(void)state;
	float a[6] = {1, 0, INFINITY, 1e-30f, 2, 3}, b[6] = {1e30f, 1e30f, 1, -0.0f, 1, NAN}, c[4];
	k_gemm_args g = {.m = 2, .n = 2, .k = 3};
	g.a = (k_matrix){a, K_F32, 1, 2, {0}}; /* rows 1 inf 2, 0 1e-30 3 */
	g.b = (k_matrix){b, K_F32, 2, 1, {0}};
	g.c = (k_matrix){c, K_F32, 2, 1, {0}};
	c[0] = INFINITY, c[1] = -3, c[2] = -INFINITY, c[3] = 0;
	k_counts n = {0};
	k_gemm_count(NULL, isa_detect(), &g, &n);
	assert_int_equal(n.products, 2 + 2 + 4);
	assert_int_equal(n.results, 4);
	assert_int_equal(n.overflowed, 1);
	assert_int_equal(n.lost + n.vanished, 0);
	assert_true(n.largest == 3);
}

static int end(void **state)
{
	(void)state;
	check_pools_stop();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_random), cmocka_unit_test(test_all_pairs),
					   cmocka_unit_test(test_single)};
	return cmocka_run_group_tests(tests, NULL, end);
}
