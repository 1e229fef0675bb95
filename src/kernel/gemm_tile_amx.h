/* C += A B on AMX tiles, for all types of them; included by files that are compiled for tiles. */
#ifndef KERNEL_GEMM_TILE_AMX_H
#define KERNEL_GEMM_TILE_AMX_H

#include "kernel/gemm.h"

#include "kernel/turn_avx512.h"

enum { TILE = 1024, WIDTH = 32, HEAD = 64 };

/* Tiles 0..3 hold C as [half of rows][half of columns], 4 and 5 A's halves, 6 and 7 B's.  Tile
 * numbers are part of the instruction, hence constants. */
#define C_LOAD(t, i, j)  _tile_loadd(t, c + (i)*16 * ldc + (j)*16, (size_t)ldc * 4)
#define C_STORE(t, i, j) _tile_stored(t, c + (i)*16 * ldc + (j)*16, (size_t)ldc * 4)
#define LOAD(t, p)       _tile_loadd(t, p, 64)

/* TDPFP16PS c, a, b: VEX.128.F2.0F38.W0 5C /r, b in vvvv. */
#define DOT_F16(c, a, b)                                    \
	__asm__ volatile(".byte 0xc4, 0xe2, %c0, 0x5c, %c1" \
			 :                                  \
			 : "i"((~(b)&15) << 3 | 3), "i"(0xc0 | (c) << 3 | (a)))

/* Elements of tiles.  Integers: A's and B's, signed (S) or unsigned (U). */
typedef enum tile_form { BF16, SPLIT, SPLIT3, F16, SS, SU, US, UU } tile_form;

#define DOT(c, a, b)                                   \
	do {                                           \
		switch (f) {                           \
		case F16: DOT_F16(c, a, b); break;     \
		case SS: _tile_dpbssd(c, a, b); break; \
		case SU: _tile_dpbsud(c, a, b); break; \
		case US: _tile_dpbusd(c, a, b); break; \
		case UU: _tile_dpbuud(c, a, b); break; \
		default: _tile_dpbf16ps(c, a, b);      \
		}                                      \
	} while (0)

/* C += A B, with tiles of A and B loaded on the way unless they are there already: loads spread between
 * products hide behind them.  `two_i`, `two_j`: whether the second halves are in use; `step`: from one half
 * of a panel to the other. */
INLINE void multiply(const char *a, const char *b, int step, bool fresh_a, bool fresh_b, bool two_i,
		     bool two_j, tile_form f)
{
	if (fresh_a)
		LOAD(4, a);
	if (fresh_b)
		LOAD(6, b);
	DOT(0, 4, 6);
	if (two_j) {
		if (fresh_b)
			LOAD(7, b + step);
		DOT(1, 4, 7);
	}
	if (!two_i)
		return;
	if (fresh_a)
		LOAD(5, a + step);
	DOT(2, 5, 6);
	if (two_j)
		DOT(3, 5, 7);
}

/* Lines of A that come two steps later; panels of A follow each other. */
INLINE void ask_for(const char *a, int bytes)
{
	UNROLL
	for (int i = 0; i < bytes; i += 64)
		_mm_prefetch(a + 2 * bytes + i, _MM_HINT_T0);
}

INLINE void tiles(int k, const char *a, const char *b, float *c, int64_t ldc, bool add, bool two_i,
		  bool two_j, tile_form f)
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
		if (two_j)
			_tile_zero(1);
		if (two_i)
			_tile_zero(2);
		if (two_i && two_j)
			_tile_zero(3);
	}
	const bool split = f == SPLIT || f == SPLIT3;
	const int step = split ? 2 * TILE : TILE; /* from one half to the other */
	const int depth = f >= SS ? 64 : 32;      /* elements along k of a tile */
	for (int e = 0; e < k; e += depth, a += 2 * step, b += 2 * step) {
		ask_for(a, 2 * TILE);
		if (split) {
			ask_for(a + 2 * TILE, 2 * TILE);
			multiply(a, b + TILE, step, true, true, two_i, two_j, f); /* hi lo */
		}
		multiply(a, b, step, !split, true, two_i, two_j, f); /* hi hi */
		if (split)
			multiply(a + TILE, b, step, true, false, two_i, two_j, f); /* lo hi */
		if (f == SPLIT)
			multiply(a, b + TILE, step, false, true, two_i, two_j, f); /* lo lo */
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
			tile_form f)
{
	if (m > 16 && n > 16)
		tiles(k, a, b, c, ldc, add, true, true, f);
	else if (m > 16)
		tiles(k, a, b, c, ldc, add, true, false, f);
	else if (n > 16)
		tiles(k, a, b, c, ldc, add, false, true, f);
	else
		tiles(k, a, b, c, ldc, add, false, false, f);
}

#endif
