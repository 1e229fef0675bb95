/* The loops of k_gemm_count for one instruction set; see gemm_count.h. */
#include "kernel/gemm_count.h"

/* COUNT_STEP magnitudes or counters; compilers turn them into what registers there are. */
typedef uint16_t count_lanes __attribute__((vector_size(2 * COUNT_STEP), aligned(2), may_alias));

/* Classes of magnitudes: 0 and subnormals, e + 16 for exponent e.  A product is cut off only if both operands
 * are below COUNT_CLASSES, which is that of exponent -2. */
enum {
	COUNT_ZERO,
	COUNT_SUBNORMAL,
	COUNT_NORMAL,
	COUNT_CLASSES = FIXED_CUT - FIXED_MIN_EXP + 16,
	COUNT_NO_CLASS = 0x7fff, /* a magnitude beyond all */
	COUNT_UNITS = 512,       /* subnormals from here on are half a unit with 2^-2 */
	COUNT_ROWS = 32768       /* that counters of 16 bits hold */
};

static inline float count_value(const k_matrix *x, int64_t at)
{
	return x->type == K_F16 ? half_to_float(((const half *)x->data)[at]) : ((const float *)x->data)[at];
}

/* Magnitudes as the bits of an fp16, n elements with a stride; of an fp32 only whether it is 0, finite or
 * neither. */
static inline void load_magnitudes(uint16_t *restrict to, const k_matrix *x, int64_t at, int64_t stride,
				   int n)
{
	if (x->type != K_F16) {
		for (int i = 0; i < n; i++) {
			const float size = fabsf(((const float *)x->data)[at + i * stride]);
			to[i] = size == 0 ? 0 : size < INFINITY ? 0x3c00 : 0x7c00;
		}
		return;
	}
	const half *from = (const half *)x->data + at;
	if (stride == 1)
		for (int i = 0; i < n; i++)
			to[i] = from[i] & 0x7fff;
	else
		for (int i = 0; i < n; i++)
			to[i] = from[i * stride] & 0x7fff;
}

/* A vector of magnitudes, of which n exist. */
static inline void load_lanes(uint16_t to[COUNT_STEP], const k_matrix *x, int64_t at, int64_t stride, int n)
{
	if (n == COUNT_STEP) {
		load_magnitudes(to, x, at, stride, COUNT_STEP);
		return;
	}
	load_magnitudes(to, x, at, stride, n);
	for (int i = n; i < COUNT_STEP; i++)
		to[i] = COUNT_NO_CLASS;
}

/* |x| of the bits of a normal fp16 */
static inline float normal_value(uint16_t x) { return bits_float(((uint32_t)x << 13) + (112u << 23)); }

/* The smallest magnitude w for which x w contributes; more than any for x = 0.
 *
 * Quotients by 11 bits that are not integers, or not fp16 values, are further from these than fp32's
 * rounding. */
static inline uint16_t least_partner(uint16_t x)
{
	const int field = x >> 10;
	const uint32_t units = x & 1023u; /* of a subnormal */
	/* a normal x loses w below 2^(-16 - e), and if that is not normal, w = u 2^-24 if x u < 2^7 */
	const uint16_t by_exponent = (uint16_t)(MAX(14 - field, 0) << 10);
	const float need = ceilf(128 / normal_value((uint16_t)MAX(x, 1024)));
	const uint16_t of_normal = field < 13 ? by_exponent : (uint16_t)MAX(need, 1.0f);
	/* a subnormal one loses w below 2^-2, and below 2^7 / units */
	const uint32_t quotient = float_bits(128 / (float)MAX(units, 1u));
	const uint32_t up = ((quotient + 0x1fff) >> 13) - (112u << 10);
	const uint16_t of_subnormal = (uint16_t)MAX(up, (uint32_t)(-2 + 15) << 10);
	return x == 0 ? 0x8000 : field ? of_normal : of_subnormal;
}

/* ---- Products ------------------------------------------------------------------------- */

/* Adds to acc[c] where a magnitude is in a class up to c. */
static inline __attribute__((always_inline)) void sort_lanes(count_lanes *acc, const uint16_t *x,
							     const int classes)
{
	const count_lanes v = *(const count_lanes *)(const void *)x;
	for (int c = 0; c < classes; c++)
		acc[c] -= (count_lanes)(v < (uint16_t)(c ? c << 10 : 1));
}

/* below[c][e] is the number of those among `count` vectors whose element e is in a class up to c; zeros alone
 * where only they matter. */
static inline __attribute__((always_inline)) void sort_step(int32_t below[COUNT_CLASSES][COUNT_STEP],
							    const k_matrix *x, int64_t offset, int64_t sv,
							    int64_t se, int64_t count, int n,
							    const int classes)
{
	uint16_t one[COUNT_STEP];
	memset(below, 0, sizeof(int32_t[COUNT_CLASSES][COUNT_STEP]));
	if (sv == 1 && se != 1) { /* along vectors */
		for (int e = 0; e < n; e++)
			for (int64_t first = 0; first < count; first += COUNT_ROWS) {
				const int64_t end = MIN(first + COUNT_ROWS, count);
				count_lanes acc[COUNT_CLASSES] = {{0}};
				for (int64_t v = first; v < end; v += COUNT_STEP) {
					load_lanes(one, x, offset + v + e * se, 1,
						   (int)MIN(end - v, COUNT_STEP));
					sort_lanes(acc, one, classes);
				}
				for (int c = 0; c < classes; c++) {
					uint32_t sum = 0;
					for (int l = 0; l < COUNT_STEP; l++)
						sum += acc[c][l];
					below[c][e] += (int32_t)sum;
				}
			}
		return;
	}
	for (int64_t first = 0; first < count; first += COUNT_ROWS) { /* along elements */
		const int64_t end = MIN(first + COUNT_ROWS, count);
		count_lanes acc[COUNT_CLASSES] = {{0}};
		for (int64_t v = first; v < end; v++) {
			load_lanes(one, x, offset + v * sv, se, n);
			sort_lanes(acc, one, classes);
		}
		for (int c = 0; c < classes; c++)
			for (int e = 0; e < n; e++)
				below[c][e] += acc[c][e];
	}
}

/* Elements [0, n) of `count` vectors of an operand: those of vector v are at offset + v * sv + e * se. */
typedef struct lanes_walk {
	const k_matrix *x;
	int64_t offset, sv, se, count;
	int n;
} lanes_walk;

/* Products with subnormals of x that are large enough for the cut-off and rounded to 0. */
static int64_t rounded_to_zero(const lanes_walk *x, const lanes_walk *w)
{
	uint16_t upto[COUNT_UNITS][COUNT_STEP], one[COUNT_STEP];
	int64_t lost = 0;
	for (int64_t first = 0; first < x->count; first += COUNT_ROWS) {
		const int64_t end = MIN(first + COUNT_ROWS, x->count);
		memset(upto, 0, sizeof upto);
		if (x->sv == 1 && x->se != 1)
			for (int e = 0; e < x->n; e++)
				for (int64_t v = first; v < end; v += COUNT_STEP) {
					const int have = (int)MIN(end - v, COUNT_STEP);
					load_magnitudes(one, x->x, x->offset + v + e * x->se, 1, have);
					for (int l = 0; l < have; l++)
						upto[one[l] < COUNT_UNITS ? one[l] : 0][e]++;
				}
		else
			for (int64_t v = first; v < end; v++) {
				load_magnitudes(one, x->x, x->offset + v * x->sv, x->se, x->n);
				for (int e = 0; e < x->n; e++)
					upto[one[e] < COUNT_UNITS ? one[e] : 0][e]++;
			}
		memset(upto[0], 0, sizeof upto[0]); /* zeros, and what is larger */
		for (int u = 1; u < COUNT_UNITS; u++)
			for (int e = 0; e < COUNT_STEP; e++)
				upto[u][e] = (uint16_t)(upto[u][e] + upto[u - 1][e]);
		const bool across = w->sv == 1 && w->se != 1;
		const int64_t lines = across ? w->n : w->count, length = across ? w->count : w->n;
		for (int64_t i = 0; i < lines; i++)
			for (int64_t j = 0; j < length; j += COUNT_STEP) {
				uint16_t least[COUNT_STEP];
				const int have = (int)MIN(length - j, COUNT_STEP);
				load_lanes(one, w->x, w->offset + (across ? j + i * w->se : i * w->sv),
					   across ? 1 : w->se, have);
				for (int l = 0; l < COUNT_STEP; l++) {
					const uint16_t size = one[l];
					const int in = (size >= (-2 + 15) << 10) & (size < (7 + 15) << 10);
					const float q = ceilf(128 / normal_value((uint16_t)MAX(size, 1024)));
					least[l] = (uint16_t)(in ? (int)q - 1 : 0);
				}
				for (int l = 0; l < have; l++)
					lost += upto[least[l]][across ? i : l];
			}
	}
	return lost;
}

/* Whether some element is subnormal, or above all classes. */
static bool count_any_subnormal(const int32_t below[COUNT_CLASSES][COUNT_STEP], int n)
{
	int any = 0;
	for (int e = 0; e < n; e++)
		any |= below[COUNT_SUBNORMAL][e] > below[COUNT_ZERO][e];
	return any;
}
static bool count_any_large(const int32_t below[COUNT_CLASSES][COUNT_STEP], int n, int64_t count)
{
	int any = 0;
	for (int e = 0; e < n; e++)
		any |= below[COUNT_CLASSES - 1][e] < count;
	return any;
}

static void count_products(void *arg, int64_t item, int worker)
{
	count_run *run = arg;
	const k_gemm_args *g = run->g;
	const int64_t batch = item / run->ksteps, k0 = item % run->ksteps * COUNT_STEP;
	const int n = (int)MIN(g->k - k0, COUNT_STEP);
	const lanes_walk x = {
	    &g->a, gemm_batch_offset(g, &g->a, batch) + k0 * g->a.cs, g->a.rs, g->a.cs, g->m, n};
	const lanes_walk w = {
	    &g->b, gemm_batch_offset(g, &g->b, batch) + k0 * g->b.rs, g->b.cs, g->b.rs, g->n, n};
	int32_t a[COUNT_CLASSES][COUNT_STEP], b[COUNT_CLASSES][COUNT_STEP];
	int64_t products = 0, lost = 0;
	(void)worker;
	if (run->fixed) {
		sort_step(a, x.x, x.offset, x.sv, x.se, x.count, n, COUNT_CLASSES);
		sort_step(b, w.x, w.offset, w.sv, w.se, w.count, n, COUNT_CLASSES);
	} else {
		sort_step(a, x.x, x.offset, x.sv, x.se, x.count, n, COUNT_ZERO + 1);
		sort_step(b, w.x, w.offset, w.sv, w.se, w.count, n, COUNT_ZERO + 1);
	}
	for (int e = 0; e < n; e++)
		products += (g->m - a[COUNT_ZERO][e]) * (g->n - b[COUNT_ZERO][e]);
	if (run->fixed) {
		/* exponents c - 16 and at most CUT - 1 - (c - 16); subnormals count as COUNT_NORMAL */
		for (int c = COUNT_NORMAL; c < COUNT_CLASSES; c++) {
			const int32_t *fewer = a[c == COUNT_NORMAL ? COUNT_ZERO : c - 1];
			for (int e = 0; e < n; e++)
				lost += (int64_t)(a[c][e] - fewer[e]) *
					(b[COUNT_CLASSES + 1 - c][e] - b[COUNT_ZERO][e]);
		}
		if (count_any_subnormal(a, n) && count_any_large(b, n, g->n))
			lost += rounded_to_zero(&x, &w);
		if (count_any_subnormal(b, n) && count_any_large(a, n, g->m))
			lost += rounded_to_zero(&w, &x);
	}
	atomic_fetch_add(&run->products, products);
	atomic_fetch_add(&run->lost, lost);
}

/* ---- Results -------------------------------------------------------------------------- */

typedef uint16_t count_square[COUNT_TILE][COUNT_TILE];

/* Magnitudes of n elements of `count` vectors, which are rows of A or columns of B; 0 beyond. */
static void load_square(count_square to, const k_matrix *x, int64_t at, int64_t sv, int64_t se, int count,
			int n)
{
	memset(to, 0, sizeof(count_square));
	if (sv == 1 && se != 1)
		for (int e = 0; e < n; e++) {
			uint16_t one[COUNT_TILE];
			load_magnitudes(one, x, at + e * se, 1, count);
			for (int v = 0; v < count; v++)
				to[v][e] = one[v];
		}
	else
		for (int v = 0; v < count; v++)
			load_magnitudes(to[v], x, at + v * sv, se, n);
}

/* The largest magnitude of k elements of each vector. */
static void load_largest(uint16_t to[COUNT_TILE], const k_matrix *x, int64_t at, int64_t sv, int64_t se,
			 int count, int64_t k)
{
	memset(to, 0, sizeof(uint16_t[COUNT_TILE]));
	uint16_t one[COUNT_TILE];
	if (sv == 1 && se != 1)
		for (int64_t e = 0; e < k; e++) {
			load_magnitudes(one, x, at + e * se, 1, count);
			for (int v = 0; v < count; v++)
				to[v] = MAX(to[v], one[v]);
		}
	else
		for (int v = 0; v < count; v++)
			for (int64_t e = 0; e < k; e += COUNT_TILE) {
				const int have = (int)MIN(k - e, COUNT_TILE);
				uint16_t most = to[v];
				load_magnitudes(one, x, at + v * sv + e * se, se, have);
				for (int i = 0; i < have; i++)
					most = MAX(most, one[i]);
				to[v] = most;
			}
}

/* What is known of an output that is 0. */
typedef struct zero_output {
	uint8_t i, j;
	bool met, decided; /* terms that are not 0; and all of them are lost */
} zero_output;

/* Zeros for which no product contributed although some should; `zero` is used up. */
static int64_t count_vanished(const k_gemm_args *g, zero_output *zero, int nzero, int64_t oa, int64_t ob,
			      int m, int n)
{
	count_square a, b, least;
	int64_t vanished = 0;
	for (int64_t k0 = 0; k0 < g->k && nzero > 0; k0 += COUNT_TILE) {
		const int k = (int)MIN(g->k - k0, COUNT_TILE);
		load_square(a, &g->a, oa + k0 * g->a.cs, g->a.rs, g->a.cs, m, k);
		load_square(b, &g->b, ob + k0 * g->b.rs, g->b.cs, g->b.rs, n, k);
		for (int i = 0; i < m; i++)
			for (int e = 0; e < COUNT_TILE; e++)
				least[i][e] = least_partner(a[i][e]);
		int left = 0;
		for (int z = 0; z < nzero; z++) {
			zero_output o = zero[z];
			const uint16_t *x = a[o.i], *w = b[o.j], *from = least[o.i];
			uint16_t seen = 0; /* 1: met, 2: one that is kept */
			for (int e = 0; e < COUNT_TILE; e++)
				seen |= (uint16_t)(((x[e] != 0) & (w[e] != 0)) | (w[e] >= from[e] ? 2 : 0));
			o.met |= seen & 1;
			if (o.decided && o.met)
				vanished++;
			else if (!(seen & 2))
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
			sum += (double)count_value(&g->a, a + k * g->a.cs) *
			       (double)count_value(&g->b, b + k * g->b.rs);
		rounded += fabs(sum) > 0;
	}
	return rounded;
}

/* The largest finite magnitude of n results with a stride; *special: one is 0 or not finite. */
static float scan_results(const k_matrix *c, int64_t at, int64_t stride, int n, bool *special)
{
	if (c->type != K_F16) {
		float largest = 0;
		for (int j = 0; j < n; j++) {
			const float size = fabsf(count_value(c, at + j * stride));
			*special |= !(size > 0 && size < INFINITY);
			largest = size < INFINITY && size > largest ? size : largest;
		}
		return largest;
	}
	uint16_t size[COUNT_TILE];
	int16_t largest = 0, least = 0x7fff, most = 0; /* signed ones have instructions everywhere */
	load_magnitudes(size, c, at, stride, n);
	for (int j = 0; j < n; j++) {
		const int16_t x = (int16_t)size[j], finite = x < 0x7c00 ? x : 0;
		largest = largest > finite ? largest : finite;
		least = least < x ? least : x;
		most = most > x ? most : x;
	}
	*special |= least == 0 || most >= 0x7c00;
	return half_to_float((half)largest);
}

static void count_results_of_tile(void *arg, int64_t item, int worker)
{
	count_run *run = arg;
	const k_gemm_args *g = run->g;
	const int64_t tiles = run->mtiles * run->ntiles, batch = item / tiles;
	const int64_t row = item % tiles / run->ntiles * COUNT_TILE, column = item % run->ntiles * COUNT_TILE;
	const int m = (int)MIN(g->m - row, COUNT_TILE), n = (int)MIN(g->n - column, COUNT_TILE);
	const int64_t oa = gemm_batch_offset(g, &g->a, batch) + row * g->a.rs;
	const int64_t ob = gemm_batch_offset(g, &g->b, batch) + column * g->b.cs;
	const int64_t oc = gemm_batch_offset(g, &g->c, batch) + row * g->c.rs + column * g->c.cs;
	const int64_t start = gemm_batch_offset(g, &g->bias, batch) + row * g->bias.rs + column * g->bias.cs;
	/* along the rows of C, or its columns */
	const bool turned = g->c.rs == 1;
	const int lines = turned ? n : m, length = turned ? m : n;
	const int64_t line = turned ? g->c.cs : g->c.rs, step = turned ? g->c.rs : g->c.cs;
	zero_output zero[COUNT_TILE * COUNT_TILE];
	uint8_t infinite[COUNT_TILE * COUNT_TILE][2];
	int nzero = 0, ninfinite = 0;
	float largest = 0;
	(void)worker;
	for (int p = 0; p < lines; p++) {
		bool special = false;
		const float x = scan_results(&g->c, oc + p * line, step, length, &special);
		largest = MAX(largest, x);
		for (int q = 0; q < length && special; q++) {
			const int i = turned ? q : p, j = turned ? p : q;
			const float size = fabsf(count_value(&g->c, oc + p * line + q * step));
			if (size > 0 && size < INFINITY)
				continue;
			const float bias =
			    g->bias.data
				? fabsf(count_value(&g->bias, start + i * g->bias.rs + j * g->bias.cs))
				: 0;
			if (size == INFINITY && bias < INFINITY) {
				infinite[ninfinite][0] = (uint8_t)i;
				infinite[ninfinite++][1] = (uint8_t)j;
			} else if (size == 0 && bias < 0x1p-17f) { /* else it contributed */
				zero[nzero++] = (zero_output){(uint8_t)i, (uint8_t)j, bias > 0, false};
			}
		}
	}
	uint_fast32_t bits = float_bits(largest), seen = atomic_load(&run->largest);
	while (seen < bits && !atomic_compare_exchange_weak(&run->largest, &seen, bits))
		;
	if (!run->fixed)
		atomic_fetch_add(&run->vanished, count_rounded(g, zero, nzero, oa, ob));
	if (ninfinite == 0 && (nzero == 0 || !run->fixed))
		return;
	uint16_t a[COUNT_TILE], b[COUNT_TILE];
	load_largest(a, &g->a, oa, g->a.rs, g->a.cs, m, g->k);
	load_largest(b, &g->b, ob, g->b.cs, g->b.rs, n, g->k);
	int64_t overflowed = 0;
	for (int z = 0; z < ninfinite; z++)
		overflowed += MAX(a[infinite[z][0]], b[infinite[z][1]]) < 0x7c00;
	atomic_fetch_add(&run->overflowed, overflowed);
	if (!run->fixed)
		return;
	for (int z = 0; z < nzero; z++) /* smaller factors lose more */
		zero[z].decided = b[zero[z].j] < least_partner(a[zero[z].i]);
	atomic_fetch_add(&run->vanished, count_vanished(g, zero, nzero, oa, ob, m, n));
}
