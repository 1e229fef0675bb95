/* A counter-based generator: any draw can be computed from (seed, stream, index) alone,
 * so results depend neither on order nor on threads, and resuming needs no saved state.
 * The mixing function is SplitMix64's finaliser (Steele, Lea, Flood 2014). */
#ifndef BASE_RANDOM_H
#define BASE_RANDOM_H

#include <stdint.h>

static inline uint64_t random_mix(uint64_t x)
{
	x ^= x >> 30;
	x *= UINT64_C(0xbf58476d1ce4e5b9);
	x ^= x >> 27;
	x *= UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}
/* 64 uniform bits. */
static inline uint64_t random_bits(uint64_t seed, uint64_t stream, uint64_t index)
{
	uint64_t key = random_mix(seed + UINT64_C(0x9e3779b97f4a7c15) * (stream + 1));
	return random_mix(key + UINT64_C(0x9e3779b97f4a7c15) * (index + 1));
}
/* Uniform in [0, 1) with 53 bits. */
static inline double random_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
	return (double)(random_bits(seed, stream, index) >> 11) * 0x1p-53;
}
/* Standard normal by Box-Muller on draws 2*index and 2*index+1 (cosine branch). */
double random_normal(uint64_t seed, uint64_t stream, uint64_t index);

#endif
