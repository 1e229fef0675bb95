/* anneal run: execute a MIL program on arrays. */
#include "cli/cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int run(int argc, char **argv);

const cli_command cmd_run = {
    .name = "run",
    .operands = "PROGRAM.mil",
    .summary = "run a MIL program on NumPy arrays",
    .details = "Arrays are converted to the types of the inputs (round to nearest even); shapes must be "
	       "equal.  Without\n"
	       "--out, prints what every output looks like.",
    .example = "anneal run examples/layer.mil --random 1",
    .run = run,
};

/* "name=file", one for each --in or --out. */
typedef struct binding {
	char *name;
	const char *path;
	bool used;
} binding;

static binding *bindings(const char *option, const cli_list *list)
{
	binding *b = cli_alloc((size_t)list->n + 1, sizeof *b);
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
	return b;
}

static binding *find(binding *b, int n, const char *name)
{
	for (int i = 0; i < n; i++) {
		if (strcmp(b[i].name, name) == 0) {
			b[i].used = true;
			return &b[i];
		}
	}
	return NULL;
}

static void all_used(const binding *b, int n, const char *what)
{
	for (int i = 0; i < n; i++)
		if (!b[i].used)
			cli_fail("the function has no %s \"%s\"", what, b[i].name);
}

static void fill_from_file(an_ctx *ctx, an_buffer *buffer, const char *name, const char *path)
{
	an_type have;
	void *data;
	cli_check(ctx, an_npy_read(ctx, path, &have, &data));
	const an_type *want = an_buffer_type(buffer);
	an_type same = have; /* but for the element type */
	same.dtype = want->dtype;
	if (!an_type_equal(&same, want)) {
		char a[128], b[128];
		cli_fail("%s: the file has %s, input \"%s\" is %s", path, an_type_text(&have, a, sizeof a),
			 name, an_type_text(want, b, sizeof b));
	}
	void *to = an_buffer_map(buffer);
	if (have.dtype == want->dtype)
		memcpy(to, data, an_type_bytes(want));
	else
		for (int64_t i = 0; i < an_type_count(want); i++)
			an_set_element((an_dtype)want->dtype, to, i,
				       an_element((an_dtype)have.dtype, data, i));
	an_buffer_unmap(buffer);
	an_npy_free(ctx, &have, data);
}

/* Uniform in [-1, 1), for bool and integers 0 or 1: a 64-bit linear congruential generator (Knuth's
 * MMIX constants), top bits. */
static void fill_randomly(an_buffer *buffer, uint64_t *state)
{
	const an_type *t = an_buffer_type(buffer);
	bool real = t->dtype == AN_FP16 || t->dtype == AN_FP32 || t->dtype == AN_BF16;
	void *to = an_buffer_map(buffer);
	for (int64_t i = 0; i < an_type_count(t); i++) {
		*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		double u = (double)(*state >> 11) * 0x1p-53;
		an_set_element((an_dtype)t->dtype, to, i, real ? 2 * u - 1 : floor(2 * u));
	}
	an_buffer_unmap(buffer);
}

static void describe(an_buffer *buffer, const char *name)
{
	const an_type *t = an_buffer_type(buffer);
	const void *data = an_buffer_map(buffer);
	int64_t n = an_type_count(t), finite = 0;
	double min = INFINITY, max = -INFINITY, sum = 0, squares = 0;
	for (int64_t i = 0; i < n; i++) {
		double x = an_element((an_dtype)t->dtype, data, i);
		if (!isfinite(x))
			continue;
		finite++;
		min = fmin(min, x);
		max = fmax(max, x);
		sum += x;
		squares += x * x;
	}
	char type[128];
	printf("%s: %s", name, an_type_text(t, type, sizeof type));
	if (finite)
		printf("  min %.6g  max %.6g  mean %.6g  rms %.6g", min, max, sum / (double)finite,
		       sqrt(squares / (double)finite));
	if (finite < n)
		printf("  not finite: %lld of %lld", (long long)(n - finite), (long long)n);
	printf("\n   ");
	for (int64_t i = 0; i < n && i < 8; i++)
		printf(" %.6g", an_element((an_dtype)t->dtype, data, i));
	printf(n > 8 ? " ...\n" : "\n");
	an_buffer_unmap(buffer);
}

static int run(int argc, char **argv)
{
	cli_device d = {0};
	cli_list in = {0}, out = {0};
	const char *name = NULL, *random_text = NULL;
	uint64_t random = 0;
	/* clang-format off */
	const cli_option rows[] = {
		{"in", "NAME=FILE.npy", "an input", .list = &in},
		{"out", "NAME=FILE.npy", "where to write an output", .list = &out},
		{"random", "SEED", "fill inputs that are not given with numbers in [-1, 1)",
		 .text = &random_text},
		{"function", "NAME", "which function of the program (default: the first)", .text = &name},
		CLI_DEVICE_OPTIONS(d, "ieee"),
	};
	/* clang-format on */
	int first = CLI_PARSE(&cmd_run, rows, argc, argv);
	if (argc - first != 1)
		cli_usage("expected one program, found %d operands", argc - first);
	if (random_text) {
		char *end;
		random = strtoull(random_text, &end, 10);
		if (*end || end == random_text)
			cli_usage("--random: expected a seed, found \"%s\"", random_text);
	}
	binding *ins = bindings("in", &in), *outs = bindings("out", &out);

	an_ctx *ctx = cli_open_ctx(&d);
	an_device *device = cli_open_device(ctx, &d, "ieee");
	an_program *p;
	cli_check(ctx, an_program_read(ctx, argv[first], &p));
	an_function *f = an_program_function(p, name);
	if (!f)
		cli_fail("%s: there is no function \"%s\"", argv[first], name ? name : "main");
	an_executable *e;
	an_call *call;
	cli_check(ctx, an_compile(device, f, &e));
	cli_check(ctx, an_call_new(e, &call));

	an_type t;
	an_buffer *b;
	const char *port;
	for (int i = 0; (port = an_executable_input(e, i, &t)); i++) {
		cli_check(ctx, an_buffer_new(device, &t, &b));
		binding *given = find(ins, in.n, port);
		if (given)
			fill_from_file(ctx, b, port, given->path);
		else if (random_text)
			fill_randomly(b, &random);
		else
			cli_fail("input \"%s\" is missing: give --in %s=FILE.npy or --random SEED", port,
				 port);
		cli_check(ctx, an_call_bind(call, port, b));
	}
	all_used(ins, in.n, "input");
	int noutputs = 0;
	while (an_executable_output(e, noutputs, NULL))
		noutputs++;
	an_buffer **results = cli_alloc((size_t)noutputs, sizeof(an_buffer *));
	binding **files = cli_alloc((size_t)noutputs, sizeof *files);
	for (int i = 0; i < noutputs; i++) {
		port = an_executable_output(e, i, &t);
		cli_check(ctx, an_buffer_new(device, &t, &results[i]));
		cli_check(ctx, an_call_bind(call, port, results[i]));
		files[i] = find(outs, out.n, port);
	}
	all_used(outs, out.n, "output");

	cli_check(ctx, an_call_run(call));
	for (int i = 0; i < noutputs; i++) {
		port = an_executable_output(e, i, NULL);
		if (files[i]) {
			cli_check(ctx, an_npy_write(ctx, files[i]->path, an_buffer_type(results[i]),
						    an_buffer_map(results[i])));
			an_buffer_unmap(results[i]);
		} else if (out.n == 0) {
			describe(results[i], port);
		}
	}

	for (int i = 0; i < in.n; i++)
		free(ins[i].name);
	for (int i = 0; i < out.n; i++)
		free(outs[i].name);
	free(ins);
	free(outs);
	free(in.item);
	free(out.item);
	free(results);
	free(files);
	an_device_close(device);
	an_program_free(p);
	an_ctx_close(ctx);
	return 0;
}
