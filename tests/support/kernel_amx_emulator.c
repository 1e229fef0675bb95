/* Tile instructions as Intel's Software Developer's Manual, volume 2, describes them: palette 1,
 * eight tiles of up to 16 rows of 64 bytes. */
#include "support/kernel_amx_emulator.h"

#if defined(__x86_64__) && defined(__linux__)
#include "base/half.h"
#include "base/isa.h"

#include <immintrin.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64 };

typedef struct tile_state {
	bool configured;
	uint8_t config[64];
	int rows[TILES], bytes[TILES];
	_Alignas(64) uint8_t data[TILES][ROWS][ROW_BYTES];
	long count;
} tile_state;
static _Thread_local tile_state state;

/* ---- Decoding --------------------------------------------------------------------- */

typedef struct instruction {
	int pp, opcode, length; /* pp: 0 none, 1 66, 2 F3, 3 F2 */
	int mod, reg, rm, vvvv;
	uint64_t address; /* base + displacement, or base + displacement + index * scale */
	int64_t stride;   /* index * scale; tile loads and stores: bytes between rows */
} instruction;

/* Register by its number in instruction encodings. */
static uint64_t general(const ucontext_t *u, int number)
{
	static const int at[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
				   REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
	return (uint64_t)u->uc_mcontext.gregs[at[number]];
}

/* A three-byte VEX instruction of map 0F38, 128 bits wide, W = 0; false: something else. */
static bool decode(const ucontext_t *u, instruction *x)
{
	const uint8_t *p = (const uint8_t *)(uintptr_t)u->uc_mcontext.gregs[REG_RIP], *start = p;
	if (p[0] != 0xc4 || (p[1] & 0x1f) != 2 || (p[2] & 0x84) != 0)
		return false;
	int r = !(p[1] & 0x80) << 3, index_high = !(p[1] & 0x40) << 3, b = !(p[1] & 0x20) << 3;
	x->vvvv = ~p[2] >> 3 & 15;
	x->pp = p[2] & 3;
	x->opcode = p[3];
	p += 4;
	x->mod = *p >> 6;
	x->reg = (*p >> 3 & 7) | r;
	x->rm = (*p++ & 7);
	x->address = 0;
	x->stride = 0;
	if (x->mod == 3) {
		x->rm |= b;
		x->length = (int)(p - start);
		return true;
	}
	int base = x->rm, index = 4, scale = 0;
	bool has_base = true;
	if (base == 4) {
		scale = *p >> 6;
		index = (*p >> 3 & 7) | index_high;
		base = *p++ & 7;
	}
	if (x->mod == 0 && base == 5) {
		has_base =
		    false; /* a 32-bit displacement; without index byte relative to the next instruction */
		if (x->rm == 5)
			x->address = (uint64_t)(uintptr_t)(p + 4);
	}
	if (has_base)
		x->address = general(u, base | b);
	if (index != 4)
		x->stride = (int64_t)general(u, index) * (1 << scale);
	if (x->mod == 1) {
		x->address += (uint64_t)(int64_t)(int8_t)*p++;
	} else if (x->mod == 2 || !has_base) {
		int32_t d;
		memcpy(&d, p, 4);
		p += 4;
		x->address += (uint64_t)(int64_t)d;
	}
	x->length = (int)(p - start);
	return true;
}

/* ---- Performing ------------------------------------------------------------------- */

static void configure(const uint8_t *from)
{
	memcpy(state.config, from, sizeof state.config);
	state.configured = from[0] == 1;
	memset(state.data, 0, sizeof state.data);
	for (int t = 0; t < TILES; t++) {
		uint16_t bytes;
		memcpy(&bytes, from + 16 + 2 * t, 2);
		state.bytes[t] = state.configured ? bytes : 0;
		state.rows[t] = state.configured ? from[48 + t] : 0;
	}
}

/* The two elements of a word as floats; subnormal fp16 become normal fp32 and count. */
static void elements(uint32_t word, bool bf16, float *low, float *high)
{
	if (!bf16) {
		*low = half_to_float((half)(word & 0xffff));
		*high = half_to_float((half)(word >> 16));
		return;
	}
	const uint32_t lo = word << 16, hi = word & 0xffff0000;
	memcpy(low, &lo, 4);
	memcpy(high, &hi, 4);
}

/* c[m][n] += sum of pairs of bf16 or fp16: even and odd elements are summed separately by fused
 * multiply-adds, rounded to nearest, with subnormal fp32 taken and left as zero; then both sums, then c. */
__attribute__((target("avx2,fma"))) static void dot_pairs(int c, int a, int b, bool bf16)
{
	unsigned csr = _mm_getcsr();
	_mm_setcsr(0x9fc0); /* round to nearest, exceptions masked, FTZ and DAZ */
	for (int m = 0; m < state.rows[c]; m++) {
		float even[ROW_BYTES / 4] = {0}, odd[ROW_BYTES / 4] = {0}, row[ROW_BYTES / 4];
		uint32_t aw[ROW_BYTES / 4], bw[ROW_BYTES / 4];
		memcpy(aw, state.data[a][m], sizeof aw);
		memcpy(row, state.data[c][m], sizeof row);
		for (int k = 0; k < state.bytes[a] / 4; k++) {
			memcpy(bw, state.data[b][k], sizeof bw);
			float a0, a1;
			elements(aw[k], bf16, &a0, &a1);
			for (int n = 0; n < state.bytes[c] / 4; n++) {
				float b0, b1;
				elements(bw[n], bf16, &b0, &b1);
				even[n] = __builtin_fmaf(a0, b0, even[n]);
				odd[n] = __builtin_fmaf(a1, b1, odd[n]);
			}
		}
		for (int n = 0; n < state.bytes[c] / 4; n++)
			row[n] += even[n] + odd[n];
		memcpy(state.data[c][m], row, (size_t)state.bytes[c]);
	}
	_mm_setcsr(csr);
}

/* c[m][n] += sum of four products of bytes; the sum wraps. */
static void dot_bytes(int c, int a, int b, bool signed_a, bool signed_b)
{
	for (int m = 0; m < state.rows[c]; m++)
		for (int n = 0; n < state.bytes[c] / 4; n++) {
			uint32_t sum;
			memcpy(&sum, &state.data[c][m][4 * n], 4);
			for (int k = 0; k < state.bytes[a] / 4; k++)
				for (int i = 0; i < 4; i++) {
					uint8_t x = state.data[a][m][4 * k + i],
						y = state.data[b][k][4 * n + i];
					sum += (uint32_t)((signed_a ? (int8_t)x : x) *
							  (signed_b ? (int8_t)y : y));
				}
			memcpy(&state.data[c][m][4 * n], &sum, 4);
		}
}

/* false: not a tile instruction, or one that would fault */
static bool perform(const instruction *x)
{
	enum { NP, P66, PF3, PF2 };
	uint8_t *memory = (uint8_t *)(uintptr_t)x->address;
	if (x->opcode == 0x49 && x->mod != 3) { /* LDTILECFG, STTILECFG */
		uint8_t *at = memory + x->stride;
		if (x->pp == NP)
			configure(at);
		else
			memcpy(at, state.config, sizeof state.config);
		return x->pp == NP || x->pp == P66;
	}
	if (x->opcode == 0x49 && x->pp == NP) { /* TILERELEASE */
		memset(state.config, 0, sizeof state.config);
		configure(state.config);
		return true;
	}
	if (!state.configured || x->reg >= TILES)
		return false;
	uint8_t(*tile)[ROW_BYTES] = state.data[x->reg];
	const int rows = state.rows[x->reg], bytes = state.bytes[x->reg];
	if (x->opcode == 0x49 && x->pp == PF2) { /* TILEZERO */
		memset(tile, 0, sizeof *state.data);
		return true;
	}
	if (x->opcode == 0x4b && x->mod != 3) { /* TILELOADD, TILELOADDT1, TILESTORED */
		if (x->pp == PF3) {
			for (int i = 0; i < rows; i++)
				memcpy(memory + i * x->stride, tile[i], (size_t)bytes);
			return true;
		}
		memset(tile, 0, sizeof *state.data);
		for (int i = 0; i < rows; i++)
			memcpy(tile[i], memory + i * x->stride, (size_t)bytes);
		return x->pp == PF2 || x->pp == P66;
	}
	if (x->mod != 3 || x->rm >= TILES || x->vvvv >= TILES)
		return false;
	/* TDP..: c in reg, a in rm, b in vvvv; their shapes must agree */
	int c = x->reg, a = x->rm, b = x->vvvv;
	if (state.rows[c] != state.rows[a] || state.bytes[c] != state.bytes[b] ||
	    state.bytes[a] != state.rows[b] * 4)
		return false;
	if (x->opcode == 0x5c && (x->pp == PF3 || x->pp == PF2)) /* TDPBF16PS, TDPFP16PS */
		dot_pairs(c, a, b, x->pp == PF3);
	else if (x->opcode == 0x5e) /* TDPBUUD, TDPBUSD, TDPBSUD, TDPBSSD */
		dot_bytes(c, a, b, x->pp == PF3 || x->pp == PF2, x->pp == P66 || x->pp == PF2);
	else
		return false;
	return true;
}

static void on_illegal(int number, siginfo_t *info, void *context)
{
	ucontext_t *u = context;
	instruction x;
	(void)info;
	if (decode(u, &x) && perform(&x)) {
		state.count++;
		u->uc_mcontext.gregs[REG_RIP] += x.length;
		return;
	}
	signal(number, SIG_DFL); /* runs into it again and ends */
}

amx_provider amx_provide(void)
{
	if (isa_detect() & ISA_AMX_BF16)
		return AMX_SILICON;
	if (!(isa_detect() & ISA_AVX2))
		return AMX_NONE;
	struct sigaction sa;
	memset(&sa, 0, sizeof sa);
	sa.sa_sigaction = on_illegal;
	sa.sa_flags = SA_SIGINFO | SA_NODEFER;
	sigemptyset(&sa.sa_mask);
	return sigaction(SIGILL, &sa, NULL) == 0 ? AMX_EMULATED : AMX_NONE;
}

long amx_emulated_count(void) { return state.count; }

#else
amx_provider amx_provide(void) { return AMX_NONE; }
long amx_emulated_count(void) { return 0; }
#endif
