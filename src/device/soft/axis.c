/* How calls go through their operands. */
#include "device/soft/loop.h"

access soft_access(const soft_call *c, int r)
{
	access x = {.size = 1};
	switch (c->kind) {
	case CALL_EWISE:
	case CALL_REDUCE: {
		const ew_program *p = &c->u.ew.prog;
		const bool result = r == p->noperands;
		const ew_operand *o = result ? &c->u.ew.out : &c->u.ew.operand[r];
		x.size = (int64_t)k_type_size(o->type);
		x.written = result;
		for (int i = 0; i < p->ninstr; i++)
			x.written |= p->instr[i].op == EW_STORE && p->instr[i].dst == r;
		x.rank = p->rank;
		for (int d = 0; d < x.rank; d++) {
			x.dim[d] = p->dim[d];
			x.stride[d] = result && c->u.ew.mask >> d & 1 ? 0 : o->stride[d];
		}
		return x;
	}
	case CALL_GEMM: {
		const k_gemm_args *g = &c->u.gemm.args;
		const k_matrix *const operand[] = {&g->a, &g->b, &g->c, &g->bias};
		const int n = c->u.gemm.biased ? 4 : 3;
		if ((x.whole = r >= n))
			return x;
		const k_matrix *o = operand[r];
		x.size = (int64_t)k_type_size(o->type);
		x.written = r == 2;
		x.rank = g->nbatch + AXIS_COUNT;
		for (int d = 0; d < g->nbatch; d++) {
			x.dim[d] = g->batch[d];
			x.stride[d] = o->bs[d];
		}
		const int64_t dim[] = {g->m, g->n, g->k};
		const int row = r == 1 ? AXIS_K : AXIS_M, column = r == 0 ? AXIS_K : AXIS_N;
		memcpy(x.dim + g->nbatch, dim, sizeof dim);
		x.stride[g->nbatch + row] = o->rs;
		x.stride[g->nbatch + column] = o->cs;
		return x;
	}
	default: {
		const ew_operand *o = r ? &c->u.copy.y : &c->u.copy.x;
		x.size = (int64_t)k_type_size(o->type);
		x.written = r == 1;
		x.rank = c->u.copy.rank;
		for (int d = 0; d < x.rank; d++) {
			x.dim[d] = c->u.copy.dim[d];
			x.stride[d] = o->stride[d];
		}
		return x;
	}
	}
}

/* Axes first .. last of an index space. */
typedef struct axes {
	int first, last;
} axes;

static axes axes_of(int axis)
{
	const int first = axis % AXIS_PAIR;
	return (axes){first, first + (axis >= AXIS_PAIR)};
}

static bool is_among(int axis, axes x) { return axis >= x.first && axis <= x.last; }

/* Whether an operand goes through another axis in larger steps. */
static bool is_inner(const int64_t *stride, int rank, axes x)
{
	for (int d = 0; d < rank; d++)
		for (int i = x.first; i <= x.last; i++)
			if (!is_among(d, x) && stride[i] && stride[d] > stride[i])
				return true;
	return false;
}

bool soft_is_bound(const soft_call *c, int axis, bool whole)
{
	const axes x = axes_of(axis);
	switch (c->kind) {
	case CALL_EWISE:
	case CALL_REDUCE: {
		const ew_program *p = &c->u.ew.prog;
		if (p->above != p->below && (is_among(p->above, x) || (whole && is_among(p->below, x))))
			return true;
		if (c->kind == CALL_EWISE)
			return false;
		for (int r = 0; r < p->noperands; r++)
			if (is_inner(c->u.ew.operand[r].stride, p->rank, x))
				return true;
		return (c->u.ew.mask >> x.first | c->u.ew.mask >> x.last) & 1;
	}
	case CALL_GEMM: {
		const k_gemm_args *g = &c->u.gemm.args;
		const bool may_add = g->precision == K_FAST && g->nbatch == 0 && !c->u.gemm.biased &&
				     g->c.type == K_F16 && g->c.cs == 1;
		/* rows for a few columns go by the longer side, which a part must not make the shorter */
		const bool vectors = k_gemm_packed_bytes(c->u.gemm.row, g, K_A) == 0;
		if (vectors && (is_among(g->nbatch + AXIS_M, x) || is_among(g->nbatch + AXIS_N, x)))
			return true;
		return is_among(g->nbatch + AXIS_K, x) && (whole || !may_add);
	}
	case CALL_SOFTMAX: {
		/* it goes along rows or columns by its axis and the innermost of the others (k_softmax) */
		int innermost = -1;
		for (int d = 0; d < c->u.copy.rank; d++)
			if (d != c->u.copy.axis && c->u.copy.dim[d] > 1)
				innermost = d;
		return is_among(c->u.copy.axis, x) || (whole && is_among(c->u.copy.below, x)) ||
		       (c->u.copy.x.stride[c->u.copy.axis] != 1 && is_among(innermost, x));
	}
	case CALL_ARG: return is_among(c->u.copy.axis, x);
	default: return false;
	}
}

bool soft_is_sum(const soft_call *c, int r, int axis)
{
	return c->kind == CALL_GEMM && r == 2 && axis == c->u.gemm.args.nbatch + AXIS_K;
}

bool soft_touched(const soft_call *c, int r, int axis, touch *t)
{
	const access x = soft_access(c, r);
	const axes a = axes_of(axis);
	*t = (touch){.bytes = x.size, .every = 1, .written = x.written, .step = x.stride[a.last] * x.size};
	for (int d = 0; d < x.rank; d++) {
		if (x.stride[d] < 0)
			return false;
		if (!is_among(d, a))
			t->bytes += (x.dim[d] - 1) * x.stride[d] * x.size;
	}
	if (a.first < a.last && x.stride[a.first] != x.stride[a.last] * x.dim[a.last]) {
		if (x.stride[a.last] || x.written)
			return false;
		t->step = x.stride[a.first] * x.size;
		t->every = x.dim[a.last];
	}
	t->confined = t->every == 1 && t->step > 0 && c->ref[r].offset + t->bytes <= t->step;
	return !t->written || t->step > 0;
}

/* Two operands of one storage may meet if none is written, or both stay in their part. */
static bool may_meet(touch a, touch b)
{
	return (!a.written && !b.written) || (a.confined && b.confined && a.step == b.step);
}

bool soft_agrees(const parts *p, const soft_call *c, int axis)
{
	for (int r = 0; r < c->nrefs; r++) {
		touch t, other;
		const int i = c->storage[r];
		if (soft_access(c, r).whole || soft_is_sum(c, r, axis))
			continue;
		if (!soft_touched(c, r, axis, &t))
			return false;
		for (int q = 0; q < r; q++)
			if (c->storage[q] == i && soft_touched(c, q, axis, &other) && !may_meet(t, other))
				return false;
		other = (touch){.step = p->step[i], .written = p->written[i], .confined = p->confined[i]};
		if (p->seen[i] == p->round && !may_meet(t, other))
			return false;
	}
	return true;
}

void soft_note(parts *p, const soft_call *c, int axis)
{
	for (int r = 0; r < c->nrefs; r++) {
		touch t;
		const int i = c->storage[r];
		if (soft_access(c, r).whole || soft_is_sum(c, r, axis) || !soft_touched(c, r, axis, &t))
			continue;
		if (p->seen[i] != p->round) {
			p->seen[i] = p->round;
			p->step[i] = t.step;
			p->written[i] = false;
			p->confined[i] = true;
		}
		p->written[i] |= t.written;
		p->confined[i] &= t.confined && t.step == p->step[i];
	}
}

bool soft_may_pass(const parts *p, const soft_call *c)
{
	for (int r = 0; r < c->nrefs; r++) {
		const int i = c->storage[r];
		if (p->written_later[i] == p->round || (p->later[i] == p->round && soft_access(c, r).written))
			return false;
	}
	return true;
}

bool soft_is_related(const parts *p, const soft_call *c)
{
	for (int r = 0; r < c->nrefs; r++)
		if (p->seen[c->storage[r]] == p->round && p->written[c->storage[r]])
			return true;
	return false;
}

int soft_place_outside(parts *p, const soft_call *c)
{
	bool before = soft_may_pass(p, c) && !soft_is_related(p, c);
	for (int r = 0; r < c->nrefs; r++)
		before &= p->seen[c->storage[r]] != p->round || !soft_access(c, r).written;
	for (int r = 0; r < c->nrefs && !before; r++) {
		p->later[c->storage[r]] = p->round;
		if (soft_access(c, r).written)
			p->written_later[c->storage[r]] = p->round;
	}
	return before ? PLACE_BEFORE : PLACE_AFTER;
}

int soft_order(const int *place, int n, int *order)
{
	int first = 0, to = 0;
	for (int pass = 0; pass < 3; pass++) {
		first = pass == 1 ? to : first;
		for (int i = 0; i < n; i++)
			if (pass == (place[i] == PLACE_BEFORE ? 0 : place[i] == PLACE_AFTER ? 2 : 1))
				order[to++] = i;
	}
	return first;
}

an_status soft_reorder(soft_fn *s, void *x, size_t size, const int *order, int n)
{
	char *old = arena_copy(s->tmp, x, (size_t)n * size);
	if (!old)
		return fail_memory(s->ctx, 0);
	for (int i = 0; i < n; i++)
		memcpy((char *)x + (size_t)i * size, old + (size_t)order[i] * size, size);
	return AN_OK;
}

an_status soft_parts_new(soft_fn *s, parts *p)
{
	const size_t n = s->nstorages + 1;
	*p = (parts){.seen = arena_array(s->tmp, n, sizeof *p->seen),
		     .step = arena_array(s->tmp, n, sizeof *p->step),
		     .written = arena_array(s->tmp, n, sizeof *p->written),
		     .confined = arena_array(s->tmp, n, sizeof *p->confined),
		     .later = arena_array(s->tmp, n, sizeof *p->later),
		     .written_later = arena_array(s->tmp, n, sizeof *p->written_later)};
	const bool all = p->seen && p->step && p->written && p->confined && p->later && p->written_later;
	return all ? AN_OK : fail_memory(s->ctx, 0);
}
