/* Products of 8-bit integers on SDOT, which adds four products to each of four sums. */
#include "kernel/gemm_int.h"

#ifdef __ARM_FEATURE_DOTPROD
enum { DEPTH = 4 };
#include "kernel/gemm_int_neon.h"

UNCHECKED void pack_int_neondot_a(void *panel, const void *src, k_type type, int64_t sv, int64_t se,
				  int count, int k)
{
	pack_a(panel, src, type, sv, se, count, k);
}
UNCHECKED void pack_int_neondot_b(void *panel, const void *src, k_type type, int64_t sv, int64_t se,
				  int count, int k)
{
	pack_b(panel, src, type, sv, se, count, k);
}

/* Registers and bounds of loops as in gemm_neon.c. */
INLINE void tile(const int rows, const int vectors, int k, const int8_t *a, const int8_t *b, int32_t *c,
		 int64_t ldc, int m, int n, bool add)
{
	int32x4_t t[MR][3];
	UNROLL
	for (int i = 0; i < MR; i++)
		t[i][0] = t[i][1] = t[i][2] = vdupq_n_s32(0);
	for (int p = 0; p < k; p += DEPTH, a += DEPTH * MR, b += DEPTH * NR) {
		const int8x16_t a0 = vld1q_s8(a), a1 = vld1q_s8(a + 16);
		int8x16_t w[3];
		UNROLL
		for (int v = 0; v < 3; v++)
			if (v < vectors)
				w[v] = vld1q_s8(b + 16 * v);
		UNROLL
		for (int v = 0; v < 3; v++) {
			if (v >= vectors)
				break;
				/* lanes must be literals */
#define ROW(i, x, lane) t[i][v] = vdotq_laneq_s32(t[i][v], w[v], x, lane)
			ROW(0, a0, 0);
			ROW(1, a0, 1);
			ROW(2, a0, 2);
			ROW(3, a0, 3);
			if (rows > 4) {
				ROW(4, a1, 0);
				ROW(5, a1, 1);
				ROW(6, a1, 2);
				ROW(7, a1, 3);
			}
#undef ROW
		}
	}
	const trailer *ta = trailer_of(a, k), *tb = trailer_of(b, k);
	UNROLL
	for (int i = 0; i < MR; i++) {
		if (i >= rows || i >= m)
			break;
		UNROLL
		for (int v = 0; v < 3; v++)
			if (v < vectors)
				put(c + i * ldc + 4 * v, t[i][v], ta, tb, i, 4 * v, n - 4 * v, add);
	}
}

UNCHECKED void gemm_int_neondot(int k, const void *a, const void *b, float *pc, int64_t ldc, int m, int n,
				bool add)
{
	int32_t *c = (int32_t *)(void *)pc; /* see gemm_kernel_fn */
	/* panels are padded with zeros, so a few sizes serve all edges */
	if (m > 4) {
		if (n > 4)
			tile(8, 3, k, a, b, c, ldc, m, n, add);
		else
			tile(8, 1, k, a, b, c, ldc, m, n, add);
	} else {
		if (n > 4)
			tile(4, 3, k, a, b, c, ldc, m, n, add);
		else
			tile(4, 1, k, a, b, c, ldc, m, n, add);
	}
}
#endif
