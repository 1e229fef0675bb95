#include "support/kernel_numpy.h"

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

/* ---- Ziggurat --------------------------------------------------------------------- */

#define TAIL 3.6541528853610087963519472518L /* where the lowest layer becomes the tail */

/* Layers of one area each, from the lowest up: what is left of x[i - 1] lies under the curve in all of layer
 * i. */
static void make_layers(numpy_rng *g)
{
	const long double one = 0x1p52L, f = expl(-TAIL * TAIL / 2);
	const long double area = TAIL * f + sqrtl(2 * atanl(1)) * erfcl(TAIL / sqrtl(2));
	long double x = TAIL;
	g->width[0] = (double)(area / f / one);
	g->inside[0] = (uint64_t)(TAIL * f / area * one);
	g->height[0] = 1;
	for (int i = 255; i > 0; i--) {
		long double next = i > 1 ? sqrtl(-2 * logl(area / x + expl(-x * x / 2))) : 0;
		g->width[i] = (double)(x / one);
		g->height[i] = (double)expl(-x * x / 2);
		g->inside[i] = (uint64_t)(next / x * one);
		x = next;
	}
}

void numpy_seed(numpy_rng *g, uint32_t seed)
{
	uint64_t w[4];
	seed_words(seed, w);
	make_layers(g);
	wide start = (wide)w[0] << 64 | w[1], stream = (wide)w[2] << 64 | w[3];
	split(g->inc, stream << 1 | 1);
	split(g->state, 0);
	bits(g);
	split(g->state, join(g->state) + start);
	bits(g);
}

double numpy_normal(numpy_rng *g)
{
	for (;;) {
		uint64_t r = bits(g), layer = r & 255, size = r >> 9 & ((UINT64_C(1) << 52) - 1);
		double x = (double)size * g->width[layer];
		x = r >> 8 & 1 ? -x : x;
		if (size < g->inside[layer])
			return x;
		if (layer > 0) {
			if ((g->height[layer - 1] - g->height[layer]) * uniform(g) + g->height[layer] <
			    exp(-0.5 * x * x))
				return x;
			continue;
		}
		for (;;) {
			double a = -log1p(-uniform(g)) / (double)TAIL, b = -log1p(-uniform(g));
			if (b + b > a * a)
				return size >> 8 & 1 ? -((double)TAIL + a) : (double)TAIL + a;
		}
	}
}
