/* Devices: compile a MIL function, bind buffers by name, run.
 *
 * Buffers belong to the device, and so does their layout.  Ordering, padding and size rules
 * of real hardware stay inside its adapter. */
#ifndef ANNEAL_DEVICE_H
#define ANNEAL_DEVICE_H

#include "anneal/mil.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct an_device an_device;
typedef struct an_executable an_executable; /* a compiled function; belongs to its device */
typedef struct an_buffer an_buffer;
typedef struct an_call an_call; /* an executable with buffers bound to its names */

/* "ane" is Apple's Neural Engine (on macOS; not run on Apple hardware yet), by the first route that is
 * there; "ane:objc" is the route through its Objective-C classes, "ane:e5rt" that through the C functions of
 * Espresso. */
typedef struct an_device_options {
	const char *name; /* "soft" (default), "ane", "ane:objc"; "auto": "ane" where there is one, which then
			   * has its own arithmetic whatever `numerics` says, else "soft" */
	const char *numerics; /* soft: "ieee" (default), "fast", "m4", "m4,RULE=CHOICE": anneal/ane.h lists
			       * them; else NULL */
	const char
	    *quirks; /* ane: which of the engine's to meet (an_quirk_at): "equal_size=on,min_width=32" */
	const char
	    *libraries;    /* ane: folder of stand-ins for Apple's libraries (tests); NULL: the system's */
	bool count_beside; /* ane: the device can count, because what counts also runs on the software engine
			    * in the chip's profile: slow, twice the memory, and as right as what is published
			    */
} an_device_options;

typedef struct an_device_info {
	const char *name;     /* "soft" */
	const char *numerics; /* "ieee"; one text for the same choices of a profile; ane: the chip, "m4" */
	const char *isa;      /* instruction sets in use, "avx2,avx512,..." */
	int threads;
	int64_t compiles_left; /* in this process; -1: no limit */
	int64_t memory; /* bytes beside buffers: what programs share while they run, and packed copies */
} an_device_info;

AN_API an_status an_device_open(an_ctx *ctx, const an_device_options *opt, an_device **out);
AN_API void an_device_close(an_device *d); /* frees every executable, buffer and call left */
AN_API void an_device_get_info(const an_device *d, an_device_info *info);

/* Whether the device runs operation `index` of `f`; if not, *rule (may be NULL) says why,
 * valid until the next call. */
AN_API bool an_device_supports(an_device *d, const an_function *f, int index, const char **rule);

/* Compiles a function (constants of its program are read here).  A function equal in text
 * and constants to one that this device holds gives the same executable, with its count of
 * owners raised.  AN_BUDGET: no compiles left in this process.  AN_DEVICE: refused, with the
 * rule in the message. */
AN_API an_status an_compile(an_device *d, an_function *f, an_executable **out);
AN_API void an_executable_free(an_executable *e);
/* As an_compile, but always a new executable, whose constants an_reload can replace.  AN_UNSUPPORTED: the
 * device cannot replace them. */
AN_API an_status an_compile_own(an_device *d, an_function *f, an_executable **out);
/* Gives an executable of an_compile_own the constants of `f`, which must be the function it was compiled from
 * but for the values of constants in blobs.  Calls stay bound and use them from their next run.
 * AN_UNSUPPORTED: the device cannot, or an engine was found not to (tried out once per device).  AN_USAGE: f
 * differs in more.  On failure it is as it was, or, where the engine had begun, refuses to run until a reload
 * succeeds. */
AN_API an_status an_reload(an_executable *e, an_function *f);
/* Inputs and outputs by index, in the order of the function. NULL name: no such index. */
AN_API const char *an_executable_input(const an_executable *e, int i, an_type *type);
AN_API const char *an_executable_output(const an_executable *e, int i, an_type *type);

/* What the device made of the function, for people: one line per kernel call with shapes,
 * FLOPs, bytes and the operation it comes from.  Freed with an_text_free. */
AN_API an_status an_executable_text(const an_executable *e, char **text, size_t *len);

/* ---- Counting what is lost --------------------------------------------------------- */

/* What an operation's arithmetic did to its values while the device counted. */
typedef struct an_counts {
	int64_t products;   /* contractions: multiplications of two operands that are not 0 */
	int64_t lost;       /* of these, those that contributed nothing: cut off, or rounded to 0 */
	int64_t results;    /* elements computed */
	int64_t overflowed; /* of these, infinite though every operand was finite */
	int64_t vanished; /* of these, 0 though not every exact term was: products of operands that are not 0,
			   * and sums all of whose terms that are not 0 were lost */
	double largest;   /* magnitude of a finite result */
} an_counts;

/* From now on calls of this device count, or do not (as at first).  AN_DEVICE: it cannot ("soft" can, "ane"
 * with count_beside). */
AN_API an_status an_device_count(an_device *d, bool on);
/* What calls of `e` counted for operation `op` of its function, or with -1 for all, since the last reset.
 * Composite operations count all of their parts. */
AN_API an_status an_executable_counts(const an_executable *e, int op, an_counts *out);
AN_API void an_executable_reset_counts(an_executable *e);

/* ---- Timing ----------------------------------------------------------------------- */

/* One call of a kernel, of which an executable is a list. */
typedef struct an_kernel {
	const char *text; /* the kernel, its shape and the operation it ends in; as long as the executable */
	int64_t flops, bytes; /* 2*M*N*K of contractions; read and written at least once */
	double seconds;       /* sum over the runs that were timed, since the last reset */
	int64_t runs;
	bool inner; /* it is part of the loop before it, whose iterations run on several threads at once: runs
		     * are iterations, seconds those of all threads */
} an_kernel;

/* From now on calls of this device time their kernels, or do not (as at first).  AN_DEVICE: it cannot. */
AN_API an_status an_device_time(an_device *d, bool on);
/* Kernel i in the order of execution.  AN_USAGE: there is none with this index; AN_DEVICE: the device knows
 * of no kernels. */
AN_API an_status an_executable_kernel(an_executable *e, int i, an_kernel *out);
AN_API int an_executable_kernels(const an_executable *e); /* 0: the device knows of none */
AN_API void an_executable_reset_times(an_executable *e);

/* ---- Buffers --------------------------------------------------------------------- */

/* Zeroed memory for a value of type `t`. */
AN_API an_status an_buffer_new(an_device *d, const an_type *t, an_buffer **out);
/* Shares the memory of `b` as a value of type `t`, `offset` bytes from its start (a
 * multiple of the element size): the alias that lets one program's output be another's
 * input, and a new key or value be a row of a cache. */
AN_API an_status an_buffer_view(an_buffer *b, const an_type *t, size_t offset, an_buffer **out);
AN_API void an_buffer_free(an_buffer *b); /* views keep the memory alive */
AN_API const an_type *an_buffer_type(const an_buffer *b);
/* The elements, row-major and packed.  Between map and unmap no call may use the buffer. */
AN_API void *an_buffer_map(an_buffer *b);
AN_API void an_buffer_unmap(an_buffer *b);
/* Stores `n` fp32 values at element `begin`, rounded to nearest even to the buffer's dtype,
 * in whatever layout the device keeps them. */
AN_API an_status an_buffer_update_from_f32(an_buffer *b, int64_t begin, int64_t n, const float *src);
/* The same for values that are only being computed: make(arg, i, m) computes values i .. i + m - 1 of the
 * n and returns their address.  It is called once for every block of them, on several threads at a time, and
 * a block is stored while the cache holds it: an optimizer's update and the conversion of its weights are one
 * pass over memory. */
typedef const float *an_make_fn(void *arg, int64_t i, int64_t m);
AN_API an_status an_buffer_update(an_buffer *b, int64_t begin, int64_t n, an_make_fn *make, void *arg);
/* Says that `b`, and what shares its memory, holds weights: programs read them in several runs between
 * changes.  The device may then keep copies in the layout that its kernels read, made when that pays, and
 * again after a change.  They take memory, as much as the weights or a few times that for each way in which
 * weights are read, and change no result. */
AN_API void an_buffer_keep_packed(an_buffer *b);

/* ---- Running --------------------------------------------------------------------- */

AN_API an_status an_call_new(an_executable *e, an_call **out);
AN_API void an_call_free(an_call *c);
/* AN_USAGE: no such name, or another type (the message has both).  An output may share
 * memory with an input only if it is the same buffer or view and the device says it can
 * (soft: always; it copies where it must). */
AN_API an_status an_call_bind(an_call *c, const char *name, an_buffer *b);
/* Runs; everything must be bound.  submit may return before the work is done; calls of one
 * device run in the order of submission; wait returns the status of the run. */
AN_API an_status an_call_submit(an_call *c);
AN_API an_status an_call_wait(an_call *c);
/* submit and wait. */
AN_API an_status an_call_run(an_call *c);

#ifdef __cplusplus
}
#endif
#endif
