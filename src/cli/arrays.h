/* Arrays that a command line names, and the inputs of programs. */
#ifndef CLI_ARRAYS_H
#define CLI_ARRAYS_H

#include "cli/cli.h"

/* NAME=FILE.npy, one for each time that the option was given. */
typedef struct cli_binding {
	char *name;
	const char *path;
	bool used;
} cli_binding;
typedef struct cli_bindings {
	cli_binding *item;
	int n;
} cli_bindings;
cli_bindings cli_bind(const char *option, const cli_list *list);
void cli_bindings_free(cli_bindings *b);
/* NULL: not given. */
const cli_binding *cli_binding_find(cli_bindings *b, const char *name);
/* Ends with status 1 if one was never looked for: the function has no such input (`what`). */
void cli_bindings_used(const cli_bindings *b, const char *what);

/* What a program's inputs hold: files, or numbers from a seed. */
typedef struct cli_inputs {
	cli_list files;
	const char *seed;
	cli_bindings given;
	uint64_t state;
} cli_inputs;
/* clang-format off */
#define CLI_INPUT_OPTIONS(i) \
	{"in", "NAME=FILE.npy", "an input", .list = &(i).files}, \
	{"random", "SEED", "fill inputs that are not given with numbers in [-1, 1)", .text = &(i).seed}
/* clang-format on */
/* After the options were read, before anything is filled. */
void cli_inputs_open(cli_inputs *in);
void cli_inputs_close(cli_inputs *in);
/* The elements of input `name` of type `t`; inputs in their order, each once.  Ends with status 1 if it was
 * not given. */
void cli_input_fill(an_ctx *ctx, cli_inputs *in, const char *name, const an_type *t, void *to);

#endif
