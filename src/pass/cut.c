/* One function cut into several at named values, and several joined to one. */
#include "pass/pass.h"

#include <stdio.h>

/* ---- Cutting ----------------------------------------------------------------- */

typedef struct cut {
	const an_function *f;
	const an_stage *stages;
	int n;
	int *stage;    /* by value: which stage names it, -1: none */
	int *home;     /* by value: the stage that returns it as an output of f, -1: none */
	bool *read;    /* by value: a later stage reads it */
	bool **inside; /* by stage and value: computed there */
	arena scratch;
} cut;

/* Whether stage i gets v from outside. */
static bool given(const cut *c, int i, an_value v)
{
	return c->f->values[v].op < 0 || (c->stage[v] >= 0 && c->stage[v] < i);
}

static bool computes(const bool *inside, const mil_op *op)
{
	bool any = false;
	for (int r = 0; r < op->nresults; r++)
		any |= inside[op->results[r]];
	return any;
}

/* Completes inside[] for stage i: what the marked values are computed from.  One sweep from the last
 * operation to the first, since values are defined before they are used. */
static void close_over(const cut *c, int i, bool *inside)
{
	for (size_t k = c->f->nops; k-- > 0;) {
		const mil_op *op = &c->f->ops[k];
		bool needed = computes(inside, op);
		for (int p = 0; needed && p < OP_MAX_PARAMS; p++)
			for (uint32_t j = 0; j < op->arg[p].n; j++) {
				an_value v = op->arg[p].v[j];
				if (given(c, i, v))
					c->read[v] = true;
				else
					inside[v] = true;
			}
	}
}

/* Operations that stage i would have to compute more for output v; moved elements and constants cost nothing.
 */
static an_status price(cut *c, int i, an_value v, int *out)
{
	size_t n = c->f->nvalues;
	arena a;
	arena_init(&a, c->f->program->ctx);
	bool *with = arena_array(&a, n + 1, sizeof *with), *read = c->read;
	c->read = arena_array(&a, n + 1, sizeof *read);
	*out = 0;
	bool room = with && c->read;
	if (room) {
		memcpy(with, c->inside[i], n * sizeof *with);
		with[v] = true;
		close_over(c, i, with);
	}
	for (size_t k = 0; room && k < c->f->nops; k++) {
		const mil_op *op = &c->f->ops[k];
		int cls = op_table[op->op].cls;
		*out +=
		    computes(with, op) && !computes(c->inside[i], op) && cls != OC_CONST && cls != OC_VIEW;
	}
	c->read = read;
	arena_free(&a);
	return room ? AN_OK : fail_memory(c->f->program->ctx, n);
}

static an_status mark_stages(cut *c)
{
	const an_function *f = c->f;
	for (size_t v = 0; v < f->nvalues; v++)
		c->stage[v] = c->home[v] = -1;
	for (int i = 0; i < c->n; i++)
		for (int k = 0; k < c->stages[i].nvalues; k++) {
			const char *name = c->stages[i].values[k];
			an_value v = an_function_find(f, name);
			if (v == AN_NO_VALUE)
				return fail(f->program->ctx, AN_USAGE,
					    "function %s has no value %s to be cut at", f->name, name);
			if (c->stage[v] < 0 && f->values[v].op >= 0)
				c->stage[v] = i;
		}
	return AN_OK;
}

/* Which stage returns each output: that which names it, else the one with the least to do for it. */
static an_status place_outputs(cut *c)
{
	for (int i = 0; i < c->n; i++) {
		for (size_t v = 0; v < c->f->nvalues; v++)
			c->inside[i][v] = c->stage[v] == i;
		close_over(c, i, c->inside[i]);
	}
	for (size_t k = 0; k < c->f->noutputs; k++) {
		an_value v = c->f->outputs[k];
		int best = -1, least = 0;
		for (int i = 0; i < c->n && c->stage[v] < 0; i++) {
			int p;
			if (c->stages[i].host)
				continue;
			TRY(price(c, i, v, &p));
			if (best < 0 || p < least) {
				best = i;
				least = p;
			}
		}
		c->home[v] = c->stage[v] >= 0 ? c->stage[v] : best >= 0 ? best : c->n - 1;
		if (c->f->values[v].op >= 0)
			c->inside[c->home[v]][v] = true;
		close_over(c, c->home[v], c->inside[c->home[v]]);
	}
	return AN_OK;
}

/* From the last stage to the first: what it returns and computes for that. */
static void drop_unread(cut *c)
{
	memset(c->read, 0, c->f->nvalues * sizeof *c->read);
	for (int i = c->n; i-- > 0;) {
		for (size_t v = 0; v < c->f->nvalues; v++)
			c->inside[i][v] =
			    c->f->values[v].op >= 0 && (c->home[v] == i || (c->stage[v] == i && c->read[v]));
		close_over(c, i, c->inside[i]);
	}
}

static an_status copy_stage(const cut *c, int i, rewrite *r)
{
	const an_function *f = c->f;
	const bool *inside = c->inside[i];
	bool *used = arena_array(&r->scratch, f->nvalues + 1, sizeof *used);
	if (!used)
		return fail_memory(f->program->ctx, f->nvalues);
	for (size_t k = 0; k < f->nops; k++)
		for (int q = 0; q < OP_MAX_PARAMS; q++)
			for (uint32_t j = 0; j < f->ops[k].arg[q].n; j++)
				used[f->ops[k].arg[q].v[j]] |= computes(inside, &f->ops[k]);
	for (size_t k = 0; k < f->noutputs; k++)
		used[f->outputs[k]] |= c->home[f->outputs[k]] == i;
	TRY(rewrite_inputs(r, used));
	for (size_t v = 0; v < f->nvalues; v++)
		if (used[v] && f->values[v].op >= 0 && given(c, i, (an_value)v))
			TRY(fn_append_input(r->to, f->values[v].name, f->values[v].type, AN_ROLE_DATA,
					    &r->map[v]));
	for (size_t k = 0; k < f->nops; k++)
		if (computes(inside, &f->ops[k]))
			TRY(fn_copy_op(r->to, f, &f->ops[k], r->map));
	for (size_t v = 0; v < f->nvalues; v++)
		if (c->stage[v] == i && c->home[v] < 0 && c->read[v])
			TRY(rewrite_output(r, (an_value)v, f->values[v].name));
	for (size_t k = 0; k < f->noutputs; k++)
		if (c->home[f->outputs[k]] == i)
			TRY(rewrite_output(r, f->outputs[k], f->values[f->outputs[k]].name));
	return AN_OK;
}

static an_status cut_up(cut *c, an_function **out)
{
	an_ctx *ctx = c->f->program->ctx;
	size_t n = c->f->nvalues + 1;
	c->stage = arena_array(&c->scratch, n, sizeof *c->stage);
	c->home = arena_array(&c->scratch, n, sizeof *c->home);
	c->read = arena_array(&c->scratch, n, sizeof *c->read);
	c->inside = arena_array(&c->scratch, (size_t)c->n, sizeof *c->inside);
	if (!c->stage || !c->home || !c->read || !c->inside)
		return fail_memory(ctx, n);
	for (int i = 0; i < c->n; i++)
		if (!(c->inside[i] = arena_array(&c->scratch, n, sizeof *c->inside[i])))
			return fail_memory(ctx, n);
	TRY(mark_stages(c));
	TRY(place_outputs(c));
	drop_unread(c);
	for (int i = 0; i < c->n; i++) {
		rewrite r;
		char suffix[16];
		bool any = false;
		for (size_t k = 0; k < c->f->nops && !any; k++)
			any = computes(c->inside[i], &c->f->ops[k]);
		for (size_t k = 0; k < c->f->noutputs; k++)
			any |= c->home[c->f->outputs[k]] == i;
		if (!any)
			continue;
		snprintf(suffix, sizeof suffix, "%d", i);
		an_status s = rewrite_begin(&r, (an_function *)c->f, suffix);
		if (s == AN_OK)
			s = copy_stage(c, i, &r);
		TRY(rewrite_end(&r, s, &out[i]));
	}
	return AN_OK;
}

an_status an_cut(an_function *f, const an_stage *stages, int n, an_function **out)
{
	cut c = {.f = f, .stages = stages, .n = n};
	memset(out, 0, (size_t)n * sizeof *out);
	arena_init(&c.scratch, f->program->ctx);
	an_status s = cut_up(&c, out);
	for (int i = 0; s != AN_OK && i < n; i++) {
		fn_discard(out[i]);
		out[i] = NULL;
	}
	arena_free(&c.scratch);
	return s;
}

/* ---- Joining ----------------------------------------------------------------- */

static an_status check_link(const an_function *before, const an_function *f)
{
	an_ctx *ctx = f->program->ctx;
	char have[96], want[96];
	if (f->ninputs == 0)
		return fail(ctx, AN_USAGE, "function %s has no inputs; it cannot be chained", f->name);
	if (!before)
		return AN_OK;
	if (before->noutputs != 1)
		return fail(ctx, AN_USAGE,
			    "function %s has %zu outputs; what is chained before another has one",
			    before->name, before->noutputs);
	const an_type *gives = &before->values[before->outputs[0]].type,
		      *takes = &f->values[f->inputs[0]].type;
	if (!an_type_equal(gives, takes))
		return fail(ctx, AN_USAGE, "function %s takes %s, %s before it gives %s", f->name,
			    an_type_text(takes, want, sizeof want), before->name,
			    an_type_text(gives, have, sizeof have));
	return AN_OK;
}

/* Inputs come before everything that is computed. */
static an_status chain_inputs(an_function *to, an_function *const *functions, const char *const *prefixes,
			      int n, an_value **map, arena *a)
{
	for (int i = 0; i < n; i++) {
		const an_function *f = functions[i];
		TRY(check_link(i ? functions[i - 1] : NULL, f));
		if (!(map[i] = arena_array(a, f->nvalues + 1, sizeof *map[i])))
			return fail_memory(to->program->ctx, f->nvalues);
		for (size_t k = i > 0; k < f->ninputs; k++) {
			an_value v = f->inputs[k];
			const char *name = f->values[v].name;
			if (k > 0 && !(name = arena_printf(a, "%s%s", prefixes[i], name)))
				return fail_memory(to->program->ctx, 0);
			TRY(fn_append_input(to, name, f->values[v].type, (an_role)f->roles[k], &map[i][v]));
		}
	}
	return AN_OK;
}

static an_status chain(an_function *to, an_function *const *functions, const char *const *prefixes, int n,
		       arena *a)
{
	an_value **map = arena_array(a, (size_t)n, sizeof *map);
	if (!map)
		return fail_memory(to->program->ctx, 0);
	TRY(chain_inputs(to, functions, prefixes, n, map, a));
	for (int i = 0; i < n; i++) {
		const an_function *f = functions[i], *before = i ? functions[i - 1] : NULL;
		to->opset = MAX(to->opset, f->opset);
		if (before)
			map[i][f->inputs[0]] = map[i - 1][before->outputs[0]];
		for (size_t k = 0; k < f->nops; k++)
			TRY(fn_copy_op(to, f, &f->ops[k], map[i]));
	}
	const an_function *last = functions[n - 1];
	for (size_t k = 0; k < last->noutputs; k++)
		TRY(pass_output(to, map[n - 1][last->outputs[k]], last->values[last->outputs[k]].name));
	return fn_verify(to);
}

an_status an_chain(an_function *const *functions, const char *const *prefixes, int n, const char *name,
		   an_function **out)
{
	*out = NULL;
	an_function *to;
	TRY(an_function_new(functions[0]->program, name, &to));
	to->opset = functions[0]->opset;
	arena a;
	arena_init(&a, to->program->ctx);
	an_status s = chain(to, functions, prefixes, n, &a);
	arena_free(&a);
	if (s != AN_OK)
		fn_discard(to);
	*out = s == AN_OK ? to : NULL;
	return s;
}
