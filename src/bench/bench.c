/* The list of measurements, and rows. */
#include "bench/bench.h"

#include <math.h>
#include <stdio.h>

enum { TIME = 1, MODEL = 2, TOKENS = 4, KERNELS = 8, NUMERICS = 16 };

static const struct measurement {
	const char *name, *summary;
	int takes; /* of the options that not all take */
	an_status (*run)(bench *b);
} measurements[] = {
    {"limits", "what the machine could do: peaks of its units, bandwidth of its memory", 0, bench_limits_run},
    {"gemm", "matrix products in the shapes and orientations of training", NUMERICS, bench_gemm_run},
    {"layer", "a training step of one layer, by entry of the plan", MODEL | TOKENS | KERNELS | NUMERICS,
     bench_layer_run},
    {"train", "updates of models from 15 M to 600 M parameters, at 128 to 2048 tokens",
     TIME | MODEL | TOKENS | NUMERICS, bench_train_run},
    {"decode", "tokens one by one, with a cache of keys and values", MODEL | NUMERICS, bench_decode_run},
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

typedef char name_list[128];

/* The measurements that take all of these options. */
static const char *names_of(int takes, name_list list)
{
	*list = 0;
	for (int i = 0; i < LENGTH(measurements); i++)
		if ((measurements[i].takes & takes) == takes)
			snprintf(list + strlen(list), sizeof(name_list) - strlen(list), "%s%s",
				 *list ? ", " : "", measurements[i].name);
	return list;
}

static an_status unknown(an_ctx *ctx, const char *name)
{
	name_list all;
	return fail(ctx, AN_USAGE, "there is no measurement \"%s\"; there are %s", name, names_of(0, all));
}

/* What would be ignored is refused. */
static an_status check_taken(an_ctx *ctx, const struct measurement *m, const an_bench_options *o)
{
	const struct option {
		const char *name;
		int bit;
		bool given;
	} options[] = {{"time", TIME, o->seconds > 0},
		       {"model", MODEL, o->model},
		       {"tokens", TOKENS, o->tokens},
		       {"kernels", KERNELS, o->kernels},
		       {"numerics", NUMERICS, o->numerics}};
	name_list takers;
	for (int i = 0; i < LENGTH(options); i++)
		if (options[i].given && !(m->takes & options[i].bit))
			return fail(ctx, AN_USAGE, "measurement \"%s\" does not take %s; these do: %s",
				    m->name, options[i].name, names_of(options[i].bit, takers));
	return AN_OK;
}

an_status an_bench(an_ctx *ctx, const char *name, const an_bench_options *opt)
{
	const struct measurement *m = NULL;
	for (int i = 0; i < LENGTH(measurements) && !m; i++)
		if (strcmp(measurements[i].name, name) == 0)
			m = &measurements[i];
	if (!m)
		return unknown(ctx, name);
	TRY(check_taken(ctx, m, opt));
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
