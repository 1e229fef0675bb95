/* Programs: what they are made of, how many a process may compile, and which are loaded. */
#include "device/apple/apple.h"

#include "base/file.h"
#include "base/half.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>

/* The limit is one of the process, whatever devices it opens: so is the count. */
static atomic_llong compiled;

int64_t model_compiles_left(const apple_device *dev)
{
	int64_t budget = dev->quirks.value[QUIRK_COMPILE_BUDGET];
	return budget ? MAX(budget - (int64_t)atomic_load(&compiled), 0) : -1;
}

/* ---- Compiling ---------------------------------------------------------------------------- */

static double seconds_since(const struct timespec *t)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - t->tv_sec) + 1e-9 * (double)(now.tv_nsec - t->tv_nsec);
}

static void pause_after_refusal(apple_device *dev)
{
	double left = (double)dev->quirks.value[QUIRK_COMPILE_PAUSE] - seconds_since(&dev->refused);
	if (!dev->was_refused || left <= 0)
		return;
	log_text(dev->ctx, AN_LOG_INFO,
		 "waiting %.0f s: the compile service restarts after a refused program", left);
	struct timespec t = {(time_t)left, (long)((left - (double)(time_t)left) * 1e9)};
	while (nanosleep(&t, &t) != 0)
		;
	dev->was_refused = false;
}

static an_status compile(apple_model *m)
{
	apple_device *dev = m->dev;
	if (model_compiles_left(dev) == 0)
		return dialect_breaks(dev, AN_BUDGET, QUIRK_COMPILE_BUDGET,
				      "function \"%s\": this process has compiled %lld programs of %lld; go "
				      "on in a new process",
				      m->name, (long long)atomic_load(&compiled),
				      (long long)dev->quirks.value[QUIRK_COMPILE_BUDGET]);
	pause_after_refusal(dev);
	atomic_fetch_add(&compiled, 1); /* refused ones count, too */
	dev->device->info.compiles_left = model_compiles_left(dev);
	an_status s = dev->route->compile(m);
	if (s != AN_OK) {
		clock_gettime(CLOCK_MONOTONIC, &dev->refused);
		dev->was_refused = true;
	}
	return s;
}

/* ---- Loading ------------------------------------------------------------------------------ */

static void unlink_loaded(apple_model *m)
{
	apple_device *dev = m->dev;
	if (m->prev)
		m->prev->next = m->next;
	else
		dev->models = m->next;
	if (m->next)
		m->next->prev = m->prev;
	m->next = m->prev = NULL;
}

static void link_first(apple_model *m)
{
	apple_device *dev = m->dev;
	m->next = dev->models;
	if (m->next)
		m->next->prev = m;
	dev->models = m;
}

static an_status unload(apple_model *m)
{
	unlink_loaded(m);
	m->loaded = false;
	m->dev->loaded--;
	return m->dev->route->unload(m);
}

static an_status load(apple_model *m)
{
	apple_device *dev = m->dev;
	int64_t most = dev->quirks.value[QUIRK_LOADED_PROGRAMS];
	while (most && dev->loaded >= most) {
		apple_model *oldest = dev->models;
		while (oldest->next)
			oldest = oldest->next;
		TRY(unload(oldest));
	}
	TRY(dev->route->load(m));
	m->loaded = true;
	dev->loaded++;
	link_first(m);
	return AN_OK;
}

an_status model_ready(apple_model *m)
{
	if (m->broken)
		return fail(
		    m->dev->ctx, AN_DEVICE,
		    "function \"%s\": replacing its constants failed on the way; it runs again when they "
		    "were replaced as a whole",
		    m->name);
	if (!m->loaded)
		return load(m);
	if (m->prev) {
		unlink_loaded(m);
		link_first(m);
	}
	return AN_OK;
}

/* ---- Both --------------------------------------------------------------------------------- */

/* Whether an earlier process, or another device, compiled what this folder holds. */
static bool is_compiled(const apple_model *m, arena *a)
{
	const char *list =
	    m->dev->quirks.value[QUIRK_KEPT_FOLDER] ? path_join(a, m->folder, "net.plist") : NULL;
	return list && path_exists(list);
}

an_status model_build(apple_model *m, arena *a, an_function *f)
{
	apple_device *dev = m->dev;
	char identifier[300];
	TRY(folder_stage(dev, a, &m->folder));
	TRY(dialect_write(m, a, f));
	memory_plan(m);
	TRY(dev->route->describe(m, identifier, sizeof identifier));
	m->described = true;
	if (*identifier)
		TRY(folder_claim(dev, a, identifier, &m->folder));
	if (is_compiled(m, a) && load(m) == AN_OK)
		return AN_OK;
	TRY(compile(m));
	return load(m);
}

void model_free(apple_model *m)
{
	apple_device *dev = m->dev;
	beside_free(m);
	if (m->loaded && unload(m) != AN_OK)
		log_text(dev->ctx, AN_LOG_WARNING, "%s", an_message(dev->ctx));
	if (m->described)
		dev->route->forget(m);
	if (m->folder && folder_drop(dev, m->folder) != AN_OK)
		log_text(dev->ctx, AN_LOG_WARNING, "a model folder stays: %s", an_message(dev->ctx));
	if (m->text)
		an_text_free(dev->ctx, m->text, m->text_len);
	*m = (apple_model){0};
}

/* ---- New weights -------------------------------------------------------------------------- */

/* The files of m->folder, from a folder that has all of them. */
static an_status swap_files(apple_model *m, arena *a, const char *from)
{
	for (int i = 0; i < m->nblobs; i++) {
		const char *name = m->blob[i] + strlen("@model_path/");
		const char *source = path_join(a, from, name), *target = path_join(a, m->folder, name);
		if (!source || !target)
			return fail_memory(m->dev->ctx, 0);
		if (rename(source, target) != 0)
			return fail(m->dev->ctx, AN_IO, "%s: cannot be replaced: %s", target,
				    strerror(errno));
	}
	return AN_OK;
}

/* Writes new files beside the old ones, puts them in their place, and loads the program again. */
static an_status replace(apple_model *m, an_function *f)
{
	apple_device *dev = m->dev;
	arena a;
	char *stage;
	arena_init(&a, dev->ctx);
	an_status s = folder_stage(dev, &a, &stage);
	if (s == AN_OK) {
		s = dialect_write_again(m, f, stage);
		if (s == AN_OK) {
			m->broken = true;
			s = swap_files(m, &a, stage);
		}
		an_status dropped = folder_drop(dev, stage);
		s = s == AN_OK ? dropped : s;
	}
	if (s == AN_OK && m->loaded)
		s = unload(m);
	if (s == AN_OK)
		s = load(m);
	if (s == AN_OK)
		m->broken = false;
	arena_free(&a);
	return s;
}

/* y = x w for 64 x 64 matrices of 1 and of `value`. */
static an_status check_program(an_ctx *ctx, float value, an_program **out)
{
	enum { N = 64 };
	half w[N * N];
	an_function *f;
	for (int i = 0; i < N * N; i++)
		w[i] = half_from_float(value);
	TRY(an_program_new(ctx, out));
	TRY(an_function_new(*out, "reload_check", &f));
	an_builder b = an_builder_on(f);
	an_type type = an_tensor(AN_FP16, 2, (int32_t[]){N, N});
	an_value x = an_input(&b, "x", type);
	an_output(&b, an_name(&b, an_matmul(&b, x, an_const(&b, "w", type, w), false, false), "y"));
	return an_builder_finish(&b);
}

typedef struct check {
	an_program *before, *after;
	an_executable *exe;
	an_call *call;
	an_buffer *x, *y;
} check;

static an_status check_run(apple_device *dev, const check *k, float *y)
{
	TRY(an_call_run(k->call));
	half *at = an_buffer_map(k->y);
	if (!at)
		return AN_DEVICE;
	*y = half_to_float(*at);
	return dev->route->unlock(dev, k->y->impl);
}

/* Whether results follow the weights: of 1 x 1/64 and 1 x 2/64, sums of 64 that every chip computes exactly.
 */
static an_status check_with(apple_device *dev, check *k)
{
	float before, after, ones[64 * 64];
	for (int i = 0; i < LENGTH(ones); i++)
		ones[i] = 1;
	TRY(check_program(dev->ctx, 0x1p-6f, &k->before));
	TRY(check_program(dev->ctx, 0x1p-5f, &k->after));
	TRY(an_compile_own(dev->device, an_program_function(k->before, NULL), &k->exe));
	TRY(an_call_new(k->exe, &k->call));
	TRY(an_buffer_new(dev->device, &k->exe->ports[0].type, &k->x));
	TRY(an_buffer_new(dev->device, &k->exe->ports[1].type, &k->y));
	TRY(an_buffer_update_from_f32(k->x, 0, LENGTH(ones), ones));
	TRY(an_call_bind(k->call, "x", k->x));
	TRY(an_call_bind(k->call, "y", k->y));
	TRY(check_run(dev, k, &before));
	TRY(an_reload(k->exe, an_program_function(k->after, NULL)));
	TRY(check_run(dev, k, &after));
	if (before != 1 || (after != 2 && after != 1))
		return fail(
		    dev->ctx, AN_DEVICE,
		    "trying out whether new weights reach the engine: it gave %g and then %g where 1 and "
		    "then 2 (or 1 again) were expected",
		    (double)before, (double)after);
	dev->reload = after == 2 ? RELOAD_WORKS : RELOAD_FAILS;
	return AN_OK;
}

static an_status try_out(apple_device *dev)
{
	check k = {0};
	dev->reload = RELOAD_TRYING;
	an_status s = check_with(dev, &k);
	an_call_free(k.call);
	an_buffer_free(k.x);
	an_buffer_free(k.y);
	an_executable_free(k.exe);
	an_program_free(k.before);
	an_program_free(k.after);
	if (s != AN_OK)
		dev->reload = RELOAD_UNKNOWN;
	return s;
}

an_status model_can_reload(apple_device *dev)
{
	static const char instead[] = "--weights dynamic needs no compiles, bake compiles anew";
	if (dev->quirks.value[QUIRK_KEEPS_WEIGHTS])
		return dialect_breaks(
		    dev, AN_UNSUPPORTED, QUIRK_KEEPS_WEIGHTS,
		    "device \"%s\" does not replace the constants of a program (%s; --quirks "
		    "keeps_weights=off tries it)",
		    dev->route->name, instead);
	if (dev->reload == RELOAD_UNKNOWN)
		TRY(try_out(dev));
	if (dev->reload == RELOAD_FAILS)
		return dialect_breaks(
		    dev, AN_UNSUPPORTED, QUIRK_KEEPS_WEIGHTS,
		    "this engine was given new weights for a small program and went on computing "
		    "with the old ones (%s)",
		    instead);
	return AN_OK;
}

an_status model_reload(apple_model *m, an_function *f)
{
	TRY(model_can_reload(m->dev));
	TRY(replace(m, f));
	an_status s = beside_reload(m, f);
	m->broken = s != AN_OK;
	return s;
}
