/* Context, messages, memory, arenas, strings. */
#include "base/base.h"
#include "base/half.h"
#include "base/isa.h"
#include "base/pool.h"
#include "base/random.h"

#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

/* ---- Status and context --------------------------------------------------------- */

const char *an_status_name(an_status s)
{
	static const char *const text[] = {
#define X(name, words) [AN_##name] = words,
	    AN_STATUS_LIST(X)
#undef X
	};
	return (unsigned)s < (unsigned)LENGTH(text) ? text[s] : "unknown status";
}

const char *an_version(void) { return ANNEAL_VERSION; }

static void *default_resize(void *user, void *p, size_t old_size, size_t new_size)
{
	(void)user;
	(void)old_size;
	if (new_size == 0) {
		free(p);
		return NULL;
	}
	return realloc(p, new_size);
}

/* CPUs this process may run on, which in a container is fewer than the machine has. */
static int usable_cpus(void)
{
#ifdef __linux__
	cpu_set_t set;
	if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
		return CPU_COUNT(&set);
#endif
	long n = sysconf(_SC_NPROCESSORS_ONLN);
	return n > 0 ? (int)n : 1;
}

#define MAX_THREADS 256

static void drop_chunk(an_ctx *ctx, struct tensor_chunk **at);

an_status an_ctx_open(const an_ctx_options *opt, an_ctx **out)
{
	static const an_ctx_options defaults;
	*out = NULL;
	if (!opt)
		opt = &defaults;
	uint32_t offered = isa_detect(), isa = offered;
	if (opt->isa && !isa_parse(opt->isa, &isa))
		return AN_USAGE;
	if (isa & ~(offered | isa_on_request(offered)))
		return AN_UNSUPPORTED;
	an_allocator alloc = {default_resize, NULL};
	if (opt->allocator)
		alloc = *opt->allocator;
	an_ctx *ctx = alloc.resize(alloc.user, NULL, 0, sizeof *ctx);
	if (!ctx)
		return AN_MEMORY;
	memset(ctx, 0, sizeof *ctx);
	ctx->alloc = alloc;
	ctx->log = opt->log;
	ctx->log_user = opt->log_user;
	ctx->threads = opt->threads > 0 ? MIN(opt->threads, MAX_THREADS) : MIN(usable_cpus(), MAX_THREADS);
	ctx->isa = isa;
	isa_print(isa, ctx->isa_text, sizeof ctx->isa_text);
	*out = ctx;
	return AN_OK;
}

void an_ctx_close(an_ctx *ctx)
{
	if (!ctx)
		return;
	pool_stop(ctx->workers);
	while (ctx->chunks)
		drop_chunk(ctx, &ctx->chunks);
	mem_free(ctx, ctx->message, ctx->message_cap);
	an_allocator alloc = ctx->alloc;
	alloc.resize(alloc.user, ctx, sizeof *ctx, 0);
}

const char *an_message(const an_ctx *ctx) { return ctx->message ? ctx->message : ctx->message_fallback; }
int an_ctx_threads(const an_ctx *ctx) { return ctx->threads; }
const char *an_ctx_isa(const an_ctx *ctx) { return ctx->isa_text; }

pool *ctx_pool(an_ctx *ctx)
{
	if (!ctx->workers && ctx->threads > 1)
		ctx->workers = pool_start(ctx, ctx->threads);
	return ctx->workers;
}

/* ---- Failing -------------------------------------------------------------------- */

/* Takes over `text` (a block of `cap` bytes), or keeps a short form when there was no memory. */
static void set_message(an_ctx *ctx, char *text, size_t cap, const char *fmt, va_list ap)
{
	mem_free(ctx, ctx->message, ctx->message_cap);
	ctx->message = text;
	ctx->message_cap = text ? cap : 0;
	if (!text)
		vsnprintf(ctx->message_fallback, sizeof ctx->message_fallback, fmt, ap);
}

double seconds_now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

an_status failv(an_ctx *ctx, an_status s, const char *fmt, va_list ap)
{
	va_list measure, fallback;
	va_copy(measure, ap);
	va_copy(fallback, ap);
	int n = vsnprintf(NULL, 0, fmt, measure);
	va_end(measure);
	size_t cap = n < 0 ? 1 : (size_t)n + 1;
	char *text = mem_alloc(ctx, cap);
	if (text) /* arguments may point into the old message: format before replacing it */
		vsnprintf(text, cap, fmt, ap);
	set_message(ctx, text, cap, fmt, fallback);
	va_end(fallback);
	return s;
}

an_status fail(an_ctx *ctx, an_status s, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	failv(ctx, s, fmt, ap);
	va_end(ap);
	return s;
}

an_status fail_memory(an_ctx *ctx, size_t bytes)
{
	if (bytes)
		return fail(ctx, AN_MEMORY, "out of memory: %zu bytes were not to be had", bytes);
	return fail(ctx, AN_MEMORY, "out of memory");
}

an_status fail_prefix(an_ctx *ctx, an_status s, const char *fmt, ...)
{
	char prefix[512];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(prefix, sizeof prefix, fmt, ap);
	va_end(ap);
	return fail(ctx, s, "%s: %s", prefix, an_message(ctx));
}

void log_text(an_ctx *ctx, an_log_level level, const char *fmt, ...)
{
	if (!ctx->log)
		return;
	char line[1024];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(line, sizeof line, fmt, ap);
	va_end(ap);
	ctx->log(ctx->log_user, level, line);
}

/* ---- Blocks --------------------------------------------------------------------- */

void *mem_alloc(an_ctx *ctx, size_t size)
{
	return ctx->alloc.resize(ctx->alloc.user, NULL, 0, size ? size : 1);
}

void *mem_zalloc(an_ctx *ctx, size_t size)
{
	void *p = mem_alloc(ctx, size);
	return p ? memset(p, 0, size) : NULL;
}

void *mem_resize(an_ctx *ctx, void *p, size_t old_size, size_t new_size)
{
	if (!p)
		old_size = 0;
	else if (!old_size)
		old_size = 1;
	return ctx->alloc.resize(ctx->alloc.user, p, old_size, new_size ? new_size : 1);
}

void mem_free(an_ctx *ctx, void *p, size_t size)
{
	if (p)
		ctx->alloc.resize(ctx->alloc.user, p, size ? size : 1, 0);
}

/* Large tensor blocks are mapped, unless the allocator is the user's: such memory is zero without another
 * pass, and all threads may take part in getting its pages.  Medium ones are cut from mapped chunks: one
 * layer's weights and activations are of this size, and read a quarter slower from pages of 4 KB.  Others
 * come from the allocator; the pointer it gave stands just before the aligned block. */
#define TENSOR_ALIGN ((size_t)64)
#define HUGE_PAGE    ((size_t)2 << 20)
#define MEDIUM       ((size_t)64 << 10)
#define CHUNK        ((size_t)64 << 20) /* of addresses; memory is taken as it is used */

/* A sanitizer of addresses sees the ends of blocks only if they come from the allocator. */
#ifdef __has_feature
#define ADDRESSES_CHECKED __has_feature(address_sanitizer)
#elif defined(__SANITIZE_ADDRESS__)
#define ADDRESSES_CHECKED 1
#else
#define ADDRESSES_CHECKED 0
#endif
static bool maps(const an_ctx *ctx)
{
#if ADDRESSES_CHECKED
	(void)ctx;
	return false;
#else
	return ctx->alloc.resize == default_resize;
#endif
}

static bool is_large(size_t size) { return size >= 2 * HUGE_PAGE; }
static bool is_mapped(const an_ctx *ctx, size_t size) { return is_large(size) && maps(ctx); }
static bool is_cut(const an_ctx *ctx, size_t size) { return size >= MEDIUM && !is_large(size) && maps(ctx); }

static void advise_huge(void *p, size_t size)
{
#ifdef MADV_HUGEPAGE /* advice: failing costs only speed */
	madvise(p, size / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#else
	(void)p;
	(void)size;
#endif
}

static size_t mapped_size(size_t size) { return (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE; }

static void touch_page(void *arg, int64_t i, int worker)
{
	(void)worker;
	*((volatile char *)arg + (size_t)i * HUGE_PAGE) = 0;
}

/* Makes pages be there: to find and clear them takes longer than most of what is done with them later, so all
 * threads take part.  A page that is read before it is written would become a shared zero page, and then,
 * piece by piece, small pages of its own. */
static void touch(an_ctx *ctx, char *p, size_t size)
{
	pool_run(ctx_pool(ctx), touch_page, p, (int64_t)(size / HUGE_PAGE));
}

/* A multiple of huge pages: what was mapped too much is given back. */
static void *map_pages(size_t size)
{
	size_t want = mapped_size(size);
	if (want < size || want > SIZE_MAX - HUGE_PAGE)
		return NULL;
	char *raw = mmap(NULL, want + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (raw == MAP_FAILED)
		return NULL;
	size_t before = -(uintptr_t)raw & (HUGE_PAGE - 1);
	if (before)
		munmap(raw, before);
	if (HUGE_PAGE - before)
		munmap(raw + before + want, HUGE_PAGE - before);
	advise_huge(raw + before, want);
	return raw + before;
}

static void *map_tensor(an_ctx *ctx, size_t size)
{
	void *p = map_pages(size);
	if (p)
		touch(ctx, p, mapped_size(size));
	return p;
}

/* Blocks are cut from the first chunk one after the other.  A chunk without blocks is used again, or
 * unmapped.  Pages are touched a few at a time, so that no more are taken than threads can share. */
typedef struct tensor_chunk {
	struct tensor_chunk *next;
	char *at;
	size_t used;
	size_t touched; /* pages that are there */
	size_t written; /* from here on everything is still zero */
	int64_t blocks;
} tensor_chunk;

static size_t cut_size(size_t size) { return (size + TENSOR_ALIGN - 1) / TENSOR_ALIGN * TENSOR_ALIGN; }

static void *cut_tensor(an_ctx *ctx, size_t size)
{
	tensor_chunk *c = ctx->chunks;
	if (!c || CHUNK - c->used < cut_size(size)) {
		if (!(c = mem_zalloc(ctx, sizeof *c)))
			return NULL;
		if (!(c->at = map_pages(CHUNK))) {
			mem_free(ctx, c, sizeof *c);
			return NULL;
		}
		c->next = ctx->chunks;
		ctx->chunks = c;
	}
	char *p = c->at + c->used;
	if (c->used < c->written)
		memset(p, 0, MIN(size, c->written - c->used));
	c->used += cut_size(size);
	c->written = MAX(c->written, c->used);
	c->blocks++;
	if (c->used > c->touched) {
		size_t pages = (c->used - c->touched + HUGE_PAGE - 1) / HUGE_PAGE;
		size_t more = MIN(MAX(pages, (size_t)ctx->threads) * HUGE_PAGE, CHUNK - c->touched);
		touch(ctx, c->at + c->touched, more);
		c->touched += more;
	}
	return p;
}

static void drop_chunk(an_ctx *ctx, tensor_chunk **at)
{
	tensor_chunk *c = *at;
	*at = c->next;
	munmap(c->at, CHUNK);
	mem_free(ctx, c, sizeof *c);
}

static void uncut_tensor(an_ctx *ctx, char *p, size_t size)
{
	tensor_chunk **at = &ctx->chunks;
	while (p < (*at)->at || p >= (*at)->at + CHUNK)
		at = &(*at)->next;
	tensor_chunk *c = *at;
	if (p + cut_size(size) == c->at + c->used)
		c->used -= cut_size(size);
	if (--c->blocks)
		return;
	c->used = 0;
	if (c != ctx->chunks)
		drop_chunk(ctx, at);
}

static size_t tensor_align(size_t size) { return is_large(size) ? HUGE_PAGE : TENSOR_ALIGN; }

void *mem_alloc_tensor(an_ctx *ctx, size_t size)
{
	if (is_mapped(ctx, size))
		return map_tensor(ctx, size);
	if (is_cut(ctx, size))
		return cut_tensor(ctx, size);
	size_t align = tensor_align(size), total;
	if (__builtin_add_overflow(size, align + TENSOR_ALIGN, &total))
		return NULL;
	char *raw = mem_alloc(ctx, total);
	if (!raw)
		return NULL;
	uintptr_t at = ((uintptr_t)raw + sizeof raw + align - 1) / align * align;
	memcpy((char *)at - sizeof raw, &raw, sizeof raw);
	if (is_large(size))
		advise_huge((void *)at, size);
	return memset((void *)at, 0, size);
}

void mem_free_tensor(an_ctx *ctx, void *p, size_t size)
{
	if (!p)
		return;
	if (is_mapped(ctx, size)) {
		munmap(p, mapped_size(size));
		return;
	}
	if (is_cut(ctx, size)) {
		uncut_tensor(ctx, p, size);
		return;
	}
	char *raw;
	memcpy(&raw, (char *)p - sizeof raw, sizeof raw);
	mem_free(ctx, raw, size + tensor_align(size) + TENSOR_ALIGN);
}

bool mem_grow(an_ctx *ctx, void *items_pp, size_t *cap, size_t n, size_t elem)
{
	if (n < *cap)
		return true;
	size_t want = MAX(MAX(*cap * 2, n + 1), (size_t)8), bytes;
	if (__builtin_mul_overflow(want, elem, &bytes))
		return false;
	void *p;
	memcpy(&p, items_pp, sizeof p);
	p = mem_resize(ctx, p, *cap * elem, bytes);
	if (!p)
		return false;
	memcpy(items_pp, &p, sizeof p);
	*cap = want;
	return true;
}

/* ---- Arenas --------------------------------------------------------------------- */

struct arena_block {
	arena_block *prev;
	size_t size, used; /* of data */
	_Alignas(16) char data[];
};
#define ARENA_BLOCK ((size_t)16 << 10)

void arena_init(arena *a, an_ctx *ctx) { *a = (arena){ctx, NULL}; }

static void drop_block(arena *a)
{
	arena_block *b = a->head;
	a->head = b->prev;
	mem_free(a->ctx, b, sizeof *b + b->size);
}

void arena_free(arena *a)
{
	while (a->head)
		drop_block(a);
}

void *arena_alloc(arena *a, size_t size)
{
	if (size > SIZE_MAX / 2)
		return NULL;
	size = (size + 15) & ~(size_t)15;
	arena_block *b = a->head;
	if (!b || b->size - b->used < size) {
		/* blocks double, so that large programs need few of them */
		size_t want = MAX(b ? MIN(b->size * 2, (size_t)1 << 20) : ARENA_BLOCK, size);
		b = mem_alloc(a->ctx, sizeof *b + want);
		if (!b)
			return NULL;
		b->prev = a->head;
		b->size = want;
		b->used = 0;
		a->head = b;
	}
	void *p = b->data + b->used;
	b->used += size;
	return memset(p, 0, size);
}

void *arena_array(arena *a, size_t n, size_t elem)
{
	size_t bytes;
	return __builtin_mul_overflow(n, elem, &bytes) ? NULL : arena_alloc(a, bytes);
}

void *arena_copy(arena *a, const void *src, size_t size)
{
	void *p = arena_alloc(a, size);
	if (p && size)
		memcpy(p, src, size);
	return p;
}

char *arena_strndup(arena *a, const char *s, size_t n)
{
	char *p = arena_alloc(a, n + 1);
	if (p)
		memcpy(p, s, n);
	return p;
}

char *arena_strdup(arena *a, const char *s) { return arena_strndup(a, s, strlen(s)); }

char *arena_printf(arena *a, const char *fmt, ...)
{
	va_list ap, again;
	va_start(ap, fmt);
	va_copy(again, ap);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	char *p = n < 0 ? NULL : arena_alloc(a, (size_t)n + 1);
	if (p)
		vsnprintf(p, (size_t)n + 1, fmt, again);
	va_end(again);
	return p;
}

arena_mark arena_save(const arena *a) { return (arena_mark){a->head, a->head ? a->head->used : 0}; }

void arena_rewind(arena *a, arena_mark m)
{
	while (a->head != m.block)
		drop_block(a);
	if (a->head)
		a->head->used = m.used;
}

/* ---- Strings -------------------------------------------------------------------- */

void str_init(str *s, an_ctx *ctx) { *s = (str){.ctx = ctx}; }

void str_free(str *s)
{
	mem_free(s->ctx, s->data, s->cap);
	str_init(s, s->ctx);
}

void str_add_n(str *s, const char *text, size_t n)
{
	if (s->oom)
		return;
	if (!mem_grow(s->ctx, &s->data, &s->cap, s->len + n, 1)) {
		s->oom = true;
		return;
	}
	memcpy(s->data + s->len, text, n);
	s->len += n;
	s->data[s->len] = 0;
}

void str_add(str *s, const char *text) { str_add_n(s, text, strlen(text)); }

void str_addf(str *s, const char *fmt, ...)
{
	va_list ap, again;
	va_start(ap, fmt);
	va_copy(again, ap);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n >= 0 && !s->oom) {
		if (mem_grow(s->ctx, &s->data, &s->cap, s->len + (size_t)n, 1)) {
			vsnprintf(s->data + s->len, (size_t)n + 1, fmt, again);
			s->len += (size_t)n;
		} else {
			s->oom = true;
		}
	}
	va_end(again);
}

an_status str_status(str *s) { return s->oom ? fail_memory(s->ctx, s->cap * 2) : AN_OK; }

uint64_t hash_bytes(uint64_t h, const void *p, size_t n)
{
	const uint8_t *b = p;
	for (size_t i = 0; i < n; i++)
		h = (h ^ b[i]) * UINT64_C(0x100000001b3);
	return h;
}

/* ---- Numbers -------------------------------------------------------------------- */

half half_from_double(double d)
{
	/* Rounding to odd at fp32 first makes the second rounding see whether anything was lost,
	 * so that the result is as if rounded once (Boldo, Melquiond 2008). */
	float f = (float)d;
	if ((double)f != d && isfinite(f)) {
		uint32_t u = float_bits(f);
		if ((double)fabsf(f) > fabs(d)) /* back toward zero */
			u--;
		f = bits_float(u | 1);
	}
	return half_from_float(f);
}

double random_normal(uint64_t seed, uint64_t stream, uint64_t index)
{
	/* 1 - u is in (0, 1], so the logarithm is finite */
	double u = 1.0 - random_uniform(seed, stream, 2 * index),
	       v = random_uniform(seed, stream, 2 * index + 1);
	return sqrt(-2.0 * log(u)) * cos(6.283185307179586476925286766559 * v);
}
