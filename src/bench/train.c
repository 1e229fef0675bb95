/* Updates of whole models, by size and by length of the sequences. */
#include "bench/bench.h"

#include "train/train.h"

#include <math.h>

/* Bytes that an update moves per parameter, at least: AdamW reads and writes weight and two moments (24) and
 * reads the gradient (4), which was written once (4); the device's fp16 copy is written once and read by
 * forward and backward (6). */
#define BYTES_PER_PARAMETER 38.0

/* In the order of what should be known if time runs out; the largest last, because the system is busy for a
 * while with the memory that it gives back. */
static const struct size {
	const char *name, *preset;
	int tokens;
	an_llama_config c; /* without a preset */
} sizes[] = {
    {"stories15m", "stories15m", 256, {0}},
    {"stories110m", "stories110m", 256, {0}},
    {"stories15m", "stories15m", 128, {0}},
    {"stories15m", "stories15m", 512, {0}},
    {"stories15m", "stories15m", 1024, {0}},
    {"stories42m", "stories42m", 256, {0}},
    {"stories15m", "stories15m", 2048, {0}},
    {"stories42m", "stories42m", 1024, {0}},
    {"stories110m", "stories110m", 1024, {0}},
    /* the shape of Qwen3-0.6B [config.json], without its norms of queries and keys */
    {"qwen3-0.6b",
     NULL,
     256,
     {.dim = 1024,
      .layers = 28,
      .heads = 16,
      .kv_heads = 8,
      .head_dim = 128,
      .hidden = 3072,
      .vocab = 151936,
      .tied = true}},
};

typedef struct training {
	bench *b;
	const struct size *size;
	double gemm, dram; /* GFLOP/s, GB/s */
	bench_model m;
	an_trainer *trainer;
	double adamw_bytes; /* of its entries in an update */
} training;

static void report_missing(const training *t, const char *why)
{
	ROW(t->b, "train", CELL_TEXT("model", "model", 12, t->size->name),
	    CELL_NUMBER("tokens", "tokens", 7, 0, t->size->tokens), CELL_TEXT("not_run", "not run", 0, why));
}

static an_status open_model(training *t)
{
	an_ctx *ctx = t->b->ctx;
	an_llama_config c = t->size->c;
	if (t->size->preset)
		TRY(an_llama_preset(ctx, t->size->preset, &c));
	c.seq = t->size->tokens;
	return model_open(t->b, &c, &t->m);
}

/* A trainer with new weights, and its first update. */
static an_status begin(training *t, double *seconds)
{
	an_train_options o = {.steps = 1 << 20, .lr = 1e-4, .warmup = -1};
	an_data data = {.train = t->m.tokens};
	double began = seconds_now();
	an_trainer_free(t->trainer);
	t->trainer = NULL;
	TRY(an_trainer_new(t->m.device, t->m.model, &data, &o, NULL, &t->trainer));
	TRY(an_trainer_step(t->trainer));
	*seconds = seconds_now() - began;
	return AN_OK;
}

/* Seconds of AdamW's entries in the last update. */
static double adamw(training *t, double *before)
{
	const an_plan_entry *e;
	int n = an_trainer_plan(t->trainer, &e);
	double sum = 0;
	t->adamw_bytes = 0;
	for (int i = 0; i < n; i++)
		if (e[i].host == AN_HOST_ADAMW) {
			sum += e[i].seconds;
			t->adamw_bytes += (double)e[i].bytes;
		}
	double last = sum - *before;
	*before = sum;
	return last;
}

static an_status time_updates(training *t, bench_times *update, bench_times *optimizer)
{
	double seconds[BENCH_MOST_RUNS], parts[BENCH_MOST_RUNS], before = 0;
	adamw(t, &before);
	bench_clock from = measure_clock(t->b->pool);
	for (int i = 0; i < t->b->o.runs; i++) {
		double began = seconds_now();
		TRY(an_trainer_step(t->trainer));
		seconds[i] = seconds_now() - began;
		parts[i] = adamw(t, &before);
	}
	bench_clock to = measure_clock(t->b->pool);
	bool noisy = measure_noisy(&from, &to, t->b->threads);
	*update = stats_times(seconds, t->b->o.runs, noisy);
	*optimizer = stats_times(parts, t->b->o.runs, noisy);
	return AN_OK;
}

static an_status run_size(training *t)
{
	bench_times update, optimizer;
	double first, again, tokens = t->size->tokens;
	bench_progress(t->b, "%s, %d tokens", t->size->name, t->size->tokens);
	machine_forget_peak();
	TRY(open_model(t));
	TRY(begin(t, &first));
	TRY(time_updates(t, &update, &optimizer));
	int64_t peak = machine_peak_memory();
	TRY(begin(t, &again)); /* in the memory that the first gives back */
	double parameters = (double)an_model_param_count(t->m.model);
	double matrices = 3 * model_matrix_flop(t->m.model, tokens),
	       attention = 3 * model_attention_flop(t->m.model, tokens);
	/* what a causal mask hides need not be computed */
	double needed = matrices + attention * (tokens + 1) / (2 * tokens);
	double floor = 1e-9 * needed / t->gemm + 1e-9 * BYTES_PER_PARAMETER * parameters / t->dram;
	double optimizer_floor = 1e-9 * t->adamw_bytes / t->dram;
	ROW(t->b, "train", CELL_TEXT("model", "model", 12, t->size->name),
	    CELL_NUMBER("tokens", "tokens", 7, 0, tokens),
	    CELL_NUMBER("mparameters", "M param", 8, 1, 1e-6 * parameters), CELL_TIMES(update),
	    CELL_NUMBER("tokens_per_second", "tokens/s", 9, 1, tokens / update.median),
	    CELL_NUMBER("gflops", "GFLOP/s", 9, 1, 1e-9 * (matrices + attention) / update.median),
	    CELL_NUMBER("floor_ms", "floor ms", 9, 1, 1e3 * floor),
	    CELL_NUMBER("over_floor", "x floor", 8, 2, update.median / floor),
	    CELL_NUMBER("adamw_ms", "AdamW ms", 9, 2, 1e3 * optimizer.median),
	    CELL_NUMBER("adamw_over_floor", "x bytes", 8, 2, optimizer.median / optimizer_floor),
	    CELL_NUMBER("first_s", "first s", 8, 2, first - update.median),
	    CELL_NUMBER("again_s", "again s", 8, 2, again - update.median),
	    CELL_NUMBER("peak_gbytes", "peak GB", 8, 2, 1e-9 * (double)peak));
	return AN_OK;
}

static bool is_wanted(const bench *b, const struct size *s)
{
	return (!b->o.model || strcmp(b->o.model, s->name) == 0) &&
	       (!b->o.tokens || b->o.tokens == s->tokens);
}

an_status bench_train_run(bench *b)
{
	bench_limits l;
	training t = {.b = b};
	bool exact = b->o.numerics && strcmp(b->o.numerics, "fast") != 0;
	int wanted = 0;
	for (int i = 0; i < LENGTH(sizes); i++)
		wanted += is_wanted(b, &sizes[i]);
	if (!wanted)
		return fail(b->ctx, AN_USAGE,
			    "no size that is measured is of model \"%s\" with %d tokens (0: any)",
			    b->o.model ? b->o.model : "any", b->o.tokens);
	TRY(limits_measure(b, LIMITS_RATES, &l));
	bench_progress(b, "matrix products");
	TRY(gemm_rate(b, exact ? K_EXACT : K_FAST, &t.gemm));
	t.dram = l.dram;
	ROW(b, "rates", CELL_NUMBER("gflops", "GFLOP/s of products", 20, 1, t.gemm),
	    CELL_NUMBER("gbps", "GB/s of memory", 16, 1, t.dram));
	double began = seconds_now();
	int done = 0;
	for (t.size = sizes; t.size < sizes + LENGTH(sizes); t.size++) {
		if (!is_wanted(b, t.size))
			continue;
		if (done++ && seconds_now() - began > b->o.seconds) {
			report_missing(&t, "not run: out of time (--time)");
			continue;
		}
		an_status s = run_size(&t);
		if (s == AN_MEMORY)
			report_missing(&t, "not run: does not fit into memory");
		an_trainer_free(t.trainer);
		t.trainer = NULL;
		model_close(&t.m);
		if (s != AN_OK && s != AN_MEMORY)
			return s;
	}
	return AN_OK;
}
