/* Weight gradients for the host: matmuls that are outputs leave the function, their operands stay.
 *
 * An operand is usually a view of something the host already has: x [1, C, 1, S] seen as [C, S], a head of
 * it, its transpose.  So every value of the function is first described as a strided view of a base: a
 * function input, or the result of an operation that computes.  */
#include "pass/pass.h"

/* ---- Strided views ----------------------------------------------------------- */

typedef struct view {
	an_value base;
	int64_t offset;
	int rank;
	int64_t dim[AN_MAX_RANK], stride[AN_MAX_RANK]; /* in elements of base */
} view;

/* v as a view of itself. */
static view whole(const an_function *f, an_value v)
{
	const an_type *t = &f->values[v].type;
	view w = {.base = v, .rank = t->rank};
	int64_t s = 1;
	for (int i = t->rank - 1; i >= 0; i--) {
		w.dim[i] = t->dim[i];
		w.stride[i] = s;
		s *= t->dim[i];
	}
	return w;
}

/* w in another shape of as many elements; false if no strides express that.  Goes through both shapes at
 * once, from group to group of axes with equal products; within a group the old axes must follow each
 * other in memory.  (The method of NumPy's reshape without copying.) */
static bool reshape(view *w, const an_type *t)
{
	int64_t dim[AN_MAX_RANK], stride[AN_MAX_RANK];
	int old = 0;
	for (int i = 0; i < w->rank; i++) /* axes of length 1 have no say */
		if (w->dim[i] != 1) {
			dim[old] = w->dim[i];
			stride[old++] = w->stride[i];
		}
	view n = {.base = w->base, .offset = w->offset, .rank = t->rank};
	int i = 0, j = 0;
	while (i < old) {
		int first = i, first_new = j;
		int64_t have = dim[i++], want = t->dim[j++];
		while (have != want)
			if (have < want)
				have *= dim[i++];
			else
				want *= t->dim[j++];
		for (int k = first; k + 1 < i; k++)
			if (stride[k] != stride[k + 1] * dim[k + 1])
				return false;
		int64_t s = stride[i - 1];
		for (int k = j - 1; k >= first_new; k--) {
			n.dim[k] = t->dim[k];
			n.stride[k] = s;
			s *= t->dim[k];
		}
	}
	for (; j < t->rank; j++)
		n.dim[j] = 1;
	*w = n;
	return true;
}

static void transpose(const an_function *f, const mil_op *op, view *w)
{
	int32_t perm[AN_MAX_RANK];
	int n = fn_arg_ints(f, op, "perm", perm, AN_MAX_RANK);
	view old = *w;
	for (int i = 0; i < n; i++) {
		int a = perm[i] < 0 ? perm[i] + n : perm[i];
		w->dim[i] = old.dim[a];
		w->stride[i] = old.stride[a];
	}
}

static bool slice(const an_function *f, const mil_op *op, view *w)
{
	slice_spec s;
	if (op_slice_spec(f, op, &s) != AN_OK)
		return false;
	int rank = 0;
	for (int i = 0; i < w->rank; i++) {
		w->offset += s.begin[i] * w->stride[i];
		int64_t stride = w->stride[i] * s.step[i];
		if (s.squeeze[i])
			continue;
		w->dim[rank] = s.count[i];
		w->stride[rank++] = stride;
	}
	w->rank = rank;
	return true;
}

/* Result r of split. */
static void part(const an_function *f, const mil_op *op, int r, view *w)
{
	int axis = fn_arg_int(f, op, "axis");
	if (axis < 0)
		axis += w->rank;
	for (int i = 0; i < r; i++)
		w->offset += f->values[op->results[i]].type.dim[axis] * w->stride[axis];
	w->dim[axis] = f->values[op->results[r]].type.dim[axis];
}

static bool float_type(const an_type *t) { return t->dtype == AN_FP16 || t->dtype == AN_FP32; }

/* Result r of op as a view of what its operand x is a view of; false: it has to be there itself.  Casts to
 * fp32 are views because the host multiplies in fp32 anyway. */
static bool derive(const an_function *f, const mil_op *op, int r, const view *x, view *w)
{
	const an_type *t = &f->values[op->results[r]].type;
	*w = *x;
	switch (op->op) {
	case OP_IDENTITY: return true;
	case OP_CAST: return t->dtype == AN_FP32 && float_type(&f->values[op_arg(op, 0)].type);
	case OP_RESHAPE:
	case OP_EXPAND_DIMS:
	case OP_SQUEEZE: return reshape(w, t);
	case OP_TRANSPOSE: transpose(f, op, w); return true;
	case OP_SLICE_BY_INDEX:
	case OP_SLICE_BY_SIZE: return slice(f, op, w);
	case OP_SPLIT: part(f, op, r, w); return true;
	default: return false;
	}
}

/* base[v]: v is one whatever it is a view of. */
static void find_views(const an_function *f, const bool *base, view *views)
{
	for (size_t i = 0; i < f->ninputs; i++)
		views[f->inputs[i]] = whole(f, f->inputs[i]);
	for (size_t i = 0; i < f->nops; i++) {
		const mil_op *op = &f->ops[i];
		an_value x = op->arg[0].n ? op->arg[0].v[0] : AN_NO_VALUE;
		for (int r = 0; r < op->nresults; r++) {
			view *w = &views[op->results[r]];
			if (x == AN_NO_VALUE || base[op->results[r]] || !derive(f, op, r, &views[x], w))
				*w = whole(f, op->results[r]);
		}
	}
}

/* ---- Contractions ------------------------------------------------------------ */

typedef struct operand {
	an_value base;
	int64_t offset, stride[3]; /* batch, and the two axes of the matrix */
} operand;

/* One stride for all batch axes of the product, along which v is w; false: it takes more. */
static bool batch_stride(const view *w, int own, const an_type *batch, int64_t *stride)
{
	int64_t length = 1, all = 0;
	for (int i = batch->rank - 1; i >= 0; i--) {
		int j = i - (batch->rank - own); /* the operand's axis */
		int64_t s = j < 0 || w->dim[j] == 1 ? 0 : w->stride[j];
		if (batch->dim[i] == 1)
			continue;
		if (length == 1)
			all = s;
		else if (s != all * length)
			return false;
		length *= batch->dim[i];
	}
	*stride = all;
	return true;
}

/* Matrix operand v of a product, rows x columns after the transposition asked for, as its view or else as
 * itself. */
static bool operand_of(const an_function *f, const view *views, an_value v, bool row, bool flip,
		       const an_type *batch, operand *out)
{
	for (int attempt = 0; attempt < 2; attempt++) {
		view w = attempt ? whole(f, v) : views[v];
		if (w.rank == 1) { /* a vector is one row or one column */
			int at = row ? 0 : 1;
			w.dim[1 - at] = w.dim[0];
			w.stride[1 - at] = w.stride[0];
			w.dim[at] = 1;
			w.rank = 2;
		}
		int r = w.rank - 2 + flip, c = w.rank - 1 - flip;
		*out = (operand){
		    w.base, w.offset, {0, w.dim[r] == 1 ? 0 : w.stride[r], w.dim[c] == 1 ? 0 : w.stride[c]}};
		if (!fn_is_const(f, w.base) && float_type(&f->values[w.base].type) &&
		    batch_stride(&w, w.rank - 2, batch, &out->stride[0]))
			return true;
	}
	return false;
}

/* Whether a transpose exchanges the two axes that are longer than 1 (or the only one moves). */
static bool swaps(const an_function *f, const mil_op *op, int64_t *rows, int64_t *columns)
{
	view w = whole(f, op_arg(op, 0));
	int32_t perm[AN_MAX_RANK];
	int long_axes[AN_MAX_RANK], n = 0, rank = fn_arg_ints(f, op, "perm", perm, AN_MAX_RANK);
	for (int i = 0; i < rank; i++) {
		int a = perm[i] < 0 ? perm[i] + rank : perm[i];
		if (w.dim[a] != 1)
			long_axes[n++] = a;
	}
	if (n != 2 || long_axes[0] < long_axes[1])
		return false;
	*rows = w.dim[long_axes[1]];
	*columns = w.dim[long_axes[0]];
	return true;
}

/* The matmul that output v is: behind reshapes, casts, one exchange of rows and columns, and one sum over
 * the batch.  NULL: it is not. */
static const mil_op *find_matmul(const an_function *f, an_value v, bool *swapped)
{
	bool summed = false;
	int64_t rows = 0, columns = 0;
	*swapped = false;
	for (const mil_op *op; (op = fn_def(f, v)) != NULL; v = op_arg(op, 0)) {
		const an_type *x = op->arg[0].n ? &f->values[op_arg(op, 0)].type : NULL;
		const an_type *t = &f->values[op->results[0]].type;
		uint32_t mask;
		bool keep;
		switch (op->op) {
		case OP_IDENTITY:
		case OP_CAST:
		case OP_RESHAPE:
		case OP_EXPAND_DIMS:
		case OP_SQUEEZE:
			if (!float_type(x) || (summed && op->op != OP_IDENTITY && op->op != OP_CAST))
				return NULL; /* behind the sum stands the product itself */
			break;
		case OP_TRANSPOSE:
			if (summed || *swapped || !swaps(f, op, &rows, &columns))
				return NULL;
			*swapped = true;
			break;
		case OP_REDUCE_SUM: {
			if (summed || x->rank < 3 || op_reduce_axes(f, op, &mask, &keep) != AN_OK ||
			    mask >> (x->rank - 2))
				return NULL;
			for (int i = 0; i < x->rank - 2; i++)
				if (!(mask >> i & 1) && x->dim[i] != 1)
					return NULL;
			summed = true;
			break;
		}
		case OP_MATMUL: {
			matmul_spec s;
			if (op_matmul_spec(f, op, &s) != AN_OK ||
			    (*swapped && (s.m != rows || s.n != columns)))
				return NULL;
			return summed || an_type_count(t) == (int64_t)s.m * s.n ? op : NULL;
		}
		default: return NULL;
		}
	}
	return NULL;
}

/* Describes output v as a contraction; false if it is not one.  Bases are in *x and *y. */
static bool contraction_of(const an_function *f, const view *views, an_value v, an_contraction *c,
			   an_value *x, an_value *y)
{
	bool swapped;
	const mil_op *op = find_matmul(f, v, &swapped);
	matmul_spec s;
	if (!op || op_matmul_spec(f, op, &s) != AN_OK)
		return false;
	const an_type *xt = &f->values[s.x].type, *yt = &f->values[s.y].type;
	an_type batch = f->values[op->results[0]].type;
	batch.rank = (uint8_t)(MAX(MAX(xt->rank, yt->rank), 2) - 2); /* leading axes of the product */
	operand a, b;
	if (!operand_of(f, views, s.x, true, s.tx, &batch, &a) ||
	    !operand_of(f, views, s.y, false, s.ty, &batch, &b))
		return false;
	*c = (an_contraction){.output = f->values[v].name,
			      .type = f->values[v].type,
			      .batch = an_type_count(&batch),
			      .m = s.m,
			      .n = s.n,
			      .k = s.k};
	if (swapped) { /* (x y)^T = y^T x^T */
		operand t = a;
		a = (operand){b.base, b.offset, {b.stride[0], b.stride[2], b.stride[1]}};
		b = (operand){t.base, t.offset, {t.stride[0], t.stride[2], t.stride[1]}};
		c->m = s.n;
		c->n = s.m;
	}
	*x = a.base;
	*y = b.base;
	c->x_type = f->values[a.base].type;
	c->y_type = f->values[b.base].type;
	c->x_offset = a.offset;
	c->y_offset = b.offset;
	memcpy(c->x_stride, a.stride, sizeof a.stride);
	memcpy(c->y_stride, b.stride, sizeof b.stride);
	c->tx = a.stride[2] != 1 && a.stride[1] == 1;
	c->ty = b.stride[2] != 1 && b.stride[1] == 1;
	return true;
}

/* ---- The pass ---------------------------------------------------------------- */

/* Makes base v an output of r->to unless it is an input of f; its name and whether it is one. */
static an_status expose(rewrite *r, an_value v, const char **name, bool *input)
{
	an_function *to = r->to;
	*name = r->from->values[v].name;
	*input = r->from->values[v].op < 0;
	if (*input)
		return AN_OK;
	for (size_t i = 0; i < to->noutputs; i++)
		if (to->outputs[i] == r->map[v]) {
			*name = to->values[r->map[v]].name;
			return AN_OK;
		}
	return rewrite_output(r, v, *name);
}

static an_status outline(rewrite *r, const char *const *outputs, int n, an_contraction *list, int *nlist)
{
	an_function *f = r->from;
	view *views = arena_array(&r->scratch, f->nvalues + 1, sizeof *views);
	bool *taken = arena_array(&r->scratch, f->nvalues + 1, sizeof *taken);
	bool *stays = arena_array(&r->scratch, f->nvalues + 1, sizeof *stays);
	an_value *base = arena_array(&r->scratch, 2 * (size_t)n + 1, sizeof *base);
	if (!views || !taken || !stays || !base)
		return fail_memory(f->program->ctx, f->nvalues * sizeof *views);
	/* what is returned in any case need not be returned in another shape too */
	for (size_t k = 0; k < f->noutputs; k++)
		stays[f->outputs[k]] = true;
	for (int i = 0; i < n; i++) {
		an_value v = an_function_find(f, outputs[i]);
		if (v != AN_NO_VALUE)
			stays[v] = false;
	}
	find_views(f, stays, views);
	for (int i = 0; i < n; i++) {
		an_value v = an_function_find(f, outputs[i]);
		bool found = false;
		for (size_t k = 0; k < f->noutputs; k++)
			found |= f->outputs[k] == v;
		if (!found)
			return fail(f->program->ctx, AN_USAGE, "function %s has no output %s", f->name,
				    outputs[i]);
		if (!taken[v] &&
		    contraction_of(f, views, v, &list[*nlist], &base[2 * *nlist], &base[2 * *nlist + 1])) {
			taken[v] = true;
			++*nlist;
		}
	}
	TRY(rewrite_inputs(r, NULL));
	for (size_t i = 0; i < f->nops; i++)
		TRY(fn_copy_op(r->to, f, &f->ops[i], r->map));
	for (size_t i = 0; i < f->noutputs; i++)
		if (!taken[f->outputs[i]])
			TRY(rewrite_output(r, f->outputs[i], f->values[f->outputs[i]].name));
	for (int i = 0; i < *nlist; i++) {
		TRY(expose(r, base[2 * i], &list[i].x, &list[i].x_input));
		TRY(expose(r, base[2 * i + 1], &list[i].y, &list[i].y_input));
	}
	return AN_OK;
}

an_status an_outline(an_function *f, const char *const *outputs, int n, an_function **out,
		     an_contraction **list, int *nlist)
{
	rewrite r;
	*out = NULL;
	*list = arena_array(&f->program->arena, (size_t)n + 1, sizeof **list);
	*nlist = 0;
	an_status s = rewrite_begin(&r, f, "outlined");
	if (s == AN_OK)
		s = *list ? outline(&r, outputs, n, *list, nlist) : fail_memory(f->program->ctx, 0);
	if (s == AN_OK && r.to->noutputs == 0) { /* nothing is left to run */
		arena_free(&r.scratch);
		fn_discard(r.to);
		return AN_OK;
	}
	return rewrite_sweep(&r, s, false, out);
}
