/* Where two devices differ on a program.
 *
 * Operations are taken in order, as many at a time as memory allows.  For each such stretch two functions are
 * made:
 *
 *   watched    the program up to the stretch, with the stretch's results as outputs (and what it reads from
 * before); run on each device, it shows where values differ first; isolated   the operations of the stretch,
 * each of which reads its operands from inputs; run on each device with the values that device a has, it
 * shows what every operation adds by itself. */
#include "anneal/check.h"

#include "check/session.h"
#include "pass/pass.h"

#include <math.h>

#define DEFAULT_MEMORY (INT64_C(256) << 20)

/* ---- Running ------------------------------------------------------------------------- */

static an_status fill_from(an_buffer *to, an_buffer *from)
{
	const void *memory = an_buffer_map(from);
	if (!memory)
		return AN_DEVICE;
	an_status s = buffer_fill(to, memory);
	an_buffer_unmap(from);
	return s;
}

static void diff(an_buffer *a, an_buffer *b, an_difference *out)
{
	const an_type *t = an_buffer_type(a);
	an_diff((an_dtype)t->dtype, an_buffer_map(a), an_buffer_map(b), an_type_count(t), out);
	an_buffer_unmap(a);
	an_buffer_unmap(b);
}

/* ---- The search ---------------------------------------------------------------------- */

typedef struct search {
	an_device *device[2];
	an_function *f;
	const void *const *inputs; /* by index of f's input */
	const bool *live;
	session whole[2]; /* the undisturbed function */
	an_comparison *result;
	arena *tmp; /* rewound after every stretch */
} search;

/* Operations begin .. end - 1, and the values of f that their functions hand in and out. */
typedef struct stretch {
	size_t begin, end;
	an_value *seen; /* outputs of the watched function: operands from before, then the results */
	int nseen, first_result;
	an_value *read; /* inputs of the isolated function, as values of f */
	int nread;
	int *slot; /* by value of f: its index in seen, -1: none */
} stretch;

static bool watched(const search *w, const mil_op *op)
{
	for (int i = 0; i < op->nresults; i++)
		if (w->live[op->results[i]])
			return !fn_is_const(w->f, op->results[i]);
	return false;
}

static int64_t result_bytes(const search *w, const mil_op *op)
{
	int64_t n = 0;
	for (int i = 0; i < op->nresults; i++)
		n += (int64_t)an_type_bytes(&w->f->values[op->results[i]].type);
	return n;
}

/* Whether v is neither a constant nor an input of f: somebody computes it. */
static bool computed(const an_function *f, an_value v) { return fn_def(f, v) && !fn_is_const(f, v); }

static void see(stretch *t, an_value v)
{
	if (t->slot[v] < 0) {
		t->slot[v] = t->nseen;
		t->seen[t->nseen++] = v;
	}
}

static an_status plan_stretch(const search *w, stretch *t)
{
	const an_function *f = w->f;
	t->seen = arena_array(w->tmp, f->nvalues + 1, sizeof *t->seen);
	t->read = arena_array(w->tmp, f->nvalues + 1, sizeof *t->read);
	t->slot = arena_array(w->tmp, f->nvalues + 1, sizeof *t->slot);
	if (!t->seen || !t->read || !t->slot)
		return fail_memory(w->tmp->ctx, f->nvalues);
	for (size_t v = 0; v < f->nvalues; v++)
		t->slot[v] = -1;
	for (size_t i = t->begin; i < t->end; i++)
		for (int p = 0; watched(w, &f->ops[i]) && p < OP_MAX_PARAMS; p++)
			for (uint32_t k = 0; k < f->ops[i].arg[p].n; k++) {
				an_value v = f->ops[i].arg[p].v[k];
				if (computed(f, v) && f->values[v].op < (int32_t)t->begin)
					see(t, v);
			}
	t->first_result = t->nseen;
	for (size_t i = t->begin; i < t->end; i++)
		for (int r = 0; watched(w, &f->ops[i]) && r < f->ops[i].nresults; r++)
			see(t, f->ops[i].results[r]);
	return AN_OK;
}

/* f up to the end of the stretch, with `seen` as outputs in their order. */
static an_status make_watched(const search *w, const stretch *t, an_function **out)
{
	rewrite r;
	an_status s = rewrite_begin(&r, w->f, "watched");
	if (s == AN_OK)
		s = rewrite_inputs(&r, NULL);
	for (size_t i = 0; s == AN_OK && i < t->end; i++)
		s = fn_copy_op(r.to, w->f, &w->f->ops[i], r.map);
	for (int i = 0; s == AN_OK && i < t->nseen; i++)
		s = fn_add_output(r.to, r.map[t->seen[i]]);
	return rewrite_end(&r, s, out);
}

/* Every operand of op that is not a constant becomes an input, once; constants are copied. */
static an_status add_operands(rewrite *r, stretch *t, const mil_op *op)
{
	for (int p = 0; p < OP_MAX_PARAMS; p++)
		for (uint32_t k = 0; k < op->arg[p].n; k++) {
			an_value v = op->arg[p].v[k];
			if (r->map[v] != AN_NO_VALUE)
				continue;
			if (fn_is_const(r->from, v)) {
				TRY(fn_copy_op(r->to, r->from, fn_def(r->from, v), r->map));
				continue;
			}
			const char *name = fn_fresh_name(r->to, r->from->values[v].name);
			if (!name)
				return fail_memory(r->scratch.ctx, 0);
			TRY(fn_append_input(r->to, name, r->from->values[v].type, AN_ROLE_DATA, &r->map[v]));
			t->read[t->nread++] = v;
		}
	return AN_OK;
}

/* The results of the stretch as outputs in their order, each operation fed from inputs. */
static an_status make_isolated(const search *w, stretch *t, an_function **out)
{
	rewrite r;
	an_status s = rewrite_begin(&r, w->f, "isolated");
	for (size_t i = t->begin; s == AN_OK && i < t->end; i++) {
		const mil_op *op = &w->f->ops[i];
		if (!watched(w, op))
			continue;
		an_value kept[16]; /* what later operations read instead of these results */
		int n = MIN((int)op->nresults, LENGTH(kept));
		an_value *keep =
		    n < op->nresults ? arena_array(&r.scratch, op->nresults, sizeof *keep) : kept;
		s = keep ? add_operands(&r, t, op) : fail_memory(r.scratch.ctx, 0);
		for (int k = 0; s == AN_OK && k < op->nresults; k++)
			keep[k] = r.map[op->results[k]];
		if (s == AN_OK)
			s = fn_copy_op(r.to, w->f, op, r.map);
		for (int k = 0; s == AN_OK && k < op->nresults; k++) {
			s = fn_add_output(r.to, r.map[op->results[k]]);
			r.map[op->results[k]] = keep[k];
		}
	}
	return rewrite_end(&r, s, out);
}

/* The value as the undisturbed function gives it, if that is an output. */
static an_buffer *undisturbed(const search *w, int side, an_value v)
{
	for (size_t i = 0; i < w->f->noutputs; i++)
		if (w->f->outputs[i] == v)
			return w->whole[side].out[i];
	return NULL;
}

static an_status run_watched(search *w, const stretch *t, session *two)
{
	an_function *watch = NULL;
	an_status s = make_watched(w, t, &watch);
	for (int side = 0; s == AN_OK && side < 2; side++) {
		s = session_open(&two[side], w->device[side], watch, w->tmp);
		for (int i = 0; s == AN_OK && i < two[side].nin; i++)
			s = buffer_fill(two[side].in[i], w->inputs[i]);
		if (s == AN_OK)
			s = an_call_run(two[side].call);
		for (int i = t->first_result; s == AN_OK && i < t->nseen; i++) {
			an_buffer *b = undisturbed(w, side, t->seen[i]);
			an_difference d = {0};
			if (b)
				diff(b, two[side].out[i], &d);
			w->result->disturbed |= d.equal < d.count;
		}
	}
	fn_discard(watch);
	return s;
}

/* a: the watched function on device a. */
static an_status run_isolated(search *w, stretch *t, const session *a, session *two)
{
	an_function *alone = NULL;
	an_status s = make_isolated(w, t, &alone);
	for (int side = 0; s == AN_OK && side < 2; side++) {
		s = session_open(&two[side], w->device[side], alone, w->tmp);
		for (int i = 0; s == AN_OK && i < t->nread; i++) {
			const mil_value *v = &w->f->values[t->read[i]];
			if (v->op < 0)
				s = buffer_fill(two[side].in[i], w->inputs[v->result]);
			else
				s = fill_from(two[side].in[i], a->out[t->slot[t->read[i]]]);
		}
		if (s == AN_OK)
			s = an_call_run(two[side].call);
	}
	fn_discard(alone);
	return s;
}

/* Whether x is a larger difference than y. */
static bool larger(const an_difference *x, const an_difference *y)
{
	bool broken = x->nan + x->infinite > 0, other = y->nan + y->infinite > 0;
	return broken != other ? broken : x->rms > y->rms;
}

static void add_value(search *w, an_value v, const session *watched_, const session *alone, int seen,
		      int result)
{
	const mil_value *value = &w->f->values[v];
	const mil_op *op = fn_def(w->f, v);
	an_comparison *c = w->result;
	an_compared *x = &c->values[c->nvalues];
	*x = (an_compared){value->name, op_table[op->op].name, value->op, op->line, value->type, {0}, {0}};
	diff(watched_[0].out[seen], watched_[1].out[seen], &x->all);
	diff(alone[0].out[result], alone[1].out[result], &x->own);
	if (c->first < 0 && x->all.equal < x->all.count)
		c->first = c->nvalues;
	if (x->own.equal < x->own.count && (c->worst < 0 || larger(&x->own, &c->values[c->worst].own)))
		c->worst = c->nvalues;
	c->nvalues++;
}

static an_status compare_stretch(search *w, stretch *t)
{
	session watch[2] = {0}, alone[2] = {0};
	an_status s = plan_stretch(w, t);
	if (s == AN_OK && t->nseen > t->first_result) {
		s = run_watched(w, t, watch);
		if (s == AN_OK)
			s = run_isolated(w, t, &watch[0], alone);
		for (int i = t->first_result; s == AN_OK && i < t->nseen; i++)
			add_value(w, t->seen[i], watch, alone, i, i - t->first_result);
	}
	for (int side = 0; side < 2; side++) {
		session_close(&watch[side]);
		session_close(&alone[side]);
	}
	return s;
}

static an_status compare_values(search *w, const an_compare_options *opt)
{
	const an_function *f = w->f;
	int64_t room = opt->memory > 0 ? opt->memory : DEFAULT_MEMORY;
	for (size_t begin = 0, end; begin < f->nops; begin = end) {
		int64_t bytes = result_bytes(w, &f->ops[begin]);
		for (end = begin + 1; end < f->nops && bytes < room; end++)
			bytes += watched(w, &f->ops[end]) ? result_bytes(w, &f->ops[end]) : 0;
		arena_mark mark = arena_save(w->tmp);
		an_status s = compare_stretch(w, &(stretch){.begin = begin, .end = end});
		arena_rewind(w->tmp, mark);
		TRY(s);
		if (opt->progress)
			opt->progress(opt->user, (int)end, (int)f->nops);
	}
	return AN_OK;
}

static an_status compare_outputs(search *w)
{
	const an_function *f = w->f;
	for (int side = 0; side < 2; side++) {
		session *s = &w->whole[side];
		TRY(session_open(s, w->device[side], w->f, w->tmp));
		for (int i = 0; i < s->nin; i++)
			TRY(buffer_fill(s->in[i], w->inputs[i]));
		TRY(an_call_run(s->call));
	}
	for (size_t i = 0; i < f->noutputs; i++) {
		const mil_value *v = &f->values[f->outputs[i]];
		const mil_op *op = fn_def(f, f->outputs[i]);
		an_compared *x = &w->result->outputs[w->result->noutputs++];
		*x = (an_compared){
		    v->name, op ? op_table[op->op].name : "", v->op, op ? op->line : 0, v->type, {0}, {0}};
		diff(w->whole[0].out[i], w->whole[1].out[i], &x->all);
	}
	return AN_OK;
}

/* ---- The result ------------------------------------------------------------------------ */

typedef struct comparison {
	an_comparison c;
	arena arena;
} comparison;

void an_comparison_free(an_ctx *ctx, an_comparison *c)
{
	if (!c)
		return;
	comparison *own = (comparison *)c;
	arena_free(&own->arena);
	mem_free(ctx, own, sizeof *own);
}

an_status an_compare(an_device *a, an_device *b, an_function *f, const void *const *inputs,
		     const an_compare_options *opt, an_comparison **out)
{
	static const an_compare_options defaults;
	an_ctx *ctx = f->program->ctx;
	*out = NULL;
	comparison *own = mem_zalloc(ctx, sizeof *own);
	if (!own)
		return fail_memory(ctx, sizeof *own);
	own->c.first = own->c.worst = -1;
	arena_init(&own->arena, ctx);
	own->c.outputs = arena_array(&own->arena, f->noutputs + 1, sizeof *own->c.outputs);
	own->c.values = arena_array(&own->arena, f->nvalues + 1, sizeof *own->c.values);
	arena tmp;
	arena_init(&tmp, ctx);
	search w = {.device = {a, b}, .f = f, .inputs = inputs, .result = &own->c, .tmp = &tmp};
	w.live = pass_live(f, &tmp);
	an_status s = own->c.outputs && own->c.values && w.live ? compare_outputs(&w) : fail_memory(ctx, 0);
	opt = opt ? opt : &defaults;
	if (s == AN_OK && !opt->outputs_only)
		s = compare_values(&w, opt);
	for (int side = 0; side < 2; side++)
		session_close(&w.whole[side]);
	arena_free(&tmp);
	if (s == AN_OK)
		*out = &own->c;
	else
		an_comparison_free(ctx, &own->c);
	return s;
}
