/* Choosing the next token from logits. */
#include "train/sample.h"

#include "base/random.h"

#include <math.h>
#include <stdlib.h>

/* Likeliest first; of equals the smaller id, so that the order is defined. */
static int by_logit(const void *a, const void *b)
{
	const sample_candidate *x = a, *y = b;
	return x->logit != y->logit ? (x->logit < y->logit ? 1 : -1) : (x->id > y->id) - (x->id < y->id);
}

int32_t sample_token(const float *logits, int32_t vocab, const an_sample_options *o, uint64_t position,
		     sample_candidate *c)
{
	int32_t best = 0, n = vocab;
	for (int32_t i = 1; i < vocab; i++)
		if (logits[i] > logits[best])
			best = i;
	if (!(o->temperature > 0))
		return best;
	for (int32_t i = 0; i < vocab; i++)
		c[i] = (sample_candidate){.logit = logits[i], .id = i};
	bool nucleus = o->top_p > 0 && o->top_p < 1;
	if ((o->top_k > 0 && o->top_k < vocab) || nucleus)
		qsort(c, (size_t)vocab, sizeof *c, by_logit);
	if (o->top_k > 0 && o->top_k < vocab)
		n = o->top_k;
	double sum = 0;
	for (int32_t i = 0; i < n; i++) {
		c[i].weight = exp(((double)c[i].logit - (double)logits[best]) / o->temperature);
		sum += c[i].weight;
	}
	if (nucleus) { /* the fewest that make up top_p */
		double part = 0;
		int32_t m = 0;
		while (m < n && part < o->top_p * sum)
			part += c[m++].weight;
		n = m;
		sum = part;
	}
	double at = random_uniform(o->seed, UINT64_C(3) << 32, position) * sum;
	for (int32_t i = 0; i < n; i++)
		if ((at -= c[i].weight) < 0)
			return c[i].id;
	return best; /* rounding, or logits that are not numbers */
}
