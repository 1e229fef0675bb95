/* Numbers in MIL text: read with one rounding, written with the bits they have. */
#include "mil/ir.h"
#include "base/half.h"

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- Reading --------------------------------------------------------------------- */

static bool word_is(const char *s, size_t n, const char *word)
{
	if (strlen(word) != n)
		return false;
	for (size_t i = 0; i < n; i++)
		if ((s[i] | 32) != word[i])
			return false;
	return true;
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* digits [. digits] exponent [sign] digits; true if the whole text is that. */
static bool shape_is_number(const char *s, size_t n, bool hex)
{
	size_t i = 0, digits = 0;
	for (bool dot = false; i < n; i++) {
		if (s[i] == '.' && !dot)
			dot = true;
		else if (hex ? hex_digit(s[i]) >= 0 : s[i] >= '0' && s[i] <= '9')
			digits++;
		else
			break;
	}
	if (!digits)
		return false;
	if (i < n && (s[i] | 32) == (hex ? 'p' : 'e')) {
		i++;
		if (i < n && (s[i] == '+' || s[i] == '-'))
			i++;
		size_t first = i;
		while (i < n && s[i] >= '0' && s[i] <= '9')
			i++;
		if (i == first)
			return false;
	}
	return i == n;
}

/* A hexadecimal number cut after 62 bits, with what follows folded into the last one: enough for
 * one correct rounding to any format narrower than that. */
static double parse_hex(const char *s, size_t n)
{
	uint64_t m = 0;
	int64_t e = 0;
	size_t i = 0;
	bool dot = false;
	for (; i < n && (s[i] == '.' || hex_digit(s[i]) >= 0); i++) {
		if (s[i] == '.') {
			dot = true;
			continue;
		}
		if (m >> 58) {
			m |= hex_digit(s[i]) > 0;
			e += dot ? 0 : 4;
		} else {
			m = m << 4 | (uint64_t)hex_digit(s[i]);
			e -= dot ? 4 : 0;
		}
	}
	if (i < n) { /* p [sign] digits */
		bool minus = s[++i] == '-';
		int64_t p = 0;
		for (i += s[i] == '-' || s[i] == '+'; i < n; i++)
			p = MIN(p * 10 + (s[i] - '0'), (int64_t)1 << 40);
		e += minus ? -p : p;
	}
	/* to 53 bits, to odd: no second rounding can go wrong by it */
	while (m >> 53) {
		m = m >> 1 | (m & 1);
		e++;
	}
	return ldexp((double)m, (int)MIN(MAX(e, -100000), 100000));
}

/* The sign of (decimal text) - d, for a d > 0 that strtod gave for the text and whose significand is
 * short (so that 200 digits write it exactly). */
static int compare_decimal(const char *s, size_t n, double d)
{
	char exact[224];
	int len = snprintf(exact, sizeof exact, "%.200e", d);
	const char *e = strchr(exact, 'e');
	if (len < 0 || len >= (int)sizeof exact || !e)
		return 0;
	int64_t exact_exp = strtol(e + 1, NULL, 10);
	/* the text's decimal exponent: of its first digit that is not 0 */
	int64_t exp = 0, shift = -1;
	size_t first = n, i;
	bool dot = false;
	for (i = 0; i < n && (s[i] | 32) != 'e'; i++) {
		if (s[i] == '.') {
			dot = true;
			continue;
		}
		if (first == n && s[i] != '0')
			first = i;
		if (!dot && first < n)
			shift++;
		else if (dot && first == n)
			shift--;
	}
	size_t end = i;
	for (bool minus = false; ++i < n;) {
		if (s[i] == '-')
			minus = true;
		else if (s[i] != '+')
			exp = MAX(MIN(exp * 10 + (minus ? '0' - s[i] : s[i] - '0'), 1000000), -1000000);
	}
	exp += shift;
	if (exp != exact_exp)
		return exp < exact_exp ? -1 : 1;
	/* digit by digit; both are zero after their ends */
	size_t k = 0;
	for (i = first; i < end || exact + k < e;) {
		while (i < end && s[i] == '.')
			i++;
		while (exact + k < e && (exact[k] < '0' || exact[k] > '9')) /* the locale's point */
			k++;
		char a = i < end ? s[i++] : '0', b = exact + k < e ? exact[k++] : '0';
		if (a != b)
			return a < b ? -1 : 1;
	}
	return 0;
}

/* Decimal to double.  `odd`: where the double lies on a tie between two numbers of a narrower
 * format, it is moved by one unit toward the true value, so that rounding it is rounding once. */
#define NUMBER_LONGEST 1000
static double parse_decimal(const char *s, size_t n, bool odd)
{
	char buf[NUMBER_LONGEST + 1];
	memcpy(buf, s, n);
	buf[n] = 0;
	/* strtod wants the point of the locale */
	const struct lconv *lc = localeconv();
	char *dot = strchr(buf, '.');
	if (dot && lc->decimal_point[0] && !lc->decimal_point[1])
		*dot = lc->decimal_point[0];
	double d = strtod(buf, NULL);
	uint64_t bits;
	memcpy(&bits, &d, sizeof bits);
	if (odd && d > 0 && isfinite(d) && (bits & ((1u << 28) - 1)) == 0) {
		int sign = compare_decimal(s, n, d);
		if (sign)
			d = nextafter(d, sign > 0 ? INFINITY : 0);
	}
	return d;
}

static bool parse_float(const char *s, size_t n, bool odd, double *out)
{
	bool minus = n && *s == '-';
	if (n && (*s == '-' || *s == '+'))
		s++, n--;
	bool hex = n > 2 && s[0] == '0' && (s[1] | 32) == 'x';
	double d;
	if (word_is(s, n, "inf") || word_is(s, n, "infinity"))
		d = INFINITY;
	else if (word_is(s, n, "nan"))
		d = NAN;
	else if (n > NUMBER_LONGEST || !shape_is_number(s + 2 * hex, n - 2 * hex, hex))
		return false;
	else
		d = hex ? parse_hex(s + 2, n - 2) : parse_decimal(s, n, odd);
	*out = minus ? -d : d;
	return true;
}

bool mil_parse_double(const char *text, size_t len, double *out)
{
	return parse_float(text, len, false, out);
}

/* Double to bf16 or fp32 with one rounding is the cast for fp32; for bf16 through fp32 to odd. */
static bfloat bfloat_from_double(double d)
{
	float f = (float)d;
	if ((double)f != d && isfinite(f)) {
		uint32_t u = float_bits(f);
		if ((double)fabsf(f) > fabs(d))
			u--;
		f = bits_float(u | 1);
	}
	return bfloat_from_float(f);
}

/* Limits of the integer types. */
static bool int_limits(an_dtype t, int64_t *low, uint64_t *high)
{
	switch (t) {
	case AN_INT8: *low = INT8_MIN, *high = INT8_MAX; return true;
	case AN_UINT8: *low = 0, *high = UINT8_MAX; return true;
	case AN_INT16: *low = INT16_MIN, *high = INT16_MAX; return true;
	case AN_UINT16: *low = 0, *high = UINT16_MAX; return true;
	case AN_INT32: *low = INT32_MIN, *high = INT32_MAX; return true;
	case AN_UINT32: *low = 0, *high = UINT32_MAX; return true;
	case AN_INT64: *low = INT64_MIN, *high = INT64_MAX; return true;
	case AN_UINT64: *low = 0, *high = UINT64_MAX; return true;
	default: return false;
	}
}

static void store_int(an_dtype t, uint64_t bits, void *out)
{
	/* little endian: the low bytes are the narrower number */
	uint8_t b[8];
	for (int i = 0; i < 8; i++)
		b[i] = (uint8_t)(bits >> 8 * i);
	memcpy(out, b, an_dtype_size(t));
}

static mil_number parse_int(const char *s, size_t n, an_dtype t, void *out)
{
	int64_t low;
	uint64_t high, m = 0;
	if (!int_limits(t, &low, &high))
		return NUMBER_MALFORMED;
	bool minus = n && *s == '-';
	size_t i = n && (*s == '-' || *s == '+');
	bool hex = n - i > 2 && s[i] == '0' && (s[i + 1] | 32) == 'x';
	size_t first = i += 2 * hex;
	unsigned base = hex ? 16 : 10;
	bool over = false;
	for (; i < n; i++) {
		int d = hex_digit(s[i]);
		if (d < 0 || d >= (int)base) {
			double x;
			return mil_parse_double(s, n, &x) ? NUMBER_NOT_INTEGER : NUMBER_MALFORMED;
		}
		over |= __builtin_mul_overflow(m, (uint64_t)base, &m) ||
			__builtin_add_overflow(m, (uint64_t)d, &m);
	}
	if (i == first)
		return mil_parse_double(s, n, &(double){0}) ? NUMBER_NOT_INTEGER : NUMBER_MALFORMED;
	if (over || m > (minus ? (uint64_t)0 - (uint64_t)low : high))
		return NUMBER_OUT_OF_RANGE;
	store_int(t, minus ? 0 - m : m, out);
	return NUMBER_OK;
}

/* nan(0x7e01): the pattern itself, for NaNs that carry something. */
static bool parse_nan_bits(const char *s, size_t n, an_dtype t, void *out)
{
	uint32_t bits = 0;
	if (n < 8 || n > 15 || strncmp(s, "nan(0x", 6) || s[n - 1] != ')')
		return false;
	for (size_t i = 6; i < n - 1; i++) {
		int d = hex_digit(s[i]);
		if (d < 0)
			return false;
		bits = bits << 4 | (uint32_t)d;
	}
	if (an_dtype_size(t) == 2 && bits > UINT16_MAX)
		return false;
	float f = t == AN_FP32   ? bits_float(bits)
		  : t == AN_FP16 ? half_to_float((half)bits)
				 : bfloat_to_float((bfloat)bits);
	if (!isnan(f))
		return false;
	store_int(t, bits, out);
	return true;
}

mil_number mil_parse_number(const char *s, size_t n, an_dtype t, void *out)
{
	if (t != AN_FP16 && t != AN_FP32 && t != AN_BF16)
		return parse_int(s, n, t, out);
	if (parse_nan_bits(s, n, t, out))
		return NUMBER_OK;
	double d;
	if (!parse_float(s, n, true, &d))
		return NUMBER_MALFORMED;
	mil_store_double(t, d, out);
	return NUMBER_OK;
}

void mil_store_double(an_dtype t, double v, void *out)
{
	half h;
	float f;
	int64_t low;
	uint64_t high;
	if (t == AN_FP16) {
		h = half_from_double(v);
		memcpy(out, &h, sizeof h);
	} else if (t == AN_BF16) {
		h = bfloat_from_double(v);
		memcpy(out, &h, sizeof h);
	} else if (t == AN_FP32) {
		f = (float)v;
		memcpy(out, &f, sizeof f);
	} else if (t == AN_BOOL) {
		*(uint8_t *)out = v != 0;
	} else if (int_limits(t, &low, &high)) {
		if (!(v > (double)low)) /* NaN too */
			store_int(t, (uint64_t)low, out);
		else if (v >= (double)high)
			store_int(t, high, out);
		else
			store_int(t, v < 0 ? (uint64_t)(int64_t)v : (uint64_t)v, out);
	}
}

double an_element(an_dtype t, const void *data, int64_t i)
{
	return lit_number(&(mil_literal){.type = {.dtype = (uint8_t)t}, .bytes = data}, i);
}

void an_set_element(an_dtype t, void *data, int64_t i, double value)
{
	bool integer = t != AN_FP16 && t != AN_FP32 && t != AN_BF16 && t != AN_BOOL;
	mil_store_double(t, integer ? rint(value) : value, (char *)data + (size_t)i * an_dtype_size(t));
}

/* ---- Writing --------------------------------------------------------------------- */

/* As C's %a, without its locale: [-]0x1.8p+3. */
static void print_hex(str *s, double d)
{
	int e;
	const char *sign = signbit(d) ? "-" : "";
	double m = frexp(fabs(d), &e); /* [0.5, 1) */
	if (m == 0) {
		str_addf(s, "%s0x0p+0", sign);
		return;
	}
	char digits[16];
	int n = 0;
	for (m = m * 2 - 1; m != 0; n++) { /* the fraction; exact */
		m *= 16;
		digits[n] = "0123456789abcdef"[(int)m];
		m -= (int)m;
	}
	str_addf(s, "%s0x1%s%.*sp%+d", sign, n ? "." : "", n, digits, e - 1);
}

void mil_print_number(str *s, an_dtype t, const void *element)
{
	mil_literal l = {.type = {.dtype = (uint8_t)t}, .bytes = element};
	double d = lit_number(&l, 0);
	uint64_t u = 0;
	if (t != AN_FP16 && t != AN_FP32 && t != AN_BF16) {
		if (t == AN_BOOL)
			str_add(s, d != 0 ? "true" : "false");
		else if (t == AN_UINT64) {
			memcpy(&u, element, sizeof u);
			str_addf(s, "%llu", (unsigned long long)u);
		} else if (t == AN_INT64) {
			memcpy(&u, element, sizeof u);
			str_addf(s, "%lld", (long long)(int64_t)u);
		} else
			str_addf(s, "%.0f", d);
	} else if (isnan(d)) {
		uint32_t plain = t == AN_FP32 ? 0x7fc00000 : t == AN_FP16 ? 0x7e00 : 0x7fc0;
		memcpy(&u, element, an_dtype_size(t));
		if (u == plain)
			str_add(s, "nan");
		else
			str_addf(s, "nan(0x%llx)", (unsigned long long)u);
	} else if (isinf(d)) {
		str_add(s, d < 0 ? "-inf" : "inf");
	} else {
		print_hex(s, d);
	}
}
