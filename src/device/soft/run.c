/* Running an executable: addresses are filled in, then one kernel after the other. */
#include "device/soft/loop.h"

/* ---- What no fast kernel does -------------------------------------------------------- */

static double load_float(k_type t, const char *p)
{
	return t == K_F16 ? half_to_float(*(const half *)p) : *(const float *)p;
}

/* Steps `at` through the axes in `mask`; false after the last point. */
static bool step(int rank, const int64_t *dim, uint32_t mask, int64_t *at)
{
	for (int i = rank; i-- > 0;) {
		if (!(mask >> i & 1))
			continue;
		if (++at[i] < dim[i])
			return true;
		at[i] = 0;
	}
	return false;
}

static char *element(const ew_operand *x, int rank, const int64_t *at)
{
	int64_t offset = 0;
	for (int i = 0; i < rank; i++)
		offset += at[i] * x->stride[i];
	return (char *)x->data + offset * (int64_t)k_type_size(x->type);
}

/* The first of equal elements wins; a NaN counts as larger and smaller than any number. */
static void index_of_extreme(const soft_call *c, const int64_t *dim, const ew_operand *from,
			     const ew_operand *to)
{
	int rank = c->u.copy.rank, axis = c->u.copy.axis;
	int64_t at[SOFT_RANK] = {0};
	do {
		double best = 0;
		int64_t index = 0;
		for (at[axis] = 0; at[axis] < dim[axis]; at[axis]++) {
			double x = load_float(from->type, element(from, rank, at));
			bool better = c->u.copy.min ? x < best : x > best;
			if (at[axis] == 0 || better || (x != x && best == best)) {
				best = x;
				index = at[axis];
			}
		}
		at[axis] = 0;
		char *y = element(to, rank, at);
		if (to->type == K_U16)
			*(uint16_t *)y = (uint16_t)index;
		else
			*(int32_t *)y = (int32_t)index;
	} while (step(rank, dim, ~(1u << axis), at));
}

/* Softmax: what it returns is in [0, 1], so there is only its size to tell. */
static void count_elements(int rank, const int64_t *dim, const ew_operand *y, k_counts *to)
{
	int64_t at[SOFT_RANK] = {0};
	do {
		double v = load_float(y->type, element(y, rank, at));
		to->results++;
		if (v > (double)to->largest) /* not NaN */
			to->largest = (float)v;
	} while (step(rank, dim, ~0u, at));
}

/* ---- Calls ---------------------------------------------------------------------------- */

/* The part of a call that is run: all, or a band of its axis. */
typedef struct band {
	int64_t first, count;
} band;

/* c's program for a band: a triangle lies further down than in the first. */
static ew_program program_of(const soft_call *c, band b)
{
	ew_program p = c->u.ew.prog;
	if (c->band.width) {
		p.dim[c->band.axis] = b.count;
		p.shift += c->band.axis == p.below ? b.first : 0;
	}
	return p;
}

static k_gemm_args product_of(const soft_call *c, band b)
{
	k_gemm_args g = c->u.gemm.args;
	if (!c->band.width)
		return g;
	switch (c->band.axis - g.nbatch) {
	case AXIS_M:
		g.m = b.count;
		g.diagonal_a += b.first;
		g.diagonal_c += b.first;
		return g;
	case AXIS_N:
		g.n = b.count;
		g.diagonal_b -= b.first;
		g.diagonal_c -= b.first;
		return g;
	case AXIS_K:
		g.k = b.count;
		g.diagonal_a -= b.first;
		g.diagonal_b += b.first;
		return g;
	default: g.batch[c->band.axis] = b.count; return g;
	}
}

/* Results that were added up in fp32 are there. */
static void finish_sums(uint32_t isa, const k_gemm_args *g, const k_matrix *c, k_counts *counts)
{
	for (int64_t i = 0; i < g->m; i++) {
		const float *sum = (const float *)g->c.data + i * g->c.rs;
		k_f32_to_f16(NULL, isa, (half *)c->data + i * c->rs, sum, g->n);
		if (counts)
			k_counts_add_results(counts, sum, sum, g->n, K_F16);
	}
}

/* A band of K: sums are kept at `sums` until the last one makes results of them. */
static void add_products(pool *p, uint32_t isa, const soft_call *c, band b, k_gemm_args *g, char *sums,
			 k_counts *counts)
{
	const k_matrix results = g->c;
	k_counts part = {0};
	g->c = (k_matrix){.data = sums, .type = K_F32, .rs = soft_sums_ld(g->n), .cs = 1};
	g->accumulate = b.first > 0;
	k_gemm(c->u.gemm.alone ? NULL : p, c->u.gemm.row, g, sums + soft_aligned(c->u.gemm.kept));
	if (counts) {
		k_gemm_count(p, isa, g, &part);
		counts->products += part.products;
	}
	if (b.first + b.count == c->band.length)
		finish_sums(isa, g, &results, counts);
}

static void multiply(pool *p, uint32_t isa, const soft_call *c, band b, void *const *at, k_counts *counts)
{
	k_gemm_args g = product_of(c, b);
	g.a.data = at[0];
	g.b.data = at[1];
	g.c.data = at[2];
	int used = 3;
	if (c->u.gemm.biased)
		g.bias.data = at[used++];
	char *scratch = at[used];
	if (c->u.gemm.kept && soft_is_sum(c, 2, c->band.axis)) {
		add_products(p, isa, c, b, &g, scratch, counts);
		return;
	}
	if (c->u.gemm.kept) {
		const k_operand same = c->band.axis == g.nbatch + AXIS_M ? K_B : K_A;
		if (b.first == 0)
			k_gemm_pack(NULL, c->u.gemm.row, &g, same, scratch);
		*(same == K_B ? &g.packed_b : &g.packed_a) = scratch;
		scratch += soft_aligned(c->u.gemm.kept);
	}
	k_gemm(c->u.gemm.alone ? NULL : p, c->u.gemm.row, &g, scratch);
	if (counts)
		k_gemm_count(p, isa, &g, counts);
}

/* at: the address of each of its operands. */
static void run_call(pool *p, uint32_t isa, const soft_call *c, band b, void *const *at, k_counts *counts)
{
	switch (c->kind) {
	case CALL_EWISE:
	case CALL_REDUCE: {
		ew_program prog = program_of(c, b);
		ew_operand operand[EW_MAX_OPERANDS], out = c->u.ew.out;
		for (int i = 0; i < prog.noperands; i++) {
			operand[i] = c->u.ew.operand[i];
			operand[i].data = at[i];
		}
		prog.operand = operand;
		prog.counts = counts;
		if (c->kind == CALL_EWISE) {
			k_ewise(p, isa, &prog);
			return;
		}
		out.data = at[prog.noperands];
		k_reduce(p, isa, &prog, c->u.ew.reg, c->u.ew.how, c->u.ew.mask, &out);
		return;
	}
	case CALL_GEMM: multiply(p, isa, c, b, at, counts); return;
	case CALL_PACK: {
		k_gemm_args g = c->u.gemm.args;
		*(c->u.gemm.which == K_A ? &g.a.data : &g.b.data) = at[0];
		k_gemm_pack(p, c->u.gemm.row, &g, c->u.gemm.which, at[1]);
		return;
	}
	default: break;
	}
	ew_operand x = c->u.copy.x, y = c->u.copy.y;
	int64_t dim[SOFT_RANK];
	memcpy(dim, c->u.copy.dim, sizeof dim);
	if (c->band.width)
		dim[c->band.axis] = b.count;
	x.data = at[0];
	y.data = at[1];
	switch (c->kind) {
	case CALL_SOFTMAX:
		k_softmax(p, isa, c->u.copy.rank, dim, c->u.copy.axis, c->u.copy.below,
			  c->band.width && c->band.axis == c->u.copy.below ? b.first : 0, &x, &y);
		if (counts)
			count_elements(c->u.copy.rank, dim, &y, counts);
		return;
	case CALL_COPY:
		k_copy_strided(p, k_type_size(x.type), c->u.copy.rank, dim, at[1], y.stride, at[0], x.stride);
		return;
	default: index_of_extreme(c, dim, &x, &y);
	}
}

/* ---- Loops ------------------------------------------------------------------------------ */

static void *address(const soft_exe *e, const soft_ref *r) { return (char *)e->base[r->base] + r->offset; }

typedef struct loop_run {
	uint32_t isa;
	const soft_exe *e;
	const soft_call *loop;
	pool *p; /* for the calls of one iteration */
	an_counts *counts;
	bool timing;
} loop_run;

static void add_time(soft_call *c, band b, double began)
{
	__atomic_fetch_add(&c->nanoseconds, (int64_t)(1e9 * (seconds_now() - began)), __ATOMIC_RELAXED);
	__atomic_fetch_add(&c->runs, b.first == 0, __ATOMIC_RELAXED);
}

static void run_counted(pool *p, uint32_t isa, const soft_call *c, band b, void *const *at,
			an_counts *counts);

static void count_or_run(pool *p, uint32_t isa, const soft_call *c, band b, void *const *at,
			 an_counts *counts)
{
	if (counts)
		run_counted(p, isa, c, b, at, counts);
	else
		run_call(p, isa, c, b, at, NULL);
}

/* Calls [j, end) of iteration i, whose references begin with the k-th; returns where they end. */
static int run_band(const loop_run *run, int64_t i, int worker, int j, int end, band b, int k)
{
	const soft_call *loop = run->loop;
	for (; j < end; j++) {
		soft_call *c = &loop->u.loop.call[j];
		const int64_t bands = c->band.width ? b.first / c->band.width : 0;
		double began = run->timing ? seconds_now() : 0;
		void *at[EW_MAX_OPERANDS + 1];
		for (int r = 0; r < c->nrefs; r++, k++)
			at[r] = (char *)address(run->e, &loop->ref[k]) +
				loop->u.loop.step[k] *
				    (loop->u.loop.by_worker[k] ? worker : i / loop->u.loop.every[k]) +
				loop->u.loop.band_step[k] * bands;
		count_or_run(run->p, run->isa, c, b, at, run->counts);
		if (run->timing)
			add_time(c, b, began);
	}
	return k;
}

static void loop_item(void *arg, int64_t i, int worker)
{
	const loop_run *run = arg;
	const soft_call *call = run->loop->u.loop.call;
	for (int j = 0, k = 0, end; j < run->loop->u.loop.n; j = end) {
		const soft_band *s = &call[j].band;
		const int refs = k;
		end = j + MAX(s->calls, 1);
		band b = {0, s->width};
		do {
			b.count = MIN(s->length - b.first, s->width);
			k = run_band(run, i, worker, j, end, b, refs);
			b.first += s->width;
		} while (b.first < s->length);
	}
}

/* Counting goes through iterations one after the other, each on all threads. */
static void run_loop(pool *p, const an_device *d, const soft_exe *e, const soft_call *c, an_counts *counts)
{
	loop_run run = {d->ctx->isa, e, c, counts ? p : NULL, counts, d->timing};
	pool_run(counts ? NULL : p, loop_item, &run, c->u.loop.count);
}

/* ---- Counting -------------------------------------------------------------------------- */

static void add_counts(an_counts *to, const k_counts *c)
{
	dev_add_counts(to, &(an_counts){.products = c->products,
					.lost = c->lost,
					.results = c->results,
					.overflowed = c->overflowed,
					.vanished = c->vanished,
					.largest = c->largest});
}

/* Runs a call and adds what its operations did to `counts`. */
static void run_counted(pool *p, uint32_t isa, const soft_call *c, band b, void *const *at, an_counts *counts)
{
	k_counts part[CODE_INSTRS + 1] = {{0}};
	run_call(p, isa, c, b, at, part);
	if (c->kind != CALL_EWISE && c->kind != CALL_REDUCE) {
		if (c->op >= 0)
			add_counts(&counts[c->op], part);
		return;
	}
	for (int i = 0; i < c->u.ew.prog.ninstr + (c->kind == CALL_REDUCE); i++)
		add_counts(&counts[c->u.ew.op[i]], &part[i]);
}

/* The memory of an operand, at reference r, if it is kept packed. */
static soft_memory *keeper(const soft_exe *e, const soft_call *c, k_operand which, int r)
{
	return c->u.gemm.form_bytes[which] ? e->kept[c->ref[r].base] : NULL;
}

/* Lets a product have those of its operands that are packed. */
static void take_packed(an_device *d, const soft_exe *e, soft_call *c, void *const *at)
{
	const void **packed[] = {&c->u.gemm.args.packed_a, &c->u.gemm.args.packed_b};
	for (int r = K_A; r <= K_B; r++) {
		soft_memory *m = keeper(e, c, (k_operand)r, r);
		const int shared = c->u.gemm.packed[r];
		*packed[r] = m ? soft_packed(d, m, c, (k_operand)r, at[r]) : shared ? at[shared] : NULL;
	}
}

void soft_run(an_device *d, soft_exe *e, int first, int end, an_counts *counts)
{
	soft_device *dev = d->impl;
	pool *p = ctx_pool(d->ctx);
	e->base[e->nports + BASE_SCRATCH] = dev->scratch;
	e->base[e->nports + BASE_CONST] = e->constants;
	for (int i = first; i < end; i++) {
		soft_call *c = &e->call[i];
		double began = d->timing ? seconds_now() : 0;
		void *at[EW_MAX_OPERANDS + 1];
		for (int r = 0; c->kind != CALL_LOOP && r < c->nrefs; r++)
			at[r] = address(e, &c->ref[r]);
		if (c->kind == CALL_GEMM)
			take_packed(d, e, c, at);
		if (c->kind == CALL_LOOP)
			run_loop(p, d, e, c, counts);
		else if (c->kind != CALL_PACK || !keeper(e, c, c->u.gemm.which, 0))
			count_or_run(p, d->ctx->isa, c, (band){0}, at, counts);
		if (d->timing)
			add_time(c, (band){0}, began);
	}
}

an_status soft_reserve(an_device *d, void **block, size_t *have, size_t want)
{
	if (*have >= want)
		return AN_OK;
	mem_free_tensor(d->ctx, *block, *have);
	d->info.memory -= (int64_t)*have;
	*have = 0;
	*block = mem_alloc_tensor(d->ctx, want);
	if (!*block)
		return fail_memory(d->ctx, want);
	*have = want;
	d->info.memory += (int64_t)want;
	return AN_OK;
}

/* Outputs are written as soon as they are known, inputs are read until the end: where both are
 * the same memory, the output is computed elsewhere and copied when all is done. */
static bool needs_stage(const an_call *c, int output)
{
	for (int i = 0; i < c->exe->ninputs; i++)
		if (dev_overlap(c->bound[output], c->bound[i]))
			return true;
	return false;
}

static size_t stage_bytes(const an_buffer *b) { return (b->bytes + 63) / 64 * 64; }

an_status soft_submit(an_call *c)
{
	an_device *d = c->exe->device;
	soft_device *dev = d->impl;
	soft_exe *e = c->exe->impl;
	int nin = c->exe->ninputs;
	size_t staged = 0;
	dev->status = AN_OK;
	for (int i = nin; i < e->nports; i++)
		staged += needs_stage(c, i) ? stage_bytes(c->bound[i]) : 0;
	/* scratch was there when this was compiled, but a larger one may have been refused since */
	TRY(soft_reserve(d, &dev->scratch, &dev->scratch_size, e->scratch));
	TRY(soft_reserve(d, &dev->stage, &dev->stage_size, staged));
	char *stage = dev->stage;
	for (int i = 0; i < e->nports; i++) {
		soft_memory *m = c->bound[i]->impl;
		e->base[i] = soft_data(c->bound[i]);
		e->kept[i] = i < nin && m->keep ? m : NULL;
		if (i >= nin && needs_stage(c, i)) {
			e->base[i] = stage;
			stage += stage_bytes(c->bound[i]);
		}
	}
	soft_run(d, e, e->nearly, e->ncalls, d->counting ? c->exe->counts : NULL);
	for (int i = nin; i < e->nports; i++) {
		soft_memory *m = c->bound[i]->impl;
		void *home = soft_data(c->bound[i]);
		if (e->base[i] != home)
			memcpy(home, e->base[i], c->bound[i]->bytes);
		m->version++;
	}
	return AN_OK;
}

an_status soft_wait(an_call *c)
{
	const soft_device *dev = c->exe->device->impl;
	return dev->status; /* submit has done the work */
}
