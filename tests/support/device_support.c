#include "support/device_support.h"

#include "base/random.h"
#include "device/soft/soft.h"

static void *metered(void *user, void *p, size_t old_size, size_t new_size)
{
	device_meter *m = user;
	if (new_size > 0 && m->left-- <= 0)
		return NULL;
	m->held += new_size - old_size;
	if (new_size > 0)
		return realloc(p, new_size);
	free(p);
	return NULL;
}

an_status device_metered(device_meter *m, int threads, an_ctx **ctx)
{
	an_allocator alloc = {metered, m};
	return an_ctx_open(&(an_ctx_options){.allocator = &alloc, .threads = threads}, ctx);
}

an_ctx *device_ctx(int threads)
{
	an_ctx *ctx;
	an_ctx_options opt = {.threads = threads};
	assert_int_equal(an_ctx_open(&opt, &ctx), AN_OK);
	return ctx;
}

an_device *device_soft(an_ctx *ctx, const char *numerics, bool fusion)
{
	an_device *d;
	MIL_OK(ctx, an_device_open(ctx, &(an_device_options){.name = "soft", .numerics = numerics}, &d));
	((soft_device *)d->impl)->no_fusion = !fusion;
	soft_device *soft = d->impl;
	soft->loop_flops = 0; /* whatever can be a loop is one, and goes by bands */
	soft->band_bytes = 0;
	soft->band_unit = DEVICE_BAND;
	return d;
}

void device_fill(const an_type *t, void *bytes, uint64_t seed, uint64_t stream, double low, double high)
{
	int64_t n = an_type_count(t);
	for (int64_t i = 0; i < n; i++) {
		double u = random_uniform(seed, stream, (uint64_t)i), x = low + u * (high - low);
		switch (t->dtype) {
		case AN_FP16: ((half *)bytes)[i] = half_from_double(x); break;
		case AN_FP32: ((float *)bytes)[i] = (float)x; break;
		case AN_INT8: ((int8_t *)bytes)[i] = (int8_t)floor(x); break;
		case AN_UINT8: ((uint8_t *)bytes)[i] = (uint8_t)floor(fabs(x)); break;
		case AN_INT16: ((int16_t *)bytes)[i] = (int16_t)floor(x); break;
		case AN_UINT16: ((uint16_t *)bytes)[i] = (uint16_t)floor(fabs(x)); break;
		case AN_INT32: ((int32_t *)bytes)[i] = (int32_t)floor(x); break;
		case AN_UINT32: ((uint32_t *)bytes)[i] = (uint32_t)floor(fabs(x)); break;
		case AN_BOOL: ((uint8_t *)bytes)[i] = u < 0.5; break;
		default: fail_msg("no way to fill %s", an_dtype_name((an_dtype)t->dtype));
		}
	}
}

void device_doubles(const an_type *t, const void *bytes, double *out)
{
	mil_literal l = {.type = *t, .kind = LIT_BYTES, .bytes = bytes};
	int64_t n = an_type_count(t);
	for (int64_t i = 0; i < n; i++)
		out[i] = lit_number(&l, i);
}

void *device_bytes(an_call *c, int port) { return an_buffer_map(c->bound[port]); }

an_call *device_call(an_device *d, an_function *f, uint64_t seed, double low, double high)
{
	an_executable *e;
	an_call *c;
	MIL_OK(d->ctx, an_compile(d, f, &e));
	MIL_OK(d->ctx, an_call_new(e, &c));
	for (int i = 0; i < e->ninputs + e->noutputs; i++) {
		an_buffer *b;
		MIL_OK(d->ctx, an_buffer_new(d, &e->ports[i].type, &b));
		MIL_OK(d->ctx, an_call_bind(c, e->ports[i].name, b));
		if (i < e->ninputs) {
			device_fill(&e->ports[i].type, an_buffer_map(b), seed, (uint64_t)i, low, high);
			an_buffer_unmap(b);
		}
		an_buffer_free(b); /* the call owns it now */
	}
	an_executable_free(e);
	return c;
}

/* ---- Comparing ------------------------------------------------------------------------ */

/* The distance between neighbouring values of the type around x. */
static double spacing(double x, an_dtype dtype)
{
	int digits = dtype == AN_FP16 ? 10 : 23, least = dtype == AN_FP16 ? -24 : -149, e;
	if (dtype != AN_FP16 && dtype != AN_FP32)
		return 0;
	frexp(x, &e);
	return ldexp(1, MAX(e - 1 - digits, least));
}

/* Where arithmetic is exact or correctly rounded there is nothing to allow for: IEEE operations on
 * fp16 in fp32 round as if they were done in fp16 (2 * 11 + 2 <= 24 bits). */
static bool is_exact(int op)
{
	switch (op) {
	case OP_ADD:
	case OP_SUB:
	case OP_MUL:
	case OP_REAL_DIV:
	case OP_MAXIMUM:
	case OP_MINIMUM:
	case OP_SQRT:
	case OP_SQUARE:
	case OP_ABS:
	case OP_SIGN:
	case OP_FLOOR:
	case OP_CEIL:
	case OP_ROUND:
	case OP_CLIP:
	case OP_RELU:
	case OP_CAST:
	case OP_IDENTITY:
	case OP_SELECT:
	case OP_PAD:
	case OP_TILE:
	case OP_REDUCE_MAX:
	case OP_REDUCE_MIN:
	case OP_REDUCE_ARGMAX:
	case OP_REDUCE_ARGMIN:
	case OP_LEAKY_RELU:
	case OP_FLOOR_DIV: return true;
	default: return op_table[op].cls == OC_VIEW;
	}
}

/* How many fp32 terms are summed for one element of the result. */
static int64_t terms(const an_function *f, const mil_op *op)
{
	int64_t n = an_type_count(&f->values[op->results[0]].type);
	if (op_table[op->op].cls == OC_CONTRACT || op->op == OP_SCALED_DOT_PRODUCT_ATTENTION)
		return op_flops(f, op) / (2 * n) + 1;
	if (op_table[op->op].cls == OC_REDUCE || op->op == OP_LAYER_NORM || op->op == OP_SOFTMAX)
		return an_type_count(&f->values[fn_arg_value(f, op, "x")].type) /
		       MAX(1, op->op == OP_REDUCE_SUM ? n : 1);
	return 1;
}

/* What result `want` of an operation may differ by; `size` is the same sum over magnitudes.
 *   exact: nothing.
 *   sums: each of the n fp32 additions is off by 2^-24 of a partial sum, which is at most `size`;
 *     then the result may round to the neighbour of the rounded exact one.
 *   functions in fp32: fp16 results hide an error of some 2^-22, but a tie may fall to the other side: one
 *     spacing.  fp32 results: kernel/math_impl.h promises 2 spacings, 4 for composed functions, and the
 *     expected value is itself rounded.  GELU's approximations round the argument of an exponential,
 *     which is at most 8 here, twice: 2 * 8 * 2^-24 of the result, 16 spacings at most.
 *   rough products (profile fast, fp16 only): each operand may be rounded to bf16, by 2^-8 of itself, which
 *     moves a product by 2^-7 + 2^-16.  Attention's scores then move by e <= 2^-7 sqrt(E) max|q k|, its
 * probabilities by factors up to exp(2e), and its results by that of the largest value; arguments are at most
 * 2 here. normalisation: differences from the mean lose what the sums lose, relative to a deviation that
 *     random inputs keep above 1/8 of their magnitude. */
static double tolerance(const an_function *f, const mil_op *op, an_dtype dtype, double want, double size,
			bool rough)
{
	int64_t n = terms(f, op);
	if (is_exact(op->op) || (dtype != AN_FP16 && dtype != AN_FP32))
		return 0;
	double neighbour = spacing(want, dtype), sum = (double)n * 0x1p-24 * size;
	rough &= dtype == AN_FP16;
	switch (op_table[op->op].cls) {
	case OC_CONTRACT: return (rough ? (0x1p-7 + 0x1p-16) * size : 0) + sum + neighbour;
	case OC_REDUCE: return sum + neighbour;
	default: break;
	}
	if (op->op == OP_LAYER_NORM)
		return (double)n * 0x1p-21 + 4 * neighbour;
	if (op->op == OP_SCALED_DOT_PRODUCT_ATTENTION && rough) {
		const an_type *q = &f->values[fn_arg_value(f, op, "query")].type;
		return 2 * expm1(2 * (0x1p-7 + 0x1p-16) * 4 * sqrt(q->dim[q->rank - 1])) + neighbour;
	}
	if (op->op == OP_SOFTMAX || op->op == OP_SCALED_DOT_PRODUCT_ATTENTION)
		return (double)n * 0x1p-24 * fabs(size) + (dtype == AN_FP16 ? 1 : 32) * neighbour;
	return dtype == AN_FP16 ? neighbour : (op->op == OP_GELU ? 21 : 5) * neighbour;
}

static bool near(double got, double want, double allowed, an_dtype dtype)
{
	if (isnan(got) || isnan(want))
		return isnan(got) && isnan(want);
	/* infinity is the neighbour of the largest number */
	double top = dtype == AN_FP16 ? 65536 : 0x1p128;
	got = fmax(fmin(got, top), -top);
	want = fmax(fmin(want, top), -top);
	return fabs(got - want) <= allowed;
}

static void check_op(const an_function *f, const mil_op *op, double *const *value, bool rough)
{
	double *want[64], *size[64], **trial = calloc(f->nvalues, sizeof *trial),
				     **magnitude = calloc(f->nvalues, sizeof *magnitude);
	char text[120];
	assert_true(op->nresults <= 64);
	for (size_t i = 0; i < f->nvalues; i++)
		trial[i] = value[i];
	bool sums = op_table[op->op].cls == OC_CONTRACT || op_table[op->op].cls == OC_REDUCE ||
		    op->op == OP_SCALED_DOT_PRODUCT_ATTENTION;
	for (int p = 0; p < OP_MAX_PARAMS; p++)
		for (uint32_t i = 0; i < op->arg[p].n; i++) {
			an_value v = op->arg[p].v[i];
			if (magnitude[v] || !value[v])
				continue;
			int64_t n = an_type_count(&f->values[v].type);
			magnitude[v] = malloc((size_t)n * sizeof(double));
			for (int64_t j = 0; j < n; j++)
				magnitude[v][j] = fabs(value[v][j]);
		}
	for (int r = 0; r < op->nresults; r++) {
		size_t n = (size_t)an_type_count(&f->values[op->results[r]].type);
		want[r] = trial[op->results[r]] = calloc(n, sizeof(double));
		size[r] = magnitude[op->results[r]] = calloc(n, sizeof(double));
	}
	assert_int_equal(eval_op(f, op, EVAL_ROUND, trial), AN_OK);
	if (sums)
		assert_int_equal(eval_op(f, op, EVAL_EXACT, magnitude), AN_OK);
	for (int r = 0; r < op->nresults; r++) {
		const mil_value *y = &f->values[op->results[r]];
		an_dtype dtype = (an_dtype)y->type.dtype;
		for (int64_t i = 0; i < an_type_count(&y->type); i++) {
			double got = value[op->results[r]][i];
			double allowed = tolerance(f, op, dtype, want[r][i], size[r][i], rough);
			if (!near(got, want[r][i], allowed, dtype))
				fail_msg("%s %s, %s, element %lld: got %.9g, expected %.9g, allowed %.3g",
					 op_table[op->op].name, y->name,
					 an_type_text(&y->type, text, sizeof text), (long long)i, got,
					 want[r][i], allowed);
		}
		free(want[r]);
		magnitude[op->results[r]] = NULL;
		free(size[r]);
	}
	for (size_t i = 0; i < f->nvalues; i++)
		free(magnitude[i]);
	free(magnitude);
	free(trial);
}

void device_check(an_ctx *ctx, const char *numerics, an_function *f, uint64_t seed, double low, double high,
		  bool same_bits)
{
	an_device *fused = device_soft(ctx, numerics, true), *single = device_soft(ctx, numerics, false);
	an_function *g;
	char name[40];
	snprintf(name, sizeof name, "all_values_%d", an_program_functions(f->program));
	MIL_OK(ctx, fn_clone(f->program, f, name, &g));
	size_t nout = g->noutputs;
	for (size_t i = 0; i < g->nops; i++)
		for (int r = 0; r < g->ops[i].nresults; r++) {
			bool have = g->ops[i].op == OP_CONST;
			for (size_t j = 0; j < nout; j++)
				have |= g->outputs[j] == g->ops[i].results[r];
			if (!have)
				MIL_OK(ctx, fn_add_output(g, g->ops[i].results[r]));
		}
	an_call *a = device_call(fused, f, seed, low, high), *b = device_call(single, g, seed, low, high);
	MIL_OK(ctx, an_call_run(a));
	MIL_OK(ctx, an_call_run(b));
	int nin = (int)f->ninputs;
	for (int i = nin; same_bits && i < nin + (int)nout; i++)
		if (memcmp(device_bytes(a, i), device_bytes(b, i), a->bound[i]->bytes))
			fail_msg("output %s: fused and unfused runs differ", a->exe->ports[i].name);

	double **value = calloc(g->nvalues, sizeof *value);
	for (int i = 0; i < nin + (int)g->noutputs; i++) {
		an_value v = i < nin ? g->inputs[i] : g->outputs[i - nin];
		const an_type *t = &g->values[v].type;
		value[v] = malloc((size_t)an_type_count(t) * sizeof(double));
		device_doubles(t, device_bytes(b, i), value[v]);
	}
	for (size_t i = 0; i < g->nops; i++) {
		const mil_op *op = &g->ops[i];
		const mil_literal *l = op->op == OP_CONST ? fn_const(g, op->results[0]) : NULL;
		if (l && l->bytes && !value[op->results[0]]) {
			value[op->results[0]] = malloc((size_t)an_type_count(&l->type) * sizeof(double));
			device_doubles(&l->type, l->bytes, value[op->results[0]]);
		} else if (op->op != OP_CONST && value[op->results[0]]) {
			check_op(g, op, value, strcmp(numerics, "ieee") != 0);
		}
	}
	for (size_t i = 0; i < g->nvalues; i++)
		free(value[i]);
	free(value);
	an_call_free(a);
	an_call_free(b);
	an_device_close(fused);
	an_device_close(single);
}
