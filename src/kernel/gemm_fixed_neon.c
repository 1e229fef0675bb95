/* Fixed-point contraction with the 128-bit vectors of arm64. */
#include "kernel/gemm_fixed.h"

#ifdef __aarch64__
#include "kernel/gemm_pack_neon.h"

/* 8 x 2 accumulators, two vectors of B with their sizes, an element of A with its cut-off, 1.5 2^23 and what
 * becomes of it: 26 of 32 registers */
enum { LANES = 4, MR = 8, FEW = 2 };
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));

INLINE vf splat(float x) { return (vf)vdupq_n_f32(x); }
INLINE vi splat_int(int x) { return (vi)vdupq_n_s32(x); }
INLINE vi larger(vi a, vi b) { return (vi)vmaxq_s32((int32x4_t)a, (int32x4_t)b); }
INLINE vf load_halves(const half *p, int n) { return (vf)load4(p, K_F16, 0, 1, n); }
INLINE vi low_sum(vi t, vf x, vf w, vi size, vi cut)
{
	const float32x4_t magic = vreinterpretq_f32_s32(vdupq_n_s32(0x4b400000));
	return t + (vi)vfmaq_f32(magic, (float32x4_t)x, (float32x4_t)((vi)w & (size > cut)));
}
INLINE vi kept_only(vi y, vi size, vi cut) { return y & (size > cut); }

#include "kernel/gemm_fixed_impl.h"

UNCHECKED void pack_fixed_neon_a(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
				 int k)
{
	(void)type; /* K_F16: the row's f16_only */
	pack_fixed(panel, src, sv, se, count, k, k, MR, true);
}
UNCHECKED void pack_fixed_neon_b(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
				 int k)
{
	(void)type;
	pack_fixed(panel, src, sv, se, count, k, k, NR, false);
}
UNCHECKED void gemm_fixed_neon(int k, const void *a, const void *b, float *c, int64_t ldc, int m, int n,
			       bool add)
{
	multiply(k, a, b, c, ldc, m, n, add);
}

UNCHECKED void pack_fixed_vector_neon(void *panel, const void *src, k_type type, int64_t sv, int64_t se,
				      int count, int k)
{
	(void)type;
	pack_fixed(panel, src, sv, se, count, k, (k + LANES - 1) / LANES * LANES, 1, true);
}
UNCHECKED void gemm_fixed_vector_neon(float *y, const void *a, k_type type, int64_t rs, int64_t cs, int m,
				      int64_t k, const void *x, bool add)
{
	(void)type;
	multiply_vector(y, a, rs, cs, m, k, x, add);
}
#endif
