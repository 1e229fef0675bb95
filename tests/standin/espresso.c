/* Espresso: the e5rt_... functions, which compile and execute without Objective-C objects.
 *
 * They hold their callers to what is known of the real ones: a program is compiled for the engine alone and
 * afresh; ports go by name; a port is not bound while a stream holds its operation; a stream that is reset
 * lets go; an operation that was prepared while a stream held it has spoilt both.  Where a real one would
 * write past a buffer or throw through its caller, the process ends with a message. */
#include "engine.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* ---- Errors -------------------------------------------------------------------------------- */

static _Thread_local char last_error[3000];

STANDIN_API const char *e5rt_get_last_error_message(void);
const char *e5rt_get_last_error_message(void) { return last_error; }

static int32_t failed(int32_t status, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int32_t failed(int32_t status, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(last_error, sizeof last_error, fmt, ap);
	va_end(ap);
	return status;
}

/* Every function begins with it. */
#define MAY_FAIL                     \
	if (standin_fails(__func__)) \
	return failed(2, "E5RT: %s: out of luck (injected)", __func__)

/* ---- Handles ------------------------------------------------------------------------------- */

/* Those that the caller has.  The library's own shares of an object are standin_retain's. */
typedef struct handle {
	standin_object object;
	struct handle *next, *prev;
	int held;
} handle;

static handle live = {.next = &live, .prev = &live};

static void unlink_handle(void *object)
{
	handle *h = object;
	h->next->prev = h->prev;
	h->prev->next = h->next;
}

static void *new_handle(const standin_class *class, size_t size)
{
	handle *h = standin_new(class, size);
	pthread_mutex_lock(&mutex);
	h->held = 1;
	h->next = live.next;
	h->prev = &live;
	h->next->prev = h->prev->next = h;
	pthread_mutex_unlock(&mutex);
	return h;
}

static void *checked(const void *object, const standin_class *class, const char *function)
{
	pthread_mutex_lock(&mutex);
	handle *h = live.next;
	while (h != &live && h != object)
		h = h->next;
	pthread_mutex_unlock(&mutex);
	if (h == &live || !h->held || h->object.isa != class)
		standin_crash("%s: %p is no %s", function, object, class->name);
	return h;
}

#define CHECKED(object, kind) checked(object, &kind##_class, __func__)

static int32_t released(void **object, const standin_class *class, const char *function)
{
	if (!object)
		standin_crash("%s: the address of a handle was expected", function);
	handle *h = checked(*object, class, function);
	h->held = 0;
	standin_release(h); /* and *object stays: clients must not rely on it */
	return standin_fails(function) ? failed(2, "E5RT: %s (injected)", function) : 0;
}

#define RELEASE(name, kind)                      \
	STANDIN_API int32_t name(void **object); \
	int32_t name(void **object) { return released(object, &kind##_class, __func__); }

/* ---- Compiler ------------------------------------------------------------------------------- */

typedef struct config {
	handle handle;
	char cache[1024];
} config;
typedef struct compiler {
	handle handle;
	char cache[1024];
} compiler;
typedef struct options {
	handle handle;
	uint64_t mask;
	int force;
	char segmenter[32];
} options;
typedef struct library {
	handle handle;
	char folder[1024];
	program *program; /* as it was compiled */
	bool foreign;     /* another process compiled it */
} library;

static void drop_library(void *object)
{
	pthread_mutex_lock(&mutex);
	engine_drop(((library *)object)->program);
	pthread_mutex_unlock(&mutex);
	unlink_handle(object);
}

static standin_class config_class = {.name = "compiler config options", .dealloc = unlink_handle},
		     compiler_class = {.name = "compiler", .dealloc = unlink_handle},
		     options_class = {.name = "compiler options", .dealloc = unlink_handle},
		     library_class = {.name = "program library", .dealloc = drop_library};

STANDIN_API int32_t e5rt_e5_compiler_config_options_create(void **out);
STANDIN_API int32_t e5rt_e5_compiler_config_options_set_cache_bundle_location(void *c, const char *path);
STANDIN_API int32_t e5rt_e5_compiler_create_with_config(void **out, void *c);
STANDIN_API int32_t e5rt_e5_compiler_options_create(void **out);
STANDIN_API int32_t e5rt_e5_compiler_options_set_compute_device_types_mask(void *o, uint64_t mask);
STANDIN_API int32_t e5rt_e5_compiler_options_set_force_recompilation(void *o, int force);
STANDIN_API int32_t e5rt_e5_compiler_options_set_segmenter(void *o, const char *name);
STANDIN_API int32_t e5rt_e5_compiler_compile(void *c, const char *path, void *o, void **out);
RELEASE(e5rt_e5_compiler_config_options_release, config)
RELEASE(e5rt_e5_compiler_release, compiler)
RELEASE(e5rt_e5_compiler_options_release, options)
RELEASE(e5rt_program_library_release, library)

int32_t e5rt_e5_compiler_config_options_create(void **out)
{
	MAY_FAIL;
	*out = new_handle(&config_class, sizeof(config));
	return 0;
}

int32_t e5rt_e5_compiler_config_options_set_cache_bundle_location(void *c, const char *path)
{
	config *x = CHECKED(c, config);
	MAY_FAIL;
	snprintf(x->cache, sizeof x->cache, "%s", path);
	return 0;
}

int32_t e5rt_e5_compiler_create_with_config(void **out, void *c)
{
	if (!c)
		return failed(1, "config is nullptr");
	const config *x = CHECKED(c, config);
	MAY_FAIL;
	compiler *made = new_handle(&compiler_class, sizeof *made);
	memcpy(made->cache, x->cache, sizeof made->cache);
	*out = made;
	return 0;
}

int32_t e5rt_e5_compiler_options_create(void **out)
{
	MAY_FAIL;
	options *o = new_handle(&options_class, sizeof *o);
	o->mask = 7;
	*out = o;
	return 0;
}

int32_t e5rt_e5_compiler_options_set_compute_device_types_mask(void *o, uint64_t mask)
{
	options *x = CHECKED(o, options);
	MAY_FAIL;
	x->mask = mask;
	return 0;
}

int32_t e5rt_e5_compiler_options_set_force_recompilation(void *o, int force)
{
	options *x = CHECKED(o, options);
	MAY_FAIL;
	x->force = force;
	return 0;
}

int32_t e5rt_e5_compiler_options_set_segmenter(void *o, const char *name)
{
	options *x = CHECKED(o, options);
	MAY_FAIL;
	snprintf(x->segmenter, sizeof x->segmenter, "%s", name);
	return 0;
}

/* The bundle that compiling leaves says whose it is; false: it is another process's. */
static bool own_bundle(const compiler *c, bool afresh)
{
	char path[1100];
	long owner = getpid();
	snprintf(path, sizeof path, "%s/bundle", c->cache);
	FILE *f = afresh ? NULL : fopen(path, "r");
	if (f) {
		if (fscanf(f, "%ld", &owner) != 1)
			owner = -1;
	} else if ((f = fopen(path, "w"))) {
		fprintf(f, "%ld\n", owner);
	}
	if (f)
		fclose(f);
	return owner == getpid();
}

int32_t e5rt_e5_compiler_compile(void *c, const char *path, void *o, void **out)
{
	const compiler *x = CHECKED(c, compiler);
	const options *opt = CHECKED(o, options);
	char why[2500];
	size_t n = strlen(path);
	standin()->compiles++;
	if (opt->mask != 4)
		standin_crash("a program is compiled for other devices than the engine (mask %llu)",
			      (unsigned long long)opt->mask);
	if (strcmp(opt->segmenter, "graph") || n < 11 || strcmp(path + n - 10, "/model.mil"))
		standin_crash("a program is compiled with segmenter \"%s\" from \"%s\"", opt->segmenter,
			      path);
	MAY_FAIL;
	library *l = new_handle(&library_class, sizeof *l);
	snprintf(l->folder, sizeof l->folder, "%.*s", (int)n - 10, path);
	pthread_mutex_lock(&mutex);
	l->program = engine_start(ANE_ROUTE_E5RT) ? engine_compile(l->folder, why, sizeof why) : NULL;
	pthread_mutex_unlock(&mutex);
	l->foreign = !own_bundle(x, opt->force != 0);
	if (l->program) {
		*out = l;
		return 0;
	}
	standin_release(l);
	return failed(1, "MILCompilerForANE error: failed to compile ANE model using ANEF. Error=%s", why);
}

/* ---- Functions and operations ---------------------------------------------------------------- */

typedef struct function {
	handle handle;
	library *library;
} function;
typedef struct create_options {
	handle handle;
	function *function;
	int intermediates;
} create_options;

typedef struct buffer {
	handle handle;
	size_t bytes;
	char *base;
} buffer;

typedef struct operation {
	handle handle;
	library *library;
	program *program;
	buffer *bound[ENGINE_PORTS]; /* by place */
	enum { READY, ENCODED, LEFT /* by a stream that was reset */, SPOILT } state;
	bool once; /* it was encoded before */
} operation;
typedef struct port {
	handle handle;
	operation *operation;
	int place;
} port;

static void drop_function(void *object)
{
	standin_release(((function *)object)->library);
	unlink_handle(object);
}

static void drop_create_options(void *object)
{
	standin_release(((create_options *)object)->function);
	unlink_handle(object);
}

static void drop_operation(void *object)
{
	operation *o = object;
	for (int i = 0; i < ENGINE_PORTS; i++)
		standin_release(o->bound[i]);
	pthread_mutex_lock(&mutex);
	engine_drop(o->program);
	pthread_mutex_unlock(&mutex);
	standin_release(o->library);
	standin()->unloads++;
	standin()->loaded--;
	unlink_handle(object);
}

static void drop_port(void *object)
{
	standin_release(((port *)object)->operation);
	unlink_handle(object);
}

static standin_class function_class = {.name = "program function", .dealloc = drop_function},
		     create_options_class = {.name = "operation create options",
					     .dealloc = drop_create_options},
		     operation_class = {.name = "operation", .dealloc = drop_operation},
		     port_class = {.name = "port", .dealloc = drop_port};

STANDIN_API int32_t e5rt_program_library_retain_program_function(void *l, const char *name, void **out);
STANDIN_API int32_t e5rt_precompiled_compute_op_create_options_create_with_program_function(void **out,
											    void *f);
STANDIN_API int32_t e5rt_precompiled_compute_op_create_options_set_operation_name(void *o, const char *name);
STANDIN_API int32_t
e5rt_precompiled_compute_op_create_options_set_allocate_intermediate_buffers(void *o, int allocate);
STANDIN_API int32_t
e5rt_execution_stream_operation_create_precompiled_compute_operation_with_options(void **out, void *o);
STANDIN_API int32_t e5rt_execution_stream_operation_retain_input_port(void *o, const char *name, void **out);
STANDIN_API int32_t e5rt_execution_stream_operation_retain_output_port(void *o, const char *name, void **out);
STANDIN_API int32_t e5rt_execution_stream_operation_prepare_op_for_encode(void *o);
RELEASE(e5rt_program_function_release, function)
RELEASE(e5rt_precompiled_compute_op_create_options_release, create_options)
RELEASE(e5rt_execution_stream_operation_release, operation)
RELEASE(e5rt_io_port_release, port)

int32_t e5rt_program_library_retain_program_function(void *l, const char *name, void **out)
{
	library *x = CHECKED(l, library);
	MAY_FAIL;
	if (strcmp(name, "main"))
		return failed(11, "no function %s in the library", name);
	function *f = new_handle(&function_class, sizeof *f);
	f->library = standin_retain(x);
	*out = f;
	return 0;
}

int32_t e5rt_precompiled_compute_op_create_options_create_with_program_function(void **out, void *f)
{
	function *x = CHECKED(f, function);
	MAY_FAIL;
	create_options *o = new_handle(&create_options_class, sizeof *o);
	o->function = standin_retain(x);
	*out = o;
	return 0;
}

int32_t e5rt_precompiled_compute_op_create_options_set_operation_name(void *o, const char *name)
{
	CHECKED(o, create_options);
	MAY_FAIL;
	return *name ? 0 : failed(1, "an operation needs a name");
}

int32_t e5rt_precompiled_compute_op_create_options_set_allocate_intermediate_buffers(void *o, int allocate)
{
	create_options *x = CHECKED(o, create_options);
	MAY_FAIL;
	x->intermediates = allocate;
	return 0;
}

/* The program of now: what was compiled, or what the files hold. */
static program *load(library *l, char *why, size_t size)
{
	pthread_mutex_lock(&mutex);
	program *p = NULL;
	if (!engine_start(ANE_ROUTE_E5RT)) {
		snprintf(why, size, "no engine");
	} else if (!engine_quirks.value[QUIRK_KEEPS_WEIGHTS]) {
		p = engine_compile(l->folder, why, size);
	} else {
		p = l->program;
		p->owners++;
	}
	pthread_mutex_unlock(&mutex);
	return p;
}

int32_t e5rt_execution_stream_operation_create_precompiled_compute_operation_with_options(void **out, void *o)
{
	const create_options *x = CHECKED(o, create_options);
	standin_state *s = standin();
	char why[2500];
	MAY_FAIL;
	library *l = x->function->library;
	if (!x->intermediates)
		return failed(1, "intermediate buffers are neither given nor allocated");
	if (l->foreign)
		return failed(1, "ANE model load has failed. Must re-compile the E5 bundle.");
	if (s->loaded >= 128)
		return failed(1, "GetANEFModel: must re-compile");
	program *p = load(l, why, sizeof why);
	if (!p)
		return failed(1, "ANE model load has failed: %s", why);
	operation *made = new_handle(&operation_class, sizeof *made);
	made->library = standin_retain(l);
	made->program = p;
	s->loads++;
	s->loaded++;
	*out = made;
	return 0;
}

static int32_t retain_port(operation *o, const char *name, bool input, void **out)
{
	const program *p = o->program;
	int place = input ? 0 : p->nin, end = input ? p->nin : p->nin + p->nout;
	while (place < end && strcmp(engine_port(p, place, NULL), name))
		place++;
	if (place == end)
		return failed(11, "no %s port %s", input ? "input" : "output", name);
	port *made = new_handle(&port_class, sizeof *made);
	made->operation = standin_retain(o);
	made->place = place;
	*out = made;
	return 0;
}

int32_t e5rt_execution_stream_operation_retain_input_port(void *o, const char *name, void **out)
{
	operation *x = CHECKED(o, operation);
	MAY_FAIL;
	return retain_port(x, name, true, out);
}

int32_t e5rt_execution_stream_operation_retain_output_port(void *o, const char *name, void **out)
{
	operation *x = CHECKED(o, operation);
	MAY_FAIL;
	return retain_port(x, name, false, out);
}

int32_t e5rt_execution_stream_operation_prepare_op_for_encode(void *o)
{
	operation *x = CHECKED(o, operation);
	MAY_FAIL;
	x->state = x->state == ENCODED || x->state == SPOILT ? SPOILT : READY;
	return 0;
}

/* ---- Buffers ----------------------------------------------------------------------------------- */

static void drop_buffer(void *object)
{
	buffer *b = object;
	free(b->base);
	standin()->surfaces--;
	unlink_handle(object);
}

static standin_class buffer_class = {.name = "buffer object", .dealloc = drop_buffer};

STANDIN_API int32_t e5rt_buffer_object_alloc(void **out, uint64_t bytes, uint32_t type);
STANDIN_API int32_t e5rt_buffer_object_get_size(void *b, uint64_t *bytes);
STANDIN_API int32_t e5rt_buffer_object_get_data_ptr(void *b, void **data);
STANDIN_API int32_t e5rt_io_port_bind_buffer_object(void *p, void *b);
RELEASE(e5rt_buffer_object_release, buffer)

int32_t e5rt_buffer_object_alloc(void **out, uint64_t bytes, uint32_t type)
{
	MAY_FAIL;
	if (type > 2)
		return failed(1, "Invalid BufferType @ AllocMemory");
	buffer *b = new_handle(&buffer_class, sizeof *b);
	b->bytes = bytes;
	b->base = malloc(bytes);
	memset(b->base, 0xa5, bytes); /* nobody promises zeros */
	standin()->surfaces++;
	*out = b;
	return 0;
}

int32_t e5rt_buffer_object_get_size(void *b, uint64_t *bytes)
{
	const buffer *x = CHECKED(b, buffer);
	MAY_FAIL;
	*bytes = x->bytes;
	return 0;
}

int32_t e5rt_buffer_object_get_data_ptr(void *b, void **data)
{
	const buffer *x = CHECKED(b, buffer);
	MAY_FAIL;
	*data = x->base;
	return 0;
}

int32_t e5rt_io_port_bind_buffer_object(void *p, void *b)
{
	port *x = CHECKED(p, port);
	buffer *y = CHECKED(b, buffer);
	operation *o = x->operation;
	MAY_FAIL;
	if (o->state == ENCODED || o->state == SPOILT)
		return failed(2, "the operation is in use: its ports cannot be bound");
	if (engine_quirks.value[QUIRK_FIXED_PORTS] && o->once && o->bound[x->place] != y)
		return failed(2, "the operation was encoded: its ports stay bound");
	standin_release(o->bound[x->place]);
	o->bound[x->place] = standin_retain(y);
	return 0;
}

/* ---- Streams ------------------------------------------------------------------------------------ */

typedef struct stream {
	handle handle;
	operation *operation;
} stream;

static void drop_stream(void *object)
{
	stream *s = object;
	if (s->operation && s->operation->state == SPOILT)
		standin_crash(
		    "a stream is released that holds an operation which was prepared meanwhile: "
		    "E5RT::E5RTError, "
		    "Op has not been encoded and hence cannot be reset to \"ReadyForEncode\" state");
	if (s->operation)
		s->operation->state = LEFT;
	standin_release(s->operation);
	unlink_handle(object);
}

static standin_class stream_class = {.name = "execution stream", .dealloc = drop_stream};

STANDIN_API int32_t e5rt_execution_stream_create(void **out);
STANDIN_API int32_t e5rt_execution_stream_encode_operation(void *s, void *o);
STANDIN_API int32_t e5rt_execution_stream_execute_sync(void *s);
STANDIN_API int32_t e5rt_execution_stream_reset(void *s);
RELEASE(e5rt_execution_stream_release, stream)

int32_t e5rt_execution_stream_create(void **out)
{
	MAY_FAIL;
	*out = new_handle(&stream_class, sizeof(stream));
	return 0;
}

int32_t e5rt_execution_stream_encode_operation(void *s, void *o)
{
	stream *x = CHECKED(s, stream);
	operation *y = CHECKED(o, operation);
	MAY_FAIL;
	if (x->operation || y->state == ENCODED || y->state == SPOILT)
		return failed(2, "the operation, or another, is encoded already");
	if (y->state == LEFT && engine_quirks.value[QUIRK_PREPARED])
		return failed(2, "the operation is not in the state \"ReadyForEncode\"");
	for (int i = 0; i < y->program->nin + y->program->nout; i++)
		if (!y->bound[i])
			return failed(2, "port %s is not bound", engine_port(y->program, i, NULL));
	x->operation = standin_retain(y);
	y->state = ENCODED;
	y->once = true;
	return 0;
}

int32_t e5rt_execution_stream_execute_sync(void *s)
{
	stream *x = CHECKED(s, stream);
	char *base[ENGINE_PORTS];
	MAY_FAIL;
	if (!x->operation || x->operation->state != ENCODED)
		return failed(2, "nothing is encoded");
	program *p = x->operation->program;
	for (int i = 0; i < p->nin + p->nout; i++) {
		const buffer *b = x->operation->bound[i];
		base[i] = b->base;
		if (b->bytes < engine_bytes(p, i))
			standin_crash(
			    "port %s has %zu bytes, its buffer %zu: the engine reads and writes what is "
			    "behind it",
			    engine_port(p, i, NULL), engine_bytes(p, i), b->bytes);
		if (!engine_takes(p, i, b->bytes))
			return failed(-1,
				      "ANEProgramProcessRequestDirect() Failed with status=0x1d : Program "
				      "Inference error");
	}
	standin()->evaluations++;
	pthread_mutex_lock(&mutex);
	const char *why = engine_run(p, base);
	pthread_mutex_unlock(&mutex);
	return why ? failed(-1, "%s", why) : 0;
}

int32_t e5rt_execution_stream_reset(void *s)
{
	stream *x = CHECKED(s, stream);
	MAY_FAIL;
	if (x->operation && x->operation->state == SPOILT)
		return failed(
		    2, "Op has not been encoded and hence cannot be reset to \"ReadyForEncode\" state");
	if (x->operation)
		x->operation->state = LEFT;
	standin_release(x->operation);
	x->operation = NULL;
	return 0;
}

__attribute__((destructor)) static void stop(void) { engine_stop(); }
