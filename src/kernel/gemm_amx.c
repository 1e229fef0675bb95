/* GEMM on AMX tiles: bf16 pairs, fp32 accumulation.
 *
 * A panel is a sequence of 1 KB tiles, so that every tile load reads 16 whole cache lines:
 *   A: [k / 32][2 halves of 32 rows]   [16 rows]  [32 elements]
 *   B: [k / 32][2 halves of 32 columns][16 pairs] [16 columns][2 elements]
 * In the exact rows each tile is followed by one with the low halves of the same elements.
 *
 * Exact products of fp16: x = hi + lo with hi, lo in bf16 (narrow_pair); the four products of
 * halves have 16 significant bits, so each is exact in fp32, none overflows (|x| <= 65536)
 * and none is subnormal (multiples of 2^-48), which the instruction would flush.  An infinity has
 * hi = inf, lo = 0, and inf * lo of a partner without low part would be NaN: panels that
 * contain anything not finite say so in a line before their tiles and are multiplied by vector code.
 *
 * gcc 12 believes that _tile_loadconfig reads 8 bytes only; the barrier keeps the other stores. */
#include "kernel/gemm.h"

#ifdef __x86_64__
#include "kernel/gemm_pack_bf16.h"

enum { TILE = 1024, WIDTH = 32, HEAD = 64 };

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

/* ---- Kernels ---------------------------------------------------------------------- */

/* Tiles 0..3 hold C as [half of rows][half of columns], 4 and 5 A's halves, 6 and 7 B's.  Tile
 * numbers are part of the instruction, hence constants. */
#define C_LOAD(t, i, j)  _tile_loadd(t, c + (i)*16 * ldc + (j)*16, (size_t)ldc * 4)
#define C_STORE(t, i, j) _tile_stored(t, c + (i)*16 * ldc + (j)*16, (size_t)ldc * 4)
#define LOAD(t, p)       _tile_loadd(t, p, 64)

/* C += A B with B's tiles loaded on the way, and A's too if `fresh_a`: loads spread between products
 * hide behind them.  `two_i`, `two_j`: whether the second halves are in use; `step`: from one half of a
 * panel to the other. */
INLINE void multiply(const char *a, const char *b, int step, bool fresh_a, bool two_i, bool two_j)
{
	if (fresh_a)
		LOAD(4, a);
	LOAD(6, b);
	_tile_dpbf16ps(0, 4, 6);
	if (two_j) {
		LOAD(7, b + step);
		_tile_dpbf16ps(1, 4, 7);
	}
	if (!two_i)
		return;
	if (fresh_a)
		LOAD(5, a + step);
	_tile_dpbf16ps(2, 5, 6);
	if (two_j)
		_tile_dpbf16ps(3, 5, 7);
}

INLINE void tiles(int k, const char *a, const char *b, float *c, int64_t ldc, bool add, bool two_i,
		  bool two_j, bool split)
{
	if (add) {
		C_LOAD(0, 0, 0);
		if (two_j)
			C_LOAD(1, 0, 1);
		if (two_i)
			C_LOAD(2, 1, 0);
		if (two_i && two_j)
			C_LOAD(3, 1, 1);
	} else {
		_tile_zero(0);
		_tile_zero(1);
		_tile_zero(2);
		_tile_zero(3);
	}
	const int step = split ? 2 * TILE : TILE; /* from one half to the other */
	for (int e = 0; e < k; e += 32, a += 2 * step, b += 2 * step) {
		multiply(a, b, step, true, two_i, two_j); /* hi hi */
		if (!split)
			continue;
		multiply(a, b + TILE, step, false, two_i, two_j);       /* hi lo */
		multiply(a + TILE, b + TILE, step, true, two_i, two_j); /* lo lo */
		multiply(a, b, step, false, two_i, two_j); /* lo hi: A's low halves are still loaded */
	}
	C_STORE(0, 0, 0);
	if (two_j)
		C_STORE(1, 0, 1);
	if (two_i)
		C_STORE(2, 1, 0);
	if (two_i && two_j)
		C_STORE(3, 1, 1);
}

INLINE void tiles_sized(int k, const char *a, const char *b, float *c, int64_t ldc, int m, int n, bool add,
			bool split)
{
	if (m > 16 && n > 16)
		tiles(k, a, b, c, ldc, add, true, true, split);
	else if (m > 16)
		tiles(k, a, b, c, ldc, add, true, false, split);
	else if (n > 16)
		tiles(k, a, b, c, ldc, add, false, true, split);
	else
		tiles(k, a, b, c, ldc, add, false, false, split);
}

/* Tiles are whole: an edge goes through a block on the stack. */
INLINE void any_size(int k, const char *a, const char *b, float *c, int64_t ldc, int m, int n, bool add,
		     bool split)
{
	if (m % 16 == 0 && n % 16 == 0) {
		tiles_sized(k, a, b, c, ldc, m, n, add, split);
		return;
	}
	_Alignas(64) float block[WIDTH * WIDTH];
	tiles_sized(k, a, b, block, WIDTH, m, n, false, split);
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
	any_size(k, a, b, c, ldc, m, n, add, false);
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

UNCHECKED void gemm_amx_split(int k, const void *a, const void *b, float *c, int64_t ldc, int m, int n,
			      bool add)
{
	const char *pa = (const char *)a + HEAD, *pb = (const char *)b + HEAD;
	if (*(const int32_t *)a | *(const int32_t *)b)
		multiply_special(k, pa, pb, c, ldc, m, n, add);
	else
		any_size(k, pa, pb, c, ldc, m, n, add, true);
}
#endif
