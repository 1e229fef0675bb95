/* Products of 8-bit integers in C alone: the reference. */
#include "kernel/gemm_int.h"

enum { MR = 4, NR = 8 };

/* panel[k][width] */
static void pack(int16_t *panel, const void *src, k_type type, int64_t sv, int64_t se, int count, int k,
		 int width)
{
	for (int e = 0; e < k; e++)
		for (int v = 0; v < width; v++) {
			int64_t at = v * sv + e * se;
			panel[e * width + v] = v >= count     ? 0
					       : type == K_U8 ? ((const uint8_t *)src)[at]
							      : ((const int8_t *)src)[at];
		}
}

void pack_int_portable_a(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count, int k)
{
	pack(panel, src, type, sv, se, count, k, MR);
}
void pack_int_portable_b(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count, int k)
{
	pack(panel, src, type, sv, se, count, k, NR);
}

/* One sum that may saturate. */
static int32_t saturating_sum(int k, const int16_t *a, const int16_t *b)
{
	int64_t sum = 0;
	for (int p = 0; p < k; p++) {
		sum += a[p * MR] * b[p * NR];
		if (sum > INT32_MAX)
			return INT32_MAX;
		if (sum <= INT32_MIN)
			return INT32_MIN;
	}
	return (int32_t)sum;
}

void gemm_int_portable(int k, const void *pa, const void *pb, float *c, int64_t ldc, int m, int n, bool add)
{
	const int16_t *a = pa, *b = pb;
	int32_t *to = (int32_t *)(void *)c; /* see gemm_kernel_fn */
	int32_t t[MR][NR] = {{0}};
	(void)add; /* all of K is here */
	/* panels do not say what they were packed of */
	if (gemm_int_saturates(K_U8, K_U8, k)) {
		for (int i = 0; i < m; i++)
			for (int j = 0; j < n; j++)
				to[i * ldc + j] = saturating_sum(k, a + i, b + j);
		return;
	}
	for (int p = 0; p < k; p++, a += MR, b += NR)
		for (int i = 0; i < MR; i++)
			for (int j = 0; j < NR; j++)
				t[i][j] += a[i] * b[j];
	for (int i = 0; i < m; i++)
		for (int j = 0; j < n; j++)
			to[i * ldc + j] = t[i][j];
}
