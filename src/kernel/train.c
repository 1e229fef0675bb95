/* Embedding, norms and the optimizer on the host. */
#include "kernel/loops.h"

#include <assert.h>

/* ---- Embedding -------------------------------------------------------------------- */

/* x and dx have a token per column, the table one per row: both ways go through a small
 * transposed buffer, so that table and x are touched by whole cache lines. */
#define TOKENS   32
#define CHANNELS 64

typedef struct embed_job {
	const k_loops *loops;
	half *x;
	const half *dx;
	const float *table;
	float *dtable;
	const int32_t *token;
	int64_t dim, n, blocks; /* blocks of tokens */
	float scale;
} embed_job;

static void embed_piece(void *arg, int64_t first, int64_t last)
{
	const embed_job *job = arg;
	float turned[CHANNELS][TOKENS];
	for (int64_t b = first; b < last; b++) {
		int64_t c0 = b / job->blocks * CHANNELS, s0 = b % job->blocks * TOKENS;
		int nc = (int)MIN(job->dim - c0, CHANNELS), ns = (int)MIN(job->n - s0, TOKENS);
		for (int s = 0; s < ns; s++) {
			const float *row = job->table + job->token[s0 + s] * job->dim + c0;
			for (int c = 0; c < nc; c++)
				turned[c][s] = row[c];
		}
		for (int c = 0; c < nc; c++)
			job->loops->store(job->x + (c0 + c) * job->n + s0, K_F16, 1, turned[c], ns);
	}
}

void k_embed(pool *p, uint32_t isa, half *x, const float *table, const int32_t *token, int64_t dim, int64_t n)
{
	embed_job job = {.loops = loops_for(isa),
			 .x = x,
			 .table = table,
			 .token = token,
			 .dim = dim,
			 .n = n,
			 .blocks = (n + TOKENS - 1) / TOKENS};
	run_pieces(p, (dim + CHANNELS - 1) / CHANNELS * job.blocks, TOKENS * CHANNELS, embed_piece, &job);
}

/* One piece owns some channels of the whole table, so equal tokens meet in order. */
#define GRAD_CHANNELS 32

static void embed_grad_piece(void *arg, int64_t first, int64_t last)
{
	const embed_job *job = arg;
	float turned[GRAD_CHANNELS][TOKENS];
	for (int64_t b = first; b < last; b++) {
		int64_t c0 = b * GRAD_CHANNELS;
		int nc = (int)MIN(job->dim - c0, GRAD_CHANNELS);
		for (int64_t s0 = 0; s0 < job->n; s0 += TOKENS) {
			int ns = (int)MIN(job->n - s0, TOKENS);
			for (int c = 0; c < nc; c++)
				job->loops->load(turned[c], job->dx + (c0 + c) * job->n + s0, K_F16, 1, ns);
			for (int s = 0; s < ns; s++) {
				float *row = job->dtable + job->token[s0 + s] * job->dim + c0;
				for (int c = 0; c < nc; c++)
					row[c] += job->scale * turned[c][s];
			}
		}
	}
}

void k_embed_grad(pool *p, uint32_t isa, float *dtable, const half *dx, const int32_t *token, int64_t dim,
		  int64_t n, float scale)
{
	embed_job job = {.loops = loops_for(isa),
			 .dx = dx,
			 .dtable = dtable,
			 .token = token,
			 .dim = dim,
			 .n = n,
			 .scale = scale};
	run_pieces(p, (dim + GRAD_CHANNELS - 1) / GRAD_CHANNELS, GRAD_CHANNELS * n, embed_grad_piece, &job);
}

/* ---- Random numbers ---------------------------------------------------------------- */

typedef struct normal_job {
	const k_loops *loops;
	float *dst;
	uint64_t seed, stream;
	double std;
	int64_t n;
} normal_job;

static void normal_piece(void *arg, int64_t first, int64_t last)
{
	const normal_job *job = arg;
	for (int64_t i = first * EW_BLOCK, end = MIN(last * EW_BLOCK, job->n); i < end; i += EW_BLOCK)
		job->loops->normal(job->dst + i, job->seed, job->stream, job->std, i,
				   (int)MIN(end - i, EW_BLOCK));
}

void k_normal(pool *p, uint32_t isa, float *dst, uint64_t seed, uint64_t stream, double std, int64_t n)
{
	normal_job job = {loops_for(isa), dst, seed, stream, std, n};
	run_pieces(p, (n + EW_BLOCK - 1) / EW_BLOCK, EW_BLOCK, normal_piece, &job);
}

/* ---- Norm ------------------------------------------------------------------------- */

#define NORM_BLOCKS 256

typedef struct norm_job {
	const k_loops *loops;
	const float *x;
	int64_t n, step;
	double sum[NORM_BLOCKS];
	bool finite[NORM_BLOCKS];
} norm_job;

static void norm_piece(void *arg, int64_t first, int64_t last)
{
	norm_job *job = arg;
	for (int64_t b = first; b < last; b++) {
		job->finite[b] = true;
		job->sum[b] = job->loops->sum_squares(
		    job->x + b * job->step, MIN(job->n - b * job->step, job->step), &job->finite[b]);
	}
}

double k_sum_squares(pool *p, uint32_t isa, const float *x, int64_t n, bool *finite)
{
	/* blocks depend on n alone */
	int64_t step = MAX((n / NORM_BLOCKS + 1024) / 1024 * 1024, 4096), blocks = (n + step - 1) / step;
	assert(blocks <= NORM_BLOCKS);
	norm_job job = {.loops = loops_for(isa), .x = x, .n = n, .step = step};
	run_pieces(p, blocks, step, norm_piece, &job);
	double sum = 0;
	*finite = true;
	for (int64_t b = 0; b < blocks; b++) {
		sum += job.sum[b];
		*finite &= job.finite[b];
	}
	return sum;
}

/* ---- AdamW ------------------------------------------------------------------------ */

void k_adamw_block(uint32_t isa, const k_adamw *h, float *w, const float *g, float *m, float *v, int64_t n)
{
	loops_for(isa)->adamw(h, w, g, m, v, n);
}

typedef struct adamw_job {
	const k_loops *loops;
	const k_adamw *h;
	float *w, *m, *v;
	const float *g;
	int64_t n;
} adamw_job;

#define ADAMW_STEP 4096

static void adamw_piece(void *arg, int64_t first, int64_t last)
{
	const adamw_job *job = arg;
	int64_t at = first * ADAMW_STEP, end = MIN(last * ADAMW_STEP, job->n);
	job->loops->adamw(job->h, job->w + at, job->g + at, job->m + at, job->v + at, end - at);
}

void k_adamw_step(pool *p, uint32_t isa, const k_adamw *h, float *w, const float *g, float *m, float *v,
		  int64_t n)
{
	adamw_job job = {loops_for(isa), h, w, m, v, g, n};
	run_pieces(p, (n + ADAMW_STEP - 1) / ADAMW_STEP, ADAMW_STEP, adamw_piece, &job);
}
