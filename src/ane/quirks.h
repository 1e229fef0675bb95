/* The engine's habits as switches; quirks.def has the rows. */
#ifndef ANE_QUIRKS_H
#define ANE_QUIRKS_H

#include "anneal/ane.h"
#include "base/base.h"
#include "mil/ir.h"

enum {
#define QUIRK(id, ...) QUIRK_##id,
#include "ane/quirks.def"
#undef QUIRK
	QUIRK_COUNT
};

/* How programs reach the engine. */
enum { ANE_ROUTE_OBJC = 1, ANE_ROUTE_E5RT = 2 };

/* What holds: 0: off; else 1, or the quirk's number. */
typedef struct ane_quirks {
	int64_t value[QUIRK_COUNT];
} ane_quirks;

/* The defaults for a chip (NULL or unknown: a quirk seen on any holds) on one of these routes, changed by
 * `text`: "name=on", "name=off" or "name=NUMBER", separated by commas; may be NULL. */
an_status ane_quirks_set(an_ctx *ctx, const char *chip, unsigned routes, const char *text, ane_quirks *out);
/* The first of the rules on operations that one breaks; -1: none. */
int ane_quirk_of(const ane_quirks *q, const an_function *f, const mil_op *op);
/* The quirk's name, sentence and evidence as they stand in a message:
 * "quirk min_width: the last axis ... (evidence: ...)". */
void ane_quirk_text(str *s, int quirk);

#endif
