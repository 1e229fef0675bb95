/* GEMM kernels in C alone: the reference, and what a machine without a row of its own gets. */
#include "kernel/gemm.h"

#include <string.h>

enum { MR = 4, NR = 8 };

static inline float element(const void *src, k_type type, int64_t at)
{
	return type == K_F16 ? half_to_float(((const half *)src)[at]) : ((const float *)src)[at];
}

/* panel[k][width] */
static void pack(float *panel, const void *src, k_type type, int64_t sv, int64_t se, int count, int k,
		 int width)
{
	for (int e = 0; e < k; e++) {
		for (int v = 0; v < count; v++)
			panel[e * width + v] = element(src, type, v * sv + e * se);
		for (int v = count; v < width; v++)
			panel[e * width + v] = 0;
	}
}

void pack_f32_portable_a(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count, int k)
{
	pack(panel, src, type, sv, se, count, k, MR);
}
void pack_f32_portable_b(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count, int k)
{
	pack(panel, src, type, sv, se, count, k, NR);
}

void gemm_f32_portable(int k, const void *pa, const void *pb, float *c, int64_t ldc, int m, int n, bool add)
{
	const float *a = pa, *b = pb;
	float t[MR][NR] = {{0}};
	for (int p = 0; p < k; p++, a += MR, b += NR)
		for (int i = 0; i < MR; i++)
			for (int j = 0; j < NR; j++)
				t[i][j] += a[i] * b[j];
	for (int i = 0; i < m; i++)
		for (int j = 0; j < n; j++)
			c[i * ldc + j] = add ? c[i * ldc + j] + t[i][j] : t[i][j];
}

void gemm_vector_portable(float *y, const void *a, k_type type, int64_t rs, int64_t cs, int m, int64_t k,
			  const void *x, bool add)
{
	(void)add;          /* of K_FIXED */
	enum { LANES = 8 }; /* partial sums; for vector code, and smaller errors */
	for (int i = 0; i < m; i++) {
		float lane[LANES] = {0};
		for (int64_t p = 0; p < k; p++)
			lane[p % LANES] += element(a, type, i * rs + p * cs) * ((const float *)x)[p];
		y[i] =
		    ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
	}
}
