/* Every loop of loops.h and the table of them.  Included once per instruction set, by a file
 * that has defined LOOPS, the table's name, and what its set offers (LOOPS_AVX2, ...). */
#include "kernel/math_impl.h"
#ifdef LOOPS_AVX512
#include "kernel/math_avx512.h"
#endif
#include "kernel/ewise_impl.h"
#include "kernel/train_impl.h"
#include "kernel/gemm_count_impl.h"
#include "kernel/random_impl.h"

const k_loops LOOPS = {
    .run = run,
    .fold = fold,
    .finish = finish,
    .load = load_floats,
    .store = store_floats,
    .store_past = store_past,
    .widen_rows = widen_rows,
    .narrow_rows = narrow_rows,
    .softmax_row = softmax_row,
    .softmax_halves = softmax_halves,
    .softmax_update = softmax_update,
    .softmax_apply = softmax_apply,
    .loss_sum = loss_sum,
    .loss_gradient = loss_gradient,
    .loss_join = loss_join,
    .normal = normal,
    .sum_squares = sum_squares,
    .adamw = adamw,
    .count_products = count_products,
    .count_results = count_results_of_tile,
};
