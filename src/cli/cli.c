#include "cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const cli_command *current; /* for messages */
static bool status_open;           /* a status line stands unfinished on the terminal */
static double status_shown;        /* when the last one was written */

/* ---- Errors ------------------------------------------------------------------------ */

/* The end in the middle of things: without exit handlers, among which leak checkers would find what the
 * command still holds. */
static _Noreturn void leave(int status)
{
	fflush(NULL);
	_exit(status);
}

static void complain(const char *fmt, va_list ap)
{
	cli_status_end();
	fflush(stdout);
	fprintf(stderr, current ? "anneal %s: " : "anneal: ", current ? current->name : NULL);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
}

void cli_fail(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	complain(fmt, ap);
	va_end(ap);
	leave(1);
}

void cli_usage(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	complain(fmt, ap);
	va_end(ap);
	fprintf(stderr, "Try \"anneal %s%s--help\".\n", current ? current->name : "", current ? " " : "");
	leave(2);
}

void cli_check(an_ctx *ctx, an_status s)
{
	if (s == AN_OK)
		return;
	const char *message = an_message(ctx);
	if (s == AN_BUDGET) /* where going on is possible, it is not left to this function */
		cli_fail("%s; but this is a new process: it needs an engine that takes more (--quirks "
			 "compile_budget=NUMBER, or =off)",
			 message);
	cli_fail("%s", *message ? message : an_status_name(s));
}

void cli_check_name(an_ctx *ctx, an_status s)
{
	if (s == AN_USAGE)
		cli_usage("%s", an_message(ctx));
	cli_check(ctx, s);
}

void *cli_alloc(size_t n, size_t size)
{
	void *p = calloc(n ? n : 1, size ? size : 1);
	if (!p)
		cli_fail("out of memory");
	return p;
}

char *cli_format(const char *fmt, ...)
{
	char *text;
	va_list ap;
	va_start(ap, fmt);
	int n = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (n < 0)
		cli_fail("out of memory");
	return text;
}

/* ---- Options ------------------------------------------------------------------------ */

static _Noreturn void help(const cli_command *cmd, const cli_option *rows, int nrows)
{
	printf("Usage: anneal %s [OPTION]... %s\n\n%c%s.\n", cmd->name, cmd->operands,
	       toupper((unsigned char)*cmd->summary), cmd->summary + 1);
	if (cmd->details)
		printf("\n%s\n", cmd->details);
	if (nrows > 0 && rows[0].name)
		printf("\nOptions\n");
	for (const cli_option *o = rows; o < rows + nrows; o++) {
		char left[64];
		if (!o->name) {
			printf("\n%s\n", o->help);
			continue;
		}
		snprintf(left, sizeof left, "--%s%s%s", o->name, o->value ? " " : "",
			 o->value ? o->value : "");
		printf("  %-22s %s", left, strlen(left) > 22 ? "\n                         " : "");
		for (int i = 0; o->names && o->names(i); i++)
			printf("%s%s", i ? ", " : "", o->names(i));
		printf("%s\n", o->help);
	}
	printf("\nExample\n  %s\n", cmd->example);
	leave(0);
}

static double number(const cli_option *o, const char *text, bool whole)
{
	char *end;
	errno = 0;
	/* strtod is exact for whole numbers up to 2^53, far beyond what any option allows */
	double x = strtod(text, &end);
	bool ok = end != text && !*end && !isspace((unsigned char)*text) && errno == 0 && isfinite(x) &&
		  (!whole || x == trunc(x));
	if (whole && strpbrk(text, "xX.pPeE"))
		ok = false;
	const char *kind = whole ? "a whole number" : "a number";
	bool bounded = o->min != 0 || o->max != 0;
	if (!ok || (bounded && (x < o->min || x > o->max))) {
		if (bounded)
			cli_usage("--%s: expected %s from %.10g to %.10g, found \"%s\"", o->name, kind,
				  o->min, o->max, text);
		cli_usage("--%s: expected %s, found \"%s\"", o->name, kind, text);
	}
	return x;
}

static uint64_t seed(const cli_option *o, const char *text)
{
	char *end;
	errno = 0;
	unsigned long long x = strtoull(text, &end, 10);
	if (!isdigit((unsigned char)*text) || *end || errno)
		cli_usage("--%s: expected a whole number from 0 to 2^64 - 1, found \"%s\"", o->name, text);
	return x;
}

static void store(const cli_option *o, const char *value)
{
	if (o->flag)
		*o->flag = true;
	else if (o->i)
		*o->i = (int)number(o, value, true);
	else if (o->i32)
		*o->i32 = (int32_t)number(o, value, true);
	else if (o->i64)
		*o->i64 = (int64_t)number(o, value, true);
	else if (o->u64)
		*o->u64 = seed(o, value);
	else if (o->real)
		*o->real = number(o, value, false);
	else if (o->text)
		*o->text = value;
	else {
		const char **grown = realloc(o->list->item, (size_t)(o->list->n + 1) * sizeof *grown);
		if (!grown)
			cli_fail("out of memory");
		o->list->item = grown;
		o->list->item[o->list->n++] = value;
	}
}

int cli_parse(const cli_command *cmd, const cli_option *rows, int nrows, int argc, char **argv)
{
	enum { FIRST = 256 }; /* getopt's values for rows, above those of characters */
	current = cmd;
	struct option *table = cli_alloc((size_t)nrows + 2, sizeof *table);
	int n = 0;
	for (int i = 0; i < nrows; i++)
		if (rows[i].name)
			table[n++] = (struct option){
			    rows[i].name, rows[i].flag ? no_argument : required_argument, NULL, FIRST + i};
	table[n] = (struct option){"help", no_argument, NULL, 'h'};
	opterr = 0;
	for (int c; (c = getopt_long(argc, argv, ":h", table, NULL)) != -1;) {
		if (c >= FIRST)
			store(&rows[c - FIRST], optarg);
		else if (c == 'h')
			help(cmd, rows, nrows);
		else if (c == ':')
			cli_usage("%s needs a value", argv[optind - 1]);
		else if (optopt >= FIRST)
			cli_usage("--%s takes no value", rows[optopt - FIRST].name);
		else if (optopt && optopt != 'h')
			cli_usage("unknown option \"-%c\"", optopt);
		else
			cli_usage("unknown option \"%s\"", argv[optind - 1]);
	}
	free(table);
	return optind;
}

/* ---- Opening things ------------------------------------------------------------------ */

static void print_log(void *user, an_log_level level, const char *text)
{
	(void)user;
	cli_status_end();
	fprintf(stderr, "anneal %s: %s%s\n", current->name, level == AN_LOG_WARNING ? "warning: " : "", text);
}

an_ctx *cli_open_ctx(const cli_device *d)
{
	an_ctx_options opt = {.log = print_log};
	if (d) {
		opt.threads = d->threads;
		opt.isa = d->isa;
	}
	an_ctx *ctx;
	an_status s = an_ctx_open(&opt, &ctx);
	if (s == AN_USAGE)
		cli_usage("--isa: unknown instruction set in \"%s\"", d->isa);
	if (s == AN_UNSUPPORTED)
		cli_fail(
		    "--isa %s: this CPU does not offer all of these; \"anneal --version\" lists what it does",
		    d->isa);
	if (s != AN_OK)
		cli_fail("%s", an_status_name(s));
	return ctx;
}

const char *cli_numerics_name(int i)
{
	an_numerics_profile_info p;
	return an_numerics_profile(i, &p) ? p.name : NULL;
}

an_device *cli_open_device(an_ctx *ctx, const cli_device *d, const char *default_numerics)
{
	/* other devices than "soft" have their own arithmetic; who chooses one asks for "soft" */
	bool choose = d->device && !strcmp(d->device, "auto"),
	     soft = !d->device || !strcmp(d->device, "soft");
	an_device_options opt = {.name = choose && d->numerics ? "soft" : d->device,
				 .numerics = d->numerics      ? d->numerics
					     : soft || choose ? default_numerics
							      : NULL,
				 .quirks = d->quirks,
				 .libraries = d->libraries,
				 .count_beside = d->count_beside};
	an_device *device;
	cli_check_name(ctx, an_device_open(ctx, &opt, &device));
	return device;
}

uint8_t *cli_read(const char *path, size_t *len)
{
	FILE *f = fopen(path, "rb");
	struct stat st;
	if (!f || fstat(fileno(f), &st) != 0)
		cli_fail("%s: cannot read: %s", path, strerror(errno));
	if (S_ISDIR(st.st_mode))
		cli_fail("%s: is a folder; a file was expected", path);
	size_t cap = st.st_size > 0 ? (size_t)st.st_size + 1 : 4096, n = 0;
	uint8_t *data = malloc(cap);
	while (data) {
		n += fread(data + n, 1, cap - n, f);
		if (n < cap)
			break;
		uint8_t *grown = cap <= SIZE_MAX / 2 ? realloc(data, cap *= 2) : NULL;
		if (!grown)
			free(data);
		data = grown;
	}
	if (!data)
		cli_fail("%s: out of memory", path);
	if (ferror(f))
		cli_fail("%s: cannot read: %s", path, strerror(errno));
	fclose(f);
	if (n == 0)
		cli_fail("%s: the file is empty", path);
	*len = n;
	return data;
}

void cli_make_dir(const char *path)
{
	char *copy = cli_format("%s", path);
	for (char *p = copy + 1; *copy; p++) {
		if (*p && *p != '/')
			continue;
		char c = *p;
		*p = 0;
		if (mkdir(copy, 0777) != 0 && errno != EEXIST)
			cli_fail("%s: cannot make the folder: %s", copy, strerror(errno));
		*p = c;
		if (!c)
			break;
	}
	free(copy);
	struct stat st;
	if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode))
		cli_fail("%s: is not a folder", path);
	if (access(path, W_OK | X_OK) != 0)
		cli_fail("%s: cannot write there: %s", path, strerror(errno));
}

/* The index of `word` among `words`, which end with NULL. */
static int choice(const char *option, const char *word, const char *const *words)
{
	char known[128] = "";
	for (int i = 0; words[i]; i++) {
		if (strcmp(words[i], word) == 0)
			return i;
		size_t used = strlen(known);
		snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", words[i]);
	}
	cli_usage("--%s: \"%s\" is none of %s", option, word, known);
}

void cli_cut_resolve(an_ctx *ctx, const an_model *m, const cli_cut *c, an_train_options *o)
{
	static const char *const where[] = {"host", "device", NULL};
	static const char *const how[] = {"dynamic", "packed", "bake", "reload", NULL}; /* as an_weights */
	const an_split *unused;
	if (o->split)
		cli_check_name(ctx, an_model_split(m, o->split, "layer", &unused));
	if (o->split && o->layers_per_program > 1)
		cli_usage("--split cuts one layer, --layers-per-program joins several: choose one");
	o->weights = c->weights ? (an_weights)choice("weights", c->weights, how) : AN_WEIGHTS_DYNAMIC;
	o->dw_device = c->dw && choice("dw", c->dw, where) == 1;
}

an_llama_config cli_model_config(an_ctx *ctx, const cli_model *m, const char *default_preset)
{
	an_llama_config c;
	cli_check_name(ctx, an_llama_preset(ctx, m->preset ? m->preset : default_preset, &c));
	const an_llama_config *s = &m->size;
	/* the preset's derived sizes do not follow a change of what they derive from */
	if (s->dim || s->heads)
		c.head_dim = 0;
	if (s->heads)
		c.kv_heads = 0;
	if (s->dim)
		c.dim = s->dim;
	if (s->layers)
		c.layers = s->layers;
	if (s->heads)
		c.heads = s->heads;
	if (s->kv_heads)
		c.kv_heads = s->kv_heads;
	if (s->hidden)
		c.hidden = s->hidden;
	if (s->seq)
		c.seq = s->seq;
	if (m->untied)
		c.tied = false;
	cli_check(ctx, an_llama_check(ctx, &c));
	return c;
}

/* DIR/<name in DIR/link>, or NULL if there is no such link. */
static char *follow(const char *dir, const char *link)
{
	char *path = cli_format("%s/%s", dir, link), *folder = NULL;
	if (access(path, F_OK) == 0) {
		size_t len;
		char *name = (char *)cli_read(path, &len);
		size_t n = 0;
		while (n < len && name[n] && name[n] != '\n')
			n++;
		if (n == 0 || n > 255 || memchr(name, '/', n) || (n == 2 && memcmp(name, "..", 2) == 0))
			cli_fail("%s: expected the name of a checkpoint's folder", path);
		folder = cli_format("%s/%.*s", dir, (int)n, name);
		free(name);
	}
	free(path);
	return folder;
}

static bool has(const char *dir, const char *name)
{
	char *path = cli_format("%s/%s", dir, name);
	bool there = access(path, F_OK) == 0;
	free(path);
	return there;
}

cli_trained cli_open_model(an_ctx *ctx, const char *dir, bool need_tokenizer)
{
	cli_trained t = {0};
	struct stat st;
	if (stat(dir, &st) != 0)
		cli_fail("%s: %s", dir, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		cli_fail("%s: is not a folder; a model folder was expected", dir);
	if (has(dir, "config.json"))
		t.folder = cli_format("%s", dir);
	else if (!(t.folder = follow(dir, "best")) && !(t.folder = follow(dir, "last")))
		cli_fail("%s: no config.json, and no checkpoint: is it a model folder, and has its training "
			 "come to a checkpoint?",
			 dir);
	an_llama_config c;
	char *path = cli_format("%s/config.json", t.folder);
	cli_check(ctx, an_hf_config_read(ctx, path, &c));
	free(path);
	cli_check(ctx, an_llama_new(ctx, &c, &t.model));
	t.weights = cli_alloc((size_t)an_model_param_block(t.model), sizeof *t.weights);
	cli_check(ctx, an_hf_weights_read(t.folder, t.model, t.weights));
	if (need_tokenizer || has(t.folder, "tokenizer.json")) {
		path = cli_format("%s/tokenizer.json", t.folder);
		cli_check(ctx, an_tokenizer_load(ctx, path, &t.tokenizer));
		free(path);
		if (an_tokenizer_vocab(t.tokenizer) > c.vocab)
			cli_fail("%s: the tokenizer has %d tokens, the model only %d", t.folder,
				 an_tokenizer_vocab(t.tokenizer), c.vocab);
	}
	return t;
}

void cli_close_model(cli_trained *t)
{
	an_tokenizer_free(t->tokenizer);
	an_model_free(t->model);
	free(t->weights);
	free(t->folder);
}

int32_t *cli_ids(const char *option, const char *text, int32_t vocab, size_t *n)
{
	int32_t *ids = cli_alloc(strlen(text) + 1, sizeof *ids);
	*n = 0;
	for (const char *p = text;; p++) {
		char *end;
		errno = 0;
		long id = strtol(p, &end, 10);
		if (!isdigit((unsigned char)*p) || errno || (*end && *end != ','))
			cli_usage("--%s: expected token ids such as 5,9,2, found \"%s\"", option, p);
		if (id >= vocab)
			cli_fail("--%s: token id %ld; the model has %d tokens", option, id, vocab);
		ids[(*n)++] = (int32_t)id;
		if (!*end)
			return ids;
		p = end;
	}
}

/* ---- Output -------------------------------------------------------------------------- */

void cli_json_text(FILE *f, const char *s)
{
	putc('"', f);
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;
		if (c == '"' || c == '\\')
			fprintf(f, "\\%c", c);
		else if (c == '\n')
			fputs("\\n", f);
		else if (c < 0x20)
			fprintf(f, "\\u%04x", c);
		else
			putc(c, f);
	}
	putc('"', f);
}

void cli_json_number(FILE *f, double x)
{
	if (isfinite(x))
		fprintf(f, "%.9g", x);
	else
		fputs("null", f);
}

double cli_now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void cli_status(bool plain, const char *fmt, ...)
{
	bool terminal = isatty(STDERR_FILENO);
	if (!terminal && !plain)
		return;
	fputs(terminal ? "\r" : "", stderr);
	va_list ap;
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputs(terminal ? "\033[K" : "\n", stderr); /* ANSI: erase what is left of the last line */
	fflush(stderr);
	status_open = terminal;
	status_shown = cli_now();
}

bool cli_status_due(void) { return cli_now() - status_shown >= 0.1; }

void cli_progress(void *what, double share)
{
	if (cli_status_due())
		cli_status(false, "%s %3.0f%%", (const char *)what, 100 * share);
}

void cli_status_end(void)
{
	if (status_open)
		fputc('\n', stderr);
	status_open = false;
}

void cli_status_clear(void)
{
	if (status_open) {
		fputs("\r\033[K", stderr);
		fflush(stderr);
	}
	status_open = false;
}

enum { TURNS = 4, TURN_SIZE = 32 };

static char *turn(void)
{
	static char buffer[TURNS][TURN_SIZE];
	static int next;
	return buffer[next++ % TURNS];
}

const char *cli_quantity(double x)
{
	static const char *const unit[] = {"", " k", " M", " G", " T", " P"};
	int u = 0;
	while (fabs(x) >= 1000 && u < 5) {
		x /= 1000;
		u++;
	}
	char *text = turn();
	snprintf(text, TURN_SIZE, u || x != trunc(x) ? "%.2f%s" : "%.0f%s", x, unit[u]);
	return text;
}

const char *cli_duration(double seconds)
{
	char *text = turn();
	if (!(seconds >= 0 && seconds < 1e8)) {
		snprintf(text, TURN_SIZE, "?");
		return text;
	}
	long s = lround(seconds);
	if (s < 60)
		snprintf(text, TURN_SIZE, "%ld s", s);
	else if (s < 3600)
		snprintf(text, TURN_SIZE, "%ld min %ld s", s / 60, s % 60);
	else
		snprintf(text, TURN_SIZE, "%ld h %ld min", s / 3600, s / 60 % 60);
	return text;
}

/* ---- Counts ------------------------------------------------------------------------- */

void cli_counts_heading(const char *what, int width)
{
	printf("%-*s %10s %10s %8s %10s %10s %10s %10s\n", width, what, "products", "lost", "share",
	       "results", "vanished", "overflowed", "largest");
}

static const char *count(int64_t n) { return n ? cli_quantity((double)n) : "-"; }

void cli_counts_row(const char *name, int width, const an_counts *c)
{
	/* cli_quantity keeps four texts */
	printf("%-*s %10s %10s ", width, name, count(c->products), count(c->lost));
	if (c->products)
		printf("%7.3f%%", 100 * (double)c->lost / (double)c->products);
	else
		printf("%8s", "-");
	printf(" %10s %10s %10s %10.4g\n", count(c->results), count(c->vanished), count(c->overflowed),
	       c->largest);
}

void cli_counts_json(FILE *f, const an_counts *c)
{
	fprintf(f,
		"\"products\": %lld, \"lost\": %lld, \"results\": %lld, \"vanished\": %lld, \"overflowed\": "
		"%lld, \"largest\": ",
		(long long)c->products, (long long)c->lost, (long long)c->results, (long long)c->vanished,
		(long long)c->overflowed);
	cli_json_number(f, c->largest);
}
