/* Building and editing functions in memory. */
#include "support/mil_support.h"

#define DIMS(...) \
	LENGTH(((int32_t[]){__VA_ARGS__})), (int32_t[]) { __VA_ARGS__ }

static const char *type_of(const an_function *f, an_value v, char *buf)
{
	return an_type_text(an_value_type(f, v), buf, 96);
}
#define ASSERT_TYPE(f, v, text) assert_string_equal(type_of(f, v, (char[96]){0}), text)

/* softmax(q k^T / sqrt(d)) v and a residual, with everything the short forms offer. */
static void builder_makes_attention(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	an_program *p;
	an_function *f;
	MIL_OK(ctx, an_program_new(ctx, &p));
	MIL_OK(ctx, an_function_new(p, "main", &f));
	an_builder b = an_builder_on(f);
	an_value x = an_input(&b, "x", an_tensor(AN_FP16, DIMS(1, 12, 1, 8)));
	an_value h = an_reshape(&b, x, DIMS(1, 3, 4, 8));
	an_value q = an_transpose(&b, h, DIMS(0, 1, 3, 2));
	an_value scores = an_scale(&b, an_matmul(&b, q, h, false, false), 0.5);
	an_value y = an_matmul(&b, an_softmax(&b, scores, -1), q, false, false);
	ASSERT_TYPE(f, scores, "tensor<fp16, [1, 3, 8, 8]>");
	ASSERT_TYPE(f, y, "tensor<fp16, [1, 3, 8, 4]>");
	an_value z = an_reshape(&b, an_transpose(&b, y, DIMS(0, 1, 3, 2)), DIMS(1, -1, 1, 8));
	an_value sum = an_add(&b, z, x);
	an_value part = an_slice(&b, sum, 1, 4, 5);
	an_value cat = an_concat(&b, (an_value[]){part, sum}, 2, 1);
	an_value mean = an_reduce(&b, "reduce_mean", an_cast(&b, cat, AN_FP32), 1, true);
	an_output(&b, an_name(&b, mean, "mean"));
	an_output(&b, cat);
	MIL_OK(ctx, an_builder_finish(&b));
	ASSERT_TYPE(f, cat, "tensor<fp16, [1, 17, 1, 8]>");
	ASSERT_TYPE(f, mean, "tensor<fp32, [1, 1, 1, 8]>");
	assert_int_equal(an_function_find(f, "mean"), mean);
	assert_int_equal(an_function_outputs(f), 2);
	/* perm is used twice, false and true many times: one constant each */
	int bools = 0, perms = 0;
	for (size_t i = 0; i < f->nops; i++) {
		const mil_literal *l = f->ops[i].op == OP_CONST ? op_attr(&f->ops[i], "val") : NULL;
		bools += l && l->type.dtype == AN_BOOL;
		perms +=
		    l && an_type_bytes(&l->type) == 16 && memcmp(l->bytes, (int32_t[]){0, 1, 3, 2}, 16) == 0;
	}
	assert_int_equal(bools, 2);
	assert_int_equal(perms, 1);
	/* 2*M*N*K of the two products */
	int64_t flops = 0;
	for (size_t i = 0; i < f->nops; i++)
		flops += op_flops(f, &f->ops[i]);
	assert_int_equal(flops, 2 * 3 * (8 * 8 * 4) * 2);
	an_program_free(p);
	an_ctx_close(ctx);
}

/* ---- Editing ----------------------------------------------------------------------- */

typedef struct fixture {
	an_ctx *ctx;
	an_program *p;
	an_function *f;
	an_value x; /* tensor<fp16, [2, 3]> */
} fixture;

static fixture open_fixture(void)
{
	fixture t = {.ctx = mil_open()};
	MIL_OK(t.ctx, an_program_new(t.ctx, &t.p));
	MIL_OK(t.ctx, an_function_new(t.p, "main", &t.f));
	t.x = fn_add_input(t.f, "x", an_tensor(AN_FP16, DIMS(2, 3)), AN_ROLE_DATA);
	assert_int_not_equal(t.x, AN_NO_VALUE);
	return t;
}

static void close_fixture(fixture *t)
{
	an_program_free(t->p);
	an_ctx_close(t->ctx);
}

static void says(const fixture *t, an_status s, an_status want, const char *words)
{
	if (s != want || !strstr(an_message(t->ctx), words))
		fail_msg("wanted %s: %s\n   got %s: %s", an_status_name(want), words, an_status_name(s),
			 an_message(t->ctx));
}

static void names_are_unique(void **state)
{
	(void)state;
	fixture t = open_fixture();
	an_builder b = an_builder_on(t.f);
	an_value y = an_unary(&b, "relu", t.x), z = an_unary(&b, "relu", y);
	assert_string_not_equal(an_value_name(t.f, y), an_value_name(t.f, z));
	says(&t, fn_rename(t.f, y, "x"), AN_USAGE, "the name x is taken");
	says(&t, fn_rename(t.f, y, "layers.0.w"), AN_USAGE, "\"layers.0.w\" cannot be a name");
	says(&t, fn_rename(t.f, y, ""), AN_USAGE, "cannot be a name");
	says(&t, fn_rename(t.f, 99, "q"), AN_USAGE, "not one of function main");
	MIL_OK(t.ctx, fn_rename(t.f, y, "y"));
	MIL_OK(t.ctx, fn_rename(t.f, y, "y"));
	assert_string_equal(t.f->ops[0].name, "y"); /* the attribute follows the result */
	assert_int_equal(an_function_find(t.f, "y"), y);
	MIL_OK(t.ctx, fn_rename(t.f, z, "relu")); /* free again */
	assert_int_equal(an_function_find(t.f, "relu"), z);
	assert_string_equal(fn_fresh_name(t.f, "new"), "new");
	assert_string_equal(fn_fresh_name(t.f, "0.w-a"), "__w_a");
	assert_string_not_equal(fn_fresh_name(t.f, "y"), "y");
	/* many renames leave the table usable */
	for (int i = 0; i < 1000; i++) {
		char name[16];
		snprintf(name, sizeof name, "y%d", i);
		MIL_OK(t.ctx, fn_rename(t.f, y, name));
		assert_int_equal(an_function_find(t.f, name), y);
		assert_int_equal(an_function_find(t.f, "x"), t.x);
		assert_int_equal(an_function_find(t.f, "nothing"), AN_NO_VALUE);
	}
	an_function *g;
	says(&t, an_function_new(t.p, "main", &g), AN_USAGE, "already there");
	says(&t, an_function_new(t.p, "a b", &g), AN_USAGE, "cannot be a name");
	close_fixture(&t);
}

static void constants_are_shared(void **state)
{
	(void)state;
	fixture t = open_fixture();
	an_builder b = an_builder_on(t.f);
	b.prefix = "p_";
	an_value half = an_scalar(&b, AN_FP16, 0.5), again = an_scalar(&b, AN_FP16, 0.5);
	assert_int_equal(half, again);
	assert_int_not_equal(half, an_scalar(&b, AN_FP32, 0.5));
	assert_int_not_equal(an_scalar(&b, AN_FP16, 0.0),
			     an_scalar(&b, AN_FP16, -0.0)); /* bits, not values */
	uint16_t one[1] = {0x3c00};
	an_value list = an_const(&b, NULL, an_tensor(AN_FP16, DIMS(1)), one),
		 bare = an_scalar(&b, AN_FP16, 1);
	assert_int_not_equal(list, bare);
	an_value named = an_const(&b, "w", an_tensor(AN_FP16, DIMS(1)), one);
	assert_int_not_equal(named, list);
	assert_string_equal(an_value_name(t.f, named), "p_w");
	assert_string_equal(an_value_name(t.f, half), "p_const");
	an_transpose(&b, t.x, DIMS(1, 0)); /* constants of arguments are called after them */
	assert_int_not_equal(an_function_find(t.f, "p_transpose_perm"), AN_NO_VALUE);
	/* up to 64 elements in the text, more in a blob; what blobs cannot hold stays in the text */
	uint8_t zeros[65 * 4] = {0};
	an_value v64 = an_const(&b, NULL, an_tensor(AN_FP32, DIMS(64)), zeros);
	an_value v65 = an_const(&b, NULL, an_tensor(AN_FP32, DIMS(65)), zeros);
	an_value flags = an_const(&b, NULL, an_tensor(AN_BOOL, DIMS(65)), zeros);
	assert_int_equal(fn_const(t.f, v64)->kind, LIT_BYTES);
	assert_int_equal(fn_const(t.f, v65)->kind, LIT_BLOB);
	assert_int_equal(fn_const(t.f, flags)->kind, LIT_BYTES);
	assert_int_equal(an_const(&b, NULL, an_tensor(AN_FP32, DIMS(65)), zeros), v65);
	assert_int_equal(b.status, AN_OK);
	close_fixture(&t);
}

/* The first failure stays; nothing after it happens. */
static void failures_stick(void **state)
{
	(void)state;
	fixture t = open_fixture();
	an_value parts[3];
	const an_arg x = {"x", AN_ARG_VALUE, 1, {.value = t.x}};
#define STICKS(want, words, call)                                                                     \
	do {                                                                                          \
		an_builder b = an_builder_on(t.f);                                                    \
		size_t ops = t.f->nops;                                                               \
		call;                                                                                 \
		assert_int_equal(an_unary(&b, "relu", t.x), AN_NO_VALUE);                             \
		an_output(&b, t.x);                                                                   \
		assert_int_equal(t.f->noutputs, 0);                                                   \
		says(&t, an_builder_finish(&b), want, words);                                         \
		assert_true(t.f->nops <= ops + 3); /* constants may be there, the operation is not */ \
	} while (0)
	STICKS(AN_USAGE, "no operation \"rellu\"", an_unary(&b, "rellu", t.x));
	STICKS(AN_USAGE, "no operation number -1", an_emit(&b, -1, NULL, &x, 1, parts, 1));
	STICKS(AN_USAGE, "relu has no parameter q",
	       an_emit(&b, OP_RELU, NULL, &(an_arg){.param = "q"}, 1, parts, 1));
	STICKS(AN_USAGE, "0 results asked for", an_emit(&b, OP_RELU, NULL, &x, 1, parts, 0));
	STICKS(AN_TYPE, "relu: gives 1 result, 3 declared", an_emit(&b, OP_RELU, NULL, &x, 1, parts, 3));
	STICKS(AN_TYPE, "add: y is not a value of this function", an_add(&b, t.x, AN_NO_VALUE));
	STICKS(AN_TYPE, "matmul: y has inner dimension 2, x has 3", an_matmul(&b, t.x, t.x, false, false));
	STICKS(AN_USAGE, "there is no axis 2", an_slice(&b, t.x, 2, 0, 1));
	STICKS(AN_TYPE, "of which 3 elements are left", an_slice(&b, t.x, 1, 0, 4));
	STICKS(AN_TYPE, "concat: needs the argument values", an_concat(&b, NULL, 0, 0));
	STICKS(AN_TYPE, "must be one of", an_cast(&b, t.x, AN_STRING));
	STICKS(AN_TYPE, "softmax: axis is 2", an_softmax(&b, t.x, 2));
	STICKS(AN_TYPE, "shape has 6 axes", an_reshape(&b, t.x, 6, (int32_t[]){1, 1, 1, 1, 2, 3}));
	STICKS(AN_USAGE, "the name x is taken", an_input(&b, "x", an_tensor(AN_FP16, DIMS(1))));
	STICKS(AN_USAGE, "cannot be of type", an_input(&b, "s", (an_type){.dtype = AN_STRING}));
	STICKS(AN_USAGE, "cannot be of type", an_input(&b, "s", an_tensor(AN_FP16, DIMS(0))));
	STICKS(AN_USAGE, "cannot be of type", an_const(&b, "s", an_tensor(AN_FP16, DIMS(-1)), &x));
	STICKS(AN_USAGE, "the name x is taken", an_name(&b, an_scalar(&b, AN_FP16, 3), "x"));
	STICKS(AN_USAGE, "not a value", an_output(&b, 9999));
	an_builder b = an_builder_on(t.f);
	says(&t, an_builder_finish(&b), AN_TYPE, "returns nothing");
	b = an_builder_on(t.f);
	an_output(&b, t.x);
	an_output(&b, t.x);
	says(&t, an_builder_finish(&b), AN_USAGE, "already an output");
	close_fixture(&t);
}

/* What parsing cannot produce is found too. */
static void damaged_functions_are_found(void **state)
{
	(void)state;
	fixture t = open_fixture();
	an_builder b = an_builder_on(t.f);
	an_value y = an_unary(&b, "relu", t.x), z = an_unary(&b, "tanh", y);
	an_output(&b, z);
	MIL_OK(t.ctx, an_builder_finish(&b));
	t.f->ops[0].arg[0].v[0] = z;
	says(&t, an_program_verify(t.p), AN_TYPE,
	     "function main, relu relu: x uses tanh before it is defined");
	t.f->ops[0].arg[0].v[0] = 77;
	says(&t, an_program_verify(t.p), AN_TYPE, "x uses a value before it is defined");
	t.f->ops[0].arg[0].v[0] = t.x;
	t.f->values[y].type.dim[1] = 9;
	says(&t, fn_verify(t.f), AN_TYPE,
	     "relu is declared tensor<fp16, [2, 9]>, but is tensor<fp16, [2, 3]>");
	t.f->values[y].type.dim[1] = 3;
	t.f->values[z].name = "x";
	says(&t, fn_verify(t.f), AN_TYPE, "two values are named x");
	t.f->values[z].name = "tanh";
	t.f->opset = 14;
	says(&t, fn_verify(t.f), AN_TYPE, "exists from ios15 on");
	t.f->opset = 18;
	t.f->outputs[0] = 50;
	says(&t, fn_verify(t.f), AN_TYPE, "output 0 is not a value");
	t.f->outputs[0] = z;
	MIL_OK(t.ctx, an_program_verify(t.p));
	fn_discard(t.f);
	says(&t, an_program_verify(t.p), AN_TYPE, "has no function");
	assert_null(an_program_function(t.p, NULL));
	close_fixture(&t);
}

/* Copying one operation after another, with some arguments replaced. */
static void operations_are_copied(void **state)
{
	(void)state;
	fixture t = open_fixture();
	an_builder b = an_builder_on(t.f);
	an_value y = an_name(&b, an_softmax(&b, t.x, 1), "y");
	an_output(&b, an_name(&b, an_mul(&b, y, t.x), "z"));
	MIL_OK(t.ctx, an_builder_finish(&b));
	an_function *g;
	an_value map[8];
	MIL_OK(t.ctx, an_function_new(t.p, "wide", &g));
	for (int i = 0; i < 8; i++)
		map[i] = AN_NO_VALUE;
	map[t.x] =
	    fn_add_input(g, "y", an_tensor(AN_FP32, DIMS(4, 2, 3)), AN_ROLE_STATE); /* takes the name y */
	for (size_t i = 0; i < t.f->nops; i++)
		MIL_OK(t.ctx, fn_copy_op(g, t.f, &t.f->ops[i], map));
	ASSERT_TYPE(g, map[y], "tensor<fp32, [4, 2, 3]>"); /* inferred anew */
	assert_string_not_equal(an_value_name(g, map[y]), "y");
	assert_string_equal(an_value_name(g, map[an_function_output(t.f, 0)]), "z");
	assert_int_equal(an_function_role(g, map[t.x]), AN_ROLE_STATE);
	/* into the same function, while its array of operations grows */
	for (int i = 0; i < 100; i++)
		MIL_OK(t.ctx, fn_copy_op(t.f, t.f, &t.f->ops[1], (an_value[]){0, 1, 2, 3, 4, 5, 6, 7}));
	MIL_OK(t.ctx,
	       an_program_verify(t.p) == AN_TYPE ? AN_OK : AN_INTERNAL); /* "wide" returns nothing yet */
	MIL_OK(t.ctx, fn_verify(t.f));
	map[0] = AN_NO_VALUE;
	says(&t, fn_copy_op(g, t.f, &t.f->ops[1], map), AN_TYPE, "not a value of this function");
	close_fixture(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(builder_makes_attention),     cmocka_unit_test(names_are_unique),
	    cmocka_unit_test(constants_are_shared),        cmocka_unit_test(failures_stick),
	    cmocka_unit_test(damaged_functions_are_found), cmocka_unit_test(operations_are_copied)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
