/* Operands that are packed once for several products: which are, and that results have the bits they have
 * without, whatever is written in between. */
#include "support/device_support.h"

#include "device/soft/soft.h"

/* So many rows that every kernel has several blocks of them, which share the other operand. */
enum { M = 600, K = 33, N = 40, HEADS = 3 };

typedef struct program {
	an_ctx *ctx;
	an_program *p;
	an_builder b;
} program;

static program begin(an_ctx *ctx)
{
	program x = {.ctx = ctx};
	an_function *f;
	MIL_OK(ctx, an_program_new(ctx, &x.p));
	MIL_OK(ctx, an_function_new(x.p, "main", &f));
	x.b = an_builder_on(f);
	return x;
}

static an_value input(program *x, const char *name, int rows, int columns)
{
	return an_input(&x->b, name, an_tensor(AN_FP16, 2, (int32_t[]){rows, columns}));
}

static void output(program *x, const char *name, an_value v) { an_output(&x->b, an_name(&x->b, v, name)); }

/* Three products with one activation, of which the second has fewer rows, as keys do where several queries
 * share one; and one with another. */
static program queries_keys_values(an_ctx *ctx)
{
	program x = begin(ctx);
	an_value q = input(&x, "wq", M, K), k = input(&x, "wk", M - 31, K), v = input(&x, "wv", M, K),
		 o = input(&x, "wo", K, M), in = an_unary(&x.b, "relu", input(&x, "x", K, N));
	output(&x, "q", an_matmul(&x.b, q, in, false, false));
	an_value keys = an_matmul(&x.b, k, in, false, false), values = an_matmul(&x.b, v, in, false, false);
	output(&x, "k", keys);
	output(&x, "o", an_matmul(&x.b, o, an_unary(&x.b, "relu", values), false, false));
	MIL_OK(ctx, an_builder_finish(&x.b));
	return x;
}

typedef struct found {
	int packs, shares, products, loops;
} found;

static found look(const an_executable *x)
{
	const soft_exe *e = x->impl;
	found n = {0};
	for (int i = e->nearly; i < e->ncalls; i++) {
		const soft_call *c = &e->call[i];
		n.packs += c->kind == CALL_PACK;
		n.loops += c->kind == CALL_LOOP;
		n.products += c->kind == CALL_GEMM;
		for (int which = K_A; which <= K_B && c->kind == CALL_GEMM; which++) {
			const int ref = c->u.gemm.packed[which];
			n.shares += ref > 0;
			for (int j = i - 1; ref && j >= 0; j--)
				if (e->call[j].kind == CALL_PACK &&
				    e->call[j].storage[1] == c->storage[ref]) {
					assert_int_equal(e->call[j].u.gemm.which, which);
					break;
				} else {
					assert_true(j > 0);
				}
		}
	}
	return n;
}

static found compiled(an_ctx *ctx, const char *numerics, an_function *f)
{
	an_device *d = device_soft(ctx, numerics, true);
	an_executable *x;
	MIL_OK(ctx, an_compile(d, f, &x));
	found n = look(x);
	an_executable_free(x);
	an_device_close(d);
	return n;
}

static void compare(an_call *got, an_call *want, const char *what)
{
	for (int i = want->exe->ninputs; i < want->exe->ninputs + want->exe->noutputs; i++)
		if (memcmp(device_bytes(got, i), device_bytes(want, i), want->bound[i]->bytes) != 0)
			fail_msg("%s: output %s differs", what, want->exe->ports[i].name);
}

/* Runs f with and without, on other inputs each time. */
static void same_bits(an_ctx *ctx, const char *numerics, an_function *f)
{
	an_device *with = device_soft(ctx, numerics, true), *without = device_soft(ctx, numerics, false);
	an_call *got = device_call(with, f, 1, -2, 2), *want = device_call(without, f, 1, -2, 2);
	for (int round = 0; round < 3; round++) {
		for (int i = 0; i < got->exe->ninputs; i++) {
			const an_type *t = &got->exe->ports[i].type;
			device_fill(t, device_bytes(got, i), 5 + (uint64_t)round, (uint64_t)i, -2, 2);
			device_fill(t, device_bytes(want, i), 5 + (uint64_t)round, (uint64_t)i, -2, 2);
		}
		MIL_OK(ctx, an_call_run(got));
		MIL_OK(ctx, an_call_run(want));
		compare(got, want, numerics);
	}
	assert_int_equal(look(want->exe).packs, 0);
	an_call_free(got);
	an_call_free(want);
	an_device_close(with);
	an_device_close(without);
}

static const char *const profiles[] = {"ieee", "fast", "m4"};

static void check_shared(an_ctx *ctx)
{
	program x = queries_keys_values(ctx);
	for (int i = 0; i < LENGTH(profiles); i++) {
		found n = compiled(ctx, profiles[i], x.b.f);
		assert_int_equal(n.products, 4);
		assert_int_equal(n.packs, 1);
		assert_int_equal(n.shares, 3);
		same_bits(ctx, profiles[i], x.b.f);
	}
	an_program_free(x.p);
	an_ctx_close(ctx);
}

static void test_shared(void **state)
{
	(void)state;
	for (int threads = 1; threads <= 3; threads++)
		check_shared(device_ctx(threads));
	an_ctx *ctx;
	assert_int_equal(an_ctx_open(&(an_ctx_options){.threads = 2, .isa = "portable"}, &ctx), AN_OK);
	check_shared(ctx);
}

/* Other elements of one value, the same in another order, or in another role: nothing is shared. */
static void test_not_alike(void **state)
{
	(void)state;
	enum { OFFSET, LENGTHS, TURNED, ROLE, COLUMNS, CASES };
	an_ctx *ctx = device_ctx(2);
	for (int i = 0; i < CASES; i++) {
		program x = begin(ctx);
		const int k = i == TURNED || i == ROLE ? M : K, n = i == TURNED || i == ROLE ? M : 2 * N;
		an_value in = an_unary(&x.b, "relu", input(&x, "x", k, n)), u = input(&x, "u", M, k),
			 w = input(&x, "w", M, k);
		an_value a = in, b = in;
		switch (i) {
		case OFFSET:
			a = an_slice(&x.b, in, 1, 0, N);
			b = an_slice(&x.b, in, 1, N, N);
			break;
		case LENGTHS:
			b = an_slice(&x.b, in, 0, 0, K - 1);
			w = an_slice(&x.b, w, 1, 0, K - 1);
			break;
		case COLUMNS: b = an_slice(&x.b, in, 1, 0, N); break;
		default: break;
		}
		output(&x, "y", an_matmul(&x.b, u, a, false, false));
		output(&x, "z",
		       i == ROLE ? an_matmul(&x.b, b, w, false, false)
				 : an_matmul(&x.b, w, b, false, i == TURNED));
		MIL_OK(ctx, an_builder_finish(&x.b));
		assert_int_equal(compiled(ctx, "ieee", x.b.f).packs, 0);
		same_bits(ctx, "ieee", x.b.f);
		an_program_free(x.p);
	}
	an_ctx_close(ctx);
}

/* The operand is part of a value of which another part is written between the products, by a call or in a
 * loop; then nothing is shared.  Without that it is. */
static void test_written_between(void **state)
{
	(void)state;
	enum { CALL, LOOP, NOTHING, CASES };
	an_ctx *ctx = device_ctx(3); /* as many iterations as threads */
	for (int i = 0; i < CASES; i++) {
		program x = begin(ctx);
		an_value first = an_unary(&x.b, "relu", input(&x, "x", 3 * K, N)),
			 u = input(&x, "u", M, 3 * K), w = input(&x, "w", M, 3 * K),
			 in = input(&x, "in", 3 * K, N), y, second;
		y = an_matmul(&x.b, u, first, false, false);
		output(&x, "y", y);
		if (i == LOOP) {
			an_value h = an_reshape(&x.b, in, 3, (int32_t[]){HEADS, K, N});
			an_value scores = an_matmul(&x.b, h, h, true, false);
			second =
			    an_reshape(&x.b, an_matmul(&x.b, h, an_softmax(&x.b, scores, -1), false, true), 2,
				       (int32_t[]){3 * K, N});
		} else {
			second = an_unary(&x.b, "tanh", in);
		}
		if (i != NOTHING)
			output(&x, "both", an_concat(&x.b, (an_value[]){first, second}, 2, 0));
		else
			output(&x, "second", second);
		output(&x, "z", an_matmul(&x.b, w, first, false, false));
		MIL_OK(ctx, an_builder_finish(&x.b));
		found n = compiled(ctx, "ieee", x.b.f);
		assert_int_equal(n.loops, i == LOOP);
		assert_int_equal(n.packs, i == NOTHING);
		same_bits(ctx, "ieee", x.b.f);
		an_program_free(x.p);
	}
	an_ctx_close(ctx);
}

/* What several products read may be weights that are kept packed from run to run. */
static void test_kept(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(2);
	program x = begin(ctx);
	an_type type[] = {an_tensor(AN_FP32, 2, (int32_t[]){M, K}), an_tensor(AN_FP32, 2, (int32_t[]){K, N})};
	an_value w = an_input(&x.b, "w", type[1]);
	output(&x, "y", an_matmul(&x.b, an_input(&x.b, "u", type[0]), w, false, false));
	output(&x, "z", an_matmul(&x.b, an_input(&x.b, "v", type[0]), w, false, false));
	MIL_OK(ctx, an_builder_finish(&x.b));
	an_device *d = device_soft(ctx, "ieee", true);
	an_call *kept = device_call(d, x.b.f, 1, -2, 2), *plain = device_call(d, x.b.f, 1, -2, 2);
	assert_int_equal(look(kept->exe).shares, 2);
	an_buffer_keep_packed(kept->bound[0]);
	for (int run = 0; run < 12; run++) {
		if (run % 6 == 0)
			for (int i = 0; i < 2; i++) {
				an_call *c = i ? kept : plain;
				device_fill(&type[1], device_bytes(c, 0), 9, (uint64_t)run, -2, 2);
				an_buffer_unmap(c->bound[0]);
			}
		MIL_OK(ctx, an_call_run(kept));
		MIL_OK(ctx, an_call_run(plain));
		compare(kept, plain, "kept");
	}
	an_call_free(kept);
	an_call_free(plain);
	an_device_close(d);
	an_program_free(x.p);
	an_ctx_close(ctx);
}

static void test_counts(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(2);
	program x = queries_keys_values(ctx);
	for (int p = 0; p < LENGTH(profiles); p++) {
		an_counts counts[2];
		for (int i = 0; i < 2; i++) {
			an_device *d = device_soft(ctx, profiles[p], i);
			an_call *c = device_call(d, x.b.f, 1, -2, 2);
			MIL_OK(ctx, an_device_count(d, true));
			MIL_OK(ctx, an_call_run(c));
			MIL_OK(ctx, an_executable_counts(c->exe, -1, &counts[i]));
			an_call_free(c);
			an_device_close(d);
		}
		assert_true(counts[0].products > 0);
		assert_memory_equal(&counts[0], &counts[1], sizeof counts[0]);
	}
	an_program_free(x.p);
	an_ctx_close(ctx);
}

/* The list and the profile name it. */
static void test_text(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(2);
	program x = queries_keys_values(ctx);
	an_device *d = device_soft(ctx, "ieee", true);
	an_executable *e;
	MIL_OK(ctx, an_compile(d, x.b.f, &e));
	str text;
	str_init(&text, ctx);
	MIL_OK(ctx, soft_dump(e, &text));
	assert_non_null(strstr(text.data, "pack    33x40 fp16 "));
	assert_non_null(strstr(text.data, "| matmul q\n"));
	str_free(&text);
	an_executable_free(e);
	an_device_close(d);
	an_program_free(x.p);
	an_ctx_close(ctx);
}

static void test_out_of_memory(void **state)
{
	(void)state;
	device_meter m = {.left = INT64_MAX};
	an_ctx *ctx;
	assert_int_equal(device_metered(&m, 2, &ctx), AN_OK);
	program x = queries_keys_values(ctx);
	an_device *d = device_soft(ctx, "ieee", true);
	an_executable *e;
	MIL_OK(ctx, an_compile(d, x.b.f, &e));
	an_executable_free(e);
	const size_t held = m.held;
	an_status status = AN_MEMORY;
	int n = 0;
	for (; status != AN_OK; n++) {
		m.left = n;
		status = an_compile(d, x.b.f, &e);
		m.left = INT64_MAX;
		if (status == AN_OK) {
			assert_int_equal(look(e).packs, 1);
			an_executable_free(e);
		} else {
			assert_int_equal(status, AN_MEMORY);
		}
		assert_int_equal(m.held, held);
	}
	assert_true(n > 5);
	an_device_close(d);
	an_program_free(x.p);
	an_ctx_close(ctx);
	assert_int_equal(m.held, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_shared),          cmocka_unit_test(test_not_alike),
	    cmocka_unit_test(test_written_between), cmocka_unit_test(test_kept),
	    cmocka_unit_test(test_counts),          cmocka_unit_test(test_text),
	    cmocka_unit_test(test_out_of_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
