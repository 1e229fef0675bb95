/* Instruction sets that kernels may be chosen for.  A mask is an argument of every
 * selection, so a test can ask what another machine would get. */
#ifndef BASE_ISA_H
#define BASE_ISA_H

#include "base/base.h"

/* ORDER ISA: bit i is named by word i of this list. */
#define ISA_LIST(X)                                                             \
	X(AVX2, "avx2")     /* with FMA and F16C */                             \
	X(AVX512, "avx512") /* F, BW, DQ, VL */                                 \
	X(AVX512_BF16, "avx512bf16")                                            \
	X(BF16_FAST, "bf16fast") /* its dot products beat fp32 multiply-adds */ \
	X(AVX512_FP16, "avx512fp16")                                            \
	X(AVX512_VNNI, "avx512vnni")                                            \
	X(AMX_BF16, "amxbf16")                                                  \
	X(AMX_INT8, "amxint8")                                                  \
	X(AMX_FP16, "amxfp16")                                                  \
	X(NEON, "neon")                                                         \
	X(NEON_FP16, "neonfp16")                                                \
	X(NEON_DOT, "neondot")                                                  \
	X(NEON_BF16, "neonbf16")                                                \
	X(NEON_I8MM, "neoni8mm")

enum {
#define X(name, text) ISA_INDEX_##name,
	ISA_LIST(X)
#undef X
	    ISA_COUNT
};
enum {
#define X(name, text) ISA_##name = 1 << ISA_INDEX_##name,
	ISA_LIST(X)
#undef X
};

/* What this CPU offers and the system lets us use (for AMX: asks Linux for permission).
 * 0 means portable C only. */
uint32_t isa_detect(void);
/* "avx2,avx512" -> mask; "portable" -> 0.  false: an unknown word. */
bool isa_parse(const char *text, uint32_t *mask);
/* Writes "avx2,avx512" or "portable". */
void isa_print(uint32_t mask, char *buf, size_t size);

#endif
