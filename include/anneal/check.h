/* Whether a device computes what it should: fingerprints that were published of chips, and the comparison of
 * two devices on any program. */
#ifndef ANNEAL_CHECK_H
#define ANNEAL_CHECK_H

#include "anneal/ane.h"
#include "anneal/device.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Fingerprints ------------------------------------------------------------------ */

/* A computation on seeded numbers whose relative error was published: |output - reference| / |reference| (L2
 * norms, in double precision), where the reference computes from the numbers before they were rounded to
 * fp16. */
typedef struct an_recipe {
	const char *id;   /* "gemm-512": an_published_find() has the figures */
	const char *text; /* in a sentence */
	double slack;     /* relative: how far the order of the reference's sums may move the figure */
} an_recipe;

/* Recipes by index, NULL after the last; by id, -1 if there is none. */
AN_API const an_recipe *an_recipe_at(int i);
AN_API int an_recipe_find(const char *id);

/* A recipe with its numbers drawn, its program built and its reference computed. */
typedef struct an_fingerprint an_fingerprint;
AN_API an_status an_fingerprint_new(an_ctx *ctx, int index, an_fingerprint **out);
AN_API void an_fingerprint_free(an_fingerprint *f);
/* The program: one function of fp16.  Belongs to the fingerprint. */
AN_API an_program *an_fingerprint_program(const an_fingerprint *f);
/* Runs it on a device of the same context: the relative error. */
AN_API an_status an_fingerprint_measure(an_fingerprint *f, an_device *d, double *error);

typedef enum an_verdict {
	AN_EQUAL,       /* as published, in all digits that the recipe determines */
	AN_DIFFERS,     /* though arithmetic is known that gives the published figure */
	AN_UNEXPLAINED, /* differs, and no arithmetic is known that does not */
	AN_UNPUBLISHED  /* there is no figure (p is NULL) */
} an_verdict;
AN_API an_verdict an_fingerprint_verdict(const an_recipe *r, const an_published *p, double measured);

/* ---- Single results ----------------------------------------------------------------- */

/* A single result that was published of chips, as a program of fp16.  Values are written as in C, "4*x"
 * stands for "x x x x" and "2*(x y)" for "x y x y"; "#7e00" is the number of these bits. */
typedef struct an_case {
	const char *kind;  /* "contraction" */
	const char *op;    /* MIL name of the operation */
	const char *x, *y; /* operands; contractions: the sum of x * y; slices: y is axis and first element.
			    * y may be NULL */
	const char *bias;  /* of a contraction; NULL: none */
	const char *want;  /* the first elements of the result; where it is a decimal number with a point: the
			    * result, printed with as many digits */
	const char *numerics;  /* profiles, also with choices, that give `want`: "m1 m4,rounding=even" */
	const char *published; /* what was measured on the profile's chip, where no rule is known that gives
				* it and `want` is another; else NULL */
	const char *source;    /* who has measured it on which chip */
} an_case;
/* By index; false after the last. */
AN_API bool an_case_at(int i, an_case *out);
/* Whether `numerics` is one of those that give `want`, in the same words. */
AN_API bool an_case_holds(const an_case *c, const char *numerics);

#define AN_CASE_MOST 16
typedef struct an_case_result {
	int n;                      /* elements that are looked at */
	uint16_t got[AN_CASE_MOST]; /* fp16 */
	int where;                  /* the first that is not as wanted (any NaN is one); -1: none */
	bool as_published;          /* all are what an_case.published says */
} an_case_result;
AN_API an_status an_case_run(an_device *d, int i, an_case_result *out);
/* Element i of the result. */
AN_API double an_case_value(const an_case_result *r, int i);

/* ---- Probing a device ----------------------------------------------------------------- */

/* All that is known of a chip, tried out on a device, item by item: the engine's habits (an_quirk_at), the
 * cases above, the choices of the rules of arithmetic, fingerprints, and times.  An item depends on no other,
 * so that a device that compiles no more in one process is probed by several, and one that ends the process
 * by some. */
typedef enum an_probe_group {
	AN_PROBE_HABIT, /* not for "soft" */
	AN_PROBE_CASE,
	AN_PROBE_CHOICE,
	AN_PROBE_FINGERPRINT,
	AN_PROBE_SPEED
} an_probe_group;

typedef enum an_probe_verdict {
	AN_PROBE_AGREES, /* with what is known of the chip */
	AN_PROBE_DIFFERS,
	AN_PROBE_UNKNOWN, /* nothing is known, or nothing tells; speed: measured */
	AN_PROBE_FAILED   /* could not be tried; `observed` says why */
} an_probe_verdict;

typedef struct an_probe_options {
	const char *device, *numerics, *quirks, *libraries; /* as in an_device_options; must live as long */
	const char
	    *chip; /* the profile to compare with; NULL: the device's own, or "m4" where it does not say */
} an_probe_options;

typedef struct an_probe_info {
	const char *device, *numerics, *isa; /* as in an_device_info */
	const char *chip;                    /* compared with */
	bool assumed;                        /* the device did not say which chip it is */
	const char *system;                  /* processor, model, operating system */
} an_probe_info;

typedef struct an_probe_item {
	an_probe_group group;
	char id[80];    /* "ordered_names" */
	char text[400]; /* in a sentence */
	const char *evidence;
} an_probe_item;

typedef struct an_probe_result {
	an_probe_verdict verdict;
	char expected[200]; /* of this chip; "": nothing is known */
	char observed[600];
	double value, reference; /* a measurement, and the published one; NAN: none */
	const char *unit;        /* of both: "s" */
	double seconds;          /* that the item took */
} an_probe_result;

typedef struct an_probe an_probe;
AN_API an_status an_probe_open(an_ctx *ctx, const an_probe_options *opt, an_probe **out);
AN_API void an_probe_close(an_probe *p);
AN_API void an_probe_get_info(const an_probe *p, an_probe_info *out);
/* Items by index; false after the last. */
AN_API bool an_probe_at(const an_probe *p, int i, an_probe_item *out);
/* Names: "habit", "case", "choice", "fingerprint", "speed"; NULL after the last. */
AN_API const char *an_probe_group_name(int group);
/* "agrees", "differs", "unknown", "failed" */
AN_API const char *an_probe_verdict_name(an_probe_verdict v);
/* Tries item i.  AN_BUDGET: only in a new process; whatever else the device says is a result. */
AN_API an_status an_probe_run(an_probe *p, int i, an_probe_result *out);

/* ---- Two arrays --------------------------------------------------------------------- */

/* Bins of distances in units in the last place: 0, 1, 2, 3-4, 5-8, ..., 513-1024, more. */
#define AN_ULP_BINS 13

/* How b differs from a.  Distances count the numbers of the type between two (integers: the difference);
 * infinity follows the largest number. */
typedef struct an_difference {
	int64_t count;            /* elements */
	int64_t equal;            /* same bits, or both NaN */
	int64_t nan;              /* NaN on one side only */
	int64_t infinite;         /* infinite on one side only, or infinities of opposite sign */
	int64_t sign;             /* zeros of opposite sign; their distance is 0 */
	int64_t ulp[AN_ULP_BINS]; /* the others and the equal ones, by distance */
	uint64_t largest_ulp;     /* of those */
	double largest;           /* |a - b| / max(|a|, |b|) of finite elements */
	double rms;    /* sqrt(sum (a - b)^2 / sum a^2) over finite elements; infinite: a is 0 there */
	int64_t where; /* first element that is not equal; -1: none */
} an_difference;
/* Compares n elements of one type. */
AN_API void an_diff(an_dtype t, const void *a, const void *b, int64_t n, an_difference *out);
/* Smallest and largest distance that bin i counts. */
AN_API void an_ulp_bin(int i, uint64_t *low, uint64_t *high);

/* ---- Two devices -------------------------------------------------------------------- */

typedef struct an_compared {
	const char *name; /* of the value */
	const char *op;   /* MIL name of the operation whose result it is */
	int index;        /* of the operation in its function */
	int line;         /* in the source text; 0: none */
	an_type type;
	an_difference all; /* each device computed everything from the inputs */
	an_difference own; /* both computed this operation from the values that device a has */
} an_compared;

typedef struct an_compare_options {
	bool outputs_only; /* do not look for where differences come from */
	int64_t memory;    /* bytes of values held at a time; 0: 256 MiB.  The more, the fewer programs are
			    * compiled. */
	void (*progress)(void *user, int done, int total); /* operations; may be NULL */
	void *user;
} an_compare_options;

/* Names live as long as the program. */
typedef struct an_comparison {
	an_compared *outputs; /* in the function's order; `own` is zero */
	int noutputs;
	an_compared *values; /* results of operations that outputs depend on, in order of execution; none with
			      * outputs_only */
	int nvalues;
	int first;      /* value: the first that differs; all before it are equal.  -1: none does */
	int worst;      /* value: where `own` is largest (NaN and infinities first, then rms).  -1: none */
	bool disturbed; /* values were not those of the undisturbed run on one of the devices, which rounds
			 * differently (or not at all) what is not an output */
} an_comparison;

/* Runs a function on two devices of its program's context with the same inputs (one array for each, in the
 * function's order, row-major) and compares outputs and, with values made outputs by copies of the function,
 * operations.  `opt` may be NULL. */
AN_API an_status an_compare(an_device *a, an_device *b, an_function *f, const void *const *inputs,
			    const an_compare_options *opt, an_comparison **out);
AN_API void an_comparison_free(an_ctx *ctx, an_comparison *c);

#ifdef __cplusplus
}
#endif
#endif
