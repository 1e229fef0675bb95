/* AppleNeuralEngine: the private classes, and behind them the software Neural Engine in a chip's profile.
 *
 * A model is compiled from its folder alone: text and weight files that a client wrote wrongly do not run.
 * What the engine enforces is the catalogue of quirks (src/ane/quirks.def), switched by standin()->quirks. */
#include "standin.h"

#include "ane/quirks.h"
#include "base/file.h"
#include "device/device.h"

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

/* ---- The engine --------------------------------------------------------------------------- */

static an_ctx *ctx;
static an_device *engine;
static ane_quirks quirks;

static bool start_engine(void)
{
	const standin_state *s = standin();
	if (!ctx && an_ctx_open(&(an_ctx_options){.threads = 1}, &ctx) != AN_OK)
		return false;
	if (ane_quirks_set(ctx, s->profile, s->quirks, &quirks) != AN_OK)
		standin_crash("%s", an_message(ctx));
	return engine || an_device_open(ctx, &(an_device_options){.name = "soft", .numerics = s->profile},
					&engine) == AN_OK;
}

__attribute__((destructor)) static void stop_engine(void)
{
	an_device_close(engine);
	an_ctx_close(ctx);
}

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

/* A program that is loaded: its buffers are the engine's own. */
typedef struct program {
	an_executable *exe;
	an_call *call;
	an_buffer *buffer[256];
	int nin, nout;
	int order[256]; /* the executable's port by the place of its surface */
	bool zeros;     /* ordered_bytes is broken: all outputs are 0 */
} program;

static void free_program(program *p)
{
	if (!p)
		return;
	an_call_free(p->call);
	for (int i = 0; i < p->nin + p->nout; i++)
		an_buffer_free(p->buffer[i]);
	an_executable_free(p->exe);
	free(p);
}

static const char *port_of(const program *p, int i, an_type *type)
{
	return i < p->nin ? an_executable_input(p->exe, i, type)
			  : an_executable_output(p->exe, i - p->nin, type);
}

static size_t bytes_of(const program *p, int i)
{
	an_type type;
	port_of(p, i, &type);
	return an_type_bytes(&type);
}

static void order_ports(program *p, int first, int n)
{
	for (int i = first; i < first + n; i++)
		p->order[i] = i;
	for (int i = first + 1; quirks.value[QUIRK_ORDERED_NAMES] && i < first + n; i++)
		for (int k = i; k > first &&
				strcmp(port_of(p, p->order[k - 1], NULL), port_of(p, p->order[k], NULL)) > 0;
		     k--) {
			int swapped = p->order[k];
			p->order[k] = p->order[k - 1];
			p->order[k - 1] = swapped;
		}
	for (int i = first + 1; quirks.value[QUIRK_ORDERED_BYTES] && i < first + n; i++) {
		size_t a = bytes_of(p, p->order[i - 1]), b = bytes_of(p, p->order[i]);
		p->zeros |= first ? a < b : a > b;
	}
}

static bool make_buffers(program *p)
{
	an_type type;
	while (an_executable_input(p->exe, p->nin, NULL))
		p->nin++;
	while (an_executable_output(p->exe, p->nout, NULL))
		p->nout++;
	if (p->nin + p->nout > 256 || an_call_new(p->exe, &p->call) != AN_OK)
		return false;
	order_ports(p, 0, p->nin);
	order_ports(p, p->nin, p->nout);
	for (int i = 0; i < p->nin + p->nout; i++) {
		const char *name = port_of(p, i, &type);
		if (an_buffer_new(engine, &type, &p->buffer[i]) != AN_OK ||
		    an_call_bind(p->call, name, p->buffer[i]) != AN_OK)
			return false;
	}
	return true;
}

/* ---- What the compiler refuses --------------------------------------------------------------- */

/* The first quirk that the program breaks, -1: none. */
static int broken_quirk(const an_program *p, const an_function *f)
{
	if (quirks.value[QUIRK_BUILD_INFO] && !p->ninfo)
		return QUIRK_BUILD_INFO;
	for (size_t i = 0; quirks.value[QUIRK_NO_BOOL_PORTS] && i < f->ninputs + f->noutputs; i++) {
		an_value v = i < f->ninputs ? f->inputs[i] : f->outputs[i - f->ninputs];
		if (f->values[v].type.dtype == AN_BOOL)
			return QUIRK_NO_BOOL_PORTS;
	}
	for (size_t i = 0; quirks.value[QUIRK_EXPLICIT] && i < f->nops; i++) {
		const mil_op *op = &f->ops[i];
		const op_row *row = &op_table[op->op];
		for (int k = 0; k < OP_MAX_PARAMS && row->param[k].name; k++) {
			bool conv = op->op == OP_CONV && strcmp(row->param[k].name, "bias") != 0;
			if (!op->arg[k].n && !(row->param[k].kind & PK_ATTR) &&
			    (row->param[k].fallback || conv))
				return QUIRK_EXPLICIT;
		}
	}
	return -1;
}

/* model.mil and its weights, as they are in the folder now.  NULL: refused, with the reason in `why`. */
static program *compile_folder(const char *folder, char *why, size_t size)
{
	char path[1400];
	an_program *text = NULL;
	program *p = calloc(1, sizeof *p);
	snprintf(path, sizeof path, "%s/model.mil", folder);
	int quirk = -1;
	bool made = p && an_program_read(ctx, path, &text) == AN_OK;
	an_function *f = made ? an_program_function(text, "main") : NULL;
	if (f)
		quirk = broken_quirk(text, f);
	made = f && quirk < 0 && an_compile(engine, f, &p->exe) == AN_OK && make_buffers(p);
	if (!made) {
		snprintf(why, size, "_ANECompiler : ANECCompile() FAILED (%s)",
			 quirk >= 0   ? an_quirk_at(quirk)->name
			 : text && !f ? "no function main"
				      : an_message(ctx));
		free_program(p);
		p = NULL;
	}
	an_program_free(text);
	return p;
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
		free_program(m->program);
	free_program(m->compiled);
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
	if (file_open_view(ctx, path, &view) != AN_OK)
		return false;
	bool same = view.size == n && !memcmp(view.data, bytes, n);
	file_close_view(ctx, &view);
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
	program *p = compile_folder(folder, why, sizeof why);
	if (!p)
		return refuse(error, 1, "%s", why);
	if (m->compiled != m->program)
		free_program(m->compiled);
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
	if (quirks.value[QUIRK_LOADED_PROGRAMS] && s->loaded >= quirks.value[QUIRK_LOADED_PROGRAMS] + 1)
		return refuse(error, 3, "GetANEFModel: must re-compile");
	folder_of(m, folder, sizeof folder);
	snprintf(path, sizeof path, "%s/net.plist", folder);
	if (path_exists(path) && !(s->baked && m->compiled)) { /* the folder's weights of now */
		program *p = compile_folder(folder, why, sizeof why);
		if (!p)
			return refuse(error, 2, "%s", why);
		free_program(m->compiled);
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

/* Rows of the last axis, 64 bytes or a multiple apart where data are not packed. */
static void move(const an_type *t, char *surface, char *buffer, bool to_engine)
{
	size_t bytes = an_type_bytes(t), row = bytes, stride = bytes;
	if (!quirks.value[QUIRK_PACKED]) {
		row = an_dtype_size(t->dtype) * (size_t)(t->rank ? t->dim[t->rank - 1] : 1);
		stride = (row + 63) / 64 * 64;
	}
	for (size_t i = 0; i < bytes / row; i++)
		memcpy(to_engine ? buffer + i * row : surface + i * stride,
		       to_engine ? surface + i * stride : buffer + i * row, row);
}

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
		size_t bytes, row, need;
		an_type t;
		base[i] = standin_surface(w->surface, &bytes, &locked);
		if (locked)
			standin_crash("a request with a surface that the CPU has locked");
		port_of(p, p->order[i], &t);
		need = an_type_bytes(&t);
		if (!quirks.value[QUIRK_PACKED]) {
			row = an_dtype_size(t.dtype) * (size_t)(t.rank ? t.dim[t.rank - 1] : 1);
			need = need / row * ((row + 63) / 64 * 64);
		}
		if (bytes < need || bytes < (size_t)quirks.value[QUIRK_MIN_SURFACE] ||
		    (t.rank ? t.dim[t.rank - 1] : 1) < quirks.value[QUIRK_MIN_WIDTH] ||
		    (quirks.value[QUIRK_ALIGNED_SIZE] && bytes % (size_t)quirks.value[QUIRK_ALIGNED_SIZE]))
			return false;
		if (quirks.value[QUIRK_EQUAL_SIZE] && first[out] && bytes != first[out])
			return false;
		first[out] = bytes;
	}
	return true;
}

static BOOL evaluate_locked(model *m, const request *r, void **error)
{
	program *p = m->program;
	char *base[256];
	an_type t;
	if (standin_fails("evaluateWithQoS:options:request:error:"))
		return refuse(error, 5, "%s (injected)", failure);
	if (!p || !standin_is(r, &request_class))
		return refuse(error, 5, "the model is not loaded");
	standin()->evaluations++;
	if (!take_surfaces(p, r, base))
		return refuse(error, 5, "%s", failure);
	int n = p->nin + p->nout;
	for (int i = p->nin; quirks.value[QUIRK_OWN_OUTPUTS] && i < n; i++)
		for (int k = 0; k < p->nin; k++)
			if (base[k] == base[i]) /* written before it was read */
				memset(base[i], 0, bytes_of(p, p->order[i]));
	for (int i = 0; i < p->nin; i++) {
		port_of(p, p->order[i], &t);
		move(&t, base[i], an_buffer_map(p->buffer[p->order[i]]), true);
	}
	if (an_call_run(p->call) != AN_OK)
		return refuse(error, 5, "%s: %s", failure, an_message(ctx));
	for (int i = p->nin; i < n; i++) {
		char *result = an_buffer_map(p->buffer[p->order[i]]);
		port_of(p, p->order[i], &t);
		if (p->zeros)
			memset(result, 0, an_type_bytes(&t));
		move(&t, base[i], result, false);
	}
	return 1;
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
	standin_unregister(&descriptor_class);
	standin_unregister(&model_class);
	standin_unregister(&wrapper_class);
	standin_unregister(&request_class);
}
