/* Counting what a contraction lost, from its operands and its result (k_gemm_count).
 *
 * Whether a product is lost depends on exponents alone, unless an operand is subnormal; so products are not
 * looked at one by one: for each k, column k of A and row k of B are sorted into classes, whose sizes are
 * multiplied.  The product of a subnormal and an operand in [2^-2, 2^7) may be rounded to 0; there
 * significands decide, by a table of the subnormals that the other operands look up.  An
 * output is looked at more closely only if it is 0 or infinite.
 *
 * gemm_count_impl.h has the loops, which are part of every loops_*.c. */
#ifndef KERNEL_GEMM_COUNT_H
#define KERNEL_GEMM_COUNT_H

#include "kernel/gemm_fixed.h"

#include <stdatomic.h>

enum {
	COUNT_STEP = 32, /* of k, for the classes; also the elements of a vector of counters */
	COUNT_TILE = 64  /* rows, columns and k, for outputs */
};

typedef struct count_run {
	const k_gemm_args *g;
	int64_t ksteps, mtiles, ntiles;
	bool fixed;
	atomic_int_fast64_t products, lost, overflowed, vanished;
	atomic_uint_fast32_t largest; /* bits of a float, which are ordered as positive floats are */
} count_run;

#endif
