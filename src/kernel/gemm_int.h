/* The arithmetic of products of 8-bit integers: exact, summed in 32 bits.
 *
 * A sum that reaches 2^31 in magnitude, k ascending, is INT32_MAX or INT32_MIN for good.  Where K is so short
 * that no sum can (gemm_int_saturates), the order does not matter and partial sums may be taken modulo 2^32:
 * such products may take any row.  The others are left to the portable one, which sees all of K. */
#ifndef KERNEL_GEMM_INT_H
#define KERNEL_GEMM_INT_H

#include "kernel/gemm.h"

enum {
	INT_WHOLE_K = 1 << 30,      /* a block of K: the sum is not to be parted */
	GEMM_INT_VNNI_TRAILER = 192 /* bytes after a panel of gemm_int_avx512vnni.c */
};

static inline int64_t gemm_int_largest(k_type t) { return t == K_U8 ? 255 : 128; }

/* Whether a sum of k products of these types can reach 2^31. */
static inline bool gemm_int_saturates(k_type a, k_type b, int64_t k)
{
	return k > INT32_MAX / (gemm_int_largest(a) * gemm_int_largest(b));
}

#endif
