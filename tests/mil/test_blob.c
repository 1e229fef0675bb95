/* Blob storage files: the official layout, and what is refused. */
#include "support/mil_support.h"

static char path[256];

static void put(uint8_t *at, uint64_t v, int bytes)
{
	for (int i = 0; i < bytes; i++)
		at[i] = (uint8_t)(v >> 8 * i);
}

/* The example of the format's documentation: records at 64 and 256, data at 128 and 320. */
static size_t official(uint8_t *f)
{
	memset(f, 0, 384);
	put(f, 2, 4);
	put(f + 4, 2, 4);
	put(f + 64, 0xDEADBEEF, 4);
	put(f + 68, 1, 4); /* fp16 */
	put(f + 72, 128, 8);
	put(f + 80, 128, 8);
	put(f + 256, 0xDEADBEEF, 4);
	put(f + 260, 4, 4); /* int8 */
	put(f + 264, 64, 8);
	put(f + 272, 320, 8);
	for (int i = 0; i < 128; i++)
		f[128 + i] = (uint8_t)i;
	for (int i = 0; i < 64; i++)
		f[320 + i] = (uint8_t)(200 + i);
	return 384;
}

static an_type fp16_64, int8_64;

static void official_layout_is_written(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	uint8_t want[384], half[128], bytes[64];
	uint64_t first, second;
	size_t len;
	blob_writer *w;
	for (int i = 0; i < 128; i++)
		half[i] = (uint8_t)i;
	for (int i = 0; i < 64; i++)
		bytes[i] = (uint8_t)(200 + i);
	MIL_OK(ctx, blob_create(ctx, path, 2, &w));
	MIL_OK(ctx, blob_add(w, &fp16_64, half, &first));
	MIL_OK(ctx, blob_add(w, &int8_64, bytes, &second));
	MIL_OK(ctx, blob_commit(w));
	assert_int_equal(first, 64);
	assert_int_equal(second, 256);
	assert_int_equal(blob_next_offset(64, 128), 256);
	assert_int_equal(blob_next_offset(64, 1), 192);
	char *have = mil_slurp(path, &len);
	assert_int_equal(len, official(want));
	assert_memory_equal(have, want, len);
	free(have);
	/* too few, too many, not storable, in the wrong order: an error, and the old file stays */
	MIL_OK(ctx, blob_create(ctx, path, 2, &w));
	MIL_OK(ctx, blob_add(w, &fp16_64, half, &first));
	assert_int_equal(blob_commit(w), AN_INTERNAL);
	an_type flags = an_tensor(AN_BOOL, 1, (int32_t[]){4});
	MIL_OK(ctx, blob_create(ctx, path, 1, &w));
	assert_int_equal(blob_add(w, &flags, bytes, &first), AN_UNSUPPORTED);
	MIL_OK(ctx, blob_add_at(w, 128, &int8_64, bytes));
	assert_int_equal(blob_add_at(w, 192, &int8_64, bytes), AN_USAGE);
	assert_int_equal(blob_add_at(w, 257, &int8_64, bytes), AN_USAGE);
	blob_abandon(w);
	blob_abandon(NULL);
	have = mil_slurp(path, &len);
	assert_int_equal(len, 384);
	free(have);
	an_ctx_close(ctx);
}

static void official_layout_is_read(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	uint8_t f[384];
	blob_record r;
	size_t n = official(f);
	for (int lenient = 0; lenient < 2; lenient++) {
		MIL_OK(ctx, blob_read(ctx, "w", f, n, 64, &fp16_64, lenient, &r));
		assert_int_equal(r.dtype, AN_FP16);
		assert_int_equal(r.size, 128);
		assert_ptr_equal(r.data, f + 128);
		MIL_OK(ctx, blob_read(ctx, "w", f, n, 256, &int8_64, lenient, &r));
		assert_ptr_equal(r.data, f + 320);
		MIL_OK(ctx, blob_read(ctx, "w", f, n, 256, NULL, lenient, &r));
		assert_int_equal(r.dtype, AN_INT8);
		assert_int_equal(r.size, 64);
	}
	an_ctx_close(ctx);
}

/* One byte changed each time, and what the message must say. */
static void malformed_records_are_refused(void **state)
{
	(void)state;
	static const struct {
		size_t at;
		uint64_t value;
		int bytes;
		const char *words;
	} cases[] = {{4, 1, 4, "version is 1"},
		     {64, 0xDEADBEE0, 4, "would start with 0xDEADBEEF"},
		     {68, 0, 4, "element type 0"},
		     {68, 99, 4, "element type 99"},
		     {68, 2, 4, "holds fp32, the program says tensor<fp16, [64]>"},
		     {72, 126, 8, "holds 126 bytes, tensor<fp16, [64]> needs 128"},
		     {72, UINT64_MAX, 8, "needs 128"},
		     {80, 0, 8, "data start at 0"},
		     {80, 64, 8, "data start at 64"},
		     {80, 136, 8, "multiple of 64"},
		     {80, 320, 8, "truncated or malformed"},
		     {80, UINT64_MAX - 63, 8, "truncated or malformed"},
		     {88, 4, 8, "4 bits of padding"}};
	an_ctx *ctx = mil_open();
	blob_record r;
	for (int i = 0; i < LENGTH(cases); i++) {
		uint8_t f[384];
		size_t n = official(f);
		put(f + cases[i].at, cases[i].value, cases[i].bytes);
		assert_int_equal(blob_read(ctx, "weights.bin", f, n, 64, &fp16_64, false, &r), AN_FORMAT);
		if (!strstr(an_message(ctx), cases[i].words) ||
		    strncmp(an_message(ctx), "weights.bin, blob at 64: ", 25))
			fail_msg("wanted %s, got %s", cases[i].words, an_message(ctx));
	}
	uint8_t f[384];
	size_t n = official(f);
	static const uint64_t offsets[] = {
	    0, 1, 63, 65, 100, 128, 320, 384, 1 << 20, UINT64_MAX, UINT64_MAX - 63};
	for (int i = 0; i < LENGTH(offsets); i++)
		assert_int_equal(blob_read(ctx, "w", f, n, offsets[i], &fp16_64, false, &r), AN_FORMAT);
	for (size_t len = 0; len < 256; len++) {  /* cut anywhere before the first blob's end */
		uint8_t *exact = malloc(len + 1); /* so that reading beyond it is seen by the sanitizer */
		memcpy(exact, f, len);
		exact = realloc(exact, MAX(len, 1));
		assert_int_equal(blob_read(ctx, "w", exact, len, 64, &fp16_64, false, &r), AN_FORMAT);
		assert_int_equal(blob_read(ctx, "w", exact, len, 64, &fp16_64, true, &r), AN_FORMAT);
		free(exact);
	}
	an_ctx_close(ctx);
}

/* What benchmarks in circulation write: the sentinel and two bytes; data after the record. */
static void sentinel_only_records_are_read_leniently(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	uint8_t f[384];
	blob_record r;
	size_t n = official(f);
	put(f + 68, 0, 4);
	put(f + 72, 0x080000, 8);
	put(f + 80, 0, 8);
	assert_int_equal(blob_read(ctx, "w", f, n, 64, &fp16_64, false, &r), AN_FORMAT);
	MIL_OK(ctx, blob_read(ctx, "w", f, n, 64, &fp16_64, true, &r));
	assert_ptr_equal(r.data, f + 128);
	assert_int_equal(r.size, 128);
	assert_int_equal(r.dtype, AN_FP16);
	/* int8 data marked as fp16, at a place that is no multiple of 64 */
	memmove(f + 70, f + 64, 192);
	MIL_OK(ctx, blob_read(ctx, "w", f, n, 70, &int8_64, true, &r));
	assert_ptr_equal(r.data, f + 134);
	/* but not beyond the file */
	an_type large = an_tensor(AN_FP16, 1, (int32_t[]){1 << 20});
	assert_int_equal(blob_read(ctx, "w", f, n, 70, &large, true, &r), AN_FORMAT);
	an_ctx_close(ctx);
}

int main(void)
{
	fp16_64 = an_tensor(AN_FP16, 1, (int32_t[]){64});
	int8_64 = an_tensor(AN_INT8, 1, (int32_t[]){64});
	snprintf(path, sizeof path, "/tmp/anneal-test-blob-%ld.bin", (long)getpid());
	const struct CMUnitTest tests[] = {cmocka_unit_test(official_layout_is_written),
					   cmocka_unit_test(official_layout_is_read),
					   cmocka_unit_test(malformed_records_are_refused),
					   cmocka_unit_test(sentinel_only_records_are_read_leniently)};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(path);
	return failed;
}
