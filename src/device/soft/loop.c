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
 * Where groups of heads share keys, these are the groups and the heads of each: some iterations read the
 * same. Breaks: e->call[i] may be a CALL_LOOP; calls between those of a loop come before or after it.  Bits
 * do not change: an iteration computes what the whole call did for its part, with the same kernels. */
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

/* Whether a program has done with operand x when it stores operand y: registers that are loaded from x may
 * read its memory until they are written again. */
static bool is_done_with(const ew_program *p, int x, int y)
{
	bool from_x[EW_MAX_REGS] = {false}, stored = false;
	for (const ew_instr *i = p->instr; i < p->instr + p->ninstr; i++) {
		const int reads = ew_reads(i);
		const bool load = i->op == EW_LOAD && i->a == x, store = i->op == EW_STORE && i->dst == y;
		if (stored && (load || (reads > 0 && from_x[i->a]) || (reads > 1 && from_x[i->b]) ||
			       (reads > 2 && from_x[i->c])))
			return false;
		stored |= store;
		if (i->op != EW_STORE)
			from_x[i->dst] = load;
	}
	return true;
}

/* Whether call c may write operand y over operand x: both are walked through alike, and the kernel allows it.
 */
static bool may_overwrite(const soft_call *c, int y, int x)
{
	if ((c->kind != CALL_EWISE && c->kind != CALL_SOFTMAX) || c->ref[y].offset != c->ref[x].offset)
		return false;
	const access to = soft_access(c, y), from = soft_access(c, x);
	bool same = to.written && !from.written && to.size == from.size;
	for (int d = 0; d < to.rank; d++)
		same &= to.dim[d] == 1 || to.stride[d] == from.stride[d];
	for (int r = 0; r < c->nrefs && same; r++)
		same = r == x || c->storage[r] != c->storage[x]; /* it is not read in another way too */
	return same && (c->kind != CALL_EWISE || is_done_with(&c->u.ew.prog, x, y));
}

/* A range of the memory that threads have for themselves; at.first and last are calls of the iteration. */
typedef struct private_range {
	soft_storage at;
	bool scratch; /* it holds nothing between calls */
	int64_t row;  /* bytes of a row, if each band has its part for itself; else 0 */
} private_range;

/* The memory of a loop while it is laid out. */
typedef struct layout {
	soft_fn *s;
	soft_call *loop;
	private_range *range; /* from 1 on */
	int ranges;
	int *of;        /* by storage; 0: none */
	bool *confined; /* by reference of the loop: a band touches its part only */
} layout;

static private_range *range_of(const layout *m, int ref)
{
	return m->loop->u.loop.by_worker[ref] ? &m->range[m->of[m->loop->storage[ref]]] : NULL;
}

static void find_ranges(layout *m)
{
	soft_call *loop = m->loop;
	for (int j = 0, k = 0; j < loop->u.loop.n; j++)
		for (int r = 0; r < loop->u.loop.call[j].nrefs; r++, k++) {
			const int i = loop->storage[k];
			if (!loop->u.loop.by_worker[k])
				continue;
			if (!m->of[i]) {
				m->of[i] = ++m->ranges;
				m->range[m->ranges] =
				    (private_range){.at = {.bytes = loop->u.loop.step[k], .first = j},
						    .scratch = soft_access(&loop->u.loop.call[j], r).whole};
			}
			m->range[m->of[i]].at.last = j;
		}
}

/* Calls that go band by band from call `first` on: one after the last. */
static int section_end(const soft_call *call, int first) { return first + MAX(call[first].band.calls, 1); }

static int count_refs(const soft_call *call, int first, int end)
{
	int refs = 0;
	for (int j = first; j < end; j++)
		refs += call[j].nrefs;
	return refs;
}

/* A section: calls [first, end), of which references [ref, end_ref). */
typedef struct section {
	int first, end, ref, end_ref;
} section;

/* Bytes of a row of a range that only the section touches, and each band its own part of it; else 0. */
static int64_t own_row(const layout *m, const private_range *x, section s)
{
	int64_t row = 0;
	if (x->scratch || x->at.first < s.first || x->at.last >= s.end)
		return 0;
	for (int k = s.ref; k < s.end_ref; k++) {
		const int64_t step = m->loop->u.loop.band_step[k];
		if (range_of(m, k) != x)
			continue;
		if (!m->confined[k] || (row && step != row))
			return 0;
		row = step;
	}
	return row;
}

/* Results take the place of operands that nothing reads afterwards, so an iteration needs less of the caches;
 * but in a section, what all bands leave behind is written elsewhere than what each has for itself. */
static void overwrite_operands(layout *m)
{
	const soft_call *call = m->loop->u.loop.call;
	section s = {0};
	for (int j = 0; j < m->loop->u.loop.n; j++) {
		const soft_call *c = &call[j];
		if (j == s.end) {
			s = (section){j, section_end(call, j), s.end_ref, s.end_ref};
			s.end_ref += count_refs(call, j, s.end);
		}
		for (int y = 0; y < c->nrefs; y++)
			for (int x = 0; x < c->nrefs; x++) {
				const int i = m->of[c->storage[x]], other = m->of[c->storage[y]];
				private_range *into = &m->range[i], *from = &m->range[other];
				if (!i || !other || i == other || from->at.first != j || from->at.last == j ||
				    into->at.last != j || into->at.bytes != from->at.bytes ||
				    !may_overwrite(c, y, x))
					continue;
				if (c->band.length && (!own_row(m, into, s) || !own_row(m, from, s)))
					continue;
				into->at.last = from->at.last;
				from->at.bytes = 0;
				m->of[c->storage[y]] = i;
			}
	}
}

/* Plans for a product that goes by bands what it keeps from one to the next: the operand that all of them
 * read, packed, or sums.  Returns the bytes of scratch for that and for a band. */
static int64_t scratch_of_bands(soft_call *c)
{
	k_gemm_args g = c->u.gemm.args;
	const bool rows = c->band.axis == g.nbatch + AXIS_M, columns = c->band.axis == g.nbatch + AXIS_N;
	const bool sums = soft_is_sum(c, 2, c->band.axis);
	if (sums) {
		g.c.type = K_F32;
		g.c.rs = soft_sums_ld(g.n);
		c->u.gemm.kept = g.m * g.c.rs * (int64_t)sizeof(float);
	} else if (rows || columns) {
		c->u.gemm.kept = (int64_t)k_gemm_packed_bytes(c->u.gemm.row, &g, rows ? K_B : K_A);
		if (c->u.gemm.kept)
			*(rows ? &g.packed_b : &g.packed_a) = &g; /* it matters that it is not NULL */
	}
	int64_t *const dim = rows ? &g.m : columns ? &g.n : sums ? &g.k : &g.batch[c->band.axis];
	const int64_t rest = *dim % c->band.width;
	*dim = c->band.width;
	size_t most = k_gemm_scratch(c->u.gemm.row, &g, 1);
	*dim = rest;
	if (rest)
		most = MAX(most, k_gemm_scratch(c->u.gemm.row, &g, 1));
	return soft_aligned(c->u.gemm.kept) + (int64_t)most;
}

/* The calls of a section go band by band.  What each band has for itself is needed for one band; all else
 * that they touch lives as long as the section does. */
static void cut_into_bands(layout *m, section s)
{
	soft_call *call = m->loop->u.loop.call;
	int64_t *step = m->loop->u.loop.band_step, row_bytes = 0;
	for (int i = 1; i <= m->ranges; i++) {
		m->range[i].row = m->range[i].at.bytes ? own_row(m, &m->range[i], s) : 0;
		row_bytes += m->range[i].row;
	}
	const int64_t width = MIN(soft_band_width(m->s, row_bytes), call[s.first].band.length);
	for (int j = s.first, k = s.ref; j < s.end; j++) {
		call[j].band.width = width;
		for (int r = 0; r < call[j].nrefs; r++, k++) {
			private_range *x = range_of(m, k);
			step[k] = x && x->row ? 0 : step[k] * width;
			if (!x)
				continue;
			if (x->scratch)
				x->at.bytes = scratch_of_bands(&call[j]);
			if (x->row) {
				x->at.bytes = x->row * width;
			} else if (!x->scratch || call[j].u.gemm.kept) {
				x->at.first = MIN(x->at.first, s.first);
				x->at.last = MAX(x->at.last, s.end - 1);
			}
		}
	}
}

/* What threads have for themselves, and kernels' scratch, goes into one block per thread, in which it lives
 * from the first call of an iteration that touches it to the last. */
static an_status pack_private(soft_fn *s, soft_call *loop, bool *confined)
{
	const size_t n = (size_t)loop->nrefs + 1;
	layout m = {.s = s,
		    .loop = loop,
		    .range = arena_array(s->tmp, n, sizeof *m.range),
		    .of = arena_array(s->tmp, s->nstorages + 1, sizeof *m.of),
		    .confined = confined};
	soft_storage **live = arena_array(s->tmp, n, sizeof *live);
	if (!m.range || !m.of || !live)
		return fail_memory(s->ctx, 0);
	find_ranges(&m);
	overwrite_operands(&m);
	for (int j = 0, k = 0; j < loop->u.loop.n; k += loop->u.loop.call[j++].nrefs)
		if (loop->u.loop.call[j].band.calls) {
			const int last = section_end(loop->u.loop.call, j);
			cut_into_bands(&m, (section){j, last, k, k + count_refs(loop->u.loop.call, j, last)});
		}
	int nlive = 0, block = -1;
	for (int i = 1; i <= m.ranges; i++)
		if (m.range[i].at.bytes)
			live[nlive++] = &m.range[i].at;
	int64_t end, sum;
	TRY(soft_place_ranges(s, live, nlive, &end, &sum));
	for (int k = 0; k < loop->nrefs; k++)
		if (loop->u.loop.by_worker[k]) {
			loop->ref[k].offset += range_of(&m, k)->at.offset;
			loop->u.loop.step[k] = end;
			block = block < 0 ? loop->storage[k] : block;
		}
	for (int k = 0; k < loop->nrefs; k++)
		if (loop->u.loop.by_worker[k])
			loop->storage[k] = block;
	if (block >= 0)
		s->storages[block].bytes = end * s->ctx->threads;
	return AN_OK;
}

/* Without the loop: products that would add up band by band in it do so in one call. */
static void add_in_blocks(looper *l, int first, int n, const soft_call *call, const int *from)
{
	for (int i = 0; i < n; i++) {
		soft_call *c = &l->e->call[first + from[i]];
		if (c->kind != CALL_GEMM || !call[i].u.gemm.args.k_block)
			continue;
		c->u.gemm.args.k_block = call[i].u.gemm.args.k_block;
		const size_t most = k_gemm_scratch(c->u.gemm.row, &c->u.gemm.args, l->s->ctx->threads);
		int64_t *have = &l->s->storages[c->storage[c->nrefs - 1]].bytes; /* its scratch */
		*have = MAX(*have, (int64_t)most);
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
	const int refs = count_refs(e->call, first, end);
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
	TRY(pack_private(l->s, &loop, confined));
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
