/* From a model's functions to executables: forward with residuals, backward without the weight
 * gradients that the host contracts, and the plain function for evaluation. */
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

an_status train_compile(an_device *d, an_function *f, const char *dump_dir, const char *stem, program *out)
{
	TRY(optimise(f, &f));
	if (dump_dir)
		TRY(dump(f, dump_dir, stem));
	an_status s = an_compile(d, f, &out->exe);
	if (s != AN_OK)
		return fail_prefix(f->program->ctx, s, "%s", stem);
	out->f = f;
	for (size_t i = 0; i < f->nops; i++)
		out->flops += op_flops(f, &f->ops[i]);
	for (size_t i = 0; i < f->ninputs; i++)
		out->bytes += (int64_t)an_type_bytes(&f->values[f->inputs[i]].type);
	for (size_t i = 0; i < f->noutputs; i++)
		out->bytes += (int64_t)an_type_bytes(&f->values[f->outputs[i]].type);
	return AN_OK;
}

static an_status stem(an_trainer *t, const kind *k, const char *what, const char **out)
{
	*out = arena_printf(&t->arena, "%s_%s", k->function, what);
	return *out ? AN_OK : fail_memory(t->ctx, 0);
}

/* "d_<input>" for every matrix: outputs of the backward that are contractions over tokens. */
static an_status outline_weights(an_trainer *t, kind *k, an_function *backward, an_function **out)
{
	const an_segment *s = NULL;
	for (int i = 0; !s; i++)
		if (strcmp(an_model_segment(t->model, i)->function, k->function) == 0)
			s = an_model_segment(t->model, i);
	const char **names = arena_array(&t->arena, (size_t)s->nparams, sizeof *names);
	int n = 0;
	if (!names)
		return fail_memory(t->ctx, 0);
	for (int i = 0; i < s->nparams; i++) {
		if (an_model_param(t->model, s->param[i])->kind == AN_PARAM_NORM)
			continue;
		names[n] = arena_printf(&t->arena, "d_%s", s->input[i]);
		if (!names[n++])
			return fail_memory(t->ctx, 0);
	}
	return an_outline(backward, names, n, out, &k->contraction, &k->ncontractions);
}

static an_status compile(an_trainer *t, const kind *k, an_function *f, const char *what, program *out)
{
	const char *name;
	TRY(stem(t, k, what, &name));
	return train_compile(t->device, f, t->o.dump_dir, name, out);
}

an_status train_build_kind(an_trainer *t, kind *k)
{
	an_function *forward, *backward;
	TRY(an_model_build(t->model, t->program, k->function, t->o.batch, t->o.tokens, &k->evaluate.f));
	if (t->mode == MODE_EVALUATE)
		return compile(t, k, k->evaluate.f, "evaluate", &k->evaluate);
	TRY(an_grad(k->evaluate.f, NULL, &forward, &backward));
	TRY(outline_weights(t, k, backward, &backward));
	TRY(compile(t, k, forward, "forward", &k->forward));
	return compile(t, k, backward, "backward", &k->backward);
}

an_status train_build_evaluation(an_trainer *t)
{
	for (int i = 0; i < t->nkinds; i++)
		if (!t->kinds[i].evaluate.exe)
			TRY(compile(t, &t->kinds[i], t->kinds[i].evaluate.f, "evaluate",
				    &t->kinds[i].evaluate));
	for (int i = 0; i < t->nsegments; i++) {
		segment *s = &t->segments[i];
		if (!s->evaluate)
			TRY(plan_bind(t, &s->kind->evaluate, s, &s->evaluate));
	}
	return AN_OK;
}
