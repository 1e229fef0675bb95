/* The engine's habits: a program that does not meet one, with the adapter told not to help. */
#include "check/probe/probe.h"

#include "ane/quirks.h"
#include "base/half.h"
#include "check/session.h"
#include "mil/ir.h"

#include <stdio.h>
#include <time.h>

/* ---- Programs ---------------------------------------------------------------------------- */

/* All compute with whole numbers below 2048, of which fp16 holds every result. */

static an_type line(int width) { return an_tensor(AN_FP16, 4, (int32_t[]){1, 1, 1, width}); }

/* y = 2 x */
static void doubled(an_builder *b, int width)
{
	an_value x = an_input(b, "x", line(width));
	an_output(b, an_name(b, an_add(b, x, x), "y"));
}

/* The names' order is another than the signature's, for inputs and for outputs. */
static void named(an_builder *b, int width)
{
	an_value z = an_input(b, "b", line(width)), a = an_input(b, "a", line(width));
	an_value difference = an_sub(b, z, a), sum = an_add(b, z, a);
	an_output(b, an_name(b, difference, "q"));
	an_output(b, an_name(b, sum, "p"));
}

/* Inputs from the largest to the smallest, outputs from the smallest to the largest. */
static void sized(an_builder *b, int width)
{
	an_value x = an_input(b, "x", an_tensor(AN_FP16, 4, (int32_t[]){1, 4, 1, width}));
	an_value z = an_input(b, "z", line(width));
	an_value all = an_add(b, x, z), one = an_add(b, z, z);
	an_output(b, an_name(b, one, "p"));
	an_output(b, an_name(b, all, "q"));
}

/* Rows that are no multiple of 64 bytes. */
static void rows(an_builder *b, int width)
{
	an_value x = an_input(b, "x", an_tensor(AN_FP16, 4, (int32_t[]){1, 4, 3, width}));
	an_output(b, an_name(b, an_add(b, x, x), "y"));
}

static void logical(an_builder *b, int width)
{
	an_value x = an_input(b, "x", line(width)), zero = an_sub(b, x, x);
	an_output(b, an_name(b, an_binary(b, "equal", x, zero), "y"));
}

/* A reduction whose keep_dims is left at MIL's default. */
static void implicit(an_builder *b, int width)
{
	an_value x = an_input(b, "x", an_tensor(AN_FP16, 4, (int32_t[]){1, 2, 32, width})), y = AN_NO_VALUE;
	an_arg args[] = {{"x", AN_ARG_VALUE, 0, {.value = x}},
			 {"axes", AN_ARG_INTS, 1, {.ints = (int32_t[]){1}}}};
	an_emit(b, OP_REDUCE_SUM, "y", args, LENGTH(args), &y, 1);
	an_output(b, y);
}

/* Ports of fp32. */
static void wide(an_builder *b, int width)
{
	an_value x = an_input(b, "x", an_tensor(AN_FP32, 4, (int32_t[]){1, 1, 1, width}));
	an_output(b, an_name(b, an_add(b, x, x), "y"));
}

static void joined(an_builder *b, int width)
{
	an_value part[] = {an_input(b, "x", line(width)), an_input(b, "z", line(width))};
	an_output(b, an_name(b, an_concat(b, part, LENGTH(part), 1), "y"));
}

/* Attention whose mask leaves every position itself alone: y is the values. */
static void masked(an_builder *b, int width)
{
	enum { POSITIONS = 16 };
	static const uint16_t lowest = 0xfbff; /* -65504 */
	uint16_t mask[POSITIONS * POSITIONS] = {0};
	for (int i = 0; i < POSITIONS * POSITIONS; i++)
		mask[i] = i % (POSITIONS + 1) ? lowest : 0;
	an_type t = an_tensor(AN_FP16, 4, (int32_t[]){1, 1, POSITIONS, width});
	an_value q = an_input(b, "q", t), k = an_input(b, "k", t), v = an_input(b, "v", t), y = AN_NO_VALUE;
	an_value m =
	    an_const(b, "mask", an_tensor(AN_FP16, 4, (int32_t[]){1, 1, POSITIONS, POSITIONS}), mask);
	an_arg args[] = {{"query", AN_ARG_VALUE, 0, {.value = q}},
			 {"key", AN_ARG_VALUE, 0, {.value = k}},
			 {"value", AN_ARG_VALUE, 0, {.value = v}},
			 {"attn_mask", AN_ARG_VALUE, 0, {.value = m}}};
	an_emit(b, OP_SCALED_DOT_PRODUCT_ATTENTION, "y", args, LENGTH(args), &y, 1);
	an_output(b, y);
}

/* A convolution by an input; few enough products that sums are exact. */
static void moving(an_builder *b, int width)
{
	enum { CHANNELS = 4 };
	an_value x = an_input(b, "x", an_tensor(AN_FP16, 4, (int32_t[]){1, CHANNELS, 1, width}));
	an_value w = an_input(b, "w", an_tensor(AN_FP16, 4, (int32_t[]){CHANNELS, CHANNELS, 1, 1}));
	an_arg args[] = {{"x", AN_ARG_VALUE, 0, {.value = x}}, {"weight", AN_ARG_VALUE, 0, {.value = w}}};
	an_value y = AN_NO_VALUE;
	an_emit(b, OP_CONV, "y", args, LENGTH(args), &y, 1);
	an_output(b, y);
}

static void inner(an_builder *b, int size)
{
	an_value x = an_input(b, "x", an_tensor(AN_FP16, 4, (int32_t[]){1, 1, 32, size}));
	an_value z = an_input(b, "z", an_tensor(AN_FP16, 4, (int32_t[]){1, 1, size, 32}));
	an_output(b, an_name(b, an_matmul(b, x, z, false, false), "y"));
}

static void tiled(an_builder *b, int width)
{
	an_value x = an_input(b, "x", line(width)), y = AN_NO_VALUE;
	an_arg args[] = {{"x", AN_ARG_VALUE, 0, {.value = x}},
			 {"reps", AN_ARG_INTS, 4, {.ints = (int32_t[]){1, 2, 1, 1}}}};
	an_emit(b, OP_TILE, "y", args, LENGTH(args), &y, 1);
	an_output(b, y);
}

/* A program that does not say what wrote it. */
static void anonymous(an_builder *b, int width)
{
	b->f->program->ninfo = 0;
	doubled(b, width);
}

typedef struct habit {
	const char *quirk;
	void (*build)(an_builder *b, int size); /* a program that does not meet it; NULL: a test of its own */
	const char *broken;                     /* so that the adapter does not see to it */
	int size[8];                            /* what is tried until something works; 0 ends it */
	bool in_place;                          /* input and output share memory */
	bool again;                             /* run once more, with other memory */
	bool spoils;                            /* where it is broken nothing else may run in this process */
	an_status (*run)(an_probe *p, int64_t number, an_probe_result *out);
} habit;

static an_status run_budget(an_probe *p, int64_t number, an_probe_result *out);
static an_status run_loaded(an_probe *p, int64_t number, an_probe_result *out);
static an_status run_pause(an_probe *p, int64_t number, an_probe_result *out);
static an_status run_kept(an_probe *p, int64_t number, an_probe_result *out);
static an_status run_weights(an_probe *p, int64_t number, an_probe_result *out);

static const habit habits[] = {
    {.quirk = "ordered_names", .build = named, .broken = "ordered_names=off", .size = {32}},
    {.quirk = "ordered_bytes", .build = sized, .broken = "ordered_bytes=off", .size = {32}},
    {.quirk = "equal_size", .build = sized, .broken = "equal_size=off", .size = {32}},
    {.quirk = "min_surface",
     .build = doubled,
     .broken = "min_surface=off",
     .size = {32, 256, 2048, 8192, 16384, 24576, 32768}},
    {.quirk = "min_width", .build = doubled, .broken = "min_width=off", .size = {1, 2, 4, 8, 16, 32, 64}},
    {.quirk = "width_multiple", .build = doubled, .broken = "width_multiple=off", .size = {33, 40, 48}},
    {.quirk = "short_ports", .build = wide, .broken = "short_ports=off", .size = {32}},
    {.quirk = "no_concat", .build = joined, .broken = "no_concat=off", .size = {32}},
    {.quirk = "unmasked", .build = masked, .broken = "unmasked=off", .size = {32}},
    {.quirk = "constant_kernels", .build = moving, .broken = "constant_kernels=off", .size = {32}},
    {.quirk = "contraction", .build = inner, .broken = "contraction=off", .size = {5}},
    {.quirk = "no_tile", .build = tiled, .broken = "no_tile=off", .size = {32}, .spoils = true},
    {.quirk = "fixed_ports", .build = doubled, .broken = "fixed_ports=off", .size = {32}, .again = true},
    {.quirk = "prepared", .build = doubled, .broken = "prepared=off", .size = {32}, .again = true},
    {.quirk = "qos", .build = doubled, .broken = "qos=0", .size = {32}},
    {.quirk = "packed", .build = rows, .broken = "packed=off", .size = {33}},
    {.quirk = "aligned_size", .build = doubled, .broken = "aligned_size=off", .size = {33}},
    {.quirk = "own_outputs", .build = doubled, .broken = "own_outputs=off", .size = {32}, .in_place = true},
    {.quirk = "no_bool_ports", .build = logical, .broken = "no_bool_ports=off", .size = {32}},
    {.quirk = "explicit", .build = implicit, .broken = "explicit=off", .size = {32}},
    {.quirk = "build_info", .build = anonymous, .broken = "build_info=off", .size = {32}},
    {.quirk = "compile_budget", .run = run_budget},
    {.quirk = "loaded_programs", .run = run_loaded},
    {.quirk = "compile_pause", .run = run_pause},
    {.quirk = "kept_folder", .run = run_kept},
    {.quirk = "keeps_weights", .run = run_weights},
};

static const habit *find(int quirk)
{
	for (int i = 0; i < LENGTH(habits); i++)
		if (!strcmp(habits[i].quirk, an_quirk_at(quirk)->name))
			return &habits[i];
	return NULL;
}

bool habit_known(int quirk) { return find(quirk); }

/* ---- Running one ----------------------------------------------------------------------------- */

typedef enum outcome { WORKS, REFUSED, FAILS, WRONG } outcome;
static const char *const outcome_text[] = {"works", "is refused", "fails", "gives wrong data"};
static const outcome breach_outcome[] = {[AN_QUIRK_REFUSES] = REFUSED,
					 [AN_QUIRK_FAILS] = FAILS,
					 [AN_QUIRK_NOTHING] = WORKS,
					 [AN_QUIRK_WRONG] = WRONG};

/* Element i of input k. */
static uint16_t number_at(int k, int64_t i)
{
	/* fp16 of the whole numbers 1 .. 16, each input from another on */
	static const uint16_t whole[] = {0x3c00, 0x4000, 0x4200, 0x4400, 0x4500, 0x4600, 0x4700, 0x4800,
					 0x4880, 0x4900, 0x4980, 0x4a00, 0x4a80, 0x4b00, 0x4b80, 0x4c00};
	return whole[(size_t)(i * 7 + k * 5) % LENGTH(whole)];
}

static an_status fill_inputs(session *s)
{
	for (int k = 0; k < s->nin; k++) {
		void *memory = an_buffer_map(s->in[k]);
		uint16_t *x = memory;
		if (!x)
			return AN_DEVICE;
		for (int64_t i = 0; i < an_type_count(an_buffer_type(s->in[k])); i++)
			if (an_buffer_type(s->in[k])->dtype == AN_FP32)
				((float *)memory)[i] = half_to_float(number_at(k, i));
			else
				x[i] = number_at(k, i);
		an_buffer_unmap(s->in[k]);
	}
	return AN_OK;
}

/* Equal bytes of output i. */
static an_status same_output(session *a, session *b, int i, bool in_place, bool *same)
{
	an_buffer *x = in_place ? a->in[0] : a->out[i], *y = b->out[i];
	const void *mine = an_buffer_map(x), *theirs = an_buffer_map(y);
	if (mine && theirs)
		*same = *same && !memcmp(mine, theirs, an_type_bytes(an_buffer_type(y)));
	if (mine)
		an_buffer_unmap(x);
	if (theirs)
		an_buffer_unmap(y);
	return mine && theirs ? AN_OK : AN_DEVICE;
}

/* The first input and output in new memory, the input as it was. */
static an_status other_memory(session *s)
{
	an_buffer *x, *y;
	TRY(an_buffer_new(s->device, an_buffer_type(s->in[0]), &x));
	an_buffer_free(s->in[0]);
	s->in[0] = x;
	TRY(an_buffer_new(s->device, an_buffer_type(s->out[0]), &y));
	an_buffer_free(s->out[0]);
	s->out[0] = y;
	TRY(an_call_bind(s->call, an_executable_input(s->exe, 0, NULL), x));
	TRY(an_call_bind(s->call, an_executable_output(s->exe, 0, NULL), y));
	return fill_inputs(s);
}

static an_status run_session(const habit *h, session *engine, session *exact, outcome *out)
{
	bool same = true;
	*out = FAILS;
	TRY(fill_inputs(engine));
	TRY(fill_inputs(exact));
	if (h->in_place)
		TRY(an_call_bind(engine->call, an_executable_output(engine->exe, 0, NULL), engine->in[0]));
	TRY(an_call_run(engine->call));
	if (h->again) {
		TRY(other_memory(engine));
		TRY(an_call_run(engine->call));
	}
	TRY(an_call_run(exact->call));
	for (int i = 0; i < engine->nout; i++)
		TRY(same_output(engine, exact, i, h->in_place, &same));
	*out = same ? WORKS : WRONG;
	return AN_OK;
}

/* The program on a device that is not told to meet the habit.  AN_DEVICE is an outcome, too. */
static an_status run_on(an_probe *p, const habit *h, an_function *f, an_device *d, outcome *out)
{
	arena a;
	session engine = {0}, exact = {0};
	arena_init(&a, p->ctx);
	*out = REFUSED;
	an_status s = session_open(&exact, p->exact, f, &a);
	if (s == AN_OK)
		s = session_open(&engine, d, f, &a);
	if (s == AN_OK)
		s = run_session(h, &engine, &exact, out);
	session_close(&engine);
	session_close(&exact);
	arena_free(&a);
	return s;
}

static an_status build(an_probe *p, const habit *h, int size, an_program **program, an_function **f)
{
	TRY(an_program_new(p->ctx, program));
	TRY(an_function_new(*program, "main", f));
	an_builder b = an_builder_on(*f);
	h->build(&b, size);
	return an_builder_finish(&b);
}

static an_status try_once(an_probe *p, const habit *h, int size, const char *quirks, outcome *out)
{
	an_program *program = NULL;
	an_function *f;
	an_device *d = NULL;
	an_status s = build(p, h, size, &program, &f);
	if (s == AN_OK)
		s = probe_device(p, quirks, &d);
	if (s == AN_OK)
		s = run_on(p, h, f, d, out);
	an_device_close(d);
	an_program_free(program);
	return s == AN_DEVICE ? AN_OK : s;
}

/* After a refused program the engine's compile service takes a while to come back (quirk compile_pause). */
static void recover(const an_probe *p, outcome last)
{
	if (last != REFUSED || p->o.libraries)
		return;
	struct timespec t = {15, 0};
	while (nanosleep(&t, &t) != 0)
		;
}

static an_status run_program(an_probe *p, const habit *h, int quirk, bool holds, an_probe_result *out)
{
	const an_quirk *q = an_quirk_at(quirk);
	outcome first = WORKS, last = WORKS, want = holds ? breach_outcome[q->breach] : WORKS;
	int n = 0;
	for (; n < LENGTH(h->size) && h->size[n]; n++) {
		TRY(try_once(p, h, h->size[n], h->broken, &last));
		if (!n)
			first = last;
		if (last == WORKS)
			break;
		if (!n)
			probe_say(p, out, last == WRONG ? "wrong data" : outcome_text[last]);
		recover(p, last);
	}
	snprintf(out->expected, sizeof out->expected, "a program that does not meet it %s",
		 outcome_text[want]);
	size_t used = first == WRONG || first == WORKS ? 0 : strlen(out->observed);
	if (first == WORKS || first == WRONG)
		used = (size_t)snprintf(out->observed, sizeof out->observed, "%s", outcome_text[first]);
	if (h->size[1] && first != WORKS && last == WORKS)
		snprintf(out->observed + used, sizeof out->observed - used, "; works at %d elements",
			 h->size[n]);
	out->verdict = first == want ? AN_PROBE_AGREES : AN_PROBE_DIFFERS;
	p->spent |= h->spoils && first != WORKS;
	return AN_OK;
}

/* ---- Limits ------------------------------------------------------------------------------------ */

#define UNLIMITED "compile_budget=999999999,loaded_programs=off,compile_pause=off"

static unsigned route_of(const an_probe *p)
{
	return strcmp(p->info.device, "ane:e5rt") ? ANE_ROUTE_OBJC : ANE_ROUTE_E5RT;
}

static int64_t compiles_used(const an_device *d)
{
	an_device_info info;
	an_device_get_info(d, &info);
	return 999999999 - info.compiles_left;
}

/* A device that counts no limits, in a process that may still compile `room` programs. */
static an_status open_unlimited(const an_probe *p, int64_t room, const char *quirks, an_device **out)
{
	ane_quirks known;
	TRY(ane_quirks_set(p->ctx, p->chip, route_of(p), NULL, &known));
	TRY(probe_device(p, quirks, out));
	int64_t budget = known.value[QUIRK_COMPILE_BUDGET];
	if (!budget || compiles_used(*out) + room <= budget)
		return AN_OK;
	an_device_close(*out);
	*out = NULL;
	return fail(p->ctx, AN_BUDGET, "this process has compiled programs; this is tried in a new one");
}

/* y = factor x: a program of its own for every factor. */
static an_status compile_scaled(an_probe *p, an_device *d, int factor, an_executable **out)
{
	an_program *program = NULL;
	an_function *f;
	an_status s = an_program_new(p->ctx, &program);
	if (s == AN_OK)
		s = an_function_new(program, "main", &f);
	if (s == AN_OK) {
		an_builder b = an_builder_on(f);
		an_output(&b, an_name(&b, an_scale(&b, an_input(&b, "x", line(32)), factor), "y"));
		s = an_builder_finish(&b);
	}
	if (s == AN_OK)
		s = an_compile(d, f, out);
	an_program_free(program);
	return s;
}

/* Compiles until the engine refuses.  In a process that has compiled nothing before. */
static an_status run_budget(an_probe *p, int64_t number, an_probe_result *out)
{
	enum { BEYOND = 11, UNKNOWN = 119 }; /* where no limit is known: that of another route */
	an_device *d;
	an_status s = AN_OK;
	int n = 0;
	TRY(probe_device(p, UNLIMITED, &d));
	if (compiles_used(d) > 0) {
		an_device_close(d);
		return fail(p->ctx, AN_BUDGET,
			    "this process has compiled programs; the limit is counted in a new one");
	}
	for (; n < (number ? number : UNKNOWN) + BEYOND; n++) {
		an_executable *e;
		if ((s = compile_scaled(p, d, n + 1, &e)) != AN_OK)
			break;
		an_executable_free(e);
	}
	if (number)
		snprintf(out->expected, sizeof out->expected, "a process compiles %lld programs",
			 (long long)number);
	else
		snprintf(out->expected, sizeof out->expected, "no limit");
	if (s == AN_OK)
		snprintf(out->observed, sizeof out->observed, "it compiled %d, and none was refused", n);
	else if (s == AN_DEVICE)
		probe_say(p, out, "is refused");
	an_device_close(d);
	if (s != AN_OK && s != AN_DEVICE)
		return s;
	out->value = n;
	out->reference = (double)number;
	out->unit = "programs";
	out->verdict = (number ? n == number : s == AN_OK) ? AN_PROBE_AGREES : AN_PROBE_DIFFERS;
	return AN_OK;
}

/* Some programs on several devices, so that more are loaded than are compiled (quirk kept_folder). */
static an_status run_loaded(an_probe *p, int64_t number, an_probe_result *out)
{
	enum { EACH = 16, BEYOND = 9, DEVICES = 32 };
	an_device *d[DEVICES] = {0};
	an_status s = AN_OK;
	int n = 0;
	for (; n < number + BEYOND && n < EACH * DEVICES; n++) {
		an_executable *e;
		if (n % EACH == 0 && (s = open_unlimited(p, n ? 0 : EACH, UNLIMITED, &d[n / EACH])) != AN_OK)
			break;
		if ((s = compile_scaled(p, d[n / EACH], n % EACH + 1, &e)) != AN_OK)
			break;
	}
	snprintf(out->expected, sizeof out->expected, "a process has %lld programs loaded, or one more",
		 (long long)number);
	if (s == AN_OK)
		snprintf(out->observed, sizeof out->observed, "%d were loaded, and none was refused", n);
	else
		probe_say(p, out, "is refused");
	for (int i = 0; i < DEVICES; i++)
		an_device_close(d[i]);
	if (s != AN_OK && s != AN_DEVICE)
		return s;
	out->value = n;
	out->reference = (double)number;
	out->unit = "programs";
	out->verdict = n == number || n == number + 1 ? AN_PROBE_AGREES : AN_PROBE_DIFFERS;
	return AN_OK;
}

/* A program that is refused, and at once one that is not. */
static an_status run_pause(an_probe *p, int64_t number, an_probe_result *out)
{
	static const habit refused = {.build = implicit, .broken = "build_info=off,explicit=off"},
			   good = {.build = doubled};
	outcome first = WORKS, second = WORKS;
	snprintf(out->expected, sizeof out->expected, "for %lld s after a refused program nothing compiles",
		 (long long)number);
	TRY(try_once(p, &refused, 32, refused.broken, &first));
	if (first != REFUSED) {
		snprintf(out->observed, sizeof out->observed, "the program that should be refused %s",
			 outcome_text[first]);
		return AN_OK;
	}
	TRY(try_once(p, &good, 32, "compile_pause=off", &second));
	if (second == WORKS)
		snprintf(out->observed, sizeof out->observed, "the next program compiles and works at once");
	else
		probe_say(p, out, "the next program, at once");
	/* not knowing is no contradiction: reports do not say that it always happens */
	out->verdict = second == WORKS ? AN_PROBE_UNKNOWN : AN_PROBE_AGREES;
	recover(p, REFUSED);
	return AN_OK;
}

/* One program on two devices: the second finds what the first has compiled. */
static an_status run_kept(an_probe *p, int64_t number, an_probe_result *out)
{
	an_device *a = NULL, *b = NULL;
	an_executable *e;
	int64_t before = 0, after = 0;
	an_status s = open_unlimited(p, 2, UNLIMITED, &a);
	if (s == AN_OK)
		s = compile_scaled(p, a, 77, &e);
	if (s == AN_OK)
		s = probe_device(p, UNLIMITED ",kept_folder=on", &b);
	if (s == AN_OK) {
		before = compiles_used(b);
		s = compile_scaled(p, b, 77, &e);
		after = compiles_used(b);
	}
	an_device_close(b);
	an_device_close(a);
	TRY(s);
	bool kept = after == before;
	snprintf(out->expected, sizeof out->expected, "%s", number ? "it loads without being compiled" : "");
	snprintf(out->observed, sizeof out->observed, "%s",
		 kept ? "it loads without being compiled" : "it had to be compiled again");
	out->verdict = kept == (number != 0) ? AN_PROBE_AGREES : AN_PROBE_DIFFERS;
	return AN_OK;
}

/* New weights in a program, where the adapter is told that they are heeded. */
static an_status run_weights(an_probe *p, int64_t number, an_probe_result *out)
{
	an_device *d;
	bool heeded = false;
	TRY(probe_device(p, "keeps_weights=off", &d));
	an_status s = speed_reload(p, d, &heeded, NULL);
	an_device_close(d);
	snprintf(out->expected, sizeof out->expected, "%s", number ? "the old weights are kept" : "");
	if (s == AN_UNSUPPORTED)
		probe_say(p, out, "the old weights are kept, or nobody can tell");
	else
		TRY(s);
	if (s == AN_OK)
		snprintf(out->observed, sizeof out->observed, "%s",
			 heeded ? "the new weights are used" : "the old weights are kept");
	/* reports disagree: what the engine does is what is to be found out */
	out->verdict = heeded == (number == 0) ? AN_PROBE_AGREES : AN_PROBE_DIFFERS;
	return AN_OK;
}

/* ---- The item ------------------------------------------------------------------------------------ */

an_status habit_run(an_probe *p, int quirk, an_probe_result *out)
{
	const habit *h = find(quirk);
	ane_quirks known;
	TRY(ane_quirks_set(p->ctx, p->chip, route_of(p), NULL, &known));
	int64_t number = known.value[quirk];
	if (!h) {
		snprintf(out->observed, sizeof out->observed, "there is no program that tries it");
		return AN_OK;
	}
	return h->run ? h->run(p, number, out) : run_program(p, h, quirk, number != 0, out);
}
