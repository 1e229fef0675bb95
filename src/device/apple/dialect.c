/* A function as the engine's compiler wants it: one function "main" whose ports stand in the order in which
 * they are bound, every parameter written out, and the build info of a compiler that it knows. */
#include "device/apple/apple.h"

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
	if (!by_size || !m->port || !m->bytes)
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

static an_status check_ports(const apple_model *m)
{
	const ane_quirks *quirks = &m->dev->quirks;
	for (int i = 0; i < m->nin + m->nout; i++) {
		const device_port *p = &m->ports[i];
		int64_t least = quirks->value[QUIRK_MIN_WIDTH],
			width = p->type.rank ? p->type.dim[p->type.rank - 1] : 1;
		int broken = p->type.dtype == AN_BOOL && quirks->value[QUIRK_NO_BOOL_PORTS]
				 ? QUIRK_NO_BOOL_PORTS
			     : width < least ? QUIRK_MIN_WIDTH
					     : -1;
		if (broken < 0)
			continue;
		char type[120];
		str text;
		str_init(&text, m->dev->ctx);
		ane_quirk_text(&text, broken);
		an_status s = str_status(&text);
		if (s == AN_OK)
			s = fail(m->dev->ctx, AN_DEVICE, "function \"%s\": %s \"%s\" is %s, which breaks %s",
				 m->name, i < m->nin ? "input" : "output", p->name,
				 an_type_text(&p->type, type, sizeof type), text.data);
		str_free(&text);
		return s;
	}
	return AN_OK;
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

static an_status rewrite(apple_model *m, arena *a, an_program *to, const an_function *from)
{
	const ane_quirks *quirks = &m->dev->quirks;
	an_function *f;
	an_value *map = arena_array(a, from->nvalues + OP_MAX_PARAMS, sizeof *map);
	if (!map)
		return fail_memory(to->ctx, 0);
	TRY(an_function_new(to, "main", &f));
	f->opset = from->opset;
	for (int i = 0; i < m->nin; i++) {
		an_value v = from->inputs[m->port[i]];
		const char *name = port_name(m, a, i);
		if (!name)
			return fail_memory(to->ctx, 0);
		TRY(fn_append_input(f, name, from->values[v].type, AN_ROLE_DATA, &map[v]));
	}
	for (size_t i = 0; i < from->nops; i++)
		TRY(quirks->value[QUIRK_EXPLICIT] ? copy_explicit(f, from, &from->ops[i], map, a)
						  : fn_copy_op(f, from, &from->ops[i], map));
	for (int i = m->nin; i < m->nin + m->nout; i++) {
		an_value v = map[from->outputs[m->port[i] - m->nin]];
		const char *name = port_name(m, a, i);
		if (!name || !(name = strcmp(f->values[v].name, name) ? fn_fresh_name(f, name) : name))
			return fail_memory(to->ctx, 0);
		if (quirks->value[QUIRK_ORDERED_NAMES])
			TRY(fn_rename(f, v, name));
		TRY(fn_add_output(f, v));
	}
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

static an_status write_all(apple_model *m, arena *a, an_program *p, const an_function *f)
{
	const char *folder = f->program->model_path;
	p->version_major = f->program->version_major;
	p->version_minor = f->program->version_minor;
	/* in place of what the program says of its own origin */
	bool known = m->dev->quirks.value[QUIRK_BUILD_INFO];
	p->info = known ? (mil_pair *)(uintptr_t)build_info : f->program->info;
	p->ninfo = known ? LENGTH(build_info) : f->program->ninfo;
	if (folder && !(p->model_path = arena_strdup(&p->arena, folder)))
		return fail_memory(p->ctx, 0);
	TRY(rewrite(m, a, p, f));
	TRY(list_blobs(m, a, p));
	TRY(program_write_model(p, m->folder));
	return an_program_print(p, &m->text, &m->text_len);
}

an_status dialect_write(apple_model *m, arena *a, an_function *f)
{
	an_program *p;
	TRY(check_ports(m));
	TRY(order_ports(m, a));
	TRY(an_program_new(m->dev->ctx, &p));
	an_status s = write_all(m, a, p, f);
	an_program_free(p);
	return s;
}
