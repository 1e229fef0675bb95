#include "mil/lex.h"

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_first(char c) { return ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_'; }

void lex_init(lexer *l, const char *text, size_t len) { *l = (lexer){text, text + len, text, 1}; }

/* Blanks, and comments from // to the end of the line. */
static void skip_blanks(lexer *l)
{
	for (; l->at < l->end; l->at++) {
		if (*l->at == '\n') {
			l->line++;
			l->line_start = l->at + 1;
		} else if (*l->at == '/' && l->end - l->at > 1 && l->at[1] == '/') {
			while (l->at + 1 < l->end && l->at[1] != '\n')
				l->at++;
		} else if (*l->at != ' ' && *l->at != '\t' && *l->at != '\r') {
			return;
		}
	}
}

/* Whether a number may start here, perhaps after a sign. */
static bool starts_number(const lexer *l)
{
	const char *c = l->at;
	if (*c == '-' || *c == '+')
		c++;
	if (c > l->at && c < l->end && is_first(*c)) /* -inf */
		return true;
	if (c < l->end && *c == '.')
		c++;
	return c < l->end && is_digit(*c);
}

static const char *number_end(const lexer *l)
{
	const char *c = l->at + (*l->at == '-' || *l->at == '+');
	bool hex = l->end - c > 1 && c[0] == '0' && (c[1] | 32) == 'x';
	for (; c < l->end; c++) {
		bool sign = (*c == '-' || *c == '+') && (c[-1] | 32) == (hex ? 'p' : 'e');
		if (!is_digit(*c) && !is_first(*c) && *c != '.' && !sign)
			break;
	}
	return c;
}

/* Past the closing quote; NULL: the line or the text ends before it. */
static const char *string_end(const lexer *l)
{
	for (const char *c = l->at + 1; c < l->end && *c != '\n'; c++) {
		if (*c == '"')
			return c + 1;
		if (*c == '\\')
			c++;
	}
	return NULL;
}

token lex_next(lexer *l)
{
	skip_blanks(l);
	token t = {TOKEN_END, l->at, 0, l->line, (int)MIN(l->at - l->line_start + 1, INT32_MAX)};
	if (l->at == l->end)
		return t;
	const char *c = l->at;
	if (is_first(*c)) {
		t.kind = TOKEN_NAME;
		while (c < l->end && (is_first(*c) || is_digit(*c) || *c == '@'))
			c++;
		/* nan(0x7e01) */
		if (c - l->at == 3 && memcmp(l->at, "nan", 3) == 0 && l->end - c > 2 && c[0] == '(' &&
		    c[1] == '0') {
			t.kind = TOKEN_NUMBER;
			while (c < l->end && *c != '\n' && *c++ != ')')
				;
		}
	} else if (*c == '-' && l->end - c > 1 && c[1] == '>') {
		t.kind = TOKEN_ARROW;
		c += 2;
	} else if (starts_number(l)) {
		t.kind = TOKEN_NUMBER;
		c = number_end(l);
	} else if (*c == '"') {
		c = string_end(l);
		t.kind = c ? TOKEN_STRING : TOKEN_BAD;
		if (!c)
			c = l->at + 1;
	} else {
		t.kind = *c && strchr("()[]{}<>,;=?", *c) ? TOKEN_CHAR : TOKEN_BAD;
		c++;
	}
	t.len = (size_t)(c - l->at);
	l->at = c;
	return t;
}
