/* Blob storage files in the official layout (coremltools MILBlob StorageFormat.hpp):
 *   64-byte header {u32 count, u32 version = 2, u64 reserved[7]}, then per blob a 64-byte
 *   record {u32 0xDEADBEEF, u32 dtype, u64 size, u64 data offset, u64 padding bits,
 *   u64 reserved[4]} and the data, both aligned to 64.  MIL's offset is that of the record. */
#ifndef MIL_BLOB_H
#define MIL_BLOB_H

#include "base/base.h"
#include "base/file.h"
#include "anneal/mil.h"

typedef struct blob_record {
	an_dtype dtype;
	uint64_t size; /* bytes of data */
	const uint8_t *data;
} blob_record;

/* Reads the record at `offset` of a whole blob file; checks header, sentinel, dtype,
 * alignment and bounds, and that dtype and size are those of `want` (may be NULL).
 * `lenient` also accepts records that only carry the sentinel (data at offset + 64, size
 * from `want`), as some benchmarks in circulation write. */
an_status blob_read(an_ctx *ctx, const char *name, const uint8_t *file, size_t size, uint64_t offset,
		    const an_type *want, bool lenient, blob_record *out);

/* Writing: blobs are added in order, each returns the offset MIL refers to. */
typedef struct blob_writer blob_writer;
an_status blob_create(an_ctx *ctx, const char *path, uint32_t count, blob_writer **out);
an_status blob_add(blob_writer *w, const an_type *type, const void *data, uint64_t *offset);
/* The same at a given offset: a multiple of 64, not before the end of the last. */
an_status blob_add_at(blob_writer *w, uint64_t offset, const an_type *type, const void *data);
an_status blob_commit(blob_writer *w);
void blob_abandon(blob_writer *w);
/* Whether the format has a number for this element type. */
bool blob_holds(an_dtype t);
/* Where the next record starts after one at `offset` with `size` bytes of data. */
uint64_t blob_next_offset(uint64_t offset, uint64_t size);
#define BLOB_FIRST_OFFSET 64 /* the first record's offset */

/* The blob files a program keeps open; freed with it. */
void blob_set_free(an_program *p);

#endif
