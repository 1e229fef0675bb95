/* Identities that hold bit by bit, whatever arithmetic a device has: each either moves no element, or
 * rests on a property of one rounding (stated at the rule).  What is not here on purpose:
 *   x + 0           -0 + 0 is +0; only x + (-0) and x - 0 leave every x alone
 *   x * 0           is not 0 for infinities and NaN
 *   pow(x, 1)       a device may compute pow by a table
 *   sums over one element, exp(log(x)), reassociation: other roundings, or other zeros */
#include "pass/pass.h"

typedef struct simplifier {
	rewrite r;
	an_builder b; /* on r.to */
} simplifier;

/* Operand p of an operation of `from`, in `to`. */
static an_value operand(const simplifier *s, const mil_op *op, int p) { return s->r.map[op->arg[p].v[0]]; }
static const an_type *type(const simplifier *s, an_value v) { return &s->r.to->values[v].type; }
static const mil_op *def(const simplifier *s, an_value v) { return fn_def(s->r.to, v); }

static bool same_dims(const an_type *a, const an_type *b)
{
	return a->rank == b->rank && memcmp(a->dim, b->dim, a->rank * sizeof *a->dim) == 0;
}

/* Whether v is a constant whose elements all have the value `want`, with that sign. */
static bool constant(const simplifier *s, an_value v, double want)
{
	const mil_literal *l = fn_const(s->r.to, v);
	if (!l || !l->bytes)
		return false;
	int64_t n = an_type_count(&l->type);
	for (int64_t i = 0; i < n; i++) {
		double x = lit_number(l, i);
		if (x != want || !__builtin_signbit(x) != !__builtin_signbit(want))
			return false;
	}
	return true;
}

/* x * 1, 1 * x, x / 1, x - 0, x + (-0), (-0) + x: the exact result is x, so rounding keeps it. */
static an_value neutral(const simplifier *s, const mil_op *op)
{
	const an_type *t = &s->r.from->values[op->results[0]].type;
	an_value x = operand(s, op, 0), y = operand(s, op, 1);
	bool integer = t->dtype != AN_FP16 && t->dtype != AN_FP32;
	double none = op->op == OP_ADD && !integer ? -0.0 : op->op == OP_ADD || op->op == OP_SUB ? 0.0 : 1.0;
	if (same_dims(type(s, x), t) && constant(s, y, none))
		return x;
	if ((op->op == OP_ADD || op->op == OP_MUL) && same_dims(type(s, y), t) && constant(s, x, none))
		return y;
	return AN_NO_VALUE;
}

/* What repeats elements along axes of length 1 need not be there for an operation that broadcasts. */
static an_value unexpanded(const simplifier *s, an_value v)
{
	const mil_op *op = def(s, v);
	if (!op || op->op != OP_TILE)
		return v;
	an_value x = op->arg[0].v[0];
	for (int i = 0; i < type(s, v)->rank; i++)
		if (type(s, x)->dim[i] != 1 && type(s, x)->dim[i] != type(s, v)->dim[i])
			return v;
	return x;
}

/* x op tile(y): the same with y, if x alone has the result's shape. */
static an_value broadcast(simplifier *s, const mil_op *op)
{
	const an_type *t = &s->r.from->values[op->results[0]].type;
	an_value x = operand(s, op, 0), y = operand(s, op, 1), thin_x = unexpanded(s, x),
		 thin_y = unexpanded(s, y);
	if (thin_y != y && same_dims(type(s, x), t))
		y = thin_y;
	else if (thin_x != x && same_dims(type(s, y), t))
		x = thin_x;
	else
		return AN_NO_VALUE;
	return EMIT(&s->b, op->op, ARG_VALUE("x", x), ARG_VALUE("y", y));
}

/* cast to the type it has; fp16 -> fp32 -> fp16 (every fp16 value is an fp32 value). */
static an_value cast(const simplifier *s, const mil_op *op)
{
	an_value x = operand(s, op, 0);
	an_dtype to = (an_dtype)s->r.from->values[op->results[0]].type.dtype;
	if (type(s, x)->dtype == to)
		return x;
	const mil_op *inner = def(s, x);
	if (to != AN_FP16 || type(s, x)->dtype != AN_FP32 || !inner || inner->op != OP_CAST)
		return AN_NO_VALUE;
	an_value origin = inner->arg[0].v[0];
	return type(s, origin)->dtype == AN_FP16 ? origin : AN_NO_VALUE;
}

static bool is_reshape(int op) { return op == OP_RESHAPE || op == OP_EXPAND_DIMS || op == OP_SQUEEZE; }

/* reshape, expand_dims, squeeze: the last shape counts, whatever came before. */
static an_value reshape(simplifier *s, const mil_op *op)
{
	an_type t = s->r.from->values[op->results[0]].type;
	an_value x = operand(s, op, 0), origin = x;
	for (const mil_op *d; (d = def(s, origin)) != NULL && is_reshape(d->op);)
		origin = d->arg[0].v[0];
	if (same_dims(type(s, origin), &t))
		return origin;
	if (origin == x)
		return AN_NO_VALUE;
	if (t.rank == 0)
		return EMIT(&s->b, OP_SQUEEZE, ARG_VALUE("x", origin));
	return an_reshape(&s->b, origin, t.rank, t.dim);
}

/* Adjacent transposes are one; one that exchanges no two axes longer than 1 is a reshape or nothing. */
static an_value transpose(simplifier *s, const mil_op *op)
{
	int32_t perm[AN_MAX_RANK], inner_perm[AN_MAX_RANK];
	an_value x = operand(s, op, 0);
	an_type t = s->r.from->values[op->results[0]].type;
	int n = fn_arg_ints(s->r.from, op, "perm", perm, AN_MAX_RANK);
	for (int i = 0; i < n; i++)
		perm[i] += perm[i] < 0 ? n : 0;
	const mil_op *inner = def(s, x);
	bool joined = inner && inner->op == OP_TRANSPOSE;
	if (joined) {
		fn_arg_ints(s->r.to, inner, "perm", inner_perm, AN_MAX_RANK);
		for (int i = 0; i < n; i++)
			perm[i] = inner_perm[perm[i]] + (inner_perm[perm[i]] < 0 ? n : 0);
		x = inner->arg[0].v[0];
	}
	int last = -1;
	bool moves = false;
	for (int i = 0; i < n; i++)
		if (type(s, x)->dim[perm[i]] != 1) {
			moves |= perm[i] < last;
			last = perm[i];
		}
	if (!moves)
		return same_dims(type(s, x), &t) ? x : an_reshape(&s->b, x, t.rank, t.dim);
	return joined ? an_transpose(&s->b, x, n, perm) : AN_NO_VALUE;
}

/* A slice of everything; a slice that is one of the parts of a concat. */
static an_value slice(const simplifier *s, const mil_op *op)
{
	slice_spec spec;
	an_value x = operand(s, op, 0);
	const an_type *t = type(s, x);
	int cut = 0, axis = 0;
	if (op_slice_spec(s->r.from, op, &spec) != AN_OK)
		return AN_NO_VALUE;
	for (int i = 0; i < t->rank; i++) {
		if (spec.squeeze[i] || (spec.step[i] != 1 && spec.count[i] > 1))
			return AN_NO_VALUE;
		if (spec.count[i] != t->dim[i]) {
			cut++;
			axis = i;
		}
	}
	if (cut == 0)
		return x;
	const mil_op *d = def(s, x);
	if (cut > 1 || !d || d->op != OP_CONCAT || fn_arg_bool(s->r.to, d, "interleave"))
		return AN_NO_VALUE;
	int along = fn_arg_int(s->r.to, d, "axis");
	if ((along < 0 ? along + t->rank : along) != axis)
		return AN_NO_VALUE;
	int32_t begin = 0;
	for (uint32_t i = 0; i < d->arg[0].n; i++) {
		an_value v = d->arg[0].v[i];
		if (begin == spec.begin[axis] && type(s, v)->dim[axis] == spec.count[axis])
			return v;
		begin += type(s, v)->dim[axis];
	}
	return AN_NO_VALUE;
}

/* The value that the only result of op equals, perhaps that of a new, simpler operation; AN_NO_VALUE: keep
 * op. */
static an_value simpler(simplifier *s, const mil_op *op)
{
	const an_type *t = &s->r.from->values[op->results[0]].type;
	switch (op->op) {
	case OP_IDENTITY: return operand(s, op, 0);
	case OP_ADD:
	case OP_SUB:
	case OP_MUL:
	case OP_REAL_DIV: {
		an_value v = neutral(s, op);
		return v == AN_NO_VALUE ? broadcast(s, op) : v;
	}
	case OP_POW:
	case OP_MAXIMUM:
	case OP_MINIMUM:
	case OP_EQUAL:
	case OP_NOT_EQUAL:
	case OP_LESS:
	case OP_LESS_EQUAL:
	case OP_GREATER:
	case OP_GREATER_EQUAL: return broadcast(s, op);
	case OP_CAST: return cast(s, op);
	case OP_RESHAPE:
	case OP_EXPAND_DIMS:
	case OP_SQUEEZE: return reshape(s, op);
	case OP_TRANSPOSE: return transpose(s, op);
	case OP_SLICE_BY_INDEX:
	case OP_SLICE_BY_SIZE: return slice(s, op);
	case OP_CONCAT: return op->arg[0].n == 1 ? operand(s, op, 0) : AN_NO_VALUE;
	case OP_PAD:  /* by nothing */
	case OP_TILE: /* once */
		return same_dims(type(s, operand(s, op, 0)), t) ? operand(s, op, 0) : AN_NO_VALUE;
	default: return AN_NO_VALUE;
	}
}

static an_status simplify(simplifier *s)
{
	an_function *from = s->r.from;
	TRY(rewrite_inputs(&s->r, NULL));
	s->b = an_builder_on(s->r.to);
	for (size_t i = 0; i < from->nops; i++) {
		const mil_op *op = &from->ops[i];
		an_value v = op->nresults == 1 ? simpler(s, op) : AN_NO_VALUE;
		TRY(s->b.status);
		if (v == AN_NO_VALUE)
			TRY(fn_copy_op(s->r.to, from, op, s->r.map));
		else
			s->r.map[op->results[0]] = v;
	}
	return rewrite_outputs(&s->r);
}

an_status an_simplify(an_function *f, an_function **out)
{
	simplifier s;
	an_status status = rewrite_begin(&s.r, f, "simplify");
	if (status == AN_OK)
		status = simplify(&s);
	return rewrite_sweep(&s.r, status, true, out);
}
