/* The base layer's own view: failing, memory, arenas.
 *
 * Three lifetimes are used throughout:
 *   - mem_*: one block, freed by its owner (growing arrays, file contents);
 *   - an arena that belongs to an object (a program's ops and names) and goes
 *     with it;
 *   - an arena for the length of one call (a pass's scratch), rewound or dropped
 *     at its end.  */
#ifndef BASE_BASE_H
#define BASE_BASE_H

#include "anneal/base.h"

#include <stdarg.h>
#include <string.h>

#define LENGTH(a) ((int)(sizeof(a) / sizeof *(a)))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

typedef struct pool pool;
struct tensor_chunk;

struct an_ctx {
	an_allocator alloc;
	void (*log)(void *user, an_log_level level, const char *text);
	void *log_user;
	int threads;
	uint32_t isa; /* mask of isa_* bits, see base/isa.h */
	char isa_text[160];
	pool *workers;               /* created on first use; see ctx_pool() */
	struct tensor_chunk *chunks; /* see mem_alloc_tensor() */
	int transient; /* > 0: files written now need not outlive the machine, and are not flushed to disk */
	char *message; /* owned; NULL or the last message */
	size_t message_cap;
	char message_fallback[128]; /* when there is no memory for the message */
};

/* Records a message and returns `s`, so that `return fail(ctx, AN_IO, ...)` reads well.
 * The text starts in lower case with what it is about and has no final newline. */
an_status fail(an_ctx *ctx, an_status s, const char *fmt, ...) AN_PRINTF(3, 4);
an_status failv(an_ctx *ctx, an_status s, const char *fmt, va_list ap);
/* fail(AN_MEMORY) with a uniform text. `bytes` may be 0 when unknown. */
an_status fail_memory(an_ctx *ctx, size_t bytes);
/* Puts "prefix: " before the message that is there (a caller adding its file name). */
an_status fail_prefix(an_ctx *ctx, an_status s, const char *fmt, ...) AN_PRINTF(3, 4);

void log_text(an_ctx *ctx, an_log_level level, const char *fmt, ...) AN_PRINTF(3, 4);

/* Seconds of a clock that only goes forward; where it starts is not defined. */
double seconds_now(void);

/* Evaluates an expression of type an_status and returns from the function if it failed. */
#define TRY(expr)                               \
	do {                                    \
		an_status try_status_ = (expr); \
		if (try_status_ != AN_OK)       \
			return try_status_;     \
	} while (0)

/* Blocks.  All return NULL when memory is out; none records a message. Size 0 gives a
 * unique non-NULL block. mem_free takes the size given at allocation. */
void *mem_alloc(an_ctx *ctx, size_t size);
void *mem_zalloc(an_ctx *ctx, size_t size);
void *mem_resize(an_ctx *ctx, void *p, size_t old_size, size_t new_size);
void mem_free(an_ctx *ctx, void *p, size_t size);
/* Blocks aligned to 64 bytes (cache line, widest vector) for tensor data; all but small ones
 * lie in huge pages where the system has them.  Zeroed, large ones by the context's threads: not to be called
 * in pool_run. */
void *mem_alloc_tensor(an_ctx *ctx, size_t size);
void mem_free_tensor(an_ctx *ctx, void *p, size_t size);

/* A growing array: grows *items (elements of `elem` bytes) so that index n fits.
 * false: out of memory, nothing changed. */
bool mem_grow(an_ctx *ctx, void *items_pp, size_t *cap, size_t n, size_t elem);

/* Arenas. */
typedef struct arena_block arena_block;
typedef struct arena {
	an_ctx *ctx;
	arena_block *head;
} arena;
typedef struct arena_mark {
	arena_block *block;
	size_t used;
} arena_mark;

void arena_init(arena *a, an_ctx *ctx);
void arena_free(arena *a); /* drops everything; the arena may be used again */
/* Zeroed memory aligned to 16 bytes; NULL when memory is out (no message). */
void *arena_alloc(arena *a, size_t size);
void *arena_array(arena *a, size_t n, size_t elem); /* checks the product */
void *arena_copy(arena *a, const void *src, size_t size);
char *arena_strdup(arena *a, const char *s);
char *arena_strndup(arena *a, const char *s, size_t n);
char *arena_printf(arena *a, const char *fmt, ...) AN_PRINTF(2, 3);
arena_mark arena_save(const arena *a);
void arena_rewind(arena *a, arena_mark m);

/* A growing string. `oom` is sticky; check it once at the end (str_status). */
typedef struct str {
	an_ctx *ctx;
	char *data; /* NUL-terminated once anything was added; NULL before */
	size_t len, cap;
	bool oom;
} str;
void str_init(str *s, an_ctx *ctx);
void str_free(str *s);
void str_add(str *s, const char *text);
void str_add_n(str *s, const char *text, size_t n);
void str_addf(str *s, const char *fmt, ...) AN_PRINTF(2, 3);
an_status str_status(str *s);

/* 64-bit FNV-1a of bytes, chained through `h` (start with HASH_INIT). */
#define HASH_INIT UINT64_C(0xcbf29ce484222325)
uint64_t hash_bytes(uint64_t h, const void *p, size_t n);

#endif
