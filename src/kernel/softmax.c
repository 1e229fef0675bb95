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
	int64_t shift;
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

/* How many elements of row `index`, over the first `rank` of the other dims, count. */
static int64_t counting(const softmax_job *job, int rank, int64_t index)
{
	for (int d = rank - 1; d > job->below; d--)
		index /= job->dim[d];
	return MIN(index % job->dim[job->below] + job->shift + 1, job->n);
}

/* Rows along the axis, one after the other. */
static void softmax_rows(void *arg, int64_t first, int64_t last)
{
	const softmax_job *job = arg;
	const k_loops *l = job->loops;
	const bool halves = job->tx == K_F16 && job->ty == K_F16 && job->sx == 1 && job->sy == 1;
	_Alignas(64) float buf[ROW_LIMIT];
	for (int64_t r = first; r < last; r++) {
		const char *x;
		char *y;
		row_at(job, job->rank, r, &x, &y);
		const int64_t n = job->below < 0 ? job->n : counting(job, job->rank, r);
		if (halves) {
			l->softmax_halves((half *)(void *)y, (const half *)(const void *)x, buf, n);
			memset(y + n * 2, 0, (size_t)(job->n - n) * 2);
			continue;
		}
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
		const bool along = job->below == inner; /* row i counts for the columns from i - shift on */
		const int64_t limit =
		    job->below < 0 || along ? job->n : counting(job, inner, b / job->blocks);
		for (int pass = 0; pass < 2; pass++) {
			for (int64_t r = 0; r < job->n; r += ROWS) {
				int rows = (int)MIN(job->n - r, ROWS);
				if (r < limit)
					load_columns(job, buf, x + r * job->sx * sizex, rows, n);
				for (int i = 0; i < rows; i++) {
					int64_t out = along ? r + i - job->shift - at : r + i < limit ? 0 : n;
					for (int j = 0; j < MIN(out, n); j++)
						buf[i * n + j] = -INFINITY;
				}
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

void k_softmax(pool *p, uint32_t isa, int rank, const int64_t *dim, int axis, int below, int64_t shift,
	       const ew_operand *x, const ew_operand *y)
{
	assert(rank <= EW_MAX_DIMS && axis >= 0 && axis < rank && shift >= 0);
	softmax_job job = {.loops = loops_for(isa),
			   .tx = x->type,
			   .ty = y->type,
			   .x = x->data,
			   .y = y->data,
			   .n = dim[axis],
			   .below = -1,
			   .shift = shift,
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

/* The vocabulary is cut into chunks, which threads take: logits are read in the order of memory, once for the
 * maximum and the sum of each column, once to become their gradient.  A chunk's sums wait on the stack, 64 KB
 * for LOSS_COLUMNS columns.  Chunks depend on the vocabulary alone. */
#define LOSS_COLUMNS 256
#define LOSS_CHUNKS  32

typedef struct loss_job {
	const k_loops *loops;
	half *logits; /* of the first column */
	const int32_t *target;
	int64_t vocab, ld, chunk; /* rows of a chunk */
	int n;
	float scale;
	float at_target[LOSS_COLUMNS], max[LOSS_COLUMNS], sum[LOSS_COLUMNS], factor[LOSS_COLUMNS];
	float part_max[LOSS_CHUNKS][LOSS_COLUMNS], part_sum[LOSS_CHUNKS][LOSS_COLUMNS];
} loss_job;

static void clear_sums(float *max, float *sum, int n)
{
	for (int j = 0; j < n; j++) {
		max[j] = -INFINITY;
		sum[j] = 0;
	}
}

static void sum_chunks(void *arg, int64_t first, int64_t last)
{
	loss_job *job = arg;
	for (int64_t c = first; c < last; c++) {
		const int64_t end = MIN((c + 1) * job->chunk, job->vocab);
		clear_sums(job->part_max[c], job->part_sum[c], job->n);
		for (int64_t r = c * job->chunk; r < end; r += LOSS_ROWS)
			for (int j = 0; j < job->n; j += COLUMN_BLOCK)
				job->loops->loss_sum(
				    job->part_max[c] + j, job->part_sum[c] + j, job->logits + r * job->ld + j,
				    job->ld, (int)MIN(end - r, LOSS_ROWS), MIN(job->n - j, COLUMN_BLOCK));
	}
}

static void differentiate_chunks(void *arg, int64_t first, int64_t last)
{
	const loss_job *job = arg;
	for (int64_t r = first * job->chunk, end = MIN(last * job->chunk, job->vocab); r < end;
	     r += LOSS_ROWS) {
		const int64_t rows = MIN(end - r, LOSS_ROWS);
		half *x = job->logits + r * job->ld;
		for (int j = 0; j < job->n; j += COLUMN_BLOCK)
			job->loops->loss_gradient(x + j, job->ld, job->max + j, job->factor + j, (int)rows,
						  MIN(job->n - j, COLUMN_BLOCK));
		for (int j = 0; j < job->n; j++) {
			const int64_t t = job->target[j] - r;
			if (t >= 0 && t < rows) {
				float p = exp_of_logit(job->at_target[j] - job->max[j]) * job->factor[j];
				x[t * job->ld + j] = half_from_float(p - job->scale);
			}
		}
	}
}

/* The losses of up to LOSS_COLUMNS columns, and their gradients if the scale is not 0. */
static void loss_columns(pool *p, loss_job *job, float *loss)
{
	const int64_t chunks = (job->vocab + job->chunk - 1) / job->chunk, weight = job->chunk * job->n * 4;
	for (int j = 0; j < job->n; j++) {
		const int32_t t = job->target[j];
		assert(t < job->vocab);
		job->at_target[j] = t < 0 ? 0 : half_to_float(job->logits[t * job->ld + j]);
	}
	run_pieces(p, chunks, weight, sum_chunks, job);
	clear_sums(job->max, job->sum, job->n);
	for (int64_t c = 0; c < chunks; c++)
		job->loops->loss_join(job->max, job->sum, job->part_max[c], job->part_sum[c], job->n);
	for (int j = 0; j < job->n; j++) {
		const bool counts = job->target[j] >= 0;
		loss[j] = counts ? (job->max[j] - job->at_target[j]) + log_f(job->sum[j]) : 0;
		job->factor[j] = counts ? job->scale / job->sum[j] : 0;
	}
	if (job->scale != 0)
		run_pieces(p, chunks, weight, differentiate_chunks, job);
}

void k_cross_entropy(pool *p, uint32_t isa, half *logits, const int32_t *target, int64_t vocab, int64_t n,
		     float grad_scale, double *loss_sum, float *column_loss, int64_t *counted)
{
	loss_job job = {.loops = loops_for(isa), .vocab = vocab, .ld = n, .scale = grad_scale};
	job.chunk = (vocab + LOSS_CHUNKS * LOSS_ROWS - 1) / (LOSS_CHUNKS * LOSS_ROWS) * LOSS_ROWS;
	double sum = 0;
	int64_t targets = 0;
	for (int64_t first = 0; first < n; first += LOSS_COLUMNS) {
		float loss[LOSS_COLUMNS];
		job.logits = logits + first;
		job.target = target + first;
		job.n = (int)MIN(n - first, LOSS_COLUMNS);
		loss_columns(p, &job, loss);
		for (int j = 0; j < job.n; j++) {
			sum += (double)loss[j];
			targets += job.target[j] >= 0;
		}
		if (column_loss)
			memcpy(column_loss + first, loss, (size_t)job.n * sizeof *loss);
	}
	*loss_sum = sum;
	if (counted)
		*counted = targets;
}
