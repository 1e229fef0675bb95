/* Worker threads: one counter hands out items, workers spin, then sleep. */
#include "base/pool.h"

#include <assert.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

/* How long a worker looks for work before it sleeps.  Between two kernels of a step a
 * fraction of a millisecond passes; longer pauses (data, checkpoints) should not burn a core. */
#define SPIN_NANOSECONDS 200000
#define YIELD_SPINS      4096 /* tens of microseconds, as long as a piece of work */

typedef struct worker {
	pool *p;
	pthread_t thread;
	int index;
} worker;

struct pool {
	an_ctx *ctx;
	int threads; /* with the caller */
	int started; /* threads that run, without the caller */
	size_t bytes;
	/* What to run.  Stable from the claim of an item to its end, because a run does not return
	 * before all its items are done. */
	void (*fn)(void *arg, int64_t i, int worker);
	void *arg;
	atomic_int_fast64_t n;
	_Alignas(64) atomic_uint_fast64_t next; /* generation and the item to hand out, see ticket() */
	_Alignas(64) atomic_uint generation;    /* counts runs; a change is the starting signal */
	_Alignas(64) atomic_int_fast64_t done;  /* items finished in this run */
	atomic_int sleepers;
	atomic_bool quit;
	pthread_mutex_t mutex;
	pthread_cond_t wake;
	worker worker[];
};

static inline void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* An item is claimed by exchanging a ticket that also carries the run's generation, so a worker
 * that wakes late cannot take an item of one run for another, and a run need not wait for
 * workers that slept through it. */
#define ITEM_BITS 40
#define ITEM_MASK ((UINT64_C(1) << ITEM_BITS) - 1)

static uint64_t ticket(unsigned generation, int64_t item)
{
	return (uint64_t)generation << ITEM_BITS | (uint64_t)item;
}

static void work(pool *p, int index)
{
	uint64_t t = atomic_load(&p->next);
	for (;;) {
		int64_t i = (int64_t)(t & ITEM_MASK);
		if (i >= atomic_load(&p->n))
			return;
		if (!atomic_compare_exchange_weak(&p->next, &t, t + 1))
			continue;
		p->fn(p->arg, i, index);
		atomic_fetch_add_explicit(&p->done, 1, memory_order_release);
		t = atomic_load(&p->next);
	}
}

/* Waits until the generation differs from `seen`. */
static unsigned await_generation(pool *p, unsigned seen)
{
	unsigned g;
	int64_t until = now() + SPIN_NANOSECONDS;
	for (int spins = 1; (g = atomic_load_explicit(&p->generation, memory_order_acquire)) == seen;
	     spins++) {
		relax();
		if (spins % 256 || now() < until)
			continue;
		pthread_mutex_lock(&p->mutex);
		atomic_fetch_add(&p->sleepers, 1);
		while ((g = atomic_load(&p->generation)) == seen)
			pthread_cond_wait(&p->wake, &p->mutex);
		atomic_fetch_sub(&p->sleepers, 1);
		pthread_mutex_unlock(&p->mutex);
		break;
	}
	return g;
}

static void *worker_main(void *arg)
{
	worker *w = arg;
	pool *p = w->p;
	unsigned seen = 0;
	for (;;) {
		seen = await_generation(p, seen);
		if (atomic_load(&p->quit))
			return NULL;
		work(p, w->index);
	}
}

/* Starts generation `g`.  The store must be seen by a worker that counts itself as asleep
 * right after we looked: both sides use sequentially consistent operations. */
static void signal_generation(pool *p, unsigned g)
{
	atomic_store(&p->generation, g);
	if (atomic_load(&p->sleepers)) {
		pthread_mutex_lock(&p->mutex);
		pthread_cond_broadcast(&p->wake);
		pthread_mutex_unlock(&p->mutex);
	}
}

pool *pool_start(an_ctx *ctx, int threads)
{
	if (threads < 2)
		return NULL;
	size_t bytes = sizeof(pool) + (size_t)(threads - 1) * sizeof(worker);
	pool *p = mem_alloc_tensor(ctx, bytes); /* for its alignment */
	if (!p)
		return NULL;
	p->ctx = ctx;
	p->bytes = bytes;
	pthread_mutex_init(&p->mutex, NULL);
	pthread_cond_init(&p->wake, NULL);
	for (int i = 0; i < threads - 1; i++) {
		p->worker[i] = (worker){.p = p, .index = i + 1};
		if (pthread_create(&p->worker[i].thread, NULL, worker_main, &p->worker[i]) != 0)
			break; /* fewer threads give the same results */
		p->started++;
	}
	p->threads = p->started + 1;
	return p;
}

void pool_stop(pool *p)
{
	if (!p)
		return;
	atomic_store(&p->quit, true);
	signal_generation(p, atomic_load(&p->generation) + 1);
	for (int i = 0; i < p->started; i++)
		pthread_join(p->worker[i].thread, NULL);
	pthread_cond_destroy(&p->wake);
	pthread_mutex_destroy(&p->mutex);
	mem_free_tensor(p->ctx, p, p->bytes);
}

int pool_threads(const pool *p) { return p ? p->threads : 1; }

void pool_run(pool *p, void (*fn)(void *arg, int64_t i, int worker), void *arg, int64_t n)
{
	if (!p || p->threads == 1 || n <= 1) {
		for (int64_t i = 0; i < n; i++)
			fn(arg, i, 0);
		return;
	}
	assert(n <= (int64_t)ITEM_MASK);
	/* until the ticket is out, a late worker of the last run finds no item: n is 0 */
	unsigned g = atomic_load(&p->generation) + 1;
	atomic_store(&p->n, 0);
	p->fn = fn;
	p->arg = arg;
	atomic_store(&p->done, 0);
	atomic_store(&p->next, ticket(g, 0));
	atomic_store(&p->n, n);
	signal_generation(p, g);
	work(p, 0);
	for (int spins = 1; atomic_load_explicit(&p->done, memory_order_acquire) < n; spins++) {
		relax();
		/* where CPUs are fewer than threads, the one that is waited for may need this one */
		if (spins % YIELD_SPINS == 0)
			sched_yield();
	}
}
