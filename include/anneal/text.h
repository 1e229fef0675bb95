/* Tokenizers (byte-level BPE) and token files. */
#ifndef ANNEAL_TEXT_H
#define ANNEAL_TEXT_H

#include "anneal/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct an_tokenizer an_tokenizer;

/* ---- Training a tokenizer -------------------------------------------------------- */

typedef struct an_bpe_options {
	int32_t vocab; /* total size, 257 .. 65536: 256 bytes + merges + 1 special (end of text) */
	void (*progress)(void *user, double fraction); /* may be NULL */
	void *user;
} an_bpe_options;

/* Trains byte-level BPE on a text: pieces by GPT-2's split pattern, the most frequent pair is
 * merged first; of equally frequent pairs the one whose left token is smaller by its bytes (then
 * its right one; memcmp's order, a prefix before what it begins).  The same text gives the same
 * tokenizer.  Invalid UTF-8 is trained on as single bytes; *invalid (may be NULL) counts those
 * bytes.  Pairs that occur once, or would have more than 128 bytes, are
 * not merged, so a short text gives a smaller vocabulary.  Ids
 * 0..255 are the bytes; the special token "<|endoftext|>" has the last id. */
AN_API an_status an_bpe_train(an_ctx *ctx, const uint8_t *text, size_t len, const an_bpe_options *opt,
			      an_tokenizer **out, int64_t *invalid);

/* ---- Files ----------------------------------------------------------------------- */

/* Hugging Face's tokenizer.json with a byte-level BPE model, as written by us, GPT-2, Qwen or Llama 3.
 * A tokenizer_config.json in the same folder tells which token ends a text, else it is the first
 * known of "<|endoftext|>", "<|end_of_text|>" and the like.  What would be encoded differently from
 * Hugging Face's library (SentencePiece or WordPiece models, byte fallback, normalizers other than
 * NFC, added spaces, ...) is refused with AN_UNSUPPORTED and the key that says so. */
AN_API an_status an_tokenizer_load(an_ctx *ctx, const char *path, an_tokenizer **out);
/* Writes tokenizer.json at `path` and, if its name is "tokenizer.json", the tokenizer_config.json
 * that Hugging Face's AutoTokenizer wants beside it.  A loaded tokenizer is written as it was read. */
AN_API an_status an_tokenizer_save(const an_tokenizer *t, const char *path);
AN_API void an_tokenizer_free(an_tokenizer *t);
AN_API int32_t an_tokenizer_vocab(const an_tokenizer *t); /* the largest id + 1 */
AN_API int32_t an_tokenizer_end(const an_tokenizer *t);   /* id of end of text, -1: none */

/* ---- Encoding and decoding ------------------------------------------------------- */

/* Lossless on arbitrary bytes: the bytes of the ids, one after the other, are the text.  The text
 * is plain: special tokens' texts in it are encoded like any other words, and none are added.  For a
 * tokenizer that normalizes to NFC, a text that this might change is refused.  *ids is freed with
 * an_ids_free. */
AN_API an_status an_encode(const an_tokenizer *t, const uint8_t *text, size_t len, int32_t **ids, size_t *n);
/* an_encode that reports progress (NULL: not) and counts the bytes outside valid UTF-8 (NULL: not). */
AN_API an_status an_encode_progress(const an_tokenizer *t, const uint8_t *text, size_t len,
				    void (*progress)(void *user, double fraction), void *user, int32_t **ids,
				    size_t *n, int64_t *invalid);
AN_API void an_ids_free(an_ctx *ctx, int32_t *ids, size_t n);
/* The bytes of one token (added and special tokens: their text); NULL: no such id. */
AN_API const uint8_t *an_token_bytes(const an_tokenizer *t, int32_t id, size_t *len);

/* ---- Token files ----------------------------------------------------------------- */

/* A plain little-endian array of uint16 (vocab <= 65536) or uint32, mapped. */
typedef struct an_tokens an_tokens;
AN_API an_status an_tokens_write(an_ctx *ctx, const char *path, const int32_t *ids, size_t n,
				 int width /* 2 or 4 */);
/* Every id must be below `vocab`; the first that is not is named with its place. */
AN_API an_status an_tokens_open(an_ctx *ctx, const char *path, int width, int32_t vocab, an_tokens **out);
/* Tokens in memory, of which this makes a copy. */
AN_API an_status an_tokens_copy(an_ctx *ctx, const int32_t *ids, size_t n, int32_t vocab, an_tokens **out);
AN_API void an_tokens_close(an_tokens *t);
AN_API size_t an_tokens_count(const an_tokens *t);
/* Tokens begin .. begin + n - 1, which must exist. */
AN_API void an_tokens_get(const an_tokens *t, size_t begin, size_t n, int32_t *out);
/* Bytes of text that these tokens stand for, for bits per byte; end of text stands for none. */
AN_API int64_t an_tokens_bytes(const an_tokens *t, size_t begin, size_t n, const an_tokenizer *by);

#ifdef __cplusplus
}
#endif
#endif
