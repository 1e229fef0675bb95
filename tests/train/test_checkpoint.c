/* Checkpoints: what is killed and continued has the bits of what was left alone; damage is named. */
#include "anneal/io.h"
#include "base/file.h"
#include "support/train_support.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#undef fail
#include <cmocka.h>

static an_train_options options_in(const char *dir)
{
	return (an_train_options){.batch = 3,
				  .accumulate = 2,
				  .steps = 40,
				  .lr = 5e-3,
				  .seed = 9,
				  .dir = dir,
				  .eval_every = 10,
				  .save_every = 3};
}

/* Runs a whole training; its status is returned. */
static an_status train_with(const an_train_options *o, int threads)
{
	setup s;
	setup_open(&s, threads, "ieee", NULL);
	setup_trainer(&s, o, NULL);
	an_status status = an_trainer_run(s.trainer);
	if (status != AN_INTERRUPTED)
		check_ok(s.ctx, status);
	setup_close(&s);
	return status;
}

static bool stop_at(void *user, const an_train_report *r)
{
	return r->step < *(int64_t *)user || r->kind == AN_REPORT_EVALUATING;
}

/* metrics.jsonl without what the clock said. */
static char *metrics_of(const char *dir)
{
	char path[256];
	snprintf(path, sizeof path, "%s/metrics.jsonl", dir);
	char *text = read_all(path, NULL), *to = text;
	assert_non_null(text);
	for (char *from = text; *from;) {
		if (strncmp(from, ", \"timing\": {", 13) == 0)
			from = strchr(from, '}') + 1;
		*to++ = *from++;
	}
	*to = 0;
	return text;
}

static char *file_in(const char *dir, const char *name, size_t *n)
{
	char path[300];
	snprintf(path, sizeof path, "%s/%s", dir, name);
	return read_all(path, n);
}

static void check_equal_trainings(const char *a, const char *b)
{
	char *x = metrics_of(a), *y = metrics_of(b);
	assert_string_equal(x, y);
	free(x);
	free(y);
	const char *const names[] = {"last", "best", "step-40/optimizer.safetensors",
				     "step-40/model.safetensors", "step-40/trainer_state.json"};
	for (int i = 0; i < LENGTH(names); i++) {
		size_t n, m;
		x = file_in(a, names[i], &n);
		y = file_in(b, names[i], &m);
		assert_non_null(x);
		assert_non_null(y);
		assert_int_equal(n, m);
		assert_memory_equal(x, y, n);
		free(x);
		free(y);
	}
}

static const char *whole; /* a training that was left alone, with 2 threads */

static int train_whole(void **state)
{
	(void)state;
	static char path[200];
	snprintf(path, sizeof path, "%s", scratch_path("whole"));
	whole = path;
	an_train_options o = options_in(whole);
	train_with(&o, 2);
	return 0;
}

static void one_thread_gives_the_same(void **state)
{
	(void)state;
	const char *dir = scratch_path("one");
	an_train_options o = options_in(dir);
	train_with(&o, 1);
	check_equal_trainings(whole, dir);
}

/* Stopped by the caller, again and again, after 1, 2, 3, ... updates; with other numbers of threads. */
static void stopped_and_resumed_is_the_same(void **state)
{
	(void)state;
	const char *dir = scratch_path("stopped");
	int64_t at = 0;
	an_train_options o = options_in(dir);
	o.report = stop_at;
	o.user = &at;
	o.resume = true; /* nothing is there at first, which is fine */
	for (int n = 1; at < o.steps; n++) {
		at += n;
		assert_int_equal(train_with(&o, 1 + n % 3), at < o.steps ? AN_INTERRUPTED : AN_OK);
	}
	check_equal_trainings(whole, dir);
	/* and when all is done, nothing more happens */
	assert_int_equal(train_with(&o, 1), AN_OK);
	check_equal_trainings(whole, dir);
}

static bool stop_in_evaluation(void *user, const an_train_report *r)
{
	assert_in_range(1000 * r->share, 0, 999);
	return r->kind != AN_REPORT_EVALUATING || r->share == 0 || r->step < *(int64_t *)user;
}

/* An evaluation that was not let come to its end is made by whoever resumes, the last one too. */
static void stopped_in_evaluations_is_the_same(void **state)
{
	(void)state;
	const char *dir = scratch_path("evaluating");
	int64_t at;
	an_train_options o = options_in(dir);
	o.report = stop_in_evaluation;
	o.user = &at;
	o.resume = true;
	for (at = 0; at <= o.steps; at += 20)
		assert_int_equal(train_with(&o, 2), AN_INTERRUPTED);
	assert_int_equal(train_with(&o, 2), AN_OK);
	check_equal_trainings(whole, dir);
}

/* Whoever goes back to an earlier checkpoint keeps the best, although its step is still to come. */
static void going_back_keeps_the_best(void **state)
{
	(void)state;
	const char *dir = scratch_path("back");
	int64_t at = 30;
	an_train_options o = options_in(dir);
	o.report = stop_at;
	o.user = &at;
	assert_int_equal(train_with(&o, 2), AN_INTERRUPTED);
	char path[300];
	snprintf(path, sizeof path, "%s/last", dir);
	write_all(path, "step-27\n", 8);
	o.resume = true;
	at = 28;
	assert_int_equal(train_with(&o, 2), AN_INTERRUPTED);
	snprintf(path, sizeof path, "%s/best", dir);
	char *best = read_all(path, NULL);
	assert_non_null(best);
	assert_string_equal(best, "step-30\n");
	free(best);
	snprintf(path, sizeof path, "%s/step-30/model.safetensors", dir);
	assert_int_equal(access(path, F_OK), 0);
	o.report = NULL;
	assert_int_equal(train_with(&o, 2), AN_OK);
	check_equal_trainings(whole, dir);
	assert_int_equal(count_entries(dir, "step-"), 2);
}

static void sleep_ms(long ms) { nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL); }

/* SIGKILL at any moment: delays grow, so kills hit the start, updates, evaluations and checkpoints. */
static void killed_and_resumed_is_the_same(void **state)
{
	(void)state;
	const char *dir = scratch_path("killed");
	an_train_options o = options_in(dir);
	o.resume = true;
	o.save_every = 1; /* most of the time is spent in checkpoints */
	int kills = 0, status = -1;
	for (int round = 0; status != 0; round++) {
		assert_in_range(round, 0, 100);
		pid_t child = fork();
		assert_true(child >= 0);
		if (child == 0) {
			setup s;
			setup_open(&s, 2, "ieee", NULL);
			an_status r = an_trainer_new(s.device, s.model, &s.data, &o, NULL, &s.trainer);
			if (r == AN_OK)
				r = an_trainer_run(s.trainer);
			if (r != AN_OK)
				fprintf(stderr, "%s\n", an_message(s.ctx));
			_exit(r != AN_OK);
		}
		if (round < 12) {
			sleep_ms(5 + 7 * round % 60);
			kill(child, SIGKILL);
		}
		assert_int_equal(waitpid(child, &status, 0), child);
		if (WIFSIGNALED(status)) {
			assert_int_equal(WTERMSIG(status), SIGKILL);
			kills++;
		} else {
			assert_int_equal(WEXITSTATUS(status), 0);
		}
	}
	assert_true(kills >= 1);
	check_equal_trainings(whole, dir);
	assert_int_equal(count_entries(dir, ".tmp-"), 0);
	/* the last two, and the best if it is another */
	assert_in_range(count_entries(dir, "step-"), 2, 3);
}

/* ---- What is in a checkpoint ---------------------------------------------------------------- */

static void a_checkpoint_is_a_model_folder(void **state)
{
	(void)state;
	char folder[300], path[400];
	snprintf(folder, sizeof folder, "%s/step-40", whole);
	setup s;
	setup_open(&s, 1, "ieee", NULL);
	an_llama_config c;
	snprintf(path, sizeof path, "%s/config.json", folder);
	check_ok(s.ctx, an_hf_config_read(s.ctx, path, &c));
	assert_int_equal(c.kv_heads, small_config.kv_heads);
	float *block = calloc((size_t)an_model_param_block(s.model), sizeof *block);
	assert_non_null(block);
	check_ok(s.ctx, an_hf_weights_read(folder, s.model, block));
	an_train_options o = options_in(whole);
	o.resume = true;
	setup_trainer(&s, &o, NULL);
	assert_int_equal(an_trainer_at(s.trainer), 40);
	assert_memory_equal(block, an_trainer_weights(s.trainer),
			    (size_t)an_model_param_block(s.model) * sizeof *block);
	/* two trainings at once in one folder would destroy each other's */
	an_trainer *other;
	check_refused(s.ctx, an_trainer_new(s.device, s.model, &s.data, &o, NULL, &other), AN_IO,
		      "another training", NULL);
	free(block);
	setup_close(&s);
}

/* ---- Damage ------------------------------------------------------------------------------------ */

static const char *copy_of_whole(const char *name)
{
	static char to[200];
	char command[600];
	snprintf(to, sizeof to, "%s", scratch_path(name));
	snprintf(command, sizeof command, "cp -r '%s' '%s'", whole, to);
	assert_int_equal(system(command), 0);
	return to;
}

static void refused_with(const an_train_options *o, const char *numerics, an_status want, const char *word,
			 const char *second)
{
	setup s;
	setup_open(&s, 1, numerics, NULL);
	an_status r = an_trainer_new(s.device, s.model, &s.data, o, NULL, &s.trainer);
	check_refused(s.ctx, r, want, word, second, NULL);
	setup_close(&s);
}

static void damage_is_named(void **state)
{
	(void)state;
	const char *dir = copy_of_whole("damaged");
	an_train_options o = options_in(dir);
	o.resume = true;
	char path[300];
	static const char *const files[] = {"step-40/optimizer.safetensors", "step-40/trainer_state.json",
					    "last"};
	for (int i = 0; i < LENGTH(files); i++) {
		size_t n;
		char *good = file_in(dir, files[i], &n);
		snprintf(path, sizeof path, "%s/%s", dir, files[i]);
		/* cut short anywhere, nothing, absent */
		const size_t cuts[] = {0, 1, n / 3, n / 2, n - 2};
		for (int k = 0; k < LENGTH(cuts); k++) {
			if (i == 2 && cuts[k] > 6) /* "step-4" is a name, too */
				continue;
			write_all(path, good, cuts[k]);
			refused_with(&o, NULL, i == 2 && cuts[k] > 5 ? AN_IO : AN_FORMAT, files[i], NULL);
		}
		if (i < 2) {
			unlink(path);
			refused_with(&o, NULL, AN_IO, files[i], NULL);
		}
		write_all(path, good, n);
		free(good);
	}
	/* one bit of one weight, of one moment */
	size_t n;
	char *good = file_in(dir, files[0], &n);
	snprintf(path, sizeof path, "%s/%s", dir, files[0]);
	const size_t bits[] = {n - 1, n / 2, n - n / 3};
	for (int k = 0; k < LENGTH(bits); k++) {
		good[bits[k]] ^= 1;
		write_all(path, good, n);
		refused_with(&o, NULL, AN_FORMAT, files[0], "damaged");
		good[bits[k]] ^= 1;
	}
	write_all(path, good, n);
	free(good);
	/* a last that leads elsewhere */
	snprintf(path, sizeof path, "%s/last", dir);
	static const char *const names[] = {"../step-40\n", "step-x\n", "step-\n",
					    "step-99999999999999999999\n", "/tmp\n"};
	for (int k = 0; k < LENGTH(names); k++) {
		write_all(path, names[k], strlen(names[k]));
		refused_with(&o, NULL, AN_FORMAT, "last", NULL);
	}
	write_all(path, "step-38", 7);
	refused_with(&o, NULL, AN_IO, "last", "step-38");
	/* a folder under another's name */
	char from[300], to[300];
	snprintf(from, sizeof from, "%s/step-40", dir);
	snprintf(to, sizeof to, "%s/step-38", dir);
	assert_int_equal(rename(from, to), 0);
	refused_with(&o, NULL, AN_FORMAT, "trainer_state.json", "step 40");
	assert_int_equal(rename(to, from), 0);
	write_all(path, "step-39", 7); /* the one before */
	assert_int_equal(train_with(&o, 1), AN_OK);
}

static void another_training_is_refused(void **state)
{
	(void)state;
	an_train_options o = options_in(whole);
	refused_with(&o, NULL, AN_USAGE, "already holds", NULL);
	o.resume = true;
	o.lr = 1e-3;
	refused_with(&o, NULL, AN_USAGE, "lr", "0.005");
	o = options_in(whole);
	o.resume = true;
	o.steps = 41;
	refused_with(&o, NULL, AN_USAGE, "steps", "41");
	o.steps = 40;
	o.seed++;
	refused_with(&o, NULL, AN_USAGE, "seed", NULL);
	o.seed--;
	setup s;
	an_tokens *tokens;
	int32_t ids[1500];
	an_llama_config c = small_config;
	setup_open(&s, 1, NULL, NULL);
	learnable_tokens(ids, 1500, SMALL_VOCAB, 7);
	ids[1499] ^= 1;
	check_ok(s.ctx, an_tokens_copy(s.ctx, ids, 1500, SMALL_VOCAB, &tokens));
	an_data data = {.train = tokens};
	check_refused(s.ctx, an_trainer_new(s.device, s.model, &data, &o, NULL, &s.trainer), AN_USAGE,
		      "training tokens", NULL);
	an_tokens_close(tokens);
	setup_close(&s);
	c.hidden++;
	setup_open(&s, 1, NULL, &c);
	check_refused(s.ctx, an_trainer_new(s.device, s.model, &s.data, &o, NULL, &s.trainer), AN_USAGE,
		      "hidden", NULL);
	setup_close(&s);
}

/* ---- Folders that cannot be written --------------------------------------------------------------- */

static void unwritable_is_found_at_once(void **state)
{
	(void)state;
	const char *file = scratch_path("file"), *below = scratch_path("file/below");
	write_all(file, "x", 1);
	an_train_options o = options_in(below);
	refused_with(&o, NULL, AN_IO, "file", NULL);
	if (geteuid() == 0)
		return; /* root may write everywhere */
	const char *closed = scratch_path("closed");
	assert_int_equal(mkdir(closed, 0500), 0);
	o = options_in(closed);
	refused_with(&o, NULL, AN_IO, "closed", NULL);
	chmod(closed, 0700);
}

/* A disk that is full when a checkpoint is written: files may not grow beyond 30 KB, so that config.json
 * can be written and model.safetensors cannot. */
static void a_full_disk_loses_nothing(void **state)
{
	(void)state;
	const char *dir = scratch_path("full");
	int64_t at = 3;
	an_train_options o = options_in(dir);
	o.report = stop_at;
	o.user = &at;
	o.eval_every = -1;
	assert_int_equal(train_with(&o, 1), AN_INTERRUPTED);
	assert_int_equal(count_entries(dir, "step-3"), 1);

	struct rlimit before, small;
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	small = before;
	small.rlim_cur = 30000;
	signal(SIGXFSZ, SIG_IGN);
	at = 100;
	o.resume = true;
	setup s;
	setup_open(&s, 1, "ieee", NULL);
	setup_trainer(&s, &o, NULL);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
	an_status r = an_trainer_run(s.trainer);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	signal(SIGXFSZ, SIG_DFL);
	check_refused(s.ctx, r, AN_IO, "model.safetensors", "File too large", NULL);
	setup_close(&s);
	assert_int_equal(count_entries(dir, ".tmp-"), 0);
	char *last = file_in(dir, "last", NULL);
	assert_string_equal(last, "step-3\n");
	free(last);
	/* room again: it goes on from there */
	assert_int_equal(train_with(&o, 1), AN_OK);
	size_t n, m;
	char *a = file_in(dir, "step-40/optimizer.safetensors", &n);
	char *b = file_in(whole, "step-40/optimizer.safetensors", &m);
	assert_int_equal(n, m);
	assert_memory_equal(a, b, n);
	free(a);
	free(b);
}

/* Metrics with a line that was written in part, and lines after the checkpoint. */
static void metrics_are_cut_back(void **state)
{
	(void)state;
	const char *dir = scratch_path("metrics");
	int64_t at = 6;
	an_train_options o = options_in(dir);
	o.report = stop_at;
	o.user = &at;
	assert_int_equal(train_with(&o, 1), AN_INTERRUPTED);
	char path[300];
	snprintf(path, sizeof path, "%s/metrics.jsonl", dir);
	FILE *f = fopen(path, "a");
	assert_non_null(f);
	fprintf(f, "{\"event\": \"step\", \"step\": 7, \"loss\": 0}\n{\"event\": \"st");
	fclose(f);
	at = 100;
	o.resume = true;
	assert_int_equal(train_with(&o, 2), AN_OK);
	check_equal_trainings(whole, dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(one_thread_gives_the_same),
	    cmocka_unit_test(stopped_and_resumed_is_the_same),
	    cmocka_unit_test(stopped_in_evaluations_is_the_same),
	    cmocka_unit_test(going_back_keeps_the_best),
	    cmocka_unit_test(killed_and_resumed_is_the_same),
	    cmocka_unit_test(a_checkpoint_is_a_model_folder),
	    cmocka_unit_test(damage_is_named),
	    cmocka_unit_test(another_training_is_refused),
	    cmocka_unit_test(unwritable_is_found_at_once),
	    cmocka_unit_test(a_full_disk_loses_nothing),
	    cmocka_unit_test(metrics_are_cut_back),
	};
	return cmocka_run_group_tests(tests, train_whole, NULL);
}
