/* A Llama in double precision, one sequence at a time, straight from the formulas: tokens are
 * rows, loops are plain, nothing is shared with the MIL builders. */
#ifndef SUPPORT_NN_REFERENCE_H
#define SUPPORT_NN_REFERENCE_H

#include "anneal/nn.h"

typedef struct nn_reference {
	const an_llama_config *config;
	/* Rounds what a program holds as fp16 constants and the formulas have exactly: cos, sin and
	 * 1/sqrt(head_dim).  NULL: exact. */
	double (*constant)(double);
} nn_reference;

/* x, y [tokens][dim]; w: the layer's nine parameters in the order of the table. */
void nn_reference_layer(const nn_reference *r, const double *const *w, const double *x, int tokens,
			double *y);
/* logits [tokens][vocab]; w: norm, classifier. */
void nn_reference_head(const nn_reference *r, const double *const *w, const double *x, int tokens,
		       double *logits);
/* Rounds to fp16; for `constant`. */
double nn_reference_fp16(double x);

#endif
