/* Apple's libraries, found at run time: nothing of theirs is linked to or included. */
#ifndef DEVICE_APPLE_SYMBOLS_H
#define DEVICE_APPLE_SYMBOLS_H

#include "ane/quirks.h"
#include "base/base.h"

typedef const void *cf_ref; /* any CoreFoundation object; the bridged classes are the same objects */
typedef long cf_index;
typedef void *objc_id;
typedef const struct objc_selector *objc_sel;
/* Objective-C's BOOL: bool on arm64, signed char on x86-64. */
#if defined(__aarch64__)
typedef bool objc_bool;
#else
typedef signed char objc_bool;
#endif

enum { CF_UTF8 = 0x08000100, CF_SINT64 = 4 /* kCFNumberSInt64Type */ };

enum {
#define LIBRARY(id, ...) LIBRARY_##id,
#include "device/apple/symbols.def"
	LIBRARY_COUNT
};

enum {
#define CLASS(id, name) CLASS_##id,
#include "device/apple/symbols.def"
	CLASS_COUNT
};

/* Sends a message: calls the member with the object, its selector and the arguments. */
#define SEND(y, member, ...)    ((y)->member.call(__VA_ARGS__))
#define ARGS(y, member, object) (object), (y)->member.selector

typedef struct apple_symbols {
	void *library[LIBRARY_COUNT];
	objc_id class[CLASS_COUNT];
#define FUNCTION(library, result, name, parameters) result(*name) parameters;
#define DATA(library, name)                         const void *name;
/* objc_msgSend as a function of exactly these types, and the selector that goes with it */
#define METHOD(member, class, kind, text, layout, result, ...)                  \
	struct {                                                                \
		objc_sel selector;                                              \
		result (*call)(objc_id self, objc_sel selector, ##__VA_ARGS__); \
	} member;
#include "device/apple/symbols.def"
} apple_symbols;

/* Opens the libraries that a route needs (below `folder`, if it is not NULL, in place of the system's) and
 * finds everything in them.  What the route does not need stays NULL.  AN_UNSUPPORTED: something is not
 * there; the message has its name and what is known of it. */
an_status symbols_open(an_ctx *ctx, const char *folder, unsigned route, apple_symbols *out);
void symbols_close(apple_symbols *y);

#endif
