/* The engine behind the stand-ins: the software one in a chip's profile, with the habits of
 * standin()->quirks. Both libraries that lead to it have it inside. */
#ifndef STANDIN_ENGINE_H
#define STANDIN_ENGINE_H

#include "standin.h"

#include "ane/quirks.h"
#include "base/file.h"
#include "device/device.h"

enum { ENGINE_PORTS = 256 };

/* A program: its buffers are the engine's own. */
typedef struct program {
	int owners;
	an_executable *exe;
	an_call *call;
	an_buffer *buffer[ENGINE_PORTS];
	int nin, nout;
	int order[ENGINE_PORTS]; /* the executable's port by the place of its surface */
	bool zeros;              /* ordered_bytes, or a rule on operations, is broken: all outputs are 0 */
	bool poison;             /* no_tile is broken: nothing runs after it */
} program;

extern an_ctx *engine_ctx;
extern ane_quirks engine_quirks;

/* Reads the settings; false: there is no engine. */
bool engine_start(unsigned route);
void engine_stop(void);
/* model.mil and its weights, as they are in the folder now.  NULL: refused, with the reason in `why`. */
program *engine_compile(const char *folder, char *why, size_t size);
void engine_drop(program *p); /* one owner's share; may be NULL */
/* Port by place: inputs, then outputs. */
const char *engine_port(const program *p, int place, an_type *type);
size_t engine_bytes(const program *p, int place);
/* Whether the engine takes memory of so many bytes there; after a poison it takes none. */
bool engine_takes(const program *p, int place, size_t bytes);
/* Runs on memory by place.  NULL, or what went wrong. */
const char *engine_run(program *p, char *const *base);

#endif
