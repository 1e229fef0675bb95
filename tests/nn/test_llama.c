/* The Llama functions against a double-precision Llama written from the formulas
 * (support/nn_reference.c).  The programs are evaluated in double precision too, so what is compared
 * is their mathematics, to the rounding errors of double.  Only constants are fp16 in them: cosines,
 * sines and 1/sqrt(head_dim) are rounded in the reference as well; those of RMSNorm are exact because
 * the dims here are square numbers and epsilon is a power of two. */
#include "anneal/device.h"
#include "anneal/nn.h"
#include "anneal/pass.h"
#include "base/base.h"
#include "base/half.h"
#include "base/random.h"
#include "support/nn_reference.h"
#include "support/pass_eval.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

static an_ctx *ctx;

static int open_ctx(void **state)
{
	(void)state;
	return an_ctx_open(NULL, &ctx) == AN_OK ? 0 : -1;
}
static int close_ctx(void **state)
{
	(void)state;
	an_ctx_close(ctx);
	return 0;
}

static void ok(an_status s)
{
	if (s != AN_OK)
		fail_msg("%s: %s", an_status_name(s), an_message(ctx));
}

/* ---- Values by name ------------------------------------------------------------------ */

typedef struct values {
	struct {
		const char *name;
		double *data;
		int64_t n;
	} item[256];
	int n;
} values;

static double *value(const values *v, const char *name)
{
	for (int i = 0; i < v->n; i++)
		if (strcmp(v->item[i].name, name) == 0)
			return v->item[i].data;
	return NULL;
}

/* The named value, created with n zeros if it is not there. */
static double *demand(values *v, const char *name, int64_t n)
{
	double *p = value(v, name);
	if (p)
		return p;
	assert_true(v->n < LENGTH(v->item));
	p = calloc((size_t)n, sizeof *p);
	assert_non_null(p);
	v->item[v->n].name = name;
	v->item[v->n].n = n;
	v->item[v->n++].data = p;
	return p;
}

static void drop(values *v)
{
	for (int i = 0; i < v->n; i++)
		free(v->item[i].data);
	v->n = 0;
}

/* Evaluates f on the values of its inputs' names and stores its outputs under theirs. */
static void run(const an_function *f, int flags, values *v)
{
	const double *in[64];
	double *out[64];
	assert_true(f->ninputs <= 64 && f->noutputs <= 64);
	for (int i = 0; i < an_function_inputs(f); i++) {
		const char *name = an_value_name(f, an_function_input(f, i));
		in[i] = value(v, name);
		if (!in[i])
			fail_msg("%s needs %s", an_function_name(f), name);
	}
	for (int i = 0; i < an_function_outputs(f); i++) {
		an_value o = an_function_output(f, i);
		out[i] = demand(v, an_value_name(f, o), an_type_count(an_value_type(f, o)));
	}
	ok(eval_function(f, flags, in, out));
}

/* As run(), on a device: values are stored as fp16, which they must fit exactly. */
static void run_on(an_device *device, an_function *f, values *v)
{
	an_executable *exe;
	an_call *call;
	an_buffer *buffer[128];
	int n = 0;
	ok(an_compile(device, f, &exe));
	ok(an_call_new(exe, &call));
	const char *name;
	an_type type;
	for (int i = 0; (name = an_executable_input(exe, i, &type)); i++, n++) {
		assert_true(n < LENGTH(buffer));
		ok(an_buffer_new(device, &type, &buffer[n]));
		half *to = an_buffer_map(buffer[n]);
		for (int64_t j = 0; j < an_type_count(&type); j++)
			to[j] = half_from_double(value(v, name)[j]);
		an_buffer_unmap(buffer[n]);
		ok(an_call_bind(call, name, buffer[n]));
	}
	int first = n;
	for (int i = 0; (name = an_executable_output(exe, i, &type)); i++, n++) {
		assert_true(n < LENGTH(buffer));
		ok(an_buffer_new(device, &type, &buffer[n]));
		ok(an_call_bind(call, name, buffer[n]));
	}
	ok(an_call_run(call));
	for (int i = 0; (name = an_executable_output(exe, i, &type)); i++) {
		assert_int_equal(type.dtype, AN_FP16);
		double *to = demand(v, an_value_name(f, an_function_find(f, name)), an_type_count(&type));
		const half *from = an_buffer_map(buffer[first + i]);
		for (int64_t j = 0; j < an_type_count(&type); j++)
			to[j] = half_to_float(from[j]);
		an_buffer_unmap(buffer[first + i]);
	}
	an_call_free(call);
	while (n > 0)
		an_buffer_free(buffer[--n]);
	an_executable_free(exe);
}

/* ---- Cases ---------------------------------------------------------------------------- */

typedef struct fixture {
	const char *about;
	an_llama_config c;
	int batch, tokens;
	an_model *m;
	an_program *p;
	values v;
} fixture;

#define SIZES(d, h, k, hd, f)                                                    \
	{                                                                        \
		.dim = d, .heads = h, .kv_heads = k, .head_dim = hd, .hidden = f \
	}
static const fixture cases[] = {
    {"plain", SIZES(64, 4, 4, 16, 112), .batch = 1, .tokens = 9},
    {"grouped", SIZES(64, 4, 2, 16, 50), .batch = 1, .tokens = 7},
    {"grouped batch", SIZES(64, 4, 2, 16, 96), .batch = 3, .tokens = 5},
    {"one key head", SIZES(64, 4, 1, 16, 33), .batch = 2, .tokens = 6},
    {"own head_dim", SIZES(16, 3, 3, 4, 7), .batch = 2, .tokens = 3},
    {"one token", SIZES(16, 4, 2, 4, 31), .batch = 1, .tokens = 1},
    {"dim 36", SIZES(36, 6, 2, 6, 80), .batch = 2, .tokens = 11},
    {"dim 100", SIZES(100, 10, 5, 10, 17), .batch = 2, .tokens = 2},
};

static const uint64_t seed = 2024;

/* Weights of a trained model's size (each product keeps its input's), norms around but not at 1. */
static fixture open_fixture(const fixture *from)
{
	fixture f = *from;
	f.c.layers = 1;
	f.c.vocab = 37;
	f.c.seq = 16;
	f.c.norm_eps = 0x1p-10;
	ok(an_llama_check(ctx, &f.c));
	ok(an_llama_new(ctx, &f.c, &f.m));
	ok(an_program_new(ctx, &f.p));
	for (int s = 0; s < 2; s++) {
		const an_segment *segment = an_model_segment(f.m, s);
		for (int i = 0; i < segment->nparams; i++) {
			const an_param *p = an_model_param(f.m, segment->param[i]);
			double *w = demand(&f.v, segment->input[i], p->count);
			for (int64_t j = 0; j < p->count; j++) {
				double z = random_normal(seed, (uint64_t)segment->param[i], (uint64_t)j);
				w[j] = p->rank == 1 ? 1 + 0.2 * z : z / sqrt(p->dim[1]);
			}
		}
	}
	int64_t n = (int64_t)f.c.dim * f.batch * f.tokens;
	double *x = demand(&f.v, "x", n);
	for (int64_t j = 0; j < n; j++)
		x[j] = random_normal(seed, 100, (uint64_t)j);
	return f;
}

static void close_fixture(fixture *f)
{
	drop(&f->v);
	an_program_free(f->p);
	an_model_free(f->m);
}

/* Columns b*T.. of [channels, S] <-> the rows of sequence b. */
static void to_rows(const double *matrix, int channels, int s, int first, int tokens, double *rows)
{
	for (int t = 0; t < tokens; t++)
		for (int c = 0; c < channels; c++)
			rows[t * channels + c] = matrix[(size_t)c * (size_t)s + (size_t)(first + t)];
}
static void to_columns(const double *rows, int channels, int s, int first, int tokens, double *matrix)
{
	for (int t = 0; t < tokens; t++)
		for (int c = 0; c < channels; c++)
			matrix[(size_t)c * (size_t)s + (size_t)(first + t)] = rows[t * channels + c];
}

/* The reference's answer in the layout of the program: layer [dim, S] or head [vocab, S]. */
static void reference(const fixture *f, const char *function, double *out)
{
	const an_segment *segment = an_model_segment(f->m, strcmp(function, "head") == 0);
	int s = f->batch * f->tokens, channels = segment->nparams == 2 ? f->c.vocab : f->c.dim;
	const double *w[9];
	for (int i = 0; i < segment->nparams; i++)
		w[i] = value(&f->v, segment->input[i]);
	double *x = calloc((size_t)(f->tokens * f->c.dim), sizeof *x),
	       *y = calloc((size_t)(f->tokens * channels), sizeof *y);
	assert_true(x && y);
	nn_reference r = {.config = &f->c, .constant = nn_reference_fp16};
	for (int b = 0; b < f->batch; b++) {
		to_rows(value(&f->v, "x"), f->c.dim, s, b * f->tokens, f->tokens, x);
		if (segment->nparams == 2)
			nn_reference_head(&r, w, x, f->tokens, y);
		else
			nn_reference_layer(&r, w, x, f->tokens, y);
		to_columns(y, channels, s, b * f->tokens, f->tokens, out);
	}
	free(x), free(y);
}

static double rms(const double *x, int64_t n)
{
	double sum = 0;
	for (int64_t i = 0; i < n; i++)
		sum += x[i] * x[i];
	return sqrt(sum / (double)n);
}

/* `tolerance` is relative to the root mean square. */
static void expect_close(const char *about, const double *got, const double *want, int64_t n,
			 double tolerance)
{
	double scale = rms(want, n);
	assert_true(scale > 0);
	for (int64_t i = 0; i < n; i++)
		if (!(fabs(got[i] - want[i]) <= tolerance * scale))
			fail_msg("%s: element %lld is %.17g, expected %.17g (rms %g, tolerance %g)", about,
				 (long long)i, got[i], want[i], scale, tolerance * scale);
}

/* ---- Forward ---------------------------------------------------------------------------- */

static void forward_is_a_llama(void **state)
{
	(void)state;
	for (int i = 0; i < LENGTH(cases); i++) {
		for (int head = 0; head < 2; head++) {
			fixture f = open_fixture(&cases[i]);
			const char *name = head ? "head" : "layer", *result = head ? "logits" : "y";
			an_function *fn;
			ok(an_model_build(f.m, f.p, name, f.batch, f.tokens, &fn));
			for (int j = 1; j < an_function_inputs(fn); j++)
				assert_int_equal(an_function_role(fn, an_function_input(fn, j)),
						 AN_ROLE_PARAM);
			assert_int_equal(an_function_role(fn, an_function_input(fn, 0)), AN_ROLE_DATA);
			run(fn, EVAL_EXACT, &f.v);
			int64_t n = (int64_t)(head ? f.c.vocab : f.c.dim) * f.batch * f.tokens;
			double *want = demand(&f.v, "want", n);
			reference(&f, name, want);
			expect_close(f.about, value(&f.v, result), want, n, 1e-12);
			close_fixture(&f);
		}
	}
}

/* ---- Decoding ---------------------------------------------------------------------------- */

/* Feeding a sequence in pieces of `width` against a cache gives what the whole sequence gives.  Rows of
 * the cache that hold no token are filled with what must not count. */
static void decode_in_pieces(const fixture *from, int width, an_device *device, double tolerance)
{
	fixture f = open_fixture(from);
	assert_true(f.batch == 1 && f.tokens % width == 0);
	enum { CONTEXT = 13 };
	int dim = f.c.dim, half_dim = f.c.head_dim / 2, kv = f.c.kv_heads * f.c.head_dim;
	int64_t n = (int64_t)dim * f.tokens;
	double *want = demand(&f.v, "want", n), *got = demand(&f.v, "got", n);
	reference(&f, "layer", want);

	double *all = malloc((size_t)n * sizeof *all), *rows = malloc((size_t)n * sizeof *rows);
	assert_true(all && rows);
	memcpy(all, value(&f.v, "x"), (size_t)n * sizeof *all); /* the start of "x" now is one piece */
	double *x = value(&f.v, "x");
	double *k = demand(&f.v, "k_cache", CONTEXT * kv), *v = demand(&f.v, "v_cache", CONTEXT * kv);
	double *mask = demand(&f.v, "cache_mask", CONTEXT);
	double *cosine = demand(&f.v, "rope_cos", half_dim * width),
	       *sine = demand(&f.v, "rope_sin", half_dim * width);
	for (int i = 0; i < CONTEXT * kv; i++)
		k[i] = v[i] = 100 + i;
	an_function *fn;
	ok(an_model_build_decode(f.m, f.p, width, CONTEXT, &fn));
	for (int at = 0; at < f.tokens; at += width) {
		to_rows(all, dim, f.tokens, at, width, rows);
		to_columns(rows, dim, width, 0, width, x);
		for (int i = 0; i < CONTEXT; i++)
			mask[i] = i < at ? 0 : AN_MASKED;
		for (int t = 0; t < width; t++) {
			float c[64], s[64];
			an_model_rope(f.m, at + t, c, s);
			for (int i = 0; i < half_dim; i++) {
				cosine[i * width + t] = nn_reference_fp16(c[i]);
				sine[i * width + t] = nn_reference_fp16(s[i]);
			}
		}
		if (device)
			run_on(device, fn, &f.v);
		else
			run(fn, EVAL_EXACT, &f.v);
		memcpy(k + at * kv, value(&f.v, "k_new"), (size_t)(width * kv) * sizeof *k);
		memcpy(v + at * kv, value(&f.v, "v_new"), (size_t)(width * kv) * sizeof *v);
		to_rows(value(&f.v, "y"), dim, width, 0, width, rows);
		to_columns(rows, dim, f.tokens, at, width, got);
	}
	expect_close(f.about, got, want, n, tolerance);
	free(all), free(rows);
	close_fixture(&f);
}

static void decoding_equals_training(void **state)
{
	(void)state;
	fixture grouped = {"decode, grouped", SIZES(64, 4, 2, 16, 40), .batch = 1, .tokens = 12};
	fixture plain = {"decode, plain", SIZES(16, 4, 4, 4, 9), .batch = 1, .tokens = 12};
	an_device *device;
	ok(an_device_open(ctx, &(an_device_options){.numerics = "ieee"}, &device));
	/* On the device some 25 values between x and y, and all inputs, are rounded to fp16, an error of
	 * 2^-11/sqrt(3) of elements that are up to 4 times the root mean square: sqrt(25/3) * 4 = 12 of
	 * 2^-11. */
	const double rounded = 12 * 0x1p-11;
	for (int width = 1; width <= 12; width++) {
		if (12 % width == 0) {
			decode_in_pieces(&grouped, width, NULL, 1e-12);
			decode_in_pieces(&plain, width, NULL, 1e-12);
			decode_in_pieces(&grouped, width, device, rounded);
			decode_in_pieces(&plain, width, device, rounded);
		}
	}
	an_device_close(device);
}

/* ---- Gradients ------------------------------------------------------------------------------ */

/* sum over outputs of dy * y, by the reference. */
static double objective(const fixture *f, const char *function, const double *dy, double *scratch, int64_t n)
{
	reference(f, function, scratch);
	double sum = 0;
	for (int64_t i = 0; i < n; i++)
		sum += dy[i] * scratch[i];
	return sum;
}

/* The objective's derivative along `direction` of one input: central differences of fourth order,
 * (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h.  With h = 1e-3 of inputs of size 1 both its error h^4 and
 * the rounding 1e-16/h are below 1e-11 of the function's scale. */
static double difference(const fixture *f, const char *function, double *input, const double *direction,
			 int64_t count, const double *dy, double *scratch, int64_t n)
{
	const double h = 1e-3;
	double sum = 0, *old = malloc((size_t)count * sizeof *old);
	assert_non_null(old);
	memcpy(old, input, (size_t)count * sizeof *old);
	static const struct {
		double at, weight;
	} points[] = {{1, 8}, {-1, -8}, {2, -1}, {-2, 1}};
	for (int k = 0; k < LENGTH(points); k++) {
		for (int64_t i = 0; i < count; i++)
			input[i] = old[i] + points[k].at * h * direction[i];
		sum += points[k].weight * objective(f, function, dy, scratch, n);
	}
	memcpy(input, old, (size_t)count * sizeof *old);
	free(old);
	return sum / (12 * h);
}

static void check_gradients(const fixture *from, const char *function)
{
	fixture f = open_fixture(from);
	an_function *fn, *forward, *backward;
	ok(an_model_build(f.m, f.p, function, f.batch, f.tokens, &fn));
	ok(an_grad(fn, NULL, &forward, &backward));
	bool head = strcmp(function, "head") == 0;
	int64_t n = (int64_t)(head ? f.c.vocab : f.c.dim) * f.batch * f.tokens;
	double *dy = demand(&f.v, head ? "d_logits" : "d_y", n), *scratch = demand(&f.v, "scratch", n);
	for (int64_t i = 0; i < n; i++)
		dy[i] = random_normal(seed, 101, (uint64_t)i);
	run(forward, EVAL_EXACT, &f.v);
	run(backward, EVAL_EXACT, &f.v);

	for (int i = 0; i < an_function_inputs(fn); i++) {
		an_value in = an_function_input(fn, i);
		int64_t count = an_type_count(an_value_type(fn, in));
		char name[64];
		snprintf(name, sizeof name, "d_%s", an_value_name(fn, in));
		const double *gradient = value(&f.v, name);
		double *input = value(&f.v, an_value_name(fn, in));
		if (!gradient)
			fail_msg("%s: no %s", f.about, name);
		double size =
		    sqrt((double)count) * rms(gradient, count); /* of the derivative along a unit vector */
		/* The softmax of a single score depends on nothing. */
		bool zero = f.tokens == 1 && (strcmp(name, "d_wq") == 0 || strcmp(name, "d_wk") == 0);
		assert_true(zero ? size == 0 : size > 0.1);
		/* Random directions see every element; single ones see a wrong place. */
		for (int trial = 0; trial < 6; trial++) {
			double *direction = calloc((size_t)count, sizeof *direction);
			assert_non_null(direction);
			double got = 0, length = 0;
			if (trial < 2)
				for (int64_t j = 0; j < count; j++)
					direction[j] =
					    random_normal(seed + (uint64_t)trial, 102, (uint64_t)j);
			else
				direction[random_bits(seed, 103, (uint64_t)(16 * i + trial)) %
					  (uint64_t)count] = 1;
			for (int64_t j = 0; j < count; j++)
				length += direction[j] * direction[j];
			for (int64_t j = 0; j < count; j++) {
				direction[j] /= sqrt(length);
				got += gradient[j] * direction[j];
			}
			double want = difference(&f, function, input, direction, count, dy, scratch, n);
			double bound = 1e-8 * fmax(size, 0.1);
			if (!(fabs(got - want) <= bound))
				fail_msg("%s: %s, trial %d: %.12g, differences give %.12g (bound %g)",
					 f.about, name, trial, got, want, bound);
			free(direction);
		}
	}
	close_fixture(&f);
}

static void gradients_are_differences(void **state)
{
	(void)state;
	for (int i = 0; i < LENGTH(cases); i++) {
		check_gradients(&cases[i], "layer");
		check_gradients(&cases[i], "head");
	}
}

/* ---- Range ------------------------------------------------------------------------------------ */

/* RMSNorm in fp16 arithmetic, every operation rounded, at the sizes that residual streams have: from
 * freshly initialised embeddings to outlier channels of trained models, where x*x overflows.  The head
 * is a norm and a product; with a classifier that picks single channels it shows the norm itself.
 * Roundings between input and output: r (input rounded to half an ulp in q, halved by the root, the
 * power itself), r * sqrt(a) and its constant, x * r, * w: 6 of 2^-11 at most. */
static void norm_keeps_its_precision(void **state)
{
	(void)state;
	static const struct {
		double size, outlier;
	} ranges[] = {{0.01, 0}, {0.02, 0}, {1, 0}, {30, 0}, {1, 1900}, {60, 700}};
	enum { DIM = 1024, TOKENS = 3 };
	for (int i = 0; i < LENGTH(ranges); i++) {
		fixture f = {.about = "range",
			     .c = {.dim = DIM, .layers = 1, .heads = 16, .hidden = 8, .vocab = DIM, .seq = 8},
			     .batch = 1,
			     .tokens = TOKENS};
		ok(an_llama_check(ctx, &f.c));
		ok(an_llama_new(ctx, &f.c, &f.m));
		ok(an_program_new(ctx, &f.p));
		double *norm = demand(&f.v, "norm", DIM), *out = demand(&f.v, "w_out", DIM * DIM);
		double *x = demand(&f.v, "x", DIM * TOKENS), *want = demand(&f.v, "want", DIM * TOKENS);
		double *dy = demand(&f.v, "d_logits", DIM * TOKENS);
		for (int c = 0; c < DIM; c++) {
			norm[c] = nn_reference_fp16(1 + 0.2 * random_normal(seed, 0, (uint64_t)c));
			out[c * DIM + c] = 1;
		}
		for (int j = 0; j < DIM * TOKENS; j++) {
			x[j] = nn_reference_fp16(ranges[i].size * random_normal(seed, 1, (uint64_t)j));
			dy[j] = nn_reference_fp16(random_normal(seed, 2, (uint64_t)j));
		}
		for (int t = 0; ranges[i].outlier > 0 && t < TOKENS; t++)
			x[(17 + t) * TOKENS + t] = ranges[i].outlier;
		reference(&f, "head", want);
		an_function *fn, *forward, *backward;
		ok(an_model_build(f.m, f.p, "head", 1, TOKENS, &fn));
		run(fn, EVAL_ROUND, &f.v);
		const double *got = value(&f.v, "logits");
		for (int j = 0; j < DIM * TOKENS; j++)
			if (!(fabs(got[j] - want[j]) <= 6 * 0x1p-11 * fabs(want[j]) + 0x1p-24))
				fail_msg("size %g, outlier %g: element %d is %g, expected %g", ranges[i].size,
					 ranges[i].outlier, j, got[j], want[j]);
		/* The backward stays finite; its values are checked in double above. */
		ok(an_grad(fn, NULL, &forward, &backward));
		run(forward, EVAL_ROUND, &f.v);
		run(backward, EVAL_ROUND, &f.v);
		for (int j = 0; j < DIM * TOKENS; j++)
			assert_true(isfinite(value(&f.v, "d_x")[j]));
		close_fixture(&f);
	}
}

/* ---- On the device ------------------------------------------------------------------------------- */

enum { EXACT, ROUNDED, IEEE, FAST, WAYS };
static const char *const way_name[] = {"exact", "rounded", "ieee", "fast"};

/* Builds, differentiates and runs one function on fp16 inputs in one of four ways. */
static void forward_and_backward(fixture *f, const char *function, int way)
{
	an_function *fn, *forward, *backward;
	ok(an_model_build(f->m, f->p, function, f->batch, f->tokens, &fn));
	ok(an_grad(fn, NULL, &forward, &backward));
	bool head = strcmp(function, "head") == 0;
	int64_t n = (int64_t)(head ? f->c.vocab : f->c.dim) * f->batch * f->tokens;
	double *dy = demand(&f->v, head ? "d_logits" : "d_y", n);
	for (int64_t i = 0; i < n; i++)
		dy[i] = random_normal(seed, 101, (uint64_t)i);
	for (int i = 0; i < f->v.n; i++)
		for (int64_t j = 0; j < f->v.item[i].n; j++)
			f->v.item[i].data[j] = nn_reference_fp16(f->v.item[i].data[j]);
	if (way == EXACT || way == ROUNDED) {
		int flags = way == EXACT ? EVAL_EXACT : EVAL_ROUND;
		run(forward, flags, &f->v);
		run(backward, flags, &f->v);
		return;
	}
	an_device *device;
	ok(an_device_open(ctx, &(an_device_options){.numerics = way_name[way]}, &device));
	run_on(device, forward, &f->v);
	run_on(device, backward, &f->v);
	an_device_close(device);
}

/* The device's error against exact arithmetic is that of rounding every result once to fp16, as the
 * evaluator does.  Profile ieee does the same roundings in another order of summation; its errors are as
 * large, not equal, and twice as much is never seen by chance in tensors of 16 elements and more.  Profile
 * fast may round products' operands to bf16, an error 8 times as large in each. */
static void device_errors_are_roundings(void **state)
{
	(void)state;
	for (int i = 0; i < LENGTH(cases); i++) {
		for (int head = 0; head < 2; head++) {
			const char *function = head ? "head" : "layer";
			fixture f[WAYS];
			for (int way = 0; way < WAYS; way++) {
				f[way] = open_fixture(&cases[i]);
				forward_and_backward(&f[way], function, way);
			}
			const an_function *forward =
			    an_program_function(f[0].p, head ? "head_fwd" : "layer_fwd");
			const an_function *backward =
			    an_program_function(f[0].p, head ? "head_bwd" : "layer_bwd");
			for (int o = 0; o <= an_function_outputs(backward); o++) {
				const an_function *of =
				    o ? backward : forward; /* y or logits, then all gradients */
				an_value v = an_function_output(of, o ? o - 1 : 0);
				const char *name = an_value_name(of, v);
				int64_t n = an_type_count(an_value_type(of, v));
				const double *want = value(&f[EXACT].v, name);
				double error[WAYS] = {0}, size = rms(want, n) + 0x1p-14;
				for (int way = ROUNDED; way < WAYS; way++) {
					const double *got = value(&f[way].v, name);
					for (int64_t j = 0; j < n; j++)
						error[way] += (got[j] - want[j]) * (got[j] - want[j]);
					error[way] = sqrt(error[way] / (double)n) / size;
				}
				double bound = 2 * error[ROUNDED] + 0x1p-12;
				if (getenv("ANNEAL_TEST_VERBOSE"))
					print_message("%-14s %-12s rounded %.1e  ieee %.1e  fast %.1e\n",
						      f[0].about, name, error[ROUNDED], error[IEEE],
						      error[FAST]);
				if (!(error[IEEE] <= bound && error[FAST] <= 8 * bound))
					fail_msg("%s: %s: relative errors ieee %g, fast %g, of roundings %g",
						 f[0].about, name, error[IEEE], error[FAST], error[ROUNDED]);
			}
			for (int way = 0; way < WAYS; way++)
				close_fixture(&f[way]);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(forward_is_a_llama),          cmocka_unit_test(decoding_equals_training),
	    cmocka_unit_test(gradients_are_differences),   cmocka_unit_test(norm_keeps_its_precision),
	    cmocka_unit_test(device_errors_are_roundings),
	};
	return cmocka_run_group_tests(tests, open_ctx, close_ctx);
}
