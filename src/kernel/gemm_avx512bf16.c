/* GEMM on vdpbf16ps: pairs of bf16, fp32 accumulation; twice the fp32 rate where it is implemented at
 * full width (Zen 4), half of it on processors that have tiles and use those.  Subnormal
 * operands and results count as zero. */
#include "kernel/gemm.h"

#ifdef __AVX512BF16__
#include "kernel/gemm_pack_bf16.h"

enum { MR = 12, NR = 32 };

/* Panel of words, panel[k / 2][width]. */
INLINE void pack_words(uint32_t *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
		       int k, int width)
{
	for (int v = 0; v < width; v += 16) {
		const __mmask16 wide = low_mask(width - v);
		for (int e = 0; e < k; e += 32) {
			__m512i r[16], unused[16];
			__mmask16 special = 0;
			if (load_square(r, unused, src, type, sv, se, v, e, count - v, k - e, false,
					&special) == BY_VECTOR)
				turn16(r);
			const int words = (k - e + 1) / 2;
			UNROLL
			for (int w = 0; w < 16; w++)
				if (w < words)
					_mm512_mask_storeu_epi32(panel + (int64_t)(e / 2 + w) * width + v,
								 wide, r[w]);
		}
	}
}

UNCHECKED void pack_bf16_avx512_a(void *panel, const void *src, k_type type, int64_t sv, int64_t se,
				  int count, int k)
{
	if (type == K_F16)
		pack_words(panel, src, K_F16, sv, se, count, k, MR);
	else
		pack_words(panel, src, K_F32, sv, se, count, k, MR);
}
UNCHECKED void pack_bf16_avx512_b(void *panel, const void *src, k_type type, int64_t sv, int64_t se,
				  int count, int k)
{
	if (type == K_F16)
		pack_words(panel, src, K_F16, sv, se, count, k, NR);
	else
		pack_words(panel, src, K_F32, sv, se, count, k, NR);
}

INLINE void tile(const int rows, const int vectors, int k, const uint32_t *a, const uint32_t *b, float *c,
		 int64_t ldc, int m, int n, bool add)
{
	__m512 t[MR][2];
	UNROLL
	for (int i = 0; i < rows; i++)
		t[i][0] = t[i][1] = _mm512_setzero_ps();
	for (int p = 0; p < k; p += 2, a += MR, b += NR) {
		__m512i bv[2];
		UNROLL
		for (int v = 0; v < vectors; v++)
			bv[v] = _mm512_loadu_si512(b + 16 * v);
		UNROLL
		for (int i = 0; i < rows; i++) {
			__m512i x = _mm512_set1_epi32((int)a[i]);
			UNROLL
			for (int v = 0; v < vectors; v++)
				t[i][v] = _mm512_dpbf16_ps(t[i][v], (__m512bh)x, (__m512bh)bv[v]);
		}
	}
	UNROLL
	for (int i = 0; i < rows; i++) {
		if (i >= m)
			break;
		UNROLL
		for (int v = 0; v < vectors; v++) {
			__mmask16 mask = low_mask(n - 16 * v);
			float *to = c + i * ldc + 16 * v;
			__m512 x = t[i][v];
			if (add)
				x = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), x);
			_mm512_mask_storeu_ps(to, mask, x);
		}
	}
}

UNCHECKED void gemm_bf16_avx512(int k, const void *pa, const void *pb, float *c, int64_t ldc, int m, int n,
				bool add)
{
	/* panels are padded with zeros, so a few sizes serve all edges */
	if (n > 16) {
		if (m > 8)
			tile(12, 2, k, pa, pb, c, ldc, m, n, add);
		else if (m > 4)
			tile(8, 2, k, pa, pb, c, ldc, m, n, add);
		else
			tile(4, 2, k, pa, pb, c, ldc, m, n, add);
	} else {
		if (m > 8)
			tile(12, 1, k, pa, pb, c, ldc, m, n, add);
		else if (m > 4)
			tile(8, 1, k, pa, pb, c, ldc, m, n, add);
		else
			tile(4, 1, k, pa, pb, c, ldc, m, n, add);
	}
}
#endif
