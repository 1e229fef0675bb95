/* anneal lint: is it a well-formed MIL program? */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

static int run(int argc, char **argv);

const cli_command cmd_lint = {
    .name = "lint",
    .operands = "PROGRAM.mil...",
    .summary = "check MIL programs: syntax, operations, types, shapes, constants",
    .details = "Diagnostics go to standard output as file:line:column: error: text.  Exit status 1 if\n"
	       "there are any.",
    .example = "anneal lint examples/layer.mil",
    .run = run,
};

/* Prints one line of a message as an object if it is "FILE:LINE:COLUMN: error: TEXT"; false: it is something
 * else (the source line, a caret). */
static bool print_diagnostic(const char *line, size_t len, const char *file, bool comma)
{
	size_t n = strlen(file);
	if (len <= n || strncmp(line, file, n) != 0 || line[n] != ':')
		return false;
	char *end;
	long row = strtol(line + n + 1, &end, 10);
	if (*end != ':')
		return false;
	long column = strtol(end + 1, &end, 10);
	if (*end != ':')
		return false;
	const char *text = end + 1;
	while (*text == ' ')
		text++;
	if (strncmp(text, "error: ", 7) == 0)
		text += 7;
	char *copy = cli_format("%.*s", (int)(line + len - text), text);
	printf("%s{\"line\": %ld, \"column\": %ld, \"text\": ", comma ? ", " : "", row, column);
	cli_json_text(stdout, copy);
	printf("}");
	free(copy);
	return true;
}

static void print_json(const char *file, const char *message, bool comma)
{
	printf("%s{\"file\": ", comma ? ",\n " : "[");
	cli_json_text(stdout, file);
	printf(", \"ok\": %s, \"diagnostics\": [", message ? "false" : "true");
	bool any = false;
	for (const char *line = message; line && *line;) {
		size_t len = strcspn(line, "\n");
		any |= print_diagnostic(line, len, file, any);
		line += len + (line[len] == '\n');
	}
	if (message && !any) { /* a file that cannot be read has no place */
		printf("{\"line\": null, \"column\": null, \"text\": ");
		cli_json_text(stdout, message);
		printf("}");
	}
	printf("]}");
}

static int run(int argc, char **argv)
{
	bool json = false;
	const cli_option rows[] = {{"json", NULL, "a JSON array with an object per file", .flag = &json}};
	int first = CLI_PARSE(&cmd_lint, rows, argc, argv);
	if (first == argc)
		cli_usage("no program given");
	an_ctx *ctx = cli_open_ctx(NULL);
	int bad = 0;
	for (int i = first; i < argc; i++) {
		an_program *p;
		an_status s = an_program_read(ctx, argv[i], &p);
		bad += s != AN_OK;
		if (json) {
			print_json(argv[i], s == AN_OK ? NULL : an_message(ctx), i > first);
		} else if (s == AN_OK) {
			int ops = 0;
			for (int f = 0; f < an_program_functions(p); f++)
				ops += an_function_ops(an_program_function_at(p, f));
			printf("%s: ok (%d function%s, %d operations)\n", argv[i], an_program_functions(p),
			       an_program_functions(p) == 1 ? "" : "s", ops);
		} else {
			printf("%s\n", an_message(ctx));
		}
		if (s == AN_OK)
			an_program_free(p);
	}
	if (json)
		printf("]\n");
	if (bad && !json)
		cli_fail("%d of %d program%s failed", bad, argc - first, argc - first == 1 ? "" : "s");
	an_ctx_close(ctx);
	return bad > 0;
}
