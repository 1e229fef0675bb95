/* The plan: every surface, and every entry in the order of execution.
 *
 * Per micro-batch: embed, segments forward, cross-entropy (logits become their gradient in
 * place), then from the last segment to the first its backward and, while that one's operands
 * are in their shared surfaces, its weight gradients; last the embedding's.  Per update: norm,
 * then AdamW and the new fp16 weights group by group. */
#include "train/train.h"

#include "device/device.h"

/* ---- Surfaces ---------------------------------------------------------------------- */

static surface *add_surface(an_trainer *t, const char *name, an_type type)
{
	surface *s = arena_alloc(&t->arena, sizeof *s);
	if (!s)
		return NULL;
	*s = (surface){.name = name, .type = type, .next = t->surfaces};
	t->surfaces = s;
	t->memory += (int64_t)an_type_bytes(&type);
	return s;
}

static an_type value_type(const an_function *f, an_value v) { return fn_value(f, v)->type; }
static const char *value_name(const an_function *f, an_value v) { return fn_value(f, v)->name; }

static bool has_input(const an_function *f, const char *name)
{
	for (size_t i = 0; i < f->ninputs; i++)
		if (strcmp(value_name(f, f->inputs[i]), name) == 0)
			return true;
	return false;
}

/* Whether `name` is "d_" and what comes after. */
static bool is_gradient(const char *name, const char *of)
{
	return strncmp(name, "d_", 2) == 0 && strcmp(name + 2, of) == 0;
}

surface *plan_find(const an_trainer *t, const segment *s, const char *name)
{
	if (strcmp(name, "x") == 0)
		return s->x;
	if (strcmp(name, "d_x") == 0)
		return s->d_x;
	const char *out = value_name(s->kind->f, s->kind->f->outputs[0]);
	if (strcmp(name, out) == 0)
		return s->out;
	if (is_gradient(name, out))
		return s->d_out;
	for (int i = 0; i < s->is.nparams; i++)
		if (strcmp(name, s->is.input[i]) == 0)
			return t->weight[s->is.param[i]];
	for (int i = 0; s->residual && i < (int)s->kind->forward_f->noutputs; i++)
		if (s->residual[i] && strcmp(name, s->residual[i]->name) == 0)
			return s->residual[i];
	for (int i = 0; i < s->kind->nshared; i++)
		if (strcmp(name, s->kind->shared[i]->name) == 0)
			return s->kind->shared[i];
	return NULL;
}

/* What programs return that has no surface yet: values that the next ones of the chain read, operands of
 * weight gradients, norms' gradients. */
static an_status add_shared(an_trainer *t, const segment *s, const chain *c)
{
	kind *k = s->kind;
	for (int i = 0; i < c->n; i++) {
		const an_function *f = c->at[i].f;
		for (size_t j = 0; f && j < f->noutputs; j++) {
			const char *name = value_name(f, f->outputs[j]);
			an_type type = value_type(f, f->outputs[j]);
			surface *at = plan_find(t, s, name);
			if (at && an_type_equal(&at->type, &type))
				continue;
			if (at)
				return fail(t->ctx, AN_INTERNAL, "%s: two surfaces are called \"%s\"",
					    k->function, name);
			surface **more = arena_array(&t->arena, (size_t)k->nshared + 1, sizeof(surface *));
			if (!more || !(at = add_surface(t, name, type)))
				return fail_memory(t->ctx, 0);
			if (k->nshared)
				memcpy(more, k->shared, (size_t)k->nshared * sizeof(surface *));
			more[k->nshared++] = at;
			k->shared = more;
		}
	}
	return AN_OK;
}

static an_status add_residuals(an_trainer *t, segment *s)
{
	const an_function *f = s->kind->forward_f;
	s->residual = arena_array(&t->arena, f->noutputs, sizeof(surface *));
	if (!s->residual)
		return fail_memory(t->ctx, 0);
	for (size_t i = 1; i < f->noutputs; i++) {
		s->residual[i] = add_surface(t, value_name(f, f->outputs[i]), value_type(f, f->outputs[i]));
		if (!s->residual[i])
			return fail_memory(t->ctx, 0);
	}
	return AN_OK;
}

/* Activations stay for the backward; an evaluation needs two in turn.  Cotangents always do with two. */
static an_status add_activations(an_trainer *t)
{
	const an_llama_config *c = an_model_config(t->model);
	int n = t->nsegments, keep = t->mode == MODE_EVALUATE ? MIN(2, n) : n;
	an_type x = an_tensor(AN_FP16, 4, (int32_t[]){1, c->dim, 1, (int32_t)t->S});
	an_type logits = an_tensor(AN_FP16, 4, (int32_t[]){1, c->vocab, 1, (int32_t)t->S});
	surface *d[2] = {NULL, NULL};
	for (int i = 0; i < n; i++)
		if (!(t->segments[i].x = i < keep ? add_surface(t, "x", x) : t->segments[i - keep].x))
			return fail_memory(t->ctx, 0);
	t->embedded = t->segments[0].x;
	t->logits = add_surface(t, "logits", logits);
	if (!t->logits)
		return fail_memory(t->ctx, 0);
	for (int i = 0; i < 2 && t->mode != MODE_EVALUATE; i++)
		if (!(d[i] = add_surface(t, "d_x", x)))
			return fail_memory(t->ctx, 0);
	for (int i = 0; i < n; i++) {
		segment *s = &t->segments[i];
		s->out = i + 1 < n ? t->segments[i + 1].x : t->logits;
		s->d_out = i + 1 < n ? d[(i + 1) % 2] : t->logits;
		s->d_x = d[i % 2];
	}
	t->d_embedded = d[0];
	return AN_OK;
}

/* Parameters that programs read, and the order of updates: each with the first segment that has it, the
 * embedding first. */
static an_status add_weights(an_trainer *t)
{
	int n = an_model_params(t->model);
	t->weight = arena_array(&t->arena, (size_t)n, sizeof(surface *));
	t->order = arena_array(&t->arena, (size_t)n, sizeof *t->order);
	t->written = arena_array(&t->arena, (size_t)n, sizeof *t->written);
	if (!t->weight || !t->order || !t->written)
		return fail_memory(t->ctx, 0);
	for (int i = 0; i < t->nsegments; i++) {
		const an_segment *s = &t->segments[i].is;
		for (int j = 0; j < s->nparams; j++) {
			const an_param *p = an_model_param(t->model, s->param[j]);
			if (t->weight[s->param[j]])
				continue;
			surface *w = add_surface(t, p->name, an_tensor(AN_FP16, p->rank, p->dim));
			if (!w)
				return fail_memory(t->ctx, 0);
			t->weight[s->param[j]] = w;
		}
	}
	return AN_OK;
}

/* ---- Entries ----------------------------------------------------------------------- */

static an_status add_entry(an_trainer *t, an_plan_entry e, action a)
{
	size_t n = (size_t)t->nentries;
	if (!mem_grow(t->ctx, &t->entries, &t->entries_cap, n, sizeof e) ||
	    !mem_grow(t->ctx, &t->actions, &t->actions_cap, n, sizeof a) || !e.name)
		return fail_memory(t->ctx, 0);
	t->entries[n] = e;
	t->actions[n] = a;
	t->nentries++;
	return AN_OK;
}

static int64_t type_bytes(const surface *s) { return (int64_t)an_type_bytes(&s->type); }

static int64_t value_bytes(const an_function *f, an_value v)
{
	return (int64_t)an_type_bytes(&fn_value(f, v)->type);
}

static bool is_parameter(const segment *s, const char *name)
{
	for (int i = 0; i < s->is.nparams; i++)
		if (strcmp(name, s->is.input[i]) == 0)
			return true;
	return false;
}

/* Bytes of the program's inputs, and of these what is weights. */
static int64_t input_bytes(const program *p, const segment *s, int64_t *weights)
{
	int64_t all = 0;
	*weights = 0;
	for (size_t i = 0; i < p->f->ninputs; i++) {
		all += value_bytes(p->f, p->f->inputs[i]);
		if (is_parameter(s, value_name(p->f, p->f->inputs[i])))
			*weights += value_bytes(p->f, p->f->inputs[i]);
	}
	for (int i = 0; i < p->nslots; i++)
		if (is_parameter(s, p->slot[i].name))
			*weights += (int64_t)an_type_bytes(&p->slot[i].type);
	return all;
}

an_status plan_dispatch(an_trainer *t, const program *p, const segment *s, dispatch **out)
{
	dispatch *d = *out = arena_alloc(&t->arena, sizeof *d);
	int64_t weights;
	if (!d)
		return fail_memory(t->ctx, 0);
	*d = (dispatch){.program = p, .segment = s, .next = t->dispatches};
	t->dispatches = d;
	input_bytes(p, s, &weights);
	if (weights_are_constants(t, p, &s->is))
		t->memory += weights;
	if (p->nslots && !(d->packed = add_surface(t, "packed", value_type(p->f, p->f->inputs[0]))))
		return fail_memory(t->ctx, 0);
	return AN_OK;
}

static an_status add_program(an_trainer *t, const segment *s, const char *what, const program *p)
{
	dispatch *d;
	an_plan_entry e = {.host = p->host ? AN_HOST_PROGRAM : AN_HOST_NONE, .flops = p->flops};
	e.name = arena_printf(&t->arena, "%s %s%s%s", s->is.name, what, p->name ? " " : "",
			      p->name ? p->name : "");
	int64_t in = input_bytes(p, s, &e.weights);
	e.in = in - e.weights;
	for (size_t i = 0; i < p->f->noutputs; i++)
		e.out += value_bytes(p->f, p->f->outputs[i]);
	e.bytes = in + e.out;
	TRY(plan_dispatch(t, p, s, &d));
	if (d->packed)
		TRY(add_entry(t,
			      (an_plan_entry){.name = arena_printf(&t->arena, "pack %s", e.name),
					      .host = AN_HOST_PACK,
					      .bytes = 2 * e.in},
			      (action){.dispatch = d}));
	return add_entry(t, e, (action){.dispatch = d});
}

/* What an update has to do so that programs see its weights. */
static an_status add_refreshes(an_trainer *t)
{
	static const char *const verb[] = {"", "pack weights", "compile", "reload"};
	for (int i = 0, n = t->nentries; i < n; i++) {
		dispatch *d = t->actions[i].dispatch;
		if (t->entries[i].host != AN_HOST_NONE || !weights_own(t, d))
			continue;
		const char *name = t->entries[i].name;
		TRY(add_entry(
		    t,
		    (an_plan_entry){.name = arena_printf(&t->arena, "%s %s", verb[t->o.weights], name),
				    .host = AN_HOST_WEIGHTS,
				    .bytes = 2 * t->entries[i].weights,
				    .compiles = t->o.weights == AN_WEIGHTS_BAKE,
				    .reloads = t->o.weights == AN_WEIGHTS_RELOAD,
				    .per_update = true},
		    (action){.dispatch = d}));
	}
	return AN_OK;
}

static k_type gemm_type(const an_type *t) { return t->dtype == AN_FP16 ? K_F16 : K_F32; }

static an_status no_surface(an_trainer *t, const segment *s, const char *name)
{
	return fail(t->ctx, AN_INTERNAL, "%s: no surface for \"%s\"", s->is.name, name);
}

/* dW = sum over batches of x * y, into the fp32 gradient. */
static an_status add_contraction(an_trainer *t, const segment *s, int input, const an_contraction *c)
{
	const an_param *p = an_model_param(t->model, s->is.param[input]);
	action a = {.param = s->is.param[input],
		    .x = plan_find(t, s, c->x),
		    .y = plan_find(t, s, c->y),
		    .batch = c->batch,
		    .x_offset = c->x_offset,
		    .y_offset = c->y_offset,
		    .x_stride = c->x_stride[0],
		    .y_stride = c->y_stride[0]};
	if (!a.x || !a.y)
		return no_surface(t, s, a.x ? c->y : c->x);
	if (c->m * c->n != p->count)
		return fail(t->ctx, AN_INTERNAL, "%s: a gradient of %lld x %lld elements", p->name,
			    (long long)c->m, (long long)c->n);
	a.gemm =
	    (k_gemm_args){.m = c->m,
			  .n = c->n,
			  .k = c->k,
			  .a = {.type = gemm_type(&c->x_type), .rs = c->x_stride[1], .cs = c->x_stride[2]},
			  .b = {.type = gemm_type(&c->y_type), .rs = c->y_stride[1], .cs = c->y_stride[2]},
			  .c = {.type = K_F32, .rs = c->n, .cs = 1},
			  .accumulate = true,
			  .precision = t->precision};
	a.row = k_gemm_select(&a.gemm, t->ctx->isa);
	int64_t operands = c->m * c->k * (int64_t)k_type_size(a.gemm.a.type) +
			   c->k * c->n * (int64_t)k_type_size(a.gemm.b.type);
	return add_entry(t,
			 (an_plan_entry){.name = arena_printf(&t->arena, "dW %s", s->label[input]),
					 .host = AN_HOST_WEIGHT_GRAD,
					 .flops = 2 * c->batch * c->m * c->n * c->k,
					 .bytes = c->batch * operands + 8 * p->count},
			 a);
}

/* The gradient that a program returns in fp16. */
static an_status add_cast(an_trainer *t, const segment *s, int input, surface *x)
{
	const an_param *p = an_model_param(t->model, s->is.param[input]);
	return add_entry(t,
			 (an_plan_entry){.name = arena_printf(&t->arena, "d %s", s->label[input]),
					 .host = AN_HOST_CAST,
					 .bytes = type_bytes(x) + 8 * p->count},
			 (action){.param = s->is.param[input], .x = x});
}

/* What the program gives of the parameters' gradients. */
static an_status add_gradients(an_trainer *t, const segment *s, const program *p)
{
	for (int i = 0; i < s->is.nparams; i++) {
		for (int j = 0; j < p->ncontractions; j++)
			if (is_gradient(p->contraction[j].output, s->is.input[i]))
				TRY(add_contraction(t, s, i, &p->contraction[j]));
		for (size_t j = 0; p->f && j < p->f->noutputs; j++) {
			const char *name = value_name(p->f, p->f->outputs[j]);
			if (!is_gradient(name, s->is.input[i]))
				continue;
			surface *x = plan_find(t, s, name);
			TRY(x ? add_cast(t, s, i, x) : no_surface(t, s, name));
		}
	}
	return AN_OK;
}

static an_status add_micro_batch(an_trainer *t)
{
	int64_t dim = an_model_config(t->model)->dim, S = t->S;
	TRY(add_entry(
	    t, (an_plan_entry){.name = "embed", .host = AN_HOST_EMBED, .bytes = S * 4 + S * dim * (4 + 2)},
	    (action){0}));
	for (int i = 0; i < t->nsegments; i++) {
		const chain *c = &t->segments[i].kind->forward;
		for (int j = 0; j < c->n; j++)
			TRY(add_program(t, &t->segments[i], "forward", &c->at[j]));
	}
	/* reads the logits twice, writes their gradient */
	TRY(add_entry(t,
		      (an_plan_entry){.name = "cross-entropy",
				      .host = AN_HOST_CROSS_ENTROPY,
				      .bytes = S * 4 + 3 * type_bytes(t->logits)},
		      (action){0}));
	for (int i = t->nsegments - 1; i >= 0; i--) {
		const chain *c = &t->segments[i].kind->backward;
		for (int j = 0; j < c->n; j++) {
			if (c->at[j].f)
				TRY(add_program(t, &t->segments[i], "backward", &c->at[j]));
			TRY(add_gradients(t, &t->segments[i], &c->at[j]));
		}
	}
	return add_entry(t,
			 (an_plan_entry){.name = "d embed",
					 .host = AN_HOST_EMBED_GRAD,
					 .bytes = S * 4 + S * dim * (2 + 4 + 4)},
			 (action){.param = an_model_embedding(t->model)});
}

static bool reads_alike(const action *a, const action *b, k_operand which)
{
	const bool same = which == K_A
			      ? a->x == b->x && a->x_offset == b->x_offset && a->x_stride == b->x_stride
			      : a->y == b->y && a->y_offset == b->y_offset && a->y_stride == b->y_stride;
	return same && a->batch == b->batch && k_gemm_packs_alike(a->row, &a->gemm, b->row, &b->gemm, which);
}

/* Neighbours among the gradients of matrices that read one activation share what the first packs of it:
 * nothing writes to surfaces between them. */
static void share_operands(an_trainer *t)
{
	const int threads = an_ctx_threads(t->ctx);
	for (int i = 1; i < t->nentries; i++)
		for (int which = K_A; which <= K_B; which++) {
			action *a = &t->actions[i - 1], *b = &t->actions[i];
			if (!a->row || !b->row || !reads_alike(a, b, (k_operand)which) ||
			    !k_gemm_packs_first(a->row, &a->gemm, (k_operand)which, threads) ||
			    !k_gemm_packs_first(b->row, &b->gemm, (k_operand)which, threads))
				continue;
			if (a->share[which] == SHARE_NONE)
				a->share[which] = SHARE_FIRST;
			b->share[which] = SHARE_NEXT;
			const size_t bytes = k_gemm_packed_bytes(b->row, &b->gemm, (k_operand)which);
			t->panel_bytes[which] = MAX(t->panel_bytes[which], (size_t)b->batch * bytes);
		}
	for (int i = 0; i < t->nentries; i++) {
		const action *a = &t->actions[i];
		k_gemm_args g = a->gemm;
		if (!a->row)
			continue;
		g.packed_a = a->share[K_A] ? a : NULL;
		g.packed_b = a->share[K_B] ? a : NULL;
		t->scratch_bytes = MAX(t->scratch_bytes, k_gemm_scratch(a->row, &g, threads));
	}
}

/* AdamW for the parameters order[first] .. of one group, with the device's copy. */
static an_status add_update_of(an_trainer *t, const char *group, int first, int n)
{
	int64_t count = 0, device = 0;
	for (int i = first; i < first + n; i++) {
		const an_param *p = an_model_param(t->model, t->order[i]);
		count += p->count;
		device += t->weight[t->order[i]] ? p->count : 0;
	}
	return add_entry(t,
			 (an_plan_entry){.name = arena_printf(&t->arena, "AdamW %s", group),
					 .host = AN_HOST_ADAMW,
					 /* reads w, g, m, v; writes w, m, v; writes the device's */
					 .bytes = 28 * count + 2 * device,
					 .per_update = true},
			 (action){.param = first, .nparams = n});
}

static an_status add_update(an_trainer *t)
{
	TRY(add_entry(t,
		      (an_plan_entry){.name = "norm",
				      .host = AN_HOST_NORM,
				      .bytes = 4 * an_model_param_block(t->model),
				      .per_update = true},
		      (action){0}));
	bool *taken = arena_array(&t->arena, (size_t)an_model_params(t->model), sizeof *taken);
	if (!taken)
		return fail_memory(t->ctx, 0);
	int n = 0, embedding = an_model_embedding(t->model);
	t->order[n++] = embedding;
	taken[embedding] = true;
	TRY(add_update_of(t, "embedding", 0, 1));
	for (int i = 0; i < t->nsegments; i++) {
		const an_segment *s = &t->segments[i].is;
		int first = n;
		for (int j = 0; j < s->nparams; j++)
			if (!taken[s->param[j]]) {
				taken[s->param[j]] = true;
				t->order[n++] = s->param[j];
			}
		if (n > first)
			TRY(add_update_of(t, s->name, first, n - first));
	}
	return AN_OK;
}

/* ---- Building ---------------------------------------------------------------------- */

/* Segment i of the model and, if it is a layer, those after it that go into the same program. */
static an_status join(an_trainer *t, int i, int n, segment *s)
{
	const an_segment *first = an_model_segment(t->model, i),
			 *last = an_model_segment(t->model, i + n - 1);
	int per = first->nparams;
	int *param = arena_array(&t->arena, (size_t)(n * per), sizeof *param);
	const char **input = arena_array(&t->arena, (size_t)(n * per), sizeof *input);
	s->label = arena_array(&t->arena, (size_t)(n * per), sizeof *s->label);
	s->is = (an_segment){.name = first->name, .function = first->function, .nparams = n * per};
	if (n > 1) { /* "layers.0-3" */
		const char *number = strrchr(last->name, '.');
		s->is.name = arena_printf(&t->arena, "%s-%s", first->name, number ? number + 1 : last->name);
	}
	if (!param || !input || !s->label || !s->is.name)
		return fail_memory(t->ctx, 0);
	for (int k = 0; k < n * per; k++) {
		const an_segment *of = an_model_segment(t->model, i + k / per);
		param[k] = of->param[k % per];
		input[k] = n == 1 ? of->input[k % per]
				  : arena_printf(&t->arena, "l%d_%s", k / per, of->input[k % per]);
		s->label[k] = arena_printf(&t->arena, "%s.%s", of->name, of->input[k % per]);
		if (!input[k] || !s->label[k])
			return fail_memory(t->ctx, 0);
	}
	s->is.param = param;
	s->is.input = input;
	return AN_OK;
}

/* How many of the model's segments, from i on, go into one program. */
static int together(const an_trainer *t, int i)
{
	const char *function = an_model_segment(t->model, i)->function;
	int n = 1;
	while (n < t->o.layers_per_program && i + n < an_model_segments(t->model) &&
	       strcmp(an_model_segment(t->model, i + n)->function, function) == 0)
		n++;
	return n;
}

static an_status add_segments(an_trainer *t)
{
	int n = an_model_segments(t->model);
	t->segments = arena_array(&t->arena, (size_t)n, sizeof *t->segments);
	t->kinds = arena_array(&t->arena, (size_t)n, sizeof *t->kinds);
	if (!t->segments || !t->kinds)
		return fail_memory(t->ctx, 0);
	for (int i = 0, layers; i < n; i += layers) {
		segment *s = &t->segments[t->nsegments++];
		int k = 0;
		layers = together(t, i);
		TRY(join(t, i, layers, s));
		const char *function =
		    layers == 1 ? s->is.function : arena_printf(&t->arena, "%s_%d", s->is.function, layers);
		if (!function)
			return fail_memory(t->ctx, 0);
		while (k < t->nkinds && strcmp(t->kinds[k].function, function) != 0)
			k++;
		s->kind = &t->kinds[k];
		if (k == t->nkinds) {
			t->kinds[t->nkinds++].function = function;
			TRY(train_build_kind(t, s->kind, &s->is, layers));
		}
	}
	return AN_OK;
}

/* Host arrays and what programs need, beside the surfaces that are counted as they are added. */
static void count_other_memory(an_trainer *t)
{
	int blocks = t->mode == MODE_EVALUATE ? 0 : 4; /* masters, gradients, two moments */
	an_device_info info;
	an_device_get_info(t->device, &info);
	t->block_bytes = (size_t)an_model_param_block(t->model) * sizeof(float);
	if (t->host && t->host != t->device) {
		t->memory += info.memory;
		an_device_get_info(t->host, &info);
	}
	t->memory += info.memory + blocks * (int64_t)t->block_bytes + (int64_t)t->scratch_bytes +
		     (int64_t)(t->panel_bytes[K_A] + t->panel_bytes[K_B]) +
		     (2 * t->S + t->o.tokens + 1) * (int64_t)sizeof(int32_t);
}

/* Weights that several micro-batches read are worth keeping packed; fewer gain nothing.  Evaluations during a
 * training read them as forwards do. */
static void count_packed(an_trainer *t)
{
	enum { SEVERAL = 3 };
	t->packed_memory = 0;
	if (t->mode != MODE_EVALUATE && t->o.accumulate < SEVERAL)
		return;
	for (const dispatch *d = t->dispatches; d; d = d->next) {
		const an_segment *s = &d->segment->is;
		const an_executable *exe = d->program->host ? NULL : d->program->exe;
		for (int i = 0; exe && i < s->nparams; i++)
			t->packed_memory += (int64_t)dev_packed_bytes(exe, s->input[i]);
	}
}

void plan_keep_packed(an_trainer *t)
{
	count_packed(t);
	if (t->packed_memory > memory_available())
		t->packed_memory = 0;
	for (int i = 0; i < an_model_params(t->model) && t->packed_memory; i++)
		if (t->weight[i])
			an_buffer_keep_packed(t->weight[i]->buffer);
}

/* What training needs beside what an evaluation does. */
static an_status add_training(an_trainer *t)
{
	/* the loss writes d_logits over the logits */
	const kind *head = t->segments[t->nsegments - 1].kind;
	const char *out = value_name(head->f, head->f->outputs[0]);
	for (int i = 0; i < head->backward.n; i++)
		if (head->backward.at[i].f && has_input(head->backward.at[i].f, out))
			return fail(t->ctx, AN_UNSUPPORTED,
				    "the backward of \"%s\" reads \"%s\", which the loss overwrites",
				    head->function, out);
	for (int i = 0; i < t->nsegments; i++)
		TRY(add_residuals(t, &t->segments[i]));
	for (int i = 0; i < t->nsegments; i++) {
		const segment *s = &t->segments[i];
		TRY(add_shared(t, s, &s->kind->forward));
		TRY(add_shared(t, s, &s->kind->backward));
	}
	TRY(add_micro_batch(t));
	share_operands(t);
	TRY(add_update(t));
	TRY(add_refreshes(t));
	return counts_allocate(t);
}

static an_status add_evaluation(an_trainer *t)
{
	for (int i = 0; i < t->nsegments; i++) {
		segment *s = &t->segments[i];
		const chain *c = &s->kind->evaluate;
		TRY(add_shared(t, s, c));
		if (!(s->evaluate = arena_array(&t->arena, (size_t)c->n, sizeof(dispatch *))))
			return fail_memory(t->ctx, 0);
		for (int j = 0; j < c->n; j++)
			TRY(plan_dispatch(t, &c->at[j], s, &s->evaluate[j]));
	}
	return AN_OK;
}

/* Surfaces that the host's programs read or write exist twice where the host is another device. */
static void mark_twins(an_trainer *t)
{
	for (dispatch *d = t->dispatches; d; d = d->next) {
		const an_function *f = d->program->f;
		if (!d->program->host || t->host == t->device)
			continue;
		for (size_t i = 0; i < f->ninputs + f->noutputs; i++) {
			an_value v = i < f->ninputs ? f->inputs[i] : f->outputs[i - f->ninputs];
			surface *s = plan_find(t, d->segment, value_name(f, v));
			if (s && !s->host) {
				s->host = true;
				t->memory += (int64_t)an_type_bytes(&s->type);
			}
		}
	}
}

an_status plan_build(an_trainer *t)
{
	TRY(add_segments(t));
	TRY(add_weights(t));
	TRY(add_activations(t));
	if (t->mode != MODE_EVALUATE)
		TRY(add_training(t));
	TRY(add_evaluation(t));
	mark_twins(t);
	count_other_memory(t);
	count_packed(t);
	return AN_OK;
}

static an_status bind(an_trainer *t, dispatch *d, const char *name, int port)
{
	surface *at = d->packed && strcmp(name, "packed") == 0 ? d->packed : plan_find(t, d->segment, name);
	if (!at)
		return no_surface(t, d->segment, name);
	d->port[port] = at;
	bool twin = d->program->host && at->twin;
	return an_call_bind(d->call, name, twin ? at->twin : at->buffer);
}

an_status plan_bind(an_trainer *t, dispatch *d)
{
	const char *name;
	if (d->call)
		return AN_OK;
	if (!d->exe)
		d->exe = d->program->exe;
	an_executable *exe = d->exe;
	if (!d->port) {
		while (an_executable_input(exe, d->inputs, NULL))
			d->inputs++;
		d->ports = d->inputs;
		while (an_executable_output(exe, d->ports - d->inputs, NULL))
			d->ports++;
		d->port = arena_array(&t->arena, (size_t)d->ports, sizeof(surface *));
		if (!d->port)
			return fail_memory(t->ctx, 0);
	}
	TRY(an_call_new(exe, &d->call));
	for (int i = 0; i < d->ports; i++) {
		name = i < d->inputs ? an_executable_input(exe, i, NULL)
				     : an_executable_output(exe, i - d->inputs, NULL);
		TRY(bind(t, d, name, i));
	}
	return AN_OK;
}

an_status plan_allocate(an_trainer *t)
{
	int64_t available = memory_available();
	if (t->memory > available)
		return fail(t->ctx, AN_MEMORY,
			    "this needs %.1f GB of memory and %.1f GB are available; a smaller batch, fewer "
			    "tokens per sequence or a smaller model would fit",
			    1e-9 * (double)t->memory, 1e-9 * (double)available);
	for (surface *s = t->surfaces; s; s = s->next)
		TRY(an_buffer_new(t->device, &s->type, &s->buffer));
	for (surface *s = t->surfaces; s; s = s->next)
		if (s->host)
			TRY(an_buffer_new(t->host, &s->type, &s->twin));
	for (int i = 0; i < t->nentries; i++) {
		dispatch *d = t->actions[i].dispatch;
		if (d && d->program->exe)
			TRY(plan_bind(t, d));
	}
	t->input = mem_zalloc(t->ctx, (size_t)t->S * sizeof *t->input);
	t->target = mem_zalloc(t->ctx, (size_t)t->S * sizeof *t->target);
	t->window = mem_zalloc(t->ctx, (size_t)(t->o.tokens + 1) * sizeof *t->window);
	t->scratch = mem_alloc_tensor(t->ctx, t->scratch_bytes);
	for (int i = 0; i < LENGTH(t->panels); i++)
		if (!(t->panels[i] = mem_alloc_tensor(t->ctx, t->panel_bytes[i])))
			return fail_memory(t->ctx, t->panel_bytes[i]);
	if (!t->input || !t->target || !t->window || !t->scratch)
		return fail_memory(t->ctx, 0);
	if (t->mode == MODE_EVALUATE)
		return AN_OK;
	float **block[] = {&t->weights, &t->gradients, &t->m, &t->v};
	for (int i = 0; i < LENGTH(block); i++)
		if (!(*block[i] = mem_alloc_tensor(t->ctx, t->block_bytes)))
			return fail_memory(t->ctx, t->block_bytes);
	return AN_OK;
}
