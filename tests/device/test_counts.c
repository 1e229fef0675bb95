/* Counters: what operations are said to have lost, against a count over their operands and results. */
#include "support/device_support.h"
#include "support/kernel_check.h"

#include "base/half.h"
#include "device/soft/soft.h"

#include <math.h>

/* A product of views of views in batches, and a chain that fuses behind it. */
static const char program_text[] =
    "program(1.3)\n"
    "{\n"
    "func main<ios18>(tensor<fp16, [3, 9, 14]> x, tensor<fp16, [5, 14]> w, tensor<fp16, [3, 9, 5]> s) {\n"
    "bool yes = const()[name = string(\"yes\"), val = bool(true)];\n"
    "tensor<int32, [3]> perm = const()[name = string(\"perm\"), val = tensor<int32, [3]>([0, 2, 1])];\n"
    "tensor<fp16, [3, 14, 9]> turned = transpose(x = x, perm = perm)[name = string(\"turned\")];\n"
    "tensor<int32, [3]> b1 = const()[name = string(\"b1\"), val = tensor<int32, [3]>([0, 2, 0])];\n"
    "tensor<int32, [3]> n1 = const()[name = string(\"n1\"), val = tensor<int32, [3]>([3, 11, 9])];\n"
    "tensor<fp16, [3, 11, 9]> a = slice_by_size(x = turned, begin = b1, size = n1)[name = string(\"a\")];\n"
    "tensor<int32, [2]> b2 = const()[name = string(\"b2\"), val = tensor<int32, [2]>([0, 1])];\n"
    "tensor<int32, [2]> n2 = const()[name = string(\"n2\"), val = tensor<int32, [2]>([5, 11])];\n"
    "tensor<fp16, [5, 11]> b = slice_by_size(x = w, begin = b2, size = n2)[name = string(\"b\")];\n"
    "tensor<fp16, [3, 9, 5]> y = matmul(x = a, y = b, transpose_x = yes, transpose_y = yes)[name = "
    "string(\"y\")];\n"
    "tensor<fp16, [3, 9, 5]> m = mul(x = y, y = s)[name = string(\"m\")];\n"
    "tensor<fp16, [3, 9, 5]> q = square(x = m)[name = string(\"q\")];\n"
    "tensor<fp16, [3, 9, 5]> p = add(x = q, y = s)[name = string(\"p\")];\n"
    "tensor<fp16, [3, 9, 5]> r = relu(x = p)[name = string(\"r\")];\n"
    "} -> (OUTPUTS);\n"
    "}\n";
enum { BATCH = 3, M = 9, K = 11, N = 5, ELEMENTS = BATCH * M * N };

static an_program *parse(an_ctx *ctx, const char *outputs)
{
	an_program *p;
	char text[sizeof program_text + 40];
	const char *at = strstr(program_text, "OUTPUTS");
	snprintf(text, sizeof text, "%.*s%s%s", (int)(at - program_text), program_text, outputs, at + 7);
	MIL_OK(ctx, an_program_parse(ctx, text, strlen(text), "counts", &p));
	return p;
}

/* Numbers of all sizes, zeros among them. */
static void fill(half *x, int64_t n, uint64_t seed)
{
	for (int64_t i = 0; i < n; i++) {
		double u = check_uniform(seed, (uint64_t)i, -1, 1),
		       e = check_uniform(seed + 50, (uint64_t)i, -22, 9);
		x[i] = fabs(u) < 0.1 ? 0 : half_from_double(u * exp2(floor(e)));
	}
}

/* Runs the program and reads counts of its operations by the name of their result. */
typedef struct counted {
	an_counts y, m, q, p, r, views, all;
} counted;

static an_counts counts_of(an_ctx *ctx, const an_executable *e, const an_function *f, const char *name)
{
	an_counts c;
	int op = -1;
	for (int i = 0; i < an_function_ops(f); i++) {
		an_value v;
		an_function_op(f, i, &v);
		if (!strcmp(an_value_name(f, v), name))
			op = i;
	}
	assert_true(op >= 0);
	MIL_OK(ctx, an_executable_counts(e, op, &c));
	return c;
}

/* value: of y, m, q, p, r if all are outputs. */
static counted run(const char *numerics, int threads, bool fusion, bool all, uint64_t seed, half *in[3],
		   half *value[5])
{
	an_ctx *ctx = device_ctx(threads);
	an_program *p = parse(ctx, all ? "y, m, q, p, r" : "r");
	an_function *f = an_program_function(p, NULL);
	an_device *d = device_soft(ctx, numerics, fusion);
	an_call *c = device_call(d, f, 1, -1, 1);
	for (int i = 0; i < 3; i++) {
		int64_t n = an_type_count(&c->exe->ports[i].type);
		fill(device_bytes(c, i), n, seed + (uint64_t)i);
		if (in)
			memcpy(in[i], device_bytes(c, i), (size_t)n * sizeof(half));
	}
	MIL_OK(ctx, an_call_run(c)); /* not counted */
	counted n;
	MIL_OK(ctx, an_executable_counts(c->exe, -1, &n.all));
	assert_true(n.all.results == 0 && n.all.products == 0 && n.all.largest == 0);
	MIL_OK(ctx, an_device_count(d, true));
	MIL_OK(ctx, an_call_run(c));
	MIL_OK(ctx, an_device_count(d, false));
	MIL_OK(ctx, an_call_run(c));
	n = (counted){.y = counts_of(ctx, c->exe, f, "y"),
		      .m = counts_of(ctx, c->exe, f, "m"),
		      .q = counts_of(ctx, c->exe, f, "q"),
		      .p = counts_of(ctx, c->exe, f, "p"),
		      .r = counts_of(ctx, c->exe, f, "r"),
		      .views = counts_of(ctx, c->exe, f, "a")};
	MIL_OK(ctx, an_executable_counts(c->exe, -1, &n.all));
	for (int i = 0; value && i < 5; i++)
		memcpy(value[i], device_bytes(c, 3 + i), ELEMENTS * sizeof(half));
	an_device_close(d);
	an_program_free(p);
	an_ctx_close(ctx);
	return n;
}

static double number(half h) { return half_to_float(h); }

static int exponent(double x)
{
	int e;
	frexp(x, &e);
	return MAX(e - 1, -14);
}

/* y = product of a and b: what "counts" says it counts, from operands and results alone. */
static an_counts expect_product(const half *x, const half *w, const half *y, bool fixed)
{
	an_counts n = {.results = ELEMENTS};
	for (int i = 0; i < ELEMENTS; i++) {
		int batch = i / (M * N), row = i / N % M, column = i % N;
		bool met = false, kept = false;
		double sum = 0;
		for (int k = 0; k < K; k++) {
			double a = number(x[(batch * M + row) * 14 + k + 2]),
			       b = number(w[column * 14 + k + 1]);
			if (a == 0 || b == 0)
				continue;
			/* rule 1 and rule 2 of shared/ane-numerics.md, section 1 */
			bool lost = fixed && (exponent(a) + exponent(b) < -16 || fabs(a * b) < 0x1p-17);
			n.products++;
			n.lost += lost;
			met = true;
			kept |= !lost;
			sum += a * b;
		}
		double z = fabs(number(y[i]));
		n.overflowed += z == INFINITY;
		n.vanished += z == 0 && (fixed ? met && !kept : sum != 0);
		n.largest = isfinite(z) ? fmax(n.largest, z) : n.largest;
	}
	return n;
}

/* z = x y elementwise, or with `sum` something that cannot vanish. */
static an_counts expect_elements(const half *x, const half *y, const half *z, bool sum)
{
	an_counts n = {.results = ELEMENTS};
	for (int i = 0; i < ELEMENTS; i++) {
		double a = number(x[i]), b = number(y[i]), c = fabs(number(z[i]));
		bool finite = isfinite(a) && isfinite(b);
		n.overflowed += finite && c == INFINITY;
		n.vanished += !sum && finite && c == 0 && a != 0 && b != 0;
		n.largest = isfinite(c) ? fmax(n.largest, c) : n.largest;
	}
	return n;
}

static void same(const char *what, const an_counts *got, const an_counts *want)
{
	if (got->products != want->products || got->lost != want->lost || got->results != want->results ||
	    got->overflowed != want->overflowed || got->vanished != want->vanished ||
	    got->largest != want->largest)
		fail_msg("%s: products %lld lost %lld results %lld overflowed %lld vanished %lld largest %g, "
			 "expected "
			 "%lld %lld %lld %lld %lld %g",
			 what, (long long)got->products, (long long)got->lost, (long long)got->results,
			 (long long)got->overflowed, (long long)got->vanished, got->largest,
			 (long long)want->products, (long long)want->lost, (long long)want->results,
			 (long long)want->overflowed, (long long)want->vanished, want->largest);
}

static void counts_are_those_of_every_element(void **state)
{
	(void)state;
	an_counts seen = {0};
	for (uint64_t seed = 1; seed <= 6; seed++)
		for (int chip = 0; chip < 2; chip++) {
			const char *numerics = chip ? "m4" : "ieee";
			half x[BATCH * M * 14], w[N * 14], s[ELEMENTS], v[5][ELEMENTS];
			half *in[] = {x, w, s}, *value[] = {v[0], v[1], v[2], v[3], v[4]};
			counted n = run(numerics, 1, false, true, 10 * seed, in, value);
			an_counts y = expect_product(x, w, v[0], chip),
				  m = expect_elements(v[0], s, v[1], false),
				  q = expect_elements(v[1], v[1], v[2], false),
				  p = expect_elements(v[2], s, v[3], true),
				  r = expect_elements(v[3], v[3], v[4], true);
			same("matmul", &n.y, &y);
			same("mul", &n.m, &m);
			same("square", &n.q, &q);
			same("add", &n.p, &p);
			same("relu", &n.r, &r);
			same("views", &n.views, &(an_counts){0});
			const an_counts *parts[] = {&y, &m, &q, &p, &r};
			an_counts all = {0};
			for (int i = 0; i < 5; i++)
				dev_add_counts(&all, parts[i]);
			same("all", &n.all, &all);
			dev_add_counts(&seen, &all);
			assert_true(chip ? y.lost > 0 : y.lost == 0);
			/* fused, with one output, in threads: the same operations, the same counts */
			for (int threads = 1; threads <= 3; threads += 2) {
				counted f = run(numerics, threads, true, false, 10 * seed, NULL, NULL);
				same("fused matmul", &f.y, &n.y);
				same("fused mul", &f.m, &n.m);
				same("fused square", &f.q, &n.q);
				same("fused add", &f.p, &n.p);
				same("fused relu", &f.r, &n.r);
			}
		}
	assert_true(seen.overflowed > 0 && seen.vanished > 0); /* the inputs try everything */
}

/* layer_norm's results are counted though it is several kernel calls; a constant is nobody's work. */
static void composites_count_and_constants_do_not(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_program *p;
	an_function *f;
	an_counts c;
	MIL_OK(ctx, an_program_new(ctx, &p));
	MIL_OK(ctx, an_function_new(p, "main", &f));
	an_builder b = an_builder_on(f);
	an_value x = an_input(&b, "x", an_tensor(AN_FP16, 2, (int32_t[]){4, 33})), y;
	an_value twice = an_add(&b, an_scalar(&b, AN_FP16, 1), an_scalar(&b, AN_FP16, 1));
	an_arg args[] = {{"x", AN_ARG_VALUE, 0, {.value = x}},
			 {"axes", AN_ARG_INTS, 1, {.ints = (int32_t[]){1}}}};
	MIL_OK(ctx, an_emit(&b, OP_LAYER_NORM, "normed", args, 2, &y, 1));
	an_output(&b, an_mul(&b, y, twice));
	MIL_OK(ctx, an_builder_finish(&b));
	an_device *d = device_soft(ctx, "ieee", true);
	an_call *call = device_call(d, f, 1, -1, 1);
	MIL_OK(ctx, an_device_count(d, true));
	MIL_OK(ctx, an_call_run(call));
	for (int i = 0; i < an_function_ops(f); i++) {
		an_value v;
		an_opcode op = an_function_op(f, i, &v);
		MIL_OK(ctx, an_executable_counts(call->exe, i, &c));
		if (op == OP_LAYER_NORM)
			assert_true(c.results >= 4 * 33 && c.largest > 1);
		else
			assert_int_equal(c.results, op == OP_MUL ? 4 * 33 : 0);
	}
	MIL_OK(ctx, an_call_run(call)); /* adds up */
	MIL_OK(ctx, an_executable_counts(call->exe, an_function_ops(f) - 1, &c));
	assert_int_equal(c.results, 2 * 4 * 33);
	an_executable_reset_counts(call->exe);
	MIL_OK(ctx, an_executable_counts(call->exe, -1, &c));
	assert_true(c.results == 0 && c.largest == 0);
	assert_int_equal(an_executable_counts(call->exe, an_function_ops(f), &c), AN_USAGE);
	assert_int_equal(an_executable_counts(call->exe, -2, &c), AN_USAGE);
	assert_int_equal(an_function_op(f, an_function_ops(f), NULL), -1);
	an_device_close(d);
	an_program_free(p);
	an_ctx_close(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(counts_are_those_of_every_element),
	    cmocka_unit_test(composites_count_and_constants_do_not),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
