/* From texts to token files. */
#ifndef CLI_PREPARE_H
#define CLI_PREPARE_H

#include "cli/cli.h"

typedef struct prepare_options {
	const char *const *texts; /* files; each is a document of its own */
	int ntexts;
	const char *valid;     /* a file of validation text, NULL: */
	double valid_share;    /* the end of the texts, as a share of their bytes */
	const char *tokenizer; /* a tokenizer.json; NULL: trained on the training text */
	int32_t vocab;         /* of a tokenizer that is trained */
	int seq;               /* a text must fill one sequence */
	const char *dir;       /* gets tokenizer.json, train.bin, valid.bin, data.json */
	bool reuse;            /* take the files that are there, if they are complete */
} prepare_options;

typedef struct prepared {
	an_tokenizer *tokenizer;
	an_tokens *train, *valid; /* valid may be NULL */
	int64_t valid_bytes;
} prepared;

/* Every document is preceded by the token that ends a text (if the tokenizer has one), so that all of its
 * own tokens are predicted.  Token files hold uint16, or uint32 for more than 65536 tokens. */
prepared prepare(an_ctx *ctx, const prepare_options *opt);
void prepared_free(prepared *p);

#endif
