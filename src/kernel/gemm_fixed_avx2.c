/* Fixed-point contraction with 256-bit vectors. */
#include "kernel/gemm_fixed.h"

#ifdef __AVX2__
#include "kernel/gemm_pack_avx2.h"

/* 4 x 2 accumulators, two vectors of B with their sizes, an element of A with its cut-off, 1.5 2^23: all of
 * the 16 registers */
enum { LANES = 8, MR = 4, FEW = 1 };
typedef float vf __attribute__((vector_size(32)));
typedef int32_t vi __attribute__((vector_size(32)));

INLINE vf splat(float x) { return (vf)_mm256_set1_ps(x); }
INLINE vi splat_int(int x) { return (vi)_mm256_set1_epi32(x); }
INLINE vi larger(vi a, vi b) { return (vi)_mm256_max_epi32((__m256i)a, (__m256i)b); }
INLINE vf load_halves(const half *p, int n) { return (vf)load8(p, K_F16, 0, 1, n); }
INLINE vi low_sum(vi t, vf x, vf w, vi size, vi cut)
{
	const __m256 magic = _mm256_castsi256_ps(_mm256_set1_epi32(0x4b400000));
	return t + (vi)_mm256_fmadd_ps((__m256)x, (__m256)((vi)w & (size > cut)), magic);
}
INLINE vi kept_only(vi y, vi size, vi cut) { return y & (size > cut); }

#include "kernel/gemm_fixed_impl.h"

UNCHECKED void pack_fixed_avx2_a(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
				 int k)
{
	(void)type; /* K_F16: the row's f16_only */
	pack_fixed(panel, src, sv, se, count, k, k, MR, true);
}
UNCHECKED void pack_fixed_avx2_b(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
				 int k)
{
	(void)type;
	pack_fixed(panel, src, sv, se, count, k, k, NR, false);
}
UNCHECKED void gemm_fixed_avx2(int k, const void *a, const void *b, float *c, int64_t ldc, int m, int n,
			       bool add)
{
	multiply(k, a, b, c, ldc, m, n, add);
}

UNCHECKED void pack_fixed_vector_avx2(void *panel, const void *src, k_type type, int64_t sv, int64_t se,
				      int count, int k)
{
	(void)type;
	pack_fixed(panel, src, sv, se, count, k, (k + LANES - 1) / LANES * LANES, 1, true);
}
UNCHECKED void gemm_fixed_vector_avx2(float *y, const void *a, k_type type, int64_t rs, int64_t cs, int m,
				      int64_t k, const void *x, bool add)
{
	(void)type;
	multiply_vector(y, a, rs, cs, m, k, x, add);
}
#endif
