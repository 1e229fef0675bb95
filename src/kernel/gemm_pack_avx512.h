/* Packing with 512-bit vectors, for the GEMM files that have them.
 *
 * The unit is a square of 16 vectors x 16 words of 32 bits, a word being one fp32 or a pair of
 * bf16 that follow each other along k.  Sources that are contiguous along k load as rows
 * of the square (one per vector), sources contiguous across vectors as its columns (one per
 * word); whichever a panel does not want is turned round in registers. */
#ifndef KERNEL_GEMM_PACK_AVX512_H
#define KERNEL_GEMM_PACK_AVX512_H

#include "kernel/gemm.h"
#include "kernel/turn_avx512.h"

INLINE __mmask16 low_mask(int n) { return (__mmask16)(n >= 16 ? 0xffff : n <= 0 ? 0 : (1 << n) - 1); }

/* 16 contiguous elements as fp32; those not in the mask are 0 and not touched. */
INLINE __m512 load_floats16(const void *src, k_type type, int64_t at, __mmask16 m)
{
	if (type == K_F32)
		return _mm512_maskz_loadu_ps(m, (const float *)src + at);
	return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, (const half *)src + at));
}

/* The same with a stride. */
INLINE __m512 gather_floats16(const void *src, k_type type, int64_t at, int64_t stride, int n)
{
	float t[16] = {0};
	for (int i = 0; i < n && i < 16; i++)
		t[i] = type == K_F32 ? ((const float *)src)[at + i * stride]
				     : _cvtsh_ss(((const half *)src)[at + i * stride]);
	return _mm512_loadu_ps(t);
}

INLINE __mmask32 low_mask32(int n) { return n >= 32 ? 0xffffffff : n <= 0 ? 0 : (UINT32_C(1) << n) - 1; }

/* 32 elements of a vector of fp16, as they are; those from n on are 0 and not touched. */
INLINE __m512i load_along(const half *src, int64_t at, int64_t stride, int n)
{
	if (stride == 1)
		return _mm512_maskz_loadu_epi16(low_mask32(n), src + at);
	half t[32] = {0};
	for (int i = 0; i < n && i < 32; i++)
		t[i] = src[at + i * stride];
	return _mm512_loadu_si512(t);
}

/* Panel of fp32, panel[k][width]. */
INLINE void pack_f32_type(float *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
			  int k, int width)
{
	for (int v = 0; v < width; v += 16) {
		const int n = count - v;
		const __mmask16 have = low_mask(n), wide = low_mask(width - v);
		if (sv == 1) {
			for (int e = 0; e < k; e++)
				_mm512_mask_storeu_ps(panel + (int64_t)e * width + v, wide,
						      load_floats16(src, type, v + e * se, have));
			continue;
		}
		for (int e = 0; e < k; e += 16) {
			__m512i r[16];
			const __mmask16 m = low_mask(k - e);
			UNROLL
			for (int i = 0; i < 16; i++) {
				__m512 x = _mm512_setzero_ps();
				if (i < n)
					x = se == 1 ? load_floats16(src, type, (v + i) * sv + e, m)
						    : gather_floats16(src, type, (v + i) * sv + e * se, se,
								      k - e);
				r[i] = _mm512_castps_si512(x);
			}
			turn16(r);
			float *to = panel + (int64_t)e * width + v;
			UNROLL
			for (int i = 0; i < 16; i++) {
				if (i < k - e)
					_mm512_mask_storeu_ps(to + i * width, wide,
							      _mm512_castsi512_ps(r[i]));
			}
		}
	}
}

#endif
