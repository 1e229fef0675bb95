/* Single results that were published of Neural Engines, as MIL programs: what values a program gets, what it
 * gives, on which chips, and who has seen it.
 *
 * The programs have the shapes that the engine's clients use: rank 4, a last axis of at least 32.  Values
 * stand at the beginning, or in every column; the rest is 0. */
#include "anneal/check.h"

#include "base/half.h"
#include "check/session.h"
#include "device/device.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { WIDTH = 32, MOST = 20000 };

/* What becomes of a row. */
enum {
	ELEMENTWISE, /* op(x) or op(x, y) */
	FUNCTION,    /* op(x), equal when printed with as many digits as `want` has */
	ROUNDED,     /* 2 * op(x), the 2 a scalar constant */
	ROUNDED_ALL, /* likewise, the 2 of x's shape */
	SUM,         /* the sum of x * y, plus the bias z: three cases, one for each of sum_ops */
	SLICE,       /* of rows x, along axis and from element y */
	SPLIT,       /* the second half of x */
	ALONG        /* op over x */
};
static const char *const kind_name[] = {[ELEMENTWISE] = "elementwise",
					[FUNCTION] = "function",
					[ROUNDED] = "rounding",
					[ROUNDED_ALL] = "rounding",
					[SUM] = "contraction",
					[SLICE] = "slice",
					[SPLIT] = "slice",
					[ALONG] = "along an axis"};
static const char *const sum_ops[] = {"matmul", "linear", "conv"}; /* matmul: no bias */

typedef struct row {
	int kind;
	const char *numerics; /* in which it holds, separated by blanks */
	const char *op, *x, *y, *want;
	const char *source;
	const char *z;         /* SUM: bias */
	const char *published; /* what was measured, where `want` is what the rules give and it is not that */
} row;

#define CHIPS "m1 m2 m3 m4 m5 m6"
#define S751K "751K (M4, M6)"
#define GUIDE "guide (M1)"
#define FORGE "ANEForge (M5)"
#define OURS  "follows from the rules"

#define CASE(kind_, numerics_, op_, x_, y_, want_, source_, ...)                                  \
	{                                                                                         \
		.kind = kind_, .numerics = numerics_, .op = op_, .x = x_, .y = y_, .want = want_, \
		.source = source_, __VA_ARGS__                                                    \
	}
static const row rows[] = {
    /* clang-format off */
    /* Addition and multiplication: ANEForge's Jacobi iteration on M1, M2 and M5 shows the same. */
    CASE(ELEMENTWISE, CHIPS, "add", "2048 65504 16384 0x1p-24 nan", "1 0 16384 0 1", "2050 65504 32768 0x1p-24 inf", S751K),
    CASE(ELEMENTWISE, CHIPS, "mul", "0x1p-12 256 -0x1.8p-24", "0x1p-12 256 0.5", "0x1p-24 inf -0x1p-24", S751K),
    CASE(ELEMENTWISE, CHIPS, "sub", "-2048 nan 0x1p-24", "1 1 0x1p-23", "-2050 inf -0x1p-24", S751K),
    /* subnormal results are rounded twice, which lifts these products by a unit */
    CASE(ELEMENTWISE, CHIPS, "mul", "0x1.bdcp-1 0x1.934p-2 -0x1.59p-2", "0x1.758p-15 0x1.00cp-14 0x1.828p-15", "0x28bp-24 0x195p-24 -0x105p-24", "ANEForge"),
    CASE(ELEMENTWISE, "ieee", "mul", "0x1.bdcp-1 0x1.934p-2 -0x1.59p-2", "0x1.758p-15 0x1.00cp-14 0x1.828p-15", "0x28ap-24 0x194p-24 -0x104p-24", OURS),
    /* 2^15 is no limit of a single multiplication */
    CASE(ELEMENTWISE, CHIPS, "mul", "200 32768", "300 1", "60000 32768", GUIDE),
    /* computed, from no table */
    CASE(ELEMENTWISE, CHIPS, "relu", "0.333 -0.333 65504 0x1p-24", NULL, "0.333 0 65504 0x1p-24", S751K),
    CASE(ELEMENTWISE, CHIPS, "abs", "0.333 -0.333 -65504 -0x1p-24", NULL, "0.333 0.333 65504 0x1p-24", S751K),
    CASE(ELEMENTWISE, CHIPS, "sign", "0.333 -0.333 0 -0x1p-24", NULL, "1 -1 0 -1", S751K),
    CASE(ELEMENTWISE, CHIPS, "square", "0.5 -3 0x1p-12 181", NULL, "0.25 9 0x1p-24 32768", S751K),
    /* what no rule explains: as if infinity were 2^16; and against ANEForge's 2050 on all chips */
    CASE(ELEMENTWISE, "m5", "mul", "inf", "-0.8", "-inf", FORGE, .published = "-52416"),
    CASE(ELEMENTWISE, "m1", "add", "2048", "1", "2050", GUIDE, .published = "2048"),
    CASE(ELEMENTWISE, "ieee", "add", "2048 65504 16384 0x1p-24 nan", "1 0 16384 0 1", "2048 65504 32768 0x1p-24 nan", OURS),
    /* half to even, against the above */
    CASE(ELEMENTWISE, "m1,rounding=even", "add", "2048 2049 2050", "1 0 1", "2048 2048 2052", GUIDE),
    CASE(ELEMENTWISE, "m1,rounding=even", "sub", "-2048", "1", "-2048", GUIDE),
    CASE(ELEMENTWISE, "m5", "add", "2048 2050", "1 1", "2050 2052", S751K),
    /* NaN counts as +infinity */
    CASE(ELEMENTWISE, CHIPS, "relu", "nan -1 -0", NULL, "inf 0 0", GUIDE),
    CASE(ELEMENTWISE, "m1 m2", "sigmoid", "nan", NULL, "1", GUIDE),
    CASE(ELEMENTWISE, "m3 m4 m5 m6", "sigmoid", "nan", NULL, "0x1.ffcp-1", S751K), /* the last knot, sigmoid(8) */
    CASE(ELEMENTWISE, CHIPS, "tanh", "nan", NULL, "1", GUIDE),
    CASE(ELEMENTWISE, CHIPS, "erf", "nan", NULL, "1", GUIDE),
    CASE(ELEMENTWISE, CHIPS, "exp", "nan", NULL, "inf", GUIDE),
    CASE(ELEMENTWISE, CHIPS, "maximum", "nan 1 nan", "1 nan -inf", "inf inf inf", GUIDE),
    CASE(ELEMENTWISE, CHIPS, "minimum", "nan 1 nan", "1 nan -inf", "1 1 -inf", GUIDE),
    CASE(ELEMENTWISE, "m1,nan=keep", "add", "nan", "1", "0", OURS), /* then the sum is indeterminate */
    CASE(ELEMENTWISE, "m1,nan=keep,indeterminate=ieee", "add", "nan", "1", "nan", OURS),
    /* indeterminate forms */
    CASE(ELEMENTWISE, CHIPS, "sub", "inf -inf", "inf -inf", "0 0", GUIDE),
    CASE(ELEMENTWISE, CHIPS, "add", "inf", "-inf", "0", GUIDE),
    CASE(ELEMENTWISE, CHIPS, "mul", "0 inf -0 -inf", "inf 0 inf 0", "0 0 0 0", GUIDE),
    CASE(ELEMENTWISE, CHIPS, "sqrt", "-1 -0 -inf", NULL, "0 0 0", GUIDE),
    CASE(ELEMENTWISE, CHIPS, "rsqrt", "-1 -0 0", NULL, "0 inf inf", GUIDE),
    CASE(ELEMENTWISE, CHIPS, "log", "-1 0 -0 inf -inf", NULL, "0 -45440 -45440 0 0", GUIDE),
    CASE(ELEMENTWISE, "m4,log0=infinity", "log", "0 1", NULL, "-inf 0", OURS),
    CASE(ELEMENTWISE, "ieee", "log", "-1 0 inf", NULL, "nan -inf inf", OURS),
    CASE(ELEMENTWISE, "m4,indeterminate=ieee", "mul", "0", "inf", "nan", OURS),
    CASE(ELEMENTWISE, CHIPS, "softsign", "inf", NULL, "0", GUIDE),
    CASE(ELEMENTWISE, CHIPS, "softplus", "10 11 inf", NULL, "10 0 0", "guide (M1: infinity), ANEForge (M5: 10, 11)"),
    CASE(ELEMENTWISE, "m4,softplus=exact", "softplus", "10 11 inf", NULL, "10 11 inf", OURS),
    CASE(ELEMENTWISE, CHIPS, "cos", "inf", NULL, "0", FORGE),
    /* zeros */
    CASE(ELEMENTWISE, CHIPS, "add", "-0 -0 1", "0 -0 -1", "0 0 0", GUIDE),
    CASE(ELEMENTWISE, CHIPS, "mul", "-1 -0 -0x1p-24", "0 1 0.25", "0 0 0", GUIDE),
    CASE(ELEMENTWISE, CHIPS, "real_div", "1 1", "-0 0", "inf inf", GUIDE),
    CASE(ELEMENTWISE, "m1,zero=signed", "mul", "-1", "0", "-0", OURS),
    CASE(ELEMENTWISE, "m1,zero=signed", "real_div", "1", "-0", "-inf", OURS),
    CASE(ELEMENTWISE, "ieee", "sqrt", "-0", NULL, "-0", OURS),
    /* subnormals are kept */
    CASE(ELEMENTWISE, CHIPS, "add", "0x1p-24 -0x3p-24", "0 0", "0x1p-24 -0x3p-24", GUIDE),
    CASE(ELEMENTWISE, CHIPS, "mul", "0x1p-24 0x3ffp-24", "1 1", "0x1p-24 0x3ffp-24", GUIDE),
    /* square is infinite from 256 on, sums from 65520 on */
    CASE(ELEMENTWISE, CHIPS, "square", "255 256 -256", NULL, "65024 inf inf", GUIDE),
    CASE(ELEMENTWISE, CHIPS, "add", "65504 65504", "15 16", "65504 inf", GUIDE),
    CASE(ELEMENTWISE, "m5", "round", "1024 1025 -2047 0.5 1.5 -2.5 2048 0.25", NULL, "1025 1026 -2048 1 2 -3 2048 0", FORGE),
    CASE(ELEMENTWISE, CHIPS, "floor", "1024 -2047.0 1.5", NULL, "1024 -2047 1", FORGE),
    CASE(ELEMENTWISE, "ieee m1 m4 m6", "round", "1024 1025 -2047 0.5 1.5 -2.5", NULL, "1024 1025 -2047 0 2 -2", OURS),

    /* A scalar multiplication right after floor, ceil or round is dropped, one by a constant of full shape is not. */
    CASE(ROUNDED, "m5 m6,scale=dropped", "floor", "2.75 -1.25", NULL, "2 -2", FORGE),
    CASE(ROUNDED, "m5 m6,scale=dropped", "ceil", "2.75 -1.25", NULL, "3 -1", FORGE),
    CASE(ROUNDED, "m5 m6,scale=dropped", "round", "2.75 -1.25", NULL, "3 -1", FORGE),
    CASE(ROUNDED, "ieee m1 m4 m5,scale=kept", "floor", "2.75 -1.25", NULL, "4 -4", OURS),
    CASE(ROUNDED, "ieee m1 m4 m5,scale=kept", "ceil", "2.75 -1.25", NULL, "6 -2", OURS),
    CASE(ROUNDED, "ieee m1 m4 m5,scale=kept", "round", "2.75 -1.25", NULL, "6 -2", OURS),
    CASE(ROUNDED_ALL, "ieee m1 m4 m5 m6,scale=dropped m5,scale=kept", "floor", "2.75 -1.25", NULL, "4 -4", FORGE),
    CASE(ROUNDED_ALL, "ieee m1 m4 m5 m6,scale=dropped m5,scale=kept", "ceil", "2.75 -1.25", NULL, "6 -2", FORGE),
    CASE(ROUNDED_ALL, "ieee m1 m4 m5 m6,scale=dropped m5,scale=kept", "round", "2.75 -1.25", NULL, "6 -2", FORGE),

    CASE(FUNCTION, "m1 m2", "gelu", "0", NULL, "-0.000543", GUIDE),
    CASE(FUNCTION, "m1 m2", "silu", "0", NULL, "-0.001259", GUIDE),
    CASE(FUNCTION, "m5", "gelu", "0", NULL, "-0.000754", "guide (M5)"),
    /* knots */
    CASE(FUNCTION, "m3 m4 m6", "gelu", "0.25", NULL, "0.1436", S751K),
    CASE(FUNCTION, "m3 m4 m5 m6", "silu", "0.5", NULL, "0.296", S751K),
    CASE(FUNCTION, "m4 m6", "sigmoid", "0.5", NULL, "0.6226", S751K),  /* sigma(1/2) = 0.62246 */
    CASE(FUNCTION, "m4 m6", "sigmoid", "0.25", NULL, "0.5615", S751K), /* half way to it from 1/2, half away; exact: 0.56218 */
    CASE(FUNCTION, "m4 m6", "sigmoid", "100", NULL, "0.9995", S751K),  /* sigma(8), where the table ends */
    CASE(FUNCTION, "m4 m6", "tanh", "3.999", NULL, "0.9995", S751K),   /* just before the jump to 1 */
    CASE(FUNCTION, "m4 m6", "tanh", "4.5", NULL, "1.0", S751K),
    CASE(FUNCTION, "m4,function=exact", "gelu", "0.25", NULL, "0.1497", OURS),
    CASE(FUNCTION, "m4,function=m1", "gelu", "0", NULL, "-0.000543", GUIDE),
    CASE(ELEMENTWISE, CHIPS, "exp", "11.094", NULL, "inf", GUIDE),
    CASE(ELEMENTWISE, CHIPS, "exp", "0 -100", NULL, "1 0", GUIDE),
    CASE(ELEMENTWISE, CHIPS, "sqrt", "4 0x1p-24 inf", NULL, "2 0x1p-12 inf", GUIDE),
    CASE(ELEMENTWISE, CHIPS, "rsqrt", "4 0.25 inf", NULL, "0.5 2 0", GUIDE),

    CASE(SUM, CHIPS, NULL, "0x1p-8", "0x1p-8", "0x1p-16", OURS),
    CASE(SUM, CHIPS, NULL, "0x1p-9", "0x1p-8", "0", OURS),
    CASE(SUM, CHIPS, NULL, "0x1.4p-8", "0x1p-7", "0x3p-16", OURS),
    CASE(SUM, CHIPS, NULL, "-0x1.4p-8", "0x1p-7", "-0x3p-16", OURS),
    CASE(SUM, CHIPS, NULL, "4*0x1.4p-8", "4*0x1p-8", "0x4p-16", OURS),
    CASE(SUM, CHIPS, NULL, "4096 2", "1 1", "4100", OURS),
    CASE(SUM, CHIPS, NULL, "30000 1 -30000", "1 1 1", "1", OURS),
    CASE(SUM, CHIPS, NULL, "0x1p-14", "0x1p-2", "0x1p-16", OURS),
    /* whose sums were 1x1 convolutions */
    CASE(SUM, CHIPS, NULL, "32752", "1", "32752", S751K),
    CASE(SUM, CHIPS, NULL, "32768", "1", "inf", S751K),
    CASE(SUM, CHIPS, NULL, "2048", "16", "inf", S751K),
    CASE(SUM, CHIPS, NULL, "128", "256", "inf", S751K),
    CASE(SUM, CHIPS, NULL, "8", "4096", "inf", S751K),
    CASE(SUM, CHIPS, NULL, "16384 16376", "1 1", "32768", S751K),
    CASE(SUM, CHIPS, NULL, "16384 16384", "1 1", "inf", S751K),
    CASE(SUM, CHIPS, NULL, "16384 16384 -16384 -16384 1", "5*1", "inf", S751K),
    CASE(SUM, CHIPS, NULL, "16384 0x1p-16 -16384", "3*1", "0x1p-16", S751K),
    CASE(SUM, CHIPS, NULL, "16384 0x1p-18 -16384", "3*1", "0", S751K),
    CASE(SUM, CHIPS, NULL, "0x1p-17", "1", "0x1p-16", S751K), /* a subnormal: exponent -14 */
    CASE(SUM, CHIPS, NULL, "0x1p-18", "1", "0", S751K),
    CASE(SUM, CHIPS, NULL, "2048 1", "1 1", "2050", S751K),
    CASE(SUM, CHIPS, NULL, "-2048 -1", "1 1", "-2050", S751K),
    CASE(SUM, CHIPS, NULL, "-4096 -2", "1 1", "-4100", S751K),
    CASE(SUM, CHIPS, NULL, "1 0x1p-11", "1 1", "0x1.004p0", S751K),
    CASE(SUM, CHIPS, NULL, "65504", "0x1p-4", "4094", S751K),
    CASE(SUM, CHIPS, NULL, "0x1.ep-14", "0x1.ep-3", "0", S751K),
    CASE(SUM, CHIPS, NULL, "0x1.fdp-14", "0x1.fdp-3", "0", S751K),
    CASE(SUM, CHIPS, NULL, "0x1.e66p-13", "0x1.8p-4", "0", S751K),
    CASE(SUM, CHIPS, NULL, "0x1.fap-15", "0.2", "0", S751K),
    CASE(SUM, CHIPS, NULL, "0x1.8p-13", "0.125", "0x2p-16", S751K),
    CASE(SUM, CHIPS, NULL, "0x1p-15", "0.25", "0x1p-16", S751K),
    CASE(SUM, CHIPS, NULL, "nan", "1", "inf", S751K),
    /* operands with exponent 31 are numbers: 2^16, 1.5 2^16, 131008 */
    CASE(SUM, CHIPS, NULL, "inf", "0x1p-2", "16384", S751K),
    CASE(SUM, CHIPS, NULL, "#7e00", "0x1p-2", "24576", S751K),
    CASE(SUM, CHIPS, NULL, "#7fff", "0x1p-3", "16376", S751K),
    CASE(SUM, CHIPS, NULL, "#ffff", "0x1p-3", "-16376", S751K),
    CASE(SUM, CHIPS, NULL, "#7fff", "0x1p-2", "32752", S751K),
    CASE(SUM, CHIPS, NULL, "-0", "1", "0", S751K),
    CASE(SUM, CHIPS, NULL, "0 -0", "-1 1", "0", S751K),
    CASE(SUM, CHIPS, NULL, "16384 16384", "1 1", "16384", S751K, .z = "-16384"),
    CASE(SUM, CHIPS, NULL, "3*16384", "3*1", "inf", S751K, .z = "-16384"),
    CASE(SUM, CHIPS, NULL, "32736", "1", "inf", S751K, .z = "32"),
    CASE(SUM, CHIPS, NULL, "0", "1", "0", S751K, .z = "0x1p-20"),
    CASE(SUM, CHIPS, NULL, "0", "1", "0x1p-16", S751K, .z = "0x1p-17"),
    CASE(SUM, CHIPS, NULL, "0x1p-17", "1", "0x1p-15", S751K, .z = "0x1p-17"),
    CASE(SUM, "ieee", NULL, "32768", "1", "32768", OURS),
    CASE(SUM, "ieee", NULL, "16384 16384 -16384 -16384 1", "5*1", "1", OURS),
    CASE(SUM, "ieee", NULL, "0x1p-17", "1", "0x1p-17", OURS),
    CASE(SUM, "ieee", NULL, "32736", "1", "32768", OURS, .z = "32"),
    CASE(SUM, "ieee", NULL, "2048 1", "1 1", "2048", OURS),
    CASE(SUM, "ieee", NULL, "-2048 -1", "1 1", "-2048", OURS),
    CASE(SUM, "ieee", NULL, "-4096 -2", "1 1", "-4096", OURS),
    CASE(SUM, "ieee", NULL, "1 0x1p-11", "1 1", "1", OURS),
    /* 1000 times 1, of which 32 are finite on M5; limit 32758.8 of a sum on all ten chips */
    CASE(SUM, CHIPS, NULL, "32*1000", "32*1", "32000", FORGE),
    CASE(SUM, CHIPS, NULL, "33*1000", "33*1", "inf", FORGE),
    CASE(SUM, CHIPS, NULL, "4*8188", "4*1", "32752", "ANEForge (ten chips)"),
    CASE(SUM, CHIPS, NULL, "4*8192", "4*1", "inf", "ANEForge (ten chips)"),
    /* 32752 passes and 32768 does not, with one product, too; many ones are exact */
    CASE(SUM, CHIPS, NULL, "16000*1", "16000*1", "16000", GUIDE),
    /* subnormal operands, flushed on M1, kept on M5 */
    CASE(SUM, "m1,subnormal=flush", NULL, "0x1p-15", "0.25", "0", GUIDE),
    CASE(SUM, "m1,subnormal=flush", NULL, "0x1.ff8p-15 0x1p-14", "16 16", "0x1p-10", GUIDE),
    CASE(SUM, "m1,subnormal=flush", NULL, "16 -16", "-0x1p-15 -0x1p-14", "0x1p-10", GUIDE),
    CASE(SUM, "m1,subnormal=flush", NULL, "nan", "1", "inf", GUIDE),
    CASE(SUM, "m5", NULL, "0x1p-15", "16", "0x1p-11", "guide (M5)"),
    /* "through a matmul by ones": what fixed point does not give.  The same chip's fingerprints of matrix
     * products exclude what would; see docs/numerics.md. */
    CASE(SUM, "m1", NULL, "4096 1024*1", "1025*1", "5120", GUIDE, .published = "5116"),
    /* a 1x1 convolution with one input channel; 751K measured infinity for 32768 on M4 */
    CASE(SUM, "m1", NULL, "60000", "1", "inf", GUIDE, .published = "60000"),
    /* M, -M, 1 sixteen times: how many ones survive */
    CASE(SUM, "m1", NULL, "16*(1024 -1024 1)", "48*1", "16", GUIDE),
    CASE(SUM, "m1", NULL, "16*(3000 -3000 1)", "48*1", "16", GUIDE),
    CASE(SUM, "m1", NULL, "16*(4090 -4090 1)", "48*1", "16", GUIDE),
    CASE(SUM, "m1", NULL, "16*(4096 -4096 1)", "48*1", "16", GUIDE, .published = "4"),
    CASE(SUM, "m1", NULL, "16*(8000 -8000 1)", "48*1", "16", GUIDE, .published = "4"),
    CASE(SUM, "m1", NULL, "16*(16000 -16000 1)", "48*1", "16", GUIDE, .published = "4"),
    CASE(SUM, "m1", NULL, "16*(30000 -30000 1)", "48*1", "16", GUIDE, .published = "4"),

    /* Two rows: along axis 3 (within rows) or 2, from element 0 or 1. */
    CASE(SLICE, "ieee " CHIPS, NULL, "1 4094 4096 -4094 60000 0x1p-24", "2 0", "1 4094 4096 -4094 60000 0x1p-24", OURS),
    CASE(SLICE, "ieee " CHIPS, NULL, "1 4094 4096 -4094 60000 0x1p-24", "2 1", "0", OURS),
    CASE(SLICE, "ieee " CHIPS, NULL, "32*0 1 4094 4096 -4096 60000 0x3ffp-24", "2 1", "1 4094 4096 -4096 60000 0x3ffp-24", GUIDE),
    CASE(SLICE, "ieee " CHIPS, NULL, "1 4094 4096 -4094 60000 0x1p-24", "3 0", "1 4094 4096 -4094 60000 0x1p-24", GUIDE),
    CASE(SLICE, "ieee m3 m4 m5 m6 m1,slice=exact", NULL, "1 4094 4096 -4094 -4096 60000 0x1p-24 -0.333", "3 1", "4094 4096 -4094 -4096 60000 0x1p-24 -0.333", FORGE),
    CASE(SLICE, "m1 m2 m4,slice=gain16", NULL, "1 4094 4096 -4094 -4096 60000 0x1p-24 -0.333", "3 1", "4094 inf -4094 -inf inf 0x1p-24 -0.333", "guide, ANEForge (M1, M2)"),
    /* the parts of a split are slices */
    CASE(SPLIT, "m1 m2", NULL, "33*5000 4094", NULL, "inf 4094", OURS),
    CASE(SPLIT, "m4", NULL, "33*5000 4094", NULL, "5000 4094", OURS),

    CASE(ALONG, CHIPS, "softmax", "1000 1 2 3", NULL, "1 0 0 0", GUIDE),
    CASE(ALONG, CHIPS, "softmax", "4*7", NULL, "4*0.25", GUIDE),
    CASE(ALONG, CHIPS, "softmax", "1 nan 2 3", NULL, "0 1 0 0", GUIDE),
    CASE(ALONG, CHIPS, "softmax", "1 2 inf 3", NULL, "0 0 1 0", GUIDE),
    CASE(ALONG, CHIPS, "reduce_max", "1 nan 2", NULL, "inf", GUIDE),
    CASE(ALONG, CHIPS, "reduce_sum", "16000*1", NULL, "16000", GUIDE),
    CASE(ALONG, CHIPS, "reduce_sum", "2*32000", NULL, "64000", GUIDE), /* 2^15 is no limit here, 65504 is */
    CASE(ALONG, CHIPS, "reduce_sum", "2*32752", NULL, "65504", GUIDE),
    CASE(ALONG, CHIPS, "reduce_sum", "2*32768", NULL, "inf", GUIDE),
    /* eight small integers */
    CASE(ALONG, CHIPS, "reduce_sum", "8*256", NULL, "2048", "ANEForge (ten chips)"),
    CASE(ALONG, CHIPS, "reduce_sum", "7*256 257", NULL, "2050", "ANEForge (ten chips)"),
    CASE(ALONG, "ieee", "reduce_sum", "7*256 257", NULL, "2048", OURS),
    CASE(ALONG, "m1,rounding=even", "reduce_sum", "7*256 257", NULL, "2048", GUIDE),
    CASE(ALONG, "ieee", "softmax", "1 nan 2 3", NULL, "4*nan", OURS),
    /* "tiles of four lanes": which ones survive among M and -M in two orders, and sums more */
    CASE(ALONG, "m1,reduce=tiled m4,reduce=tiled ieee,reduce=tiled", "reduce_sum", "16*(1024 -1024 1)", NULL, "16", GUIDE),
    CASE(ALONG, "m1 m4 ieee", "reduce_sum", "16*(1024 -1024 1)", NULL, "16", OURS),
    CASE(ALONG, "m1,reduce=tiled m4,reduce=tiled ieee,reduce=tiled", "reduce_sum", "16*(1024 1 -1024)", NULL, "16", GUIDE),
    CASE(ALONG, "m1 m4 ieee", "reduce_sum", "16*(1024 1 -1024)", NULL, "16", OURS),
    CASE(ALONG, "m1,reduce=tiled m4,reduce=tiled ieee,reduce=tiled", "reduce_sum", "16*(3000 -3000 1)", NULL, "16", GUIDE),
    CASE(ALONG, "m1 m4 ieee", "reduce_sum", "16*(3000 -3000 1)", NULL, "16", OURS),
    CASE(ALONG, "m1,reduce=tiled m4,reduce=tiled ieee,reduce=tiled", "reduce_sum", "16*(3000 1 -3000)", NULL, "16", GUIDE),
    CASE(ALONG, "m1 m4 ieee", "reduce_sum", "16*(3000 1 -3000)", NULL, "16", OURS),
    CASE(ALONG, "m1,reduce=tiled m4,reduce=tiled ieee,reduce=tiled", "reduce_sum", "16*(4090 -4090 1)", NULL, "16", GUIDE),
    CASE(ALONG, "m1 m4 ieee", "reduce_sum", "16*(4090 -4090 1)", NULL, "16", OURS),
    CASE(ALONG, "m1,reduce=tiled m4,reduce=tiled ieee,reduce=tiled", "reduce_sum", "16*(4090 1 -4090)", NULL, "16", GUIDE),
    CASE(ALONG, "m1 m4 ieee", "reduce_sum", "16*(4090 1 -4090)", NULL, "16", OURS),
    CASE(ALONG, "m1,reduce=tiled m4,reduce=tiled ieee,reduce=tiled", "reduce_sum", "16*(4096 -4096 1)", NULL, "4", GUIDE),
    CASE(ALONG, "m1 m4 ieee", "reduce_sum", "16*(4096 -4096 1)", NULL, "16", OURS),
    CASE(ALONG, "m1,reduce=tiled m4,reduce=tiled ieee,reduce=tiled", "reduce_sum", "16*(4096 1 -4096)", NULL, "4", GUIDE),
    CASE(ALONG, "m1 m4 ieee", "reduce_sum", "16*(4096 1 -4096)", NULL, "16", OURS),
    CASE(ALONG, "m1,reduce=tiled m4,reduce=tiled ieee,reduce=tiled", "reduce_sum", "16*(8000 -8000 1)", NULL, "4", GUIDE),
    CASE(ALONG, "m1 m4 ieee", "reduce_sum", "16*(8000 -8000 1)", NULL, "16", OURS),
    CASE(ALONG, "m1,reduce=tiled m4,reduce=tiled ieee,reduce=tiled", "reduce_sum", "16*(8000 1 -8000)", NULL, "4", GUIDE),
    CASE(ALONG, "m1 m4 ieee", "reduce_sum", "16*(8000 1 -8000)", NULL, "16", OURS),
    CASE(ALONG, "m1,reduce=tiled m4,reduce=tiled ieee,reduce=tiled", "reduce_sum", "16*(16000 -16000 1)", NULL, "4", GUIDE),
    CASE(ALONG, "m1 m4 ieee", "reduce_sum", "16*(16000 -16000 1)", NULL, "16", OURS),
    CASE(ALONG, "m1,reduce=tiled m4,reduce=tiled ieee,reduce=tiled", "reduce_sum", "16*(16000 1 -16000)", NULL, "4", GUIDE),
    CASE(ALONG, "m1 m4 ieee", "reduce_sum", "16*(16000 1 -16000)", NULL, "16", OURS),
    CASE(ALONG, "m1,reduce=tiled m4,reduce=tiled ieee,reduce=tiled", "reduce_sum", "16*(30000 -30000 1)", NULL, "4", GUIDE),
    CASE(ALONG, "m1 m4 ieee", "reduce_sum", "16*(30000 -30000 1)", NULL, "16", OURS),
    CASE(ALONG, "m1,reduce=tiled m4,reduce=tiled ieee,reduce=tiled", "reduce_sum", "16*(30000 1 -30000)", NULL, "4", GUIDE),
    CASE(ALONG, "m1 m4 ieee", "reduce_sum", "16*(30000 1 -30000)", NULL, "16", OURS),
    CASE(ALONG, "m1,reduce=tiled", "reduce_sum", "4096 1024*1", NULL, "5116", GUIDE),
    CASE(ALONG, "m1", "reduce_sum", "4096 1024*1", NULL, "5120", OURS),
    CASE(ALONG, "m1,reduce=tiled", "reduce_sum", "16000*1", NULL, "16000", GUIDE),
    CASE(ALONG, "m1,reduce=tiled", "reduce_sum", "8192 16*1", NULL, "8208", GUIDE),
    CASE(ALONG, "m1,reduce=tiled", "reduce_sum", "8*256", NULL, "2048", GUIDE),
    CASE(ALONG, "m1,reduce=tiled", "reduce_sum", "7*256 257", NULL, "2050", GUIDE),
    CASE(ALONG, "m1,reduce=tiled", "reduce_sum", "2*32768", NULL, "inf", GUIDE),
    CASE(ALONG, "m1,reduce=tiled", "reduce_max", "1 nan 2", NULL, "inf", GUIDE),
    CASE(ALONG, "m1,reduce=tiled", "reduce_sum", "1 nan 2", NULL, "inf", GUIDE),
    CASE(ALONG, "m1,reduce=tiled", "reduce_sum", "1 inf -inf 5 -2", NULL, "0", OURS),
    /* clang-format on */
};

/* ---- Rows as cases ---------------------------------------------------------------------- */

/* Row `i` of those that stand for several cases gives one for each of its operations. */
static const row *find(int index, const char **op)
{
	for (int i = 0; i < LENGTH(rows) && index >= 0; i++) {
		int first = rows[i].z ? 1 : 0, n = rows[i].kind == SUM ? LENGTH(sum_ops) - first : 1;
		*op = rows[i].kind == SUM     ? sum_ops[MIN(first + index, LENGTH(sum_ops) - 1)]
		      : rows[i].kind == SLICE ? "slice_by_size"
		      : rows[i].kind == SPLIT ? "split"
					      : rows[i].op;
		if (index < n)
			return &rows[i];
		index -= n;
	}
	return NULL;
}

bool an_case_at(int index, an_case *out)
{
	const char *op;
	const row *r = find(index, &op);
	if (r)
		*out = (an_case){.kind = kind_name[r->kind],
				 .op = op,
				 .x = r->x,
				 .y = r->y,
				 .bias = r->z,
				 .want = r->want,
				 .numerics = r->numerics,
				 .published = r->published,
				 .source = r->source};
	return r;
}

bool an_case_holds(const an_case *c, const char *numerics)
{
	size_t n = strlen(numerics);
	for (const char *word = c->numerics; *word; word += strspn(word, " ")) {
		size_t len = strcspn(word, " ");
		if (len == n && !memcmp(word, numerics, n))
			return true;
		word += len;
	}
	return false;
}

/* ---- Values ------------------------------------------------------------------------------ */

/* "4096 1024*1 2*(1 -0 inf) nan 0x1p-24 #7fff" (bits), up to `end`, as fp16 into x, of which there are
 * `most`.  How many; negative: not readable. */
static int parse_to(const char **text, half *x, int most, char end)
{
	int n = 0;
	for (; **text && **text != end; *text += **text == ' ') {
		char *rest;
		int times = 1, one = 1; /* how many values are repeated */
		bool bits = **text == '#';
		double v = bits ? (double)strtol(*text + 1, &rest, 16) : strtod(*text, &rest);
		if (*rest == '*') {
			times = (int)v;
			*text = rest + 1;
			v = strtod(*text, &rest);
		}
		bool group = **text == '(';
		if (group) {
			++*text;
			one = parse_to(text, x + n, most - n, ')');
			if (one < 0 || *(*text)++ != ')')
				return -1;
		} else if (rest == *text) {
			return -1;
		} else {
			*text = rest;
		}
		if (times < 1 || n + times * one > most)
			return -1;
		if (!group)
			x[n] = bits ? (half)v : half_from_double(v);
		for (int i = one; i < times * one; i++)
			x[n + i] = x[n + i - one];
		n += times * one;
	}
	return n;
}

static int parse(const char *text, half *x, int most) { return parse_to(&text, x, most, 0); }

/* Equal bits, or both NaN. */
static bool equal(half a, half b)
{
	float x = half_to_float(a), y = half_to_float(b);
	return a == b || (x != x && y != y);
}

/* A number as it is printed in `text`. */
static bool equal_printed(half a, const char *text)
{
	char mine[40];
	const char *point = strchr(text, '.');
	snprintf(mine, sizeof mine, "%.*f", point ? (int)strlen(point + 1) : 0, half_to_float(a));
	return strtod(mine, NULL) == strtod(text, NULL);
}

/* ---- Programs ------------------------------------------------------------------------------ */

/* A case's program with its inputs, and where in the output its values stand. */
typedef struct built {
	arena *a;
	an_builder b;
	half *x, *y, *z; /* as parsed */
	int nx, ny;
	half *input[2];
	int ninputs;
	int stride; /* value i is element i * stride */
} built;

static an_type tensor(int channels, int height, int width)
{
	return an_tensor(AN_FP16, 4, (int32_t[]){1, channels, height, width});
}

/* An input whose memory is zero; NULL: memory is out. */
static half *input(built *p, an_type t, an_value *v)
{
	half *data = p->input[p->ninputs] = arena_alloc(p->a, an_type_bytes(&t));
	*v = an_input(&p->b, p->ninputs ? "y" : "x", t);
	p->ninputs++;
	return data;
}

/* Values one after another. */
static an_value input_row(built *p, const half *x, int n, int height, int width)
{
	an_value v;
	half *data = input(p, tensor(1, height, width), &v);
	if (data)
		memcpy(data, x, (size_t)n * sizeof *x);
	return v;
}

/* A value in every column of a row. */
static void spread(half *to, const half *x, int n)
{
	for (int i = 0; to && i < n * WIDTH; i++)
		to[i] = x[i / WIDTH];
}

static an_value input_columns(built *p, const half *x, int n)
{
	an_value v;
	spread(input(p, tensor(n, 1, WIDTH), &v), x, n);
	return v;
}

static an_value build_sum(built *p, const char *op)
{
	const int k = MAX(p->nx, WIDTH); /* with zeros */
	an_value x, w, r = AN_NO_VALUE;
	if (!strcmp(op, "matmul")) {
		x = input_row(p, p->x, p->nx, 1, k);
		spread(input(p, tensor(1, k, WIDTH), &w), p->y, p->ny);
		return an_matmul(&p->b, x, w, false, false);
	}
	bool conv = !strcmp(op, "conv");
	int out = conv ? 1 : WIDTH;
	half *weight = arena_array(p->a, (size_t)(out * k), sizeof *weight), bias[WIDTH];
	if (!weight)
		return AN_NO_VALUE;
	for (int i = 0; i < out; i++)
		memcpy(weight + i * k, p->y, (size_t)p->ny * sizeof *weight);
	for (int i = 0; i < WIDTH; i++)
		bias[i] = *p->z;
	if (conv) {
		half *data = input(p, tensor(k, 1, WIDTH), &x);
		spread(data, p->x, p->nx);
		w = an_const(&p->b, "w", an_tensor(AN_FP16, 4, (int32_t[]){out, k, 1, 1}), weight);
	} else {
		half *data = input(p, an_tensor(AN_FP16, 2, (int32_t[]){1, k}), &x);
		if (data)
			memcpy(data, p->x, (size_t)p->nx * sizeof *data);
		w = an_const(&p->b, "w", an_tensor(AN_FP16, 2, (int32_t[]){out, k}), weight);
	}
	an_arg args[] = {{"x", AN_ARG_VALUE, 0, {.value = x}},
			 {"weight", AN_ARG_VALUE, 0, {.value = w}},
			 {"bias", AN_ARG_VALUE, 0, {0}}};
	bool biased = p->z != p->x;
	if (biased)
		args[2].u.value = an_const(&p->b, "b", an_tensor(AN_FP16, 1, (int32_t[]){out}), bias);
	an_emit(&p->b, conv ? OP_CONV : OP_LINEAR, "r", args, biased ? 3 : 2, &r, 1);
	return r;
}

static an_value build_split(built *p)
{
	an_value part[2] = {AN_NO_VALUE, AN_NO_VALUE};
	an_arg args[] = {
	    {"x", AN_ARG_VALUE, 0, {.value = input_row(p, p->x, p->nx, 1, 2 * WIDTH)}},
	    {"num_splits", AN_ARG_INT, 0, {.i = 2}},
	    {"axis", AN_ARG_INT, 0, {.i = -1}},
	};
	an_emit(&p->b, OP_SPLIT, "part", args, LENGTH(args), part, 2);
	return part[1];
}

/* `axis begin`: rows of 32 along axis 2, or 32 of 64 within a row along axis 3. */
static an_value build_slice(built *p, const char *where)
{
	int axis = where[0] - '0', begin = where[2] - '0';
	an_value x =
	    axis == 2 ? input_row(p, p->x, p->nx, 2, WIDTH) : input_row(p, p->x, p->nx, 2, 2 * WIDTH);
	return an_slice(&p->b, x, axis, begin, axis == 2 ? 1 : WIDTH);
}

static an_value build_rounded(built *p, const char *op, bool all)
{
	an_type t = tensor(1, 1, WIDTH);
	an_value y = an_unary(&p->b, op, input_row(p, p->x, p->nx, 1, WIDTH));
	half two[WIDTH];
	for (int i = 0; i < WIDTH; i++)
		two[i] = half_from_double(2);
	return all ? an_mul(&p->b, an_const(&p->b, "two", t, two), y) : an_scale(&p->b, y, 2);
}

static an_value build(built *p, const row *r, const char *op)
{
	an_value x;
	p->stride = 1;
	switch (r->kind) {
	case ROUNDED:
	case ROUNDED_ALL: return build_rounded(p, op, r->kind == ROUNDED_ALL);
	case SUM: return build_sum(p, op);
	case SLICE: return build_slice(p, r->y);
	case SPLIT: return build_split(p);
	case ALONG:
		p->stride = WIDTH;
		x = input_columns(p, p->x, p->nx);
		return strcmp(op, "softmax") ? an_reduce(&p->b, op, x, 1, true) : an_softmax(&p->b, x, 1);
	default:
		x = input_row(p, p->x, p->nx, 1, WIDTH);
		return r->y ? an_binary(&p->b, op, x, input_row(p, p->y, p->ny, 1, WIDTH))
			    : an_unary(&p->b, op, x);
	}
}

/* Reads the row's numbers; what is not given points to x. */
static an_status read_row(built *p, const row *r)
{
	an_ctx *ctx = p->a->ctx;
	half *all = arena_array(p->a, 2 * MOST + 1, sizeof *all);
	if (!all)
		return fail_memory(ctx, 0);
	p->x = p->z = all;
	p->y = all + MOST;
	p->nx = parse(r->x, p->x, MOST);
	p->ny = r->y && r->kind != SLICE ? parse(r->y, p->y, MOST) : p->nx;
	bool right = p->nx > 0 && p->ny == p->nx &&
		     (r->kind == SUM || r->kind == ALONG || p->nx <= (r->kind < SUM ? 1 : 2) * WIDTH);
	if (r->z) {
		p->z = all + 2 * MOST;
		right = right && parse(r->z, p->z, 1) == 1;
	}
	return right ? AN_OK : fail(ctx, AN_INTERNAL, "a published case cannot be read: \"%s\"", r->x);
}

static an_status run_session(const built *p, session *s, an_device *d, an_function *f, half *all)
{
	TRY(session_open(s, d, f, p->a));
	for (int i = 0; i < s->nin; i++)
		TRY(buffer_fill(s->in[i], p->input[i]));
	TRY(an_call_run(s->call));
	return buffer_read(s->out[0], all);
}

/* Builds, runs and reads; out->got. */
static an_status run(built *p, an_program *program, const row *r, const char *op, an_device *d,
		     an_case_result *out)
{
	an_function *f;
	TRY(read_row(p, r));
	TRY(an_function_new(program, "main", &f));
	p->b = an_builder_on(f);
	an_value y = build(p, r, op);
	for (int i = 0; i < p->ninputs; i++)
		if (!p->input[i])
			return fail_memory(p->a->ctx, 0);
	an_output(&p->b, y);
	TRY(an_builder_finish(&p->b));
	half *all = arena_alloc(p->a, an_type_bytes(&fn_value(f, y)->type));
	if (!all)
		return fail_memory(p->a->ctx, 0);
	session s = {0};
	an_status status = run_session(p, &s, d, f, all);
	session_close(&s);
	for (int i = 0; status == AN_OK && i < out->n; i++)
		out->got[i] = all[i * p->stride];
	return status;
}

static bool matches(const an_case_result *got, const row *r, const char *text, int *where)
{
	half want[AN_CASE_MOST];
	int n = parse(text, want, AN_CASE_MOST);
	for (int i = 0; i < n; i++)
		if (r->kind == FUNCTION ? !equal_printed(got->got[i], text) : !equal(got->got[i], want[i])) {
			*where = i;
			return false;
		}
	return true;
}

double an_case_value(const an_case_result *r, int i) { return half_to_float(r->got[i]); }

an_status an_case_run(an_device *d, int index, an_case_result *out)
{
	an_ctx *ctx = d->ctx;
	const char *op;
	const row *r = find(index, &op);
	half want[AN_CASE_MOST];
	int unused;
	*out = (an_case_result){.where = -1};
	if (!r)
		return fail(ctx, AN_USAGE, "there is no published case %d", index);
	out->n = parse(r->want, want, AN_CASE_MOST);
	if (out->n < 1)
		return fail(ctx, AN_INTERNAL, "a published case cannot be read: \"%s\"", r->want);
	arena a;
	an_program *program;
	arena_init(&a, ctx);
	built p = {.a = &a};
	an_status s = an_program_new(ctx, &program);
	if (s == AN_OK)
		s = run(&p, program, r, op, d, out);
	an_program_free(program);
	arena_free(&a);
	if (s == AN_OK) {
		matches(out, r, r->want, &out->where);
		out->as_published = r->published && matches(out, r, r->published, &unused);
	}
	return s;
}
