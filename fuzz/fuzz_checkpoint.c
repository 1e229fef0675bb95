/* A checkpoint's trainer_state.json: a training is resumed from it or refused with a message. */
static const char *const input_name = "trainer_state.json";
#include "fuzz.h"

static const an_llama_config size = {
    .dim = 16, .layers = 1, .heads = 2, .hidden = 16, .vocab = 300, .seq = 8, .tied = true};

/* Trains up to the end, from `dir`'s checkpoint if there is one. */
static an_status train(an_ctx *ctx, const char *dir)
{
	int32_t ids[100];
	for (int i = 0; i < 100; i++)
		ids[i] = i * 7 % 300;
	an_llama_config c = size;
	an_model *m;
	an_tokens *tokens;
	an_device *d;
	an_trainer *t;
	if (an_llama_new(ctx, &c, &m) != AN_OK || an_device_open(ctx, NULL, &d) != AN_OK ||
	    an_tokens_copy(ctx, ids, 100, 300, &tokens) != AN_OK)
		abort();
	an_data data = {.train = tokens};
	an_train_options opt = {.steps = 2, .batch = 1, .dir = dir, .resume = true};
	an_status s = an_trainer_new(d, m, &data, &opt, NULL, &t);
	if (s == AN_OK) {
		s = an_trainer_run(t);
		an_trainer_free(t);
	}
	an_tokens_close(tokens);
	an_device_close(d);
	an_model_free(m);
	return s;
}

static void try_input(an_ctx *ctx, const char *path, const char *text, size_t len)
{
	static char dir[160], last[400];
	if (!*dir) { /* the checkpoint whose state is replaced */
		char name[200], folder[64] = "";
		snprintf(dir, sizeof dir, "%.*s/training", (int)(strrchr(path, '/') - path), path);
		if (mkdir(dir, 0700) != 0 || train(ctx, dir) != AN_OK)
			abort();
		snprintf(name, sizeof name, "%s/last", dir);
		FILE *f = fopen(name, "r");
		if (!f || fscanf(f, "%63s", folder) != 1 || fclose(f) != 0)
			abort();
		snprintf(last, sizeof last, "%s/%s/trainer_state.json", dir, folder);
	}
	FILE *f = fopen(last, "w");
	if (!f || fwrite(text, 1, len, f) != len || fclose(f) != 0)
		abort();
	accepted(ctx, train(ctx, dir));
}
