/* Turning a square of 4 x 4 words of 32 bits in registers of arm64. */
#ifndef KERNEL_TURN_NEON_H
#define KERNEL_TURN_NEON_H

#include <arm_neon.h>

/* as in turn_avx512.h */
#define UNCHECKED __attribute__((no_sanitize("address", "undefined")))
#define INLINE    static inline __attribute__((always_inline)) UNCHECKED
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* The low, or high, halves of two registers. */
INLINE float32x4_t low_halves(float32x4_t a, float32x4_t b)
{
	return vreinterpretq_f32_f64(vzip1q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b)));
}
INLINE float32x4_t high_halves(float32x4_t a, float32x4_t b)
{
	return vreinterpretq_f32_f64(vzip2q_f64(vreinterpretq_f64_f32(a), vreinterpretq_f64_f32(b)));
}

/* 2 x 2 squares of words, then of halves. */
INLINE void turn4(float32x4_t r[4])
{
	const float32x4_t a = vtrn1q_f32(r[0], r[1]), b = vtrn2q_f32(r[0], r[1]);
	const float32x4_t c = vtrn1q_f32(r[2], r[3]), d = vtrn2q_f32(r[2], r[3]);
	r[0] = low_halves(a, c);
	r[1] = low_halves(b, d);
	r[2] = high_halves(a, c);
	r[3] = high_halves(b, d);
}

#endif
