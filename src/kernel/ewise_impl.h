/* The interpreter of elementwise programs for one instruction set; see loops.h.
 *
 * Every instruction is a loop over whole registers, rounded up to a multiple of EW_LANES, so
 * that it is vector code without a tail; what lies beyond the tile is computed and not used.
 * A loop may read and write the same register: element i depends on elements i only. */

#if defined(__clang__)
#pragma clang diagnostic ignored "-Wpass-failed" /* sanitizers keep loops from becoming vector code */
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

/* EW_LANES floats at once, at any address; every compiler turns them into what registers there are. */
typedef float lanes_f __attribute__((vector_size(4 * EW_LANES), aligned(4), may_alias));
typedef int32_t lanes_i __attribute__((vector_size(4 * EW_LANES), aligned(4), may_alias));
#define LANES(address)       (*(lanes_f *)(void *)(address))
#define LANES_CONST(address) (*(const lanes_f *)(const void *)(address))
/* a = a > b (or a < b) ? a : b, where NaN wins as in max_f and min_f.  No function: how one takes
 * vectors would depend on the instruction set. */
#define LANES_KEEP(a, relation, b)                                               \
	do {                                                                     \
		lanes_i keep_ = ((a)relation(b)) | ((a) != (a));                 \
		(a) = (lanes_f)(((lanes_i)(a)&keep_) | ((lanes_i)(b) & ~keep_)); \
	} while (0)

/* ---- Conversion ------------------------------------------------------------------- */

#if defined(LOOPS_AVX512)
static inline void widen_f16(float *d, const half *s, int n)
{
	int i = 0;
	for (; i + 16 <= n; i += 16)
		_mm512_storeu_ps(d + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(s + i))));
	if (i < n) {
		__mmask16 m = (__mmask16)((1u << (n - i)) - 1);
		_mm512_mask_storeu_ps(d + i, m, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(m, s + i)));
	}
}
static inline void narrow_f16(half *d, const float *s, int n)
{
	int i = 0;
	for (; i + 16 <= n; i += 16)
		_mm256_storeu_si256((__m256i *)(d + i),
				    _mm512_cvtps_ph(_mm512_loadu_ps(s + i), _MM_FROUND_TO_NEAREST_INT));
	if (i < n) {
		__mmask16 m = (__mmask16)((1u << (n - i)) - 1);
		_mm256_mask_storeu_epi16(
		    d + i, m, _mm512_cvtps_ph(_mm512_maskz_loadu_ps(m, s + i), _MM_FROUND_TO_NEAREST_INT));
	}
}
#elif defined(LOOPS_AVX2)
static inline void widen_f16(float *d, const half *s, int n)
{
	int i = 0;
	for (; i + 8 <= n; i += 8)
		_mm256_storeu_ps(d + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(s + i))));
	for (; i < n; i++)
		d[i] = _cvtsh_ss(s[i]);
}
static inline void narrow_f16(half *d, const float *s, int n)
{
	int i = 0;
	for (; i + 8 <= n; i += 8)
		_mm_storeu_si128((__m128i *)(d + i),
				 _mm256_cvtps_ph(_mm256_loadu_ps(s + i), _MM_FROUND_TO_NEAREST_INT));
	for (; i < n; i++)
		d[i] = (half)_cvtss_sh(s[i], _MM_FROUND_TO_NEAREST_INT);
}
#elif defined(LOOPS_NEON)
static inline void widen_f16(float *d, const half *s, int n)
{
	int i = 0;
	for (; i + 8 <= n; i += 8) {
		const float16x8_t h = vreinterpretq_f16_u16(vld1q_u16(s + i));
		vst1q_f32(d + i, vcvt_f32_f16(vget_low_f16(h)));
		vst1q_f32(d + i + 4, vcvt_high_f32_f16(h));
	}
	for (; i < n; i++)
		d[i] = vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(s[i]))), 0);
}
static inline void narrow_f16(half *d, const float *s, int n)
{
	int i = 0;
	for (; i + 8 <= n; i += 8) {
		const float16x4_t low = vcvt_f16_f32(vld1q_f32(s + i));
		vst1q_u16(d + i, vreinterpretq_u16_f16(vcvt_high_f16_f32(low, vld1q_f32(s + i + 4))));
	}
	for (; i < n; i++)
		d[i] = vget_lane_u16(vreinterpret_u16_f16(vcvt_f16_f32(vdupq_n_f32(s[i]))), 0);
}
#else
static inline void widen_f16(float *d, const half *s, int n)
{
	INDEPENDENT
	for (int i = 0; i < n; i++) {
		/* the exponent moves by 112; 2^112 does that for subnormals too. Signalling NaNs turn
		 * quiet, as they do in hardware. */
		uint32_t h = s[i], m = (h & 0x7fff) << 13, special = h & 0x7c00;
		float f = bits_float(m) * 0x1p112f;
		uint32_t top = 0x7f800000 | m | ((h & 0x3ff) ? 0x400000u : 0u);
		d[i] = bits_float((special == 0x7c00 ? top : float_bits(f)) | (h & 0x8000) << 16);
	}
}
static inline void narrow_f16(half *d, const float *s, int n)
{
	INDEPENDENT
	for (int i = 0; i < n; i++) {
		uint32_t u = float_bits(s[i]), a = u & 0x7fffffff;
		/* below 2^-14: adding 1/2 leaves the wanted bits at the end; else round the 13 bits away */
		uint32_t small = float_bits(bits_float(a) + 0.5f) - 0x3f000000;
		uint32_t normal = (a - 0x38000000 + 0xfff + (a >> 13 & 1)) >> 13;
		uint32_t h = a < 0x38800000 ? small : normal;
		h = a >= 0x477ff000 ? 0x7c00 : h;
		h = a > 0x7f800000 ? (0x7e00 | (a >> 13 & 0x3ff)) : h;
		d[i] = (half)(h | (u >> 16 & 0x8000));
	}
}
#endif

static void widen_rows(float *dst, int64_t ldd, const half *src, int64_t lds, int m, int n)
{
	for (int i = 0; i < m; i++)
		widen_f16(dst + i * ldd, src + i * lds, n);
}
static void narrow_rows(half *dst, int64_t ldd, const float *src, int64_t lds, int m, int n)
{
	for (int i = 0; i < m; i++)
		narrow_f16(dst + i * ldd, src + i * lds, n);
}

static void store_past(half *d, const float *s, int n)
{
	int i = 0;
#if defined(LOOPS_AVX512) || defined(LOOPS_AVX2)
	for (; i < n && (uintptr_t)(d + i) % 32; i++)
		narrow_f16(d + i, s + i, 1);
	for (; i + 16 <= n; i += 16) {
#if defined(LOOPS_AVX512)
		__m256i h = _mm512_cvtps_ph(_mm512_loadu_ps(s + i), _MM_FROUND_TO_NEAREST_INT);
#else
		__m256i h =
		    _mm256_set_m128i(_mm256_cvtps_ph(_mm256_loadu_ps(s + i + 8), _MM_FROUND_TO_NEAREST_INT),
				     _mm256_cvtps_ph(_mm256_loadu_ps(s + i), _MM_FROUND_TO_NEAREST_INT));
#endif
		_mm256_stream_si256((__m256i *)(d + i), h);
	}
#endif
	narrow_f16(d + i, s + i, n - i);
}

static inline float widen_bf16(bfloat b) { return bits_float((uint32_t)b << 16); }
static inline bfloat narrow_bf16(float f)
{
	uint32_t u = float_bits(f), r = (u + 0x7fff + (u >> 16 & 1)) >> 16;
	return (bfloat)((u & 0x7fffffff) > 0x7f800000 ? u >> 16 | 0x40 : r);
}

/* Toward zero, saturating; NaN gives 0. */
static inline int64_t to_integer(float x, int64_t lo, int64_t hi)
{
	return x != x ? 0 : x <= (float)lo ? lo : x >= (float)hi ? hi : (int64_t)x;
}
static inline int64_t clamp_integer(int64_t x, int64_t lo, int64_t hi)
{
	return x < lo ? lo : x > hi ? hi : x;
}

#define EACH for (int i = 0; i < n; i++)
/* Elements with a stride: once with the constant 1, for vector code. */
#define STRIDED(expr)                                     \
	do {                                              \
		if (s == 1) {                             \
			INDEPENDENT                       \
			for (int i = 0; i < n; i++) {     \
				const int64_t at = i;     \
				expr;                     \
			}                                 \
		} else {                                  \
			for (int i = 0; i < n; i++) {     \
				const int64_t at = i * s; \
				expr;                     \
			}                                 \
		}                                         \
	} while (0)

/* clang-format off */
static void load_floats(float *d, const void *src, k_type type, int64_t s, int n)
{
	switch (type) {
	case K_F16:
		if (s == 1) {
			widen_f16(d, src, n);
		} else {
			half h[EW_BLOCK];
			for (int i = 0; i < n; i++)
				h[i] = ((const half *)src)[i * s];
			widen_f16(d, h, n);
		}
		break;
	case K_F32: STRIDED(d[i] = ((const float *)src)[at]); break;
	case K_BF16: STRIDED(d[i] = widen_bf16(((const bfloat *)src)[at])); break;
	case K_I8: STRIDED(d[i] = (float)((const int8_t *)src)[at]); break;
	case K_U8: STRIDED(d[i] = (float)((const uint8_t *)src)[at]); break;
	case K_I16: STRIDED(d[i] = (float)((const int16_t *)src)[at]); break;
	case K_U16: STRIDED(d[i] = (float)((const uint16_t *)src)[at]); break;
	case K_I32: STRIDED(d[i] = (float)((const int32_t *)src)[at]); break;
	case K_U32: STRIDED(d[i] = (float)((const uint32_t *)src)[at]); break;
	case K_BOOL: STRIDED(d[i] = ((const uint8_t *)src)[at] ? 1.0f : 0.0f); break;
	case K_TYPE_COUNT: break;
	}
}

static void store_floats(void *dst, k_type type, int64_t s, const float *x, int n)
{
	switch (type) {
	case K_F16:
		if (s == 1) {
			narrow_f16(dst, x, n);
		} else {
			half h[EW_BLOCK];
			narrow_f16(h, x, n);
			for (int i = 0; i < n; i++)
				((half *)dst)[i * s] = h[i];
		}
		break;
	case K_F32: STRIDED(((float *)dst)[at] = x[i]); break;
	case K_BF16: STRIDED(((bfloat *)dst)[at] = narrow_bf16(x[i])); break;
	case K_I8: STRIDED(((int8_t *)dst)[at] = (int8_t)to_integer(x[i], INT8_MIN, INT8_MAX)); break;
	case K_U8: STRIDED(((uint8_t *)dst)[at] = (uint8_t)to_integer(x[i], 0, UINT8_MAX)); break;
	case K_I16: STRIDED(((int16_t *)dst)[at] = (int16_t)to_integer(x[i], INT16_MIN, INT16_MAX)); break;
	case K_U16: STRIDED(((uint16_t *)dst)[at] = (uint16_t)to_integer(x[i], 0, UINT16_MAX)); break;
	case K_I32: STRIDED(((int32_t *)dst)[at] = (int32_t)to_integer(x[i], INT32_MIN, INT32_MAX)); break;
	case K_U32: STRIDED(((uint32_t *)dst)[at] = (uint32_t)to_integer(x[i], 0, UINT32_MAX)); break;
	case K_BOOL: STRIDED(((uint8_t *)dst)[at] = x[i] != 0); break;
	case K_TYPE_COUNT: break;
	}
}

/* The same for integer programs: registers hold int32. */
static void load_ints(int32_t *d, const void *src, k_type type, int64_t s, int n)
{
	switch (type) {
	case K_I8: STRIDED(d[i] = ((const int8_t *)src)[at]); break;
	case K_U8: STRIDED(d[i] = ((const uint8_t *)src)[at]); break;
	case K_I16: STRIDED(d[i] = ((const int16_t *)src)[at]); break;
	case K_U16: STRIDED(d[i] = ((const uint16_t *)src)[at]); break;
	case K_I32: case K_U32: STRIDED(d[i] = ((const int32_t *)src)[at]); break;
	case K_BOOL: STRIDED(d[i] = ((const uint8_t *)src)[at] != 0); break;
	case K_F16: case K_F32: case K_BF16: {
		float f[EW_BLOCK];
		load_floats(f, src, type, s, n);
		EACH d[i] = (int32_t)to_integer(f[i], INT32_MIN, INT32_MAX);
		break;
	}
	case K_TYPE_COUNT: break;
	}
}

static void store_ints(void *dst, k_type type, int64_t s, const int32_t *x, int n)
{
	switch (type) {
	case K_I8: STRIDED(((int8_t *)dst)[at] = (int8_t)clamp_integer(x[i], INT8_MIN, INT8_MAX)); break;
	case K_U8: STRIDED(((uint8_t *)dst)[at] = (uint8_t)clamp_integer(x[i], 0, UINT8_MAX)); break;
	case K_I16: STRIDED(((int16_t *)dst)[at] = (int16_t)clamp_integer(x[i], INT16_MIN, INT16_MAX)); break;
	case K_U16: STRIDED(((uint16_t *)dst)[at] = (uint16_t)clamp_integer(x[i], 0, UINT16_MAX)); break;
	case K_I32: case K_U32: STRIDED(((int32_t *)dst)[at] = x[i]); break;
	case K_BOOL: STRIDED(((uint8_t *)dst)[at] = x[i] != 0); break;
	case K_F16: case K_F32: case K_BF16: {
		float f[EW_BLOCK];
		EACH f[i] = (float)x[i];
		store_floats(dst, type, s, f, n);
		break;
	}
	case K_TYPE_COUNT: break;
	}
}

/* clang-format on */

/* ---- Operands --------------------------------------------------------------------- */

/* dst[n][m] = src[m][n]; both small and in the first-level cache */
static void transpose_words(uint32_t *restrict dst, const uint32_t *restrict src, int m, int n)
{
#ifdef LOOPS_AVX512
	if (m % 16 == 0 && n % 16 == 0) {
		for (int j = 0; j < m; j += 16)
			for (int i = 0; i < n; i += 16) {
				__m512i r[16];
				UNROLL
				for (int l = 0; l < 16; l++)
					r[l] = _mm512_loadu_si512(src + (j + l) * n + i);
				turn16(r);
				UNROLL
				for (int l = 0; l < 16; l++)
					_mm512_storeu_si512(dst + (i + l) * m + j, r[l]);
			}
		return;
	}
#elif defined(LOOPS_NEON)
	if (m % 4 == 0 && n % 4 == 0) {
		for (int j = 0; j < m; j += 4)
			for (int i = 0; i < n; i += 4) {
				float32x4_t r[4];
				UNROLL
				for (int l = 0; l < 4; l++)
					r[l] = vreinterpretq_f32_u32(vld1q_u32(src + (j + l) * n + i));
				turn4(r);
				UNROLL
				for (int l = 0; l < 4; l++)
					vst1q_u32(dst + (i + l) * m + j, vreinterpretq_u32_f32(r[l]));
			}
		return;
	}
#endif
	for (int i = 0; i < n; i++)
		for (int j = 0; j < m; j++)
			dst[i * m + j] = src[j * n + i];
}

static void load_operand(void *reg, const ew_operand *o, const ew_tile *t, int index, bool integer)
{
	const int64_t si = t->si[index], sj = t->sj[index];
	const int ni = t->ni, nj = t->nj, size = (int)k_type_size(o->type);
	const char *base = (const char *)o->data + t->offset[index] * size;
	uint32_t *r = reg;
	if (sj == 0) { /* one element per row */
		uint32_t v[EW_BLOCK];
		int rows = si == 0 ? 1 : ni;
		if (integer)
			load_ints((int32_t *)v, base, o->type, si, rows);
		else
			load_floats((float *)v, base, o->type, si, rows);
		for (int i = 0; i < ni; i++) {
			uint32_t x = v[si == 0 ? 0 : i];
			for (int j = 0; j < nj; j++)
				r[i * nj + j] = x;
		}
		return;
	}
	uint32_t across[EW_BLOCK];
	bool turned = sj != 1 && si == 1 && ni > 1;
	int lines = turned ? nj : ni, length = turned ? ni : nj;
	int64_t step = turned ? sj : si, stride = turned ? 1 : sj;
	uint32_t *to = turned ? across : r;
	for (int i = 0; i < lines; i++) {
		if (i > 0 && step == 0) {
			memcpy(to + i * length, to, (size_t)length * 4);
			continue;
		}
		const char *from = base + i * step * size;
		if (integer)
			load_ints((int32_t *)to + i * length, from, o->type, stride, length);
		else
			load_floats((float *)to + i * length, from, o->type, stride, length);
	}
	if (turned)
		transpose_words(r, across, nj, ni);
}

static void store_operand(const void *reg, const ew_operand *o, const ew_tile *t, int index, bool integer)
{
	const int64_t si = t->si[index], sj = t->sj[index];
	const int ni = t->ni, nj = t->nj, size = (int)k_type_size(o->type);
	char *base = (char *)o->data + t->offset[index] * size;
	const uint32_t *from = reg;
	uint32_t across[EW_BLOCK];
	bool turned = sj != 1 && si == 1 && ni > 1;
	int lines = turned ? nj : ni, length = turned ? ni : nj;
	int64_t step = turned ? sj : si, stride = turned ? 1 : sj;
	if (turned) {
		transpose_words(across, from, ni, nj);
		from = across;
	} else if (sj == 1 && si == nj) {
		lines = 1; /* rows follow one another */
		length = ni * nj;
	}
	for (int i = 0; i < lines; i++) {
		if (integer)
			store_ints(base + i * step * size, o->type, stride,
				   (const int32_t *)from + i * length, length);
		else
			store_floats(base + i * step * size, o->type, stride,
				     (const float *)from + i * length, length);
	}
}

/* ---- Instructions ----------------------------------------------------------------- */

#define LOOP(expr)                          \
	do {                                \
		INDEPENDENT                 \
		for (int i = 0; i < n; i++) \
			d[i] = (expr);      \
	} while (0)

/* The same with a form of its own for vectors of x16. */
#ifdef LOOPS_AVX512
#define LOOP_OF(vector, expr)                                      \
	do {                                                       \
		for (int i = 0; i < n; i += 16) {                  \
			const __m512 x16 = _mm512_loadu_ps(a + i); \
			_mm512_storeu_ps(d + i, vector);           \
		}                                                  \
	} while (0)
#else
#define LOOP_OF(vector, expr) LOOP(expr)
#endif

/* Arguments beyond TRIG_LIMIT, in double; rare, so one by one. */
static void trig_large(float *d, const float *a, int n, double (*fn)(double))
{
	for (int i = 0; i < n; i++)
		if (fabsf(a[i]) >= TRIG_LIMIT && fabsf(a[i]) < INFINITY)
			d[i] = (float)fn((double)a[i]);
}
static bool any_large(const float *a, int n)
{
	int large = 0;
	for (int i = 0; i < n; i++)
		large |= fabsf(a[i]) >= TRIG_LIMIT;
	return large;
}

/* Like Python's %: the result has the sign of b. */
static float modulo_f(float a, float b)
{
	float r = fmodf(a, b);
	return r == 0 ? copysignf(0, b) : (r < 0) != (b < 0) ? r + b : r;
}

/* NaN on either side gives NaN. */
static inline float max_f(float a, float b) { return pick((a > b) | (a != a), a, b); }
static inline float min_f(float a, float b) { return pick((a < b) | (a != a), a, b); }

/* See EW_OP_LIST; operands as large as fp16's, or a sum of few of them. */
static inline float add_aligned(float a, float b)
{
	const uint32_t ea = float_bits(a) >> 23 & 255, eb = float_bits(b) >> 23 & 255,
		       least = 27; /* no overflow */
	const uint32_t most = MAX(ea, eb), e = MAX(most, least);
	const float units = bits_float((265 - e) << 23),
		    unit = bits_float((e - 11) << 23); /* 2^(11-E), 2^(E-11) */
	return (truncf(a * units) + truncf(b * units)) * unit;
}

/* clang-format off */
static void step_floats(const ew_instr *x, float *d, const float *a, const float *b, const float *c, int n)
{
	const float imm = x->imm, imm2 = x->imm2;
	switch ((ew_op)x->op) {
	case EW_IMM: LOOP(imm); break;
	case EW_ADD: LOOP(a[i] + b[i]); break;
	case EW_SUB: LOOP(a[i] - b[i]); break;
	case EW_MUL: LOOP(a[i] * b[i]); break;
	case EW_DIV: LOOP(a[i] / b[i]); break;
	case EW_FLOOR_DIV: LOOP(floorf(a[i] / b[i])); break;
	case EW_MOD: LOOP(modulo_f(a[i], b[i])); break;
	case EW_POW: LOOP(pow_f(a[i], b[i])); break;
	case EW_ADD_ALIGNED: LOOP(add_aligned(a[i], b[i])); break;
	case EW_MAX: LOOP(max_f(a[i], b[i])); break;
	case EW_MIN: LOOP(min_f(a[i], b[i])); break;
	case EW_EQ: LOOP(pick(a[i] == b[i], 1.0f, 0.0f)); break;
	case EW_NE: LOOP(pick(a[i] != b[i], 1.0f, 0.0f)); break;
	case EW_LT: LOOP(pick(a[i] < b[i], 1.0f, 0.0f)); break;
	case EW_LE: LOOP(pick(a[i] <= b[i], 1.0f, 0.0f)); break;
	case EW_GT: LOOP(pick(a[i] > b[i], 1.0f, 0.0f)); break;
	case EW_GE: LOOP(pick(a[i] >= b[i], 1.0f, 0.0f)); break;
	case EW_SELECT: LOOP(pick(a[i] != 0, b[i], c[i])); break;
	case EW_MOV: LOOP(a[i]); break;
	case EW_ABS: LOOP(fabsf(a[i])); break;
	case EW_NEG: LOOP(-a[i]); break;
	case EW_SIGN: LOOP(pick(a[i] != a[i], a[i], pick(a[i] > 0, 1.0f, pick(a[i] < 0, -1.0f, 0.0f)))); break;
	case EW_SQUARE: LOOP(a[i] * a[i]); break;
	case EW_SQRT: LOOP(sqrtf(a[i])); break;
	case EW_RSQRT: LOOP(1 / sqrtf(a[i] + imm)); break;
	case EW_INV: LOOP(1 / (a[i] + imm)); break;
	case EW_EXP: LOOP_OF(exp16(x16), exp_f(a[i])); break;
	case EW_EXP2: LOOP(exp2_f(a[i])); break;
	case EW_LOG: LOOP(log_f(a[i] + imm)); break;
	case EW_SIN:
	case EW_COS: {
		float kept[EW_BLOCK]; /* d may be a */
		bool large = any_large(a, n);
		if (large)
			memcpy(kept, a, sizeof *kept * (size_t)n);
		if (x->op == EW_SIN)
			LOOP(sin_f(a[i]));
		else
			LOOP(cos_f(a[i]));
		if (large)
			trig_large(d, kept, n, x->op == EW_SIN ? sin : cos);
		break;
	}
	case EW_ERF: LOOP(erf_f(a[i])); break;
	case EW_FLOOR: LOOP(floorf(a[i])); break;
	case EW_CEIL: LOOP(ceilf(a[i])); break;
	case EW_ROUND:
		if (x->round16 == EW_AWAY) /* the largest below 1/2: what it lifts to an integer is one */
			LOOP(truncf(a[i] + copysignf(0x1.fffffep-2f, a[i])));
		else
			LOOP(rintf(a[i]));
		break;
	case EW_TRUNC: LOOP(truncf(a[i])); break;
	case EW_RELU: LOOP(pick(a[i] < 0, 0.0f, a[i])); break;
	case EW_LEAKY_RELU: LOOP(pick(a[i] < 0, imm * a[i], a[i])); break;
	case EW_ELU: LOOP(pick(a[i] < 0, imm * expm1_f(a[i]), a[i])); break;
	case EW_CLIP: LOOP(pick(a[i] < imm, imm, pick(a[i] > imm2, imm2, a[i]))); break;
	case EW_SIGMOID: LOOP_OF(sigmoid16(x16), sigmoid_f(a[i])); break;
	case EW_TANH: LOOP(tanh_f(a[i])); break;
	case EW_SILU: LOOP_OF(_mm512_mul_ps(x16, sigmoid16(x16)), a[i] * sigmoid_f(a[i])); break;
	case EW_GELU: LOOP(gelu_f(a[i])); break;
	case EW_GELU_TANH: LOOP(gelu_tanh_f(a[i])); break;
	case EW_GELU_SIGMOID: LOOP(a[i] * sigmoid_f(1.702f * a[i])); break;
	case EW_SOFTPLUS: LOOP(pick(a[i] < 0, 0.0f, a[i]) + log1p_f(exp_down(-fabsf(a[i])))); break;
	case EW_SOFTSIGN: LOOP(a[i] / (1 + fabsf(a[i]))); break;
	case EW_LOAD: case EW_STORE: case EW_OP_COUNT: break;
	}
}

/* clang-format on */

/* Two's complement wraps; division by zero gives 0, as there is no better int. */
static inline int32_t floor_div_i(int32_t a, int32_t b)
{
	if (b == 0)
		return 0;
	int64_t q = (int64_t)a / b;
	return (int32_t)(q - ((int64_t)a % b != 0 && (a < 0) != (b < 0)));
}
static inline int32_t modulo_i(int32_t a, int32_t b)
{
	return b == 0 ? 0 : (int32_t)((int64_t)a - (int64_t)floor_div_i(a, b) * b);
}

/* clang-format off */
static void step_ints(const ew_instr *x, int32_t *d, const int32_t *a, const int32_t *b, const int32_t *c, int n)
{
	const int32_t imm = (int32_t)to_integer(x->imm, INT32_MIN, INT32_MAX);
#define U(v) ((uint32_t)(v))
	switch ((ew_op)x->op) {
	case EW_IMM: LOOP(imm); break;
	case EW_ADD: LOOP((int32_t)(U(a[i]) + U(b[i]))); break;
	case EW_SUB: LOOP((int32_t)(U(a[i]) - U(b[i]))); break;
	case EW_MUL: LOOP((int32_t)(U(a[i]) * U(b[i]))); break;
	case EW_DIV: LOOP(b[i] ? (int32_t)((int64_t)a[i] / b[i]) : 0); break;
	case EW_FLOOR_DIV: LOOP(floor_div_i(a[i], b[i])); break;
	case EW_MOD: LOOP(modulo_i(a[i], b[i])); break;
	case EW_MAX: LOOP(MAX(a[i], b[i])); break;
	case EW_MIN: LOOP(MIN(a[i], b[i])); break;
	case EW_EQ: LOOP(a[i] == b[i]); break;
	case EW_NE: LOOP(a[i] != b[i]); break;
	case EW_LT: LOOP(a[i] < b[i]); break;
	case EW_LE: LOOP(a[i] <= b[i]); break;
	case EW_GT: LOOP(a[i] > b[i]); break;
	case EW_GE: LOOP(a[i] >= b[i]); break;
	case EW_SELECT: LOOP(a[i] ? b[i] : c[i]); break;
	case EW_ABS: LOOP(a[i] < 0 ? (int32_t)(0 - U(a[i])) : a[i]); break;
	case EW_NEG: LOOP((int32_t)(0 - U(a[i]))); break;
	case EW_SIGN: LOOP((a[i] > 0) - (a[i] < 0)); break;
	case EW_SQUARE: LOOP((int32_t)(U(a[i]) * U(a[i]))); break;
	case EW_RELU: LOOP(MAX(a[i], 0)); break;
	case EW_CLIP: {
		int32_t hi = (int32_t)to_integer(x->imm2, INT32_MIN, INT32_MAX);
		LOOP(a[i] < imm ? imm : a[i] > hi ? hi : a[i]);
		break;
	}
	default: LOOP(a[i]); break; /* MOV; the rest is the identity on integers or not asked for */
	}
#undef U
}

/* clang-format on */

static void round16(float *d, int n)
{
	half h[EW_BLOCK];
	narrow_f16(h, d, n);
	widen_f16(d, h, n);
}

/* The exact sum cut off after 24 bits: whether fp32's nearest is beyond it says the rounding error (Knuth's
 * TwoSum), which has the other sign then. */
static inline float sum_toward_zero(float a, float b)
{
	float s = a + b, t = s - a, error = (a - (s - t)) + (b - t);
	return bits_float(float_bits(s) - (uint32_t)(error * s < 0));
}

/* ew_flag as numbers that a loop applies without asking: an operand's and a result's NaN are replaced or
 * not; adding +0 makes -0 +0, adding -0 changes nothing. */
typedef struct ew_rules {
	int nan_inf, nan_zero;
	float zero;
} ew_rules;
static inline ew_rules rules_of(const ew_instr *x)
{
	return (ew_rules){.nan_inf = (x->flags & EW_NAN_INF) != 0,
			  .nan_zero = (x->flags & EW_NAN_ZERO) != 0,
			  .zero = x->flags & EW_ZERO_PLUS ? 0.0f : -0.0f};
}
#define TAKE(v) (pick(((v) != (v)) & f.nan_inf, INFINITY, (v)) + f.zero)
static inline float give(float y, ew_rules f) { return pick((y != y) & f.nan_zero, 0.0f, y) + f.zero; }

/* Sums and products of fp16 values, exact until they are rounded, with their flags in one go. */
static void step_away(const ew_instr *x, float *d, const float *a, const float *b, int n)
{
	const ew_rules f = rules_of(x);
	switch ((ew_op)x->op) {
	case EW_ADD: LOOP(give(away(sum_toward_zero(TAKE(a[i]), TAKE(b[i]))), f)); break;
	case EW_SUB: LOOP(give(away(sum_toward_zero(TAKE(a[i]), -TAKE(b[i]))), f)); break;
	default: LOOP(give(away(TAKE(a[i]) * TAKE(b[i])), f)); break; /* MUL */
	}
}

#include "kernel/table_impl.h"

/* What k_counts calls vanished, by instruction: a result of 0 from finite operands, if ... */
enum { VANISH_NEVER, VANISH_ALWAYS, VANISH_NONZERO, VANISH_POSITIVE }; /* ... all are not 0, or > 0 */
static int vanishes(ew_op op)
{
	switch (op) {
	case EW_MUL:
	case EW_DIV:
	case EW_MOV:
	case EW_SQUARE:
	case EW_INV:
	case EW_SIN:
	case EW_ERF:
	case EW_LEAKY_RELU:
	case EW_ELU:
	case EW_TANH:
	case EW_SILU:
	case EW_GELU:
	case EW_GELU_TANH:
	case EW_GELU_SIGMOID:
	case EW_SOFTSIGN: return VANISH_NONZERO;
	case EW_POW:
	case EW_SQRT:
	case EW_RSQRT: return VANISH_POSITIVE;
	case EW_EXP:
	case EW_EXP2:
	case EW_COS:
	case EW_SIGMOID:
	case EW_SOFTPLUS: return VANISH_ALWAYS;
	default: return VANISH_NEVER;
	}
}

static void count_results(k_counts *to, const ew_instr *x, const float *d, const float *a, const float *b,
			  const float *c, int n)
{
	const int how = vanishes((ew_op)x->op), always = how == VANISH_ALWAYS, never = how == VANISH_NEVER,
		  negative = how == VANISH_NONZERO;
	const int32_t infinite = 0x7f800000;
	int32_t overflowed = 0, vanished = 0, largest = (int32_t)float_bits(to->largest);
	/* on the bits, so that these sums and the maximum are vector code */
	for (int i = 0; i < n; i++) {
		const int32_t x0 = (int32_t)float_bits(a[i]), ma = x0 & 0x7fffffff;
		const int32_t mb = (int32_t)(float_bits(b[i]) & 0x7fffffff);
		const int32_t mc = (int32_t)(float_bits(c[i]) & 0x7fffffff);
		const int32_t size = (int32_t)(float_bits(d[i]) & 0x7fffffff);
		const int32_t finite = (ma < infinite) & (mb < infinite) & (mc < infinite);
		const int32_t alive = ((x0 > 0) | (negative & (x0 < 0) & (ma != 0))) & (mb != 0);
		const int32_t seen = size < infinite ? size : 0;
		overflowed += finite & (size == infinite);
		vanished += finite & (size == 0) & (alive | always) & !never;
		largest = largest > seen ? largest : seen;
	}
	to->results += n;
	to->overflowed += overflowed;
	to->vanished += vanished;
	to->largest = bits_float((uint32_t)largest);
}

/* One instruction on n elements, rounded up to whole vectors, of which `counted` are meant. */
static void step(const ew_instr *x, ew_register *reg, int n, k_counts *counts, int counted)
{
	ew_register kept[3];
	const float *r[3] = {reg[x->a], reg[x->b], reg[x->c]};
	float *d = reg[x->dst];
	const int reads = ew_reads(x);
	const ew_rules f = rules_of(x);
	const bool sum = x->round16 == EW_AWAY && (x->op == EW_ADD || x->op == EW_SUB || x->op == EW_MUL);
	if (counts || (!sum && x->flags & (EW_NAN_INF | EW_ZERO_PLUS)))
		for (int j = 0; j < reads; j++) {
			const float *from = r[j];
			float *to = kept[j];
			INDEPENDENT
			for (int i = 0; i < n; i++)
				to[i] = TAKE(from[i]);
			r[j] = to;
		}
	if (sum) {
		step_away(x, d, r[0], r[1], n);
	} else {
		if (x->table)
			read_table(x->table, x->imm, d, r[0], n);
		else
			step_floats(x, d, r[0], r[1], r[2], n);
		if (x->round16 == EW_AWAY)
			LOOP(away(d[i]));
		else if (x->round16)
			round16(d, n);
		if (x->flags & (EW_NAN_ZERO | EW_ZERO_PLUS))
			LOOP(give(d[i], f));
	}
	if (counts && reads)
		count_results(counts, x, d, r[0], r[reads > 1], r[reads > 2 ? 2 : 0], counted);
}
#undef TAKE

/* ---- Programs --------------------------------------------------------------------- */

/* Most of a program is sums and products of fp16 values.  Where a set has vectors that convert, such an
 * operand is not loaded into its register first but read where it is, and a result that is stored next is
 * stored at once. */
#if defined(LOOPS_AVX512)
#define WIDE 16
typedef __m512 wide;
static inline wide get_floats(const float *p) { return _mm512_loadu_ps(p); }
static inline void put_floats(float *p, wide v) { _mm512_storeu_ps(p, v); }
static inline __m256i to_halves(wide v) { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
static inline wide get_halves(const half *p)
{
	return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
static inline void put_halves(half *p, wide v) { _mm256_storeu_si256((__m256i *)p, to_halves(v)); }
static inline wide round_halves(wide v) { return _mm512_cvtph_ps(to_halves(v)); }
#elif defined(LOOPS_AVX2)
#define WIDE 8
typedef __m256 wide;
static inline wide get_floats(const float *p) { return _mm256_loadu_ps(p); }
static inline void put_floats(float *p, wide v) { _mm256_storeu_ps(p, v); }
static inline __m128i to_halves(wide v) { return _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT); }
static inline wide get_halves(const half *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p)); }
static inline void put_halves(half *p, wide v) { _mm_storeu_si128((__m128i *)p, to_halves(v)); }
static inline wide round_halves(wide v) { return _mm256_cvtph_ps(to_halves(v)); }
#elif defined(LOOPS_NEON)
#define WIDE 4
typedef float32x4_t wide;
static inline wide get_floats(const float *p) { return vld1q_f32(p); }
static inline void put_floats(float *p, wide v) { vst1q_f32(p, v); }
static inline float16x4_t to_halves(wide v) { return vcvt_f16_f32(v); }
static inline wide get_halves(const half *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
static inline void put_halves(half *p, wide v) { vst1_u16(p, vreinterpret_u16_f16(to_halves(v))); }
static inline wide round_halves(wide v) { return vcvt_f32_f16(to_halves(v)); }
#endif

/* Registers during a run. */
typedef struct registers {
	ew_register *reg;
	const ew_tile *t;
	uint32_t left; /* registers whose values were left where they are, as fp16: */
	struct {
		const half *at;
		int64_t step; /* from row to row */
	} from[EW_MAX_REGS];
} registers;

static half *place_in(const ew_operand *o, const ew_tile *t, int index)
{
	return (half *)o->data + t->offset[index];
}

#ifdef WIDE
static void bring(registers *r, int i)
{
	if (r->left >> i & 1)
		widen_rows(r->reg[i], r->t->nj, r->from[i].at, r->from[i].step, r->t->ni, r->t->nj);
	r->left &= ~(1u << i);
}

/* What is written at `to` may be an operand that was left there. */
static void bring_from(registers *r, const half *to)
{
	for (uint32_t left = r->left; left; left &= left - 1) {
		const int i = __builtin_ctz(left);
		if (r->from[i].at == to)
			bring(r, i);
	}
}

typedef struct source {
	const void *at; /* halves or floats */
	int64_t step;
} source;
typedef struct target {
	float *reg; /* either may be NULL */
	half *at;
	int64_t step; /* of `at` */
	bool round;
} target;

static inline __attribute__((always_inline)) void
combine_rows(const ew_op op, const bool a16, const bool b16, source a, source b, target d, int rows, int cols)
{
	for (int i = 0; i < rows; i++)
		for (int j = 0; j < cols; j += WIDE) {
			const wide x = a16 ? get_halves((const half *)a.at + i * a.step + j)
					   : get_floats((const float *)a.at + i * a.step + j);
			const wide y = b16 ? get_halves((const half *)b.at + i * b.step + j)
					   : get_floats((const float *)b.at + i * b.step + j);
			wide v = op == EW_ADD ? x + y : op == EW_SUB ? x - y : x * y;
			if (d.round)
				v = round_halves(v);
			if (d.reg)
				put_floats(d.reg + i * cols + j, v);
			if (d.at)
				put_halves(d.at + i * d.step + j, v);
		}
}

static inline __attribute__((always_inline)) void combine_as(const ew_op op, bool a16, bool b16, source a,
							     source b, target d, int rows, int cols)
{
	if (a16 && b16)
		combine_rows(op, true, true, a, b, d, rows, cols);
	else if (a16)
		combine_rows(op, true, false, a, b, d, rows, cols);
	else if (b16)
		combine_rows(op, false, true, a, b, d, rows, cols);
	else
		combine_rows(op, false, false, a, b, d, rows, cols);
}

static bool is_combined(const ew_instr *x)
{
	return (x->op == EW_ADD || x->op == EW_SUB || x->op == EW_MUL) && !x->table && !x->flags &&
	       x->round16 != EW_AWAY;
}

static source source_of(const registers *r, int i)
{
	return r->left >> i & 1 ? (source){r->from[i].at, r->from[i].step} : (source){r->reg[i], r->t->nj};
}

/* One of these instructions; to: NULL, or fp16 memory where its result goes, and a register only if `keep`.
 */
static void run_combined(registers *r, const ew_instr *x, half *to, int64_t step, bool keep)
{
	if (to)
		bring_from(r, to);
	const bool a16 = r->left >> x->a & 1, b16 = r->left >> x->b & 1;
	const source a = source_of(r, x->a), b = source_of(r, x->b);
	const target d = {keep ? r->reg[x->dst] : NULL, to, step, x->round16 != EW_KEEP};
	int rows = r->t->ni, cols = r->t->nj;
	if ((!a16 || a.step == cols) && (!b16 || b.step == cols) && (!to || step == cols)) {
		cols *= rows;
		rows = 1;
	}
	r->left &= ~(1u << x->dst);
	if (x->op == EW_ADD)
		combine_as(EW_ADD, a16, b16, a, b, d, rows, cols);
	else if (x->op == EW_SUB)
		combine_as(EW_SUB, a16, b16, a, b, d, rows, cols);
	else
		combine_as(EW_MUL, a16, b16, a, b, d, rows, cols);
}
#else
static void bring(registers *r, int i) { (void)r, (void)i; }
static void bring_from(registers *r, const half *to) { (void)r, (void)to; }
static bool is_combined(const ew_instr *x)
{
	(void)x;
	return false;
}
static void run_combined(registers *r, const ew_instr *x, half *to, int64_t step, bool keep)
{
	(void)r, (void)x, (void)to, (void)step, (void)keep;
}
#endif

static void run(const ew_program *p, const ew_tile *t, ew_register *reg, int wanted, k_counts *counts)
{
	const int n = (t->ni * t->nj + EW_LANES - 1) & -EW_LANES;
#ifdef WIDE
	const bool whole = !p->integer && !counts && t->nj % EW_LANES == 0;
#else
	const bool whole = false;
#endif
	registers r;
	r.reg = reg;
	r.t = t;
	r.left = 0;
	for (const ew_instr *x = p->instr, *end = x + p->ninstr; x < end; x++) {
		if (x->op == EW_LOAD) {
			const ew_operand *o = &p->operand[x->a];
			if (whole && o->type == K_F16 && t->sj[x->a] == 1) {
				r.left |= 1u << x->dst;
				r.from[x->dst].at = place_in(o, t, x->a);
				r.from[x->dst].step = t->si[x->a];
				continue;
			}
			r.left &= ~(1u << x->dst);
			load_operand(reg[x->dst], o, t, x->a, p->integer);
		} else if (x->op == EW_STORE) {
			const ew_operand *o = &p->operand[x->dst];
			bring(&r, x->a);
			bring_from(&r, place_in(o, t, x->dst));
			store_operand(reg[x->a], o, t, x->dst, p->integer);
		} else if (p->integer) {
			step_ints(x, (int32_t *)reg[x->dst], (int32_t *)reg[x->a], (int32_t *)reg[x->b],
				  (int32_t *)reg[x->c], n);
		} else if (whole && is_combined(x)) {
			const ew_instr *next = x + 1;
			const bool stored = next < end && next->op == EW_STORE && next->a == x->dst &&
					    p->operand[next->dst].type == K_F16 && t->sj[next->dst] == 1;
			if (stored) {
				run_combined(&r, x, place_in(&p->operand[next->dst], t, next->dst),
					     t->si[next->dst], !next->last);
				x = next;
			} else {
				run_combined(&r, x, NULL, 0, true);
			}
		} else {
			const uint8_t read[3] = {x->a, x->b, x->c};
			for (int i = 0; r.left && i < ew_reads(x); i++)
				bring(&r, read[i]);
			r.left &= ~(1u << x->dst);
			step(x, reg, n, counts ? &counts[x - p->instr] : NULL, t->ni * t->nj);
		}
	}
	if (wanted >= 0)
		bring(&r, wanted);
}

/* ---- Reductions ------------------------------------------------------------------- */

/* a and x become one value; written out per kind so that the loops around it stay tight */
static inline float combine(float a, float x, k_reduction how)
{
	return how == K_MAX ? max_f(a, x) : how == K_MIN ? min_f(a, x) : a + x;
}
static inline int32_t combine_int(int32_t a, int32_t x, k_reduction how)
{
	return how == K_MAX ? MAX(a, x) : how == K_MIN ? MIN(a, x) : (int32_t)((uint32_t)a + (uint32_t)x);
}

/* Lanes become one value, by halves. */
static inline float fold_lanes(float *lane, k_reduction how)
{
	_Static_assert(EW_LANES == 16, "halves");
	for (int l = 0; l < 8; l++)
		lane[l] = combine(lane[l], lane[l + 8], how);
	for (int l = 0; l < 4; l++)
		lane[l] = combine(lane[l], lane[l + 4], how);
	for (int l = 0; l < 2; l++)
		lane[l] = combine(lane[l], lane[l + 2], how);
	return combine(lane[0], lane[1], how);
}

/* One row: lanes, then halves. */
static inline float fold_row(const float *x, int n, k_reduction how)
{
	float lane[EW_LANES];
	const float start = how == K_MAX ? -INFINITY : how == K_MIN ? INFINITY : 0;
	const int whole = n & -EW_LANES;
	for (int l = 0; l < EW_LANES; l++)
		lane[l] = start;
	lanes_f v = LANES(lane);
#define FOLD_LANES(from)                     \
	do {                                 \
		lanes_f w = (from);          \
		if (how == K_MAX)            \
			LANES_KEEP(v, >, w); \
		else if (how == K_MIN)       \
			LANES_KEEP(v, <, w); \
		else                         \
			v += w;              \
	} while (0)
	for (int i = 0; i < whole; i += EW_LANES)
		FOLD_LANES(LANES_CONST(x + i));
	if (whole < n) {
		memcpy(lane, x + whole, sizeof *lane * (size_t)(n - whole));
		FOLD_LANES(LANES(lane));
	}
#undef FOLD_LANES
	LANES(lane) = v;
	return fold_lanes(lane, how);
}

static inline void fold_kind(float *acc, const float *x, int ni, int nj, bool fold_i, bool fold_j,
			     k_reduction how, bool first)
{
	float part[EW_BLOCK];
	int n = fold_j ? 1 : nj;
	for (int i = 0; i < ni; i++) {
		const float *row = x + i * nj;
		float *to = part + (fold_i ? 0 : i * n);
		if (fold_j) {
			float v = fold_row(row, nj, how);
			*to = i && fold_i ? combine(*to, v, how) : v;
		} else if (i && fold_i) {
			INDEPENDENT
			for (int j = 0; j < nj; j++)
				to[j] = combine(to[j], row[j], how);
		} else {
			memcpy(to, row, sizeof *to * (size_t)nj);
		}
	}
	if (!fold_i)
		n *= ni;
	if (first) {
		memcpy(acc, part, sizeof *acc * (size_t)n);
		return;
	}
	INDEPENDENT
	for (int j = 0; j < n; j++)
		acc[j] = combine(acc[j], part[j], how);
}

static void fold_ints(int32_t *acc, const int32_t *x, int ni, int nj, bool fold_i, bool fold_j,
		      k_reduction how, bool first)
{
	/* order does not matter: the sum wraps */
	int n = fold_j ? 1 : nj;
	for (int i = 0; i < ni; i++)
		for (int j = 0; j < nj; j++) {
			int32_t *to = acc + (fold_i ? 0 : i * n) + (fold_j ? 0 : j), v = x[i * nj + j];
			if (how == K_SUM_SQUARE || how == K_L2)
				v = (int32_t)((uint32_t)v * (uint32_t)v);
			bool begin = first && (!fold_i || i == 0) && (!fold_j || j == 0);
			*to = begin ? v : combine_int(*to, v, how);
		}
}

static void fold(float *acc, const float *x, int ni, int nj, bool fold_i, bool fold_j, k_reduction how,
		 bool integer, bool first)
{
	if (integer) {
		fold_ints((int32_t *)acc, (const int32_t *)x, ni, nj, fold_i, fold_j, how, first);
		return;
	}
	float squares[EW_BLOCK];
	switch (how) {
	case K_MAX: fold_kind(acc, x, ni, nj, fold_i, fold_j, K_MAX, first); break;
	case K_MIN: fold_kind(acc, x, ni, nj, fold_i, fold_j, K_MIN, first); break;
	case K_SUM_SQUARE:
	case K_L2:
		for (int i = 0; i < ni * nj; i++)
			squares[i] = x[i] * x[i];
		x = squares; /* fall through */
	case K_SUM:
	case K_MEAN: fold_kind(acc, x, ni, nj, fold_i, fold_j, K_SUM, first); break;
	}
}

static void finish(float *acc, int n, k_reduction how, int64_t count)
{
	if (how == K_MEAN)
		EACH acc[i] /= (float)count;
	else if (how == K_L2)
		EACH acc[i] = sqrtf(acc[i]);
}
