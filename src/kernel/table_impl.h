/* Functions read from the tables of ane/tables.h, for one instruction set; see loops.h. */
#include "ane/tables.h"

#ifdef LOOPS_AVX2
/* One of 32: from each eight of them by the lowest three bits, then by bits 3 and 4, taken as signs. */
static inline __m256 knots_at(const float *knot, __m256i at)
{
	__m256 bit3 = _mm256_castsi256_ps(_mm256_slli_epi32(at, 28));
	__m256 bit4 = _mm256_castsi256_ps(_mm256_slli_epi32(at, 27));
	__m256 p = _mm256_permutevar8x32_ps(_mm256_loadu_ps(knot), at);
	__m256 q = _mm256_permutevar8x32_ps(_mm256_loadu_ps(knot + 8), at);
	__m256 r = _mm256_permutevar8x32_ps(_mm256_loadu_ps(knot + 16), at);
	__m256 s = _mm256_permutevar8x32_ps(_mm256_loadu_ps(knot + 24), at);
	return _mm256_blendv_ps(_mm256_blendv_ps(p, q, bit3), _mm256_blendv_ps(r, s, bit3), bit4);
}
#endif

/* t becomes the value at place t of the knots: (1 - w) knot[i] + w knot[i + 1] as knot[i] + w (difference).
 */
static void interpolate(float *t, const float *knot, int n)
{
#if defined(LOOPS_AVX512)
	const __m512 a0 = _mm512_loadu_ps(knot), a1 = _mm512_loadu_ps(knot + 16);
	const __m512 b0 = _mm512_loadu_ps(knot + 1), b1 = _mm512_loadu_ps(knot + 17);
	for (int i = 0; i < n; i += 16) {
		/* the second operand of min and max is taken where one is NaN */
		__m512 x = _mm512_max_ps(_mm512_loadu_ps(t + i), _mm512_setzero_ps());
		x = _mm512_min_ps(x, _mm512_set1_ps(32));
		__m512i at = _mm512_min_epi32(_mm512_cvttps_epi32(x), _mm512_set1_epi32(31));
		__m512 w = _mm512_sub_ps(x, _mm512_cvtepi32_ps(at));
		__m512 a = _mm512_permutex2var_ps(a0, at, a1), b = _mm512_permutex2var_ps(b0, at, b1);
		_mm512_storeu_ps(t + i, _mm512_add_ps(a, _mm512_mul_ps(w, _mm512_sub_ps(b, a))));
	}
#elif defined(LOOPS_AVX2)
	for (int i = 0; i < n; i += 8) {
		__m256 x = _mm256_max_ps(_mm256_loadu_ps(t + i), _mm256_setzero_ps());
		x = _mm256_min_ps(x, _mm256_set1_ps(32));
		__m256i at = _mm256_min_epi32(_mm256_cvttps_epi32(x), _mm256_set1_epi32(31));
		__m256 w = _mm256_sub_ps(x, _mm256_cvtepi32_ps(at));
		__m256 a = knots_at(knot, at), b = knots_at(knot + 1, at);
		_mm256_storeu_ps(t + i, _mm256_add_ps(a, _mm256_mul_ps(w, _mm256_sub_ps(b, a))));
	}
#elif defined(LOOPS_NEON)
	for (int i = 0; i < n; i += 4) {
		/* the larger number, and 0 where one is NaN */
		const float32x4_t given = vmaxnmq_f32(vld1q_f32(t + i), vdupq_n_f32(0));
		const float32x4_t x = vminq_f32(given, vdupq_n_f32(32));
		const int32x4_t at = vminq_s32(vcvtq_s32_f32(x), vdupq_n_s32(31));
		const float32x4_t w = vsubq_f32(x, vcvtq_f32_s32(at));
		/* a knot and the next, as one word of 64 bits */
		const float32x4_t p = vcombine_f32(vld1_f32(knot + vgetq_lane_s32(at, 0)),
						   vld1_f32(knot + vgetq_lane_s32(at, 1)));
		const float32x4_t q = vcombine_f32(vld1_f32(knot + vgetq_lane_s32(at, 2)),
						   vld1_f32(knot + vgetq_lane_s32(at, 3)));
		const float32x4_t a = vuzp1q_f32(p, q), b = vuzp2q_f32(p, q);
		vst1q_f32(t + i, vaddq_f32(a, vmulq_f32(w, vsubq_f32(b, a))));
	}
#else
	for (int i = 0; i < n; i++) {
		float x = t[i] > 0 ? t[i] : 0;
		x = x < 32 ? x : 32;
		int at = (int)x;
		at = at < 31 ? at : 31;
		t[i] = knot[at] + (x - (float)at) * (knot[at + 1] - knot[at]);
	}
#endif
}

/* |x| = f 2^e, 0.5 <= f < 1: e, and 2 f - 1 */
static inline int exponent_of(float x) { return (int)(float_bits(x) >> 23 & 255) - 126; }
static inline float fraction_of(float x) { return (float)(int)(float_bits(x) & 0x7fffff) * 0x1p-23f; }

static inline float with_sign(float y, float of)
{
	return bits_float(float_bits(y) ^ (float_bits(of) & 0x80000000));
}

/* d = the function of a that the table holds, not rounded yet; d may be a.  A NaN stays one. */
static void read_table(const ane_table *k, float epsilon, float *d, const float *a, int n)
{
	float t[EW_BLOCK], s[EW_BLOCK], sum[EW_BLOCK];
	const float first = k->first, scale = k->scale, factor = k->factor, last = first + 32 / scale;
	const float at_zero = k->at_zero, at_infinity = k->at_infinity;
	const int shift = k->shift, open = k->open;
	if (epsilon != 0) {
		const float e = away(epsilon);
		INDEPENDENT
		for (int i = 0; i < n; i++)
			sum[i] = away(sum_toward_zero(a[i], e));
		a = sum;
	}
#define GIVE(y) LOOP(pick(a[i] != a[i], a[i], (y)))
#define PLACES      \
	INDEPENDENT \
	for (int i = 0; i < n; i++)
	switch (k->shape) {
	case ANE_DIRECT:
		PLACES t[i] = (a[i] - first) * scale;
		interpolate(t, k->knot, n);
		GIVE(pick((a[i] < first) & open, 0.0f, pick((a[i] > last) & open, a[i], t[i])));
		break;
	case ANE_ODD:
		PLACES t[i] = fabsf(a[i]) * scale;
		interpolate(t, k->knot, n);
		GIVE(with_sign(pick(fabsf(a[i]) * scale > 32, 1.0f, t[i]), a[i]));
		break;
	case ANE_QUARTER:
		PLACES
		{
			/* in double, for arguments have up to 16 bits before the point */
			double q =
			    (double)pick(fabsf(a[i]) < 65536, fabsf(a[i]), 0.0f) * 0x1.45f306dc9c883p-1;
			int whole = (int)q, at = whole + shift;
			float over = (float)(q - whole);
			t[i] = pick(at & 1, 1 - over, over) * 32;
			s[i] = pick(at >> 1 & 1, -1.0f, 1.0f) * pick(!shift & (a[i] < 0), -1.0f, 1.0f);
		}
		interpolate(t, k->knot, n);
		GIVE(pick(fabsf(a[i]) < INFINITY, pick((a[i] == 0) & !shift, a[i], t[i] * s[i]), NAN));
		break;
	case ANE_POWER:
		PLACES
		{
			float x = away(a[i] * factor);
			x = pick(x > -64, x, -64.0f);
			x = pick(x > 64, 64.0f, x);
			int whole = (int)x;
			whole -= (float)whole > x;
			t[i] = (x - (float)whole) * 32;
			s[i] = pow2(whole);
		}
		interpolate(t, k->knot, n);
		GIVE(t[i] * s[i]);
		break;
	case ANE_LOGARITHM:
		PLACES t[i] = fraction_of(a[i]) * 0.5f * scale;
		interpolate(t, k->knot, n);
		PLACES t[i] = away(away(t[i]) + (float)exponent_of(a[i])) * factor;
		GIVE(pick(a[i] < 0, 0.0f,
			  pick(a[i] == 0, at_zero, pick(a[i] == INFINITY, at_infinity, t[i]))));
		break;
	case ANE_ROOT:
		PLACES
		{
			int e = exponent_of(a[i]), odd = e & 1;
			float f = fraction_of(a[i]);
			t[i] = pick(odd, 0.5f + f, 0.5f * f) * scale;
			s[i] = pow2(((e - odd) >> 1) * shift);
		}
		interpolate(t, k->knot, n);
		GIVE(pick(a[i] < 0, 0.0f,
			  pick(a[i] == 0, at_zero, pick(a[i] == INFINITY, at_infinity, t[i] * s[i]))));
		break;
	case ANE_RECIPROCAL:
		PLACES
		{
			t[i] = fraction_of(a[i]) * 0.5f * scale;
			s[i] = pow2(-exponent_of(a[i]));
		}
		interpolate(t, k->knot, n);
		GIVE(with_sign(
		    pick(a[i] == 0, at_zero, pick(fabsf(a[i]) < INFINITY, t[i] * s[i], at_infinity)), a[i]));
		break;
	}
#undef PLACES
#undef GIVE
}
