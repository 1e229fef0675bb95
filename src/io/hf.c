/* Hugging Face model folders: config.json, generation_config.json, model.safetensors. */
#include "base/half.h"
#include "io/safetensors.h"
#include "nn/model.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- config.json: reading ------------------------------------------------------- */

typedef struct reader {
	an_ctx *ctx;
	const char *path;
	const json_t *root;
} reader;

static bool absent(const json_t *v) { return !v || json_is_null(v); }

/* An integer; `otherwise` < 0: it must be there. */
static an_status get_int(const reader *r, const char *key, int32_t otherwise, int32_t *out)
{
	const json_t *v = json_object_get(r->root, key);
	*out = otherwise;
	if (absent(v))
		return otherwise >= 0 ? AN_OK
				      : fail(r->ctx, AN_FORMAT, "%s: \"%s\" is missing", r->path, key);
	json_int_t i = json_integer_value(v);
	if (!json_is_integer(v) || i < 1 || i > INT32_MAX)
		return fail(r->ctx, AN_FORMAT, "%s: \"%s\" is not a whole number from 1 to %d", r->path, key,
			    INT32_MAX);
	*out = (int32_t)i;
	return AN_OK;
}

static an_status get_positive(const reader *r, const json_t *object, const char *key, double otherwise,
			      double *out)
{
	const json_t *v = json_object_get(object, key);
	*out = otherwise;
	if (absent(v))
		return AN_OK;
	*out = json_number_value(v);
	if (!json_is_number(v) || !(*out > 0))
		return fail(r->ctx, AN_FORMAT, "%s: \"%s\" is not a number above 0", r->path, key);
	return AN_OK;
}

static an_status get_bool(const reader *r, const char *key, bool *out)
{
	const json_t *v = json_object_get(r->root, key);
	if (!absent(v) && !json_is_boolean(v))
		return fail(r->ctx, AN_FORMAT, "%s: \"%s\" is neither true nor false", r->path, key);
	*out = json_is_true(v);
	return AN_OK;
}

/* A string that, if it is there, must be one of two. */
static an_status check_word(const reader *r, const json_t *object, const char *key, const char *one,
			    const char *other)
{
	const json_t *v = json_object_get(object, key);
	const char *s = json_string_value(v);
	if (absent(v) || (s && (strcmp(s, one) == 0 || strcmp(s, other) == 0)))
		return AN_OK;
	return fail(r->ctx, AN_UNSUPPORTED, "%s: \"%s\" is \"%s\", only \"%s\" is supported", r->path, key,
		    s ? s : "?", one);
}

/* rope_scaling, or the rope_parameters that newer versions of transformers write: nothing but
 * the base may be in it that changes angles. */
static an_status check_rope(const reader *r, const char *key)
{
	const json_t *v = json_object_get(r->root, key);
	if (absent(v))
		return AN_OK;
	if (!json_is_object(v))
		return fail(r->ctx, AN_FORMAT, "%s: \"%s\" is not an object", r->path, key);
	an_status s = check_word(r, v, "rope_type", "default", "default");
	if (s == AN_OK)
		s = check_word(r, v, "type", "default", "default");
	return s == AN_OK ? s : fail_prefix(r->ctx, s, "%s: \"%s\"", r->path, key);
}

static an_status refuse(const reader *r, const char *key)
{
	const json_t *v = json_object_get(r->root, key);
	if (absent(v) || json_is_false(v))
		return AN_OK;
	return fail(r->ctx, AN_UNSUPPORTED, "%s: \"%s\" is set, which is not supported", r->path, key);
}

/* Defaults of absent keys are those of transformers' LlamaConfig. */
static an_status read_config(const reader *r, an_llama_config *c)
{
	if (absent(json_object_get(r->root, "model_type")))
		return fail(r->ctx, AN_FORMAT,
			    "%s: \"model_type\" is missing; is this a model's config.json?", r->path);
	TRY(check_word(r, r->root, "model_type", "llama", "llama"));
	TRY(check_word(r, r->root, "hidden_act", "silu", "swish"));
	static const char *const unsupported[] = {"attention_bias", "mlp_bias", "quantization_config",
						  "rope_interleaved"};
	for (int i = 0; i < LENGTH(unsupported); i++)
		TRY(refuse(r, unsupported[i]));
	TRY(check_rope(r, "rope_scaling"));
	TRY(check_rope(r, "rope_parameters"));

	const json_t *rope = json_object_get(r->root, "rope_parameters");
	double share, theta;
	TRY(get_positive(r, r->root, "partial_rotary_factor", 1, &share));
	TRY(get_positive(r, rope, "partial_rotary_factor", share, &share));
	if (share != 1)
		return fail(r->ctx, AN_UNSUPPORTED,
			    "%s: \"partial_rotary_factor\" is %g, only 1 is supported", r->path, share);
	TRY(get_positive(r, r->root, "rope_theta", 10000, &theta));
	TRY(get_positive(r, rope, "rope_theta", theta, &c->rope_theta));
	TRY(get_positive(r, r->root, "rms_norm_eps", 1e-6, &c->norm_eps));

	TRY(get_int(r, "hidden_size", -1, &c->dim));
	TRY(get_int(r, "num_hidden_layers", -1, &c->layers));
	TRY(get_int(r, "num_attention_heads", -1, &c->heads));
	TRY(get_int(r, "num_key_value_heads", 0, &c->kv_heads));
	TRY(get_int(r, "head_dim", 0, &c->head_dim));
	TRY(get_int(r, "intermediate_size", -1, &c->hidden));
	TRY(get_int(r, "vocab_size", -1, &c->vocab));
	TRY(get_int(r, "max_position_embeddings", 2048, &c->seq));
	return get_bool(r, "tie_word_embeddings", &c->tied);
}

static an_status read_json(an_ctx *ctx, const char *path, json_t **out)
{
	file_view view;
	json_error_t e;
	*out = NULL;
	TRY(file_open_view(ctx, path, &view));
	*out = json_loadb((const char *)view.data, view.size, JSON_REJECT_DUPLICATES, &e);
	file_close_view(ctx, &view);
	if (*out && json_is_object(*out))
		return AN_OK;
	if (*out) {
		json_decref(*out);
		*out = NULL;
		return fail(ctx, AN_FORMAT, "%s: expected a JSON object", path);
	}
	return fail(ctx, AN_FORMAT, "%s:%d:%d: not valid JSON: %s", path, e.line, e.column, e.text);
}

an_status an_hf_config_read(an_ctx *ctx, const char *path, an_llama_config *out)
{
	json_t *root;
	TRY(read_json(ctx, path, &root));
	an_llama_config c = {0};
	an_status s = read_config(&(reader){ctx, path, root}, &c);
	json_decref(root);
	TRY(s);
	s = an_llama_check(ctx, &c);
	if (s != AN_OK)
		return fail_prefix(ctx, s, "%s", path);
	*out = c;
	return AN_OK;
}

/* ---- config.json: writing ------------------------------------------------------- */

/* The shortest decimal that reads back as the same number; with a point, so that no reader takes
 * it for an integer. */
static const char *number(double x, char *buf, size_t size)
{
	if (x >= 1 && x < 1e15 && x == (double)(int64_t)x) {
		snprintf(buf, size, "%.1f", x);
		return buf;
	}
	for (int digits = 1; digits <= 17; digits++) {
		snprintf(buf, size, "%.*g", digits, x);
		if (strtod(buf, NULL) == x)
			break;
	}
	return buf;
}

static void print_config(str *s, const an_llama_config *c, int32_t end)
{
	char theta[32], eps[32], std[32];
	number(c->rope_theta, theta, sizeof theta);
	number(c->norm_eps, eps, sizeof eps);
	number(0.02, std, sizeof std);
	str_addf(s, "{\n  \"architectures\": [\"LlamaForCausalLM\"],\n  \"model_type\": \"llama\",\n");
	str_addf(s, "  \"hidden_size\": %d,\n  \"num_hidden_layers\": %d,\n  \"num_attention_heads\": %d,\n",
		 c->dim, c->layers, c->heads);
	str_addf(s, "  \"num_key_value_heads\": %d,\n  \"head_dim\": %d,\n  \"intermediate_size\": %d,\n",
		 c->kv_heads, c->head_dim, c->hidden);
	str_addf(s, "  \"vocab_size\": %d,\n  \"max_position_embeddings\": %d,\n", c->vocab, c->seq);
	str_addf(s, "  \"rms_norm_eps\": %s,\n  \"hidden_act\": \"silu\",\n", eps);
	str_addf(s, "  \"attention_bias\": false,\n  \"attention_dropout\": 0.0,\n  \"mlp_bias\": false,\n");
	/* transformers 5 reads the base from rope_parameters, earlier versions and others from rope_theta */
	str_addf(s, "  \"rope_theta\": %s,\n  \"rope_scaling\": null,\n", theta);
	str_addf(s, "  \"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": %s},\n", theta);
	str_addf(s, "  \"tie_word_embeddings\": %s,\n  \"initializer_range\": %s,\n",
		 c->tied ? "true" : "false", std);
	if (end >= 0)
		str_addf(s, "  \"bos_token_id\": %d,\n  \"eos_token_id\": %d,\n  \"pad_token_id\": null,\n",
			 end, end);
	else
		str_add(s,
			"  \"bos_token_id\": null,\n  \"eos_token_id\": null,\n  \"pad_token_id\": null,\n");
	str_add(s, "  \"use_cache\": true\n}\n");
}

static an_status write_text(an_ctx *ctx, const char *path, str *s)
{
	TRY(str_status(s));
	return file_replace(ctx, path, s->data, s->len);
}

an_status an_hf_config_write(an_ctx *ctx, const char *path, const an_llama_config *c, int32_t end_token)
{
	an_llama_config full = *c;
	TRY(an_llama_check(ctx, &full));
	str s;
	str_init(&s, ctx);
	print_config(&s, &full, end_token);
	an_status status = write_text(ctx, path, &s);
	str_free(&s);
	return status;
}

an_status an_hf_generation_config_write(an_ctx *ctx, const char *path, int32_t end_token)
{
	str s;
	str_init(&s, ctx);
	if (end_token >= 0)
		str_addf(&s, "{\n  \"bos_token_id\": %d,\n  \"eos_token_id\": %d\n}\n", end_token, end_token);
	else
		str_add(&s, "{}\n");
	an_status status = write_text(ctx, path, &s);
	str_free(&s);
	return status;
}

/* ---- Weights: reading ----------------------------------------------------------- */

typedef struct shard {
	const char *name; /* of the file, as the index spells it */
	const char *path;
	an_safetensors *file;
} shard;

/* The safetensors files of a folder: one, or those that an index names. */
typedef struct folder {
	an_ctx *ctx;
	arena mem;
	const char *dir;
	json_t *index; /* NULL: one file */
	const json_t *map;
	shard *shard;
	int n;
} folder;

static an_status open_shard(folder *f, const char *name)
{
	shard *s = &f->shard[f->n];
	s->name = name;
	s->path = path_join(&f->mem, f->dir, name);
	if (!s->path)
		return fail_memory(f->ctx, 0);
	TRY(an_safetensors_open(f->ctx, s->path, &s->file));
	f->n++;
	return AN_OK;
}

static const shard *find_shard(const folder *f, const char *name)
{
	for (int i = 0; i < f->n; i++)
		if (strcmp(f->shard[i].name, name) == 0)
			return &f->shard[i];
	return NULL;
}

static an_status open_index(folder *f, const char *path)
{
	TRY(read_json(f->ctx, path, &f->index));
	f->map = json_object_get(f->index, "weight_map");
	if (!json_is_object(f->map))
		return fail(f->ctx, AN_FORMAT, "%s: \"weight_map\" is missing or not an object", path);
	f->shard = arena_array(&f->mem, json_object_size(f->map), sizeof *f->shard);
	if (!f->shard)
		return fail_memory(f->ctx, 0);
	const char *tensor;
	json_t *v;
	json_object_foreach((json_t *)(uintptr_t)f->map, tensor, v)
	{
		const char *name = json_string_value(v);
		if (!name || !*name || *name == '.' || strchr(name, '/'))
			return fail(f->ctx, AN_FORMAT,
				    "%s: \"%s\": \"%s\" is not the name of a file in this folder", path,
				    tensor, name ? name : "");
		if (!find_shard(f, name))
			TRY(open_shard(f, name));
	}
	return AN_OK;
}

static an_status open_folder(folder *f)
{
	const char *one = path_join(&f->mem, f->dir, "model.safetensors"),
		   *index = path_join(&f->mem, f->dir, "model.safetensors.index.json");
	if (!one || !index)
		return fail_memory(f->ctx, 0);
	if (!path_exists(one) && path_exists(index))
		return open_index(f, index);
	f->shard = arena_array(&f->mem, 1, sizeof *f->shard);
	return f->shard ? open_shard(f, "model.safetensors") : fail_memory(f->ctx, 0);
}

static void close_folder(folder *f)
{
	for (int i = 0; i < f->n; i++)
		an_safetensors_close(f->shard[i].file);
	json_decref(f->index);
	arena_free(&f->mem);
}

/* The tensor's own shard, if it has it. */
static const shard *find_tensor(const folder *f, const char *name, an_tensor_info *out)
{
	const char *file = f->map ? json_string_value(json_object_get(f->map, name)) : "model.safetensors";
	const shard *s = file ? find_shard(f, file) : NULL;
	return s && an_safetensors_find(s->file, name, out) ? s : NULL;
}

static an_type param_type(const an_param *p, an_dtype dtype) { return an_tensor(dtype, p->rank, p->dim); }

static an_status read_param(const folder *f, const an_param *p, float *to)
{
	an_tensor_info t;
	const shard *s = find_tensor(f, p->name, &t);
	if (!s)
		return fail(f->ctx, AN_FORMAT,
			    "%s: tensor \"%s\" is missing; config.json and the weights do not belong "
			    "together",
			    f->dir, p->name);
	an_type want = param_type(p, t.type.dtype);
	if (!an_type_equal(&t.type, &want)) {
		char found[96], expected[96];
		return fail(f->ctx, AN_FORMAT, "%s: tensor \"%s\" is %s, expected %s from config.json",
			    s->path, p->name, an_type_text(&t.type, found, sizeof found),
			    an_type_text(&want, expected, sizeof expected));
	}
	const uint8_t *from = t.data;
	switch (t.type.dtype) {
	case AN_FP32: memcpy(to, from, t.bytes); break;
	case AN_FP16:
	case AN_BF16:
		for (int64_t i = 0; i < p->count; i++) {
			uint16_t h;
			memcpy(&h, from + 2 * i, sizeof h);
			to[i] = t.type.dtype == AN_FP16 ? half_to_float(h) : bfloat_to_float(h);
		}
		break;
	default:
		return fail(f->ctx, AN_UNSUPPORTED,
			    "%s: tensor \"%s\" has type %s; expected F32, F16 or BF16", s->path, p->name,
			    an_dtype_name(t.type.dtype));
	}
	return AN_OK;
}

static bool is_param(const an_model *m, const char *name)
{
	for (int i = 0; i < an_model_params(m); i++)
		if (strcmp(an_model_param(m, i)->name, name) == 0)
			return true;
	return false;
}

static bool ends_with(const char *s, const char *end)
{
	size_t n = strlen(s), k = strlen(end);
	return n >= k && strcmp(s + n - k, end) == 0;
}

/* Tensors that the model has no use for are reported, apart from the tables of angles that old
 * versions of transformers saved and from the copy of a tied embedding. */
static void report_unused(const folder *f, const an_model *m)
{
	for (int k = 0; k < f->n; k++)
		for (int i = 0; i < an_safetensors_count(f->shard[k].file); i++) {
			an_tensor_info t;
			an_safetensors_at(f->shard[k].file, i, &t);
			bool tied_copy = an_model_config(m)->tied && strcmp(t.name, "lm_head.weight") == 0;
			if (!is_param(m, t.name) && !tied_copy && !ends_with(t.name, "rotary_emb.inv_freq"))
				log_text(f->ctx, AN_LOG_WARNING,
					 "%s: tensor \"%s\" is not used by this model", f->shard[k].path,
					 t.name);
		}
}

an_status an_hf_weights_read(const char *dir, const an_model *m, float *block)
{
	folder f = {.ctx = m->ctx, .dir = dir};
	arena_init(&f.mem, m->ctx);
	an_status s = open_folder(&f);
	for (int i = 0; i < an_model_params(m) && s == AN_OK; i++) {
		const an_param *p = an_model_param(m, i);
		s = read_param(&f, p, block + p->offset);
	}
	if (s == AN_OK)
		report_unused(&f, m);
	close_folder(&f);
	return s;
}

/* ---- Weights: writing ----------------------------------------------------------- */

static void write_param(file_out *f, const float *from, int64_t count, an_dtype dtype)
{
	if (dtype == AN_FP32) {
		file_write(f, from, (size_t)count * sizeof *from);
		return;
	}
	uint16_t chunk[2048];
	for (int64_t i = 0; i < count;) {
		int n = (int)MIN(count - i, LENGTH(chunk));
		for (int k = 0; k < n; k++, i++)
			chunk[k] = dtype == AN_FP16 ? half_from_float(from[i]) : bfloat_from_float(from[i]);
		file_write(f, chunk, (size_t)n * sizeof *chunk);
	}
}

an_status an_hf_weights_write(const char *dir, const an_model *m, const float *block, an_dtype dtype)
{
	an_ctx *ctx = m->ctx;
	if (dtype != AN_FP32 && dtype != AN_FP16 && dtype != AN_BF16)
		return fail(ctx, AN_USAGE, "%s: weights are written as fp32, fp16 or bf16, not %s", dir,
			    an_dtype_name(dtype));
	arena scratch;
	arena_init(&scratch, ctx);
	int n = an_model_params(m);
	const char *path = path_join(&scratch, dir, "model.safetensors");
	an_tensor_info *t = arena_array(&scratch, (size_t)n, sizeof *t);
	an_status s = path && t ? AN_OK : fail_memory(ctx, 0);
	file_out *f = NULL;
	if (s == AN_OK) {
		for (int i = 0; i < n; i++) {
			const an_param *p = an_model_param(m, i);
			t[i] = (an_tensor_info){.name = p->name, .type = param_type(p, dtype)};
			t[i].bytes = an_type_bytes(&t[i].type);
		}
		/* transformers wants to know which framework's conventions the tensors follow */
		static const char *const metadata[] = {"format", "pt", NULL};
		s = st_begin(ctx, path, t, n, metadata, &f);
	}
	if (s == AN_OK) {
		for (int i = 0; i < n; i++) {
			const an_param *p = an_model_param(m, i);
			write_param(f, block + p->offset, p->count, dtype);
		}
		s = file_commit(f);
	}
	arena_free(&scratch);
	return s;
}
