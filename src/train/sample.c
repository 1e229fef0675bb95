/* Choosing the next token from logits. */
#include "train/sample.h"

#include "base/random.h"

#include <stdlib.h>

/* Likeliest first; of equals the smaller id, so that the order is defined. */
static int by_logit(const void *a, const void *b)
{
	const sample_candidate *x = a, *y = b;
	return x->logit != y->logit ? (x->logit < y->logit ? 1 : -1) : (x->id > y->id) - (x->id < y->id);
}

/* A histogram of how far below the best logit the others are tells which of them can be among the likeliest:
 * to sort a whole vocabulary takes longer than a small model's token. */
enum { BINS = 256 };
#define BINS_PER_UNIT 8.0

static int bin_of(const sample_candidate *c, float best, double temperature)
{
	double below = BINS_PER_UNIT * ((double)best - (double)c->logit) / temperature;
	return below < BINS - 1 ? (int)below : BINS - 1; /* NaN: the last */
}

/* Puts those in front that are at least as likely as all others: the fewest that are `count` and have `mass`.
 * Returns their number, and their mass. */
static int32_t choose_likeliest(sample_candidate *c, int32_t n, float best, double temperature, int32_t count,
				double mass, double *sum)
{
	int32_t in_bin[BINS] = {0}, have = 0, end;
	double weight[BINS] = {0}, part = 0;
	for (int32_t i = 0; i < n; i++) {
		int b = bin_of(&c[i], best, temperature);
		in_bin[b]++;
		weight[b] += (double)c[i].weight;
	}
	/* all of the bins before `last`, and some of that one */
	int last = 0;
	while (last < BINS - 1 && (have + in_bin[last] < count || part + weight[last] < mass)) {
		have += in_bin[last];
		part += weight[last++];
	}
	have = end = 0;
	for (int32_t i = 0; i < n; i++) {
		int b = bin_of(&c[i], best, temperature);
		if (b > last)
			continue;
		sample_candidate x = c[i];
		c[i] = c[end];
		c[end++] = x;
		if (b < last) {
			c[end - 1] = c[have];
			c[have++] = x;
		}
	}
	qsort(c + have, (size_t)(end - have), sizeof *c, by_logit);
	while (have < end && (have < count || part < mass))
		part += (double)c[have++].weight;
	*sum = part;
	return have;
}

/* e^((logit - best) / temperature) */
static void weigh(pool *p, uint32_t isa, const float *logits, int32_t n, float best, double temperature,
		  sample_candidate *c)
{
	const ew_instr code[] = {{.op = EW_LOAD, .dst = 0, .a = 0},
				 {.op = EW_IMM, .dst = 1, .imm = best},
				 {.op = EW_SUB, .dst = 0, .a = 0, .b = 1},
				 {.op = EW_IMM, .dst = 1, .imm = (float)(1 / temperature)},
				 {.op = EW_MUL, .dst = 0, .a = 0, .b = 1},
				 {.op = EW_EXP, .dst = 0, .a = 0},
				 {.op = EW_STORE, .dst = 1, .a = 0}};
	const ew_operand operand[] = {
	    {.data = (void *)(uintptr_t)logits, .type = K_F32, .stride = {1}},
	    {.data = &c->weight, .type = K_F32, .stride = {sizeof *c / sizeof c->weight}}};
	const ew_program prog = {.rank = 1,
				 .dim = {n},
				 .ninstr = LENGTH(code),
				 .noperands = LENGTH(operand),
				 .nregs = 2,
				 .instr = code,
				 .operand = operand};
	for (int32_t i = 0; i < n; i++)
		c[i] = (sample_candidate){.logit = logits[i], .id = i};
	k_ewise(p, isa, &prog);
}

int32_t sample_token(pool *p, uint32_t isa, const float *logits, int32_t vocab, const an_sample_options *o,
		     uint64_t position, sample_candidate *c)
{
	int32_t best = 0, n = vocab;
	for (int32_t i = 1; i < vocab; i++)
		if (logits[i] > logits[best])
			best = i;
	if (!(o->temperature > 0))
		return best;
	weigh(p, isa, logits, vocab, logits[best], o->temperature, c);
	double sum = 0;
	for (int32_t i = 0; i < n; i++)
		sum += (double)c[i].weight;
	if (o->top_k > 0 && o->top_k < vocab)
		n = choose_likeliest(c, n, logits[best], o->temperature, o->top_k, 0, &sum);
	if (o->top_p > 0 && o->top_p < 1)
		n = choose_likeliest(c, n, logits[best], o->temperature, 0, o->top_p * sum, &sum);
	double at = random_uniform(o->seed, UINT64_C(3) << 32, position) * sum;
	for (int32_t i = 0; i < n; i++)
		if ((at -= (double)c[i].weight) < 0)
			return c[i].id;
	return best; /* rounding, or logits that are not numbers */
}
