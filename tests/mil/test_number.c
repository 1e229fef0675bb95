/* Numbers in text: one rounding on reading, the same bits after writing. */
#include "support/mil_support.h"
#include "base/half.h"
#include "base/random.h"

#include <locale.h>

static const char *written(an_ctx *ctx, an_dtype t, const void *bits, char *buf, size_t size)
{
	str s;
	str_init(&s, ctx);
	mil_print_number(&s, t, bits);
	assert_true(s.len < size);
	memcpy(buf, s.data, s.len + 1);
	str_free(&s);
	return buf;
}

static void all_halves_and_bfloats_survive(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	static const an_dtype types[] = {AN_FP16, AN_BF16};
	for (int k = 0; k < 2; k++)
		for (unsigned h = 0; h < 65536; h++) {
			uint16_t bits = (uint16_t)h, back = 0;
			char text[64];
			written(ctx, types[k], &bits, text, sizeof text);
			if (mil_parse_number(text, strlen(text), types[k], &back) != NUMBER_OK ||
			    back != bits)
				fail_msg("%s %04x is written %s and read %04x", an_dtype_name(types[k]), h,
					 text, back);
		}
	an_ctx_close(ctx);
}

static void random_floats_survive(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	for (unsigned i = 0; i < 200000; i++) {
		uint32_t bits = (uint32_t)random_bits(1, 2, i), back = 0;
		char text[64], decimal[64];
		written(ctx, AN_FP32, &bits, text, sizeof text);
		if (mil_parse_number(text, strlen(text), AN_FP32, &back) != NUMBER_OK || back != bits)
			fail_msg("fp32 %08x is written %s and read %08x", bits, text, back);
		if (isnan(bits_float(bits)))
			continue;
		/* nine digits name a float */
		snprintf(decimal, sizeof decimal, "%.9g", (double)bits_float(bits));
		assert_int_equal(mil_parse_number(decimal, strlen(decimal), AN_FP32, &back), NUMBER_OK);
		assert_true(back == bits || bits_float(back) == bits_float(bits));
	}
	an_ctx_close(ctx);
}

static half read_half(const char *text)
{
	half h = 0xffff;
	assert_int_equal(mil_parse_number(text, strlen(text), AN_FP16, &h), NUMBER_OK);
	return h;
}
static float read_float(const char *text)
{
	float f = 0;
	assert_int_equal(mil_parse_number(text, strlen(text), AN_FP32, &f), NUMBER_OK);
	return f;
}

/* Around the middle of each pair of neighbours, with a digit far behind that decides: what reads
 * decimals as doubles first and rounds those again fails here. */
static void decimals_round_once(void **state)
{
	(void)state;
	for (unsigned h = 0; h < 0x7bff; h += 7) {
		double a = (double)half_to_float((half)h), b = (double)half_to_float((half)(h + 1));
		char text[128];
		int n = snprintf(text, sizeof text, "%.60f", (a + b) / 2); /* exact: a multiple of 2^-26 */
		assert_int_equal(read_half(text), h & 1 ? h + 1 : h);
		text[n - 1]++; /* 1e-60 above */
		assert_int_equal(read_half(text), h + 1);
		/* 1e-60 below: borrow through the zeros */
		text[n - 1]--;
		int i = n - 1;
		for (; text[i] == '0' || text[i] == '.'; i--)
			if (text[i] == '0')
				text[i] = '9';
		text[i]--;
		assert_int_equal(read_half(text), h);
	}
	/* the same for fp32, whose ties have 25 bits */
	assert_true(read_float("16777217") == 0x1p24f);
	assert_true(read_float("16777217.000000000000000000000000000001") == 16777218.0f);
	assert_true(read_float("16777216.999999999999999999999999999999") == 0x1p24f);
	assert_true(read_float("1.00000005960464477539062500000000000000000001") == 1 + 0x1p-23f);
	assert_true(read_float("1.000000059604644775390625") == 1.0f);
	/* hexadecimal with more digits than a double holds */
	assert_int_equal(read_half("0x1.0020000000000000000000000p+0"), 0x3c00);
	assert_int_equal(read_half("0x1.0020000000000000000000001p+0"), 0x3c01);
	assert_int_equal(read_half("0x1.001fffffffffffffffffffffp+0"), 0x3c00);
	assert_true(
	    read_float("0x1.000001000000000000000000000000000000000000000000000000000000000000001p+0") ==
	    1 + 0x1p-23f);
	/* shapes of numbers that programs contain */
	assert_int_equal(read_half("1e-05"), 0x00a8);
	assert_int_equal(read_half("-65504"), 0xfbff);
	assert_int_equal(read_half("65520"), 0x7c00); /* the first that rounds to infinity */
	assert_int_equal(read_half("65519.99999999999999999999"), 0x7bff);
	assert_int_equal(read_half("0x1.6a09e6p-3"), read_half("0.17677668"));
	assert_int_equal(read_half("-inf"), 0xfc00);
	assert_int_equal(read_half("nan"), 0x7e00);
	assert_int_equal(read_half("nan(0xfc01)"), 0xfc01);
	assert_int_equal(read_half("-0x0p+0"), 0x8000);
	assert_int_equal(read_half("2.9802322387695312e-08"),
			 0); /* 2^-25: half the least subnormal, to even */
	assert_int_equal(read_half("2.9802322387695313e-08"), 1);
	assert_int_equal(read_half("0.00000002980232238769531250000000000000001"), 1);
	assert_int_equal(read_half(".00000002980232238769531250000000000000001"), 1);
	assert_int_equal(read_half("298023223876953125.e-25"), 0);
	assert_int_equal(read_half("298023223876953125.00000000001e-25"), 1);
	assert_int_equal(read_half("1e-400"), 0);
	assert_int_equal(read_half("1e99999999999999999999"), 0x7c00);
	assert_int_equal(read_half("0x1p-99999999999999999999"), 0);
}

static void integers_have_limits(void **state)
{
	(void)state;
	static const struct {
		an_dtype type;
		const char *text;
		mil_number result;
	} cases[] = {{AN_INT8, "127", NUMBER_OK},
		     {AN_INT8, "128", NUMBER_OUT_OF_RANGE},
		     {AN_INT8, "-128", NUMBER_OK},
		     {AN_INT8, "-129", NUMBER_OUT_OF_RANGE},
		     {AN_UINT8, "255", NUMBER_OK},
		     {AN_UINT8, "-1", NUMBER_OUT_OF_RANGE},
		     {AN_UINT8, "-0", NUMBER_OK},
		     {AN_INT32, "-2147483648", NUMBER_OK},
		     {AN_INT32, "2147483648", NUMBER_OUT_OF_RANGE},
		     {AN_INT64, "-9223372036854775808", NUMBER_OK},
		     {AN_INT64, "9223372036854775808", NUMBER_OUT_OF_RANGE},
		     {AN_UINT64, "18446744073709551615", NUMBER_OK},
		     {AN_UINT64, "18446744073709551616", NUMBER_OUT_OF_RANGE},
		     {AN_UINT64, "99999999999999999999999999", NUMBER_OUT_OF_RANGE},
		     {AN_INT32, "0x10", NUMBER_OK},
		     {AN_INT32, "1.0", NUMBER_NOT_INTEGER},
		     {AN_INT32, "1e3", NUMBER_NOT_INTEGER},
		     {AN_INT32, "nan", NUMBER_NOT_INTEGER},
		     {AN_INT32, "", NUMBER_MALFORMED},
		     {AN_INT32, "-", NUMBER_MALFORMED},
		     {AN_INT32, "12q", NUMBER_MALFORMED},
		     {AN_FP32, "1.2.3", NUMBER_MALFORMED},
		     {AN_FP32, "1e", NUMBER_MALFORMED},
		     {AN_FP32, "0x", NUMBER_MALFORMED},
		     {AN_FP32, ".", NUMBER_MALFORMED},
		     {AN_FP32, "--1", NUMBER_MALFORMED},
		     {AN_FP32, "nan(0x0)", NUMBER_MALFORMED},
		     {AN_FP32, "0x1.8", NUMBER_OK},
		     {AN_FP32, "+.5", NUMBER_OK},
		     {AN_FP32, "5.", NUMBER_OK}};
	for (int i = 0; i < LENGTH(cases); i++) {
		uint8_t out[8];
		mil_number r = mil_parse_number(cases[i].text, strlen(cases[i].text), cases[i].type, out);
		if (r != cases[i].result)
			fail_msg("%s as %s: %d", cases[i].text, an_dtype_name(cases[i].type), r);
	}
	char digits[1002]; /* numbers end somewhere */
	memset(digits, '1', sizeof digits);
	uint8_t out[8];
	assert_int_equal(mil_parse_number(digits, 1000, AN_FP32, out), NUMBER_OK);
	assert_int_equal(mil_parse_number(digits, 1001, AN_FP32, out), NUMBER_MALFORMED);
	int64_t v;
	mil_parse_number("-9223372036854775808", 20, AN_INT64, &v);
	assert_true(v == INT64_MIN);
}

/* Where the decimal point is a comma, programs still have points. */
static void locale_does_not_matter(void **state)
{
	(void)state;
	static const char *const commas[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_DE"};
	const char *set = NULL;
	for (int i = 0; i < LENGTH(commas) && !set; i++)
		set = setlocale(LC_ALL, commas[i]);
	if (!set)
		skip();
	an_ctx *ctx = mil_open();
	char text[64];
	assert_int_equal(read_half("1.5"), 0x3e00);
	assert_true(read_float("16777217.000000000000000000000000000001") == 16777218.0f);
	assert_string_equal(written(ctx, AN_FP16, &(half){0x3e00}, text, sizeof text), "0x1.8p+0");
	setlocale(LC_ALL, "C");
	an_ctx_close(ctx);
}

static void elements_round_and_clamp(void **state)
{
	(void)state;
	int8_t i8[3];
	uint16_t u16[2];
	an_set_element(AN_INT8, i8, 0, 2.5);
	an_set_element(AN_INT8, i8, 1, 3.5);
	an_set_element(AN_INT8, i8, 2, -1e9);
	assert_int_equal(i8[0], 2);
	assert_int_equal(i8[1], 4);
	assert_int_equal(i8[2], -128);
	assert_true(an_element(AN_INT8, i8, 2) == -128);
	an_set_element(AN_UINT16, u16, 0, 1e9);
	an_set_element(AN_UINT16, u16, 1, NAN);
	assert_int_equal(u16[0], 65535);
	assert_int_equal(u16[1], 0);
	an_set_element(AN_FP16, u16, 1, 1 + 0x1p-11); /* a tie, to even */
	assert_int_equal(u16[1], 0x3c00);
	assert_true(an_element(AN_FP16, u16, 1) == 1);
	an_set_element(AN_BF16, u16, 0, 1 + 0x1p-8 + 0x1p-40);
	assert_int_equal(u16[0], 0x3f81);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(all_halves_and_bfloats_survive),
					   cmocka_unit_test(random_floats_survive),
					   cmocka_unit_test(decimals_round_once),
					   cmocka_unit_test(integers_have_limits),
					   cmocka_unit_test(locale_does_not_matter),
					   cmocka_unit_test(elements_round_and_clamp)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
