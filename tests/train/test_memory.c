/* Memory that runs out at any allocation: a message, and nothing is lost or leaked. */
#include "support/text_temp.h"
#include "support/train_support.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdlib.h>
#include <cmocka.h>

enum { N = 40, VOCAB = 11 };
static const an_llama_config config = {
    .dim = 8, .layers = 1, .heads = 2, .kv_heads = 1, .hidden = 8, .vocab = VOCAB, .seq = 6, .tied = true};

static an_status open(an_ctx *ctx, an_device **d, an_model **m, an_tokens **tokens)
{
	int32_t ids[N];
	learnable_tokens(ids, N, VOCAB, 1);
	*d = NULL;
	*m = NULL;
	*tokens = NULL;
	an_status s = an_device_open(ctx, NULL, d);
	if (s == AN_OK)
		s = an_llama_new(ctx, &config, m);
	return s == AN_OK ? an_tokens_copy(ctx, ids, N, VOCAB, tokens) : s;
}

static void close(an_device *d, an_model *m, an_tokens *tokens)
{
	an_tokens_close(tokens);
	an_model_free(m);
	an_device_close(d);
}

static an_status train(an_ctx *ctx)
{
	an_device *d;
	an_model *m;
	an_tokens *tokens;
	an_trainer *t = NULL;
	an_status s = open(ctx, &d, &m, &tokens);
	an_data data = {tokens, tokens, 50};
	an_train_options o = {.steps = 1, .dir = temp_path("out"), .resume = true, .save_every = 1};
	if (s == AN_OK)
		s = an_trainer_new(d, m, &data, &o, NULL, &t);
	if (s == AN_OK)
		s = an_trainer_run(t);
	an_trainer_free(t);
	close(d, m, tokens);
	return s;
}

static an_status generate(an_ctx *ctx)
{
	static float block[4096];
	an_device *d;
	an_model *m;
	an_tokens *tokens;
	an_generator *g = NULL;
	double loss;
	int64_t count;
	an_status s = open(ctx, &d, &m, &tokens);
	if (s == AN_OK) {
		assert_true(an_model_param_block(m) <= 4096);
		an_model_init(m, 1, block);
		s = an_generator_new(d, m, block, 6, &g);
	}
	if (s == AN_OK)
		s = an_generator_feed(g, (int32_t[]){1, 2, 3, 4}, 4);
	if (s == AN_OK)
		s = an_generator_slide(g, 2);
	an_generator_free(g);
	if (s == AN_OK)
		s = an_evaluate(d, m, block, tokens, &(an_evaluate_options){.tokens = 6}, &loss, &count);
	close(d, m, tokens);
	return s;
}

/* survive_without_memory() for functions that allocate hundreds of times, which compile programs: the first
 * fifty allocations one by one, later ones at growing distances. */
static void survive(an_status (*fn)(an_ctx *ctx))
{
	for (long k = 1;; k += 1 + k / 50) {
		counting c = {0};
		an_ctx *ctx = counting_ctx(&c);
		c.fail_at = c.calls + k;
		an_status s = fn(ctx);
		bool enough = c.calls < c.fail_at;
		if (enough ? s != AN_OK : s != AN_OK && (s != AN_MEMORY || !*an_message(ctx)))
			fail_msg("allocation %ld failing: %s: \"%s\"", k, an_status_name(s), an_message(ctx));
		an_ctx_close(ctx);
		if (c.live)
			fail_msg("allocation %ld failing: %ld blocks were not freed", k, c.live);
		if (enough)
			return;
	}
}

static void training_survives(void **state)
{
	(void)state;
	survive(train);
	assert_int_equal(temp_leftovers("out"), 0);
}

static void generation_survives(void **state)
{
	(void)state;
	survive(generate);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(training_survives),
	    cmocka_unit_test(generation_survives),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
