/* Elementary functions in fp32, written without branches so that a loop over them becomes
 * vector code.  Every loops_*.c compiles them for its instruction set; as nothing contracts
 * a multiply and an add, each set gives the same bits.
 *
 * Errors against the exact value are measured by tests/kernel/test_ewise.c and stay below
 * 2 ulp, but for those of composed functions (GELU, softplus: 4 ulp).  Polynomials are
 * weighted least-squares fits (Lawson) on Chebyshev nodes; the comment gives what they
 * approximate, where, and the error they leave before rounding. */
#ifndef KERNEL_MATH_IMPL_H
#define KERNEL_MATH_IMPL_H

#include "base/half.h"

#include <math.h>
#include <stdint.h>

/* c ? a : b.  No flag of the compiler says that arithmetic may trap, so in a loop this is a blend. */
static inline float pick(int c, float a, float b) { return c ? a : b; }

/* EW_AWAY of a result whose first 24 bits are those of x: half of the last of 11 bits is added, what
 * follows is cut off. */
static inline float away(float x)
{
	uint32_t u = float_bits(x), s = u & 0x80000000, m = ((u & 0x7fffffff) + 0x1000) & ~0x1fffu;
	float y = bits_float(m);
	float tiny = truncf(pick(y < 0x1p-14f, y, 0.0f) * 0x1p24f + 0.5f) * 0x1p-24f;
	y = pick(y < 0x1p-14f, tiny, y);
	y = pick(y >= 65536, INFINITY, y);
	y = bits_float(float_bits(y) | s);
	return pick(x != x, x, y);
}

/* Adding this to |x| < 2^22 leaves no room for a fraction: the sum holds the nearest even integer, as a
 * value above 1.5 2^23 and, which NaN cannot disturb, in its lowest bits. */
#define ROUNDER 0x1.8p23f
static inline int rounded_int(float sum) { return (int)(float_bits(sum) - 0x4b400000); }

/* 2^n for -126 <= n <= 127 */
static inline float pow2(int n) { return bits_float(((uint32_t)n + 127) << 23); }

/* x * 2^n for |n| <= 252, rounded once: only the last factor can leave the normal range. */
static inline float scale2(float x, int n)
{
	int h = n >> 1;
	return x * pow2(h) * pow2((int)((uint32_t)n - (uint32_t)h));
}

/* e^r - 1 for |r| <= ln(2)/2; (e^r - 1 - r) / r^2 fitted, 2^-31.9 */
#define EXPM1_7 0x1.a0332cp-13f
#define EXPM1_6 0x1.6d78dap-10f
#define EXPM1_5 0x1.11118ep-7f
#define EXPM1_4 0x1.5554aap-5f
#define EXPM1_3 0x1.555554p-3f
#define EXPM1_2 0x1.000000p-1f
static inline float expm1_reduced(float r)
{
	float p = EXPM1_7;
	p = p * r + EXPM1_6;
	p = p * r + EXPM1_5;
	p = p * r + EXPM1_4;
	p = p * r + EXPM1_3;
	p = p * r + EXPM1_2;
	return r + r * r * p;
}

#define LN2_HI 0x1.62e4p-1f    /* 15 bits: n * LN2_HI is exact for |n| < 512 */
#define LN2_LO 0x1.7f7d1cp-20f /* ln(2) - LN2_HI */
#define LOG2_E 0x1.715476p0f

/* Arguments of the exponential beyond which it is 0 or infinite; NaN stays. */
#define EXP_LEAST -104.0f
#define EXP_MOST  89.0f
static inline float exp_bounded(float x)
{
	x = pick(x < EXP_LEAST, EXP_LEAST, x);
	return pick(x > EXP_MOST, EXP_MOST, x);
}

/* Results below 2^-127 are made of an integer, their number of units of 2^-149: arithmetic on subnormal
 * numbers takes some hundred cycles on many processors, and what is masked in a softmax ends there. */
#define TINY_SHIFT 149
static inline float tiny_float(float units)
{
	return bits_float(float_bits(units + 0x1p23f) -
			  0x4b000000); /* rounds, and takes the integer's bits */
}

/* e^x = 2^n e^r, n = round(x / ln 2) */
static inline float exp_f(float x)
{
	x = exp_bounded(x);
	float t = x * LOG2_E + ROUNDER, n = t - ROUNDER;
	float y = 1 + expm1_reduced((x - n * LN2_HI) - n * LN2_LO);
	int i = rounded_int(t), tiny = t < ROUNDER - 126; /* not NaN */
	return pick(tiny, tiny_float(y * pow2(tiny ? i + TINY_SHIFT : 0)), scale2(y, tiny ? 0 : i));
}

/* exp_f for x <= 0 */
static inline float exp_down(float x)
{
	x = pick(x < EXP_LEAST, EXP_LEAST, x);
	float t = x * LOG2_E + ROUNDER, n = t - ROUNDER;
	int i = rounded_int(t), tiny = t < ROUNDER - 126; /* not NaN */
	float y = (1 + expm1_reduced((x - n * LN2_HI) - n * LN2_LO)) * pow2(tiny ? i + TINY_SHIFT : i);
	return pick(tiny, tiny_float(y), y);
}

/* exp_f for x <= 0, but 0 below e^-87, which is about the smallest normal number: for terms of a sum that
 * has a term of 1. */
#define TERM_LEAST -87.0f
static inline float exp_term(float x)
{
	int gone = x < TERM_LEAST;
	x = pick(gone, 0, x);
	float t = x * LOG2_E + ROUNDER, n = t - ROUNDER;
	float y = (1 + expm1_reduced((x - n * LN2_HI) - n * LN2_LO)) * pow2(rounded_int(t));
	return pick(gone, 0, y);
}

/* e^(x + lo) where lo is a small correction */
static inline float exp_sum(float x, float lo)
{
	x = exp_bounded(x);
	float t = x * LOG2_E + ROUNDER, n = t - ROUNDER;
	return scale2(1 + expm1_reduced(((x - n * LN2_HI) - n * LN2_LO) + lo), rounded_int(t));
}

static inline float expm1_f(float x)
{
	float in = x;
	x = exp_bounded(x);
	float t = x * LOG2_E + ROUNDER, n = t - ROUNDER;
	/* 2^n e^r - 1 = 2^n (e^r - 1) + (2^n - 1); from n = 25 on the 1 is below rounding */
	float p = expm1_reduced((x - n * LN2_HI) - n * LN2_LO);
	int i = rounded_int(t), small = i < 25;
	float u = pow2(small ? (i < -100 ? -100 : i) : 0);
	float y = pick(small, u * p + (u - 1), scale2(1 + p, small ? 0 : i));
	return pick(in == 0, in, y); /* keeps -0 */
}

static inline float exp2_f(float x)
{
	x = pick(x < -151, -151.0f, x);
	x = pick(x > 129, 129.0f, x);
	float t = x + ROUNDER, n = t - ROUNDER;
	return scale2(1 + expm1_reduced((x - n) * 0x1.62e430p-1f), rounded_int(t));
}

/* 2^f for |f| <= 1/2: (2^f - 1) / f fitted, 2^-23.4 */
#define EXP2_5      0x1.5bba0ep-10f
#define EXP2_4      0x1.3cea88p-7f
#define EXP2_3      0x1.c6b752p-5f
#define EXP2_2      0x1.ebf9bcp-3f
#define EXP2_1      0x1.62e42ap-1f
#define LOGIT_LEAST -160.0f /* 2^-160 is 0 */

/* e^x for x <= 0, the difference of two fp16 values or -inf, in two thirds of the operations of exp_f:
 * x log2(e) is rounded, which costs 1.5 |x| 2^-24, where softmax has little left; 2 ulp beside that. */
static inline float exp_of_logit(float x)
{
	float y = x * LOG2_E;
	y = pick(y < LOGIT_LEAST, LOGIT_LEAST, y);
	float t = y + ROUNDER, f = y - (t - ROUNDER);
	float p = EXP2_5;
	p = p * f + EXP2_4;
	p = p * f + EXP2_3;
	p = p * f + EXP2_2;
	p = p * f + EXP2_1;
	return scale2(1 + f * p, rounded_int(t));
}

/* ln(x): x = m 2^e with m in [sqrt(1/2), sqrt(2)), f = m - 1, s = f / (2 + f),
 * ln m = 2 atanh(s) = f - (f^2/2 - s (f^2/2 + R)), R/s^2 fitted, 2^-29.7 */
static inline float log_f(float x)
{
	int tiny = x < 0x1p-126f;
	float scaled = pick(tiny, x * 0x1p23f, x);
	uint32_t u = float_bits(scaled) - 0x3f3504f3; /* bits of sqrt(1/2) */
	int e = ((int32_t)u >> 23) - (tiny ? 23 : 0);
	float f = bits_float((u & 0x7fffff) + 0x3f3504f3) - 1;
	float s = f / (2 + f), z = s * s;
	float p = 0x1.dde45ap-3f;
	p = p * z + 0x1.245bd6p-2f;
	p = p * z + 0x1.9999ecp-2f;
	p = p * z + 0x1.555556p-1f;
	float h = 0.5f * f * f, n = (float)e;
	float y = n * LN2_HI + (f - (h - (s * (h + p * z) + n * LN2_LO)));
	y = pick(x == 0, -INFINITY, y);
	y = pick(x == INFINITY, x, y);
	return pick(!(x >= 0), NAN, y);
}

/* ln(1 + y) for y >= 0: what 1 + y loses by rounding comes back to first order */
static inline float log1p_f(float y)
{
	float u = 1 + y;
	return log_f(u) + pick(y <= 1, (y - (u - 1)) / u, 0.0f);
}

static inline float sigmoid_f(float x)
{
	float e = exp_down(-fabsf(x)), r = 1 / (1 + e);
	return pick(x < 0, e * r, r);
}

static inline float tanh_f(float x)
{
	float t = expm1_f(-2 * fabsf(x));
	return copysignf(t / (t + 2), x);
}

/* erfc(z) for z >= 0.88: (z + 2) e^(z^2) erfc(z) fitted in t = (z - 2) / (z + 2), 2^-34.5.
 * z^2 is taken in two exact parts, for its rounding error would be amplified z^2 times. */
static inline float erfc_tail(float z)
{
	z = pick(z > 10.5f, 10.5f, z); /* erfc is 0 there */
	float t = (z - 2) / (z + 2);
	float p = 0x1.daf458p-14f;
	p = p * t + 0x1.3d9c88p-14f;
	p = p * t - 0x1.5aa708p-11f;
	p = p * t - 0x1.bd1d20p-11f;
	p = p * t + 0x1.954138p-9f;
	p = p * t + 0x1.a8b3eep-8f;
	p = p * t - 0x1.606efap-6f;
	p = p * t - 0x1.2a8904p-5f;
	p = p * t + 0x1.1e2df0p-2f;
	p = p * t - 0x1.5fd386p-1f;
	p = p * t + 0x1.058672p0f;
	float h = bits_float(float_bits(z) & 0xfffff000); /* 12 bits */
	return exp_sum(-h * h, (h - z) * (h + z)) * p / (z + 2);
}

/* erf(x) for |x| <= 0.9: erf(x)/x fitted in x^2, 2^-31.7 */
static inline float erf_small(float x)
{
	float z = x * x;
	float p = 0x1.662516p-14f;
	p = p * z - 0x1.acf7f8p-11f;
	p = p * z + 0x1.5513f2p-8f;
	p = p * z - 0x1.b8162ap-6f;
	p = p * z + 0x1.ce2e60p-4f;
	p = p * z - 0x1.812744p-2f;
	/* the constant term in two parts: 2/sqrt(pi) */
	return x * 0x1.20dd76p0f + x * (p * z - 0x1.fa31p-25f);
}

static inline float erf_f(float x)
{
	float a = fabsf(x);
	float y = pick(a < 0.88f, erf_small(pick(a < 0.88f, x, 0.0f)), copysignf(1 - erfc_tail(a), x));
	return pick((x != x) | (x == 0), x, y); /* keeps -0 */
}

/* x Phi(x); Phi through erfc keeps its relative precision where it is small */
static inline float gelu_f(float x)
{
	float z = x * -0x1.6a09e6p-1f, a = fabsf(z);
	float small = 1 - erf_small(pick(a < 0.88f, z, 0.0f));
	float c = erfc_tail(a);
	float phi = 0.5f * pick(a < 0.88f, small, pick(z < 0, 2 - c, c));
	return x * pick(x != x, x, phi);
}
static inline float gelu_tanh_f(float x)
{
	return x * sigmoid_f(0x1.988454p0f * (x + 0x1.6e4e26p-5f * (x * x * x))); /* 2 sqrt(2/pi), 0.044715 */
}

/* sin and cos of |x| < 2^20: x - q pi/2 in double, pi/2 in two parts of which the first has 33
 * bits.  Larger arguments are done again by the caller of the loop (trig_large). */
#define TRIG_LIMIT 0x1p20f
static inline float sin_quarter(float x, int shift)
{
	float in = x;
	x = pick(fabsf(x) < TRIG_LIMIT, x, 0.0f);
	double q = ((double)x * 0x1.45f306dc9c883p-1 + 0x1.8p52) - 0x1.8p52;
	float r = (float)(((double)x - q * 0x1.921fb544p0) - q * 0x1.0b4611a626331p-34);
	int k = (int)q + shift;
	float z = r * r;
	/* (sin r - r) / r^3 and (cos r - 1 + r^2/2) / r^4 on |r| <= pi/4, 2^-35 */
	float s = 0x1.6dbc30p-19f;
	s = s * z - 0x1.a013a2p-13f;
	s = s * z + 0x1.11110ep-7f;
	s = s * z - 0x1.555556p-3f;
	s = r + r * z * s;
	float c = -0x1.25230ep-22f;
	c = c * z + 0x1.a015c0p-16f;
	c = c * z - 0x1.6c16c0p-10f;
	c = c * z + 0x1.555556p-5f;
	c = 1 - (0.5f * z - z * z * c);
	float y = pick(k & 1, c, s);
	y = pick(k >> 1 & 1, -y, y);
	y = pick(!shift & (in == 0), in, y);
	return pick(fabsf(in) < INFINITY, y, NAN);
}
static inline float sin_f(float x) { return sin_quarter(x, 0); }
static inline float cos_f(float x) { return sin_quarter(x, 1); }

/* |x|^y in double, then C99's special cases (F.10.4.4). */
static inline float pow_f(float x, float y)
{
	float a = fabsf(x);
	/* log2(a): m in [sqrt(1/2), sqrt(2)), 2/ln(2) atanh((m-1)/(m+1)), series to s^13: 2^-39 */
	int tiny = a < 0x1p-126f;
	uint32_t u = float_bits(pick(tiny, a * 0x1p23f, a)) - 0x3f3504f3;
	int e = ((int32_t)u >> 23) - (tiny ? 23 : 0);
	double m = bits_float((u & 0x7fffff) + 0x3f3504f3);
	double s = (m - 1) / (m + 1), z = s * s;
	double p = 1.0 / 13;
	p = p * z + 1.0 / 11;
	p = p * z + 1.0 / 9;
	p = p * z + 1.0 / 7;
	p = p * z + 1.0 / 5;
	p = p * z + 1.0 / 3;
	p = p * z + 1;
	double l = e + s * p * 0x1.71547652b82fep1;
	l = a == 0 ? -INFINITY : a == INFINITY ? INFINITY : l;
	double t = y * l;
	double bounded = t < -200 ? -200 : t > 200 ? 200 : t;
	bounded = t != t ? 0 : bounded;
	/* 2^t: Taylor in (t - n) ln 2, |.| <= 0.347, to the 9th power: 2^-37 */
	double n = (bounded + 0x1.8p52) - 0x1.8p52, r = (bounded - n) * 0x1.62e42fefa39efp-1;
	double q = 1.0 / 362880;
	q = q * r + 1.0 / 40320;
	q = q * r + 1.0 / 5040;
	q = q * r + 1.0 / 720;
	q = q * r + 1.0 / 120;
	q = q * r + 1.0 / 24;
	q = q * r + 1.0 / 6;
	q = q * r + 0.5;
	q = q * r + 1;
	q = q * r + 1;
	int i = (int)n, h = i >> 1; /* 2^n in two fp32 factors, both exact */
	float v = (float)(q * pow2(h) * pow2(i - h));
	v = pick(a == 1, 1.0f, v);
	v = pick((a != a) | (y != y), NAN, v);
	/* sign and domain */
	float half_y = 0.5f * y;
	int integer = rintf(y) == y, odd = integer & (rintf(half_y) != half_y);
	int negative = (int)(float_bits(x) >> 31);
	v = pick(negative & odd, -v, v);
	v = pick((x < 0) & (a < INFINITY) & !integer, NAN, v);
	return pick((y == 0) | (x == 1), 1.0f, v);
}

#endif
