/* The Llama family: configuration, parameter table, and the layer and head as MIL.
 *
 * Inside a function the activations are matrices [C, S], channels by tokens, and a linear
 * layer with weight [out, in] is matmul(W, x): no transposition, and weights may be
 * inputs.  (A 1x1 conv would be the engine's faster form, but it ignores weights that are
 * not constants, without an error; the bake pass makes convs of frozen weights.)
 *
 * Sizes in comments: C dim, S = B*T tokens of B sequences, H heads of D = head_dim in
 * K key/value heads of G = H/K query heads each, F hidden, V vocabulary, W new tokens when
 * decoding against a cache of N. */
#include "base/half.h"
#include "nn/model.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

/* ---- Configuration --------------------------------------------------------------- */

/* stories*: github.com/karpathy/llama2.c, README, "models"; hidden sizes by its rule, 2/3 of
 * 4*dim rounded up to a multiple of 32.  Their vocabulary is Llama 2's; a tokenizer of one's
 * own replaces it.  layer768 is the block that published measurements on the engine use.
 * tiny trains well in minutes on two cores without matrix units; nano is for tests. */
static const struct preset {
	const char *name;
	an_llama_config config;
} presets[] = {
#define STORIES .vocab = 32000, .rope_theta = 10000, .norm_eps = 1e-5, .tied = true
    {"stories15m", {.dim = 288, .layers = 6, .heads = 6, .kv_heads = 6, .hidden = 768, .seq = 256, STORIES}},
    {"stories42m",
     {.dim = 512, .layers = 8, .heads = 8, .kv_heads = 8, .hidden = 1376, .seq = 1024, STORIES}},
    {"stories110m",
     {.dim = 768, .layers = 12, .heads = 12, .kv_heads = 12, .hidden = 2048, .seq = 1024, STORIES}},
    {"layer768", {.dim = 768, .layers = 1, .heads = 12, .kv_heads = 12, .hidden = 2048, .seq = 512, STORIES}},
#undef STORIES
    {"tiny",
     {.dim = 256,
      .layers = 4,
      .heads = 4,
      .kv_heads = 4,
      .hidden = 704,
      .vocab = 2048,
      .seq = 256,
      .tied = true}},
    {"nano",
     {.dim = 64,
      .layers = 2,
      .heads = 4,
      .kv_heads = 2,
      .hidden = 160,
      .vocab = 512,
      .seq = 64,
      .tied = true}},
};

const char *an_llama_preset_name(int i) { return i >= 0 && i < LENGTH(presets) ? presets[i].name : NULL; }

an_status an_llama_preset(an_ctx *ctx, const char *name, an_llama_config *out)
{
	char known[160] = "";
	for (int i = 0; i < LENGTH(presets); i++) {
		if (name && strcmp(name, presets[i].name) == 0) {
			*out = presets[i].config;
			return an_llama_check(ctx, out);
		}
		size_t used = strlen(known);
		snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", presets[i].name);
	}
	return fail(ctx, AN_USAGE, "no preset \"%s\"; there are %s", name ? name : "", known);
}

/* Bounds that no model comes near and under which every product below fits an int64. */
static an_status check_range(an_ctx *ctx, const char *field, int32_t value, int32_t max)
{
	if (value < 1 || value > max)
		return fail(ctx, AN_USAGE, "%s is %" PRId32 "; it must be 1 to %" PRId32, field, value, max);
	return AN_OK;
}

an_status an_llama_check(an_ctx *ctx, an_llama_config *c)
{
	if (c->kv_heads == 0)
		c->kv_heads = c->heads;
	if (c->rope_theta == 0)
		c->rope_theta = 10000;
	if (c->norm_eps == 0)
		c->norm_eps = 1e-5;
	TRY(check_range(ctx, "dim", c->dim, 1 << 16));
	TRY(check_range(ctx, "layers", c->layers, 1 << 12));
	TRY(check_range(ctx, "heads", c->heads, 1 << 12));
	TRY(check_range(ctx, "kv-heads", c->kv_heads, 1 << 12));
	TRY(check_range(ctx, "hidden", c->hidden, 1 << 18));
	TRY(check_range(ctx, "vocab", c->vocab, 1 << 22));
	TRY(check_range(ctx, "seq", c->seq, 1 << 20));
	if (c->head_dim == 0) {
		if (c->dim % c->heads)
			return fail(ctx, AN_USAGE,
				    "heads must divide dim, but dim %" PRId32 " / heads %" PRId32
				    " leaves %" PRId32,
				    c->dim, c->heads, c->dim % c->heads);
		c->head_dim = c->dim / c->heads;
	}
	TRY(check_range(ctx, "head-dim", c->head_dim, 1 << 12));
	if (c->heads % c->kv_heads)
		return fail(ctx, AN_USAGE,
			    "kv-heads must divide heads, but heads %" PRId32 " / kv-heads %" PRId32
			    " leaves %" PRId32,
			    c->heads, c->kv_heads, c->heads % c->kv_heads);
	if (c->head_dim % 2)
		return fail(ctx, AN_USAGE,
			    "the head dimension is %" PRId32
			    "; rotary embedding turns pairs of channels, so it must be even "
			    "(dim %" PRId32 ", heads %" PRId32 ")",
			    c->head_dim, c->dim, c->heads);
	if (!(c->rope_theta > 0 && c->rope_theta <= 1e12))
		return fail(ctx, AN_USAGE, "rope-theta is %g; it must be positive and at most 1e12",
			    c->rope_theta);
	/* Below fp16's smallest subnormal the addition would be lost silently. */
	if (!(c->norm_eps >= 0x1p-24 && c->norm_eps <= 1))
		return fail(ctx, AN_USAGE, "norm-eps is %g; it must be 6e-8 (the smallest fp16) to 1",
			    c->norm_eps);
	return AN_OK;
}

/* ---- Parameters and segments ------------------------------------------------------ */

/* The layer's parameters in the order of the table: the function's input, Hugging Face's
 * name, kind, and the sizes [out, in] as fields of the configuration. */
typedef enum size_of { NONE, DIM, Q, KV, HIDDEN } size_of;
static const struct layer_param {
	const char *input, *name;
	size_of rows, columns;
	bool residual; /* adds to the residual stream */
} layer_params[] = {
    {"attn_norm", "input_layernorm", DIM, NONE, false},
    {"wq", "self_attn.q_proj", Q, DIM, false},
    {"wk", "self_attn.k_proj", KV, DIM, false},
    {"wv", "self_attn.v_proj", KV, DIM, false},
    {"wo", "self_attn.o_proj", DIM, Q, true},
    {"ffn_norm", "post_attention_layernorm", DIM, NONE, false},
    {"w_gate", "mlp.gate_proj", HIDDEN, DIM, false},
    {"w_up", "mlp.up_proj", HIDDEN, DIM, false},
    {"w_down", "mlp.down_proj", DIM, HIDDEN, true},
};
enum { LAYER_PARAMS = LENGTH(layer_params) };
static const char *const layer_inputs[] = {"attn_norm", "wq",     "wk",   "wv",    "wo",
					   "ffn_norm",  "w_gate", "w_up", "w_down"};
static const char *const head_inputs[] = {"norm", "w_out"};

static int32_t size(const an_llama_config *c, size_of s)
{
	switch (s) {
	case DIM: return c->dim;
	case Q: return c->heads * c->head_dim;
	case KV: return c->kv_heads * c->head_dim;
	case HIDDEN: return c->hidden;
	default: return 0;
	}
}

/* GPT-2's initialisation: every matrix normal(0, 0.02); the two per layer that add to the
 * residual stream divided by sqrt(2 * layers), so that the stream's variance at the top
 * does not grow with depth. */
static const double init_std = 0.02;

static an_status add_rows(an_model *m)
{
	const an_llama_config *c = &m->config;
	m->embedding =
	    nn_add_param(m, "model.embed_tokens.weight", AN_PARAM_EMBEDDING, c->vocab, c->dim, init_std);
	for (int i = 0; i < c->layers; i++) {
		int *index = arena_array(&m->arena, LAYER_PARAMS, sizeof *index);
		char *segment = arena_printf(&m->arena, "layers.%d", i);
		if (!index || !segment)
			return fail_memory(m->ctx, 0);
		for (int j = 0; j < LAYER_PARAMS; j++) {
			const struct layer_param *p = &layer_params[j];
			char *name = arena_printf(&m->arena, "model.layers.%d.%s.weight", i, p->name);
			if (!name)
				return fail_memory(m->ctx, 0);
			an_param_kind kind = p->columns == NONE ? AN_PARAM_NORM : AN_PARAM_MATRIX;
			double std = p->residual ? init_std / sqrt(2.0 * c->layers) : init_std;
			index[j] = nn_add_param(m, name, kind, size(c, p->rows), size(c, p->columns), std);
		}
		nn_add_segment(m, segment, "layer", LAYER_PARAMS, index, layer_inputs);
	}
	int *index = arena_array(&m->arena, LENGTH(head_inputs), sizeof *index);
	if (!index)
		return fail_memory(m->ctx, 0);
	index[0] = nn_add_param(m, "model.norm.weight", AN_PARAM_NORM, c->dim, 0, 0);
	index[1] = c->tied ? m->embedding
			   : nn_add_param(m, "lm_head.weight", AN_PARAM_MATRIX, c->vocab, c->dim, init_std);
	nn_add_segment(m, "head", "head", LENGTH(head_inputs), index, head_inputs);
	return AN_OK;
}

an_status an_llama_new(an_ctx *ctx, const an_llama_config *config, an_model **out)
{
	*out = NULL;
	an_llama_config c = *config;
	TRY(an_llama_check(ctx, &c));
	an_model *m = nn_model_new(ctx, 3 + c.layers * LAYER_PARAMS, c.layers + 1);
	if (!m)
		return fail_memory(ctx, 0);
	m->config = c;
	an_status s = add_rows(m);
	if (s != AN_OK) {
		an_model_free(m);
		return s;
	}
	*out = m;
	return AN_OK;
}

/* ---- Building blocks --------------------------------------------------------------- */

/* Calls that append operations are not nested side by side: C leaves the order of arguments
 * open, and a program should not depend on who compiled its builder. */

/* The dimensions as arguments: RESHAPE(b, x, 1, c, 1, s). */
#define RESHAPE(b, x, ...)   an_reshape(b, x, LENGTH(((int32_t[]){__VA_ARGS__})), (int32_t[]){__VA_ARGS__})
#define TRANSPOSE(b, x, ...) an_transpose(b, x, LENGTH(((int32_t[]){__VA_ARGS__})), (int32_t[]){__VA_ARGS__})
#define FP16(...)            an_tensor(AN_FP16, LENGTH(((int32_t[]){__VA_ARGS__})), (int32_t[]){__VA_ARGS__})

/* RMSNorm: x * (mean(x^2) + eps)^(-1/2) * w, over the channels of x [1,C,1,S], as a matrix [C,S].
 *
 * In fp16 x*x overflows from |x| = 256 and loses precision below 2^-7 (subnormal squares),
 * and residual streams reach both: 0.02 at initialisation, outlier channels of thousands in
 * trained models.  So, with the power of two s that brings a = C*s^2 into [8, 32),
 *   q = sum((s*x)^2) = a * mean(x^2),   r = (q + a*eps)^(-1/2),   y = x * (r * sqrt(a)) * w:
 * s*x is exact, q overflows only from |x|_2 = 255/s (4095 at C = 4096), small squares
 * gain 8 to 32 by the summation before they are rounded, a*eps is a normal number for the
 * usual 1e-5, and in the backward r^3 stays finite down to rms(x) = 0.01. (With the plain
 * mean r^3 overflows below 0.025, the rms of freshly initialised embeddings.)
 * pow(-0.5) because sqrt and rsqrt are refused by the engine's compiler after a reduction. */
static an_value rms_norm(an_builder *b, const an_llama_config *c, an_value x, an_value w, int32_t tokens)
{
	int exponent;
	frexp(c->dim, &exponent);              /* dim in [2^(e-1), 2^e) */
	double s = ldexp(1, 2 - exponent / 2); /* s^2 = 2^(4-e), or 2^(5-e) for odd e */
	double a = c->dim * s * s;
	an_value u = an_scale(b, x, s);
	an_value q = an_reduce(b, "reduce_sum", an_mul(b, u, u), 1, true);
	an_value shifted = an_add(b, q, an_scalar(b, AN_FP16, a * c->norm_eps));
	an_value r = an_binary(b, "pow", shifted, an_scalar(b, AN_FP16, -0.5));
	an_value n = an_mul(b, x, an_scale(b, r, sqrt(a)));
	return RESHAPE(b, an_mul(b, n, RESHAPE(b, w, 1, c->dim, 1, 1)), c->dim, tokens);
}

/* Channels of `heads` heads -> a batch of matrices: [K*groups*D, B*T] -> [B, K, groups, D, T], or
 * [K, groups, D, T] for one sequence (no element moves, and rank 4 is what engines like best). */
static an_value split_heads(an_builder *b, const an_llama_config *c, an_value x, int32_t groups,
			    int32_t batch, int32_t tokens)
{
	if (batch == 1)
		return RESHAPE(b, x, c->kv_heads, groups, c->head_dim, tokens);
	x = RESHAPE(b, x, c->kv_heads, groups, c->head_dim, batch, tokens);
	return TRANSPOSE(b, x, 3, 0, 1, 2, 4);
}

/* The inverse for all H heads: -> [H*D, B*T]. */
static an_value join_heads(an_builder *b, const an_llama_config *c, an_value x, int32_t batch, int32_t tokens)
{
	if (batch > 1)
		x = TRANSPOSE(b, x, 1, 2, 3, 0, 4);
	return RESHAPE(b, x, c->heads * c->head_dim, batch * tokens);
}

/* Rotary embedding, split-half: channels (i, i + D/2) of a head turn by the angle whose cos and sin
 * are in row i of the tables [.., D/2, T].  x [.., D, T]; `axis` is that of D. */
static an_value rope(an_builder *b, const an_llama_config *c, an_value x, an_value cosine, an_value sine,
		     int axis)
{
	int32_t half_dim = c->head_dim / 2;
	an_value x1 = an_slice(b, x, axis, 0, half_dim), x2 = an_slice(b, x, axis, half_dim, half_dim);
	an_value c1 = an_mul(b, x1, cosine), s2 = an_mul(b, x2, sine), y1 = an_sub(b, c1, s2);
	an_value c2 = an_mul(b, x2, cosine), s1 = an_mul(b, x1, sine), y2 = an_add(b, c2, s1);
	return an_concat(b, (an_value[]){y1, y2}, 2, axis);
}

/* SwiGLU with its residual: x + w_down (silu(w_gate h) * (w_up h)), h = norm(x).  silu is written as
 * x * sigmoid(x), which every compiler version takes. */
static an_value feed_forward(an_builder *b, const an_llama_config *c, an_value x, const an_value *w,
			     int32_t tokens)
{
	an_value h = an_name(b, rms_norm(b, c, x, w[0], tokens), "ffn_in");
	an_value gate = an_name(b, an_matmul(b, w[1], h, false, false), "gate");
	an_value up = an_name(b, an_matmul(b, w[2], h, false, false), "up");
	an_value silu = an_mul(b, gate, an_unary(b, "sigmoid", gate));
	an_value act = an_name(b, an_mul(b, silu, up), "act");
	an_value down = an_name(b, an_matmul(b, w[3], act, false, false), "down");
	return an_add(b, x, RESHAPE(b, down, 1, c->dim, 1, tokens));
}

/* Queries, keys and values of x, in heads; queries and keys turned by their positions.  The scores' factor
 * 1/sqrt(D) goes to the queries, before the product: the sums of D products then stay well inside fp16. */
typedef struct qkv {
	an_value q, k, v;
} qkv;
static qkv project(an_builder *b, const an_llama_config *c, an_value x, const an_value *w, an_value cosine,
		   an_value sine, int32_t batch, int32_t tokens)
{
	int32_t groups = c->heads / c->kv_heads;
	int axis = batch == 1 ? 2 : 3; /* of D */
	an_value h = an_name(b, rms_norm(b, c, x, w[0], batch * tokens), "attn_in");
	an_value q = an_name(b, an_matmul(b, w[1], h, false, false), "q");
	an_value k = an_name(b, an_matmul(b, w[2], h, false, false), "k");
	an_value v = an_name(b, an_matmul(b, w[3], h, false, false), "v");
	q = rope(b, c, split_heads(b, c, q, groups, batch, tokens), cosine, sine, axis);
	k = rope(b, c, split_heads(b, c, k, 1, batch, tokens), cosine, sine, axis);
	q = an_name(b, an_scale(b, q, 1 / sqrt(c->head_dim)), "q_turned");
	k = an_name(b, k, "k_turned");
	v = split_heads(b, c, v, 1, batch, tokens);
	return (qkv){q, k, v};
}

/* x + wo o for the heads' results o. */
static an_value project_back(an_builder *b, const an_llama_config *c, an_value x, an_value wo, an_value o,
			     int32_t batch, int32_t tokens)
{
	an_value y = an_name(b, an_matmul(b, wo, join_heads(b, c, o, batch, tokens), false, false), "attn");
	return an_name(b, an_add(b, x, RESHAPE(b, y, 1, c->dim, 1, batch * tokens)), "x_mid");
}

/* ---- Constants ---------------------------------------------------------------------- */

/* By which channels i and i + D/2 turn at position pos. */
static double angle(const an_llama_config *c, int32_t i, int64_t pos)
{
	return (double)pos * pow(c->rope_theta, -2.0 * i / c->head_dim);
}

void an_model_rope(const an_model *m, int64_t pos, float *cos_out, float *sin_out)
{
	for (int32_t i = 0; i < m->config.head_dim / 2; i++) {
		cos_out[i] = (float)cos(angle(&m->config, i, pos));
		sin_out[i] = (float)sin(angle(&m->config, i, pos));
	}
}

/* Adds an fp16 constant [rows, columns], each element rounded once. */
static an_value table(an_builder *b, an_ctx *ctx, const char *name, int32_t rows, int32_t columns,
		      double (*value)(const an_llama_config *c, int32_t row, int32_t column),
		      const an_llama_config *c)
{
	size_t bytes = (size_t)rows * (size_t)columns * sizeof(half);
	half *data = mem_alloc(ctx, bytes);
	if (!data) {
		if (b->status == AN_OK)
			b->status = fail_memory(ctx, bytes);
		return AN_NO_VALUE;
	}
	for (int32_t i = 0; i < rows; i++)
		for (int32_t j = 0; j < columns; j++)
			data[(size_t)i * (size_t)columns + (size_t)j] = half_from_double(value(c, i, j));
	an_value v = an_const(b, name, FP16(rows, columns), data);
	mem_free(ctx, data, bytes);
	return v;
}

static double rope_cos(const an_llama_config *c, int32_t i, int32_t pos) { return cos(angle(c, i, pos)); }
static double rope_sin(const an_llama_config *c, int32_t i, int32_t pos) { return sin(angle(c, i, pos)); }
static double causal(const an_llama_config *c, int32_t query, int32_t key)
{
	(void)c;
	return key > query ? AN_MASKED : 0;
}

/* ---- Functions ---------------------------------------------------------------------- */

/* Adds an input for each parameter of the segment and writes the values to w. */
static void param_inputs(an_builder *b, const an_model *m, const an_segment *s, an_value *w)
{
	for (int i = 0; i < s->nparams; i++) {
		const an_param *p = &m->param[s->param[i]];
		w[i] = an_input(b, s->input[i], an_tensor(AN_FP16, p->rank, p->dim));
		if (w[i] != AN_NO_VALUE)
			an_function_set_role(b->f, w[i], AN_ROLE_PARAM);
	}
}

static void build_layer(an_builder *b, const an_model *m, int32_t batch, int32_t tokens)
{
	const an_llama_config *c = &m->config;
	an_value w[LAYER_PARAMS], x = an_input(b, "x", FP16(1, c->dim, 1, batch * tokens));
	param_inputs(b, m, &m->segment[0], w);

	an_value cosine = table(b, m->ctx, "rope_cos", c->head_dim / 2, tokens, rope_cos, c);
	an_value sine = table(b, m->ctx, "rope_sin", c->head_dim / 2, tokens, rope_sin, c);
	an_value mask = table(b, m->ctx, "causal", tokens, tokens, causal, c);

	qkv h = project(b, c, x, w, cosine, sine, batch, tokens);
	/* [.., K, G, T, T]: keys and values have one matrix per group, which broadcasts over G. */
	an_value scores = an_name(b, an_add(b, an_matmul(b, h.q, h.k, true, false), mask), "scores");
	an_value probs = an_name(b, an_softmax(b, scores, -1), "probs");
	an_value o = an_name(b, an_matmul(b, h.v, probs, false, true), "heads"); /* [.., K, G, D, T] */
	x = project_back(b, c, x, w[4], o, batch, tokens);
	an_output(b, an_name(b, feed_forward(b, c, x, w + 5, batch * tokens), "y"));
}

static void build_head(an_builder *b, const an_model *m, int32_t tokens)
{
	const an_llama_config *c = &m->config;
	an_value w[2], x = an_input(b, "x", FP16(1, c->dim, 1, tokens));
	param_inputs(b, m, &m->segment[m->nsegments - 1], w);
	an_value logits = an_matmul(b, w[1], rms_norm(b, c, x, w[0], tokens), false, false);
	an_output(b, an_name(b, RESHAPE(b, logits, 1, c->vocab, 1, tokens), "logits"));
}

static void build_decode(an_builder *b, const an_model *m, int32_t width, int32_t context)
{
	const an_llama_config *c = &m->config;
	int32_t d = c->head_dim, kv = c->kv_heads;
	an_value w[LAYER_PARAMS], x = an_input(b, "x", FP16(1, c->dim, 1, width));
	an_value k_cache = an_input(b, "k_cache", FP16(1, 1, context, kv * d));
	an_value v_cache = an_input(b, "v_cache", FP16(1, 1, context, kv * d));
	an_value cache_mask = an_input(b, "cache_mask", FP16(1, 1, 1, context));
	an_value cosine = an_input(b, "rope_cos", FP16(1, 1, d / 2, width));
	an_value sine = an_input(b, "rope_sin", FP16(1, 1, d / 2, width));
	param_inputs(b, m, &m->segment[0], w);
	an_value mask = table(b, m->ctx, "causal", width, width, causal, c);

	qkv h = project(b, c, x, w, cosine, sine, 1, width); /* q [K, G, D, W], k and v [K, 1, D, W] */
	/* A cache row is one token's K heads; as matrices [K, 1, N, D] it is only seen differently. */
	an_value k_old = TRANSPOSE(b, RESHAPE(b, k_cache, 1, context, kv, d), 2, 0, 1, 3);
	an_value v_old = TRANSPOSE(b, RESHAPE(b, v_cache, 1, context, kv, d), 2, 0, 1, 3);
	/* One softmax over scores in two parts, so that the cache is read where it lies. */
	an_value s_old = an_add(b, an_matmul(b, h.q, k_old, true, true), cache_mask); /* [K, G, W, N] */
	an_value s_new = an_add(b, an_matmul(b, h.q, h.k, true, false), mask);        /* [K, G, W, W] */
	an_value probs = an_softmax(b, an_concat(b, (an_value[]){s_old, s_new}, 2, 3), -1);
	an_value p_old = an_slice(b, probs, 3, 0, context), p_new = an_slice(b, probs, 3, context, width);
	an_value o_old = an_matmul(b, v_old, p_old, true, true);
	an_value o = an_add(b, o_old, an_matmul(b, h.v, p_new, false, true));
	x = project_back(b, c, x, w[4], o, 1, width);
	an_output(b, an_name(b, feed_forward(b, c, x, w + 5, width), "y"));

	/* New rows of the cache: [K, 1, D, W] -> [W, K*D]. */
	an_value k_new = TRANSPOSE(b, RESHAPE(b, h.k, kv * d, width), 1, 0);
	an_value v_new = TRANSPOSE(b, RESHAPE(b, h.v, kv * d, width), 1, 0);
	an_output(b, an_name(b, RESHAPE(b, k_new, 1, 1, width, kv * d), "k_new"));
	an_output(b, an_name(b, RESHAPE(b, v_new, 1, 1, width, kv * d), "v_new"));
}

/* ---- Splits ------------------------------------------------------------------------- */

#define VALUES(...) (const char *const[]){__VA_ARGS__}, LENGTH(((const char *const[]){__VA_ARGS__}))
#define DEVICE(name, ...)                        \
	{                                        \
		name, VALUES(__VA_ARGS__), false \
	}
#define HOST(name, ...)                         \
	{                                       \
		name, VALUES(__VA_ARGS__), true \
	}

static const char *const half_save[] = {"q", "k", "v", "probs", "heads", "x_mid", "gate", "up"};
static const an_stage half_forward[] = {DEVICE("attention", "x_mid"), DEVICE("ffn", "y")};
static const an_stage half_backward[] = {DEVICE("ffn", "d_x_mid"), DEVICE("attention", "d_x")};

/* The six kernels of maderix/ANE f213c8d, training/train_large.m: kFwdAttn, kFwdFFN, kFFNBwd, kSdpaBwd1,
 * kSdpaBwd2, kQKVb, with residual additions and the gradients of norms on the host.  Scores are computed
 * again from q and k in the backward, and what the host contracts into weight gradients is all saved. */
static const char *const six_save[] = {"attn_in", "q",      "k",    "v",  "heads",
				       "x_mid",   "ffn_in", "gate", "up", "act"};
static const an_stage six_forward[] = {
    DEVICE("attention", "attn", "q", "k", "v", "heads", "attn_in"),
    HOST("residual", "x_mid"),
    DEVICE("ffn", "down", "gate", "up", "act", "ffn_in"),
    HOST("residual", "y"),
};
static const an_stage six_backward[] = {
    DEVICE("ffn", "d_ffn_in", "d_gate", "d_up"),
    HOST("ffn_norm", "d_x_mid", "d_ffn_norm"),
    DEVICE("attention 1", "d_v", "probs", "d_probs"),
    DEVICE("attention 2", "d_q", "d_k"),
    DEVICE("qkv", "d_attn_in"),
    HOST("attn_norm", "d_x", "d_attn_norm"),
};

#define SPLIT(id, text)                                                                         \
	{                                                                                       \
		.name = #id, .function = "layer", .summary = text, .save = id##_save,           \
		.forward = id##_forward, .backward = id##_backward, .nsave = LENGTH(id##_save), \
		.nforward = LENGTH(id##_forward), .nbackward = LENGTH(id##_backward)            \
	}
static const an_split splits[] = {
    SPLIT(half, "attention and feed-forward apart, two programs each way"),
    SPLIT(six, "six programs per layer, norms' gradients on the host (maderix/ANE f213c8d)"),
};

const an_split *an_model_split_at(const an_model *m, int i)
{
	(void)m; /* one family */
	return i >= 0 && i < LENGTH(splits) ? &splits[i] : NULL;
}

an_status an_model_build(const an_model *m, an_program *p, const char *function, int batch, int tokens,
			 an_function **out)
{
	*out = NULL;
	bool layer = strcmp(function, "layer") == 0;
	if (!layer && strcmp(function, "head") != 0)
		return fail(m->ctx, AN_USAGE,
			    "a Llama has no function \"%s\"; there are \"layer\" and \"head\"", function);
	if (tokens < 1 || tokens > m->config.seq)
		return fail(m->ctx, AN_USAGE, "%d tokens per sequence; this model takes 1 to %" PRId32,
			    tokens, m->config.seq);
	if (batch < 1 || batch > (1 << 20) / tokens)
		return fail(m->ctx, AN_USAGE, "batch %d of %d tokens; it must be 1 to %d", batch, tokens,
			    (1 << 20) / tokens);
	an_function *f;
	TRY(an_function_new(p, function, &f));
	an_builder b = an_builder_on(f);
	if (layer)
		build_layer(&b, m, batch, tokens);
	else
		build_head(&b, m, batch * tokens);
	TRY(an_builder_finish(&b));
	*out = f;
	return AN_OK;
}

an_status an_model_build_decode(const an_model *m, an_program *p, int width, int context, an_function **out)
{
	*out = NULL;
	if (width < 1 || width > m->config.seq)
		return fail(m->ctx, AN_USAGE, "%d new tokens at once; this model takes 1 to %" PRId32, width,
			    m->config.seq);
	if (context < 1 || context > 1 << 20)
		return fail(m->ctx, AN_USAGE, "a cache of %d tokens; it must be 1 to %d", context, 1 << 20);
	an_function *f;
	TRY(an_function_new(p, "layer_decode", &f));
	an_builder b = an_builder_on(f);
	build_decode(&b, m, width, context);
	TRY(an_builder_finish(&b));
	*out = f;
	return AN_OK;
}
