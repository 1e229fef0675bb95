/* GEMM in fp32 with 512-bit vectors: products of fp16 values are exact (22 significant bits of 24). */
#include "kernel/gemm.h"

#ifdef __AVX512F__
#include "kernel/gemm_pack_avx512.h"

enum { MR = 12, NR = 32 };

UNCHECKED void pack_f32_avx512_a(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
				 int k)
{
	if (type == K_F16)
		pack_f32_type(panel, src, K_F16, sv, se, count, k, MR);
	else
		pack_f32_type(panel, src, K_F32, sv, se, count, k, MR);
}

UNCHECKED void pack_f32_avx512_b(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
				 int k)
{
	if (type == K_F16)
		pack_f32_type(panel, src, K_F16, sv, se, count, k, NR);
	else
		pack_f32_type(panel, src, K_F32, sv, se, count, k, NR);
}

/* rows x (16 * vectors) accumulators stay in registers: with 12 x 2 there is room for two vectors
 * of B and a broadcast of A. */
INLINE void tile(const int rows, const int vectors, int k, const float *a, const float *b, float *c,
		 int64_t ldc, int m, int n, bool add)
{
	__m512 t[MR][2];
	UNROLL
	for (int i = 0; i < rows; i++)
		t[i][0] = t[i][1] = _mm512_setzero_ps();
	for (int p = 0; p < k; p++, a += MR, b += NR) {
		__m512 bv[2];
		UNROLL
		for (int v = 0; v < vectors; v++)
			bv[v] = _mm512_loadu_ps(b + 16 * v);
		UNROLL
		for (int i = 0; i < rows; i++) {
			__m512 x = _mm512_set1_ps(a[i]);
			UNROLL
			for (int v = 0; v < vectors; v++)
				t[i][v] = _mm512_fmadd_ps(x, bv[v], t[i][v]);
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

UNCHECKED void gemm_f32_avx512(int k, const void *pa, const void *pb, float *c, int64_t ldc, int m, int n,
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

/* Columns are contiguous: 64 sums at a time over all of k. */
INLINE void sum_columns(float *y, const void *a, k_type type, int64_t cs, int m, int64_t k, const float *x)
{
	__m512 t[4];
	UNROLL
	for (int v = 0; v < 4; v++)
		t[v] = _mm512_setzero_ps();
	for (int64_t p = 0; p < k; p++) {
		__m512 xv = _mm512_set1_ps(x[p]);
		UNROLL
		for (int v = 0; v < 4; v++)
			t[v] = _mm512_fmadd_ps(load_floats16(a, type, 16 * v + p * cs, low_mask(m - 16 * v)),
					       xv, t[v]);
	}
	UNROLL
	for (int v = 0; v < 4; v++)
		_mm512_mask_storeu_ps(y + 16 * v, low_mask(m - 16 * v), t[v]);
}

INLINE void vector_type(float *y, const void *a, k_type type, int64_t rs, int64_t cs, int m, int64_t k,
			const float *x)
{
	const int64_t size = type == K_F16 ? 2 : 4;
	if (cs == 1) {
		int i = 0;
		for (; i + 8 <= m; i += 8)
			dot_rows(8, y + i, (const char *)a + i * rs * size, type, rs, k, x);
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
