/* Training and encoding against a quadratic reference that follows the definition; losslessness;
 * extremes of size and content. */
#include "anneal/text.h"
#include "base/base.h"
#include "base/random.h"
#include "support/text_temp.h"
#include "text/split.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

static an_ctx *ctx;

static int setup(void **state)
{
	(void)state;
	return an_ctx_open(NULL, &ctx) != AN_OK;
}

static int teardown(void **state)
{
	(void)state;
	an_ctx_close(ctx);
	return 0;
}

static an_tokenizer *train(const void *text, size_t n, int32_t vocab)
{
	an_tokenizer *t;
	an_bpe_options opt = {.vocab = vocab};
	if (an_bpe_train(ctx, text, n, &opt, &t, NULL) != AN_OK)
		fail_msg("%s", an_message(ctx));
	return t;
}

static void check_lossless(const an_tokenizer *t, const uint8_t *text, size_t n)
{
	int32_t *ids;
	size_t k, at = 0;
	if (an_encode(t, text, n, &ids, &k) != AN_OK)
		fail_msg("%s", an_message(ctx));
	for (size_t i = 0; i < k; i++) {
		size_t len;
		const uint8_t *b = an_token_bytes(t, ids[i], &len);
		assert_non_null(b);
		assert_int_not_equal(ids[i], an_tokenizer_end(t));
		assert_true(len <= n - at && memcmp(b, text + at, len) == 0);
		at += len;
	}
	assert_int_equal(at, n);
	an_ids_free(ctx, ids, k);
}

/* ---- The reference -------------------------------------------------------------- */

#define REF_VOCAB 420
#define REF_TEXT  6000

typedef struct reference {
	uint8_t token[REF_VOCAB][REF_TEXT];
	size_t len[REF_VOCAB];
	int vocab;
	int merge[REF_VOCAB][3], merges;         /* left, right, result by rank */
	int symbol[REF_TEXT], word[REF_TEXT], n; /* the text: ids, and which piece each is in */
	int64_t count[REF_VOCAB][REF_VOCAB];
} reference;

static int bytes_before(const reference *r, int a, int b)
{
	size_t n = r->len[a] < r->len[b] ? r->len[a] : r->len[b];
	int c = memcmp(r->token[a], r->token[b], n);
	return c ? c : (int)r->len[a] - (int)r->len[b];
}

static an_status note_piece(void *arg, const uint8_t *p, size_t n)
{
	reference *r = arg;
	int word = r->n ? r->word[r->n - 1] + 1 : 0;
	for (size_t i = 0; i < n; i++, r->n++) {
		r->symbol[r->n] = p[i];
		r->word[r->n] = word;
	}
	return AN_OK;
}

static void apply(reference *r, int left, int right, int id, bool once, int from)
{
	int n = 0;
	bool done = false;
	for (int i = 0; i < r->n; n++) {
		bool here = i >= from && !(once && done) && i + 1 < r->n && r->word[i] == r->word[i + 1] &&
			    r->symbol[i] == left && r->symbol[i + 1] == right;
		r->symbol[n] = here ? id : r->symbol[i];
		r->word[n] = r->word[i];
		i += here ? 2 : 1;
		done |= here;
	}
	r->n = n;
}

static void set_pieces(reference *r, const uint8_t *text, size_t n)
{
	splitter *s;
	r->n = 0;
	assert_int_equal(split_new(ctx, &s), AN_OK);
	assert_int_equal(split_add(s, SPLIT_GPT2), AN_OK);
	assert_int_equal(split_text(s, text, n, note_piece, r, NULL), AN_OK);
	split_free(s);
}

static void ref_train(reference *r, const uint8_t *text, size_t n, int vocab)
{
	r->vocab = 256;
	r->merges = 0;
	for (int i = 0; i < 256; i++) {
		r->token[i][0] = (uint8_t)i;
		r->len[i] = 1;
	}
	set_pieces(r, text, n);
	while (r->vocab < vocab - 1) {
		memset(r->count, 0, sizeof r->count);
		for (int i = 0; i + 1 < r->n; i++)
			if (r->word[i] == r->word[i + 1] &&
			    r->len[r->symbol[i]] + r->len[r->symbol[i + 1]] <= 128)
				r->count[r->symbol[i]][r->symbol[i + 1]]++;
		int a = -1, b = -1;
		for (int i = 0; i < r->vocab; i++)
			for (int j = 0; j < r->vocab; j++) {
				int64_t c = r->count[i][j], best = a < 0 ? 1 : r->count[a][b];
				int order = a < 0 ? 0 : bytes_before(r, i, a);
				if (c > best || (c == best && c > 1 &&
						 (order < 0 || (!order && bytes_before(r, j, b) < 0))))
					a = i, b = j;
			}
		if (a < 0)
			break;
		int id = r->vocab++;
		memcpy(r->token[id], r->token[a], r->len[a]);
		memcpy(r->token[id] + r->len[a], r->token[b], r->len[b]);
		r->len[id] = r->len[a] + r->len[b];
		memcpy(r->merge[r->merges++], (int[]){a, b, id}, sizeof r->merge[0]);
		apply(r, a, b, id, false, 0);
	}
}

/* The pair of lowest rank, of several the leftmost, until there is none. */
static void ref_encode(reference *r, const uint8_t *text, size_t n)
{
	set_pieces(r, text, n);
	for (;;) {
		int rank = r->merges, at = 0;
		for (int i = 0; i + 1 < r->n; i++)
			for (int m = 0; r->word[i] == r->word[i + 1] && m < rank; m++)
				if (r->merge[m][0] == r->symbol[i] && r->merge[m][1] == r->symbol[i + 1])
					rank = m, at = i;
		if (rank == r->merges)
			break;
		apply(r, r->merge[rank][0], r->merge[rank][1], r->merge[rank][2], true, at);
	}
}

static void compare(const uint8_t *text, size_t n, const uint8_t *other, size_t m, int vocab)
{
	reference *r = malloc(sizeof *r);
	assert_non_null(r);
	assert_true(n <= REF_TEXT && m <= REF_TEXT);
	ref_train(r, text, n, vocab);
	an_tokenizer *t = train(text, n, vocab);
	assert_int_equal(an_tokenizer_vocab(t), r->vocab + 1);
	assert_int_equal(an_tokenizer_end(t), r->vocab);
	for (int i = 0; i < r->vocab; i++) {
		size_t len;
		const uint8_t *b = an_token_bytes(t, i, &len);
		if (len != r->len[i] || memcmp(b, r->token[i], len) != 0)
			fail_msg("token %d is \"%.*s\", expected \"%.*s\"", i, (int)len, b, (int)r->len[i],
				 r->token[i]);
	}
	for (int which = 0; which < 2; which++) {
		int32_t *ids;
		size_t k;
		ref_encode(r, which ? other : text, which ? m : n);
		assert_int_equal(an_encode(t, which ? other : text, which ? m : n, &ids, &k), AN_OK);
		assert_int_equal(k, r->n);
		for (int i = 0; i < r->n; i++)
			assert_int_equal(ids[i], r->symbol[i]);
		an_ids_free(ctx, ids, k);
	}
	an_tokenizer_free(t);
	free(r);
}

/* n characters drawn from `from`. */
static size_t draw(uint8_t *out, size_t n, const char *from, uint64_t seed)
{
	size_t k = strlen(from);
	for (size_t i = 0; i < n; i++)
		out[i] = (uint8_t)from[random_bits(seed, 0, i) % k];
	return n;
}

static void agrees_with_the_definition(void **state)
{
	(void)state;
	/* few letters: many ties, runs that overlap; no spaces: long pieces (through the heap) */
	static const char *const letters[] = {"a",        "ab",        "aab ", "abc  ", "aabbbc'st \n",
					      "!?.. ab1", "abcdefghij"};
	uint8_t text[REF_TEXT], other[REF_TEXT];
	for (int i = 0; i < LENGTH(letters); i++)
		for (uint64_t seed = 1; seed <= 4; seed++) {
			size_t n = draw(text, 100 + 97 * seed, letters[i], seed);
			size_t m = draw(other, 300, letters[i], seed + 100);
			compare(text, n, other, m, 258 + 12 * (int)seed);
		}
}

static void agrees_on_prose_and_bytes(void **state)
{
	(void)state;
	static const char prose[] =
	    "When the wind had gone down, the boats that had waited behind the island came out one by one. "
	    "\"There's no hurry,\" said the old man, who'd seen such weather before; \"they'll be here by "
	    "12.\"\n\n"
	    "They weren't.   Na\xc3\xafve as it was, the caf\xc3\xa9's owner "
	    "(\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e, "
	    "\xf0\x9f\x98\x80\xf0\x9f\x98\x80) went on waiting for them, and then the wind came up "
	    "again.\t\r\n";
	uint8_t text[3000], bytes[2000];
	size_t n = 0;
	for (int i = 0; i < 4; i++, n += sizeof prose - 1)
		memcpy(text + n, prose, sizeof prose - 1);
	for (size_t i = 0; i < sizeof bytes; i++)
		bytes[i] = (uint8_t)random_bits(9, 9, i);
	compare(text, n, bytes, sizeof bytes, 400);
	compare(bytes, sizeof bytes, text, n, 300);
	/* two thirds of a sequence: cut at every place */
	for (size_t cut = 1; cut < 40; cut++)
		compare(text, n - cut, text + cut, 700, 270);
}

/* ---- Losslessness --------------------------------------------------------------- */

static void is_lossless_on_anything(void **state)
{
	(void)state;
	uint8_t text[4096];
	for (uint64_t seed = 0; seed < 60; seed++) {
		size_t n = random_bits(seed, 1, 0) % sizeof text;
		for (size_t i = 0; i < n; i++) {
			uint64_t x = random_bits(seed, 2, i);
			/* bytes; or mostly lead and continuation bytes; or text with damage */
			text[i] = (uint8_t)(seed % 3 == 0   ? x
					    : seed % 3 == 1 ? 0x80 | (x & 0x7f)
					    : x % 16        ? 'a' + x % 5
							    : x >> 8);
		}
		an_tokenizer *t = train(text, n, 300);
		check_lossless(t, text, n);
		an_tokenizer_free(t);
	}
	an_tokenizer *t = train("", 0, 257);
	for (int i = 0; i < 256; i++) {
		uint8_t one = (uint8_t)i;
		check_lossless(t, &one, 1);
	}
	int32_t *ids;
	size_t n;
	assert_int_equal(an_encode(t, (const uint8_t *)"", 0, &ids, &n), AN_OK);
	assert_int_equal(n, 0);
	an_ids_free(ctx, ids, n);
	an_tokenizer_free(t);
}

static void counts_invalid_bytes(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		int invalid;
	} cases[] = {{"", 0},
		     {"plain", 0},
		     {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 0},
		     {"a\xff"
		      "b",
		      1},
		     {"\xc3", 1},
		     {"\xe2\x82", 2},
		     {"\xf0\x9f\x98", 3},
		     {"\xc0\x80", 2}, /* overlong */
		     {"\xe0\x9f\xbf", 3},
		     {"\xf0\x8f\xbf\xbf", 4},
		     {"\xed\xa0\x80", 3}, /* surrogate */
		     {"\xed\x9f\xbf\xee\x80\x80", 0},
		     {"\xf4\x8f\xbf\xbf", 0}, /* U+10FFFF */
		     {"\xf4\x90\x80\x80", 4},
		     {"\xf8\x88\x80\x80\x80", 5},
		     {"\xe2\x82 x \xac", 3}};
	for (int i = 0; i < LENGTH(cases); i++) {
		an_tokenizer *t;
		an_bpe_options opt = {.vocab = 260};
		int64_t invalid = -1;
		size_t n = strlen(cases[i].text), k;
		int32_t *ids;
		assert_int_equal(an_bpe_train(ctx, (const uint8_t *)cases[i].text, n, &opt, &t, &invalid),
				 AN_OK);
		assert_int_equal(invalid, cases[i].invalid);
		invalid = -1;
		assert_int_equal(
		    an_encode_progress(t, (const uint8_t *)cases[i].text, n, NULL, NULL, &ids, &k, &invalid),
		    AN_OK);
		assert_int_equal(invalid, cases[i].invalid);
		an_ids_free(ctx, ids, k);
		check_lossless(t, (const uint8_t *)cases[i].text, n);
		an_tokenizer_free(t);
	}
}

/* A long stretch without a place to cut: time must stay about linear, and no limit of the
 * expression engine may be met. */
static void takes_long_runs(void **state)
{
	(void)state;
	size_t n = 1 << 18;
	uint8_t *text = malloc(n + 1);
	assert_non_null(text);
	static const char *const runs[] = {"a",    " ", "\n", "7", "!", "\xe4\xb8\xad", "\xf0\x9f\x98\x80",
					   "\xff", "ab"};
	for (int i = 0; i < LENGTH(runs); i++) {
		size_t k = strlen(runs[i]);
		for (size_t j = 0; j < n; j++)
			text[j] = (uint8_t)runs[i][j % k];
		text[n] = 'x';
		an_tokenizer *t = train(text, n + 1, 300);
		for (int32_t id = 0; id < an_tokenizer_vocab(t); id++) {
			size_t len;
			assert_non_null(an_token_bytes(t, id, &len));
			assert_true(len <= 128);
		}
		check_lossless(t, text, n + 1);
		an_tokenizer_free(t);
	}
	free(text);
}

/* ---- The rest ------------------------------------------------------------------- */

static void is_deterministic(void **state)
{
	(void)state;
	uint8_t text[20000];
	draw(text, sizeof text, "etaoin shrdlu,.\n", 5);
	char *file[2];
	size_t n[2];
	for (int i = 0; i < 2; i++) {
		an_tokenizer *t = train(text, sizeof text, 900);
		assert_int_equal(an_tokenizer_save(t, temp_path("same.json")), AN_OK);
		file[i] = temp_read("same.json", &n[i]);
		an_tokenizer_free(t);
	}
	assert_int_equal(n[0], n[1]);
	assert_memory_equal(file[0], file[1], n[0]);
	free(file[0]);
	free(file[1]);
}

static void note_progress(void *user, double fraction)
{
	double *last = user;
	assert_true(fraction >= *last && fraction <= 1);
	*last = fraction;
}

static void reports_progress(void **state)
{
	(void)state;
	size_t n = 1 << 20;
	uint8_t *text = malloc(n);
	draw(text, n, "some letters here", 3);
	double last = 0;
	an_bpe_options opt = {.vocab = 600, .progress = note_progress, .user = &last};
	an_tokenizer *t;
	int32_t *ids;
	size_t k;
	assert_int_equal(an_bpe_train(ctx, text, n, &opt, &t, NULL), AN_OK);
	assert_true(last == 1);
	last = 0;
	assert_int_equal(an_encode_progress(t, text, n, note_progress, &last, &ids, &k, NULL), AN_OK);
	assert_true(last > 0.5);
	an_ids_free(ctx, ids, k);
	an_tokenizer_free(t);
	free(text);
}

static void refuses_impossible_sizes(void **state)
{
	(void)state;
	static const int32_t sizes[] = {-1, 0, 256, 65537, INT32_MAX};
	for (int i = 0; i < LENGTH(sizes); i++) {
		an_tokenizer *t;
		an_bpe_options opt = {.vocab = sizes[i]};
		assert_int_equal(an_bpe_train(ctx, (const uint8_t *)"text", 4, &opt, &t, NULL), AN_USAGE);
		assert_null(t);
		assert_non_null(strstr(an_message(ctx), "257"));
	}
}

static void names_no_token_outside(void **state)
{
	(void)state;
	an_tokenizer *t = train("to and to and to", 16, 270);
	size_t len = 9;
	assert_null(an_token_bytes(t, -1, &len));
	assert_int_equal(len, 0);
	assert_null(an_token_bytes(t, an_tokenizer_vocab(t), &len));
	const uint8_t *end = an_token_bytes(t, an_tokenizer_end(t), &len);
	assert_int_equal(len, strlen("<|endoftext|>"));
	assert_memory_equal(end, "<|endoftext|>", len);
	an_tokenizer_free(t);
}

static an_status whole_life(an_ctx *c)
{
	an_tokenizer *t = NULL;
	an_bpe_options opt = {.vocab = 300};
	int32_t *ids = NULL;
	size_t n = 0;
	uint8_t text[700];
	draw(text, sizeof text, "abcdefgh ijk", 8);
	memset(text + 100, 'x', 200); /* a long piece */
	an_status s = an_bpe_train(c, text, sizeof text, &opt, &t, NULL);
	if (s == AN_OK)
		s = an_tokenizer_save(t, temp_path("tokenizer.json"));
	an_tokenizer_free(t);
	t = NULL;
	if (s == AN_OK)
		s = an_tokenizer_load(c, temp_path("tokenizer.json"), &t);
	if (s == AN_OK)
		s = an_encode(t, text, sizeof text, &ids, &n);
	an_ids_free(c, ids, n);
	an_tokenizer_free(t);
	return s;
}

static void survives_without_memory(void **state)
{
	(void)state;
	survive_without_memory(whole_life);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(agrees_with_the_definition),
					   cmocka_unit_test(agrees_on_prose_and_bytes),
					   cmocka_unit_test(is_lossless_on_anything),
					   cmocka_unit_test(counts_invalid_bytes),
					   cmocka_unit_test(takes_long_runs),
					   cmocka_unit_test(is_deterministic),
					   cmocka_unit_test(reports_progress),
					   cmocka_unit_test(refuses_impossible_sizes),
					   cmocka_unit_test(names_no_token_outside),
					   cmocka_unit_test(survives_without_memory)};
	return cmocka_run_group_tests(tests, setup, teardown);
}
