/* Matrix products in the shapes and orientations of training. */
#include "bench/bench.h"

#include "base/random.h"
#include "device/device.h"
#include "kernel/kernel.h"

#include <math.h>

/* Weights are stored [out][in], activations [channel][token].  The forward product reads both along rows, the
 * gradient of the input reads the weight transposed, the weight's own reads activations transposed and adds
 * to fp32. */
typedef enum product { FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT, PRODUCTS } product;
static const char *const product_name[] = {"forward", "dX", "dW"};

static const int64_t tokens[] = {256, 512, 1024};
static const struct weight {
	int64_t in, out;
} weights[] = {{768, 768}, {768, 2048}, {2048, 768}, {768, 32000}, {1024, 3072}};
enum { MOST = 1024 * 32000, PIECES = 1024, SHAPES = LENGTH(tokens) * LENGTH(weights) };

/* Not among the means: heads of attention, and matrices with one column as in decoding. */
static const struct other {
	const char *what;
	int64_t batch, m, n, k;
	bool turned;
} others[] = {{"scores of 12 heads", 12, 512, 512, 64, false},
	      {"values of 12 heads", 12, 64, 512, 512, false},
	      {"their gradient", 12, 512, 64, 512, true},
	      {"one token", 1, 768, 1, 768, false},
	      {"one token, head", 1, 32000, 1, 768, false}};

static const struct {
	const char *name;
	k_precision precision;
} precisions[] = {{"fast", K_FAST}, {"ieee", K_EXACT}, {"near", K_NEAR}, {"fixed", K_FIXED}};

typedef struct gemm {
	bench *b;
	bench_limits limits;
	half *x, *y;
	float *c;
	size_t elements;        /* of each */
	void *scratch, *packed; /* packed: weights, as the kernel reads them */
	size_t scratch_bytes, packed_bytes;
	k_gemm_args args;
	const k_gemm_row *row;
	struct mean {
		double gflops;
		bool noisy;
	} mean[LENGTH(precisions)][PRODUCTS]; /* by precision */
} gemm;

/* Uniform in [-1, 1), four from a draw. */
static void fill(void *arg, int64_t item, int worker)
{
	const gemm *g = arg;
	int64_t n = (int64_t)g->elements / PIECES; /* of a piece; both arrays have as many */
	half *x = item < PIECES ? g->x + item * n : g->y + (item - PIECES) * n;
	(void)worker;
	for (int64_t i = 0; i < n; i += 4) {
		uint64_t bits = random_bits(5, (uint64_t)item, (uint64_t)i);
		for (int k = 0; k < 4; k++)
			x[i + k] = half_from_float((float)(int16_t)(bits >> (16 * k)) * 0x1p-15f);
	}
}

static an_status allocate(gemm *g, size_t elements)
{
	an_ctx *ctx = g->b->ctx;
	g->elements = elements;
	g->x = mem_alloc_tensor(ctx, elements * sizeof *g->x);
	g->y = mem_alloc_tensor(ctx, elements * sizeof *g->y);
	g->c = mem_alloc_tensor(ctx, elements * sizeof *g->c);
	if (!g->x || !g->y || !g->c)
		return fail_memory(ctx, elements * sizeof *g->c);
	pool_run(g->b->pool, fill, g, 2 * PIECES);
	return AN_OK;
}

static void release(gemm *g)
{
	an_ctx *ctx = g->b->ctx;
	mem_free_tensor(ctx, g->x, g->elements * sizeof *g->x);
	mem_free_tensor(ctx, g->y, g->elements * sizeof *g->y);
	mem_free_tensor(ctx, g->c, g->elements * sizeof *g->c);
	mem_free_tensor(ctx, g->scratch, g->scratch_bytes);
	mem_free_tensor(ctx, g->packed, g->packed_bytes);
}

static an_status grow(an_ctx *ctx, void **block, size_t *have, size_t want)
{
	if (want <= *have)
		return AN_OK;
	mem_free_tensor(ctx, *block, *have);
	*have = 0;
	if (!(*block = mem_alloc_tensor(ctx, want)))
		return fail_memory(ctx, want);
	*have = want;
	return AN_OK;
}

static void call(void *arg)
{
	gemm *g = arg;
	k_gemm(g->b->pool, g->row, &g->args, g->scratch);
}

/* What g->args asks for; with `packed`, A are weights, which stay from product to product and are laid out
 * for the kernel before the time is taken. */
static an_status time_product(gemm *g, bool packed, bench_times *t)
{
	an_ctx *ctx = g->b->ctx;
	g->row = k_gemm_select(&g->args, ctx->isa);
	size_t bytes = packed ? k_gemm_packed_bytes(g->row, &g->args, K_A) : 0;
	if (bytes) {
		TRY(grow(ctx, &g->packed, &g->packed_bytes, bytes));
		k_gemm_pack(g->b->pool, g->row, &g->args, K_A, g->packed);
		g->args.packed_a = g->packed;
	}
	TRY(grow(ctx, &g->scratch, &g->scratch_bytes, k_gemm_scratch(g->row, &g->args, g->b->threads)));
	*t = measure(g->b, PATIENCE, call, g);
	return AN_OK;
}

static void set_product(gemm *g, product p, k_precision precision, int64_t s, const struct weight *w)
{
	k_matrix c = {.data = g->c, .type = K_F16, .cs = 1};
	k_gemm_args *a = &g->args;
	*a = (k_gemm_args){.precision = precision};
	switch (p) {
	case FORWARD:
		a->m = w->out, a->n = s, a->k = w->in;
		a->a = (k_matrix){.data = g->x, .type = K_F16, .rs = w->in, .cs = 1};
		a->b = (k_matrix){.data = g->y, .type = K_F16, .rs = s, .cs = 1};
		break;
	case INPUT_GRADIENT:
		a->m = w->in, a->n = s, a->k = w->out;
		a->a = (k_matrix){.data = g->x, .type = K_F16, .rs = 1, .cs = w->in};
		a->b = (k_matrix){.data = g->y, .type = K_F16, .rs = s, .cs = 1};
		break;
	default:
		a->m = w->out, a->n = w->in, a->k = s;
		a->a = (k_matrix){.data = g->y, .type = K_F16, .rs = s, .cs = 1};
		a->b = (k_matrix){.data = g->x, .type = K_F16, .rs = 1, .cs = s};
		c.type = K_F32;
	}
	c.rs = a->n;
	a->c = c;
}

/* What a share is of; NAN where no unit does it. */
static double peak(const gemm *g, int precision)
{
	k_precision p = precisions[precision].precision;
	return p == K_FAST ? g->limits.fast : p == K_FIXED ? NAN : g->limits.ieee;
}

static an_status time_shapes(gemm *g, int precision)
{
	const char *name = precisions[precision].name;
	double rate[PRODUCTS][SHAPES];
	int n = 0;
	for (int i = 0; i < LENGTH(weights); i++)
		for (int j = 0; j < LENGTH(tokens); j++, n++)
			for (int p = 0; p < PRODUCTS; p++) {
				bench_times t;
				bench_progress(g->b, "%s %s %lld x %lld x %lld", name, product_name[p],
					       (long long)tokens[j], (long long)weights[i].in,
					       (long long)weights[i].out);
				set_product(g, (product)p, precisions[precision].precision, tokens[j],
					    &weights[i]);
				TRY(time_product(g, p != WEIGHT_GRADIENT, &t));
				rate[p][n] = 2e-9 * (double)(g->args.m * g->args.n * g->args.k) / t.median;
				g->mean[precision][p].noisy |= t.noisy;
				ROW(g->b, "gemm", CELL_TEXT("precision", "precision", 9, name),
				    CELL_TEXT("product", "product", 8, product_name[p]),
				    CELL_NUMBER("tokens", "M", 5, 0, (double)tokens[j]),
				    CELL_NUMBER("in", "K", 5, 0, (double)weights[i].in),
				    CELL_NUMBER("out", "N", 6, 0, (double)weights[i].out), CELL_TIMES(t),
				    CELL_NUMBER("gflops", "GFLOP/s", 9, 1, rate[p][n]),
				    CELL_NUMBER("peak_percent", "% of peak", 10, 1,
						100 * rate[p][n] / peak(g, precision)),
				    CELL_TEXT("row", "row", 24, k_gemm_name(g->row)));
			}
	for (int p = 0; p < PRODUCTS; p++)
		g->mean[precision][p].gflops = stats_geomean(rate[p], n);
	return AN_OK;
}

static an_status report_means(gemm *g, int precision)
{
	for (int p = 0; p < PRODUCTS; p++) {
		const struct mean *m = &g->mean[precision][p];
		ROW(g->b, "gemm means",
		    CELL_TEXT("precision", "geometric mean", 14, precisions[precision].name),
		    CELL_TEXT("product", "product", 8, product_name[p]),
		    CELL_NUMBER("gflops", "GFLOP/s", 9, 1, m->gflops),
		    CELL_NUMBER("peak_percent", "% of peak", 10, 1, 100 * m->gflops / peak(g, precision)),
		    CELL_FLAG("noisy", "noisy", m->noisy));
	}
	return AN_OK;
}

static an_status time_others(gemm *g, int precision)
{
	const char *name = precisions[precision].name;
	for (const struct other *o = others; o < others + LENGTH(others); o++) {
		bench_times t;
		bench_progress(g->b, "%s, %s", name, o->what);
		g->args = (k_gemm_args){
		    .m = o->m,
		    .n = o->n,
		    .k = o->k,
		    .nbatch = 1,
		    .batch = {o->batch},
		    .precision = precisions[precision].precision,
		    .a = {g->x, K_F16, o->turned ? 1 : o->k, o->turned ? o->m : 1, {o->m * o->k}},
		    .b = {g->y, K_F16, o->n, 1, {o->k * o->n}},
		    .c = {g->c, K_F16, o->n, 1, {o->m * o->n}}};
		TRY(time_product(g, false, &t));
		double flop = 2.0 * (double)(o->batch * o->m * o->n * o->k);
		double bytes = 2.0 * (double)(o->batch * (o->m * o->k + o->k * o->n + o->m * o->n));
		ROW(g->b, "gemm others", CELL_TEXT("precision", "precision", 9, name),
		    CELL_TEXT("what", "what", 20, o->what), CELL_TIMES(t),
		    CELL_NUMBER("gflops", "GFLOP/s", 9, 1, 1e-9 * flop / t.median),
		    CELL_NUMBER("gbps", "GB/s", 8, 1, 1e-9 * bytes / t.median),
		    CELL_TEXT("row", "row", 24, k_gemm_name(g->row)));
	}
	return AN_OK;
}

static an_status run(gemm *g)
{
	const char *only = g->b->o.numerics;
	ane_numerics chosen;
	TRY(ane_numerics_parse(g->b->ctx, only, &chosen));
	TRY(limits_measure(g->b, LIMITS_PEAKS, &g->limits));
	bench_progress(g->b, "matrices");
	TRY(allocate(g, MOST));
	static an_status (*const table[])(gemm *, int) = {time_shapes, report_means, time_others};
	for (int i = 0; i < LENGTH(table); i++)
		for (int p = 0; p < LENGTH(precisions); p++)
			if (only ? precisions[p].precision == dev_precision(&chosen)
				 : precisions[p].precision == K_FAST || precisions[p].precision == K_EXACT)
				TRY(table[i](g, p));
	return AN_OK;
}

an_status bench_gemm_run(bench *b)
{
	gemm g = {.b = b};
	an_status s = run(&g);
	release(&g);
	return s;
}

static an_status rate(gemm *g, k_precision precision, double *gflops)
{
	static const struct weight typical = {768, 2048};
	enum { TOKENS = 512 };
	double r[PRODUCTS];
	TRY(allocate(g, 2048 * 768)); /* the gradient, the largest; and a multiple of 4 * PIECES */
	for (int p = 0; p < PRODUCTS; p++) {
		bench_times t;
		set_product(g, (product)p, precision, TOKENS, &typical);
		TRY(time_product(g, p != WEIGHT_GRADIENT, &t));
		r[p] = 2e-9 * (double)(g->args.m * g->args.n * g->args.k) / t.median;
	}
	*gflops = stats_geomean(r, PRODUCTS);
	return AN_OK;
}

an_status gemm_rate(bench *b, k_precision precision, double *gflops)
{
	gemm g = {.b = b};
	an_status s = rate(&g, precision, gflops);
	release(&g);
	return s;
}
