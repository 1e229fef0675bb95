/* What was published of single results of Neural Engines (src/check/cases.c): each in the profiles it was
 * measured for, or under the switch of its source.
 *
 * A case that no rule explains, or that contradicts one with better evidence, keeps what was published and
 * what the rules give: the test is that it still differs exactly so. */
#include "support/device_support.h"

#include "anneal/check.h"
#include "base/half.h"

static void check(const char *numerics, int index, const an_case *c)
{
	an_ctx *ctx = device_ctx(1);
	an_device *d = device_soft(ctx, numerics, true);
	an_case_result r;
	MIL_OK(ctx, an_case_run(d, index, &r));
	if (r.where >= 0)
		fail_msg("%s, %s of \"%s\" and \"%s\", bias %s: element %d is %g (0x%04x), expected %s",
			 numerics, c->op, c->x, c->y ? c->y : "", c->bias ? c->bias : "none", r.where,
			 half_to_float(r.got[r.where]), r.got[r.where], c->want);
	if (c->published && r.as_published)
		fail_msg("%s, %s of \"%s\": is as published, %s", numerics, c->op, c->x, c->published);
	an_device_close(d);
	an_ctx_close(ctx);
}

static void test_cases(void **state)
{
	(void)state;
	an_case c;
	int runs = 0, contradicted = 0;
	for (int i = 0; an_case_at(i, &c); i++) {
		char word[200];
		int n;
		for (const char *list = c.numerics; sscanf(list, "%199s%n", word, &n) == 1;
		     list += n, runs++) {
			assert_true(an_case_holds(&c, word));
			check(word, i, &c);
		}
		assert_false(an_case_holds(&c, "m"));
		if (c.published) {
			contradicted++;
			assert_string_not_equal(c.published, c.want);
		}
		assert_true(c.source[0]);
	}
	assert_true(runs > 1000 && contradicted > 10);
}

/* A device with other rules is told apart, in the element that shows it. */
static void test_other_rules(void **state)
{
	(void)state;
	an_ctx *ctx = device_ctx(1);
	an_device *d = device_soft(ctx, "ieee", true);
	an_case c;
	an_case_result r;
	int holding = 0, differ = 0;
	for (int i = 0; an_case_at(i, &c); i++) {
		MIL_OK(ctx, an_case_run(d, i, &r));
		if (strcmp(c.numerics, "m1 m2 m3 m4 m5 m6") || strcmp(c.op, "add") || r.where < 0)
			continue;
		differ++;
		holding += r.where == 0 && !strcmp(c.x, "2048 65504 16384 0x1p-24 nan") && r.got[0] == 0x6800;
	}
	assert_true(differ >= 2 && holding == 1);
	assert_int_equal(an_case_run(d, 100000, &r), AN_USAGE);
	an_device_close(d);
	an_ctx_close(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_cases),
	    cmocka_unit_test(test_other_rules),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
