/* Calls that go through the same heads, or whatever else is along an outer axis, become a loop over it.
 *
 * In attention a head's scores are made, masked, turned into probabilities and multiplied with its values,
 * and no head sees another.  One call after the other writes all heads' scores to memory and reads them
 * again; a loop over heads with these calls inside keeps a head's in the second-level cache, needs them for
 * as many heads as there are threads only, and lets threads meet once.
 *
 * Requires: calls in the order of execution, with places but no addresses (emit.c).  A run of calls becomes a
 * loop if each has an axis of the loop's length along which it neither sums nor repeats a
 * result, and if what one of them writes, another reads and writes in the same iteration only.
 * Breaks: e->call[i] may be a CALL_LOOP.  Bits do not change: an iteration computes what the whole call did
 * for its part, with the same kernels. */
#include "device/soft/soft.h"

enum { AXES = GEMM_BATCH_DIMS + 2 };
_Static_assert((int)AXES <= (int)SOFT_RANK, "a matrix has no more axes than a value");

/* How a call goes through one of its operands. */
typedef struct access {
	int64_t size;        /* of an element */
	bool written, whole; /* whole: scratch, of which an iteration needs all */
	int64_t stride[SOFT_RANK];
} access;

typedef struct looper {
	soft_fn *s;
	soft_exe *e;
	arena *a;
	int64_t count; /* of the loop that is tried */
	/* by storage, in the loop that is tried: */
	int *seen; /* number of the loop in which the rest is valid */
	int64_t *step;
	bool *written, *confined; /* confined: all is within one iteration's part */
	int round;
} looper;

/* ---- Calls by axis ------------------------------------------------------------------- */

/* The axes over which a call could be a loop; those of batches, or of its index space. */
static int axes_of(const soft_call *c, const int64_t **dim)
{
	switch (c->kind) {
	case CALL_EWISE:
	case CALL_REDUCE: *dim = c->u.ew.prog.dim; return c->u.ew.prog.rank;
	case CALL_GEMM: *dim = c->u.gemm.args.batch; return c->u.gemm.args.nbatch;
	case CALL_LOOP: return 0;
	default: *dim = c->u.copy.dim; return c->u.copy.rank;
	}
}

/* Operand r of a call, and the length of each of its axes; axes 0 .. axes_of() come first. */
static int operand_access(const soft_call *c, int r, access *out, int64_t *dim)
{
	*out = (access){.size = 1};
	switch (c->kind) {
	case CALL_EWISE:
	case CALL_REDUCE: {
		const ew_program *p = &c->u.ew.prog;
		const bool result = r == p->noperands;
		const ew_operand *x = result ? &c->u.ew.out : &c->u.ew.operand[r];
		out->size = (int64_t)k_type_size(x->type);
		out->written = result;
		for (int i = 0; i < p->ninstr; i++)
			out->written |= p->instr[i].op == EW_STORE && p->instr[i].dst == r;
		for (int d = 0; d < p->rank; d++) {
			dim[d] = p->dim[d];
			out->stride[d] = result && c->u.ew.mask >> d & 1 ? 0 : x->stride[d];
		}
		return p->rank;
	}
	case CALL_GEMM: {
		const k_gemm_args *g = &c->u.gemm.args;
		const k_matrix *const operand[] = {&g->a, &g->b, &g->c, &g->bias};
		const int n = c->u.gemm.biased ? 4 : 3;
		if ((out->whole = r >= n))
			return 0;
		const k_matrix *x = operand[r];
		out->size = (int64_t)k_type_size(x->type);
		out->written = r == 2;
		for (int d = 0; d < g->nbatch; d++) {
			dim[d] = g->batch[d];
			out->stride[d] = x->bs[d];
		}
		dim[g->nbatch] = r == 1 ? g->k : g->m;
		dim[g->nbatch + 1] = r == 0 ? g->k : g->n;
		out->stride[g->nbatch] = x->rs;
		out->stride[g->nbatch + 1] = x->cs;
		return g->nbatch + 2;
	}
	default: {
		const ew_operand *x = r ? &c->u.copy.y : &c->u.copy.x;
		out->size = (int64_t)k_type_size(x->type);
		out->written = r == 1;
		for (int d = 0; d < c->u.copy.rank; d++) {
			dim[d] = c->u.copy.dim[d];
			out->stride[d] = x->stride[d];
		}
		return c->u.copy.rank;
	}
	}
}

/* Whether a call sums, sorts or looks along one of its axes.  A sum's order follows its axes in memory: it is
 * sure to stay what it is only without an outermost one. */
static bool is_bound(const soft_call *c, int axis)
{
	if (c->kind == CALL_EWISE || c->kind == CALL_REDUCE) {
		const ew_program *p = &c->u.ew.prog;
		if (p->above != p->below && (axis == p->above || axis == p->below))
			return true;
	}
	if (c->kind == CALL_REDUCE) {
		for (int r = 0; r < c->u.ew.prog.noperands; r++) {
			const int64_t *stride = c->u.ew.operand[r].stride;
			for (int d = 0; d < c->u.ew.prog.rank; d++)
				if (stride[axis] && stride[d] > stride[axis])
					return true;
		}
		return c->u.ew.mask >> axis & 1;
	}
	if (c->kind == CALL_SOFTMAX) {
		/* it goes along rows or columns by its axis and the innermost of the others (k_softmax) */
		int innermost = -1;
		for (int d = 0; d < c->u.copy.rank; d++)
			if (d != c->u.copy.axis && c->u.copy.dim[d] > 1)
				innermost = d;
		if (c->u.copy.below == axis || (c->u.copy.x.stride[c->u.copy.axis] != 1 && axis == innermost))
			return true;
	}
	return (c->kind == CALL_SOFTMAX || c->kind == CALL_ARG) && c->u.copy.axis == axis;
}

/* The bytes that operand r touches in one iteration, from its reference on; false: strides go back. */
static bool footprint(const soft_call *c, int r, int axis, int64_t *step, int64_t *bytes, bool *written)
{
	access x;
	int64_t dim[SOFT_RANK];
	const int rank = operand_access(c, r, &x, dim);
	*step = 0;
	*bytes = x.size;
	*written = x.written;
	for (int d = 0; d < rank; d++) {
		if (x.stride[d] < 0)
			return false;
		if (d == axis)
			*step = x.stride[d] * x.size;
		else
			*bytes += (dim[d] - 1) * x.stride[d] * x.size;
	}
	return true;
}

static bool is_whole(const soft_call *c, int r)
{
	access x;
	int64_t dim[SOFT_RANK];
	operand_access(c, r, &x, dim);
	return x.whole;
}

/* What an operand does to its storage in an iteration. */
typedef struct touch {
	int64_t step;
	bool written, confined; /* confined: all of it lies within the iteration's part */
} touch;

/* false: no iteration can have it. */
static bool touched(const soft_call *c, int r, int axis, touch *t)
{
	int64_t bytes;
	if (!footprint(c, r, axis, &t->step, &bytes, &t->written) || (t->written && t->step == 0))
		return false;
	t->confined = t->step > 0 && c->ref[r].offset + bytes <= t->step;
	return true;
}

/* Two operands of one storage may meet if none is written, or both stay in their iteration's part. */
static bool may_meet(touch a, touch b)
{
	return (!a.written && !b.written) || (a.confined && b.confined && a.step == b.step);
}

/* Whether call c can be an iteration's along `axis`, beside those that are in the loop already. */
static bool agrees(looper *l, const soft_call *c, int axis)
{
	for (int r = 0; r < c->nrefs; r++) {
		touch t, other;
		const int i = c->storage[r];
		if (is_whole(c, r))
			continue;
		if (!touched(c, r, axis, &t))
			return false;
		for (int q = 0; q < r; q++)
			if (c->storage[q] == i && touched(c, q, axis, &other) && !may_meet(t, other))
				return false;
		if (l->seen[i] == l->round &&
		    !may_meet(t, (touch){l->step[i], l->written[i], l->confined[i]}))
			return false;
	}
	return true;
}

static void note(looper *l, const soft_call *c, int axis)
{
	for (int r = 0; r < c->nrefs; r++) {
		touch t;
		const int i = c->storage[r];
		if (is_whole(c, r) || !touched(c, r, axis, &t))
			continue;
		if (l->seen[i] != l->round) {
			l->seen[i] = l->round;
			l->step[i] = t.step;
			l->written[i] = false;
			l->confined[i] = true;
		}
		l->written[i] |= t.written;
		l->confined[i] &= t.confined && t.step == l->step[i];
	}
}

/* The axis along which c can join the loop, -1: none.  Outer axes come first. */
static int join(looper *l, const soft_call *c)
{
	const int64_t *dim = NULL;
	const int n = axes_of(c, &dim);
	for (int d = 0; d < n; d++)
		if (dim[d] == l->count && !is_bound(c, d) && agrees(l, c, d))
			return d;
	return -1;
}

/* ---- Making a loop --------------------------------------------------------------------- */

static void drop_axis(int64_t *x, int axis, int rank)
{
	for (int d = axis; d + 1 < rank; d++)
		x[d] = x[d + 1];
}

/* Call c without one of its axes: what one iteration does. */
static void narrow(soft_call *c, int axis)
{
	switch (c->kind) {
	case CALL_EWISE:
	case CALL_REDUCE: {
		ew_program *p = &c->u.ew.prog;
		for (int i = 0; i < p->noperands; i++)
			drop_axis(c->u.ew.operand[i].stride, axis, p->rank);
		drop_axis(c->u.ew.out.stride, axis, p->rank);
		drop_axis(p->dim, axis, p->rank);
		const uint32_t below = (1u << axis) - 1;
		c->u.ew.mask = (c->u.ew.mask & below) | (c->u.ew.mask >> 1 & ~below);
		p->above -= p->above > axis;
		p->below -= p->below > axis;
		if (--p->rank == 0)
			p->dim[p->rank++] = 1; /* strides along it do not matter */
		return;
	}
	case CALL_GEMM: {
		k_gemm_args *g = &c->u.gemm.args;
		k_matrix *const all[] = {&g->a, &g->b, &g->c, &g->bias};
		c->u.gemm.alone = true;
		for (int i = 0; i < LENGTH(all); i++) {
			drop_axis(all[i]->bs, axis, g->nbatch);
			all[i]->bs[g->nbatch - 1] = 0;
		}
		drop_axis(g->batch, axis, g->nbatch--);
		return;
	}
	default:
		drop_axis(c->u.copy.x.stride, axis, c->u.copy.rank);
		drop_axis(c->u.copy.y.stride, axis, c->u.copy.rank);
		drop_axis(c->u.copy.dim, axis, c->u.copy.rank);
		c->u.copy.axis -= c->u.copy.axis > axis;
		c->u.copy.below -= c->u.copy.below > axis;
		if (--c->u.copy.rank == 0)
			c->u.copy.dim[c->u.copy.rank++] = 1;
	}
}

/* Of storages that only the loop touches, threads need one iteration's part each. */
static void confine(looper *l, int first, int end)
{
	const soft_exe *e = l->e;
	const int threads = l->s->ctx->threads;
	for (int i = 0; i < (int)l->s->nstorages; i++) {
		soft_storage *st = &l->s->storages[i];
		if (l->seen[i] == l->round &&
		    (st->kind != STORE_SCRATCH || !l->written[i] || !l->confined[i]))
			l->seen[i] = 0;
	}
	for (int i = 0; i < e->ncalls; i++)
		for (int r = 0; (i < first || i >= end) && r < e->call[i].nrefs; r++)
			l->seen[e->call[i].storage[r]] = 0;
	for (int i = 0; i < (int)l->s->nstorages; i++)
		if (l->count <= threads)
			l->seen[i] = 0;
}

/* Whether call c may write operand y over operand x: both are walked through alike.  What the kernels allow,
 * kernel.h says. */
static bool may_overwrite(const soft_call *c, int y, int x)
{
	access to, from;
	int64_t dim[SOFT_RANK];
	if ((c->kind != CALL_EWISE && c->kind != CALL_SOFTMAX) || c->ref[y].offset != c->ref[x].offset)
		return false;
	const int rank = operand_access(c, y, &to, dim);
	operand_access(c, x, &from, dim);
	bool same = to.written && !from.written && to.size == from.size;
	for (int d = 0; d < rank; d++)
		same &= dim[d] == 1 || to.stride[d] == from.stride[d];
	for (int r = 0; r < c->nrefs && same && r != x; r++)
		same = c->storage[r] != c->storage[x]; /* it is not read in another way too */
	return same;
}

/* What threads have for themselves, and kernels' scratch, goes into one block per thread, in which it lives
 * from the first call of an iteration that touches it to the last.  Results take the place of operands that
 * nothing reads afterwards, so an iteration needs less of the caches. */
static an_status pack_private(looper *l, soft_call *loop)
{
	soft_fn *s = l->s;
	const size_t n = (size_t)loop->nrefs + 1;
	soft_storage *slot = arena_array(s->tmp, n, sizeof *slot);
	soft_storage **live = arena_array(s->tmp, n, sizeof *live);
	int *slot_of = arena_array(s->tmp, s->nstorages + 1, sizeof *slot_of); /* from 1 on; 0: none */
	if (!slot || !live || !slot_of)
		return fail_memory(s->ctx, 0);
	int slots = 0, nlive = 0, block = -1;
	for (int j = 0, k = 0; j < loop->u.loop.n; j++)
		for (int r = 0; r < loop->u.loop.call[j].nrefs; r++, k++) {
			const int i = loop->storage[k];
			if (!loop->u.loop.by_worker[k])
				continue;
			if (!slot_of[i]) {
				slot_of[i] = ++slots;
				slot[slots] = (soft_storage){.bytes = loop->u.loop.step[k], .first = j};
				block = block < 0 ? i : block;
			}
			slot[slot_of[i]].last = j;
		}
	for (int j = 0; j < loop->u.loop.n; j++) {
		const soft_call *c = &loop->u.loop.call[j];
		for (int y = 0; y < c->nrefs; y++)
			for (int x = 0; x < c->nrefs; x++) {
				const int into = slot_of[c->storage[x]], from = slot_of[c->storage[y]];
				if (!into || !from || into == from || slot[from].first != j ||
				    slot[from].last == j || slot[into].last != j ||
				    slot[into].bytes != slot[from].bytes || !may_overwrite(c, y, x))
					continue;
				slot[into].last = slot[from].last;
				slot[from].bytes = 0;
				slot_of[c->storage[y]] = into;
			}
	}
	for (int i = 1; i <= slots; i++)
		if (slot[i].bytes)
			live[nlive++] = &slot[i];
	int64_t end, sum;
	TRY(soft_place_ranges(s, live, nlive, &end, &sum));
	for (int k = 0; k < loop->nrefs; k++)
		if (loop->u.loop.by_worker[k]) {
			loop->ref[k].offset += slot[slot_of[loop->storage[k]]].offset;
			loop->u.loop.step[k] = end;
		}
	for (int k = 0; k < loop->nrefs; k++)
		if (loop->u.loop.by_worker[k])
			loop->storage[k] = block;
	if (block >= 0)
		s->storages[block].bytes = end * s->ctx->threads;
	return AN_OK;
}

/* Calls [first, end), which agreed on axis[], become one. */
static an_status make_loop(looper *l, int first, int end, const int *axis)
{
	soft_exe *e = l->e;
	const int n = end - first;
	soft_call loop = {.kind = CALL_LOOP};
	loop.u.loop.count = l->count;
	loop.u.loop.n = n;
	loop.u.loop.call = arena_copy(l->a, &e->call[first], (size_t)n * sizeof(soft_call));
	int refs = 0;
	for (int i = first; i < end; i++)
		refs += e->call[i].nrefs;
	loop.ref = arena_array(l->a, (size_t)refs, sizeof *loop.ref);
	loop.storage = arena_array(l->a, (size_t)refs, sizeof *loop.storage);
	loop.u.loop.step = arena_array(l->a, (size_t)refs, sizeof *loop.u.loop.step);
	loop.u.loop.by_worker = arena_array(l->a, (size_t)refs, sizeof *loop.u.loop.by_worker);
	if (!loop.u.loop.call || !loop.ref || !loop.storage || !loop.u.loop.step || !loop.u.loop.by_worker)
		return fail_memory(l->s->ctx, 0);
	confine(l, first, end);
	for (int i = 0; i < n; i++) {
		soft_call *c = &loop.u.loop.call[i];
		for (int r = 0; r < c->nrefs; r++) {
			const int at = loop.nrefs++;
			int64_t bytes;
			bool written;
			loop.ref[at] = c->ref[r];
			loop.storage[at] = c->storage[r];
			if (is_whole(c, r)) {
				soft_call narrower = *c;
				narrow(&narrower, axis[i]); /* may want more than all batches at once */
				loop.u.loop.step[at] =
				    (int64_t)k_gemm_scratch(c->u.gemm.row, &narrower.u.gemm.args, 1);
				loop.u.loop.by_worker[at] = true;
				continue;
			}
			footprint(c, r, axis[i], &loop.u.loop.step[at], &bytes, &written);
			if (l->seen[c->storage[r]] == l->round) {
				loop.u.loop.step[at] = l->step[c->storage[r]];
				loop.u.loop.by_worker[at] = true;
			}
		}
		loop.op = c->op;
		loop.nodes += c->nodes;
		loop.flops += c->flops;
		loop.bytes += c->bytes;
	}
	for (int i = 0; i < n; i++) {
		soft_call *c = &loop.u.loop.call[i];
		narrow(c, axis[i]);
		c->flops /= l->count; /* of one iteration */
		c->bytes /= l->count;
	}
	TRY(pack_private(l, &loop));
	e->call[first] = loop;
	memmove(&e->call[first + 1], &e->call[end], (size_t)(e->ncalls - end) * sizeof *e->call);
	e->ncalls -= n - 1;
	return AN_OK;
}

/* Whether `count` iterations keep all threads busy to the end. */
static bool balanced(int64_t count, int threads) { return count % threads == 0 || count >= 4 * threads; }

/* The longest loop around call `seed`, a product with batches. */
static an_status loop_around(looper *l, int seed, int *axis, int *next)
{
	const soft_exe *e = l->e;
	const soft_call *c = &e->call[seed];
	const int64_t *dim;
	int first = seed, end = seed + 1;
	*next = end;
	if (c->kind != CALL_GEMM || axes_of(c, &dim) == 0 || dim[0] < 2 ||
	    !balanced(dim[0], l->s->ctx->threads) || c->flops / dim[0] < l->s->dev->loop_flops)
		return AN_OK;
	l->count = dim[0];
	l->round++;
	if ((axis[seed] = join(l, c)) < 0)
		return AN_OK;
	note(l, c, axis[seed]);
	while (end < e->ncalls && (axis[end] = join(l, &e->call[end])) >= 0) {
		note(l, &e->call[end], axis[end]);
		end++;
	}
	while (first > e->nearly && (axis[first - 1] = join(l, &e->call[first - 1])) >= 0) {
		first--;
		note(l, &e->call[first], axis[first]);
	}
	*next = end;
	if (end - first == 1)
		return AN_OK;
	*next = first + 1;
	return make_loop(l, first, end, axis + first);
}

an_status soft_loop(soft_fn *s, soft_exe *e, arena *a)
{
	looper l = {.s = s,
		    .e = e,
		    .a = a,
		    .seen = arena_array(s->tmp, s->nstorages + 1, sizeof(int)),
		    .step = arena_array(s->tmp, s->nstorages + 1, sizeof(int64_t)),
		    .written = arena_array(s->tmp, s->nstorages + 1, sizeof(bool)),
		    .confined = arena_array(s->tmp, s->nstorages + 1, sizeof(bool))};
	int *axis = arena_array(s->tmp, (size_t)e->ncalls + 1, sizeof *axis);
	if (!l.seen || !l.step || !l.written || !l.confined || !axis)
		return fail_memory(s->ctx, 0);
	for (int i = e->nearly; i < e->ncalls && !s->dev->no_fusion;)
		TRY(loop_around(&l, i, axis, &i));
	return AN_OK;
}
