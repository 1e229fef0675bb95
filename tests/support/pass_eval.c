#include "support/pass_eval.h"
#include "base/half.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

double eval_round(double x, an_dtype dtype)
{
	switch (dtype) {
	case AN_FP16: return half_to_float(half_from_double(x));
	case AN_FP32: return (float)x;
	default: return x;
	}
}

/* ---- Shapes ------------------------------------------------------------------ */

typedef struct env {
	const an_function *f;
	const mil_op *op;
	double *const *value;
} env;

static const an_type *type_of(const env *e, an_value v) { return &e->f->values[v].type; }
static an_value arg(const env *e, const char *name) { return fn_arg_value(e->f, e->op, name); }
static const double *data(const env *e, const char *name)
{
	an_value v = arg(e, name);
	return v == AN_NO_VALUE ? NULL : e->value[v];
}
/* A parameter has the type of the operation, also where a default stands in for it. */
static double number(const env *e, const char *name)
{
	return eval_round(fn_arg_float(e->f, e->op, name), (an_dtype)type_of(e, arg(e, "x"))->dtype);
}

static double *scratch(int64_t n) { return malloc((size_t)n * sizeof(double)); }

static void strides_of(const an_type *t, int64_t *stride)
{
	int64_t s = 1;
	for (int i = t->rank - 1; i >= 0; i--) {
		stride[i] = s;
		s *= t->dim[i];
	}
}

static int64_t at(const an_type *t, int64_t i, int64_t base, const int64_t *stride)
{
	for (int a = t->rank - 1; a >= 0; a--) {
		base += i % t->dim[a] * stride[a];
		i /= t->dim[a];
	}
	return base;
}

/* out[i] = x[base + coordinates of i in shape t, times stride] */
static void gather(const an_type *t, const double *x, int64_t base, const int64_t *stride, double *out)
{
	int64_t n = an_type_count(t);
	for (int64_t i = 0; i < n; i++)
		out[i] = x[at(t, i, base, stride)];
}

/* Strides that walk `x` along the shape `to` that it broadcasts to. */
static void broadcast_strides(const an_type *x, const an_type *to, int64_t *stride)
{
	int64_t own[AN_MAX_RANK];
	strides_of(x, own);
	for (int i = 0; i < to->rank; i++) {
		int j = i - (to->rank - x->rank);
		stride[i] = j < 0 || x->dim[j] == 1 ? 0 : own[j];
	}
}

/* A copy of value v stretched to the shape `to`. */
static double *stretched(const env *e, an_value v, const an_type *to)
{
	int64_t stride[AN_MAX_RANK];
	double *copy = scratch(an_type_count(to));
	broadcast_strides(type_of(e, v), to, stride);
	if (copy)
		gather(to, e->value[v], 0, stride, copy);
	return copy;
}

static int axis_of(const env *e, const char *name, int rank)
{
	int axis = fn_arg_int(e->f, e->op, name);
	return axis < 0 ? axis + rank : axis;
}

/* Elements before, along and after an axis. */
static void split_at(const an_type *t, int axis, int64_t *outer, int64_t *n, int64_t *inner)
{
	*outer = *inner = 1;
	*n = t->dim[axis];
	for (int i = 0; i < t->rank; i++)
		if (i < axis)
			*outer *= t->dim[i];
		else if (i > axis)
			*inner *= t->dim[i];
}

/* ---- Elementwise ------------------------------------------------------------- */

static double binary(int op, double x, double y)
{
	switch (op) {
	case OP_ADD: return x + y;
	case OP_SUB: return x - y;
	case OP_MUL: return x * y;
	case OP_REAL_DIV: return x / y;
	case OP_FLOOR_DIV: return floor(x / y);
	case OP_MOD: return x - y * floor(x / y);
	case OP_POW: return pow(x, y);
	case OP_MAXIMUM: return x > y || isnan(x) ? x : y;
	case OP_MINIMUM: return x < y || isnan(x) ? x : y;
	case OP_EQUAL: return x == y;
	case OP_NOT_EQUAL: return x != y;
	case OP_LESS: return x < y;
	case OP_LESS_EQUAL: return x <= y;
	case OP_GREATER: return x > y;
	case OP_GREATER_EQUAL: return x >= y;
	default: assert(0 && "binary"); return 0;
	}
}

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

static double gelu(double x, const char *mode)
{
	if (strcmp(mode, "EXACT") == 0)
		return 0.5 * x * (1 + erf(x / sqrt(2)));
	if (strcmp(mode, "TANH_APPROXIMATION") == 0)
		return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
	return x * sigmoid(1.702 * x);
}

static double unary(const env *e, double x)
{
	switch (e->op->op) {
	case OP_IDENTITY: return x;
	case OP_ABS: return fabs(x);
	case OP_SIGN: return (x > 0) - (x < 0);
	case OP_SQUARE: return x * x;
	case OP_SQRT: return sqrt(x);
	case OP_RSQRT: return 1 / sqrt(x + number(e, "epsilon"));
	case OP_INVERSE: return 1 / (x + number(e, "epsilon"));
	case OP_EXP: return exp(x);
	case OP_EXP2: return exp2(x);
	case OP_LOG: return log(x + number(e, "epsilon"));
	case OP_SIN: return sin(x);
	case OP_COS: return cos(x);
	case OP_ERF: return erf(x);
	case OP_FLOOR: return floor(x);
	case OP_CEIL: return ceil(x);
	case OP_ROUND: return rint(x);
	case OP_CLIP: return fmin(fmax(x, number(e, "alpha")), number(e, "beta"));
	case OP_RELU: return x > 0 ? x : 0;
	case OP_LEAKY_RELU: return x >= 0 ? x : number(e, "alpha") * x;
	case OP_ELU: return x >= 0 ? x : number(e, "alpha") * expm1(x);
	case OP_SIGMOID: return sigmoid(x);
	case OP_TANH: return tanh(x);
	case OP_SILU: return x * sigmoid(x);
	case OP_GELU: return gelu(x, fn_arg_string(e->f, e->op, "mode"));
	case OP_SOFTPLUS: return fmax(x, 0) + log1p(exp(-fabs(x)));
	case OP_SOFTSIGN: return x / (1 + fabs(x));
	default: assert(0 && "unary"); return 0;
	}
}

static bool eval_elementwise(const env *e, const an_type *t, double *out)
{
	int64_t n = an_type_count(t);
	double *a[3] = {0};
	bool select = e->op->op == OP_SELECT;
	int arity = select ? 3 : 2;
	bool ok = true;
	for (int i = 0; i < arity; i++) {
		a[i] = stretched(e, op_arg(e->op, i), t);
		ok &= a[i] != NULL;
	}
	for (int64_t i = 0; ok && i < n; i++)
		out[i] = select ? (a[0][i] != 0 ? a[1][i] : a[2][i]) : binary(e->op->op, a[0][i], a[1][i]);
	for (int i = 0; i < arity; i++)
		free(a[i]);
	return ok;
}

static double cast_to(double x, an_dtype dtype)
{
	switch (dtype) {
	case AN_FP16:
	case AN_FP32: return x;
	case AN_BOOL: return x != 0;
	default: return trunc(x);
	}
}

/* ---- Along axes -------------------------------------------------------------- */

static void softmax_line(double *x, int64_t n, int64_t step)
{
	double max = -INFINITY, sum = 0;
	for (int64_t i = 0; i < n; i++)
		max = fmax(max, x[i * step]);
	for (int64_t i = 0; i < n; i++)
		sum += x[i * step] = exp(x[i * step] - max);
	for (int64_t i = 0; i < n; i++)
		x[i * step] /= sum;
}

/* For each element of x, where its group's element is: stride 0 along the axes of mask. */
static void group_strides(const an_type *x, uint32_t mask, int64_t *stride)
{
	int64_t s = 1;
	for (int i = x->rank - 1; i >= 0; i--) {
		stride[i] = mask >> i & 1 ? 0 : s;
		s *= mask >> i & 1 ? 1 : x->dim[i];
	}
}

static an_status eval_reduce(const env *e, const double *x, double *out, int64_t groups)
{
	const an_type *t = type_of(e, arg(e, "x"));
	uint32_t mask;
	bool keep;
	int64_t stride[AN_MAX_RANK], n = an_type_count(t);
	int op = e->op->op;
	TRY(op_reduce_axes(e->f, e->op, &mask, &keep));
	group_strides(t, mask, stride);
	double start = op == OP_REDUCE_MAX ? -INFINITY : op == OP_REDUCE_MIN ? INFINITY : 0;
	for (int64_t i = 0; i < groups; i++)
		out[i] = start;
	for (int64_t i = 0; i < n; i++) {
		double *g = &out[at(t, i, 0, stride)];
		switch (op) {
		case OP_REDUCE_MAX: *g = fmax(*g, x[i]); break;
		case OP_REDUCE_MIN: *g = fmin(*g, x[i]); break;
		case OP_REDUCE_SUM_SQUARE:
		case OP_REDUCE_L2_NORM: *g += x[i] * x[i]; break;
		default: *g += x[i];
		}
	}
	for (int64_t i = 0; i < groups; i++)
		if (op == OP_REDUCE_MEAN)
			out[i] /= (double)(n / groups);
		else if (op == OP_REDUCE_L2_NORM)
			out[i] = sqrt(out[i]);
	return AN_OK;
}

static an_status eval_layer_norm(const env *e, const double *x, double *out)
{
	const an_type *t = type_of(e, arg(e, "x"));
	const double *gamma = data(e, "gamma"), *beta = data(e, "beta");
	uint32_t mask;
	bool keep;
	int64_t stride[AN_MAX_RANK], inside[AN_MAX_RANK], n = an_type_count(t), groups = 1;
	TRY(op_reduce_axes(e->f, e->op, &mask, &keep));
	group_strides(t, mask, stride);
	group_strides(t, ~mask, inside);
	for (int i = 0; i < t->rank; i++)
		groups *= mask >> i & 1 ? 1 : t->dim[i];
	double *mean = calloc((size_t)groups * 2, sizeof *mean), *var = mean + groups;
	if (!mean)
		return fail_memory(e->f->program->ctx, 0);
	double size = (double)(n / groups);
	for (int64_t i = 0; i < n; i++)
		mean[at(t, i, 0, stride)] += x[i] / size;
	for (int64_t i = 0; i < n; i++) {
		int64_t g = at(t, i, 0, stride);
		var[g] += (x[i] - mean[g]) * (x[i] - mean[g]) / size;
	}
	for (int64_t i = 0; i < n; i++) {
		int64_t g = at(t, i, 0, stride), k = at(t, i, 0, inside);
		double y = (x[i] - mean[g]) / sqrt(var[g] + number(e, "epsilon"));
		out[i] = y * (gamma ? gamma[k] : 1) + (beta ? beta[k] : 0);
	}
	free(mean);
	return AN_OK;
}

static void eval_softmax(const env *e, const an_type *t, double *out)
{
	int64_t outer, n, inner;
	split_at(t, axis_of(e, "axis", t->rank), &outer, &n, &inner);
	memcpy(out, data(e, "x"), (size_t)(outer * n * inner) * sizeof *out);
	for (int64_t o = 0; o < outer; o++)
		for (int64_t i = 0; i < inner; i++)
			softmax_line(out + o * n * inner + i, n, inner);
}

/* The first `k` of a line in order of value (the lower index first among equals): reduce_argmax
 * and topk.  `index` or `top` may be NULL. */
static void eval_order(const env *e, const an_type *t, int axis, int64_t k, bool smallest, double *top,
		       double *index)
{
	int64_t outer, n, inner;
	const double *x = data(e, "x");
	split_at(t, axis, &outer, &n, &inner);
	for (int64_t o = 0; o < outer; o++)
		for (int64_t i = 0; i < inner; i++) {
			const double *line = x + o * n * inner + i;
			for (int64_t r = 0; r < n; r++) { /* rank of each element by counting */
				int64_t rank = 0;
				double v = line[r * inner];
				for (int64_t q = 0; q < n; q++) {
					double w = line[q * inner];
					rank += (smallest ? w < v : w > v) || (w == v && q < r);
				}
				if (rank >= k)
					continue;
				if (top)
					top[(o * k + rank) * inner + i] = v;
				if (index)
					index[(o * k + rank) * inner + i] = (double)r;
			}
		}
}

/* ---- Contractions ------------------------------------------------------------ */

/* out[M,N] += x[M,K] y[K,N] */
static void multiply(const double *x, const double *y, double *out, int64_t m, int64_t n, int64_t k)
{
	for (int64_t i = 0; i < m; i++)
		for (int64_t p = 0; p < k; p++)
			for (int64_t j = 0; j < n; j++)
				out[i * n + j] += x[i * k + p] * y[p * n + j];
}

/* Copies operand v, [batch..., rows, columns] (transposed if flip; a vector gets a row or a column of
 * 1), to [batch of t, rows, columns]. */
static double *matrix(const env *e, an_value v, const an_type *batch, int64_t rows, int64_t columns,
		      bool flip, bool vector_is_row)
{
	an_type x = *type_of(e, v), to = *batch;
	if (x.rank == 1) {
		x.rank = 2;
		x.dim[vector_is_row ? 1 : 0] = x.dim[0];
		x.dim[vector_is_row ? 0 : 1] = 1;
	}
	int64_t own[AN_MAX_RANK], stride[AN_MAX_RANK];
	an_type heads = x;
	heads.rank = (uint8_t)(x.rank - 2);
	strides_of(&x, own);
	for (int i = 0; i < batch->rank; i++) {
		int j = i - (batch->rank - heads.rank);
		stride[i] = j < 0 || x.dim[j] == 1 ? 0 : own[j];
	}
	to.dim[to.rank] = (int32_t)rows;
	to.dim[to.rank + 1] = (int32_t)columns;
	stride[to.rank] = own[x.rank - 2 + (flip ? 1 : 0)];
	stride[to.rank + 1] = own[x.rank - 1 - (flip ? 1 : 0)];
	to.rank = (uint8_t)(to.rank + 2);
	double *copy = scratch(an_type_count(&to));
	if (copy)
		gather(&to, e->value[v], 0, stride, copy);
	return copy;
}

static an_status eval_matmul(const env *e, const an_type *t, double *out)
{
	matmul_spec s;
	TRY(op_matmul_spec(e->f, e->op, &s));
	an_type batch = *t;
	batch.rank = (uint8_t)(t->rank - (type_of(e, s.x)->rank > 1) - (type_of(e, s.y)->rank > 1));
	if (e->op->op == OP_LINEAR)
		batch.rank = 0;
	int64_t n = an_type_count(t), each = (int64_t)s.m * s.n, count = n / each;
	double *x, *y;
	if (e->op->op == OP_LINEAR) {
		/* every row of x times weight^T; m may or may not count the leading axes */
		int64_t rows = n / s.n;
		x = scratch(rows * s.k);
		if (x)
			memcpy(x, e->value[s.x], (size_t)(rows * s.k) * sizeof *x);
		y = matrix(e, s.y, &batch, s.k, s.n, true, false);
		each = n, count = 1;
		s.m = (int32_t)rows;
	} else {
		x = matrix(e, s.x, &batch, s.m, s.k, s.tx, true);
		y = matrix(e, s.y, &batch, s.k, s.n, s.ty, false);
	}
	memset(out, 0, (size_t)n * sizeof *out);
	for (int64_t b = 0; x && y && b < count; b++)
		multiply(x + b * s.m * s.k, y + b * s.k * s.n, out + b * each, s.m, s.n, s.k);
	if (s.bias != AN_NO_VALUE)
		for (int64_t i = 0; i < n; i++)
			out[i] += e->value[s.bias][an_type_count(type_of(e, s.bias)) == 1 ? 0 : i % s.n];
	bool ok = x && y;
	free(x);
	free(y);
	return ok ? AN_OK : fail_memory(e->f->program->ctx, 0);
}

static an_status eval_conv(const env *e, double *out)
{
	conv_spec s;
	TRY(op_conv_spec(e->f, e->op, &s));
	const double *x = e->value[s.x], *w = e->value[s.weight];
	int64_t group_in = s.in_ch / s.groups, group_out = s.out_ch / s.groups;
	for (int64_t b = 0; b < s.batch; b++)
		for (int64_t o = 0; o < s.out_ch; o++) {
			double *y = out + (b * s.out_ch + o) * s.oh * s.ow;
			for (int64_t i = 0; i < (int64_t)s.oh * s.ow; i++)
				y[i] = s.bias == AN_NO_VALUE ? 0 : e->value[s.bias][o];
			for (int64_t c = 0; c < group_in; c++) {
				const double *plane =
				    x + (b * s.in_ch + o / group_out * group_in + c) * s.h * s.w;
				for (int64_t kr = 0; kr < s.kh; kr++)
					for (int64_t kc = 0; kc < s.kw; kc++) {
						double f = w[((o * group_in + c) * s.kh + kr) * s.kw + kc];
						for (int64_t r = 0; r < s.oh; r++)
							for (int64_t q = 0; q < s.ow; q++) {
								int64_t h = r * s.stride[0] +
									    kr * s.dilation[0] - s.pad[0];
								int64_t v = q * s.stride[1] +
									    kc * s.dilation[1] - s.pad[2];
								if (h >= 0 && h < s.h && v >= 0 && v < s.w)
									y[r * s.ow + q] +=
									    f * plane[h * s.w + v];
							}
					}
			}
		}
	return AN_OK;
}

/* query [.., L, E], key [.., S, E], value [.., S, V], mask broadcast to [.., L, S]. */
static an_status eval_attention(const env *e, const an_type *t, double *out)
{
	const an_type *q = type_of(e, arg(e, "query")), *k = type_of(e, arg(e, "key"));
	const double *query = data(e, "query"), *key = data(e, "key"), *value = data(e, "value");
	an_value mask = arg(e, "attn_mask");
	int r = q->rank;
	int64_t len = q->dim[r - 2], keys = k->dim[r - 2], width = q->dim[r - 1], depth = t->dim[r - 1];
	an_type scores = *q;
	scores.dim[r - 1] = (int32_t)keys;
	int64_t rows = an_type_count(&scores) / keys;
	double *p = scratch(rows * keys), *m = mask == AN_NO_VALUE ? NULL : stretched(e, mask, &scores);
	if (!p || (mask != AN_NO_VALUE && !m)) {
		free(p);
		free(m);
		return fail_memory(e->f->program->ctx, 0);
	}
	bool boolean = mask != AN_NO_VALUE && type_of(e, mask)->dtype == AN_BOOL;
	for (int64_t i = 0; i < rows; i++) {
		int64_t batch = i / len;
		for (int64_t j = 0; j < keys; j++) {
			double sum = 0;
			for (int64_t d = 0; d < width; d++)
				sum += query[i * width + d] * key[(batch * keys + j) * width + d];
			sum /= sqrt((double)width);
			if (m)
				sum = boolean ? (m[i * keys + j] != 0 ? sum : -INFINITY)
					      : sum + m[i * keys + j];
			p[i * keys + j] = sum;
		}
		softmax_line(p + i * keys, keys, 1);
		for (int64_t d = 0; d < depth; d++) {
			double sum = 0;
			for (int64_t j = 0; j < keys; j++)
				sum += p[i * keys + j] * value[(batch * keys + j) * depth + d];
			out[i * depth + d] = sum;
		}
	}
	free(p);
	free(m);
	return AN_OK;
}

/* ---- Moving elements --------------------------------------------------------- */

static void eval_transpose(const env *e, const an_type *t, double *out)
{
	int32_t perm[AN_MAX_RANK];
	int64_t own[AN_MAX_RANK], stride[AN_MAX_RANK];
	fn_arg_ints(e->f, e->op, "perm", perm, AN_MAX_RANK);
	strides_of(type_of(e, arg(e, "x")), own);
	for (int i = 0; i < t->rank; i++)
		stride[i] = own[perm[i] < 0 ? perm[i] + t->rank : perm[i]];
	gather(t, data(e, "x"), 0, stride, out);
}

static an_status eval_slice(const env *e, double *out)
{
	an_type x = *type_of(e, arg(e, "x"));
	slice_spec s;
	int64_t stride[AN_MAX_RANK], base = 0;
	TRY(op_slice_spec(e->f, e->op, &s));
	strides_of(&x, stride);
	for (int i = 0; i < x.rank; i++) {
		base += s.begin[i] * stride[i];
		stride[i] *= s.step[i];
		x.dim[i] = s.count[i];
	}
	gather(&x, data(e, "x"), base, stride, out);
	return AN_OK;
}

/* Also stack: the axis of its parts is then new and has length 1. */
static void eval_concat(const env *e, const an_type *t, double *out)
{
	uint32_t parts = e->op->arg[0].n;
	int64_t outer, n, inner, start = 0;
	split_at(t, axis_of(e, "axis", t->rank), &outer, &n, &inner);
	bool interleave = e->op->op == OP_CONCAT && fn_arg_bool(e->f, e->op, "interleave");
	for (uint32_t i = 0; i < parts; i++) {
		an_value v = e->op->arg[0].v[i];
		int64_t len = an_type_count(type_of(e, v)) / (outer * inner);
		for (int64_t o = 0; o < outer; o++)
			for (int64_t j = 0; j < len; j++) {
				int64_t to = interleave ? j * parts + i : start + j;
				memcpy(out + (o * n + to) * inner, e->value[v] + (o * len + j) * inner,
				       (size_t)inner * sizeof *out);
			}
		start += len;
	}
}

static void eval_split(const env *e)
{
	const an_type *x = type_of(e, arg(e, "x"));
	int axis = axis_of(e, "axis", x->rank);
	int64_t outer, n, inner, start = 0;
	split_at(x, axis, &outer, &n, &inner);
	for (int i = 0; i < e->op->nresults; i++) {
		an_value v = e->op->results[i];
		int64_t len = type_of(e, v)->dim[axis];
		for (int64_t o = 0; o < outer; o++)
			memcpy(e->value[v] + o * len * inner, data(e, "x") + (o * n + start) * inner,
			       (size_t)(len * inner) * sizeof(double));
		start += len;
	}
}

static void eval_pad(const env *e, const an_type *t, double *out)
{
	const an_type *x = type_of(e, arg(e, "x"));
	const char *mode = fn_arg_string(e->f, e->op, "mode");
	int32_t pad[2 * AN_MAX_RANK];
	int n = fn_arg_ints(e->f, e->op, "pad", pad, 2 * AN_MAX_RANK);
	int64_t own[AN_MAX_RANK], count = an_type_count(t);
	strides_of(x, own);
	for (int64_t i = 0; i < count; i++) {
		int64_t rest = i, from = 0;
		bool border = false;
		for (int a = t->rank - 1; a >= 0; a--) {
			int before = a - (t->rank - n / 2);
			int64_t c = rest % t->dim[a] - (before < 0 ? 0 : pad[2 * before]), d = x->dim[a];
			rest /= t->dim[a];
			if (strcmp(mode, "reflect") == 0)
				c = c < 0 ? -c : c >= d ? 2 * (d - 1) - c : c;
			else if (strcmp(mode, "replicate") == 0)
				c = c < 0 ? 0 : c >= d ? d - 1 : c;
			border |= c < 0 || c >= d;
			from += c * own[a];
		}
		out[i] = border ? number(e, "constant_val") : data(e, "x")[from];
	}
}

static void eval_tile(const env *e, const an_type *t, double *out)
{
	const an_type *x = type_of(e, arg(e, "x"));
	int64_t own[AN_MAX_RANK], count = an_type_count(t);
	strides_of(x, own);
	for (int64_t i = 0; i < count; i++) {
		int64_t rest = i, from = 0;
		for (int a = t->rank - 1; a >= 0; a--) {
			from += rest % t->dim[a] % x->dim[a] * own[a];
			rest /= t->dim[a];
		}
		out[i] = data(e, "x")[from];
	}
}

/* ---- Quantised --------------------------------------------------------------- */

/* scale and zero point for element i of t: one for all or one per element of axis. */
static double per_channel(const double *p, int64_t n, const an_type *t, int axis, int64_t i)
{
	int64_t outer, len, inner;
	if (!p)
		return 0;
	if (n == 1)
		return p[0];
	split_at(t, axis, &outer, &len, &inner);
	return p[i / inner % len];
}

static void eval_quantized(const env *e, const an_type *t, double *out)
{
	an_value s = arg(e, "scale"), z = arg(e, "zero_point");
	bool has_axis = arg(e, "axis") != AN_NO_VALUE;
	int axis = has_axis ? axis_of(e, "axis", t->rank) : 0;
	int64_t count = an_type_count(t);
	double low = t->dtype == AN_INT8 ? -128 : 0, high = t->dtype == AN_INT8 ? 127 : 255;
	for (int64_t i = 0; i < count; i++) {
		double x = data(e, "input")[i];
		double scale = per_channel(e->value[s], an_type_count(type_of(e, s)), t, axis, i);
		double zero =
		    z == AN_NO_VALUE ? 0 : per_channel(e->value[z], an_type_count(type_of(e, z)), t, axis, i);
		if (e->op->op == OP_QUANTIZE)
			out[i] = fmin(fmax(rint(x / scale) + zero, low), high);
		else
			out[i] = (x - zero) * scale;
	}
}

static void eval_affine_dequantize(const env *e, const an_type *t, double *out)
{
	const mil_literal *q = op_attr(e->op, "quantized_data"), *z = op_attr(e->op, "zero_point");
	const mil_literal *s = op_attr(e->op, "scale"), *a = op_attr(e->op, "axis");
	int axis = (int)lit_number(a, 0);
	int64_t count = an_type_count(t), outer, len = 1, inner = 1;
	if (t->rank > 0)
		split_at(t, axis < 0 ? axis + t->rank : axis, &outer, &len, &inner);
	for (int64_t i = 0; i < count; i++) {
		int64_t c = i / inner % len;
		double zero = lit_number(z, an_type_count(&z->type) == 1 ? 0 : c);
		double scale = lit_number(s, an_type_count(&s->type) == 1 ? 0 : c);
		out[i] = (lit_number(q, i) - zero) * scale;
	}
}

/* ---- One operation, one function --------------------------------------------- */

static an_status eval_one(const env *e)
{
	const mil_op *op = e->op;
	const an_type *t = type_of(e, op->results[0]);
	double *out = e->value[op->results[0]];
	int64_t n = an_type_count(t);
	an_status no_memory = AN_OK;

	switch (op->op) {
	case OP_CONST:
		for (int64_t i = 0; t->dtype != AN_STRING && i < n; i++)
			out[i] = lit_number(op_attr(op, "val"), i);
		return AN_OK;
	case OP_CONSTEXPR_AFFINE_DEQUANTIZE: eval_affine_dequantize(e, t, out); return AN_OK;
	case OP_CAST:
		for (int64_t i = 0; i < n; i++)
			out[i] = cast_to(data(e, "x")[i], t->dtype);
		return AN_OK;
	case OP_SOFTMAX: eval_softmax(e, t, out); return AN_OK;
	case OP_REDUCE_ARGMAX:
	case OP_REDUCE_ARGMIN: {
		const an_type *x = type_of(e, arg(e, "x"));
		eval_order(e, x, axis_of(e, "axis", x->rank), 1, op->op == OP_REDUCE_ARGMIN, NULL, out);
		return AN_OK;
	}
	case OP_TOPK: {
		int axis = axis_of(e, "axis", t->rank);
		eval_order(e, type_of(e, arg(e, "x")), axis, t->dim[axis], fn_arg_bool(e->f, op, "ascending"),
			   out, op->nresults > 1 ? e->value[op->results[1]] : NULL);
		return AN_OK;
	}
	case OP_LAYER_NORM: return eval_layer_norm(e, data(e, "x"), out);
	case OP_MATMUL:
	case OP_LINEAR: return eval_matmul(e, t, out);
	case OP_CONV: return eval_conv(e, out);
	case OP_SCALED_DOT_PRODUCT_ATTENTION: return eval_attention(e, t, out);
	case OP_RESHAPE:
	case OP_EXPAND_DIMS:
	case OP_SQUEEZE: memcpy(out, data(e, "x"), (size_t)n * sizeof *out); return AN_OK;
	case OP_TRANSPOSE: eval_transpose(e, t, out); return AN_OK;
	case OP_SLICE_BY_INDEX:
	case OP_SLICE_BY_SIZE: return eval_slice(e, out);
	case OP_CONCAT:
	case OP_STACK: eval_concat(e, t, out); return AN_OK;
	case OP_SPLIT: eval_split(e); return AN_OK;
	case OP_PAD: eval_pad(e, t, out); return AN_OK;
	case OP_TILE: eval_tile(e, t, out); return AN_OK;
	case OP_QUANTIZE:
	case OP_DEQUANTIZE: eval_quantized(e, t, out); return AN_OK;
	default: break;
	}
	switch (op_table[op->op].cls) {
	case OC_BINARY:
	case OC_SELECT:
		if (!eval_elementwise(e, t, out))
			no_memory = fail_memory(e->f->program->ctx, 0);
		return no_memory;
	case OC_UNARY:
		for (int64_t i = 0; i < n; i++)
			out[i] = unary(e, data(e, "x")[i]);
		return AN_OK;
	case OC_REDUCE: return eval_reduce(e, data(e, "x"), out, n);
	default:
		return fail(e->f->program->ctx, AN_UNSUPPORTED, "the evaluator has no %s",
			    op_table[op->op].name);
	}
}

an_status eval_op(const an_function *f, const mil_op *op, int flags, double *const *value)
{
	env e = {f, op, value};
	TRY(eval_one(&e));
	for (int r = 0; (flags & EVAL_ROUND) && r < op->nresults; r++) {
		const an_type *t = type_of(&e, op->results[r]);
		int64_t n = an_type_count(t);
		for (int64_t i = 0; i < n; i++)
			value[op->results[r]][i] = eval_round(value[op->results[r]][i], (an_dtype)t->dtype);
	}
	return AN_OK;
}

/* Frees arrays after their last use, so that programs of full size can be evaluated. */
static an_status eval_all(const an_function *f, int flags, double **value, int *last)
{
	for (size_t i = 0; i < f->nvalues; i++)
		last[i] = -1;
	for (int i = 0; i < (int)f->nops; i++)
		for (int p = 0; p < OP_MAX_PARAMS; p++)
			for (uint32_t k = 0; k < f->ops[i].arg[p].n; k++)
				last[f->ops[i].arg[p].v[k]] = i;
	for (size_t i = 0; i < f->noutputs; i++)
		last[f->outputs[i]] = INT32_MAX;
	for (size_t i = 0; i < f->ninputs; i++)
		last[f->inputs[i]] = INT32_MAX;
	for (int i = 0; i < (int)f->nops; i++) {
		const mil_op *op = &f->ops[i];
		for (int r = 0; r < op->nresults; r++) {
			int64_t n = an_type_count(&f->values[op->results[r]].type);
			if (!(value[op->results[r]] = scratch(n)))
				return fail_memory(f->program->ctx, (size_t)n * sizeof(double));
		}
		TRY(eval_op(f, op, flags, value));
		for (int p = 0; p < OP_MAX_PARAMS; p++)
			for (uint32_t k = 0; k < op->arg[p].n; k++) {
				an_value v = op->arg[p].v[k];
				if (last[v] == i) {
					free(value[v]);
					value[v] = NULL;
				}
			}
	}
	return AN_OK;
}

an_status eval_function(const an_function *f, int flags, const double *const *inputs, double *const *outputs)
{
	TRY(program_load_blobs(f->program));
	double **value = calloc(f->nvalues + 1, sizeof *value);
	int *last = calloc(f->nvalues + 1, sizeof *last);
	an_status s = value && last ? AN_OK : fail_memory(f->program->ctx, 0);
	for (size_t i = 0; s == AN_OK && i < f->ninputs; i++) {
		const an_type *t = &f->values[f->inputs[i]].type;
		int64_t n = an_type_count(t);
		double *copy = value[f->inputs[i]] = scratch(n);
		if (!copy)
			s = fail_memory(f->program->ctx, 0);
		for (int64_t j = 0; copy && j < n; j++)
			copy[j] =
			    flags & EVAL_ROUND ? eval_round(inputs[i][j], (an_dtype)t->dtype) : inputs[i][j];
	}
	if (s == AN_OK)
		s = eval_all(f, flags, value, last);
	for (size_t i = 0; s == AN_OK && i < f->noutputs; i++)
		memcpy(outputs[i], value[f->outputs[i]],
		       (size_t)an_type_count(&f->values[f->outputs[i]].type) * sizeof(double));
	for (size_t i = 0; value && i < f->nvalues; i++)
		free(value[i]);
	free(value);
	free(last);
	return s;
}
