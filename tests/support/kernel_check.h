/* Shared by the kernel tests: random data that any run reproduces, the instruction sets to try,
 * pools of several sizes. */
#ifndef SUPPORT_KERNEL_CHECK_H
#define SUPPORT_KERNEL_CHECK_H

#include "kernel/kernel.h"

/* The masks that this machine can run, from portable (0) up; *n of them. */
const uint32_t *check_isas(int *n);

/* Pools with 1 (NULL), 2, 3 and 5 threads; check_pools_stop ends them. */
enum { CHECK_POOLS = 4 };
pool *const *check_pools(void);
void check_pools_stop(void);

/* Uniform in [lo, hi), the same for the same (seed, i). */
double check_uniform(uint64_t seed, uint64_t i, double lo, double hi);

/* Distance in units in the last place of the fp32 result, beyond half of one that rounding may
 * cost: |got - want| / ulp(want).  Infinities and NaN: 0 if the same, else infinite. */
double check_ulp(float got, double want);

/* The sum of x[p * sx] w[p * sw] for p < k that starts at a bias, by the rules of kernel/gemm_fixed.h,
 * which are written once more here: in double, operands decoded by arithmetic. */
half check_fixed(const half *x, int64_t sx, const half *w, int64_t sw, int64_t k, double bias);

/* Whether both hold the same bits, where any NaN equals any NaN. */
bool check_same(float a, float b);

#endif
