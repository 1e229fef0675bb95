/* Matrix multiplication: GFLOP/s of the kernels a machine gets, the share of its measured fp32
 * multiply-add peak, and oneDNN's rates in the same run where it is installed.
 *
 *   bench_gemm [--json] [--threads N] [--isa LIST] [--runs N] [M N K]
 *
 * Medians of at least 5 runs on random data: with zeros, tile units clock up to a quarter higher. */
#include "kernel/kernel.h"

#include "base/random.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#ifdef HAVE_DNNL
#include <dnnl.h>
#endif

static double clock_seconds(clockid_t id)
{
	struct timespec t;
	clock_gettime(id, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
static double wall(void) { return clock_seconds(CLOCK_MONOTONIC); }
static double cpu(void) { return clock_seconds(CLOCK_PROCESS_CPUTIME_ID); }

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

enum { MAX_RUNS = 101 };

static int threads = 1;

/* Median seconds of `runs` calls, after one that warms up.  Short calls are repeated.  One thread is timed by
 * the processor time it got, so other work on the machine does not count; with several, runs
 * that had to share processors are taken again for a while. */
static double median(int runs, void (*fn)(void *), void *arg)
{
	double t[MAX_RUNS], dirty[MAX_RUNS], begun = wall();
	fn(arg);
	double once = wall() - begun;
	int repeat = once < 2e-3 ? (int)(2e-3 / (once + 1e-7)) + 1 : 1, clean = 0, all = 0;
	while (clean < runs && (all < runs || wall() - begun < 1)) {
		double c = cpu(), w = wall();
		for (int i = 0; i < repeat; i++)
			fn(arg);
		c = cpu() - c;
		w = wall() - w;
		double seconds = (threads == 1 ? c : w) / repeat;
		if (threads == 1 || c >= 0.97 * w * threads)
			t[clean++] = seconds;
		else
			dirty[all % runs] = seconds;
		all++;
	}
	if (clean < 5) {
		memcpy(t, dirty, sizeof t);
		clean = MIN(runs, all);
	}
	qsort(t, (size_t)clean, sizeof *t, by_value);
	return t[clean / 2];
}

/* ---- The peak --------------------------------------------------------------------- */

#if defined(__x86_64__)
enum { PEAK_LOOPS = 200000, PEAK_CHAINS = 12 };

/* Independent chains of multiply-adds that never leave the registers. */
#define FMA(reg, i) "vfmadd231ps %%" reg "14, %%" reg "15, %%" reg #i "\n"
#define PEAK(name, isa, reg)                                                                               \
	__attribute__((target(isa))) static void name(void *arg, int64_t item, int worker)                 \
	{                                                                                                  \
		const float x = 1e-3f;                                                                     \
		long n = PEAK_LOOPS;                                                                       \
		(void)arg, (void)item, (void)worker;                                                       \
		__asm__ volatile("vbroadcastss %1, %%" reg "14\n vbroadcastss %1, %%" reg "15\n"           \
				 "1:\n" FMA(reg, 0) FMA(reg, 1) FMA(reg, 2) FMA(reg, 3) FMA(reg, 4)        \
				     FMA(reg, 5) FMA(reg, 6) FMA(reg, 7) FMA(reg, 8) FMA(reg, 9)           \
					 FMA(reg, 10) FMA(reg, 11) "dec %0\n jnz 1b\n vzeroupper"          \
				 : "+r"(n)                                                                 \
				 : "m"(x)                                                                  \
				 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", \
				   "xmm9", "xmm10", "xmm11", "xmm14", "xmm15", "cc");                      \
	}
PEAK(peak_avx512, "avx512f", "zmm")
PEAK(peak_avx2, "avx2,fma", "ymm")

typedef struct peak_run {
	pool *p;
	uint32_t isa;
	int threads;
} peak_run;

static void peak_call(void *arg)
{
	peak_run *q = arg;
	pool_run(q->p, q->isa & ISA_AVX512 ? peak_avx512 : peak_avx2, NULL, q->threads);
}

static double peak_gflops(pool *p, uint32_t isa, int runs)
{
	if (!(isa & ISA_AVX2))
		return 0;
	peak_run q = {.p = p, .isa = isa, .threads = pool_threads(p)};
	double lanes = isa & ISA_AVX512 ? 16 : 8;
	return 2 * lanes * PEAK_CHAINS * PEAK_LOOPS * q.threads / median(runs, peak_call, &q) * 1e-9;
}
#else
static double peak_gflops(pool *p, uint32_t isa, int runs) { return (void)p, (void)isa, (void)runs, 0; }
#endif

/* ---- Ours ------------------------------------------------------------------------- */

typedef struct gemm_case {
	pool *p;
	const k_gemm_row *row;
	k_gemm_args g;
	void *scratch;
} gemm_case;

static void gemm_call(void *arg)
{
	gemm_case *c = arg;
	k_gemm(c->p, c->row, &c->g, c->scratch);
}

typedef enum layout { FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT } layout;
static const char *const layout_name[] = {"W X", "W^T dY", "dY X^T"};

static float *random_floats(int64_t n, uint64_t seed)
{
	float *x = malloc((size_t)n * sizeof *x);
	for (int64_t i = 0; x && i < n; i++)
		x[i] = (float)random_normal(seed, 0, (uint64_t)i);
	return x;
}

/* C [m,n] = A [m,k] B [k,n], where weights are stored [out][in] and activations [channel][token]:
 * the forward product reads both along rows, the gradient of the input reads the weight
 * transposed, the weight's own reads the activations transposed and adds to fp32. */
static double ours(pool *p, uint32_t isa, k_precision precision, layout l, int64_t batches, int64_t m,
		   int64_t n, int64_t k, k_type type, int runs, const char **name)
{
	float *fa = random_floats(batches * m * k, 1), *fb = random_floats(batches * k * n, 2);
	half *ha = malloc((size_t)(batches * m * k) * 2), *hb = malloc((size_t)(batches * k * n) * 2);
	void *c = calloc((size_t)(batches * m * n), 4);
	double seconds = 0;
	gemm_case q = {.p = p};
	if (fa && fb && ha && hb && c) {
		k_f32_to_f16(p, isa, ha, fa, batches * m * k);
		k_f32_to_f16(p, isa, hb, fb, batches * k * n);
		bool turn_a = l == INPUT_GRADIENT, turn_b = l == WEIGHT_GRADIENT;
		q.g = (k_gemm_args){
		    .m = m,
		    .n = n,
		    .k = k,
		    .nbatch = 1,
		    .batch = {batches},
		    .precision = precision,
		    .accumulate = l == WEIGHT_GRADIENT && precision != K_FIXED,
		    .a = {type == K_F16 ? (void *)ha : fa, type, turn_a ? 1 : k, turn_a ? m : 1, {m * k}},
		    .b = {type == K_F16 ? (void *)hb : fb, type, turn_b ? 1 : n, turn_b ? k : 1, {k * n}},
		    .c = {c, l == WEIGHT_GRADIENT || type == K_F32 ? K_F32 : K_F16, n, 1, {m * n}}};
		q.row = k_gemm_select(&q.g, isa);
		*name = k_gemm_name(q.row);
		q.scratch = malloc(k_gemm_scratch(q.row, &q.g, pool_threads(p)));
		if (q.scratch)
			seconds = median(runs, gemm_call, &q);
	}
	free(fa);
	free(fb);
	free(ha);
	free(hb);
	free(c);
	free(q.scratch);
	return seconds;
}

/* ---- oneDNN ----------------------------------------------------------------------- */

#ifdef HAVE_DNNL
typedef struct dnnl_case {
	dnnl_primitive_t prim;
	dnnl_stream_t stream;
	dnnl_exec_arg_t args[3];
} dnnl_case;

static void dnnl_call(void *arg)
{
	dnnl_case *c = arg;
	dnnl_primitive_execute(c->prim, c->stream, 3, c->args);
	dnnl_stream_wait(c->stream);
}

/* Row-major A and B in `type`, C in fp32; 0: not supported. */
static double onednn(dnnl_data_type_t type, layout l, int64_t batches, int64_t m, int64_t n, int64_t k,
		     int runs)
{
	static dnnl_engine_t engine;
	static dnnl_stream_t stream;
	if (!engine && (dnnl_engine_create(&engine, dnnl_cpu, 0) != dnnl_success ||
			dnnl_stream_create(&stream, engine, dnnl_stream_default_flags) != dnnl_success))
		return 0;
	int64_t size[3] = {batches * m * k, batches * k * n, batches * m * n};
	dnnl_dims_t dims[3] = {{batches, m, k}, {batches, k, n}, {batches, m, n}};
	dnnl_dims_t strides[3] = {{m * k, k, 1}, {k * n, n, 1}, {m * n, n, 1}};
	if (l == INPUT_GRADIENT) {
		strides[0][1] = 1;
		strides[0][2] = m;
	} else if (l == WEIGHT_GRADIENT) {
		strides[1][1] = 1;
		strides[1][2] = k;
	}
	dnnl_memory_desc_t d[3];
	dnnl_memory_t mem[3] = {0};
	void *data[3] = {0};
	double seconds = 0;
	for (int i = 0; i < 3; i++) {
		dnnl_data_type_t t = i == 2 ? dnnl_f32 : type;
		float *f = random_floats(size[i], (uint64_t)i + 1);
		data[i] = f;
		if (f && t == dnnl_bf16)
			for (int64_t j = 0; j < size[i]; j++)
				((bfloat *)data[i])[j] = bfloat_from_float(f[j]);
		dnnl_memory_desc_init_by_strides(&d[i], 3, dims[i], t, strides[i]);
		dnnl_memory_create(&mem[i], &d[i], engine, data[i]);
	}
	dnnl_matmul_desc_t desc;
	dnnl_primitive_desc_t pd = NULL;
	dnnl_case q = {.stream = stream};
	dnnl_matmul_desc_init(&desc, &d[0], &d[1], NULL, &d[2]);
	if (data[0] && data[1] && data[2] &&
	    dnnl_primitive_desc_create(&pd, &desc, NULL, engine, NULL) == dnnl_success &&
	    dnnl_primitive_create(&q.prim, pd) == dnnl_success) {
		q.args[0] = (dnnl_exec_arg_t){DNNL_ARG_SRC, mem[0]};
		q.args[1] = (dnnl_exec_arg_t){DNNL_ARG_WEIGHTS, mem[1]};
		q.args[2] = (dnnl_exec_arg_t){DNNL_ARG_DST, mem[2]};
		seconds = median(runs, dnnl_call, &q);
		dnnl_primitive_destroy(q.prim);
	}
	if (pd)
		dnnl_primitive_desc_destroy(pd);
	for (int i = 0; i < 3; i++) {
		if (mem[i])
			dnnl_memory_destroy(mem[i]);
		free(data[i]);
	}
	return seconds;
}
#endif

/* ---- The table -------------------------------------------------------------------- */

static const struct shape {
	layout l;
	int64_t batches, m, n, k;
} shapes[] = {
    {FORWARD, 1, 768, 256, 768},          {FORWARD, 1, 2048, 256, 768},
    {FORWARD, 1, 768, 256, 2048},         {FORWARD, 1, 768, 2048, 768},
    {FORWARD, 1, 288, 1024, 288},         {FORWARD, 1, 4096, 1024, 288},
    {INPUT_GRADIENT, 1, 768, 256, 2048},  {INPUT_GRADIENT, 1, 288, 1024, 768},
    {WEIGHT_GRADIENT, 1, 2048, 768, 256}, {WEIGHT_GRADIENT, 1, 768, 288, 1024},
    {FORWARD, 1, 32000, 256, 288},        {INPUT_GRADIENT, 1, 288, 256, 32000},
    {FORWARD, 48, 256, 256, 64},          {FORWARD, 48, 64, 256, 256},
    {INPUT_GRADIENT, 24, 256, 256, 48},   {FORWARD, 1, 768, 1, 768},
    {FORWARD, 1, 32000, 1, 768},
};

typedef struct options {
	bool json;
	int workers, runs;
	const char *isa;
	int64_t size[3];
	int nsizes;
} options;

static bool read_options(options *o, int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--json"))
			o->json = true;
		else if (!strcmp(argv[i], "--threads") && i + 1 < argc)
			o->workers = atoi(argv[++i]);
		else if (!strcmp(argv[i], "--runs") && i + 1 < argc)
			o->runs = atoi(argv[++i]);
		else if (!strcmp(argv[i], "--isa") && i + 1 < argc)
			o->isa = argv[++i];
		else if (o->nsizes < 3 && atoll(argv[i]) > 0)
			o->size[o->nsizes++] = atoll(argv[i]);
		else
			return false;
	}
	return (o->nsizes == 0 || o->nsizes == 3) && o->runs >= 5 && o->runs <= MAX_RUNS;
}

typedef struct rate {
	const char *name;
	double gflops;
} rate;

static void print_shape(const options *o, const struct shape *s, const rate *r, int n, double peak,
			const char *exact, const char *fast, const char *fixed, bool last)
{
	if (o->json) {
		printf("  {\"product\": \"%s\", \"batches\": %lld, \"m\": %lld, \"n\": %lld, \"k\": %lld",
		       layout_name[s->l], (long long)s->batches, (long long)s->m, (long long)s->n,
		       (long long)s->k);
		for (int i = 0; i < n; i++)
			printf(", \"%s\": %.1f", r[i].name, r[i].gflops);
		printf(", \"exact_kernel\": \"%s\", \"fast_kernel\": \"%s\", \"fixed_kernel\": \"%s\"}%s\n",
		       exact, fast, fixed, last ? "" : ",");
		return;
	}
	char text[64];
	snprintf(text, sizeof text, "%s%.0lld%s%lldx%lldx%lld", "",
		 s->batches > 1 ? (long long)s->batches : 0LL, s->batches > 1 ? " x " : "", (long long)s->m,
		 (long long)s->n, (long long)s->k);
	printf("%-8s%-20s", layout_name[s->l], text);
	for (int i = 0; i < n; i++) {
		if (i < 4 && peak > 0)
			printf("%9.1f %3.0f%%", r[i].gflops, 100 * r[i].gflops / peak);
		else
			printf("%9.1f", r[i].gflops);
	}
	printf("   %s, %s, %s\n", exact, fast, fixed);
}

int main(int argc, char **argv)
{
	options o = {.runs = 7};
	if (!read_options(&o, argc, argv)) {
		fprintf(stderr,
			"usage: bench_gemm [--json] [--threads N] [--isa LIST] [--runs 5..%d] [M N K]\n",
			MAX_RUNS);
		return 2;
	}
	an_ctx *ctx;
	an_ctx_options opt = {.threads = o.workers, .isa = o.isa};
	if (an_ctx_open(&opt, &ctx) != AN_OK) {
		fprintf(stderr, "bench_gemm: cannot open a context (is the list after --isa right?)\n");
		return 1;
	}
	pool *p = ctx_pool(ctx);
	threads = pool_threads(p);
#ifdef HAVE_DNNL
	/* OpenMP, which oneDNN runs on, reads these when the program is loaded */
	if (!getenv("OMP_NUM_THREADS")) {
		char count[16];
		snprintf(count, sizeof count, "%d", threads);
		setenv("OMP_NUM_THREADS", count, 1);
		setenv("OMP_WAIT_POLICY", "active", 1);
		execv("/proc/self/exe", argv);
	}
#endif
	double peak = peak_gflops(p, ctx->isa, o.runs);
	if (o.json)
		printf("{\"isa\": \"%s\", \"threads\": %d, \"fma_peak\": %.1f, \"shapes\": [\n",
		       an_ctx_isa(ctx), threads, peak);
	else
		printf("%s, %d threads, fp32 multiply-add peak %.0f GFLOP/s; GFLOP/s and share of it\n"
		       "product MxNxK                  f16 exact     f16 fast      f32 exact    f16 fixed    "
		       "oneDNN f32 bf16\n",
		       an_ctx_isa(ctx), threads, peak);
	struct shape own = {FORWARD, 1, o.size[0], o.size[1], o.size[2]};
	int count = o.nsizes ? 1 : LENGTH(shapes);
	for (int i = 0; i < count; i++) {
		const struct shape *s = o.nsizes ? &own : &shapes[i];
		double work = 2e-9 * (double)(s->batches * s->m * s->n * s->k);
		rate r[6];
		const char *name = "", *exact = "", *fast = "", *fixed = "";
		int n = 0;
		r[n++] = (rate){"f16_exact", work / ours(p, ctx->isa, K_EXACT, s->l, s->batches, s->m, s->n,
							 s->k, K_F16, o.runs, &exact)};
		r[n++] = (rate){"f16_fast", work / ours(p, ctx->isa, K_FAST, s->l, s->batches, s->m, s->n,
							s->k, K_F16, o.runs, &fast)};
		r[n++] = (rate){"f32_exact", work / ours(p, ctx->isa, K_EXACT, s->l, s->batches, s->m, s->n,
							 s->k, K_F32, o.runs, &name)};
		r[n++] = (rate){"f16_fixed", work / ours(p, ctx->isa, K_FIXED, s->l, s->batches, s->m, s->n,
							 s->k, K_F16, o.runs, &fixed)};
#ifdef HAVE_DNNL
		double t = onednn(dnnl_f32, s->l, s->batches, s->m, s->n, s->k, o.runs);
		r[n++] = (rate){"onednn_f32", t > 0 ? work / t : 0};
		t = onednn(dnnl_bf16, s->l, s->batches, s->m, s->n, s->k, o.runs);
		r[n++] = (rate){"onednn_bf16", t > 0 ? work / t : 0};
#endif
		print_shape(&o, s, r, n, peak, exact, fast, fixed, i == count - 1);
	}
	if (o.json)
		printf("]}\n");
	an_ctx_close(ctx);
	return 0;
}
