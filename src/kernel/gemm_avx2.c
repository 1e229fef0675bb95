/* GEMM in fp32 with 256-bit vectors and fused multiply-adds. */
#include "kernel/gemm.h"

#ifdef __AVX2__
#include "kernel/gemm_pack_avx2.h"

enum { MR = 6, NR = 16 };

UNCHECKED void pack_f32_avx2_a(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
			       int k)
{
	if (type == K_F16)
		pack_f32_type(panel, src, K_F16, sv, se, count, k, MR);
	else
		pack_f32_type(panel, src, K_F32, sv, se, count, k, MR);
}

UNCHECKED void pack_f32_avx2_b(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
			       int k)
{
	if (type == K_F16)
		pack_f32_type(panel, src, K_F16, sv, se, count, k, NR);
	else
		pack_f32_type(panel, src, K_F32, sv, se, count, k, NR);
}

/* ---- Kernel ----------------------------------------------------------------------- */

/* 6 x 2 accumulators, two vectors of B, one broadcast of A: 15 of 16 registers. */
UNCHECKED void gemm_f32_avx2(int k, const void *pa, const void *pb, float *c, int64_t ldc, int m, int n,
			     bool add)
{
	const float *a = pa, *b = pb;
	__m256 t[MR][2];
	UNROLL
	for (int i = 0; i < MR; i++)
		t[i][0] = t[i][1] = _mm256_setzero_ps();
	for (int p = 0; p < k; p++, a += MR, b += NR) {
		__m256 b0 = _mm256_loadu_ps(b), b1 = _mm256_loadu_ps(b + 8);
		UNROLL
		for (int i = 0; i < MR; i++) {
			__m256 x = _mm256_broadcast_ss(a + i);
			t[i][0] = _mm256_fmadd_ps(x, b0, t[i][0]);
			t[i][1] = _mm256_fmadd_ps(x, b1, t[i][1]);
		}
	}
	/* rows at constant places keep the accumulators in registers */
	UNROLL
	for (int i = 0; i < MR; i++) {
		if (i >= m)
			break;
		float *to = c + i * ldc;
		UNROLL
		for (int v = 0; v < 2; v++) {
			__m256 x = t[i][v];
			if (add && n - 8 * v > 0)
				x = _mm256_add_ps(load8(to, K_F32, 8 * v, 1, n - 8 * v), x);
			store8(to + 8 * v, x, n - 8 * v);
		}
	}
}

/* ---- Matrix times vector ---------------------------------------------------------- */

INLINE float sum8(__m256 x)
{
	__m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
	s = _mm_add_ps(s, _mm_movehl_ps(s, s));
	return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

/* `rows` rows at a time along k */
INLINE void dot_rows(const int rows, float *y, const void *a, k_type type, int64_t rs, int64_t cs, int64_t k,
		     const float *x)
{
	__m256 t[4];
	UNROLL
	for (int i = 0; i < rows; i++)
		t[i] = _mm256_setzero_ps();
	for (int64_t p = 0; p < k; p += 8) {
		int n = (int)MIN(k - p, 8);
		__m256 xv = load8(x, K_F32, p, 1, n);
		UNROLL
		for (int i = 0; i < rows; i++)
			t[i] = _mm256_fmadd_ps(load8(a, type, i * rs + p * cs, cs, n), xv, t[i]);
	}
	UNROLL
	for (int i = 0; i < rows; i++)
		y[i] = sum8(t[i]);
}

/* A long contiguous row, see gemm_avx512.c. */
INLINE void dot_row(float *y, const void *a, k_type type, int64_t k, const float *x)
{
	const int64_t size = type == K_F16 ? 2 : 4;
	__m256 t[4];
	UNROLL
	for (int i = 0; i < 4; i++)
		t[i] = _mm256_setzero_ps();
	int64_t p = 0;
	for (; p + 32 <= k; p += 32) {
		const char *ahead = (const char *)a + p * size + GEMM_AHEAD;
		UNROLL
		for (int i = 0; i < size / 2; i++)
			_mm_prefetch(ahead + 64 * i, _MM_HINT_T0);
		UNROLL
		for (int i = 0; i < 4; i++)
			t[i] = _mm256_fmadd_ps(load8(a, type, p + 8 * i, 1, 8),
					       _mm256_loadu_ps(x + p + 8 * i), t[i]);
	}
	for (int i = 0; i < 4 && p + 8 * i < k; i++) {
		int n = (int)MIN(k - p - 8 * i, 8);
		t[i] =
		    _mm256_fmadd_ps(load8(a, type, p + 8 * i, 1, n), load8(x, K_F32, p + 8 * i, 1, n), t[i]);
	}
	*y = sum8(_mm256_add_ps(_mm256_add_ps(t[0], t[1]), _mm256_add_ps(t[2], t[3])));
}

/* 32 neighbouring sums at a time over all of k */
INLINE void sum_columns(float *y, const void *a, k_type type, int64_t cs, int m, int64_t k, const float *x)
{
	__m256 t[4];
	UNROLL
	for (int v = 0; v < 4; v++)
		t[v] = _mm256_setzero_ps();
	for (int64_t p = 0; p < k; p++) {
		__m256 xv = _mm256_broadcast_ss(x + p);
		UNROLL
		for (int v = 0; v < 4; v++)
			if (8 * v < m)
				t[v] =
				    _mm256_fmadd_ps(load8(a, type, 8 * v + p * cs, 1, m - 8 * v), xv, t[v]);
	}
	UNROLL
	for (int v = 0; v < 4; v++)
		store8(y + 8 * v, t[v], m - 8 * v);
}

INLINE void vector_type(float *y, const void *a, k_type type, int64_t rs, int64_t cs, int m, int64_t k,
			const float *x)
{
	const int64_t size = type == K_F16 ? 2 : 4;
	if (rs == 1 && cs != 1) {
		for (int i = 0; i < m; i += 32)
			sum_columns(y + i, (const char *)a + i * size, type, cs, m - i, k, x);
		return;
	}
	int i = 0;
	for (; cs == 1 && k >= GEMM_LONG_ROW && i < m; i++)
		dot_row(y + i, (const char *)a + i * rs * size, type, k, x);
	for (; i + 4 <= m; i += 4)
		dot_rows(4, y + i, (const char *)a + i * rs * size, type, rs, cs, k, x);
	for (; i < m; i++)
		dot_rows(1, y + i, (const char *)a + i * rs * size, type, rs, cs, k, x);
}

UNCHECKED void gemm_vector_avx2(float *y, const void *a, k_type type, int64_t rs, int64_t cs, int m,
				int64_t k, const void *x, bool add)
{
	(void)add; /* of K_FIXED */
	if (type == K_F16)
		vector_type(y, a, K_F16, rs, cs, m, k, x);
	else
		vector_type(y, a, K_F32, rs, cs, m, k, x);
}
#endif
