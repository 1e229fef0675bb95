/* Medians, quartiles, geometric means. */
#include "bench/bench.h"

#include <math.h>
#include <stdlib.h>

double stats_quantile(const double *ascending, int n, double q)
{
	double at = q * (n - 1);
	int i = (int)at;
	return i + 1 < n ? ascending[i] + (at - i) * (ascending[i + 1] - ascending[i]) : ascending[n - 1];
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

void stats_sort(double *x, int n) { qsort(x, (size_t)n, sizeof *x, by_value); }

double stats_geomean(const double *x, int n)
{
	double sum = 0;
	for (int i = 0; i < n; i++)
		sum += log(x[i]);
	return n > 0 ? exp(sum / n) : NAN;
}

bench_times stats_times(double *seconds, int n, bool noisy)
{
	stats_sort(seconds, n);
	return (bench_times){.median = stats_quantile(seconds, n, 0.5),
			     .low = stats_quantile(seconds, n, 0.25),
			     .high = stats_quantile(seconds, n, 0.75),
			     .runs = n,
			     .noisy = noisy};
}
