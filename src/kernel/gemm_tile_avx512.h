/* Tiles of 12 x 2 vectors that stay in registers, for the GEMM files with 512-bit vectors. */
#ifndef KERNEL_GEMM_TILE_AVX512_H
#define KERNEL_GEMM_TILE_AVX512_H

#include "kernel/gemm_pack_avx512.h"

enum { TILE_ROWS = 12 };

/* Calls tile(rows, vectors, ...) with the smallest sizes that hold m rows and, with `wide`, two vectors of
 * columns: panels are padded with zeros, so a few serve all edges. */
#define TILE_SIZED(tile, m, wide, ...)            \
	do {                                      \
		if ((wide) && (m) > 8)            \
			tile(12, 2, __VA_ARGS__); \
		else if ((wide) && (m) > 4)       \
			tile(8, 2, __VA_ARGS__);  \
		else if (wide)                    \
			tile(4, 2, __VA_ARGS__);  \
		else if ((m) > 8)                 \
			tile(12, 1, __VA_ARGS__); \
		else if ((m) > 4)                 \
			tile(8, 1, __VA_ARGS__);  \
		else                              \
			tile(4, 1, __VA_ARGS__);  \
	} while (0)

/* t + x b, for one word of A and 16 words of B: a multiply-add of fp32, or a dot product of pairs. */
typedef __m512 tile_step(__m512 t, __m512i x, __m512i b);

/* The ends of a tile.  Clang unrolls the second with a mask only, not with an exit. */
INLINE void store_floats(const int rows, const int vectors, __m512 t[TILE_ROWS][2], float *c, int64_t ldc,
			 int m, int n, bool add)
{
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
INLINE void store_halves(const int rows, const int vectors, __m512 t[TILE_ROWS][2], const float *c,
			 int64_t ldc, int m, int n, bool add, half *out, int64_t ldo)
{
	UNROLL
	for (int i = 0; i < rows; i++) {
		UNROLL
		for (int v = 0; v < vectors; v++) {
			__mmask16 mask = low_mask(i < m ? n - 16 * v : 0);
			__m512 x = t[i][v];
			if (add)
				x = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c + i * ldc + 16 * v), x);
			_mm256_mask_storeu_epi16(out + i * ldo + 16 * v, mask,
						 _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
		}
	}
}

/* rows x (16 * vectors) sums: with 12 x 2 there is room for two vectors of B and a broadcast of A.  Panels of
 * `words` words along k.  A step known at compile time is inlined.  Sums go to c, or rounded to `out`. */
INLINE void tile_words(const int rows, const int vectors, tile_step *const step, int words, const uint32_t *a,
		       const uint32_t *b, float *c, int64_t ldc, int m, int n, bool add, half *out,
		       int64_t ldo)
{
	__m512 t[TILE_ROWS][2];
	UNROLL
	for (int i = 0; i < rows; i++)
		t[i][0] = t[i][1] = _mm512_setzero_ps();
	for (int p = 0; p < words; p++, a += TILE_ROWS, b += 32) {
		__m512i bv[2];
		UNROLL
		for (int v = 0; v < vectors; v++)
			bv[v] = _mm512_loadu_si512(b + 16 * v);
		UNROLL
		for (int i = 0; i < rows; i++) {
			__m512i x = _mm512_set1_epi32((int)a[i]);
			UNROLL
			for (int v = 0; v < vectors; v++)
				t[i][v] = step(t[i][v], x, bv[v]);
		}
	}
	if (out)
		store_halves(rows, vectors, t, c, ldc, m, n, add, out, ldo);
	else
		store_floats(rows, vectors, t, c, ldc, m, n, add);
}

/* Two packing functions from one that takes the type as a constant: INLINE body(panel, src, type, sv, se,
 * count, k, width). */
#define PACKERS(name, body, width_a, width_b)                                                      \
	UNCHECKED void name##_a(void *panel, const void *src, k_type type, int64_t sv, int64_t se, \
				int count, int k)                                                  \
	{                                                                                          \
		if (type == K_F16)                                                                 \
			body(panel, src, K_F16, sv, se, count, k, width_a);                        \
		else                                                                               \
			body(panel, src, K_F32, sv, se, count, k, width_a);                        \
	}                                                                                          \
	UNCHECKED void name##_b(void *panel, const void *src, k_type type, int64_t sv, int64_t se, \
				int count, int k)                                                  \
	{                                                                                          \
		if (type == K_F16)                                                                 \
			body(panel, src, K_F16, sv, se, count, k, width_b);                        \
		else                                                                               \
			body(panel, src, K_F32, sv, se, count, k, width_b);                        \
	}

#endif
