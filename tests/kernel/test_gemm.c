/* Every row of the GEMM table against double precision: tails, layouts, batches, extremes.
 *
 * The bound.  For c = sum of k products a_i b_i computed with fp32 roundings in any order,
 *   |c - exact| <= gamma_n sum |a_i b_i|,  gamma_n = n u / (1 - n u),  u = 2^-24
 * (Higham, Accuracy and Stability, 3.1), n the number of roundings on the longest path: at most one
 * per product and one per addition, 2k + 4 with blocks and accumulation.  A bf16 operand adds 2^-8
 * relative error of its own: 2^-7 + 2^-16 per product; K_NEAR leaves out 2^-16 of one.  gemm_avx512fp16.c
 * derives what rounding sums of 32 products to fp16 adds.  An fp16 result is rounded once more. */
#include "base/random.h"
#include "kernel/gemm.h"
#include "support/kernel_amx_emulator.h"
#include "support/kernel_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static amx_provider provider;
static uint32_t machine; /* what may run here, emulated or not */

typedef struct layout {
	bool column_major;
	int gap;      /* unused elements between rows (columns) */
	bool strided; /* every second element only */
} layout;

typedef struct setup {
	int64_t m, n, k, batch;
	k_type ta, tb, tc;
	layout a, b, c;
	bool broadcast_b, accumulate;
	k_precision precision;
	float (*value)(uint64_t seed, uint64_t i);
	bool exact; /* all partial sums are representable: no error allowed */
} setup;

typedef struct tensor {
	k_matrix x;
	void *memory;
	int64_t size; /* elements */
} tensor;

static int64_t extent(int64_t lines, int64_t length, const layout *l, int64_t *line, int64_t *step)
{
	*step = l->strided ? 2 : 1;
	*line = length * *step + l->gap;
	return lines * *line;
}

static void make(tensor *t, int64_t batch, int64_t rows, int64_t cols, k_type type, const layout *l,
		 bool broadcast)
{
	int64_t line, step;
	int64_t one =
	    l->column_major ? extent(cols, rows, l, &line, &step) : extent(rows, cols, l, &line, &step);
	t->size = one * (broadcast ? 1 : batch);
	t->memory = malloc((size_t)(t->size * (type == K_F16 ? 2 : 4)) + 64);
	assert_non_null(t->memory);
	t->x = (k_matrix){.data = t->memory,
			  .type = type,
			  .rs = l->column_major ? step : line,
			  .cs = l->column_major ? line : step,
			  .bs = {broadcast ? 0 : one}};
}

static float get(const k_matrix *x, int64_t i, int64_t j, int64_t b)
{
	int64_t at = i * x->rs + j * x->cs + b * x->bs[0];
	return x->type == K_F16 ? half_to_float(((half *)x->data)[at]) : ((float *)x->data)[at];
}

static void set(tensor *t, int64_t at, float v)
{
	if (t->x.type == K_F16)
		((half *)t->memory)[at] = half_from_float(v);
	else
		((float *)t->memory)[at] = v;
}

typedef void gemm_run_fn(pool *p, const k_gemm_row *r, const k_gemm_args *g, void *scratch);

/* Runs `run` and returns NULL, or what is wrong. */
static const char *check(gemm_run_fn *run, const k_gemm_row *row, const setup *s, pool *p, uint64_t seed)
{
	static char text[300];
	tensor a, b, c;
	make(&a, s->batch, s->m, s->k, s->ta, &s->a, false);
	make(&b, s->batch, s->k, s->n, s->tb, &s->b, s->broadcast_b);
	make(&c, s->batch, s->m, s->n, s->tc, &s->c, false);
	for (int64_t i = 0; i < a.size; i++)
		set(&a, i, s->value(seed, i));
	for (int64_t i = 0; i < b.size; i++)
		set(&b, i, s->value(seed + 1, i));
	for (int64_t i = 0; i < c.size; i++)
		set(&c, i, s->value(seed + 2, i));
	float *before = malloc((size_t)(c.size + 1) * sizeof *before);
	bool *inside = calloc((size_t)c.size + 1, sizeof *inside);
	assert_true(before && inside);
	for (int64_t i = 0; i < c.size; i++)
		before[i] = s->tc == K_F16 ? half_to_float(((half *)c.memory)[i]) : ((float *)c.memory)[i];
	k_gemm_args g = {.m = s->m,
			 .n = s->n,
			 .k = s->k,
			 .nbatch = 1,
			 .batch = {s->batch},
			 .a = a.x,
			 .b = b.x,
			 .c = c.x,
			 .accumulate = s->accumulate,
			 .precision = s->precision};
	size_t bytes = k_gemm_scratch(row, &g, pool_threads(p));
	unsigned char *scratch = malloc(bytes + 32);
	assert_non_null(scratch);
	memset(scratch, 0xff, bytes + 32); /* NaN: what is not packed must not be used */
	run(p, row, &g, scratch);
	const char *wrong = NULL;
	for (int i = 0; i < 32; i++)
		if (scratch[bytes + i] != 0xff)
			wrong = "scratch overrun";
	/* relative to sum |a b|, and to k max |a| max |b| */
	const bool f16_sums = row->isa & ISA_AVX512_FP16;
	const double loss = s->precision == K_NEAR   ? 0x1p-16
			    : s->precision != K_FAST ? 0
			    : f16_sums               ? 32 * 0x1p-11 / (1 - 32 * 0x1p-11)
						     : 0x1p-7 + 0x1p-16;
	const double floor_loss = f16_sums ? 0x1p-28 + 0x1p-32 : 0;
	for (int64_t q = 0; q < s->batch && !wrong; q++)
		for (int64_t i = 0; i < s->m && !wrong; i++)
			for (int64_t j = 0; j < s->n && !wrong; j++) {
				int64_t at = i * c.x.rs + j * c.x.cs + q * c.x.bs[0];
				inside[at] = true;
				double sum = s->accumulate ? (double)before[at] : 0, size = fabs(sum);
				double most_a = 0, most_b = 0;
				for (int64_t k = 0; k < s->k; k++) {
					double x = (double)get(&a.x, i, k, q), y = (double)get(&b.x, k, j, q);
					double t = x * y;
					most_a = fmax(most_a, fabs(x));
					most_b = fmax(most_b, fabs(y));
					sum += t;
					size += fabs(t);
				}
				double got = (double)get(&c.x, i, j, q), n = 2.0 * (double)s->k + 4,
				       gamma = n * 0x1p-24 / (1 - n * 0x1p-24);
				double bound = s->exact ? 0
							: size * (gamma + loss) +
							      (double)s->k * floor_loss * most_a * most_b +
							      0x1p-126 * n;
				if (s->tc == K_F16) {
					if (s->exact)
						sum = (double)half_to_float(half_from_double(sum));
					else
						bound += fmax(fabs(sum) * 0x1p-11, 0x1p-25) * 1.01;
					if (isinf(got) && fabs(sum) < INFINITY &&
					    (got > 0 ? sum : -sum) + bound >= 65520)
						continue;
				}
				bool good = isnan(sum)   ? isnan(got)
					    : isinf(sum) ? got == sum
							 : fabs(got - sum) <= bound;
				if (!good) {
					snprintf(text, sizeof text,
						 "[%d][%d][%d] is %.9g, expected %.9g +- %.3g", (int)q,
						 (int)i, (int)j, got, sum, bound);
					wrong = text;
				}
			}
	for (int64_t i = 0; i < c.size && !wrong; i++) {
		float now = s->tc == K_F16 ? half_to_float(((half *)c.memory)[i]) : ((float *)c.memory)[i];
		if (!inside[i] && !check_same(now, before[i]))
			wrong = "wrote outside the result";
	}
	free(a.memory);
	free(b.memory);
	free(c.memory);
	free(before);
	free(inside);
	free(scratch);
	return wrong;
}

static void expect(const k_gemm_row *row, const setup *s, pool *p, uint64_t seed)
{
	const char *wrong = check(k_gemm, row, s, p, seed);
	if (wrong)
		fail_msg("%s %dx%dx%d batch %d, types %d %d %d, columns-first %d %d %d, strided %d %d %d, "
			 "accumulate %d, "
			 "precision %d, seed %d: %s",
			 row->name, (int)s->m, (int)s->n, (int)s->k, (int)s->batch, (int)s->ta, (int)s->tb,
			 (int)s->tc, s->a.column_major, s->b.column_major, s->c.column_major, s->a.strided,
			 s->b.strided, s->c.strided, s->accumulate, (int)s->precision, (int)seed, wrong);
}

/* ---- Data ------------------------------------------------------------------------- */

static float uniform(uint64_t seed, uint64_t i) { return (float)check_uniform(seed, i, -1, 1); }
/* Small integers: any sum of k < 2^16 products of them is exact in fp32, and they are exact bf16. */
static float small_integer(uint64_t seed, uint64_t i) { return (float)floor(check_uniform(seed, i, -8, 9)); }
/* Eleven significant bits, exact in fp16 but not in bf16; sums of a few thousand products fit in 24 + bits
 * only because the values are few: multiples of 1 up to 1025 with mostly zeros. */
static float eleven_bits(uint64_t seed, uint64_t i)
{
	double u = check_uniform(seed, i, 0, 16);
	return u < 1 ? 1025 : u < 2 ? -1023 : u < 3 ? 3 : 0;
}
/* From the whole range of fp16. */
static float extreme(uint64_t seed, uint64_t i)
{
	static const float v[] = {65504, -65504, 0x1p-24f, -0x1p-24f, 0x1.ff8p-15f, 0,
				  -0.0f, 1,      -2047,    0x1p-14f,  0x1.004p0f,   0x1.ffcp-2f};
	return v[(int)check_uniform(seed, i, 0, 12)];
}
/* Now and then something that is not finite. */
static float not_finite(uint64_t seed, uint64_t i)
{
	double u = check_uniform(seed, i, 0, 60);
	return u < 1     ? INFINITY
	       : u < 2   ? -INFINITY
	       : u < 2.5 ? NAN
	       : u < 10  ? 0
	       : u < 20  ? 1
			 : (float)check_uniform(seed + 9, i, -2, 2);
}

/* ---- Which rows ------------------------------------------------------------------- */

/* Fixed point and integers have tests of their own. */
static bool runs_here(const k_gemm_row *r)
{
	return !(r->precision >> K_FIXED & 1) && !r->integer && (r->isa & machine) == r->isa;
}

/* Tile instructions cost microseconds when they are emulated. */
static bool slow(const k_gemm_row *r) { return provider == AMX_EMULATED && (r->isa & ISA_AMX_BF16); }

static k_precision precision_of(const k_gemm_row *r)
{
	return r->precision >> K_EXACT & 1 ? K_EXACT : r->precision >> K_NEAR & 1 ? K_NEAR : K_FAST;
}

static setup plain(const k_gemm_row *r, int64_t m, int64_t n, int64_t k)
{
	return (setup){.m = m,
		       .n = n,
		       .k = k,
		       .batch = 1,
		       .ta = K_F16,
		       .tb = K_F16,
		       .tc = K_F32,
		       .precision = precision_of(r),
		       .value = uniform};
}

/* ---- Tests ------------------------------------------------------------------------ */

/* All of 1 .. tile + 1 in each dimension, the other two at a few sizes; every combination at a few. */
static void test_tails(void **state)
{
	(void)state;
	amx_provide(); /* cmocka takes over SIGILL before each test */
	uint64_t seed = 1;
	for (int i = 0; i < gemm_table_size; i++) {
		const k_gemm_row *r = &gemm_table[i];
		if (!runs_here(r))
			continue;
		const int mr = r->vector ? 9 : r->mr, nr = r->vector ? GEMM_VECTORS - 1 : r->nr,
			  kr = MAX(r->kr, 2);
		const int some[][2] = {{1, 1}, {mr, nr}, {mr + 1, nr + 1}, {2 * mr - 1, 2}};
		for (int c = 0; c < (slow(r) ? 3 : 4); c++) {
			const int u = some[c][0], v = some[c][1];
			for (int x = 1; x <= kr + 1; x++) {
				setup s = plain(r, u, v, x);
				expect(r, &s, NULL, seed++);
			}
			for (int x = 1; x <= mr + 1; x++) {
				setup s = plain(r, x, v, 1 + u % 37);
				expect(r, &s, NULL, seed++);
			}
			for (int x = 1; x <= nr + 1; x++) {
				setup s = plain(r, u, x, kr + c);
				expect(r, &s, NULL, seed++);
			}
			/* long rows, which are read in another order */
			for (int x = -1; r->vector && x <= 64; x += x % 16 ? 1 : 15) {
				setup s = plain(r, u, 1 + c % 2, GEMM_LONG_ROW + x);
				expect(r, &s, NULL, seed++);
			}
		}
	}
}

static void test_layouts(void **state)
{
	(void)state;
	amx_provide(); /* cmocka takes over SIGILL before each test */
	uint64_t seed = 1000;
	for (int i = 0; i < gemm_table_size; i++) {
		const k_gemm_row *r = &gemm_table[i];
		if (!runs_here(r))
			continue;
		for (int bits = 0; bits < 1 << 9; bits++) {
			if (slow(r) && bits % 3)
				continue;
			setup s = plain(r, r->vector ? 70 : r->mr + 5, r->vector ? 3 : r->nr + 3, 37);
			s.a.column_major = bits & 1;
			s.b.column_major = bits >> 1 & 1;
			s.c.column_major = bits >> 2 & 1;
			s.tc = bits >> 3 & 1 ? K_F16 : K_F32;
			s.accumulate = bits >> 4 & 1;
			s.a.strided = bits >> 5 & 1;
			s.b.strided = bits >> 6 & 1;
			s.c.strided = s.a.strided && s.b.strided;
			s.ta = bits >> 7 & 1 ? K_F32 : K_F16;
			s.tb = bits >> 8 & 1 ? K_F32 : K_F16;
			s.a.gap = s.b.gap = s.c.gap = 3;
			if (s.accumulate && s.tc == K_F16)
				continue;
			if (r->f16_only && (s.ta != K_F16 || s.tb != K_F16))
				continue;
			expect(r, &s, NULL, seed++);
			if (r->vector) { /* one row instead of one column */
				int64_t m = s.m;
				s.m = 1;
				s.n = m;
				expect(r, &s, NULL, seed++);
			}
		}
	}
}

/* Several blocks in every dimension, batches, any number of threads: the same bits. */
static void test_blocks_and_threads(void **state)
{
	(void)state;
	amx_provide(); /* cmocka takes over SIGILL before each test */
	pool *const *pools = check_pools();
	for (int i = 0; i < gemm_table_size; i++) {
		const k_gemm_row *r = &gemm_table[i];
		if (!runs_here(r))
			continue;
		const int64_t shape[][4] = {/* m, n, k, batch */
					    {r->vector ? 333 : 2 * r->mc + 5, r->vector ? 1 : r->nr * 3 + 1,
					     r->vector ? 300 : r->kc + 9, 1},
					    {70, r->vector ? 2 : r->nc + 9, r->vector ? 100 : 70, 1},
					    {50, r->vector ? 1 : 40, 33, 7}};
		for (int c = 0; c < LENGTH(shape); c++) {
			setup s = plain(r, shape[c][0], shape[c][1], shape[c][2]);
			s.batch = shape[c][3];
			s.broadcast_b = c == 2;
			s.accumulate = c == 0;
			s.tc = c == 1 ? K_F16 : K_F32;
			for (int t = 0; t < (slow(r) ? 2 : CHECK_POOLS); t++)
				expect(r, &s, pools[t], 7);
			/* bits, at every number of threads */
			k_gemm_args g = {.m = s.m,
					 .n = s.n,
					 .k = s.k,
					 .nbatch = 1,
					 .batch = {s.batch},
					 .precision = s.precision};
			float *first = NULL;
			size_t bytes = (size_t)(s.m * s.n * s.batch) * 4;
			half *a = malloc((size_t)(s.m * s.k * s.batch) * 2),
			     *b = malloc((size_t)(s.k * s.n * s.batch) * 2);
			for (int64_t e = 0; e < s.m * s.k * s.batch; e++)
				a[e] = half_from_float(uniform(11, e));
			for (int64_t e = 0; e < s.k * s.n * s.batch; e++)
				b[e] = half_from_float(uniform(12, e));
			g.a = (k_matrix){a, K_F16, s.k, 1, {s.m * s.k}};
			g.b = (k_matrix){b, K_F16, s.n, 1, {s.k * s.n}};
			for (int t = 0; t < CHECK_POOLS; t++) {
				float *y = calloc(1, bytes);
				g.c = (k_matrix){y, K_F32, s.n, 1, {s.m * s.n}};
				void *scratch = malloc(k_gemm_scratch(r, &g, pool_threads(pools[t])));
				assert_true(y && scratch);
				k_gemm(pools[t], r, &g, scratch);
				free(scratch);
				if (first && memcmp(first, y, bytes) != 0)
					fail_msg("%s: %d threads give other bits", r->name,
						 pool_threads(pools[t]));
				if (!first)
					first = y;
				else
					free(y);
			}
			free(first);
			free(a);
			free(b);
		}
	}
}

/* ---- Packed operands and triangles -------------------------------------------------- */

typedef struct product {
	k_gemm_args g;
	half *a, *b;
	void *c;
	size_t a_bytes, b_bytes, c_bytes;
} product;

/* fp16 operands, every layout by `bits`: columns first of a, b, c, and fp16 results. */
static product make_product(const k_gemm_row *r, int64_t m, int64_t n, int64_t k, int64_t batch,
			    bool broadcast_b, int bits)
{
	product x = {
	    .g = {.m = m, .n = n, .k = k, .nbatch = 2, .batch = {batch, 2}, .precision = precision_of(r)}};
	if (r->precision >> K_FIXED & 1)
		x.g.precision = K_FIXED;
	const int64_t na = m * k, nb = k * n, nc = m * n, matrices = batch * 2;
	const k_type type = r->integer ? K_I8 : K_F16, tc = r->integer ? K_I32 : bits & 8 ? K_F16 : K_F32;
	x.a_bytes = (size_t)(na * matrices) * 2;
	x.b_bytes = (size_t)(nb * matrices) * 2;
	x.c_bytes = (size_t)(nc * matrices) * k_type_size(tc);
	x.a = malloc(x.a_bytes);
	x.b = malloc(x.b_bytes);
	x.c = malloc(x.c_bytes);
	assert_true(x.a && x.b && x.c);
	for (int64_t i = 0; i < na * matrices; i++)
		x.a[i] = half_from_float(uniform(31, (uint64_t)i));
	for (int64_t i = 0; i < nb * matrices; i++)
		x.b[i] = half_from_float(uniform(32, (uint64_t)i));
	memset(x.c, 0x11, x.c_bytes);
	x.g.a = (k_matrix){x.a, type, bits & 1 ? 1 : k, bits & 1 ? m : 1, {2 * na, na}};
	/* one of the two batch dims repeats b */
	x.g.b = (k_matrix){x.b, type, bits & 2 ? 1 : n, bits & 2 ? k : 1, {broadcast_b ? 0 : 2 * nb, nb}};
	x.g.c = (k_matrix){x.c, tc, bits & 4 ? 1 : n, bits & 4 ? m : 1, {2 * nc, nc}};
	return x;
}

static void free_product(product *x)
{
	free(x->a);
	free(x->b);
	free(x->c);
}

/* The result of a product, in memory of its own. */
static void *run_product(pool *p, const k_gemm_row *r, const product *x)
{
	k_gemm_args g = x->g;
	const size_t bytes = k_gemm_scratch(r, &g, pool_threads(p));
	unsigned char *c = malloc(x->c_bytes), *scratch = malloc(bytes + 32);
	assert_true(c && scratch);
	memcpy(c, x->c, x->c_bytes);
	memset(scratch, 0xff, bytes + 32);
	g.c.data = c;
	k_gemm(p, r, &g, scratch);
	for (int i = 0; i < 32; i++)
		assert_int_equal(scratch[bytes + (size_t)i], 0xff);
	free(scratch);
	return c;
}

static void *pack_operand(pool *p, const k_gemm_row *r, const k_gemm_args *g, k_operand which)
{
	const size_t bytes = k_gemm_packed_bytes(r, g, which);
	unsigned char *to = aligned_alloc(64, (bytes + 127) / 64 * 64);
	assert_true(to && bytes > 0);
	memset(to, 0xff, (bytes + 127) / 64 * 64);
	k_gemm_pack(p, r, g, which, to);
	for (size_t i = bytes; i < (bytes + 127) / 64 * 64; i++)
		assert_int_equal(to[i], 0xff);
	return to;
}

/* A product whose K is so long that B is packed in slabs, and one whose rows lie on different pages: bits are
 * those of operands that were packed as a whole, and some results are what they should be. */
static void test_long(void **state)
{
	(void)state;
	enum { K = 9000, SAMPLES = 50 };
	pool *const *pools = check_pools();
	for (int i = 0; i < gemm_table_size; i++) {
		const k_gemm_row *r = &gemm_table[i];
		if (!runs_here(r) || r->vector || slow(r))
			continue;
		const int64_t m = 8 * r->mr + 5, n = (8 << 20) / (K * r->element) + 40;
		for (int bits = 0; bits < 16; bits += 5) { /* rows, columns, fp16 results among them */
			product x = make_product(r, m, n, K, 1, false, bits);
			product y = x;
			y.g.packed_a = pack_operand(pools[1], r, &x.g, K_A);
			y.g.packed_b = pack_operand(pools[1], r, &x.g, K_B);
			void *want = run_product(NULL, r, &y),
			     *got = run_product(pools[i % CHECK_POOLS], r, &x);
			if (memcmp(got, want, x.c_bytes) != 0)
				fail_msg("%s %dx%dx%d, layout %d: slabs give other bits", r->name, (int)m,
					 (int)n, K, bits);
			k_matrix c = x.g.c;
			c.data = got;
			for (int s = 0; s < SAMPLES; s++) {
				const int64_t row = s * 7919 % m, column = s * 104729 % n, q = s % 2;
				double sum = 0, size = 0;
				for (int64_t k = 0; k < K; k++) {
					const int64_t at = q * m * K + row * x.g.a.rs + k * x.g.a.cs,
						      bt = q * n * K + k * x.g.b.rs + column * x.g.b.cs;
					const double t =
					    (double)half_to_float(x.a[at]) * (double)half_to_float(x.b[bt]);
					sum += t;
					size += fabs(t);
				}
				const int64_t at = q * m * n + row * c.rs + column * c.cs;
				const double y16 = c.type == K_F16 ? (double)half_to_float(((half *)got)[at])
								   : (double)((float *)got)[at];
				const double loss = precision_of(r) == K_EXACT ? 1e-3 : 2e-2;
				assert_true(fabs(y16 - sum) <= size * loss);
			}
			free(want);
			free(got);
			free((void *)y.g.packed_a);
			free((void *)y.g.packed_b);
			free_product(&x);
		}
	}
}

/* Packed by one number of threads, used by others, the operand itself gone: the same bits. */
static void test_packed(void **state)
{
	(void)state;
	amx_provide();
	pool *const *pools = check_pools();
	for (int i = 0; i < gemm_table_size; i++) {
		const k_gemm_row *r = &gemm_table[i];
		if ((r->isa & machine) != r->isa || r->integer)
			continue;
		const int64_t whole = r->kc > 1 << 20 ? 300 : r->kc;
		const int64_t shape[][4] = {
		    {r->mc + r->mr + 5, 3 * r->nr + 1, whole + 9, 1},
		    {r->mr, r->nc + 9, 70, 1},
		    {50, 40, 33, 3},
		};
		for (int c = 0; c < LENGTH(shape); c++)
			for (int bits = 0; bits < 16; bits++) {
				if (r->vector || (slow(r) && bits % 5))
					continue;
				product x = make_product(r, shape[c][0], shape[c][1], shape[c][2],
							 shape[c][3], c == 2, bits);
				void *want = run_product(NULL, r, &x);
				pool *p = pools[bits % CHECK_POOLS];
				void *a = pack_operand(pools[1], r, &x.g, K_A),
				     *b = pack_operand(pools[2], r, &x.g, K_B);
				for (int packed = 1; packed < 4; packed++) {
					product y = x;
					y.g.packed_a = packed & 1 ? a : NULL;
					y.g.packed_b = packed & 2 ? b : NULL;
					if (packed & 1)
						y.g.a.data = NULL;
					if (packed & 2)
						y.g.b.data = NULL;
					void *got = run_product(p, r, &y);
					if (memcmp(got, want, x.c_bytes) != 0)
						fail_msg("%s %dx%dx%d, layout %d: packed operands %d give "
							 "other bits",
							 r->name, (int)shape[c][0], (int)shape[c][1],
							 (int)shape[c][2], bits, packed);
					free(got);
				}
				free(a);
				free(b);
				free(want);
				free_product(&x);
			}
		if (r->vector) {
			product x = make_product(r, 9, 1, 9, 1, false, 0);
			assert_int_equal(k_gemm_packed_bytes(r, &x.g, K_A), 0);
			free_product(&x);
		}
	}
}

static bool outside(k_triangle t, int64_t diagonal, int64_t i, int64_t j)
{
	return t == K_LOWER ? j > i + diagonal : t == K_UPPER ? j < i + diagonal : false;
}

/* Zeros the part of an operand that a triangle says is 0. */
static void clear_outside(k_matrix *x, k_triangle t, int64_t diagonal, int64_t rows, int64_t cols,
			  int64_t matrices, int64_t one)
{
	for (int64_t q = 0; q < matrices; q++)
		for (int64_t i = 0; i < rows; i++)
			for (int64_t j = 0; j < cols; j++)
				if (outside(t, diagonal, i, j))
					((half *)x->data)[q * one + i * x->rs + j * x->cs] = 0;
}

/* Bytes of C that differ where they are needed. */
static int64_t differences(const product *x, const void *got, const void *want)
{
	const size_t size = k_type_size(x->g.c.type);
	int64_t count = 0;
	for (int64_t q = 0; q < x->g.batch[0] * 2; q++)
		for (int64_t i = 0; i < x->g.m; i++)
			for (int64_t j = 0; j < x->g.n; j++) {
				const size_t at =
				    (size_t)(q * x->g.m * x->g.n + i * x->g.c.rs + j * x->g.c.cs);
				count += !outside(x->g.triangle_c, x->g.diagonal_c, i, j) &&
					 memcmp((const char *)got + at * size, (const char *)want + at * size,
						size) != 0;
			}
	return count;
}

static void test_triangles(void **state)
{
	(void)state;
	amx_provide();
	pool *const *pools = check_pools();
	for (int i = 0; i < gemm_table_size; i++) {
		const k_gemm_row *r = &gemm_table[i];
		if ((r->isa & machine) != r->isa || r->integer)
			continue;
		const int whole = r->kc > 1 << 20 || r->vector ? 150 : r->kc;
		for (int c = 0; c < 27 * 2; c++) {
			const k_triangle ta = c % 3, tb = c / 3 % 3, tc = c / 9 % 3;
			if ((ta || tb) && (r->precision >> K_FIXED & 1) && tc != K_LOWER)
				continue;
			if (slow(r) && c % 4)
				continue;
			const bool packed = c % 2 && !r->vector;
			product x = c < 27 ? make_product(r, r->vector ? 3 : 150, 140, 130, 1, false, c % 16)
					   : make_product(r, 2 * r->mr + 3, r->vector ? 2 : r->nr + 40,
							  whole + 50, 1, false, c % 16);
			x.g.triangle_a = ta;
			x.g.triangle_b = tb;
			x.g.triangle_c = tc;
			static const int64_t diagonals[] = {0, 0, 17, 64, -40};
			x.g.diagonal_a = diagonals[c % 5];
			x.g.diagonal_b = diagonals[(c / 5 + 1) % 5];
			x.g.diagonal_c = diagonals[(c / 2 + 3) % 5];
			product all = x;
			all.g.triangle_a = all.g.triangle_b = all.g.triangle_c = K_WHOLE;
			void *a = NULL, *b = NULL;
			/* the factors that count as zero are left out, at least some */
			void *want = run_product(NULL, r, &all), *less = run_product(pools[1], r, &x);
			const bool leaves_out = differences(&x, less, want) > 0;
			/* panels with a head are read from their start */
			const bool starts = ta == K_UPPER || tb == K_LOWER,
				   ends = ta == K_LOWER || tb == K_UPPER;
			const bool may = c < 27 && !r->vector && !(r->precision >> K_FIXED & 1) &&
					 r->mr < 32 && (ends || (starts && !r->head));
			if (may && !leaves_out)
				fail_msg("%s: triangles %d %d of operands are computed", r->name, ta, tb);
			free(want);
			free(less);
			clear_outside(&x.g.a, ta, x.g.diagonal_a, x.g.m, x.g.k, 2, x.g.m * x.g.k);
			clear_outside(&x.g.b, tb, x.g.diagonal_b, x.g.k, x.g.n, 2, x.g.k * x.g.n);
			if (packed) {
				x.g.packed_a = a = pack_operand(NULL, r, &x.g, K_A);
				x.g.packed_b = b = pack_operand(NULL, r, &x.g, K_B);
			}
			want = run_product(NULL, r, &all);
			void *got = run_product(pools[c % CHECK_POOLS], r, &x);
			if (differences(&x, got, want))
				fail_msg("%s, layout %d: triangles %d %d %d give other bits", r->name, c % 16,
					 ta, tb, tc);
			if (tc != K_WHOLE && ta == K_WHOLE && tb == K_WHOLE && c < 27 && !r->vector)
				assert_memory_not_equal(got, want, x.c_bytes); /* something is 0 */
			free(got);
			free(want);
			free(a);
			free(b);
			free_product(&x);
		}
	}
}

/* Blocks of K of the caller's choice: the bits of as many products added up, with triangles, packed operands
 * and threads or without, in fp32 or then rounded to fp16. */
static void test_k_blocks(void **state)
{
	(void)state;
	amx_provide();
	for (int i = 0; i < gemm_table_size; i++) {
		const k_gemm_row *r = &gemm_table[i];
		const int64_t block = 3 * r->kr;
		if ((r->isa & machine) != r->isa)
			continue;
		assert_false(k_gemm_takes_blocks(r, block + 1) && r->kr > 1);
		assert_false(k_gemm_takes_blocks(r, 0));
		if (!k_gemm_takes_blocks(r, block)) {
			assert_true(r->vector || r->integer || r->precision >> K_FIXED & 1);
			continue;
		}
		for (int c = 0; c < 16; c++) {
			const int64_t k = 4 * block + r->kr + 1;
			product x = make_product(r, r->mr + 3, r->nr + 5, k, 1, false, c & 7), part = x;
			x.g.triangle_b = part.g.triangle_b = c & 8 ? K_LOWER : K_WHOLE;
			clear_outside(&x.g.b, x.g.triangle_b, 0, k, x.g.n, 2, k * x.g.n);
			float *want = NULL;
			for (int64_t first = 0; first < k; first += block) {
				part.g.k = MIN(block, k - first);
				part.g.accumulate = first > 0;
				part.g.diagonal_b = first;
				part.g.a.data = x.a + first * x.g.a.cs;
				part.g.b.data = x.b + first * x.g.b.rs;
				part.c = want ? want : x.c;
				float *sum = run_product(NULL, r, &part);
				free(want);
				want = sum;
			}
			x.g.k_block = block;
			void *a = NULL;
			if (c % 3 == 0)
				x.g.packed_a = a = pack_operand(NULL, r, &x.g, K_A);
			float *got = run_product(check_pools()[c % CHECK_POOLS], r, &x);
			if (differences(&x, got, want))
				fail_msg("%s, layout %d: blocks of K give other bits", r->name, c);
			const size_t count = x.c_bytes / sizeof(float);
			half *rounded = calloc(count, sizeof *rounded);
			void *kept = x.c;
			x.c = rounded;
			x.c_bytes = count * sizeof *rounded;
			x.g.c.type = K_F16;
			half *halves = run_product(NULL, r, &x);
			for (size_t j = 0; j < count; j++)
				assert_int_equal(halves[j], half_from_float(want[j]));
			x.c = kept;
			free(rounded);
			free(halves);
			free(got);
			free(want);
			free(a);
			free_product(&x);
		}
	}
}

/* Sums that fp32 holds exactly: no error at all, in whatever order. */
static void test_exact(void **state)
{
	(void)state;
	amx_provide(); /* cmocka takes over SIGILL before each test */
	for (int i = 0; i < gemm_table_size; i++) {
		const k_gemm_row *r = &gemm_table[i];
		if (!runs_here(r))
			continue;
		setup s = plain(r, r->vector ? 65 : r->mr + 3, r->vector ? 2 : r->nr + 7, 201);
		s.exact = true;
		s.value = small_integer;
		expect(r, &s, NULL, 3);
		s.tc = K_F16;
		expect(r, &s, NULL, 4);
		if (precision_of(r) != K_EXACT)
			continue;
		s.tc = K_F32;
		s.k = 12; /* 12 * 1025^2 < 2^24 */
		s.value = eleven_bits;
		for (uint64_t seed = 5; seed < 9; seed++)
			expect(r, &s, NULL, seed);
	}
}

/* Sums rounded to fp16: what gemm_avx512fp16.c promises for random signs, at scales from one end of fp16 to
 * the other, where products underflow or sums would overflow if rows and columns were not scaled. */
static void test_half_sums(void **state)
{
	(void)state;
	enum { M = 45, N = 70, K = 700 };
	static const int exponents[] = {-13, 0, 11};
	half *a = malloc(M * K * 2), *b = malloc(K * N * 2);
	float *c = malloc(M * N * 4);
	assert_true(a && b && c);
	for (int r = 0; r < gemm_table_size; r++) {
		const k_gemm_row *row = &gemm_table[r];
		if (!runs_here(row) || !(row->isa & ISA_AVX512_FP16))
			continue;
		for (int i = 0; i < M; i++)
			for (int k = 0; k < K; k++)
				a[i * K + k] = half_from_double(
				    ldexp(random_normal(41, 0, (uint64_t)(i * K + k)), exponents[i % 3]));
		for (int k = 0; k < K; k++)
			for (int j = 0; j < N; j++)
				b[k * N + j] = half_from_double(
				    ldexp(random_normal(42, 0, (uint64_t)(k * N + j)), exponents[j / 2 % 3]));
		k_gemm_args g = {.m = M, .n = N, .k = K, .precision = K_FAST};
		g.a = (k_matrix){a, K_F16, K, 1, {0}};
		g.b = (k_matrix){b, K_F16, N, 1, {0}};
		g.c = (k_matrix){c, K_F32, N, 1, {0}};
		void *scratch = malloc(k_gemm_scratch(row, &g, 1));
		assert_non_null(scratch);
		k_gemm(NULL, row, &g, scratch);
		double error[9] = {0}, size[9] = {0};
		for (int i = 0; i < M; i++)
			for (int j = 0; j < N; j++) {
				double sum = 0;
				for (int k = 0; k < K; k++)
					sum += (double)half_to_float(a[i * K + k]) *
					       (double)half_to_float(b[k * N + j]);
				const int at = i % 3 * 3 + j / 2 % 3;
				error[at] += ((double)c[i * N + j] - sum) * ((double)c[i * N + j] - sum);
				size[at] += sum * sum;
			}
		for (int e = 0; e < 9; e++)
			if (!(sqrt(error[e] / size[e]) < 0x1p-11 * sqrt(32 / 6.0)))
				fail_msg("%s: scales 2^%d and 2^%d: relative rms error %.3g", row->name,
					 exponents[e / 3], exponents[e % 3], sqrt(error[e] / size[e]));
		print_message("%s: relative rms error %.2g\n", row->name, sqrt(error[4] / size[4]));
		free(scratch);
	}
	free(a);
	free(b);
	free(c);
}

static void test_extremes(void **state)
{
	(void)state;
	amx_provide(); /* cmocka takes over SIGILL before each test */
	for (int i = 0; i < gemm_table_size; i++) {
		const k_gemm_row *r = &gemm_table[i];
		if (!runs_here(r))
			continue;
		for (uint64_t seed = 20; seed < 26; seed++) {
			setup s = plain(r, r->vector ? 65 : r->mr + 3, r->vector ? 1 : r->nr + 7,
					seed < 24 ? 1 + (int)seed % 4 : 70);
			s.tc = seed % 2 ? K_F16 : K_F32;
			s.value = extreme;
			expect(r, &s, NULL, seed);
			/* bf16 products round before they meet infinities, which changes nothing about those
			 */
			s.value = not_finite;
			expect(r, &s, NULL, seed);
		}
	}
}

/* ---- The checker itself ----------------------------------------------------------- */

/* Loses the last of an odd number of products. */
static void drops_last(pool *p, const k_gemm_row *r, const k_gemm_args *g, void *scratch)
{
	k_gemm_args less = *g;
	less.k -= g->k % 2;
	k_gemm(p, r, &less, scratch);
}
/* Rounds the sum to fp16 after the first half. */
static void rounds_between(pool *p, const k_gemm_row *r, const k_gemm_args *g, void *scratch)
{
	k_gemm_args part = *g;
	part.k = g->k / 2;
	k_gemm(p, r, &part, scratch);
	for (int64_t i = 0; i < g->m; i++)
		for (int64_t j = 0; j < g->n; j++) {
			float *c = (float *)g->c.data + i * g->c.rs + j * g->c.cs;
			*c = half_to_float(half_from_float(*c));
		}
	part.k = g->k - part.k;
	part.accumulate = true;
	part.a.data = (half *)g->a.data + g->k / 2 * g->a.cs;
	part.b.data = (half *)g->b.data + g->k / 2 * g->b.rs;
	k_gemm(p, r, &part, scratch);
}
/* Writes one column too many. */
static void overruns(pool *p, const k_gemm_row *r, const k_gemm_args *g, void *scratch)
{
	k_gemm(p, r, g, scratch);
	((float *)g->c.data)[g->n * g->c.cs] = 5;
}

static void test_wrong_kernels_are_rejected(void **state)
{
	(void)state;
	const k_gemm_row *r = &gemm_table[gemm_table_size - 1];
	setup s = plain(r, 9, 11, 33);
	s.c.gap = 1;
	assert_null(check(k_gemm, r, &s, NULL, 1));
	assert_non_null(check(drops_last, r, &s, NULL, 1));
	assert_non_null(check(rounds_between, r, &s, NULL, 1));
	assert_non_null(check(overruns, r, &s, NULL, 1));
}

/* ---- Selection -------------------------------------------------------------------- */

static void test_selection(void **state)
{
	(void)state;
	enum { avx512 = ISA_AVX2 | ISA_AVX512, amx = avx512 | ISA_AVX512_BF16 | ISA_AMX_BF16 | ISA_AMX_INT8 };
	static const struct {
		uint32_t isa;
		int64_t m, n;
		k_type type;
		k_precision precision;
		const char *name;
	} want[] = {
	    {0, 64, 64, K_F16, K_EXACT, "f32_portable_4x8"},
	    {0, 64, 1, K_F16, K_FAST, "vector_portable"},
	    {0, 64, 64, K_F32, K_FAST, "f32_portable_4x8"},
#ifdef __x86_64__
	    {ISA_AVX2, 64, 64, K_F16, K_EXACT, "f32_avx2_6x16"},
	    {ISA_AVX2, 1, 64, K_F16, K_EXACT, "vector_avx2"},
	    {avx512, 64, 64, K_F16, K_EXACT, "f32_avx512_12x32"},
	    {avx512, 64, 64, K_F32, K_FAST, "f32_avx512_12x32"},
	    {avx512, 64, 4, K_F32, K_FAST, "vector_avx512"},
	    {avx512 | ISA_AVX512_BF16, 64, 64, K_F16, K_FAST, "f32_avx512_12x32"},
	    {avx512 | ISA_AVX512_BF16 | ISA_BF16_FAST, 64, 64, K_F16, K_FAST, "bf16_avx512_12x32"},
	    {avx512 | ISA_AVX512_BF16 | ISA_BF16_FAST, 64, 64, K_F16, K_EXACT, "f32_avx512_12x32"},
	    {avx512 | ISA_AVX512_BF16 | ISA_AVX512_FP16, 64, 64, K_F16, K_FAST, "f16_avx512fp16_12x64"},
	    {avx512 | ISA_AVX512_FP16, 64, 64, K_F32, K_FAST, "f32_avx512_12x32"},
	    {avx512 | ISA_AVX512_FP16, 64, 64, K_F16, K_EXACT, "f32_avx512_12x32"},
	    {amx, 64, 64, K_F16, K_FAST, "amx_bf16_32x32"},
	    {amx, 64, 64, K_F32, K_FAST, "amx_bf16_32x32"},
	    {amx | ISA_AMX_FP16, 64, 64, K_F16, K_FAST, "amx_f16_32x32"},
	    {amx | ISA_AMX_FP16, 64, 64, K_F16, K_EXACT, "amx_f16_32x32"},
	    {amx | ISA_AMX_FP16, 64, 64, K_F32, K_FAST, "amx_bf16_32x32"},
	    {amx, 64, 64, K_F16, K_EXACT, "amx_split_32x32"},
	    {amx, 64, 64, K_F16, K_NEAR, "amx_split3_32x32"},
	    {amx | ISA_AMX_FP16, 64, 64, K_F16, K_NEAR, "amx_f16_32x32"},
	    {avx512 | ISA_AVX512_BF16 | ISA_BF16_FAST, 64, 64, K_F16, K_NEAR, "f32_avx512_12x32"},
	    {amx, 64, 64, K_F32, K_EXACT, "f32_avx512_12x32"},
	    {amx, 64, 1, K_F16, K_FAST, "vector_avx512"},
#endif
#ifdef __aarch64__
	    {ISA_NEON, 64, 64, K_F16, K_EXACT, "f32_neon_8x12"},
	    {ISA_NEON, 64, 64, K_F32, K_FAST, "f32_neon_8x12"},
	    {ISA_NEON, 64, 2, K_F16, K_EXACT, "vector_neon"},
	    {ISA_NEON | ISA_NEON_BF16, 64, 64, K_F16, K_FAST, "bf16_neon_8x12"},
	    {ISA_NEON | ISA_NEON_BF16, 64, 64, K_F32, K_FAST, "bf16_neon_8x12"},
	    {ISA_NEON | ISA_NEON_BF16, 64, 64, K_F16, K_EXACT, "f32_neon_8x12"},
	    {ISA_NEON | ISA_NEON_BF16, 1, 64, K_F16, K_FAST, "vector_neon"},
#endif
	};
	for (int i = 0; i < LENGTH(want); i++) {
		k_gemm_args g = {.m = want[i].m, .n = want[i].n, .k = 64, .precision = want[i].precision};
		g.a.type = g.b.type = g.c.type = want[i].type;
		assert_string_equal(k_gemm_name(k_gemm_select(&g, want[i].isa)), want[i].name);
	}
	for (int i = 0; i < gemm_table_size; i++) {
		const k_gemm_row *r = &gemm_table[i];
		if (!r->vector) {
			assert_int_equal(r->mc % r->mr, 0);
			assert_int_equal(r->nc % r->nr, 0);
			assert_int_equal(r->kc % r->kr, 0);
		}
	}
}

static int begin(void **state)
{
	(void)state;
	provider = amx_provide();
	machine = isa_detect();
	if (machine & ISA_AVX512_BF16)
		machine |= ISA_BF16_FAST; /* a preference only */
	if (provider == AMX_EMULATED && machine & ISA_AVX512_BF16)
		machine |= ISA_AMX_BF16 | ISA_AMX_FP16;
	print_message("tile instructions: %s\n", provider == AMX_SILICON ? "this processor's"
						 : machine & ISA_AMX_BF16
						     ? "emulated"
						     : "none, their kernels are not tested here");
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
	/* emulated means that the emulator was entered */
	return provider == AMX_EMULATED && machine & ISA_AMX_BF16 && amx_emulated_count() == 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_tails),
					   cmocka_unit_test(test_layouts),
					   cmocka_unit_test(test_blocks_and_threads),
					   cmocka_unit_test(test_packed),
					   cmocka_unit_test(test_long),
					   cmocka_unit_test(test_triangles),
					   cmocka_unit_test(test_k_blocks),
					   cmocka_unit_test(test_k_blocks),
					   cmocka_unit_test(test_exact),
					   cmocka_unit_test(test_half_sums),
					   cmocka_unit_test(test_extremes),
					   cmocka_unit_test(test_wrong_kernels_are_rejected),
					   cmocka_unit_test(test_selection)};
	return cmocka_run_group_tests(tests, begin, end);
}
