/* Products of 8-bit integers, every row of the table, against integer arithmetic in 64 bits: equal, always.
 */
#include "kernel/gemm_int.h"
#include "support/kernel_amx_emulator.h"
#include "support/kernel_check.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* How bytes are drawn: all of them, those of extremes, all the same. */
typedef enum data { ANY, EXTREME, LOWEST, HIGHEST } data;

typedef struct setup {
	int64_t m, n, k, batch;
	k_type ta, tb;
	bool columns_a, columns_b, columns_c; /* first */
	int gap, step;                        /* between lines and elements */
	data data;
} setup;

static uint8_t byte(data how, k_type type, uint64_t seed, uint64_t i)
{
	static const uint8_t extreme[] = {0, 1, 127, 128, 129, 255}; /* of either type */
	switch (how) {
	case ANY: return (uint8_t)check_uniform(seed, i, 0, 256);
	case EXTREME: return extreme[(int)check_uniform(seed, i, 0, 6)];
	case LOWEST: return type == K_U8 ? 0 : 0x80;
	default: return type == K_U8 ? 255 : 127;
	}
}

static int64_t value(const k_matrix *x, int64_t i, int64_t j, int64_t b)
{
	int64_t at = i * x->rs + j * x->cs + b * x->bs[0];
	return x->type == K_U8 ? ((const uint8_t *)x->data)[at] : ((const int8_t *)x->data)[at];
}

/* What gemm_int.h says of one sum. */
static int32_t expected(const k_gemm_args *g, int64_t i, int64_t j, int64_t b)
{
	int64_t sum = 0;
	for (int64_t p = 0; p < g->k; p++) {
		sum += value(&g->a, i, p, b) * value(&g->b, p, j, b);
		if (sum >= INT64_C(1) << 31)
			return INT32_MAX;
		if (sum <= -(INT64_C(1) << 31))
			return INT32_MIN;
	}
	return (int32_t)sum;
}

static k_matrix layout(int64_t rows, int64_t cols, k_type type, bool columns, int gap, int step,
		       int64_t *size)
{
	int64_t line = (columns ? rows : cols) * step + gap;
	*size = line * (columns ? cols : rows);
	return (k_matrix){
	    .type = type, .rs = columns ? step : line, .cs = columns ? line : step, .bs = {*size}};
}

static void check(const k_gemm_row *row, const setup *s, pool *p, uint64_t seed)
{
	int64_t na, nb, nc;
	k_gemm_args g = {.m = s->m,
			 .n = s->n,
			 .k = s->k,
			 .nbatch = 1,
			 .batch = {s->batch},
			 .a = layout(s->m, s->k, s->ta, s->columns_a, s->gap, s->step, &na),
			 .b = layout(s->k, s->n, s->tb, s->columns_b, s->gap, s->step, &nb),
			 .c = layout(s->m, s->n, K_I32, s->columns_c, s->gap, s->step, &nc),
			 .precision = K_EXACT};
	na *= s->batch;
	nb *= s->batch;
	nc *= s->batch;
	/* of their exact sizes: a sanitizer sees a read beyond */
	uint8_t *a = malloc((size_t)na + !na), *b = malloc((size_t)nb + !nb);
	int32_t *c = malloc((size_t)nc * sizeof *c + 1);
	bool *inside = calloc((size_t)nc + 1, sizeof *inside);
	size_t bytes = k_gemm_scratch(row, &g, pool_threads(p));
	unsigned char *scratch = malloc(bytes + 32);
	assert_true(a && b && c && inside && scratch);
	for (int64_t i = 0; i < na; i++)
		a[i] = byte(s->data, s->ta, seed, (uint64_t)i);
	for (int64_t i = 0; i < nb; i++)
		b[i] = byte(s->data, s->tb, seed + 1, (uint64_t)i);
	for (int64_t i = 0; i < nc; i++)
		c[i] = 0x5a5a5a5a;
	memset(scratch, 0xa5, bytes + 32); /* what is not packed must not be used */
	g.a.data = a;
	g.b.data = b;
	g.c.data = c;
	k_gemm(p, row, &g, scratch);
	for (int i = 0; i < 32; i++)
		assert_int_equal(scratch[bytes + (size_t)i], 0xa5);
	for (int64_t q = 0; q < s->batch; q++)
		for (int64_t i = 0; i < s->m; i++)
			for (int64_t j = 0; j < s->n; j++) {
				int64_t at = i * g.c.rs + j * g.c.cs + q * g.c.bs[0];
				int32_t want = expected(&g, i, j, q);
				inside[at] = true;
				if (c[at] != want)
					fail_msg(
					    "%s %dx%dx%d types %d %d columns %d %d %d step %d: [%d][%d][%d] "
					    "is %d, not %d",
					    row->name, (int)s->m, (int)s->n, (int)s->k, s->ta, s->tb,
					    s->columns_a, s->columns_b, s->columns_c, s->step, (int)q, (int)i,
					    (int)j, c[at], want);
			}
	for (int64_t i = 0; i < nc; i++)
		if (!inside[i])
			assert_int_equal(c[i], 0x5a5a5a5a);
	free(a);
	free(b);
	free(c);
	free(inside);
	free(scratch);
}

static const k_type types[] = {K_I8, K_U8};

/* What may run here, tiles in an emulator if need be. */
static uint32_t runnable(void)
{
	uint32_t machine = isa_detect();
	/* asked for each time: cmocka takes over SIGILL before each test */
	if (amx_provide() == AMX_EMULATED && machine & ISA_AVX512)
		machine |= ISA_AMX_INT8;
	return machine;
}

/* Calls `body` for every row that runs here, with each pair of types. */
static void each(void (*body)(const k_gemm_row *r, setup *s))
{
	const uint32_t machine = runnable();
	int rows = 0;
	for (int i = 0; i < gemm_table_size; i++) {
		const k_gemm_row *r = &gemm_table[i];
		if (!r->integer || (r->isa & machine) != r->isa)
			continue;
		rows++;
		for (int t = 0; t < 4; t++) {
			setup s = {.batch = 1, .ta = types[t & 1], .tb = types[t >> 1], .step = 1};
			body(r, &s);
		}
	}
	assert_true(rows > 0);
}

/* All of 1 .. tile + 1 in each dimension, the other two at a few sizes. */
static void tails(const k_gemm_row *r, setup *s)
{
	uint64_t seed = 1;
	const int sizes[][2] = {{1, 1}, {r->mr, r->nr}, {r->mr + 1, r->nr + 1}, {2 * r->mr - 1, 2}};
	for (int c = 0; c < LENGTH(sizes); c++) {
		for (int k = 1; k <= 2 * r->kr + 1; k++) {
			s->m = sizes[c][0];
			s->n = sizes[c][1];
			s->k = k;
			check(r, s, NULL, seed++);
		}
		for (int m = 1; m <= r->mr + 1; m++) {
			s->m = m;
			s->k = 1 + sizes[c][0] % 37;
			check(r, s, NULL, seed++);
		}
		s->m = sizes[c][0];
		for (int n = 1; n <= r->nr + 1; n++) {
			s->n = n;
			s->k = 63 + c; /* around a square of packing */
			check(r, s, NULL, seed++);
		}
	}
}
static void test_tails(void **state)
{
	(void)state;
	each(tails);
}

static void layouts(const k_gemm_row *r, setup *s)
{
	for (int bits = 0; bits < 16; bits++) {
		s->m = r->mr + 5;
		s->n = r->nr + 3;
		s->k = 71;
		s->columns_a = bits & 1;
		s->columns_b = bits >> 1 & 1;
		s->columns_c = bits >> 2 & 1;
		s->step = bits >> 3 & 1 ? 2 : 1;
		s->gap = 3;
		s->batch = 2;
		check(r, s, NULL, 100 + (uint64_t)bits);
	}
}
static void test_layouts(void **state)
{
	(void)state;
	each(layouts);
}

/* Several blocks in every dimension, at any number of threads. */
static void blocks(const k_gemm_row *r, setup *s)
{
	const int kc = r->kc == INT_WHOLE_K ? 300 : r->kc;
	const int64_t shape[][4] = {{2 * r->mc + 5, r->nr * 3 + 1, kc + 9, 1},
				    {40, r->nc + 9, 2 * kc + 1, 1},
				    {50, 40, 33, 7},
				    {3, 5, 0, 2}};
	for (int c = 0; c < LENGTH(shape); c++) {
		s->m = shape[c][0];
		s->n = shape[c][1];
		s->k = shape[c][2];
		s->batch = shape[c][3];
		s->data = s->k > 2000 ? EXTREME : ANY;
		for (int t = 0; t < CHECK_POOLS; t++)
			check(r, s, check_pools()[t], 7);
	}
}
static void test_blocks_and_threads(void **state)
{
	(void)state;
	each(blocks);
}

/* Everything at its end, over the longest K whose sums fit: -128 * -128 * k, 255 * 255 * k. */
static void extremes(const k_gemm_row *r, setup *s)
{
	const data all[] = {EXTREME, LOWEST, HIGHEST};
	for (int d = 0; d < LENGTH(all); d++) {
		s->data = all[d];
		s->m = 2;
		s->n = 3;
		s->k = INT32_MAX / (gemm_int_largest(s->ta) * gemm_int_largest(s->tb));
		assert_false(gemm_int_saturates(s->ta, s->tb, s->k));
		check(r, s, NULL, 9);
		s->m = r->mr + 1;
		s->n = r->nr + 1;
		s->k = 70;
		check(r, s, NULL, 10);
	}
}
static void test_extremes(void **state)
{
	(void)state;
	each(extremes);
}

/* Beyond 2^31, by the row that is selected. */
static void test_saturation(void **state)
{
	(void)state;
	enum { K = 131073 };
	int8_t *x = malloc(2 * K), *w = malloc(2 * K);
	assert_true(x && w);
	for (int t = 0; t < 4; t++) {
		/* the largest product, -1 times it, and one that comes back from beyond */
		const k_type tx = types[t & 1], tw = types[t >> 1];
		const int8_t big_x = tx == K_U8 ? -1 : -128, big_w = tw == K_U8 ? -1 : -128;
		const int64_t most = gemm_int_largest(tx) * gemm_int_largest(tw);
		const int64_t just = (INT64_C(1) << 31) / most; /* products that do not reach it, or just */
		for (int c = 0; c < 4; c++) {
			const int64_t k = c == 0 ? just : c == 1 ? just + 1 : 2 * just + 1;
			if (k > 2 * K)
				continue;
			const bool back = c == 3, negative = c == 2;
			if ((back || negative) && tx == K_U8 && tw == K_U8)
				continue; /* nothing is negative */
			for (int64_t p = 0; p < k; p++) {
				x[p] = big_x;
				w[p] = big_w;
				if (negative || (back && p > k / 2)) {
					if (tx == K_I8)
						x[p] = tw == K_I8 ? 127 : -128;
					else
						w[p] = -128;
				} else if (tx != tw) { /* of the signed one, the largest positive */
					if (tx == K_I8)
						x[p] = 127;
					else
						w[p] = 127;
				}
			}
			int32_t y = 5;
			k_gemm_args g = {.m = 1, .n = 1, .k = k, .precision = K_EXACT};
			g.a = (k_matrix){x, tx, 1, 1, {0}};
			g.b = (k_matrix){w, tw, 1, 1, {0}};
			g.c = (k_matrix){&y, K_I32, 1, 1, {0}};
			assert_int_equal(k_gemm_saturates(&g), k * most > INT32_MAX);
			const k_gemm_row *r = k_gemm_select(&g, isa_detect());
			void *scratch = malloc(k_gemm_scratch(r, &g, 1));
			assert_non_null(scratch);
			k_gemm(NULL, r, &g, scratch);
			free(scratch);
			assert_int_equal(y, expected(&g, 0, 0, 0));
			if (c == 1 && tx == tw)
				assert_int_equal(y, INT32_MAX);
			if (negative)
				assert_int_equal(y, INT32_MIN);
		}
	}
	free(x);
	free(w);
}

static void test_selection(void **state)
{
	(void)state;
	enum { avx512 = ISA_AVX2 | ISA_AVX512 };
	static const struct {
		bool long_k;
		uint32_t isa;
		const char *name;
	} want[] = {
	    {false, 0, "int_portable_4x8"},
	    {true, 0, "int_portable_4x8"},
#ifdef __x86_64__
	    {false, ISA_AVX2, "int_avx2_6x16"},
	    {false, avx512, "int_avx2_6x16"},
	    {false, avx512 | ISA_AVX512_VNNI, "int_avx512vnni_12x32"},
	    {false, avx512 | ISA_AVX512_VNNI | ISA_AMX_INT8, "int_amx_32x32"},
	    {true, avx512 | ISA_AVX512_VNNI, "int_portable_4x8"},
#endif
#ifdef __aarch64__
	    {false, ISA_NEON, "int_portable_4x8"},
	    {false, ISA_NEON | ISA_NEON_DOT, "int_neondot_8x12"},
	    {false, ISA_NEON | ISA_NEON_DOT | ISA_NEON_I8MM, "int_neoni8mm_8x12"},
	    {true, ISA_NEON | ISA_NEON_DOT | ISA_NEON_I8MM, "int_portable_4x8"},
#endif
	};
	for (int i = 0; i < LENGTH(want); i++)
		for (int t = 0; t < 4; t++) {
			k_gemm_args g = {.m = 64, .n = t ? 64 : 1, .k = want[i].long_k ? 1 << 17 : 64};
			g.a.type = types[t & 1];
			g.b.type = types[t >> 1];
			g.c.type = K_I32;
			assert_string_equal(k_gemm_name(k_gemm_select(&g, want[i].isa)), want[i].name);
		}
}

static int begin(void **state)
{
	(void)state;
	const uint32_t machine = runnable();
	print_message("rows tested:");
	for (int i = 0; i < gemm_table_size; i++)
		if (gemm_table[i].integer && (gemm_table[i].isa & machine) == gemm_table[i].isa)
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
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_tails),
					   cmocka_unit_test(test_layouts),
					   cmocka_unit_test(test_blocks_and_threads),
					   cmocka_unit_test(test_extremes),
					   cmocka_unit_test(test_saturation),
					   cmocka_unit_test(test_selection)};
	return cmocka_run_group_tests(tests, begin, end);
}
