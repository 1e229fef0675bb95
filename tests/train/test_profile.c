/* What a profile must add up to: kernels within their programs, entries within updates.  Times themselves are
 * never tested. */
#include "support/train_support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <string.h>

static const an_train_options options = {.batch = 2,
					 .accumulate = 2,
					 .steps = 3,
					 .lr = 1e-3,
					 .seed = 1,
					 .eval_every = -1,
					 .save_every = -1,
					 .profile = true};

/* Kernels of the executable of entry i, against the entries that run it. */
static void check_kernels(setup *s, int i, const an_plan_entry *e, int n)
{
	an_executable *exe = an_trainer_executable(s->trainer, i);
	int64_t runs = 0, flops = 0;
	double seconds = 0, sum = 0;
	for (int j = 0; j < n; j++)
		if (an_trainer_executable(s->trainer, j) == exe) {
			runs += e[j].runs;
			seconds += e[j].seconds;
		}
	assert_true(an_executable_kernels(exe) > 0);
	for (int k = 0; k < an_executable_kernels(exe); k++) {
		an_kernel q;
		check_ok(s->ctx, an_executable_kernel(exe, k, &q));
		assert_int_equal(q.runs, runs);
		assert_true(q.seconds > 0 && q.bytes > 0);
		assert_non_null(strstr(q.text, " | "));
		sum += q.seconds;
		flops += q.flops;
	}
	assert_true(sum <= seconds);
	assert_int_equal(flops, e[i].flops);
	an_kernel none;
	check_refused(s->ctx, an_executable_kernel(exe, an_executable_kernels(exe), &none), AN_USAGE,
		      "no kernel", NULL);
	check_refused(s->ctx, an_executable_kernel(exe, -1, &none), AN_USAGE, "no kernel", NULL);
}

static void parts_add_up(void **state)
{
	(void)state;
	setup s;
	setup_open(&s, 2, "fast", NULL);
	setup_trainer(&s, &options, NULL);
	for (int i = 0; i < 3; i++)
		check_ok(s.ctx, an_trainer_step(s.trainer));
	int64_t updates;
	double whole = an_trainer_seconds(s.trainer, &updates), sum = 0;
	assert_int_equal(updates, 2); /* the first is left out */
	const an_plan_entry *e;
	int n = an_trainer_plan(s.trainer, &e), programs = 0;
	for (int i = 0; i < n; i++) {
		assert_int_equal(e[i].runs, e[i].per_update ? 2 : 4);
		assert_true(e[i].seconds > 0);
		sum += e[i].seconds;
		assert_true((an_trainer_executable(s.trainer, i) != NULL) == (e[i].host == AN_HOST_NONE));
		if (e[i].host == AN_HOST_NONE) {
			check_kernels(&s, i, e, n);
			programs++;
		}
	}
	assert_int_equal(programs, 6); /* forward and backward of two layers and the head */
	assert_true(sum <= whole);
	an_trainer_reset_times(s.trainer);
	assert_true(an_trainer_seconds(s.trainer, &updates) == 0 && updates == 0);
	for (int i = 0; i < n; i++)
		assert_true(e[i].runs == 0 && e[i].seconds == 0);
	setup_close(&s);
}

static void the_only_update_counts(void **state)
{
	(void)state;
	setup s;
	an_train_options o = options;
	o.steps = 1;
	setup_open(&s, 1, "ieee", NULL);
	setup_trainer(&s, &o, NULL);
	check_ok(s.ctx, an_trainer_run(s.trainer));
	int64_t updates;
	assert_true(an_trainer_seconds(s.trainer, &updates) > 0 && updates == 1);
	setup_close(&s);
}

/* Without a profile nothing times kernels; results are the same bits. */
static void profiling_changes_nothing(void **state)
{
	(void)state;
	setup s[2];
	for (int i = 0; i < 2; i++) {
		an_train_options o = options;
		o.profile = i;
		setup_open(&s[i], 2, "fast", NULL);
		setup_trainer(&s[i], &o, NULL);
		check_ok(s[i].ctx, an_trainer_run(s[i].trainer));
	}
	assert_memory_equal(an_trainer_weights(s[0].trainer), an_trainer_weights(s[1].trainer),
			    (size_t)an_model_param_block(s[0].model) * sizeof(float));
	const an_plan_entry *e;
	for (int i = 0; i < an_trainer_plan(s[0].trainer, &e); i++) {
		an_executable *exe = an_trainer_executable(s[0].trainer, i);
		for (int k = 0; exe && k < an_executable_kernels(exe); k++) {
			an_kernel q;
			check_ok(s[0].ctx, an_executable_kernel(exe, k, &q));
			assert_true(q.runs == 0 && q.seconds == 0);
		}
	}
	setup_close(&s[0]);
	setup_close(&s[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(parts_add_up),
	    cmocka_unit_test(the_only_update_counts),
	    cmocka_unit_test(profiling_changes_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
