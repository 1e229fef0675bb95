/* The tables of numerics.def, and names that people give to rows of them. */
#include "ane/numerics.h"

#include <assert.h>

static const struct {
	const char *name, *summary;
} profiles[] = {
#define PROFILE(id, name, summary) [PROFILE_##id] = {name, summary},
#include "ane/numerics.def"
};

static const struct {
	const char *key, *summary;
} rules[] = {
#define RULE(id, key, summary) [RULE_##id] = {key, summary},
#include "ane/numerics.def"
};

static const struct {
	ane_rule rule;
	uint32_t profiles; /* bits */
	const char *name, *summary, *evidence;
} choices[] = {
#define CHOICE(rule, id, name, profiles, summary, evidence) \
	[rule##_##id] = {RULE_##rule, profiles, name, summary, evidence},
#include "ane/numerics.def"
};

_Static_assert(CHOICE_COUNT <= UINT8_MAX && PROFILE_COUNT <= 32,
	       "ane_numerics and the bits of a choice hold them");

/* ---- Listing ------------------------------------------------------------------------------ */

bool an_numerics_profile(int i, an_numerics_profile_info *out)
{
	if (i < 0 || i >= PROFILE_COUNT)
		return false;
	*out = (an_numerics_profile_info){profiles[i].name, profiles[i].summary};
	return true;
}

bool an_numerics_rule(int i, an_numerics_rule_info *out)
{
	if (i < 0 || i >= RULE_COUNT)
		return false;
	*out = (an_numerics_rule_info){rules[i].key, rules[i].summary};
	return true;
}

bool an_numerics_choice(int rule, int i, an_numerics_choice_info *out)
{
	for (int c = 0; i >= 0 && c < CHOICE_COUNT; c++)
		if ((int)choices[c].rule == rule && i-- == 0) {
			*out = (an_numerics_choice_info){choices[c].name, choices[c].summary,
							 choices[c].evidence, choices[c].profiles};
			return true;
		}
	return false;
}

/* ---- Names -------------------------------------------------------------------------------- */

/* A stretch of the text that is parsed. */
typedef struct word {
	const char *text;
	size_t len;
} word;

static bool same(word w, const char *name) { return strlen(name) == w.len && !memcmp(name, w.text, w.len); }

/* The word up to any of `stops`, which is passed over; *text is NULL at the end. */
static word take(const char **text, const char *stops)
{
	word w = {*text, strcspn(*text, stops)};
	*text = w.text[w.len] ? w.text + w.len + 1 : NULL;
	return w;
}

static an_status no_profile(an_ctx *ctx, const char *text, word w)
{
	str list;
	str_init(&list, ctx);
	for (int i = 0; i < PROFILE_COUNT; i++)
		str_addf(&list, "%s%s", i ? ", " : "", profiles[i].name);
	an_status s = str_status(&list);
	if (s == AN_OK)
		s = fail(ctx, AN_USAGE, "numerics \"%s\": there is no profile \"%.*s\"; there are %s", text,
			 (int)w.len, w.text, list.data);
	str_free(&list);
	return s;
}

static an_status no_rule(an_ctx *ctx, const char *text, word w)
{
	str list;
	str_init(&list, ctx);
	for (int i = 0; i < RULE_COUNT; i++)
		str_addf(&list, "%s%s", i ? ", " : "", rules[i].key);
	an_status s = str_status(&list);
	if (s == AN_OK)
		s = fail(
		    ctx, AN_USAGE,
		    "numerics \"%s\": there is no rule \"%.*s\"; write PROFILE,RULE=CHOICE,... with rules "
		    "among %s",
		    text, (int)w.len, w.text, list.data);
	str_free(&list);
	return s;
}

static an_status no_choice(an_ctx *ctx, const char *text, int rule, word w)
{
	str list;
	str_init(&list, ctx);
	an_numerics_choice_info c;
	for (int i = 0; an_numerics_choice(rule, i, &c); i++)
		str_addf(&list, "%s%s", i ? ", " : "", c.name);
	an_status s = str_status(&list);
	if (s == AN_OK)
		s = fail(ctx, AN_USAGE, "numerics \"%s\": rule %s has no choice \"%.*s\"; it has %s", text,
			 rules[rule].key, (int)w.len, w.text, list.data);
	str_free(&list);
	return s;
}

static void add_name(ane_numerics *n, const char *a, const char *b, const char *c, const char *d)
{
	const char *const part[] = {a, b, c, d};
	size_t used = strlen(n->name);
	for (int i = 0; i < LENGTH(part); i++) {
		size_t len = strlen(part[i]);
		assert(used + len < sizeof n->name);
		memcpy(n->name + used, part[i], len + 1);
		used += len;
	}
}

an_status ane_numerics_parse(an_ctx *ctx, const char *text, ane_numerics *out)
{
	const char *rest = text ? text : profiles[PROFILE_IEEE].name;
	*out = (ane_numerics){.name = ""};
	int profile = 0;
	word w = take(&rest, ",");
	while (profile < PROFILE_COUNT && !same(w, profiles[profile].name))
		profile++;
	if (profile == PROFILE_COUNT)
		return no_profile(ctx, text, w);
	for (int c = 0; c < CHOICE_COUNT; c++)
		if (choices[c].profiles >> profile & 1)
			out->rule[choices[c].rule] = (uint8_t)c;
	while (rest) {
		const char *end = strchr(rest, ',');
		w = take(&rest, "=,");
		int rule = 0, c = 0;
		while (rule < RULE_COUNT && !same(w, rules[rule].key))
			rule++;
		if (rule == RULE_COUNT)
			return no_rule(ctx, text, w);
		/* a rule alone has the empty choice */
		word choice = {w.text + w.len, 0};
		if (w.text[w.len] == '=' && rest)
			choice = take(&rest, ",");
		else
			rest = end ? end + 1 : NULL;
		while (c < CHOICE_COUNT && ((int)choices[c].rule != rule || !same(choice, choices[c].name)))
			c++;
		if (c == CHOICE_COUNT)
			return no_choice(ctx, text, rule, choice);
		out->rule[rule] = (uint8_t)c;
	}
	add_name(out, profiles[profile].name, "", "", "");
	for (int r = 0; r < RULE_COUNT; r++)
		if (!(choices[out->rule[r]].profiles >> profile & 1))
			add_name(out, ",", rules[r].key, "=", choices[out->rule[r]].name);
	return AN_OK;
}
