/* 3x3 convolutions by Winograd's F(2,3) against the transform written once more in integers.  (Fingerprints
 * of convolutions that were published of chips: tests/check/test_fingerprint.c.) */
#include "support/device_support.h"
#include "support/kernel_check.h"

#include "device/soft/soft.h"

/* ---- Programs --------------------------------------------------------------------------- */

typedef struct conv {
	int batch, groups, in, out, h, w; /* channels per group */
	int pad[4];                       /* top, bottom, left, right */
	bool biased, baked;               /* the weight is a constant, not an input */
} conv;

static int result_h(const conv *c) { return c->h + c->pad[0] + c->pad[1] - 2; }
static int result_w(const conv *c) { return c->w + c->pad[2] + c->pad[3] - 2; }

/* Runs it; the result is the caller's. */
static half *run(an_ctx *ctx, const char *numerics, const conv *c, const half *x, const half *w,
		 const half *bias)
{
	an_program *p;
	an_function *f;
	MIL_OK(ctx, an_program_new(ctx, &p));
	MIL_OK(ctx, an_function_new(p, "main", &f));
	an_builder b = an_builder_on(f);
	const an_type tx = an_tensor(AN_FP16, 4, (int32_t[]){c->batch, c->groups * c->in, c->h, c->w});
	const an_type tw = an_tensor(AN_FP16, 4, (int32_t[]){c->groups * c->out, c->in, 3, 3});
	const an_type tb = an_tensor(AN_FP16, 1, (int32_t[]){c->groups * c->out});
	const int32_t pad[] = {c->pad[0], c->pad[1], c->pad[2], c->pad[3]};
	an_value y = an_input(&b, "x", tx);
	an_value vw = c->baked ? an_const(&b, "w", tw, w) : an_input(&b, "w", tw);
	an_arg args[] = {{"x", AN_ARG_VALUE, 0, {.value = y}},
			 {"weight", AN_ARG_VALUE, 0, {.value = vw}},
			 {"pad_type", AN_ARG_STRING, 0, {.s = "custom"}},
			 {"pad", AN_ARG_INTS, 4, {.ints = pad}},
			 {"groups", AN_ARG_INT, 0, {.i = c->groups}},
			 {"bias", AN_ARG_VALUE, 0, {.value = AN_NO_VALUE}}};
	if (c->biased)
		args[5].u.value = an_const(&b, "bias", tb, bias);
	MIL_OK(ctx, an_emit(&b, OP_CONV, "y", args, 5 + c->biased, &y, 1));
	an_output(&b, y);
	MIL_OK(ctx, an_builder_finish(&b));
	an_device *d = device_soft(ctx, numerics, true);
	an_call *call = device_call(d, f, 1, -1, 1);
	memcpy(device_bytes(call, 0), x, (size_t)an_type_count(&tx) * 2);
	if (!c->baked)
		memcpy(device_bytes(call, 1), w, (size_t)an_type_count(&tw) * 2);
	MIL_OK(ctx, an_call_run(call));
	const size_t bytes = (size_t)(c->batch * c->groups * c->out * result_h(c) * result_w(c)) * 2;
	half *out = malloc(bytes);
	assert_non_null(out);
	memcpy(out, device_bytes(call, c->baked ? 1 : 2), bytes);
	an_device_close(d);
	an_program_free(p);
	return out;
}

/* ---- The transform in integers ---------------------------------------------------------- */

/* In units of 2^-24. */
static int64_t units(half h)
{
	int field = h >> 10 & 31;
	int64_t u = field ? (int64_t)((h & 1023) + 1024) << (field - 1) : h & 1023;
	return h & 0x8000 ? -u : u;
}

/* n 2^-25 to fp16, half away from zero. */
static half rounded(int64_t n)
{
	int64_t size = llabs(n);
	int shift = 1; /* 2^-24, the unit of subnormals */
	while (size >> shift >= 2048)
		shift++;
	size = (size + (INT64_C(1) << (shift - 1))) >> shift;
	return half_from_double(ldexp(n < 0 ? -(double)size : (double)size, shift - 25));
}

static half expected(const conv *c, const half *x, const half *w, const half *bias, int image, int o, int row,
		     int column)
{
	static half v[4][3 * 64], u[4][3 * 64], xs[9 * 64], ws[9 * 64];
	const int first = o / c->out * c->in, d0 = column / 2 * 2;
	int n = 0;
	for (int ch = 0; ch < c->in; ch++)
		for (int r = 0; r < 3; r++, n++) {
			int64_t d[4], g[3];
			const int y = row + r - c->pad[0];
			for (int i = 0; i < 4; i++) {
				const int at = d0 + i - c->pad[2];
				const bool inside = y >= 0 && y < c->h && at >= 0 && at < c->w;
				const int channel = image * c->groups * c->in + first + ch;
				d[i] = inside ? units(x[(channel * c->h + y) * c->w + at]) : 0;
			}
			for (int i = 0; i < 3; i++)
				g[i] = units(w[((o * c->in + ch) * 3 + r) * 3 + i]);
			v[0][n] = rounded(2 * (d[0] - d[2]));
			v[1][n] = rounded(2 * (d[1] + d[2]));
			v[2][n] = rounded(2 * (d[2] - d[1]));
			v[3][n] = rounded(2 * (d[1] - d[3]));
			u[0][n] = rounded(2 * g[0]);
			u[1][n] = rounded(g[0] + g[1] + g[2]);
			u[2][n] = rounded(g[0] - g[1] + g[2]);
			u[3][n] = rounded(2 * g[2]);
		}
	for (int a = 0; a < 3; a++)
		for (int i = 0; i < n; i++) {
			const int m = a + column % 2;
			xs[a * n + i] = v[m][i];
			ws[a * n + i] = (half)(u[m][i] ^ (m > 0 && a > 0 && column % 2 ? 0x8000 : 0));
		}
	return check_fixed(xs, 1, ws, 1, 3 * n, c->biased ? (double)half_to_float(bias[o]) : 0);
}

/* What numbers are drawn from: ordinary ones; with subnormals and lost products; weights whose sums of three
 * have more bits than an fp32. */
enum { ORDINARY, SMALL, WIDE, KINDS };

static half draw(int kind, uint64_t seed, int64_t i)
{
	const double a = check_uniform(seed, (uint64_t)i, -1, 1),
		     b = check_uniform(seed + 99, (uint64_t)i, 0, 1);
	switch (kind) {
	case ORDINARY: return half_from_double(2 * a);
	case SMALL: return half_from_double(a * ldexp(1, -(int)(b * 17)));
	default: return half_from_double(a * ldexp(1, (int)(b * 39) - 24));
	}
}

static void test_integers(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(2);
	uint64_t seed = 1;
	for (int kind = 0; kind < KINDS * KINDS; kind++)
		for (int flags = 0; flags < 8; flags++, seed++) {
			const int s = (int)seed;
			const conv c = {.batch = 1 + s % 2,
					.groups = 1 + s / 2 % 2,
					.in = 1 + s % 5,
					.out = 1 + s % 3,
					.h = 3 + s % 4,
					.w = 3 + s % 7,
					.pad = {s % 2, s / 3 % 2, s / 5 % 3, s / 7 % 2},
					.biased = flags & 1,
					.baked = flags & 2};
			const int nx = c.batch * c.groups * c.in * c.h * c.w,
				  nw = c.groups * c.out * c.in * 9;
			half *x = malloc((size_t)nx * 2), *w = malloc((size_t)nw * 2), bias[8];
			assert_true(x && w);
			for (int i = 0; i < nx; i++)
				x[i] = draw(kind % KINDS, seed, i);
			for (int i = 0; i < nw; i++)
				w[i] = draw(kind / KINDS, seed + 1000, i);
			for (int i = 0; i < 8; i++)
				bias[i] = draw(ORDINARY, seed + 2000, i);
			half *y = run(ctx, flags & 4 ? "m6" : "m5", &c, x, w, bias), *at = y;
			for (int image = 0; image < c.batch; image++)
				for (int o = 0; o < c.groups * c.out; o++)
					for (int i = 0; i < result_h(&c); i++)
						for (int j = 0; j < result_w(&c); j++, at++) {
							half want = expected(&c, x, w, bias, image, o, i, j);
							if (*at != want)
								fail_msg("seed %d, [%d][%d][%d][%d]: %04x, "
									 "expected %04x",
									 s, image, o, i, j, *at, want);
						}
			free(x), free(w), free(y);
		}
	an_ctx_close(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_integers)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
