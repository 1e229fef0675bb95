/* A function on a device with memory for every port: what checks run. */
#ifndef CHECK_SESSION_H
#define CHECK_SESSION_H

#include "anneal/device.h"
#include "base/base.h"

typedef struct session {
	an_device *device;
	an_executable *exe;
	an_call *call;
	an_buffer **in, **out; /* by index, in the function's order */
	int nin, nout;
} session;

/* Compiles f and binds a new buffer to every port; arrays in `a`.  Opens what session_close takes down, also
 * after a failure. */
an_status session_open(session *s, an_device *d, an_function *f, arena *a);
void session_close(session *s);
/* All of a buffer's bytes; AN_DEVICE: its memory cannot be had. */
an_status buffer_fill(an_buffer *to, const void *from);
an_status buffer_read(an_buffer *from, void *to);

#endif
