/* The normal draws of NumPy's default_rng(seed): SeedSequence, PCG64 (O'Neill 2014, XSL-RR), and the
 * ziggurat of Marsaglia and Tsang (2000) with 256 layers.  Published measurements of chips used them. */
#ifndef SUPPORT_KERNEL_NUMPY_H
#define SUPPORT_KERNEL_NUMPY_H

#include <stdint.h>

typedef struct numpy_rng {
	uint64_t state[2], inc[2]; /* 128 bits, low half first */
	double width[256], height[256];
	uint64_t inside[256];
} numpy_rng;

void numpy_seed(numpy_rng *g, uint32_t seed);
double numpy_normal(numpy_rng *g);

#endif
