/* Counting what a contraction lost, from its operands and its result.
 *
 * Whether a product is lost depends on exponents alone, unless an operand is subnormal; so products are not
 * looked at one by one: for each k, column k of A and row k of B are sorted into classes, whose sizes are
 * multiplied.  The product of a subnormal and an operand in [2^-2, 2^7) may be rounded to 0; there
 * significands decide, by a table of the subnormals that the other operands look up.  An
 * output is looked at more closely only if it is 0 or infinite. */
#include "kernel/gemm_fixed.h"

#include <stdatomic.h>

enum {
	STEP = 32, /* of k, for the classes */
	TILE = 64  /* rows, columns and k, for outputs */
};

/* Classes of magnitudes: 0 and subnormals, e + 16 for exponent e.  A product is cut off only if both operands
 * are below CLASSES, which is that of exponent -2. */
enum { ZERO, SUBNORMAL, FIRST_NORMAL, CLASSES = FIXED_CUT - FIXED_MIN_EXP + 16 };

typedef struct count_run {
	const k_gemm_args *g;
	int64_t ksteps, mtiles, ntiles;
	bool fixed;
	atomic_int_fast64_t products, lost, overflowed, vanished;
	atomic_uint_fast32_t largest; /* bits of a float, which are ordered as positive floats are */
} count_run;

void k_counts_add(k_counts *to, const k_counts *from)
{
	to->products += from->products;
	to->lost += from->lost;
	to->results += from->results;
	to->overflowed += from->overflowed;
	to->vanished += from->vanished;
	to->largest = MAX(to->largest, from->largest);
}

static inline float value_at(const k_matrix *x, int64_t at)
{
	return x->type == K_F16 ? half_to_float(((const half *)x->data)[at]) : ((const float *)x->data)[at];
}

/* Magnitude as the bits of an fp16; of an fp32 only whether it is 0, finite or neither. */
static inline uint16_t magnitude(const k_matrix *x, int64_t at)
{
	if (x->type == K_F16)
		return ((const half *)x->data)[at] & 0x7fff;
	const float size = fabsf(((const float *)x->data)[at]);
	return size == 0 ? 0 : size < INFINITY ? 0x3c00 : 0x7c00;
}

static inline int8_t class_of(uint16_t x) { return (int8_t)(x ? (x >> 10) + 1 : 0); }

/* The smallest magnitude w for which x w contributes; more than any for x = 0. */
static uint16_t least_partner(uint16_t x)
{
	if (x == 0)
		return 0x8000;
	const int field = x >> 10, e = field ? field - 15 : FIXED_MIN_EXP, cut = FIXED_CUT - e;
	const uint32_t units = (x & 1023u) | (field ? 1024 : 0); /* x = units 2^(e - 10) */
	if (field && cut > FIXED_MIN_EXP)
		return (uint16_t)((cut + 15) << 10);
	/* any other normal x loses w = u 2^-24 if x u < 2^7 */
	if (field)
		return (uint16_t)(e > 6 ? 1 : ((1u << (17 - e)) + units - 1) / units);
	/* a subnormal one loses w below 2^cut, and below 2^7 / units, which is in [2^f, 2^(f+1)) */
	if (units >= 512)
		return (uint16_t)((cut + 15) << 10);
	int f = 7;
	for (uint32_t power = 1; power < units; power *= 2)
		f--;
	const uint32_t significand = ((1u << (17 - f)) + units - 1) / units; /* 1024 to 2048 */
	return (uint16_t)(((uint32_t)(f + 15) << 10) + significand - 1024);
}

/* ---- Products ------------------------------------------------------------------------- */

/* below[c][e] is the number of those among `count` vectors whose element e is in a class up to c; zeros alone
 * where only they matter. */
static void sort_step(int32_t below[CLASSES][STEP], const k_matrix *x, int64_t offset, int64_t sv, int64_t se,
		      int64_t count, int n, int classes)
{
	memset(below, 0, sizeof(int32_t[CLASSES][STEP]));
	for (int64_t first = 0; first < count; first += TILE) {
		int8_t class[TILE][STEP];
		const int have = (int)MIN(count - first, TILE);
		const int64_t at = offset + first * sv;
		memset(class, 127, sizeof class);
		if (sv == 1)
			for (int e = 0; e < n; e++)
				for (int v = 0; v < have; v++)
					class[v][e] = class_of(magnitude(x, at + v + e * se));
		else
			for (int v = 0; v < have; v++)
				for (int e = 0; e < n; e++)
					class[v][e] = class_of(magnitude(x, at + v * sv + e * se));
		for (int c = 0; c < classes; c++) {
			int8_t sum[STEP] = {0};
			for (int v = 0; v < have; v++)
				for (int e = 0; e < STEP; e++)
					sum[e] = (int8_t)(sum[e] + (class[v][e] <= c));
			for (int e = 0; e < STEP; e++)
				below[c][e] += sum[e];
		}
	}
}

/* Products with subnormals of x that are large enough for the cut-off and rounded to 0. */
static int64_t rounded_to_zero(const k_matrix *x, int64_t ox, int64_t sx, int64_t nx, const k_matrix *w,
			       int64_t ow, int64_t sw, int64_t nw)
{
	enum { UNITS = 512 }; /* from here on subnormals are half a unit with 2^-2 */
	int64_t upto[UNITS] = {0}, lost = 0;
	for (int64_t i = 0; i < nx; i++) {
		const uint16_t units = magnitude(x, ox + i * sx);
		if (units > 0 && units < UNITS)
			upto[units]++;
	}
	for (int u = 1; u < UNITS; u++)
		upto[u] += upto[u - 1];
	for (int64_t i = 0; i < nw; i++) {
		const uint16_t size = magnitude(w, ow + i * sw);
		if (size >= (-2 + 15) << 10 && size < (7 + 15) << 10)
			lost += upto[least_partner(size) - 1];
	}
	return lost;
}

static void count_products(void *arg, int64_t item, int worker)
{
	count_run *run = arg;
	const k_gemm_args *g = run->g;
	const int64_t batch = item / run->ksteps, k0 = item % run->ksteps * STEP;
	const int64_t oa = gemm_batch_offset(g, &g->a, batch) + k0 * g->a.cs;
	const int64_t ob = gemm_batch_offset(g, &g->b, batch) + k0 * g->b.rs;
	const int n = (int)MIN(g->k - k0, STEP), classes = run->fixed ? CLASSES : ZERO + 1;
	int32_t a[CLASSES][STEP], b[CLASSES][STEP];
	int64_t products = 0, lost = 0;
	(void)worker;
	sort_step(a, &g->a, oa, g->a.rs, g->a.cs, g->m, n, classes);
	sort_step(b, &g->b, ob, g->b.cs, g->b.rs, g->n, n, classes);
	for (int e = 0; e < n; e++) {
		products += (g->m - a[ZERO][e]) * (g->n - b[ZERO][e]);
		if (!run->fixed)
			continue;
		/* exponents x - 16 and at most CUT - 1 - (x - 16); subnormals count as FIRST_NORMAL */
		for (int x = FIRST_NORMAL; x < CLASSES; x++) {
			const int64_t fewer = a[x == FIRST_NORMAL ? ZERO : x - 1][e];
			lost += (a[x][e] - fewer) * (b[CLASSES + 1 - x][e] - b[ZERO][e]);
		}
		if (a[SUBNORMAL][e] > a[ZERO][e])
			lost += rounded_to_zero(&g->a, oa + e * g->a.cs, g->a.rs, g->m, &g->b,
						ob + e * g->b.rs, g->b.cs, g->n);
		if (b[SUBNORMAL][e] > b[ZERO][e])
			lost += rounded_to_zero(&g->b, ob + e * g->b.rs, g->b.cs, g->n, &g->a,
						oa + e * g->a.cs, g->a.rs, g->m);
	}
	atomic_fetch_add(&run->products, products);
	atomic_fetch_add(&run->lost, lost);
}

/* ---- Results -------------------------------------------------------------------------- */

typedef struct vectors {
	uint16_t size[TILE][TILE]; /* magnitude of an element of a row of A or column of B */
	uint16_t largest[TILE];
} vectors;

static void load_vectors(vectors *to, const k_matrix *x, int64_t at, int64_t sv, int64_t se, int count, int n)
{
	memset(to->size, 0, sizeof to->size);
	for (int v = 0; v < count; v++)
		for (int e = 0; e < n; e++) {
			to->size[v][e] = magnitude(x, at + v * sv + e * se);
			to->largest[v] = MAX(to->largest[v], to->size[v][e]);
		}
}

/* What is known of an output that is 0. */
typedef struct zero_output {
	uint8_t i, j;
	bool met, decided; /* terms that are not 0; and all of them are lost */
} zero_output;

/* Zeros for which no product contributed although some should; `zero` is used up. */
static int64_t count_vanished(const k_gemm_args *g, zero_output *zero, int nzero, int64_t oa, int64_t ob,
			      int m, int n, vectors *a, vectors *b)
{
	uint16_t least[TILE][TILE];
	int64_t vanished = 0;
	for (int64_t k0 = 0; k0 < g->k && nzero > 0; k0 += TILE) {
		const int k = (int)MIN(g->k - k0, TILE);
		load_vectors(a, &g->a, oa + k0 * g->a.cs, g->a.rs, g->a.cs, m, k);
		load_vectors(b, &g->b, ob + k0 * g->b.rs, g->b.cs, g->b.rs, n, k);
		for (int i = 0; i < m; i++)
			for (int e = 0; e < TILE; e++)
				least[i][e] = least_partner(a->size[i][e]);
		int left = 0;
		for (int z = 0; z < nzero; z++) {
			zero_output o = zero[z];
			const uint16_t *x = a->size[o.i], *w = b->size[o.j], *from = least[o.i];
			uint16_t met = 0, kept = 0;
			for (int e = 0; e < TILE; e++) {
				met |= (x[e] != 0) & (w[e] != 0);
				kept |= w[e] >= from[e];
			}
			o.met |= met;
			if (o.decided && o.met)
				vanished++;
			else if (!kept)
				zero[left++] = o;
		}
		nzero = left;
	}
	for (int z = 0; z < nzero; z++)
		vanished += zero[z].met;
	return vanished;
}

/* Zeros that are sums of products in double which are not 0: an fp32 or fp16 has lost them. */
static int64_t count_rounded(const k_gemm_args *g, const zero_output *zero, int nzero, int64_t oa, int64_t ob)
{
	int64_t rounded = 0;
	for (int z = 0; z < nzero; z++) {
		const int64_t a = oa + zero[z].i * g->a.rs, b = ob + zero[z].j * g->b.cs;
		double sum = 0;
		for (int64_t k = 0; k < g->k; k++)
			sum += (double)value_at(&g->a, a + k * g->a.cs) *
			       (double)value_at(&g->b, b + k * g->b.rs);
		rounded += fabs(sum) > 0;
	}
	return rounded;
}

/* The largest finite magnitude of n results with a stride; *special: one is 0 or not finite. */
static float scan(const k_matrix *c, int64_t at, int64_t stride, int n, bool *special)
{
	if (c->type != K_F16) {
		float largest = 0;
		for (int j = 0; j < n; j++) {
			const float size = fabsf(value_at(c, at + j * stride));
			*special |= !(size > 0 && size < INFINITY);
			largest = size < INFINITY && size > largest ? size : largest;
		}
		return largest;
	}
	const half *from = (const half *)c->data + at;
	int16_t size[TILE], largest = 0, least = 0x7fff, most = 0;
	for (int j = 0; j < n; j++)
		size[j] = from[j * stride] & 0x7fff;
	for (int j = 0; j < n; j++) {
		const int16_t finite = size[j] < 0x7c00 ? size[j] : 0;
		largest = MAX(largest, finite);
		least = MIN(least, size[j]);
		most = MAX(most, size[j]);
	}
	*special |= least == 0 || most >= 0x7c00;
	return half_to_float((half)largest);
}

static float bias_at(const k_gemm_args *g, int64_t at)
{
	return g->bias.data ? fabsf(value_at(&g->bias, at)) : 0;
}

static void count_results(void *arg, int64_t item, int worker)
{
	count_run *run = arg;
	const k_gemm_args *g = run->g;
	const int64_t tiles = run->mtiles * run->ntiles, batch = item / tiles;
	const int64_t row = item % tiles / run->ntiles * TILE, column = item % run->ntiles * TILE;
	const int m = (int)MIN(g->m - row, TILE), n = (int)MIN(g->n - column, TILE);
	const int64_t oa = gemm_batch_offset(g, &g->a, batch) + row * g->a.rs;
	const int64_t ob = gemm_batch_offset(g, &g->b, batch) + column * g->b.cs;
	const int64_t oc = gemm_batch_offset(g, &g->c, batch) + row * g->c.rs + column * g->c.cs;
	const int64_t start = gemm_batch_offset(g, &g->bias, batch) + row * g->bias.rs + column * g->bias.cs;
	float largest = 0;
	bool special = false;
	(void)worker;
	for (int i = 0; i < (g->c.rs == 1 ? n : m); i++) {
		const float x = g->c.rs == 1 ? scan(&g->c, oc + i * g->c.cs, 1, m, &special)
					     : scan(&g->c, oc + i * g->c.rs, g->c.cs, n, &special);
		largest = MAX(largest, x);
	}
	uint_fast32_t bits = float_bits(largest), seen = atomic_load(&run->largest);
	while (seen < bits && !atomic_compare_exchange_weak(&run->largest, &seen, bits))
		;
	if (!special)
		return;
	zero_output zero[TILE * TILE];
	uint8_t infinite[TILE * TILE][2];
	int nzero = 0, ninfinite = 0;
	for (int i = 0; i < m; i++)
		for (int j = 0; j < n; j++) {
			const float size = fabsf(value_at(&g->c, oc + i * g->c.rs + j * g->c.cs));
			const float bias = bias_at(g, start + i * g->bias.rs + j * g->bias.cs);
			if (size == INFINITY && bias < INFINITY) {
				infinite[ninfinite][0] = (uint8_t)i;
				infinite[ninfinite++][1] = (uint8_t)j;
			} else if (size == 0 && bias < 0x1p-17f) { /* else it contributed */
				zero[nzero++] = (zero_output){(uint8_t)i, (uint8_t)j, bias > 0, false};
			}
		}
	if (!run->fixed)
		atomic_fetch_add(&run->vanished, count_rounded(g, zero, nzero, oa, ob));
	if (ninfinite == 0 && (nzero == 0 || !run->fixed))
		return;
	vectors a = {.largest = {0}}, b = {.largest = {0}};
	for (int64_t k0 = 0; k0 < g->k; k0 += TILE) {
		const int k = (int)MIN(g->k - k0, TILE);
		load_vectors(&a, &g->a, oa + k0 * g->a.cs, g->a.rs, g->a.cs, m, k);
		load_vectors(&b, &g->b, ob + k0 * g->b.rs, g->b.cs, g->b.rs, n, k);
	}
	int64_t overflowed = 0;
	for (int z = 0; z < ninfinite; z++)
		overflowed += MAX(a.largest[infinite[z][0]], b.largest[infinite[z][1]]) < 0x7c00;
	atomic_fetch_add(&run->overflowed, overflowed);
	if (!run->fixed)
		return;
	for (int z = 0; z < nzero; z++) /* smaller factors lose more */
		zero[z].decided = b.largest[zero[z].j] < least_partner(a.largest[zero[z].i]);
	atomic_fetch_add(&run->vanished, count_vanished(g, zero, nzero, oa, ob, m, n, &a, &b));
}

void k_gemm_count(pool *p, const k_gemm_args *g, k_counts *counts)
{
	if (g->c.type == K_I32)
		return; /* integers are not lost */
	count_run run = {.g = g,
			 .ksteps = (g->k + STEP - 1) / STEP,
			 .mtiles = (g->m + TILE - 1) / TILE,
			 .ntiles = (g->n + TILE - 1) / TILE,
			 .fixed = g->precision == K_FIXED};
	int64_t batches = 1;
	for (int d = 0; d < g->nbatch; d++)
		batches *= g->batch[d];
	pool_run(p, count_products, &run, batches * run.ksteps);
	pool_run(p, count_results, &run, batches * run.mtiles * run.ntiles);
	k_counts_add(counts, &(k_counts){.products = run.products,
					 .lost = run.lost,
					 .results = batches * g->m * g->n,
					 .overflowed = run.overflowed,
					 .vanished = run.vanished,
					 .largest = bits_float((uint32_t)run.largest)});
}
