/* Writing a safetensors file piece by piece. */
#ifndef IO_SAFETENSORS_H
#define IO_SAFETENSORS_H

#include "anneal/io.h"
#include "base/file.h"

/* Creates the file and writes its header.  The caller then writes each tensor's bytes with
 * file_write, in the given order (types, not `data`, are looked at), and commits or abandons. */
an_status st_begin(an_ctx *ctx, const char *path, const an_tensor_info *tensors, int n,
		   const char *const *metadata, file_out **out);

#endif
