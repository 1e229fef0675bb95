/* Apple's Neural Engine as a device, in plain C: everything of Apple's is found at run time.
 * NOT RUN ON APPLE HARDWARE: it is exercised against stand-ins of the frameworks (tests/standin).
 *
 *   symbols.def  every library, function, class and method that is called
 *   symbols.c    finding them, with the types that the runtime declares
 *   object.c     objects and their owners, what they say, errors with our reading
 *   dialect.c    a function as the engine's compiler wants its text, and its weight files
 *   folder.c     the model folders, and those that killed processes left
 *   memory.c     which memory a port gets: the buffer's own, or a copy where a quirk asks for it
 *   model.c      the budget of compiles, the programs that are loaded, new weights for one
 *   objc.c       the route through _ANEInMemoryModel and IOSurfaces
 *   e5rt.c       the route through the C functions of Espresso
 *   beside.c     counting what is lost, on the software engine
 *   apple.c      the device
 *
 * A route is how programs reach the engine: one row of functions.  Everything that holds for all of them
 * (order and size of ports, budget, folders, text) is outside of it.  */
#ifndef DEVICE_APPLE_APPLE_H
#define DEVICE_APPLE_APPLE_H

#include "ane/quirks.h"
#include "device/apple/symbols.h"
#include "device/device.h"

#include <time.h>

typedef struct apple_device apple_device;
typedef struct apple_model apple_model;

/* Memory that the engine reads and writes.  A route's own structure begins with this. */
typedef struct apple_memory {
	uint64_t serial; /* unlike every other of the device's life */
	size_t bytes;    /* what the engine may use */
} apple_memory;

/* What a call of the engine gets: memory by port, in the engine's order (apple_model.port). */
typedef struct apple_call {
	apple_memory **memory;
	uint64_t *serial;      /* of the memory that `request` was made for */
	apple_memory **staged; /* owned; NULL where the buffer's own memory is used */
	void *request;         /* of a route that makes requests; NULL: not made yet */
} apple_call;

typedef struct apple_route {
	const char *name; /* "ane:objc" */
	unsigned mask;    /* ANE_ROUTE_... */
	/* On failure everything is undone. */
	an_status (*open)(apple_device *dev, const char *libraries);
	void (*close)(apple_device *dev);
	/* Zeroed memory. */
	an_status (*alloc)(apple_device *dev, size_t bytes, apple_memory **out);
	void (*release)(apple_device *dev, apple_memory *m);
	/* The CPU's view, between lock and unlock; NULL: failed. */
	void *(*lock)(apple_device *dev, apple_memory *m);
	an_status (*unlock)(apple_device *dev, apple_memory *m);
	/* The program stands in m->folder.  `describe` makes the route's objects (m->impl) and says what the
	 * folder has to be called ("": it does not matter); then it is compiled and loaded, unloaded and
	 * loaded again. */
	an_status (*describe)(apple_model *m, char *identifier, size_t size);
	an_status (*compile)(apple_model *m);
	an_status (*load)(apple_model *m);
	an_status (*unload)(apple_model *m);
	void (*forget)(apple_model *m); /* undoes describe; m->impl may be NULL */
	/* Optional, for a route whose calls name their memory beforehand: c->request for c->memory. */
	an_status (*request)(apple_model *m, apple_call *c);
	void (*drop)(apple_device *dev, apple_call *c); /* frees c->request, which is not NULL */
	an_status (*evaluate)(apple_model *m, apple_call *c);
} apple_route;
extern const apple_route objc_route, e5rt_route;

struct apple_device {
	an_device *device;
	an_ctx *ctx;
	const apple_route *route;
	apple_symbols sym;
	ane_quirks quirks;
	ane_numerics numerics;
	int64_t owned;       /* objects of Apple's that we own */
	uint64_t serial;     /* of the last memory */
	apple_model *models; /* those that are loaded, from the one used last */
	int loaded;
	struct timespec refused; /* when a compilation failed last */
	bool was_refused;
	/* whether loading again reads the weights again: not tried yet, being tried, it does, it does not */
	enum { RELOAD_UNKNOWN, RELOAD_TRYING, RELOAD_WORKS, RELOAD_FAILS } reload;
	struct folder_keeper *keeper;
	an_device *beside; /* beside.c; NULL: it does not count */
};

/* A compiled function. */
struct apple_model {
	apple_device *dev;
	const char *name;
	apple_model *next, *prev; /* among the loaded ones */
	bool loaded, described;
	bool own;         /* its folder is nobody else's: its weight files may be replaced */
	const char *mark; /* own: what makes it so */
	bool broken;      /* replacing them failed on the way */
	int nin, nout;
	int *port;                /* the executable's port by the engine's: inputs, then outputs */
	const device_port *ports; /* the executable's */
	size_t *bytes;            /* that the memory of an engine's port has, at least */
	const char **port_name;   /* by engine's port, as the text has it */
	char *text;               /* the MIL text */
	size_t text_len;
	const char **blob; /* paths as the text has them, "@model_path/weights/w.bin" */
	int nblobs;
	char *folder;          /* where text and blobs are; ends as what `describe` asked for */
	void *impl;            /* the route's */
	an_executable *beside; /* the same on the software engine, with buffers of its own by port */
	an_call *beside_call;
	an_buffer **beside_port;
};

/* ---- object.c ------------------------------------------------------------------------- */

/* What a call of Apple's returned, as an owned object: `created` if the call gave us a share, else one is
 * taken.  NULL stays NULL.  Given back by own_drop, which sets the pointer to NULL. */
void *own(apple_device *dev, const void *object, bool created);
void own_drop(apple_device *dev, void *object_pp);
/* Owned; NULL: failed, with a message. */
objc_id object_string(apple_device *dev, const char *text);
objc_id object_data(apple_device *dev, const void *bytes, size_t n);
objc_id object_number(apple_device *dev, int64_t value);
objc_id object_array(apple_device *dev, const objc_id *values, int n);
objc_id object_dictionary(apple_device *dev, const objc_id *keys, const objc_id *values, int n);
/* A string object as text; false: it is NULL or does not fit. */
bool object_text(apple_device *dev, cf_ref string, char *text, size_t size);
/* A call of Apple's failed: `what` failed, with its own words and our reading of them. `error` may be NULL.
 */
an_status apple_failed(apple_device *dev, cf_ref error, const char *fmt, ...) AN_PRINTF(3, 4);
/* The same of an error that is text and a number. */
an_status apple_says(apple_device *dev, const char *what, const char *text, const char *domain, long code);

/* ---- dialect.c ------------------------------------------------------------------------ */

/* Orders the ports and writes text and weight files to m->folder; sets port, text and blobs (in `a`). */
an_status dialect_write(apple_model *m, arena *a, an_function *f);
/* Writes the same program with the constants of f to another folder. */
an_status dialect_write_again(const apple_model *m, an_function *f, const char *folder);
/* Elements of the last axis that the engine's port has for a value of this type. */
int64_t dialect_width(const apple_device *dev, const an_type *t);
/* Fails with AN_DEVICE, or another status, naming the rule and whose evidence it is. */
an_status dialect_breaks(const apple_device *dev, an_status status, int quirk, const char *fmt, ...)
    AN_PRINTF(4, 5);

/* ---- folder.c ------------------------------------------------------------------------- */

/* Starts to keep account of folders in the temporary directory `dir`, and removes those whose process is
 * gone. */
an_status folder_open(apple_device *dev, const char *dir);
void folder_close(apple_device *dev);
/* A new folder for a program to be written to; in `a`. */
an_status folder_stage(apple_device *dev, arena *a, char **path);
/* The folder at *path becomes DIR/identifier; if that is there it is shared, and the other goes away. */
an_status folder_claim(apple_device *dev, arena *a, const char *identifier, char **path);
/* Gives up a folder: it is removed unless another process uses it. */
an_status folder_drop(apple_device *dev, const char *path);
/* The name of a folder in it. */
const char *folder_name_of(const char *path);

/* ---- memory.c ------------------------------------------------------------------------- */

/* How large memory for so many bytes has to be. */
size_t memory_size(const apple_device *dev, size_t bytes);
/* The memory of every port: sets c->memory and c->staged, and copies inputs into what is staged. */
an_status memory_prepare(apple_model *m, an_call *call, apple_call *c);
/* Copies what was staged back to the outputs. */
an_status memory_finish(apple_model *m, an_call *call, apple_call *c);
/* Sets m->bytes. */
void memory_plan(apple_model *m);

/* ---- beside.c ------------------------------------------------------------------------- */

/* Without dev->beside the others do nothing. */
an_status beside_open(apple_device *dev, const char *chip);
an_status beside_compile(apple_model *m, arena *a, an_function *f);
void beside_free(apple_model *m);
an_status beside_reload(apple_model *m, an_function *f);
/* Counts what a call is about to lose. */
an_status beside_run(apple_model *m, an_call *call);

/* ---- model.c -------------------------------------------------------------------------- */

an_status model_build(apple_model *m, arena *a, an_function *f);
void model_free(apple_model *m);
/* Loads it if it is not, unloading the one used longest ago where there are too many. */
an_status model_ready(apple_model *m);
int64_t model_compiles_left(const apple_device *dev);
/* Whether new weights in a program's files reach the engine: AN_UNSUPPORTED if not.  The first time it is
 * tried out with a small program. */
an_status model_can_reload(apple_device *dev);
/* New weight files for a model that is m->own. */
an_status model_reload(apple_model *m, an_function *f);

#endif
