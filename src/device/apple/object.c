/* Objects of Apple's: every one has one owner who gives it back. */
#include "device/apple/apple.h"

#include <stdio.h>

void *own(apple_device *dev, const void *object, bool created)
{
	if (!object)
		return NULL;
	if (!created)
		dev->sym.CFRetain(object);
	dev->owned++;
	return (void *)(uintptr_t)object;
}

void own_drop(apple_device *dev, void *object_pp)
{
	void **object = object_pp;
	if (!*object)
		return;
	dev->sym.CFRelease(*object);
	dev->owned--;
	*object = NULL;
}

/* ---- Making them ----------------------------------------------------------------------- */

static objc_id made(apple_device *dev, cf_ref object, const char *call)
{
	if (!object)
		fail(dev->ctx, AN_MEMORY, "%s gave nothing: the system is out of memory", call);
	return own(dev, object, true);
}

objc_id object_string(apple_device *dev, const char *text)
{
	return made(dev, dev->sym.CFStringCreateWithCString(NULL, text, CF_UTF8),
		    "CFStringCreateWithCString");
}

objc_id object_data(apple_device *dev, const void *bytes, size_t n)
{
	return made(dev, dev->sym.CFDataCreate(NULL, bytes, (cf_index)n), "CFDataCreate");
}

objc_id object_number(apple_device *dev, int64_t value)
{
	return made(dev, dev->sym.CFNumberCreate(NULL, CF_SINT64, &value), "CFNumberCreate");
}

objc_id object_array(apple_device *dev, const objc_id *values, int n)
{
	return made(dev,
		    dev->sym.CFArrayCreate(NULL, (const cf_ref *)values, n, dev->sym.kCFTypeArrayCallBacks),
		    "CFArrayCreate");
}

objc_id object_dictionary(apple_device *dev, const objc_id *keys, const objc_id *values, int n)
{
	return made(dev,
		    dev->sym.CFDictionaryCreate(NULL, (const cf_ref *)keys, (const cf_ref *)values, n,
						dev->sym.kCFTypeDictionaryKeyCallBacks,
						dev->sym.kCFTypeDictionaryValueCallBacks),
		    "CFDictionaryCreate");
}

bool object_text(apple_device *dev, cf_ref string, char *text, size_t size)
{
	text[0] = 0;
	return string && dev->sym.CFStringGetCString(string, text, (cf_index)size, CF_UTF8);
}

/* ---- What errors mean ------------------------------------------------------------------- */

/* Words in an error of Apple's, and what is known to have caused it. */
static const struct {
	const char *words, *meaning;
} readings[] = {
    {"status=0x1d",
     "the engine did not take the surfaces: one is too small, sizes differ, the last axis is short, or "
     "`tile` ran before in this process (--quirks min_surface, equal_size, min_width)"},
    {"must re-compile", "more than 127 programs are loaded, or the program was compiled by another process"},
    {"Must re-compile", "more than 127 programs are loaded, or the program was compiled by another process"},
    {"Invalid BufferType", "buffers are of type 0 (host), 1 (mapped) or 2 (IOSurface)"},
    {"ReadyForEncode", "an operation was prepared while a stream still held it; try --quirks prepared=off"},
    {"must be 'fp16'", "inputs and outputs of this route have at most 16 bits (--quirks short_ports)"},
    {"rank 6", "tensors have at most 5 axes"},
    {"exceeds ANE family", "an axis is longer than the chip allows"},
    {"InvalidMILProgram",
     "the text was read but is not a valid program: a parameter that is not a named constant, or "
     "an output that optimisation removes"},
    {"not supported on any", "an operation has no form on the engine"},
    {"unordered_map::at", "the program is empty"},
    {"0x20004", "constants of one program are too large; split it"},
    {"e00002e2", "the system refuses a program that its own compile service did not sign"},
    {"e00002c7", "the process lacks an entitlement"},
    {"e00002be", "the engine has no free slot"},
    {"e00002bd", "the engine is out of memory"},
    {"e0000404", "the engine's firmware did not answer in time"},
    {"ANECCompile() FAILED", "an operation, a parameter or a shape is not accepted by the engine's compiler; "
			     "`anneal lint --chip` names what is known"},
};

static const char *reading_of(const char *text)
{
	for (int i = 0; i < LENGTH(readings); i++)
		if (strstr(text, readings[i].words))
			return readings[i].meaning;
	return NULL;
}

an_status apple_says(apple_device *dev, const char *what, const char *text, const char *domain, long code)
{
	const char *meaning = reading_of(text);
	return fail(dev->ctx, AN_DEVICE, "%s failed: %s (%s %ld)%s%s", what,
		    text[0] ? text : "no description", domain[0] ? domain : "error", code,
		    meaning ? "; what is known of it: " : "", meaning ? meaning : "");
}

an_status apple_failed(apple_device *dev, cf_ref error, const char *fmt, ...)
{
	const apple_symbols *y = &dev->sym;
	char text[2000] = "", domain[200] = "", what[300];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	if (!error)
		return fail(dev->ctx, AN_DEVICE, "%s failed, and the system does not say why", what);
	cf_ref words = own(dev, y->CFErrorCopyDescription(error), true);
	object_text(dev, words, text, sizeof text);
	own_drop(dev, &words);
	object_text(dev, y->CFErrorGetDomain(error), domain, sizeof domain);
	return apple_says(dev, what, text, domain, y->CFErrorGetCode(error));
}
