/* GEMM on AMX tiles: pairs of bf16 or fp16, fp32 accumulation.
 *
 * A panel is a sequence of 1 KB tiles, so that every tile load reads 16 whole cache lines:
 *   A: [k / 32][2 halves of 32 rows]   [16 rows]  [32 elements]
 *   B: [k / 32][2 halves of 32 columns][16 pairs] [16 columns][2 elements]
 * In the split rows each tile is followed by one with the low halves of the same elements.
 *
 * Where the time goes, by design; this was not timed here, figures are of a Xeon 6 (per core and cycle): a
 * product of tiles takes 16 cycles, a load of one from the first-level cache 8, the second level gives some
 * 50 bytes, the third 8.  With 2 x 2 tiles of C a step of 32 along k has 4 products, 64 cycles, and 4 loads,
 * 32 of them.  Over 256 of k, a panel of B (16 KB) stays in the first-level cache, and one of A (16 KB) comes
 * from the second at 32 bytes a cycle, which is most of what it gives: lines are asked for two steps ahead,
 * 32 requests a step, on ports that loads leave free for half of the time.  A panel of B comes from the third
 * level while the one before is multiplied with up to 512 rows (gemm.c), 8192 cycles for 16 KB, 2 bytes a
 * cycle.  Sums go through memory once in 256 of k: 8 KB in 512 cycles, in a block of 32 columns that the
 * second level holds, or in C.
 *
 * Exact products of fp16 where there are no tiles of fp16: x = hi + lo with hi, lo in bf16 (narrow_pair); the
 * four products of halves have 16 significant bits, so each is exact in fp32, none overflows (|x| <= 65536)
 * and none is subnormal (multiples of 2^-48), which the instruction would flush.  An infinity has
 * hi = inf, lo = 0, and inf * lo of a partner without low part would be NaN: panels that
 * contain anything not finite say so in a line before their tiles and are multiplied by vector code.
 *
 * hi is x rounded to 8 significant bits, so |lo| <= 2^-8 |x|, and a product without lo lo is near: it lacks
 * 2^-16 of itself at most.
 *
 * Tiles of fp16 take subnormals as they are, and their products are exact in fp32.  Compilers that build this
 * do not know the instruction, so it is written as bytes.
 *
 * gcc 12 believes that _tile_loadconfig reads 8 bytes only; the barrier keeps the other stores. */
#include "kernel/gemm.h"

#ifdef __x86_64__
#include "kernel/gemm_pack_bf16.h"
#include "kernel/gemm_tile_amx.h"

typedef struct tile_config {
	uint8_t palette, start_row, reserved[14];
	uint16_t bytes[16]; /* per row, by tile */
	uint8_t rows[16];
} tile_config;

UNCHECKED void gemm_amx_begin(void)
{
	_Alignas(64) tile_config c = {.palette = 1};
	for (int t = 0; t < 8; t++) {
		c.bytes[t] = 64;
		c.rows[t] = 16;
	}
	__asm__ volatile("" : : "r"(&c) : "memory");
	_tile_loadconfig(&c);
}
UNCHECKED void gemm_amx_end(void) { _tile_release(); }

/* ---- Packing ---------------------------------------------------------------------- */

INLINE void pack_tiles(char *panel, const void *src, k_type type, int64_t sv, int64_t se, int count, int k,
		       square_form want, bool split)
{
	__mmask16 special = 0;
	int32_t *head = (void *)panel;
	if (split)
		panel += HEAD;
	for (int e = 0; e < k; e += 32)
		for (int v = 0; v < WIDTH; v += 16) {
			__m512i hi[16], lo[16];
			square_form form =
			    load_square(hi, lo, src, type, sv, se, v, e, count - v, k - e, split, &special);
			if (form != want) {
				turn16(hi);
				if (split)
					turn16(lo);
			}
			UNROLL
			for (int i = 0; i < 16; i++)
				_mm512_store_si512((void *)(panel + 64 * i), hi[i]);
			panel += TILE;
			if (split) {
				UNROLL
				for (int i = 0; i < 16; i++)
					_mm512_store_si512((void *)(panel + 64 * i), lo[i]);
				panel += TILE;
			}
		}
	if (split)
		*head = special;
}

UNCHECKED void pack_amx_a(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count, int k)
{
	if (type == K_F16)
		pack_tiles(panel, src, K_F16, sv, se, count, k, BY_VECTOR, false);
	else
		pack_tiles(panel, src, K_F32, sv, se, count, k, BY_VECTOR, false);
}
UNCHECKED void pack_amx_b(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count, int k)
{
	if (type == K_F16)
		pack_tiles(panel, src, K_F16, sv, se, count, k, BY_WORD, false);
	else
		pack_tiles(panel, src, K_F32, sv, se, count, k, BY_WORD, false);
}
UNCHECKED void pack_amx_split_a(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
				int k)
{
	(void)type; /* K_F16: the row's f16_only */
	pack_tiles(panel, src, K_F16, sv, se, count, k, BY_VECTOR, true);
}
UNCHECKED void pack_amx_split_b(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
				int k)
{
	(void)type;
	pack_tiles(panel, src, K_F16, sv, se, count, k, BY_WORD, true);
}

/* Tiles of fp16 in the form `want`. */
INLINE void pack_f16_tiles(char *panel, const half *src, int64_t sv, int64_t se, int count, int k,
			   square_form want)
{
	for (int e = 0; e < k; e += 32)
		for (int v = 0; v < WIDTH; v += 16) {
			__m512i r[16];
			const int n = count - v;
			square_form form = BY_VECTOR;
			if (sv == 1 && se != 1) {
				const __mmask16 have = low_mask(n);
				form = BY_WORD;
				UNROLL
				for (int w = 0; w < 16; w++) {
					const half *at = src + v + (e + 2 * w) * se;
					__m256i x0 = _mm256_setzero_si256(), x1 = x0;
					if (e + 2 * w < k)
						x0 = _mm256_maskz_loadu_epi16(have, at);
					if (e + 2 * w + 1 < k)
						x1 = _mm256_maskz_loadu_epi16(have, at + se);
					r[w] =
					    _mm512_or_si512(_mm512_cvtepu16_epi32(x0),
							    _mm512_slli_epi32(_mm512_cvtepu16_epi32(x1), 16));
				}
			} else {
				UNROLL
				for (int i = 0; i < 16; i++)
					r[i] = i < n ? load_along(src, (v + i) * sv + e * se, se, k - e)
						     : _mm512_setzero_si512();
			}
			if (form != want)
				turn16(r);
			UNROLL
			for (int i = 0; i < 16; i++)
				_mm512_store_si512((void *)(panel + 64 * i), r[i]);
			panel += TILE;
		}
}

UNCHECKED void pack_amx_f16_a(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
			      int k)
{
	(void)type; /* K_F16: the row's f16_only */
	pack_f16_tiles(panel, src, sv, se, count, k, BY_VECTOR);
}
UNCHECKED void pack_amx_f16_b(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
			      int k)
{
	(void)type;
	pack_f16_tiles(panel, src, sv, se, count, k, BY_WORD);
}

/* ---- Kernels ---------------------------------------------------------------------- */

/* Tiles are whole: an edge goes through a block on the stack. */
INLINE void any_size(int k, const char *a, const char *b, float *c, int64_t ldc, int m, int n, bool add,
		     tile_form f)
{
	if (m % 16 == 0 && n % 16 == 0) {
		tiles_sized(k, a, b, c, ldc, m, n, add, f);
		return;
	}
	_Alignas(64) float block[WIDTH * WIDTH];
	tiles_sized(k, a, b, block, WIDTH, m, n, false, f);
	for (int i = 0; i < m; i++)
		for (int j = 0; j < n; j += 16) {
			__mmask16 mask = low_mask(n - j);
			__m512 x = _mm512_load_ps(block + i * WIDTH + j);
			if (add)
				x = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c + i * ldc + j), x);
			_mm512_mask_storeu_ps(c + i * ldc + j, mask, x);
		}
}

UNCHECKED void gemm_amx(int k, const void *a, const void *b, float *c, int64_t ldc, int m, int n, bool add)
{
	any_size(k, a, b, c, ldc, m, n, add, BF16);
}
UNCHECKED void gemm_amx_f16(int k, const void *a, const void *b, float *c, int64_t ldc, int m, int n,
			    bool add)
{
	any_size(k, a, b, c, ldc, m, n, add, F16);
}

/* The same product from the same panels in vector code: with x = hi + lo back in one piece, infinities
 * and NaN do what they do in IEEE arithmetic. */
UNCHECKED static void multiply_special(int k, const char *a, const char *b, float *c, int64_t ldc, int m,
				       int n, bool add)
{
	const __m512i odd = _mm512_set1_epi32((int)0xffff0000);
	for (int i = 0; i < m; i++)
		for (int j = 0; j < n; j += 16) {
			__m512 sum = _mm512_setzero_ps();
			for (int w = 0; w < k / 2; w++) {
				const char *at =
				    a + w / 16 * 4 * TILE + i / 16 * 2 * TILE + i % 16 * 64 + w % 16 * 4;
				const char *bt = b + w / 16 * 4 * TILE + j / 16 * 2 * TILE + w % 16 * 64;
				__m512i hi = _mm512_load_si512(bt), lo = _mm512_load_si512(bt + TILE);
				const bfloat *ah = (const void *)at, *al = (const void *)(at + TILE);
				__m512 b0 = _mm512_add_ps(_mm512_castsi512_ps(_mm512_slli_epi32(hi, 16)),
							  _mm512_castsi512_ps(_mm512_slli_epi32(lo, 16)));
				__m512 b1 = _mm512_add_ps(_mm512_castsi512_ps(_mm512_and_si512(hi, odd)),
							  _mm512_castsi512_ps(_mm512_and_si512(lo, odd)));
				__m512 a0 = _mm512_set1_ps(bfloat_to_float(ah[0]) + bfloat_to_float(al[0]));
				__m512 a1 = _mm512_set1_ps(bfloat_to_float(ah[1]) + bfloat_to_float(al[1]));
				sum = _mm512_fmadd_ps(a1, b1, _mm512_fmadd_ps(a0, b0, sum));
			}
			__mmask16 mask = low_mask(n - j);
			if (add)
				sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, c + i * ldc + j), sum);
			_mm512_mask_storeu_ps(c + i * ldc + j, mask, sum);
		}
}

INLINE void split_product(int k, const void *a, const void *b, float *c, int64_t ldc, int m, int n, bool add,
			  tile_form f)
{
	const char *pa = (const char *)a + HEAD, *pb = (const char *)b + HEAD;
	if (*(const int32_t *)a | *(const int32_t *)b)
		multiply_special(k, pa, pb, c, ldc, m, n, add);
	else
		any_size(k, pa, pb, c, ldc, m, n, add, f);
}

UNCHECKED void gemm_amx_split(int k, const void *a, const void *b, float *c, int64_t ldc, int m, int n,
			      bool add)
{
	split_product(k, a, b, c, ldc, m, n, add, SPLIT);
}
UNCHECKED void gemm_amx_split3(int k, const void *a, const void *b, float *c, int64_t ldc, int m, int n,
			       bool add)
{
	split_product(k, a, b, c, ldc, m, n, add, SPLIT3);
}
#endif
