/* What the CPU offers and the system lets us use. */
#include "base/isa.h"

#include <stdio.h>

static const char *const isa_name[ISA_COUNT] = {
#define X(name, text) [ISA_INDEX_##name] = text,
    ISA_LIST(X)
#undef X
};

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BIT(word, n) ((word) >> (n)&1)

/* The extended state components the system saves on a task switch (XCR0). */
static uint64_t saved_state(void)
{
	uint32_t lo, hi;
	__asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
	return (uint64_t)hi << 32 | lo;
}

/* Linux gives tile registers (8 KB a thread) only to a process that asks. */
static bool ask_for_tiles(void)
{
#ifdef __linux__
	enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
	return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
#else
	return false;
#endif
}

/* vdpbf16ps: AMD runs it at twice the rate of fp32 multiply-adds (Zen 4), Intel at half of it. */
static bool bf16_is_fast(void)
{
	uint32_t a, b, c, d;
	return __get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx && c == signature_AMD_ecx &&
	       d == signature_AMD_edx;
}

uint32_t isa_detect(void)
{
	uint32_t a, b, c, d, mask = 0;
	if (!__get_cpuid(1, &a, &b, &c, &d) || !BIT(c, 27)) /* OSXSAVE */
		return 0;
	uint64_t state = saved_state();
	bool ymm = (state & 6) == 6, zmm = (state & 0xe6) == 0xe6, tiles = (state & 0x60000) == 0x60000;
	bool fma = BIT(c, 12), f16c = BIT(c, 29);
	uint32_t b7, c7, d7, a71 = 0, b71, c71, d71;
	if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7))
		return 0;
	if (a >= 1)
		__get_cpuid_count(7, 1, &a71, &b71, &c71, &d71);
	if (ymm && fma && f16c && BIT(b7, 5))
		mask |= ISA_AVX2;
	/* F, DQ, BW, VL */
	if (zmm && (mask & ISA_AVX2) && BIT(b7, 16) && BIT(b7, 17) && BIT(b7, 30) && BIT(b7, 31)) {
		mask |= ISA_AVX512;
		if (BIT(a71, 5))
			mask |= ISA_AVX512_BF16 | (bf16_is_fast() ? ISA_BF16_FAST : 0);
		if (BIT(d7, 23))
			mask |= ISA_AVX512_FP16;
		if (BIT(c7, 11))
			mask |= ISA_AVX512_VNNI;
		if (tiles && BIT(d7, 24) && ask_for_tiles()) {
			if (BIT(d7, 22))
				mask |= ISA_AMX_BF16;
			if (BIT(d7, 25))
				mask |= ISA_AMX_INT8;
			if (BIT(a71, 21))
				mask |= ISA_AMX_FP16;
		}
	}
	return mask;
}

#elif defined(__aarch64__)

#if defined(__linux__)
#include <sys/auxv.h>

/* Bits of AT_HWCAP and AT_HWCAP2 as Linux documents them (Documentation/arch/arm64/elf_hwcaps). */
static bool offers(int word, int bit) { return getauxval(word == 2 ? AT_HWCAP2 : AT_HWCAP) >> bit & 1; }
#define OFFERS(word, bit, apple) offers(word, bit)

#elif defined(__APPLE__)
#include <sys/sysctl.h>

/* Names as in Apple's "Determining instruction set characteristics"; macOS 12 and later know them, and what
 * is not known is not there.  Not run on Apple hardware. */
static bool offers(const char *name)
{
	int value = 0;
	size_t size = sizeof value;
	return sysctlbyname(name, &value, &size, NULL, 0) == 0 && value != 0;
}
#define OFFERS(word, bit, apple) offers("hw.optional.arm." apple)

#else
#define OFFERS(word, bit, apple) false
#endif

uint32_t isa_detect(void)
{
	uint32_t mask = ISA_NEON;       /* no processor of this architecture is without */
	if (OFFERS(1, 10, "FEAT_FP16")) /* ASIMDHP */
		mask |= ISA_NEON_FP16;
	if (OFFERS(1, 20, "FEAT_DotProd")) /* ASIMDDP */
		mask |= ISA_NEON_DOT;
	if (OFFERS(2, 14, "FEAT_BF16"))
		mask |= ISA_NEON_BF16;
	if (OFFERS(2, 13, "FEAT_I8MM"))
		mask |= ISA_NEON_I8MM;
	return mask;
}

#else
uint32_t isa_detect(void) { return 0; }
#endif

bool isa_parse(const char *text, uint32_t *mask)
{
	uint32_t m = 0;
	if (strcmp(text, "portable") != 0) {
		while (*text) {
			size_t n = strcspn(text, ",");
			int i = 0;
			while (i < ISA_COUNT && (strncmp(text, isa_name[i], n) != 0 || isa_name[i][n]))
				i++;
			if (i == ISA_COUNT)
				return false;
			m |= UINT32_C(1) << i;
			text += n + (text[n] == ',');
		}
	}
	*mask = m;
	return true;
}

void isa_print(uint32_t mask, char *buf, size_t size)
{
	if (!size)
		return;
	size_t at = 0;
	buf[0] = 0;
	for (int i = 0; i < ISA_COUNT && at < size; i++)
		if (mask >> i & 1)
			at += (size_t)snprintf(buf + at, size - at, "%s%s", at ? "," : "", isa_name[i]);
	if (!mask)
		snprintf(buf, size, "portable");
}
