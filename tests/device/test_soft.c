/* The software engine's compiler: fusion and threads change no bits, views cost no copies, values
 * that live at the same time share no memory, recorded programs give what they should. */
#include "support/device_support.h"

#include "anneal/pass.h"

#include "base/random.h"
#include "device/soft/soft.h"

#include <dirent.h>
#include <math.h>

/* ---- Random programs --------------------------------------------------------------------- */

typedef struct maker {
	an_builder b;
	uint64_t seed, draws;
	an_value value[80];
	int n;
} maker;

static int draw(maker *m, int low, int high)
{
	return low + (int)(random_bits(m->seed, 77, m->draws++) % (uint64_t)(high - low + 1));
}

static an_value pick(maker *m) { return m->value[draw(m, MAX(0, m->n - 12), m->n - 1)]; }

static const an_type *type_of(maker *m, an_value v) { return an_value_type(m->b.f, v); }

static void keep(maker *m, an_value v)
{
	if (v != AN_NO_VALUE && m->n < LENGTH(m->value))
		m->value[m->n++] = v;
}

/* Another value that x can be combined with: of its dtype, and broadcasting to its shape. */
static an_value partner(maker *m, an_value x)
{
	for (int tries = 0; tries < 8; tries++) {
		an_value y = pick(m);
		const an_type *a = type_of(m, x), *b = type_of(m, y);
		bool fits = a->dtype == b->dtype && b->rank <= a->rank;
		for (int i = 0; fits && i < b->rank; i++) {
			int d = b->dim[i];
			fits = d == 1 || d == a->dim[a->rank - b->rank + i];
		}
		if (fits)
			return y;
	}
	return an_scalar(&m->b, (an_dtype)type_of(m, x)->dtype, 0.75);
}

static bool is_float(const an_type *t) { return t->dtype == AN_FP16 || t->dtype == AN_FP32; }

/* Values stay in a range where nothing overflows: growth is followed by a squashing function. */
static an_value calm(maker *m, an_value x) { return an_unary(&m->b, draw(m, 0, 1) ? "tanh" : "softsign", x); }

static void add_elementwise(maker *m, an_value x)
{
	static const char *const unary[] = {"relu",   "exp", "sigmoid", "silu", "abs",
					    "square", "cos", "gelu",    "erf",  "round"};
	static const char *const binary[] = {"add", "sub", "mul", "maximum", "minimum"};
	if (draw(m, 0, 1))
		keep(m, an_unary(&m->b, unary[draw(m, 0, LENGTH(unary) - 1)], calm(m, x)));
	else
		keep(m, an_binary(&m->b, binary[draw(m, 0, LENGTH(binary) - 1)], x, partner(m, x)));
}

static void add_select(maker *m, an_value x)
{
	an_value y = partner(m, x), c = an_binary(&m->b, draw(m, 0, 1) ? "less" : "greater_equal", x, y),
		 r = AN_NO_VALUE;
	an_arg args[] = {{"cond", AN_ARG_VALUE, 1, {.value = c}},
			 {"a", AN_ARG_VALUE, 1, {.value = x}},
			 {"b", AN_ARG_VALUE, 1, {.value = y}}};
	an_emit(&m->b, OP_SELECT, NULL, args, 3, &r, 1);
	keep(m, r);
}

static void add_reshape(maker *m, an_value x)
{
	an_type t = *type_of(m, x);
	int32_t dim[AN_MAX_RANK];
	int rank = 0;
	if (t.rank >= 2 && draw(m, 0, 1)) { /* two axes become one */
		int at = draw(m, 0, t.rank - 2);
		for (int i = 0; i < t.rank; i++)
			if (i == at + 1)
				dim[rank - 1] *= t.dim[i];
			else
				dim[rank++] = t.dim[i];
	} else { /* one axis becomes two */
		int at = t.rank ? draw(m, 0, t.rank - 1) : -1;
		if (t.rank == 0 || t.rank == AN_MAX_RANK)
			return;
		for (int i = 0; i < t.rank; i++) {
			int32_t part = i == at && t.dim[i] % 2 == 0 ? 2 : 1;
			if (i == at)
				dim[rank++] = part;
			dim[rank++] = t.dim[i] / part;
		}
	}
	keep(m, an_reshape(&m->b, x, rank, dim));
}

static void add_transpose(maker *m, an_value x)
{
	int rank = type_of(m, x)->rank;
	int32_t perm[AN_MAX_RANK] = {0, 1, 2, 3, 4};
	for (int i = rank - 1; i > 0; i--) {
		int j = draw(m, 0, i);
		int32_t p = perm[i];
		perm[i] = perm[j];
		perm[j] = p;
	}
	if (rank)
		keep(m, an_transpose(&m->b, x, rank, perm));
}

static void add_slice(maker *m, an_value x)
{
	an_type t = *type_of(m, x);
	if (!t.rank)
		return;
	int axis = draw(m, 0, t.rank - 1), begin = draw(m, 0, t.dim[axis] - 1);
	keep(m, an_slice(&m->b, x, axis, begin, draw(m, 1, t.dim[axis] - begin)));
}

static void add_concat(maker *m, an_value x)
{
	int rank = type_of(m, x)->rank;
	if (!rank)
		return;
	int axis = draw(m, 0, rank - 1);
	an_value parts[3] = {x, x, x};
	for (int i = 0; i < 2; i++) {
		an_value y = pick(m);
		an_type a = *type_of(m, x), b = *type_of(m, y);
		if (b.rank == rank) {
			a.dim[axis] = b.dim[axis];
			parts[i] = an_type_equal(&a, &b) ? y : x;
		}
	}
	keep(m, an_concat(&m->b, parts, draw(m, 2, 3), axis));
}

static void add_reduce(maker *m, an_value x)
{
	static const char *const ops[] = {"reduce_sum", "reduce_mean", "reduce_max", "reduce_min"};
	int rank = type_of(m, x)->rank;
	if (rank)
		keep(m, calm(m, an_reduce(&m->b, ops[draw(m, 0, 3)], x, draw(m, 0, rank - 1),
					  draw(m, 0, 2) > 0)));
}

static void add_matmul(maker *m, an_value x)
{
	an_type t = *type_of(m, x);
	if (t.rank < 2 || !is_float(&t))
		return;
	/* x x^T, or x^T x */
	bool left = draw(m, 0, 1);
	keep(m, calm(m, an_matmul(&m->b, x, x, left, !left)));
}

static void add_cast(maker *m, an_value x)
{
	keep(m, an_cast(&m->b, x, type_of(m, x)->dtype == AN_FP16 ? AN_FP32 : AN_FP16));
}

/* `heads`: all values have an axis that calls can be a loop over. */
static an_program *random_program(an_ctx *ctx, uint64_t seed, int ops, bool heads)
{
	an_program *p;
	an_function *f;
	MIL_OK(ctx, an_program_new(ctx, &p));
	MIL_OK(ctx, an_function_new(p, "main", &f));
	maker m = {.b = an_builder_on(f), .seed = seed};
	static const int32_t shapes[2][5][4] = {
	    {{1, 12, 1, 10}, {2, 3, 4, 10}, {1, 1, 1, 10}, {1, 12, 1, 1}, {1, 24, 1, 5}},
	    {{4, 1, 16, 6}, {4, 1, 16, 3}, {4, 1, 16, 16}, {4, 1, 1, 16}, {4, 1, 16, 16}}};
	for (int i = 0; i < LENGTH(shapes[0]); i++) {
		char name[16];
		snprintf(name, sizeof name, "in%d", i);
		keep(&m, an_input(&m.b, name, an_tensor(i == 4 ? AN_FP32 : AN_FP16, 4, shapes[heads][i])));
	}
	for (int i = 0; i < ops; i++) {
		an_value x = pick(&m);
		if (an_type_count(type_of(&m, x)) > 5000)
			continue;
		switch (draw(&m, 0, 13)) {
		case 0: add_reshape(&m, x); break;
		case 1: add_transpose(&m, x); break;
		case 2: add_slice(&m, x); break;
		case 3: add_concat(&m, x); break;
		case 4: add_reduce(&m, x); break;
		case 5: add_matmul(&m, x); break;
		case 6: add_cast(&m, x); break;
		case 7: add_select(&m, x); break;
		case 8:
			if (type_of(&m, x)->rank)
				keep(&m, an_softmax(&m.b, x, draw(&m, -type_of(&m, x)->rank, -1)));
			break;
		default: add_elementwise(&m, x);
		}
	}
	/* some results are returned, some are not needed, some are needed inside only */
	int from = LENGTH(shapes[0]);
	for (int i = m.n - 1; i >= from && i >= m.n - 7; i--)
		if (i == m.n - 1 || draw(&m, 0, 1))
			an_output(&m.b, m.value[i]);
	MIL_OK(ctx, an_builder_finish(&m.b));
	return p;
}

/* Fused and unfused runs have the same bits. */
static void check_bits(an_ctx *ctx, const char *numerics, an_function *f, uint64_t seed)
{
	an_device *d[] = {device_soft(ctx, numerics, true), device_soft(ctx, numerics, false)};
	an_call *call[2];
	for (int i = 0; i < 2; i++) {
		call[i] = device_call(d[i], f, seed, -2, 2);
		MIL_OK(ctx, an_call_run(call[i]));
	}
	for (int i = call[0]->exe->ninputs; i < call[0]->exe->ninputs + call[0]->exe->noutputs; i++)
		if (memcmp(device_bytes(call[0], i), device_bytes(call[1], i), call[0]->bound[i]->bytes))
			fail_msg("program %d, %s: fused and unfused runs differ", (int)seed,
				 call[0]->exe->ports[i].name);
	for (int i = 0; i < 2; i++) {
		an_call_free(call[i]);
		an_device_close(d[i]);
	}
}

static void test_random_programs(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(2);
	for (uint64_t seed = 0; seed < 300; seed++) {
		an_program *p = random_program(ctx, seed, 8 + (int)(seed % 40), false);
		device_check(ctx, "ieee", an_program_function(p, NULL), seed, -2, 2, true);
		an_program_free(p);
	}
	an_ctx_close(ctx);
}

/* Their gradients too, which read what the forward made in several ways. */
static void test_random_loops(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(2);
	for (uint64_t seed = 2000; seed < 2120; seed++) {
		an_program *p = random_program(ctx, seed, 6 + (int)(seed % 16), true);
		an_function *f = an_program_function(p, NULL), *forward, *backward;
		device_check(ctx, "ieee", f, seed, -2, 2, true);
		if (an_grad(f, &(an_grad_options){.recompute = 2}, &forward, &backward) == AN_OK)
			check_bits(ctx, "m4", backward, seed);
		an_program_free(p);
	}
	an_ctx_close(ctx);
}

/* 1, 2 and 3 threads, portable code or not: the number of threads is no part of the result. */
static void test_threads(void **state)
{
	(void)state;
	for (uint64_t seed = 1000; seed < 1030; seed++) {
		an_ctx *first = NULL;
		an_program *kept = NULL;
		an_call *want = NULL;
		an_device *device = NULL;
		for (int threads = 1; threads <= 3; threads++) {
			an_ctx *ctx = device_ctx(threads);
			an_device *d = device_soft(ctx, seed & 1 ? "fast" : "ieee", true);
			an_program *p = random_program(ctx, seed, 40, seed % 4 > 1);
			an_call *c = device_call(d, an_program_function(p, NULL), seed, -2, 2);
			MIL_OK(ctx, an_call_run(c));
			if (threads == 1) {
				first = ctx, kept = p, want = c, device = d;
				continue;
			}
			for (int i = c->exe->ninputs; i < c->exe->ninputs + c->exe->noutputs; i++)
				assert_memory_equal(device_bytes(c, i), device_bytes(want, i),
						    c->bound[i]->bytes);
			an_program_free(p);
			an_device_close(d);
			an_ctx_close(ctx);
		}
		an_program_free(kept);
		an_device_close(device);
		an_ctx_close(first);
	}
}

/* ---- The plan of memory --------------------------------------------------------------------- */

/* Whether two ranges of scratch that are in use at the same time share bytes. */
static void check_plan(const soft_exe *e)
{
	size_t peak = 0;
	for (int i = 0; i < e->nstorages; i++) {
		const soft_storage *a = &e->storage[i];
		if (a->kind != STORE_SCRATCH || a->first < 0)
			continue;
		peak = MAX(peak, (size_t)(a->offset + a->bytes));
		assert_true(a->first <= a->last && a->offset >= 0 && a->offset % 64 == 0);
		for (int j = 0; j < i; j++) {
			const soft_storage *b = &e->storage[j];
			if (b->kind != STORE_SCRATCH || b->first < 0 || a->last < b->first ||
			    b->last < a->first)
				continue;
			assert_true(a->offset + a->bytes <= b->offset || b->offset + b->bytes <= a->offset);
		}
	}
	assert_true(peak <= e->scratch && e->scratch <= peak + 64 && e->scratch <= e->values_bytes);
}

static void test_plan(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	size_t planned = 0, side_by_side = 0;
	for (uint64_t seed = 0; seed < 60; seed++) {
		an_device *d = device_soft(ctx, "ieee", seed & 1);
		an_program *p = random_program(ctx, seed, 60, seed % 4 > 1);
		an_executable *e;
		MIL_OK(ctx, an_compile(d, an_program_function(p, NULL), &e));
		check_plan(e->impl);
		planned += ((soft_exe *)e->impl)->scratch;
		side_by_side += ((soft_exe *)e->impl)->values_bytes;
		an_program_free(p);
		an_device_close(d);
	}
	assert_true(planned < side_by_side); /* memory is used more than once */
	an_ctx_close(ctx);
}

/* ---- What becomes of typical programs -------------------------------------------------------- */

typedef struct counts {
	int ewise, reduce, gemm, pack, softmax, copy, early, loops, triangles, banded;
} counts;

static void count_call(const soft_call *c, counts *n)
{
	n->banded += c->band.width > 0;
	switch (c->kind) {
	case CALL_EWISE:
	case CALL_REDUCE:
		n->ewise += c->kind == CALL_EWISE;
		n->reduce += c->kind == CALL_REDUCE;
		n->triangles += c->u.ew.prog.above != c->u.ew.prog.below;
		break;
	case CALL_GEMM:
		n->gemm++;
		n->triangles +=
		    c->u.gemm.args.triangle_a || c->u.gemm.args.triangle_b || c->u.gemm.args.triangle_c;
		break;
	case CALL_PACK: n->pack++; break;
	case CALL_SOFTMAX:
		n->softmax++;
		n->triangles += c->u.copy.below >= 0;
		break;
	case CALL_LOOP:
		n->loops++;
		for (int i = 0; i < c->u.loop.n; i++)
			count_call(&c->u.loop.call[i], n);
		break;
	default: n->copy++;
	}
}

static counts count_as(an_ctx *ctx, const char *numerics, an_function *f)
{
	an_device *d = device_soft(ctx, numerics, true);
	an_executable *x;
	MIL_OK(ctx, an_compile(d, f, &x));
	const soft_exe *e = x->impl;
	counts n = {.early = e->nearly};
	for (int i = e->nearly; i < e->ncalls; i++)
		count_call(&e->call[i], &n);
	str text;
	str_init(&text, ctx);
	MIL_OK(ctx, soft_dump(x, &text));
	int lines = 0;
	for (const char *s = text.data; *s; s++)
		lines += *s == '\n';
	assert_int_equal(lines, 1 + n.ewise + n.reduce + n.gemm + n.pack + n.softmax + n.copy + n.loops);
	str_free(&text);
	an_device_close(d);
	return n;
}

static counts count_calls(an_ctx *ctx, an_program *p)
{
	return count_as(ctx, "ieee", an_program_function(p, NULL));
}

static an_builder new_function(an_ctx *ctx, an_program **p)
{
	an_function *f;
	MIL_OK(ctx, an_program_new(ctx, p));
	MIL_OK(ctx, an_function_new(*p, "main", &f));
	return an_builder_on(f);
}

/* x / sqrt(mean(x^2) + eps) * w, then a product: one pass for the mean, one for the scale of each column,
 * one for the elements, one GEMM. */
static void test_norm_and_linear(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_program *p;
	an_builder b = new_function(ctx, &p);
	an_value x = an_input(&b, "x", an_tensor(AN_FP16, 4, (int32_t[]){1, 48, 1, 33}));
	an_value w = an_input(&b, "w", an_tensor(AN_FP16, 4, (int32_t[]){1, 48, 1, 1}));
	an_value m = an_input(&b, "m", an_tensor(AN_FP16, 2, (int32_t[]){20, 48}));
	an_value mean = an_reduce(&b, "reduce_mean", an_binary(&b, "mul", x, x), 1, true);
	an_value scale = an_unary(&b, "rsqrt", an_add(&b, mean, an_scalar(&b, AN_FP16, 1e-5)));
	an_value y = an_mul(&b, an_mul(&b, x, scale), w);
	an_value z = an_matmul(&b, m, an_reshape(&b, y, 2, (int32_t[]){48, 33}), false, false);
	an_output(&b, an_name(&b, an_reshape(&b, z, 4, (int32_t[]){1, 20, 1, 33}), "z"));
	MIL_OK(ctx, an_builder_finish(&b));
	counts n = count_calls(ctx, p);
	assert_int_equal(n.reduce, 1);
	assert_int_equal(n.ewise, 2);
	assert_int_equal(n.gemm, 1);
	assert_int_equal(n.copy, 0);
	device_check(ctx, "ieee", b.f, 1, -2, 2, true);
	device_check(ctx, "fast", b.f, 1, -2, 2, false);
	an_program_free(p);
	an_ctx_close(ctx);
}

/* Attention over packed queries, keys and values: slices, reshapes and transposes are views, the
 * result is written where it belongs. */
static void test_attention_without_copies(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_program *p;
	an_builder b = new_function(ctx, &p);
	enum { HEADS = 3, TOKENS = 17, DIM = 8 };
	an_value qkv = an_input(&b, "qkv", an_tensor(AN_FP16, 4, (int32_t[]){1, 3 * HEADS * DIM, 1, TOKENS}));
	an_value part[3];
	for (int i = 0; i < 3; i++) {
		an_value s = an_slice(&b, qkv, 1, i * HEADS * DIM, HEADS * DIM);
		s = an_reshape(&b, s, 4, (int32_t[]){1, HEADS, DIM, TOKENS});
		part[i] = an_transpose(&b, s, 4, (int32_t[]){0, 1, 3, 2});
	}
	an_value scores = an_scale(&b, an_matmul(&b, part[0], part[1], false, true), 0.35355);
	an_value out = an_matmul(&b, an_softmax(&b, scores, -1), part[2], false, false);
	out = an_transpose(&b, out, 4, (int32_t[]){0, 1, 3, 2});
	an_output(&b, an_name(&b, an_reshape(&b, out, 4, (int32_t[]){1, HEADS * DIM, 1, TOKENS}), "out"));
	MIL_OK(ctx, an_builder_finish(&b));
	counts n = count_calls(ctx, p);
	assert_int_equal(n.gemm, 2);
	assert_int_equal(n.softmax, 1);
	assert_int_equal(n.ewise, 1);
	assert_int_equal(n.copy + n.reduce, 0);
	assert_int_equal(n.loops, 1);
	device_check(ctx, "ieee", b.f, 2, -1, 1, true);
	an_program_free(p);
	an_ctx_close(ctx);
}

/* Causal attention of HEADS heads; `spoiled`: the mask lets one later token through. */
enum { HEADS = 4, DIM = 8, TOKENS = 37 };
static an_function *causal_attention(an_ctx *ctx, an_program **p, int group, double masked, bool spoiled)
{
	static half mask[TOKENS * TOKENS];
	for (int i = 0; i < TOKENS; i++)
		for (int j = 0; j < TOKENS; j++)
			mask[i * TOKENS + j] = half_from_double(j > i ? masked : 0);
	if (spoiled)
		mask[3 * TOKENS + 20] = 0;
	an_builder b = new_function(ctx, p);
	an_value x[3];
	for (int i = 0; i < 3; i++)
		x[i] = an_input(&b, (const char *[]){"q", "k", "v"}[i],
				an_tensor(AN_FP16, 4, (int32_t[]){HEADS, i ? 1 : group, DIM, TOKENS}));
	an_value m = an_const(&b, "causal", an_tensor(AN_FP16, 2, (int32_t[]){TOKENS, TOKENS}), mask);
	an_value scores = an_add(&b, an_matmul(&b, x[0], x[1], true, false), m);
	an_value probs = an_name(&b, an_softmax(&b, scores, -1), "probs");
	an_output(&b, an_name(&b, an_matmul(&b, x[2], probs, false, true), "out"));
	MIL_OK(ctx, an_builder_finish(&b));
	return b.f;
}

/* Results of f on a device with and without fusion are close, or (threads > 1) equal to those of one thread.
 */
static void check_close(an_function *f, int threads, double bound)
{
	an_ctx *ctx = f->program->ctx, *other = device_ctx(threads);
	an_device *fused = device_soft(ctx, "fast", true), *single = device_soft(ctx, "fast", false),
		  *many = device_soft(other, "fast", true);
	an_program *p;
	an_function *copy;
	MIL_OK(other, an_program_new(other, &p));
	MIL_OK(other, an_function_clone(p, f, "main", &copy));
	an_call *call[] = {device_call(fused, f, 5, -2, 2), device_call(single, f, 5, -2, 2),
			   device_call(many, copy, 5, -2, 2)};
	for (int i = 0; i < 3; i++)
		MIL_OK(ctx, an_call_run(call[i]));
	for (int i = call[0]->exe->ninputs; i < call[0]->exe->ninputs + call[0]->exe->noutputs; i++) {
		const half *x = device_bytes(call[0], i), *y = device_bytes(call[1], i);
		for (int64_t j = 0; j < an_type_count(&call[0]->exe->ports[i].type); j++)
			if (!(fabs(half_to_float(x[j]) - half_to_float(y[j])) <= bound))
				fail_msg("%s[%d]: %g fused, %g unfused", call[0]->exe->ports[i].name, (int)j,
					 half_to_float(x[j]), half_to_float(y[j]));
		assert_memory_equal(x, device_bytes(call[2], i), call[0]->bound[i]->bytes);
	}
	for (int i = 0; i < 3; i++)
		an_call_free(call[i]);
	an_device_close(fused);
	an_device_close(single);
	an_device_close(many);
	an_program_free(p);
	an_ctx_close(other);
}

/* Whether fast products add up over bands of DEVICE_BAND rows on this machine. */
static bool adds_over_bands(const an_ctx *ctx)
{
	const k_gemm_args g = {.m = 48, .n = 48, .k = 48, .precision = K_FAST};
	return k_gemm_takes_blocks(k_gemm_select(&g, ctx->isa), DEVICE_BAND);
}

/* What a causal mask throws away is not computed, forward or backward, and the mask itself is not added. */
static void test_triangles(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_program *p;
	an_function *f = causal_attention(ctx, &p, 1, -30000, false), *forward, *backward;
	counts n = count_as(ctx, "fast", f);
	assert_int_equal(n.triangles, 3);
	assert_int_equal(n.ewise, 0);
	assert_int_equal(n.loops, 1);
	assert_int_equal(n.banded, 3);
	check_close(f, 3, 4e-3); /* |values| <= 2, probabilities rounded to fp16, sums to bf16 at the worst */
	n = count_as(ctx, "ieee", f);
	assert_int_equal(n.triangles, 0);
	assert_int_equal(n.ewise, 1);
	assert_int_equal(n.banded, 4);

	MIL_OK(ctx, an_grad(f, &(an_grad_options){.recompute = 2}, &forward, &backward));
	n = count_as(ctx, "fast", backward);
	assert_int_equal(n.gemm, 5);
	assert_int_equal(n.triangles,
			 8); /* all products, the softmax, and the sum and product of its gradient */
	assert_int_equal(n.loops, 1);
	assert_int_equal(n.banded, adds_over_bands(ctx) ? 8 : 6); /* all: products over queries too */
	check_close(backward, 3, 0.1); /* sums of 37 products of values up to 4 with gradients up to 16 */
	n = count_as(ctx, "ieee", backward);
	assert_int_equal(n.banded, 7); /* these two come later, and the mask is added */
	device_check(ctx, "ieee", backward, 5, -2, 2, true);
	an_program_free(p);

	/* masks that let something through, or are not low enough to be sure */
	for (int i = 0; i < 2; i++) {
		f = causal_attention(ctx, &p, 1, i ? -100 : -30000, !i);
		n = count_as(ctx, "fast", f);
		assert_int_equal(n.triangles, 0);
		assert_int_equal(n.ewise, 1);
		check_close(f, 2, 4e-3);
		an_program_free(p);
	}
	an_ctx_close(ctx);
}

/* Heads that share keys and values in groups are gone through like others, forward and backward: what sums
 * over a group comes after the loop. */
static void test_groups_of_heads(void **state)
{
	(void)state;
	enum { GROUP = 3 };
	an_ctx *ctx = device_ctx(1);
	an_program *p;
	an_function *f = causal_attention(ctx, &p, GROUP, -30000, false), *forward, *backward;
	MIL_OK(ctx, an_grad(f, &(an_grad_options){.recompute = 2}, &forward, &backward));
	for (int i = 0; i < 4; i++) {
		const char *numerics = i % 2 ? "ieee" : "fast";
		an_device *d = device_soft(ctx, numerics, true);
		an_executable *x;
		MIL_OK(ctx, an_compile(d, i < 2 ? f : backward, &x));
		const soft_exe *e = x->impl;
		int loops = 0;
		for (int j = e->nearly; j < e->ncalls; j++) {
			const soft_call *c = &e->call[j];
			loops += c->kind == CALL_LOOP;
			assert_true(c->kind != CALL_GEMM && c->kind != CALL_SOFTMAX);
			if (c->kind == CALL_LOOP)
				assert_int_equal(c->u.loop.count, HEADS * GROUP);
		}
		assert_int_equal(loops, 1);
		an_device_close(d);
	}
	device_check(ctx, "ieee", f, 5, -2, 2, true);
	device_check(ctx, "ieee", backward, 5, -2, 2, true);
	check_close(f, 3, 4e-3); /* bounds as above, for sums over a group too */
	check_close(backward, 5, 0.3);
	an_program_free(p);
	an_ctx_close(ctx);
}

/* Sums over bands have the same bits whether there are bands or not: how many threads there are decides that.
 */
static void test_sums_and_threads(void **state)
{
	(void)state;
	enum { MANY = 4, WIDTH = 48, LENGTH_OF = 601, RUNS = 3, USES = 4 };
	half *out[RUNS] = {NULL};
	size_t bytes = 0;
	for (int run = 0; run < RUNS; run++) {
		an_ctx *ctx = device_ctx((const int[]){1, 2, 3}[run]);
		an_program *p;
		an_builder b = new_function(ctx, &p);
		an_value x[3];
		for (int i = 0; i < 3; i++)
			x[i] = an_input(&b, (const char *[]){"q", "k", "v"}[i],
					an_tensor(AN_FP16, 4, (int32_t[]){MANY, 1, WIDTH, LENGTH_OF}));
		an_value probs = an_softmax(&b, an_matmul(&b, x[0], x[1], true, false), -1);
		an_output(&b, an_name(&b, an_matmul(&b, x[2], probs, false, false), "out"));
		MIL_OK(ctx, an_builder_finish(&b));
		counts n = count_as(ctx, "fast", b.f);
		assert_int_equal(n.loops, run < 2); /* 4 heads do not keep 3 threads busy */
		assert_int_equal(n.banded, run < 2 ? 2 + adds_over_bands(ctx) : 0);
		an_device *d = device_soft(ctx, "fast", true);
		an_call *call = device_call(d, b.f, 5, -1, 1);
		const int o = call->exe->ninputs;
		MIL_OK(ctx, an_call_run(call));
		bytes = call->bound[o]->bytes;
		out[run] = malloc(bytes);
		assert_non_null(out[run]);
		memcpy(out[run], device_bytes(call, o), bytes);
		/* nor does it matter that what is multiplied in such blocks is kept packed */
		for (int i = 0; i < o; i++)
			an_buffer_keep_packed(call->bound[i]);
		for (int use = 0; use < USES; use++) {
			MIL_OK(ctx, an_call_run(call));
			assert_memory_equal(out[run], device_bytes(call, o), bytes);
		}
		an_call_free(call);
		an_device_close(d);
		an_program_free(p);
		an_ctx_close(ctx);
	}
	for (int run = 1; run < RUNS; run++)
		assert_memory_equal(out[0], out[run], bytes);
	for (int run = 0; run < RUNS; run++)
		free(out[run]);
}

/* Counting runs iterations one after the other, in memory that was planned for one thread each. */
static void test_counting_in_loops(void **state)
{
	(void)state;
	enum { MANY = 4, WIDTH = 64, LENGTH_OF = 300 };
	half *out[2];
	for (int threads = 1; threads <= 2; threads++) {
		an_ctx *ctx = device_ctx(threads);
		an_program *p;
		an_builder b = new_function(ctx, &p);
		an_value x[3];
		for (int i = 0; i < 3; i++)
			x[i] = an_input(&b, (const char *[]){"q", "k", "v"}[i],
					an_tensor(AN_FP16, 4, (int32_t[]){MANY, 1, WIDTH, LENGTH_OF}));
		an_value probs = an_softmax(&b, an_matmul(&b, x[0], x[1], true, false), -1);
		an_output(&b, an_name(&b, an_matmul(&b, x[2], probs, false, true), "out"));
		MIL_OK(ctx, an_builder_finish(&b));
		an_device *d = device_soft(ctx, "ieee", true);
		an_call *call = device_call(d, b.f, 5, -1, 1);
		const int o = call->exe->ninputs;
		assert_int_equal(count_as(ctx, "ieee", b.f).loops, 1);
		if (threads > 1)
			MIL_OK(ctx, an_device_count(d, true));
		MIL_OK(ctx, an_call_run(call));
		out[threads - 1] = malloc(call->bound[o]->bytes);
		assert_non_null(out[threads - 1]);
		memcpy(out[threads - 1], device_bytes(call, o), call->bound[o]->bytes);
		an_call_free(call);
		an_device_close(d);
		an_program_free(p);
		an_ctx_close(ctx);
	}
	assert_memory_equal(out[0], out[1], MANY * WIDTH * LENGTH_OF * sizeof **out);
	free(out[0]);
	free(out[1]);
}

/* A result goes through rows as its last operand does, which every band needs whole: it must not take its
 * place. */
static void test_overwriting_in_bands(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_program *p;
	an_builder b = new_function(ctx, &p);
	an_value q = an_input(&b, "q", an_tensor(AN_FP16, 4, (int32_t[]){HEADS, 1, TOKENS, DIM}));
	an_value k = an_input(&b, "k", an_tensor(AN_FP16, 4, (int32_t[]){HEADS, 1, TOKENS, DIM}));
	an_value x = an_input(&b, "x", an_tensor(AN_FP16, 4, (int32_t[]){HEADS, 1, TOKENS, 1}));
	an_value w = an_input(&b, "w", an_tensor(AN_FP16, 4, (int32_t[]){HEADS, 1, 1, 1}));
	an_value bias = an_mul(&b, x, w);
	an_value row = an_reshape(&b, bias, 4, (int32_t[]){HEADS, 1, 1, TOKENS});
	an_value scores = an_add(&b, an_matmul(&b, q, k, false, true), row);
	an_value largest = an_reduce(&b, "reduce_max", an_softmax(&b, scores, -1), -1, true);
	an_value y = an_mul(&b, bias, largest);
	an_output(&b, an_name(&b, an_matmul(&b, y, q, true, false), "out"));
	MIL_OK(ctx, an_builder_finish(&b));
	counts n = count_as(ctx, "ieee", b.f);
	assert_int_equal(n.loops, 1);
	assert_int_equal(n.banded, 5);
	device_check(ctx, "ieee", b.f, 3, -2, 2, true);
	device_check(ctx, "fast", b.f, 3, -2, 2, false);
	an_program_free(p);
	an_ctx_close(ctx);
}

/* A result takes the place of an operand only if nothing is read of that afterwards: by a later instruction
 * of the same program, or as another view of the same values. */
static void test_overwriting_what_is_read(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	for (int way = 0; way < 2; way++) {
		an_program *p;
		an_builder b = new_function(ctx, &p);
		an_value q = an_input(&b, "q", an_tensor(AN_FP16, 4, (int32_t[]){HEADS, 1, TOKENS, DIM}));
		an_value k = an_input(&b, "k", an_tensor(AN_FP16, 4, (int32_t[]){HEADS, 1, TOKENS, DIM}));
		an_value x = an_input(&b, "x", an_tensor(AN_FP16, 4, (int32_t[]){HEADS, 1, TOKENS, TOKENS}));
		an_value scores = an_matmul(&b, q, k, false, true), y;
		if (way == 0) {
			an_value early = an_mul(&b, x, x);
			y = an_add(&b, early, scores);
			an_output(&b, an_name(&b, an_matmul(&b, early, q, false, false), "early"));
		} else {
			y = an_add(&b, scores, an_transpose(&b, scores, 4, (int32_t[]){0, 1, 3, 2}));
		}
		an_output(&b, an_name(&b, an_matmul(&b, y, q, false, false), "out"));
		MIL_OK(ctx, an_builder_finish(&b));
		assert_int_equal(count_as(ctx, "ieee", b.f).loops, 1);
		device_check(ctx, "ieee", b.f, 3, -2, 2, true);
		an_program_free(p);
	}
	an_ctx_close(ctx);
}

/* Products with a few columns go by the longer side, which a band must not make the shorter. */
static void test_few_columns_in_bands(void **state)
{
	(void)state;
	enum { LONG = 8 * DEVICE_BAND + 1, FEW = 3 }; /* the last band has one row */
	an_ctx *ctx = device_ctx(1);
	an_program *p;
	an_builder b = new_function(ctx, &p);
	an_value q = an_input(&b, "q", an_tensor(AN_FP32, 4, (int32_t[]){HEADS, 1, LONG, DIM}));
	an_value v = an_input(&b, "v", an_tensor(AN_FP32, 4, (int32_t[]){HEADS, 1, LONG, FEW}));
	an_value probs = an_softmax(&b, an_matmul(&b, q, q, false, true), -1);
	an_output(&b, an_name(&b, an_matmul(&b, probs, v, false, false), "out"));
	MIL_OK(ctx, an_builder_finish(&b));
	assert_true(count_as(ctx, "ieee", b.f).banded >= 2);
	device_check(ctx, "ieee", b.f, 3, -1, 1, true);
	an_program_free(p);
	an_ctx_close(ctx);
}

/* Products that are added up over bands count what they would at once. */
static void test_counting_in_bands(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_program *p;
	an_function *forward, *backward, *f = causal_attention(ctx, &p, 1, -30000, false);
	MIL_OK(ctx, an_grad(f, &(an_grad_options){.recompute = 2}, &forward, &backward));
	an_device *d[] = {device_soft(ctx, "fast", true), device_soft(ctx, "fast", false)};
	an_call *call[2];
	for (int i = 0; i < 2; i++) {
		call[i] = device_call(d[i], backward, 5, -2, 2);
		MIL_OK(ctx, an_device_count(d[i], true));
		MIL_OK(ctx, an_call_run(call[i]));
	}
	int products = 0;
	for (size_t op = 0; op < backward->nops; op++) {
		an_counts n[2];
		if (backward->ops[op].op != OP_MATMUL)
			continue;
		for (int i = 0; i < 2; i++)
			MIL_OK(ctx, an_executable_counts(call[i]->exe, (int)op, &n[i]));
		assert_true(n[0].products > 0 && n[0].products == n[1].products);
		assert_true(n[0].results == n[1].results && n[0].overflowed == n[1].overflowed);
		/* what is masked is not computed, though it may be the largest */
		assert_true(n[0].largest > 0 && n[0].largest <= 1.01 * n[1].largest);
		products++;
	}
	assert_int_equal(products, 5);
	for (int i = 0; i < 2; i++) {
		an_call_free(call[i]);
		an_device_close(d[i]);
	}
	an_program_free(p);
	an_ctx_close(ctx);
}

/* Scores that are large beside their operands are made again in the backward, if asked for. */
static void test_recompute(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_program *p;
	an_function *f = causal_attention(ctx, &p, 1, -30000, false), *forward, *backward;
	MIL_OK(ctx, an_grad(f, NULL, &forward, &backward));
	assert_int_equal(forward->noutputs, 2); /* out, probs */
	MIL_OK(ctx, an_grad(f, &(an_grad_options){.recompute = 2}, &forward, &backward));
	assert_int_equal(forward->noutputs, 1);
	device_check(ctx, "ieee", backward, 7, -1, 1, true);
	MIL_OK(ctx,
	       an_grad(f, &(an_grad_options){.recompute = 3}, &forward, &backward)); /* 37 is not 3 x 16 */
	assert_int_equal(forward->noutputs, 2);
	an_program_free(p);
	an_ctx_close(ctx);
}

/* Rotary embedding: both halves in one pass, straight into the concatenation. */
static void test_rotation_in_one_pass(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_program *p;
	an_builder b = new_function(ctx, &p);
	an_value x = an_input(&b, "x", an_tensor(AN_FP16, 4, (int32_t[]){1, 4, 16, 9}));
	an_value cosine = an_input(&b, "cos", an_tensor(AN_FP16, 4, (int32_t[]){1, 1, 8, 9}));
	an_value sine = an_input(&b, "sin", an_tensor(AN_FP16, 4, (int32_t[]){1, 1, 8, 9}));
	an_value l = an_slice(&b, x, 2, 0, 8), h = an_slice(&b, x, 2, 8, 8);
	an_value halves[2] = {an_sub(&b, an_mul(&b, l, cosine), an_mul(&b, h, sine)),
			      an_add(&b, an_mul(&b, h, cosine), an_mul(&b, l, sine))};
	an_output(&b, an_name(&b, an_concat(&b, halves, 2, 2), "y"));
	MIL_OK(ctx, an_builder_finish(&b));
	counts n = count_calls(ctx, p);
	assert_int_equal(n.ewise, 1);
	assert_int_equal(n.copy + n.reduce + n.gemm, 0);
	device_check(ctx, "ieee", b.f, 3, -2, 2, true);
	an_program_free(p);
	an_ctx_close(ctx);
}

/* What depends on constants alone is computed when compiling. */
static void test_constants_fold(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_program *p;
	an_builder b = new_function(ctx, &p);
	half data[12];
	an_type t = an_tensor(AN_FP16, 2, (int32_t[]){3, 4});
	device_fill(&t, data, 1, 1, -1, 1);
	an_value k = an_const(&b, "k", t, data);
	an_value square = an_matmul(&b, an_unary(&b, "exp", k), k, false, true);
	an_value x = an_input(&b, "x", an_tensor(AN_FP16, 2, (int32_t[]){3, 3}));
	an_output(&b, an_name(&b, an_add(&b, x, an_transpose(&b, square, 2, (int32_t[]){1, 0})), "y"));
	MIL_OK(ctx, an_builder_finish(&b));
	counts n = count_calls(ctx, p);
	assert_int_equal(n.early, 2);
	assert_int_equal(n.ewise, 1);
	assert_int_equal(n.gemm + n.copy, 0);
	device_check(ctx, "ieee", b.f, 3, -2, 2, true);
	an_program_free(p);
	an_ctx_close(ctx);
}

/* ---- Recorded programs ------------------------------------------------------------------------ */

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* The .mil files of a folder of the corpus, sorted; 0: it is not there. */
static int corpus_files(const char *folder, char **path, int max)
{
	char dir[400];
	snprintf(dir, sizeof dir, "%s/%s", TEST_CORPUS_DIR, folder);
	DIR *d = opendir(dir);
	int n = 0;
	for (struct dirent *e; d && (e = readdir(d)) && n < max;) {
		size_t len = strlen(e->d_name);
		if (len < 4 || strcmp(e->d_name + len - 4, ".mil"))
			continue;
		path[n] = malloc(strlen(dir) + len + 2);
		sprintf(path[n++], "%s/%s", dir, e->d_name);
	}
	if (d)
		closedir(d);
	qsort(path, (size_t)n, sizeof *path, by_name);
	return n;
}

/* Weights are not recorded: blobs get random values, small enough that sums stay in range. */
static void fill_blobs(an_program *p)
{
	for (size_t i = 0; i < p->nfunctions; i++)
		for (size_t j = 0; j < p->functions[i]->nops; j++) {
			mil_op *op = &p->functions[i]->ops[j];
			for (uint32_t k = 0; k < op->nattrs; k++) {
				mil_literal *l = &op->attrs[k].lit;
				if (l->kind != LIT_BLOB)
					continue;
				void *bytes = arena_alloc(&p->arena, an_type_bytes(&l->type));
				assert_non_null(bytes);
				bool small = l->type.dtype == AN_FP16 || l->type.dtype == AN_FP32;
				device_fill(&l->type, bytes, 3, j, small ? -0.1 : -100, small ? 0.1 : 100);
				l->bytes = bytes;
			}
		}
}

static int64_t work(const an_function *f)
{
	int64_t n = 0;
	for (size_t i = 0; i < f->nops; i++) {
		n += op_flops(f, &f->ops[i]);
		for (int j = 0; j < f->ops[i].nresults; j++)
			n += an_type_count(&f->values[f->ops[i].results[j]].type);
	}
	return n;
}

static void test_corpus(void **state)
{
	(void)state;
	static const char *const folders[] = {"maderix", "orion"};
	int compiled = 0, checked = 0, refused = 0;
	for (int k = 0; k < LENGTH(folders); k++) {
		char *path[200];
		int n = corpus_files(folders[k], path, LENGTH(path));
		for (int i = 0; i < n; i++) {
			an_ctx *ctx = device_ctx(2);
			an_program *p;
			MIL_OK(ctx, an_program_read(ctx, path[i], &p));
			fill_blobs(p);
			an_function *f = an_program_function(p, NULL);
			an_device *d = device_soft(ctx, "ieee", true);
			an_executable *e;
			an_status s = an_compile(d, f, &e);
			if (s == AN_DEVICE) {
				refused++;
			} else {
				MIL_OK(ctx, s);
				check_plan(e->impl);
				compiled++;
			}
			/* double precision takes its time */
			if (s == AN_OK && work(f) < 60000000) {
				device_check(ctx, "ieee", f, (uint64_t)i, -0.5, 0.5, true);
				checked++;
			}
			an_device_close(d);
			an_program_free(p);
			an_ctx_close(ctx);
			free(path[i]);
		}
	}
	if (!compiled && !refused)
		skip(); /* no corpus here */
	print_message("%d programs compiled, %d compared, %d refused\n", compiled, checked, refused);
	assert_int_equal(refused, 0);
	assert_true(checked > 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_random_programs),
	    cmocka_unit_test(test_random_loops),
	    cmocka_unit_test(test_threads),
	    cmocka_unit_test(test_plan),
	    cmocka_unit_test(test_norm_and_linear),
	    cmocka_unit_test(test_attention_without_copies),
	    cmocka_unit_test(test_triangles),
	    cmocka_unit_test(test_groups_of_heads),
	    cmocka_unit_test(test_sums_and_threads),
	    cmocka_unit_test(test_counting_in_loops),
	    cmocka_unit_test(test_overwriting_in_bands),
	    cmocka_unit_test(test_overwriting_what_is_read),
	    cmocka_unit_test(test_few_columns_in_bands),
	    cmocka_unit_test(test_counting_in_bands),
	    cmocka_unit_test(test_recompute),
	    cmocka_unit_test(test_rotation_in_one_pass),
	    cmocka_unit_test(test_constants_fold),
	    cmocka_unit_test(test_corpus),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
