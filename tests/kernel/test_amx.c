/* Tile instructions one by one against plain C.  Where the processor has tiles this tests what is
 * assumed of them, elsewhere it tests the emulator by the same expectations. */
#include "base/isa.h"
#include "support/kernel_amx_emulator.h"
#include "support/kernel_check.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#ifdef __x86_64__
#include <immintrin.h>

#define TILES __attribute__((target("amx-tile,amx-int8,amx-bf16")))

typedef struct tile_config {
	uint8_t palette, start_row, reserved[14];
	uint16_t bytes[16];
	uint8_t rows[16];
} tile_config;

/* C [5 x 7], A [5 x 3 words], B [3 words x 7]: no size is that of a whole tile */
enum { M = 5, N = 7, K = 3 };

static bool ready(void)
{
	if (amx_provide() == AMX_NONE)
		skip();
	return true;
}

TILES static void configure(tile_config *c)
{
	memset(c, 0, sizeof *c);
	c->palette = 1;
	static const uint8_t rows[3] = {M, M, K}, words[3] = {N, K, N};
	for (int t = 0; t < 3; t++) {
		c->rows[t] = rows[t];
		c->bytes[t] = (uint16_t)(words[t] * 4);
	}
	__asm__ volatile("" : : "r"(c) : "memory");
	_tile_loadconfig(c);
}

TILES static void test_configuration(void **state)
{
	(void)state;
	ready();
	tile_config set, got;
	memset(&got, 0xff, sizeof got);
	configure(&set);
	_tile_storeconfig(&got);
	__asm__ volatile("" : : "r"(&got) : "memory");
	assert_memory_equal(&set, &got, sizeof set);
	_tile_release();
	_tile_storeconfig(&got);
	__asm__ volatile("" : : "r"(&got) : "memory");
	memset(&set, 0, sizeof set);
	assert_memory_equal(&set, &got, sizeof set);
}

/* Rows with a stride, from several forms of address; what is outside a tile stays as it was. */
TILES static void test_memory(void **state)
{
	(void)state;
	ready();
	tile_config c;
	configure(&c);
	enum { ROW = 16 };
	uint32_t from[3][M + 4][ROW], to[M + 4][ROW];
	for (int q = 0; q < 3; q++)
		for (int i = 0; i < M + 4; i++)
			for (int j = 0; j < ROW; j++)
				from[q][i][j] = (uint32_t)(q << 16 | i << 8 | j);
	for (volatile int q = 0; q < 3; q++) {
		memset(to, 0xee, sizeof to);
		if (q == 0)
			_tile_loadd(0, from[q], 64);
		else
			_tile_stream_loadd(0, &from[q][2][1], 64);
		_tile_stored(0, &to[1][3], 64);
		__asm__ volatile("" : : : "memory");
		for (int i = 0; i < M + 4; i++)
			for (int j = 0; j < ROW; j++) {
				bool inside = i >= 1 && i <= M && j >= 3 && j < 3 + N;
				int row = i - 1 + (q ? 2 : 0), column = j - 3 + (q ? 1 : 0);
				assert_int_equal(to[i][j], inside ? from[q][row][column] : 0xeeeeeeee);
			}
	}
	_tile_zero(0);
	_tile_stored(0, to, 64);
	__asm__ volatile("" : : : "memory");
	for (int i = 0; i < M; i++)
		for (int j = 0; j < N; j++)
			assert_int_equal(to[i][j], 0);
	_tile_release();
}

TILES static void test_bytes(void **state)
{
	(void)state;
	ready();
	tile_config cfg;
	configure(&cfg);
	uint8_t a[M][4 * K], b[K][4 * N];
	int32_t start[M][N], got[4][M][N]; /* TDPBSSD, TDPBSUD, TDPBUSD, TDPBUUD */
	for (int i = 0; i < M * 4 * K; i++)
		a[i / (4 * K)][i % (4 * K)] = (uint8_t)check_uniform(1, i, 0, 256);
	for (int i = 0; i < K * 4 * N; i++)
		b[i / (4 * N)][i % (4 * N)] = (uint8_t)check_uniform(2, i, 0, 256);
	for (int i = 0; i < M * N; i++)
		start[i / N][i % N] = i == 3 ? INT32_MAX : i * 1000;
	_tile_loadd(1, a, 4 * K);
	_tile_loadd(2, b, 4 * N);
	_tile_loadd(0, start, 4 * N);
	_tile_dpbssd(0, 1, 2);
	_tile_stored(0, got[0], 4 * N);
	_tile_loadd(0, start, 4 * N);
	_tile_dpbsud(0, 1, 2);
	_tile_stored(0, got[1], 4 * N);
	_tile_loadd(0, start, 4 * N);
	_tile_dpbusd(0, 1, 2);
	_tile_stored(0, got[2], 4 * N);
	_tile_loadd(0, start, 4 * N);
	_tile_dpbuud(0, 1, 2);
	_tile_stored(0, got[3], 4 * N);
	__asm__ volatile("" : : : "memory");
	_tile_release();
	for (int form = 0; form < 4; form++)
		for (int i = 0; i < M; i++)
			for (int j = 0; j < N; j++) {
				uint32_t want = (uint32_t)start[i][j];
				for (int k = 0; k < 4 * K; k++) {
					uint8_t x = a[i][k], y = b[k / 4][4 * j + k % 4];
					want += (uint32_t)((form < 2 ? (int8_t)x : x) *
							   (form % 2 == 0 ? (int8_t)y : y));
				}
				assert_int_equal(got[form][i][j], (int32_t)want);
			}
}

/* Values whose sums are exact, and one place each for overflow, a subnormal operand and a subnormal
 * result, which count as zero. */
TILES static void test_bf16(void **state)
{
	(void)state;
	ready();
	tile_config cfg;
	configure(&cfg);
	bfloat a[M][2 * K], b[K][2 * N];
	float c[M][N], got[M][N];
	for (int i = 0; i < M * 2 * K; i++)
		a[i / (2 * K)][i % (2 * K)] = bfloat_from_float((float)(int)check_uniform(3, i, -20, 20));
	for (int i = 0; i < K * 2 * N; i++)
		b[i / (2 * N)][i % (2 * N)] = bfloat_from_float((float)(int)check_uniform(4, i, -20, 20));
	for (int i = 0; i < M * N; i++)
		c[i / N][i % N] = (float)i * 0.5f;
	for (int k = 0; k < 2 * K; k++)
		a[2][k] = a[3][k] = a[4][k] = 0;
	a[2][0] = bfloat_from_float(0x1p127f);
	b[0][0] = bfloat_from_float(4); /* column 0, element 0 */
	a[3][0] = 1;                    /* the smallest subnormal */
	a[4][0] = bfloat_from_float(0x1p-100f);
	b[0][2] = bfloat_from_float(0x1p-40f); /* column 1 */
	c[4][1] = 0;
	_tile_loadd(0, c, 4 * N);
	_tile_loadd(1, a, 4 * K);
	_tile_loadd(2, b, 4 * N);
	_tile_dpbf16ps(0, 1, 2);
	_tile_stored(0, got, 4 * N);
	__asm__ volatile("" : : : "memory");
	_tile_release();
	for (int i = 0; i < 2; i++)
		for (int j = 0; j < N; j++) {
			double want = (double)c[i][j];
			for (int k = 0; k < 2 * K; k++)
				want += (double)bfloat_to_float(a[i][k]) *
					(double)bfloat_to_float(b[k / 2][2 * j + k % 2]);
			if (j != 1)
				assert_true((double)got[i][j] == want);
		}
	assert_true(got[2][0] == INFINITY);
	for (int j = 0; j < N; j++)
		assert_true(got[3][j] == c[3][j]);
	assert_true(float_bits(got[4][1]) == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_configuration),
					   cmocka_unit_test(test_memory), cmocka_unit_test(test_bytes),
					   cmocka_unit_test(test_bf16)};
	amx_provider p = amx_provide();
	print_message("tile instructions: %s\n", p == AMX_SILICON    ? "this processor's"
						 : p == AMX_EMULATED ? "emulated"
								     : "none");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
int main(void) { return 77; }
#endif
