/* Choosing the next token from logits. */
#ifndef TRAIN_SAMPLE_H
#define TRAIN_SAMPLE_H

#include "anneal/train.h"
#include "kernel/kernel.h"

typedef struct sample_candidate {
	float weight;
	float logit;
	int32_t id;
} sample_candidate;

/* A token by temperature, top-k, then top-p; the draw is number `position` of the seed, so it depends
 * on nothing else.  `c` has room for the vocabulary. */
int32_t sample_token(pool *p, uint32_t isa, const float *logits, int32_t vocab, const an_sample_options *o,
		     uint64_t position, sample_candidate *c);

#endif
