/* Numerics as data: the choices of numerics.def, and rows of them. */
#ifndef ANE_NUMERICS_H
#define ANE_NUMERICS_H

#include "anneal/ane.h"
#include "base/base.h"

typedef enum ane_profile {
#define PROFILE(id, ...) PROFILE_##id,
#include "ane/numerics.def"
	PROFILE_COUNT
} ane_profile;

typedef enum ane_rule {
#define RULE(id, ...) RULE_##id,
#include "ane/numerics.def"
	RULE_COUNT
} ane_rule;

/* One enumeration for the choices of all rules: PRODUCT_EXACT, PRODUCT_FAST, ... */
typedef enum ane_choice {
#define CHOICE(rule, id, ...) rule##_##id,
#include "ane/numerics.def"
	CHOICE_COUNT
} ane_choice;

enum { ANE_NUMERICS_NAME = 512 }; /* what all keys and longest choices take together, and more */
typedef struct ane_numerics {
	/* A profile, then the rules in the order of the table in which its choice is not taken:
	 * "m4,reduce=tiled".  The same choices of one profile always have the same name. */
	char name[ANE_NUMERICS_NAME];
	uint8_t rule[RULE_COUNT]; /* ane_choice */
} ane_numerics;

/* CHOSEN(n, PRODUCT, FIXED) */
#define CHOSEN(n, RULE, CHOICE) ((n)->rule[RULE_##RULE] == RULE##_##CHOICE)

/* "PROFILE", "PROFILE,RULE=CHOICE,...", or NULL for "ieee".  AN_USAGE: the message lists what there is. */
an_status ane_numerics_parse(an_ctx *ctx, const char *text, ane_numerics *out);

#endif
