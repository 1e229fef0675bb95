/* How weights reach the device's programs.
 *
 * The fp16 weights are surfaces whatever the policy (t->weight): programs read them as inputs, or they are
 * copied from there into a program's packed input, or made its constants, when they have changed. */
#include "train/train.h"

#include "ane/numerics.h"
#include "anneal/ane.h"
#include "device/device.h"

#include <stdio.h>

/* The parameter that an input of the segment's programs is, -1: none. */
static int parameter(const an_segment *s, const char *input)
{
	for (int i = 0; i < s->nparams; i++)
		if (strcmp(input, s->input[i]) == 0)
			return s->param[i];
	return -1;
}

static int count_parameters(const program *p, const an_segment *s)
{
	int n = 0;
	for (int i = 0; i < p->nslots; i++)
		n += parameter(s, p->slot[i].name) >= 0;
	for (size_t i = 0; p->nslots == 0 && p->f && i < p->f->ninputs; i++)
		n += parameter(s, fn_value(p->f, p->f->inputs[i])->name) >= 0;
	return n;
}

bool weights_are_constants(const an_trainer *t, const program *p, const an_segment *s)
{
	return (t->o.weights == AN_WEIGHTS_BAKE || t->o.weights == AN_WEIGHTS_RELOAD) && !p->host &&
	       count_parameters(p, s) > 0;
}

bool weights_own(const an_trainer *t, const dispatch *d)
{
	return (d->program->nslots > 0 && count_parameters(d->program, &d->segment->is) > 0) ||
	       weights_are_constants(t, d->program, &d->segment->is);
}

/* Slices of the last axis lose large values on some chips; of a device that does not say, it is assumed. */
static int axis_of(const an_device *d) { return d->numerics && !CHOSEN(d->numerics, SLICE, GAIN16) ? 3 : 1; }

static int32_t limit_of(const an_device *d)
{
	char name[32];
	snprintf(name, sizeof name, "%.*s", (int)strcspn(d->info.numerics, ","), d->info.numerics);
	const an_chip *chip = an_chip_find(name);
	return chip ? chip->axis_limit : 0;
}

an_status weights_apply(an_trainer *t, program *p)
{
	if (t->o.weights != AN_WEIGHTS_PACKED || p->host || p->f->ninputs == 1)
		return AN_OK;
	return an_pack(p->f, axis_of(t->device), limit_of(t->device), &p->f, &p->slot, &p->nslots);
}

/* ---- Packed ------------------------------------------------------------------------- */

/* Copies those inputs of the program that are weights, or those that are not. */
static void fill(const an_trainer *t, const dispatch *d, bool weights)
{
	const program *p = d->program;
	char *packed = an_buffer_map(d->packed->buffer);
	for (int i = 0; i < p->nslots; i++) {
		const an_slot *s = &p->slot[i];
		if ((parameter(&d->segment->is, s->name) >= 0) != weights)
			continue;
		const surface *from = plan_find(t, d->segment, s->name);
		an_slot_fill(s, an_dtype_size((an_dtype)s->type.dtype), packed, an_buffer_map(from->buffer));
		an_buffer_unmap(from->buffer);
	}
	an_buffer_unmap(d->packed->buffer);
}

void weights_pack(const an_trainer *t, const dispatch *d) { fill(t, d, false); }

/* ---- Constants ---------------------------------------------------------------------- */

static an_status bake(an_trainer *t, dispatch *d, an_program *to, an_function **out)
{
	const an_segment *s = &d->segment->is;
	const an_function *f = d->program->f;
	arena a;
	arena_init(&a, t->ctx);
	const char **names = arena_array(&a, (size_t)s->nparams, sizeof *names);
	const void **data = arena_array(&a, (size_t)s->nparams, sizeof *data);
	an_status status = names && data ? AN_OK : fail_memory(t->ctx, 0);
	int n = 0;
	for (size_t i = 0; status == AN_OK && i < f->ninputs; i++) {
		const char *name = fn_value(f, f->inputs[i])->name;
		int param = parameter(s, name);
		if (param < 0)
			continue;
		names[n] = name;
		data[n++] = an_buffer_map(t->weight[param]->buffer);
	}
	d->shift = n;
	if (status == AN_OK)
		status = an_bake(d->program->f, to, names, data, n, out);
	for (int i = 0; i < n; i++)
		an_buffer_unmap(t->weight[parameter(s, names[i])]->buffer);
	arena_free(&a);
	return status;
}

static an_status compile(an_trainer *t, dispatch *d, an_function *f)
{
	an_executable *exe;
	bool reload = t->o.weights == AN_WEIGHTS_RELOAD;
	if (d->exe && reload)
		return an_reload(d->exe, f);
	TRY(reload ? an_compile_own(t->device, f, &exe) : an_compile(t->device, f, &exe));
	an_call_free(d->call);
	an_executable_free(d->exe);
	d->call = NULL;
	d->exe = exe;
	return plan_bind(t, d);
}

an_status weights_refresh(an_trainer *t, dispatch *d)
{
	if (!weights_own(t, d) || d->version == t->version)
		return AN_OK;
	if (d->program->nslots) {
		fill(t, d, true);
	} else {
		an_program *p;
		an_function *f;
		TRY(an_program_new(t->ctx, &p));
		an_status s = bake(t, d, p, &f);
		if (s == AN_OK)
			s = compile(t, d, f);
		an_program_free(p);
		TRY(s);
	}
	d->version = t->version;
	return AN_OK;
}
