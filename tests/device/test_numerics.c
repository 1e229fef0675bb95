/* The profiles of chips: which operations compute as a Neural Engine does, and that nothing but the
 * profile decides about bits. */
#include "support/device_support.h"
#include "support/kernel_check.h"

#include "base/random.h"
#include "device/soft/soft.h"

static const char *const chips[] = {"m1", "m2", "m4", "m5"};

static an_program *new_program(an_ctx *ctx, an_builder *b)
{
	an_program *p;
	an_function *f;
	MIL_OK(ctx, an_program_new(ctx, &p));
	MIL_OK(ctx, an_function_new(p, "main", &f));
	*b = an_builder_on(f);
	return p;
}

/* fp16 numbers around the cut-off of products, and some that make sums overflow. */
static void fill(half *x, int64_t n, uint64_t seed)
{
	for (int64_t i = 0; i < n; i++) {
		double u = check_uniform(seed, (uint64_t)i, -1, 1),
		       e = check_uniform(seed + 50, (uint64_t)i, 0, 1);
		x[i] = half_from_double(u * (e < 0.01 ? 20000 : ldexp(1, -(int)(e * 14))));
	}
}

static half *filled(an_call *c, int port, uint64_t seed)
{
	half *x = device_bytes(c, port);
	fill(x, an_type_count(&c->exe->ports[port].type), seed);
	return x;
}

/* ---- Contractions ---------------------------------------------------------------------- */

enum { BATCH = 3, M = 7, K = 41, N = 5 };

static void expect_element(half got, half want, const char *what, int i)
{
	if (got != want)
		fail_msg("%s, element %d: %g, expected %g", what, i, half_to_float(got), half_to_float(want));
}

/* x[BATCH][M][K] by w[N][K], plus bias[N] */
static void test_linear(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(2);
	for (int chip = 0; chip < LENGTH(chips); chip++)
		for (int biased = 0; biased < 2; biased++) {
			an_builder b;
			an_program *p = new_program(ctx, &b);
			an_value x = an_input(&b, "x", an_tensor(AN_FP16, 3, (int32_t[]){BATCH, M, K})), y;
			half w[N * K], bias[N];
			fill(w, N * K, 2);
			for (int i = 0; i < N; i++)
				bias[i] = half_from_double(ldexp(i - 2, 1 - 6 * i));
			an_arg args[] = {
			    {"x", AN_ARG_VALUE, 0, {.value = x}},
			    {"weight",
			     AN_ARG_VALUE,
			     0,
			     {.value = an_const(&b, "w", an_tensor(AN_FP16, 2, (int32_t[]){N, K}), w)}},
			    {"bias",
			     AN_ARG_VALUE,
			     0,
			     {.value = an_const(&b, "bias", an_tensor(AN_FP16, 1, (int32_t[]){N}), bias)}}};
			MIL_OK(ctx, an_emit(&b, OP_LINEAR, "y", args, 2 + biased, &y, 1));
			an_output(&b, y);
			MIL_OK(ctx, an_builder_finish(&b));
			an_device *d = device_soft(ctx, chips[chip], true);
			an_call *c = device_call(d, b.f, 1, -1, 1);
			const half *in = filled(c, 0, 5), *out = device_bytes(c, 1);
			MIL_OK(ctx, an_call_run(c));
			for (int i = 0; i < BATCH * M * N; i++)
				expect_element(out[i],
					       check_fixed(in + i / N * K, 1, w + i % N * K, 1, K,
							   biased ? (double)half_to_float(bias[i % N]) : 0),
					       "linear", i);
			an_device_close(d);
			an_program_free(p);
		}
	an_ctx_close(ctx);
}

/* A 1 x 1 convolution in two groups with a bias, and a product of two inputs, one of them transposed. */
static void test_conv_and_matmul(void **state)
{
	(void)state;
	enum { C = 6, OUT = 4, H = 3, W = 5, PIXELS = H * W, G = C / 2 };
	an_ctx *ctx = device_ctx(1);
	an_builder b;
	an_program *p = new_program(ctx, &b);
	an_value x = an_input(&b, "x", an_tensor(AN_FP16, 4, (int32_t[]){2, C, H, W})), y;
	an_value u = an_input(&b, "u", an_tensor(AN_FP16, 3, (int32_t[]){BATCH, K, M}));
	an_value v = an_input(&b, "v", an_tensor(AN_FP16, 3, (int32_t[]){BATCH, K, N}));
	half w[OUT * G], bias[OUT];
	fill(w, OUT * G, 3);
	fill(bias, OUT, 4);
	an_arg args[] = {{"x", AN_ARG_VALUE, 0, {.value = x}},
			 {"weight",
			  AN_ARG_VALUE,
			  0,
			  {.value = an_const(&b, "w", an_tensor(AN_FP16, 4, (int32_t[]){OUT, G, 1, 1}), w)}},
			 {"bias",
			  AN_ARG_VALUE,
			  0,
			  {.value = an_const(&b, "bias", an_tensor(AN_FP16, 1, (int32_t[]){OUT}), bias)}},
			 {"groups", AN_ARG_INT, 0, {.i = 2}}};
	MIL_OK(ctx, an_emit(&b, OP_CONV, "y", args, LENGTH(args), &y, 1));
	an_output(&b, y);
	an_output(&b, an_matmul(&b, u, v, true, false));
	MIL_OK(ctx, an_builder_finish(&b));
	an_device *d = device_soft(ctx, "m1", true);
	an_call *c = device_call(d, b.f, 1, -1, 1);
	const half *px = filled(c, 0, 6), *pu = filled(c, 1, 7), *pv = filled(c, 2, 8);
	MIL_OK(ctx, an_call_run(c));
	const half *conv = device_bytes(c, 3), *product = device_bytes(c, 4);
	for (int i = 0; i < 2 * OUT * PIXELS; i++) {
		int image = i / (OUT * PIXELS), o = i / PIXELS % OUT, first = o / (OUT / 2) * G;
		expect_element(conv[i],
			       check_fixed(px + (image * C + first) * PIXELS + i % PIXELS, PIXELS, w + o * G,
					   1, G, (double)half_to_float(bias[o])),
			       "conv", i);
	}
	for (int i = 0; i < BATCH * M * N; i++) {
		int q = i / (M * N), m = i / N % M, n = i % N;
		expect_element(product[i], check_fixed(pu + q * K * M + m, M, pv + q * K * N + n, N, K, 0),
			       "matmul", i);
	}
	an_device_close(d);
	an_program_free(p);
	an_ctx_close(ctx);
}

/* Two products at once must not lose what attention's scores have lost: its parts are fp16. */
static void test_attention_is_its_parts(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_builder b;
	an_program *p = new_program(ctx, &b);
	an_value in[3], y;
	for (int i = 0; i < 3; i++)
		in[i] = an_input(&b, &"q\0k\0v"[2 * i], an_tensor(AN_FP16, 4, (int32_t[]){1, 2, 9, 16}));
	an_arg args[] = {{"query", AN_ARG_VALUE, 0, {.value = in[0]}},
			 {"key", AN_ARG_VALUE, 0, {.value = in[1]}},
			 {"value", AN_ARG_VALUE, 0, {.value = in[2]}}};
	MIL_OK(ctx, an_emit(&b, OP_SCALED_DOT_PRODUCT_ATTENTION, "y", args, 3, &y, 1));
	an_value s = an_scale(&b, an_matmul(&b, in[0], in[1], false, true), 0.25);
	an_output(&b, y);
	an_output(&b, an_matmul(&b, an_softmax(&b, s, -1), in[2], false, false));
	MIL_OK(ctx, an_builder_finish(&b));
	an_device *d = device_soft(ctx, "m4", true);
	an_call *c = device_call(d, b.f, 1, -2, 2);
	MIL_OK(ctx, an_call_run(c));
	assert_memory_equal(device_bytes(c, 3), device_bytes(c, 4), 2 * 9 * 16 * 2);
	an_device_close(d);
	an_program_free(p);
	an_ctx_close(ctx);
}

/* ---- Elementwise ------------------------------------------------------------------------ */

static void test_elementwise(void **state)
{
	(void)state;
	static const struct {
		const char *op;
		float x, y, ieee, chip;
	} cases[] = {
	    {"add", 2048, 1, 2048, 2050},
	    {"add", 65504, 0, 65504, 65504},
	    {"add", 16384, 16384, 32768, 32768},
	    {"add", 0x1p-24f, 0, 0x1p-24f, 0x1p-24f},
	    {"mul", 0x1p-12f, 0x1p-12f, 0x1p-24f, 0x1p-24f},
	    {"mul", 256, 256, INFINITY, INFINITY},
	    {"sub", -2048, 1, -2048, -2050},
	    {"add", 2048, 1 - 0x1p-11f, 2048, 2048}, /* just below the tie */
	    {"mul", 0x1.4p-8f, 0x1p-16f, 0x1p-24f, 0x1p-24f},
	    {"mul", 0x1p-9f, 0x1p-16f, 0, 0x1p-24f},
	    /* 2^-25 (1 - 2^-20) becomes 2^-25 with 11 bits, and that 2^-24; rounded once it would be 0 */
	    {"mul", 0x1.ff8p-13f, 0x1.004p-13f, 0, 0x1p-24f},
	};
	an_ctx *ctx = device_ctx(1);
	for (int chip = -1; chip < LENGTH(chips); chip++) {
		an_device *d = device_soft(ctx, chip < 0 ? "ieee" : chips[chip], true);
		for (int i = 0; i < LENGTH(cases); i++) {
			an_builder b;
			an_program *p = new_program(ctx, &b);
			an_type t = an_tensor(AN_FP16, 1, (int32_t[]){1});
			an_value x = an_input(&b, "x", t), y = an_input(&b, "y", t);
			an_output(&b, an_binary(&b, cases[i].op, x, y));
			MIL_OK(ctx, an_builder_finish(&b));
			an_call *c = device_call(d, b.f, 1, -1, 1);
			*(half *)device_bytes(c, 0) = half_from_float(cases[i].x);
			*(half *)device_bytes(c, 1) = half_from_float(cases[i].y);
			MIL_OK(ctx, an_call_run(c));
			expect_element(*(half *)device_bytes(c, 2),
				       half_from_float(chip < 0 ? cases[i].ieee : cases[i].chip), cases[i].op,
				       i);
			an_call_free(c);
			an_program_free(p);
		}
		an_device_close(d);
	}
	an_ctx_close(ctx);
}

/* ---- Bits depend on the profile alone ----------------------------------------------------- */

/* A little network: norm by parts, a product, a residual, silu. */
static an_program *network(an_ctx *ctx, an_builder *b)
{
	an_program *p = new_program(ctx, b);
	an_value x = an_input(b, "x", an_tensor(AN_FP16, 4, (int32_t[]){1, 48, 1, 33}));
	an_value m = an_input(b, "m", an_tensor(AN_FP16, 2, (int32_t[]){48, 48}));
	an_value v = an_input(b, "v", an_tensor(AN_FP16, 4, (int32_t[]){1, 48, 1, 1}));
	an_value mean = an_reduce(b, "reduce_mean", an_mul(b, x, x), 1, true);
	an_value scale = an_unary(b, "rsqrt", an_add(b, mean, an_scalar(b, AN_FP16, 1e-3)));
	an_value y = an_reshape(b, an_mul(b, an_mul(b, x, scale), v), 2, (int32_t[]){48, 33});
	an_value z = an_matmul(b, m, y, false, false);
	z = an_reshape(b, an_mul(b, an_unary(b, "silu", z), y), 4, (int32_t[]){1, 48, 1, 33});
	an_output(b, an_sub(b, z, x));
	an_output(b, mean);
	MIL_OK(ctx, an_builder_finish(b));
	return p;
}

static void test_same_bits(void **state)
{
	(void)state;
	half first[48 * 33];
	for (int run = 0; run < 8; run++) { /* threads, fusion, instruction sets */
		an_ctx *ctx = device_ctx(run & 1 ? 3 : 1);
		if (run & 4)
			ctx->isa = 0;
		an_builder b;
		an_program *p = network(ctx, &b);
		an_device *d = device_soft(ctx, "m4", run & 2);
		an_call *c = device_call(d, b.f, 9, -2, 2);
		MIL_OK(ctx, an_call_run(c));
		if (run == 0)
			memcpy(first, device_bytes(c, 3), sizeof first);
		else
			assert_memory_equal(device_bytes(c, 3), first, sizeof first);
		an_program_free(p);
		an_device_close(d);
		an_ctx_close(ctx);
	}
}

/* ---- Tiles of four ----------------------------------------------------------------------- */

/* One addition of a tile: cut off below 12 bits of the larger. */
static double aligned(double a, double b)
{
	int ea, eb;
	frexp(a, &ea);
	frexp(b, &eb);
	const double grid = ldexp(1, (a == 0 ? eb : b == 0 ? ea : MAX(ea, eb)) - 12);
	return a == 0 && b == 0 ? 0 : (trunc(a / grid) + trunc(b / grid)) * grid;
}

/* reduce=tiled at odd sizes, over one and two axes, on every instruction set: data whose tiles' sums fp32
 * adds exactly. */
static void test_tiled_reductions(void **state)
{
	(void)state;
	enum { A = 3, B = 13, C = 6 };
	static const char *const ops[] = {"reduce_sum", "reduce_mean", "reduce_sum_square", "reduce_l2_norm"};
	static const uint32_t masks[] = {1, 2, 4, 6, 5, 7};
	static const char *const sets[] = {"portable", "avx2", NULL};
	for (int o = 0; o < LENGTH(ops); o++)
		for (int m = 0; m < LENGTH(masks); m++)
			for (int run = 0; run < LENGTH(sets); run++) {
				const uint32_t mask = masks[m];
				an_ctx *ctx;
				an_ctx_options opt = {.threads = 1 + run, .isa = sets[run]};
				assert_int_equal(an_ctx_open(&opt, &ctx), AN_OK);
				an_builder b;
				an_program *p = new_program(ctx, &b);
				const int32_t dim[] = {A, B, C};
				int32_t axes[3], n = 0;
				for (int i = 0; i < 3; i++)
					if (mask >> i & 1)
						axes[n++] = i;
				an_value x = an_input(&b, "x", an_tensor(AN_FP16, 3, dim)), y;
				an_arg args[] = {{"x", AN_ARG_VALUE, 0, {.value = x}},
						 {"axes", AN_ARG_INTS, n, {.ints = axes}},
						 {"keep_dims", AN_ARG_BOOL, 0, {.b = true}}};
				MIL_OK(ctx, an_emit(&b, an_op_find(ops[o]), "y", args, 3, &y, 1));
				an_output(&b, y);
				MIL_OK(ctx, an_builder_finish(&b));
				an_device *d = device_soft(ctx, "m1,reduce=tiled", true);
				an_call *c = device_call(d, b.f, 1, 0, 1);
				half *data = device_bytes(c, 0);
				for (int i = 0; i < A * B * C; i++)
					data[i] = half_from_double(
					    o < 2 ? floor(check_uniform(7, (uint64_t)i, -4096, 4096)) /
							(i % 5 ? 64 : 1024)
						  : floor(check_uniform(7, (uint64_t)i, -255, 256)) / 16);
				MIL_OK(ctx, an_call_run(c));
				const int last = 31 - __builtin_clz(mask), size[] = {A, B, C};
				int results = 0;
				double tile = 0, count = 1;
				for (int i = 0; i < 3; i++)
					count *= mask >> i & 1 ? size[i] : 1;
				for (int r = 0; r < A * B * C; r++) {
					const int first[] = {r / (B * C), r / C % B, r % C};
					bool begins = true;
					for (int i = 0; i < 3; i++)
						begins &= !(mask >> i & 1) || first[i] == 0;
					if (!begins)
						continue;
					double sum = 0;
					for (int q = 0; q < A * B * C;
					     q++) { /* elements of this result, in order */
						const int at[] = {q / (B * C), q / C % B, q % C};
						bool mine = at[last] % 4 == 0;
						for (int i = 0; i < 3; i++)
							mine &= (mask >> i & 1) || at[i] == first[i];
						if (!mine)
							continue;
						for (int l = 0; l < 4; l++) {
							double v = 0;
							const int step = last == 0   ? B * C
									 : last == 1 ? C
										     : 1;
							if (at[last] + l < size[last])
								v = (double)half_to_float(data[q + l * step]);
							v = o >= 2 ? v * v : v;
							tile = l ? aligned(tile, v) : v;
						}
						sum += tile;
					}
					const half inverse = half_from_double(1 / count);
					if (o == 3)
						sum = (double)sqrtf((float)sum);
					if (o == 1)
						sum = (double)((float)sum * half_to_float(inverse));
					/* away from zero where it is a tie, else to nearest */
					half low = half_from_double(sum * (1 - 0x1p-30)),
					     high = half_from_double(sum * (1 + 0x1p-30));
					half want = low == high ? low
						    : fabs((double)half_to_float(low)) >
							    fabs((double)half_to_float(high))
							? low
							: high;
					expect_element(((half *)device_bytes(c, 1))[results++], want, ops[o],
						       r);
				}
				an_device_close(d);
				an_program_free(p);
				an_ctx_close(ctx);
			}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_linear),
	    cmocka_unit_test(test_conv_and_matmul),
	    cmocka_unit_test(test_attention_is_its_parts),
	    cmocka_unit_test(test_elementwise),
	    cmocka_unit_test(test_same_bits),
	    cmocka_unit_test(test_tiled_reductions),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
