/* anneal: the command line.  Every subcommand is a file of its own beside this one. */
#include "cli/cli.h"

#include <errno.h>
#include <string.h>

static const cli_command *const commands[] = {&cmd_train,       &cmd_generate, &cmd_eval,  &cmd_run,
					      &cmd_lint,        &cmd_grad,     &cmd_plan,  &cmd_compare,
					      &cmd_fingerprint, &cmd_probe,    &cmd_bench, &cmd_ops};
enum { COMMANDS = sizeof commands / sizeof *commands };

static void overview(FILE *f)
{
	fprintf(f,
		"Usage: anneal COMMAND [OPTION]... [OPERAND]...\n\n"
		"Trains neural networks whose every pass is a MIL program, on a software Neural Engine.\n\n");
	for (int i = 0; i < COMMANDS; i++)
		fprintf(f, "  %-11s %s\n", commands[i]->name, commands[i]->summary);
	fprintf(f, "\n\"anneal COMMAND --help\" explains one; \"anneal --version\" says what is running.\n");
}

static void version(void)
{
	an_ctx *ctx = cli_open_ctx(NULL);
	printf("anneal %s\nInstruction sets: %s\nThreads: %d\n", an_version(), an_ctx_isa(ctx),
	       an_ctx_threads(ctx));
	an_ctx_close(ctx);
}

static const cli_command *find(const char *name)
{
	for (int i = 0; i < COMMANDS; i++)
		if (strcmp(commands[i]->name, name) == 0)
			return commands[i];
	cli_usage("unknown command \"%s\"", name);
}

static int dispatch(int argc, char **argv)
{
	if (argc < 2) {
		overview(stderr);
		return 2;
	}
	const char *word = argv[1];
	if (strcmp(word, "--version") == 0) {
		version();
	} else if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 ||
		   (strcmp(word, "help") == 0 && argc == 2)) {
		overview(stdout);
	} else if (strcmp(word, "help") == 0) {
		char *help[] = {argv[2], "--help", NULL};
		return find(argv[2])->run(2, help);
	} else {
		return find(word)->run(argc - 1, argv + 1);
	}
	return 0;
}

int main(int argc, char **argv)
{
	int status = dispatch(argc, argv);
	/* a full disk shows itself at the last flush */
	if ((fflush(stdout) != 0 || ferror(stdout)) && status == 0)
		cli_fail("cannot write the output: %s", strerror(errno));
	return status;
}
