/* Files for tests, in a folder that goes away with the test program, and an allocator that fails
 * when it is told to. */
#ifndef SUPPORT_TEXT_TEMP_H
#define SUPPORT_TEXT_TEMP_H

#include "anneal/base.h"

/* A path below this program's own folder.  The result is valid until the eighth next call. */
const char *temp_path(const char *name);
void temp_write(const char *name, const void *data, size_t n);
/* Whole file, NUL-terminated; free() it. */
char *temp_read(const char *name, size_t *n);
/* Entries in the folder below it ("" for itself) whose names contain ".tmp-": files left half-written. */
int temp_leftovers(const char *folder);

/* Counts blocks that are not freed, and fails every allocation from number `fail_at` on (0: none). */
typedef struct counting {
	long calls, fail_at, live;
} counting;
an_ctx *counting_ctx(counting *c);

/* Runs fn(ctx) with the 1st, 2nd, 3rd... allocation failing until it succeeds.  Each failure must be
 * AN_MEMORY with a message, and leave no memory behind. */
void survive_without_memory(an_status (*fn)(an_ctx *ctx));

#endif
