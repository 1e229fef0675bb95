/* The public trainer: what happens in which order. */
#include "train/train.h"

#include "device/device.h"
#include "train/data.h"

#include <math.h>

/* ---- Making and freeing ----------------------------------------------------------------- */

static an_status new_trainer(an_device *d, const an_model *m, const an_train_options *opt, train_mode mode,
			     an_trainer **out)
{
	*out = NULL;
	an_ctx *ctx = d->ctx;
	an_trainer *t = mem_zalloc(ctx, sizeof *t);
	if (!t)
		return fail_memory(ctx, sizeof *t);
	t->ctx = ctx;
	t->device = d;
	t->model = m;
	t->mode = mode;
	t->dir_lock = -1;
	arena_init(&t->arena, ctx);
	t->compiles_left = d->info.compiles_left;
	t->precision = d->numerics ? dev_precision(d->numerics) : K_EXACT;
	t->fixed = d->counts && t->precision == K_FIXED;
	if (t->precision == K_FIXED)
		t->precision = K_EXACT; /* what the host computes */
	an_status s = train_resolve(ctx, m, opt, &t->o);
	if (s == AN_OK && t->o.weights == AN_WEIGHTS_RELOAD && !d->ops->reload)
		s = fail(ctx, AN_UNSUPPORTED,
			 "device \"%s\" cannot replace the constants of a program; \"bake\" compiles it anew",
			 d->info.name);
	if (s == AN_OK)
		s = an_program_new(ctx, &t->program);
	if (s == AN_OK) {
		t->S = (int64_t)t->o.batch * t->o.tokens;
		t->tokens_per_update = t->S * t->o.accumulate;
		t->state = (train_state){
		    .loss_scale = t->o.loss_scale, .best_loss = INFINITY, .best_step = -1, .evaluated = -1};
		s = plan_build(t);
	}
	if (s != AN_OK) {
		an_trainer_free(t);
		return s;
	}
	*out = t;
	return AN_OK;
}

void an_trainer_free(an_trainer *t)
{
	if (!t)
		return;
	checkpoint_end(t);
	for (dispatch *d = t->dispatches; d; d = d->next) {
		an_call_free(d->call);
		if (d->exe != d->program->exe)
			an_executable_free(d->exe);
	}
	for (surface *s = t->surfaces; s; s = s->next) {
		an_buffer_free(s->buffer);
		an_buffer_free(s->twin);
	}
	for (int i = 0; i < t->nkinds; i++) {
		const chain *c[] = {&t->kinds[i].evaluate, &t->kinds[i].forward, &t->kinds[i].backward};
		for (int j = 0; j < LENGTH(c); j++)
			for (int k = 0; k < c[j]->n; k++)
				an_executable_free(c[j]->at[k].exe);
	}
	if (t->host != t->device)
		an_device_close(t->host);
	an_program_free(t->program);
	if (t->mode != MODE_EVALUATE)
		mem_free_tensor(t->ctx, t->weights, t->block_bytes);
	mem_free_tensor(t->ctx, t->gradients, t->block_bytes);
	mem_free_tensor(t->ctx, t->m, t->block_bytes);
	mem_free_tensor(t->ctx, t->v, t->block_bytes);
	mem_free_tensor(t->ctx, t->scratch, t->scratch_bytes);
	for (int i = 0; i < LENGTH(t->panels); i++)
		mem_free_tensor(t->ctx, t->panels[i], t->panel_bytes[i]);
	mem_free(t->ctx, t->input, (size_t)t->S * sizeof *t->input);
	mem_free(t->ctx, t->target, (size_t)t->S * sizeof *t->target);
	mem_free(t->ctx, t->window, (size_t)(t->o.tokens + 1) * sizeof *t->window);
	mem_free(t->ctx, t->entries, t->entries_cap * sizeof *t->entries);
	mem_free(t->ctx, t->actions, t->actions_cap * sizeof *t->actions);
	arena_free(&t->arena);
	mem_free(t->ctx, t, sizeof *t);
}

static an_status check_data(an_trainer *t)
{
	int32_t vocab = an_model_config(t->model)->vocab;
	uint64_t unused;
	size_t n = t->data.train ? an_tokens_count(t->data.train) : 0;
	if (data_windows(n, t->o.tokens) == 0)
		return fail(t->ctx, AN_USAGE,
			    "the training text has %zu tokens; one sequence and the token after it are %d", n,
			    t->o.tokens + 1);
	TRY(data_check(t->ctx, t->data.train, "training text", vocab, &t->data_hash));
	if (!t->data.valid)
		return AN_OK;
	if (an_tokens_count(t->data.valid) < 2)
		return fail(t->ctx, AN_USAGE, "the validation text has %zu tokens; to predict one takes two",
			    an_tokens_count(t->data.valid));
	return data_check(t->ctx, t->data.valid, "validation text", vocab, &unused);
}

/* Initial weights.  Padding between parameters stays zero. */
static void set_weights(an_trainer *t, const float *block)
{
	if (!block) {
		an_model_init(t->model, t->o.seed, t->weights);
		return;
	}
	for (int i = 0; i < an_model_params(t->model); i++) {
		const an_param *p = an_model_param(t->model, i);
		memcpy(t->weights + p->offset, block + p->offset, (size_t)p->count * sizeof *block);
	}
}

static bool due(int64_t every, int64_t step, int64_t steps)
{
	return step == steps || (every > 0 && step % every == 0);
}

/* Before the first update there is one where there are any on the way. */
static bool evaluation_is_due(const an_trainer *t)
{
	const train_state *s = &t->state;
	return t->data.valid && s->evaluated < s->step &&
	       (s->step == 0 ? t->o.eval_every > 0 : due(t->o.eval_every, s->step, t->o.steps));
}

static an_status start(an_trainer *t, const float *block)
{
	bool resumed = false;
	TRY(check_data(t));
	if (t->o.count_every) { /* refused before anything is done */
		TRY(an_device_count(t->device, true));
		TRY(an_device_count(t->device, false));
	}
	if (t->o.weights == AN_WEIGHTS_RELOAD && t->device->ops->can_reload)
		TRY(t->device->ops->can_reload(t->device));
	TRY(plan_allocate(t));
	plan_keep_packed(t);
	if (t->o.profile && t->device->ops->kernel)
		TRY(an_device_time(t->device, true));
	if (t->o.profile && t->host && t->host->ops->kernel)
		TRY(an_device_time(t->host, true));
	if (t->o.dir)
		TRY(checkpoint_begin(t, &resumed));
	if (!resumed)
		set_weights(t, block);
	if (t->data.valid)
		TRY(train_build_evaluation(t));
	t->gradient_scale = 1; /* there are none yet */
	TRY(train_upload(t));
	/* now, so that what is refused is known before anything is done; but an evaluation needs other
	 * programs, and not every device compiles them all in one process */
	return evaluation_is_due(t) ? AN_OK : train_refresh(t);
}

an_status an_trainer_new(an_device *d, const an_model *m, const an_data *data, const an_train_options *opt,
			 const float *block, an_trainer **out)
{
	an_trainer *t;
	TRY(new_trainer(d, m, opt, MODE_TRAIN, &t));
	t->data = *data;
	an_status s = start(t, block);
	if (s != AN_OK) {
		an_trainer_free(t);
		t = NULL;
	}
	*out = t;
	return s;
}

an_status an_trainer_plan_only(an_device *d, const an_model *m, const an_train_options *opt, an_trainer **out)
{
	an_train_options o = *opt;
	o.steps = o.steps ? o.steps : 1;
	return new_trainer(d, m, &o, MODE_PLAN, out);
}

/* ---- Steps -------------------------------------------------------------------------------- */

static an_status check_runs(const an_trainer *t)
{
	return t->mode == MODE_TRAIN ? AN_OK
				     : fail(t->ctx, AN_USAGE, "this trainer was made for its plan only");
}

an_status an_trainer_step(an_trainer *t)
{
	TRY(check_runs(t));
	if (t->state.step >= t->o.steps)
		return fail(t->ctx, AN_USAGE, "all %lld updates are done", (long long)t->o.steps);
	return train_update(t);
}

/* `go_on`, which gets the trainer, may be NULL. */
static an_status evaluate(an_trainer *t, int64_t tokens, bool (*go_on)(void *t, double share), double *loss,
			  double *bits_per_byte)
{
	if (!t->data.valid)
		return fail(t->ctx, AN_USAGE, "there is no validation text");
	int64_t all = (int64_t)an_tokens_count(t->data.valid) - 1,
		count = tokens > 0 ? MIN(tokens, all) : all;
	double nats, bytes = (double)t->data.valid_bytes;
	TRY(train_measure(t, t->data.valid, count, go_on, t, &nats));
	*loss = nats / (double)count;
	if (count < all) /* of a part: its own bytes, where the tokenizer can tell */
		bytes = t->o.tokenizer
			    ? (double)an_tokens_bytes(t->data.valid, 1, (size_t)count, t->o.tokenizer)
			    : bytes * (double)count / (double)all;
	if (bits_per_byte)
		*bits_per_byte = bytes > 0 ? nats / log(2) / bytes : NAN;
	return AN_OK;
}

an_status an_trainer_evaluate(an_trainer *t, int64_t tokens, double *loss, double *bits_per_byte)
{
	TRY(check_runs(t));
	return evaluate(t, tokens, NULL, loss, bits_per_byte);
}

/* ---- A whole training ------------------------------------------------------------------------ */

static an_train_report report_of(const an_trainer *t, int what)
{
	an_train_report r = {.step = t->state.step,
			     .steps = t->o.steps,
			     .loss = t->loss,
			     .grad_norm = t->grad_norm,
			     .lr = t->lr,
			     .loss_scale = t->state.loss_scale,
			     .lost = t->lost};
	r.kind = what;
	double seconds = seconds_now() - t->run_started;
	if (t->run_steps && seconds > 0) {
		r.tokens_per_second = (double)(t->run_steps * t->tokens_per_update) / seconds;
		r.seconds_left = seconds / (double)t->run_steps * (double)(t->o.steps - t->state.step);
	}
	return r;
}

/* false: the caller wants to stop. */
static bool tell(const an_trainer *t, const an_train_report *r)
{
	return !t->o.report || t->o.report(t->o.user, r);
}

static bool tell_evaluating(void *trainer, double share)
{
	const an_trainer *t = trainer;
	an_train_report r = report_of(t, AN_REPORT_EVALUATING);
	r.share = share;
	return tell(t, &r);
}

static an_status evaluate_and_tell(an_trainer *t, bool *go_on)
{
	an_train_report r = report_of(t, AN_REPORT_EVAL);
	an_status s = evaluate(t, t->o.eval_tokens, tell_evaluating, &r.loss, &r.bits_per_byte);
	if (s == AN_INTERRUPTED) { /* it remains due */
		*go_on = false;
		return AN_OK;
	}
	TRY(s);
	/* what has not been trained is not a result */
	r.best = t->state.step > 0 && r.loss < t->state.best_loss;
	if (r.best) {
		t->state.best_loss = r.loss;
		t->state.best_step = t->state.step;
	}
	t->state.evaluated = t->state.step;
	t->unsaved = true;
	if (t->metrics)
		TRY(metrics_report(t->metrics, &r, NULL, NULL));
	*go_on &= tell(t, &r);
	return AN_OK;
}

static an_status step_and_tell(an_trainer *t, bool *go_on)
{
	int64_t before = t->ncounted;
	TRY(train_update(t));
	bool counted = t->ncounted > before;
	t->run_steps++;
	t->unsaved = true;
	an_train_report r = report_of(t, AN_REPORT_STEP);
	if (t->metrics)
		TRY(metrics_report(t->metrics, &r, t->skipped, counted ? t : NULL));
	if (t->skipped) {
		an_train_report skipped = r;
		skipped.kind = AN_REPORT_SKIPPED;
		skipped.text = t->skipped;
		*go_on &= tell(t, &skipped);
	}
	*go_on &= tell(t, &r);
	return AN_OK;
}

static an_status save_and_tell(an_trainer *t, bool *go_on)
{
	arena a;
	arena_init(&a, t->ctx);
	an_train_report r = report_of(t, AN_REPORT_SAVED);
	an_status s = checkpoint_save(t, &a, &r.text);
	if (s == AN_OK)
		*go_on &= tell(t, &r);
	arena_free(&a);
	return s;
}

/* The evaluation and the checkpoint that are due at this step, as far as that was not done before the
 * training was resumed. */
static an_status evaluate_and_save(an_trainer *t, bool *go_on)
{
	const train_state *s = &t->state;
	if (evaluation_is_due(t))
		TRY(evaluate_and_tell(t, go_on));
	bool best = s->best_step == s->step;
	if (t->o.dir && t->unsaved && s->step > 0 &&
	    (best || !*go_on || due(t->o.save_every, s->step, t->o.steps)))
		TRY(save_and_tell(t, go_on));
	return AN_OK;
}

static an_status run_all(an_trainer *t, bool *go_on)
{
	TRY(evaluate_and_save(t, go_on));
	t->run_started = seconds_now();
	while (t->state.step < t->o.steps && *go_on) {
		TRY(step_and_tell(t, go_on));
		TRY(evaluate_and_save(t, go_on));
	}
	return AN_OK;
}

/* The device compiles nothing more in this process.  `before`: as the run began. */
static an_status budget_ended(an_trainer *t, const train_state *before)
{
	if (t->state.step == before->step && t->state.evaluated == before->evaluated)
		return fail(
		    t->ctx, AN_DEVICE,
		    "an update or an evaluation compiles more programs than the device takes from one "
		    "process, of which %lld were left to this training; more layers in a program need fewer, "
		    "and weights that are inputs (dynamic, packed) are compiled once",
		    (long long)t->compiles_left);
	arena a;
	const char *folder;
	arena_init(&a, t->ctx);
	an_status s = t->o.dir && t->unsaved ? checkpoint_save(t, &a, &folder) : AN_OK;
	arena_free(&a);
	return s == AN_OK ? AN_BUDGET : s;
}

an_status an_trainer_run(an_trainer *t)
{
	TRY(check_runs(t));
	bool go_on = true;
	train_state before = t->state;
	t->run_started = seconds_now();
	t->run_steps = 0;
	an_status s = run_all(t, &go_on);
	if (s == AN_BUDGET)
		return budget_ended(t, &before);
	TRY(s);
	if (!go_on && (t->state.step < t->o.steps || evaluation_is_due(t)))
		return fail(t->ctx, AN_INTERRUPTED, "stopped after %lld of %lld updates",
			    (long long)t->state.step, (long long)t->o.steps);
	return AN_OK;
}

/* ---- Looking at it ----------------------------------------------------------------------------- */

int64_t an_trainer_at(const an_trainer *t) { return t->state.step; }
double an_trainer_loss(const an_trainer *t) { return t->loss; }
double an_trainer_loss_scale(const an_trainer *t) { return t->state.loss_scale; }
const char *an_trainer_skipped(const an_trainer *t) { return t->skipped; }
const float *an_trainer_weights(const an_trainer *t) { return t->weights; }
int64_t an_trainer_memory(const an_trainer *t) { return t->memory + t->packed_memory; }

const float *an_trainer_gradients(an_trainer *t)
{
	if (t->gradients && t->gradient_scale != 1) {
		float factor = (float)(1 / t->gradient_scale);
		for (int64_t i = 0; i < an_model_param_block(t->model); i++)
			t->gradients[i] *= factor;
		t->gradient_scale = 1;
	}
	return t->gradients;
}

int an_trainer_plan(const an_trainer *t, const an_plan_entry **entries)
{
	*entries = t->entries;
	return t->nentries;
}

double an_trainer_seconds(const an_trainer *t, int64_t *updates)
{
	if (updates)
		*updates = t->updates_timed;
	return t->update_seconds;
}

an_executable *an_trainer_executable(const an_trainer *t, int entry)
{
	const dispatch *d = entry >= 0 && entry < t->nentries ? t->actions[entry].dispatch : NULL;
	bool runs =
	    d && (t->entries[entry].host == AN_HOST_NONE || t->entries[entry].host == AN_HOST_PROGRAM);
	return runs ? d->exe : NULL;
}

void an_trainer_reset_times(an_trainer *t)
{
	t->update_seconds = 0;
	t->updates_timed = 0;
	for (int i = 0; i < t->nentries; i++) {
		t->entries[i].seconds = 0;
		t->entries[i].runs = 0;
		an_executable *e = an_trainer_executable(t, i);
		if (e)
			an_executable_reset_times(e);
	}
}

/* ---- Evaluation alone -------------------------------------------------------------------------- */

an_status an_evaluate(an_device *d, const an_model *m, const float *block, const an_tokens *data,
		      const an_evaluate_options *o, double *loss, int64_t *count)
{
	static const an_evaluate_options defaults;
	o = o ? o : &defaults;
	/* as many sequences at once as make some thousand tokens */
	int64_t n = (int64_t)an_tokens_count(data) - 1, predicted = o->limit > 0 ? MIN(n, o->limit) : n;
	int tokens = o->tokens;
	an_train_options opt = {.steps = 1, .tokens = tokens};
	if (n < 1)
		return fail(d->ctx, AN_USAGE, "a text of %lld tokens; to predict one takes two",
			    (long long)n + 1);
	opt.batch = tokens > 0 ? (int)MAX(1, MIN(2048, predicted + tokens - 1) / tokens) : 1;
	*count = predicted;
	an_trainer *t;
	TRY(new_trainer(d, m, &opt, MODE_EVALUATE, &t));
	t->weights = (float *)(uintptr_t)block; /* only read */
	uint64_t hash;
	an_status s = data_check(d->ctx, data, "text", an_model_config(m)->vocab, &hash);
	if (s == AN_OK)
		s = plan_allocate(t);
	if (s == AN_OK)
		s = train_upload(t);
	if (s == AN_OK)
		s = train_build_evaluation(t);
	double nats;
	if (s == AN_OK) {
		plan_keep_packed(t);
		s = train_measure(t, data, *count, o->report, o->user, &nats);
	}
	if (s == AN_OK)
		*loss = nats / (double)*count;
	an_trainer_free(t);
	return s;
}
