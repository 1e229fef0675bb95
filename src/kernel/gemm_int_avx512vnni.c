/* Products of 8-bit integers on vpdpbusd, which multiplies four unsigned bytes by four signed ones and adds
 * the products to 32 bits.
 *
 * A's elements become signed bytes a' = a - oa (oa = 128 for uint8, else 0), B's unsigned ones b' = b - ob
 * (ob = -128 for int8, else 0).  With the sums along k that packing takes,
 *   sum a b = sum a' b' + oa sum b + ob sum a',
 * modulo 2^32, in which the result is exact.  Padding is 0 in a' and b'. */
#include "kernel/gemm_int.h"

#ifdef __AVX512VNNI__
#include "kernel/turn_avx512.h"

enum { MR = 12, NR = 32 };

/* Follows the elements of a panel. */
typedef struct trailer {
	int32_t sum[NR]; /* A: of a'; B: of b; by vector */
	int32_t offset;
} trailer;
_Static_assert(sizeof(trailer) <= GEMM_INT_VNNI_TRAILER, "what gemm.c leaves for it");

INLINE __mmask16 low16(int n) { return (__mmask16)(n >= 16 ? 0xffff : n <= 0 ? 0 : (1 << n) - 1); }
INLINE __mmask64 low64(int n)
{
	return (__mmask64)(n >= 64 ? ~UINT64_C(0) : n <= 0 ? 0 : (UINT64_C(1) << n) - 1);
}

/* 16 bytes, one from each of n vectors, as words. */
INLINE __m512i column(const uint8_t *from, int64_t sv, int n)
{
	if (sv == 1)
		return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(low16(n), from));
	uint8_t t[16] = {0};
	for (int i = 0; i < n && i < 16; i++)
		t[i] = from[i * sv];
	return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)t));
}

/* Panel of words of four, panel[k / 4][width]; bits of elements are XORed with `flip`. */
INLINE void pack(uint32_t *panel, const uint8_t *src, int64_t sv, int64_t se, int count, int k, int width,
		 uint8_t flip, bool is_signed, int32_t *sum)
{
	const __m512i ones = _mm512_set1_epi8(1), flips = _mm512_set1_epi8((char)flip);
	for (int v = 0; v < width; v += 16) {
		const int n = count - v;
		const __mmask16 have = low16(n), wide = low16(width - v);
		const uint8_t *from = src + v * sv;
		__m512i total = _mm512_setzero_si512();
		for (int e = 0; e < k; e += 64) {
			__m512i r[16];
			if (se == 1) { /* a register per vector */
				const __mmask64 m = low64(k - e);
				UNROLL
				for (int i = 0; i < 16; i++)
					r[i] = i < n ? _mm512_xor_si512(
							   _mm512_maskz_loadu_epi8(m, from + i * sv + e),
							   _mm512_maskz_mov_epi8(m, flips))
						     : _mm512_setzero_si512();
				turn16(r);
			} else { /* a register per word */
				for (int w = 0; w < 16; w++) {
					__m512i x = _mm512_setzero_si512(), f = x;
					for (int q = 3; q >= 0; q--) {
						const int at = e + 4 * w + q;
						x = _mm512_slli_epi32(x, 8);
						f = _mm512_slli_epi32(f, 8);
						if (at >= k)
							continue;
						x = _mm512_or_si512(x, column(from + at * se, sv, n));
						f = _mm512_or_si512(f, _mm512_set1_epi32(flip));
					}
					r[w] = _mm512_xor_si512(x, _mm512_maskz_mov_epi32(have, f));
				}
			}
			const int words = (k - e + 3) / 4;
			UNROLL
			for (int w = 0; w < 16; w++) {
				if (w >= words)
					break;
				total = is_signed ? _mm512_dpbusd_epi32(total, ones, r[w])
						  : _mm512_dpbusd_epi32(total, r[w], ones);
				_mm512_mask_storeu_epi32(panel + (int64_t)(e / 4 + w) * width + v, wide,
							 r[w]);
			}
		}
		_mm512_mask_storeu_epi32(sum + v, wide, total);
	}
}

UNCHECKED void pack_int_avx512vnni_a(void *panel, const void *src, k_type type, int64_t sv, int64_t se,
				     int count, int k)
{
	trailer *t = (trailer *)(void *)((char *)panel + (int64_t)(k + 3) / 4 * 4 * MR);
	t->offset = type == K_U8 ? 128 : 0;
	pack(panel, src, sv, se, count, k, MR, type == K_U8 ? 128 : 0, true, t->sum);
}

UNCHECKED void pack_int_avx512vnni_b(void *panel, const void *src, k_type type, int64_t sv, int64_t se,
				     int count, int k)
{
	trailer *t = (trailer *)(void *)((char *)panel + (int64_t)(k + 3) / 4 * 4 * NR);
	t->offset = type == K_U8 ? 0 : -128;
	pack(panel, src, sv, se, count, k, NR, type == K_U8 ? 0 : 128, false, t->sum);
	for (int v = 0; v < NR; v++)
		t->sum[v] += t->offset * k;
}

INLINE void tile(const int rows, const int vectors, int k, const int32_t *a, const int32_t *b, int32_t *c,
		 int64_t ldc, int m, int n, bool add)
{
	static const trailer none; /* with K = 0 nothing has been packed */
	const trailer *ta = k ? (const trailer *)(const void *)(a + k / 4 * MR) : &none;
	const trailer *tb = k ? (const trailer *)(const void *)(b + k / 4 * NR) : &none;
	__m512i t[MR][2], column[2];
	UNROLL
	for (int v = 0; v < vectors; v++)
		column[v] =
		    _mm512_mullo_epi32(_mm512_set1_epi32(ta->offset), _mm512_loadu_si512(tb->sum + 16 * v));
	/* sums start at what is to be corrected: more at the end would keep them out of registers */
	UNROLL
	for (int i = 0; i < rows; i++) {
		__m512i row = _mm512_set1_epi32(tb->offset * ta->sum[i]);
		UNROLL
		for (int v = 0; v < vectors; v++)
			t[i][v] = _mm512_add_epi32(row, column[v]);
	}
	for (int p = 0; p < k; p += 4, a += MR, b += NR) {
		__m512i bv[2];
		UNROLL
		for (int v = 0; v < vectors; v++)
			bv[v] = _mm512_loadu_si512(b + 16 * v);
		UNROLL
		for (int i = 0; i < rows; i++) {
			__m512i x = _mm512_set1_epi32(a[i]);
			UNROLL
			for (int v = 0; v < vectors; v++)
				t[i][v] = _mm512_dpbusd_epi32(t[i][v], bv[v], x);
		}
	}
	UNROLL
	for (int i = 0; i < rows; i++) {
		if (i >= m)
			break;
		UNROLL
		for (int v = 0; v < vectors; v++) {
			__mmask16 mask = low16(n - 16 * v);
			int32_t *to = c + i * ldc + 16 * v;
			__m512i x = t[i][v];
			if (add)
				x = _mm512_add_epi32(_mm512_maskz_loadu_epi32(mask, to), x);
			_mm512_mask_storeu_epi32(to, mask, x);
		}
	}
}

UNCHECKED void gemm_int_avx512vnni(int k, const void *pa, const void *pb, float *pc, int64_t ldc, int m,
				   int n, bool add)
{
	int32_t *c = (int32_t *)(void *)pc; /* see gemm_kernel_fn */
	/* panels are padded with zeros, so a few sizes serve all edges */
	if (n > 16) {
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
