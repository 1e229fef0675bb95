/* Functions read from tables, on all fp16 values and every instruction set: against the rules written once
 * more in double with knots from the C library, and against the published greatest errors. */
#include "ane/tables.h"
#include "support/kernel_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define N (1 << 16)

static int nisa;
static const uint32_t *isas;

static half all[N], result[N];

/* The table of f on all fp16 values; rounded half away if `away`, else in fp32. */
static void run_table(const ane_table *t, uint32_t isa, void *y, bool away, float epsilon, int flags)
{
	for (int i = 0; i < N; i++)
		all[i] = (half)i;
	const ew_instr instr[] = {{.op = EW_LOAD, .dst = 0, .a = 0},
				  {.op = EW_MOV,
				   .dst = 0,
				   .a = 0,
				   .round16 = away ? EW_AWAY : EW_KEEP,
				   .flags = (uint8_t)flags,
				   .imm = epsilon,
				   .table = t},
				  {.op = EW_STORE, .dst = 1, .a = 0}};
	const ew_operand operand[] = {{all, K_F16, {1}}, {y, away ? K_F16 : K_F32, {1}}};
	k_ewise(check_pools()[1], isa,
		&(ew_program){.rank = 1,
			      .dim = {N},
			      .ninstr = 3,
			      .noperands = 2,
			      .nregs = 1,
			      .instr = instr,
			      .operand = operand});
}

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double silu(double x) { return x * sigmoid(x); }
static double gelu(double x) { return x * 0.5 * erfc(-x / sqrt(2)); }
static double rsqrt(double x) { return 1 / sqrt(x); }
static double inverse(double x) { return 1 / x; }

/* What the functions are, where their knots are, and what is published. */
enum unit { ABSOLUTE, ULP };
static const struct {
	ane_fn fn;
	double (*of)(double), (*knot)(double); /* NULL: fitted */
	double first, step;
	enum unit unit;
	double low, high;    /* the range of the published figure, ours where none is said */
	double error, print; /* the figure, half of its last digit */
	float epsilon;       /* its epsilon */
} list[] = {
    {ANE_SIGMOID, sigmoid, sigmoid, -8, 0.5, ABSOLUTE, -65504, 65504, 3.4e-3, 0.05e-3, 0},
    {ANE_TANH, tanh, tanh, 0, 0.125, ABSOLUTE, -65504, 65504, 1.6e-3, 0.05e-3, 0},
    /* the step of 4.7e-3 at 2 is not in the figure */
    {ANE_ERF, erf, erf, 0, 0.0625, ABSOLUTE, -2, 2, 8.6e-4, 0.05e-4, 0},
    {ANE_SIN, sin, sin, 0, 0x1.921fb54442d18p-5 /* pi / 64 */, ABSOLUTE, -1.5708, 1.5708, 6.3e-4, 0.05e-4, 0},
    {ANE_EXP, exp, exp2, 0, 0.03125, ULP, -10, 10, 9.1, 0.05, 0},
    {ANE_LOG, log, log2, 0.5, 0.015625, ABSOLUTE, 1e-3, 1000, 6.6e-3, 0.05e-3, 0},
    {ANE_SQRT, sqrt, sqrt, 0.5, 0.0625, ULP, 0x1p-24, 65504, 1.2, 0.05, 0},
    {ANE_RSQRT, rsqrt, rsqrt, 0.5, 0.0625, ULP, 0x1p-24, 65504, 2.1, 0.05, 0},
    /* over x from 1/64 on; the result is compared with 1 / x, the epsilon being an error here */
    {ANE_INV, inverse, inverse, 0.5, 0.015625, ULP, 0.015625, 65504, 13.5, 0.05, 1e-4f},
    {ANE_GELU, gelu, NULL, -4, 0.25, ABSOLUTE, -65504, 65504, 6.2e-3, 0.05e-3, 0},
    {ANE_SILU, silu, NULL, -8, 0.5, ABSOLUTE, -65504, 65504, 1.5e-2, 0.05e-2, 0},
};

/* The same study's raw figures.  Ranges are ours; it printed the arguments of the greatest errors only,
 * 0.0332 (rsqrt) and 0.01587 (inverse) among them. */
static const struct {
	ane_fn fn;
	double (*of)(double);
	enum unit unit;
	double low, high, error, print;
	float epsilon;
} raw[] = {
    {ANE_EXP, exp, ABSOLUTE, -10, 10, 100.8, 0.05, 0},
    {ANE_LOG, log, ABSOLUTE, 1e-3, 1000, 6.638e-3, 0.0005e-3, 0},
    {ANE_LOG, log, ULP, 1e-3, 1000, 91, 0.5, 0}, /* at 1.004; 0 at 1 is exact */
    {ANE_SQRT, sqrt, ABSOLUTE, 1e-3, 1000, 1.810e-2, 0.0005e-2, 0},
    {ANE_RSQRT, rsqrt, ABSOLUTE, 0.015625, 1000, 8.139e-3, 0.0005e-3, 0},
    {ANE_INV, inverse, ABSOLUTE, 0.015625, 1000, 0.4375, 0.00005, 1e-4f},
};

static double ulp_of(double x)
{
	int e;
	frexp(x, &e);
	return ldexp(1, MAX(e - 11, -24));
}

static double greatest_error(double (*of)(double), const half *y, double low, double high, enum unit unit)
{
	double most = 0;
	for (int i = 0; i < N; i++) {
		double x = (double)half_to_float((half)i), want = of(x), got = (double)half_to_float(y[i]);
		if (!(x >= low && x <= high) || fabs(want) >= 65520 || x == 0)
			continue;
		most = fmax(most, fabs(got - want) / (unit == ULP ? ulp_of(want) : 1));
	}
	return most;
}

/* The greatest error is the published one, to its last digit. */
static void test_published_errors(void **state)
{
	(void)state;
	for (int k = 0; k < LENGTH(list); k++) {
		const ane_table *t = ane_table_find(list[k].fn, ANE_TABLES_M4);
		run_table(t, isas[nisa - 1], result, true, list[k].epsilon, 0);
		double most = greatest_error(list[k].of, result, list[k].low, list[k].high, list[k].unit);
		if (!(fabs(most - list[k].error) <= list[k].print))
			fail_msg("%s: greatest error %.5g, expected %.5g", t->name, most, list[k].error);
		assert_true(fabs((double)t->error - list[k].error) < 1e-6 &&
			    t->in_ulp == (list[k].unit == ULP));
		assert_int_equal(ane_table_basis(t, ANE_TABLES_M4),
				 list[k].knot ? ANE_MEASURED : ANE_STAND_IN);
	}
}

static void test_raw_errors(void **state)
{
	(void)state;
	for (int k = 0; k < LENGTH(raw); k++) {
		run_table(ane_table_find(raw[k].fn, ANE_TABLES_M4), isas[nisa - 1], result, true,
			  raw[k].epsilon, 0);
		double most = greatest_error(raw[k].of, result, raw[k].low, raw[k].high, raw[k].unit);
		if (!(fabs(most - raw[k].error) <= raw[k].print))
			fail_msg("figure %d: greatest error %.6g, published %.6g", k, most, raw[k].error);
	}
}

/* Half away from zero at 11 bits, then at 2^-24; *near_tie: another value is as good as this one if x is
 * off by fp32's rounding. */
static double away(double x, bool *near_tie)
{
	int e;
	double m = frexp(fabs(x), &e) * 2048, y = ldexp(round(m), e - 11);
	*near_tie = fabs(m - floor(m) - 0.5) < 0x1p-9;
	if (y < 0x1p-14) {
		*near_tie |= fabs(y * 0x1p24 - floor(y * 0x1p24) - 0.5) < 0x1p-9;
		y = round(y * 0x1p24) * 0x1p-24;
	}
	return copysign(y >= 65536 ? INFINITY : y, x);
}

/* The straight line at place t of knots f(first + i step). */
static double between(double (*f)(double), double first, double step, double t)
{
	t = fmin(fmax(t, 0), 32);
	double i = fmin(floor(t), 31), k[2];
	for (int j = 0; j < 2; j++)
		k[j] = (double)half_to_float(half_from_double(f(first + (i + j) * step)));
	return k[0] + (t - i) * (k[1] - k[0]);
}

/* Table k at x, finite and not 0, by the rules in ane/tables.h. */
static double by_rule(int k, double x, bool *near_tie)
{
	const double first = list[k].first, step = list[k].step;
	double (*f)(double) = list[k].knot;
	bool ignored;
	int e;
	double m = frexp(fabs(x), &e), y;
	switch (list[k].fn) {
	case ANE_SIGMOID: y = between(f, first, step, (x - first) / step); break;
	case ANE_TANH:
	case ANE_ERF:
		y = fabs(x) > 32 * step ? 1 : between(f, first, step, fabs(x) / step);
		y = copysign(y, x);
		break;
	case ANE_SIN: {
		double quarters = fabs(x) / (32 * step), n = floor(quarters), over = quarters - n;
		y = between(f, first, step, 32 * (fmod(n, 2) != 0 ? 1 - over : over));
		y *= (fmod(n, 4) >= 2 ? -1 : 1) * (x < 0 ? -1 : 1);
		break;
	}
	case ANE_EXP: { /* 1.4423828125 is log2(e) in fp16 */
		double v = fmin(fmax(away(x * 1.4423828125, &ignored), -100), 100), n = floor(v);
		y = ldexp(between(f, first, step, (v - n) / step), (int)n);
		break;
	}
	case ANE_LOG: /* 0.693359375 is ln(2) in fp16 */
		y = away(between(f, first, step, (m - 0.5) / step), near_tie);
		y = away(y + e, &ignored) * 0.693359375;
		break;
	case ANE_SQRT:
	case ANE_RSQRT:
		if (e % 2 != 0) {
			m *= 2;
			e--;
		}
		y = between(f, first, step, (m - 0.5) / step);
		y = ldexp(y, list[k].fn == ANE_SQRT ? e / 2 : -e / 2);
		break;
	default: y = copysign(ldexp(between(f, first, step, (m - 0.5) / step), -e), x); break;
	}
	bool tie;
	y = away(y, &tie);
	*near_tie |= tie;
	return y;
}

static void test_rules(void **state)
{
	(void)state;
	for (int k = 0; k < LENGTH(list); k++) {
		if (!list[k].knot)
			continue;
		run_table(ane_table_find(list[k].fn, ANE_TABLES_M4), isas[nisa - 1], result, true, 0, 0);
		bool root = list[k].fn == ANE_LOG || list[k].fn == ANE_SQRT || list[k].fn == ANE_RSQRT;
		for (int i = 0; i < N; i++) {
			double x = (double)half_to_float((half)i), got = (double)half_to_float(result[i]);
			if (!isfinite(x) || x == 0)
				continue;
			bool near_tie = false;
			double want = root && x < 0 ? 0 : by_rule(k, x, &near_tie);
			if (got != want && !(near_tie && fabs(got - want) <= 2 * ulp_of(want)))
				fail_msg("%d at %a: %a, expected %a", list[k].fn, x, got, want);
		}
	}
}

/* Before rounding, too, all sets give the same bits; so do operands with an epsilon. */
static void test_sets(void **state)
{
	(void)state;
	static float first[N], other[N];
	for (int f = 0; f < ANE_FN_COUNT; f++)
		for (int set = 0; set < ANE_TABLE_SETS; set++)
			for (int run = 0; run < 2 * nisa; run++) {
				const ane_table *t = ane_table_find((ane_fn)f, (ane_table_set)set);
				float epsilon = run < nisa ? 0 : 0.25f;
				run_table(t, isas[run % nisa], run % nisa ? other : first, false, epsilon, 0);
				for (int i = 0; run % nisa && i < N; i++)
					if (!check_same(first[i], other[i]))
						fail_msg("%s isa %x at %04x: %a, portable %a", t->name,
							 isas[run % nisa], i, other[i], first[i]);
			}
	const ane_table *inv = ane_table_find(ANE_INV, ANE_TABLES_M4);
	run_table(inv, isas[nisa - 1], result, true, 0.25f, 0);
	static half plain[N];
	run_table(inv, isas[nisa - 1], plain, true, 0, 0);
	assert_int_equal(result[half_from_float(1.75f)], plain[half_from_float(2)]);
	/* the sum is rounded half away: 2048 + 1 = 2050 */
	run_table(inv, isas[nisa - 1], result, true, 1, 0);
	assert_int_equal(result[half_from_float(2048)], plain[half_from_float(2050)]);
}

static float at(ane_fn f, ane_table_set set, float x)
{
	run_table(ane_table_find(f, set), isas[nisa - 1], result, true, 0,
		  EW_NAN_INF | EW_NAN_ZERO | EW_ZERO_PLUS);
	return half_to_float(result[half_from_float(x)]);
}

/* Single values measured on chips. */
static void test_values(void **state)
{
	(void)state;
	const ane_table_set m1 = ANE_TABLES_M1, m4 = ANE_TABLES_M4, m5 = ANE_TABLES_M5;
	/* M1: log(0), logarithms and roots of negative numbers, signed zeros, NaN as infinity */
	assert_true(at(ANE_LOG, m1, 0) == -45440);
	assert_true(at(ANE_LOG, m1, -1) == 0 && at(ANE_SQRT, m1, -1) == 0 && at(ANE_RSQRT, m1, -1) == 0);
	assert_true(at(ANE_INV, m1, -0.0f) == INFINITY && at(ANE_RSQRT, m1, -0.0f) == INFINITY);
	assert_true(at(ANE_SQRT, m1, -0.0f) == 0 && !signbit(at(ANE_SQRT, m1, -0.0f)));
	assert_true(at(ANE_SIGMOID, m1, NAN) == 1 && at(ANE_TANH, m1, NAN) == 1 && at(ANE_ERF, m1, NAN) == 1);
	assert_true(at(ANE_EXP, m1, NAN) == INFINITY);
	/* the exponential is infinite from 11.094 on */
	assert_true(at(ANE_EXP, m1, 11.09375f) == INFINITY && at(ANE_EXP, m1, 11.0859375f) < INFINITY);
	/* M5: log(infinity) = 0, cos(infinity) = 0 */
	assert_true(at(ANE_LOG, m5, INFINITY) == 0 && at(ANE_COS, m5, INFINITY) == 0);
	/* origins, and a knot of each fitted table that was quoted */
	assert_true(at(ANE_GELU, m1, 0) == half_to_float(half_from_float(-0.000543f)));
	assert_true(at(ANE_SILU, m1, 0) == half_to_float(half_from_float(-0.001259f)));
	assert_true(at(ANE_GELU, m5, 0) == half_to_float(half_from_float(-0.000754f)));
	assert_true(fabsf(at(ANE_GELU, m4, 0.25f) - 0.1436f) < 0.00005f);
	assert_true(fabsf(at(ANE_SILU, m4, 0.5f) - 0.296f) < 0.0005f);
	/* where tables end */
	assert_true(at(ANE_GELU, m4, 300) == 300 && at(ANE_SILU, m4, -300) == 0 &&
		    at(ANE_GELU, m4, 4) > 3.99f);
	assert_true(at(ANE_SIGMOID, m4, 300) == at(ANE_SIGMOID, m4, 8) && at(ANE_TANH, m4, -4.004f) == -1);
	assert_true(at(ANE_EXP, m4, -300) == 0 && at(ANE_EXP2, m4, -24) == 0x1p-24f &&
		    at(ANE_EXP2, m4, 15) == 32768);
	assert_true(at(ANE_EXP2, m4, 16) == INFINITY && at(ANE_INV, m4, INFINITY) == 0);
	assert_true(at(ANE_SQRT, m4, INFINITY) == INFINITY && at(ANE_RSQRT, m4, INFINITY) == 0);
	/* powers of two have knots of their own */
	for (int e = -14; e <= 15; e++) {
		assert_true(at(ANE_INV, m4, ldexpf(1, e)) == ldexpf(1, -e));
		assert_true(e % 2 != 0 || at(ANE_SQRT, m4, ldexpf(1, e)) == ldexpf(1, e / 2));
		assert_true(e % 2 != 0 || at(ANE_RSQRT, m4, ldexpf(1, e)) == ldexpf(1, -e / 2));
	}
	/* M1's fitted tables stay below what was measured there */
	static const struct {
		ane_fn fn;
		double (*of)(double);
		double error;
	} fitted[] = {{ANE_SIGMOID, sigmoid, 3.4e-3}, {ANE_TANH, tanh, 1.7e-3}, {ANE_GELU, gelu, 5.9e-3}};
	for (int i = 0; i < LENGTH(fitted); i++) {
		run_table(ane_table_find(fitted[i].fn, m1), isas[nisa - 1], result, true, 0, 0);
		assert_true(greatest_error(fitted[i].of, result, -65504, 65504, ABSOLUTE) <= fitted[i].error);
	}
	assert_true(greatest_error(cos,
				   (run_table(ane_table_find(ANE_COS, m4), 0, result, true, 0, 0), result),
				   -20, 20, ABSOLUTE) < 6.4e-4);
}

static int begin(void **state)
{
	(void)state;
	isas = check_isas(&nisa);
	return 0;
}
static int end(void **state)
{
	(void)state;
	check_pools_stop();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_published_errors),
	    cmocka_unit_test(test_raw_errors),
	    cmocka_unit_test(test_rules),
	    cmocka_unit_test(test_sets),
	    cmocka_unit_test(test_values),
	};
	return cmocka_run_group_tests(tests, begin, end);
}
