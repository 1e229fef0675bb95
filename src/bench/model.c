/* Models with random weights, and what their passes cost. */
#include "bench/bench.h"

#include "base/random.h"

#include <math.h>

enum { TOKENS = 16384, PIECE = 1 << 16 };

static an_status make_tokens(bench_model *m, int32_t vocab, int32_t seq)
{
	int32_t n = MAX(TOKENS, seq + 1); /* a sequence, and the token after it */
	size_t bytes = (size_t)n * sizeof(int32_t);
	int32_t *ids = mem_alloc(m->ctx, bytes);
	if (!ids)
		return fail_memory(m->ctx, bytes);
	for (int i = 0; i < n; i++)
		ids[i] = (int32_t)(random_bits(3, 0, (uint64_t)i) % (uint64_t)vocab);
	an_status s = an_tokens_copy(m->ctx, ids, (size_t)n, vocab, &m->tokens);
	mem_free(m->ctx, ids, bytes);
	return s;
}

an_status model_open(const bench *b, const an_llama_config *c, bench_model *m)
{
	an_device_options device = {.name = "soft", .numerics = b->o.numerics ? b->o.numerics : "fast"};
	*m = (bench_model){.ctx = b->ctx};
	TRY(an_llama_new(b->ctx, c, &m->model));
	TRY(an_device_open(b->ctx, &device, &m->device));
	return make_tokens(m, c->vocab, c->seq);
}

/* Uniform with the standard deviation of the parameter, four from a draw: the sampling of a training's
 * initial weights takes longer than all that is measured. */
typedef struct filling {
	float *at;
	int64_t n;
	float scale;
	uint64_t stream;
} filling;

static void fill(void *arg, int64_t item, int worker)
{
	const filling *f = arg;
	int64_t end = MIN(f->n, (item + 1) * PIECE);
	(void)worker;
	for (int64_t i = item * PIECE; i < end; i += 4) {
		uint64_t bits = random_bits(4, f->stream, (uint64_t)i);
		for (int64_t k = i; k < MIN(i + 4, end); k++)
			f->at[k] = f->scale * (float)(int16_t)(bits >> (16 * (k - i)));
	}
}

an_status model_fill(const bench *b, bench_model *m)
{
	m->block_bytes = (size_t)an_model_param_block(m->model) * sizeof *m->block;
	if (!(m->block = mem_alloc_tensor(b->ctx, m->block_bytes)))
		return fail_memory(b->ctx, m->block_bytes);
	for (int i = 0; i < an_model_params(m->model); i++) {
		const an_param *p = an_model_param(m->model, i);
		filling f = {m->block + p->offset, p->count, (float)(sqrt(3) * 0x1p-15 * p->init_std),
			     (uint64_t)i};
		if (p->kind == AN_PARAM_NORM)
			for (int64_t k = 0; k < p->count; k++)
				f.at[k] = 1;
		else
			pool_run(b->pool, fill, &f, (p->count + PIECE - 1) / PIECE);
	}
	return AN_OK;
}

void model_drop_block(bench_model *m)
{
	mem_free_tensor(m->ctx, m->block, m->block_bytes);
	m->block = NULL;
	m->block_bytes = 0;
}

void model_close(bench_model *m)
{
	if (!m->ctx)
		return;
	model_drop_block(m);
	an_tokens_close(m->tokens);
	an_device_close(m->device);
	an_model_free(m->model);
	*m = (bench_model){0};
}

double model_matrix_flop(const an_model *m, double tokens)
{
	const an_llama_config *c = an_model_config(m);
	double elements = c->tied ? (double)c->dim * c->vocab : 0; /* the classifier */
	for (int i = 0; i < an_model_params(m); i++)
		if (an_model_param(m, i)->kind == AN_PARAM_MATRIX)
			elements += (double)an_model_param(m, i)->count;
	return 2 * tokens * elements;
}

double model_attention_flop(const an_model *m, double tokens)
{
	const an_llama_config *c = an_model_config(m);
	return 2 * 2 * tokens * tokens * c->heads * c->head_dim * c->layers;
}
