/* Measurements of speed: what the machine could do, and what this library does on it.
 *
 * Everything is timed on random data (with zeros, tile units clock up to a quarter higher), as the median and
 * the quartiles of at least five runs.  A row says whether it was noisy: other work on the machine had the
 * processors for more than 3% of the time. */
#ifndef ANNEAL_BENCH_H
#define ANNEAL_BENCH_H

#include "anneal/train.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One value of a row: a column of a table and a member of a JSON object. */
typedef struct an_bench_cell {
	const char *name;    /* "ms" */
	const char *heading; /* of the column; NULL: only in JSON */
	enum { AN_BENCH_TEXT, AN_BENCH_NUMBER, AN_BENCH_FLAG } kind;
	const char *text;
	double number; /* NAN: not measured; FLAG: 0 or 1 */
	int digits;    /* after the point, for people */
	int width;     /* of the column */
} an_bench_cell;

/* Zero in any field means the default.  A measurement refuses options of others. */
typedef struct an_bench_options {
	const char *numerics; /* layer, train, decode: of the device, default "fast"; gemm: default "fast" and
				 "ieee" */
	int runs;             /* of every measurement; default 7, at least 5 */
	double seconds;       /* train: how long to go on with further sizes; default 60 */
	const char
	    *model;   /* layer: the preset, default "layer768"; train, decode: only this one, default all */
	int tokens;   /* layer: of the sequence, default the preset's; train: only sequences of this length,
			 default all */
	bool kernels; /* layer: also the kernels of its programs */
	/* Called for every row when it is known; rows of one table follow each other.  Cells are valid during
	 * the call. */
	void (*row)(void *user, const char *table, const an_bench_cell *cell, int n);
	void (*progress)(void *user, const char *text); /* what is being measured; may be NULL */
	void *user;
} an_bench_options;

/* Names by index, NULL after the last; *summary (may be NULL): a line for people. */
AN_API const char *an_bench_name(int i, const char **summary);
/* Runs the measurement of that name.  AN_USAGE: there is none, or it does not take an option; the message
 * lists what there is. */
AN_API an_status an_bench(an_ctx *ctx, const char *name, const an_bench_options *opt);

#ifdef __cplusplus
}
#endif
#endif
