/* What the engine computes, refuses and gets wrong. */
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>

an_ctx *engine_ctx;
ane_quirks engine_quirks;
static an_device *engine;

bool engine_start(unsigned route)
{
	const standin_state *s = standin();
	if (!engine_ctx && an_ctx_open(&(an_ctx_options){.threads = 1}, &engine_ctx) != AN_OK)
		return false;
	if (ane_quirks_set(engine_ctx, s->profile, route, s->quirks, &engine_quirks) != AN_OK)
		standin_crash("%s", an_message(engine_ctx));
	return engine ||
	       an_device_open(engine_ctx, &(an_device_options){.name = "soft", .numerics = s->profile},
			      &engine) == AN_OK;
}

void engine_stop(void)
{
	an_device_close(engine);
	an_ctx_close(engine_ctx);
}

/* ---- Programs ------------------------------------------------------------------------------ */

void engine_drop(program *p)
{
	if (!p || --p->owners > 0)
		return;
	an_call_free(p->call);
	for (int i = 0; i < p->nin + p->nout; i++)
		an_buffer_free(p->buffer[i]);
	an_executable_free(p->exe);
	free(p);
}

/* By the executable's order. */
static const char *port_of(const program *p, int i, an_type *type)
{
	return i < p->nin ? an_executable_input(p->exe, i, type)
			  : an_executable_output(p->exe, i - p->nin, type);
}

const char *engine_port(const program *p, int place, an_type *type)
{
	return port_of(p, p->order[place], type);
}

static size_t packed_bytes(const program *p, int place)
{
	an_type type;
	engine_port(p, place, &type);
	return an_type_bytes(&type);
}

static void order_ports(program *p, int first, int n)
{
	for (int i = first; i < first + n; i++)
		p->order[i] = i;
	for (int i = first + 1; engine_quirks.value[QUIRK_ORDERED_NAMES] && i < first + n; i++)
		for (int k = i; k > first && strcmp(engine_port(p, k - 1, NULL), engine_port(p, k, NULL)) > 0;
		     k--) {
			int swapped = p->order[k];
			p->order[k] = p->order[k - 1];
			p->order[k - 1] = swapped;
		}
	for (int i = first + 1; engine_quirks.value[QUIRK_ORDERED_BYTES] && i < first + n; i++) {
		size_t a = packed_bytes(p, i - 1), b = packed_bytes(p, i);
		p->zeros |= first ? a < b : a > b;
	}
}

static bool make_buffers(program *p)
{
	an_type type;
	while (an_executable_input(p->exe, p->nin, NULL))
		p->nin++;
	while (an_executable_output(p->exe, p->nout, NULL))
		p->nout++;
	if (p->nin + p->nout > ENGINE_PORTS || an_call_new(p->exe, &p->call) != AN_OK)
		return false;
	order_ports(p, 0, p->nin);
	order_ports(p, p->nin, p->nout);
	for (int i = 0; i < p->nin + p->nout; i++) {
		const char *name = port_of(p, i, &type);
		if (an_buffer_new(engine, &type, &p->buffer[i]) != AN_OK ||
		    an_call_bind(p->call, name, p->buffer[i]) != AN_OK)
			return false;
	}
	return true;
}

/* ---- What the compiler refuses --------------------------------------------------------------- */

static int broken_by_port(const an_type *t)
{
	const int64_t *on = engine_quirks.value;
	if (on[QUIRK_NO_BOOL_PORTS] && t->dtype == AN_BOOL)
		return QUIRK_NO_BOOL_PORTS;
	return on[QUIRK_SHORT_PORTS] && an_dtype_size((an_dtype)t->dtype) > 2 ? QUIRK_SHORT_PORTS : -1;
}

static int broken_by_operation(const mil_op *op)
{
	const int64_t *on = engine_quirks.value;
	const op_row *row = &op_table[op->op];
	for (int k = 0; on[QUIRK_EXPLICIT] && k < OP_MAX_PARAMS && row->param[k].name; k++) {
		bool conv = op->op == OP_CONV && strcmp(row->param[k].name, "bias") != 0;
		if (!op->arg[k].n && !(row->param[k].kind & PK_ATTR) && (row->param[k].fallback || conv))
			return QUIRK_EXPLICIT;
	}
	return -1;
}

/* The first quirk that the program breaks, -1: none. */
static int broken_quirk(const an_program *p, const an_function *f)
{
	int broken = engine_quirks.value[QUIRK_BUILD_INFO] && !p->ninfo ? QUIRK_BUILD_INFO : -1;
	for (size_t i = 0; broken < 0 && i < f->ninputs + f->noutputs; i++)
		broken = broken_by_port(
		    &f->values[i < f->ninputs ? f->inputs[i] : f->outputs[i - f->ninputs]].type);
	for (size_t i = 0; broken < 0 && i < f->nops; i++)
		broken = broken_by_operation(&f->ops[i]);
	return broken;
}

/* What a program that breaks a rule on operations becomes; the first that is refused, -1: none. */
static int break_rules(program *p, an_function *f)
{
	for (size_t i = 0; i < f->nops; i++) {
		mil_op *op = &f->ops[i];
		int quirk = ane_quirk_of(&engine_quirks, f, op);
		if (quirk < 0)
			continue;
		if (an_quirk_at(quirk)->breach == AN_QUIRK_REFUSES)
			return quirk;
		if (quirk == QUIRK_UNMASKED)
			op->arg[3].n = 0;
		p->zeros |= quirk == QUIRK_CONTRACTION || quirk == QUIRK_CONSTANT_KERNELS;
		p->poison |= quirk == QUIRK_NO_TILE;
	}
	return -1;
}

program *engine_compile(const char *folder, char *why, size_t size)
{
	char path[1400];
	an_program *text = NULL;
	program *p = calloc(1, sizeof *p);
	snprintf(path, sizeof path, "%s/model.mil", folder);
	int quirk = -1;
	bool made = p && an_program_read(engine_ctx, path, &text) == AN_OK;
	an_function *f = made ? an_program_function(text, "main") : NULL;
	if (f && (quirk = broken_quirk(text, f)) < 0)
		quirk = break_rules(p, f);
	made = f && quirk < 0 && an_compile(engine, f, &p->exe) == AN_OK && make_buffers(p);
	if (made) {
		p->owners = 1;
	} else {
		snprintf(why, size, "_ANECompiler : ANECCompile() FAILED (%s)",
			 quirk >= 0   ? an_quirk_at(quirk)->name
			 : text && !f ? "no function main"
				      : an_message(engine_ctx));
		engine_drop(p);
		p = NULL;
	}
	an_program_free(text);
	return p;
}

/* ---- Evaluating ------------------------------------------------------------------------------ */

/* Bytes of a row of the last axis, and from one row to the next. */
static size_t row_of(const an_type *t, size_t *stride)
{
	size_t row = an_dtype_size((an_dtype)t->dtype) * (size_t)(t->rank ? t->dim[t->rank - 1] : 1);
	*stride = engine_quirks.value[QUIRK_PACKED] ? row : (row + 63) / 64 * 64;
	return row;
}

size_t engine_bytes(const program *p, int place)
{
	an_type t;
	size_t stride, row;
	engine_port(p, place, &t);
	row = row_of(&t, &stride);
	return an_type_bytes(&t) / row * stride;
}

static bool poisoned;

bool engine_takes(const program *p, int place, size_t bytes)
{
	const int64_t *on = engine_quirks.value;
	an_type t;
	engine_port(p, place, &t);
	int64_t width = t.rank ? t.dim[t.rank - 1] : 1;
	return !poisoned && bytes >= engine_bytes(p, place) && bytes >= (size_t)on[QUIRK_MIN_SURFACE] &&
	       width >= on[QUIRK_MIN_WIDTH] &&
	       !(on[QUIRK_WIDTH_MULTIPLE] && width % on[QUIRK_WIDTH_MULTIPLE]) &&
	       !(on[QUIRK_ALIGNED_SIZE] && bytes % (size_t)on[QUIRK_ALIGNED_SIZE]);
}

static void move(const an_type *t, char *memory, char *buffer, bool to_engine)
{
	size_t stride, row = row_of(t, &stride);
	for (size_t i = 0; i < an_type_bytes(t) / row; i++)
		memcpy(to_engine ? buffer + i * row : memory + i * stride,
		       to_engine ? memory + i * stride : buffer + i * row, row);
}

const char *engine_run(program *p, char *const *base)
{
	an_type t;
	int n = p->nin + p->nout;
	for (int i = p->nin; engine_quirks.value[QUIRK_OWN_OUTPUTS] && i < n; i++)
		for (int k = 0; k < p->nin; k++)
			if (base[k] == base[i]) /* written before it was read */
				memset(base[i], 0, packed_bytes(p, i));
	for (int i = 0; i < p->nin; i++) {
		engine_port(p, i, &t);
		move(&t, base[i], an_buffer_map(p->buffer[p->order[i]]), true);
	}
	poisoned |= p->poison;
	if (an_call_run(p->call) != AN_OK)
		return an_message(engine_ctx);
	for (int i = p->nin; i < n; i++) {
		char *result = an_buffer_map(p->buffer[p->order[i]]);
		engine_port(p, i, &t);
		if (p->zeros)
			memset(result, 0, an_type_bytes(&t));
		move(&t, base[i], result, false);
	}
	return NULL;
}
