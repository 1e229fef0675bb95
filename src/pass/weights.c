/* How weights reach a device: packed into one input with the activations, or as constants. */
#include "pass/pass.h"

#include "mil/blob.h"

/* ---- Packing ----------------------------------------------------------------- */

/* As a block of `height` rows. */
static an_slot block_of(const an_function *f, int input, int64_t height)
{
	const mil_value *v = &f->values[f->inputs[input]];
	const an_type *t = &v->type;
	an_slot s = {.name = v->name, .type = *t, .role = (an_role)f->roles[input], .rows = height};
	s.transposed = t->rank == 2 && t->dim[1] == height && t->dim[0] != height;
	s.columns = (an_type_count(t) + height - 1) / height;
	return s;
}

/* Slots one after the other along the last axis: columns of the packed matrix [height, width]. */
static int64_t place_columns(const an_function *f, int64_t height, an_slot *slots)
{
	int64_t width = 0;
	for (size_t i = 0; i < f->ninputs; i++) {
		slots[i] = block_of(f, (int)i, height);
		slots[i].offset = width;
		width += slots[i].columns;
	}
	for (size_t i = 0; i < f->ninputs; i++)
		slots[i].stride = width;
	return width;
}

/* Along the channels: whole rows of `width` elements. */
static int64_t place_rows(const an_function *f, int64_t width, an_slot *slots)
{
	int64_t height = 0;
	for (size_t i = 0; i < f->ninputs; i++) {
		slots[i] = block_of(f, (int)i, 1);
		slots[i].transposed = false;
		slots[i].offset = height * width;
		height += (slots[i].columns + width - 1) / width;
	}
	return height;
}

/* The value of a slot, sliced out of the packed input. */
static an_value unpack(an_builder *b, an_value packed, int axis, const an_slot *s)
{
	const an_type *p = an_value_type(b->f, packed);
	int64_t width = p->dim[3], count = an_type_count(&s->type);
	int32_t first = (int32_t)(axis == 3 ? s->offset : s->offset / width);
	int32_t n = (int32_t)(axis == 3 ? s->columns : (s->columns + width - 1) / width);
	an_value v = an_slice(b, packed, axis, first, n);
	int64_t have = axis == 3 ? s->rows * s->columns : n * width;
	if (have != count) { /* without the padding */
		v = an_reshape(b, v, 1, (int32_t[]){(int32_t)have});
		v = an_slice(b, v, 0, 0, (int)count);
	}
	if (s->transposed) {
		v = an_reshape(b, v, 2, (int32_t[]){s->type.dim[1], s->type.dim[0]});
		v = an_transpose(b, v, 2, (int32_t[]){1, 0});
	} else {
		v = an_reshape(b, v, s->type.rank, s->type.dim);
	}
	return an_name(b, v, s->name);
}

static an_status check_inputs(const an_function *f, const an_type **first)
{
	an_ctx *ctx = f->program->ctx;
	char text[96];
	*first = NULL;
	for (size_t i = 0; i < f->ninputs; i++) {
		const mil_value *v = &f->values[f->inputs[i]];
		if (v->type.dtype != f->values[f->inputs[0]].type.dtype ||
		    an_type_count(&v->type) > INT32_MAX)
			return fail(ctx, AN_UNSUPPORTED,
				    "function %s: input %s of type %s cannot be packed with %s", f->name,
				    v->name, an_type_text(&v->type, text, sizeof text),
				    f->values[f->inputs[0]].name);
		if (!*first && v->type.rank >= 2 && f->roles[i] == AN_ROLE_DATA)
			*first = &v->type;
	}
	return *first ? AN_OK
		      : fail(ctx, AN_UNSUPPORTED,
			     "function %s: there is no input of data, of rank 2 or more, to pack others with",
			     f->name);
}

static an_status pack(rewrite *r, int axis, int32_t limit, an_slot *slots)
{
	an_function *f = r->from;
	const an_type *first;
	TRY(check_inputs(f, &first));
	int64_t width = first->dim[first->rank - 1], height = an_type_count(first) / width, length;
	if (axis == 3) {
		length = width = place_columns(f, height, slots);
	} else {
		length = height = place_rows(f, width, slots);
		while (limit && length > limit && 2 * width <= limit) {
			width *= 2;
			length = height = place_rows(f, width, slots);
		}
	}
	if (length > (limit ? limit : INT32_MAX))
		return fail(f->program->ctx, AN_UNSUPPORTED,
			    "function %s: packed along axis %d its inputs make %lld elements; the longest "
			    "axis has %d",
			    f->name, axis, (long long)length, limit ? limit : INT32_MAX);
	an_type type = an_tensor((an_dtype)f->values[f->inputs[0]].type.dtype, 4,
				 (int32_t[]){1, (int32_t)height, 1, (int32_t)width});
	an_value packed;
	TRY(fn_append_input(r->to, "packed", type, AN_ROLE_DATA, &packed));
	an_builder b = an_builder_on(r->to);
	for (size_t i = 0; i < f->ninputs; i++)
		r->map[f->inputs[i]] = unpack(&b, packed, axis, &slots[i]);
	TRY(b.status);
	for (size_t i = 0; i < f->nops; i++)
		TRY(fn_copy_op(r->to, f, &f->ops[i], r->map));
	return rewrite_outputs(r);
}

an_status an_pack(an_function *f, int axis, int32_t limit, an_function **out, an_slot **slots, int *nslots)
{
	rewrite r;
	*out = NULL;
	*nslots = (int)f->ninputs;
	*slots = arena_array(&f->program->arena, f->ninputs + 1, sizeof **slots);
	if (axis != 1 && axis != 3)
		return fail(f->program->ctx, AN_USAGE, "inputs are packed along axis 1 or 3, not %d", axis);
	an_status s = rewrite_begin(&r, f, "packed");
	if (s == AN_OK)
		s = *slots ? pack(&r, axis, limit, *slots) : fail_memory(f->program->ctx, 0);
	return rewrite_end(&r, s, out);
}

void an_slot_fill(const an_slot *s, size_t size, void *packed, const void *value)
{
	const char *from = value;
	char *to = (char *)packed + (size_t)s->offset * size;
	int64_t count = an_type_count(&s->type);
	for (int64_t r = 0; r < s->rows; r++, to += (size_t)s->stride * size) {
		int64_t n = MIN(s->columns, count - r * s->columns); /* the last rows may be padding */
		if (!s->transposed && n > 0)
			memcpy(to, from + (size_t)(r * s->columns) * size, (size_t)n * size);
		for (int64_t c = 0; s->transposed && c < s->columns; c++)
			memcpy(to + (size_t)c * size, from + (size_t)(c * s->rows + r) * size, size);
	}
}

/* ---- Constants --------------------------------------------------------------- */

static an_status bake(const an_function *f, an_function *to, const char *const *names,
		      const void *const *data, int n, an_value *map)
{
	an_ctx *ctx = to->program->ctx;
	for (size_t i = 0; i < f->ninputs; i++) {
		const mil_value *v = &f->values[f->inputs[i]];
		bool baked = false;
		for (int k = 0; k < n; k++)
			baked |= strcmp(names[k], v->name) == 0;
		if (!baked)
			TRY(fn_append_input(to, v->name, v->type, (an_role)f->roles[i], &map[f->inputs[i]]));
	}
	for (int k = 0; k < n; k++) {
		an_value v = an_function_find(f, names[k]);
		if (v == AN_NO_VALUE || f->values[v].op >= 0)
			return fail(ctx, AN_USAGE, "function %s has no input %s to be made a constant",
				    f->name, names[k]);
		mil_literal lit = {.type = f->values[v].type,
				   .kind = LIT_BLOB,
				   .bytes = data[k],
				   .offset = BLOB_FIRST_OFFSET};
		lit.path = arena_printf(&to->program->arena, "@model_path/weights/%s.bin", names[k]);
		if (!lit.path)
			return fail_memory(ctx, 0);
		TRY(fn_append_const(to, names[k], false, &lit, &map[v]));
	}
	for (size_t i = 0; i < f->nops; i++)
		TRY(fn_copy_op(to, f, &f->ops[i], map));
	for (size_t i = 0; i < f->noutputs; i++)
		TRY(pass_output(to, map[f->outputs[i]], f->values[f->outputs[i]].name));
	return fn_verify(to);
}

an_status an_bake(an_function *f, an_program *to, const char *const *names, const void *const *data, int n,
		  an_function **out)
{
	an_function *g;
	arena a;
	*out = NULL;
	TRY(an_function_new(to, f->name, &g));
	g->opset = f->opset;
	arena_init(&a, to->ctx);
	an_value *map = arena_array(&a, f->nvalues + 1, sizeof *map);
	an_status s = map ? bake(f, g, names, data, n, map) : fail_memory(to->ctx, f->nvalues);
	arena_free(&a);
	if (s != AN_OK)
		fn_discard(g);
	*out = s == AN_OK ? g : NULL;
	return s;
}
