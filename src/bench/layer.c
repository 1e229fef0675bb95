/* A training step of one layer: forward, gradient of the input and of the matrices, as published measurements
 * of the Neural Engine count it; then with the optimizer.  What is timed are the entries of the layer in the
 * plan of an ordinary training, run in their order. */
#include "bench/bench.h"

#include "train/train.h"

#include <math.h>

/* Small, so that the head, which is not timed, takes little. */
enum { VOCAB = 512 };
/* A rate so low that weights stay what they are, whatever is repeated. */
#define RATE 1e-12

typedef struct layer {
	bench *b;
	const char *preset;
	bench_limits limits;
	bench_model m;
	an_trainer *trainer;
	int n, *entry;      /* entries of the plan that belong to the layer, and the norm of gradients */
	double *seconds[2]; /* n rows of runs: without and with the update */
	double credit;      /* FLOP: six products of attention, nothing computed twice counted twice */
	double parameters;
} layer;

double layer_flop(const an_model *m)
{
	const an_llama_config *c = an_model_config(m);
	double matrices = 0;
	for (int i = 0; i < an_model_params(m); i++) {
		const an_param *p = an_model_param(m, i);
		if (p->kind == AN_PARAM_MATRIX && strstr(p->name, "layers.0."))
			matrices += (double)p->count;
	}
	return 3 * (2 * c->seq * matrices + model_attention_flop(m, c->seq) / c->layers);
}

static an_status set_up(layer *l)
{
	an_ctx *ctx = l->b->ctx;
	an_llama_config c;
	TRY(an_llama_preset(ctx, l->preset, &c));
	c.vocab = VOCAB;
	if (l->b->o.tokens)
		c.seq = l->b->o.tokens;
	TRY(model_open(l->b, &c, &l->m));
	/* What is timed without updates reads the same weights again and again, as many micro-batches do. */
	an_train_options o = {
	    .steps = 1 << 20, .lr = RATE, .warmup = -1, .accumulate = 4, .profile = l->b->o.kernels};
	an_data data = {.train = l->m.tokens};
	TRY(an_trainer_new(l->m.device, l->m.model, &data, &o, NULL, &l->trainer));
	l->credit = layer_flop(l->m.model);
	for (int i = 0; i < an_model_params(l->m.model); i++)
		if (strstr(an_model_param(l->m.model, i)->name, "layers.0."))
			l->parameters += (double)an_model_param(l->m.model, i)->count;
	return AN_OK;
}

/* With everything that happens once per update to the layer. */
static bool is_of_layer(const an_plan_entry *e)
{
	return strstr(e->name, "layers.0") || (e->per_update && e->host == AN_HOST_NORM);
}

static an_status choose(layer *l)
{
	const an_plan_entry *e;
	int n = an_trainer_plan(l->trainer, &e);
	l->entry = arena_array(&l->trainer->arena, (size_t)n, sizeof *l->entry);
	for (int i = 0; i < 2; i++)
		l->seconds[i] = arena_array(&l->trainer->arena, (size_t)n * BENCH_MOST_RUNS, sizeof(double));
	if (!l->entry || !l->seconds[0] || !l->seconds[1])
		return fail_memory(l->b->ctx, 0);
	for (int i = 0; i < n; i++)
		if (is_of_layer(&e[i]))
			l->entry[l->n++] = i;
	return AN_OK;
}

/* Runs the layer's entries once; *seconds of the whole, and of each in column `run`. */
static an_status run_once(layer *l, bool update, int run, double *seconds)
{
	an_trainer *t = l->trainer;
	double began = seconds_now(), nats, scale = t->gradient_scale / (double)t->tokens_per_update;
	memset(t->written, 0, (size_t)an_model_params(l->m.model) * sizeof *t->written);
	for (int i = 0; i < l->n; i++) {
		an_plan_entry *e = &t->entries[l->entry[i]];
		if (e->per_update && !update)
			continue;
		double before = e->seconds;
		TRY(train_run_entry(t, l->entry[i], scale, &nats));
		l->seconds[update][i * BENCH_MOST_RUNS + run] = e->seconds - before;
	}
	*seconds = seconds_now() - began;
	return AN_OK;
}

/* More than of a kernel: a step has more to be disturbed. */
static int runs_of(const layer *l) { return MIN(3 * l->b->o.runs, BENCH_MOST_RUNS); }

static an_status time_steps(layer *l, bool update, bench_times *out)
{
	double seconds[BENCH_MOST_RUNS], unused;
	int runs = runs_of(l);
	TRY(run_once(l, update, 0, &unused));
	bench_clock from = measure_clock(l->b->pool);
	for (int i = 0; i < runs; i++)
		TRY(run_once(l, update, i, &seconds[i]));
	bench_clock to = measure_clock(l->b->pool);
	*out = stats_times(seconds, runs, measure_noisy(&from, &to, l->b->threads));
	return AN_OK;
}

static double peak(const layer *l)
{
	return l->trainer->precision == K_FAST ? l->limits.fast : l->limits.ieee;
}

static void report_step(layer *l, const char *what, const bench_times *t, double floor)
{
	double rate = 1e-9 * l->credit / t->median;
	ROW(l->b, "step", CELL_TEXT("what", "step of a layer", 34, what),
	    CELL_TEXT("model", "preset", 11, l->preset),
	    CELL_NUMBER("tokens", "tokens", 7, 0, an_model_config(l->m.model)->seq), CELL_TIMES(*t),
	    CELL_NUMBER("gflop", NULL, 0, 3, 1e-9 * l->credit), CELL_NUMBER("gflops", "GFLOP/s", 9, 1, rate),
	    CELL_NUMBER("peak_percent", "% of peak", 10, 1, 100 * rate / peak(l)),
	    CELL_NUMBER("floor_ms", "floor ms", 9, 3, 1e3 * floor),
	    CELL_NUMBER("over_floor", "x floor", 8, 2, t->median / floor));
}

static void report_entries(layer *l, bool update, const char *table)
{
	const an_plan_entry *e = l->trainer->entries;
	for (int i = 0; i < l->n; i++) {
		const an_plan_entry *x = &e[l->entry[i]];
		if (x->per_update && !update)
			continue;
		bench_times t = stats_times(l->seconds[update] + i * BENCH_MOST_RUNS, runs_of(l), false);
		double flops = (double)x->flops;
		ROW(l->b, table, CELL_TEXT("entry", "entry", 34, x->name),
		    CELL_NUMBER("ms", "ms", 10, 3, 1e3 * t.median),
		    CELL_NUMBER("ms_spread", "spread", 8, 3, 1e3 * (t.high - t.low)),
		    CELL_NUMBER("gflops", "GFLOP/s", 9, 1, flops > 0 ? 1e-9 * flops / t.median : NAN),
		    CELL_NUMBER("peak_percent", "% of peak", 10, 1,
				flops > 0 ? 100e-9 * flops / t.median / peak(l) : NAN),
		    CELL_NUMBER("gbps", "GB/s", 8, 1, 1e-9 * (double)x->bytes / t.median));
	}
}

static an_status report_kernels(layer *l)
{
	const an_plan_entry *e = l->trainer->entries;
	for (int i = 0; i < l->n; i++) {
		an_executable *exe = an_trainer_executable(l->trainer, l->entry[i]);
		for (int k = 0; exe && k < an_executable_kernels(exe); k++) {
			an_kernel q;
			TRY(an_executable_kernel(exe, k, &q));
			double each = q.runs ? q.seconds / (double)q.runs : NAN;
			ROW(l->b, "kernels", CELL_TEXT("entry", "entry", 20, e[l->entry[i]].name),
			    CELL_TEXT("kernel", "kernel", 76, q.text),
			    CELL_NUMBER("ms", "mean ms", 9, 3, 1e3 * each),
			    CELL_NUMBER("gflops", "GFLOP/s", 9, 1,
					q.flops > 0 ? 1e-9 * (double)q.flops / each : NAN),
			    CELL_NUMBER("gbps", "GB/s", 8, 1, 1e-9 * (double)q.bytes / each));
		}
	}
	return AN_OK;
}

static an_status run(layer *l)
{
	bench_times without, with;
	TRY(limits_measure(l->b, LIMITS_RATES, &l->limits));
	bench_progress(l->b, "%s", l->preset);
	TRY(set_up(l));
	for (int i = 0; i < 2; i++)
		TRY(an_trainer_step(l->trainer));
	TRY(choose(l));
	an_trainer_reset_times(l->trainer);
	TRY(time_steps(l, false, &without));
	TRY(time_steps(l, true, &with));
	double compute = 1e-9 * l->credit / peak(l), update = 1e-9 * 28 * l->parameters / l->limits.dram;
	report_step(l, "forward, dx, dW", &without, compute);
	report_step(l, "with norm, AdamW, new weights", &with, compute + update);
	report_entries(l, false, "entries");
	report_entries(l, true, "entries with AdamW");
	return l->b->o.kernels ? report_kernels(l) : AN_OK;
}

an_status bench_layer_run(bench *b)
{
	layer l = {.b = b, .preset = b->o.model ? b->o.model : "layer768"};
	an_status s = run(&l);
	an_trainer_free(l.trainer);
	model_close(&l.m);
	return s;
}
