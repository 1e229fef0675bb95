/* anneal ops: the table of operations. */
#include "cli/cli.h"

#include <string.h>

static int run(int argc, char **argv);

const cli_command cmd_ops = {
    .name = "ops",
    .operands = "[NAME]...",
    .summary = "list MIL's operations with their parameters",
    .details =
	"With names, only those.  A parameter in brackets may be left out; = gives its default, * marks one "
	"that must be a\nconstant, ... a list of values.",
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

static int run(int argc, char **argv)
{
	bool json = false;
	const cli_option rows[] = {{"json", NULL, "a JSON array", .flag = &json}};
	int first = CLI_PARSE(&cmd_ops, rows, argc, argv);
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
