/* fp16 and bf16: storage as uint16_t, conversion with round to nearest even.
 * IEEE 754-2019 binary16: subnormals and NaN payloads' top bits are kept.
 * These scalar forms are the reference; the array forms in kernel/convert.h are
 * tested against them on all 65536 patterns. */
#ifndef BASE_HALF_H
#define BASE_HALF_H

#include <stdint.h>
#include <string.h>

typedef uint16_t half;
typedef uint16_t bfloat;

static inline uint32_t float_bits(float f)
{
	uint32_t u;
	memcpy(&u, &f, 4);
	return u;
}
static inline float bits_float(uint32_t u)
{
	float f;
	memcpy(&f, &u, 4);
	return f;
}

static inline float half_to_float(half h)
{
	uint32_t sign = (uint32_t)(h & 0x8000) << 16;
	uint32_t exp = (h >> 10) & 31, man = h & 1023;
	if (exp == 31)
		return bits_float(sign | 0x7f800000 | man << 13);
	if (exp == 0) /* zero or subnormal: man * 2^-24 is exact in fp32 */
		return bits_float(sign | float_bits((float)man * 0x1p-24f));
	return bits_float(sign | (exp + 112) << 23 | man << 13);
}

static inline half half_from_float(float f)
{
	uint32_t u = float_bits(f), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;
	if (a > 0x7f800000) /* NaN: quiet, keep the top of the payload */
		return (half)(sign | 0x7e00 | (a >> 13 & 0x3ff));
	if (a >= 0x477ff000) /* rounds to 65536 or more */
		return (half)(sign | 0x7c00);
	if (a < 0x38800000) { /* below 2^-14: round to a multiple of 2^-24 */
		/* adding 0.5 aligns the wanted bits to the end of the significand */
		uint32_t m = float_bits(bits_float(a) + 0.5f) - float_bits(0.5f);
		return (half)(sign | m);
	}
	return (half)(sign | (a - 0x38000000 + 0xfff + (a >> 13 & 1)) >> 13);
}

/* Rounds a double to fp16 once (not through fp32, which would round twice). */
half half_from_double(double d);

static inline float bfloat_to_float(bfloat b) { return bits_float((uint32_t)b << 16); }
static inline bfloat bfloat_from_float(float f)
{
	uint32_t u = float_bits(f);
	if ((u & 0x7fffffff) > 0x7f800000)
		return (bfloat)(u >> 16 | 0x40);
	return (bfloat)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

#endif
