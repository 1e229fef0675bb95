/* GEMM in fp32 with the 128-bit vectors of arm64 and fused multiply-adds.
 *
 * fp16 operands are widened when they are packed.  The instructions that multiply fp16 into fp32 (FMLAL,
 * FMLAL2 of FEAT_FHM) also do four products each, so panels of fp16 would halve the loads, which are a sixth
 * of the instructions and not what limits this kernel: not worth another row. */
#include "kernel/gemm.h"

#ifdef __aarch64__
#include "kernel/gemm_pack_neon.h"

enum { MR = 8, NR = 12 };

UNCHECKED void pack_f32_neon_a(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
			       int k)
{
	if (type == K_F16)
		pack_f32_type(panel, src, K_F16, sv, se, count, k, MR);
	else
		pack_f32_type(panel, src, K_F32, sv, se, count, k, MR);
}

UNCHECKED void pack_f32_neon_b(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
			       int k)
{
	if (type == K_F16)
		pack_f32_type(panel, src, K_F16, sv, se, count, k, NR);
	else
		pack_f32_type(panel, src, K_F32, sv, se, count, k, NR);
}

/* ---- Kernel ----------------------------------------------------------------------- */

/* 8 x 3 accumulators, three vectors of B, two of A, whose elements multiply by lane: 29 of 32 registers.
 * Bounds of loops are constants and not arguments: clang unrolls this before it inlines it. */
INLINE void tile(const int rows, const int vectors, int k, const float *a, const float *b, float *c,
		 int64_t ldc, int m, int n, bool add)
{
	float32x4_t t[MR][3];
	UNROLL
	for (int i = 0; i < MR; i++)
		t[i][0] = t[i][1] = t[i][2] = vdupq_n_f32(0);
	for (int p = 0; p < k; p++, a += MR, b += NR) {
		const float32x4_t a0 = vld1q_f32(a), a1 = vld1q_f32(a + 4);
		float32x4_t w[3];
		UNROLL
		for (int v = 0; v < 3; v++)
			if (v < vectors)
				w[v] = vld1q_f32(b + 4 * v);
		UNROLL
		for (int v = 0; v < 3; v++) {
			if (v >= vectors)
				break;
				/* lanes must be literals */
#define ROW(i, x, lane) t[i][v] = vfmaq_laneq_f32(t[i][v], w[v], x, lane)
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
	/* rows at constant places keep the accumulators in registers */
	UNROLL
	for (int i = 0; i < MR; i++) {
		if (i >= rows || i >= m)
			break;
		float *to = c + i * ldc;
		UNROLL
		for (int v = 0; v < 3; v++) {
			if (v >= vectors)
				break;
			float32x4_t x = t[i][v];
			if (add && n - 4 * v > 0)
				x = vaddq_f32(load4(to, K_F32, 4 * v, 1, n - 4 * v), x);
			store4(to + 4 * v, x, n - 4 * v);
		}
	}
}

UNCHECKED void gemm_f32_neon(int k, const void *a, const void *b, float *c, int64_t ldc, int m, int n,
			     bool add)
{
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

/* ---- Matrix times vector ---------------------------------------------------------- */

enum { DEEP = 4 }; /* vectors of a row at once: with 4 rows, enough sums to hide a multiply-add's latency */

/* `rows` rows at a time along k */
INLINE void dot_rows(const int rows, float *y, const void *a, k_type type, int64_t rs, int64_t cs, int64_t k,
		     const float *x)
{
	float32x4_t t[4][DEEP];
	UNROLL
	for (int i = 0; i < 4; i++)
		t[i][0] = t[i][1] = t[i][2] = t[i][3] = vdupq_n_f32(0);
	int64_t p = 0;
	for (; p + 4 * DEEP <= k; p += 4 * DEEP) {
		UNROLL
		for (int d = 0; d < DEEP; d++) {
			const float32x4_t xv = vld1q_f32(x + p + 4 * d);
			UNROLL
			for (int i = 0; i < 4; i++)
				if (i < rows)
					t[i][d] = vfmaq_f32(
					    t[i][d], load4(a, type, i * rs + (p + 4 * d) * cs, cs, 4), xv);
		}
	}
	for (; p < k; p += 4) {
		const int n = (int)MIN(k - p, 4);
		const float32x4_t xv = load4(x, K_F32, p, 1, n);
		UNROLL
		for (int i = 0; i < 4; i++)
			if (i < rows)
				t[i][0] = vfmaq_f32(t[i][0], load4(a, type, i * rs + p * cs, cs, n), xv);
	}
	UNROLL
	for (int i = 0; i < 4; i++)
		if (i < rows)
			y[i] =
			    vaddvq_f32(vaddq_f32(vaddq_f32(t[i][0], t[i][1]), vaddq_f32(t[i][2], t[i][3])));
}

enum { WIDE = 8 };

/* 32 neighbouring sums at a time over all of k */
INLINE void sum_columns(float *y, const void *a, k_type type, int64_t cs, int m, int64_t k, const float *x)
{
	float32x4_t t[WIDE];
	UNROLL
	for (int v = 0; v < WIDE; v++)
		t[v] = vdupq_n_f32(0);
	for (int64_t p = 0; p < k; p++) {
		const float32x4_t xv = vld1q_dup_f32(x + p);
		UNROLL
		for (int v = 0; v < WIDE; v++)
			if (4 * v < m)
				t[v] = vfmaq_f32(t[v], load4(a, type, 4 * v + p * cs, 1, m - 4 * v), xv);
	}
	UNROLL
	for (int v = 0; v < WIDE; v++)
		store4(y + 4 * v, t[v], m - 4 * v);
}

INLINE void vector_type(float *y, const void *a, k_type type, int64_t rs, int64_t cs, int m, int64_t k,
			const float *x)
{
	const int64_t size = type == K_F16 ? 2 : 4;
	if (rs == 1 && cs != 1) {
		for (int i = 0; i < m; i += 4 * WIDE)
			sum_columns(y + i, (const char *)a + i * size, type, cs, m - i, k, x);
		return;
	}
	int i = 0;
	for (; i + 4 <= m; i += 4)
		dot_rows(4, y + i, (const char *)a + i * rs * size, type, rs, cs, k, x);
	for (; i < m; i++)
		dot_rows(1, y + i, (const char *)a + i * rs * size, type, rs, cs, k, x);
}

UNCHECKED void gemm_vector_neon(float *y, const void *a, k_type type, int64_t rs, int64_t cs, int m,
				int64_t k, const void *x, bool add)
{
	(void)add; /* of K_FIXED */
	if (type == K_F16)
		vector_type(y, a, K_F16, rs, cs, m, k, x);
	else
		vector_type(y, a, K_F32, rs, cs, m, k, x);
}
#endif
