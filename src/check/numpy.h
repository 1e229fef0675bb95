/* The normal draws of NumPy's default_rng(seed), bit for bit: SeedSequence, PCG64 (O'Neill 2014, XSL-RR) and
 * the ziggurat of Marsaglia and Tsang (2000) with 256 layers.  Published measurements of chips used them. */
#ifndef CHECK_NUMPY_H
#define CHECK_NUMPY_H

#include <stdint.h>

typedef struct numpy_rng {
	uint64_t state[2], inc[2]; /* 128 bits, low half first */
} numpy_rng;

/* default_rng(seed). */
void numpy_seed(numpy_rng *g, uint32_t seed);
/* The next number of standard_normal(). */
double numpy_normal(numpy_rng *g);

#endif
