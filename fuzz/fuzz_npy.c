/* NumPy arrays: what is read can be written, and is read back the same. */
static const char *const input_name = "x.npy";
#include "fuzz.h"

static void try_input(an_ctx *ctx, const char *path, const char *text, size_t len)
{
	an_type t, u;
	void *data, *again;
	(void)text;
	(void)len;
	if (!accepted(ctx, an_npy_read(ctx, path, &t, &data)))
		return;
	if (accepted(ctx, an_npy_write(ctx, path, &t, data))) {
		if (an_npy_read(ctx, path, &u, &again) != AN_OK || !an_type_equal(&t, &u) ||
		    memcmp(data, again, an_type_bytes(&t)) != 0)
			abort();
		an_npy_free(ctx, &u, again);
	}
	an_npy_free(ctx, &t, data);
}
