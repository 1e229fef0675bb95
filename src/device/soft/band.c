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
	parts *p;               /* the section that is tried */
	int *place;             /* by call: the axis through which it goes, or where it is outside */
} bander;

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

/* Whether c may add up its results in the section, if it would: the section so far and what comes after it
 * leave them alone, and the kernel adds up as it does without bands, of which the number of threads decides.
 */
static bool may_add(const bander *b, const soft_call *c, int axis)
{
	const parts *p = b->p;
	if (!soft_is_sum(c, 2, axis))
		return true;
	const k_gemm_args *g = &c->u.gemm.args;
	return p->seen[c->storage[2]] != p->round && p->later[c->storage[2]] != p->round &&
	       2 * MIN(g->m, g->n) <= g->k && /* fp32 sums are no more bytes than the operand that is cut */
	       k_gemm_takes_blocks(c->u.gemm.row, b->s->dev->band_unit);
}

/* The axis of `length` along which c can join the section, or where it is outside. */
static int place(const bander *b, const soft_call *c, int64_t length)
{
	const access x = soft_access(c, 0);
	if (soft_may_pass(b->p, c) && (is_large(b, c) || soft_is_related(b->p, c)))
		for (int d = 0; d < x.rank; d++)
			if (x.dim[d] == length && !soft_is_bound(c, d, false) && soft_agrees(b->p, c, d) &&
			    may_add(b, c, d))
				return d;
	return soft_place_outside(b->p, c);
}

/* The calls that go through `axis` of call `seed` with it, and *end, after the last; returns their number. */
static int collect(bander *b, const soft_call *call, int n, int seed, int axis, int *end)
{
	const int64_t length = soft_access(&call[seed], 0).dim[axis];
	int members = 0;
	b->p->round++;
	if (soft_is_bound(&call[seed], axis, false) || !soft_agrees(b->p, &call[seed], axis))
		return 0;
	for (int i = seed; i < n; i++) {
		b->place[i] = i > seed ? place(b, &call[i], length) : axis;
		if (b->place[i] < 0)
			continue;
		soft_note(b->p, &call[i], b->place[i]);
		if (soft_is_sum(&call[i], 2, b->place[i])) { /* nobody may see it before it is complete */
			const int sums = call[i].storage[2];
			b->p->later[sums] = b->p->written_later[sums] = b->p->round;
		}
		members++;
		*end = i + 1;
	}
	return members;
}

an_status soft_find_bands(soft_fn *s, soft_call *call, int n, const parts *iteration, parts *p, int *from)
{
	bander b = {.s = s,
		    .iteration = iteration,
		    .p = p,
		    .place = arena_array(s->tmp, (size_t)n + 1, sizeof *b.place)};
	int *order = arena_array(s->tmp, (size_t)n + 1, sizeof *order);
	if (!b.place || !order)
		return fail_memory(s->ctx, 0);
	for (int i = 0; i < n; i++)
		from[i] = i;
	for (int seed = 0; seed < n; seed++) {
		const soft_call *c = &call[seed];
		if (!is_large(&b, c))
			continue;
		const int batches = c->u.gemm.args.nbatch;
		int end, best = batches + AXIS_M;
		if (collect(&b, call, n, seed, batches + AXIS_N, &end) >
		    collect(&b, call, n, seed, batches + AXIS_M, &end))
			best = batches + AXIS_N;
		const int members = collect(&b, call, n, seed, best, &end);
		const int64_t length = soft_access(c, 0).dim[best];
		if (members < 2 || length < 2 * s->dev->band_unit)
			continue;
		for (int i = seed; i < end; i++) {
			if (b.place[i] < 0)
				continue;
			call[i].band = (soft_band){.axis = b.place[i], .length = length};
			if (soft_is_sum(&call[i], 2, b.place[i]))
				call[i].u.gemm.args.k_block = s->dev->band_unit;
		}
		const int first = seed + soft_order(b.place + seed, end - seed, order);
		TRY(soft_reorder(s, call + seed, sizeof *call, order, end - seed));
		TRY(soft_reorder(s, from + seed, sizeof *from, order, end - seed));
		call[first].band.calls = members;
		seed = first + members - 1;
	}
	return AN_OK;
}

int64_t soft_band_width(const soft_fn *s, int64_t bytes_per_row)
{
	const int64_t unit = s->dev->band_unit;
	return MAX(s->dev->band_bytes / MAX(bytes_per_row, 1) / unit, 1) * unit;
}
