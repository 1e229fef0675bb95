/* Products of 8-bit integers on AMX tiles, which take either operand as signed or unsigned and add to 32
 * bits.  A panel has a head that says whether its elements are unsigned, then 1 KB tiles:
 *   A: [k / 64][2 halves of 32 rows]   [16 rows]  [64 elements]
 *   B: [k / 64][2 halves of 32 columns][16 fours] [16 columns][4 elements]
 * Not timed on the unit itself: gemm_amx.c has what is known of its loads. */
#include "kernel/gemm_int.h"

#ifdef __x86_64__
#include "kernel/gemm_tile_amx.h"

enum { DEPTH = 64 };

/* 64 elements of each of 16 vectors. */
INLINE void load_tile(uint8_t t[16][DEPTH], const uint8_t *src, int64_t sv, int64_t se, int n, int depth)
{
	memset(t, 0, TILE);
	if (se == 1)
		for (int i = 0; i < n; i++)
			memcpy(t[i], src + i * sv, (size_t)depth);
	else
		for (int p = 0; p < depth; p++)
			for (int i = 0; i < n; i++)
				t[i][p] = src[i * sv + p * se];
}

INLINE void pack(char *panel, const uint8_t *src, k_type type, int64_t sv, int64_t se, int count, int k,
		 bool by_word)
{
	*(int32_t *)(void *)panel = type == K_U8;
	panel += HEAD;
	for (int e = 0; e < k; e += DEPTH)
		for (int v = 0; v < WIDTH; v += 16, panel += TILE) {
			_Alignas(64) uint8_t t[16][DEPTH];
			__m512i r[16];
			load_tile(t, src + v * sv + e * se, sv, se, MIN(count - v, 16), MIN(k - e, DEPTH));
			UNROLL
			for (int i = 0; i < 16; i++)
				r[i] = _mm512_load_si512(t[i]);
			if (by_word)
				turn16(r);
			UNROLL
			for (int i = 0; i < 16; i++)
				_mm512_store_si512((void *)(panel + DEPTH * i), r[i]);
		}
}

UNCHECKED void pack_int_amx_a(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
			      int k)
{
	pack(panel, src, type, sv, se, count, k, false);
}
UNCHECKED void pack_int_amx_b(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
			      int k)
{
	pack(panel, src, type, sv, se, count, k, true);
}

/* c: int32 at that address; tiles are loaded and stored as bytes. */
INLINE void tiles_signed(int k, const char *a, const char *b, float *c, int64_t ldc, int m, int n, bool add,
			 tile_form f)
{
	switch (f) {
	case SS: tiles_sized(k, a, b, c, ldc, m, n, add, SS); break;
	case SU: tiles_sized(k, a, b, c, ldc, m, n, add, SU); break;
	case US: tiles_sized(k, a, b, c, ldc, m, n, add, US); break;
	default: tiles_sized(k, a, b, c, ldc, m, n, add, UU);
	}
}

/* Tiles are whole: an edge goes through a block on the stack. */
UNCHECKED void gemm_int_amx(int k, const void *pa, const void *pb, float *pc, int64_t ldc, int m, int n,
			    bool add)
{
	int32_t *c = (int32_t *)(void *)pc; /* see gemm_kernel_fn */
	const tile_form f = k == 0 ? SS : (tile_form)(SS + 2 * *(const int32_t *)pa + *(const int32_t *)pb);
	const char *a = (const char *)pa + HEAD, *b = (const char *)pb + HEAD;
	if (m % 16 == 0 && n % 16 == 0) {
		tiles_signed(k, a, b, pc, ldc, m, n, add, f);
		return;
	}
	_Alignas(64) int32_t block[WIDTH * WIDTH];
	tiles_signed(k, a, b, (float *)(void *)block, WIDTH, m, n, false, f);
	for (int i = 0; i < m; i++)
		for (int j = 0; j < n; j++)
			c[i * ldc + j] = block[i * WIDTH + j] + (add ? c[i * ldc + j] : 0);
}
#endif
