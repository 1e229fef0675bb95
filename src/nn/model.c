/* The parameter table and the segments, whatever the family. */
#include "nn/model.h"

#include "kernel/kernel.h"

#include <assert.h>
#include <stdio.h>

/* Parameters start at multiples of 16 elements: 64 bytes of fp32, a cache line and a vector. */
enum { BLOCK_ALIGN = 16 };

an_model *nn_model_new(an_ctx *ctx, int params, int segments)
{
	an_model *m = mem_zalloc(ctx, sizeof *m);
	if (!m)
		return NULL;
	m->ctx = ctx;
	arena_init(&m->arena, ctx);
	m->params_cap = params;
	m->segments_cap = segments;
	m->param = arena_array(&m->arena, (size_t)params, sizeof *m->param);
	m->segment = arena_array(&m->arena, (size_t)segments, sizeof *m->segment);
	if (!m->param || !m->segment) {
		an_model_free(m);
		return NULL;
	}
	return m;
}

void an_model_free(an_model *m)
{
	if (!m)
		return;
	arena_free(&m->arena);
	mem_free(m->ctx, m, sizeof *m);
}

int nn_add_param(an_model *m, const char *name, an_param_kind kind, int32_t rows, int32_t columns,
		 double init_std)
{
	assert(m->nparams < m->params_cap && rows > 0);
	m->param[m->nparams] = (an_param){
	    .name = name,
	    .kind = kind,
	    .rank = columns ? 2 : 1,
	    .dim = {rows, columns},
	    .offset = m->block,
	    .count = (int64_t)rows * (columns ? columns : 1),
	    .decay = kind != AN_PARAM_NORM,
	    .init_std = init_std,
	};
	int64_t end = m->block + m->param[m->nparams].count;
	m->block = (end + BLOCK_ALIGN - 1) / BLOCK_ALIGN * BLOCK_ALIGN;
	return m->nparams++;
}

void nn_add_segment(an_model *m, const char *name, const char *function, int n, const int *param,
		    const char *const *input)
{
	assert(m->nsegments < m->segments_cap);
	m->segment[m->nsegments++] =
	    (an_segment){.name = name, .function = function, .nparams = n, .param = param, .input = input};
}

const an_llama_config *an_model_config(const an_model *m) { return &m->config; }
int an_model_params(const an_model *m) { return m->nparams; }
int64_t an_model_param_block(const an_model *m) { return m->block; }
int an_model_embedding(const an_model *m) { return m->embedding; }
int an_model_segments(const an_model *m) { return m->nsegments; }

const an_param *an_model_param(const an_model *m, int i)
{
	return i >= 0 && i < m->nparams ? &m->param[i] : NULL;
}

const an_segment *an_model_segment(const an_model *m, int i)
{
	return i >= 0 && i < m->nsegments ? &m->segment[i] : NULL;
}

int64_t an_model_param_count(const an_model *m)
{
	int64_t n = 0;
	for (int i = 0; i < m->nparams; i++)
		n += m->param[i].count;
	return n;
}

an_status an_model_split(const an_model *m, const char *name, const char *function, const an_split **out)
{
	const an_split *s;
	char known[160] = "";
	bool there = false;
	*out = NULL;
	for (int i = 0; (s = an_model_split_at(m, i)); i++) {
		size_t used = strlen(known);
		if (strcmp(s->name, name) == 0) {
			there = true;
			if (strcmp(s->function, function) == 0)
				*out = s;
		}
		snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", s->name);
	}
	return there ? AN_OK : fail(m->ctx, AN_USAGE, "no split \"%s\"; there are %s", name, known);
}

void an_model_init(const an_model *m, uint64_t seed, float *block)
{
	for (int i = 0; i < m->nparams; i++) {
		const an_param *p = &m->param[i];
		float *w = block + p->offset;
		for (int64_t j = 0; p->kind == AN_PARAM_NORM && j < p->count; j++)
			w[j] = 1;
		if (p->kind != AN_PARAM_NORM)
			k_normal(ctx_pool(m->ctx), m->ctx->isa, w, seed, (uint64_t)i, p->init_std, p->count);
		/* the padding too: it is written to files */
		int64_t end = i + 1 < m->nparams ? m->param[i + 1].offset : m->block;
		memset(w + p->count, 0, (size_t)(end - p->offset - p->count) * sizeof *w);
	}
}
