/* IOSurface: memory that is locked while the CPU looks at it. */
#include "standin.h"

#include <stdlib.h>

typedef const void *ref;

typedef struct surface {
	standin_object object;
	size_t bytes;
	int locks;
	char *base;
} surface;

static void drop(void *object)
{
	surface *s = object;
	if (s->locks)
		standin_crash("a surface goes away while it is locked");
	standin()->surfaces--;
	free(s->base);
}

static standin_class surface_class = {.name = "IOSurface", .dealloc = drop};

/* Keys: strings that live as long as the library. */
STANDIN_API ref kIOSurfaceWidth, kIOSurfaceHeight, kIOSurfaceBytesPerElement, kIOSurfaceBytesPerRow,
    kIOSurfaceAllocSize, kIOSurfacePixelFormat;

STANDIN_API ref IOSurfaceCreate(ref properties);
STANDIN_API int IOSurfaceLock(ref s, uint32_t options, uint32_t *seed);
STANDIN_API int IOSurfaceUnlock(ref s, uint32_t options, uint32_t *seed);
STANDIN_API void *IOSurfaceGetBaseAddress(ref s);
STANDIN_API size_t IOSurfaceGetAllocSize(ref s);
void *objc_autoreleasePoolPush(void);
void objc_autoreleasePoolPop(void *pool);

static ref *const keys[] = {&kIOSurfaceWidth,       &kIOSurfaceHeight,    &kIOSurfaceBytesPerElement,
			    &kIOSurfaceBytesPerRow, &kIOSurfaceAllocSize, &kIOSurfacePixelFormat};

__attribute__((constructor)) static void start(void)
{
	static const char *const text[] = {"IOSurfaceWidth",           "IOSurfaceHeight",
					   "IOSurfaceBytesPerElement", "IOSurfaceBytesPerRow",
					   "IOSurfaceAllocSize",       "IOSurfacePixelFormat"};
	void *pool = objc_autoreleasePoolPush();
	for (int i = 0; i < 6; i++)
		*keys[i] = standin_retain(standin_make_string(text[i]));
	objc_autoreleasePoolPop(pool);
	standin()->objects -= 6; /* not anybody's */
}

__attribute__((destructor)) static void stop(void)
{
	standin()->objects += 6;
	for (int i = 0; i < 6; i++)
		standin_release(*keys[i]);
}

static int64_t property(ref properties, const char *name)
{
	const void *value = standin_value(properties, name);
	if (!value)
		standin_crash("IOSurfaceCreate without %s", name);
	return standin_number(value);
}

ref IOSurfaceCreate(ref properties)
{
	int64_t width = property(properties, "IOSurfaceWidth"),
		height = property(properties, "IOSurfaceHeight"),
		element = property(properties, "IOSurfaceBytesPerElement"),
		row = property(properties, "IOSurfaceBytesPerRow"),
		bytes = property(properties, "IOSurfaceAllocSize");
	if (property(properties, "IOSurfacePixelFormat") != 0 || width < 1 || height < 1 || element < 1 ||
	    row < width * element || bytes < row * height)
		return NULL;
	if (standin_fails("IOSurfaceCreate"))
		return NULL;
	surface *s = standin_new(&surface_class, sizeof *s);
	s->bytes = (size_t)bytes;
	s->base = calloc(1, s->bytes); /* of the exact size, so that a sanitizer sees what lies outside */
	standin()->surfaces++;
	return s;
}

static surface *checked(ref s)
{
	if (!standin_is(s, &surface_class))
		standin_crash("a surface was expected");
	return (surface *)(uintptr_t)s;
}

int IOSurfaceLock(ref s, uint32_t options, uint32_t *seed)
{
	(void)options, (void)seed;
	if (standin_fails("IOSurfaceLock"))
		return -536870206; /* kIOReturnBadArgument */
	checked(s)->locks++;
	standin()->locked++;
	return 0;
}

int IOSurfaceUnlock(ref s, uint32_t options, uint32_t *seed)
{
	(void)options, (void)seed;
	if (!checked(s)->locks)
		standin_crash("a surface is unlocked that is not locked");
	checked(s)->locks--;
	standin()->locked--;
	return standin_fails("IOSurfaceUnlock") ? -536870206 : 0;
}

void *IOSurfaceGetBaseAddress(ref s)
{
	if (!checked(s)->locks)
		standin_crash("the memory of a surface that is not locked");
	return checked(s)->base;
}

size_t IOSurfaceGetAllocSize(ref s) { return checked(s)->bytes; }

void *standin_surface(const void *s, size_t *bytes, bool *locked)
{
	*bytes = checked(s)->bytes;
	*locked = checked(s)->locks > 0;
	return checked(s)->base;
}
