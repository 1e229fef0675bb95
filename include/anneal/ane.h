/* What is known of Apple's Neural Engine, as data.
 *
 * Every figure comes from published measurements and names them; nothing here has been
 * measured by this project on Apple hardware. */
#ifndef ANNEAL_ANE_H
#define ANNEAL_ANE_H

#include "anneal/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One chip.  A program's time is modelled as
 *   dispatch + max(conv_flops / conv_rate + matmul_flops / matmul_rate, bytes / bandwidth)
 * with bytes those of its weights and surfaces. */
typedef struct an_chip {
	const char *name;     /* "m4" */
	const char *family;   /* "h16g": the engine's own name */
	double dispatch;      /* seconds from submission to completion of an empty program */
	double conv_rate;     /* FLOP/s of deep programs of 1x1 convolutions by constants */
	double matmul_rate;   /* FLOP/s of matmul with both operands computed or bound */
	double bandwidth;     /* bytes/s at which weights and surfaces stream */
	int32_t axis_limit;   /* longest axis of a tensor; 0: not known */
	const char *evidence; /* who measured what */
} an_chip;

/* Chips by index, NULL after the last; by name, NULL if there is none. */
AN_API const an_chip *an_chip_at(int i);
AN_API const an_chip *an_chip_find(const char *name);

/* The model above, in seconds.  A single dispatch; programs in sequence add up. */
AN_API double an_chip_predict(const an_chip *c, double conv_flops, double matmul_flops, double bytes);

/* ---- Numerics ----------------------------------------------------------------------- */

/* Numerics are rules, each with several choices, on which chips or sources differ.  A profile is a
 * choice for every rule; "m4,reduce=tiled" is profile m4 with another choice for one rule.  All
 * functions give false after the last. */
typedef struct an_numerics_profile_info {
	const char *name;    /* "m4" */
	const char *summary; /* a line */
} an_numerics_profile_info;
AN_API bool an_numerics_profile(int i, an_numerics_profile_info *out);

typedef struct an_numerics_rule_info {
	const char *key;     /* "rounding" */
	const char *summary; /* what it is about */
} an_numerics_rule_info;
AN_API bool an_numerics_rule(int i, an_numerics_rule_info *out);

typedef struct an_numerics_choice_info {
	const char *name;     /* "away" */
	const char *summary;  /* what it does */
	const char *evidence; /* who has measured it on which chip */
	uint32_t profiles;    /* bit i: profile i chooses it */
} an_numerics_choice_info;
AN_API bool an_numerics_choice(int rule, int i, an_numerics_choice_info *out);

/* A habit of the engine, or of the calls that lead to it, that a device has to meet.  Reports
 * disagree, so each can be switched (an_device_options.quirks). */
typedef struct an_quirk {
	const char *name;     /* "equal_size" */
	const char *sentence; /* what holds */
	const char *evidence; /* who saw it, and who did not */
	enum an_quirk_breach {
		AN_QUIRK_REFUSES, /* compiling a program that breaks it fails */
		AN_QUIRK_FAILS,   /* evaluating fails with status 0x1d */
		AN_QUIRK_WRONG,   /* the data are wrong, silently */
		AN_QUIRK_LIMIT,   /* something comes to an end */
		AN_QUIRK_NOTHING  /* that was seen */
	} breach;
	int64_t initial;    /* 0: off by default; 1: on; else on with this number; on other routes off */
	const char *routes; /* where it was seen: "objc", "e5rt", "objc, e5rt" */
} an_quirk;

/* Quirks by index, NULL after the last. */
AN_API const an_quirk *an_quirk_at(int i);

/* ---- Published fingerprints --------------------------------------------------------- */

/* The relative error of a computation on seeded numbers that somebody measured on chips and published:
 * a test of a software engine's arithmetic that stands for hardware.  check.h computes them. */
typedef struct an_published {
	const char *id;     /* of the computation: "gemm-512" */
	const char *chips;  /* that gave this figure, to the last digit: "m1 m1max m2pro" */
	const char *figure; /* as printed: "0.00257800397023792" */
	bool explained;     /* arithmetic is known that reproduces it */
	const char *evidence;
} an_published;

/* By index, NULL after the last. */
AN_API const an_published *an_published_at(int i);
/* What was published of a chip ("m2max"), or, for a generation's name ("m2", the name of a profile, also with
 * choices: "m2,reduce=tiled"), of the first of that generation.  NULL: nothing. */
AN_API const an_published *an_published_find(const char *id, const char *chip);

#ifdef __cplusplus
}
#endif
#endif
