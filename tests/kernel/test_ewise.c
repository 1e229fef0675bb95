/* Programs, reductions, softmax, copies and conversions over random strided index spaces: the
 * reference walks the space element by element. */
#include "support/kernel_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static int nisa;
static const uint32_t *isas;

/* ---- Random arrays ---------------------------------------------------------------- */

typedef struct array {
	ew_operand o;
	char *memory, *before;
	size_t bytes;
} array;

static uint64_t draws;
static int pick_int(int lo, int hi) { return (int)floor(check_uniform(77, draws++, lo, hi + 1)); }

static int pick_shape(int64_t *dim, int max_rank, int64_t limit)
{
	static const int sizes[] = {1, 2, 3, 5, 7, 16, 17, 33, 40, 64, 65, 100, 257, 700};
	int rank = pick_int(1, max_rank);
	int64_t n = 1;
	for (int d = 0; d < rank; d++) {
		do
			dim[d] = sizes[pick_int(0, LENGTH(sizes) - 1)];
		while (n * dim[d] > limit);
		n *= dim[d];
	}
	return rank;
}

/* Dims in random order in memory, perhaps with gaps, perhaps repeated along some (not if `whole`). */
static void make(array *a, int rank, const int64_t *dim, k_type type, bool whole)
{
	int order[EW_MAX_DIMS];
	for (int d = 0; d < rank; d++)
		order[d] = d;
	if (pick_int(0, 1))
		for (int d = rank - 1; d > 0; d--) {
			int e = pick_int(0, d), t = order[d];
			order[d] = order[e];
			order[e] = t;
		}
	int64_t step = pick_int(0, 5) == 0 ? 2 : 1;
	*a = (array){.o = {.type = type}};
	for (int i = rank - 1; i >= 0; i--) {
		int d = order[i];
		if (!whole && pick_int(0, 4) == 0)
			continue; /* stride 0 */
		a->o.stride[d] = step;
		step *= dim[d];
		step += pick_int(0, 4) == 0 ? 3 : 0;
	}
	a->bytes = (size_t)step * k_type_size(type);
	a->memory = malloc(a->bytes + 1);
	a->before = malloc(a->bytes + 1);
	assert_true(a->memory && a->before);
	a->o.data = a->memory;
}

static void fill(array *a, double lo, double hi)
{
	int64_t n = (int64_t)(a->bytes / k_type_size(a->o.type));
	uint64_t seed = draws++;
	for (int64_t i = 0; i < n; i++) {
		double v = check_uniform(seed, (uint64_t)i, lo, hi);
		switch (a->o.type) {
		case K_F16: ((half *)a->memory)[i] = half_from_double(v); break;
		case K_BF16: ((bfloat *)a->memory)[i] = bfloat_from_float((float)v); break;
		case K_F32: ((float *)a->memory)[i] = (float)v; break;
		case K_I32: ((int32_t *)a->memory)[i] = (int32_t)v; break;
		case K_U8: ((uint8_t *)a->memory)[i] = (uint8_t)fabs(v); break;
		case K_BOOL: ((uint8_t *)a->memory)[i] = v > 0; break;
		default: fail();
		}
	}
	memcpy(a->before, a->memory, a->bytes);
}

static void drop(array *a)
{
	free(a->memory);
	free(a->before);
}

static int64_t place(const ew_operand *o, int rank, const int64_t *at)
{
	int64_t n = 0;
	for (int d = 0; d < rank; d++)
		n += at[d] * o->stride[d];
	return n;
}

static float value(const ew_operand *o, const char *memory, int64_t i)
{
	switch (o->type) {
	case K_F16: return half_to_float(((const half *)(const void *)memory)[i]);
	case K_BF16: return bfloat_to_float(((const bfloat *)(const void *)memory)[i]);
	case K_F32: return ((const float *)(const void *)memory)[i];
	case K_I32: return (float)((const int32_t *)(const void *)memory)[i];
	case K_U8: return (float)((const uint8_t *)memory)[i];
	case K_BOOL: return memory[i] ? 1.0f : 0.0f;
	default: return NAN;
	}
}

static bool next(int64_t *at, int rank, const int64_t *dim)
{
	for (int d = rank - 1; d >= 0; d--) {
		if (++at[d] < dim[d])
			return true;
		at[d] = 0;
	}
	return false;
}

static float as_f16(float x) { return half_to_float(half_from_float(x)); }

static float as_type(float x, k_type t)
{
	switch (t) {
	case K_F16: return as_f16(x);
	case K_BF16: return bfloat_to_float(bfloat_from_float(x));
	case K_I32: return truncf(x) + 0.0f; /* no -0 */
	case K_U8: return x <= 0 || x != x ? 0 : x >= 255 ? 255 : truncf(x) + 0.0f;
	case K_BOOL: return x != 0;
	default: return x;
	}
}

/* ---- Programs --------------------------------------------------------------------- */

/* y = max(a * b + c, imm), rounded in between or not; z = a > b */
static void test_programs(void **state)
{
	(void)state;
	static const k_type in[] = {K_F16, K_F16, K_F32, K_BF16, K_I32, K_U8, K_BOOL};
	static const k_type out[] = {K_F16, K_F16, K_F32, K_BF16, K_I32, K_U8, K_BOOL};
	for (int round = 0; round < 400; round++) {
		int64_t dim[EW_MAX_DIMS];
		int rank = pick_shape(dim, 5, 20000);
		bool steps = round % 2;
		array a[5];
		for (int o = 0; o < 5; o++)
			make(&a[o], rank, dim,
			     o < 3    ? in[pick_int(0, LENGTH(in) - 1)]
			     : o == 3 ? out[pick_int(0, LENGTH(out) - 1)]
				      : K_BOOL,
			     o >= 3);
		const ew_instr instr[] = {{.op = EW_LOAD, .dst = 0, .a = 0},
					  {.op = EW_LOAD, .dst = 1, .a = 1},
					  {.op = EW_LOAD, .dst = 2, .a = 2},
					  {.op = EW_MUL, .dst = 3, .a = 0, .b = 1, .round16 = steps},
					  {.op = EW_ADD, .dst = 2, .a = 3, .b = 2, .round16 = steps},
					  {.op = EW_IMM, .dst = 3, .imm = -0.25f},
					  {.op = EW_MAX, .dst = 3, .a = 2, .b = 3},
					  {.op = EW_STORE, .dst = 3, .a = 3},
					  {.op = EW_GT, .dst = 0, .a = 0, .b = 1},
					  {.op = EW_STORE, .dst = 4, .a = 0}};
		for (int run = 0; run < nisa + CHECK_POOLS; run++) {
			for (int o = 0; o < 5; o++)
				if (run == 0)
					fill(&a[o], -30, 30);
				else
					memcpy(a[o].memory, a[o].before, a[o].bytes);
			ew_operand operand[5];
			for (int o = 0; o < 5; o++)
				operand[o] = a[o].o;
			ew_program p = {.rank = rank,
					.ninstr = LENGTH(instr),
					.noperands = 5,
					.nregs = 4,
					.instr = instr,
					.operand = operand};
			memcpy(p.dim, dim, sizeof p.dim);
			k_ewise(run < nisa ? NULL : check_pools()[run - nisa], isas[run % nisa], &p);
			int64_t at[EW_MAX_DIMS] = {0}, outside = 0;
			do {
				float x[3];
				for (int o = 0; o < 3; o++)
					x[o] = value(&a[o].o, a[o].before, place(&a[o].o, rank, at));
				float t = x[0] * x[1];
				t = steps ? as_f16(t) : t;
				t = t + x[2];
				t = steps ? as_f16(t) : t;
				float want = as_type(fmaxf(t, -0.25f), a[3].o.type);
				float got = value(&a[3].o, a[3].memory, place(&a[3].o, rank, at));
				if (!check_same(got, want) ||
				    value(&a[4].o, a[4].memory, place(&a[4].o, rank, at)) != (x[0] > x[1]))
					fail_msg("round %d run %d rank %d: %a, expected %a", round, run, rank,
						 (double)got, (double)want);
				/* what the result covers is marked, so that the rest can be compared below */
				size_t size = k_type_size(a[3].o.type);
				memcpy(a[3].memory + place(&a[3].o, rank, at) * (int64_t)size,
				       a[3].before + place(&a[3].o, rank, at) * (int64_t)size, size);
			} while (next(at, rank, dim));
			outside = memcmp(a[3].memory, a[3].before, a[3].bytes);
			if (outside)
				fail_msg("round %d run %d: wrote outside the result", round, run);
		}
		for (int o = 0; o < 5; o++)
			drop(&a[o]);
	}
}

/* Results over operands: a is still read after a c was written over it, and b after b - a. */
static void test_in_place(void **state)
{
	(void)state;
	enum { ROWS = 37, LD = 208, N = ROWS * LD };
	static const int widths[] = {192, 208, 199};
	static half before[3][N], x[3][N];
	for (int o = 0; o < 3; o++)
		for (int i = 0; i < N; i++)
			before[o][i] = half_from_float((float)check_uniform(81 + o, (uint64_t)i, -8, 8));
	for (int run = 0; run < nisa * LENGTH(widths) * 4; run++) {
		const uint32_t isa = isas[run % nisa];
		const int width = widths[run / nisa % LENGTH(widths)];
		const bool last = run / nisa / LENGTH(widths) & 1, steps = run / nisa / LENGTH(widths) & 2;
		const ew_instr instr[] = {{.op = EW_LOAD, .dst = 0, .a = 0},
					  {.op = EW_LOAD, .dst = 1, .a = 1},
					  {.op = EW_LOAD, .dst = 2, .a = 2},
					  {.op = EW_MUL, .dst = 3, .a = 0, .b = 2, .round16 = steps},
					  {.op = EW_STORE, .dst = 0, .a = 3, .last = last},
					  {.op = EW_SUB, .dst = 3, .a = 1, .b = 0, .round16 = steps},
					  {.op = EW_STORE, .dst = 1, .a = 3, .last = last},
					  {.op = EW_ADD, .dst = 3, .a = 0, .b = 1},
					  {.op = EW_ABS, .dst = 3, .a = 3},
					  {.op = EW_STORE, .dst = 2, .a = 3}};
		memcpy(x, before, sizeof x);
		const ew_operand operand[] = {
		    {x[0], K_F16, {LD, 1}}, {x[1], K_F16, {LD, 1}}, {x[2], K_F16, {LD, 1}}};
		k_ewise(NULL, isa,
			&(ew_program){.rank = 2,
				      .dim = {ROWS, width},
				      .ninstr = LENGTH(instr),
				      .noperands = 3,
				      .nregs = 4,
				      .instr = instr,
				      .operand = operand});
		for (int i = 0; i < N; i++) {
			float a = half_to_float(before[0][i]), b = half_to_float(before[1][i]),
			      c = half_to_float(before[2][i]);
			half want[3] = {half_from_float(a * c), half_from_float(b - a),
					half_from_float(fabsf(a + b))};
			for (int o = 0; o < 3; o++)
				assert_int_equal(x[o][i], i % LD < width ? want[o] : before[o][i]);
		}
	}
}

/* Small integers, so that sums are exact in any order. */
static void fill_integers(array *a, double most)
{
	fill(a, -most - 0.5, most + 0.5);
	for (size_t i = 0; i < a->bytes / k_type_size(a->o.type); i++)
		if (a->o.type == K_F16)
			((half *)a->memory)[i] =
			    half_from_float(rintf(half_to_float(((half *)a->memory)[i])));
		else
			((float *)a->memory)[i] = rintf(((float *)a->memory)[i]);
}

/* What is above a diagonal may become 0, or be left out of a sum where it is 0; all else stays as it is. */
static void test_halves(void **state)
{
	(void)state;
	for (int round = 0; round < 300; round++) {
		int64_t dim[EW_MAX_DIMS], kept[EW_MAX_DIMS];
		int rank;
		do
			rank = pick_shape(dim, 4, 40000);
		while (rank < 2);
		const int above = pick_int(0, rank - 1), below = (above + pick_int(1, rank - 1)) % rank;
		const uint32_t mask = (uint32_t)pick_int(1, (1 << rank) - 1);
		const int64_t shift = pick_int(0, 1) ? 0 : pick_int(0, (int)dim[above]);
		array a[3], sum;
		for (int o = 0; o < 3; o++)
			make(&a[o], rank, dim, pick_int(0, 2) ? K_F16 : K_F32, o != 1);
		for (int d = 0; d < rank; d++)
			kept[d] = mask >> d & 1 ? 1 : dim[d];
		make(&sum, rank, kept, K_F32, true);
		fill_integers(&a[0], 2);
		fill_integers(&a[1], 2);
		int64_t at[EW_MAX_DIMS] = {0};
		do
			if (at[above] > at[below] + shift)
				memset(a[0].memory +
					   place(&a[0].o, rank, at) * (int64_t)k_type_size(a[0].o.type),
				       0, k_type_size(a[0].o.type));
		while (next(at, rank, dim));
		const ew_instr instr[] = {{.op = EW_LOAD, .dst = 0, .a = 0},
					  {.op = EW_LOAD, .dst = 1, .a = 1},
					  {.op = EW_MUL, .dst = 1, .a = 0, .b = 1},
					  {.op = EW_STORE, .dst = 2, .a = 1}};
		for (int run = 0; run < nisa + CHECK_POOLS; run++) {
			const ew_operand operand[] = {a[0].o, a[1].o, a[2].o};
			ew_program p = {.rank = rank,
					.ninstr = LENGTH(instr),
					.noperands = 3,
					.nregs = 2,
					.instr = instr,
					.operand = operand,
					.above = above,
					.below = below,
					.shift = shift};
			memcpy(p.dim, dim, sizeof p.dim);
			pool *const workers = run < nisa ? NULL : check_pools()[run - nisa];
			const uint32_t isa = isas[run % nisa];
			for (int reduce = 0; reduce < 2; reduce++) {
				fill(&a[2], 1, 2);
				if (reduce)
					k_reduce(workers, isa, &p, 1, K_SUM, mask, &sum.o);
				else
					k_ewise(workers, isa, &p);
				memset(at, 0, sizeof at);
				do {
					const int64_t i = place(&a[2].o, rank, at);
					float x = value(&a[0].o, a[0].memory, place(&a[0].o, rank, at));
					float y = value(&a[1].o, a[1].memory, place(&a[1].o, rank, at));
					float want = as_type(x * y, a[2].o.type),
					      got = value(&a[2].o, a[2].memory, i);
					if (got != want)
						fail_msg("round %d run %d: %a, expected %a", round, run,
							 (double)got, (double)want);
				} while (next(at, rank, dim));
			}
			float *cut = malloc(sum.bytes);
			memcpy(cut, sum.memory, sum.bytes);
			p.above = below;
			k_reduce(workers, isa, &p, 1, K_SUM, mask, &sum.o);
			memset(at, 0, sizeof at);
			do {
				const int64_t i = place(&sum.o, rank, at);
				if (value(&sum.o, (char *)cut, i) != value(&sum.o, sum.memory, i))
					fail_msg("round %d run %d: a sum differs", round, run);
			} while (next(at, rank, kept));
			free(cut);
		}
		for (int o = 0; o < 3; o++)
			drop(&a[o]);
		drop(&sum);
	}
}

static void test_integers(void **state)
{
	(void)state;
	static const int32_t x[] = {0, 1, -1, 7, -7, INT32_MAX, INT32_MIN, 12, 5, -13},
			     y[] = {1, 0, -1, 2, 3, -3, 1, -5, 2, 4};
	enum { N = LENGTH(x) * LENGTH(y) };
	int32_t a[N], b[N], r[N];
	for (int i = 0; i < N; i++) {
		a[i] = x[i / LENGTH(y)];
		b[i] = y[i % LENGTH(y)];
	}
	static const ew_op ops[] = {EW_ADD, EW_SUB, EW_MUL, EW_FLOOR_DIV, EW_MOD,
				    EW_MAX, EW_MIN, EW_LT,  EW_ABS,       EW_SIGN};
	for (int o = 0; o < LENGTH(ops); o++)
		for (int s = 0; s < nisa; s++) {
			ew_instr instr[] = {{.op = EW_LOAD, .dst = 0, .a = 0},
					    {.op = EW_LOAD, .dst = 1, .a = 1},
					    {.op = (uint8_t)ops[o], .dst = 2, .a = 0, .b = 1},
					    {.op = EW_STORE, .dst = 2, .a = 2}};
			ew_operand operand[] = {{a, K_I32, {1}}, {b, K_I32, {1}}, {r, K_I32, {1}}};
			ew_program p = {.rank = 1,
					.dim = {N},
					.ninstr = 4,
					.noperands = 3,
					.nregs = 3,
					.instr = instr,
					.operand = operand,
					.integer = true};
			k_ewise(NULL, isas[s], &p);
			for (int i = 0; i < N; i++) {
				int64_t u = a[i], v = b[i], q = v ? (int64_t)floor((double)u / (double)v) : 0;
				int64_t want[] = {u + v,     u - v,     u * v, q,        v ? u - q * v : 0,
						  MAX(u, v), MIN(u, v), u < v, llabs(u), (u > 0) - (u < 0)};
				assert_int_equal(r[i], (int32_t)(uint32_t)(uint64_t)want[o]);
			}
		}
}

/* ---- Reductions ------------------------------------------------------------------- */

/* The sum of n terms in some order: gamma_n sum |x|; squares are rounded too, and a root halves
 * relative errors. */
static void test_reductions(void **state)
{
	(void)state;
	for (int round = 0; round < 300; round++) {
		int64_t dim[EW_MAX_DIMS], kept[EW_MAX_DIMS];
		int rank = pick_shape(dim, 5, 40000);
		uint32_t mask = (uint32_t)pick_int(1, (1 << rank) - 1);
		k_reduction how = (k_reduction)pick_int(K_SUM, K_L2);
		int64_t count = 1;
		for (int d = 0; d < rank; d++) {
			kept[d] = mask >> d & 1 ? 1 : dim[d];
			count *= mask >> d & 1 ? dim[d] : 1;
		}
		array a, y;
		make(&a, rank, dim, pick_int(0, 1) ? K_F16 : K_F32, false);
		make(&y, rank, kept, pick_int(0, 1) ? K_F16 : K_F32, true);
		fill(&a, -3, 5);
		fill(&y, 0, 1);
		const ew_instr instr[] = {{.op = EW_LOAD, .dst = 0, .a = 0},
					  {.op = EW_NEG, .dst = 1, .a = 0}};
		ew_program p = {
		    .rank = rank, .ninstr = 2, .noperands = 1, .nregs = 2, .instr = instr, .operand = &a.o};
		memcpy(p.dim, dim, sizeof p.dim);
		char *first = malloc(y.bytes);
		for (int run = 0; run < nisa + CHECK_POOLS; run++) {
			memcpy(y.memory, y.before, y.bytes);
			k_reduce(run < nisa ? NULL : check_pools()[run - nisa], isas[run % nisa], &p, 1, how,
				 mask, &y.o);
			if (run == 0)
				memcpy(first, y.memory, y.bytes);
			else if (memcmp(first, y.memory, y.bytes) != 0)
				fail_msg("round %d run %d: other bits", round, run);
		}
		free(first);
		int64_t at[EW_MAX_DIMS] = {0};
		do {
			double sum = 0, size = 0, top = -INFINITY, low = INFINITY;
			int64_t inner[EW_MAX_DIMS] = {0}, span[EW_MAX_DIMS];
			for (int d = 0; d < rank; d++)
				span[d] = mask >> d & 1 ? dim[d] : 1;
			do {
				int64_t where[EW_MAX_DIMS];
				for (int d = 0; d < rank; d++)
					where[d] = at[d] + inner[d];
				double v = -(double)value(&a.o, a.memory, place(&a.o, rank, where));
				double t = how == K_SUM_SQUARE || how == K_L2 ? v * v : v;
				sum += t;
				size += fabs(t);
				top = fmax(top, v);
				low = fmin(low, v);
			} while (next(inner, rank, span));
			double want = how == K_MAX    ? top
				      : how == K_MIN  ? low
				      : how == K_MEAN ? sum / (double)count
				      : how == K_L2   ? sqrt(sum)
						      : sum;
			double n = (double)count + 2, bound = n * 0x1p-24 / (1 - n * 0x1p-24) * size;
			if (how == K_MAX || how == K_MIN)
				bound = 0;
			else if (how == K_MEAN)
				bound = bound / (double)count + fabs(want) * 0x1p-24;
			else if (how == K_L2)
				bound =
				    want == 0 ? 0 : bound / want; /* sqrt(s + e) - sqrt(s) <= e / sqrt(s) */
			if (y.o.type == K_F16)
				bound += (how == K_MAX || how == K_MIN) && a.o.type == K_F16
					     ? 0
					     : fmax(fabs(want) * 0x1p-11, 0x1p-25) * 1.01;
			double got = (double)value(&y.o, y.memory, place(&y.o, rank, at));
			if (!(fabs(got - want) <= bound) && !(isinf(got) && fabs(want) > 65500))
				fail_msg("round %d how %d count %d: %.9g, expected %.9g +- %.3g", round,
					 (int)how, (int)count, got, want, bound);
		} while (next(at, rank, kept));
		drop(&a);
		drop(&y);
	}
}

/* Rows whose mean of squares is ordinary, too large for fp16, too small, 0, and of an infinity. */
static void test_reduction_counts(void **state)
{
	(void)state;
	enum { ROWS = 5, LENGTH_OF_ROW = 3000 };
	static const float of_row[ROWS] = {2, 300, 0x1p-14f, 0, INFINITY};
	static half x[ROWS][LENGTH_OF_ROW], y[ROWS];
	for (int i = 0; i < ROWS; i++)
		for (int j = 0; j < LENGTH_OF_ROW; j++)
			x[i][j] = half_from_float(of_row[i]);
	const ew_instr instr[] = {{.op = EW_LOAD, .dst = 0, .a = 0}, {.op = EW_SQUARE, .dst = 0, .a = 0}};
	const ew_operand in = {x, K_F16, {LENGTH_OF_ROW, 1}}, out = {y, K_F16, {1, 0}};
	for (int run = 0; run < nisa + CHECK_POOLS; run++) {
		k_counts c[3] = {{0}};
		const ew_program p = {.rank = 2,
				      .dim = {ROWS, LENGTH_OF_ROW},
				      .ninstr = 2,
				      .noperands = 1,
				      .nregs = 1,
				      .instr = instr,
				      .operand = &in,
				      .counts = c};
		k_reduce(run < nisa ? NULL : check_pools()[run - nisa], isas[run % nisa], &p, 0, K_MEAN, 2,
			 &out);
		assert_true(c[2].results == ROWS && c[2].overflowed == 1 && c[2].vanished == 1 &&
			    c[2].largest == 4);
		assert_true(c[0].results == 0 && c[1].results == ROWS * LENGTH_OF_ROW);
	}
}

static void test_integer_sums(void **state)
{
	(void)state;
	int32_t x[7][33], y[33], z[7];
	for (int i = 0; i < 7; i++)
		for (int j = 0; j < 33; j++)
			x[i][j] = i * 1000 - j * 77;
	ew_instr load = {.op = EW_LOAD, .dst = 0, .a = 0};
	ew_operand a = {x, K_I32, {33, 1}}, over_i = {y, K_I32, {0, 1}}, over_j = {z, K_I32, {1, 0}};
	ew_program p = {.rank = 2,
			.dim = {7, 33},
			.ninstr = 1,
			.noperands = 1,
			.nregs = 1,
			.instr = &load,
			.operand = &a,
			.integer = true};
	k_reduce(NULL, isas[nisa - 1], &p, 0, K_SUM, 1, &over_i);
	k_reduce(NULL, isas[nisa - 1], &p, 0, K_MAX, 2, &over_j);
	for (int j = 0; j < 33; j++)
		assert_int_equal(y[j], 21000 - 7 * 77 * j);
	for (int i = 0; i < 7; i++)
		assert_int_equal(z[i], i * 1000);
}

/* ---- Softmax ---------------------------------------------------------------------- */

/* With d = x - max rounded (relative 2^-24, so e^d off by |d| 2^-24), e^d within 2 ulp, a sum of n terms and
 * two more operations: relative error at most (n + |d| + 6) 2^-23, and one rounding of the result. */
static void test_softmax(void **state)
{
	(void)state;
	for (int round = 0; round < 200; round++) {
		int64_t dim[EW_MAX_DIMS], rest[EW_MAX_DIMS];
		int rank = pick_shape(dim, 4, 30000), axis = pick_int(0, rank - 1);
		if (round < 3) {
			rank = 2;
			axis = round % 2;
			dim[!axis] = 3;
			dim[axis] = 5003;
		}
		/* now and then only what is not above a diagonal counts */
		int below = rank > 1 && pick_int(0, 1) ? pick_int(0, rank - 2) : -1;
		below += below >= axis;
		const int shift = pick_int(0, 1) ? 0 : pick_int(0, (int)dim[axis]);
		array x, y;
		make(&x, rank, dim, pick_int(0, 1) ? K_F16 : K_F32, false);
		make(&y, rank, dim, pick_int(0, 1) ? K_F16 : K_F32, true);
		fill(&x, -20, 20);
		fill(&y, 0, 1);
		if (x.o.type == K_F32 && x.bytes > 40)
			((float *)(void *)x.memory)[1] = -INFINITY;
		char *first = malloc(y.bytes);
		for (int run = 0; run < nisa + CHECK_POOLS; run++) {
			memcpy(y.memory, y.before, y.bytes);
			k_softmax(run < nisa ? NULL : check_pools()[run - nisa], isas[run % nisa], rank, dim,
				  axis, below, shift, &x.o, &y.o);
			if (run == 0)
				memcpy(first, y.memory, y.bytes);
			else if (memcmp(first, y.memory, y.bytes) != 0)
				fail_msg("round %d run %d: other bits", round, run);
		}
		free(first);
		memcpy(rest, dim, sizeof rest);
		rest[axis] = 1;
		int64_t at[EW_MAX_DIMS] = {0};
		do {
			double max = -INFINITY, sum = 0;
			for (int pass = 0; pass < 3; pass++)
				for (int64_t i = 0; i < dim[axis]; i++) {
					at[axis] = i;
					double v = (double)value(&x.o, x.memory, place(&x.o, rank, at));
					if (below >= 0 && i > at[below] + shift)
						v = -INFINITY;
					if (pass == 0)
						max = fmax(max, v);
					else if (pass == 1)
						sum += exp(v - max);
					else {
						double got = (double)value(&y.o, y.memory,
									   place(&y.o, rank, at)),
						       want = exp(v - max) / sum;
						if (isinf(max)) {
							assert_true(isnan(got) ||
								    (below >= 0 && i > at[below] + shift &&
								     got == 0));
							continue;
						}
						double d = isinf(v) ? 0 : max - v;
						double bound =
						    want * ((double)dim[axis] + d + 6) * 0x1p-23 + 0x1p-140;
						if (y.o.type == K_F16)
							bound += fmax(want * 0x1p-11, 0x1p-25) * 1.01;
						if (!(fabs(got - want) <= bound))
							fail_msg("round %d: %.9g, expected %.9g +- %.3g",
								 round, got, want, bound);
					}
				}
			at[axis] = 0;
		} while (next(at, rank, rest));
		drop(&x);
		drop(&y);
	}
}

/* ---- Conversion and copies -------------------------------------------------------- */

static void test_conversion(void **state)
{
	(void)state;
	enum { N = 1 << 16, M = 1 << 20 };
	half *h = malloc(M * sizeof *h);
	bfloat *b = malloc(M * sizeof *b);
	float *f = malloc(M * sizeof *f);
	for (int s = 0; s < nisa; s++) {
		for (int i = 0; i < N; i++)
			h[i] = (half)i;
		k_f16_to_f32(check_pools()[1], isas[s], f, h, N);
		for (int i = 0; i < N; i++)
			if (!check_same(f[i], half_to_float((half)i)))
				fail_msg("isa %x: f16 %04x gives %a", isas[s], i, (double)f[i]);
		for (int i = 0; i < M;
		     i++) /* all exponents and signs, ties and their neighbours among them */
			f[i] = bits_float((uint32_t)i << 12 ^ (i % 7 == 0 ? 1 : i % 11 == 0 ? 0xfff : 0));
		k_f32_to_f16(NULL, isas[s], h, f, M);
		k_f32_to_bf16(NULL, isas[s], b, f, M);
		for (int i = 0; i < M; i++)
			if (h[i] != half_from_float(f[i]) || b[i] != bfloat_from_float(f[i]))
				fail_msg("isa %x: %a gives %04x and %04x", isas[s], (double)f[i], h[i], b[i]);
	}
	free(h);
	free(b);
	free(f);
}

static void test_copy(void **state)
{
	(void)state;
	static const k_type by_size[] = {K_U8, K_F16, K_F32};
	for (int round = 0; round < 300; round++) {
		int64_t dim[EW_MAX_DIMS];
		int rank = pick_shape(dim, 5, 60000);
		k_type t = by_size[round % 3];
		array x, y;
		make(&x, rank, dim, t, false);
		make(&y, rank, dim, t, true);
		fill(&x, -100, 100);
		fill(&y, -100, 100);
		size_t size = k_type_size(t);
		k_copy_strided(check_pools()[round % CHECK_POOLS], size, rank, dim, y.o.data, y.o.stride,
			       x.o.data, x.o.stride);
		int64_t at[EW_MAX_DIMS] = {0};
		do {
			char *to = y.memory + place(&y.o, rank, at) * (int64_t)size;
			assert_memory_equal(to, x.memory + place(&x.o, rank, at) * (int64_t)size, size);
			memcpy(to, y.before + place(&y.o, rank, at) * (int64_t)size, size);
		} while (next(at, rank, dim));
		assert_memory_equal(y.memory, y.before, y.bytes);
		drop(&x);
		drop(&y);
	}
	/* 8 bytes, and a size of no machine word */
	uint64_t a[15], b[15];
	uint8_t c[15][3], d[15][3];
	for (int i = 0; i < 15; i++) {
		a[i] = (uint64_t)i << 40 | 5;
		c[i][0] = c[i][1] = c[i][2] = (uint8_t)i;
	}
	k_copy_strided(NULL, 8, 2, (int64_t[]){3, 5}, b, (int64_t[]){5, 1}, a, (int64_t[]){1, 3});
	k_copy_strided(NULL, 3, 2, (int64_t[]){3, 5}, d, (int64_t[]){5, 1}, c, (int64_t[]){1, 3});
	for (int i = 0; i < 3; i++)
		for (int j = 0; j < 5; j++) {
			assert_true(b[i * 5 + j] == a[i + j * 3]);
			assert_memory_equal(d[i * 5 + j], c[i + j * 3], 3);
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

/* ---- Half away from zero --------------------------------------------------------- */

/* What EW_AWAY makes of an exact result. */
static half away_f16(double x)
{
	int e;
	if (isnan(x) || isinf(x))
		return half_from_double(x);
	double m = frexp(fabs(x), &e);
	double y = ldexp(round(m * 2048), e - 11); /* round(): half away from zero */
	if (y < 0x1p-14)
		y = round(y * 0x1p24) * 0x1p-24;
	return half_from_double(copysign(y >= 65536 ? INFINITY : y, x));
}

/* Random patterns, and pairs whose results lie near ties and near the ends of fp16. */
static void test_away(void **state)
{
	(void)state;
	enum { N = 1 << 17 };
	static half a[N], b[N], y[N];
	static const uint8_t ops[] = {EW_ADD, EW_SUB, EW_MUL};
	static const half special[] = {0,      0x8000, 1,      0x8001, 0x03ff, 0x0400, 0x3c00, 0x3c01,
				       0x6800, 0xe800, 0x6801, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00};
	for (int i = 0; i < N; i++) {
		a[i] = (half)check_uniform(31, (uint64_t)i, 0, 65536);
		b[i] = (half)check_uniform(32, (uint64_t)i, 0, 65536);
		if (i % 4 == 1) /* an exponent apart by what a sum keeps, or nearly */
			b[i] = (half)((b[i] & 0x83ff) | MAX((a[i] >> 10 & 31) - 10 - i / 4 % 4, 0) << 10);
		if (i % 4 == 2) { /* few significant bits: ties */
			a[i] &= 0xffe0;
			b[i] &= 0xffc0;
		}
		if (i % 4 == 3) { /* products near and below 2^-14 */
			a[i] = (half)((a[i] & 0x83ff) | (i / 4 % 15 + 1) << 10);
			b[i] = (half)((b[i] & 0x83ff) | (15 - i / 4 % 15) << 10);
		}
	}
	for (int i = 0; i < LENGTH(special); i++)
		for (int j = 0; j < LENGTH(special); j++) {
			a[i * LENGTH(special) + j] = special[i];
			b[i * LENGTH(special) + j] = special[j];
		}
	for (int o = 0; o < LENGTH(ops); o++)
		for (int run = 0; run < nisa; run++) {
			const ew_instr instr[] = {
			    {.op = EW_LOAD, .dst = 0, .a = 0},
			    {.op = EW_LOAD, .dst = 1, .a = 1},
			    {.op = ops[o], .dst = 0, .a = 0, .b = 1, .round16 = EW_AWAY, .flags = EW_NAN_INF},
			    {.op = EW_STORE, .dst = 2, .a = 0}};
			const ew_operand operand[] = {{a, K_F16, {1}}, {b, K_F16, {1}}, {y, K_F16, {1}}};
			k_ewise(NULL, isas[run],
				&(ew_program){.rank = 1,
					      .dim = {N},
					      .ninstr = 4,
					      .noperands = 3,
					      .nregs = 2,
					      .instr = instr,
					      .operand = operand});
			for (int i = 0; i < N; i++) {
				double p = (double)half_to_float(a[i]), q = (double)half_to_float(b[i]);
				p = isnan(p) ? (double)INFINITY : p;
				q = isnan(q) ? (double)INFINITY : q;
				double x = ops[o] == EW_ADD ? p + q : ops[o] == EW_SUB ? p - q : p * q;
				half want = away_f16(x);
				if (!check_same(half_to_float(y[i]), half_to_float(want)))
					fail_msg("op %d, %a and %a give %a, expected %a", ops[o], p, q,
						 half_to_float(y[i]), half_to_float(want));
			}
		}
	/* measured ones */
	assert_int_equal(away_f16(2048 + 1), half_from_float(2050));
	assert_int_equal(away_f16(65504 + 0), half_from_float(65504));
	assert_int_equal(away_f16(16384 + 16384), half_from_float(32768));
	assert_int_equal(away_f16(0x1p-24), 1);
	assert_int_equal(away_f16(256 * 256), 0x7c00);
}

/* An instruction on all fp16 values as a, and one value of b, in fp16 or, if not `narrow`, in fp32. */
static void run_all(ew_instr x, float b, uint32_t isa, void *y, bool narrow, k_counts *counts)
{
	static half all[1 << 16];
	for (int i = 0; i < 1 << 16; i++)
		all[i] = (half)i;
	x.a = x.dst = 0;
	x.b = x.c = 1;
	const ew_instr instr[] = {{.op = EW_LOAD, .dst = 0, .a = 0},
				  {.op = EW_IMM, .dst = 1, .imm = b},
				  x,
				  {.op = EW_STORE, .dst = 1, .a = 0}};
	const ew_operand operand[] = {{all, K_F16, {1}}, {y, narrow ? K_F16 : K_F32, {1}}};
	k_ewise(check_pools()[2], isa,
		&(ew_program){.rank = 1,
			      .dim = {1 << 16},
			      .ninstr = 4,
			      .noperands = 2,
			      .nregs = 2,
			      .instr = instr,
			      .operand = operand,
			      .counts = counts});
}

static const uint8_t every_op[] = {
    EW_ADD,      EW_SUB,   EW_MUL,       EW_DIV,  EW_POW,        EW_MAX,          EW_MIN,
    EW_LT,       EW_MOV,   EW_ABS,       EW_NEG,  EW_SIGN,       EW_SQUARE,       EW_SQRT,
    EW_RSQRT,    EW_INV,   EW_EXP,       EW_EXP2, EW_LOG,        EW_SIN,          EW_COS,
    EW_ERF,      EW_FLOOR, EW_CEIL,      EW_RELU, EW_LEAKY_RELU, EW_ELU,          EW_CLIP,
    EW_SIGMOID,  EW_TANH,  EW_SILU,      EW_GELU, EW_GELU_TANH,  EW_GELU_SIGMOID, EW_SOFTPLUS,
    EW_SOFTSIGN, EW_TRUNC, EW_FLOOR_DIV, EW_MOD,  EW_SELECT,     EW_ADD_ALIGNED};

/* Whatever the instruction: what its flags change of operands, it computes as if it had got them so; its
 * fp32 result rounded half away; then what its flags change of results.  Portable code is taken for
 * the fp32 results, which other tests check. */
static void test_flags(void **state)
{
	(void)state;
	enum { N = 1 << 16, SIGN = 0x8000 };
	static float plain[N], at_inf, at_zero;
	static half y[N];
	static const float bs[] = {0.0f, -0.0f, 3, 0x1p-24f, INFINITY, -INFINITY, NAN};
	for (int o = 0; o < LENGTH(every_op); o++)
		for (int flags = 0; flags < 8; flags++) {
			float b = bs[(o + flags) % LENGTH(bs)], taken = b;
			bool nan_inf = flags & EW_NAN_INF, plus = flags & EW_ZERO_PLUS;
			taken = nan_inf && isnan(taken) ? INFINITY : taken;
			taken = plus && taken == 0 ? 0.0f : taken;
			ew_instr x = {.op = every_op[o], .imm = 0.25f, .imm2 = 2};
			run_all(x, taken, 0, plain, false, NULL);
			at_inf = plain[0x7c00];
			at_zero = plain[0];
			x.flags = (uint8_t)flags;
			x.round16 = EW_AWAY;
			for (int run = 0; run < nisa; run++) {
				run_all(x, b, isas[run], y, true, NULL);
				for (int i = 0; i < N; i++) {
					float w = nan_inf && (i & ~SIGN) > 0x7c00 ? at_inf : plain[i];
					w = plus && i == SIGN ? at_zero : w;
					half want = away_f16((double)w);
					want = flags & EW_NAN_ZERO && isnan(w) ? 0 : want;
					want = plus && want == SIGN ? 0 : want;
					if (!check_same(half_to_float(y[i]), half_to_float(want)))
						fail_msg("op %d flags %d, %a and %a give %a, expected %a",
							 every_op[o], flags, half_to_float((half)i), b,
							 half_to_float(y[i]), half_to_float(want));
				}
			}
		}
}

/* Integers as C's round() takes them; a tie to even without EW_AWAY. */
static void test_round(void **state)
{
	(void)state;
	static half y[1 << 16];
	for (int run = 0; run < 2 * nisa; run++) {
		bool away = run % 2;
		run_all((ew_instr){.op = EW_ROUND, .round16 = away ? EW_AWAY : EW_KEEP}, 0, isas[run / 2], y,
			true, NULL);
		for (int i = 0; i < 1 << 16; i++) {
			double v = (double)half_to_float((half)i), want = away ? round(v) : nearbyint(v);
			if (!check_same(half_to_float(y[i]), (float)want))
				fail_msg("%a gives %a", v, half_to_float(y[i]));
		}
	}
}

/* Every fp16 with some others: both cut off by powers of two in double, then added. */
static void test_add_aligned(void **state)
{
	(void)state;
	static float y[1 << 16];
	static const float bs[] = {0,     1,         -1,   4096,     -4096, 1.0009765625f,
				   65504, -0x1p-24f, 2047, INFINITY, 12345};
	for (int k = 0; k < LENGTH(bs); k++)
		for (int run = 0; run < nisa; run++) {
			run_all((ew_instr){.op = EW_ADD_ALIGNED}, bs[k], isas[run], y, false, NULL);
			for (int i = 0; i < 1 << 16; i++) {
				const double a = (double)half_to_float((half)i), b = (double)bs[k];
				double want = a + b;
				if (isfinite(want)) {
					int ea, eb;
					frexp(a, &ea);
					frexp(b, &eb);
					const int e = a == 0 ? eb : b == 0 ? ea : MAX(ea, eb);
					const double grid = ldexp(1, e - 12);
					want = (trunc(a / grid) + trunc(b / grid)) * grid;
				}
				if (!check_same(y[i], (float)want))
					fail_msg("%a and %a give %a, not %a", a, b, y[i], want);
			}
		}
}

/* ---- Counting --------------------------------------------------------------------- */

/* Counts of single instructions, taken again from operands and results; the same for all sets. */
static void test_counts(void **state)
{
	(void)state;
	enum { N = 1 << 16 };
	static half y[N];
	static const float bs[] = {0x1p-10f, 300, 0, INFINITY};
	for (int o = 0; o < LENGTH(every_op); o++)
		for (int run = 0; run < nisa * LENGTH(bs); run++) {
			const ew_op op = every_op[o];
			const float b = bs[run / nisa];
			const ew_instr x = {.op = (uint8_t)op,
					    .round16 = EW_AWAY,
					    .flags = EW_NAN_INF | EW_NAN_ZERO | EW_ZERO_PLUS,
					    .imm2 = 2};
			k_counts got[5] = {{0}}, want = {.results = N};
			run_all(x, b, isas[run % nisa], y, true, got);
			/* ORDER EW: what is left out here has results that are 0 by right */
			bool zero_of_zero = op == EW_MUL || op == EW_DIV || op == EW_SQUARE || op == EW_MOV ||
					    op == EW_INV || op == EW_SIN || op == EW_ERF || op == EW_TANH ||
					    op == EW_LEAKY_RELU || op == EW_ELU || op == EW_SILU ||
					    op == EW_GELU || op == EW_GELU_TANH || op == EW_GELU_SIGMOID ||
					    op == EW_SOFTSIGN;
			bool positive = op == EW_SQRT || op == EW_RSQRT || op == EW_POW;
			bool never_zero = op == EW_EXP || op == EW_EXP2 || op == EW_COS || op == EW_SIGMOID ||
					  op == EW_SOFTPLUS;
			bool binary = op >= EW_ADD && op <= EW_GE;
			for (int i = 0; i < N; i++) {
				float a = half_to_float((half)i), r = half_to_float(y[i]);
				bool finite = isfinite(a) && (isfinite(b) || !(binary || op == EW_SELECT));
				bool nonzero = a != 0 && (b != 0 || !binary);
				want.overflowed += finite && isinf(r);
				want.vanished += finite && r == 0 &&
						 (never_zero || (zero_of_zero && nonzero) ||
						  (positive && nonzero && a > 0));
				if (isfinite(r))
					want.largest = fmaxf(want.largest, fabsf(r));
			}
			if (memcmp(&got[2], &want, sizeof want) != 0)
				fail_msg(
				    "op %d b %a: %d overflowed, %d vanished, largest %a; expected %d, %d, %a",
				    op, b, (int)got[2].overflowed, (int)got[2].vanished, got[2].largest,
				    (int)want.overflowed, (int)want.vanished, want.largest);
			for (int i = 0; i < 5; i++)
				assert_true(i == 2 || (got[i].results == 0 && got[i].largest == 0));
		}
	/* 2^-24 2^-1 is a tie, 2^-24 2^-2 vanishes; added to what was there */
	k_counts c[5] = {{.results = 5}, {0}, {.results = 7, .largest = 1e9f}};
	run_all((ew_instr){.op = EW_MUL, .round16 = EW_AWAY}, 0x1p-2f, isas[nisa - 1], y, true, c);
	assert_int_equal(c[2].results, 7 + 65536);
	assert_int_equal(c[2].vanished, 2);
	assert_int_equal(c[2].overflowed, 0);
	assert_true(c[0].results == 5 && c[2].largest == 1e9f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_away),
					   cmocka_unit_test(test_flags),
					   cmocka_unit_test(test_round),
					   cmocka_unit_test(test_add_aligned),
					   cmocka_unit_test(test_counts),
					   cmocka_unit_test(test_programs),
					   cmocka_unit_test(test_in_place),
					   cmocka_unit_test(test_halves),
					   cmocka_unit_test(test_integers),
					   cmocka_unit_test(test_reductions),
					   cmocka_unit_test(test_reduction_counts),
					   cmocka_unit_test(test_integer_sums),
					   cmocka_unit_test(test_softmax),
					   cmocka_unit_test(test_conversion),
					   cmocka_unit_test(test_copy)};
	return cmocka_run_group_tests(tests, begin, end);
}
