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
	const float max = fold_row(lane, EW_LANES, K_MAX);
	INDEPENDENT
	for (int64_t i = 0; i < end; i++)
		x[i] = exp_term(x[i] - max);
	v = LANES(x);
	for (int64_t i = EW_LANES; i < end; i += EW_LANES)
		v += LANES(x + i);
	LANES(lane) = v;
	const float factor = 1 / fold_row(lane, EW_LANES, K_SUM);
	INDEPENDENT
	for (int64_t i = 0; i < end; i++)
		x[i] *= factor;
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

static double sum_squares(const float *x, int64_t n, bool *finite)
{
	double lane[EW_LANES] = {0};
	int64_t i = 0;
	for (; i + EW_LANES <= n; i += EW_LANES)
		for (int l = 0; l < EW_LANES; l++)
			lane[l] += (double)x[i + l] * (double)x[i + l];
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

static void adamw(const k_adamw *h, float *w, const float *g, float *m, float *v, int64_t n)
{
	const float b1 = h->beta1, b2 = h->beta2, a1 = 1 - b1, a2 = 1 - b2, scale = h->g_scale;
	const float lr = h->lr, eps = h->eps, decay = h->decay, r1 = 1 / h->c1, r2 = 1 / h->c2;
	INDEPENDENT
	for (int64_t i = 0; i < n; i++) {
		float x = g[i] * scale;
		m[i] = b1 * m[i] + a1 * x;
		v[i] = b2 * v[i] + a2 * (x * x);
		w[i] -= lr * ((m[i] * r1) / (sqrtf(v[i] * r2) + eps) + decay * w[i]);
	}
}
