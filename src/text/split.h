/* Cutting text into the pieces that byte-pair merges may not cross.
 *
 * A splitter is a chain of stages, each a regular expression as in a tokenizer.json's
 * pre_tokenizer: every match is a piece of its own and so is every stretch between two
 * matches; the next stage cuts each of them further as if it stood alone.  Nothing is
 * dropped: the pieces, one after the other, are the text.
 *
 * The expressions see valid UTF-8 only.  A byte that belongs to no valid sequence (RFC 3629:
 * no overlong forms, no surrogates, nothing above U+10FFFF) is a piece by itself and ends the
 * valid stretch before it. */
#ifndef TEXT_SPLIT_H
#define TEXT_SPLIT_H

#include "base/base.h"

typedef struct splitter splitter;

/* GPT-2's expression: English contractions, words, numbers and other signs each with at
 * most one space before them, then white space, whose last character stays with the word that follows. */
#define SPLIT_GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

#define SPLIT_MAX_STAGES 8

an_status split_new(an_ctx *ctx, splitter **out);
void split_free(splitter *s);
/* Adds a stage.  The expression is read with the meaning it has in Hugging Face's library
 * (Oniguruma); what PCRE2 would understand differently is translated or refused. */
an_status split_add(splitter *s, const char *pattern);

/* Calls piece() for every piece in order until one fails.  *invalid (may be NULL) counts the
 * bytes outside valid UTF-8. */
typedef an_status split_piece(void *arg, const uint8_t *p, size_t n);
an_status split_text(splitter *s, const uint8_t *text, size_t len, split_piece *piece, void *arg,
		     int64_t *invalid);

/* Bytes of the valid UTF-8 sequence at p, of which n >= 1 bytes may be read; 0: none.
 * *code (may be NULL) is its code point. */
int utf8_sequence(const uint8_t *p, size_t n, uint32_t *code);

#endif
