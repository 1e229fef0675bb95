/* The tokenizer's tables, shared by training, encoding and tokenizer.json. */
#ifndef TEXT_TOKENIZER_H
#define TEXT_TOKENIZER_H

#include "anneal/text.h"
#include "base/base.h"
#include "text/pairs.h"
#include "text/split.h"

#define TOK_END_TEXT "<|endoftext|>"

typedef struct tok_token {
	const uint8_t *bytes; /* in the arena; NULL: no token has this id */
	size_t len;
	bool added; /* not made by merges: special tokens and others that are found by their text only */
} tok_token;

typedef struct tok_merge {
	int32_t left, right, id;
} tok_merge;

struct an_tokenizer {
	an_ctx *ctx;
	arena mem;
	splitter *split;
	tok_token *token; /* by id */
	int32_t vocab;
	size_t token_cap;
	int32_t byte[256]; /* ids of the single bytes */
	int32_t end;       /* of text; -1: none */
	tok_merge *merge;  /* by rank */
	int32_t merges;
	size_t merge_cap;
	pairs rank;       /* (left, right) -> index into merge */
	int32_t *by_text; /* ids of tokens that are not added, hashed by their bytes; -1: free */
	size_t by_text_cap, by_text_used;
	bool whole_first; /* a piece that is a token is that token, whatever the merges say */
	bool nfc;         /* the text is normalized first; see an_encode */
	/* the files it was loaded from, which saving repeats; data NULL: it was trained here */
	str document, config;
};

/* An empty tokenizer: no tokens, no stages of splitting. */
an_status tok_new(an_ctx *ctx, an_tokenizer **out);
/* Adds a token with this id, which must be free; copies the bytes. */
an_status tok_put(an_tokenizer *t, int32_t id, const void *bytes, size_t len, bool added);
/* The token with these bytes that is not an added one, or -1. */
int32_t tok_find(const an_tokenizer *t, const uint8_t *bytes, size_t len);
/* Adds the merge with the next rank. */
an_status tok_put_merge(an_tokenizer *t, int32_t left, int32_t right, int32_t id);

#endif
