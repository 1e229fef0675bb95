/* Statistics, what counts as noise, and the rows that measurements report.  Times themselves are never
 * tested. */
#include "bench/bench.h"

#include <math.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#undef fail
#include <cmocka.h>

static void quantiles(void **state)
{
	(void)state;
	const double one[] = {7}, two[] = {1, 3}, five[] = {1, 2, 4, 8, 16}, four[] = {1, 2, 4, 8};
	for (double q = 0; q <= 1; q += 0.25)
		assert_true(stats_quantile(one, 1, q) == 7);
	assert_true(stats_quantile(two, 2, 0.5) == 2 && stats_quantile(two, 2, 0.25) == 1.5);
	assert_true(stats_quantile(five, 5, 0.5) == 4 && stats_quantile(five, 5, 0.25) == 2 &&
		    stats_quantile(five, 5, 0.75) == 8 && stats_quantile(five, 5, 0) == 1 &&
		    stats_quantile(five, 5, 1) == 16);
	assert_true(stats_quantile(four, 4, 0.5) == 3);
	double mixed[] = {5, 1, 4, 2, 3};
	bench_times t = stats_times(mixed, 5, true);
	assert_true(t.median == 3 && t.low == 2 && t.high == 4 && t.runs == 5 && t.noisy);
	assert_true(mixed[0] == 1 && mixed[4] == 5);
}

static void geometric_means(void **state)
{
	(void)state;
	const double x[] = {1, 8, 64};
	assert_true(fabs(stats_geomean(x, 3) - 8) < 1e-12);
	assert_true(stats_geomean(x, 1) == 1 && isnan(stats_geomean(x, 0)));
}

static void noise(void **state)
{
	(void)state;
	const bench_clock start = {.wall = 100, .cpu = 10, .waited = 1, .stolen = 5};
	bench_clock end = {.wall = 101, .cpu = 12, .waited = 1.01, .stolen = 5};
	assert_false(measure_noisy(&start, &end, 2));
	end.waited = 1.07; /* of two seconds of two processors */
	assert_true(measure_noisy(&start, &end, 2));
	assert_false(measure_noisy(&start, &end, 4));
	end.waited = 1;
	end.stolen = 5.1;
	assert_true(measure_noisy(&start, &end, 2));
	end.stolen = 5;
	/* asleep is not disturbed, where the system tells */
	end.cpu = 10.5;
	assert_false(measure_noisy(&start, &end, 2));
	bench_clock from = start, to = end;
	from.waited = to.waited = -1;
	assert_true(measure_noisy(&from, &to, 2));
	to.cpu = 11.95;
	assert_false(measure_noisy(&from, &to, 2));
}

static void spin(void *arg, int64_t item, int worker)
{
	(void)arg, (void)item, (void)worker;
	for (double until = seconds_now() + 1e-3; seconds_now() < until;)
		;
}

static an_ctx *open_ctx(void)
{
	an_ctx *ctx;
	assert_int_equal(an_ctx_open(&(an_ctx_options){.threads = 2}, &ctx), AN_OK);
	return ctx;
}

#ifdef __linux__
/* Two threads on one processor: a wait counts that lasts when the clock is read. */
static void waits_count(void **state)
{
	(void)state;
	cpu_set_t all, one;
	int cpu = sched_getcpu();
	assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
	an_ctx *ctx = open_ctx();
	pool *p = ctx_pool(ctx);
	for (int i = 0; i < 20; i++) {
		bench_clock from = measure_clock(p);
		pool_run(p, spin, NULL, 2);
		bench_clock to = measure_clock(p);
		assert_true(measure_noisy(&from, &to, 2));
	}
	an_ctx_close(ctx);
	assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
}
#endif

/* The formulas against the contractions of the plan. */
static void work_is_that_of_the_plan(void **state)
{
	(void)state;
	an_ctx *ctx = open_ctx();
	an_device *d;
	an_model *m;
	an_trainer *t;
	an_llama_config c = {
	    .dim = 48, .layers = 3, .heads = 6, .kv_heads = 2, .hidden = 80, .vocab = 97, .seq = 24};
	for (int tied = 0; tied < 2; tied++) {
		c.tied = tied;
		assert_int_equal(an_device_open(ctx, NULL, &d), AN_OK);
		assert_int_equal(an_llama_new(ctx, &c, &m), AN_OK);
		assert_int_equal(an_trainer_plan_only(d, m, &(an_train_options){0}, &t), AN_OK);
		const an_plan_entry *e;
		double sum = 0;
		for (int i = 0; i < an_trainer_plan(t, &e); i++)
			sum += (double)e[i].flops;
		assert_true(sum == 3 * (model_matrix_flop(m, 24) + model_attention_flop(m, 24)));
		an_trainer_free(t);
		an_model_free(m);
		an_device_close(d);
	}
	/* 12 products of 512 x 768 x 768, 9 of 512 x 768 x 2048, 6 of attention with 512 x 512 scores */
	const double S = 512, D = 768, H = 2048;
	assert_int_equal(an_llama_preset(ctx, "layer768", &c), AN_OK);
	assert_int_equal(an_llama_new(ctx, &c, &m), AN_OK);
	assert_true(layer_flop(m) == 2 * S * (12 * D * D + 9 * D * H) + 6 * 2 * S * S * D);
	an_model_free(m);
	an_ctx_close(ctx);
}

/* ---- Rows --------------------------------------------------------------------------------- */

typedef struct seen {
	char table[16][32]; /* in the order of appearance */
	int rows[16], n;
	int forward, weight_gradients, adamw;
} seen;

static void row(void *user, const char *table, const an_bench_cell *cell, int n)
{
	seen *s = user;
	if (!s->n || strcmp(s->table[s->n - 1], table) != 0) {
		for (int i = 0; i < s->n; i++) /* rows of a table follow each other */
			assert_string_not_equal(s->table[i], table);
		assert_true(s->n < 16);
		strncpy(s->table[s->n++], table, sizeof s->table[0] - 1);
	}
	s->rows[s->n - 1]++;
	for (int i = 0; i < n; i++) {
		assert_true(cell[i].name && (cell[i].kind != AN_BENCH_TEXT || cell[i].text));
		if (cell[i].kind == AN_BENCH_NUMBER && strcmp(cell[i].name, "ms") == 0)
			assert_true(cell[i].number > 0);
	}
	if (strcmp(table, "entries with AdamW") == 0) {
		s->forward += strcmp(cell[0].text, "layers.0 forward") == 0;
		s->weight_gradients += strncmp(cell[0].text, "dW layers.0.", 12) == 0;
		s->adamw += strstr(cell[0].text, "AdamW layers.0") != NULL;
	}
}

static int rows_of(const seen *s, const char *table)
{
	for (int i = 0; i < s->n; i++)
		if (strcmp(s->table[i], table) == 0)
			return s->rows[i];
	return 0;
}

static void the_layer(void **state)
{
	(void)state;
	an_ctx *ctx = open_ctx();
	seen s = {0};
	an_bench_options o = {.runs = 5, .model = "nano", .row = row, .user = &s};
	assert_int_equal(an_bench(ctx, "layer", &o), AN_OK);
	assert_int_equal(rows_of(&s, "machine"), 1);
	assert_true(rows_of(&s, "peaks") >= 1);
	assert_int_equal(rows_of(&s, "bandwidth"), STREAM_PATTERNS);
	assert_int_equal(rows_of(&s, "step"), 2);
	assert_true(s.forward == 1 && s.weight_gradients == 7 && s.adamw == 1);
	an_ctx_close(ctx);
}

static void refusals(void **state)
{
	(void)state;
	an_ctx *ctx = open_ctx();
	an_bench_options o = {.runs = 5};
	assert_int_equal(an_bench(ctx, "limit", &o), AN_USAGE);
	for (int i = 0; an_bench_name(i, NULL); i++)
		assert_non_null(strstr(an_message(ctx), an_bench_name(i, NULL)));
	o.runs = 4;
	assert_int_equal(an_bench(ctx, "limits", &o), AN_USAGE);
	o = (an_bench_options){.model = "gpt"};
	assert_int_equal(an_bench(ctx, "decode", &o), AN_USAGE);
	assert_non_null(strstr(an_message(ctx), "gpt"));
	an_ctx_close(ctx);
}

/* Every unit that this machine has runs, on every set that it may be restricted to. */
static void peaks(void **state)
{
	(void)state;
	an_ctx *ctx = open_ctx();
	bench b = {.ctx = ctx, .o.runs = 5, .pool = ctx_pool(ctx), .threads = 2};
	const peak_unit *u;
	int n = 0;
	for (int i = 0; (u = peak_at(i)); i++) {
		if ((ctx->isa & u->isa) != u->isa)
			continue;
		bench_times t;
		double rate;
		assert_int_equal(peak_measure(&b, u, &t, &rate), AN_OK);
		assert_true(rate > 0 && isfinite(rate) && t.low <= t.median && t.median <= t.high);
		n++;
	}
	assert_true(n >= 1);
	an_ctx_close(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#ifdef __linux__
	    cmocka_unit_test(waits_count),
#endif
	    cmocka_unit_test(quantiles),   cmocka_unit_test(geometric_means),
	    cmocka_unit_test(noise),       cmocka_unit_test(work_is_that_of_the_plan),
	    cmocka_unit_test(the_layer),   cmocka_unit_test(refusals),
	    cmocka_unit_test(peaks),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
