/* anneal probe: a device against everything that is known of its chip.
 *
 * The items run in processes of their own, one after another, which this one starts: an engine compiles so
 * many programs for a process and no more, and what is tried may end a process, or never come back.  A worker
 * prints three lines per item; this process adds what a worker could not. */
#include "cli/cli.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int run(int argc, char **argv);

const cli_command cmd_probe = {
    .name = "probe",
    .operands = "",
    .summary = "try on a device what is known of its chip, measure it, and write a report",
    .details =
	"Tries every habit of the engine, every published result and fingerprint, finds out which "
	"arithmetic\n"
	"it has, and measures dispatch, peak rates, weight bandwidth, reloading and power.  On a Mac this "
	"is\n"
	"the way to find out what holds on its chip: please send the report of --json in.  Without a Neural\n"
	"Engine the software one is tried.  The exit status is 1 if something differs from what is known.",
    .example = "anneal probe --only case,choice --json /tmp/probe.json",
    .run = run,
};

enum { SPENT = 75, PATIENCE = 300, GROUPS = 8 }; /* a worker's exit status: go on in a new one; seconds */

typedef struct probe_options {
	cli_device d;
	const char *chip, *json, *only;
	bool all;
	bool group[GROUPS];
} probe_options;

static bool wanted(const probe_options *o, int group) { return !o->only || o->group[group]; }

static void read_groups(probe_options *o)
{
	for (const char *word = o->only; word && *word; word += *word == ',') {
		size_t n = strcspn(word, ",");
		int g = 0;
		while (an_probe_group_name(g) &&
		       (strlen(an_probe_group_name(g)) != n || memcmp(an_probe_group_name(g), word, n) != 0))
			g++;
		if (!an_probe_group_name(g))
			cli_usage("--only: \"%.*s\" is none of habit, case, choice, fingerprint, speed",
				  (int)n, word);
		o->group[g] = true;
		word += n;
	}
}

/* ---- The worker -------------------------------------------------------------------------- */

static void print_item(const an_probe_item *item, int index)
{
	printf("{\"index\": %d, \"group\": \"%s\", \"id\": ", index, an_probe_group_name((int)item->group));
	cli_json_text(stdout, item->id);
	printf(", \"text\": ");
	cli_json_text(stdout, item->text);
	printf(", \"evidence\": ");
	cli_json_text(stdout, item->evidence);
}

static void print_result(const an_probe_result *r)
{
	printf(", \"verdict\": \"%s\", \"expected\": ", an_probe_verdict_name(r->verdict));
	cli_json_text(stdout, r->expected);
	printf(", \"observed\": ");
	cli_json_text(stdout, r->observed);
	if (isfinite(r->value)) {
		printf(", \"value\": %.17g, \"unit\": \"%s\", \"reference\": ", r->value, r->unit);
		cli_json_number(stdout, r->reference);
	}
	printf(", \"seconds\": %.3f", r->seconds);
}

static void print_info(const an_probe *p)
{
	an_probe_info i;
	an_probe_get_info(p, &i);
	printf("\"anneal\": \"%s\", \"system\": ", an_version());
	cli_json_text(stdout, i.system);
	printf(", \"device\": ");
	cli_json_text(stdout, i.device);
	printf(", \"numerics\": ");
	cli_json_text(stdout, i.numerics ? i.numerics : "");
	printf(", \"isa\": ");
	cli_json_text(stdout, i.isa);
	printf(", \"chip\": ");
	cli_json_text(stdout, i.chip);
	printf(", \"chip_assumed\": %s\n", i.assumed ? "true" : "false");
	printf("%s, %s (%s), compared with %s%s\n", i.system, i.device, i.numerics ? i.numerics : "", i.chip,
	       i.assumed ? ", since the device does not say which chip it is" : "");
}

/* Items from `first` on: their beginning as JSON, a line; their end, a line; for people, a line. */
static int work(an_ctx *ctx, an_probe *p, const probe_options *o, int first)
{
	an_probe_item item;
	an_probe_result r;
	bool any = false;
	print_info(p);
	for (int i = first; an_probe_at(p, i, &item); i++) {
		if (!wanted(o, (int)item.group))
			continue;
		print_item(&item, i);
		putchar('\n');
		fflush(stdout);
		an_status s = an_probe_run(p, i, &r);
		if (s == AN_BUDGET && any)
			return SPENT;
		if (s == AN_BUDGET) { /* a new process would come no further */
			r = (an_probe_result){.verdict = AN_PROBE_FAILED, .value = NAN, .reference = NAN};
			snprintf(r.observed, sizeof r.observed, "%s", an_message(ctx));
		} else {
			cli_check(ctx, s);
		}
		any = true;
		print_result(&r);
		printf("\n%-8s %-20s %s%s%s\n", an_probe_verdict_name(r.verdict), item.id, r.observed,
		       r.expected[0] && r.verdict != AN_PROBE_AGREES ? "; expected: " : "",
		       r.verdict != AN_PROBE_AGREES ? r.expected : "");
		fflush(stdout);
	}
	return 0;
}

static int worker(const probe_options *o, const char *carried)
{
	cli_accept_signals();
	an_ctx *ctx = cli_open_ctx(&o->d);
	an_probe *p;
	an_probe_options opt = {.device = o->d.device,
				.numerics = o->d.numerics,
				.quirks = o->d.quirks,
				.libraries = o->d.libraries,
				.chip = o->chip};
	cli_check_name(ctx, an_probe_open(ctx, &opt, &p));
	int status = work(ctx, p, o, atoi(carried));
	an_probe_close(p);
	an_ctx_close(ctx);
	return status;
}

/* ---- The one that starts workers ------------------------------------------------------------ */

typedef struct report {
	char *head, *items; /* JSON */
	size_t head_len, items_len;
	FILE *head_file, *items_file;
	int count[4], total;
	char group[16]; /* of the last item */
	int agree;      /* in this group */
	int restarts, first;
} report;

/* What comes from a worker. */
typedef struct input {
	int fd;
	char *data;
	size_t used, size;
	bool late; /* nothing came for PATIENCE seconds */
} input;

/* A line, without its end, freed with free(); NULL: the worker has ended, or has to be. */
static char *read_line(input *in)
{
	for (size_t seen = 0;;) {
		char *end = memchr(in->data + seen, '\n', in->used - seen);
		if (end) {
			size_t n = (size_t)(end - in->data);
			char *line = cli_format("%.*s", (int)n, in->data);
			in->used -= n + 1;
			memmove(in->data, end + 1, in->used);
			return line;
		}
		seen = in->used;
		if (in->used == in->size && !(in->data = realloc(in->data, in->size *= 2)))
			cli_fail("out of memory");
		struct pollfd ready = {in->fd, POLLIN, 0};
		int n = poll(&ready, 1, PATIENCE * 1000);
		in->late = n == 0;
		ssize_t got = n > 0 ? read(in->fd, in->data + in->used, in->size - in->used) : n;
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return NULL;
		in->used += (size_t)got;
	}
}

static void end_group(report *r)
{
	cli_status_clear();
	if (r->agree)
		printf("  %d agree%s\n", r->agree, r->agree == 1 ? "s" : "");
	r->agree = 0;
}

/* ... "id": "..." ...: what follows the quote. */
static const char *id_of(const char *begin)
{
	const char *at = strstr(begin, "\"id\": \"");
	return at ? at + 7 : "\"";
}

/* "{"index": 12, "group": "case" ...": which. */
static void follow(report *r, const char *begin)
{
	static const char *const heading[] = {
	    "habit\0Habits of the engine",
	    "case\0Single results that were published",
	    "choice\0Rules of arithmetic: the choices that the device's results agree with",
	    "fingerprint\0Fingerprints: relative errors that were published",
	    "speed\0Measurements",
	};
	char group[16];
	int index;
	if (sscanf(begin, "{\"index\": %d, \"group\": \"%15[a-z]\"", &index, group) != 2)
		cli_fail("a worker said \"%s\"", begin);
	r->first = index + 1;
	if (strcmp(group, r->group) != 0) {
		end_group(r);
		snprintf(r->group, sizeof r->group, "%s", group);
		for (size_t i = 0; i < sizeof heading / sizeof *heading; i++)
			if (!strcmp(heading[i], group))
				printf("\n%s\n", heading[i] + strlen(group) + 1);
		fflush(stdout);
	}
	const char *id = id_of(begin);
	cli_status(false, "  trying %.*s", (int)strcspn(id, "\""), id);
}

static void take(report *r, const char *begin, const char *end, const char *line, const probe_options *o)
{
	fprintf(r->items_file, "%s\n  %s%s}", r->total++ ? "," : "", begin, end);
	for (int v = 0; v < 4; v++) {
		const char *name = an_probe_verdict_name((an_probe_verdict)v);
		if (strncmp(line, name, strlen(name)) != 0)
			continue;
		r->count[v]++;
		r->agree += v == AN_PROBE_AGREES;
		cli_status_clear();
		if (o->all || v != AN_PROBE_AGREES)
			printf("  %s\n", line);
	}
	fflush(stdout);
}

/* What ended a worker in the middle of an item. */
static void take_broken(report *r, const char *begin, const char *why, const probe_options *o)
{
	char *end = cli_format(", \"verdict\": \"failed\", \"expected\": \"\", \"observed\": \"%s\"", why),
	     *line = cli_format("%-8s %-20.20s %s", "failed", id_of(begin), why);
	line[29] = 0;
	char *quote = strchr(line + 9, '"');
	if (quote)
		memset(quote, ' ', (size_t)(line + 29 - quote));
	char *whole = cli_format("%s %s", line, why);
	take(r, begin, end, whole, o);
	free(whole);
	free(line);
	free(end);
}

static input start_worker(const report *r, int argc, char **argv, pid_t *pid)
{
	int ends[2];
	char first[20];
	snprintf(first, sizeof first, "%d", r->first);
	if (pipe(ends) != 0)
		cli_fail("cannot make a pipe: %s", strerror(errno));
	fflush(NULL);
	*pid = fork();
	if (*pid < 0)
		cli_fail("cannot start a process: %s", strerror(errno));
	if (*pid == 0) {
		dup2(ends[1], STDOUT_FILENO);
		close(ends[0]);
		close(ends[1]);
		cli_again("probe", NULL, argc, argv, first);
	}
	close(ends[1]);
	return (input){.fd = ends[0], .data = cli_alloc(4096, 1), .size = 4096};
}

/* Runs one worker to its end; whether another is needed. */
static bool one_worker(report *r, int argc, char **argv, const probe_options *o)
{
	pid_t pid;
	input in = start_worker(r, argc, argv, &pid);
	char *info = read_line(&in), *words = info ? read_line(&in) : NULL, *begin = NULL;
	if (words && !r->head_len) {
		fprintf(r->head_file, "%s", info);
		fflush(r->head_file);
		printf("%s\n", words);
	}
	while (words && (begin = read_line(&in))) {
		follow(r, begin);
		char *end = read_line(&in), *line = end ? read_line(&in) : NULL;
		if (line)
			take(r, begin, end, line, o);
		free(end);
		if (!line)
			break;
		free(line);
		free(begin);
		begin = NULL;
	}
	if (in.late)
		kill(pid, SIGKILL);
	int status;
	close(in.fd);
	free(in.data);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	bool more = true;
	if (begin && WIFEXITED(status) && WEXITSTATUS(status) == SPENT) {
		r->first--; /* once more, in the next */
	} else if (begin && !(WIFEXITED(status) && WEXITSTATUS(status))) {
		char *why = in.late ? cli_format("no answer for %d s", PATIENCE)
				    : cli_format("ended the process: %s", WIFSIGNALED(status)
									      ? strsignal(WTERMSIG(status))
									      : "without a word");
		take_broken(r, begin, why, o);
		free(why);
	} else if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
		more = false;
	} else { /* it has said why */
		exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
	}
	r->restarts += more;
	free(begin);
	free(info);
	free(words);
	return more;
}

/* A file beside `path`, to be renamed; and its name. */
static FILE *open_beside(const char *path, char **beside)
{
	*beside = cli_format("%s.tmp-%ld", path, (long)getpid());
	FILE *f = fopen(*beside, "w");
	if (!f)
		cli_fail("%s: cannot write: %s", path, strerror(errno));
	return f;
}

/* Minutes before there is something to write. */
static void check_writable(const char *path)
{
	char *beside;
	fclose(open_beside(path, &beside));
	unlink(beside);
	free(beside);
}

static void write_json(const report *r, const char *path)
{
	char *beside;
	FILE *f = open_beside(path, &beside);
	fprintf(f,
		"{%s,\n \"processes\": %d, \"agree\": %d, \"differ\": %d, \"unknown\": %d, \"failed\": %d,\n "
		"\"items\": [%s\n ]}\n",
		r->head, r->restarts + 1, r->count[AN_PROBE_AGREES], r->count[AN_PROBE_DIFFERS],
		r->count[AN_PROBE_UNKNOWN], r->count[AN_PROBE_FAILED], r->items);
	if (fclose(f) != 0 || rename(beside, path) != 0) {
		int e = errno;
		unlink(beside);
		cli_fail("%s: cannot write: %s", path, strerror(e));
	}
	free(beside);
}

static int run(int argc, char **argv)
{
	probe_options o = {.d.device = "auto"};
	char **typed = cli_alloc((size_t)argc + 1, sizeof *typed), *carried = cli_carried();
	memcpy(typed, argv, (size_t)argc * sizeof *typed);
	/* clang-format off */
	const cli_option rows[] = {
		{"json", "FILE", "write the report there", .text = &o.json},
		{"only", "GROUPS", "some of habit,case,choice,fingerprint,speed (default: all)", .text = &o.only},
		{"chip", "PROFILE", "compare with this chip: m1 ... m6 (default: the device's)", .text = &o.chip},
		{"all", NULL, "print also what agrees", .flag = &o.all},
		CLI_DEVICE_OPTIONS(o.d, "m4"),
	};
	/* clang-format on */
	if (CLI_PARSE(&cmd_probe, rows, argc, argv) < argc)
		cli_usage("unexpected operand \"%s\"", argv[argc - 1]);
	read_groups(&o);
	if (o.d.numerics && !strcmp(o.d.device, "auto"))
		o.d.device = "soft";
	if (carried) {
		if (!o.d.numerics && strncmp(o.d.device, "ane", 3) != 0)
			o.d.numerics = "m4"; /* where auto finds an engine, that has its own */
		int status = worker(&o, carried);
		free(carried);
		free(typed);
		return status;
	}
	if (o.json)
		check_writable(o.json);
	report r = {0};
	r.head_file = open_memstream(&r.head, &r.head_len);
	r.items_file = open_memstream(&r.items, &r.items_len);
	if (!r.head_file || !r.items_file)
		cli_fail("out of memory");
	while (one_worker(&r, argc, typed, &o))
		;
	fclose(r.head_file);
	fclose(r.items_file);
	end_group(&r);
	printf("\n%d agree, %d differ, %d unknown, %d could not be tried\n", r.count[AN_PROBE_AGREES],
	       r.count[AN_PROBE_DIFFERS], r.count[AN_PROBE_UNKNOWN], r.count[AN_PROBE_FAILED]);
	if (o.json)
		write_json(&r, o.json);
	free(r.head);
	free(r.items);
	free(typed);
	return r.count[AN_PROBE_DIFFERS] > 0;
}
