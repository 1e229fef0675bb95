/* The trainer's inside: programs, surfaces, the plan and what executes it.
 *
 *   programs.c    segments' functions: join, differentiate, cut, take the weight gradients out, compile
 *   weights.c     how weights reach programs: policies
 *   plan.c        surfaces, and the list of entries with what each needs to run
 *   step.c        runs entries: a micro-batch, an update, an evaluation
 *   options.c     defaults and checks
 *   trainer.c     the public trainer: steps, evaluations, reports, checkpoints in order
 *   checkpoint.c  folders that are complete or not there
 *   counts.c      what the device's arithmetic lost, and why a gradient is zero
 *   metrics.c     the JSON lines
 *   data.c        which tokens a step sees
 *   memory.c      what the machine has left
 *   generate.c    decoding with a cache
 *
 * Sizes in comments: S tokens of a micro-batch, C dim, V vocabulary. */
#ifndef TRAIN_TRAIN_H
#define TRAIN_TRAIN_H

#include "anneal/pass.h"
#include "anneal/train.h"
#include "kernel/kernel.h"
#include "mil/ir.h"

/* A value at the border of a program that lives in a device buffer. */
typedef struct surface {
	const char *name;
	an_type type;
	an_buffer *buffer; /* NULL until plan_allocate */
	bool marked;       /* counts.c */
	an_buffer *twin;   /* the host's copy, where its programs read or write what is on another device */
	bool host;         /* they do */
	struct surface *next;
} surface;

/* One function on the device, or on the software device that stands for the host. */
typedef struct program {
	const char *name; /* of its stage; NULL: it is the only one */
	bool host;
	an_function *f; /* NULL: nothing is left to run, all it had were contractions */
	an_executable *exe;
	int64_t flops;
	an_contraction *contraction; /* weight gradients for the host, of what it returns and reads */
	int ncontractions;
	an_slot *slot; /* where it has one packed input: what that has been made of */
	int nslots;
} program;

/* Programs that run one after the other. */
typedef struct chain {
	program *at;
	int n;
} chain;

/* Segments with the same function share these. */
typedef struct kind {
	const char *function;   /* "layer", "layer_4" */
	an_function *f;         /* from x and parameters to its output, whole */
	an_function *forward_f; /* and with the residuals */
	chain evaluate, forward, backward;
	surface **shared; /* what programs return for those that follow at once, and for the host */
	int nshared;
} kind;

/* Layers in one program, or the head. */
typedef struct segment {
	an_segment is;
	const char **label; /* by parameter, for entries: "layers.3.wq" */
	kind *kind;
	surface *x, *out;     /* activations */
	surface *d_out, *d_x; /* cotangents; the head's d_out is its logits, in place */
	surface **residual;   /* by output of forward_f, the first is NULL */
	struct dispatch **evaluate;
} segment;

/* A program with the surfaces of a segment. */
typedef struct dispatch {
	const program *program;
	const segment *segment;
	an_executable *exe; /* the program's, or one of its own */
	int shift;          /* constants of its own before the program's operations */
	an_call *call;
	surface **port; /* programs of the host: inputs, then outputs of exe */
	int inputs, ports;
	surface *packed; /* the packed input; weights stay in it from update to update */
	int64_t version; /* of the weights that are in `packed` or in the constants of `exe`; 0: none */
	struct dispatch *next;
} dispatch;

/* How an operand of a WEIGHT_GRAD is packed: by each product, or once for this one and those that follow. */
typedef enum sharing { SHARE_NONE, SHARE_FIRST, SHARE_NEXT } sharing;

/* What an entry of the plan needs to run. */
typedef struct action {
	dispatch *dispatch; /* AN_HOST_NONE, PROGRAM, PACK, WEIGHTS */
	int param;          /* gradients: whose; updates: index into `order` of the first */
	int nparams;        /* updates */
	surface *x, *y;     /* WEIGHT_GRAD: operands; CAST: x */
	k_gemm_args gemm;   /* WEIGHT_GRAD: one of its batches, without addresses */
	int64_t batch, x_offset, y_offset, x_stride, y_stride; /* WEIGHT_GRAD: in elements */
	const k_gemm_row *row;
	sharing share[2]; /* A, B */
	/* device entries, by operation: of all updates that counted, and of the last */
	an_counts *counts, *recent;
} action;

/* What a checkpoint saves beside weights and moments. */
typedef struct train_state {
	int64_t step;      /* updates done */
	int64_t applied;   /* of those, not skipped */
	double loss_scale; /* d(mean loss) is multiplied by it; a power of two */
	int64_t good;      /* updates since it last changed */
	double best_loss;  /* validation, nats per token; INFINITY: none yet */
	int64_t best_step;
	int64_t evaluated; /* the step of the last evaluation; -1: none */
} train_state;

typedef enum train_mode { MODE_TRAIN, MODE_PLAN, MODE_EVALUATE } train_mode;

struct an_trainer {
	an_ctx *ctx;
	an_device *device;
	an_device *host; /* runs the host's programs; often `device`; NULL: there are none */
	const an_model *model;
	an_data data;
	an_train_options o; /* resolved */
	train_mode mode;
	int64_t S, tokens_per_update;
	k_precision precision;
	uint64_t data_hash;

	arena arena;
	an_program *program;
	kind *kinds;
	int nkinds;
	segment *segments;
	int nsegments;
	surface *surfaces;    /* all */
	dispatch *dispatches; /* all */
	surface **weight;     /* by parameter; NULL: not on the device */
	surface *embedded, *d_embedded, *logits;
	int *order; /* parameters as updates take them, group by group */
	int64_t memory;
	int64_t packed_memory; /* more, for weights that the device keeps packed; 0: it is not to */

	an_plan_entry *entries;
	action *actions;
	int nentries;
	size_t entries_cap, actions_cap;

	float *weights, *gradients, *m, *v; /* flat blocks */
	size_t block_bytes;
	bool *written; /* by parameter: its gradient holds something of this update */
	int32_t *input, *target, *window;
	void *scratch; /* of GEMMs */
	size_t scratch_bytes;
	void *panels[2]; /* A's and B's that neighbouring WEIGHT_GRADs share */
	size_t panel_bytes[2];

	train_state state;
	int64_t version;       /* counts changes of weights */
	bool stale;            /* programs have other weights than these */
	int64_t compiles_left; /* of the device's, when the trainer was made */
	bool unsaved;          /* something has happened since the last checkpoint */
	double gradient_scale; /* what `gradients` are still multiplied by */
	double loss, grad_norm, lr;
	const char *skipped; /* the tensor that was not finite; NULL: the update was applied */
	bool fixed;          /* the device's contractions are in fixed point: products can be lost */
	bool counting;       /* now */
	bool *zero;          /* by parameter: the last gradient was zero */
	int64_t ncounted;    /* updates in `counts` */
	double lost;         /* share of the backward's products in this update; NAN: not counted */
	/* reports */
	double update_seconds;
	int64_t updates_timed;
	bool warm; /* an update has been done */
	double run_started;
	int64_t run_steps;
	int dir_lock; /* -1: none */
	struct metrics *metrics;
};

/* options.c */
an_status train_resolve(an_ctx *ctx, const an_model *m, const an_train_options *opt, an_train_options *out);
/* Learning rate of update k, counted from 0. */
double train_learning_rate(const an_train_options *o, int64_t k);

/* programs.c */
/* The programs of segment `is`, `layers` functions of the model one after the other. */
an_status train_build_kind(an_trainer *t, kind *k, const an_segment *is, int layers);
/* Compiles the evaluation programs and binds them, unless that was done. */
an_status train_build_evaluation(an_trainer *t);
/* Exact simplifications, then compilation; a copy goes to dump_dir (may be NULL) as <stem>.mil. */
an_status train_compile(an_device *d, an_function *f, const char *dump_dir, const char *stem, program *out);

/* weights.c */
/* Rewrites the program's function as the policy says, before it is compiled. */
an_status weights_apply(an_trainer *t, program *p);
/* Whether the program's weights are constants: it is compiled for each segment, when weights are there. */
bool weights_are_constants(const an_trainer *t, const program *p, const an_segment *s);
/* Whether a dispatch has weights of its own to be kept up to date. */
bool weights_own(const an_trainer *t, const dispatch *d);
/* Brings them up to date, if they are not. */
an_status weights_refresh(an_trainer *t, dispatch *d);
/* Activations into the packed input. */
void weights_pack(const an_trainer *t, const dispatch *d);

/* plan.c */
an_status plan_build(an_trainer *t);
an_status plan_allocate(an_trainer *t);
/* Lets the device keep weights packed, if that pays and there is memory for what the programs compiled so
 * far read. */
void plan_keep_packed(an_trainer *t);
/* A dispatch of a segment's program; plan_bind makes its call. */
an_status plan_dispatch(an_trainer *t, const program *p, const segment *s, dispatch **out);
an_status plan_bind(an_trainer *t, dispatch *d);
/* The surface that stands for an input or output of the segment's programs; NULL: none. */
surface *plan_find(const an_trainer *t, const segment *s, const char *name);

/* step.c */
an_status train_upload(an_trainer *t); /* all weights to the device, and `stale` */
/* Brings the weights of all programs of the plan up to date, unless they are. */
an_status train_refresh(an_trainer *t);
an_status train_micro_batch(an_trainer *t, int micro, double *nats);
/* AN_BUDGET: nothing has changed.  Where the device compiles too little to bring programs up to date after
 * the update, that is left for the next one. */
an_status train_update(an_trainer *t);
/* Runs one entry of the plan and adds to its time; *nats is set by the loss.  grad_scale: of its gradient. */
an_status train_run_entry(an_trainer *t, int i, double grad_scale, double *nats);
/* Nats over tokens 1 .. count of `from`.  `go_on` (may be NULL) is asked before every batch, with the share
 * of tokens that is done; if it says no, this is AN_INTERRUPTED. */
an_status train_measure(an_trainer *t, const an_tokens *from, int64_t count,
			bool (*go_on)(void *user, double share), void *user, double *nats);
/* Runs one program, on the device or as the host. */
an_status train_dispatch(const dispatch *d);

/* counts.c */
an_status counts_allocate(an_trainer *t);
/* What runs from now on is counted into `recent`, until counts_end. */
an_status counts_begin(an_trainer *t);
void counts_end(an_trainer *t);
void counts_take(an_trainer *t, int entry);                /* after a program has run */
void counts_keep(an_trainer *t);                           /* adds `recent` to `counts` */
an_counts counts_of_entry(const an_trainer *t, int entry); /* recent */
/* All backward programs, recent. */
an_counts counts_of_backward(const an_trainer *t);
/* Whether a gradient, finite and not yet applied, is zero though it need not be: AN_NUMERIC, or with
 * allow_lost a warning.  If the update was not counted, it is computed once more. */
an_status counts_check_gradients(an_trainer *t, bool counted);

/* memory.c: bytes that can still be had, INT64_MAX if the system does not say. */
int64_t memory_available(void);

/* metrics.c */
typedef struct metrics metrics;
/* Opens DIR/metrics.jsonl, cut back to lines of steps up to `step` (< 0: to nothing), of evaluations up to
 * `evaluated`. */
an_status metrics_open(an_ctx *ctx, const char *dir, int64_t step, int64_t evaluated, metrics **out);
void metrics_close(metrics *m);
/* With `counted`, an object for every device program of its last update that counted. */
an_status metrics_report(metrics *m, const an_train_report *r, const char *skipped,
			 const an_trainer *counted);
an_status metrics_sync(metrics *m);

/* checkpoint.c */
/* Locks the folder, makes sure that it can be written, removes what a killed save left, and continues
 * from the last checkpoint if asked and there is one. */
an_status checkpoint_begin(an_trainer *t, bool *resumed);
void checkpoint_end(an_trainer *t);
/* Writes step-N and names it in `last`, and in `best` if this step is the best.  *folder: in an arena
 * that the caller gives. */
an_status checkpoint_save(an_trainer *t, arena *a, const char **folder);

#endif
