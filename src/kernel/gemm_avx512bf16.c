/* GEMM on vdpbf16ps: pairs of bf16, fp32 accumulation; twice the fp32 rate where it is implemented at
 * full width (Zen 4), half of it on processors that have tiles and use those.  Subnormal
 * operands and results count as zero. */
#include "kernel/gemm.h"

#ifdef __AVX512BF16__
#include "kernel/gemm_pack_bf16.h"
#include "kernel/gemm_tile_avx512.h"

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

PACKERS(pack_bf16_avx512, pack_words, 12, 32)

INLINE __m512 dot(__m512 t, __m512i x, __m512i b) { return _mm512_dpbf16_ps(t, (__m512bh)x, (__m512bh)b); }

UNCHECKED void gemm_bf16_avx512(int k, const void *a, const void *b, float *c, int64_t ldc, int m, int n,
				bool add)
{
	TILE_SIZED(tile_words, m, n > 16, dot, k / 2, a, b, c, ldc, m, n, add, NULL, 0);
}

UNCHECKED void gemm_bf16_avx512_half(int k, const void *a, const void *b, const float *c, int64_t ldc, int m,
				     int n, bool add, half *out, int64_t ldo)
{
	TILE_SIZED(tile_words, m, n > 16, dot, k / 2, a, b, (float *)c, ldc, m, n, add, out, ldo);
}
#endif
