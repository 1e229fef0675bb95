/* Programs and their files: MIL text, blobs, the table of parameters beside it. */
#include "mil/blob.h"
#include "mil/ir.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#define MODEL_PATH "@model_path/"

/* ---- Places ------------------------------------------------------------------------ */

/* The file that a program's path ("@model_path/weights/w.bin") means below a folder.  Only
 * paths that stay below it are taken: programs come from anywhere. */
static an_status blob_place(an_ctx *ctx, arena *a, const char *dir, const char *path, char **out)
{
	const char *rest = path + strlen(MODEL_PATH);
	if (strncmp(path, MODEL_PATH, strlen(MODEL_PATH)) != 0)
		return fail(ctx, AN_UNSUPPORTED, "blob file \"%s\": paths must start with %s", path,
			    MODEL_PATH);
	for (const char *c = rest; c; c = strchr(c, '/') ? strchr(c, '/') + 1 : NULL)
		if (strncmp(c, "..", 2) == 0 && (c[2] == '/' || !c[2]))
			return fail(ctx, AN_UNSUPPORTED,
				    "blob file \"%s\": a path must not leave the folder of the program",
				    path);
	if (!*rest || rest[strlen(rest) - 1] == '/')
		return fail(ctx, AN_FORMAT, "blob file \"%s\": there is no file name", path);
	*out = path_join(a, dir, rest);
	return *out ? AN_OK : fail_memory(ctx, 0);
}

/* Everything before the last '/', "." if there is none. */
static char *folder_of(arena *a, const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? arena_strndup(a, path, MAX((size_t)(slash - path), 1)) : arena_strdup(a, ".");
}

/* ---- Loading blobs ----------------------------------------------------------------- */

struct blob_set {
	struct blob_file {
		const char *path; /* as the program has it */
		file_view view;
	} * files;
	size_t n, cap;
};

void blob_set_free(an_program *p)
{
	if (!p->blobs)
		return;
	for (size_t i = 0; i < p->blobs->n; i++)
		file_close_view(p->ctx, &p->blobs->files[i].view);
	mem_free(p->ctx, p->blobs->files, p->blobs->cap * sizeof *p->blobs->files);
	mem_free(p->ctx, p->blobs, sizeof *p->blobs);
	p->blobs = NULL;
}

/* The open file for a path of the program; NULL: failed. */
static an_status open_blob(an_program *p, const char *path, const file_view **out)
{
	if (!p->blobs && !(p->blobs = mem_zalloc(p->ctx, sizeof *p->blobs)))
		return fail_memory(p->ctx, sizeof *p->blobs);
	struct blob_set *set = p->blobs;
	/* the file used last is the one most likely wanted again */
	for (size_t i = set->n; i-- > 0;)
		if (strcmp(set->files[i].path, path) == 0) {
			*out = &set->files[i].view;
			return AN_OK;
		}
	if (!p->model_path)
		return fail(p->ctx, AN_IO,
			    "blob file \"%s\": the program was not read from a file, so %s has no folder",
			    path, MODEL_PATH);
	if (!mem_grow(p->ctx, &set->files, &set->cap, set->n, sizeof *set->files))
		return fail_memory(p->ctx, 0);
	char *place;
	TRY(blob_place(p->ctx, &p->arena, p->model_path, path, &place));
	struct blob_file *f = &set->files[set->n];
	TRY(file_open_view(p->ctx, place, &f->view));
	f->path = path;
	set->n++;
	*out = &f->view;
	return AN_OK;
}

static an_status load_literal(an_program *p, mil_literal *l)
{
	const file_view *view = NULL;
	blob_record r;
	TRY(open_blob(p, l->path, &view));
	TRY(blob_read(p->ctx, l->path, view->data, view->size, l->offset, &l->type, p->lenient_blobs, &r));
	l->bytes = r.data;
	if ((uintptr_t)r.data % an_dtype_size(l->type.dtype)) { /* elements are read as such */
		l->bytes = arena_copy(&p->arena, r.data, (size_t)r.size);
		if (!l->bytes)
			return fail_memory(p->ctx, (size_t)r.size);
	}
	return AN_OK;
}

/* Calls fn for every literal of the program that stands in a blob file. */
static an_status each_blob(const an_program *p, an_status (*fn)(void *arg, mil_literal *l), void *arg)
{
	for (size_t i = 0; i < p->nfunctions; i++)
		for (size_t k = 0; k < p->functions[i]->nops; k++) {
			const mil_op *op = &p->functions[i]->ops[k];
			for (uint32_t j = 0; j < op->nattrs; j++)
				if (op->attrs[j].lit.kind == LIT_BLOB)
					TRY(fn(arg, &op->attrs[j].lit));
		}
	return AN_OK;
}

static an_status load_if_absent(void *arg, mil_literal *l) { return l->bytes ? AN_OK : load_literal(arg, l); }

an_status program_load_blobs(an_program *p) { return each_blob(p, load_if_absent, p); }

/* ---- Writing blobs ----------------------------------------------------------------- */

typedef struct blob_list {
	an_ctx *ctx;
	const mil_literal **items;
	size_t n, cap;
} blob_list;

static an_status collect(void *arg, mil_literal *l)
{
	blob_list *list = arg;
	if (!mem_grow(list->ctx, &list->items, &list->cap, list->n, sizeof(*list->items)))
		return fail_memory(list->ctx, 0);
	list->items[list->n++] = l;
	return AN_OK;
}

static int by_place(const void *a, const void *b)
{
	const mil_literal *x = *(const mil_literal *const *)a, *y = *(const mil_literal *const *)b;
	int c = strcmp(x->path, y->path);
	return c ? c : (x->offset > y->offset) - (x->offset < y->offset);
}

static bool same_file(const char *a, const char *b)
{
	char *ra = realpath(a, NULL), *rb = realpath(b, NULL);
	bool same = ra && rb && strcmp(ra, rb) == 0;
	free(ra);
	free(rb);
	return same;
}

/* Whether the values of all of these (one file's, in order) are here and their records do not overlap,
 * so that the file can be written in the official layout. */
static bool writable(const mil_literal *const *l, size_t n)
{
	uint64_t next = BLOB_FIRST_OFFSET;
	for (size_t i = 0; i < n; i++) {
		if (!l[i]->bytes)
			return false;
		if (i && l[i]->offset == l[i - 1]->offset)
			continue; /* shared by several constants */
		if (l[i]->offset < next || l[i]->offset % BLOB_FIRST_OFFSET)
			return false;
		next = blob_next_offset(l[i]->offset, an_type_bytes(&l[i]->type));
	}
	return true;
}

static an_status write_records(an_ctx *ctx, arena *a, const char *place, const mil_literal *const *l,
			       size_t n)
{
	uint32_t count = 0;
	blob_writer *w;
	char *folder = folder_of(a, place);
	if (!folder)
		return fail_memory(ctx, 0);
	for (size_t i = 0; i < n; i++) {
		count += !i || l[i]->offset != l[i - 1]->offset;
		if (i && l[i]->offset == l[i - 1]->offset &&
		    (l[i]->type.dtype != l[i - 1]->type.dtype ||
		     an_type_bytes(&l[i]->type) != an_type_bytes(&l[i - 1]->type) ||
		     memcmp(l[i]->bytes, l[i - 1]->bytes, an_type_bytes(&l[i]->type)) != 0))
			return fail(ctx, AN_USAGE, "blob file \"%s\": two different constants at offset %llu",
				    l[i]->path, (unsigned long long)l[i]->offset);
	}
	TRY(dir_make(ctx, folder));
	TRY(blob_create(ctx, place, count, &w));
	an_status s = AN_OK;
	for (size_t i = 0; i < n && s == AN_OK; i++)
		if (!i || l[i]->offset != l[i - 1]->offset)
			s = blob_add_at(w, l[i]->offset, &l[i]->type, l[i]->bytes);
	if (s == AN_OK)
		return blob_commit(w);
	blob_abandon(w);
	return s;
}

/* Blobs that were not loaded stay as they are: the whole file is copied.  A file that is absent was
 * absent before: whoever only works on the text need not have the values. */
static an_status copy_blob(const an_program *p, arena *a, const char *path, const char *place)
{
	char *source;
	file_view view;
	if (!p->model_path)
		return fail(p->ctx, AN_USAGE, "blob file \"%s\": the program has no values for it", path);
	TRY(blob_place(p->ctx, a, p->model_path, path, &source));
	if (!path_exists(source)) {
		log_text(p->ctx, AN_LOG_WARNING, "%s is not there: the program is written without it",
			 source);
		return AN_OK;
	}
	if (same_file(source, place))
		return AN_OK;
	char *folder = folder_of(a, place);
	if (!folder)
		return fail_memory(p->ctx, 0);
	TRY(dir_make(p->ctx, folder));
	TRY(file_open_view(p->ctx, source, &view));
	an_status s = file_replace(p->ctx, place, view.data, view.size);
	file_close_view(p->ctx, &view);
	return s;
}

static an_status write_blobs(const an_program *p, arena *a, const char *dir)
{
	blob_list list = {.ctx = p->ctx};
	an_status s = each_blob(p, collect, &list);
	if (s == AN_OK && list.n)
		qsort(list.items, list.n, sizeof(*list.items), by_place);
	for (size_t i = 0, n; s == AN_OK && i < list.n; i += n) {
		const mil_literal *const *l = list.items + i;
		char *place = NULL;
		for (n = 1; i + n < list.n && strcmp(l[n]->path, l[0]->path) == 0; n++)
			;
		s = blob_place(p->ctx, a, dir, l[0]->path, &place);
		if (s == AN_OK)
			s = writable(l, n) ? write_records(p->ctx, a, place, l, n)
					   : copy_blob(p, a, l[0]->path, place);
	}
	mem_free(p->ctx, list.items, list.cap * sizeof(*list.items));
	return s;
}

/* ---- The table of parameters --------------------------------------------------------- */

/* <stem>.params.json:
 *   {"format": "anneal params", "version": 1, "functions": {"main": [
 *     {"name": "w", "role": "param", "dtype": "fp16", "shape": [768, 768]}, ...]}}
 * Every input of every function, in order. */
#define PARAMS_FORMAT  "anneal params"
#define PARAMS_VERSION 1

static const char *const role_names[] = {
    [AN_ROLE_DATA] = "data", [AN_ROLE_PARAM] = "param", [AN_ROLE_STATE] = "state"};

static an_status write_params(const an_program *p, const char *path)
{
	file_out *out;
	TRY(file_create(p->ctx, path, &out));
	file_printf(out, "{\"format\": \"%s\", \"version\": %d, \"functions\": {", PARAMS_FORMAT,
		    PARAMS_VERSION);
	for (size_t i = 0; i < p->nfunctions; i++) {
		const an_function *f = p->functions[i];
		file_printf(out, "%s\n  \"%s\": [", i ? "," : "", f->name);
		for (size_t k = 0; k < f->ninputs; k++) { /* names are identifiers: nothing to escape */
			const mil_value *v = fn_value(f, f->inputs[k]);
			file_printf(
			    out,
			    "%s\n    {\"name\": \"%s\", \"role\": \"%s\", \"dtype\": \"%s\", \"shape\": [",
			    k ? "," : "", v->name, role_names[f->roles[k]], an_dtype_name(v->type.dtype));
			for (int d = 0; d < v->type.rank; d++)
				file_printf(out, "%s%d", d ? ", " : "", v->type.dim[d]);
			file_printf(out, "]}");
		}
		file_printf(out, "]");
	}
	file_printf(out, "}}\n");
	return file_commit(out);
}

/* One input's entry; what it says of the type must be what the program says. */
static an_status read_param(an_program *p, an_function *f, const char *path, const json_t *entry)
{
	const char *name = json_string_value(json_object_get(entry, "name"));
	const char *role = json_string_value(json_object_get(entry, "role"));
	const char *dtype = json_string_value(json_object_get(entry, "dtype"));
	const json_t *shape = json_object_get(entry, "shape");
	if (!name || !role || !dtype || !json_is_array(shape))
		return fail(p->ctx, AN_FORMAT,
			    "%s: an entry of function %s needs name, role, dtype and shape", path, f->name);
	an_value v = an_function_find(f, name);
	if (v == AN_NO_VALUE || f->values[v].op >= 0)
		return fail(p->ctx, AN_FORMAT, "%s: function %s has no input \"%s\"", path, f->name, name);
	const an_type *t = &f->values[v].type;
	char text[96];
	bool same = strcmp(dtype, an_dtype_name(t->dtype)) == 0 && json_array_size(shape) == t->rank;
	for (int i = 0; same && i < t->rank; i++)
		same = json_integer_value(json_array_get(shape, (size_t)i)) == t->dim[i];
	if (!same)
		return fail(p->ctx, AN_FORMAT,
			    "%s: input %s of function %s is %s in the program, but not here", path, name,
			    f->name, an_type_text(t, text, sizeof text));
	for (int r = 0; r < LENGTH(role_names); r++)
		if (strcmp(role, role_names[r]) == 0) {
			an_function_set_role(f, v, (an_role)r);
			return AN_OK;
		}
	return fail(p->ctx, AN_FORMAT, "%s: input %s has the role \"%s\", must be data, param or state", path,
		    name, role);
}

static an_status read_params_json(an_program *p, const char *path, json_t *root)
{
	const char *format = json_string_value(json_object_get(root, "format"));
	json_t *functions = json_object_get(root, "functions");
	if (!format || strcmp(format, PARAMS_FORMAT) != 0 || !json_is_object(functions))
		return fail(p->ctx, AN_FORMAT, "%s: not a table of parameters (\"format\" must be \"%s\")",
			    path, PARAMS_FORMAT);
	if (json_integer_value(json_object_get(root, "version")) != PARAMS_VERSION)
		return fail(p->ctx, AN_FORMAT, "%s: version must be %d", path, PARAMS_VERSION);
	const char *name;
	json_t *entries, *entry;
	size_t i;
	json_object_foreach(functions, name, entries)
	{
		an_function *f = an_program_function(p, name);
		if (!f || !json_is_array(entries))
			return fail(p->ctx, AN_FORMAT,
				    f ? "%s: \"%s\" must be a list"
				      : "%s: the program has no function \"%s\"",
				    path, name);
		json_array_foreach(entries, i, entry) TRY(read_param(p, f, path, entry));
	}
	return AN_OK;
}

static an_status read_params(an_program *p, const char *path)
{
	file_view view;
	json_error_t e;
	TRY(file_open_view(p->ctx, path, &view));
	json_t *root = json_loadb((const char *)view.data, view.size, JSON_REJECT_DUPLICATES, &e);
	an_status s = root ? read_params_json(p, path, root)
			   : fail(p->ctx, AN_FORMAT, "%s:%d:%d: %s", path, e.line, e.column, e.text);
	json_decref(root);
	file_close_view(p->ctx, &view);
	return s;
}

/* ---- Whole programs ------------------------------------------------------------------- */

/* "dir/net.mil" -> "dir/net.params.json" */
static char *params_path(arena *a, const char *mil)
{
	size_t n = strlen(mil);
	if (n > 4 && strcmp(mil + n - 4, ".mil") == 0)
		n -= 4;
	return arena_printf(a, "%.*s.params.json", (int)n, mil);
}

an_status an_program_read(an_ctx *ctx, const char *path, an_program **out)
{
	file_view view;
	an_program *p;
	*out = NULL;
	TRY(file_open_view(ctx, path, &view));
	an_status s = an_program_parse(ctx, (const char *)view.data, view.size, path, &p);
	file_close_view(ctx, &view);
	TRY(s);
	char *params = params_path(&p->arena, path);
	p->model_path = folder_of(&p->arena, path);
	if (!params || !p->model_path)
		s = fail_memory(ctx, 0);
	else if (path_exists(params))
		s = read_params(p, params);
	if (s == AN_OK)
		*out = p;
	else
		an_program_free(p);
	return s;
}

static an_status write_program(const an_program *p, const char *dir, const char *stem, bool params)
{
	arena scratch;
	char *text = NULL;
	size_t len = 0;
	if (!*stem || strchr(stem, '/'))
		return fail(p->ctx, AN_USAGE, "\"%s\" cannot be the name of a program's files", stem);
	arena_init(&scratch, p->ctx);
	char *mil = arena_printf(&scratch, "%s/%s.mil", dir, stem),
	     *table = mil ? params_path(&scratch, mil) : NULL;
	an_status s = table ? dir_make(p->ctx, dir) : fail_memory(p->ctx, 0);
	if (s == AN_OK)
		s = write_blobs(p, &scratch, dir);
	if (s == AN_OK && params)
		s = write_params(p, table);
	if (s == AN_OK)
		s = an_program_print(p, &text, &len);
	if (s == AN_OK) /* last: a program that is there has its files */
		s = file_replace(p->ctx, mil, text, len);
	if (text)
		an_text_free(p->ctx, text, len);
	arena_free(&scratch);
	return s;
}

an_status an_program_write(const an_program *p, const char *dir, const char *stem)
{
	return write_program(p, dir, stem, true);
}

an_status program_write_model(const an_program *p, const char *dir)
{
	p->ctx->transient++;
	an_status s = write_program(p, dir, "model", false);
	p->ctx->transient--;
	return s;
}
