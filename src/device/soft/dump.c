/* The compiled list as text: one line per kernel call. */
#include "device/soft/soft.h"

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

static void add_call(str *out, const soft_exe *e, const soft_call *c)
{
	switch (c->kind) {
	case CALL_LOOP:
		str_addf(out, "loop    %lld x %d calls", (long long)c->u.loop.count, c->u.loop.n);
		break;
	case CALL_EWISE:
	case CALL_REDUCE:
		str_add(out, c->kind == CALL_EWISE ? "ewise   " : "reduce  ");
		add_dims(out, c->u.ew.prog.rank, c->u.ew.prog.dim);
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
	default: {
		static const char *const names[] = {
		    [CALL_SOFTMAX] = "softmax ", [CALL_ARG] = "arg     ", [CALL_COPY] = "copy    "};
		str_add(out, names[c->kind]);
		add_dims(out, c->u.copy.rank, c->u.copy.dim);
		str_addf(out, " %s", type_names[c->u.copy.x.type]);
	}
	}
	str_addf(out, " | %lld flops %lld bytes %d nodes | %s\n", (long long)c->flops, (long long)c->bytes,
		 c->nodes, c->op < 0 ? "output" : e->op_text[c->op]);
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
