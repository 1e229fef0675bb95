/* Some functions of math_impl.h on a vector, with the same bits in fewer operations: scaling by 2^n rounds
 * once into subnormal numbers and overflows, so no argument needs care.  Of two operands of max and min the
 * second is taken where one is NaN. */
#ifndef KERNEL_MATH_AVX512_H
#define KERNEL_MATH_AVX512_H

#include "kernel/math_impl.h"

#include <immintrin.h>

static inline __m512 times_plus16(__m512 a, __m512 b, float c)
{
	return _mm512_add_ps(_mm512_mul_ps(a, b), _mm512_set1_ps(c));
}

/* e^x = y 2^n */
static inline __m512 exp_parts16(__m512 x, __m512 *n)
{
	const __m512 big = _mm512_set1_ps(ROUNDER);
	*n = _mm512_sub_ps(_mm512_add_ps(_mm512_mul_ps(x, _mm512_set1_ps(LOG2_E)), big), big);
	__m512 r = _mm512_sub_ps(x, _mm512_mul_ps(*n, _mm512_set1_ps(LN2_HI)));
	r = _mm512_sub_ps(r, _mm512_mul_ps(*n, _mm512_set1_ps(LN2_LO)));
	__m512 p = times_plus16(_mm512_set1_ps(EXPM1_7), r, EXPM1_6);
	p = times_plus16(p, r, EXPM1_5);
	p = times_plus16(p, r, EXPM1_4);
	p = times_plus16(p, r, EXPM1_3);
	p = times_plus16(p, r, EXPM1_2);
	p = _mm512_add_ps(r, _mm512_mul_ps(_mm512_mul_ps(r, r), p));
	return _mm512_add_ps(_mm512_set1_ps(1), p);
}

static inline __m512 exp16(__m512 x)
{
	__m512 n;
	x = _mm512_max_ps(_mm512_set1_ps(EXP_LEAST), x);
	__m512 y = exp_parts16(_mm512_min_ps(_mm512_set1_ps(EXP_MOST), x), &n);
	return _mm512_scalef_ps(y, n);
}

static inline __m512 exp_term16(__m512 x)
{
	__m512 n, y = exp_parts16(x, &n);
	return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(TERM_LEAST), _CMP_NLT_UQ), y, n);
}

static inline __m512 sigmoid16(__m512 x)
{
	const __m512 one = _mm512_set1_ps(1);
	__m512 n, down = _mm512_or_ps(x, _mm512_set1_ps(-0.0f)); /* -|x| */
	__m512 y = exp_parts16(_mm512_max_ps(_mm512_set1_ps(EXP_LEAST), down), &n);
	__m512 e = _mm512_scalef_ps(y, n), r = _mm512_div_ps(one, _mm512_add_ps(one, e));
	return _mm512_mask_mul_ps(r, _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ), e, r);
}

static inline __m512 exp_of_logit16(__m512 x)
{
	__m512 y = _mm512_mul_ps(x, _mm512_set1_ps(LOG2_E)), big = _mm512_set1_ps(ROUNDER);
	y = _mm512_max_ps(_mm512_set1_ps(LOGIT_LEAST), y);
	__m512 n = _mm512_sub_ps(_mm512_add_ps(y, big), big), f = _mm512_sub_ps(y, n);
	__m512 p = times_plus16(_mm512_set1_ps(EXP2_5), f, EXP2_4);
	p = times_plus16(p, f, EXP2_3);
	p = times_plus16(p, f, EXP2_2);
	p = times_plus16(p, f, EXP2_1);
	return _mm512_scalef_ps(_mm512_add_ps(_mm512_set1_ps(1), _mm512_mul_ps(f, p)), n);
}

#endif
