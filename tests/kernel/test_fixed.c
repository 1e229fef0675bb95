/* Fixed-point contraction: published cases to the bit, and every row of the table against the rules
 * written once more (check_fixed). */
#include "kernel/gemm_fixed.h"
#include "support/kernel_check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

static uint32_t machine;

static bool runs_here(const k_gemm_row *r)
{
	return (r->precision >> K_FIXED & 1) && (r->isa & machine) == r->isa;
}

/* ---- Published cases ------------------------------------------------------------------ */

enum { TERMS = 33 };
typedef struct term {
	double x, w;
	int times; /* 0: once */
} term;
static const struct {
	const char *name;
	term t[6];
	double bias, want;
} cases[] = {
    {"2^-8 2^-8", {{0x1p-8, 0x1p-8, 0}}, 0, 0x1p-16},
    {"2^-9 2^-8", {{0x1p-9, 0x1p-8, 0}}, 0, 0},
    {"1.25 2^-8 2^-7", {{1.25 * 0x1p-8, 0x1p-7, 0}}, 0, 0x3p-16},
    {"-1.25 2^-8 2^-7", {{-1.25 * 0x1p-8, 0x1p-7, 0}}, 0, -0x3p-16},
    {"1.25 2^-8 2^-8, four times", {{1.25 * 0x1p-8, 0x1p-8, 4}}, 0, 0x4p-16},
    {"2048 + 1", {{2048, 1, 0}, {1, 1, 0}}, 0, 2050},
    {"4096 + 2", {{4096, 1, 0}, {2, 1, 0}}, 0, 4100},
    {"30000 + 1 - 30000", {{30000, 1, 0}, {1, 1, 0}, {-30000, 1, 0}}, 0, 1},
    {"2^-14 2^-2", {{0x1p-14, 0x1p-2, 0}}, 0, 0x1p-16},
    {"32752", {{32752, 1, 0}}, 0, 32752},
    {"32768", {{32768, 1, 0}}, 0, INFINITY},
    {"32768 by a weight of 16", {{2048, 16, 0}}, 0, INFINITY},
    {"32768 by a weight of 4096", {{8, 4096, 0}}, 0, INFINITY},
    {"16384 + 16376", {{16384, 1, 0}, {16376, 1, 0}}, 0, 32768},
    {"16384 + 16384", {{16384, 1, 2}}, 0, INFINITY},
    {"32768 - 32768 + 1", {{16384, 1, 2}, {-16384, 1, 2}, {1, 1, 0}}, 0, INFINITY},
    {"16384 + 2^-16 - 16384", {{16384, 1, 0}, {0x1p-16, 1, 0}, {-16384, 1, 0}}, 0, 0x1p-16},
    {"16384 + 2^-18 - 16384", {{16384, 1, 0}, {0x1p-18, 1, 0}, {-16384, 1, 0}}, 0, 0},
    {"2^-17", {{0x1p-17, 1, 0}}, 0, 0x1p-16},
    {"2^-18", {{0x1p-18, 1, 0}}, 0, 0},
    {"-4096 - 2", {{-4096, 1, 0}, {-2, 1, 0}}, 0, -4100},
    {"2049", {{2048, 1, 0}, {1, 1, 0}}, 0, 2050},
    {"-2049", {{-2048, 1, 0}, {-1, 1, 0}}, 0, -2050},
    {"4098", {{4096, 1, 0}, {2, 1, 0}}, 0, 4100},
    {"1 + 2^-11", {{1, 1, 0}, {0x1p-11, 1, 0}}, 0, 1 + 0x1p-10},
    {"65504 2^-4", {{65504, 0x1p-4, 0}}, 0, 4094},
    {"1.76 units, sum -17", {{1.875 * 0x1p-14, 1.875 * 0x1p-3, 0}}, 0, 0},
    {"1.98 units, sum -17", {{1.99 * 0x1p-14, 1.99 * 0x1p-3, 0}}, 0, 0},
    {"sum -17", {{1.9 * 0x1p-13, 1.5 * 0x1p-4, 0}}, 0, 0},
    {"subnormal, sum -17", {{0.99 * 0x1p-14, 0.2, 0}}, 0, 0},
    {"1.5 units, sum -16", {{1.5 * 0x1p-13, 0.125, 0}}, 0, 0x2p-16},
    {"subnormal, half a unit", {{0x1p-15, 0.25, 0}}, 0, 0x1p-16},
    {"bias -16384, 2 of 16384", {{16384, 1, 2}}, -16384, 16384},
    {"bias -16384, 3 of 16384", {{16384, 1, 3}}, -16384, INFINITY},
    {"bias 32", {{32736, 1, 0}}, 32, INFINITY},
    {"bias 2^-20", {{0, 1, 0}}, 0x1p-20, 0},
    {"bias 2^-17", {{0, 1, 0}}, 0x1p-17, 0x1p-16},
    {"bias 2^-17, x 2^-17", {{0x1p-17, 1, 0}}, 0x1p-17, 0x1p-15},
    {"32 of 1000", {{1000, 1, 32}}, 0, 32000},
    {"33 of 1000", {{1000, 1, 33}}, 0, INFINITY},
    {"NaN", {{NAN, 1, 0}}, 0, INFINITY},
    {"NaN 2^-2", {{NAN, 0x1p-2, 0}}, 0, 24576},      /* 0x7e00 is 1.5 2^16 */
    {"inf 2^-2", {{INFINITY, 0x1p-2, 0}}, 0, 16384}, /* 2^16 */
    {"-0", {{-0.0, 1, 0}}, 0, 0},
    {"bias -0", {{0, 1, 0}}, -0.0, 0},
};

/* Each case, at every place of a tile's row and column, alone and among zeros. */
static void test_cases(void **state)
{
	(void)state;
	for (int r = 0; r < gemm_table_size; r++) {
		const k_gemm_row *row = &gemm_table[r];
		if (!runs_here(row))
			continue;
		for (int i = 0; i < LENGTH(cases); i++) {
			half x[TERMS], w[TERMS];
			int k = 0;
			for (int j = 0; j < 6; j++) {
				const term *t = &cases[i].t[j];
				if (j > 0 && t->x == 0 && t->w == 0)
					break;
				for (int l = 0; l < MAX(t->times, 1); l++, k++) {
					x[k] = half_from_double(t->x);
					w[k] = half_from_double(t->w);
				}
			}
			half bias = half_from_double(cases[i].bias), y = 0x1234;
			k_gemm_args g = {.m = 1, .n = 1, .k = k, .precision = K_FIXED};
			g.a = (k_matrix){x, K_F16, TERMS, 1, {0}};
			g.b = (k_matrix){w, K_F16, 1, TERMS, {0}};
			g.c = (k_matrix){&y, K_F16, 1, 1, {0}};
			if (cases[i].bias != 0 || signbit(cases[i].bias))
				g.bias = (k_matrix){&bias, K_F16, 0, 0, {0}};
			void *scratch = malloc(k_gemm_scratch(row, &g, 1));
			assert_non_null(scratch);
			k_gemm(NULL, row, &g, scratch);
			free(scratch);
			half want = half_from_double(cases[i].want),
			     again = check_fixed(x, 1, w, 1, k, cases[i].bias);
			if (y != want || again != want)
				fail_msg("%s, %s: %g, expected %g; the rules give %g", row->name,
					 cases[i].name, half_to_float(y), half_to_float(want),
					 half_to_float(again));
		}
	}
}

/* ---- Random data ------------------------------------------------------------------------ */

/* What operands are drawn from. */
enum { NORMAL, SMALL, ALL_PATTERNS, LARGE, NEAR_OVERFLOW, TIES, KINDS };

static half draw(int kind, uint64_t seed, uint64_t i)
{
	double u = check_uniform(seed, i, -1, 1), v = check_uniform(seed + 1000, i, 0, 1);
	switch (kind) {
	case NORMAL: return half_from_double(2 * u);
	case SMALL:
		return half_from_double(u * ldexp(1, -(int)(v * 17))); /* around the cut-off, subnormals */
	case ALL_PATTERNS: return (half)(65536 * v);
	case LARGE: return half_from_double(u * ldexp(1, (int)(v * 9))); /* products up to 2^16 */
	case NEAR_OVERFLOW: return half_from_double(90 * (u + 0.4));     /* some sums pass 2^15 */
	default: return half_from_double(floor(32 * u) * ldexp(1, -9));  /* products end in halves */
	}
}

static void compare(const k_gemm_row *row, pool *p, int64_t m, int64_t n, int64_t k, int64_t batch, int ka,
		    int kb, bool biased, bool wide, bool column_major, uint64_t seed)
{
	half *a = malloc((size_t)(batch * m * k) * 2 + 2), *b = malloc((size_t)(k * n) * 2 + 2),
	     *bias = malloc((size_t)m * 2);
	half *c = calloc((size_t)(batch * m * n), 4);
	float *c32 = (float *)(void *)c;
	assert_true(a && b && bias && c);
	for (int64_t i = 0; i < batch * m * k; i++)
		a[i] = draw(ka, seed, (uint64_t)i);
	for (int64_t i = 0; i < k * n; i++)
		b[i] = draw(kb, seed + 1, (uint64_t)i);
	for (int64_t i = 0; i < m; i++)
		bias[i] = draw(ka, seed + 2, (uint64_t)i) & 0xbfff; /* finite */
	k_gemm_args g = {.m = m, .n = n, .k = k, .nbatch = 1, .batch = {batch}, .precision = K_FIXED};
	g.a = (k_matrix){a, K_F16, k, 1, {m * k}};
	g.b = (k_matrix){b, K_F16, n, 1, {0}};
	g.c = (k_matrix){c, wide ? K_F32 : K_F16, column_major ? 1 : n, column_major ? m : 1, {m * n}};
	if (biased)
		g.bias = (k_matrix){bias, K_F16, 1, 0, {0}};
	size_t bytes = k_gemm_scratch(row, &g, pool_threads(p));
	unsigned char *scratch = malloc(bytes + 32);
	assert_non_null(scratch);
	memset(scratch, 0xff, bytes + 32);
	k_gemm(p, row, &g, scratch);
	for (int i = 0; i < 32; i++)
		assert_int_equal(scratch[bytes + i], 0xff);
	for (int64_t q = 0; q < batch; q++)
		for (int64_t i = 0; i < m; i++)
			for (int64_t j = 0; j < n; j++) {
				int64_t at = q * m * n + i * g.c.rs + j * g.c.cs;
				half want = check_fixed(a + (q * m + i) * k, 1, b + j, n, k,
							biased ? (double)half_to_float(bias[i]) : 0),
				     got = wide ? half_from_float(c32[at]) : c[at];
				if (got != want || (wide && c32[at] != half_to_float(got)))
					fail_msg(
					    "%s %dx%dx%d batch %d, data %d %d, bias %d, fp32 %d, columns "
					    "%d, seed %d: [%d][%d][%d] is %.9g, expected %.9g",
					    row->name, (int)m, (int)n, (int)k, (int)batch, ka, kb, biased,
					    wide, column_major, (int)seed, (int)q, (int)i, (int)j,
					    half_to_float(got), half_to_float(want));
			}
	free(a);
	free(b);
	free(bias);
	free(c);
	free(scratch);
}

static void test_random(void **state)
{
	(void)state;
	uint64_t seed = 1;
	for (int r = 0; r < gemm_table_size; r++) {
		if (!runs_here(&gemm_table[r]))
			continue;
		for (int ka = 0; ka < KINDS; ka++)
			for (int kb = 0; kb < KINDS; kb++)
				for (int flags = 0; flags < 8; flags++, seed++)
					compare(&gemm_table[r], NULL, 1 + (int64_t)seed % 27,
						1 + (int64_t)seed % 43,
						(int64_t)(seed % 7 == 0 ? seed % 3 : 1 + seed % 61), 1, ka,
						kb, flags & 1, flags >> 1 & 1, flags >> 2 & 1, seed);
	}
}

/* Several blocks and batches, at any number of threads. */
static void test_blocks_and_threads(void **state)
{
	(void)state;
	pool *const *pools = check_pools();
	for (int r = 0; r < gemm_table_size; r++) {
		const k_gemm_row *row = &gemm_table[r];
		if (!runs_here(row))
			continue;
		for (int t = 0; t < CHECK_POOLS; t++) {
			compare(row, pools[t], row->mc + 5, row->nc + 3, 21, 1, NORMAL, SMALL, true, false,
				false, 7);
			compare(row, pools[t], 19, 35, 40, 5, LARGE, NORMAL, true, true, false, 8);
		}
	}
}

/* Elements that are neighbours along no axis, backwards along one. */
static void test_strides(void **state)
{
	(void)state;
	enum { M = 21, N = 3, K = 37 };
	for (int r = 0; r < gemm_table_size; r++) {
		const k_gemm_row *row = &gemm_table[r];
		if (!runs_here(row))
			continue;
		for (int kind = 0; kind < KINDS; kind++) {
			half a[M * K * 3], b[N * K * 2], bias[M * 2], y[M * N * 2];
			for (int i = 0; i < LENGTH(a); i++)
				a[i] = draw(kind, 77, (uint64_t)i);
			for (int i = 0; i < LENGTH(b); i++)
				b[i] = draw(NORMAL, 78, (uint64_t)i);
			for (int i = 0; i < LENGTH(bias); i++)
				bias[i] = draw(NORMAL, 79, (uint64_t)i);
			k_gemm_args g = {.m = M, .n = N, .k = K, .precision = K_FIXED};
			g.a = (k_matrix){a + 3 * (K - 1), K_F16, 3 * K, -3, {0}};
			g.b = (k_matrix){b, K_F16, 2 * N, 2, {0}};
			g.c = (k_matrix){y, K_F16, 2 * N, 2, {0}};
			g.bias = (k_matrix){bias, K_F16, 2, 0, {0}};
			void *scratch = malloc(k_gemm_scratch(row, &g, 1));
			assert_non_null(scratch);
			k_gemm(NULL, row, &g, scratch);
			free(scratch);
			for (int i = 0; i < M; i++)
				for (int j = 0; j < N; j++) {
					half want = check_fixed(a + 3 * (i * K + K - 1), -3, b + 2 * j, 2 * N,
								K, (double)half_to_float(bias[2 * i]));
					if (y[2 * (i * N + j)] != want)
						fail_msg("%s, data %d: [%d][%d] is %g, expected %g",
							 row->name, kind, i, j,
							 half_to_float(y[2 * (i * N + j)]),
							 half_to_float(want));
				}
		}
	}
}

/* All products that a pair of exponents around the cut-off can give: 2^11 significands against some. */
static void test_products(void **state)
{
	(void)state;
	enum { M = 2048, N = 64 };
	static half x[M], w[N], y[M * N], want[M * N];
	for (int e = -18; e <= -10; e++) {
		for (int i = 0; i < M; i++) /* exponents -14 (also subnormal) and -13 */
			x[i] = (half)(i + 512);
		for (int j = 0; j < N; j++)
			w[j] =
			    (half)((uint32_t)(e + 14 + 15) << 10 | (uint32_t)(j * 16) | (j & 1 ? 0x8000 : 0));
		for (int i = 0; i < M * N; i++)
			want[i] = check_fixed(&x[i / N], 0, &w[i % N], 0, 1, 0);
		for (int r = 0; r < gemm_table_size; r++) {
			const k_gemm_row *row = &gemm_table[r];
			if (!runs_here(row))
				continue;
			k_gemm_args g = {.m = M, .n = N, .k = 1, .precision = K_FIXED};
			g.a = (k_matrix){x, K_F16, 1, 1, {0}};
			g.b = (k_matrix){w, K_F16, 1, 1, {0}};
			g.c = (k_matrix){y, K_F16, N, 1, {0}};
			void *scratch = malloc(k_gemm_scratch(row, &g, 1));
			assert_non_null(scratch);
			k_gemm(NULL, row, &g, scratch);
			free(scratch);
			for (int i = 0; i < M * N; i++)
				if (y[i] != want[i])
					fail_msg("%s: %04x %04x gives %04x", row->name, x[i / N], w[i % N],
						 y[i]);
		}
	}
}

static void test_selection(void **state)
{
	(void)state;
	static const struct {
		int64_t n;
		uint32_t isa;
		const char *name;
	} want[] = {
	    {64, 0, "fixed_portable_4x8"},
	    {1, 0, "fixed_portable_4x8"},
#ifdef __x86_64__
	    {64, ISA_AVX2, "fixed_avx2_4x16"},
	    {1, ISA_AVX2, "fixed_vector_avx2"},
	    {64, ISA_AVX2 | ISA_AVX512, "fixed_avx512_12x32"},
	    {4, ISA_AVX2 | ISA_AVX512, "fixed_vector_avx512"},
#endif
#ifdef __aarch64__
	    {64, ISA_NEON, "fixed_neon_8x8"},
	    {3, ISA_NEON, "fixed_vector_neon"},
#endif
	};
	for (int i = 0; i < LENGTH(want); i++) {
		k_gemm_args g = {.m = 64, .n = want[i].n, .k = 64, .precision = K_FIXED};
		assert_string_equal(k_gemm_name(k_gemm_select(&g, want[i].isa)), want[i].name);
	}
}

static int begin(void **state)
{
	(void)state;
	machine = isa_detect();
	print_message("rows tested:");
	for (int i = 0; i < gemm_table_size; i++)
		if (runs_here(&gemm_table[i]))
			print_message(" %s", gemm_table[i].name);
	print_message("\n");
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
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_cases),
					   cmocka_unit_test(test_random),
					   cmocka_unit_test(test_blocks_and_threads),
					   cmocka_unit_test(test_strides),
					   cmocka_unit_test(test_products),
					   cmocka_unit_test(test_selection)};
	return cmocka_run_group_tests(tests, begin, end);
}
