/* anneal grad: a program in, its forward and its backward out. */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

static int run(int argc, char **argv);

const cli_command cmd_grad = {
    .name = "grad",
    .operands = "PROGRAM.mil",
    .summary = "differentiate a MIL program: writes fwd.mil and bwd.mil",
    .details = "fwd.mil returns what the program returned, then the values its backward needs.\n"
	       "bwd.mil takes those and the gradients d_OUTPUT of the outputs, and returns the\n"
	       "gradients d_INPUT.",
    .example = "anneal grad examples/layer.mil --wrt x,w --out /tmp/layer-grad",
    .run = run,
};

/* "a,b" -> names; the text is cut up. */
static const char **split(char *text, int *n)
{
	const char **names = cli_alloc(strlen(text) + 1, sizeof *names);
	*n = 0;
	for (char *name = strtok(text, ","); name; name = strtok(NULL, ","))
		names[(*n)++] = name;
	if (*n == 0)
		cli_usage("--wrt: no name given");
	return names;
}

/* Writes one function as DIR/STEM.mil, a program of its own whose function is "main", as Apple's
 * compiler wants it. */
static void write(an_ctx *ctx, const an_function *f, const char *dir, const char *stem)
{
	an_program *p;
	an_function *copy;
	cli_check(ctx, an_program_new(ctx, &p));
	cli_check(ctx, an_function_clone(p, f, "main", &copy));
	cli_check(ctx, an_program_write(p, dir, stem));
	printf("%s/%s.mil: %d inputs, %d outputs, %d operations\n", dir, stem, an_function_inputs(copy),
	       an_function_outputs(copy), an_function_ops(copy));
	an_program_free(p);
}

static int run(int argc, char **argv)
{
	const char *wrt = NULL, *out = NULL, *name = NULL;
	an_grad_options opt = {0};
	/* clang-format off */
	const cli_option rows[] = {
		{"wrt", "A,B", "inputs to differentiate by (default: all of floating point)", .text = &wrt},
		{"out", "DIR", "folder for fwd.mil, bwd.mil and their constants", .text = &out},
		{"function", "NAME", "which function of the program (default: the first)", .text = &name},
		{"save-all", NULL, "save everything the backward reads, recompute nothing",
		 .flag = &opt.save_all},
	};
	/* clang-format on */
	int first = CLI_PARSE(&cmd_grad, rows, argc, argv);
	if (argc - first != 1)
		cli_usage("expected one program, found %d operands", argc - first);
	if (!out)
		cli_usage("--out is missing: where should fwd.mil and bwd.mil go?");
	char *names = wrt ? cli_format("%s", wrt) : NULL;
	const char **list = names ? split(names, &opt.nwrt) : NULL;
	opt.wrt = list;

	an_ctx *ctx = cli_open_ctx(NULL);
	an_program *p;
	cli_check(ctx, an_program_read(ctx, argv[first], &p));
	an_function *f = an_program_function(p, name), *forward, *backward;
	if (!f)
		cli_fail("%s: there is no function \"%s\"", argv[first], name ? name : "main");
	cli_check(ctx, an_grad(f, &opt, &forward, &backward));
	cli_make_dir(out);
	write(ctx, forward, out, "fwd");
	write(ctx, backward, out, "bwd");
	an_program_free(p);
	an_ctx_close(ctx);
	free(list);
	free(names);
	return 0;
}
