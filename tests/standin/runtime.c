/* libobjc: classes, selectors, messages, autorelease pools. */
#include "standin.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

STANDIN_API const char *sel_registerName(const char *name);
STANDIN_API void *objc_getClass(const char *name);
STANDIN_API const void *object_getClass(const void *object);
STANDIN_API const void *class_getInstanceMethod(const standin_class *class, const char *selector);
STANDIN_API const char *method_getTypeEncoding(const standin_method *method);
STANDIN_API void *objc_autoreleasePoolPush(void);
STANDIN_API void objc_autoreleasePoolPop(void *pool);
STANDIN_API void *standin_lookup(const standin_object *self, const char *selector);

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* ---- State -------------------------------------------------------------------------------- */

static standin_state state;

static void set(char *to, size_t size, const char *name, const char *otherwise)
{
	const char *value = getenv(name);
	snprintf(to, size, "%s", value ? value : otherwise);
}

static void write_counts(void)
{
	const char *path = getenv("STANDIN_COUNTS");
	FILE *f = path ? fopen(path, "a") : NULL;
	if (!f)
		return;
	fprintf(f, "compiles %ld loads %ld unloads %ld loaded %ld evaluations %ld objects %ld surfaces %ld\n",
		state.compiles, state.loads, state.unloads, state.loaded, state.evaluations, state.objects,
		state.surfaces);
	fclose(f);
}

__attribute__((constructor)) static void start(void)
{
	set(state.temporary, sizeof state.temporary, "TMPDIR", "/tmp");
	set(state.chip, sizeof state.chip, "STANDIN_CHIP", "Apple M4");
	set(state.profile, sizeof state.profile, "STANDIN_PROFILE", "m4");
	set(state.quirks, sizeof state.quirks, "STANDIN_QUIRKS", "");
	state.most_compiles = getenv("STANDIN_COMPILES") ? atol(getenv("STANDIN_COMPILES")) : 0;
}

__attribute__((destructor)) static void stop(void) { write_counts(); }

standin_state *standin(void) { return &state; }

bool standin_fails(const char *call)
{
	if (++state.calls != state.fail_at)
		return false;
	snprintf(state.failed, sizeof state.failed, "%s", call);
	return true;
}

void standin_crash(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	fprintf(stderr, "stand-in: a real library would crash here: ");
	vfprintf(stderr, fmt, ap);
	fprintf(stderr, "\n");
	va_end(ap);
	abort();
}

/* ---- Objects ------------------------------------------------------------------------------ */

void *standin_new(const standin_class *class, size_t size)
{
	standin_object *o = calloc(1, size);
	if (!o)
		standin_crash("out of memory");
	o->isa = class;
	o->owners = 1;
	__atomic_add_fetch(&state.objects, 1, __ATOMIC_RELAXED);
	return o;
}

void *standin_retain(const void *object)
{
	standin_object *o = (standin_object *)(uintptr_t)object;
	if (o && o->owners == 0)
		standin_crash("an object is retained after its last release");
	if (o && o->owners > 0)
		o->owners++;
	return o;
}

void standin_release(const void *object)
{
	standin_object *o = (standin_object *)(uintptr_t)object;
	if (!o || o->owners < 0)
		return;
	if (o->owners == 0)
		standin_crash("an object is released after its last release");
	if (--o->owners)
		return;
	if (o->isa->dealloc)
		o->isa->dealloc(o);
	__atomic_sub_fetch(&state.objects, 1, __ATOMIC_RELAXED);
	free(o);
}

bool standin_is(const void *object, const standin_class *class)
{
	return object && ((const standin_object *)object)->isa == class;
}

/* ---- Pools: a stack per thread; a pool is a mark in it -------------------------------------- */

static _Thread_local struct {
	void **item;
	size_t n, cap;
	int depth;
} stack;

void *standin_autorelease(void *object)
{
	if (!object)
		return NULL;
	if (!stack.depth)
		standin_crash("an object is autoreleased and there is no pool: it would never go away");
	if (stack.n == stack.cap) {
		stack.cap = stack.cap ? 2 * stack.cap : 64;
		stack.item = realloc(stack.item, stack.cap * sizeof *stack.item);
	}
	stack.item[stack.n++] = object;
	return object;
}

void *objc_autoreleasePoolPush(void)
{
	stack.depth++;
	return (void *)(stack.n + 1);
}

void objc_autoreleasePoolPop(void *pool)
{
	size_t mark = (size_t)pool - 1;
	if (!pool || !stack.depth || mark > stack.n)
		standin_crash("a pool is popped that is not there");
	while (stack.n > mark)
		standin_release(stack.item[--stack.n]);
	if (--stack.depth == 0) {
		free(stack.item);
		stack.item = NULL;
		stack.cap = 0;
	}
}

/* ---- Classes and selectors ------------------------------------------------------------------ */

static standin_class *classes;

enum { SELECTORS = 256 };
static char *selectors[SELECTORS];

const char *sel_registerName(const char *name)
{
	pthread_mutex_lock(&mutex);
	int i = 0;
	while (i < SELECTORS && selectors[i] && strcmp(selectors[i], name))
		i++;
	if (i == SELECTORS)
		standin_crash("too many selectors");
	if (!selectors[i])
		selectors[i] = strdup(name);
	pthread_mutex_unlock(&mutex);
	return selectors[i];
}

__attribute__((destructor)) static void free_selectors(void)
{
	for (int i = 0; i < SELECTORS; i++)
		free(selectors[i]);
}

/* A class with its own class, which has the class methods. */
void standin_register(standin_class *class, const standin_method *class_methods)
{
	standin_class *meta = calloc(1, sizeof *meta);
	if (!meta)
		standin_crash("out of memory");
	meta->name = class->name;
	meta->methods = class_methods;
	meta->object.owners = -1;
	class->object = (standin_object){meta, -1};
	class->next = classes;
	classes = class;
}

void standin_unregister(standin_class *class)
{
	standin_class **at = &classes;
	while (*at && *at != class)
		at = &(*at)->next;
	if (*at)
		*at = class->next;
	free((void *)(uintptr_t) class->object.isa);
}

void *objc_getClass(const char *name)
{
	for (standin_class *c = classes; c; c = c->next)
		if (!strcmp(c->name, name) && strcmp(state.hidden, name))
			return c;
	return NULL;
}

const void *object_getClass(const void *object)
{
	return object ? ((const standin_object *)object)->isa : NULL;
}

const void *class_getInstanceMethod(const standin_class *class, const char *selector)
{
	char hidden[160];
	snprintf(hidden, sizeof hidden, "%s %s", class->name, selector);
	for (const standin_method *m = class->methods; m && m->selector; m++)
		if (!strcmp(m->selector, selector))
			return strcmp(hidden, state.hidden) ? m : NULL;
	return NULL;
}

const char *method_getTypeEncoding(const standin_method *method)
{
	return strcmp(method->selector, state.retyped) ? method->types : "d24@0:8d16";
}

/* ---- Messages ------------------------------------------------------------------------------- */

static void *nothing(void) { return NULL; } /* what a message to nil gives */

void *standin_lookup(const standin_object *self, const char *selector)
{
	if (!self)
		return (void *)nothing;
	if (!selector)
		standin_crash("a message without a selector");
	const standin_method *m = class_getInstanceMethod(self->isa, selector);
	if (!m)
		standin_crash("%s does not understand %s", self->isa->name, selector);
	return m->function;
}

/* As the real one: finds the function and jumps there with every argument where it was. */
#if defined(__x86_64__)
__asm__(".text\n.globl objc_msgSend\n.type objc_msgSend, @function\nobjc_msgSend:\n"
	"	push %rbp\n	mov %rsp, %rbp\n"
	"	push %rdi\n	push %rsi\n	push %rdx\n	push %rcx\n	push %r8\n	push %r9\n"
	"	call standin_lookup@PLT\n"
	"	pop %r9\n	pop %r8\n	pop %rcx\n	pop %rdx\n	pop %rsi\n	pop %rdi\n"
	"	pop %rbp\n	jmp *%rax\n"
	".size objc_msgSend, .-objc_msgSend\n");
#elif defined(__aarch64__)
__asm__(
    ".text\n.globl objc_msgSend\n.type objc_msgSend, %function\nobjc_msgSend:\n"
    "	stp x29, x30, [sp, -80]!\n	mov x29, sp\n"
    "	stp x0, x1, [sp, 16]\n	stp x2, x3, [sp, 32]\n	stp x4, x5, [sp, 48]\n	stp x6, x7, [sp, 64]\n"
    "	bl standin_lookup\n	mov x16, x0\n"
    "	ldp x0, x1, [sp, 16]\n	ldp x2, x3, [sp, 32]\n	ldp x4, x5, [sp, 48]\n	ldp x6, x7, [sp, 64]\n"
    "	ldp x29, x30, [sp], 80\n	br x16\n"
    ".size objc_msgSend, .-objc_msgSend\n");
#else
#error "objc_msgSend is not written for this processor"
#endif
