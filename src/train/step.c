/* Running the plan's entries. */
#include "train/train.h"

#include "train/data.h"

#include <math.h>

/* Updates without overflow after which the loss scale doubles, up to so many times its first value. */
#define GROW_AFTER 500
#define GROW_MOST  0x1p8
/* Where contractions are in fixed point, products below 2^-17 are lost and sums from 2^15 on are infinite.
 * There the scale grows while more than this share of the backward's products is lost and its largest
 * result is this far from the limit, which leaves room for sums that were larger on the way and for updates
 * that are not looked at: all but the first few, and one in so many. */
#define SHARE_HIGH      0x1p-6
#define FIXED_LIMIT     0x1p15
#define SCALE_ROOM      16
#define SAMPLE_FIRST    4
#define SAMPLE_EVERY    16
#define GROW_MOST_FIXED 0x1p20
/* Once an update has overflowed, the scale grows only after so many without, and by 2. */
#define CALM 100
/* Below this no gradient of a loss that is finite overflows. */
#define SCALE_LEAST 0x1p-20
/* AdamW's epsilon is at least this: gradients of 0, of tokens that the text does not have, must not make
 * 0/0, and below about 1e-22 their squares vanish in fp32. */
#define EPS_LEAST 0x1p-66

/* ---- Host operations --------------------------------------------------------------- */

static pool *workers(const an_trainer *t) { return ctx_pool(t->ctx); }
static float *gradient_of(const an_trainer *t, const an_param *p) { return t->gradients + p->offset; }

static void embed(an_trainer *t)
{
	const an_param *p = an_model_param(t->model, an_model_embedding(t->model));
	half *x = an_buffer_map(t->embedded->buffer);
	k_embed(workers(t), t->ctx->isa, x, t->weights + p->offset, t->input, p->dim[1], t->S);
	an_buffer_unmap(t->embedded->buffer);
}

/* Gradients are written by the first that has some in an update, and added to by the others. */
static void embed_grad(an_trainer *t, const action *a)
{
	const an_param *p = an_model_param(t->model, a->param);
	float *g = gradient_of(t, p);
	if (!t->written[a->param])
		memset(g, 0, (size_t)p->count * sizeof *g);
	t->written[a->param] = true;
	const half *dx = an_buffer_map(t->d_embedded->buffer);
	k_embed_grad(workers(t), t->ctx->isa, g, dx, t->input, p->dim[1], t->S, 1);
	an_buffer_unmap(t->d_embedded->buffer);
}

static double cross_entropy(an_trainer *t, double grad_scale)
{
	double nats;
	half *logits = an_buffer_map(t->logits->buffer);
	k_cross_entropy(workers(t), t->ctx->isa, logits, t->target, an_model_config(t->model)->vocab, t->S,
			(float)grad_scale, &nats, NULL, NULL);
	an_buffer_unmap(t->logits->buffer);
	return nats;
}

/* Batch b's operand of a product, packed, if its neighbours read it too. */
static const void *shared_panels(const an_trainer *t, const action *a, const k_gemm_args *g, k_operand which,
				 int64_t b)
{
	if (a->share[which] == SHARE_NONE)
		return NULL;
	char *to = (char *)t->panels[which] + (size_t)b * k_gemm_packed_bytes(a->row, g, which);
	if (a->share[which] == SHARE_FIRST)
		k_gemm_pack(workers(t), a->row, g, which, to);
	return to;
}

static void weight_grad(an_trainer *t, const action *a)
{
	k_gemm_args g = a->gemm;
	char *x = an_buffer_map(a->x->buffer), *y = a->y == a->x ? x : an_buffer_map(a->y->buffer);
	int64_t x_size = (int64_t)k_type_size(g.a.type), y_size = (int64_t)k_type_size(g.b.type);
	g.c.data = gradient_of(t, an_model_param(t->model, a->param));
	for (int64_t b = 0; b < a->batch; b++) {
		g.a.data = x + (a->x_offset + b * a->x_stride) * x_size;
		g.b.data = y + (a->y_offset + b * a->y_stride) * y_size;
		g.accumulate = t->written[a->param];
		g.packed_a = shared_panels(t, a, &g, K_A, b);
		g.packed_b = shared_panels(t, a, &g, K_B, b);
		k_gemm(workers(t), a->row, &g, t->scratch);
		t->written[a->param] = true;
	}
	an_buffer_unmap(a->x->buffer);
	if (a->y != a->x)
		an_buffer_unmap(a->y->buffer);
}

/* Norms' gradients, which the backward returns in fp16: some hundred elements. */
static void cast_gradient(an_trainer *t, const action *a)
{
	const an_param *p = an_model_param(t->model, a->param);
	float *g = gradient_of(t, p);
	const half *x = an_buffer_map(a->x->buffer);
	for (int64_t i = 0; i < p->count; i++)
		g[i] = half_to_float(x[i]) + (t->written[a->param] ? g[i] : 0);
	t->written[a->param] = true;
	an_buffer_unmap(a->x->buffer);
}

static bool is_gradient(const an_trainer *t, int entry)
{
	an_host_op host = t->entries[entry].host;
	return host == AN_HOST_WEIGHT_GRAD || host == AN_HOST_EMBED_GRAD || host == AN_HOST_CAST;
}

/* The parameter whose gradient is the first, in the order of computation, that is not finite. */
static const char *first_not_finite(const an_trainer *t)
{
	for (int i = 0; i < t->nentries; i++) {
		if (!is_gradient(t, i))
			continue;
		bool finite, last = true; /* tied embeddings: what comes last has written over it */
		for (int j = i + 1; j < t->nentries; j++)
			last &= !is_gradient(t, j) || t->actions[j].param != t->actions[i].param;
		const an_param *p = an_model_param(t->model, t->actions[i].param);
		k_sum_squares(workers(t), t->ctx->isa, gradient_of(t, p), p->count, &finite);
		if (last && !finite)
			return p->name;
	}
	return "the sum of squares";
}

static void norm(an_trainer *t)
{
	bool finite;
	double squares =
	    k_sum_squares(workers(t), t->ctx->isa, t->gradients, an_model_param_block(t->model), &finite);
	t->grad_norm = sqrt(squares) / t->gradient_scale;
	if (!finite)
		t->skipped = first_not_finite(t);
}

/* AdamW over one parameter. */
typedef struct adamw_of {
	k_adamw h;
	uint32_t isa;
	float *w, *g, *m, *v;
} adamw_of;

static const float *updated(void *arg, int64_t i, int64_t n)
{
	const adamw_of *a = arg;
	k_adamw_block(a->isa, &a->h, a->w + i, a->g + i, a->m + i, a->v + i, n);
	return a->w + i;
}

/* New masters, and what the device has of them in the same pass. */
static an_status adamw(an_trainer *t, const action *a)
{
	const an_train_options *o = &t->o;
	double clip = o->clip > 0 && t->grad_norm > o->clip ? o->clip / t->grad_norm : 1;
	double applied = (double)(t->state.applied + 1);
	k_adamw h = {.lr = (float)t->lr,
		     .beta1 = (float)o->beta1,
		     .beta2 = (float)o->beta2,
		     .eps = (float)MAX(o->eps, EPS_LEAST),
		     .c1 = (float)(1 - pow(o->beta1, applied)),
		     .c2 = (float)(1 - pow(o->beta2, applied)),
		     .g_scale = (float)(clip / t->gradient_scale)};
	for (int i = a->param; i < a->param + a->nparams; i++) {
		const an_param *p = an_model_param(t->model, t->order[i]);
		const surface *device = t->weight[t->order[i]];
		adamw_of of = {h,
			       t->ctx->isa,
			       t->weights + p->offset,
			       gradient_of(t, p),
			       t->m + p->offset,
			       t->v + p->offset};
		of.h.decay = p->decay ? (float)o->decay : 0;
		if (device)
			TRY(an_buffer_update(device->buffer, 0, p->count, updated, &of));
		else
			k_adamw_step(workers(t), of.isa, &of.h, of.w, of.g, of.m, of.v, p->count);
	}
	t->version++;
	return AN_OK;
}

/* ---- Programs ---------------------------------------------------------------------- */

static void copy_surface(an_buffer *from, an_buffer *to)
{
	void *a = an_buffer_map(from), *b = an_buffer_map(to);
	memcpy(b, a, an_type_bytes(an_buffer_type(from)));
	an_buffer_unmap(from);
	an_buffer_unmap(to);
}

an_status train_dispatch(const dispatch *d)
{
	if (!d->program->host)
		return an_call_run(d->call);
	for (int i = 0; i < d->inputs; i++)
		if (d->port[i]->twin)
			copy_surface(d->port[i]->buffer, d->port[i]->twin);
	TRY(an_call_run(d->call));
	for (int i = d->inputs; i < d->ports; i++)
		if (d->port[i]->twin)
			copy_surface(d->port[i]->twin, d->port[i]->buffer);
	return AN_OK;
}

/* ---- Entries ----------------------------------------------------------------------- */

an_status train_run_entry(an_trainer *t, int i, double grad_scale, double *nats)
{
	an_plan_entry *e = &t->entries[i];
	const action *a = &t->actions[i];
	double began = seconds_now();
	an_status s = AN_OK;
	switch (e->host) {
	case AN_HOST_NONE:
	case AN_HOST_PROGRAM:
		s = train_dispatch(a->dispatch);
		if (t->counting)
			counts_take(t, i);
		break;
	case AN_HOST_PACK: weights_pack(t, a->dispatch); break;
	case AN_HOST_WEIGHTS: s = weights_refresh(t, a->dispatch); break;
	case AN_HOST_EMBED: embed(t); break;
	case AN_HOST_EMBED_GRAD: embed_grad(t, a); break;
	case AN_HOST_CROSS_ENTROPY: *nats = cross_entropy(t, grad_scale); break;
	case AN_HOST_WEIGHT_GRAD: weight_grad(t, a); break;
	case AN_HOST_CAST: cast_gradient(t, a); break;
	case AN_HOST_NORM: norm(t); break;
	case AN_HOST_ADAMW: s = adamw(t, a); break;
	}
	e->seconds += seconds_now() - began;
	e->runs++;
	return s == AN_OK ? s : fail_prefix(t->ctx, s, "%s", e->name);
}

an_status train_upload(an_trainer *t)
{
	const int n = an_model_params(t->model);
	for (int i = 0; i < n; i++) {
		const an_param *p = an_model_param(t->model, i);
		if (t->weight[i])
			TRY(an_buffer_update_from_f32(t->weight[i]->buffer, 0, p->count,
						      t->weights + p->offset));
	}
	t->version++;
	t->stale = true;
	return AN_OK;
}

an_status train_refresh(an_trainer *t)
{
	for (int i = 0; i < t->nentries && t->stale; i++)
		if (t->entries[i].host == AN_HOST_WEIGHTS)
			TRY(weights_refresh(t, t->actions[i].dispatch));
	t->stale = false;
	return AN_OK;
}

/* Whether the device may not compile as much as bringing all programs up to date can take: then it is not
 * begun after an update, and left to the next process. */
static bool budget_ends(const an_trainer *t)
{
	int64_t n = 0;
	for (int i = 0; i < t->nentries; i++)
		n += t->entries[i].host == AN_HOST_WEIGHTS ? t->entries[i].compiles : 0;
	an_device_info info;
	an_device_get_info(t->device, &info);
	return info.compiles_left >= 0 && info.compiles_left < n;
}

an_status train_micro_batch(an_trainer *t, int micro, double *nats)
{
	int64_t g = (t->state.step * t->o.accumulate + micro) * t->o.batch;
	data_batch(t->data.train, t->o.seed, t->o.batch, t->o.tokens, g, t->input, t->target, t->window);
	/* d of the mean loss over the update's tokens, times the loss scale */
	double grad_scale = t->gradient_scale / (double)t->tokens_per_update;
	for (int i = 0; i < t->nentries; i++)
		if (!t->entries[i].per_update)
			TRY(train_run_entry(t, i, grad_scale, nats));
	return AN_OK;
}

/* Which updates count, as a function of the step alone, so that a training that is resumed takes the same
 * turns.  Where products can be lost the loss scale looks at the first updates, and then at some. */
static bool for_scale(const an_trainer *t)
{
	return t->fixed && (t->state.step < SAMPLE_FIRST || t->state.step % SAMPLE_EVERY == 0);
}

static bool for_user(const an_trainer *t)
{
	return t->o.count_every > 0 && t->state.step % t->o.count_every == 0;
}

/* What the loss scale should be multiplied by where products can be lost: a power of two. */
static double growth(const train_state *s, const an_counts *backward)
{
	bool never = s->applied == s->step; /* has an update been skipped */
	if (backward->overflowed || (double)backward->lost <= SHARE_HIGH * (double)backward->products ||
	    !(never || s->good >= CALM))
		return 1;
	double factor = 1;
	while (2 * factor * backward->largest * SCALE_ROOM <= FIXED_LIMIT && factor < (never ? 0x1p20 : 2))
		factor *= 2;
	return factor;
}

/* The scale that the update used overflowed, or did not. */
static an_status adapt_scale(an_trainer *t, const an_counts *backward)
{
	train_state *s = &t->state;
	if (t->skipped) {
		s->good = 0;
		s->loss_scale /= 2;
		if (s->loss_scale < SCALE_LEAST)
			return fail(t->ctx, AN_NUMERIC,
				    "%s is not finite at any loss scale (now %g): the training has diverged; "
				    "a lower learning rate or more warm-up helps",
				    t->skipped, s->loss_scale);
		return AN_OK;
	}
	s->good++;
	double factor = t->fixed ? backward ? growth(s, backward) : 1 : s->good >= GROW_AFTER ? 2 : 1;
	if (factor > 1) {
		s->good = 0;
		s->loss_scale =
		    MIN(factor * s->loss_scale, t->o.loss_scale * (t->fixed ? GROW_MOST_FIXED : GROW_MOST));
	}
	return AN_OK;
}

static an_status micro_batches(an_trainer *t, double *sum)
{
	double nats = 0;
	for (int i = 0; i < t->o.accumulate; i++) {
		TRY(train_micro_batch(t, i, &nats));
		*sum += nats;
	}
	return AN_OK;
}

static an_status update(an_trainer *t)
{
	double sum = 0;
	bool scaling = for_scale(t), asked = for_user(t), counted = scaling || asked;
	t->skipped = NULL;
	t->lost = NAN;
	t->grad_norm = NAN; /* unless it comes to that */
	TRY(train_refresh(t));
	t->gradient_scale = t->state.loss_scale;
	t->lr = train_learning_rate(&t->o, t->state.step);
	memset(t->written, 0, (size_t)an_model_params(t->model) * sizeof *t->written);
	if (counted)
		TRY(counts_begin(t));
	an_status status = micro_batches(t, &sum);
	counts_end(t);
	TRY(status);
	an_counts backward = {0};
	if (counted)
		backward = counts_of_backward(t);
	if (backward.products)
		t->lost = (double)backward.lost / (double)backward.products;
	if (asked) {
		counts_keep(t);
		t->ncounted++;
	}
	t->loss = sum / (double)t->tokens_per_update;
	if (!isfinite(t->loss))
		t->skipped = "the loss";
	bool room = !budget_ends(t);
	for (int i = 0; i < t->nentries && !t->skipped; i++) {
		if (!t->entries[i].per_update)
			continue;
		bool refreshes = t->entries[i].host == AN_HOST_WEIGHTS;
		if (refreshes && !room)
			continue;
		status = train_run_entry(t, i, 0, NULL);
		if (refreshes && status == AN_BUDGET)
			room = false;
		else
			TRY(status);
		if (t->entries[i].host == AN_HOST_NORM && !t->skipped)
			TRY(counts_check_gradients(t, counted));
	}
	if (!t->skipped)
		t->stale = !room;
	t->state.step++;
	t->state.applied += !t->skipped;
	return adapt_scale(t, scaling ? &backward : NULL);
}

an_status train_update(an_trainer *t)
{
	double began = seconds_now();
	TRY(update(t));
	t->update_seconds += seconds_now() - began;
	t->updates_timed++;
	if (t->o.profile && !t->warm && t->state.step < t->o.steps)
		an_trainer_reset_times(t);
	t->warm = true;
	return AN_OK;
}

/* ---- Evaluation -------------------------------------------------------------------- */

static an_status evaluate(an_trainer *t, dispatch *d)
{
	TRY(weights_refresh(t, d));
	if (d->packed)
		weights_pack(t, d);
	return train_dispatch(d);
}

an_status train_measure(an_trainer *t, const an_tokens *from, int64_t count,
			bool (*go_on)(void *user, double share), void *user, double *nats)
{
	*nats = 0;
	for (int64_t first = 0; first * t->o.tokens < count; first += t->o.batch) {
		if (go_on && !go_on(user, (double)(first * t->o.tokens) / (double)count))
			return fail(t->ctx, AN_INTERRUPTED, "stopped while evaluating");
		data_eval_batch(from, count, t->o.batch, t->o.tokens, first, t->input, t->target, t->window);
		embed(t);
		for (int i = 0; i < t->nsegments; i++)
			for (int j = 0; j < t->segments[i].kind->evaluate.n; j++)
				TRY(evaluate(t, t->segments[i].evaluate[j]));
		*nats += cross_entropy(t, 0);
	}
	return AN_OK;
}
