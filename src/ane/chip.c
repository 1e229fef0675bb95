/* The chips and their cost model. */
#include "anneal/ane.h"
#include "base/base.h"

/* A rate that sources give only for GEMM-shaped work stands for matmul; where no rate for
 * 1x1 convolutions was published, that of matmul is used for both, so that predictions err
 * on the slow side. */
static const an_chip chips[] = {
    {"m1", "h13g", 220e-6, 3.25e12, 3.25e12, 9e9, 16384,
     "ANEForge cost model: 3.25 TFLOP/s, 9 GB/s, 0.22 ms; axis limit through A15: ANEForge"},
    {"m2", "h14g", 200e-6, 7.24e12, 3.4e12, 9e9, 16384,
     "ANEForge: M2 Pro ramp to 7.24 TFLOP/s, roofline 3.4 TFLOP/s; dispatch 190-230 us as on M1"},
    {"m4", "h16g", 90e-6, 15.4e12, 15.4e12 / 3, 56e9, 65536,
     "maderix/ANE inmem_peak and single-conv tables, M4 mini: t = 85 us + FLOPs / 15.4 TFLOP/s within 5%, "
     "weights 56 GB/s; conv is 3 times matmul (Substack part 2); axis limit from A16: ANEForge"},
    {"m5", "h17g", 110e-6, 18.2e12, 8.9e12, 57e9, 65536,
     "ANEForge cost model: 8.9 TFLOP/s, 57 GB/s, 110 us; Anemll bench h17g: 18.22 TFLOP/s in 1x1 "
     "convolutions"},
};

const an_chip *an_chip_at(int i) { return i >= 0 && i < LENGTH(chips) ? &chips[i] : NULL; }

const an_chip *an_chip_find(const char *name)
{
	for (int i = 0; i < LENGTH(chips); i++)
		if (strcmp(chips[i].name, name) == 0)
			return &chips[i];
	return NULL;
}

double an_chip_predict(const an_chip *c, double conv_flops, double matmul_flops, double bytes)
{
	double compute = conv_flops / c->conv_rate + matmul_flops / c->matmul_rate;
	return c->dispatch + MAX(compute, bytes / c->bandwidth);
}
