/* anneal train: from a text to a model. */
#include "cli/prepare.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int run(int argc, char **argv);

const cli_command cmd_train = {
    .name = "train",
    .operands = "TEXT...",
    .summary = "train a model on text files",
    .details = "Trains a tokenizer on the text, writes token files, trains, and measures on the\n"
	       "validation text in bits per byte.  The folder holds tokenizer.json, train.bin,\n"
	       "valid.bin, metrics.jsonl and checkpoints, each a Hugging Face model folder.  Ctrl-C\n"
	       "stops with a checkpoint; the same command with --resume goes on, as after any other\n"
	       "end, with the same losses as if nothing had happened.",
    .example = "anneal train README.md --preset nano --vocab 512 --steps 50 --out /tmp/readme.anneal",
    .run = run,
};

enum { UNSET = -2 }; /* an option whose default depends on others */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal) { interrupted = signal; }

typedef struct progress {
	bool json, every;   /* JSON lines; a line per update */
	bool goes_on;       /* from a process before, which this one replaces */
	double first, last; /* validation before the first update and now, bits per byte; NAN: none */
	double best;        /* of this run; INFINITY: none */
	int64_t best_step;
	double tokens, started; /* for the mean speed */
	double tokens_per_update;
} progress;

static void field(const char *name, double x)
{
	printf(", \"%s\": ", name);
	cli_json_number(stdout, x);
}

static void report_json(const an_train_report *r)
{
	static const char *const kind[] = {"step", "eval", "saved", "skipped"};
	printf("{\"event\": \"%s\", \"step\": %lld, \"steps\": %lld", kind[r->kind], (long long)r->step,
	       (long long)r->steps);
	switch (r->kind) {
	case AN_REPORT_STEP:
		field("loss", r->loss);
		field("grad_norm", r->grad_norm);
		field("lr", r->lr);
		field("loss_scale", r->loss_scale);
		field("tokens_per_second", r->tokens_per_second);
		field("seconds_left", r->seconds_left);
		break;
	case AN_REPORT_EVAL:
		field("loss", r->loss);
		field("bits_per_byte", r->bits_per_byte);
		printf(", \"best\": %s", r->best ? "true" : "false");
		break;
	case AN_REPORT_SAVED:
	case AN_REPORT_SKIPPED:
		printf(", \"text\": ");
		cli_json_text(stdout, r->text ? r->text : "");
		break;
	case AN_REPORT_EVALUATING: break;
	}
	printf("}\n");
	fflush(stdout);
}

static void report_text(progress *p, const an_train_report *r)
{
	/* where lines stay, a twentieth of the run apart */
	int64_t apart = r->steps >= 20 ? r->steps / 20 : 1;
	bool line = p->every || r->step == 1 || r->step % apart == 0 || r->step == r->steps;
	switch (r->kind) {
	case AN_REPORT_STEP:
		if (!line && !cli_status_due())
			break;
		cli_status(line, "step %lld of %lld  loss %.4f  %s tokens/s  %s left", (long long)r->step,
			   (long long)r->steps, r->loss, cli_quantity(r->tokens_per_second),
			   cli_duration(r->seconds_left));
		break;
	case AN_REPORT_EVALUATING:
		if (!cli_status_due())
			break;
		cli_status(false, "step %lld of %lld  measuring the validation text %3.0f%%",
			   (long long)r->step, (long long)r->steps, 100 * r->share);
		break;
	case AN_REPORT_EVAL:
		cli_status(true, "step %lld of %lld  validation %.4f bits per byte (%.4f nats per token)%s",
			   (long long)r->step, (long long)r->steps, r->bits_per_byte, r->loss,
			   r->best ? ", the best so far" : "");
		cli_status_end();
		break;
	case AN_REPORT_SKIPPED:
		cli_status(true, "step %lld of %lld  skipped: %s is not finite; loss scale now %g",
			   (long long)r->step, (long long)r->steps, r->text ? r->text : "a gradient",
			   r->loss_scale);
		cli_status_end();
		break;
	case AN_REPORT_SAVED:
		if (p->every)
			cli_status(true, "step %lld of %lld  saved %s", (long long)r->step,
				   (long long)r->steps, r->text);
		break;
	}
}

static bool report(void *user, const an_train_report *r)
{
	progress *p = user;
	if (r->kind == AN_REPORT_STEP)
		p->tokens += p->tokens_per_update;
	if (r->kind == AN_REPORT_EVAL) {
		if (r->step == 0)
			p->first = r->bits_per_byte;
		p->last = r->bits_per_byte;
		if (r->best) {
			p->best = r->bits_per_byte;
			p->best_step = r->step;
		}
	}
	if (!p->json)
		report_text(p, r);
	else if (r->kind != AN_REPORT_EVALUATING) /* which says nothing that stays true */
		report_json(r);
	return !interrupted;
}

/* What the device's programs did to their values in the updates that counted. */
static void print_stats(an_ctx *ctx, const an_trainer *t, bool json)
{
	const an_plan_entry *e;
	an_counts c;
	int n = an_trainer_plan(t, &e);
	if (json)
		printf("{\"event\": \"stats\", \"counted_updates\": %lld, \"programs\": [",
		       (long long)an_trainer_counted(t));
	else
		cli_counts_heading("program", 24);
	const char *separator = "";
	for (int i = 0; i < n; i++) {
		if (!an_trainer_program(t, i))
			continue;
		cli_check(ctx, an_trainer_counts(t, i, -1, &c));
		if (json) {
			printf("%s{\"name\": ", separator);
			cli_json_text(stdout, e[i].name);
			printf(", ");
			cli_counts_json(stdout, &c);
			printf("}");
			separator = ", ";
		} else {
			cli_counts_row(e[i].name, 24, &c);
		}
	}
	if (json)
		printf("]}\n");
	else
		printf("(%lld of this run's updates were counted)\n", (long long)an_trainer_counted(t));
}

/* A word as the shell wants it, after a space. */
static void quoted(FILE *f, const char *word)
{
	putc(' ', f);
	if (*word &&
	    !word[strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=,:+")]) {
		fputs(word, f);
		return;
	}
	putc('\'', f);
	for (; *word; word++)
		fputs(*word == '\'' ? "'\\''" : (char[]){*word, 0}, f);
	putc('\'', f);
}

/* The command as typed, for the shell, with --resume. */
static char *resume_command(int argc, char **argv)
{
	char *text = NULL;
	size_t len;
	FILE *f = open_memstream(&text, &len);
	if (!f)
		cli_fail("out of memory");
	fprintf(f, "anneal");
	for (int i = 0; i < argc; i++)
		if (strcmp(argv[i], "--resume") != 0)
			quoted(f, argv[i]);
	fputs(" --resume", f);
	fclose(f);
	return text;
}

/* "texts/corpus.txt" -> "corpus.anneal" */
static char *default_dir(const char *text)
{
	const char *name = strrchr(text, '/');
	name = name ? name + 1 : text;
	const char *dot = strrchr(name, '.');
	return cli_format("%.*s.anneal", (int)(dot && dot > name ? dot - name : (long)strlen(name)), name);
}

/* What the next process has to know for the summary. */
static char *carry(const progress *p)
{
	return cli_format("%a %a %a %lld %a %a", p->first, p->last, p->best, (long long)p->best_step,
			  p->tokens, p->started);
}

static void take_over(progress *p)
{
	char *text = cli_carried();
	long long step;
	if (text && sscanf(text, "%la %la %la %lld %la %la", &p->first, &p->last, &p->best, &step, &p->tokens,
			   &p->started) == 6) {
		p->best_step = step;
		p->goes_on = true;
	}
	free(text);
}

static void finished(const progress *p, const an_trainer *t, const char *dir)
{
	double speed = p->tokens / (cli_now() - p->started);
	cli_status_end();
	if (p->json) {
		printf("{\"event\": \"end\", \"step\": %lld", (long long)an_trainer_at(t));
		field("bits_per_byte_before", p->first);
		field("bits_per_byte_after", p->last);
		field("tokens_per_second", speed);
		printf(", \"model\": ");
		cli_json_text(stdout, dir);
		printf("}\n");
		return;
	}
	if (!isnan(p->first))
		printf("before: %.4f bits per byte\n", p->first);
	if (!isnan(p->last))
		printf("after:  %.4f bits per byte\n", p->last);
	if (p->best < p->last)
		printf("best:   %.4f bits per byte, step %lld\n", p->best, (long long)p->best_step);
	printf("speed:  %s tokens/s, evaluation included\nmodel:  %s\n", cli_quantity(speed), dir);
}

static int run(int argc, char **argv)
{
	/* before options are moved */
	char *again = resume_command(argc, argv), **typed = cli_alloc((size_t)argc + 1, sizeof *typed);
	memcpy(typed, argv, (size_t)argc * sizeof *typed);
	cli_device d = {0};
	cli_model size = {0};
	cli_cut cut = {0};
	const char *out = NULL, *init = NULL;
	bool resume = false, stats = false;
	int64_t stats_every = 16;
	progress p = {.first = NAN, .last = NAN, .best = INFINITY};
	prepare_options data = {.valid_share = 0.1, .vocab = 2048};
	an_train_options opt = {.batch = 8,
				.steps = 1000,
				.min_lr = 0.1,
				.decay = 0.1,
				.clip = 1,
				.report = report,
				.user = &p,
				.warmup = UNSET};
	/* clang-format off */
	const cli_option rows[] = {
		{"out", "DIR", "where everything goes (default: TEXT.anneal)", .text = &out},
		{"resume", NULL, "continue from the last checkpoint in DIR", .flag = &resume},
		{"init", "FOLDER", "start from a Hugging Face model folder", .text = &init},
		{.help = "Text"},
		{"vocab", "N", "tokens of the tokenizer that is trained (default 2048)", 257, 65536,
		 .i32 = &data.vocab},
		{"tokenizer", "FILE", "take this tokenizer.json instead", .text = &data.tokenizer},
		{"valid", "FILE", "validation text", .text = &data.valid},
		{"valid-share", "X", "or the last X of the texts, 0: none (default 0.1)", 0, 0.9,
		 .real = &data.valid_share},
		CLI_MODEL_OPTIONS(size, "tiny"),
		{.help = "Training"},
		{"steps", "N", "updates (default 1000)", 1, 1e12, .i64 = &opt.steps},
		{"batch", "N", "sequences per micro-batch (default 8)", 1, 1 << 16, .i = &opt.batch},
		{"accumulate", "N", "micro-batches per update (default 1)", 1, 1 << 16, .i = &opt.accumulate},
		{"lr", "X", "learning rate (default 0.001)", 1e-12, 1e3, .real = &opt.lr},
		{"min-lr", "X", "share of it that is left at the end (default 0.1)", 0, 1,
		 .real = &opt.min_lr},
		{"warmup", "N", "updates until it is reached (default: steps / 20)", 0, 1e12,
		 .i64 = &opt.warmup},
		{"decay", "X", "AdamW's weight decay (default 0.1)", 0, 1e3, .real = &opt.decay},
		{"clip", "X", "largest norm of the gradient, 0: any (default 1)", -1, 1e9,
		 .real = &opt.clip},
		{"seed", "N", "of initial weights and batches (default 0)", .u64 = &opt.seed},
		{"loss-scale", "X", "what the loss is multiplied by at first, a power of two (default: 4 * the tokens of an update)",
		 0x1p-40, 0x1p80, .real = &opt.loss_scale},
		{"allow-lost", NULL, "go on when the arithmetic lost the whole gradient of a parameter", .flag = &opt.allow_lost},
		{"eval-every", "N", "updates, -1: only at the end (default: steps / 10)", -1, 1e12,
		 .i64 = &opt.eval_every},
		{"save-every", "N", "updates, -1: only at the end (default: steps / 10)", -1, 1e12,
		 .i64 = &opt.save_every},
		{"eval-tokens", "N", "validation tokens per evaluation, 0: all (default 0)", 0, 1e12,
		 .i64 = &opt.eval_tokens},
		{"dump", "DIR", "write every program that is executed there", .text = &opt.dump_dir},
		CLI_CUT_OPTIONS(cut, opt),
		{.help = "Output"},
		{"log", NULL, "a line for every update", .flag = &p.every},
		{"json", NULL, "a JSON object for every event, on standard output", .flag = &p.json},
		{"stats", NULL, "count what the arithmetic lost: a table at the end, and by program in metrics.jsonl",
		 .flag = &stats},
		{"stats-every", "N", "count the first update and every Nth from there (default 16)", 1, 1e12,
		 .i64 = &stats_every},
		{"profile", NULL, "at the end, the plan with the time of every entry and kernel", .flag = &opt.profile},
		CLI_DEVICE_OPTIONS(d, "fast"),
	};
	/* clang-format on */
	int first = CLI_PARSE(&cmd_train, rows, argc, argv);
	/* in the library's options 0 asks for the default; on the command line it means none */
	opt.min_lr = opt.min_lr == 0 ? -1 : opt.min_lr;
	opt.warmup = opt.warmup == 0 ? -1 : opt.warmup == UNSET ? 0 : opt.warmup;
	opt.decay = opt.decay == 0 ? -1 : opt.decay;
	opt.clip = opt.clip == 0 ? -1 : opt.clip;
	opt.count_every = stats ? stats_every : 0;
	data.texts = (const char *const *)argv + first;
	data.ntexts = argc - first;
	take_over(&p);
	if (data.ntexts == 0 && !(resume && out))
		cli_usage("no text given");
	char *dir = out ? cli_format("%s", out) : default_dir(argv[first]);
	data.dir = opt.dir = dir;
	data.reuse = opt.resume = resume;

	an_ctx *ctx = cli_open_ctx(&d);
	an_device *device = cli_open_device(ctx, &d, "fast");
	an_llama_config c;
	cli_trained from = {0};
	char *from_tokenizer = NULL;
	if (init) {
		if (size.preset || size.size.dim || size.size.layers || size.size.heads ||
		    size.size.kv_heads || size.size.hidden || size.untied)
			cli_usage(
			    "--init brings its own sizes; of the model's options only --seq goes with it");
		from = cli_open_model(ctx, init, !data.tokenizer);
		c = *an_model_config(from.model);
		if (size.size.seq)
			c.seq = size.size.seq;
		if (!data.tokenizer)
			data.tokenizer = from_tokenizer = cli_format("%s/tokenizer.json", from.folder);
	} else {
		c = cli_model_config(ctx, &size, "tiny");
	}
	data.seq = c.seq;
	char *last = cli_format("%s/last", dir);
	if (!resume && access(last, F_OK) == 0)
		cli_fail("%s already holds a training: --resume continues it, --out names another folder",
			 dir);
	if (opt.dump_dir)
		cli_make_dir(opt.dump_dir);
	prepared text = prepare(ctx, &data);
	if (!init)
		c.vocab = an_tokenizer_vocab(text.tokenizer);
	else if (an_tokenizer_vocab(text.tokenizer) > c.vocab)
		cli_fail("the tokenizer has %d tokens, the model of %s only %d",
			 an_tokenizer_vocab(text.tokenizer), init, c.vocab);

	an_model *model;
	an_trainer *t;
	an_data tokens = {text.train, text.valid, text.valid_bytes};
	opt.tokenizer = text.tokenizer;
	p.tokens_per_update = (double)c.seq * opt.batch * (opt.accumulate ? opt.accumulate : 1);
	cli_check(ctx, an_llama_new(ctx, &c, &model));
	cli_cut_resolve(ctx, model, &cut, &opt);
	if (!p.json && !p.goes_on)
		cli_status(true,
			   "%s parameters, %d tokens in the vocabulary, %zu tokens to train on, %s updates "
			   "of %.0f tokens",
			   cli_quantity((double)an_model_param_count(model)), c.vocab,
			   an_tokens_count(text.train), cli_quantity((double)opt.steps), p.tokens_per_update);
	an_status s = an_trainer_new(device, model, &tokens, &opt, from.weights, &t);
	if (s == AN_BUDGET)
		cli_fail("%s; but a new process would come no further: more --layers-per-program need fewer "
			 "programs, "
			 "--weights dynamic and packed compile each once, and --quirks compile_budget=NUMBER "
			 "sets what the "
			 "engine takes",
			 an_message(ctx));
	cli_check(ctx, s);

	struct sigaction action = {.sa_handler = on_interrupt,
				   .sa_flags = SA_RESETHAND}; /* the second one kills */
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	cli_accept_signals();
	p.started = p.goes_on ? p.started : cli_now();
	s = an_trainer_run(t);
	bool again_now = s == AN_BUDGET && !interrupted;
	if (s == AN_BUDGET && interrupted)
		s = AN_INTERRUPTED;
	int stopped = s == AN_INTERRUPTED ? 128 + interrupted : 0;
	if (stopped) {
		cli_status_end();
		fprintf(stderr, "stopped after %lld updates; to go on: %s\n", (long long)an_trainer_at(t),
			again);
	} else if (!again_now) {
		cli_check(ctx, s);
		cli_status_end();
	}
	if (opt.profile && !again_now)
		cli_profile(ctx, t, p.json);
	if (stats && !again_now)
		print_stats(ctx, t, p.json);
	if (!stopped && !again_now)
		finished(&p, t, dir);

	an_trainer_free(t);
	an_model_free(model);
	prepared_free(&text);
	if (init)
		cli_close_model(&from);
	an_device_close(device);
	an_ctx_close(ctx);
	if (again_now)
		cli_again("train", "--resume", argc, typed, carry(&p));
	free(typed);
	free(from_tokenizer);
	free(last);
	free(dir);
	free(again);
	return stopped;
}
