/* GEMM in fp32 with 512-bit vectors: products of fp16 values are exact (22 significant bits of 24). */
#include "kernel/gemm.h"

#ifdef __AVX512F__
#include "kernel/gemm_tile_avx512.h"

PACKERS(pack_f32_avx512, pack_f32_type, 12, 32)

INLINE __m512 multiply_add(__m512 t, __m512i x, __m512i b)
{
	return _mm512_fmadd_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(b), t);
}

UNCHECKED void gemm_f32_avx512(int k, const void *a, const void *b, float *c, int64_t ldc, int m, int n,
			       bool add)
{
	TILE_SIZED(tile_words, m, n > 16, multiply_add, k, a, b, c, ldc, m, n, add, NULL, 0);
}

UNCHECKED void gemm_f32_avx512_half(int k, const void *a, const void *b, const float *c, int64_t ldc, int m,
				    int n, bool add, half *out, int64_t ldo)
{
	TILE_SIZED(tile_words, m, n > 16, multiply_add, k, a, b, (float *)c, ldc, m, n, add, out, ldo);
}

/* ---- Matrix times vector ---------------------------------------------------------- */

/* Rows are contiguous: `rows` of them at a time, 16 partial sums each. */
INLINE void dot_rows(const int rows, float *y, const void *a, k_type type, int64_t rs, int64_t k,
		     const float *x)
{
	__m512 t[8];
	UNROLL
	for (int i = 0; i < rows; i++)
		t[i] = _mm512_setzero_ps();
	int64_t p = 0;
	for (; p + 16 <= k; p += 16) {
		__m512 xv = _mm512_loadu_ps(x + p);
		UNROLL
		for (int i = 0; i < rows; i++)
			t[i] = _mm512_fmadd_ps(load_floats16(a, type, i * rs + p, 0xffff), xv, t[i]);
	}
	if (p < k) {
		__mmask16 m = low_mask((int)(k - p));
		__m512 xv = _mm512_maskz_loadu_ps(m, x + p);
		UNROLL
		for (int i = 0; i < rows; i++)
			t[i] = _mm512_fmadd_ps(load_floats16(a, type, i * rs + p, m), xv, t[i]);
	}
	UNROLL
	for (int i = 0; i < rows; i++)
		y[i] = _mm512_reduce_add_ps(t[i]);
}

/* Of two vectors the sums of their halves, of quarters in these, ... */
#define ADD_QUADS(a, b, first, second) \
	_mm512_add_ps(_mm512_shuffle_f32x4(a, b, first), _mm512_shuffle_f32x4(a, b, second))
#define ADD_LANES(a, b, first, second) \
	_mm512_add_ps(_mm512_shuffle_ps(a, b, first), _mm512_shuffle_ps(a, b, second))

/* The sums of the elements of each of 16 vectors. */
INLINE __m512 reduce16(const __m512 *s)
{
	__m512 t[4], u[2];
	UNROLL
	for (int i = 0; i < 4; i++) {
		__m512 ab = ADD_QUADS(s[i], s[4 + i], 0x44, 0xee),
		       cd = ADD_QUADS(s[8 + i], s[12 + i], 0x44, 0xee);
		t[i] = ADD_QUADS(ab, cd, 0x88, 0xdd);
	}
	UNROLL
	for (int i = 0; i < 2; i++)
		u[i] = ADD_LANES(t[i], t[2 + i], 0x44, 0xee);
	__m512 sums = ADD_LANES(u[0], u[1], 0x88, 0xdd);
	return _mm512_permute_ps(sums, 0xd8);
}

/* A long contiguous row: four times 16 partial sums, and lines asked for ahead of time, in the next rows too.
 * One core waits for memory otherwise: rows of 768 fp16 values then arrive at half the rate. */
INLINE __m512 long_row(const void *a, k_type type, int64_t k, const float *x, const __mmask16 rest[4])
{
	const int64_t size = type == K_F16 ? 2 : 4;
	__m512 t[4];
	UNROLL
	for (int i = 0; i < 4; i++)
		t[i] = _mm512_setzero_ps();
	int64_t p = 0;
	for (; p + 64 <= k; p += 64) {
		const char *ahead = (const char *)a + p * size + GEMM_AHEAD;
		UNROLL
		for (int i = 0; i < size; i++)
			_mm_prefetch(ahead + 64 * i, _MM_HINT_T0);
		UNROLL
		for (int i = 0; i < 4; i++)
			t[i] = _mm512_fmadd_ps(load_floats16(a, type, p + 16 * i, 0xffff),
					       _mm512_loadu_ps(x + p + 16 * i), t[i]);
	}
	UNROLL
	for (int i = 0; i < 4; i++)
		if (rest[i])
			t[i] = _mm512_fmadd_ps(load_floats16(a, type, p + 16 * i, rest[i]),
					       _mm512_maskz_loadu_ps(rest[i], x + p + 16 * i), t[i]);
	return _mm512_add_ps(_mm512_add_ps(t[0], t[1]), _mm512_add_ps(t[2], t[3]));
}

/* One after the other, as they lie in memory.  Of 288 fp16 values, tail and reduction would take half the
 * time by themselves. */
INLINE void long_rows(float *y, const char *a, k_type type, int64_t row_bytes, int m, int64_t k,
		      const float *x)
{
	__mmask16 rest[4]; /* of the last elements, fewer than 64 */
	UNROLL
	for (int j = 0; j < 4; j++)
		rest[j] = low_mask((int)(k % 64) - 16 * j);
	for (int i = 0; i < m; i += 16) {
		__m512 s[16];
		for (int j = 0; j < 16; j++, a += row_bytes)
			s[j] = i + j < m ? long_row(a, type, k, x, rest) : _mm512_setzero_ps();
		_mm512_mask_storeu_ps(y + i, low_mask(m - i), reduce16(s));
	}
}

#define SUM_AHEAD 16 /* rows */

/* Columns are contiguous: 64 sums at a time over all of k. */
INLINE void sum_columns(float *y, const void *a, k_type type, int64_t cs, int m, int64_t k, const float *x)
{
	__m512 t[4];
	UNROLL
	for (int v = 0; v < 4; v++)
		t[v] = _mm512_setzero_ps();
	for (int64_t p = 0; p < k; p++) {
		const int64_t size = type == K_F16 ? 2 : 4;
		UNROLL
		for (int i = 0; i < size; i++) /* rows far apart: a cache of values, seen by one head */
			_mm_prefetch((const char *)a + (p + SUM_AHEAD) * cs * size + 64 * i, _MM_HINT_T0);
		__m512 xv = _mm512_set1_ps(x[p]);
		UNROLL
		for (int v = 0; v < 4; v++)
			if (16 * v < m)
				t[v] = _mm512_fmadd_ps(
				    load_floats16(a, type, 16 * v + p * cs, low_mask(m - 16 * v)), xv, t[v]);
	}
	UNROLL
	for (int v = 0; v < 4; v++)
		_mm512_mask_storeu_ps(y + 16 * v, low_mask(m - 16 * v), t[v]);
}

INLINE void vector_type(float *y, const void *a, k_type type, int64_t rs, int64_t cs, int m, int64_t k,
			const float *x)
{
	const int64_t size = type == K_F16 ? 2 : 4;
	if (cs == 1 && k >= GEMM_LONG_ROW) {
		long_rows(y, a, type, rs * size, m, k, x);
	} else if (cs == 1) {
		int i = 0;
		for (; i + 8 <= m; i += 8) {
			/* short rows far apart: a cache of keys, seen by one head */
			for (int j = 8; j < 16; j++)
				for (int64_t p = 0; p < k * size; p += 64)
					_mm_prefetch((const char *)a + (i + j) * rs * size + p, _MM_HINT_T0);
			dot_rows(8, y + i, (const char *)a + i * rs * size, type, rs, k, x);
		}
		for (; i < m; i++)
			dot_rows(1, y + i, (const char *)a + i * rs * size, type, rs, k, x);
	} else if (rs == 1) {
		for (int i = 0; i < m; i += 64)
			sum_columns(y + i, (const char *)a + i * size, type, cs, m - i, k, x);
	} else {
		for (int i = 0; i < m; i++) {
			__m512 t = _mm512_setzero_ps();
			for (int64_t p = 0; p < k; p += 16) {
				int n = (int)MIN(k - p, 16);
				t = _mm512_fmadd_ps(gather_floats16(a, type, i * rs + p * cs, cs, n),
						    _mm512_maskz_loadu_ps(low_mask(n), x + p), t);
			}
			y[i] = _mm512_reduce_add_ps(t);
		}
	}
}

UNCHECKED void gemm_vector_avx512(float *y, const void *a, k_type type, int64_t rs, int64_t cs, int m,
				  int64_t k, const void *x, bool add)
{
	(void)add; /* of K_FIXED */
	if (type == K_F16)
		vector_type(y, a, K_F16, rs, cs, m, k, x);
	else
		vector_type(y, a, K_F32, rs, cs, m, k, x);
}
#endif
