/* anneal eval: what a text costs under a model. */
#include "cli/cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int run(int argc, char **argv);

const cli_command cmd_eval = {
    .name = "eval",
    .operands = "MODEL_FOLDER [TEXT]",
    .summary = "measure a model on a text, in bits per byte, or write its logits",
    .details = "Windows of --tokens tokens; every token of the text is predicted once.  Bits per byte\n"
	       "compare across tokenizers and with compressors.",
    .example = "anneal eval demo/model demo/valid.txt",
    .run = run,
};

/* Logits of every position: fp32 [n, vocab]. */
static void write_logits(an_ctx *ctx, an_device *device, const cli_trained *m, const char *ids_text,
			 const char *path)
{
	int32_t vocab = an_model_config(m->model)->vocab;
	size_t n;
	int32_t *ids = cli_ids("ids", ids_text, vocab, &n);
	if (n > (size_t)an_model_config(m->model)->seq)
		cli_fail("--ids: %zu tokens; the model's context has %d", n, an_model_config(m->model)->seq);
	an_generator *g;
	cli_check(ctx, an_generator_new(device, m->model, m->weights, an_model_config(m->model)->seq, &g));
	float *logits = cli_alloc(n * (size_t)vocab, sizeof *logits);
	for (size_t i = 0; i < n; i++) {
		cli_progress("computing logits", (double)i / (double)n);
		cli_check(ctx, an_generator_feed(g, &ids[i], 1));
		memcpy(logits + i * (size_t)vocab, an_generator_logits(g), (size_t)vocab * sizeof *logits);
	}
	cli_status_clear();
	an_type t = an_tensor(AN_FP32, 2, (int32_t[]){(int32_t)n, vocab});
	cli_check(ctx, an_npy_write(ctx, path, &t, logits));
	an_generator_free(g);
	free(logits);
	free(ids);
}

static bool progress(void *what, double share)
{
	cli_progress(what, share);
	return true;
}

static void measure(an_ctx *ctx, an_device *device, const cli_trained *m, const char *path, int tokens,
		    bool json)
{
	size_t len, n;
	uint8_t *text = cli_read(path, &len);
	int32_t *ids;
	int64_t invalid;
	cli_check(ctx, an_encode_progress(m->tokenizer, text, len, cli_progress, "encoding the text", &ids,
					  &n, &invalid));
	/* the end of a text before it, where there is one, so that its first token is predicted too */
	int32_t end = an_tokenizer_end(m->tokenizer);
	size_t before = end >= 0;
	int32_t *all = cli_alloc(n + before, sizeof *all);
	all[0] = end;
	memcpy(all + before, ids, n * sizeof *ids);
	an_tokens *data;
	cli_check(ctx, an_tokens_copy(ctx, all, n + before, an_model_config(m->model)->vocab, &data));
	double loss;
	int64_t count;
	an_evaluate_options opt = {.tokens = tokens, .report = progress, .user = "measuring the text"};
	cli_check(ctx, an_evaluate(device, m->model, m->weights, data, &opt, &loss, &count));
	cli_status_clear();
	/* without such a token the first one's bytes come free; they are not counted then */
	double bytes = (double)an_tokens_bytes(data, 1, n + before - 1, m->tokenizer);
	double bits = loss * (double)count / log(2) / bytes;
	if (json) {
		printf("{\"model\": ");
		cli_json_text(stdout, m->folder);
		printf(", \"text\": ");
		cli_json_text(stdout, path);
		printf(", \"bytes\": %zu, \"tokens\": %lld, \"nats_per_token\": ", len, (long long)count);
		cli_json_number(stdout, loss);
		printf(", \"bits_per_byte\": ");
		cli_json_number(stdout, bits);
		printf("}\n");
	} else {
		printf("%s: %.4f bits per byte, %.4f nats per token (%lld tokens, %zu bytes)\n", path, bits,
		       loss, (long long)count, len);
	}
	an_tokens_close(data);
	an_ids_free(ctx, ids, n);
	free(all);
	free(text);
}

static int run(int argc, char **argv)
{
	cli_device d = {0};
	const char *ids = NULL, *logits = NULL;
	int tokens = 0;
	bool json = false;
	/* clang-format off */
	const cli_option rows[] = {
		{"tokens", "N", "tokens per window (default: the model's context)", 2, 1 << 20, .i = &tokens},
		{"json", NULL, "a JSON object", .flag = &json},
		{"ids", "I,J,...", "token ids to compute logits of, instead of a text", .text = &ids},
		{"logits", "FILE.npy", "where to write them: fp32 [ids, vocabulary]", .text = &logits},
		CLI_DEVICE_OPTIONS(d, "ieee"),
	};
	/* clang-format on */
	int first = CLI_PARSE(&cmd_eval, rows, argc, argv);
	if (argc - first < 1)
		cli_usage("no model folder given");
	if (!ids != !logits)
		cli_usage("--ids and --logits go together");
	if (argc - first != (ids ? 1 : 2))
		cli_usage(ids ? "--ids takes the place of the text" : "expected a model folder and one text");

	an_ctx *ctx = cli_open_ctx(&d);
	an_device *device = cli_open_device(ctx, &d, "ieee");
	cli_trained m = cli_open_model(ctx, argv[first], !ids);
	if (tokens > an_model_config(m.model)->seq)
		cli_fail("--tokens %d: the model's context has %d", tokens, an_model_config(m.model)->seq);
	if (ids)
		write_logits(ctx, device, &m, ids, logits);
	else
		measure(ctx, device, &m, argv[first + 1], tokens ? tokens : an_model_config(m.model)->seq,
			json);
	cli_close_model(&m);
	an_device_close(device);
	an_ctx_close(ctx);
	return 0;
}
