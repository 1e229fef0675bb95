/* NumPy's .npy: "\x93NUMPY", version, length of the header, the header (a Python dictionary
 * with the keys descr, fortran_order and shape), the array.
 * https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html */
#include "anneal/io.h"
#include "base/file.h"

#define MAGIC      "\x93NUMPY"
#define MAX_HEADER 65536

/* descr without its first character, the byte order. */
static const struct {
	char name[3];
	an_dtype dtype; /* f8 becomes fp32 */
} dtypes[] = {{"f4", AN_FP32},   {"f2", AN_FP16},   {"f8", AN_FP32},   {"i1", AN_INT8},
	      {"i2", AN_INT16},  {"i4", AN_INT32},  {"i8", AN_INT64},  {"u1", AN_UINT8},
	      {"u2", AN_UINT16}, {"u4", AN_UINT32}, {"u8", AN_UINT64}, {"b1", AN_BOOL}};

/* ---- The header ----------------------------------------------------------------- */

typedef struct header {
	an_ctx *ctx;
	const char *path, *p, *end; /* what is left of the dictionary */
	char order, name[3];        /* '<', '>' or '|' and "f4" */
	bool fortran;
	an_type type;
	size_t data; /* where the array starts in the file */
} header;

static an_status malformed(const header *h, const char *expected)
{
	int n = (int)MIN(h->end - h->p, 24);
	return fail(h->ctx, AN_FORMAT, "%s: malformed header: expected %s before \"%.*s\"", h->path, expected,
		    n, h->p);
}

static void skip_space(header *h)
{
	while (h->p < h->end && (*h->p == ' ' || *h->p == '\t' || *h->p == '\n'))
		h->p++;
}

static bool take_char(header *h, char c)
{
	skip_space(h);
	if (h->p == h->end || *h->p != c)
		return false;
	h->p++;
	return true;
}

static bool take_word(header *h, const char *word)
{
	size_t n = strlen(word);
	skip_space(h);
	if ((size_t)(h->end - h->p) < n || memcmp(h->p, word, n) != 0)
		return false;
	h->p += n;
	return true;
}

/* 'text' or "text" of fewer than `size` characters. */
static bool take_string(header *h, char *out, size_t size)
{
	skip_space(h);
	const char *p = h->p;
	if (p == h->end || (*p != '\'' && *p != '"'))
		return false;
	const char *close = memchr(p + 1, *p, (size_t)(h->end - p) - 1);
	if (!close || (size_t)(close - p - 1) >= size)
		return false;
	memcpy(out, p + 1, (size_t)(close - p - 1));
	out[close - p - 1] = 0;
	h->p = close + 1;
	return true;
}

static an_status read_descr(header *h)
{
	char descr[16];
	if (!take_string(h, descr, sizeof descr))
		return fail(h->ctx, AN_UNSUPPORTED,
			    "%s: arrays of records, or of types with long names, are not supported", h->path);
	for (int i = 0; i < LENGTH(dtypes); i++)
		if (descr[0] && strchr("<>|=", descr[0]) && strcmp(descr + 1, dtypes[i].name) == 0) {
			h->order = descr[0];
			memcpy(h->name, dtypes[i].name, sizeof h->name);
			h->type.dtype = (uint8_t)dtypes[i].dtype;
			return AN_OK;
		}
	return fail(h->ctx, AN_UNSUPPORTED,
		    "%s: dtype '%s' is not supported; expected f2, f4, f8, i1..i8, u1..u8 or b1", h->path,
		    descr);
}

static an_status read_shape(header *h)
{
	if (!take_char(h, '('))
		return malformed(h, "the shape's (");
	uint64_t count = 1;
	while (!take_char(h, ')')) {
		if (h->type.rank == AN_MAX_RANK)
			return fail(h->ctx, AN_UNSUPPORTED, "%s: has more than %d dimensions", h->path,
				    AN_MAX_RANK);
		skip_space(h);
		uint64_t d = 0;
		const char *digits = h->p;
		for (; h->p < h->end && *h->p >= '0' && *h->p <= '9' && d <= INT32_MAX; h->p++)
			d = d * 10 + (uint64_t)(*h->p - '0');
		if (h->p == digits)
			return malformed(h, "a dimension");
		if (d < 1 || d > INT32_MAX || __builtin_mul_overflow(count, d, &count) ||
		    count > INT64_MAX / 8)
			return fail(h->ctx, AN_UNSUPPORTED,
				    "%s: dimension %d is outside 1 to %d, or the array too large", h->path,
				    h->type.rank, INT32_MAX);
		h->type.dim[h->type.rank++] = (int32_t)d;
		/* (3) is a number in Python, not a shape: one dimension has its comma too */
		if (!take_char(h, ',') && (h->type.rank == 1 || h->p == h->end || *h->p != ')'))
			return malformed(h, "a comma");
	}
	return AN_OK;
}

static an_status read_dictionary(header *h)
{
	enum { DESCR = 1, FORTRAN = 2, SHAPE = 4 };
	int seen = 0;
	h->type.tensor = true;
	if (!take_char(h, '{'))
		return malformed(h, "{");
	while (!take_char(h, '}')) {
		char key[16];
		if (!take_string(h, key, sizeof key) || !take_char(h, ':'))
			return malformed(h, "a key and a colon");
		int which = strcmp(key, "descr") == 0           ? DESCR
			    : strcmp(key, "fortran_order") == 0 ? FORTRAN
			    : strcmp(key, "shape") == 0         ? SHAPE
								: 0;
		if (!which || (seen & which))
			return fail(h->ctx, AN_FORMAT, "%s: malformed header: key '%s' is %s", h->path, key,
				    which ? "there twice" : "unknown");
		seen |= which;
		if (which == DESCR) {
			TRY(read_descr(h));
		} else if (which == SHAPE) {
			TRY(read_shape(h));
		} else {
			h->fortran = take_word(h, "True");
			if (!h->fortran && !take_word(h, "False"))
				return malformed(h, "True or False");
		}
		skip_space(h);
		if (!take_char(h, ',') && (h->p == h->end || *h->p != '}'))
			return malformed(h, ", or }");
	}
	skip_space(h);
	if (h->p != h->end)
		return malformed(h, "the end of the header");
	if (seen != (DESCR | FORTRAN | SHAPE))
		return fail(h->ctx, AN_FORMAT,
			    "%s: malformed header: expected the keys descr, fortran_order and shape",
			    h->path);
	return AN_OK;
}

static an_status read_header(header *h, const file_view *v)
{
	if (v->size < 10 || memcmp(v->data, MAGIC, 6) != 0)
		return fail(h->ctx, AN_FORMAT, "%s: is not a NumPy array (.npy)", h->path);
	int major = v->data[6], wide = major > 1;
	if (major < 1 || major > 3 || v->data[7] != 0)
		return fail(h->ctx, AN_UNSUPPORTED,
			    "%s: format version %d.%d is not supported; expected 1.0 to 3.0", h->path, major,
			    v->data[7]);
	size_t start = wide ? 12 : 10;
	uint64_t n = v->data[8] | (uint64_t)v->data[9] << 8;
	if (wide && v->size >= start)
		n |= (uint64_t)v->data[10] << 16 | (uint64_t)v->data[11] << 24;
	if (v->size < start || n > v->size - start || n > MAX_HEADER)
		return fail(h->ctx, AN_FORMAT,
			    "%s: a header of %llu bytes does not fit; the file is cut off or damaged",
			    h->path, (unsigned long long)n);
	h->p = (const char *)v->data + start;
	h->end = h->p + n;
	h->data = start + (size_t)n;
	return read_dictionary(h);
}

/* ---- The array ------------------------------------------------------------------ */

/* Copies one element, in the machine's (little-endian) order; b1 becomes 0 or 1. */
static void read_element(const header *h, const uint8_t *from, size_t size, uint8_t *to)
{
	uint8_t e[8];
	for (size_t i = 0; i < size; i++)
		e[i] = from[h->order == '>' ? size - 1 - i : i];
	if (strcmp(h->name, "f8") == 0) {
		double d;
		memcpy(&d, e, sizeof d);
		float f = (float)d;
		memcpy(to, &f, sizeof f);
	} else if (h->type.dtype == AN_BOOL) {
		*to = e[0] != 0;
	} else {
		memcpy(to, e, size);
	}
}

static void read_elements(const header *h, const uint8_t *from, size_t size, uint8_t *to)
{
	const an_type *t = &h->type;
	size_t out = an_dtype_size(t->dtype);
	int64_t count = an_type_count(t);
	/* in Fortran's order the first axis is contiguous: step[k] elements of the file per step along axis k
	 */
	int64_t step[AN_MAX_RANK], index[AN_MAX_RANK] = {0}, at = 0;
	for (int k = 0; k < t->rank; k++)
		step[k] = k ? step[k - 1] * t->dim[k - 1] : 1;
	for (int64_t i = 0; i < count; i++, to += out) {
		read_element(h, from + (size_t)(h->fortran ? at : i) * size, size, to);
		for (int k = t->rank - 1; h->fortran && k >= 0; k--) {
			at += step[k];
			if (++index[k] < t->dim[k])
				break;
			at -= index[k] * step[k];
			index[k] = 0;
		}
	}
}

static an_status read_array(header *h, const file_view *v, void **out)
{
	TRY(read_header(h, v));
	size_t size = (size_t)(h->name[1] - '0'), have = v->size - h->data;
	size_t count = (size_t)an_type_count(&h->type), bytes = an_type_bytes(&h->type);
	if (have != count * size)
		return fail(h->ctx, AN_FORMAT,
			    "%s: %zu elements of %zu bytes should follow the header, but %zu bytes do",
			    h->path, count, size, have);
	*out = mem_alloc_tensor(h->ctx, bytes);
	if (!*out)
		return fail_memory(h->ctx, bytes);
	read_elements(h, v->data + h->data, size, *out);
	return AN_OK;
}

an_status an_npy_read(an_ctx *ctx, const char *path, an_type *type, void **data)
{
	header h = {.ctx = ctx, .path = path};
	file_view v;
	*data = NULL;
	TRY(file_open_view(ctx, path, &v));
	an_status s = read_array(&h, &v, data);
	file_close_view(ctx, &v);
	if (s == AN_OK)
		*type = h.type;
	return s;
}

void an_npy_free(an_ctx *ctx, const an_type *type, void *data)
{
	if (data)
		mem_free_tensor(ctx, data, an_type_bytes(type));
}

an_status an_npy_write(an_ctx *ctx, const char *path, const an_type *type, const void *data)
{
	const char *name = NULL;
	bool widen = type->dtype == AN_BF16; /* NumPy has no bf16; fp32 holds it exactly */
	for (int i = 0; i < LENGTH(dtypes) && !name; i++)
		if (dtypes[i].dtype == (widen ? AN_FP32 : (an_dtype)type->dtype))
			name = dtypes[i].name;
	if (!name)
		return fail(ctx, AN_UNSUPPORTED, "%s: NumPy has no type %s", path,
			    an_dtype_name(type->dtype));
	str text;
	str_init(&text, ctx);
	str_addf(&text, "{'descr': '%c%s', 'fortran_order': False, 'shape': (", name[1] == '1' ? '|' : '<',
		 name);
	for (int i = 0; i < type->rank; i++)
		str_addf(&text, "%d,%s", type->dim[i], i + 1 < type->rank ? " " : "");
	str_add(&text, "), }");
	while (text.len % 64 != 64 - 11 &&
	       !text.oom) /* 10 bytes before it and the newline: the array is aligned */
		str_add(&text, " ");
	str_add(&text, "\n");
	an_status s = str_status(&text);
	file_out *f = NULL;
	if (s == AN_OK)
		s = file_create(ctx, path, &f);
	if (s == AN_OK) {
		uint8_t start[] = {
		    0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (uint8_t)text.len, (uint8_t)(text.len >> 8)};
		file_write(f, start, sizeof start);
		file_write(f, text.data, text.len);
		if (widen) {
			for (int64_t i = 0; i < an_type_count(type); i++) {
				uint16_t h[2] = {0, ((const uint16_t *)data)[i]}; /* fp32's upper half */
				file_write(f, h, sizeof h);
			}
		} else {
			file_write(f, data, an_type_bytes(type));
		}
		s = file_commit(f);
	}
	str_free(&text);
	return s;
}
