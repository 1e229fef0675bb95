/* Splitting text with PCRE2. */
#include "text/split.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

typedef struct stage {
	pcre2_code *code;
	pcre2_match_data *match; /* one per stage: stages are at work inside each other */
} stage;

struct splitter {
	an_ctx *ctx;
	pcre2_general_context *general;
	pcre2_match_context *limits;
	pcre2_jit_stack *stack;
	stage stage[SPLIT_MAX_STAGES];
	int stages;
};

/* ---- UTF-8 ---------------------------------------------------------------------- */

int utf8_sequence(const uint8_t *p, size_t n, uint32_t *code)
{
	uint32_t c = p[0];
	int size;
	uint32_t low; /* smallest code point that needs this many bytes */
	if (c < 0x80) {
		size = 1, low = 0;
	} else if (c >= 0xc2 && c < 0xe0) {
		size = 2, low = 0x80, c &= 0x1f;
	} else if (c >= 0xe0 && c < 0xf0) {
		size = 3, low = 0x800, c &= 0x0f;
	} else if (c >= 0xf0 && c < 0xf5) {
		size = 4, low = 0x10000, c &= 0x07;
	} else {
		return 0;
	}
	if ((size_t)size > n)
		return 0;
	for (int i = 1; i < size; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3f);
	}
	if (c < low || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
		return 0;
	if (code)
		*code = c;
	return size;
}

/* Length of the valid UTF-8 at the start of p. */
static size_t utf8_valid(const uint8_t *p, size_t n)
{
	size_t i = 0;
	while (i < n) {
		uint64_t word;
		while (n - i >= sizeof word &&
		       (memcpy(&word, p + i, sizeof word), !(word & UINT64_C(0x8080808080808080))))
			i += sizeof word;
		int size = i < n ? utf8_sequence(p + i, n - i, NULL) : 0;
		if (!size)
			break;
		i += (size_t)size;
	}
	return i;
}

/* ---- Compiling ------------------------------------------------------------------ */

/* PCRE2's memory comes from the context; its size stands before each block, because
 * PCRE2 does not say it when it frees. */
#define HEAD (sizeof(max_align_t))

static void *take(size_t size, void *ctx)
{
	char *p = size > SIZE_MAX - HEAD ? NULL : mem_alloc(ctx, size + HEAD);
	if (!p)
		return NULL;
	memcpy(p, &size, sizeof size);
	return p + HEAD;
}

static void give(void *p, void *ctx)
{
	if (!p)
		return;
	size_t size;
	memcpy(&size, (char *)p - HEAD, sizeof size);
	mem_free(ctx, (char *)p - HEAD, size + HEAD);
}

an_status split_new(an_ctx *ctx, splitter **out)
{
	*out = NULL;
	splitter *s = mem_zalloc(ctx, sizeof *s);
	if (!s)
		return fail_memory(ctx, sizeof *s);
	s->ctx = ctx;
	s->general = pcre2_general_context_create(take, give, ctx);
	if (s->general) {
		s->limits = pcre2_match_context_create(s->general);
		s->stack = pcre2_jit_stack_create(32 << 10, 8 << 20, s->general);
	}
	if (!s->limits || !s->stack) {
		split_free(s);
		return fail_memory(ctx, 0);
	}
	pcre2_jit_stack_assign(s->limits, NULL, s->stack);
	*out = s;
	return AN_OK;
}

void split_free(splitter *s)
{
	if (!s)
		return;
	for (int i = 0; i < s->stages; i++) {
		pcre2_match_data_free(s->stage[i].match);
		pcre2_code_free(s->stage[i].code);
	}
	pcre2_jit_stack_free(s->stack);
	pcre2_match_context_free(s->limits);
	pcre2_general_context_free(s->general);
	mem_free(s->ctx, s, sizeof *s);
}

/* Unicode's White_Space, which is what \s means in tokenizers' expressions.  PCRE2's has U+180E too. */
#define SPACES \
	"\\t-\\r \\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

/* Rewrites an Oniguruma expression for PCRE2.  The two agree on what tokenizers use apart from
 * the white space; constructs on which they do not are refused. */
static an_status translate(an_ctx *ctx, const char *pattern, str *out)
{
	bool set = false; /* inside [...] */
	const char *bad = NULL;
	for (const char *p = pattern; !bad && *p; p++) { /* a bad p may be past the end */
		if (*p == '\\') {
			p++;
			if (*p == 's') {
				str_add(out, set ? SPACES : "[" SPACES "]");
			} else if (*p == 'S' && !set) {
				str_add(out, "[^" SPACES "]");
			} else if (*p == 'u') {
				if (strspn(p + 1, "0123456789abcdefABCDEF") < 4) {
					bad = "\\u without four digits";
				} else {
					str_addf(out, "\\x{%.4s}", p + 1);
					p += 4;
				}
			} else if (*p && strchr("pPx", *p) && p[1] == '{' && strchr(p, '}')) {
				const char *end = strchr(p, '}');
				str_addf(out, "\\%.*s", (int)(end - p) + 1, p);
				p = end;
			} else if (*p && strchr("dDrntf", *p)) {
				str_addf(out, "\\%c", *p);
			} else if ((*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'z') ||
				   (*p >= 'A' && *p <= 'Z')) {
				return fail(ctx, AN_UNSUPPORTED,
					    "split expression \"%s\": \\%c is not supported", pattern, *p);
			} else if (*p) {
				str_addf(out, "\\%c", *p);
			} else {
				bad = "a backslash at its end";
			}
			continue;
		}
		if (set) {
			if (*p == ']')
				set = false;
			else if (*p == '[')
				bad = "a set inside a set";
			else if (p[0] == '&' && p[1] == '&')
				bad = "an intersection of sets (&&)";
		} else if (*p == '[') {
			set = true;
			str_add(out, "[");
			if (p[1] == '^') {
				str_add(out, "^");
				p++;
			}
			if (p[1] == ']') /* first in a set: the character itself */
				bad = "an unescaped ] first in a set";
			continue;
		} else if (*p == '^' || *p == '$') {
			bad = "an anchor (^ or $)";
		} else if (*p == '(' &&
			   (p[1] == '*' || (p[1] == '?' && (!p[2] || !strchr(":=!<>i", p[2]))))) {
			bad = "such a group"; /* other flags have other meanings */
		} else if (*p == '{') {       /* a count: {n}, {n,}, {n,m} */
			size_t n = strspn(p + 1, "0123456789,") + 1;
			if (p[1] == ',' || p[n] != '}' || p[n + 1] == '+')
				bad = "such a {count}";
		}
		str_add_n(out, p, 1);
	}
	if (bad)
		return fail(ctx, AN_UNSUPPORTED, "split expression \"%s\": %s is not supported", pattern,
			    bad);
	return str_status(out);
}

an_status split_add(splitter *s, const char *pattern)
{
	if (s->stages == SPLIT_MAX_STAGES)
		return fail(s->ctx, AN_UNSUPPORTED, "more than %d splits one after the other",
			    SPLIT_MAX_STAGES);
	str text;
	str_init(&text, s->ctx);
	an_status status = translate(s->ctx, pattern, &text);
	if (status != AN_OK) {
		str_free(&text);
		return status;
	}
	pcre2_compile_context *how = pcre2_compile_context_create(s->general);
	stage g = {NULL, NULL};
	int error = 0;
	PCRE2_SIZE at = 0;
	if (how) {
		pcre2_set_newline(how, PCRE2_NEWLINE_LF); /* what "." stops at */
		g.code = pcre2_compile((PCRE2_SPTR)text.data, text.len,
				       PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &at, how);
	}
	bool asked = how != NULL;
	pcre2_compile_context_free(how);
	str_free(&text);
	if (!g.code) {
		char why[160] = "";
		if (!asked || error == PCRE2_ERROR_HEAP_FAILED)
			return fail_memory(s->ctx, 0);
		pcre2_get_error_message(error, (PCRE2_UCHAR *)why, sizeof why);
		return fail(s->ctx, AN_FORMAT, "split expression \"%s\": %s", pattern, why);
	}
	/* without a just-in-time compiler (or the memory for it) the interpreter does the same, slower */
	(void)pcre2_jit_compile(g.code, PCRE2_JIT_COMPLETE);
	g.match = pcre2_match_data_create_from_pattern(g.code, s->general);
	if (!g.match) {
		pcre2_code_free(g.code);
		return fail_memory(s->ctx, 0);
	}
	s->stage[s->stages++] = g;
	return AN_OK;
}

/* ---- Splitting ------------------------------------------------------------------ */

/* Finds the first match at or after `from`, as an interval; *begin = *end = n: there is none. */
static an_status next_match(splitter *s, const stage *g, const uint8_t *p, size_t n, size_t from,
			    size_t *begin, size_t *end)
{
	*begin = *end = n;
	while (from < n) {
		int rc = pcre2_match(g->code, p, n, from, PCRE2_NO_UTF_CHECK, g->match, s->limits);
		if (rc == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter has the heap to go back on */
			rc = pcre2_match(g->code, p, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, g->match,
					 s->limits);
		if (rc == PCRE2_ERROR_NOMATCH)
			return AN_OK;
		if (rc == PCRE2_ERROR_NOMEMORY)
			return fail_memory(s->ctx, 0);
		if (rc < 0) {
			char why[160] = "unknown error";
			pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
			return fail(s->ctx, AN_UNSUPPORTED, "splitting text failed: %s", why);
		}
		const PCRE2_SIZE *range = pcre2_get_ovector_pointer(g->match);
		if (range[1] > range[0]) {
			*begin = range[0];
			*end = range[1];
			return AN_OK;
		}
		/* an empty match cuts nothing: look on behind the next character */
		from = range[0] < n ? range[0] + (size_t)utf8_sequence(p + range[0], n - range[0], NULL) : n;
	}
	return AN_OK;
}

static an_status split_from(splitter *s, int k, const uint8_t *p, size_t n, split_piece *piece, void *arg)
{
	if (k == s->stages)
		return piece(arg, p, n);
	for (size_t at = 0; at < n;) {
		size_t begin, end;
		TRY(next_match(s, &s->stage[k], p, n, at, &begin, &end));
		if (begin > at)
			TRY(split_from(s, k + 1, p + at, begin - at, piece, arg));
		if (end > begin)
			TRY(split_from(s, k + 1, p + begin, end - begin, piece, arg));
		at = end;
	}
	return AN_OK;
}

an_status split_text(splitter *s, const uint8_t *text, size_t len, split_piece *piece, void *arg,
		     int64_t *invalid)
{
	/* A piece may be megabytes of one letter, and going back over it costs a few steps per character,
	 * so the limit on steps grows with the text; a hostile expression still meets it. */
	uint64_t steps = UINT64_C(10000000) + 64 * (uint64_t)len;
	pcre2_set_match_limit(s->limits, (uint32_t)MIN(steps, UINT32_MAX));
	int64_t bad = 0;
	for (size_t at = 0; at < len;) {
		size_t n = utf8_valid(text + at, len - at);
		if (n) {
			TRY(split_from(s, 0, text + at, n, piece, arg));
		} else {
			n = 1;
			bad++;
			TRY(piece(arg, text + at, 1));
		}
		at += n;
	}
	if (invalid)
		*invalid = bad;
	return AN_OK;
}
