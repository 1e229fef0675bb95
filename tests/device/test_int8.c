/* Contractions of operands that are dequantised from 8 bits, against integer arithmetic in 64 bits; what
 * cannot be contracted so; quantize and dequantize by the rule of zero points. */
#include "base/half.h"
#include "base/random.h"
#include "device/soft/soft.h"
#include "support/device_support.h"

#include <math.h>

/* ---- Reference ------------------------------------------------------------------------- */

/* Half away from zero, as engines round: to 11 significant bits, below 2^-14 to multiples of 2^-24 then. */
static half away(double x)
{
	int e;
	frexp(x, &e);
	double size = fabs(x), unit = ldexp(1, e - 11);
	if (size == 0 || isinf(x))
		return half_from_double(x + 0.0);
	size = floor(size / unit + 0.5) * unit;
	if (size < 0x1p-14)
		size = floor(size * 0x1p24 + 0.5) * 0x1p-24;
	return size >= 65536 ? (half)(x < 0 ? 0xfc00 : 0x7c00)
			     : half_from_double(copysign(size, x)) & (size == 0 ? 0x7fff : 0xffff);
}

/* What the rule says of a sum of k products of integers with this scale and bias. */
static half scaled(int64_t sum, float scale, const half *bias)
{
	const double limit = 0x1p31;
	float y = (double)sum >= limit ? INFINITY : (double)sum <= -limit ? -INFINITY : (float)sum;
	y *= scale;
	return away(bias ? (double)y + (double)half_to_float(*bias) : (double)y);
}

static int64_t integer_at(const void *x, an_dtype type, int64_t i)
{
	return type == AN_UINT8 ? ((const uint8_t *)x)[i] : ((const int8_t *)x)[i];
}

/* ---- Programs -------------------------------------------------------------------------- */

typedef struct program {
	an_ctx *ctx;
	an_program *p;
	an_device *d;
	an_call *c;
} program;

/* The body of a function main of these inputs, compiled; inputs are whole bytes. */
static program open_program(const char *numerics, const char *isa, int threads, const char *inputs,
			    const char *body)
{
	program t;
	static char text[8000];
	an_ctx_options opt = {.threads = threads, .isa = isa};
	assert_int_equal(an_ctx_open(&opt, &t.ctx), AN_OK);
	int n = snprintf(text, sizeof text, "program(1.3)\n{ func main<ios18>(%s) {\n%s} -> (y); }\n", inputs,
			 body);
	assert_in_range(n, 1, sizeof text - 1);
	MIL_OK(t.ctx, an_program_parse(t.ctx, text, (size_t)n, "test.mil", &t.p));
	t.d = device_soft(t.ctx, numerics, true);
	t.c = device_call(t.d, an_program_function(t.p, NULL), 1, -128, 128);
	return t;
}

static void close_program(program *t)
{
	an_device_close(t->d);
	an_program_free(t->p);
	an_ctx_close(t->ctx);
}

/* Whether the program calls a kernel of this name. */
static bool calls(const program *t, const char *word)
{
	str text;
	str_init(&text, t->ctx);
	MIL_OK(t->ctx, soft_dump(t->c->exe, &text));
	bool found = strstr(text.data, word);
	str_free(&text);
	return found;
}

static void fill(void *x, int64_t n, uint64_t seed)
{
	static const uint8_t extreme[] = {0, 1, 127, 128, 255};
	for (int64_t i = 0; i < n; i++) {
		double u = random_uniform(seed, 5, (uint64_t)i);
		((uint8_t *)x)[i] = seed % 3 == 2 ? extreme[(int)(u * 5)] : (uint8_t)(u * 256);
	}
}

static const char *const sets[] = {"portable", "avx2", NULL};

/* ---- Contractions ---------------------------------------------------------------------- */

/* matmul of batches, one or both operands transposed; scales: one number, or one for each row or column. */
typedef struct product {
	int batch, m, n, k;
	bool tx, ty;
	an_dtype x, y;
	bool by_row, by_column;
} product;

static void check_product(const product *g, uint64_t seed, const char *numerics)
{
	char inputs[200], body[2000], sx[400] = "fp16(0x1.8p-4)", sy[400] = "fp16(0x1.24p-3)";
	float scale_x[8], scale_y[8];
	for (int i = 0; i < 8; i++) {
		scale_x[i] = g->by_row ? 0x1.8p-6f + (float)i * 0x1p-9f : 0x1.8p-4f;
		scale_y[i] = g->by_column ? 0x1.4p-5f * (float)(i + 1) : 0x1.24p-3f;
	}
	if (g->by_row) {
		int n = snprintf(sx, sizeof sx, "tensor<fp16, [%d]>([", g->m);
		for (int i = 0; i < g->m; i++)
			n += snprintf(sx + n, sizeof sx - (size_t)n, "%s%a", i ? ", " : "", scale_x[i]);
		snprintf(sx + n, sizeof sx - (size_t)n, "])");
	}
	if (g->by_column) {
		int n = snprintf(sy, sizeof sy, "tensor<fp16, [%d]>([", g->n);
		for (int i = 0; i < g->n; i++)
			n += snprintf(sy + n, sizeof sy - (size_t)n, "%s%a", i ? ", " : "", scale_y[i]);
		snprintf(sy + n, sizeof sy - (size_t)n, "])");
	}
	const int xr = g->tx ? g->k : g->m, xc = g->tx ? g->m : g->k, yr = g->ty ? g->n : g->k,
		  yc = g->ty ? g->k : g->n;
	snprintf(inputs, sizeof inputs, "tensor<%s, [%d, %d, %d]> p, tensor<%s, [%d, %d, %d]> q",
		 an_dtype_name(g->x), g->batch, xr, xc, an_dtype_name(g->y), g->batch, yr, yc);
	snprintf(
	    body, sizeof body,
	    "tensor<fp16, [%d, %d, %d]> a = dequantize(input = p, scale = %s, axis = %d)[name = "
	    "string(\"a\")];\n"
	    "tensor<fp16, [%d, %d, %d]> b = dequantize(input = q, scale = %s, axis = %d)[name = "
	    "string(\"b\")];\n"
	    "tensor<fp16, [%d, %d, %d]> y = matmul(x = a, y = b, transpose_x = %s, transpose_y = %s)[name = "
	    "string(\"y\")];\n",
	    g->batch, xr, xc, sx, g->tx ? 2 : 1, g->batch, yr, yc, sy, g->ty ? -2 : -1, g->batch, g->m, g->n,
	    g->tx ? "true" : "false", g->ty ? "true" : "false");
	const int nx = g->batch * g->m * g->k, ny = g->batch * g->k * g->n, nz = g->batch * g->m * g->n;
	half *want = malloc((size_t)nz * sizeof *want);
	uint8_t *p = malloc((size_t)nx), *q = malloc((size_t)ny);
	assert_true(want && p && q);
	fill(p, nx, seed);
	fill(q, ny, seed + 1);
	for (int b = 0; b < g->batch; b++)
		for (int i = 0; i < g->m; i++)
			for (int j = 0; j < g->n; j++) {
				int64_t sum = 0;
				for (int e = 0; e < g->k; e++)
					sum += integer_at(p, g->x,
							  b * g->m * g->k +
							      (g->tx ? e * g->m + i : i * g->k + e)) *
					       integer_at(q, g->y,
							  b * g->k * g->n +
							      (g->ty ? j * g->k + e : e * g->n + j));
				want[(b * g->m + i) * g->n + j] = scaled(
				    sum, scale_x[g->by_row ? i : 0] * scale_y[g->by_column ? j : 0], NULL);
			}
	for (int set = 0; set < LENGTH(sets); set++)
		for (int threads = 1; threads < 4; threads++) {
			program t = open_program(numerics, sets[set], threads, inputs, body);
			assert_true(calls(&t, "int_"));
			memcpy(device_bytes(t.c, 0), p, (size_t)nx);
			memcpy(device_bytes(t.c, 1), q, (size_t)ny);
			MIL_OK(t.ctx, an_call_run(t.c));
			const half *got = device_bytes(t.c, 2);
			for (int i = 0; i < nz; i++)
				if (got[i] != want[i])
					fail_msg("%s, seed %d, element %d: %g, not %g", numerics, (int)seed,
						 i, half_to_float(got[i]), half_to_float(want[i]));
			close_program(&t);
		}
	free(want);
	free(p);
	free(q);
}

static void test_matmul(void **state)
{
	(void)state;
	const an_dtype types[] = {AN_INT8, AN_UINT8};
	const char *const chips[] = {"m4", "m5", "m6", "m1,int8=integer"};
	for (uint64_t seed = 0; seed < 16; seed++) {
		const product g = {.batch = seed % 3 ? 1 : 3,
				   .m = 1 + (int)(seed * 5) % 8,
				   .n = 1 + (int)(seed * 3) % 8,
				   .k = 1 + (int)(seed * 67) % 400,
				   .tx = seed & 1,
				   .ty = seed >> 1 & 1,
				   .x = types[seed >> 2 & 1],
				   .y = types[seed >> 3 & 1],
				   .by_row = seed % 5 < 2,
				   .by_column = seed % 3 == 1};
		check_product(&g, seed, chips[seed % 4]);
	}
}

/* A convolution in groups, with strides and padding, quantised before it and biased. */
static void test_conv(void **state)
{
	(void)state;
	enum { C = 4, OUT = 6, GROUPS = 2, H = 5, W = 7, IN = C / GROUPS };
	for (int stride = 1; stride < 3; stride++)
		for (int channels = 0; channels < 2; channels++) {
			const int oh = (H - 1) / stride + 1, ow = (W - 1) / stride + 1;
			int8_t w[OUT * IN * 9], q[C * H * W];
			half bias[OUT], x[C * H * W];
			float sw[OUT];
			char body[6000], list[4000], biases[400], scales[400];
			int n = 0, nb = 0, ns = 0;
			fill(w, sizeof w, 3);
			for (int i = 0; i < (int)sizeof w; i++)
				n += snprintf(list + n, sizeof list - (size_t)n, "%s%d", i ? ", " : "", w[i]);
			for (int i = 0; i < OUT; i++) {
				bias[i] = half_from_float(0.37f * (float)(i - 2));
				sw[i] = channels ? 0x1.24p-6f * (float)(i + 1) : 0x1.24p-6f;
				nb += snprintf(biases + nb, sizeof biases - (size_t)nb, "%s%a", i ? ", " : "",
					       half_to_float(bias[i]));
				ns += snprintf(scales + ns, sizeof scales - (size_t)ns, "%s%a", i ? ", " : "",
					       sw[i]);
			}
			char scale[500];
			snprintf(scale, sizeof scale,
				 channels ? "tensor<fp16, [6]>([%s])" : "fp16(0x1.24p-6)%.0s", scales);
			snprintf(
			    body, sizeof body,
			    "tensor<int8, [1, 4, 5, 7]> q = quantize(input = x, scale = fp16(0x1p-5), "
			    "output_dtype = "
			    "string(\"int8\"))[name = string(\"q\")];\n"
			    "tensor<fp16, [1, 4, 5, 7]> d = dequantize(input = q, scale = fp16(0x1p-5))[name "
			    "= "
			    "string(\"d\")];\n"
			    "tensor<fp16, [6, 2, 3, 3]> w = constexpr_affine_dequantize()[axis = int32(0), "
			    "name = "
			    "string(\"w\"), quantized_data = tensor<int8, [6, 2, 3, 3]>([%s]), scale = %s, "
			    "zero_point "
			    "= int8(0)];\n"
			    "tensor<fp16, [1, 6, %d, %d]> y = conv(x = d, weight = w, bias = tensor<fp16, "
			    "[6]>([%s]), strides = [%d, %d], pad_type = string(\"custom\"), pad = [1, 1, 1, "
			    "1], "
			    "dilations = [1, 1], groups = 2)[name = string(\"y\")];\n",
			    list, scale, oh, ow, biases, stride, stride);
			program t = open_program("m5", NULL, 2, "tensor<fp16, [1, 4, 5, 7]> x", body);
			assert_true(calls(&t, "int_"));
			for (int i = 0; i < C * H * W; i++) {
				x[i] = half_from_double(6 * random_uniform(9, 0, (uint64_t)i) - 3);
				double v = nearbyint((double)half_to_float(x[i]) * 32);
				q[i] = (int8_t)fmax(fmin(v, 127), -128);
			}
			memcpy(device_bytes(t.c, 0), x, sizeof x);
			MIL_OK(t.ctx, an_call_run(t.c));
			const half *got = device_bytes(t.c, 1);
			for (int o = 0; o < OUT; o++)
				for (int i = 0; i < oh; i++)
					for (int j = 0; j < ow; j++) {
						int64_t sum = 0;
						for (int c = 0; c < IN; c++)
							for (int a = 0; a < 3; a++)
								for (int b = 0; b < 3; b++) {
									int r = i * stride + a - 1,
									    s = j * stride + b - 1;
									if (r < 0 || r >= H || s < 0 ||
									    s >= W)
										continue;
									sum +=
									    q[((o / (OUT / GROUPS)) * IN +
									       c) *
										  H * W +
									      r * W + s] *
									    w[(o * IN + c) * 9 + a * 3 + b];
								}
						half want = scaled(sum, sw[o] * 0x1p-5f, &bias[o]);
						half y = got[(o * oh + i) * ow + j];
						if (y != want)
							fail_msg(
							    "stride %d, scales %d, [%d][%d][%d]: %g, not %g",
							    stride, channels, o, i, j, half_to_float(y),
							    half_to_float(want));
					}
			close_program(&t);
		}
}

/* 751K, M4 and M6: sums up to 2^31, which is infinite whatever the scale; the scale comes last. */
static void test_published(void **state)
{
	(void)state;
	static const struct {
		int k, x, w; /* k times x w ... */
		int more;    /* ... and once more this product with 1 */
		const char *scale;
		double want;
	} cases[] = {
	    {65536, -128, -128, 0, "0x1p-10", INFINITY}, /* 2^30: too large for fp16 only */
	    {65536, -128, -128, 0, "0x1p-16", 0x1p14},
	    {65536, -128, -128, 0, "0x1p-20", 0x1p10},
	    {131071, -128, -128, 0, "0x1p-20", 0x1p11},   /* 2^31 - 2^14 rounds up to 2^11 */
	    {131072, -128, -128, 0, "0x1p-20", INFINITY}, /* 2^31 */
	    {131072, -128, -128, 0, "0x1p-24", INFINITY},
	    {131073, -128, 127, 0, "0x1p-20", -2032}, /* not -2^31 */
	    {63 * 8, 1, 127, 504, "1", 64512},        /* 63 * 1024 */
	    {1, 127, 1, 0, "0x1p-24", 127 * 0x1p-24},
	};
	for (int i = 0; i < LENGTH(cases); i++) {
		const int k = cases[i].k + (cases[i].more ? 4 : 0);
		char inputs[200], body[1000];
		snprintf(inputs, sizeof inputs, "tensor<int8, [1, %d]> p, tensor<int8, [%d, 1]> q", k, k);
		snprintf(body, sizeof body,
			 "tensor<fp16, [1, %d]> a = dequantize(input = p, scale = fp16(%s))[name = "
			 "string(\"a\")];\n"
			 "tensor<fp16, [%d, 1]> b = dequantize(input = q, scale = fp16(1))[name = "
			 "string(\"b\")];\n"
			 "tensor<fp16, [1, 1]> y = matmul(x = a, y = b, transpose_x = false, transpose_y = "
			 "false)[name = string(\"y\")];\n",
			 k, cases[i].scale, k);
		for (int chip = 0; chip < 2; chip++) {
			program t = open_program(chip ? "m6" : "m4", NULL, 1, inputs, body);
			int8_t *p = device_bytes(t.c, 0), *q = device_bytes(t.c, 1);
			memset(p, cases[i].x, (size_t)k);
			memset(q, cases[i].w, (size_t)k);
			for (int j = 0; j < 4 && cases[i].more; j++) { /* 4 * 126 */
				p[cases[i].k + j] = 126;
				q[cases[i].k + j] = 1;
			}
			MIL_OK(t.ctx, an_call_run(t.c));
			half y = *(half *)device_bytes(t.c, 2), want = half_from_double(cases[i].want);
			if (y != want)
				fail_msg("case %d: %g, not %g", i, half_to_float(y), cases[i].want);
			close_program(&t);
		}
	}
}

/* What has a zero point, or scales along an axis that is contracted, and what a chip reconstructs first. */
static void test_dequantised_first(void **state)
{
	(void)state;
	static const struct {
		const char *numerics, *same_as, *x, *scale;
		bool integer;
	} cases[] = {
	    {"m4", "m4,int8=dequantized", "zero_point = int8(3)", "fp16(0x1.8p-6)", false},
	    {"m4", "m4", "zero_point = int8(0)", "fp16(0x1.8p-6)", true},
	    {"m4,zero_point=ignored", "m4", "zero_point = int8(3)", "fp16(0x1.8p-6)", true},
	    {"m4", "m4,int8=dequantized", "axis = 1", "tensor<fp16, [3]>([0x1p-4, 0x1p-5, 0x1p-6])", false},
	    {"m4", "m4", "axis = 0", "tensor<fp16, [2]>([0x1p-4, 0x1p-5])", true},
	    {"m1", "m1", "axis = 0", "fp16(0x1.8p-6)", false},
	    {"m2", "m2", "axis = 0", "fp16(0x1.8p-6)", false},
	    {"ieee", "ieee", "axis = 0", "fp16(0x1.8p-6)", false},
	    {"fast", "fast", "axis = 0", "fp16(0x1.8p-6)", false},
	    {"m1,int8=integer", "m4", "axis = 0", "fp16(0x1.8p-6)", true},
	};
	for (int i = 0; i < LENGTH(cases); i++) {
		char body[1000];
		snprintf(
		    body, sizeof body,
		    "tensor<fp16, [2, 3]> a = dequantize(input = p, scale = %s, %s)[name = string(\"a\")];\n"
		    "tensor<fp16, [3, 4]> b = dequantize(input = q, scale = fp16(0x1.8p-5))[name = "
		    "string(\"b\")];\n"
		    "tensor<fp16, [2, 4]> y = matmul(x = a, y = b, transpose_x = false, transpose_y = "
		    "false)[name = string(\"y\")];\n",
		    cases[i].scale, cases[i].x);
		program a = open_program(cases[i].numerics, NULL, 1,
					 "tensor<int8, [2, 3]> p, tensor<int8, [3, 4]> q", body);
		assert_int_equal(calls(&a, "int_"), cases[i].integer);
		MIL_OK(a.ctx, an_call_run(a.c));
		if (!strstr(cases[i].numerics, "ignored")) {
			program b = open_program(cases[i].same_as, NULL, 1,
						 "tensor<int8, [2, 3]> p, tensor<int8, [3, 4]> q", body);
			MIL_OK(b.ctx, an_call_run(b.c));
			assert_memory_equal(device_bytes(a.c, 2), device_bytes(b.c, 2), 16);
			close_program(&b);
		}
		close_program(&a);
	}
}

/* Operands that only the contraction reads are not dequantised; others are. */
static void test_only_what_is_read(void **state)
{
	(void)state;
	for (int read = 0; read < 2; read++) {
		char body[1000];
		snprintf(body, sizeof body,
			 "tensor<fp16, [4, 4]> a = dequantize(input = p, scale = fp16(0.5))[name = "
			 "string(\"a\")];\n"
			 "tensor<fp16, [4, 4]> z = matmul(x = a, y = a, transpose_x = false, transpose_y = "
			 "true)[name = string(\"z\")];\n"
			 "tensor<fp16, [4, 4]> y = add(x = z, y = %s)[name = string(\"y\")];\n",
			 read ? "a" : "z");
		program t = open_program("m4", NULL, 1, "tensor<int8, [4, 4]> p", body);
		assert_true(calls(&t, "int_"));
		MIL_OK(t.ctx, an_call_run(t.c));
		const int8_t *p = device_bytes(t.c, 0);
		const half *y = device_bytes(t.c, 1);
		for (int i = 0; i < 4; i++)
			for (int j = 0; j < 4; j++) {
				int64_t sum = 0;
				for (int k = 0; k < 4; k++)
					sum += p[4 * i + k] * p[4 * j + k];
				half z = scaled(sum, 0.25f, NULL);
				double other = read ? 0.5 * p[4 * i + j] : (double)half_to_float(z);
				assert_int_equal(y[4 * i + j], away((double)half_to_float(z) + other));
			}
		close_program(&t);
	}
}

/* ---- Zero points ------------------------------------------------------------------------- */

/* quantize and dequantize where zero points count and where the chip takes them as 0. */
static void test_zero_points(void **state)
{
	(void)state;
	static const struct {
		const char *numerics;
		bool used;
	} cases[] = {{"ieee", true}, {"m1", false}, {"m1,zero_point=used", true},    {"m2", true},
		     {"m4", true},   {"m5", true},  {"m4,zero_point=ignored", false}};
	enum { N = 8 };
	static const double x[N] = {0, 1, -1, 0.3, 63.5, -64, 100, -100};
	for (int i = 0; i < LENGTH(cases); i++)
		for (int u = 0; u < 2; u++) {
			const bool used = cases[i].used;
			const int zero = u ? 128 : -5, low = u ? 0 : used ? -128 : -127, high = u ? 255 : 127;
			const char *type = u ? "uint8" : "int8";
			char body[1000];
			snprintf(
			    body, sizeof body,
			    "tensor<%s, [8]> y = quantize(input = x, scale = fp16(0.5), zero_point = %s(%d), "
			    "output_dtype = string(\"%s\"))[name = string(\"y\")];\n",
			    type, type, zero, type);
			program t = open_program(cases[i].numerics, NULL, 1, "tensor<fp16, [8]> x", body);
			for (int j = 0; j < N; j++)
				((half *)device_bytes(t.c, 0))[j] = half_from_double(x[j]);
			MIL_OK(t.ctx, an_call_run(t.c));
			int64_t q[N];
			for (int j = 0; j < N; j++) {
				q[j] = integer_at(device_bytes(t.c, 1), u ? AN_UINT8 : AN_INT8, j);
				double want =
				    fmin(fmax(nearbyint(x[j] / 0.5) + (used ? zero : 0), low), high);
				if ((double)q[j] != want)
					fail_msg("%s, %s: quantize(%g) is %d, not %g", cases[i].numerics,
						 type, x[j], (int)q[j], want);
			}
			close_program(&t);
			snprintf(
			    body, sizeof body,
			    "tensor<fp16, [8]> y = dequantize(input = x, scale = fp16(0.5), zero_point = "
			    "%s(%d))[name = string(\"y\")];\n",
			    type, zero);
			char input[100];
			snprintf(input, sizeof input, "tensor<%s, [8]> x", type);
			t = open_program(cases[i].numerics, NULL, 1, input, body);
			for (int j = 0; j < N; j++)
				((uint8_t *)device_bytes(t.c, 0))[j] = (uint8_t)q[j];
			MIL_OK(t.ctx, an_call_run(t.c));
			for (int j = 0; j < N; j++)
				assert_int_equal(((half *)device_bytes(t.c, 1))[j],
						 half_from_double(0.5 * (double)(q[j] - (used ? zero : 0))));
			close_program(&t);
			snprintf(
			    body, sizeof body,
			    "tensor<fp16, [3]> w = constexpr_affine_dequantize()[axis = int32(0), name = "
			    "string(\"w\"), quantized_data = tensor<%s, [3]>([1, %d, 7]), scale = "
			    "fp16(0.25), "
			    "zero_point = %s(%d)];\n"
			    "tensor<fp16, [3]> y = add(x = x, y = w)[name = string(\"y\")];\n",
			    type, high, type, zero);
			t = open_program(cases[i].numerics, NULL, 1, "tensor<fp16, [3]> x", body);
			memset(device_bytes(t.c, 0), 0, 6);
			MIL_OK(t.ctx, an_call_run(t.c));
			const int data[] = {1, high, 7};
			for (int j = 0; j < 3; j++)
				assert_int_equal(((half *)device_bytes(t.c, 1))[j],
						 half_from_double(0.25 * (data[j] - (used ? zero : 0))));
			close_program(&t);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_matmul),
					   cmocka_unit_test(test_conv),
					   cmocka_unit_test(test_published),
					   cmocka_unit_test(test_dequantised_first),
					   cmocka_unit_test(test_only_what_is_read),
					   cmocka_unit_test(test_zero_points)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
