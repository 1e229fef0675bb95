/* Two arrays of one type, element by element. */
#include "anneal/check.h"

#include "base/base.h"

#include <math.h>

/* Numbers of a floating-point type in the order of their size, both zeros at 0: magnitudes are ordered as
 * their bits are. */
static int64_t place(an_dtype t, const void *data, int64_t i)
{
	if (t == AN_FP32) {
		int32_t bits;
		memcpy(&bits, (const char *)data + i * 4, 4);
		return bits < 0 ? -(int64_t)(bits & INT32_MAX) : bits;
	}
	int16_t bits;
	memcpy(&bits, (const char *)data + i * 2, 2);
	return bits < 0 ? -(int64_t)(bits & INT16_MAX) : bits;
}

/* |a - b| in the numbers of the type. */
static uint64_t distance(an_dtype t, const void *a, const void *b, int64_t i)
{
	if (t == AN_FP16 || t == AN_BF16 || t == AN_FP32) {
		int64_t d = place(t, a, i) - place(t, b, i);
		return (uint64_t)(d < 0 ? -d : d);
	}
	return (uint64_t)fabs(an_element(t, a, i) - an_element(t, b, i));
}

void an_ulp_bin(int i, uint64_t *low, uint64_t *high)
{
	*low = i < 2 ? (uint64_t)i : (UINT64_C(1) << (i - 2)) + 1;
	*high = i == 0 ? 0 : i == AN_ULP_BINS - 1 ? UINT64_MAX : UINT64_C(1) << (i - 1);
}

static int bin_of(uint64_t ulp)
{
	int i = 0;
	for (uint64_t low, high = 0; an_ulp_bin(i, &low, &high), ulp > high;)
		i++;
	return i;
}

void an_diff(an_dtype t, const void *a, const void *b, int64_t n, an_difference *out)
{
	const size_t size = an_dtype_size(t);
	an_difference d = {.count = n, .where = -1};
	double error = 0, whole = 0;
	for (int64_t i = 0; i < n; i++) {
		const char *p = (const char *)a + (size_t)i * size, *q = (const char *)b + (size_t)i * size;
		double x = an_element(t, a, i), y = an_element(t, b, i);
		bool same = memcmp(p, q, size) == 0 || (isnan(x) && isnan(y));
		if (isfinite(x) && isfinite(y))
			whole += x * x;
		if (same) {
			d.equal++;
			d.ulp[0]++;
			continue;
		}
		if (d.where < 0)
			d.where = i;
		if (isnan(x) || isnan(y)) {
			d.nan++;
		} else if (isinf(x) || isinf(y)) {
			d.infinite++;
		} else {
			uint64_t ulp = distance(t, a, b, i);
			d.ulp[bin_of(ulp)]++;
			d.sign += ulp == 0;
			d.largest_ulp = MAX(d.largest_ulp, ulp);
			error += (x - y) * (x - y);
			if (x != y)
				d.largest = fmax(d.largest, fabs(x - y) / fmax(fabs(x), fabs(y)));
		}
	}
	d.rms = error > 0 ? sqrt(error / whole) : 0;
	*out = d;
}
