/* The rule of each operation.  In the comments y = op(x), and dx, dy are cotangents; sums run
 * over what broadcasting repeated.
 *
 * Rules keep fp16's range in mind: products start from the cotangent (which loss scaling keeps in
 * range) rather than form powers of activations first, and derivatives go through the forward
 * result where that is the bounded quantity.
 *
 * At points without a derivative: relu, abs, clip, leaky_relu and elu take the value stated at their
 * rule; maximum and minimum give everything to x when x == y; reduce_max and reduce_min share
 * evenly among equals. */
#include "pass/grad.h"

#include <math.h>

/* ---- Shorthand --------------------------------------------------------------- */

static const an_type *type(const grad *g, an_value v) { return &g->f->values[v].type; }
static an_value arg(const grad *g, const mil_op *op, const char *name)
{
	return fn_arg_value(g->f, op, name);
}
static double number(const grad *g, const mil_op *op, const char *name)
{
	return fn_arg_float(g->f, op, name);
}
/* Operand x and the result in the backward. */
static an_value x_of(grad *g, const mil_op *op) { return grad_use(g, op->arg[0].v[0]); }
static an_value y_of(grad *g, const mil_op *op) { return grad_use(g, op->results[0]); }
static void give_x(grad *g, const mil_op *op, an_value d) { grad_give(g, op->arg[0].v[0], d); }

/* An expanded operand of an elementwise operation may as well broadcast: a for tile(a), if the other one
 * has the whole shape. */
static an_value unexpanded(const grad *g, an_value d, an_value other)
{
	if (g->b.status != AN_OK)
		return AN_NO_VALUE;
	const an_function *to = g->b.f;
	const mil_op *op = fn_def(to, d);
	if (!op || op->op != OP_TILE || !an_type_equal(&to->values[d].type, &to->values[other].type))
		return d;
	an_value x = op->arg[0].v[0];
	for (int i = 0; i < to->values[d].type.rank; i++) /* repeated only where it is 1 */
		if (to->values[x].type.dim[i] != 1 && to->values[x].type.dim[i] != to->values[d].type.dim[i])
			return d;
	return x;
}

static an_value scale(grad *g, an_value a, double factor) { return an_scale(&g->b, a, factor); }
static an_value mul(grad *g, an_value a, an_value b)
{
	an_value minus_a = grad_negated(g, a);
	if (minus_a != AN_NO_VALUE)
		return scale(g, mul(g, minus_a, b), -1);
	an_value c = unexpanded(g, a, b);
	return an_mul(&g->b, c, c == a ? unexpanded(g, b, a) : b);
}
static an_value add(grad *g, an_value a, an_value b) { return an_add(&g->b, a, b); }
static an_value sub(grad *g, an_value a, an_value b) { return an_sub(&g->b, a, b); }
static an_value quotient(grad *g, an_value a, an_value b)
{
	return an_binary(&g->b, "real_div", unexpanded(g, a, b), b);
}
static an_value unary(grad *g, const char *op, an_value a) { return an_unary(&g->b, op, a); }
static an_value scalar_like(grad *g, an_value d, double value)
{
	return g->b.status == AN_OK ? an_scalar(&g->b, (an_dtype)g->b.f->values[d].type.dtype, value)
				    : AN_NO_VALUE;
}
/* factor - a, a + term */
static an_value from(grad *g, double value, an_value a) { return sub(g, scalar_like(g, a, value), a); }
static an_value plus(grad *g, an_value a, double value) { return add(g, a, scalar_like(g, a, value)); }
static an_value compare(grad *g, const char *op, an_value a, an_value b)
{
	return an_binary(&g->b, op, a, b);
}
static an_value choose(grad *g, an_value cond, an_value a, an_value b)
{
	return EMIT(&g->b, OP_SELECT, ARG_VALUE("cond", cond), ARG_VALUE("a", a), ARG_VALUE("b", b));
}
/* d where cond, else 0; and the opposite. */
static an_value where(grad *g, an_value cond, an_value d) { return choose(g, cond, d, scalar_like(g, d, 0)); }
static an_value unless(grad *g, an_value cond, an_value d)
{
	return choose(g, cond, scalar_like(g, d, 0), d);
}

/* d with the elements in the shape of t. */
static an_value shaped(grad *g, an_value d, const an_type *t)
{
	if (g->b.status != AN_OK)
		return AN_NO_VALUE;
	const an_type *have = &g->b.f->values[d].type;
	if (have->rank == t->rank && memcmp(have->dim, t->dim, t->rank * sizeof *t->dim) == 0)
		return d;
	if (t->rank == 0)
		return EMIT(&g->b, OP_SQUEEZE, ARG_VALUE("x", d));
	return an_reshape(&g->b, d, t->rank, t->dim);
}

static an_value reduce(grad *g, int op, an_value d, uint32_t mask)
{
	int32_t axes[AN_MAX_RANK];
	int n = 0;
	for (int i = 0; i < AN_MAX_RANK; i++)
		if (mask >> i & 1)
			axes[n++] = i;
	if (n == 0)
		return d;
	return EMIT(&g->b, op, ARG_VALUE("x", d), ARG_INTS("axes", n, axes), ARG_BOOL("keep_dims", true));
}

/* d of type `have`, to which `want` broadcasts: summed back to `want`. */
static an_value sum_to(grad *g, an_value d, const an_type *have, const an_type *want)
{
	uint32_t mask = 0;
	int more = have->rank - want->rank;
	for (int i = 0; i < have->rank; i++)
		if (have->dim[i] != 1 && (i < more || want->dim[i - more] == 1))
			mask |= 1u << i;
	return shaped(g, reduce(g, OP_REDUCE_SUM, d, mask), want);
}

/* d of type `have`, as many axes as `want`, repeated along axes of length 1. */
static an_value expand(grad *g, an_value d, const an_type *have, const an_type *want)
{
	int32_t reps[AN_MAX_RANK];
	bool any = false;
	for (int i = 0; i < want->rank; i++) {
		reps[i] = want->dim[i] / have->dim[i];
		any |= reps[i] != 1;
	}
	return any ? EMIT(&g->b, OP_TILE, ARG_VALUE("x", d), ARG_INTS("reps", want->rank, reps)) : d;
}

/* t with length 1 along the axes of mask. */
static an_type kept(const an_type *t, uint32_t mask)
{
	an_type k = *t;
	for (int i = 0; i < k.rank; i++)
		if (mask >> i & 1)
			k.dim[i] = 1;
	return k;
}

an_value grad_pad(grad *g, an_value d, int rank, const int32_t *before, const int32_t *after)
{
	int32_t pad[2 * AN_MAX_RANK];
	bool any = false;
	for (int i = 0; i < rank; i++) {
		pad[2 * i] = before[i];
		pad[2 * i + 1] = after[i];
		any |= before[i] || after[i];
	}
	if (!any)
		return d;
	return EMIT(&g->b, OP_PAD, ARG_VALUE("x", d), ARG_INTS("pad", 2 * rank, pad),
		    ARG_STRING("mode", "constant"), ARG_FLOAT("constant_val", 0));
}

an_value grad_zeros(grad *g, const an_type *t)
{
	an_value zero = an_scalar(&g->b, (an_dtype)t->dtype, 0);
	an_type one = kept(t, ~0u);
	if (t->rank == 0)
		return unary(g, "identity", zero);
	return expand(g, an_reshape(&g->b, zero, one.rank, one.dim), &one, t);
}

/* ---- Operations that nothing flows through --------------------------------------- */

/* Piecewise constant, or not of numbers. */
static void grad_zero(grad *g, const mil_op *op, an_value d) { (void)g, (void)op, (void)d; }

static void grad_none(grad *g, const mil_op *op, an_value d)
{
	(void)d;
	switch (op->op) {
	case OP_QUANTIZE:
	case OP_DEQUANTIZE:
		grad_refuse(g, op, "quantisation is piecewise constant; leave it out of what is trained");
		break;
	case OP_TOPK: grad_refuse(g, op, "it would take a scatter, which the engine does not have"); break;
	default: grad_refuse(g, op, NULL);
	}
}

#define rule_CONST                       grad_zero
#define rule_CONSTEXPR_AFFINE_DEQUANTIZE grad_zero
#define rule_FLOOR_DIV                   grad_zero
#define rule_EQUAL                       grad_zero
#define rule_NOT_EQUAL                   grad_zero
#define rule_LESS                        grad_zero
#define rule_LESS_EQUAL                  grad_zero
#define rule_GREATER                     grad_zero
#define rule_GREATER_EQUAL               grad_zero
#define rule_SIGN                        grad_zero
#define rule_FLOOR                       grad_zero
#define rule_CEIL                        grad_zero
#define rule_ROUND                       grad_zero
#define rule_REDUCE_ARGMAX               grad_zero
#define rule_REDUCE_ARGMIN               grad_zero
#define rule_TOPK                        grad_none
#define rule_QUANTIZE                    grad_none
#define rule_DEQUANTIZE                  grad_none

/* ---- Two operands ------------------------------------------------------------ */

/* Gives d, of the result's type, to operand v, summed over what was broadcast. */
static void give_sum(grad *g, const mil_op *op, an_value v, an_value d)
{
	grad_give(g, v, sum_to(g, d, type(g, op->results[0]), type(g, v)));
}

static void rule_ADD(grad *g, const mil_op *op, an_value d)
{
	for (int i = 0; i < 2; i++)
		if (grad_wants(g, op_arg(op, i)))
			give_sum(g, op, op_arg(op, i), d);
}

static void rule_SUB(grad *g, const mil_op *op, an_value d)
{
	an_value x = op_arg(op, 0), y = op_arg(op, 1);
	if (grad_wants(g, x))
		give_sum(g, op, x, d);
	if (grad_wants(g, y)) /* the sign after the sum: fewer elements */
		grad_give(g, y, scale(g, sum_to(g, d, type(g, op->results[0]), type(g, y)), -1));
}

static void rule_MUL(grad *g, const mil_op *op, an_value d)
{
	an_value x = op_arg(op, 0), y = op_arg(op, 1);
	if (x == y) {
		grad_give(g, x, scale(g, mul(g, d, grad_use(g, x)), 2));
		return;
	}
	if (grad_wants(g, x))
		give_sum(g, op, x, mul(g, d, grad_use(g, y)));
	if (grad_wants(g, y))
		give_sum(g, op, y, mul(g, d, grad_use(g, x)));
}

/* z = x / y: dx = d / y, dy = -(d / y) z */
static void rule_REAL_DIV(grad *g, const mil_op *op, an_value d)
{
	an_value x = op_arg(op, 0), y = op_arg(op, 1);
	an_value dx = quotient(g, d, grad_use(g, y));
	if (grad_wants(g, x))
		give_sum(g, op, x, dx);
	if (grad_wants(g, y))
		give_sum(g, op, y, scale(g, mul(g, dx, y_of(g, op)), -1));
}

/* z = x - y floor(x / y); the floor is constant between its steps. */
static void rule_MOD(grad *g, const mil_op *op, an_value d)
{
	an_value x = op_arg(op, 0), y = op_arg(op, 1);
	if (grad_wants(g, x))
		give_sum(g, op, x, d);
	if (grad_wants(g, y)) {
		an_value steps = an_binary(&g->b, "floor_div", grad_use(g, x), grad_use(g, y));
		give_sum(g, op, y, scale(g, mul(g, d, steps), -1));
	}
}

/* z = x^y: dx = d y x^(y-1), dy = d z log(x), with log(0) taken as 0 (0^y is constant for y > 0).
 * For a constant exponent below 0, dx = ((d z) y) / x instead: with x^(-1/2), as norms have it, every
 * intermediate lies between d and the result, whereas x^(-3/2) alone leaves fp16 from x = 6e-4 down. */
static void rule_POW(grad *g, const mil_op *op, an_value d)
{
	an_value x = op_arg(op, 0), y = op_arg(op, 1);
	const mil_literal *exponent = fn_const(g->f, y);
	bool negative = exponent && an_type_count(&exponent->type) == 1 && lit_number(exponent, 0) < 0;
	if (grad_wants(g, x) && negative) {
		an_value t = mul(g, mul(g, d, y_of(g, op)), grad_use(g, y));
		give_sum(g, op, x, quotient(g, t, grad_use(g, x)));
	} else if (grad_wants(g, x)) {
		an_value power = an_binary(&g->b, "pow", grad_use(g, x), plus(g, grad_use(g, y), -1));
		give_sum(g, op, x, mul(g, d, mul(g, power, grad_use(g, y))));
	}
	if (grad_wants(g, y)) {
		an_value base = grad_use(g, x), zero = compare(g, "equal", base, scalar_like(g, base, 0));
		base = choose(g, zero, scalar_like(g, base, 1), base);
		an_value log = EMIT(&g->b, OP_LOG, ARG_VALUE("x", base), ARG_FLOAT("epsilon", 0));
		give_sum(g, op, y, mul(g, mul(g, d, y_of(g, op)), log));
	}
}

static void extremum(grad *g, const mil_op *op, an_value d, const char *wins)
{
	an_value x = op_arg(op, 0), y = op_arg(op, 1);
	an_value first = compare(g, wins, grad_use(g, x), grad_use(g, y));
	if (grad_wants(g, x))
		give_sum(g, op, x, where(g, first, d));
	if (grad_wants(g, y))
		give_sum(g, op, y, unless(g, first, d));
}
static void rule_MAXIMUM(grad *g, const mil_op *op, an_value d) { extremum(g, op, d, "greater_equal"); }
static void rule_MINIMUM(grad *g, const mil_op *op, an_value d) { extremum(g, op, d, "less_equal"); }

static void rule_SELECT(grad *g, const mil_op *op, an_value d)
{
	an_value cond = grad_use(g, arg(g, op, "cond")), a = arg(g, op, "a"), b = arg(g, op, "b");
	if (grad_wants(g, a))
		give_sum(g, op, a, where(g, cond, d));
	if (grad_wants(g, b))
		give_sum(g, op, b, unless(g, cond, d));
}

/* ---- One operand ------------------------------------------------------------- */

static void rule_IDENTITY(grad *g, const mil_op *op, an_value d) { give_x(g, op, d); }

static void rule_CAST(grad *g, const mil_op *op, an_value d)
{
	an_dtype t = (an_dtype)type(g, op_arg(op, 0))->dtype;
	if (t == AN_FP16 || t == AN_FP32)
		give_x(g, op, an_cast(&g->b, d, t));
	else
		grad_refuse(g, op, "its operand is an integer that depends on what is differentiated");
}

/* 0 at 0 */
static void rule_ABS(grad *g, const mil_op *op, an_value d)
{
	give_x(g, op, mul(g, d, unary(g, "sign", x_of(g, op))));
}
static void rule_SQUARE(grad *g, const mil_op *op, an_value d)
{
	give_x(g, op, scale(g, mul(g, d, x_of(g, op)), 2));
}
/* d / (2 y) */
static void rule_SQRT(grad *g, const mil_op *op, an_value d)
{
	give_x(g, op, quotient(g, scale(g, d, 0.5), y_of(g, op)));
}
/* (-d / 2) y y y, from the left: y^3 overflows where the product does not */
static void rule_RSQRT(grad *g, const mil_op *op, an_value d)
{
	an_value y = y_of(g, op);
	give_x(g, op, mul(g, mul(g, mul(g, scale(g, d, -0.5), y), y), y));
}
/* -d y^2 */
static void rule_INVERSE(grad *g, const mil_op *op, an_value d)
{
	an_value y = y_of(g, op);
	give_x(g, op, scale(g, mul(g, mul(g, d, y), y), -1));
}
static void rule_EXP(grad *g, const mil_op *op, an_value d) { give_x(g, op, mul(g, d, y_of(g, op))); }
static void rule_EXP2(grad *g, const mil_op *op, an_value d)
{
	give_x(g, op, mul(g, scale(g, d, M_LN2), y_of(g, op)));
}
static void rule_LOG(grad *g, const mil_op *op, an_value d)
{
	an_value x = x_of(g, op);
	double epsilon = number(g, op, "epsilon");
	double least = type(g, op_arg(op, 0))->dtype == AN_FP16 ? 0x1p-24 : 0x1p-149;
	give_x(g, op, quotient(g, d, epsilon >= least / 2 ? plus(g, x, epsilon) : x));
}
static void rule_SIN(grad *g, const mil_op *op, an_value d)
{
	give_x(g, op, mul(g, d, unary(g, "cos", x_of(g, op))));
}
static void rule_COS(grad *g, const mil_op *op, an_value d)
{
	give_x(g, op, scale(g, mul(g, d, unary(g, "sin", x_of(g, op))), -1));
}

/* exp(-k x^2); x^2 may overflow, then it is 0 as it should. */
static an_value bell(grad *g, an_value x, double k) { return unary(g, "exp", scale(g, mul(g, x, x), -k)); }
/* 2/sqrt(pi) exp(-x^2) */
static void rule_ERF(grad *g, const mil_op *op, an_value d)
{
	give_x(g, op, mul(g, d, scale(g, bell(g, x_of(g, op), 1), M_2_SQRTPI)));
}

/* d from alpha to beta, both included: where clip changed nothing */
static void rule_CLIP(grad *g, const mil_op *op, an_value d)
{
	give_x(g, op, where(g, compare(g, "equal", x_of(g, op), y_of(g, op)), d));
}
/* 0 at 0 */
static void rule_RELU(grad *g, const mil_op *op, an_value d)
{
	an_value x = x_of(g, op);
	give_x(g, op, where(g, compare(g, "greater", x, scalar_like(g, x, 0)), d));
}

static an_value at_least_zero(grad *g, an_value x)
{
	return compare(g, "greater_equal", x, scalar_like(g, x, 0));
}
/* d at 0 */
static void rule_LEAKY_RELU(grad *g, const mil_op *op, an_value d)
{
	give_x(g, op, choose(g, at_least_zero(g, x_of(g, op)), d, scale(g, d, number(g, op, "alpha"))));
}
/* d at 0, else d alpha exp(x) */
static void rule_ELU(grad *g, const mil_op *op, an_value d)
{
	an_value x = x_of(g, op);
	an_value below = scale(g, mul(g, d, unary(g, "exp", x)), number(g, op, "alpha"));
	give_x(g, op, choose(g, at_least_zero(g, x), d, below));
}

/* d y (1 - y) */
static void rule_SIGMOID(grad *g, const mil_op *op, an_value d)
{
	an_value y = y_of(g, op);
	give_x(g, op, mul(g, mul(g, d, y), from(g, 1, y)));
}
/* d (1 - y^2) */
static void rule_TANH(grad *g, const mil_op *op, an_value d)
{
	an_value y = y_of(g, op);
	give_x(g, op, mul(g, d, from(g, 1, mul(g, y, y))));
}

/* Derivative of x sigmoid(k x): s + k ((s x) (1 - s)) with s = sigmoid(k x).  In this order the large factor
 * always meets the small one first: s x is small where x is far below 0, and 1 - s is 0 far above. */
static an_value swish(grad *g, an_value x, double k)
{
	an_value s = unary(g, "sigmoid", k == 1 ? x : scale(g, x, k));
	an_value slope = mul(g, mul(g, s, x), from(g, 1, s));
	return add(g, s, k == 1 ? slope : scale(g, slope, k));
}
static void rule_SILU(grad *g, const mil_op *op, an_value d)
{
	give_x(g, op, mul(g, d, swish(g, x_of(g, op), 1)));
}

/* EXACT: Phi(x) + x phi(x).
 * TANH_APPROXIMATION, t = tanh(u), u = c (x + a x^3): (1 + t)/2 + x (1 - t^2)/2 c (1 + 3 a x^2). Beyond
 * 16 it is 0 or 1 in any precision, while x^3 overflows, so x is limited to that.
 * SIGMOID_APPROXIMATION: x sigmoid(1.702 x). */
static void rule_GELU(grad *g, const mil_op *op, an_value d)
{
	const char *mode = fn_arg_string(g->f, op, "mode");
	an_value x = x_of(g, op), slope;
	if (strcmp(mode, "EXACT") == 0) {
		an_value cdf = scale(g, plus(g, unary(g, "erf", scale(g, x, M_SQRT1_2)), 1), 0.5);
		slope = add(g, cdf, mul(g, x, scale(g, bell(g, x, 0.5), M_2_SQRTPI * M_SQRT1_2 / 2)));
	} else if (strcmp(mode, "SIGMOID_APPROXIMATION") == 0) {
		slope = swish(g, x, 1.702);
	} else {
		const double a = 0.044715, c = M_2_SQRTPI * M_SQRT1_2; /* sqrt(2 / pi) */
		x = EMIT(&g->b, OP_CLIP, ARG_VALUE("x", x), ARG_FLOAT("alpha", -16), ARG_FLOAT("beta", 16));
		an_value xx = mul(g, x, x);
		an_value t = unary(g, "tanh", scale(g, mul(g, x, plus(g, scale(g, xx, a), 1)), c));
		an_value du = scale(g, plus(g, scale(g, xx, 3 * a), 1), c);
		an_value inner = mul(g, mul(g, x, from(g, 1, mul(g, t, t))), du);
		slope = scale(g, add(g, plus(g, t, 1), inner), 0.5);
	}
	give_x(g, op, mul(g, d, slope));
}
static void rule_SOFTPLUS(grad *g, const mil_op *op, an_value d)
{
	give_x(g, op, mul(g, d, unary(g, "sigmoid", x_of(g, op))));
}
/* d / (1 + |x|)^2 */
static void rule_SOFTSIGN(grad *g, const mil_op *op, an_value d)
{
	an_value t = plus(g, unary(g, "abs", x_of(g, op)), 1);
	give_x(g, op, quotient(g, quotient(g, d, t), t));
}

/* ---- Along axes -------------------------------------------------------------- */

/* p (d - sum(d p)) */
static an_value softmax_back(grad *g, an_value p, an_value d, uint32_t axis)
{
	return mul(g, p, sub(g, d, reduce(g, OP_REDUCE_SUM, mul(g, d, p), axis)));
}
static void rule_SOFTMAX(grad *g, const mil_op *op, an_value d)
{
	int rank = type(g, op->results[0])->rank, axis = fn_arg_int(g->f, op, "axis");
	give_x(g, op, softmax_back(g, y_of(g, op), d, 1u << (axis < 0 ? axis + rank : axis)));
}

/* What a reduction needs: its axes, and its result's and cotangent's type with the axes kept. */
typedef struct reduction {
	uint32_t mask;
	an_type full, keep;
	double n; /* elements per result */
} reduction;
static bool reduction_of(grad *g, const mil_op *op, reduction *r)
{
	bool keep;
	if (g->b.status == AN_OK)
		g->b.status = op_reduce_axes(g->f, op, &r->mask, &keep);
	if (g->b.status != AN_OK)
		return false;
	r->full = *type(g, op_arg(op, 0));
	r->keep = kept(&r->full, r->mask);
	r->n = (double)(an_type_count(&r->full) / an_type_count(&r->keep));
	return true;
}

static void rule_REDUCE_SUM(grad *g, const mil_op *op, an_value d)
{
	reduction r;
	if (reduction_of(g, op, &r))
		give_x(g, op, expand(g, shaped(g, d, &r.keep), &r.keep, &r.full));
}

/* Divides by n where fp16 has it exactly; 1/n would be off by half a unit in the last place. */
static an_value divide_by(grad *g, an_value d, double n)
{
	if (n == 1)
		return d;
	return n <= 2048 ? quotient(g, d, scalar_like(g, d, n)) : scale(g, d, 1 / n);
}
static void rule_REDUCE_MEAN(grad *g, const mil_op *op, an_value d)
{
	reduction r;
	if (reduction_of(g, op, &r))
		give_x(g, op, expand(g, divide_by(g, shaped(g, d, &r.keep), r.n), &r.keep, &r.full));
}

/* d / k for the k elements that equal the result */
static void reduce_extremum(grad *g, const mil_op *op, an_value d)
{
	reduction r;
	if (!reduction_of(g, op, &r))
		return;
	an_value hit = compare(g, "equal", x_of(g, op), shaped(g, y_of(g, op), &r.keep));
	an_value count = reduce(g, OP_REDUCE_SUM, an_cast(&g->b, hit, (an_dtype)r.full.dtype), r.mask);
	give_x(g, op, where(g, hit, quotient(g, shaped(g, d, &r.keep), count)));
}
static void rule_REDUCE_MAX(grad *g, const mil_op *op, an_value d) { reduce_extremum(g, op, d); }
static void rule_REDUCE_MIN(grad *g, const mil_op *op, an_value d) { reduce_extremum(g, op, d); }

static void rule_REDUCE_SUM_SQUARE(grad *g, const mil_op *op, an_value d)
{
	reduction r;
	if (reduction_of(g, op, &r))
		give_x(g, op, mul(g, scale(g, shaped(g, d, &r.keep), 2), x_of(g, op)));
}
/* d x / y; 0 at x = 0 */
static void rule_REDUCE_L2_NORM(grad *g, const mil_op *op, an_value d)
{
	reduction r;
	if (!reduction_of(g, op, &r))
		return;
	an_value y = shaped(g, y_of(g, op), &r.keep);
	an_value ratio =
	    unless(g, compare(g, "equal", y, scalar_like(g, y, 0)), quotient(g, shaped(g, d, &r.keep), y));
	give_x(g, op, mul(g, ratio, x_of(g, op)));
}

static an_value cast_to(grad *g, an_value d, uint8_t dtype)
{
	if (g->b.status != AN_OK || g->b.f->values[d].type.dtype == dtype)
		return d;
	return an_cast(&g->b, d, (an_dtype)dtype);
}
/* layer_norm's gamma and beta need not have the type of x. */
static void give_cast(grad *g, an_value v, an_value d) { grad_give(g, v, cast_to(g, d, type(g, v)->dtype)); }

/* With n = (x - mean) s, s = 1/sqrt(variance + epsilon), y = n gamma + beta and e = d gamma:
 * dx = s (e - mean(e) - n mean(e n)), dgamma = sum(d n), dbeta = sum(d).
 * n is the same layer_norm without gamma and beta, so that its variance is taken care of by whoever
 * implements it (squares overflow fp16 from 256 on); s is the ratio of the largest |n| and |x - mean|. */
static void rule_LAYER_NORM(grad *g, const mil_op *op, an_value d)
{
	reduction r;
	if (!reduction_of(g, op, &r))
		return;
	an_value x = op_arg(op, 0), gamma = arg(g, op, "gamma"), beta = arg(g, op, "beta");
	double epsilon = number(g, op, "epsilon");
	uint32_t all = (1u << r.full.rank) - 1;
	int32_t axes[AN_MAX_RANK];
	int naxes = 0;
	for (int i = 0; i < r.full.rank; i++)
		if (r.mask >> i & 1)
			axes[naxes++] = i;
	if (naxes == 0) { /* every element is its own mean: y = beta */
		grad_refuse(g, op, "it normalises over no axis");
		return;
	}
	an_value n = EMIT(&g->b, OP_LAYER_NORM, ARG_VALUE("x", grad_use(g, x)), ARG_INTS("axes", naxes, axes),
			  ARG_FLOAT("epsilon", epsilon));
	an_type affine = kept(&r.full, all & ~r.mask); /* gamma's and beta's elements, to broadcast */
	if (gamma != AN_NO_VALUE && grad_wants(g, gamma))
		give_cast(g, gamma, shaped(g, sum_to(g, mul(g, d, n), &r.full, &affine), type(g, gamma)));
	if (beta != AN_NO_VALUE && grad_wants(g, beta))
		give_cast(g, beta, shaped(g, sum_to(g, d, &r.full, &affine), type(g, beta)));
	if (!grad_wants(g, x))
		return;

	an_value e = d;
	if (gamma != AN_NO_VALUE)
		e = mul(g, d, shaped(g, cast_to(g, grad_use(g, gamma), r.full.dtype), &affine));
	an_value xv = grad_use(g, x), centred = sub(g, xv, reduce(g, OP_REDUCE_MEAN, xv, r.mask));
	an_value spread = reduce(g, OP_REDUCE_MAX, unary(g, "abs", centred), r.mask);
	an_value s = quotient(g, reduce(g, OP_REDUCE_MAX, unary(g, "abs", n), r.mask), spread);
	/* all elements equal: s = 1/sqrt(epsilon), as far as the type has it */
	double most = r.full.dtype == AN_FP16 ? 65504 : 0x1.fffffep127;
	s = choose(g, compare(g, "equal", spread, scalar_like(g, spread, 0)),
		   scalar_like(g, spread, fmin(1 / sqrt(epsilon), most)), s);
	an_value inner = sub(g, e, reduce(g, OP_REDUCE_MEAN, e, r.mask));
	inner = sub(g, inner, mul(g, n, reduce(g, OP_REDUCE_MEAN, mul(g, e, n), r.mask)));
	grad_give(g, x, mul(g, s, inner));
}

/* ---- Contractions ------------------------------------------------------------ */

/* Batch axes of t, which has at least rank 2, followed by rows and columns. */
static an_type with_matrix(const an_type *t, int32_t rows, int32_t columns)
{
	an_type m = *t;
	m.dim[m.rank - 2] = rows;
	m.dim[m.rank - 1] = columns;
	return m;
}

/* A vector as a matrix: x a row, y a column. */
static an_type as_matrix(const an_type *t, bool row)
{
	an_type m = *t;
	if (t->rank == 1) {
		m.rank = 2;
		m.dim[0] = row ? 1 : t->dim[0];
		m.dim[1] = row ? t->dim[0] : 1;
	}
	return m;
}

/* Z = X Y gives dX = D Y^T and dY = X^T D; a transposed operand swaps its own product.  D is summed over
 * batch axes that an operand was broadcast along. */
static void rule_MATMUL(grad *g, const mil_op *op, an_value d)
{
	matmul_spec s;
	g->b.status = op_matmul_spec(g->f, op, &s);
	if (g->b.status != AN_OK)
		return;
	an_type x = as_matrix(type(g, s.x), true), y = as_matrix(type(g, s.y), false),
		z = x.rank > y.rank ? x : y;
	for (int i = 3; i <= z.rank; i++) { /* batch axes from the last */
		int32_t a = i <= x.rank ? x.dim[x.rank - i] : 1, b = i <= y.rank ? y.dim[y.rank - i] : 1;
		z.dim[z.rank - i] = MAX(a, b);
	}
	z = with_matrix(&z, s.m, s.n);
	d = shaped(g, d, &z);
	if (grad_wants(g, s.x)) {
		an_value other = shaped(g, grad_use(g, s.y), &y);
		an_value dx =
		    s.tx ? an_matmul(&g->b, other, d, s.ty, true) : an_matmul(&g->b, d, other, false, !s.ty);
		an_type have = with_matrix(&z, x.dim[x.rank - 2], x.dim[x.rank - 1]);
		grad_give(g, s.x, shaped(g, sum_to(g, dx, &have, &x), type(g, s.x)));
	}
	if (grad_wants(g, s.y)) {
		an_value other = shaped(g, grad_use(g, s.x), &x);
		an_value dy =
		    s.ty ? an_matmul(&g->b, d, other, true, s.tx) : an_matmul(&g->b, other, d, !s.tx, false);
		an_type have = with_matrix(&z, y.dim[y.rank - 2], y.dim[y.rank - 1]);
		grad_give(g, s.y, shaped(g, sum_to(g, dy, &have, &y), type(g, s.y)));
	}
}

/* y = x W^T + b over the last axis, all others as rows */
static void rule_LINEAR(grad *g, const mil_op *op, an_value d)
{
	an_value x = arg(g, op, "x"), w = arg(g, op, "weight"), bias = arg(g, op, "bias");
	an_type xt = *type(g, x), wt = *type(g, w), rows = xt, drows;
	if (an_type_count(&xt) / wt.dim[1] > INT32_MAX) {
		grad_refuse(g, op, "x has more than 2^31 rows");
		return;
	}
	rows.rank = 2;
	rows.dim[1] = wt.dim[1];
	rows.dim[0] = (int32_t)(an_type_count(&xt) / wt.dim[1]);
	drows = with_matrix(&rows, rows.dim[0], wt.dim[0]);
	d = shaped(g, d, &drows);
	if (grad_wants(g, x))
		grad_give(g, x, shaped(g, an_matmul(&g->b, d, grad_use(g, w), false, false), &xt));
	if (grad_wants(g, w))
		grad_give(g, w, an_matmul(&g->b, d, shaped(g, grad_use(g, x), &rows), true, false));
	if (bias != AN_NO_VALUE && grad_wants(g, bias))
		grad_give(g, bias, sum_to(g, d, &drows, type(g, bias)));
}

/* softmax(q k^T / sqrt(E) + mask) v, differentiated as what it is made of. */
static void rule_SCALED_DOT_PRODUCT_ATTENTION(grad *g, const mil_op *op, an_value d)
{
	an_value q = arg(g, op, "query"), k = arg(g, op, "key"), v = arg(g, op, "value"),
		 mask = arg(g, op, "attn_mask");
	an_type scores = *type(g, q);
	int last = scores.rank - 1;
	double factor = 1 / sqrt(scores.dim[last]);
	scores.dim[last] = type(g, k)->dim[last - 1];
	an_value kv = grad_use(g, k), vv = grad_use(g, v), qs = scale(g, grad_use(g, q), factor);
	an_value s = an_matmul(&g->b, qs, kv, false, true);
	if (mask != AN_NO_VALUE && type(g, mask)->dtype == AN_BOOL) /* exp() of it is 0, and it is in range */
		s = choose(g, grad_use(g, mask), s, scalar_like(g, s, -30000));
	else if (mask != AN_NO_VALUE)
		s = add(g, s, grad_use(g, mask));
	an_value p = an_softmax(&g->b, s, -1);
	if (grad_wants(g, v))
		grad_give(g, v, an_matmul(&g->b, p, d, true, false));
	an_value ds = softmax_back(g, p, an_matmul(&g->b, d, vv, false, true), 1u << last);
	if (mask != AN_NO_VALUE && grad_wants(g, mask))
		grad_give(g, mask, sum_to(g, ds, &scores, type(g, mask)));
	if (grad_wants(g, q))
		grad_give(g, q, scale(g, an_matmul(&g->b, ds, kv, false, false), factor));
	if (grad_wants(g, k))
		grad_give(g, k, an_matmul(&g->b, ds, qs, true, false));
}

/* ---- Moving elements --------------------------------------------------------- */

static an_value slice_axis(grad *g, an_value d, int axis, int32_t begin, int32_t count)
{
	if (g->b.status == AN_OK && g->b.f->values[d].type.dim[axis] == count)
		return d;
	return an_slice(&g->b, d, axis, begin, count);
}

/* x[begin::step] along an axis, `count` elements; begin < 0: from the last one (step < 0). */
static an_value stride_axis(grad *g, an_value d, const an_type *t, int axis, int32_t begin, int32_t step)
{
	int32_t from_[AN_MAX_RANK] = {0}, to[AN_MAX_RANK], by[AN_MAX_RANK];
	bool from_start[AN_MAX_RANK], to_end[AN_MAX_RANK];
	for (int i = 0; i < t->rank; i++) {
		to[i] = t->dim[i];
		by[i] = 1;
		from_start[i] = to_end[i] = true;
	}
	if (begin >= 0) {
		from_[axis] = begin;
		from_start[axis] = false;
	}
	by[axis] = step;
	an_type flags = an_tensor(AN_BOOL, 1, &(int32_t){t->rank});
	return EMIT(&g->b, OP_SLICE_BY_INDEX, ARG_VALUE("x", d), ARG_INTS("begin", t->rank, from_),
		    ARG_INTS("end", t->rank, to), ARG_INTS("stride", t->rank, by),
		    ARG_VALUE("begin_mask", an_const(&g->b, NULL, flags, from_start)),
		    ARG_VALUE("end_mask", an_const(&g->b, NULL, flags, to_end)));
}

/* The transpose of a slice along one axis: element i of d goes to begin + i step of `length`, zeros are
 * between. *t is d's type and becomes the result's. */
static an_value spread_axis(grad *g, an_value d, an_type *t, int axis, int32_t begin, int32_t step,
			    int32_t length)
{
	int32_t n = t->dim[axis];
	if (n > 1 && step < 0) {
		d = stride_axis(g, d, t, axis, -1, -1);
		begin += (n - 1) * step;
		step = -step;
	}
	if (n > 1 && step > 1) { /* [outer n, 1, inner] with step - 1 zeros after each */
		int64_t outer = 1, inner = 1;
		for (int i = 0; i < t->rank; i++)
			*(i <= axis ? &outer : &inner) *= t->dim[i];
		if (outer > INT32_MAX || inner > INT32_MAX || (int64_t)n * step > INT32_MAX) {
			g->b.status = fail(g->f->program->ctx, AN_UNSUPPORTED,
					   "function %s: a slice is too large", g->f->name);
			return AN_NO_VALUE;
		}
		an_type rows =
		    an_tensor((an_dtype)t->dtype, 3, (int32_t[]){(int32_t)outer, 1, (int32_t)inner});
		d = grad_pad(g, shaped(g, d, &rows), 3, (int32_t[]){0, 0, 0}, (int32_t[]){0, step - 1, 0});
		t->dim[axis] = n * step;
		d = shaped(g, d, t);
		t->dim[axis] = MIN(n * step, length - begin);
		d = slice_axis(g, d, axis, 0, t->dim[axis]);
	}
	int32_t before[AN_MAX_RANK] = {0}, after[AN_MAX_RANK] = {0};
	before[axis] = begin;
	after[axis] = length - begin - t->dim[axis];
	t->dim[axis] = length;
	return grad_pad(g, d, t->rank, before, after);
}

static void rule_SLICE(grad *g, const mil_op *op, an_value d)
{
	slice_spec s;
	an_value x = op_arg(op, 0);
	g->b.status = op_slice_spec(g->f, op, &s);
	if (g->b.status != AN_OK)
		return;
	const an_type *full = type(g, x);
	an_type t = *full;
	int cut = 0, axis = 0; /* axes that are not whole */
	for (int i = 0; i < t.rank; i++) {
		t.dim[i] = s.count[i];
		if (s.count[i] != full->dim[i] || (s.step[i] != 1 && s.count[i] > 1)) {
			cut++;
			axis = i;
		}
	}
	d = shaped(g, d, &t);
	if (cut == 1 && (s.step[axis] == 1 || s.count[axis] == 1)) {
		grad_give_part(g, x, axis, s.begin[axis], s.count[axis], d);
		return;
	}
	for (int i = 0; i < full->rank; i++)
		d = spread_axis(g, d, &t, i, s.begin[i], s.step[i], full->dim[i]);
	grad_give(g, x, d);
}

static void rule_RESHAPE(grad *g, const mil_op *op, an_value d)
{
	give_x(g, op, shaped(g, d, type(g, op_arg(op, 0))));
}

static void rule_TRANSPOSE(grad *g, const mil_op *op, an_value d)
{
	int32_t perm[AN_MAX_RANK], inverse[AN_MAX_RANK];
	int n = fn_arg_ints(g->f, op, "perm", perm, AN_MAX_RANK);
	for (int i = 0; i < n; i++)
		inverse[perm[i] < 0 ? perm[i] + n : perm[i]] = i;
	give_x(g, op, n > 0 ? an_transpose(&g->b, d, n, inverse) : d);
}

static int axis_of(const grad *g, const mil_op *op, int rank)
{
	int axis = fn_arg_int(g->f, op, "axis");
	return axis < 0 ? axis + rank : axis;
}

static void rule_CONCAT(grad *g, const mil_op *op, an_value d)
{
	const an_type *t = type(g, op->results[0]);
	int axis = axis_of(g, op, t->rank);
	int32_t begin = 0, n = (int32_t)op->arg[0].n;
	bool interleave = fn_arg_bool(g->f, op, "interleave") && n > 1;
	for (int32_t i = 0; i < n; i++) {
		an_value v = op->arg[0].v[i];
		int32_t count = type(g, v)->dim[axis];
		if (grad_wants(g, v))
			grad_give(g, v,
				  interleave ? stride_axis(g, d, t, axis, i, n)
					     : slice_axis(g, d, axis, begin, count));
		begin += count;
	}
}

static void rule_STACK(grad *g, const mil_op *op, an_value d)
{
	int axis = axis_of(g, op, type(g, op->results[0])->rank);
	for (uint32_t i = 0; i < op->arg[0].n; i++) {
		an_value v = op->arg[0].v[i];
		if (grad_wants(g, v))
			grad_give(g, v, shaped(g, slice_axis(g, d, axis, (int32_t)i, 1), type(g, v)));
	}
}

static void rule_SPLIT(grad *g, const mil_op *op, an_value d)
{
	an_value x = op_arg(op, 0);
	int axis = axis_of(g, op, type(g, x)->rank);
	int32_t begin = 0;
	(void)d;
	for (int r = 0; r < op->nresults; r++) {
		const an_type *t = type(g, op->results[r]);
		an_value part = grad_of(g, op, r);
		if (part == AN_NO_VALUE)
			part = grad_zeros(g, t);
		grad_give_part(g, x, axis, begin, t->dim[axis], part);
		begin += t->dim[axis];
	}
}

/* Along one axis of length n with `before` and `after` elements of border: the middle, plus what the border
 * was copied from: the edges (replicate), or x[before] .. x[1] and x[n-2] .. x[n-1-after] (reflect). */
static an_value unpad_axis(grad *g, an_value d, an_type *t, int axis, int32_t n, int32_t before,
			   int32_t after, const char *mode)
{
	bool reflect = strcmp(mode, "reflect") == 0;
	an_type middle = *t;
	middle.dim[axis] = n;
	an_value sum = slice_axis(g, d, axis, before, n);
	for (int end = 0; end < 2 && strcmp(mode, "constant") != 0; end++) {
		int32_t count = end ? after : before;
		if (count == 0)
			continue;
		an_type border = *t;
		border.dim[axis] = count;
		an_value b = slice_axis(g, d, axis, end ? before + n : 0, count);
		if (reflect) {
			b = spread_axis(g, b, &border, axis, end ? n - 2 : before, -1, n);
		} else {
			b = reduce(g, OP_REDUCE_SUM, b, 1u << axis);
			border.dim[axis] = 1;
			b = spread_axis(g, b, &border, axis, end ? n - 1 : 0, 1, n);
		}
		sum = add(g, sum, b);
	}
	*t = middle;
	return sum;
}

static void rule_PAD(grad *g, const mil_op *op, an_value d)
{
	const an_type *x = type(g, op_arg(op, 0));
	an_type t = *type(g, op->results[0]);
	int32_t pad[2 * AN_MAX_RANK];
	int n = fn_arg_ints(g->f, op, "pad", pad, 2 * AN_MAX_RANK), first = x->rank - n / 2;
	for (int i = 0; i < n / 2; i++)
		d = unpad_axis(g, d, &t, first + i, x->dim[first + i], pad[2 * i], pad[2 * i + 1],
			       fn_arg_string(g->f, op, "mode"));
	give_x(g, op, d);
}

/* Along each axis [outer, reps, n inner] summed over reps. */
static void rule_TILE(grad *g, const mil_op *op, an_value d)
{
	const an_type *x = type(g, op_arg(op, 0));
	an_type t = *type(g, op->results[0]);
	for (int axis = 0; axis < x->rank; axis++) {
		int32_t reps = t.dim[axis] / x->dim[axis];
		if (reps == 1)
			continue;
		int64_t outer = 1, rest = x->dim[axis];
		for (int i = 0; i < t.rank; i++)
			if (i != axis)
				*(i < axis ? &outer : &rest) *= t.dim[i];
		if (outer > INT32_MAX || rest > INT32_MAX) {
			g->b.status = fail(g->f->program->ctx, AN_UNSUPPORTED,
					   "function %s: a tile is too large", g->f->name);
			return;
		}
		an_type rows =
		    an_tensor((an_dtype)t.dtype, 3, (int32_t[]){(int32_t)outer, reps, (int32_t)rest});
		t.dim[axis] = x->dim[axis];
		d = shaped(g, reduce(g, OP_REDUCE_SUM, shaped(g, d, &rows), 1u << 1), &t);
	}
	give_x(g, op, d);
}

/* ---- Convolution
 * -------------------------------------------------------------------------------------------- */

/* As a product of matrices per group: with T = kh kw taps, c = in/groups and o = out/groups channels and
 * L = oh ow places, the columns of a sample are [groups, c T, L], row (channel, tap) holding the input that
 * this tap sees at each place; then y = W columns with W [groups, o, c T], which is the weight's own
 * layout.  So dW = D columns^T, dcolumns = W^T D, and each tap's rows of that go back to where they were
 * taken from.  A 1x1 kernel without strides has the input itself as its columns.
 * Axes n (samples) and groups are left out where they are 1. */
typedef struct unrolled {
	conv_spec s;
	int32_t group_in, group_out, taps, places;
	an_type x4;     /* x as [n, c, h, w] */
	an_type padded; /* and with its border */
	bool plain;     /* columns = x */
} unrolled;

static an_type batched(const unrolled *u, bool samples, int32_t rows, int32_t columns)
{
	int32_t dim[4];
	int r = 0;
	if (samples && u->s.batch > 1)
		dim[r++] = u->s.batch;
	if (u->s.groups > 1)
		dim[r++] = u->s.groups;
	dim[r++] = rows;
	dim[r++] = columns;
	return an_tensor((an_dtype)u->x4.dtype, r, dim);
}

/* Rows and columns of the padded input that a tap sees. */
static slice_spec tap_slice(const unrolled *u, int32_t tap)
{
	const conv_spec *s = &u->s;
	return (slice_spec){.begin = {0, 0, tap / s->kw * s->dilation[0], tap % s->kw * s->dilation[1]},
			    .count = {s->batch, s->in_ch, s->oh, s->ow},
			    .step = {1, 1, s->stride[0], s->stride[1]}};
}

static an_value slice_by(grad *g, an_value d, int rank, const slice_spec *s)
{
	int32_t end[AN_MAX_RANK];
	for (int i = 0; i < rank; i++)
		end[i] = s->begin[i] + (s->count[i] - 1) * s->step[i] + 1;
	return EMIT(&g->b, OP_SLICE_BY_INDEX, ARG_VALUE("x", d), ARG_INTS("begin", rank, s->begin),
		    ARG_INTS("end", rank, end), ARG_INTS("stride", rank, s->step));
}

static an_value conv_columns(grad *g, const unrolled *u)
{
	const conv_spec *s = &u->s;
	an_type columns = batched(u, true, u->group_in * u->taps, u->places);
	an_value x = shaped(g, grad_use(g, s->x), &u->x4);
	if (u->plain)
		return shaped(g, x, &columns);
	x = grad_pad(g, x, 4, (int32_t[]){0, 0, s->pad[0], s->pad[2]},
		     (int32_t[]){0, 0, s->pad[1], s->pad[3]});
	an_value *taps = arena_array(&g->scratch, (size_t)u->taps, sizeof *taps);
	if (!taps) {
		g->b.status = fail_memory(g->f->program->ctx, 0);
		return AN_NO_VALUE;
	}
	an_type seen = an_tensor((an_dtype)u->x4.dtype, 3, (int32_t[]){s->batch, s->in_ch, u->places});
	for (int32_t i = 0; i < u->taps; i++) {
		slice_spec at = tap_slice(u, i);
		taps[i] = shaped(g, slice_by(g, x, 4, &at), &seen);
	}
	an_value all =
	    EMIT(&g->b, OP_STACK, ARG_VALUES("values", u->taps, taps), ARG_INT("axis", 2)); /* [n, c, T, L] */
	return shaped(g, all, &columns);
}

/* The transpose of conv_columns. */
static an_value conv_uncolumns(grad *g, const unrolled *u, an_value d)
{
	const conv_spec *s = &u->s;
	if (u->plain)
		return shaped(g, d, &u->x4);
	an_type all =
	    an_tensor((an_dtype)u->x4.dtype, 4, (int32_t[]){s->batch, s->in_ch, u->taps, u->places});
	an_value sum = AN_NO_VALUE;
	d = shaped(g, d, &all);
	for (int32_t i = 0; i < u->taps; i++) {
		slice_spec at = tap_slice(u, i);
		an_type t = an_tensor((an_dtype)u->x4.dtype, 4, at.count);
		an_value seen = shaped(g, slice_axis(g, d, 2, i, 1), &t);
		for (int axis = 2; axis < 4; axis++)
			seen = spread_axis(g, seen, &t, axis, at.begin[axis], at.step[axis],
					   u->padded.dim[axis]);
		sum = i ? add(g, sum, seen) : seen;
	}
	sum = slice_axis(g, sum, 2, s->pad[0], s->h);
	return slice_axis(g, sum, 3, s->pad[2], s->w);
}

static void rule_CONV(grad *g, const mil_op *op, an_value d)
{
	unrolled u;
	conv_spec *s = &u.s;
	g->b.status = op_conv_spec(g->f, op, s);
	if (g->b.status != AN_OK)
		return;
	int64_t taps = (int64_t)s->kh * s->kw, places = (int64_t)s->oh * s->ow;
	int64_t h = (int64_t)s->h + s->pad[0] + s->pad[1], w = (int64_t)s->w + s->pad[2] + s->pad[3];
	u.group_in = s->in_ch / s->groups;
	u.group_out = s->out_ch / s->groups;
	if (taps > 1024 || MAX(MAX(h, w), MAX(places, u.group_in * taps)) > INT32_MAX) {
		grad_refuse(
		    g, op,
		    "its kernel has more than 1024 taps, or an axis would have more than 2^31 elements");
		return;
	}
	u.taps = (int32_t)taps;
	u.places = (int32_t)places;
	u.x4 = u.padded =
	    an_tensor((an_dtype)type(g, s->x)->dtype, 4, (int32_t[]){s->batch, s->in_ch, s->h, s->w});
	u.padded.dim[2] = (int32_t)h;
	u.padded.dim[3] = (int32_t)w;
	u.plain = taps == 1 && s->oh == s->h && s->ow == s->w && !s->pad[0] && !s->pad[2];

	an_type dt = batched(&u, true, u.group_out, u.places),
		wt = batched(&u, false, u.group_out, u.group_in * u.taps);
	an_value d2 = shaped(g, d, &dt);
	if (grad_wants(g, s->x)) {
		an_value weight = shaped(g, grad_use(g, s->weight), &wt);
		an_value dx = conv_uncolumns(g, &u, an_matmul(&g->b, weight, d2, true, false));
		grad_give(g, s->x, shaped(g, dx, type(g, s->x)));
	}
	if (grad_wants(g, s->weight)) {
		an_type have = batched(&u, true, u.group_out, u.group_in * u.taps);
		an_value dw = an_matmul(&g->b, d2, conv_columns(g, &u), false, true);
		grad_give(g, s->weight, shaped(g, sum_to(g, dw, &have, &wt), type(g, s->weight)));
	}
	if (s->bias != AN_NO_VALUE && grad_wants(g, s->bias)) {
		uint32_t others = ((1u << type(g, s->x)->rank) - 1) & ~2u; /* all but channels */
		grad_give(g, s->bias, shaped(g, reduce(g, OP_REDUCE_SUM, d, others), type(g, s->bias)));
	}
}

/* ---- The table --------------------------------------------------------------------- */

#define rule_SLICE_BY_INDEX rule_SLICE
#define rule_SLICE_BY_SIZE  rule_SLICE
#define rule_EXPAND_DIMS    rule_RESHAPE
#define rule_SQUEEZE        rule_RESHAPE

/* An operation of ops.def that has no rule_ above does not compile. */
const grad_rule grad_table[OP_COUNT] = {
#define OP(id, ...) [OP_##id] = rule_##id,
#include "mil/ops.def"
#undef OP
};

grad_kind grad_kind_of(int op)
{
	return grad_table[op] == grad_zero ? GRAD_ZERO : grad_table[op] == grad_none ? GRAD_NONE : GRAD_RULE;
}
