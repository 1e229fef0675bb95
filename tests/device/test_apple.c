/* The device "ane" against stand-ins of Apple's libraries (tests/standin), on both of its routes: what it
 * computes is what "soft" computes in the engine's profile, bit for bit; everything missing or failing is
 * named; nothing is left over. */
#include "support/device_support.h"

#include "base/file.h"
#include "base/half.h"
#include "base/random.h"
#include "device/device.h"

#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "standin/standin.h"

static standin_state *s;
static char temporary[64];
static const char *route; /* "ane:objc" */

static bool on_objc(void) { return !strcmp(route, "ane:objc"); }

/* No limit on compiles and no pause: many tests share this process. */
#define FREE "compile_budget=off,compile_pause=off"

static an_status try_open(an_ctx *ctx, const char *quirks, an_device **out)
{
	return an_device_open(
	    ctx, &(an_device_options){.name = route, .quirks = quirks, .libraries = TEST_STANDIN_DIR}, out);
}

static an_device *open_ane(an_ctx *ctx, const char *quirks)
{
	an_device *d;
	MIL_OK(ctx, try_open(ctx, quirks, &d));
	return d;
}

static void assert_message(an_ctx *ctx, const char *word)
{
	if (!strstr(an_message(ctx), word))
		fail_msg("the message \"%s\" does not mention \"%s\"", an_message(ctx), word);
}

/* Nothing of Apple's is alive, loaded or locked, and no model folder is left. */
static void assert_clean(void)
{
	char command[200];
	assert_int_equal(s->objects, 0);
	assert_int_equal(s->surfaces, 0);
	assert_int_equal(s->locked, 0);
	assert_int_equal(s->loaded, 0);
	assert_int_equal(s->left_loaded, 0);
	snprintf(command, sizeof command,
		 "test -z \"$(find %s -mindepth 1 ! -name lock ! -name anneal-ane)\"", temporary);
	assert_int_equal(system(command), 0);
}

static int reset(void **state)
{
	(void)state;
	s->fail_at = s->calls = s->most_compiles = 0;
	s->hidden[0] = s->retyped[0] = s->quirks[0] = s->failed[0] = 0;
	snprintf(s->temporary, sizeof s->temporary, "%s", temporary);
	setenv("TMPDIR", temporary, 1);
	return 0;
}

/* ---- Programs ------------------------------------------------------------------------------ */

/* Three inputs and outputs of different sizes whose names stand in another order than they do, a blob, and
 * parameters that have defaults. */
static an_program *small_program(an_ctx *ctx, uint64_t seed)
{
	an_program *p;
	an_function *f;
	MIL_OK(ctx, an_program_new(ctx, &p));
	MIL_OK(ctx, an_function_new(p, "main", &f));
	an_builder b = an_builder_on(f);
	int32_t m = 4 + (int32_t)(random_uniform(seed, 0, 0) * 13),
		k = 3 + (int32_t)(random_uniform(seed, 0, 1) * 30),
		n = 12 + (int32_t)(random_uniform(seed, 0, 2) * 20);
	an_type weight = an_tensor(AN_FP16, 2, (int32_t[]){k, n});
	uint16_t bytes[33 * 32];
	device_fill(&weight, bytes, seed, 1, -1, 1);
	an_value x = an_input(&b, "x", an_tensor(AN_FP16, 2, (int32_t[]){m, k}));
	an_value c = an_input(&b, "c", an_tensor(AN_FP16, 1, (int32_t[]){n}));
	an_value a = an_input(&b, "a", an_tensor(AN_FP16, 2, (int32_t[]){m, n}));
	an_value y = an_matmul(&b, x, an_const(&b, "w", weight, bytes), false, false);
	an_value z = an_softmax(&b, an_add(&b, y, c), 1);
	an_value sum = an_reduce(&b, "reduce_sum", an_mul(&b, z, a), 1, true);
	an_output(&b, an_name(&b, sum, "total"));
	an_output(&b, an_name(&b, y, "logits"));
	an_output(&b, an_name(&b, z, "B"));
	MIL_OK(ctx, an_builder_finish(&b));
	return p;
}

/* Runs f on both devices and compares every output's bits. */
static void compare(an_device *ane, an_device *soft, an_function *f, uint64_t seed)
{
	an_call *x = device_call(ane, f, seed, -2, 2), *y = device_call(soft, f, seed, -2, 2);
	MIL_OK(ane->ctx, an_call_run(x));
	MIL_OK(soft->ctx, an_call_run(y));
	for (int i = x->exe->ninputs; i < x->exe->ninputs + x->exe->noutputs; i++) {
		if (memcmp(device_bytes(x, i), device_bytes(y, i), x->bound[i]->bytes))
			fail_msg("seed %llu: output %s differs", (unsigned long long)seed,
				 x->exe->ports[i].name);
		an_buffer_unmap(x->bound[i]);
	}
	an_call_free(x);
	an_call_free(y);
}

static void compare_many(const char *quirks, int n)
{
	an_ctx *ctx = device_ctx(1);
	an_device *ane = open_ane(ctx, quirks), *soft = device_soft(ctx, "m4", true);
	for (uint64_t seed = 1; seed <= (uint64_t)n; seed++) {
		an_program *p = small_program(ctx, seed);
		compare(ane, soft, an_program_function(p, NULL), seed);
		an_program_free(p);
	}
	an_device_close(ane);
	an_device_close(soft);
	an_ctx_close(ctx);
	assert_clean();
}

static void test_same_bits(void **state)
{
	(void)state;
	compare_many(FREE, 40);
}

/* Ports of ranks 0 to 3 and of several types, all too narrow for the rules on widths. */
static an_program *narrow_program(an_ctx *ctx, const char *extra)
{
	char text[900];
	an_program *p;
	snprintf(
	    text, sizeof text,
	    "program(1.3)\n{ func main<ios18>(tensor<fp16, [2, 3, 5]> a, fp16 b, tensor<fp16, [1]> c%s) {\n"
	    "tensor<fp16, [2, 3, 5]> ab = mul(x = a, y = b)[name = string(\"ab\")];\n"
	    "tensor<fp16, [2, 3, 5]> y = add(x = ab, y = c)[name = string(\"y\")];\n"
	    "tensor<int32, [3]> all = const()[name = string(\"all\"), val = tensor<int32, [3]>([0, 1, 2])];\n"
	    "fp16 s = reduce_sum(x = y, axes = all, keep_dims = false)[name = string(\"s\")];\n"
	    "tensor<fp16, [2, 3, 5]> r = relu(x = ab)[name = string(\"r\")];\n"
	    "%s } -> (s, y, r%s); }",
	    *extra ? ", tensor<int32, [4]> i" : "", extra, *extra ? ", k" : "");
	MIL_OK(ctx, an_program_parse(ctx, text, strlen(text), "narrow", &p));
	return p;
}

static void compare_narrow(const char *quirks)
{
	an_ctx *ctx = device_ctx(1);
	an_device *ane = open_ane(ctx, quirks), *soft = device_soft(ctx, "m4", true);
	an_program *p = narrow_program(
	    ctx, on_objc() ? "tensor<int32, [4]> k = add(x = i, y = i)[name = string(\"k\")];" : "");
	for (uint64_t seed = 1; seed <= 3; seed++)
		compare(ane, soft, an_program_function(p, NULL), seed);
	an_program_free(p);
	an_device_close(ane);
	an_device_close(soft);
	an_ctx_close(ctx);
	assert_clean();
}

/* With a quirk on both sides the bits stay; this is what each switch is for. */
static void test_quirks(void **state)
{
	(void)state;
	static const char *const set[] = {
	    "equal_size=on",    "min_surface=on",
	    "packed=off",       "ordered_bytes=on",
	    "aligned_size=128", "ordered_names=off",
	    "own_outputs=off",  "equal_size=on,min_surface=on,packed=off,aligned_size=256",
	    "min_width=24",     "width_multiple=16",
	    "fixed_ports=on",   "min_width=32,width_multiple=24,packed=off",
	    "prepared=on",      "min_width=40,ordered_names=on,ordered_bytes=on"};
	for (int i = 0; i < LENGTH(set); i++) {
		char quirks[200];
		snprintf(quirks, sizeof quirks, FREE ",%s", set[i]);
		snprintf(s->quirks, sizeof s->quirks, "%s", set[i]);
		compare_many(quirks, 4);
		compare_narrow(quirks);
	}
	/* without them on our side, the engine fails as it is reported to */
	static const struct {
		const char *enforced, *word;
	} broken[] = {{"min_surface=on", "min_surface"},
		      {"min_width=64", "min_width"},
		      {"width_multiple=7", "0x1d"},
		      {"equal_size=on", "0x1d"}};
	for (int i = 0; i < LENGTH(broken) - !on_objc(); i++) { /* requests have sizes, ports do not */
		an_ctx *ctx = device_ctx(1);
		an_device *d = open_ane(ctx, FREE);
		an_program *p = small_program(ctx, 1);
		snprintf(s->quirks, sizeof s->quirks, "%s", broken[i].enforced);
		an_call *c = device_call(d, an_program_function(p, NULL), 1, -1, 1);
		assert_int_equal(an_call_run(c), AN_DEVICE);
		assert_message(ctx, broken[i].word);
		an_program_free(p);
		an_device_close(d);
		an_ctx_close(ctx);
		assert_clean();
	}
}

static void test_refusals(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_device *d;
	an_executable *e;
	/* the rule, and whose evidence it is */
	static const struct {
		const char *quirks, *type, *operation, *rule, *evidence;
	} rows[] = {{"no_concat=on", "fp16", "concat(values = (x, x), axis = 1, interleave = false)",
		     "no_concat", "Orion constraint 1"},
		    {"short_ports=on", "fp32", "add(x = x, y = x)", "short_ports", "ANEForge"},
		    {"", "bool", "identity(x = x)", "no_bool_ports", "ANEForge"}};
	for (int i = 0; i < LENGTH(rows); i++) {
		char quirks[100], text[300];
		an_program *p;
		snprintf(text, sizeof text,
			 "program(1.3)\n{ func main<ios18>(tensor<%s, [2, 3]> x) {\n"
			 "tensor<%s, [2, %d]> y = %s[name = string(\"y\")]; } -> (y); }",
			 rows[i].type, rows[i].type, i ? 3 : 6, rows[i].operation);
		snprintf(quirks, sizeof quirks, FREE "%s%s", *rows[i].quirks ? "," : "", rows[i].quirks);
		MIL_OK(ctx, an_program_parse(ctx, text, strlen(text), "t", &p));
		d = open_ane(ctx, quirks);
		assert_int_equal(an_compile(d, an_program_function(p, NULL), &e), AN_DEVICE);
		assert_message(ctx, rows[i].rule);
		assert_message(ctx, rows[i].evidence);
		an_device_close(d);
		an_program_free(p);
	}
	/* what the compiler refuses comes back in its words */
	an_program *q;
	const char text[] = "program(1.3)\n{ func main<ios18>(tensor<fp16, [2, 3]> x) {\n"
			    "tensor<fp16, [2, 3]> y = softmax(x = x)[name = string(\"y\")]; } -> (y); }";
	MIL_OK(ctx, an_program_parse(ctx, text, strlen(text), "t", &q));
	d = open_ane(ctx, FREE ",build_info=off");
	assert_int_equal(an_compile(d, an_program_function(q, NULL), &e), AN_DEVICE);
	assert_message(ctx, "ANECCompile() FAILED");
	assert_message(ctx, "anneal lint");
	an_device_close(d);
	d = open_ane(ctx, FREE ",explicit=off");
	assert_int_equal(an_compile(d, an_program_function(q, NULL), &e), AN_DEVICE);
	assert_message(ctx, "explicit");
	an_device_close(d);
	an_program_free(q);
	assert_int_equal(try_open(ctx, "equal=on", &d), AN_USAGE);
	assert_message(ctx, "equal_size");
	assert_int_equal(try_open(ctx, "equal_size=3", &d), AN_USAGE);
	assert_int_equal(an_device_open(ctx, &(an_device_options){.name = "ane:cloud"}, &d), AN_USAGE);
	assert_message(ctx, "\"ane:objc\", \"ane:e5rt\"");
	assert_int_equal(an_device_open(ctx, &(an_device_options){.name = route, .numerics = "m4"}, &d),
			 AN_USAGE);
	an_ctx_close(ctx);
	assert_clean();
}

/* ---- Rules on operations --------------------------------------------------------------------- */

static const struct {
	const char *quirk, *evidence, *body;
} op_rules[] = {
    {"unmasked", "Orion constraint 6",
     "(tensor<fp16, [1, 2, 4, 8]> q, tensor<fp16, [1, 1, 4, 4]> m) {\n"
     "tensor<fp16, [1, 2, 4, 8]> y = scaled_dot_product_attention(query = q, key = q, value = q, attn_mask = "
     "m)"},
    {"constant_kernels", "field guide",
     "(tensor<fp16, [1, 4, 1, 8]> x, tensor<fp16, [3, 4, 1, 1]> w) {\n"
     "tensor<fp16, [1, 3, 1, 8]> y = conv(x = x, weight = w)"},
    {"contraction", "ane-train",
     "(tensor<fp16, [3, 5]> x, tensor<fp16, [5, 4]> w) {\ntensor<fp16, [3, 4]> y = matmul(x = x, y = w)"},
    {"no_tile", "field guide",
     "(tensor<fp16, [3, 5]> x) {\n"
     "tensor<int32, [2]> r = const()[name = string(\"r\"), val = tensor<int32, [2]>([1, 2])];\n"
     "tensor<fp16, [3, 10]> y = tile(x = x, reps = r)"},
};

static an_program *rule_program(an_ctx *ctx, int i)
{
	char text[500];
	an_program *p;
	snprintf(text, sizeof text, "program(1.3)\n{ func main<ios18>%s[name = string(\"y\")]; } -> (y); }",
		 op_rules[i].body);
	MIL_OK(ctx, an_program_parse(ctx, text, strlen(text), op_rules[i].quirk, &p));
	return p;
}

/* Runs a program that breaks the rule on an engine that has it; whether the result is that of "soft". */
static bool broken_runs(an_ctx *ctx, an_device *d, int i)
{
	an_device *soft = device_soft(ctx, "m4", true);
	an_program *p = rule_program(ctx, i);
	an_call *x = device_call(d, an_program_function(p, NULL), 7, -2, 2),
		*y = device_call(soft, an_program_function(p, NULL), 7, -2, 2);
	int out = x->exe->ninputs;
	MIL_OK(ctx, an_call_run(x));
	MIL_OK(ctx, an_call_run(y));
	bool same = !memcmp(device_bytes(x, out), device_bytes(y, out), x->bound[out]->bytes);
	an_buffer_unmap(x->bound[out]);
	an_program_free(p);
	an_device_close(soft);
	return same;
}

/* Refused with the rule and its evidence where the switch is on; else it comes out as reported. */
static void test_rules_on_operations(void **state)
{
	(void)state;
	for (int i = 0; i < LENGTH(op_rules); i++) {
		an_ctx *ctx = device_ctx(1);
		char quirks[100];
		snprintf(quirks, sizeof quirks, FREE ",%s=on", op_rules[i].quirk);
		an_device *d = open_ane(ctx, quirks);
		an_program *p = rule_program(ctx, i);
		an_executable *e;
		assert_int_equal(an_compile(d, an_program_function(p, NULL), &e), AN_DEVICE);
		assert_message(ctx, op_rules[i].quirk);
		assert_message(ctx, op_rules[i].evidence);
		an_program_free(p);
		an_device_close(d);
		snprintf(s->quirks, sizeof s->quirks, "%s=on", op_rules[i].quirk);
		if (strcmp(op_rules[i].quirk, "no_tile") != 0) {
			d = open_ane(ctx, FREE);
			assert_false(broken_runs(ctx, d, i));
			an_device_close(d);
			s->quirks[0] = 0;
			d = open_ane(ctx, FREE);
			assert_true(broken_runs(ctx, d, i));
			an_device_close(d);
			an_ctx_close(ctx);
			assert_clean();
			continue;
		}
		pid_t child = fork(); /* what comes after fails until the process ends */
		if (child == 0) {
			d = open_ane(ctx, FREE);
			bool right = broken_runs(ctx, d, i);
			p = small_program(ctx, 1);
			an_call *c = device_call(d, an_program_function(p, NULL), 1, -1, 1);
			right = right && an_call_run(c) == AN_DEVICE &&
				strstr(an_message(ctx), "`tile` ran before");
			an_device_close(d);
			_exit(right ? 0 : 1);
		}
		int status;
		assert_int_equal(waitpid(child, &status, 0), child);
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
		an_ctx_close(ctx);
	}
}

/* ---- What is missing ------------------------------------------------------------------------- */

/* A folder of stand-ins without `name`, which may be a link to another library. */
static const char *folder_without(const char *name, const char *other)
{
	static const char *const file[] = {"libobjc.so",    "libSystem.so", "CoreFoundation.so",
					   "Foundation.so", "IOSurface.so", "AppleNeuralEngine.so",
					   "Espresso.so"};
	static char folder[200];
	char from[400], to[400];
	static int n; /* the dynamic linker remembers what it has opened by this name */
	snprintf(folder, sizeof folder, "%s/libraries%d", temporary, n++);
	assert_int_equal(mkdir(folder, 0700), 0);
	for (int k = 0; k < LENGTH(file); k++) {
		bool this = !strcmp(file[k], name);
		snprintf(from, sizeof from, "%s/%s", TEST_STANDIN_DIR, this ? other : file[k]);
		snprintf(to, sizeof to, "%s/%s", folder, file[k]);
		if (!this || *other)
			assert_int_equal(symlink(from, to), 0);
	}
	return folder;
}

static void opens_without(an_ctx *ctx, const char *device, const char *file, const char *other,
			  const char *word)
{
	an_device *d;
	an_device_options o = {.name = device, .libraries = folder_without(file, other)};
	an_status status = an_device_open(ctx, &o, &d);
	if (word) {
		if (status != AN_UNSUPPORTED)
			fail_msg("\"%s\" without %s (%s): %s", device, file, other, an_status_name(status));
		assert_message(ctx, word);
	} else {
		MIL_OK(ctx, status);
		an_device_close(d);
	}
	MIL_OK(ctx, dir_remove(ctx, o.libraries));
}

static void test_missing_libraries(void **state)
{
	(void)state;
	static const char *const objc[] = {"libobjc.so",
					   "libSystem.so",
					   "CoreFoundation.so",
					   "Foundation.so",
					   "IOSurface.so",
					   "AppleNeuralEngine.so",
					   NULL},
				 *const e5rt[] = {"libobjc.so", "libSystem.so", "Espresso.so", NULL};
	an_ctx *ctx = device_ctx(1);
#ifdef __linux__
	an_device *d;
	assert_int_equal(an_device_open(ctx, &(an_device_options){.name = "ane"}, &d), AN_UNSUPPORTED);
	assert_message(ctx, "no Neural Engine here: ane:objc: the Objective-C runtime cannot be opened");
	assert_message(ctx, "; ane:e5rt: the Objective-C runtime cannot be opened");
	assert_int_equal(an_device_open(ctx, &(an_device_options){.name = route}, &d), AN_UNSUPPORTED);
	assert_message(ctx, "no Neural Engine here");
#endif
	for (const char *const *file = on_objc() ? objc : e5rt; *file; file++) {
		opens_without(ctx, route, *file, "", *file);
		/* what both need is missing for both; else the other route opens */
		opens_without(ctx, "ane", *file, "", strncmp(*file, "lib", 3) ? NULL : *file);
	}
	/* there, but not what it was */
	if (on_objc())
		opens_without(ctx, route, "Foundation.so", "CoreFoundation.so",
			      "no function NSTemporaryDirectory");
	else
		opens_without(ctx, route, "Espresso.so", "Foundation.so",
			      "no function e5rt_get_last_error_message");
	an_ctx_close(ctx);
	assert_clean();
}

static void test_missing_methods(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_device *d;
	static const char *const hidden[] = {
	    "_ANEInMemoryModelDescriptor",
	    "_ANEInMemoryModel",
	    "_ANEIOSurfaceObject",
	    "_ANERequest",
	    "_ANEInMemoryModelDescriptor modelWithMILText:weights:optionsPlist:",
	    "_ANEInMemoryModel inMemoryModelWithDescriptor:",
	    "_ANEInMemoryModel hexStringIdentifier",
	    "_ANEInMemoryModel compileWithQoS:options:error:",
	    "_ANEInMemoryModel loadWithQoS:options:error:",
	    "_ANEInMemoryModel unloadWithQoS:error:",
	    "_ANEInMemoryModel evaluateWithQoS:options:request:error:",
	    "_ANEIOSurfaceObject objectWithIOSurface:",
	    ("_ANERequest "
	     "requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:")};
	for (int i = 0; i < LENGTH(hidden); i++) {
		snprintf(s->hidden, sizeof s->hidden, "%s", hidden[i]);
		if (!on_objc()) { /* which needs none of them */
			MIL_OK(ctx, try_open(ctx, FREE, &d));
			an_device_close(d);
			continue;
		}
		assert_int_equal(try_open(ctx, FREE, &d), AN_UNSUPPORTED);
		assert_message(ctx, "this macOS has no");
		assert_message(ctx, hidden[i]);
		assert_message(ctx, "macOS 15 and 26");
	}
	s->hidden[0] = 0;
	snprintf(s->retyped, sizeof s->retyped, "compileWithQoS:options:error:");
	if (on_objc()) {
		assert_int_equal(try_open(ctx, FREE, &d), AN_UNSUPPORTED);
		assert_message(ctx, "other types");
	}
	an_ctx_close(ctx);
	assert_clean();
}

/* ---- Memory and weights ------------------------------------------------------------------------ */

/* y = x + c: an output in the memory of an input keeps a sum from call to call. */
static void test_resident_state(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_device *d = open_ane(ctx, FREE);
	an_program *p;
	an_function *f;
	an_type type = an_tensor(AN_FP16, 2, (int32_t[]){3, 5});
	MIL_OK(ctx, an_program_new(ctx, &p));
	MIL_OK(ctx, an_function_new(p, "sum", &f));
	an_builder b = an_builder_on(f);
	an_value x = an_input(&b, "x", type), c = an_input(&b, "c", type);
	an_output(&b, an_name(&b, an_add(&b, x, c), "y"));
	MIL_OK(ctx, an_builder_finish(&b));
	an_executable *e;
	an_call *call;
	an_buffer *sum, *step;
	float values[15];
	MIL_OK(ctx, an_compile(d, f, &e));
	MIL_OK(ctx, an_call_new(e, &call));
	MIL_OK(ctx, an_buffer_new(d, &type, &sum));
	MIL_OK(ctx, an_buffer_new(d, &type, &step));
	for (int i = 0; i < 15; i++)
		values[i] = (float)i - 4;
	MIL_OK(ctx, an_buffer_update_from_f32(step, 0, 15, values));
	MIL_OK(ctx, an_call_bind(call, "x", sum));
	MIL_OK(ctx, an_call_bind(call, "c", step));
	MIL_OK(ctx, an_call_bind(call, "y", sum));
	long surfaces = s->surfaces;
	for (int k = 1; k <= 4; k++) {
		MIL_OK(ctx, an_call_run(call));
		const uint16_t *at = an_buffer_map(sum);
		for (int i = 0; i < 15; i++)
			assert_true(half_to_float(at[i]) == (float)k * values[i]);
		an_buffer_unmap(sum);
	}
	/* on e5rt the engine works on the buffer itself; elsewhere it is not known, and a copy stands between
	 */
	assert_int_equal(s->surfaces - surfaces, on_objc() ? 1 : 0);
	an_program_free(p);
	an_device_close(d);
	an_ctx_close(ctx);
	assert_clean();
}

/* Calls of one program with memory of their own, in turn. */
static void test_other_memory(void **state)
{
	(void)state;
	static const struct {
		const char *ours, *theirs, *word;
	} rows[] = {
	    {"", "", NULL},
	    {",fixed_ports=on", "fixed_ports=on", NULL},
	    {",prepared=on", "prepared=on", NULL},
	    {"", "fixed_ports=on", "e5rt_io_port_bind_buffer_object failed: the operation was encoded"},
	    {"", "prepared=on", "ReadyForEncode"}};
	for (int i = 0; i < LENGTH(rows); i++) {
		an_ctx *ctx = device_ctx(1);
		char quirks[200];
		snprintf(quirks, sizeof quirks, FREE "%s", rows[i].ours);
		snprintf(s->quirks, sizeof s->quirks, "%s", rows[i].theirs);
		an_device *ane = open_ane(ctx, quirks), *soft = device_soft(ctx, "m4", true);
		an_program *p = small_program(ctx, 11);
		an_function *f = an_program_function(p, NULL);
		an_call *x[3], *y[3];
		for (int k = 0; k < 3; k++) {
			x[k] = device_call(ane, f, 20 + (uint64_t)k, -2, 2);
			y[k] = device_call(soft, f, 20 + (uint64_t)k, -2, 2);
			MIL_OK(ctx, an_call_run(y[k]));
		}
		an_status status = AN_OK;
		for (int n = 0; status == AN_OK && n < 7; n++) {
			int k = n % 3;
			status = an_call_run(x[k]);
			for (int o = 3; status == AN_OK && o < 6; o++) {
				assert_memory_equal(device_bytes(x[k], o), device_bytes(y[k], o),
						    x[k]->bound[o]->bytes);
				an_buffer_unmap(x[k]->bound[o]);
			}
		}
		if (rows[i].word && !on_objc()) {
			assert_int_equal(status, AN_DEVICE);
			assert_message(ctx, rows[i].word);
		} else {
			MIL_OK(ctx, status);
		}
		an_program_free(p);
		an_device_close(ane);
		an_device_close(soft);
		an_ctx_close(ctx);
		assert_clean();
	}
}

/* y = x w, with w from `seed` */
static an_program *product(an_ctx *ctx, uint64_t seed)
{
	an_program *p;
	an_function *f;
	uint16_t w[32 * 40];
	an_type type = an_tensor(AN_FP16, 2, (int32_t[]){32, 40});
	device_fill(&type, w, seed, 1, -1, 1);
	MIL_OK(ctx, an_program_new(ctx, &p));
	MIL_OK(ctx, an_function_new(p, "product", &f));
	an_builder b = an_builder_on(f);
	an_value x = an_input(&b, "x", an_tensor(AN_FP16, 2, (int32_t[]){7, 32}));
	an_output(&b, an_name(&b, an_matmul(&b, x, an_const(&b, "w", type, w), false, false), "y"));
	MIL_OK(ctx, an_builder_finish(&b));
	return p;
}

#define TRIES FREE ",keeps_weights=off"

/* New weights are used; two programs that were equal stay apart. */
static void test_reload(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	snprintf(s->quirks, sizeof s->quirks, "keeps_weights=off");
	an_device *ane = open_ane(ctx, TRIES), *soft = device_soft(ctx, "m4", true);
	an_program *first = product(ctx, 1);
	an_executable *e[3];
	an_call *c[3];
	an_buffer *x, *y;
	for (int i = 0; i < 2; i++)
		MIL_OK(ctx, an_compile_own(ane, an_program_function(first, NULL), &e[i]));
	MIL_OK(ctx, an_compile(ane, an_program_function(first, NULL), &e[2]));
	assert_int_equal(an_reload(e[2], an_program_function(first, NULL)), AN_USAGE);
	assert_message(ctx, "an_compile_own");
	MIL_OK(ctx, an_buffer_new(ane, &e[0]->ports[0].type, &x));
	MIL_OK(ctx, an_buffer_new(ane, &e[0]->ports[1].type, &y));
	device_fill(&x->type, an_buffer_map(x), 5, 1, -1, 1);
	an_buffer_unmap(x);
	for (int i = 0; i < 3; i++) {
		MIL_OK(ctx, an_call_new(e[i], &c[i]));
		MIL_OK(ctx, an_call_bind(c[i], "x", x));
		MIL_OK(ctx, an_call_bind(c[i], "y", y));
	}
	long compiles = s->compiles;
	for (uint64_t seed = 1; seed <= 4; seed++) {
		an_program *p = product(ctx, seed);
		an_function *f = an_program_function(p, NULL);
		if (seed > 1)
			MIL_OK(ctx, an_reload(e[0], f));
		for (int i = 0; i < 3; i++) {
			an_program *q = product(ctx, i ? 1 : seed);
			an_call *want = device_call(soft, an_program_function(q, NULL), 5, -1, 1);
			device_fill(&x->type, an_buffer_map(want->bound[0]), 5, 1, -1, 1);
			MIL_OK(ctx, an_call_run(want));
			MIL_OK(ctx, an_call_run(c[i]));
			assert_memory_equal(an_buffer_map(y), device_bytes(want, 1), y->bytes);
			an_buffer_unmap(y);
			an_call_free(want);
			an_program_free(q);
		}
		an_program_free(p);
	}
	assert_int_equal(s->compiles - compiles, 1); /* the program that tried it out */
	an_program_free(first);
	an_device_close(ane);
	an_device_close(soft);
	an_ctx_close(ctx);
	assert_clean();
}

/* An engine that goes on with the old weights, and says nothing. */
static void test_kept_weights(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_program *p = product(ctx, 1), *q = product(ctx, 2);
	snprintf(s->quirks, sizeof s->quirks, "keeps_weights=on");
	for (int i = 0; i < 2; i++) {
		an_device *d = open_ane(ctx, i ? FREE ",keeps_weights=on" : TRIES);
		an_executable *e;
		MIL_OK(ctx, an_compile_own(d, an_program_function(p, NULL), &e));
		for (int k = 0; k < 2; k++) {
			long compiles = s->compiles;
			assert_int_equal(an_reload(e, an_program_function(q, NULL)), AN_UNSUPPORTED);
			assert_message(ctx, i ? "keeps_weights=off tries it"
					      : "went on computing with the old ones");
			assert_message(ctx, "AutoANE"); /* whose evidence */
			assert_message(ctx, "--weights dynamic");
			assert_int_equal(s->compiles - compiles,
					 i == 0 && k == 0); /* tried out once, or never */
		}
		an_device_close(d);
		assert_clean();
	}
	an_program_free(p);
	an_program_free(q);
	an_ctx_close(ctx);
}

/* ---- Every private call fails once ------------------------------------------------------------- */

static char said[3000]; /* of what failed first */

/* Opens, compiles, runs twice, with other memory in between, gives it other weights and closes; the status of
 * what failed first. */
static an_status scenario(an_ctx *ctx, an_function *f, an_function *other)
{
	an_device *d;
	an_executable *e = NULL;
	an_call *c[2] = {NULL, NULL};
	*said = 0;
	an_status status = try_open(ctx, TRIES ",equal_size=on,prepared=on", &d); /* with copies */
	if (status != AN_OK) {
		snprintf(said, sizeof said, "%s", an_message(ctx));
		return status;
	}
	status = an_compile_own(d, f, &e);
	for (int k = 0; status == AN_OK && k < 2; k++) {
		status = an_call_new(e, &c[k]);
		for (int i = 0; status == AN_OK && i < e->ninputs + e->noutputs; i++) {
			an_buffer *b;
			status = an_buffer_new(d, &e->ports[i].type, &b);
			if (status != AN_OK)
				break;
			status = an_call_bind(c[k], e->ports[i].name, b);
			if (status == AN_OK && !an_buffer_map(b))
				status = AN_DEVICE;
			else
				an_buffer_unmap(b);
			an_buffer_free(b);
		}
	}
	for (int i = 0; status == AN_OK && i < 3; i++)
		status = an_call_run(c[i % 2]);
	if (status == AN_OK) {
		status = an_reload(e, other);
		snprintf(said, sizeof said, "%s", an_message(ctx));
		/* what failed before anything was replaced has changed nothing; else it does not run */
		an_status after = an_call_run(c[0]);
		assert_true(status == AN_OK || after == AN_OK || after == AN_DEVICE);
		if (status == AN_OK && (status = after) != AN_OK)
			snprintf(said, sizeof said, "%s", an_message(ctx));
	} else {
		snprintf(said, sizeof said, "%s", an_message(ctx));
	}
	an_device_close(d);
	return status;
}

static bool names(const char *message, const char *call)
{
	/* of the longest selector a message has the first words */
	return strstr(message, call) || !strcmp(call, "requestWithInputs:...");
}

/* What of Apple's can fail by itself: functions of Espresso, and methods. */
static struct {
	const char *from, *name;
	bool seen;
} private[] = {
#define FUNCTION(from, result, name, parameters)               {#from, #name, false},
#define METHOD(member, class, kind, text, layout, result, ...) {"ANE", text, false},
#include "device/apple/symbols.def"
};

/* Whether each of the route's was made to fail. */
static void check_all_seen(void)
{
	for (int i = 0; i < LENGTH(private); i++) {
		bool ours = !strcmp(private[i].from, on_objc() ? "ANE" : "ESPRESSO") &&
			    strcmp(private[i].name, "e5rt_get_last_error_message") != 0;
		if (ours && !private[i].seen)
			fail_msg("%s never failed", private[i].name);
	}
}

static void see(const char *call)
{
	size_t n = strcspn(call, ".");
	for (int i = 0; i < LENGTH(private); i++)
	private[i].seen |= !strncmp(private[i].name, call, call[n] ? n : strlen(call) + 1);
}

static void test_every_call_fails(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_program *p = product(ctx, 3), *q = product(ctx, 4);
	an_function *f = an_program_function(p, NULL), *other = an_program_function(q, NULL);
	int failures = 0;
	long before = s->objects;
	for (long n = 1;; n++) {
		reset(NULL);
		snprintf(s->quirks, sizeof s->quirks, "keeps_weights=off");
		s->fail_at = n;
		an_status status = scenario(ctx, f, other);
		assert_clean();
		assert_int_equal(s->objects, before);
		if (!s->failed[0])
			break; /* fewer calls than n were made */
		failures++;
		see(s->failed);
		/* what fails while things are put away is logged; a folder's kept program is compiled instead
		 */
		bool putting_away = !strcmp(s->failed, "IOSurfaceUnlock") ||
				    !strcmp(s->failed, "unloadWithQoS:error:") ||
				    (!on_objc() && strstr(s->failed, "_release"));
		if (status == AN_OK && !putting_away)
			fail_msg("call %ld, %s, fails and nobody says so", n, s->failed);
		if (status == AN_OK)
			continue;
		if (!said[0])
			fail_msg("call %ld, %s, fails without a message", n, s->failed);
		if ((strstr(s->failed, ":") || !on_objc()) && !names(said, s->failed))
			fail_msg("call %ld, %s, fails with \"%s\"", n, s->failed, said);
		if (!on_objc() && !strstr(said, "out of luck (injected)"))
			fail_msg("call %ld, %s, fails without Espresso's words: \"%s\"", n, s->failed, said);
	}
	assert_true(failures > 100);
	check_all_seen();
	an_program_free(p);
	an_program_free(q);
	an_ctx_close(ctx);
}

/* ---- Limits ------------------------------------------------------------------------------------- */

static void test_many_evaluations(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_device *d = open_ane(ctx, FREE);
	an_program *p = small_program(ctx, 5);
	an_call *c = device_call(d, an_program_function(p, NULL), 5, -1, 1);
	struct rusage usage;
	long objects = 0, resident = 0, requests = 0;
	for (int i = 0; i < 10000; i++) {
		MIL_OK(ctx, an_call_run(c));
		if (i == 100) {
			getrusage(RUSAGE_SELF, &usage);
			objects = s->objects, resident = usage.ru_maxrss, requests = s->requests;
		}
	}
	getrusage(RUSAGE_SELF, &usage);
	assert_int_equal(s->objects, objects);
	assert_int_equal(s->requests, requests); /* one, made again only for other buffers */
	/* KB; sanitizers keep what was freed, and their own records */
	assert_true(SANITIZED || usage.ru_maxrss - resident < 1024);
	an_program_free(p);
	an_device_close(d);
	an_ctx_close(ctx);
	assert_clean();
}

static void test_budget(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_device *d;
	an_device_info info;
	pid_t child = fork(); /* the count is that of a process */
	if (child == 0) {
		d = open_ane(ctx, "compile_budget=1000000");
		an_device_get_info(d, &info);
		int used = 1000000 - (int)info.compiles_left;
		an_device_close(d);
		char quirks[80];
		snprintf(quirks, sizeof quirks, "compile_budget=%d", used + 2);
		d = open_ane(ctx, quirks);
		an_executable *e[3];
		an_program *p[3];
		for (int i = 0; i < 3; i++)
			p[i] = small_program(ctx, 70 + (uint64_t)i);
		bool right = an_compile(d, an_program_function(p[0], NULL), &e[0]) == AN_OK &&
			     an_compile(d, an_program_function(p[1], NULL), &e[1]) == AN_OK &&
			     an_compile(d, an_program_function(p[0], NULL), &e[2]) == AN_OK; /* cached */
		an_device_get_info(d, &info);
		right = right && info.compiles_left == 0 &&
			an_compile(d, an_program_function(p[2], NULL), &e[2]) == AN_BUDGET &&
			strstr(an_message(ctx), "new process");
		an_device_close(d);
		_exit(right ? 0 : 1);
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);

	/* no more are loaded than asked for: the one used longest ago makes room and comes back */
	d = open_ane(ctx, FREE ",loaded_programs=2");
	an_call *c[4];
	for (int i = 0; i < 4; i++) {
		an_program *p = small_program(ctx, 80 + (uint64_t)i);
		c[i] = device_call(d, an_program_function(p, NULL), 1, -1, 1);
		an_program_free(p);
	}
	for (int i = 0; i < 8; i++) {
		MIL_OK(ctx, an_call_run(c[i % 4]));
		assert_true(s->loaded <= 2);
	}
	long compiles = s->compiles;
	MIL_OK(ctx, an_call_run(c[0]));
	assert_int_equal(s->compiles, compiles);
	an_device_close(d);
	an_ctx_close(ctx);
	assert_clean();
}

/* ---- Folders and processes ------------------------------------------------------------------------- */

static void test_folders(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_program *p = small_program(ctx, 9);
	an_function *f = an_program_function(p, NULL);
	an_executable *e;
	int ready[2], status;
	char byte;
	/* a process that is killed leaves its folder; the next device removes it */
	assert_int_equal(pipe(ready), 0);
	pid_t child = fork();
	if (child == 0) {
		an_device *d = open_ane(ctx, FREE);
		bool right = an_compile(d, f, &e) == AN_OK && write(ready[1], "x", 1) == 1;
		pause();
		_exit(right);
	}
	close(ready[1]); /* a child that fails is not waited for */
	assert_int_equal(read(ready[0], &byte, 1), 1);
	/* two at once: both have the program, and what one leaves the other keeps */
	an_device *d = open_ane(ctx, FREE);
	MIL_OK(ctx, an_compile(d, f, &e));
	an_device_close(d);
	char command[200];
	snprintf(command, sizeof command, "test -n \"$(find %s -name model.mil)\"", temporary);
	assert_int_equal(system(command), 0);
	kill(child, SIGKILL);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(system(command), 0);
	d = open_ane(ctx, FREE);
	assert_int_not_equal(system(command), 0);
	an_device_close(d);
	assert_clean();

	/* no room: files cannot grow */
	struct rlimit old, none = {0};
	signal(SIGXFSZ, SIG_IGN);
	d = open_ane(ctx, FREE);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	none.rlim_max = old.rlim_max;
	none.rlim_cur = 150; /* the registry has room, weights do not */
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
	assert_int_equal(an_compile(d, f, &e), AN_IO);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_message(ctx, temporary);
	MIL_OK(ctx, an_compile(d, f, &e)); /* and goes on when there is room again */
	an_device_close(d);
	assert_clean();
	snprintf(s->temporary, sizeof s->temporary, "/dev/null/nowhere");
	setenv("TMPDIR", s->temporary, 1);
	assert_int_equal(try_open(ctx, FREE, &d), AN_IO);
	assert_message(ctx, "/dev/null");
	close(ready[0]);
	an_program_free(p);
	an_ctx_close(ctx);
}

int main(void)
{
	void *runtime = dlopen(TEST_STANDIN_DIR "/libobjc.so", RTLD_NOW);
	standin_state *(*find)(void) = NULL;
	if (runtime)
		*(void **)(&find) = dlsym(runtime, "standin");
	if (!find)
		return 77;
	s = find();
	snprintf(temporary, sizeof temporary, "/tmp/anneal-apple-XXXXXX");
	if (!mkdtemp(temporary))
		return 1;
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(test_same_bits, reset),
	    cmocka_unit_test_setup(test_quirks, reset),
	    cmocka_unit_test_setup(test_refusals, reset),
	    cmocka_unit_test_setup(test_rules_on_operations, reset),
	    cmocka_unit_test_setup(test_missing_libraries, reset),
	    cmocka_unit_test_setup(test_missing_methods, reset),
	    cmocka_unit_test_setup(test_resident_state, reset),
	    cmocka_unit_test_setup(test_other_memory, reset),
	    cmocka_unit_test_setup(test_reload, reset),
	    cmocka_unit_test_setup(test_kept_weights, reset),
	    cmocka_unit_test_setup(test_every_call_fails, reset),
	    cmocka_unit_test_setup(test_many_evaluations, reset),
	    cmocka_unit_test_setup(test_budget, reset),
	    cmocka_unit_test_setup(test_folders, reset),
	};
	int failed = 0;
	static const char *const routes[] = {"ane:objc", "ane:e5rt"};
	for (int i = 0; i < LENGTH(routes); i++) {
		route = routes[i];
		failed |= cmocka_run_group_tests_name(route, tests, NULL, NULL);
	}
	char command[100];
	snprintf(command, sizeof command, "rm -rf %s", temporary);
	return system(command) || failed;
}
