/* Finding Apple's libraries, functions, classes and methods. */
#include "device/apple/symbols.h"

#include <dlfcn.h>
#include <stdio.h>

static const struct {
	unsigned routes;
	const char *file, *path, *what, *known;
} libraries[] = {
#define LIBRARY(id, routes, file, path, what, known) {routes, file, path, what, known},
#include "device/apple/symbols.def"
};

static const char *const class_names[] = {
#define CLASS(id, name) name,
#include "device/apple/symbols.def"
};

/* ---- Libraries ------------------------------------------------------------------------ */

static an_status open_library(an_ctx *ctx, const char *folder, int i, void **out)
{
	char path[1024];
	int n = snprintf(path, sizeof path, "%s%s%s", folder ? folder : "", folder ? "/" : "",
			 folder ? libraries[i].file : libraries[i].path);
	if (n < 0 || (size_t)n >= sizeof path)
		return fail(ctx, AN_USAGE, "%s: the name of the folder is too long", folder);
	/* A framework may be in the system's cache and nowhere in the file system: only dlopen knows. */
	*out = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (*out)
		return AN_OK;
	const char *why = dlerror();
	return fail(ctx, AN_UNSUPPORTED,
		    "no Neural Engine here: %s cannot be opened: %s (known to be there: %s)",
		    libraries[i].what, why ? why : path, libraries[i].known);
}

static an_status missing(an_ctx *ctx, int library, const char *what, const char *name)
{
	return fail(ctx, AN_UNSUPPORTED, "this macOS has no %s %s in %s (known to be there: %s)", what, name,
		    libraries[library].what, libraries[library].known);
}

/* ---- Methods -------------------------------------------------------------------------- */

/* One type of an Objective-C encoding as a register sees it: i, p or v; 0: anything else.  *text moves
 * behind it and behind the offset in the frame that follows. */
static char register_of(const char **text)
{
	const char *c = *text;
	while (*c && strchr("rnNoORVA", *c)) /* const, in, out, oneway ... */
		c++;
	char kind = 0;
	if (*c && strchr("cCsSiIlLqQB", *c))
		kind = 'i', c++;
	else if (*c == '@' || *c == '#' || *c == ':' || *c == '*') {
		kind = 'p', c++;
		if (c[-1] == '@' && *c == '"') /* @"NSString" */
			c += strcspn(c + 1, "\"") + 2;
	} else if (*c == '^') {
		kind = 'p';
		while (*c == '^' || (*c && strchr("rnNoORVA", *c)))
			c++;
		if (*c == '{' || *c == '(') { /* a pointer to a structure, which may hold others */
			int depth = 0;
			do {
				depth += *c == '{' || *c == '(';
				depth -= *c == '}' || *c == ')';
			} while (*c && (c++, depth));
		} else if (*c) {
			c++;
		}
	} else if (*c == 'v')
		kind = 'v', c++;
	while (*c >= '0' && *c <= '9')
		c++;
	*text = c;
	return kind;
}

/* Whether a method of this encoding takes the registers that `layout` says. */
static bool layout_fits(const char *encoding, const char *layout)
{
	for (; *layout; layout++)
		if (register_of(&encoding) != *layout)
			return false;
	return !*encoding;
}

typedef enum method_kind { CLASS_METHOD, METHOD_OF } method_kind;

static an_status find_method(an_ctx *ctx, const apple_symbols *y, int class, method_kind kind,
			     const char *selector, const char *layout, objc_sel *out)
{
	/* the methods of a class are those of the instance that it is of its own class */
	objc_id owner = kind == CLASS_METHOD ? y->object_getClass(y->class[class]) : y->class[class];
	char name[200];
	snprintf(name, sizeof name, "%c[%s %s]", kind == CLASS_METHOD ? '+' : '-', class_names[class],
		 selector);
	*out = y->sel_registerName(selector);
	void *method = *out && owner ? y->class_getInstanceMethod(owner, *out) : NULL;
	if (!method)
		return missing(ctx, LIBRARY_ANE, "method", name);
	const char *encoding = y->method_getTypeEncoding(method);
	if (!encoding || !layout_fits(encoding, layout))
		return fail(
		    ctx, AN_UNSUPPORTED,
		    "this macOS declares %s with other types (\"%s\") than those known (%s): calling it "
		    "would pass the arguments in wrong registers",
		    name, encoding ? encoding : "", layout);
	return AN_OK;
}

/* ---- All of it ------------------------------------------------------------------------ */

/* Classes, and the methods that every message goes through: objc_msgSend with the types of each. */
static an_status find_classes(an_ctx *ctx, apple_symbols *y)
{
	for (int i = 0; i < CLASS_COUNT; i++)
		if (!(y->class[i] = y->objc_getClass(class_names[i])))
			return missing(ctx, LIBRARY_ANE, "class", class_names[i]);
#define METHOD(member, class, kind, text, layout, ...)                                    \
	TRY(find_method(ctx, y, CLASS_##class, kind, text, layout, &y->member.selector)); \
	*(void **)(&y->member.call) = *(void **)(&y->objc_msgSend);
#include "device/apple/symbols.def"
	return AN_OK;
}

static an_status find_all(an_ctx *ctx, const char *folder, unsigned route, apple_symbols *y)
{
	for (int i = 0; i < LIBRARY_COUNT; i++)
		if (libraries[i].routes & route)
			TRY(open_library(ctx, folder, i, &y->library[i]));
			/* ISO C has no conversion from an object to a function pointer; POSIX says how
			 * dlsym's is done */
#define FIND(from, what, name, at)                                                \
	if (y->library[LIBRARY_##from] &&                                         \
	    !(*(void **)(at) = (void *)dlsym(y->library[LIBRARY_##from], #name))) \
		return missing(ctx, LIBRARY_##from, what, #name);
#define FUNCTION(from, result, name, parameters) FIND(from, "function", name, &y->name)
#define DATA(from, name)                         FIND(from, "variable", name, &y->name)
#include "device/apple/symbols.def"
	return y->library[LIBRARY_ANE] ? find_classes(ctx, y) : AN_OK;
}

an_status symbols_open(an_ctx *ctx, const char *folder, unsigned route, apple_symbols *out)
{
	*out = (apple_symbols){0};
	an_status s = find_all(ctx, folder, route, out);
	if (s != AN_OK)
		symbols_close(out);
	return s;
}

void symbols_close(apple_symbols *y)
{
	for (int i = LIBRARY_COUNT; i-- > 0;)
		if (y->library[i])
			dlclose(y->library[i]);
	*y = (apple_symbols){0};
}
