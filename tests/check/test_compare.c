/* Comparing two devices: arrays whose differences are written down, and programs in which the place where
 * profiles part is known by construction. */
#include "anneal/check.h"
#include "base/half.h"
#include "support/device_support.h"

/* ---- Arrays -------------------------------------------------------------------------------- */

static void test_arrays(void **state)
{
	(void)state;
	/* equal, -0, 1 ulp, 1 ulp across a power of two, smallest of both signs, NaNs, NaN, inf, -inf, 1023
	 * ulp */
	const half a[] = {0x3c00, 0x0000, 0x3c00, 0x3bff, 0x0001, 0x7e00, 0x3c00, 0x7c00, 0x7c00, 0x3c00};
	const half b[] = {0x3c00, 0x8000, 0x3c01, 0x3c00, 0x8001, 0x7e01, 0x7e00, 0x7bff, 0xfc00, 0x3fff};
	an_difference d;
	an_diff(AN_FP16, a, b, LENGTH(a), &d);
	assert_int_equal(d.count, 10);
	assert_int_equal(d.equal, 2);
	assert_int_equal(d.sign, 1);
	assert_int_equal(d.nan, 1);
	assert_int_equal(d.infinite, 2);
	assert_int_equal(d.where, 1);
	assert_int_equal(d.ulp[0], 3);
	assert_int_equal(d.ulp[1], 2);
	assert_int_equal(d.ulp[2], 1);
	assert_int_equal(d.ulp[AN_ULP_BINS - 2], 1);
	assert_int_equal(d.largest_ulp, 1023);
	assert_true(d.largest == 2); /* 2^-24 and -2^-24 */
	int64_t sum = d.nan + d.infinite;
	for (int i = 0; i < AN_ULP_BINS; i++)
		sum += d.ulp[i];
	assert_int_equal(sum, d.count);

	const int32_t p[] = {INT32_MIN, 5}, q[] = {INT32_MAX, 8};
	an_diff(AN_INT32, p, q, 2, &d);
	assert_true(d.largest_ulp == UINT32_MAX && d.ulp[3] == 1 && d.ulp[AN_ULP_BINS - 1] == 1);
	const float x[] = {3, 4}, y[] = {3, 4.5f};
	an_diff(AN_FP32, x, y, 2, &d);
	assert_true(d.rms == 0.1 && d.equal == 1 && d.largest_ulp == 1 << 20);
	const float zero[] = {0}, one[] = {1};
	an_diff(AN_FP32, zero, one, 1, &d);
	assert_true(isinf(d.rms) && d.largest == 1);
}

static void test_bins(void **state)
{
	(void)state;
	uint64_t low, high, next = 0;
	for (int i = 0; i < AN_ULP_BINS; i++, next = high + 1) {
		an_ulp_bin(i, &low, &high);
		assert_true(low == next && high >= low);
	}
	assert_true(high == UINT64_MAX);
}

/* ---- Programs ------------------------------------------------------------------------------ */

/* Halves are rounded to even in ieee and away in m4.  With x = 2048, 1, 2, 3:
 *   sum     2048 + 1 is 2048 or 2050
 *   left    has it, right has not
 *   big     differs by what left does
 *   y       hides it
 *   shift   3 - 4096 is -4092 or -4094
 *   z       differs by what shift does */
static const char text[] =
    "program(1.3)\n"
    "{\n"
    "    func main<ios18>(tensor<fp16, [4]> x) {\n"
    "            tensor<fp16, [4]> same = mul(x = x, y = fp16(1))[name = string(\"same\")];\n"
    "            tensor<fp16, [4]> dead = add(x = x, y = fp16(3))[name = string(\"dead\")];\n"
    "            tensor<fp16, [4]> sum = add(x = same, y = fp16(1))[name = string(\"sum\")];\n"
    "            tensor<fp16, [2]> left, tensor<fp16, [2]> right = split(x = sum, num_splits = 2, axis = "
    "0)[name = "
    "string(\"parts\")];\n"
    "            tensor<fp16, [2]> big = add(x = left, y = left)[name = string(\"big\")];\n"
    "            tensor<fp16, [2]> y = minimum(x = big, y = fp16(2000))[name = string(\"y\")];\n"
    "            tensor<fp16, [2]> shift = sub(x = right, y = fp16(4096))[name = string(\"shift\")];\n"
    "            tensor<fp16, [2]> z = mul(x = shift, y = fp16(1))[name = string(\"z\")];\n"
    "        } -> (y, z);\n"
    "}\n";

static an_function *parse(an_ctx *ctx, an_program **p)
{
	MIL_OK(ctx, an_program_parse(ctx, text, sizeof text - 1, "text", p));
	return an_program_function(*p, NULL);
}

static const an_compared *value(const an_comparison *c, const char *name)
{
	for (int i = 0; i < c->nvalues; i++)
		if (!strcmp(c->values[i].name, name))
			return &c->values[i];
	fail_msg("no value %s", name);
	return NULL;
}

static int64_t unequal(const an_difference *d) { return d->count - d->equal; }

static void check_halves(const an_comparison *c)
{
	assert_int_equal(c->noutputs, 2);
	assert_string_equal(c->outputs[0].name, "y");
	assert_int_equal(unequal(&c->outputs[0].all), 0); /* hidden by minimum */
	assert_int_equal(unequal(&c->outputs[1].all), 1);
	assert_int_equal(c->nvalues, 8); /* without `dead` */
	assert_false(c->disturbed);
	assert_string_equal(c->values[c->first].name, "sum");
	assert_string_equal(c->values[c->first].op, "add");
	assert_int_equal(c->values[c->first].line, 6);
	assert_int_equal(unequal(&value(c, "same")->all), 0);
	assert_int_equal(unequal(&value(c, "sum")->all), 1);
	assert_int_equal(value(c, "sum")->own.ulp[1], 1);
	assert_int_equal(unequal(&value(c, "left")->all), 1);
	assert_int_equal(unequal(&value(c, "left")->own), 0);
	assert_int_equal(unequal(&value(c, "right")->all), 0);
	assert_int_equal(unequal(&value(c, "big")->all), 1);
	assert_int_equal(unequal(&value(c, "big")->own), 0);
	assert_int_equal(unequal(&value(c, "y")->all), 0);
	assert_int_equal(unequal(&value(c, "shift")->own), 1);
	assert_int_equal(unequal(&value(c, "z")->own), 0);
	/* 2 of 2048 is more than 2 of 4092 beside another */
	assert_string_equal(c->values[c->worst].name, "sum");
}

/* In one stretch, and in one for every operation. */
static void test_halves(void **state)
{
	(void)state;
	const half x[] = {half_from_float(2048), half_from_float(1), half_from_float(2), half_from_float(3)};
	an_ctx *ctx = device_ctx(0);
	an_device *a = device_soft(ctx, "ieee", true), *b = device_soft(ctx, "m4", true);
	an_program *p;
	an_function *f = parse(ctx, &p);
	const void *const inputs[] = {x};
	an_comparison *c;
	MIL_OK(ctx, an_compare(a, b, f, inputs, NULL, &c));
	check_halves(c);
	an_comparison_free(ctx, c);
	MIL_OK(ctx, an_compare(a, b, f, inputs, &(an_compare_options){.memory = 1}, &c));
	check_halves(c);
	an_comparison_free(ctx, c);
	assert_int_equal(an_program_functions(p), 1); /* nothing is left of the copies */

	MIL_OK(ctx, an_compare(a, b, f, inputs, &(an_compare_options){.outputs_only = true}, &c));
	assert_true(c->nvalues == 0 && c->first < 0 && c->worst < 0 && c->noutputs == 2);
	an_comparison_free(ctx, c);
	MIL_OK(ctx, an_compare(b, b, f, inputs, NULL, &c));
	assert_true(c->nvalues == 8 && c->first < 0 && c->worst < 0);
	an_comparison_free(ctx, c);
	an_device_close(a);
	an_device_close(b);
	an_program_free(p);
	an_ctx_close(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_arrays), cmocka_unit_test(test_bins),
					   cmocka_unit_test(test_halves)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
