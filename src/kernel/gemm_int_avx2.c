/* Products of 8-bit integers with 256-bit vectors: widened to pairs of int16, whose products vpmaddwd adds
 * up. */
#include "kernel/gemm_int.h"

#ifdef __AVX2__
#include "kernel/gemm_pack_avx2.h"

#include <string.h>

enum { MR = 6, NR = 16 };

/* Panel of pairs, panel[k / 2][width][2]. */
INLINE void pack(int16_t *panel, const void *src, k_type type, int64_t sv, int64_t se, int count, int k,
		 int width)
{
	const uint8_t *from = src;
	const int sign = type == K_U8 ? 0 : 128; /* x = (bits ^ 128) - 128 */
	memset(panel, 0, (size_t)(k + 1) / 2 * 2 * (size_t)width * sizeof *panel);
	for (int e = 0; e < k; e++) {
		int16_t *to = panel + (int64_t)(e / 2) * 2 * width + e % 2;
		for (int v = 0; v < count; v++)
			to[2 * v] = (int16_t)((from[v * sv + e * se] ^ sign) - sign);
	}
}

UNCHECKED void pack_int_avx2_a(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
			       int k)
{
	if (se == 1)
		pack(panel, src, type, sv, 1, count, k, MR);
	else
		pack(panel, src, type, sv, se, count, k, MR);
}
UNCHECKED void pack_int_avx2_b(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
			       int k)
{
	if (sv == 1)
		pack(panel, src, type, 1, se, count, k, NR);
	else
		pack(panel, src, type, sv, se, count, k, NR);
}

/* Stores or adds the first n of 8 sums. */
INLINE void put8(int32_t *to, __m256i x, int n, bool add)
{
	int32_t t[8];
	if (n <= 0)
		return;
	_mm256_storeu_si256((__m256i *)t, x);
	for (int j = 0; j < n && j < 8; j++)
		to[j] = add ? to[j] + t[j] : t[j];
}

/* 6 x 2 accumulators, two vectors of B, one broadcast of A: 15 of 16 registers. */
UNCHECKED void gemm_int_avx2(int k, const void *pa, const void *pb, float *c, int64_t ldc, int m, int n,
			     bool add)
{
	const int32_t *a = pa, *b = pb; /* pairs */
	__m256i t[MR][2];
	UNROLL
	for (int i = 0; i < MR; i++)
		t[i][0] = t[i][1] = _mm256_setzero_si256();
	for (int p = 0; p < k; p += 2, a += MR, b += NR) {
		__m256i b0 = _mm256_loadu_si256((const __m256i *)b),
			b1 = _mm256_loadu_si256((const __m256i *)(b + 8));
		UNROLL
		for (int i = 0; i < MR; i++) {
			__m256i x = _mm256_set1_epi32(a[i]);
			t[i][0] = _mm256_add_epi32(t[i][0], _mm256_madd_epi16(x, b0));
			t[i][1] = _mm256_add_epi32(t[i][1], _mm256_madd_epi16(x, b1));
		}
	}
	UNROLL
	for (int i = 0; i < MR; i++) {
		if (i >= m)
			break;
		int32_t *to = (int32_t *)(void *)c + i * ldc; /* see gemm_kernel_fn */
		UNROLL
		for (int v = 0; v < 2; v++)
			put8(to + 8 * v, t[i][v], n - 8 * v, add);
	}
}
#endif
