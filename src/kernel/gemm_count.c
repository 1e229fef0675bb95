/* Counting what a contraction lost: cutting it up.  gemm_count.h says how. */
#include "kernel/gemm_count.h"
#include "kernel/loops.h"

void k_counts_add(k_counts *to, const k_counts *from)
{
	to->products += from->products;
	to->lost += from->lost;
	to->results += from->results;
	to->overflowed += from->overflowed;
	to->vanished += from->vanished;
	to->largest = MAX(to->largest, from->largest);
}

void k_gemm_count(pool *p, uint32_t isa, const k_gemm_args *g, k_counts *counts)
{
	if (g->c.type == K_I32)
		return; /* integers are not lost */
	const k_loops *loops = loops_for(isa);
	count_run run = {.g = g,
			 .ksteps = (g->k + COUNT_STEP - 1) / COUNT_STEP,
			 .mtiles = (g->m + COUNT_TILE - 1) / COUNT_TILE,
			 .ntiles = (g->n + COUNT_TILE - 1) / COUNT_TILE,
			 .fixed = g->precision == K_FIXED};
	int64_t batches = 1;
	for (int d = 0; d < g->nbatch; d++)
		batches *= g->batch[d];
	pool_run(p, loops->count_products, &run, batches * run.ksteps);
	pool_run(p, loops->count_results, &run, batches * run.mtiles * run.ntiles);
	k_counts_add(counts, &(k_counts){.products = run.products,
					 .lost = run.lost,
					 .results = batches * g->m * g->n,
					 .overflowed = run.overflowed,
					 .vanished = run.vanished,
					 .largest = bits_float((uint32_t)run.largest)});
}
