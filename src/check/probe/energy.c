/* Energy, where the system tells it: Linux's powercap for a processor's packages. */
#include "check/probe/probe.h"

#include <stdio.h>
#include <stdlib.h>

enum { ZONES = 8 };

struct energy {
	an_ctx *ctx;
	double last[ZONES], range[ZONES]; /* microjoules; counters begin again at `range` */
	double sum;
	int n;
};

/* NAME of package `zone` as a number; negative: there is none. */
static double read_zone(int zone, const char *name)
{
	char path[120], line[40];
	snprintf(path, sizeof path, "/sys/class/powercap/intel-rapl:%d/%s", zone, name);
	FILE *f = fopen(path, "r");
	double x = f && fgets(line, sizeof line, f) ? strtod(line, NULL) : -1;
	if (f)
		fclose(f);
	return x;
}

energy *energy_open(an_ctx *ctx, const char *libraries, const char **why)
{
	(void)libraries;
	energy *e = mem_zalloc(ctx, sizeof *e);
	*why = "the system does not tell (no readable energy counter)";
	if (!e)
		return NULL;
	e->ctx = ctx;
	for (; e->n < ZONES && (e->last[e->n] = read_zone(e->n, "energy_uj")) >= 0; e->n++)
		e->range[e->n] = read_zone(e->n, "max_energy_range_uj");
	if (e->n)
		return e;
	energy_close(e);
	return NULL;
}

void energy_close(energy *e)
{
	if (e)
		mem_free(e->ctx, e, sizeof *e);
}

bool energy_read(energy *e, double *joules, const char **what)
{
	*what = "processor packages";
	for (int i = 0; i < e->n; i++) {
		double x = read_zone(i, "energy_uj"), more = x - e->last[i];
		if (x < 0)
			return false;
		e->sum += 1e-6 * (more < 0 ? more + e->range[i] : more);
		e->last[i] = x;
	}
	*joules = e->sum;
	return true;
}
