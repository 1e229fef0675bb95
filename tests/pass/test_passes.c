/* dce, cse, simplify: the results keep every bit, and what should go is gone. */
#include "pass/pass.h"
#include "support/pass_check.h"

#include "support/mil_support.h"

#include <glob.h>

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

static int count_ops(const an_function *f, int op)
{
	int n = 0;
	for (size_t i = 0; i < f->nops; i++)
		n += f->ops[i].op == op;
	return n;
}

/* Equal inputs and outputs by name and type, and equal bits at inputs that include zeros of both signs, the
 * largest and smallest numbers, infinities and NaN. */
static void same_bits(an_ctx *ctx, const an_function *a, const an_function *b)
{
	static const double special[] = {0.0,   -0.0,    INFINITY, -INFINITY, NAN,
					 65504, 0x1p-24, -0x1p-24, 1,         -1};
	assert_int_equal(a->ninputs, b->ninputs);
	assert_int_equal(a->noutputs, b->noutputs);
	for (size_t i = 0; i < a->ninputs; i++) {
		assert_string_equal(a->values[a->inputs[i]].name, b->values[b->inputs[i]].name);
		assert_int_equal(a->roles[i], b->roles[i]);
	}
	for (int round = 0; round < 2; round++) {
		double **in = random_values(a, 7, 0.1, 3), **x = output_values(a), **y = output_values(b);
		for (size_t i = 0; round && i < a->ninputs; i++) {
			an_dtype t = (an_dtype)a->values[a->inputs[i]].type.dtype;
			for (int64_t j = 0; j < an_type_count(&a->values[a->inputs[i]].type); j++)
				if ((t == AN_FP16 || t == AN_FP32) && (j + (int64_t)i) % 3 != 2)
					in[i][j] = special[(j * 7 + (int64_t)i) % LENGTH(special)];
		}
		MIL_OK(ctx, eval_function(a, EVAL_ROUND, (const double *const *)in, x));
		MIL_OK(ctx, eval_function(b, EVAL_ROUND, (const double *const *)in, y));
		for (size_t i = 0; i < a->noutputs; i++) {
			const mil_value *u = fn_value(a, a->outputs[i]), *v = fn_value(b, b->outputs[i]);
			assert_string_equal(u->name, v->name);
			assert_true(an_type_equal(&u->type, &v->type));
			for (int64_t j = 0; j < an_type_count(&u->type); j++)
				if (memcmp(&x[i][j], &y[i][j], sizeof(double)) != 0 &&
				    !(isnan(x[i][j]) && isnan(y[i][j])))
					fail_msg("%s[%lld]: %g became %g", u->name, (long long)j, x[i][j],
						 y[i][j]);
		}
		free_values(in, a->ninputs);
		free_values(x, a->noutputs);
		free_values(y, b->noutputs);
	}
}

static void dead_code(void **state)
{
	an_ctx *ctx = mil_open();
	an_builder b;
	an_function *f = start(ctx, &b), *out;
	(void)state;
	an_value x = an_input(&b, "x", SHAPE(4)), unused = an_input(&b, "unused", SHAPE(2)), part[2];
	an_function_set_role(f, unused, AN_ROLE_PARAM);
	an_unary(&b, "exp", an_unary(&b, "sin", unused)); /* a dead chain */
	an_emit(&b, OP_SPLIT, "part",
		(const an_arg[]){ARG_VALUE("x", x), ARG_INT("num_splits", 2), ARG_INT("axis", 0)}, 3, part,
		2);
	an_output(&b, an_name(&b, an_unary(&b, "exp", part[1]), "y")); /* half of the split is used */
	MIL_OK(ctx, an_builder_finish(&b));
	MIL_OK(ctx, an_dce(f, &out));
	assert_string_equal(out->name, "f_dce");
	assert_int_equal(out->ninputs, 2);
	assert_int_equal(count_ops(out, OP_SIN), 0);
	assert_int_equal(count_ops(out, OP_EXP), 1);
	assert_int_equal(count_ops(out, OP_SPLIT), 1);
	same_bits(ctx, f, out);
	MIL_OK(ctx, an_dce(f, &out)); /* the name is taken now */
	assert_string_equal(out->name, "f_dce_2");
	an_program_free(f->program);
	an_ctx_close(ctx);
}

static void common_subexpressions(void **state)
{
	an_ctx *ctx = mil_open();
	an_builder b;
	an_function *f = start(ctx, &b), *out;
	(void)state;
	an_value x = an_input(&b, "x", SHAPE(2, 2)), y = an_input(&b, "y", SHAPE(2, 2));
	an_value a = an_unary(&b, "exp", an_add(&b, x, y)), c = an_unary(&b, "exp", an_add(&b, x, y));
	an_output(&b, an_name(&b, an_mul(&b, a, c), "square"));
	an_output(&b, an_name(&b, a, "one")); /* equal outputs keep their names */
	an_output(&b, an_name(&b, c, "two"));
	an_output(
	    &b, an_name(&b, an_sub(&b, y, x), "minus")); /* operands in another order are another operation */
	an_output(&b, an_name(&b, an_sub(&b, x, y), "plus"));
	/* other attributes, other constants that look alike: 0 and -0 */
	an_output(&b, an_name(&b, an_softmax(&b, x, 0), "s0"));
	an_output(&b, an_name(&b, an_softmax(&b, x, 1), "s1"));
	an_output(&b, an_name(&b, an_add(&b, x, an_scalar(&b, AN_FP16, 0.0)), "p0"));
	an_output(&b, an_name(&b, an_add(&b, x, an_scalar(&b, AN_FP16, -0.0)), "m0"));
	uint16_t same[4] = {1, 2, 3, 4};
	an_value k1 = an_const(&b, "k1", SHAPE(2, 2), same), k2 = an_const(&b, "k2", SHAPE(2, 2), same);
	an_output(&b, an_name(&b, an_add(&b, an_mul(&b, x, k1), an_mul(&b, x, k2)), "k"));
	MIL_OK(ctx, an_builder_finish(&b));
	MIL_OK(ctx, an_cse(f, &out));
	assert_int_equal(count_ops(out, OP_EXP), 1);
	assert_int_equal(count_ops(out, OP_SUB), 2);
	assert_int_equal(count_ops(out, OP_SOFTMAX), 2);
	assert_int_equal(count_ops(out, OP_MUL), 2);
	assert_int_equal(count_ops(out, OP_ADD), 4); /* x + y, two with zeros, k */
	same_bits(ctx, f, out);
	an_program_free(f->program);
	an_ctx_close(ctx);
}

/* Every identity, and its neighbour that is none. */
static void identities(void **state)
{
	an_ctx *ctx = mil_open();
	an_builder b;
	an_function *f = start(ctx, &b), *out;
	(void)state;
	an_value x = an_input(&b, "x", SHAPE(2, 3, 4)), row = an_input(&b, "row", SHAPE(1, 3, 1));
	int at = 0;
	char name[16];
#define OUT(v)                                            \
	do {                                              \
		snprintf(name, sizeof name, "o%d", at++); \
		an_output(&b, an_name(&b, v, name));      \
	} while (0)
#define NUMBER(v) an_scalar(&b, AN_FP16, v)
	an_value s =
	    an_unary(&b, "sin", x); /* what the identities start from: outputs need something to name */
	/* gone */
	OUT(an_unary(&b, "exp", an_mul(&b, s, NUMBER(1))));
	OUT(an_unary(&b, "exp", an_mul(&b, NUMBER(1), s)));
	OUT(an_unary(&b, "exp", an_binary(&b, "real_div", s, NUMBER(1))));
	OUT(an_unary(&b, "exp", an_add(&b, x, NUMBER(-0.0))));
	OUT(an_unary(&b, "exp", an_sub(&b, x, NUMBER(0.0))));
	OUT(an_unary(&b, "exp", an_cast(&b, an_cast(&b, s, AN_FP32), AN_FP16)));
	OUT(an_unary(&b, "exp", RESHAPE(&b, RESHAPE(&b, s, 6, 4), 2, 3, 4)));
	OUT(an_unary(&b, "exp", TRANSPOSE(&b, TRANSPOSE(&b, s, 2, 0, 1), 1, 2, 0)));
	OUT(an_unary(&b, "exp", an_slice(&b, s, 1, 0, 3)));
	OUT(an_unary(&b, "exp", an_concat(&b, &s, 1, 0)));
	OUT(an_unary(&b, "exp", an_slice(&b, an_concat(&b, (an_value[]){x, s}, 2, 1), 1, 3, 3)));
	OUT(an_unary(&b, "exp", an_unary(&b, "identity", s)));
	MIL_OK(ctx, b.status);
	size_t gone = f->nops;
	/* equal to others of another form: a tile that broadcasting does, two transposes that are one, a
	 * transpose that is a reshape */
	an_value tiled = EMIT(&b, OP_TILE, ARG_VALUE("x", row), ARG_INTS("reps", 3, ((int32_t[]){2, 1, 4})));
	OUT(an_mul(&b, x, tiled));
	OUT(an_sub(&b, tiled, x));
	OUT(TRANSPOSE(&b, TRANSPOSE(&b, x, 2, 0, 1), 2, 0, 1));
	OUT(an_unary(&b, "abs", TRANSPOSE(&b, row, 1, 0, 2)));
	/* and none: +0 added, a sum of zeros, broadcasting to a larger shape */
	OUT(an_add(&b, x, NUMBER(0.0)));
	OUT(an_sub(&b, x, NUMBER(-0.0)));
	OUT(an_mul(&b, x, NUMBER(0)));
	OUT(an_mul(&b, row, an_const(&b, NULL, SHAPE(2, 1, 1), (uint16_t[]){0x3c00, 0x3c00})));
	OUT(an_binary(&b, "pow", x, NUMBER(1)));
	OUT(an_cast(&b, an_cast(&b, an_cast(&b, x, AN_FP32), AN_FP16), AN_FP32));
	OUT(an_slice(&b, an_concat(&b, (an_value[]){x, s}, 2, 1), 1, 2, 3));
	OUT(an_mul(&b, tiled, tiled));
	OUT(an_unary(&b, "identity", x)); /* an output that is an input under another name */
	MIL_OK(ctx, an_builder_finish(&b));
	MIL_OK(ctx, an_simplify(f, &out));
	assert_string_equal(out->name, "f_simplify");
	same_bits(ctx, f, out);

	(void)gone;
	assert_int_equal(count_ops(out, OP_EXP), 12);
	assert_int_equal(count_ops(out, OP_SIN), 1);
	assert_int_equal(count_ops(out, OP_REAL_DIV), 0);
	assert_int_equal(count_ops(out, OP_SUB), 2);       /* tiled - x, x - (-0) */
	assert_int_equal(count_ops(out, OP_ADD), 1);       /* x + 0 */
	assert_int_equal(count_ops(out, OP_MUL), 4);       /* x tiled, x 0, row [1 1], tiled tiled */
	assert_int_equal(count_ops(out, OP_TILE), 1);      /* for the last */
	assert_int_equal(count_ops(out, OP_TRANSPOSE), 1); /* the two joined */
	assert_int_equal(count_ops(out, OP_RESHAPE), 1);   /* row's transpose */
	assert_int_equal(count_ops(out, OP_CAST), 1);
	assert_int_equal(count_ops(out, OP_CONCAT), 1);
	assert_int_equal(count_ops(out, OP_IDENTITY), 1);
	assert_int_equal(count_ops(out, OP_POW), 1);
	an_program_free(f->program);
	an_ctx_close(ctx);
}

/* ---- Everything on real programs
 * --------------------------------------------------------------------------- */

typedef an_status (*pass)(an_function *f, an_function **out);
static const pass passes[] = {an_dce, an_cse, an_simplify};

/* A block as models have them, its forward and its backward. */
static an_function *block(an_ctx *ctx)
{
	an_builder b;
	an_function *f = start(ctx, &b);
	an_value x = an_input(&b, "x", SHAPE(1, 6, 1, 4)), w = an_input(&b, "w", SHAPE(5, 6)),
		 g = an_input(&b, "g", SHAPE(1, 6, 1, 1));
	an_value mean = an_reduce(&b, "reduce_mean", an_mul(&b, x, x), 1, true);
	an_value r = an_unary(&b, "rsqrt", mean);
	an_value h = RESHAPE(&b, an_mul(&b, an_mul(&b, x, r), g), 6, 4);
	an_value y = an_matmul(&b, w, h, false, false);
	an_value a = an_slice(&b, y, 0, 0, 2), c = an_slice(&b, y, 0, 2, 3);
	an_output(&b,
		  an_name(&b,
			  an_concat(&b, (an_value[]){an_unary(&b, "silu", c), an_unary(&b, "gelu", a)}, 2, 0),
			  "y"));
	MIL_OK(ctx, an_builder_finish(&b));
	return f;
}

static void real_programs(void **state)
{
	an_ctx *ctx = mil_open();
	an_function *f = block(ctx), *pair[2], *out;
	(void)state;
	MIL_OK(ctx, an_grad(f, NULL, &pair[0], &pair[1]));
	for (int i = 0; i < 2; i++)
		for (int k = 0; k < LENGTH(passes); k++) {
			MIL_OK(ctx, passes[k](pair[i], &out));
			assert_true(out->nops <= pair[i]->nops);
			same_bits(ctx, pair[i], out);
		}
	an_program_free(f->program);

	glob_t files;
	if (glob(TEST_CORPUS_DIR "/*/*.mil", 0, NULL, &files) == 0) {
		for (size_t i = 0; i < files.gl_pathc; i++) {
			an_program *p;
			MIL_OK(ctx, an_program_read(ctx, files.gl_pathv[i], &p));
			f = an_program_function(p, NULL);
			int64_t work = 0;
			bool blobs = false;
			for (size_t k = 0; k < f->nops; k++) {
				work += op_flops(f, &f->ops[k]) +
					10 * an_type_count(&f->values[f->ops[k].results[0]].type);
				blobs |=
				    f->ops[k].op == OP_CONST && op_attr(&f->ops[k], "val")->kind == LIT_BLOB;
			}
			for (int k = 0; k < LENGTH(passes); k++) {
				MIL_OK(ctx, passes[k](f, &out));
				assert_true(out->nops <= f->nops);
				if (work < 6000000 && !blobs)
					same_bits(ctx, f, out);
			}
			an_program_free(p);
		}
		globfree(&files);
	}
	an_ctx_close(ctx);
}

/* ---- Without memory
 * ------------------------------------------------------------------------------------------ */

typedef struct ration {
	long left; /* allocations that succeed; < 0: all */
	long used;
} ration;
static void *rationed(void *user, void *p, size_t old_size, size_t new_size)
{
	ration *r = user;
	(void)old_size;
	if (new_size == 0) {
		free(p);
		return NULL;
	}
	r->used++;
	if (r->left == 0)
		return NULL;
	r->left -= r->left > 0;
	return realloc(p, new_size);
}

/* Fails the 1st, 2nd, ... allocation of every pass; each must say so and leave the program as it was. */
static void without_memory(void **state)
{
	ration r = {-1, 0};
	an_allocator alloc = {rationed, &r};
	an_ctx *ctx;
	(void)state;
	assert_int_equal(an_ctx_open(&(an_ctx_options){.allocator = &alloc, .threads = 1}, &ctx), AN_OK);
	const char *dw[] = {"d_w"};
	for (int which = 0; which < 4; which++) {
		int failures = 0;
		for (long n = 0;; n++) {
			an_function *f = block(ctx), *a = NULL, *c = NULL;
			an_contraction *list;
			int count;
			an_status s = AN_OK;
			if (which == 3)
				MIL_OK(ctx, an_grad(f, NULL, &a, &c));
			int before = an_program_functions(f->program);
			r.left = n;
			switch (which) {
			case 0: s = an_grad(f, NULL, &a, &c); break;
			case 1: s = an_cse(f, &a); break;
			case 2: s = an_simplify(f, &a); break;
			case 3: s = an_outline(c, dw, 1, &a, &list, &count); break;
			}
			r.left = -1;
			if (s != AN_OK) {
				assert_int_equal(s, AN_MEMORY);
				assert_null(a);
				assert_int_equal(an_program_functions(f->program), before);
				failures++;
			}
			an_program_free(f->program);
			if (s == AN_OK)
				break;
		}
		assert_true(failures > 5);
	}
	an_ctx_close(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(dead_code),      cmocka_unit_test(common_subexpressions),
	    cmocka_unit_test(identities),     cmocka_unit_test(real_programs),
	    cmocka_unit_test(without_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
