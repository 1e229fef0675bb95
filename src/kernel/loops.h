/* What is compiled once per instruction set: inner loops over one thread's piece of work.
 * loops_portable.c, loops_avx2.c, loops_avx512.c and loops_neon.c each fill one table from the same
 * sources (loops_impl.h); the files that cut work into pieces (ewise.c,
 * softmax.c, train.c) pick a table by the ISA mask. */
#ifndef KERNEL_LOOPS_H
#define KERNEL_LOOPS_H

#include "kernel/kernel.h"

/* Elements of a register: 2 KB, so that eight of them and their operands stay in a 32 KB cache. */
#define EW_BLOCK 512
/* Independent partial results of a reduction along contiguous elements; element i goes to
 * lane i % EW_LANES, lanes are folded by halves.  The same on every instruction set. */
#define EW_LANES 16
/* Columns that softmax and cross-entropy along an outer axis take at once: 64 or 128 bytes of a row. */
#define COLUMN_BLOCK 64
#define LOSS_ROWS    64 /* of logits at a time, 8 KB of fp16 */
typedef float ew_register[EW_BLOCK];

/* A piece of the index space: ni x nj elements, operand o's element (i, j) at
 * data + offset[o] + i * si[o] + j * sj[o].  Register element (i, j) is at i * nj + j. */
typedef struct ew_tile {
	int ni, nj;
	int64_t at[2]; /* the index along the dims `above` and `below` of its first element */
	int64_t offset[EW_MAX_OPERANDS], si[EW_MAX_OPERANDS], sj[EW_MAX_OPERANDS];
} ew_tile;

typedef struct k_loops {
	/* Runs all instructions on a tile.  wanted: the register that is read afterwards, or -1.  counts:
	 * NULL, or one for each instruction. */
	void (*run)(const ew_program *p, const ew_tile *t, ew_register *reg, int wanted, k_counts *counts);
	/* Folds register x[ni][nj] into acc: over i if fold_i, over j if fold_j; acc has the other
	 * dims.  `first`: acc has no value yet. */
	void (*fold)(float *acc, const float *x, int ni, int nj, bool fold_i, bool fold_j, k_reduction how,
		     bool integer, bool first);
	/* What is left to do when all is folded: MEAN divides by `count`, L2 takes the root. */
	void (*finish)(float *acc, int n, k_reduction how, int64_t count);
	/* Elements with stride s to fp32 and back; s == 1 is the fast case. */
	void (*load)(float *dst, const void *src, k_type type, int64_t s, int n);
	void (*store)(void *dst, k_type type, int64_t s, const float *src, int n);
	/* Contiguous fp32 to fp16, past the caches where the set can: for what is not read soon.  The caller
	 * sees to the order of these stores. */
	void (*store_past)(half *dst, const float *src, int n);
	/* m rows of n elements at once, fp16 to fp32 and back */
	void (*widen_rows)(float *dst, int64_t ldd, const half *src, int64_t lds, int m, int n);
	void (*narrow_rows)(half *dst, int64_t ldd, const float *src, int64_t lds, int m, int n);
	/* Softmax of n elements in place; x has room for a multiple of EW_LANES. */
	void (*softmax_row)(float *x, int64_t n);
	/* The same from fp16 to fp16, y may be x; buf has room as above. */
	void (*softmax_halves)(half *y, const half *x, float *buf, int64_t n);
	/* Columns x[rows][n], n <= EW_LANES * 4: running maximum and sum of e^(x - max). */
	void (*softmax_update)(float *max, float *sum, const float *x, int rows, int n);
	/* x = e^(x - max) * factor for x[rows][n] */
	void (*softmax_apply)(float *x, const float *max, const float *factor, int rows, int n);
	/* Columns x[rows][n], rows <= LOSS_ROWS and n <= COLUMN_BLOCK: their maximum and sum of e^(x - max)
	 * are joined to those that are there; x becomes e^(x - max) * factor. */
	void (*loss_sum)(float *max, float *sum, const half *x, int64_t ld, int rows, int n);
	void (*loss_gradient)(half *x, int64_t ld, const float *max, const float *factor, int rows, int n);
	/* Joins the second pair to the first. */
	void (*loss_join)(float *max, float *sum, const float *max2, const float *sum2, int n);
	/* dst[i] = (float)(std * random_normal(seed, stream, first + i)), n <= EW_BLOCK */
	void (*normal)(float *dst, uint64_t seed, uint64_t stream, double std, int64_t first, int n);
	double (*sum_squares)(const float *x, int64_t n, bool *finite);
	void (*adamw)(const k_adamw *h, float *w, const float *g, float *m, float *v, int64_t n);
	/* One item of k_gemm_count's two passes; arg is a count_run. */
	void (*count_products)(void *arg, int64_t item, int worker);
	void (*count_results)(void *arg, int64_t item, int worker);
} k_loops;

extern const k_loops loops_portable, loops_avx2, loops_avx512, loops_neon;
const k_loops *loops_for(uint32_t isa);

/* ---- Cutting an index space into tiles (ewise.c) ---------------------------------- */

/* The index space of some operands with dims of size 1 dropped, ordered so that memory is
 * walked along it, and merged where all operands allow it.  The last two dims make up tiles;
 * if one operand is contiguous along another dim than the rest, those two are the tile's dims
 * and the tile is nearly square, so that both sides use whole cache lines. */
typedef struct ew_space {
	int rank; /* 2 .. EW_MAX_DIMS + 2 */
	int noperands;
	int64_t dim[EW_MAX_DIMS + 2], block[EW_MAX_DIMS + 2], blocks[EW_MAX_DIMS + 2];
	int64_t stride[EW_MAX_OPERANDS][EW_MAX_DIMS + 2];
	bool folded[EW_MAX_DIMS + 2]; /* reduced over */
	int8_t role[EW_MAX_DIMS + 2]; /* 1: ew_program's `above`, -1: its `below`, 0: neither */
	int64_t shift;                /* ew_program's */
} ew_space;

/* `lead`: the operand whose order in memory counts most.  `mask`: dims that are reduced.
 * `above`, `below`: see ew_program; these dims stay apart.  `limit`: elements of a tile. */
void space_make(ew_space *s, int rank, const int64_t *dim, uint32_t mask, int above, int below, int noperands,
		const int64_t (*stride)[EW_MAX_DIMS], int lead, int limit);
/* Number of tiles over the dims that are (not) folded. */
int64_t space_tiles(const ew_space *s, bool folded);
/* The place and size of tile `index` over the dims that are not folded, tile `step` over those that are. */
void space_at(const ew_space *s, int64_t index, int64_t step, ew_tile *t);

/* Runs fn(arg, first, last, worker) over [0, n) in pieces; `weight` is the elements one index stands
 * for: small work stays on the caller, pieces are large enough to hide their dispatch. */
void run_pieces(pool *p, int64_t n, int64_t weight, void (*fn)(void *arg, int64_t first, int64_t last),
		void *arg);

#endif
