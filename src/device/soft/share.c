/* An operand that several products read is packed once for all of them.
 *
 * Queries, keys and values are products with one activation, gate and up with another.  A large product packs
 * such an operand, all of it, before its threads compute; here that becomes a call of its own, and panels are
 * values in scratch that live until the last of these products.
 *
 * Requires: calls in the order of execution, no addresses (loop.c).  Products within loops keep what they
 * pack themselves.
 * Breaks: nothing; adds CALL_PACK.  Bits do not change. */
#include "device/soft/loop.h"

typedef struct sharer {
	soft_fn *s;
	soft_exe *e;
	arena *a;
	soft_call *list; /* calls, and what is packed before them */
	int n;
} sharer;

/* Whether a call, or one within it, writes to a storage. */
static bool writes(const soft_call *c, int storage)
{
	const soft_call *inner = c->kind == CALL_LOOP ? c->u.loop.call : c;
	for (int k = 0, r = 0; k < c->nrefs; k++, r++) {
		for (; r == inner->nrefs; inner++)
			r = 0;
		if (c->storage[k] == storage && soft_access(inner, r).written)
			return true;
	}
	return false;
}

/* Whether product c packs operand `which` before it computes, and nobody has done so. */
static bool packs(const sharer *h, const soft_call *c, k_operand which)
{
	return c->kind == CALL_GEMM && !c->u.gemm.packed[which] &&
	       k_gemm_packs_first(c->u.gemm.row, &c->u.gemm.args, which, h->s->ctx->threads);
}

/* Whether d is a product too that would make the same panels of its operand. */
static bool reads_alike(const soft_call *c, const soft_call *d, k_operand which)
{
	return d->kind == CALL_GEMM && c->storage[which] == d->storage[which] &&
	       c->ref[which].offset == d->ref[which].offset &&
	       k_gemm_packs_alike(c->u.gemm.row, &c->u.gemm.args, d->u.gemm.row, &d->u.gemm.args, which);
}

/* Lets product c read panels that are there. */
static void take(const sharer *h, soft_call *c, k_operand which, int panels)
{
	c->u.gemm.packed[which] = c->nrefs;
	soft_add_ref(c, panels, 0);
	soft_size_gemm(h->s, c);
}

/* Adds a call that packs an operand of product c; *panels is where. */
static an_status add_pack(sharer *h, const soft_call *c, k_operand which, int *panels)
{
	const k_gemm_args *g = &c->u.gemm.args;
	const int64_t bytes = (int64_t)k_gemm_packed_bytes(c->u.gemm.row, g, which);
	const k_type type = which == K_A ? g->a.type : g->b.type;
	soft_call pack = {.kind = CALL_PACK,
			  .op = c->op,
			  .bytes = bytes + (which == K_A ? g->m : g->n) * g->k * (int64_t)k_type_size(type),
			  .ref = arena_array(h->a, 2, sizeof *pack.ref),
			  .storage = arena_array(h->a, 2, sizeof *pack.storage)};
	if (!pack.ref || !pack.storage)
		return fail_memory(h->s->ctx, 0);
	TRY(soft_add_storage(h->s, STORE_SCRATCH, -1, bytes, panels));
	pack.u.gemm = c->u.gemm;
	pack.u.gemm.which = which;
	soft_add_ref(&pack, c->storage[which], c->ref[which].offset);
	soft_add_ref(&pack, *panels, 0);
	h->list[h->n++] = pack;
	return AN_OK;
}

/* Lets the products from call i on that read operand `which` of it share what is made of it. */
static an_status share(sharer *h, int i, k_operand which)
{
	soft_call *call = h->e->call;
	int panels = -1;
	if (!packs(h, &call[i], which))
		return AN_OK;
	for (int j = i; j + 1 < h->e->ncalls && !writes(&call[j], call[i].storage[which]); j++) {
		soft_call *next = &call[j + 1];
		if (!reads_alike(&call[i], next, which) || !packs(h, next, which))
			continue;
		if (panels < 0) {
			TRY(add_pack(h, &call[i], which, &panels));
			take(h, &call[i], which, panels);
		}
		take(h, next, which, panels);
	}
	return AN_OK;
}

an_status soft_share(soft_fn *s, soft_exe *e, arena *a)
{
	/* each operand packed serves two products */
	sharer h = {
	    .s = s, .e = e, .a = a, .list = arena_array(s->tmp, 2 * (size_t)e->ncalls + 1, sizeof *h.list)};
	if (!h.list)
		return fail_memory(s->ctx, 0);
	if (s->dev->no_fusion)
		return AN_OK;
	for (int i = 0; i < e->ncalls; i++) {
		for (int which = K_A; which <= K_B && i >= e->nearly; which++)
			TRY(share(&h, i, (k_operand)which));
		h.list[h.n++] = e->call[i];
	}
	e->ncalls = h.n;
	e->call = arena_copy(a, h.list, (size_t)h.n * sizeof *h.list);
	return e->call ? AN_OK : fail_memory(s->ctx, 0);
}
