/* What has been published of Neural Engines about whole functions, through MIL programs on the device. Single
 * results are in a table of the library (check/cases.c). */
#include "base/half.h"
#include "device/device.h"
#include "support/device_support.h"

#include <math.h>

#define CHIPS "m1 m2 m3 m4 m5 m6"

/* op(x) of n elements, in place. */
static void run(const char *numerics, an_opcode op, const an_arg *more, half *x, int n)
{
	an_ctx *ctx = device_ctx(1);
	an_program *p;
	an_function *f;
	an_value y;
	MIL_OK(ctx, an_program_new(ctx, &p));
	MIL_OK(ctx, an_function_new(p, "main", &f));
	an_builder b = an_builder_on(f);
	an_arg args[2] = {
	    {"x", AN_ARG_VALUE, 0, {.value = an_input(&b, "x", an_tensor(AN_FP16, 1, (int32_t[]){n}))}}};
	if (more)
		args[1] = *more;
	MIL_OK(ctx, an_emit(&b, op, "y", args, more ? 2 : 1, &y, 1));
	an_output(&b, y);
	MIL_OK(ctx, an_builder_finish(&b));
	an_device *d = device_soft(ctx, numerics, true);
	an_call *c = device_call(d, f, 1, 0, 1);
	memcpy(device_bytes(c, 0), x, (size_t)n * sizeof *x);
	MIL_OK(ctx, an_call_run(c));
	memcpy(x, device_bytes(c, 1), (size_t)n * sizeof *x);
	an_device_close(d);
	an_program_free(p);
	an_ctx_close(ctx);
}

/* 751K, M4 and M6: gelu's modes EXACT and TANH give the same bits. */
static void test_gelu_modes(void **state)
{
	(void)state;
	static half y[2][1 << 16];
	char numerics[8];
	int n;
	for (const char *list = "ieee " CHIPS; sscanf(list, "%7s%n", numerics, &n) == 1; list += n) {
		for (int mode = 0; mode < 2; mode++) {
			an_arg arg = {"mode", AN_ARG_STRING, 0, {.s = mode ? "TANH_APPROXIMATION" : "EXACT"}};
			for (int i = 0; i < 1 << 16; i++)
				y[mode][i] = (half)i;
			run(numerics, OP_GELU, &arg, y[mode], 1 << 16);
		}
		assert_int_equal(memcmp(y[0], y[1], sizeof y[0]) == 0, strcmp(numerics, "ieee") != 0);
	}
}

/* What no rule explains, guide, M1: sin and cos err by 0.04 to 0.12 near seams; by M4's table they never do.
 */
static void test_sine_and_cosine(void **state)
{
	(void)state;
	enum { N = 40000 };
	static half x[N], y[N];
	for (int cosine = 0; cosine < 2; cosine++) {
		double greatest = 0;
		for (int i = 0; i < N; i++)
			x[i] = y[i] = half_from_double((i - N / 2) * (20. / N));
		run("m1", cosine ? OP_COS : OP_SIN, NULL, y, N);
		for (int i = 0; i < N; i++) {
			double v = (double)half_to_float(x[i]);
			greatest =
			    fmax(greatest, fabs((double)half_to_float(y[i]) - (cosine ? cos(v) : sin(v))));
		}
		if (!(greatest > 1e-4 && greatest < 2e-3))
			fail_msg("%s: greatest error %g", cosine ? "cos" : "sin", greatest);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_gelu_modes),
	    cmocka_unit_test(test_sine_and_cosine),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
