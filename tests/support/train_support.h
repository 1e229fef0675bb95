/* A small training for tests. */
#ifndef SUPPORT_TRAIN_SUPPORT_H
#define SUPPORT_TRAIN_SUPPORT_H

#include "anneal/anneal.h"

enum { SMALL_VOCAB = 67 };
extern const an_llama_config small_config; /* odd sizes, grouped heads, tied */

typedef struct setup {
	an_ctx *ctx;
	an_device *device;
	an_model *model;
	an_tokens *train, *valid;
	an_data data;
	an_trainer *trainer; /* setup_trainer; freed with the rest */
} setup;

/* Ends the test with the context's message if s is not AN_OK. */
void check_ok(an_ctx *ctx, an_status s);
/* Ends the test unless s is `want` and the message has every one of the words (NULL after the last). */
void check_refused(an_ctx *ctx, an_status s, an_status want, ...);

/* Context, device, model, 1500 training and 200 validation tokens; threads, numerics and config may be
 * 0 or NULL. */
void setup_open(setup *s, int threads, const char *numerics, const an_llama_config *config);
/* The same on any device. */
void setup_open_on(setup *s, int threads, const an_device_options *device, const an_llama_config *config);
void setup_trainer(setup *s, const an_train_options *opt, const float *block);
void setup_close(setup *s);

/* What a training gives: gradients of its first update, weights after all, losses. */
typedef struct result {
	float *gradients, *weights;
	double loss[32], scale[32], valid; /* by update; of the whole validation text */
	int64_t params;
	int device, host; /* programs of a micro-batch */
} result;

/* A training on a device, none of whose updates is skipped. */
result result_of(const an_llama_config *c, const an_device_options *device, const an_train_options *o);
void result_free(result *r);
/* Ends the test, naming `what`, unless both have the same bits. */
void result_same(const char *what, const result *want, const result *have);

/* n tokens that can be learnt. */
void learnable_tokens(int32_t *out, int n, int32_t vocab, uint64_t seed);

/* A folder below the test program's own, which goes away with it; valid until the eighth next call. */
const char *scratch_path(const char *name);
/* A whole file, NUL-terminated; free() it.  NULL: there is none. */
char *read_all(const char *path, size_t *n);
void write_all(const char *path, const void *data, size_t n);
/* Entries of a folder whose names contain `part`. */
int count_entries(const char *folder, const char *part);

#endif
