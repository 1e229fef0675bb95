/* The loops of loops.h, compiled for AVX2. */
#include "kernel/loops.h"

#ifdef __AVX2__
#define LOOPS_AVX2
#include <immintrin.h>
#include "kernel/math_impl.h"
#include "kernel/ewise_impl.h"
#include "kernel/train_impl.h"

const k_loops loops_avx2 = {
    .run = run,
    .fold = fold,
    .finish = finish,
    .load = load_floats,
    .store = store_floats,
    .widen_rows = widen_rows,
    .narrow_rows = narrow_rows,
    .softmax_row = softmax_row,
    .softmax_update = softmax_update,
    .softmax_apply = softmax_apply,
    .sum_squares = sum_squares,
    .adamw = adamw,
};
#endif
