/* Argument checks and result types, one rule per name in ops.def.  The rules are those of
 * coremltools (mil/ops/defs/iOS15 .. iOS18), for shapes that are known and not empty. */
#include "mil/infer.h"

#include <stdio.h>

static an_status problem_at(mil_infer *in, an_status s, const char *param, const char *fmt, va_list ap)
{
	in->problem->status = s;
	in->problem->param = param ? op_param_index(in->op->op, param) : -1;
	vsnprintf(in->problem->text, sizeof in->problem->text, fmt, ap);
	return s;
}

an_status infer_fail(mil_infer *in, const char *param, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	an_status s = problem_at(in, AN_TYPE, param, fmt, ap);
	va_end(ap);
	return s;
}

an_status infer_unsupported(mil_infer *in, const char *param, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	an_status s = problem_at(in, AN_UNSUPPORTED, param, fmt, ap);
	va_end(ap);
	return s;
}

/* ---- Shapes ---------------------------------------------------------------------- */

#define TYPE_TEXT 96
#define TEXT(t)   an_type_text(t, (char[TYPE_TEXT]){0}, TYPE_TEXT)

static an_status result(mil_infer *in, int i, an_dtype dtype, int rank, const int32_t *dims)
{
	if (rank > AN_MAX_RANK)
		return infer_fail(in, NULL, "gives a result of rank %d, at most %d is supported", rank,
				  AN_MAX_RANK);
	an_type t = an_tensor(dtype, rank, dims);
	/* MIL 1.0 has no bare scalars */
	t.tensor = rank > 0 || (in->f->program->version_major == 1 && in->f->program->version_minor < 3);
	in->out[i] = t;
	return AN_OK;
}

static an_status results(mil_infer *in, int n)
{
	if (in->op->nresults != n)
		return infer_fail(in, NULL, "gives %d result%s, %d declared", n, n == 1 ? "" : "s",
				  in->op->nresults);
	return AN_OK;
}

static an_status same_as(mil_infer *in, const an_type *t, an_dtype dtype)
{
	TRY(results(in, 1));
	return result(in, 0, dtype, t->rank, t->dim);
}

/* NumPy's rule: shapes are aligned at their last axis, 1 stretches. */
static bool broadcast(an_type *acc, const an_type *t)
{
	int rank = MAX(acc->rank, t->rank);
	int32_t dim[AN_MAX_RANK];
	for (int i = 1; i <= rank; i++) { /* from the last axis */
		int32_t a = i <= acc->rank ? acc->dim[acc->rank - i] : 1;
		int32_t b = i <= t->rank ? t->dim[t->rank - i] : 1;
		if (a != b && a != 1 && b != 1)
			return false;
		dim[rank - i] = a == 1 ? b : a;
	}
	acc->rank = (uint8_t)rank;
	memcpy(acc->dim, dim, (size_t)rank * sizeof *dim);
	return true;
}

static an_status broadcast_with(mil_infer *in, an_type *acc, const char *param, const char *other)
{
	const an_type *t = infer_type(in, param);
	an_type before = *acc;
	if (!broadcast(acc, t))
		return infer_fail(in, param, "of type %s does not broadcast with %s of type %s", TEXT(t),
				  other, TEXT(&before));
	return AN_OK;
}

/* Constants that must have one element (or be absent). */
static an_status scalar(mil_infer *in, const char *param)
{
	const an_type *t = infer_type(in, param);
	if (t && an_type_count(t) != 1)
		return infer_fail(in, param, "must be a scalar, is %s", TEXT(t));
	return AN_OK;
}

static an_status one_of(mil_infer *in, const char *param, const char *const *words, int n, int *index)
{
	const char *s = fn_arg_string(in->f, in->op, param);
	char list[160] = "";
	*index = 0;
	for (int i = 0; i < n; i++) {
		if (s && strcmp(s, words[i]) == 0) {
			*index = i;
			return AN_OK;
		}
		size_t at = strlen(list);
		snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "", words[i]);
	}
	return infer_fail(in, param, "is \"%.40s\", must be one of: %s", s ? s : "?", list);
}

/* ---- Constants ------------------------------------------------------------------- */

an_status infer_const(mil_infer *in)
{
	const mil_literal *val = op_attr(in->op, "val");
	TRY(results(in, 1));
	in->out[0] = val->type;
	return AN_OK;
}

/* scale and zero_point: scalars, or one per element of `axis`. */
static an_status per_channel(mil_infer *in, const char *param, const an_type *t, const an_type *data,
			     int axis, bool has_axis)
{
	if (!t || t->rank == 0)
		return AN_OK;
	if (t->rank != 1)
		return infer_fail(in, param, "must be a scalar or a list, is %s", TEXT(t));
	if (!has_axis)
		return infer_fail(in, param, "is a list, but there is no axis");
	if (t->dim[0] != data->dim[axis])
		return infer_fail(in, param, "has %d elements, axis %d has %d", t->dim[0], axis,
				  data->dim[axis]);
	return AN_OK;
}

an_status infer_affine_dequantize(mil_infer *in)
{
	const mil_literal *q = op_attr(in->op, "quantized_data"), *z = op_attr(in->op, "zero_point");
	const mil_literal *s = op_attr(in->op, "scale"), *a = op_attr(in->op, "axis");
	TRY(results(in, 1));
	if (q->type.dtype != AN_INT8 && q->type.dtype != AN_UINT8)
		return infer_fail(in, "quantized_data", "must be int8 or uint8, is %s", TEXT(&q->type));
	if (z->type.dtype != q->type.dtype)
		return infer_fail(in, "zero_point", "must be %s like quantized_data, is %s",
				  an_dtype_name(q->type.dtype), TEXT(&z->type));
	if (an_type_count(&a->type) != 1 || !a->bytes)
		return infer_fail(in, "axis", "must be a scalar");
	double axis = lit_number(a, 0);
	int rank = q->type.rank;
	if (axis < -rank || axis >= MAX(rank, 1))
		return infer_fail(in, "axis", "is %g, must be in [%d, %d)", axis, -rank, rank);
	int at = (int)axis < 0 ? (int)axis + rank : (int)axis;
	TRY(per_channel(in, "scale", &s->type, &q->type, at, rank > 0));
	TRY(per_channel(in, "zero_point", &z->type, &q->type, at, rank > 0));
	return result(in, 0, s->type.dtype, rank, q->type.dim);
}

/* ---- Elementwise ----------------------------------------------------------------- */

static an_status binary(mil_infer *in, an_dtype dtype)
{
	const an_type *x = infer_type(in, "x");
	an_type t = *x;
	TRY(broadcast_with(in, &t, "y", "x"));
	return same_as(in, &t, dtype == AN_NO_DTYPE ? x->dtype : dtype);
}

an_status infer_binary(mil_infer *in) { return binary(in, AN_NO_DTYPE); }
an_status infer_compare(mil_infer *in) { return binary(in, AN_BOOL); }

an_status infer_select(mil_infer *in)
{
	an_type t = *infer_type(in, "a");
	an_dtype dtype = t.dtype;
	TRY(broadcast_with(in, &t, "b", "a"));
	TRY(broadcast_with(in, &t, "cond", "a and b"));
	return same_as(in, &t, dtype);
}

an_status infer_unary(mil_infer *in)
{
	const an_type *x = infer_type(in, "x");
	for (int p = 1; p < OP_MAX_PARAMS && op_table[in->op->op].param[p].name; p++)
		TRY(scalar(in, op_table[in->op->op].param[p].name));
	if (in->op->op == OP_GELU) {
		static const char *const modes[] = {"EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"};
		int mode;
		TRY(one_of(in, "mode", modes, LENGTH(modes), &mode));
	}
	return same_as(in, x, x->dtype);
}

static const char *const cast_names[] = {"fp16",   "fp32",  "int8",   "uint8", "int16",
					 "uint16", "int32", "uint32", "bool"};

/* A parameter that names a dtype, out of the first `n` of `names`. */
static an_status dtype_named(mil_infer *in, const char *param, const char *const *names, int n, an_dtype *out)
{
	int i;
	TRY(one_of(in, param, names, n, &i));
	*out = mil_dtype_find(names[i], strlen(names[i]));
	return AN_OK;
}

an_status infer_cast(mil_infer *in)
{
	an_dtype dtype;
	TRY(dtype_named(in, "dtype", cast_names, LENGTH(cast_names), &dtype));
	return same_as(in, infer_type(in, "x"), dtype);
}

/* ---- Along axes ------------------------------------------------------------------ */

an_status infer_softmax(mil_infer *in)
{
	const an_type *x = infer_type(in, "x");
	int axis;
	TRY(infer_axis(in, "axis", x->rank, &axis));
	return same_as(in, x, x->dtype);
}

/* x without the axes of mask, or with length 1 there. */
static an_status reduced(mil_infer *in, uint32_t mask, bool keep, an_dtype dtype)
{
	const an_type *x = infer_type(in, "x");
	an_type t = *x;
	t.rank = 0;
	for (int i = 0; i < x->rank; i++)
		if (!(mask >> i & 1))
			t.dim[t.rank++] = x->dim[i];
		else if (keep)
			t.dim[t.rank++] = 1;
	return same_as(in, &t, dtype);
}

an_status infer_reduce(mil_infer *in)
{
	uint32_t mask;
	bool keep;
	TRY(spec_reduce(in, &mask, &keep));
	return reduced(in, mask, keep, infer_type(in, "x")->dtype);
}

static const char *const index_names[] = {"int32", "uint16"};

an_status infer_arg(mil_infer *in)
{
	int axis;
	an_dtype dtype;
	TRY(infer_axis(in, "axis", infer_type(in, "x")->rank, &axis));
	TRY(dtype_named(in, "output_dtype", index_names, LENGTH(index_names), &dtype));
	return reduced(in, 1u << axis, fn_arg_bool(in->f, in->op, "keep_dims"), dtype);
}

an_status infer_topk(mil_infer *in)
{
	an_type t = *infer_type(in, "x");
	int axis, n;
	int32_t k = 1;
	an_dtype dtype;
	TRY(infer_axis(in, "axis", t.rank, &axis));
	TRY(infer_ints(in, "k", &k, 1, &n));
	TRY(dtype_named(in, "output_indices_dtype", index_names, LENGTH(index_names), &dtype));
	if (k < 1 || k > t.dim[axis])
		return infer_fail(in, "k", "is %d, must be in [1, %d]", k, t.dim[axis]);
	t.dim[axis] = k;
	bool indices = fn_arg_bool(in->f, in->op, "return_indices");
	TRY(results(in, indices ? 2 : 1));
	TRY(result(in, 0, t.dtype, t.rank, t.dim));
	return indices ? result(in, 1, dtype, t.rank, t.dim) : AN_OK;
}

an_status infer_layer_norm(mil_infer *in)
{
	const an_type *x = infer_type(in, "x");
	uint32_t mask;
	bool keep;
	TRY(spec_reduce(in, &mask, &keep));
	TRY(scalar(in, "epsilon"));
	an_type want = *x;
	want.rank = 0;
	for (int i = 0; i < x->rank; i++)
		if (mask >> i & 1)
			want.dim[want.rank++] = x->dim[i];
	static const char *const affine[] = {"gamma", "beta"};
	for (int i = 0; i < 2; i++) {
		const an_type *t = infer_type(in, affine[i]);
		if (!t)
			continue;
		want.dtype = t->dtype;
		if (!an_type_equal(t, &want))
			return infer_fail(in, affine[i],
					  "must have the lengths of the axes normalised, %s; is %s",
					  TEXT(&want), TEXT(t));
	}
	return same_as(in, x, x->dtype);
}

/* ---- Contractions ---------------------------------------------------------------- */

an_status infer_matmul(mil_infer *in)
{
	matmul_spec s;
	TRY(spec_matmul(in, &s));
	const an_type *x = infer_type(in, "x"), *y = infer_type(in, "y");
	an_type bx = *x, by = *y;
	bx.rank = (uint8_t)MAX(0, x->rank - 2);
	by.rank = (uint8_t)MAX(0, y->rank - 2);
	if (!broadcast(&bx, &by))
		return infer_fail(in, "y",
				  "of type %s has batch axes that do not broadcast with x of type %s",
				  TEXT(y), TEXT(x));
	if (x->rank > 1)
		bx.dim[bx.rank++] = s.m;
	if (y->rank > 1)
		bx.dim[bx.rank++] = s.n;
	return same_as(in, &bx, x->dtype);
}

an_status infer_linear(mil_infer *in)
{
	matmul_spec s;
	TRY(spec_matmul(in, &s));
	an_type t = *infer_type(in, "x");
	t.dim[t.rank - 1] = s.n;
	return same_as(in, &t, t.dtype);
}

an_status infer_conv(mil_infer *in)
{
	conv_spec s;
	TRY(spec_conv(in, &s));
	an_type t = *infer_type(in, "x");
	t.dim[1] = s.out_ch;
	t.dim[t.rank - 1] = s.ow;
	if (t.rank == 4)
		t.dim[2] = s.oh;
	return same_as(in, &t, t.dtype);
}

/* query [batch..., L, E], key [batch..., S, E], value [batch..., S, V] -> [batch..., L, V];
 * attn_mask broadcasts to [batch..., L, S]. */
an_status infer_sdpa(mil_infer *in)
{
	const an_type *q = infer_type(in, "query"), *k = infer_type(in, "key"), *v = infer_type(in, "value");
	const an_type *mask = infer_type(in, "attn_mask");
	int r = q->rank;
	if (r < 3)
		return infer_fail(in, "query", "must have rank 3 or more, is %s", TEXT(q));
	if (k->rank != r || v->rank != r)
		return infer_fail(in, k->rank != r ? "key" : "value", "must have rank %d like query", r);
	for (int i = 0; i < r - 2; i++)
		if (k->dim[i] != q->dim[i] || v->dim[i] != q->dim[i])
			return infer_fail(in, k->dim[i] != q->dim[i] ? "key" : "value",
					  "must have length %d on axis %d like query", q->dim[i], i);
	if (k->dim[r - 1] != q->dim[r - 1])
		return infer_fail(in, "key", "has embedding size %d, query has %d", k->dim[r - 1],
				  q->dim[r - 1]);
	if (v->dim[r - 2] != k->dim[r - 2])
		return infer_fail(in, "value", "has %d positions, key has %d", v->dim[r - 2], k->dim[r - 2]);
	an_type scores = *q, y = *q;
	scores.dim[r - 1] = k->dim[r - 2];
	y.dim[r - 1] = v->dim[r - 1];
	an_type b = scores;
	if (mask && (!broadcast(&b, mask) || !an_type_equal(&b, &scores)))
		return infer_fail(in, "attn_mask", "of type %s does not broadcast to the scores, %s",
				  TEXT(mask), TEXT(&scores));
	if (mask && mask->dtype != AN_BOOL && mask->dtype != q->dtype)
		return infer_fail(in, "attn_mask", "must be bool or %s, is %s", an_dtype_name(q->dtype),
				  TEXT(mask));
	return same_as(in, &y, q->dtype);
}

/* ---- Moving elements --------------------------------------------------------------- */

an_status infer_reshape(mil_infer *in)
{
	const an_type *x = infer_type(in, "x");
	int32_t dim[AN_MAX_RANK];
	int n, open = -1;
	const an_type *list = infer_type(in, "shape");
	if (list->rank == 1 && list->dim[0] > AN_MAX_RANK)
		return infer_fail(in, "shape", "has %d axes, at most %d are supported", list->dim[0],
				  AN_MAX_RANK);
	TRY(infer_ints(in, "shape", dim, AN_MAX_RANK, &n));
	int64_t have = an_type_count(x), want = 1;
	for (int i = 0; i < n; i++) {
		if (dim[i] == 0) {
			if (n != x->rank)
				return infer_fail(
				    in, "shape", "contains 0, which needs as many axes as x has (%d), not %d",
				    x->rank, n);
			dim[i] = x->dim[i];
		} else if (dim[i] == -1 && open < 0) {
			open = i;
			continue;
		} else if (dim[i] < 0) {
			return infer_fail(in, "shape", dim[i] == -1 ? "contains -1 twice" : "contains %d",
					  dim[i]);
		}
		if (__builtin_mul_overflow(want, (int64_t)dim[i], &want) || want > MIL_MAX_COUNT)
			return infer_fail(in, "shape", "is too large");
	}
	if (open >= 0 && have % want == 0 && have / want <= INT32_MAX) {
		dim[open] = (int32_t)(have / want);
		want = have;
	}
	if (want != have)
		return infer_fail(in, "shape", "%s %lld elements, x of type %s has %lld",
				  open >= 0 ? "makes multiples of" : "has", (long long)want, TEXT(x),
				  (long long)have);
	TRY(results(in, 1));
	return result(in, 0, x->dtype, n, dim);
}

an_status infer_transpose(mil_infer *in)
{
	const an_type *x = infer_type(in, "x");
	int32_t perm[AN_MAX_RANK], dim[AN_MAX_RANK];
	int n;
	uint32_t seen = 0;
	TRY(infer_ints(in, "perm", perm, AN_MAX_RANK, &n));
	if (n != x->rank)
		return infer_fail(in, "perm", "has %d elements, x has rank %d", n, x->rank);
	for (int i = 0; i < n; i++) {
		int a = perm[i] < 0 ? perm[i] + n : perm[i];
		if (a < 0 || a >= n || (seen >> a & 1))
			return infer_fail(in, "perm", "is not a permutation: %d at position %d", perm[i], i);
		seen |= 1u << a;
		dim[i] = x->dim[a];
	}
	TRY(results(in, 1));
	return result(in, 0, x->dtype, n, dim);
}

an_status infer_expand_dims(mil_infer *in)
{
	const an_type *x = infer_type(in, "x");
	int32_t axes[AN_MAX_RANK], dim[AN_MAX_RANK];
	int n;
	uint32_t mask = 0;
	TRY(infer_ints(in, "axes", axes, AN_MAX_RANK, &n));
	int rank = x->rank + n;
	if (rank > AN_MAX_RANK)
		return infer_fail(in, "axes", "gives a result of rank %d, at most %d is supported", rank,
				  AN_MAX_RANK);
	for (int i = 0; i < n; i++) {
		int a = axes[i] < 0 ? axes[i] + rank : axes[i];
		if (a < 0 || a >= rank || (mask >> a & 1))
			return infer_fail(in, "axes",
					  a >= 0 && a < rank ? "names axis %d twice"
							     : "contains %d, out of range",
					  axes[i]);
		mask |= 1u << a;
	}
	for (int i = 0, j = 0; i < rank; i++)
		dim[i] = mask >> i & 1 ? 1 : x->dim[j++];
	TRY(results(in, 1));
	return result(in, 0, x->dtype, rank, dim);
}

/* Axes that are named but longer than 1 stay (coremltools follows PyTorch here). */
an_status infer_squeeze(mil_infer *in)
{
	const an_type *x = infer_type(in, "x");
	uint32_t mask = 0, named;
	bool keep;
	TRY(spec_reduce(in, &named, &keep));
	for (int i = 0; i < x->rank; i++)
		if ((named >> i & 1) && x->dim[i] == 1)
			mask |= 1u << i;
	return reduced(in, mask, false, x->dtype);
}

an_status infer_slice(mil_infer *in)
{
	const an_type *x = infer_type(in, "x");
	slice_spec s;
	TRY(spec_slice(in, &s));
	an_type t = *x;
	t.rank = 0;
	for (int i = 0; i < x->rank; i++)
		if (!s.squeeze[i])
			t.dim[t.rank++] = s.count[i];
	return same_as(in, &t, x->dtype);
}

static const an_type *list_item(const mil_infer *in, uint32_t i)
{
	return &in->f->values[in->op->arg[0].v[i]].type;
}

an_status infer_concat(mil_infer *in)
{
	an_type t = *list_item(in, 0);
	int axis;
	TRY(infer_axis(in, "axis", t.rank, &axis));
	bool interleave = fn_arg_bool(in->f, in->op, "interleave");
	int64_t sum = 0;
	for (uint32_t i = 0; i < in->op->arg[0].n; i++) {
		const an_type *v = list_item(in, i);
		an_type other = *v;
		if (other.rank == t.rank && !interleave)
			other.dim[axis] = t.dim[axis];
		if (!an_type_equal(&other, &t))
			return infer_fail(in, "values",
					  "number %u is %s, which does not go with %s along axis %d%s", i + 1,
					  TEXT(v), TEXT(&t), axis, interleave ? " interleaved" : "");
		sum += v->dim[axis];
	}
	if (sum > INT32_MAX)
		return infer_fail(in, "values", "are too long together");
	t.dim[axis] = (int32_t)sum;
	return same_as(in, &t, t.dtype);
}

an_status infer_stack(mil_infer *in)
{
	const an_type *t = list_item(in, 0);
	int32_t dim[AN_MAX_RANK];
	int axis;
	uint32_t n = in->op->arg[0].n;
	TRY(infer_axis(in, "axis", t->rank + 1, &axis));
	for (uint32_t i = 1; i < n; i++)
		if (!an_type_equal(list_item(in, i), t))
			return infer_fail(in, "values", "number %u is %s, the first is %s", i + 1,
					  TEXT(list_item(in, i)), TEXT(t));
	if (t->rank == AN_MAX_RANK || n > INT32_MAX)
		return infer_fail(in, "values", "make a result that is too large");
	for (int i = 0, j = 0; i <= t->rank; i++)
		dim[i] = i == axis ? (int32_t)n : t->dim[j++];
	TRY(results(in, 1));
	return result(in, 0, t->dtype, t->rank + 1, dim);
}

an_status infer_split(mil_infer *in)
{
	an_type t = *infer_type(in, "x");
	an_value sizes = fn_arg_value(in->f, in->op, "split_sizes");
	int axis, n;
	int32_t count = 0;
	TRY(infer_axis(in, "axis", t.rank, &axis));
	int32_t length = t.dim[axis];
	TRY(infer_ints(in, "num_splits", &count, 1, &n));
	if (n >= 0 && count < 1)
		return infer_fail(in, "num_splits", "is %d", count);
	if (sizes == AN_NO_VALUE) {
		if (n < 0)
			return infer_fail(in, NULL, "needs num_splits or split_sizes");
		if (length % count)
			return infer_fail(in, "num_splits",
					  "is %d, which does not divide axis %d of length %d", count, axis,
					  length);
		TRY(results(in, count));
		t.dim[axis] = length / count;
		for (int i = 0; i < count; i++)
			TRY(result(in, i, t.dtype, t.rank, t.dim));
		return AN_OK;
	}
	const mil_literal *l = fn_const(in->f, sizes);
	if (!l)
		return infer_unsupported(in, "split_sizes",
					 "must be written in the text: its value decides about types");
	int64_t total = 0, parts = an_type_count(&l->type);
	if (l->type.rank > 1)
		return infer_fail(in, "split_sizes", "must be a list, but has rank %d", l->type.rank);
	if (n >= 0 && count != parts)
		return infer_fail(in, "split_sizes", "has %lld elements, num_splits is %d", (long long)parts,
				  count);
	TRY(results(in, (int)parts));
	for (int i = 0; i < parts; i++) {
		double size = lit_number(l, i);
		if (size < 1 || size > length)
			return infer_fail(in, "split_sizes", "contains %g, axis %d has length %d", size, axis,
					  length);
		t.dim[axis] = (int32_t)size;
		total += t.dim[axis];
		TRY(result(in, i, t.dtype, t.rank, t.dim));
	}
	if (total != length)
		return infer_fail(in, "split_sizes", "add up to %lld, axis %d has length %d",
				  (long long)total, axis, length);
	return AN_OK;
}

/* pad holds (before, after) of the last axes. */
an_status infer_pad(mil_infer *in)
{
	static const char *const modes[] = {"constant", "reflect", "replicate"};
	an_type t = *infer_type(in, "x");
	int32_t pad[2 * AN_MAX_RANK];
	int n, mode;
	TRY(infer_ints(in, "pad", pad, 2 * AN_MAX_RANK, &n));
	TRY(one_of(in, "mode", modes, LENGTH(modes), &mode));
	TRY(scalar(in, "constant_val"));
	if (n % 2 || n / 2 > t.rank)
		return infer_fail(in, "pad",
				  "has %d elements, must have two for each of the last axes (x has rank %d)",
				  n, t.rank);
	for (int i = 0; i < n; i += 2) {
		int axis = t.rank - n / 2 + i / 2;
		int64_t d = (int64_t)t.dim[axis] + pad[i] + pad[i + 1];
		if (pad[i] < 0 || pad[i + 1] < 0)
			return infer_fail(in, "pad", "contains %d", MIN(pad[i], pad[i + 1]));
		if (mode == 1 && MAX(pad[i], pad[i + 1]) >= t.dim[axis])
			return infer_fail(in, "pad",
					  "of %d does not fit into axis %d of length %d in mode reflect",
					  MAX(pad[i], pad[i + 1]), axis, t.dim[axis]);
		if (d > INT32_MAX)
			return infer_fail(in, "pad", "is too large");
		t.dim[axis] = (int32_t)d;
	}
	return same_as(in, &t, t.dtype);
}

an_status infer_tile(mil_infer *in)
{
	an_type t = *infer_type(in, "x");
	int32_t reps[AN_MAX_RANK];
	int n;
	TRY(infer_ints(in, "reps", reps, AN_MAX_RANK, &n));
	if (n != t.rank)
		return infer_fail(in, "reps", "has %d elements, x has rank %d", n, t.rank);
	for (int i = 0; i < n; i++) {
		int64_t d = (int64_t)t.dim[i] * reps[i];
		if (reps[i] < 1 || d > INT32_MAX)
			return infer_fail(in, "reps", "contains %d", reps[i]);
		t.dim[i] = (int32_t)d;
	}
	return same_as(in, &t, t.dtype);
}

/* ---- Quantised -------------------------------------------------------------------- */

static an_status quantization(mil_infer *in)
{
	const an_type *x = infer_type(in, "input");
	bool has_axis = fn_arg_value(in->f, in->op, "axis") != AN_NO_VALUE;
	int axis = 0;
	if (has_axis)
		TRY(infer_axis(in, "axis", x->rank, &axis));
	TRY(per_channel(in, "scale", infer_type(in, "scale"), x, axis, has_axis));
	return per_channel(in, "zero_point", infer_type(in, "zero_point"), x, axis, has_axis);
}

static an_status zero_point(mil_infer *in, an_dtype dtype)
{
	const an_type *z = infer_type(in, "zero_point");
	if (z && z->dtype != dtype)
		return infer_fail(in, "zero_point", "must be %s, is %s", an_dtype_name(dtype), TEXT(z));
	return AN_OK;
}

an_status infer_quantize(mil_infer *in)
{
	static const char *const names[] = {"int8", "uint8"};
	an_dtype dtype;
	TRY(quantization(in));
	TRY(dtype_named(in, "output_dtype", names, LENGTH(names), &dtype));
	TRY(zero_point(in, dtype));
	return same_as(in, infer_type(in, "input"), dtype);
}

an_status infer_dequantize(mil_infer *in)
{
	const an_type *x = infer_type(in, "input");
	if (x->dtype != AN_INT8 && x->dtype != AN_UINT8)
		return infer_fail(in, "input", "must be int8 or uint8, is %s", TEXT(x));
	TRY(quantization(in));
	TRY(zero_point(in, x->dtype));
	return same_as(in, x, infer_type(in, "scale")->dtype);
}

/* ---- One operation ----------------------------------------------------------------- */

static const char *kind_text(unsigned kind)
{
	switch (kind & (PK_ANY | PK_STRING)) {
	case PK_FLOAT: return "fp16 or fp32";
	case PK_INT: return "an integer type of at most 32 bits";
	case PK_FLOAT | PK_INT: return "fp16, fp32 or an integer type of at most 32 bits";
	case PK_BOOL: return "bool";
	case PK_FLOAT | PK_BOOL: return "fp16, fp32 or bool";
	case PK_STRING: return "a string";
	default: return "a tensor";
	}
}

/* Presence, number, kinds and equality of dtypes, as the row has them. */
static an_status check_arguments(mil_infer *in)
{
	const op_row *row = &op_table[in->op->op];
	an_dtype same = AN_NO_DTYPE;
	const char *same_name = NULL;
	for (int i = 0; i < OP_MAX_PARAMS && row->param[i].name; i++) {
		const op_param *p = &row->param[i];
		const mil_use *use = &in->op->arg[i];
		if (p->kind & PK_ATTR) {
			const mil_literal *l = op_attr(in->op, p->name);
			if (!l)
				return infer_fail(in, NULL, "needs the attribute %s", p->name);
			if (in->op->op != OP_CONST && !op_kind_takes(p->kind, l->type.dtype))
				return infer_fail(in, p->name, "must be %s, is %s", kind_text(p->kind),
						  TEXT(&l->type));
			continue;
		}
		if (use->n == 0) {
			if (!(p->kind & PK_OPTIONAL) && !p->fallback)
				return infer_fail(in, NULL, "needs the argument %s", p->name);
			continue;
		}
		if (use->n > 1 && !(p->kind & PK_LIST))
			return infer_fail(in, p->name, "takes one value, %u given", use->n);
		for (uint32_t k = 0; k < use->n; k++) {
			if (use->v[k] >= in->f->nvalues)
				return infer_fail(in, p->name, "is not a value of this function");
			const an_type *t = &in->f->values[use->v[k]].type;
			if (!op_kind_takes(p->kind, t->dtype))
				return infer_fail(in, p->name, "must be %s, is %s", kind_text(p->kind),
						  TEXT(t));
			if ((p->kind & PK_CONST) && !fn_is_const(in->f, use->v[k]))
				return infer_fail(in, p->name, "must be a constant");
			if (!(p->kind & PK_SAME))
				continue;
			if (same == AN_NO_DTYPE) {
				same = t->dtype;
				same_name = p->name;
			} else if (t->dtype != same) {
				return infer_fail(in, p->name,
						  "is %s, but %s has element type %s: cast one of them",
						  TEXT(t), same_name, an_dtype_name(same));
			}
		}
	}
	return AN_OK;
}

an_status op_check(const an_function *f, const mil_op *op, an_type *out, mil_problem *problem)
{
	mil_infer in = {f, op, out, problem};
	TRY(check_arguments(&in));
	TRY(op_table[op->op].infer(&in));
	for (int i = 0; i < op->nresults; i++)
		if (!mil_type_fits(&out[i]))
			return infer_fail(&in, NULL, "gives a result that is too large: %s", TEXT(&out[i]));
	return AN_OK;
}
