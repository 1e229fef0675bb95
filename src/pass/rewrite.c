/* Making functions out of functions; dead code and common subexpressions. */
#include "pass/pass.h"

/* ---- Functions --------------------------------------------------------------- */

an_status pass_function_new(an_program *p, const char *base, const char *suffix, an_function **out)
{
	char *name = arena_printf(&p->arena, "%s_%s", base, suffix);
	for (int i = 2; name && an_program_function(p, name); i++)
		name = arena_printf(&p->arena, "%s_%s_%d", base, suffix, i);
	if (!name)
		return fail_memory(p->ctx, 0);
	return an_function_new(p, name, out);
}

bool *pass_live(const an_function *f, arena *a)
{
	bool *live = arena_array(a, f->nvalues + 1, sizeof *live);
	if (!live)
		return NULL;
	for (size_t i = 0; i < f->noutputs; i++)
		live[f->outputs[i]] = true;
	for (size_t i = f->nops; i-- > 0;) {
		const mil_op *op = &f->ops[i];
		bool used = false;
		for (int r = 0; r < op->nresults; r++)
			used |= live[op->results[r]];
		for (int p = 0; used && p < OP_MAX_PARAMS; p++)
			for (uint32_t k = 0; k < op->arg[p].n; k++)
				live[op->arg[p].v[k]] = true;
	}
	return live;
}

an_value pass_emit(an_builder *b, int op, const an_arg *args, int nargs)
{
	an_value v = AN_NO_VALUE;
	an_emit(b, op, NULL, args, nargs, &v, 1);
	return v;
}

static bool is_output(const an_function *f, an_value v)
{
	for (size_t i = 0; i < f->noutputs; i++)
		if (f->outputs[i] == v)
			return true;
	return false;
}

an_status pass_output(an_function *f, an_value v, const char *name)
{
	bool named = strcmp(f->values[v].name, name) == 0;
	if (is_output(f, v) || (f->values[v].op < 0 && !named)) {
		mil_use args[OP_MAX_PARAMS] = {{1, false, &v}};
		an_value copy;
		TRY(fn_append(f, OP_IDENTITY, NULL, args, NULL, 0, NULL, 1, &copy));
		v = copy;
	}
	an_value other = an_function_find(f, name);
	if (other != AN_NO_VALUE && other != v) {
		if (f->values[other].op < 0 || is_output(f, other))
			return fail(f->program->ctx, AN_USAGE,
				    "function %s: two values must be called %s; rename one", f->name, name);
		const char *fresh = fn_fresh_name(f, name);
		if (!fresh)
			return fail_memory(f->program->ctx, 0);
		TRY(fn_rename(f, other, fresh));
	}
	TRY(fn_rename(f, v, name));
	return fn_add_output(f, v);
}

/* ---- Rewriting --------------------------------------------------------------- */

an_status rewrite_begin(rewrite *r, an_function *from, const char *suffix)
{
	an_program *p = from->program;
	*r = (rewrite){.from = from};
	arena_init(&r->scratch, p->ctx);
	r->map = arena_array(&r->scratch, from->nvalues + 1, sizeof *r->map);
	if (!r->map)
		return fail_memory(p->ctx, from->nvalues * sizeof *r->map);
	for (size_t i = 0; i < from->nvalues; i++)
		r->map[i] = AN_NO_VALUE;
	TRY(pass_function_new(p, from->name, suffix, &r->to));
	r->to->opset = from->opset;
	return AN_OK;
}

an_status rewrite_inputs(rewrite *r, const bool *keep)
{
	for (size_t i = 0; i < r->from->ninputs; i++) {
		an_value v = r->from->inputs[i];
		if (keep && !keep[v])
			continue;
		TRY(fn_append_input(r->to, r->from->values[v].name, r->from->values[v].type,
				    (an_role)r->from->roles[i], &r->map[v]));
	}
	return AN_OK;
}

an_status rewrite_output(rewrite *r, an_value v, const char *name)
{
	return pass_output(r->to, r->map[v], name);
}

an_status rewrite_outputs(rewrite *r)
{
	for (size_t i = 0; i < r->from->noutputs; i++)
		TRY(rewrite_output(r, r->from->outputs[i], r->from->values[r->from->outputs[i]].name));
	return AN_OK;
}

an_status rewrite_end(rewrite *r, an_status s, an_function **out)
{
	arena_free(&r->scratch);
	if (s == AN_OK)
		s = fn_verify(r->to);
	if (s != AN_OK)
		fn_discard(r->to);
	*out = s == AN_OK ? r->to : NULL;
	return s;
}

/* ---- Dead code --------------------------------------------------------------- */

an_status rewrite_live(rewrite *r, const bool *live, bool all_inputs)
{
	TRY(rewrite_inputs(r, all_inputs ? NULL : live));
	for (size_t i = 0; i < r->from->nops; i++) {
		const mil_op *op = &r->from->ops[i];
		bool used = false;
		for (int k = 0; k < op->nresults; k++)
			used |= live[op->results[k]];
		if (used)
			TRY(fn_copy_op(r->to, r->from, op, r->map));
	}
	return rewrite_outputs(r);
}

static an_status dce(an_function *f, bool all_inputs, an_function **out)
{
	rewrite r;
	an_status s = rewrite_begin(&r, f, "dce");
	bool *live = s == AN_OK ? pass_live(f, &r.scratch) : NULL;
	if (s == AN_OK)
		s = live ? rewrite_live(&r, live, all_inputs) : fail_memory(f->program->ctx, f->nvalues);
	return rewrite_end(&r, s, out);
}

an_status an_dce(an_function *f, an_function **out) { return dce(f, true, out); }

an_status rewrite_sweep(rewrite *r, an_status s, bool all_inputs, an_function **out)
{
	an_function *swept = NULL;
	arena_free(&r->scratch);
	if (s == AN_OK)
		s = dce(r->to, all_inputs, &swept);
	if (s == AN_OK)
		swept->name = r->to->name;
	fn_discard(r->to);
	*out = swept;
	return s;
}

/* ---- Common subexpressions --------------------------------------------------- */

/* Constants that have bytes are equal if those are (a NaN equals itself, 0 does not equal -0); others
 * if they stand at the same place in the same file. */
static bool same_literal(const mil_literal *a, const mil_literal *b)
{
	if (!an_type_equal(&a->type, &b->type) || a->type.tensor != b->type.tensor)
		return false;
	if (a->strings && b->strings) {
		for (int64_t i = 0; i < an_type_count(&a->type); i++)
			if (strcmp(a->strings[i], b->strings[i]) != 0)
				return false;
		return true;
	}
	if (a->bytes && b->bytes)
		return a->bytes == b->bytes || memcmp(a->bytes, b->bytes, an_type_bytes(&a->type)) == 0;
	return a->kind == LIT_BLOB && b->kind == LIT_BLOB && a->offset == b->offset &&
	       strcmp(a->path, b->path) == 0;
}

static uint64_t hash_op(const mil_op *op, const an_value *map)
{
	uint64_t h = hash_bytes(HASH_INIT, &op->op, sizeof op->op);
	for (int p = 0; p < OP_MAX_PARAMS; p++)
		for (uint32_t k = 0; k < op->arg[p].n; k++) {
			uint64_t arg = (uint64_t)p << 32 | map[op->arg[p].v[k]];
			h = hash_bytes(h, &arg, sizeof arg);
		}
	for (uint32_t i = 0; i < op->nattrs; i++) { /* types are enough for a hash */
		const an_type *t = &op->attrs[i].lit.type;
		h = hash_bytes(h, &t->dtype, 1);
		h = hash_bytes(h, t->dim, t->rank * sizeof *t->dim);
		if (op->attrs[i].lit.bytes)
			h = hash_bytes(h, op->attrs[i].lit.bytes, MIN(an_type_bytes(t), (size_t)4096));
	}
	return h;
}

/* Two operations of the same function that compute the same from the same (mapped) values. */
static bool same_op(const mil_op *a, const mil_op *b, const an_value *map)
{
	if (a->op != b->op || a->nresults != b->nresults || a->nattrs != b->nattrs)
		return false;
	for (int p = 0; p < OP_MAX_PARAMS; p++) {
		if (a->arg[p].n != b->arg[p].n)
			return false;
		for (uint32_t k = 0; k < a->arg[p].n; k++)
			if (map[a->arg[p].v[k]] != map[b->arg[p].v[k]])
				return false;
	}
	for (uint32_t i = 0; i < a->nattrs; i++) {
		const mil_literal *other = op_attr(b, a->attrs[i].key);
		if (!other || !same_literal(&a->attrs[i].lit, other))
			return false;
	}
	return true;
}

static an_status cse(rewrite *r)
{
	const an_function *f = r->from;
	size_t cap = 64;
	while (cap < 2 * f->nops)
		cap *= 2;
	uint32_t *slot = arena_array(&r->scratch, cap, sizeof *slot); /* operation of f, plus 1 */
	if (!slot)
		return fail_memory(f->program->ctx, cap * sizeof *slot);
	TRY(rewrite_inputs(r, NULL));
	for (size_t i = 0; i < f->nops; i++) {
		const mil_op *op = &f->ops[i];
		size_t at = hash_op(op, r->map) & (cap - 1);
		while (slot[at] && !same_op(&f->ops[slot[at] - 1], op, r->map))
			at = (at + 1) & (cap - 1);
		if (slot[at]) {
			for (int k = 0; k < op->nresults; k++)
				r->map[op->results[k]] = r->map[f->ops[slot[at] - 1].results[k]];
			continue;
		}
		slot[at] = (uint32_t)i + 1;
		TRY(fn_copy_op(r->to, f, op, r->map));
	}
	return rewrite_outputs(r);
}

an_status an_cse(an_function *f, an_function **out)
{
	rewrite r;
	an_status s = rewrite_begin(&r, f, "cse");
	if (s == AN_OK)
		s = cse(&r);
	return rewrite_end(&r, s, out);
}
