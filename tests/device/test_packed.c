/* Weights that the software device keeps packed between runs: results have the bits that they have without,
 * every change is seen, and copies are made and given up as their use says. */
#include "support/device_support.h"

#include "device/soft/soft.h"

enum { M = 64, K = M, N = 24, RUNS = 5, PAYS = 3 };

/* Weights, square, in three roles: A, A transposed, B.  fp32, whose panels are as large on every machine, or
 * fp16. */
static an_program *parse(an_ctx *ctx, const char *type)
{
	char text[1500];
	snprintf(
	    text, sizeof text,
	    "program(1.3)\n{\n"
	    "  func main<ios18>(tensor<%s, [%d, %d]> w, tensor<%s, [%d, %d]> x, tensor<%s, [%d, %d]> dy,"
	    " tensor<%s, [%d, %d]> u) {\n"
	    "    bool no = const()[name = string(\"no\"), val = bool(false)];\n"
	    "    bool yes = const()[name = string(\"yes\"), val = bool(true)];\n"
	    "    tensor<%s, [%d, %d]> y = matmul(x = w, y = x, transpose_x = no, transpose_y = no)[name = "
	    "string(\"y\")];\n"
	    "    tensor<%s, [%d, %d]> dx = matmul(x = w, y = dy, transpose_x = yes, transpose_y = no)[name = "
	    "string(\"dx\")];\n"
	    "    tensor<%s, [%d, %d]> v = matmul(x = u, y = w, transpose_x = no, transpose_y = no)[name = "
	    "string(\"v\")];\n"
	    "  } -> (y, dx, v);\n}\n",
	    type, M, K, type, K, N, type, M, N, type, N, M, type, M, N, type, K, N, type, N, K);
	an_program *p;
	MIL_OK(ctx, an_program_parse(ctx, text, strlen(text), "test.mil", &p));
	return p;
}

enum { W, X, DY, U, Y, DX, V, PORTS };

static an_ctx *metered_ctx(device_meter *m)
{
	an_ctx *ctx;
	assert_int_equal(device_metered(m, 2, &ctx), AN_OK);
	return ctx;
}

typedef struct pair {
	an_ctx *ctx;
	an_device *d;
	an_program *p;
	an_call *kept, *plain; /* the same inputs, the first's weights kept packed */
} pair;

static void fill(an_call *c, int port, uint64_t seed)
{
	device_fill(&c->exe->ports[port].type, device_bytes(c, port), seed, 1, -2, 2);
	an_buffer_unmap(c->bound[port]);
}

static pair make_pair(an_ctx *ctx, const char *numerics, const char *type)
{
	pair x = {.ctx = ctx, .d = device_soft(ctx, numerics, true), .p = parse(ctx, type)};
	an_function *f = an_program_function(x.p, NULL);
	x.kept = device_call(x.d, f, 1, -2, 2);
	x.plain = device_call(x.d, f, 1, -2, 2);
	an_buffer_keep_packed(x.kept->bound[W]);
	return x;
}

static void close_pair(pair *x)
{
	an_call_free(x->kept);
	an_call_free(x->plain);
	an_program_free(x->p);
	an_device_close(x->d);
}

static int64_t memory(const an_device *d)
{
	an_device_info info;
	an_device_get_info(d, &info);
	return info.memory;
}

static void same_outputs(const char *what, const an_call *a, an_call *b)
{
	for (int i = Y; i <= V; i++) {
		const void *x = an_buffer_map(a->bound[i]), *y = an_buffer_map(b->bound[i]);
		if (memcmp(x, y, a->bound[i]->bytes) != 0)
			fail_msg("%s: output %s differs from that of weights which are not kept", what,
				 a->exe->ports[i].name);
	}
}

/* Runs both and compares. */
static void run(const char *what, pair *x)
{
	MIL_OK(x->ctx, an_call_run(x->kept));
	MIL_OK(x->ctx, an_call_run(x->plain));
	same_outputs(what, x->kept, x->plain);
}

static void test_same_bits(void **state)
{
	(void)state;
	static const char *const numerics[] = {"ieee", "fast", "m4"}, *const type[] = {"fp16", "fp32"};
	an_ctx *ctx = device_ctx(3);
	for (int i = 0; i < LENGTH(numerics); i++)
		for (int t = 0; t < LENGTH(type); t++) {
			pair x = make_pair(ctx, numerics[i], type[t]);
			for (int k = 0; k < RUNS; k++) {
				fill(x.kept, X, 7 + (uint64_t)k);
				fill(x.plain, X, 7 + (uint64_t)k);
				run(numerics[i], &x);
			}
			close_pair(&x);
		}
	an_ctx_close(ctx);
}

/* What the three roles take, made at the third use; memory goes when the last who shares it does. */
static void test_memory(void **state)
{
	(void)state;
	device_meter m = {.left = INT64_MAX};
	an_ctx *ctx = metered_ctx(&m);
	pair x = make_pair(ctx, "ieee", "fp32");
	const int64_t before = memory(x.d), size = (int64_t)dev_packed_bytes(x.kept->exe, "w"),
		      once = M * K * (int64_t)sizeof(float);
	assert_in_range(size, 3 * once, 3 * once * 3 / 2);
	assert_int_equal(dev_packed_bytes(x.kept->exe, "y"), 0);
	assert_int_equal(dev_packed_bytes(x.kept->exe, "z"), 0);
	for (int k = 1; k <= RUNS; k++) {
		run("use", &x);
		assert_int_equal(memory(x.d), before + (k < PAYS ? 0 : size));
	}
	an_buffer *view;
	MIL_OK(ctx, an_buffer_view(x.kept->bound[W], &x.kept->bound[W]->type, 0, &view));
	an_call_free(x.kept);
	assert_int_equal(memory(x.d), before + size);
	an_buffer_free(view);
	assert_int_equal(memory(x.d), before);
	x.kept = NULL;
	close_pair(&x);
	an_ctx_close(ctx);
	assert_int_equal(m.held, 0);
}

/* Panels of four-byte elements are not kept of weights in fp16, nor what a few columns multiply. */
static void test_not_worth_it(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(2);
	k_gemm_args g = {
	    .m = M, .n = N, .k = K, .a = {NULL, K_F16, K, 1, {0}}, .b = {NULL, K_F16, N, 1, {0}}};
	g.c = (k_matrix){NULL, K_F16, N, 1, {0}};
	const k_gemm_row *row = k_gemm_select(&g, 0);
	assert_int_equal(soft_form_bytes(row, &g, K_A), 0);
	assert_int_equal(soft_form_bytes(row, &g, K_B), 0);
	g.a.type = K_F32;
	assert_int_equal(soft_form_bytes(row, &g, K_A), k_gemm_packed_bytes(row, &g, K_A));
	g.n = 1;
	assert_int_equal(soft_form_bytes(k_gemm_select(&g, 0), &g, K_A), 0);
	/* the same matrix in each of 7 batches is there once */
	g.n = N;
	g.nbatch = 1;
	g.batch[0] = 7;
	assert_int_equal(soft_form_bytes(row, &g, K_A), k_gemm_packed_bytes(row, &g, K_A));
	assert_in_range(soft_form_bytes(row, &g, K_A), M * K * 4, M * K * 4 * 3 / 2);
	an_ctx_close(ctx);
}

static const float *half_of(void *arg, int64_t i, int64_t m)
{
	static float at[M * K];
	for (int64_t j = i; j < i + m; j++)
		at[j] = ((const float *)arg)[j] / 2;
	return at + i;
}

/* Writes part of the weights of a call, through whatever writes. */
enum { BY_MAP, BY_UPDATE, BY_VIEW_UPDATE, BY_OUTPUT, BY_VIEW_OUTPUT, WAYS };
static void change(pair *x, an_call *c, int way)
{
	an_buffer *w = c->bound[W], *view, *old;
	static float values[M * K];
	for (int i = 0; i < M * K; i++)
		values[i] = (float)(i % 17 - 8 + way);
	an_type part = an_tensor(AN_FP32, 2, (int32_t[]){M / 2, K});
	switch (way) {
	case BY_MAP: memcpy(an_buffer_map(w), values, sizeof values / 3); break;
	case BY_UPDATE: MIL_OK(x->ctx, an_buffer_update(w, 5, M * K - 5, half_of, values)); break;
	case BY_VIEW_UPDATE:
		MIL_OK(x->ctx, an_buffer_view(w, &part, 64, &view));
		MIL_OK(x->ctx, an_buffer_update_from_f32(view, 3, 50, values));
		an_buffer_free(view);
		break;
	default: /* what this or another call returns */
		old = c->bound[V];
		old->owners++;
		if (way == BY_VIEW_OUTPUT) {
			MIL_OK(x->ctx, an_buffer_view(w, &old->type, (M - N) * K * sizeof(float), &view));
			MIL_OK(x->ctx, an_call_bind(c, "v", view));
			an_buffer_free(view);
			MIL_OK(x->ctx, an_call_run(c)); /* reads what it writes */
			MIL_OK(x->ctx, an_call_bind(c, "v", old));
		} else {
			an_call *other = device_call(x->d, an_program_function(x->p, NULL), 3, -1, 1);
			MIL_OK(x->ctx, an_buffer_view(w, &old->type, 0, &view));
			MIL_OK(x->ctx, an_call_bind(other, "v", view));
			an_buffer_free(view);
			MIL_OK(x->ctx, an_call_run(other));
			an_call_free(other);
		}
		an_buffer_free(old);
	}
}

static void test_changes(void **state)
{
	(void)state;
	static const char *const name[] = {"map", "update", "update of a view", "output",
					   "output over an input"};
	an_ctx *ctx = device_ctx(2);
	for (int way = 0; way < WAYS; way++) {
		pair x = make_pair(ctx, "ieee", "fp32");
		for (int round = 0; round < 2; round++) {
			for (int k = 0; k < RUNS; k++)
				run("before a change", &x);
			half before[M * N * 2];
			memcpy(before, device_bytes(x.kept, Y), sizeof before);
			change(&x, x.kept, way);
			change(&x, x.plain, way);
			run(name[way], &x);
			if (round == 0)
				assert_memory_not_equal(before, device_bytes(x.kept, Y), sizeof before);
		}
		close_pair(&x);
	}
	an_ctx_close(ctx);
}

/* What was used often is made anew at once; what was not is given up. */
static void test_policy(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(2);
	pair x = make_pair(ctx, "ieee", "fp32");
	const int64_t before = memory(x.d), size = (int64_t)dev_packed_bytes(x.kept->exe, "w");
	static const struct {
		int runs;         /* in a version */
		bool first, last; /* whether copies are there after them */
	} version[] = {{2, false, false}, {3, false, true}, {1, true, true},
		       {2, false, false}, {4, false, true}, {3, true, true},
		       {3, true, true},   {1, true, true},  {1, false, false}};
	for (int i = 0; i < LENGTH(version); i++) {
		fill(x.kept, W, 20 + (uint64_t)i);
		fill(x.plain, W, 20 + (uint64_t)i);
		for (int k = 0; k < version[i].runs; k++) {
			run("version", &x);
			if (k == 0 && version[i].runs > 1)
				assert_int_equal(memory(x.d), before + (version[i].first ? size : 0));
		}
		assert_int_equal(memory(x.d), before + (version[i].last ? size : 0));
	}
	close_pair(&x);
	an_ctx_close(ctx);
}

/* Layers: one executable, weights of their own; and several in one buffer. */
static void test_layers(void **state)
{
	(void)state;
	enum { LAYERS = 3 };
	an_ctx *ctx = device_ctx(2);
	pair x = make_pair(ctx, "ieee", "fp32");
	const int64_t before = memory(x.d), size = (int64_t)dev_packed_bytes(x.kept->exe, "w");
	const an_type one = x.kept->bound[W]->type, all = an_tensor(AN_FP32, 2, (int32_t[]){LAYERS * M, K});
	an_buffer *layer[LAYERS], *together;
	MIL_OK(ctx, an_buffer_new(x.d, &all, &together));
	an_buffer_keep_packed(together);
	for (int i = 0; i < LAYERS; i++) {
		if (i == 0)
			MIL_OK(ctx, an_buffer_new(x.d, &one, &layer[i]));
		else
			MIL_OK(ctx,
			       an_buffer_view(together, &one, (size_t)i * M * K * sizeof(float), &layer[i]));
		an_buffer_keep_packed(layer[i]);
	}
	for (int i = 0; i < LAYERS; i++) {
		device_fill(&one, an_buffer_map(layer[i]), 30, (uint64_t)i, -2, 2);
		an_buffer_unmap(layer[i]);
	}
	for (int k = 0; k < RUNS; k++)
		for (int i = 0; i < LAYERS; i++) {
			memcpy(device_bytes(x.plain, W), (float *)soft_data(layer[i]), M * K * sizeof(float));
			MIL_OK(ctx, an_call_bind(x.kept, "w", layer[i]));
			run("layer", &x);
		}
	assert_int_equal(memory(x.d), before + LAYERS * size);
	for (int i = 0; i < LAYERS; i++)
		an_buffer_free(layer[i]);
	an_buffer_free(together);
	close_pair(&x);
	an_ctx_close(ctx);
}

/* Without memory for copies, products pack for themselves; as soon as there is some, they do not. */
static void test_out_of_memory(void **state)
{
	(void)state;
	device_meter m = {.left = INT64_MAX};
	an_ctx *ctx = metered_ctx(&m);
	pair x = make_pair(ctx, "ieee", "fp32");
	const int64_t before = memory(x.d), size = (int64_t)dev_packed_bytes(x.kept->exe, "w");
	MIL_OK(ctx, an_call_run(x.plain));
	for (int k = 0; k < RUNS; k++) {
		m.left = 0;
		assert_int_equal(an_call_run(x.kept), AN_OK);
		m.left = INT64_MAX;
		same_outputs("without memory", x.kept, x.plain);
		assert_int_equal(memory(x.d), before);
	}
	for (int k = 1; k < PAYS; k++) /* even the counts of uses had no memory */
		run("with memory", &x);
	m.left = 0;
	assert_int_equal(an_call_run(x.kept), AN_OK);
	m.left = INT64_MAX;
	same_outputs("without memory for copies", x.kept, x.plain);
	assert_int_equal(memory(x.d), before);
	run("with memory", &x);
	assert_int_equal(memory(x.d), before + size);
	fill(x.kept, W, 3);
	fill(x.plain, W, 3);
	m.left = 0; /* a copy in memory that is there */
	assert_int_equal(an_call_run(x.kept), AN_OK);
	m.left = INT64_MAX;
	MIL_OK(ctx, an_call_run(x.plain));
	same_outputs("anew", x.kept, x.plain);
	close_pair(&x);
	an_ctx_close(ctx);
	assert_int_equal(m.held, 0);
}

/* Products with the same weights share panels only if kernels see the operands the same way round, as the
 * strides of C say. */
static void test_orientation(void **state)
{
	(void)state;
	enum { APART = 2 };
	an_ctx *ctx = device_ctx(1);
	an_device *d = device_soft(ctx, "ieee", true);
	static float a[K], w[K * N], want[N * APART], have[N * APART];
	for (int i = 0; i < K * N; i++)
		w[i] = (float)(i % 13 - 6);
	for (int i = 0; i < K; i++)
		a[i] = (float)(i % 5 - 2);
	soft_memory m = {.data = w, .keep = true};
	const k_gemm_args both = {.m = 1,
				  .n = N,
				  .k = K,
				  .a = {a, K_F32, K, 1, {0}},
				  .b = {w, K_F32, N, 1, {0}},
				  .c = {have, K_F32, 1, APART, {0}}};
	k_gemm_args large = both;
	large.m = M;
	const k_gemm_row *row = k_gemm_select(&large, ctx->isa);
	const size_t bytes = k_gemm_scratch(row, &both, 1);
	void *scratch = mem_alloc_tensor(ctx, bytes);
	assert_non_null(scratch);
	for (int way = 0; way < 2; way++) { /* columns side by side, or neither they nor rows */
		soft_call c = {.kind = CALL_GEMM};
		c.u.gemm.args = both;
		c.u.gemm.args.c.rs = way ? APART * N : 1;
		c.u.gemm.row = row;
		c.u.gemm.form_bytes[K_B] = k_gemm_packed_bytes(row, &c.u.gemm.args, K_B);
		k_gemm(NULL, row, &c.u.gemm.args, scratch);
		memcpy(want, have, sizeof want);
		memset(have, 0, sizeof have);
		for (int k = 0; k < PAYS; k++)
			c.u.gemm.args.packed_b = soft_packed(d, &m, &c, K_B, w);
		assert_non_null(c.u.gemm.args.packed_b);
		k_gemm(NULL, row, &c.u.gemm.args, scratch);
		assert_memory_equal(have, want, sizeof want);
	}
	soft_drop_forms(d, &m);
	mem_free_tensor(ctx, scratch, bytes);
	an_device_close(d);
	an_ctx_close(ctx);
}

static void test_counting(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(2);
	static const char *const numerics[] = {"fast", "m4"};
	for (int i = 0; i < LENGTH(numerics); i++) {
		pair x = make_pair(ctx, numerics[i], i == 0 ? "fp32" : "fp16");
		an_counts kept, plain;
		for (int k = 0; k < RUNS; k++)
			run("counting", &x);
		MIL_OK(ctx, an_device_count(x.d, true));
		MIL_OK(ctx, an_call_run(x.kept));
		MIL_OK(ctx, an_executable_counts(x.kept->exe, -1, &kept));
		an_executable_reset_counts(x.kept->exe);
		MIL_OK(ctx, an_call_run(x.plain));
		MIL_OK(ctx, an_executable_counts(x.plain->exe, -1, &plain));
		assert_true(kept.products > 0);
		assert_memory_equal(&kept, &plain, sizeof kept);
		close_pair(&x);
	}
	an_ctx_close(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_same_bits),     cmocka_unit_test(test_memory),
	    cmocka_unit_test(test_not_worth_it),  cmocka_unit_test(test_changes),
	    cmocka_unit_test(test_policy),        cmocka_unit_test(test_layers),
	    cmocka_unit_test(test_out_of_memory), cmocka_unit_test(test_counting),
	    cmocka_unit_test(test_orientation),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
