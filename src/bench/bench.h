/* What measurements share.
 *
 *   stats.c    medians, quartiles, geometric means
 *   measure.c  runs a function often enough, and tells whether it was disturbed
 *   machine.c  processor, caches, memory
 *   peak.c     what the arithmetic units reach without memory
 *   stream.c   what the memory gives, by working set
 *   limits.c   both as tables, and the rates that other measurements are compared with
 *   gemm.c     matrix products in the shapes of training
 *   model.c    models with random weights, what their passes cost
 *   layer.c    a training step of one layer, by entry of the plan
 *   train.c    updates of whole models, by size and length
 *   decode.c   tokens one by one
 *   bench.c    the list of measurements, rows */
#ifndef BENCH_BENCH_H
#define BENCH_BENCH_H

#include "anneal/bench.h"
#include "base/base.h"
#include "base/isa.h"
#include "base/pool.h"
#include "kernel/kernel.h"

/* ---- Statistics ---------------------------------------------------------------------- */

enum { BENCH_LEAST_RUNS = 5, BENCH_MOST_RUNS = 101 };

/* The q-quantile, 0 <= q <= 1, of n > 0 ascending values, linear between neighbours. */
double stats_quantile(const double *ascending, int n, double q);
void stats_sort(double *x, int n); /* ascending */
/* exp of the mean logarithm of n values above 0; NAN for n = 0. */
double stats_geomean(const double *x, int n);

/* Seconds of one call. */
typedef struct bench_times {
	double median, low, high; /* with the quartiles */
	int runs;
	bool noisy;
} bench_times;
/* Of n > 0 measured runs, which are sorted. */
bench_times stats_times(double *seconds, int n, bool noisy);

/* ---- Measuring ----------------------------------------------------------------------- */

typedef struct bench {
	an_ctx *ctx;
	an_bench_options o; /* resolved */
	pool *pool;
	int threads;
} bench;

/* How long the threads of this process were ready to run and did not. */
typedef struct bench_clock {
	double wall, cpu, waited; /* waited < 0: the system does not say */
	double stolen;            /* by other machines on the same hardware; all processors */
} bench_clock;
/* All threads of the pool come together first: what a thread has waited is known when it gets a processor. */
bench_clock measure_clock(pool *p);
/* Whether more than 3% of the processors' time between two moments went elsewhere.  Where the system does not
 * say, and `busy` threads were to compute without a pause, what they did not get counts. */
bool measure_noisy(const bench_clock *from, const bench_clock *to, int busy);

/* Calls `fn` once and then o.runs times or more: a run that was disturbed is taken again, for `patience`
 * seconds.  Short calls are repeated within a run.  All threads of the pool are to be busy in it. */
bench_times measure(const bench *b, double patience, void (*fn)(void *arg), void *arg);
#define PATIENCE       0.3
#define PATIENCE_LIMIT 1.0 /* for what others are compared with */

/* ---- The machine --------------------------------------------------------------------- */

typedef struct bench_machine {
	char cpu[192];
	int64_t l2, l3, memory; /* bytes; of caches: one core's, all */
} bench_machine;
void machine_get(bench_machine *m);
/* The largest resident set of this process, bytes: since the last machine_forget_peak() where the system can
 * forget (Linux), else so far. */
int64_t machine_peak_memory(void);
void machine_forget_peak(void);

/* ---- Limits -------------------------------------------------------------------------- */

typedef enum bench_precision { BENCH_IEEE = 1, BENCH_FAST = 2 } bench_precision;

/* A loop of an arithmetic unit that never leaves the registers. */
typedef struct peak_unit {
	const char *name, *what;
	uint32_t isa; /* what it needs; 0: nothing */
	int use;      /* bench_precision of the products it may serve; 0: integers */
	double share; /* of its rate that such products get: 1/4 where it takes four to make an exact one */
	double ops;   /* of one item: multiplications and additions */
	void (*run)(void *data, int64_t item, int worker);
} peak_unit;
const peak_unit *peak_at(int i); /* NULL after the last */
/* GFLOP/s or GOP/s. */
an_status peak_measure(const bench *b, const peak_unit *u, bench_times *t, double *rate);

typedef enum stream_pattern { STREAM_READ, STREAM_TRIAD, STREAM_UPDATE, STREAM_PATTERNS } stream_pattern;
const char *stream_name(stream_pattern p);
/* Memory for the arrays of all threads, touched. */
typedef struct stream_memory {
	const bench *b;
	float *at;
	int64_t bytes;
	void *raw;
	size_t raw_bytes;
} stream_memory;
an_status stream_open(const bench *b, int64_t bytes, stream_memory *m);
void stream_close(stream_memory *m);
/* GB/s, bytes read and written, in all threads' arrays together `bytes` or what there is. */
an_status stream_measure(const stream_memory *m, stream_pattern p, int64_t bytes, bench_times *t,
			 double *rate);
/* GB/s of tensors' memory that this process did not have before: the system has to find and clear it. */
an_status stream_fresh(const bench *b, bench_times *t, double *rate);
typedef enum stream_level { STREAM_L2, STREAM_L3, STREAM_DRAM, STREAM_LEVELS } stream_level;
/* A working set that lives there. */
int64_t stream_working_set(const bench_machine *m, stream_level level, int threads);

/* What others are compared with. */
typedef struct bench_limits {
	double fast, ieee;                 /* GFLOP/s of the best unit */
	const char *fast_unit, *ieee_unit; /* its name */
	double dram;                       /* GB/s, the best pattern */
	bool noisy;
} bench_limits;
/* PEAKS: no bandwidth; RATES: of DRAM; ALL: of every level. */
typedef enum limits_extent { LIMITS_PEAKS, LIMITS_RATES, LIMITS_ALL } limits_extent;
/* Measures, and reports rows "peaks" and "bandwidth". */
an_status limits_measure(bench *b, limits_extent extent, bench_limits *out);

/* GFLOP/s of products: the geometric mean of the three orientations at 512 tokens, 768 x 2048. */
an_status gemm_rate(bench *b, k_precision precision, double *gflops);

/* ---- Models -------------------------------------------------------------------------- */

/* A model with random weights on the software device, and random tokens. */
typedef struct bench_model {
	an_ctx *ctx;
	an_device *device;
	an_model *model;
	float *block; /* model_fill; NULL before */
	size_t block_bytes;
	an_tokens *tokens;
} bench_model;
/* numerics may be NULL: "fast".  Freed with model_close, also after a failure. */
an_status model_open(const bench *b, const an_llama_config *c, bench_model *m);
an_status model_fill(const bench *b, bench_model *m);
void model_drop_block(bench_model *m);
void model_close(bench_model *m);
/* FLOP of matrices and of attention, with a full square of scores, for a forward pass over `tokens`. */
double model_matrix_flop(const an_model *m, double tokens);
double model_attention_flop(const an_model *m, double tokens);
/* FLOP of the first layer, forward and both gradients, over a sequence of the model's context. */
double layer_flop(const an_model *m);

/* ---- Rows ---------------------------------------------------------------------------- */

/* clang-format off */
#define CELL_TEXT(n, h, w, t) {.name = (n), .heading = (h), .kind = AN_BENCH_TEXT, .text = (t), .width = (w)}
#define CELL_NUMBER(n, h, w, d, x) \
	{.name = (n), .heading = (h), .kind = AN_BENCH_NUMBER, .number = (x), .digits = (d), .width = (w)}
#define CELL_FLAG(n, h, x) {.name = (n), .heading = (h), .kind = AN_BENCH_FLAG, .number = (x) ? 1 : 0}
/* Median and distance of the quartiles, in milliseconds. */
#define CELL_TIMES(t) CELL_NUMBER("ms", "ms", 10, 3, 1e3 * (t).median), \
	CELL_NUMBER("ms_spread", "spread", 8, 3, 1e3 * ((t).high - (t).low)), \
	CELL_NUMBER("runs", NULL, 0, 0, (t).runs), CELL_FLAG("noisy", "noisy", (t).noisy)
/* clang-format on */
void bench_row(const bench *b, const char *table, const an_bench_cell *cell, int n);
#define ROW(b, table, ...)                                        \
	bench_row(b, table, (const an_bench_cell[]){__VA_ARGS__}, \
		  (int)(sizeof((const an_bench_cell[]){__VA_ARGS__}) / sizeof(an_bench_cell)))
void bench_progress(const bench *b, const char *fmt, ...) AN_PRINTF(2, 3);

/* ---- Measurements -------------------------------------------------------------------- */

an_status bench_limits_run(bench *b);
an_status bench_gemm_run(bench *b);
an_status bench_layer_run(bench *b);
an_status bench_train_run(bench *b);
an_status bench_decode_run(bench *b);

#endif
