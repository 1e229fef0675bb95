/* What the inference rules (infer.c) and the normalised parameters (spec.c) share. */
#ifndef MIL_INFER_H
#define MIL_INFER_H

#include "mil/ir.h"

typedef struct mil_infer {
	const an_function *f;
	const mil_op *op;
	an_type *out; /* op->nresults of them */
	mil_problem *problem;
} mil_infer;

/* Records what is wrong; `param` is the name of the parameter to blame or NULL. */
an_status infer_fail(mil_infer *in, const char *param, const char *fmt, ...) AN_PRINTF(3, 4);
an_status infer_unsupported(mil_infer *in, const char *param, const char *fmt, ...) AN_PRINTF(3, 4);

/* The type of the argument for a parameter, NULL if it is absent. */
const an_type *infer_type(const mil_infer *in, const char *param);
/* Constant integers: *n of them, -1 where the argument is absent without a default. */
an_status infer_ints(mil_infer *in, const char *param, int32_t *out, int max, int *n);
/* A constant axis, resolved into [0, rank). */
an_status infer_axis(mil_infer *in, const char *param, int rank, int *axis);

an_status spec_slice(mil_infer *in, slice_spec *out);
an_status spec_reduce(mil_infer *in, uint32_t *mask, bool *keep);
an_status spec_matmul(mil_infer *in, matmul_spec *out);
an_status spec_conv(mil_infer *in, conv_spec *out);

#define X(name)                             an_status name(mil_infer *in);
#define OP(id, text, opset, cls, rule, ...) X(rule)
#include "mil/ops.def"
#undef OP
#undef X

#endif
