/* Passes: MIL in, MIL out. */
#ifndef ANNEAL_PASS_H
#define ANNEAL_PASS_H

#include "anneal/mil.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Differentiation ------------------------------------------------------------- */

/* Reverse-mode differentiation of one function into two.
 *
 *   forward:  the inputs of f -> the outputs of f, then the residuals (values that the
 *             backward needs, named as in f; an input of f that the backward needs is not
 *             a residual, it becomes an input of the backward under its own name)
 *   backward: cotangents "d_<output>" of the outputs of f, residuals and inputs of f as
 *             needed -> "d_<input>" for every input in `wrt`
 *
 * An input that no output depends on has a gradient of zeros.  Cheap elementwise work and
 * views are recomputed in the backward instead of being saved.  Both functions are added
 * to f's program as "<name>_fwd" and "<name>_bwd".  A missing rule is AN_UNSUPPORTED with
 * a diagnostic that points at the operation. */
typedef struct an_grad_options {
	const char *const *wrt; /* names of inputs; NULL: every fp16/fp32 input */
	int nwrt;
	bool save_all;          /* save every value the backward reads, recompute nothing */
} an_grad_options;
AN_API an_status an_grad(an_function *f, const an_grad_options *opt, an_function **forward, an_function **backward);

/* ---- Weight gradients on the host ------------------------------------------------ */

/* One contraction that was taken out of a backward function:
 * output[M,N] = sum over batch and k of x * y, with x [batch, M, K] (or [batch, K, M] when
 * tx) and y [batch, K, N] (or [batch, N, K] when ty).  x and y name values that the
 * function now returns, or inputs that it has (x_input, y_input). */
typedef struct an_contraction {
	const char *output; /* "d_w": the output it computes */
	an_type type;       /* its type, as the function had it */
	const char *x, *y;
	bool x_input, y_input;
	bool tx, ty;
	int64_t batch, m, n, k;
	/* Strides in elements of x and y as stored (batch, row, column of the M x K and K x N
	 * views above before tx/ty): operands may be views of what is bound under the name. */
	int64_t x_offset, x_stride[3], y_offset, y_stride[3];
} an_contraction;

/* Takes each listed output of `f` whose value is a matmul (possibly reshaped) out of the
 * function: its operands become outputs instead, and *list says what the host has to
 * contract.  Outputs that are not contractions stay.  Unused inputs are dropped.  The
 * list lives in f's program. */
AN_API an_status an_outline(an_function *f, const char *const *outputs, int n, an_function **out,
                            an_contraction **list, int *nlist);

/* ---- Simplification -------------------------------------------------------------- */

/* Each pass returns a new function in the same program; the old one stays as it was. */
AN_API an_status an_dce(an_function *f, an_function **out);      /* drop unused operations */
AN_API an_status an_cse(an_function *f, an_function **out);      /* merge equal operations */
AN_API an_status an_simplify(an_function *f, an_function **out); /* exact identities: x*1, x+0 where
                                                                   * bits cannot change, double
                                                                   * transpose, reshape of reshape, ... */
/* Evaluate operations on constants; `eval` computes one op's results with the arithmetic of
 * the profile that will run the program (devices pass their own). */

#ifdef __cplusplus
}
#endif
#endif
