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
 *             a residual, it becomes an input of the backward under its own name; neither is
 *             an output of f, which the forward returns anyway)
 *   backward: cotangents "d_<output>" of every fp16/fp32 output of f, residuals, inputs and
 *             outputs of f as needed -> "d_<input>" for every input in `wrt`
 *
 * An output of f that is one of its inputs, x, has the cotangent "d_x_out", because d_x is the
 * gradient.  A value that is saved and happens to have the name of a gradient is called
 * "saved<n>_<name>" in both functions; an input in that position is AN_USAGE.  An input that no output
 * depends on has a gradient of zeros.  Cheap elementwise work and views are recomputed in the backward, by
 * the same operations, instead of being saved.  The gradient of any other value v is called "d_<v>" in the
 * backward where nothing else is.  Both functions are added to f's program as "<name>_fwd" and
 * "<name>_bwd" (with a number where those are taken) and have been verified; on failure nothing is added.  A
 * missing rule is AN_UNSUPPORTED with a diagnostic that points at the operation. */
typedef struct an_grad_options {
	const char *const *wrt; /* names of inputs; NULL: every fp16/fp32 input */
	int nwrt;
	bool save_all;           /* save every value the backward reads, recompute nothing */
	const char *const *save; /* names of values: what else the backward reads is computed again, */
	int nsave;               /* contractions too; NULL: the choice above */
	/* > 0, and save is NULL: a contraction whose result has more than so many times the elements of both
	 * operands (attention's scores) is computed again, and so is a softmax of it. */
	double recompute;
} an_grad_options;
AN_API an_status an_grad(an_function *f, const an_grad_options *opt, an_function **forward,
			 an_function **backward);

/* What differentiation does at an operation: "rule"; "zero" (its result is piecewise constant or not a
 * float, nothing flows back); "none" (there is no rule); NULL: no such operation. */
AN_API const char *an_op_gradient(an_opcode op);

/* ---- Weight gradients on the host ------------------------------------------------ */

/* One contraction that was taken out of a function:
 *
 *   output[m,n] = sum over b < batch and i < k of x(b,m,i) * y(b,i,n)
 *   x(b,m,i) = base of x [x_offset + b*x_stride[0] + m*x_stride[1] + i*x_stride[2]]
 *   y(b,i,n) = base of y [y_offset + b*y_stride[0] + i*y_stride[1] + n*y_stride[2]]
 *
 * The bases are what is bound under the names x and y: values that the function now returns,
 * or inputs that it had (x_input, y_input; possibly dropped from it).  Offsets and strides are in
 * elements of the row-major base; the operands may be any strided view of it.  output is
 * row-major in the order of `type`. */
typedef struct an_contraction {
	const char *output; /* "d_w": the output it computes */
	an_type type;       /* its type, as the function had it */
	const char *x, *y;
	an_type x_type, y_type; /* of the bases; fp16 or fp32 */
	bool x_input, y_input;
	bool tx, ty; /* x is stored [K, M], y is stored [N, K]: the last stride is not 1, the one before is */
	int64_t batch, m, n, k;
	int64_t x_offset, x_stride[3], y_offset, y_stride[3]; /* strides of an axis of length 1 are 0 */
} an_contraction;

/* Takes each listed output of `f` whose value is a matmul out of the function: the operands'
 * bases become outputs instead (after the other outputs, in order of use; an output that stays is a base
 * itself), and *list says what
 * the host has to contract.  Seen through: reshapes, casts between float types and a sum over the
 * batch behind the matmul; views and widening casts before it.  Outputs that are not such
 * contractions stay.  Operations and inputs that are no longer needed are dropped.  *out is
 * "<name>_outlined", NULL if nothing is left to run (all outputs were products of inputs); the
 * list, in the order of `outputs`, lives in f's program.  AN_USAGE: f has no such output. */
AN_API an_status an_outline(an_function *f, const char *const *outputs, int n, an_function **out,
			    an_contraction **list, int *nlist);

/* ---- Cutting and joining --------------------------------------------------------- */

/* A part of a function that becomes a function of its own. */
typedef struct an_stage {
	const char *name;          /* for people: "attention" */
	const char *const *values; /* names of values that it computes for later stages or as outputs */
	int nvalues;
	bool host; /* meant for the host: it computes these and takes no other outputs */
} an_stage;

/* Cuts `f` at named values into functions that give its outputs when they run one after the other.  Stage i
 * computes its values from inputs of f and from values of earlier stages; whatever else it needs for that it
 * computes itself, even if an earlier stage did.  An output of f that no stage names goes to the stage, not
 * of the host, that has to compute least for it (the first of several).  Values that no later stage reads and
 * f does not return are not returned either.  out[i] is "<name>_<i>", its inputs and outputs have the names
 * that they have in f; NULL: nothing of the stage is needed.  In arithmetic where every operation rounds to
 * its type no result changes by a bit.  AN_USAGE: f has no such value. */
AN_API an_status an_cut(an_function *f, const an_stage *stages, int n, an_function **out);

/* One function that computes functions (of one program) one after the other: the only output of each is the
 * first input of the next.  Other inputs are called <prefix of theirs><name>, the first keeps its name, the
 * outputs those of the last function.  A function may occur many times. */
AN_API an_status an_chain(an_function *const *functions, const char *const *prefixes, int n, const char *name,
			  an_function **out);

/* ---- How weights reach a device ---------------------------------------------------- */

/* Where an input of the function stands in the packed one: a block of rows, element (r, c) at
 * offset + r * stride + c, of the value's row-major elements, or of its transpose's.  Where rows * columns is
 * more than the value has, the rest is padding. */
typedef struct an_slot {
	const char *name;
	an_type type;
	an_role role;
	bool transposed; /* (r, c) is element c * rows + r of the value; else r * columns + c */
	int64_t offset, rows, columns, stride;
} an_slot;

/* Packs all inputs, which must have one dtype, into a single one, "packed", out of which they are sliced
 * inside.  C and S are the rows and columns of the first input that is no parameter, [1, C, 1, S] or [C, S];
 * the others follow along `axis`: axis 3: [1, C, 1, S + ...]: matrices [C, n] and transposed [n, C] as
 * columns, other shapes as blocks of C rows axis 1: [1, C + ..., 1, S]: every value as rows of S elements, or
 * (to keep within `limit`) of 2 S, 4 S, ... The list, in the order of the inputs, lives in f's program; *out
 * is "<name>_packed".  AN_UNSUPPORTED: an input has another dtype, there is none but parameters, or the axis
 * would be longer than `limit` (0: any length). */
AN_API an_status an_pack(an_function *f, int axis, int32_t limit, an_function **out, an_slot **slots,
			 int *nslots);
/* Copies a value's elements into its slot of the packed data; `size` bytes per element. */
AN_API void an_slot_fill(const an_slot *s, size_t size, void *packed, const void *value);

/* Makes inputs of f constants: the function, under its name, in program `to`.  data[i] are the values of
 * input names[i], which are copied into blobs "@model_path/weights/<name>.bin".  The constants come first, in
 * the order of the names, the operations of f follow in theirs.  AN_USAGE: f has no such input. */
AN_API an_status an_bake(an_function *f, an_program *to, const char *const *names, const void *const *data,
			 int n, an_function **out);

/* ---- Simplification -------------------------------------------------------------- */

/* Each pass adds a new function to the same program, "<name>_<pass>", with the same inputs and
 * outputs by name; the old one stays as it was.  No result changes by a bit, under any arithmetic
 * that computes an operation's result from its operands alone. */
AN_API an_status an_dce(an_function *f, an_function **out);      /* drop unused operations */
AN_API an_status an_cse(an_function *f, an_function **out);      /* merge equal operations */
AN_API an_status an_simplify(an_function *f, an_function **out); /* exact identities: x*1, double
								  * transpose, reshape of reshape, ... */

#ifdef __cplusplus
}
#endif
#endif
