/* anneal plan: what one training step is made of. */
#include "cli/cli.h"

#include <string.h>

static int run(int argc, char **argv);

const cli_command cmd_plan = {
    .name = "plan",
    .operands = "",
    .summary = "list a training step: device programs and host operations, FLOPs, bytes, memory",
    .details = "FLOPs are 2*M*N*K over the contractions.  The trainer executes exactly this list; entries "
	       "marked \"update\"\n"
	       "run once per update, the others once per micro-batch.",
    .example = "anneal plan --preset layer768",
    .run = run,
};

typedef struct sums {
	double flops, bytes; /* of a whole update */
	int entries, dispatches;
} sums;

static void print(const an_plan_entry *e)
{
	printf("%-34s %-7s %12s %12s  %s\n", e->name, e->host == AN_HOST_NONE ? "device" : "host",
	       e->flops ? cli_quantity((double)e->flops) : "-", cli_quantity((double)e->bytes),
	       e->per_update ? "update" : "");
}

static void print_json(const an_plan_entry *e, bool comma)
{
	printf("%s{\"name\": ", comma ? ",\n  " : "\n  ");
	cli_json_text(stdout, e->name);
	printf(", \"where\": \"%s\", \"flops\": %lld, \"bytes\": %lld, \"per_update\": %s}",
	       e->host == AN_HOST_NONE ? "device" : "host", (long long)e->flops, (long long)e->bytes,
	       e->per_update ? "true" : "false");
}

static int run(int argc, char **argv)
{
	cli_device d = {0};
	cli_model m = {0};
	an_train_options opt = {.steps = 1};
	int32_t vocab = 0;
	bool json = false;
	const cli_option rows[] = {
	    {"batch", "N", "sequences per micro-batch (default 1)", 1, 1 << 16, .i = &opt.batch},
	    {"tokens", "N", "tokens per sequence (default: the longest context)", 1, 1 << 20,
	     .i = &opt.tokens},
	    {"accumulate", "N", "micro-batches per update (default 1)", 1, 1 << 16, .i = &opt.accumulate},
	    {"vocab", "N", "tokens in the vocabulary (default: the preset's)", 1, 1 << 24, .i32 = &vocab},
	    {"json", NULL, "a JSON object", .flag = &json},
	    CLI_MODEL_OPTIONS(m, "tiny"),
	    CLI_DEVICE_OPTIONS(d, "fast"),
	};
	int first = CLI_PARSE(&cmd_plan, rows, argc, argv);
	if (first < argc)
		cli_usage("unexpected operand \"%s\"", argv[first]);
	an_ctx *ctx = cli_open_ctx(&d);
	an_device *device = cli_open_device(ctx, &d, "fast");
	an_llama_config c = cli_model_config(ctx, &m, "tiny");
	if (vocab)
		c.vocab = vocab;
	an_model *model;
	an_trainer *t;
	cli_check(ctx, an_llama_new(ctx, &c, &model));
	cli_check(ctx, an_trainer_plan_only(device, model, &opt, &t));

	const an_plan_entry *e;
	sums s = {.entries = an_trainer_plan(t, &e)};
	int accumulate = opt.accumulate ? opt.accumulate : 1;
	if (json)
		printf("{\"entries\": [");
	else
		printf("%-34s %-7s %12s %12s\n", "entry", "runs on", "FLOPs", "bytes");
	for (int i = 0; i < s.entries; i++) {
		double runs = e[i].per_update ? 1 : accumulate;
		s.flops += runs * (double)e[i].flops;
		s.bytes += runs * (double)e[i].bytes;
		s.dispatches += e[i].host == AN_HOST_NONE;
		if (json)
			print_json(&e[i], i > 0);
		else
			print(&e[i]);
	}
	double tokens = (double)(opt.tokens ? opt.tokens : c.seq) * (opt.batch ? opt.batch : 1) * accumulate;
	double memory = (double)an_trainer_memory(t);
	if (json)
		printf("\n ],\n \"flops\": %.0f, \"bytes\": %.0f, \"tokens\": %.0f, \"dispatches\": %d, "
		       "\"parameters\": %lld,\n \"memory\": %.0f}\n",
		       s.flops, s.bytes, tokens, s.dispatches, (long long)an_model_param_count(model),
		       memory);
	else
		printf("\nOne update: %.0f tokens, %d device programs and %d host operations per micro-batch "
		       "and "
		       "update,\n%s FLOPs, %s bytes; %s parameters; peak memory %s bytes.\n",
		       tokens, s.dispatches, s.entries - s.dispatches, cli_quantity(s.flops),
		       cli_quantity(s.bytes), cli_quantity((double)an_model_param_count(model)),
		       cli_quantity(memory));
	an_trainer_free(t);
	an_model_free(model);
	an_device_close(device);
	an_ctx_close(ctx);
	return 0;
}
