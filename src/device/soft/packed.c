/* Weights in the layout that products read, kept from run to run.
 *
 * A product packs its operands whenever it runs.  What it reads of memory that an_buffer_keep_packed marks is
 * kept packed for as long as the memory does not change: a form.  Layers share executables, so forms belong
 * to the memory.
 *
 * Making one takes about what three products lose by packing, who do it while they compute and leave the
 * panels in the cache; so whether one is made goes by how often it would have been used so far. */
#include "device/soft/soft.h"

enum { PAYS = 3 }; /* uses in one version */

struct soft_form {
	soft_form *next;
	/* what it is made of, and how */
	const k_gemm_row *row;
	k_operand which;
	k_gemm_args product; /* a product that reads it */
	/* how it is at present */
	int64_t version;  /* of the memory, when it was last asked for */
	int uses, before; /* in that version and in the one before, up to PAYS */
	bool made;
	void *panels; /* NULL: there is no memory for them now */
	size_t bytes;
};

size_t soft_form_bytes(const k_gemm_row *row, const k_gemm_args *g, k_operand which)
{
	const k_matrix *of = which == K_A ? &g->a : &g->b;
	size_t bytes = k_gemm_packed_bytes(row, g, which);
	size_t elements = (size_t)((which == K_A ? g->m : g->n) * g->k);
	for (int d = 0; d < g->nbatch; d++)
		elements *= of->bs[d] ? (size_t)g->batch[d] : 1;
	/* panels of wider elements save little for what they take, and would have to come from memory */
	return bytes <= elements * k_type_size(of->type) * 3 / 2 ? bytes : 0;
}

static soft_form key_of(const soft_call *c, k_operand which, void *data)
{
	soft_form f = {.row = c->u.gemm.row,
		       .which = which,
		       .product = c->u.gemm.args,
		       .bytes = c->u.gemm.form_bytes[which]};
	*(which == K_A ? &f.product.a.data : &f.product.b.data) = data;
	return f;
}

static bool same(const soft_form *x, const soft_form *y)
{
	return x->which == y->which && k_gemm_packs_alike(x->row, &x->product, y->row, &y->product, x->which);
}

/* NULL: out of memory. */
static soft_form *find(an_ctx *ctx, soft_memory *m, const soft_form *key)
{
	soft_form *f = m->forms;
	while (f && !same(f, key))
		f = f->next;
	if (f || !(f = mem_alloc(ctx, sizeof *f)))
		return f;
	*f = *key;
	f->version = m->version;
	f->next = m->forms;
	m->forms = f;
	return f;
}

static void drop_panels(an_device *d, soft_form *f)
{
	if (!f->panels)
		return;
	mem_free_tensor(d->ctx, f->panels, f->bytes);
	d->info.memory -= (int64_t)f->bytes;
	f->panels = NULL;
}

/* Counts a use, and says whether it is to be one of panels that are kept. */
static bool pays(an_device *d, const soft_memory *m, soft_form *f)
{
	if (f->version != m->version) {
		f->version = m->version;
		f->before = f->uses;
		f->uses = 0;
		f->made = false;
		if (f->before < PAYS)
			drop_panels(d, f);
	}
	f->uses = MIN(f->uses + 1, PAYS);
	return f->uses >= PAYS || f->before >= PAYS;
}

const void *soft_packed(an_device *d, soft_memory *m, const soft_call *c, k_operand which, void *at)
{
	soft_form key = key_of(c, which, at), *f = find(d->ctx, m, &key);
	if (!f || !pays(d, m, f))
		return NULL;
	if (!f->panels) {
		if (!(f->panels = mem_alloc_tensor(d->ctx, f->bytes)))
			return NULL;
		d->info.memory += (int64_t)f->bytes;
	}
	if (!f->made) {
		assert(k_gemm_packed_bytes(f->row, &f->product, which) <= f->bytes);
		k_gemm_pack(ctx_pool(d->ctx), f->row, &f->product, which, f->panels);
		f->made = true;
	}
	return f->panels;
}

void soft_drop_forms(an_device *d, soft_memory *m)
{
	for (soft_form *f = m->forms, *next; f; f = next) {
		next = f->next;
		drop_panels(d, f);
		mem_free(d->ctx, f, sizeof *f);
	}
	m->forms = NULL;
}

size_t soft_packed_bytes(const an_executable *x, int port)
{
	const soft_exe *e = x->impl;
	size_t sum = 0;
	for (int i = e->nearly; i < e->ncalls; i++) {
		const soft_call *c = &e->call[i];
		for (int which = K_A; c->kind == CALL_GEMM && which <= K_B; which++)
			if (c->ref[which].base == port)
				sum += c->u.gemm.form_bytes[which];
	}
	return sum;
}
