/* GEMM on BFMMLA: 2 x 4 times 4 x 2 bf16, fp32 accumulation; 16 products per instruction, four times those
 * of a multiply-add in fp32.  Without FEAT_EBF16 it rounds to odd and takes subnormals as zero. */
#include "kernel/gemm.h"

#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
#include "kernel/gemm_pack_neon.h"

enum { MR = 8, NR = 12, DEPTH = 4 /* of k, in one instruction */ };

/* Panel of squares, panel[k / 4][width / 2][2 vectors][4 elements]. */
INLINE void pack_squares(uint16_t *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
			 int k, int width)
{
	for (int v = 0; v < width; v += 4)
		for (int e = 0; e < k; e += DEPTH) {
			const int n = count - v, left = k - e;
			uint16_t *to = panel + (int64_t)e * width + v * DEPTH;
			float32x4_t r[4];
			if (sv == 1 && se != 1) {
				load_square4(r, src, type, sv, se, v, e, n, left);
				turn4(r);
			} else {
				UNROLL
				for (int i = 0; i < 4; i++)
					r[i] = i < n ? load4(src, type, (v + i) * sv + e * se, se, left)
						     : vdupq_n_f32(0);
			}
			UNROLL
			for (int i = 0; i < 4; i++)
				vst1_u16(to + i * DEPTH, vreinterpret_u16_bf16(vcvt_bf16_f32(r[i])));
		}
}

UNCHECKED void pack_bf16_neon_a(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
				int k)
{
	if (type == K_F16)
		pack_squares(panel, src, K_F16, sv, se, count, k, MR);
	else
		pack_squares(panel, src, K_F32, sv, se, count, k, MR);
}
UNCHECKED void pack_bf16_neon_b(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
				int k)
{
	if (type == K_F16)
		pack_squares(panel, src, K_F16, sv, se, count, k, NR);
	else
		pack_squares(panel, src, K_F32, sv, se, count, k, NR);
}

INLINE bfloat16x8_t load_pair(const uint16_t *p) { return vreinterpretq_bf16_u16(vld1q_u16(p)); }

/* `pairs` pairs of rows and 6 pairs of columns: 24 accumulators of 2 x 2, four pairs of A and two of B at a
 * time, 30 of 32 registers.  Bounds of loops as in gemm_neon.c. */
INLINE void tile(const int pairs, const int columns, int k, const uint16_t *a, const uint16_t *b, float *c,
		 int64_t ldc, int m, int n, bool add)
{
	float32x4_t t[MR / 2][NR / 2];
	UNROLL
	for (int j = 0; j < NR / 2; j++)
		t[0][j] = t[1][j] = t[2][j] = t[3][j] = vdupq_n_f32(0);
	for (int p = 0; p < k; p += DEPTH, a += DEPTH * MR, b += DEPTH * NR) {
		bfloat16x8_t x[MR / 2];
		UNROLL
		for (int i = 0; i < MR / 2; i++)
			if (i < pairs)
				x[i] = load_pair(a + 8 * i);
		UNROLL
		for (int j = 0; j < NR / 2; j++) {
			if (j >= columns)
				break;
			const bfloat16x8_t w = load_pair(b + 8 * j);
			UNROLL
			for (int i = 0; i < MR / 2; i++)
				if (i < pairs)
					t[i][j] = vbfmmlaq_f32(t[i][j], x[i], w);
			if (j % 2) /* else gcc loads all of B first and runs out of registers */
				__asm__ volatile("" ::: "memory");
		}
	}
	UNROLL
	for (int i = 0; i < MR; i++) {
		if (i >= 2 * pairs || i >= m)
			break;
		float *to = c + i * ldc;
		UNROLL
		for (int j = 0; j < NR / 2; j += 2) {
			if (j >= columns)
				break;
			const int left = n - 2 * j;
			float32x4_t y = i % 2 ? high_halves(t[i / 2][j], t[i / 2][j + 1])
					      : low_halves(t[i / 2][j], t[i / 2][j + 1]);
			if (add && left > 0)
				y = vaddq_f32(load4(to, K_F32, 2 * j, 1, left), y);
			store4(to + 2 * j, y, left);
		}
	}
}

UNCHECKED void gemm_bf16_neon(int k, const void *a, const void *b, float *c, int64_t ldc, int m, int n,
			      bool add)
{
	/* panels are padded with zeros, so a few sizes serve all edges */
	if (m > 4) {
		if (n > 4)
			tile(4, 6, k, a, b, c, ldc, m, n, add);
		else
			tile(4, 2, k, a, b, c, ldc, m, n, add);
	} else {
		if (n > 4)
			tile(2, 6, k, a, b, c, ldc, m, n, add);
		else
			tile(2, 2, k, a, b, c, ldc, m, n, add);
	}
}
#endif
