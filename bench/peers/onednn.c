/* oneDNN's matrix products in the shapes of `anneal bench gemm`, as a JSON object.
 *
 *   onednn [--threads N] [--runs N]
 *
 * Activations are [tokens][channels], weights [in][out]: forward Y = X W, dX = dY W^T, dW = X^T dY. "packed":
 * the weights are in the layout that oneDNN likes best, reordered before the time is taken; dW has no operand
 * that stays.  bf16 products give bf16, as a layer would keep them; gradients of weights are fp32.
 * For oneDNN 2 (Debian 12: libdnnl-dev 2.6). */
#include "bench/bench.h"

#include "base/half.h"
#include "base/random.h"

#include <dnnl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

typedef enum product { FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT, PRODUCTS } product;
static const char *const product_name[] = {"forward", "dX", "dW"};
static const int64_t tokens[] = {256, 512, 1024};
static const struct weight {
	int64_t in, out;
} weights[] = {{768, 768}, {768, 2048}, {2048, 768}, {768, 32000}, {1024, 3072}};
enum { MOST = 1024 * 32000, SHAPES = LENGTH(tokens) * LENGTH(weights) };

static dnnl_engine_t engine;
static dnnl_stream_t stream;
static void *operand[3]; /* random: fp32 of MOST elements, or bf16 in their place; and results */

static void check(dnnl_status_t s, const char *what)
{
	if (s != dnnl_success) {
		fprintf(stderr, "onednn: %s failed with status %d\n", what, (int)s);
		exit(1);
	}
}

/* A matrix of `rows` by `columns` in row-major order, or its transpose. */
static void describe(dnnl_memory_desc_t *d, dnnl_data_type_t type, int64_t rows, int64_t columns, bool turned)
{
	dnnl_dims_t dims = {rows, columns}, strides = {turned ? 1 : columns, turned ? rows : 1};
	check(dnnl_memory_desc_init_by_strides(d, 2, dims, type, strides), "a description");
}

typedef struct run {
	dnnl_primitive_t primitive;
	dnnl_exec_arg_t arg[3];
} run;

static void call(void *arg)
{
	run *r = arg;
	dnnl_primitive_execute(r->primitive, stream, 3, r->arg);
	dnnl_stream_wait(stream);
}

/* The weights in the layout that the product asks for. */
static dnnl_memory_t reorder(dnnl_memory_t from, const dnnl_memory_desc_t *want)
{
	dnnl_memory_t to;
	dnnl_primitive_desc_t pd;
	dnnl_primitive_t p;
	const dnnl_memory_desc_t *have;
	check(dnnl_memory_create(&to, want, engine, DNNL_MEMORY_ALLOCATE), "packed weights");
	check(dnnl_memory_get_memory_desc(from, &have), "the weights' layout");
	check(dnnl_reorder_primitive_desc_create(&pd, have, engine, want, engine, NULL), "a reorder");
	check(dnnl_primitive_create(&p, pd), "a reorder");
	dnnl_exec_arg_t arg[] = {{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}};
	check(dnnl_primitive_execute(p, stream, 2, arg), "a reorder");
	check(dnnl_stream_wait(stream), "a reorder");
	dnnl_primitive_destroy(p);
	dnnl_primitive_desc_destroy(pd);
	return to;
}

static bench_times time_product(const bench *b, dnnl_data_type_t type, product p, bool packed, int64_t s,
				const struct weight *w)
{
	dnnl_memory_desc_t x, y, c, any;
	switch (p) {
	case FORWARD:
		describe(&x, type, s, w->in, false);
		describe(&y, type, w->in, w->out, false);
		describe(&c, type, s, w->out, false);
		break;
	case INPUT_GRADIENT:
		describe(&x, type, s, w->out, false);
		describe(&y, type, w->out, w->in, true);
		describe(&c, type, s, w->in, false);
		break;
	default:
		describe(&x, type, w->in, s, true);
		describe(&y, type, s, w->out, false);
		describe(&c, dnnl_f32, w->in, w->out, false);
	}
	any = y;
	if (packed)
		check(dnnl_memory_desc_init_by_tag(&any, 2, y.dims, type, dnnl_format_tag_any), "a layout");
	dnnl_matmul_desc_t desc;
	dnnl_primitive_desc_t pd;
	dnnl_memory_t m[3];
	run r;
	check(dnnl_matmul_desc_init(&desc, &x, &any, NULL, &c), "a product");
	check(dnnl_primitive_desc_create(&pd, &desc, NULL, engine, NULL), "a product");
	check(dnnl_primitive_create(&r.primitive, pd), "a product");
	check(dnnl_memory_create(&m[0], &x, engine, operand[0]), "an operand");
	check(dnnl_memory_create(&m[1], &y, engine, operand[1]), "an operand");
	check(dnnl_memory_create(&m[2], &c, engine, operand[2]), "a result");
	const dnnl_memory_desc_t *want = dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
	dnnl_memory_t right = packed ? reorder(m[1], want) : m[1];
	r.arg[0] = (dnnl_exec_arg_t){DNNL_ARG_SRC, m[0]};
	r.arg[1] = (dnnl_exec_arg_t){DNNL_ARG_WEIGHTS, right};
	r.arg[2] = (dnnl_exec_arg_t){DNNL_ARG_DST, m[2]};
	bench_times t = measure(b, PATIENCE, call, &r);
	dnnl_primitive_destroy(r.primitive);
	dnnl_primitive_desc_destroy(pd);
	if (packed)
		dnnl_memory_destroy(right);
	for (int i = 0; i < 3; i++)
		dnnl_memory_destroy(m[i]);
	return t;
}

static void fill(bool bf16)
{
	for (int k = 0; k < 2; k++)
		for (int64_t i = 0; i < MOST; i++) {
			float v = (float)(int16_t)random_bits(5, (uint64_t)k, (uint64_t)i) * 0x1p-15f;
			if (bf16)
				((bfloat *)operand[k])[i] = bfloat_from_float(v);
			else
				((float *)operand[k])[i] = v;
		}
}

static const char *separator = "";

static void report(const char *type, product p, bool packed, int64_t s, const struct weight *w, bench_times t)
{
	printf("%s\n  {\"type\": \"%s\", \"product\": \"%s\", \"weights\": \"%s\", \"tokens\": %lld, \"in\": "
	       "%lld, "
	       "\"out\": %lld, \"ms\": %.6g, \"ms_spread\": %.6g, \"runs\": %d, \"noisy\": %s, \"gflops\": "
	       "%.6g}",
	       separator, type, product_name[p], packed ? "packed" : "plain", (long long)s, (long long)w->in,
	       (long long)w->out, 1e3 * t.median, 1e3 * (t.high - t.low), t.runs, t.noisy ? "true" : "false",
	       2e-9 * (double)(s * w->in * w->out) / t.median);
	separator = ",";
}

static void run_type(const bench *b, bool bf16)
{
	dnnl_data_type_t type = bf16 ? dnnl_bf16 : dnnl_f32;
	fill(bf16);
	for (int i = 0; i < LENGTH(weights); i++)
		for (int j = 0; j < LENGTH(tokens); j++)
			for (int p = 0; p < PRODUCTS; p++)
				for (int packed = 0; packed < (p == WEIGHT_GRADIENT ? 1 : 2); packed++)
					report(bf16 ? "bf16" : "f32", (product)p, packed, tokens[j],
					       &weights[i],
					       time_product(b, type, (product)p, packed, tokens[j],
							    &weights[i]));
}

/* OpenMP, which oneDNN runs on, reads these when the program is loaded. */
static void set_threads(int threads, char **argv)
{
	char count[16];
	snprintf(count, sizeof count, "%d", threads);
	if (getenv("OMP_WAIT_POLICY"))
		return;
	setenv("OMP_NUM_THREADS", count, 1);
	setenv("OMP_WAIT_POLICY", "active", 1);
	execv("/proc/self/exe", argv);
}

int main(int argc, char **argv)
{
	bench b = {.o.runs = BENCH_LEAST_RUNS};
	for (int i = 1; i + 1 < argc; i += 2) {
		if (strcmp(argv[i], "--threads") == 0)
			b.threads = atoi(argv[i + 1]);
		else if (strcmp(argv[i], "--runs") == 0)
			b.o.runs = atoi(argv[i + 1]);
	}
	if (argc % 2 == 0 || b.o.runs < BENCH_LEAST_RUNS || b.o.runs > BENCH_MOST_RUNS || b.threads < 0) {
		fprintf(stderr, "usage: onednn [--threads N] [--runs %d..%d]\n", BENCH_LEAST_RUNS,
			BENCH_MOST_RUNS);
		return 2;
	}
	if (b.threads == 0)
		b.threads = (int)sysconf(_SC_NPROCESSORS_ONLN);
	set_threads(b.threads, argv);
	check(dnnl_engine_create(&engine, dnnl_cpu, 0), "the engine");
	check(dnnl_stream_create(&stream, engine, dnnl_stream_default_flags), "the stream");
	for (int i = 0; i < LENGTH(operand); i++)
		if (!(operand[i] = aligned_alloc(64, MOST * sizeof(float)))) {
			fprintf(stderr, "onednn: out of memory\n");
			return 1;
		}
	const dnnl_version_t *v = dnnl_version();
	printf("{\"onednn\": \"%d.%d.%d\", \"threads\": %d, \"gemm\": [", v->major, v->minor, v->patch,
	       b.threads);
	run_type(&b, false);
	run_type(&b, true);
	printf("\n]}\n");
	return 0;
}
