/* Training against an independent implementation: tests/golden/golden.py, plain fp32 PyTorch, with the
 * same initial weights and batches.  The numbers of the case stand there too; what they compute from the
 * counter-based generator must be equal bit for bit, so each side has its own few lines for it. */
#include "anneal/io.h"
#include "anneal/train.h"
#include "base/base.h"
#include "base/random.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

enum { VOCAB = 131, TOKENS = 4001, STEPS = 100, SEED = 20 };
static const an_llama_config config = {.dim = 48,
				       .layers = 3,
				       .heads = 6,
				       .kv_heads = 2,
				       .hidden = 80,
				       .vocab = VOCAB,
				       .seq = 24,
				       .rope_theta = 10000,
				       .norm_eps = 1e-5,
				       .tied = true};
static const an_train_options options = {.batch = 3,
					 .tokens = 24,
					 .accumulate = 1,
					 .steps = STEPS,
					 .seed = SEED,
					 .lr = 4e-3,
					 .min_lr = 0.1,
					 .warmup = 10,
					 .beta1 = 0.9,
					 .beta2 = 0.95,
					 .eps = 1e-8,
					 .decay = 0.1,
					 .clip = 1.0,
					 .eval_every = -1,
					 .save_every = -1};

static void ok(an_ctx *ctx, an_status s)
{
	if (s != AN_OK)
		fail_msg("%s: %s", an_status_name(s), an_message(ctx));
}

/* Seven times out of eight the next token is 7 t + 3 modulo the vocabulary, otherwise any. */
static void make_tokens(int32_t *token)
{
	token[0] = 0;
	for (uint64_t i = 1; i < TOKENS; i++)
		token[i] = random_uniform(SEED, 1000, i) < 0.125
			       ? (int32_t)(random_uniform(SEED, 1001, i) * VOCAB)
			       : (7 * token[i - 1] + 3) % VOCAB;
}

/* The table's deviations; norms are 1 + 0.2 normal: at 1 several wrong gradients are right. */
static void make_weights(const an_model *m, float *block)
{
	for (int i = 0; i < an_model_params(m); i++) {
		const an_param *p = an_model_param(m, i);
		for (int64_t j = 0; j < p->count; j++) {
			double z = random_normal(SEED, (uint64_t)i, (uint64_t)j);
			block[p->offset + j] =
			    (float)(p->kind == AN_PARAM_NORM ? 1 + 0.2 * z : p->init_std * z);
		}
	}
}

typedef struct run {
	an_ctx *ctx;
	an_device *device;
	an_model *model;
	an_tokens *tokens;
	an_trainer *trainer;
	float *block;
	char path[64];
} run;

static void start(run *r, const an_train_options *opt)
{
	memset(r, 0, sizeof *r);
	assert_int_equal(an_ctx_open(NULL, &r->ctx), AN_OK);
	ok(r->ctx, an_device_open(r->ctx, &(an_device_options){.numerics = "ieee"}, &r->device));
	ok(r->ctx, an_llama_new(r->ctx, &config, &r->model));
	static int32_t ids[TOKENS];
	make_tokens(ids);
	snprintf(r->path, sizeof r->path, "/tmp/anneal-golden-%ld.tok", (long)getpid());
	ok(r->ctx, an_tokens_write(r->ctx, r->path, ids, TOKENS, 2));
	ok(r->ctx, an_tokens_open(r->ctx, r->path, 2, VOCAB, &r->tokens));
	r->block = calloc((size_t)an_model_param_block(r->model), sizeof *r->block);
	assert_non_null(r->block);
	make_weights(r->model, r->block);
	an_data data = {.train = r->tokens};
	ok(r->ctx, an_trainer_new(r->device, r->model, &data, opt, r->block, &r->trainer));
}

static void stop(run *r)
{
	an_trainer_free(r->trainer);
	an_tokens_close(r->tokens);
	unlink(r->path);
	an_model_free(r->model);
	an_device_close(r->device);
	an_ctx_close(r->ctx);
	free(r->block);
}

/* Step 0, tensor by tensor, |ours - theirs| / |theirs| in the 2-norm.
 *
 * Tolerance.  PyTorch's fp32 counts as exact.  Here every stored value is rounded to fp16, a relative error
 * of at most u = 2^-11 and u/sqrt(3) root mean square, independent from element to element.  Between the
 * loss and the first layer's weights a gradient passes the forward's and the backward's chain, in each of
 * the 3 layers about 2 * 25 rounded operations, and the head's.  Errors of independent elements add in
 * squares: sqrt(3 * 50 + 10) * u / sqrt(3) = 3.6e-3.  Three times that, 1.1e-2, leaves room for errors that
 * are not independent: those of numbers that a whole column shares (RMSNorm's r) and of sums that cancel
 * (softmax's p * (dp - sum p dp)).  The requirement is 2e-2. */
static void first_gradients_agree(void **state)
{
	(void)state;
	const double tolerance = 3 * sqrt((3 * 50 + 10) / 3.0) * 0x1p-11;
	run r;
	an_safetensors *golden;
	start(&r, &options);
	ok(r.ctx, an_trainer_step(r.trainer));
	const float *block = an_trainer_gradients(r.trainer);
	ok(r.ctx, an_safetensors_open(r.ctx, TEST_SOURCE_DIR "/tests/golden/gradients.safetensors", &golden));
	assert_int_equal(an_safetensors_count(golden), an_model_params(r.model));
	for (int i = 0; i < an_model_params(r.model); i++) {
		const an_param *p = an_model_param(r.model, i);
		an_tensor_info want;
		assert_true(an_safetensors_find(golden, p->name, &want));
		assert_int_equal(want.bytes, (size_t)p->count * sizeof(float));
		double error = 0, size = 0;
		for (int64_t j = 0; j < p->count; j++) {
			float w;
			memcpy(&w, (const char *)want.data + (size_t)j * sizeof w, sizeof w);
			double e = block[p->offset + j] - w;
			error += e * e;
			size += (double)w * w;
		}
		if (getenv("ANNEAL_TEST_VERBOSE"))
			print_message("%-50s |g| %.3e, relative error %.2e\n", p->name, sqrt(size),
				      sqrt(error / size));
		if (!(size > 0 && sqrt(error / size) < tolerance))
			fail_msg("%s: |g| %g, relative error %g", p->name, sqrt(size), sqrt(error / size));
	}
	an_safetensors_close(golden);
	stop(&r);
}

/* Every step's loss within 1%, for one batch of three sequences and for three accumulated ones. */
static void losses_agree(void **state)
{
	(void)state;
	double want[STEPS];
	FILE *f = fopen(TEST_SOURCE_DIR "/tests/golden/loss.txt", "r");
	assert_non_null(f);
	for (int i = 0; i < STEPS; i++)
		assert_int_equal(fscanf(f, "%lf", &want[i]), 1);
	fclose(f);
	assert_true(want[STEPS - 1] < 0.5 * want[0]); /* it learns, so there is something to compare */
	for (int accumulate = 0; accumulate < 2; accumulate++) {
		an_train_options opt = options;
		if (accumulate) {
			opt.batch = 1;
			opt.accumulate = 3;
		}
		run r;
		start(&r, &opt);
		double worst = 0;
		for (int i = 0; i < STEPS; i++) {
			ok(r.ctx, an_trainer_step(r.trainer));
			assert_int_equal(an_trainer_at(r.trainer), i + 1);
			double loss = an_trainer_loss(r.trainer), difference = fabs(loss / want[i] - 1);
			worst = fmax(worst, difference);
			if (!(difference < 0.01))
				fail_msg("step %d: loss %.6f, PyTorch %.6f", i, loss, want[i]);
		}
		if (getenv("ANNEAL_TEST_VERBOSE"))
			print_message("accumulate %d: largest difference %.2e\n", opt.accumulate, worst);
		stop(&r);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(first_gradients_agree),
	    cmocka_unit_test(losses_agree),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
