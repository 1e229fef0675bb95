/* From a model's functions to executables: forward with residuals, backward without the weight
 * gradients that the host contracts, and the plain function for evaluation; each a chain of programs where
 * the plan cuts it up. */
#include "train/train.h"

/* Exact identities, equal operations merged, dead ones dropped. */
static an_status optimise(an_function *f, an_function **out)
{
	an_function *simple, *merged;
	TRY(an_simplify(f, &simple));
	TRY(an_cse(simple, &merged));
	return an_dce(merged, out);
}

/* Writes one function as a program of its own. */
static an_status dump(an_function *f, const char *dir, const char *stem)
{
	an_program *p;
	an_function *copy;
	TRY(an_program_new(f->program->ctx, &p));
	an_status s = an_function_clone(p, f, "main", &copy);
	if (s == AN_OK)
		s = an_program_write(p, dir, stem);
	an_program_free(p);
	return s;
}

static an_status dump_and_count(program *p, const char *dump_dir, const char *stem)
{
	if (dump_dir)
		TRY(dump(p->f, dump_dir, stem));
	for (size_t i = 0; i < p->f->nops; i++)
		p->flops += op_flops(p->f, &p->f->ops[i]);
	return AN_OK;
}

static an_status compile_program(an_device *d, const char *stem, program *p)
{
	an_status s = an_compile(d, p->f, &p->exe);
	return s == AN_OK ? AN_OK : fail_prefix(p->f->program->ctx, s, "%s", stem);
}

an_status train_compile(an_device *d, an_function *f, const char *dump_dir, const char *stem, program *out)
{
	TRY(optimise(f, &out->f));
	TRY(dump_and_count(out, dump_dir, stem));
	return compile_program(d, stem, out);
}

/* The device that stands for the host: the soft one.  It is the trainer's own where that computes the same
 * way, otherwise one that rounds as IEEE says. */
static an_status open_host(an_trainer *t)
{
	an_device_info info;
	an_device_get_info(t->device, &info);
	if (t->host)
		return AN_OK;
	bool same = strcmp(info.name, "soft") == 0 &&
		    (strcmp(info.numerics, "ieee") == 0 || strcmp(info.numerics, "fast") == 0);
	if (!same)
		return an_device_open(t->ctx, &(an_device_options){.name = "soft", .numerics = "ieee"},
				      &t->host);
	t->host = t->device;
	return AN_OK;
}

/* "layer_backward", "layer_backward_2": files of --dump. */
static const char *stem_of(an_trainer *t, const kind *k, const char *what, const chain *c, int i)
{
	return c->n == 1 ? arena_printf(&t->arena, "%s_%s", k->function, what)
			 : arena_printf(&t->arena, "%s_%s_%d", k->function, what, i + 1);
}

/* Everything short of compilation. */
static an_status prepare_all(an_trainer *t, const kind *k, const char *what, const chain *c)
{
	for (int i = 0; i < c->n; i++) {
		program *p = &c->at[i];
		if (!p->f)
			continue;
		const char *stem = stem_of(t, k, what, c, i);
		if (!stem)
			return fail_memory(t->ctx, 0);
		TRY(optimise(p->f, &p->f));
		TRY(weights_apply(t, p));
		TRY(dump_and_count(p, t->o.dump_dir, stem));
		if (p->host)
			TRY(open_host(t));
	}
	return AN_OK;
}

/* Where weights are constants a program is compiled for each segment, later; to know what it takes, once. */
static an_status compile_all(an_trainer *t, const kind *k, const an_segment *is, const char *what,
			     const chain *c)
{
	for (int i = 0; i < c->n; i++) {
		program *p = &c->at[i];
		if (!p->f || p->exe || (t->mode != MODE_PLAN && weights_are_constants(t, p, is)))
			continue;
		const char *stem = stem_of(t, k, what, c, i);
		if (!stem)
			return fail_memory(t->ctx, 0);
		TRY(compile_program(p->host ? t->host : t->device, stem, p));
	}
	return AN_OK;
}

/* f as a chain: cut at those stages, or whole where there are none. */
static an_status make_chain(an_trainer *t, an_function *f, const an_stage *stages, int n, chain *out)
{
	an_function **parts = arena_array(&t->arena, (size_t)MAX(n, 1), sizeof(an_function *));
	out->at = arena_array(&t->arena, (size_t)MAX(n, 1), sizeof *out->at);
	if (!parts || !out->at)
		return fail_memory(t->ctx, 0);
	parts[0] = f;
	if (n > 0)
		TRY(an_cut(f, stages, n, parts));
	for (int i = 0; i < MAX(n, 1); i++)
		if (parts[i])
			out->at[out->n++] = (program){
			    .name = n ? stages[i].name : NULL, .host = n && stages[i].host, .f = parts[i]};
	return AN_OK;
}

static bool returns(const an_function *f, const char *name)
{
	for (size_t i = 0; i < f->noutputs; i++)
		if (strcmp(fn_value(f, f->outputs[i])->name, name) == 0)
			return true;
	return false;
}

/* Takes "d_<input>" for every matrix out of the program: contractions over tokens. */
static an_status outline_weights(an_trainer *t, const an_segment *s, program *p)
{
	const char **names = arena_array(&t->arena, (size_t)s->nparams, sizeof *names);
	int n = 0;
	if (!names)
		return fail_memory(t->ctx, 0);
	for (int i = 0; i < s->nparams; i++) {
		if (an_model_param(t->model, s->param[i])->kind == AN_PARAM_NORM)
			continue;
		names[n] = arena_printf(&t->arena, "d_%s", s->input[i]);
		if (!names[n])
			return fail_memory(t->ctx, 0);
		n += returns(p->f, names[n]);
	}
	return n > 0 ? an_outline(p->f, names, n, &p->f, &p->contraction, &p->ncontractions) : AN_OK;
}

/* The model's function, or several of it one after the other as inputs l0_wq, l1_wq ... */
static an_status build(an_trainer *t, const char *function, int layers, an_function **out)
{
	an_function *f = an_program_function(t->program, function);
	if (!f)
		TRY(an_model_build(t->model, t->program, function, t->o.batch, t->o.tokens, &f));
	*out = f;
	if (layers == 1)
		return AN_OK;
	an_function **parts = arena_array(&t->arena, (size_t)layers, sizeof(an_function *));
	const char **prefixes = arena_array(&t->arena, (size_t)layers, sizeof *prefixes);
	const char *name = arena_printf(&t->arena, "%s_%d", function, layers);
	if (!parts || !prefixes || !name)
		return fail_memory(t->ctx, 0);
	for (int i = 0; i < layers; i++) {
		parts[i] = f;
		if (!(prefixes[i] = arena_printf(&t->arena, "l%d_", i)))
			return fail_memory(t->ctx, 0);
	}
	return an_chain(parts, prefixes, layers, name, out);
}

an_status train_build_kind(an_trainer *t, kind *k, const an_segment *is, int layers)
{
	static const an_split whole;
	const an_split *split = NULL;
	an_function *backward;
	TRY(build(t, is->function, layers, &k->f));
	if (t->o.split)
		TRY(an_model_split(t->model, t->o.split, is->function, &split));
	if (!split)
		split = &whole;
	TRY(make_chain(t, k->f, split->forward, split->nforward, &k->evaluate));
	TRY(prepare_all(t, k, "evaluate", &k->evaluate));
	if (t->mode == MODE_EVALUATE)
		return compile_all(t, k, is, "evaluate", &k->evaluate);
	/* where masked products are left out, attention's scores cost less to make again than to keep */
	an_device_info info;
	an_device_get_info(t->device, &info);
	const an_grad_options opt = {.save = split->save,
				     .nsave = split->nsave,
				     .recompute = strcmp(info.numerics, "fast") == 0 ? 2 : 0};
	TRY(an_grad(k->f, &opt, &k->forward_f, &backward));
	TRY(make_chain(t, k->forward_f, split->forward, split->nforward, &k->forward));
	TRY(make_chain(t, backward, split->backward, split->nbackward, &k->backward));
	for (int i = 0; i < k->backward.n; i++)
		if (!t->o.dw_device)
			TRY(outline_weights(t, is, &k->backward.at[i]));
	TRY(prepare_all(t, k, "forward", &k->forward));
	TRY(prepare_all(t, k, "backward", &k->backward));
	TRY(compile_all(t, k, is, "forward", &k->forward));
	return compile_all(t, k, is, "backward", &k->backward);
}

an_status train_build_evaluation(an_trainer *t)
{
	for (int i = 0; i < t->nsegments; i++) {
		const segment *s = &t->segments[i];
		TRY(compile_all(t, s->kind, &s->is, "evaluate", &s->kind->evaluate));
		for (int j = 0; j < s->kind->evaluate.n; j++)
			if (s->evaluate[j]->program->exe)
				TRY(plan_bind(t, s->evaluate[j]));
	}
	return AN_OK;
}
