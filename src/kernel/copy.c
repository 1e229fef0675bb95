/* Copying strided arrays, and converting contiguous ones. */
#include "kernel/loops.h"

#include <assert.h>
#include <string.h>

/* ---- Conversion: programs of a load and a store ----------------------------------- */

static void convert(pool *p, uint32_t isa, void *dst, k_type to, const void *src, k_type from, int64_t n)
{
	static const ew_instr instr[2] = {{.op = EW_LOAD, .dst = 0, .a = 0},
					  {.op = EW_STORE, .dst = 1, .a = 0}};
	ew_operand operand[2] = {{.data = (void *)(uintptr_t)src, .type = from, .stride = {1}},
				 {.data = dst, .type = to, .stride = {1}}};
	ew_program prog = {.rank = 1,
			   .dim = {n},
			   .ninstr = 2,
			   .noperands = 2,
			   .nregs = 1,
			   .instr = instr,
			   .operand = operand};
	k_ewise(p, isa, &prog);
}

void k_f16_to_f32(pool *p, uint32_t isa, float *dst, const half *src, int64_t n)
{
	convert(p, isa, dst, K_F32, src, K_F16, n);
}
void k_f32_to_f16(pool *p, uint32_t isa, half *dst, const float *src, int64_t n)
{
	convert(p, isa, dst, K_F16, src, K_F32, n);
}
void k_f32_to_bf16(pool *p, uint32_t isa, bfloat *dst, const float *src, int64_t n)
{
	convert(p, isa, dst, K_BF16, src, K_F32, n);
}

/* Values of a block: of AdamW, four arrays of this length leave room in a cache of 48 KB. */
#define MADE_BLOCK 2048
/* From here on, what is stored will not be read before it has left the caches. */
#define MADE_LARGE ((int64_t)1 << 19)

typedef struct made_job {
	const k_loops *loops;
	char *dst;
	k_type type;
	int64_t n;
	k_make_fn *make;
	void *arg;
} made_job;

static void made_piece(void *arg, int64_t first, int64_t last)
{
	const made_job *job = arg;
	const bool past = job->type == K_F16 && job->n >= MADE_LARGE;
	for (int64_t b = first; b < last; b++) {
		int64_t begin = b * MADE_BLOCK, n = MIN(job->n - begin, MADE_BLOCK);
		char *to = job->dst + begin * (int64_t)k_type_size(job->type);
		const float *x = job->make(job->arg, begin, n);
		if (past)
			job->loops->store_past((half *)(void *)to, x, (int)n);
		else
			job->loops->store(to, job->type, 1, x, (int)n);
	}
#ifdef __x86_64__
	__builtin_ia32_sfence(); /* stores past the caches become visible before this piece counts as done */
#endif
}

void k_store_made(pool *p, uint32_t isa, void *dst, k_type type, int64_t n, k_make_fn *make, void *arg)
{
	made_job job = {loops_for(isa), dst, type, n, make, arg};
	run_pieces(p, (n + MADE_BLOCK - 1) / MADE_BLOCK, MADE_BLOCK, made_piece, &job);
}

/* ---- Copy ------------------------------------------------------------------------- */

typedef struct copy_job {
	ew_space space; /* operand 0: destination, 1: source */
	size_t size;
	char *dst;
	const char *src;
} copy_job;

#define COPY_TILE 4096 /* elements of a tile; transposed: 32 x 128 */

/* dst element (i, j) at i * di + j * dj, likewise src; strides in elements.  i runs inside, in
 * short stretches: with a transposed source its reads share cache lines. */
#define COPY_2D(type)                                                            \
	do {                                                                     \
		type *d = dst;                                                   \
		const type *s = src;                                             \
		for (int i0 = 0; i0 < ni; i0 += 16) {                            \
			int end = MIN(i0 + 16, ni);                              \
			for (int j = 0; j < nj; j++)                             \
				for (int i = i0; i < end; i++)                   \
					d[i * di + j * dj] = s[i * si + j * sj]; \
		}                                                                \
	} while (0)

static void copy_tile(void *dst, int64_t di, int64_t dj, const void *src, int64_t si, int64_t sj, int ni,
		      int nj, size_t size)
{
	if (dj == 1 && sj == 1) {
		for (int i = 0; i < ni; i++)
			memcpy((char *)dst + i * di * (int64_t)size,
			       (const char *)src + i * si * (int64_t)size, (size_t)nj * size);
		return;
	}
	switch (size) {
	case 1: COPY_2D(uint8_t); break;
	case 2: COPY_2D(uint16_t); break;
	case 4: COPY_2D(uint32_t); break;
	case 8: COPY_2D(uint64_t); break;
	default:
		for (int i = 0; i < ni; i++)
			for (int j = 0; j < nj; j++)
				memcpy((char *)dst + (i * di + j * dj) * (int64_t)size,
				       (const char *)src + (i * si + j * sj) * (int64_t)size, size);
	}
}

static void copy_piece(void *arg, int64_t first, int64_t last)
{
	const copy_job *job = arg;
	const ew_space *s = &job->space;
	const int64_t size = (int64_t)job->size;
	int i = s->rank - 2, j = s->rank - 1;
	ew_tile t = {0};
	for (int64_t b = first; b < last; b++) {
		space_at(s, b, 0, &t);
		copy_tile(job->dst + t.offset[0] * size, s->stride[0][i], s->stride[0][j],
			  job->src + t.offset[1] * size, s->stride[1][i], s->stride[1][j], t.ni, t.nj,
			  job->size);
	}
}

void k_copy_strided(pool *p, size_t size, int rank, const int64_t *dims, void *dst, const int64_t *dst_stride,
		    const void *src, const int64_t *src_stride)
{
	assert(rank <= EW_MAX_DIMS);
	int64_t stride[2][EW_MAX_DIMS] = {{0}};
	for (int d = 0; d < rank; d++) {
		if (dims[d] == 0)
			return;
		stride[0][d] = dst_stride[d];
		stride[1][d] = src_stride[d];
	}
	copy_job job = {.size = size, .dst = dst, .src = src};
	space_make(&job.space, rank, dims, 0, 0, 0, 2, (const int64_t(*)[EW_MAX_DIMS])stride, 0, COPY_TILE);
	run_pieces(p, space_tiles(&job.space, false), COPY_TILE, copy_piece, &job);
}
