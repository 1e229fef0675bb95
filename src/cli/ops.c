/* anneal ops: the tables of operations, of numerics, and of the habits of Apple's engine. */
#include "cli/cli.h"

#include <string.h>

static int run(int argc, char **argv);

const cli_command cmd_ops = {
    .name = "ops",
    .operands = "[NAME]...",
    .summary = "list MIL's operations with their parameters",
    .details =
	"With names, only those.  A parameter in brackets may be left out; = gives its default, * marks one "
	"that must be a\nconstant, ... a list of values.\n\n"
	"A profile of numerics is a choice for each of several rules, on which chips or sources about them "
	"differ;\n"
	"--numerics m4,rounding=even is m4 with another choice for one rule.\n\n"
	"A quirk is a habit of Apple's engine that --device ane has to meet.  Reports disagree, so each is a "
	"switch:\n--quirks equal_size=on,min_width=32.",
    .example = "anneal ops matmul softmax",
    .run = run,
};

static void print(an_opcode op, const an_op_description *d)
{
	printf("%s (ios%d): %s\n", d->name, d->opset, d->summary);
	an_op_param_description p;
	for (int i = 0; an_op_param(op, i, &p); i++)
		printf("    %s%s%s%s%s%s%s  %s\n", p.required ? "" : "[", p.name, p.list ? "..." : "",
		       p.fallback ? " = " : "", p.fallback ? p.fallback : "", p.required ? "" : "]",
		       p.constant ? "*" : "", p.kinds);
}

static void print_json(an_opcode op, const an_op_description *d)
{
	printf("{\"name\": ");
	cli_json_text(stdout, d->name);
	printf(", \"opset\": %d, \"summary\": ", d->opset);
	cli_json_text(stdout, d->summary);
	printf(", \"parameters\": [");
	an_op_param_description p;
	for (int i = 0; an_op_param(op, i, &p); i++) {
		printf("%s{\"name\": ", i ? ", " : "");
		cli_json_text(stdout, p.name);
		printf(", \"kinds\": ");
		cli_json_text(stdout, p.kinds);
		printf(", \"required\": %s, \"constant\": %s, \"list\": %s, \"default\": ",
		       p.required ? "true" : "false", p.constant ? "true" : "false",
		       p.list ? "true" : "false");
		if (p.fallback)
			cli_json_text(stdout, p.fallback);
		else
			printf("null");
		printf("}");
	}
	printf("]}");
}

/* ---- Numerics ------------------------------------------------------------------------ */

/* Text in lines of about 100 columns, each after `indent` blanks. */
static void wrapped(int indent, const char *text)
{
	enum { WIDTH = 100 };
	for (int column = 0; *text;) {
		int n = (int)strcspn(text, " ");
		if (column > 0 && column + 1 + n > WIDTH) {
			printf("\n");
			column = 0;
		}
		column += column ? printf(" ") : printf("%*s", indent, "");
		column += printf("%.*s", n, text);
		text += n;
		text += strspn(text, " ");
	}
	printf("\n");
}

/* The names of the profiles in `mask`. */
static void print_profiles(uint32_t mask, bool json)
{
	an_numerics_profile_info p;
	const char *comma = "";
	for (int i = 0; an_numerics_profile(i, &p); i++) {
		if (!(mask >> i & 1))
			continue;
		printf("%s%s%s%s", comma, json ? "\"" : "", p.name, json ? "\"" : "");
		comma = json ? ", " : " ";
	}
}

static void print_numerics(void)
{
	an_numerics_profile_info p;
	an_numerics_rule_info r;
	an_numerics_choice_info c;
	printf("Profiles\n");
	for (int i = 0; an_numerics_profile(i, &p); i++)
		printf("  %-5s %s\n", p.name, p.summary);
	printf("\nRules, their choices, [the profiles that choose them], and the evidence\n");
	for (int i = 0; an_numerics_rule(i, &r); i++) {
		printf("\n%s: %s\n", r.key, r.summary);
		for (int k = 0; an_numerics_choice(i, k, &c); k++) {
			printf("  %s [", c.name);
			print_profiles(c.profiles, false);
			printf("]\n");
			wrapped(6, c.summary);
			printf("    evidence\n");
			wrapped(6, c.evidence);
		}
	}
}

static void print_pair(const char *comma, const char *key, const char *text)
{
	printf("%s\"%s\": ", comma, key);
	cli_json_text(stdout, text);
}

static void print_numerics_json(void)
{
	an_numerics_profile_info p;
	an_numerics_rule_info r;
	an_numerics_choice_info c;
	printf("{\"profiles\": [");
	for (int i = 0; an_numerics_profile(i, &p); i++) {
		print_pair(i ? ",\n  {" : "\n  {", "name", p.name);
		print_pair(", ", "summary", p.summary);
		printf("}");
	}
	printf("],\n \"rules\": [");
	for (int i = 0; an_numerics_rule(i, &r); i++) {
		print_pair(i ? ",\n  {" : "\n  {", "key", r.key);
		print_pair(", ", "summary", r.summary);
		printf(", \"choices\": [");
		for (int k = 0; an_numerics_choice(i, k, &c); k++) {
			print_pair(k ? ",\n    {" : "\n    {", "name", c.name);
			printf(", \"profiles\": [");
			print_profiles(c.profiles, true);
			print_pair("], ", "summary", c.summary);
			print_pair(", ", "evidence", c.evidence);
			printf("}");
		}
		printf("]}");
	}
	printf("]}\n");
}

/* ---- Quirks --------------------------------------------------------------------------- */

static const char *const breach_names[] = {[AN_QUIRK_REFUSES] = "compiling fails",
					   [AN_QUIRK_FAILS] = "evaluating fails",
					   [AN_QUIRK_WRONG] = "wrong data, silently",
					   [AN_QUIRK_LIMIT] = "a limit of the process",
					   [AN_QUIRK_NOTHING] = "nothing that was seen"};

static void print_quirks(void)
{
	const an_quirk *q;
	printf("Name, [default; routes where it was seen], what holds, (what happens otherwise), and the "
	       "evidence\n");
	for (int i = 0; (q = an_quirk_at(i)); i++) {
		if (q->initial > 1)
			printf("\n%s [%lld; %s]\n", q->name, (long long)q->initial, q->routes);
		else
			printf("\n%s [%s; %s]\n", q->name, q->initial ? "on" : "off", q->routes);
		printf("  %s (%s)\n    evidence\n", q->sentence, breach_names[q->breach]);
		wrapped(6, q->evidence);
	}
}

static void print_quirks_json(void)
{
	const an_quirk *q;
	printf("[");
	for (int i = 0; (q = an_quirk_at(i)); i++) {
		print_pair(i ? ",\n {" : "{", "name", q->name);
		printf(", \"default\": %lld", (long long)q->initial);
		print_pair(", ", "routes", q->routes);
		print_pair(", ", "sentence", q->sentence);
		print_pair(", ", "breach", breach_names[q->breach]);
		print_pair(", ", "evidence", q->evidence);
		printf("}");
	}
	printf("]\n");
}

static int run(int argc, char **argv)
{
	bool json = false, numerics = false, quirks = false;
	const cli_option rows[] = {
	    {"json", NULL, "a JSON array; with --numerics an object", .flag = &json},
	    {"numerics", NULL, "profiles, rules and choices of --numerics, with their evidence",
	     .flag = &numerics},
	    {"quirks", NULL, "the switches of --quirks, with their evidence", .flag = &quirks}};
	int first = CLI_PARSE(&cmd_ops, rows, argc, argv);
	if ((numerics || quirks) && first < argc)
		cli_usage("--%s takes no operand, found \"%s\"", numerics ? "numerics" : "quirks",
			  argv[first]);
	if (numerics && quirks)
		cli_usage("--numerics and --quirks are two tables; ask for one");
	if (numerics || quirks) {
		(quirks ? json ? print_quirks_json : print_quirks
		 : json ? print_numerics_json
			: print_numerics)();
		return 0;
	}
	for (int i = first; i < argc; i++)
		if (an_op_find(argv[i]) < 0)
			cli_fail("there is no operation \"%s\"", argv[i]);
	bool comma = false;
	an_op_description d;
	for (an_opcode op = 0; an_op_info(op, &d); op++) {
		bool wanted = first == argc;
		for (int i = first; i < argc; i++)
			wanted |= strcmp(argv[i], d.name) == 0;
		if (!wanted)
			continue;
		if (json) {
			printf("%s", comma ? ",\n " : "[");
			print_json(op, &d);
			comma = true;
		} else {
			print(op, &d);
		}
	}
	if (json)
		printf("]\n");
	return 0;
}
