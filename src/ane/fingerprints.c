/* Published fingerprints of chips' arithmetic. */
#include "anneal/ane.h"
#include "base/base.h"

#define ROOFLINE \
	"ANEForge, bench/results/rooflines (device_saturation_sweep): one machine of each of these chips"
#define WATTCOMPLETE "ANEForge, bench/results/device_compare_wattcomplete_results_{M1,M2,M5}.json"
#define ALL          "m1 m1max m2pro m2max m4 m4pro m4max m5 m5pro m6"

/* The guide says of ANEForge's "M5" that it is an M5 Pro.  M3 is in none of these. */
static const an_published published[] = {
    {"gemm-512", ALL, "0.00257800397023792", true, ROOFLINE},
    {"gemm-1024", ALL, "0.005528352999597525", true, ROOFLINE},
    {"gemm-2048", ALL, "0.012131920427695623", true, ROOFLINE},
    {"gemm-64x256x256", "m1 m2 m5", "0.0012522854527169441", true, WATTCOMPLETE},
    {"gemm-128x1024x1024", "m1 m2 m5", "0.005521493491066958", true, WATTCOMPLETE},
    {"dft-1024", "m1 m2 m5", "0.0003501405909518638", true, WATTCOMPLETE},
    {"jacobi-512", "m1 m2 m5", "0.00039985988472345587", true, WATTCOMPLETE},
    {"conv-64", "m1 m1max m2pro m2max m4pro", "3.671660721e-4", true, ROOFLINE},
    {"conv-64", "m5 m5pro m6", "5.162338466e-4", true, ROOFLINE},
    {"conv-128", "m1 m1max m2pro m2max m4pro", "3.752040423e-4", true, ROOFLINE},
    {"conv-128", "m5 m5pro m6", "5.214500415e-4", true, ROOFLINE},
    {"conv-relu", "m1 m2", "3.6636558584241826e-4", true, WATTCOMPLETE},
    {"conv-relu", "m5", "5.102488034377338e-4", true, WATTCOMPLETE},
    {"stencil", "m1 m2", "1.4647346688676309e-3", true, WATTCOMPLETE},
    {"stencil", "m5", "1.3931483142566859e-2", true, WATTCOMPLETE},
    {"layer-norm", "m1 m2", "6.666825403169065e-4", false, WATTCOMPLETE},
    {"layer-norm", "m5", "6.721924948683699e-4", false, WATTCOMPLETE},
    {"rms-norm", "m1 m2", "5.579519158440576e-4", false, WATTCOMPLETE},
    {"rms-norm", "m5", "5.661251602187821e-4", false, WATTCOMPLETE},
    {"group-norm", "m1 m2", "7.409982149321947e-4", false, WATTCOMPLETE},
    {"group-norm", "m5", "7.410157930155374e-4", false, WATTCOMPLETE},
    {"attention-197", "m1 m2", "1.574320394493e-3", false, WATTCOMPLETE},
    {"attention-197", "m5", "1.629541808563e-3", false, WATTCOMPLETE},
    {"attention-512", "m1", "2.349398736465e-3", false, WATTCOMPLETE},
    {"attention-512", "m2", "2.346480676061e-3", false, WATTCOMPLETE},
    {"attention-512", "m5", "2.346358402274e-3", false, WATTCOMPLETE},
};

const an_published *an_published_at(int i) { return i >= 0 && i < LENGTH(published) ? &published[i] : NULL; }

/* Whether one of the words is `name`; with `family` also m2pro for m2. */
static bool has_chip(const char *words, const char *name, size_t len, bool family)
{
	for (const char *w = words; *w; w += strspn(w, " ")) {
		size_t n = strcspn(w, " ");
		if (n >= len && !memcmp(w, name, len) &&
		    (n == len || (family && !(w[len] >= '0' && w[len] <= '9'))))
			return true;
		w += n;
	}
	return false;
}

const an_published *an_published_find(const char *id, const char *chip)
{
	size_t len = strcspn(chip, ",");
	bool generation = len > 1 && strspn(chip + 1, "0123456789") >= len - 1;
	for (int family = 0; family <= (int)generation; family++)
		for (int i = 0; len && i < LENGTH(published); i++)
			if (!strcmp(published[i].id, id) && has_chip(published[i].chips, chip, len, family))
				return &published[i];
	return NULL;
}
