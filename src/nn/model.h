/* A model: its configuration, parameter table and segments.  Everything it points to lives
 * in its arena. */
#ifndef NN_MODEL_H
#define NN_MODEL_H

#include "anneal/nn.h"
#include "base/base.h"

struct an_model {
	an_ctx *ctx;
	arena arena;
	an_llama_config config;
	an_param *param;
	int nparams, params_cap;
	int64_t block; /* elements of the flat parameter block so far */
	an_segment *segment;
	int nsegments, segments_cap;
	int embedding; /* index of its parameter */
};

/* An empty model with room for so many rows; NULL: out of memory. */
an_model *nn_model_new(an_ctx *ctx, int params, int segments);
/* Appends a parameter and returns its index.  `name` must outlive the model (its arena).
 * Matrices are [rows, columns]; a norm has columns = 0.  The caller has made sure that the
 * sizes do not overflow and that there is room. */
int nn_add_param(an_model *m, const char *name, an_param_kind kind, int32_t rows, int32_t columns,
		 double init_std);
/* Appends a segment; `param` and `input` must outlive the model (its arena, static tables). */
void nn_add_segment(an_model *m, const char *name, const char *function, int n, const int *param,
		    const char *const *input);

#endif
