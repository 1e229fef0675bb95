/* AppleNeuralEngine: the private classes, and behind them the software Neural Engine in a chip's profile.
 *
 * A model is compiled from its folder alone: text and weight files that a client wrote wrongly do not run.
 * What the engine enforces is the catalogue of quirks (src/ane/quirks.def), switched by standin()->quirks. */
#include "engine.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

typedef signed char bool_x86;
#if defined(__aarch64__)
typedef bool BOOL;
#define BOOL_TYPE "B"
#else
typedef bool_x86 BOOL;
#define BOOL_TYPE "c"
#endif

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static bool start_engine(void) { return engine_start(ANE_ROUTE_OBJC); }

static BOOL refuse(void **error, long code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static BOOL refuse(void **error, long code, const char *fmt, ...)
{
	char text[3000];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (error)
		*error = standin_error("com.apple.appleneuralengine", code, text);
	return 0;
}

/* ---- _ANEInMemoryModelDescriptor ------------------------------------------------------------- */

typedef struct descriptor {
	standin_object object;
	void *text, *weights;
	uint64_t hash[2];
} descriptor;

static void drop_descriptor(void *object)
{
	descriptor *d = object;
	standin_release(d->text);
	standin_release(d->weights);
}

static standin_class descriptor_class = {.name = "_ANEInMemoryModelDescriptor", .dealloc = drop_descriptor};

static void *descriptor_make(void *class, const char *selector, void *text, void *weights, void *options)
{
	(void)class, (void)selector;
	size_t n;
	const uint8_t *bytes = standin_data(text, &n);
	const void *key, *entry;
	if (options)
		standin_crash("the options' plist is not nil");
	if (standin_fails("modelWithMILText:weights:optionsPlist:"))
		return NULL;
	descriptor *d = standin_new(&descriptor_class, sizeof *d);
	d->text = standin_retain(text);
	d->weights = standin_retain(weights);
	d->hash[0] = hash_bytes(HASH_INIT, bytes, n);
	d->hash[1] = HASH_INIT;
	for (long i = 0; (key = standin_entry(weights, i, &entry, NULL)); i++) {
		const char *path = standin_string(key);
		if (strncmp(path, "@model_path/", 12))
			standin_crash("weights are called \"%s\", not @model_path/...", path);
		bytes = standin_data(standin_value(entry, "data"), &n);
		standin_number(standin_value(entry, "offset")); /* is not added to the offsets of the text */
		d->hash[1] = hash_bytes(hash_bytes(d->hash[1], path, strlen(path)), bytes, n);
	}
	return standin_autorelease(d);
}

/* ---- _ANEInMemoryModel ------------------------------------------------------------------------ */

typedef struct model {
	standin_object object;
	descriptor *descriptor;
	program *compiled, *program; /* what compiling gave; what is loaded */
} model;

static void drop_model(void *object)
{
	model *m = object;
	if (m->program) {
		standin()->left_loaded++;
		standin()->loaded--;
	}
	if (m->program != m->compiled)
		engine_drop(m->program);
	engine_drop(m->compiled);
	standin_release(m->descriptor);
}

static standin_class model_class = {.name = "_ANEInMemoryModel", .dealloc = drop_model};

static void *model_make(void *class, const char *selector, void *of)
{
	(void)class, (void)selector;
	if (!standin_is(of, &descriptor_class))
		standin_crash("inMemoryModelWithDescriptor: without a descriptor");
	if (standin_fails("inMemoryModelWithDescriptor:"))
		return NULL;
	model *m = standin_new(&model_class, sizeof *m);
	m->descriptor = standin_retain(of);
	return standin_autorelease(m);
}

static void identifier_text(const model *m, char *text, size_t size)
{
	snprintf(text, size, "%016llX_%016llX", (unsigned long long)m->descriptor->hash[0],
		 (unsigned long long)m->descriptor->hash[1]);
}

static void *model_identifier(const model *m, const char *selector)
{
	(void)selector;
	char text[40];
	identifier_text(m, text, sizeof text);
	return standin_fails("hexStringIdentifier") ? NULL : standin_make_string(text);
}

static void folder_of(const model *m, char *path, size_t size)
{
	char id[40];
	identifier_text(m, id, sizeof id);
	snprintf(path, size, "%s/%s", standin()->temporary, id);
}

static bool same_file(const char *path, const uint8_t *bytes, size_t n)
{
	file_view view;
	if (file_open_view(engine_ctx, path, &view) != AN_OK)
		return false;
	bool same = view.size == n && !memcmp(view.data, bytes, n);
	file_close_view(engine_ctx, &view);
	return same;
}

/* The folder must be there, with what the descriptor was given. */
static bool folder_complete(const model *m, const char *folder, char *why, size_t size)
{
	char path[1400];
	size_t n;
	const void *key, *entry;
	const uint8_t *bytes = standin_data(m->descriptor->text, &n);
	snprintf(path, sizeof path, "%s/model.mil", folder);
	bool fine = same_file(path, bytes, n);
	for (long i = 0; fine && (key = standin_entry(m->descriptor->weights, i, &entry, NULL)); i++) {
		snprintf(path, sizeof path, "%s/%s", folder, standin_string(key) + strlen("@model_path/"));
		bytes = standin_data(standin_value(entry, "data"), &n);
		fine = same_file(path, bytes, n);
	}
	if (!fine)
		snprintf(why, size, "_ANECompiler : ANECCompile() FAILED (%s is not there or differs)", path);
	return fine;
}

static void leave(const char *folder, const char *name)
{
	char path[1400];
	snprintf(path, sizeof path, "%s/%s", folder, name);
	FILE *f = fopen(path, "w");
	if (f) {
		fprintf(f, "compiled\n");
		fclose(f);
	}
}

static BOOL compile_locked(model *m, void **error)
{
	standin_state *s = standin();
	char folder[1200], why[2500];
	s->compiles++;
	if (standin_fails("compileWithQoS:options:error:"))
		return refuse(error, 1, "_ANECompiler : ANECCompile() FAILED (injected)");
	if (s->most_compiles && s->compiles > s->most_compiles)
		return 0; /* silently, as reported */
	folder_of(m, folder, sizeof folder);
	if (!start_engine() || !folder_complete(m, folder, why, sizeof why))
		return refuse(error, 1, "%s", why);
	program *p = engine_compile(folder, why, sizeof why);
	if (!p)
		return refuse(error, 1, "%s", why);
	if (m->compiled != m->program)
		engine_drop(m->compiled);
	m->compiled = p;
	leave(folder, "net.plist");
	leave(folder, "data");
	return 1;
}

static void check_options(const void *options)
{
	long n;
	standin_entry(options, 0, NULL, &n);
}

static BOOL model_compile(model *m, const char *selector, unsigned qos, void *options, void **error)
{
	(void)selector, (void)qos;
	check_options(options);
	pthread_mutex_lock(&mutex);
	BOOL done = compile_locked(m, error);
	pthread_mutex_unlock(&mutex);
	return done;
}

static BOOL load_locked(model *m, void **error)
{
	standin_state *s = standin();
	char folder[1200], path[1400], why[2500] = "the model is not compiled";
	if (standin_fails("loadWithQoS:options:error:"))
		return refuse(error, 2, "loading failed (injected)");
	if (!start_engine())
		return refuse(error, 2, "no engine");
	if (m->program)
		return 1;
	if (engine_quirks.value[QUIRK_LOADED_PROGRAMS] &&
	    s->loaded >= engine_quirks.value[QUIRK_LOADED_PROGRAMS] + 1)
		return refuse(error, 3, "GetANEFModel: must re-compile");
	folder_of(m, folder, sizeof folder);
	snprintf(path, sizeof path, "%s/net.plist", folder);
	if (path_exists(path) && !(engine_quirks.value[QUIRK_KEEPS_WEIGHTS] && m->compiled)) {
		/* the folder's weights of now */
		program *p = engine_compile(folder, why, sizeof why);
		if (!p)
			return refuse(error, 2, "%s", why);
		engine_drop(m->compiled);
		m->compiled = p;
	}
	if (!m->compiled)
		return refuse(error, 2, "%s", why);
	m->program = m->compiled;
	s->loads++;
	s->loaded++;
	return 1;
}

static BOOL model_load(model *m, const char *selector, unsigned qos, void *options, void **error)
{
	(void)selector, (void)qos;
	check_options(options);
	pthread_mutex_lock(&mutex);
	BOOL done = load_locked(m, error);
	pthread_mutex_unlock(&mutex);
	return done;
}

static BOOL model_unload(model *m, const char *selector, unsigned qos, void **error)
{
	(void)selector, (void)qos;
	pthread_mutex_lock(&mutex);
	BOOL done = m->program != NULL;
	if (done) {
		standin()->unloads++;
		standin()->loaded--;
		m->program = NULL;
	}
	if (standin_fails("unloadWithQoS:error:"))
		done = refuse(error, 4, "unloading failed (injected)");
	else if (!done)
		refuse(error, 4, "the model is not loaded");
	pthread_mutex_unlock(&mutex);
	return done;
}

/* ---- _ANEIOSurfaceObject and _ANERequest -------------------------------------------------------- */

typedef struct wrapper {
	standin_object object;
	void *surface;
} wrapper;

static void drop_wrapper(void *object) { standin_release(((wrapper *)object)->surface); }

static standin_class wrapper_class = {.name = "_ANEIOSurfaceObject", .dealloc = drop_wrapper};

static void *wrapper_make(void *class, const char *selector, const void *surface)
{
	(void)class, (void)selector;
	size_t bytes;
	bool locked;
	standin_surface(surface, &bytes, &locked); /* checks what it is */
	if (standin_fails("objectWithIOSurface:"))
		return NULL;
	wrapper *w = standin_new(&wrapper_class, sizeof *w);
	w->surface = standin_retain(surface);
	return standin_autorelease(w);
}

typedef struct request {
	standin_object object;
	void *in, *out;
} request;

static void drop_request(void *object)
{
	standin_release(((request *)object)->in);
	standin_release(((request *)object)->out);
}

static standin_class request_class = {.name = "_ANERequest", .dealloc = drop_request};

/* Surfaces, and their numbers 0 .. n-1. */
static void check_list(const void *list, const void *indices)
{
	const void *item, *index;
	long n, m;
	for (long i = 0; (item = standin_item(list, i, &n)); i++) {
		if (!standin_is(item, &wrapper_class))
			standin_crash("a request with something that is no _ANEIOSurfaceObject");
		if (!(index = standin_item(indices, i, NULL)) || standin_number(index) != i)
			standin_crash("a request whose indices are not 0, 1, 2 ...");
	}
	standin_item(list, 0, &n);
	standin_item(indices, 0, &m);
	if (n != m)
		standin_crash("a request with %ld surfaces and %ld indices", n, m);
}

static void *request_make(void *class, const char *selector, void *in, void *in_indices, void *out,
			  void *out_indices, void *weights, void *statistics, void *procedure)
{
	(void)class, (void)selector;
	check_list(in, in_indices);
	check_list(out, out_indices);
	if (weights || statistics || standin_number(procedure) != 0)
		standin_crash("a request with weights, statistics or another procedure than 0");
	if (standin_fails("requestWithInputs:..."))
		return NULL;
	standin()->requests++;
	request *r = standin_new(&request_class, sizeof *r);
	r->in = standin_retain(in);
	r->out = standin_retain(out);
	return standin_autorelease(r);
}

/* ---- Evaluating ---------------------------------------------------------------------------------- */

static const char failure[] =
    "ANEProgramProcessRequestDirect() Failed with status=0x1d : Program Inference error";

/* The surfaces of a request by place, inputs and then outputs; false: the engine does not take them. */
static bool take_surfaces(const program *p, const request *r, char **base)
{
	size_t first[2] = {0, 0};
	long n[2];
	standin_item(r->in, 0, &n[0]);
	standin_item(r->out, 0, &n[1]);
	if (n[0] != p->nin || n[1] != p->nout)
		return false;
	for (int i = 0; i < p->nin + p->nout; i++) {
		bool out = i >= p->nin, locked;
		const wrapper *w = standin_item(out ? r->out : r->in, out ? i - p->nin : i, NULL);
		size_t bytes;
		base[i] = standin_surface(w->surface, &bytes, &locked);
		if (locked)
			standin_crash("a request with a surface that the CPU has locked");
		if (!engine_takes(p, i, bytes))
			return false;
		if (engine_quirks.value[QUIRK_EQUAL_SIZE] && first[out] && bytes != first[out])
			return false;
		first[out] = bytes;
	}
	return true;
}

static BOOL evaluate_locked(model *m, const request *r, void **error)
{
	program *p = m->program;
	char *base[ENGINE_PORTS];
	if (standin_fails("evaluateWithQoS:options:request:error:"))
		return refuse(error, 5, "%s (injected)", failure);
	if (!p || !standin_is(r, &request_class))
		return refuse(error, 5, "the model is not loaded");
	standin()->evaluations++;
	if (!take_surfaces(p, r, base))
		return refuse(error, 5, "%s", failure);
	const char *why = engine_run(p, base);
	return why ? refuse(error, 5, "%s: %s", failure, why) : 1;
}

static BOOL model_evaluate(model *m, const char *selector, unsigned qos, void *options, void *r, void **error)
{
	(void)selector, (void)qos;
	check_options(options);
	pthread_mutex_lock(&mutex);
	BOOL done = evaluate_locked(m, r, error);
	pthread_mutex_unlock(&mutex);
	return done;
}

/* ---- The classes ---------------------------------------------------------------------------------- */

static const standin_method descriptor_class_methods[] = {
    {"modelWithMILText:weights:optionsPlist:", "@40@0:8@16@24@32", (void *)descriptor_make}, {0}};
static const standin_method model_class_methods[] = {
    {"inMemoryModelWithDescriptor:", "@24@0:8@16", (void *)model_make}, {0}};
static const standin_method model_methods[] = {
    {"hexStringIdentifier", "@16@0:8", (void *)model_identifier},
    {"compileWithQoS:options:error:", BOOL_TYPE "36@0:8I16@20^@28", (void *)model_compile},
    {"loadWithQoS:options:error:", BOOL_TYPE "36@0:8I16@20^@28", (void *)model_load},
    {"unloadWithQoS:error:", BOOL_TYPE "28@0:8I16^@20", (void *)model_unload},
    {"evaluateWithQoS:options:request:error:", BOOL_TYPE "44@0:8I16@20@28^@36", (void *)model_evaluate},
    {0}};
static const standin_method wrapper_class_methods[] = {
    {"objectWithIOSurface:", "@24@0:8^{__IOSurface=}16", (void *)wrapper_make}, {0}};
static const standin_method request_class_methods[] = {
    {"requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:",
     "@72@0:8@16@24@32@40@48@56@64", (void *)request_make},
    {0}};

__attribute__((constructor)) static void start(void)
{
	model_class.methods = model_methods;
	standin_register(&descriptor_class, descriptor_class_methods);
	standin_register(&model_class, model_class_methods);
	standin_register(&wrapper_class, wrapper_class_methods);
	standin_register(&request_class, request_class_methods);
}

__attribute__((destructor)) static void stop(void)
{
	engine_stop();
	standin_unregister(&descriptor_class);
	standin_unregister(&model_class);
	standin_unregister(&wrapper_class);
	standin_unregister(&request_class);
}
