/* Training on the device "ane" against stand-ins of Apple's libraries, whose engine is "soft" in profile m4: on both
 * routes, however weights reach the programs and wherever these are cut, it is the training of "soft" bit for bit.  It
 * shows that every value reaches the program it is for, and nothing about silicon. */
#include "standin/standin.h"
#include "support/train_support.h"

#include <dlfcn.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define LENGTH(a) ((int)(sizeof(a) / sizeof *(a)))

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
	assert_int_equal(count_entries(scratch_path("engine"), "-"), 1); /* anneal-ane, the register of folders */
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
	for (int i = 0; i < LENGTH(cuts); i++) {
		an_train_options o = base;
		o.split = cuts[i].split;
		o.layers_per_program = cuts[i].layers;
		o.dw_device = cuts[i].dw;
		result want = on_soft(NULL, "m4", &o);
		for (int w = AN_WEIGHTS_DYNAMIC; w <= AN_WEIGHTS_RELOAD; w++) {
			o.weights = (an_weights)w;
			check_routes(cuts[i].what, &want, &o, FREE);
		}
		result_free(&want);
	}
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
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
