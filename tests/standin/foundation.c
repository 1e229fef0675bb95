/* Foundation: the temporary directory. */
#include "standin.h"

#include <stdio.h>

STANDIN_API void *NSTemporaryDirectory(void);

void *NSTemporaryDirectory(void)
{
	char path[1100];
	if (standin_fails("NSTemporaryDirectory"))
		return NULL;
	snprintf(path, sizeof path, "%s/", standin()->temporary); /* the real one ends so, too */
	return standin_make_string(path);
}
