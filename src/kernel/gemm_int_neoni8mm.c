/* Products of 8-bit integers on SMMLA: 2 x 8 times 8 x 2, 32 products per instruction. */
#include "kernel/gemm_int.h"

#ifdef __ARM_FEATURE_MATMUL_INT8
enum { DEPTH = 8 };
#include "kernel/gemm_int_neon.h"

UNCHECKED void pack_int_neoni8mm_a(void *panel, const void *src, k_type type, int64_t sv, int64_t se,
				   int count, int k)
{
	pack_a(panel, src, type, sv, se, count, k);
}
UNCHECKED void pack_int_neoni8mm_b(void *panel, const void *src, k_type type, int64_t sv, int64_t se,
				   int count, int k)
{
	pack_b(panel, src, type, sv, se, count, k);
}

INLINE int32x4_t row_of(int32x4_t a, int32x4_t b, int i)
{
	const float32x4_t x = vreinterpretq_f32_s32(a), y = vreinterpretq_f32_s32(b);
	return vreinterpretq_s32_f32(i % 2 ? high_halves(x, y) : low_halves(x, y));
}

/* Squares of sums, registers and bounds of loops as in gemm_neonbf16.c. */
INLINE void tile(const int pairs, const int columns, int k, const int8_t *a, const int8_t *b, int32_t *c,
		 int64_t ldc, int m, int n, bool add)
{
	int32x4_t t[MR / 2][NR / 2];
	UNROLL
	for (int j = 0; j < NR / 2; j++)
		t[0][j] = t[1][j] = t[2][j] = t[3][j] = vdupq_n_s32(0);
	for (int p = 0; p < k; p += DEPTH, a += DEPTH * MR, b += DEPTH * NR) {
		int8x16_t x[MR / 2];
		UNROLL
		for (int i = 0; i < MR / 2; i++)
			if (i < pairs)
				x[i] = vld1q_s8(a + 16 * i);
		UNROLL
		for (int j = 0; j < NR / 2; j++) {
			if (j >= columns)
				break;
			const int8x16_t w = vld1q_s8(b + 16 * j);
			UNROLL
			for (int i = 0; i < MR / 2; i++)
				if (i < pairs)
					t[i][j] = vmmlaq_s32(t[i][j], x[i], w);
			if (j % 2) /* else gcc loads all of B first and runs out of registers */
				__asm__ volatile("" ::: "memory");
		}
	}
	const trailer *ta = trailer_of(a, k), *tb = trailer_of(b, k);
	UNROLL
	for (int i = 0; i < MR; i++) {
		if (i >= 2 * pairs || i >= m)
			break;
		UNROLL
		for (int j = 0; j < NR / 2; j += 2)
			if (j < columns)
				put(c + i * ldc + 2 * j, row_of(t[i / 2][j], t[i / 2][j + 1], i), ta, tb, i,
				    2 * j, n - 2 * j, add);
	}
}

UNCHECKED void gemm_int_neoni8mm(int k, const void *a, const void *b, float *pc, int64_t ldc, int m, int n,
				 bool add)
{
	int32_t *c = (int32_t *)(void *)pc; /* see gemm_kernel_fn */
	/* panels are padded with zeros, so a few sizes serve all edges */
	if (m > 4) {
		if (n > 4)
			tile(4, 6, k, a, b, c, ldc, m, n, add);
		else
			tile(4, 2, k, a, b, c, ldc, m, n, add);
	} else {
		if (n > 4)
			tile(2, 6, k, a, b, c, ldc, m, n, add);
		else
			tile(2, 2, k, a, b, c, ldc, m, n, add);
	}
}
#endif
