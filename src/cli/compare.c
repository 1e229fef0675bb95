/* anneal compare: where two devices, or two profiles, differ on a program. */
#include "cli/arrays.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int run(int argc, char **argv);

const cli_command cmd_compare = {
    .name = "compare",
    .operands = "A B PROGRAM.mil",
    .summary = "run a program in two profiles, or on two devices, and say where they differ",
    .details =
	"A and B are numerics of the software engine (ieee, m4, m4,reduce=tiled, ...) or devices (soft,\n"
	"ane, ane:objc, auto).  For every output: how many elements are equal, the distances of the others\n"
	"in units in the last place, and relative errors.  Then the first operation whose result differs,\n"
	"and the one that differs most by itself: when both compute it from the values that A has.",
    .example = "anneal compare ieee m4 examples/layer.mil --random 1",
    .run = run,
};

/* ---- Words ------------------------------------------------------------------------------- */

static const char *share(const an_difference *d)
{
	static char text[32];
	snprintf(text, sizeof text, "%.4g%%", d->count ? 100 * (double)d->equal / (double)d->count : 100);
	return text;
}

static void print_bins(const an_difference *d)
{
	printf("    ulp");
	for (int i = 0; i < AN_ULP_BINS; i++) {
		uint64_t low, high;
		an_ulp_bin(i, &low, &high);
		if (!d->ulp[i])
			continue;
		if (low == high)
			printf("  %llu: ", (unsigned long long)low);
		else if (high == UINT64_MAX)
			printf("  %llu-: ", (unsigned long long)low);
		else
			printf("  %llu-%llu: ", (unsigned long long)low, (unsigned long long)high);
		printf("%lld", (long long)d->ulp[i]);
	}
	putchar('\n');
}

static void print_difference(const an_difference *d)
{
	if (d->equal == d->count)
		return;
	print_bins(d);
	printf("    relative error: largest %.3g, rms %.3g\n", d->largest, d->rms);
	if (d->nan + d->infinite)
		printf("    NaN on one side: %lld, infinite on one side: %lld\n", (long long)d->nan,
		       (long long)d->infinite);
	if (d->sign)
		printf("    zeros of opposite sign: %lld\n", (long long)d->sign);
}

static void print_value(const char *what, const an_compared *v, const an_difference *d)
{
	char type[128];
	printf("%s: %s %s, %s", what, v->op, v->name, an_type_text(&v->type, type, sizeof type));
	if (v->line > 0)
		printf(", line %d", v->line);
	printf(": %lld of %lld equal (%s)\n", (long long)d->equal, (long long)d->count, share(d));
	print_difference(d);
}

/* Every operation in a line: what differs so far, and what it adds. */
static void print_values(const an_comparison *c)
{
	printf("\n%-40s %22s %22s\n%-40s %9s %12s %9s %12s\n", "", "from the inputs", "from A's values",
	       "operation", "unequal", "rms", "unequal", "rms");
	for (const an_compared *v = c->values; v < c->values + c->nvalues; v++) {
		char *row = cli_format("%s %s", v->op, v->name);
		printf("%-40s %9lld %12.3g %9lld %12.3g\n", row, (long long)(v->all.count - v->all.equal),
		       v->all.rms, (long long)(v->own.count - v->own.equal), v->own.rms);
		free(row);
	}
}

static void print_text(const an_comparison *c, bool ops)
{
	char type[128];
	for (const an_compared *v = c->outputs; v < c->outputs + c->noutputs; v++) {
		printf("%s: %s: %lld of %lld equal (%s)\n", v->name,
		       an_type_text(&v->type, type, sizeof type), (long long)v->all.equal,
		       (long long)v->all.count, share(&v->all));
		print_difference(&v->all);
	}
	if (c->first >= 0)
		print_value("first difference", &c->values[c->first], &c->values[c->first].all);
	if (c->worst >= 0)
		print_value("largest of its own, from A's values", &c->values[c->worst],
			    &c->values[c->worst].own);
	if (c->disturbed)
		printf("note: making values outputs changed outputs on one side, which rounds differently "
		       "what it "
		       "keeps inside; the operations above were seen so\n");
	if (ops)
		print_values(c);
}

/* ---- JSON -------------------------------------------------------------------------------- */

static void json_difference(const char *key, const an_difference *d)
{
	printf(
	    ", \"%s\": {\"count\": %lld, \"equal\": %lld, \"nan\": %lld, \"infinite\": %lld, \"sign\": %lld, "
	    "\"ulp\": {",
	    key, (long long)d->count, (long long)d->equal, (long long)d->nan, (long long)d->infinite,
	    (long long)d->sign);
	for (int i = 0; i < AN_ULP_BINS; i++) {
		uint64_t low, high;
		an_ulp_bin(i, &low, &high);
		printf("%s\"%llu\": %lld", i ? ", " : "", (unsigned long long)low, (long long)d->ulp[i]);
	}
	printf("}, \"largest_ulp\": %llu, \"largest\": ", (unsigned long long)d->largest_ulp);
	cli_json_number(stdout, d->largest);
	printf(", \"rms\": ");
	cli_json_number(stdout, d->rms);
	printf("}");
}

static void json_value(const an_compared *v, bool own)
{
	char type[128];
	printf("{\"name\": ");
	cli_json_text(stdout, v->name);
	printf(", \"op\": \"%s\", \"index\": %d, \"line\": %d, \"type\": \"%s\"", v->op, v->index, v->line,
	       an_type_text(&v->type, type, sizeof type));
	json_difference("all", &v->all);
	if (own)
		json_difference("own", &v->own);
	printf("}");
}

static void json_values(const char *key, const an_compared *v, int n, bool own)
{
	printf("\"%s\": [", key);
	for (int i = 0; i < n; i++) {
		printf(i ? ",\n  " : "\n  ");
		json_value(&v[i], own);
	}
	printf("]");
}

static void print_json(const char *a, const char *b, const an_comparison *c, bool ops)
{
	printf("{\"a\": ");
	cli_json_text(stdout, a);
	printf(", \"b\": ");
	cli_json_text(stdout, b);
	printf(",\n ");
	json_values("outputs", c->outputs, c->noutputs, false);
	const int found[] = {c->first, c->worst};
	for (int i = 0; i < 2; i++) {
		printf(",\n \"%s\": ", i ? "worst" : "first");
		if (found[i] < 0)
			printf("null");
		else
			json_value(&c->values[found[i]], true);
	}
	printf(",\n \"disturbed\": %s", c->disturbed ? "true" : "false");
	if (ops) {
		printf(",\n ");
		json_values("operations", c->values, c->nvalues, true);
	}
	printf("}\n");
}

/* ---- The command -------------------------------------------------------------------------- */

/* Numerics of the software engine, or else a device. */
static an_device *open_side(an_ctx *ctx, const cli_device *given, const char *name)
{
	an_device *d;
	an_status s = an_device_open(ctx, &(an_device_options){.numerics = name}, &d);
	if (s == AN_USAGE) {
		char *why = cli_format("%s", an_message(ctx));
		s = an_device_open(ctx,
				   &(an_device_options){
				       .name = name, .quirks = given->quirks, .libraries = given->libraries},
				   &d);
		if (s == AN_USAGE)
			cli_usage("\"%s\" is neither numerics nor a device: %s; %s", name, why,
				  an_message(ctx));
		free(why);
	}
	cli_check(ctx, s);
	return d;
}

static void progress(void *user, int done, int total)
{
	(void)user;
	cli_status(false, "%d of %d operations", done, total);
}

static int run(int argc, char **argv)
{
	cli_device d = {0};
	cli_inputs in = {0};
	const char *name = NULL;
	bool ops = false, json = false;
	an_compare_options opt = {.progress = progress};
	/* clang-format off */
	const cli_option rows[] = {
		CLI_INPUT_OPTIONS(in),
		{"function", "NAME", "which function of the program (default: the first)", .text = &name},
		{"outputs-only", NULL, "do not look for the operations that differ", .flag = &opt.outputs_only},
		{"ops", NULL, "print every operation", .flag = &ops},
		{"json", NULL, "print a JSON object", .flag = &json},
		CLI_ENGINE_OPTIONS(d),
	};
	/* clang-format on */
	int first = CLI_PARSE(&cmd_compare, rows, argc, argv);
	if (argc - first != 3)
		cli_usage("expected A, B and a program, found %d operand%s", argc - first,
			  argc - first == 1 ? "" : "s");
	if (ops && opt.outputs_only)
		cli_usage("--ops needs what --outputs-only leaves out");
	cli_inputs_open(&in);

	an_ctx *ctx = cli_open_ctx(&d);
	an_device *a = open_side(ctx, &d, argv[first]), *b = open_side(ctx, &d, argv[first + 1]);
	an_program *p;
	cli_check(ctx, an_program_read(ctx, argv[first + 2], &p));
	an_function *f = an_program_function(p, name);
	if (!f)
		cli_fail("%s: there is no function \"%s\"", argv[first + 2], name ? name : "main");
	int n = an_function_inputs(f);
	void **data = cli_alloc((size_t)n, sizeof *data);
	for (int i = 0; i < n; i++) {
		an_value v = an_function_input(f, i);
		const an_type *t = an_value_type(f, v);
		data[i] = cli_alloc((size_t)an_type_count(t), an_dtype_size((an_dtype)t->dtype));
		cli_input_fill(ctx, &in, an_value_name(f, v), t, data[i]);
	}
	cli_bindings_used(&in.given, "input");
	an_comparison *c;
	cli_check(ctx, an_compare(a, b, f, (const void *const *)data, &opt, &c));
	cli_status_clear();
	if (json)
		print_json(argv[first], argv[first + 1], c, ops);
	else
		print_text(c, ops);

	an_comparison_free(ctx, c);
	for (int i = 0; i < n; i++)
		free(data[i]);
	free(data);
	an_device_close(a);
	an_device_close(b);
	an_program_free(p);
	an_ctx_close(ctx);
	cli_inputs_close(&in);
	return 0;
}
