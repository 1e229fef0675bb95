/* anneal generate: a model writes. */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

static int run(int argc, char **argv);

const cli_command cmd_generate = {
    .name = "generate",
    .operands = "MODEL_FOLDER",
    .summary = "continue a prompt with a trained model",
    .details =
	"Text appears as it is written.  At the end of the model's context its older half is forgotten.",
    .example = "anneal generate demo/model --prompt \"It was\" --tokens 100 --seed 1",
    .run = run,
};

/* How many bytes at the end of `text` begin a UTF-8 character that is not complete yet: they are held
 * back until the next token.  Bytes that no character begins with are not held. */
static size_t incomplete(const uint8_t *text, size_t n)
{
	for (size_t back = 1; back <= 3 && back <= n; back++) {
		uint8_t c = text[n - back];
		if (c >= 0x80 && c < 0xc0)
			continue; /* within a character: look further back for its first byte */
		size_t length = c >= 0xf0 && c < 0xf8 ? 4 : c >= 0xe0 ? 3 : c >= 0xc0 ? 2 : 1;
		return c < 0xf8 && length > back ? back : 0;
	}
	return 0;
}

typedef struct writer {
	uint8_t *held;
	size_t n, cap;
} writer;

static void put(writer *w, const uint8_t *text, size_t n)
{
	if (n == 0)
		return;
	if (w->n + n > w->cap) {
		w->cap = 2 * (w->n + n);
		w->held = realloc(w->held, w->cap);
		if (!w->held)
			cli_fail("out of memory");
	}
	memcpy(w->held + w->n, text, n);
	w->n += n;
	size_t keep = incomplete(w->held, w->n), out = w->n - keep;
	fwrite(w->held, 1, out, stdout);
	fflush(stdout);
	memmove(w->held, w->held + out, keep);
	w->n = keep;
}

static void finish(writer *w)
{
	if (w->n)
		fwrite(w->held, 1, w->n, stdout);
	putchar('\n');
	free(w->held);
}

/* The prompt's ids, after the end of whatever text came before. */
static int32_t *encode(an_ctx *ctx, const cli_trained *m, const char *prompt, size_t *n)
{
	int32_t *ids = NULL, end = an_tokenizer_end(m->tokenizer);
	size_t count = 0;
	if (*prompt)
		cli_check(ctx,
			  an_encode(m->tokenizer, (const uint8_t *)prompt, strlen(prompt), &ids, &count));
	size_t before = end >= 0;
	if (before + count == 0)
		cli_fail("the tokenizer has no token that begins a text; give a --prompt");
	int32_t *all = cli_alloc(before + count, sizeof *all);
	all[0] = end;
	if (count)
		memcpy(all + before, ids, count * sizeof *ids);
	if (ids)
		an_ids_free(ctx, ids, count);
	*n = before + count;
	return all;
}

static int run(int argc, char **argv)
{
	cli_device d = {0};
	const char *prompt = "", *prompt_ids = NULL;
	int64_t tokens = 200;
	an_sample_options sample = {.temperature = 0.8, .seed = 0};
	bool through = false;
	/* clang-format off */
	const cli_option rows[] = {
		{"prompt", "TEXT", "how the text begins (default: a beginning)", .text = &prompt},
		{"prompt-ids", "I,J,...", "the same as token ids", .text = &prompt_ids},
		{"tokens", "N", "tokens to write at most (default 200)", 1, 1e9, .i64 = &tokens},
		{"temperature", "X", "0 takes the likeliest token (default 0.8)", 0, 100,
		 .real = &sample.temperature},
		{"top-k", "N", "choose among the N likeliest (default: all)", 0, 1 << 24, .i = &sample.top_k},
		{"top-p", "X", "choose among the likeliest that make up X (default: all)", 0, 1,
		 .real = &sample.top_p},
		{"seed", "N", "the same seed writes the same text (default 0)", .u64 = &sample.seed},
		{"through-end", NULL, "go on after the end of a text", .flag = &through},
		CLI_DEVICE_OPTIONS(d, "fast"),
	};
	/* clang-format on */
	int first = CLI_PARSE(&cmd_generate, rows, argc, argv);
	if (argc - first != 1)
		cli_usage("expected one model folder, found %d operands", argc - first);
	if (prompt_ids && *prompt)
		cli_usage("--prompt and --prompt-ids exclude each other");

	an_ctx *ctx = cli_open_ctx(&d);
	an_device *device = cli_open_device(ctx, &d, "fast");
	cli_trained m = cli_open_model(ctx, argv[first], true);
	size_t context = (size_t)an_model_config(m.model)->seq, n;
	int32_t *ids = prompt_ids ? cli_ids("prompt-ids", prompt_ids, an_model_config(m.model)->vocab, &n)
				  : encode(ctx, &m, prompt, &n);
	size_t skip = n > context ? n - context : 0; /* of a prompt too long the end counts */
	an_generator *g;
	cli_check(ctx, an_generator_new(device, m.model, m.weights, (int)context, &g));
	cli_check(ctx, an_generator_feed(g, ids + skip, n - skip));

	writer w = {0};
	put(&w, (const uint8_t *)prompt, strlen(prompt));
	int32_t end = an_tokenizer_end(m.tokenizer);
	for (int64_t i = 0; i < tokens && !ferror(stdout); i++) {
		int32_t id = an_generator_sample(g, &sample);
		if (id == end && !through)
			break;
		size_t len = 0;
		const uint8_t *text = an_token_bytes(m.tokenizer, id, &len);
		if (text)
			put(&w, text, len);
		if (i + 1 == tokens)
			break;
		if (an_generator_length(g) == context)
			cli_check(ctx, an_generator_slide(g, context / 2));
		cli_check(ctx, an_generator_feed(g, &id, 1));
	}
	finish(&w);
	free(ids);
	an_generator_free(g);
	cli_close_model(&m);
	an_device_close(device);
	an_ctx_close(ctx);
	return 0;
}
