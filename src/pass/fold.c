/* Constant folding, with the arithmetic of the caller. */
#include "pass/pass.h"

/* All arguments are constants whose values are in memory. */
static bool foldable(const an_function *to, const mil_op *op, const an_value *map)
{
	if (op->op == OP_CONST)
		return false;
	for (int p = 0; p < OP_MAX_PARAMS; p++)
		for (uint32_t k = 0; k < op->arg[p].n; k++)
			if (!fn_const(to, map[op->arg[p].v[k]]))
				return false;
	return true;
}

/* The operation has just been copied to r->to as its last one: evaluates it there, and maps its results to
 * constants.  What it leaves behind is dropped as dead code. */
static an_status fold_op(rewrite *r, const mil_op *op, pass_eval eval, void *user)
{
	an_function *to = r->to;
	const mil_op copy = to->ops[to->nops - 1];
	arena_mark mark = arena_save(&r->scratch);
	void **data = arena_array(&r->scratch, op->nresults, sizeof *data);
	for (int i = 0; data && i < op->nresults; i++)
		if (!(data[i] = arena_alloc(&r->scratch, an_type_bytes(&to->values[copy.results[i]].type))))
			data = NULL;
	if (!data)
		return fail_memory(to->program->ctx, 0);
	an_status s = eval(user, to, &copy, data);
	if (s == AN_OK) {
		an_builder b = an_builder_on(to);
		for (int i = 0; i < op->nresults; i++) {
			an_value v = copy.results[i];
			r->map[op->results[i]] =
			    an_const(&b, to->values[v].name, to->values[v].type, data[i]);
		}
		s = b.status;
	}
	arena_rewind(&r->scratch, mark);
	return s == AN_UNSUPPORTED ? AN_OK : s;
}

static an_status fold(rewrite *r, pass_eval eval, void *user)
{
	TRY(program_load_blobs(r->from->program));
	TRY(rewrite_inputs(r, NULL));
	for (size_t i = 0; i < r->from->nops; i++) {
		const mil_op *op = &r->from->ops[i];
		TRY(fn_copy_op(r->to, r->from, op, r->map));
		if (foldable(r->to, op, r->map))
			TRY(fold_op(r, op, eval, user));
	}
	return rewrite_outputs(r);
}

an_status pass_fold(an_function *f, pass_eval eval, void *user, an_function **out)
{
	rewrite r;
	an_status s = rewrite_begin(&r, f, "fold");
	if (s == AN_OK)
		s = fold(&r, eval, user);
	return rewrite_sweep(&r, s, true, out);
}
