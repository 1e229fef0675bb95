/* What a training does about what the arithmetic loses: counters by program, gradients that are zero, the
 * loss scale. */
#include "support/train_support.h"
#include "train/train.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#undef fail
#include <cmocka.h>

static const an_train_options options = {
    .batch = 2, .steps = 40, .lr = 3e-3, .warmup = 5, .seed = 1, .eval_every = -1, .save_every = -1};

static size_t block_bytes(const setup *s) { return (size_t)an_model_param_block(s->model) * sizeof(float); }

static float *copy_weights(const setup *s)
{
	float *w = malloc(block_bytes(s));
	assert_non_null(w);
	memcpy(w, an_trainer_weights(s->trainer), block_bytes(s));
	return w;
}

/* ---- Gradients that are zero ----------------------------------------------------------------- */

/* A token's d_logits is at most loss_scale / 40, about 2^-13.  The head's products of it and of weights of
 * 0.02 (exponent -6) are below 2^-17: nothing arrives in the layers.  Nothing has been applied, whether the
 * counters were on or the update was computed again to ask them. */
static void lost_gradient_ends_the_training(void **state)
{
	(void)state;
	char *first = NULL;
	for (int counted = 0; counted < 2; counted++) {
		setup s;
		an_train_options o = options;
		o.loss_scale = 0x1p-8;
		o.count_every = counted;
		setup_open(&s, 0, "m4", NULL);
		setup_trainer(&s, &o, NULL);
		float *before = copy_weights(&s);
		check_refused(s.ctx, an_trainer_step(s.trainer), AN_NUMERIC, "update 1", "model.layers.0.",
			      "exactly zero", "products lost", "head backward", "none is left", "loss scale",
			      "allow-lost", NULL);
		assert_int_equal(an_trainer_at(s.trainer), 0);
		assert_memory_equal(before, an_trainer_weights(s.trainer), block_bytes(&s));
		if (first)
			assert_string_equal(first, an_message(s.ctx));
		else
			first = strdup(an_message(s.ctx));
		free(before);
		setup_close(&s);
	}
	free(first);
}

static int warnings;
static void count_warnings(void *user, an_log_level level, const char *text)
{
	(void)user;
	warnings += level == AN_LOG_WARNING && strstr(text, "exactly zero");
}

/* With allow_lost the training goes on and says so once. */
static void allowed_loss_is_a_warning(void **state)
{
	(void)state;
	an_train_options o = options;
	o.loss_scale = 0x1p-8;
	o.allow_lost = true;
	an_ctx *ctx;
	an_device *d;
	an_model *m;
	an_trainer *t;
	an_tokens *tokens;
	int32_t ids[400];
	assert_int_equal(an_ctx_open(&(an_ctx_options){.threads = 1, .log = count_warnings}, &ctx), AN_OK);
	check_ok(ctx, an_device_open(ctx, &(an_device_options){.numerics = "m4"}, &d));
	check_ok(ctx, an_llama_new(ctx, &small_config, &m));
	learnable_tokens(ids, 400, SMALL_VOCAB, 7);
	check_ok(ctx, an_tokens_copy(ctx, ids, 400, SMALL_VOCAB, &tokens));
	check_ok(ctx, an_trainer_new(d, m, &(an_data){.train = tokens}, &o, NULL, &t));
	warnings = 0;
	check_ok(ctx, an_trainer_step(t));
	assert_int_equal(warnings, 1);
	assert_int_equal(an_trainer_at(t), 1);
	const float *g = an_trainer_gradients(t);
	int zeros = 0;
	for (int i = 0; i < an_model_params(m); i++) {
		const an_param *p = an_model_param(m, i);
		bool zero = true;
		for (int64_t j = 0; j < p->count; j++)
			zero &= g[p->offset + j] == 0;
		zeros += zero;
	}
	assert_true(zeros > 0); /* it was true */
	check_ok(ctx, an_trainer_step(t));
	an_trainer_free(t);
	an_tokens_close(tokens);
	an_model_free(m);
	an_device_close(d);
	an_ctx_close(ctx);
}

/* In IEEE arithmetic no product is lost, and yet what is below 2^-25 is 0 in fp16. */
static void rounding_to_zero_is_a_loss_as_well(void **state)
{
	(void)state;
	setup s;
	an_train_options o = options;
	o.loss_scale = 0x1p-16;
	setup_open(&s, 0, "ieee", NULL);
	setup_trainer(&s, &o, NULL);
	check_refused(s.ctx, an_trainer_step(s.trainer), AN_NUMERIC, "exactly zero", "vanished", "backward",
		      NULL);
	setup_close(&s);
	o.loss_scale = 0x1p-30; /* nothing is left at the loss */
	setup_open(&s, 0, "ieee", NULL);
	setup_trainer(&s, &o, NULL);
	check_refused(s.ctx, an_trainer_step(s.trainer), AN_NUMERIC, "exactly zero", "cross-entropy", NULL);
	setup_close(&s);
}

/* Zeros that the network makes are no loss: with o_proj and down_proj at zero no gradient reaches the other
 * matrices of a layer, and with an embedding of zeros none reaches the layers. */
static void zero_by_structure_is_fine(void **state)
{
	(void)state;
	static const char *const zeroed[][2] = {{"o_proj", "down_proj"}, {"embed_tokens", "embed_tokens"}};
	static const char *const numerics[] = {"ieee", "fast", "m4"};
	for (int i = 0; i < LENGTH(zeroed); i++)
		for (int j = 0; j < LENGTH(numerics); j++) {
			setup s;
			setup_open(&s, 0, numerics[j], NULL);
			float *block = calloc((size_t)an_model_param_block(s.model), sizeof *block);
			assert_non_null(block);
			an_model_init(s.model, 1, block);
			for (int k = 0; k < an_model_params(s.model); k++) {
				const an_param *p = an_model_param(s.model, k);
				if (strstr(p->name, zeroed[i][0]) || strstr(p->name, zeroed[i][1]))
					memset(block + p->offset, 0, (size_t)p->count * sizeof *block);
			}
			setup_trainer(&s, &options, block);
			check_ok(s.ctx, an_trainer_step(s.trainer));
			const float *g = an_trainer_gradients(s.trainer);
			bool zero = false;
			for (int k = 0; k < an_model_params(s.model); k++) {
				const an_param *p = an_model_param(s.model, k);
				int64_t n = 0;
				while (n < p->count && g[p->offset + n] == 0)
					n++;
				zero |= n == p->count;
			}
			assert_true(zero);
			free(block);
			setup_close(&s);
		}
}

/* ---- Counters ---------------------------------------------------------------------------------- */

static void counters_are_by_program_and_change_nothing(void **state)
{
	(void)state;
	static const char *const numerics[] = {"ieee", "m4"};
	for (int i = 0; i < 2; i++) {
		setup s[2];
		for (int counted = 0; counted < 2; counted++) {
			an_train_options o = options;
			o.steps = 6;
			o.accumulate = 2;
			o.count_every = counted ? 4 : 0;
			setup_open(&s[counted], 1 + 2 * counted, numerics[i], NULL);
			setup_trainer(&s[counted], &o, NULL);
			check_ok(s[counted].ctx, an_trainer_run(s[counted].trainer));
		}
		assert_memory_equal(an_trainer_weights(s[0].trainer), an_trainer_weights(s[1].trainer),
				    block_bytes(&s[0]));
		an_trainer *t = s[1].trainer;
		assert_int_equal(an_trainer_counted(s[0].trainer), 0);
		assert_int_equal(an_trainer_counted(t), 2); /* updates 1 and 5 */
		const an_plan_entry *e;
		int n = an_trainer_plan(t, &e);
		int64_t lost = 0;
		for (int k = 0; k < n; k++) {
			an_counts c, all = {0};
			check_ok(t->ctx, an_trainer_counts(t, k, -1, &c));
			const an_function *f = an_trainer_program(t, k);
			assert_true(!f == (e[k].host != AN_HOST_NONE));
			for (int op = 0; f && op < an_function_ops(f); op++) {
				an_counts part;
				check_ok(t->ctx, an_trainer_counts(t, k, op, &part));
				all.products += part.products;
				all.results += part.results;
			}
			assert_true(all.products == c.products && all.results == c.results);
			/* two updates of two micro-batches; factors that are 0 are no products */
			assert_true(c.products <= 4 * e[k].flops / 2);
			assert_true(!f || (c.products > e[k].flops / 2 && c.largest > 0));
			assert_int_equal(c.overflowed, 0);
			lost += c.lost;
			check_ok(t->ctx, an_trainer_counts(s[0].trainer, k, -1, &c));
			assert_int_equal(c.results, 0);
		}
		assert_true(i ? lost > 0 : lost == 0);
		an_counts c;
		check_refused(t->ctx, an_trainer_counts(t, n, -1, &c), AN_USAGE, "no entry", NULL);
		check_refused(t->ctx, an_trainer_counts(t, 0, 0, &c), AN_USAGE, "no operation", NULL);
		an_trainer_reset_counts(t);
		check_ok(t->ctx, an_trainer_counts(t, 1, -1, &c));
		assert_true(c.results == 0 && an_trainer_counted(t) == 0);
		setup_close(&s[0]);
		setup_close(&s[1]);
	}
}

/* ---- The loss scale ------------------------------------------------------------------------------ */

/* In a chip's arithmetic a scale that is too small grows with the first updates, as far as there is room; in
 * IEEE arithmetic it stays for 500. */
static void scale_grows_where_products_are_lost(void **state)
{
	(void)state;
	for (int chip = 0; chip < 2; chip++) {
		setup s;
		an_train_options o = options;
		o.loss_scale = 4;
		o.count_every = 1;
		setup_open(&s, 0, chip ? "m4" : "ieee", NULL);
		setup_trainer(&s, &o, NULL);
		check_ok(s.ctx, an_trainer_step(s.trainer));
		double first = an_trainer_loss_scale(s.trainer);
		an_counts n = counts_of_backward(s.trainer);
		if (!chip) {
			assert_true(first == 4 && n.lost == 0 && s.trainer->lost == 0);
			setup_close(&s);
			continue;
		}
		assert_true(s.trainer->lost == (double)n.lost / (double)n.products);
		assert_true(s.trainer->lost > 0.5);
		/* the largest power of two that leaves a factor of 16 below 32768 */
		assert_true(first > 4 && n.largest * first / 4 * 16 <= 32768 &&
			    n.largest * first / 4 * 32 > 32768);
		check_ok(s.ctx, an_trainer_step(s.trainer));
		assert_true(s.trainer->lost < (double)n.lost / (double)n.products); /* so it helped */
		while (an_trainer_at(s.trainer) < 20) {
			check_ok(s.ctx, an_trainer_step(s.trainer));
			assert_null(an_trainer_skipped(s.trainer));
		}
		setup_close(&s);
	}
}

/* ---- Resuming ------------------------------------------------------------------------------------- */

typedef struct stop {
	int64_t at;
} stop;

static bool stop_at(void *user, const an_train_report *r)
{
	const stop *s = user;
	return r->kind != AN_REPORT_STEP || r->step != s->at;
}

static char *without_timing(const char *path)
{
	char *text = read_all(path, NULL), *to = text;
	assert_non_null(text);
	for (const char *at = text; *at;) {
		if (strncmp(at, ", \"timing\"", 10) == 0)
			at = strchr(at, '}') + 1;
		*to++ = *at++;
	}
	*to = 0;
	return text;
}

/* Counted updates, the growth of the scale and the metrics of both: the same after stopping in between. */
static void resuming_repeats_every_bit(void **state)
{
	(void)state;
	float *weights[2];
	char *lines[2];
	double scale[2];
	size_t bytes = 0;
	for (int stopped = 0; stopped < 2; stopped++) {
		an_train_options o = options;
		const char *dir = scratch_path(stopped ? "stopped" : "whole");
		char file[200];
		snprintf(file, sizeof file, "%s/metrics.jsonl", dir);
		stop user = {stopped ? 13 : -1};
		o.dir = dir;
		o.loss_scale = 4;
		o.count_every = 6;
		o.report = stop_at;
		o.user = &user;
		setup s;
		for (int part = 0; part <= stopped; part++) {
			o.resume = part > 0;
			setup_open(&s, 1 + part, "m4", NULL);
			setup_trainer(&s, &o, NULL);
			an_status status = an_trainer_run(s.trainer);
			if (part < stopped)
				assert_int_equal(status, AN_INTERRUPTED);
			else
				check_ok(s.ctx, status);
			if (part < stopped)
				setup_close(&s);
		}
		weights[stopped] = copy_weights(&s);
		scale[stopped] = an_trainer_loss_scale(s.trainer);
		bytes = block_bytes(&s);
		setup_close(&s);
		lines[stopped] = without_timing(file);
	}
	assert_non_null(strstr(lines[0], "\"counts\": {\"layers.0 forward\": {\"products\": "));
	assert_non_null(strstr(lines[0], "\"lost\": 0."));
	assert_string_equal(lines[0], lines[1]);
	assert_memory_equal(weights[0], weights[1], bytes);
	assert_true(scale[0] == scale[1] && scale[0] > 4);
	for (int i = 0; i < 2; i++) {
		free(weights[i]);
		free(lines[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(lost_gradient_ends_the_training),
	    cmocka_unit_test(allowed_loss_is_a_warning),
	    cmocka_unit_test(rounding_to_zero_is_a_loss_as_well),
	    cmocka_unit_test(zero_by_structure_is_fine),
	    cmocka_unit_test(counters_are_by_program_and_change_nothing),
	    cmocka_unit_test(scale_grows_where_products_are_lost),
	    cmocka_unit_test(resuming_repeats_every_bit),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
