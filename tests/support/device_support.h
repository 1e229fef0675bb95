/* Helpers of the tests that run programs on a device. */
#ifndef SUPPORT_DEVICE_H
#define SUPPORT_DEVICE_H

#include "anneal/device.h"
#include "support/mil_support.h"
#include "support/pass_eval.h"

/* Whether this is a sanitized build: ten times slower, and its memory is not the program's alone. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* An allocator that refuses when `left` requests have been made, and knows what was not given back. */
typedef struct device_meter {
	int64_t left;
	size_t held;
} device_meter;
/* A context with it; AN_MEMORY: it has refused. */
an_status device_metered(device_meter *m, int threads, an_ctx **ctx);

/* A context with so many threads (0: the default) and a soft device in it. */
an_ctx *device_ctx(int threads);
/* Everything that can be a loop is one, and goes by bands of DEVICE_BAND rows, through which products can add
 * up if their kernel's kr divides it (not on AMX). */
#define DEVICE_BAND 8
an_device *device_soft(an_ctx *ctx, const char *numerics, bool fusion);

/* Fills an array of type t with draws from [low, high): floats rounded to their type, ints floored,
 * bools by a coin.  Element i depends on (seed, stream, i) alone. */
void device_fill(const an_type *t, void *bytes, uint64_t seed, uint64_t stream, double low, double high);
void device_doubles(const an_type *t, const void *bytes, double *out);

/* A call of f with a new buffer bound to every port, inputs filled (stream = index). */
an_call *device_call(an_device *d, an_function *f, uint64_t seed, double low, double high);
/* What is bound to a port, by its index in inputs-then-outputs order. */
void *device_bytes(an_call *c, int port);

/* Runs f, and f with every value as an output, unfused, on random inputs; fails unless
 *   - the outputs of both runs have the same bits, if `same_bits`;
 *   - every operation's result is what double precision gives for the operands that the device
 *     had, within the error that the operation's arithmetic may make (see tolerance() for
 *     the bounds). */
void device_check(an_ctx *ctx, const char *numerics, an_function *f, uint64_t seed, double low, double high,
		  bool same_bits);

#endif
