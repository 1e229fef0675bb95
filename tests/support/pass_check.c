#include "support/pass_check.h"
#include "base/random.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static int64_t count(const an_function *f, an_value v) { return an_type_count(&f->values[v].type); }
static bool is_float(const an_function *f, an_value v)
{
	return f->values[v].type.dtype == AN_FP16 || f->values[v].type.dtype == AN_FP32;
}

void free_values(double **values, size_t n)
{
	for (size_t i = 0; values && i < n; i++)
		free(values[i]);
	free(values);
}

static double **allocate(const an_function *f, const an_value *v, size_t n)
{
	double **a = calloc(n + 1, sizeof *a);
	for (size_t i = 0; a && i < n; i++)
		if (!(a[i] = calloc((size_t)count(f, v[i]), sizeof **a))) {
			free_values(a, n);
			return NULL;
		}
	return a;
}

double **output_values(const an_function *f) { return allocate(f, f->outputs, f->noutputs); }

double **random_values(const an_function *f, uint64_t seed, double low, double high)
{
	double **a = allocate(f, f->inputs, f->ninputs);
	for (size_t i = 0; a && i < f->ninputs; i++)
		for (int64_t j = 0; j < count(f, f->inputs[i]); j++) {
			double u = random_uniform(seed, i, (uint64_t)j * 2),
			       sign = random_uniform(seed, i, (uint64_t)j * 2 + 1);
			if (f->values[f->inputs[i]].type.dtype == AN_BOOL)
				a[i][j] = u < 0.5;
			else if (is_float(f, f->inputs[i]))
				a[i][j] = (low + u * (high - low)) * (sign < 0.5 ? -1 : 1);
			else
				a[i][j] = floor(4 * u);
		}
	return a;
}

an_status eval_named(const an_function *f, int flags, int n, const char *const *names, double *const *values,
		     double *const *outputs)
{
	const double **in = calloc(f->ninputs + 1, sizeof *in);
	an_status s = in ? AN_OK : fail_memory(f->program->ctx, 0);
	for (size_t i = 0; s == AN_OK && i < f->ninputs; i++) {
		const char *want = f->values[f->inputs[i]].name;
		for (int j = 0; j < n && !in[i]; j++)
			if (names[j] && strcmp(names[j], want) == 0)
				in[i] = values[j];
		if (!in[i])
			s = fail(f->program->ctx, AN_USAGE, "function %s: nothing is called %s", f->name,
				 want);
	}
	if (s == AN_OK)
		s = eval_function(f, flags, in, outputs);
	free(in);
	return s;
}

/* sum of cotangent times output, over the float outputs of f at `inputs`; `size` gets the sum of magnitudes.
 */
static an_status loss(const an_function *f, double *const *inputs, double *const *cot, double **outputs,
		      double *sum, double *size)
{
	TRY(eval_function(f, EVAL_EXACT, (const double *const *)inputs, outputs));
	*sum = *size = 0;
	for (size_t i = 0; i < f->noutputs; i++)
		for (int64_t j = 0; is_float(f, f->outputs[i]) && j < count(f, f->outputs[i]); j++) {
			*sum += cot[i][j] * outputs[i][j];
			*size += fabs(cot[i][j] * outputs[i][j]);
		}
	return AN_OK;
}

/* Moves the inputs by t along the direction: one element, or everything that has a gradient. */
typedef struct direction {
	double *const *inputs;
	double **along; /* NULL: one element of input i */
	size_t i;
	int64_t j;
} direction;
static void move(const an_function *f, const direction *d, double t)
{
	if (!d->along)
		d->inputs[d->i][d->j] += t;
	for (size_t i = 0; d->along && i < f->ninputs; i++)
		for (int64_t j = 0; d->along[i] && j < count(f, f->inputs[i]); j++)
			d->inputs[i][j] += t * d->along[i][j];
}

/* Around L(x) = middle: slope (L(x + h) - L(x - h)) / 2h, and bend, by how much the slopes of the two sides
 * differ, (L(x + h) - 2 L(x) + L(x - h)) / h. */
static an_status difference(const an_function *f, const direction *d, double *const *cot, double **outputs,
			    double middle, double h, double *slope, double *bend)
{
	double plus, minus, size;
	move(f, d, h);
	TRY(loss(f, d->inputs, cot, outputs, &plus, &size));
	move(f, d, -2 * h);
	TRY(loss(f, d->inputs, cot, outputs, &minus, &size));
	move(f, d, h);
	*slope = (plus - minus) / (2 * h);
	*bend = (plus - middle - (middle - minus)) / h;
	return AN_OK;
}

/* Compares `gradient` with the differences at steps h and h/2.
 *
 * D(h) = L' + a h^2 + O(h^4), so (4 D(h/2) - D(h)) / 3 is right to O(h^4), and |D(h) - D(h/2)| = 3/4 a h^2 is
 * far above its error.
 * A kink of height c at a distance u h changes D(h) by c (1-u)/2 and D(h/2) by c (1-2u)/2 (while positive),
 * which their difference does not show for small u; but the bend is halved with h where L is smooth, and
 * is c (1-u) and c (1-2u) here: 2 |D(h) - D(h/2)| + |2 bend(h/2) - bend(h)| >= c (u + |1-3u|), and that is
 * more than the error of the reference, c |3-7u|/6.
 * Rounding: each evaluation of L is off by some units in the last place of the magnitudes that it sums,
 * `size`; 500 of them cover the chains of operations here, and 1/h times small factors add up to 8/h.
 * The gradient itself contains constants that are rounded to the operation's type (2^-24 relative for fp32,
 * which tests use), a few per rule, hence 2^-20 of the magnitudes involved (`scale`). */
static an_status compare(const an_function *f, const direction *d, double *const *cot, double **outputs,
			 double gradient, double scale, const char *what, gradient_check *out)
{
	const double h = 1.0 / 512;
	double middle, size, coarse, fine, bend, fine_bend;
	TRY(loss(f, d->inputs, cot, outputs, &middle, &size));
	TRY(difference(f, d, cot, outputs, middle, h, &coarse, &bend));
	TRY(difference(f, d, cot, outputs, middle, h / 2, &fine, &fine_bend));
	double want = (4 * fine - coarse) / 3;
	double tolerance = 2 * fabs(coarse - fine) + fabs(2 * fine_bend - bend) +
			   500 * DBL_EPSILON * size * 8 / h + 0x1p-20 * scale;
	out->checked++;
	out->sharp += tolerance < 1e-4 * scale;
	if (!(fabs(gradient - want) <= tolerance) && out->wrong++ == 0)
		snprintf(out->text, sizeof out->text, "%s: gradient %.12g, differences %.12g, tolerance %.3g",
			 what, gradient, want, tolerance);
	return AN_OK;
}

static double largest(const double *x, int64_t n)
{
	double m = 0;
	for (int64_t i = 0; i < n; i++)
		m = fmax(m, fabs(x[i]));
	return m;
}

static int find_input(const an_function *f, const char *gradient_name)
{
	for (size_t i = 0; i < f->ninputs; i++)
		if (strncmp(gradient_name, "d_", 2) == 0 &&
		    strcmp(f->values[f->inputs[i]].name, gradient_name + 2) == 0)
			return (int)i;
	return -1;
}

static an_status compare_all(const an_function *f, const an_function *backward, double *const *inputs,
			     uint64_t seed, int directions, double *const *cot, double *const *gradients,
			     double **outputs, gradient_check *out)
{
	char what[200];
	for (size_t k = 0; directions == 0 && k < backward->noutputs; k++) {
		const char *name = backward->values[backward->outputs[k]].name;
		int i = find_input(f, name);
		if (i < 0 || !an_type_equal(&f->values[f->inputs[i]].type,
					    &backward->values[backward->outputs[k]].type))
			return fail(f->program->ctx, AN_INTERNAL, "%s is not the gradient of an input", name);
		int64_t n = count(f, f->inputs[i]);
		double scale = 1 + largest(gradients[k], n);
		for (int64_t j = 0; j < n; j++) {
			snprintf(what, sizeof what, "%s[%lld]", name, (long long)j);
			direction d = {inputs, NULL, (size_t)i, j};
			TRY(compare(f, &d, cot, outputs, gradients[k][j], scale, what, out));
		}
	}
	for (int r = 0; r < directions; r++) {
		double **along = calloc(f->ninputs + 1, sizeof *along), slope = 0, scale = 1;
		an_status s = along ? AN_OK : fail_memory(f->program->ctx, 0);
		for (size_t k = 0; s == AN_OK && k < backward->noutputs; k++) {
			int i = find_input(f, backward->values[backward->outputs[k]].name);
			int64_t n = i < 0 ? 0 : count(f, f->inputs[i]);
			if (i < 0 || !(along[i] = malloc((size_t)n * sizeof **along))) {
				s = fail(f->program->ctx, AN_INTERNAL,
					 "an output is not the gradient of an input");
				break;
			}
			/* steps whose square sum is about 1 */
			for (int64_t j = 0; j < n; j++) {
				uint64_t index = (uint64_t)j + ((uint64_t)r << 32);
				along[i][j] =
				    (2 * random_uniform(seed + 2, (uint64_t)i, index) - 1) / sqrt((double)n);
				slope += along[i][j] * gradients[k][j];
				scale += fabs(along[i][j] * gradients[k][j]);
			}
		}
		snprintf(what, sizeof what, "direction %d", r);
		direction d = {inputs, along, 0, 0};
		if (s == AN_OK)
			s = compare(f, &d, cot, outputs, slope, scale, what, out);
		free_values(along, f->ninputs);
		TRY(s);
	}
	return AN_OK;
}

/* Everything that backward may have as an input, by name. */
typedef struct names {
	const char **name;
	double **value;
	int n;
} names;
static void add_name(names *l, const char *name, double *value)
{
	l->name[l->n] = name;
	l->value[l->n++] = value;
}

an_status check_gradient(const an_function *f, const an_function *forward, const an_function *backward,
			 double *const *inputs, uint64_t seed, int directions, gradient_check *out)
{
	size_t room = 2 * f->noutputs + forward->noutputs + f->ninputs + 1;
	names l = {calloc(room, sizeof *l.name), calloc(room, sizeof *l.value), 0};
	char(*cot_name)[256] = calloc(f->noutputs + 1, sizeof *cot_name);
	double **outputs = output_values(f), **cot = output_values(f);
	double **saved = output_values(forward), **gradients = output_values(backward);
	an_status s = AN_OK;
	if (!l.name || !l.value || !cot_name || !outputs || !cot || !saved || !gradients)
		s = fail_memory(f->program->ctx, 0);
	*out = (gradient_check){0};

	if (s == AN_OK)
		s = eval_function(f, EVAL_EXACT, (const double *const *)inputs, outputs);
	if (s == AN_OK)
		s = eval_function(forward, EVAL_EXACT, (const double *const *)inputs, saved);
	for (size_t i = 0; s == AN_OK && i < f->noutputs; i++) {
		const mil_value *v = fn_value(f, f->outputs[i]);
		if (strcmp(v->name, forward->values[forward->outputs[i]].name) != 0 ||
		    memcmp(outputs[i], saved[i], (size_t)count(f, f->outputs[i]) * sizeof(double)) != 0)
			s = fail(f->program->ctx, AN_INTERNAL, "the forward's output %s differs", v->name);
		for (int64_t j = 0; j < count(f, f->outputs[i]); j++)
			cot[i][j] = 2 * random_uniform(seed + 1, i, (uint64_t)j) - 1;
		snprintf(cot_name[i], sizeof *cot_name, "d_%s%s", v->name, v->op < 0 ? "_out" : "");
		add_name(&l, cot_name[i], cot[i]);
	}
	for (size_t i = 0; s == AN_OK && i < forward->noutputs; i++)
		add_name(&l, forward->values[forward->outputs[i]].name, saved[i]);
	for (size_t i = 0; s == AN_OK && i < f->ninputs; i++)
		add_name(&l, f->values[f->inputs[i]].name, inputs[i]);
	if (s == AN_OK)
		s = eval_named(backward, EVAL_EXACT, l.n, l.name, l.value, gradients);
	if (s == AN_OK)
		s = compare_all(f, backward, inputs, seed, directions, cot, gradients, outputs, out);
	free_values(outputs, f->noutputs);
	free_values(cot, f->noutputs);
	free_values(saved, forward->noutputs);
	free_values(gradients, backward->noutputs);
	free(cot_name);
	free(l.name);
	free(l.value);
	return s;
}
