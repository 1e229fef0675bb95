/* What a device implements.  device.c holds what is common: the public functions, argument
 * checks, ownership counts, the cache of executables by content.  Optional members are
 * marked; the rest must be there. */
#ifndef DEVICE_DEVICE_H
#define DEVICE_DEVICE_H

#include "anneal/device.h"
#include "base/base.h"
#include "mil/ir.h"

typedef struct device_ops {
	const char *name;
	an_status (*open)(an_device *d, const an_device_options *opt);
	void (*close)(an_device *d);
	bool (*supports)(an_device *d, const an_function *f, const mil_op *op, const char **rule);
	an_status (*compile)(an_device *d, an_function *f, an_executable *e);
	void (*free_executable)(an_executable *e);
	an_status (*alloc)(an_buffer *b);   /* b->type, b->bytes are set */
	void (*release)(an_buffer *b);      /* never called for views */
	void *(*map)(an_buffer *b);
	void (*unmap)(an_buffer *b);        /* optional */
	an_status (*update_from_f32)(an_buffer *b, int64_t begin, int64_t n, const float *src);
	an_status (*submit)(an_call *c);
	an_status (*wait)(an_call *c);
} device_ops;

struct an_device {
	an_ctx *ctx;
	const device_ops *ops;
	an_device_info info;
	void *impl;
	an_executable *executables; /* linked through next */
	an_buffer *buffers;
	an_call *calls;
};

typedef struct device_port { const char *name; an_type type; } device_port;

struct an_executable {
	an_device *device;
	an_executable *next;
	int owners;
	uint64_t hash;    /* of the printed function and its constants */
	arena arena;      /* ports, and whatever the implementation wants to keep */
	int ninputs, noutputs;
	device_port *ports; /* inputs, then outputs */
	void *impl;
};

struct an_buffer {
	an_device *device;
	an_buffer *next, *prev;
	an_buffer *parent; /* whose memory a view shares; NULL otherwise */
	int owners;        /* 1 + number of views */
	an_type type;
	size_t offset, bytes;
	void *impl;
};

struct an_call {
	an_executable *exe;
	an_call *next, *prev;
	an_buffer **bound; /* by port index; counted as owners */
	void *impl;        /* optional */
};

extern const device_ops soft_device;

#endif
