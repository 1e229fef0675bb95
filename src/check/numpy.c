#include "check/numpy.h"

#include "check/ziggurat.h"

#include <math.h>

__extension__ typedef unsigned __int128 wide;

static wide join(const uint64_t x[2]) { return (wide)x[1] << 64 | x[0]; }
static void split(uint64_t x[2], wide v)
{
	x[0] = (uint64_t)v;
	x[1] = (uint64_t)(v >> 64);
}

/* ---- SeedSequence ----------------------------------------------------------------- */

static uint32_t hash(uint32_t v, uint32_t *key, uint32_t factor)
{
	v ^= *key;
	*key *= factor;
	v *= *key;
	return v ^ v >> 16;
}

static void seed_words(uint32_t seed, uint64_t out[4])
{
	uint32_t pool[4], key = 0x43b0d7e5, words[8];
	for (int i = 0; i < 4; i++)
		pool[i] = hash(i ? 0 : seed, &key, 0x931e8875);
	for (int from = 0; from < 4; from++)
		for (int to = 0; to < 4; to++)
			if (from != to) {
				uint32_t v =
				    0xca01f9dd * pool[to] - 0x4973f715 * hash(pool[from], &key, 0x931e8875);
				pool[to] = v ^ v >> 16;
			}
	key = 0x8b51f9dd;
	for (int i = 0; i < 8; i++)
		words[i] = hash(pool[i % 4], &key, 0x58f38ded);
	for (int i = 0; i < 4; i++)
		out[i] = (uint64_t)words[2 * i + 1] << 32 | words[2 * i];
}

/* ---- PCG64 ------------------------------------------------------------------------ */

static uint64_t bits(numpy_rng *g)
{
	const wide factor = (wide)UINT64_C(0x2360ed051fc65da4) << 64 | UINT64_C(0x4385df649fccf645);
	split(g->state, join(g->state) * factor + join(g->inc));
	uint64_t v = g->state[1] ^ g->state[0];
	int turn = (int)(g->state[1] >> 58);
	return v >> turn | v << (-turn & 63);
}
static double uniform(numpy_rng *g) { return (double)(bits(g) >> 11) * 0x1p-53; }

void numpy_seed(numpy_rng *g, uint32_t seed)
{
	uint64_t w[4];
	seed_words(seed, w);
	wide start = (wide)w[0] << 64 | w[1], stream = (wide)w[2] << 64 | w[3];
	split(g->inc, stream << 1 | 1);
	split(g->state, 0);
	bits(g);
	split(g->state, join(g->state) + start);
	bits(g);
}

/* ---- Ziggurat --------------------------------------------------------------------- */

double numpy_normal(numpy_rng *g)
{
	for (;;) {
		uint64_t r = bits(g), layer = r & 255, size = r >> 9 & ((UINT64_C(1) << 52) - 1);
		double x = (double)size * ziggurat[layer].width, f = ziggurat[layer].height;
		x = r >> 8 & 1 ? -x : x;
		if (size < ziggurat[layer].inside)
			return x;
		if (layer > 0) {
			if ((ziggurat[layer - 1].height - f) * uniform(g) + f < exp(-0.5 * x * x))
				return x;
			continue;
		}
		for (;;) {
			double a = -1 / ZIGGURAT_TAIL * log1p(-uniform(g)), b = -log1p(-uniform(g));
			if (b + b > a * a)
				return size >> 8 & 1 ? -(ZIGGURAT_TAIL + a) : ZIGGURAT_TAIL + a;
		}
	}
}
