/* Fixed-point contraction with 512-bit vectors. */
#include "kernel/gemm_fixed.h"

#ifdef __AVX512F__
#include "kernel/gemm_pack_avx512.h"

enum { LANES = 16, MR = 12, FEW = 4 };
typedef float vf __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));

INLINE vf splat(float x) { return (vf)_mm512_set1_ps(x); }
INLINE vi splat_int(int x) { return (vi)_mm512_set1_epi32(x); }
INLINE vi larger(vi a, vi b) { return (vi)_mm512_max_epi32((__m512i)a, (__m512i)b); }
INLINE vf load_halves(const half *p, int n) { return (vf)load_floats16(p, K_F16, 0, low_mask(n)); }
INLINE vi low_sum(vi t, vf x, vf w, vi size, vi cut)
{
	const __mmask16 kept = _mm512_cmpgt_epi32_mask((__m512i)size, (__m512i)cut);
	const __m512 magic = _mm512_castsi512_ps(_mm512_set1_epi32(0x4b400000));
	return t + (vi)_mm512_mask3_fmadd_ps((__m512)x, (__m512)w, magic, kept);
}
INLINE vi kept_only(vi y, vi size, vi cut)
{
	return (vi)_mm512_maskz_mov_epi32(_mm512_cmpgt_epi32_mask((__m512i)size, (__m512i)cut), (__m512i)y);
}

#include "kernel/gemm_fixed_impl.h"

UNCHECKED void pack_fixed_avx512_a(void *panel, const void *src, k_type type, int64_t sv, int64_t se,
				   int count, int k)
{
	(void)type; /* K_F16: the row's f16_only */
	pack_fixed(panel, src, sv, se, count, k, k, MR, true);
}
UNCHECKED void pack_fixed_avx512_b(void *panel, const void *src, k_type type, int64_t sv, int64_t se,
				   int count, int k)
{
	(void)type;
	pack_fixed(panel, src, sv, se, count, k, k, NR, false);
}
UNCHECKED void gemm_fixed_avx512(int k, const void *a, const void *b, float *c, int64_t ldc, int m, int n,
				 bool add)
{
	multiply(k, a, b, c, ldc, m, n, add);
}

UNCHECKED void pack_fixed_vector_avx512(void *panel, const void *src, k_type type, int64_t sv, int64_t se,
					int count, int k)
{
	(void)type;
	pack_fixed(panel, src, sv, se, count, k, (k + LANES - 1) / LANES * LANES, 1, true);
}
UNCHECKED void gemm_fixed_vector_avx512(float *y, const void *a, k_type type, int64_t rs, int64_t cs, int m,
					int64_t k, const void *x, bool add)
{
	(void)type;
	multiply_vector(y, a, rs, cs, m, k, x, add);
}
#endif
