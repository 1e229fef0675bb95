/* Files: views, atomic replacement, directories. */
#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Reading -------------------------------------------------------------------- */

static an_status read_whole(an_ctx *ctx, const char *path, int fd, file_view *out)
{
	/* pipes and devices: of unknown size */
	char *data = NULL;
	size_t size = 0, cap = 0;
	for (;;) {
		if (!mem_grow(ctx, &data, &cap, size + 65536, 1)) {
			mem_free(ctx, data, cap);
			return fail_memory(ctx, cap * 2);
		}
		ssize_t n = read(fd, data + size, cap - size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			int e = errno;
			mem_free(ctx, data, cap);
			return fail(ctx, AN_IO, "%s: reading failed: %s", path, strerror(e));
		}
		if (n == 0)
			break;
		size += (size_t)n;
	}
	/* the view does not know the capacity: make it the size */
	char *exact = mem_resize(ctx, data, cap, size);
	if (!exact) {
		mem_free(ctx, data, cap);
		return fail_memory(ctx, size);
	}
	*out = (file_view){(const uint8_t *)exact, size, false};
	return AN_OK;
}

an_status file_open_view(an_ctx *ctx, const char *path, file_view *out)
{
	*out = (file_view){(const uint8_t *)"", 0, true};
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return fail(ctx, AN_IO, "%s: cannot open: %s", path, strerror(errno));
	struct stat st;
	an_status s = AN_OK;
	if (fstat(fd, &st) != 0) {
		s = fail(ctx, AN_IO, "%s: %s", path, strerror(errno));
	} else if (S_ISDIR(st.st_mode)) {
		s = fail(ctx, AN_IO, "%s: is a directory, expected a file", path);
	} else if (!S_ISREG(st.st_mode)) {
		s = read_whole(ctx, path, fd, out);
	} else if (st.st_size > 0) {
		void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (p == MAP_FAILED)
			s = read_whole(ctx, path, fd, out);
		else
			*out = (file_view){p, (size_t)st.st_size, true};
	}
	close(fd);
	return s;
}

void file_close_view(an_ctx *ctx, file_view *v)
{
	if (v->mapped && v->size)
		munmap((void *)(uintptr_t)v->data, v->size);
	else if (!v->mapped && v->data)
		mem_free(ctx, (void *)(uintptr_t)v->data, v->size);
	*v = (file_view){(const uint8_t *)"", 0, true};
}

/* ---- Writing -------------------------------------------------------------------- */

struct file_out {
	an_ctx *ctx;
	int fd;
	int error; /* errno of the first failure */
	uint64_t written;
	size_t used;            /* of buffer */
	size_t bytes;           /* of this block */
	char *path, *temporary; /* behind the buffer */
	char buffer[1 << 16];
};

an_status file_create(an_ctx *ctx, const char *path, file_out **out)
{
	*out = NULL;
	size_t n = strlen(path) + 1, extra = 32, bytes = sizeof(file_out) + 2 * n + extra;
	file_out *f = mem_alloc(ctx, bytes);
	if (!f)
		return fail_memory(ctx, bytes);
	f->ctx = ctx;
	f->bytes = bytes;
	f->error = 0;
	f->written = f->used = 0;
	f->path = (char *)(f + 1);
	f->temporary = f->path + n;
	memcpy(f->path, path, n);
	snprintf(f->temporary, n + extra, "%s.tmp-%ld", path, (long)getpid());
	f->fd = open(f->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
	if (f->fd < 0) {
		int e = errno;
		mem_free(ctx, f, bytes);
		return fail(ctx, AN_IO, "%s: cannot write here: %s", path, strerror(e));
	}
	*out = f;
	return AN_OK;
}

static void push(file_out *f, const char *p, size_t n)
{
	while (n && !f->error) {
		ssize_t w = write(f->fd, p, n);
		if (w < 0) {
			if (errno != EINTR)
				f->error = errno;
			continue;
		}
		p += w;
		n -= (size_t)w;
	}
}

void file_write(file_out *f, const void *p, size_t n)
{
	f->written += n;
	if (n <= sizeof f->buffer - f->used) {
		memcpy(f->buffer + f->used, p, n);
		f->used += n;
		return;
	}
	push(f, f->buffer, f->used);
	f->used = 0;
	if (n >= sizeof f->buffer) {
		push(f, p, n);
	} else {
		memcpy(f->buffer, p, n);
		f->used = n;
	}
}

void file_printf(file_out *f, const char *fmt, ...)
{
	char small[512];
	va_list ap, again;
	va_start(ap, fmt);
	va_copy(again, ap);
	int n = vsnprintf(small, sizeof small, fmt, ap);
	va_end(ap);
	if (n >= 0 && (size_t)n < sizeof small) {
		file_write(f, small, (size_t)n);
	} else if (n >= 0) {
		char *big = mem_alloc(f->ctx, (size_t)n + 1);
		if (big) {
			vsnprintf(big, (size_t)n + 1, fmt, again);
			file_write(f, big, (size_t)n);
			mem_free(f->ctx, big, (size_t)n + 1);
		} else if (!f->error) {
			f->error = ENOMEM;
		}
	} else if (!f->error) {
		f->error = EINVAL;
	}
	va_end(again);
}

uint64_t file_tell(const file_out *f) { return f->written; }

void file_abandon(file_out *f)
{
	if (!f)
		return;
	close(f->fd);
	unlink(f->temporary);
	mem_free(f->ctx, f, f->bytes);
}

an_status file_commit(file_out *f)
{
	push(f, f->buffer, f->used);
	f->used = 0;
	if (!f->error && !f->ctx->transient && fsync(f->fd) != 0 && errno != EINVAL && errno != EROFS)
		f->error = errno;
	if (!f->error && rename(f->temporary, f->path) != 0)
		f->error = errno;
	if (f->error) {
		an_status s =
		    fail(f->ctx, AN_IO, "%s: writing failed: %s; what was there before is unchanged", f->path,
			 strerror(f->error));
		file_abandon(f);
		return s;
	}
	close(f->fd);
	mem_free(f->ctx, f, f->bytes);
	return AN_OK;
}

an_status file_replace(an_ctx *ctx, const char *path, const void *p, size_t n)
{
	file_out *f;
	TRY(file_create(ctx, path, &f));
	file_write(f, p, n);
	return file_commit(f);
}

/* ---- Directories ---------------------------------------------------------------- */

bool path_exists(const char *path) { return access(path, F_OK) == 0; }

bool path_is_dir(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

an_status dir_make(an_ctx *ctx, const char *path)
{
	if (path_is_dir(path))
		return AN_OK;
	arena scratch;
	arena_init(&scratch, ctx);
	char *p = arena_strdup(&scratch, path);
	an_status s = p ? AN_OK : fail_memory(ctx, strlen(path));
	for (size_t i = 1; s == AN_OK && p[i - 1]; i++) {
		if (p[i] && p[i] != '/')
			continue;
		char end = p[i];
		p[i] = 0;
		if (mkdir(p, 0777) != 0 && !path_is_dir(p)) {
			int e = errno == EEXIST ? ENOTDIR : errno;
			s = fail(ctx, AN_IO, "%s: cannot create the directory: %s", p, strerror(e));
		}
		p[i] = end;
	}
	arena_free(&scratch);
	return s;
}

an_status dir_sync(an_ctx *ctx, const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return fail(ctx, AN_IO, "%s: %s", path, strerror(errno));
	int e = fsync(fd) == 0 || errno == EINVAL ? 0 : errno; /* some file systems cannot */
	close(fd);
	return e ? fail(ctx, AN_IO, "%s: flushing to disk failed: %s", path, strerror(e)) : AN_OK;
}

static an_status remove_tree(an_ctx *ctx, arena *a, const char *path)
{
	DIR *d = opendir(path);
	if (!d)
		return errno == ENOENT ? AN_OK : fail(ctx, AN_IO, "%s: %s", path, strerror(errno));
	an_status s = AN_OK;
	for (struct dirent *e; s == AN_OK && (e = readdir(d));) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		char *p = path_join(a, path, e->d_name);
		struct stat st;
		if (!p)
			s = fail_memory(ctx, 0);
		else if (lstat(p, &st) == 0 && S_ISDIR(st.st_mode))
			s = remove_tree(ctx, a, p);
		else if (unlink(p) != 0 && errno != ENOENT)
			s = fail(ctx, AN_IO, "%s: cannot remove: %s", p, strerror(errno));
	}
	closedir(d);
	if (s == AN_OK && rmdir(path) != 0 && errno != ENOENT)
		s = fail(ctx, AN_IO, "%s: cannot remove: %s", path, strerror(errno));
	return s;
}

an_status dir_remove(an_ctx *ctx, const char *path)
{
	arena scratch;
	arena_init(&scratch, ctx);
	an_status s = remove_tree(ctx, &scratch, path);
	arena_free(&scratch);
	return s;
}

char *path_join(arena *a, const char *dir, const char *name)
{
	size_t n = strlen(dir);
	return arena_printf(a, "%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name);
}
