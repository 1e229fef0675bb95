/* The loops of loops.h, compiled for AVX512. */
#include "kernel/loops.h"

#ifdef __AVX512F__
#define LOOPS_AVX512
#include <immintrin.h>
#include "kernel/turn_avx512.h"
#include "kernel/math_impl.h"
#include "kernel/ewise_impl.h"
#include "kernel/train_impl.h"

const k_loops loops_avx512 = {
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
