/* NumPy arrays: round trips, files as NumPy writes them, damage. */
#include "anneal/io.h"
#include "base/base.h"
#include "base/half.h"
#include "base/random.h"
#include "support/text_temp.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

static an_ctx *ctx;

static int setup(void **state)
{
	(void)state;
	return an_ctx_open(NULL, &ctx) != AN_OK;
}

static int teardown(void **state)
{
	(void)state;
	an_ctx_close(ctx);
	return 0;
}

static void refused(an_status s, an_status want, const char *words)
{
	if (s != want || !strstr(an_message(ctx), words))
		fail_msg("%s: \"%s\", expected %s with \"%s\"", an_status_name(s), an_message(ctx),
			 an_status_name(want), words);
}

static void reads_what_it_writes(void **state)
{
	(void)state;
	static const an_dtype all[] = {AN_BOOL, AN_INT8,  AN_UINT8,  AN_FP16,  AN_INT16, AN_UINT16,
				       AN_FP32, AN_INT32, AN_UINT32, AN_INT64, AN_UINT64};
	static const int32_t dims[] = {3, 1, 5, 2, 7};
	uint8_t data[8 * 210];
	for (int i = 0; i < LENGTH(all); i++)
		for (int rank = 0; rank <= AN_MAX_RANK; rank++) {
			for (size_t k = 0; k < sizeof data; k++) /* bool is 0 or 1 */
				data[k] =
				    (uint8_t)(random_bits(2, (uint64_t)i, k) % (all[i] == AN_BOOL ? 2 : 256));
			an_type type = an_tensor(all[i], rank, dims), got;
			void *back;
			assert_int_equal(an_npy_write(ctx, temp_path("a.npy"), &type, data), AN_OK);
			if (an_npy_read(ctx, temp_path("a.npy"), &got, &back) != AN_OK)
				fail_msg("%s", an_message(ctx));
			assert_true(an_type_equal(&type, &got));
			assert_memory_equal(back, data, an_type_bytes(&type));
			an_npy_free(ctx, &got, back);
			size_t n;
			char *file = temp_read("a.npy", &n);
			assert_int_equal((n - an_type_bytes(&type)) % 64, 0); /* as NumPy aligns the data */
			free(file);
		}
	/* bf16 becomes the fp32 of the same value */
	bfloat b[4] = {bfloat_from_float(1.5f), bfloat_from_float(-0.0f), 0x7f80, bfloat_from_float(3e-39f)};
	an_type type = an_tensor(AN_BF16, 1, (int32_t[]){4}), got;
	void *back;
	assert_int_equal(an_npy_write(ctx, temp_path("b.npy"), &type, b), AN_OK);
	assert_int_equal(an_npy_read(ctx, temp_path("b.npy"), &got, &back), AN_OK);
	assert_int_equal(got.dtype, AN_FP32);
	for (int i = 0; i < 4; i++)
		assert_int_equal(float_bits(((float *)back)[i]), (uint32_t)b[i] << 16);
	an_npy_free(ctx, &got, back);
	type.dtype = AN_STRING;
	refused(an_npy_write(ctx, temp_path("b.npy"), &type, b), AN_UNSUPPORTED, "string");
}

/* ---- Files by hand -------------------------------------------------------------- */

static size_t put(int major, const char *header, const void *data, size_t n)
{
	char file[2048] = "\x93NUMPY";
	size_t len = strlen(header), at = major > 1 ? 12 : 10;
	file[6] = (char)major;
	file[8] = (char)len;
	file[9] = (char)(len >> 8);
	memcpy(file + at, header, len);
	memcpy(file + at + len, data, n);
	temp_write("hand.npy", file, at + len + n);
	return at + len + n;
}

static void reads_what_numpy_writes(void **state)
{
	(void)state;
	an_type t;
	void *p;
	/* numpy.array([[1, 2, 3], [4, 5, 6]], order="F", dtype=">i2") */
	for (int major = 1; major <= 3; major++) {
		put(major, "{'descr': '>i2', 'fortran_order': True, 'shape': (2, 3), }        \n",
		    "\0\1\0\4\0\2\0\5\0\3\1\6", 12);
		assert_int_equal(an_npy_read(ctx, temp_path("hand.npy"), &t, &p), AN_OK);
		assert_int_equal(t.dtype, AN_INT16);
		assert_int_equal(t.rank, 2);
		assert_memory_equal(p, ((int16_t[]){1, 2, 3, 4, 5, 262}), 12);
		an_npy_free(ctx, &t, p);
	}
	/* Fortran order in four dimensions: element (i, j, k, l) is at i + 2 (j + 3 (k + 2 l)) */
	uint8_t f[24];
	for (int i = 0; i < 24; i++)
		f[i] = (uint8_t)i;
	put(1, "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3, 2, 2), }\n", f, 24);
	assert_int_equal(an_npy_read(ctx, temp_path("hand.npy"), &t, &p), AN_OK);
	for (int i = 0, at = 0; i < 2; i++)
		for (int j = 0; j < 3; j++)
			for (int k = 0; k < 2; k++)
				for (int l = 0; l < 2; l++, at++)
					assert_int_equal(((uint8_t *)p)[at], i + 2 * (j + 3 * (k + 2 * l)));
	an_npy_free(ctx, &t, p);
	/* double becomes float, rounded; other spellings of the header */
	double d[3] = {1.0 / 3, -1e300, 1e-320};
	put(1, "{\"shape\":(3,),'fortran_order':False,'descr':'<f8'}", d, sizeof d);
	assert_int_equal(an_npy_read(ctx, temp_path("hand.npy"), &t, &p), AN_OK);
	assert_int_equal(t.dtype, AN_FP32);
	assert_true(((float *)p)[0] == (float)(1.0 / 3) && ((float *)p)[1] == -INFINITY &&
		    ((float *)p)[2] == 0);
	an_npy_free(ctx, &t, p);
	put(1, "{'descr': '|b1', 'fortran_order': False, 'shape': (3,), }\n", "\0\1\2", 3);
	assert_int_equal(an_npy_read(ctx, temp_path("hand.npy"), &t, &p), AN_OK);
	assert_memory_equal(p, "\0\1\1", 3);
	an_npy_free(ctx, &t, p);
	put(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (), }\n", "\0\0\200\77", 4);
	assert_int_equal(an_npy_read(ctx, temp_path("hand.npy"), &t, &p), AN_OK);
	assert_true(t.rank == 0 && *(float *)p == 1);
	an_npy_free(ctx, &t, p);
}

static void refuses_damage(void **state)
{
	(void)state;
	static const struct {
		an_status status;
		const char *words, *header;
	} cases[] = {
	    {AN_OK, "", "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n"},
	    {AN_OK, "", "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1)}"},
	    {AN_FORMAT, "expected {", ""},
	    {AN_FORMAT, "expected {", "'descr'"},
	    {AN_FORMAT, "fortran_order and shape", "{}"},
	    {AN_FORMAT, "fortran_order and shape", "{'descr': '<f4', 'fortran_order': False}"},
	    {AN_FORMAT, "there twice",
	     "{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}"},
	    {AN_FORMAT, "unknown", "{'descr': '<f4', 'order': False, 'shape': (2,)}"},
	    {AN_FORMAT, "True or False", "{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}"},
	    {AN_FORMAT, "the shape's (", "{'descr': '<f4', 'fortran_order': False, 'shape': [2]}"},
	    {AN_FORMAT, "comma", "{'descr': '<f4', 'fortran_order': False, 'shape': (2)}"},
	    {AN_FORMAT, "comma", "{'descr': '<f4', 'fortran_order': False, 'shape': (2 1)}"},
	    {AN_FORMAT, "a dimension", "{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}"},
	    {AN_FORMAT, "a dimension", "{'descr': '<f4', 'fortran_order': False, 'shape': (,)}"},
	    {AN_FORMAT, "comma", "{'descr': '<f4', 'fortran_order': False, 'shape': (2L,)}"},
	    {AN_UNSUPPORTED, "dimension 1", "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 0)}"},
	    {AN_UNSUPPORTED, "dimension 0",
	     "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967298,)}"},
	    {AN_UNSUPPORTED, "too large",
	     "{'descr': '<f4', 'fortran_order': False, 'shape': (2147483647, 2147483647, 2147483647)}"},
	    {AN_UNSUPPORTED, "5 dimensions",
	     "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1, 1, 1, 2)}"},
	    {AN_UNSUPPORTED, "'<c8'", "{'descr': '<c8', 'fortran_order': False, 'shape': (1,)}"},
	    {AN_UNSUPPORTED, "'f4'", "{'descr': 'f4', 'fortran_order': False, 'shape': (2,)}"},
	    {AN_UNSUPPORTED, "''", "{'descr': '', 'fortran_order': False, 'shape': (2,)}"},
	    {AN_UNSUPPORTED, "records", "{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (2,)}"},
	    {AN_FORMAT, ", or }", "{'descr': '<f4' 'fortran_order': False, 'shape': (2,)}"},
	    {AN_FORMAT, ", or }", "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)"},
	    {AN_FORMAT, "end of the header", "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} x"},
	    {AN_FORMAT, "a key", "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), shape}"},
	    {AN_FORMAT, "a key", "{'descr"},
	    {AN_FORMAT, "3 elements of 4 bytes", "{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}"},
	    {AN_FORMAT, "1 elements of 4 bytes", "{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}"},
	    {AN_FORMAT, "2 elements of 8 bytes", "{'descr': '<f8', 'fortran_order': False, 'shape': (2,)}"}};
	an_type t;
	void *p;
	for (int i = 0; i < LENGTH(cases); i++) {
		put(1, cases[i].header, "abcdefgh", 8);
		an_status s = an_npy_read(ctx, temp_path("hand.npy"), &t, &p);
		if (s != cases[i].status || (s != AN_OK && (p || !strstr(an_message(ctx), cases[i].words) ||
							    !strstr(an_message(ctx), "hand.npy"))))
			fail_msg("%s: %s: \"%s\"", cases[i].header, an_status_name(s), an_message(ctx));
		if (s == AN_OK)
			an_npy_free(ctx, &t, p);
	}
	put(4, cases[0].header, "abcdefgh", 8);
	refused(an_npy_read(ctx, temp_path("hand.npy"), &t, &p), AN_UNSUPPORTED, "4.0");
	put(0, cases[0].header, "abcdefgh", 8);
	refused(an_npy_read(ctx, temp_path("hand.npy"), &t, &p), AN_UNSUPPORTED, "0.0");
	refused(an_npy_read(ctx, temp_path("absent.npy"), &t, &p), AN_IO, "absent");
	/* every prefix, and random changes */
	for (int major = 1; major <= 2; major++) {
		put(major, cases[0].header, "abcdefgh", 8);
		size_t n;
		char *file = temp_read("hand.npy", &n);
		for (size_t cut = 0; cut < n; cut++) {
			temp_write("cut.npy", file, cut);
			assert_int_equal(an_npy_read(ctx, temp_path("cut.npy"), &t, &p), AN_FORMAT);
			assert_null(p);
		}
		for (uint64_t seed = 0; seed < 3000; seed++) {
			size_t at = random_bits(seed, 0, 0) % n;
			char old = file[at];
			file[at] = (char)random_bits(seed, 0, 1);
			temp_write("cut.npy", file, n);
			file[at] = old;
			if (an_npy_read(ctx, temp_path("cut.npy"), &t, &p) == AN_OK) {
				assert_true(an_type_bytes(&t) <= 8);
				an_npy_free(ctx, &t, p);
			}
		}
		free(file);
	}
}

static an_status write_and_read(an_ctx *c)
{
	an_type type = an_tensor(AN_FP32, 1, (int32_t[]){3});
	void *back = NULL;
	an_status s = an_npy_write(c, temp_path("memory.npy"), &type, (float[]){1, 2, 3});
	if (s == AN_OK)
		s = an_npy_read(c, temp_path("memory.npy"), &type, &back);
	if (s == AN_OK)
		an_npy_free(c, &type, back);
	return s;
}

static void survives_without_memory(void **state)
{
	(void)state;
	survive_without_memory(write_and_read);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(reads_what_it_writes), cmocka_unit_test(reads_what_numpy_writes),
	    cmocka_unit_test(refuses_damage), cmocka_unit_test(survives_without_memory)};
	return cmocka_run_group_tests(tests, setup, teardown);
}
