/* Programs and functions in memory: values, names, operations. */
#include "mil/ir.h"
#include "mil/blob.h"

#include <stdio.h>

/* ---- Programs -------------------------------------------------------------------- */

/* What coremltools 9 writes and Apple's in-memory compiler is known to accept. */
static const mil_pair build_info[] = {{"coremlc-component-MIL", "3510.2.1"},
				      {"coremlc-version", "3505.4.1"},
				      {"coremltools-component-milinternal", ""},
				      {"coremltools-version", "9.0"}};

an_status an_program_new(an_ctx *ctx, an_program **out)
{
	*out = NULL;
	an_program *p = mem_zalloc(ctx, sizeof *p);
	if (!p)
		return fail_memory(ctx, sizeof *p);
	p->ctx = ctx;
	arena_init(&p->arena, ctx);
	p->version_major = 1;
	p->version_minor = 3;
	p->ninfo = LENGTH(build_info);
	p->info = arena_copy(&p->arena, build_info, sizeof build_info);
	if (!p->info) {
		an_program_free(p);
		return fail_memory(ctx, sizeof build_info);
	}
	*out = p;
	return AN_OK;
}

void fn_discard(an_function *f)
{
	if (!f)
		return;
	an_program *p = f->program;
	for (size_t i = 0; i < p->nfunctions; i++)
		if (p->functions[i] == f) {
			p->nfunctions--;
			memmove(p->functions + i, p->functions + i + 1,
				(p->nfunctions - i) * sizeof(*p->functions));
		}
	mem_free(p->ctx, f->values, f->values_cap * sizeof *f->values);
	mem_free(p->ctx, f->ops, f->ops_cap * sizeof *f->ops);
	mem_free(p->ctx, f->inputs, f->inputs_cap * sizeof *f->inputs);
	mem_free(p->ctx, f->outputs, f->outputs_cap * sizeof *f->outputs);
	mem_free(p->ctx, f->roles, f->roles_cap * sizeof *f->roles);
	mem_free(p->ctx, f->names.slot, f->names.cap * sizeof *f->names.slot);
	mem_free(p->ctx, f->consts.slot, f->consts.cap * sizeof *f->consts.slot);
}

void an_program_free(an_program *p)
{
	if (!p)
		return;
	an_ctx *ctx = p->ctx;
	while (p->nfunctions)
		fn_discard(p->functions[p->nfunctions - 1]);
	mem_free(ctx, p->functions, p->functions_cap * sizeof(*p->functions));
	blob_set_free(p);
	arena_free(&p->arena);
	mem_free(ctx, p, sizeof *p);
}

an_ctx *an_program_ctx(const an_program *p) { return p->ctx; }

int an_program_functions(const an_program *p) { return (int)p->nfunctions; }

an_function *an_program_function(const an_program *p, const char *name)
{
	for (size_t i = 0; i < p->nfunctions; i++)
		if (!name || strcmp(p->functions[i]->name, name) == 0)
			return p->functions[i];
	return NULL;
}

an_function *an_program_function_at(const an_program *p, int index)
{
	return index < 0 || (size_t)index >= p->nfunctions ? NULL : p->functions[index];
}

/* Whether c may stand in a name, at its beginning or later. */
static bool name_char(char c, bool first)
{
	return ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_' ||
	       (!first && ((c >= '0' && c <= '9') || c == '@'));
}

bool mil_is_identifier(const char *s)
{
	for (const char *c = s; *c; c++)
		if (!name_char(*c, c == s))
			return false;
	return *s != 0;
}

static an_status bad_name(an_ctx *ctx, const char *name)
{
	return fail(ctx, AN_USAGE,
		    "\"%s\" cannot be a name: MIL's names are letters, digits, _ and @, a letter or _ first",
		    name);
}

an_status an_function_new(an_program *p, const char *name, an_function **out)
{
	*out = NULL;
	if (!mil_is_identifier(name))
		return bad_name(p->ctx, name);
	if (an_program_function(p, name))
		return fail(p->ctx, AN_USAGE, "function \"%s\" is already there", name);
	an_function *f = arena_alloc(&p->arena, sizeof *f);
	char *copy = arena_strdup(&p->arena, name);
	if (!f || !copy ||
	    !mem_grow(p->ctx, &p->functions, &p->functions_cap, p->nfunctions, sizeof(*p->functions)))
		return fail_memory(p->ctx, sizeof *f);
	f->program = p;
	f->name = copy;
	f->opset = 18;
	p->functions[p->nfunctions++] = f;
	*out = f;
	return AN_OK;
}

const char *an_function_name(const an_function *f) { return f->name; }
int an_function_inputs(const an_function *f) { return (int)f->ninputs; }
int an_function_outputs(const an_function *f) { return (int)f->noutputs; }
int an_function_ops(const an_function *f) { return (int)f->nops; }

an_opcode an_function_op(const an_function *f, int index, an_value *result)
{
	const mil_op *op = index < 0 || (size_t)index >= f->nops ? NULL : &f->ops[index];
	if (result)
		*result = op && op->nresults ? op->results[0] : AN_NO_VALUE;
	return op ? op->op : -1;
}

an_value an_function_input(const an_function *f, int i)
{
	return i < 0 || (size_t)i >= f->ninputs ? AN_NO_VALUE : f->inputs[i];
}
an_value an_function_output(const an_function *f, int i)
{
	return i < 0 || (size_t)i >= f->noutputs ? AN_NO_VALUE : f->outputs[i];
}
const char *an_value_name(const an_function *f, an_value v)
{
	return v < f->nvalues ? f->values[v].name : NULL;
}
const an_type *an_value_type(const an_function *f, an_value v)
{
	return v < f->nvalues ? &f->values[v].type : NULL;
}

void an_function_set_role(an_function *f, an_value input, an_role role)
{
	if (input < f->nvalues && f->values[input].op < 0)
		f->roles[f->values[input].result] = (uint8_t)role;
}

an_role an_function_role(const an_function *f, an_value input)
{
	return input < f->nvalues && f->values[input].op < 0 ? (an_role)f->roles[f->values[input].result]
							     : AN_ROLE_DATA;
}

/* ---- Hash tables of values --------------------------------------------------------- */

/* Open addressing, linear probing; a slot holds value + 1, GONE marks one that was removed. */
#define GONE UINT32_MAX
typedef struct mil_table table;
typedef uint64_t (*hash_value)(const an_function *f, an_value v);

static uint64_t hash_name(const char *name) { return hash_bytes(HASH_INIT, name, strlen(name)); }
static uint64_t hash_value_name(const an_function *f, an_value v) { return hash_name(f->values[v].name); }

static void table_put(table *t, uint64_t h, an_value v)
{
	size_t i = h & (t->cap - 1);
	while (t->slot[i] && t->slot[i] != GONE)
		i = (i + 1) & (t->cap - 1);
	t->n += t->slot[i] == 0;
	t->slot[i] = v + 1;
}

static bool table_reserve(an_function *f, table *t, size_t more, hash_value hash)
{
	if ((t->n + more) * 2 <= t->cap)
		return true;
	size_t cap = 32;
	while (cap < (t->n + more) * 4)
		cap *= 2;
	table bigger = {mem_zalloc(f->program->ctx, cap * sizeof *bigger.slot), cap, 0};
	if (!bigger.slot)
		return false;
	for (size_t i = 0; i < t->cap; i++)
		if (t->slot[i] && t->slot[i] != GONE)
			table_put(&bigger, hash(f, t->slot[i] - 1), t->slot[i] - 1);
	mem_free(f->program->ctx, t->slot, t->cap * sizeof *t->slot);
	*t = bigger;
	return true;
}

an_value an_function_find(const an_function *f, const char *name)
{
	const table *t = &f->names;
	if (!t->cap)
		return AN_NO_VALUE;
	for (size_t i = hash_name(name) & (t->cap - 1); t->slot[i]; i = (i + 1) & (t->cap - 1))
		if (t->slot[i] != GONE && strcmp(f->values[t->slot[i] - 1].name, name) == 0)
			return t->slot[i] - 1;
	return AN_NO_VALUE;
}

static void table_remove(table *t, uint64_t h, an_value v)
{
	size_t i = h & (t->cap - 1);
	while (t->slot[i] != v + 1)
		i = (i + 1) & (t->cap - 1);
	t->slot[i] = GONE;
}

const char *fn_fresh_name(an_function *f, const char *want)
{
	arena *a = &f->program->arena;
	char *name = arena_strdup(a, *want ? want : "v");
	if (!name)
		return NULL;
	for (char *c = name; *c; c++)
		if (!name_char(*c, c == name))
			*c = '_';
	const char *base = name;
	while (an_function_find(f, name) != AN_NO_VALUE)
		if (!(name = arena_printf(a, "%s_%u", base, f->fresh++)))
			return NULL;
	return name;
}

an_status fn_rename(an_function *f, an_value v, const char *name)
{
	an_ctx *ctx = f->program->ctx;
	if (v >= f->nvalues)
		return fail(ctx, AN_USAGE, "value %u is not one of function %s", v, f->name);
	if (strcmp(f->values[v].name, name) == 0)
		return AN_OK;
	if (!mil_is_identifier(name))
		return bad_name(ctx, name);
	if (an_function_find(f, name) != AN_NO_VALUE)
		return fail(ctx, AN_USAGE, "function %s: the name %s is taken", f->name, name);
	char *copy = arena_strdup(&f->program->arena, name);
	if (!copy || !table_reserve(f, &f->names, 1, hash_value_name))
		return fail_memory(ctx, 0);
	table_remove(&f->names, hash_value_name(f, v), v);
	mil_op *def = f->values[v].op < 0 ? NULL : &f->ops[f->values[v].op];
	if (def && def->nresults == 1 && strcmp(def->name, f->values[v].name) == 0)
		def->name = copy; /* the name attribute followed the result; it still does */
	f->values[v].name = copy;
	table_put(&f->names, hash_name(copy), v);
	return AN_OK;
}

/* ---- Growing ----------------------------------------------------------------------- */

/* Room for n more values and their names. */
static bool reserve_values(an_function *f, size_t n)
{
	return f->nvalues + n < GONE - 1 && n > 0 &&
	       mem_grow(f->program->ctx, &f->values, &f->values_cap, f->nvalues + n - 1, sizeof *f->values) &&
	       table_reserve(f, &f->names, n, hash_value_name);
}

/* The room was reserved; the name is in the arena and free. */
static an_value add_value(an_function *f, const char *name, an_type type, int32_t op, int32_t result)
{
	an_value v = (an_value)f->nvalues++;
	f->values[v] = (mil_value){name, type, op, result};
	table_put(&f->names, hash_name(name), v);
	return v;
}

an_status fn_push(an_function *f, mil_op *op, const an_type *types, const char *const *names)
{
	an_ctx *ctx = f->program->ctx;
	op->results = arena_array(&f->program->arena, op->nresults, sizeof *op->results);
	if (!op->results || !mem_grow(ctx, &f->ops, &f->ops_cap, f->nops, sizeof *f->ops) ||
	    f->nops >= INT32_MAX || !reserve_values(f, op->nresults))
		return fail_memory(ctx, 0);
	for (int i = 0; i < op->nresults; i++)
		op->results[i] = add_value(f, names[i], types[i], (int32_t)f->nops, i);
	f->ops[f->nops++] = *op;
	return AN_OK;
}

an_status fn_append_input(an_function *f, const char *name, an_type type, an_role role, an_value *out)
{
	an_ctx *ctx = f->program->ctx;
	char text[96];
	if (!mil_is_identifier(name))
		return bad_name(ctx, name);
	if (an_function_find(f, name) != AN_NO_VALUE)
		return fail(ctx, AN_USAGE, "function %s: the name %s is taken", f->name, name);
	if (!mil_type_fits(&type) || type.dtype == AN_NO_DTYPE || type.dtype == AN_STRING)
		return fail(ctx, AN_USAGE, "function %s: input %s cannot be of type %s", f->name, name,
			    type.rank > AN_MAX_RANK ? "rank > 5" : an_type_text(&type, text, sizeof text));
	char *copy = arena_strdup(&f->program->arena, name);
	if (!copy || !mem_grow(ctx, &f->inputs, &f->inputs_cap, f->ninputs, sizeof *f->inputs) ||
	    !mem_grow(ctx, &f->roles, &f->roles_cap, f->ninputs, sizeof *f->roles) || !reserve_values(f, 1))
		return fail_memory(ctx, 0);
	*out = add_value(f, copy, type, -1, (int32_t)f->ninputs);
	f->roles[f->ninputs] = (uint8_t)role;
	f->inputs[f->ninputs++] = *out;
	return AN_OK;
}

an_value fn_add_input(an_function *f, const char *name, an_type type, an_role role)
{
	an_value v;
	return fn_append_input(f, name, type, role, &v) == AN_OK ? v : AN_NO_VALUE;
}

an_status fn_add_output(an_function *f, an_value v)
{
	an_ctx *ctx = f->program->ctx;
	if (v >= f->nvalues)
		return fail(ctx, AN_USAGE, "function %s: an output is not a value of it", f->name);
	for (size_t i = 0; i < f->noutputs; i++)
		if (f->outputs[i] == v)
			return fail(ctx, AN_USAGE, "function %s: %s is already an output", f->name,
				    f->values[v].name);
	if (!mem_grow(ctx, &f->outputs, &f->outputs_cap, f->noutputs, sizeof *f->outputs))
		return fail_memory(ctx, 0);
	f->outputs[f->noutputs++] = v;
	return AN_OK;
}

/* ---- Operations -------------------------------------------------------------------- */

/* A literal with everything it points to in the arena.  Within one program the bytes may be
 * shared: they are never written and live as long as it does. */
static bool copy_literal(arena *a, mil_literal *l, bool share)
{
	if (share)
		return true;
	int64_t n = an_type_count(&l->type);
	if (l->bytes && !(l->bytes = arena_copy(a, l->bytes, an_type_bytes(&l->type))))
		return false;
	if (l->path && !(l->path = arena_strdup(a, l->path)))
		return false;
	if (l->strings) {
		const char **s = arena_array(a, (size_t)n, sizeof *s);
		for (int64_t i = 0; s && i < n; i++)
			if (!(s[i] = arena_strdup(a, l->strings[i])))
				return false;
		l->strings = s;
		return s != NULL;
	}
	return true;
}

static an_status append(an_function *f, int op, const char *name, const mil_use *args, const mil_attr *attrs,
			int nattrs, bool share, const char *const *names, int nresults, an_value *results)
{
	an_ctx *ctx = f->program->ctx;
	arena *a = &f->program->arena;
	arena_mark mark = arena_save(a);
	if (op < 0 || op >= OP_COUNT || nresults < 1 || nresults > UINT16_MAX)
		return fail(ctx, AN_USAGE, "operation %d with %d results", op, nresults);
	mil_op o = {.op = (uint16_t)op, .nresults = (uint16_t)nresults, .nattrs = (uint32_t)nattrs};
	an_type *types = arena_array(a, (size_t)nresults, sizeof *types);
	const char **own = arena_array(a, (size_t)nresults, sizeof *own);
	o.attrs = arena_copy(a, attrs, (size_t)nattrs * sizeof *attrs);
	bool room = types && own && o.attrs;
	for (int i = 0; room && i < nattrs; i++)
		room = (o.attrs[i].key = arena_strdup(a, attrs[i].key)) &&
		       copy_literal(a, &o.attrs[i].lit, share);
	for (int p = 0; room && args && p < OP_MAX_PARAMS && op_table[op].param[p].name; p++)
		if (args[p].n) {
			o.arg[p] = args[p];
			room = (o.arg[p].v = arena_copy(a, args[p].v, args[p].n * sizeof *args[p].v)) != NULL;
		}
	if (!room)
		return fail_memory(ctx, 0);
	mil_problem problem;
	an_status s = op_check(f, &o, types, &problem);
	if (s != AN_OK) {
		const char *param = problem.param < 0 ? "" : op_table[op].param[problem.param].name;
		s = fail(ctx, s, "function %s, %s%s%s: %s%s%s", f->name, op_table[op].name, name ? " " : "",
			 name ? name : "", param, *param ? " " : "", problem.text);
		arena_rewind(a, mark);
		return s;
	}
	for (int i = 0; i < nresults; i++) {
		const char *want = names ? names[i] : NULL;
		if (want && !mil_is_identifier(want))
			return bad_name(ctx, want);
		if (want && an_function_find(f, want) != AN_NO_VALUE)
			return fail(ctx, AN_USAGE, "function %s: the name %s is taken", f->name, want);
		own[i] = want ? arena_strdup(a, want) : fn_fresh_name(f, op_table[op].name);
		for (int j = 0; own[i] && j < i; j++) /* several generated names, none of them entered yet */
			if (strcmp(own[i], own[j]) == 0)
				own[i] = arena_printf(a, "%s_%u", op_table[op].name, f->fresh++), j = -1;
		if (!own[i])
			return fail_memory(ctx, 0);
	}
	o.name = name ? arena_strdup(a, name) : own[0];
	if (!o.name)
		return fail_memory(ctx, 0);
	TRY(fn_push(f, &o, types, own));
	if (results)
		memcpy(results, o.results, (size_t)nresults * sizeof *results);
	return AN_OK;
}

an_status fn_append(an_function *f, int op, const char *name, const mil_use *args, const mil_attr *attrs,
		    int nattrs, const char *const *names, int nresults, an_value *results)
{
	return append(f, op, name, args, attrs, nattrs, false, names, nresults, results);
}

/* ---- Constants --------------------------------------------------------------------- */

static const mil_literal *const_literal(const an_function *f, an_value v)
{
	return op_attr(fn_def(f, v), "val");
}

uint64_t lit_hash(const mil_literal *l)
{
	uint64_t h = hash_bytes(HASH_INIT, &l->type.dtype, 1);
	h = hash_bytes(h, l->type.dim, l->type.rank * sizeof *l->type.dim);
	if (l->bytes)
		h = hash_bytes(h, l->bytes, an_type_bytes(&l->type));
	for (int64_t i = 0; l->strings && i < an_type_count(&l->type); i++)
		h = hash_bytes(h, l->strings[i], strlen(l->strings[i]));
	return h;
}
static uint64_t hash_const(const an_function *f, an_value v) { return lit_hash(const_literal(f, v)); }

static bool literal_equal(const mil_literal *a, const mil_literal *b)
{
	if (!an_type_equal(&a->type, &b->type) || a->type.tensor != b->type.tensor ||
	    !a->bytes != !b->bytes || !a->strings != !b->strings)
		return false;
	if (a->bytes)
		return memcmp(a->bytes, b->bytes, an_type_bytes(&a->type)) == 0;
	for (int64_t i = 0; a->strings && i < an_type_count(&a->type); i++)
		if (strcmp(a->strings[i], b->strings[i]))
			return false;
	return a->strings != NULL;
}

an_status fn_append_const(an_function *f, const char *name, bool share, const mil_literal *lit, an_value *out)
{
	bool known = lit->bytes || lit->strings; /* a blob that is not loaded equals nothing */
	uint64_t h = known ? lit_hash(lit) : 0;
	const table *t = &f->consts;
	for (size_t i = h & (t->cap - 1); known && share && t->cap && t->slot[i]; i = (i + 1) & (t->cap - 1))
		if (literal_equal(const_literal(f, t->slot[i] - 1), lit)) {
			*out = t->slot[i] - 1;
			return AN_OK;
		}
	mil_attr val = {"val", *lit};
	if (share && name && !(name = fn_fresh_name(f, name)))
		return fail_memory(f->program->ctx, 0);
	TRY(fn_append(f, OP_CONST, NULL, NULL, &val, 1, name ? &name : NULL, 1, out));
	if (known && table_reserve(f, &f->consts, 1, hash_const)) /* without memory it is just not shared */
		table_put(&f->consts, h, *out);
	return AN_OK;
}

an_value fn_add_const(an_function *f, const char *name, const mil_literal *lit)
{
	an_value v;
	return fn_append_const(f, name, !name, lit, &v) == AN_OK ? v : AN_NO_VALUE;
}

/* ---- Copies ------------------------------------------------------------------------ */

an_status fn_copy_op(an_function *f, const an_function *from, const mil_op *src, an_value *map)
{
	an_ctx *ctx = f->program->ctx;
	mil_op op = *src; /* src may move when f is from */
	arena scratch;
	arena_init(&scratch, ctx);
	mil_use args[OP_MAX_PARAMS] = {0};
	const char **names = arena_array(&scratch, op.nresults, sizeof *names);
	an_value *results = arena_array(&scratch, op.nresults, sizeof *results);
	bool room = names && results;
	an_status s = AN_OK;
	for (int p = 0; room && p < OP_MAX_PARAMS; p++) {
		args[p] = op.arg[p];
		if (!op.arg[p].n)
			continue;
		room = (args[p].v = arena_array(&scratch, op.arg[p].n, sizeof *args[p].v)) != NULL;
		for (uint32_t k = 0; room && k < op.arg[p].n; k++)
			args[p].v[k] = map[op.arg[p].v[k]];
	}
	for (int i = 0; room && i < op.nresults; i++) {
		const char *want = from->values[op.results[i]].name;
		names[i] = an_function_find(f, want) == AN_NO_VALUE ? want : fn_fresh_name(f, want);
		room = names[i] != NULL;
	}
	bool renamed = room && strcmp(op.name, from->values[op.results[0]].name) == 0;
	if (!room)
		s = fail_memory(ctx, 0);
	else
		s = append(f, op.op, renamed ? NULL : op.name, args, op.attrs, (int)op.nattrs,
			   f->program == from->program, names, op.nresults, results);
	if (s == AN_OK && f->program == from->program) { /* diagnostics still point at the source */
		f->ops[f->nops - 1].line = op.line;
		f->ops[f->nops - 1].column = op.column;
	}
	for (int i = 0; s == AN_OK && i < op.nresults; i++)
		map[op.results[i]] = results[i];
	arena_free(&scratch);
	return s;
}

an_status fn_clone(an_program *to, const an_function *from, const char *name, an_function **out)
{
	an_function *f;
	TRY(an_function_new(to, name, &f));
	f->opset = from->opset;
	const char *folder = from->program->model_path;
	if (folder && !to->model_path) /* constants may still have to be loaded from there */
		to->model_path = arena_strdup(&to->arena, folder);
	an_value *map = mem_alloc(to->ctx, from->nvalues * sizeof *map);
	an_status s = map ? AN_OK : fail_memory(to->ctx, from->nvalues * sizeof *map);
	for (size_t i = 0; s == AN_OK && i < from->ninputs; i++) {
		const mil_value *v = fn_value(from, from->inputs[i]);
		s = fn_append_input(f, v->name, v->type, (an_role)from->roles[i], &map[from->inputs[i]]);
	}
	for (size_t i = 0; s == AN_OK && i < from->nops; i++)
		s = fn_copy_op(f, from, &from->ops[i], map);
	for (size_t i = 0; s == AN_OK && i < from->noutputs; i++)
		s = fn_add_output(f, map[from->outputs[i]]);
	mem_free(to->ctx, map, from->nvalues * sizeof *map);
	*out = s == AN_OK ? f : NULL;
	return s;
}

an_status an_function_clone(an_program *to, const an_function *from, const char *name, an_function **out)
{
	return fn_clone(to, from, name, out);
}
