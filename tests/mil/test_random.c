/* Random programs: built, verified, printed, parsed, copied; always the same program. */
#include "support/mil_support.h"
#include "base/random.h"

typedef struct source {
	uint64_t seed, at;
} source;

static uint32_t pick(source *s, uint32_t n) { return (uint32_t)(random_bits(s->seed, 0, s->at++) % n); }

static an_value random_value(source *s, const an_function *f, bool tensor)
{
	for (;;) {
		an_value v = pick(s, (uint32_t)f->nvalues);
		const an_type *t = an_value_type(f, v);
		if ((t->dtype == AN_FP16 || t->dtype == AN_FP32) && (!tensor || t->rank))
			return v;
	}
}

static void add_random_const(source *s, an_builder *b)
{
	int32_t dim[AN_MAX_RANK];
	int rank = (int)pick(s, 4);
	for (int i = 0; i < rank; i++)
		dim[i] = 1 + (int32_t)pick(s, 5);
	static const an_dtype types[] = {AN_FP16,   AN_FP32,  AN_BF16,   AN_INT8,  AN_UINT8,  AN_INT16,
					 AN_UINT16, AN_INT32, AN_UINT32, AN_INT64, AN_UINT64, AN_BOOL};
	an_type t = an_tensor(types[pick(s, LENGTH(types))], rank, dim);
	t.tensor = rank > 0;
	uint8_t data[8 * 625];
	for (size_t i = 0; i < an_type_bytes(&t); i++)
		data[i] = t.dtype == AN_BOOL ? (uint8_t)pick(s, 2) : (uint8_t)pick(s, 256);
	an_const(b, pick(s, 2) ? "c" : NULL, t, data);
}

/* One operation on values there are; what does not fit is not tried. */
static void add_random_op(source *s, an_builder *b)
{
	static const char *const unary[] = {"relu", "exp",  "sigmoid", "identity",
					    "abs",  "gelu", "rsqrt",   "silu"};
	static const char *const reduce[] = {"reduce_sum", "reduce_max", "reduce_mean", "reduce_l2_norm"};
	an_function *f = b->f;
	an_value x = random_value(s, f, true);
	an_type t = *an_value_type(f, x);
	int axis = (int)pick(s, t.rank);
	switch (pick(s, 11)) {
	case 0: an_unary(b, unary[pick(s, LENGTH(unary))], x); break;
	case 1: an_binary(b, pick(s, 2) ? "mul" : "less", x, an_unary(b, "tanh", x)); break;
	case 2: an_scale(b, x, (double)pick(s, 1000) / 7); break;
	case 3: an_softmax(b, x, axis - (int)pick(s, 2) * t.rank); break;
	case 4:
		if (t.rank > 1 || !pick(s, 8))
			an_reduce(b, reduce[pick(s, LENGTH(reduce))], x, axis, pick(s, 2));
		break;
	case 5: an_reshape(b, x, 2, (int32_t[]){t.dim[0], -1}); break;
	case 6: {
		int32_t perm[AN_MAX_RANK];
		for (int i = 0; i < t.rank; i++)
			perm[i] = (axis + i) % t.rank;
		an_transpose(b, x, t.rank, perm);
		break;
	}
	case 7: {
		int begin = (int)pick(s, (uint32_t)t.dim[axis]);
		an_slice(b, x, axis, begin, 1 + (int)pick(s, (uint32_t)(t.dim[axis] - begin)));
		break;
	}
	case 8:
		if (an_type_count(&t) < 10000)
			an_concat(b, (an_value[]){x, an_unary(b, "relu", x), x}, 3, axis);
		break;
	case 9:
		if (t.rank > 1 && an_type_count(&t) < 1000)
			an_matmul(b, x, x, false, true);
		break;
	default:
		if (t.dim[axis] % 2 == 0) {
			an_value halves[2];
			an_emit(b, OP_SPLIT, "half",
				(const an_arg[]){{"x", AN_ARG_VALUE, 1, {.value = x}},
						 {"num_splits", AN_ARG_INT, 1, {.i = 2}},
						 {"axis", AN_ARG_INT, 1, {.i = axis}}},
				3, halves, 2);
		}
	}
}

static an_program *random_program(an_ctx *ctx, uint64_t seed)
{
	source s = {seed, 0};
	an_program *p;
	MIL_OK(ctx, an_program_new(ctx, &p));
	if (pick(&s, 4) == 0)
		p->version_minor = 0; /* scalars are tensors of rank 0 there */
	uint32_t functions = 1 + pick(&s, 3);
	for (uint32_t k = 0; k < functions; k++) {
		an_function *f;
		char name[16];
		snprintf(name, sizeof name, "f%u", k);
		MIL_OK(ctx, an_function_new(p, name, &f));
		an_builder b = an_builder_on(f);
		b.prefix = pick(&s, 2) ? "p_" : NULL;
		for (uint32_t i = 0; i < 1 + pick(&s, 3); i++) {
			int32_t dim[AN_MAX_RANK];
			int rank = 1 + (int)pick(&s, 4);
			for (int a = 0; a < rank; a++)
				dim[a] = 1 + (int32_t)pick(&s, 6);
			char input[16];
			snprintf(input, sizeof input, "x%u", i);
			an_value v =
			    an_input(&b, input, an_tensor(pick(&s, 2) ? AN_FP16 : AN_FP32, rank, dim));
			an_function_set_role(f, v, (an_role)pick(&s, 3));
		}
		for (uint32_t i = 0; i < pick(&s, 40); i++)
			pick(&s, 5) ? add_random_op(&s, &b) : add_random_const(&s, &b);
		an_output(&b, (an_value)f->nvalues - 1);
		if (f->nvalues > 3)
			an_output(&b, 1);
		if (an_builder_finish(&b) != AN_OK)
			fail_msg("seed %llu: %s", (unsigned long long)seed, an_message(ctx));
	}
	return p;
}

static void programs_survive(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	int ops = 0;
	for (uint64_t seed = 1; seed <= 400; seed++) {
		an_program *p = random_program(ctx, seed), *q, *r;
		char *once, *twice;
		size_t n1, n2;
		MIL_OK(ctx, an_program_print(p, &once, &n1));
		if (an_program_parse(ctx, once, n1, "random", &q) != AN_OK)
			fail_msg("seed %llu: %s", (unsigned long long)seed, an_message(ctx));
		for (size_t i = 0; i < p->nfunctions; i++) /* roles are not in the text */
			memcpy(q->functions[i]->roles, p->functions[i]->roles, p->functions[i]->ninputs);
		const char *d = mil_difference(p, q);
		if (d)
			fail_msg("seed %llu: %s\n%s", (unsigned long long)seed, d, once);
		MIL_OK(ctx, an_program_print(q, &twice, &n2));
		assert_string_equal(once, twice);
		an_text_free(ctx, twice, n2);
		/* copies, with and without the source's program */
		MIL_OK(ctx, an_program_new(ctx, &r));
		r->version_minor = p->version_minor;
		for (size_t i = 0; i < p->nfunctions; i++) {
			an_function *f;
			MIL_OK(ctx, fn_clone(r, p->functions[i], p->functions[i]->name, &f));
			ops += an_function_ops(f);
		}
		d = mil_difference(p, r);
		if (d)
			fail_msg("seed %llu, copied: %s", (unsigned long long)seed, d);
		an_function *same;
		MIL_OK(ctx, fn_clone(p, p->functions[0], "again", &same));
		MIL_OK(ctx, fn_verify(same));
		an_program_free(p);
		MIL_OK(ctx, an_program_print(r, &twice, &n2)); /* nothing of p is used any more */
		assert_string_equal(once, twice);
		an_text_free(ctx, twice, n2);
		an_text_free(ctx, once, n1);
		an_program_free(q);
		an_program_free(r);
	}
	assert_true(ops > 5000);
	an_ctx_close(ctx);
}

/* ---- Without memory ---------------------------------------------------------------------- */

typedef struct budget {
	int64_t left;
	size_t used;
} budget;

static void *spend(void *user, void *p, size_t old_size, size_t new_size)
{
	budget *b = user;
	if (new_size && b->left-- <= 0)
		return NULL;
	b->used += new_size - old_size;
	if (!new_size) {
		free(p);
		return NULL;
	}
	return realloc(p, new_size);
}

/* The same work with one allocation more each time, until it succeeds: an error every time before,
 * nothing lost. */
static void running_out_of_memory_is_an_error(void **state)
{
	(void)state;
	static const char text[] =
	    "program(1.3) { func main<ios18>(tensor<fp16, [4, 4]> x) {\n"
	    "tensor<fp16, [2]> c = const()[val = tensor<fp16, [2]>([1, 2])];\n"
	    "tensor<fp16, [4, 2]> a, tensor<fp16, [4, 2]> b = split(x = x, num_splits = 2, axis = 1);\n"
	    "tensor<fp16, [4, 2]> y = mul(x = a, y = c)[name = string(\"y\")];\n} -> (y, b); }";
	bool done = false;
	for (int64_t allowed = 1; !done; allowed++) {
		budget b = {allowed, 0};
		an_allocator alloc = {spend, &b};
		an_ctx_options opt = {.threads = 1, .allocator = &alloc};
		an_ctx *ctx;
		an_program *p = NULL;
		an_function *f;
		char *out = NULL;
		size_t len = 0;
		if (an_ctx_open(&opt, &ctx) != AN_OK)
			continue;
		an_status s = an_program_parse(ctx, text, sizeof text - 1, "t", &p);
		if (s == AN_OK)
			s = fn_clone(p, an_program_function(p, NULL), "copy", &f);
		if (s == AN_OK) {
			an_builder builder = an_builder_on(f);
			an_value v = an_scale(&builder, an_function_input(f, 0), 3);
			uint16_t big[100] = {0};
			an_concat(&builder, (an_value[]){v, v}, 2, 0);
			an_const(&builder, "big", an_tensor(AN_FP16, 1, (int32_t[]){100}), big);
			s = an_builder_finish(&builder);
		}
		if (s == AN_OK)
			s = an_program_print(p, &out, &len);
		done = s == AN_OK;
		if (!done && s != AN_MEMORY)
			fail_msg("%lld allocations: %s: %s", (long long)allowed, an_status_name(s),
				 an_message(ctx));
		if (out)
			an_text_free(ctx, out, len);
		an_program_free(p);
		an_ctx_close(ctx);
		assert_int_equal(b.used, 0);
		assert_true(allowed < 10000);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(programs_survive),
					   cmocka_unit_test(running_out_of_memory_is_an_error)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
