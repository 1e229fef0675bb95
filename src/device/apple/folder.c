/* The model folders.
 *
 * A program is compiled from a folder TEMPORARY/<identifier> that holds model.mil and its weight files;
 * the identifier is the system's, a digest of text and weights, so that two processes with equal programs
 * have one folder in common.  Who uses which folders stands in TEMPORARY/anneal-ane/:
 *
 *   lock          held (flock) while anything here or a model folder is made or removed
 *   <tag>.owner   one per device, held (flock) as long as its process lives: the system lets go of it
 *                 however the process ends.  A line per folder that the device uses.
 *
 * So a folder is removed by the last who uses it, and what a killed process left is removed by the next
 * device that is opened. */
#include "device/apple/apple.h"

#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

enum { NAME_MAX_LENGTH = 200 };

typedef struct folder_name {
	char text[NAME_MAX_LENGTH + 1];
	int uses; /* by models of this device */
} folder_name;

struct folder_keeper {
	char *dir, *registry, *owner_path;
	int owner; /* descriptor of <tag>.owner, locked */
	char tag[64];
	unsigned staged; /* number for the next staging folder */
	folder_name *names;
	size_t n, cap;
	arena arena;
};

/* Names come from the system and from files: only those that cannot lead out of the folder are used. */
static bool is_name(const char *s)
{
	size_t n = strspn(s, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_-");
	return n > 0 && n <= NAME_MAX_LENGTH && !s[n];
}

static an_status io_error(an_ctx *ctx, const char *path, const char *what)
{
	return fail(ctx, AN_IO, "%s: %s: %s", path, what, strerror(errno));
}

/* ---- The registry ----------------------------------------------------------------------- */

static an_status registry_lock(apple_device *dev, int *out)
{
	char path[1100];
	snprintf(path, sizeof path, "%s/lock", dev->keeper->registry);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return io_error(dev->ctx, path, "cannot be opened");
	while (flock(fd, LOCK_EX) != 0)
		if (errno != EINTR) {
			an_status s = io_error(dev->ctx, path, "cannot be locked");
			close(fd);
			return s;
		}
	*out = fd;
	return AN_OK;
}

/* Writes the names of this device's folders to its file. */
static an_status registry_write(apple_device *dev)
{
	struct folder_keeper *k = dev->keeper;
	off_t at = 0;
	for (size_t i = 0; i < k->n; i++) {
		char line[NAME_MAX_LENGTH + 2];
		int len = snprintf(line, sizeof line, "%s\n", k->names[i].text);
		if (pwrite(k->owner, line, (size_t)len, at) != len)
			return io_error(dev->ctx, k->owner_path, "writing failed");
		at += len;
	}
	return ftruncate(k->owner, at) == 0 ? AN_OK : io_error(dev->ctx, k->owner_path, "writing failed");
}

/* Calls fn with every name in an owner's file; true if it said so for one. */
static bool each_name(const char *path, bool (*fn)(void *arg, const char *name), void *arg)
{
	char line[NAME_MAX_LENGTH + 3];
	bool stop = false;
	FILE *f = fopen(path, "re");
	while (f && !stop && fgets(line, sizeof line, f)) {
		line[strcspn(line, "\n")] = 0;
		stop = is_name(line) && fn(arg, line);
	}
	if (f)
		fclose(f);
	return stop;
}

static bool equals(void *arg, const char *name) { return !strcmp(arg, name); }

/* Calls fn with the path of every other owner's file. */
static bool each_owner(apple_device *dev, bool (*fn)(apple_device *dev, const char *path, void *arg),
		       void *arg)
{
	bool stop = false;
	DIR *d = opendir(dev->keeper->registry);
	for (struct dirent *e; d && !stop && (e = readdir(d));) {
		size_t n = strlen(e->d_name);
		char path[1400];
		if (n < 7 || strcmp(e->d_name + n - 6, ".owner") != 0)
			continue;
		snprintf(path, sizeof path, "%s/%s", dev->keeper->registry, e->d_name);
		stop = strcmp(path, dev->keeper->owner_path) != 0 && fn(dev, path, arg);
	}
	if (d)
		closedir(d);
	return stop;
}

static bool owner_uses(apple_device *dev, const char *path, void *name)
{
	(void)dev;
	return each_name(path, equals, name);
}

static bool used_by_others(apple_device *dev, const char *name)
{
	return each_owner(dev, owner_uses, (void *)(uintptr_t)name);
}

/* ---- What killed processes left ----------------------------------------------------------- */

static bool remove_folder(void *arg, const char *name)
{
	apple_device *dev = arg;
	char path[1300];
	snprintf(path, sizeof path, "%s/%s", dev->keeper->dir, name);
	if (!used_by_others(dev, name) && dir_remove(dev->ctx, path) != AN_OK)
		log_text(dev->ctx, AN_LOG_WARNING, "a model folder of a process that is gone stays: %s",
			 an_message(dev->ctx));
	return false;
}

static bool remove_if_dead(apple_device *dev, const char *path, void *arg)
{
	(void)arg;
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return false;
	if (flock(fd, LOCK_EX | LOCK_NB) == 0) { /* nobody holds it any more */
		char gone[1500];
		snprintf(gone, sizeof gone, "%s.gone", path);
		if (rename(path, gone) == 0) { /* it is no owner now, so its own names do not count */
			each_name(gone, remove_folder, dev);
			unlink(gone);
		}
	}
	close(fd);
	return false;
}

/* ---- Opening and closing -------------------------------------------------------------------- */

static an_status open_keeper(apple_device *dev, const char *dir)
{
	static atomic_uint devices; /* of this process, for names that differ */
	struct folder_keeper *k = dev->keeper;
	size_t n = strlen(dir);
	while (n > 1 && dir[n - 1] == '/')
		n--;
	snprintf(k->tag, sizeof k->tag, "anneal-%ld-%u", (long)getpid(), atomic_fetch_add(&devices, 1));
	k->dir = arena_strndup(&k->arena, dir, n);
	k->registry = k->dir ? path_join(&k->arena, k->dir, "anneal-ane") : NULL;
	k->owner_path = k->registry ? arena_printf(&k->arena, "%s/%s.owner", k->registry, k->tag) : NULL;
	if (!k->owner_path)
		return fail_memory(dev->ctx, 0);
	if (n > 900)
		return fail(dev->ctx, AN_IO, "%s: the temporary directory's name is too long", dir);
	TRY(dir_make(dev->ctx, k->registry));
	int lock;
	TRY(registry_lock(dev, &lock));
	an_status s = AN_OK;
	each_owner(dev, remove_if_dead, NULL);
	/* a file of this name is of an earlier process with our number, or of this one before it was replaced
	 */
	unlink(k->owner_path);
	k->owner = open(k->owner_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (k->owner < 0)
		s = io_error(dev->ctx, k->owner_path, "cannot be made");
	else if (flock(k->owner, LOCK_EX | LOCK_NB) != 0)
		s = io_error(dev->ctx, k->owner_path, "cannot be locked");
	close(lock);
	return s;
}

static void free_keeper(apple_device *dev)
{
	struct folder_keeper *k = dev->keeper;
	if (k->owner >= 0) {
		unlink(k->owner_path);
		close(k->owner);
	}
	mem_free(dev->ctx, k->names, k->cap * sizeof *k->names);
	arena_free(&k->arena);
	mem_free(dev->ctx, k, sizeof *k);
	dev->keeper = NULL;
}

an_status folder_open(apple_device *dev, const char *dir)
{
	dev->keeper = mem_zalloc(dev->ctx, sizeof *dev->keeper);
	if (!dev->keeper)
		return fail_memory(dev->ctx, sizeof *dev->keeper);
	arena_init(&dev->keeper->arena, dev->ctx);
	dev->keeper->owner = -1;
	an_status s = open_keeper(dev, dir);
	if (s != AN_OK)
		free_keeper(dev);
	return s;
}

void folder_close(apple_device *dev) { free_keeper(dev); }

/* ---- Folders ----------------------------------------------------------------------------------- */

static folder_name *find_name(struct folder_keeper *k, const char *text)
{
	for (size_t i = 0; i < k->n; i++)
		if (!strcmp(k->names[i].text, text))
			return &k->names[i];
	return NULL;
}

/* Counts a use; the registry is locked.  The line is written before the folder is made. */
static an_status add_name(apple_device *dev, const char *text)
{
	struct folder_keeper *k = dev->keeper;
	folder_name *old = find_name(k, text);
	if (old) {
		old->uses++;
		return AN_OK;
	}
	if (!mem_grow(dev->ctx, &k->names, &k->cap, k->n, sizeof *k->names))
		return fail_memory(dev->ctx, 0);
	folder_name *new = &k->names[k->n++];
	snprintf(new->text, sizeof new->text, "%s", text);
	new->uses = 1;
	an_status s = registry_write(dev);
	if (s != AN_OK)
		k->n--;
	return s;
}

/* Gives up a use, and the folder with the last; the registry is locked. */
static an_status drop_name(apple_device *dev, const char *text)
{
	struct folder_keeper *k = dev->keeper;
	folder_name *name = find_name(k, text);
	if (!name || --name->uses > 0)
		return AN_OK;
	folder_name gone = *name;
	char path[1300];
	snprintf(path, sizeof path, "%s/%s", k->dir, gone.text);
	an_status s = used_by_others(dev, gone.text) ? AN_OK : dir_remove(dev->ctx, path);
	*name = k->names[--k->n];
	an_status written = registry_write(dev);
	return s == AN_OK ? written : s;
}

an_status folder_stage(apple_device *dev, arena *a, char **path)
{
	struct folder_keeper *k = dev->keeper;
	char name[NAME_MAX_LENGTH];
	int lock;
	snprintf(name, sizeof name, "%s-%u", k->tag, k->staged++);
	*path = path_join(a, k->dir, name);
	if (!*path)
		return fail_memory(dev->ctx, 0);
	TRY(registry_lock(dev, &lock));
	an_status s = add_name(dev, name);
	if (s == AN_OK && (s = dir_remove(dev->ctx, *path)) == AN_OK)
		s = dir_make(dev->ctx, *path);
	if (s != AN_OK)
		drop_name(dev, name);
	close(lock);
	return s;
}

const char *folder_name_of(const char *path) { return strrchr(path, '/') + 1; }

an_status folder_claim(apple_device *dev, arena *a, const char *identifier, char **path)
{
	struct folder_keeper *k = dev->keeper;
	int lock;
	if (!is_name(identifier))
		return fail(dev->ctx, AN_DEVICE,
			    "the system calls a model \"%s\", which cannot be a folder's name", identifier);
	char *target = path_join(a, k->dir, identifier);
	if (!target)
		return fail_memory(dev->ctx, 0);
	TRY(registry_lock(dev, &lock));
	an_status s = add_name(dev, identifier);
	/* equal names are equal contents: what is there, complete under the lock, is as good */
	if (s == AN_OK && !path_is_dir(target) && rename(*path, target) != 0) {
		s = io_error(dev->ctx, target, "cannot be made");
		drop_name(dev, identifier);
	} else if (s == AN_OK) {
		const char *staged = folder_name_of(*path);
		*path = target;
		s = drop_name(dev, staged);
	}
	close(lock);
	return s;
}

an_status folder_drop(apple_device *dev, const char *path)
{
	int lock;
	TRY(registry_lock(dev, &lock));
	an_status s = drop_name(dev, folder_name_of(path));
	close(lock);
	return s;
}
