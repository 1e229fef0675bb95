/* The builder: what models are written with. */
#include "mil/blob.h"
#include "mil/ir.h"

#include <stdio.h>

an_builder an_builder_on(an_function *f) { return (an_builder){f, AN_OK, NULL}; }

an_status an_builder_finish(an_builder *b)
{
	if (b->status == AN_OK)
		b->status = fn_verify(b->f);
	return b->status;
}

static an_ctx *ctx_of(const an_builder *b) { return b->f->program->ctx; }

static an_value failed(an_builder *b, an_status s)
{
	b->status = s;
	return AN_NO_VALUE;
}

/* prefix + name in the program's arena; NULL: failed. */
static const char *prefixed(an_builder *b, const char *name)
{
	const char *full = arena_printf(&b->f->program->arena, "%s%s", b->prefix ? b->prefix : "", name);
	if (!full)
		failed(b, fail_memory(ctx_of(b), 0));
	return full;
}

/* The same, made unique by a number. */
static const char *fresh(an_builder *b, const char *name)
{
	const char *full = prefixed(b, name);
	if (full && !(full = fn_fresh_name(b->f, full)))
		failed(b, fail_memory(ctx_of(b), 0));
	return full;
}

an_value an_input(an_builder *b, const char *name, an_type type)
{
	const char *full = b->status == AN_OK ? prefixed(b, name) : NULL;
	if (!full)
		return AN_NO_VALUE;
	an_value v;
	b->status = fn_append_input(b->f, full, type, AN_ROLE_DATA, &v);
	return b->status == AN_OK ? v : AN_NO_VALUE;
}

void an_output(an_builder *b, an_value v)
{
	if (b->status == AN_OK)
		b->status = fn_add_output(b->f, v);
}

an_value an_name(an_builder *b, an_value v, const char *name)
{
	const char *full = b->status == AN_OK ? prefixed(b, name) : NULL;
	if (!full)
		return AN_NO_VALUE;
	b->status = fn_rename(b->f, v, full);
	return b->status == AN_OK ? v : AN_NO_VALUE;
}

/* ---- Constants --------------------------------------------------------------------- */

/* Constants of more elements than this stand in a blob file, not in the text. */
#define INLINE_MAX 64

/* A constant that was given a name keeps it; one without is shared with an equal one, `want` being
 * what it is called if there is none. */
static an_value add_const(an_builder *b, const char *name, const char *want, const mil_literal *lit)
{
	const char *full = name ? fresh(b, name) : prefixed(b, want);
	an_value v = AN_NO_VALUE;
	if (full)
		b->status = fn_append_const(b->f, full, !name, lit, &v);
	return b->status == AN_OK ? v : AN_NO_VALUE;
}

static an_value add_data(an_builder *b, const char *name, const char *want, an_type type, const void *data)
{
	char text[96];
	if (b->status != AN_OK)
		return AN_NO_VALUE;
	if (!mil_type_fits(&type) || an_dtype_size(type.dtype) == 0)
		return failed(
		    b, fail(ctx_of(b), AN_USAGE, "a constant cannot be of type %s",
			    type.rank > AN_MAX_RANK ? "rank > 5" : an_type_text(&type, text, sizeof text)));
	mil_literal lit = {.type = type, .kind = LIT_BYTES, .bytes = data};
	if (an_type_count(&type) > INLINE_MAX && blob_holds(type.dtype)) {
		/* one blob per file, its record follows the header; named by content, so that programs
		 * written into one folder share files that are equal and keep others apart */
		lit.offset = BLOB_FIRST_OFFSET;
		lit.path = arena_printf(&b->f->program->arena, "@model_path/weights/%s_%016llx.bin",
					name && mil_is_identifier(name) ? name : "const",
					(unsigned long long)lit_hash(&lit));
		lit.kind = LIT_BLOB;
		if (!lit.path)
			return failed(b, fail_memory(ctx_of(b), 0));
	}
	return add_const(b, name, want, &lit);
}

static an_value add_scalar(an_builder *b, const char *want, an_dtype dtype, double value)
{
	uint64_t bits = 0;
	mil_store_double(dtype, value, &bits);
	return add_data(b, NULL, want, (an_type){.dtype = (uint8_t)dtype}, &bits);
}

an_value an_const(an_builder *b, const char *name, an_type type, const void *data)
{
	return add_data(b, name, "const", type, data);
}

an_value an_scalar(an_builder *b, an_dtype dtype, double value)
{
	return add_scalar(b, "const", dtype, value);
}

/* ---- Any operation ------------------------------------------------------------------- */

/* The value for an argument; a constant that has to be made is called after the parameter. */
static an_value argument(an_builder *b, an_opcode op, const an_arg *a, an_dtype dtype)
{
	char want[96];
	snprintf(want, sizeof want, "%s_%s", op_table[op].name, a->param);
	switch (a->kind) {
	case AN_ARG_INTS: return add_data(b, NULL, want, an_tensor(AN_INT32, 1, &(int32_t){a->n}), a->u.ints);
	case AN_ARG_INT: return add_scalar(b, want, AN_INT32, a->u.i);
	case AN_ARG_BOOL: return add_scalar(b, want, AN_BOOL, a->u.b);
	case AN_ARG_FLOAT: return add_scalar(b, want, dtype, a->u.f);
	case AN_ARG_STRING: {
		mil_literal lit = {
		    .type = {.dtype = AN_STRING}, .kind = LIT_STRINGS, .strings = (const char **)&a->u.s};
		return add_const(b, NULL, want, &lit);
	}
	default: return a->u.value;
	}
}

/* The element type that AN_ARG_FLOAT takes. */
static an_dtype first_dtype(const an_builder *b, const an_arg *args, int n)
{
	for (int i = 0; i < n; i++) {
		an_value v = args[i].kind == AN_ARG_VALUE                     ? args[i].u.value
			     : args[i].kind == AN_ARG_VALUES && args[i].n > 0 ? args[i].u.values[0]
									      : AN_NO_VALUE;
		if (v < b->f->nvalues)
			return b->f->values[v].type.dtype;
	}
	return AN_FP32;
}

an_status an_emit(an_builder *b, an_opcode op, const char *name, const an_arg *args, int nargs,
		  an_value *results, int nresults)
{
	enum { RESULTS_MAX = 1024 };
	for (int i = 0; results && i < nresults; i++)
		results[i] = AN_NO_VALUE;
	if (b->status != AN_OK)
		return b->status;
	if (op < 0 || op >= OP_COUNT)
		return b->status = fail(ctx_of(b), AN_USAGE, "there is no operation number %d", op);
	if (nresults < 1 || nresults > RESULTS_MAX)
		return b->status = fail(ctx_of(b), AN_USAGE, "%s: %d results asked for, 1 to %d are possible",
					op_table[op].name, nresults, RESULTS_MAX);
	an_dtype dtype = first_dtype(b, args, nargs);
	mil_use use[OP_MAX_PARAMS] = {0};
	an_value single[OP_MAX_PARAMS];
	for (int i = 0; i < nargs; i++) {
		int p = op_param_index(op, args[i].param);
		if (p < 0)
			return b->status = fail(ctx_of(b), AN_USAGE, "%s has no parameter %s",
						op_table[op].name, args[i].param);
		if (args[i].kind == AN_ARG_VALUES) {
			use[p] = (mil_use){(uint32_t)MAX(args[i].n, 0), true, (an_value *)args[i].u.values};
			continue;
		}
		single[p] = argument(b, op, &args[i], dtype);
		if (b->status != AN_OK)
			return b->status;
		use[p] = (mil_use){1, false, &single[p]};
	}
	const char *names[RESULTS_MAX];
	const char *base = name ? name : op_table[op].name;
	for (int i = 0; i < nresults; i++) {
		char numbered[256];
		snprintf(numbered, sizeof numbered, "%s_%d", base, i);
		if (!(names[i] = fresh(b, nresults == 1 ? base : numbered)))
			return b->status;
	}
	return b->status = fn_append(b->f, op, NULL, use, NULL, 0, names, nresults, results);
}

/* ---- The common ones ------------------------------------------------------------------- */

static an_value emit1(an_builder *b, const char *name, const an_arg *args, int nargs)
{
	an_value v = AN_NO_VALUE;
	an_opcode op = an_op_find(name);
	if (b->status == AN_OK && op < 0)
		return failed(b, fail(ctx_of(b), AN_USAGE, "there is no operation \"%s\"", name));
	an_emit(b, op, NULL, args, nargs, &v, 1);
	return v;
}

#define EMIT(op, ...) emit1(b, op, (const an_arg[]){__VA_ARGS__}, LENGTH(((const an_arg[]){__VA_ARGS__})))
#define VALUE(param, v)                                \
	{                                              \
		param, AN_ARG_VALUE, 1, { .value = v } \
	}
#define INTS(param, count, v)                            \
	{                                                \
		param, AN_ARG_INTS, count, { .ints = v } \
	}
#define INT(param, v)                            \
	{                                        \
		param, AN_ARG_INT, 1, { .i = v } \
	}
#define BOOL(param, v)                            \
	{                                         \
		param, AN_ARG_BOOL, 1, { .b = v } \
	}

an_value an_unary(an_builder *b, const char *op, an_value x) { return EMIT(op, VALUE("x", x)); }
an_value an_binary(an_builder *b, const char *op, an_value x, an_value y)
{
	return EMIT(op, VALUE("x", x), VALUE("y", y));
}
an_value an_add(an_builder *b, an_value x, an_value y) { return an_binary(b, "add", x, y); }
an_value an_sub(an_builder *b, an_value x, an_value y) { return an_binary(b, "sub", x, y); }
an_value an_mul(an_builder *b, an_value x, an_value y) { return an_binary(b, "mul", x, y); }

an_value an_scale(an_builder *b, an_value x, double factor)
{
	return EMIT("mul", VALUE("x", x), {"y", AN_ARG_FLOAT, 1, {.f = factor}});
}

an_value an_matmul(an_builder *b, an_value x, an_value y, bool transpose_x, bool transpose_y)
{
	return EMIT("matmul", VALUE("x", x), VALUE("y", y), BOOL("transpose_x", transpose_x),
		    BOOL("transpose_y", transpose_y));
}

an_value an_softmax(an_builder *b, an_value x, int axis)
{
	return EMIT("softmax", VALUE("x", x), INT("axis", axis));
}

an_value an_reduce(an_builder *b, const char *op, an_value x, int axis, bool keep_dims)
{
	int32_t a = axis;
	return EMIT(op, VALUE("x", x), INTS("axes", 1, &a), BOOL("keep_dims", keep_dims));
}

an_value an_reshape(an_builder *b, an_value x, int rank, const int32_t *shape)
{
	return EMIT("reshape", VALUE("x", x), INTS("shape", rank, shape));
}

an_value an_transpose(an_builder *b, an_value x, int rank, const int32_t *perm)
{
	return EMIT("transpose", VALUE("x", x), INTS("perm", rank, perm));
}

an_value an_slice(an_builder *b, an_value x, int axis, int begin, int size)
{
	int32_t from[AN_MAX_RANK] = {0}, count[AN_MAX_RANK];
	if (b->status != AN_OK)
		return AN_NO_VALUE;
	const an_type *t = an_value_type(b->f, x);
	if (!t || axis < 0 || axis >= t->rank)
		return failed(b, fail(ctx_of(b), AN_USAGE, "slice: there is no axis %d", axis));
	int rank = t->rank;
	memcpy(count, t->dim, sizeof count);
	from[axis] = begin;
	count[axis] = size;
	return EMIT("slice_by_size", VALUE("x", x), INTS("begin", rank, from), INTS("size", rank, count));
}

an_value an_concat(an_builder *b, const an_value *xs, int n, int axis)
{
	return EMIT("concat", {"values", AN_ARG_VALUES, n, {.values = xs}}, INT("axis", axis),
		    BOOL("interleave", false));
}

an_value an_cast(an_builder *b, an_value x, an_dtype dtype)
{
	return EMIT("cast", VALUE("x", x), {"dtype", AN_ARG_STRING, 1, {.s = an_dtype_name(dtype)}});
}
