/* AMX instructions on a machine without AMX: a handler of SIGILL decodes and performs them, so
 * that kernels made of them can be tested on any x86-64.  Each instruction costs microseconds. */
#ifndef SUPPORT_KERNEL_AMX_EMULATOR_H
#define SUPPORT_KERNEL_AMX_EMULATOR_H

#include <stdbool.h>

typedef enum amx_provider {
	AMX_NONE,    /* not x86-64, or without what the emulator itself needs */
	AMX_SILICON, /* the processor has tiles and the system grants them */
	AMX_EMULATED
} amx_provider;

/* Makes tile instructions work in this process, by the processor or by emulation. */
amx_provider amx_provide(void);

/* Instructions emulated so far by this thread. */
long amx_emulated_count(void);

#endif
