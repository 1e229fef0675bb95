/* A hash table from pairs of token ids to small integers: merge ranks when encoding, places in
 * the pair table when training. */
#ifndef TEXT_PAIRS_H
#define TEXT_PAIRS_H

#include "base/base.h"
#include "base/random.h"

/* Open addressing with linear probing, at most half full; entries are never removed. */
typedef struct pairs {
	an_ctx *ctx;
	struct pair_slot {
		uint64_t key; /* left id in the high half; PAIRS_FREE: free */
		int32_t value;
	} * slot;
	size_t cap, used; /* cap is 0 or a power of two */
} pairs;
#define PAIRS_FREE UINT64_MAX

/* Value of (left, right), or -1. */
static inline int32_t pairs_get(const pairs *p, int32_t left, int32_t right)
{
	if (!p->cap)
		return -1;
	uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
	for (size_t i = random_mix(key);; i++) {
		const struct pair_slot *s = &p->slot[i & (p->cap - 1)];
		if (s->key == key)
			return s->value;
		if (s->key == PAIRS_FREE)
			return -1;
	}
}

/* Sets the value of (left, right).  false: out of memory, nothing changed. */
bool pairs_set(pairs *p, int32_t left, int32_t right, int32_t value);
void pairs_free(pairs *p);

#endif
