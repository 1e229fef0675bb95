/* anneal plan: what one training step is made of. */
#include "cli/cli.h"

#include <string.h>

static int run(int argc, char **argv);

const cli_command cmd_plan = {
    .name = "plan",
    .operands = "",
    .summary = "list a training step: device programs and host operations, FLOPs, bytes, memory",
    .details = "FLOPs are 2*M*N*K over the contractions.  The trainer executes exactly this list;\n"
	       "entries marked \"update\" run once per update, the others once per micro-batch.  Of a\n"
	       "program's bytes are in: activations read, weights: parameters read, out: what it returns.\n"
	       "--split six is a layer as published for the Neural Engine: six programs, the gradients\n"
	       "of norms and matrices on the host.",
    .example = "anneal plan --preset layer768 --split six",
    .run = run,
};

typedef struct plan {
	const an_plan_entry *entry;
	int n;
	int accumulate;
	const an_chip *chip; /* NULL: no prediction */
	/* sums over one update */
	double flops, bytes, tokens, memory, parameters, predicted;
	int dispatches, compiles, reloads;
} plan;

static bool on_device(const an_plan_entry *e) { return e->host == AN_HOST_NONE; }

/* What the chip would take for a device program, in seconds. */
static double predict(const an_chip *chip, const an_plan_entry *e)
{
	return an_chip_predict(chip, 0, (double)e->flops, (double)e->bytes);
}

static void sum(plan *p)
{
	for (const an_plan_entry *e = p->entry; e < p->entry + p->n; e++) {
		double runs = e->per_update ? 1 : p->accumulate;
		p->flops += runs * (double)e->flops;
		p->bytes += runs * (double)e->bytes;
		p->dispatches += on_device(e);
		p->compiles += e->compiles;
		p->reloads += e->reloads;
		if (p->chip && on_device(e))
			p->predicted += runs * predict(p->chip, e);
	}
}

static const char *quantity(int64_t x) { return x ? cli_quantity((double)x) : "-"; }

static void print(const plan *p)
{
	if (p->chip)
		printf("Times on %s are predicted from published measurements (%s).\n\n", p->chip->name,
		       p->chip->evidence);
	printf("%-32s %-7s %9s %9s %9s %9s %9s  %-7s%s\n", "entry", "runs on", "FLOPs", "bytes", "in",
	       "weights", "out", "once per", p->chip ? "  predicted" : "");
	for (const an_plan_entry *e = p->entry; e < p->entry + p->n; e++) {
		printf("%-32s %-7s %9s %9s", e->name, on_device(e) ? "device" : "host", quantity(e->flops),
		       quantity(e->bytes));
		printf(" %9s %9s %9s  %-7s", quantity(e->in), quantity(e->weights), quantity(e->out),
		       e->per_update ? "update" : "batch");
		if (p->chip && on_device(e))
			printf(" %9.3f ms", 1e3 * predict(p->chip, e));
		putchar('\n');
	}
	printf("\nOne update: %.0f tokens, %d device programs and %d host operations in %d micro-batch%s;\n"
	       "%s FLOPs, %s bytes; %s parameters; peak memory %s bytes.\n",
	       p->tokens, p->dispatches, p->n - p->dispatches, p->accumulate, p->accumulate == 1 ? "" : "es",
	       cli_quantity(p->flops), cli_quantity(p->bytes), cli_quantity(p->parameters),
	       cli_quantity(p->memory));
	if (p->compiles + p->reloads > 0)
		printf("Weights are constants: %d programs are %s in every update.\n",
		       p->compiles + p->reloads, p->compiles ? "compiled" : "reloaded");
	if (p->chip)
		printf("Device programs on %s, predicted: %.1f ms.\n", p->chip->name, 1e3 * p->predicted);
}

static void print_json(const plan *p)
{
	printf("{\"entries\": [");
	for (const an_plan_entry *e = p->entry; e < p->entry + p->n; e++) {
		printf("%s\n  {\"name\": ", e > p->entry ? "," : "");
		cli_json_text(stdout, e->name);
		printf(", \"where\": \"%s\", \"flops\": %lld, \"bytes\": %lld, \"per_update\": %s",
		       on_device(e) ? "device" : "host", (long long)e->flops, (long long)e->bytes,
		       e->per_update ? "true" : "false");
		if (e->in + e->weights + e->out > 0)
			printf(", \"in\": %lld, \"weights\": %lld, \"out\": %lld", (long long)e->in,
			       (long long)e->weights, (long long)e->out);
		if (p->chip && on_device(e)) {
			printf(", \"predicted_seconds\": ");
			cli_json_number(stdout, predict(p->chip, e));
		}
		printf("}");
	}
	printf("\n ],\n \"flops\": %.0f, \"bytes\": %.0f, \"tokens\": %.0f, \"dispatches\": %d, "
	       "\"compiles\": %d, \"reloads\": %d,\n \"parameters\": %.0f, \"memory\": %.0f",
	       p->flops, p->bytes, p->tokens, p->dispatches, p->compiles, p->reloads, p->parameters,
	       p->memory);
	if (p->chip) {
		printf(", \"chip\": \"%s\", \"predicted_seconds\": ", p->chip->name);
		cli_json_number(stdout, p->predicted);
	}
	printf("}\n");
}

static int run(int argc, char **argv)
{
	cli_device d = {0};
	cli_model m = {0};
	cli_cut cut = {0};
	an_train_options opt = {.steps = 1, .batch = 1, .accumulate = 1};
	const char *chip = NULL;
	int32_t vocab = 0;
	bool json = false;
	/* clang-format off */
	const cli_option rows[] = {
		{"batch", "N", "sequences per micro-batch (default 1)", 1, 1 << 16, .i = &opt.batch},
		{"tokens", "N", "tokens per sequence (default: the longest context)", 1, 1 << 20, .i = &opt.tokens},
		{"accumulate", "N", "micro-batches per update (default 1)", 1, 1 << 16, .i = &opt.accumulate},
		{"vocab", "N", "tokens in the vocabulary (default: the preset's)", 1, 1 << 24, .i32 = &vocab},
		CLI_CUT_OPTIONS(cut, opt),
		{.help = "Output"},
		{"chip", "NAME", "predict the times of device programs on a chip, e.g. m1", .text = &chip},
		{"json", NULL, "a JSON object", .flag = &json},
		CLI_MODEL_OPTIONS(m, "tiny"),
		CLI_DEVICE_OPTIONS(d, "fast"),
	};
	/* clang-format on */
	int first = CLI_PARSE(&cmd_plan, rows, argc, argv);
	if (first < argc)
		cli_usage("unexpected operand \"%s\"", argv[first]);
	plan p = {.accumulate = opt.accumulate};
	if (chip && !(p.chip = an_chip_find(chip))) {
		char known[128] = "";
		for (int i = 0; an_chip_at(i); i++)
			snprintf(known + strlen(known), sizeof known - strlen(known), " %s",
				 an_chip_at(i)->name);
		cli_usage("--chip: nothing is known of \"%s\"; known are%s", chip, known);
	}

	an_ctx *ctx = cli_open_ctx(&d);
	an_device *device = cli_open_device(ctx, &d, "fast");
	an_llama_config c = cli_model_config(ctx, &m, "tiny");
	if (vocab)
		c.vocab = vocab;
	an_model *model;
	an_trainer *t;
	cli_check(ctx, an_llama_new(ctx, &c, &model));
	cli_cut_resolve(ctx, model, &cut, &opt);
	cli_check(ctx, an_trainer_plan_only(device, model, &opt, &t));
	p.n = an_trainer_plan(t, &p.entry);
	p.tokens = (double)(opt.tokens ? opt.tokens : c.seq) * opt.batch * opt.accumulate;
	p.parameters = (double)an_model_param_count(model);
	p.memory = (double)an_trainer_memory(t);
	sum(&p);
	if (json)
		print_json(&p);
	else
		print(&p);
	an_trainer_free(t);
	an_model_free(model);
	an_device_close(device);
	an_ctx_close(ctx);
	return 0;
}
