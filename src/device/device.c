/* What all devices have in common: the public functions, argument checks, ownership counts,
 * and the cache of executables by content. */
#include "device/device.h"

#include "base/half.h"
#include "kernel/kernel.h"

static const device_ops *const devices[] = {&soft_device_ops, &apple_device_ops};

/* ---- Devices --------------------------------------------------------------------- */

static an_status no_such_device(an_ctx *ctx, const char *name)
{
	str list;
	str_init(&list, ctx);
	for (int i = 0; i < LENGTH(devices); i++)
		str_addf(&list, "\"%s\", ", devices[i]->name);
	str_add(&list, "\"auto\"");
	an_status s = str_status(&list);
	if (s == AN_OK)
		s = fail(ctx, AN_USAGE, "no device is called \"%s\"; there is: %s", name, list.data);
	str_free(&list);
	return s;
}

/* The engine where there is one, else the software one. */
static an_status open_auto(an_ctx *ctx, const an_device_options *opt, an_device **out)
{
	an_device_options engine = *opt, soft = *opt;
	engine.name = apple_device_ops.name;
	engine.numerics = NULL; /* it has its own */
	soft.name = soft_device_ops.name;
	an_status s = an_device_open(ctx, &engine, out);
	if (s != AN_UNSUPPORTED)
		return s;
	log_text(ctx, AN_LOG_INFO, "the software engine is used: %s", an_message(ctx));
	return an_device_open(ctx, &soft, out);
}

an_status an_device_open(an_ctx *ctx, const an_device_options *opt, an_device **out)
{
	static const an_device_options none;
	if (!opt)
		opt = &none;
	*out = NULL;
	if (opt->name && !strcmp(opt->name, "auto"))
		return open_auto(ctx, opt, out);
	const device_ops *ops = NULL;
	const char *name = opt->name ? opt->name : devices[0]->name;
	size_t len = strcspn(name, ":");
	for (int i = 0; i < LENGTH(devices) && !ops; i++)
		if (strlen(devices[i]->name) == len && !memcmp(name, devices[i]->name, len))
			ops = devices[i];
	if (!ops || (name[len] && !ops->routes))
		return no_such_device(ctx, name);
	an_device *d = mem_zalloc(ctx, sizeof *d);
	if (!d)
		return fail_memory(ctx, sizeof *d);
	d->ctx = ctx;
	d->ops = ops;
	d->info = (an_device_info){
	    .name = ops->name, .isa = an_ctx_isa(ctx), .threads = an_ctx_threads(ctx), .compiles_left = -1};
	an_status s = ops->open(d, opt);
	if (s != AN_OK) {
		mem_free(ctx, d, sizeof *d);
		return s;
	}
	*out = d;
	return AN_OK;
}

static void buffer_destroy(an_buffer *b)
{
	an_device *d = b->device;
	if (!b->parent)
		d->ops->release(b);
	if (b->prev)
		b->prev->next = b->next;
	else
		d->buffers = b->next;
	if (b->next)
		b->next->prev = b->prev;
	mem_free(d->ctx, b, sizeof *b);
}

/* Gives up one owner's share; the last one destroys the buffer, and a view then gives up its
 * share of the buffer it looks at. */
static void buffer_drop(an_buffer *b)
{
	while (b && --b->owners == 0) {
		an_buffer *parent = b->parent;
		buffer_destroy(b);
		b = parent;
	}
}

static void executable_drop(an_executable *e)
{
	if (--e->owners)
		return;
	an_device *d = e->device;
	for (an_executable **p = &d->executables; *p; p = &(*p)->next)
		if (*p == e) {
			*p = e->next;
			break;
		}
	d->ops->free_executable(e);
	mem_free(d->ctx, e->key, e->key_size);
	arena_free(&e->arena);
	mem_free(d->ctx, e, sizeof *e);
}

void an_device_close(an_device *d)
{
	if (!d)
		return;
	while (d->calls)
		an_call_free(d->calls);
	while (d->executables) {
		d->executables->owners = 1;
		executable_drop(d->executables);
	}
	/* Whoever owns what no longer matters; views before the memory they look at. */
	for (an_buffer *b = d->buffers, *next; b; b = next) {
		next = b->next;
		if (b->parent)
			buffer_destroy(b);
	}
	while (d->buffers)
		buffer_destroy(d->buffers);
	d->ops->close(d);
	mem_free(d->ctx, d, sizeof *d);
}

void an_device_get_info(const an_device *d, an_device_info *info) { *info = d->info; }

bool an_device_supports(an_device *d, const an_function *f, int index, const char **rule)
{
	const char *why = NULL;
	bool yes = false;
	if (index < 0 || (size_t)index >= f->nops)
		why = "there is no such operation";
	else
		yes = d->ops->supports(d, f, &f->ops[index], &why);
	if (rule)
		*rule = yes ? NULL : why;
	return yes;
}

/* ---- Executables ----------------------------------------------------------------- */

/* The content of a function as bytes: everything that decides what it computes and how its
 * ports are called, and nothing else (names of inner values and of constants do not count).
 * Two functions with equal keys give equal executables. */

static void key_number(str *k, int64_t x) { str_add_n(k, (const char *)&x, sizeof x); }

static void key_type(str *k, const an_type *t)
{
	const uint8_t head[2] = {t->dtype, t->rank};
	str_add_n(k, (const char *)head, sizeof head);
	str_add_n(k, (const char *)t->dim, t->rank * sizeof t->dim[0]);
}

static void key_text(str *k, const char *s) { str_add_n(k, s, strlen(s) + 1); }

/* values == false: not those of blobs, which a reload replaces. */
static void key_literal(str *k, const mil_literal *l, bool values)
{
	key_type(k, &l->type);
	if (l->kind == LIT_BLOB && !values)
		return;
	if (l->kind != LIT_STRINGS)
		str_add_n(k, l->bytes, an_type_bytes(&l->type));
	else
		for (int64_t i = 0; i < an_type_count(&l->type); i++)
			key_text(k, l->strings[i]);
}

static void function_key(const an_function *f, bool values, str *k)
{
	key_number(k, (int64_t)f->ninputs);
	for (size_t i = 0; i < f->ninputs; i++) {
		key_number(k, f->inputs[i]);
		key_type(k, &f->values[f->inputs[i]].type);
		key_text(k, f->values[f->inputs[i]].name);
	}
	key_number(k, (int64_t)f->nops);
	for (size_t i = 0; i < f->nops; i++) {
		const mil_op *op = &f->ops[i];
		key_number(k, op->op);
		for (int p = 0; p < OP_MAX_PARAMS; p++) {
			key_number(k, op->arg[p].n);
			for (uint32_t j = 0; j < op->arg[p].n; j++)
				key_number(k, op->arg[p].v[j]);
		}
		key_number(k, op->nattrs);
		for (uint32_t j = 0; j < op->nattrs; j++) {
			key_text(k, op->attrs[j].key);
			key_literal(k, &op->attrs[j].lit, values);
		}
		key_number(k, op->nresults);
		for (int j = 0; j < op->nresults; j++) {
			key_number(k, op->results[j]);
			key_type(k, &f->values[op->results[j]].type);
		}
	}
	key_number(k, (int64_t)f->noutputs);
	for (size_t i = 0; i < f->noutputs; i++) {
		key_number(k, f->outputs[i]);
		key_text(k, f->values[f->outputs[i]].name);
	}
}

static an_status add_ports(an_executable *e, const an_function *f)
{
	an_ctx *ctx = e->device->ctx;
	e->ninputs = (int)f->ninputs;
	e->noutputs = (int)f->noutputs;
	e->nops = (int)f->nops;
	e->ports = arena_array(&e->arena, f->ninputs + f->noutputs, sizeof *e->ports);
	e->counts = arena_array(&e->arena, f->nops + 1, sizeof *e->counts);
	e->name = arena_strdup(&e->arena, f->name);
	if (!e->ports || !e->counts || !e->name)
		return fail_memory(ctx, 0);
	for (int i = 0; i < e->ninputs + e->noutputs; i++) {
		an_value v = i < e->ninputs ? f->inputs[i] : f->outputs[i - e->ninputs];
		e->ports[i].type = f->values[v].type;
		e->ports[i].name = arena_strdup(&e->arena, f->values[v].name);
		if (!e->ports[i].name)
			return fail_memory(ctx, 0);
	}
	for (int i = e->ninputs; i < e->ninputs + e->noutputs; i++)
		for (int j = 0; j < i; j++)
			if (!strcmp(e->ports[i].name, e->ports[j].name))
				return fail(
				    ctx, AN_DEVICE,
				    "function \"%s\": \"%s\" is both %s and an output; buffers are bound by "
				    "name, so each needs its own (give the output another through identity)",
				    f->name, e->ports[i].name,
				    j < e->ninputs ? "an input" : "an earlier output");
	return AN_OK;
}

/* Every operation must be one that the device runs; the message names the first that is not. */
static an_status check_supported(an_device *d, an_function *f)
{
	for (size_t i = 0; i < f->nops; i++) {
		const mil_op *op = &f->ops[i];
		const char *rule = NULL;
		if (!d->ops->supports(d, f, op, &rule))
			return fail(d->ctx, AN_DEVICE,
				    "%s%sfunction \"%s\", operation %s (\"%s\"): %s refuses it: %s",
				    f->program->file ? f->program->file : "", f->program->file ? ": " : "",
				    f->name, op_table[op->op].name,
				    op->nresults ? f->values[op->results[0]].name : "", d->info.name,
				    rule ? rule : "no rule is known");
	}
	return AN_OK;
}

/* Everything of *e but its place in the list; the key moves from the string to the executable. */
static an_status compile_into(an_device *d, an_function *f, uint64_t hash, bool own, str *key,
			      an_executable *e)
{
	*e = (an_executable){.device = d, .hash = hash, .owners = 1, .own = own};
	arena_init(&e->arena, d->ctx);
	an_status s = add_ports(e, f);
	if (s == AN_OK)
		s = check_supported(d, f);
	if (s == AN_OK)
		s = d->ops->compile(d, f, e);
	if (s != AN_OK) {
		arena_free(&e->arena);
		return s;
	}
	e->key = key->data;
	e->key_used = key->len;
	e->key_size = key->cap;
	str_init(key, d->ctx);
	return AN_OK;
}

static an_status compile_new(an_device *d, an_function *f, uint64_t hash, bool own, str *key,
			     an_executable **out)
{
	an_executable *e = mem_zalloc(d->ctx, sizeof *e);
	if (!e)
		return fail_memory(d->ctx, sizeof *e);
	an_status s = compile_into(d, f, hash, own, key, e);
	if (s != AN_OK) {
		mem_free(d->ctx, e, sizeof *e);
		return s;
	}
	e->next = d->executables;
	d->executables = e;
	*out = e;
	return AN_OK;
}

/* What stays when constants change. */
static an_status shape_of(const an_function *f, uint64_t *out)
{
	str key;
	str_init(&key, f->program->ctx);
	function_key(f, false, &key);
	an_status s = str_status(&key);
	*out = s == AN_OK ? hash_bytes(HASH_INIT, key.data, key.len) : 0;
	str_free(&key);
	return s;
}

an_status an_compile(an_device *d, an_function *f, an_executable **out)
{
	*out = NULL;
	TRY(fn_verify(f));
	TRY(program_load_blobs(f->program));
	str key;
	str_init(&key, d->ctx);
	function_key(f, true, &key);
	an_status s = str_status(&key);
	if (s == AN_OK) {
		uint64_t hash = hash_bytes(HASH_INIT, key.data, key.len);
		for (an_executable *e = d->executables; e && !*out; e = e->next)
			if (e->hash == hash && e->key_used == key.len && !memcmp(e->key, key.data, key.len))
				*out = e;
		if (*out)
			(*out)->owners++;
		else
			s = compile_new(d, f, hash, false, &key, out);
	}
	str_free(&key);
	return s;
}

static an_status cannot_reload(const an_device *d)
{
	return fail(d->ctx, AN_UNSUPPORTED, "device \"%s\" cannot replace the constants of a program",
		    d->info.name);
}

an_status an_compile_own(an_device *d, an_function *f, an_executable **out)
{
	uint64_t shape;
	str none; /* equal to no function's */
	*out = NULL;
	if (!d->ops->reload)
		return cannot_reload(d);
	TRY(fn_verify(f));
	TRY(program_load_blobs(f->program));
	TRY(shape_of(f, &shape));
	str_init(&none, d->ctx);
	TRY(compile_new(d, f, 0, true, &none, out));
	(*out)->shape = shape;
	return AN_OK;
}

an_status dev_recompile(an_executable *e, an_function *f)
{
	an_device *d = e->device;
	an_executable fresh;
	str none;
	str_init(&none, d->ctx);
	TRY(compile_into(d, f, 0, true, &none, &fresh));
	d->ops->free_executable(e);
	arena_free(&e->arena);
	fresh.owners = e->owners;
	fresh.shape = e->shape;
	fresh.next = e->next;
	*e = fresh;
	return AN_OK;
}

an_status an_reload(an_executable *e, an_function *f)
{
	an_ctx *ctx = e->device->ctx;
	uint64_t shape;
	if (!e->device->ops->reload)
		return cannot_reload(e->device);
	if (!e->own)
		return fail(ctx, AN_USAGE,
			    "function \"%s\" may be somebody else's, too: an_compile_own gives one whose "
			    "constants can be replaced",
			    e->name);
	TRY(fn_verify(f));
	TRY(program_load_blobs(f->program));
	TRY(shape_of(f, &shape));
	if (shape != e->shape)
		return fail(
		    ctx, AN_USAGE,
		    "function \"%s\" differs from what was compiled in more than the values of its blobs",
		    f->name);
	return e->device->ops->reload(e, f);
}

void an_executable_free(an_executable *e)
{
	if (e)
		executable_drop(e);
}

static const char *port(const an_executable *e, int first, int count, int i, an_type *type)
{
	if (i < 0 || i >= count)
		return NULL;
	if (type)
		*type = e->ports[first + i].type;
	return e->ports[first + i].name;
}

const char *an_executable_input(const an_executable *e, int i, an_type *type)
{
	return port(e, 0, e->ninputs, i, type);
}

const char *an_executable_output(const an_executable *e, int i, an_type *type)
{
	return port(e, e->ninputs, e->noutputs, i, type);
}

an_status an_executable_text(const an_executable *e, char **text, size_t *len)
{
	an_ctx *ctx = e->device->ctx;
	str out;
	str_init(&out, ctx);
	*text = NULL;
	*len = 0;
	an_status s = e->device->ops->text(e, &out);
	if (s == AN_OK && !(*text = mem_alloc(ctx, out.len + 1)))
		s = fail_memory(ctx, out.len + 1);
	if (s == AN_OK) {
		memcpy(*text, out.data, out.len + 1);
		*len = out.len;
	}
	str_free(&out);
	return s;
}

/* ---- Counting -------------------------------------------------------------------- */

an_status an_device_count(an_device *d, bool on)
{
	if (on && !d->counts)
		return fail(d->ctx, AN_DEVICE, "device \"%s\" cannot count what its arithmetic loses",
			    d->info.name);
	d->counting = on;
	return AN_OK;
}

void dev_add_counts(an_counts *to, const an_counts *more)
{
	to->products += more->products;
	to->lost += more->lost;
	to->results += more->results;
	to->overflowed += more->overflowed;
	to->vanished += more->vanished;
	to->largest = MAX(to->largest, more->largest);
}

an_status an_executable_counts(const an_executable *e, int op, an_counts *out)
{
	*out = (an_counts){0};
	if (op < -1 || op >= e->nops)
		return fail(e->device->ctx, AN_USAGE,
			    "function \"%s\" has no operation %d; it has 0 to %d, and -1 stands for all",
			    e->name, op, e->nops - 1);
	for (int i = op < 0 ? 0 : op; i < (op < 0 ? e->nops : op + 1); i++)
		dev_add_counts(out, &e->counts[i]);
	return AN_OK;
}

void an_executable_reset_counts(an_executable *e)
{
	memset(e->counts, 0, (size_t)e->nops * sizeof *e->counts);
}

/* ---- Timing ---------------------------------------------------------------------- */

static an_status check_kernels(const an_device *d)
{
	return d->ops->kernel ? AN_OK
			      : fail(d->ctx, AN_DEVICE,
				     "device \"%s\" cannot time what its programs are made of", d->info.name);
}

an_status an_device_time(an_device *d, bool on)
{
	if (on)
		TRY(check_kernels(d));
	d->timing = on;
	return AN_OK;
}

int an_executable_kernels(const an_executable *e)
{
	return e->device->ops->kernels ? e->device->ops->kernels(e) : 0;
}

an_status an_executable_kernel(an_executable *e, int i, an_kernel *out)
{
	*out = (an_kernel){0};
	TRY(check_kernels(e->device));
	int n = an_executable_kernels(e);
	if (i < 0 || i >= n)
		return fail(e->device->ctx, AN_USAGE, "executable \"%s\" has no kernel %d; it has %d",
			    e->name, i, n);
	return e->device->ops->kernel(e, i, out);
}

void an_executable_reset_times(an_executable *e)
{
	if (e->device->ops->reset_times)
		e->device->ops->reset_times(e);
}

/* ---- Buffers --------------------------------------------------------------------- */

static an_status check_buffer_type(an_ctx *ctx, const an_type *t)
{
	char text[120];
	if (t->rank > AN_MAX_RANK)
		return fail(ctx, AN_USAGE, "a buffer's rank is at most %d, not %d", AN_MAX_RANK, t->rank);
	if (!an_dtype_size((an_dtype)t->dtype))
		return fail(ctx, AN_USAGE, "no buffer can hold %s: its elements have no size",
			    an_type_text(t, text, sizeof text));
	size_t bytes = an_dtype_size((an_dtype)t->dtype);
	for (int i = 0; i < t->rank; i++)
		if (t->dim[i] < 1)
			return fail(ctx, AN_USAGE,
				    "a buffer of type %s: dimension %d is %d, but each is at least 1",
				    an_type_text(t, text, sizeof text), i, t->dim[i]);
		else if (__builtin_mul_overflow(bytes, (size_t)t->dim[i], &bytes) || bytes > SIZE_MAX / 4)
			return fail(ctx, AN_MEMORY, "a buffer of type %s does not fit into an address space",
				    an_type_text(t, text, sizeof text));
	return AN_OK;
}

static an_buffer *buffer_link(an_device *d, const an_type *t)
{
	an_buffer *b = mem_zalloc(d->ctx, sizeof *b);
	if (!b)
		return NULL;
	*b = (an_buffer){.device = d, .owners = 1, .type = *t, .bytes = an_type_bytes(t), .next = d->buffers};
	if (d->buffers)
		d->buffers->prev = b;
	d->buffers = b;
	return b;
}

an_status an_buffer_new(an_device *d, const an_type *t, an_buffer **out)
{
	*out = NULL;
	TRY(check_buffer_type(d->ctx, t));
	an_buffer *b = buffer_link(d, t);
	if (!b)
		return fail_memory(d->ctx, sizeof *b);
	an_status s = d->ops->alloc(b);
	if (s != AN_OK) {
		b->parent = b; /* there is no memory to release */
		buffer_destroy(b);
		return s;
	}
	*out = b;
	return AN_OK;
}

an_status an_buffer_view(an_buffer *b, const an_type *t, size_t offset, an_buffer **out)
{
	*out = NULL;
	an_ctx *ctx = b->device->ctx;
	TRY(check_buffer_type(ctx, t));
	size_t size = an_dtype_size((an_dtype)t->dtype);
	char have[120], want[120];
	if (offset % size)
		return fail(ctx, AN_USAGE, "a view as %s at byte %zu: the offset is not a multiple of %zu",
			    an_type_text(t, want, sizeof want), offset, size);
	if (offset > b->bytes || an_type_bytes(t) > b->bytes - offset)
		return fail(
		    ctx, AN_USAGE,
		    "a view as %s (%zu bytes) at byte %zu does not fit into a buffer of %s (%zu bytes)",
		    an_type_text(t, want, sizeof want), an_type_bytes(t), offset,
		    an_type_text(&b->type, have, sizeof have), b->bytes);
	an_buffer *v = buffer_link(b->device, t);
	if (!v)
		return fail_memory(ctx, sizeof *v);
	v->parent = b;
	v->offset = b->offset + offset; /* from the start of the memory */
	v->impl = b->impl;
	b->owners++;
	*out = v;
	return AN_OK;
}

void an_buffer_free(an_buffer *b)
{
	if (b)
		buffer_drop(b);
}

const an_type *an_buffer_type(const an_buffer *b) { return &b->type; }

void *an_buffer_map(an_buffer *b) { return b->device->ops->map(b); }

void an_buffer_unmap(an_buffer *b)
{
	if (b->device->ops->unmap)
		b->device->ops->unmap(b);
}

void an_buffer_keep_packed(an_buffer *b)
{
	if (b->device->ops->keep_packed)
		b->device->ops->keep_packed(b);
}

size_t dev_packed_bytes(const an_executable *e, const char *port)
{
	for (int i = 0; e->device->ops->packed_bytes && i < e->ninputs; i++)
		if (strcmp(e->ports[i].name, port) == 0)
			return e->device->ops->packed_bytes(e, i);
	return 0;
}

k_precision dev_precision(const ane_numerics *n)
{
	return CHOSEN(n, PRODUCT, FAST)    ? K_FAST
	       : CHOSEN(n, PRODUCT, NEAR)  ? K_NEAR
	       : CHOSEN(n, PRODUCT, FIXED) ? K_FIXED
					   : K_EXACT;
}

void dev_store_made(an_buffer *b, void *mapped, int64_t begin, int64_t n, an_make_fn *make, void *arg)
{
	an_dtype d = (an_dtype)b->type.dtype;
	k_type type = d == AN_FP16 ? K_F16 : d == AN_BF16 ? K_BF16 : K_F32;
	k_store_made(ctx_pool(b->device->ctx), b->device->ctx->isa,
		     (char *)mapped + (size_t)begin * an_dtype_size(d), type, n, make, arg);
}

an_status an_buffer_update(an_buffer *b, int64_t begin, int64_t n, an_make_fn *make, void *arg)
{
	int64_t count = an_type_count(&b->type);
	char text[120];
	if (begin < 0 || n < 0 || begin > count || n > count - begin)
		return fail(b->device->ctx, AN_USAGE, "elements %lld to %lld are not in a buffer of %s",
			    (long long)begin, (long long)begin + n,
			    an_type_text(&b->type, text, sizeof text));
	if (b->type.dtype != AN_FP16 && b->type.dtype != AN_FP32 && b->type.dtype != AN_BF16)
		return fail(b->device->ctx, AN_USAGE,
			    "a buffer of %s takes no fp32 values, only fp16, bf16 and fp32 do",
			    an_type_text(&b->type, text, sizeof text));
	return b->device->ops->update(b, begin, n, make, arg);
}

static const float *given(void *arg, int64_t i, int64_t m)
{
	(void)m;
	return (const float *)arg + i;
}

an_status an_buffer_update_from_f32(an_buffer *b, int64_t begin, int64_t n, const float *src)
{
	return an_buffer_update(b, begin, n, given, (void *)(uintptr_t)src);
}

/* ---- Calls ----------------------------------------------------------------------- */

an_status an_call_new(an_executable *e, an_call **out)
{
	an_device *d = e->device;
	*out = NULL;
	an_call *c = mem_zalloc(d->ctx, sizeof *c);
	size_t n = (size_t)(e->ninputs + e->noutputs);
	an_buffer **bound = mem_zalloc(d->ctx, n * sizeof *bound);
	if (!c || !bound) {
		mem_free(d->ctx, c, sizeof *c);
		mem_free(d->ctx, bound, n * sizeof *bound);
		return fail_memory(d->ctx, 0);
	}
	*c = (an_call){.exe = e, .bound = bound, .next = d->calls};
	if (d->calls)
		d->calls->prev = c;
	d->calls = c;
	e->owners++;
	*out = c;
	return AN_OK;
}

void an_call_free(an_call *c)
{
	if (!c)
		return;
	an_executable *e = c->exe;
	an_device *d = e->device;
	int n = e->ninputs + e->noutputs;
	if (c->impl && d->ops->free_call)
		d->ops->free_call(c);
	for (int i = 0; i < n; i++)
		buffer_drop(c->bound[i]);
	if (c->prev)
		c->prev->next = c->next;
	else
		d->calls = c->next;
	if (c->next)
		c->next->prev = c->prev;
	mem_free(d->ctx, c->bound, (size_t)n * sizeof *c->bound);
	mem_free(d->ctx, c, sizeof *c);
	executable_drop(e);
}

static an_status no_such_port(const an_executable *e, const char *name)
{
	an_ctx *ctx = e->device->ctx;
	str list;
	str_init(&list, ctx);
	str_add(&list, "inputs");
	for (int i = 0; i < e->ninputs + e->noutputs; i++)
		str_addf(&list, "%s %s", i == e->ninputs ? "; outputs" : i ? "," : "", e->ports[i].name);
	an_status s = str_status(&list);
	if (s == AN_OK)
		s = fail(ctx, AN_USAGE, "function \"%s\" has no input or output \"%s\"; it has %s", e->name,
			 name, list.data);
	str_free(&list);
	return s;
}

an_status an_call_bind(an_call *c, const char *name, an_buffer *b)
{
	const an_executable *e = c->exe;
	an_ctx *ctx = e->device->ctx;
	int i = 0, n = e->ninputs + e->noutputs;
	while (i < n && strcmp(e->ports[i].name, name))
		i++;
	if (i == n)
		return no_such_port(e, name);
	if (b->device != e->device)
		return fail(ctx, AN_USAGE, "\"%s\": the buffer belongs to another device", name);
	if (!an_type_equal(&b->type, &e->ports[i].type)) {
		char have[120], want[120];
		return fail(ctx, AN_USAGE, "\"%s\" of function \"%s\" is %s, the buffer is %s", name, e->name,
			    an_type_text(&e->ports[i].type, want, sizeof want),
			    an_type_text(&b->type, have, sizeof have));
	}
	b->owners++;
	buffer_drop(c->bound[i]);
	c->bound[i] = b;
	return AN_OK;
}

bool dev_overlap(const an_buffer *a, const an_buffer *b)
{
	return a->impl == b->impl && a->offset < b->offset + b->bytes && b->offset < a->offset + a->bytes;
}

an_status an_call_submit(an_call *c)
{
	const an_executable *e = c->exe;
	an_ctx *ctx = e->device->ctx;
	int n = e->ninputs + e->noutputs;
	for (int i = 0; i < n; i++)
		if (!c->bound[i])
			return fail(ctx, AN_USAGE, "%s \"%s\" of function \"%s\" is not bound",
				    i < e->ninputs ? "input" : "output", e->ports[i].name, e->name);
	for (int i = e->ninputs; i < n; i++)
		for (int j = e->ninputs; j < i; j++)
			if (dev_overlap(c->bound[i], c->bound[j]))
				return fail(ctx, AN_USAGE,
					    "outputs \"%s\" and \"%s\" of function \"%s\" are bound to the "
					    "same memory",
					    e->ports[j].name, e->ports[i].name, e->name);
	return e->device->ops->submit(c);
}

an_status an_call_wait(an_call *c) { return c->exe->device->ops->wait(c); }

an_status an_call_run(an_call *c)
{
	TRY(an_call_submit(c));
	return an_call_wait(c);
}
