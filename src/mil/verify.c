/* Diagnostics, and the rules that hold for every program. */
#include "mil/diag.h"

#include <stdio.h>

/* ---- Diagnostics ------------------------------------------------------------------ */

void diag_init(mil_diag *d, an_ctx *ctx, const char *name, const char *source, size_t len)
{
	*d = (mil_diag){.ctx = ctx, .name = name, .source = source, .len = source ? len : 0};
	str_init(&d->text, ctx);
}

/* The line and a caret below byte `column` (from 1).  Of long lines, a window is shown. */
static void add_source_line(mil_diag *d, int line, int column)
{
	enum { WINDOW = 100, LEFT = 60 };
	const char *at = d->source, *end = d->source + d->len;
	for (int i = 1; i < line && at; i++)
		if ((at = memchr(at, '\n', (size_t)(end - at))))
			at++;
	if (!at || at > end)
		return;
	const char *stop = memchr(at, '\n', (size_t)(end - at));
	size_t len = (size_t)((stop ? stop : end) - at), col = (size_t)MAX(column, 1) - 1;
	if (len && at[len - 1] == '\r')
		len--;
	size_t from = col > WINDOW ? col - LEFT : 0, to = MIN(len, from + WINDOW + LEFT);
	while (from && from < len && ((unsigned char)at[from] & 0xc0) == 0x80) /* not inside a character */
		from--;
	while (to < len && to > from && ((unsigned char)at[to] & 0xc0) == 0x80)
		to--;
	str_add(&d->text, from ? "\n  ..." : "\n  ");
	for (size_t i = from; i < to; i++)
		str_add_n(&d->text, (unsigned char)at[i] < ' ' ? " " : at + i, 1);
	str_add(&d->text, from ? "\n     " : "\n  ");
	for (size_t i = from; i < MIN(col, to); i++)
		if (((unsigned char)at[i] & 0xc0) != 0x80)
			str_add(&d->text, " ");
	str_add(&d->text, "^");
}

void diag_add(mil_diag *d, an_status s, int line, int column, const char *fmt, ...)
{
	if (d->count++ == 0)
		d->status = s;
	if (d->count > DIAG_MAX)
		return;
	char words[700];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(words, sizeof words, fmt, ap);
	va_end(ap);
	if (d->count > 1)
		str_add(&d->text, "\n");
	if (d->name && line > 0)
		str_addf(&d->text, "%s:%d:%d: error: %s", d->name, line, column, words);
	else if (d->name)
		str_addf(&d->text, "%s: error: %s", d->name, words);
	else
		str_add(&d->text, words);
	if (d->source && line > 0)
		add_source_line(d, line, column);
}

void diag_problem(mil_diag *d, const an_function *f, const mil_op *op, const mil_problem *problem, int line,
		  int column)
{
	const char *name = op_table[op->op].name;
	const char *param = problem->param < 0 ? "" : op_table[op->op].param[problem->param].name;
	const char *space = *param ? " " : "";
	if (d->name && line > 0)
		diag_add(d, problem->status, line, column, "%s: %s%s%s", name, param, space, problem->text);
	else
		diag_add(d, problem->status, 0, 0, "function %s, %s %s: %s%s%s", f->name, name,
			 op->name ? op->name : "", param, space, problem->text);
}

an_status diag_finish(mil_diag *d)
{
	an_status s = AN_OK;
	if (d->count > DIAG_MAX)
		str_addf(&d->text, "\n%d more errors", d->count - DIAG_MAX);
	if (d->count)
		s = d->text.oom ? fail_memory(d->ctx, 0) : fail(d->ctx, d->status, "%s", d->text.data);
	str_free(&d->text);
	return s;
}

/* ---- Verifying --------------------------------------------------------------------- */

/* Reports a problem at the operation; `param` is -1 or the parameter to blame. */
static void complain(mil_diag *d, const an_function *f, const mil_op *op, int param, const char *fmt, ...)
    AN_PRINTF(5, 6);
static void complain(mil_diag *d, const an_function *f, const mil_op *op, int param, const char *fmt, ...)
{
	mil_problem problem = {.status = AN_TYPE, .param = param};
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(problem.text, sizeof problem.text, fmt, ap);
	va_end(ap);
	diag_problem(d, f, op, &problem, op->line, op->column);
}

/* Arguments must come from inputs and earlier operations. */
static bool arguments_defined(mil_diag *d, const an_function *f, size_t index)
{
	const mil_op *op = &f->ops[index];
	for (int p = 0; p < OP_MAX_PARAMS && op_table[op->op].param[p].name; p++)
		for (uint32_t k = 0; k < op->arg[p].n; k++) {
			an_value v = op->arg[p].v[k];
			if (v < f->nvalues && f->values[v].op < (int64_t)index)
				continue;
			complain(d, f, op, p, "uses %s before it is defined",
				 v < f->nvalues ? f->values[v].name : "a value");
			return false;
		}
	return true;
}

static bool verify_op(mil_diag *d, const an_function *f, size_t index, an_type *types)
{
	const mil_op *op = &f->ops[index];
	mil_problem problem;
	if (!arguments_defined(d, f, index))
		return false;
	if (op_check(f, op, types, &problem) != AN_OK) {
		diag_problem(d, f, op, &problem, op->line, op->column);
		return false;
	}
	if (op_table[op->op].opset > f->opset) {
		complain(d, f, op, -1, "exists from ios%d on, the function is ios%d", op_table[op->op].opset,
			 f->opset);
		return false;
	}
	for (int i = 0; i < op->nresults; i++) {
		const mil_value *v = &f->values[op->results[i]];
		char want[96], have[96];
		if (an_type_equal(&v->type, &types[i]))
			continue;
		complain(d, f, op, -1, "%s is declared %s, but is %s", v->name,
			 an_type_text(&v->type, have, sizeof have),
			 an_type_text(&types[i], want, sizeof want));
		return false;
	}
	return true;
}

static void verify_function(mil_diag *d, const an_function *f)
{
	arena scratch;
	arena_init(&scratch, d->ctx);
	int most = 1;
	for (size_t i = 0; i < f->nops; i++)
		most = MAX(most, f->ops[i].nresults);
	an_type *types = arena_array(&scratch, (size_t)most, sizeof *types);
	if (!types) {
		diag_add(d, AN_MEMORY, 0, 0, "out of memory");
		return;
	}
	for (size_t i = 0; i < f->nops && d->count < DIAG_MAX; i++)
		verify_op(d, f, i, types);
	for (size_t i = 0; i < f->nvalues; i++)
		if (an_function_find(f, f->values[i].name) != i)
			diag_add(d, AN_TYPE, 0, 0, "function %s: two values are named %s", f->name,
				 f->values[i].name);
	if (!f->noutputs)
		diag_add(d, AN_TYPE, 0, 0, "function %s returns nothing", f->name);
	for (size_t i = 0; i < f->noutputs; i++)
		if (f->outputs[i] >= f->nvalues)
			diag_add(d, AN_TYPE, 0, 0, "function %s: output %zu is not a value of it", f->name,
				 i);
	arena_free(&scratch);
}

an_status fn_verify(const an_function *f)
{
	const an_program *p = f->program;
	mil_diag d;
	diag_init(&d, p->ctx, p->file, p->source, p->source_len);
	verify_function(&d, f);
	return diag_finish(&d);
}

an_status an_program_verify(const an_program *p)
{
	mil_diag d;
	diag_init(&d, p->ctx, p->file, p->source, p->source_len);
	for (size_t i = 0; i < p->nfunctions; i++)
		verify_function(&d, p->functions[i]);
	if (!p->nfunctions)
		diag_add(&d, AN_TYPE, 0, 0, "the program has no function");
	return diag_finish(&d);
}
