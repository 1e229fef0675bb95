/* Calls that go through the same heads, or whatever else is along an outer axis, become a loop over it.
 *
 * In attention a head's scores are made, masked, turned into probabilities and multiplied with its values,
 * and no head sees another.  One call after the other writes all heads' scores to memory and reads them
 * again; a loop over heads with these calls inside keeps a head's in the second-level cache, needs them for
 * as many heads as there are threads only, and lets threads meet once.
 *
 * Requires: calls in the order of execution, with places but no addresses (emit.c).  Calls become a loop if
 * each has an axis of the loop's length, or two such axes after each other, along which it neither sums nor
 * repeats a result, and if what one of them writes, another reads and writes in the same iteration only.
 * Where groups of heads share keys, these are the groups and the heads of each: some iterations read alike.
 * Breaks: e->call[i] may be a CALL_LOOP; calls between those of a loop come before or after it.  Bits do not
 * change: an iteration computes what the whole call did for its part, with the same kernels. */
#include "device/soft/loop.h"

typedef struct looper {
	soft_fn *s;
	soft_exe *e;
	arena *a;
	int64_t count; /* of the loop that is tried */
	parts p;       /* its iterations */
	parts bands;   /* in one of them */
	int *place;    /* by call: the axis that it is a loop over, or where it is outside */
	int *order;
} looper;

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

/* The axis along which c can join the loop, -1: none.  Outer axes come first. */
static int join(looper *l, const soft_call *c)
{
	const int64_t *dim = NULL;
	const int n = axes_of(c, &dim);
	for (int d = 0; d < n; d++)
		if (dim[d] == l->count && !soft_is_bound(c, d, true) && soft_agrees(&l->p, c, d))
			return d;
	for (int d = 0; d + 1 < n; d++)
		if (dim[d] * dim[d + 1] == l->count && !soft_is_bound(c, AXIS_PAIR + d, true) &&
		    soft_agrees(&l->p, c, AXIS_PAIR + d))
			return AXIS_PAIR + d;
	return -1;
}

/* ---- Making a loop --------------------------------------------------------------------- */

static void drop_axis(int64_t *x, int axis, int rank)
{
	for (int d = axis; d + 1 < rank; d++)
		x[d] = x[d + 1];
}

/* Call c without one of its axes, or a pair of them: what one iteration does. */
static void narrow(soft_call *c, int axis)
{
	if (axis >= AXIS_PAIR) {
		narrow(c, axis - AXIS_PAIR + 1);
		narrow(c, axis - AXIS_PAIR);
		return;
	}
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

/* Gives a copy of a call its own operands. */
static an_status own_operands(looper *l, soft_call *c)
{
	if (c->kind != CALL_EWISE && c->kind != CALL_REDUCE)
		return AN_OK;
	const size_t n = (size_t)c->u.ew.prog.noperands + 1;
	ew_operand *operand = arena_copy(l->a, c->u.ew.operand, n * sizeof *operand);
	if (!operand)
		return fail_memory(l->s->ctx, 0);
	c->u.ew.prog.operand = c->u.ew.operand = operand;
	return AN_OK;
}

/* Of storages that only the loop touches, threads need one iteration's part each. */
static void confine(looper *l, int first, int end)
{
	const soft_exe *e = l->e;
	parts *p = &l->p;
	for (int i = 0; i < (int)l->s->nstorages; i++) {
		soft_storage *st = &l->s->storages[i];
		if (p->seen[i] == p->round &&
		    (st->kind != STORE_SCRATCH || !p->written[i] || !p->confined[i]))
			p->seen[i] = 0;
	}
	for (int i = 0; i < e->ncalls; i++)
		for (int r = 0; (i < first || i >= end) && r < e->call[i].nrefs; r++)
			p->seen[e->call[i].storage[r]] = 0;
}

/* Without the loop: products that would add up band by band in it do so in one call. */
static void add_in_blocks(looper *l, int first, int n, const soft_call *call, const int *from)
{
	for (int i = 0; i < n; i++) {
		soft_call *c = &l->e->call[first + from[i]];
		if (c->kind != CALL_GEMM || !call[i].u.gemm.args.k_block)
			continue;
		c->u.gemm.args.k_block = call[i].u.gemm.args.k_block;
		soft_size_gemm(l->s, c);
	}
}

/* Whether `count` iterations keep all threads busy to the end. */
static bool balanced(int64_t count, int threads) { return count % threads == 0 || count >= 4 * threads; }

/* Calls [first, end), which agreed on l->place[], become one, if that keeps all threads busy.  *next: the
 * call after what has been done. */
static an_status make_loop(looper *l, int first, int end, int *next)
{
	soft_exe *e = l->e;
	const int n = end - first, *axis = l->place + first;
	soft_call loop = {.kind = CALL_LOOP};
	soft_call *call = arena_copy(l->a, &e->call[first], (size_t)n * sizeof *call);
	int *from = arena_array(l->s->tmp, (size_t)n, sizeof *from);
	const int refs = soft_count_refs(e->call, first, end);
	loop.ref = arena_array(l->a, (size_t)refs, sizeof *loop.ref);
	loop.storage = arena_array(l->a, (size_t)refs, sizeof *loop.storage);
	loop.u.loop.step = arena_array(l->a, (size_t)refs, sizeof *loop.u.loop.step);
	loop.u.loop.by_worker = arena_array(l->a, (size_t)refs, sizeof *loop.u.loop.by_worker);
	loop.u.loop.every = arena_array(l->a, (size_t)refs, sizeof *loop.u.loop.every);
	loop.u.loop.band_step = arena_array(l->a, (size_t)refs, sizeof *loop.u.loop.band_step);
	bool *confined = arena_array(l->s->tmp, (size_t)refs, sizeof *confined);
	if (!call || !from || !loop.ref || !loop.storage || !loop.u.loop.step || !loop.u.loop.by_worker ||
	    !loop.u.loop.every || !loop.u.loop.band_step || !confined)
		return fail_memory(l->s->ctx, 0);
	confine(l, first, end);
	for (int i = 0; i < n; i++) {
		TRY(own_operands(l, &call[i]));
		narrow(&call[i], axis[i]);
		call[i].flops /= l->count; /* of one iteration */
		call[i].bytes /= l->count;
	}
	TRY(soft_find_bands(l->s, call, n, &l->p, &l->bands, from));
	if (!balanced(l->count, l->s->ctx->threads)) {
		add_in_blocks(l, first, n, call, from);
		*next = end;
		return AN_OK;
	}
	for (int i = 0; i < n; i++) {
		const soft_call *c = &e->call[first + from[i]];
		for (int r = 0; r < c->nrefs; r++) {
			const int at = loop.nrefs++;
			touch t;
			loop.ref[at] = c->ref[r];
			loop.storage[at] = c->storage[r];
			loop.u.loop.every[at] = 1;
			if (soft_access(c, r).whole) { /* an iteration may want more than all at once */
				loop.u.loop.step[at] =
				    (int64_t)k_gemm_scratch(c->u.gemm.row, &call[i].u.gemm.args, 1);
				loop.u.loop.by_worker[at] = true;
				continue;
			}
			soft_touched(c, r, axis[from[i]], &t);
			loop.u.loop.step[at] = t.step;
			loop.u.loop.every[at] = t.every;
			if (l->p.seen[c->storage[r]] == l->p.round) {
				loop.u.loop.step[at] = l->p.step[c->storage[r]];
				loop.u.loop.by_worker[at] = true;
			}
			if (call[i].band.length) {
				soft_touched(&call[i], r, call[i].band.axis, &t);
				loop.u.loop.band_step[at] = t.step;
				confined[at] = t.confined;
			}
		}
		loop.nodes += c->nodes;
		loop.flops += c->flops;
		loop.bytes += c->bytes;
	}
	loop.op = e->call[end - 1].op;
	loop.u.loop.count = l->count;
	loop.u.loop.n = n;
	loop.u.loop.call = call;
	TRY(soft_pack_private(l->s, &loop, confined));
	e->call[first] = loop;
	memmove(&e->call[first + 1], &e->call[end], (size_t)(e->ncalls - end) * sizeof *e->call);
	e->ncalls -= n - 1;
	*next = first + 1;
	return AN_OK;
}

/* Whether an iteration of `count` is worth a loop for call c alone. */
static bool is_worth(const looper *l, const soft_call *c, int64_t count)
{
	return c->kind == CALL_GEMM && c->flops / count >= l->s->dev->loop_flops;
}

/* The longest loop of `count` iterations around call `seed`.  What does not join comes before it or after it;
 * from there on only those join that have to do with it.  *next: the call to go on with, -1: no loop was
 * found. */
static an_status loop_around(looper *l, int seed, int64_t count, int *next)
{
	soft_exe *e = l->e;
	int begin = seed, end = seed + 1, members = 0;
	bool apart = false;
	*next = -1;
	l->count = count;
	l->p.round++;
	if ((l->place[seed] = join(l, &e->call[seed])) < 0)
		return AN_OK;
	soft_note(&l->p, &e->call[seed], l->place[seed]);
	while (begin > e->nearly && (l->place[begin - 1] = join(l, &e->call[begin - 1])) >= 0) {
		begin--;
		soft_note(&l->p, &e->call[begin], l->place[begin]);
	}
	members = end - begin;
	for (int i = end; i < e->ncalls; i++) {
		const soft_call *c = &e->call[i];
		const bool wanted = !apart || soft_is_related(&l->p, c) || is_worth(l, c, count);
		l->place[i] = wanted && soft_may_pass(&l->p, c) ? join(l, c) : -1;
		if (l->place[i] < 0 && c->kind == CALL_GEMM)
			break; /* what comes after it is likely to be of another layer */
		if (l->place[i] < 0) {
			l->place[i] = soft_place_outside(&l->p, c);
			apart = true;
			continue;
		}
		soft_note(&l->p, c, l->place[i]);
		end = i + 1;
		members++;
	}
	if (members < 2)
		return AN_OK;
	const int first = begin + soft_order(l->place + begin, end - begin, l->order);
	TRY(soft_reorder(l->s, e->call + begin, sizeof *e->call, l->order, end - begin));
	TRY(soft_reorder(l->s, l->place + begin, sizeof *l->place, l->order, end - begin));
	return make_loop(l, first, first + members, next);
}

/* A loop around call `seed`, a product with batches: over two axes of these, or one. */
static an_status try_loops(looper *l, int seed, int *next)
{
	const soft_call *c = &l->e->call[seed];
	const int64_t *dim;
	const int axes = c->kind == CALL_GEMM ? axes_of(c, &dim) : 0;
	*next = -1;
	for (int n = MIN(axes, 2); n > 0 && *next < 0; n--) {
		const int64_t count = n == 2 ? dim[0] * dim[1] : dim[0];
		if (count >= 2 && is_worth(l, c, count))
			TRY(loop_around(l, seed, count, next));
	}
	*next = *next < 0 ? seed + 1 : *next;
	return AN_OK;
}

an_status soft_loop(soft_fn *s, soft_exe *e, arena *a)
{
	const size_t n = (size_t)e->ncalls + 1;
	looper l = {.s = s,
		    .e = e,
		    .a = a,
		    .place = arena_array(s->tmp, n, sizeof *l.place),
		    .order = arena_array(s->tmp, n, sizeof *l.order)};
	TRY(soft_parts_new(s, &l.p));
	TRY(soft_parts_new(s, &l.bands));
	if (!l.place || !l.order)
		return fail_memory(s->ctx, 0);
	for (int i = e->nearly; i < e->ncalls && !s->dev->no_fusion;)
		TRY(try_loops(&l, i, &i));
	return AN_OK;
}
