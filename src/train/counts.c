/* What the device's arithmetic lost: kept by entry of the plan and operation, and asked when a gradient is
 * exactly zero.
 *
 * A parameter whose gradient is zero is not trained.  That is right where the network is made so (a factor
 * that is zero), and wrong where the gradient was there and the arithmetic dropped it.  Which of the two it
 * is, counters tell: going back from the gradient through values that are zero in all their elements, to
 * an operation of which operands that are not zero made zeros. */
#include "train/train.h"

#include "device/device.h"

/* ---- Keeping -------------------------------------------------------------------------- */

/* The program that an entry runs, on the device or as the host; NULL: a host operation. */
static const program *program_of(const action *a) { return a->dispatch ? a->dispatch->program : NULL; }

static int operations(const action *a) { return a->dispatch ? an_function_ops(program_of(a)->f) : 0; }

an_status counts_allocate(an_trainer *t)
{
	for (int i = 0; i < t->nentries; i++) {
		action *a = &t->actions[i];
		size_t n = (size_t)operations(a);
		a->counts = arena_array(&t->arena, n + 1, sizeof *a->counts);
		a->recent = arena_array(&t->arena, n + 1, sizeof *a->recent);
		if (!a->counts || !a->recent)
			return fail_memory(t->ctx, 0);
	}
	t->zero = arena_array(&t->arena, (size_t)an_model_params(t->model), sizeof *t->zero);
	return t->zero ? AN_OK : fail_memory(t->ctx, 0);
}

an_status counts_begin(an_trainer *t)
{
	for (int i = 0; i < t->nentries; i++) {
		action *a = &t->actions[i];
		memset(a->recent, 0, (size_t)operations(a) * sizeof *a->recent);
		if (a->dispatch)
			an_executable_reset_counts(a->dispatch->exe);
	}
	TRY(an_device_count(t->device, true));
	t->counting = true;
	return t->host && t->host != t->device ? an_device_count(t->host, true) : AN_OK;
}

void counts_end(an_trainer *t)
{
	if (t->counting) { /* which every device can */
		an_device_count(t->device, false);
		if (t->host && t->host != t->device)
			an_device_count(t->host, false);
	}
	t->counting = false;
}

void counts_take(an_trainer *t, int entry)
{
	action *a = &t->actions[entry];
	for (int op = 0; op < operations(a); op++) {
		an_counts c;
		an_executable_counts(a->dispatch->exe, op + a->dispatch->shift, &c);
		dev_add_counts(&a->recent[op], &c);
	}
	an_executable_reset_counts(a->dispatch->exe);
}

void counts_keep(an_trainer *t)
{
	for (int i = 0; i < t->nentries; i++)
		for (int op = 0; op < operations(&t->actions[i]); op++)
			dev_add_counts(&t->actions[i].counts[op], &t->actions[i].recent[op]);
}

static an_counts sum(const an_counts *c, int n)
{
	an_counts all = {0};
	for (int i = 0; i < n; i++)
		dev_add_counts(&all, &c[i]);
	return all;
}

an_counts counts_of_entry(const an_trainer *t, int entry)
{
	return sum(t->actions[entry].recent, operations(&t->actions[entry]));
}

an_counts counts_of_backward(const an_trainer *t)
{
	an_counts all = {0};
	for (int i = 0; i < t->nentries; i++) {
		const action *a = &t->actions[i];
		if (!a->dispatch)
			continue;
		const chain *c = &a->dispatch->segment->kind->backward;
		if (program_of(a) < c->at || program_of(a) >= c->at + c->n)
			continue;
		for (int op = 0; op < operations(a); op++)
			dev_add_counts(&all, &a->recent[op]);
	}
	return all;
}

/* ---- Why a gradient is zero ------------------------------------------------------------------ */

/* Where a gradient was lost. */
typedef struct loss_place {
	int entry;
	int op; /* of its program; -1: the loss, when its gradient was rounded to fp16 */
} loss_place;

/* Goes back through one program from the surfaces that are marked, which it wrote, to those it read. */
static bool lost_in_program(an_trainer *t, const action *a, bool *wanted, int *op)
{
	const segment *s = a->dispatch->segment;
	const an_function *f = program_of(a)->f;
	memset(wanted, 0, f->nvalues * sizeof *wanted);
	for (size_t i = 0; i < f->noutputs; i++) {
		surface *to = plan_find(t, s, f->values[f->outputs[i]].name);
		wanted[f->outputs[i]] = to && to->marked;
	}
	for (size_t i = 0; i < f->noutputs; i++)
		if (wanted[f->outputs[i]])
			plan_find(t, s, f->values[f->outputs[i]].name)->marked = false;
	for (size_t i = f->nops; i-- > 0;) {
		const mil_op *o = &f->ops[i];
		bool here = false;
		for (int r = 0; r < o->nresults; r++)
			here |= wanted[o->results[r]];
		const an_counts *c = &a->recent[i];
		/* what has an element that is not zero does not make what comes of it zero */
		if (!here || c->largest > 0 || c->overflowed)
			continue;
		if (c->lost || c->vanished) {
			*op = (int)i;
			return true;
		}
		for (int p = 0; p < OP_MAX_PARAMS; p++)
			for (uint32_t j = 0; j < o->arg[p].n; j++)
				wanted[o->arg[p].v[j]] = true;
	}
	for (size_t i = 0; i < f->ninputs; i++) {
		if (!wanted[f->inputs[i]])
			continue;
		surface *from = plan_find(t, s, f->values[f->inputs[i]].name);
		if (from)
			from->marked = true;
		for (int k = 0; k < program_of(a)->nslots; k++) /* it may be any of what was packed */
			plan_find(t, s, program_of(a)->slot[k].name)->marked = true;
	}
	return false;
}

static bool is_zero(const void *data, size_t n)
{
	const char *at = data;
	return n == 0 || (at[0] == 0 && memcmp(at, at + 1, n - 1) == 0);
}

/* d_logits of the last micro-batch, which nothing has overwritten.  A sign may be left of them. */
static bool logits_vanished(const an_trainer *t)
{
	const half *x = an_buffer_map(t->logits->buffer);
	int64_t n = an_type_count(&t->logits->type), i = 0;
	while (i < n && (x[i] & 0x7fff) == 0)
		i++;
	an_buffer_unmap(t->logits->buffer);
	return i == n;
}

static bool find_loss(an_trainer *t, int param, bool *wanted, loss_place *out)
{
	for (surface *s = t->surfaces; s; s = s->next)
		s->marked = false;
	for (int i = t->nentries; i-- > 0;) {
		const action *a = &t->actions[i];
		out->entry = i;
		switch (t->entries[i].host) {
		case AN_HOST_NONE:
		case AN_HOST_PROGRAM:
			if (lost_in_program(t, a, wanted, &out->op))
				return true;
			break;
		case AN_HOST_WEIGHT_GRAD:
		case AN_HOST_CAST:
			if (a->param == param) {
				a->x->marked = true;
				if (a->y)
					a->y->marked = true;
			}
			break;
		case AN_HOST_EMBED_GRAD: t->d_embedded->marked |= a->param == param; break;
		case AN_HOST_CROSS_ENTROPY:
			out->op = -1;
			if (t->logits->marked && logits_vanished(t))
				return true;
			t->logits->marked = false;
			break;
		default: break;
		}
	}
	return false;
}

static double share(int64_t part, int64_t all) { return all ? 100.0 * (double)part / (double)all : 0; }

static void tell_place(const an_trainer *t, const loss_place *at, str *out)
{
	const action *a = &t->actions[at->entry];
	const char *name = t->entries[at->entry].name;
	if (at->op < 0) {
		str_addf(out, "%s: every d_logits was rounded to 0 in fp16", name);
		return;
	}
	const an_function *f = program_of(a)->f;
	const mil_op *op = &f->ops[at->op];
	const an_counts *c = &a->recent[at->op];
	str_addf(out, "%s, %s \"%s\": ", name, op_table[op->op].name,
		 op->nresults ? f->values[op->results[0]].name : "");
	if (c->products)
		str_addf(out, "%lld of %lld products lost, ", (long long)c->lost, (long long)c->products);
	str_addf(out, "%lld of %lld results vanished, none is left", (long long)c->vanished,
		 (long long)c->results);
	an_counts all = counts_of_entry(t, at->entry);
	str_addf(out,
		 "; the whole program: %lld of %lld products lost (%.2f%%), of %lld results %lld vanished "
		 "and %lld overflowed, the largest is %g",
		 (long long)all.lost, (long long)all.products, share(all.lost, all.products),
		 (long long)all.results, (long long)all.vanished, (long long)all.overflowed, all.largest);
}

static an_status report_lost(an_trainer *t, int param, int others, const loss_place *at)
{
	str s;
	str_init(&s, t->ctx);
	str_addf(&s, "update %lld: the gradient of %s", (long long)t->state.step + 1,
		 an_model_param(t->model, param)->name);
	if (others)
		str_addf(&s, " (and of %d other parameter%s)", others, others == 1 ? "" : "s");
	str_addf(&s, " is exactly zero at loss scale %g because the arithmetic lost it.  ",
		 t->state.loss_scale);
	tell_place(t, at, &s);
	an_status status = str_status(&s);
	if (status == AN_OK && t->o.allow_lost)
		log_text(t->ctx, AN_LOG_WARNING, "%s", s.data);
	else if (status == AN_OK)
		status =
		    fail(t->ctx, AN_NUMERIC,
			 "%s.  A larger loss scale keeps more; allow-lost continues all the same", s.data);
	str_free(&s);
	return status;
}

/* The same micro-batches once more: weights have not changed, so neither does a bit. */
static an_status count_again(an_trainer *t)
{
	double nats;
	TRY(counts_begin(t));
	memset(t->written, 0, (size_t)an_model_params(t->model) * sizeof *t->written);
	an_status s = AN_OK;
	for (int i = 0; i < t->o.accumulate && s == AN_OK; i++)
		s = train_micro_batch(t, i, &nats);
	counts_end(t);
	return s;
}

/* Parameters whose gradient has become zero with this update, as far as is known; those that were zero
 * before have been asked about. */
static int newly_zero(an_trainer *t, bool *fresh)
{
	int n = 0;
	for (int i = 0; i < an_model_params(t->model); i++) {
		const an_param *p = an_model_param(t->model, i);
		bool zero = is_zero(t->gradients + p->offset, (size_t)p->count * sizeof *t->gradients);
		fresh[i] = zero && !t->zero[i];
		t->zero[i] = zero;
		n += fresh[i];
	}
	return n;
}

static an_status ask(an_trainer *t, const bool *fresh, arena *a)
{
	size_t most = 0;
	for (int i = 0; i < t->nentries; i++)
		if (t->actions[i].dispatch)
			most = MAX(most, program_of(&t->actions[i])->f->nvalues);
	bool *wanted = arena_array(a, most + 1, sizeof *wanted);
	if (!wanted)
		return fail_memory(t->ctx, 0);
	loss_place first = {0}, at;
	int param = -1, others = 0;
	for (int i = 0; i < an_model_params(t->model); i++) {
		if (!fresh[i] || !find_loss(t, i, wanted, &at))
			continue;
		others += param >= 0;
		/* the one that was lost first is the reason for what came of it */
		if (param < 0 || at.entry < first.entry) {
			first = at;
			param = i;
		}
	}
	return param < 0 ? AN_OK : report_lost(t, param, others, &first);
}

an_status counts_check_gradients(an_trainer *t, bool counted)
{
	arena a;
	arena_init(&a, t->ctx);
	bool *fresh = arena_array(&a, (size_t)an_model_params(t->model), sizeof *fresh);
	an_status s = fresh ? AN_OK : fail_memory(t->ctx, 0);
	int n = s == AN_OK ? newly_zero(t, fresh) : 0;
	if (n && !t->device->counts) {
		log_text(t->ctx, AN_LOG_WARNING,
			 "update %lld: gradients of %d parameters are exactly zero; device \"%s\" cannot say "
			 "whether its arithmetic lost them, \"soft\" with a chip's numerics can",
			 (long long)t->state.step + 1, n, t->device->info.name);
	} else if (n) {
		if (!counted)
			s = count_again(t);
		if (s == AN_OK)
			s = ask(t, fresh, &a);
	}
	arena_free(&a);
	return s;
}

/* ---- Looking at it ----------------------------------------------------------------------------- */

static an_status check_entry(const an_trainer *t, int entry)
{
	if (entry < 0 || entry >= t->nentries)
		return fail(t->ctx, AN_USAGE, "the plan has no entry %d; it has 0 to %d", entry,
			    t->nentries - 1);
	return AN_OK;
}

an_status an_trainer_counts(const an_trainer *t, int entry, int op, an_counts *out)
{
	*out = (an_counts){0};
	TRY(check_entry(t, entry));
	const action *a = &t->actions[entry];
	int n = operations(a);
	if (op < -1 || op >= n)
		return fail(t->ctx, AN_USAGE, "\"%s\" has no operation %d; it has %d", t->entries[entry].name,
			    op, n);
	*out = op < 0 ? sum(a->counts, n) : a->counts[op];
	return AN_OK;
}

void an_trainer_reset_counts(an_trainer *t)
{
	for (int i = 0; i < t->nentries; i++)
		memset(t->actions[i].counts, 0, (size_t)operations(&t->actions[i]) * sizeof(an_counts));
	t->ncounted = 0;
}

int64_t an_trainer_counted(const an_trainer *t) { return t->ncounted; }

const an_function *an_trainer_program(const an_trainer *t, int entry)
{
	const program *p = entry >= 0 && entry < t->nentries ? program_of(&t->actions[entry]) : NULL;
	return p ? p->f : NULL;
}
