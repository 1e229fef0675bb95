/* safetensors: what is written reads back, files by hand, damage of every kind. */
#include "anneal/io.h"
#include "base/base.h"
#include "base/random.h"
#include "support/text_temp.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/resource.h>
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

static an_tensor_info tensor(const char *name, an_dtype dtype, int rank, const int32_t *dims,
			     const void *data)
{
	an_tensor_info t = {.name = name, .type = an_tensor(dtype, rank, dims), .data = data};
	t.bytes = an_type_bytes(&t.type);
	return t;
}
#define DIMS(...) \
	(int)(sizeof((int32_t[]){__VA_ARGS__}) / 4), (int32_t[]) { __VA_ARGS__ }

static void reads_what_it_writes(void **state)
{
	(void)state;
	static const an_dtype all[] = {AN_BOOL,   AN_INT8, AN_UINT8, AN_FP16,   AN_BF16,  AN_INT16,
				       AN_UINT16, AN_FP32, AN_INT32, AN_UINT32, AN_INT64, AN_UINT64};
	static const char *const names[] = {
	    "b", "i1", "u1", "h \"quoted\" \\", "\xc3\xa9", "i2", "u2", "f", "i4", "u4", "i8", "u8"};
	uint8_t data[LENGTH(all)][8 * 15];
	an_tensor_info t[LENGTH(all)], got;
	for (int i = 0; i < LENGTH(all); i++) {
		for (int k = 0; k < LENGTH(data[i]); k++)
			data[i][k] = (uint8_t)random_bits(1, (uint64_t)i, (uint64_t)k);
		t[i] = tensor(names[i], all[i], DIMS(1, 3, 1, 5), data[i]);
	}
	static const char *const metadata[] = {"format", "pt", "step", "12 \n", NULL};
	an_safetensors *s;
	assert_int_equal(an_safetensors_write(ctx, temp_path("all"), t, LENGTH(t), metadata), AN_OK);
	if (an_safetensors_open(ctx, temp_path("all"), &s) != AN_OK)
		fail_msg("%s", an_message(ctx));
	assert_int_equal(an_safetensors_count(s), LENGTH(t));
	for (int i = 0; i < LENGTH(t); i++) {
		assert_true(an_safetensors_find(s, names[i], &got));
		assert_string_equal(got.name, names[i]);
		assert_true(an_type_equal(&got.type, &t[i].type));
		assert_int_equal(got.bytes, t[i].bytes);
		assert_memory_equal(got.data, data[i], got.bytes);
		assert_int_equal((uintptr_t)got.data % an_dtype_size(got.type.dtype),
				 0); /* the file is mapped at a page */
	}
	size_t size = 8;
	for (int i = 0; i < LENGTH(t); i++) { /* larger elements first, then as given */
		an_safetensors_at(s, i, &got);
		assert_true(an_dtype_size(got.type.dtype) <= size);
		size = an_dtype_size(got.type.dtype);
	}
	an_safetensors_at(s, 0, &got);
	assert_string_equal(got.name, "i8");
	assert_false(an_safetensors_find(s, "absent", &got));
	assert_false(an_safetensors_find(s, "__metadata__", &got));
	assert_string_equal(an_safetensors_metadata(s, "step"), "12 \n");
	assert_null(an_safetensors_metadata(s, "absent"));
	an_safetensors_close(s);
	an_safetensors_close(NULL);

	/* a scalar, and nothing at all */
	float one = 1;
	an_tensor_info scalar = tensor("x", AN_FP32, 0, NULL, &one);
	assert_int_equal(an_safetensors_write(ctx, temp_path("one"), &scalar, 1, NULL), AN_OK);
	assert_int_equal(an_safetensors_open(ctx, temp_path("one"), &s), AN_OK);
	an_safetensors_at(s, 0, &got);
	assert_int_equal(got.type.rank, 0);
	assert_memory_equal(got.data, &one, 4);
	assert_null(an_safetensors_metadata(s, "format"));
	an_safetensors_close(s);
	assert_int_equal(an_safetensors_write(ctx, temp_path("none"), NULL, 0, NULL), AN_OK);
	assert_int_equal(an_safetensors_open(ctx, temp_path("none"), &s), AN_OK);
	assert_int_equal(an_safetensors_count(s), 0);
	assert_false(an_safetensors_find(s, "x", &got));
	an_safetensors_close(s);
}

static void refuses_to_write_nonsense(void **state)
{
	(void)state;
	float x[4] = {0};
	an_tensor_info t[2] = {tensor("a", AN_FP32, DIMS(4), x), tensor("a", AN_FP32, DIMS(2), x)};
	refused(an_safetensors_write(ctx, temp_path("w"), t, 2, NULL), AN_USAGE, "\"a\" is taken");
	t[1].name = "__metadata__";
	refused(an_safetensors_write(ctx, temp_path("w"), t, 2, NULL), AN_USAGE, "__metadata__");
	t[1].name = "\xff";
	refused(an_safetensors_write(ctx, temp_path("w"), t, 2, NULL), AN_USAGE, "UTF-8");
	t[1].name = "b";
	t[1].bytes = 7;
	refused(an_safetensors_write(ctx, temp_path("w"), t, 2, NULL), AN_USAGE, "needs 8 bytes, but 7");
	t[1].type.dtype = AN_STRING;
	refused(an_safetensors_write(ctx, temp_path("w"), t, 2, NULL), AN_UNSUPPORTED, "string");
	refused(an_safetensors_write(ctx, temp_path("w"), t, 1, (const char *const[]){"k", "\xff", NULL}),
		AN_USAGE, "UTF-8");
	refused(an_safetensors_write(ctx, temp_path("no/folder/w"), t, 1, NULL), AN_IO, "no/folder/w");
	assert_int_equal(temp_leftovers(""), 0);
}

/* ---- Files by hand -------------------------------------------------------------- */

static void put(const char *name, uint64_t length, const char *header, size_t data)
{
	static char file[4096];
	for (int i = 0; i < 8; i++)
		file[i] = (char)(length >> 8 * i);
	size_t n = strlen(header);
	memcpy(file + 8, header, n);
	memset(file + 8 + n, 0x3f, data);
	temp_write(name, file, 8 + n + data);
}

#define X "\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"

static void refuses_damage(void **state)
{
	(void)state;
	static const struct {
		an_status status;
		const char *words, *header;
		size_t data;
	} cases[] = {
	    {AN_OK, "", "{" X "}", 8},
	    {AN_OK, "", "{" X "}      ", 8},
	    {AN_OK, "", "{\"__metadata__\":{\"a\":\"b\"}," X "}", 8},
	    /* tensors in any order in the header */
	    {AN_OK, "", "{\"y\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[8,9]}," X "}", 9},
	    {AN_FORMAT, "not valid JSON", "{" X "", 8},
	    {AN_FORMAT, "not valid JSON", "{" X "}}", 8},
	    {AN_FORMAT, "not valid JSON", "", 0},
	    {AN_FORMAT, "not a JSON object", "[]", 0},
	    {AN_FORMAT, "duplicate", "{" X "," X "}", 8},
	    {AN_FORMAT, "\"__metadata__\" is not", "{\"__metadata__\":1," X "}", 8},
	    {AN_FORMAT, "\"a\" is not a string", "{\"__metadata__\":{\"a\":1}," X "}", 8},
	    {AN_FORMAT, "\"x\" is not an object", "{\"x\":[]}", 8},
	    {AN_FORMAT, "no \"dtype\"", "{\"x\":{\"shape\":[2],\"data_offsets\":[0,8]}}", 8},
	    {AN_FORMAT, "no \"shape\"", "{\"x\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8},
	    {AN_FORMAT, "data_offsets", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8},
	    {AN_FORMAT, "data_offsets", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8},
	    {AN_FORMAT, "data_offsets", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,9]}}",
	     8},
	    {AN_FORMAT, "data_offsets", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8.0]}}",
	     8},
	    {AN_FORMAT, "data_offsets", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}",
	     8},
	    {AN_FORMAT, "data_offsets", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}",
	     8},
	    {AN_FORMAT, "cut off", "{" X "}", 7},
	    {AN_FORMAT, "but 9 follow", "{" X "}", 9},
	    {AN_FORMAT, "of 12 bytes, but has 8",
	     "{\"x\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}", 8},
	    {AN_FORMAT, "of 4 bytes, but has 8",
	     "{\"x\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8},
	    {AN_UNSUPPORTED, "\"F64\"", "{\"x\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[0,8]}}",
	     8},
	    {AN_UNSUPPORTED, "6 dimensions",
	     "{\"x\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,2],\"data_offsets\":[0,8]}}", 8},
	    {AN_UNSUPPORTED, "dimension 1 is 0",
	     "{\"x\":{\"dtype\":\"F32\",\"shape\":[2,0],\"data_offsets\":[0,0]}}", 0},
	    {AN_FORMAT, "dimension 0", "{\"x\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}",
	     8},
	    {AN_FORMAT, "dimension 0", "{\"x\":{\"dtype\":\"F32\",\"shape\":[\"2\"],\"data_offsets\":[0,8]}}",
	     8},
	    {AN_UNSUPPORTED, "dimension 0 is 4294967298",
	     "{\"x\":{\"dtype\":\"F32\",\"shape\":[4294967298],\"data_offsets\":[0,8]}}", 8},
	    /* the product of the dimensions does not fit into 64 bits */
	    {AN_UNSUPPORTED, "2^64",
	     "{\"x\":{\"dtype\":\"F32\",\"shape\":[2147483647,2147483647,2147483647],\"data_offsets\":[0,8]}"
	     "}",
	     8},
	    {AN_FORMAT, "too big",
	     "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,99999999999999999999]}}", 8},
	    {AN_FORMAT, "ends at byte 9223372036854775807",
	     "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,9223372036854775807]}}", 8},
	    {AN_FORMAT, "gap", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12},
	    {AN_FORMAT, "gap", "{" X ",\"y\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[9,10]}}", 10},
	    {AN_FORMAT, "overlap", "{" X ",\"y\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[7,8]}}",
	     8},
	    {AN_FORMAT, "overlap", "{" X ",\"y\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
	     8},
	};
	for (int i = 0; i < LENGTH(cases); i++) {
		an_safetensors *s;
		put("hand", strlen(cases[i].header), cases[i].header, cases[i].data);
		an_status status = an_safetensors_open(ctx, temp_path("hand"), &s);
		if (status != cases[i].status ||
		    (status != AN_OK &&
		     (s || !strstr(an_message(ctx), cases[i].words) || !strstr(an_message(ctx), "hand"))))
			fail_msg("%s: %s: \"%s\"", cases[i].header, an_status_name(status), an_message(ctx));
		an_safetensors_close(s);
	}
	an_safetensors *s;
	put("hand", UINT64_MAX, "{" X "}", 8);
	refused(an_safetensors_open(ctx, temp_path("hand"), &s), AN_FORMAT, "18446744073709551615");
	put("hand", 100000001, "{" X "}", 8);
	refused(an_safetensors_open(ctx, temp_path("hand"), &s), AN_FORMAT, "more than safetensors allows");
	put("hand", 1000, "{" X "}", 8);
	refused(an_safetensors_open(ctx, temp_path("hand"), &s), AN_FORMAT, "cut off");
	temp_write("hand", "short", 5);
	refused(an_safetensors_open(ctx, temp_path("hand"), &s), AN_FORMAT, "5 bytes");
	temp_write("hand", "", 0);
	refused(an_safetensors_open(ctx, temp_path("hand"), &s), AN_FORMAT, "0 bytes");
	refused(an_safetensors_open(ctx, temp_path("absent"), &s), AN_IO, "absent");
}

/* Cut off at every place it is refused; with any byte of the header changed it is refused or
 * describes tensors inside the file. */
static void survives_random_damage(void **state)
{
	(void)state;
	uint16_t half[6] = {1, 2, 3, 4, 5, 6};
	float f[5] = {1, 2, 3, 4, 5};
	an_tensor_info t[] = {tensor("half", AN_FP16, DIMS(2, 3), half), tensor("f", AN_FP32, DIMS(5), f)};
	static const char *const metadata[] = {"format", "pt", NULL};
	assert_int_equal(an_safetensors_write(ctx, temp_path("good"), t, 2, metadata), AN_OK);
	size_t n;
	char *file = temp_read("good", &n);
	for (size_t cut = 0; cut < n; cut++) {
		an_safetensors *s;
		temp_write("bad", file, cut);
		assert_int_equal(an_safetensors_open(ctx, temp_path("bad"), &s), AN_FORMAT);
	}
	for (uint64_t seed = 0; seed < 4000; seed++) {
		static const char marks[] = "\"{}[]:,0123456789 \\eFU";
		an_safetensors *s;
		size_t at = random_bits(seed, 0, 0) % n;
		uint64_t x = random_bits(seed, 0, 1);
		char old = file[at];
		file[at] = seed % 2 ? (char)x : marks[x % (sizeof marks - 1)];
		temp_write("bad", file, n);
		file[at] = old;
		if (an_safetensors_open(ctx, temp_path("bad"), &s) != AN_OK)
			continue;
		uint64_t sum = 0;
		for (int i = 0; i < an_safetensors_count(s); i++) {
			an_tensor_info got;
			an_safetensors_at(s, i, &got);
			for (size_t k = 0; k < got.bytes; k++)
				sum += ((const uint8_t *)got.data)[k]; /* must be readable */
		}
		assert_true(sum > 0);
		an_safetensors_close(s);
	}
	free(file);
}

static void keeps_the_old_file_when_full(void **state)
{
	(void)state;
	static float big[100000];
	an_tensor_info t = tensor("big", AN_FP32, DIMS(LENGTH(big)), big);
	temp_write("full", "old", 3);
	struct rlimit old, small;
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	small = (struct rlimit){200000, old.rlim_max};
	setrlimit(RLIMIT_FSIZE, &small);
	an_status s = an_safetensors_write(ctx, temp_path("full"), &t, 1, NULL);
	setrlimit(RLIMIT_FSIZE, &old);
	refused(s, AN_IO, "full");
	char *kept = temp_read("full", NULL);
	assert_string_equal(kept, "old");
	free(kept);
	assert_int_equal(temp_leftovers(""), 0);
}

static an_status write_and_read(an_ctx *c)
{
	float x[3] = {1, 2, 3};
	an_tensor_info t = tensor("x", AN_FP32, DIMS(3), x);
	an_safetensors *s;
	an_status status = an_safetensors_write(c, temp_path("memory"), &t, 1, NULL);
	if (status == AN_OK)
		status = an_safetensors_open(c, temp_path("memory"), &s);
	if (status == AN_OK)
		an_safetensors_close(s);
	return status;
}

static void survives_without_memory(void **state)
{
	(void)state;
	survive_without_memory(write_and_read);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(reads_what_it_writes),
					   cmocka_unit_test(refuses_to_write_nonsense),
					   cmocka_unit_test(refuses_damage),
					   cmocka_unit_test(survives_random_damage),
					   cmocka_unit_test(keeps_the_old_file_when_full),
					   cmocka_unit_test(survives_without_memory)};
	return cmocka_run_group_tests(tests, setup, teardown);
}
