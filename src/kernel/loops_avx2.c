/* The loops of loops.h, compiled for AVX2. */
#include "kernel/loops.h"

#ifdef __AVX2__
#define LOOPS loops_avx2
#define LOOPS_AVX2
#include <immintrin.h>
#include "kernel/loops_impl.h"
#endif
