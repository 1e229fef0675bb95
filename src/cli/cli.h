/* What the subcommands share: a command's description, its options as rows, errors, and the
 * few things that several of them need.  Everything below is built on the public API.
 *
 * Exit status: 0; 1 when something could not be done; 2 when the command line is wrong.
 * Errors end the process: what a command holds is memory, which ends with it, and files
 * appear complete or not at all (the library writes them beside and renames). */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include "anneal/anneal.h"

#include <stdio.h>

typedef struct cli_command {
	const char *name;
	const char *operands; /* "TEXT..." */
	const char *summary;  /* one line for `anneal help` */
	const char *details;  /* paragraphs of --help; may be NULL */
	const char *example;  /* works as typed, from the top of the source tree */
	int (*run)(int argc, char **argv);
} cli_command;

/* ORDER COMMANDS: main.c lists them. */
extern const cli_command cmd_train, cmd_generate, cmd_eval, cmd_run, cmd_lint, cmd_grad, cmd_plan,
    cmd_compare, cmd_fingerprint, cmd_probe, cmd_bench, cmd_ops;

/* ---- Options ---------------------------------------------------------------------- */

/* Values of an option that may be given several times, in order. */
typedef struct cli_list {
	const char **item;
	int n;
} cli_list;

/* One option.  The destination that is not NULL says what kind of value it takes; `flag` takes
 * none.  Numbers must lie in [min, max]; both 0: any.  A row without a name is a heading. */
typedef struct cli_option {
	const char *name, *value, *help;
	double min, max;
	bool *flag;
	int *i;
	int32_t *i32;
	int64_t *i64;
	uint64_t *u64;
	double *real;
	const char **text;
	cli_list *list;
	const char *(*names)(int i); /* optional: what the value may be; --help lists them before `help` */
} cli_option;

/* Reads the options of `cmd` into their destinations and moves the operands to the end of argv;
 * returns the index of the first.  --help prints and ends with status 0, a mistake with 2. */
int cli_parse(const cli_command *cmd, const cli_option *rows, int nrows, int argc, char **argv);
#define CLI_PARSE(cmd, rows, argc, argv) \
	cli_parse(cmd, rows, (int)(sizeof(rows) / sizeof *(rows)), argc, argv)

/* clang-format off */
/* Options of everything that runs on a device. */
typedef struct cli_device {
	const char *device, *numerics, *isa, *quirks, *libraries;
	bool count_beside;
	int threads;
} cli_device;
const char *cli_numerics_name(int i); /* of profile i; NULL after the last */
#define CLI_DEVICE_OPTIONS(d, default_numerics) \
	{.help = "Device"}, \
	{"numerics", "PROFILE", "; \"anneal ops --numerics\" explains them (default " default_numerics ")", \
	 .names = cli_numerics_name, .text = &(d).numerics}, \
	{"device", "NAME", "soft (default); ane or ane:ROUTE, Apple's Neural Engine; auto, ane where there is one", .text = &(d).device}, \
	CLI_ENGINE_OPTIONS(d)
/* Of these, what does not choose the device. */
#define CLI_ENGINE_OPTIONS(d) \
	{"quirks", "LIST", "ane: habits of the engine to meet, e.g. equal_size=on,min_width=32", .text = &(d).quirks}, \
	{"count-beside", NULL, "ane: count losses on the software engine beside it (slow)", .flag = &(d).count_beside}, \
	{"libraries", "DIR", "ane: folder with stand-ins for Apple's libraries (for tests)", .text = &(d).libraries}, \
	{"threads", "N", "worker threads (default: the CPUs there are)", 1, 1024, .i = &(d).threads}, \
	{"isa", "SETS", "instruction sets to use: portable, or avx2,avx512 and so on (default: all)", .text = &(d).isa}

/* Options that describe a model. */
typedef struct cli_model {
	const char *preset;
	an_llama_config size; /* 0: as the preset has it */
	bool untied;
} cli_model;
#define CLI_MODEL_OPTIONS(m, default_preset) \
	{.help = "Model (sizes given here replace the preset's)"}, \
	{"preset", "NAME", "tiny, nano, stories15m, stories42m, stories110m, layer768 (default " default_preset ")", \
	 .text = &(m).preset}, \
	{"dim", "N", "width", 1, 1 << 20, .i32 = &(m).size.dim}, \
	{"layers", "N", "layers", 1, 1 << 12, .i32 = &(m).size.layers}, \
	{"heads", "N", "attention heads; divides dim", 1, 1 << 16, .i32 = &(m).size.heads}, \
	{"kv-heads", "N", "key/value heads; divides heads (default: heads)", 1, 1 << 16, .i32 = &(m).size.kv_heads}, \
	{"hidden", "N", "width of the feed-forward network", 1, 1 << 22, .i32 = &(m).size.hidden}, \
	{"seq", "N", "longest context, in tokens", 1, 1 << 20, .i32 = &(m).size.seq}, \
	{"untied", NULL, "a classifier of its own instead of the embedding table", .flag = &(m).untied}

/* Options of how a training is cut into device programs. */
typedef struct cli_cut {
	const char *dw, *weights;
} cli_cut;
#define CLI_CUT_OPTIONS(c, o) \
	{.help = "Programs"}, \
	{"layers-per-program", "N", "layers in one device program (default 1)", 1, 1 << 12, .i = &(o).layers_per_program}, \
	{"split", "NAME", "or less than a layer: half (attention, feed-forward), six (published kernels)", \
	 .text = &(o).split}, \
	{"weights", "HOW", "reach programs: dynamic (inputs, default), packed (one input), bake (constants), reload", \
	 .text = &(c).weights}, \
	{"dw", "WHERE", "matrices' gradients: host (default) or device", .text = &(c).dw}
/* clang-format on */
/* Checks what these say and puts it into the training's options. */
void cli_cut_resolve(an_ctx *ctx, const an_model *m, const cli_cut *c, an_train_options *o);

/* ---- Errors ------------------------------------------------------------------------ */

/* "anneal COMMAND: ..." to stderr, and the end: with status 1, or 2 and a hint to --help. */
_Noreturn void cli_fail(const char *fmt, ...) AN_PRINTF(1, 2);
_Noreturn void cli_usage(const char *fmt, ...) AN_PRINTF(1, 2);
/* Ends with the context's message and status 1 if `s` is not AN_OK. */
void cli_check(an_ctx *ctx, an_status s);
/* The same for what a name on the command line decides: AN_USAGE ends with status 2. */
void cli_check_name(an_ctx *ctx, an_status s);
/* Memory or the end. */
void *cli_alloc(size_t n, size_t size);
char *cli_format(const char *fmt, ...) AN_PRINTF(1, 2);

/* ---- Opening things ----------------------------------------------------------------- */

/* A context that prints the library's warnings to stderr. */
an_ctx *cli_open_ctx(const cli_device *d);
an_device *cli_open_device(an_ctx *ctx, const cli_device *d, const char *default_numerics);
/* A whole file that is not empty; freed with free(). */
uint8_t *cli_read(const char *path, size_t *len);
/* Makes a folder and its parents, and makes sure that files can be made in it. */
void cli_make_dir(const char *path);

/* The configuration that the options ask for; the vocabulary is the preset's. */
an_llama_config cli_model_config(an_ctx *ctx, const cli_model *m, const char *default_preset);

/* A trained model from a folder: Hugging Face's, or one that `train` wrote, of which the best
 * checkpoint is taken, or else the last. */
typedef struct cli_trained {
	an_model *model;
	float *weights;
	an_tokenizer *tokenizer; /* NULL: the folder has none */
	char *folder;            /* the one that was read */
} cli_trained;
cli_trained cli_open_model(an_ctx *ctx, const char *dir, bool need_tokenizer);
void cli_close_model(cli_trained *m);

/* "5,9,2" -> ids, each in [0, vocab). */
int32_t *cli_ids(const char *option, const char *text, int32_t vocab, size_t *n);

/* ---- This program again ---------------------------------------------------------------- */

/* The path of this program. */
const char *cli_self(void);
/* Replaces this process by "anneal WORD OPTION ARGV[1] ..." (option: NULL: none), which cli_carried gives
 * `carried`.  SIGINT and
 * SIGTERM wait until that calls cli_accept_signals. */
_Noreturn void cli_again(const char *word, const char *option, int argc, char **argv, const char *carried);
/* What the process before gave; NULL: there was none.  Freed with free(). */
char *cli_carried(void);
void cli_accept_signals(void);

/* ---- Output ------------------------------------------------------------------------- */

/* A table of what operations or programs did to their values: a heading, then rows. */
void cli_counts_heading(const char *what, int width); /* of the first column */
void cli_counts_row(const char *name, int width, const an_counts *c);
/* "products": 12, ... "largest": 3.5 */
void cli_counts_json(FILE *f, const an_counts *c);
/* The plan with what its entries took, and the kernels of its programs (profile.c). */
void cli_profile(an_ctx *ctx, an_trainer *t, bool json);
/* A JSON string with its quotes. */
void cli_json_text(FILE *f, const char *s);
/* A JSON number; null if it is not finite. */
void cli_json_number(FILE *f, double x);
/* A status line: rewritten in place on a terminal; otherwise `plain` decides whether it is printed
 * as a line of its own.  To stderr. */
void cli_status(bool plain, const char *fmt, ...) AN_PRINTF(2, 3);
/* Seconds of a clock that is never set back. */
double cli_now(void);
/* Whether the last one is old enough to be rewritten: no terminal is read faster. */
bool cli_status_due(void);
/* "WHAT  37%", as often as is worth while. */
void cli_progress(void *what, double share);
/* Ends a status line that is written in place. */
void cli_status_end(void);
/* Erases one instead, before results are printed. */
void cli_status_clear(void);
/* "1.25 G", in a static buffer that the next four calls leave alone. */
const char *cli_quantity(double x);
/* "3 min 20 s", likewise. */
const char *cli_duration(double seconds);

#endif
