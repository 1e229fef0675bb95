/* A rule of arithmetic on the device: the published cases on which its choices differ are run there, and the
 * choices that give the same results in all of them are what the device does. */
#include "check/probe/probe.h"

#include "ane/numerics.h"

#include <stdio.h>

enum { CHOICES_MOST = 16, RUN_MOST = 12 };

static int count_cases(void)
{
	an_case c;
	int n = 0;
	while (an_case_at(n, &c))
		n++;
	return n;
}

/* All cases in a profile; results in an arena.  NULL: the profile is not one, or memory is out. */
static an_case_result *run_all(an_probe *p, const char *numerics, arena *a)
{
	int n = count_cases();
	an_case_result *r = arena_array(a, (size_t)n, sizeof *r);
	an_device *d;
	if (!r || an_device_open(p->ctx, &(an_device_options){.numerics = numerics}, &d) != AN_OK)
		return NULL;
	an_status s = AN_OK;
	for (int i = 0; s == AN_OK && i < n; i++)
		s = an_case_run(d, i, &r[i]);
	an_device_close(d);
	return s == AN_OK ? r : NULL;
}

static bool same(const an_case_result *a, const an_case_result *b)
{
	return a->n == b->n && !memcmp(a->got, b->got, (size_t)a->n * sizeof a->got[0]);
}

typedef struct comparison {
	const char *name[CHOICES_MOST];
	const an_case_result *result[CHOICES_MOST]; /* NULL: cannot be combined with the chip's profile */
	bool agrees[CHOICES_MOST];
	bool told[CHOICES_MOST][CHOICES_MOST]; /* apart by a case that was run */
	int n, chosen;                         /* by the profile */
	int run, tells;
} comparison;

/* Whether case i tells choices apart; `fresh`: some that no case has told apart yet, which it then has. */
static bool tells(comparison *c, int i, bool *fresh)
{
	bool any = false;
	*fresh = false;
	for (int a = 0; a < c->n; a++)
		for (int b = a + 1; b < c->n; b++) {
			if (!c->result[a] || !c->result[b] || same(&c->result[a][i], &c->result[b][i]))
				continue;
			any = true;
			*fresh |= !c->told[a][b];
			c->told[a][b] = true;
		}
	return any;
}

static an_status run_cases(an_probe *p, comparison *c)
{
	for (int i = 0, n = count_cases(); i < n; i++) {
		bool fresh;
		if (!tells(c, i, &fresh))
			continue;
		c->tells++;
		if (!fresh && c->run >= RUN_MOST)
			continue;
		an_case_result r;
		an_status s = an_case_run(p->device, i, &r);
		if (s == AN_DEVICE) /* this one it does not run; others may tell */
			continue;
		TRY(s);
		c->run++;
		for (int k = 0; k < c->n; k++)
			c->agrees[k] = c->agrees[k] && c->result[k] && same(&r, &c->result[k][i]);
	}
	return AN_OK;
}

static void list(const comparison *c, char *text, size_t size)
{
	size_t used = 0;
	for (int k = 0; k < c->n && used < size; k++)
		if (c->agrees[k])
			used += (size_t)snprintf(text + used, size - used, "%s%s", used ? " or " : "",
						 c->name[k]);
	if (!used)
		used = (size_t)snprintf(text, size, "none of the choices");
	if (used < size)
		snprintf(text + used, size - used, " (%d of %d cases that tell them apart)", c->run,
			 c->tells);
}

static an_status compare(an_probe *p, int rule, arena *a, an_probe_result *out)
{
	an_numerics_rule_info info;
	an_numerics_choice_info choice;
	comparison c = {.chosen = -1};
	ane_numerics base;
	TRY(ane_numerics_parse(p->ctx, p->chip, &base));
	an_numerics_rule(rule, &info);
	if (!p->base && !(p->base = run_all(p, p->chip, &p->arena)))
		return fail(p->ctx, AN_MEMORY, "no memory for the results of all cases");
	while (c.n < CHOICES_MOST && an_numerics_choice(rule, c.n, &choice)) {
		char numerics[200];
		int k = c.n++;
		c.name[k] = choice.name;
		snprintf(numerics, sizeof numerics, "%s,%s=%s", p->chip, info.key, choice.name);
		ane_numerics with;
		bool valid = ane_numerics_parse(p->ctx, numerics, &with) == AN_OK,
		     own = valid && !strcmp(with.name, base.name);
		c.result[k] = own ? p->base : valid ? run_all(p, numerics, a) : NULL;
		c.agrees[k] = c.result[k];
		if (own)
			c.chosen = k;
	}
	TRY(run_cases(p, &c));
	snprintf(out->expected, sizeof out->expected, "%s", c.chosen >= 0 ? c.name[c.chosen] : "");
	if (!c.run) {
		snprintf(out->observed, sizeof out->observed, "%s",
			 c.tells ? "the device runs none of the cases that tell the choices apart"
				 : "no published case tells the choices apart");
		return AN_OK;
	}
	list(&c, out->observed, sizeof out->observed);
	out->verdict = c.chosen >= 0 && c.agrees[c.chosen] ? AN_PROBE_AGREES : AN_PROBE_DIFFERS;
	return AN_OK;
}

an_status choice_run(an_probe *p, int rule, an_probe_result *out)
{
	arena a;
	arena_init(&a, p->ctx);
	an_status s = compare(p, rule, &a, out);
	arena_free(&a);
	return s;
}
