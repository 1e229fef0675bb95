/* Training on the device "ane" against stand-ins of Apple's libraries, whose engine is "soft" in profile m4:
 * on both routes, however weights reach the programs and wherever these are cut, it is the training of "soft"
 * bit for bit.  It shows that every value reaches the program it is for, and nothing about silicon. */
#include "support/device_support.h"
#include "support/train_support.h"

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "standin/standin.h"

static standin_state *s;
static const char *const routes[] = {"ane:objc", "ane:e5rt"};

/* No limit on compiles: many trainings share this process. */
#define FREE "compile_budget=off,keeps_weights=off"

static const an_train_options base = {.batch = 2,
				      .tokens = 13,
				      .accumulate = 2,
				      .steps = 3,
				      .lr = 3e-3,
				      .warmup = 1,
				      .seed = 1,
				      .eval_every = -1,
				      .save_every = -1};

static an_device_options on(const char *route, const char *quirks)
{
	return (an_device_options){
	    .name = route, .quirks = quirks, .libraries = TEST_STANDIN_DIR, .count_beside = true};
}

static void assert_clean(void)
{
	assert_int_equal(s->objects, 0);
	assert_int_equal(s->surfaces, 0);
	assert_int_equal(s->locked, 0);
	assert_int_equal(s->loaded, 0);
	assert_int_equal(s->left_loaded, 0);
	assert_int_equal(count_entries(scratch_path("engine"), "-"),
			 1); /* anneal-ane, the register of folders */
}

static int reset(void **state)
{
	(void)state;
	s->calls = s->fail_at = 0;
	snprintf(s->quirks, sizeof s->quirks, "keeps_weights=off");
	snprintf(s->temporary, sizeof s->temporary, "%s", scratch_path("engine"));
	setenv("TMPDIR", s->temporary, 1);
	return 0;
}

static result on_soft(const an_llama_config *c, const char *numerics, const an_train_options *o)
{
	return result_of(c, &(an_device_options){.numerics = numerics}, o);
}

/* ---- The same bits --------------------------------------------------------------------------- */

static const char *const policy[] = {"dynamic", "packed", "bake", "reload"};

static void check_routes(const char *what, const result *want, const an_train_options *o, const char *quirks)
{
	for (int i = 0; i < LENGTH(routes); i++) {
		char text[200];
		an_device_options d = on(routes[i], quirks);
		result r = result_of(NULL, &d, o);
		snprintf(text, sizeof text, "%s, %s, %s", what, policy[o->weights], routes[i]);
		result_same(text, want, &r);
		assert_int_equal(r.device, want->device);
		assert_int_equal(r.host, want->host);
		result_free(&r);
		assert_clean();
	}
}

static void every_policy_and_granularity(void **state)
{
	(void)state;
	static const struct {
		const char *what, *split;
		int layers;
		bool dw;
	} cuts[] = {{"a layer", NULL, 1, false},
		    {"two layers", NULL, 2, false},
		    {"half a layer", "half", 1, false},
		    {"six programs", "six", 1, false},
		    {"weight gradients on the device", NULL, 1, true},
		    {"six programs, weight gradients on the device", "six", 1, true}};
	for (int i = 0; i < LENGTH(cuts);
	     i += SANITIZED ? 3 : 1) { /* where all is ten times slower, two of them */
		an_train_options o = base;
		o.split = cuts[i].split;
		o.layers_per_program = cuts[i].layers;
		o.dw_device = cuts[i].dw;
		o.steps = 2;
		result want = on_soft(NULL, "m4", &o);
		for (int w = AN_WEIGHTS_DYNAMIC; w <= AN_WEIGHTS_RELOAD; w++) {
			o.weights = (an_weights)w;
			check_routes(cuts[i].what, &want, &o, FREE);
		}
		result_free(&want);
	}
}

/* The default recipe for longer: the loss falls, and the loss scale goes where what was lost sends it. */
static void loss_curve(void **state)
{
	(void)state;
	an_train_options o = base;
	o.steps = 24;
	result want = on_soft(NULL, "m4", &o);
	assert_true(want.loss[23] < want.loss[0] - 0.4);
	assert_true(want.scale[23] >= 1024); /* it starts at 128 */
	check_routes("24 updates", &want, &o, FREE);
	result_free(&want);
}

/* Without counting on the side the scale stays, and from there on nothing differs either. */
static void without_counting(void **state)
{
	(void)state;
	an_train_options o = base;
	o.loss_scale = 0x1p15; /* less than 1/64 of the products is lost, so that counting changes nothing */
	result want = on_soft(NULL, "m4", &o);
	assert_true(want.scale[2] == o.loss_scale);
	for (int i = 0; i < LENGTH(routes); i++) {
		an_device_options d = on(routes[i], FREE);
		d.count_beside = false;
		result r = result_of(NULL, &d, &o);
		result_same(routes[i], &want, &r);
		result_free(&r);
		assert_clean();
	}
	result_free(&want);
}

/* A preset as it is, in few tokens. */
static void a_preset(void **state)
{
	(void)state;
	an_ctx *ctx;
	an_llama_config c;
	check_ok(NULL, an_ctx_open(NULL, &ctx));
	check_ok(ctx, an_llama_preset(ctx, "tiny", &c));
	an_ctx_close(ctx);
	c.vocab = 300;
	an_train_options o = base;
	o.tokens = 32;
	o.accumulate = 1;
	o.steps = SANITIZED ? 1 : 2;
	result want = on_soft(&c, "m4", &o);
	for (int i = 0; i < LENGTH(routes); i++) {
		an_device_options d = on(routes[i], FREE);
		result r = result_of(&c, &d, &o);
		result_same(routes[i], &want, &r);
		result_free(&r);
		assert_clean();
	}
	result_free(&want);
}

/* With every rule on sizes in force on both sides. */
static void rules_on_sizes(void **state)
{
	(void)state;
	static const char rules[] =
	    "keeps_weights=off,equal_size=on,min_surface=on,min_width=32,width_multiple=16,"
	    "aligned_size=128,packed=off";
	char quirks[300];
	snprintf(s->quirks, sizeof s->quirks, "%s", rules);
	snprintf(quirks, sizeof quirks, FREE ",%s", rules);
	an_train_options o = base;
	result want = on_soft(NULL, "m4", &o);
	for (int w = AN_WEIGHTS_DYNAMIC; w <= AN_WEIGHTS_RELOAD; w++) {
		o.weights = (an_weights)w;
		check_routes("rules on sizes", &want, &o, quirks);
	}
	result_free(&want);
}

/* ---- What the catalogue forbids -------------------------------------------------------------- */

static void check_forbidden(const char *route, const char *quirks, const an_train_options *o,
			    an_status status, const char *rule, const char *evidence, const char *also)
{
	setup t;
	an_device_options d = on(route, quirks);
	setup_open_on(&t, 1, &d, NULL);
	an_status got = an_trainer_new(t.device, t.model, &t.data, o, NULL, &t.trainer);
	for (int i = 0; got == AN_OK && i < o->steps; i++)
		got = an_trainer_step(t.trainer);
	check_refused(t.ctx, got, status, rule, evidence, also, NULL);
	setup_close(&t);
	assert_clean();
}

static void forbidden(void **state)
{
	(void)state;
	for (int i = 0; i < LENGTH(routes); i++) {
		an_train_options o = base;
		check_forbidden(routes[i], FREE ",no_concat=on", &o, AN_DEVICE, "no_concat",
				"Orion constraint 1", "layer");
		check_forbidden(routes[i], FREE ",contraction=on", &o, AN_DEVICE, "contraction", "ane-train",
				"matmul");
		o.weights = AN_WEIGHTS_RELOAD;
		check_forbidden(routes[i], FREE ",keeps_weights=on", &o, AN_UNSUPPORTED, "keeps_weights",
				"AutoANE", "--weights dynamic");
		/* an engine that keeps its weights and says nothing is found out before the first update */
		snprintf(s->quirks, sizeof s->quirks, "keeps_weights=on");
		long evaluations = s->evaluations;
		check_forbidden(routes[i], FREE, &o, AN_UNSUPPORTED, "keeps_weights", "Orion 2.0",
				"went on computing with the old ones");
		assert_int_equal(s->evaluations - evaluations, 2);
		snprintf(s->quirks, sizeof s->quirks, "keeps_weights=off");
		o.weights = AN_WEIGHTS_BAKE; /* more programs than a process may compile */
		check_forbidden(routes[i], "compile_budget=1", &o, AN_BUDGET, "compile_budget", "maderix",
				"new process");
	}
	/* on e5rt nobody has reported it, which is the default there */
	an_train_options o = base;
	o.weights = AN_WEIGHTS_RELOAD;
	check_forbidden("ane:e5rt", "", &o, AN_UNSUPPORTED, "keeps_weights", "Nobody has tried on e5rt",
			"e5rt");
}

/* ---- Gradients ------------------------------------------------------------------------------- */

/* The six programs of the published split on the engine, against the gradients of whole programs in ieee: a
 * product of the engine is right within 2^-17, and a value within an ulp of fp16, 2^-10, in the some 30
 * operations between the loss and a gradient. */
static void six_programs_against_ieee(void **state)
{
	(void)state;
	an_train_options o = base;
	o.steps = o.accumulate = 1;
	o.loss_scale = 0x1p16;
	result want = on_soft(NULL, "ieee", &o);
	o.split = "six";
	for (int i = 0; i < LENGTH(routes); i++) {
		an_device_options d = on(routes[i], FREE);
		result r = result_of(NULL, &d, &o);
		double difference = 0, norm = 0;
		for (int64_t k = 0; k < r.params; k++) {
			difference += pow((double)r.gradients[k] - want.gradients[k], 2);
			norm += pow(want.gradients[k], 2);
		}
		printf("%s: six programs in m4 differ from ieee by %.2g of the gradient's norm\n", routes[i],
		       sqrt(difference / norm));
		assert_true(difference > 0);
		assert_true(sqrt(difference / norm) < 30 * 0x1p-10);
		result_free(&r);
		assert_clean();
	}
	result_free(&want);
}

/* What the device counts beside the engine is what "soft" counts. */
static void counts(void **state)
{
	(void)state;
	an_train_options o = base;
	o.count_every = 1;
	o.weights = AN_WEIGHTS_RELOAD;
	setup want, have;
	setup_open(&want, 1, "m4", NULL);
	setup_trainer(&want, &o, NULL);
	an_device_options d = on("ane:objc", FREE);
	setup_open_on(&have, 1, &d, NULL);
	setup_trainer(&have, &o, NULL);
	for (int i = 0; i < o.steps; i++) {
		check_ok(want.ctx, an_trainer_step(want.trainer));
		check_ok(have.ctx, an_trainer_step(have.trainer));
	}
	const an_plan_entry *e;
	int64_t lost = 0;
	for (int i = 0; i < an_trainer_plan(want.trainer, &e); i++) {
		an_counts x, y;
		check_ok(want.ctx, an_trainer_counts(want.trainer, i, -1, &x));
		check_ok(have.ctx, an_trainer_counts(have.trainer, i, -1, &y));
		assert_memory_equal(&x, &y, sizeof x);
		lost += x.lost;
	}
	assert_true(lost > 0);
	setup_close(&want);
	setup_close(&have);
	assert_clean();
}

int main(void)
{
	void *runtime = dlopen(TEST_STANDIN_DIR "/libobjc.so", RTLD_NOW);
	standin_state *(*find)(void) = NULL;
	if (runtime)
		*(void **)(&find) = dlsym(runtime, "standin");
	if (!find)
		return 77;
	s = find();
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(every_policy_and_granularity, reset),
	    cmocka_unit_test_setup(loss_curve, reset),
	    cmocka_unit_test_setup(without_counting, reset),
	    cmocka_unit_test_setup(a_preset, reset),
	    cmocka_unit_test_setup(rules_on_sizes, reset),
	    cmocka_unit_test_setup(forbidden, reset),
	    cmocka_unit_test_setup(six_programs_against_ieee, reset),
	    cmocka_unit_test_setup(counts, reset),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
