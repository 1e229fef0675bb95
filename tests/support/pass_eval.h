/* A second opinion on what MIL means: evaluates any function in double precision with plain
 * loops, sharing no code with the devices.  Tests compare devices, models and gradients with it.
 *
 * Values of every dtype are doubles (bool: 0 or 1; integers must stay below 2^53 and within
 * their type). */
#ifndef SUPPORT_PASS_EVAL_H
#define SUPPORT_PASS_EVAL_H

#include "mil/ir.h"

enum {
	EVAL_EXACT = 0, /* casts between float types change nothing */
	EVAL_ROUND = 1  /* every result is rounded once, to nearest even, to its fp16 or fp32 type */
};

/* inputs[i] has the elements of input i, outputs[i] room for those of output i, row-major.
 * A failure (memory, blobs) leaves its message in the program's context. */
an_status eval_function(const an_function *f, int flags, const double *const *inputs, double *const *outputs);

/* One operation: value[v] holds the elements of value v (results must have room). */
an_status eval_op(const an_function *f, const mil_op *op, int flags, double *const *value);

/* x rounded to nearest even to a float type; unchanged for others. */
double eval_round(double x, an_dtype dtype);

#endif
