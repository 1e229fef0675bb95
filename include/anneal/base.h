/* Anneal: status codes, the context, and what every other header builds on.
 *
 * Ownership.  A function that creates something hands it out through its last
 * parameter and has a matching ..._free or ..._close, which accepts NULL.  Every
 * object keeps the context it was made with; the context must outlive it.
 *
 * Errors.  A function that can fail returns an an_status.  Anything but AN_OK
 * leaves a message in the context that names the file, line, tensor or argument,
 * what was expected, what was found and, where one exists, what to do next.
 * The library never prints, exits or aborts on bad input.
 *
 * Threads.  A context and what was made with it may be used by one thread at a
 * time; different contexts are independent.  There is no global state.  */
#ifndef ANNEAL_BASE_H
#define ANNEAL_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define AN_API          __attribute__((visibility("default")))
#define AN_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define AN_API
#define AN_PRINTF(f, a)
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Every status with the words an_status_name() gives it. */
#define AN_STATUS_LIST(X)                      \
	X(OK, "ok")                            \
	X(MEMORY, "out of memory")             \
	X(USAGE, "wrong argument")             \
	X(IO, "input or output failed")        \
	X(FORMAT, "malformed file")            \
	X(SYNTAX, "syntax error")              \
	X(TYPE, "ill-typed program")           \
	X(UNSUPPORTED, "not supported")        \
	X(DEVICE, "device refused")            \
	X(BUDGET, "compile budget exhausted")  \
	X(NUMERIC, "non-finite or lost value") \
	X(INTERRUPTED, "interrupted")          \
	X(INTERNAL, "internal error")

typedef enum an_status {
#define X(name, text) AN_##name,
	AN_STATUS_LIST(X)
#undef X
} an_status;

/* The words for a status: "out of memory".  Never NULL. */
AN_API const char *an_status_name(an_status s);

/* "MAJOR.MINOR.PATCH" of the library that is running. */
AN_API const char *an_version(void);

/* Where memory comes from.  `resize` has realloc's contract with the old size
 * added: p may be NULL (allocate), new_size may be 0 (free; returns NULL).  Blocks
 * must be aligned for max_align_t. */
typedef struct an_allocator {
	void *(*resize)(void *user, void *p, size_t old_size, size_t new_size);
	void *user;
} an_allocator;

typedef enum an_log_level { AN_LOG_INFO, AN_LOG_WARNING } an_log_level;

typedef struct an_ctx an_ctx;

/* Zero in any field means the default. */
typedef struct an_ctx_options {
	const an_allocator *allocator; /* default: malloc family */
	int threads;                   /* worker threads of devices and host operations; default: CPUs
					* this process may use */
	const char *isa; /* comma-separated instruction sets that may be used ("portable", "avx2",
			  * "avx512,avx512bf16", ...); default: what the CPU and the system offer */
	void (*log)(void *user, an_log_level level, const char *text); /* default: dropped */
	void *log_user;
} an_ctx_options;

/* Opens a context.  `opt` may be NULL.  On failure *out is NULL and there is no
 * message, only the status (AN_MEMORY, or AN_USAGE for an unknown isa name,
 * AN_UNSUPPORTED for one that this CPU or system does not offer). */
AN_API an_status an_ctx_open(const an_ctx_options *opt, an_ctx **out);
AN_API void an_ctx_close(an_ctx *ctx);

/* The message of the last failure, "" if there was none.  Valid until the next
 * failure in this context.  May hold several lines (diagnostics of a program). */
AN_API const char *an_message(const an_ctx *ctx);

/* Number of worker threads, and the instruction sets in use as "name,name". */
AN_API int an_ctx_threads(const an_ctx *ctx);
AN_API const char *an_ctx_isa(const an_ctx *ctx);

#ifdef __cplusplus
}
#endif
#endif
