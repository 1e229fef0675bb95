/* Tokenizers (byte-level BPE) and token files. */
#ifndef ANNEAL_TEXT_H
#define ANNEAL_TEXT_H

#include "anneal/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct an_tokenizer an_tokenizer;

typedef struct an_bpe_options {
	int32_t vocab;  /* total size, 257 .. 65536: 256 bytes + merges + 1 special (end of text) */
	void (*progress)(void *user, double fraction); /* may be NULL */
	void *user;
} an_bpe_options;

/* Trains byte-level BPE on a text: pieces by GPT-2's split pattern, the most frequent pair is
 * merged first, ties go to the pair that is smaller by bytes.  Invalid UTF-8 is trained on as single
 * bytes; *invalid (may be NULL) counts those bytes.  A text with too few distinct pairs gives a
 * smaller vocabulary.  The special token "<|endoftext|>" has the last id. */
AN_API an_status an_bpe_train(an_ctx *ctx, const uint8_t *text, size_t len, const an_bpe_options *opt,
                              an_tokenizer **out, int64_t *invalid);
/* Hugging Face tokenizer.json with a byte-level BPE model (as written by us, GPT-2, Qwen, Llama 3). */
AN_API an_status an_tokenizer_load(an_ctx *ctx, const char *path, an_tokenizer **out);
AN_API an_status an_tokenizer_save(const an_tokenizer *t, const char *path);
AN_API void an_tokenizer_free(an_tokenizer *t);
AN_API int32_t an_tokenizer_vocab(const an_tokenizer *t);
AN_API int32_t an_tokenizer_end(const an_tokenizer *t); /* id of end of text, -1: none */

/* Lossless on arbitrary bytes: decode(encode(x)) == x.  *ids is freed with an_ids_free. */
AN_API an_status an_encode(const an_tokenizer *t, const uint8_t *text, size_t len, int32_t **ids, size_t *n);
AN_API void an_ids_free(an_ctx *ctx, int32_t *ids, size_t n);
/* The bytes of one token (special tokens: their text); NULL: no such id. */
AN_API const uint8_t *an_token_bytes(const an_tokenizer *t, int32_t id, size_t *len);

/* A token file: a plain little-endian array of uint16 (vocab <= 65536) or uint32, mapped. */
typedef struct an_tokens an_tokens;
AN_API an_status an_tokens_write(an_ctx *ctx, const char *path, const int32_t *ids, size_t n, int width /* 2 or 4 */);
/* Every id must be below `vocab`; the first that is not is named with its place. */
AN_API an_status an_tokens_open(an_ctx *ctx, const char *path, int width, int32_t vocab, an_tokens **out);
AN_API void an_tokens_close(an_tokens *t);
AN_API size_t an_tokens_count(const an_tokens *t);
AN_API void an_tokens_get(const an_tokens *t, size_t begin, size_t n, int32_t *out);

#ifdef __cplusplus
}
#endif
#endif
