/* Which tokens a step sees: a pure function of the seed and the step, so that resuming needs no
 * saved state.
 *
 * N tokens hold W = (N-1)/T windows of T tokens with the token that follows each; (N-1)%T tokens
 * are left over.  An epoch visits every window once:
 *   - sequence b of micro-batch i of update k has number g = (k*accumulate + i)*batch + b; it is at
 *     position g%W of epoch e = g/W;
 *   - epoch e begins its windows at token bits(seed, 2^32+1, e) % ((N-1)%T + 1), so that what is
 *     left over, and where sequences are cut, changes;
 *   - positions are permuted by four Feistel rounds on 2h bits, 4^h >= W, h >= 1, the smallest:
 *     (L, R) <- (R, L ^ bits(seed, 2^32, (4e+r)*2^32 + R) mod 2^h), repeated until the result is
 *     below W.
 * bits() is random_bits() of base/random.h; streams below 2^32 belong to initial weights. */
#ifndef TRAIN_DATA_H
#define TRAIN_DATA_H

#include "anneal/text.h"
#include "base/base.h"

/* Windows of `tokens` tokens among `n`; 0: the text is too short for one. */
int64_t data_windows(size_t n, int tokens);
/* The window at position p of epoch e, of `windows`. */
int64_t data_permute(uint64_t seed, int64_t epoch, int64_t p, int64_t windows);
/* The first token of sequence number g. */
size_t data_begin(uint64_t seed, size_t n, int tokens, int64_t g);

/* Inputs and targets of `batch` sequences from number g on: input[b*tokens + i] and the token after
 * it; scratch has room for tokens + 1. */
void data_batch(const an_tokens *from, uint64_t seed, int batch, int tokens, int64_t g, int32_t *input,
		int32_t *target, int32_t *scratch);

/* Windows in order for evaluation: sequences first, first+1, ... of `batch`, each `tokens` long.  Tokens
 * 1 .. count of `from` are predicted; what lies beyond has target -1. */
void data_eval_batch(const an_tokens *from, int64_t count, int batch, int tokens, int64_t first,
		     int32_t *input, int32_t *target, int32_t *scratch);

/* Checks all ids against a vocabulary and hashes them; `what` names the tokens in the message. */
an_status data_check(an_ctx *ctx, const an_tokens *t, const char *what, int32_t vocab, uint64_t *hash);

#endif
