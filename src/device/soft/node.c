/* Values and nodes of the lowered function: what lower.c puts together. */
#include "device/soft/node.h"

#include <math.h>

const k_type soft_type_by_dtype[AN_DTYPE_COUNT] = {[AN_FP16] = K_F16,          [AN_FP32] = K_F32,
						   [AN_INT8] = K_I8,           [AN_UINT8] = K_U8,
						   [AN_INT16] = K_I16,         [AN_UINT16] = K_U16,
						   [AN_INT32] = K_I32,         [AN_UINT32] = K_U32,
						   [AN_BOOL] = K_BOOL,         [AN_NO_DTYPE] = K_TYPE_COUNT,
						   [AN_BF16] = K_BF16,         [AN_INT64] = K_TYPE_COUNT,
						   [AN_UINT64] = K_TYPE_COUNT, [AN_STRING] = K_TYPE_COUNT};

bool soft_is_float(k_type t) { return t == K_F16 || t == K_F32; }

/* A value of more elements than any memory holds is refused before sizes are computed with. */
static const int64_t most_elements = INT64_C(1) << 40;

int64_t soft_elements(const soft_value *v)
{
	int64_t n = 1;
	for (int i = 0; i < v->rank; i++)
		n *= v->dim[i];
	return n;
}

int soft_add_value(soft_fn *s, k_type type, int rank, const int64_t *dim)
{
	int64_t n = 1;
	for (int i = 0; i < rank; i++)
		s->too_large |= __builtin_mul_overflow(n, dim[i], &n) || n > most_elements;
	if (s->too_large || !mem_grow(s->ctx, &s->values, &s->values_cap, s->nvalues, sizeof *s->values)) {
		s->oom = true;
		return 0;
	}
	soft_value *v = &s->values[s->nvalues];
	*v = (soft_value){
	    .type = type, .rank = rank, .def = -1, .root = -1, .at.storage = -1, .wish.storage = -1};
	for (int i = 0; i < rank; i++)
		v->dim[i] = dim[i];
	return (int)s->nvalues++;
}

static void *literal_bytes(soft_fn *s, const void *bytes, size_t n)
{
	void *p = arena_copy(s->tmp, bytes, n);
	if (!p)
		s->oom = true;
	return p;
}

int soft_add_literal(soft_fn *s, k_type type, int rank, const int64_t *dim, const void *bytes)
{
	int v = soft_add_value(s, type, rank, dim);
	s->values[v].bytes = bytes;
	s->values[v].constant = true;
	return v;
}

int soft_add_number(soft_fn *s, k_type type, double x)
{
	union {
		half h;
		float f;
		int8_t i8;
		uint8_t u8;
		int16_t i16;
		uint16_t u16;
		int32_t i32;
		uint32_t u32;
	} u = {0};
	/* integers saturate at what 32 bits hold; NaN is 0 */
	int64_t i = x != x ? 0 : x <= INT32_MIN ? INT32_MIN : x >= UINT32_MAX ? UINT32_MAX : (int64_t)x;
	switch (type) {
	case K_F16: u.h = half_from_double(x); break;
	case K_BF16: u.h = bfloat_from_float((float)x); break;
	case K_F32: u.f = (float)x; break;
	case K_I8: u.i8 = (int8_t)i; break;
	case K_U8: u.u8 = (uint8_t)i; break;
	case K_BOOL: u.u8 = x != 0; break;
	case K_I16: u.i16 = (int16_t)i; break;
	case K_U16: u.u16 = (uint16_t)i; break;
	case K_I32: u.i32 = (int32_t)i; break;
	case K_U32: u.u32 = (uint32_t)i; break;
	case K_TYPE_COUNT: break;
	}
	return soft_add_literal(s, type, 0, NULL, literal_bytes(s, &u, sizeof u));
}

int soft_add_node(soft_fn *s, node_kind kind, k_type type, int rank, const int64_t *dim, int nin,
		  const int *in)
{
	int out = soft_add_value(s, type, rank, dim);
	int *copy = arena_copy(s->tmp, in, (size_t)nin * sizeof *in);
	if (!copy || s->oom || !mem_grow(s->ctx, &s->nodes, &s->nodes_cap, s->nnodes, sizeof *s->nodes)) {
		s->oom = true;
		return 0;
	}
	soft_node *n = &s->nodes[s->nnodes];
	*n = (soft_node){.kind = kind, .op = s->op, .nin = nin, .in = copy, .out = out, .group = -1};
	bool constant = true;
	for (int i = 0; i < nin; i++)
		constant &= s->values[in[i]].constant;
	s->values[out].constant = constant;
	s->values[out].def = (int)s->nnodes++;
	return out;
}

/* Instructions whose result on fp16 values is an fp16 value, so that rounding it changes nothing. */
static const bool never_rounds[EW_OP_COUNT] = {
    [EW_MAX] = true,   [EW_MIN] = true,   [EW_EQ] = true,   [EW_NE] = true,     [EW_LT] = true,
    [EW_LE] = true,    [EW_GT] = true,    [EW_GE] = true,   [EW_SELECT] = true, [EW_ABS] = true,
    [EW_NEG] = true,   [EW_SIGN] = true,  [EW_RELU] = true, [EW_FLOOR] = true,  [EW_CEIL] = true,
    [EW_ROUND] = true, [EW_TRUNC] = true, [EW_CLIP] = true};

/* ew_flag of instructions that have to do with fp16. */
static uint8_t special_flags(const ane_numerics *n)
{
	return (uint8_t)((CHOSEN(n, NAN, INFINITY) ? EW_NAN_INF : 0) |
			 (CHOSEN(n, INDETERMINATE, ZERO) ? EW_NAN_ZERO : 0) |
			 (CHOSEN(n, ZERO, POSITIVE) ? EW_ZERO_PLUS : 0));
}

/* The table in which chips look up what an instruction computes; NULL: there is none. */
static const ane_table *function_table(const ane_numerics *n, int op)
{
	static const struct {
		uint8_t op, fn;
	} of[] = {{EW_SIGMOID, ANE_SIGMOID}, {EW_TANH, ANE_TANH},   {EW_ERF, ANE_ERF},   {EW_SIN, ANE_SIN},
		  {EW_COS, ANE_COS},         {EW_EXP, ANE_EXP},     {EW_EXP2, ANE_EXP2}, {EW_LOG, ANE_LOG},
		  {EW_SQRT, ANE_SQRT},       {EW_RSQRT, ANE_RSQRT}, {EW_INV, ANE_INV},   {EW_GELU, ANE_GELU},
		  {EW_GELU_TANH, ANE_GELU},  {EW_SILU, ANE_SILU}};
	if (CHOSEN(n, FUNCTION, EXACT))
		return NULL;
	for (int i = 0; i < LENGTH(of); i++)
		if (of[i].op == op)
			return ane_table_find((ane_fn)of[i].fn, CHOSEN(n, FUNCTION, M1)   ? ANE_TABLES_M1
								: CHOSEN(n, FUNCTION, M5) ? ANE_TABLES_M5
											  : ANE_TABLES_M4);
	return NULL;
}

int soft_add_ew(soft_fn *s, int op, k_type type, int rank, const int64_t *dim, int a, int b, int c, float imm,
		float imm2)
{
	int in[3] = {a, b, c}, nin = a < 0 ? 0 : b < 0 ? 1 : c < 0 ? 2 : 3;
	bool integer = nin > 0 && !soft_is_float(type);
	for (int i = 0; i < nin; i++)
		integer &= !soft_is_float(s->values[in[i]].type);
	int out = soft_add_node(s, NODE_EW, type, rank, dim, nin, in);
	if (s->oom)
		return 0;
	soft_node *n = &s->nodes[s->nnodes - 1];
	bool cast = op == EW_MOV; /* the program asks for rounding here: no engine's work, to nearest even */
	bool fp16 = type == K_F16;
	for (int i = 0; i < nin; i++)
		fp16 |= s->values[in[i]].type == K_F16;
	n->u.ew.op = (uint8_t)op;
	n->u.ew.integer = integer;
	if (type == K_F16 && !never_rounds[op] && (cast || CHOSEN(s->numerics, FUSED, ROUNDED)))
		n->u.ew.round16 = !cast && CHOSEN(s->numerics, ROUNDING, AWAY) ? EW_AWAY : EW_NEAREST_EVEN;
	if (fp16 && !integer)
		n->u.ew.flags = special_flags(s->numerics);
	if (type == K_F16 && nin > 0 && s->values[in[0]].type == K_F16)
		n->u.ew.table = function_table(s->numerics, op);
	n->u.ew.imm = imm;
	n->u.ew.imm2 = imm2;
	return out;
}

int soft_add_ew_like(soft_fn *s, int op, k_type type, int v, int a, int b)
{
	int64_t dim[SOFT_RANK];
	memcpy(dim, s->values[v].dim, sizeof dim);
	return soft_add_ew(s, op, type, s->values[v].rank, dim, a, b, -1, 0, 0);
}

int soft_add_view(soft_fn *s, int x, int rank, const int64_t *dim, const soft_view *view)
{
	int out = soft_add_node(s, NODE_VIEW, s->values[x].type, rank, dim, 1, &x);
	if (!s->oom)
		s->nodes[s->nnodes - 1].u.view = *view;
	return out;
}

int soft_add_reshape(soft_fn *s, int x, int rank, const int64_t *dim)
{
	const soft_value *v = &s->values[x];
	if (v->rank == rank && !memcmp(v->dim, dim, (size_t)rank * sizeof *dim))
		return x;
	return soft_add_node(s, NODE_RESHAPE, v->type, rank, dim, 1, &x);
}

soft_view soft_whole(int rank)
{
	soft_view view = {.begin = {0}};
	for (int i = 0; i < rank; i++) {
		view.axis[i] = (int8_t)i;
		view.step[i] = 1;
	}
	return view;
}

int soft_add_transposed(soft_fn *s, int x)
{
	int r = s->values[x].rank;
	int64_t dim[SOFT_RANK];
	memcpy(dim, s->values[x].dim, sizeof dim);
	soft_view view = soft_whole(r);
	view.axis[r - 1] = (int8_t)(r - 2);
	view.axis[r - 2] = (int8_t)(r - 1);
	dim[r - 1] = s->values[x].dim[r - 2];
	dim[r - 2] = s->values[x].dim[r - 1];
	return soft_add_view(s, x, r, dim, &view);
}

int soft_add_broadcast(soft_fn *s, int x, int rank, const int64_t *dim)
{
	int r = s->values[x].rank;
	soft_view view = {.begin = {0}};
	for (int i = 0; i < rank; i++) {
		int j = i - (rank - r);
		view.axis[i] = (int8_t)(j >= 0 && s->values[x].dim[j] == dim[i] ? j : -1);
		view.step[i] = 1;
	}
	return soft_add_view(s, x, rank, dim, &view);
}

void soft_add_copy_into(soft_fn *s, int x, int part)
{
	int64_t none = 1;
	soft_add_node(s, NODE_COPY, s->values[x].type, 0, &none, 1, &x);
	if (s->oom)
		return;
	soft_node *n = &s->nodes[s->nnodes - 1];
	n->out = part;
	n->u.copy.into = true;
}

/* 0 for what is less than 2^-14, the rest to the bit. */
static int flushed(soft_fn *s, int x)
{
	k_type type = s->values[x].type;
	int64_t dim[SOFT_RANK];
	memcpy(dim, s->values[x].dim, sizeof dim);
	int size = soft_add_ew_like(s, EW_ABS, type, x, x, -1);
	int small = soft_add_ew_like(s, EW_LT, K_BOOL, x, size, soft_add_number(s, type, 0x1p-14));
	int y = soft_add_ew(s, EW_SELECT, type, s->values[x].rank, dim, small, soft_add_number(s, type, 0), x,
			    0, 0);
	if (!s->oom) /* NaN is a number to a contraction */
		s->nodes[s->nnodes - 1].u.ew.flags = 0;
	return y;
}

int soft_add_gemm(soft_fn *s, k_type type, int x, int y, int bias)
{
	if (CHOSEN(s->numerics, SUBNORMAL, FLUSH) && s->values[x].type == K_F16) {
		x = flushed(s, x);
		y = flushed(s, y);
	}
	const soft_value *a = &s->values[x], *b = &s->values[y];
	int rank = MAX(a->rank, b->rank);
	int64_t dim[SOFT_RANK];
	for (int i = 0; i < rank - 2; i++) {
		int i0 = i - (rank - a->rank), i1 = i - (rank - b->rank);
		dim[i] = MAX(i0 < 0 ? 1 : a->dim[i0], i1 < 0 ? 1 : b->dim[i1]);
	}
	dim[rank - 2] = a->dim[a->rank - 2];
	dim[rank - 1] = b->dim[b->rank - 1];
	int in[3] = {x, y, bias};
	return soft_add_node(s, NODE_GEMM, type, rank, dim, bias < 0 ? 2 : 3, in);
}

bool soft_fixed_point(const soft_fn *s, k_type type)
{
	return type == K_F16 && CHOSEN(s->numerics, PRODUCT, FIXED);
}

int soft_add_product(soft_fn *s, k_type type, int x, int y, int bias)
{
	if (soft_fixed_point(s, type))
		return soft_add_gemm(s, type, x, y, bias);
	int z = soft_add_gemm(s, bias < 0 ? type : K_F32, x, y, -1);
	return bias < 0 ? z : soft_add_ew_like(s, EW_ADD, type, z, z, bias);
}

int soft_add_integer_product(soft_fn *s, k_type type, int x, int y, int scale, int bias)
{
	int sum = soft_add_gemm(s, K_I32, x, y, -1), z = sum;
	const k_gemm_args g = {.k = s->values[x].dim[s->values[x].rank - 1],
			       .a.type = s->values[x].type,
			       .b.type = s->values[y].type};
	if (k_gemm_saturates(&g)) {
		int64_t dim[SOFT_RANK];
		memcpy(dim, s->values[sum].dim, sizeof dim);
		const int32_t limit[] = {INT32_MAX, INT32_MIN};
		for (int i = 0; i < LENGTH(limit); i++) {
			int there =
			    soft_add_ew_like(s, EW_EQ, K_BOOL, sum, sum, soft_add_number(s, K_I32, limit[i]));
			z = soft_add_ew(s, EW_SELECT, K_F32, s->values[sum].rank, dim, there,
					soft_add_number(s, K_F32, i ? -INFINITY : INFINITY), z, 0, 0);
		}
	}
	z = soft_add_ew_like(s, EW_MUL, bias < 0 ? type : K_F32, sum, z, scale);
	return bias < 0 ? z : soft_add_ew_like(s, EW_ADD, type, z, z, bias);
}

int soft_add_concat(soft_fn *s, int axis, bool interleave, int n, const int *part)
{
	const soft_value *first = &s->values[part[0]];
	int64_t dim[SOFT_RANK];
	memcpy(dim, first->dim, sizeof dim);
	for (int i = 1; i < n; i++)
		dim[axis] += s->values[part[i]].dim[axis];
	int y = soft_add_node(s, NODE_CONCAT, first->type, first->rank, dim, n, part);
	if (!s->oom) {
		s->nodes[s->nnodes - 1].u.concat.axis = axis;
		s->nodes[s->nnodes - 1].u.concat.interleave = interleave;
	}
	return y;
}

static int add_reduce(soft_fn *s, k_reduction how, k_type type, int x, uint32_t mask)
{
	int64_t dim[SOFT_RANK];
	int rank = s->values[x].rank;
	for (int i = 0; i < rank; i++)
		dim[i] = mask >> i & 1 ? 1 : s->values[x].dim[i];
	bool integer = !soft_is_float(s->values[x].type);
	int out = soft_add_node(s, NODE_REDUCE, type, rank, dim, 1, &x);
	if (s->oom)
		return 0;
	soft_node *n = &s->nodes[s->nnodes - 1];
	n->u.reduce.how = how;
	n->u.reduce.mask = mask;
	n->u.reduce.integer = integer;
	return out;
}

/* The sums of four consecutive elements along the last axis in mask, each addition aligned; what is missing
 * of the last four is 0.  x has no NaN but from infinity - infinity, which stays one. */
static int tile_sums(soft_fn *s, int x, uint32_t mask)
{
	enum { TILE = 4 };
	const int rank = s->values[x].rank, axis = 31 - __builtin_clz(mask);
	int64_t dim[SOFT_RANK];
	memcpy(dim, s->values[x].dim, sizeof dim);
	const int64_t left = (TILE - dim[axis] % TILE) % TILE;
	if (left) {
		dim[axis] = left;
		const int part[] = {
		    x, soft_add_broadcast(s, soft_add_number(s, s->values[x].type, 0), rank, dim)};
		x = soft_add_concat(s, axis, false, 2, part);
		dim[axis] = s->values[x].dim[axis];
	}
	dim[axis] /= TILE;
	int sum = -1;
	for (int i = 0; i < TILE; i++) {
		soft_view view = soft_whole(rank);
		view.step[axis] = TILE;
		view.begin[axis] = i;
		const int lane = soft_add_view(s, x, rank, dim, &view);
		sum = i ? soft_add_ew_like(s, EW_ADD_ALIGNED, K_F32, lane, sum, lane) : lane;
		if (i && !s->oom)
			s->nodes[s->nnodes - 1].u.ew.flags = 0;
	}
	return sum;
}

/* Sums of chips' fp16 values: exact enough in fp32, then a product by one or 1 / n that rounds as elsewhere.
 * Without a definition by an operation, which leaves no NaN, x may have some. */
int soft_add_reduce(soft_fn *s, k_reduction how, k_type type, int x, uint32_t mask)
{
	const ane_numerics *numerics = s->numerics;
	const bool tiled =
	    CHOSEN(numerics, REDUCE, TILED) && how != K_MAX && how != K_MIN && type == K_F16 && mask;
	bool chip = tiled || CHOSEN(numerics, ROUNDING, AWAY) || CHOSEN(numerics, NAN, INFINITY) ||
		    CHOSEN(numerics, INDETERMINATE, ZERO);
	if (s->values[x].type != K_F16 || !chip)
		return add_reduce(s, how, type, x, mask);
	int def = s->values[x].def;
	if (def < 0 || (s->nodes[def].kind != NODE_EW && s->nodes[def].kind != NODE_GEMM))
		x = soft_add_ew_like(s, EW_MOV, K_F16, x, x, -1);
	if (type != K_F16 || how == K_MAX || how == K_MIN)
		return add_reduce(s, how, type, x, mask);
	double factor = 1;
	for (int i = 0; how == K_MEAN && i < s->values[x].rank; i++)
		factor /= mask >> i & 1 ? (double)s->values[x].dim[i] : 1;
	const bool root = tiled && how == K_L2;
	if (tiled) {
		if (how == K_SUM_SQUARE || how == K_L2)
			x = soft_add_ew_like(s, EW_SQUARE, K_F32, x, x, -1);
		x = tile_sums(s, x, mask);
		how = K_SUM;
	}
	int sum = add_reduce(s, how == K_MEAN ? K_SUM : how, K_F32, x, mask);
	if (root)
		sum = soft_add_ew_like(s, EW_SQRT, K_F32, sum, sum, -1);
	int y = soft_add_ew_like(s, EW_MUL, type, sum, sum, soft_add_number(s, type, factor));
	if (!s->oom) /* infinity - infinity inside the sum is indeterminate, no operand that is NaN */
		s->nodes[s->nnodes - 1].u.ew.flags &= (uint8_t)~EW_NAN_INF;
	return y;
}
