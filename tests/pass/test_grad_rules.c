/* Every gradient rule against central differences, at random shapes and attributes.  Functions are fp32, so
 * that constants in them are accurate; the rules do not depend on the type otherwise. */
#include "base/random.h"
#include "pass/grad.h"
#include "support/pass_check.h"

#include "support/mil_support.h"

enum { ROUNDS = 24 };

/* A function under construction, and a stream of random numbers. */
typedef struct maker {
	an_builder b;
	int op;
	uint64_t seed, draws;
	int round; /* 0 .. ROUNDS - 1: makers go through their variants with it */
} maker;

static int below(maker *m, int n) { return (int)(random_bits(m->seed, 77, m->draws++) % (uint64_t)n); }
static bool coin(maker *m) { return below(m, 2); }
static double uniform(maker *m, double low, double high)
{
	return low + (high - low) * random_uniform(m->seed, 78, m->draws++);
}

static an_type shape(int rank, const int32_t *dim) { return an_tensor(AN_FP32, rank, dim); }

/* Rank `least` to `most`, lengths 1 to 5, at most 60 elements. */
static an_type random_shape(maker *m, int least, int most)
{
	an_type t = {.dtype = AN_FP32, .tensor = true};
	t.rank = (uint8_t)(least + below(m, most - least + 1));
	for (;;) {
		for (int i = 0; i < t.rank; i++)
			t.dim[i] = 1 + below(m, 5);
		if (an_type_count(&t) <= 60)
			return t;
	}
}

/* A shape that broadcasts to t: some axes of length 1, some leading ones gone. */
static an_type narrowed(maker *m, an_type t)
{
	int gone = t.rank > 1 && below(m, 3) == 0 ? below(m, t.rank) : 0;
	an_type n = t;
	n.rank = (uint8_t)(t.rank - gone);
	for (int i = 0; i < n.rank; i++)
		n.dim[i] = below(m, 3) == 0 ? 1 : t.dim[gone + i];
	return n;
}

static an_value input(maker *m, const char *name, an_type t) { return an_input(&m->b, name, t); }
static void output(maker *m, an_value v) { an_output(&m->b, v); }

/* ---- Makers: each adds inputs, the operation and its outputs ----------------- */

static void make_binary(maker *m)
{
	an_type t = random_shape(m, 1, 5);
	bool swap = coin(m);
	an_value x = input(m, "x", swap ? narrowed(m, t) : t), y;
	if (m->round == 0)
		y = x; /* the same value twice */
	else if (m->round == 1)
		y = an_scalar(&m->b, AN_FP32, 1.25);
	else
		y = input(m, "y", swap ? t : narrowed(m, t));
	output(m, an_binary(&m->b, op_table[m->op].name, x, y));
}

static void make_pow(maker *m)
{
	static const double exponent[] = {2, 3, 1, 0.5, -0.5, -1, -2.5, 0.01};
	an_type t = random_shape(m, 1, 5);
	if (m->round >= LENGTH(exponent)) {
		make_binary(m);
		return;
	}
	an_value x = input(m, "x", t);
	output(m, an_binary(&m->b, "pow", x, an_scalar(&m->b, AN_FP32, exponent[m->round])));
}

static void make_select(maker *m)
{
	an_type t = random_shape(m, 1, 5), c = coin(m) ? t : narrowed(m, t);
	c.dtype = AN_BOOL;
	an_value cond = input(m, "cond", c);
	an_value a = input(m, "a", coin(m) ? t : narrowed(m, t));
	an_value b = m->round ? input(m, "b", t) : an_scalar(&m->b, AN_FP32, 0);
	output(m, EMIT(&m->b, OP_SELECT, ARG_VALUE("cond", cond), ARG_VALUE("a", a), ARG_VALUE("b", b)));
}

static void make_unary(maker *m)
{
	static const char *const modes[] = {"EXACT", "TANH_APPROXIMATION", "SIGMOID_APPROXIMATION"};
	an_value x = input(m, "x", random_shape(m, m->round ? 1 : 0, 5)), y;
	switch (m->op) {
	case OP_RSQRT:
	case OP_INVERSE:
	case OP_LOG:
		if (coin(m))
			y = EMIT(&m->b, m->op, ARG_VALUE("x", x), ARG_FLOAT("epsilon", uniform(m, 0.01, 1)));
		else
			y = EMIT(&m->b, m->op, ARG_VALUE("x", x));
		break;
	case OP_CLIP: {
		double a = uniform(m, -1.5, 0.5);
		y = EMIT(&m->b, OP_CLIP, ARG_VALUE("x", x), ARG_FLOAT("alpha", a),
			 ARG_FLOAT("beta", a + uniform(m, 0.5, 2)));
		break;
	}
	case OP_LEAKY_RELU:
	case OP_ELU:
		y = EMIT(&m->b, m->op, ARG_VALUE("x", x), ARG_FLOAT("alpha", uniform(m, 0.05, 3)));
		break;
	case OP_GELU:
		y = EMIT(&m->b, OP_GELU, ARG_VALUE("x", x), ARG_STRING("mode", modes[m->round % 3]));
		break;
	case OP_CAST: y = an_cast(&m->b, an_cast(&m->b, x, AN_FP16), AN_FP32); break;
	default: y = an_unary(&m->b, op_table[m->op].name, x);
	}
	output(m, y);
}

/* A random set of axes of t, some counted from the end. */
static int random_axes(maker *m, const an_type *t, bool none, int32_t *axes)
{
	int n = 0;
	for (int i = 0; i < t->rank; i++)
		if (coin(m))
			axes[n++] = coin(m) ? i : i - t->rank;
	if (n == 0 && !none)
		axes[n++] = below(m, t->rank);
	return n;
}

static void make_reduce(maker *m)
{
	an_type t = random_shape(m, 1, 5);
	an_value x = input(m, "x", t), y;
	int32_t axes[AN_MAX_RANK];
	int n = random_axes(m, &t, false, axes);
	bool keep = coin(m);
	if (m->round % 4 == 0)
		y = EMIT(&m->b, m->op, ARG_VALUE("x", x), ARG_BOOL("keep_dims", keep));
	else
		y = EMIT(&m->b, m->op, ARG_VALUE("x", x), ARG_INTS("axes", n, axes),
			 ARG_BOOL("keep_dims", keep));
	output(m, y);
}

static void make_softmax(maker *m)
{
	an_type t = random_shape(m, 1, 5);
	int axis = below(m, 2 * t.rank) - t.rank;
	output(m, an_softmax(&m->b, input(m, "x", t), axis));
}

static void make_layer_norm(maker *m)
{
	an_type t = random_shape(m, 1, 4), affine = t;
	int32_t axes[AN_MAX_RANK];
	int n = random_axes(m, &t, false, axes);
	affine.rank = 0;
	uint32_t mask = 0;
	for (int i = 0; i < n; i++)
		mask |= 1u << (axes[i] < 0 ? axes[i] + t.rank : axes[i]);
	for (int i = 0; i < t.rank; i++)
		if (mask >> i & 1)
			affine.dim[affine.rank++] = t.dim[i];
	an_arg args[5] = {ARG_VALUE("x", input(m, "x", t)), ARG_INTS("axes", n, axes),
			  ARG_FLOAT("epsilon", 0.05)};
	int nargs = 3;
	if (m->round % 4 != 0)
		args[nargs++] = (an_arg)ARG_VALUE("gamma", input(m, "gamma", affine));
	affine.dtype = m->round % 3 ? AN_FP32 : AN_FP16; /* need not be that of x */
	if (m->round % 4 != 1)
		args[nargs++] = (an_arg)ARG_VALUE("beta", input(m, "beta", affine));
	output(m, pass_emit(&m->b, OP_LAYER_NORM, args, nargs));
}

static void make_matmul(maker *m)
{
	an_type batch = random_shape(m, 0, 3), x, y;
	while (an_type_count(&batch) > 8)
		batch = random_shape(m, 0, 3);
	int32_t rows = 1 + below(m, 4), inner = 1 + below(m, 4), columns = 1 + below(m, 4);
	bool tx = coin(m), ty = coin(m), narrow_x = coin(m);
	x = narrow_x ? narrowed(m, batch) : batch;
	y = narrow_x ? batch : narrowed(m, batch);
	x.dim[x.rank++] = tx ? inner : rows;
	x.dim[x.rank++] = tx ? rows : inner;
	y.dim[y.rank++] = ty ? columns : inner;
	y.dim[y.rank++] = ty ? inner : columns;
	if (m->round % 6 == 1) { /* a vector on one side, or on both */
		x = shape(1, &inner);
		tx = false;
	}
	if (m->round % 6 == 2 || m->round == 7) {
		y = shape(1, &inner);
		ty = false;
	}
	an_value xv = input(m, "x", x), yv;
	if (m->round == 0) { /* x x^T */
		yv = xv;
		ty = !tx;
	} else {
		yv = input(m, "y", y);
	}
	output(m, an_matmul(&m->b, xv, yv, tx, ty));
}

static void make_linear(maker *m)
{
	an_type t = random_shape(m, 1, 5);
	int32_t out = 1 + below(m, 4), in = t.dim[t.rank - 1];
	an_value x = input(m, "x", t), w = input(m, "w", shape(2, (int32_t[]){out, in}));
	if (coin(m))
		output(m, EMIT(&m->b, OP_LINEAR, ARG_VALUE("x", x), ARG_VALUE("weight", w)));
	else
		output(m, EMIT(&m->b, OP_LINEAR, ARG_VALUE("x", x), ARG_VALUE("weight", w),
			       ARG_VALUE("bias", input(m, "bias", shape(1, &out)))));
}

static void make_conv(maker *m)
{
	static const char *const types[] = {"valid", "custom", "same", "same_lower"};
	int d = 1 + below(m, 2);
	int32_t groups = 1 + below(m, 2), x[4], w[4], stride[2], dilation[2], pad[4];
	bool one = m->round % 3 == 0; /* 1x1 */
	x[0] = 1 + below(m, 2);
	x[1] = groups * (1 + below(m, 2));
	w[0] = groups * (1 + below(m, 2));
	w[1] = x[1] / groups;
	const char *type = one ? "valid" : types[below(m, 4)];
	for (int i = 0; i < d; i++) {
		w[2 + i] = one ? 1 : 1 + below(m, 3);
		stride[i] = one && m->round % 2 ? 1 : 1 + below(m, 3);
		dilation[i] = 1 + below(m, 2);
		pad[2 * i] = below(m, 3);
		pad[2 * i + 1] = below(m, 3);
		x[2 + i] = (w[2 + i] - 1) * dilation[i] + 1 + below(m, 3);
	}
	an_arg args[8] = {ARG_VALUE("x", input(m, "x", shape(2 + d, x))),
			  ARG_VALUE("weight", input(m, "w", shape(2 + d, w))),
			  ARG_INTS("strides", d, stride),
			  ARG_INTS("dilations", d, dilation),
			  ARG_STRING("pad_type", type),
			  ARG_INTS("pad", 2 * d, pad),
			  ARG_INT("groups", groups)};
	int nargs = 7;
	if (coin(m))
		args[nargs++] = (an_arg)ARG_VALUE("bias", input(m, "bias", shape(1, w)));
	output(m, pass_emit(&m->b, OP_CONV, args, nargs));
}

static void make_attention(maker *m)
{
	int32_t b = 1 + below(m, 2), h = 1 + below(m, 2), len = 1 + below(m, 3), keys = 1 + below(m, 4);
	int32_t width = 1 + below(m, 4), depth = 1 + below(m, 3);
	bool four = coin(m);
	an_type q = shape(4, (int32_t[]){b, h, len, width}), k = shape(4, (int32_t[]){b, h, keys, width});
	an_type v = shape(4, (int32_t[]){b, h, keys, depth}), s = shape(4, (int32_t[]){b, h, len, keys});
	an_type *all[] = {&q, &k, &v, &s};
	for (int i = 0; i < 4 && !four; i++) {
		all[i]->rank = 3;
		memmove(all[i]->dim, all[i]->dim + 1, 3 * sizeof *all[i]->dim);
	}
	an_arg args[4] = {ARG_VALUE("query", input(m, "q", q)), ARG_VALUE("key", input(m, "k", k)),
			  ARG_VALUE("value", input(m, "v", v))};
	int nargs = 3;
	if (m->round % 3 == 1)
		args[nargs++] = (an_arg)ARG_VALUE("attn_mask", input(m, "mask", narrowed(m, s)));
	if (m->round % 3 == 2) { /* every query sees key 0 */
		s.dtype = AN_BOOL;
		uint8_t sees[256];
		for (int64_t i = 0; i < an_type_count(&s); i++)
			sees[i] = i % keys == 0 || coin(m);
		args[nargs++] = (an_arg)ARG_VALUE("attn_mask", an_const(&m->b, "mask", s, sees));
	}
	output(m, pass_emit(&m->b, m->op, args, nargs));
}

static void make_reshape(maker *m)
{
	an_type t = random_shape(m, 1, 5);
	int32_t n = (int32_t)an_type_count(&t), to[3] = {-1, 1, 1};
	for (int32_t i = 1; i <= n; i++)
		if (n % i == 0 && coin(m))
			to[1] = i;
	output(m, an_reshape(&m->b, input(m, "x", t), 3, to));
}

static void make_transpose(maker *m)
{
	an_type t = random_shape(m, 1, 5);
	int32_t perm[AN_MAX_RANK];
	for (int i = 0; i < t.rank; i++)
		perm[i] = i;
	for (int i = t.rank - 1; i > 0; i--) {
		int j = below(m, i + 1), p = perm[i];
		perm[i] = perm[j];
		perm[j] = p;
	}
	for (int i = 0; i < t.rank; i++)
		if (coin(m))
			perm[i] -= t.rank;
	output(m, an_transpose(&m->b, input(m, "x", t), t.rank, perm));
}

static void make_expand_dims(maker *m)
{
	an_value x = input(m, "x", random_shape(m, m->round ? 1 : 0, 3));
	int32_t axes[2] = {0, -1};
	output(m, EMIT(&m->b, OP_EXPAND_DIMS, ARG_VALUE("x", x), ARG_INTS("axes", 1 + below(m, 2), axes)));
}

static void make_squeeze(maker *m)
{
	an_type t = random_shape(m, 2, 5);
	t.dim[1] = 1;
	if (m->round == 0)
		t.dim[0] = t.dim[1] = t.rank > 2 ? t.dim[2] = 1 : 1;
	an_value x = input(m, "x", t);
	if (coin(m))
		output(m, EMIT(&m->b, OP_SQUEEZE, ARG_VALUE("x", x)));
	else
		output(m, EMIT(&m->b, OP_SQUEEZE, ARG_VALUE("x", x), ARG_INTS("axes", 1, (&(int32_t){1}))));
}

static an_value bools(maker *m, int n, const bool *v)
{
	return an_const(&m->b, NULL, an_tensor(AN_BOOL, 1, &(int32_t){n}), v);
}

static an_value random_slice(maker *m, an_value x, const an_type *t)
{
	int32_t begin[AN_MAX_RANK], end[AN_MAX_RANK], stride[AN_MAX_RANK];
	bool from_start[AN_MAX_RANK], to_end[AN_MAX_RANK], squeeze[AN_MAX_RANK];
	int only = m->round % 3 == 0 ? below(m, t->rank) : -1; /* cut one axis only */
	for (int i = 0; i < t->rank; i++) {
		int32_t d = t->dim[i], low = below(m, d), high = low + 1 + below(m, d - low);
		stride[i] = 1 + below(m, 3);
		bool down = coin(m), whole = only >= 0 && only != i;
		begin[i] = down ? high - 1 : low;
		end[i] = down ? low - 1 : high;
		if (down)
			stride[i] = -stride[i];
		from_start[i] = whole || below(m, 4) == 0;
		to_end[i] = whole || below(m, 4) == 0 || end[i] < 0;
		if (whole || (only >= 0 && coin(m))) {
			stride[i] = 1;
			begin[i] = low;
			end[i] = high;
		}
		if (!from_start[i] && coin(m) && begin[i] > 0)
			begin[i] -= d;
		squeeze[i] = !whole && below(m, 5) == 0;
	}
	return EMIT(&m->b, OP_SLICE_BY_INDEX, ARG_VALUE("x", x), ARG_INTS("begin", t->rank, begin),
		    ARG_INTS("end", t->rank, end), ARG_INTS("stride", t->rank, stride),
		    ARG_VALUE("begin_mask", bools(m, t->rank, from_start)),
		    ARG_VALUE("end_mask", bools(m, t->rank, to_end)),
		    ARG_VALUE("squeeze_mask", bools(m, t->rank, squeeze)));
}

static void make_slice_by_index(maker *m)
{
	an_type t = random_shape(m, 1, 5);
	an_value x = input(m, "x", t);
	output(m, random_slice(m, x, &t));
	if (coin(m)) /* a second slice of it, which may overlap the first */
		output(m, random_slice(m, x, &t));
}

/* Two to three slices along an axis: in line, with gaps, overlapping. */
static void make_slice_by_size(maker *m)
{
	an_type t = random_shape(m, 1, 5);
	int axis = below(m, t.rank);
	t.dim[axis] += 3;
	an_value x = input(m, "x", t);
	int32_t d = t.dim[axis], cut = 1 + below(m, d - 1);
	if (m->round % 2 == 0) {
		output(m, an_slice(&m->b, x, axis, cut, d - cut));
		output(m, an_slice(&m->b, x, axis, 0, cut));
		return;
	}
	for (int i = 0; i < 3; i++) {
		int32_t begin[AN_MAX_RANK], size[AN_MAX_RANK];
		for (int a = 0; a < t.rank; a++) {
			begin[a] = coin(m) ? 0 : below(m, t.dim[a]);
			size[a] = coin(m) ? -1 : 1 + below(m, t.dim[a] - begin[a]);
			if (coin(m))
				begin[a] -= t.dim[a];
		}
		output(m, EMIT(&m->b, OP_SLICE_BY_SIZE, ARG_VALUE("x", x), ARG_INTS("begin", t.rank, begin),
			       ARG_INTS("size", t.rank, size)));
	}
}

static void make_concat(maker *m)
{
	an_type t = random_shape(m, 1, 4), other = t;
	int axis = below(m, t.rank);
	bool interleave = coin(m);
	if (!interleave)
		other.dim[axis] = 1 + below(m, 4);
	an_value x = input(m, "x", t), y = input(m, "y", other), v[3] = {x, y, x};
	int n = 1 + below(m, 3);
	output(m, EMIT(&m->b, OP_CONCAT, ARG_VALUES("values", n, v),
		       ARG_INT("axis", coin(m) ? axis : axis - t.rank), ARG_BOOL("interleave", interleave)));
}

static void make_stack(maker *m)
{
	an_type t = random_shape(m, m->round ? 1 : 0, 4);
	an_value x = input(m, "x", t), v[3] = {x, input(m, "y", t), x};
	int axis = below(m, t.rank + 1);
	output(m, EMIT(&m->b, OP_STACK, ARG_VALUES("values", 1 + below(m, 3), v),
		       ARG_INT("axis", coin(m) ? axis : axis - t.rank - 1)));
}

/* Some of the parts are outputs, others go unused. */
static void make_split(maker *m)
{
	an_type t = random_shape(m, 1, 5);
	int axis = below(m, t.rank), keep = below(m, 3);
	an_value r[3];
	bool even = coin(m);
	int32_t sizes[3] = {1 + below(m, 3), 2, 1 + below(m, 2)};
	t.dim[axis] = even ? 6 : sizes[0] + sizes[1] + sizes[2];
	an_value x = input(m, "x", t);
	an_arg args[] = {ARG_VALUE("x", x), ARG_INT("axis", axis - (coin(m) ? t.rank : 0)),
			 even ? (an_arg)ARG_INT("num_splits", 3) : (an_arg)ARG_INTS("split_sizes", 3, sizes)};
	an_emit(&m->b, OP_SPLIT, NULL, args, 3, r, 3);
	for (int i = 0; i < 3; i++)
		if (i == keep || coin(m))
			output(m, r[i]);
}

static void make_pad(maker *m)
{
	static const char *const modes[] = {"constant", "reflect", "replicate"};
	an_type t = random_shape(m, 1, 4);
	int n = 1 + below(m, t.rank), mode = m->round % 3;
	int32_t pad[2 * AN_MAX_RANK];
	for (int i = 0; i < 2 * n; i++)
		pad[i] = mode == 1 ? below(m, t.dim[t.rank - n + i / 2]) : below(m, 4);
	an_value x = input(m, "x", t);
	output(m, EMIT(&m->b, OP_PAD, ARG_VALUE("x", x), ARG_INTS("pad", 2 * n, pad),
		       ARG_STRING("mode", modes[mode]), ARG_FLOAT("constant_val", 1.5)));
}

static void make_tile(maker *m)
{
	an_type t = random_shape(m, 1, 4);
	int32_t reps[AN_MAX_RANK];
	for (int i = 0; i < t.rank; i++)
		reps[i] = 1 + below(m, 3);
	output(m, EMIT(&m->b, OP_TILE, ARG_VALUE("x", input(m, "x", t)), ARG_INTS("reps", t.rank, reps)));
}

/* ---- The cases --------------------------------------------------------------- */

/* Inputs are +-[low, high], or [low, high] where `positive`. */
static const struct rule_case {
	int op;
	void (*make)(maker *m);
	double low, high;
	bool positive;
} cases[] = {
    {OP_ADD, make_binary, 0, 2, false},
    {OP_SUB, make_binary, 0, 2, false},
    {OP_MUL, make_binary, 0, 2, false},
    {OP_REAL_DIV, make_binary, 0.4, 2, false},
    {OP_MOD, make_binary, 0.4, 2, true},
    {OP_POW, make_pow, 0.4, 2, true},
    {OP_MAXIMUM, make_binary, 0, 2, false},
    {OP_MINIMUM, make_binary, 0, 2, false},
    {OP_SELECT, make_select, 0, 2, false},
    {OP_IDENTITY, make_unary, 0, 2, false},
    {OP_CAST, make_unary, 0, 2, false},
    {OP_ABS, make_unary, 0, 2, false},
    {OP_SQUARE, make_unary, 0, 2, false},
    {OP_SQRT, make_unary, 0.1, 2, true},
    {OP_RSQRT, make_unary, 0.2, 2, true},
    {OP_INVERSE, make_unary, 0.3, 2, true},
    {OP_EXP, make_unary, 0, 3, false},
    {OP_EXP2, make_unary, 0, 3, false},
    {OP_LOG, make_unary, 0.2, 3, true},
    {OP_SIN, make_unary, 0, 4, false},
    {OP_COS, make_unary, 0, 4, false},
    {OP_ERF, make_unary, 0, 3, false},
    {OP_CLIP, make_unary, 0, 2, false},
    {OP_RELU, make_unary, 0, 2, false},
    {OP_LEAKY_RELU, make_unary, 0, 2, false},
    {OP_ELU, make_unary, 0, 3, false},
    {OP_SIGMOID, make_unary, 0, 5, false},
    {OP_TANH, make_unary, 0, 3, false},
    {OP_SILU, make_unary, 0, 6, false},
    {OP_GELU, make_unary, 0, 4, false},
    {OP_SOFTPLUS, make_unary, 0, 5, false},
    {OP_SOFTSIGN, make_unary, 0, 3, false},
    {OP_SOFTMAX, make_softmax, 0, 3, false},
    {OP_REDUCE_SUM, make_reduce, 0, 2, false},
    {OP_REDUCE_MEAN, make_reduce, 0, 2, false},
    {OP_REDUCE_MAX, make_reduce, 0, 2, false},
    {OP_REDUCE_MIN, make_reduce, 0, 2, false},
    {OP_REDUCE_SUM_SQUARE, make_reduce, 0, 2, false},
    {OP_REDUCE_L2_NORM, make_reduce, 0.3, 2, false},
    {OP_LAYER_NORM, make_layer_norm, 0, 2, false},
    {OP_MATMUL, make_matmul, 0, 2, false},
    {OP_LINEAR, make_linear, 0, 2, false},
    {OP_CONV, make_conv, 0, 2, false},
    {OP_SCALED_DOT_PRODUCT_ATTENTION, make_attention, 0, 1.5, false},
    {OP_RESHAPE, make_reshape, 0, 2, false},
    {OP_TRANSPOSE, make_transpose, 0, 2, false},
    {OP_EXPAND_DIMS, make_expand_dims, 0, 2, false},
    {OP_SQUEEZE, make_squeeze, 0, 2, false},
    {OP_SLICE_BY_INDEX, make_slice_by_index, 0, 2, false},
    {OP_SLICE_BY_SIZE, make_slice_by_size, 0, 2, false},
    {OP_CONCAT, make_concat, 0, 2, false},
    {OP_STACK, make_stack, 0, 2, false},
    {OP_SPLIT, make_split, 0, 2, false},
    {OP_PAD, make_pad, 0, 2, false},
    {OP_TILE, make_tile, 0, 2, false},
};

/* The program must print to text that parses back to the same. */
static void round_trip(an_ctx *ctx, const an_program *p)
{
	char *text;
	size_t len;
	an_program *again;
	MIL_OK(ctx, an_program_print(p, &text, &len));
	MIL_OK(ctx, an_program_parse(ctx, text, len, "printed", &again));
	const char *difference = mil_difference(p, again);
	if (difference)
		fail_msg("after printing and parsing: %s\n%s", difference, text);
	an_text_free(ctx, text, len);
	an_program_free(again);
}

static void check_case(an_ctx *ctx, const struct rule_case *c, int round, bool save_all, int64_t *sharp,
		       int64_t *all)
{
	an_program *p;
	an_function *f, *forward, *backward;
	MIL_OK(ctx, an_program_new(ctx, &p));
	MIL_OK(ctx, an_function_new(p, "f", &f));
	uint64_t seed = (uint64_t)(c->op * 1000 + round);
	maker m = {.b = an_builder_on(f), .op = c->op, .seed = seed, .round = round};
	c->make(&m);
	MIL_OK(ctx, an_builder_finish(&m.b));
	an_grad_options opt = {.save_all = save_all};
	MIL_OK(ctx, an_grad(f, &opt, &forward, &backward));
	round_trip(ctx, p);

	double **values = random_values(f, seed + 5, c->low, c->high);
	assert_non_null(values);
	for (size_t i = 0; c->positive && i < f->ninputs; i++)
		for (int64_t j = 0; j < an_type_count(&f->values[f->inputs[i]].type); j++)
			values[i][j] = fabs(values[i][j]);
	gradient_check result;
	MIL_OK(ctx, check_gradient(f, forward, backward, values, seed + 9, 0, &result));
	if (result.wrong || !result.checked) {
		char *text;
		size_t len;
		MIL_OK(ctx, an_program_print(p, &text, &len));
		fail_msg("%s, round %d: %lld of %lld derivatives wrong; %s\n%s", op_table[c->op].name, round,
			 (long long)result.wrong, (long long)result.checked, result.text, text);
	}
	*sharp += result.sharp;
	*all += result.checked;
	free_values(values, f->ninputs);
	an_program_free(p);
}

static void every_rule(void **state)
{
	an_ctx *ctx = mil_open();
	(void)state;
	for (int i = 0; i < LENGTH(cases); i++) {
		int64_t sharp = 0, all = 0;
		for (int round = 0; round < ROUNDS; round++)
			check_case(ctx, &cases[i], round, round % 5 == 4, &sharp, &all);
		/* kinks and steep places are rare, or the test would not test */
		if (sharp < all * 95 / 100)
			fail_msg("%s: only %lld of %lld derivatives have a sharp reference",
				 op_table[cases[i].op].name, (long long)sharp, (long long)all);
	}
	an_ctx_close(ctx);
}

/* ---- Range ------------------------------------------------------------------- */

/* y = op(x) and dx at `n` numbers of this type, for cotangents d. */
static void unary_gradient(an_ctx *ctx, int op, const char *mode, an_dtype dtype, int32_t n, int flags,
			   double *at, double *d, double *values, double *dx)
{
	an_program *p;
	an_function *f, *forward, *backward;
	MIL_OK(ctx, an_program_new(ctx, &p));
	MIL_OK(ctx, an_function_new(p, "f", &f));
	an_builder b = an_builder_on(f);
	an_value x = an_input(&b, "x", an_tensor(dtype, 1, &n)), y;
	if (op == OP_POW)
		y = an_binary(&b, "pow", x, an_scalar(&b, dtype, -0.5));
	else if (op == OP_GELU)
		y = EMIT(&b, op, ARG_VALUE("x", x), ARG_STRING("mode", mode));
	else if (op == OP_CLIP)
		y = EMIT(&b, op, ARG_VALUE("x", x), ARG_FLOAT("alpha", -2), ARG_FLOAT("beta", 3));
	else
		y = an_unary(&b, op_table[op].name, x);
	an_output(&b, an_name(&b, y, "y"));
	MIL_OK(ctx, an_builder_finish(&b));
	MIL_OK(ctx, an_grad(f, NULL, &forward, &backward));
	MIL_OK(ctx,
	       eval_named(forward, flags, 1, (const char *[]){"x"}, (double *[]){at}, (double *[]){values}));
	MIL_OK(ctx, eval_named(backward, flags, 3, (const char *[]){"x", "d_y", "y"},
			       (double *[]){at, d, values}, (double *[]){dx}));
	an_program_free(p);
}

/* Over all of fp16's range, a gradient computed in fp16 is what the same rule gives in double: no
 * intermediate overflows, no infinity meets a zero, as long as result and gradient are in range.
 * Error: five to ten roundings of 2^-11 each, of terms up to 1 that may cancel (gelu, sigmoid), and arguments
 * of exp and sigmoid off by 2^-11 |x|, which counts for |x| up to 17 where they are not flat: 17 2^-11 <
 * 2^-6. */
static void fp16_range(void **state)
{
	static const struct {
		int op;
		const char *mode;
		bool positive;
	} ops[] = {
	    {OP_ABS, NULL, false},
	    {OP_SQUARE, NULL, false},
	    {OP_ERF, NULL, false},
	    {OP_CLIP, NULL, false},
	    {OP_RELU, NULL, false},
	    {OP_LEAKY_RELU, NULL, false},
	    {OP_ELU, NULL, false},
	    {OP_SILU, NULL, false},
	    {OP_GELU, "EXACT", false},
	    {OP_GELU, "TANH_APPROXIMATION", false},
	    {OP_GELU, "SIGMOID_APPROXIMATION", false},
	    {OP_SOFTPLUS, NULL, false},
	    {OP_SOFTSIGN, NULL, false},
	    {OP_LOG, NULL, true},
	    {OP_SQRT, NULL, true},
	    {OP_RSQRT, NULL, true},
	    {OP_POW, NULL, true},
	    {OP_INVERSE, NULL, true},
	    {OP_SIGMOID, NULL, false},
	    {OP_TANH, NULL, false},
	    {OP_EXP, NULL, false},
	    {OP_EXP2, NULL, false},
	};
	enum { N = 2 * 41 };
	an_ctx *ctx = mil_open();
	(void)state;
	double x[N], d[N], y[N], have[N], want[N];
	int n = 0;
	for (int e = -24; e < 16; e++) /* each power of two with some fraction, and the largest number */
		for (int s = -1; s < 2; s += 2)
			x[n++] = s * eval_round(ldexp(1 + (e + 24) % 7 / 8.0, e), AN_FP16);
	x[n++] = 65504;
	x[n++] = -65504;
	assert_int_equal(n, N);
	for (int i = 0; i < LENGTH(ops); i++) {
		double xs[N];
		for (int j = 0; j < N; j++) {
			xs[j] = ops[i].positive ? fabs(x[j]) : x[j];
			d[j] = j % 3 ? 1 : -0.625;
		}
		unary_gradient(ctx, ops[i].op, ops[i].mode, AN_FP16, N, EVAL_ROUND, xs, d, y, have);
		unary_gradient(ctx, ops[i].op, ops[i].mode, AN_FP32, N, EVAL_EXACT, xs, d, y, want);
		for (int j = 0; j < N; j++) {
			if (!(fabs(want[j]) <= 64000 && fabs(y[j]) <= 64000))
				continue;
			if (!(fabs(have[j] - want[j]) <= 0x1p-6 * (1 + fabs(want[j]))))
				fail_msg("%s %s at %g: %g in fp16, %g in double", op_table[ops[i].op].name,
					 ops[i].mode ? ops[i].mode : "", xs[j], have[j], want[j]);
		}
	}
	an_ctx_close(ctx);
}

/* ---- Where there is no derivative -------------------------------------------------- */

/* Gradients of y = op(x, y) with cotangents 1, by a function of two inputs [2, 2] (the second may go unused).
 */
static void gradient_at(an_ctx *ctx, int op, double *x, double *y, double *dx, double *dy)
{
	an_program *p;
	an_function *f, *forward, *backward;
	const int32_t dim[] = {2, 2};
	MIL_OK(ctx, an_program_new(ctx, &p));
	MIL_OK(ctx, an_function_new(p, "f", &f));
	an_builder b = an_builder_on(f);
	an_value xv = an_input(&b, "x", shape(2, dim)), yv = an_input(&b, "y", shape(2, dim)), z;
	switch (op_table[op].cls) {
	case OC_BINARY: z = an_binary(&b, op_table[op].name, xv, yv); break;
	case OC_REDUCE: z = an_reduce(&b, op_table[op].name, xv, 1, false); break;
	default:
		if (op == OP_CLIP)
			z = EMIT(&b, op, ARG_VALUE("x", xv), ARG_FLOAT("alpha", -2), ARG_FLOAT("beta", 3));
		else if (op == OP_LEAKY_RELU || op == OP_ELU)
			z = EMIT(&b, op, ARG_VALUE("x", xv), ARG_FLOAT("alpha", 0.25));
		else if (op == OP_LAYER_NORM)
			z = EMIT(&b, op, ARG_VALUE("x", xv), ARG_INTS("axes", 1, (&(int32_t){1})),
				 ARG_FLOAT("epsilon", 0.25));
		else
			z = an_unary(&b, op_table[op].name, xv);
	}
	an_output(&b, an_name(&b, z, "z"));
	MIL_OK(ctx, an_builder_finish(&b));
	MIL_OK(ctx, an_grad(f, NULL, &forward, &backward));
	double ones[] = {1, 2, 1, 2}, values[4];
	MIL_OK(ctx, eval_named(forward, EVAL_EXACT, 2, (const char *[]){"x", "y"}, (double *[]){x, y},
			       (double *[]){values, values, values}));
	MIL_OK(ctx, eval_named(backward, EVAL_EXACT, 4, (const char *[]){"x", "y", "z", "d_z"},
			       (double *[]){x, y, values, ones}, (double *[]){dx, dy}));
	an_program_free(p);
}

static void ties(void **state)
{
	an_ctx *ctx = mil_open();
	(void)state;
	/* op, x, y, dx, dy for cotangents 1 2 1 2 (1 2 for reductions over the last axis) */
	static const struct {
		int op;
		double x[4], y[4], dx[4], dy[4];
	} points[] = {
	    {OP_MAXIMUM, {1, 2, -0.0, 5}, {1, 3, 0.0, 4}, {1, 0, 1, 2}, {0, 2, 0, 0}},
	    {OP_MINIMUM, {1, 2, -0.0, 5}, {1, 3, 0.0, 4}, {1, 2, 1, 0}, {0, 0, 0, 2}},
	    {OP_RELU, {0, -0.0, 1, -1}, {0}, {0, 0, 1, 0}, {0}},
	    {OP_ABS, {0, -0.0, 1, -1}, {0}, {0, 0, 1, -2}, {0}},
	    {OP_CLIP, {-2, 3, -2.5, 3.5}, {0}, {1, 2, 0, 0}, {0}},
	    {OP_LEAKY_RELU, {0, -0.0, 1, -1}, {0}, {1, 2, 1, 0.5}, {0}},
	    {OP_ELU, {0, -0.0, 1, 2}, {0}, {1, 2, 1, 2}, {0}},
	    {OP_REDUCE_MAX, {3, 3, 1, 4}, {0}, {0.5, 0.5, 0, 2}, {0}},
	    {OP_REDUCE_MIN, {3, 3, 1, 4}, {0}, {0.5, 0.5, 2, 0}, {0}},
	    {OP_REDUCE_L2_NORM, {0, 0, 3, 4}, {0}, {0, 0, 1.2, 1.6}, {0}},
	    /* equal elements: s = 1/sqrt(0.25) = 2 times (e - mean(e)) */
	    {OP_LAYER_NORM, {7, 7, -1, -1}, {0}, {-1, 1, -1, 1}, {0}},
	    {OP_POW, {0, 0, 4, 1}, {1, 2, 0.5, 0}, {1, 0, 0.25, 0}, {0, 0, 2 * 1.3862943611198906, 0}},
	};
	for (int i = 0; i < LENGTH(points); i++) {
		double x[4], y[4], dx[4], dy[4];
		memcpy(x, points[i].x, sizeof x);
		memcpy(y, points[i].y, sizeof y);
		gradient_at(ctx, points[i].op, x, y, dx, dy);
		for (int j = 0; j < 4; j++)
			if (!(fabs(dx[j] - points[i].dx[j]) <= 1e-12 &&
			      fabs(dy[j] - points[i].dy[j]) <= 1e-12))
				fail_msg("%s at %g, %g: dx %g, dy %g", op_table[points[i].op].name, x[j],
					 y[j], dx[j], dy[j]);
	}
	an_ctx_close(ctx);
}

/* An operation that gets a rule must get a case. */
static void no_rule_untested(void **state)
{
	(void)state;
	for (int op = 0; op < OP_COUNT; op++) {
		int n = 0;
		for (int i = 0; i < LENGTH(cases); i++)
			n += cases[i].op == op;
		if (grad_kind_of(op) == GRAD_RULE && n == 0)
			fail_msg("the rule of %s is not tested", op_table[op].name);
		if (grad_kind_of(op) != GRAD_RULE && n > 0)
			fail_msg("%s has no rule, but a case", op_table[op].name);
		assert_int_equal(grad_kind_of(op) == GRAD_RULE, strcmp(an_op_gradient(op), "rule") == 0);
	}
	assert_null(an_op_gradient(-1));
	assert_null(an_op_gradient(OP_COUNT));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_rule),
	    cmocka_unit_test(fp16_range),
	    cmocka_unit_test(ties),
	    cmocka_unit_test(no_rule_untested),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
