/* The hash table of token pairs. */
#include "text/pairs.h"

static struct pair_slot *find(const pairs *p, uint64_t key)
{
	for (size_t i = random_mix(key);; i++) {
		struct pair_slot *s = &p->slot[i & (p->cap - 1)];
		if (s->key == key || s->key == PAIRS_FREE)
			return s;
	}
}

static bool grow(pairs *p)
{
	pairs bigger = {p->ctx, NULL, p->cap ? p->cap * 2 : 1024, p->used};
	bigger.slot = mem_alloc(p->ctx, bigger.cap * sizeof *bigger.slot);
	if (!bigger.slot)
		return false;
	for (size_t i = 0; i < bigger.cap; i++)
		bigger.slot[i].key = PAIRS_FREE;
	for (size_t i = 0; i < p->cap; i++)
		if (p->slot[i].key != PAIRS_FREE)
			*find(&bigger, p->slot[i].key) = p->slot[i];
	mem_free(p->ctx, p->slot, p->cap * sizeof *p->slot);
	*p = bigger;
	return true;
}

bool pairs_set(pairs *p, int32_t left, int32_t right, int32_t value)
{
	if (p->used * 2 >= p->cap && !grow(p))
		return false;
	uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
	struct pair_slot *s = find(p, key);
	p->used += s->key == PAIRS_FREE;
	*s = (struct pair_slot){key, value};
	return true;
}

void pairs_free(pairs *p)
{
	mem_free(p->ctx, p->slot, p->cap * sizeof *p->slot);
	p->slot = NULL;
	p->cap = p->used = 0;
}
