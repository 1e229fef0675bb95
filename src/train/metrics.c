/* metrics.jsonl: one JSON object per update and evaluation.  Numbers that repeat when a training is
 * repeated stand at the top; what the clock says is in "timing". */
#include "train/train.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

struct metrics {
	an_ctx *ctx;
	int fd;
	char *path;
	arena arena;
};

/* Bytes of whole lines at the beginning that belong to steps up to `step`, or to evaluations up to
 * `evaluated`.
 */
static size_t lines_until(const file_view *v, int64_t step, int64_t evaluated)
{
	size_t keep = 0;
	while (step >= 0 && keep < v->size) {
		const uint8_t *end = memchr(v->data + keep, '\n', v->size - keep);
		if (!end)
			break; /* written in part */
		json_t *line =
		    json_loadb((const char *)v->data + keep, (size_t)(end - v->data) - keep, 0, NULL);
		const json_t *at = json_object_get(line, "step");
		const char *event = json_string_value(json_object_get(line, "event"));
		bool ours = json_is_integer(at) &&
			    json_integer_value(at) <= (event && !strcmp(event, "eval") ? evaluated : step);
		json_decref(line);
		if (!ours)
			break;
		keep = (size_t)(end - v->data) + 1;
	}
	return keep;
}

static an_status open_at(metrics *m, int64_t step, int64_t evaluated)
{
	m->fd = open(m->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
	if (m->fd < 0)
		return fail(m->ctx, AN_IO, "%s: cannot write: %s", m->path, strerror(errno));
	file_view v;
	TRY(file_open_view(m->ctx, m->path, &v));
	size_t keep = lines_until(&v, step, evaluated);
	file_close_view(m->ctx, &v);
	if (ftruncate(m->fd, (off_t)keep) != 0)
		return fail(m->ctx, AN_IO, "%s: cannot be cut back: %s", m->path, strerror(errno));
	return AN_OK;
}

an_status metrics_open(an_ctx *ctx, const char *dir, int64_t step, int64_t evaluated, metrics **out)
{
	metrics *m = mem_zalloc(ctx, sizeof *m);
	if (!m)
		return fail_memory(ctx, sizeof *m);
	m->ctx = ctx;
	m->fd = -1;
	arena_init(&m->arena, ctx);
	m->path = path_join(&m->arena, dir, "metrics.jsonl");
	an_status s = m->path ? open_at(m, step, evaluated) : fail_memory(ctx, 0);
	if (s != AN_OK) {
		metrics_close(m);
		return s;
	}
	*out = m;
	return AN_OK;
}

void metrics_close(metrics *m)
{
	if (!m)
		return;
	if (m->fd >= 0)
		close(m->fd);
	arena_free(&m->arena);
	mem_free(m->ctx, m, sizeof *m);
}

/* Every digit, so that equal lines mean equal bits. */
static void number(str *s, const char *name, double x)
{
	str_addf(s, isfinite(x) ? ", \"%s\": %.17g" : ", \"%s\": null", name, x);
}

static void add_counts(str *s, const an_trainer *t)
{
	const char *separator = ", \"counts\": {";
	for (int i = 0; i < t->nentries; i++) {
		if (!t->actions[i].dispatch)
			continue;
		an_counts c = counts_of_entry(t, i);
		str_addf(s,
			 "%s\"%s\": {\"products\": %lld, \"lost\": %lld, \"results\": %lld, "
			 "\"overflowed\": %lld, \"vanished\": %lld",
			 separator, t->entries[i].name, (long long)c.products, (long long)c.lost,
			 (long long)c.results, (long long)c.overflowed, (long long)c.vanished);
		number(s, "largest", c.largest);
		str_add(s, "}");
		separator = ", ";
	}
	str_add(s, "}");
}

an_status metrics_report(metrics *m, const an_train_report *r, const char *skipped, const an_trainer *counted)
{
	str s;
	str_init(&s, m->ctx);
	bool step = r->kind == AN_REPORT_STEP;
	str_addf(&s, "{\"event\": \"%s\", \"step\": %lld", step ? "step" : "eval", (long long)r->step);
	number(&s, "loss", r->loss);
	if (step) {
		number(&s, "grad_norm", r->grad_norm);
		number(&s, "lr", r->lr);
		number(&s, "loss_scale", r->loss_scale);
		if (skipped)
			str_addf(&s, ", \"skipped\": \"%s\"", skipped);
		if (isfinite(r->lost))
			number(&s, "lost", r->lost);
		if (counted)
			add_counts(&s, counted);
		str_addf(&s, ", \"timing\": {\"tokens_per_second\": %.6g}", r->tokens_per_second);
	} else {
		number(&s, "bits_per_byte", r->bits_per_byte);
		str_addf(&s, ", \"best\": %s", r->best ? "true" : "false");
	}
	str_add(&s, "}\n");
	an_status status = str_status(&s);
	/* one write per line: a kill leaves whole lines, but for a full disk */
	for (size_t done = 0; status == AN_OK && done < s.len;) {
		ssize_t n = write(m->fd, s.data + done, s.len - done);
		if (n >= 0)
			done += (size_t)n;
		else if (errno != EINTR)
			status = fail(m->ctx, AN_IO, "%s: writing failed: %s", m->path, strerror(errno));
	}
	str_free(&s);
	return status;
}

an_status metrics_sync(metrics *m)
{
	if (fsync(m->fd) != 0 && errno != EINVAL && errno != EROFS)
		return fail(m->ctx, AN_IO, "%s: writing failed: %s", m->path, strerror(errno));
	return AN_OK;
}
