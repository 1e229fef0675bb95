/* Softmax, cross-entropy and optimizer loops for one instruction set; see loops.h. */

/* In place; the row is filled up to whole vectors with what does not count. */
static void softmax_row(float *x, int64_t n)
{
	const int64_t end = (n + EW_LANES - 1) & -EW_LANES;
	for (int64_t i = n; i < end; i++)
		x[i] = -INFINITY;
	lanes_f v = LANES(x);
	for (int64_t i = EW_LANES; i < end; i += EW_LANES) {
		lanes_f w = LANES(x + i);
		LANES_KEEP(v, >, w);
	}
	float lane[EW_LANES];
	LANES(lane) = v;
	const float max = fold_lanes(lane, K_MAX);
	INDEPENDENT
	for (int64_t i = 0; i < end; i++)
		x[i] = exp_term(x[i] - max);
	v = LANES(x);
	for (int64_t i = EW_LANES; i < end; i += EW_LANES)
		v += LANES(x + i);
	LANES(lane) = v;
	const float factor = 1 / fold_lanes(lane, K_SUM);
	INDEPENDENT
	for (int64_t i = 0; i < end; i++)
		x[i] *= factor;
}

#ifdef LOOPS_AVX512
/* The lanes that hold something where so many elements are left. */
static inline __mmask16 lanes_of(int64_t left)
{
	return (__mmask16)(left >= 16 ? 0xffff : left <= 0 ? 0 : (1 << left) - 1);
}

/* Vector i of n fp16 values; what is beyond them counts as -infinity. */
static inline __m512 half_vector(const half *x, int64_t i, int64_t n)
{
	if (i + 16 <= n)
		return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(x + i)));
	const __mmask16 m = lanes_of(n - i);
	return _mm512_mask_cvtph_ps(_mm512_set1_ps(-INFINITY), m, _mm256_maskz_loadu_epi16(m, x + i));
}
static inline void store_half_vector(half *y, __m512 v, int64_t i, int64_t n)
{
	const __m256i h = _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT);
	if (i + 16 <= n)
		_mm256_storeu_si256((__m256i *)(y + i), h);
	else
		_mm256_mask_storeu_epi16(y + i, lanes_of(n - i), h);
}
#endif

static void softmax_halves(half *y, const half *x, float *buf, int64_t n)
{
#ifdef LOOPS_AVX512
	__m512 a = _mm512_set1_ps(-INFINITY), b = a, sum = _mm512_setzero_ps();
	int64_t i = 0;
	for (; i + 16 < n; i += 32) {
		a = _mm512_max_ps(a, half_vector(x, i, n));
		b = _mm512_max_ps(b, half_vector(x, i + 16, n));
	}
	if (i < n)
		a = _mm512_max_ps(a, half_vector(x, i, n));
	const __m512 max = _mm512_set1_ps(_mm512_reduce_max_ps(_mm512_max_ps(a, b)));
	enum { STEP = 4 * EW_LANES }; /* as many at a time hide what their steps wait for each other */
	for (i = 0; i + STEP <= n; i += STEP) {
		__m512 e[STEP / EW_LANES];
		for (int k = 0; k < LENGTH(e); k++)
			e[k] = exp_term16(_mm512_sub_ps(half_vector(x, i + EW_LANES * k, n), max));
		for (int k = 0; k < LENGTH(e); k++) {
			_mm512_storeu_ps(buf + i + EW_LANES * k, e[k]);
			sum = _mm512_add_ps(sum, e[k]);
		}
	}
	for (; i < n; i += EW_LANES) {
		const __m512 e = exp_term16(_mm512_sub_ps(half_vector(x, i, n), max));
		_mm512_storeu_ps(buf + i, e);
		sum = _mm512_add_ps(sum, e);
	}
	float lane[EW_LANES];
	_mm512_storeu_ps(lane, sum);
	const float total = fold_lanes(lane, K_SUM);
	if (total == total) {
		const __m512 factor = _mm512_set1_ps(1 / total);
		for (i = 0; i < n; i += 16)
			store_half_vector(y, _mm512_mul_ps(_mm512_loadu_ps(buf + i), factor), i, n);
		return;
	} /* else which NaN it is shall not depend on the instruction set */
#endif
	widen_f16(buf, x, (int)n);
	softmax_row(buf, n);
	narrow_f16(y, buf, (int)n);
}

static inline __attribute__((always_inline)) void update_columns(float *max, float *sum, const float *x,
								 int rows, int n)
{
	float top[COLUMN_BLOCK], base[COLUMN_BLOCK], part[COLUMN_BLOCK];
	for (int j = 0; j < n; j++)
		top[j] = max[j];
	for (int r = 0; r < rows; r++) {
		INDEPENDENT
		for (int j = 0; j < n; j++)
			top[j] = max_f(top[j], x[r * n + j]);
	}
	for (int j = 0; j < n; j++) {
		base[j] = top[j] == -INFINITY ? 0 : top[j]; /* only -inf so far: e^-inf = 0, not NaN */
		part[j] = 0;
	}
	for (int r = 0; r < rows; r++) {
		INDEPENDENT
		for (int j = 0; j < n; j++)
			part[j] += exp_term(x[r * n + j] - base[j]);
	}
	INDEPENDENT
	for (int j = 0; j < n; j++) {
		/* before the first block the sum is 0 and the maximum -inf */
		float grown = pick(max[j] == top[j], 1.0f, exp_term(max[j] - top[j]));
		sum[j] = sum[j] * grown + part[j];
		max[j] = top[j];
	}
}

static inline __attribute__((always_inline)) void apply_columns(float *x, const float *max,
								const float *factor, int rows, int n)
{
	for (int r = 0; r < rows; r++) {
		INDEPENDENT
		for (int j = 0; j < n; j++)
			x[r * n + j] = exp_term(x[r * n + j] - max[j]) * factor[j];
	}
}

/* Whole blocks of columns get code of their own, with a constant number of vectors per row. */
static void softmax_update(float *max, float *sum, const float *x, int rows, int n)
{
	if (n == COLUMN_BLOCK)
		update_columns(max, sum, x, rows, COLUMN_BLOCK);
	else if (n == COLUMN_BLOCK / 2)
		update_columns(max, sum, x, rows, COLUMN_BLOCK / 2);
	else
		update_columns(max, sum, x, rows, n);
}

static void softmax_apply(float *x, const float *max, const float *factor, int rows, int n)
{
	if (n == COLUMN_BLOCK)
		apply_columns(x, max, factor, rows, COLUMN_BLOCK);
	else if (n == COLUMN_BLOCK / 2)
		apply_columns(x, max, factor, rows, COLUMN_BLOCK / 2);
	else
		apply_columns(x, max, factor, rows, n);
}

static void loss_join(float *max, float *sum, const float *max2, const float *sum2, int n)
{
	INDEPENDENT
	for (int j = 0; j < n; j++) {
		float top = pick(max2[j] > max[j], max2[j], max[j]);
		float base = pick(top == -INFINITY, 0.0f, top); /* only -inf so far: e^-inf = 0, not NaN */
		sum[j] = sum[j] * exp_f(max[j] - base) + sum2[j] * exp_f(max2[j] - base);
		max[j] = top;
	}
}

/* Both forms have the same bits.  A NaN may get lost in the maximum; the sum keeps it. */
#ifdef LOOPS_AVX512
#define LOSS_VECTORS (COLUMN_BLOCK / 16)

static inline __attribute__((always_inline)) void loss_sum_of(const int vectors, float *max, float *sum,
							      const half *x, int64_t ld, int rows, int n)
{
	_Alignas(64) float top[COLUMN_BLOCK], part[COLUMN_BLOCK];
	__mmask16 mask[LOSS_VECTORS];
	__m512 a[LOSS_VECTORS], b[LOSS_VECTORS];
	UNROLL
	for (int v = 0; v < vectors; v++) {
		mask[v] = lanes_of(n - 16 * v);
		a[v] = _mm512_set1_ps(-INFINITY);
	}
	for (int r = 0; r < rows; r++) {
		/* the block after this one */
		_mm_prefetch((const char *)(x + (r + LOSS_ROWS) * ld), _MM_HINT_T0);
		_mm_prefetch((const char *)(x + (r + LOSS_ROWS) * ld + 32), _MM_HINT_T0);
		UNROLL
		for (int v = 0; v < vectors; v++)
			a[v] = _mm512_mask_max_ps(
			    a[v], mask[v], a[v],
			    _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask[v], x + r * ld + 16 * v)));
	}
	UNROLL
	for (int v = 0; v < vectors; v++) {
		_mm512_store_ps(top + 16 * v, a[v]);
		__mmask16 none = _mm512_cmp_ps_mask(a[v], _mm512_set1_ps(-INFINITY), _CMP_EQ_OQ);
		a[v] = _mm512_mask_mov_ps(a[v], none, _mm512_setzero_ps());
		b[v] = _mm512_setzero_ps();
	}
	for (int r = 0; r < rows; r++) {
		UNROLL
		for (int v = 0; v < vectors; v++)
			b[v] = _mm512_add_ps(
			    b[v], exp_of_logit16(_mm512_sub_ps(
				      _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask[v], x + r * ld + 16 * v)),
				      a[v])));
	}
	UNROLL
	for (int v = 0; v < vectors; v++)
		_mm512_store_ps(part + 16 * v, b[v]);
	loss_join(max, sum, top, part, n);
}

static inline __attribute__((always_inline)) void loss_gradient_of(const int vectors, half *x, int64_t ld,
								   const float *max, const float *factor,
								   int rows, int n)
{
	__mmask16 mask[LOSS_VECTORS];
	__m512 a[LOSS_VECTORS], b[LOSS_VECTORS];
	UNROLL
	for (int v = 0; v < vectors; v++) {
		mask[v] = lanes_of(n - 16 * v);
		a[v] = _mm512_maskz_loadu_ps(mask[v], max + 16 * v);
		b[v] = _mm512_maskz_loadu_ps(mask[v], factor + 16 * v);
	}
	for (int r = 0; r < rows; r++) {
		_mm_prefetch((const char *)(x + (r + LOSS_ROWS) * ld), _MM_HINT_T0);
		_mm_prefetch((const char *)(x + (r + LOSS_ROWS) * ld + 32), _MM_HINT_T0);
		UNROLL
		for (int v = 0; v < vectors; v++) {
			half *at = x + r * ld + 16 * v;
			__m512 e = exp_of_logit16(
			    _mm512_sub_ps(_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask[v], at)), a[v]));
			_mm256_mask_storeu_epi16(
			    at, mask[v], _mm512_cvtps_ph(_mm512_mul_ps(e, b[v]), _MM_FROUND_TO_NEAREST_INT));
		}
	}
}

static void loss_sum(float *max, float *sum, const half *x, int64_t ld, int rows, int n)
{
	if (n > 16)
		loss_sum_of(LOSS_VECTORS, max, sum, x, ld, rows, n);
	else
		loss_sum_of(1, max, sum, x, ld, rows, n);
}

static void loss_gradient(half *x, int64_t ld, const float *max, const float *factor, int rows, int n)
{
	if (n > 16)
		loss_gradient_of(LOSS_VECTORS, x, ld, max, factor, rows, n);
	else
		loss_gradient_of(1, x, ld, max, factor, rows, n);
}
#else
static void loss_sum(float *max, float *sum, const half *x, int64_t ld, int rows, int n)
{
	float buf[LOSS_ROWS * COLUMN_BLOCK], top[COLUMN_BLOCK], base[COLUMN_BLOCK], part[COLUMN_BLOCK];
	widen_rows(buf, n, x, ld, rows, n);
	for (int j = 0; j < n; j++)
		top[j] = -INFINITY;
	for (int r = 0; r < rows; r++) {
		INDEPENDENT
		for (int j = 0; j < n; j++)
			top[j] = pick(top[j] > buf[r * n + j], top[j], buf[r * n + j]);
	}
	for (int j = 0; j < n; j++) {
		base[j] = top[j] == -INFINITY ? 0 : top[j];
		part[j] = 0;
	}
	for (int r = 0; r < rows; r++) {
		INDEPENDENT
		for (int j = 0; j < n; j++)
			part[j] += exp_of_logit(buf[r * n + j] - base[j]);
	}
	loss_join(max, sum, top, part, n);
}

static void loss_gradient(half *x, int64_t ld, const float *max, const float *factor, int rows, int n)
{
	float buf[LOSS_ROWS * COLUMN_BLOCK];
	widen_rows(buf, n, x, ld, rows, n);
	for (int r = 0; r < rows; r++) {
		INDEPENDENT
		for (int j = 0; j < n; j++)
			buf[r * n + j] = exp_of_logit(buf[r * n + j] - max[j]) * factor[j];
	}
	narrow_rows(x, ld, buf, n, rows, n);
}
#endif

typedef double lanes_d __attribute__((vector_size(8 * EW_LANES), aligned(8), may_alias));

static double sum_squares(const float *x, int64_t n, bool *finite)
{
	double lane[EW_LANES];
	lanes_d v = {0};
	int64_t i = 0;
	for (; i + EW_LANES <= n; i += EW_LANES) {
		__builtin_prefetch(x + i + 512); /* 2 KB ahead: a third faster on large blocks */
		lanes_d w = __builtin_convertvector(LANES_CONST(x + i), lanes_d);
		v += w * w;
	}
	*(lanes_d *)(void *)lane = v;
	for (int l = 0; i + l < n; l++)
		lane[l] += (double)x[i + l] * (double)x[i + l];
	double s = 0;
	for (int l = 0; l < EW_LANES; l++)
		s += lane[l];
	/* squares of floats do not overflow a double, so only what was not finite can make this so */
	if (!(s < (double)INFINITY))
		*finite = false;
	return s;
}

/* Elements between requests for the lines that are needed 1 KB later: of four streams that are read, the
 * hardware alone fetches too little ahead. */
#define ADAMW_RUN   64
#define ADAMW_AHEAD 256

static void adamw(const k_adamw *h, float *w, const float *g, float *m, float *v, int64_t n)
{
	const float b1 = h->beta1, b2 = h->beta2, a1 = 1 - b1, a2 = 1 - b2, scale = h->g_scale;
	const float lr = h->lr, eps = h->eps, decay = h->decay, r1 = 1 / h->c1, r2 = 1 / h->c2;
	for (int64_t i0 = 0; i0 < n; i0 += ADAMW_RUN) {
		const int64_t end = i0 + ADAMW_RUN < n ? i0 + ADAMW_RUN : n;
		for (int64_t i = i0 + ADAMW_AHEAD; i < i0 + ADAMW_AHEAD + ADAMW_RUN; i += 16) {
			__builtin_prefetch(w + i, 1);
			__builtin_prefetch(g + i);
			__builtin_prefetch(m + i, 1);
			__builtin_prefetch(v + i, 1);
		}
		INDEPENDENT
		for (int64_t i = i0; i < end; i++) {
			float x = g[i] * scale;
			m[i] = b1 * m[i] + a1 * x;
			v[i] = b2 * v[i] + a2 * (x * x);
			w[i] -= lr * ((m[i] * r1) / (sqrtf(v[i] * r2) + eps) + decay * w[i]);
		}
	}
}
