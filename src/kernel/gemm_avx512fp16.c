/* GEMM on fp16 multiply-adds: twice the rate of fp32.
 *
 * fp16 holds 11 bits and ends at 65504, so sums of CHUNK products only are kept in it; then they are added to
 * fp32 sums.  And every row of A and column of B is scaled by a power of two that brings the largest of
 * its elements in a block of K into [2^4, 2^5): a sum of CHUNK products stays below 2^15 and cannot overflow.
 * Sums are scaled back in fp32.  Infinities and NaN pass through as they are.
 *
 * The error.  A product is rounded at most CHUNK times in a chunk, with u = 2^-11, and each rounding of a
 * subnormal loses 2^-25 at most, which is 2^-33 of max|a| max|b| after scaling back; scaling down loses 2^-25
 * of elements below 2^-14, which is 2^-29 of the row's largest.  Together
 *   |error| <= gamma_CHUNK sum |a b| + K 2^-28 (1 + 2^-4) max|a| max|b| + what fp32 sums lose,
 * where maxima are those of the row and the column.  On sums of random signs the variance of a rounding is at
 * most u^2 / 3 of the sum's square: the relative error has an rms below u sqrt(CHUNK / 6), 1.1e-3; measured
 * on Gaussian operands 8.5e-4, a third of what operands rounded to bf16 give.
 *
 * CHUNK is where rate and error balance: in registers and the first-level cache 8, 16, 32, 64 products reach
 * 54, 67, 81 and 88% of the peak of fp16 multiply-adds, at an error in proportion to their square root. */
#include "kernel/gemm.h"

#ifdef __AVX512FP16__
#include "kernel/gemm_pack_avx512.h"

enum { MR = 12, NR = 64, CHUNK = 32, TOP = 4, HEAD = NR * 4 };

/* A panel starts with the fp32 factors that undo the scaling of its vectors, HEAD bytes.  B follows as
 * [k][NR] fp16, A as [k][MR] words that hold an element twice: a word is broadcast by a load alone, half of
 * one would take an instruction from the multiply-adds. */

/* ---- Packing ---------------------------------------------------------------------- */

INLINE __mmask32 low_mask32(int n) { return n >= 32 ? 0xffffffff : n <= 0 ? 0 : (UINT32_C(1) << n) - 1; }

/* 32 elements of a vector along k, those from n on are 0. */
INLINE __m512i load_along(const half *src, int64_t at, int64_t stride, int n)
{
	if (stride == 1)
		return _mm512_maskz_loadu_epi16(low_mask32(n), src + at);
	half t[32] = {0};
	for (int i = 0; i < n && i < 32; i++)
		t[i] = src[at + i * stride];
	return _mm512_loadu_si512(t);
}

/* Low halves of 16 words, then high halves. */
INLINE __m512i separate(__m512i w)
{
	const __m512i order = _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1, 30,
					       28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
	return _mm512_permutexvar_epi16(order, w);
}

/* The larger magnitude, by lane; infinities and NaN do not count. */
INLINE __m512i grow(__m512i largest, __m512i x)
{
	x = _mm512_and_si512(x, _mm512_set1_epi16(0x7fff));
	return _mm512_mask_max_epu16(largest, _mm512_cmplt_epu16_mask(x, _mm512_set1_epi16(0x7c00)), largest,
				     x);
}

/* Exponents to add: TOP less that of the largest; 0 for a vector of zeros. */
INLINE __m512h shift_of(__m512i largest)
{
	__m512h e = _mm512_getexp_ph((__m512h)largest);
	__mmask32 some = _mm512_test_epi16_mask(largest, largest);
	return _mm512_maskz_sub_ph(some, (__m512h)_mm512_set1_epi16(0x4400), e); /* 4.0 */
}

INLINE void scale_rows(char *to, int lines, __m512h shift, int stride, __mmask32 mask)
{
	for (int e = 0; e < lines; e++, to += stride) {
		__m512h x = (__m512h)_mm512_maskz_loadu_epi16(mask, to);
		_mm512_mask_storeu_epi16(to, mask, (__m512i)_mm512_scalef_ph(x, shift));
	}
}

/* 16 factors from 16 shifts. */
INLINE void store_factors(float *to, __m256h shift, __mmask16 mask)
{
	__m512 s = _mm512_cvtxph_ps(shift);
	_mm512_mask_storeu_ps(to, mask,
			      _mm512_scalef_ps(_mm512_set1_ps(1), _mm512_sub_ps(_mm512_setzero_ps(), s)));
}

UNCHECKED void pack_f16_avx512_a(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
				 int k)
{
	/* bytes within 128 bits: low halves of words twice, high halves twice */
	const __m512i first = _mm512_broadcast_i32x4(
			  _mm_set_epi32(0x0d0c0d0c, 0x09080908, 0x05040504, 0x01000100)),
		      second = _mm512_broadcast_i32x4(
			  _mm_set_epi32(0x0f0e0f0e, 0x0b0a0b0a, 0x07060706, 0x03020302));
	const __mmask16 wide = low_mask(MR), have = low_mask(count);
	const half *x = src;
	char *to = (char *)panel + HEAD;
	__m512i largest = _mm512_setzero_si512();
	(void)type; /* K_F16: the row's f16_only */
	if (sv == 1 && se != 1) {
		for (int e = 0; e < k; e++) {
			__m512i w = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(have, x + e * se));
			w = _mm512_or_si512(w, _mm512_slli_epi32(w, 16));
			largest = grow(largest, w);
			_mm512_mask_storeu_epi32(to + e * MR * 4, wide, w);
		}
	} else {
		for (int e = 0; e < k; e += 32) {
			__m512i r[16];
			UNROLL
			for (int i = 0; i < 16; i++)
				r[i] = i < count ? load_along(x, i * sv + e * se, se, k - e)
						 : _mm512_setzero_si512();
			turn16(r);
			UNROLL
			for (int w = 0; w < 16; w++) {
				if (e + 2 * w >= k)
					break;
				largest = grow(largest, r[w]);
				_mm512_mask_storeu_epi32(to + (e + 2 * w) * MR * 4, wide,
							 _mm512_shuffle_epi8(r[w], first));
				if (e + 2 * w + 1 < k)
					_mm512_mask_storeu_epi32(to + (e + 2 * w + 1) * MR * 4, wide,
								 _mm512_shuffle_epi8(r[w], second));
			}
		}
		/* lanes hold even and odd elements */
		largest = _mm512_max_epu16(largest, _mm512_rol_epi32(largest, 16));
	}
	const __m512h shift = shift_of(largest);
	scale_rows(to, k, shift, MR * 4, low_mask32(2 * MR));
	store_factors(panel, (__m256h)_mm512_cvtepi32_epi16((__m512i)shift), wide);
}

UNCHECKED void pack_f16_avx512_b(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
				 int k)
{
	(void)type;
	for (int v = 0; v < NR; v += 32) {
		const half *x = (const half *)src + v * sv;
		half *to = (half *)(void *)((char *)panel + HEAD) + v;
		const int n = count - v;
		__m512i largest = _mm512_setzero_si512();
		if (n <= 0) {
			for (int e = 0; e < k; e++)
				_mm512_storeu_si512(to + e * NR, largest);
		} else if (sv == 1) {
			const __mmask32 have = low_mask32(n);
			for (int e = 0; e < k; e++) {
				__m512i w = _mm512_maskz_loadu_epi16(have, x + e * se);
				largest = grow(largest, w);
				_mm512_storeu_si512(to + e * NR, w);
			}
		} else {
			/* even and odd elements of 32 vectors from two times 16 */
			__m512i low = _mm512_setzero_si512(), high = low;
			for (int e = 0; e < k; e += 32) {
				__m512i r[16], s[16];
				UNROLL
				for (int i = 0; i < 16; i++) {
					r[i] = i < n ? load_along(x, i * sv + e * se, se, k - e)
						     : _mm512_setzero_si512();
					s[i] = i + 16 < n ? load_along(x, (i + 16) * sv + e * se, se, k - e)
							  : _mm512_setzero_si512();
				}
				turn16(r);
				turn16(s);
				UNROLL
				for (int w = 0; w < 16; w++) {
					if (e + 2 * w >= k)
						break;
					low = grow(low, r[w]);
					high = grow(high, s[w]);
					half *at = to + (e + 2 * w) * NR;
					__m512i x0 = _mm512_mask_blend_epi16(0xaaaaaaaa, r[w],
									     _mm512_slli_epi32(s[w], 16)),
						x1 = _mm512_mask_blend_epi16(
						    0xaaaaaaaa, _mm512_srli_epi32(r[w], 16), s[w]);
					_mm512_storeu_si512(at, separate(x0));
					if (e + 2 * w + 1 < k)
						_mm512_storeu_si512(at + NR, separate(x1));
				}
			}
			low = _mm512_max_epu16(low, _mm512_rol_epi32(low, 16));
			high = _mm512_max_epu16(high, _mm512_rol_epi32(high, 16));
			largest = separate(_mm512_mask_blend_epi16(0xaaaaaaaa, low, high));
		}
		const __m512h shift = shift_of(largest);
		if (n > 0)
			scale_rows((char *)to, k, shift, NR * 2, 0xffffffff);
		store_factors((float *)panel + v, _mm512_castph512_ph256(shift), 0xffff);
		store_factors((float *)panel + v + 16, (__m256h)_mm512_extracti64x4_epi64((__m512i)shift, 1),
			      0xffff);
	}
}

/* ---- Kernel ----------------------------------------------------------------------- */

INLINE __m512h twice(const uint32_t *word) { return (__m512h)_mm512_set1_epi32((int)*word); }

INLINE void tile(const int rows, const int vectors, int k, const char *pa, const char *pb, float *c,
		 int64_t ldc, int m, int n, bool add)
{
	_Alignas(64) float sum[MR][NR];
	_Alignas(64) half part[MR][NR];
	const uint32_t *a = (const void *)(pa + HEAD);
	const half *b = (const void *)(pb + HEAD);
	for (int p = 0; p < k; p += CHUNK) {
		__m512h t[MR][2];
		const int some = MIN(k - p, CHUNK);
		for (int q = 0; q < some; q++, a += MR, b += NR) {
			__m512h bv[2];
			UNROLL
			for (int v = 0; v < vectors; v++)
				bv[v] = _mm512_loadu_ph(b + 32 * v);
			UNROLL
			for (int i = 0; i < rows; i++) {
				__m512h x = twice(a + i);
				UNROLL
				for (int v = 0; v < vectors; v++)
					t[i][v] =
					    q ? _mm512_fmadd_ph(x, bv[v], t[i][v]) : _mm512_mul_ph(x, bv[v]);
			}
		}
		/* halves of a register are converted from memory, where that takes no shuffle */
		UNROLL
		for (int i = 0; i < rows; i++) {
			UNROLL
			for (int v = 0; v < vectors; v++)
				_mm512_store_ph(part[i] + 32 * v, t[i][v]);
		}
		__asm__ volatile("" : : : "memory");
		UNROLL
		for (int i = 0; i < rows; i++) {
			UNROLL
			for (int v = 0; v < 2 * vectors; v++) {
				__m512 x = _mm512_cvtph_ps(
				    _mm256_load_si256((const __m256i *)(const void *)(part[i] + 16 * v)));
				if (p)
					x = _mm512_add_ps(x, _mm512_load_ps(sum[i] + 16 * v));
				_mm512_store_ps(sum[i] + 16 * v, x);
			}
		}
	}
	const float *fa = (const void *)pa, *fb = (const void *)pb;
	for (int i = 0; i < m; i++) {
		UNROLL
		for (int v = 0; v < 2 * vectors; v++) {
			__mmask16 mask = low_mask(n - 16 * v);
			float *to = c + i * ldc + 16 * v;
			__m512 x = _mm512_setzero_ps();
			if (k > 0)
				x = _mm512_mul_ps(
				    _mm512_load_ps(sum[i] + 16 * v),
				    _mm512_mul_ps(_mm512_set1_ps(fa[i]), _mm512_loadu_ps(fb + 16 * v)));
			if (add)
				x = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), x);
			_mm512_mask_storeu_ps(to, mask, x);
		}
	}
}

UNCHECKED void gemm_f16_avx512(int k, const void *pa, const void *pb, float *c, int64_t ldc, int m, int n,
			       bool add)
{
	/* panels are padded with zeros, so a few sizes serve all edges */
	if (n > 32) {
		if (m > 8)
			tile(12, 2, k, pa, pb, c, ldc, m, n, add);
		else if (m > 4)
			tile(8, 2, k, pa, pb, c, ldc, m, n, add);
		else
			tile(4, 2, k, pa, pb, c, ldc, m, n, add);
	} else {
		if (m > 8)
			tile(12, 1, k, pa, pb, c, ldc, m, n, add);
		else if (m > 4)
			tile(8, 1, k, pa, pb, c, ldc, m, n, add);
		else
			tile(4, 1, k, pa, pb, c, ldc, m, n, add);
	}
}
#endif
