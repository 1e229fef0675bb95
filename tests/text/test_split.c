/* Where text is cut: tables by hand, an independent splitter for ASCII, expressions that are
 * translated or refused. */
#include "base/base.h"
#include "base/random.h"
#include "text/split.h"

#include <ctype.h>
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

/* The pieces with '|' between them; '|' must not be in the text. */
static an_status add_piece(void *arg, const uint8_t *p, size_t n)
{
	str *s = arg;
	if (s->len)
		str_add(s, "|");
	str_add_n(s, (const char *)p, n);
	return AN_OK;
}

static str pieces(const char *const *stages, const char *text, size_t n)
{
	splitter *s;
	str out;
	str_init(&out, ctx);
	assert_int_equal(split_new(ctx, &s), AN_OK);
	for (; *stages; stages++)
		if (split_add(s, *stages) != AN_OK)
			fail_msg("%s", an_message(ctx));
	assert_int_equal(split_text(s, (const uint8_t *)text, n, add_piece, &out, NULL), AN_OK);
	split_free(s);
	return out;
}

static void expect(const char *const *stages, const char *text, const char *cut)
{
	str s = pieces(stages, text, strlen(text));
	assert_string_equal(s.data ? s.data : "", cut);
	str_free(&s);
}

static const char *const gpt2[] = {SPLIT_GPT2, NULL};

static void splits_like_gpt2(void **state)
{
	(void)state;
	expect(gpt2, "", "");
	expect(gpt2, "Hello, world!", "Hello|,| world|!");
	expect(gpt2, "it's we'll I'M o'er", "it|'s| we|'ll| I|'|M| o|'|er");
	expect(gpt2, "in 1812 x86", "in| 1812| x|86");
	expect(gpt2, "a  b", "a| | b");
	expect(gpt2, "a   ", "a|   ");
	expect(gpt2, "a \n\n b", "a| \n\n| b");
	expect(gpt2, "\n\nb", "\n|\n|b");
	expect(gpt2, "caf\xc3\xa9 na\xc3\xafve", "caf\xc3\xa9| na\xc3\xafve");
	expect(gpt2, "\xe6\x97\xa5\xe6\x9c\xac \xe2\x85\xa7\xc2\xbd",
	       "\xe6\x97\xa5\xe6\x9c\xac| \xe2\x85\xa7\xc2\xbd");
	/* no-break space and U+2003 are white space and not the one space before a word; U+180E is no white
	 * space */
	expect(gpt2, "a\xc2\xa0\x62", "a|\xc2\xa0|b");
	expect(gpt2, "a\xe2\x80\x83\x62", "a|\xe2\x80\x83|b");
	expect(gpt2, "a\xe1\xa0\x8e\xe1\xa0\x8e\x62", "a|\xe1\xa0\x8e\xe1\xa0\x8e|b");
	/* a combining mark is neither letter nor number */
	expect(gpt2, "e\xcc\x81t", "e|\xcc\x81|t");
	/* bytes outside UTF-8 stand alone and end what is before them */
	expect(gpt2, "ab\xff\xfe  cd", "ab|\xff|\xfe| | cd");
	expect(gpt2, "a  \xc3", "a|  |\xc3");
}

static void splits_like_llama3(void **state)
{
	(void)state;
	static const char *const llama3[] = {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{"
					     "N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
					     "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
					     NULL};
	expect(llama3, "I'M sure 12345 (done).\n\n  yes", "I|'M| sure| |123|45| (|done|).\n\n| | yes");
	expect(llama3, "a\xc2\xa0word\t\n x", "a|\xc2\xa0word|\t\n| x");
	static const char *const digits[] = {"\\p{N}", SPLIT_GPT2, NULL};
	expect(digits, "in 1812 x", "in| |1|8|1|2| x");
	static const char *const words[] = {"\\p{N}+", NULL};
	expect(words, "a12b3", "a|12|b|3");
	static const char *const none[] = {NULL};
	expect(none, "as it is", "as it is");
	static const char *const empty[] = {"x*", NULL};
	expect(empty, "abxxc\xc3\xa9", "ab|xx|c\xc3\xa9");
	static const char *const spelled[] = {"[\\u4e00-\\x{9fff}]+|\\-", NULL};
	expect(spelled, "a\xe4\xb8\xad\xe6\x96\x87-b", "a|\xe4\xb8\xad\xe6\x96\x87|-|b");
}

/* GPT-2's rule for ASCII, written out. */
static void ascii_pieces(const char *p, str *out)
{
	static const char *const endings[] = {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"};
	while (*p) {
		size_t n = 0;
		for (int i = 0; i < LENGTH(endings) && !n; i++)
			if (strncmp(p, endings[i], strlen(endings[i])) == 0)
				n = strlen(endings[i]);
		size_t start = *p == ' ';
		if (n) {
		} else if (isalpha(p[start])) {
			for (n = start; isalpha(p[n]);)
				n++;
		} else if (isdigit(p[start])) {
			for (n = start; isdigit(p[n]);)
				n++;
		} else if (p[start] && !isspace(p[start])) {
			for (n = start; p[n] && !isspace(p[n]) && !isalnum(p[n]);)
				n++;
		} else {
			while (isspace(p[n]))
				n++;
			if (p[n] && n > 1)
				n--;
		}
		(void)add_piece(out, (const uint8_t *)p, n);
		p += n;
	}
}

static void agrees_on_random_ascii(void **state)
{
	(void)state;
	static const char letters[] = "ab1'stmdrvel   \n\t.,!-";
	for (uint64_t seed = 0; seed < 3000; seed++) {
		char text[64];
		size_t n = seed % (sizeof text - 1);
		for (size_t i = 0; i < n; i++)
			text[i] = letters[random_bits(seed, 0, i) % (sizeof letters - 1)];
		text[n] = 0;
		str want;
		str_init(&want, ctx);
		ascii_pieces(text, &want);
		expect(gpt2, text, want.data ? want.data : "");
		str_free(&want);
	}
}

static void refuses_what_differs(void **state)
{
	(void)state;
	static const struct {
		const char *pattern, *word;
	} cases[] = {{"\\w+", "\\w"},      {"\\bx", "\\b"},        {"^a", "anchor"},   {"a$", "anchor"},
		     {"[a[b]]", "set"},    {"[a&&b]", "&&"},       {"\\h", "\\h"},     {"a{,3}", "count"},
		     {"a{1,3}+", "count"}, {"\\", "backslash"},    {"\\u12", "\\u"},   {"[]a]", "]"},
		     {"(a", "paren"},      {"\\p{Nonsense}", "p"}, {"[z-a]", "range"}, {"*", "quantifier"},
		     {"(?m:a)", "group"},  {"(*UTF)a", "group"},   {"\\v", "\\v"},     {"\\G", "\\G"},
		     {"[\\S\\n]", "\\S"},  {"[\\d\\W]", "\\W"}};
	splitter *s;
	assert_int_equal(split_new(ctx, &s), AN_OK);
	for (int i = 0; i < LENGTH(cases); i++) {
		an_status status = split_add(s, cases[i].pattern);
		if ((status != AN_UNSUPPORTED && status != AN_FORMAT) ||
		    !strstr(an_message(ctx), cases[i].word))
			fail_msg("%s: %s: %s", cases[i].pattern, an_status_name(status), an_message(ctx));
	}
	for (int i = 0; i < SPLIT_MAX_STAGES; i++)
		assert_int_equal(split_add(s, "a{1,3}"), AN_OK);
	assert_int_equal(split_add(s, "a"), AN_UNSUPPORTED);
	split_free(s);
}

static void stops_runaway_expressions(void **state)
{
	(void)state;
	splitter *s;
	str out;
	str_init(&out, ctx);
	assert_int_equal(split_new(ctx, &s), AN_OK);
	assert_int_equal(split_add(s, "(a+a+)+[bc]"), AN_OK);
	assert_int_equal(split_text(s, (const uint8_t *)"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 40,
				    add_piece, &out, NULL),
			 AN_UNSUPPORTED);
	assert_non_null(strstr(an_message(ctx), "limit"));
	split_free(s);
	str_free(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(splits_like_gpt2), cmocka_unit_test(splits_like_llama3),
	    cmocka_unit_test(agrees_on_random_ascii), cmocka_unit_test(refuses_what_differs),
	    cmocka_unit_test(stops_runaway_expressions)};
	return cmocka_run_group_tests(tests, setup, teardown);
}
