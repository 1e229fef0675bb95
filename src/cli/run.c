/* anneal run: execute a MIL program on arrays. */
#include "cli/arrays.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int run(int argc, char **argv);

const cli_command cmd_run = {
    .name = "run",
    .operands = "PROGRAM.mil",
    .summary = "run a MIL program on NumPy arrays",
    .details = "Arrays are converted to the types of the inputs (round to nearest even); shapes must\n"
	       "be equal.  Without --out, prints what every output looks like.  --stats counts, for\n"
	       "every operation, products of contractions that the arithmetic lost (they are cut off,\n"
	       "or rounded to 0), results that are infinite though no operand is, and results that\n"
	       "vanished: 0 though their terms are not.",
    .example = "anneal run examples/layer.mil --random 1",
    .run = run,
};

static void describe(an_buffer *buffer, const char *name, bool json)
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
	if (json) {
		printf("{\"name\": ");
		cli_json_text(stdout, name);
		printf(", \"type\": \"%s\", \"elements\": %lld, \"finite\": %lld",
		       an_type_text(t, type, sizeof type), (long long)n, (long long)finite);
		const struct {
			const char *name;
			double x;
		} numbers[] = {{"min", min},
			       {"max", max},
			       {"mean", sum / (double)finite},
			       {"rms", sqrt(squares / (double)finite)}};
		for (int i = 0; i < 4; i++) {
			printf(", \"%s\": ", numbers[i].name);
			cli_json_number(stdout, numbers[i].x);
		}
		printf("}");
		an_buffer_unmap(buffer);
		return;
	}
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

/* What the user said about inputs and outputs. */
typedef struct request {
	cli_inputs in;
	cli_bindings out;
	bool json;
} request;

static void execute(an_ctx *ctx, an_device *device, an_executable *e, request *r)
{
	an_call *call;
	an_type t;
	an_buffer *b;
	const char *name;
	cli_check(ctx, an_call_new(e, &call));
	for (int i = 0; (name = an_executable_input(e, i, &t)); i++) {
		cli_check(ctx, an_buffer_new(device, &t, &b));
		cli_input_fill(ctx, &r->in, name, &t, an_buffer_map(b));
		an_buffer_unmap(b);
		cli_check(ctx, an_call_bind(call, name, b));
	}
	cli_bindings_used(&r->in.given, "input");
	int n = 0;
	while (an_executable_output(e, n, NULL))
		n++;
	an_buffer **result = cli_alloc((size_t)n, sizeof(an_buffer *));
	for (int i = 0; i < n; i++) {
		name = an_executable_output(e, i, &t);
		cli_check(ctx, an_buffer_new(device, &t, &result[i]));
		cli_check(ctx, an_call_bind(call, name, result[i]));
		cli_binding_find(&r->out, name);
	}
	cli_bindings_used(&r->out, "output"); /* before anything runs */

	cli_check(ctx, an_call_run(call));
	const char *separator = "{\"outputs\": [\n  ";
	for (int i = 0; i < n; i++) {
		name = an_executable_output(e, i, NULL);
		const cli_binding *file = cli_binding_find(&r->out, name);
		if (file) {
			void *data = an_buffer_map(result[i]);
			cli_check(ctx, an_npy_write(ctx, file->path, an_buffer_type(result[i]), data));
			an_buffer_unmap(result[i]);
		} else if (r->out.n == 0) {
			fputs(r->json ? separator : "", stdout);
			describe(result[i], name, r->json);
			separator = ",\n  ";
		}
	}
	if (r->json)
		printf("%s]", r->out.n ? "{\"outputs\": [" : "");
	free(result);
}

/* What every operation did to its values. */
static void print_stats(an_ctx *ctx, const an_executable *e, const an_function *f, bool json)
{
	an_counts c, all;
	an_value v;
	an_op_description op;
	cli_check(ctx, an_executable_counts(e, -1, &all));
	if (json) {
		printf(",\n \"operations\": [");
	} else {
		putchar('\n');
		cli_counts_heading("operation", 40);
	}
	const char *separator = "";
	for (int i = 0; i < an_function_ops(f); i++) {
		cli_check(ctx, an_executable_counts(e, i, &c));
		if (!c.results || !an_op_info(an_function_op(f, i, &v), &op))
			continue; /* constants and views compute nothing */
		const char *name = v == AN_NO_VALUE ? "" : an_value_name(f, v);
		if (json) {
			printf("%s\n  {\"op\": \"%s\", \"name\": ", separator, op.name);
			cli_json_text(stdout, name);
			printf(", ");
			cli_counts_json(stdout, &c);
			printf("}");
			separator = ",";
		} else {
			char *row = cli_format("%s %s", op.name, name);
			cli_counts_row(row, 40, &c);
			free(row);
		}
	}
	if (json) {
		printf("],\n \"total\": {");
		cli_counts_json(stdout, &all);
		printf("}");
	} else {
		cli_counts_row("total", 40, &all);
	}
}

static void explain(an_ctx *ctx, const an_executable *e)
{
	char *text;
	size_t len;
	cli_check(ctx, an_executable_text(e, &text, &len));
	fwrite(text, 1, len, stdout);
	an_text_free(ctx, text, len);
}

static int run(int argc, char **argv)
{
	cli_device d = {0};
	request r = {0};
	cli_list out = {0};
	const char *name = NULL;
	bool explained = false, stats = false;
	/* clang-format off */
	const cli_option rows[] = {
		CLI_INPUT_OPTIONS(r.in),
		{"out", "NAME=FILE.npy", "where to write an output", .list = &out},
		{"function", "NAME", "which function of the program (default: the first)", .text = &name},
		{"explain", NULL, "print what the program is compiled to, and run nothing", .flag = &explained},
		{"stats", NULL, "print what every operation's arithmetic lost", .flag = &stats},
		{"json", NULL, "print a JSON object", .flag = &r.json},
		CLI_DEVICE_OPTIONS(d, "ieee"),
	};
	/* clang-format on */
	int first = CLI_PARSE(&cmd_run, rows, argc, argv);
	if (explained && (stats || r.json))
		cli_usage("--explain runs nothing: --stats and --json do not go with it");
	if (argc - first != 1)
		cli_usage("expected one program, found %d operands", argc - first);
	r.out = cli_bind("out", &out);
	cli_inputs_open(&r.in);

	an_ctx *ctx = cli_open_ctx(&d);
	an_device *device = cli_open_device(ctx, &d, "ieee");
	an_program *p;
	an_executable *e;
	cli_check(ctx, an_program_read(ctx, argv[first], &p));
	an_function *f = an_program_function(p, name);
	if (!f)
		cli_fail("%s: there is no function \"%s\"", argv[first], name ? name : "main");
	cli_check(ctx, an_compile(device, f, &e));
	if (explained) {
		explain(ctx, e);
	} else {
		cli_check(ctx, an_device_count(device, stats));
		execute(ctx, device, e, &r);
		if (stats)
			print_stats(ctx, e, f, r.json);
		fputs(r.json ? "}\n" : "", stdout);
	}

	an_device_close(device); /* and everything on it */
	an_program_free(p);
	an_ctx_close(ctx);
	cli_inputs_close(&r.in);
	cli_bindings_free(&r.out);
	free(out.item);
	return 0;
}
