#include "check/probe/probe.h"

#include <math.h>
#include <stdio.h>
#include <sys/utsname.h>
#include <time.h>
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

/* ---- The machine -------------------------------------------------------------------- */

#ifdef __APPLE__
static void describe(str *s)
{
	static const char *const name[] = {"machdep.cpu.brand_string", "hw.model", "kern.osproductversion",
					   "kern.osversion"};
	for (int i = 0; i < LENGTH(name); i++) {
		char text[200] = "";
		size_t size = sizeof text - 1;
		if (sysctlbyname(name[i], text, &size, NULL, 0) == 0)
			str_addf(s, "%s%s", i ? ", " : "", text);
	}
	str_add(s, "; ");
}
#else
static void describe(str *s)
{
	char line[300];
	FILE *f = fopen("/proc/cpuinfo", "r");
	while (f && fgets(line, sizeof line, f)) {
		char *value = strchr(line, ':');
		if (strncmp(line, "model name", 10) || !value)
			continue;
		str_addf(s, "%.*s; ", (int)strcspn(value + 1, "\n") - 1, value + 2);
		break;
	}
	if (f)
		fclose(f);
}
#endif

static an_status describe_system(an_probe *p)
{
	struct utsname u;
	str s;
	str_init(&s, p->ctx);
	describe(&s);
	if (uname(&u) == 0)
		str_addf(&s, "%s %s %s", u.sysname, u.release, u.machine);
	an_status status = str_status(&s);
	if (status == AN_OK && !(p->info.system = arena_strdup(&p->arena, s.data)))
		status = fail_memory(p->ctx, 0);
	str_free(&s);
	return status;
}

/* ---- Opening ------------------------------------------------------------------------- */

an_status probe_device(const an_probe *p, const char *quirks, an_device **out)
{
	char all[600];
	bool both = p->o.quirks && *p->o.quirks && *quirks;
	snprintf(all, sizeof all, "%s%s%s", p->o.quirks ? p->o.quirks : "", both ? "," : "", quirks);
	return an_device_open(
	    p->ctx,
	    &(an_device_options){
		.name = p->o.device, .numerics = p->o.numerics, .quirks = all, .libraries = p->o.libraries},
	    out);
}

void probe_say(const an_probe *p, an_probe_result *out, const char *what)
{
	const char *message = an_message(p->ctx);
	snprintf(out->observed, sizeof out->observed, "%s: %.*s", what, (int)strcspn(message, "\n"), message);
}

static bool is_profile(const char *name)
{
	an_numerics_profile_info info;
	size_t n = strcspn(name, ",");
	for (int i = 0; an_numerics_profile(i, &info); i++)
		if (strlen(info.name) == n && !memcmp(info.name, name, n))
			return true;
	return false;
}

/* Which chip the results are compared with. */
static an_status choose_chip(an_probe *p)
{
	an_device_info info;
	an_device_get_info(p->device, &info);
	p->info.device = info.name;
	p->info.numerics = info.numerics;
	p->info.isa = info.isa;
	if (p->o.chip && !is_profile(p->o.chip))
		return fail(p->ctx, AN_USAGE, "chip \"%s\": no profile is called so", p->o.chip);
	/* of a chip that is not known, the one of which most is */
	p->info.assumed = !p->o.chip && !is_profile(info.numerics);
	p->chip = p->o.chip ? p->o.chip : p->info.assumed ? "m4" : info.numerics;
	p->info.chip = p->chip;
	return AN_OK;
}

static void add(an_probe *p, an_probe_group group, int index)
{
	if (p->n < PROBE_ITEMS_MOST)
		p->entry[p->n++] = (probe_entry){group, index};
}

static bool is_engine(const an_probe *p) { return strcmp(p->info.device, "soft") != 0; }

static bool has_choices(int rule)
{
	an_numerics_choice_info c;
	return an_numerics_choice(rule, 1, &c);
}

static void list_items(an_probe *p)
{
	an_numerics_rule_info rule;
	an_case c;
	for (int i = 0; is_engine(p) && an_quirk_at(i); i++)
		add(p, AN_PROBE_HABIT, i);
	for (int i = 0; an_case_at(i, &c); i++)
		if (an_case_holds(&c, p->chip))
			add(p, AN_PROBE_CASE, i);
	for (int i = 0; an_numerics_rule(i, &rule); i++)
		if (has_choices(i))
			add(p, AN_PROBE_CHOICE, i);
	for (int i = 0; an_recipe_at(i); i++)
		if (an_published_find(an_recipe_at(i)->id, p->chip))
			add(p, AN_PROBE_FINGERPRINT, i);
	for (int i = 0; speed_name(i, NULL); i++)
		add(p, AN_PROBE_SPEED, i);
}

static an_status open_all(an_probe *p)
{
	TRY(probe_device(p, "", &p->device));
	TRY(an_device_open(p->ctx, &(an_device_options){.numerics = "ieee"}, &p->exact));
	TRY(choose_chip(p));
	TRY(describe_system(p));
	list_items(p);
	return AN_OK;
}

an_status an_probe_open(an_ctx *ctx, const an_probe_options *opt, an_probe **out)
{
	an_probe *p = mem_zalloc(ctx, sizeof *p);
	*out = NULL;
	if (!p)
		return fail_memory(ctx, sizeof *p);
	p->ctx = ctx;
	p->o = *opt;
	arena_init(&p->arena, ctx);
	an_status s = open_all(p);
	if (s == AN_OK)
		*out = p;
	else
		an_probe_close(p);
	return s;
}

void an_probe_close(an_probe *p)
{
	if (!p)
		return;
	an_device_close(p->device);
	an_device_close(p->exact);
	arena_free(&p->arena);
	mem_free(p->ctx, p, sizeof *p);
}

void an_probe_get_info(const an_probe *p, an_probe_info *out) { *out = p->info; }

/* ---- Items ----------------------------------------------------------------------------- */

static void describe_case(int index, an_probe_item *out)
{
	an_case c;
	an_case_at(index, &c);
	snprintf(out->id, sizeof out->id, "%s-%d", c.op, index);
	snprintf(out->text, sizeof out->text, "%s %s%s%s%s%s", c.op, c.x, c.y ? " and " : "", c.y ? c.y : "",
		 c.bias ? " bias " : "", c.bias ? c.bias : "");
	out->evidence = c.source;
}

static void describe_rule(int index, an_probe_item *out)
{
	an_numerics_rule_info r;
	an_numerics_rule(index, &r);
	snprintf(out->id, sizeof out->id, "%s", r.key);
	snprintf(out->text, sizeof out->text, "%s", r.summary);
}

bool an_probe_at(const an_probe *p, int i, an_probe_item *out)
{
	const char *text;
	if (i < 0 || i >= p->n)
		return false;
	const probe_entry *e = &p->entry[i];
	*out = (an_probe_item){.group = e->group};
	switch (e->group) {
	case AN_PROBE_HABIT:
		snprintf(out->id, sizeof out->id, "%s", an_quirk_at(e->index)->name);
		snprintf(out->text, sizeof out->text, "%s", an_quirk_at(e->index)->sentence);
		out->evidence = an_quirk_at(e->index)->evidence;
		break;
	case AN_PROBE_CHOICE: describe_rule(e->index, out); break;
	case AN_PROBE_CASE: describe_case(e->index, out); break;
	case AN_PROBE_FINGERPRINT:
		snprintf(out->id, sizeof out->id, "%s", an_recipe_at(e->index)->id);
		snprintf(out->text, sizeof out->text, "%s", an_recipe_at(e->index)->text);
		out->evidence = an_published_find(out->id, p->chip)->evidence;
		break;
	case AN_PROBE_SPEED:
		snprintf(out->id, sizeof out->id, "%s", speed_name(e->index, &text));
		snprintf(out->text, sizeof out->text, "%s", text);
		break;
	}
	out->evidence = out->evidence ? out->evidence : "";
	return true;
}

const char *an_probe_group_name(int group)
{
	static const char *const name[] = {[AN_PROBE_HABIT] = "habit",
					   [AN_PROBE_CASE] = "case",
					   [AN_PROBE_CHOICE] = "choice",
					   [AN_PROBE_FINGERPRINT] = "fingerprint",
					   [AN_PROBE_SPEED] = "speed"};
	return group >= 0 && group < LENGTH(name) ? name[group] : NULL;
}

const char *an_probe_verdict_name(an_probe_verdict v)
{
	static const char *const name[] = {[AN_PROBE_AGREES] = "agrees",
					   [AN_PROBE_DIFFERS] = "differs",
					   [AN_PROBE_UNKNOWN] = "unknown",
					   [AN_PROBE_FAILED] = "failed"};
	return name[v];
}

static an_status run_case(an_probe *p, int index, an_probe_result *out)
{
	an_case c;
	an_case_result r;
	an_case_at(index, &c);
	snprintf(out->expected, sizeof out->expected, "%s%s%s%s", c.want, c.published ? " (published: " : "",
		 c.published ? c.published : "", c.published ? ")" : "");
	TRY(an_case_run(p->device, index, &r));
	size_t used = 0;
	for (int i = 0; i < r.n && used < sizeof out->observed - 40; i++)
		used += (size_t)snprintf(out->observed + used, sizeof out->observed - used, "%s%.9g",
					 i ? " " : "", an_case_value(&r, i));
	if (r.as_published)
		snprintf(out->observed + used, sizeof out->observed - used, ", as published");
	out->verdict = r.where < 0 ? AN_PROBE_AGREES : AN_PROBE_DIFFERS;
	return AN_OK;
}

static an_status run_fingerprint(an_probe *p, int index, an_probe_result *out)
{
	const an_recipe *r = an_recipe_at(index);
	const an_published *published = an_published_find(r->id, p->chip);
	an_fingerprint *f;
	snprintf(out->expected, sizeof out->expected, "%s", published->figure);
	TRY(an_fingerprint_new(p->ctx, index, &f));
	an_status s = an_fingerprint_measure(f, p->device, &out->value);
	an_fingerprint_free(f);
	TRY(s);
	snprintf(out->observed, sizeof out->observed, "%.16g", out->value);
	an_verdict v = an_fingerprint_verdict(r, published, out->value);
	out->verdict = v == AN_EQUAL     ? AN_PROBE_AGREES
		       : v == AN_DIFFERS ? AN_PROBE_DIFFERS
					 : AN_PROBE_UNKNOWN;
	if (v == AN_UNEXPLAINED)
		snprintf(out->observed + strlen(out->observed), sizeof out->observed - strlen(out->observed),
			 " (no arithmetic is known that gives the published figure)");
	return AN_OK;
}

an_status an_probe_run(an_probe *p, int i, an_probe_result *out)
{
	*out = (an_probe_result){.verdict = AN_PROBE_UNKNOWN, .value = NAN, .reference = NAN, .unit = ""};
	if (i < 0 || i >= p->n)
		return fail(p->ctx, AN_USAGE, "there is no item %d", i);
	if (p->spent)
		return fail(p->ctx, AN_BUDGET, "what was tried before in this process has spoiled it");
	const probe_entry *e = &p->entry[i];
	double began = seconds_now();
	an_status s = AN_OK;
	switch (e->group) {
	case AN_PROBE_HABIT: s = habit_run(p, e->index, out); break;
	case AN_PROBE_CHOICE: s = choice_run(p, e->index, out); break;
	case AN_PROBE_CASE: s = run_case(p, e->index, out); break;
	case AN_PROBE_FINGERPRINT: s = run_fingerprint(p, e->index, out); break;
	case AN_PROBE_SPEED: s = speed_run(p, e->index, out); break;
	}
	out->seconds = seconds_now() - began;
	if (s == AN_OK || s == AN_BUDGET || s == AN_MEMORY)
		return s;
	/* that this one could not be tried is a result */
	out->verdict = AN_PROBE_FAILED;
	probe_say(p, out, an_status_name(s));
	return AN_OK;
}
