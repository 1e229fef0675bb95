/* Softmax along any axis, and cross-entropy over columns. */
#include "kernel/loops.h"
#include "kernel/math_impl.h"

#include <assert.h>
#include <string.h>

/* ---- Softmax ---------------------------------------------------------------------- */

/* A row up to this long is converted once and stays in the cache; a longer one is read twice. */
#define ROW_LIMIT 4096

typedef struct softmax_job {
	const k_loops *loops;
	k_type tx, ty;
	const char *x;
	char *y;
	int64_t n, sx, sy; /* the axis: length, strides */
	int rank;          /* the other dims, the innermost last */
	int64_t dim[EW_MAX_DIMS], stride_x[EW_MAX_DIMS], stride_y[EW_MAX_DIMS];
	int64_t blocks; /* of COLUMN_BLOCK along the innermost, in the column form */
	int below;      /* of the other dims; -1: none */
} softmax_job;

/* Byte addresses of row `index` over the first `rank` of the other dims. */
static void row_at(const softmax_job *job, int rank, int64_t index, const char **x, char **y)
{
	int64_t ox = 0, oy = 0;
	for (int d = rank - 1; d >= 0; d--) {
		int64_t at = index % job->dim[d];
		index /= job->dim[d];
		ox += at * job->stride_x[d];
		oy += at * job->stride_y[d];
	}
	*x = job->x + ox * (int64_t)k_type_size(job->tx);
	*y = job->y + oy * (int64_t)k_type_size(job->ty);
}

/* Strided runs of any length, in pieces that the loops take. */
static void load_run(const k_loops *l, float *to, const char *from, k_type type, int64_t s, int64_t n)
{
	for (int64_t i = 0; i < n; i += EW_BLOCK)
		l->load(to + i, from + i * s * (int64_t)k_type_size(type), type, s,
			(int)MIN(n - i, EW_BLOCK));
}
static void store_run(const k_loops *l, char *to, k_type type, int64_t s, const float *from, int64_t n)
{
	for (int64_t i = 0; i < n; i += EW_BLOCK)
		l->store(to + i * s * (int64_t)k_type_size(type), type, s, from + i,
			 (int)MIN(n - i, EW_BLOCK));
}

/* The index of row `index` along the dim `below`, over the first `rank` of the other dims. */
static int64_t index_below(const softmax_job *job, int rank, int64_t index)
{
	for (int d = rank - 1; d > job->below; d--)
		index /= job->dim[d];
	return index % job->dim[job->below];
}

/* Rows along the axis, one after the other. */
static void softmax_rows(void *arg, int64_t first, int64_t last)
{
	const softmax_job *job = arg;
	const k_loops *l = job->loops;
	_Alignas(64) float buf[ROW_LIMIT];
	for (int64_t r = first; r < last; r++) {
		const char *x;
		char *y;
		row_at(job, job->rank, r, &x, &y);
		const int64_t n = job->below < 0 ? job->n : MIN(index_below(job, job->rank, r) + 1, job->n);
		load_run(l, buf, x, job->tx, job->sx, n);
		l->softmax_row(buf, n);
		memset(buf + n, 0, (size_t)(job->n - n) * sizeof *buf);
		store_run(l, y, job->ty, job->sy, buf, job->n);
	}
}

/* rows x n elements, rows along the axis, n along the innermost other dim */
static void load_columns(const softmax_job *job, float *to, const char *from, int rows, int n)
{
	const int64_t stride = job->stride_x[job->rank - 1], step = job->sx * (int64_t)k_type_size(job->tx);
	if (job->tx == K_F16 && stride == 1) {
		job->loops->widen_rows(to, n, (const half *)(const void *)from, job->sx, rows, n);
		return;
	}
	for (int i = 0; i < rows; i++)
		job->loops->load(to + i * n, from + i * step, job->tx, stride, n);
}
static void store_columns(const softmax_job *job, char *to, const float *from, int rows, int n)
{
	const int64_t stride = job->stride_y[job->rank - 1], step = job->sy * (int64_t)k_type_size(job->ty);
	if (job->ty == K_F16 && stride == 1) {
		job->loops->narrow_rows((half *)(void *)to, job->sy, from, n, rows, n);
		return;
	}
	for (int i = 0; i < rows; i++)
		job->loops->store(to + i * step, job->ty, stride, from + i * n, n);
}

/* Columns: for every index of the axis, a short run along the innermost other dim. */
static void softmax_columns(void *arg, int64_t first, int64_t last)
{
	const softmax_job *job = arg;
	const k_loops *l = job->loops;
	enum { ROWS = 32 };
	_Alignas(64) float buf[ROWS * COLUMN_BLOCK], max[COLUMN_BLOCK], sum[COLUMN_BLOCK];
	const int inner = job->rank - 1;
	const int64_t sizex = (int64_t)k_type_size(job->tx), sizey = (int64_t)k_type_size(job->ty);
	for (int64_t b = first; b < last; b++) {
		const char *x;
		char *y;
		row_at(job, inner, b / job->blocks, &x, &y);
		int64_t at = b % job->blocks * COLUMN_BLOCK;
		int n = (int)MIN(job->dim[inner] - at, COLUMN_BLOCK);
		x += at * job->stride_x[inner] * sizex;
		y += at * job->stride_y[inner] * sizey;
		for (int j = 0; j < n; j++) {
			max[j] = -INFINITY;
			sum[j] = 0;
		}
		const bool along = job->below == inner; /* row i counts for the columns from i on */
		const int64_t limit =
		    job->below < 0 || along ? job->n : index_below(job, inner, b / job->blocks) + 1;
		for (int pass = 0; pass < 2; pass++) {
			for (int64_t r = 0; r < job->n; r += ROWS) {
				int rows = (int)MIN(job->n - r, ROWS);
				if (r < limit)
					load_columns(job, buf, x + r * job->sx * sizex, rows, n);
				for (int i = 0; i < rows && (along || r + rows > limit); i++)
					for (int j = 0; j < n && (!along || at + j < r + i); j++)
						if (along || r + i >= limit)
							buf[i * n + j] = -INFINITY;
				if (pass == 0) {
					l->softmax_update(max, sum, buf, rows, n);
					continue;
				}
				l->softmax_apply(buf, max, sum, rows, n);
				store_columns(job, y + r * job->sy * sizey, buf, rows, n);
			}
			for (int j = 0; pass == 0 && j < n; j++)
				sum[j] = 1 / sum[j];
		}
	}
}

void k_softmax(pool *p, uint32_t isa, int rank, const int64_t *dim, int axis, int below, const ew_operand *x,
	       const ew_operand *y)
{
	assert(rank <= EW_MAX_DIMS && axis >= 0 && axis < rank);
	softmax_job job = {.loops = loops_for(isa),
			   .tx = x->type,
			   .ty = y->type,
			   .x = x->data,
			   .y = y->data,
			   .n = dim[axis],
			   .below = -1,
			   .sx = x->stride[axis],
			   .sy = y->stride[axis]};
	int64_t rows = 1;
	for (int d = 0; d < rank; d++) {
		if (dim[d] == 0)
			return;
		if (d == axis || (dim[d] == 1 && d != below))
			continue;
		if (d == below)
			job.below = job.rank;
		job.dim[job.rank] = dim[d];
		job.stride_x[job.rank] = x->stride[d];
		job.stride_y[job.rank++] = y->stride[d];
		rows *= dim[d];
	}
	/* The form depends on the array alone.  Whatever is contiguous in x is walked along. */
	if (job.n <= ROW_LIMIT && (job.sx == 1 || job.rank == 0 || job.stride_x[job.rank - 1] != 1)) {
		run_pieces(p, rows, job.n * 4, softmax_rows, &job);
		return;
	}
	if (job.rank == 0) {
		job.dim[0] = 1;
		job.rank = 1;
	}
	int64_t columns = job.dim[job.rank - 1];
	job.blocks = (columns + COLUMN_BLOCK - 1) / COLUMN_BLOCK;
	run_pieces(p, rows / columns * job.blocks, job.n * MIN(columns, COLUMN_BLOCK) * 4, softmax_columns,
		   &job);
}

/* ---- Cross-entropy ---------------------------------------------------------------- */

#define LOSS_COLUMNS 32 /* one cache line of fp16 logits */

typedef struct loss_job {
	const k_loops *loops;
	half *logits;
	const int32_t *target;
	int64_t vocab, n;
	float grad_scale;
	float *column_loss; /* n; or NULL */
	double *block_loss; /* per block of columns of this group */
	int64_t base;       /* first block of the group */
} loss_job;

/* Loads rows x n logits whose first is at [row][column].  A single column is contiguous. */
static void load_logits(const loss_job *job, float *to, int64_t row, int64_t column, int rows, int n)
{
	const half *from = job->logits + row * job->n + column;
	if (job->n == 1)
		job->loops->load(to, from, K_F16, 1, rows);
	else
		job->loops->widen_rows(to, n, from, job->n, rows, n);
}
static void store_logits(const loss_job *job, const float *from, int64_t row, int64_t column, int rows, int n)
{
	half *to = job->logits + row * job->n + column;
	if (job->n == 1)
		job->loops->store(to, K_F16, 1, from, rows);
	else
		job->loops->narrow_rows(to, job->n, from, n, rows, n);
}

static void loss_block(const loss_job *job, int64_t block)
{
	const k_loops *l = job->loops;
	enum { ROWS = 64 };
	_Alignas(64) float buf[ROWS * LOSS_COLUMNS];
	float max[LOSS_COLUMNS], sum[LOSS_COLUMNS], at_target[LOSS_COLUMNS];
	const int64_t first = block * LOSS_COLUMNS;
	const int n = (int)MIN(job->n - first, LOSS_COLUMNS);
	const int32_t *target = job->target + first;
	for (int j = 0; j < n; j++) {
		max[j] = -INFINITY;
		sum[j] = 0;
		assert(target[j] < job->vocab);
		if (target[j] >= 0)
			at_target[j] = half_to_float(job->logits[target[j] * job->n + first + j]);
	}
	for (int64_t r = 0; r < job->vocab; r += ROWS) {
		int rows = (int)MIN(job->vocab - r, ROWS);
		load_logits(job, buf, r, first, rows, n);
		l->softmax_update(max, sum, buf, rows, n);
	}
	double loss = 0;
	for (int j = 0; j < n; j++) {
		float v = target[j] < 0 ? 0 : (max[j] - at_target[j]) + log_f(sum[j]);
		if (job->column_loss)
			job->column_loss[first + j] = v;
		loss += (double)v;
	}
	job->block_loss[block - job->base] = loss;
	if (job->grad_scale == 0)
		return;
	float factor[LOSS_COLUMNS];
	for (int j = 0; j < n; j++)
		factor[j] = target[j] < 0 ? 0 : job->grad_scale / sum[j];
	for (int64_t r = 0; r < job->vocab; r += ROWS) {
		int rows = (int)MIN(job->vocab - r, ROWS);
		load_logits(job, buf, r, first, rows, n);
		l->softmax_apply(buf, max, factor, rows, n);
		for (int j = 0; j < n; j++)
			if (target[j] >= r && target[j] < r + rows)
				buf[(target[j] - r) * n + j] -= job->grad_scale;
		store_logits(job, buf, r, first, rows, n);
	}
}

static void loss_blocks(void *arg, int64_t first, int64_t last)
{
	const loss_job *job = arg;
	for (int64_t b = first; b < last; b++)
		loss_block(job, job->base + b);
}

void k_cross_entropy(pool *p, uint32_t isa, half *logits, const int32_t *target, int64_t vocab, int64_t n,
		     float grad_scale, double *loss_sum, float *column_loss, int64_t *counted)
{
	enum { GROUP = 256 };
	double block_loss[GROUP], sum = 0;
	loss_job job = {.loops = loops_for(isa),
			.logits = logits,
			.target = target,
			.vocab = vocab,
			.n = n,
			.grad_scale = grad_scale,
			.column_loss = column_loss,
			.block_loss = block_loss};
	int64_t blocks = (n + LOSS_COLUMNS - 1) / LOSS_COLUMNS;
	for (job.base = 0; job.base < blocks; job.base += GROUP) {
		int64_t count = MIN(blocks - job.base, GROUP);
		run_pieces(p, count, vocab * MIN(n, LOSS_COLUMNS) * 4, loss_blocks, &job);
		for (int64_t b = 0; b < count; b++)
			sum += block_loss[b];
	}
	*loss_sum = sum;
	if (counted) {
		*counted = 0;
		for (int64_t j = 0; j < n; j++)
			*counted += target[j] >= 0;
	}
}
