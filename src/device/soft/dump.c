/* The compiled list as text: one line per kernel call. */
#include "device/soft/soft.h"

#include <limits.h>

static const char *const type_names[K_TYPE_COUNT] = {
    [K_F16] = "fp16",  [K_F32] = "fp32",   [K_BF16] = "bf16", [K_I8] = "int8",    [K_U8] = "uint8",
    [K_I16] = "int16", [K_U16] = "uint16", [K_I32] = "int32", [K_U32] = "uint32", [K_BOOL] = "bool"};

#define X(n) #n,
static const char *const ew_names[EW_OP_COUNT] = {EW_OP_LIST(X)};
#undef X

static const char *const reduction_names[] = {
    [K_SUM] = "sum", [K_MEAN] = "mean", [K_MAX] = "max", [K_MIN] = "min", [K_SUM_SQUARE] = "sum_square",
    [K_L2] = "l2"};

static void add_dims(str *out, int rank, const int64_t *dim)
{
	for (int i = 0; i < rank; i++)
		str_addf(out, "%s%lld", i ? "x" : "", (long long)dim[i]);
}

static void add_program(str *out, const soft_call *c)
{
	const ew_program *p = &c->u.ew.prog;
	for (int i = 0; i < p->ninstr; i++)
		if (p->instr[i].op > EW_IMM)
			str_addf(out, "%s%s", i ? " " : "", ew_names[p->instr[i].op]);
	if (c->kind == CALL_REDUCE)
		str_addf(out, " -> %s", reduction_names[c->u.ew.how]);
}

/* Kernel, shape and what tells calls of the same kernel apart. */
static void add_kernel(str *out, const soft_call *c)
{
	switch (c->kind) {
	case CALL_LOOP:
		str_addf(out, "loop    %lld x %d calls", (long long)c->u.loop.count, c->u.loop.n);
		break;
	case CALL_EWISE:
	case CALL_REDUCE:
		str_add(out, c->kind == CALL_EWISE ? "ewise   " : "reduce  ");
		add_dims(out, c->u.ew.prog.rank, c->u.ew.prog.dim);
		if (c->u.ew.prog.above != c->u.ew.prog.below)
			str_addf(out, " x%d<=x%d", c->u.ew.prog.above, c->u.ew.prog.below);
		add_program(out, c);
		break;
	case CALL_GEMM: {
		const k_gemm_args *g = &c->u.gemm.args;
		str_add(out, "gemm    ");
		if (g->nbatch) {
			add_dims(out, g->nbatch, g->batch);
			str_add(out, " x ");
		}
		str_addf(out, "%lldx%lldx%lld %s %s", (long long)g->m, (long long)g->n, (long long)g->k,
			 type_names[g->a.type], k_gemm_name(c->u.gemm.row));
		break;
	}
	case CALL_PACK: {
		const k_gemm_args *g = &c->u.gemm.args;
		const bool a = c->u.gemm.which == K_A;
		str_addf(out, "pack    %lldx%lld %s %s", (long long)(a ? g->m : g->k),
			 (long long)(a ? g->k : g->n), type_names[a ? g->a.type : g->b.type],
			 k_gemm_name(c->u.gemm.row));
		break;
	}
	default: {
		static const char *const names[] = {
		    [CALL_SOFTMAX] = "softmax ", [CALL_ARG] = "arg     ", [CALL_COPY] = "copy    "};
		str_add(out, names[c->kind]);
		add_dims(out, c->u.copy.rank, c->u.copy.dim);
		str_addf(out, " %s", type_names[c->u.copy.x.type]);
	}
	}
}

static const char *operation(const soft_exe *e, const soft_call *c)
{
	return c->op < 0 ? "output" : e->op_text[c->op];
}

static void add_band(str *out, const soft_call *c)
{
	if (c->band.width)
		str_addf(out, " by %lld", (long long)c->band.width);
}

static void add_call(str *out, const soft_exe *e, const soft_call *c)
{
	add_kernel(out, c);
	add_band(out, c);
	str_addf(out, " | %lld flops %lld bytes %d nodes | %s\n", (long long)c->flops, (long long)c->bytes,
		 c->nodes, operation(e, c));
}

an_status soft_dump(const an_executable *x, str *out)
{
	const soft_exe *e = x->impl;
	str_addf(out, "%d calls (%d when compiled), scratch %zu of %zu bytes, constants %zu bytes\n",
		 e->ncalls - e->nearly, e->nearly, e->scratch, e->values_bytes, e->constants_size);
	for (int i = e->nearly; i < e->ncalls; i++) {
		const soft_call *c = &e->call[i];
		add_call(out, e, c);
		for (int j = 0; c->kind == CALL_LOOP && j < c->u.loop.n; j++) {
			str_add(out, "  ");
			add_call(out, e, &c->u.loop.call[j]);
		}
	}
	return str_status(out);
}

/* ---- Kernels with their times ------------------------------------------------------ */

/* Call i of the list in which the calls of a loop follow it; *inner: it is one of these.  NULL: there are
 * fewer, *n in all. */
static soft_call *call_at(const soft_exe *e, int i, bool *inner, int *n)
{
	int at = *n = 0;
	for (int j = e->nearly; j < e->ncalls; j++) {
		soft_call *c = &e->call[j];
		int within = c->kind == CALL_LOOP ? c->u.loop.n : 0;
		*inner = i > at;
		if (i <= at + within)
			return *inner ? &c->u.loop.call[i - at - 1] : c;
		at += 1 + within;
		*n = at;
	}
	return NULL;
}

int soft_kernels(const an_executable *x)
{
	bool inner;
	int n = 0;
	call_at(x->impl, INT_MAX, &inner, &n);
	return n;
}

an_status soft_kernel(an_executable *x, int i, an_kernel *out)
{
	const soft_exe *e = x->impl;
	bool inner;
	int n;
	soft_call *c = call_at(e, i, &inner, &n);
	if (!c->text) {
		str s;
		str_init(&s, x->device->ctx);
		str_add(&s, inner ? "  " : "");
		add_kernel(&s, c);
		add_band(&s, c);
		str_addf(&s, " | %s", operation(e, c));
		an_status status = str_status(&s);
		if (status == AN_OK && !(c->text = arena_strdup(&x->arena, s.data)))
			status = fail_memory(x->device->ctx, 0);
		str_free(&s);
		TRY(status);
	}
	*out = (an_kernel){c->text, c->flops, c->bytes, 1e-9 * (double)c->nanoseconds, c->runs, inner};
	return AN_OK;
}

void soft_reset_times(an_executable *x)
{
	bool inner;
	int n;
	soft_call *c;
	for (int i = 0; (c = call_at(x->impl, i, &inner, &n)); i++)
		c->nanoseconds = c->runs = 0;
}
