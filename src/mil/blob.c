/* Blob storage files: the record at an offset, and writing whole files. */
#include "mil/blob.h"

#define ALIGNMENT 64
#define SENTINEL  UINT32_C(0xDEADBEEF)
#define VERSION   2

/* Field positions; numbers are little endian. */
enum { FILE_COUNT = 0, FILE_VERSION = 4, FILE_HEADER = 64 };
enum {
	RECORD_SENTINEL = 0,
	RECORD_DTYPE = 4,
	RECORD_SIZE = 8,
	RECORD_DATA = 16,
	RECORD_PADDING = 24,
	RECORD = 64
};

static uint32_t get32(const uint8_t *p) { return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24; }
static uint64_t get64(const uint8_t *p) { return get32(p) | (uint64_t)get32(p + 4) << 32; }
static void put32(uint8_t *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> 8 * i);
}
static void put64(uint8_t *p, uint64_t v)
{
	put32(p, (uint32_t)v);
	put32(p + 4, (uint32_t)(v >> 32));
}

/* The dtype numbers of the format (StorageFormat.hpp). */
static const uint8_t dtype_number[AN_DTYPE_COUNT] = {
#define X(id, text, bytes, blob) [AN_##id] = blob,
    AN_DTYPE_LIST(X)
#undef X
};

bool blob_holds(an_dtype t) { return (unsigned)t < AN_DTYPE_COUNT && dtype_number[t]; }

static an_dtype dtype_of_number(uint32_t number)
{
	for (int t = 0; number && t < AN_DTYPE_COUNT; t++)
		if (dtype_number[t] == number)
			return (an_dtype)t;
	return AN_NO_DTYPE;
}

an_status blob_read(an_ctx *ctx, const char *name, const uint8_t *file, size_t size, uint64_t offset,
		    const an_type *want, bool lenient, blob_record *out)
{
#define REFUSE(...) return fail_prefix(ctx, fail(ctx, AN_FORMAT, __VA_ARGS__), "%s, blob at %llu", name, at)
	unsigned long long at = offset;
	char text[96];
	uint64_t bytes = want ? an_type_bytes(want) : 0;
	*out = (blob_record){0};
	if (!lenient) {
		if (size < FILE_HEADER)
			REFUSE("the file has %zu bytes, not even the header of %d", size, FILE_HEADER);
		if (get32(file + FILE_VERSION) != VERSION)
			REFUSE("the file's version is %u, must be %d (is it a blob storage file?)",
			       get32(file + FILE_VERSION), VERSION);
		if (offset < FILE_HEADER || offset % ALIGNMENT)
			REFUSE("records start at multiples of %d from %d on", ALIGNMENT, FILE_HEADER);
	}
	if (offset > size || size - offset < RECORD)
		REFUSE("the record ends after the file's %zu bytes", size);
	const uint8_t *r = file + offset;
	if (get32(r + RECORD_SENTINEL) != SENTINEL)
		REFUSE("there is no record: it would start with 0x%X, found 0x%X", SENTINEL,
		       get32(r + RECORD_SENTINEL));
	uint64_t length = get64(r + RECORD_SIZE), data = get64(r + RECORD_DATA);
	an_dtype dtype = dtype_of_number(get32(r + RECORD_DTYPE));
	if (lenient && want) { /* only the sentinel is believed, and a data offset that is there */
		length = bytes;
		dtype = (an_dtype)want->dtype;
		data = data ? data : offset + RECORD;
	}
	if (dtype == AN_NO_DTYPE)
		REFUSE("element type %u is not known", get32(r + RECORD_DTYPE));
	if (want && dtype != want->dtype)
		REFUSE("holds %s, the program says %s", an_dtype_name(dtype),
		       an_type_text(want, text, sizeof text));
	if (want && length != bytes)
		REFUSE("holds %llu bytes, %s needs %llu", (unsigned long long)length,
		       an_type_text(want, text, sizeof text), (unsigned long long)bytes);
	if (!lenient && (data < offset + RECORD || data % ALIGNMENT))
		REFUSE("the data start at %llu, must start at a multiple of %d after the record",
		       (unsigned long long)data, ALIGNMENT);
	if (!lenient && get64(r + RECORD_PADDING))
		REFUSE("%llu bits of padding are not supported",
		       (unsigned long long)get64(r + RECORD_PADDING));
	if (data > size || size - data < length)
		REFUSE("the data, %llu bytes at %llu, end after the file's %zu bytes: it is truncated or "
		       "malformed",
		       (unsigned long long)length, (unsigned long long)data, size);
	*out = (blob_record){dtype, length, file + data};
	return AN_OK;
#undef REFUSE
}

uint64_t blob_next_offset(uint64_t offset, uint64_t size)
{
	return (offset + RECORD + size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

/* ---- Writing ----------------------------------------------------------------------- */

struct blob_writer {
	an_ctx *ctx;
	file_out *file;
	uint32_t count, added;
	uint64_t at; /* offset of the next record */
};

static void pad_to(file_out *f, uint64_t offset)
{
	static const uint8_t zeros[ALIGNMENT];
	for (uint64_t at = file_tell(f); at < offset; at += MIN(offset - at, ALIGNMENT))
		file_write(f, zeros, (size_t)MIN(offset - at, ALIGNMENT));
}

an_status blob_create(an_ctx *ctx, const char *path, uint32_t count, blob_writer **out)
{
	uint8_t header[FILE_HEADER] = {0};
	*out = NULL;
	blob_writer *w = mem_zalloc(ctx, sizeof *w);
	if (!w)
		return fail_memory(ctx, sizeof *w);
	an_status s = file_create(ctx, path, &w->file);
	if (s != AN_OK) {
		mem_free(ctx, w, sizeof *w);
		return s;
	}
	w->ctx = ctx;
	w->count = count;
	w->at = BLOB_FIRST_OFFSET;
	put32(header + FILE_COUNT, count);
	put32(header + FILE_VERSION, VERSION);
	file_write(w->file, header, sizeof header);
	*out = w;
	return AN_OK;
}

an_status blob_add_at(blob_writer *w, uint64_t offset, const an_type *type, const void *data)
{
	uint8_t record[RECORD] = {0};
	char text[96];
	if (!blob_holds(type->dtype))
		return fail(w->ctx, AN_UNSUPPORTED, "%s cannot be stored in a blob file",
			    an_type_text(type, text, sizeof text));
	if (offset < w->at || offset % ALIGNMENT)
		return fail(w->ctx, AN_USAGE,
			    "a blob cannot be written at offset %llu: the next place is %llu",
			    (unsigned long long)offset, (unsigned long long)w->at);
	size_t bytes = an_type_bytes(type);
	put32(record + RECORD_SENTINEL, SENTINEL);
	put32(record + RECORD_DTYPE, dtype_number[type->dtype]);
	put64(record + RECORD_SIZE, bytes);
	put64(record + RECORD_DATA, offset + RECORD);
	pad_to(w->file, offset);
	file_write(w->file, record, sizeof record);
	file_write(w->file, data, bytes);
	w->at = blob_next_offset(offset, bytes);
	w->added++;
	return AN_OK;
}

an_status blob_add(blob_writer *w, const an_type *type, const void *data, uint64_t *offset)
{
	*offset = w->at;
	return blob_add_at(w, w->at, type, data);
}

an_status blob_commit(blob_writer *w)
{
	an_ctx *ctx = w->ctx;
	if (w->added != w->count) {
		an_status s = fail(ctx, AN_INTERNAL, "%u of %u blobs were written", w->added, w->count);
		blob_abandon(w);
		return s;
	}
	pad_to(w->file, w->at);
	an_status s = file_commit(w->file);
	mem_free(ctx, w, sizeof *w);
	return s;
}

void blob_abandon(blob_writer *w)
{
	if (!w)
		return;
	file_abandon(w->file);
	mem_free(w->ctx, w, sizeof *w);
}
