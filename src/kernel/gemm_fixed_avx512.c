/* Fixed-point contraction with 512-bit vectors; the bits of gemm_fixed_portable.c.
 *
 * One product of 16 costs a multiply-add, a comparison and an addition:
 *
 * Rounding.  Adding 1.5 2^23 in a fused multiply-add rounds the exact product, in units of 2^-16, to an
 * integer in the low bits of the sum, as long as it is below 2^22 units.  That rounds half to even; half
 * away from zero is the same after the product grew by less than its last place, so one bit is added
 * to the end of each (scaled) element of A, which has 13 zeros there: a product has 22 significant bits,
 * the growth is at most 2^-23 of it.
 *
 * Cut-off.  |w| >= 2^(-16 - e(x)) with subnormal w taken as 2^-14, as a comparison of bits that masks the
 * multiply-add: what is cut off leaves 1.5 2^23, which stands for 0.
 *
 * Overflow.  No partial sum exceeds |x| |w| (Cauchy, Schwarz), so panels carry the largest norm of their
 * vectors.  Tiles for which the bound does not exclude overflow track it in double. */
#include "kernel/gemm_fixed.h"

#ifdef __AVX512F__
#include "kernel/gemm_pack_avx512.h"

enum { MR = 12, NR = 32 };

/* Behind a panel's elements. */
typedef struct trailer {
	float largest; /* magnitude */
	float norm;    /* largest of the vectors', a little more than exact */
} trailer;

/* Panels are value[k][width], then cut[k][width].  B: the value, and the bits of its magnitude, at least
 * 2^-14.  A: the value times 2^16 with one bit added, and the least cut of B that a product needs. */

/* fp16 with an ordinary exponent 31 */
static inline float decode(half h)
{
	uint32_t sign = (uint32_t)(h & 0x8000) << 16, field = h >> 10 & 31, man = h & 1023;
	if (field != 31)
		return half_to_float(h);
	return bits_float(sign | 143u << 23 | man << 13);
}

INLINE void pack_fixed(float *value, const void *src, int64_t sv, int64_t se, int count, int k, int width,
		       const bool is_a)
{
	const int64_t total = (int64_t)k * width;
	int32_t *cut = (int32_t *)(void *)(value + total);
	pack_f32_type(value, src, K_F16, sv, se, count, k, width);
	uint32_t special = 0;
	for (int64_t i = 0; i < total; i++)
		special |= (float_bits(value[i]) & 0x7f800000) == 0x7f800000;
	if (special)
		for (int e = 0; e < k; e++)
			for (int v = 0; v < count; v++)
				value[(int64_t)e * width + v] = decode(((const half *)src)[v * sv + e * se]);
	float square[NR] = {0}, largest[NR] = {0};
	for (int e = 0; e < k; e++)
		for (int v = 0; v < width; v++) {
			const float x = value[(int64_t)e * width + v], size = fabsf(x);
			square[v] += x * x;
			largest[v] = largest[v] > size ? largest[v] : size;
		}
	for (int64_t i = 0; i < total; i++) {
		const uint32_t u = float_bits(value[i]), size = u & 0x7fffffff;
		const uint32_t least = size > 0x38800000 ? size : 0x38800000; /* 2^-14 */
		/* 127 + (-16 - e) = 238 - (127 + e) */
		cut[i] = (int32_t)(is_a ? (238 - (least >> 23)) << 23 : least);
		if (is_a)
			value[i] = bits_float(size ? u + (16u << 23) + 1 : 0);
	}
	trailer t = {0, 0};
	for (int v = 0; v < width; v++) {
		t.largest = MAX(t.largest, largest[v]);
		t.norm = MAX(t.norm, square[v]);
	}
	/* k additions of positive numbers: 2^-24 each */
	t.norm = sqrtf(t.norm * (1.001f + (float)k * 0x1p-23f));
	memcpy(cut + total, &t, sizeof t);
}

UNCHECKED void pack_fixed_avx512_a(void *panel, const void *src, k_type type, int64_t sv, int64_t se,
				   int count, int k)
{
	(void)type; /* K_F16: the row's f16_only */
	pack_fixed(panel, src, sv, se, count, k, MR, true);
}
UNCHECKED void pack_fixed_avx512_b(void *panel, const void *src, k_type type, int64_t sv, int64_t se,
				   int count, int k)
{
	(void)type;
	pack_fixed(panel, src, sv, se, count, k, NR, false);
}

/* ---- Where overflow is excluded ------------------------------------------------------ */

#define MAGIC 0x4b400000 /* bits of 1.5 2^23 */

/* 16 integers from and to fp16 values in fp32 */
INLINE __m512i start16(const float *c, __mmask16 mask)
{
	__m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, c), _mm512_set1_ps((float)FIXED_ONE));
	__m512 half_unit = _mm512_castsi512_ps(
	    _mm512_ternarylogic_epi32(/* 0.5 with the sign of x */
				      _mm512_castps_si512(x), _mm512_set1_epi32((int)0x80000000),
				      _mm512_set1_epi32(0x3f000000), 0xea));
	return _mm512_cvttps_epi32(_mm512_add_ps(x, half_unit));
}
/* no part of the unrolled loops: once per 16 sums over all of k */
static __attribute__((noinline)) UNCHECKED void result16(float *c, __mmask16 mask, __m512i sum)
{
	int32_t u[16];
	float y[16];
	_mm512_storeu_si512(u, sum);
	for (int i = 0; i < 16; i++)
		y[i] = fixed_result((double)u[i]);
	_mm512_mask_storeu_ps(c, mask, _mm512_loadu_ps(y));
}

/* rows x (16 * vectors) accumulators in registers.  `small`: products stay below 64, see above. */
INLINE void tile(const int rows, const int vectors, const bool small, int k, const float *a, const float *b,
		 float *c, int64_t ldc, int m, int n, bool add)
{
	const int32_t *acut = (const int32_t *)(const void *)(a + (int64_t)k * MR);
	const int32_t *bcut = (const int32_t *)(const void *)(b + (int64_t)k * NR);
	const __m512 magic = _mm512_castsi512_ps(_mm512_set1_epi32(MAGIC));
	const __m512i sign = _mm512_set1_epi32((int)0x80000000), half_unit = _mm512_set1_epi32(0x3f000000);
	const uint32_t bias = small ? (uint32_t)k * MAGIC : 0; /* modulo 2^32, as are the sums */
	__m512i t[MR][2];
	UNROLL
	for (int i = 0; i < rows; i++) {
		UNROLL
		for (int v = 0; v < vectors; v++) {
			t[i][v] = _mm512_set1_epi32((int)(0 - bias));
			if (add && i < m)
				t[i][v] = _mm512_add_epi32(
				    t[i][v], start16(c + i * ldc + 16 * v, low_mask(n - 16 * v)));
		}
	}
	for (int p = 0; p < k; p++, a += MR, b += NR, acut += MR, bcut += NR) {
		__m512 w[2];
		__m512i size[2];
		UNROLL
		for (int v = 0; v < vectors; v++) {
			w[v] = _mm512_loadu_ps(b + 16 * v);
			size[v] = _mm512_loadu_si512(bcut + 16 * v);
		}
		UNROLL
		for (int i = 0; i < rows; i++) {
			const __m512i least = _mm512_set1_epi32(acut[i]);
			const __m512 x = _mm512_set1_ps(a[i]);
			UNROLL
			for (int v = 0; v < vectors; v++) {
				const __mmask16 kept = _mm512_cmpge_epi32_mask(size[v], least);
				if (small) {
					__m512 y = _mm512_mask3_fmadd_ps(x, w[v], magic, kept);
					t[i][v] = _mm512_add_epi32(t[i][v], _mm512_castps_si512(y));
					continue;
				}
				/* without the added bit the product is exact; + 0.5 with its sign, cut off */
				__m512 exact = _mm512_castsi512_ps(
				    _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(~1)));
				__m512 y = _mm512_mul_ps(exact, w[v]);
				__m512 h = _mm512_castsi512_ps(
				    _mm512_ternarylogic_epi32(_mm512_castps_si512(y), sign, half_unit, 0xea));
				t[i][v] = _mm512_mask_add_epi32(t[i][v], kept, t[i][v],
								_mm512_cvttps_epi32(_mm512_add_ps(y, h)));
			}
		}
	}
	UNROLL
	for (int i = 0; i < rows; i++) {
		UNROLL
		for (int v = 0; v < vectors; v++)
			if (i < m)
				result16(c + i * ldc + 16 * v, low_mask(n - 16 * v), t[i][v]);
	}
}

INLINE void tile_of(const bool small, int k, const float *a, const float *b, float *c, int64_t ldc, int m,
		    int n, bool add)
{
	if (n > 16) {
		if (m > 4)
			tile(12, 2, small, k, a, b, c, ldc, m, n, add);
		else
			tile(4, 2, small, k, a, b, c, ldc, m, n, add);
	} else {
		if (m > 4)
			tile(12, 1, small, k, a, b, c, ldc, m, n, add);
		else
			tile(4, 1, small, k, a, b, c, ldc, m, n, add);
	}
}

/* ---- Where it is not ------------------------------------------------------------------ */

/* Sums in double are exact below the limit, and infinity stays what it is. */
static void tracked(int k, const float *a, const float *b, float *c, int64_t ldc, int m, int n, bool add)
{
	const int32_t *acut = (const int32_t *)(const void *)(a + (int64_t)k * MR);
	const int32_t *bcut = (const int32_t *)(const void *)(b + (int64_t)k * NR);
	for (int i = 0; i < m; i++) {
		double sum[NR] = {0};
		for (int j = 0; j < n && add; j++)
			sum[j] = fixed_start(c[i * ldc + j]);
		for (int p = 0; p < k; p++) {
			const double x = (double)bits_float(float_bits(a[p * MR + i]) & ~1u);
			const int32_t least = acut[p * MR + i];
			for (int j = 0; j < NR; j++) {
				double y = x * (double)b[p * NR + j];
				y = trunc(y + copysign(0.5, y));
				y = sum[j] + (bcut[p * NR + j] >= least ? y : 0.0);
				sum[j] = fabs(y) < FIXED_LIMIT ? y : copysign(INFINITY, y);
			}
		}
		for (int j = 0; j < n; j++)
			c[i * ldc + j] = fixed_result(sum[j]);
	}
}

UNCHECKED void gemm_fixed_avx512(int k, const void *pa, const void *pb, float *c, int64_t ldc, int m, int n,
				 bool add)
{
	const float *a = pa, *b = pb;
	trailer ta, tb;
	memcpy(&ta, a + (int64_t)2 * k * MR, sizeof ta);
	memcpy(&tb, b + (int64_t)2 * k * NR, sizeof tb);
	/* in ones; each product may grow by half a unit when it is rounded, and so may the bias */
	float bound = ta.norm * tb.norm * 1.001f + ((float)k + 1) * 0x1p-17f * 1.001f, start = 0;
	for (int i = 0; i < m && add; i++)
		for (int j = 0; j < n; j++)
			start = fabsf(c[i * ldc + j]) <= start ? start : fabsf(c[i * ldc + j]);
	bound += start * 1.001f;
	if (!(bound < (float)(FIXED_LIMIT / FIXED_ONE)))
		tracked(k, a, b, c, ldc, m, n, add);
	else if (ta.largest * tb.largest < 63.9f)
		tile_of(true, k, a, b, c, ldc, m, n, add);
	else
		tile_of(false, k, a, b, c, ldc, m, n, add);
}
#endif
