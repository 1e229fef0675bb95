/* libSystem: what the machine is called. */
#include "standin.h"

#include <string.h>

STANDIN_API int sysctlbyname(const char *name, void *old, size_t *old_size, const void *new, size_t new_size);

int sysctlbyname(const char *name, void *old, size_t *old_size, const void *new, size_t new_size)
{
	const char *value = standin()->chip;
	size_t n = strlen(value) + 1;
	if (strcmp(name, "machdep.cpu.brand_string") || new || new_size || *old_size < n)
		return -1;
	memcpy(old, value, n);
	*old_size = n;
	return 0;
}
