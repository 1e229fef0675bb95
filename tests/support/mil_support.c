#include "support/mil_support.h"

an_ctx *mil_open(void)
{
	an_ctx *ctx;
	an_ctx_options opt = {.threads = 1};
	assert_int_equal(an_ctx_open(&opt, &ctx), AN_OK);
	return ctx;
}

static char words[256];
#define DIFFER(...) return snprintf(words, sizeof words, __VA_ARGS__), words

static bool types_differ(const an_type *a, const an_type *b) { return !an_type_equal(a, b); }

static const char *literal_difference(const mil_literal *a, const mil_literal *b)
{
	int64_t n = an_type_count(&a->type);
	if (a->kind != b->kind || types_differ(&a->type, &b->type))
		DIFFER("a literal's kind or type");
	if (a->kind == LIT_BYTES && memcmp(a->bytes, b->bytes, an_type_bytes(&a->type)))
		DIFFER("a literal's bits");
	if (a->kind == LIT_BLOB && (a->offset != b->offset || strcmp(a->path, b->path)))
		DIFFER("a blob's place: %s %llu, %s %llu", a->path, (unsigned long long)a->offset, b->path,
		       (unsigned long long)b->offset);
	for (int64_t i = 0; a->kind == LIT_STRINGS && i < n; i++)
		if (strcmp(a->strings[i], b->strings[i]))
			DIFFER("strings \"%s\" and \"%s\"", a->strings[i], b->strings[i]);
	return NULL;
}

static const char *op_difference(const mil_op *a, const mil_op *b)
{
	const char *d;
	if (a->op != b->op || a->nresults != b->nresults || a->nattrs != b->nattrs)
		DIFFER("%s: operation or its counts", a->name);
	if (strcmp(a->name, b->name))
		DIFFER("names of operations: %s, %s", a->name, b->name);
	for (int p = 0; p < OP_MAX_PARAMS; p++) {
		if (a->arg[p].n != b->arg[p].n || (a->arg[p].n && a->arg[p].list != b->arg[p].list))
			DIFFER("%s: number of arguments %d", a->name, p);
		if (a->arg[p].n && memcmp(a->arg[p].v, b->arg[p].v, a->arg[p].n * sizeof *a->arg[p].v))
			DIFFER("%s: argument %d", a->name, p);
	}
	for (uint32_t i = 0; i < a->nattrs; i++) {
		if (strcmp(a->attrs[i].key, b->attrs[i].key))
			DIFFER("%s: attribute %s", a->name, a->attrs[i].key);
		if ((d = literal_difference(&a->attrs[i].lit, &b->attrs[i].lit)))
			return d;
	}
	return memcmp(a->results, b->results, a->nresults * sizeof *a->results) ? "results" : NULL;
}

static const char *function_difference(const an_function *a, const an_function *b)
{
	const char *d;
	if (strcmp(a->name, b->name) || a->opset != b->opset)
		DIFFER("function %s: name or opset", a->name);
	if (a->nvalues != b->nvalues || a->nops != b->nops || a->ninputs != b->ninputs ||
	    a->noutputs != b->noutputs)
		DIFFER("function %s: counts", a->name);
	for (size_t i = 0; i < a->nvalues; i++)
		if (strcmp(a->values[i].name, b->values[i].name) ||
		    types_differ(&a->values[i].type, &b->values[i].type) ||
		    a->values[i].op != b->values[i].op || a->values[i].result != b->values[i].result)
			DIFFER("function %s: value %s", a->name, a->values[i].name);
	for (size_t i = 0; i < a->nops; i++)
		if ((d = op_difference(&a->ops[i], &b->ops[i])))
			return d;
	for (size_t i = 0; i < a->ninputs; i++)
		if (a->inputs[i] != b->inputs[i] || a->roles[i] != b->roles[i])
			DIFFER("function %s: input %zu", a->name, i);
	for (size_t i = 0; i < a->noutputs; i++)
		if (a->outputs[i] != b->outputs[i])
			DIFFER("function %s: output %zu", a->name, i);
	return NULL;
}

const char *mil_difference(const an_program *a, const an_program *b)
{
	if (a->version_major != b->version_major || a->version_minor != b->version_minor)
		return "versions";
	if (a->ninfo != b->ninfo || a->nfunctions != b->nfunctions)
		return "number of functions or build information";
	for (size_t i = 0; i < a->ninfo; i++)
		if (strcmp(a->info[i].key, b->info[i].key) || strcmp(a->info[i].value, b->info[i].value))
			return "build information";
	for (size_t i = 0; i < a->nfunctions; i++) {
		const char *d = function_difference(a->functions[i], b->functions[i]);
		if (d)
			return d;
	}
	return NULL;
}

char *mil_slurp(const char *path, size_t *len)
{
	FILE *f = fopen(path, "rb");
	if (!f)
		return NULL;
	fseek(f, 0, SEEK_END);
	long n = ftell(f);
	rewind(f);
	char *text = malloc((size_t)n + 1);
	assert_non_null(text);
	*len = fread(text, 1, (size_t)n, f);
	text[*len] = 0;
	fclose(f);
	return text;
}
