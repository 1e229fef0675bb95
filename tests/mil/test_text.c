/* MIL text: what parses, what is said about what does not, and that size does not matter. */
#include "support/mil_support.h"

#define HEAD "program(1.3)\n{\nfunc main<ios18>(tensor<fp16, [2, 3]> x, tensor<fp16, [3, 4]> w) {\n"
#define TAIL "\n} -> (y);\n}\n"

static an_status parse(an_ctx *ctx, const char *text, an_program **p)
{
	return an_program_parse(ctx, text, strlen(text), "t", p);
}

static char *print(an_ctx *ctx, const an_program *p)
{
	char *text;
	size_t len;
	MIL_OK(ctx, an_program_print(p, &text, &len));
	assert_int_equal(strlen(text), len);
	return text;
}

/* ---- What parses --------------------------------------------------------------------- */

static void text_and_program_agree(void **state)
{
	(void)state;
	static const char *const texts[] = {
	    /* bare scalars, typed and bare inline literals, several results, comments, no blanks */
	    HEAD "tensor<fp16,[2,2]>a,tensor<fp16,[2,1]>b=split(x=x,axis=int32(1),split_sizes=[2,1])[name="
		 "string(\"s\")];// c\n"
		 "tensor<fp16, [2, 3]> y = concat(values = (a, b), axis = -1, interleave = false)[name = "
		 "string(\"other name\")];" TAIL,
	    /* rank-0 tensors of MIL 1.0 and its build information */
	    "program(1.0)\n[buildInfo = dict<tensor<string, []>, tensor<string, []>>({{\"k\", \"v\"}, "
	    "{\"q\\\"\", \"\"}})]\n"
	    "{ func main<ios16>(tensor<fp32, [4]> x) {\n"
	    "tensor<string, []> d = const()[name = tensor<string, []>(\"d\"), val = tensor<string, "
	    "[]>(\"fp16\")];\n"
	    "tensor<fp16, [4]> h = cast(dtype = d, x = x)[name = tensor<string, []>(\"h\")];\n"
	    "tensor<fp16, []> s = reduce_sum(x = h)[name = tensor<string, []>(\"s\")];\n"
	    "tensor<fp16, [4]> c = const()[name = tensor<string, []>(\"c\"), val = tensor<fp16, "
	    "[4]>(BLOBFILE(path = "
	    "tensor<string, []>(\"@model_path/weights/w.bin\"), offset = tensor<uint64, []>(64)))];\n"
	    "tensor<fp16, [4]> y = mul(x = c, y = s)[name = tensor<string, []>(\"y\")];\n} -> (y, s); }",
	    /* several functions, an input returned as it is, no name attribute */
	    "program(1.3){func a<ios15>(tensor<bool,[1]> x){}->(x);func b<ios26>(int32 x){int32 "
	    "y=identity(x=x);}->(y,x);}",
	    /* everything a constant can be */
	    HEAD
	    "tensor<fp16, [3]> a = const()[val = tensor<fp16, [3]>([nan, nan(0x7d01), -inf])];\n"
	    "tensor<uint8, [2, 1, 2]> b = const()[val = tensor<uint8, [2, 1, 2]>([[[0, 255]], [[1, 2]]])];\n"
	    "tensor<bool, [2, 2]> c = const()[val = tensor<bool, [2, 2]>([true, false, false, true])];\n"
	    "tensor<string, [2]> d = const()[val = tensor<string, [2]>([\"a;b}\\\\\", "
	    "\"\\x01\\t\xc3\xa4\"])];\n"
	    "int64 e = const()[val = int64(-9223372036854775808)];\n"
	    "uint64 f = const()[val = uint64(0xffffffffffffffff)];\n"
	    "tensor<int8, [2]> g = constexpr_affine_dequantize()[axis = int32(0), name = string(\"g\"), "
	    "scale = fp16(0.5), "
	    "quantized_data = tensor<int8, [2]>([1, -1]), zero_point = int8(0)];\n"
	    "bf16 h = const()[val = bf16(0x1.02p+100)];\n"
	    "tensor<fp16, [2, 3]> y = relu(x = x);" TAIL};
	an_ctx *ctx = mil_open();
	for (int i = 0; i < LENGTH(texts); i++) {
		an_program *p, *q;
		char fixed[3000], *at;
		snprintf(fixed, sizeof fixed, "%s", texts[i]);
		if ((at = strstr(fixed, "tensor<int8, [2]> g"))) /* dequantized, it is fp16 */
			memcpy(at, "tensor<fp16, [2]> g", 19);
		MIL_OK(ctx, parse(ctx, fixed, &p));
		char *once = print(ctx, p);
		MIL_OK(ctx, parse(ctx, once, &q));
		const char *d = mil_difference(p, q);
		if (d)
			fail_msg("%s\n%s", d, once);
		char *twice = print(ctx, q);
		assert_string_equal(once, twice);
		an_text_free(ctx, once, strlen(once));
		an_text_free(ctx, twice, strlen(twice));
		an_program_free(p);
		an_program_free(q);
	}
	an_ctx_close(ctx);
}

static void values_keep_their_bits(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	an_program *p;
	MIL_OK(
	    ctx,
	    parse(ctx,
		  HEAD
		  "tensor<fp16, [2, 2]> a = const()[val = tensor<fp16, [2, 2]>([[0x1p-24, -0x0p+0], [1e-05, "
		  "nan(0x7d01)]])];\n string s = const()[val = string(\"a\\\"\\\\\\n\\x7f\")];"
		  "tensor<fp16, [2, 3]> y = pow(x = x, y = 0.1)[name = string(\"power\")];" TAIL,
		  &p));
	const an_function *f = an_program_function(p, "main");
	static const uint16_t bits[4] = {1, 0x8000, 0x00a8, 0x7d01};
	assert_memory_equal(fn_const(f, an_function_find(f, "a"))->bytes, bits, sizeof bits);
	assert_string_equal(fn_const(f, an_function_find(f, "s"))->strings[0], "a\"\\\n\x7f");
	/* the inline 0.1 became a constant of x's type */
	const mil_op *pow = &f->ops[f->nops - 1];
	const mil_literal *l = fn_const(f, fn_arg_value(f, pow, "y"));
	assert_int_equal(l->type.dtype, AN_FP16);
	assert_int_equal(*(const uint16_t *)l->bytes, 0x2e66);
	/* the name attribute is not the variable */
	assert_string_equal(pow->name, "power");
	assert_string_equal(an_value_name(f, pow->results[0]), "y");
	assert_int_equal(pow->line, 5);
	an_program_free(p);
	/* a name we gave to an inline literal yields to one in the text */
	MIL_OK(ctx,
	       parse(ctx,
		     HEAD
		     "tensor<fp16, [2, 3]> y = pow(x = x, y = 2);\n fp16 y_y = const()[val = fp16(3)];" TAIL,
		     &p));
	f = an_program_function(p, NULL);
	assert_true(lit_number(fn_const(f, an_function_find(f, "y_y")), 0) == 3);
	MIL_OK(ctx, an_program_verify(p));
	an_program_free(p);
	an_ctx_close(ctx);
}

/* ---- What does not ------------------------------------------------------------------- */

typedef struct error_case {
	const char *text;  /* between HEAD and TAIL; starts at line 4 */
	const char *first; /* first line of the message */
	int count;         /* of errors */
	an_status status;
} error_case;

static const error_case errors[] = {
    /* syntax */
    {"tensor<fp16, [2, 3]> y = relu(x = x)", "t:4:37: error: expected ';', found '}'", 1, AN_SYNTAX},
    {"tensor<fp16, [2, 3]> y = relu(x = x;", "t:4:36: error: expected ')', found ';'", 1, AN_SYNTAX},
    {"tensor<fp16, [2, 3]> y relu(x = x);", "t:4:24: error: expected '=', found 'relu'", 1, AN_SYNTAX},
    {"tensor<fp16 [2, 3]> y = relu(x = x);", "t:4:13: error: expected ',', found '['", 1, AN_SYNTAX},
    {"tensor<fp17, [2, 3]> y = relu(x = x);",
     "t:4:8: error: expected an element type such as fp16 or int32, found 'fp17'", 1, AN_SYNTAX},
    {"tensor<fp16, [2, 3]> y = relu(x = x)[name = string(\"y];",
     "t:4:52: error: this string has no end on its line", 1, AN_SYNTAX},
    {"tensor<fp16, [2, 3]> y = relu(x = $);", "t:4:35: error: expected a value, found '$'", 1, AN_SYNTAX},
    {"tensor<fp16, [2, 3]> y = relu(x = \x01);", "t:4:35: error: expected a value, found the byte 0x01", 1,
     AN_SYNTAX},
    {"\ttensor<fp16, [2, 3]> y = relu(x = x)[];\n\n  fp16 c = const()[val = fp16(1x)];",
     "t:6:31: error: expected a number, found '1x'", 1, AN_SYNTAX},
    {"fp16 c = const()[val = string(\"\\q\")]; tensor<fp16, [2, 3]> y = relu(x = x);",
     "t:4:32: error: unknown escape in a string", 1, AN_SYNTAX},
    {"fp16 c = const()[val = fp16()]; tensor<fp16, [2, 3]> y = relu(x = x);",
     "t:4:29: error: expected a number, found ')'", 1, AN_SYNTAX},
    {"bool c = const()[val = bool(1)]; tensor<fp16, [2, 3]> y = relu(x = x);",
     "t:4:29: error: expected true or false, found '1'", 1, AN_SYNTAX},
    {"fp16 c = const()[val = fp16(BLOBFILE(path = string(\"a\")))]; tensor<fp16, [2, 3]> y = relu(x = x);",
     "t:4:29: error: BLOBFILE needs path and offset", 1, AN_SYNTAX},
    {"fp16 c = const()[val = fp16(BLOBFILE(path = int32(3), offset = uint64(64)))]; tensor<fp16, [2, 3]> y = "
     "relu(x = x);",
     "t:4:45: error: expected path = string(...) and offset = uint64(...)", 1, AN_SYNTAX},

    /* literals and their types */
    {"tensor<int32, [2]> s = const()[val = tensor<int32, [2]>([1, 2, 3])]; tensor<fp16, [2, 3]> y = relu(x = "
     "x);",
     "t:4:64: error: more than the 2 values of the type", 1, AN_TYPE},
    {"tensor<int32, [2]> s = const()[val = tensor<int32, [2]>([1])]; tensor<fp16, [2, 3]> y = relu(x = x);",
     "t:4:59: error: this list has 1 values, axis 0 has length 2", 1, AN_TYPE},
    {"tensor<int32, [2, 2]> s = const()[val = tensor<int32, [2, 2]>([1, 2, 3])]; tensor<fp16, [2, 3]> y = "
     "relu(x = x);",
     "t:4:63: error: 3 values, but the type has 4", 1, AN_TYPE},
    {"tensor<int32, [2, 2]> s = const()[val = tensor<int32, [2, 2]>([[1, 2], 3])]; tensor<fp16, [2, 3]> y = "
     "relu(x = x);",
     "t:4:72: error: this list is not nested as the axes of its type are", 1, AN_TYPE},
    {"tensor<int32, [2]> s = const()[val = tensor<int32, [2]>([[1, 2]])]; tensor<fp16, [2, 3]> y = relu(x = "
     "x);",
     "t:4:58: error: this list is nested deeper than the 1 axis of its type", 1, AN_TYPE},
    {"int8 s = const()[val = int8(200)]; tensor<fp16, [2, 3]> y = relu(x = x);",
     "t:4:29: error: '200' does not fit into int8", 1, AN_TYPE},
    {"int8 s = const()[val = int8(2.5)]; tensor<fp16, [2, 3]> y = relu(x = x);",
     "t:4:29: error: expected an integer for int8, found '2.5'", 1, AN_TYPE},
    {"tensor<fp16, [0, 3]> y = relu(x = x);",
     "t:4:15: error: expected a dimension from 1 to 2147483647, found '0'", 1, AN_TYPE},
    {"tensor<fp16, [2147483648, 3]> y = relu(x = x);",
     "t:4:15: error: expected a dimension from 1 to 2147483647, found '2147483648'", 1, AN_TYPE},

    /* names */
    {"tensor<fp16, [2, 3]> y = relu(x = z);", "t:4:35: error: z is not defined", 1, AN_TYPE},
    {"tensor<fp16, [2, 3]> x = relu(x = x); tensor<fp16, [2, 3]> y = relu(x = x);",
     "t:4:22: error: x is already defined as an input", 1, AN_TYPE},
    {"tensor<fp16, [2, 3]> y = relu(x = x);\ntensor<fp16, [2, 3]> y = tanh(x = x);",
     "t:5:22: error: y is already defined on line 4", 1, AN_TYPE},
    {"tensor<fp16, [1, 3]> a, tensor<fp16, [1, 3]> a = split(x = x, num_splits = 2, axis = 0); tensor<fp16, "
     "[2, 3]> y = "
     "relu(x = x);",
     "t:4:46: error: a is defined twice in this statement", 1, AN_TYPE},
    {"", "t:5:7: error: y is not defined", 1, AN_TYPE},

    /* operations */
    {"tensor<fp16, [2, 3]> y = rellu(x = x);",
     "t:4:26: error: there is no operation 'rellu': did you mean relu?", 1, AN_UNSUPPORTED},
    {"tensor<fp16, [2, 3]> y = cumsum(x = x);", "t:4:26: error: operation cumsum is not supported yet", 1,
     AN_UNSUPPORTED},
    {"tensor<fp16, [2, 3]> y = qwertyuiop(x = x);", "t:4:26: error: there is no operation 'qwertyuiop'", 1,
     AN_UNSUPPORTED},
    {"tensor<fp16, [2, 3]> y = relu(z = x);", "t:4:31: error: relu has no parameter z (it has x)", 1,
     AN_TYPE},
    {"tensor<fp16, [2, 3]> y = relu(x = x, x = x);", "t:4:38: error: relu: x is given twice", 1, AN_TYPE},
    {"fp16 c = const(val = fp16(1))[]; tensor<fp16, [2, 3]> y = relu(x = x);",
     "t:4:16: error: const: val is an attribute: it stands in the brackets", 1, AN_TYPE},
    {"fp16 c = const()[val = fp16(1), val = fp16(1)]; tensor<fp16, [2, 3]> y = relu(x = x);",
     "t:4:33: error: val is given twice", 1, AN_TYPE},
    {"tensor<fp16, [2, 3]> y = relu(x = x)[name = int32(1)];", "t:4:45: error: the name must be a string", 1,
     AN_TYPE},
    {"tensor<fp16, [2, 4]> y = matmul(x = x, y = x);",
     "t:4:44: error: matmul: y has inner dimension 2, x has 3", 1, AN_TYPE},
    {"tensor<fp16, [4, 2]> y = matmul(x = x, y = w);",
     "t:4:1: error: y is declared tensor<fp16, [4, 2]>, but matmul gives tensor<fp16, [2, 4]>", 1, AN_TYPE},
    {"tensor<fp32, [2, 4]> y = matmul(x = x, y = w);",
     "t:4:1: error: y is declared tensor<fp32, [2, 4]>, but matmul gives tensor<fp16, [2, 4]>", 1, AN_TYPE},
    {"tensor<fp16, [2, 4]> y = matmul(x = x);", "t:4:26: error: matmul: needs the argument y", 1, AN_TYPE},
    {"string m = const()[val = string(\"x\")];", "t:5:7: error: y is not defined", 1, AN_TYPE},
    {"string y = const()[val = string(\"x\")];", "t:5:7: error: y is a string, which cannot be an output", 1,
     AN_TYPE},

    /* not supported, said so */
    {"tensor<fp16, [2, ?]> y = relu(x = x);",
     "t:4:18: error: dimensions that are not known in advance are not supported", 1, AN_UNSUPPORTED},
    {"state<tensor<fp16, [2]>> y = read_state(x = x);", "t:4:1: error: state<...> is not supported", 1,
     AN_UNSUPPORTED},
    {"dict<string, string> y = const()[];", "t:4:1: error: dict<...> is not supported", 1, AN_UNSUPPORTED},
    {"tensor<int4, [2]> y = relu(x = x);", "t:4:8: error: element type int4 is not supported", 1,
     AN_UNSUPPORTED},
    {"tensor<fp16, [1, 1, 1, 1, 2, 3]> y = reshape(x = x, shape = [1, 1, 1, 1, 2, 3]);",
     "t:4:14: error: rank 6 is not supported: the engine has at most 5 axes", 1, AN_UNSUPPORTED},
    {"tensor<fp16, [2, 3]> y = relu(x = x) { tensor<fp16, [2]> z = q(r = s); } -> (z);",
     "t:4:38: error: nested blocks are not supported", 1, AN_UNSUPPORTED},
    {"tensor<fp16, [2147483647, 2147483647]> y = relu(x = x);",
     "t:4:14: error: a tensor of more than 2^40 elements is not supported", 1, AN_UNSUPPORTED},

    /* several; what follows from an error is not reported */
    {"tensor<fp16, [2, 3]> a = rellu(x = x);\ntensor<fp16, [2, 9]> b = tanh(x = a);\nfp32 c = const()[val = "
     "fp16(1)];\n"
     "tensor<fp16, [2, 3]> y = add(x = b, y = c);\ntensor<fp16, [2, 3]> d = exp(y = x);",
     "t:4:26: error: there is no operation 'rellu': did you mean relu?", 3, AN_UNSUPPORTED},
    {"tensor<fp16, [2, 3]> y = relu(x = ;\ntensor<fp16, [2, 3]> z = relu(x = y, ;\ntensor<fp16, [2, 3]> u = "
     "relu(x = z)]",
     "t:4:35: error: expected a value, found ';'", 3, AN_SYNTAX},
};

static int count_errors(const char *message)
{
	int n = 0;
	for (const char *at = message; (at = strstr(at, ": error: ")); at++)
		n++;
	return n;
}

static void errors_have_places(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	for (int i = 0; i < LENGTH(errors); i++) {
		const error_case *e = &errors[i];
		char text[2000];
		an_program *p;
		snprintf(text, sizeof text, HEAD "%s" TAIL, e->text);
		an_status s = parse(ctx, text, &p);
		assert_null(p);
		const char *m = an_message(ctx);
		if (s != e->status || strncmp(m, e->first, strlen(e->first)) || m[strlen(e->first)] != '\n' ||
		    count_errors(m) != e->count)
			fail_msg("%s\n  wanted %d, first %s\n  got %s, %d: %s", e->text, e->count, e->first,
				 an_status_name(s), count_errors(m), m);
	}
	an_ctx_close(ctx);
}

static void headers_are_checked(void **state)
{
	(void)state;
	static const char *const cases[][2] = {
	    {"", "t:1:1: error: expected 'program', found the end of the text"},
	    {"program(2.0) {}", "t:1:9: error: MIL 2 is not supported, only MIL 1"},
	    {"program(1.3) {}", "t:1:16: error: the program has no function"},
	    {"program(one) {}", "t:1:9: error: expected a version such as 1.3, found 'one'"},
	    {"program(1.3) [x = 3] {}", "t:1:15: error: attribute 'x' of a program is not supported"},
	    {"program(1.3) { func f<ios12>() {} -> (); }",
	     "t:1:23: error: opset 'ios12' is not supported: ios15, ios16, ios17, ios18 and ios26 are"},
	    {"program(1.3) { func f<ios18>(fp16 x) {} -> (); }",
	     "t:1:45: error: expected the name of an output, found ')'"},
	    {"program(1.3) { func f<ios18>(fp16 x) {} -> (x, x); }", "t:1:48: error: x is returned twice"},
	    {"program(1.3) { func f<ios18>(fp16 x, fp16 x) {} -> (x); }",
	     "t:1:43: error: x is already defined as an input"},
	    {"program(1.3) { func f<ios18>(string x) {} -> (x); }",
	     "t:1:30: error: an input cannot be a string"},
	    {"program(1.3) { func f<ios18>(fp16 x) {} -> (x); func f<ios18>(fp16 x) {} -> (x); }",
	     "t:1:54: error: function f is already defined"},
	    {"program(1.3) { func f<ios18>(fp16 x) {} -> (x); } more",
	     "t:1:51: error: expected the end of the text, found 'more'"},
	    {"program(1.3) { func f<ios16>(tensor<fp16, [1, 2, 3]> x) { tensor<fp16, [1, 2, 3]> y = "
	     "scaled_dot_product_attention(query = x, key = x, value = x); } -> (y); }",
	     "t:1:87: error: scaled_dot_product_attention exists from ios18 on, this function is ios16"},
	    {"program(1.3) { func f<ios18>(fp16 x) [FlexibleShapeInformation = tuple<>()] {} -> (x); }",
	     "t:1:38: error: attributes of functions (flexible shapes) are not supported"}};
	an_ctx *ctx = mil_open();
	for (int i = 0; i < LENGTH(cases); i++) {
		an_program *p;
		assert_int_not_equal(parse(ctx, cases[i][0], &p), AN_OK);
		if (strncmp(an_message(ctx), cases[i][1], strlen(cases[i][1])))
			fail_msg("wanted %s\n   got %s", cases[i][1], an_message(ctx));
	}
	an_ctx_close(ctx);
}

static void the_caret_stands_below(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	an_program *p;
	assert_int_equal(parse(ctx, HEAD "\ttensor<fp16, [2, 3]> \xc3\xa4 = relu(x = x);" TAIL, &p),
			 AN_SYNTAX);
	assert_non_null(strstr(an_message(ctx), "t:4:23: error: expected a name, found the byte 0xc3\n"
						"   tensor<fp16, [2, 3]> \xc3\xa4 = relu(x = x);\n"
						"                        ^"));
	/* columns count bytes, the caret characters */
	assert_int_equal(
	    parse(ctx, HEAD "string s = const()[val = string(\"\xc3\xa4\xc3\xa4\")] y;" TAIL, &p), AN_SYNTAX);
	assert_non_null(strstr(an_message(ctx),
			       "t:4:42: error: expected ';', found 'y'\n"
			       "  string s = const()[val = string(\"\xc3\xa4\xc3\xa4\")] y;\n"
			       "                                         ^"));
	an_ctx_close(ctx);
}

static void twenty_errors_are_enough(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	str s;
	an_program *p;
	str_init(&s, ctx);
	str_add(&s, HEAD);
	for (int i = 0; i < 1000; i++)
		str_addf(&s, "fp16 v%d = wrong(x = x);\n", i);
	str_add(&s, TAIL);
	assert_int_equal(an_program_parse(ctx, s.data, s.len, "t", &p), AN_UNSUPPORTED);
	assert_int_equal(count_errors(an_message(ctx)), 20);
	str_free(&s);
	an_ctx_close(ctx);
}

/* ---- Size ------------------------------------------------------------------------------ */

/* Names are hashed: were each looked for among all, this would take minutes. */
static void long_programs_parse(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	enum { N = 100000 };
	str s;
	an_program *p;
	str_init(&s, ctx);
	str_add(&s, HEAD "tensor<fp16, [2, 3]> v0 = relu(x = x);\n");
	for (int i = 1; i < N; i++)
		str_addf(&s, "tensor<fp16, [2, 3]> v%d = relu(x = v%d);\n", i, i - 1);
	str_addf(&s, "} -> (v%d); }", N - 1);
	MIL_OK(ctx, an_program_parse(ctx, s.data, s.len, "chain", &p));
	assert_int_equal(an_function_ops(an_program_function(p, NULL)), N);
	an_program_free(p);
	str_free(&s);
	an_ctx_close(ctx);
}

/* Brackets without end, lists without end, numbers without end. */
static void monsters_are_refused(void **state)
{
	(void)state;
	static const struct {
		const char *before, *repeated;
	} cases[] = {{HEAD "tensor<fp16, [2]> y = const()[val = tensor<fp16, [2]>(", "["},
		     {HEAD "tensor<fp16, [2]> y = const()[val = tensor<fp16, [2]>([", "1, "},
		     {HEAD "fp16 y = const()[val = fp16(", "1"},
		     {HEAD "fp16 y = const()[val = fp16(0x", "f"},
		     {HEAD "tensor<fp16, [", "1, "},
		     {HEAD "fp16 ", "a"},
		     {HEAD "fp16 y = concat(values = ", "("},
		     {HEAD "fp16 y = concat(values = (", "x, "},
		     {HEAD "fp16 y = relu(x = x)", "{"},
		     {HEAD "fp16 y = ", "relu(x = "},
		     {HEAD "fp16 y0", ", fp16 y"},
		     {HEAD "string y = const()[val = string(\"", "\\n"},
		     {"", "program("},
		     {"program(1.3) {", "func f<ios18>"},
		     {HEAD "fp16 y = const()[", "BLOBFILE("},
		     {HEAD "fp16 y = const()[val = fp16(BLOBFILE(", "path = fp16(BLOBFILE("}};
	an_ctx *ctx = mil_open();
	for (int i = 0; i < LENGTH(cases); i++) {
		str s;
		an_program *p;
		str_init(&s, ctx);
		str_add(&s, cases[i].before);
		for (int k = 0; k < 50000; k++)
			str_add(&s, cases[i].repeated);
		assert_int_not_equal(an_program_parse(ctx, s.data, s.len, "monster", &p), AN_OK);
		assert_null(p);
		assert_true(strlen(an_message(ctx)) < 20000);
		str_free(&s);
	}
	an_ctx_close(ctx);
}

/* Every prefix of a program is refused, and so is every program with one byte changed that does not
 * parse: without a crash, with a message. */
static void broken_programs_are_refused(void **state)
{
	(void)state;
	static const char text[] = "program(1.3)\n[buildInfo = dict<string, string>({{\"a\", \"b\"}})]\n{\n"
				   "    func main<ios18>(tensor<fp16, [1, 4]> x) {\n"
				   "        tensor<fp16, [2]> c = const()[name = string(\"c\"), val = "
				   "tensor<fp16, [2]>([0x1p-3, -1e-05])];\n"
				   "        tensor<fp16, [1, 2]> a, tensor<fp16, [1, 2]> b = split(x = x, "
				   "num_splits = 2, axis = -1);\n"
				   "        tensor<fp16, [1, 2]> y = add(x = a, y = c)[name = "
				   "string(\"y\")];\n    } -> (y, b);\n}\n";
	an_ctx *ctx = mil_open();
	an_program *p;
	MIL_OK(ctx, an_program_parse(ctx, text, sizeof text - 1, "t", &p));
	an_program_free(p);
	for (size_t n = 0; n < sizeof text - 2; n++) {
		assert_int_not_equal(an_program_parse(ctx, text, n, "t", &p), AN_OK);
		assert_true(*an_message(ctx));
	}
	static const char bytes[] = {0, ' ', '(', ']', '"', '9', 'a', ';', '-', '\n'};
	for (size_t at = 0; at < sizeof text - 1; at++)
		for (int k = 0; k < LENGTH(bytes); k++) {
			char changed[sizeof text];
			memcpy(changed, text, sizeof text);
			changed[at] = bytes[k];
			if (an_program_parse(ctx, changed, sizeof text - 1, "t", &p) == AN_OK)
				MIL_OK(ctx, an_program_verify(p));
			else
				assert_true(*an_message(ctx));
			an_program_free(p);
		}
	an_ctx_close(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(text_and_program_agree),     cmocka_unit_test(values_keep_their_bits),
	    cmocka_unit_test(errors_have_places),         cmocka_unit_test(headers_are_checked),
	    cmocka_unit_test(the_caret_stands_below),     cmocka_unit_test(twenty_errors_are_enough),
	    cmocka_unit_test(long_programs_parse),        cmocka_unit_test(monsters_are_refused),
	    cmocka_unit_test(broken_programs_are_refused)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
