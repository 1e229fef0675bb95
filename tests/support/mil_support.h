/* Helpers of the tests that work with programs. */
#ifndef SUPPORT_MIL_H
#define SUPPORT_MIL_H

#include "mil/blob.h"
#include "mil/ir.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h> /* last: it has a macro named fail */

/* A context with one thread; fails the test if there is none. */
an_ctx *mil_open(void);

/* Fails the test with the context's message unless the status is AN_OK. */
#define MIL_OK(ctx, expr)                                                                           \
	do {                                                                                        \
		an_status ok_status_ = (expr);                                                      \
		if (ok_status_ != AN_OK)                                                            \
			fail_msg("%s: %s: %s", #expr, an_status_name(ok_status_), an_message(ctx)); \
	} while (0)

/* Whether two programs are equal: functions, names, types, operations, attributes, roles, constants
 * bit by bit.  The first difference in words, NULL if there is none. */
const char *mil_difference(const an_program *a, const an_program *b);

/* A whole file, NUL-terminated; free() it. NULL: not there. */
char *mil_slurp(const char *path, size_t *len);

#endif
