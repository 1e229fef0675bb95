/* Diagnostics with the place in the source, several per run. */
#ifndef MIL_DIAG_H
#define MIL_DIAG_H

#include "mil/ir.h"

#define DIAG_MAX 20

typedef struct mil_diag {
	an_ctx *ctx;
	const char *name;   /* of the file; NULL: built in memory, no places */
	const char *source; /* NULL: no source lines */
	size_t len;
	str text;
	int count;        /* of errors so far; beyond DIAG_MAX they are only counted */
	an_status status; /* of the first error */
} mil_diag;

void diag_init(mil_diag *d, an_ctx *ctx, const char *name, const char *source, size_t len);
/* "name:line:column: error: ...", the source line, a caret.  line 0: no place. */
void diag_add(mil_diag *d, an_status s, int line, int column, const char *fmt, ...) AN_PRINTF(5, 6);
/* Moves what was found into the context's message. */
an_status diag_finish(mil_diag *d);

/* Reports a problem of an operation: "matmul: y has ..."; without places also where it is. */
void diag_problem(mil_diag *d, const an_function *f, const mil_op *op, const mil_problem *problem, int line,
		  int column);

#endif
