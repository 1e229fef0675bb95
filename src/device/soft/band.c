/* Calls in a loop that go through the rows of something large become a section that goes through it band by
 * band.
 *
 * At 2048 tokens one head's scores take 8 MB: they leave the second-level cache between the call that makes
 * them and the one that reads them.  Of a section each call does a band of rows, then each the next band, and
 * what lives within it is as large as a band.  A product that sums over these rows, as that for the gradient
 * of the values, adds up band after band where the numerics are "fast"; else it stays outside, after the
 * section.
 *
 * Requires: the calls of one iteration, in their order.  Calls form a section if each has an axis of its
 * length through which it can go part by part, and what one writes, another reads in the same part only.
 * Breaks: calls between those of the section come before it, if they are free to, or after it.  Bits do not
 * change but for "fast" sums: a row is computed from the same operands, in the same order. */
#include "device/soft/loop.h"

typedef struct bander {
	soft_fn *s;
	const parts *iteration; /* of the loop: `seen` are the storages of which a thread has its own part */
	parts *p;               /* of the section that is tried */
	int *later;             /* by storage: number of the section after which something touches it, ... */
	int *written_later;     /* ... or writes it */
	int *axis;              /* by call: through which it goes, or one of the following */
} bander;
/* Calls that are not in the section: it may need them, or they may need it. */
enum { BEFORE = -2, AFTER = -1 };

static bool is_private(const bander *b, int storage)
{
	return b->iteration->seen[storage] == b->iteration->round;
}

/* Whether c makes what is worth bands: a product larger than one. */
static bool is_large(const bander *b, const soft_call *c)
{
	return c->kind == CALL_GEMM && is_private(b, c->storage[2]) &&
	       b->iteration->step[c->storage[2]] > b->s->dev->band_bytes;
}

/* Whether the section so far, and what comes after it, leave alone what c adds up in it, if it does. */
static bool adds_alone(const bander *b, const soft_call *c, int axis)
{
	if (!soft_is_sum(c, 2, axis))
		return true;
	const int sums = c->storage[2];
	return b->p->seen[sums] != b->p->round && b->later[sums] != b->p->round;
}

/* The axis of `length` along which c can join the section; AFTER: none, or it has nothing to do with it. */
static int join(const bander *b, const soft_call *c, int64_t length)
{
	const parts *p = b->p;
	bool related = is_large(b, c);
	for (int r = 0; r < c->nrefs; r++) {
		const int i = c->storage[r];
		if (b->written_later[i] == p->round || (b->later[i] == p->round && soft_access(c, r).written))
			return AFTER;
		related |= p->seen[i] == p->round && p->written[i];
	}
	const access x = soft_access(c, 0);
	for (int d = 0; d < x.rank && related; d++)
		if (x.dim[d] == length && !soft_is_bound(c, d, false) && soft_agrees(p, c, d) &&
		    adds_alone(b, c, d))
			return d;
	return AFTER;
}

/* Whether c could as well run before the section so far, and what comes after it. */
static bool is_free(const bander *b, const soft_call *c)
{
	for (int r = 0; r < c->nrefs; r++) {
		const int i = c->storage[r];
		const bool in = b->p->seen[i] == b->p->round, after = b->later[i] == b->p->round;
		if (soft_access(c, r).written
			? in || after
			: (in && b->p->written[i]) || b->written_later[i] == b->p->round)
			return false;
	}
	return true;
}

static void leave_for_later(bander *b, const soft_call *c)
{
	for (int r = 0; r < c->nrefs; r++) {
		b->later[c->storage[r]] = b->p->round;
		if (soft_access(c, r).written)
			b->written_later[c->storage[r]] = b->p->round;
	}
}

/* The calls that go through `axis` of call `seed` with it, and *end, after the last; returns their number. */
static int collect(bander *b, const soft_call *call, int n, int seed, int axis, int *end)
{
	const int64_t length = soft_access(&call[seed], 0).dim[axis];
	int members = 1;
	b->p->round++;
	b->axis[seed] = axis;
	*end = seed + 1;
	if (!soft_agrees(b->p, &call[seed], axis))
		return 0;
	soft_note(b->p, &call[seed], axis);
	for (int i = seed + 1; i < n; i++) {
		b->axis[i] = join(b, &call[i], length);
		if (b->axis[i] < 0 && is_free(b, &call[i]))
			b->axis[i] = BEFORE;
		else if (b->axis[i] < 0)
			leave_for_later(b, &call[i]);
		if (b->axis[i] < 0)
			continue;
		soft_note(b->p, &call[i], b->axis[i]);
		if (soft_is_sum(&call[i], 2, b->axis[i]))
			b->later[call[i].storage[2]] = b->written_later[call[i].storage[2]] = b->p->round;
		members++;
		*end = i + 1;
	}
	return members;
}

/* Puts the members among calls [seed, end) side by side; *first is where. */
static an_status gather(bander *b, soft_call *call, int *from, int seed, int end, int members, int64_t length,
			int *first)
{
	soft_call *old = arena_copy(b->s->tmp, &call[seed], (size_t)(end - seed) * sizeof *old);
	int *old_from = arena_copy(b->s->tmp, &from[seed], (size_t)(end - seed) * sizeof *old_from);
	if (!old || !old_from)
		return fail_memory(b->s->ctx, 0);
	int before = seed, in = seed;
	for (int i = seed; i < end; i++)
		in += b->axis[i] == BEFORE;
	*first = in;
	for (int i = seed, after = in + members; i < end; i++) {
		const int to = b->axis[i] >= 0 ? in++ : b->axis[i] == BEFORE ? before++ : after++;
		call[to] = old[i - seed];
		from[to] = old_from[i - seed];
		if (b->axis[i] >= 0)
			call[to].band = (soft_band){.axis = b->axis[i], .length = length};
	}
	call[*first].band.calls = members;
	return AN_OK;
}

an_status soft_find_bands(soft_fn *s, soft_call *call, int n, const parts *iteration, parts *p, int *from)
{
	bander b = {.s = s,
		    .iteration = iteration,
		    .p = p,
		    .later = arena_array(s->tmp, s->nstorages + 1, sizeof(int)),
		    .written_later = arena_array(s->tmp, s->nstorages + 1, sizeof(int)),
		    .axis = arena_array(s->tmp, (size_t)n + 1, sizeof(int))};
	if (!b.later || !b.written_later || !b.axis)
		return fail_memory(s->ctx, 0);
	for (int i = 0; i < n; i++)
		from[i] = i;
	for (int seed = 0; seed < n; seed++) {
		const soft_call *c = &call[seed];
		if (!is_large(&b, c))
			continue;
		const int first = c->u.gemm.args.nbatch;
		int end, best = first + AXIS_M;
		if (collect(&b, call, n, seed, first + AXIS_N, &end) >
		    collect(&b, call, n, seed, first + AXIS_M, &end))
			best = first + AXIS_N;
		const int members = collect(&b, call, n, seed, best, &end);
		const int64_t length = soft_access(c, 0).dim[best];
		if (members < 2 || length < 2 * s->dev->band_unit)
			continue;
		TRY(gather(&b, call, from, seed, end, members, length, &seed));
		seed += members - 1;
	}
	return AN_OK;
}

int64_t soft_band_width(const soft_fn *s, int64_t bytes_per_row)
{
	const int64_t unit = s->dev->band_unit;
	return MAX(s->dev->band_bytes / MAX(bytes_per_row, 1) / unit, 1) * unit;
}
