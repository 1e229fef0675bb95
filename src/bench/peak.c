/* What arithmetic units reach with operands in registers: independent chains of multiply-adds, one item per
 * thread.  Operands are random: units draw less power on zeros and clock higher. */
#include "bench/bench.h"

#include "base/half.h"
#include "base/random.h"

enum { DATA_BYTES = 8192 };
#define LOOPS      400000
#define TILE_LOOPS 100000

/* What a loop reads before it begins. */
typedef struct peak_data {
	_Alignas(64) uint8_t f32[DATA_BYTES], f16[DATA_BYTES], bf16[DATA_BYTES], i8[DATA_BYTES];
} peak_data;

#if defined(__x86_64__)
/* As many chains as hide the latency of a multiply-add, twice over. */
#define CHAINS     12
#define EACH(step) ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11\n" step "\n.endr\n"
#define CHAIN(name, member, op, reg)                                                                       \
	static void name(void *data, int64_t item, int worker)                                             \
	{                                                                                                  \
		const uint8_t *at = ((peak_data *)data)->member;                                           \
		long n = LOOPS;                                                                            \
		(void)item, (void)worker;                                                                  \
		__asm__ volatile("vmovups (%1), %%" reg "14\n vmovups 64(%1), %%" reg                      \
				 "15\n" EACH("vxorps %%xmm\\i, %%xmm\\i, %%xmm\\i") "1:\n" EACH(           \
				     op " %%" reg "14, %%" reg "15, %%" reg "\\i") "dec %0\n jnz 1b\n"     \
										   "vzeroupper"            \
				 : "+r"(n)                                                                 \
				 : "r"(at)                                                                 \
				 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", \
				   "xmm9", "xmm10", "xmm11", "xmm14", "xmm15", "cc", "memory");            \
	}
CHAIN(run_avx512, f32, "vfmadd231ps", "zmm")
CHAIN(run_avx512_fp16, f16, "vfmadd231ph", "zmm")
CHAIN(run_avx512_bf16, bf16, "vdpbf16ps", "zmm")
CHAIN(run_avx2, f32, "vfmadd231ps", "ymm")

/* Eight tiles of 16 rows of 64 bytes (Intel, "Intrinsics Guide", tile configuration). */
static const struct tile_config {
	_Alignas(64) uint8_t palette;
	uint8_t start_row, reserved[14];
	uint16_t bytes[16];
	uint8_t rows[16];
} tile_config = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};

/* 2 x 2 tiles of sums, two steps deep. */
#define TILES(name, member, op)                                                                          \
	static void name(void *data, int64_t item, int worker)                                           \
	{                                                                                                \
		const uint8_t *at = ((peak_data *)data)->member;                                         \
		long n = TILE_LOOPS;                                                                     \
		(void)item, (void)worker;                                                                \
		__asm__ volatile("ldtilecfg %3\n tilezero %%tmm0\n tilezero %%tmm1\n tilezero %%tmm2\n"  \
				 "tilezero %%tmm3\n tileloadd (%1,%2,1), %%tmm4\n"                       \
				 "tileloadd 1024(%1,%2,1), %%tmm5\n tileloadd 2048(%1,%2,1), %%tmm6\n"   \
				 "tileloadd 3072(%1,%2,1), %%tmm7\n"                                     \
				 "1:\n" op " %%tmm6, %%tmm4, %%tmm0\n" op " %%tmm7, %%tmm4, %%tmm1\n" op \
				 " %%tmm6, %%tmm5, %%tmm2\n" op " %%tmm7, %%tmm5, %%tmm3\n"              \
				 "dec %0\n jnz 1b\n tilerelease"                                         \
				 : "+r"(n)                                                               \
				 : "r"(at), "r"(64L), "m"(tile_config)                                   \
				 : "cc", "memory");                                                      \
	}
TILES(run_amx_bf16, bf16, "tdpbf16ps")
TILES(run_amx_int8, i8, "tdpbssd")
/* by its bytes: VEX.128.F2.0F38.W0 5C, which assemblers of 2022 do not know yet */
#define TDPFP16(b, modrm) ".byte 0xc4, 0xe2, " b ", 0x5c, " modrm "\n"
static void run_amx_fp16(void *data, int64_t item, int worker)
{
	const uint8_t *at = ((peak_data *)data)->f16;
	long n = TILE_LOOPS;
	(void)item, (void)worker;
	/* modrm: 11 sum a; vvvv: inverted b */
	__asm__ volatile("ldtilecfg %3\n tilezero %%tmm0\n tilezero %%tmm1\n tilezero %%tmm2\n"
			 "tilezero %%tmm3\n tileloadd (%1,%2,1), %%tmm4\n"
			 "tileloadd 1024(%1,%2,1), %%tmm5\n tileloadd 2048(%1,%2,1), %%tmm6\n"
			 "tileloadd 3072(%1,%2,1), %%tmm7\n"
			 "1:\n" TDPFP16("0x4b", "0xc4") TDPFP16("0x43", "0xcc") TDPFP16("0x4b", "0xd5")
			     TDPFP16("0x43", "0xdd") "dec %0\n jnz 1b\n tilerelease"
			 : "+r"(n)
			 : "r"(at), "r"(64L), "m"(tile_config)
			 : "cc", "memory");
}

#define VECTOR(lanes) (2.0 * (lanes)*CHAINS * LOOPS)
#define TILE(depth)   (2.0 * 16 * 16 * (depth)*4 * TILE_LOOPS)
#elif defined(__aarch64__)
#define CHAINS 20
#define EACH(step) \
	".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19\n" step "\n.endr\n"
#define CHAIN(name, member, step)                                                                            \
	static void name(void *data, int64_t item, int worker)                                               \
	{                                                                                                    \
		const uint8_t *at = ((peak_data *)data)->member;                                             \
		long n = LOOPS;                                                                              \
		(void)item, (void)worker;                                                                    \
		__asm__ volatile("ldp q30, q31, [%1]\n" EACH("movi v\\i\\().4s, #0") "1:\n" EACH(            \
				     step) "subs %0, %0, #1\n b.ne 1b\n"                                     \
				 : "+r"(n)                                                                   \
				 : "r"(at)                                                                   \
				 : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", \
				   "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v30", "v31",     \
				   "cc", "memory");                                                          \
	}
CHAIN(run_neon, f32, "fmla v\\i\\().4s, v30.4s, v31.4s")
/* By their bits (Arm, "Architecture Reference Manual", BFMMLA and SMMLA): assemblers differ in the names of
 * the extensions.  v[i] += v30 * v31. */
#define BITS(bits)    ".inst " bits " | 31 << 16 | 30 << 5 | \\i"
CHAIN(run_neon_fp16, f16, BITS("0x4e400c00"))
CHAIN(run_neon_bf16, bf16, BITS("0x6e40ec00"))
CHAIN(run_neon_i8mm, i8, BITS("0x4e80a400"))
#define VECTOR(lanes) (2.0 * (lanes)*CHAINS * LOOPS)
#endif

/* Multiply, then add, in vectors of what every processor of the kind has. */
typedef float four __attribute__((vector_size(16)));
static void run_portable(void *data, int64_t item, int worker)
{
	enum { SUMS = 8 };
	const float *x = (const float *)((peak_data *)data)->f32;
	four a = {x[0], x[1], x[2], x[3]}, c = {x[4], x[5], x[6], x[7]}, s[SUMS];
	(void)item, (void)worker;
	for (int i = 0; i < SUMS; i++)
		s[i] = a + (float)i;
	for (long n = 0; n < LOOPS; n++)
		for (int i = 0; i < SUMS; i++)
			s[i] = s[i] * a + c;
	for (int i = 1; i < SUMS; i++)
		s[0] += s[i];
	__asm__ volatile("" : : "r"(&s[0]) : "memory");
}

static const peak_unit all_units[] = {
#if defined(__x86_64__)
    {"amx-bf16", "AMX, bf16 products, f32 sums", ISA_AMX_BF16, BENCH_FAST | BENCH_IEEE, 0.25, TILE(32),
     run_amx_bf16},
    {"amx-fp16", "AMX, fp16 products, f32 sums", ISA_AMX_FP16, BENCH_FAST | BENCH_IEEE, 1, TILE(32),
     run_amx_fp16},
    {"amx-int8", "AMX, int8 products, int32 sums", ISA_AMX_INT8, 0, 1, TILE(64), run_amx_int8},
    {"avx512-fp16", "AVX512-FP16, fp16 multiply-add", ISA_AVX512_FP16, BENCH_FAST, 1, VECTOR(32),
     run_avx512_fp16},
    {"avx512-bf16", "AVX512-BF16, bf16 products, f32 sums", ISA_AVX512_BF16, BENCH_FAST, 1, VECTOR(32),
     run_avx512_bf16},
    {"avx512", "AVX-512, f32 multiply-add", ISA_AVX512, BENCH_FAST | BENCH_IEEE, 1, VECTOR(16), run_avx512},
    {"avx2", "AVX2, f32 multiply-add", ISA_AVX2, BENCH_FAST | BENCH_IEEE, 1, VECTOR(8), run_avx2},
#elif defined(__aarch64__)
    {"neon-bf16", "NEON, bf16 matrix products, f32 sums", ISA_NEON_BF16, BENCH_FAST, 1, VECTOR(16),
     run_neon_bf16},
    {"neon-fp16", "NEON, fp16 multiply-add", ISA_NEON_FP16, BENCH_FAST, 1, VECTOR(8), run_neon_fp16},
    {"neon-i8mm", "NEON, int8 matrix products, int32 sums", ISA_NEON_I8MM, 0, 1, VECTOR(32), run_neon_i8mm},
    {"neon", "NEON, f32 multiply-add", ISA_NEON, BENCH_FAST | BENCH_IEEE, 1, VECTOR(4), run_neon},
#endif
    {"portable", "C, f32 multiply and add", 0, BENCH_FAST | BENCH_IEEE, 1, 2.0 * 4 * 8 * LOOPS, run_portable},
};

const peak_unit *peak_at(int i) { return i < LENGTH(all_units) ? &all_units[i] : NULL; }

static void fill(peak_data *d)
{
	for (uint64_t i = 0; i < DATA_BYTES; i++)
		d->i8[i] = (uint8_t)random_bits(1, 0, i);
	for (uint64_t i = 0; i < DATA_BYTES / 4; i++)
		((float *)d->f32)[i] = (float)random_uniform(1, 1, i) - 0.5f;
	for (uint64_t i = 0; i < DATA_BYTES / 2; i++) {
		/* small enough that fp16 sums stay finite */
		float x = 0.05f * ((float)random_uniform(1, 2, i) - 0.5f);
		((half *)d->f16)[i] = half_from_float(x);
		((bfloat *)d->bf16)[i] = bfloat_from_float(x);
	}
}

typedef struct peak_run {
	const bench *b;
	const peak_unit *unit;
	peak_data *data;
} peak_run;

static void run(void *arg)
{
	peak_run *r = arg;
	pool_run(r->b->pool, r->unit->run, r->data, r->b->threads);
}

an_status peak_measure(const bench *b, const peak_unit *u, bench_times *t, double *rate)
{
	peak_run r = {.b = b, .unit = u, .data = mem_alloc_tensor(b->ctx, sizeof(peak_data))};
	if (!r.data)
		return fail_memory(b->ctx, sizeof(peak_data));
	fill(r.data);
	*t = measure(b, PATIENCE_LIMIT, run, &r);
	*rate = 1e-9 * u->ops * b->threads / t->median;
	mem_free_tensor(b->ctx, r.data, sizeof(peak_data));
	return AN_OK;
}
