/* What parses can be simplified, and differentiated or refused in words; what comes of it is right in type
 * (the passes verify it) and can go through the next pass. */
static const char *const input_name = "program.mil";
#include "fuzz.h"

/* The passes take everything that has been verified. */
static void must(an_status s)
{
	if (s != AN_OK)
		abort();
}

static void differentiate(an_ctx *ctx, an_function *f)
{
	an_function *forward, *backward, *out;
	const char *names[16];
	an_contraction *list;
	int n = 0, count;
	an_status s = an_grad(f, NULL, &forward, &backward);
	if (!accepted(ctx, s)) {
		if (s != AN_UNSUPPORTED && s != AN_USAGE)
			abort();
		return;
	}
	for (; n < an_function_outputs(backward) && n < 16; n++)
		names[n] = an_value_name(backward, an_function_output(backward, n));
	must(an_outline(backward, names, n, &out, &list, &count));
	must(an_simplify(backward, &out));
}

static void try_input(an_ctx *ctx, const char *path, const char *text, size_t len)
{
	an_program *p;
	(void)path;
	if (!accepted(ctx, an_program_parse(ctx, text, len, "fuzz.mil", &p)))
		return;
	an_function *f = an_program_function(p, NULL), *out;
	if (f) {
		must(an_simplify(f, &out));
		must(an_cse(f, &out));
		must(an_dce(f, &out));
		differentiate(ctx, f);
	}
	an_program_free(p);
}
