/* The route through the classes of AppleNeuralEngine: _ANEInMemoryModelDescriptor, _ANEInMemoryModel,
 * _ANERequest, and _ANEIOSurfaceObject around IOSurfaces.  The order of calls is that of maderix/ANE and
 * mechramc/Orion.
 *
 * Class methods and errors are autoreleased: every function here has a pool, and what outlives it is owned
 * (object.c). */
#include "device/apple/apple.h"

#include "base/file.h"

/* ---- Surfaces --------------------------------------------------------------------------- */

typedef struct surface {
	apple_memory memory;
	objc_id surface; /* the IOSurface */
	objc_id wrapper; /* _ANEIOSurfaceObject */
	int locks;       /* a buffer and its views may be mapped at the same time */
} surface;

static void objc_release_memory(apple_device *dev, apple_memory *memory)
{
	surface *s = (surface *)memory;
	own_drop(dev, &s->wrapper);
	own_drop(dev, &s->surface);
	mem_free(dev->ctx, s, sizeof *s);
}

/* One row of bytes, as the recorded clients make them: the engine reads no stride from a surface. */
static objc_id surface_properties(apple_device *dev, size_t bytes)
{
	const apple_symbols *y = &dev->sym;
	const struct {
		const void *key;
		int64_t value;
	} rows[] = {{y->kIOSurfaceWidth, (int64_t)bytes},     {y->kIOSurfaceHeight, 1},
		    {y->kIOSurfaceBytesPerElement, 1},        {y->kIOSurfaceBytesPerRow, (int64_t)bytes},
		    {y->kIOSurfaceAllocSize, (int64_t)bytes}, {y->kIOSurfacePixelFormat, 0}};
	objc_id key[LENGTH(rows)], value[LENGTH(rows)] = {0}, out = NULL;
	int n = 0;
	while (n < LENGTH(rows)) {
		key[n] = *(objc_id const *)rows[n].key;
		if (!(value[n] = object_number(dev, rows[n].value)))
			break;
		n++;
	}
	if (n == LENGTH(rows))
		out = object_dictionary(dev, key, value, n);
	while (n > 0)
		own_drop(dev, &value[--n]);
	return out;
}

static an_status make_surface(apple_device *dev, surface *s)
{
	apple_symbols *y = &dev->sym;
	size_t bytes = s->memory.bytes;
	objc_id properties = surface_properties(dev, bytes);
	if (!properties)
		return AN_MEMORY;
	s->surface = own(dev, y->IOSurfaceCreate(properties), true);
	own_drop(dev, &properties);
	if (!s->surface)
		return fail(dev->ctx, AN_MEMORY, "IOSurfaceCreate gave no surface of %zu bytes", bytes);
	if (y->IOSurfaceGetAllocSize(s->surface) < bytes)
		return fail(dev->ctx, AN_DEVICE,
			    "IOSurfaceCreate gave a surface of %zu bytes where %zu were asked for",
			    y->IOSurfaceGetAllocSize(s->surface), bytes);
	s->wrapper = own(dev, y->wrap.call(y->class[CLASS_SURFACE], y -> wrap.selector, s->surface), false);
	if (!s->wrapper)
		return apple_failed(dev, NULL, "+[_ANEIOSurfaceObject objectWithIOSurface:] for %zu bytes",
				    bytes);
	return AN_OK;
}

static an_status objc_alloc(apple_device *dev, size_t bytes, apple_memory **out)
{
	surface *s = mem_zalloc(dev->ctx, sizeof *s);
	if (!s)
		return fail_memory(dev->ctx, sizeof *s);
	s->memory = (apple_memory){++dev->serial, bytes};
	void *scope = dev->sym.objc_autoreleasePoolPush();
	an_status status = make_surface(dev, s); /* IOSurfaces are zeroed when they are made */
	if (status == AN_OK)
		*out = &s->memory;
	else
		objc_release_memory(dev, &s->memory);
	dev->sym.objc_autoreleasePoolPop(scope);
	return status;
}

static void *objc_lock(apple_device *dev, apple_memory *memory)
{
	surface *s = (surface *)memory;
	int e = s->locks ? 0 : dev->sym.IOSurfaceLock(s->surface, 0, NULL);
	void *base = e ? NULL : dev->sym.IOSurfaceGetBaseAddress(s->surface);
	if (!base) {
		fail(dev->ctx, AN_DEVICE, "IOSurfaceLock of %zu bytes failed with 0x%x", memory->bytes,
		     (unsigned)e);
		return NULL;
	}
	s->locks++;
	return base;
}

static an_status objc_unlock(apple_device *dev, apple_memory *memory)
{
	surface *s = (surface *)memory;
	if (!s->locks || --s->locks)
		return AN_OK;
	int e = dev->sym.IOSurfaceUnlock(s->surface, 0, NULL);
	return e ? fail(dev->ctx, AN_DEVICE, "IOSurfaceUnlock of %zu bytes failed with 0x%x", memory->bytes,
			(unsigned)e)
		 : AN_OK;
}

/* ---- Models ----------------------------------------------------------------------------- */

/* {"offset": 0, "data": the whole file}; the offset is not added to those in the text. */
static objc_id blob_entry(apple_model *m, const char *path)
{
	apple_device *dev = m->dev;
	objc_id key[2] = {0}, value[2] = {0}, entry = NULL;
	arena scratch;
	file_view view;
	arena_init(&scratch, dev->ctx);
	const char *file = path_join(&scratch, m->folder, path + strlen("@model_path/"));
	if (!file)
		fail_memory(dev->ctx, 0);
	else if (file_open_view(dev->ctx, file, &view) == AN_OK) {
		if ((key[0] = object_string(dev, "offset")) && (key[1] = object_string(dev, "data")) &&
		    (value[0] = object_number(dev, 0)) && (value[1] = object_data(dev, view.data, view.size)))
			entry = object_dictionary(dev, key, value, 2);
		file_close_view(dev->ctx, &view);
	}
	for (int i = 0; i < 2; i++) {
		own_drop(dev, &key[i]);
		own_drop(dev, &value[i]);
	}
	arena_free(&scratch);
	return entry;
}

/* The dictionary of weights, empty if there are none (Orion constraint 11: nil crashes). */
static objc_id weights(apple_model *m)
{
	apple_device *dev = m->dev;
	arena scratch;
	arena_init(&scratch, dev->ctx);
	int n = 0;
	objc_id out = NULL, *key = arena_array(&scratch, (size_t)m->nblobs + 1, sizeof *key),
		*value = arena_array(&scratch, (size_t)m->nblobs + 1, sizeof *value);
	if (!key || !value)
		fail_memory(dev->ctx, 0);
	else {
		while (n < m->nblobs && (key[n] = object_string(dev, m->blob[n])) &&
		       (value[n] = blob_entry(m, m->blob[n])))
			n++;
		if (n == m->nblobs)
			out = object_dictionary(dev, key, value, n);
		for (int i = 0; i <= n && i < m->nblobs; i++) {
			own_drop(dev, &key[i]);
			own_drop(dev, &value[i]);
		}
	}
	arena_free(&scratch);
	return out;
}

static an_status make_model(apple_model *m, char *identifier, size_t size)
{
	apple_device *dev = m->dev;
	apple_symbols *y = &dev->sym;
	objc_id text = object_data(dev, m->text, m->text_len), dictionary = text ? weights(m) : NULL;
	if (!dictionary) {
		own_drop(dev, &text);
		return AN_MEMORY;
	}
	/* autoreleased: the model keeps it */
	objc_id descriptor =
	    y->descriptor.call(y->class[CLASS_DESCRIPTOR], y -> descriptor.selector, text, dictionary, NULL);
	own_drop(dev, &text);
	own_drop(dev, &dictionary);
	if (!descriptor)
		return apple_failed(dev, NULL,
				    "+[_ANEInMemoryModelDescriptor modelWithMILText:weights:optionsPlist:]");
	m->impl = own(dev, y->model.call(y->class[CLASS_MODEL], y -> model.selector, descriptor), false);
	if (!m->impl)
		return apple_failed(dev, NULL, "+[_ANEInMemoryModel inMemoryModelWithDescriptor:]");
	if (!object_text(dev, y->identifier.call(m->impl, y->identifier.selector), identifier, size))
		return apple_failed(dev, NULL, "-[_ANEInMemoryModel hexStringIdentifier]");
	return AN_OK;
}

static an_status objc_describe(apple_model *m, char *identifier, size_t size)
{
	void *scope = m->dev->sym.objc_autoreleasePoolPush();
	an_status s = make_model(m, identifier, size);
	if (s != AN_OK)
		own_drop(m->dev, &m->impl);
	m->dev->sym.objc_autoreleasePoolPop(scope);
	return s;
}

static unsigned qos_of(const apple_device *dev) { return (unsigned)dev->quirks.value[QUIRK_QOS]; }

typedef objc_bool (*with_options)(objc_id self, objc_sel selector, unsigned qos, objc_id options,
				  objc_id *error);

static an_status call_with_options(apple_model *m, with_options call, objc_sel selector, const char *name)
{
	apple_device *dev = m->dev;
	void *scope = dev->sym.objc_autoreleasePoolPush();
	objc_id error = NULL, options = object_dictionary(dev, NULL, NULL, 0);
	an_status s = AN_MEMORY;
	if (options)
		s = call(m->impl, selector, qos_of(dev), options, &error)
			? AN_OK
			: apple_failed(dev, error, "function \"%s\": -[_ANEInMemoryModel %s]", m->name, name);
	own_drop(dev, &options);
	dev->sym.objc_autoreleasePoolPop(scope);
	return s;
}

static an_status objc_compile(apple_model *m)
{
	const apple_symbols *y = &m->dev->sym;
	return call_with_options(m, y->compile.call, y->compile.selector, "compileWithQoS:options:error:");
}

static an_status objc_load(apple_model *m)
{
	const apple_symbols *y = &m->dev->sym;
	return call_with_options(m, y->load.call, y->load.selector, "loadWithQoS:options:error:");
}

static an_status objc_unload(apple_model *m)
{
	apple_device *dev = m->dev;
	apple_symbols *y = &dev->sym;
	void *scope = y->objc_autoreleasePoolPush();
	objc_id error = NULL;
	an_status s = AN_OK;
	if (!y->unload.call(m->impl, y->unload.selector, qos_of(dev), &error))
		s = apple_failed(dev, error, "function \"%s\": -[_ANEInMemoryModel unloadWithQoS:error:]",
				 m->name);
	y->objc_autoreleasePoolPop(scope);
	return s;
}

static void objc_forget(apple_model *m) { own_drop(m->dev, &m->impl); }

/* ---- Requests --------------------------------------------------------------------------- */

/* The surfaces of ports first .. first + n - 1, and the numbers 0 .. n - 1. */
static an_status surfaces(apple_device *dev, arena *a, const apple_call *c, int first, int n, objc_id *list,
			  objc_id *indices)
{
	objc_id *object = arena_array(a, (size_t)n + 1, sizeof *object),
		*number = arena_array(a, (size_t)n + 1, sizeof *number);
	int made = 0;
	if (!object || !number)
		return fail_memory(dev->ctx, 0);
	for (int i = 0; i < n; i++)
		object[i] = ((const surface *)c->memory[first + i])->wrapper;
	while (made < n && (number[made] = object_number(dev, made)))
		made++;
	if (made == n && (*list = object_array(dev, object, n)))
		*indices = object_array(dev, number, n);
	while (made > 0)
		own_drop(dev, &number[--made]);
	return *indices ? AN_OK : AN_MEMORY;
}

static an_status make_request(apple_model *m, arena *a, apple_call *c)
{
	apple_device *dev = m->dev;
	apple_symbols *y = &dev->sym;
	objc_id in = NULL, in_index = NULL, out = NULL, out_index = NULL, procedure = NULL;
	an_status s = surfaces(dev, a, c, 0, m->nin, &in, &in_index);
	if (s == AN_OK)
		s = surfaces(dev, a, c, m->nin, m->nout, &out, &out_index);
	if (s == AN_OK && !(procedure = object_number(dev, 0)))
		s = AN_MEMORY;
	if (s == AN_OK) {
		c->request = own(dev,
				 y->request.call(y->class[CLASS_REQUEST], y -> request.selector, in, in_index,
						 out, out_index, NULL, NULL, procedure),
				 false);
		if (!c->request)
			s = apple_failed(dev, NULL, "function \"%s\": +[_ANERequest requestWithInputs:...]",
					 m->name);
	}
	own_drop(dev, &in);
	own_drop(dev, &in_index);
	own_drop(dev, &out);
	own_drop(dev, &out_index);
	own_drop(dev, &procedure);
	return s;
}

static an_status objc_request(apple_model *m, apple_call *c)
{
	arena scratch;
	arena_init(&scratch, m->dev->ctx);
	void *scope = m->dev->sym.objc_autoreleasePoolPush();
	an_status s = make_request(m, &scratch, c);
	m->dev->sym.objc_autoreleasePoolPop(scope);
	arena_free(&scratch);
	return s;
}

static void objc_drop(apple_device *dev, apple_call *c) { own_drop(dev, &c->request); }

static an_status objc_evaluate(apple_model *m, apple_call *c)
{
	apple_device *dev = m->dev;
	apple_symbols *y = &dev->sym;
	void *scope = y->objc_autoreleasePoolPush();
	objc_id error = NULL, options = object_dictionary(dev, NULL, NULL, 0);
	an_status s = AN_MEMORY;
	if (options &&
	    y->evaluate.call(m->impl, y->evaluate.selector, qos_of(dev), options, c->request, &error))
		s = AN_OK;
	else if (options)
		s = apple_failed(
		    dev, error,
		    "function \"%s\": -[_ANEInMemoryModel evaluateWithQoS:options:request:error:]", m->name);
	own_drop(dev, &options);
	y->objc_autoreleasePoolPop(scope);
	return s;
}

/* ---- The route --------------------------------------------------------------------------- */

static an_status objc_open(apple_device *dev, const char *libraries)
{
	TRY(symbols_open(dev->ctx, libraries, ANE_ROUTE_OBJC, &dev->sym));
	char dir[1000];
	void *scope = dev->sym.objc_autoreleasePoolPush();
	bool there = object_text(dev, dev->sym.NSTemporaryDirectory(), dir, sizeof dir);
	dev->sym.objc_autoreleasePoolPop(scope);
	an_status s = there ? folder_open(dev, dir)
			    : fail(dev->ctx, AN_DEVICE,
				   "NSTemporaryDirectory names no folder for the engine's programs");
	if (s != AN_OK)
		symbols_close(&dev->sym);
	return s;
}

static void objc_close(apple_device *dev)
{
	folder_close(dev);
	symbols_close(&dev->sym);
}

const apple_route objc_route = {
    .name = "ane:objc",
    .mask = ANE_ROUTE_OBJC,
    .open = objc_open,
    .close = objc_close,
    .alloc = objc_alloc,
    .release = objc_release_memory,
    .lock = objc_lock,
    .unlock = objc_unlock,
    .describe = objc_describe,
    .compile = objc_compile,
    .load = objc_load,
    .unload = objc_unload,
    .forget = objc_forget,
    .request = objc_request,
    .drop = objc_drop,
    .evaluate = objc_evaluate,
};
