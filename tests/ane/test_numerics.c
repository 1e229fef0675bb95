/* The table of numerics is complete, and its rows have names that say which they are. */
#include "ane/numerics.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

/* Every profile chooses once for every rule, and every choice says who has measured it. */
static void table_is_complete(void **state)
{
	(void)state;
	an_numerics_profile_info p;
	an_numerics_rule_info r;
	an_numerics_choice_info c;
	int rules = 0;
	for (; an_numerics_rule(rules, &r); rules++) {
		uint32_t once = 0;
		for (int i = 0; an_numerics_choice(rules, i, &c); i++) {
			assert_int_equal(once & c.profiles, 0);
			once |= c.profiles;
			assert_true(strlen(c.summary) > 3 && strlen(c.evidence) > 3);
		}
		assert_int_equal(once, (1u << PROFILE_COUNT) - 1);
	}
	assert_int_equal(rules, RULE_COUNT);
	assert_true(an_numerics_profile(PROFILE_COUNT - 1, &p));
	assert_false(an_numerics_profile(PROFILE_COUNT, &p) || an_numerics_profile(-1, &p));
	assert_false(an_numerics_rule(-1, &r) || an_numerics_choice(RULE_COUNT, 0, &c) ||
		     an_numerics_choice(0, -1, &c));
}

/* All names together, as every rule with its longest choice would have, must fit. */
static void longest_name_fits(void **state)
{
	(void)state;
	size_t n = 8;
	an_numerics_rule_info r;
	an_numerics_choice_info c;
	for (int i = 0; an_numerics_rule(i, &r); i++) {
		size_t longest = 0;
		for (int k = 0; an_numerics_choice(i, k, &c); k++)
			longest = MAX(longest, strlen(c.name));
		n += 2 + strlen(r.key) + longest;
	}
	assert_true(n < ANE_NUMERICS_NAME);
}

static an_ctx *new_ctx(void)
{
	an_ctx *ctx;
	assert_int_equal(an_ctx_open(NULL, &ctx), AN_OK);
	return ctx;
}

static void names(void **state)
{
	(void)state;
	static const char *const cases[][2] = {
	    {NULL, "ieee"},
	    {"m4", "m4"},
	    {"m4,product=fixed", "m4"}, /* its own choice is no other */
	    {"m4,zero=signed,rounding=even", "m4,rounding=even,zero=signed"},
	    {"m4,rounding=even,rounding=away", "m4"},
	    {"ieee,product=fixed", "ieee,product=fixed"},
	    {"ieee,product=near", "ieee,product=near"},
	};
	an_ctx *ctx = new_ctx();
	ane_numerics n, again;
	for (int i = 0; i < LENGTH(cases); i++) {
		assert_int_equal(ane_numerics_parse(ctx, cases[i][0], &n), AN_OK);
		assert_string_equal(n.name, cases[i][1]);
		assert_int_equal(ane_numerics_parse(ctx, n.name, &again), AN_OK);
		assert_memory_equal(n.rule, again.rule, sizeof n.rule);
	}
	assert_int_equal(ane_numerics_parse(ctx, "m4,rounding=even", &n), AN_OK);
	assert_true(CHOSEN(&n, ROUNDING, EVEN) && CHOSEN(&n, PRODUCT, FIXED) && !CHOSEN(&n, NAN, KEEP));
	an_ctx_close(ctx);
}

static void mistakes(void **state)
{
	(void)state;
	static const char *const cases[][3] = {
	    {"m9", "no profile \"m9\"", "m6"},
	    {"", "no profile \"\"", "ieee"},
	    {"rounding=even", "no profile", "fast"},
	    {"m4,rounded=even", "no rule \"rounded\"", "rounding"},
	    {"m4,", "no rule \"\"", "rounding"},
	    {"m4,,rounding=even", "no rule \"\"", "product"},
	    {"m4,rounding=odd", "rounding has no choice \"odd\"", "even, away"},
	    {"m4,rounding=exact", "rounding has no choice \"exact\"", "even, away"}, /* another rule's */
	    {"m4,rounding", "rounding has no choice \"\"", "even, away"},
	    {"m4,rounding,zero=signed", "rounding has no choice \"\"", "even, away"},
	    {"m4,rounding=", "rounding has no choice \"\"", "even, away"},
	};
	an_ctx *ctx = new_ctx();
	ane_numerics n;
	for (int i = 0; i < LENGTH(cases); i++) {
		assert_int_equal(ane_numerics_parse(ctx, cases[i][0], &n), AN_USAGE);
		assert_non_null(strstr(an_message(ctx), cases[i][1]));
		assert_non_null(strstr(an_message(ctx), cases[i][2]));
	}
	an_ctx_close(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(table_is_complete),
	    cmocka_unit_test(longest_name_fits),
	    cmocka_unit_test(names),
	    cmocka_unit_test(mistakes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
