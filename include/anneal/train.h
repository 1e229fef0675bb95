/* Training, evaluation and generation on any device. */
#ifndef ANNEAL_TRAIN_H
#define ANNEAL_TRAIN_H

#include "anneal/device.h"
#include "anneal/nn.h"
#include "anneal/text.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- The plan -------------------------------------------------------------------- */

/* One entry of a step: run a program on the device, or one of the closed list of host
 * operations.  The trainer executes exactly this list and times each entry. */
typedef enum an_host_op {
	AN_HOST_NONE, /* a device program */
	AN_HOST_EMBED,
	AN_HOST_EMBED_GRAD,
	AN_HOST_CROSS_ENTROPY,
	AN_HOST_WEIGHT_GRAD,
	AN_HOST_CAST,
	AN_HOST_NORM,
	AN_HOST_ADAMW,
	AN_HOST_PROGRAM, /* a program that the plan gives to the host: what a published split leaves there */
	AN_HOST_PACK,    /* activations into the packed input of the next program */
	AN_HOST_WEIGHTS  /* new weights into one program: packed into its input, or as its constants */
} an_host_op;
typedef struct an_plan_entry {
	const char *name; /* "layers.0 forward", "dW layers.0.wq" */
	an_host_op host;
	int64_t flops;            /* 2*M*N*K over its contractions */
	int64_t bytes;            /* read and written: surfaces of a program, operands of a host op */
	int64_t in, weights, out; /* programs: the parts of `bytes`; activations and parameters read, values
				   * returned */
	int compiles, reloads;    /* of programs: AN_HOST_WEIGHTS */
	bool per_update;          /* once per optimizer step instead of once per micro-batch */
	double seconds;           /* measured: sum over runs */
	int64_t runs;
} an_plan_entry;

/* ---- Training -------------------------------------------------------------------- */

struct an_train_report;

/* How weights reach the device's programs.  All give the same bits. */
typedef enum an_weights {
	AN_WEIGHTS_DYNAMIC, /* each is an input */
	AN_WEIGHTS_PACKED,  /* all inputs of a program are packed into one (an_pack), along the axis that the
			     * chip can  slice: the last, or the channels where slices of the last lose large
			     * values */
	AN_WEIGHTS_BAKE,    /* they are constants; every update compiles the programs anew */
	AN_WEIGHTS_RELOAD   /* they are constants; every update replaces these (an_reload) */
} an_weights;

typedef struct an_train_options {
	/* what */
	int batch;      /* sequences per micro-batch; default 1 */
	int tokens;     /* per sequence; default the model's context */
	int accumulate; /* micro-batches per update; default 1 */
	int64_t steps;  /* updates; required */
	uint64_t seed;
	/* how it is cut into programs */
	int layers_per_program; /* default 1 */
	const char *split;      /* a split of the model's (an_model_split) for single layers; NULL: none */
	an_weights weights;     /* default AN_WEIGHTS_DYNAMIC; evaluations do as the training does */
	bool dw_device;         /* the device's programs compute the gradients of matrices, not the host */
	/* AdamW and schedule: warm-up from 0 to lr over `warmup` updates, then cosine to lr * min_lr */
	double lr;                             /* default 1e-3 */
	double min_lr;                         /* share of lr at the end; default 0.1; < 0: none of it */
	int64_t warmup;                        /* default steps / 20; < 0: none */
	double beta1, beta2, eps, decay, clip; /* defaults 0.9, 0.95, 1e-8, 0.1, 1.0; < 0: none */
	/* The gradient of the mean loss over an update's tokens is computed times this, so that fp16 holds
	 * it: the initial value, rounded down to a power of two.  Default 4 * tokens of an update.  It is
	 * halved when a gradient is not finite (that update is skipped), and doubled after 500 updates
	 * without, up to 256 times the initial value.  Where the device's contractions are in fixed point
	 * (numerics of chips), it grows instead while many of the backward's products are lost and none of
	 * its results comes near 2^15: the first 4 updates and then every 16th are counted for that. */
	double loss_scale;
	/* A gradient that is exactly zero because the arithmetic lost it ends the training with AN_NUMERIC:
	 * see an_trainer_counts.  true: it is logged as a warning, once for each time it becomes zero. */
	bool allow_lost;
	/* Updates 1, 1 + n, 1 + 2n ... are counted for an_trainer_counts and, in the metrics, by program;
	 * 0: none.  Costs time in these updates, and never changes a result. */
	int64_t count_every;
	/* Kernels of programs are timed too (an_executable_kernel), and times leave out the first update,
	 * which touches memory for the first time, unless it is the only one. */
	bool profile;
	/* checkpoints and reports */
	const char *dir;                /* output folder; NULL: nothing is written */
	int64_t eval_every, save_every; /* updates; default steps / 10; < 0: only at the end.  An
					 * evaluation that is the best so far is saved too; with eval_every >
					 * 0 there is one before the first update. */
	int64_t eval_tokens;            /* validation tokens per evaluation; 0: all */
	bool resume;                    /* continue from dir's last checkpoint, if there is one */
	const char *dump_dir;           /* write every program that is compiled there; NULL: no */
	const an_tokenizer *tokenizer;  /* saved in checkpoints; may be NULL */
	/* called after every update, evaluation and checkpoint, and while an evaluation goes on; returning
	 * false stops after a checkpoint, and leaves that evaluation to whoever resumes */
	bool (*report)(void *user, const struct an_train_report *r);
	void *user;
} an_train_options;

typedef struct an_train_report {
	enum {
		AN_REPORT_STEP,
		AN_REPORT_EVAL,
		AN_REPORT_SAVED,
		AN_REPORT_SKIPPED,
		AN_REPORT_EVALUATING
	} kind;
	int64_t step, steps;
	double loss; /* STEP, SKIPPED: mean over the update's tokens, nats per token; EVAL: validation */
	double bits_per_byte; /* EVAL: validation loss over the bytes of the validation text */
	double share;         /* EVALUATING: of the tokens that is done */
	double grad_norm, lr, loss_scale;
	double lost; /* STEP: share of the backward's products that were lost; NAN: this update was not
		      * counted */
	double tokens_per_second, seconds_left;
	const char *text; /* SAVED: the folder; SKIPPED (before its
			   * STEP): see an_trainer_skipped */
	bool best;        /* EVAL: the lowest so far */
} an_train_report;

typedef struct an_data {
	const an_tokens *train, *valid; /* valid may be NULL */
	int64_t valid_bytes;            /* bytes of text that `valid` encodes, for bits per byte */
} an_data;

typedef struct an_trainer an_trainer;
/* Builds model programs, differentiates, compiles, makes the plan and allocates; refuses what will
 * not fit into memory.  `block` (may be NULL: an_model_init with the seed) gives the initial weights. */
AN_API an_status an_trainer_new(an_device *d, const an_model *m, const an_data *data,
				const an_train_options *opt, const float *block, an_trainer **out);
AN_API void an_trainer_free(an_trainer *t);
/* All updates that are left, with evaluations, reports, metrics and checkpoints.  AN_INTERRUPTED: the
 * report callback asked to stop.  AN_BUDGET: the device compiles nothing more in this process; with a folder
 * a checkpoint was written, and the training resumed in a new process goes on with the bits it would have
 * had. AN_DEVICE also: a single update takes more compiles than the device allows, so that a new process
 * would come no further. */
AN_API an_status an_trainer_run(an_trainer *t);
/* One update and nothing else. */
AN_API an_status an_trainer_step(an_trainer *t);
AN_API int64_t an_trainer_at(const an_trainer *t);  /* updates done */
AN_API double an_trainer_loss(const an_trainer *t); /* of the last update, nats per token */
/* Mean loss over validation tokens (0: all), nats per token; *bits_per_byte may be NULL. */
AN_API an_status an_trainer_evaluate(an_trainer *t, int64_t tokens, double *loss, double *bits_per_byte);
AN_API const float *an_trainer_weights(const an_trainer *t); /* flat block, fp32 masters */
/* Flat block of the last update's gradients, unscaled, before clipping. */
AN_API const float *an_trainer_gradients(an_trainer *t);
/* The loss scale of the next update. */
AN_API double an_trainer_loss_scale(const an_trainer *t);
/* The parameter whose gradient, the first in the order of computation, was not finite in the last update,
 * which was skipped; "the loss" if that was not; NULL: it was applied. */
AN_API const char *an_trainer_skipped(const an_trainer *t);
/* Entries in the order of execution; valid as long as the trainer. */
AN_API int an_trainer_plan(const an_trainer *t, const an_plan_entry **entries);
AN_API int64_t an_trainer_memory(const an_trainer *t); /* bytes of buffers, host arrays, what programs
							* need while they run, and weights that the
							* device keeps packed */

/* What an entry's program did to its values (an_executable_counts), in all updates that counted since the
 * trainer was made or its counts were reset: in operation `op` of an_trainer_program, or with -1 in all.
 * Nothing for host operations. */
AN_API an_status an_trainer_counts(const an_trainer *t, int entry, int op, an_counts *out);
AN_API int64_t an_trainer_counted(const an_trainer *t); /* how many updates these were */
AN_API void an_trainer_reset_counts(an_trainer *t);
/* Seconds of the updates since the trainer was made or its times were reset, and how many they were (may be
 * NULL).  The entries' seconds are parts of it; what is left is the choice of tokens and what lies between.
 */
AN_API double an_trainer_seconds(const an_trainer *t, int64_t *updates);
AN_API void an_trainer_reset_times(an_trainer *t); /* of updates, entries and kernels */
/* What a program's entry runs, for the times of its kernels; entries of equal programs share it.  NULL: a
 * host operation, or not compiled yet. */
AN_API an_executable *an_trainer_executable(const an_trainer *t, int entry);
/* The function of a device entry; NULL: a host operation. */
AN_API const an_function *an_trainer_program(const an_trainer *t, int entry);

/* The plan alone, without data or weights (`anneal plan`); freed with an_trainer_free. */
AN_API an_status an_trainer_plan_only(an_device *d, const an_model *m, const an_train_options *opt,
				      an_trainer **out);

/* ---- Evaluation and generation ---------------------------------------------------- */

/* Zero in any field means the default. */
typedef struct an_evaluate_options {
	int tokens;    /* that one is predicted from; default the model's context */
	int64_t limit; /* how many are predicted; default all */
	/* called before every batch with the share of tokens that is done; returning false ends the
	 * evaluation with AN_INTERRUPTED */
	bool (*report)(void *user, double share);
	void *user;
} an_evaluate_options;

/* Loss of a token array under weights `block`: every token but the very first is predicted once, from at
 * most `tokens` before it, which begin at a multiple of `tokens`.  opt may be NULL.  Nats per token in *loss,
 * number predicted in *count. */
AN_API an_status an_evaluate(an_device *d, const an_model *m, const float *block, const an_tokens *data,
			     const an_evaluate_options *opt, double *loss, int64_t *count);

typedef struct an_sample_options {
	double temperature; /* 0: greedy */
	int top_k;          /* 0: all */
	double top_p;       /* 0 or 1: all */
	uint64_t seed;
} an_sample_options;

/* A sequence being decoded with a key/value cache of `context` tokens.  The model and the flat block of
 * its weights must outlive it. */
typedef struct an_generator an_generator;
AN_API an_status an_generator_new(an_device *d, const an_model *m, const float *block, int context,
				  an_generator **out);
AN_API void an_generator_free(an_generator *g);
/* Feeds tokens (a prompt, or the one just sampled); logits of the last one are then available:
 * an_generator_logits gives [vocab] fp32.  AN_USAGE when the context is full. */
AN_API an_status an_generator_feed(an_generator *g, const int32_t *ids, size_t n);
AN_API const float *an_generator_logits(const an_generator *g);
/* The k-th call gives the k-th draw of the seed: the same feeds and calls, the same tokens. */
AN_API int32_t an_generator_sample(an_generator *g, const an_sample_options *opt);
AN_API size_t an_generator_length(const an_generator *g);
/* Forgets all but the last `keep` tokens (re-feeding them), for generation beyond the context. */
AN_API an_status an_generator_slide(an_generator *g, size_t keep);

#ifdef __cplusplus
}
#endif
#endif
