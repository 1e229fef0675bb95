/* Packing bf16 pairs: squares of 16 vectors x 16 words, see gemm_pack_avx512.h. */
#ifndef KERNEL_GEMM_PACK_BF16_H
#define KERNEL_GEMM_PACK_BF16_H

#include "kernel/gemm_pack_avx512.h"

/* How the words of a square lie in registers: one register per vector, or one per word. */
typedef enum square_form { BY_VECTOR, BY_WORD } square_form;

/* 32 floats (x0 first) to 16 words of two bf16. */
INLINE __m512i narrow32(__m512 x0, __m512 x1) { return (__m512i)_mm512_cvtne2ps_pbh(x1, x0); }
INLINE __m512 widen_low(__m512i w)
{
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(w)), 16));
}
INLINE __m512 widen_high(__m512i w)
{
	return _mm512_castsi512_ps(
	    _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(w, 1)), 16));
}
/* Words of (x0[i], x1[i]) from words of x0's, then x1's elements. */
INLINE __m512i interleave(__m512i w)
{
	const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
					       23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
	return _mm512_permutexvar_epi16(order, w);
}

/* Bits of elements that are infinite or NaN. */
INLINE __mmask16 not_finite(__m512 x) { return _mm512_fpclass_ps_mask(x, 0x99); }

/* hi = x to the nearest bf16; with `split`, lo = the rest of x, which a bf16 holds exactly if x was
 * an fp16: hi keeps 8 of its 11 bits.  lo of infinities and NaN is 0; returns where those are. */
INLINE __mmask16 narrow_pair(__m512 x0, __m512 x1, bool split, __m512i *hi, __m512i *lo)
{
	*hi = narrow32(x0, x1);
	if (!split)
		return 0;
	__mmask16 s0 = not_finite(x0), s1 = not_finite(x1);
	*lo = narrow32(_mm512_maskz_sub_ps((__mmask16)~s0, x0, widen_low(*hi)),
		       _mm512_maskz_sub_ps((__mmask16)~s1, x1, widen_high(*hi)));
	return s0 | s1;
}

/* Vectors [v, v + 16) of which n exist, elements [e, e + 32) of which k - e exist, as words in the
 * form the source has; the caller turns them if it wants the other. */
INLINE square_form load_square(__m512i hi[16], __m512i lo[16], const void *src, k_type type, int64_t sv,
			       int64_t se, int v, int e, int n, int left, bool split, __mmask16 *special)
{
	__mmask16 s = 0;
	if (sv == 1 && se != 1) {
		const __mmask16 m = low_mask(n);
		UNROLL
		for (int w = 0; w < 16; w++) {
			__m512 x0 = _mm512_setzero_ps(), x1 = _mm512_setzero_ps();
			if (2 * w < left)
				x0 = load_floats16(src, type, v + (e + 2 * w) * se, m);
			if (2 * w + 1 < left)
				x1 = load_floats16(src, type, v + (e + 2 * w + 1) * se, m);
			s |= narrow_pair(x0, x1, split, &hi[w], &lo[w]);
			hi[w] = interleave(hi[w]);
			if (split)
				lo[w] = interleave(lo[w]);
		}
		*special |= s;
		return BY_WORD;
	}
	const __mmask16 m0 = low_mask(left), m1 = low_mask(left - 16);
	UNROLL
	for (int i = 0; i < 16; i++) {
		__m512 x0 = _mm512_setzero_ps(), x1 = _mm512_setzero_ps();
		if (i < n) {
			int64_t at = (v + i) * sv + e * se;
			if (se == 1) {
				x0 = load_floats16(src, type, at, m0);
				x1 = load_floats16(src, type, at + 16, m1);
			} else {
				x0 = gather_floats16(src, type, at, se, left);
				x1 = gather_floats16(src, type, at + 16 * se, se, left - 16);
			}
		}
		s |= narrow_pair(x0, x1, split, &hi[i], &lo[i]);
	}
	*special |= s;
	return BY_VECTOR;
}

#endif
