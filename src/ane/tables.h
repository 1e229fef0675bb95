/* The functions that Neural Engines read from tables: 33 knots and straight lines between them, as data.
 *
 * What is known was measured on M4 and M6 (751K: notes/numerics.md of its study of the M6) and, of values at
 * single points, on M1 and M5 (ane-guide, chapter 3).  Knots, the way to them and the roundings on it are
 * chosen so that the greatest errors over all fp16 values are the published ones; tables.c says where
 * several choices would do and where none does.  Not run on Apple hardware. */
#ifndef ANE_TABLES_H
#define ANE_TABLES_H

#include "base/base.h"

enum { ANE_KNOTS = 33 };

/* ORDER ANE_FN: rows of tables.c. */
typedef enum ane_fn {
	ANE_SIGMOID,
	ANE_TANH,
	ANE_ERF,
	ANE_SIN,
	ANE_COS,
	ANE_EXP,
	ANE_EXP2,
	ANE_LOG, /* natural */
	ANE_SQRT,
	ANE_RSQRT,
	ANE_INV,
	ANE_GELU, /* exact and tanh mode are one table */
	ANE_SILU,
	ANE_FN_COUNT
} ane_fn;

/* Whose tables.  M4's are those of M2, M3 and M6 as well, as far as anybody knows. */
typedef enum ane_table_set { ANE_TABLES_M1, ANE_TABLES_M4, ANE_TABLES_M5, ANE_TABLE_SETS } ane_table_set;

/* How an argument x becomes a place t in 0 .. 32 among the knots, and what becomes of the value v there.  f
 * and e are fraction and exponent of |x|: |x| = f 2^e, 0.5 <= f < 1. */
typedef enum ane_shape {
	ANE_DIRECT,    /* t = (x - first) scale; y = v; outside the last knots, or, if `open`, 0 and x */
	ANE_ODD,       /* t = |x| scale; y = v with the sign of x; 1 outside */
	ANE_QUARTER,   /* x in quarters of a period, + shift; t = 32 times what is over whole quarters,
			* backwards in   every other one; the sign changes every second quarter */
	ANE_POWER,     /* x factor, rounded to fp16; t = 32 times its fraction; y = v 2^(its integer) */
	ANE_LOGARITHM, /* t = (f - 0.5) scale; v, v + e and that times factor are rounded to fp16 */
	ANE_ROOT,      /* f if e is even, 2 f and e - 1 if not; t = (f - 0.5) scale; y = v 2^(e shift / 2) */
	ANE_RECIPROCAL /* t = (f - 0.5) scale; y = v 2^-e with the sign of x */
} ane_shape;

/* What there is to say for a table's contents on the chips of a set. */
typedef enum ane_basis {
	ANE_MEASURED, /* its contents were measured on such a chip */
	ANE_ASSUMED,  /* taken over from M4 */
	ANE_STAND_IN  /* fitted here to what is published about it (scripts/make-tables); not the chip's bits
		       */
} ane_basis;

typedef struct ane_table {
	const char *name;
	ane_shape shape;
	float first, scale;
	float factor; /* POWER, LOGARITHM; an fp16 value */
	int shift;
	bool open;
	float at_zero, at_infinity; /* LOGARITHM, ROOT, RECIPROCAL: y there; LOGARITHM, ROOT: 0 below 0 */
	const float *knot;          /* ANE_KNOTS, fp16 values */
	bool fitted;                /* a stand-in */
	uint8_t measured;           /* bit i: measured on chips of set i */
	float error; /* published greatest error, absolute or, if `in_ulp`, in units of the result's last
		      * place; 0: none published */
	bool in_ulp;
} ane_table;

/* The table that a chip of this set reads function f from. */
const ane_table *ane_table_find(ane_fn f, ane_table_set set);
ane_basis ane_table_basis(const ane_table *t, ane_table_set set);
const char *ane_basis_name(ane_basis b); /* "measured", "assumed", "stand-in" */

#endif
