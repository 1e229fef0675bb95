/* Steps: schedule, loss scale, accumulation, evaluation, the plan. */
#include "support/train_support.h"
#include "train/train.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdlib.h>
#undef fail
#include <cmocka.h>

static const an_train_options options = {
    .batch = 4, .steps = 30, .lr = 3e-3, .warmup = 5, .seed = 1, .eval_every = -1, .save_every = -1};

/* ---- Schedule -------------------------------------------------------------------------- */

static void schedule_has_these_values(void **state)
{
	(void)state;
	an_train_options o = {.lr = 2, .min_lr = 0.1, .warmup = 4, .steps = 14};
	const double warm[] = {0.5, 1, 1.5, 2};
	for (int k = 0; k < 4; k++)
		assert_true(train_learning_rate(&o, k) == warm[k]);
	/* the cosine begins at the top, is half-way down in the middle, and ends at the share */
	assert_true(train_learning_rate(&o, 4) == 2);
	assert_true(fabs(train_learning_rate(&o, 9) - 1.1) < 1e-15);
	assert_true(fabs(train_learning_rate(&o, 14) - 0.2) < 1e-15);
	for (int k = 5; k <= 14; k++)
		assert_true(train_learning_rate(&o, k) < train_learning_rate(&o, k - 1));
	o.warmup = 0;
	assert_true(train_learning_rate(&o, 0) == 2);
	o.warmup = 20; /* longer than the training */
	assert_true(train_learning_rate(&o, 13) == 2 * 14.0 / 20);
}

static void options_are_resolved_and_checked(void **state)
{
	(void)state;
	setup s;
	an_train_options r;
	setup_open(&s, 1, NULL, NULL);
	check_ok(s.ctx, train_resolve(s.ctx, s.model, &(an_train_options){.steps = 100}, &r));
	assert_int_equal(r.batch, 1);
	assert_int_equal(r.tokens, 20);
	assert_int_equal(r.accumulate, 1);
	assert_int_equal(r.warmup, 5);
	assert_int_equal(r.eval_every, 10);
	assert_true(r.lr == 1e-3 && r.min_lr == 0.1 && r.beta1 == 0.9 && r.beta2 == 0.95 && r.eps == 1e-8 &&
		    r.decay == 0.1 && r.clip == 1 && r.loss_scale == 64);
	check_ok(s.ctx,
		 train_resolve(s.ctx, s.model,
			       &(an_train_options){
				   .steps = 1, .min_lr = -1, .warmup = -1, .decay = -1, .loss_scale = 1000},
			       &r));
	assert_true(r.min_lr == 0 && r.warmup == 0 && r.decay == 0 && r.loss_scale == 512);
	const struct {
		an_train_options o;
		const char *name;
	} wrong[] = {
	    {{.steps = 0}, "steps"},
	    {{.steps = 1, .tokens = 21}, "tokens"},
	    {{.steps = 1, .batch = -1}, "batch"},
	    {{.steps = 1, .accumulate = -2}, "accumulate"},
	    {{.steps = 1, .lr = -1}, "lr"},
	    {{.steps = 1, .lr = NAN}, "lr"},
	    {{.steps = 1, .beta2 = 1}, "beta2"},
	    {{.steps = 1, .loss_scale = INFINITY}, "loss-scale"},
	    {{.steps = 1, .eval_tokens = -1}, "eval-tokens"},
	};
	for (int i = 0; i < LENGTH(wrong); i++)
		check_refused(s.ctx, train_resolve(s.ctx, s.model, &wrong[i].o, &r), AN_USAGE, wrong[i].name,
			      NULL);
	setup_close(&s);
}

static void data_is_checked(void **state)
{
	(void)state;
	setup s;
	an_tokens *few, *other;
	int32_t ids[30] = {0};
	ids[17] = SMALL_VOCAB;
	setup_open(&s, 1, NULL, NULL);
	check_ok(s.ctx, an_tokens_copy(s.ctx, ids, 16, SMALL_VOCAB, &few));
	check_ok(s.ctx, an_tokens_copy(s.ctx, ids, 30, SMALL_VOCAB + 1, &other));
	an_data data = {.train = few};
	an_trainer *t;
	check_refused(s.ctx, an_trainer_new(s.device, s.model, &data, &options, NULL, &t), AN_USAGE,
		      "16 tokens", "21", NULL);
	assert_null(t);
	data.train = other;
	check_refused(s.ctx, an_trainer_new(s.device, s.model, &data, &options, NULL, &t), AN_USAGE,
		      "training text", "token 17 is 67", NULL);
	data = (an_data){.train = s.train, .valid = other, .valid_bytes = 1};
	check_refused(s.ctx, an_trainer_new(s.device, s.model, &data, &options, NULL, &t), AN_USAGE,
		      "validation text", "token 17 is 67", NULL);
	an_tokens_close(few);
	an_tokens_close(other);
	setup_close(&s);
}

/* ---- Training ----------------------------------------------------------------------------- */

static void it_learns(void **state)
{
	(void)state;
	const char *const numerics[] = {"ieee", "fast"};
	for (int i = 0; i < 2; i++) {
		setup s;
		an_train_options o = options;
		o.steps = 120;
		o.lr = 1e-2;
		setup_open(&s, 0, numerics[i], NULL);
		setup_trainer(&s, &o, NULL);
		double first, last, bits;
		check_ok(s.ctx, an_trainer_evaluate(s.trainer, 0, &first, &bits));
		assert_true(fabs(first - log(SMALL_VOCAB)) < 0.1); /* knows nothing yet */
		check_ok(s.ctx, an_trainer_run(s.trainer));
		check_ok(s.ctx, an_trainer_evaluate(s.trainer, 0, &last, &bits));
		/* the source's entropy: 0.8 + 0.2/67 to one token, 0.2/67 to each of the others */
		double q = 0.2 / SMALL_VOCAB, entropy = -(0.8 + q) * log(0.8 + q) - 66 * q * log(q);
		assert_true(last > 0.9 * entropy);
		assert_true(last < 0.75 * first);
		assert_true(fabs(bits - last * 199 / log(2) / 500) < 1e-12);
		assert_int_equal(an_trainer_at(s.trainer), 120);
		check_refused(s.ctx, an_trainer_step(s.trainer), AN_USAGE, "120", NULL);
		setup_close(&s);
	}
}

/* Gradients of one batch of 4 and of 4 accumulated batches of 1.  Both have the same sequences, hence the
 * same fp16 operands of every weight gradient; only the order of the fp32 sum differs.  The norms'
 * gradients are rounded to fp16 once in one case and 4 times in the other: an error of at most u = 2^-11 of
 * each part.  Parts of random signs are sqrt(4) times as large together as the sum, so the relative error
 * of a tensor is at most about 2u + u; the bound is 4u.  (Columns of a batch are computed as they are
 * alone: what a kernel does at the edge of a tile may change the order of a sum, which is fp32 too.) */
static void accumulation_is_a_larger_batch(void **state)
{
	(void)state;
	setup s[2];
	for (int i = 0; i < 2; i++) {
		an_train_options o = options;
		o.batch = i ? 1 : 4;
		o.accumulate = i ? 4 : 1;
		setup_open(&s[i], 0, "ieee", NULL);
		setup_trainer(&s[i], &o, NULL);
		check_ok(s[i].ctx, an_trainer_step(s[i].trainer));
	}
	const float *a = an_trainer_gradients(s[0].trainer), *b = an_trainer_gradients(s[1].trainer);
	assert_true(fabs(an_trainer_loss(s[0].trainer) / an_trainer_loss(s[1].trainer) - 1) < 1e-4);
	for (int i = 0; i < an_model_params(s[0].model); i++) {
		const an_param *p = an_model_param(s[0].model, i);
		double error = 0, size = 0;
		for (int64_t j = p->offset; j < p->offset + p->count; j++) {
			error += ((double)a[j] - b[j]) * ((double)a[j] - b[j]);
			size += (double)a[j] * a[j];
		}
		if (!(size > 0 && sqrt(error / size) < 4 * 0x1p-11))
			fail_msg("%s: relative difference %g", p->name, sqrt(error / size));
	}
	setup_close(&s[0]);
	setup_close(&s[1]);
}

/* An untied classifier has a gradient of its own, and the embedding's has rows of zeros for tokens that
 * did not occur.  Two micro-batches: what the first wrote must not be lost, what the update before wrote
 * must. */
static void untied_gradients_are_separate(void **state)
{
	(void)state;
	an_llama_config c = small_config;
	c.tied = false;
	an_train_options o = options;
	o.batch = 1;
	o.accumulate = 2;
	setup s;
	setup_open(&s, 0, "ieee", &c);
	setup_trainer(&s, &o, NULL);
	for (int step = 0; step < 2; step++) {
		check_ok(s.ctx, an_trainer_step(s.trainer));
		const an_param *e = an_model_param(s.model, an_model_embedding(s.model));
		const float *g = an_trainer_gradients(s.trainer) + e->offset;
		int rows = 0;
		for (int r = 0; r < e->dim[0]; r++) {
			bool any = false;
			for (int j = 0; j < e->dim[1]; j++)
				any |= g[r * e->dim[1] + j] != 0;
			rows += any;
		}
		/* 40 positions hold at most 40 different tokens of 67, and far more than one batch's share
		 * of different ones is present in two */
		assert_in_range(rows, 21, 40);
	}
	setup_close(&s);
}

/* Tokens that the text does not have get gradients of exactly 0. */
static void no_epsilon_is_no_division_by_zero(void **state)
{
	(void)state;
	an_llama_config c = small_config;
	c.vocab = 4000;
	c.tied = false;
	an_train_options o = options;
	o.eps = o.decay = -1;
	setup s;
	setup_open(&s, 0, "ieee", &c);
	setup_trainer(&s, &o, NULL);
	int64_t n = an_model_param_block(s.model), rows = an_model_param(s.model, 0)->count, stay = 0;
	float *before = malloc((size_t)n * sizeof *before);
	assert_non_null(before);
	memcpy(before, an_trainer_weights(s.trainer), (size_t)n * sizeof *before);
	check_ok(s.ctx, an_trainer_step(s.trainer));
	check_ok(s.ctx, an_trainer_step(s.trainer));
	const float *w = an_trainer_weights(s.trainer);
	for (int64_t i = 0; i < n; i++)
		assert_true(isfinite(w[i]));
	for (int64_t i = 0; i < rows; i++)
		stay += w[i] == before[i];
	/* two updates show the embedding 160 of its 4000 rows at most */
	assert_in_range(stay, rows / 4000 * 3840, rows - 1);
	free(before);
	setup_close(&s);
}

/* ---- Loss scale ------------------------------------------------------------------------------ */

static void overflow_is_skipped_and_reported(void **state)
{
	(void)state;
	setup s;
	an_train_options o = options;
	o.steps = 100;
	o.loss_scale = 0x1p40;
	setup_open(&s, 0, "ieee", NULL);
	setup_trainer(&s, &o, NULL);
	size_t bytes = (size_t)an_model_param_block(s.model) * sizeof(float);
	float *before = malloc(bytes);
	assert_non_null(before);
	memcpy(before, an_trainer_weights(s.trainer), bytes);
	int skipped = 0;
	for (;;) {
		double scale = an_trainer_loss_scale(s.trainer);
		check_ok(s.ctx, an_trainer_step(s.trainer));
		assert_true(isfinite(an_trainer_loss(s.trainer)));
		if (!an_trainer_skipped(s.trainer)) {
			assert_true(an_trainer_loss_scale(s.trainer) == scale);
			break;
		}
		skipped++;
		/* infinite from the logits on: the first gradient that is computed */
		if (skipped == 1)
			assert_string_equal(an_trainer_skipped(s.trainer), "model.norm.weight");
		assert_true(an_trainer_loss_scale(s.trainer) == scale / 2);
		assert_memory_equal(before, an_trainer_weights(s.trainer), bytes);
		assert_int_equal(an_trainer_at(s.trainer), skipped);
	}
	/* d_logits is up to 2^40/80 at first and must come below 2^16 */
	assert_in_range(skipped, 17, 40);
	assert_memory_not_equal(before, an_trainer_weights(s.trainer), bytes);
	/* bias correction counts applied updates: the first moves every weight by lr (1 + decay w) at most,
	 * and nearly all by lr, as |m / sqrt(v)| is 1 after one */
	double lr = train_learning_rate(&s.trainer->o, skipped);
	const an_param *p = an_model_param(s.model, 0);
	int moved = 0;
	for (int64_t j = 0; j < p->count; j++)
		moved += fabs(fabs((double)an_trainer_weights(s.trainer)[j] - before[j]) / lr - 1) < 0.05;
	assert_true(moved > 0.9 * (double)p->count);
	free(before);
	setup_close(&s);
}

static void scale_grows_again(void **state)
{
	(void)state;
	an_llama_config c = {
	    .dim = 8, .layers = 1, .heads = 1, .hidden = 8, .vocab = 11, .seq = 4, .tied = true};
	setup s;
	an_train_options o = options;
	o.batch = 1;
	o.steps = 1000;
	setup_open(&s, 1, "ieee", &c);
	setup_trainer(&s, &o, NULL);
	assert_true(an_trainer_loss_scale(s.trainer) == 16);
	for (int i = 0; i < 499; i++)
		check_ok(s.ctx, an_trainer_step(s.trainer));
	assert_true(an_trainer_loss_scale(s.trainer) == 16);
	check_ok(s.ctx, an_trainer_step(s.trainer));
	assert_true(an_trainer_loss_scale(s.trainer) == 32);
	setup_close(&s);
}

static float *initial_block(const setup *s)
{
	float *block = calloc((size_t)an_model_param_block(s->model), sizeof *block);
	assert_non_null(block);
	an_model_init(s->model, 1, block);
	return block;
}

/* Weights that are infinite in fp16: no scale helps, and the training ends with a message. */
static void divergence_ends_the_training(void **state)
{
	(void)state;
	setup s;
	setup_open(&s, 0, "ieee", NULL);
	float *block = initial_block(&s);
	for (int64_t j = 0; j < an_model_param(s.model, 0)->count; j++)
		block[j] = 1e6f;
	an_train_options o = options;
	o.steps = 1000;
	setup_trainer(&s, &o, block);
	an_status status = AN_OK;
	while (status == AN_OK) {
		status = an_trainer_step(s.trainer);
		assert_string_equal(an_trainer_skipped(s.trainer), "the loss");
		assert_true(isnan(s.trainer->grad_norm)); /* not an earlier update's */
	}
	check_refused(s.ctx, status, AN_NUMERIC, "not finite", "diverged", NULL);
	free(block);
	setup_close(&s);
}

/* ---- Evaluation ------------------------------------------------------------------------------- */

static an_status evaluate(const setup *s, const float *block, int tokens, int64_t limit, double *loss,
			  int64_t *count)
{
	an_evaluate_options o = {.tokens = tokens, .limit = limit};
	return an_evaluate(s->device, s->model, block, s->valid, &o, loss, count);
}

typedef struct watch {
	double share;
	int calls, most;
} watch;

static bool watching(void *user, double share)
{
	watch *w = user;
	assert_true(w->calls ? share > w->share && share < 1 : share == 0);
	w->share = share;
	return ++w->calls < w->most;
}

/* An evaluation says how far it is and ends when it is told to. */
static void evaluation_reports_and_ends(void **state)
{
	(void)state;
	setup s;
	watch w = {.most = 100};
	an_evaluate_options o = {.report = watching, .user = &w};
	double loss, same, unset = -1;
	int64_t count;
	setup_open(&s, 0, "ieee", NULL);
	float *block = initial_block(&s);
	check_ok(s.ctx, an_evaluate(s.device, s.model, block, s.valid, NULL, &same, &count));
	assert_int_equal(count, 199);
	check_ok(s.ctx, an_evaluate(s.device, s.model, block, s.valid, &o, &loss, &count));
	assert_true(loss == same && count == 199);
	assert_true(w.calls > 2);
	w = (watch){.most = 3};
	check_refused(s.ctx, an_evaluate(s.device, s.model, block, s.valid, &o, &unset, &count),
		      AN_INTERRUPTED, "stopped", NULL);
	assert_int_equal(w.calls, 3);
	assert_true(unset == -1);
	free(block);
	setup_close(&s);
}

/* With an embedding of zeros all logits are 0 and every token costs log(vocab), whatever the layers do. */
static void uniform_model_costs_log_vocab(void **state)
{
	(void)state;
	setup s;
	double loss, bits;
	int64_t count;
	setup_open(&s, 0, "ieee", NULL);
	float *block = initial_block(&s);
	memset(block, 0, (size_t)an_model_param(s.model, 0)->count * sizeof *block);
	setup_trainer(&s, &options, block);
	const int64_t limits[] = {0, 1, 19, 20, 21, 80, 81, 198, 199, 1000};
	for (int i = 0; i < LENGTH(limits); i++) {
		int64_t want = limits[i] == 0 || limits[i] > 199 ? 199 : limits[i];
		check_ok(s.ctx, evaluate(&s, block, 20, limits[i], &loss, &count));
		assert_int_equal(count, want);
		/* fp32 logarithm: one rounding of 4.2 is 2.4e-7 */
		assert_true(fabs(loss - log(SMALL_VOCAB)) < 1e-6);
		check_ok(s.ctx, an_trainer_evaluate(s.trainer, limits[i], &loss, &bits));
		assert_true(fabs(loss - log(SMALL_VOCAB)) < 1e-6);
		/* 199 predicted tokens are 500 bytes, a part has its share */
		assert_true(fabs(bits - log2(SMALL_VOCAB) * 199 / 500) < 1e-6);
	}
	free(block);
	setup_close(&s);
}

/* The same windows fed to a generator, token by token. */
static void evaluation_agrees_with_decoding(void **state)
{
	(void)state;
	setup s;
	int32_t ids[200];
	double loss, sum = 0;
	int64_t count;
	setup_open(&s, 0, "ieee", NULL);
	setup_trainer(&s, &options, NULL);
	check_ok(s.ctx, an_trainer_run(s.trainer));
	const float *block = an_trainer_weights(s.trainer);
	an_tokens_get(s.valid, 0, 200, ids);
	an_generator *g;
	check_ok(s.ctx, an_generator_new(s.device, s.model, block, 20, &g));
	for (int i = 0; i < 199; i++) {
		if (i % 20 == 0)
			check_ok(s.ctx, an_generator_slide(g, 0));
		check_ok(s.ctx, an_generator_feed(g, &ids[i], 1));
		const float *l = an_generator_logits(g);
		double total = 0;
		for (int v = 0; v < SMALL_VOCAB; v++)
			total += exp((double)l[v]);
		sum += log(total) - (double)l[ids[i + 1]];
	}
	an_generator_free(g);
	check_ok(s.ctx, evaluate(&s, block, 20, 0, &loss, &count));
	assert_int_equal(count, 199);
	/* both have fp16 logits of about 4.5 u relative error (test_generate.c) and magnitude below 8:
	 * 2e-2 each, independent over 199 tokens: 1.3e-3, and 3 standard deviations of it */
	assert_true(fabs(loss - sum / 199) < 4e-3);
	double again, bits;
	check_ok(s.ctx, an_trainer_evaluate(s.trainer, 0, &again, &bits));
	/* the same programs at another batch */
	assert_true(fabs(loss - again) < 1e-3);
	check_refused(s.ctx, evaluate(&s, block, 21, 0, &loss, &count), AN_USAGE, "tokens", NULL);
	setup_close(&s);
}

/* ---- The plan ----------------------------------------------------------------------------------- */

static int64_t flops_of(const an_trainer *t, const char *part, bool host)
{
	const an_plan_entry *e;
	int64_t sum = 0;
	int n = an_trainer_plan(t, &e);
	for (int i = 0; i < n; i++)
		if (strstr(e[i].name, part) && (e[i].host != AN_HOST_NONE) == host)
			sum += e[i].flops;
	return sum;
}

/* One layer of dim 768, hidden 2048, 12 heads of 64, 512 tokens: 2*M*N*K of every product. */
static void plan_counts_every_contraction(void **state)
{
	(void)state;
	an_llama_config c;
	an_trainer *t;
	setup s;
	setup_open(&s, 1, NULL, NULL);
	check_ok(s.ctx, an_llama_preset(s.ctx, "layer768", &c));
	c.vocab = 1000;
	an_model_free(s.model);
	check_ok(s.ctx, an_llama_new(s.ctx, &c, &s.model));
	check_ok(s.ctx, an_trainer_plan_only(s.device, s.model, &(an_train_options){0}, &t));
	const int64_t S = 512, D = 768, H = 2048;
	/* forward, and once more each for the gradients of inputs and weights; attention's two products have
	 * two gradients each */
	int64_t weights = 2 * S * (4 * D * D + 3 * D * H), attention = 2 * 12 * (2 * S * S * 64);
	int64_t head = 2 * S * D * 1000;
	assert_int_equal(flops_of(t, "layers.0 forward", false), weights + attention);
	assert_int_equal(flops_of(t, "layers.0 backward", false), weights + 2 * attention);
	assert_int_equal(flops_of(t, "layers.0", true), weights);
	assert_int_equal(3 * (weights + attention), INT64_C(24159191040)); /* 24.16 GFLOP */
	assert_int_equal(flops_of(t, "head", false), 2 * head);
	assert_int_equal(flops_of(t, "head", true), head);
	check_refused(s.ctx, an_trainer_step(t), AN_USAGE, "plan", NULL);
	/* weights, gradients and two moments in fp32, fp16 weights, logits */
	int64_t params = an_model_param_count(s.model);
	assert_true(an_trainer_memory(t) > 18 * params + 2 * S * 1000);
	an_trainer_free(t);
	setup_close(&s);
}

/* What is measured is what was listed: all entries run as often as they should. */
static void every_entry_runs(void **state)
{
	(void)state;
	setup s;
	an_train_options o = options;
	o.accumulate = 3;
	o.steps = 2;
	setup_open(&s, 0, NULL, NULL);
	setup_trainer(&s, &o, NULL);
	check_ok(s.ctx, an_trainer_run(s.trainer));
	const an_plan_entry *e;
	int n = an_trainer_plan(s.trainer, &e);
	for (int i = 0; i < n; i++) {
		assert_int_equal(e[i].runs, e[i].per_update ? 2 : 6);
		assert_true(e[i].seconds >= 0 && e[i].bytes > 0);
	}
	setup_close(&s);
}

static void too_large_is_refused_beforehand(void **state)
{
	(void)state;
	if (memory_available() == INT64_MAX)
		skip();
	an_llama_config c = {
	    .dim = 8192, .layers = 40, .heads = 64, .hidden = 28672, .vocab = 50000, .seq = 8, .tied = true};
	setup s;
	an_trainer *t;
	setup_open(&s, 1, NULL, &c); /* 35 G parameters */
	check_refused(s.ctx,
		      an_trainer_new(s.device, s.model, &s.data, &(an_train_options){.steps = 1}, NULL, &t),
		      AN_MEMORY, "GB", "available", NULL);
	assert_null(t);
	setup_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(schedule_has_these_values),
	    cmocka_unit_test(options_are_resolved_and_checked),
	    cmocka_unit_test(data_is_checked),
	    cmocka_unit_test(it_learns),
	    cmocka_unit_test(accumulation_is_a_larger_batch),
	    cmocka_unit_test(untied_gradients_are_separate),
	    cmocka_unit_test(no_epsilon_is_no_division_by_zero),
	    cmocka_unit_test(overflow_is_skipped_and_reported),
	    cmocka_unit_test(scale_grows_again),
	    cmocka_unit_test(divergence_ends_the_training),
	    cmocka_unit_test(evaluation_reports_and_ends),
	    cmocka_unit_test(uniform_model_costs_log_vocab),
	    cmocka_unit_test(evaluation_agrees_with_decoding),
	    cmocka_unit_test(plan_counts_every_contraction),
	    cmocka_unit_test(every_entry_runs),
	    cmocka_unit_test(too_large_is_refused_beforehand),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
