/* Packing with 256-bit vectors, for the GEMM files that have them: squares of 8 vectors x 8 elements. */
#ifndef KERNEL_GEMM_PACK_AVX2_H
#define KERNEL_GEMM_PACK_AVX2_H

#include "kernel/gemm.h"

#include <immintrin.h>
#include <string.h>

/* as in turn_avx512.h */
#define UNCHECKED __attribute__((no_sanitize("address", "undefined")))
#define INLINE    static inline __attribute__((always_inline)) UNCHECKED
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

INLINE void turn(__m256 r[8])
{
	__m256 t[8];
	UNROLL
	for (int i = 0; i < 4; i++) {
		t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
		t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
	}
	UNROLL
	for (int i = 0; i < 2; i++) {
		r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
		r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
		r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
		r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
	}
	UNROLL
	for (int i = 0; i < 4; i++) {
		t[i] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x20);
		t[i + 4] = _mm256_permute2f128_ps(r[i], r[i + 4], 0x31);
	}
	UNROLL
	for (int i = 0; i < 8; i++)
		r[i] = t[i];
}

INLINE float load1(const void *src, k_type type, int64_t at)
{
	return type == K_F32 ? ((const float *)src)[at] : _cvtsh_ss(((const half *)src)[at]);
}

/* 8 elements with a stride, as fp32; those from n on are 0 and not touched. */
INLINE __m256 load8(const void *src, k_type type, int64_t at, int64_t stride, int n)
{
	if (n >= 8 && stride == 1) {
		if (type == K_F32)
			return _mm256_loadu_ps((const float *)src + at);
		return _mm256_cvtph_ps(
		    _mm_loadu_si128((const __m128i *)(const void *)((const half *)src + at)));
	}
	float t[8] = {0};
	for (int i = 0; i < n && i < 8; i++)
		t[i] = load1(src, type, at + i * stride);
	return _mm256_loadu_ps(t);
}

/* The first n of 8 go to memory. */
INLINE void store8(float *to, __m256 x, int n)
{
	if (n >= 8) {
		_mm256_storeu_ps(to, x);
	} else if (n > 0) {
		float t[8];
		_mm256_storeu_ps(t, x);
		memcpy(to, t, (size_t)n * 4);
	}
}

/* Panel of fp32, panel[k][width]. */
INLINE void pack_f32_type(float *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
			  int k, int width)
{
	for (int v = 0; v < width; v += 8) {
		const int n = count - v, wide = width - v;
		if (sv == 1 && se != 1) {
			for (int e = 0; e < k; e++)
				store8(panel + (int64_t)e * width + v, load8(src, type, v + e * se, 1, n),
				       wide);
			continue;
		}
		for (int e = 0; e < k; e += 8) {
			__m256 r[8];
			UNROLL
			for (int i = 0; i < 8; i++)
				r[i] = i < n ? load8(src, type, (v + i) * sv + e * se, se, k - e)
					     : _mm256_setzero_ps();
			turn(r);
			UNROLL
			for (int i = 0; i < 8; i++)
				if (i < k - e)
					store8(panel + (int64_t)(e + i) * width + v, r[i], wide);
		}
	}
}

#endif
