/* Reverse-mode differentiation: one sweep over the operations from last to first, each handing the
 * cotangents of its results to its operands by its rule (grad_rules.c).
 *
 * What the backward reads of f is saved or computed again:
 *   - inputs of f stay inputs, constants are copied;
 *   - results of contractions, softmax, norms and reductions are residuals: expensive, or
 *     (reductions) small; if the caller asks, those are not that are much larger than what they are made of;
 *   - elementwise work and moved elements are computed again from those.  It is the same
 *     operation on the same operands, so its bits are the same.
 * So a residual is never larger than what a trainer that saves every activation keeps, and the
 * backward starts with the elementwise work that its contractions need. */
#include "pass/grad.h"
#include "mil/diag.h"

/* ---- Values of f in the backward --------------------------------------------- */

bool grad_wants(const grad *g, an_value v) { return g->active[v]; }

an_value grad_of(const grad *g, const mil_op *op, int r) { return g->cot[op->results[r]]; }

static bool is_output(const an_function *f, an_value v)
{
	for (size_t i = 0; i < f->noutputs; i++)
		if (f->outputs[i] == v)
			return true;
	return false;
}

static bool is_float(const an_type *t) { return t->dtype == AN_FP16 || t->dtype == AN_FP32; }

/* Whether some input in wrt or some output of f makes "d_<...>" out of this name. */
static bool reserved(const grad *g, const char *name)
{
	if (strncmp(name, "d_", 2) != 0)
		return false;
	an_value v = an_function_find(g->f, name + 2);
	return v != AN_NO_VALUE && (g->f->values[v].op < 0 || is_output(g->f, v));
}

static double elements(const grad *g, an_value v) { return (double)an_type_count(&g->f->values[v].type); }

/* Whether v is a contraction much larger than its operands, or as large and made of one by elementwise work
 * and softmax. */
static bool swollen(const grad *g, an_value v)
{
	for (an_value next = AN_NO_VALUE;; v = next, next = AN_NO_VALUE) {
		const mil_op *op = fn_def(g->f, v);
		if (!op)
			return false;
		if (op->op == OP_MATMUL)
			return elements(g, v) >
			       g->recompute * (elements(g, op_arg(op, 0)) + elements(g, op_arg(op, 1)));
		const int cls = op_table[op->op].cls;
		if (op->op != OP_SOFTMAX && cls != OC_UNARY && cls != OC_BINARY && cls != OC_VIEW)
			return false;
		for (int p = 0; p < OP_MAX_PARAMS && next == AN_NO_VALUE; p++)
			for (uint32_t k = 0; k < op->arg[p].n; k++)
				if (!fn_const(g->f, op->arg[p].v[k]) &&
				    elements(g, op->arg[p].v[k]) >= elements(g, v))
					next = op->arg[p].v[k];
		if (next == AN_NO_VALUE)
			return false;
	}
}

/* Whether v is computed again rather than saved. */
static bool cheap(const grad *g, an_value v)
{
	const mil_op *op = fn_def(g->f, v);
	if (g->save_all || (is_output(g->f, v) && !reserved(g, g->f->values[v].name)))
		return false;
	if (g->save)
		return !g->save[v];
	switch (op_table[op->op].cls) {
	case OC_UNARY:
	case OC_BINARY:
	case OC_SELECT:
	case OC_VIEW: return true;
	default:
		return op->op == OP_PAD || op->op == OP_TILE ||
		       (g->recompute > 0 && (op->op == OP_MATMUL || op->op == OP_SOFTMAX) && swollen(g, v));
	}
}

/* An input of the backward called `name`; a computed value of that name gives way. */
static an_value add_input(grad *g, const char *name, an_type type, an_role role)
{
	an_function *to = g->b.f;
	an_value other = an_function_find(to, name);
	if (other != AN_NO_VALUE && to->values[other].op >= 0) {
		const char *fresh = fn_fresh_name(to, name);
		g->b.status = fresh ? fn_rename(to, other, fresh) : fail_memory(to->program->ctx, 0);
		if (g->b.status != AN_OK)
			return AN_NO_VALUE;
	}
	an_value v = AN_NO_VALUE;
	g->b.status = fn_append_input(to, name, type, role, &v);
	return v;
}

/* A value of f as an input of the backward. */
static an_value add_saved(grad *g, an_value v)
{
	const mil_value *value = fn_value(g->f, v);
	const char *name = value->name;
	bool residual = value->op >= 0;
	if (residual) /* under another name where its own is taken */
		for (int i = 0;
		     name && (reserved(g, name) || (i && an_function_find(g->f, name) != AN_NO_VALUE)); i++)
			name = arena_printf(&g->f->program->arena, "saved%d_%s", i, value->name);
	if (!name) {
		g->b.status = fail_memory(g->f->program->ctx, 0);
		return AN_NO_VALUE;
	}
	if (reserved(g, name)) {
		g->b.status = fail(
		    g->f->program->ctx, AN_USAGE,
		    "function %s: the backward needs %s, which is also the name of a gradient; rename it",
		    g->f->name, name);
		return AN_NO_VALUE;
	}
	an_role role = residual ? AN_ROLE_DATA : (an_role)g->f->roles[value->result];
	g->residual[v] = residual;
	return g->value[v] = add_input(g, name, value->type, role);
}

/* The first operand of op that the backward does not have yet, AN_NO_VALUE if it has all. */
static an_value missing_operand(const grad *g, const mil_op *op)
{
	for (int p = 0; p < OP_MAX_PARAMS; p++)
		for (uint32_t k = 0; k < op->arg[p].n; k++)
			if (g->value[op->arg[p].v[k]] == AN_NO_VALUE)
				return op->arg[p].v[k];
	return AN_NO_VALUE;
}

an_value grad_use(grad *g, an_value v)
{
	/* depth first without recursion: chains of elementwise operations may be long */
	size_t n = 0;
	g->stack[n++] = v;
	while (n > 0 && g->b.status == AN_OK) {
		an_value top = g->stack[n - 1], operand;
		const mil_op *op = fn_def(g->f, top);
		if (g->value[top] != AN_NO_VALUE) {
			n--;
		} else if (!op || (op_table[op->op].cls != OC_CONST && !cheap(g, top))) {
			add_saved(g, top);
		} else if ((operand = missing_operand(g, op)) != AN_NO_VALUE) {
			g->stack[n++] = operand;
		} else {
			g->b.status = fn_copy_op(g->b.f, g->f, op, g->value);
		}
	}
	return g->b.status == AN_OK ? g->value[v] : AN_NO_VALUE;
}

/* ---- Cotangents -------------------------------------------------------------- */

void grad_refuse(grad *g, const mil_op *op, const char *why)
{
	diag_add(g->diag, AN_UNSUPPORTED, op->line, op->column,
		 "function %s, %s %s cannot be differentiated%s%s", g->f->name, op_table[op->op].name,
		 op->name, why ? ": " : "", why ? why : "");
}

an_value grad_negated(const grad *g, an_value d)
{
	const mil_op *op = g->b.status == AN_OK ? fn_def(g->b.f, d) : NULL;
	if (!op || op->op != OP_MUL)
		return AN_NO_VALUE;
	const mil_literal *factor = fn_const(g->b.f, op_arg(op, 1));
	if (!factor || factor->type.rank != 0 || lit_number(factor, 0) != -1)
		return AN_NO_VALUE;
	return op_arg(op, 0);
}

/* a + b, where -c was meant to be added by subtracting c. */
static an_value sum(grad *g, an_value a, an_value b)
{
	an_value minus_a = grad_negated(g, a), minus_b = grad_negated(g, b);
	if (minus_b != AN_NO_VALUE)
		return an_sub(&g->b, a, minus_b);
	return minus_a != AN_NO_VALUE ? an_sub(&g->b, b, minus_a) : an_add(&g->b, a, b);
}

void grad_give(grad *g, an_value v, an_value d)
{
	if (!g->active[v] || d == AN_NO_VALUE || g->b.status != AN_OK)
		return;
	const an_type *want = &g->f->values[v].type, *have = &g->b.f->values[d].type;
	if (!an_type_equal(want, have)) {
		char a[96], b[96];
		g->b.status = fail(g->f->program->ctx, AN_INTERNAL,
				   "the gradient of %s of type %s has type %s", g->f->values[v].name,
				   an_type_text(want, a, sizeof a), an_type_text(have, b, sizeof b));
		return;
	}
	g->cot[v] = g->cot[v] == AN_NO_VALUE ? d : sum(g, g->cot[v], d);
}

struct part {
	struct part *next;
	int axis;
	int32_t begin, count;
	an_value d;
};

void grad_give_part(grad *g, an_value v, int axis, int32_t begin, int32_t count, an_value d)
{
	if (!g->active[v] || d == AN_NO_VALUE || g->b.status != AN_OK)
		return;
	struct part *part = arena_alloc(&g->scratch, sizeof *part);
	if (!part) {
		g->b.status = fail_memory(g->f->program->ctx, sizeof *part);
		return;
	}
	*part = (struct part){NULL, axis, begin, count, d};
	struct part **at = &g->part[v]; /* sorted by position, so that the order of a sum is defined */
	while (*at && (*at)->begin <= begin)
		at = &(*at)->next;
	part->next = *at;
	*at = part;
}

/* Number of parts if they follow each other along one axis from its first element to its last, else 0. */
static int parts_in_line(const grad *g, an_value v)
{
	int n = 0;
	int32_t end = 0;
	for (const struct part *p = g->part[v]; p; p = p->next, n++) {
		if (p->axis != g->part[v]->axis || p->begin != end)
			return 0;
		end += p->count;
	}
	return n && end == g->f->values[v].type.dim[g->part[v]->axis] ? n : 0;
}

/* Makes one cotangent of the parts. */
static void settle(grad *g, an_value v)
{
	const an_type *t = &g->f->values[v].type;
	struct part *p = g->part[v];
	int n = parts_in_line(g, v);
	if (!p)
		return;
	g->part[v] = NULL;
	if (n > 0) {
		an_value *parts = arena_array(&g->scratch, (size_t)n, sizeof *parts);
		int axis = p->axis;
		for (int i = 0; parts && p; p = p->next)
			parts[i++] = p->d;
		if (parts)
			grad_give(g, v, n == 1 ? parts[0] : an_concat(&g->b, parts, n, axis));
		else
			g->b.status = fail_memory(g->f->program->ctx, 0);
		return;
	}
	for (; p; p = p->next) {
		int32_t before[AN_MAX_RANK] = {0}, after[AN_MAX_RANK] = {0};
		before[p->axis] = p->begin;
		after[p->axis] = t->dim[p->axis] - p->begin - p->count;
		grad_give(g, v, grad_pad(g, p->d, t->rank, before, after));
	}
}

/* ---- The two functions ------------------------------------------------------- */

static an_status mark_wrt(grad *g, const an_grad_options *opt)
{
	const an_function *f = g->f;
	an_ctx *ctx = f->program->ctx;
	for (size_t i = 0; !(opt && opt->wrt) && i < f->ninputs; i++)
		g->active[f->inputs[i]] = is_float(&f->values[f->inputs[i]].type);
	for (int i = 0; opt && opt->wrt && i < opt->nwrt; i++) {
		an_value v = an_function_find(f, opt->wrt[i]);
		char text[96];
		if (v == AN_NO_VALUE || f->values[v].op >= 0)
			return fail(ctx, AN_USAGE, "function %s has no input %s to differentiate by", f->name,
				    opt->wrt[i]);
		if (!is_float(&f->values[v].type))
			return fail(ctx, AN_USAGE,
				    "function %s: input %s is %s; only fp16 and fp32 have gradients", f->name,
				    opt->wrt[i], an_type_text(&f->values[v].type, text, sizeof text));
		if (g->active[v])
			return fail(ctx, AN_USAGE, "function %s: input %s is named twice", f->name,
				    opt->wrt[i]);
		g->active[v] = true;
	}
	return AN_OK;
}

/* A result is active if it depends on an active operand other than as a piecewise constant.  Where an
 * operation without a rule makes an integer of it (quantize), that integer is active too, so that the way
 * back from it is refused and not taken for zero. */
static void mark_active(grad *g)
{
	for (size_t i = 0; i < g->f->nops; i++) {
		const mil_op *op = &g->f->ops[i];
		grad_kind kind = grad_kind_of(op->op);
		bool depends = false, integer = false;
		for (int p = 0; p < OP_MAX_PARAMS; p++)
			for (uint32_t k = 0; k < op->arg[p].n; k++)
				if (g->active[op->arg[p].v[k]]) {
					depends = true;
					integer |= !is_float(&g->f->values[op->arg[p].v[k]].type);
				}
		for (int r = 0; depends && r < op->nresults; r++)
			g->active[op->results[r]] =
			    kind == GRAD_NONE ||
			    (kind == GRAD_RULE && (integer || is_float(&g->f->values[op->results[r]].type)));
	}
}

static an_status mark_saved(grad *g, const an_grad_options *opt)
{
	if (!opt || !opt->save)
		return AN_OK;
	an_ctx *ctx = g->f->program->ctx;
	g->save = arena_array(&g->scratch, g->f->nvalues + 1, sizeof *g->save);
	if (!g->save)
		return fail_memory(ctx, g->f->nvalues);
	for (int i = 0; i < opt->nsave; i++) {
		an_value v = an_function_find(g->f, opt->save[i]);
		if (v == AN_NO_VALUE)
			return fail(ctx, AN_USAGE, "function %s has no value %s that could be saved",
				    g->f->name, opt->save[i]);
		g->save[v] = true;
	}
	return AN_OK;
}

static const char *cotangent_name(const grad *g, an_value v, bool output)
{
	bool both = output && g->f->values[v].op < 0;
	return arena_printf(&g->f->program->arena, "d_%s%s", g->f->values[v].name, both ? "_out" : "");
}

static an_status add_cotangents(grad *g)
{
	for (size_t i = 0; i < g->f->noutputs; i++) {
		an_value v = g->f->outputs[i];
		if (!is_float(&g->f->values[v].type))
			continue;
		const char *name = cotangent_name(g, v, true);
		if (!name)
			return fail_memory(g->f->program->ctx, 0);
		an_value d = add_input(g, name, g->f->values[v].type, AN_ROLE_DATA);
		TRY(g->b.status);
		g->ncotangents++;
		grad_give(g, v, d);
	}
	return g->b.status;
}

/* Calls the cotangent of v "d_<v>" unless it has a name (as an input, or as that of another value) or that
 * one is taken. */
static void name_cotangent(grad *g, an_value v)
{
	an_function *to = g->b.f;
	an_value d = g->cot[v];
	if (g->b.status != AN_OK || d == AN_NO_VALUE || to->values[d].op < 0 ||
	    strncmp(to->values[d].name, g->b.prefix, strlen(g->b.prefix)) != 0)
		return;
	const char *name = cotangent_name(g, v, false);
	if (!name)
		g->b.status = fail_memory(to->program->ctx, 0);
	else if (an_function_find(to, name) == AN_NO_VALUE && !reserved(g, name))
		g->b.status = fn_rename(to, d, name);
}

static void sweep(grad *g)
{
	for (size_t i = g->f->nops; i-- > 0 && g->b.status == AN_OK;) {
		const mil_op *op = &g->f->ops[i];
		bool any = false;
		for (int r = 0; r < op->nresults; r++) {
			settle(g, op->results[r]);
			name_cotangent(g, op->results[r]);
			any |= g->cot[op->results[r]] != AN_NO_VALUE;
		}
		if (any)
			grad_table[op->op](g, op, op->nresults == 1 ? g->cot[op->results[0]] : AN_NO_VALUE);
	}
}

/* Gradients as outputs, in the order of wrt. */
static an_status add_gradients(grad *g, const an_grad_options *opt)
{
	const an_function *f = g->f;
	int n = opt && opt->wrt ? opt->nwrt : (int)f->ninputs;
	for (int i = 0; i < n; i++) {
		an_value v = opt && opt->wrt ? an_function_find(f, opt->wrt[i]) : f->inputs[i];
		if (!g->active[v])
			continue;
		settle(g, v);
		an_value d = g->cot[v] == AN_NO_VALUE ? grad_zeros(g, &f->values[v].type) : g->cot[v];
		TRY(g->b.status);
		const char *name = cotangent_name(g, v, false);
		if (!name)
			return fail_memory(f->program->ctx, 0);
		TRY(pass_output(g->b.f, d, name));
	}
	return AN_OK;
}

/* Merges equal operations of the raw backward and drops what is not needed, except cotangents. */
static an_status tidy(an_function *raw, int ncotangents, an_function **out)
{
	rewrite r;
	an_function *merged = NULL;
	TRY(an_cse(raw, &merged));
	an_status s = rewrite_begin(&r, merged, "tidy");
	bool *live = s == AN_OK ? pass_live(merged, &r.scratch) : NULL;
	for (int i = 0; live && i < ncotangents; i++) /* they were added first */
		live[merged->inputs[i]] = true;
	if (s == AN_OK)
		s = live ? rewrite_live(&r, live, false) : fail_memory(raw->program->ctx, merged->nvalues);
	s = rewrite_end(&r, s, out);
	fn_discard(merged);
	return s;
}

/* f with those residuals as outputs that the backward has as inputs. */
static an_status make_forward(const grad *g, const an_function *backward, an_function **out)
{
	rewrite r;
	an_status s = rewrite_begin(&r, (an_function *)g->f, "fwd");
	if (s == AN_OK)
		s = rewrite_inputs(&r, NULL);
	for (size_t i = 0; s == AN_OK && i < g->f->nops; i++)
		s = fn_copy_op(r.to, g->f, &g->f->ops[i], r.map);
	if (s == AN_OK)
		s = rewrite_outputs(&r);
	for (size_t v = 0; s == AN_OK && v < g->f->nvalues; v++) {
		if (!g->residual[v])
			continue;
		const char *name = g->b.f->values[g->value[v]].name;
		if (is_output(g->f, (an_value)v) && strcmp(name, g->f->values[v].name) == 0)
			continue;
		an_value in = an_function_find(backward, name);
		if (in != AN_NO_VALUE && backward->values[in].op < 0)
			s = rewrite_output(&r, (an_value)v, name);
	}
	return rewrite_sweep(&r, s, true, out);
}

static an_status differentiate(grad *g, const an_grad_options *opt, an_function **forward,
			       an_function **backward)
{
	const an_function *f = g->f;
	size_t n = f->nvalues + 1;
	g->value = arena_array(&g->scratch, n, sizeof *g->value);
	g->cot = arena_array(&g->scratch, n, sizeof *g->cot);
	g->part = arena_array(&g->scratch, n, sizeof *g->part);
	g->active = arena_array(&g->scratch, n, sizeof *g->active);
	g->residual = arena_array(&g->scratch, n, sizeof *g->residual);
	g->stack = arena_array(&g->scratch, n, sizeof *g->stack);
	if (!g->value || !g->cot || !g->part || !g->active || !g->residual || !g->stack)
		return fail_memory(f->program->ctx, n * sizeof *g->value);
	for (size_t i = 0; i < n; i++)
		g->value[i] = g->cot[i] = AN_NO_VALUE;

	TRY(mark_wrt(g, opt));
	TRY(mark_saved(g, opt));
	mark_active(g);
	TRY(add_cotangents(g));
	sweep(g);
	TRY(diag_finish(g->diag));
	TRY(g->b.status);
	TRY(add_gradients(g, opt));
	TRY(tidy(g->b.f, g->ncotangents, backward));
	return make_forward(g, *backward, forward);
}

an_status an_grad(an_function *f, const an_grad_options *opt, an_function **forward, an_function **backward)
{
	an_program *p = f->program;
	an_function *raw = NULL;
	mil_diag diag;
	grad g = {
	    .f = f, .save_all = opt && opt->save_all, .recompute = opt ? opt->recompute : 0, .diag = &diag};
	*forward = *backward = NULL;
	diag_init(&diag, p->ctx, p->file, p->source, p->source_len);
	arena_init(&g.scratch, p->ctx);
	an_status s = pass_function_new(p, f->name, "bwd", &raw);
	if (s == AN_OK) {
		raw->opset = f->opset;
		g.b = an_builder_on(raw);
		g.b.prefix = "grad_";
		s = differentiate(&g, opt, forward, backward);
	}
	if (s == AN_OK)
		(*backward)->name = raw->name;
	else
		fn_discard(*backward);
	fn_discard(raw);
	arena_free(&g.scratch);
	str_free(&diag.text);
	if (s != AN_OK)
		*forward = *backward = NULL;
	return s;
}

const char *an_op_gradient(an_opcode op)
{
	static const char *const words[] = {[GRAD_RULE] = "rule", [GRAD_ZERO] = "zero", [GRAD_NONE] = "none"};
	return op >= 0 && op < OP_COUNT ? words[grad_kind_of(op)] : NULL;
}
