/* safetensors: eight bytes with the length of a JSON header, the header, the tensors' data
 * without gaps.  The header maps names to {"dtype", "shape", "data_offsets": [begin, end]},
 * offsets counted from the end of the header.
 * https://github.com/huggingface/safetensors#format */
#include "io/safetensors.h"

#include <jansson.h>
#include <stdlib.h>

/* The reference implementation's limit. */
#define MAX_HEADER 100000000

static const struct {
	const char *name;
	an_dtype dtype;
} dtypes[] = {{"F32", AN_FP32},   {"F16", AN_FP16},  {"BF16", AN_BF16},  {"I8", AN_INT8},
	      {"U8", AN_UINT8},   {"I16", AN_INT16}, {"U16", AN_UINT16}, {"I32", AN_INT32},
	      {"U32", AN_UINT32}, {"I64", AN_INT64}, {"U64", AN_UINT64}, {"BOOL", AN_BOOL}};

struct an_safetensors {
	an_ctx *ctx;
	const char *path;
	arena mem;
	file_view view;
	json_t *header;
	an_tensor_info *tensor; /* in the order of their data */
	int n;
	const an_tensor_info **by_name;
};

/* ---- Reading -------------------------------------------------------------------- */

/* Length of the header. */
static an_status read_length(const an_safetensors *s, size_t *out)
{
	const file_view *v = &s->view;
	if (v->size < 8)
		return fail(s->ctx, AN_FORMAT, "%s: has %zu bytes, too few for a safetensors file", s->path,
			    v->size);
	uint64_t n = 0;
	for (int i = 7; i >= 0; i--)
		n = n << 8 | v->data[i];
	if (n > MAX_HEADER)
		return fail(s->ctx, AN_FORMAT,
			    "%s: a header of %llu bytes is more than safetensors allows (%d); is this "
			    "a safetensors file?",
			    s->path, (unsigned long long)n, MAX_HEADER);
	if (n > v->size - 8)
		return fail(s->ctx, AN_FORMAT,
			    "%s: the header should have %llu bytes, but only %zu follow; the file is "
			    "cut off",
			    s->path, (unsigned long long)n, v->size - 8);
	*out = (size_t)n;
	return AN_OK;
}

static an_status read_dtype(const an_safetensors *s, const char *name, const json_t *v, uint8_t *out)
{
	const char *text = json_string_value(v);
	if (!text)
		return fail(s->ctx, AN_FORMAT, "%s: tensor \"%s\" has no \"dtype\"", s->path, name);
	for (int i = 0; i < LENGTH(dtypes); i++)
		if (strcmp(text, dtypes[i].name) == 0) {
			*out = (uint8_t)dtypes[i].dtype;
			return AN_OK;
		}
	return fail(s->ctx, AN_UNSUPPORTED, "%s: tensor \"%s\" has dtype \"%s\", which is not supported",
		    s->path, name, text);
}

/* Shape and the number of bytes that follows from it. */
static an_status read_shape(const an_safetensors *s, const char *name, const json_t *v, an_type *t,
			    uint64_t *bytes)
{
	if (!json_is_array(v))
		return fail(s->ctx, AN_FORMAT, "%s: tensor \"%s\" has no \"shape\"", s->path, name);
	size_t rank = json_array_size(v);
	if (rank > AN_MAX_RANK)
		return fail(s->ctx, AN_UNSUPPORTED, "%s: tensor \"%s\" has %zu dimensions, more than %d",
			    s->path, name, rank, AN_MAX_RANK);
	t->rank = (uint8_t)rank;
	*bytes = an_dtype_size(t->dtype);
	for (size_t i = 0; i < rank; i++) {
		const json_t *d = json_array_get(v, i);
		json_int_t n = json_integer_value(d);
		if (!json_is_integer(d) || n < 0)
			return fail(s->ctx, AN_FORMAT,
				    "%s: tensor \"%s\": dimension %zu is not a whole number", s->path, name,
				    i);
		if (n < 1 || n > INT32_MAX || __builtin_mul_overflow(*bytes, (uint64_t)n, bytes))
			return fail(s->ctx, AN_UNSUPPORTED,
				    "%s: tensor \"%s\": dimension %zu is %lld, expected 1 to %d and "
				    "a size below 2^64",
				    s->path, name, i, (long long)n, INT32_MAX);
		t->dim[i] = (int32_t)n;
	}
	return AN_OK;
}

static an_status read_tensor(an_safetensors *s, const char *name, const json_t *v, const uint8_t *data,
			     uint64_t data_size, an_tensor_info *out)
{
	if (!json_is_object(v))
		return fail(s->ctx, AN_FORMAT, "%s: the header's entry \"%s\" is not an object", s->path,
			    name);
	*out = (an_tensor_info){.type.tensor = true};
	uint64_t bytes = 0;
	TRY(read_dtype(s, name, json_object_get(v, "dtype"), &out->type.dtype));
	TRY(read_shape(s, name, json_object_get(v, "shape"), &out->type, &bytes));

	const json_t *offsets = json_object_get(v, "data_offsets"), *first = json_array_get(offsets, 0),
		     *last = json_array_get(offsets, 1);
	json_int_t begin = json_integer_value(first), end = json_integer_value(last);
	if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last) || begin < 0 ||
	    end < begin)
		return fail(s->ctx, AN_FORMAT, "%s: tensor \"%s\": \"data_offsets\" is not [begin, end]",
			    s->path, name);
	if ((uint64_t)end > data_size)
		return fail(s->ctx, AN_FORMAT,
			    "%s: tensor \"%s\" ends at byte %lld of the data, of which there are only "
			    "%llu; the file is cut off or damaged",
			    s->path, name, (long long)end, (unsigned long long)data_size);
	if ((uint64_t)(end - begin) != bytes) {
		char type[96];
		return fail(s->ctx, AN_FORMAT, "%s: tensor \"%s\" is a %s of %llu bytes, but has %lld",
			    s->path, name, an_type_text(&out->type, type, sizeof type),
			    (unsigned long long)bytes, (long long)(end - begin));
	}
	out->data = data + begin;
	out->bytes = (size_t)bytes;
	out->name = arena_strdup(&s->mem, name);
	return out->name ? AN_OK : fail_memory(s->ctx, strlen(name));
}

static int compare_data(const void *a, const void *b)
{
	const uint8_t *x = ((const an_tensor_info *)a)->data, *y = ((const an_tensor_info *)b)->data;
	return (x > y) - (x < y);
}

static int compare_names(const void *a, const void *b)
{
	return strcmp((*(const an_tensor_info *const *)a)->name, (*(const an_tensor_info *const *)b)->name);
}

static an_status check_metadata(const an_safetensors *s)
{
	const json_t *map = json_object_get(s->header, "__metadata__");
	const char *key;
	json_t *v;
	if (map && !json_is_object(map))
		return fail(s->ctx, AN_FORMAT, "%s: \"__metadata__\" is not an object", s->path);
	json_object_foreach((json_t *)(uintptr_t)map, key, v) if (!json_is_string(v)) return fail(
	    s->ctx, AN_FORMAT, "%s: \"__metadata__\": \"%s\" is not a string", s->path, key);
	return AN_OK;
}

static an_status read_header(an_safetensors *s)
{
	size_t length = 0;
	TRY(read_length(s, &length));
	json_error_t e;
	s->header = json_loadb((const char *)s->view.data + 8, length, JSON_REJECT_DUPLICATES, &e);
	if (!s->header)
		return fail(s->ctx, AN_FORMAT, "%s: the header is not valid JSON: %s (at its byte %d)",
			    s->path, e.text, e.position);
	if (!json_is_object(s->header))
		return fail(s->ctx, AN_FORMAT, "%s: the header is not a JSON object", s->path);
	TRY(check_metadata(s));

	const uint8_t *data = s->view.data + 8 + length;
	uint64_t size = s->view.size - 8 - length;
	size_t n = json_object_size(s->header);
	s->tensor = arena_array(&s->mem, n, sizeof *s->tensor);
	s->by_name = arena_array(&s->mem, n, sizeof *s->by_name);
	if (!s->tensor || !s->by_name)
		return fail_memory(s->ctx, n * sizeof *s->tensor);
	const char *name;
	json_t *v;
	json_object_foreach(s->header, name, v) if (strcmp(name, "__metadata__") != 0)
	    TRY(read_tensor(s, name, v, data, size, &s->tensor[s->n++]));

	qsort(s->tensor, (size_t)s->n, sizeof *s->tensor, compare_data);
	uint64_t end = 0;
	for (int i = 0; i < s->n; i++) {
		const an_tensor_info *t = &s->tensor[i];
		uint64_t begin = (uint64_t)((const uint8_t *)t->data - data);
		if (begin != end)
			return fail(s->ctx, AN_FORMAT,
				    "%s: tensor \"%s\" starts at byte %llu of the data, expected %llu: "
				    "the tensors %s",
				    s->path, t->name, (unsigned long long)begin, (unsigned long long)end,
				    begin < end ? "overlap" : "leave a gap");
		end = begin + t->bytes;
		s->by_name[i] = t;
	}
	if (end != size)
		return fail(s->ctx, AN_FORMAT, "%s: the tensors have %llu bytes, but %llu follow the header",
			    s->path, (unsigned long long)end, (unsigned long long)size);
	qsort(s->by_name, (size_t)s->n, sizeof *s->by_name, compare_names);
	return AN_OK;
}

an_status an_safetensors_open(an_ctx *ctx, const char *path, an_safetensors **out)
{
	*out = NULL;
	an_safetensors *s = mem_zalloc(ctx, sizeof *s);
	if (!s)
		return fail_memory(ctx, sizeof *s);
	s->ctx = ctx;
	s->path = path;
	arena_init(&s->mem, ctx);
	an_status status = file_open_view(ctx, path, &s->view);
	if (status == AN_OK)
		status = read_header(s);
	s->path = NULL; /* the caller's */
	if (status == AN_OK)
		*out = s;
	else
		an_safetensors_close(s);
	return status;
}

void an_safetensors_close(an_safetensors *s)
{
	if (!s)
		return;
	json_decref(s->header);
	file_close_view(s->ctx, &s->view);
	arena_free(&s->mem);
	mem_free(s->ctx, s, sizeof *s);
}

int an_safetensors_count(const an_safetensors *s) { return s->n; }

void an_safetensors_at(const an_safetensors *s, int i, an_tensor_info *out) { *out = s->tensor[i]; }

bool an_safetensors_find(const an_safetensors *s, const char *name, an_tensor_info *out)
{
	const an_tensor_info key = {.name = name}, *wanted = &key;
	const an_tensor_info **found =
	    s->n ? bsearch(&wanted, s->by_name, (size_t)s->n, sizeof *s->by_name, compare_names) : NULL;
	if (found)
		*out = **found;
	return found != NULL;
}

const char *an_safetensors_metadata(const an_safetensors *s, const char *key)
{
	return json_string_value(json_object_get(json_object_get(s->header, "__metadata__"), key));
}

/* ---- Writing -------------------------------------------------------------------- */

static an_status add_metadata(an_ctx *ctx, const char *path, json_t *header, const char *const *metadata)
{
	json_t *map = json_object();
	bool ok = map && json_object_set_new(header, "__metadata__", map) == 0;
	for (int i = 0; ok && metadata[i]; i += 2)
		ok = json_object_set_new(map, metadata[i], json_string(metadata[i + 1])) == 0;
	return ok ? AN_OK : fail(ctx, AN_USAGE, "%s: the metadata is not valid UTF-8", path);
}

static an_status add_tensor(an_ctx *ctx, const char *path, json_t *header, const an_tensor_info *t,
			    uint64_t *offset)
{
	const char *dtype = NULL;
	for (int i = 0; i < LENGTH(dtypes); i++)
		if (dtypes[i].dtype == t->type.dtype)
			dtype = dtypes[i].name;
	if (!dtype)
		return fail(ctx, AN_UNSUPPORTED,
			    "%s: tensor \"%s\" has type %s, which safetensors cannot store", path, t->name,
			    an_dtype_name(t->type.dtype));
	size_t bytes = an_type_bytes(&t->type);
	if (t->bytes != bytes)
		return fail(ctx, AN_USAGE, "%s: tensor \"%s\" needs %zu bytes, but %zu are given", path,
			    t->name, bytes, t->bytes);
	if (strcmp(t->name, "__metadata__") == 0 || json_object_get(header, t->name))
		return fail(ctx, AN_USAGE, "%s: the name \"%s\" is taken already", path, t->name);
	json_t *shape = json_array();
	for (int i = 0; i < t->type.rank; i++)
		json_array_append_new(shape, json_integer(t->type.dim[i]));
	json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype, "shape", shape, "data_offsets",
				  (json_int_t)*offset, (json_int_t)(*offset + bytes));
	if (!entry || json_array_size(json_object_get(entry, "shape")) != t->type.rank ||
	    json_object_set_new(header, t->name, entry) != 0)
		return fail(ctx, AN_USAGE,
			    "%s: the name of tensor \"%s\" is not valid UTF-8, or memory is out", path,
			    t->name);
	*offset += bytes;
	return AN_OK;
}

an_status st_begin(an_ctx *ctx, const char *path, const an_tensor_info *tensors, int n,
		   const char *const *metadata, file_out **out)
{
	*out = NULL;
	json_t *header = json_object();
	char *text = NULL;
	an_status s = header ? AN_OK : fail_memory(ctx, 0);
	if (s == AN_OK && metadata)
		s = add_metadata(ctx, path, header, metadata);
	uint64_t offset = 0;
	for (int i = 0; i < n && s == AN_OK; i++)
		s = add_tensor(ctx, path, header, &tensors[i], &offset);
	if (s == AN_OK) {
		text = json_dumps(header, JSON_COMPACT);
		s = text ? file_create(ctx, path, out) : fail_memory(ctx, 0);
	}
	if (s == AN_OK) {
		size_t len = strlen(text), padded = (len + 7) & ~(size_t)7; /* the data starts aligned */
		uint8_t length[8];
		for (int i = 0; i < 8; i++)
			length[i] = (uint8_t)((uint64_t)padded >> 8 * i);
		file_write(*out, length, 8);
		file_write(*out, text, len);
		file_write(*out, "       ", padded - len);
	}
	free(text);
	json_decref(header);
	return s;
}

static an_status write_all(an_ctx *ctx, const char *path, const an_tensor_info *tensors, int n,
			   const char *const *metadata)
{
	file_out *f;
	TRY(st_begin(ctx, path, tensors, n, metadata, &f));
	for (int i = 0; i < n; i++)
		file_write(f, tensors[i].data, tensors[i].bytes);
	return file_commit(f);
}

an_status an_safetensors_write(an_ctx *ctx, const char *path, const an_tensor_info *tensors, int n,
			       const char *const *metadata)
{
	/* larger elements first, so that each tensor is aligned to its own: some readers insist */
	size_t bytes = (size_t)n * sizeof *tensors;
	an_tensor_info *sorted = mem_alloc(ctx, bytes);
	if (!sorted)
		return fail_memory(ctx, bytes);
	int k = 0;
	for (size_t size = 8; size; size /= 2)
		for (int i = 0; i < n; i++)
			if (an_dtype_size(tensors[i].type.dtype) == size)
				sorted[k++] = tensors[i];
	for (int i = 0; i < n; i++)
		if (an_dtype_size(tensors[i].type.dtype) == 0)
			sorted[k++] = tensors[i]; /* refused by name below */
	an_status s = write_all(ctx, path, sorted, n, metadata);
	mem_free(ctx, sorted, bytes);
	return s;
}
