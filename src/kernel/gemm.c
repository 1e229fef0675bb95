/* Choosing a GEMM kernel, and the loops around it. */
#include "kernel/gemm_fixed.h"
#include "kernel/gemm_int.h"
#include "kernel/loops.h"

#include <assert.h>
#include <string.h>

/* ---- The table -------------------------------------------------------------------- */

#define NEAR  (1u << K_NEAR)
#define EXACT (1u << K_EXACT | NEAR)
#define FAST  (1u << K_FAST)
#define FIXED (1u << K_FIXED)

/* In order of preference: the first row that fits is taken. */
/* clang-format off */
const struct k_gemm_row gemm_table[] = {
#ifdef __x86_64__
	{.name = "vector_avx512", .isa = ISA_AVX512, .precision = EXACT | FAST, .mc = 256, .vector = gemm_vector_avx512},
#define AMX (ISA_AVX512 | ISA_AVX512_BF16 | ISA_AMX_BF16)
#define AMX_BLOCKS .mr = 32, .nr = 32, .kr = 32, .mc = 512, .kc = 256, .nc = 512, .begin = gemm_amx_begin, .end = gemm_amx_end
	{.name = "amx_f16_32x32", .isa = AMX | ISA_AMX_FP16, .precision = EXACT | FAST, .f16_only = true, AMX_BLOCKS,
	 .element = 2, .pack_a = pack_amx_f16_a, .pack_b = pack_amx_f16_b, .kernel = gemm_amx_f16},
	{.name = "amx_bf16_32x32", .isa = AMX, .precision = FAST, AMX_BLOCKS, .element = 2,
	 .pack_a = pack_amx_a, .pack_b = pack_amx_b, .kernel = gemm_amx},
	{.name = "amx_split3_32x32", .isa = AMX, .precision = NEAR, .f16_only = true, AMX_BLOCKS, .element = 4, .head = 64,
	 .pack_a = pack_amx_split_a, .pack_b = pack_amx_split_b, .kernel = gemm_amx_split3},
	{.name = "amx_split_32x32", .isa = AMX, .precision = EXACT, .f16_only = true, AMX_BLOCKS, .element = 4, .head = 64,
	 .pack_a = pack_amx_split_a, .pack_b = pack_amx_split_b, .kernel = gemm_amx_split},
	{.name = "bf16_avx512_12x32", .isa = ISA_AVX512 | ISA_AVX512_BF16 | ISA_BF16_FAST, .precision = FAST, .mr = 12, .nr = 32, .kr = 2,
	 .element = 2, .mc = 120, .kc = 512, .nc = 512, .follows = true,
	 .pack_a = pack_bf16_avx512_a, .pack_b = pack_bf16_avx512_b, .kernel = gemm_bf16_avx512,
	 .kernel_half = gemm_bf16_avx512_half},
	{.name = "f16_avx512fp16_12x64", .isa = ISA_AVX512 | ISA_AVX512_FP16, .precision = FAST, .f16_only = true, .mr = 12,
	 .nr = 64, .kr = 1, .element = 2, .element_a = 4, .head = 256, .mc = 240, .kc = 192, .nc = 512,
	 .pack_a = pack_f16_avx512_a, .pack_b = pack_f16_avx512_b, .kernel = gemm_f16_avx512},
	{.name = "f32_avx512_12x32", .isa = ISA_AVX512, .precision = EXACT | FAST, .mr = 12, .nr = 32, .kr = 1, .element = 4,
	 .mc = 240, .kc = 256, .nc = 512,
	 .pack_a = pack_f32_avx512_a, .pack_b = pack_f32_avx512_b, .kernel = gemm_f32_avx512,
	 .kernel_half = gemm_f32_avx512_half},
	{.name = "fixed_vector_avx512", .isa = ISA_AVX512, .precision = FIXED, .f16_only = true, .kr = 16, .element = 8,
	 .trailer = 64, .mc = 64, .pack_a = pack_fixed_vector_avx512, .vector = gemm_fixed_vector_avx512},
	{.name = "fixed_avx512_12x32", .isa = ISA_AVX512, .precision = FIXED, .f16_only = true, .mr = 12, .nr = 32, .kr = 1,
	 .element = 8, .trailer = 64, .mc = 48, .kc = FIXED_WHOLE_K, .nc = 128,
	 .pack_a = pack_fixed_avx512_a, .pack_b = pack_fixed_avx512_b, .kernel = gemm_fixed_avx512},
	{.name = "int_amx_32x32", .isa = ISA_AVX512 | ISA_AMX_INT8, .precision = EXACT, .integer = true, .mr = 32, .nr = 32,
	 .kr = 64, .element = 1, .head = 64, .mc = 512, .kc = 512, .nc = 512, .begin = gemm_amx_begin, .end = gemm_amx_end,
	 .pack_a = pack_int_amx_a, .pack_b = pack_int_amx_b, .kernel = gemm_int_amx},
	{.name = "int_avx512vnni_12x32", .isa = ISA_AVX512 | ISA_AVX512_VNNI, .precision = EXACT, .integer = true, .mr = 12,
	 .nr = 32, .kr = 4, .element = 1, .trailer = GEMM_INT_VNNI_TRAILER, .mc = 120, .kc = 1024, .nc = 512,
	 .pack_a = pack_int_avx512vnni_a, .pack_b = pack_int_avx512vnni_b, .kernel = gemm_int_avx512vnni},
	{.name = "int_avx2_6x16", .isa = ISA_AVX2, .precision = EXACT, .integer = true, .mr = 6, .nr = 16, .kr = 2,
	 .element = 2, .mc = 120, .kc = 512, .nc = 256,
	 .pack_a = pack_int_avx2_a, .pack_b = pack_int_avx2_b, .kernel = gemm_int_avx2},
	{.name = "vector_avx2", .isa = ISA_AVX2, .precision = EXACT | FAST, .mc = 256, .vector = gemm_vector_avx2},
	{.name = "fixed_vector_avx2", .isa = ISA_AVX2, .precision = FIXED, .f16_only = true, .kr = 8, .element = 8,
	 .trailer = 64, .mc = 64, .pack_a = pack_fixed_vector_avx2, .vector = gemm_fixed_vector_avx2},
	{.name = "fixed_avx2_4x16", .isa = ISA_AVX2, .precision = FIXED, .f16_only = true, .mr = 4, .nr = 16, .kr = 1,
	 .element = 8, .trailer = 64, .mc = 48, .kc = FIXED_WHOLE_K, .nc = 128,
	 .pack_a = pack_fixed_avx2_a, .pack_b = pack_fixed_avx2_b, .kernel = gemm_fixed_avx2},
	{.name = "f32_avx2_6x16", .isa = ISA_AVX2, .precision = EXACT | FAST, .mr = 6, .nr = 16, .kr = 1, .element = 4,
	 .mc = 120, .kc = 256, .nc = 256,
	 .pack_a = pack_f32_avx2_a, .pack_b = pack_f32_avx2_b, .kernel = gemm_f32_avx2},
#endif
#ifdef __aarch64__
	/* Blocks by reasoning, not by measurement: first-level caches of 64 KB (Neoverse) to 128 KB (M1 to M4),
	 * second-level ones of 1 MB per core to 16 MB for a few. */
	{.name = "vector_neon", .isa = ISA_NEON, .precision = EXACT | FAST, .mc = 256, .vector = gemm_vector_neon},
	{.name = "bf16_neon_8x12", .isa = ISA_NEON | ISA_NEON_BF16, .precision = FAST, .mr = 8, .nr = 12, .kr = 4,
	 .element = 2, .mc = 120, .kc = 512, .nc = 480,
	 .pack_a = pack_bf16_neon_a, .pack_b = pack_bf16_neon_b, .kernel = gemm_bf16_neon},
	{.name = "f32_neon_8x12", .isa = ISA_NEON, .precision = EXACT | FAST, .mr = 8, .nr = 12, .kr = 1, .element = 4,
	 .mc = 120, .kc = 256, .nc = 480,
	 .pack_a = pack_f32_neon_a, .pack_b = pack_f32_neon_b, .kernel = gemm_f32_neon},
	{.name = "int_neoni8mm_8x12", .isa = ISA_NEON | ISA_NEON_I8MM, .precision = EXACT, .integer = true, .mr = 8,
	 .nr = 12, .kr = 8, .element = 1, .trailer = GEMM_INT_NEON_TRAILER, .mc = 120, .kc = 1024, .nc = 480,
	 .pack_a = pack_int_neoni8mm_a, .pack_b = pack_int_neoni8mm_b, .kernel = gemm_int_neoni8mm},
	{.name = "int_neondot_8x12", .isa = ISA_NEON | ISA_NEON_DOT, .precision = EXACT, .integer = true, .mr = 8,
	 .nr = 12, .kr = 4, .element = 1, .trailer = GEMM_INT_NEON_TRAILER, .mc = 120, .kc = 1024, .nc = 480,
	 .pack_a = pack_int_neondot_a, .pack_b = pack_int_neondot_b, .kernel = gemm_int_neondot},
	{.name = "fixed_vector_neon", .isa = ISA_NEON, .precision = FIXED, .f16_only = true, .kr = 4, .element = 8,
	 .trailer = 64, .mc = 64, .pack_a = pack_fixed_vector_neon, .vector = gemm_fixed_vector_neon},
	{.name = "fixed_neon_8x8", .isa = ISA_NEON, .precision = FIXED, .f16_only = true, .mr = 8, .nr = 8, .kr = 1,
	 .element = 8, .trailer = 64, .mc = 48, .kc = FIXED_WHOLE_K, .nc = 128,
	 .pack_a = pack_fixed_neon_a, .pack_b = pack_fixed_neon_b, .kernel = gemm_fixed_neon},
#endif
	{.name = "fixed_portable_4x8", .precision = FIXED, .f16_only = true, .mr = 4, .nr = 8, .kr = 1, .element = 2,
	 .mc = 64, .kc = FIXED_WHOLE_K, .nc = 64,
	 .pack_a = pack_fixed_portable_a, .pack_b = pack_fixed_portable_b, .kernel = gemm_fixed_portable},
	{.name = "int_portable_4x8", .precision = EXACT, .integer = true, .mr = 4, .nr = 8, .kr = 1, .element = 2,
	 .mc = 64, .kc = INT_WHOLE_K, .nc = 64,
	 .pack_a = pack_int_portable_a, .pack_b = pack_int_portable_b, .kernel = gemm_int_portable},
	{.name = "vector_portable", .precision = EXACT | FAST, .mc = 256, .vector = gemm_vector_portable},
	{.name = "f32_portable_4x8", .precision = EXACT | FAST, .mr = 4, .nr = 8, .kr = 1, .element = 4,
	 .mc = 64, .kc = 256, .nc = 256,
	 .pack_a = pack_f32_portable_a, .pack_b = pack_f32_portable_b, .kernel = gemm_f32_portable},
};
/* clang-format on */
const int gemm_table_size = LENGTH(gemm_table);

static bool is_integer(const k_gemm_args *g)
{
	return (g->a.type == K_I8 || g->a.type == K_U8) && (g->b.type == K_I8 || g->b.type == K_U8);
}

bool k_gemm_saturates(const k_gemm_args *g) { return gemm_int_saturates(g->a.type, g->b.type, g->k); }

static bool fits(const k_gemm_row *r, const k_gemm_args *g, uint32_t isa)
{
	if (r->integer != is_integer(g) || (r->integer && r->kc < g->k && k_gemm_saturates(g)))
		return false;
	if ((r->isa & isa) != r->isa || !(r->precision >> g->precision & 1))
		return false;
	if (r->f16_only && (g->a.type != K_F16 || g->b.type != K_F16))
		return false;
	return !r->vector || MIN(g->m, g->n) <= GEMM_VECTORS;
}

const k_gemm_row *k_gemm_select(const k_gemm_args *g, uint32_t isa)
{
	int i = 0;
	assert(g->precision != K_FIXED || (g->a.type == K_F16 && g->b.type == K_F16));
	assert(!is_integer(g) || (g->precision == K_EXACT && g->c.type == K_I32));
	while (!fits(&gemm_table[i], g, isa))
		i++; /* ends: portable rows take everything */
	return &gemm_table[i];
}

const char *k_gemm_name(const k_gemm_row *r) { return r->name; }

bool k_gemm_takes_blocks(const k_gemm_row *r, int64_t k_block)
{
	return !r->vector && !r->integer && !(r->precision & FIXED) && k_block > 0 && k_block <= r->kc &&
	       k_block % r->kr == 0;
}

/* ---- The plan --------------------------------------------------------------------- */

typedef enum packing {
	LOCAL,  /* every block of C packs what it needs */
	SHARED, /* packed once for all threads before they start */
	PACKED  /* by the caller */
} packing;

/* How a product is cut up.  Nothing here changes results: each element of C is the sum over
 * blocks of kc of one kernel's sum, wherever its tile lies and whoever computes it. */
typedef struct gemm_plan {
	const k_gemm_row *row;
	k_gemm_args g;   /* perhaps transposed */
	bool transposed; /* so it is */
	int64_t batches;
	int64_t mc;         /* rows of a block, of rows with `vector` only */
	int64_t nc, kc;     /* columns that a block has at most; all blocks of K but the last have kc */
	int64_t mb, nb, kb; /* their numbers; nb within a chunk */
	int64_t group; /* blocks of K that are taken together: all, or what the second-level cache holds */
	int64_t chunk, slab; /* columns of B, and blocks of K, that are packed at once; SHARED only */
	packing pack_a, pack_b;
	bool direct; /* kernels write to C itself */
	bool parallel;
	size_t shared_b, sums_bytes, shared_bytes; /* scratch of all: B, sums between slabs, then A */
	size_t a_bytes, b_bytes, x_bytes;
	size_t local_bytes; /* scratch of one thread */
	char *scratch;
	/* while running */
	int64_t batch, column, first; /* first column of the chunk, first block of the slab */
} gemm_plan;

#define ALIGN        64
#define SHARED_LIMIT ((int64_t)32 << 20)
/* A larger B of so many K blocks that A's are taken in groups is packed and used up a group at a time, while
 * the third-level cache has it; sums of all of C wait in between. */
#define SLAB_LIMIT     ((int64_t)8 << 20)
#define SHARED_A_LIMIT ((int64_t)8 << 20)
/* Of A for one block of C, all of K if that leaves LEAST_PANELS panels, else ENOUGH_PANELS of a group of K
 * blocks: half of a second-level cache of 1 MB, the rest is for panels of B and for C.  ENOUGH_PANELS use a
 * panel of B often enough: vector code takes 18000 cycles for 8 times 12 x 32 sums of 384 pairs, and has to
 * fetch 25 KB. */
#define L2_LIMIT      ((int64_t)1 << 19)
#define LEAST_PANELS  4
#define ENOUGH_PANELS 8
/* Products smaller than this (multiplications) stay on the caller's thread. */
#define PARALLEL_PRODUCTS 65536
#define VECTOR_BYTES      524288

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

static k_triangle turned(k_triangle t) { return t == K_LOWER ? K_UPPER : t == K_UPPER ? K_LOWER : K_WHOLE; }

/* Kernels see the operands exchanged. */
static bool is_turned(const k_gemm_args *g) { return g->c.cs != 1 && g->c.rs == 1; }

void k_gemm_transpose(k_gemm_args *g)
{
	k_matrix a = g->a;
	int64_t m = g->m;
	g->a = g->b;
	g->b = a;
	g->m = g->n;
	g->n = m;
	const void *packed = g->packed_a;
	g->packed_a = g->packed_b;
	g->packed_b = packed;
	k_triangle t = g->triangle_a;
	g->triangle_a = turned(g->triangle_b);
	g->triangle_b = turned(t);
	g->triangle_c = turned(g->triangle_c);
	const int64_t d = g->diagonal_a;
	g->diagonal_a = -g->diagonal_b;
	g->diagonal_b = -d;
	g->diagonal_c = -g->diagonal_c;
	k_matrix *const all[] = {&g->a, &g->b, &g->c, &g->bias};
	for (int i = 0; i < LENGTH(all); i++) {
		k_matrix *x = all[i];
		int64_t rs = x->rs;
		x->rs = x->cs;
		x->cs = rs;
	}
}

/* Vectors of a panel of A or B, and bytes of one element of each. */
static int width_of(const k_gemm_row *r, k_operand x) { return x == K_A ? r->mr : r->nr; }
static int step_of(const k_gemm_row *r, k_operand x)
{
	return x == K_A && r->element_a ? r->mr * r->element_a : width_of(r, x) * r->element;
}

static size_t panel_bytes(const k_gemm_row *r, k_operand x, int64_t k)
{
	return (size_t)(step_of(r, x) * k + r->head + r->trailer);
}

/* Panels of one block of K that hold `count` vectors; and those of all blocks of K. */
static size_t block_bytes(const gemm_plan *q, k_operand x, int64_t count)
{
	const int64_t panels = ceil_div(count, width_of(q->row, x));
	return (size_t)round_up((int64_t)panel_bytes(q->row, x, q->kc) * panels, ALIGN);
}
static size_t panels_bytes(const gemm_plan *q, k_operand x, int64_t count)
{
	const int64_t panels = ceil_div(count, width_of(q->row, x)) * q->kb;
	return (size_t)round_up((int64_t)panel_bytes(q->row, x, q->kc) * panels, ALIGN);
}

/* The number of blocks of about `block` that n falls into, and the even size of one. */
static int64_t cut(int64_t n, int64_t block, int64_t unit, int64_t *size)
{
	int64_t count = MAX(ceil_div(n, block), 1);
	*size = MAX(round_up(ceil_div(n, count), unit), unit);
	return MAX(ceil_div(n, *size), 1);
}

/* Blocks of at most about `block` of n, whole panels of `unit`, as even as these allow; as many for each of
 * `threads`, unless they would be tiny. */
static int64_t blocks_of(int64_t n, int64_t block, int unit, int threads)
{
	const int64_t panels = MAX(ceil_div(n, unit), 1);
	int64_t count = ceil_div(panels, MAX(block / unit, 1));
	if (count > 1 && round_up(count, threads) * LEAST_PANELS <= panels)
		count = round_up(count, threads);
	return count;
}
/* Where the i-th begins; the one after the last begins at n or beyond. */
static int64_t begin_of(int64_t n, int64_t count, int unit, int64_t i)
{
	return i * MAX(ceil_div(n, unit), 1) / count * unit;
}
static int64_t first_row(const gemm_plan *q, int64_t block)
{
	return begin_of(q->g.m, q->mb, q->row->mr, block);
}
static int64_t first_column(const gemm_plan *q, int64_t block) /* within a chunk */
{
	return begin_of(q->chunk, q->nb, q->row->nr, block);
}

/* From row to row of the sums between slabs: not a multiple of 4 KB. */
static int64_t sums_ld(const gemm_plan *q) { return round_up(q->chunk, q->row->nr) + q->row->nr; }

static void make_plan(gemm_plan *q, const k_gemm_row *r, const k_gemm_args *args, int threads)
{
	*q = (gemm_plan){.row = r, .g = *args, .batches = 1};
	k_gemm_args *g = &q->g;
	assert(g->nbatch <= GEMM_BATCH_DIMS && (!g->accumulate || g->c.type == K_F32));
	assert(!(r->precision & FIXED) || !g->accumulate);
	assert(r->integer == (g->c.type == K_I32));
	for (int d = 0; d < g->nbatch; d++)
		q->batches *= g->batch[d];
	q->transposed = r->vector ? g->m < g->n : is_turned(g);
	if (q->transposed)
		k_gemm_transpose(g);
	q->parallel = threads > 1 && q->batches * g->m * g->n * g->k >= PARALLEL_PRODUCTS;
	if (r->vector) {
		assert(!g->packed_a && !g->packed_b);
		threads = q->parallel ? threads : 1;
		/* Some 500 KB, as many times as there are threads: that many finish together.  Behind the end
		 * of a piece a thread asks for what another one reads. */
		int64_t bytes = g->m * g->k * (int64_t)k_type_size(g->a.type);
		int64_t rounds = MAX((bytes / threads + VECTOR_BYTES / 2) / VECTOR_BYTES, 1);
		q->mb = cut(g->m, ceil_div(g->m, rounds * threads), 1, &q->mc);
		q->x_bytes =
		    r->pack_a ? (size_t)(round_up(g->k, r->kr) * r->element + r->trailer) : (size_t)g->k * 4;
		q->x_bytes = (size_t)round_up((int64_t)q->x_bytes, ALIGN);
		q->shared_bytes = q->x_bytes * (size_t)(q->batches * g->n);
		return;
	}
	q->direct = (g->c.type == K_F32 || g->c.type == K_I32) && g->c.cs == 1;
	assert(!g->k_block || k_gemm_takes_blocks(r, g->k_block));
	q->kb = g->k_block ? MAX(ceil_div(g->k, g->k_block), 1) : cut(g->k, r->kc, r->kr, &q->kc);
	q->kc = g->k_block ? g->k_block : q->kc;
	/* One large product shares its packed B.  Of many, each thread takes some; so it does with those too
	 * small to be worth two rounds.  Blocks that pack B for themselves have more rows to use it; those
	 * that share it have all columns, so that A is packed where it is used, once. */
	const bool few = q->batches < 2 * threads || g->m * g->n * g->k > (int64_t)1 << 26;
	const int64_t row_bytes = MAX(step_of(r, K_A) * q->kc * q->kb / r->mr, 1);
	const int64_t fit = L2_LIMIT / row_bytes / r->mr;
	const int64_t rows = (fit < LEAST_PANELS ? ENOUGH_PANELS : fit) * r->mr;
	const int64_t least = MIN(ENOUGH_PANELS * r->mr, rows);
	int64_t mmax = MIN(round_up(g->m, r->mr), MIN(few ? r->mc : 4 * r->mc, rows));
	q->pack_b = g->packed_b ? PACKED : g->m > mmax && few ? SHARED : LOCAL;
	q->group = MIN(MAX(L2_LIMIT / MAX(row_bytes * mmax / q->kb, 1), 1), q->kb);
	const bool slabs = q->pack_b == SHARED && q->group < q->kb && g->k * g->n * r->element > SLAB_LIMIT;
	q->slab = slabs ? q->group : q->kb;
	/* sums wait for the next group in an fp32 block of all of a block's columns */
	const bool wait = q->group < q->slab;
	int64_t nmax = MIN(round_up(g->n, r->nr), q->pack_b == LOCAL || wait ? r->nc : INT64_MAX);
	q->chunk = g->n;
	if (q->pack_b == SHARED) {
		int64_t most = SHARED_LIMIT / MAX(q->slab * q->kc * r->element, 1) / r->nr * r->nr;
		cut(g->n, MAX(most, r->nr), r->nr, &q->chunk);
		nmax = MIN(nmax, round_up(q->chunk, r->nr));
	}
	q->nc = nmax;
	int64_t mlimit = mmax, nlimit = nmax, want = q->parallel ? 4 * threads : 1;
	for (;;) {
		q->mb = blocks_of(g->m, mlimit, r->mr, q->parallel ? threads : 1);
		q->nb = blocks_of(q->chunk, nlimit, r->nr, 1);
		int64_t items = q->mb * q->nb * (q->pack_b == SHARED ? 1 : q->batches);
		if (items >= want)
			break;
		const bool can_m = mlimit > least, can_n = nlimit > 96 && nlimit >= 2 * r->nr;
		if (can_m && (q->pack_b != LOCAL || !can_n))
			mlimit = MAX(round_up(mlimit / 2, r->mr), least);
		else if (can_n)
			nlimit = MAX(round_up(nlimit / 2, r->nr), r->nr);
		else
			break;
	}
	/* sizes for the largest blocks, so that fewer threads than expected find enough room */
	const int64_t all_a = (int64_t)panels_bytes(q, K_A, g->m);
	q->pack_a = g->packed_a                                                         ? PACKED
		    : q->pack_b != LOCAL && few && q->nb > 1 && all_a <= SHARED_A_LIMIT ? SHARED
											: LOCAL;
	q->a_bytes = q->pack_a == PACKED ? 0 : block_bytes(q, K_A, mmax) * (size_t)q->group;
	q->b_bytes = q->pack_b == LOCAL ? block_bytes(q, K_B, nmax) * (size_t)q->group : 0;
	/* C's fp32 block: of all columns if a group of K blocks leaves sums to the next, else of those of one
	 * panel of B, and if a tile is final at once, of that. */
	int64_t block = q->direct || slabs ? 0 : wait ? mmax * nmax : (q->kb > 1 ? mmax : r->mr) * r->nr;
	q->local_bytes = q->a_bytes + q->b_bytes + (size_t)round_up(block * 4, ALIGN);
	q->shared_b = q->pack_b == SHARED ? block_bytes(q, K_B, q->chunk) * (size_t)q->slab : 0;
	q->sums_bytes = slabs && !q->direct ? (size_t)round_up(g->m * sums_ld(q) * 4, ALIGN) : 0;
	q->shared_bytes = q->shared_b + q->sums_bytes + (q->pack_a == SHARED ? (size_t)all_a : 0);
}

size_t k_gemm_scratch(const k_gemm_row *r, const k_gemm_args *args, int threads)
{
	/* fewer threads may prefer to share B: room for any number up to `threads` */
	size_t most = 0;
	for (int t = 1; t <= threads; t++) {
		gemm_plan q;
		make_plan(&q, r, args, t);
		most = MAX(most, q.shared_bytes + (size_t)t * q.local_bytes);
	}
	return most + ALIGN;
}

/* ---- Panels ------------------------------------------------------------------------ */

#define PACK_PANELS 4 /* panels that one thread packs at a time */
/* How far ahead packing asks for memory: some 4 lines of each vector of a panel, or 4 lines of so many rows.
 */
#define ASK_ELEMENTS 128
#define ASK_ROWS     32
#define PAGE         4096

static char *element_at(const k_matrix *x, int64_t offset)
{
	return (char *)x->data + offset * (int64_t)k_type_size(x->type);
}

int64_t gemm_batch_offset(const k_gemm_args *g, const k_matrix *x, int64_t batch)
{
	int64_t offset = 0;
	for (int d = g->nbatch - 1; d >= 0; d--) {
		offset += batch % g->batch[d] * x->bs[d];
		batch /= g->batch[d];
	}
	return offset;
}

static const k_matrix *matrix_of(const k_gemm_args *g, k_operand x) { return x == K_A ? &g->a : &g->b; }

/* Elements along K, counted from the first of a block. */
typedef struct stretch {
	int64_t from, to;
} stretch;

/* Of the k elements from `first` on those that are not 0 in all of the vectors [at, at + count) of an
 * operand, or all, if the row wants them; from is a multiple of kr. */
static stretch not_zero(const gemm_plan *q, k_operand x, int64_t first, int64_t k, int64_t at, int64_t count)
{
	const k_gemm_row *r = q->row;
	const k_triangle t = x == K_A ? q->g.triangle_a : q->g.triangle_b;
	stretch s = {0, k};
	if (t == K_WHOLE || r->precision & FIXED || r->trailer)
		return s;
	at += x == K_A ? q->g.diagonal_a : -q->g.diagonal_b;
	if ((t == K_LOWER) == (x == K_A))
		s.to = MAX(MIN(k, at + count - first), 0);
	else if (!r->head)
		s.from = MIN(MAX(at - first, 0), k) / r->kr * r->kr;
	return s;
}

/* An operand's K block `kb` of one batch, as vectors: rows of A, columns of B. */
typedef struct vectors {
	const gemm_plan *q;
	k_operand which;
	const k_matrix *x;
	int64_t base, sv, se; /* element; from one vector to the next; from one element to the next */
	int64_t k0, k;        /* their elements */
	int width;            /* vectors of a panel */
} vectors;

static vectors vectors_of(const gemm_plan *q, k_operand which, int64_t batch, int64_t kb)
{
	const k_matrix *x = matrix_of(&q->g, which);
	vectors v = {.q = q, .which = which, .x = x, .k0 = kb * q->kc, .width = width_of(q->row, which)};
	v.sv = which == K_A ? x->rs : x->cs;
	v.se = which == K_A ? x->cs : x->rs;
	v.k = MIN(q->g.k - v.k0, q->kc);
	v.base = gemm_batch_offset(&q->g, x, batch) + v.k0 * v.se;
	return v;
}

/* Asks for elements [k, end) of `count` vectors from the one that begins with x's element `at` on. */
static void ask_for_vectors(const k_matrix *x, int64_t at, int64_t sv, int64_t se, int64_t count, int64_t k,
			    int64_t end)
{
	const int64_t size = (int64_t)k_type_size(x->type);
	HAS_EFFECT;
	for (int64_t v = 0; v < count; v++)
		for (int64_t byte = k * se * size; byte < end * se * size; byte += ALIGN)
			__builtin_prefetch((const char *)element_at(x, at + v * sv) + byte);
}

/* Packs elements [e, end) of n vectors from the i-th on into their panel. */
static void pack_part(const vectors *v, char *panel, int64_t i, int64_t n, int64_t e, int64_t end)
{
	gemm_pack_fn *pack = v->which == K_A ? v->q->row->pack_a : v->q->row->pack_b;
	pack(panel + e * step_of(v->q->row, v->which), element_at(v->x, v->base + i * v->sv + e * v->se),
	     v->x->type, v->sv, v->se, (int)n, (int)(end - e));
}

/* Vectors [first, first + count) that lie side by side, in rows on different pages, which no processor
 * foresees: a few rows go to all panels while the next are asked for. */
static void pack_pages(const vectors *v, char *to, int64_t first, int64_t count)
{
	const gemm_plan *q = v->q;
	for (int64_t e = 0; e < v->k; e += ASK_ROWS) {
		const int64_t next = e + ASK_ROWS;
		ask_for_vectors(v->x, v->base + first * v->sv + next * v->se, v->se, v->sv,
				MIN(q->g.k - v->k0 - next, ASK_ROWS), 0, count);
		for (int64_t i = 0; i < count; i += v->width) {
			const int64_t n = MIN(count - i, v->width);
			const stretch s = not_zero(q, v->which, v->k0, v->k, first + i, n);
			const int64_t begin = MAX(s.from, e), end = MIN(s.to, next);
			if (begin < end)
				pack_part(v,
					  to + (size_t)(i / v->width) * panel_bytes(q->row, v->which, q->kc),
					  first + i, n, begin, end);
		}
	}
}

/* Packs vectors [first, first + count), elements of K block `kb`.  Meanwhile it asks for each next panel, and
 * at the end for the one that begins with vector `then`: packing would wait for the lines of as many
 * vectors as it reads at a time.  -1: all have been asked for. */
static void pack_block(const gemm_plan *q, k_operand x, char *to, int64_t batch, int64_t first, int64_t count,
		       int64_t kb, int64_t then)
{
	const vectors v = vectors_of(q, x, batch, kb);
	const int64_t all = x == K_A ? q->g.m : q->g.n;
	const bool parts = then >= 0 && !q->row->head && !q->row->trailer, asks = then >= 0 && v.se < v.sv;
	const int64_t part = asks && parts ? ASK_ELEMENTS : v.k;
	if (!q->row->head && !q->row->trailer && v.sv < v.se &&
	    v.se * (int64_t)k_type_size(v.x->type) >= PAGE) {
		pack_pages(&v, to, first, count);
		return;
	}
	for (int64_t i = 0; i < count; i += v.width, to += panel_bytes(q->row, x, q->kc)) {
		const int64_t n = MIN(count - i, v.width);
		const int64_t next = i + v.width < count ? first + i + v.width : then;
		const stretch s = not_zero(q, x, v.k0, v.k, first + i, n);
		int64_t e = s.from;
		do {
			const int64_t end = MIN(e + part, s.to);
			if (asks)
				ask_for_vectors(v.x, v.base + next * v.sv, v.sv, v.se,
						MIN(all - next, v.width), e, end);
			pack_part(&v, to, first + i, n, e, end);
			e = end;
		} while (e < s.to);
	}
}

/* Where vector `at` of K block `kb` is; all blocks of K start at `panels`, each for `count` vectors. */
static char *panels_at(const gemm_plan *q, k_operand x, const void *panels, int64_t count, int64_t kb,
		       int64_t at)
{
	const int width = width_of(q->row, x);
	return (char *)panels +
	       panel_bytes(q->row, x, q->kc) * (size_t)(kb * ceil_div(count, width) + at / width);
}
static char *shared_columns(const gemm_plan *q, int64_t kb, int64_t at)
{
	return panels_at(q, K_B, q->scratch, q->chunk, kb - q->first, at);
}
static char *shared_rows(const gemm_plan *q, int64_t kb, int64_t at)
{
	return panels_at(q, K_A, q->scratch + q->shared_b + q->sums_bytes, q->g.m, kb, at);
}

/* ---- Operands packed by the caller -------------------------------------------------- */

/* What stands before the panels, and is compared where they are used. */
typedef struct packed_head {
	const k_gemm_row *row;
	int64_t count, k, matrices; /* vectors, their length, matrices that differ */
	k_operand side;
} packed_head;
enum { HEAD = ALIGN };

/* The matrices of an operand that differ, and the place of the one for `batch` among them. */
static int64_t distinct(const k_gemm_args *g, k_operand x, int64_t batch, int64_t *place)
{
	const k_matrix *of = matrix_of(g, x);
	int64_t count = 1;
	*place = 0;
	for (int d = g->nbatch - 1; d >= 0; d--) {
		if (of->bs[d] != 0) {
			*place += batch % g->batch[d] * count;
			count *= g->batch[d];
		}
		batch /= g->batch[d];
	}
	return count;
}

static packed_head head_of(const gemm_plan *q, k_operand x)
{
	int64_t place;
	return (packed_head){.row = q->row,
			     .count = x == K_A ? q->g.m : q->g.n,
			     .k = q->g.k,
			     .matrices = distinct(&q->g, x, 0, &place),
			     .side = x};
}

/* For assertions. */
__attribute__((unused)) static bool head_fits(const gemm_plan *q, k_operand x, const void *packed)
{
	const packed_head want = head_of(q, x), *have = packed;
	return have->row == want.row && have->count == want.count && have->k == want.k &&
	       have->matrices == want.matrices && have->side == x;
}

/* Panels of one batch. */
static const char *packed_panels(const gemm_plan *q, k_operand x, int64_t batch)
{
	const k_gemm_args *g = &q->g;
	int64_t place;
	distinct(g, x, batch, &place);
	const size_t one = panels_bytes(q, x, x == K_A ? g->m : g->n);
	return (const char *)(x == K_A ? g->packed_a : g->packed_b) + HEAD + (size_t)place * one;
}

/* The plan that packing goes by, and which side of it an operand is on. */
static k_operand plan_packing(gemm_plan *q, const k_gemm_row *r, const k_gemm_args *args, k_operand which)
{
	k_gemm_args g = *args;
	g.packed_a = g.packed_b = NULL;
	g.triangle_a = g.triangle_b = K_WHOLE; /* the product may have others */
	make_plan(q, r, &g, 1);
	return q->transposed ? (which == K_A ? K_B : K_A) : which;
}

size_t k_gemm_packed_bytes(const k_gemm_row *r, const k_gemm_args *args, k_operand which)
{
	gemm_plan q;
	if (r->vector)
		return 0;
	const k_operand x = plan_packing(&q, r, args, which);
	const packed_head head = head_of(&q, x);
	return HEAD + (size_t)head.matrices * panels_bytes(&q, x, head.count);
}

bool k_gemm_packs_alike(const k_gemm_row *r, const k_gemm_args *g, const k_gemm_row *s, const k_gemm_args *h,
			k_operand which)
{
	const k_matrix *x = matrix_of(g, which), *y = matrix_of(h, which);
	bool alike = r == s && is_turned(g) == is_turned(h) && x->data == y->data && x->type == y->type &&
		     x->rs == y->rs && x->cs == y->cs && g->k == h->k && g->k_block == h->k_block &&
		     (which == K_A ? g->m == h->m : g->n == h->n) && g->nbatch == h->nbatch;
	for (int d = 0; alike && d < g->nbatch; d++)
		alike = g->batch[d] == h->batch[d] && x->bs[d] == y->bs[d];
	return alike;
}

bool k_gemm_packs_first(const k_gemm_row *r, const k_gemm_args *args, k_operand which, int threads)
{
	gemm_plan q;
	make_plan(&q, r, args, threads);
	const k_operand x = q.transposed ? (which == K_A ? K_B : K_A) : which;
	return !r->vector && q.batches == 1 && q.chunk >= q.g.n && q.slab == q.kb &&
	       (x == K_A ? q.pack_a : q.pack_b) == SHARED;
}

typedef struct pack_run {
	gemm_plan q;
	char *to;
	packed_head head;
	int64_t steps; /* items of a matrix */
	int threads;
} pack_run;

static void pack_operand_item(void *arg, int64_t i, int worker)
{
	const pack_run *run = arg;
	const gemm_plan *q = &run->q;
	const k_operand x = run->head.side;
	const int64_t step = PACK_PANELS * width_of(q->row, x), count = run->head.count;
	const int64_t at = i % run->steps * step, matrix = i / run->steps, then = at + step * run->threads;
	char *to = run->to + (size_t)matrix * panels_bytes(q, x, count);
	(void)worker;
	for (int64_t kb = 0; kb < q->kb; kb++)
		pack_block(q, x, panels_at(q, x, to, count, kb, at), matrix, at, MIN(count - at, step), kb,
			   then < count ? then : at);
}

void k_gemm_pack(pool *p, const k_gemm_row *r, const k_gemm_args *args, k_operand which, void *to)
{
	pack_run run;
	gemm_plan *q = &run.q;
	assert(!r->vector && ((uintptr_t)to & (ALIGN - 1)) == 0);
	const k_operand x = plan_packing(q, r, args, which);
	run.head = head_of(q, x);
	memcpy(to, &run.head, sizeof run.head);
	run.to = (char *)to + HEAD;
	run.steps = ceil_div(run.head.count, PACK_PANELS * width_of(r, x));
	/* as many batches as there are matrices that differ */
	for (int d = 0; d < q->g.nbatch; d++)
		if (matrix_of(&q->g, x)->bs[d] == 0)
			q->g.batch[d] = 1;
	run.threads = pool_threads(p);
	pool_run(p, pack_operand_item, &run, run.head.matrices * run.steps);
}

/* ---- One block of C ------------------------------------------------------------------ */

typedef struct gemm_run {
	gemm_plan *q;
	const k_loops *loops;
	bool phased; /* batch after batch: all threads pack, then all compute */
	int threads;
} gemm_run;

/* A finished tile goes from fp32 (int32) to C. */
static void store_tile(const gemm_run *run, const float *from, int64_t ld, int64_t offset, int m, int n)
{
	const k_gemm_args *g = &run->q->g;
	const k_matrix *c = &g->c;
	if (c->type == K_F16 && c->cs == 1) {
		run->loops->narrow_rows((half *)c->data + offset, c->rs, from, ld, m, n);
		return;
	}
	for (int i = 0; i < m; i++, offset += c->rs) {
		if (c->type == K_I32) {
			const int32_t *sums = (const int32_t *)(const void *)(from + i * ld);
			for (int j = 0; j < n; j++)
				((int32_t *)c->data)[offset + j * c->cs] = sums[j];
			continue;
		}
		if (!g->accumulate) {
			run->loops->store(element_at(c, offset), c->type, c->cs, from + i * ld, n);
			continue;
		}
		for (int j = 0; j < n; j++)
			((float *)c->data)[offset + j * c->cs] += from[i * ld + j];
	}
}

/* Puts the bias of a tile where its sums will be. */
static void start_tile(const gemm_run *run, float *tile, int64_t ld, int64_t batch, int64_t row,
		       int64_t column, int m, int n)
{
	const k_matrix *x = &run->q->g.bias;
	int64_t offset = gemm_batch_offset(&run->q->g, x, batch) + row * x->rs + column * x->cs;
	for (int i = 0; i < m; i++, offset += x->rs)
		run->loops->load(tile + i * ld, element_at(x, offset), x->type, x->cs, n);
}

/* Rows [i, i + m) and columns [j, j + n) of C hold nothing that is needed. */
static bool not_needed(const k_gemm_args *g, int64_t i, int64_t m, int64_t j, int64_t n)
{
	const k_triangle t = g->triangle_c;
	i += g->diagonal_c;
	return t == K_LOWER ? j >= i + m : t == K_UPPER ? i >= j + n : false;
}

/* Makes them 0, in C from element `offset` on. */
static void clear(const k_gemm_args *g, int64_t offset, int64_t m, int64_t n)
{
	const size_t size = k_type_size(g->c.type);
	for (int64_t i = 0; i < m && !g->accumulate; i++, offset += g->c.rs)
		if (g->c.cs == 1)
			memset(element_at(&g->c, offset), 0, (size_t)n * size);
		else
			for (int64_t j = 0; j < n; j++)
				memset(element_at(&g->c, offset + j * g->c.cs), 0, size);
}

/* Of the elements [first, first + *to) along K those that matter to rows [i, i + m) and columns [j, j + n),
 * as [*from, *to) relative to `first`. */
static void useful_k(const gemm_plan *q, int64_t first, int64_t i, int64_t m, int64_t j, int64_t n, int *from,
		     int *to)
{
	const stretch of_a = not_zero(q, K_A, first, *to, i, m), of_b = not_zero(q, K_B, first, *to, j, n);
	*from = (int)MAX(of_a.from, of_b.from);
	*to = (int)MIN(of_a.to, of_b.to);
	if (*from >= *to)
		*from = *to = 0;
	else
		*to = (int)round_up(*to, q->row->kr);
}

/* Memory that will be wanted soon: stretches of `bytes`, `step` apart. */
typedef struct ahead {
	const char *at;
	int64_t count, bytes, step; /* stretches; 0: nothing, or all has been asked for */
	int64_t done;               /* bytes of the first that is left */
	int64_t share;              /* lines to ask for with each tile */
} ahead;

/* Asks for some lines of it, in the second-level cache. */
static void ask(ahead *x)
{
	for (int64_t left = x->share; left > 0 && x->count > 0;) {
		const int64_t end = MIN(x->done + left * ALIGN, x->bytes);
		left -= ceil_div(end - x->done, ALIGN);
		for (; x->done < end; x->done += ALIGN)
			__builtin_prefetch(x->at + x->done, 0, 2);
		if (x->done >= x->bytes) {
			x->at += x->step;
			x->count--;
			x->done = 0;
		}
	}
}

/* What compute_block works on. */
typedef struct block {
	int64_t batch, row, column, m, n; /* place and size in C */
	int64_t in_chunk;                 /* column within B's chunk */
	int64_t at;                       /* element of C */
	char *pa, *pb;                    /* LOCAL panels of a group */
	float *c;                         /* where sums are: C, or an fp32 block */
	int64_t ldc;
	bool by_panel; /* the block has the columns of one panel */
	ahead ahead;   /* what will be read of A after the current group of K blocks */
} block;

/* Block `mi` of A's rows from K block `first` on, a group of them: asked for during the next `tiles` tiles.
 */
static ahead rows_ahead(const gemm_plan *q, int64_t batch, int64_t mi, int64_t first, int64_t tiles)
{
	const k_gemm_args *g = &q->g;
	const k_matrix *a = &g->a;
	const int64_t row = first_row(q, mi), m = MIN(g->m, first_row(q, mi + 1)) - row,
		      kbs = MIN(q->kb - first, q->group);
	ahead x = {0};
	if (q->pack_a == PACKED) {
		const int64_t panel = (int64_t)panel_bytes(q->row, K_A, q->kc);
		x.at = panels_at(q, K_A, packed_panels(q, K_A, batch), g->m, first, row);
		x.count = kbs;
		x.bytes = panel * ceil_div(m, q->row->mr);
		x.step = panel * ceil_div(g->m, q->row->mr);
	} else if (q->pack_a == LOCAL) {
		const int64_t size = (int64_t)k_type_size(a->type), k0 = first * q->kc;
		const int64_t k = MIN(g->k - k0, kbs * q->kc);
		x.at = element_at(a, gemm_batch_offset(g, a, batch) + row * a->rs + k0 * a->cs);
		x.count = a->cs < a->rs ? m : k;
		x.bytes = (a->cs < a->rs ? k * a->cs : m * a->rs) * size;
		x.step = (a->cs < a->rs ? a->rs : a->cs) * size;
		if (x.bytes == 0)
			x.count = 0;
	}
	x.share = ceil_div(x.count * ceil_div(x.bytes, ALIGN), MAX(tiles, 1));
	return x;
}

/* Panels of K block `kb` for the block's rows, or for columns from its j-th on. */
static const char *rows_of(const gemm_plan *q, const block *x, int64_t kb)
{
	if (q->pack_a == PACKED)
		return panels_at(q, K_A, packed_panels(q, K_A, x->batch), q->g.m, kb, x->row);
	if (q->pack_a == SHARED)
		return shared_rows(q, kb, x->row);
	return panels_at(q, K_A, x->pa, x->m, kb % q->group, 0);
}
static const char *columns_of(const gemm_plan *q, const block *x, int64_t kb, int64_t j)
{
	if (q->pack_b == PACKED)
		return panels_at(q, K_B, packed_panels(q, K_B, x->batch), q->g.n, kb, x->column + j);
	if (q->pack_b == SHARED)
		return shared_columns(q, kb, x->in_chunk + j);
	return panels_at(q, K_B, x->pb, x->n, kb % q->group, j);
}

/* One panel of B, columns from the j-th on, times all panels of A, in K block `kb`; meanwhile the panel
 * `next` comes nearer. */
static void compute_panel(const gemm_run *run, block *x, int64_t kb, int64_t j, const char *next)
{
	const gemm_plan *q = run->q;
	const k_gemm_row *r = q->row;
	const k_gemm_args *g = &q->g;
	const size_t a_panel = panel_bytes(r, K_A, q->kc);
	const bool biased = (r->precision & FIXED) && g->bias.data;
	const bool add = kb > 0 || (q->direct && g->accumulate), final = kb == q->kb - 1;
	/* Rows of C that are a multiple of 4 KB apart share a set of the first-level cache, and stores that
	 * miss wait for each other: a gradient of 768 x 2048 took 15% longer. */
	const bool far = q->direct && x->ldc * 4 % PAGE == 0;
	const bool to_half = r->kernel_half && g->c.type == K_F16 && g->c.cs == 1;
	const int64_t k0 = kb * q->kc;
	const int kpad = (int)round_up(MIN(g->k - k0, q->kc), r->kr), tn = (int)MIN(x->n - j, r->nr);
	const char *a = rows_of(q, x, kb), *b = columns_of(q, x, kb, j);
	const int64_t panel_lines = ceil_div((int64_t)panel_bytes(r, K_B, q->kc), ALIGN);
	ahead panel = {.at = next,
		       .count = next && !r->follows,
		       .bytes = panel_lines * ALIGN,
		       .share = ceil_div(panel_lines, ceil_div(x->m, r->mr))};
	for (int64_t i = 0; i < x->m; i += r->mr, a += a_panel) {
		const int tm = (int)MIN(x->m - i, r->mr);
		float *tile = q->direct ? x->c + i * x->ldc + j
					: x->c + (q->kb > 1 ? i * x->ldc : 0) + (x->by_panel ? 0 : j);
		if (not_needed(g, x->row + i, tm, x->column + j, tn))
			continue;
		if (biased)
			start_tile(run, tile, x->ldc, x->batch, x->row + i, x->column + j, tm, tn);
		int from, to = kpad;
		useful_k(q, k0, x->row + i, tm, x->column + j, tn, &from, &to);
		ask(&panel);
		ask(&x->ahead);
		if (far)
			for (int row = 0; row < tm; row++)
				for (int column = 0; column < tn; column += ALIGN / 4)
					__builtin_prefetch(tile + row * x->ldc + column, 1);
		const char *a_from = a + (size_t)from * (size_t)step_of(r, K_A);
		const char *b_from = b + (size_t)from * (size_t)step_of(r, K_B);
		const int64_t at = x->at + i * g->c.rs + j * g->c.cs;
		if (final && to_half) {
			r->kernel_half(to - from, a_from, b_from, tile, x->ldc, tm, tn, add || biased,
				       (half *)g->c.data + at, g->c.rs);
			continue;
		}
		if (from < to || !add)
			r->kernel(to - from, a_from, b_from, tile, x->ldc, tm, tn, add || biased);
		if (!q->direct && final)
			store_tile(run, tile, x->ldc, at, tm, tn);
	}
}

/* Makes the tiles of a block 0 that are not needed, those of a panel of A at once. */
static void clear_unneeded(const gemm_plan *q, const block *x)
{
	const k_gemm_args *g = &q->g;
	const int64_t mr = q->row->mr, nr = q->row->nr;
	if (g->triangle_c == K_WHOLE)
		return;
	for (int64_t i = 0; i < x->m; i += mr) {
		const int64_t tm = MIN(x->m - i, mr), diagonal = x->row + i + g->diagonal_c - x->column;
		int64_t from = 0, to = x->n;
		if (g->triangle_c == K_LOWER)
			from = MIN(round_up(MAX(diagonal + tm, 0), nr), to);
		else if (diagonal < to)
			to = MAX(diagonal, 0) / nr * nr;
		clear(g, x->at + i * g->c.rs + from * g->c.cs, tm, to - from);
	}
}

/* Block (mi, ni) of C of one batch.  A panel of B stays in the first-level cache while those of A pass by,
 * which the second level holds; K blocks of a group follow each other for each panel, so that sums which are
 * not in C itself take the columns of one panel only.  This thread is likely to go on with block `after` of
 * rows of batch `after_batch`, if that is below mb. */
static void compute_block(const gemm_run *run, int64_t batch, int64_t mi, int64_t ni, int worker,
			  int64_t after_batch, int64_t after)
{
	const gemm_plan *q = run->q;
	const k_gemm_row *r = q->row;
	const k_gemm_args *g = &q->g;
	char *local = q->scratch + q->shared_bytes + (size_t)worker * q->local_bytes;
	block x = {.batch = batch,
		   .row = first_row(q, mi),
		   .in_chunk = first_column(q, ni),
		   .pa = local,
		   .pb = local + q->a_bytes};
	x.column = q->column + x.in_chunk;
	x.m = MIN(g->m, first_row(q, mi + 1)) - x.row;
	x.n = MIN(MIN(g->n - q->column, q->chunk), first_column(q, ni + 1)) - x.in_chunk;
	if (x.m <= 0 || x.n <= 0)
		return;
	x.at = gemm_batch_offset(g, &g->c, batch) + x.row * g->c.rs + x.column * g->c.cs;
	if (q->first == 0)
		clear_unneeded(q, &x);
	if (not_needed(g, x.row, x.m, x.column, x.n))
		return;
	x.by_panel = q->group == q->kb;
	x.ldc = q->direct ? g->c.rs : x.by_panel ? r->nr : q->sums_bytes ? sums_ld(q) : q->nc;
	x.c = q->direct       ? (float *)g->c.data + x.at
	      : q->sums_bytes ? (float *)(void *)(q->scratch + q->shared_b) + x.row * x.ldc + x.in_chunk
			      : (float *)(void *)(local + q->a_bytes + q->b_bytes);
	const int64_t slab_end = MIN(q->first + q->slab, q->kb);
	if (r->begin)
		r->begin();
	for (int64_t first = q->first; first < slab_end; first += q->group) {
		const int64_t last = MIN(first + q->group, slab_end) - 1;
		const int64_t tiles = ceil_div(x.m, r->mr) * ceil_div(x.n, r->nr) * (last + 1 - first);
		for (int64_t kb = first; kb <= last; kb++) {
			int from, to = (int)MIN(g->k - kb * q->kc, q->kc);
			useful_k(q, kb * q->kc, x.row, x.m, x.column, x.n, &from, &to);
			const bool used =
			    to > 0 || r->integer; /* sums at panels' ends are needed for K of 0 too */
			if (used && q->pack_a == LOCAL)
				pack_block(q, K_A, (char *)rows_of(q, &x, kb), batch, x.row, x.m, kb, -1);
			if (used && q->pack_b == LOCAL)
				pack_block(q, K_B, (char *)columns_of(q, &x, kb, 0), batch, x.column, x.n, kb,
					   -1);
		}
		if (last + 1 < slab_end)
			x.ahead = rows_ahead(q, batch, mi, last + 1, tiles);
		else if (after < q->mb)
			x.ahead = rows_ahead(q, after_batch, after, q->first, tiles);
		for (int64_t j = 0; j < x.n; j += r->nr)
			for (int64_t kb = first; kb <= last; kb++) {
				const char *next = kb < last         ? columns_of(q, &x, kb + 1, j)
						   : j + r->nr < x.n ? columns_of(q, &x, first, j + r->nr)
								     : NULL;
				compute_panel(run, &x, kb, j, next);
			}
	}
	if (r->end)
		r->end();
}

static void compute_item(void *arg, int64_t i, int worker)
{
	const gemm_run *run = arg;
	const gemm_plan *q = run->q;
	const int64_t blocks = q->mb * q->nb, next = i + run->threads;
	if (run->phased)
		compute_block(run, q->batch, i / q->nb, i % q->nb, worker, q->batch, next / q->nb);
	else
		compute_block(run, i / blocks, i % blocks / q->nb, i % q->nb, worker, next / blocks,
			      next / blocks < q->batches ? next % blocks / q->nb : q->mb);
}

/* Columns that SHARED packs of this chunk, and rows, in items. */
static int64_t chunk_columns(const gemm_plan *q) { return MIN(q->g.n - q->column, q->chunk); }
static int64_t column_items(const gemm_plan *q)
{
	return q->pack_b == SHARED ? ceil_div(chunk_columns(q), PACK_PANELS * q->row->nr) : 0;
}
static int64_t row_items(const gemm_plan *q)
{
	return q->pack_a == SHARED && q->column == 0 && q->first == 0
		   ? ceil_div(q->g.m, PACK_PANELS * q->row->mr)
		   : 0;
}

/* Some panels: a slab of B, all of K of A. */
static void pack_item(void *arg, int64_t i, int worker)
{
	const gemm_run *run = arg;
	const gemm_plan *q = run->q;
	const int64_t columns = column_items(q);
	const k_operand x = i < columns ? K_B : K_A;
	const int64_t step = PACK_PANELS * width_of(q->row, x), first = x == K_B ? q->column : 0;
	const int64_t n = x == K_B ? chunk_columns(q) : q->g.m, at = (x == K_B ? i : i - columns) * step;
	const int64_t then = at + step * run->threads;
	(void)worker;
	const int64_t end = x == K_B ? MIN(q->first + q->slab, q->kb) : q->kb;
	for (int64_t kb = x == K_B ? q->first : 0; kb < end; kb++)
		pack_block(q, x, x == K_B ? shared_columns(q, kb, at) : shared_rows(q, kb, at), q->batch,
			   first + at, MIN(n - at, step), kb, first + (then < n ? then : at));
}

/* ---- Products with a few columns -------------------------------------------------- */

static void *packed_vector(const gemm_plan *q, int64_t batch, int64_t column)
{
	return q->scratch + (size_t)(batch * q->g.n + column) * q->x_bytes;
}

/* m rows from `row` on, of one matrix. */
static void vector_rows(const gemm_run *run, int64_t batch, int64_t row, int m)
{
	const gemm_plan *q = run->q;
	const k_gemm_args *g = &q->g;
	enum { ROWS = 256 };
	float y[ROWS];
	assert(m <= ROWS);
	int64_t c = gemm_batch_offset(g, &g->c, batch) + row * g->c.rs;
	const char *a = element_at(&g->a, gemm_batch_offset(g, &g->a, batch) + row * g->a.rs);
	const bool biased = q->row->precision & FIXED && g->bias.data;
	for (int64_t j = 0; j < g->n; j++) {
		if (biased)
			run->loops->load(y,
					 element_at(&g->bias, gemm_batch_offset(g, &g->bias, batch) +
								  row * g->bias.rs + j * g->bias.cs),
					 g->bias.type, g->bias.rs, m);
		q->row->vector(y, a, g->a.type, g->a.rs, g->a.cs, m, g->k, packed_vector(q, batch, j),
			       biased);
		if (g->accumulate)
			for (int r = 0; r < m; r++)
				((float *)g->c.data)[c + j * g->c.cs + r * g->c.rs] += y[r];
		else
			run->loops->store(element_at(&g->c, c + j * g->c.cs), g->c.type, g->c.rs, y, m);
	}
}

static void vector_item(void *arg, int64_t i, int worker)
{
	const gemm_run *run = arg;
	const gemm_plan *q = run->q;
	int64_t batch = i / q->mb, row = i % q->mb * q->mc, end = MIN(q->g.m, row + q->mc);
	(void)worker;
	for (; row < end; row += q->row->mc)
		vector_rows(run, batch, row, (int)MIN(end - row, q->row->mc));
}

static void run_vectors(pool *p, gemm_run *run)
{
	const gemm_plan *q = run->q;
	const k_gemm_args *g = &q->g;
	for (int64_t b = 0; b < q->batches; b++)
		for (int64_t j = 0; j < g->n; j++) {
			float *x = packed_vector(q, b, j);
			int64_t offset = gemm_batch_offset(g, &g->b, b) + j * g->b.cs;
			if (q->row->pack_a) {
				q->row->pack_a(x, element_at(&g->b, offset), g->b.type, 0, g->b.rs, 1,
					       (int)g->k);
				continue;
			}
			for (int64_t k = 0; k < g->k; k += EW_BLOCK)
				run->loops->load(x + k, element_at(&g->b, offset + k * g->b.rs), g->b.type,
						 g->b.rs, (int)MIN(g->k - k, EW_BLOCK));
		}
	pool_run(p, vector_item, run, q->batches * q->mb);
}

void k_gemm(pool *p, const k_gemm_row *r, const k_gemm_args *args, void *scratch)
{
	gemm_plan q;
	make_plan(&q, r, args, pool_threads(p));
	if (q.batches == 0 || args->m == 0 || args->n == 0 || (args->k == 0 && args->accumulate))
		return;
	q.scratch = (char *)scratch + (-(uintptr_t)scratch & (ALIGN - 1));
	gemm_run run = {
	    .q = &q, .loops = loops_for(r->isa), .phased = q.pack_a == SHARED || q.pack_b == SHARED};
	if (!q.parallel)
		p = NULL;
	run.threads = pool_threads(p);
	if (r->vector) {
		run_vectors(p, &run);
		return;
	}
	assert(!q.g.packed_a || head_fits(&q, K_A, q.g.packed_a));
	assert(!q.g.packed_b || head_fits(&q, K_B, q.g.packed_b));
	if (!run.phased) {
		pool_run(p, compute_item, &run, q.batches * q.mb * q.nb);
		return;
	}
	for (q.batch = 0; q.batch < q.batches; q.batch++)
		for (q.column = 0; q.column < q.g.n; q.column += q.chunk)
			for (q.first = 0; q.first < q.kb; q.first += q.slab) {
				pool_run(p, pack_item, &run, column_items(&q) + row_items(&q));
				pool_run(p, compute_item, &run, q.mb * q.nb);
			}
}
