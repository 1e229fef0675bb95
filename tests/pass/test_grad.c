/* Gradients of whole functions: the blocks that models are made of, the shapes a function's border can take,
 * what is saved and what is computed again, wrong gradients that must be rejected, the corpus. */
#include "pass/grad.h"
#include "support/pass_check.h"

#include "support/mil_support.h"

#include <glob.h>

/* ---- Functions --------------------------------------------------------------- */

#define SHAPE(...)           an_tensor(AN_FP32, LENGTH(((int32_t[]){__VA_ARGS__})), (int32_t[]){__VA_ARGS__})
#define RESHAPE(b, x, ...)   an_reshape(b, x, LENGTH(((int32_t[]){__VA_ARGS__})), (int32_t[]){__VA_ARGS__})
#define TRANSPOSE(b, x, ...) an_transpose(b, x, LENGTH(((int32_t[]){__VA_ARGS__})), (int32_t[]){__VA_ARGS__})

/* x * w / sqrt(mean(x^2) + eps) over the channels of [1, C, 1, S]. */
static an_value rms_norm(an_builder *b, an_value x, an_value w)
{
	an_value mean = an_reduce(b, "reduce_mean", an_mul(b, x, x), 1, true);
	an_value r =
	    an_binary(b, "pow", an_add(b, mean, an_scalar(b, AN_FP32, 0.01)), an_scalar(b, AN_FP32, -0.5));
	return an_mul(b, an_mul(b, x, r), w);
}

static void make_rms_norm(an_builder *b)
{
	an_value x = an_input(b, "x", SHAPE(1, 5, 1, 3)), w = an_input(b, "w", SHAPE(1, 5, 1, 1));
	an_output(b, an_name(b, rms_norm(b, x, w), "y"));
}

static an_value rope(an_builder *b, an_value x, an_value cosine, an_value sine, int axis, int half)
{
	an_value x1 = an_slice(b, x, axis, 0, half), x2 = an_slice(b, x, axis, half, half);
	an_value y1 = an_sub(b, an_mul(b, x1, cosine), an_mul(b, x2, sine));
	an_value y2 = an_add(b, an_mul(b, x2, cosine), an_mul(b, x1, sine));
	return an_concat(b, (an_value[]){y1, y2}, 2, axis);
}

/* Grouped-query attention with rotation and a mask: 2 key heads of 2 query heads each, 4 channels, 3
 * tokens. */
static void make_attention(an_builder *b)
{
	enum { K = 2, G = 2, D = 4, T = 3, C = K * G * D };
	an_value x = an_input(b, "x", SHAPE(1, C, 1, T)), norm = an_input(b, "norm", SHAPE(1, C, 1, 1));
	an_value wq = an_input(b, "wq", SHAPE(C, C)), wk = an_input(b, "wk", SHAPE(K * D, C));
	an_value wv = an_input(b, "wv", SHAPE(K * D, C)), wo = an_input(b, "wo", SHAPE(C, C));
	float cosine[D / 2 * T], sine[D / 2 * T], mask[T * T];
	for (int i = 0; i < D / 2; i++)
		for (int t = 0; t < T; t++) {
			cosine[i * T + t] = (float)cos(t / (1.0 + 9 * i));
			sine[i * T + t] = (float)sin(t / (1.0 + 9 * i));
		}
	for (int q = 0; q < T; q++)
		for (int k = 0; k < T; k++)
			mask[q * T + k] = k > q ? -1e4f : 0;
	an_value c = an_const(b, "cos", SHAPE(D / 2, T), cosine),
		 s = an_const(b, "sin", SHAPE(D / 2, T), sine);
	an_value m = an_const(b, "mask", SHAPE(T, T), mask);

	an_value h = RESHAPE(b, rms_norm(b, x, norm), C, T);
	an_value q = RESHAPE(b, an_name(b, an_matmul(b, wq, h, false, false), "q"), K, G, D, T);
	an_value k = RESHAPE(b, an_name(b, an_matmul(b, wk, h, false, false), "k"), K, 1, D, T);
	an_value v = RESHAPE(b, an_name(b, an_matmul(b, wv, h, false, false), "v"), K, 1, D, T);
	q = an_scale(b, rope(b, q, c, s, 2, D / 2), 0.5);
	k = rope(b, k, c, s, 2, D / 2);
	an_value p = an_name(b, an_softmax(b, an_add(b, an_matmul(b, q, k, true, false), m), -1), "probs");
	an_value o = RESHAPE(b, an_matmul(b, v, p, false, true), C, T);
	an_value y = an_matmul(b, wo, o, false, false);
	an_output(b, an_name(b, an_add(b, x, RESHAPE(b, y, 1, C, 1, T)), "y"));
}

static void make_swiglu(an_builder *b)
{
	an_value x = an_input(b, "x", SHAPE(1, 4, 1, 3)), norm = an_input(b, "norm", SHAPE(1, 4, 1, 1));
	an_value w1 = an_input(b, "w1", SHAPE(6, 4)), w3 = an_input(b, "w3", SHAPE(6, 4)),
		 w2 = an_input(b, "w2", SHAPE(4, 6));
	an_value h = RESHAPE(b, rms_norm(b, x, norm), 4, 3);
	an_value gate = an_name(b, an_matmul(b, w1, h, false, false), "gate");
	an_value up = an_name(b, an_matmul(b, w3, h, false, false), "up");
	an_value act = an_mul(b, an_mul(b, gate, an_unary(b, "sigmoid", gate)), up);
	an_value down = an_name(b, an_matmul(b, w2, act, false, false), "down");
	an_output(b, an_name(b, an_add(b, x, RESHAPE(b, down, 1, 4, 1, 3)), "y"));
}

static an_value conv(an_builder *b, an_value x, an_value w, an_value bias, int groups)
{
	return EMIT(b, OP_CONV, ARG_VALUE("x", x), ARG_VALUE("weight", w), ARG_VALUE("bias", bias),
		    ARG_STRING("pad_type", "same"), ARG_INT("groups", groups));
}

/* 3x3 conv, layer_norm over channels, gelu, grouped 1x1 conv, mean. */
static void make_convnet(an_builder *b)
{
	an_value x = an_input(b, "x", SHAPE(2, 2, 4, 3)), w1 = an_input(b, "w1", SHAPE(4, 2, 3, 3));
	an_value b1 = an_input(b, "b1", SHAPE(4)), gamma = an_input(b, "gamma", SHAPE(4)),
		 beta = an_input(b, "beta", SHAPE(4));
	an_value w2 = an_input(b, "w2", SHAPE(6, 2, 1, 1)), b2 = an_input(b, "b2", SHAPE(6));
	an_value h = TRANSPOSE(b, conv(b, x, w1, b1, 1), 0, 2, 3, 1);
	h = EMIT(b, OP_LAYER_NORM, ARG_VALUE("x", h), ARG_INTS("axes", 1, (&(int32_t){-1})),
		 ARG_VALUE("gamma", gamma), ARG_VALUE("beta", beta), ARG_FLOAT("epsilon", 0.01));
	h = TRANSPOSE(b, an_unary(b, "gelu", h), 0, 3, 1, 2);
	h = conv(b, h, w2, b2, 2);
	an_output(
	    b,
	    an_name(b, EMIT(b, OP_REDUCE_MEAN, ARG_VALUE("x", h), ARG_INTS("axes", 2, ((int32_t[]){2, 3}))),
		    "y"));
}

/* An input that is an output and is used besides; a gradient that is a cotangent; an input that nothing
 * depends on; an integer output; a value that is output and used; names that look like gradients. */
static void make_borders(an_builder *b)
{
	an_value x = an_input(b, "x", SHAPE(2, 3)), d_y = an_input(b, "e_y", SHAPE(3)),
		 unused = an_input(b, "unused", SHAPE(4));
	an_value only = an_input(b, "only", SHAPE(2));
	(void)unused;
	an_output(b, x);
	an_value y = an_name(b, an_mul(b, x, d_y), "y");
	an_output(b, y);
	an_output(b, an_name(b, an_unary(b, "exp", y), "z"));
	an_output(b, an_name(b, an_cast(b, y, AN_INT32), "i"));
	an_output(b, an_name(b, an_unary(b, "identity", only), "same"));
	an_value hidden = an_name(b, an_matmul(b, x, x, false, true), "d_x"); /* taken, and will be saved */
	an_output(b, an_name(b, an_mul(b, hidden, hidden), "square"));
	an_output(b, an_const(b, "fixed", SHAPE(2), (float[]){1, 2}));
}

/* Long ways that meet again: sums of cotangents, recomputation through several paths. */
static void make_diamonds(an_builder *b)
{
	an_value x = an_input(b, "x", SHAPE(3, 2)), a = x;
	for (int i = 0; i < 6; i++) {
		an_value s = an_unary(b, "sin", a), c = an_unary(b, "cos", a);
		a = an_add(b, an_mul(b, s, a), an_mul(b, c, s));
	}
	an_output(b, an_name(b, a, "y"));
}

/* An output that the backward needs and whose name is that of a gradient is saved under another. */
static void make_clash(an_builder *b)
{
	an_value x = an_input(b, "x", SHAPE(2, 2)), w = an_input(b, "w", SHAPE(2, 2));
	an_value y = an_name(b, an_softmax(b, an_matmul(b, x, w, false, false), -1), "d_x");
	an_output(b, y);
	an_output(b, an_name(b, an_unary(b, "exp", an_mul(b, y, y)), "d_w"));
}

static const struct composite {
	const char *name;
	void (*make)(an_builder *b);
} composites[] = {
    {"rms_norm", make_rms_norm}, {"attention", make_attention}, {"swiglu", make_swiglu},
    {"convnet", make_convnet},   {"borders", make_borders},     {"diamonds", make_diamonds},
    {"clash", make_clash},
};

static an_function *build(an_ctx *ctx, void (*make)(an_builder *b))
{
	an_program *p;
	an_function *f;
	MIL_OK(ctx, an_program_new(ctx, &p));
	MIL_OK(ctx, an_function_new(p, "f", &f));
	an_builder b = an_builder_on(f);
	make(&b);
	MIL_OK(ctx, an_builder_finish(&b));
	return f;
}

/* ---- Right ones
 * -------------------------------------------------------------------------------------------- */

static void round_trip(an_ctx *ctx, const an_program *p)
{
	char *text;
	size_t len;
	an_program *again;
	MIL_OK(ctx, an_program_print(p, &text, &len));
	MIL_OK(ctx, an_program_parse(ctx, text, len, "printed", &again));
	assert_int_equal(an_program_functions(p), an_program_functions(again));
	an_text_free(ctx, text, len);
	an_program_free(again);
}

static void composites_are_right(void **state)
{
	an_ctx *ctx = mil_open();
	(void)state;
	for (int i = 0; i < LENGTH(composites); i++)
		for (int save_all = 0; save_all < 2; save_all++) {
			an_function *f = build(ctx, composites[i].make), *forward, *backward;
			gradient_check result;
			MIL_OK(ctx,
			       an_grad(f, &(an_grad_options){.save_all = save_all}, &forward, &backward));
			assert_string_equal(an_function_name(forward), "f_fwd");
			assert_string_equal(an_function_name(backward), "f_bwd");
			assert_int_equal(an_program_functions(f->program), 3);
			round_trip(ctx, f->program);
			double **values = random_values(f, (uint64_t)i + 1, 0.3, 1.5);
			MIL_OK(ctx, check_gradient(f, forward, backward, values, 3, 0, &result));
			if (result.wrong || result.sharp < result.checked * 9 / 10)
				fail_msg("%s: %lld of %lld wrong, %lld sharp; %s", composites[i].name,
					 (long long)result.wrong, (long long)result.checked,
					 (long long)result.sharp, result.text);
			int64_t elements = 0;
			for (size_t k = 0; k < f->ninputs; k++)
				elements += an_type_count(&f->values[f->inputs[k]].type);
			assert_int_equal(result.checked, elements);
			free_values(values, f->ninputs);
			an_program_free(f->program);
		}
	an_ctx_close(ctx);
}

/* A backward is a function like any other: its gradient is right as well.  Its outputs have the names of the
 * gradients that the second backward returns. */
static void twice(void **state)
{
	an_ctx *ctx = mil_open();
	(void)state;
	for (int i = 0; i < 4; i++)
		for (int save_all = 0; save_all < 2; save_all++) {
			an_function *f = build(ctx, composites[i].make), *forward, *backward, *forward2,
				    *backward2;
			gradient_check result;
			MIL_OK(ctx,
			       an_grad(f, &(an_grad_options){.save_all = save_all}, &forward, &backward));
			MIL_OK(ctx, an_grad(backward, &(an_grad_options){.save_all = save_all}, &forward2,
					    &backward2));
			assert_string_equal(an_function_name(backward2), "f_bwd_bwd");
			double **values = random_values(backward, 77, 0.3, 1.2);
			/* sums of squares are positive */
			for (size_t k = 0; k < backward->ninputs; k++)
				for (int64_t j = 0;
				     j < an_type_count(&backward->values[backward->inputs[k]].type); j++)
					values[k][j] = fabs(values[k][j]);
			MIL_OK(ctx, check_gradient(backward, forward2, backward2, values, 3, 8, &result));
			if (result.wrong || result.sharp < result.checked)
				fail_msg("%s: %lld of %lld wrong, %lld sharp; %s", composites[i].name,
					 (long long)result.wrong, (long long)result.checked,
					 (long long)result.sharp, result.text);
			free_values(values, backward->ninputs);
			an_program_free(f->program);
		}
	an_ctx_close(ctx);
}

static bool has_input(const an_function *f, const char *name)
{
	an_value v = an_function_find(f, name);
	return v != AN_NO_VALUE && f->values[v].op < 0;
}
static bool has_output(const an_function *f, const char *name)
{
	for (size_t i = 0; i < f->noutputs; i++)
		if (strcmp(f->values[f->outputs[i]].name, name) == 0)
			return true;
	return false;
}

/* Contractions, softmax and reductions are saved if they are needed; the rest is computed again. */
static void what_is_saved(void **state)
{
	an_ctx *ctx = mil_open();
	an_function *f = build(ctx, make_swiglu), *forward, *backward;
	(void)state;
	MIL_OK(ctx, an_grad(f, NULL, &forward, &backward));
	/* y; gate, up and the mean of squares, but not `down`, which nothing needs */
	assert_int_equal(forward->noutputs, 4);
	assert_true(has_output(forward, "y") && has_output(forward, "gate") && has_output(forward, "up"));
	assert_false(has_output(forward, "down") || has_input(backward, "down") || has_input(backward, "y"));
	/* every input of the backward is a cotangent, an input of f or an output of the forward */
	for (size_t i = 0; i < backward->ninputs; i++) {
		const char *name = backward->values[backward->inputs[i]].name;
		assert_true(strcmp(name, "d_y") == 0 || has_input(f, name) || has_output(forward, name));
	}
	/* roles go with inputs; the sequence of contractions is 2 per matmul and input, nothing again */
	int matmuls = 0;
	for (size_t i = 0; i < backward->nops; i++)
		matmuls += backward->ops[i].op == OP_MATMUL;
	assert_int_equal(matmuls, 6);
	an_program_free(f->program);

	f = build(ctx, make_swiglu);
	const char *wrt[] = {"w2", "x"};
	MIL_OK(ctx, an_grad(f, &(an_grad_options){.wrt = wrt, .nwrt = 2}, &forward, &backward));
	assert_int_equal(backward->noutputs, 2);
	assert_string_equal(backward->values[backward->outputs[0]].name, "d_w2");
	assert_string_equal(backward->values[backward->outputs[1]].name, "d_x");
	matmuls = 0;
	for (size_t i = 0; i < backward->nops; i++)
		matmuls += backward->ops[i].op == OP_MATMUL;
	assert_int_equal(matmuls, 4); /* not those of dw1 and dw3 */
	an_program_free(f->program);

	/* Rotation is turned back by concats, not by padding and adding. */
	f = build(ctx, make_attention);
	MIL_OK(ctx, an_grad(f, NULL, &forward, &backward));
	for (size_t i = 0; i < backward->nops; i++)
		assert_true(backward->ops[i].op != OP_PAD && backward->ops[i].op != OP_TILE);
	an_program_free(f->program);
	an_ctx_close(ctx);
}

/* ---- Wrong ones
 * -------------------------------------------------------------------------------------------- */

/* A published backward of RMSNorm: dx = r w dy - x r^3/C sum(x dy), which leaves w out of the sum and so is
 * right at w = 1 only. */
static void make_wrong_rms_norm(an_builder *b)
{
	an_value dy = an_input(b, "d_y", SHAPE(1, 5, 1, 3)), x = an_input(b, "x", SHAPE(1, 5, 1, 3));
	an_value w = an_input(b, "w", SHAPE(1, 5, 1, 1));
	an_value mean = an_reduce(b, "reduce_mean", an_mul(b, x, x), 1, true);
	an_value r =
	    an_binary(b, "pow", an_add(b, mean, an_scalar(b, AN_FP32, 0.01)), an_scalar(b, AN_FP32, -0.5));
	an_value r3 = an_scale(b, an_mul(b, an_mul(b, r, r), r), 0.2);
	an_value sum = an_reduce(b, "reduce_sum", an_mul(b, x, dy), 1, true);
	an_value dx = an_sub(b, an_mul(b, r, an_mul(b, w, dy)), an_mul(b, an_mul(b, x, r3), sum));
	an_output(b, an_name(b, dx, "d_x"));
}

static void wrong_rms_norm_is_rejected(void **state)
{
	an_ctx *ctx = mil_open();
	an_function *f = build(ctx, make_rms_norm), *wrong = build(ctx, make_wrong_rms_norm);
	gradient_check result;
	double **values = random_values(f, 11, 0.3, 1.5);
	(void)state;
	MIL_OK(ctx, check_gradient(f, f, wrong, values, 3, 0, &result));
	assert_int_equal(result.checked, 15);
	assert_true(result.wrong >= 12);
	MIL_OK(ctx, check_gradient(f, f, wrong, values, 3, 2, &result)); /* by directions too */
	assert_int_equal(result.wrong, 2);
	for (int i = 0; i < 5; i++)
		values[1][i] = 1;
	MIL_OK(ctx, check_gradient(f, f, wrong, values, 3, 0, &result));
	assert_int_equal(result.wrong, 0);
	free_values(values, 2);
	an_program_free(f->program);
	an_program_free(wrong->program);
	an_ctx_close(ctx);
}

/* Every addition, subtraction, product and sum of a backward, replaced by another operation, must show. */
static void damaged_backwards_are_rejected(void **state)
{
	static const struct {
		int op, by;
	} damage[] = {{OP_ADD, OP_SUB},
		      {OP_SUB, OP_ADD},
		      {OP_MUL, OP_ADD},
		      {OP_REDUCE_SUM, OP_REDUCE_MEAN},
		      {OP_COS, OP_SIN}};
	an_ctx *ctx = mil_open();
	int done = 0;
	(void)state;
	for (int c = 0; c < LENGTH(composites); c++) {
		an_function *f = build(ctx, composites[c].make), *forward, *backward;
		MIL_OK(ctx, an_grad(f, NULL, &forward, &backward));
		double **values = random_values(f, 21, 0.3, 1.5);
		for (size_t i = 0; i < backward->nops; i++)
			for (int k = 0; k < LENGTH(damage); k++) {
				mil_op *op = &backward->ops[i];
				gradient_check result;
				if (op->op != damage[k].op)
					continue;
				op->op = (uint16_t)damage[k].by;
				MIL_OK(ctx, check_gradient(f, forward, backward, values, 3, 3, &result));
				if (!result.wrong)
					fail_msg("%s: %s for %s as %s goes unnoticed", composites[c].name,
						 op_table[damage[k].by].name, op_table[damage[k].op].name,
						 op->name);
				op->op = (uint16_t)damage[k].op;
				done++;
				break;
			}
		free_values(values, f->ninputs);
		an_program_free(f->program);
	}
	assert_true(done > 60);
	an_ctx_close(ctx);
}

/* ---- Refusals ---------------------------------------------------------------- */

static void expect_refusal(an_ctx *ctx, const char *text, const an_grad_options *opt, an_status status,
			   const char *message)
{
	an_program *p;
	an_function *forward, *backward;
	MIL_OK(ctx, an_program_parse(ctx, text, strlen(text), "test.mil", &p));
	an_function *f = an_program_function(p, NULL);
	int before = an_program_functions(p);
	assert_int_equal(an_grad(f, opt, &forward, &backward), status);
	assert_null(forward);
	assert_null(backward);
	assert_int_equal(an_program_functions(p), before);
	if (!strstr(an_message(ctx), message))
		fail_msg("the message is \"%s\"; it should contain \"%s\"", an_message(ctx), message);
	an_program_free(p);
}

#define PROGRAM(inputs, body, outputs)                                                     \
	"program(1.3)\n[buildInfo = dict<string, string>({{\"a\", \"b\"}})]\n{\n    func " \
	"main<ios18>(" inputs ") {\n" body "    } -> (" outputs ");\n}\n"

static void refusals(void **state)
{
	an_ctx *ctx = mil_open();
	(void)state;
	const char *quantized =
	    PROGRAM("tensor<fp16, [4]> x",
		    "        fp16 s = const()[name = string(\"s\"), val = fp16(0.5)];\n"
		    "        string t = const()[name = string(\"t\"), val = string(\"int8\")];\n"
		    "        tensor<int8, [4]> q = quantize(input = x, output_dtype = t, scale = s)[name = "
		    "string(\"q\")];\n"
		    "        tensor<fp16, [4]> y = dequantize(input = q, scale = s)[name = string(\"y\")];\n",
		    "y");
	expect_refusal(ctx, quantized, NULL, AN_UNSUPPORTED, "test.mil:8:");
	expect_refusal(ctx, quantized, NULL, AN_UNSUPPORTED, "dequantize y cannot be differentiated");
	const char *plain = PROGRAM("tensor<fp16, [4]> x, tensor<int32, [4]> i",
				    "        tensor<fp16, [4]> y = exp(x = x)[name = string(\"y\")];\n", "y");
	const char *names[] = {"x", "nope"}, *integer[] = {"i"}, *twice[] = {"x", "x"}, *computed[] = {"y"};
	expect_refusal(ctx, plain, &(an_grad_options){.wrt = names, .nwrt = 2}, AN_USAGE, "nope");
	expect_refusal(ctx, plain, &(an_grad_options){.wrt = integer, .nwrt = 1}, AN_USAGE, "int32");
	expect_refusal(ctx, plain, &(an_grad_options){.wrt = twice, .nwrt = 2}, AN_USAGE, "twice");
	expect_refusal(ctx, plain, &(an_grad_options){.wrt = computed, .nwrt = 1}, AN_USAGE, "no input y");
	/* an input that the backward needs and whose name is a gradient's */
	const char *clash =
	    PROGRAM("tensor<fp16, [4]> x, tensor<fp16, [4]> d_x",
		    "        tensor<fp16, [4]> y = mul(x = x, y = d_x)[name = string(\"y\")];\n", "y");
	expect_refusal(ctx, clash, NULL, AN_USAGE, "d_x");
	an_ctx_close(ctx);
}

/* ---- The corpus
 * -------------------------------------------------------------------------------------------- */

/* Weights are not recorded: some of the size that keeps activations in range. */
static void fill_blobs(an_program *p)
{
	uint64_t seed = 1;
	for (size_t k = 0; k < p->nfunctions; k++)
		for (size_t i = 0; i < p->functions[k]->nops; i++) {
			const mil_op *op = &p->functions[k]->ops[i];
			for (uint32_t a = 0; a < op->nattrs; a++) {
				mil_literal *l = &op->attrs[a].lit;
				if (l->kind != LIT_BLOB || l->bytes)
					continue;
				int64_t n = an_type_count(&l->type),
					fan = l->type.rank > 1 ? l->type.dim[1] : 1;
				uint8_t *data = arena_alloc(&p->arena, an_type_bytes(&l->type));
				assert_non_null(data);
				for (int64_t j = 0; j < n; j++) {
					seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
					double x = ((double)(seed >> 40) * 0x1p-23 - 1) / sqrt((double)fan);
					an_set_element(l->type.dtype, data, j,
						       l->type.dtype == AN_INT8 ? 20 * x : x);
				}
				l->bytes = data;
			}
		}
}

static void corpus(void **state)
{
	glob_t files;
	int differentiated = 0, evaluated = 0;
	(void)state;
	if (glob(TEST_CORPUS_DIR "/*/*.mil", 0, NULL, &files) != 0) {
		globfree(&files);
		skip();
	}
	an_ctx *ctx = mil_open();
	for (size_t i = 0; i < files.gl_pathc; i++) {
		an_program *p;
		an_function *forward, *backward;
		MIL_OK(ctx, an_program_read(ctx, files.gl_pathv[i], &p));
		an_function *f = an_program_function(p, NULL);
		bool none = false;
		int64_t work = 0;
		for (size_t k = 0; k < f->nops; k++) {
			none |= grad_kind_of(f->ops[k].op) == GRAD_NONE;
			work += op_flops(f, &f->ops[k]) +
				10 * an_type_count(&f->values[f->ops[k].results[0]].type);
		}
		if (work < 6000000)
			fill_blobs(p); /* before there are copies of f */
		an_status s = an_grad(f, NULL, &forward, &backward);
		if (none) {
			assert_int_equal(s, AN_UNSUPPORTED);
			an_program_free(p);
			continue;
		}
		MIL_OK(ctx, s);
		round_trip(ctx, p);
		differentiated++;
		if (work < 6000000) {
			gradient_check result;
			double **values = random_values(f, i, 0.1, 1);
			MIL_OK(ctx, check_gradient(f, forward, backward, values, 5, 2, &result));
			if (result.wrong || result.sharp < result.checked)
				fail_msg("%s: %lld of %lld wrong, %lld sharp; %s", files.gl_pathv[i],
					 (long long)result.wrong, (long long)result.checked,
					 (long long)result.sharp, result.text);
			free_values(values, f->ninputs);
			evaluated++;
		}
		an_program_free(p);
	}
	print_message("           %d programs differentiated, %d checked by differences\n", differentiated,
		      evaluated);
	assert_true(differentiated > 50 && evaluated > 15);
	globfree(&files);
	an_ctx_close(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(composites_are_right),
	    cmocka_unit_test(what_is_saved),
	    cmocka_unit_test(wrong_rms_norm_is_rejected),
	    cmocka_unit_test(damaged_backwards_are_rejected),
	    cmocka_unit_test(twice),
	    cmocka_unit_test(refusals),
	    cmocka_unit_test(corpus),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
