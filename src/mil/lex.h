/* Tokens of MIL text. */
#ifndef MIL_LEX_H
#define MIL_LEX_H

#include "base/base.h"

typedef enum token_kind {
	TOKEN_END,
	TOKEN_NAME,   /* [A-Za-z_][A-Za-z0-9_@]* */
	TOKEN_NUMBER, /* as mil_parse_number takes it */
	TOKEN_STRING, /* with its quotes and escapes */
	TOKEN_ARROW,  /* -> */
	TOKEN_CHAR,   /* one character of ()[]{}<>,;=? */
	TOKEN_BAD     /* anything else; an unterminated string */
} token_kind;

typedef struct token {
	token_kind kind;
	const char *text; /* in the source, not terminated */
	size_t len;
	int line, column; /* from 1; columns count bytes */
} token;

typedef struct lexer {
	const char *at, *end, *line_start;
	int line;
} lexer;

void lex_init(lexer *l, const char *text, size_t len);
token lex_next(lexer *l);

static inline bool token_is(const token *t, char c) { return t->kind == TOKEN_CHAR && *t->text == c; }
static inline bool token_word(const token *t, const char *word)
{
	return t->kind == TOKEN_NAME && strlen(word) == t->len && memcmp(t->text, word, t->len) == 0;
}

#endif
