/* The instructions of a group of elementwise nodes.
 *
 * Nodes of a group run over one index space.  Each node has its own axes; [1,768,1,64] and
 * [12,64,64] are the same space, cut differently.  The group's axes are the common cut, and a
 * place in memory is known by its strides along them, so that a value which reaches its user
 * through a reshape is found in the register where it was computed. */
#include "device/soft/soft.h"

bool soft_fusable(const soft_node *n) { return n->kind == NODE_EW || n->kind == NODE_REDUCE; }

/* The value whose shape is the index space of a node. */
static const soft_value *space(const soft_fn *s, const soft_node *n)
{
	return &s->values[n->kind == NODE_REDUCE ? n->in[0] : n->out];
}

/* Cuts the axes of `code` so that those of v are products of neighbours.  false: impossible,
 * or too many. */
static bool cut(soft_code *code, const soft_value *v)
{
	int64_t out[2 * SOFT_RANK], a = 1, b = 1;
	int n = 0, i = code->rank, j = v->rank;
	for (;;) { /* from the last axis; out is backward */
		while (a == 1 && i > 0)
			a = code->dim[--i];
		while (b == 1 && j > 0)
			b = v->dim[--j];
		if (a == 1 || b == 1)
			break;
		int64_t g = MIN(a, b);
		if (a % g || b % g || n == SOFT_RANK)
			return false;
		out[n++] = g;
		a /= g;
		b /= g;
	}
	if (a != b)
		return false;
	code->rank = n;
	for (int k = 0; k < n; k++)
		code->dim[k] = out[n - 1 - k];
	return true;
}

/* Strides along v's axes as strides along the group's. */
static void spread(const soft_code *code, int rank, const int64_t *dim, const int64_t *stride, int64_t *out)
{
	int k = code->rank;
	for (int i = rank; i-- > 0;) {
		int64_t step = stride[i];
		for (int64_t left = dim[i]; left > 1; left /= code->dim[k]) {
			out[--k] = step;
			step *= code->dim[k];
		}
	}
	assert(k == 0);
}

/* How operand x of node n steps along the group's axes; where it has length 1 it is repeated. */
static void operand_strides(const soft_fn *s, const soft_code *code, const soft_node *n, const soft_value *x,
			    int64_t *out)
{
	const soft_value *y = space(s, n);
	int64_t stride[SOFT_RANK] = {0};
	for (int i = y->rank, j = x->rank; i-- > 0 && j-- > 0;)
		stride[i] = x->dim[j] == 1 ? 0 : x->at.stride[j];
	spread(code, y->rank, y->dim, stride, out);
}

/* ---- Registers --------------------------------------------------------------------- */

/* What is in a register: a number, or the elements at a place. */
typedef struct content {
	bool number;
	float imm;
	int storage, node; /* node: that computed it; -1: loaded */
	k_type type;
	int64_t offset, stride[SOFT_RANK];
} content;

typedef struct writer {
	const soft_fn *s;
	soft_code *code;
	int op;    /* MIL operation being written */
	int nregs; /* virtual: one for each instruction that has a result */
	content reg[CODE_INSTRS];
	uint8_t a[CODE_INSTRS], b[CODE_INSTRS], c[CODE_INSTRS], dst[CODE_INSTRS]; /* virtual registers */
} writer;

static bool emit_instr(writer *w, ew_instr in, int a, int b, int c, int dst)
{
	int n = w->code->ninstr;
	if (n == CODE_INSTRS || w->nregs >= CODE_INSTRS - 1)
		return false;
	w->code->instr[n] = in;
	w->code->op[n] = w->op;
	w->a[n] = (uint8_t)a;
	w->b[n] = (uint8_t)b;
	w->c[n] = (uint8_t)c;
	w->dst[n] = (uint8_t)dst;
	w->code->ninstr++;
	return true;
}

static bool in_group(const soft_fn *s, int first, int node)
{
	for (int i = first; i >= 0; i = s->nodes[i].next)
		if (i == node)
			return true;
	return false;
}

static int add_operand(writer *w, int value, bool store, const int64_t *stride)
{
	soft_code *code = w->code;
	if (code->noperands == EW_MAX_OPERANDS - 1) /* a reduction's result counts too */
		return -1;
	code->operand[code->noperands].value = value;
	code->operand[code->noperands].store = store;
	memcpy(code->operand[code->noperands].stride, stride, sizeof code->operand[0].stride);
	return code->noperands++;
}

/* A literal scalar as a float; integers must be exact. */
static bool literal_number(const soft_value *v, float *out)
{
	double x;
	if (!v->bytes || soft_elements(v) != 1)
		return false;
	switch (v->type) {
	case K_F16: {
		half h;
		memcpy(&h, v->bytes, sizeof h);
		x = half_to_float(h);
		break;
	}
	case K_F32: {
		float f;
		memcpy(&f, v->bytes, sizeof f);
		x = f;
		break;
	}
	case K_I32: {
		int32_t i;
		memcpy(&i, v->bytes, sizeof i);
		x = i;
		break;
	}
	case K_BOOL: x = *(const uint8_t *)v->bytes; break;
	default: return false;
	}
	*out = (float)x;
	return (double)*out == x || x != x;
}

/* The register that holds operand x of node n, loaded if need be; -1: it cannot be had here. */
static int fetch(writer *w, int first, const soft_node *n, int x)
{
	const soft_fn *s = w->s;
	const soft_value *v = &s->values[x];
	content want = {.storage = v->at.storage, .node = -1, .type = v->type, .offset = v->at.offset};
	want.number = literal_number(v, &want.imm);
	if (!want.number)
		operand_strides(s, w->code, n, v, want.stride);
	for (int r = 0; r < w->nregs; r++) {
		const content *have = &w->reg[r];
		if (want.number ? have->number && float_bits(have->imm) == float_bits(want.imm)
				: !have->number && have->storage == want.storage &&
				      have->offset == want.offset && have->type == want.type &&
				      !memcmp(have->stride, want.stride, sizeof want.stride))
			return r;
	}
	/* what the group itself writes cannot be read back while it runs */
	const soft_value *root = &s->values[v->root];
	for (int i = 0; i < root->nwriters; i++)
		if (in_group(s, first, root->writers[i]))
			return -1;
	ew_instr in = {.op = EW_IMM, .imm = want.imm};
	if (!want.number) {
		int operand = add_operand(w, x, false, want.stride);
		if (operand < 0)
			return -1;
		in = (ew_instr){.op = EW_LOAD, .a = (uint8_t)operand};
	}
	if (!emit_instr(w, in, 0, 0, 0, w->nregs))
		return -1;
	w->reg[w->nregs] = want;
	return w->nregs++;
}

/* Whether somebody outside the group reads what node n computes. */
static bool needs_store(const soft_fn *s, int first, const soft_node *n)
{
	if (s->storages[s->values[n->out].at.storage].kind == STORE_PORT)
		return true;
	for (int i = 0; i < n->nafter; i++)
		if (!in_group(s, first, n->after[i]))
			return true;
	return false;
}

/* Whether a register can stand for a value of this type that was stored and loaded again. */
static bool keeps(k_type type, bool integer)
{
	return type == K_BOOL || (integer ? type == K_I32 : type == K_F16 || type == K_F32);
}

static bool write_ew(writer *w, int first, int index)
{
	const soft_fn *s = w->s;
	const soft_node *n = &s->nodes[index];
	const soft_value *y = &s->values[n->out];
	int r[3] = {0, 0, 0};
	if (w->code->integer != n->u.ew.integer)
		return false;
	for (int i = 0; i < n->nin; i++)
		if ((r[i] = fetch(w, first, n, n->in[i])) < 0)
			return false;
	content out = {.storage = y->at.storage, .node = index, .type = y->type, .offset = y->at.offset};
	operand_strides(s, w->code, n, y, out.stride);
	if (!keeps(y->type, w->code->integer))
		out.storage = -1; /* who reads it, must load it */
	int dst = w->nregs;
	ew_instr in = {.op = n->u.ew.op,
		       .round16 = n->u.ew.round16,
		       .flags = n->u.ew.flags,
		       .imm = n->u.ew.imm,
		       .imm2 = n->u.ew.imm2,
		       .table = n->u.ew.table};
	if (!emit_instr(w, in, r[0], r[1], r[2], dst))
		return false;
	w->reg[w->nregs++] = out;
	if (!needs_store(s, first, n))
		return true;
	int operand = add_operand(w, n->out, true, out.stride);
	return operand >= 0 && emit_instr(w, (ew_instr){.op = EW_STORE}, dst, 0, 0, operand);
}

static bool write_reduce(writer *w, int first, int index)
{
	const soft_fn *s = w->s;
	const soft_node *n = &s->nodes[index];
	const soft_value *x = &s->values[n->in[0]], *y = &s->values[n->out];
	soft_code *code = w->code;
	if (code->reduce >= 0 || code->integer != n->u.reduce.integer)
		return false;
	code->reduce = index;
	int64_t axis_mask[SOFT_RANK], spread_mask[SOFT_RANK];
	/* an axis of the group is reduced if the axis it was cut from is: a stride that says so is
	 * multiplied along the cut, never zero */
	for (int i = 0; i < x->rank; i++)
		axis_mask[i] = n->u.reduce.mask >> i & 1;
	spread(code, x->rank, x->dim, axis_mask, spread_mask);
	for (int i = 0; i < code->rank; i++)
		code->mask |= (uint32_t)(spread_mask[i] != 0) << i;
	operand_strides(s, code, n, y, code->out_stride);
	return (code->reg = fetch(w, first, n, n->in[0])) >= 0;
}

/* ---- Physical registers -------------------------------------------------------------- */

/* Linear scan: a register is free again after its last use. */
static bool assign_registers(writer *w)
{
	soft_code *code = w->code;
	int last[CODE_INSTRS], real[CODE_INSTRS] = {0};
	bool used[EW_MAX_REGS] = {false};
	for (int i = 0; i < w->nregs; i++)
		last[i] = -1;
	for (int i = 0; i < code->ninstr; i++) {
		const uint8_t v[3] = {w->a[i], w->b[i], w->c[i]};
		for (int j = 0; j < ew_reads(&code->instr[i]); j++)
			last[v[j]] = i;
	}
	if (code->reduce >= 0)
		last[code->reg] = code->ninstr;
	code->nregs = 0;
	for (int i = 0; i < code->ninstr; i++) {
		ew_instr *in = &code->instr[i];
		const uint8_t v[3] = {w->a[i], w->b[i], w->c[i]};
		uint8_t *const field[3] = {&in->a, &in->b, &in->c};
		int n = ew_reads(in);
		for (int j = 0; j < n; j++)
			*field[j] = (uint8_t)real[v[j]];
		if (in->op == EW_STORE) {
			in->dst = w->dst[i];
			in->last = last[v[0]] == i;
		} else {
			int r = 0;
			while (r < EW_MAX_REGS && used[r])
				r++;
			if (r == EW_MAX_REGS)
				return false;
			used[r] = last[w->dst[i]] >= 0;
			real[w->dst[i]] = r;
			in->dst = (uint8_t)r;
			code->nregs = MAX(code->nregs, r + 1);
		}
		for (int j = 0; j < n; j++)
			if (last[v[j]] == i)
				used[real[v[j]]] = false;
	}
	if (code->reduce >= 0)
		code->reg = real[code->reg];
	return true;
}

/* The order in which a sum is accumulated follows the axes that k_reduce walks, and these follow
 * the operands' strides.  A group may reduce only if it would walk as over its result in memory:
 * operands descend from axis to axis, and neighbouring axes that are both summed, or both kept,
 * are one for all of them. */
static bool keeps_order(const soft_code *code)
{
	for (int k = 0; k < code->noperands; k++) {
		const int64_t *stride = code->operand[k].stride;
		int64_t inner = 0;
		for (int i = code->rank; i-- > 0;) {
			if (stride[i] && stride[i] < inner)
				return false;
			inner = stride[i] ? stride[i] : inner;
			bool alike =
			    i + 1 < code->rank && ((code->mask >> i ^ code->mask >> (i + 1)) & 1) == 0;
			if (stride[i] < 0 || (alike && stride[i] != stride[i + 1] * code->dim[i + 1]))
				return false;
		}
	}
	return true;
}

/* ---- What masks throw away ------------------------------------------------------------ */

/* Which axis of the group is axis d of v; -1: it is cut. */
static int axis_of_group(const soft_code *code, const soft_value *v, int d)
{
	int64_t one[SOFT_RANK] = {0}, there[SOFT_RANK];
	one[d] = 1;
	spread(code, v->rank, v->dim, one, there);
	for (int i = 0; i < code->rank; i++)
		if (there[i])
			return code->dim[i] == v->dim[d] ? i : -1;
	return -1;
}

static soft_half half_of_group(const soft_code *code, const soft_value *v, soft_half h)
{
	if (h.above == h.below)
		return (soft_half){0, 0};
	const int above = axis_of_group(code, v, h.above), below = axis_of_group(code, v, h.below);
	return above < 0 || below < 0 ? (soft_half){0, 0} : (soft_half){(int8_t)above, (int8_t)below};
}

/* The half that is 0 or not needed of all results of a group, or 0 in what it sums. */
static soft_half half_left_out(const soft_fn *s, const soft_code *code, int first)
{
	soft_half all = {0, 0};
	for (int i = first; i >= 0; i = s->nodes[i].next) {
		const soft_node *n = &s->nodes[i];
		const soft_value *v = space(s, n);
		const bool sums = n->kind == NODE_REDUCE,
			   adds = sums && (n->u.reduce.how == K_SUM || n->u.reduce.how == K_MEAN);
		soft_half h = half_of_group(code, v, v->zero);
		if (h.above == h.below && !sums)
			h = half_of_group(code, v, v->unneeded);
		if (h.above == h.below || (sums && !adds) ||
		    (i != first && (h.above != all.above || h.below != all.below)))
			return (soft_half){0, 0};
		all = h;
	}
	return all;
}

bool soft_group_code(const soft_fn *s, int first, soft_code *code)
{
	writer w = {.s = s, .code = code};
	*code = (soft_code){.reduce = -1, .mask = 0};
	const soft_value *v = space(s, &s->nodes[first]);
	for (int i = 0; i < v->rank; i++)
		if (v->dim[i] > 1)
			code->dim[code->rank++] = v->dim[i];
	const soft_node *n = &s->nodes[first];
	code->integer = n->kind == NODE_EW ? n->u.ew.integer : n->u.reduce.integer;
	for (int i = s->nodes[first].next; i >= 0; i = s->nodes[i].next)
		if (!cut(code, space(s, &s->nodes[i])))
			return false;
	for (int i = first; i >= 0; i = s->nodes[i].next) {
		w.op = s->nodes[i].op;
		if (!(s->nodes[i].kind == NODE_EW ? write_ew(&w, first, i) : write_reduce(&w, first, i)))
			return false;
	}
	if (!assign_registers(&w))
		return false;
	if (code->reduce >= 0 && s->nodes[first].next >= 0 && !code->integer && !keeps_order(code))
		return false;
	code->half = half_left_out(s, code, first);
	/* kernels want an axis, and a reduction one to reduce */
	if (code->rank == 0 || (code->reduce >= 0 && !code->mask)) {
		code->mask |= (uint32_t)(code->reduce >= 0) << code->rank;
		code->dim[code->rank++] = 1;
	}
	return true;
}
