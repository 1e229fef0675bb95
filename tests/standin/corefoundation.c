/* CoreFoundation: the objects that the private classes take and give. */
#include "standin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef const void *ref;

static void drop_text(void *object);
static void drop_items(void *object);

static standin_class string_class = {.name = "__NSCFString", .dealloc = drop_text},
		     data_class = {.name = "__NSCFData", .dealloc = drop_text},
		     number_class = {.name = "__NSCFNumber"},
		     array_class = {.name = "__NSArray", .dealloc = drop_items},
		     dictionary_class = {.name = "__NSDictionary", .dealloc = drop_items},
		     error_class = {.name = "NSError", .dealloc = drop_items};

typedef struct text { /* strings and data */
	standin_object object;
	size_t n;
	char *bytes;
} text;

typedef struct number {
	standin_object object;
	int64_t value;
} number;

typedef struct items { /* arrays, dictionaries (keys, then values), errors (domain, description) */
	standin_object object;
	long n;
	ref *item;
	long code;
} items;

static void drop_text(void *object) { free(((text *)object)->bytes); }

static void drop_items(void *object)
{
	items *x = object;
	for (long i = 0; i < x->n; i++)
		standin_release(x->item[i]);
	free(x->item);
}

/* The constants that clients pass on, which the calls here check. */
STANDIN_API const char kCFTypeArrayCallBacks[40] = "array", kCFTypeDictionaryKeyCallBacks[48] = "key",
		       kCFTypeDictionaryValueCallBacks[40] = "value";

STANDIN_API ref CFRetain(ref object);
STANDIN_API void CFRelease(ref object);
STANDIN_API ref CFDataCreate(ref allocator, const uint8_t *bytes, long n);
STANDIN_API ref CFStringCreateWithCString(ref allocator, const char *c, uint32_t encoding);
STANDIN_API uint8_t CFStringGetCString(ref string, char *buffer, long size, uint32_t encoding);
STANDIN_API ref CFNumberCreate(ref allocator, long type, const void *value);
STANDIN_API ref CFArrayCreate(ref allocator, const ref *value, long n, const void *callbacks);
STANDIN_API ref CFDictionaryCreate(ref allocator, const ref *key, const ref *value, long n, const void *kc,
				   const void *vc);
STANDIN_API ref CFErrorCopyDescription(ref error);
STANDIN_API long CFErrorGetCode(ref error);
STANDIN_API ref CFErrorGetDomain(ref error);

ref CFRetain(ref object)
{
	if (!object)
		standin_crash("CFRetain(NULL)");
	standin()->retains++;
	return standin_retain(object);
}

void CFRelease(ref object)
{
	if (!object)
		standin_crash("CFRelease(NULL)");
	standin()->releases++;
	standin_release(object);
}

static text *make_text(const standin_class *class, const void *bytes, size_t n)
{
	text *t = standin_new(class, sizeof *t);
	t->bytes = malloc(n + 1);
	memcpy(t->bytes, bytes, n);
	t->bytes[n] = 0;
	t->n = n;
	return t;
}

ref CFDataCreate(ref allocator, const uint8_t *bytes, long n)
{
	(void)allocator;
	return standin_fails("CFDataCreate") ? NULL : make_text(&data_class, bytes, (size_t)n);
}

static void check_encoding(uint32_t encoding)
{
	if (encoding != 0x08000100)
		standin_crash("string encoding 0x%x is not UTF-8", encoding);
}

ref CFStringCreateWithCString(ref allocator, const char *c, uint32_t encoding)
{
	(void)allocator;
	check_encoding(encoding);
	return standin_fails("CFStringCreateWithCString") ? NULL : make_text(&string_class, c, strlen(c));
}

uint8_t CFStringGetCString(ref string, char *buffer, long size, uint32_t encoding)
{
	check_encoding(encoding);
	const char *c = standin_string(string);
	if (standin_fails("CFStringGetCString") || strlen(c) >= (size_t)size)
		return 0;
	strcpy(buffer, c);
	return 1;
}

ref CFNumberCreate(ref allocator, long type, const void *value)
{
	(void)allocator;
	if (type != 4)
		standin_crash("CFNumberCreate: type %ld is not kCFNumberSInt64Type", type);
	if (standin_fails("CFNumberCreate"))
		return NULL;
	number *x = standin_new(&number_class, sizeof *x);
	memcpy(&x->value, value, sizeof x->value);
	return x;
}

static items *make_items(const standin_class *class, const ref *a, long na, const ref *b, long nb)
{
	items *x = standin_new(class, sizeof *x);
	x->item = calloc((size_t)(na + nb) + 1, sizeof *x->item);
	for (long i = 0; i < na + nb; i++) {
		ref o = i < na ? a[i] : b[i - na];
		if (!o)
			standin_crash("nil in a collection");
		x->item[x->n++] = standin_retain(o);
	}
	return x;
}

ref CFArrayCreate(ref allocator, const ref *value, long n, const void *callbacks)
{
	(void)allocator;
	if (callbacks != kCFTypeArrayCallBacks)
		standin_crash("CFArrayCreate: the callbacks are not those of CF types");
	return standin_fails("CFArrayCreate") ? NULL : make_items(&array_class, value, n, NULL, 0);
}

ref CFDictionaryCreate(ref allocator, const ref *key, const ref *value, long n, const void *kc,
		       const void *vc)
{
	(void)allocator;
	if (kc != kCFTypeDictionaryKeyCallBacks || vc != kCFTypeDictionaryValueCallBacks)
		standin_crash("CFDictionaryCreate: the callbacks are not those of CF types");
	return standin_fails("CFDictionaryCreate") ? NULL : make_items(&dictionary_class, key, n, value, n);
}

ref CFErrorCopyDescription(ref error)
{
	if (!standin_is(error, &error_class))
		standin_crash("CFErrorCopyDescription of something else");
	return standin_retain(((const items *)error)->item[1]);
}

long CFErrorGetCode(ref error) { return ((const items *)error)->code; }
ref CFErrorGetDomain(ref error) { return ((const items *)error)->item[0]; }

/* ---- For the other libraries ------------------------------------------------------------------ */

const char *standin_string(const void *string)
{
	if (!standin_is(string, &string_class))
		standin_crash("a string was expected");
	return ((const text *)string)->bytes;
}

void *standin_make_string(const char *c)
{
	return standin_autorelease(make_text(&string_class, c, strlen(c)));
}

const uint8_t *standin_data(const void *data, size_t *n)
{
	if (!standin_is(data, &data_class))
		standin_crash("data were expected (the text of a program is NSData, not NSString)");
	*n = ((const text *)data)->n;
	return (const uint8_t *)((const text *)data)->bytes;
}

int64_t standin_number(const void *x)
{
	if (!standin_is(x, &number_class))
		standin_crash("a number was expected");
	return ((const number *)x)->value;
}

const void *standin_item(const void *array, long i, long *n)
{
	const items *x = array;
	if (!standin_is(array, &array_class))
		standin_crash("an array was expected");
	if (n)
		*n = x->n;
	return i < x->n ? x->item[i] : NULL;
}

const void *standin_entry(const void *dictionary, long i, const void **value, long *n)
{
	const items *x = dictionary;
	if (!standin_is(dictionary, &dictionary_class))
		standin_crash("a dictionary was expected (no weights are an empty one, not nil)");
	if (n)
		*n = x->n / 2;
	if (i >= x->n / 2)
		return NULL;
	if (value)
		*value = x->item[x->n / 2 + i];
	return x->item[i];
}

const void *standin_value(const void *dictionary, const char *key)
{
	const void *k, *value;
	for (long i = 0; (k = standin_entry(dictionary, i, &value, NULL)); i++)
		if (!strcmp(standin_string(k), key))
			return value;
	return NULL;
}

void *standin_error(const char *domain, long code, const char *words)
{
	ref part[2] = {make_text(&string_class, domain, strlen(domain)),
		       make_text(&string_class, words, strlen(words))};
	items *x = make_items(&error_class, part, 2, NULL, 0);
	x->code = code;
	standin_release(part[0]);
	standin_release(part[1]);
	return standin_autorelease(x);
}
