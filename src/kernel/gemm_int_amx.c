/* Products of 8-bit integers on AMX tiles, which take either operand as signed or unsigned and add to 32
 * bits.  A panel has a head that says whether its elements are unsigned, then 1 KB tiles:
 *   A: [k / 64][2 halves of 32 rows]   [16 rows]  [64 elements]
 *   B: [k / 64][2 halves of 32 columns][16 fours] [16 columns][4 elements]
 * Not timed on the unit itself: gemm_amx.c has what is known of its loads. */
#include "kernel/gemm_int.h"

#ifdef __x86_64__
#include "kernel/turn_avx512.h"

enum { WIDTH = 32, DEPTH = 64, TILE = 1024, HEAD = 64 };

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

/* Tiles 0..3 hold C as [half of rows][half of columns], 4 and 5 A's halves, 6 and 7 B's. */
#define C_LOAD(t, i, j)  _tile_loadd(t, c + (i)*16 * ldc + (j)*16, (size_t)ldc * 4)
#define C_STORE(t, i, j) _tile_stored(t, c + (i)*16 * ldc + (j)*16, (size_t)ldc * 4)

typedef enum signs { SS, SU, US, UU } signs; /* A's, B's: signed, unsigned */
#define DOT(t, a, b)                                   \
	do {                                           \
		switch (how) {                         \
		case SS: _tile_dpbssd(t, a, b); break; \
		case SU: _tile_dpbsud(t, a, b); break; \
		case US: _tile_dpbusd(t, a, b); break; \
		default: _tile_dpbuud(t, a, b); break; \
		}                                      \
	} while (0)

INLINE void tiles(int k, const char *a, const char *b, int32_t *c, int64_t ldc, bool add, bool two_i,
		  bool two_j, signs how)
{
	_tile_zero(0);
	_tile_zero(1);
	_tile_zero(2);
	_tile_zero(3);
	if (add) {
		C_LOAD(0, 0, 0);
		if (two_j)
			C_LOAD(1, 0, 1);
		if (two_i)
			C_LOAD(2, 1, 0);
		if (two_i && two_j)
			C_LOAD(3, 1, 1);
	}
	for (int e = 0; e < k; e += DEPTH, a += 2 * TILE, b += 2 * TILE) {
		_tile_loadd(4, a, DEPTH);
		_tile_loadd(6, b, DEPTH);
		DOT(0, 4, 6);
		if (two_j) {
			_tile_loadd(7, b + TILE, DEPTH);
			DOT(1, 4, 7);
		}
		if (!two_i)
			continue;
		_tile_loadd(5, a + TILE, DEPTH);
		DOT(2, 5, 6);
		if (two_j)
			DOT(3, 5, 7);
	}
	C_STORE(0, 0, 0);
	if (two_j)
		C_STORE(1, 0, 1);
	if (two_i)
		C_STORE(2, 1, 0);
	if (two_i && two_j)
		C_STORE(3, 1, 1);
}

INLINE void tiles_sized(int k, const char *a, const char *b, int32_t *c, int64_t ldc, int m, int n, bool add,
			signs how)
{
	if (m > 16 && n > 16)
		tiles(k, a, b, c, ldc, add, true, true, how);
	else if (m > 16)
		tiles(k, a, b, c, ldc, add, true, false, how);
	else if (n > 16)
		tiles(k, a, b, c, ldc, add, false, true, how);
	else
		tiles(k, a, b, c, ldc, add, false, false, how);
}

INLINE void tiles_signed(int k, const char *a, const char *b, int32_t *c, int64_t ldc, int m, int n, bool add,
			 signs how)
{
	switch (how) {
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
	const signs how = k == 0 ? SS : (signs)(2 * *(const int32_t *)pa + *(const int32_t *)pb);
	const char *a = (const char *)pa + HEAD, *b = (const char *)pb + HEAD;
	if (m % 16 == 0 && n % 16 == 0) {
		tiles_signed(k, a, b, c, ldc, m, n, add, how);
		return;
	}
	_Alignas(64) int32_t block[WIDTH * WIDTH];
	tiles_signed(k, a, b, block, WIDTH, m, n, false, how);
	for (int i = 0; i < m; i++)
		for (int j = 0; j < n; j++)
			c[i * ldc + j] = block[i * WIDTH + j] + (add ? c[i * ldc + j] : 0);
}
#endif
