/* Everybody's files: safetensors, NumPy arrays, Hugging Face model folders. */
#ifndef ANNEAL_IO_H
#define ANNEAL_IO_H

#include "anneal/mil.h"
#include "anneal/nn.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- safetensors ---- */
typedef struct an_safetensors an_safetensors;
typedef struct an_tensor_info {
	const char *name;
	an_type type;     /* F16, F32, BF16, I8, U8, I16, U16, I32, U32, I64, U64, BOOL; rank <= 5 */
	const void *data; /* in the mapped file; little endian, may be unaligned */
	size_t bytes;
} an_tensor_info;
/* Opens and checks the whole header: JSON, offsets in bounds, without gaps or overlap, sizes
 * equal to dtype times shape, names unique. */
AN_API an_status an_safetensors_open(an_ctx *ctx, const char *path, an_safetensors **out);
AN_API void an_safetensors_close(an_safetensors *s);
AN_API int an_safetensors_count(const an_safetensors *s);
/* Tensor i in the order of the data, 0 <= i < count. */
AN_API void an_safetensors_at(const an_safetensors *s, int i, an_tensor_info *out);
/* false: no tensor has this name, *out is unchanged. */
AN_API bool an_safetensors_find(const an_safetensors *s, const char *name, an_tensor_info *out);
/* An entry of the "__metadata__" map; NULL: absent. */
AN_API const char *an_safetensors_metadata(const an_safetensors *s, const char *key);

/* Writing from where the data is, without a copy; tensors with larger elements come first in the
 * file, so that all are aligned, otherwise the order is kept.  The file appears complete or not at
 * all.  `metadata` is NULL or key, value, key, value, ..., NULL. */
AN_API an_status an_safetensors_write(an_ctx *ctx, const char *path, const an_tensor_info *tensors, int n,
				      const char *const *metadata);

/* ---- NumPy .npy (format 1.0-3.0, C or Fortran order on reading, C order on writing) ---- */
/* Reads f2, f4, i1..i8, u1..u8 and b1 of either byte order as they are and f8 rounded to fp32.
 * *data is freed with an_npy_free. */
AN_API an_status an_npy_read(an_ctx *ctx, const char *path, an_type *type, void **data);
/* bf16, which NumPy does not have, is written as f4; no bit is lost. */
AN_API an_status an_npy_write(an_ctx *ctx, const char *path, const an_type *type, const void *data);
AN_API void an_npy_free(an_ctx *ctx, const an_type *type, void *data);

/* ---- Hugging Face model folders ---- */
/* config.json <-> configuration.  Reading refuses what we would compute wrongly (model_type other
 * than "llama", scaled rotary embeddings, biases, another hidden_act), naming the key. */
AN_API an_status an_hf_config_read(an_ctx *ctx, const char *path, an_llama_config *out);
/* end_token: id of end of text, which also begins one; < 0: none. */
AN_API an_status an_hf_config_write(an_ctx *ctx, const char *path, const an_llama_config *c,
				    int32_t end_token);
/* generation_config.json, which tells transformers' generate() where to stop. */
AN_API an_status an_hf_generation_config_write(an_ctx *ctx, const char *path, int32_t end_token);
/* model.safetensors (or the shards of model.safetensors.index.json) in `dir` -> the flat parameter
 * block, converting fp16/bf16/fp32; every parameter must be there with its shape (lm_head.weight not when
 * the embeddings are tied).  Tensors the model does not use are reported to the context's log. */
AN_API an_status an_hf_weights_read(const char *dir, const an_model *m, float *block);
/* Writes dir/model.safetensors with dtype AN_FP32, AN_FP16 or AN_BF16. */
AN_API an_status an_hf_weights_write(const char *dir, const an_model *m, const float *block, an_dtype dtype);

#ifdef __cplusplus
}
#endif
#endif
