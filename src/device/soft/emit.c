/* Groups of nodes -> kernel calls.  Addresses stay open: a call has references to storage. */
#include "device/soft/soft.h"

typedef struct emitter {
	soft_fn *s;
	soft_exe *e;
	arena *a; /* what the executable keeps */
} emitter;

static int64_t magnitude(int64_t x) { return x < 0 ? -x : x; }

static int64_t elements(int rank, const int64_t *dim)
{
	int64_t n = 1;
	for (int i = 0; i < rank; i++)
		n *= dim[i];
	return n;
}

/* ---- References --------------------------------------------------------------------- */

static an_status alloc_refs(emitter *m, soft_call *c, int n)
{
	c->ref = arena_array(m->a, (size_t)n, sizeof *c->ref);
	c->storage = arena_array(m->a, (size_t)n, sizeof *c->storage);
	return c->ref && c->storage ? AN_OK : fail_memory(m->s->ctx, 0);
}

void soft_add_ref(soft_call *c, int storage, int64_t bytes)
{
	c->storage[c->nrefs] = storage;
	c->ref[c->nrefs++] = (soft_ref){.base = -1, .offset = bytes}; /* plan.c sets the base */
}

static void refer(soft_call *c, const soft_value *v)
{
	soft_add_ref(c, v->at.storage, v->at.offset * (int64_t)k_type_size(v->type));
}

/* Bytes of the elements that strides reach: an axis of stride 0 is the same memory again. */
static int64_t reach(k_type type, int rank, const int64_t *dim, const int64_t *stride)
{
	int64_t n = (int64_t)k_type_size(type);
	for (int i = 0; i < rank; i++)
		n *= stride[i] ? dim[i] : 1;
	return n;
}

/* ---- Elementwise groups --------------------------------------------------------------- */

static an_status emit_group(emitter *m, int first, soft_call *c)
{
	const soft_fn *s = m->s;
	soft_code code;
	if (!soft_group_code(s, first, &code))
		return fail(s->ctx, AN_DEVICE,
			    "function \"%s\", operation %s: it needs more registers than there are",
			    s->f->name, op_table[s->f->ops[c->op].op].name);
	c->kind = code.reduce < 0 ? CALL_EWISE : CALL_REDUCE;
	TRY(alloc_refs(m, c, code.noperands + 1));
	ew_operand *operand = arena_array(m->a, (size_t)code.noperands + 1, sizeof *operand);
	ew_instr *instr = arena_copy(m->a, code.instr, (size_t)code.ninstr * sizeof *instr);
	c->u.ew.op = arena_array(m->a, (size_t)code.ninstr + 1, sizeof *c->u.ew.op);
	if (!operand || !instr || !c->u.ew.op)
		return fail_memory(s->ctx, 0);
	memcpy(c->u.ew.op, code.op, (size_t)code.ninstr * sizeof *code.op);
	c->u.ew.op[code.ninstr] = c->op; /* the reduction comes last */
	for (int i = 0; i < code.noperands; i++) {
		const soft_value *v = &s->values[code.operand[i].value];
		operand[i].type = v->type;
		memcpy(operand[i].stride, code.operand[i].stride, sizeof operand[i].stride);
		refer(c, v);
		c->bytes += reach(v->type, code.rank, code.dim, code.operand[i].stride);
	}
	c->u.ew.operand = operand;
	c->u.ew.prog = (ew_program){.rank = code.rank,
				    .ninstr = code.ninstr,
				    .noperands = code.noperands,
				    .nregs = code.nregs,
				    .instr = instr,
				    .operand = operand,
				    .above = code.half.above,
				    .below = code.half.below,
				    .integer = code.integer};
	memcpy(c->u.ew.prog.dim, code.dim, sizeof code.dim);
	if (code.reduce >= 0) {
		const soft_value *y = &s->values[s->nodes[code.reduce].out];
		c->u.ew.out.type = y->type;
		memcpy(c->u.ew.out.stride, code.out_stride, sizeof code.out_stride);
		c->u.ew.how = s->nodes[code.reduce].u.reduce.how;
		c->u.ew.mask = code.mask;
		c->u.ew.reg = code.reg;
		refer(c, y);
		c->bytes += reach(y->type, code.rank, code.dim, code.out_stride);
	}
	return AN_OK;
}

/* ---- Contractions ---------------------------------------------------------------------- */

/* What is shorter than `rank`, or 1, is repeated. */
static k_matrix matrix(const soft_value *v, int rank)
{
	k_matrix x = {.type = v->type};
	x.rs = v->rank < 2 || v->dim[v->rank - 2] == 1 ? 0 : v->at.stride[v->rank - 2];
	x.cs = v->rank < 1 || v->dim[v->rank - 1] == 1 ? 0 : v->at.stride[v->rank - 1];
	for (int i = 0; i < rank - 2; i++) { /* aligned at the end */
		int j = i - (rank - v->rank);
		x.bs[i] = j < 0 || v->dim[j] == 1 ? 0 : v->at.stride[j];
	}
	return x;
}

static void drop_batch(k_gemm_args *g, int i)
{
	k_matrix *const all[] = {&g->a, &g->b, &g->c, &g->bias};
	g->nbatch--;
	for (int j = i; j < g->nbatch; j++) {
		g->batch[j] = g->batch[j + 1];
		for (int k = 0; k < LENGTH(all); k++)
			all[k]->bs[j] = all[k]->bs[j + 1];
	}
	for (int k = 0; k < LENGTH(all); k++)
		all[k]->bs[g->nbatch] = 0;
}

/* Fewer, larger products: batches that continue the rows of A and C, or the columns of B and C,
 * while the other operand stays the same, are more rows or columns; batch axes that follow
 * each other without a gap are one.  Returns whether the operands were exchanged. */
static bool simplify_product(k_gemm_args *g)
{
	for (int i = g->nbatch; i-- > 0;)
		if (g->batch[i] == 1)
			drop_batch(g, i);
	const bool triangles = g->triangle_a || g->triangle_b || g->triangle_c; /* of each batch */
	for (int i = g->nbatch; i-- > 0 && !triangles;) {
		int64_t n = g->batch[i];
		if (g->b.bs[i] == 0 &&
		    (g->m == 1 || (g->a.bs[i] == g->a.rs * g->m && g->c.bs[i] == g->c.rs * g->m &&
				   g->bias.bs[i] == g->bias.rs * g->m))) {
			if (g->m == 1) {
				g->a.rs = g->a.bs[i];
				g->c.rs = g->c.bs[i];
				g->bias.rs = g->bias.bs[i];
			}
			g->m *= n;
			drop_batch(g, i);
		} else if (g->a.bs[i] == 0 &&
			   (g->n == 1 || (g->b.bs[i] == g->b.cs * g->n && g->c.bs[i] == g->c.cs * g->n &&
					  g->bias.bs[i] == g->bias.cs * g->n))) {
			if (g->n == 1) {
				g->b.cs = g->b.bs[i];
				g->c.cs = g->c.bs[i];
				g->bias.cs = g->bias.bs[i];
			}
			g->n *= n;
			drop_batch(g, i);
		}
	}
	for (int i = g->nbatch - 2; i >= 0; i--) {
		int64_t n = g->batch[i + 1];
		if (g->a.bs[i] == g->a.bs[i + 1] * n && g->b.bs[i] == g->b.bs[i + 1] * n &&
		    g->c.bs[i] == g->c.bs[i + 1] * n && g->bias.bs[i] == g->bias.bs[i + 1] * n) {
			g->batch[i + 1] *= g->batch[i];
			drop_batch(g, i);
		}
	}
	/* rows of C are contiguous where they can be */
	bool swap = magnitude(g->c.cs) != 1 && magnitude(g->c.rs) == 1 && g->m > 1;
	if (swap)
		k_gemm_transpose(g);
	/* a stride along an axis of 1 is never stepped; give it what a packed matrix would have */
	if (g->n == 1)
		g->b.cs = g->c.cs = 1;
	if (g->m == 1) {
		g->a.rs = g->a.cs == 1 ? g->k : 1;
		g->c.rs = g->c.cs == 1 ? g->n : 1;
	}
	if (g->k == 1) {
		g->a.cs = 1;
		g->b.rs = g->b.cs == 1 ? g->n : 1;
	}
	return swap;
}

static k_triangle triangle(soft_half h, int rank)
{
	return h.above == rank - 1 && h.below == rank - 2   ? K_LOWER
	       : h.above == rank - 2 && h.below == rank - 1 ? K_UPPER
							    : K_WHOLE;
}

/* Which operands may be kept packed, in what they take. */
static void find_forms(const soft_fn *s, soft_call *c)
{
	for (int which = K_A; which <= K_B; which++) {
		const soft_storage *st = &s->storages[c->storage[which]];
		if (st->kind == STORE_PORT && st->port < (int)s->f->ninputs)
			c->u.gemm.form_bytes[which] =
			    soft_form_bytes(c->u.gemm.row, &c->u.gemm.args, (k_operand)which);
	}
}

/* Scratch for a product, whichever of its operands are packed. */
static size_t scratch_of(const soft_fn *s, const soft_call *c)
{
	const size_t *form = c->u.gemm.form_bytes;
	const int *packed = c->u.gemm.packed;
	size_t most = 0;
	for (int i = 0; i < 4; i++) {
		const bool is[] = {i & 1, i & 2};
		bool may = true;
		for (int which = K_A; which <= K_B; which++)
			may &= form[which] || is[which] == (packed[which] > 0);
		if (!may)
			continue;
		k_gemm_args g = c->u.gemm.args;
		g.packed_a = is[K_A] ? c : NULL;
		g.packed_b = is[K_B] ? c : NULL;
		most = MAX(most, k_gemm_scratch(c->u.gemm.row, &g, s->ctx->threads));
	}
	return most;
}

void soft_size_gemm(soft_fn *s, soft_call *c)
{
	find_forms(s, c);
	s->storages[c->storage[c->u.gemm.biased ? 4 : 3]].bytes = (int64_t)scratch_of(s, c);
}

static an_status emit_gemm(emitter *m, const soft_node *n, soft_call *c)
{
	soft_fn *s = m->s;
	const soft_value *x = &s->values[n->in[0]], *y = &s->values[n->in[1]], *z = &s->values[n->out];
	const soft_value *bias = n->nin > 2 ? &s->values[n->in[2]] : NULL;
	int rank = z->rank;
	k_gemm_args g = {.m = z->dim[rank - 2],
			 .n = z->dim[rank - 1],
			 .k = x->dim[x->rank - 1],
			 .nbatch = rank - 2,
			 .a = matrix(x, rank),
			 .b = matrix(y, rank),
			 .c = matrix(z, rank),
			 .precision = x->type == K_F16 ? dev_precision(s->numerics) : K_EXACT};
	for (int i = 0; i < g.nbatch; i++)
		g.batch[i] = z->dim[i];
	if (bias)
		g.bias = matrix(bias, rank);
	g.triangle_a = triangle(x->zero, x->rank);
	g.triangle_b = triangle(y->zero, y->rank);
	g.triangle_c = triangle(z->unneeded, rank);
	c->kind = CALL_GEMM;
	if (__builtin_mul_overflow(2 * elements(rank, z->dim), g.k, &c->flops))
		c->flops = INT64_MAX;
	c->bytes = reach(x->type, x->rank, x->dim, x->at.stride) +
		   reach(y->type, y->rank, y->dim, y->at.stride) +
		   reach(z->type, z->rank, z->dim, z->at.stride);
	if (bias)
		c->bytes += reach(bias->type, bias->rank, bias->dim, bias->at.stride);
	bool swapped = simplify_product(&g);
	c->u.gemm.args = g;
	c->u.gemm.row = k_gemm_select(&g, s->ctx->isa);
	TRY(alloc_refs(m, c, 7));
	refer(c, swapped ? y : x);
	refer(c, swapped ? x : y);
	refer(c, z);
	c->u.gemm.biased = bias;
	if (bias)
		refer(c, bias);
	int scratch;
	TRY(soft_add_storage(s, STORE_SCRATCH, -1, 0, &scratch));
	soft_add_ref(c, scratch, 0);
	soft_size_gemm(s, c);
	return AN_OK;
}

/* ---- Everything else ------------------------------------------------------------------- */

/* Axes of a copy in the order in which it writes, neighbours without a gap joined. */
static void simplify_copy(soft_call *c)
{
	int n = 0;
	int64_t *dim = c->u.copy.dim, *x = c->u.copy.x.stride, *y = c->u.copy.y.stride;
	for (int i = 0; i < c->u.copy.rank; i++) {
		if (dim[i] == 1)
			continue;
		int64_t d = dim[i], sx = x[i], sy = y[i];
		int at = n++;
		for (; at > 0 && magnitude(y[at - 1]) < magnitude(sy); at--) {
			dim[at] = dim[at - 1];
			x[at] = x[at - 1];
			y[at] = y[at - 1];
		}
		dim[at] = d;
		x[at] = sx;
		y[at] = sy;
	}
	for (int i = n - 2; i >= 0; i--) {
		if (x[i] != x[i + 1] * dim[i + 1] || y[i] != y[i + 1] * dim[i + 1])
			continue;
		dim[i] *= dim[i + 1];
		x[i] = x[i + 1];
		y[i] = y[i + 1];
		n--;
		for (int j = i + 1; j < n; j++) {
			dim[j] = dim[j + 1];
			x[j] = x[j + 1];
			y[j] = y[j + 1];
		}
	}
	if (n == 0) {
		dim[n] = 1;
		x[n] = y[n] = 1;
		n++;
	}
	c->u.copy.rank = n;
}

/* Nodes with one operand: softmax, index of the extreme, copy. */
static an_status emit_single(emitter *m, const soft_node *n, soft_call *c)
{
	const soft_value *x = &m->s->values[n->in[0]], *y = &m->s->values[n->out];
	c->u.copy.rank = x->rank;
	c->u.copy.x.type = x->type;
	c->u.copy.y.type = y->type;
	for (int i = 0; i < x->rank; i++) {
		c->u.copy.dim[i] = x->dim[i];
		c->u.copy.x.stride[i] = x->at.stride[i];
		c->u.copy.y.stride[i] = y->dim[i] == x->dim[i] ? y->at.stride[i] : 0;
	}
	c->bytes =
	    reach(x->type, x->rank, x->dim, x->at.stride) + reach(y->type, y->rank, y->dim, y->at.stride);
	TRY(alloc_refs(m, c, 2));
	refer(c, x);
	refer(c, y);
	switch (n->kind) {
	case NODE_SOFTMAX:
		c->kind = CALL_SOFTMAX;
		c->u.copy.below = y->zero.above != y->zero.below ? y->zero.below : -1;
		c->u.copy.axis = n->u.along.axis;
		break;
	case NODE_ARG:
		c->kind = CALL_ARG;
		c->u.copy.axis = n->u.along.axis;
		c->u.copy.min = n->u.along.min;
		break;
	default: c->kind = CALL_COPY; simplify_copy(c);
	}
	return AN_OK;
}

static an_status emit_call(emitter *m, int first, soft_call *c)
{
	const soft_fn *s = m->s;
	const soft_node *n = &s->nodes[first];
	for (int i = first; i >= 0; i = s->nodes[i].next) {
		c->op = s->nodes[i].op;
		c->nodes++;
	}
	if (soft_fusable(n))
		return emit_group(m, first, c);
	return n->kind == NODE_GEMM ? emit_gemm(m, n, c) : emit_single(m, n, c);
}

/* Calls whose operands are all known run once, when compiling ends: they come first. */
an_status soft_emit(soft_fn *s, soft_exe *e, arena *a)
{
	emitter m = {.s = s, .e = e, .a = a};
	e->call = arena_array(a, (size_t)s->norder + 1, sizeof *e->call);
	if (!e->call)
		return fail_memory(s->ctx, 0);
	for (int early = 1; early >= 0; early--) {
		for (int i = 0; i < s->norder; i++)
			if (s->values[s->nodes[s->order[i]].out].constant == (bool)early)
				TRY(emit_call(&m, s->order[i], &e->call[e->ncalls++]));
		if (early)
			e->nearly = e->ncalls;
	}
	return AN_OK;
}
