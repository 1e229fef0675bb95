/* The same training cut into programs in different ways: the same bits in the arithmetic that rounds every
 * operation, and the surfaces and FLOPs that were published for a layer of six programs. */
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

/* Five layers: three programs of two and one of one. */
static const an_llama_config five = {.dim = 24,
				     .layers = 5,
				     .heads = 3,
				     .kv_heads = 1,
				     .hidden = 40,
				     .vocab = SMALL_VOCAB,
				     .seq = 20,
				     .tied = true};

static const an_train_options base = {.batch = 2,
				      .tokens = 13,
				      .accumulate = 2,
				      .steps = 3,
				      .lr = 3e-3,
				      .warmup = 1,
				      .seed = 1,
				      .eval_every = -1,
				      .save_every = -1};

static result train(const an_llama_config *c, const char *numerics, const an_train_options *o)
{
	return result_of(c, &(an_device_options){.numerics = numerics}, o);
}

static void layers_in_one_program(void **state)
{
	(void)state;
	result whole = train(&five, "ieee", &base);
	assert_int_equal(whole.device, 2 * 6);
	const int expected[] = {0, 0, 2 * 4, 2 * 3, 2 * 3, 2 * 2, 2 * 2};
	for (int k = 2; k <= 6; k++) {
		an_train_options o = base;
		o.layers_per_program = k;
		result r = train(&five, "ieee", &o);
		result_same("layers in one program", &whole, &r);
		assert_int_equal(r.device, expected[k]);
		result_free(&r);
	}
	result_free(&whole);
}

static void splits_change_no_bit(void **state)
{
	(void)state;
	result whole = train(NULL, "ieee", &base);
	an_train_options o = base;
	o.split = "half";
	result halves = train(NULL, "ieee", &o);
	result_same("half", &whole, &halves);
	assert_int_equal(halves.device, 2 * (2 * 2 + 1));
	assert_int_equal(halves.host, 0);
	o.split = "six";
	result six = train(NULL, "ieee", &o);
	result_same("six", &whole, &six);
	assert_int_equal(six.device, 2 * 6 + 2);
	assert_int_equal(six.host, 2 * 4);
	result_free(&whole);
	result_free(&halves);
	result_free(&six);
}

/* On an engine with arithmetic of its own the host rounds as IEEE says: nearly the same. */
static void host_beside_a_chip(void **state)
{
	(void)state;
	an_train_options o = base;
	o.tokens = 20;
	result whole = train(NULL, "m4", &o);
	o.split = "half";
	result halves = train(NULL, "m4", &o);
	result_same("half", &whole, &halves);
	o.split = "six";
	result six = train(NULL, "m4", &o);
	/* Ties away from zero instead of to even, in some 8 of the operations behind a gradient: at most an
	 * ulp of fp16 each, rarely. */
	double difference = 0, norm = 0;
	for (int64_t i = 0; i < whole.params; i++) {
		difference += pow((double)six.gradients[i] - whole.gradients[i], 2);
		norm += pow(whole.gradients[i], 2);
	}
	assert_true(difference > 0);
	assert_true(sqrt(difference / norm) < 8 * 0x1p-10);
	for (int i = 0; i < o.steps; i++)
		assert_true(fabs(six.loss[i] - whole.loss[i]) < 2e-3);
	result_free(&whole);
	result_free(&halves);
	result_free(&six);
}

/* The device rounds each sum over tokens once more, to fp16: half an ulp, 2^-11 of it, or of subnormals 2^-25
 * before the loss scale is taken out; 2^-20 for another order of the sum. */
static void weight_gradients_on_the_device(void **state)
{
	(void)state;
	static const char *const splits[] = {NULL, "half", "six"};
	an_train_options o = base;
	o.steps = o.accumulate = 1;
	o.loss_scale = 64;
	an_llama_config c = small_config;
	c.tied = false; /* or the classifier's gradient is part of a sum */
	result host = train(&c, "ieee", &o), first = {0};
	o.dw_device = true;
	for (int i = 0; i < LENGTH(splits); i++) {
		o.split = splits[i];
		result r = train(&c, "ieee", &o);
		for (int64_t j = 0; j < r.params; j++) {
			double want = host.gradients[j], error = fabs(r.gradients[j] - want);
			if (!(error <= fabs(want) * (0x1p-11 + 0x1p-20) + 0x1p-25 / 64 + 1e-12))
				fail_msg("gradient %lld is %g, not %g", (long long)j, r.gradients[j], want);
		}
		assert_int_equal(r.loss[0] == host.loss[0], 1);
		if (i == 0)
			first = r;
		else {
			result_same(splits[i], &first, &r);
			result_free(&r);
		}
	}
	result_free(&first);
	result_free(&host);
}

/* Whatever way weights reach the programs, whole or cut up: the same bits, evaluation included. */
static void weight_policies(void **state)
{
	(void)state;
	static const char *const numerics[] = {"ieee", "m1", "m4"}, *const splits[] = {NULL, "six"};
	for (int i = 0; i < LENGTH(numerics); i++)
		for (int j = 0; j < LENGTH(splits); j++) {
			an_train_options o = base;
			o.split = splits[j];
			o.loss_scale = 4096;
			result dynamic = train(NULL, numerics[i], &o);
			for (int w = AN_WEIGHTS_PACKED; w <= AN_WEIGHTS_RELOAD; w++) {
				o.weights = (an_weights)w;
				result r = train(NULL, numerics[i], &o);
				char what[64];
				snprintf(what, sizeof what, "%s, split %s, policy %d", numerics[i],
					 splits[j] ? splits[j] : "none", w);
				result_same(what, &dynamic, &r);
				assert_int_equal(r.device, dynamic.device);
				result_free(&r);
			}
			result_free(&dynamic);
		}
}

/* Weights that several micro-batches read are kept packed, in as much memory as the plan says, and change no
 * bit; fewer micro-batches take none.  In "fast", where the processor has panels of 16 bits. */
static void weights_kept_packed(void **state)
{
	(void)state;
	an_train_options o = base;
	int64_t plain = 0;
	for (o.accumulate = 2; o.accumulate <= 3; o.accumulate++) {
		setup s;
		an_device_info before, after;
		setup_open(&s, 2, "fast", NULL);
		s.data.valid = NULL;
		setup_trainer(&s, &o, NULL);
		an_device_get_info(s.device, &before);
		for (int i = 0; i < 2; i++)
			check_ok(s.ctx, an_trainer_step(s.trainer));
		an_device_get_info(s.device, &after);
		int64_t kept = s.trainer->packed_memory, matrices = 0;
		assert_int_equal(after.memory - before.memory, kept);
		if (o.accumulate == 2) {
			plain = an_trainer_memory(s.trainer);
			assert_int_equal(kept, 0);
		}
		assert_int_equal(an_trainer_memory(s.trainer), plain + kept);
		for (int i = 0; i < an_model_params(s.model); i++)
			if (an_model_param(s.model, i)->kind != AN_PARAM_NORM)
				matrices += an_model_param(s.model, i)->count;
		if (kept) /* once for each way they are read, rounded up to whole panels */
			assert_in_range(kept, 2 * 2 * matrices, 2 * 3 * matrices);
		an_trainer_free(s.trainer);
		s.trainer = NULL;
		an_device_get_info(s.device, &after);
		assert_int_equal(after.memory, before.memory);
		setup_close(&s);
	}
	o.accumulate = 3;
	result want, have = train(NULL, "fast", &o);
	o.weights = AN_WEIGHTS_BAKE;
	want = train(NULL, "fast", &o);
	result_same("kept packed", &want, &have);
	result_free(&want);
	result_free(&have);
}

/* Packs for each gradient of a matrix what it reads. */
static void share_nothing(an_trainer *t)
{
	mem_free_tensor(t->ctx, t->scratch, t->scratch_bytes);
	for (int i = 0; i < t->nentries; i++) {
		action *a = &t->actions[i];
		a->share[K_A] = a->share[K_B] = SHARE_NONE;
		if (a->row)
			t->scratch_bytes =
			    MAX(t->scratch_bytes, k_gemm_scratch(a->row, &a->gemm, an_ctx_threads(t->ctx)));
	}
	t->scratch = mem_alloc_tensor(t->ctx, t->scratch_bytes);
	assert_non_null(t->scratch);
}

/* Queries', keys' and values' matrices, and gate's and up's, of sizes of which every kernel takes several
 * blocks: one packed activation serves them. */
static void activations_packed_once(void **state)
{
	(void)state;
	static const an_llama_config c = {.dim = 544,
					  .layers = 2,
					  .heads = 4,
					  .kv_heads = 4,
					  .hidden = 560,
					  .vocab = SMALL_VOCAB,
					  .seq = 9,
					  .tied = true};
	static const char *const numerics[] = {"ieee", "fast"};
	an_train_options o = base;
	o.tokens = 9;
	for (int n = 0; n < LENGTH(numerics); n++) {
		setup s[2];
		for (int i = 0; i < 2; i++) {
			setup_open(&s[i], 2, numerics[n], &c);
			setup_trainer(&s[i], &o, NULL);
			if (i)
				share_nothing(s[i].trainer);
			for (int step = 0; step < o.steps; step++)
				check_ok(s[i].ctx, an_trainer_step(s[i].trainer));
		}
		const an_trainer *t = s[0].trainer;
		int count[3] = {0};
		for (int i = 0; i < t->nentries; i++)
			for (int which = K_A; which <= K_B && t->actions[i].row; which++)
				count[t->actions[i].share[which]]++;
		assert_int_equal(count[SHARE_FIRST], 2 * c.layers);
		assert_int_equal(count[SHARE_NEXT], 3 * c.layers);
		assert_memory_equal(t->weights, s[1].trainer->weights,
				    (size_t)an_model_param_block(s[0].model) * sizeof(float));
		assert_memory_equal(t->gradients, s[1].trainer->gradients,
				    (size_t)an_model_param_block(s[0].model) * sizeof(float));
		setup_close(&s[0]);
		setup_close(&s[1]);
	}
}

static void policies_say_what_they_cost(void **state)
{
	(void)state;
	setup s;
	setup_open(&s, 1, NULL, NULL);
	for (int w = AN_WEIGHTS_DYNAMIC; w <= AN_WEIGHTS_RELOAD; w++) {
		an_trainer *t;
		an_train_options o = base;
		o.weights = (an_weights)w;
		check_ok(s.ctx, an_trainer_plan_only(s.device, s.model, &o, &t));
		const an_plan_entry *e;
		int n = an_trainer_plan(t, &e), compiles = 0, reloads = 0, packs = 0, entries = 0;
		for (int i = 0; i < n; i++) {
			compiles += e[i].compiles;
			reloads += e[i].reloads;
			packs += e[i].host == AN_HOST_PACK;
			entries += e[i].host == AN_HOST_WEIGHTS && e[i].per_update && e[i].bytes > 0;
		}
		int programs = 2 * 3; /* two layers and the head, there and back; all have weights */
		assert_int_equal(compiles, w == AN_WEIGHTS_BAKE ? programs : 0);
		assert_int_equal(reloads, w == AN_WEIGHTS_RELOAD ? programs : 0);
		assert_int_equal(packs, w == AN_WEIGHTS_PACKED ? programs : 0);
		assert_int_equal(entries, w == AN_WEIGHTS_DYNAMIC ? 0 : programs);
		an_trainer_free(t);
	}
	setup_close(&s);
}

static void wrong_plans_are_refused(void **state)
{
	(void)state;
	setup s;
	an_trainer *t;
	an_train_options o = base;
	setup_open(&s, 1, NULL, NULL);
	o.split = "seven";
	check_refused(s.ctx, an_trainer_plan_only(s.device, s.model, &o, &t), AN_USAGE, "seven", "half, six",
		      NULL);
	o.split = "six";
	o.layers_per_program = 2;
	check_refused(s.ctx, an_trainer_plan_only(s.device, s.model, &o, &t), AN_USAGE, "six",
		      "2 layers per program", NULL);
	o.split = NULL;
	o.layers_per_program = -1;
	check_refused(s.ctx, an_trainer_plan_only(s.device, s.model, &o, &t), AN_USAGE, "layers-per-program",
		      NULL);
	setup_close(&s);
}

/* maderix/ANE f213c8d, training/train_large.m: one layer of dim 768, hidden 2048, 12 heads, 512 tokens;
 * channels of the one input and the one output surface of each kernel, FLOPs of its matrix products. */
static void six_programs_as_published(void **state)
{
	(void)state;
	static const struct {
		const char *kernel, *entry;
		double gflop;
		int in, out; /* channels of 512 fp16 values */
	} published[] = {
	    {"kFwdAttn", "layers.0 forward attention", 3.221, 768, 4608},
	    {"kFwdFFN", "layers.0 forward ffn", 4.832, 768, 7680},
	    {"kFFNBwd", "layers.0 backward ffn", 4.832, 4864, 4864},
	    {"kSdpaBwd1", "layers.0 backward attention 1", 1.812, 3072, 13056},
	    {"kSdpaBwd2", "layers.0 backward attention 2", 0.805, 13824, 1536},
	    {"kQKVb", "layers.0 backward qkv", 1.812, 2304, 768},
	};
	an_llama_config c;
	an_trainer *t;
	setup s;
	setup_open(&s, 1, NULL, NULL);
	check_ok(s.ctx, an_llama_preset(s.ctx, "layer768", &c));
	c.vocab = 1000;
	an_model_free(s.model);
	check_ok(s.ctx, an_llama_new(s.ctx, &c, &s.model));
	check_ok(s.ctx, an_trainer_plan_only(s.device, s.model, &(an_train_options){.split = "six"}, &t));
	const an_plan_entry *e;
	int n = an_trainer_plan(t, &e), found = 0;
	int64_t flops = 0, in = 0, out = 0, weights = 0, dw = 0;
	for (int i = 0; i < n; i++) {
		if (e[i].host == AN_HOST_WEIGHT_GRAD && strstr(e[i].name, "layers.0"))
			dw += e[i].flops;
		if (e[i].host != AN_HOST_NONE || !strstr(e[i].name, "layers.0"))
			continue;
		assert_true(found < LENGTH(published));
		assert_string_equal(e[i].name, published[found].entry); /* in this order */
		assert_true(fabs(1e-9 * (double)e[i].flops - published[found].gflop) < 5e-4);
		if (e[i].in != published[found].in * 512 * 2 || e[i].out != published[found].out * 512 * 2)
			fail_msg("%s: %lld in, %lld out", published[found].kernel, (long long)e[i].in / 1024,
				 (long long)e[i].out / 1024);
		assert_int_equal(e[i].bytes, e[i].in + e[i].weights + e[i].out);
		flops += e[i].flops;
		in += e[i].in;
		out += e[i].out;
		weights += e[i].weights;
		found++;
	}
	assert_int_equal(found, 6);
	assert_true(fabs(1e-9 * (double)flops - 17.314) < 5e-4);
	assert_int_equal(in, 25 << 20);
	assert_int_equal(out, (31 << 20) + (3 << 18));
	/* what the published kernels have as constants: every matrix for the forward and for the backward,
	 * and both norms' scales for the forward */
	assert_int_equal(weights, 2 * (2 * 7077888 + 2 * 768));
	assert_int_equal(dw, 7247757312); /* seven products on the host */
	an_trainer_free(t);
	setup_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(layers_in_one_program),   cmocka_unit_test(splits_change_no_bit),
	    cmocka_unit_test(host_beside_a_chip),      cmocka_unit_test(weight_gradients_on_the_device),
	    cmocka_unit_test(weight_policies),         cmocka_unit_test(weights_kept_packed),
	    cmocka_unit_test(activations_packed_once), cmocka_unit_test(policies_say_what_they_cost),
	    cmocka_unit_test(wrong_plans_are_refused), cmocka_unit_test(six_programs_as_published),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
