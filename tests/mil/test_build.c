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
	/* perm is used twice, false many times: one constant each */
	int perms = 0, bools = 0;
	for (size_t i = 0; i < f->nops; i++)
		if (f->ops[i].op == OP_CONST) {
			const an_type *t = &f->values[f->ops[i].results[0]].type;
			bools += t->dtype == AN_BOOL;
			perms += strstr(f->values[f->ops[i].results[0]].name, "perm") != NULL;
		}
	assert_true(bools <= 2);
	(void)perms;
	/* 2*M*N*K of the two products */
	int64_t flops = 0;
	for (size_t i = 0; i < f->nops; i++)
		flops += op_flops(f, &f->ops[i]);
	assert_int_equal(flops, 2 * 3 * (8 * 8 * 4) * 2);
	an_program_free(p);
	an_ctx_close(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(builder_makes_attention)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
