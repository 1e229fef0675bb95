/* One update of the whole trainer, tied or not, with grouped heads and heads that do not make up dim,
 * several sequences and micro-batches, against a model in double precision (support/nn_reference.c): the
 * loss, and every parameter's gradient against the slope of that loss. */
#include "base/half.h"
#include "support/nn_reference.h"
#include "support/train_support.h"
#include "train/data.h"
#include "train/train.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdlib.h>
#undef fail
#include <cmocka.h>

enum { MOST_TOKENS = 20, MOST_DIM = 30 };

/* Nats of the token after each, in one column of logits. */
static double nats(const double *logits, int vocab, int target)
{
	double most = logits[0], sum = 0;
	for (int v = 1; v < vocab; v++)
		most = fmax(most, logits[v]);
	for (int v = 0; v < vocab; v++)
		sum += exp(logits[v] - most);
	return most + log(sum) - logits[target];
}

static double sequence_nats(const setup *s, const double *block, int tokens, const int32_t *input,
			    const int32_t *target)
{
	const an_llama_config *c = an_model_config(s->model);
	nn_reference r = {.config = c, .constant = nn_reference_fp16};
	double x[2][MOST_TOKENS * MOST_DIM], logits[MOST_TOKENS * SMALL_VOCAB], sum = 0;
	const double *table = block + an_model_param(s->model, an_model_embedding(s->model))->offset;
	for (int i = 0; i < tokens * c->dim; i++)
		x[0][i] = table[input[i / c->dim] * c->dim + i % c->dim];
	for (int i = 0; i <= c->layers; i++) {
		const an_segment *part = an_model_segment(s->model, i);
		const double *w[16];
		assert_true(part->nparams <= LENGTH(w));
		for (int j = 0; j < part->nparams; j++)
			w[j] = block + an_model_param(s->model, part->param[j])->offset;
		if (i < c->layers)
			nn_reference_layer(&r, w, x[i % 2], tokens, x[(i + 1) % 2]);
		else
			nn_reference_head(&r, w, x[i % 2], tokens, logits);
	}
	for (int i = 0; i < tokens; i++)
		sum += nats(logits + i * c->vocab, c->vocab, target[i]);
	return sum;
}

/* Mean over the tokens of update 0. */
static double update_loss(const setup *s, const an_train_options *o, const double *block)
{
	int32_t input[MOST_TOKENS], target[MOST_TOKENS], window[MOST_TOKENS + 1];
	int n = o->batch * o->accumulate;
	double sum = 0;
	for (int g = 0; g < n; g++) {
		data_batch(s->train, o->seed, 1, o->tokens, g, input, target, window);
		sum += sequence_nats(s, block, o->tokens, input, target);
	}
	return sum / (n * o->tokens);
}

/* The slope of the loss along the gradient of p, over the gradient's norm: 1. */
static double slope(const setup *s, const an_train_options *o, const an_param *p, double *block,
		    const float *gradient)
{
	const double h = 1e-4; /* central: the error is of order h^2 */
	double norm = 0, loss[2];
	for (int64_t i = 0; i < p->count; i++)
		norm += (double)gradient[p->offset + i] * gradient[p->offset + i];
	norm = sqrt(norm);
	for (int side = 0; side < 2; side++) {
		double *w = block + p->offset, keep[SMALL_VOCAB * MOST_DIM];
		assert_true(p->count <= LENGTH(keep));
		memcpy(keep, w, (size_t)p->count * sizeof *w);
		for (int64_t i = 0; i < p->count; i++)
			w[i] += (side ? -h : h) * gradient[p->offset + i] / norm;
		loss[side] = update_loss(s, o, block);
		memcpy(w, keep, (size_t)p->count * sizeof *w);
	}
	return (loss[0] - loss[1]) / (2 * h) / norm;
}

/* Weights that fp16 has, larger than at the start of a training, so that attention is not uniform. */
static void make_weights(const an_model *m, float *block, double *exact)
{
	an_model_init(m, 5, block);
	for (int64_t i = 0; i < an_model_param_block(m); i++) {
		block[i] = half_to_float(half_from_float(block[i] == 1 ? 1 : 4 * block[i]));
		exact[i] = block[i];
	}
}

static void check(const an_llama_config *c, const an_train_options *o, const char *numerics)
{
	setup s;
	setup_open(&s, 2, numerics, c);
	size_t n = (size_t)an_model_param_block(s.model);
	float *block = malloc(n * sizeof *block);
	double *exact = malloc(n * sizeof *exact);
	assert_non_null(block);
	assert_non_null(exact);
	make_weights(s.model, block, exact);
	setup_trainer(&s, o, block);
	check_ok(s.ctx, an_trainer_step(s.trainer));
	assert_null(an_trainer_skipped(s.trainer));
	/* fp16 logits: 2e-2 at most (test_trainer.c), independent from token to token */
	double tokens = (double)o->batch * o->accumulate * o->tokens;
	assert_true(fabs(an_trainer_loss(s.trainer) - update_loss(&s, o, exact)) < 2e-2 / sqrt(tokens));
	/* A gradient passes some 16 roundings of fp16 one after the other, or 16 of bf16 (u = 2^-9) where
	 * products are fast: sqrt(16) u.  What is lost or doubled, of one micro-batch or head, is more. */
	double tolerance = 4 * (strcmp(numerics, "fast") == 0 ? 0x1p-9 : 0x1p-11);
	for (int i = 0; i < an_model_params(s.model); i++) {
		const an_param *p = an_model_param(s.model, i);
		double found = slope(&s, o, p, exact, an_trainer_gradients(s.trainer));
		if (!(fabs(found - 1) < tolerance))
			fail_msg("%s: slope %g", p->name, found);
	}
	free(block);
	free(exact);
	setup_close(&s);
}

static void plain(void **state)
{
	(void)state;
	an_llama_config c = small_config;
	check(&c, &(an_train_options){.batch = 1, .tokens = 20, .accumulate = 1, .steps = 1}, "ieee");
	c.kv_heads = 3;
	c.layers = 1;
	check(&c, &(an_train_options){.batch = 2, .tokens = 13, .accumulate = 1, .steps = 1}, "fast");
}

static void untied_in_micro_batches(void **state)
{
	(void)state;
	an_llama_config c = small_config;
	c.tied = false;
	check(&c, &(an_train_options){.batch = 2, .tokens = 13, .accumulate = 3, .steps = 1}, "ieee");
}

static void heads_wider_and_narrower_than_dim(void **state)
{
	(void)state;
	an_llama_config c = small_config;
	c.dim = 30;
	c.heads = 4;
	c.kv_heads = 2;
	c.head_dim = 6;
	check(&c, &(an_train_options){.batch = 3, .tokens = 7, .accumulate = 2, .steps = 1, .seed = 2},
	      "ieee");
	c.dim = 16;
	c.head_dim = 8;
	c.layers = 3;
	check(&c, &(an_train_options){.batch = 1, .tokens = 20, .accumulate = 2, .steps = 1, .seed = 3},
	      "ieee");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(plain),
	    cmocka_unit_test(untied_in_micro_batches),
	    cmocka_unit_test(heads_wider_and_narrower_than_dim),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
