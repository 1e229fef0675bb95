/* Weights packed with activations, or as constants: the function computes the same, bit by bit. */
#include "pass/pass.h"
#include "support/pass_check.h"

#include "support/mil_support.h"

#define SHAPE(...) an_tensor(AN_FP16, LENGTH(((int32_t[]){__VA_ARGS__})), (int32_t[]){__VA_ARGS__})

/* Matrices with C rows, with C columns, square, of neither; a vector of C, one of another length. */
static an_function *sample(an_ctx *ctx, an_program *p)
{
	an_function *f;
	MIL_OK(ctx, an_function_new(p, "f", &f));
	an_builder b = an_builder_on(f);
	an_value x = an_input(&b, "x", SHAPE(1, 5, 1, 7)), a = an_input(&b, "a", SHAPE(5, 3));
	an_value c = an_input(&b, "c", SHAPE(4, 5)), d = an_input(&b, "d", SHAPE(5, 5));
	an_value e = an_input(&b, "e", SHAPE(3, 4)), v = an_input(&b, "v", SHAPE(5)),
		 u = an_input(&b, "u", SHAPE(3));
	an_value m = an_reshape(&b, x, 2, (int32_t[]){5, 7});
	m = an_mul(&b, m, an_reshape(&b, v, 2, (int32_t[]){5, 1}));
	m = an_matmul(&b, d, m, false, false);
	m = an_matmul(&b, c, m, false, false);
	m = an_matmul(&b, e, m, false, false);
	m = an_add(&b, m, an_reshape(&b, u, 2, (int32_t[]){3, 1}));
	an_output(&b, an_name(&b, an_matmul(&b, a, m, false, false), "y"));
	MIL_OK(ctx, an_builder_finish(&b));
	for (size_t i = 1; i < f->ninputs; i++)
		an_function_set_role(f, f->inputs[i], AN_ROLE_PARAM);
	return f;
}

static void packed_along(an_ctx *ctx, int axis, int32_t limit, int32_t height, int32_t width)
{
	an_program *p;
	an_function *packed;
	an_slot *slots;
	int n;
	MIL_OK(ctx, an_program_new(ctx, &p));
	an_function *f = sample(ctx, p);
	MIL_OK(ctx, an_pack(f, axis, limit, &packed, &slots, &n));
	assert_int_equal(packed->ninputs, 1);
	assert_int_equal(n, (int)f->ninputs);
	const an_type *t = &packed->values[packed->inputs[0]].type;
	assert_int_equal(t->dim[1], height);
	assert_int_equal(t->dim[3], width);
	double **inputs = random_values(f, 3, 0.2, 2), **want = output_values(f),
	       **have = output_values(packed);
	double **block = random_values(packed, 9, 1000, 2000); /* padding that would be seen */
	for (int i = 0; i < n; i++) {
		assert_string_equal(slots[i].name, f->values[f->inputs[i]].name);
		an_slot_fill(&slots[i], sizeof(double), block[0], inputs[i]);
	}
	MIL_OK(ctx, eval_function(f, EVAL_ROUND, (const double *const *)inputs, want));
	MIL_OK(ctx, eval_function(packed, EVAL_ROUND, (const double *const *)block, have));
	assert_memory_equal(want[0], have[0], 35 * sizeof(double));
	free_values(inputs, f->ninputs);
	free_values(block, 1);
	free_values(want, 1);
	free_values(have, 1);
	an_program_free(p);
}

static void packed_gives_the_same(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	/* columns: x 7, a 3, c (transposed) 4, d 5, e 12 in blocks of 5 rows: 3, v 1, u 1 */
	packed_along(ctx, 3, 0, 5, 24);
	/* rows of 7: x 5, a 15 values: 3, c 20: 3, d 25: 4, e 12: 2, v 1, u 1; at most 16: rows of 14 */
	packed_along(ctx, 1, 0, 19, 7);
	packed_along(ctx, 1, 16, 3 + 2 + 2 + 2 + 1 + 1 + 1, 14);
	an_ctx_close(ctx);
}

static void what_cannot_be_packed(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	an_program *p;
	an_function *out;
	an_slot *slots;
	int n;
	MIL_OK(ctx, an_program_new(ctx, &p));
	an_function *f = sample(ctx, p);
	assert_int_equal(an_pack(f, 3, 23, &out, &slots, &n), AN_UNSUPPORTED);
	assert_non_null(strstr(an_message(ctx), "24 elements"));
	assert_int_equal(an_pack(f, 2, 0, &out, &slots, &n), AN_USAGE);
	an_program_free(p);
	an_ctx_close(ctx);
}

static void baked_gives_the_same(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	an_program *p, *to;
	an_function *out;
	MIL_OK(ctx, an_program_new(ctx, &p));
	MIL_OK(ctx, an_program_new(ctx, &to));
	an_function *f = sample(ctx, p);
	double **inputs = random_values(f, 3, 0.2, 2), **want = output_values(f), **have = output_values(f);
	const char *names[] = {"c", "v"};
	uint16_t c[20], v[5];
	for (int i = 0; i < 20; i++) {
		an_set_element(AN_FP16, c, i, inputs[2][i]);
		inputs[2][i] = an_element(AN_FP16, c, i);
	}
	for (int i = 0; i < 5; i++) {
		an_set_element(AN_FP16, v, i, inputs[5][i]);
		inputs[5][i] = an_element(AN_FP16, v, i);
	}
	MIL_OK(ctx, an_bake(f, to, names, (const void *[]){c, v}, 2, &out));
	assert_int_equal(out->ninputs, f->ninputs - 2);
	assert_int_equal(out->nops, f->nops + 2);
	assert_string_equal(out->values[out->ops[0].results[0]].name, "c");
	const char *all[8];
	for (size_t i = 0; i < f->ninputs; i++)
		all[i] = f->values[f->inputs[i]].name;
	MIL_OK(ctx, eval_function(f, EVAL_ROUND, (const double *const *)inputs, want));
	MIL_OK(ctx, eval_named(out, EVAL_ROUND, (int)f->ninputs, all, inputs, have));
	assert_memory_equal(want[0], have[0], 35 * sizeof(double));
	assert_int_equal(an_bake(f, to, (const char *[]){"y"}, (const void *[]){c}, 1, &out), AN_USAGE);
	free_values(inputs, f->ninputs);
	free_values(want, 1);
	free_values(have, 1);
	an_program_free(p);
	an_program_free(to);
	an_ctx_close(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(packed_gives_the_same),
	    cmocka_unit_test(what_cannot_be_packed),
	    cmocka_unit_test(baked_gives_the_same),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
