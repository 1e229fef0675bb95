/* Constant arguments, and operations' parameters in the normal form that inference, autodiff
 * and the devices share. */
#include "mil/infer.h"
#include "base/half.h"

#include <math.h>
#include <stdlib.h>

/* ---- Constants ------------------------------------------------------------------ */

const mil_literal *op_attr(const mil_op *op, const char *key)
{
	for (uint32_t i = 0; i < op->nattrs; i++)
		if (strcmp(op->attrs[i].key, key) == 0)
			return &op->attrs[i].lit;
	return NULL;
}

bool fn_is_const(const an_function *f, an_value v)
{
	const mil_op *def = fn_def(f, v);
	return def && op_table[def->op].cls == OC_CONST;
}

const mil_literal *fn_const(const an_function *f, an_value v)
{
	const mil_op *def = fn_def(f, v);
	if (!def || def->op != OP_CONST)
		return NULL;
	const mil_literal *lit = op_attr(def, "val");
	return lit && (lit->bytes || lit->strings) ? lit : NULL;
}

#define LOAD(type)                                                                      \
	({                                                                              \
		type v_;                                                                \
		memcpy(&v_, (const char *)l->bytes + (size_t)i * sizeof v_, sizeof v_); \
		v_;                                                                     \
	})
double lit_number(const mil_literal *l, int64_t i)
{
	switch (l->type.dtype) {
	case AN_FP16: return half_to_float(LOAD(half));
	case AN_BF16: return bfloat_to_float(LOAD(bfloat));
	case AN_FP32: return LOAD(float);
	case AN_INT8: return LOAD(int8_t);
	case AN_BOOL:
	case AN_UINT8: return LOAD(uint8_t);
	case AN_INT16: return LOAD(int16_t);
	case AN_UINT16: return LOAD(uint16_t);
	case AN_INT32: return LOAD(int32_t);
	case AN_UINT32: return LOAD(uint32_t);
	case AN_INT64: return (double)LOAD(int64_t);
	case AN_UINT64: return (double)LOAD(uint64_t);
	default: return 0;
	}
}

enum { ARG_ABSENT = -1, ARG_NOT_CONST = -2, ARG_TOO_MANY = -3, ARG_OUT_OF_RANGE = -4 };

static int read_ints(const an_function *f, const mil_op *op, int p, int32_t *out, int max)
{
	an_value v = p < 0 ? AN_NO_VALUE : op_arg(op, p);
	if (v == AN_NO_VALUE) {
		const char *text = p < 0 ? NULL : op_table[op->op].param[p].fallback;
		if (!text || max < 1)
			return ARG_ABSENT;
		out[0] = strcmp(text, "true") == 0 ? 1 : (int32_t)strtol(text, NULL, 10);
		return 1;
	}
	const mil_literal *l = fn_const(f, v);
	if (!l || !op_kind_takes(PK_INT | PK_BOOL, l->type.dtype))
		return ARG_NOT_CONST;
	int64_t n = an_type_count(&l->type);
	if (n > max)
		return ARG_TOO_MANY;
	for (int i = 0; i < n; i++) {
		double x = lit_number(l, i);
		if (x > INT32_MAX)
			return ARG_OUT_OF_RANGE;
		out[i] = (int32_t)x;
	}
	return (int)n;
}

int fn_arg_ints(const an_function *f, const mil_op *op, const char *param, int32_t *out, int max)
{
	return read_ints(f, op, op_param_index(op->op, param), out, max);
}

int32_t fn_arg_int(const an_function *f, const mil_op *op, const char *param)
{
	int32_t v = 0;
	return fn_arg_ints(f, op, param, &v, 1) == 1 ? v : 0;
}

bool fn_arg_bool(const an_function *f, const mil_op *op, const char *param)
{
	return fn_arg_int(f, op, param) != 0;
}

double fn_arg_float(const an_function *f, const mil_op *op, const char *param)
{
	an_value v = fn_arg_value(f, op, param);
	if (v != AN_NO_VALUE) {
		const mil_literal *l = fn_const(f, v);
		return l && l->bytes ? lit_number(l, 0) : 0;
	}
	int p = op_param_index(op->op, param);
	const char *text = p < 0 ? NULL : op_table[op->op].param[p].fallback;
	double x = 0;
	if (text) /* the table's own text, which is well-formed */
		mil_parse_double(text, strlen(text), &x);
	return x;
}

const char *fn_arg_string(const an_function *f, const mil_op *op, const char *param)
{
	an_value v = fn_arg_value(f, op, param);
	if (v != AN_NO_VALUE) {
		const mil_literal *l = fn_const(f, v);
		return l && l->strings && an_type_count(&l->type) == 1 ? l->strings[0] : NULL;
	}
	int p = op_param_index(op->op, param);
	return p < 0 ? NULL : op_table[op->op].param[p].fallback;
}

an_value fn_arg_value(const an_function *f, const mil_op *op, const char *param)
{
	(void)f;
	int p = op_param_index(op->op, param);
	return p < 0 ? AN_NO_VALUE : op_arg(op, p);
}

/* ---- What inference reads -------------------------------------------------------- */

const an_type *infer_type(const mil_infer *in, const char *param)
{
	an_value v = fn_arg_value(in->f, in->op, param);
	return v == AN_NO_VALUE ? NULL : &in->f->values[v].type;
}

an_status infer_ints(mil_infer *in, const char *param, int32_t *out, int max, int *n)
{
	const an_type *t = infer_type(in, param);
	if (t && t->rank > 1)
		return infer_fail(in, param, "must be a list, but has rank %d", t->rank);
	*n = fn_arg_ints(in->f, in->op, param, out, max);
	switch (*n) {
	case ARG_NOT_CONST:
		return infer_unsupported(in, param,
					 "must be written in the text: its value decides about types");
	case ARG_TOO_MANY: return infer_fail(in, param, "has %d elements, at most %d fit", t->dim[0], max);
	case ARG_OUT_OF_RANGE: return infer_fail(in, param, "does not fit into int32");
	default: return AN_OK;
	}
}

an_status infer_axis(mil_infer *in, const char *param, int rank, int *axis)
{
	int32_t a = 0;
	int n = 0;
	TRY(infer_ints(in, param, &a, 1, &n));
	if (a < -rank || a >= rank)
		return infer_fail(in, param, "is %d, must be in [%d, %d) for rank %d", a, -rank, rank, rank);
	*axis = a < 0 ? a + rank : a;
	return AN_OK;
}

/* ---- Slices ---------------------------------------------------------------------- */

/* A list with one entry per axis of x. Absent: all `absent`. */
static an_status per_axis(mil_infer *in, const char *param, int rank, int32_t absent, int32_t *out)
{
	int n = 0;
	TRY(infer_ints(in, param, out, AN_MAX_RANK, &n));
	if (n < 0) {
		for (int i = 0; i < rank; i++)
			out[i] = absent;
		return AN_OK;
	}
	if (n != rank)
		return infer_fail(in, param, "has %d elements, x has rank %d", n, rank);
	return AN_OK;
}

/* coremltools solve_slice_by_index_shape: negative positions count from the end, positions
 * outside are clamped, masks stand for "from the first" and "to the last". */
static an_status slice_by_index(mil_infer *in, const an_type *x, slice_spec *s)
{
	int32_t begin[AN_MAX_RANK], end[AN_MAX_RANK], step[AN_MAX_RANK];
	int32_t begin_mask[AN_MAX_RANK], end_mask[AN_MAX_RANK], squeeze[AN_MAX_RANK];
	TRY(per_axis(in, "begin", x->rank, 0, begin));
	TRY(per_axis(in, "end", x->rank, 0, end));
	TRY(per_axis(in, "stride", x->rank, 1, step));
	TRY(per_axis(in, "begin_mask", x->rank, 0, begin_mask));
	TRY(per_axis(in, "end_mask", x->rank, 0, end_mask));
	TRY(per_axis(in, "squeeze_mask", x->rank, 0, squeeze));
	for (int i = 0; i < x->rank; i++) {
		int64_t d = x->dim[i], b = begin[i], e = end[i], st = step[i];
		if (st == 0)
			return infer_fail(in, "stride", "is 0 on axis %d", i);
		if (squeeze[i]) { /* one element, x[begin]; end does not matter */
			b = begin_mask[i] ? 0 : b < 0 ? b + d : b;
			if (b < 0 || b >= d)
				return infer_fail(in, "begin", "is %d on axis %d, which has length %d",
						  begin[i], i, x->dim[i]);
			s->begin[i] = (int32_t)b;
			s->count[i] = s->step[i] = 1;
			s->squeeze[i] = true;
			continue;
		}
		int64_t low = st > 0 ? 0 : -1, high = st > 0 ? d : d - 1;
		b = begin_mask[i] ? (st > 0 ? 0 : d - 1) : b < 0 ? b + d : b;
		e = end_mask[i] ? (st > 0 ? d : -1) : e < 0 ? e + d : e;
		b = MIN(MAX(b, low), high);
		e = MIN(MAX(e, low), high);
		int64_t n = st > 0 ? (e - b + st - 1) / st : (b - e - st - 1) / -st;
		if (n < 1)
			return infer_fail(
			    in, "begin",
			    "[%d, %d) with stride %d selects nothing of axis %d, which has length %d",
			    begin[i], end[i], step[i], i, x->dim[i]);
		s->begin[i] = (int32_t)b;
		s->count[i] = (int32_t)n;
		s->step[i] = n == 1 ? 1 : step[i];
	}
	return AN_OK;
}

static an_status slice_by_size(mil_infer *in, const an_type *x, slice_spec *s)
{
	int32_t size[AN_MAX_RANK];
	TRY(per_axis(in, "begin", x->rank, 0, s->begin));
	TRY(per_axis(in, "size", x->rank, -1, size));
	for (int i = 0; i < x->rank; i++) {
		int64_t d = x->dim[i], b = s->begin[i] < 0 ? s->begin[i] + d : s->begin[i];
		if (b < 0 || b >= d)
			return infer_fail(in, "begin", "is %d on axis %d, which has length %d", s->begin[i],
					  i, x->dim[i]);
		int64_t n = size[i] == -1 ? d - b : size[i];
		if (n < 1 || n > d - b)
			return infer_fail(in, "size",
					  "is %d on axis %d, of which %d elements are left from %d on",
					  size[i], i, (int)(d - b), (int)b);
		s->begin[i] = (int32_t)b;
		s->count[i] = (int32_t)n;
		s->step[i] = 1;
	}
	return AN_OK;
}

an_status spec_slice(mil_infer *in, slice_spec *out)
{
	*out = (slice_spec){0};
	const an_type *x = infer_type(in, "x");
	return in->op->op == OP_SLICE_BY_SIZE ? slice_by_size(in, x, out) : slice_by_index(in, x, out);
}

/* ---- Reductions ------------------------------------------------------------------ */

an_status spec_reduce(mil_infer *in, uint32_t *mask, bool *keep)
{
	const an_type *x = infer_type(in, "x");
	int32_t axes[AN_MAX_RANK];
	int n = 0;
	*mask = 0;
	*keep = op_param_index(in->op->op, "keep_dims") >= 0 && fn_arg_bool(in->f, in->op, "keep_dims");
	TRY(infer_ints(in, "axes", axes, AN_MAX_RANK, &n));
	if (n < 0) {
		*mask = (1u << x->rank) - 1;
		return AN_OK;
	}
	for (int i = 0; i < n; i++) {
		if (axes[i] < -x->rank || axes[i] >= x->rank)
			return infer_fail(in, "axes", "contains %d, must be in [%d, %d) for rank %d", axes[i],
					  -x->rank, x->rank, x->rank);
		uint32_t bit = 1u << (axes[i] < 0 ? axes[i] + x->rank : axes[i]);
		if (*mask & bit)
			return infer_fail(in, "axes", "names axis %d twice", axes[i]);
		*mask |= bit;
	}
	return AN_OK;
}

/* ---- Contractions ---------------------------------------------------------------- */

/* numpy.matmul: a rank-1 x is a row, a rank-1 y is a column; linear's weight is [n, k]. */
an_status spec_matmul(mil_infer *in, matmul_spec *s)
{
	bool linear = in->op->op == OP_LINEAR;
	const char *second = linear ? "weight" : "y";
	*s = (matmul_spec){.bias = AN_NO_VALUE};
	s->x = fn_arg_value(in->f, in->op, "x");
	s->y = fn_arg_value(in->f, in->op, second);
	const an_type *x = infer_type(in, "x"), *y = infer_type(in, second);
	s->tx = !linear && fn_arg_bool(in->f, in->op, "transpose_x");
	s->ty = linear || fn_arg_bool(in->f, in->op, "transpose_y");
	if (x->rank < 1 || (x->rank == 1 && s->tx))
		return infer_fail(in, "x", x->rank ? "has rank 1 and cannot be transposed" : "is a scalar");
	if (y->rank < 1 || (!linear && y->rank == 1 && s->ty))
		return infer_fail(in, second,
				  y->rank ? "has rank 1 and cannot be transposed" : "is a scalar");
	if (linear && y->rank != 2)
		return infer_fail(in, second, "must be [out, in], but has rank %d", y->rank);
	const int32_t *xd = x->dim + x->rank - 1, *yd = y->dim + y->rank - 1; /* last dims */
	s->m = x->rank == 1 ? 1 : xd[s->tx ? 0 : -1];
	s->k = xd[s->tx ? -1 : 0];
	int32_t ky = y->rank == 1 ? yd[0] : yd[s->ty ? 0 : -1];
	s->n = y->rank == 1 ? 1 : yd[s->ty ? -1 : 0];
	if (s->k != ky)
		return infer_fail(in, second, "has inner dimension %d, x has %d%s", ky, s->k,
				  s->tx || s->ty ? " (after the transposes asked for)" : "");
	if (linear) {
		s->bias = fn_arg_value(in->f, in->op, "bias");
		const an_type *b = infer_type(in, "bias");
		if (b && (b->rank != 1 || b->dim[0] != s->n))
			return infer_fail(in, "bias", "must have shape [%d]", s->n);
	}
	return AN_OK;
}

/* One list entry per spatial axis (or `each` of them); absent: `absent`. */
static an_status spatial(mil_infer *in, const char *param, int count, int32_t absent, int32_t least,
			 int32_t *out)
{
	int n = 0;
	TRY(infer_ints(in, param, out, 4, &n));
	if (n < 0) {
		for (int i = 0; i < count; i++)
			out[i] = absent;
		return AN_OK;
	}
	if (n != count)
		return infer_fail(in, param, "has %d elements, %d are needed", n, count);
	for (int i = 0; i < n; i++)
		if (out[i] < least)
			return infer_fail(in, param, "contains %d, must be at least %d", out[i], least);
	return AN_OK;
}

an_status spec_conv(mil_infer *in, conv_spec *s)
{
	const an_type *x = infer_type(in, "x"), *w = infer_type(in, "weight"), *b = infer_type(in, "bias");
	const char *pad_type = fn_arg_string(in->f, in->op, "pad_type");
	*s = (conv_spec){.x = fn_arg_value(in->f, in->op, "x"),
			 .weight = fn_arg_value(in->f, in->op, "weight"),
			 .bias = fn_arg_value(in->f, in->op, "bias")};
	if (x->rank == 5)
		return infer_unsupported(in, "x", "three-dimensional convolution is not supported");
	if (x->rank < 3)
		return infer_fail(in, "x", "must be [n, c, w] or [n, c, h, w], but has rank %d", x->rank);
	if (w->rank != x->rank)
		return infer_fail(in, "weight", "has rank %d, x has rank %d", w->rank, x->rank);
	int d = x->rank - 2, skip = 2 - d; /* a 1-D convolution is a 2-D one of height 1 */
	int32_t size[2] = {1, 1}, kernel[2] = {1, 1}, out[2], stride[4], dilation[4], pad[4];
	for (int i = 0; i < d; i++) {
		size[skip + i] = x->dim[2 + i];
		kernel[skip + i] = w->dim[2 + i];
	}
	TRY(spatial(in, "strides", d, 1, 1, stride));
	TRY(spatial(in, "dilations", d, 1, 1, dilation));
	TRY(spatial(in, "pad", 2 * d, 0, 0, pad));
	int32_t groups[1];
	TRY(spatial(in, "groups", 1, 1, 1, groups));
	enum { VALID, CUSTOM, SAME, SAME_LOWER } mode;
	static const char *const modes[] = {"valid", "custom", "same", "same_lower"};
	for (mode = VALID; mode <= SAME_LOWER; mode++)
		if (pad_type && strcmp(pad_type, modes[mode]) == 0)
			break;
	if (mode > SAME_LOWER)
		return infer_fail(in, "pad_type", "is \"%s\", must be valid, custom, same or same_lower",
				  pad_type ? pad_type : "?");
	if (mode == CUSTOM && fn_arg_value(in->f, in->op, "pad") == AN_NO_VALUE)
		return infer_fail(in, "pad_type", "is custom, but pad is missing");
	for (int i = 0; i < 2; i++) {
		int j = i - skip; /* index in the lists */
		int64_t st = j < 0 ? 1 : stride[j], di = j < 0 ? 1 : dilation[j], before = 0, after = 0;
		int64_t reach = (kernel[i] - 1) * di + 1;
		if (j >= 0 && mode == CUSTOM) {
			before = pad[2 * j];
			after = pad[2 * j + 1];
		} else if (mode == SAME || mode == SAME_LOWER) { /* output: ceil(size / stride) */
			int64_t total = MAX(0, (size[i] - 1) / st * st + reach - size[i]);
			before = mode == SAME ? total / 2 : total - total / 2;
			after = total - before;
		}
		int64_t room = size[i] + before + after - reach;
		if (room < 0)
			return infer_fail(
			    in, "weight",
			    "reaches over %lld elements of an axis that has %lld with its padding",
			    (long long)reach, (long long)(size[i] + before + after));
		if (room / st + 1 > INT32_MAX || before > INT32_MAX || after > INT32_MAX)
			return infer_fail(in, "pad", "is too large");
		out[i] = (int32_t)(room / st + 1);
		s->stride[i] = (int32_t)st;
		s->dilation[i] = (int32_t)di;
		s->pad[2 * i] = (int32_t)before;
		s->pad[2 * i + 1] = (int32_t)after;
	}
	s->batch = x->dim[0];
	s->in_ch = x->dim[1];
	s->out_ch = w->dim[0];
	s->groups = groups[0];
	s->h = size[0], s->w = size[1], s->kh = kernel[0], s->kw = kernel[1], s->oh = out[0], s->ow = out[1];
	if (s->in_ch % s->groups || s->out_ch % s->groups)
		return infer_fail(in, "groups",
				  "is %d, which does not divide %d input and %d output channels", s->groups,
				  s->in_ch, s->out_ch);
	if (w->dim[1] != s->in_ch / s->groups)
		return infer_fail(in, "weight", "has %d input channels per group, x has %d / %d", w->dim[1],
				  s->in_ch, s->groups);
	if (b && (b->rank != 1 || b->dim[0] != s->out_ch))
		return infer_fail(in, "bias", "must have shape [%d]", s->out_ch);
	return AN_OK;
}

/* ---- For everyone else ------------------------------------------------------------ */

static an_status report(const mil_infer *in, an_status s)
{
	if (s == AN_OK)
		return AN_OK;
	const op_row *row = &op_table[in->op->op];
	const char *param = in->problem->param < 0 ? "" : row->param[in->problem->param].name;
	return fail(in->f->program->ctx, s, "%s: %s%s%s", row->name, param, *param ? " " : "",
		    in->problem->text);
}

#define SPEC(call)                              \
	mil_problem problem;                    \
	mil_infer in = {f, op, NULL, &problem}; \
	return report(&in, call)

an_status op_slice_spec(const an_function *f, const mil_op *op, slice_spec *out)
{
	SPEC(spec_slice(&in, out));
}
an_status op_reduce_axes(const an_function *f, const mil_op *op, uint32_t *mask, bool *keep)
{
	SPEC(spec_reduce(&in, mask, keep));
}
an_status op_matmul_spec(const an_function *f, const mil_op *op, matmul_spec *out)
{
	SPEC(spec_matmul(&in, out));
}
an_status op_conv_spec(const an_function *f, const mil_op *op, conv_spec *out) { SPEC(spec_conv(&in, out)); }

int64_t op_flops(const an_function *f, const mil_op *op)
{
	mil_problem problem;
	mil_infer in = {f, op, NULL, &problem};
	if (op->op == OP_MATMUL || op->op == OP_LINEAR) {
		matmul_spec s;
		/* the result has every row, column and batch once */
		return spec_matmul(&in, &s) == AN_OK
			   ? 2 * an_type_count(&f->values[op->results[0]].type) * s.k
			   : 0;
	}
	if (op->op == OP_CONV) {
		conv_spec s;
		if (spec_conv(&in, &s) != AN_OK)
			return 0;
		return 2 * an_type_count(&f->values[op->results[0]].type) * (s.in_ch / s.groups) * s.kh *
		       s.kw;
	}
	if (op->op == OP_SCALED_DOT_PRODUCT_ATTENTION) { /* query key^T, then probabilities value */
		const an_type *q = infer_type(&in, "query"), *k = infer_type(&in, "key");
		const an_type *y = &f->values[op->results[0]].type;
		return 2 * (an_type_count(q) + an_type_count(y)) * k->dim[k->rank - 2];
	}
	return 0;
}
