/* The device interface: names and types are checked, memory is shared and counted, equal functions
 * compile once, and outputs may be bound over inputs. */
#include "support/device_support.h"

#include "base/half.h"
#include "device/soft/soft.h"

static const char add_text[] = "program(1.3)\n{\n"
			       "  func main<ios18>(tensor<fp16, [2, 3]> x, tensor<fp16, [2, 3]> y) {\n"
			       "    tensor<fp16, [2, 3]> sum = add(x = x, y = y)[name = string(\"sum\")];\n"
			       "    tensor<fp16, [2, 3]> gap = sub(x = sum, y = y)[name = string(\"gap\")];\n"
			       "  } -> (sum, gap);\n}\n";

static an_program *parse(an_ctx *ctx, const char *text)
{
	an_program *p;
	MIL_OK(ctx, an_program_parse(ctx, text, strlen(text), "test.mil", &p));
	return p;
}

static void assert_message(an_ctx *ctx, const char *word)
{
	if (!strstr(an_message(ctx), word))
		fail_msg("the message \"%s\" does not mention \"%s\"", an_message(ctx), word);
}

static void test_open(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_device *d;
	assert_int_equal(an_device_open(ctx, &(an_device_options){.name = "hard"}, &d), AN_USAGE);
	assert_null(d);
	assert_message(ctx, "\"soft\"");
	assert_int_equal(an_device_open(ctx, &(an_device_options){.numerics = "quick"}, &d), AN_USAGE);
	assert_message(ctx, "ieee, fast, m1");
	MIL_OK(ctx, an_device_open(ctx, NULL, &d));
	an_device_info info;
	an_device_get_info(d, &info);
	assert_string_equal(info.name, "soft");
	assert_string_equal(info.numerics, "ieee");
	an_device *other;
	MIL_OK(ctx,
	       an_device_open(ctx, &(an_device_options){.numerics = "m4,zero=signed,nan=infinity"}, &other));
	an_device_get_info(other, &info);
	assert_string_equal(info.numerics, "m4,zero=signed");
	an_device_close(other);
	an_device_get_info(d, &info);
	assert_int_equal(info.threads, 1);
	assert_int_equal(info.compiles_left, -1);
	an_device_close(d);
	an_device_close(NULL);
	an_ctx_close(ctx);
}

/* 3 i^2, for up to 8 values */
static const float *squares(void *arg, int64_t i, int64_t m)
{
	static float at[8];
	for (int64_t j = i; j < i + m; j++)
		at[j] = (float)(*(int *)arg * j * j);
	return at + i;
}

static void test_buffers(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_device *d = device_soft(ctx, "ieee", true);
	an_type matrix = an_tensor(AN_FP16, 2, (int32_t[]){4, 3}),
		row = an_tensor(AN_FP16, 1, (int32_t[]){3});
	an_buffer *b, *v, *w;
	MIL_OK(ctx, an_buffer_new(d, &matrix, &b));
	half *x = an_buffer_map(b);
	for (int i = 0; i < 12; i++)
		assert_int_equal(x[i], 0);
	float values[6] = {1, 2.5f, -3, 65520, 1e-8f, 0.1f};
	MIL_OK(ctx, an_buffer_update_from_f32(b, 2, 6, values));
	for (int i = 0; i < 6; i++)
		assert_int_equal(x[2 + i], half_from_float(values[i]));
	MIL_OK(ctx, an_buffer_update(b, 4, 8, squares, &(int){3}));
	for (int i = 0; i < 8; i++)
		assert_int_equal(x[4 + i], half_from_float((float)(3 * i * i)));
	assert_int_equal(x[3], half_from_float(values[1]));
	assert_int_equal(an_buffer_update(b, 4, 9, squares, &(int){3}), AN_USAGE);
	assert_int_equal(an_buffer_update_from_f32(b, 8, 5, values), AN_USAGE);
	assert_int_equal(an_buffer_update_from_f32(b, -1, 1, values), AN_USAGE);

	MIL_OK(ctx, an_buffer_view(b, &row, 6, &v)); /* row 1 */
	MIL_OK(ctx, an_buffer_view(v, &row, 0, &w)); /* a view of a view */
	an_buffer_free(b);
	an_buffer_free(v);
	assert_ptr_equal(an_buffer_map(w), x + 3); /* the memory is still there */
	assert_int_equal(an_buffer_view(w, &row, 2, &v), AN_USAGE);
	assert_message(ctx, "does not fit");
	assert_int_equal(an_buffer_view(w, &row, 1, &v), AN_USAGE);
	assert_message(ctx, "multiple");
	an_buffer_free(w);

	an_type bad = matrix;
	bad.dim[1] = 0;
	assert_int_equal(an_buffer_new(d, &bad, &b), AN_USAGE);
	bad = an_tensor(AN_STRING, 0, NULL);
	assert_int_equal(an_buffer_new(d, &bad, &b), AN_USAGE);
	bad = an_tensor(AN_FP32, 5, (int32_t[]){INT32_MAX, INT32_MAX, INT32_MAX, 1, 1});
	assert_int_equal(an_buffer_new(d, &bad, &b), AN_MEMORY);
	an_type ints = an_tensor(AN_INT32, 1, (int32_t[]){3});
	MIL_OK(ctx, an_buffer_new(d, &ints, &b));
	assert_int_equal(an_buffer_update_from_f32(b, 0, 1, values), AN_USAGE);
	an_device_close(d); /* frees b */
	an_ctx_close(ctx);
}

static void test_binding(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_device *d = device_soft(ctx, "ieee", true), *other = device_soft(ctx, "ieee", true);
	an_program *p = parse(ctx, add_text);
	an_executable *e;
	an_call *c;
	an_buffer *right, *wrong, *foreign;
	MIL_OK(ctx, an_compile(d, an_program_function(p, NULL), &e));
	an_program_free(p); /* the executable needs nothing of it */
	an_type type;
	assert_string_equal(an_executable_input(e, 1, &type), "y");
	assert_int_equal(type.dim[1], 3);
	assert_string_equal(an_executable_output(e, 1, NULL), "gap");
	assert_null(an_executable_output(e, 2, NULL));
	assert_null(an_executable_input(e, -1, NULL));
	MIL_OK(ctx, an_call_new(e, &c));
	an_executable_free(e); /* the call keeps it */
	an_type t = an_tensor(AN_FP16, 2, (int32_t[]){2, 3}), u = an_tensor(AN_FP16, 2, (int32_t[]){3, 2});
	MIL_OK(ctx, an_buffer_new(d, &t, &right));
	MIL_OK(ctx, an_buffer_new(d, &u, &wrong));
	MIL_OK(ctx, an_buffer_new(other, &t, &foreign));
	assert_int_equal(an_call_bind(c, "z", right), AN_USAGE);
	assert_message(ctx, "inputs x, y; outputs sum, gap");
	assert_int_equal(an_call_bind(c, "x", wrong), AN_USAGE);
	assert_message(ctx, "tensor<fp16, [2, 3]>");
	assert_message(ctx, "tensor<fp16, [3, 2]>");
	assert_int_equal(an_call_bind(c, "x", foreign), AN_USAGE);
	MIL_OK(ctx, an_call_bind(c, "x", right));
	MIL_OK(ctx, an_call_bind(c, "y", right));
	MIL_OK(ctx, an_call_bind(c, "sum", right));
	assert_int_equal(an_call_run(c), AN_USAGE);
	assert_message(ctx, "\"gap\"");
	MIL_OK(ctx, an_call_bind(c, "gap", right));
	assert_int_equal(an_call_run(c), AN_USAGE); /* both outputs in one place */
	assert_message(ctx, "same memory");
	an_call_free(c);
	an_device_close(d);
	an_device_close(other);
	an_ctx_close(ctx);
}

static int executables(const an_device *d)
{
	int n = 0;
	for (const an_executable *e = d->executables; e; e = e->next)
		n++;
	return n;
}

static void test_cache(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_device *d = device_soft(ctx, "ieee", true);
	an_executable *e[3];
	/* the same function from another program, with other names inside */
	char text[sizeof add_text + 64];
	strcpy(text, add_text);
	for (char *s = text; (s = strstr(s, "string(\"sum\")"));)
		memcpy(s, "string(\"SUM\")", 13);
	an_program *p = parse(ctx, add_text), *q = parse(ctx, text);
	MIL_OK(ctx, an_compile(d, an_program_function(p, NULL), &e[0]));
	MIL_OK(ctx, an_compile(d, an_program_function(q, NULL), &e[1]));
	assert_ptr_equal(e[0], e[1]);
	an_program_free(q);
	/* another constant is another function */
	static const char *const scales[] = {"0x1p+1", "0x1p+2", "0x1p+1"};
	an_executable *s[3];
	for (int i = 0; i < 3; i++) {
		snprintf(text, sizeof text,
			 "program(1.3)\n{ func main<ios18>(tensor<fp16, [2]> x) { fp16 k = const()[name = "
			 "string(\"k\"), val = fp16(%s)];\n",
			 scales[i]);
		char whole[600];
		snprintf(whole, sizeof whole,
			 "%s tensor<fp16, [2]> y = mul(x = x, y = k)[name = string(\"y\")]; } -> (y); }\n",
			 text);
		q = parse(ctx, whole);
		MIL_OK(ctx, an_compile(d, an_program_function(q, NULL), &s[i]));
		an_program_free(q);
	}
	assert_ptr_not_equal(s[0], s[1]);
	assert_ptr_equal(s[0], s[2]);
	assert_int_equal(executables(d), 3);
	an_executable_free(e[0]);
	assert_int_equal(executables(d), 3); /* e[1] is still owned */
	an_executable_free(e[1]);
	assert_int_equal(executables(d), 2);
	MIL_OK(ctx, an_compile(d, an_program_function(p, NULL), &e[2]));
	assert_int_equal(executables(d), 3);
	an_program_free(p);
	an_device_close(d);
	an_ctx_close(ctx);
}

/* gap = (x + y) - y with every way of sharing memory between an input and an output. */
static void test_aliases(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_device *d = device_soft(ctx, "ieee", true);
	an_program *p = parse(ctx, add_text);
	an_executable *e;
	MIL_OK(ctx, an_compile(d, an_program_function(p, NULL), &e));
	an_type t = an_tensor(AN_FP16, 2, (int32_t[]){2, 3}), whole = an_tensor(AN_FP16, 1, (int32_t[]){30});
	for (int round = 0; round < 9; round++) {
		/* places of x, y, sum, gap in one buffer, in elements; partly over each other */
		static const int place[9][4] = {{0, 6, 0, 6},  {0, 6, 6, 0},  {0, 0, 12, 0},
						{0, 6, 12, 3}, {3, 9, 0, 12}, {0, 6, 3, 12},
						{5, 0, 1, 7},  {0, 0, 0, 6},  {0, 12, 6, 18}};
		an_buffer *all, *view[4];
		an_call *c;
		MIL_OK(ctx, an_buffer_new(d, &whole, &all));
		MIL_OK(ctx, an_call_new(e, &c));
		half *data = an_buffer_map(all);
		device_fill(&whole, data, 7, (uint64_t)round, -8, 8);
		static const char *const names[] = {"x", "y", "sum", "gap"};
		for (int i = 0; i < 4; i++) {
			MIL_OK(ctx, an_buffer_view(all, &t, (size_t)place[round][i] * 2, &view[i]));
			MIL_OK(ctx, an_call_bind(c, names[i], view[i]));
			an_buffer_free(view[i]);
		}
		half sum[6], gap[6];
		for (int i = 0; i < 6; i++) {
			float x = half_to_float(data[place[round][0] + i]),
			      y = half_to_float(data[place[round][1] + i]);
			sum[i] = half_from_float(x + y);
			gap[i] = half_from_float(half_to_float(sum[i]) - y);
		}
		MIL_OK(ctx, an_call_run(c));
		assert_memory_equal(data + place[round][2], sum, sizeof sum);
		assert_memory_equal(data + place[round][3], gap, sizeof gap);
		an_call_free(c);
		an_buffer_free(all);
	}
	an_program_free(p);
	an_device_close(d);
	an_ctx_close(ctx);
}

/* Outputs that are an input, a view of one, each other, or a constant. */
static void test_copied_outputs(void **state)
{
	(void)state;
	static const char text[] =
	    "program(1.3)\n{\n"
	    "  func main<ios18>(tensor<fp16, [2, 3]> x) {\n"
	    "    tensor<int32, [2]> perm = const()[name = string(\"perm\"), val = tensor<int32, [2]>([1, "
	    "0])];\n"
	    "    tensor<fp16, [2]> k = const()[name = string(\"k\"), val = tensor<fp16, [2]>([0x1p+0, "
	    "0x1.8p+1])];\n"
	    "    tensor<fp16, [2, 3]> same = identity(x = x)[name = string(\"same\")];\n"
	    "    tensor<fp16, [3, 2]> t = transpose(perm = perm, x = x)[name = string(\"t\")];\n"
	    "    tensor<fp16, [2, 3]> y = exp(x = x)[name = string(\"y\")];\n"
	    "    tensor<fp16, [3, 2]> u = transpose(perm = perm, x = y)[name = string(\"u\")];\n"
	    "    tensor<fp16, [2]> twice = add(x = k, y = k)[name = string(\"twice\")];\n"
	    "  } -> (same, t, y, u, k, twice);\n}\n";
	an_ctx *ctx = device_ctx(1);
	an_program *p = parse(ctx, text);
	device_check(ctx, "ieee", an_program_function(p, NULL), 5, -2, 2, true);
	device_check(ctx, "fast", an_program_function(p, NULL), 5, -2, 2, true);
	an_program_free(p);
	an_ctx_close(ctx);
}

static void test_ambiguous_name(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_device *d = device_soft(ctx, "ieee", true);
	an_program *p;
	an_function *f;
	an_executable *e;
	MIL_OK(ctx, an_program_new(ctx, &p));
	MIL_OK(ctx, an_function_new(p, "main", &f));
	an_builder b = an_builder_on(f);
	an_output(&b, an_input(&b, "x", an_tensor(AN_FP16, 1, (int32_t[]){2})));
	if (an_builder_finish(&b) == AN_OK) {
		assert_int_equal(an_compile(d, f, &e), AN_DEVICE);
		assert_message(ctx, "identity");
	}
	an_program_free(p);
	an_device_close(d);
	an_ctx_close(ctx);
}

/* ---- Memory that runs out ------------------------------------------------------------- */

/* A norm, a product with a folded constant, a softmax, a concatenation: every stage has something to do. */
static const char stages_text[] =
    "program(1.3)\n{\n"
    "  func main<ios18>(tensor<fp16, [4, 6]> x) {\n"
    "    fp16 two = const()[name = string(\"two\"), val = fp16(0x1p+1)];\n"
    "    bool no = const()[name = string(\"no\"), val = bool(false)];\n"
    "    bool yes = const()[name = string(\"yes\"), val = bool(true)];\n"
    "    int32 axis = const()[name = string(\"axis\"), val = int32(-1)];\n"
    "    tensor<int32, [1]> axes = const()[name = string(\"axes\"), val = tensor<int32, [1]>([1])];\n"
    "    tensor<fp16, [2]> k = const()[name = string(\"k\"), val = tensor<fp16, [2]>([0x1p+0, 0x1p+1])];\n"
    "    tensor<fp16, [2]> kk = mul(x = k, y = k)[name = string(\"kk\")];\n"
    "    tensor<fp16, [4, 6]> a = mul(x = x, y = two)[name = string(\"a\")];\n"
    "    tensor<fp16, [4, 1]> m = reduce_mean(axes = axes, keep_dims = yes, x = a)[name = string(\"m\")];\n"
    "    tensor<fp16, [4, 6]> d = sub(x = a, y = m)[name = string(\"d\")];\n"
    "    tensor<fp16, [4, 4]> p = matmul(transpose_x = no, transpose_y = yes, x = d, y = x)[name = "
    "string(\"p\")];\n"
    "    tensor<fp16, [4, 4]> s = softmax(axis = axis, x = p)[name = string(\"s\")];\n"
    "    tensor<fp16, [4, 10]> c = concat(axis = axis, interleave = no, values = (d, s))[name = "
    "string(\"c\")];\n"
    "  } -> (c, kk);\n}\n";

/* Parses, compiles and runs; whatever fails must say so and leave nothing behind. */
static an_status attempt(an_ctx *ctx, half *out)
{
	an_device *d;
	an_program *p;
	an_executable *e;
	an_call *c;
	TRY(an_program_parse(ctx, stages_text, sizeof stages_text - 1, "test.mil", &p));
	an_status s = an_device_open(ctx, NULL, &d);
	if (s != AN_OK) {
		an_program_free(p);
		return s;
	}
	if ((s = an_compile(d, an_program_function(p, NULL), &e)) == AN_OK &&
	    (s = an_call_new(e, &c)) == AN_OK) {
		for (int i = 0; s == AN_OK && i < 3; i++) {
			an_buffer *b;
			if ((s = an_buffer_new(d, &e->ports[i].type, &b)) != AN_OK)
				break;
			if (i == 0)
				device_fill(&e->ports[i].type, an_buffer_map(b), 1, 1, -1, 1);
			s = an_call_bind(c, e->ports[i].name, b);
			an_buffer_free(b);
		}
		if (s == AN_OK)
			s = an_call_run(c);
		if (s == AN_OK)
			memcpy(out, device_bytes(c, 1), 40 * sizeof *out);
	}
	an_program_free(p);
	an_device_close(d);
	return s;
}

static void test_out_of_memory(void **state)
{
	(void)state;
	half want[40], got[40];
	an_ctx *ctx = device_ctx(1);
	MIL_OK(ctx, attempt(ctx, want));
	an_ctx_close(ctx);
	int failures = 0;
	for (long n = 0;; n++) {
		device_meter m = {.left = n};
		an_status s = device_metered(&m, 1, &ctx);
		if (s == AN_OK) {
			s = attempt(ctx, got);
			an_ctx_close(ctx);
		}
		assert_int_equal(m.held, 0);
		if (s == AN_OK)
			break;
		assert_int_equal(s, AN_MEMORY);
		failures++;
	}
	assert_memory_equal(got, want, sizeof want);
	assert_true(failures > 20);
}

static void test_text(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_device *d = device_soft(ctx, "ieee", true);
	an_program *p = parse(ctx, stages_text);
	an_executable *e;
	char *text;
	size_t len;
	MIL_OK(ctx, an_compile(d, an_program_function(p, NULL), &e));
	MIL_OK(ctx, an_executable_text(e, &text, &len));
	assert_int_equal(strlen(text), len);
	assert_non_null(strstr(text, "192 flops")); /* 2 * 4 * 4 * 6 */
	assert_non_null(strstr(text, "matmul p"));
	assert_non_null(strstr(text, "softmax s"));
	an_text_free(ctx, text, len);
	an_program_free(p);
	an_device_close(d);
	an_ctx_close(ctx);
}

/* Sizes that no memory has are refused before anything is computed with them. */
static void test_too_large(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_device *d = device_soft(ctx, "ieee", true);
	an_program *p;
	an_function *f;
	an_executable *e;
	MIL_OK(ctx, an_program_new(ctx, &p));
	MIL_OK(ctx, an_function_new(p, "main", &f));
	an_builder b = an_builder_on(f);
	/* every value of the program fits, the windows of the convolution do not */
	an_value x = an_input(&b, "x", an_tensor(AN_FP16, 4, (int32_t[]){1, 1, 1 << 14, 1 << 14}));
	an_value w = an_input(&b, "w", an_tensor(AN_FP16, 4, (int32_t[]){1, 1, 128, 128})), y = AN_NO_VALUE;
	an_arg args[] = {{"x", AN_ARG_VALUE, 1, {.value = x}}, {"weight", AN_ARG_VALUE, 1, {.value = w}}};
	MIL_OK(ctx, an_emit(&b, OP_CONV, NULL, args, 2, &y, 1));
	an_output(&b, y);
	MIL_OK(ctx, an_builder_finish(&b));
	assert_int_equal(an_compile(d, f, &e), AN_DEVICE);
	assert_message(ctx, "2^40");
	an_program_free(p);
	an_device_close(d);
	an_ctx_close(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_open),           cmocka_unit_test(test_buffers),
	    cmocka_unit_test(test_binding),        cmocka_unit_test(test_cache),
	    cmocka_unit_test(test_aliases),        cmocka_unit_test(test_copied_outputs),
	    cmocka_unit_test(test_ambiguous_name), cmocka_unit_test(test_out_of_memory),
	    cmocka_unit_test(test_text),           cmocka_unit_test(test_too_large),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
