/* 3x3 convolutions in the profiles of chips: against the transform written once more in integers, and
 * the relative errors that ANEForge has published of seeded convolutions, both of chips that compute
 * them directly and of those that use Winograd's F(2,3). */
#include "support/device_support.h"
#include "support/kernel_check.h"
#include "support/kernel_numpy.h"

#include "device/soft/soft.h"

static const char direct[] = "m5,conv3x3=direct", winograd[] = "m5";

/* ---- Programs --------------------------------------------------------------------------- */

typedef struct conv {
	int batch, groups, in, out, h, w; /* channels per group */
	int pad[4];                       /* top, bottom, left, right */
	bool biased, baked;               /* the weight is a constant, not an input */
	bool relu;
	int times; /* chained, 0: once */
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
	for (int i = 0; i < MAX(c->times, 1); i++) {
		char name[16];
		snprintf(name, sizeof name, "y%d", i);
		args[0].u.value = y;
		MIL_OK(ctx, an_emit(&b, OP_CONV, name, args, 5 + c->biased, &y, 1));
	}
	if (c->relu)
		MIL_OK(ctx, an_emit(&b, OP_RELU, "relu", (an_arg[]){{"x", AN_ARG_VALUE, 0, {.value = y}}}, 1,
				    &y, 1));
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
					.baked = flags & 2,
					.relu = false};
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
			half *y = run(ctx, flags & 4 ? "m6" : winograd, &c, x, w, bias), *at = y;
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

/* ---- Fingerprints ------------------------------------------------------------------------- */

static double *draws(numpy_rng *g, int64_t n)
{
	double *x = malloc((size_t)n * sizeof *x);
	assert_non_null(x);
	for (int64_t i = 0; i < n; i++)
		x[i] = (double)(float)numpy_normal(g);
	return x;
}

static half *halves(const double *x, int64_t n)
{
	half *h = malloc((size_t)n * 2);
	assert_non_null(h);
	for (int64_t i = 0; i < n; i++)
		h[i] = half_from_double(x[i]);
	return h;
}

/* One image, one group, padded by 1, in double. */
static double *reference(const conv *c, const double *x, const double *w)
{
	const int wide = c->w + 2, tall = c->h + 2;
	double *in = calloc((size_t)(c->in * tall * wide), sizeof *in);
	double *out = calloc((size_t)(c->out * c->h * c->w), sizeof *out);
	assert_true(in && out);
	for (int i = 0; i < c->in * c->h; i++)
		memcpy(in + (i / c->h * tall + i % c->h + 1) * wide + 1, x + i * c->w,
		       (size_t)c->w * sizeof *x);
	for (int o = 0; o < c->out; o++)
		for (int tap = 0; tap < c->in * 9; tap++) {
			const double g = w[o * c->in * 9 + tap];
			const double *from = in + (tap / 9 * tall + tap % 9 / 3) * wide + tap % 3;
			for (int i = 0; i < c->h; i++)
				for (int j = 0; j < c->w; j++)
					out[(o * c->h + i) * c->w + j] += g * from[i * wide + j];
		}
	free(in);
	return out;
}

static double relative_error(const half *y, const double *want, int64_t n)
{
	double error = 0, size = 0;
	for (int64_t i = 0; i < n; i++) {
		const double d = (double)half_to_float(y[i]) - want[i];
		error += d * d;
		size += want[i] * want[i];
	}
	return sqrt(error / size);
}

static void expect_error(const char *what, double got, double published, double within)
{
	if (!(fabs(got - published) <= within * published))
		fail_msg("%s: %.16g, published %.16g, off by %.2g", what, got, published,
			 fabs(got / published - 1));
}

/* B4, and B5 with relu: seed 1; weights scaled by He's sqrt(2 / (9 in)). */
static void test_convolutions(void **state)
{
	(void)state;
	static const struct {
		const char *name;
		conv c;
		int drawn; /* images, of which the first is compared */
		double published[2], within;
	} want[] = {
	    /* ten digits are printed */
	    {"64 channels",
	     {1, 1, 64, 64, 64, 64, {1, 1, 1, 1}, false, true, false, 1},
	     8,
	     {3.671660721e-4, 5.162338466e-4},
	     1.5e-10},
	    {"128 channels",
	     {1, 1, 128, 128, 64, 64, {1, 1, 1, 1}, false, true, false, 1},
	     8,
	     {3.752040423e-4, 5.214500415e-4},
	     1.5e-10},
	    /* the published reference is in fp32 */
	    {"16 to 64, relu",
	     {1, 1, 16, 64, 32, 32, {1, 1, 1, 1}, false, true, true, 1},
	     1,
	     {3.6636558584241826e-4, 5.102488034377338e-4},
	     1e-11},
	};
	an_ctx *ctx = device_ctx(0);
	for (int i = 0; i < LENGTH(want); i++) {
		const conv *c = &want[i].c;
		numpy_rng g;
		numpy_seed(&g, 1);
		const int64_t nx = (int64_t)c->in * c->h * c->w, nw = (int64_t)c->out * c->in * 9;
		double *x = draws(&g, nx * want[i].drawn), *w = draws(&g, nw);
		for (int64_t j = 0; j < nw; j++)
			w[j] *= sqrt(2.0 / (9 * c->in));
		half *x16 = halves(x, nx), *w16 = halves(w, nw);
		double *ref = reference(c, x, w);
		for (int64_t j = 0; j < (int64_t)c->out * c->h * c->w; j++)
			ref[j] = c->relu && ref[j] < 0 ? 0 : ref[j];
		for (int how = 0; how < 2; how++) {
			half *y = run(ctx, how ? winograd : direct, c, x16, w16, NULL);
			expect_error(want[i].name, relative_error(y, ref, (int64_t)c->out * c->h * c->w),
				     want[i].published[how], want[i].within);
			free(y);
		}
		free(x), free(w), free(x16), free(w16), free(ref);
	}
	an_ctx_close(ctx);
}

/* B7: 32 steps of a diffusion on a square; the reference is fp32 with multiply-adds, taps in order. */
static void test_stencil(void **state)
{
	(void)state;
	enum { N = 256, STEPS = 32 };
	const conv c = {1, 1, 1, 1, N, N, {1, 1, 1, 1}, false, true, false, STEPS};
	static float in[(N + 2) * (N + 2)], out[N * N];
	const float side = 0.1f * 1, centre = 0.1f * -4 + 1;
	const float tap[9] = {0, side, 0, side, centre, side, 0, side, 0};
	half w16[9];
	for (int i = 0; i < 9; i++)
		w16[i] = half_from_float(tap[i]);
	numpy_rng g;
	numpy_seed(&g, 3);
	double *x = draws(&g, N * N);
	half *x16 = halves(x, N * N);
	for (int i = 0; i < N * N; i++)
		out[i] = (float)x[i];
	for (int s = 0; s < STEPS; s++) {
		for (int i = 0; i < N; i++)
			memcpy(in + (i + 1) * (N + 2) + 1, out + i * N, N * sizeof *out);
		for (int i = 0; i < N; i++)
			for (int j = 0; j < N; j++) {
				float sum = 0;
				for (int t = 0; t < 9; t++)
					sum = fmaf(in[(i + t / 3) * (N + 2) + j + t % 3], tap[t], sum);
				out[i * N + j] = sum;
			}
	}
	for (int i = 0; i < N * N; i++)
		x[i] = (double)out[i];
	an_ctx *ctx = device_ctx(0);
	static const double published[] = {1.4647346688676309e-3, 1.3931483142566859e-2};
	for (int how = 0; how < 2; how++) {
		half *y = run(ctx, how ? winograd : direct, &c, x16, w16, NULL);
		expect_error("stencil", relative_error(y, x, N * N), published[how], 1e-12);
		free(y);
	}
	free(x), free(x16);
	an_ctx_close(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_integers),
					   cmocka_unit_test(test_convolutions),
					   cmocka_unit_test(test_stencil)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
