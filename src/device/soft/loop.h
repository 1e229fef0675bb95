/* What loop.c and band.c share: how calls go through their operands, axis by axis (axis.c). */
#ifndef DEVICE_SOFT_LOOP_H
#define DEVICE_SOFT_LOOP_H

#include "device/soft/soft.h"

/* How a call goes through one of its operands, along the axes of the call: those of its index space, or of
 * its batches, and then rows, columns and products (AXIS_*). */
typedef struct access {
	int64_t size;        /* of an element */
	bool written, whole; /* whole: scratch, of which all is needed */
	int rank;
	int64_t dim[SOFT_RANK], stride[SOFT_RANK];
} access;
/* Axes of a product after those of its batches. */
enum { AXIS_M, AXIS_N, AXIS_K, AXIS_COUNT };
/* Added to an axis: it and the next are gone through as one, as the heads of all groups that share keys. */
enum { AXIS_PAIR = 16 };
_Static_assert(GEMM_BATCH_DIMS + (int)AXIS_COUNT <= (int)SOFT_RANK,
	       "a product has no more axes than a value");

access soft_access(const soft_call *c, int r);
/* Whether a call sums, sorts or looks along one of its axes, so that it cannot go through it part by part;
 * `whole`: so that it cannot be without it.  A sum's order follows its axes in memory: it is sure to stay
 * what it is only without an outermost one.  Products may be summed part by part where their order is free
 * ("fast"). */
bool soft_is_bound(const soft_call *c, int axis, bool whole);

/* A group of calls that is tried for going through an axis part by part: what they do to storages, by
 * storage. */
typedef struct parts {
	int *seen; /* number of the round in which the rest is valid */
	int64_t *step;
	bool *written, *confined; /* confined: all is within one part */
	int *later,
	    *written_later; /* numbers of the rounds in which calls after the group touch, or write, it */
	int round;
} parts;
/* Where calls are that are not in the group: it may need them, or they may need it. */
enum { PLACE_BEFORE = -2, PLACE_AFTER = -1 };

an_status soft_parts_new(soft_fn *s, parts *p);
/* What operand r of a call does to its storage in a part: an index of `axis`. */
typedef struct touch {
	int64_t step, bytes; /* from one part to the next; touched in one, from the reference on */
	int64_t every;       /* so many parts have the same; 1 unless two axes are gone through */
	bool written, confined;
} touch;
/* Whether operand r is what a product along `axis` adds up, so that it is there after the last part only. */
bool soft_is_sum(const soft_call *c, int r, int axis);
/* From row to row of sums of n columns: not a multiple of 4 KB, where they would share a set of the cache. */
static inline int64_t soft_sums_ld(int64_t n) { return (n + 31) / 32 * 32 + 32; }
/* false: no part can have it. */
bool soft_touched(const soft_call *c, int r, int axis, touch *t);
/* Whether call c can go part by part along `axis` beside those that were noted in this round. */
bool soft_agrees(const parts *p, const soft_call *c, int axis);
void soft_note(parts *p, const soft_call *c, int axis);
/* Whether c can run before the calls that come after the group so far. */
bool soft_may_pass(const parts *p, const soft_call *c);
/* Whether c reads or writes what the group has written. */
bool soft_is_related(const parts *p, const soft_call *c);
/* Finds out whether c, which does not join, can come before the group; else it comes after it. */
int soft_place_outside(parts *p, const soft_call *c);
/* The order of n calls of which place[i] is an axis or one of the two above: order[j] is the one that comes
 * j-th.  Returns where the group begins. */
int soft_order(const int *place, int n, int *order);
/* Puts n elements of `size` bytes into that order. */
an_status soft_reorder(soft_fn *s, void *x, size_t size, const int *order, int n);

/* band.c: finds the sections among the n calls of an iteration, sets their `band` but for the width, and puts
 * the calls of each side by side; from[i] becomes the place that call i had.  `iteration` has the storages of
 * which a thread has its own part, p is for trying. */
an_status soft_find_bands(soft_fn *s, soft_call *call, int n, const parts *iteration, parts *p, int *from);
/* private.c: lays out the memory that threads have for themselves.  confined: by reference, a band touches
 * its part only. */
an_status soft_pack_private(soft_fn *s, soft_call *loop, const bool *confined);
int soft_count_refs(const soft_call *call, int first, int end);
/* How many rows make a band of what takes so many bytes for each. */
int64_t soft_band_width(const soft_fn *s, int64_t bytes_per_row);

#endif
