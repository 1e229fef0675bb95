/* Every operation on the soft device against double precision, at random shapes. */
#include "support/device_support.h"

#include "base/half.h"
#include "base/random.h"

static bool covered[OP_COUNT];

/* ---- Building one operation ------------------------------------------------------------ */

typedef struct tester {
	an_ctx *ctx;
	an_program *p;
	an_builder b;
	uint64_t seed, draws;
	int inputs;
} tester;

static tester start(uint64_t seed)
{
	tester t = {.ctx = device_ctx(2), .seed = seed};
	an_function *f;
	MIL_OK(t.ctx, an_program_new(t.ctx, &t.p));
	MIL_OK(t.ctx, an_function_new(t.p, "main", &f));
	t.b = an_builder_on(f);
	return t;
}

/* A draw from [low, high]. */
static int draw(tester *t, int low, int high)
{
	return low + (int)(random_bits(t->seed, 1000, t->draws++) % (uint64_t)(high - low + 1));
}

static an_type shape(tester *t, an_dtype dtype, int rank)
{
	int32_t dim[AN_MAX_RANK];
	static const int32_t sizes[] = {1, 2, 3, 5, 7, 16, 19};
	for (int i = 0; i < rank; i++)
		dim[i] = sizes[draw(t, 0, LENGTH(sizes) - 1)];
	return an_tensor(dtype, rank, dim);
}

static an_value input(tester *t, an_type type)
{
	char name[16];
	snprintf(name, sizeof name, "in%d", t->inputs++);
	return an_input(&t->b, name, type);
}

static an_value emit(tester *t, int op, const an_arg *args, int n)
{
	an_value y = AN_NO_VALUE;
	covered[op] = true;
	if (an_emit(&t->b, op, NULL, args, n, &y, 1) != AN_OK)
		fail_msg("%s: %s", op_table[op].name, an_message(t->ctx));
	an_output(&t->b, y);
	return y;
}

static void finish(tester *t, double low, double high)
{
	MIL_OK(t->ctx, an_builder_finish(&t->b));
	device_check(t->ctx, "ieee", t->b.f, t->seed, low, high, true);
	device_check(t->ctx, "fast", t->b.f, t->seed, low, high, false);
	an_program_free(t->p);
	an_ctx_close(t->ctx);
}

#define VALUE(name, x)                                \
	{                                             \
		name, AN_ARG_VALUE, 1, { .value = x } \
	}
#define INT(name, x)                            \
	{                                       \
		name, AN_ARG_INT, 1, { .i = x } \
	}
#define INTS(name, x, count)                            \
	{                                               \
		name, AN_ARG_INTS, count, { .ints = x } \
	}
#define BOOLEAN(name, x)                         \
	{                                        \
		name, AN_ARG_BOOL, 1, { .b = x } \
	}
#define STRING(name, x)                            \
	{                                          \
		name, AN_ARG_STRING, 1, { .s = x } \
	}
#define FLOAT(name, x)                            \
	{                                         \
		name, AN_ARG_FLOAT, 1, { .f = x } \
	}

/* ---- Elementwise ------------------------------------------------------------------------- */

static void test_binary(void **state)
{
	(void)state;
	for (int op = OP_ADD; op <= OP_GREATER_EQUAL; op++)
		for (uint64_t seed = 0; seed < 6; seed++) {
			tester t = start(seed * 100 + (uint64_t)op);
			static const an_dtype dtypes[] = {AN_FP16, AN_FP32, AN_INT32};
			an_dtype dtype = dtypes[seed % 3];
			if (dtype == AN_INT32 && (op == OP_REAL_DIV || op == OP_POW))
				dtype = AN_FP32;
			int rank = draw(&t, 0, 5);
			an_type x = shape(&t, dtype, rank), y = x;
			if (rank && seed % 2) /* broadcast: drop leading axes, make one 1 on either side */
				y.dim[draw(&t, 0, rank - 1)] = 1;
			if (rank && seed > 2) {
				x.dim[draw(&t, 0, rank - 1)] = 1;
				int drop = draw(&t, 0, rank);
				y = an_tensor(dtype, rank - drop, y.dim + drop);
			}
			an_value a = input(&t, x), b = input(&t, y);
			emit(&t, op, (an_arg[]){VALUE("x", a), VALUE("y", b)}, 2);
			bool divides = op == OP_FLOOR_DIV || op == OP_MOD; /* by what is not zero */
			double low = dtype == AN_INT32 ? (divides ? 1 : -20) : op == OP_POW ? 0.25 : -3;
			finish(&t, low, dtype == AN_INT32 ? 20 : 3);
		}
}

static void test_unary(void **state)
{
	(void)state;
	for (int op = OP_ABS; op <= OP_SOFTSIGN; op++)
		for (uint64_t seed = 0; seed < 4; seed++) {
			tester t = start(seed * 100 + (uint64_t)op);
			an_type type = shape(&t, seed % 2 ? AN_FP32 : AN_FP16, draw(&t, 0, 5));
			if (seed == 3 && (op == OP_ABS || op == OP_SIGN || op == OP_SQUARE))
				type.dtype = AN_INT32;
			an_arg args[3] = {VALUE("x", input(&t, type))};
			int n = 1;
			if (op == OP_CLIP) {
				args[n++] = (an_arg)FLOAT("alpha", -0.7);
				args[n++] = (an_arg)FLOAT("beta", 1.3);
			} else if (op_param_index(op, "alpha") >= 0 && seed & 1)
				args[n++] = (an_arg)FLOAT("alpha", 0.3);
			else if (op_param_index(op, "epsilon") >= 0 && seed & 1)
				args[n++] = (an_arg)FLOAT("epsilon", 1e-5);
			else if (op == OP_GELU)
				args[n++] = (an_arg)STRING("mode", seed == 0   ? "EXACT"
								   : seed == 1 ? "TANH_APPROXIMATION"
									       : "SIGMOID_APPROXIMATION");
			emit(&t, op, args, n);
			bool positive = op == OP_SQRT || op == OP_RSQRT || op == OP_LOG || op == OP_INVERSE;
			finish(&t, positive ? 0.01 : -4, 4);
		}
}

static void test_select(void **state)
{
	(void)state;
	static const an_dtype dtypes[] = {AN_FP16, AN_FP32, AN_INT32, AN_BOOL, AN_INT8};
	for (int i = 0; i < LENGTH(dtypes); i++) {
		tester t = start((uint64_t)i);
		an_type x = shape(&t, dtypes[i], 3), cond = x, y = x;
		cond.dtype = AN_BOOL;
		cond.dim[1] = 1;
		y.dim[0] = 1;
		an_value c = input(&t, cond), a = input(&t, x), b = input(&t, y);
		emit(&t, OP_SELECT, (an_arg[]){VALUE("cond", c), VALUE("a", a), VALUE("b", b)}, 3);
		finish(&t, -9, 9);
	}
}

static void test_cast(void **state)
{
	(void)state;
	static const an_dtype dtypes[] = {AN_FP16, AN_FP32,  AN_INT32, AN_BOOL,
					  AN_INT8, AN_UINT8, AN_INT16, AN_UINT16};
	for (int i = 0; i < LENGTH(dtypes); i++)
		for (int j = 0; j < LENGTH(dtypes); j++) {
			tester t = start((uint64_t)(i * 10 + j));
			bool positive = dtypes[j] == AN_UINT8 || dtypes[j] == AN_UINT16;
			an_value x = input(&t, shape(&t, dtypes[i], 2));
			emit(&t, OP_CAST,
			     (an_arg[]){VALUE("x", x), STRING("dtype", an_dtype_name(dtypes[j]))}, 2);
			finish(&t, positive ? 0 : -100, 100);
		}
	tester t = start(1);
	emit(&t, OP_IDENTITY, (an_arg[]){VALUE("x", input(&t, shape(&t, AN_FP16, 3)))}, 1);
	finish(&t, -1, 1);
}

static void test_quantised(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < 4; seed++) {
		tester t = start(seed);
		an_type x = an_tensor(AN_FP16, 3, (int32_t[]){5, 4, 7}), s = an_tensor(AN_FP16, 0, NULL);
		bool channels = seed & 1;
		if (channels)
			s = an_tensor(AN_FP16, 1, (int32_t[]){4});
		half scale[4] = {half_from_float(0.03f), half_from_float(0.1f), half_from_float(0.02f),
				 half_from_float(0.5f)};
		int8_t zero[4] = {3, -7, 0, 100};
		an_type z = s;
		z.dtype = AN_INT8;
		an_value a = input(&t, x), sc = an_const(&t.b, "scale", s, scale),
			 ze = an_const(&t.b, "zero", z, zero);
		an_arg args[] = {VALUE("input", a), VALUE("scale", sc), STRING("output_dtype", "int8"),
				 VALUE("zero_point", ze), INT("axis", 1)};
		an_value q = emit(&t, OP_QUANTIZE, args, channels ? 5 : 4);
		an_arg back[] = {VALUE("input", q), VALUE("scale", sc), VALUE("zero_point", ze),
				 INT("axis", -2)};
		emit(&t, OP_DEQUANTIZE, back, channels ? 4 : 3);
		finish(&t, -5, 5);
	}
}

/* Attributes instead of operands: only text can say it. */
static void test_quantised_constant(void **state)
{
	(void)state;
	static const char text[] =
	    "program(1.3)\n{ func main<ios18>(tensor<fp16, [2, 3]> x) {\n"
	    "  tensor<fp16, [2, 3]> w = constexpr_affine_dequantize()[axis = int32(0), name = string(\"w\"), "
	    "quantized_data = tensor<int8, [2, 3]>([1, -2, 127, 4, -128, 6]), scale = tensor<fp16, "
	    "[2]>([0x1.8p-3, 0x1.1p-5]), "
	    "zero_point = tensor<int8, [2]>([7, -9])];\n"
	    "  tensor<fp16, [2, 3]> y = mul(x = x, y = w)[name = string(\"y\")];\n"
	    "} -> (y, w); }\n";
	an_ctx *ctx = device_ctx(1);
	an_program *p;
	MIL_OK(ctx, an_program_parse(ctx, text, sizeof text - 1, "test.mil", &p));
	device_check(ctx, "ieee", an_program_function(p, NULL), 1, -2, 2, true);
	an_program_free(p);
	an_ctx_close(ctx);
	covered[OP_CONSTEXPR_AFFINE_DEQUANTIZE] = true;
}

/* ---- Along axes -------------------------------------------------------------------------- */

static void test_reduce(void **state)
{
	(void)state;
	for (int op = OP_REDUCE_SUM; op <= OP_REDUCE_L2_NORM; op++)
		for (uint64_t seed = 0; seed < 10; seed++) {
			tester t = start(seed * 100 + (uint64_t)op);
			int rank = draw(&t, 1, 5);
			an_type type = shape(&t, seed % 2 ? AN_FP16 : AN_FP32, rank);
			if (seed == 9 && op != OP_REDUCE_MEAN && op != OP_REDUCE_L2_NORM)
				type.dtype = AN_INT32;
			if (seed == 8)
				type = an_tensor(AN_FP16, 4, (int32_t[]){1, 384, 1, 65}), rank = 4;
			int32_t axes[AN_MAX_RANK];
			int n = 0;
			for (int i = 0; i < rank; i++)
				if (draw(&t, 0, 1))
					axes[n++] = draw(&t, 0, 1) ? i : i - rank;
			an_arg args[3] = {VALUE("x", input(&t, type)), BOOLEAN("keep_dims", seed % 3 == 0)};
			if (n)
				args[2] = (an_arg)INTS("axes", axes, n);
			emit(&t, op, args, n ? 3 : 2);
			finish(&t, -3, 3);
		}
}

static void test_along(void **state)
{
	(void)state;
	static const int ops[] = {OP_SOFTMAX, OP_REDUCE_ARGMAX, OP_REDUCE_ARGMIN};
	for (int i = 0; i < LENGTH(ops); i++)
		for (uint64_t seed = 0; seed < 12; seed++) {
			tester t = start(seed);
			int rank = draw(&t, 1, 5);
			an_type type = shape(&t, seed % 2 ? AN_FP16 : AN_FP32, rank);
			an_arg args[] = {VALUE("x", input(&t, type)), INT("axis", draw(&t, -rank, rank - 1)),
					 BOOLEAN("keep_dims", seed % 3 == 0)};
			emit(&t, ops[i], args, ops[i] == OP_SOFTMAX ? 2 : 3);
			finish(&t, -8, 8);
		}
}

static void test_layer_norm(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < 8; seed++) {
		tester t = start(seed);
		an_type type = an_tensor(seed % 2 ? AN_FP16 : AN_FP32, 3,
					 (int32_t[]){3, draw(&t, 4, 9), draw(&t, 16, 70)});
		int32_t axes[2] = {seed & 2 ? 1 : 2, -1};
		int n = seed & 2 ? 2 : 1;
		an_arg args[5] = {VALUE("x", input(&t, type)), INTS("axes", axes, n), FLOAT("epsilon", 1e-5)};
		int count = 3;
		an_type affine = an_tensor((an_dtype)type.dtype, n, type.dim + 3 - n);
		if (seed & 4) {
			args[count++] = (an_arg)VALUE("gamma", input(&t, affine));
			args[count++] = (an_arg)VALUE("beta", input(&t, affine));
		}
		emit(&t, OP_LAYER_NORM, args, count);
		finish(&t, -2, 2);
	}
}

/* ---- Contractions ------------------------------------------------------------------------ */

static void test_matmul(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < 24; seed++) {
		tester t = start(seed);
		an_dtype dtype = seed % 3 == 2 ? AN_FP32 : AN_FP16;
		int rank = draw(&t, 2, 5), m = draw(&t, 1, 40), n = draw(&t, 1, 40), k = draw(&t, 1, 70);
		bool tx = draw(&t, 0, 1), ty = draw(&t, 0, 1);
		an_type x = shape(&t, dtype, rank), y = x;
		for (int i = 0; i < rank - 2; i++)
			x.dim[i] = MIN(x.dim[i], 3), y.dim[i] = draw(&t, 0, 1) ? x.dim[i] : 1;
		x.dim[rank - 2] = tx ? k : m, x.dim[rank - 1] = tx ? m : k;
		y.dim[rank - 2] = ty ? n : k, y.dim[rank - 1] = ty ? k : n;
		if (seed % 4 == 3)
			y = an_tensor(dtype, 2, y.dim + rank - 2);
		an_value a = input(&t, x), b = input(&t, y);
		emit(&t, OP_MATMUL,
		     (an_arg[]){VALUE("x", a), VALUE("y", b), BOOLEAN("transpose_x", tx),
				BOOLEAN("transpose_y", ty)},
		     4);
		finish(&t, -1, 1);
	}
	for (uint64_t seed = 0; seed < 6; seed++) {
		tester t = start(seed);
		an_dtype dtype = seed % 2 ? AN_FP32 : AN_FP16;
		int rank = 1 + (int)seed % 4;
		an_type x = shape(&t, dtype, rank), w = an_tensor(dtype, 2, (int32_t[]){13, x.dim[rank - 1]});
		an_arg args[] = {VALUE("x", input(&t, x)), VALUE("weight", input(&t, w)),
				 VALUE("bias", input(&t, an_tensor(dtype, 1, w.dim)))};
		emit(&t, OP_LINEAR, args, seed < 3 ? 3 : 2);
		finish(&t, -1, 1);
	}
}

static void test_conv(void **state)
{
	(void)state;
	static const char *const pads[] = {"valid", "same", "same_lower", "custom"};
	for (uint64_t seed = 0; seed < 24; seed++) {
		tester t = start(seed);
		an_dtype dtype = seed % 3 == 2 ? AN_FP32 : AN_FP16;
		int groups = draw(&t, 1, 3), in = groups * draw(&t, 1, 3), out = groups * draw(&t, 1, 3);
		bool one = seed % 4 == 0, flat = seed % 5 == 4;
		int kh = one ? 1 : draw(&t, 1, 3), kw = one ? 1 : draw(&t, 1, 3);
		an_type x =
		    an_tensor(dtype, 4, (int32_t[]){draw(&t, 1, 2), in, draw(&t, 5, 9), draw(&t, 5, 9)});
		an_type w = an_tensor(dtype, 4, (int32_t[]){out, in / groups, kh, kw});
		if (flat) {
			x = an_tensor(dtype, 3, (int32_t[]){2, in, 17});
			w = an_tensor(dtype, 3, (int32_t[]){out, in / groups, kw});
		}
		const char *pad = pads[draw(&t, 0, 3)];
		int d = flat ? 1 : 2;
		int32_t strides[] = {draw(&t, 1, 2), draw(&t, 1, 2)},
			dilations[] = {draw(&t, 1, 2), draw(&t, 1, 2)};
		int32_t amounts[] = {1, 0, 2, 1};
		an_arg args[8] = {VALUE("x", input(&t, x)),    VALUE("weight", input(&t, w)),
				  INT("groups", groups),       STRING("pad_type", pad),
				  INTS("strides", strides, d), INTS("dilations", dilations, d)};
		int n = 6;
		if (seed & 1)
			args[n++] = (an_arg)VALUE("bias", input(&t, an_tensor(dtype, 1, w.dim)));
		if (!strcmp(pad, "custom"))
			args[n++] = (an_arg)INTS("pad", amounts, 2 * d);
		emit(&t, OP_CONV, args, n);
		finish(&t, -1, 1);
	}
}

static void test_attention(void **state)
{
	(void)state;
	for (uint64_t seed = 0; seed < 6; seed++) {
		tester t = start(seed);
		an_dtype dtype = seed & 1 ? AN_FP32 : AN_FP16;
		an_type q = an_tensor(dtype, 4, (int32_t[]){2, 3, 9, 16}),
			k = an_tensor(dtype, 4, (int32_t[]){2, 3, 11, 16});
		an_type v = an_tensor(dtype, 4, (int32_t[]){2, 3, 11, 5});
		an_type mask = an_tensor(seed & 2 ? AN_BOOL : dtype, 2, (int32_t[]){9, 11});
		an_arg args[] = {VALUE("query", input(&t, q)), VALUE("key", input(&t, k)),
				 VALUE("value", input(&t, v)), VALUE("attn_mask", input(&t, mask))};
		emit(&t, OP_SCALED_DOT_PRODUCT_ATTENTION, args, seed > 1 ? 4 : 3);
		finish(&t, -2, 2);
	}
}

/* ---- Moving elements ---------------------------------------------------------------------- */

static void test_moves(void **state)
{
	(void)state;
	static const an_dtype dtypes[] = {AN_FP16, AN_INT32, AN_BOOL, AN_INT8, AN_FP32};
	for (uint64_t seed = 0; seed < 20; seed++) {
		tester t = start(seed);
		an_type type =
		    an_tensor(dtypes[seed % 5], 4, (int32_t[]){draw(&t, 1, 3), 4, draw(&t, 3, 6), 6});
		an_value x = input(&t, type), same = input(&t, type);
		int32_t perm[] = {0, 1, 2, 3};
		for (int i = 3; i > 0; i--) {
			int j = draw(&t, 0, i), p = perm[i];
			perm[i] = perm[j];
			perm[j] = p;
		}
		an_value tr = emit(&t, OP_TRANSPOSE, (an_arg[]){VALUE("x", x), INTS("perm", perm, 4)}, 2);
		int32_t flat[] = {type.dim[0] * 8, -1};
		emit(&t, OP_RESHAPE, (an_arg[]){VALUE("x", tr), INTS("shape", flat, 2)}, 2);
		emit(&t, OP_RESHAPE, (an_arg[]){VALUE("x", x), INTS("shape", flat, 2)}, 2);
		an_value ex =
		    emit(&t, OP_EXPAND_DIMS, (an_arg[]){VALUE("x", x), INTS("axes", ((int32_t[]){2}), 1)}, 2);
		emit(&t, OP_SQUEEZE, (an_arg[]){VALUE("x", ex), INTS("axes", ((int32_t[]){-3}), 1)}, 2);
		int32_t begin[] = {0, 1, draw(&t, 0, 1), 5}, end[] = {1, 4, 3, 0}, step[] = {1, 2, 1, -2};
		emit(&t, OP_SLICE_BY_INDEX,
		     (an_arg[]){VALUE("x", x), INTS("begin", begin, 4), INTS("end", end, 4),
				INTS("stride", step, 4)},
		     4);
		emit(&t, OP_SLICE_BY_SIZE,
		     (an_arg[]){VALUE("x", tr), INTS("begin", ((int32_t[]){0, 0, 0, 0}), 4),
				INTS("size", ((int32_t[]){1, -1, 1, -1}), 4)},
		     3);
		an_arg values = {"values", AN_ARG_VALUES, 3, {.values = (an_value[]){x, same, x}}};
		int axis = draw(&t, -4, 3);
		emit(&t, OP_CONCAT, (an_arg[]){values, INT("axis", axis), BOOLEAN("interleave", seed & 1)},
		     3);
		emit(&t, OP_STACK, (an_arg[]){values, INT("axis", draw(&t, 0, 4))}, 2);
		an_value part[3];
		covered[OP_SPLIT] = true;
		MIL_OK(t.ctx,
		       an_emit(&t.b, OP_SPLIT, NULL,
			       (an_arg[]){VALUE("x", x), INT("num_splits", 2), INT("axis", 1)}, 3, part, 2));
		an_output(&t.b, part[1]);
		an_output(&t.b, part[0]);
		int32_t sizes[] = {1, 3, 2};
		MIL_OK(t.ctx,
		       an_emit(&t.b, OP_SPLIT, NULL,
			       (an_arg[]){VALUE("x", x), INTS("split_sizes", sizes, 3), INT("axis", -1)}, 3,
			       part, 3));
		an_output(&t.b, part[1]);
		emit(&t, OP_TILE, (an_arg[]){VALUE("x", x), INTS("reps", ((int32_t[]){2, 1, 3, 2}), 4)}, 2);
		int32_t pad[] = {0, 1, 2, 0, 1, 2, 2, 1};
		emit(&t, OP_PAD, (an_arg[]){VALUE("x", x), INTS("pad", pad, 8)}, 2);
		emit(&t, OP_PAD,
		     (an_arg[]){VALUE("x", x), INTS("pad", pad + 2, 6), STRING("mode", "reflect")}, 3);
		emit(&t, OP_PAD, (an_arg[]){VALUE("x", tr), INTS("pad", pad, 8), STRING("mode", "replicate")},
		     3);
		finish(&t, -100, 100);
	}
}

/* ---- Refusals ------------------------------------------------------------------------------ */

static void test_refused(void **state)
{
	(void)state;
	tester t = start(0);
	an_device *d = device_soft(t.ctx, "ieee", true);
	an_value x = input(&t, an_tensor(AN_FP16, 1, (int32_t[]){8})), y[2];
	MIL_OK(t.ctx, an_emit(&t.b, OP_TOPK, NULL, (an_arg[]){VALUE("x", x), INT("k", 2)}, 2, y, 2));
	an_output(&t.b, y[0]);
	MIL_OK(t.ctx, an_builder_finish(&t.b));
	const char *rule = NULL;
	int last = an_function_ops(t.b.f) - 1;
	assert_false(an_device_supports(d, t.b.f, last, &rule));
	assert_non_null(strstr(rule, "topk"));
	an_executable *e;
	assert_int_equal(an_compile(d, t.b.f, &e), AN_DEVICE);
	assert_non_null(strstr(an_message(t.ctx), "topk"));
	assert_null(e);
	an_device_close(d);
	an_program_free(t.p);
	an_ctx_close(t.ctx);
}

/* Runs last: whatever the table has was tried. */
static void test_all_covered(void **state)
{
	(void)state;
	for (int op = 0; op < OP_COUNT; op++)
		if (!covered[op] && op != OP_CONST && op != OP_TOPK)
			fail_msg("%s is not tested", op_table[op].name);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_binary),      cmocka_unit_test(test_unary),
	    cmocka_unit_test(test_select),      cmocka_unit_test(test_cast),
	    cmocka_unit_test(test_quantised),   cmocka_unit_test(test_quantised_constant),
	    cmocka_unit_test(test_reduce),      cmocka_unit_test(test_along),
	    cmocka_unit_test(test_layer_norm),  cmocka_unit_test(test_matmul),
	    cmocka_unit_test(test_conv),        cmocka_unit_test(test_attention),
	    cmocka_unit_test(test_moves),       cmocka_unit_test(test_refused),
	    cmocka_unit_test(test_all_covered),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
