/* The software Neural Engine as a device. */
#include "device/soft/soft.h"

static an_status soft_open(an_device *d, const an_device_options *opt)
{
	soft_device *dev = mem_zalloc(d->ctx, sizeof *dev);
	if (!dev)
		return fail_memory(d->ctx, sizeof *dev);
	an_status s = ane_numerics_parse(d->ctx, opt->numerics, &dev->numerics);
	if (s != AN_OK) {
		mem_free(d->ctx, dev, sizeof *dev);
		return s;
	}
	dev->loop_flops = 1 << 20;
	dev->band_bytes = 512 << 10; /* half of a small second-level cache */
	dev->band_unit = 96;         /* whole tiles of products, which are 4 to 32 rows or columns */
	d->numerics = &dev->numerics;
	d->info.numerics = dev->numerics.name;
	d->impl = dev;
	d->counts = true;
	return AN_OK;
}

static void soft_close(an_device *d)
{
	soft_device *dev = d->impl;
	mem_free_tensor(d->ctx, dev->scratch, dev->scratch_size);
	mem_free_tensor(d->ctx, dev->stage, dev->stage_size);
	mem_free(d->ctx, dev, sizeof *dev);
}

/* ---- Compiling -------------------------------------------------------------------------- */

static an_status keep_names(soft_fn *s, soft_exe *e, arena *a)
{
	const an_function *f = s->f;
	e->op_text = arena_array(a, f->nops + 1, sizeof *e->op_text);
	if (!e->op_text)
		return fail_memory(s->ctx, 0);
	for (size_t i = 0; i < f->nops; i++) {
		const mil_op *op = &f->ops[i];
		e->op_text[i] = arena_printf(a, "%s %s", op_table[op->op].name,
					     op->nresults ? f->values[op->results[0]].name : "");
		if (!e->op_text[i])
			return fail_memory(s->ctx, 0);
	}
	return AN_OK;
}

static an_status stages(an_device *d, soft_fn *s, soft_exe *e, arena *a)
{
	soft_device *dev = d->impl;
	TRY(soft_lower(s));
	TRY(soft_find_triangles(s));
	TRY(soft_place_values(s));
	TRY(soft_fuse(s));
	TRY(soft_emit(s, e, a));
	TRY(soft_loop(s, e, a));
	TRY(soft_share(s, e, a));
	TRY(soft_plan(s, e, a));
	TRY(keep_names(s, e, a));
	TRY(soft_reserve(d, &dev->scratch, &dev->scratch_size, e->scratch));
	soft_run(d, e, 0, e->nearly, NULL); /* what depends on constants alone */
	return AN_OK;
}

static void free_exe(an_executable *x)
{
	soft_exe *e = x->impl;
	if (e)
		mem_free_tensor(x->device->ctx, e->constants, e->constants_size);
}

static an_status soft_compile(an_device *d, an_function *f, an_executable *x)
{
	soft_exe *e = arena_alloc(&x->arena, sizeof *e);
	if (!e)
		return fail_memory(d->ctx, sizeof *e);
	x->impl = e;
	arena tmp;
	arena_init(&tmp, d->ctx);
	soft_device *dev = d->impl;
	soft_fn s = {.ctx = d->ctx, .dev = dev, .numerics = &dev->numerics, .f = f, .tmp = &tmp};
	an_status status = stages(d, &s, e, &x->arena);
	mem_free(d->ctx, s.values, s.values_cap * sizeof *s.values);
	mem_free(d->ctx, s.nodes, s.nodes_cap * sizeof *s.nodes);
	mem_free(d->ctx, s.storages, s.storages_cap * sizeof *s.storages);
	arena_free(&tmp);
	if (status != AN_OK)
		free_exe(x);
	return status;
}

/* ---- Buffers ------------------------------------------------------------------------------ */

static an_status soft_alloc(an_buffer *b)
{
	an_ctx *ctx = b->device->ctx;
	soft_memory *m = mem_zalloc(ctx, sizeof *m);
	if (!m)
		return fail_memory(ctx, sizeof *m);
	if (!(m->data = mem_alloc_tensor(ctx, b->bytes))) {
		mem_free(ctx, m, sizeof *m);
		return fail_memory(ctx, b->bytes);
	}
	b->impl = m;
	return AN_OK;
}

static void soft_release(an_buffer *b)
{
	soft_memory *m = b->impl;
	soft_drop_forms(b->device, m);
	mem_free_tensor(b->device->ctx, m->data, b->bytes);
	mem_free(b->device->ctx, m, sizeof *m);
}

void *soft_data(const an_buffer *b) { return (char *)((const soft_memory *)b->impl)->data + b->offset; }

static void *soft_map(an_buffer *b) /* which may be to write */
{
	((soft_memory *)b->impl)->version++;
	return soft_data(b);
}

static void soft_keep_packed(an_buffer *b) { ((soft_memory *)b->impl)->keep = true; }

static an_status soft_update(an_buffer *b, int64_t begin, int64_t n, an_make_fn *make, void *arg)
{
	dev_store_made(b, soft_map(b), begin, n, make, arg);
	return AN_OK;
}

const device_ops soft_device_ops = {
    .name = "soft",
    .open = soft_open,
    .close = soft_close,
    .supports = soft_supports,
    .compile = soft_compile,
    .free_executable = free_exe,
    .reload = dev_recompile,
    .text = soft_dump,
    .alloc = soft_alloc,
    .release = soft_release,
    .map = soft_map,
    .update = soft_update,
    .keep_packed = soft_keep_packed,
    .packed_bytes = soft_packed_bytes,
    .submit = soft_submit,
    .wait = soft_wait,
    .kernels = soft_kernels,
    .kernel = soft_kernel,
    .reset_times = soft_reset_times,
};
