/* What an_outline takes out of a function, contracted here in double, must be what the function computed. */
#include "base/random.h"
#include "pass/pass.h"
#include "support/pass_check.h"

#include "support/mil_support.h"

#define SHAPE(...)           an_tensor(AN_FP16, LENGTH(((int32_t[]){__VA_ARGS__})), (int32_t[]){__VA_ARGS__})
#define RESHAPE(b, x, ...)   an_reshape(b, x, LENGTH(((int32_t[]){__VA_ARGS__})), (int32_t[]){__VA_ARGS__})
#define TRANSPOSE(b, x, ...) an_transpose(b, x, LENGTH(((int32_t[]){__VA_ARGS__})), (int32_t[]){__VA_ARGS__})

static an_function *start(an_ctx *ctx, an_builder *b)
{
	an_program *p;
	an_function *f;
	MIL_OK(ctx, an_program_new(ctx, &p));
	MIL_OK(ctx, an_function_new(p, "f", &f));
	*b = an_builder_on(f);
	return f;
}

/* Values of f's inputs and of out's outputs, by name. */
static const double *named(const an_function *f, double *const *inputs, const an_function *out,
			   double *const *outputs, const char *name, bool input)
{
	for (size_t i = 0; input && i < f->ninputs; i++)
		if (strcmp(f->values[f->inputs[i]].name, name) == 0)
			return inputs[i];
	for (size_t i = 0; !input && out && i < out->noutputs; i++)
		if (strcmp(out->values[out->outputs[i]].name, name) == 0)
			return outputs[i];
	fail_msg("nothing is called %s", name);
	return NULL;
}

/* Outlines all outputs of f and compares with f itself.  Returns the number of contractions; *list
 * as an_outline has it. Sums of at most 100 products of numbers up to 4 are right to 1e-12. */
static int check_outline(an_ctx *ctx, an_function *f, an_function **out, an_contraction **list)
{
	const char *names[16];
	int n;
	for (size_t i = 0; i < f->noutputs; i++)
		names[i] = f->values[f->outputs[i]].name;
	MIL_OK(ctx, an_outline(f, names, (int)f->noutputs, out, list, &n));

	double **inputs = random_values(f, 3, 0.2, 2), **want = output_values(f),
	       **have = *out ? output_values(*out) : NULL;
	MIL_OK(ctx, eval_function(f, EVAL_EXACT, (const double *const *)inputs, want));
	if (*out) {
		const char *input_names[16];
		for (size_t i = 0; i < f->ninputs; i++)
			input_names[i] = f->values[f->inputs[i]].name;
		MIL_OK(ctx, eval_named(*out, EVAL_EXACT, (int)f->ninputs, input_names, inputs, have));
	}
	int seen = 0;
	for (size_t i = 0; i < f->noutputs; i++) {
		const an_contraction *c = NULL;
		for (int k = 0; k < n; k++)
			if (strcmp((*list)[k].output, names[i]) == 0)
				c = &(*list)[k];
		int64_t count = an_type_count(&f->values[f->outputs[i]].type);
		if (!c) {
			const double *y = named(f, inputs, *out, have, names[i], false);
			assert_memory_equal(y, want[i], (size_t)count * sizeof *y);
			continue;
		}
		seen++;
		assert_int_equal(c->m * c->n, count);
		assert_true(an_type_equal(&c->type, &f->values[f->outputs[i]].type));
		const double *x = named(f, inputs, *out, have, c->x, c->x_input);
		const double *y = named(f, inputs, *out, have, c->y, c->y_input);
		for (int64_t m = 0; m < c->m; m++)
			for (int64_t q = 0; q < c->n; q++) {
				double sum = 0;
				for (int64_t b = 0; b < c->batch; b++)
					for (int64_t k = 0; k < c->k; k++) {
						int64_t at_x = c->x_offset + b * c->x_stride[0] +
							       m * c->x_stride[1] + k * c->x_stride[2];
						int64_t at_y = c->y_offset + b * c->y_stride[0] +
							       k * c->y_stride[1] + q * c->y_stride[2];
						assert_true(at_x >= 0 && at_x < an_type_count(&c->x_type));
						assert_true(at_y >= 0 && at_y < an_type_count(&c->y_type));
						sum += x[at_x] * y[at_y];
					}
				double error = fabs(sum - want[i][m * c->n + q]);
				if (!(error <= 1e-12))
					fail_msg("%s[%lld,%lld] is %g, not %g", c->output, (long long)m,
						 (long long)q, sum, want[i][m * c->n + q]);
			}
	}
	assert_int_equal(seen, n);
	free_values(inputs, f->ninputs);
	free_values(want, f->noutputs);
	if (*out)
		free_values(have, (*out)->noutputs);
	return n;
}

/* The layer's pattern: x [1, I, 1, S] against W [O, I], and what becomes of it. */
static void linear_layer(void **state)
{
	an_ctx *ctx = mil_open();
	an_builder b;
	an_function *f = start(ctx, &b), *forward, *backward, *out;
	an_contraction *list;
	(void)state;
	an_value x = an_input(&b, "x", SHAPE(1, 5, 1, 7)), w = an_input(&b, "w", SHAPE(3, 5));
	an_value y = an_matmul(&b, w, RESHAPE(&b, x, 5, 7), false, false);
	an_output(&b, an_name(&b, RESHAPE(&b, y, 1, 3, 1, 7), "y"));
	MIL_OK(ctx, an_builder_finish(&b));

	MIL_OK(ctx, an_grad(f, NULL, &forward, &backward));
	const char *dw[] = {"d_w"};
	int n;
	MIL_OK(ctx, an_outline(backward, dw, 1, &out, &list, &n));
	assert_int_equal(n, 1);
	assert_string_equal(an_function_name(out), "f_bwd_outlined");
	assert_int_equal(out->noutputs, 1); /* d_x alone: both operands are inputs */
	assert_int_equal(out->ninputs, 2);  /* d_y and w; x is dropped */
	assert_string_equal(list->output, "d_w");
	assert_string_equal(list->x, "d_y");
	assert_string_equal(list->y, "x");
	assert_true(list->x_input && list->y_input && !list->tx && list->ty);
	assert_int_equal(list->batch, 1);
	assert_int_equal(list->m, 3);
	assert_int_equal(list->n, 5);
	assert_int_equal(list->k, 7);
	assert_true(list->x_stride[1] == 7 && list->x_stride[2] == 1 && list->y_stride[1] == 1 &&
		    list->y_stride[2] == 7);
	assert_int_equal(list->x_type.dtype, AN_FP16);
	assert_int_equal(check_outline(ctx, backward, &out, &list), 2);
	assert_null(out); /* d_x is a product of inputs as well */
	an_program_free(f->program);
	an_ctx_close(ctx);
}

/* W broadcast over a batch: the gradient is a sum of products. Operands that must be computed. */
static void batch_and_computed(void **state)
{
	an_ctx *ctx = mil_open();
	an_builder b;
	an_function *f = start(ctx, &b), *forward, *backward, *out;
	an_contraction *list;
	(void)state;
	an_value x = an_input(&b, "x", SHAPE(2, 3, 5, 4)), w = an_input(&b, "w", SHAPE(6, 5)),
		 v = an_input(&b, "v", SHAPE(1, 2, 6));
	an_value h = an_unary(&b, "tanh", x);
	an_value y = an_matmul(&b, w, h, false, false); /* [2, 3, 6, 4] */
	y = an_matmul(&b, v, an_unary(&b, "sin", y), false, false);
	an_output(&b, an_name(&b, y, "y")); /* [2, 3, 2, 4] */
	MIL_OK(ctx, an_builder_finish(&b));
	const char *wrt[] = {"w", "v"};
	MIL_OK(ctx, an_grad(f, &(an_grad_options){.wrt = wrt, .nwrt = 2}, &forward, &backward));
	assert_int_equal(check_outline(ctx, backward, &out, &list), 2);
	assert_int_equal(list[0].batch, 6);
	assert_int_equal(list[1].batch, 6);
	assert_string_equal(list[1].x, "d_y");
	for (size_t i = 0; i < out->nops; i++) { /* neither product nor sum is left of dw */
		assert_true(out->ops[i].op != OP_REDUCE_SUM);
	}
	an_program_free(f->program);
	an_ctx_close(ctx);
}

/* Operands that are views by strides: transposed, sliced, split, squeezed, cast; and some that are not. */
static void views(void **state)
{
	an_ctx *ctx = mil_open();
	an_builder b;
	an_function *f = start(ctx, &b), *out;
	an_contraction *list;
	(void)state;
	an_value x = an_input(&b, "x", SHAPE(1, 6, 4, 5)), y = an_input(&b, "y", SHAPE(4, 3, 6));
	an_value part[2];
	an_value a = RESHAPE(&b, an_slice(&b, x, 1, 2, 3), 12, 5);           /* offset 40 */
	an_value c = TRANSPOSE(&b, RESHAPE(&b, y, 12, 6), 1, 0);             /* [6, 12] */
	an_output(&b, an_name(&b, an_matmul(&b, c, a, false, false), "o0")); /* [6, 5] */
	an_output(&b, an_name(&b, TRANSPOSE(&b, an_matmul(&b, c, a, false, false), 1, 0), "o1"));
	an_value wide = an_cast(&b, a, AN_FP32);
	an_value o2 = an_matmul(&b, wide, wide, true, false);
	an_output(&b, an_name(&b, RESHAPE(&b, an_cast(&b, o2, AN_FP16), 25, 1, 1), "o2"));
	an_emit(&b, OP_SPLIT, NULL,
		(const an_arg[]){ARG_VALUE("x", y), ARG_INT("num_splits", 2), ARG_INT("axis", -1)}, 3, part,
		2);
	/* [4, 3, 3] each: batch of 4 */
	an_value p = an_matmul(&b, part[0], part[1], false, true);
	an_output(&b, an_name(&b, an_reduce(&b, "reduce_sum", p, 0, false), "o3"));
	an_output(&b, an_name(&b, an_reduce(&b, "reduce_sum", p, 0, true), "o4"));
	an_output(&b, an_name(&b, p, "o5")); /* a batch of products is no contraction */
	/* a transposed view that no reshape by strides can follow must be there itself */
	an_value moved = RESHAPE(&b, TRANSPOSE(&b, y, 1, 0, 2), 6, 12);
	an_output(&b, an_name(&b, an_matmul(&b, moved, moved, false, true), "o6"));
	/* every second row, backwards */
	an_value back =
	    EMIT(&b, OP_SLICE_BY_INDEX, ARG_VALUE("x", RESHAPE(&b, x, 24, 5)),
		 ARG_INTS("begin", 2, ((int32_t[]){22, 0})), ARG_INTS("end", 2, ((int32_t[]){0, 5})),
		 ARG_INTS("stride", 2, ((int32_t[]){-2, 1})));
	an_output(&b, an_name(&b, an_matmul(&b, back, back, true, false), "o7"));
	/* vectors */
	an_value row = RESHAPE(&b, an_slice(&b, x, 3, 1, 1), 24),
		 column = RESHAPE(&b, an_slice(&b, y, 2, 0, 1), 12);
	an_output(&b, an_name(&b, an_matmul(&b, row, row, false, false), "o8"));
	an_output(&b, an_name(&b, an_matmul(&b, c, column, false, false), "o9"));
	an_output(&b, an_name(&b, an_scale(&b, an_matmul(&b, c, a, false, false), 2), "o10")); /* stays */
	MIL_OK(ctx, an_builder_finish(&b));

	assert_int_equal(check_outline(ctx, f, &out, &list), 9);
	assert_string_equal(list[0].y, "x");
	assert_int_equal(list[0].y_offset, 40);
	assert_true(list[0].tx && !list[0].ty);
	assert_string_equal(list[2].x, "x");
	assert_int_equal(list[2].x_type.dtype, AN_FP16);
	assert_string_equal(list[3].output, "o3");
	assert_int_equal(list[3].batch, 4);
	assert_string_equal(list[5].output, "o6");
	assert_false(list[5].x_input);
	assert_int_equal(list[6].x_stride[2], -10);
	an_program_free(f->program);
	an_ctx_close(ctx);
}

/* Batch axes of which one is broadcast cannot have one stride: such a product stays. */
static void what_stays(void **state)
{
	an_ctx *ctx = mil_open();
	an_builder b;
	an_function *f = start(ctx, &b), *out;
	an_contraction *list;
	(void)state;
	an_value x = an_input(&b, "x", SHAPE(2, 3, 4, 5)), y = an_input(&b, "y", SHAPE(2, 1, 5, 3));
	an_value p = an_matmul(&b, x, y, false, false); /* y's strides: 15, then 0 */
	an_value s = EMIT(&b, OP_REDUCE_SUM, ARG_VALUE("x", p), ARG_INTS("axes", 2, ((int32_t[]){0, 1})));
	an_output(&b, an_name(&b, s, "no"));
	an_value q = EMIT(&b, OP_REDUCE_SUM, ARG_VALUE("x", p), ARG_INTS("axes", 1, (&(int32_t){2})));
	an_output(&b, an_name(&b, q, "rows"));
	float constant[20];
	for (int i = 0; i < 20; i++)
		constant[i] = (float)i;
	an_value k =
	    an_cast(&b, an_const(&b, "k", an_tensor(AN_FP32, 2, (int32_t[]){4, 5}), constant), AN_FP16);
	an_value fixed = an_const(&b, "fixed", SHAPE(2, 2), (uint16_t[]){0x3c00, 0x4000, 0x4200, 0x4400});
	an_output(&b, an_name(&b, an_matmul(&b, fixed, fixed, false, false), "consts"));
	an_output(&b, an_name(&b, an_matmul(&b, k, k, true, false), "cast_const"));
	MIL_OK(ctx, an_builder_finish(&b));
	int n = check_outline(ctx, f, &out, &list);
	for (int i = 0; i < n; i++)
		assert_string_equal(list[i].output, "cast_const");
	const char *no[] = {"x"};
	assert_int_equal(an_outline(f, no, 1, &out, &list, &n), AN_USAGE);
	assert_non_null(strstr(an_message(ctx), "no output x"));
	assert_null(out);
	an_program_free(f->program);
	an_ctx_close(ctx);
}

/* Random chains of views over random matrices: strides or not, the numbers must be right. */
static void random_views(void **state)
{
	an_ctx *ctx = mil_open();
	int inputs = 0, total = 0;
	(void)state;
	for (uint64_t seed = 0; seed < 300; seed++) {
		an_builder b;
		an_function *f = start(ctx, &b), *out;
		an_contraction *list;
		uint64_t draws = 0;
#define BELOW(n) ((int)(random_bits(seed, 5, draws++) % (uint64_t)(n)))
		an_value side[2];
		for (int s = 0; s < 2; s++) {
			an_value v = an_input(&b, s ? "y" : "x", SHAPE(4, 6, 2, 3));
			for (int i = 0; i < 4; i++) {
				an_type t = f->values[v].type;
				int32_t perm[4] = {0, 1, 2, 3};
				static const int32_t shapes[][4] = {
				    {4, 6, 2, 3}, {2, 2, 6, 6}, {1, 12, 4, 3}, {3, 2, 4, 6}, {12, 1, 3, 4}};
				switch (BELOW(4)) {
				case 0: {
					int a = BELOW(4), c = BELOW(4);
					perm[a] = c;
					perm[c] = a;
					v = an_transpose(&b, v, 4, perm);
					break;
				}
				case 1:
					if (an_type_count(&t) == 144)
						v = an_reshape(&b, v, 4, shapes[BELOW(5)]);
					break;
				case 2: {
					int a = BELOW(4);
					if (t.dim[a] % 2 == 0 && BELOW(2))
						v = an_slice(&b, v, a, t.dim[a] / 2, t.dim[a] / 2);
					break;
				}
				default: break;
				}
			}
			side[s] = v;
		}
		/* any [batch, m, k] x [batch, k, n] that the two shapes allow, by flattening x and taking y
		 * as it comes */
		int64_t nx = an_type_count(&f->values[side[0]].type),
			ny = an_type_count(&f->values[side[1]].type);
		int32_t k = BELOW(2) ? 3 : 9, batch = BELOW(2) ? 1 : 2;
		an_value x = RESHAPE(&b, side[0], batch, (int32_t)(nx / k / batch), k);
		an_value y = RESHAPE(&b, side[1], batch, k, (int32_t)(ny / k / batch));
		an_value p = an_matmul(&b, x, y, false, false);
		an_output(&b, an_name(&b, batch > 1 ? an_reduce(&b, "reduce_sum", p, 0, false) : p, "o"));
		if (nx % (k * batch) || ny % (k * batch)) {
			an_program_free(f->program);
			continue;
		}
		MIL_OK(ctx, an_builder_finish(&b));
		assert_int_equal(check_outline(ctx, f, &out, &list), 1);
		total++;
		inputs += list->x_input + list->y_input;
		an_program_free(f->program);
	}
	assert_true(total > 200 && inputs > 50 && inputs < 2 * total); /* both kinds came up */
	an_ctx_close(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(linear_layer), cmocka_unit_test(batch_and_computed), cmocka_unit_test(views),
	    cmocka_unit_test(what_stays),   cmocka_unit_test(random_views),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
