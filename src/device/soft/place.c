/* Every value gets its place in memory.
 *
 * Wishes go backward: an output wants to be in the buffer bound to it, a part of a
 * concatenation wants to be in its slice, and a view hands its wish on to what it is a view
 * of, if that can be said in strides.  The first wish that reaches a value which some node
 * computes decides where that node writes.
 *
 * Then, forward, views take their operand's place with other strides; a reshape that
 * strides cannot express becomes a copy, as does every wish that was not fulfilled. */
#include "device/soft/soft.h"

/* ---- Places as numbers ------------------------------------------------------------- */

static void row_major(int rank, const int64_t *dim, int64_t *stride)
{
	int64_t n = 1;
	for (int i = rank; i-- > 0; n *= dim[i])
		stride[i] = n;
}

/* Whether both name the same elements in the same order. */
static bool same_place(const soft_value *shape, const soft_place *a, const soft_place *b)
{
	bool same = a->storage == b->storage && a->offset == b->offset;
	for (int i = 0; i < shape->rank; i++)
		same &= shape->dim[i] == 1 || a->stride[i] == b->stride[i];
	return same;
}

/* The strides with which an array of shape `from` at `at` can be read as one of shape `to`.
 * From the last axis on, elements are taken from a run: `have` of them, `step` apart.  A run
 * grows by the axis before it where that one steps over it without a gap. */
static bool reshape_place(const soft_value *from, const soft_place *at, const soft_value *to, soft_place *out)
{
	int64_t dim[SOFT_RANK], stride[SOFT_RANK], have = 1, step = 0;
	int i = 0;
	for (int k = 0; k < from->rank; k++)
		if (from->dim[k] != 1) {
			dim[i] = from->dim[k];
			stride[i++] = at->stride[k];
		}
	*out = (soft_place){.storage = at->storage, .offset = at->offset};
	for (int j = to->rank; j-- > 0;) {
		int64_t want = to->dim[j];
		if (want == 1)
			continue;
		if (have == 1) {
			assert(i > 0);
			have = dim[--i];
			step = stride[i];
		}
		while (have % want) {
			if (i == 0 || stride[i - 1] != step * have)
				return false;
			have *= dim[--i];
		}
		out->stride[j] = step;
		step *= want;
		have /= want;
	}
	return true;
}

static soft_place view_place(const soft_value *x, const soft_place *at, int rank, const soft_view *view)
{
	soft_place p = {.storage = at->storage, .offset = at->offset};
	for (int i = 0; i < x->rank; i++)
		p.offset += view->begin[i] * at->stride[i];
	for (int i = 0; i < rank; i++)
		p.stride[i] = view->axis[i] < 0 ? 0 : view->step[i] * at->stride[view->axis[i]];
	return p;
}

/* Where the operand must be for its view y to be at `at`: only if the view shows every element
 * of x once. */
static bool view_inverse(const soft_value *x, const soft_value *y, const soft_view *view,
			 const soft_place *at, soft_place *out)
{
	*out = (soft_place){.storage = at->storage, .offset = at->offset};
	uint32_t seen = 0;
	for (int i = 0; i < y->rank; i++) {
		int a = view->axis[i];
		if (y->dim[i] == 1)
			continue;
		if (a < 0 || view->step[i] != 1 || view->begin[a] || y->dim[i] != x->dim[a] || seen >> a & 1)
			return false;
		seen |= 1u << a;
		out->stride[a] = at->stride[i];
	}
	for (int a = 0; a < x->rank; a++)
		if (x->dim[a] > 1 && !(seen >> a & 1))
			return false;
	return true;
}

/* The slice of a concatenation at `at` that belongs to part i. */
static soft_place part_place(const soft_fn *s, const soft_node *n, const soft_place *at, int i)
{
	soft_place p = *at;
	int axis = n->u.concat.axis;
	if (n->u.concat.interleave) {
		p.offset += i * at->stride[axis];
		p.stride[axis] = n->nin * at->stride[axis];
	} else
		for (int j = 0; j < i; j++)
			p.offset += s->values[n->in[j]].dim[axis] * at->stride[axis];
	return p;
}

/* ---- Storage ----------------------------------------------------------------------- */

an_status soft_add_storage(soft_fn *s, storage_kind kind, int port, int64_t bytes, int *out)
{
	if (!mem_grow(s->ctx, &s->storages, &s->storages_cap, s->nstorages, sizeof *s->storages))
		return fail_memory(s->ctx, 0);
	s->storages[s->nstorages] =
	    (soft_storage){.kind = kind, .port = port, .bytes = bytes, .first = -1, .last = -1};
	*out = (int)s->nstorages++;
	return AN_OK;
}

/* New memory for v, row-major. */
static an_status own_storage(soft_fn *s, soft_value *v)
{
	TRY(soft_add_storage(s, v->constant ? STORE_CONST : STORE_SCRATCH, -1,
			     soft_elements(v) * (int64_t)k_type_size(v->type), &v->at.storage));
	v->at.offset = 0;
	row_major(v->rank, v->dim, v->at.stride);
	return AN_OK;
}

static an_status port_storage(soft_fn *s, const soft_value *v, int port, soft_place *at)
{
	TRY(soft_add_storage(s, STORE_PORT, port, soft_elements(v) * (int64_t)k_type_size(v->type),
			     &at->storage));
	at->offset = 0;
	row_major(v->rank, v->dim, at->stride);
	return AN_OK;
}

/* ---- Backward: wishes --------------------------------------------------------------- */

static void wish(soft_fn *s, int v, soft_place at)
{
	for (;;) {
		soft_value *y = &s->values[v];
		/* what is known while compiling stays with the constants */
		bool constant = s->storages[at.storage].kind == STORE_CONST;
		if (y->port || y->bytes || y->constant != constant || y->at.storage >= 0 || y->def < 0)
			return;
		const soft_node *n = &s->nodes[y->def];
		if (n->kind != NODE_VIEW && n->kind != NODE_RESHAPE) {
			y->at = at;
			return;
		}
		y->wish = at; /* in case it has to be copied after all */
		const soft_value *x = &s->values[n->in[0]];
		soft_place inner;
		if (!(n->kind == NODE_VIEW ? view_inverse(x, y, &n->u.view, &at, &inner)
					   : reshape_place(y, &at, x, &inner)))
			return;
		v = n->in[0];
		at = inner;
	}
}

/* Where value v would be if nobody had wishes: what is computed is row-major. */
static soft_place natural_place(const soft_fn *s, int v)
{
	const soft_value *y = &s->values[v];
	soft_place p = y->at, of;
	if (p.storage >= 0)
		return p;
	row_major(y->rank, y->dim, p.stride);
	p.offset = 0;
	const soft_node *n = y->def < 0 ? NULL : &s->nodes[y->def];
	if (n && n->kind == NODE_VIEW) {
		of = natural_place(s, n->in[0]);
		return view_place(&s->values[n->in[0]], &of, y->rank, &n->u.view);
	}
	if (n && n->kind == NODE_RESHAPE) {
		of = natural_place(s, n->in[0]);
		soft_place same;
		if (reshape_place(&s->values[n->in[0]], &of, y, &same))
			return same;
	}
	return p;
}

/* A reshape that would have to copy wishes for a place of its own instead, which its operand is then
 * written to; if the wish is not heard, the copy goes there. */
static an_status reshape_wish(soft_fn *s, const soft_node *n)
{
	soft_place from = natural_place(s, n->in[0]), to;
	soft_value *y = &s->values[n->out];
	if (y->wish.storage >= 0 || reshape_place(&s->values[n->in[0]], &from, y, &to))
		return AN_OK;
	to = (soft_place){.storage = -1};
	TRY(soft_add_storage(s, y->constant ? STORE_CONST : STORE_SCRATCH, -1,
			     soft_elements(y) * (int64_t)k_type_size(y->type), &to.storage));
	row_major(y->rank, y->dim, to.stride);
	wish(s, n->out, to);
	return AN_OK;
}

static an_status wishes(soft_fn *s, soft_place *output)
{
	for (size_t i = 0; i < s->f->noutputs; i++) {
		TRY(port_storage(s, &s->values[s->outputs[i]], (int)(s->f->ninputs + i), &output[i]));
		wish(s, s->outputs[i], output[i]);
	}
	for (size_t i = s->nnodes; i-- > 0;) {
		const soft_node *n = &s->nodes[i];
		if (n->kind == NODE_RESHAPE)
			TRY(reshape_wish(s, n));
		if (n->kind != NODE_CONCAT)
			continue;
		if (s->values[n->out].at.storage < 0)
			TRY(own_storage(s, &s->values[n->out]));
		for (int j = 0; j < n->nin; j++)
			wish(s, n->in[j], part_place(s, n, &s->values[n->out].at, j));
	}
	return AN_OK;
}

/* ---- Forward: places ---------------------------------------------------------------- */

/* The list being rewritten: nodes are moved down as views and concatenations leave it, so
 * copies are added to a new one. */
typedef struct node_list {
	soft_node *node;
	size_t n, cap;
} node_list;

static an_status append(soft_fn *s, node_list *list, const soft_node *n)
{
	if (!mem_grow(s->ctx, &list->node, &list->cap, list->n, sizeof *list->node))
		return fail_memory(s->ctx, 0);
	list->node[list->n++] = *n;
	return AN_OK;
}

/* A copy of value x to a place, for the operation that node n comes from; *out (may be NULL) is
 * the value it makes. */
static an_status copy_to(soft_fn *s, node_list *list, const soft_node *n, int x, const soft_place *at,
			 int *out)
{
	if (!mem_grow(s->ctx, &s->values, &s->values_cap, s->nvalues, sizeof *s->values))
		return fail_memory(s->ctx, 0);
	int v = (int)s->nvalues++;
	s->values[v] = s->values[x];
	s->values[v].at = *at;
	s->values[v].root = v;
	s->values[v].port = false;
	s->values[v].bytes = NULL;
	s->values[v].constant = s->storages[at->storage].kind == STORE_CONST;
	soft_node copy = {.kind = NODE_COPY, .op = n->op, .nin = 1, .out = v, .group = -1};
	copy.in = arena_copy(s->tmp, &x, sizeof x);
	if (!copy.in)
		return fail_memory(s->ctx, 0);
	if (out)
		*out = v;
	return append(s, list, &copy);
}

/* The elements of x in row-major order in new memory, or right where y is wanted. */
static an_status reshape_copy(soft_fn *s, node_list *list, const soft_node *n)
{
	soft_value *x = &s->values[n->in[0]], *y = &s->values[n->out];
	soft_place to;
	int copied;
	if (y->wish.storage < 0 || !reshape_place(y, &y->wish, x, &to)) {
		TRY(own_storage(s, y));
		bool row_major_has_every_shape = reshape_place(y, &y->at, x, &to);
		assert(row_major_has_every_shape);
		(void)row_major_has_every_shape;
	} else
		y->at = y->wish;
	TRY(copy_to(s, list, n, n->in[0], &to, &copied));
	s->values[n->out].root = copied;
	return AN_OK;
}

static an_status place_node(soft_fn *s, node_list *list, const soft_node *n)
{
	soft_value *y = &s->values[n->out];
	switch (n->kind) {
	case NODE_VIEW:
		y->at = view_place(&s->values[n->in[0]], &s->values[n->in[0]].at, y->rank, &n->u.view);
		y->root = s->values[n->in[0]].root;
		return AN_OK;
	case NODE_RESHAPE:
		if (!reshape_place(&s->values[n->in[0]], &s->values[n->in[0]].at, y, &y->at))
			return reshape_copy(s, list, n);
		y->root = s->values[n->in[0]].root;
		return AN_OK;
	case NODE_CONCAT:
		y->root = n->out;
		for (int i = 0; i < n->nin; i++) {
			soft_place at = part_place(s, n, &s->values[n->out].at, i);
			if (!same_place(&s->values[n->in[i]], &s->values[n->in[i]].at, &at))
				TRY(copy_to(s, list, n, n->in[i], &at, &n->in[i]));
		}
		return append(s, list, n); /* fuse.c asks which parts it has */
	default:
		if (n->kind == NODE_COPY && n->u.copy.into)
			return append(s, list, n);
		y->root = n->out;
		if (y->at.storage < 0)
			TRY(own_storage(s, y));
		return append(s, list, n);
	}
}

an_status soft_place_values(soft_fn *s)
{
	soft_place *output = arena_array(s->tmp, s->f->noutputs + 1, sizeof *output);
	if (!output)
		return fail_memory(s->ctx, 0);
	for (size_t i = 0; i < s->nvalues; i++) {
		soft_value *v = &s->values[i];
		if (v->def >= 0 || (!v->port && !v->bytes))
			continue;
		v->root = (int)i;
		if (v->bytes)
			TRY(own_storage(s, v));
	}
	for (size_t i = 0; i < s->f->ninputs; i++) {
		soft_value *v = &s->values[s->map[s->f->inputs[i]]];
		TRY(port_storage(s, v, (int)i, &v->at));
	}
	TRY(wishes(s, output));
	node_list list = {0};
	an_status status = AN_OK;
	for (size_t i = 0; status == AN_OK && i < s->nnodes; i++)
		status = place_node(s, &list, &s->nodes[i]);
	static const soft_node end = {.op = -1};
	for (size_t i = 0; status == AN_OK && i < s->f->noutputs; i++) {
		int v = s->outputs[i];
		if (!same_place(&s->values[v], &s->values[v].at, &output[i]))
			status = copy_to(s, &list, &end, v, &output[i], NULL);
	}
	mem_free(s->ctx, s->nodes, s->nodes_cap * sizeof *s->nodes);
	s->nodes = list.node;
	s->nnodes = list.n;
	s->nodes_cap = list.cap;
	for (size_t i = 0; i < s->nvalues; i++)
		s->values[i].def = -1;
	for (size_t i = 0; i < s->nnodes; i++)
		if (!(s->nodes[i].kind == NODE_COPY && s->nodes[i].u.copy.into))
			s->values[s->nodes[i].out].def = (int)i;
	return status;
}
