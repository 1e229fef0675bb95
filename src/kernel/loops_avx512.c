/* The loops of loops.h, compiled for AVX512. */
#include "kernel/loops.h"

#ifdef __AVX512F__
#define LOOPS loops_avx512
#define LOOPS_AVX512
#include <immintrin.h>
#include "kernel/turn_avx512.h"
#include "kernel/loops_impl.h"
#endif
