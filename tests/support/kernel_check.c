#include "support/kernel_check.h"

#include "base/random.h"

#include <math.h>

const uint32_t *check_isas(int *n)
{
	static uint32_t mask[3];
	uint32_t have = isa_detect();
	*n = 1;
	if (have & ISA_AVX2)
		mask[(*n)++] = ISA_AVX2;
	if (have & ISA_AVX512)
		mask[(*n)++] = ISA_AVX2 | ISA_AVX512;
	if (have & ISA_NEON)
		mask[(*n)++] = ISA_NEON;
	return mask;
}

static an_ctx *ctx;
static pool *pools[CHECK_POOLS];

pool *const *check_pools(void)
{
	static const int threads[CHECK_POOLS] = {1, 2, 3, 5};
	if (!ctx && an_ctx_open(NULL, &ctx) == AN_OK)
		for (int i = 1; i < CHECK_POOLS; i++)
			pools[i] = pool_start(ctx, threads[i]);
	return pools;
}

void check_pools_stop(void)
{
	for (int i = 1; i < CHECK_POOLS; i++) {
		pool_stop(pools[i]);
		pools[i] = NULL;
	}
	an_ctx_close(ctx);
	ctx = NULL;
}

double check_uniform(uint64_t seed, uint64_t i, double lo, double hi)
{
	return lo + (hi - lo) * random_uniform(seed, 0, i);
}

double check_ulp(float got, double want)
{
	if (isnan(want) || isnan(got))
		return isnan(want) && isnan(got) ? 0 : INFINITY;
	if (fabs(want) >= 0x1.ffffffp127) /* rounds to infinity */
		return isinf(got) && (got > 0) == (want > 0) ? 0 : INFINITY;
	if (isinf(got))
		return fabs(want) > 0x1.fffffcp127 ? 1 : INFINITY;
	int e;
	frexp(want, &e); /* 2^(e-1) <= |want| < 2^e */
	double ulp = want == 0 ? 0x1p-149 : ldexp(1, e - 24 < -149 ? -149 : e - 24);
	return fabs((double)got - want) / ulp;
}

bool check_same(float a, float b) { return float_bits(a) == float_bits(b) || (a != a && b != b); }

/* ---- Fixed point ------------------------------------------------------------------ */

static double fixed_value(half h)
{
	int e = h >> 10 & 31, m = h & 1023;
	double x = e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
	return h & 0x8000 ? -x : x;
}
static int fixed_exponent(half h)
{
	int e = -14;
	while (fabs(fixed_value(h)) >= ldexp(1, e + 1))
		e++;
	return e;
}

static half nearest_away(double x)
{
	if (isinf(x))
		return x > 0 ? 0x7c00 : 0xfc00;
	/* the two neighbours among all 2^15 magnitudes, by bisection */
	int lo = 0, hi = 0x7c00;
	while (hi - lo > 1) {
		int mid = (lo + hi) / 2;
		if (fixed_value((half)mid) <= fabs(x))
			lo = mid;
		else
			hi = mid;
	}
	int h = fabs(x) - fixed_value((half)lo) >= fixed_value((half)hi) - fabs(x) ? hi : lo;
	return (half)(h && x < 0 ? h | 0x8000 : h);
}

half check_fixed(const half *x, int64_t sx, const half *w, int64_t sw, int64_t k, double bias)
{
	double sum = round(bias * 65536);
	for (int64_t p = 0; p < k; p++) {
		if (fabs(sum) >= 0x1p31)
			break;
		half a = x[p * sx], b = w[p * sw];
		if (fixed_exponent(a) + fixed_exponent(b) >= -16)
			sum +=
			    round(fixed_value(a) * fixed_value(b) * 65536); /* round: half away from zero */
	}
	if (!(fabs(sum) < 0x1p31))
		return sum > 0 ? 0x7c00 : 0xfc00;
	return nearest_away(sum / 65536);
}
