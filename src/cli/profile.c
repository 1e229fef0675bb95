/* What a training's time went into: the plan with measured times, then the kernels of its programs. */
#include "cli/cli.h"

static double each(double seconds, int64_t runs) { return runs ? 1e3 * seconds / (double)runs : 0; }
/* 1e9 of something per second; 0 where nothing was measured. */
static double giga(int64_t n, double seconds, int64_t runs)
{
	return seconds > 0 ? 1e-9 * (double)n * (double)runs / seconds : 0;
}
static double percent(double part, double whole) { return whole > 0 ? 100 * part / whole : 0; }

static const char *const class_name[] = {[AN_HOST_NONE] = "device programs",
					 [AN_HOST_EMBED] = "embed",
					 [AN_HOST_EMBED_GRAD] = "d embed",
					 [AN_HOST_CROSS_ENTROPY] = "cross-entropy",
					 [AN_HOST_WEIGHT_GRAD] = "dW",
					 [AN_HOST_CAST] = "casts",
					 [AN_HOST_NORM] = "norm",
					 [AN_HOST_ADAMW] = "AdamW",
					 [AN_HOST_PROGRAM] = "host programs",
					 [AN_HOST_PACK] = "packing",
					 [AN_HOST_WEIGHTS] = "weights into programs"};
enum { CLASSES = sizeof class_name / sizeof *class_name };

typedef struct profile {
	an_ctx *ctx;
	an_trainer *t;
	const an_plan_entry *entry;
	int n;
	double seconds, explained; /* of all updates, and of the entries in them */
	int64_t updates;
} profile;

/* Whether an earlier entry runs the same executable. */
static bool seen(const profile *p, int i)
{
	for (int j = 0; j < i; j++)
		if (an_trainer_executable(p->t, j) == an_trainer_executable(p->t, i))
			return true;
	return false;
}

/* Seconds and runs of all entries that share the executable of entry i. */
static double together(const profile *p, int i, int64_t *runs, int *entries)
{
	double seconds = 0;
	*runs = 0;
	*entries = 0;
	for (int j = 0; j < p->n; j++)
		if (an_trainer_executable(p->t, j) == an_trainer_executable(p->t, i)) {
			seconds += p->entry[j].seconds;
			*runs += p->entry[j].runs;
			++*entries;
		}
	return seconds;
}

/* ---- For people --------------------------------------------------------------------- */

static void line(const char *name, int width, double seconds, int64_t runs, int64_t flops, int64_t bytes,
		 double whole)
{
	printf("%-*s %8lld %10.3f %6.1f%% ", width, name, (long long)runs, each(seconds, runs),
	       percent(seconds, whole));
	if (flops)
		printf("%9.1f ", giga(flops, seconds, runs));
	else
		printf("%9s ", "-");
	if (bytes)
		printf("%8.1f\n", giga(bytes, seconds, runs));
	else
		printf("%8s\n", "-");
}

static void heading(const char *what, int width)
{
	printf("%-*s %8s %10s %7s %9s %8s\n", width, what, "runs", "ms each", "share", "GFLOP/s", "GB/s");
}

static void print_classes(const profile *p)
{
	printf("\n");
	heading("by kind", 32);
	for (int c = 0; c < CLASSES; c++) {
		double seconds = 0, flops = 0, bytes = 0;
		int64_t runs = 0;
		for (const an_plan_entry *e = p->entry; e < p->entry + p->n; e++) {
			if ((int)e->host != c)
				continue;
			seconds += e->seconds;
			runs += e->runs;
			flops += (double)e->flops * (double)e->runs;
			bytes += (double)e->bytes * (double)e->runs;
		}
		if (runs)
			line(class_name[c], 32, seconds, runs, (int64_t)(flops / (double)runs),
			     (int64_t)(bytes / (double)runs), p->seconds);
	}
}

static void print_kernels(const profile *p, int i)
{
	an_executable *exe = an_trainer_executable(p->t, i);
	int64_t runs;
	int entries;
	double seconds = together(p, i, &runs, &entries), explained = 0;
	int n = an_executable_kernels(exe);
	if (n == 0)
		return;
	printf("\nKernels of \"%s\"", p->entry[i].name);
	if (entries > 1)
		printf(", which %d entries run", entries);
	printf("; shares are of the program's %.3f ms\n", each(seconds, runs));
	heading("kernel", 72);
	for (int k = 0; k < n; k++) {
		an_kernel kernel;
		cli_check(p->ctx, an_executable_kernel(exe, k, &kernel));
		line(kernel.text, 72, kernel.seconds, kernel.runs, kernel.flops, kernel.bytes, seconds);
		explained += kernel.seconds;
	}
	line("(between kernels)", 72, seconds - explained, runs, 0, 0, seconds);
}

static void print(const profile *p)
{
	printf("\nProfile of %lld updates, %.3f ms each\n\n", (long long)p->updates,
	       each(p->seconds, p->updates));
	heading("entry", 32);
	for (const an_plan_entry *e = p->entry; e < p->entry + p->n; e++)
		line(e->name, 32, e->seconds, e->runs, e->flops, e->bytes, p->seconds);
	line("(between entries)", 32, p->seconds - p->explained, p->updates, 0, 0, p->seconds);
	line("one update", 32, p->seconds, p->updates, 0, 0, p->seconds);
	print_classes(p);
	for (int i = 0; i < p->n; i++)
		if (an_trainer_executable(p->t, i) && !seen(p, i))
			print_kernels(p, i);
	printf("\n");
}

/* ---- JSON --------------------------------------------------------------------------- */

static void json_times(double seconds, int64_t runs, int64_t flops, int64_t bytes)
{
	printf(", \"runs\": %lld, \"ms\": %.6g, \"flops\": %lld, \"bytes\": %lld}", (long long)runs,
	       each(seconds, runs), (long long)flops, (long long)bytes);
}

static void json_kernels(const profile *p, int i, const char *separator)
{
	an_executable *exe = an_trainer_executable(p->t, i);
	printf("%s{\"entries\": [", separator);
	for (int j = 0, first = 1; j < p->n; j++)
		if (an_trainer_executable(p->t, j) == exe) {
			printf("%s", first ? "" : ", ");
			cli_json_text(stdout, p->entry[j].name);
			first = 0;
		}
	printf("], \"kernels\": [");
	for (int k = 0; k < an_executable_kernels(exe); k++) {
		an_kernel kernel;
		cli_check(p->ctx, an_executable_kernel(exe, k, &kernel));
		printf("%s{\"kernel\": ", k ? ", " : "");
		cli_json_text(stdout, kernel.text);
		json_times(kernel.seconds, kernel.runs, kernel.flops, kernel.bytes);
	}
	printf("]}");
}

static void print_json(const profile *p)
{
	printf("{\"event\": \"profile\", \"updates\": %lld, \"ms\": %.6g, \"between_entries_ms\": %.6g, "
	       "\"entries\": [",
	       (long long)p->updates, each(p->seconds, p->updates),
	       each(p->seconds - p->explained, p->updates));
	for (int i = 0; i < p->n; i++) {
		const an_plan_entry *e = &p->entry[i];
		printf("%s{\"name\": ", i ? ", " : "");
		cli_json_text(stdout, e->name);
		printf(", \"where\": \"%s\"", e->host == AN_HOST_NONE ? "device" : "host");
		json_times(e->seconds, e->runs, e->flops, e->bytes);
	}
	printf("], \"programs\": [");
	const char *separator = "";
	for (int i = 0; i < p->n; i++)
		if (an_trainer_executable(p->t, i) && !seen(p, i)) {
			json_kernels(p, i, separator);
			separator = ", ";
		}
	printf("]}\n");
}

void cli_profile(an_ctx *ctx, an_trainer *t, bool json)
{
	profile p = {.ctx = ctx, .t = t};
	p.n = an_trainer_plan(t, &p.entry);
	p.seconds = an_trainer_seconds(t, &p.updates);
	for (int i = 0; i < p.n; i++)
		p.explained += p.entry[i].seconds;
	if (json)
		print_json(&p);
	else
		print(&p);
}
