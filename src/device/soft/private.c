/* The memory that each thread has for itself in a loop: values that live within an iteration, and kernels'
 * scratch, in one block per thread.
 *
 * Requires: a loop with its references, by_worker, and in band_step the steps of one row; no width of bands.
 * Sets: offsets, steps and storages of what is by_worker; the width of bands, steps from one to the next, and
 * what products keep from band to band. */
#include "device/soft/loop.h"

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
	int *of;              /* by storage; 0: none */
	const bool *confined; /* by reference of the loop: a band touches its part only */
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

int soft_count_refs(const soft_call *call, int first, int end)
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
			s.end_ref += soft_count_refs(call, j, s.end);
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

/* In the block of a thread, a value lives from the first call of an iteration that touches it to the last. */
an_status soft_pack_private(soft_fn *s, soft_call *loop, const bool *confined)
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
			cut_into_bands(
			    &m, (section){j, last, k, k + soft_count_refs(loop->u.loop.call, j, last)});
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
