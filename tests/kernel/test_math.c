/* Elementary functions of elementwise programs against libm in double precision, and the same
 * bits on every instruction set. */
#include "support/kernel_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

enum { N = 200001 };

static void apply(uint32_t isa, ew_op op, float imm, float imm2, const float *a, const float *b, float *y,
		  int64_t n)
{
	ew_instr instr[4] = {{.op = EW_LOAD, .dst = 0, .a = 0},
			     {.op = EW_LOAD, .dst = 1, .a = 1},
			     {.op = (uint8_t)op, .dst = 2, .a = 0, .b = 1, .imm = imm, .imm2 = imm2},
			     {.op = EW_STORE, .dst = 2, .a = 2}};
	ew_operand operand[3] = {
	    {(void *)(uintptr_t)a, K_F32, {1}}, {(void *)(uintptr_t)b, K_F32, {1}}, {y, K_F32, {1}}};
	ew_program p = {.rank = 1,
			.dim = {n},
			.ninstr = 4,
			.noperands = 3,
			.nregs = 3,
			.instr = instr,
			.operand = operand};
	k_ewise(NULL, isa, &p);
}

static double ref_sigmoid(double x) { return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x)); }
static double ref_silu(double x) { return x * ref_sigmoid(x); }
static double ref_gelu(double x) { return 0.5 * x * erfc(-x / sqrt(2)); }
static double ref_gelu_tanh(double x)
{
	return x * ref_sigmoid(2 * sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
}
static double ref_gelu_sigmoid(double x) { return x * ref_sigmoid(1.702 * x); }
static double ref_softplus(double x) { return fmax(x, 0) + log1p(exp(-fabs(x))); }
static double ref_softsign(double x) { return x / (1 + fabs(x)); }
static double ref_rsqrt(double x) { return 1 / sqrt(x + 0.0); } /* epsilon 0: -0 becomes 0 */
static double ref_inv(double x) { return 1 / x; }
static double ref_elu(double x) { return x < 0 ? expm1(x) : x; }

/* `bound` in ulp.  Functions of a rounded argument lose up to |x f'(x) / f(x)| ulp per rounding of it:
 * gelu about x^2 (16 at -4, one rounding of x / sqrt(2)), its tanh form 2 x u'(x) (13 at -3), its
 * sigmoid form 1.7 |x| (14 at -8, of two roundings, one of them small); the rest of the bound is the
 * function's own. */
static const struct unary {
	const char *name;
	ew_op op;
	double (*ref)(double);
	double lo, hi, bound;
} unary[] = {
    {"exp", EW_EXP, exp, -104, 90, 1.5},
    {"exp near 0", EW_EXP, exp, -1, 1, 1.5},
    {"exp2", EW_EXP2, exp2, -151, 129, 1.5},
    {"log", EW_LOG, log, 0, 10, 1.5},
    {"log large", EW_LOG, log, 0, 3e38, 1.5},
    {"sqrt", EW_SQRT, sqrt, 0, 1e10, 0.5},
    {"rsqrt", EW_RSQRT, ref_rsqrt, 1e-10, 100, 1.5},
    {"inv", EW_INV, ref_inv, -10, 10, 0.5},
    {"sin", EW_SIN, sin, -20, 20, 1.5},
    {"sin large", EW_SIN, sin, -4e6, 4e6, 1.5},
    {"sin huge", EW_SIN, sin, -3e38, 3e38, 1.5},
    {"cos", EW_COS, cos, -20, 20, 1.5},
    {"cos large", EW_COS, cos, -4e6, 4e6, 1.5},
    {"erf", EW_ERF, erf, -4, 4, 2},
    {"erf near 0", EW_ERF, erf, -1e-3, 1e-3, 2},
    {"tanh", EW_TANH, tanh, -10, 10, 3},
    {"tanh near 0", EW_TANH, tanh, -1e-3, 1e-3, 3},
    {"sigmoid", EW_SIGMOID, ref_sigmoid, -100, 20, 3},
    {"silu", EW_SILU, ref_silu, -80, 20, 3.5},
    {"elu", EW_ELU, ref_elu, -100, 3, 2},
    {"elu near 0", EW_ELU, ref_elu, -1e-3, 0, 2},
    {"gelu", EW_GELU, ref_gelu, -4, 10, 20},
    {"gelu tanh", EW_GELU_TANH, ref_gelu_tanh, -3, 10, 20},
    {"gelu sigmoid", EW_GELU_SIGMOID, ref_gelu_sigmoid, -8, 10, 20},
    {"softplus", EW_SOFTPLUS, ref_softplus, -100, 20, 4},
    {"softsign", EW_SOFTSIGN, ref_softsign, -20, 20, 1.5},
};

static const float special[] = {
    0.0f,     -0.0f,     1,        -1,     0.5f,      -0.5f,      2,       -2,       3,
    -3,       1e-45f,    -1e-45f,  1e-39f, 0x1p-126f, 65504,      -65504,  3.4e38f,  -3.4e38f,
    INFINITY, -INFINITY, NAN,      0.88f,  1e-20f,    -1e-20f,    88.7f,   -87.4f,   -103.9f,
    89.1f,    16777216,  16777215, 3.5f,   2.5f,      8388607.5f, 1048576, -1048576, -NAN};
enum { SPECIALS = sizeof special / sizeof *special };

static void test_errors(void **state)
{
	(void)state;
	float *a = malloc(N * sizeof *a), *y = malloc(N * sizeof *y);
	for (size_t f = 0; f < sizeof unary / sizeof *unary; f++) {
		const struct unary *u = &unary[f];
		for (int i = 0; i < N; i++)
			a[i] = (float)check_uniform(f, i, u->lo, u->hi);
		apply(isa_detect(), u->op, u->op == EW_ELU, 0, a, a, y, N);
		double worst = 0;
		float at = 0;
		for (int i = 0; i < N; i++) {
			double e = check_ulp(y[i], u->ref((double)a[i]));
			if (e > worst) {
				worst = e;
				at = a[i];
			}
		}
		if (getenv("VERBOSE"))
			print_message("%-14s %.3f ulp at %.9g\n", u->name, worst, (double)at);
		if (worst > u->bound)
			fail_msg("%s(%.9g): %.3f ulp, allowed %.1f", u->name, (double)at, worst, u->bound);
	}
	free(a);
	free(y);
}

static void test_specials(void **state)
{
	(void)state;
	static const struct {
		ew_op op;
		double (*ref)(double);
		double bound;
	} exact[] = {{EW_EXP, exp, 1.5}, {EW_EXP2, exp2, 1.5},      {EW_LOG, log, 1.5},
		     {EW_SIN, sin, 1.5}, {EW_COS, cos, 1.5},        {EW_ERF, erf, 2},
		     {EW_TANH, tanh, 3}, {EW_SQRT, sqrt, 0.5},      {EW_FLOOR, floor, 0},
		     {EW_CEIL, ceil, 0}, {EW_ROUND, rint, 0},       {EW_TRUNC, trunc, 0},
		     {EW_ABS, fabs, 0},  {EW_RSQRT, ref_rsqrt, 1.5}};
	float y[SPECIALS];
	for (size_t f = 0; f < sizeof exact / sizeof *exact; f++) {
		apply(isa_detect(), exact[f].op, 0, 0, special, special, y, SPECIALS);
		for (int i = 0; i < SPECIALS; i++) {
			double want = exact[f].ref((double)special[i]);
			if (check_ulp(y[i], want) > exact[f].bound ||
			    (want == 0 && !signbit(want) != !signbit(y[i])))
				fail_msg("op %d of %g: %.9g, expected %.9g", (int)exact[f].op,
					 (double)special[i], (double)y[i], want);
		}
	}
}

static void test_pow(void **state)
{
	(void)state;
	float *a = malloc(N * sizeof *a), *b = malloc(N * sizeof *b), *y = malloc(N * sizeof *y);
	for (int i = 0; i < N; i++) {
		a[i] = i < SPECIALS * SPECIALS ? special[i / SPECIALS]
					       : (float)check_uniform(1, i, 0, i % 2 ? 4 : 1e6);
		b[i] = i < SPECIALS * SPECIALS ? special[i % SPECIALS] : (float)check_uniform(2, i, -6, 6);
		if (i % 7 == 0 && i >= SPECIALS * SPECIALS) {
			a[i] = -a[i];
			b[i] = rintf(b[i]);
		}
	}
	apply(isa_detect(), EW_POW, 0, 0, a, b, y, N);
	for (int i = 0; i < N; i++) {
		double want = pow((double)a[i], (double)b[i]);
		if (check_ulp(y[i], want) > 0.6 || (want == 0 && !signbit(want) != !signbit(y[i])))
			fail_msg("%.9g ^ %.9g = %.9g, expected %.9g", (double)a[i], (double)b[i],
				 (double)y[i], want);
	}
	free(a);
	free(b);
	free(y);
}

/* Every operation, on values from all over the number line and the specials. */
static void test_same_bits(void **state)
{
	(void)state;
	enum { M = 20011 };
	float *a = malloc(M * sizeof *a), *b = malloc(M * sizeof *b), *y = malloc(M * sizeof *y),
	      *z = malloc(M * sizeof *z);
	for (int i = 0; i < M; i++) {
		a[i] = (float)((i % 2 ? 1 : -1) * exp2(check_uniform(3, i, -150, 128)));
		b[i] = (float)check_uniform(4, i, -9, 9);
		if (i % 3 == 0)
			a[i] = (float)check_uniform(5, i, -20, 20);
		if (i < SPECIALS * SPECIALS) {
			a[i] = special[i / SPECIALS];
			b[i] = special[i % SPECIALS];
		}
	}
	int nisa;
	const uint32_t *isa = check_isas(&nisa);
	for (int op = EW_IMM; op < EW_OP_COUNT; op++) {
		apply(0, (ew_op)op, 0.25f, 0.75f, a, b, y, M);
		for (int s = 1; s < nisa; s++) {
			apply(isa[s], (ew_op)op, 0.25f, 0.75f, a, b, z, M);
			for (int i = 0; i < M; i++)
				if (!check_same(y[i], z[i]))
					fail_msg("op %d isa %x of %.9g, %.9g: %a and %a", op, isa[s],
						 (double)a[i], (double)b[i], (double)y[i], (double)z[i]);
		}
	}
	free(a);
	free(b);
	free(y);
	free(z);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_errors), cmocka_unit_test(test_specials),
					   cmocka_unit_test(test_pow), cmocka_unit_test(test_same_bits)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
