/* Rows of activation tables, and which chip reads which.
 *
 * Greatest errors are tests (tests/kernel/test_tables.c).  With knots rounded to fp16, lines between them in
 * fp32 and one rounding of the result, half away from zero, the greatest errors over all fp16 arguments
 * are 3.355e-3 (sigmoid; published: 3.4e-3), 1.636e-3 (tanh; 1.6e-3), 8.642e-4 (erf, up to
 * 2; 8.6e-4), 6.329e-4 (sin, up to pi/2; 6.3e-4), 1.159 ulp (sqrt; 1.2) and 2.084 ulp (rsqrt; 2.1).  Knots of
 * more than fp16's precision miss sigmoid, tanh, erf and sin, results cut off miss all; whether products are
 * rounded before they are added cannot be told. exp: the factor log2(e) is an fp16 constant and the product
 * is rounded to fp16; that gives 9.08 ulp over
 *     [-10, 10] (published: 9.1) and infinity from 11.094 on (published).  With either left out it
 *     stays below 5.7.
 *   log: v and v + e are rounded to fp16, the factor ln(2) is an fp16 constant as in exp; that gives 6.638e-3
 *     over [1e-3, 1000] (published, without a range: 6.6e-3, in its raw data 6.638e-3) and, near 1, the
 *     91 ulp of the raw data, which need the first rounding.  -65536 ln(2) = -45440 at 0 was measured on M1.
 *   sqrt, rsqrt: the source says that knots end at 1.75, but counts a header of four words among the 33:
 *     fractions reach 2, and with a step of 1/16 from 0.5 on errors are the published ones.
 *   inverse: 1.19 ulp, and the published 13.5 ulp with the epsilon of 1e-4 that MIL's inverse has by default,
 *     an fp16 number whose sum with x is rounded to fp16.
 *   sin and cos beyond the first quarter: nobody has said how arguments are reduced; here without error.
 *
 * Special arguments.  The source has four values before the knots, which fit (below 0, NaN, 0, +infinity) in
 * what M1 and M5 do: sqrt(-1) = rsqrt(-1) = log(-1) = 0, log(infinity) = 0.  A NaN counts as +infinity where
 * the instruction says so.  The logarithm's value at 0 is -infinity; M1's is measured. */
#include "ane/tables.h"

#include "ane/knots.h"

#include <math.h>

#define LOG2_E 0x1.714p0f /* of fp16 */
#define LN2    0x1.63p-1f /* of fp16 */
#define M4     (1 << ANE_TABLES_M4)

/* clang-format off */
#define DIRECT(n, from, step, ...) {.name = #n, .shape = ANE_DIRECT, .first = from, .scale = 1 / (float)(step), .knot = knots_##n, __VA_ARGS__}
#define ODD(n, step, ...) {.name = #n, .shape = ANE_ODD, .scale = 1 / (float)(step), .knot = knots_##n, __VA_ARGS__}
#define SPLIT(n, how, k, s, ...) {.name = n, .shape = how, .first = 0.5f, .scale = s, .knot = knots_##k, __VA_ARGS__}

enum { SIGMOID, SIGMOID_M1, TANH, ERF, SIN, COS, EXP, EXP2, LOG, LOG_M1, SQRT, RSQRT, INVERSE, GELU_M1, GELU_M4,
       GELU_M5, SILU_M1, SILU_M4 };
static const ane_table tables[] = {
    /* The source says that sigmoid saturates and tanh jumps: at its last knots, and to 1. */
    [SIGMOID] = DIRECT(sigmoid, -8, 0.5, .measured = M4, .error = 3.4e-3f),
    [SIGMOID_M1] = DIRECT(sigmoid_m1, -9.938f, (8.320f + 9.938f) / 32, .fitted = true, .error = 3.4e-3f),
    [TANH] = ODD(tanh, 0.125, .measured = M4, .error = 1.6e-3f),
    [ERF] = ODD(erf, 0.0625, .measured = M4, .error = 8.6e-4f),
    [SIN] = SPLIT("sin", ANE_QUARTER, sine, 32, .measured = M4, .error = 6.3e-4f),
    [COS] = SPLIT("cos", ANE_QUARTER, sine, 32, .shift = 1),
    [EXP] = SPLIT("exp", ANE_POWER, exp2, 32, .factor = LOG2_E, .measured = M4, .error = 9.1f, .in_ulp = true),
    [EXP2] = SPLIT("exp2", ANE_POWER, exp2, 32, .factor = 1),
    [LOG] = SPLIT("log", ANE_LOGARITHM, log2, 64, .factor = LN2, .at_zero = -INFINITY, .measured = M4, .error = 6.6e-3f),
    [LOG_M1] = SPLIT("log", ANE_LOGARITHM, log2, 64, .factor = LN2, .at_zero = -45440, .error = 6.6e-3f),
    [SQRT] = SPLIT("sqrt", ANE_ROOT, sqrt, 16, .shift = 1, .at_infinity = INFINITY, .measured = M4, .error = 1.2f, .in_ulp = true),
    [RSQRT] = SPLIT("rsqrt", ANE_ROOT, rsqrt, 16, .shift = -1, .at_zero = INFINITY, .measured = M4, .error = 2.1f, .in_ulp = true),
    [INVERSE] = SPLIT("inverse", ANE_RECIPROCAL, inverse, 64, .at_zero = INFINITY, .measured = M4, .error = 13.5f, .in_ulp = true),
    [GELU_M1] = DIRECT(gelu_m1, -4, 0.25, .open = true, .fitted = true, .error = 5.9e-3f),
    [GELU_M4] = DIRECT(gelu_m4, -4, 0.25, .open = true, .fitted = true, .error = 6.2e-3f),
    [GELU_M5] = DIRECT(gelu_m5, -4, 0.25, .open = true, .fitted = true, .error = 6.2e-3f),
    [SILU_M1] = DIRECT(silu_m1, -8, 0.5, .open = true, .fitted = true),
    [SILU_M4] = DIRECT(silu_m4, -8, 0.5, .open = true, .fitted = true, .error = 1.5e-2f),
};

/* ORDER ANE_FN; M1, M4, M5 */
static const uint8_t row[ANE_FN_COUNT][ANE_TABLE_SETS] = {
    [ANE_SIGMOID] = {SIGMOID_M1, SIGMOID, SIGMOID},
    [ANE_TANH] = {TANH, TANH, TANH},
    [ANE_ERF] = {ERF, ERF, ERF},
    [ANE_SIN] = {SIN, SIN, SIN},
    [ANE_COS] = {COS, COS, COS},
    [ANE_EXP] = {EXP, EXP, EXP},
    [ANE_EXP2] = {EXP2, EXP2, EXP2},
    [ANE_LOG] = {LOG_M1, LOG, LOG},
    [ANE_SQRT] = {SQRT, SQRT, SQRT},
    [ANE_RSQRT] = {RSQRT, RSQRT, RSQRT},
    [ANE_INV] = {INVERSE, INVERSE, INVERSE},
    [ANE_GELU] = {GELU_M1, GELU_M4, GELU_M5},
    [ANE_SILU] = {SILU_M1, SILU_M4, SILU_M4},
};
/* clang-format on */

const ane_table *ane_table_find(ane_fn f, ane_table_set set)
{
	return (unsigned)f < ANE_FN_COUNT && (unsigned)set < ANE_TABLE_SETS ? &tables[row[f][set]] : NULL;
}

ane_basis ane_table_basis(const ane_table *t, ane_table_set set)
{
	return t->fitted ? ANE_STAND_IN : t->measured >> set & 1 ? ANE_MEASURED : ANE_ASSUMED;
}

const char *ane_basis_name(ane_basis b)
{
	static const char *const name[] = {"measured", "assumed", "stand-in"};
	return name[b];
}
