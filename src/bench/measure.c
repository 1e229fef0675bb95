/* Running something often enough, and telling whether other work disturbed it. */
#include "bench/bench.h"

#include <dirent.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define NOISE    0.03 /* of the processors' time */
#define SHORTEST 2e-3 /* seconds of a run */

static double cpu_seconds(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Linux: /proc/self/task/TID/schedstat has nanoseconds on a processor and nanoseconds waiting for one. */
static double waited(void)
{
	DIR *tasks = opendir("/proc/self/task");
	double sum = -1;
	if (!tasks)
		return sum;
	for (struct dirent *e; (e = readdir(tasks));) {
		char path[320];
		unsigned long long ran, waiting;
		if (e->d_name[0] == '.')
			continue;
		snprintf(path, sizeof path, "/proc/self/task/%s/schedstat", e->d_name);
		FILE *f = fopen(path, "r");
		if (!f)
			continue;
		if (fscanf(f, "%llu %llu", &ran, &waiting) == 2)
			sum = MAX(sum, 0) + 1e-9 * (double)waiting;
		fclose(f);
	}
	closedir(tasks);
	return sum;
}

/* The eighth number of /proc/stat: what the hypervisor gave to others. */
static double stolen(void)
{
	unsigned long long t[8];
	FILE *f = fopen("/proc/stat", "r");
	if (!f)
		return 0;
	int n = fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &t[0], &t[1], &t[2], &t[3], &t[4],
		       &t[5], &t[6], &t[7]);
	fclose(f);
	return n == 8 ? (double)t[7] / (double)sysconf(_SC_CLK_TCK) : 0;
}

typedef struct meeting {
	atomic_int missing;
} meeting;

/* Takes a thread until the last one has come. */
static void meet(void *arg, int64_t item, int worker)
{
	meeting *m = arg;
	(void)item, (void)worker;
	atomic_fetch_sub(&m->missing, 1);
	while (atomic_load(&m->missing) > 0)
		sched_yield();
}

bench_clock measure_clock(pool *p)
{
	meeting m = {pool_threads(p)};
	pool_run(p, meet, &m, pool_threads(p));
	return (bench_clock){
	    .waited = waited(), .stolen = stolen(), .cpu = cpu_seconds(), .wall = seconds_now()};
}

bool measure_noisy(const bench_clock *from, const bench_clock *to, int busy)
{
	double wall = to->wall - from->wall, lost = to->stolen - from->stolen;
	/* ticks of 10 ms: one of them says nothing about a short time */
	if (lost < 0.02)
		lost = 0;
	if (to->waited >= 0 && from->waited >= 0)
		lost += to->waited - from->waited;
	else
		lost += wall * busy - (to->cpu - from->cpu);
	return lost > NOISE * wall * MAX(busy, 1);
}

/* Of disturbed runs those that lost least.  x: ascending, n of at most `most`; returns n. */
static int keep_fastest(double *x, int n, int most, double seconds)
{
	if (n < most)
		x[n++] = seconds;
	else
		x[n - 1] = MIN(x[n - 1], seconds);
	stats_sort(x, n);
	return n;
}

bench_times measure(const bench *b, double patience, void (*fn)(void *arg), void *arg)
{
	double clean[BENCH_MOST_RUNS], dirty[BENCH_MOST_RUNS], begun = seconds_now();
	fn(arg);
	double once = seconds_now() - begun;
	int repeat = once < SHORTEST ? (int)(SHORTEST / (once + 1e-7)) + 1 : 1;
	int nclean = 0, ndirty = 0;
	while (nclean < b->o.runs && (nclean + ndirty < b->o.runs || seconds_now() - begun < patience)) {
		bench_clock from = measure_clock(b->pool);
		for (int i = 0; i < repeat; i++)
			fn(arg);
		double wall = seconds_now();
		bench_clock to = measure_clock(b->pool);
		double seconds = (wall - from.wall) / repeat;
		if (!measure_noisy(&from, &to, b->threads))
			clean[nclean++] = seconds;
		else
			ndirty = keep_fastest(dirty, ndirty, b->o.runs, seconds);
	}
	if (nclean >= BENCH_LEAST_RUNS)
		return stats_times(clean, nclean, false);
	for (int i = 0; nclean < b->o.runs; i++)
		clean[nclean++] = dirty[i];
	return stats_times(clean, nclean, true);
}
