/* The list of measurements, and rows. */
#include "bench/bench.h"

#include <math.h>
#include <stdio.h>

static const struct measurement {
	const char *name, *summary;
	an_status (*run)(bench *b);
} measurements[] = {
    {"limits", "what the machine could do: peaks of its units, bandwidth of its memory", bench_limits_run},
    {"gemm", "matrix products in the shapes and orientations of training", bench_gemm_run},
    {"layer", "a training step of one layer, by entry of the plan", bench_layer_run},
    {"train", "updates of models from 15 M to 600 M parameters, at 128 to 2048 tokens", bench_train_run},
    {"decode", "tokens one by one, with a cache of keys and values", bench_decode_run},
};

const char *an_bench_name(int i, const char **summary)
{
	if (i < 0 || i >= LENGTH(measurements))
		return NULL;
	if (summary)
		*summary = measurements[i].summary;
	return measurements[i].name;
}

void bench_row(const bench *b, const char *table, const an_bench_cell *cell, int n)
{
	if (b->o.row)
		b->o.row(b->o.user, table, cell, n);
}

void bench_progress(const bench *b, const char *fmt, ...)
{
	if (!b->o.progress)
		return;
	char text[160];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	b->o.progress(b->o.user, text);
}

static void machine_row(const bench *b)
{
	bench_machine m;
	machine_get(&m);
	ROW(b, "machine", CELL_TEXT("cpu", "CPU", 56, m.cpu),
	    CELL_NUMBER("threads", "threads", 8, 0, b->threads),
	    CELL_NUMBER("l2_mbytes", "L2 MB", 7, 1, (double)m.l2 / (1 << 20)),
	    CELL_NUMBER("l3_mbytes", "L3 MB", 7, 1, (double)m.l3 / (1 << 20)),
	    CELL_NUMBER("memory_gbytes", "memory GB", 10, 1, (double)m.memory / (1 << 30)),
	    CELL_TEXT("isa", "instruction sets", 0, an_ctx_isa(b->ctx)));
}

static an_status unknown(an_ctx *ctx, const char *name)
{
	char list[128] = "";
	for (int i = 0; i < LENGTH(measurements); i++)
		snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "",
			 measurements[i].name);
	return fail(ctx, AN_USAGE, "there is no measurement \"%s\"; there are %s", name, list);
}

an_status an_bench(an_ctx *ctx, const char *name, const an_bench_options *opt)
{
	const struct measurement *m = NULL;
	for (int i = 0; i < LENGTH(measurements) && !m; i++)
		if (strcmp(measurements[i].name, name) == 0)
			m = &measurements[i];
	if (!m)
		return unknown(ctx, name);
	bench b = {.ctx = ctx, .o = *opt, .pool = ctx_pool(ctx)};
	b.o.runs = b.o.runs ? b.o.runs : 7;
	b.o.seconds = b.o.seconds > 0 ? b.o.seconds : 60;
	if (b.o.runs < BENCH_LEAST_RUNS || b.o.runs > BENCH_MOST_RUNS)
		return fail(ctx, AN_USAGE, "runs is %d; it must be %d to %d", b.o.runs, BENCH_LEAST_RUNS,
			    BENCH_MOST_RUNS);
	b.threads = pool_threads(b.pool);
	machine_row(&b);
	return m->run(&b);
}
