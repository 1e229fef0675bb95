/* Fixed-point contraction with vectors; the bits of gemm_fixed_portable.c.  One source for the instruction
 * sets: the file that includes this has defined
 *
 *	LANES, MR           floats of a vector, rows of a tile
 *	FEW                 rows of the tile that is used where that many remain
 *	pack_f32_type       a panel in fp32
 *	splat, splat_int    a number in all lanes
 *	larger              of two vectors of integers
 *	load_halves         up to LANES halves as fp32, the rest 0
 *	low_sum             t + bits of (x w + MAGIC), or + MAGIC alone where size <= cut
 *	kept_only           y, or 0 where size <= cut
 *
 * One product costs a multiply-add, a comparison and an addition:
 *
 * Rounding.  Adding 1.5 2^23 in a fused multiply-add rounds the exact product, in units of 2^-16, to an
 * integer in the low bits of the sum, as long as it is below 2^22 units.  That rounds half to even; half
 * away from zero is the same after the product grew by less than its last place, so one bit is added
 * to the end of each (scaled) element of A, which has 13 zeros there: a product has 22 significant bits,
 * the growth is at most 2^-23 of it.
 *
 * Cut-off.  |w| >= 2^(-16 - e(x)) with subnormal w taken as 2^-14, as a comparison of bits that masks the
 * product: what is cut off leaves 1.5 2^23, which stands for 0.
 *
 * Overflow.  No partial sum exceeds |x| |w| (Cauchy, Schwarz), so panels carry the largest norm of their
 * vectors.  Tiles for which the bound does not exclude overflow track it in double. */

enum { NR = 2 * LANES };

typedef struct trailer {
	float largest; /* magnitude */
	float norm;    /* largest of the vectors', a little more than exact */
} trailer;

/* Panels are value[k][width], then cut[k][width], then the trailer.  B: the value, and the bits of its
 * magnitude, at least 2^-14.  A: the value times 2^16 with one bit added, and the largest of these bits that
 * are cut off. */

#define LEAST_NORMAL 0x38800000 /* bits of 2^-14 */

/* fp16 with an ordinary exponent 31 */
static inline float decode(half h)
{
	uint32_t sign = (uint32_t)(h & 0x8000) << 16, field = h >> 10 & 31, man = h & 1023;
	if (field != 31)
		return half_to_float(h);
	return bits_float(sign | 143u << 23 | man << 13);
}

/* What `n` packed values become, and what is kept of their magnitudes (as bits) and squares. */
INLINE void finish_values(float *value, int32_t *cut, float *square, int32_t *largest, int n, const bool is_a)
{
	for (int l = 0; l < n; l++) {
		const float x = value[l];
		const int32_t u = (int32_t)float_bits(x), size = u & 0x7fffffff;
		const int32_t least = size > LEAST_NORMAL ? size : LEAST_NORMAL;
		square[l] += x * x;
		largest[l] = largest[l] > size ? largest[l] : size;
		/* 127 + (-16 - e) = 238 - (127 + e) */
		cut[l] = is_a ? ((238 - (least >> 23)) << 23) - 1 : least;
		if (is_a)
			value[l] = bits_float(size ? (uint32_t)u + (16u << 23) + 1 : 0);
	}
}

INLINE void pack_fixed(float *value, const void *src, int64_t sv, int64_t se, int count, int k, int kpad,
		       const int width, const bool is_a)
{
	enum { MOST = 4 * NR };
	const int64_t total = (int64_t)kpad * width, used = (int64_t)k * width;
	/* whole vectors, elements of the same vectors at the same places */
	const int period = width == 1 ? LANES : width % LANES ? 4 * width : width;
	int32_t *cut = (int32_t *)(void *)(value + total);
	pack_f32_type(value, src, K_F16, sv, se, count, k, width);
	for (int64_t i = used; i < total; i++)
		value[i] = 0;
	float square[MOST];
	int32_t largest[MOST], most;
	for (bool special = false;; special = true) {
		int64_t i = 0;
		memset(square, 0, sizeof square);
		memset(largest, 0, sizeof largest);
		for (; i + period <= total; i += period)
			finish_values(value + i, cut + i, square, largest, period, is_a);
		finish_values(value + i, cut + i, square, largest, (int)(total - i), is_a);
		most = 0;
		for (int l = 0; l < period; l++)
			most = MAX(most, largest[l]);
		if (special || most < 0x7f800000)
			break;
		/* infinities and NaN are numbers: once more, with those */
		for (int e = 0; e < k; e++)
			for (int v = 0; v < count; v++)
				value[(int64_t)e * width + v] = decode(((const half *)src)[v * sv + e * se]);
	}
	trailer t = {bits_float((uint32_t)most), 0};
	for (int v = 0; v < width; v++) {
		float sum = 0;
		for (int l = v; l < period; l += width)
			sum += square[l];
		t.norm = MAX(t.norm, sum);
	}
	/* at most k additions of positive numbers: 2^-24 each */
	t.norm = sqrtf(t.norm * (1.001f + (float)k * 0x1p-23f));
	memcpy(cut + total, &t, sizeof t);
}

/* An upper bound, in ones, of sums of k products, each of which may grow by half a unit when it is rounded,
 * as may the number that they start at. */
static inline bool cannot_overflow(float norms, int64_t k, float start)
{
	const float bound = (norms + ((float)k + 1) * 0x1p-17f + start) * 1.001f;
	return bound < (float)(FIXED_LIMIT / FIXED_ONE);
}
#define SMALL_PRODUCT 63.9f /* below 2^22 units */

static inline float largest_of(const float *x, int64_t n)
{
	float largest = 0;
	for (int64_t i = 0; i < n; i++) /* NaN, which does not occur, would stay */
		largest = fabsf(x[i]) <= largest ? largest : fabsf(x[i]);
	return largest;
}

/* ---- Where overflow is excluded ------------------------------------------------------ */

#define MAGIC 0x4b400000 /* bits of 1.5 2^23 */

INLINE vf load(const float *p)
{
	vf x;
	memcpy(&x, p, sizeof x);
	return x;
}
INLINE vi load_int(const int32_t *p)
{
	vi x;
	memcpy(&x, p, sizeof x);
	return x;
}

/* t + the product of x, with its added bit, and w, rounded, unless it is cut off.  `small`: products stay
 * below SMALL_PRODUCT, and MAGIC is added to each. */
INLINE vi add_product(const bool small, vi t, vf x, vf w, vi size, vi cut)
{
	if (small)
		return low_sum(t, x, w, size, cut);
	/* without the added bit the product is exact; + 0.5 with its sign, cut off */
	const vf y = (vf)((vi)x & splat_int(~1)) * w;
	const vf half_unit = (vf)(((vi)y & splat_int((int)0x80000000)) | splat_int(0x3f000000));
	return t + kept_only(__builtin_convertvector(y + half_unit, vi), size, cut);
}

/* LANES integers from and to fp16 values in fp32, of which n exist: once per sums over all of k, so no part
 * of the unrolled loops. */
static __attribute__((noinline)) UNCHECKED void start(int32_t *sum, const float *c, int n)
{
	for (int i = 0; i < LANES; i++)
		sum[i] = i < n ? (int32_t)fixed_start(c[i]) : 0;
}
static __attribute__((noinline)) UNCHECKED void finish(float *c, const int32_t *sum, int n)
{
	float y[LANES];
	for (int i = 0; i < LANES; i++)
		y[i] = fixed_result((double)sum[i]);
	if (n >= LANES)
		memcpy(c, y, sizeof y);
	else if (n > 0)
		memcpy(c, y, (size_t)n * sizeof *c);
}

/* rows x (LANES * vectors) accumulators in registers.  Bounds of loops are constants and not arguments: clang
 * unrolls this before it inlines it. */
INLINE void tile(const int rows, const int vectors, const bool small, int k, const float *a, const float *b,
		 float *c, int64_t ldc, int m, int n, bool add)
{
	const int32_t *acut = (const int32_t *)(const void *)(a + (int64_t)k * MR);
	const int32_t *bcut = (const int32_t *)(const void *)(b + (int64_t)k * NR);
	const uint32_t bias = small ? (uint32_t)k * MAGIC : 0; /* modulo 2^32, as are the sums */
	vi t[MR][2];
	UNROLL
	for (int i = 0; i < MR; i++) {
		UNROLL
		for (int v = 0; v < 2; v++) {
			t[i][v] = splat_int((int)(0 - bias));
			if (add && i < m && i < rows && v < vectors) {
				int32_t begin[LANES];
				start(begin, c + i * ldc + LANES * v, n - LANES * v);
				t[i][v] += load_int(begin);
			}
		}
	}
	for (int p = 0; p < k; p++, a += MR, b += NR, acut += MR, bcut += NR) {
		vf w[2];
		vi size[2];
		UNROLL
		for (int v = 0; v < 2; v++) {
			w[v] = v < vectors ? load(b + LANES * v) : splat(0);
			size[v] = v < vectors ? load_int(bcut + LANES * v) : splat_int(0);
		}
		UNROLL
		for (int i = 0; i < MR; i++) {
			const vi cut = splat_int(acut[i]);
			const vf x = splat(a[i]);
			UNROLL
			for (int v = 0; v < 2; v++)
				if (i < rows && v < vectors)
					t[i][v] = add_product(small, t[i][v], x, w[v], size[v], cut);
		}
	}
	UNROLL
	for (int i = 0; i < MR; i++) {
		UNROLL
		for (int v = 0; v < 2; v++)
			if (i < rows && v < vectors && i < m) {
				int32_t sum[LANES];
				memcpy(sum, &t[i][v], sizeof sum);
				finish(c + i * ldc + LANES * v, sum, n - LANES * v);
			}
	}
}

INLINE void tile_of(const bool small, int k, const float *a, const float *b, float *c, int64_t ldc, int m,
		    int n, bool add)
{
	if (n > LANES) {
		if (m > FEW)
			tile(MR, 2, small, k, a, b, c, ldc, m, n, add);
		else
			tile(FEW, 2, small, k, a, b, c, ldc, m, n, add);
	} else {
		if (m > FEW)
			tile(MR, 1, small, k, a, b, c, ldc, m, n, add);
		else
			tile(FEW, 1, small, k, a, b, c, ldc, m, n, add);
	}
}

/* ---- Where it is not ------------------------------------------------------------------ */

/* sum + x w: sums in double are exact below the limit, and infinity stays what it is. */
static inline double tracked_sum(double sum, double x, int32_t cut, float w, int32_t size)
{
	double y = x * (double)w;
	y = trunc(y + copysign(0.5, y));
	y = sum + (size > cut ? y : 0.0);
	return fabs(y) < FIXED_LIMIT ? y : copysign(INFINITY, y);
}
static inline double without_bit(float x) { return (double)bits_float(float_bits(x) & ~1u); }

static void tracked(int k, const float *a, const float *b, float *c, int64_t ldc, int m, int n, bool add)
{
	const int32_t *acut = (const int32_t *)(const void *)(a + (int64_t)k * MR);
	const int32_t *bcut = (const int32_t *)(const void *)(b + (int64_t)k * NR);
	for (int i = 0; i < m; i++) {
		double sum[NR] = {0};
		for (int j = 0; j < n && add; j++)
			sum[j] = fixed_start(c[i * ldc + j]);
		for (int p = 0; p < k; p++) {
			const double x = without_bit(a[p * MR + i]);
			const int32_t cut = acut[p * MR + i];
			for (int j = 0; j < NR; j++)
				sum[j] = tracked_sum(sum[j], x, cut, b[p * NR + j], bcut[p * NR + j]);
		}
		for (int j = 0; j < n; j++)
			c[i * ldc + j] = fixed_result(sum[j]);
	}
}

INLINE void multiply(int k, const float *a, const float *b, float *c, int64_t ldc, int m, int n, bool add)
{
	trailer ta, tb;
	memcpy(&ta, a + (int64_t)2 * k * MR, sizeof ta);
	memcpy(&tb, b + (int64_t)2 * k * NR, sizeof tb);
	float from = 0;
	for (int i = 0; i < m && add; i++)
		from = MAX(from, largest_of(c + i * ldc, n));
	if (!cannot_overflow(ta.norm * tb.norm, k, from))
		tracked(k, a, b, c, ldc, m, n, add);
	else if (ta.largest * tb.largest < SMALL_PRODUCT)
		tile_of(true, k, a, b, c, ldc, m, n, add);
	else
		tile_of(false, k, a, b, c, ldc, m, n, add);
}

/* ---- Matrix times vector ---------------------------------------------------------------- */

/* The matrix is read as it is; x is a panel of one vector, as of A.  Whether products were small and sums
 * excluded overflow is known when the largest element has been seen: what was not so is done again. */

typedef struct panel1 {
	const float *value;
	const int32_t *cut;
	int64_t k, kpad;
	trailer t;
} panel1;

enum { DOTS = 8 };

INLINE vi size_of(vf w, vi *largest)
{
	const vi size = (vi)w & splat_int(0x7fffffff);
	*largest = larger(size, *largest);
	return larger(size, splat_int(LEAST_NORMAL));
}

/* `rows` rows that are contiguous along k; returns the largest magnitude's bits. */
INLINE int32_t dot_rows(const int rows, const bool small, int32_t *sum, const half *a, int64_t rs,
			const panel1 *x)
{
	vi t[DOTS], most = splat_int(0);
	UNROLL
	for (int i = 0; i < DOTS; i++)
		t[i] = splat_int(0);
	for (int64_t p = 0; p < x->k; p += LANES) {
		const vf xv = load(x->value + p);
		const vi cut = load_int(x->cut + p);
		const int n = (int)MIN(x->k - p, LANES);
		UNROLL
		for (int i = 0; i < DOTS; i++)
			if (i < rows) {
				const vf w = load_halves(a + i * rs + p, n);
				t[i] = add_product(small, t[i], xv, w, size_of(w, &most), cut);
			}
	}
	int32_t largest = 0;
	for (int i = 0; i < rows; i++) {
		uint32_t all = small ? 0 - (uint32_t)x->kpad * MAGIC : 0;
		for (int l = 0; l < LANES; l++)
			all += (uint32_t)t[i][l];
		sum[i] = (int32_t)all;
	}
	for (int l = 0; l < LANES; l++)
		largest = MAX(largest, most[l]);
	return largest;
}

/* m neighbouring sums, up to 4 LANES, where rows are contiguous */
INLINE int32_t sum_columns(const bool small, int32_t *sum, const half *a, int64_t cs, int m, const panel1 *x)
{
	vi t[4], most = splat_int(0);
	UNROLL
	for (int v = 0; v < 4; v++)
		t[v] = splat_int(small ? (int)(0 - (uint32_t)x->k * MAGIC) : 0);
	for (int64_t p = 0; p < x->k; p++) {
		const vf xv = splat(x->value[p]);
		const vi cut = splat_int(x->cut[p]);
		UNROLL
		for (int v = 0; v < 4; v++)
			if (LANES * v < m) {
				const vf w = load_halves(a + LANES * v + p * cs, m - LANES * v);
				t[v] = add_product(small, t[v], xv, w, size_of(w, &most), cut);
			}
	}
	int32_t largest = 0;
	memcpy(sum, t, sizeof t);
	for (int l = 0; l < LANES; l++)
		largest = MAX(largest, most[l]);
	return largest;
}

static void tracked_rows(float *y, const half *a, int64_t rs, int64_t cs, int m, const panel1 *x, bool add)
{
	for (int i = 0; i < m; i++) {
		double sum = add ? fixed_start(y[i]) : 0;
		for (int64_t p = 0; p < x->k; p++) {
			const float w = decode(a[i * rs + p * cs]);
			const int32_t size = (int32_t)(float_bits(w) & 0x7fffffff);
			sum =
			    tracked_sum(sum, without_bit(x->value[p]), x->cut[p], w, MAX(size, LEAST_NORMAL));
		}
		y[i] = fixed_result(sum);
	}
}

INLINE void multiply_vector(float *y, const half *a, int64_t rs, int64_t cs, int m, int64_t k,
			    const float *panel, bool add)
{
	panel1 x = {.value = panel, .k = k, .kpad = (k + LANES - 1) / LANES * LANES};
	x.cut = (const int32_t *)(const void *)(panel + x.kpad);
	memcpy(&x.t, x.cut + x.kpad, sizeof x.t);
	/* a sum of k magnitudes is at most sqrt(k) times the norm */
	const float total = x.t.norm * sqrtf((float)k) * 1.001f;
	bool small = true;
	const bool along = cs == 1 || k == 1, across = rs == 1;
	for (int i = 0, n; i < m; i += n) {
		int32_t sum[4 * LANES];
		float largest = INFINITY;
		n = along ? m - i >= DOTS ? DOTS : 1 : across ? MIN(m - i, 4 * LANES) : m;
		for (int tries = 0; tries < 2 && (along || across); tries++) {
			const half *from = a + i * rs;
			int32_t bits;
			if (!along)
				bits = small ? sum_columns(true, sum, from, cs, n, &x)
					     : sum_columns(false, sum, from, cs, n, &x);
			else if (n == DOTS)
				bits = small ? dot_rows(DOTS, true, sum, from, rs, &x)
					     : dot_rows(DOTS, false, sum, from, rs, &x);
			else
				bits = small ? dot_rows(1, true, sum, from, rs, &x)
					     : dot_rows(1, false, sum, from, rs, &x);
			largest = bits_float((uint32_t)bits);
			if (!small || largest * x.t.largest < SMALL_PRODUCT)
				break;
			small = false;
		}
		/* infinities and NaN are numbers: those are decoded where sums are tracked */
		if (!(largest < INFINITY) ||
		    !cannot_overflow(total * largest, k, add ? largest_of(y + i, n) : 0)) {
			tracked_rows(y + i, a + i * rs, rs, cs, n, &x, add);
			continue;
		}
		for (int j = 0; j < n; j++)
			y[i + j] = fixed_result((double)sum[j] + (add ? fixed_start(y[i + j]) : 0));
	}
}
