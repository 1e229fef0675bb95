/* Stand-ins for the libraries of Apple's that the device "ane" calls, for tests on Linux: one shared library
 * each, with the software Neural Engine in a chip's profile behind the private classes.  They show that
 * calls, text, weight files, names, sizes and ownership are right, and nothing about silicon.
 *
 *   runtime.c         libobjc: classes, selectors, objc_msgSend, pools; what all others build on
 *   corefoundation.c  CoreFoundation: data, strings, numbers, arrays, dictionaries, errors
 *   foundation.c      Foundation: the temporary directory
 *   iosurface.c       IOSurface
 *   system.c          libSystem: sysctlbyname
 *   neural.c          AppleNeuralEngine: the private classes
 *   espresso.c        Espresso: the e5rt_... functions
 *   engine.c          the engine behind both
 *
 * They go by ane-facts: what recorded clients rely on holds; what the catalogue of constraints
 * (src/ane/quirks.def) says happens, with a switch per quirk. */
#ifndef STANDIN_H
#define STANDIN_H

#include <stdbool.h>
#include <stdint.h>
#include <stddef.h>

#define STANDIN_API __attribute__((visibility("default")))

/* Settings, and what was counted.  A test finds it with dlsym(libobjc, "standin"). */
typedef struct standin_state {
	/* settings */
	char temporary[1024]; /* NSTemporaryDirectory */
	char chip[64];        /* "Apple M4" */
	char profile[16];     /* arithmetic of the engine: "m4" */
	char quirks[256];     /* what the engine enforces, as ane_quirks_set reads it */
	char hidden[128];     /* class or "Class selector" that is not there; "" : all are */
	char retyped[128];    /* "selector" whose types are others than those known */
	long fail_at;         /* this private call fails, counted from 1; 0: none */
	long most_compiles;   /* after these compiling fails; 0: no limit */
	/* counts */
	long calls;       /* private calls that can fail */
	char failed[128]; /* the call that fail_at made fail */
	long objects;     /* that are alive */
	long surfaces;    /* of these, IOSurfaces */
	long locked;      /* of these, locked */
	long retains, releases;
	long compiles, loads, unloads, loaded, evaluations, requests;
	long left_loaded; /* models that went away while they were loaded */
} standin_state;

STANDIN_API standin_state *standin(void);

/* ---- For the libraries themselves --------------------------------------------------------- */

typedef struct standin_class standin_class;
typedef struct standin_object { /* every object begins with it */
	const standin_class *isa;
	_Atomic long owners; /* negative: never goes away */
} standin_object;

typedef struct standin_method {
	const char *selector; /* made unique when it is registered */
	const char *types;
	void *function;
} standin_method;

struct standin_class {
	standin_object object; /* a class is an instance of its own class */
	const char *name;
	void (*dealloc)(void *object); /* gives back what it owns */
	const standin_method *methods; /* ends with selector NULL */
	standin_class *next;
};

STANDIN_API void *standin_new(const standin_class *class, size_t size); /* zeroed, with one owner */
STANDIN_API void *standin_retain(const void *object);
STANDIN_API void standin_release(const void *object);
STANDIN_API void *standin_autorelease(void *object);
STANDIN_API bool standin_is(const void *object, const standin_class *class);
STANDIN_API void standin_register(standin_class *class, const standin_method *class_methods);
STANDIN_API void standin_unregister(standin_class *class); /* before its library goes away */
/* Counts a call that can fail; true: it has to. */
STANDIN_API bool standin_fails(const char *call);
/* What a real library would crash at: says so and ends the process. */
STANDIN_API void standin_crash(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Between corefoundation.c and the others. */
STANDIN_API const char *standin_string(const void *string);           /* crashes unless it is one */
STANDIN_API void *standin_make_string(const char *text);              /* autoreleased */
STANDIN_API const uint8_t *standin_data(const void *data, size_t *n); /* crashes unless it is one */
STANDIN_API int64_t standin_number(const void *number);
STANDIN_API const void *standin_item(const void *array, long i, long *n); /* NULL at the end */
STANDIN_API const void *standin_entry(const void *dictionary, long i, const void **value, long *n);
STANDIN_API const void *standin_value(const void *dictionary, const char *key);
STANDIN_API void *standin_error(const char *domain, long code, const char *text); /* autoreleased */
/* Between iosurface.c and neural.c. */
STANDIN_API void *standin_surface(const void *surface, size_t *bytes, bool *locked); /* its memory */

#endif
