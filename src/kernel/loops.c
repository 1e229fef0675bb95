/* Choosing loops, and spreading pieces over threads. */
#include "kernel/loops.h"

const k_loops *loops_for(uint32_t isa)
{
#ifdef __x86_64__
	if (isa & ISA_AVX512)
		return &loops_avx512;
	if (isa & ISA_AVX2)
		return &loops_avx2;
#endif
#ifdef __aarch64__
	if (isa & ISA_NEON)
		return &loops_neon;
#endif
	(void)isa;
	return &loops_portable;
}

typedef struct pieces {
	int64_t n, step;
	void (*fn)(void *arg, int64_t first, int64_t last);
	void *arg;
} pieces;

static void run_piece(void *arg, int64_t i, int worker)
{
	const pieces *q = arg;
	(void)worker;
	q->fn(q->arg, i * q->step, MIN((i + 1) * q->step, q->n));
}

/* Elements for which waking threads pays (some microseconds of work), and of one piece. */
#define PARALLEL_ELEMENTS 16384
#define PIECE_ELEMENTS    8192

void run_pieces(pool *p, int64_t n, int64_t weight, void (*fn)(void *arg, int64_t first, int64_t last),
		void *arg)
{
	if (n <= 0)
		return;
	if (!p || n == 1 || n * weight < PARALLEL_ELEMENTS) {
		fn(arg, 0, n);
		return;
	}
	/* about eight pieces per thread even out their speeds, if that leaves them large enough */
	int64_t step = MAX(n / (8 * pool_threads(p)), PIECE_ELEMENTS / MAX(weight, 1));
	pieces q = {n, MAX(step, 1), fn, arg};
	pool_run(p, run_piece, &q, (n + q.step - 1) / q.step);
}
