/* What a mask throws away.
 *
 * A constant that is very negative above the diagonal and is added to scores makes their softmax 0 there.
 * Such zeros are followed forward: through views and products with other values to contractions, which then
 * leave out most multiplications by them.  What would only be multiplied by them, or masked, is
 * followed backward: it need not be computed.  Any program with such a mask has it, in its forward or
 * backward.
 *
 * Requires: lowered nodes (lower.c), numerics whose products are "fast": what is left out is taken as finite,
 * and scores as less than 10^4 above their row's largest.
 * Sets: `zero`, `masked` and `unneeded` of values.  Drops: additions of a mask whose other elements are 0. */
#include "device/soft/soft.h"

#include <math.h>

/* From here on down e^x is 0 in fp32 whatever finite fp16 score was added, of the sizes that networks have.
 */
#define MASKED (-1e4)

static bool is_half(soft_half h) { return h.above != h.below; }
static bool same_half(soft_half a, soft_half b) { return a.above == b.above && a.below == b.below; }

/* ---- Constants ------------------------------------------------------------------------ */

static double literal_at(const soft_value *v, int64_t i)
{
	switch (v->type) {
	case K_F16: return half_to_float(((const half *)v->bytes)[i]);
	case K_F32: return (double)((const float *)v->bytes)[i];
	default: return NAN;
	}
}

/* Whether v is a square matrix, its other axes 1, that masks above the diagonal; *rest: and is 0 elsewhere.
 */
static bool is_mask(const soft_value *v, bool *rest)
{
	if (!v->bytes || v->rank < 2 || v->dim[v->rank - 1] != v->dim[v->rank - 2] ||
	    soft_elements(v) != v->dim[v->rank - 1] * v->dim[v->rank - 1] || v->dim[v->rank - 1] < 2)
		return false;
	const int64_t n = v->dim[v->rank - 1];
	*rest = true;
	for (int64_t i = 0; i < n; i++)
		for (int64_t j = 0; j < n; j++) {
			double x = literal_at(v, i * n + j);
			if (j > i && !(x <= MASKED))
				return false;
			*rest &= j > i || x == 0;
		}
	return true;
}

/* ---- From operands to results and back -------------------------------------------------- */

/* The half of an operand as that of the result of an operation that broadcasts it; none where the operand
 * is repeated along one of the two axes. */
static soft_half lifted(soft_half h, const soft_value *from, const soft_value *to)
{
	const int more = to->rank - from->rank;
	if (!is_half(h) || from->dim[h.above] != to->dim[h.above + more] ||
	    from->dim[h.below] != to->dim[h.below + more])
		return (soft_half){0, 0};
	return (soft_half){(int8_t)(h.above + more), (int8_t)(h.below + more)};
}

static soft_half lowered(soft_half h, const soft_value *from, const soft_value *to)
{
	const int less = from->rank - to->rank;
	if (!is_half(h) || h.above < less || h.below < less ||
	    to->dim[h.above - less] != from->dim[h.above] || to->dim[h.below - less] != from->dim[h.below])
		return (soft_half){0, 0};
	return (soft_half){(int8_t)(h.above - less), (int8_t)(h.below - less)};
}

/* Which axis of a view is axis d of its operand, whole and in order; -1: none. */
static int viewed(const soft_view *view, const soft_value *x, const soft_value *y, int d)
{
	for (int i = 0; i < y->rank; i++)
		if (view->axis[i] == d && view->step[i] == 1 && view->begin[d] == 0 && y->dim[i] == x->dim[d])
			return i;
	return -1;
}

static soft_half through_view(const soft_node *n, soft_half h, const soft_value *x, const soft_value *y)
{
	if (!is_half(h))
		return h;
	const int above = viewed(&n->u.view, x, y, h.above), below = viewed(&n->u.view, x, y, h.below);
	return above < 0 || below < 0 ? (soft_half){0, 0} : (soft_half){(int8_t)above, (int8_t)below};
}

/* The other way, where the view shows every element. */
static soft_half back_through_view(const soft_node *n, soft_half h, const soft_value *x, const soft_value *y)
{
	for (int a = 0; is_half(h) && a < x->rank; a++)
		for (int b = 0; b < x->rank; b++) {
			const soft_half there = {(int8_t)a, (int8_t)b};
			if (a != b && soft_elements(x) == soft_elements(y) &&
			    same_half(through_view(n, there, x, y), h))
				return there;
		}
	return (soft_half){0, 0};
}

/* A reshape keeps the axes that it leaves alone at the end of the shape. */
static soft_half reshaped(soft_half h, const soft_value *from, const soft_value *to)
{
	const int less = from->rank - to->rank;
	for (int d = MIN(h.above, h.below); is_half(h) && d < from->rank; d++)
		if (d < less || to->dim[d - less] != from->dim[d])
			return (soft_half){0, 0};
	return is_half(h) ? (soft_half){(int8_t)(h.above - less), (int8_t)(h.below - less)} : h;
}

/* ---- Forward ----------------------------------------------------------------------------- */

static void add_mask(soft_fn *s, const soft_node *n)
{
	soft_value *y = &s->values[n->out];
	for (int i = 0; i < 2; i++) {
		const soft_value *x = &s->values[n->in[i]];
		bool rest;
		if (is_mask(x, &rest))
			y->masked = lifted((soft_half){(int8_t)(x->rank - 1), (int8_t)(x->rank - 2)}, x, y);
		else if (!is_half(y->masked))
			y->masked = lifted(x->masked, x, y);
	}
}

static void forward_ew(soft_fn *s, const soft_node *n)
{
	soft_value *y = &s->values[n->out];
	switch (n->u.ew.op) {
	case EW_ADD: add_mask(s, n); break;
	case EW_MUL:
		for (int i = 0; i < 2 && !is_half(y->zero); i++)
			y->zero = lifted(s->values[n->in[i]].zero, &s->values[n->in[i]], y);
		break;
	case EW_MOV:
	case EW_NEG: y->zero = lifted(s->values[n->in[0]].zero, &s->values[n->in[0]], y); break;
	default: break;
	}
}

static void forward(soft_fn *s, const soft_node *n)
{
	soft_value *y = &s->values[n->out];
	const soft_value *x = n->nin ? &s->values[n->in[0]] : NULL;
	switch (n->kind) {
	case NODE_EW:
		if (!n->u.ew.integer)
			forward_ew(s, n);
		break;
	case NODE_SOFTMAX:
		if (is_half(x->masked) && x->masked.above == n->u.along.axis)
			y->zero = x->masked;
		break;
	case NODE_VIEW:
		y->zero = through_view(n, x->zero, x, y);
		y->masked = through_view(n, x->masked, x, y);
		break;
	case NODE_RESHAPE:
		y->zero = reshaped(x->zero, x, y);
		y->masked = reshaped(x->masked, x, y);
		break;
	default: break;
	}
}

/* ---- Backward ---------------------------------------------------------------------------- */

/* What node n does not need of its operand i. */
static soft_half unread(const soft_fn *s, const soft_node *n, int i)
{
	const soft_value *x = &s->values[n->in[i]], *y = &s->values[n->out];
	switch (n->kind) {
	case NODE_EW: {
		soft_half h = lowered(y->unneeded, y, x);
		if (!is_half(h) && n->u.ew.op == EW_MUL && !n->u.ew.integer) /* by zeros */
			h = lowered(lifted(s->values[n->in[!i]].zero, &s->values[n->in[!i]], y), y, x);
		return h;
	}
	case NODE_SOFTMAX: return y->zero; /* k_softmax leaves it out */
	case NODE_VIEW: return back_through_view(n, y->unneeded, x, y);
	case NODE_RESHAPE: return reshaped(y->unneeded, y, x);
	default: return (soft_half){0, 0};
	}
}

static void backward(soft_fn *s, bool *read)
{
	for (size_t i = 0; i < s->f->noutputs; i++)
		read[s->outputs[i]] = true;
	for (int k = (int)s->nnodes; k-- > 0;) {
		const soft_node *n = &s->nodes[k];
		for (int i = 0; i < n->nin; i++) {
			soft_value *x = &s->values[n->in[i]];
			const soft_half h = unread(s, n, i);
			if (!read[n->in[i]])
				x->unneeded = h;
			else if (!same_half(x->unneeded, h))
				x->unneeded = (soft_half){0, 0};
			read[n->in[i]] = true;
		}
	}
}

/* ---- Masks that are not needed --------------------------------------------------------------- */

/* softmax(x + mask) as softmax(x), of which the softmax leaves out what is masked.  The addition is dropped
 * where nothing else reads it. */
static an_status skip_masks(soft_fn *s, const int *readers)
{
	int *place = arena_array(s->tmp, s->nnodes + 1, sizeof *place), kept = 0;
	if (!place)
		return fail_memory(s->ctx, 0);
	for (size_t k = 0; k < s->nnodes; k++) {
		soft_node *n = &s->nodes[k];
		if (n->kind != NODE_SOFTMAX || !is_half(s->values[n->out].zero))
			continue;
		const int def = s->values[n->in[0]].def;
		const soft_node *add = def < 0 ? n : &s->nodes[def];
		if (add->kind != NODE_EW || add->u.ew.op != EW_ADD || readers[n->in[0]] != 1)
			continue;
		for (int i = 0; i < 2 && place[def] == 0; i++) {
			const soft_value *x = &s->values[add->in[i]], *y = &s->values[add->out];
			bool rest;
			if (is_mask(&s->values[add->in[!i]], &rest) && rest && x->type == y->type &&
			    x->rank == y->rank && !memcmp(x->dim, y->dim, (size_t)x->rank * sizeof *x->dim)) {
				n->in[0] = add->in[i];
				place[def] = -1;
			}
		}
	}
	for (size_t k = 0; k < s->nnodes; k++)
		if (place[k] == 0) {
			s->nodes[kept] = s->nodes[k];
			place[k] = kept++;
		}
	s->nnodes = (size_t)kept;
	for (size_t i = 0; i < s->nvalues; i++)
		if (s->values[i].def >= 0)
			s->values[i].def = place[s->values[i].def];
	return AN_OK;
}

an_status soft_find_triangles(soft_fn *s)
{
	bool any = false, rest;
	if (!CHOSEN(s->numerics, PRODUCT, FAST) || s->dev->no_fusion)
		return AN_OK;
	for (size_t i = 0; i < s->nvalues && !any; i++)
		any = is_mask(&s->values[i], &rest);
	if (!any)
		return AN_OK;
	bool *read = arena_array(s->tmp, s->nvalues + 1, sizeof *read);
	int *readers = arena_array(s->tmp, s->nvalues + 1, sizeof *readers);
	if (!read || !readers)
		return fail_memory(s->ctx, 0);
	for (size_t k = 0; k < s->nnodes; k++) {
		forward(s, &s->nodes[k]);
		for (int i = 0; i < s->nodes[k].nin; i++)
			readers[s->nodes[k].in[i]]++;
	}
	for (size_t i = 0; i < s->f->noutputs; i++)
		readers[s->outputs[i]]++;
	TRY(skip_masks(s, readers));
	backward(s, read);
	return AN_OK;
}
