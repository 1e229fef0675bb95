/* What the memory gives: every thread walks through arrays of its own, many times over. */
#include "bench/bench.h"

#include <string.h>
#include <sys/mman.h>

#define PASS_BYTES (64 << 20) /* what an item moves, at least: a late worker costs little of it */

enum { HUGE_PAGE = 2 << 20, PIECE = 1 << 20 };

typedef struct stream_run {
	const bench *b;
	float *x, *y, *z; /* a slice for each thread */
	int64_t n;        /* elements of a slice */
	int passes;
	float *sink; /* 16 for each thread */
	void (*fn)(void *arg, int64_t item, int worker);
} stream_run;

/* Patterns in vectors of one instruction set, named by hand: what the compiler would choose differs. */
#define STREAMS(suffix, attributes, size)                                           \
	typedef float vec_##suffix __attribute__((vector_size(size), may_alias));   \
	attributes static void read_##suffix(void *arg, int64_t item, int worker)   \
	{                                                                           \
		const stream_run *s = arg;                                          \
		const vec_##suffix *x = (const vec_##suffix *)(s->x + item * s->n); \
		int64_t n = s->n * 4 / size;                                        \
		vec_##suffix a[8] = {{0}};                                          \
		(void)worker;                                                       \
		for (int p = 0; p < s->passes; p++)                                 \
			for (int64_t i = 0; i < n; i += 8)                          \
				for (int k = 0; k < 8; k++)                         \
					a[k] += x[i + k];                           \
		for (int k = 1; k < 8; k++)                                         \
			a[0] += a[k];                                               \
		memcpy(s->sink + 16 * item, &a[0], size);                           \
	}                                                                           \
	attributes static void triad_##suffix(void *arg, int64_t item, int worker)  \
	{                                                                           \
		const stream_run *s = arg;                                          \
		vec_##suffix *x = (vec_##suffix *)(s->x + item * s->n);             \
		const vec_##suffix *y = (const vec_##suffix *)(s->y + item * s->n); \
		const vec_##suffix *z = (const vec_##suffix *)(s->z + item * s->n); \
		int64_t n = s->n * 4 / size;                                        \
		(void)worker;                                                       \
		for (int p = 0; p < s->passes; p++)                                 \
			for (int64_t i = 0; i < n; i++)                             \
				x[i] = y[i] + 0.5f * z[i];                          \
	}                                                                           \
	attributes static void update_##suffix(void *arg, int64_t item, int worker) \
	{                                                                           \
		const stream_run *s = arg;                                          \
		vec_##suffix *x = (vec_##suffix *)(s->x + item * s->n);             \
		vec_##suffix *y = (vec_##suffix *)(s->y + item * s->n);             \
		const vec_##suffix *z = (const vec_##suffix *)(s->z + item * s->n); \
		int64_t n = s->n * 4 / size;                                        \
		(void)worker;                                                       \
		for (int p = 0; p < s->passes; p++)                                 \
			for (int64_t i = 0; i < n; i++) {                           \
				x[i] = 0.5f * x[i] + z[i];                          \
				y[i] = 0.25f * y[i] + z[i];                         \
			}                                                           \
	}

#if defined(__x86_64__)
STREAMS(avx512, __attribute__((target("avx512f"))), 64)
STREAMS(avx2, __attribute__((target("avx2"))), 32)
#endif
STREAMS(portable, , 16)

static const struct pattern {
	const char *name;
	int arrays, moves; /* elements read and written per element */
	void (*avx512)(void *, int64_t, int);
	void (*avx2)(void *, int64_t, int);
	void (*portable)(void *, int64_t, int);
} patterns[] = {
#if defined(__x86_64__)
#define PATTERN(name) name##_avx512, name##_avx2, name##_portable
#else
#define PATTERN(name) NULL, NULL, name##_portable
#endif
    [STREAM_READ] = {"read", 1, 1, PATTERN(read)},
    [STREAM_TRIAD] = {"triad", 3, 3, PATTERN(triad)},
    [STREAM_UPDATE] = {"update", 3, 5, PATTERN(update)},
};

const char *stream_name(stream_pattern p) { return patterns[p].name; }

static void run(void *arg)
{
	stream_run *r = arg;
	pool_run(r->b->pool, r->fn, r, r->b->threads);
}

/* Touches pages with all threads: memory that the system has yet to find is slow. */
static void fill(void *arg, int64_t item, int worker)
{
	const stream_memory *m = arg;
	int64_t n = m->bytes / (int64_t)sizeof(float), begin = item * PIECE, end = MIN(n, begin + PIECE);
	(void)worker;
	for (int64_t i = begin; i < end; i++) /* cheap, and no two neighbours are alike */
		m->at[i] = 0.25f + (float)(i * 2654435761u % 1021) * 0x1p-12f;
}

an_status stream_open(const bench *b, int64_t bytes, stream_memory *m)
{
	*m = (stream_memory){.b = b, .raw_bytes = (size_t)bytes + 2 * HUGE_PAGE};
	if (!(m->raw = mem_alloc(b->ctx, m->raw_bytes)))
		return fail_memory(b->ctx, m->raw_bytes);
	m->at = (float *)(((uintptr_t)m->raw + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE);
	m->bytes = bytes;
#ifdef MADV_HUGEPAGE
	if (bytes >= HUGE_PAGE) /* as tensors have them */
		madvise(m->at, (size_t)bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#endif
	pool_run(b->pool, fill, m, (bytes / (int64_t)sizeof(float) + PIECE - 1) / PIECE);
	return AN_OK;
}

void stream_close(stream_memory *m)
{
	if (m->raw)
		mem_free(m->b->ctx, m->raw, m->raw_bytes);
	m->raw = NULL;
}

an_status stream_measure(const stream_memory *m, stream_pattern p, int64_t bytes, bench_times *t,
			 double *rate)
{
	const bench *b = m->b;
	const struct pattern *q = &patterns[p];
	/* whole vectors, eight at a time */
	int64_t n = MIN(bytes, m->bytes) / q->arrays / b->threads / 4 / 128 * 128, array = n * b->threads;
	size_t sink = (size_t)b->threads * 64;
	stream_run r = {.b = b,
			.n = n,
			.fn = q->portable,
			.x = m->at,
			.y = m->at + array,
			.z = m->at + 2 * array,
			.sink = mem_alloc_tensor(b->ctx, sink)};
	if (!r.sink)
		return fail_memory(b->ctx, sink);
	if (b->ctx->isa & ISA_AVX512)
		r.fn = q->avx512;
	else if (b->ctx->isa & ISA_AVX2)
		r.fn = q->avx2;
	r.passes = (int)MAX(1, PASS_BYTES / (n * 4 * q->moves));
	*t = measure(b, PATIENCE, run, &r);
	*rate = 1e-9 * (double)(n * 4 * q->moves * r.passes) * b->threads / t->median;
	mem_free_tensor(b->ctx, r.sink, sink);
	return AN_OK;
}

an_status stream_fresh(const bench *b, bench_times *t, double *rate)
{
	enum { BYTES = 64 << 20 };
	double seconds[BENCH_MOST_RUNS];
	bench_clock from = measure_clock(b->pool);
	for (int i = 0; i < b->o.runs; i++) {
		double began = seconds_now();
		void *p = mem_alloc_tensor(b->ctx, BYTES);
		seconds[i] = seconds_now() - began;
		if (!p)
			return fail_memory(b->ctx, BYTES);
		mem_free_tensor(b->ctx, p, BYTES);
	}
	bench_clock to = measure_clock(b->pool);
	*t = stats_times(seconds, b->o.runs, measure_noisy(&from, &to, 1));
	*rate = 1e-9 * (double)BYTES / t->median;
	return AN_OK;
}

int64_t stream_working_set(const bench_machine *m, stream_level level, int threads)
{
	int64_t l2 = m->l2 * threads;
	switch (level) {
	case STREAM_L2: return l2 / 2;
	case STREAM_L3: return MAX(4 * l2, MIN(m->l3 / 4, 16 * l2));
	default: return MIN(MAX(2 * m->l3, INT64_C(512) << 20), MIN(INT64_C(1) << 30, m->memory / 4));
	}
}
