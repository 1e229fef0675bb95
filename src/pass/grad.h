/* Between the differentiation (grad.c) and its rules (grad_rules.c). */
#ifndef PASS_GRAD_H
#define PASS_GRAD_H

#include "pass/pass.h"

/* A differentiation under way.  Values of the function f that is differentiated and values of the
 * backward are both an_value; parameters called v belong to f, results and those called d to the
 * backward. */
typedef struct grad {
	const an_function *f;
	an_builder b;       /* on the backward */
	an_value *value;    /* by value of f: its copy in the backward */
	an_value *cot;      /* by value of f: its cotangent so far, of the same type */
	struct part **part; /* by value of f: cotangents of slices of it */
	bool *active;       /* by value of f: depends on an input in wrt */
	bool *residual;     /* by value of f: became an input of the backward that f computes */
	bool save_all;
	bool *save;       /* by value of f: what may be saved; NULL: see cheap() */
	double recompute; /* of an_grad_options */
	int ncotangents;  /* the first inputs of the backward */
	an_value *stack;  /* for grad_use */
	struct mil_diag *diag;
	arena scratch;
} grad;

/* Gives the operands of `op` their cotangents; d is that of the only result (for operations with several:
 * AN_NO_VALUE, see grad_of).  Called only if some result has one and some operand wants one. */
typedef void (*grad_rule)(grad *g, const mil_op *op, an_value d);

/* Whether v needs a cotangent at all; work for others should not be emitted. */
bool grad_wants(const grad *g, an_value v);
/* v in the backward: an input, a residual, a constant, or computed again. */
an_value grad_use(grad *g, an_value v);
/* The cotangent of result r; AN_NO_VALUE if no output depends on it. */
an_value grad_of(const grad *g, const mil_op *op, int r);
/* The value of which d is the product with -1; AN_NO_VALUE if it is no such product.  Signs wander outwards
 * through products, so that adding a negated cotangent becomes a subtraction. */
an_value grad_negated(const grad *g, an_value d);
/* Adds d, which has v's type, to the cotangent of v. */
void grad_give(grad *g, an_value v, an_value d);
/* The same for elements [begin, begin + count) of v along an axis.  Collected until the cotangent is
 * needed: parts that make up v become a concat, others are padded with zeros and added. */
void grad_give_part(grad *g, an_value v, int axis, int32_t begin, int32_t count, an_value d);
/* Reports an operation that cannot be differentiated; `why` may be NULL. */
void grad_refuse(grad *g, const mil_op *op, const char *why);

/* d, of type t, with zeros before and after along each axis. */
an_value grad_pad(grad *g, an_value d, int rank, const int32_t *before, const int32_t *after);
an_value grad_zeros(grad *g, const an_type *t);

extern const grad_rule grad_table[OP_COUNT]; /* ORDER OP */

/* Whether there is a rule, nothing flows back, or a way back is refused. */
typedef enum grad_kind { GRAD_RULE, GRAD_ZERO, GRAD_NONE } grad_kind;
grad_kind grad_kind_of(int op);

#endif
