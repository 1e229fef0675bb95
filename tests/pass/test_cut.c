/* Cutting at every pair of values and running the parts gives what the function gives; so does joining. */
#include "pass/pass.h"
#include "support/pass_check.h"

#include "support/mil_support.h"

#define SHAPE(...) an_tensor(AN_FP16, LENGTH(((int32_t[]){__VA_ARGS__})), (int32_t[]){__VA_ARGS__})

static void refused(an_ctx *ctx, an_status s, an_status want, const char *word)
{
	assert_int_equal(s, want);
	if (!strstr(an_message(ctx), word))
		fail_msg("no \"%s\" in: %s", word, an_message(ctx));
}

static an_function *start(an_program *p, an_ctx *ctx, const char *name, an_builder *b)
{
	an_function *f;
	MIL_OK(ctx, an_function_new(p, name, &f));
	*b = an_builder_on(f);
	return f;
}

/* Two outputs, an operation with two results, a value that is read early and late. */
static an_function *sample(an_program *p, an_ctx *ctx)
{
	an_builder b;
	an_value parts[2];
	an_function *f = start(p, ctx, "f", &b);
	an_value x = an_input(&b, "x", SHAPE(4, 6)), w = an_input(&b, "w", SHAPE(4, 4));
	an_value h = an_name(&b, an_matmul(&b, w, x, false, false), "h");
	an_emit(&b, an_op_find("split"), NULL,
		(an_arg[]){ARG_VALUE("x", h), ARG_INT("num_splits", 2), ARG_INT("axis", 1)}, 3, parts, 2);
	an_name(&b, parts[0], "left");
	an_name(&b, parts[1], "right");
	an_value s = an_name(&b, an_unary(&b, "sigmoid", parts[0]), "s");
	an_value t = an_name(&b, an_mul(&b, s, parts[1]), "t");
	an_value u = an_name(&b, an_matmul(&b, w, t, true, false), "u");
	an_value r = an_name(&b, an_reduce(&b, "reduce_sum", h, 1, true), "r");
	an_output(&b, an_name(&b, an_add(&b, u, r), "y"));
	an_output(&b, an_name(&b, an_scale(&b, s, 3), "z"));
	MIL_OK(ctx, an_builder_finish(&b));
	return f;
}

/* Everything that has a name and a value so far. */
typedef struct board {
	const char *name[64];
	double *value[64];
	int n;
} board;

static void put(board *b, const char *name, double *value)
{
	assert_true(b->n < LENGTH(b->name));
	b->name[b->n] = name;
	b->value[b->n++] = value;
}

static const double *get(const board *b, const char *name)
{
	for (int i = 0; i < b->n; i++)
		if (strcmp(b->name[i], name) == 0)
			return b->value[i];
	fail_msg("nothing is called %s", name);
	return NULL;
}

static void run_part(an_ctx *ctx, const an_function *f, board *b)
{
	double **out = output_values(f);
	MIL_OK(ctx, eval_named(f, EVAL_ROUND, b->n, b->name, b->value, out));
	for (size_t i = 0; i < f->noutputs; i++)
		put(b, f->values[f->outputs[i]].name, out[i]);
	free(out); /* its values go with the board */
}

static void check_parts(an_ctx *ctx, const an_function *f, an_function **parts, int n)
{
	double **inputs = random_values(f, 3, 0.2, 2), **want = output_values(f);
	board b = {0};
	MIL_OK(ctx, eval_function(f, EVAL_ROUND, (const double *const *)inputs, want));
	for (size_t i = 0; i < f->ninputs; i++)
		put(&b, f->values[f->inputs[i]].name, inputs[i]);
	for (int i = 0; i < n; i++)
		if (parts[i])
			run_part(ctx, parts[i], &b);
	for (size_t i = 0; i < f->noutputs; i++) {
		size_t bytes = (size_t)an_type_count(&f->values[f->outputs[i]].type) * sizeof(double);
		assert_memory_equal(get(&b, f->values[f->outputs[i]].name), want[i], bytes);
	}
	for (int i = (int)f->ninputs; i < b.n; i++)
		free(b.value[i]);
	free_values(inputs, f->ninputs);
	free_values(want, f->noutputs);
}

static void any_two_values(void **state)
{
	(void)state;
	static const char *const names[] = {"h", "left", "right", "s", "t", "u", "r", "y", "z", "x"};
	an_ctx *ctx = mil_open();
	for (int i = 0; i < LENGTH(names); i++)
		for (int j = 0; j < LENGTH(names); j++)
			for (int host = 0; host < 4; host++) {
				an_program *p;
				an_function *parts[3];
				MIL_OK(ctx, an_program_new(ctx, &p));
				an_function *f = sample(p, ctx);
				const an_stage stages[] = {{"a", &names[i], 1, host & 1},
							   {"b", &names[j], 1, host & 2},
							   {"c", (const char *[]){"y"}, 1, false}};
				MIL_OK(ctx, an_cut(f, stages, 3, parts));
				check_parts(ctx, f, parts, 3);
				/* a stage of the host returns what it names or nothing */
				if (host & 1 && parts[0])
					assert_int_equal(parts[0]->noutputs, 1);
				an_program_free(p);
			}
	an_ctx_close(ctx);
}

static bool has(const an_function *f, const char *name, bool input)
{
	an_value v = an_function_find(f, name);
	for (size_t i = 0; v != AN_NO_VALUE && i < (input ? f->ninputs : f->noutputs); i++)
		if ((input ? f->inputs : f->outputs)[i] == v)
			return true;
	return false;
}

static int64_t flops(const an_function *f)
{
	int64_t n = 0;
	for (size_t i = 0; i < f->nops; i++)
		n += op_flops(f, &f->ops[i]);
	return n;
}

static void borders(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	an_program *p;
	an_function *parts[3];
	MIL_OK(ctx, an_program_new(ctx, &p));
	an_function *f = sample(p, ctx);
	const an_stage two[] = {{"a", (const char *[]){"t", "u"}, 2, false},
				{"b", (const char *[]){"y"}, 1, false}};
	MIL_OK(ctx, an_cut(f, two, 2, parts));
	/* t is read by nothing after it; z costs least where s is; the sum over h costs a product again */
	assert_true(has(parts[0], "u", false) && !has(parts[0], "t", false) && has(parts[0], "z", false));
	assert_int_equal(parts[0]->noutputs, 2);
	assert_true(has(parts[1], "u", true) && has(parts[1], "y", false));
	assert_int_equal(parts[1]->noutputs, 1);
	assert_true(flops(parts[0]) + flops(parts[1]) > flops(f));
	/* with h at the border it does not */
	const an_stage three[] = {{"a", (const char *[]){"h"}, 1, false},
				  {"b", (const char *[]){"u"}, 1, false},
				  {"c", (const char *[]){"y"}, 1, true}};
	MIL_OK(ctx, an_cut(f, three, 3, parts));
	assert_true(flops(parts[0]) + flops(parts[1]) + flops(parts[2]) == flops(f));
	assert_true(has(parts[2], "h", true) && has(parts[1], "h", true) && !has(parts[1], "x", true));
	assert_true(has(parts[1], "z", false));
	assert_int_equal(an_function_role(parts[1], an_function_find(parts[1], "w")), AN_ROLE_DATA);
	/* what a stage is asked for is there, or nothing reads it */
	const an_stage none[] = {{"a", (const char *[]){"y", "z"}, 2, false},
				 {"b", (const char *[]){"t"}, 1, false}};
	MIL_OK(ctx, an_cut(f, none, 2, parts));
	assert_int_equal(parts[0]->noutputs, 2);
	assert_null(parts[1]);
	const an_stage wrong = {"a", (const char *[]){"t", "nobody"}, 2, false};
	refused(ctx, an_cut(f, &wrong, 1, parts), AN_USAGE, "nobody");
	assert_null(parts[0]);
	an_program_free(p);
	an_ctx_close(ctx);
}

static an_function *layer(an_program *p, an_ctx *ctx)
{
	an_builder b;
	an_function *f = start(p, ctx, "layer", &b);
	an_value x = an_input(&b, "x", SHAPE(4, 6)), w = an_input(&b, "w", SHAPE(4, 4));
	an_value h = an_name(&b, an_matmul(&b, w, x, false, false), "h");
	an_output(&b, an_name(&b, an_add(&b, x, an_unary(&b, "sigmoid", h)), "y"));
	MIL_OK(ctx, an_builder_finish(&b));
	an_function_set_role(f, w, AN_ROLE_PARAM);
	return f;
}

static void three_in_a_row(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	an_program *p;
	an_function *three;
	MIL_OK(ctx, an_program_new(ctx, &p));
	an_function *f = layer(p, ctx);
	MIL_OK(ctx,
	       an_chain((an_function *[]){f, f, f}, (const char *[]){"a_", "b_", "c_"}, 3, "three", &three));
	assert_string_equal(an_function_name(three), "three");
	assert_int_equal(three->ninputs, 4);
	assert_true(has(three, "x", true) && has(three, "a_w", true) && has(three, "c_w", true) &&
		    has(three, "y", false));
	assert_int_equal(three->noutputs, 1);
	assert_int_equal(an_function_role(three, an_function_find(three, "b_w")), AN_ROLE_PARAM);
	double **inputs = random_values(three, 5, 0.2, 2), **one = output_values(f),
	       **all = output_values(three);
	const double *x = inputs[0];
	double between[24];
	for (int i = 1; i < 4; i++) {
		MIL_OK(ctx, eval_function(f, EVAL_ROUND, (const double *[]){x, inputs[i]}, one));
		memcpy(between, one[0], sizeof between);
		x = between;
	}
	MIL_OK(ctx, eval_function(three, EVAL_ROUND, (const double *const *)inputs, all));
	assert_memory_equal(all[0], between, sizeof between);
	free_values(inputs, three->ninputs);
	free_values(one, 1);
	free_values(all, 1);
	an_function *none, *g = sample(p, ctx);
	refused(ctx, an_chain((an_function *[]){g, f}, (const char *[]){"a_", "b_"}, 2, "no", &none),
		AN_USAGE, "2 outputs");
	an_builder b;
	an_function *narrow = start(p, ctx, "narrow", &b);
	an_output(&b, an_unary(&b, "relu", an_input(&b, "x", SHAPE(4, 5))));
	MIL_OK(ctx, an_builder_finish(&b));
	refused(ctx, an_chain((an_function *[]){f, narrow}, (const char *[]){"a_", "b_"}, 2, "no", &none),
		AN_USAGE, "[4, 5]");
	assert_null(none);
	assert_null(an_program_function(p, "no"));
	an_program_free(p);
	an_ctx_close(ctx);
}

/* What is not in `save` is computed again, products too; gradients stay the same to the bit. */
static void saved_by_name(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	an_program *p;
	an_function *forward[2], *backward[2];
	MIL_OK(ctx, an_program_new(ctx, &p));
	an_function *f = sample(p, ctx);
	MIL_OK(ctx, an_grad(f, NULL, &forward[0], &backward[0]));
	MIL_OK(ctx, an_grad(f, &(an_grad_options){.save = (const char *[]){"s", "t"}, .nsave = 2},
			    &forward[1], &backward[1]));
	assert_true(has(backward[0], "h", true) && !has(backward[1], "h", true));
	assert_true(has(backward[1], "s", true) && has(backward[1], "t", true) &&
		    !has(backward[0], "s", true));
	/* cotangents have the names of what they belong to */
	assert_true(an_function_find(backward[1], "d_u") != AN_NO_VALUE ||
		    an_function_find(backward[1], "d_t") != AN_NO_VALUE);
	double **inputs = random_values(f, 3, 0.2, 2), **d = random_values(backward[0], 4, 0.2, 2);
	double **result[2];
	for (int k = 0; k < 2; k++) {
		board b = {0};
		for (size_t i = 0; i < f->ninputs; i++)
			put(&b, f->values[f->inputs[i]].name, inputs[i]);
		run_part(ctx, forward[k], &b);
		int computed = b.n;
		for (size_t i = 0; i < 2; i++) /* d_y and d_z come first */
			put(&b, i ? "d_z" : "d_y", d[i]);
		result[k] = output_values(backward[k]);
		MIL_OK(ctx, eval_named(backward[k], EVAL_ROUND, b.n, b.name, b.value, result[k]));
		for (int i = (int)f->ninputs; i < computed; i++)
			free(b.value[i]);
	}
	assert_memory_equal(result[0][0], result[1][0], 24 * sizeof(double));
	assert_memory_equal(result[0][1], result[1][1], 16 * sizeof(double));
	free_values(result[0], 2);
	free_values(result[1], 2);
	free_values(inputs, f->ninputs);
	free_values(d, backward[0]->ninputs);
	an_function *a, *b;
	refused(ctx, an_grad(f, &(an_grad_options){.save = (const char *[]){"nobody"}, .nsave = 1}, &a, &b),
		AN_USAGE, "nobody");
	an_program_free(p);
	an_ctx_close(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(any_two_values),
	    cmocka_unit_test(borders),
	    cmocka_unit_test(three_in_a_row),
	    cmocka_unit_test(saved_by_name),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
