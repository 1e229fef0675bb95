/* The fixed-point arithmetic of K_FIXED, as measured on Neural Engines from M1 to M6: matmul, linear
 * and direct convolution on all of them reproduce published results to the last digit with it.
 *
 *   1. Every fp16 pattern is a number: exponent field 31 is an ordinary exponent (infinity is 2^16,
 *      NaN up to 131008), subnormals count as exponent -14.
 *   2. A product whose operands' exponents add up to less than -16 contributes nothing.
 *   3. Any other is rounded to a multiple of 2^-16, half away from zero.
 *   4. These are added exactly, k ascending, to an accumulator that starts at the bias, rounded alike.
 *      If it ever reaches 2^15 in magnitude, the result is infinite, whatever comes afterwards.
 *   5. The sum is rounded to fp16, half away from zero; zero is +0. */
#ifndef KERNEL_GEMM_FIXED_H
#define KERNEL_GEMM_FIXED_H

#include "kernel/gemm.h"

#include <math.h>
#include <string.h>

enum {
	FIXED_BITS = 16,        /* of the accumulator's fraction */
	FIXED_CUT = -16,        /* least sum of exponents */
	FIXED_MIN_EXP = -14,    /* of subnormals and zero */
	FIXED_WHOLE_K = 1 << 30 /* a block of K: the accumulator is not to be parted */
};
#define FIXED_ONE   0x1p16 /* 1 in units of the accumulator */
#define FIXED_LIMIT 0x1p31 /* what it must not reach, in these units */

/* A finished sum in units of 2^-16, perhaps infinite, as the fp16 value it is rounded to: half of the
 * last of 11 bits is added, the bits below are cut off.  Subnormal results are multiples of 2^-24 before. */
static inline float fixed_result(double sum)
{
	uint64_t u;
	memcpy(&u, &sum, sizeof u);
	u = (u + (UINT64_C(1) << 41)) & ~((UINT64_C(1) << 42) - 1);
	memcpy(&sum, &u, sizeof u);
	return (float)(sum * (1 / FIXED_ONE)) + 0.0f; /* -0 becomes +0 */
}

/* What the accumulator holds at first for a bias; beyond the limit, infinity. */
static inline double fixed_start(float bias)
{
	double x = trunc((double)bias * FIXED_ONE + copysign(0.5, (double)bias));
	return fabs(x) < FIXED_LIMIT ? x : copysign(INFINITY, (double)bias);
}

#endif
