/* Worker threads.  pool_run() calls fn(arg, i, worker) for every i in [0, n), spread
 * over the threads; it returns when all are done.  Which thread runs which i is not
 * defined, so results must not depend on it: an item writes only what belongs to it.
 * Workers spin for a while before they sleep (waking costs 40 us, spinning 1 us).
 * A pool is used by one thread at a time and pool_run does not nest. */
#ifndef BASE_POOL_H
#define BASE_POOL_H

#include "base/base.h"

/* The context's pool, started on first use.  NULL (no message) only if threads cannot be
 * started at all; pool functions accept NULL and then run everything on the caller. */
pool *ctx_pool(an_ctx *ctx);

pool *pool_start(an_ctx *ctx, int threads);
void pool_stop(pool *p);
int pool_threads(const pool *p); /* 1 for NULL */
void pool_run(pool *p, void (*fn)(void *arg, int64_t i, int worker), void *arg, int64_t n);

#endif
