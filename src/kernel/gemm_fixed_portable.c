/* Fixed-point contraction in C alone, rule by rule and in integers: the reference. */
#include "kernel/gemm_fixed.h"

#include <assert.h>

enum { MR = 4, NR = 8 };

/* panel[k][width] of fp16 */
static void pack(half *panel, const half *src, int64_t sv, int64_t se, int count, int k, int width)
{
	for (int e = 0; e < k; e++)
		for (int v = 0; v < width; v++)
			panel[e * width + v] = v < count ? src[v * sv + e * se] : 0;
}

void pack_fixed_portable_a(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
			   int k)
{
	assert(type == K_F16);
	(void)type;
	pack(panel, src, sv, se, count, k, MR);
}
void pack_fixed_portable_b(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
			   int k)
{
	assert(type == K_F16);
	(void)type;
	pack(panel, src, sv, se, count, k, NR);
}

/* An operand is +-significand * 2^(exponent - 10). */
static inline int exponent(half h)
{
	int field = h >> 10 & 31;
	return field ? field - 15 : FIXED_MIN_EXP;
}
static inline int64_t units(half h) { return (h & 1023) | (h >> 10 & 31 ? 1024 : 0); }

/* x w in units of 2^-16 */
static inline int64_t product(half x, half w)
{
	int e = exponent(x) + exponent(w);
	if (e < FIXED_CUT)
		return 0;
	int64_t p = units(x) * units(w);
	int shift = 20 - FIXED_BITS - e; /* the unit of p is 2^(e - 20) */
	p = shift > 0 ? (p + (INT64_C(1) << (shift - 1))) >> shift : p << -shift;
	return (x ^ w) & 0x8000 ? -p : p;
}

void gemm_fixed_portable(int k, const void *pa, const void *pb, float *c, int64_t ldc, int m, int n, bool add)
{
	const half *a = pa, *b = pb;
	for (int i = 0; i < m; i++)
		for (int j = 0; j < n; j++) {
			float *to = &c[i * ldc + j];
			double start = add ? fixed_start(*to) : 0;
			if (isinf(start)) {
				*to = (float)start;
				continue;
			}
			const int64_t limit = (int64_t)FIXED_LIMIT;
			int64_t sum = (int64_t)start;
			int p = 0;
			while (p < k && sum < limit && sum > -limit) {
				sum += product(a[p * MR + i], b[p * NR + j]);
				p++;
			}
			bool over = sum >= limit || sum <= -limit;
			*to = fixed_result(!over ? (double)sum : sum > 0 ? INFINITY : -INFINITY);
		}
}
