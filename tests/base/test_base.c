/* The base layer: number formats on all patterns, memory, files, threads. */
#include "base/base.h"
#include "base/file.h"
#include "base/half.h"
#include "base/isa.h"
#include "base/pool.h"
#include "base/random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

static an_ctx *open_ctx(int threads)
{
	an_ctx *ctx;
	an_ctx_options opt = {.threads = threads};
	assert_int_equal(an_ctx_open(&opt, &ctx), AN_OK);
	return ctx;
}

/* ---- Numbers -------------------------------------------------------------------- */

/* binary16 by its definition, in double. */
static double half_value(unsigned h)
{
	int e = h >> 10 & 31, m = h & 1023;
	double a = e == 31 ? (m ? NAN : INFINITY) : e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
	return h & 0x8000 ? -a : a;
}

static void half_to_float_is_exact(void **state)
{
	(void)state;
	for (unsigned h = 0; h < 65536; h++) {
		float f = half_to_float((half)h);
		double want = half_value(h);
		if (isnan(want)) {
			assert_true(isnan(f));
		} else {
			assert_true((double)f == want && !signbit(f) == !(h >> 15));
			assert_int_equal(half_from_float(f), h);
			assert_int_equal(half_from_double(want), h);
		}
	}
}

/* Between two neighbours: below the middle goes down, above goes up, the middle to even. */
static void half_rounds_to_nearest_even(void **state)
{
	(void)state;
	for (unsigned h = 0; h < 0x7bff; h++) {
		double a = half_value(h), b = half_value(h + 1), mid = (a + b) / 2;
		unsigned even = h & 1 ? h + 1 : h;
		assert_int_equal(half_from_double(mid), even);
		assert_int_equal(half_from_double(nextafter(mid, 0)), h);
		assert_int_equal(half_from_double(nextafter(mid, 1e9)), h + 1);
		assert_int_equal(half_from_double(-nextafter(mid, 1e9)), (h + 1) | 0x8000);
		/* the middle has 12 significant bits: exact in fp32 */
		assert_int_equal(half_from_float((float)mid), even);
		assert_int_equal(half_from_float(nextafterf((float)mid, 0)), h);
		assert_int_equal(half_from_float(nextafterf((float)mid, 1e9f)), h + 1);
	}
	assert_int_equal(half_from_float(65519.996f), 0x7bff);
	assert_int_equal(half_from_float(65520.0f), 0x7c00);
	assert_int_equal(half_from_double(65519.99999999), 0x7bff);
	assert_int_equal(half_from_double(1e300), 0x7c00);
	assert_int_equal(half_from_double(-1e-300), 0x8000);
	assert_true((half_from_float(NAN) & 0x7c00) == 0x7c00 && (half_from_float(NAN) & 0x3ff));
}

static void bfloat_rounds_to_nearest_even(void **state)
{
	(void)state;
	for (uint32_t hi = 0; hi < 0x7f80; hi++) {
		assert_int_equal(bfloat_from_float(bits_float(hi << 16)), hi);
		assert_int_equal(bfloat_from_float(bits_float(hi << 16 | 0x8000)), hi + (hi & 1));
		assert_int_equal(bfloat_from_float(bits_float(hi << 16 | 0x8001)), hi + 1);
		assert_int_equal(bfloat_from_float(bits_float(hi << 16 | 0x7fff)), hi);
	}
	assert_true(isnan(bfloat_to_float(bfloat_from_float(bits_float(0x7f800001)))));
}

/* Moments of 2^18 draws: the standard errors of mean, variance, kurtosis are 0.002, 0.003, 0.01. */
static void random_draws_are_normal(void **state)
{
	(void)state;
	double s1 = 0, s2 = 0, s4 = 0;
	int n = 1 << 18;
	for (int i = 0; i < n; i++) {
		double x = random_normal(7, 3, (uint64_t)i);
		s1 += x;
		s2 += x * x;
		s4 += x * x * x * x;
	}
	assert_true(fabs(s1 / n) < 0.01 && fabs(s2 / n - 1) < 0.015 && fabs(s4 / n - 3) < 0.08);
	assert_true(random_bits(1, 0, 0) != random_bits(1, 1, 0) &&
		    random_bits(1, 0, 0) != random_bits(2, 0, 0));
}

/* ---- Memory --------------------------------------------------------------------- */

typedef struct budget {
	int64_t blocks, bytes;
	int left;
} budget;

static void *counting_resize(void *user, void *p, size_t old_size, size_t new_size)
{
	budget *b = user;
	if (new_size && b->left-- <= 0)
		return NULL;
	b->blocks += (new_size != 0) - (p != NULL);
	b->bytes += (int64_t)new_size - (p ? (int64_t)old_size : 0);
	if (new_size)
		return realloc(p, new_size);
	free(p);
	return NULL;
}

/* The same work under an allocator that fails after 0, 1, 2, ... blocks: every failure is
 * reported and nothing leaks. */
static void every_allocation_may_fail(void **state)
{
	(void)state;
	bool done = false;
	for (int left = 0; !done; left++) {
		assert_true(left < 200);
		budget b = {.left = left};
		an_allocator a = {counting_resize, &b};
		an_ctx_options opt = {.allocator = &a, .threads = 3};
		an_ctx *ctx;
		if (an_ctx_open(&opt, &ctx) == AN_MEMORY)
			continue;
		arena ar;
		arena_init(&ar, ctx);
		str s;
		str_init(&s, ctx);
		bool ok = true;
		for (int i = 0; i < 40; i++) {
			char *p = arena_printf(&ar, "%0*d", 1 + i * 100, i);
			ok = ok && p;
			str_addf(&s, "%d,", i);
		}
		ok = ok && str_status(&s) == AN_OK;
		void *t = mem_alloc_tensor(ctx, 5 << 20);
		ok = ok && t;
		mem_free_tensor(ctx, t, 5 << 20);
		(fail)(ctx, AN_IO, "a message of %d words", 5);
		ok = ok && ctx_pool(ctx);
		done = ok && strcmp(an_message(ctx), "a message of 5 words") == 0;
		str_free(&s);
		arena_free(&ar);
		an_ctx_close(ctx);
		assert_int_equal(b.blocks, 0);
		assert_int_equal(b.bytes, 0);
	}
}

/* Blocks around the size from which they are mapped. */
static void tensor_blocks_are_zero_and_aligned(void **state)
{
	(void)state;
	static const size_t size[] = {
	    0,      1, 1000, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, (4 << 20) - 1, 4 << 20, (4 << 20) + 1,
	    9 << 20};
	an_ctx *ctx = open_ctx(1);
	for (int round = 0; round < 2; round++)
		for (int i = 0; i < LENGTH(size); i++) {
			unsigned char *p = mem_alloc_tensor(ctx, size[i]), any = 0;
			assert_non_null(p);
			assert_int_equal((uintptr_t)p % 64, 0);
			for (size_t j = 0; j < size[i]; j++)
				any |= p[j];
			assert_int_equal(any, 0);
			memset(p, 0xff, size[i]);
			mem_free_tensor(ctx, p, size[i]);
		}
	/* some hundred megabytes in pieces, given back in another order */
	enum { BLOCKS = 120 };
	unsigned char *block[BLOCKS];
	size_t bytes[BLOCKS];
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < BLOCKS; i++) {
			bytes[i] = (size_t)(i * 37 % 100 + 1) * 30001;
			block[i] = mem_alloc_tensor(ctx, bytes[i]);
			assert_non_null(block[i]);
			assert_int_equal(block[i][0] | block[i][bytes[i] - 1], 0);
			memset(block[i], i + 1, bytes[i]);
		}
		for (int i = 0; i < BLOCKS; i++) {
			int k = (i * 49 + round) % BLOCKS;
			assert_int_equal(block[k][0], k + 1);
			assert_int_equal(block[k][bytes[k] - 1], k + 1);
			mem_free_tensor(ctx, block[k], bytes[k]);
		}
	}
	assert_null(mem_alloc_tensor(ctx, SIZE_MAX - 100));
	assert_null(mem_alloc_tensor(ctx, SIZE_MAX / 2));
	an_ctx_close(ctx);
}

static void arenas_rewind(void **state)
{
	(void)state;
	an_ctx *ctx = open_ctx(1);
	arena a;
	arena_init(&a, ctx);
	char *keep = arena_strdup(&a, "kept");
	arena_mark m = arena_save(&a);
	char *first = arena_alloc(&a, 24);
	for (int i = 0; i < 100; i++)
		memset(arena_alloc(&a, 5000), 'x', 5000);
	arena_rewind(&a, m);
	char *again = arena_alloc(&a, 24);
	assert_ptr_equal(first, again);
	assert_int_equal(again[0] | again[23], 0);
	assert_string_equal(keep, "kept");
	assert_null(arena_array(&a, SIZE_MAX / 4, 8));
	arena_free(&a);
	an_ctx_close(ctx);
}

/* ---- Files ---------------------------------------------------------------------- */

static void files_are_replaced_atomically(void **state)
{
	(void)state;
	an_ctx *ctx = open_ctx(1);
	char dir[] = "/tmp/anneal-base-XXXXXX", path[64], sub[64];
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/file", dir);
	snprintf(sub, sizeof sub, "%s/a/b/c", dir);
	assert_int_equal(file_replace(ctx, path, "old", 3), AN_OK);
	file_out *f;
	assert_int_equal(file_create(ctx, path, &f), AN_OK);
	for (int i = 0; i < 50000; i++)
		file_printf(f, "%d\n", i);
	file_abandon(f);
	file_view v;
	assert_int_equal(file_open_view(ctx, path, &v), AN_OK);
	assert_true(v.size == 3 && memcmp(v.data, "old", 3) == 0);
	file_close_view(ctx, &v);

	assert_int_equal(file_create(ctx, path, &f), AN_OK);
	for (int i = 0; i < 50000; i++)
		file_printf(f, "%08d", i);
	assert_int_equal(file_tell(f), 400000);
	assert_int_equal(file_commit(f), AN_OK);
	assert_int_equal(file_open_view(ctx, path, &v), AN_OK);
	assert_int_equal(v.size, 400000);
	assert_memory_equal(v.data + 399992, "00049999", 8);
	file_close_view(ctx, &v);

	assert_int_equal(dir_make(ctx, sub), AN_OK);
	assert_int_equal(dir_make(ctx, sub), AN_OK);
	assert_true(path_is_dir(sub));
	snprintf(sub, sizeof sub, "%s/file/x", dir);
	assert_int_equal(dir_make(ctx, sub), AN_IO);
	assert_non_null(strstr(an_message(ctx), "/file: cannot create the directory"));
	assert_int_equal(file_open_view(ctx, dir, &v), AN_IO);
	assert_int_equal(file_create(ctx, "/nonexistent/x", &f), AN_IO);
	assert_int_equal(dir_remove(ctx, dir), AN_OK);
	assert_false(path_exists(dir));
	assert_int_equal(dir_remove(ctx, dir), AN_OK);
	an_ctx_close(ctx);
}

/* ---- Threads -------------------------------------------------------------------- */

static void count_item(void *arg, int64_t i, int worker)
{
	uint8_t *seen = arg;
	seen[i] = (uint8_t)(seen[i] + 1);
	assert_true(worker >= 0 && worker < 4);
}

static void every_item_runs_once(void **state)
{
	(void)state;
	an_ctx *ctx = open_ctx(4);
	uint8_t seen[1000];
	for (int round = 0; round < 300; round++) {
		int n = round * 37 % 1000;
		memset(seen, 0, sizeof seen);
		pool_run(ctx_pool(ctx), count_item, seen, n);
		for (int i = 0; i < 1000; i++)
			assert_int_equal(seen[i], i < n);
		if (round % 100 == 99) /* let the workers fall asleep */
			usleep(2000);
	}
	an_ctx_close(ctx);
}

static void isa_names_round_trip(void **state)
{
	(void)state;
	char text[200];
	uint32_t mask;
	for (uint32_t m = 0; m < 1u << ISA_COUNT; m++) {
		isa_print(m, text, sizeof text);
		assert_true(isa_parse(text, &mask));
		assert_int_equal(mask, m);
	}
	assert_false(isa_parse("avx", &mask));
	assert_false(isa_parse("avx2,", &mask) && mask != ISA_AVX2);
	an_ctx *ctx;
	an_ctx_options opt = {.isa = "sse9"};
	assert_int_equal(an_ctx_open(&opt, &ctx), AN_USAGE);
	assert_null(ctx);

	/* no CPU has both x86's and Arm's: a mask beyond what is offered is refused, not run */
	opt.isa = "avx2,neon";
	assert_int_equal(an_ctx_open(&opt, &ctx), AN_UNSUPPORTED);
	opt.isa = "bf16fast"; /* a preference */
	assert_int_equal(an_ctx_open(&opt, &ctx), AN_OK);
	an_ctx_close(ctx);
	opt.isa = "amxfp16"; /* not every processor that has it says so */
	assert_int_equal(an_ctx_open(&opt, &ctx), isa_detect() & ISA_AMX_BF16 ? AN_OK : AN_UNSUPPORTED);
	an_ctx_close(ctx);
	opt.isa = "portable";
	assert_int_equal(an_ctx_open(&opt, &ctx), AN_OK);
	assert_string_equal(an_ctx_isa(ctx), "portable");
	an_ctx_close(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(half_to_float_is_exact),
	    cmocka_unit_test(half_rounds_to_nearest_even),
	    cmocka_unit_test(bfloat_rounds_to_nearest_even),
	    cmocka_unit_test(random_draws_are_normal),
	    cmocka_unit_test(every_allocation_may_fail),
	    cmocka_unit_test(arenas_rewind),
	    cmocka_unit_test(tensor_blocks_are_zero_and_aligned),
	    cmocka_unit_test(files_are_replaced_atomically),
	    cmocka_unit_test(every_item_runs_once),
	    cmocka_unit_test(isa_names_round_trip),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
