/* Checks of gradients against central differences of the double-precision evaluator. */
#ifndef SUPPORT_PASS_CHECK_H
#define SUPPORT_PASS_CHECK_H

#include "support/pass_eval.h"

typedef struct gradient_check {
	int64_t checked; /* derivatives compared */
	int64_t sharp; /* of them with a tolerance below 1e-4 of the largest derivative in the tensor (or the
			* terms of the direction): a kink within a step of the point is no test */
	int64_t wrong;
	char text[400]; /* the first wrong one */
} gradient_check;

/* Inputs of f, drawn uniformly from +-[low, high] (bool: 0 or 1; integers: 0 .. 3); free_values(). */
double **random_values(const an_function *f, uint64_t seed, double low, double high);
void free_values(double **values, size_t n);

/* Evaluates `forward` and `backward` as an_grad documents them for f, at these inputs, with random
 * cotangents, and compares:
 *   - the outputs of f and of forward, bit by bit;
 *   - each gradient that backward returns, element by element, with the differences.
 * With directions > 0 that many random directions in the space of all inputs are compared instead of
 * elements, which is what large functions can afford. */
an_status check_gradient(const an_function *f, const an_function *forward, const an_function *backward,
			 double *const *inputs, uint64_t seed, int directions, gradient_check *out);

/* Runs `f`, its inputs found by name in the two lists (a NULL name is skipped). */
an_status eval_named(const an_function *f, int flags, int n, const char *const *names, double *const *values,
		     double *const *outputs);
/* Room for the outputs of f. */
double **output_values(const an_function *f);

#endif
