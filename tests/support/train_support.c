#include "support/train_support.h"

#include "base/file.h"
#include "base/random.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

const an_llama_config small_config = {.dim = 24,
				      .layers = 2,
				      .heads = 3,
				      .kv_heads = 1,
				      .hidden = 40,
				      .vocab = SMALL_VOCAB,
				      .seq = 20,
				      .tied = true};

void check_ok(an_ctx *ctx, an_status s)
{
	if (s != AN_OK)
		fail_msg("%s: %s", an_status_name(s), an_message(ctx));
}

void check_refused(an_ctx *ctx, an_status s, an_status want, ...)
{
	if (s != want)
		fail_msg("%s instead of %s: %s", an_status_name(s), an_status_name(want), an_message(ctx));
	va_list ap;
	va_start(ap, want);
	for (const char *word; (word = va_arg(ap, const char *));)
		if (!strstr(an_message(ctx), word))
			fail_msg("no \"%s\" in: %s", word, an_message(ctx));
	va_end(ap);
}

void learnable_tokens(int32_t *out, int n, int32_t vocab, uint64_t seed)
{
	out[0] = 1;
	for (int i = 1; i < n; i++)
		out[i] = random_uniform(seed, 1, (uint64_t)i) < 0.2
			     ? (int32_t)(random_uniform(seed, 2, (uint64_t)i) * vocab)
			     : (5 * out[i - 1] + 3) % vocab;
}

void setup_open(setup *s, int threads, const char *numerics, const an_llama_config *config)
{
	setup_open_on(s, threads, &(an_device_options){.numerics = numerics}, config);
}

void setup_open_on(setup *s, int threads, const an_device_options *device, const an_llama_config *config)
{
	int32_t ids[1500];
	an_ctx_options o = {.threads = threads};
	*s = (setup){0};
	assert_int_equal(an_ctx_open(&o, &s->ctx), AN_OK);
	check_ok(s->ctx, an_device_open(s->ctx, device, &s->device));
	check_ok(s->ctx, an_llama_new(s->ctx, config ? config : &small_config, &s->model));
	int32_t vocab = an_model_config(s->model)->vocab;
	learnable_tokens(ids, 1500, vocab, 7);
	check_ok(s->ctx, an_tokens_copy(s->ctx, ids, 1500, vocab, &s->train));
	learnable_tokens(ids, 200, vocab, 8);
	check_ok(s->ctx, an_tokens_copy(s->ctx, ids, 200, vocab, &s->valid));
	s->data = (an_data){s->train, s->valid, 500};
}

void setup_trainer(setup *s, const an_train_options *opt, const float *block)
{
	check_ok(s->ctx, an_trainer_new(s->device, s->model, &s->data, opt, block, &s->trainer));
}

void setup_close(setup *s)
{
	an_trainer_free(s->trainer);
	an_tokens_close(s->train);
	an_tokens_close(s->valid);
	an_model_free(s->model);
	an_device_close(s->device);
	an_ctx_close(s->ctx);
}

/* ---- Results -------------------------------------------------------------------------- */

static float *copy(const float *x, int64_t n)
{
	float *y = malloc((size_t)n * sizeof *y);
	assert_non_null(y);
	memcpy(y, x, (size_t)n * sizeof *y);
	return y;
}

result result_of(const an_llama_config *c, const an_device_options *device, const an_train_options *o)
{
	setup s;
	result r = {0};
	setup_open_on(&s, 2, device, c);
	setup_trainer(&s, o, NULL);
	r.params = an_model_param_block(s.model);
	for (int i = 0; i < o->steps; i++) {
		check_ok(s.ctx, an_trainer_step(s.trainer));
		assert_null(an_trainer_skipped(s.trainer));
		r.loss[i] = an_trainer_loss(s.trainer);
		r.scale[i] = an_trainer_loss_scale(s.trainer);
		if (i == 0)
			r.gradients = copy(an_trainer_gradients(s.trainer), r.params);
	}
	r.weights = copy(an_trainer_weights(s.trainer), r.params);
	check_ok(s.ctx, an_trainer_evaluate(s.trainer, 0, &r.valid, NULL));
	const an_plan_entry *e;
	int n = an_trainer_plan(s.trainer, &e);
	for (int i = 0; i < n; i++) {
		r.device += e[i].host == AN_HOST_NONE;
		r.host += e[i].host == AN_HOST_PROGRAM;
	}
	setup_close(&s);
	return r;
}

void result_free(result *r)
{
	free(r->gradients);
	free(r->weights);
}

void result_same(const char *what, const result *want, const result *have)
{
	assert_int_equal(want->params, have->params);
	for (int i = 0; i < 32; i++)
		if (want->loss[i] != have->loss[i] || want->scale[i] != have->scale[i])
			fail_msg(
			    "%s: after update %d the loss is %.17g, not %.17g; the loss scale %g, not %g",
			    what, i + 1, have->loss[i], want->loss[i], have->scale[i], want->scale[i]);
	for (int64_t i = 0; i < want->params; i++)
		if (memcmp(&want->gradients[i], &have->gradients[i], sizeof(float)))
			fail_msg("%s: gradient %lld is %g, not %g", what, (long long)i,
				 (double)have->gradients[i], (double)want->gradients[i]);
	assert_memory_equal(want->weights, have->weights, (size_t)want->params * sizeof(float));
	assert_true(want->valid == have->valid);
}

/* ---- Files ---------------------------------------------------------------------------- */

static char home[64];
static pid_t home_owner;

static void remove_home(void)
{
	an_ctx *ctx;
	if (getpid() == home_owner && an_ctx_open(NULL, &ctx) == AN_OK) {
		dir_remove(ctx, home);
		an_ctx_close(ctx);
	}
}

const char *scratch_path(const char *name)
{
	static char path[8][160];
	static int next;
	if (!*home) {
		home_owner = getpid();
		snprintf(home, sizeof home, "/tmp/anneal-train-XXXXXX");
		assert_non_null(mkdtemp(home));
		atexit(remove_home);
	}
	next = (next + 1) % 8;
	snprintf(path[next], sizeof path[next], "%s/%s", home, name);
	return path[next];
}

char *read_all(const char *path, size_t *n)
{
	FILE *f = fopen(path, "rb");
	if (!f)
		return NULL;
	fseek(f, 0, SEEK_END);
	size_t size = (size_t)ftell(f);
	rewind(f);
	char *data = malloc(size + 1);
	assert_non_null(data);
	assert_int_equal(fread(data, 1, size, f), size);
	fclose(f);
	data[size] = 0;
	if (n)
		*n = size;
	return data;
}

void write_all(const char *path, const void *data, size_t n)
{
	FILE *f = fopen(path, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
}

int count_entries(const char *folder, const char *part)
{
	DIR *d = opendir(folder);
	int n = 0;
	assert_non_null(d);
	for (struct dirent *e; (e = readdir(d));)
		n += strstr(e->d_name, part) != NULL;
	closedir(d);
	return n;
}
