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
	an_type type;       /* F16, F32, BF16, I8, U8, I16, U16, I32, U32, I64, U64, BOOL; rank <= 5 */
	const void *data;   /* in the mapped file; little endian, may be unaligned */
	size_t bytes;
} an_tensor_info;
/* Opens and checks the whole header: JSON, offsets in bounds, without gaps or overlap, sizes
 * equal to dtype times shape, names unique. */
AN_API an_status an_safetensors_open(an_ctx *ctx, const char *path, an_safetensors **out);
AN_API void an_safetensors_close(an_safetensors *s);
AN_API int an_safetensors_count(const an_safetensors *s);
AN_API void an_safetensors_at(const an_safetensors *s, int i, an_tensor_info *out);
AN_API bool an_safetensors_find(const an_safetensors *s, const char *name, an_tensor_info *out);
/* An entry of the "__metadata__" map; NULL: absent. */
AN_API const char *an_safetensors_metadata(const an_safetensors *s, const char *key);

/* Writing: tensors in order, data as given; the file appears complete or not at all.
 * `metadata` is NULL or key, value, key, value, ..., NULL. */
AN_API an_status an_safetensors_write(an_ctx *ctx, const char *path, const an_tensor_info *tensors, int n,
                                      const char *const *metadata);

/* ---- NumPy .npy (format 1.0-3.0, C or Fortran order on reading, C order on writing) ---- */
AN_API an_status an_npy_read(an_ctx *ctx, const char *path, an_type *type, void **data);
AN_API an_status an_npy_write(an_ctx *ctx, const char *path, const an_type *type, const void *data);
AN_API void an_npy_free(an_ctx *ctx, const an_type *type, void *data);

/* ---- Hugging Face model folders ---- */
/* config.json <-> configuration.  Reading refuses what we would compute wrongly (model_type other
 * than "llama", rope_scaling, attention_bias, another hidden_act), naming the key. */
AN_API an_status an_hf_config_read(an_ctx *ctx, const char *path, an_llama_config *out);
AN_API an_status an_hf_config_write(an_ctx *ctx, const char *path, const an_llama_config *c, int32_t end_token);
/* model.safetensors (or the shards of model.safetensors.index.json) in `dir` -> the flat parameter
 * block, converting fp16/bf16/fp32; every parameter must be there with its shape. */
AN_API an_status an_hf_weights_read(const char *dir, const an_model *m, float *block);
/* Writes dir/model.safetensors with dtype AN_FP32, AN_FP16 or AN_BF16. */
AN_API an_status an_hf_weights_write(const char *dir, const an_model *m, const float *block, an_dtype dtype);

#ifdef __cplusplus
}
#endif
#endif
