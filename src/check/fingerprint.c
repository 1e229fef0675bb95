/* The computations whose relative errors were published of chips: ANEForge's benchmarks, drawn, built and
 * referenced as those do it (bench/device_saturation_sweep.py, device_compare*.py).
 *
 * NumPy's rules for types decide digits: a float32 array divided by a float64 number becomes float64, one
 * divided by a Python number stays float32.  `draw` has a comment wherever that matters. */
#include "anneal/check.h"

#include "base/base.h"
#include "base/half.h"
#include "base/pool.h"
#include "check/numpy.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define MAX_INPUTS  3
#define MAX_OUTPUTS 2

typedef struct recipe {
	an_recipe info;
	an_status (*make)(an_fingerprint *f, const int *size);
	int size[4];
} recipe;

struct an_fingerprint {
	an_ctx *ctx;
	arena arena;
	numpy_rng rng;
	an_program *program;
	an_builder b;
	int ninputs, noutputs;
	const half *input[MAX_INPUTS];
	const double *reference[MAX_OUTPUTS];
	int64_t compared[MAX_OUTPUTS]; /* elements of the output that the reference has, from the first on */
};

/* ---- Numbers ----------------------------------------------------------------------- */

/* Whether memory ran out shows in NULL, which all of these take and give. */
static double *doubles(an_fingerprint *f, int64_t n)
{
	return arena_array(&f->arena, (size_t)n, sizeof(double));
}

/* standard_normal(n).astype(float32). */
static double *draw(an_fingerprint *f, int64_t n)
{
	double *x = doubles(f, n);
	for (int64_t i = 0; x && i < n; i++)
		x[i] = (float)numpy_normal(&f->rng);
	return x;
}

/* Times a float64 number: the product is float64. */
static double *scaled(double *x, int64_t n, double factor)
{
	for (int64_t i = 0; x && i < n; i++)
		x[i] *= factor;
	return x;
}

/* Divided by a float64 number: likewise. */
static double *divided(double *x, int64_t n, double by)
{
	for (int64_t i = 0; x && i < n; i++)
		x[i] /= by;
	return x;
}

/* x * factor + shift in float32. */
static double *scaled_single(double *x, int64_t n, float factor, float shift)
{
	for (int64_t i = 0; x && i < n; i++)
		x[i] = (float)x[i] * factor + shift;
	return x;
}

/* Rounded once to fp16. */
static half *halves(an_fingerprint *f, const double *x, int64_t n)
{
	half *h = x ? arena_array(&f->arena, (size_t)n, sizeof *h) : NULL;
	for (int64_t i = 0; h && i < n; i++)
		h[i] = half_from_double(x[i]);
	return h;
}

/* ---- References, in double precision ------------------------------------------------ */

typedef struct product {
	const double *x, *w;
	double *y;
	int64_t m, n, k;
} product;

enum { BLOCK = 16 }; /* rows of w that stay in cache while all of x pass */

static void product_block(void *arg, int64_t block, int worker)
{
	(void)worker;
	const product *p = arg;
	for (int64_t i = 0; i < p->m; i++)
		for (int64_t j = block * BLOCK; j < MIN(p->n, (block + 1) * BLOCK); j++) {
			const double *x = p->x + i * p->k, *w = p->w + j * p->k;
			double part[8] = {0}, sum = 0;
			int64_t l = 0;
			for (; l + 8 <= p->k; l += 8)
				for (int q = 0; q < 8; q++)
					part[q] += x[l + q] * w[l + q];
			for (; l < p->k; l++)
				sum += x[l] * w[l];
			for (int q = 0; q < 8; q++)
				sum += part[q];
			p->y[i * p->n + j] = sum;
		}
}

/* y[m][n] = x[m][k] w[n][k]^T */
static double *multiply(an_fingerprint *f, const double *x, const double *w, int64_t m, int64_t n, int64_t k)
{
	product p = {x, w, doubles(f, m * n), m, n, k};
	if (!x || !w || !p.y)
		return NULL;
	pool_run(ctx_pool(f->ctx), product_block, &p, (n + BLOCK - 1) / BLOCK);
	return p.y;
}

typedef struct convolution {
	const double *x, *w;
	double *y;
	int in, side;
} convolution;

/* One channel of a 3x3 convolution with a border of zeros: x [in][side][side], w [out][in][3][3]. */
static void convolve_channel(void *arg, int64_t o, int worker)
{
	(void)worker;
	const convolution *c = arg;
	const int s = c->side;
	double *y = c->y + o * s * s;
	for (int i = 0; i < c->in; i++)
		for (int tap = 0; tap < 9; tap++) {
			const int dy = tap / 3 - 1, dx = tap % 3 - 1;
			const double w = c->w[(o * c->in + i) * 9 + tap], *x = c->x + (int64_t)i * s * s;
			for (int r = MAX(0, -dy); r < MIN(s, s - dy); r++)
				for (int q = MAX(0, -dx); q < MIN(s, s - dx); q++)
					y[r * s + q] += w * x[(r + dy) * s + q + dx];
		}
}

static double *convolve(an_fingerprint *f, const double *x, const double *w, int in, int out, int side)
{
	convolution c = {x, w, doubles(f, (int64_t)out * side * side), in, side};
	if (!x || !w || !c.y)
		return NULL;
	pool_run(ctx_pool(f->ctx), convolve_channel, &c, out);
	return c.y;
}

/* ---- Programs ------------------------------------------------------------------------ */

#define SHAPE(...)                                                                    \
	an_tensor(AN_FP16, (int)(sizeof((int32_t[]){__VA_ARGS__}) / sizeof(int32_t)), \
		  (int32_t[]){__VA_ARGS__})

/* An input that holds x rounded to fp16. */
static an_value input(an_fingerprint *f, const char *name, an_type t, const double *x)
{
	f->input[f->ninputs++] = halves(f, x, an_type_count(&t));
	return an_input(&f->b, name, t);
}

/* A constant: x rounded to fp16. */
static an_value constant(an_fingerprint *f, const char *name, an_type t, const double *x)
{
	const half *h = halves(f, x, an_type_count(&t));
	return h ? an_const(&f->b, name, t, h) : AN_NO_VALUE;
}

/* v is an output, of which the reference has the first n elements. */
static an_status output(an_fingerprint *f, an_value v, const char *name, const double *reference, int64_t n)
{
	f->reference[f->noutputs] = reference;
	f->compared[f->noutputs++] = n;
	an_output(&f->b, an_name(&f->b, v, name));
	return AN_OK;
}

static an_value linear(an_fingerprint *f, an_value x, an_value w)
{
	an_value y = AN_NO_VALUE;
	const an_arg args[] = {{"x", AN_ARG_VALUE, 1, {.value = x}},
			       {"weight", AN_ARG_VALUE, 1, {.value = w}}};
	an_emit(&f->b, an_op_find("linear"), NULL, args, LENGTH(args), &y, 1);
	return y;
}

static an_value conv3x3(an_fingerprint *f, an_value x, an_value w)
{
	static const int32_t ones[] = {1, 1, 1, 1};
	an_value y = AN_NO_VALUE;
	const an_arg args[] = {
	    {"x", AN_ARG_VALUE, 1, {.value = x}},        {"weight", AN_ARG_VALUE, 1, {.value = w}},
	    {"strides", AN_ARG_INTS, 2, {.ints = ones}}, {"pad_type", AN_ARG_STRING, 1, {.s = "custom"}},
	    {"pad", AN_ARG_INTS, 4, {.ints = ones}},     {"dilations", AN_ARG_INTS, 2, {.ints = ones}},
	    {"groups", AN_ARG_INT, 1, {.i = 1}}};
	an_emit(&f->b, an_op_find("conv"), NULL, args, LENGTH(args), &y, 1);
	return y;
}

/* rsqrt(x) with nothing added to x. */
static an_value rsqrt(an_fingerprint *f, an_value x)
{
	an_value y = AN_NO_VALUE;
	const an_arg args[] = {{"x", AN_ARG_VALUE, 1, {.value = x}}, {"epsilon", AN_ARG_FLOAT, 1, {.f = 0}}};
	an_emit(&f->b, an_op_find("rsqrt"), NULL, args, LENGTH(args), &y, 1);
	return y;
}

/* ---- Matrix products ------------------------------------------------------------------ */

/* size: n, of which 256 rows are compared.  float32 / float32(sqrt(n)). */
static an_status make_square(an_fingerprint *f, const int *size)
{
	const int n = size[0], rows = MIN(n, 256);
	const int64_t count = (int64_t)n * n;
	const float root = (float)sqrt(n);
	numpy_seed(&f->rng, 0);
	double *x = draw(f, count), *w = draw(f, count);
	for (int64_t i = 0; x && w && i < count; i++) {
		x[i] = (float)x[i] / root;
		w[i] = (float)w[i] / root;
	}
	an_value y = linear(f, input(f, "x", SHAPE(n, n), x), constant(f, "w", SHAPE(n, n), w));
	return output(f, y, "y", multiply(f, x, w, rows, n, n), (int64_t)rows * n);
}

/* size: m, k, n. */
static an_status make_product(an_fingerprint *f, const int *size)
{
	const int m = size[0], k = size[1], n = size[2];
	numpy_seed(&f->rng, 0);
	double *x = divided(draw(f, (int64_t)m * k), (int64_t)m * k, sqrt(k));
	double *w = divided(draw(f, (int64_t)n * k), (int64_t)n * k, sqrt(k));
	an_value y = linear(f, input(f, "x", SHAPE(m, k), x), constant(f, "w", SHAPE(n, k), w));
	return output(f, y, "y", multiply(f, x, w, m, n, k), (int64_t)m * n);
}

/* size: n. */
static an_status make_dft(an_fingerprint *f, const int *size)
{
	const int n = size[0];
	const int64_t count = (int64_t)n * n;
	numpy_seed(&f->rng, 2);
	double *x = doubles(f, n), *re = doubles(f, count), *im = doubles(f, count);
	for (int i = 0; x && i < n; i++)
		x[i] = numpy_normal(&f->rng); /* float64 here */
	for (int64_t i = 0; re && im && i < count; i++) {
		double angle = -2 * 3.14159265358979323846 * (double)(i / n * (i % n)) / n;
		re[i] = cos(angle);
		im[i] = sin(angle);
	}
	an_value in = input(f, "x", SHAPE(1, n), x);
	an_value c = linear(f, in, constant(f, "cosines", SHAPE(n, n), re));
	an_value s = linear(f, in, constant(f, "sines", SHAPE(n, n), im));
	TRY(output(f, c, "re", multiply(f, x, re, 1, n, n), n));
	return output(f, s, "im", multiply(f, x, im, 1, n, n), n);
}

/* size: n, iterations.  x <- (b - R x) / d for A = R + diag(d) = M M^T / n + n I. */
static an_status make_jacobi(an_fingerprint *f, const int *size)
{
	const int n = size[0], steps = size[1];
	numpy_seed(&f->rng, 8);
	double *m = draw(f, (int64_t)n * n), *b = draw(f, n), *d = doubles(f, n), *inverse = doubles(f, n);
	double *r = multiply(f, m, m, n, n, n), *x = doubles(f, n);
	if (!r || !b || !d || !inverse || !x)
		return AN_OK;
	for (int i = 0; i < n; i++)
		for (int j = 0; j < n; j++)
			r[i * n + j] = (float)r[i * n + j] / (float)n;
	for (int i = 0; i < n; i++) {
		d[i] = (float)r[i * n + i] + (float)n;
		inverse[i] = 1.0f / (float)d[i];
		r[i * n + i] = 0;
	}
	an_value start = input(f, "x", SHAPE(1, n), x), vb = input(f, "b", SHAPE(1, n), b);
	an_value vd = input(f, "d", SHAPE(1, n), inverse), vr = constant(f, "r", SHAPE(n, n), r), y = start;
	for (int i = 0; i < steps; i++)
		y = an_mul(&f->b, an_sub(&f->b, vb, linear(f, y, vr)), vd);
	for (int i = 0; i < steps; i++) {
		double *next = multiply(f, x, r, 1, n, n);
		for (int j = 0; next && j < n; j++)
			next[j] = (b[j] - next[j]) / d[j];
		if (!(x = next))
			break;
	}
	return output(f, y, "y", x, n);
}

/* ---- Convolutions --------------------------------------------------------------------- */

/* size: in, out, side, images, of which the first is compared; with one image relu follows.  The weights'
 * scale is a float64 number. */
static an_status make_conv(an_fingerprint *f, const int *size)
{
	const int in = size[0], out = size[1], side = size[2], images = size[3];
	const int64_t weights = (int64_t)out * in * 9, results = (int64_t)out * side * side;
	numpy_seed(&f->rng, 1);
	double *x = draw(f, (int64_t)images * in * side * side);
	double *w = scaled(draw(f, weights), weights, sqrt(2.0 / (in * 9)));
	double *reference = convolve(f, x, w, in, out, side);
	an_value y = conv3x3(f, input(f, "x", SHAPE(images, in, side, side), x),
			     constant(f, "w", SHAPE(out, in, 3, 3), w));
	if (images == 1) {
		y = an_unary(&f->b, "relu", y);
		for (int64_t i = 0; reference && i < results; i++)
			reference[i] = fmax(reference[i], 0);
	}
	return output(f, y, "y", reference, results);
}

/* size: side, steps.  The reference is float32, a fused multiply-add for each tap in raster order. */
static an_status make_stencil(an_fingerprint *f, const int *size)
{
	const int side = size[0], steps = size[1];
	const float a = 0.1f * 1, centre = 0.1f * -4 + 1;
	const double taps[9] = {0, a, 0, a, centre, a, 0, a, 0};
	const int64_t n = (int64_t)side * side;
	numpy_seed(&f->rng, 3);
	double *x = draw(f, n);
	an_value y = input(f, "u", SHAPE(1, 1, side, side), x), w = constant(f, "w", SHAPE(1, 1, 3, 3), taps);
	for (int i = 0; i < steps; i++)
		y = conv3x3(f, y, w);
	for (int i = 0; x && i < steps; i++) {
		double *next = doubles(f, n);
		for (int64_t j = 0; next && j < n; j++) {
			int r = (int)(j / side), c = (int)(j % side);
			float sum = 0;
			for (int tap = 0; tap < 9; tap++) {
				int u = r + tap / 3 - 1, v = c + tap % 3 - 1;
				bool inside = u >= 0 && u < side && v >= 0 && v < side;
				sum = fmaf((float)taps[tap], inside ? (float)x[u * side + v] : 0, sum);
			}
			next[j] = sum;
		}
		x = next;
	}
	return output(f, y, "y", x, n);
}

/* ---- Normalisations -------------------------------------------------------------------- */

/* Scale and shift of n channels: 1 + 0.1 n in float32, 0.1 n. */
static void affine(an_fingerprint *f, int n, double **gamma, double **beta)
{
	*gamma = scaled_single(draw(f, n), n, 0.1f, 1);
	*beta = scaled_single(draw(f, n), n, 0.1f, 0);
}

/* (x - mean) / sqrt(variance + 1e-5) of `n` elements; without mean: root mean square. */
static void normalise(const double *x, double *y, int64_t n, bool centred)
{
	double mean = 0, square = 0;
	for (int64_t i = 0; centred && i < n; i++)
		mean += x[i] / (double)n;
	for (int64_t i = 0; i < n; i++)
		square += (x[i] - mean) * (x[i] - mean) / (double)n;
	for (int64_t i = 0; i < n; i++)
		y[i] = (x[i] - mean) / sqrt(square + 1e-5);
}

/* size: rows, columns. */
static an_status make_layer_norm(an_fingerprint *f, const int *size)
{
	const int rows = size[0], n = size[1];
	const int64_t count = (int64_t)rows * n;
	double *gamma, *beta, *reference = doubles(f, count);
	numpy_seed(&f->rng, 7);
	double *x = draw(f, count);
	affine(f, n, &gamma, &beta);
	if (!reference || !x || !gamma || !beta)
		return AN_OK;
	for (int64_t i = 0; i < count; i++) {
		if (i % n == 0)
			normalise(x + i, reference + i, n, true);
		reference[i] = reference[i] * gamma[i % n] + beta[i % n];
	}
	an_builder *b = &f->b;
	an_value in = input(f, "x", SHAPE(rows, n), x);
	an_value centred = an_sub(b, in, an_reduce(b, "reduce_mean", in, 1, true));
	an_value variance = an_reduce(b, "reduce_mean", an_mul(b, centred, centred), 1, true);
	an_value y = an_mul(b, centred, rsqrt(f, an_add(b, variance, an_scalar(b, AN_FP16, 1e-5))));
	y = an_mul(b, y, constant(f, "gamma", SHAPE(1, n), gamma));
	return output(f, an_add(b, y, constant(f, "beta", SHAPE(1, n), beta)), "y", reference, count);
}

/* size: rows, columns. */
static an_status make_rms_norm(an_fingerprint *f, const int *size)
{
	const int rows = size[0], n = size[1];
	const int64_t count = (int64_t)rows * n;
	double *gamma, *beta, *reference = doubles(f, count);
	numpy_seed(&f->rng, 7);
	double *x = draw(f, count);
	affine(f, n, &gamma, &beta);
	if (!reference || !x || !gamma)
		return AN_OK;
	for (int64_t i = 0; i < count; i++) {
		if (i % n == 0)
			normalise(x + i, reference + i, n, false);
		reference[i] *= gamma[i % n];
	}
	for (int i = 0; i < n; i++) /* it was given as fp16, and the product is rounded again */
		gamma[i] = (double)half_to_float(half_from_double(gamma[i])) * sqrt(n);
	an_builder *b = &f->b;
	an_value in = input(f, "x", SHAPE(rows, n), x);
	an_value norm =
	    an_binary(b, "maximum", an_reduce(b, "reduce_l2_norm", in, 1, true), an_scalar(b, AN_FP16, 1e-5));
	an_value y = an_mul(b, an_binary(b, "real_div", in, norm), constant(f, "gamma", SHAPE(1, n), gamma));
	return output(f, y, "y", reference, count);
}

/* size: channels, side, groups. */
static an_status make_group_norm(an_fingerprint *f, const int *size)
{
	const int channels = size[0], side = size[1], groups = size[2], area = side * side;
	const int64_t count = (int64_t)channels * area, group = count / groups;
	double *gamma, *beta, *reference = doubles(f, count);
	numpy_seed(&f->rng, 7);
	double *x = draw(f, count);
	affine(f, channels, &gamma, &beta);
	if (!reference || !x || !gamma || !beta)
		return AN_OK;
	for (int64_t i = 0; i < count; i++) {
		if (i % group == 0)
			normalise(x + i, reference + i, group, true);
		reference[i] = reference[i] * gamma[i / area] + beta[i / area];
	}
	const int32_t folded[] = {1, groups, channels / groups, area}, image[] = {1, channels, side, side};
	an_builder *b = &f->b;
	an_value in = an_reshape(b, input(f, "x", an_tensor(AN_FP16, 4, image), x), 4, folded);
	an_value mean = an_reduce(b, "reduce_sum", an_reduce(b, "reduce_sum", in, 3, true), 2, true);
	an_value centred = an_sub(b, in, an_scale(b, mean, 1.0 / (double)group));
	an_value square = an_mul(b, centred, centred);
	square = an_reduce(b, "reduce_sum", an_reduce(b, "reduce_sum", square, 3, true), 2, true);
	square = an_add(b, an_scale(b, square, 1.0 / (double)group), an_scalar(b, AN_FP16, 1e-5));
	an_value y = an_reshape(b, an_mul(b, centred, rsqrt(f, square)), 4, image);
	y = an_mul(b, y, constant(f, "gamma", SHAPE(1, channels, 1, 1), gamma));
	y = an_add(b, y, constant(f, "beta", SHAPE(1, channels, 1, 1), beta));
	return output(f, y, "y", reference, count);
}

/* ---- Attention -------------------------------------------------------------------------- */

/* Columns head * size ... of x [rows][n], transposed if asked for. */
static double *head_of(an_fingerprint *f, const double *x, int rows, int n, int head, int size, bool turned)
{
	double *h = x ? doubles(f, (int64_t)rows * size) : NULL;
	for (int i = 0; h && i < rows; i++)
		for (int j = 0; j < size; j++)
			h[turned ? j * rows + i : i * size + j] = x[i * n + head * size + j];
	return h;
}

/* x w^T + b, rows x n. */
static double *projection(an_fingerprint *f, const double *x, const double *w, const double *b, int rows,
			  int n)
{
	double *y = multiply(f, x, w, rows, n, n);
	for (int64_t i = 0; y && i < (int64_t)rows * n; i++)
		y[i] += b[i % n];
	return y;
}

static const double *attention(an_fingerprint *f, const double *x, double *const w[4], double *const b[4],
			       int rows, int n, int heads)
{
	const int size = n / heads;
	double *qkv[3], *mixed = doubles(f, (int64_t)rows * n);
	for (int i = 0; i < 3; i++)
		qkv[i] = projection(f, x, w[i], b[i], rows, n);
	for (int h = 0; h < heads; h++) {
		double *q = head_of(f, qkv[0], rows, n, h, size, false),
		       *k = head_of(f, qkv[1], rows, n, h, size, false);
		double *s = multiply(f, q, k, rows, rows, size);
		for (int i = 0; s && i < rows; i++) {
			double *row = s + (int64_t)i * rows, top = row[0], sum = 0;
			for (int j = 1; j < rows; j++)
				top = fmax(top, row[j]);
			for (int j = 0; j < rows; j++)
				sum += row[j] = exp((row[j] - top) / sqrt(size));
			divided(row, rows, sum);
		}
		double *o = multiply(f, s, head_of(f, qkv[2], rows, n, h, size, true), rows, size, rows);
		if (!o || !mixed)
			return NULL;
		for (int i = 0; i < rows; i++)
			memcpy(mixed + (int64_t)i * n + h * size, o + (int64_t)i * size,
			       (size_t)size * sizeof *o);
	}
	return projection(f, mixed, w[3], b[3], rows, n);
}

/* size: rows, width, heads. */
static an_status make_attention(an_fingerprint *f, const int *size)
{
	const int rows = size[0], n = size[1], heads = size[2], each = n / heads;
	const int64_t weights = (int64_t)n * n;
	static const char *const names[] = {"wq", "wk", "wv", "wo", "bq", "bk", "bv", "bo"};
	double *w[4], *bias[4];
	numpy_seed(&f->rng, 5);
	for (int i = 0; i < 4; i++)
		w[i] = scaled(draw(f, weights), weights, 1 / sqrt(n)); /* a float64 number */
	for (int i = 0; i < 4; i++)
		bias[i] = scaled_single(draw(f, n), n, 0.01f, 0);
	double *x = draw(f, (int64_t)rows * n);
	for (int i = 0; i < 4; i++)
		if (!w[i] || !bias[i] || !x)
			return AN_OK;
	an_builder *b = &f->b;
	an_value in = input(f, "x", SHAPE(rows, n), x), part[3];
	for (int i = 0; i < 3; i++) {
		an_value p = linear(f, in, constant(f, names[i], SHAPE(n, n), w[i]));
		p = an_add(b, p, constant(f, names[4 + i], SHAPE(1, n), bias[i]));
		p = an_reshape(b, p, 4, (int32_t[]){1, rows, heads, each});
		part[i] = an_transpose(b, p, 4, (int32_t[]){0, 2, 1, 3});
	}
	an_value s = an_scale(b, an_matmul(b, part[0], part[1], false, true), 1 / sqrt(each));
	an_value o = an_matmul(b, an_softmax(b, s, 3), part[2], false, false);
	o = an_reshape(b, an_transpose(b, o, 4, (int32_t[]){0, 2, 1, 3}), 2, (int32_t[]){rows, n});
	o = an_add(b, linear(f, o, constant(f, names[3], SHAPE(n, n), w[3])),
		   constant(f, names[7], SHAPE(1, n), bias[3]));
	return output(f, o, "y", attention(f, x, w, bias, rows, n, heads), (int64_t)rows * n);
}

/* ---- The table -------------------------------------------------------------------------- */

/* Sums in double precision of up to 2048 terms, in an order that is not NumPy's: 2^-53 for each of their
 * additions, mostly cancelling over 10^5 elements, against differences of 10^-3 of the result. */
#define DOUBLE 1e-12
/* References that NumPy computes in single precision: errors of 10^-7, unrelated to the device's of 5 10^-4,
 * which they raise by the square of the ratio. */
#define SINGLE 1e-7

static const recipe recipes[] = {
    {{"gemm-512", "512 x 512 by 512 x 512 transposed, seed 0, both over sqrt(512); 256 rows", DOUBLE},
     make_square,
     {512}},
    {{"gemm-1024", "the same of size 1024", DOUBLE}, make_square, {1024}},
    {{"gemm-2048", "the same of size 2048", DOUBLE}, make_square, {2048}},
    {{"gemm-64x256x256", "64 x 256 by 256 x 256 transposed, seed 0, both over sqrt(256)", DOUBLE},
     make_product,
     {64, 256, 256}},
    {{"gemm-128x1024x1024", "128 x 1024 by 1024 x 1024 transposed, seed 0, both over sqrt(1024)", DOUBLE},
     make_product,
     {128, 1024, 1024}},
    {{"dft-1024", "discrete Fourier transform of 1024 numbers, seed 2, as products with cosines and sines",
      DOUBLE},
     make_dft,
     {1024}},
    {{"jacobi-512", "25 steps of Jacobi's method for 512 unknowns, seed 8: matmul, sub, mul", SINGLE},
     make_jacobi,
     {512, 25}},
    {{"conv-64", "3x3 convolution of 8 images of 64 channels, 64 x 64, seed 1; the first image", DOUBLE},
     make_conv,
     {64, 64, 64, 8}},
    {{"conv-128", "the same with 128 channels", DOUBLE}, make_conv, {128, 128, 64, 8}},
    {{"conv-relu", "3x3 convolution of 16 channels, 32 x 32, into 64, then relu, seed 1", DOUBLE},
     make_conv,
     {16, 64, 32, 1}},
    {{"stencil", "32 steps of the heat equation on 256 x 256, seed 3, each a 3x3 convolution", DOUBLE},
     make_stencil,
     {256, 32}},
    {{"layer-norm", "layer_norm of 197 x 768, seed 7, in elementary operations", SINGLE},
     make_layer_norm,
     {197, 768}},
    {{"rms-norm", "rms_norm of 197 x 768, seed 7: reduce_l2_norm, maximum, real_div, mul", SINGLE},
     make_rms_norm,
     {197, 768}},
    {{"group-norm", "group_norm of 256 channels, 64 x 64, in 32 groups, seed 7, in elementary operations",
      SINGLE},
     make_group_norm,
     {256, 64, 32}},
    {{"attention-197", "12 heads of attention on 197 tokens of width 768, seed 5, in elementary operations",
      DOUBLE},
     make_attention,
     {197, 768, 12}},
    {{"attention-512", "the same on 512 tokens", DOUBLE}, make_attention, {512, 768, 12}},
};

const an_recipe *an_recipe_at(int i) { return i >= 0 && i < LENGTH(recipes) ? &recipes[i].info : NULL; }

int an_recipe_find(const char *id)
{
	for (int i = 0; i < LENGTH(recipes); i++)
		if (!strcmp(recipes[i].info.id, id))
			return i;
	return -1;
}

/* ---- Measuring ---------------------------------------------------------------------------- */

void an_fingerprint_free(an_fingerprint *f)
{
	if (!f)
		return;
	an_program_free(f->program);
	arena_free(&f->arena);
	mem_free(f->ctx, f, sizeof *f);
}

static an_status make(an_fingerprint *f, const recipe *r)
{
	an_function *function;
	TRY(an_program_new(f->ctx, &f->program));
	TRY(an_function_new(f->program, "main", &function));
	f->b = an_builder_on(function);
	TRY(r->make(f, r->size));
	for (int i = 0; i < f->ninputs; i++)
		if (!f->input[i])
			return fail_memory(f->ctx, 0);
	for (int i = 0; i < f->noutputs; i++)
		if (!f->reference[i])
			return fail_memory(f->ctx, 0);
	return f->noutputs ? an_builder_finish(&f->b) : fail_memory(f->ctx, 0);
}

an_status an_fingerprint_new(an_ctx *ctx, int index, an_fingerprint **out)
{
	*out = NULL;
	if (!an_recipe_at(index))
		return fail(ctx, AN_USAGE, "there is no fingerprint number %d", index);
	an_fingerprint *f = mem_zalloc(ctx, sizeof *f);
	if (!f)
		return fail_memory(ctx, sizeof *f);
	f->ctx = ctx;
	arena_init(&f->arena, ctx);
	an_status s = make(f, &recipes[index]);
	if (s == AN_OK)
		*out = f;
	else
		an_fingerprint_free(f);
	return s;
}

an_program *an_fingerprint_program(const an_fingerprint *f) { return f->program; }

static double relative_error(const half *y, const double *want, int64_t n)
{
	double error = 0, size = 0;
	for (int64_t i = 0; i < n; i++) {
		double d = (double)half_to_float(y[i]) - want[i];
		error += d * d;
		size += want[i] * want[i];
	}
	return sqrt(error / size);
}

static an_status run(an_fingerprint *f, an_device *d, an_call *c, const an_executable *e, double *error)
{
	an_buffer *out[MAX_OUTPUTS] = {0};
	an_type t;
	const char *name;
	for (int i = 0; (name = an_executable_input(e, i, &t)); i++) {
		an_buffer *b;
		TRY(an_buffer_new(d, &t, &b));
		an_status s = an_call_bind(c, name, b);
		memcpy(an_buffer_map(b), f->input[i], an_type_bytes(&t));
		an_buffer_unmap(b);
		an_buffer_free(b); /* the call keeps it */
		TRY(s);
	}
	for (int i = 0; (name = an_executable_output(e, i, &t)); i++) {
		TRY(an_buffer_new(d, &t, &out[i]));
		an_status s = an_call_bind(c, name, out[i]);
		an_buffer_free(out[i]);
		TRY(s);
	}
	TRY(an_call_run(c));
	*error = 0; /* the mean of the outputs' */
	for (int i = 0; i < f->noutputs; i++) {
		*error +=
		    relative_error(an_buffer_map(out[i]), f->reference[i], f->compared[i]) / f->noutputs;
		an_buffer_unmap(out[i]);
	}
	return AN_OK;
}

an_status an_fingerprint_measure(an_fingerprint *f, an_device *d, double *error)
{
	an_executable *e;
	an_call *c;
	TRY(an_compile(d, an_program_function(f->program, NULL), &e));
	an_status s = an_call_new(e, &c);
	if (s == AN_OK) {
		s = run(f, d, c, e, error);
		an_call_free(c);
	}
	an_executable_free(e);
	return s;
}

/* Significant digits of a printed number. */
static int digits_of(const char *figure)
{
	int n = 0;
	for (const char *c = figure; *c && *c != 'e'; c++)
		n += *c >= '0' && *c <= '9' && (n > 0 || *c != '0');
	return n;
}

an_verdict an_fingerprint_verdict(const an_recipe *r, const an_published *p, double measured)
{
	if (!p)
		return AN_UNPUBLISHED;
	char mine[64], theirs[64];
	double figure = strtod(p->figure, NULL);
	int after = MAX(digits_of(p->figure) - 1, 0);
	snprintf(mine, sizeof mine, "%.*e", after, measured);
	snprintf(theirs, sizeof theirs, "%.*e", after, figure);
	if (!strcmp(mine, theirs) || fabs(measured - figure) <= r->slack * figure)
		return AN_EQUAL;
	return p->explained ? AN_DIFFERS : AN_UNEXPLAINED;
}
