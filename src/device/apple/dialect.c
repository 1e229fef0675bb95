/* A function as the engine's compiler wants it: one function "main" whose ports stand in the order in which
 * they are bound, every parameter written out, and the build info of a compiler that it knows. */
#include "device/apple/apple.h"

#include "mil/blob.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- Ports -------------------------------------------------------------------------------- */

typedef struct order {
	int port;
	size_t bytes;
} order;

static int smallest_first(const void *a, const void *b)
{
	const order *x = a, *y = b;
	return x->bytes != y->bytes ? (x->bytes > y->bytes) - (x->bytes < y->bytes) : x->port - y->port;
}

static int largest_first(const void *a, const void *b)
{
	const order *x = a, *y = b;
	return x->bytes != y->bytes ? (x->bytes < y->bytes) - (x->bytes > y->bytes) : x->port - y->port;
}

/* m->port: the executable's order, or that of sizes. */
static an_status order_ports(apple_model *m, arena *a)
{
	int n = m->nin + m->nout;
	order *by_size = arena_array(a, (size_t)n + 1, sizeof *by_size);
	m->port = arena_array(a, (size_t)n + 1, sizeof *m->port);
	m->bytes = arena_array(a, (size_t)n + 1, sizeof *m->bytes);
	m->port_name = arena_array(a, (size_t)n + 1, sizeof *m->port_name);
	if (!by_size || !m->port || !m->bytes || !m->port_name)
		return fail_memory(m->dev->ctx, 0);
	for (int i = 0; i < n; i++)
		by_size[i] = (order){i, an_type_bytes(&m->ports[i].type)};
	if (m->dev->quirks.value[QUIRK_ORDERED_BYTES]) {
		qsort(by_size, (size_t)m->nin, sizeof *by_size, smallest_first);
		qsort(by_size + m->nin, (size_t)m->nout, sizeof *by_size, largest_first);
	}
	for (int i = 0; i < n; i++)
		m->port[i] = by_size[i].port;
	return AN_OK;
}

/* The engine's name for its port i.  Numbered names stand in the same order by name, however names are
 * compared, as in the signature: binding is right whichever of the two the system goes by. */
static const char *port_name(const apple_model *m, arena *a, int i)
{
	const char *name = m->ports[m->port[i]].name;
	bool in = i < m->nin;
	if (!m->dev->quirks.value[QUIRK_ORDERED_NAMES])
		return name;
	return arena_printf(a, "%c%03d_%s", in ? 'i' : 'o', in ? i : i - m->nin, name);
}

/* ---- What cannot be met --------------------------------------------------------------------- */

an_status dialect_breaks(const apple_device *dev, an_status status, int quirk, const char *fmt, ...)
{
	char what[400];
	str text;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	str_init(&text, dev->ctx);
	ane_quirk_text(&text, quirk);
	an_status s = str_status(&text);
	if (s == AN_OK)
		s = fail(dev->ctx, status, "%s: %s", what, text.data);
	str_free(&text);
	return s;
}

static an_status check_ports(const apple_model *m)
{
	const int64_t *on = m->dev->quirks.value;
	for (int i = 0; i < m->nin + m->nout; i++) {
		const device_port *p = &m->ports[i];
		char type[120];
		int broken = p->type.dtype == AN_BOOL && on[QUIRK_NO_BOOL_PORTS] ? QUIRK_NO_BOOL_PORTS
			     : an_dtype_size((an_dtype)p->type.dtype) > 2 && on[QUIRK_SHORT_PORTS]
				 ? QUIRK_SHORT_PORTS
				 : -1;
		if (broken >= 0)
			return dialect_breaks(m->dev, AN_DEVICE, broken, "function \"%s\": %s \"%s\" is %s",
					      m->name, i < m->nin ? "input" : "output", p->name,
					      an_type_text(&p->type, type, sizeof type));
	}
	return AN_OK;
}

static an_status check_operations(const apple_model *m, const an_function *f)
{
	for (size_t i = 0; i < f->nops; i++) {
		const mil_op *op = &f->ops[i];
		int broken = ane_quirk_of(&m->dev->quirks, f, op);
		if (broken >= 0)
			return dialect_breaks(
			    m->dev, AN_DEVICE, broken, "function \"%s\": operation %s (\"%s\")", m->name,
			    op_table[op->op].name, op->nresults ? f->values[op->results[0]].name : "");
	}
	return AN_OK;
}

/* ---- Widths --------------------------------------------------------------------------------- */

/* A port whose last axis is too short, or of a length that does not do, is a wider one: inputs are sliced
 * from element 0 on, outputs padded with 0. */
int64_t dialect_width(const apple_device *dev, const an_type *t)
{
	int64_t unit = dev->quirks.value[QUIRK_WIDTH_MULTIPLE], width = t->rank ? t->dim[t->rank - 1] : 1;
	width = MAX(width, dev->quirks.value[QUIRK_MIN_WIDTH]);
	return unit ? (width + unit - 1) / unit * unit : width;
}

static an_type wide_type(const apple_device *dev, an_type t)
{
	int64_t width = dialect_width(dev, &t);
	if (!t.rank && width > 1)
		t.rank = 1;
	if (t.rank)
		t.dim[t.rank - 1] = (int32_t)width;
	return t;
}

/* Axis 0 taken away, or made. */
static an_value with_axes(an_builder *b, an_opcode op, an_value v)
{
	an_value out = AN_NO_VALUE;
	const an_arg args[] = {{"x", AN_ARG_VALUE, .u.value = v},
			       {"axes", AN_ARG_INTS, 1, {.ints = (int32_t[]){0}}}};
	an_emit(b, op, NULL, args, LENGTH(args), &out, 1);
	return out;
}

static an_value narrow(an_builder *b, an_value v, const an_type *to)
{
	v = an_slice(b, v, MAX(to->rank, 1) - 1, 0, to->rank ? to->dim[to->rank - 1] : 1);
	return to->rank ? v : with_axes(b, OP_SQUEEZE, v);
}

static an_value widen(an_builder *b, an_value v, const an_type *from, const an_type *to)
{
	int32_t border[2 * AN_MAX_RANK] = {0};
	an_value out = AN_NO_VALUE;
	if (!from->rank)
		v = with_axes(b, OP_EXPAND_DIMS, v);
	border[2 * to->rank - 1] = to->dim[to->rank - 1] - (from->rank ? from->dim[to->rank - 1] : 1);
	const an_arg args[] = {{"x", AN_ARG_VALUE, .u.value = v},
			       {"pad", AN_ARG_INTS, 2 * to->rank, {.ints = border}},
			       {"mode", AN_ARG_STRING, .u.s = "constant"},
			       {"constant_val", AN_ARG_FLOAT, .u.f = 0}};
	an_emit(b, OP_PAD, NULL, args, LENGTH(args), &out, 1);
	return out;
}

/* ---- Parameters ----------------------------------------------------------------------------- */

/* A constant tensor<int32, [n]>. */
static an_status add_ints(an_function *f, const char *name, const int32_t *x, int n, an_value *out)
{
	mil_literal lit = {.type = an_tensor(AN_INT32, 1, (int32_t[]){n}), .kind = LIT_BYTES, .bytes = x};
	return fn_append_const(f, name, true, &lit, out);
}

/* A parameter's default as a constant.  Floats are fp32: fp16 would round them, and the operation would
 * compute something else (iOS 17 and later take either). */
static an_status add_default(an_function *f, const char *name, const op_param *p, an_dtype of_x,
			     an_value *out)
{
	uint64_t bits = 0;
	an_dtype dtype = p->kind & PK_STRING                    ? AN_STRING
			 : (p->kind & PK_ANY) == PK_ANY         ? of_x
			 : p->kind & PK_FLOAT && f->opset >= 17 ? AN_FP32
			 : p->kind & PK_FLOAT                   ? of_x
			 : p->kind & PK_INT                     ? AN_INT32
								: AN_BOOL;
	mil_literal lit = {.type = {.dtype = (uint8_t)dtype}, .kind = LIT_BYTES, .bytes = &bits};
	if (dtype == AN_STRING) {
		lit.kind = LIT_STRINGS;
		lit.strings = (const char **)(uintptr_t)&p->fallback;
	} else if (dtype == AN_BOOL) {
		bits = !strcmp(p->fallback, "true");
	} else {
		mil_parse_number(p->fallback, strlen(p->fallback), dtype, &bits);
	}
	return fn_append_const(f, name, true, &lit, out);
}

/* Parameters that may be absent and mean: all axes, steps of 1, no border. */
static an_status add_implied(an_function *f, const an_function *from, const mil_op *op, const char *name,
			     const char *param, an_value *out)
{
	const an_type *x = &from->values[op->arg[0].v[0]].type;
	int32_t v[2 * AN_MAX_RANK];
	int spatial = x->rank - 2;
	*out = AN_NO_VALUE;
	if (op->op == OP_CONV && spatial > 0) {
		int32_t fill = strcmp(param, "pad") != 0;
		int n = fill ? spatial : 2 * spatial;
		for (int i = 0; i < n; i++)
			v[i] = fill;
		if (!strcmp(param, "strides") || !strcmp(param, "pad") || !strcmp(param, "dilations"))
			return add_ints(f, name, v, n, out);
	}
	if (op_table[op->op].cls == OC_REDUCE && !strcmp(param, "axes") && x->rank) {
		for (int i = 0; i < x->rank; i++)
			v[i] = i;
		return add_ints(f, name, v, x->rank, out);
	}
	return AN_OK;
}

/* A copy of the operation in `from` whose parameters are all there; constants that this needs go to f. */
static an_status copy_explicit(an_function *f, const an_function *from, const mil_op *src, an_value *map,
			       arena *a)
{
	mil_op op = *src;
	an_value added[OP_MAX_PARAMS];
	const op_row *row = &op_table[op.op];
	/* the arguments of `op` are values of `from`; those added are values of f, seen through one more
	 * entry of the map each */
	size_t next = from->nvalues;
	for (int p = 0; p < OP_MAX_PARAMS && row->param[p].name; p++) {
		const op_param *param = &row->param[p];
		if (op.arg[p].n || param->kind & PK_ATTR || !op.arg[0].n)
			continue;
		const char *name = arena_printf(a, "%s_%s", row->name, param->name);
		if (!name)
			return fail_memory(f->program->ctx, 0);
		an_value v = AN_NO_VALUE;
		if (param->fallback)
			TRY(add_default(f, name, param, (an_dtype)from->values[op.arg[0].v[0]].type.dtype,
					&v));
		else
			TRY(add_implied(f, from, &op, name, param->name, &v));
		if (v == AN_NO_VALUE)
			continue;
		map[next] = v;
		added[p] = (an_value)next++;
		op.arg[p] = (mil_use){1, false, &added[p]};
	}
	return fn_copy_op(f, from, &op, map);
}

/* ---- All of it ------------------------------------------------------------------------------ */

/* What recorded clients write. */
static const mil_pair build_info[] = {{"coremlc-component-MIL", "3510.2.1"},
				      {"coremlc-version", "3505.4.1"},
				      {"coremltools-component-milinternal", ""},
				      {"coremltools-version", "9.0"}};

static an_status add_inputs(const apple_model *m, arena *a, an_function *f, const an_function *from,
			    an_value *map)
{
	an_builder b = an_builder_on(f);
	an_value *wide = arena_array(a, (size_t)m->nin + 1, sizeof *wide);
	if (!wide)
		return fail_memory(m->dev->ctx, 0);
	for (int i = 0; i < m->nin; i++) {
		const an_type *t = &from->values[from->inputs[m->port[i]]].type;
		const char *name = port_name(m, a, i);
		if (!name)
			return fail_memory(m->dev->ctx, 0);
		TRY(fn_append_input(f, name, wide_type(m->dev, *t), AN_ROLE_DATA, &wide[i]));
	}
	for (int i = 0; i < m->nin; i++) {
		an_value v = from->inputs[m->port[i]];
		bool same = an_type_equal(&from->values[v].type, &f->values[wide[i]].type);
		map[v] = same ? wide[i] : narrow(&b, wide[i], &from->values[v].type);
	}
	return b.status;
}

static an_status add_outputs(const apple_model *m, arena *a, an_function *f, const an_function *from,
			     const an_value *map)
{
	an_builder b = an_builder_on(f);
	for (int i = m->nin; i < m->nin + m->nout; i++) {
		an_value v = map[from->outputs[m->port[i] - m->nin]];
		const char *name = port_name(m, a, i);
		an_type t = f->values[v].type, wide = wide_type(m->dev, t);
		if (!name)
			return fail_memory(m->dev->ctx, 0);
		if (!an_type_equal(&t, &wide)) {
			if (!strcmp(f->values[v].name, name)) { /* the wide one is called so */
				const char *inner = fn_fresh_name(f, "narrow");
				TRY(inner ? fn_rename(f, v, inner) : fail_memory(m->dev->ctx, 0));
			}
			v = widen(&b, v, &t, &wide);
			TRY(b.status);
		}
		if (strcmp(f->values[v].name, name) && !(name = fn_fresh_name(f, name)))
			return fail_memory(m->dev->ctx, 0);
		if (strcmp(f->values[v].name, name))
			TRY(fn_rename(f, v, name));
		TRY(fn_add_output(f, v));
	}
	return AN_OK;
}

/* A constant that nothing uses makes the text, and with it the folder's name, unlike every other. */
static an_status add_mark(const apple_model *m, an_function *f)
{
	const char *name = fn_fresh_name(f, m->mark), *text[] = {m->mark};
	mil_literal lit = {.type = {.dtype = AN_STRING}, .kind = LIT_STRINGS, .strings = text};
	an_value unused;
	return name ? fn_append_const(f, name, false, &lit, &unused) : fail_memory(m->dev->ctx, 0);
}

/* One file per constant, with one record: what recorded clients have, and the only thing that works
 * everywhere (a file for all fails on M1: maderix/ANE).  Numbered, so that the same program with other
 * constants has the same. */
static an_status name_blobs(an_function *f)
{
	int n = 0;
	for (size_t i = 0; i < f->nops; i++)
		for (uint32_t k = 0; k < f->ops[i].nattrs; k++) {
			mil_literal *l = &f->ops[i].attrs[k].lit;
			if (l->kind != LIT_BLOB || !l->bytes)
				continue;
			l->offset = BLOB_FIRST_OFFSET;
			l->path = arena_printf(&f->program->arena, "@model_path/weights/w%d.bin", n++);
			if (!l->path)
				return fail_memory(f->program->ctx, 0);
		}
	return AN_OK;
}

static an_status rewrite(const apple_model *m, arena *a, an_program *to, const an_function *from)
{
	an_function *f;
	an_value *map = arena_array(a, from->nvalues + OP_MAX_PARAMS, sizeof *map);
	if (!map)
		return fail_memory(to->ctx, 0);
	TRY(an_function_new(to, "main", &f));
	f->opset = from->opset;
	TRY(add_inputs(m, a, f, from, map));
	if (m->mark)
		TRY(add_mark(m, f));
	for (size_t i = 0; i < from->nops; i++)
		TRY(m->dev->quirks.value[QUIRK_EXPLICIT] ? copy_explicit(f, from, &from->ops[i], map, a)
							 : fn_copy_op(f, from, &from->ops[i], map));
	TRY(add_outputs(m, a, f, from, map));
	TRY(name_blobs(f));
	return fn_verify(f);
}

/* The different files of the program's blobs. */
static an_status list_blobs(apple_model *m, arena *a, const an_program *p)
{
	const an_function *f = p->functions[0];
	size_t most = 0;
	for (size_t i = 0; i < f->nops; i++)
		most += f->ops[i].nattrs;
	if (!(m->blob = arena_array(a, most + 1, sizeof *m->blob)))
		return fail_memory(p->ctx, 0);
	for (size_t i = 0; i < f->nops; i++)
		for (uint32_t k = 0; k < f->ops[i].nattrs; k++) {
			const mil_literal *l = &f->ops[i].attrs[k].lit;
			if (l->kind != LIT_BLOB)
				continue;
			int j = 0;
			while (j < m->nblobs && strcmp(m->blob[j], l->path))
				j++;
			if (j == m->nblobs && !(m->blob[m->nblobs++] = arena_strdup(a, l->path)))
				return fail_memory(p->ctx, 0);
		}
	return AN_OK;
}

static an_status write_program(const apple_model *m, arena *a, an_program *p, const an_function *f,
			       const char *folder)
{
	const char *model = f->program->model_path;
	p->version_major = f->program->version_major;
	p->version_minor = f->program->version_minor;
	/* in place of what the program says of its own origin */
	bool known = m->dev->quirks.value[QUIRK_BUILD_INFO];
	p->info = known ? (mil_pair *)(uintptr_t)build_info : f->program->info;
	p->ninfo = known ? LENGTH(build_info) : f->program->ninfo;
	if (model && !(p->model_path = arena_strdup(&p->arena, model)))
		return fail_memory(p->ctx, 0);
	TRY(rewrite(m, a, p, f));
	return program_write_model(p, folder);
}

static an_status list_ports(apple_model *m, arena *a, const an_program *p)
{
	const an_function *f = p->functions[0];
	for (int i = 0; i < m->nin + m->nout; i++) {
		an_value v = i < m->nin ? f->inputs[i] : f->outputs[i - m->nin];
		if (!(m->port_name[i] = arena_strdup(a, f->values[v].name)))
			return fail_memory(p->ctx, 0);
	}
	return AN_OK;
}

static an_status write_all(apple_model *m, arena *a, an_program *p, const an_function *f)
{
	TRY(write_program(m, a, p, f, m->folder));
	TRY(list_blobs(m, a, p));
	TRY(list_ports(m, a, p));
	return an_program_print(p, &m->text, &m->text_len);
}

an_status dialect_write(apple_model *m, arena *a, an_function *f)
{
	an_program *p;
	TRY(check_ports(m));
	TRY(check_operations(m, f));
	TRY(order_ports(m, a));
	if (m->own && !(m->mark = arena_printf(a, "own %s", folder_name_of(m->folder))))
		return fail_memory(m->dev->ctx, 0);
	TRY(an_program_new(m->dev->ctx, &p));
	an_status s = write_all(m, a, p, f);
	an_program_free(p);
	return s;
}

an_status dialect_write_again(const apple_model *m, an_function *f, const char *folder)
{
	an_program *p;
	arena a;
	TRY(an_program_new(m->dev->ctx, &p));
	arena_init(&a, m->dev->ctx);
	an_status s = write_program(m, &a, p, f, folder);
	arena_free(&a);
	an_program_free(p);
	return s;
}
