/* Element types, types, the op table. */
#include "mil/infer.h"

#include <stdio.h>

static const struct {
	const char *name;
	size_t size;
} dtypes[AN_DTYPE_COUNT] = {[AN_NO_DTYPE] = {"none", 0},
#define X(id, text, bytes, blob) [AN_##id] = {text, bytes},
			    AN_DTYPE_LIST(X)
#undef X
};

const char *an_dtype_name(an_dtype t) { return (unsigned)t < AN_DTYPE_COUNT ? dtypes[t].name : "none"; }
size_t an_dtype_size(an_dtype t) { return (unsigned)t < AN_DTYPE_COUNT ? dtypes[t].size : 0; }

an_dtype mil_dtype_find(const char *name, size_t len)
{
	for (int t = AN_NO_DTYPE + 1; t < AN_DTYPE_COUNT; t++)
		if (strlen(dtypes[t].name) == len && memcmp(dtypes[t].name, name, len) == 0)
			return (an_dtype)t;
	return AN_NO_DTYPE;
}

an_type an_tensor(an_dtype dtype, int rank, const int32_t *dims)
{
	an_type t = {.dtype = (uint8_t)dtype, .rank = (uint8_t)rank, .tensor = true};
	for (int i = 0; i < MIN(rank, AN_MAX_RANK); i++)
		t.dim[i] = dims[i];
	return t;
}

int64_t an_type_count(const an_type *t)
{
	int64_t n = 1;
	for (int i = 0; i < t->rank; i++)
		n *= t->dim[i];
	return n;
}

size_t an_type_bytes(const an_type *t) { return (size_t)an_type_count(t) * an_dtype_size(t->dtype); }

bool an_type_equal(const an_type *a, const an_type *b)
{
	return a->dtype == b->dtype && a->rank == b->rank &&
	       memcmp(a->dim, b->dim, a->rank * sizeof *a->dim) == 0;
}

bool mil_type_fits(const an_type *t)
{
	int64_t n = 1;
	if (t->rank > AN_MAX_RANK)
		return false;
	for (int i = 0; i < t->rank; i++)
		if (t->dim[i] < 1 || __builtin_mul_overflow(n, (int64_t)t->dim[i], &n) || n > MIL_MAX_COUNT)
			return false;
	return true;
}

const char *an_type_text(const an_type *t, char *buf, size_t size)
{
	const char *name = an_dtype_name(t->dtype);
	if (t->rank == 0 && !t->tensor) {
		snprintf(buf, size, "%s", name);
		return buf;
	}
	int at = snprintf(buf, size, "tensor<%s, [", name);
	for (int i = 0; i < t->rank && at >= 0 && (size_t)at < size; i++)
		at += snprintf(buf + at, size - (size_t)at, "%s%d", i ? ", " : "", t->dim[i]);
	if (at >= 0 && (size_t)at < size)
		snprintf(buf + at, size - (size_t)at, "]>");
	return buf;
}

/* ORDER OP.  Most parameters have no default: the rows leave it out. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
const op_row op_table[OP_COUNT] = {
#define OP(id, text, since, class, rule, words, ...) {text, since, class, rule, words, {__VA_ARGS__}},
#include "mil/ops.def"
#undef OP
};

an_opcode an_op_find(const char *name)
{
	for (int i = 0; i < OP_COUNT; i++)
		if (strcmp(op_table[i].name, name) == 0)
			return i;
	return -1;
}

int an_op_count(void) { return OP_COUNT; }

bool an_op_info(an_opcode op, an_op_description *out)
{
	if (op < 0 || op >= OP_COUNT)
		return false;
	*out = (an_op_description){op_table[op].name, op_table[op].summary, op_table[op].opset, 0};
	while (out->params < OP_MAX_PARAMS && op_table[op].param[out->params].name)
		out->params++;
	return true;
}

bool an_op_param(an_opcode op, int index, an_op_param_description *out)
{
	if (op < 0 || op >= OP_COUNT || index < 0 || index >= OP_MAX_PARAMS ||
	    !op_table[op].param[index].name)
		return false;
	const op_param *p = &op_table[op].param[index];
	*out = (an_op_param_description){.name = p->name,
					 .fallback = p->fallback,
					 .required = !p->fallback && !(p->kind & PK_OPTIONAL),
					 .constant = (p->kind & (PK_CONST | PK_ATTR)) != 0,
					 .list = (p->kind & PK_LIST) != 0};
	static const struct {
		unsigned kind;
		const char *text;
	} kinds[] = {{PK_FLOAT, "float"}, {PK_INT, "int"}, {PK_BOOL, "bool"}, {PK_STRING, "string"}};
	size_t at = 0;
	for (int i = 0; i < LENGTH(kinds); i++)
		if (p->kind & kinds[i].kind)
			at += (size_t)snprintf(out->kinds + at, sizeof out->kinds - at, "%s%s", at ? "|" : "",
					       kinds[i].text);
	return true;
}

int op_param_index(int op, const char *name)
{
	for (int p = 0; p < OP_MAX_PARAMS && op_table[op].param[p].name; p++)
		if (strcmp(op_table[op].param[p].name, name) == 0)
			return p;
	return -1;
}

bool op_kind_takes(unsigned kinds, an_dtype t)
{
	switch (t) {
	case AN_FP16:
	case AN_FP32: return kinds & PK_FLOAT;
	case AN_INT8:
	case AN_UINT8:
	case AN_INT16:
	case AN_UINT16:
	case AN_INT32:
	case AN_UINT32: return kinds & PK_INT;
	case AN_BOOL: return kinds & PK_BOOL;
	case AN_STRING: return kinds & PK_STRING;
	default: return false;
	}
}
