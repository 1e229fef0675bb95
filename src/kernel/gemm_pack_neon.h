/* Packing with 128-bit vectors of arm64, for the GEMM files that have them: squares of 4 vectors x 4
 * elements. */
#ifndef KERNEL_GEMM_PACK_NEON_H
#define KERNEL_GEMM_PACK_NEON_H

#include "kernel/gemm.h"
#include "kernel/turn_neon.h"

#include <string.h>

INLINE float load1(const void *src, k_type type, int64_t at)
{
	if (type == K_F32)
		return ((const float *)src)[at];
	__fp16 x;
	memcpy(&x, (const half *)src + at, sizeof x);
	return x;
}

INLINE float32x4_t load_halves4(const half *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }

/* 4 elements with a stride, as fp32; those from n on are 0 and not touched. */
INLINE float32x4_t load4(const void *src, k_type type, int64_t at, int64_t stride, int n)
{
	if (n >= 4 && stride == 1)
		return type == K_F32 ? vld1q_f32((const float *)src + at)
				     : load_halves4((const half *)src + at);
	float32x4_t x = vdupq_n_f32(0);
	if (n > 0)
		x = vsetq_lane_f32(load1(src, type, at), x, 0);
	if (n > 1)
		x = vsetq_lane_f32(load1(src, type, at + stride), x, 1);
	if (n > 2)
		x = vsetq_lane_f32(load1(src, type, at + 2 * stride), x, 2);
	if (n > 3)
		x = vsetq_lane_f32(load1(src, type, at + 3 * stride), x, 3);
	return x;
}

/* The first n of 4 go to memory. */
INLINE void store4(float *to, float32x4_t x, int n)
{
	if (n >= 4) {
		vst1q_f32(to, x);
	} else if (n > 1) {
		vst1_f32(to, vget_low_f32(x));
		if (n > 2)
			vst1q_lane_f32(to + 2, x, 2);
	} else if (n > 0) {
		vst1q_lane_f32(to, x, 0);
	}
}

/* Elements [e, e + 4) of vectors [v, v + 4), of which n and `left` exist: one register per element. */
INLINE void load_square4(float32x4_t r[4], const void *src, k_type type, int64_t sv, int64_t se, int v, int e,
			 int n, int left)
{
	if (sv == 1 && se != 1) {
		UNROLL
		for (int i = 0; i < 4; i++)
			r[i] = i < left ? load4(src, type, v + (e + i) * se, 1, n) : vdupq_n_f32(0);
		return;
	}
	UNROLL
	for (int i = 0; i < 4; i++)
		r[i] = i < n ? load4(src, type, (v + i) * sv + e * se, se, left) : vdupq_n_f32(0);
	turn4(r);
}

/* Panel of fp32, panel[k][width]. */
INLINE void pack_f32_type(float *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
			  int k, int width)
{
	for (int v = 0; v < width; v += 4)
		for (int e = 0; e < k; e += 4) {
			float32x4_t r[4];
			load_square4(r, src, type, sv, se, v, e, count - v, k - e);
			UNROLL
			for (int i = 0; i < 4; i++)
				if (i < k - e)
					store4(panel + (int64_t)(e + i) * width + v, r[i], width - v);
		}
}

#endif
