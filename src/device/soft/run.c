/* Running an executable: addresses are filled in, then one kernel after the other. */
#include "device/soft/soft.h"

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
static void index_of_extreme(const soft_call *c)
{
	int rank = c->u.copy.rank, axis = c->u.copy.axis;
	const int64_t *dim = c->u.copy.dim;
	int64_t at[SOFT_RANK] = {0};
	do {
		double best = 0;
		int64_t index = 0;
		for (at[axis] = 0; at[axis] < dim[axis]; at[axis]++) {
			double x = load_float(c->u.copy.x.type, element(&c->u.copy.x, rank, at));
			bool better = c->u.copy.min ? x < best : x > best;
			if (at[axis] == 0 || better || (x != x && best == best)) {
				best = x;
				index = at[axis];
			}
		}
		at[axis] = 0;
		char *y = element(&c->u.copy.y, rank, at);
		if (c->u.copy.y.type == K_U16)
			*(uint16_t *)y = (uint16_t)index;
		else
			*(int32_t *)y = (int32_t)index;
	} while (step(rank, dim, ~(1u << axis), at));
}

/* ---- Calls ---------------------------------------------------------------------------- */

static void run_call(pool *p, uint32_t isa, soft_exe *e, soft_call *c)
{
	void *at[EW_MAX_OPERANDS + 1];
	for (int i = 0; i < c->nrefs; i++)
		at[i] = (char *)e->base[c->ref[i].base] + c->ref[i].offset;
	switch (c->kind) {
	case CALL_EWISE:
	case CALL_REDUCE:
		for (int i = 0; i < c->u.ew.prog.noperands; i++)
			c->u.ew.operand[i].data = at[i];
		if (c->kind == CALL_EWISE) {
			k_ewise(p, isa, &c->u.ew.prog);
			return;
		}
		c->u.ew.out.data = at[c->u.ew.prog.noperands];
		k_reduce(p, isa, &c->u.ew.prog, c->u.ew.reg, c->u.ew.how, c->u.ew.mask, &c->u.ew.out);
		return;
	case CALL_GEMM: {
		c->u.gemm.args.a.data = at[0];
		c->u.gemm.args.b.data = at[1];
		c->u.gemm.args.c.data = at[2];
		int used = 3;
		if (c->u.gemm.biased)
			c->u.gemm.args.bias.data = at[used++];
		k_gemm(p, c->u.gemm.row, &c->u.gemm.args, c->nrefs > used ? at[used] : NULL);
		return;
	}
	default: break;
	}
	c->u.copy.x.data = at[0];
	c->u.copy.y.data = at[1];
	switch (c->kind) {
	case CALL_SOFTMAX:
		k_softmax(p, isa, c->u.copy.rank, c->u.copy.dim, c->u.copy.axis, &c->u.copy.x, &c->u.copy.y);
		return;
	case CALL_COPY:
		k_copy_strided(p, k_type_size(c->u.copy.x.type), c->u.copy.rank, c->u.copy.dim, at[1],
			       c->u.copy.y.stride, at[0], c->u.copy.x.stride);
		return;
	default: index_of_extreme(c);
	}
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

/* Softmax: what it returns is in [0, 1], so there is only its size to tell. */
static void count_elements(const soft_call *c, an_counts *to)
{
	int rank = c->u.copy.rank;
	int64_t at[SOFT_RANK] = {0};
	do {
		double y = load_float(c->u.copy.y.type, element(&c->u.copy.y, rank, at));
		to->results++;
		if (y > to->largest) /* not NaN */
			to->largest = y;
	} while (step(rank, c->u.copy.dim, ~0u, at));
}

/* Runs a call and adds what its operations did to `counts`. */
static void run_counted(pool *p, uint32_t isa, soft_exe *e, soft_call *c, an_counts *counts)
{
	k_counts part[CODE_INSTRS + 1] = {{0}};
	bool elementwise = c->kind == CALL_EWISE || c->kind == CALL_REDUCE;
	if (elementwise)
		c->u.ew.prog.counts = part;
	run_call(p, isa, e, c);
	if (elementwise) {
		c->u.ew.prog.counts = NULL;
		for (int i = 0; i < c->u.ew.prog.ninstr + (c->kind == CALL_REDUCE); i++)
			add_counts(&counts[c->u.ew.op[i]], &part[i]);
	} else if (c->kind == CALL_GEMM) {
		k_gemm_count(p, isa, &c->u.gemm.args, part);
		add_counts(&counts[c->op], part);
	} else if (c->kind == CALL_SOFTMAX) {
		count_elements(c, &counts[c->op]);
	}
}

void soft_run(an_device *d, soft_exe *e, int first, int end, an_counts *counts)
{
	soft_device *dev = d->impl;
	pool *p = ctx_pool(d->ctx);
	e->base[e->nports + BASE_SCRATCH] = dev->scratch;
	e->base[e->nports + BASE_CONST] = e->constants;
	for (int i = first; i < end; i++)
		if (counts)
			run_counted(p, d->ctx->isa, e, &e->call[i], counts);
		else
			run_call(p, d->ctx->isa, e, &e->call[i]);
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
		e->base[i] = (char *)c->bound[i]->impl + c->bound[i]->offset;
		if (i >= nin && needs_stage(c, i)) {
			e->base[i] = stage;
			stage += stage_bytes(c->bound[i]);
		}
	}
	soft_run(d, e, e->nearly, e->ncalls, d->counting ? c->exe->counts : NULL);
	for (int i = nin; i < e->nports; i++) {
		char *home = (char *)c->bound[i]->impl + c->bound[i]->offset;
		if (e->base[i] != home)
			memcpy(home, e->base[i], c->bound[i]->bytes);
	}
	return AN_OK;
}

an_status soft_wait(an_call *c)
{
	const soft_device *dev = c->exe->device->impl;
	return dev->status; /* submit has done the work */
}
