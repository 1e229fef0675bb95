/* tokenizer.json: what we write reads back, others' forms are understood, damage and what would be
 * encoded differently is refused with the key's name. */
#include "anneal/text.h"
#include "base/base.h"
#include "base/random.h"
#include "support/text_temp.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <cmocka.h>

static an_ctx *ctx;
static const char prose[] =
    "low lower lowest, new newer newest; wide wider widest. \"Slow?\" \\o/ 'Slower,' she'd said in 1999.\n\n"
    "caf\xc3\xa9 caf\xc3\xa9 caf\xc3\xa9 \xe6\x97\xa5\xe6\x9c\xac \xe6\x97\xa5\xe6\x9c\xac\n";

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

static an_tokenizer *trained(void)
{
	an_tokenizer *t;
	an_bpe_options opt = {.vocab = 300};
	assert_int_equal(an_bpe_train(ctx, (const uint8_t *)prose, strlen(prose), &opt, &t, NULL), AN_OK);
	return t;
}

static void same_ids(const an_tokenizer *a, const an_tokenizer *b, const char *text)
{
	int32_t *x, *y;
	size_t n, m;
	assert_int_equal(an_encode(a, (const uint8_t *)text, strlen(text), &x, &n), AN_OK);
	assert_int_equal(an_encode(b, (const uint8_t *)text, strlen(text), &y, &m), AN_OK);
	assert_int_equal(n, m);
	assert_memory_equal(x, y, n * sizeof *x);
	an_ids_free(ctx, x, n);
	an_ids_free(ctx, y, m);
}

static void reads_what_it_writes(void **state)
{
	(void)state;
	an_tokenizer *t = trained(), *u, *v;
	remove(temp_path("tokenizer_config.json"));
	assert_int_equal(an_tokenizer_save(t, temp_path("tokenizer.json")), AN_OK);
	if (an_tokenizer_load(ctx, temp_path("tokenizer.json"), &u) != AN_OK)
		fail_msg("%s", an_message(ctx));
	assert_int_equal(an_tokenizer_vocab(u), an_tokenizer_vocab(t));
	assert_int_equal(an_tokenizer_end(u), an_tokenizer_end(t));
	for (int32_t i = -1; i <= an_tokenizer_vocab(t); i++) {
		size_t n, m;
		const uint8_t *p = an_token_bytes(t, i, &n), *q = an_token_bytes(u, i, &m);
		assert_int_equal(n, m);
		assert_true(!p == !q);
		assert_true(!p || memcmp(p, q, n) == 0);
	}
	same_ids(t, u, prose);
	same_ids(t, u, "newest <|endoftext|> \xff\xfe lowest");

	/* a loaded one is written as it was read, the file beside it too */
	char *first = temp_read("tokenizer.json", NULL), *config = temp_read("tokenizer_config.json", NULL);
	mkdir(temp_path("copy"), 0777);
	assert_int_equal(an_tokenizer_save(u, temp_path("copy/tokenizer.json")), AN_OK);
	char *second = temp_read("copy/tokenizer.json", NULL),
	     *again = temp_read("copy/tokenizer_config.json", NULL);
	assert_string_equal(first, second);
	assert_string_equal(config, again);
	/* under another name there is no file beside it */
	assert_int_equal(an_tokenizer_save(t, temp_path("copy/other.json")), AN_OK);
	assert_int_equal(an_tokenizer_load(ctx, temp_path("copy/other.json"), &v), AN_OK);
	assert_int_equal(an_tokenizer_end(v), an_tokenizer_end(t));
	same_ids(t, v, prose);
	free(first);
	free(second);
	free(config);
	free(again);
	an_tokenizer_free(t);
	an_tokenizer_free(u);
	an_tokenizer_free(v);
}

/* ---- Edited documents ----------------------------------------------------------- */

/* The document of trained() with each `find` replaced once, in order; free() it. */
static char *edited(const char *const *edits)
{
	an_tokenizer *t = trained();
	assert_int_equal(an_tokenizer_save(t, temp_path("base.json")), AN_OK);
	an_tokenizer_free(t);
	char *text = temp_read("base.json", NULL);
	for (; *edits; edits += 2) {
		char *at = strstr(text, edits[0]);
		if (!at)
			fail_msg("\"%s\" is not in the document", edits[0]);
		size_t before = (size_t)(at - text), after = strlen(at) - strlen(edits[0]);
		char *new = malloc(before + strlen(edits[1]) + after + 1);
		memcpy(new, text, before);
		strcpy(new + before, edits[1]);
		strcat(new, at + strlen(edits[0]));
		free(text);
		text = new;
	}
	return text;
}

static an_status load_edited(const char *const *edits, an_tokenizer **out)
{
	char *text = edited(edits);
	temp_write("edited.json", text, strlen(text));
	free(text);
	return an_tokenizer_load(ctx, temp_path("edited.json"), out);
}

#define EDITS(...) ((const char *const[]){__VA_ARGS__, NULL})
#define PRE                                                                                                  \
	"\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, " \
	"\"use_regex\": true}"
#define TAIL "\"pretokenizers\": ["

static an_tokenizer *load_ok(const char *const *edits)
{
	an_tokenizer *t = NULL;
	if (load_edited(edits, &t) != AN_OK)
		fail_msg("%s", an_message(ctx));
	return t;
}

/* How the text is cut shows in the tokens: piece borders are token borders. */
static void encodes_to(const an_tokenizer *t, const char *text, const char *want)
{
	char got[512] = "";
	int32_t *ids;
	size_t n;
	if (an_encode(t, (const uint8_t *)text, strlen(text), &ids, &n) != AN_OK)
		fail_msg("%s", an_message(ctx));
	for (size_t i = 0; i < n; i++) {
		size_t len;
		const char *p = (const char *)an_token_bytes(t, ids[i], &len);
		strcat(got, i ? "|" : "");
		strncat(got, p, len);
	}
	assert_string_equal(got, want);
	an_ids_free(ctx, ids, n);
}

static void understands_others_forms(void **state)
{
	(void)state;
	/* merges as pairs */
	an_tokenizer *base = trained(), *t = load_ok(EDITS("\"l o\"", "[\"l\", \"o\"]"));
	same_ids(base, t, prose);
	an_tokenizer_free(t);
	/* old files: no model.type, no use_regex, the version in the merges */
	t = load_ok(EDITS("\"type\": \"BPE\",", "", ", \"use_regex\": true", "", "\"merges\": [",
			  "\"merges\": [\"#version: 0.2\","));
	same_ids(base, t, prose);
	an_tokenizer_free(t);
	/* Llama 3 and Qwen: an expression, then bytes only */
	t = load_ok(EDITS(
	    PRE,
	    "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", "
	    "\"pattern\": "
	    "{\"Regex\": \"\\\\p{L}{1,2}|[^\\\\p{L}]\"}, \"behavior\": \"Isolated\", \"invert\": false}, "
	    "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": false}]}"));
	encodes_to(t, "lower low", "lo|w|e|r| |lo|w");
	an_tokenizer_free(t);
	/* a literal, digits one by one */
	t = load_ok(EDITS(
	    PRE,
	    "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", "
	    "\"pattern\": "
	    "{\"String\": \"o\"}, \"behavior\": \"Isolated\", \"invert\": false}, {\"type\": \"Digits\", "
	    "\"individual_digits\": true}, {\"type\": \"ByteLevel\", \"add_prefix_space\": false}]}"));
	encodes_to(t, "low 1999", "l|o|w| |1|9|9|9");
	an_tokenizer_free(t);
	/* a token that no merge makes is found whole only with ignore_merges */
	const char *const lone[] = {"\"l\": 108,", "\"l\": 108, \"lxl\": 300,", NULL};
	t = load_ok(lone);
	assert_int_equal(an_tokenizer_vocab(t), 301);
	encodes_to(t, "lxl", "l|x|l");
	an_tokenizer_free(t);
	t = load_ok(EDITS("\"l\": 108,", "\"l\": 108, \"lxl\": 300,", "\"ignore_merges\": false",
			  "\"ignore_merges\": true"));
	encodes_to(t, "lxl", "lxl");
	encodes_to(t, "lxlx", "l|x|l|x");
	an_tokenizer_free(t);
	/* added tokens beyond the vocabulary: in the table, never in plain text */
	t = load_ok(
	    EDITS("\"added_tokens\": [",
		  "\"added_tokens\": [{\"id\": 305, \"content\": \"<\xc3\xa9 >\", \"special\": true},"));
	size_t len;
	assert_int_equal(an_tokenizer_vocab(t), 306);
	assert_null(an_token_bytes(t, 304, &len));
	assert_memory_equal(an_token_bytes(t, 305, &len), "<\xc3\xa9 >", 5);
	assert_int_equal(len, 5);
	encodes_to(t, "<|endoftext|>", "<|||e|n|d|o|f|t|e|x|t|||>");
	an_tokenizer_free(t);
	an_tokenizer_free(base);
}

static void finds_the_end_of_text(void **state)
{
	(void)state;
	static const struct {
		const char *config, *token;
	} cases[] = {{NULL, "<|endoftext|>"},
		     {"{}", "<|endoftext|>"},
		     {"{\"eos_token\": \"<end>\"}", "<end>"},
		     {"{\"eos_token\": {\"content\": \"<end>\"}}", "<end>"},
		     {"{\"eos_token\": null}", "<|endoftext|>"},
		     {"{\"eos_token\": \"absent\"}", "<|endoftext|>"}};
	char *text =
	    edited(EDITS("\"added_tokens\": [", "\"added_tokens\": [{\"id\": 400, \"content\": \"<end>\"},"));
	mkdir(temp_path("end"), 0777);
	temp_write("end/tokenizer.json", text, strlen(text));
	free(text);
	for (int i = 0; i < LENGTH(cases); i++) {
		an_tokenizer *t;
		size_t len;
		remove(temp_path("end/tokenizer_config.json"));
		if (cases[i].config)
			temp_write("end/tokenizer_config.json", cases[i].config, strlen(cases[i].config));
		assert_int_equal(an_tokenizer_load(ctx, temp_path("end/tokenizer.json"), &t), AN_OK);
		const uint8_t *p = an_token_bytes(t, an_tokenizer_end(t), &len);
		assert_int_equal(len, strlen(cases[i].token));
		assert_memory_equal(p, cases[i].token, len);
		an_tokenizer_free(t);
	}
	temp_write("end/tokenizer_config.json", "{", 1);
	an_tokenizer *t;
	assert_int_equal(an_tokenizer_load(ctx, temp_path("end/tokenizer.json"), &t), AN_FORMAT);
	assert_non_null(strstr(an_message(ctx), "tokenizer_config.json:1"));
}

static void normalizing_is_refused_where_it_matters(void **state)
{
	(void)state;
	an_tokenizer *base = trained(),
		     *t = load_ok(EDITS("\"normalizer\": null", "\"normalizer\": {\"type\": \"NFC\"}"));
	static const char *const safe[] = {"plain",        "caf\xc3\xa9",      "\xe6\x97\xa5\xe6\x9c\xac",
					   "\xed\x95\x9c", "\xf0\x9f\x98\x80", "\xff"};
	static const char *const unsafe[] = {"e\xcc\x81", "\xe2\x84\xab", "\xe1\x84\x80\xe1\x85\xa1",
					     "\xef\xa4\x80"};
	for (int i = 0; i < LENGTH(safe); i++)
		same_ids(base, t, safe[i]);
	for (int i = 0; i < LENGTH(unsafe); i++) {
		int32_t *ids;
		size_t n;
		assert_int_equal(an_encode(t, (const uint8_t *)unsafe[i], strlen(unsafe[i]), &ids, &n),
				 AN_UNSUPPORTED);
		assert_null(ids);
		assert_non_null(strstr(an_message(ctx), "NFC"));
	}
	an_tokenizer_free(t);
	an_tokenizer_free(base);
}

static void refuses_with_the_key(void **state)
{
	(void)state;
	static const struct {
		an_status status;
		const char *words, *find, *replace;
	} cases[] = {
	    /* other kinds of tokenizers */
	    {AN_UNSUPPORTED, "model.type is \"WordPiece\"", "\"BPE\"", "\"WordPiece\""},
	    {AN_UNSUPPORTED, "model.type is \"Unigram\"", "\"BPE\"", "\"Unigram\""},
	    {AN_UNSUPPORTED, "byte_fallback", "\"byte_fallback\": false", "\"byte_fallback\": true"},
	    {AN_UNSUPPORTED, "model.dropout", "\"dropout\": null", "\"dropout\": 0.1"},
	    {AN_UNSUPPORTED, "continuing_subword_prefix", "subword_prefix\": null",
	     "subword_prefix\": \"##\""},
	    {AN_UNSUPPORTED, "end_of_word_suffix", "word_suffix\": null", "word_suffix\": \"</w>\""},
	    {AN_UNSUPPORTED, "normalizer \"NFKC\"", "\"normalizer\": null",
	     "\"normalizer\": {\"type\": \"NFKC\"}"},
	    {AN_UNSUPPORTED, "normalizer \"Prepend\"", "\"normalizer\": null",
	     "\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Prepend\"}]}"},
	    {AN_UNSUPPORTED, "normalizer \"\"", "\"normalizer\": null", "\"normalizer\": 1"},
	    {AN_UNSUPPORTED, "pre_tokenizer null", PRE, "\"pre_tokenizer\": null"},
	    {AN_UNSUPPORTED, "pre_tokenizer Metaspace", PRE, "\"pre_tokenizer\": {\"type\": \"Metaspace\"}"},
	    {AN_UNSUPPORTED, "pre_tokenizer ByteLevel before", PRE,
	     "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"ByteLevel\"}, "
	     "{\"type\": \"Digits\"}]}"},
	    {AN_UNSUPPORTED, "empty Sequence", PRE,
	     "\"pre_tokenizer\": {\"type\": \"Sequence\", \"pretokenizers\": []}"},
	    {AN_FORMAT, "without a list", PRE, "\"pre_tokenizer\": {\"type\": \"Sequence\"}"},
	    {AN_UNSUPPORTED, "add_prefix_space",
	     "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false",
	     "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true"},
	    {AN_FORMAT, "use_regex", "\"use_regex\": true", "\"use_regex\": \"yes\""},
	    {AN_UNSUPPORTED, "\"Removed\"", PRE,
	     "\"pre_tokenizer\": {\"type\": \"Sequence\", " TAIL
	     "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a\"}, \"behavior\": \"Removed\"}, {\"type\": "
	     "\"ByteLevel\"}]}"},
	    {AN_FORMAT, "neither a \"Regex\"", PRE,
	     "\"pre_tokenizer\": {\"type\": \"Sequence\", " TAIL
	     "{\"type\": \"Split\", \"pattern\": \"a\", \"behavior\": \"Isolated\"}, {\"type\": "
	     "\"ByteLevel\"}]}"},
	    {AN_UNSUPPORTED, "\\w", PRE,
	     "\"pre_tokenizer\": {\"type\": \"Sequence\", " TAIL
	     "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\w\"}, \"behavior\": \"Isolated\"}, "
	     "{\"type\": \"ByteLevel\"}]}"},
	    {AN_UNSUPPORTED, "decoder \"WordPiece\"", "\"decoder\": {\"type\": \"ByteLevel\"",
	     "\"decoder\": {\"type\": \"WordPiece\""},
	    /* damage */
	    {AN_FORMAT, "no \"model\"", "\"model\"", "\"modle\""},
	    {AN_FORMAT, "model.vocab is missing", "\"vocab\"", "\"vacob\""},
	    {AN_FORMAT, "model.merges is missing", "\"merges\"", "\"murges\""},
	    {AN_FORMAT, "not a whole number", "\"l\": 108", "\"l\": 108.5"},
	    {AN_FORMAT, "not a whole number", "\"l\": 108", "\"l\": \"108\""},
	    {AN_FORMAT, "the id of token \"l\" is -1", "\"l\": 108", "\"l\": -1"},
	    {AN_FORMAT, "4194304", "\"l\": 108", "\"l\": 4194304"},
	    {AN_FORMAT, "same id 107", "\"l\": 108", "\"l\": 107"},
	    {AN_FORMAT, "duplicate", "\"l\": 108", "\"k\": 108"},
	    {AN_UNSUPPORTED, "0x6C", "\"l\": 108", "\"lllll\": 108"},
	    {AN_FORMAT, "byte-level alphabet", "\"l\": 108", "\"l\": 108, \"a b\": 400"},
	    {AN_FORMAT, "byte-level alphabet", "\"l\": 108", "\"l\": 108, \"\xe4\xb8\xad\": 400"},
	    {AN_FORMAT, "byte-level alphabet", "\"l\": 108", "\"l\": 108, \"\": 400"},
	    {AN_FORMAT, "model.merges[0]", "\"merges\": [", "\"merges\": [\"l\","},
	    {AN_FORMAT, "model.merges[0]", "\"merges\": [", "\"merges\": [\"l o w\","},
	    {AN_FORMAT, "model.merges[0]", "\"merges\": [", "\"merges\": [5,"},
	    {AN_FORMAT, "model.merges[0]", "\"merges\": [", "\"merges\": [[\"l\"],"},
	    {AN_FORMAT, "model.merges[0]", "\"merges\": [", "\"merges\": [[\"l\", 1],"},
	    {AN_FORMAT, "\"qqq\" is not in model.vocab", "\"merges\": [", "\"merges\": [\"qqq l\","},
	    {AN_FORMAT, "\"\" is not in model.vocab", "\"merges\": [", "\"merges\": [\" l\","},
	    {AN_FORMAT, "\"qz\", the result, is not", "\"merges\": [", "\"merges\": [\"q z\","},
	    {AN_FORMAT, "added_tokens is not a list", "\"added_tokens\": [", "\"added_tokens\": 1, \"x\": ["},
	    {AN_FORMAT, "added_tokens[0]", "\"added_tokens\": [", "\"added_tokens\": [{\"id\": 400},"},
	    {AN_FORMAT, "added_tokens[0]", "\"added_tokens\": [", "\"added_tokens\": [7,"},
	    {AN_FORMAT, "in added_tokens and", "\"added_tokens\": [",
	     "\"added_tokens\": [{\"id\": 400, \"content\": \"l\"},"},
	    {AN_FORMAT, "same id", "\"added_tokens\": [",
	     "\"added_tokens\": [{\"id\": 5, \"content\": \"<x>\"},"},
	    {AN_FORMAT, "2:9: not valid JSON", "{", ""},
	    {AN_FORMAT, "not valid JSON", "\"version\"", "\"version"},
	    {AN_FORMAT, "expected a JSON object", "{", "[{"},
	};
	for (int i = 0; i < LENGTH(cases); i++) {
		an_tokenizer *t = NULL;
		const char *edits[] = {cases[i].find, cases[i].replace, NULL, NULL, NULL};
		char *text = edited(edits);
		if (text[0] == '[') /* close what was opened */
			text = realloc(text, strlen(text) + 2), strcat(text, "]");
		temp_write("edited.json", text, strlen(text));
		free(text);
		an_status s = an_tokenizer_load(ctx, temp_path("edited.json"), &t);
		if (s != cases[i].status || t || !strstr(an_message(ctx), cases[i].words) ||
		    !strstr(an_message(ctx), "edited.json"))
			fail_msg("%s -> %s: %s: \"%s\"", cases[i].find, cases[i].replace, an_status_name(s),
				 an_message(ctx));
	}
	an_tokenizer *t;
	assert_int_equal(an_tokenizer_load(ctx, temp_path("absent.json"), &t), AN_IO);
}

/* Cut off anywhere, or with a byte changed, it is refused or loads; it never breaks. */
static void survives_damage(void **state)
{
	(void)state;
	char *text = edited((const char *const[]){NULL});
	size_t n = strlen(text);
	while (text[n - 1] == '\n')
		n--;
	for (size_t cut = 0; cut < n; cut += 1 + cut / 97) {
		an_tokenizer *t = NULL;
		temp_write("edited.json", text, cut);
		if (an_tokenizer_load(ctx, temp_path("edited.json"), &t) != AN_FORMAT || t)
			fail_msg("cut at %zu", cut);
	}
	int loaded = 0;
	for (uint64_t seed = 0; seed < 1500; seed++) {
		an_tokenizer *t = NULL;
		size_t at = random_bits(seed, 0, 0) % n;
		char old = text[at];
		static const char marks[] = "\"{}[]:,0 \\e";
		uint64_t x = random_bits(seed, 0, 1);
		text[at] = seed % 2 ? (char)x : marks[x % (sizeof marks - 1)];
		temp_write("edited.json", text, n);
		text[at] = old;
		if (an_tokenizer_load(ctx, temp_path("edited.json"), &t) == AN_OK) {
			int32_t *ids;
			size_t k;
			loaded++;
			assert_int_equal(an_encode(t, (const uint8_t *)prose, strlen(prose), &ids, &k),
					 AN_OK);
			an_ids_free(ctx, ids, k);
		}
		an_tokenizer_free(t);
	}
	assert_in_range(loaded, 1, 1000);
	free(text);
}

static void keeps_the_old_file_when_full(void **state)
{
	(void)state;
	an_tokenizer *t = trained();
	mkdir(temp_path("full"), 0777);
	temp_write("full/tokenizer.json", "old", 3);
	temp_write("full/tokenizer_config.json", "old too", 7);
	struct rlimit old, small;
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	for (int limit = 10; limit < 4000; limit *= 3) {
		small = (struct rlimit){(rlim_t)limit, old.rlim_max};
		setrlimit(RLIMIT_FSIZE, &small);
		an_status s = an_tokenizer_save(t, temp_path("full/tokenizer.json"));
		setrlimit(RLIMIT_FSIZE, &old);
		assert_int_equal(s, AN_IO);
		char *kept = temp_read("full/tokenizer.json", NULL);
		assert_string_equal(kept, "old");
		free(kept);
		assert_int_equal(temp_leftovers("full"), 0);
	}
	assert_int_equal(an_tokenizer_save(t, temp_path("no/folder/tokenizer.json")), AN_IO);
	an_tokenizer_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(reads_what_it_writes),
					   cmocka_unit_test(understands_others_forms),
					   cmocka_unit_test(finds_the_end_of_text),
					   cmocka_unit_test(normalizing_is_refused_where_it_matters),
					   cmocka_unit_test(refuses_with_the_key),
					   cmocka_unit_test(survives_damage),
					   cmocka_unit_test(keeps_the_old_file_when_full)};
	return cmocka_run_group_tests(tests, setup, teardown);
}
