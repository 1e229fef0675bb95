#include "cli/arrays.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

cli_bindings cli_bind(const char *option, const cli_list *list)
{
	cli_binding *b = cli_alloc((size_t)list->n, sizeof *b);
	for (int i = 0; i < list->n; i++) {
		const char *equals = strchr(list->item[i], '=');
		if (!equals || equals == list->item[i] || !equals[1])
			cli_usage("--%s: expected NAME=FILE.npy, found \"%s\"", option, list->item[i]);
		b[i].name = cli_format("%.*s", (int)(equals - list->item[i]), list->item[i]);
		b[i].path = equals + 1;
		for (int j = 0; j < i; j++)
			if (strcmp(b[i].name, b[j].name) == 0)
				cli_usage("--%s: \"%s\" is given twice", option, b[i].name);
	}
	return (cli_bindings){b, list->n};
}

void cli_bindings_free(cli_bindings *b)
{
	for (int i = 0; i < b->n; i++)
		free(b->item[i].name);
	free(b->item);
}

const cli_binding *cli_binding_find(cli_bindings *b, const char *name)
{
	for (int i = 0; i < b->n; i++) {
		if (strcmp(b->item[i].name, name) == 0) {
			b->item[i].used = true;
			return &b->item[i];
		}
	}
	return NULL;
}

void cli_bindings_used(const cli_bindings *b, const char *what)
{
	for (int i = 0; i < b->n; i++)
		if (!b->item[i].used)
			cli_fail("the function has no %s \"%s\"", what, b->item[i].name);
}

/* ---- Inputs ---------------------------------------------------------------------------- */

void cli_inputs_open(cli_inputs *in)
{
	in->given = cli_bind("in", &in->files);
	if (in->seed) {
		char *end;
		in->state = strtoull(in->seed, &end, 10);
		if (*end || end == in->seed)
			cli_usage("--random: expected a seed, found \"%s\"", in->seed);
	}
}

void cli_inputs_close(cli_inputs *in)
{
	cli_bindings_free(&in->given);
	free(in->files.item);
}

static void fill_from_file(an_ctx *ctx, const cli_binding *from, const an_type *want, void *to)
{
	an_type have;
	void *data;
	cli_check(ctx, an_npy_read(ctx, from->path, &have, &data));
	an_type same = have; /* but for the element type */
	same.dtype = want->dtype;
	if (!an_type_equal(&same, want)) {
		char a[128], b[128];
		cli_fail("%s: the file has %s, input \"%s\" is %s", from->path,
			 an_type_text(&have, a, sizeof a), from->name, an_type_text(want, b, sizeof b));
	}
	if (have.dtype == want->dtype)
		memcpy(to, data, an_type_bytes(want));
	else
		for (int64_t i = 0; i < an_type_count(want); i++)
			an_set_element((an_dtype)want->dtype, to, i,
				       an_element((an_dtype)have.dtype, data, i));
	an_npy_free(ctx, &have, data);
}

/* Uniform in [-1, 1), for bool and integers 0 or 1: a 64-bit linear congruential generator (Knuth's
 * MMIX constants), top bits. */
static void fill_randomly(uint64_t *state, const an_type *t, void *to)
{
	bool real = t->dtype == AN_FP16 || t->dtype == AN_FP32 || t->dtype == AN_BF16;
	for (int64_t i = 0; i < an_type_count(t); i++) {
		*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		double u = (double)(*state >> 11) * 0x1p-53;
		an_set_element((an_dtype)t->dtype, to, i, real ? 2 * u - 1 : floor(2 * u));
	}
}

void cli_input_fill(an_ctx *ctx, cli_inputs *in, const char *name, const an_type *t, void *to)
{
	const cli_binding *given = cli_binding_find(&in->given, name);
	if (given)
		fill_from_file(ctx, given, t, to);
	else if (in->seed)
		fill_randomly(&in->state, t, to);
	else
		cli_fail("input \"%s\" is missing: give --in %s=FILE.npy or --random SEED", name, name);
}
