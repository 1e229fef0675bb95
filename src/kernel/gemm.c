/* Choosing a GEMM kernel, and the loops around it. */
#include "kernel/gemm_fixed.h"
#include "kernel/gemm_int.h"
#include "kernel/loops.h"

#include <assert.h>
#include <string.h>

/* ---- The table -------------------------------------------------------------------- */

#define EXACT (1u << K_EXACT)
#define FAST  (1u << K_FAST)
#define FIXED (1u << K_FIXED)

/* In order of preference: the first row that fits is taken. */
/* clang-format off */
const struct k_gemm_row gemm_table[] = {
#ifdef __x86_64__
	{.name = "vector_avx512", .isa = ISA_AVX512, .precision = EXACT | FAST, .mc = 64, .vector = gemm_vector_avx512},
#define AMX (ISA_AVX512 | ISA_AVX512_BF16 | ISA_AMX_BF16)
	{.name = "amx_bf16_32x32", .isa = AMX, .precision = FAST, .mr = 32, .nr = 32, .kr = 32, .element = 2,
	 .mc = 128, .kc = 512, .nc = 512, .pack_a = pack_amx_a, .pack_b = pack_amx_b, .kernel = gemm_amx,
	 .begin = gemm_amx_begin, .end = gemm_amx_end},
	{.name = "amx_split_32x32", .isa = AMX, .precision = EXACT, .f16_only = true, .mr = 32, .nr = 32, .kr = 32,
	 .element = 4, .trailer = 64, .mc = 128, .kc = 256, .nc = 512, .pack_a = pack_amx_split_a,
	 .pack_b = pack_amx_split_b, .kernel = gemm_amx_split, .begin = gemm_amx_begin, .end = gemm_amx_end},
	{.name = "bf16_avx512_12x32", .isa = ISA_AVX512 | ISA_AVX512_BF16, .precision = FAST, .mr = 12, .nr = 32, .kr = 2,
	 .element = 2, .mc = 120, .kc = 512, .nc = 512,
	 .pack_a = pack_bf16_avx512_a, .pack_b = pack_bf16_avx512_b, .kernel = gemm_bf16_avx512},
	{.name = "f32_avx512_12x32", .isa = ISA_AVX512, .precision = EXACT | FAST, .mr = 12, .nr = 32, .kr = 1, .element = 4,
	 .mc = 120, .kc = 256, .nc = 512,
	 .pack_a = pack_f32_avx512_a, .pack_b = pack_f32_avx512_b, .kernel = gemm_f32_avx512},
	{.name = "fixed_vector_avx512", .isa = ISA_AVX512, .precision = FIXED, .f16_only = true, .kr = 16, .element = 8,
	 .trailer = 64, .mc = 64, .pack_a = pack_fixed_vector_avx512, .vector = gemm_fixed_vector_avx512},
	{.name = "fixed_avx512_12x32", .isa = ISA_AVX512, .precision = FIXED, .f16_only = true, .mr = 12, .nr = 32, .kr = 1,
	 .element = 8, .trailer = 64, .mc = 48, .kc = FIXED_WHOLE_K, .nc = 128,
	 .pack_a = pack_fixed_avx512_a, .pack_b = pack_fixed_avx512_b, .kernel = gemm_fixed_avx512},
	{.name = "int_avx512vnni_12x32", .isa = ISA_AVX512 | ISA_AVX512_VNNI, .precision = EXACT, .integer = true, .mr = 12,
	 .nr = 32, .kr = 4, .element = 1, .trailer = GEMM_INT_VNNI_TRAILER, .mc = 120, .kc = 1024, .nc = 512,
	 .pack_a = pack_int_avx512vnni_a, .pack_b = pack_int_avx512vnni_b, .kernel = gemm_int_avx512vnni},
	{.name = "int_avx2_6x16", .isa = ISA_AVX2, .precision = EXACT, .integer = true, .mr = 6, .nr = 16, .kr = 2,
	 .element = 2, .mc = 120, .kc = 512, .nc = 256,
	 .pack_a = pack_int_avx2_a, .pack_b = pack_int_avx2_b, .kernel = gemm_int_avx2},
	{.name = "vector_avx2", .isa = ISA_AVX2, .precision = EXACT | FAST, .mc = 64, .vector = gemm_vector_avx2},
	{.name = "fixed_vector_avx2", .isa = ISA_AVX2, .precision = FIXED, .f16_only = true, .kr = 8, .element = 8,
	 .trailer = 64, .mc = 64, .pack_a = pack_fixed_vector_avx2, .vector = gemm_fixed_vector_avx2},
	{.name = "fixed_avx2_4x16", .isa = ISA_AVX2, .precision = FIXED, .f16_only = true, .mr = 4, .nr = 16, .kr = 1,
	 .element = 8, .trailer = 64, .mc = 48, .kc = FIXED_WHOLE_K, .nc = 128,
	 .pack_a = pack_fixed_avx2_a, .pack_b = pack_fixed_avx2_b, .kernel = gemm_fixed_avx2},
	{.name = "f32_avx2_6x16", .isa = ISA_AVX2, .precision = EXACT | FAST, .mr = 6, .nr = 16, .kr = 1, .element = 4,
	 .mc = 120, .kc = 256, .nc = 256,
	 .pack_a = pack_f32_avx2_a, .pack_b = pack_f32_avx2_b, .kernel = gemm_f32_avx2},
#endif
	{.name = "fixed_portable_4x8", .precision = FIXED, .f16_only = true, .mr = 4, .nr = 8, .kr = 1, .element = 2,
	 .mc = 64, .kc = FIXED_WHOLE_K, .nc = 64,
	 .pack_a = pack_fixed_portable_a, .pack_b = pack_fixed_portable_b, .kernel = gemm_fixed_portable},
	{.name = "int_portable_4x8", .precision = EXACT, .integer = true, .mr = 4, .nr = 8, .kr = 1, .element = 2,
	 .mc = 64, .kc = INT_WHOLE_K, .nc = 64,
	 .pack_a = pack_int_portable_a, .pack_b = pack_int_portable_b, .kernel = gemm_int_portable},
	{.name = "vector_portable", .precision = EXACT | FAST, .mc = 64, .vector = gemm_vector_portable},
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

/* ---- The plan --------------------------------------------------------------------- */

/* How a product is cut up.  Nothing here changes results: each element of C is the sum over
 * blocks of kc of one kernel's sum, wherever its tile lies and whoever computes it. */
typedef struct gemm_plan {
	const k_gemm_row *row;
	k_gemm_args g; /* perhaps transposed */
	int64_t batches;
	int64_t mc, nc, kc; /* blocks, even ones */
	int64_t mb, nb, kb; /* their numbers; nb within a chunk */
	int64_t chunk;      /* columns of B that are packed at once; shared B only */
	bool shared;        /* B is packed once for all threads, else every tile packs its part */
	bool shared_a;      /* so is A, which several tiles need */
	bool direct;        /* kernels write to C itself */
	bool parallel;
	size_t shared_b, shared_bytes; /* scratch of all: B, then A */
	size_t a_bytes, b_bytes, x_bytes;
	size_t local_bytes; /* scratch of one thread */
	char *scratch;
	/* while running */
	int64_t batch, column; /* first column of the chunk */
} gemm_plan;

#define ALIGN          64
#define SHARED_LIMIT   ((int64_t)32 << 20)
#define SHARED_A_LIMIT ((int64_t)8 << 20)
/* Products smaller than this (multiplications) stay on the caller's thread. */
#define PARALLEL_PRODUCTS 65536

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

/* C^T = B^T A^T */
static void transpose(k_gemm_args *g)
{
	k_matrix a = g->a;
	int64_t m = g->m;
	g->a = g->b;
	g->b = a;
	g->m = g->n;
	g->n = m;
	k_matrix *const all[] = {&g->a, &g->b, &g->c, &g->bias};
	for (int i = 0; i < LENGTH(all); i++) {
		k_matrix *x = all[i];
		int64_t rs = x->rs;
		x->rs = x->cs;
		x->cs = rs;
	}
}

static size_t panel_bytes(const k_gemm_row *r, int width, int64_t k)
{
	return (size_t)(width * k * r->element + r->trailer);
}

/* The number of blocks of about `block` that n falls into, and the even size of one. */
static int64_t cut(int64_t n, int64_t block, int64_t unit, int64_t *size)
{
	int64_t count = MAX(ceil_div(n, block), 1);
	*size = MAX(round_up(ceil_div(n, count), unit), unit);
	return MAX(ceil_div(n, *size), 1);
}

static void make_plan(gemm_plan *q, const k_gemm_row *r, const k_gemm_args *args, int threads)
{
	*q = (gemm_plan){.row = r, .g = *args, .batches = 1};
	k_gemm_args *g = &q->g;
	assert(g->nbatch <= GEMM_BATCH_DIMS && (!g->accumulate || g->c.type == K_F32));
	assert(!(r->precision & FIXED) || !g->accumulate);
	assert(r->integer == (g->c.type == K_I32));
	for (int d = 0; d < g->nbatch; d++)
		q->batches *= g->batch[d];
	if (r->vector ? g->m < g->n : g->c.cs != 1 && g->c.rs == 1)
		transpose(g);
	q->parallel = threads > 1 && q->batches * g->m * g->n * g->k >= PARALLEL_PRODUCTS;
	if (r->vector) {
		q->mb = cut(g->m, r->mc, 1, &q->mc);
		q->x_bytes = r->pack_a ? panel_bytes(r, 1, round_up(g->k, r->kr)) : (size_t)g->k * 4;
		q->x_bytes = (size_t)round_up((int64_t)q->x_bytes, ALIGN);
		q->shared_bytes = q->x_bytes * (size_t)(q->batches * g->n);
		return;
	}
	q->direct = (g->c.type == K_F32 || g->c.type == K_I32) && g->c.cs == 1;
	int64_t mmax = MIN(round_up(g->m, r->mr), r->mc), nmax = MIN(round_up(g->n, r->nr), r->nc);
	q->kb = cut(g->k, r->kc, r->kr, &q->kc);
	/* One large product shares its packed B.  Of many, each thread takes some; so it does with
	 * those too small to be worth two rounds. */
	int64_t products = g->m * g->n * g->k;
	q->shared = g->m > r->mc && (q->batches < 2 * threads || products > (int64_t)1 << 26);
	q->chunk = g->n;
	if (q->shared) {
		int64_t most = SHARED_LIMIT / MAX(round_up(g->k, r->kr) * r->element, 1) / nmax * nmax;
		cut(g->n, MAX(most, nmax), r->nr, &q->chunk);
	}
	int64_t mlimit = mmax, nlimit = nmax, want = q->parallel ? 4 * threads : 1;
	for (;;) {
		q->mb = cut(g->m, mlimit, r->mr, &q->mc);
		q->nb = cut(q->chunk, nlimit, r->nr, &q->nc);
		int64_t items = q->mb * q->nb * (q->shared ? 1 : q->batches);
		if (items >= want)
			break;
		if (nlimit > 96 && nlimit >= 2 * r->nr)
			nlimit = MAX(round_up(nlimit / 2, r->nr), r->nr);
		else if (mlimit > 48 && mlimit >= 2 * r->mr)
			mlimit = MAX(round_up(mlimit / 2, r->mr), r->mr);
		else
			break;
	}
	/* sizes for the largest blocks, so that fewer threads than expected find enough room */
	const int64_t all_a = (int64_t)panel_bytes(r, r->mr, q->kc) * ceil_div(g->m, r->mr) * q->kb;
	q->shared_a = q->shared && q->nb > 1 && all_a <= SHARED_A_LIMIT;
	q->a_bytes = (size_t)round_up((int64_t)panel_bytes(r, r->mr, q->kc) * (mmax / r->mr), ALIGN);
	q->b_bytes =
	    q->shared ? 0 : (size_t)round_up((int64_t)panel_bytes(r, r->nr, q->kc) * (nmax / r->nr), ALIGN);
	/* C's fp32 block; with one block of K a tile is final at once, and one tile is enough */
	int64_t block = q->direct ? 0 : q->kb > 1 ? mmax * nmax : r->mr * r->nr;
	q->local_bytes = q->a_bytes + q->b_bytes + (size_t)round_up(block * 4, ALIGN);
	if (q->shared)
		q->shared_b = (size_t)round_up(
		    (int64_t)panel_bytes(r, r->nr, q->kc) * ceil_div(q->chunk, r->nr) * q->kb, ALIGN);
	q->shared_bytes = q->shared_b + (q->shared_a ? (size_t)round_up(all_a, ALIGN) : 0);
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

/* ---- Running it ------------------------------------------------------------------- */

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

/* Packs panels [first, first + count) of `width` vectors each, of which there are `have` in all. */
static void pack_panels(const k_gemm_row *r, gemm_pack_fn *pack, int width, char *to, const k_matrix *x,
			int64_t offset, int64_t sv, int64_t se, int64_t have, int64_t k, int64_t kpad)
{
	for (int64_t v = 0; v < have; v += width) {
		pack(to, element_at(x, offset + v * sv), x->type, sv, se, (int)MIN(have - v, width), (int)k);
		to += panel_bytes(r, width, kpad);
	}
}

/* Columns [column, column + n) of K block `kb`. */
static void pack_columns(const gemm_plan *q, char *to, int64_t batch, int64_t column, int64_t n, int64_t kb)
{
	const k_matrix *b = &q->g.b;
	int64_t k0 = kb * q->kc, k = MIN(q->g.k - k0, q->kc);
	pack_panels(q->row, q->row->pack_b, q->row->nr, to, b,
		    gemm_batch_offset(&q->g, b, batch) + k0 * b->rs + column * b->cs, b->cs, b->rs, n, k,
		    q->kc);
}

/* Likewise rows [row, row + m) of A. */
static void pack_rows(const gemm_plan *q, char *to, int64_t batch, int64_t row, int64_t m, int64_t kb)
{
	const k_matrix *a = &q->g.a;
	int64_t k0 = kb * q->kc, k = MIN(q->g.k - k0, q->kc);
	pack_panels(q->row, q->row->pack_a, q->row->mr, to, a,
		    gemm_batch_offset(&q->g, a, batch) + row * a->rs + k0 * a->cs, a->rs, a->cs, m, k, q->kc);
}

/* Where panels of K block `kb` are that hold column or row `at`. */
static char *shared_columns(const gemm_plan *q, int64_t kb, int64_t at)
{
	const int nr = q->row->nr;
	return q->scratch + panel_bytes(q->row, nr, q->kc) * (size_t)(kb * ceil_div(q->chunk, nr) + at / nr);
}
static char *shared_rows(const gemm_plan *q, int64_t kb, int64_t at)
{
	const int mr = q->row->mr;
	return q->scratch + q->shared_b +
	       panel_bytes(q->row, mr, q->kc) * (size_t)(kb * ceil_div(q->g.m, mr) + at / mr);
}

typedef struct gemm_run {
	gemm_plan *q;
	const k_loops *loops;
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

/* Block (mi, ni) of C of one batch. */
static void compute_block(const gemm_run *run, int64_t batch, int64_t mi, int64_t ni, int worker)
{
	const gemm_plan *q = run->q;
	const k_gemm_row *r = q->row;
	const k_gemm_args *g = &q->g;
	char *local = q->scratch + q->shared_bytes + (size_t)worker * q->local_bytes;
	char *pa = local, *pb = local + q->a_bytes;
	float *block = (float *)(void *)(local + q->a_bytes + q->b_bytes);
	const int64_t row = mi * q->mc, m = MIN(g->m - row, q->mc);
	const int64_t in_chunk = ni * q->nc, column = q->column + in_chunk;
	const int64_t n = MIN(MIN(g->n - q->column, q->chunk) - in_chunk, q->nc);
	const size_t a_panel = panel_bytes(r, r->mr, q->kc), b_panel = panel_bytes(r, r->nr, q->kc);
	if (m <= 0 || n <= 0)
		return;
	const int64_t at =
	    gemm_batch_offset(&q->g, &g->c, batch) + row * g->c.rs + column * g->c.cs; /* element of C */
	const bool biased = (r->precision & FIXED) && g->bias.data;
	const bool one_tile = !q->direct && q->kb == 1;
	float *c = q->direct ? (float *)g->c.data + at : block;
	const int64_t ldc = q->direct ? g->c.rs : one_tile ? r->nr : q->nc;
	if (r->begin)
		r->begin();
	for (int64_t kb = 0; kb < q->kb; kb++) {
		const int kpad = (int)round_up(MIN(g->k - kb * q->kc, q->kc), r->kr);
		const bool add = kb > 0 || (q->direct && g->accumulate), final = kb == q->kb - 1;
		const char *a = pa, *b = pb;
		if (q->shared)
			b = shared_columns(q, kb, in_chunk);
		else
			pack_columns(q, pb, batch, column, n, kb);
		if (q->shared_a)
			a = shared_rows(q, kb, row);
		else
			pack_rows(q, pa, batch, row, m, kb);
		for (int64_t i = 0; i < m; i += r->mr, a += a_panel)
			for (int64_t j = 0; j < n; j += r->nr) {
				const int tm = (int)MIN(m - i, r->mr), tn = (int)MIN(n - j, r->nr);
				float *tile = one_tile ? block : c + i * ldc + j;
				if (biased)
					start_tile(run, tile, ldc, batch, row + i, column + j, tm, tn);
				r->kernel(kpad, a, b + (size_t)(j / r->nr) * b_panel, tile, ldc, tm, tn,
					  add || biased);
				if (!q->direct && final)
					store_tile(run, tile, ldc, at + i * g->c.rs + j * g->c.cs, tm, tn);
			}
	}
	if (r->end)
		r->end();
}

static void compute_item(void *arg, int64_t i, int worker)
{
	const gemm_run *run = arg;
	const gemm_plan *q = run->q;
	int64_t batch = q->batch;
	if (!q->shared) {
		batch = i / (q->mb * q->nb);
		i %= q->mb * q->nb;
	}
	compute_block(run, batch, i / q->nb, i % q->nb, worker);
}

#define PACK_PANELS 4 /* panels that one thread packs at a time */

static void pack_columns_item(void *arg, int64_t i, int worker)
{
	const gemm_plan *q = ((const gemm_run *)arg)->q;
	const int step = PACK_PANELS * q->row->nr;
	int64_t kb = i % q->kb, at = i / q->kb * step, n = MIN(MIN(q->g.n - q->column, q->chunk) - at, step);
	(void)worker;
	pack_columns(q, shared_columns(q, kb, at), q->batch, q->column + at, n, kb);
}

/* Columns first, then, if A is shared too and this is the first chunk, rows. */
static void pack_item(void *arg, int64_t i, int worker)
{
	const gemm_plan *q = ((const gemm_run *)arg)->q;
	const int step = PACK_PANELS * q->row->mr;
	int64_t columns = ceil_div(MIN(q->g.n - q->column, q->chunk), PACK_PANELS * q->row->nr) * q->kb;
	if (i < columns) {
		pack_columns_item(arg, i, worker);
		return;
	}
	i -= columns;
	int64_t kb = i % q->kb, at = i / q->kb * step;
	pack_rows(q, shared_rows(q, kb, at), q->batch, at, MIN(q->g.m - at, step), kb);
}

/* ---- Products with a few columns -------------------------------------------------- */

static void *packed_vector(const gemm_plan *q, int64_t batch, int64_t column)
{
	return q->scratch + (size_t)(batch * q->g.n + column) * q->x_bytes;
}

static void vector_item(void *arg, int64_t i, int worker)
{
	const gemm_run *run = arg;
	const gemm_plan *q = run->q;
	const k_gemm_args *g = &q->g;
	enum { ROWS = 256 };
	float y[ROWS];
	(void)worker;
	assert(q->mc <= ROWS);
	int64_t batch = i / q->mb, row = i % q->mb * q->mc;
	int m = (int)MIN(g->m - row, q->mc);
	int64_t c = gemm_batch_offset(&q->g, &g->c, batch) + row * g->c.rs;
	const char *a = element_at(&g->a, gemm_batch_offset(&q->g, &g->a, batch) + row * g->a.rs);
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
	gemm_run run = {&q, loops_for(r->isa)};
	if (!q.parallel)
		p = NULL;
	if (r->vector) {
		run_vectors(p, &run);
		return;
	}
	if (!q.shared) {
		pool_run(p, compute_item, &run, q.batches * q.mb * q.nb);
		return;
	}
	for (q.batch = 0; q.batch < q.batches; q.batch++)
		for (q.column = 0; q.column < q.g.n; q.column += q.chunk) {
			int64_t n = MIN(q.g.n - q.column, q.chunk);
			int64_t packs = ceil_div(n, PACK_PANELS * r->nr) * q.kb;
			if (q.shared_a && q.column == 0)
				packs += ceil_div(q.g.m, PACK_PANELS * r->mr) * q.kb;
			pool_run(p, pack_item, &run, packs);
			pool_run(p, compute_item, &run, q.mb * q.nb);
		}
}
