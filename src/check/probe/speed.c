/* How long programs take: the figures of the chips' cost model (an_chip), measured. */
#include "check/probe/probe.h"

#include "check/session.h"
#include "mil/ir.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { RUNS_MOST = 200, WARM_UP = 3 };
#define SECONDS_LEAST 0.3 /* of timed runs, unless there are RUNS_MOST */

/* ---- Programs ---------------------------------------------------------------------------- */

typedef struct shape {
	int channels, layers, side; /* convolutions: of side x side; matmul: channels is the side of all */
} shape;

static double conv_flops(const shape *s)
{
	return 2.0 * s->channels * s->channels * s->side * s->side * s->layers;
}

/* Random weights of about 1 / sqrt(channels), so that values neither grow nor vanish. */
static void fill_weights(uint16_t *w, size_t n, uint32_t x)
{
	for (size_t i = 0; i < n; i++) {
		x = x * 1664525 + 1013904223; /* Numerical Recipes' generator */
		w[i] = (uint16_t)((x >> 31) << 15 | (0x2a00 + (x >> 16 & 0x3ff)));
	}
}

static void convolutions(an_builder *b, arena *a, const shape *s, uint32_t seed)
{
	size_t n = (size_t)s->channels * (size_t)s->channels;
	an_value x = an_input(b, "x", an_tensor(AN_FP16, 4, (int32_t[]){1, s->channels, s->side, s->side}));
	for (int i = 0; i < s->layers; i++) {
		uint16_t *w = arena_array(a, n, sizeof *w);
		if (!w) {
			b->status = fail_memory(a->ctx, n);
			return;
		}
		fill_weights(w, n, seed + (uint32_t)i);
		an_type t = an_tensor(AN_FP16, 4, (int32_t[]){s->channels, s->channels, 1, 1});
		an_arg args[] = {{"x", AN_ARG_VALUE, 0, {.value = x}},
				 {"weight", AN_ARG_VALUE, 0, {.value = an_const(b, "w", t, w)}}};
		an_value y = AN_NO_VALUE;
		an_emit(b, OP_CONV, "y", args, LENGTH(args), &y, 1);
		x = y;
	}
	an_output(b, x);
}

static void product(an_builder *b, arena *a, const shape *s, uint32_t seed)
{
	(void)a, (void)seed;
	an_type t = an_tensor(AN_FP16, 4, (int32_t[]){1, 1, s->channels, s->channels});
	an_value x = an_input(b, "x", t), y = an_input(b, "y", t);
	an_output(b, an_name(b, an_matmul(b, x, y, false, false), "z"));
}

static void nothing(an_builder *b, arena *a, const shape *s, uint32_t seed)
{
	(void)a, (void)seed;
	an_value x = an_input(b, "x", an_tensor(AN_FP16, 4, (int32_t[]){1, 1, 1, s->channels}));
	an_output(b, an_name(b, an_add(b, x, x), "y"));
}

/* A program that is ready to run. */
typedef struct ready {
	arena a;
	an_program *program;
	session s;
	double compiled; /* seconds that compiling took */
} ready;

typedef void maker(an_builder *b, arena *a, const shape *s, uint32_t seed);

static an_status build(an_ctx *ctx, ready *r, maker *make, const shape *s, uint32_t seed, an_function **f)
{
	*r = (ready){0};
	arena_init(&r->a, ctx);
	TRY(an_program_new(ctx, &r->program));
	TRY(an_function_new(r->program, "main", f));
	an_builder b = an_builder_on(*f);
	make(&b, &r->a, s, seed);
	return an_builder_finish(&b);
}

static an_status open_on(an_probe *p, an_device *d, ready *r, maker *make, const shape *s)
{
	an_function *f;
	TRY(build(p->ctx, r, make, s, 1, &f));
	double began = seconds_now();
	TRY(session_open(&r->s, d, f, &r->a));
	r->compiled = seconds_now() - began;
	for (int i = 0; i < r->s.nin; i++) {
		size_t n = an_type_bytes(an_buffer_type(r->s.in[i])) / sizeof(uint16_t);
		uint16_t *x = an_buffer_map(r->s.in[i]);
		if (!x)
			return AN_DEVICE;
		fill_weights(x, n, 99 + (uint32_t)i);
		an_buffer_unmap(r->s.in[i]);
	}
	return AN_OK;
}

static an_status open_program(an_probe *p, ready *r, maker *make, const shape *s)
{
	return open_on(p, p->device, r, make, s);
}

static void close_program(ready *r)
{
	session_close(&r->s);
	an_program_free(r->program);
	arena_free(&r->a);
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* The median of many runs. */
static an_status time_runs(an_call *call, double *median)
{
	double t[RUNS_MOST], sum = 0;
	int n = 0;
	for (int i = 0; i < WARM_UP; i++)
		TRY(an_call_run(call));
	while (n < RUNS_MOST && (n < 5 || sum < SECONDS_LEAST)) {
		double began = seconds_now();
		TRY(an_call_run(call));
		sum += t[n++] = seconds_now() - began;
	}
	qsort(t, (size_t)n, sizeof *t, ascending);
	*median = t[n / 2];
	return AN_OK;
}

static an_status time_program(an_probe *p, maker *make, const shape *s, double *seconds)
{
	ready r;
	an_status status = open_program(p, &r, make, s);
	if (status == AN_OK)
		status = time_runs(r.s.call, seconds);
	close_program(&r);
	return status;
}

/* ---- Measurements -------------------------------------------------------------------------- */

static const an_chip *chip_of(const an_probe *p)
{
	char name[40];
	snprintf(name, sizeof name, "%.*s", (int)strcspn(p->chip, ","), p->chip);
	return an_chip_find(name);
}

/* A value with three digits in the unit that suits it. */
static void print(char *text, size_t size, double x, const char *unit)
{
	static const struct {
		double factor;
		const char *prefix;
	} prefix[] = {{1e12, "T"}, {1e9, "G"},  {1e6, "M"},  {1e3, "k"},
		      {1, ""},     {1e-3, "m"}, {1e-6, "u"}, {0, "n"}};
	int i = 0;
	while (fabs(x) < prefix[i].factor)
		i++;
	snprintf(text, size, "%.3g %s%s", x / (prefix[i].factor > 0 ? prefix[i].factor : 1e-9),
		 prefix[i].prefix, unit);
}

static void measured(an_probe_result *out, double value, double reference, const char *unit)
{
	out->value = value;
	out->reference = reference;
	out->unit = unit;
	print(out->observed, sizeof out->observed, value, unit);
	if (isfinite(reference))
		print(out->expected, sizeof out->expected, reference, unit);
}

static an_status dispatch(an_probe *p, an_probe_result *out)
{
	double t;
	TRY(time_program(p, nothing, &(shape){.channels = 64}, &t));
	measured(out, t, chip_of(p) ? chip_of(p)->dispatch : NAN, "s");
	return AN_OK;
}

static an_status compile_time(an_probe *p, an_probe_result *out)
{
	ready r;
	an_status s = open_program(p, &r, nothing, &(shape){.channels = 96});
	if (s == AN_OK)
		measured(out, r.compiled, NAN, "s");
	close_program(&r);
	return s;
}

/* Larger programs as long as they are quick. */
#define QUICK 0.01

static an_status conv_rate(an_probe *p, an_probe_result *out)
{
	static const shape shapes[] = {
	    {256, 4, 16}, {256, 8, 32}, {512, 16, 32}, {512, 32, 64}, {512, 64, 64}};
	double best = 0, t = 0;
	for (int i = 0; i < LENGTH(shapes) && t < QUICK; i++) {
		TRY(time_program(p, convolutions, &shapes[i], &t));
		best = MAX(best, conv_flops(&shapes[i]) / t);
	}
	measured(out, best, chip_of(p) ? chip_of(p)->conv_rate : NAN, "FLOP/s");
	return AN_OK;
}

static an_status matmul_rate(an_probe *p, an_probe_result *out)
{
	static const int side[] = {256, 512, 1024, 2048};
	double best = 0, t = 0;
	for (int i = 0; i < LENGTH(side) && t < QUICK; i++) {
		TRY(time_program(p, product, &(shape){.channels = side[i]}, &t));
		best = MAX(best, 2.0 * side[i] * side[i] * side[i] / t);
	}
	measured(out, best, chip_of(p) ? chip_of(p)->matmul_rate : NAN, "FLOP/s");
	return AN_OK;
}

/* What more weights add to the time of one convolution at few positions. */
static an_status bandwidth(an_probe *p, an_probe_result *out)
{
	static const int channels[] = {1024, 2048, 3072}; /* 4096 alone falls behind (docs: bank conflicts) */
	double first = 0, t = 0;
	int n = 0;
	for (; n < LENGTH(channels) && t < 5 * QUICK; n++) {
		TRY(time_program(p, convolutions, &(shape){channels[n], 1, 8}, &t));
		first = n ? first : t;
	}
	double bytes = 2.0 * channels[n - 1] * channels[n - 1] - 2.0 * channels[0] * channels[0];
	if (n < 2 || t <= first) {
		snprintf(out->observed, sizeof out->observed, "one convolution already takes %.3g s", first);
		return AN_OK;
	}
	measured(out, bytes / (t - first), chip_of(p) ? chip_of(p)->bandwidth : NAN, "B/s");
	return AN_OK;
}

/* Whether a device's first output is that of `exact` for the function, with the same input. */
static an_status same_result(an_probe *p, session *s, an_function *f, bool *same)
{
	arena a;
	session exact = {0};
	arena_init(&a, p->ctx);
	an_status status = session_open(&exact, p->exact, f, &a);
	if (status == AN_OK) {
		status = buffer_fill(exact.in[0], an_buffer_map(s->in[0]));
		an_buffer_unmap(s->in[0]);
	}
	if (status == AN_OK)
		status = an_call_run(exact.call);
	if (status == AN_OK)
		status = an_call_run(s->call);
	if (status == AN_OK) {
		an_difference d;
		int64_t n = an_type_count(an_buffer_type(exact.out[0]));
		const void *mine = an_buffer_map(s->out[0]), *theirs = an_buffer_map(exact.out[0]);
		if (mine && theirs)
			an_diff(AN_FP16, mine, theirs, n, &d);
		*same = mine && theirs && d.rms < 0.02; /* other weights: about sqrt(2) */
		an_buffer_unmap(s->out[0]);
		an_buffer_unmap(exact.out[0]);
	}
	session_close(&exact);
	arena_free(&a);
	return status;
}

/* A call of an executable with constants of its own, on the session's memory. */
static an_status own_call(session *s, an_function *f)
{
	an_call_free(s->call);
	an_executable_free(s->exe);
	s->call = NULL;
	s->exe = NULL;
	TRY(an_compile_own(s->device, f, &s->exe));
	TRY(an_call_new(s->exe, &s->call));
	TRY(an_call_bind(s->call, an_executable_input(s->exe, 0, NULL), s->in[0]));
	return an_call_bind(s->call, an_executable_output(s->exe, 0, NULL), s->out[0]);
}

an_status speed_reload(an_probe *p, an_device *d, bool *used, double *median)
{
	static const shape s = {64, 1, 8};
	enum { TIMES = 5 };
	ready r, other = {0};
	an_function *f = NULL;
	double t[TIMES];
	*used = false;
	an_status status = open_on(p, d, &r, convolutions, &s);
	if (status == AN_OK)
		status = own_call(&r.s, an_program_function(r.program, NULL));
	for (int i = 0; status == AN_OK && i < TIMES; i++) {
		close_program(&other);
		status = build(p->ctx, &other, convolutions, &s, 1000 + (uint32_t)i, &f);
		double began = seconds_now();
		if (status == AN_OK)
			status = an_reload(r.s.exe, f);
		t[i] = seconds_now() - began;
	}
	if (status == AN_OK)
		status = same_result(p, &r.s, f, used);
	close_program(&other);
	close_program(&r);
	TRY(status);
	qsort(t, TIMES, sizeof *t, ascending);
	if (median)
		*median = t[TIMES / 2];
	return AN_OK;
}

static an_status reload(an_probe *p, an_probe_result *out)
{
	bool used;
	double t;
	an_status status = speed_reload(p, p->device, &used, &t);
	if (status == AN_UNSUPPORTED) {
		probe_say(p, out, "not possible");
		return AN_OK;
	}
	TRY(status);
	measured(out, t, NAN, "s");
	size_t n = strlen(out->observed);
	snprintf(out->observed + n, sizeof out->observed - n, "; the new weights are %s",
		 used ? "used" : "NOT used");
	out->verdict = used ? AN_PROBE_UNKNOWN : AN_PROBE_DIFFERS;
	return AN_OK;
}

static an_status busy(an_probe *p, double seconds, double *flops)
{
	ready r;
	const shape s = {256, 8, 32};
	an_status status = open_program(p, &r, convolutions, &s);
	double began = seconds_now();
	for (*flops = 0; status == AN_OK && seconds_now() - began < seconds; *flops += conv_flops(&s))
		status = an_call_run(r.s.call);
	close_program(&r);
	return status;
}

static an_status power(an_probe *p, an_probe_result *out)
{
	const char *why = "", *what;
	double a, b, c, flops, seconds = 1;
	energy *e = energy_open(p->ctx, p->o.libraries, &why);
	if (!e) {
		snprintf(out->observed, sizeof out->observed, "%s", why);
		return AN_OK;
	}
	bool right = energy_read(e, &a, &what);
	struct timespec rest = {1, 0};
	nanosleep(&rest, NULL);
	right = right && energy_read(e, &b, &what);
	double began = seconds_now();
	an_status s = busy(p, seconds, &flops);
	seconds = seconds_now() - began;
	right = right && energy_read(e, &c, &what);
	energy_close(e);
	TRY(s);
	if (!right) {
		snprintf(out->observed, sizeof out->observed, "reading the energy failed");
		return AN_OK;
	}
	measured(out, (c - b) / seconds, NAN, "W");
	size_t used = strlen(out->observed);
	snprintf(out->observed + used, sizeof out->observed - used,
		 " (%s) in 1x1 convolutions, %.3g W at rest, %.3g GFLOP/J", what, b - a,
		 1e-9 * flops / (c - b));
	return AN_OK;
}

static const struct {
	const char *name, *text;
	an_status (*run)(an_probe *p, an_probe_result *out);
} speeds[] = {
    {"dispatch", "seconds from submission to completion of a program that does next to nothing, median",
     dispatch},
    {"compile", "seconds to compile and load it", compile_time},
    {"conv-rate", "deep programs of 1x1 convolutions by constants, best", conv_rate},
    {"matmul-rate", "matmul of two inputs, best", matmul_rate},
    {"weight-bandwidth", "what more weights add to the time of one convolution", bandwidth},
    {"reload", "seconds to replace the weights of a program", reload},
    {"power", "energy by time, where the system tells it", power},
};

const char *speed_name(int i, const char **text)
{
	if (i < 0 || i >= LENGTH(speeds))
		return NULL;
	if (text)
		*text = speeds[i].text;
	return speeds[i].name;
}

an_status speed_run(an_probe *p, int i, an_probe_result *out) { return speeds[i].run(p, out); }
