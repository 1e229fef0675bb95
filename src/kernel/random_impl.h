/* Normal random numbers for one instruction set; see loops.h.
 *
 * Box-Muller as in random_normal(), with a logarithm and a cosine that become vector code.  They differ from
 * those of the C library by less than NORMAL_ERROR; where that could decide how the result is rounded to
 * fp32, about once in a million, the library's are used.  So weights do not depend on the instruction set. */
#include "base/random.h"

static inline double bits_double(uint64_t u)
{
	double d;
	memcpy(&d, &u, sizeof d);
	return d;
}
static inline uint64_t double_bits(double d)
{
	uint64_t u;
	memcpy(&u, &d, sizeof u);
	return u;
}

/* a b + c, rounded once or twice: within the bounds both are right. */
static inline double multiply_add(double a, double b, double c)
{
#if defined(__FMA__) || defined(__aarch64__)
	return __builtin_fma(a, b, c);
#else
	return a * b + c;
#endif
}

/* An integer below 2^53 as double: where no instruction converts it, two halves above 2^52 and 2^84. */
static inline double wide_double(uint64_t u)
{
#ifdef __AVX512DQ__
	return (double)(int64_t)u;
#else
	double lo = bits_double((u & 0xffffffff) | 0x4330000000000000),
	       hi = bits_double(u >> 32 | 0x4530000000000000);
	return (hi - 0x1.00000001p84) + lo;
#endif
}

/* ln x for normal x in (0, 1]: x = m 2^e, m in [sqrt(1/2), sqrt(2)), ln m = 2 atanh((m - 1) / (m + 1)), of
 * whose series what is left out is below 2^-49. */
static inline double log_d(double x)
{
	uint64_t u = double_bits(x) - 0x3fe6a09e667f3bcd; /* bits of sqrt(1/2) */
	/* the exponent, -53 to 0, as double: 64 more than it in the lowest bits of 1.5 2^52 */
	double e = bits_double((((u >> 52) + 64) & 127) | 0x4338000000000000) - (0x1.8p52 + 64);
	double m = bits_double((u & 0xfffffffffffff) + 0x3fe6a09e667f3bcd);
	double s = (m - 1) / (m + 1), z = s * s, p = 1.0 / 19;
	p = multiply_add(p, z, 1.0 / 17);
	p = multiply_add(p, z, 1.0 / 15);
	p = multiply_add(p, z, 1.0 / 13);
	p = multiply_add(p, z, 1.0 / 11);
	p = multiply_add(p, z, 1.0 / 9);
	p = multiply_add(p, z, 1.0 / 7);
	p = multiply_add(p, z, 1.0 / 5);
	p = multiply_add(p, z, 1.0 / 3);
	return multiply_add(e, 0x1.62e42fefa39efp-1, 2 * multiply_add(s * z, p, s));
}

/* cos(2 pi v) for v in [0, 1): quarter turns apart, Taylor's series of what is left, |t| <= pi / 4. */
static inline double cos_turns(double v)
{
	double sum = 4 * v + 0x1.8p52, t = (v - (sum - 0x1.8p52) * 0.25) * 6.283185307179586476925286766559;
	uint64_t k = double_bits(sum);
	double z = t * t, s = -1.0 / 1307674368000, c = -1.0 / 87178291200;
	s = multiply_add(s, z, 1.0 / 6227020800);
	s = multiply_add(s, z, -1.0 / 39916800);
	s = multiply_add(s, z, 1.0 / 362880);
	s = multiply_add(s, z, -1.0 / 5040);
	s = multiply_add(s, z, 1.0 / 120);
	s = multiply_add(s, z, -1.0 / 6);
	c = multiply_add(c, z, 1.0 / 479001600);
	c = multiply_add(c, z, -1.0 / 3628800);
	c = multiply_add(c, z, 1.0 / 40320);
	c = multiply_add(c, z, -1.0 / 720);
	c = multiply_add(c, z, 1.0 / 24);
	c = multiply_add(c, z, -0.5);
	/* cos t, -sin t, -cos t, sin t */
	uint64_t odd = -(k & 1), y = (double_bits(multiply_add(t * z, s, t)) & odd) |
				     (double_bits(multiply_add(z, c, 1)) & ~odd);
	return bits_double(y ^ ((k + 1) >> 1 & 1) << 63);
}

#define NORMAL_ERROR 0x1p-46 /* of the angle, and relative to the result */

static void normal(float *dst, uint64_t seed, uint64_t stream, double std, int64_t first, int n)
{
	double z[EW_BLOCK];
	float low[EW_BLOCK];
	const uint64_t step = UINT64_C(0x9e3779b97f4a7c15), key = random_mix(seed + step * (stream + 1));
	INDEPENDENT
	for (int i = 0; i < n; i++) {
		uint64_t at = key + step * (2 * (uint64_t)(first + i) + 1);
		double u = 1.0 - wide_double(random_mix(at) >> 11) * 0x1p-53;
		double v = wide_double(random_mix(at + step) >> 11) * 0x1p-53;
		z[i] = sqrt(-2.0 * log_d(u)) * cos_turns(v);
	}
	int unsure = 0;
	INDEPENDENT
	for (int i = 0; i < n; i++) {
		double e = fabs(z[i]) * NORMAL_ERROR + 9 * NORMAL_ERROR; /* the root is below 8.6 */
		low[i] = (float)(std * (z[i] - e));
		dst[i] = (float)(std * (z[i] + e));
		unsure |= low[i] != dst[i];
	}
	for (int i = 0; unsure && i < n; i++)
		if (low[i] != dst[i])
			dst[i] = (float)(std * random_normal(seed, stream, (uint64_t)(first + i)));
}
