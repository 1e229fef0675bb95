/* Checkpoints: DIR/step-N is a Hugging Face model folder plus
 *   optimizer.safetensors  fp32: weights.NAME, m.NAME, v.NAME (12 bytes per parameter)
 *   trainer_state.json     step, loss scale, best evaluation; the options, the model and hashes of
 *                          the data and of the numbers above; the machine's profile
 * model.safetensors holds the same weights in fp32 (4 bytes per parameter more), so that any reader
 * gets them to the last bit.
 *
 * A folder is written as step-N.tmp-PID, flushed to disk and renamed; then `last`, a file with its
 * name in it, is replaced, and `best` if it is the best.  Whenever the process ends, `last` names a
 * complete folder.  The best, the last and the one before stay, others are removed. */
#include "train/train.h"

#include "anneal/io.h"
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define FORMAT 1

/* ---- What must be the same to continue ------------------------------------------------ */

typedef struct field {
	const char *name;
	enum { FIELD_INT, FIELD_INT64, FIELD_UINT64, FIELD_REAL, FIELD_BOOL } type;
	size_t offset;
} field;

#define OPTION(type, name)                                            \
	{                                                             \
#name, FIELD_##type, offsetof(an_train_options, name) \
	}
static const field options[] = {
    OPTION(INT, batch),   OPTION(INT, tokens),      OPTION(INT, accumulate), OPTION(INT64, steps),
    OPTION(UINT64, seed), OPTION(REAL, lr),         OPTION(REAL, min_lr),    OPTION(INT64, warmup),
    OPTION(REAL, beta1),  OPTION(REAL, beta2),      OPTION(REAL, eps),       OPTION(REAL, decay),
    OPTION(REAL, clip),   OPTION(REAL, loss_scale),
};
#define CONFIG(type, name)                                           \
	{                                                            \
#name, FIELD_##type, offsetof(an_llama_config, name) \
	}
static const field config[] = {
    CONFIG(INT, dim),      CONFIG(INT, layers),      CONFIG(INT, heads),     CONFIG(INT, kv_heads),
    CONFIG(INT, head_dim), CONFIG(INT, hidden),      CONFIG(INT, vocab),     CONFIG(INT, seq),
    CONFIG(BOOL, tied),    CONFIG(REAL, rope_theta), CONFIG(REAL, norm_eps),
};

/* As text: exact, and what a message shows. */
static void field_text(const field *f, const void *from, char *text, size_t size)
{
	const void *p = (const char *)from + f->offset;
	switch (f->type) {
	case FIELD_INT: snprintf(text, size, "%d", *(const int *)p); break;
	case FIELD_INT64: snprintf(text, size, "%lld", (long long)*(const int64_t *)p); break;
	case FIELD_UINT64: snprintf(text, size, "%llu", (unsigned long long)*(const uint64_t *)p); break;
	case FIELD_REAL: snprintf(text, size, "%.17g", *(const double *)p); break;
	case FIELD_BOOL: snprintf(text, size, "%s", *(const bool *)p ? "true" : "false"); break;
	}
}

static json_t *fields_json(const field *f, int n, const void *from)
{
	json_t *object = json_object();
	for (int i = 0; i < n; i++) {
		char text[40];
		field_text(&f[i], from, text, sizeof text);
		json_object_set_new(object, f[i].name, json_string(text));
	}
	return object;
}

static an_status fields_equal(an_ctx *ctx, const char *path, const json_t *object, const field *f, int n,
			      const void *now)
{
	for (int i = 0; i < n; i++) {
		char text[40];
		const char *then = json_string_value(json_object_get(object, f[i].name));
		field_text(&f[i], now, text, sizeof text);
		if (!then)
			return fail(ctx, AN_FORMAT, "%s: \"%s\" is missing", path, f[i].name);
		if (strcmp(then, text) != 0)
			return fail(ctx, AN_USAGE,
				    "%s: this training has %s %s, it cannot be continued with %s", path,
				    f[i].name, then, text);
	}
	return AN_OK;
}

/* A hash of an array at memory speed, for detecting damage: four lanes of 64-bit FNV over words.  n is
 * a multiple of 16 (blocks are). */
static uint64_t block_hash(uint64_t h, const float *x, int64_t n)
{
	uint64_t lane[4] = {h, h + 1, h + 2, h + 3};
	for (int64_t i = 0; i < n; i += 8)
		for (int l = 0; l < 4; l++) {
			uint64_t word;
			memcpy(&word, x + i + 2 * l, sizeof word);
			lane[l] = (lane[l] ^ word) * UINT64_C(0x100000001b3);
			lane[l] ^= lane[l] >> 31;
		}
	return hash_bytes(HASH_INIT, lane, sizeof lane);
}

static void hash_text(uint64_t h, char text[17]) { snprintf(text, 17, "%016llx", (unsigned long long)h); }

static uint64_t numbers_hash(const an_trainer *t)
{
	int64_t n = an_model_param_block(t->model);
	return block_hash(block_hash(block_hash(HASH_INIT, t->weights, n), t->m, n), t->v, n);
}

/* ---- Writing -------------------------------------------------------------------------- */

/* How the step is cut, as far as it may decide bits. */
static void programs_text(const an_trainer *t, char *text, size_t size)
{
	snprintf(text, size, "%s, layers %d, dW %s", t->o.split ? t->o.split : "whole",
		 t->o.layers_per_program, t->o.dw_device ? "device" : "host");
}

static an_status write_state(const an_trainer *t, const char *path)
{
	char programs[96];
	programs_text(t, programs, sizeof programs);
	an_device_info info;
	an_device_get_info(t->device, &info);
	char data[17], numbers[17];
	hash_text(t->data_hash, data);
	hash_text(numbers_hash(t), numbers);
	const train_state *s = &t->state;
	json_t *root = json_pack(
	    "{s:i, s:I, s:I, s:f, s:I, s:o, s:I, s:I, s:s, s:s, s:o, s:o, s:{s:s, s:s, s:s, s:s, s:s}}",
	    "format", FORMAT, "step", (json_int_t)s->step, "applied", (json_int_t)s->applied, "loss_scale",
	    s->loss_scale, "good_updates", (json_int_t)s->good, "best_loss",
	    isfinite(s->best_loss) ? json_real(s->best_loss) : json_null(), "best_step",
	    (json_int_t)s->best_step, "evaluated", (json_int_t)s->evaluated, "data_hash", data,
	    "numbers_hash", numbers, "options", fields_json(options, LENGTH(options), &t->o), "model",
	    fields_json(config, LENGTH(config), an_model_config(t->model)), "machine", "device", info.name,
	    "numerics", info.numerics, "isa", info.isa, "version", an_version(), "programs", programs);
	char *text = root ? json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(17)) : NULL;
	json_decref(root);
	if (!text)
		return fail_memory(t->ctx, 0);
	an_status status = file_replace(t->ctx, path, text, strlen(text));
	free(text);
	return status;
}

static const char *const block_name[] = {"weights", "m", "v"};
enum { BLOCKS = LENGTH(block_name) };
static float *block_at(const an_trainer *t, int i) { return i == 0 ? t->weights : i == 1 ? t->m : t->v; }

static an_status write_optimizer(const an_trainer *t, arena *a, const char *path)
{
	int n = an_model_params(t->model);
	an_tensor_info *info = arena_array(a, (size_t)n * BLOCKS, sizeof *info);
	if (!info)
		return fail_memory(t->ctx, 0);
	for (int i = 0; i < n * BLOCKS; i++) {
		const an_param *p = an_model_param(t->model, i % n);
		info[i] = (an_tensor_info){.name = arena_printf(a, "%s.%s", block_name[i / n], p->name),
					   .type = an_tensor(AN_FP32, p->rank, p->dim),
					   .data = block_at(t, i / n) + p->offset,
					   .bytes = (size_t)p->count * sizeof(float)};
		if (!info[i].name)
			return fail_memory(t->ctx, 0);
	}
	return an_safetensors_write(t->ctx, path, info, n * BLOCKS, NULL);
}

static an_status write_folder(const an_trainer *t, arena *a, const char *folder)
{
	const char *config_path = path_join(a, folder, "config.json");
	const char *generation = path_join(a, folder, "generation_config.json");
	const char *tokenizer = path_join(a, folder, "tokenizer.json");
	const char *optimizer = path_join(a, folder, "optimizer.safetensors");
	const char *state = path_join(a, folder, "trainer_state.json");
	if (!config_path || !generation || !tokenizer || !optimizer || !state)
		return fail_memory(t->ctx, 0);
	int32_t end = t->o.tokenizer ? an_tokenizer_end(t->o.tokenizer) : -1;
	TRY(dir_make(t->ctx, folder));
	TRY(an_hf_config_write(t->ctx, config_path, an_model_config(t->model), end));
	TRY(an_hf_generation_config_write(t->ctx, generation, end));
	if (t->o.tokenizer)
		TRY(an_tokenizer_save(t->o.tokenizer, tokenizer));
	TRY(an_hf_weights_write(folder, t->model, t->weights, AN_FP32));
	TRY(write_optimizer(t, a, optimizer));
	TRY(write_state(t, state));
	return dir_sync(t->ctx, folder);
}

/* DIR/<link> says `name`. */
static an_status point(const an_trainer *t, arena *a, const char *link, const char *name)
{
	const char *path = path_join(a, t->o.dir, link), *text = arena_printf(a, "%s\n", name);
	if (!path || !text)
		return fail_memory(t->ctx, 0);
	TRY(file_replace(t->ctx, path, text, strlen(text)));
	return dir_sync(t->ctx, t->o.dir);
}

/* "step-120" -> 120; -1: something else. */
static int64_t step_of(const char *name)
{
	if (strncmp(name, "step-", 5) != 0 || name[5] < '0' || name[5] > '9')
		return -1;
	char *end;
	errno = 0;
	long long n = strtoll(name + 5, &end, 10);
	return *end || errno ? -1 : n;
}

static const char *step_name(arena *a, int64_t step) { return arena_printf(a, "step-%lld", (long long)step); }

/* Calls fn for each entry of DIR. */
static an_status each_entry(const an_trainer *t, arena *a,
			    an_status (*fn)(const an_trainer *, arena *, const char *), int64_t *before)
{
	DIR *d = opendir(t->o.dir);
	if (!d)
		return fail(t->ctx, AN_IO, "%s: %s", t->o.dir, strerror(errno));
	an_status s = AN_OK;
	for (struct dirent *e; s == AN_OK && (e = readdir(d));) {
		int64_t n = step_of(e->d_name);
		if (before && n >= 0 && n < t->state.step && n > *before)
			*before = n;
		if (fn)
			s = fn(t, a, e->d_name);
	}
	closedir(d);
	return s;
}

static an_status remove_entry(const an_trainer *t, arena *a, const char *name)
{
	const char *path = path_join(a, t->o.dir, name);
	if (!path)
		return fail_memory(t->ctx, 0);
	if (path_is_dir(path))
		return dir_remove(t->ctx, path);
	return unlink(path) == 0 || errno == ENOENT
		   ? AN_OK
		   : fail(t->ctx, AN_IO, "%s: cannot remove: %s", path, strerror(errno));
}

/* The name in DIR/<link>, which must be that of a checkpoint. */
static an_status read_link(const an_trainer *t, arena *a, const char *link, const char **name)
{
	const char *path = path_join(a, t->o.dir, link);
	file_view v;
	if (!path)
		return fail_memory(t->ctx, 0);
	TRY(file_open_view(t->ctx, path, &v));
	size_t n = v.size;
	while (n && (v.data[n - 1] == '\n' || v.data[n - 1] == '\r'))
		n--;
	*name = arena_strndup(a, (const char *)v.data, n);
	file_close_view(t->ctx, &v);
	if (!*name)
		return fail_memory(t->ctx, 0);
	if (step_of(*name) < 0)
		return fail(t->ctx, AN_FORMAT, "%s: expected the name of a checkpoint, such as step-100",
			    path);
	return AN_OK;
}

/* All but this step's, the one before and the best.  That may be of a later step, if somebody went back to
 * an earlier checkpoint: it stays until there is a better one. */
static void prune(const an_trainer *t, arena *a)
{
	int64_t keep = -1, best = -1;
	const char *name;
	DIR *d = NULL;
	if (read_link(t, a, "best", &name) == AN_OK)
		best = step_of(name);
	if (each_entry(t, a, NULL, &keep) != AN_OK || !(d = opendir(t->o.dir)))
		return;
	for (struct dirent *e; (e = readdir(d));) {
		int64_t n = step_of(e->d_name);
		if (n >= 0 && n != t->state.step && n != keep && n != best && n != t->state.best_step &&
		    remove_entry(t, a, e->d_name) != AN_OK)
			log_text(t->ctx, AN_LOG_WARNING, "%s", an_message(t->ctx));
	}
	closedir(d);
}

an_status checkpoint_save(an_trainer *t, arena *a, const char **folder)
{
	const char *name = step_name(a, t->state.step), *final = name ? path_join(a, t->o.dir, name) : NULL;
	const char *beside = final ? arena_printf(a, "%s.tmp-%ld", final, (long)getpid()) : NULL;
	if (!beside)
		return fail_memory(t->ctx, 0);
	TRY(metrics_sync(t->metrics));
	TRY(dir_remove(t->ctx, beside));
	an_status s = write_folder(t, a, beside);
	/* a folder of this name was written by a training that was killed before `last` named it */
	if (s == AN_OK)
		s = dir_remove(t->ctx, final);
	if (s == AN_OK && rename(beside, final) != 0)
		s = fail(t->ctx, AN_IO, "%s: cannot be renamed: %s", beside, strerror(errno));
	if (s != AN_OK) {
		char *message = arena_strdup(a, an_message(t->ctx)); /* removing may fail too */
		dir_remove(t->ctx, beside);
		return fail(t->ctx, s, "%s", message ? message : "out of memory");
	}
	TRY(dir_sync(t->ctx, t->o.dir));
	TRY(point(t, a, "last", name));
	if (t->state.best_step == t->state.step)
		TRY(point(t, a, "best", name));
	prune(t, a);
	t->unsaved = false;
	*folder = final;
	return AN_OK;
}

/* ---- Reading -------------------------------------------------------------------------- */

/* The folder that DIR/last names. */
static an_status read_last(an_trainer *t, arena *a, const char **folder)
{
	const char *name;
	TRY(read_link(t, a, "last", &name));
	*folder = path_join(a, t->o.dir, name);
	if (!*folder)
		return fail_memory(t->ctx, 0);
	if (!path_is_dir(*folder))
		return fail(t->ctx, AN_IO,
			    "%s/last names %s, which is not there; write the name of another checkpoint into "
			    "it",
			    t->o.dir, name);
	return AN_OK;
}

static bool get_integer(const json_t *root, const char *name, int64_t low, int64_t high, int64_t *out)
{
	const json_t *x = json_object_get(root, name);
	*out = json_integer_value(x);
	return json_is_integer(x) && *out >= low && *out <= high;
}

static bool get_state(const json_t *root, const an_train_options *o, train_state *s)
{
	const json_t *scale = json_object_get(root, "loss_scale"), *best = json_object_get(root, "best_loss");
	s->loss_scale = json_number_value(scale);
	s->best_loss = json_is_null(best) ? INFINITY : json_number_value(best);
	bool before = !json_object_get(root, "evaluated"); /* then what was due had been done */
	return get_integer(root, "step", 0, o->steps, &s->step) &&
	       get_integer(root, before ? "step" : "evaluated", -1, s->step, &s->evaluated) &&
	       get_integer(root, "applied", 0, s->step, &s->applied) &&
	       get_integer(root, "good_updates", 0, s->step, &s->good) &&
	       get_integer(root, "best_step", -1, s->step, &s->best_step) && json_is_number(scale) &&
	       s->loss_scale > 0 && (json_is_null(best) || json_is_number(best));
}

/* Bits depend on the machine's profile; continuing is possible, repeating to the bit is not. */
static void compare_machine(an_trainer *t, const char *path, const json_t *machine)
{
	an_device_info info;
	an_device_get_info(t->device, &info);
	char programs[96];
	programs_text(t, programs, sizeof programs);
	const char *const now[][2] = {{"device", info.name},
				      {"numerics", info.numerics},
				      {"isa", info.isa},
				      {"version", an_version()},
				      {"programs", programs}};
	for (int i = 0; i < LENGTH(now); i++) {
		const char *then = json_string_value(json_object_get(machine, now[i][0]));
		if (!then || strcmp(then, now[i][1]) != 0)
			log_text(t->ctx, AN_LOG_WARNING,
				 "%s: trained with %s %s, now it is %s: the training continues, but not with "
				 "the bits it would have had",
				 path, now[i][0], then ? then : "unknown", now[i][1]);
	}
}

static an_status check_state(an_trainer *t, const char *path, const json_t *root, const char **numbers)
{
	int64_t format;
	if (!get_integer(root, "format", 1, INT32_MAX, &format))
		return fail(t->ctx, AN_FORMAT, "%s: no \"format\": not a trainer's state", path);
	if (format > FORMAT)
		return fail(t->ctx, AN_UNSUPPORTED, "%s: format %lld is newer than this program's, %d", path,
			    (long long)format, FORMAT);
	TRY(fields_equal(t->ctx, path, json_object_get(root, "model"), config, LENGTH(config),
			 an_model_config(t->model)));
	TRY(fields_equal(t->ctx, path, json_object_get(root, "options"), options, LENGTH(options), &t->o));
	char data[17];
	hash_text(t->data_hash, data);
	const char *then = json_string_value(json_object_get(root, "data_hash"));
	*numbers = json_string_value(json_object_get(root, "numbers_hash"));
	if (!then || !*numbers || !get_state(root, &t->o, &t->state))
		return fail(t->ctx, AN_FORMAT,
			    "%s: the step, the loss scale, the best evaluation or a hash is missing or "
			    "impossible",
			    path);
	if (strcmp(then, data) != 0)
		return fail(t->ctx, AN_USAGE,
			    "%s: this training had other training tokens; give the ones it began with", path);
	compare_machine(t, path, json_object_get(root, "machine"));
	return AN_OK;
}

static an_status read_optimizer(an_trainer *t, arena *a, const char *path)
{
	an_safetensors *file;
	TRY(an_safetensors_open(t->ctx, path, &file));
	int n = an_model_params(t->model);
	an_status s = AN_OK;
	for (int i = 0; s == AN_OK && i < n * BLOCKS; i++) {
		const an_param *p = an_model_param(t->model, i % n);
		an_type want = an_tensor(AN_FP32, p->rank, p->dim);
		const char *name = arena_printf(a, "%s.%s", block_name[i / n], p->name);
		an_tensor_info info;
		if (!name)
			s = fail_memory(t->ctx, 0);
		else if (!an_safetensors_find(file, name, &info) || !an_type_equal(&info.type, &want))
			s = fail(t->ctx, AN_FORMAT, "%s: \"%s\" is missing or has another shape", path, name);
		else
			memcpy(block_at(t, i / n) + p->offset, info.data, info.bytes);
	}
	an_safetensors_close(file);
	return s;
}

static an_status load(an_trainer *t, arena *a, const char *folder)
{
	const char *state = path_join(a, folder, "trainer_state.json");
	const char *optimizer = path_join(a, folder, "optimizer.safetensors");
	file_view v;
	if (!state || !optimizer)
		return fail_memory(t->ctx, 0);
	TRY(file_open_view(t->ctx, state, &v));
	json_error_t error;
	json_t *root = json_loadb((const char *)v.data, v.size, 0, &error);
	file_close_view(t->ctx, &v);
	if (!root)
		return fail(t->ctx, AN_FORMAT, "%s:%d: not JSON: %s", state, error.line, error.text);
	const char *numbers = NULL;
	an_status s = check_state(t, state, root, &numbers);
	if (s == AN_OK && t->state.step != step_of(strrchr(folder, '/') + 1))
		s = fail(t->ctx, AN_FORMAT, "%s: the state is that of step %lld", state,
			 (long long)t->state.step);
	if (s == AN_OK)
		s = read_optimizer(t, a, optimizer);
	char found[17];
	if (s == AN_OK) {
		hash_text(numbers_hash(t), found);
		if (strcmp(found, numbers) != 0)
			s = fail(t->ctx, AN_FORMAT,
				 "%s: the numbers are not the ones that were saved: the file is damaged",
				 optimizer);
	}
	json_decref(root);
	return s;
}

/* ---- Beginning and end ------------------------------------------------------------------ */

/* What a killed process can leave: NAME.tmp-PID of the names that trainings write. */
static an_status remove_leftover(const an_trainer *t, arena *a, const char *name)
{
	static const char *const ours[] = {
	    "last",      "best",      "metrics.jsonl", "tokenizer.json", "tokenizer_config.json",
	    "train.bin", "valid.bin", "data.json"};
	const char *mark = strstr(name, ".tmp-");
	if (!mark || !mark[5] || mark[5 + strspn(mark + 5, "0123456789")])
		return AN_OK;
	const char *stem = arena_strndup(a, name, (size_t)(mark - name));
	if (!stem)
		return fail_memory(t->ctx, 0);
	bool known = step_of(stem) >= 0;
	for (int i = 0; i < LENGTH(ours); i++)
		known |= strcmp(stem, ours[i]) == 0;
	return known ? remove_entry(t, a, name) : AN_OK;
}

/* Takes the folder for this process, and finds out now, not after an hour, whether a checkpoint will
 * have room. */
static an_status claim(an_trainer *t, arena *a)
{
#ifdef JANSSON_ABSENT
	return fail(t->ctx, AN_UNSUPPORTED, "%s: no checkpoint can be written: %s", t->o.dir, JANSSON_ABSENT);
#endif
	TRY(dir_make(t->ctx, t->o.dir));
	t->dir_lock = open(t->o.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (t->dir_lock < 0)
		return fail(t->ctx, AN_IO, "%s: %s", t->o.dir, strerror(errno));
	if (flock(t->dir_lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK)
		return fail(t->ctx, AN_IO, "%s: another training is writing here", t->o.dir);
	TRY(each_entry(t, a, remove_leftover, NULL));
	const char *probe = arena_printf(a, "%s/step-0.tmp-%ld", t->o.dir, (long)getpid());
	if (!probe)
		return fail_memory(t->ctx, 0);
	if (mkdir(probe, 0777) != 0)
		return fail(t->ctx, AN_IO, "%s: cannot write here: %s", t->o.dir, strerror(errno));
	rmdir(probe);
	struct statvfs disk;
	double need = 4.0 * (double)t->block_bytes, left;
	if (fstatvfs(t->dir_lock, &disk) != 0)
		return AN_OK;
	left = (double)disk.f_bavail * (double)disk.f_frsize;
	if (left < need)
		return fail(t->ctx, AN_IO, "%s: a checkpoint takes %.1f MB, the disk has %.1f MB left",
			    t->o.dir, 1e-6 * need, 1e-6 * left);
	return AN_OK;
}

an_status checkpoint_begin(an_trainer *t, bool *resumed)
{
	arena a;
	arena_init(&a, t->ctx);
	*resumed = false;
	an_status s = claim(t, &a);
	const char *last = path_join(&a, t->o.dir, "last"), *folder = NULL;
	if (s == AN_OK && !last)
		s = fail_memory(t->ctx, 0);
	bool there = s == AN_OK && path_exists(last);
	if (there && !t->o.resume)
		s = fail(t->ctx, AN_USAGE, "%s already holds a training: continue it, or give another folder",
			 t->o.dir);
	if (there && s == AN_OK) {
		s = read_last(t, &a, &folder);
		if (s == AN_OK)
			s = load(t, &a, folder);
		if (s == AN_FORMAT || s == AN_IO) {
			char *message = arena_strdup(&a, an_message(t->ctx));
			s = fail(t->ctx, s, "%s (the folder of another checkpoint can be named in %s)",
				 message ? message : "unreadable", last);
		}
		/* killed between the two */
		if (s == AN_OK && t->state.best_step >= 0 && t->state.best_step == t->state.step)
			s = point(t, &a, "best", step_name(&a, t->state.step));
		*resumed = s == AN_OK;
	}
	if (s == AN_OK)
		s = metrics_open(t->ctx, t->o.dir, *resumed ? t->state.step : -1, t->state.evaluated,
				 &t->metrics);
	arena_free(&a);
	return s;
}

void checkpoint_end(an_trainer *t)
{
	metrics_close(t->metrics);
	t->metrics = NULL;
	if (t->dir_lock >= 0)
		close(t->dir_lock);
	t->dir_lock = -1;
}
