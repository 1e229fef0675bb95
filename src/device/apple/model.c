/* Programs: what they are made of, how many a process may compile, and which are loaded. */
#include "device/apple/apple.h"

#include "base/file.h"

#include <stdatomic.h>

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
		return fail(dev->ctx, AN_BUDGET,
			    "function \"%s\": this process has compiled %lld programs, and the engine takes "
			    "no more than "
			    "%lld from one process (compile_budget); go on in a new process",
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
	TRY(folder_claim(dev, a, identifier, &m->folder));
	if (is_compiled(m, a) && load(m) == AN_OK)
		return AN_OK;
	TRY(compile(m));
	return load(m);
}

void model_free(apple_model *m)
{
	apple_device *dev = m->dev;
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
