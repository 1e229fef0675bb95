/* The probe's inside: what can be tried out on a device, one item at a time.
 *
 *   probe.c    the list of items, and what they are compared with
 *   habits.c   the engine's habits (ane/quirks.def): what happens to a program that does not meet one
 *   choices.c  the rules of arithmetic (ane/numerics.def): which choice the device's results agree with
 *   speed.c    times of programs, and energy
 *   energy.c   what the system tells of it
 *
 * Single cases and fingerprints are those of check.h. */
#ifndef CHECK_PROBE_PROBE_H
#define CHECK_PROBE_PROBE_H

#include "anneal/check.h"
#include "base/base.h"

enum { PROBE_ITEMS_MOST = 1000 };

/* One item, by the table it stands in and its place there. */
typedef struct probe_entry {
	an_probe_group group;
	int index;
} probe_entry;

struct an_probe {
	an_ctx *ctx;
	arena arena;
	an_probe_options o;
	an_device *device;
	an_device *exact; /* the software engine in ieee: what programs of small whole numbers give */
	const char *chip; /* profile */
	an_probe_info info;
	probe_entry entry[PROBE_ITEMS_MOST];
	int n;
	bool spent;           /* nothing more can be tried in this process */
	an_case_result *base; /* all cases in the chip's profile; NULL: not yet */
};

/* probe.c */
/* The device once more, with these quirks after those of the options; of the chip compared with where that is
 * software. */
an_status probe_device(const an_probe *p, const char *quirks, an_device **out);
/* The first line of the context's message, in out->observed, after `what`. */
void probe_say(const an_probe *p, an_probe_result *out, const char *what);

/* habits.c, choices.c, speed.c: each fills `out`, but for `seconds`. */
bool habit_known(int quirk);
an_status habit_run(an_probe *p, int quirk, an_probe_result *out);
an_status choice_run(an_probe *p, int rule, an_probe_result *out);
/* Names of measurements, NULL after the last. */
const char *speed_name(int i, const char **text);
an_status speed_run(an_probe *p, int i, an_probe_result *out);
/* Replaces the weights of a program on `d`: whether the new ones are used, and the median of the seconds that
 * it took (may be NULL). */
an_status speed_reload(an_probe *p, an_device *d, bool *used, double *median);

/* energy.c */
typedef struct energy energy;
/* NULL: the system does not tell, and *why says so. */
energy *energy_open(an_ctx *ctx, const char *libraries, const char **why);
void energy_close(energy *e);
/* Joules since energy_open, of what *what names; false: reading failed. */
bool energy_read(energy *e, double *joules, const char **what);

#endif
