/* The device "ane" against stand-ins of Apple's libraries (tests/standin): what it computes is what "soft"
 * computes in the engine's profile, bit for bit; everything missing or failing is named; nothing is left
 * over. */
#include "support/device_support.h"

#include "base/file.h"
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

/* No limit on compiles and no pause: many tests share this process. */
#define FREE "compile_budget=off,compile_pause=off"

static an_status try_open(an_ctx *ctx, const char *quirks, an_device **out)
{
	return an_device_open(
	    ctx, &(an_device_options){.name = "ane", .quirks = quirks, .libraries = TEST_STANDIN_DIR}, out);
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

/* With a quirk on both sides the bits stay; this is what each switch is for. */
static void test_quirks(void **state)
{
	(void)state;
	static const char *const set[] = {
	    "equal_size=on",    "min_surface=on",
	    "packed=off",       "ordered_bytes=on",
	    "aligned_size=128", "ordered_names=off",
	    "own_outputs=off",  "equal_size=on,min_surface=on,packed=off,aligned_size=256"};
	for (int i = 0; i < LENGTH(set); i++) {
		char quirks[200];
		snprintf(quirks, sizeof quirks, FREE ",%s", set[i]);
		snprintf(s->quirks, sizeof s->quirks, "%s", set[i]);
		compare_many(quirks, 4);
	}
	/* without them on our side, the engine fails as it is reported to */
	static const struct {
		const char *enforced, *word;
	} broken[] = {{"equal_size=on", "0x1d"}, {"min_surface=on", "0x1d"}, {"min_width=64", "min_width"}};
	for (int i = 0; i < LENGTH(broken); i++) {
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
	an_device *d = open_ane(ctx, FREE ",min_width=64");
	an_program *p = small_program(ctx, 1);
	an_executable *e;
	assert_int_equal(an_compile(d, an_program_function(p, NULL), &e), AN_DEVICE);
	assert_message(ctx, "min_width");
	assert_message(ctx, "field guide"); /* whose evidence */
	an_device_close(d);
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
	an_program_free(p);
	assert_int_equal(try_open(ctx, "equal=on", &d), AN_USAGE);
	assert_message(ctx, "equal_size");
	assert_int_equal(try_open(ctx, "equal_size=3", &d), AN_USAGE);
	assert_int_equal(an_device_open(ctx, &(an_device_options){.name = "ane:cloud"}, &d), AN_USAGE);
	assert_message(ctx, "ane:objc");
	assert_int_equal(an_device_open(ctx, &(an_device_options){.name = "ane", .numerics = "m4"}, &d),
			 AN_USAGE);
	an_ctx_close(ctx);
	assert_clean();
}

/* ---- What is missing ------------------------------------------------------------------------- */

static void test_missing(void **state)
{
	(void)state;
	static const char *const file[] = {"libobjc.so",    "libSystem.so", "CoreFoundation.so",
					   "Foundation.so", "IOSurface.so", "AppleNeuralEngine.so"};
	an_ctx *ctx = device_ctx(1);
	an_device *d;
#ifdef __linux__
	assert_int_equal(an_device_open(ctx, &(an_device_options){.name = "ane"}, &d), AN_UNSUPPORTED);
	assert_message(ctx, "no Neural Engine here");
#endif
	for (int i = 0; i < LENGTH(file); i++) {
		char folder[200], from[400], to[400];
		snprintf(folder, sizeof folder, "%s/libraries", temporary);
		assert_int_equal(mkdir(folder, 0700), 0);
		for (int k = 0; k < LENGTH(file); k++) {
			snprintf(from, sizeof from, "%s/%s", TEST_STANDIN_DIR, file[k]);
			snprintf(to, sizeof to, "%s/%s", folder, file[k]);
			if (k != i)
				assert_int_equal(symlink(from, to), 0);
		}
		an_device_options o = {.name = "ane", .libraries = folder};
		assert_int_equal(an_device_open(ctx, &o, &d), AN_UNSUPPORTED);
		assert_message(ctx, "no Neural Engine here");
		assert_message(ctx, file[i]);
		MIL_OK(ctx, dir_remove(ctx, folder));
	}
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
		assert_int_equal(try_open(ctx, FREE, &d), AN_UNSUPPORTED);
		assert_message(ctx, "this macOS has no");
		assert_message(ctx, hidden[i]);
		assert_message(ctx, "macOS 15 and 26");
	}
	s->hidden[0] = 0;
	snprintf(s->retyped, sizeof s->retyped, "compileWithQoS:options:error:");
	assert_int_equal(try_open(ctx, FREE, &d), AN_UNSUPPORTED);
	assert_message(ctx, "other types");
	an_ctx_close(ctx);
	assert_clean();
}

/* ---- Every private call fails once ------------------------------------------------------------- */

/* Opens, compiles, runs twice and closes; the status of what failed first. */
static an_status scenario(an_ctx *ctx, an_function *f)
{
	an_device *d;
	an_executable *e = NULL;
	an_call *c = NULL;
	TRY(try_open(ctx, FREE ",equal_size=on", &d)); /* with copies */
	an_status status = an_compile(d, f, &e);
	if (status == AN_OK)
		status = an_call_new(e, &c);
	for (int i = 0; status == AN_OK && i < e->ninputs + e->noutputs; i++) {
		an_buffer *b;
		status = an_buffer_new(d, &e->ports[i].type, &b);
		if (status != AN_OK)
			break;
		status = an_call_bind(c, e->ports[i].name, b);
		if (status == AN_OK && !an_buffer_map(b))
			status = AN_DEVICE;
		else
			an_buffer_unmap(b);
		an_buffer_free(b);
	}
	for (int i = 0; status == AN_OK && i < 2; i++)
		status = an_call_run(c);
	an_device_close(d);
	return status;
}

static void test_every_call_fails(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_program *p = small_program(ctx, 3);
	an_function *f = an_program_function(p, NULL);
	int failures = 0;
	for (long n = 1;; n++) {
		reset(NULL);
		s->fail_at = n;
		an_status status = scenario(ctx, f);
		assert_clean();
		if (!s->failed[0])
			break; /* fewer calls than n were made */
		failures++;
		/* what fails while things are put away is logged; a folder's kept program is compiled instead
		 */
		if (status == AN_OK) {
			if (strcmp(s->failed, "IOSurfaceUnlock") && strcmp(s->failed, "unloadWithQoS:error:"))
				fail_msg("call %ld, %s, fails and nobody says so", n, s->failed);
		} else if (!an_message(ctx)[0]) {
			fail_msg("call %ld, %s, fails without a message", n, s->failed);
		} else if (strstr(s->failed, ":") && !strstr(an_message(ctx), s->failed) &&
			   s->failed[0] != 'r') {
			fail_msg("call %ld, %s, fails with \"%s\"", n, s->failed, an_message(ctx));
		}
	}
	assert_true(failures > 50);
	an_program_free(p);
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
	assert_int_equal(try_open(ctx, FREE, &d), AN_IO);
	assert_message(ctx, "/dev/null");
	close(ready[0]);
	close(ready[1]);
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
	    cmocka_unit_test_setup(test_missing, reset),
	    cmocka_unit_test_setup(test_every_call_fails, reset),
	    cmocka_unit_test_setup(test_many_evaluations, reset),
	    cmocka_unit_test_setup(test_budget, reset),
	    cmocka_unit_test_setup(test_folders, reset),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	char command[100];
	snprintf(command, sizeof command, "rm -rf %s", temporary);
	return system(command) || failed;
}
