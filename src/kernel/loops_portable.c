/* The loops of loops.h, in C alone. */
#include "kernel/loops.h"

#define LOOPS loops_portable
#include "kernel/loops_impl.h"
