/* MIL operations -> nodes.
 *
 * One row per operation says which function lowers it and with what; an operation without a
 * function is one that this device does not evaluate, and the row says so.  Only what an output
 * depends on is lowered. */
#include "device/soft/node.h"

#include <math.h>

typedef struct lower_row {
	an_status (*lower)(soft_fn *s, const mil_op *op, int with);
	int with;         /* ew_op, k_reduction, ...: whatever `lower` takes */
	const char *none; /* why not, where lower is NULL */
	bool integer;     /* takes int8..int32 and computes in them */
} lower_row;

/* ---- From and to MIL --------------------------------------------------------------- */

static int64_t *shape_of(const an_type *t, int64_t *dim)
{
	for (int i = 0; i < t->rank; i++)
		dim[i] = t->dim[i];
	return dim;
}

/* The soft value of a MIL value; constants appear when they are first used. */
static int use(soft_fn *s, an_value v)
{
	if (s->map[v] >= 0)
		return s->map[v];
	const mil_literal *lit = fn_const(s->f, v);
	assert(lit);
	int64_t dim[SOFT_RANK];
	int x = soft_add_literal(s, soft_type_by_dtype[lit->type.dtype], lit->type.rank,
				 shape_of(&lit->type, dim), lit->bytes);
	s->values[x].name = s->f->values[v].name;
	return s->map[v] = x;
}

static int use_arg(soft_fn *s, const mil_op *op, const char *param)
{
	an_value v = fn_arg_value(s->f, op, param);
	return v == AN_NO_VALUE ? -1 : use(s, v);
}

/* What s->oom stands for. */
static an_status failure(const soft_fn *s)
{
	if (!s->too_large)
		return fail_memory(s->ctx, 0);
	const mil_op *op = &s->f->ops[s->op];
	return fail(s->ctx, AN_DEVICE, "function \"%s\", %s \"%s\": a value has more than 2^40 elements",
		    s->f->name, op_table[op->op].name, s->f->values[op->results[0]].name);
}

/* Makes x result r of op, in the shape MIL gives it. */
static an_status result(soft_fn *s, const mil_op *op, int r, int x)
{
	const mil_value *v = &s->f->values[op->results[r]];
	int64_t dim[SOFT_RANK];
	x = soft_add_reshape(s, x, v->type.rank, shape_of(&v->type, dim));
	if (s->oom)
		return failure(s);
	assert(s->values[x].type == soft_type_by_dtype[v->type.dtype]);
	if (!s->values[x].name)
		s->values[x].name = v->name;
	s->map[op->results[r]] = x;
	return AN_OK;
}

static const an_type *result_type(const soft_fn *s, const mil_op *op)
{
	return &s->f->values[op->results[0]].type;
}

/* A float parameter, rounded to the type of x as MIL has it. */
static float number(const soft_fn *s, const mil_op *op, const char *param)
{
	double x = fn_arg_float(s->f, op, param);
	return result_type(s, op)->dtype == AN_FP16 ? half_to_float(half_from_double(x)) : (float)x;
}

/* ---- Elementwise ------------------------------------------------------------------- */

static an_status elementwise(soft_fn *s, const mil_op *op, int ew, int a, int b, int c, float imm, float imm2)
{
	const an_type *t = result_type(s, op);
	int64_t dim[SOFT_RANK];
	return result(
	    s, op, 0,
	    soft_add_ew(s, ew, soft_type_by_dtype[t->dtype], t->rank, shape_of(t, dim), a, b, c, imm, imm2));
}

static an_status lower_binary(soft_fn *s, const mil_op *op, int ew)
{
	return elementwise(s, op, ew, use_arg(s, op, "x"), use_arg(s, op, "y"), -1, 0, 0);
}

static an_status lower_unary(soft_fn *s, const mil_op *op, int ew)
{
	float imm = 0, imm2 = 0;
	if (op_param_index(op->op, "epsilon") >= 0)
		imm = number(s, op, "epsilon");
	if (op_param_index(op->op, "alpha") >= 0)
		imm = number(s, op, "alpha");
	if (op_param_index(op->op, "beta") >= 0)
		imm2 = number(s, op, "beta");
	return elementwise(s, op, ew, use_arg(s, op, "x"), -1, -1, imm, imm2);
}

static an_status lower_select(soft_fn *s, const mil_op *op, int with)
{
	(void)with;
	return elementwise(s, op, EW_SELECT, use_arg(s, op, "cond"), use_arg(s, op, "a"), use_arg(s, op, "b"),
			   0, 0);
}

static an_status lower_gelu(soft_fn *s, const mil_op *op, int with)
{
	(void)with;
	const char *mode = fn_arg_string(s->f, op, "mode");
	int ew = !mode || strstr(mode, "EXACT") ? EW_GELU
		 : strstr(mode, "TANH")         ? EW_GELU_TANH
						: EW_GELU_SIGMOID;
	return elementwise(s, op, ew, use_arg(s, op, "x"), -1, -1, 0, 0);
}

/* log(0) and log(infinity) by their rules. */
static an_status lower_log(soft_fn *s, const mil_op *op, int ew)
{
	int x = use_arg(s, op, "x");
	k_type type = s->values[x].type;
	const ane_numerics *n = s->numerics;
	if (type != K_F16 || (CHOSEN(n, LOG0, INFINITY) && CHOSEN(n, INDETERMINATE, IEEE)))
		return lower_unary(s, op, ew);
	float epsilon = number(s, op, "epsilon");
	int64_t dim[SOFT_RANK];
	memcpy(dim, s->values[x].dim, sizeof dim);
	int rank = s->values[x].rank, y = soft_add_ew(s, ew, type, rank, dim, x, -1, -1, epsilon, 0);
	if (epsilon != 0)
		x = soft_add_ew_like(s, EW_ADD, K_F32, x, x, soft_add_number(s, K_F32, epsilon));
	const double at[] = {0, INFINITY};
	const double is[] = {CHOSEN(n, LOG0, FINITE) ? -45440 : -INFINITY,
			     CHOSEN(n, INDETERMINATE, ZERO) ? 0 : INFINITY};
	for (int i = 0; i < LENGTH(at); i++) {
		int there =
		    soft_add_ew_like(s, EW_EQ, K_BOOL, x, x, soft_add_number(s, s->values[x].type, at[i]));
		y = soft_add_ew(s, EW_SELECT, type, rank, dim, there, soft_add_number(s, type, is[i]), y, 0,
				0);
	}
	return result(s, op, 0, y);
}

/* Beyond ln 2^15, 1 + exp(x) is infinite where it is computed as a sum of products. */
static an_status lower_softplus(soft_fn *s, const mil_op *op, int ew)
{
	int x = use_arg(s, op, "x");
	k_type type = s->values[x].type;
	if (type != K_F16 || CHOSEN(s->numerics, SOFTPLUS, EXACT))
		return lower_unary(s, op, ew);
	int64_t dim[SOFT_RANK];
	memcpy(dim, s->values[x].dim, sizeof dim);
	int y = soft_add_ew_like(s, ew, type, x, x, -1);
	int beyond = soft_add_ew_like(s, EW_GE, K_BOOL, x, x, soft_add_number(s, K_F32, 15 * M_LN2));
	return elementwise(s, op, EW_SELECT, beyond, soft_add_number(s, type, 0), y, 0, 0);
}

/* trunc(x + 1/2 with the sign of x), where the sum is an fp16 value. */
static an_status lower_round(soft_fn *s, const mil_op *op, int ew)
{
	int x = use_arg(s, op, "x");
	k_type type = s->values[x].type;
	if (type != K_F16 || CHOSEN(s->numerics, ROUND, EVEN))
		return lower_unary(s, op, ew);
	int offset = soft_add_ew_like(s, EW_SIGN, type, x, x, -1);
	offset = soft_add_ew_like(s, EW_MUL, type, x, offset, soft_add_number(s, type, 0.5));
	return elementwise(s, op, EW_TRUNC, soft_add_ew_like(s, EW_ADD, type, x, x, offset), -1, -1, 0, 0);
}

/* Whether v is what floor, ceil or round computed. */
static bool rounded_to_integer(const soft_fn *s, an_value v)
{
	int32_t def = s->f->values[v].op;
	int by = def < 0 ? OP_CONST : s->f->ops[def].op;
	return by == OP_FLOOR || by == OP_CEIL || by == OP_ROUND;
}

/* x * y, where a chip may forget a scalar. */
static an_status lower_mul(soft_fn *s, const mil_op *op, int ew)
{
	an_value x = fn_arg_value(s->f, op, "x"), y = fn_arg_value(s->f, op, "y");
	if (CHOSEN(s->numerics, SCALE, DROPPED) && result_type(s, op)->dtype == AN_FP16)
		for (int i = 0; i < 2; i++) {
			an_value of = i ? y : x, by = i ? x : y;
			const mil_literal *scale = fn_const(s->f, by);
			if (rounded_to_integer(s, of) && scale && scale->type.rank == 0)
				return result(s, op, 0, use(s, of));
		}
	return lower_binary(s, op, ew);
}

/* identity, and whatever only changes the shape: the result's type says it all */
static an_status lower_same(soft_fn *s, const mil_op *op, int with)
{
	(void)with;
	return result(s, op, 0, use_arg(s, op, "x"));
}

static an_status lower_cast(soft_fn *s, const mil_op *op, int with)
{
	int x = use_arg(s, op, "x");
	k_type from = s->values[x].type, to = soft_type_by_dtype[result_type(s, op)->dtype];
	if (from == to)
		return lower_same(s, op, with);
	if (to == K_BOOL)
		return elementwise(s, op, EW_NE, x, soft_add_number(s, from, 0), -1, 0, 0);
	return elementwise(s, op, soft_is_float(from) && !soft_is_float(to) ? EW_TRUNC : EW_MOV, x, -1, -1, 0,
			   0);
}

/* scale or zero_point of a quantised form as a shape that broadcasts to [rank] along axis. */
static int per_channel(soft_fn *s, int v, int rank, int axis)
{
	int64_t dim[SOFT_RANK];
	if (s->values[v].rank == 0)
		return v;
	for (int i = 0; i < rank; i++)
		dim[i] = i == axis ? s->values[v].dim[0] : 1;
	return soft_add_reshape(s, v, rank, dim);
}

/* (x - zero_point) * scale: the difference is exact in fp32, the product rounds once. */
static an_status dequantized(soft_fn *s, const mil_op *op, int x, int scale, int zero, int axis)
{
	int rank = s->values[x].rank;
	if (axis < 0)
		axis += rank;
	if (zero >= 0)
		x = soft_add_ew_like(s, EW_SUB, K_F32, x, x, per_channel(s, zero, rank, axis));
	return elementwise(s, op, EW_MUL, x, per_channel(s, scale, rank, axis), -1, 0, 0);
}

/* An operation's zero point, or -1 if there is none or the chip takes it as 0. */
static int used_zero(const soft_fn *s, int zero) { return CHOSEN(s->numerics, ZERO_POINT, USED) ? zero : -1; }

static int attr_literal(soft_fn *s, const mil_op *op, const char *key)
{
	const mil_literal *l = op_attr(op, key);
	int64_t dim[SOFT_RANK];
	return soft_add_literal(s, soft_type_by_dtype[l->type.dtype], l->type.rank, shape_of(&l->type, dim),
				l->bytes);
}

static an_status lower_affine_dequantize(soft_fn *s, const mil_op *op, int with)
{
	(void)with;
	int axis = (int)lit_number(op_attr(op, "axis"), 0);
	return dequantized(s, op, attr_literal(s, op, "quantized_data"), attr_literal(s, op, "scale"),
			   used_zero(s, attr_literal(s, op, "zero_point")), axis);
}

static an_status lower_dequantize(soft_fn *s, const mil_op *op, int with)
{
	(void)with;
	return dequantized(s, op, use_arg(s, op, "input"), use_arg(s, op, "scale"),
			   used_zero(s, use_arg(s, op, "zero_point")), fn_arg_int(s->f, op, "axis"));
}

/* clip(round(input / scale) + zero_point); storing to int8 or uint8 clips. */
static an_status lower_quantize(soft_fn *s, const mil_op *op, int with)
{
	(void)with;
	int x = use_arg(s, op, "input"), zero = used_zero(s, use_arg(s, op, "zero_point")),
	    rank = s->values[x].rank;
	int axis = fn_arg_int(s->f, op, "axis");
	if (axis < 0)
		axis += rank;
	k_type type = soft_type_by_dtype[result_type(s, op)->dtype];
	int64_t dim[SOFT_RANK];
	memcpy(dim, s->values[x].dim, sizeof dim);
	x = soft_add_ew_like(s, EW_DIV, K_F32, x, x, per_channel(s, use_arg(s, op, "scale"), rank, axis));
	x = soft_add_ew_like(s, EW_ROUND, K_F32, x, x, -1);
	if (type == K_I8 && CHOSEN(s->numerics, ZERO_POINT, IGNORED)) /* without -128 */
		x = soft_add_ew(s, EW_CLIP, K_F32, rank, dim, x, -1, -1, -127, 127);
	if (zero >= 0)
		x = soft_add_ew_like(s, EW_ADD, K_F32, x, x, per_channel(s, zero, rank, axis));
	return elementwise(s, op, EW_TRUNC, x, -1, -1, 0, 0);
}

/* ---- Along axes -------------------------------------------------------------------- */

static an_status lower_reduce(soft_fn *s, const mil_op *op, int how)
{
	uint32_t mask;
	bool keep; /* MIL's result type already says it */
	TRY(op_reduce_axes(s->f, op, &mask, &keep));
	int x = use_arg(s, op, "x");
	return result(s, op, 0, soft_add_reduce(s, (k_reduction)how, s->values[x].type, x, mask));
}

/* softmax along one axis: at once, in parts of fp32 where specials are a chip's, or in parts of its type. */
static int softmax(soft_fn *s, int x, int axis)
{
	k_type type = s->values[x].type;
	int64_t dim[SOFT_RANK];
	memcpy(dim, s->values[x].dim, sizeof dim);
	bool parts = type == K_F16 && CHOSEN(s->numerics, SOFTMAX, PARTS);
	if (type != K_F16 || (!parts && CHOSEN(s->numerics, INDETERMINATE, IEEE))) {
		int y = soft_add_node(s, NODE_SOFTMAX, type, s->values[x].rank, dim, 1, &x);
		if (!s->oom)
			s->nodes[s->nnodes - 1].u.along.axis = axis;
		return y;
	}
	uint32_t mask = 1u << axis;
	/* infinity - infinity is 0 here: all of the mass is where the operand is infinite */
	k_type inner = parts ? type : K_F32;
	int z = soft_add_ew_like(s, EW_SUB, inner, x, x, soft_add_reduce(s, K_MAX, type, x, mask));
	z = soft_add_ew_like(s, EW_EXP, inner, z, z, -1);
	int sum = soft_add_reduce(s, K_SUM, inner, z, mask);
	if (!parts)
		return soft_add_ew_like(s, EW_DIV, type, z, z, sum);
	return soft_add_ew_like(s, EW_MUL, type, z, z, soft_add_ew_like(s, EW_INV, type, sum, sum, -1));
}

/* softmax, and the index of the largest (with = 0) or smallest (with = 1) */
static an_status lower_along(soft_fn *s, const mil_op *op, int with)
{
	int x = use_arg(s, op, "x"), axis = fn_arg_int(s->f, op, "axis"), rank = s->values[x].rank;
	int64_t dim[SOFT_RANK];
	memcpy(dim, s->values[x].dim, sizeof dim);
	if (axis < 0)
		axis += rank;
	if (op->op == OP_SOFTMAX)
		return result(s, op, 0, softmax(s, x, axis));
	dim[axis] = 1;
	int y = soft_add_node(s, NODE_ARG, soft_type_by_dtype[result_type(s, op)->dtype], rank, dim, 1, &x);
	if (!s->oom) {
		s->nodes[s->nnodes - 1].u.along.axis = axis;
		s->nodes[s->nnodes - 1].u.along.min = with;
	}
	return result(s, op, 0, y);
}

/* gamma or beta, whose axes are those in mask, as a shape that broadcasts to x. */
static int along_axes(soft_fn *s, int v, int x, uint32_t mask)
{
	int64_t dim[SOFT_RANK];
	int rank = s->values[x].rank;
	for (int i = 0; i < rank; i++)
		dim[i] = mask >> i & 1 ? s->values[x].dim[i] : 1;
	return soft_add_reshape(s, v, rank, dim);
}

/* Mean, then the mean square of what is left: in fp32 and rounded once, or in parts of the operand's
 * type. */
static an_status lower_layer_norm(soft_fn *s, const mil_op *op, int with)
{
	(void)with;
	uint32_t mask;
	bool keep;
	TRY(op_reduce_axes(s->f, op, &mask, &keep));
	int x = use_arg(s, op, "x"), gamma = use_arg(s, op, "gamma"), beta = use_arg(s, op, "beta");
	k_type type = s->values[x].type;
	bool parts = type == K_F16 && CHOSEN(s->numerics, NORM, PARTS);
	k_type inner = parts ? type : K_F32;
	int mean = soft_add_reduce(s, K_MEAN, inner, x, mask);
	int centred = soft_add_ew_like(s, EW_SUB, inner, x, x, mean);
	/* a part is a product of two values */
	int squared = parts ? soft_add_ew_like(s, EW_MUL, inner, x, centred, centred)
			    : soft_add_ew_like(s, EW_SQUARE, inner, x, centred, -1);
	int variance = soft_add_reduce(s, K_MEAN, inner, squared, mask);
	float epsilon = number(s, op, "epsilon");
	if (parts)
		variance = soft_add_ew_like(s, EW_ADD, inner, variance, variance,
					    soft_add_number(s, inner, epsilon));
	int64_t dim[SOFT_RANK];
	memcpy(dim, s->values[variance].dim, sizeof dim);
	int scale =
	    soft_add_ew(s, EW_RSQRT, inner, s->values[x].rank, dim, variance, -1, -1, parts ? 0 : epsilon, 0);
	int y = soft_add_ew_like(s, EW_MUL, gamma < 0 && beta < 0 ? type : inner, x, centred, scale);
	if (gamma >= 0)
		y = soft_add_ew_like(s, EW_MUL, beta < 0 ? type : inner, x, y, along_axes(s, gamma, x, mask));
	if (beta >= 0)
		y = soft_add_ew_like(s, EW_ADD, type, x, y, along_axes(s, beta, x, mask));
	return result(s, op, 0, y);
}

/* ---- Contractions ------------------------------------------------------------------ */

/* An operand of a contraction, and the axis which is not contracted (-1: there is none, or several). */
typedef struct factor {
	an_value v;
	int axis;
} factor;

/* The operation that makes v of 8-bit integers, without zero points, if its scale is one number or has one
 * per element of the axis; otherwise NULL. */
static const mil_op *dequantisation(const soft_fn *s, factor f)
{
	const int32_t def = s->f->values[f.v].op;
	const mil_op *op = def < 0 ? NULL : &s->f->ops[def];
	const mil_literal *scale, *zero;
	int axis;
	if (!op || s->f->values[f.v].type.dtype != AN_FP16)
		return NULL;
	if (op->op == OP_CONSTEXPR_AFFINE_DEQUANTIZE) {
		scale = op_attr(op, "scale");
		zero = op_attr(op, "zero_point");
		axis = (int)lit_number(op_attr(op, "axis"), 0);
	} else if (op->op == OP_DEQUANTIZE) {
		an_value z = fn_arg_value(s->f, op, "zero_point");
		scale = fn_const(s->f, fn_arg_value(s->f, op, "scale"));
		zero = z == AN_NO_VALUE ? NULL : fn_const(s->f, z);
		axis = fn_arg_int(s->f, op, "axis");
	} else {
		return NULL;
	}
	if (axis < 0)
		axis += s->f->values[f.v].type.rank;
	if (scale->type.rank > 0 && axis != f.axis)
		return NULL;
	for (int64_t i = 0; zero && CHOSEN(s->numerics, ZERO_POINT, USED) && i < an_type_count(&zero->type);
	     i++)
		if (lit_number(zero, i) != 0)
			return NULL;
	return op;
}

/* Whether op contracts integers in place of what two operations before it make of them: its operands. */
static bool contracts_integers(const soft_fn *s, const mil_op *op, factor *x, factor *y)
{
	matmul_spec m;
	conv_spec c;
	if (CHOSEN(s->numerics, INT8, DEQUANTIZED))
		return false;
	if (op->op == OP_CONV && op_conv_spec(s->f, op, &c) == AN_OK) {
		*x = (factor){c.x, -1};
		*y = (factor){c.weight, 0};
	} else if ((op->op == OP_MATMUL || op->op == OP_LINEAR) && op_matmul_spec(s->f, op, &m) == AN_OK) {
		int rx = s->f->values[m.x].type.rank, ry = s->f->values[m.y].type.rank;
		*x = (factor){m.x, rx < 2 ? -1 : m.tx ? rx - 1 : rx - 2};
		*y = (factor){m.y, ry < 2 ? -1 : m.ty ? ry - 2 : ry - 1};
	} else {
		return false;
	}
	return dequantisation(s, *x) && dequantisation(s, *y);
}

/* The integers behind f; *scale is their scale. */
static int integers(soft_fn *s, factor f, int *scale)
{
	const mil_op *op = dequantisation(s, f);
	if (op->op == OP_DEQUANTIZE) {
		*scale = use_arg(s, op, "scale");
		return use_arg(s, op, "input");
	}
	*scale = attr_literal(s, op, "scale");
	return attr_literal(s, op, "quantized_data");
}

/* The product of two scales in fp32, reshaped to broadcast to a product of matrices: x's go along axis
 * `at_x` of `rank`, y's along `at_y`. */
static int both_scales(soft_fn *s, int x, int y, int rank, int at_x, int at_y)
{
	x = per_channel(s, x, rank, at_x);
	y = per_channel(s, y, rank, at_y);
	int64_t dim[SOFT_RANK];
	int r = MAX(s->values[x].rank, s->values[y].rank);
	for (int i = 0; i < r; i++)
		dim[i] = MAX(s->values[x].rank ? s->values[x].dim[i] : 1,
			     s->values[y].rank ? s->values[y].dim[i] : 1);
	return soft_add_ew(s, EW_MUL, K_F32, r, dim, x, y, -1, 0, 0);
}

static an_status lower_matmul(soft_fn *s, const mil_op *op, int with)
{
	(void)with;
	matmul_spec m;
	TRY(op_matmul_spec(s->f, op, &m));
	factor fx, fy;
	const bool integer = contracts_integers(s, op, &fx, &fy);
	int sx = -1, sy = -1;
	int x = integer ? integers(s, fx, &sx) : use(s, m.x);
	int y = integer ? integers(s, fy, &sy) : use(s, m.y);
	if (s->values[x].rank == 1)
		x = soft_add_reshape(s, x, 2, (int64_t[]){1, m.k});
	else if (m.tx)
		x = soft_add_transposed(s, x);
	if (s->values[y].rank == 1)
		y = soft_add_reshape(s, y, 2, (int64_t[]){m.k, 1});
	else if (m.ty)
		y = soft_add_transposed(s, y);
	int bias = m.bias == AN_NO_VALUE ? -1 : use(s, m.bias);
	if (integer)
		return result(
		    s, op, 0,
		    soft_add_integer_product(s, K_F16, x, y, both_scales(s, sx, sy, 2, 0, 1), bias));
	return result(s, op, 0, soft_add_product(s, s->values[x].type, x, y, bias));
}

/* x in the middle of a larger array whose border has the value of scalar `fill`, or (fill < 0)
 * is not written yet. */
static int add_bordered(soft_fn *s, int x, const int64_t *before, const int64_t *after, int fill)
{
	int rank = s->values[x].rank;
	int64_t dim[SOFT_RANK], inner[SOFT_RANK];
	soft_view view = soft_whole(rank);
	memcpy(inner, s->values[x].dim, sizeof inner);
	for (int i = 0; i < rank; i++) {
		dim[i] = before[i] + inner[i] + after[i];
		view.begin[i] = before[i];
	}
	int border = fill >= 0 ? fill : soft_add_number(s, s->values[x].type, 0);
	int repeated = soft_add_broadcast(s, border, rank, dim);
	int p = soft_add_node(s, NODE_COPY, s->values[x].type, rank, dim, 1, &repeated);
	/* p is written again below, so it is known early only if x is */
	s->values[p].constant = s->values[x].constant;
	soft_add_copy_into(s, x, soft_add_view(s, p, rank, inner, &view));
	return p;
}

/* Convolution is a product of the weights with the windows of x.  The windows are a view of
 * x; putting them into the rows of a matrix is a reshape, which needs a copy unless the kernel
 * is 1 x 1. */
static an_status lower_conv(soft_fn *s, const mil_op *op, int with)
{
	(void)with;
	conv_spec c;
	TRY(op_conv_spec(s->f, op, &c));
	factor fx, fw;
	const bool integer = contracts_integers(s, op, &fx, &fw);
	int sx = -1, sw = -1;
	int x = integer ? integers(s, fx, &sx) : use(s, c.x),
	    w = integer ? integers(s, fw, &sw) : use(s, c.weight);
	int bias = c.bias == AN_NO_VALUE ? -1 : use(s, c.bias);
	k_type type = s->values[x].type;
	const bool winograd = soft_is_winograd(s, &c, type);
	const int more = winograd && c.ow % 2; /* columns come in pairs */
	x = soft_add_reshape(s, x, 4, (int64_t[]){c.batch, c.in_ch, c.h, c.w});
	if (c.pad[0] || c.pad[1] || c.pad[2] || c.pad[3] || more)
		x = add_bordered(s, x, (int64_t[]){0, 0, c.pad[0], c.pad[2]},
				 (int64_t[]){0, 0, c.pad[1], c.pad[3] + more}, -1);
	int64_t g = c.groups, k = (int64_t)(c.in_ch / c.groups) * c.kh * c.kw, m = c.out_ch / c.groups;
	if (bias >= 0)
		bias = soft_add_reshape(s, bias, 4, (int64_t[]){1, g, m, 1});
	if (winograd)
		return result(s, op, 0, soft_add_winograd(s, &c, x, w, bias));
	const soft_view windows = {.axis = {0, 1, 2, 3, 2, 3},
				   .step = {1, 1, c.dilation[0], c.dilation[1], c.stride[0], c.stride[1]}};
	x = soft_add_view(s, x, 6, (int64_t[]){c.batch, c.in_ch, c.kh, c.kw, c.oh, c.ow}, &windows);
	x = soft_add_reshape(s, x, 4, (int64_t[]){c.batch, g, k, (int64_t)c.oh * c.ow});
	w = soft_add_reshape(s, w, 4, (int64_t[]){1, g, m, k});
	if (!integer)
		return result(s, op, 0, soft_add_product(s, type, w, x, bias));
	if (s->values[sw].rank) /* by output channel, which are in groups here */
		sw = soft_add_reshape(s, sw, 4, (int64_t[]){1, g, m, 1});
	int64_t dim[SOFT_RANK];
	memcpy(dim, s->values[sw].dim, sizeof dim);
	int scale = soft_add_ew(s, EW_MUL, K_F32, s->values[sw].rank, dim, sw, sx, -1, 0, 0);
	return result(s, op, 0, soft_add_integer_product(s, K_F16, w, x, scale, bias));
}

/* softmax(query key^T / sqrt(E) + mask) value; scores and probabilities stay in fp32
 * or are fp16, by the rule. */
static an_status lower_sdpa(soft_fn *s, const mil_op *op, int with)
{
	(void)with;
	int q = use_arg(s, op, "query"), k = use_arg(s, op, "key"), v = use_arg(s, op, "value");
	int mask = use_arg(s, op, "attn_mask"), rank = s->values[q].rank;
	k_type type = s->values[q].type, inner = CHOSEN(s->numerics, SDPA, PARTS) ? type : K_F32;
	double embedding = (double)s->values[q].dim[rank - 1];
	int z = soft_add_gemm(s, inner, q, soft_add_transposed(s, k), -1);
	int64_t dim[SOFT_RANK];
	memcpy(dim, s->values[z].dim, sizeof dim);
	z = soft_add_ew_like(s, EW_MUL, inner, z, z, soft_add_number(s, inner, 1 / sqrt(embedding)));
	if (mask >= 0 && s->values[mask].type == K_BOOL)
		z = soft_add_ew(s, EW_SELECT, inner, rank, dim, mask, z, soft_add_number(s, inner, -INFINITY),
				0, 0);
	else if (mask >= 0)
		z = soft_add_ew_like(s, EW_ADD, inner, z, z, mask);
	int p = softmax(s, z, rank - 1);
	if (type != inner) { /* both operands of a product have one type */
		int64_t shape[SOFT_RANK];
		memcpy(shape, s->values[v].dim, sizeof shape);
		v = soft_add_ew(s, EW_MOV, K_F32, rank, shape, v, -1, -1, 0, 0);
	}
	return result(s, op, 0, soft_add_gemm(s, type, p, v, -1));
}

/* ---- Moving elements ---------------------------------------------------------------- */

static an_status lower_transpose(soft_fn *s, const mil_op *op, int with)
{
	(void)with;
	int x = use_arg(s, op, "x"), rank = s->values[x].rank;
	int32_t perm[AN_MAX_RANK];
	fn_arg_ints(s->f, op, "perm", perm, AN_MAX_RANK);
	soft_view view = soft_whole(rank);
	int64_t dim[SOFT_RANK];
	for (int i = 0; i < rank; i++) {
		view.axis[i] = (int8_t)(perm[i] < 0 ? perm[i] + rank : perm[i]);
		dim[i] = s->values[x].dim[view.axis[i]];
	}
	return result(s, op, 0, soft_add_view(s, x, rank, dim, &view));
}

/* A view as a slice of x: where engines move the last axis' elements through a converter, they pass it. */
static int sliced(soft_fn *s, int x, int rank, const int64_t *dim, const soft_view *view)
{
	int y = soft_add_view(s, x, rank, dim, view);
	k_type type = s->values[x].type;
	if (CHOSEN(s->numerics, SLICE, EXACT) || type != K_F16 || rank == 0 || view->begin[rank - 1] == 0)
		return y;
	y = soft_add_ew_like(s, EW_MUL, type, y, y, soft_add_number(s, type, 16));
	return soft_add_ew_like(s, EW_MUL, type, y, y, soft_add_number(s, type, 1. / 16));
}

static an_status lower_slice(soft_fn *s, const mil_op *op, int with)
{
	(void)with;
	slice_spec spec;
	TRY(op_slice_spec(s->f, op, &spec));
	int x = use_arg(s, op, "x"), rank = s->values[x].rank;
	soft_view view = soft_whole(rank);
	int64_t dim[SOFT_RANK];
	for (int i = 0; i < rank; i++) {
		view.begin[i] = spec.begin[i];
		view.step[i] = spec.step[i];
		dim[i] = spec.count[i];
	}
	return result(s, op, 0, sliced(s, x, rank, dim, &view)); /* squeezes through its type */
}

static an_status lower_split(soft_fn *s, const mil_op *op, int with)
{
	(void)with;
	int x = use_arg(s, op, "x"), rank = s->values[x].rank, axis = fn_arg_int(s->f, op, "axis");
	if (axis < 0)
		axis += rank;
	soft_view view = soft_whole(rank);
	for (int i = 0; i < op->nresults; i++) {
		const an_type *t = &s->f->values[op->results[i]].type;
		int64_t dim[SOFT_RANK];
		TRY(result(s, op, i, sliced(s, x, rank, shape_of(t, dim), &view)));
		view.begin[axis] += t->dim[axis];
	}
	return AN_OK;
}

/* concat and stack; a stacked value first gets an axis of length 1. */
static an_status lower_concat(soft_fn *s, const mil_op *op, int stack)
{
	const mil_use *values = &op->arg[op_param_index(op->op, "values")];
	const an_type *t = result_type(s, op);
	int axis = fn_arg_int(s->f, op, "axis"), n = (int)values->n;
	if (axis < 0)
		axis += t->rank;
	int64_t dim[SOFT_RANK];
	int *part = arena_array(s->tmp, (size_t)n, sizeof *part);
	if (!part)
		return fail_memory(s->ctx, 0);
	for (int i = 0; i < n; i++) {
		part[i] = use(s, values->v[i]);
		if (stack) {
			shape_of(t, dim)[axis] = 1;
			part[i] = soft_add_reshape(s, part[i], t->rank, dim);
		}
	}
	bool interleave = !stack && fn_arg_bool(s->f, op, "interleave");
	return result(s, op, 0, soft_add_concat(s, axis, interleave, n, part));
}

/* Copies along one axis what a view of the array itself shows, to the border that is at
 * [at, at + n) of that axis; axes before it are complete, those after it are not. */
static void add_border(soft_fn *s, int p, int axis, const int64_t *before, const int64_t *inner, int64_t at,
		       int64_t n, int64_t from, int64_t step)
{
	int rank = s->values[p].rank;
	soft_view to = soft_whole(rank), of = soft_whole(rank);
	int64_t dim[SOFT_RANK];
	if (n == 0)
		return;
	for (int i = 0; i < rank; i++) {
		dim[i] = i < axis ? s->values[p].dim[i] : inner[i];
		to.begin[i] = of.begin[i] = i < axis ? 0 : before[i];
	}
	dim[axis] = n;
	to.begin[axis] = at;
	of.begin[axis] = from;
	of.step[axis] = step;
	if (step == 0)
		of.axis[axis] = -1;
	int source = soft_add_view(s, p, rank, dim, &of);
	soft_add_copy_into(s, source, soft_add_view(s, p, rank, dim, &to));
}

static an_status lower_pad(soft_fn *s, const mil_op *op, int with)
{
	(void)with;
	int x = use_arg(s, op, "x"), rank = s->values[x].rank;
	const char *mode = fn_arg_string(s->f, op, "mode");
	int32_t pad[2 * AN_MAX_RANK];
	int n = fn_arg_ints(s->f, op, "pad", pad, LENGTH(pad)) / 2;
	int64_t before[SOFT_RANK] = {0}, after[SOFT_RANK] = {0}, inner[SOFT_RANK];
	for (int i = 0; i < n; i++) {
		before[rank - n + i] = pad[2 * i];
		after[rank - n + i] = pad[2 * i + 1];
	}
	memcpy(inner, s->values[x].dim, sizeof inner);
	int p = add_bordered(s, x, before, after,
			     soft_add_number(s, s->values[x].type, fn_arg_float(s->f, op, "constant_val")));
	if (mode && strcmp(mode, "constant"))
		for (int i = 0; i < rank; i++) {
			int64_t first = before[i], last = before[i] + inner[i] - 1;
			if (!strcmp(mode, "reflect")) {
				add_border(s, p, i, before, inner, 0, before[i], first + before[i], -1);
				add_border(s, p, i, before, inner, last + 1, after[i], last - 1, -1);
			} else {
				add_border(s, p, i, before, inner, 0, before[i], first, 0);
				add_border(s, p, i, before, inner, last + 1, after[i], last, 0);
			}
		}
	return result(s, op, 0, p);
}

/* One axis after the other: x seen with an axis of repetitions before it, reshaped. */
static an_status lower_tile(soft_fn *s, const mil_op *op, int with)
{
	(void)with;
	int x = use_arg(s, op, "x"), rank = s->values[x].rank;
	int32_t reps[AN_MAX_RANK];
	fn_arg_ints(s->f, op, "reps", reps, AN_MAX_RANK);
	for (int axis = 0; axis < rank; axis++) {
		if (reps[axis] == 1)
			continue;
		soft_view view = {.begin = {0}};
		int64_t dim[SOFT_RANK];
		for (int i = 0, j = 0; i < rank; i++) {
			if (i == axis) {
				dim[j] = reps[axis];
				view.axis[j++] = -1;
			}
			dim[j] = s->values[x].dim[i];
			view.axis[j] = (int8_t)i;
			view.step[j++] = 1;
		}
		int64_t tiled[SOFT_RANK];
		memcpy(tiled, s->values[x].dim, sizeof tiled);
		tiled[axis] *= reps[axis];
		x = soft_add_reshape(s, soft_add_view(s, x, rank + 1, dim, &view), rank, tiled);
	}
	return result(s, op, 0, x);
}

/* ---- The table ---------------------------------------------------------------------- */

/* clang-format off */
/* ORDER OP.  An operation of ops.def without a macro here does not compile. */
#define ROW(fn, with, integer) {fn, with, NULL, integer}
#define BINARY(ew)             ROW(lower_binary, ew, true)
#define FLOAT_BINARY(ew)       ROW(lower_binary, ew, false)
#define UNARY(ew)              ROW(lower_unary, ew, true)
#define FLOAT_UNARY(ew)        ROW(lower_unary, ew, false)
#define REDUCE(how)            ROW(lower_reduce, how, true)
#define FLOAT_REDUCE(how)      ROW(lower_reduce, how, false)
#define MOVE(fn)               ROW(fn, 0, true)
#define FLOAT(fn)              ROW(fn, 0, false)
#define NONE(why)              {NULL, 0, why, false}

#define LOWER_CONST NONE("a constant is no work")
#define LOWER_CONSTEXPR_AFFINE_DEQUANTIZE MOVE(lower_affine_dequantize)
#define LOWER_ADD BINARY(EW_ADD)
#define LOWER_SUB BINARY(EW_SUB)
#define LOWER_MUL ROW(lower_mul, EW_MUL, true)
#define LOWER_REAL_DIV FLOAT_BINARY(EW_DIV)
#define LOWER_FLOOR_DIV BINARY(EW_FLOOR_DIV)
#define LOWER_MOD BINARY(EW_MOD)
#define LOWER_POW FLOAT_BINARY(EW_POW)
#define LOWER_MAXIMUM BINARY(EW_MAX)
#define LOWER_MINIMUM BINARY(EW_MIN)
#define LOWER_EQUAL BINARY(EW_EQ)
#define LOWER_NOT_EQUAL BINARY(EW_NE)
#define LOWER_LESS BINARY(EW_LT)
#define LOWER_LESS_EQUAL BINARY(EW_LE)
#define LOWER_GREATER BINARY(EW_GT)
#define LOWER_GREATER_EQUAL BINARY(EW_GE)
#define LOWER_SELECT MOVE(lower_select)
#define LOWER_IDENTITY MOVE(lower_same)
#define LOWER_CAST MOVE(lower_cast)
#define LOWER_ABS UNARY(EW_ABS)
#define LOWER_SIGN UNARY(EW_SIGN)
#define LOWER_SQUARE UNARY(EW_SQUARE)
#define LOWER_SQRT FLOAT_UNARY(EW_SQRT)
#define LOWER_RSQRT FLOAT_UNARY(EW_RSQRT)
#define LOWER_INVERSE FLOAT_UNARY(EW_INV)
#define LOWER_EXP FLOAT_UNARY(EW_EXP)
#define LOWER_EXP2 FLOAT_UNARY(EW_EXP2)
#define LOWER_LOG ROW(lower_log, EW_LOG, false)
#define LOWER_SIN FLOAT_UNARY(EW_SIN)
#define LOWER_COS FLOAT_UNARY(EW_COS)
#define LOWER_ERF FLOAT_UNARY(EW_ERF)
#define LOWER_FLOOR FLOAT_UNARY(EW_FLOOR)
#define LOWER_CEIL FLOAT_UNARY(EW_CEIL)
#define LOWER_ROUND ROW(lower_round, EW_ROUND, false)
#define LOWER_CLIP FLOAT_UNARY(EW_CLIP)
#define LOWER_RELU FLOAT_UNARY(EW_RELU)
#define LOWER_LEAKY_RELU FLOAT_UNARY(EW_LEAKY_RELU)
#define LOWER_ELU FLOAT_UNARY(EW_ELU)
#define LOWER_SIGMOID FLOAT_UNARY(EW_SIGMOID)
#define LOWER_TANH FLOAT_UNARY(EW_TANH)
#define LOWER_SILU FLOAT_UNARY(EW_SILU)
#define LOWER_GELU FLOAT(lower_gelu)
#define LOWER_SOFTPLUS ROW(lower_softplus, EW_SOFTPLUS, false)
#define LOWER_SOFTSIGN FLOAT_UNARY(EW_SOFTSIGN)
#define LOWER_SOFTMAX FLOAT(lower_along)
#define LOWER_REDUCE_SUM REDUCE(K_SUM)
#define LOWER_REDUCE_MEAN FLOAT_REDUCE(K_MEAN)
#define LOWER_REDUCE_MAX REDUCE(K_MAX)
#define LOWER_REDUCE_MIN REDUCE(K_MIN)
#define LOWER_REDUCE_SUM_SQUARE REDUCE(K_SUM_SQUARE)
#define LOWER_REDUCE_L2_NORM FLOAT_REDUCE(K_L2)
#define LOWER_REDUCE_ARGMAX FLOAT(lower_along)
#define LOWER_REDUCE_ARGMIN ROW(lower_along, 1, false)
#define LOWER_TOPK NONE("topk is not evaluated by this device yet")
#define LOWER_LAYER_NORM FLOAT(lower_layer_norm)
#define LOWER_MATMUL FLOAT(lower_matmul)
#define LOWER_LINEAR FLOAT(lower_matmul)
#define LOWER_CONV FLOAT(lower_conv)
#define LOWER_SCALED_DOT_PRODUCT_ATTENTION FLOAT(lower_sdpa)
#define LOWER_RESHAPE MOVE(lower_same)
#define LOWER_TRANSPOSE MOVE(lower_transpose)
#define LOWER_EXPAND_DIMS MOVE(lower_same)
#define LOWER_SQUEEZE MOVE(lower_same)
#define LOWER_SLICE_BY_INDEX MOVE(lower_slice)
#define LOWER_SLICE_BY_SIZE MOVE(lower_slice)
#define LOWER_CONCAT MOVE(lower_concat)
#define LOWER_STACK ROW(lower_concat, 1, true)
#define LOWER_SPLIT MOVE(lower_split)
#define LOWER_PAD MOVE(lower_pad)
#define LOWER_TILE MOVE(lower_tile)
#define LOWER_QUANTIZE FLOAT(lower_quantize)
#define LOWER_DEQUANTIZE MOVE(lower_dequantize)

/* clang-format on */

static const lower_row lower_table[OP_COUNT] = {
#define OP(id, ...) [OP_##id] = LOWER_##id,
#include "mil/ops.def"
#undef OP
};

/* Whether an operation computes with its elements (uint32 has no arithmetic here), or only moves,
 * selects or converts them. */
static bool computes(const mil_op *op)
{
	int cls = op_table[op->op].cls;
	return op->op != OP_IDENTITY && op->op != OP_CAST &&
	       (cls == OC_UNARY || cls == OC_BINARY || cls == OC_REDUCE);
}

bool soft_supports(an_device *d, const an_function *f, const mil_op *op, const char **rule)
{
	(void)d;
	const lower_row *row = &lower_table[op->op];
	if (op->op == OP_CONST)
		return true; /* what uses it decides */
	if (!row->lower) {
		*rule = row->none;
		return false;
	}
	for (int p = 0; p < OP_MAX_PARAMS; p++) {
		if (op_table[op->op].param[p].name && op_table[op->op].param[p].kind & PK_CONST)
			continue; /* read while compiling */
		for (uint32_t i = 0; i < op->arg[p].n; i++) {
			an_dtype t = (an_dtype)f->values[op->arg[p].v[i]].type.dtype;
			if (soft_type_by_dtype[t] == K_TYPE_COUNT || t == AN_BF16) {
				*rule = "values are fp16, fp32, bool or integers of 8 to 32 bits";
				return false;
			}
			if (t == AN_UINT32 && computes(op)) {
				*rule = "uint32 values can be moved and converted, not computed with";
				return false;
			}
			bool integer = t != AN_FP16 && t != AN_FP32 && t != AN_BOOL;
			if (integer && !row->integer) {
				*rule = "the operation is not evaluated on integers";
				return false;
			}
		}
	}
	return true;
}

/* Marks what defines the operands of op but x and y; of these, what defines their operands. */
static void need_operands(const an_function *f, const mil_op *op, an_value x, an_value y, bool *need)
{
	for (int p = 0; p < OP_MAX_PARAMS; p++)
		for (uint32_t j = 0; j < op->arg[p].n; j++) {
			an_value v = op->arg[p].v[j];
			int32_t def = f->values[v].op;
			if (def < 0)
				continue;
			if (v == x || v == y)
				need_operands(f, &f->ops[def], AN_NO_VALUE, AN_NO_VALUE, need);
			else
				need[def] = true;
		}
}

/* Marks the operations that an output depends on.  NULL: out of memory. */
static bool *needed_ops(soft_fn *s)
{
	const an_function *f = s->f;
	bool *need = arena_array(s->tmp, f->nops + 1, sizeof *need);
	if (!need)
		return NULL;
	for (size_t i = 0; i < f->noutputs; i++)
		if (f->values[f->outputs[i]].op >= 0)
			need[f->values[f->outputs[i]].op] = true;
	for (size_t i = f->nops; i-- > 0;) {
		factor x = {AN_NO_VALUE, -1}, y = x;
		if (need[i] && !contracts_integers(s, &f->ops[i], &x, &y))
			x.v = y.v = AN_NO_VALUE;
		if (need[i])
			need_operands(f, &f->ops[i], x.v, y.v, need);
	}
	return need;
}

an_status soft_lower(soft_fn *s)
{
	const an_function *f = s->f;
	bool *need = needed_ops(s);
	s->map = arena_array(s->tmp, f->nvalues + 1, sizeof *s->map);
	s->outputs = arena_array(s->tmp, f->noutputs + 1, sizeof *s->outputs);
	if (!need || !s->map || !s->outputs)
		return fail_memory(s->ctx, 0);
	for (size_t i = 0; i < f->nvalues; i++)
		s->map[i] = -1;
	soft_add_value(s, K_F32, AN_MAX_RANK, (int64_t[]){1, 1, 1, 1, 1}); /* stands in when memory is out */
	if (s->oom)
		return fail_memory(s->ctx, 0);
	for (size_t i = 0; i < f->ninputs; i++) {
		const mil_value *in = &f->values[f->inputs[i]];
		int64_t dim[SOFT_RANK];
		k_type type = soft_type_by_dtype[in->type.dtype];
		if (type == K_TYPE_COUNT)
			return fail(
			    s->ctx, AN_DEVICE,
			    "input \"%s\" is %s: values are fp16, fp32, bool or integers of 8 to 32 bits",
			    in->name, an_dtype_name((an_dtype)in->type.dtype));
		int v = soft_add_value(s, type, in->type.rank, shape_of(&in->type, dim));
		if (s->too_large)
			return fail(s->ctx, AN_DEVICE, "input \"%s\" has more than 2^40 elements", in->name);
		s->values[v].name = in->name;
		s->values[v].port = true;
		s->map[f->inputs[i]] = v;
	}
	for (size_t i = 0; i < f->nops; i++) {
		const mil_op *op = &f->ops[i];
		s->op = (int)i;
		if (need[i] && op->op != OP_CONST)
			TRY(lower_table[op->op].lower(s, op, lower_table[op->op].with));
	}
	for (size_t i = 0; i < f->noutputs; i++)
		s->outputs[i] = use(s, f->outputs[i]);
	return s->oom ? failure(s) : AN_OK;
}
