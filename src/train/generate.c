/* Decoding with a cache of keys and values.
 *
 * Each layer has two cache buffers of `context` rows, one row per token.  A program for W new tokens
 * reads the rows that are there (a mask hides the others) and its new rows are bound to the rows
 * behind them, so nothing is moved.  Programs are compiled when first needed, for W = 1, 16, 64,
 * 256 and for caches of 1/16, 1/8 ... of the context: a text pays for at most twice the rows it has.
 * What is fed is cut into pieces of these widths; a last piece that is too short is filled up: the
 * rows it leaves behind the text are hidden by the mask and written over by the next tokens. */
#include "train/train.h"

#include "device/device.h"
#include "train/sample.h"

static const int widths[] = {256, 64, 16, 1};
enum { WIDTHS = LENGTH(widths), SPANS = 5 };

/* Programs and calls for one width and one span of the cache. */
typedef struct decoder {
	program layer;
	an_call **call;                 /* by layer */
	an_buffer **k_cache, **v_cache; /* by layer: views of the first `span` rows */
} decoder;

/* What programs of one width share. */
typedef struct width {
	an_buffer *x[2], *cos, *sin;
} width;

struct an_generator {
	an_ctx *ctx;
	an_device *device;
	const an_model *model;
	const float *block;
	int context, kv_dim, layers;
	arena arena;
	an_program *program;
	an_buffer **weight;             /* by parameter; NULL: not on the device */
	an_buffer **k_cache, **v_cache; /* by layer, [1, 1, context, kv_dim] */
	int span[SPANS];                /* rows that programs see, ascending; the last is the context */
	an_buffer *mask[SPANS];         /* [1, 1, 1, span] */
	decoder decoder[WIDTHS][SPANS];
	width width[WIDTHS];
	program head;
	an_call *head_call;
	an_buffer *head_x, *head_logits;
	float *logits, *rope; /* rope: cos and sin of a piece */
	int32_t *token;       /* what the cache holds */
	size_t length;
	uint64_t drawn; /* tokens sampled so far */
	sample_candidate *candidate;
};

/* ---- Making and freeing --------------------------------------------------------------- */

static an_status new_buffer(an_generator *g, int rank, const int32_t *dim, an_buffer **out)
{
	an_type t = an_tensor(AN_FP16, rank, dim);
	return an_buffer_new(g->device, &t, out);
}
#define NEW_BUFFER(g, out, ...) \
	new_buffer(g, LENGTH(((int32_t[]){__VA_ARGS__})), (int32_t[]){__VA_ARGS__}, out)

static an_status upload(an_generator *g)
{
	for (int i = 0; i < an_model_segments(g->model); i++) {
		const an_segment *s = an_model_segment(g->model, i);
		for (int j = 0; j < s->nparams; j++) {
			const an_param *p = an_model_param(g->model, s->param[j]);
			an_buffer **w = &g->weight[s->param[j]];
			if (*w)
				continue;
			TRY(new_buffer(g, p->rank, p->dim, w));
			TRY(an_buffer_update_from_f32(*w, 0, p->count, g->block + p->offset));
		}
	}
	return AN_OK;
}

static an_status bind_params(an_generator *g, const an_segment *s, an_call *c)
{
	for (int i = 0; i < s->nparams; i++)
		TRY(an_call_bind(c, s->input[i], g->weight[s->param[i]]));
	return AN_OK;
}

static an_status make_head(an_generator *g)
{
	const an_llama_config *c = an_model_config(g->model);
	an_function *f;
	TRY(an_model_build(g->model, g->program, "head", 1, 1, &f));
	TRY(train_compile(g->device, f, NULL, "head", &g->head));
	TRY(NEW_BUFFER(g, &g->head_x, 1, c->dim, 1, 1));
	TRY(NEW_BUFFER(g, &g->head_logits, 1, c->vocab, 1, 1));
	TRY(an_call_new(g->head.exe, &g->head_call));
	TRY(bind_params(g, an_model_segment(g->model, g->layers), g->head_call));
	TRY(an_call_bind(g->head_call, "x", g->head_x));
	return an_call_bind(g->head_call, "logits", g->head_logits);
}

static an_status make(an_generator *g)
{
	const an_llama_config *c = an_model_config(g->model);
	size_t layers = (size_t)g->layers, context = (size_t)g->context;
	g->weight = arena_array(&g->arena, (size_t)an_model_params(g->model), sizeof(an_buffer *));
	g->k_cache = arena_array(&g->arena, layers, sizeof(an_buffer *));
	g->v_cache = arena_array(&g->arena, layers, sizeof(an_buffer *));
	g->token = arena_array(&g->arena, context, sizeof *g->token);
	g->logits = arena_array(&g->arena, (size_t)c->vocab, sizeof *g->logits);
	g->candidate = arena_array(&g->arena, (size_t)c->vocab, sizeof *g->candidate);
	g->rope = arena_array(&g->arena, (size_t)(c->head_dim * (widths[0] + 1)), sizeof *g->rope);
	if (!g->weight || !g->k_cache || !g->v_cache || !g->token || !g->logits || !g->candidate || !g->rope)
		return fail_memory(g->ctx, 0);
	TRY(an_program_new(g->ctx, &g->program));
	TRY(upload(g));
	for (int i = 0; i < g->layers; i++) {
		TRY(NEW_BUFFER(g, &g->k_cache[i], 1, 1, g->context, g->kv_dim));
		TRY(NEW_BUFFER(g, &g->v_cache[i], 1, 1, g->context, g->kv_dim));
	}
	for (int i = 0; i < SPANS; i++)
		TRY(NEW_BUFFER(g, &g->mask[i], 1, 1, 1, g->span[i]));
	return make_head(g);
}

an_status an_generator_new(an_device *d, const an_model *m, const float *block, int context,
			   an_generator **out)
{
	*out = NULL;
	const an_llama_config *c = an_model_config(m);
	if (context < 1 || context > c->seq)
		return fail(d->ctx, AN_USAGE, "a context of %d tokens; this model takes 1 to %d", context,
			    c->seq);
	an_generator *g = mem_zalloc(d->ctx, sizeof *g);
	if (!g)
		return fail_memory(d->ctx, sizeof *g);
	g->ctx = d->ctx;
	g->device = d;
	g->model = m;
	g->block = block;
	g->context = context;
	g->kv_dim = c->kv_heads * c->head_dim;
	g->layers = an_model_segments(m) - 1;
	for (int i = 0; i < SPANS; i++) /* 1/16, 1/8, 1/4, 1/2, 1 of the context */
		g->span[i] = MAX(MIN(context, 64), context >> (SPANS - 1 - i));
	arena_init(&g->arena, d->ctx);
	an_status s = make(g);
	if (s != AN_OK) {
		an_generator_free(g);
		return s;
	}
	*out = g;
	return AN_OK;
}

static void free_decoder(an_generator *g, decoder *d)
{
	for (int i = 0; i < g->layers; i++) {
		if (d->call)
			an_call_free(d->call[i]);
		if (d->k_cache)
			an_buffer_free(d->k_cache[i]);
		if (d->v_cache)
			an_buffer_free(d->v_cache[i]);
	}
	an_executable_free(d->layer.exe);
}

void an_generator_free(an_generator *g)
{
	if (!g)
		return;
	for (int i = 0; i < WIDTHS; i++) {
		for (int j = 0; j < SPANS; j++)
			free_decoder(g, &g->decoder[i][j]);
		an_buffer *all[] = {g->width[i].x[0], g->width[i].x[1], g->width[i].cos, g->width[i].sin};
		for (int j = 0; j < LENGTH(all); j++)
			an_buffer_free(all[j]);
	}
	an_call_free(g->head_call);
	an_executable_free(g->head.exe);
	an_buffer_free(g->head_x);
	an_buffer_free(g->head_logits);
	for (int i = 0; i < SPANS; i++)
		an_buffer_free(g->mask[i]);
	for (int i = 0; i < g->layers; i++) {
		if (g->k_cache)
			an_buffer_free(g->k_cache[i]);
		if (g->v_cache)
			an_buffer_free(g->v_cache[i]);
	}
	for (int i = 0; g->weight && i < an_model_params(g->model); i++)
		an_buffer_free(g->weight[i]);
	an_program_free(g->program);
	arena_free(&g->arena);
	mem_free(g->ctx, g, sizeof *g);
}

/* ---- Decoders --------------------------------------------------------------------------- */

static an_status make_width(an_generator *g, int w)
{
	const an_llama_config *c = an_model_config(g->model);
	width *at = &g->width[w];
	if (at->sin)
		return AN_OK;
	TRY(NEW_BUFFER(g, &at->x[0], 1, c->dim, 1, widths[w]));
	TRY(NEW_BUFFER(g, &at->x[1], 1, c->dim, 1, widths[w]));
	TRY(NEW_BUFFER(g, &at->cos, 1, 1, c->head_dim / 2, widths[w]));
	return NEW_BUFFER(g, &at->sin, 1, 1, c->head_dim / 2, widths[w]);
}

static an_status make_call(an_generator *g, int w, int span, int layer)
{
	decoder *d = &g->decoder[w][span];
	width *at = &g->width[w];
	an_type cache = an_tensor(AN_FP16, 4, (int32_t[]){1, 1, g->span[span], g->kv_dim});
	TRY(an_buffer_view(g->k_cache[layer], &cache, 0, &d->k_cache[layer]));
	TRY(an_buffer_view(g->v_cache[layer], &cache, 0, &d->v_cache[layer]));
	TRY(an_call_new(d->layer.exe, &d->call[layer]));
	an_call *c = d->call[layer];
	TRY(bind_params(g, an_model_segment(g->model, layer), c));
	const struct {
		const char *name;
		an_buffer *buffer;
	} rows[] = {{"x", at->x[layer % 2]},        {"y", at->x[(layer + 1) % 2]},
		    {"k_cache", d->k_cache[layer]}, {"v_cache", d->v_cache[layer]},
		    {"cache_mask", g->mask[span]},  {"rope_cos", at->cos},
		    {"rope_sin", at->sin}};
	for (int i = 0; i < LENGTH(rows); i++)
		TRY(an_call_bind(c, rows[i].name, rows[i].buffer));
	return AN_OK;
}

static an_status make_decoder(an_generator *g, int w, int span)
{
	decoder *d = &g->decoder[w][span];
	if (d->call)
		return AN_OK;
	an_function *f;
	TRY(make_width(g, w));
	if (!d->layer.exe) {
		/* a program of its own: all these functions have the same name */
		an_program *p;
		TRY(an_program_new(g->ctx, &p));
		an_status s = an_model_build_decode(g->model, p, widths[w], g->span[span], &f);
		if (s == AN_OK)
			s = train_compile(g->device, f, NULL, "layer_decode", &d->layer);
		d->layer.f = NULL;
		an_program_free(p);
		TRY(s);
	}
	size_t n = (size_t)g->layers;
	d->k_cache = arena_array(&g->arena, n, sizeof(an_buffer *));
	d->v_cache = arena_array(&g->arena, n, sizeof(an_buffer *));
	an_call **call = arena_array(&g->arena, n, sizeof(an_call *));
	if (!d->k_cache || !d->v_cache || !call)
		return fail_memory(g->ctx, 0);
	d->call = call;
	an_status s = AN_OK;
	for (int i = 0; s == AN_OK && i < g->layers; i++)
		s = make_call(g, w, span, i);
	if (s != AN_OK) { /* all of it or nothing */
		free_decoder(g, d);
		*d = (decoder){0};
	}
	return s;
}

/* ---- Feeding ------------------------------------------------------------------------------ */

/* Hides the rows of a span that hold no token. */
static void set_mask(an_generator *g, int span)
{
	half *m = an_buffer_map(g->mask[span]), hidden = half_from_float((float)AN_MASKED);
	for (int i = 0; i < g->span[span]; i++)
		m[i] = (size_t)i < g->length ? 0 : hidden;
	an_buffer_unmap(g->mask[span]);
}

static an_status set_rope(an_generator *g, int w)
{
	int pairs = an_model_config(g->model)->head_dim / 2, n = widths[w];
	float *c = g->rope, *s = c + pairs * n, *one = s + pairs * n;
	for (int j = 0; j < n; j++) {
		an_model_rope(g->model, (int64_t)g->length + j, one, one + pairs);
		for (int i = 0; i < pairs; i++) {
			c[i * n + j] = one[i];
			s[i * n + j] = one[pairs + i];
		}
	}
	TRY(an_buffer_update_from_f32(g->width[w].cos, 0, pairs * n, c));
	return an_buffer_update_from_f32(g->width[w].sin, 0, pairs * n, s);
}

/* Binds the rows behind the text to what a layer adds to its cache. */
static an_status bind_row(an_generator *g, an_call *c, const char *name, an_buffer *cache, int n)
{
	an_type t = an_tensor(AN_FP16, 4, (int32_t[]){1, 1, n, g->kv_dim});
	an_buffer *rows;
	TRY(an_buffer_view(cache, &t, g->length * (size_t)g->kv_dim * sizeof(half), &rows));
	an_status s = an_call_bind(c, name, rows);
	an_buffer_free(rows); /* the call keeps it */
	return s;
}

/* Feeds n <= widths[w] tokens through all layers. */
static an_status feed_piece(an_generator *g, int w, const int32_t *ids, int n)
{
	const an_llama_config *c = an_model_config(g->model);
	int span = 0, W = widths[w];
	while ((size_t)g->span[span] < g->length)
		span++;
	TRY(make_decoder(g, w, span));
	decoder *d = &g->decoder[w][span];
	set_mask(g, span);
	TRY(set_rope(g, w));

	int32_t padded[256];
	for (int i = 0; i < W; i++)
		padded[i] = i < n ? ids[i] : 0;
	const an_param *table = an_model_param(g->model, an_model_embedding(g->model));
	half *x = an_buffer_map(g->width[w].x[0]);
	k_embed(ctx_pool(g->ctx), g->ctx->isa, x, g->block + table->offset, padded, c->dim, W);
	an_buffer_unmap(g->width[w].x[0]);
	for (int i = 0; i < g->layers; i++) {
		TRY(bind_row(g, d->call[i], "k_new", g->k_cache[i], W));
		TRY(bind_row(g, d->call[i], "v_new", g->v_cache[i], W));
		TRY(an_call_run(d->call[i]));
	}
	/* the last token's column is what the head needs */
	const half *y = an_buffer_map(g->width[w].x[g->layers % 2]);
	half *last = an_buffer_map(g->head_x);
	for (int i = 0; i < c->dim; i++)
		last[i] = y[i * W + n - 1];
	an_buffer_unmap(g->head_x);
	an_buffer_unmap(g->width[w].x[g->layers % 2]);
	memcpy(g->token + g->length, ids, (size_t)n * sizeof *ids);
	g->length += (size_t)n;
	return AN_OK;
}

/* The narrowest program that takes all n tokens, if its rows fit behind the text; else the widest that
 * is not too wide. */
static int choose_width(const an_generator *g, size_t n)
{
	size_t room = (size_t)g->context - g->length;
	for (int w = WIDTHS - 1; w >= 0; w--)
		if ((size_t)widths[w] >= n && (size_t)widths[w] <= room)
			return w;
	int w = 0;
	while ((size_t)widths[w] > n)
		w++;
	return w;
}

an_status an_generator_feed(an_generator *g, const int32_t *ids, size_t n)
{
	int32_t vocab = an_model_config(g->model)->vocab;
	if (n > (size_t)g->context - g->length)
		return fail(g->ctx, AN_USAGE, "%zu tokens after %zu; the context holds %d", n, g->length,
			    g->context);
	for (size_t i = 0; i < n; i++)
		if (ids[i] < 0 || ids[i] >= vocab)
			return fail(g->ctx, AN_USAGE, "token id %d; the model has %d tokens", ids[i], vocab);
	if (n == 0)
		return AN_OK;
	while (n) {
		int w = choose_width(g, n), here = (int)MIN(n, (size_t)widths[w]);
		TRY(feed_piece(g, w, ids, here));
		ids += here;
		n -= (size_t)here;
	}
	TRY(an_call_run(g->head_call));
	const half *logits = an_buffer_map(g->head_logits);
	k_f16_to_f32(ctx_pool(g->ctx), g->ctx->isa, g->logits, logits, vocab);
	an_buffer_unmap(g->head_logits);
	return AN_OK;
}

const float *an_generator_logits(const an_generator *g) { return g->logits; }
size_t an_generator_length(const an_generator *g) { return g->length; }

int32_t an_generator_sample(an_generator *g, const an_sample_options *opt)
{
	return sample_token(ctx_pool(g->ctx), g->ctx->isa, g->logits, an_model_config(g->model)->vocab, opt,
			    g->drawn++, g->candidate);
}

an_status an_generator_slide(an_generator *g, size_t keep)
{
	if (keep >= g->length)
		return AN_OK;
	/* positions are part of the keys: what stays is computed again from position 0 */
	const int32_t *from = g->token + g->length - keep;
	size_t bytes = keep * sizeof *from;
	int32_t *ids = mem_alloc(g->ctx, bytes);
	if (!ids)
		return fail_memory(g->ctx, bytes);
	memcpy(ids, from, bytes);
	g->length = 0;
	an_status s = an_generator_feed(g, ids, keep);
	mem_free(g->ctx, ids, bytes);
	return s;
}
