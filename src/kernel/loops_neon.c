/* The loops of loops.h, compiled for arm64's vectors. */
#include "kernel/loops.h"

#ifdef __aarch64__
#define LOOPS loops_neon
#define LOOPS_NEON
#include "kernel/turn_neon.h"
#include "kernel/loops_impl.h"
#endif
