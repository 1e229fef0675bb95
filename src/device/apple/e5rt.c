/* The route through the C functions of Espresso (e5rt_...): no Objective-C objects, ports bound by name, no
 * limit on compiles.  NOT RUN ON APPLE HARDWARE.
 *
 *   compile   a compiler that may use nothing but the engine turns model.mil into a library with a function
 *   load      the function becomes an operation with ports; a stream will hold it
 *   evaluate  ports are bound to buffers, the stream encodes the operation and executes
 *
 * A stream that holds an operation executes it again as it is, which is how ANEForge trains.  For other
 * buffers it is reset, ports are bound again and the operation is encoded again, as Apple's own CMCapture
 * does for every frame; quirks `fixed_ports` and `prepared` are for systems that do not like that.  An output
 * may be bound to the buffer of an input: state stays on the engine from call to call.
 *
 * The functions throw C++ exceptions in some states, which end the process.  Those that are known (tmc/apple:
 * preparing an operation that a stream holds) are not entered.  Objects that they autorelease go away with a
 * pool. */
#include "device/apple/apple.h"

#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>

enum { ENGINE_ONLY = 4 /* 1: BNNS, 2: MPSGraph, 4: the Neural Engine */, HOST_MEMORY = 0 };
enum { LINE = 64 /* buffers of ANEForge have a multiple of so many bytes */ };

/* ---- Handles ------------------------------------------------------------------------------ */

typedef int32_t (*release_function)(void **handle);

/* A call failed: its name, Apple's words, our reading. */
static an_status failed(apple_device *dev, int32_t code, const char *call, const char *of)
{
	char what[300];
	const char *text = dev->sym.e5rt_get_last_error_message();
	snprintf(what, sizeof what, "%s%s%s%s", of ? "function \"" : "", of ? of : "", of ? "\": " : "",
		 call);
	return apple_says(dev, what, text ? text : "", "e5rt", code);
}

/* A handle is ours once a call gave it: success without one is a failure, too. */
static an_status taken(apple_device *dev, int32_t code, const void *handle_pp, const char *call,
		       const char *of)
{
	bool got = *(void *const *)handle_pp != NULL;
	dev->owned += got;
	return code || !got ? failed(dev, code, call, of) : AN_OK;
}

static void drop(apple_device *dev, release_function release, const char *call, void *handle_pp)
{
	void **handle = handle_pp;
	if (!*handle)
		return;
	int32_t code = release(handle);
	const char *text = code ? dev->sym.e5rt_get_last_error_message() : NULL;
	if (code)
		log_text(dev->ctx, AN_LOG_WARNING, "%s gave %d: %s", call, code, text ? text : "");
	*handle = NULL;
	dev->owned--;
}

#define MAKE(dev, of, handle, call, ...) taken(dev, (dev)->sym.call(__VA_ARGS__), handle, #call, of)
#define DO(dev, of, call, ...)           checked(dev, (dev)->sym.call(__VA_ARGS__), #call, of)
#define DROP(dev, handle, kind)          drop(dev, (dev)->sym.e5rt_##kind##_release, "e5rt_" #kind "_release", handle)

static an_status checked(apple_device *dev, int32_t code, const char *call, const char *of)
{
	return code ? failed(dev, code, call, of) : AN_OK;
}

/* ---- Memory ------------------------------------------------------------------------------- */

typedef struct buffer {
	apple_memory memory;
	void *handle, *data;
} buffer;

static void e5rt_release_memory(apple_device *dev, apple_memory *memory)
{
	buffer *b = (buffer *)memory;
	DROP(dev, &b->handle, buffer_object);
	mem_free(dev->ctx, b, sizeof *b);
}

static an_status make_buffer(apple_device *dev, buffer *b)
{
	uint64_t bytes = 0;
	size_t want = (b->memory.bytes + LINE - 1) / LINE * LINE;
	TRY(MAKE(dev, NULL, &b->handle, e5rt_buffer_object_alloc, &b->handle, want, HOST_MEMORY));
	TRY(DO(dev, NULL, e5rt_buffer_object_get_size, b->handle, &bytes));
	TRY(DO(dev, NULL, e5rt_buffer_object_get_data_ptr, b->handle, &b->data));
	if (bytes < want || !b->data)
		return fail(dev->ctx, AN_DEVICE,
			    "e5rt_buffer_object_alloc gave a buffer of %llu bytes where %zu were asked for",
			    (unsigned long long)bytes, want);
	memset(b->data, 0, want);
	return AN_OK;
}

static an_status e5rt_alloc(apple_device *dev, size_t bytes, apple_memory **out)
{
	buffer *b = mem_zalloc(dev->ctx, sizeof *b);
	if (!b)
		return fail_memory(dev->ctx, sizeof *b);
	b->memory = (apple_memory){++dev->serial, bytes};
	void *scope = dev->sym.objc_autoreleasePoolPush();
	an_status s = make_buffer(dev, b);
	if (s == AN_OK)
		*out = &b->memory;
	else
		e5rt_release_memory(dev, &b->memory);
	dev->sym.objc_autoreleasePoolPop(scope);
	return s;
}

/* Memory of the host: executing is over when it returns, and nobody else looks. */
static void *e5rt_lock(apple_device *dev, apple_memory *memory)
{
	(void)dev;
	return ((buffer *)memory)->data;
}

static an_status e5rt_unlock(apple_device *dev, apple_memory *memory)
{
	(void)dev, (void)memory;
	return AN_OK;
}

/* ---- Programs ----------------------------------------------------------------------------- */

typedef struct program {
	void *library, *function;           /* compiled */
	void *options, *operation, *stream; /* loaded */
	bool encoded;                       /* the stream holds the operation */
	void **port;                        /* by the engine's port */
	uint64_t *bound;                    /* the serial of its memory; 0: none */
} program;

static size_t program_bytes(const apple_model *m)
{
	size_t n = (size_t)(m->nin + m->nout);
	return sizeof(program) + n * (sizeof(void *) + sizeof(uint64_t));
}

static an_status e5rt_describe(apple_model *m, char *identifier, size_t size)
{
	program *p = mem_zalloc(m->dev->ctx, program_bytes(m));
	if (!p)
		return fail_memory(m->dev->ctx, 0);
	p->port = (void **)(p + 1);
	p->bound = (uint64_t *)(p->port + m->nin + m->nout);
	m->impl = p;
	snprintf(identifier, size, "%s", ""); /* the staging folder will do */
	return AN_OK;
}

/* What compiling takes, given back in any case. */
typedef struct workshop {
	void *config, *compiler, *options;
} workshop;

static an_status compile_with(apple_model *m, workshop *w, const char *text, const char *cache)
{
	apple_device *dev = m->dev;
	program *p = m->impl;
	TRY(MAKE(dev, m->name, &w->config, e5rt_e5_compiler_config_options_create, &w->config));
	TRY(DO(dev, m->name, e5rt_e5_compiler_config_options_set_cache_bundle_location, w->config, cache));
	TRY(MAKE(dev, m->name, &w->compiler, e5rt_e5_compiler_create_with_config, &w->compiler, w->config));
	TRY(MAKE(dev, m->name, &w->options, e5rt_e5_compiler_options_create, &w->options));
	TRY(DO(dev, m->name, e5rt_e5_compiler_options_set_compute_device_types_mask, w->options,
	       ENGINE_ONLY));
	/* what another process compiled does not load here (ANEForge; tmc/apple saw it load) */
	TRY(DO(dev, m->name, e5rt_e5_compiler_options_set_force_recompilation, w->options, 1));
	TRY(DO(dev, m->name, e5rt_e5_compiler_options_set_segmenter, w->options, "graph"));
	TRY(MAKE(dev, m->name, &p->library, e5rt_e5_compiler_compile, w->compiler, text, w->options,
		 &p->library));
	return MAKE(dev, m->name, &p->function, e5rt_program_library_retain_program_function, p->library,
		    "main", &p->function);
}

static void forget_compiled(apple_device *dev, program *p)
{
	DROP(dev, &p->function, program_function);
	DROP(dev, &p->library, program_library);
}

static an_status e5rt_compile(apple_model *m)
{
	apple_device *dev = m->dev;
	workshop w = {0};
	arena a;
	arena_init(&a, dev->ctx);
	const char *text = path_join(&a, m->folder, "model.mil"), *cache = path_join(&a, m->folder, "cache");
	an_status s = text && cache ? dir_make(dev->ctx, cache) : fail_memory(dev->ctx, 0);
	void *scope = dev->sym.objc_autoreleasePoolPush();
	if (s == AN_OK)
		s = compile_with(m, &w, text, cache);
	DROP(dev, &w.options, e5_compiler_options);
	DROP(dev, &w.compiler, e5_compiler);
	DROP(dev, &w.config, e5_compiler_config_options);
	if (s != AN_OK)
		forget_compiled(dev, m->impl);
	dev->sym.objc_autoreleasePoolPop(scope);
	arena_free(&a);
	return s;
}

static an_status retain_port(apple_model *m, int i)
{
	apple_device *dev = m->dev;
	program *p = m->impl;
	return i < m->nin
		   ? MAKE(dev, m->name, &p->port[i], e5rt_execution_stream_operation_retain_input_port,
			  p->operation, m->port_name[i], &p->port[i])
		   : MAKE(dev, m->name, &p->port[i], e5rt_execution_stream_operation_retain_output_port,
			  p->operation, m->port_name[i], &p->port[i]);
}

static an_status make_operation(apple_model *m)
{
	apple_device *dev = m->dev;
	program *p = m->impl;
	TRY(MAKE(dev, m->name, &p->options,
		 e5rt_precompiled_compute_op_create_options_create_with_program_function, &p->options,
		 p->function));
	TRY(DO(dev, m->name, e5rt_precompiled_compute_op_create_options_set_operation_name, p->options,
	       "main"));
	TRY(DO(dev, m->name, e5rt_precompiled_compute_op_create_options_set_allocate_intermediate_buffers,
	       p->options, 1));
	TRY(MAKE(dev, m->name, &p->operation,
		 e5rt_execution_stream_operation_create_precompiled_compute_operation_with_options,
		 &p->operation, p->options));
	for (int i = 0; i < m->nin + m->nout; i++)
		TRY(retain_port(m, i));
	return MAKE(dev, m->name, &p->stream, e5rt_execution_stream_create, &p->stream);
}

/* The stream first: it holds the operation. */
static void drop_operation(apple_model *m)
{
	apple_device *dev = m->dev;
	program *p = m->impl;
	DROP(dev, &p->stream, execution_stream);
	for (int i = 0; i < m->nin + m->nout; i++) {
		DROP(dev, &p->port[i], io_port);
		p->bound[i] = 0;
	}
	DROP(dev, &p->operation, execution_stream_operation);
	DROP(dev, &p->options, precompiled_compute_op_create_options);
	p->encoded = false;
}

static an_status e5rt_load(apple_model *m)
{
	apple_device *dev = m->dev;
	void *scope = dev->sym.objc_autoreleasePoolPush();
	an_status s = make_operation(m);
	if (s != AN_OK)
		drop_operation(m);
	dev->sym.objc_autoreleasePoolPop(scope);
	return s;
}

static an_status e5rt_unload(apple_model *m)
{
	apple_device *dev = m->dev;
	void *scope = dev->sym.objc_autoreleasePoolPush();
	drop_operation(m);
	dev->sym.objc_autoreleasePoolPop(scope);
	return AN_OK;
}

static void e5rt_forget(apple_model *m)
{
	apple_device *dev = m->dev;
	program *p = m->impl;
	if (!p)
		return;
	void *scope = dev->sym.objc_autoreleasePoolPush();
	forget_compiled(dev, p);
	dev->sym.objc_autoreleasePoolPop(scope);
	mem_free(dev->ctx, p, program_bytes(m));
	m->impl = NULL;
}

/* ---- Calls -------------------------------------------------------------------------------- */

/* The operation with these buffers, in the stream.  After a failure there is no operation. */
static an_status encode(apple_model *m, const apple_call *c)
{
	apple_device *dev = m->dev;
	program *p = m->impl;
	if (p->encoded && dev->quirks.value[QUIRK_FIXED_PORTS])
		drop_operation(m);
	if (!p->operation)
		TRY(make_operation(m));
	if (p->encoded) {
		TRY(DO(dev, m->name, e5rt_execution_stream_reset, p->stream));
		p->encoded = false;
		if (dev->quirks.value[QUIRK_PREPARED])
			TRY(DO(dev, m->name, e5rt_execution_stream_operation_prepare_op_for_encode,
			       p->operation));
	}
	for (int i = 0; i < m->nin + m->nout; i++) {
		if (p->bound[i] == c->memory[i]->serial)
			continue;
		TRY(DO(dev, m->name, e5rt_io_port_bind_buffer_object, p->port[i],
		       ((buffer *)c->memory[i])->handle));
		p->bound[i] = c->memory[i]->serial;
	}
	TRY(DO(dev, m->name, e5rt_execution_stream_encode_operation, p->stream, p->operation));
	p->encoded = true;
	return AN_OK;
}

static an_status e5rt_evaluate(apple_model *m, apple_call *c)
{
	apple_device *dev = m->dev;
	program *p = m->impl;
	bool same = p->encoded;
	for (int i = 0; i < m->nin + m->nout; i++)
		same = same && p->bound[i] == c->memory[i]->serial;
	void *scope = dev->sym.objc_autoreleasePoolPush();
	an_status s = same ? AN_OK : encode(m, c);
	if (s != AN_OK)
		drop_operation(m);
	else
		s = DO(dev, m->name, e5rt_execution_stream_execute_sync, p->stream);
	dev->sym.objc_autoreleasePoolPop(scope);
	return s;
}

/* ---- The route ---------------------------------------------------------------------------- */

static an_status e5rt_open(apple_device *dev, const char *libraries)
{
	const char *dir = getenv("TMPDIR"); /* on macOS every process has it, and it is what
					     * NSTemporaryDirectory gives */
	TRY(symbols_open(dev->ctx, libraries, ANE_ROUTE_E5RT, &dev->sym));
	an_status s = folder_open(dev, dir && *dir ? dir : "/tmp");
	if (s != AN_OK)
		symbols_close(&dev->sym);
	return s;
}

static void e5rt_close(apple_device *dev)
{
	folder_close(dev);
	symbols_close(&dev->sym);
}

const apple_route e5rt_route = {
    .name = "ane:e5rt",
    .mask = ANE_ROUTE_E5RT,
    .open = e5rt_open,
    .close = e5rt_close,
    .alloc = e5rt_alloc,
    .release = e5rt_release_memory,
    .lock = e5rt_lock,
    .unlock = e5rt_unlock,
    .describe = e5rt_describe,
    .compile = e5rt_compile,
    .load = e5rt_load,
    .unload = e5rt_unload,
    .forget = e5rt_forget,
    .evaluate = e5rt_evaluate,
};
