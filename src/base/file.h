/* Files: whole, mapped, and replaced atomically. */
#ifndef BASE_FILE_H
#define BASE_FILE_H

#include "base/base.h"

/* A read-only view of a file: mapped, or read where mapping is not possible. */
typedef struct file_view {
	const uint8_t *data; /* data[size] is not readable; never NULL */
	size_t size;
	bool mapped;
} file_view;
an_status file_open_view(an_ctx *ctx, const char *path, file_view *out);
void file_close_view(an_ctx *ctx, file_view *v);

/* Writing a file that appears under its name only when it is complete: data goes to
 * "path.tmp-PID", which file_commit flushes to disk (fsync) and renames; file_abandon
 * removes it.  Errors are sticky: writes may go unchecked, commit reports the first,
 * removes the temporary file and leaves the old one as it was.  While ctx->transient is set
 * nothing is flushed. */
typedef struct file_out file_out;
an_status file_create(an_ctx *ctx, const char *path, file_out **out);
void file_write(file_out *f, const void *p, size_t n);
void file_printf(file_out *f, const char *fmt, ...) AN_PRINTF(2, 3);
uint64_t file_tell(const file_out *f);
an_status file_commit(file_out *f);
void file_abandon(file_out *f); /* accepts NULL */
/* All of the above for one block. */
an_status file_replace(an_ctx *ctx, const char *path, const void *p, size_t n);

/* Creates a directory and its parents; an existing directory is fine. */
an_status dir_make(an_ctx *ctx, const char *path);
/* Flushes a directory's entries to disk, so that a rename in it survives a crash. */
an_status dir_sync(an_ctx *ctx, const char *path);
/* Removes a directory and everything in it; absent is fine. */
an_status dir_remove(an_ctx *ctx, const char *path);
bool path_exists(const char *path);
bool path_is_dir(const char *path);
/* dir + "/" + name, in the arena; NULL when memory is out. */
char *path_join(arena *a, const char *dir, const char *name);

#endif
