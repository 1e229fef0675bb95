/* What the rows of 8-bit integers on arm64 share: packing, and putting sums where they belong.
 *
 * Both multiply signed bytes, so an unsigned a counts as a' = a - 128.  With oa and ob what was taken away
 * (128 or 0), and the sums along k that packing takes, sum a b = sum a' b' + oa sum b + ob sum a', modulo
 * 2^32, in which the result is exact.  Padding is 0 in a' and b'.
 *
 * The file that includes this has defined DEPTH, the elements along k that one instruction takes: 4 or 8. */
#include "kernel/gemm_int.h"
#include "kernel/turn_neon.h"

#include <string.h>

enum { MR = 8, NR = 12 };

/* Follows the elements of a panel. */
typedef struct trailer {
	int32_t sum[NR]; /* A: of a'; B: of b; by vector */
	int32_t offset;
} trailer;
_Static_assert(sizeof(trailer) <= GEMM_INT_NEON_TRAILER, "what gemm.c leaves for it");

/* Elements [e, e + 4) of vectors [v, v + 4), of which n and `left` exist, by vector; what is missing is
 * `none`. */
INLINE uint8x16_t load_square(const uint8_t *src, int64_t sv, int64_t se, int v, int e, int n, int left,
			      uint8_t none)
{
	const uint8_t *from = src + v * sv + e * se;
	if (n >= 4 && left >= 4 && (se == 1 || sv == 1)) {
		const int64_t step = se == 1 ? sv : se;
		uint32_t word[4];
		UNROLL
		for (int i = 0; i < 4; i++)
			memcpy(&word[i], from + i * step, sizeof *word);
		const uint8x16_t x = vreinterpretq_u8_u32(vld1q_u32(word));
		if (se == 1)
			return x;
		static const uint8_t turned[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
		return vqtbl1q_u8(x, vld1q_u8(turned));
	}
	uint8_t t[16];
	for (int i = 0; i < 16; i++)
		t[i] = i / 4 < n && i % 4 < left ? from[i / 4 * sv + i % 4 * se] : none;
	return vld1q_u8(t);
}

/* Panel of signed bytes, panel[k / DEPTH][width][DEPTH], and its trailer. */
INLINE void pack(uint8_t *panel, const void *src, k_type type, int64_t sv, int64_t se, int count, int k,
		 int width, const bool of_b)
{
	const uint8_t flip = type == K_U8 ? 128 : 0;
	const int deep = (k + DEPTH - 1) / DEPTH * DEPTH;
	trailer *t = (trailer *)(void *)(panel + (int64_t)deep * width);
	t->offset = flip;
	for (int v = 0; v < width; v += 4) {
		int32x4_t sum = vdupq_n_s32(of_b ? k * flip : 0);
		for (int e = 0; e < deep; e += DEPTH) {
			uint8_t *to = panel + (int64_t)e * width + v * DEPTH;
			uint8x16_t x[2];
			UNROLL
			for (int h = 0; h < DEPTH / 4; h++) {
				x[h] = veorq_u8(
				    load_square(src, sv, se, v, e + 4 * h, count - v, k - e - 4 * h, flip),
				    vdupq_n_u8(flip));
				sum = vpadalq_s16(sum, vpaddlq_s8(vreinterpretq_s8_u8(x[h])));
			}
			if (DEPTH == 4) {
				vst1q_u8(to, x[0]);
				continue;
			}
			const uint32x4_t low = vreinterpretq_u32_u8(x[0]), high = vreinterpretq_u32_u8(x[1]);
			vst1q_u8(to, vreinterpretq_u8_u32(vzip1q_u32(low, high)));
			vst1q_u8(to + 16, vreinterpretq_u8_u32(vzip2q_u32(low, high)));
		}
		vst1q_s32(t->sum + v, sum);
	}
}

INLINE void pack_a(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count, int k)
{
	if (se == 1)
		pack(panel, src, type, sv, 1, count, k, MR, false);
	else
		pack(panel, src, type, sv, se, count, k, MR, false);
}
INLINE void pack_b(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count, int k)
{
	if (sv == 1)
		pack(panel, src, type, 1, se, count, k, NR, true);
	else
		pack(panel, src, type, sv, se, count, k, NR, true);
}

/* What follows a panel's elements; panels of no elements may hold anything. */
INLINE const trailer *trailer_of(const int8_t *end, int k)
{
	static const trailer none = {{0}, 0};
	return k ? (const trailer *)(const void *)end : &none;
}

/* Row i of the tile, columns [j, j + 4) of which n exist: sums of a' b' become results. */
INLINE void put(int32_t *to, int32x4_t x, const trailer *ta, const trailer *tb, int i, int j, int n, bool add)
{
	if (n <= 0)
		return;
	const int32_t of_row = (int32_t)((uint32_t)tb->offset * (uint32_t)ta->sum[i]);
	x = vaddq_s32(x, vdupq_n_s32(of_row));
	x = vmlaq_n_s32(x, vld1q_s32(tb->sum + j), ta->offset);
	if (n >= 4) {
		vst1q_s32(to, add ? vaddq_s32(vld1q_s32(to), x) : x);
		return;
	}
	int32_t t[4];
	vst1q_s32(t, x);
	UNROLL
	for (int l = 0; l < 3; l++)
		if (l < n)
			to[l] = (int32_t)((add ? (uint32_t)to[l] : 0) + (uint32_t)t[l]);
}
