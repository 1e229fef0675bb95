/* What a device implements.  device.c holds what is common: the public functions, argument
 * checks, ownership counts, the cache of executables by content.  Optional members are
 * marked; the rest must be there. */
#ifndef DEVICE_DEVICE_H
#define DEVICE_DEVICE_H

#include "ane/numerics.h"
#include "anneal/device.h"
#include "base/base.h"
#include "kernel/kernel.h"
#include "mil/ir.h"

typedef struct device_ops {
	const char *name;
	bool routes; /* may be opened as "name:route"; open() sees to what follows the colon */
	an_status (*open)(an_device *d, const an_device_options *opt);
	void (*close)(an_device *d);
	bool (*supports)(an_device *d, const an_function *f, const mil_op *op, const char **rule);
	/* The function is verified, its operations are supported and its constants are loaded;
	 * e's ports are set.  What is allocated outside e's arena is undone on failure. */
	an_status (*compile)(an_device *d, an_function *f, an_executable *e);
	void (*free_executable)(an_executable *e);
	/* Optional: gives e (e->own) the constants of f, which is what it was compiled from but for values of
	 * blobs, is verified and has its constants loaded.  Calls stay bound.  On failure e is as it was, or
	 * refuses to run. */
	an_status (*reload)(an_executable *e, an_function *f);
	/* Optional: whether reload works where only the engine can tell; finds out by trying, once. */
	an_status (*can_reload)(an_device *d);
	an_status (*text)(const an_executable *e, str *out); /* what it has become, for people */
	an_status (*alloc)(an_buffer *b); /* b->type, b->bytes are set; sets b->impl, which is one memory */
	void (*release)(an_buffer *b);    /* never called for views */
	void *(*map)(an_buffer *b);
	void (*unmap)(an_buffer *b); /* optional */
	an_status (*update)(an_buffer *b, int64_t begin, int64_t n, an_make_fn *make, void *arg);
	/* Optional, both or none: b's memory may be kept packed; what that takes for what is bound to a port.
	 */
	void (*keep_packed)(an_buffer *b);
	size_t (*packed_bytes)(const an_executable *e, int port);
	/* Everything is bound, and outputs do not overlap each other. */
	an_status (*submit)(an_call *c);
	an_status (*wait)(an_call *c);
	void (*free_call)(an_call *c); /* optional: frees c->impl, which is not NULL */
	/* Optional, all three or none: the kernels of an executable, which are timed while the device is
	 * timing. */
	int (*kernels)(const an_executable *e);
	an_status (*kernel)(an_executable *e, int i, an_kernel *out);
	void (*reset_times)(an_executable *e);
} device_ops;

struct an_device {
	an_ctx *ctx;
	const device_ops *ops;
	an_device_info info;
	const ane_numerics *numerics; /* what info.numerics names; NULL: not in the table */
	void *impl;
	bool counts; /* set by open: calls add to their executable's counts while the device is counting */
	bool counting, timing;
	an_executable *executables; /* linked through next */
	an_buffer *buffers;
	an_call *calls;
};

typedef struct device_port {
	const char *name;
	an_type type;
} device_port;

struct an_executable {
	an_device *device;
	an_executable *next;
	int owners;       /* who compiled it, and its calls */
	bool own;         /* of an_compile_own: its constants may be replaced, and nobody else is given it */
	const char *name; /* of the function */
	uint64_t shape;   /* own: a hash of the key without the values of blobs */
	uint64_t hash;    /* of the key */
	char *key;        /* the function's content, see function_key(); own: NULL */
	size_t key_used, key_size;
	arena arena; /* ports, and whatever the implementation wants to keep */
	int ninputs, noutputs;
	device_port *ports; /* inputs, then outputs */
	int nops;
	an_counts *counts; /* by operation */
	void *impl;
};

struct an_buffer {
	an_device *device;
	an_buffer *next, *prev;
	an_buffer *parent; /* whose memory a view shares; NULL otherwise */
	int owners;        /* who made it, its views, and the calls it is bound to */
	an_type type;
	size_t offset, bytes; /* in the memory; a view of a view counts from the start too */
	void *impl;           /* the memory; views have their parent's */
};

struct an_call {
	an_executable *exe;
	an_call *next, *prev;
	an_buffer **bound; /* by port index; counted as owners */
	void *impl;        /* optional */
};

/* What these numerics ask of products of fp16. */
k_precision dev_precision(const ane_numerics *n);
/* Stores what `make` gives as elements begin .. begin + n - 1 of b at `mapped`, all of b. */
void dev_store_made(an_buffer *b, void *mapped, int64_t begin, int64_t n, an_make_fn *make, void *arg);
/* Adds what a part of an operation, or another run of it, counted. */
void dev_add_counts(an_counts *to, const an_counts *more);

/* Bytes that the device keeps for a program if what is bound to this port is kept packed. */
size_t dev_packed_bytes(const an_executable *e, const char *port);

/* A device's `reload` where compiling again is how constants are replaced. */
an_status dev_recompile(an_executable *e, an_function *f);
/* Whether two buffers share memory. */
bool dev_overlap(const an_buffer *a, const an_buffer *b);

extern const device_ops soft_device_ops, apple_device_ops;

#endif
