/* Apple's Neural Engine as a device. */
#include "device/apple/apple.h"

#include "base/half.h"
#include "kernel/kernel.h"

#include <stdio.h>

/* In the order in which "ane" tries them. */
static const apple_route *const routes[] = {&objc_route, &e5rt_route};

/* ---- Opening ------------------------------------------------------------------------------ */

/* "m4" where the system calls the chip "Apple M4 Pro"; NULL: none that is known. */
static const char *chip_name(const apple_device *dev)
{
	char brand[100] = "";
	size_t size = sizeof brand - 1;
	if (dev->sym.sysctlbyname("machdep.cpu.brand_string", brand, &size, NULL, 0) != 0)
		return NULL;
	for (int i = 0; an_chip_at(i); i++) {
		const char *name = an_chip_at(i)->name; /* "m4" */
		size_t n = strlen(name) - 1;
		if (!strncmp(brand, "Apple M", 7) && !strncmp(brand + 7, name + 1, n) &&
		    (!brand[7 + n] || brand[7 + n] == ' '))
			return name;
	}
	return NULL;
}

static an_status no_route(an_ctx *ctx, const char *name)
{
	str list;
	str_init(&list, ctx);
	for (int i = 0; i < LENGTH(routes); i++)
		str_addf(&list, ", \"%s\"", routes[i]->name);
	an_status s = str_status(&list);
	if (s == AN_OK)
		s = fail(ctx, AN_USAGE, "no device is called \"%s\"; there is: \"ane\"%s", name, list.data);
	str_free(&list);
	return s;
}

static an_status open_route(apple_device *dev, const apple_route *route, const an_device_options *opt)
{
	an_ctx *ctx = dev->ctx;
	dev->route = route;
	TRY(route->open(dev, opt->libraries));
	const char *chip = chip_name(dev);
	an_status s = ane_quirks_set(ctx, chip, route->mask, opt->quirks, &dev->quirks);
	if (s == AN_OK && chip)
		s = ane_numerics_parse(ctx, chip, &dev->numerics);
	if (s != AN_OK) {
		route->close(dev);
		return s;
	}
	if (chip)
		dev->device->numerics = &dev->numerics; /* what is published of the chip: a plan may ask */
	dev->device->info.numerics = chip ? chip : "unknown chip";
	if (opt->count_beside && (s = beside_open(dev, chip)) != AN_OK) {
		an_device_close(dev->beside);
		dev->beside = NULL;
		route->close(dev);
	}
	dev->device->counts = s == AN_OK && dev->beside;
	return s;
}

/* The first route that is there; why none is goes into the message. */
static an_status open_first(apple_device *dev, const an_device_options *opt)
{
	static const char none[] = "no Neural Engine here: ";
	str why;
	str_init(&why, dev->ctx);
	an_status s = AN_UNSUPPORTED;
	for (int i = 0; s == AN_UNSUPPORTED && i < LENGTH(routes); i++) {
		s = open_route(dev, routes[i], opt);
		const char *text = s == AN_OK ? "" : an_message(dev->ctx);
		if (!strncmp(text, none, strlen(none)))
			text += strlen(none);
		str_addf(&why, "%s%s: %s", i ? "; " : "", routes[i]->name, text);
	}
	if (s == AN_UNSUPPORTED && (s = str_status(&why)) == AN_OK)
		s = fail(dev->ctx, AN_UNSUPPORTED, "%s%s", none, why.data);
	str_free(&why);
	return s;
}

static an_status open_named(apple_device *dev, const an_device_options *opt)
{
	if (!strcmp(opt->name, "ane"))
		return open_first(dev, opt);
	for (int i = 0; i < LENGTH(routes); i++)
		if (!strcmp(opt->name, routes[i]->name))
			return open_route(dev, routes[i], opt);
	return no_route(dev->ctx, opt->name);
}

static an_status apple_open(an_device *d, const an_device_options *opt)
{
	if (opt->numerics)
		return fail(d->ctx, AN_USAGE,
			    "device \"%s\" has the engine's arithmetic; numerics \"%s\" is for \"soft\"",
			    opt->name, opt->numerics);
	apple_device *dev = mem_zalloc(d->ctx, sizeof *dev);
	if (!dev)
		return fail_memory(d->ctx, sizeof *dev);
	*dev = (apple_device){.device = d, .ctx = d->ctx};
	d->impl = dev;
	an_status s = open_named(dev, opt);
	if (s != AN_OK) {
		mem_free(d->ctx, dev, sizeof *dev);
		return s;
	}
	d->info.name = dev->route->name;
	d->info.compiles_left = model_compiles_left(dev);
	return AN_OK;
}

static void apple_close(an_device *d)
{
	apple_device *dev = d->impl;
	an_device_close(dev->beside);
	dev->route->close(dev);
	mem_free(d->ctx, dev, sizeof *dev);
}

/* ---- Executables -------------------------------------------------------------------------- */

static bool apple_supports(an_device *d, const an_function *f, const mil_op *op, const char **rule)
{
	(void)d, (void)f, (void)op, (void)rule; /* the engine's own compiler decides */
	return true;
}

static an_status apple_compile(an_device *d, an_function *f, an_executable *e)
{
	apple_model *m = arena_alloc(&e->arena, sizeof *m);
	if (!m)
		return fail_memory(d->ctx, sizeof *m);
	*m = (apple_model){.dev = d->impl,
			   .name = e->name,
			   .nin = e->ninputs,
			   .nout = e->noutputs,
			   .ports = e->ports,
			   .own = e->own};
	an_status s = model_build(m, &e->arena, f);
	if (s == AN_OK)
		s = beside_compile(m, &e->arena, f);
	if (s == AN_OK)
		e->impl = m;
	else
		model_free(m);
	return s;
}

static void apple_free(an_executable *e) { model_free(e->impl); }
static an_status apple_reload(an_executable *e, an_function *f) { return model_reload(e->impl, f); }
static an_status apple_can_reload(an_device *d) { return model_can_reload(d->impl); }

static an_status apple_text(const an_executable *e, str *out)
{
	const apple_model *m = e->impl;
	str_addf(out, "%s, %s\n", m->folder, m->loaded ? "loaded" : "not loaded");
	for (int i = 0; i < m->nin + m->nout; i++) {
		char type[120];
		const device_port *p = &m->ports[m->port[i]];
		str_addf(out, "%-6s %-24s %-28s %zu bytes\n", i < m->nin ? "input" : "output", p->name,
			 an_type_text(&p->type, type, sizeof type), m->bytes[i]);
	}
	str_add_n(out, m->text, m->text_len);
	return str_status(out);
}

/* ---- Buffers ------------------------------------------------------------------------------ */

static an_status apple_alloc(an_buffer *b)
{
	apple_device *dev = b->device->impl;
	apple_memory *m;
	TRY(dev->route->alloc(dev, memory_size(dev, b->bytes), &m));
	b->impl = m;
	return AN_OK;
}

static void apple_release(an_buffer *b)
{
	apple_device *dev = b->device->impl;
	dev->route->release(dev, b->impl);
}

static void *apple_map(an_buffer *b)
{
	apple_device *dev = b->device->impl;
	char *base = dev->route->lock(dev, b->impl);
	return base ? base + b->offset : NULL;
}

static void apple_unmap(an_buffer *b)
{
	apple_device *dev = b->device->impl;
	if (dev->route->unlock(dev, b->impl) != AN_OK)
		log_text(dev->ctx, AN_LOG_WARNING, "%s", an_message(dev->ctx));
}

static an_status apple_update(an_buffer *b, int64_t begin, int64_t n, an_make_fn *make, void *arg)
{
	apple_device *dev = b->device->impl;
	char *to = apple_map(b);
	if (!to)
		return AN_DEVICE;
	dev_store_made(b, to, begin, n, make, arg);
	return dev->route->unlock(dev, b->impl);
}

/* ---- Calls -------------------------------------------------------------------------------- */

static void apple_free_call(an_call *call)
{
	apple_device *dev = call->exe->device->impl;
	apple_call *c = call->impl;
	int n = call->exe->ninputs + call->exe->noutputs;
	if (c->request)
		dev->route->drop(dev, c);
	for (int i = 0; i < n; i++)
		if (c->staged[i])
			dev->route->release(dev, c->staged[i]);
	size_t each = sizeof *c->memory + sizeof *c->serial + sizeof *c->staged;
	mem_free(dev->ctx, c, sizeof *c + (size_t)n * each);
	call->impl = NULL;
}

static an_status new_call(an_call *call)
{
	apple_device *dev = call->exe->device->impl;
	size_t n = (size_t)(call->exe->ninputs + call->exe->noutputs);
	apple_call *c =
	    mem_zalloc(dev->ctx, sizeof *c + n * (sizeof *c->memory + sizeof *c->serial + sizeof *c->staged));
	if (!c)
		return fail_memory(dev->ctx, 0);
	c->memory = (apple_memory **)(c + 1);
	c->staged = c->memory + n;
	c->serial = (uint64_t *)(c->staged + n);
	call->impl = c;
	return AN_OK;
}

/* A request names its memory: it is made again when that is another. */
static an_status ready_request(apple_model *m, apple_call *c)
{
	if (!m->dev->route->request)
		return AN_OK;
	bool same = c->request;
	for (int i = 0; i < m->nin + m->nout; i++) {
		same = same && c->serial[i] == c->memory[i]->serial;
		c->serial[i] = c->memory[i]->serial;
	}
	if (same)
		return AN_OK;
	if (c->request)
		m->dev->route->drop(m->dev, c);
	return m->dev->route->request(m, c);
}

static an_status apple_submit(an_call *call)
{
	apple_model *m = call->exe->impl;
	if (!call->impl)
		TRY(new_call(call));
	apple_call *c = call->impl;
	TRY(model_ready(m));
	if (call->exe->device->counting)
		TRY(beside_run(m, call));
	TRY(memory_prepare(m, call, c));
	TRY(ready_request(m, c));
	TRY(m->dev->route->evaluate(m, c));
	return memory_finish(m, call, c);
}

static an_status apple_wait(an_call *call)
{
	(void)call; /* submit has waited */
	return AN_OK;
}

const device_ops apple_device_ops = {
    .name = "ane",
    .routes = true,
    .open = apple_open,
    .close = apple_close,
    .supports = apple_supports,
    .compile = apple_compile,
    .free_executable = apple_free,
    .reload = apple_reload,
    .can_reload = apple_can_reload,
    .text = apple_text,
    .alloc = apple_alloc,
    .release = apple_release,
    .map = apple_map,
    .unmap = apple_unmap,
    .update = apple_update,
    .submit = apple_submit,
    .wait = apple_wait,
    .free_call = apple_free_call,
};
