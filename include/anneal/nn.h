/* Model families as MIL builders.
 *
 * A model is a table of parameters and a chain of segments.  A segment is one function of
 * MIL (equal segments share it) and a list of parameters bound to its inputs.  Activations
 * at segment borders are [1, C, 1, S]: channels, then tokens; a batch of B sequences of T
 * tokens is S = B*T with sequence b in columns b*T .. b*T+T-1.  The embedding lookup
 * before the first segment and the loss after the last are host operations. */
#ifndef ANNEAL_NN_H
#define ANNEAL_NN_H

#include "anneal/pass.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The Llama family: RMSNorm, rotary embedding (Hugging Face's split-half form), grouped-query
 * attention, SwiGLU.  Field names in brackets are those of Hugging Face's config.json. */
typedef struct an_llama_config {
	int32_t dim;       /* [hidden_size] */
	int32_t layers;    /* [num_hidden_layers] */
	int32_t heads;     /* [num_attention_heads]; divides dim unless head_dim is given */
	int32_t kv_heads;  /* [num_key_value_heads]; divides heads; 0: heads */
	int32_t head_dim;  /* [head_dim]; even; 0: dim / heads */
	int32_t hidden;    /* [intermediate_size] */
	int32_t vocab;     /* [vocab_size] */
	int32_t seq;       /* [max_position_embeddings] longest context */
	double rope_theta; /* [rope_theta]; 0: 10000 */
	double norm_eps;   /* [rms_norm_eps]; 0: 1e-5 */
	bool tied;         /* [tie_word_embeddings] the classifier is the embedding table */
} an_llama_config;

/* Fills a configuration from a preset: "stories15m", "stories42m", "stories110m" (karpathy's
 * TinyStories Llamas: dim 288, 512, 768; 6, 8, 12 layers; context 256, 1024, 1024), "layer768" (one
 * layer, dim 768, hidden 2048, 12 heads, seq 512), "tiny" (dim 256, 4 layers: minutes on CPUs without
 * matrix units), "nano" (dim 64, 2 layers, 2 kv heads: for tests).  The vocabulary is only a default:
 * one's own tokenizer decides.  AN_USAGE: unknown; the message lists the names. */
AN_API an_status an_llama_preset(an_ctx *ctx, const char *name, an_llama_config *out);
/* Preset names by index, NULL after the last. */
AN_API const char *an_llama_preset_name(int i);
/* Resolves zeros to defaults and refuses impossible sizes, naming the field and the rule. */
AN_API an_status an_llama_check(an_ctx *ctx, an_llama_config *c);

typedef enum an_param_kind { AN_PARAM_EMBEDDING, AN_PARAM_MATRIX, AN_PARAM_NORM } an_param_kind;

/* A row of the parameter table.  Everything that walks the parameters (allocation, AdamW,
 * saving, loading, packing) walks this table. */
typedef struct an_param {
	const char *name; /* Hugging Face's: "model.layers.0.self_attn.q_proj.weight" */
	an_param_kind kind;
	int rank;        /* 1 or 2 */
	int32_t dim[2];  /* matrices are [out, in] */
	int64_t offset;  /* of its first element in the flat block of all parameters; each
			  * parameter starts at a multiple of 16 elements */
	int64_t count;   /* elements */
	bool decay;      /* AdamW's weight decay applies (matrices and embedding, not norms) */
	double init_std; /* normal(0, init_std); norms (kind NORM) start at 1.  Matrices 0.02, those that add
			  * to the residual stream (o_proj, down_proj) 0.02 / sqrt(2 * layers) */
} an_param;

typedef struct an_segment {
	const char *name;     /* "layers.3", "head" */
	const char *function; /* which function an_model_build builds for it: "layer", "head" */
	int nparams;
	const int *param;         /* indices into the parameter table */
	const char *const *input; /* the function's input name for each.  layer: attn_norm, wq, wk, wv, wo,
				   * ffn_norm, w_gate, w_up, w_down; head: norm, w_out */
} an_segment;

typedef struct an_model an_model;
AN_API an_status an_llama_new(an_ctx *ctx, const an_llama_config *c, an_model **out);
AN_API void an_model_free(an_model *m);
AN_API const an_llama_config *an_model_config(const an_model *m);
AN_API int an_model_params(const an_model *m);
AN_API const an_param *an_model_param(const an_model *m, int i);
AN_API int64_t an_model_param_block(const an_model *m); /* elements of the flat block (with padding) */
AN_API int64_t an_model_param_count(const an_model *m); /* trainable elements */
AN_API int an_model_embedding(const an_model *m);       /* index of the embedding table */
AN_API int an_model_segments(const an_model *m);
AN_API const an_segment *an_model_segment(const an_model *m, int i);

/* Fills a flat parameter block (an_model_param_block elements, padding zero) from the counter-based generator
 * (base/random.h): parameter i, element j is init_std * normal(seed, stream i, index j). */
AN_API void an_model_init(const an_model *m, uint64_t seed, float *block);

/* Builds the training/evaluation function `function` ("layer", "head") into `p` for `batch`
 * sequences of `tokens` tokens each.
 *   layer: x [1,dim,1,S], parameters -> y [1,dim,1,S]
 *   head:  x [1,dim,1,S], parameters -> logits [1,vocab,1,S]
 * fp16 throughout; parameter inputs have role AN_ROLE_PARAM and the shape of the table. */
AN_API an_status an_model_build(const an_model *m, an_program *p, const char *function, int batch, int tokens,
				an_function **out);

/* A way to cut a function and its gradient into several device programs (an_cut), as a plan of a training may
 * ask for. */
typedef struct an_split {
	const char *name;        /* "half", "six" */
	const char *function;    /* of which function: "layer" */
	const char *summary;     /* one line for people, with its source if it was published */
	const char *const *save; /* what the forward saves for the backward (an_grad_options) */
	const an_stage *forward, *backward;
	int nsave, nforward, nbackward;
} an_split;
/* By index, NULL after the last. */
AN_API const an_split *an_model_split_at(const an_model *m, int i);
/* By name; *out is NULL for a function that stays whole.  AN_USAGE: no function has such a split; the message
 * lists what there is. */
AN_API an_status an_model_split(const an_model *m, const char *name, const char *function,
				const an_split **out);

/* What a mask adds to scores that must not count.  exp() of it is 0 in every arithmetic, and unlike
 * -65504 (fp16's lowest) it does not overflow to -inf when a negative score is added. */
#define AN_MASKED (-30000.0)

/* The same layer for decoding `width` new tokens of one sequence against a cache of
 * `context` earlier ones:
 *   x [1,dim,1,W], k_cache, v_cache [1,1,context,kv_dim], cache_mask [1,1,1,context] (0 where the
 *   cache holds a token, AN_MASKED elsewhere), rope_cos, rope_sin [1,1,head_dim/2,W] for the new
 *   positions, parameters
 *   -> y [1,dim,1,W], k_new, v_new [1,1,W,kv_dim]
 * so that new keys and values (keys already rotated) are consecutive rows of the cache.  Function
 * "layer_decode"; "head" decodes as it trains, with tokens = W. */
AN_API an_status an_model_build_decode(const an_model *m, an_program *p, int width, int context,
				       an_function **out);
/* cos and sin of position `pos`: out[head_dim/2] each; formula: angle = pos * theta^(-2i/head_dim). */
AN_API void an_model_rope(const an_model *m, int64_t pos, float *cos_out, float *sin_out);

#ifdef __cplusplus
}
#endif
#endif
