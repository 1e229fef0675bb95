#include "cli/prepare.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct document {
	const uint8_t *text;
	size_t len;
} document;

/* Documents in order; those from `cut` on are for validation. */
typedef struct corpus {
	document *doc;
	int n, cut;
	uint8_t **owned; /* the files */
	int nowned;
	size_t bytes, valid_bytes;
} corpus;

static void add(corpus *c, const uint8_t *text, size_t len) { c->doc[c->n++] = (document){text, len}; }

/* Divides the texts so that the last `share` of their bytes, from the beginning of a character on, is
 * for validation. */
static void divide(corpus *c, const size_t *len, int n, double share)
{
	size_t total = 0;
	for (int i = 0; i < n; i++)
		total += len[i];
	size_t left = total - (size_t)((double)total * share);
	c->cut = -1;
	for (int i = 0; i < n; i++) {
		const uint8_t *text = c->owned[i];
		size_t here = left < len[i] ? left : len[i];
		while (here < len[i] && text[here] >= 0x80 && text[here] < 0xc0)
			here++;
		if (here)
			add(c, text, here);
		if (here < len[i]) {
			if (c->cut < 0)
				c->cut = c->n;
			add(c, text + here, len[i] - here);
		}
		left -= left < len[i] ? left : len[i];
	}
	if (c->cut < 0)
		c->cut = c->n;
}

static corpus read_corpus(const prepare_options *opt)
{
	corpus c = {0};
	int n = opt->ntexts;
	c.owned = cli_alloc((size_t)n + 1, sizeof *c.owned);
	c.doc = cli_alloc(2 * (size_t)n + 2, sizeof *c.doc);
	size_t *len = cli_alloc((size_t)n, sizeof *len), valid_len;
	for (int i = 0; i < n; i++)
		c.owned[i] = cli_read(opt->texts[i], &len[i]);
	divide(&c, len, n, opt->valid ? 0 : opt->valid_share);
	c.nowned = n;
	if (opt->valid) {
		c.owned[c.nowned++] = cli_read(opt->valid, &valid_len);
		add(&c, c.owned[n], valid_len);
	}
	for (int i = 0; i < c.n; i++) {
		c.bytes += c.doc[i].len;
		c.valid_bytes += i >= c.cut ? c.doc[i].len : 0;
	}
	free(len);
	return c;
}

static void free_corpus(corpus *c)
{
	for (int i = 0; i < c->nowned; i++)
		free(c->owned[i]);
	free(c->owned);
	free(c->doc);
}

static an_tokenizer *train_tokenizer(an_ctx *ctx, const corpus *c, int32_t vocab)
{
	/* one document is trained on where it lies, several are put together */
	document all = c->doc[0];
	uint8_t *joined = NULL;
	if (c->cut > 1) {
		joined = cli_alloc(c->bytes, 1);
		all = (document){joined, 0};
		for (int i = 0; i < c->cut; i++) {
			memcpy(joined + all.len, c->doc[i].text, c->doc[i].len);
			all.len += c->doc[i].len;
		}
	}
	an_bpe_options bpe = {vocab, cli_progress, "training the tokenizer"};
	an_tokenizer *t;
	int64_t invalid;
	cli_check(ctx, an_bpe_train(ctx, all.text, all.len, &bpe, &t, &invalid));
	if (an_tokenizer_vocab(t) < vocab)
		cli_status(true, "the text has use for only %d of the %d tokens asked for",
			   an_tokenizer_vocab(t), vocab);
	free(joined);
	return t;
}

typedef struct ids {
	int32_t *id;
	size_t n;
} ids;

/* Documents [begin, end) as ids; counts bytes outside valid UTF-8. */
static ids encode(an_ctx *ctx, const an_tokenizer *t, const corpus *c, int begin, int end, int64_t *invalid)
{
	ids all = {0};
	for (int i = begin; i < end; i++) {
		int32_t *id;
		size_t n, before = an_tokenizer_end(t) >= 0;
		int64_t bad;
		cli_check(ctx, an_encode_progress(t, c->doc[i].text, c->doc[i].len, cli_progress,
						  "encoding the text", &id, &n, &bad));
		*invalid += bad;
		all.id = realloc(all.id, (all.n + before + n + 1) * sizeof *all.id);
		if (!all.id)
			cli_fail("out of memory");
		if (before)
			all.id[all.n++] = an_tokenizer_end(t);
		memcpy(all.id + all.n, id, n * sizeof *id);
		all.n += n;
		an_ids_free(ctx, id, n);
	}
	return all;
}

/* What the token files were made from, as JSON, for people and scripts; written last, so that its
 * presence says that the others are complete. */
static void describe(const prepare_options *opt, const corpus *c, const char *path, int32_t vocab,
		     const ids *train, const ids *valid)
{
	char *beside = cli_format("%s.tmp-%ld", path, (long)getpid());
	FILE *f = fopen(beside, "w");
	if (!f)
		cli_fail("%s: cannot write: %s", path, strerror(errno));
	fprintf(f, "{\n  \"texts\": [");
	for (int i = 0; i < opt->ntexts; i++) {
		fputs(i ? ", " : "", f);
		cli_json_text(f, opt->texts[i]);
	}
	fprintf(f, "],\n  \"valid\": ");
	if (opt->valid)
		cli_json_text(f, opt->valid);
	else
		fprintf(f, "null");
	fprintf(f,
		",\n  \"train_bytes\": %zu,\n  \"valid_bytes\": %zu,\n  \"train_tokens\": %zu,\n  "
		"\"valid_tokens\": %zu,\n"
		"  \"vocab\": %d\n}\n",
		c->bytes - c->valid_bytes, c->valid_bytes, train->n, valid->n, vocab);
	bool ok = fflush(f) == 0 && fsync(fileno(f)) == 0;
	ok &= fclose(f) == 0;
	if (!ok || rename(beside, path) != 0) {
		int e = errno;
		unlink(beside);
		cli_fail("%s: cannot write: %s", path, strerror(e));
	}
	free(beside);
}

static prepared open_files(an_ctx *ctx, an_tokenizer *t, const char *train, const char *valid)
{
	prepared p = {.tokenizer = t};
	int32_t vocab = an_tokenizer_vocab(t);
	int width = vocab <= 65536 ? 2 : 4;
	cli_check(ctx, an_tokens_open(ctx, train, width, vocab, &p.train));
	if (access(valid, F_OK) == 0) {
		cli_check(ctx, an_tokens_open(ctx, valid, width, vocab, &p.valid));
		p.valid_bytes = an_tokens_bytes(p.valid, 0, an_tokens_count(p.valid), t);
	}
	return p;
}

prepared prepare(an_ctx *ctx, const prepare_options *opt)
{
	char *tokenizer = cli_format("%s/tokenizer.json", opt->dir),
	     *train = cli_format("%s/train.bin", opt->dir);
	char *valid = cli_format("%s/valid.bin", opt->dir), *about = cli_format("%s/data.json", opt->dir);
	an_tokenizer *t;
	if (opt->reuse && access(about, F_OK) == 0) {
		cli_check(ctx, an_tokenizer_load(ctx, tokenizer, &t));
	} else {
		if (opt->ntexts == 0)
			cli_usage("no text given");
		corpus c = read_corpus(opt);
		if (c.cut == 0)
			cli_fail("--valid-share leaves nothing to train on");
		if (opt->tokenizer)
			cli_check(ctx, an_tokenizer_load(ctx, opt->tokenizer, &t));
		else
			t = train_tokenizer(ctx, &c, opt->vocab);
		int64_t invalid = 0;
		ids a = encode(ctx, t, &c, 0, c.cut, &invalid), b = encode(ctx, t, &c, c.cut, c.n, &invalid);
		if (invalid)
			cli_status(true,
				   "warning: %lld bytes of the text are not valid UTF-8; they are trained on "
				   "as bytes",
				   (long long)invalid);
		if (a.n <= (size_t)opt->seq)
			cli_fail("%s: the text is too short: %zu tokens to train on, one sequence and the "
				 "token after it "
				 "are %d; give more text or a smaller --seq",
				 opt->texts[0], a.n, opt->seq + 1);
		if (c.cut < c.n && b.n < 2)
			cli_fail("the validation text is too short: %zu tokens", b.n);
		int32_t vocab = an_tokenizer_vocab(t);
		int width = vocab <= 65536 ? 2 : 4;
		cli_make_dir(opt->dir);
		unlink(about);
		unlink(valid);
		cli_check(ctx, an_tokenizer_save(t, tokenizer));
		cli_check(ctx, an_tokens_write(ctx, train, a.id, a.n, width));
		if (b.n)
			cli_check(ctx, an_tokens_write(ctx, valid, b.id, b.n, width));
		describe(opt, &c, about, vocab, &a, &b);
		free(a.id);
		free(b.id);
		free_corpus(&c);
	}
	prepared p = open_files(ctx, t, train, valid);
	free(tokenizer);
	free(train);
	free(valid);
	free(about);
	return p;
}

void prepared_free(prepared *p)
{
	an_tokens_close(p->train);
	an_tokens_close(p->valid);
	an_tokenizer_free(p->tokenizer);
}
