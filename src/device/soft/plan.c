/* Offsets of everything in the scratch and constant blocks.
 *
 * Two ranges of scratch may overlap only if no call runs between the first and last use of
 * both.  The largest ranges are placed first, each at the lowest offset where it fits between
 * those already placed that live at the same time. */
#include "device/soft/soft.h"

#include <stdlib.h>

static void live_ranges(soft_fn *s, const soft_exe *e)
{
	for (int i = 0; i < e->ncalls; i++)
		for (int j = 0; j < e->call[i].nrefs; j++) {
			soft_storage *st = &s->storages[e->call[i].storage[j]];
			if (st->first < 0)
				st->first = i;
			st->last = i;
		}
}

static int by_size(const void *a, const void *b)
{
	const soft_storage *x = *(soft_storage *const *)a, *y = *(soft_storage *const *)b;
	if (x->bytes != y->bytes)
		return x->bytes > y->bytes ? -1 : 1;
	return x < y ? -1 : x > y; /* they are elements of one array */
}

static int by_offset(const void *a, const void *b)
{
	const soft_storage *x = *(soft_storage *const *)a, *y = *(soft_storage *const *)b;
	return (x->offset > y->offset) - (x->offset < y->offset);
}

an_status soft_place_ranges(soft_fn *s, soft_storage **range, int n, int64_t *end, int64_t *sum)
{
	soft_storage **near = arena_array(s->tmp, (size_t)n + 1, sizeof(soft_storage *));
	if (!near)
		return fail_memory(s->ctx, 0);
	qsort(range, (size_t)n, sizeof *range, by_size);
	*end = *sum = 0;
	for (int i = 0; i < n; i++) {
		int k = 0;
		for (int j = 0; j < i; j++)
			if (range[j]->first <= range[i]->last && range[i]->first <= range[j]->last)
				near[k++] = range[j];
		qsort(near, (size_t)k, sizeof *near, by_offset);
		int64_t at = 0;
		for (int j = 0; j < k && near[j]->offset < at + range[i]->bytes; j++)
			at = MAX(at, soft_aligned(near[j]->offset + near[j]->bytes));
		range[i]->offset = at;
		*end = MAX(*end, soft_aligned(at + range[i]->bytes));
		*sum += soft_aligned(range[i]->bytes);
	}
	return AN_OK;
}

static an_status plan_scratch(soft_fn *s, soft_exe *e)
{
	soft_storage **todo = arena_array(s->tmp, s->nstorages + 1, sizeof(soft_storage *));
	if (!todo)
		return fail_memory(s->ctx, 0);
	int n = 0;
	for (size_t i = 0; i < s->nstorages; i++)
		if (s->storages[i].kind == STORE_SCRATCH && s->storages[i].first >= 0)
			todo[n++] = &s->storages[i];
	int64_t end, sum;
	TRY(soft_place_ranges(s, todo, n, &end, &sum));
	e->scratch = (size_t)end;
	e->values_bytes = (size_t)sum;
	return AN_OK;
}

/* Constants that some call reads, one after the other; literals are copied there. */
static an_status place_constants(soft_fn *s, soft_exe *e)
{
	int64_t end = 0;
	for (size_t i = 0; i < s->nstorages; i++) {
		soft_storage *st = &s->storages[i];
		if (st->kind != STORE_CONST || st->first < 0)
			continue;
		st->offset = end;
		end = soft_aligned(end + st->bytes);
	}
	e->constants_size = (size_t)end;
	e->constants = mem_alloc_tensor(s->ctx, (size_t)end);
	if (!e->constants)
		return fail_memory(s->ctx, (size_t)end);
	for (size_t i = 0; i < s->nvalues; i++) {
		const soft_value *v = &s->values[i];
		if (!v->bytes || s->storages[v->at.storage].first < 0)
			continue;
		const soft_storage *st = &s->storages[v->at.storage];
		memcpy((char *)e->constants + st->offset, v->bytes, (size_t)st->bytes);
	}
	return AN_OK;
}

an_status soft_plan(soft_fn *s, soft_exe *e, arena *a)
{
	live_ranges(s, e);
	TRY(plan_scratch(s, e));
	TRY(place_constants(s, e));
	e->nports = (int)(s->f->ninputs + s->f->noutputs);
	for (int i = 0; i < e->ncalls; i++)
		for (int j = 0; j < e->call[i].nrefs; j++) {
			const soft_storage *st = &s->storages[e->call[i].storage[j]];
			soft_ref *r = &e->call[i].ref[j];
			switch (st->kind) {
			case STORE_PORT: r->base = st->port; break;
			case STORE_SCRATCH: r->base = e->nports + BASE_SCRATCH; break;
			case STORE_CONST: r->base = e->nports + BASE_CONST; break;
			}
			if (st->kind != STORE_PORT)
				r->offset += st->offset;
		}
	e->nstorages = (int)s->nstorages;
	e->storage = arena_copy(a, s->storages, s->nstorages * sizeof *e->storage);
	e->base = arena_array(a, (size_t)(e->nports + BASE_BLOCKS), sizeof *e->base);
	e->kept = arena_array(a, (size_t)(e->nports + BASE_BLOCKS), sizeof(soft_memory *));
	return e->storage && e->base && e->kept ? AN_OK : fail_memory(s->ctx, 0);
}
