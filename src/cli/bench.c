/* anneal bench: the library's measurements as tables or JSON. */
#include "cli/cli.h"

#include <math.h>
#include <string.h>

static int run(int argc, char **argv);

const cli_command cmd_bench = {
    .name = "bench",
    .operands = "limits|gemm|layer|train|decode",
    .summary = "measure speed, against the limits that the machine has",
    .details = "Medians of at least 5 runs on random data, with the distance of the quartiles as spread.\n"
	       "A row is marked noisy if other work had the processors for more than 3% of the time.\n"
	       "The peak is the fastest floating-point unit that the instruction sets in use have.",
    .example = "anneal bench limits",
    .run = run,
};

typedef struct output {
	bool json;
	char table[64]; /* that is being written */
	int rows;       /* of it */
} output;

static void progress(void *user, const char *text)
{
	(void)user;
	cli_status(false, "measuring: %s", text);
}

static void json_row(output *o, const char *table, const an_bench_cell *cell, int n)
{
	if (strcmp(table, o->table) != 0) {
		printf("%s\n \"%s\": [", o->table[0] ? "]," : "", table);
		o->rows = 0;
	}
	printf("%s\n  {", o->rows ? "," : "");
	for (int i = 0; i < n; i++) {
		printf("%s\"%s\": ", i ? ", " : "", cell[i].name);
		if (cell[i].kind == AN_BENCH_TEXT)
			cli_json_text(stdout, cell[i].text);
		else if (cell[i].kind == AN_BENCH_FLAG)
			fputs(cell[i].number != 0 ? "true" : "false", stdout);
		else
			cli_json_number(stdout, cell[i].number);
	}
	putchar('}');
}

static void heading(const an_bench_cell *cell, int n)
{
	for (int i = 0; i < n; i++)
		if (cell[i].heading && cell[i].kind != AN_BENCH_FLAG)
			printf("%*s ", cell[i].kind == AN_BENCH_TEXT ? -cell[i].width : cell[i].width,
			       cell[i].heading);
	putchar('\n');
}

static void text_row(output *o, const char *table, const an_bench_cell *cell, int n)
{
	cli_status_clear();
	if (strcmp(table, o->table) != 0) {
		printf("%s", *o->table ? "\n" : "");
		heading(cell, n);
	}
	for (int i = 0; i < n; i++) {
		const an_bench_cell *c = &cell[i];
		if (!c->heading)
			continue;
		if (c->kind == AN_BENCH_TEXT)
			printf("%-*s ", c->width, c->text);
		else if (c->kind == AN_BENCH_FLAG)
			printf("%s", c->number != 0 ? c->heading : "");
		else if (isnan(c->number))
			printf("%*s ", c->width, "-");
		else
			printf("%*.*f ", c->width, c->digits, c->number);
	}
	putchar('\n');
	fflush(stdout);
}

static void row(void *user, const char *table, const an_bench_cell *cell, int n)
{
	output *o = user;
	(o->json ? json_row : text_row)(o, table, cell, n);
	snprintf(o->table, sizeof o->table, "%s", table);
	o->rows++;
}

static int run(int argc, char **argv)
{
	cli_device d = {0};
	output o = {0};
	an_bench_options opt = {.row = row, .progress = progress, .user = &o};
	/* clang-format off */
	const cli_option rows[] = {
		{"json", NULL, "a JSON object, one array for each table", .flag = &o.json},
		{"runs", "N", "of every measurement (default 7)", 5, 101, .i = &opt.runs},
		{"time", "SECONDS", "train: no further size is begun after this (default 60)", 0.1, 1e6, .real = &opt.seconds},
		{"model", "NAME", "layer: the preset (default layer768); train, decode: only this one, e.g. stories15m", .text = &opt.model},
		{"tokens", "N", "layer: of the sequence (default: the preset's); train: only sequences of this length", 1, 1 << 20, .i = &opt.tokens},
		{"kernels", NULL, "layer: also the kernels of its programs", .flag = &opt.kernels},
		{"numerics", "PROFILE", "of layer, train and decode (default fast), and of gemm (default fast and ieee)", .text = &opt.numerics},
		{"threads", "N", "worker threads (default: the CPUs there are)", 1, 1024, .i = &d.threads},
		{"isa", "SETS", "instruction sets to use: portable, or avx2,avx512 and so on (default: all)", .text = &d.isa},
	};
	/* clang-format on */
	int first = CLI_PARSE(&cmd_bench, rows, argc, argv);
	if (argc - first != 1)
		cli_usage(first < argc ? "one measurement at a time" : "no measurement given");
	an_ctx *ctx = cli_open_ctx(&d);
	if (o.json)
		putchar('{');
	cli_check_name(ctx, an_bench(ctx, argv[first], &opt));
	cli_status_clear();
	if (o.json)
		printf("]\n}\n");
	an_ctx_close(ctx);
	return 0;
}
