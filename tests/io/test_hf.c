/* Hugging Face model folders: configurations and weights. */
#include "anneal/io.h"
#include "base/base.h"
#include "base/half.h"
#include "base/random.h"
#include "support/text_temp.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static an_ctx *ctx;
static char logged[4096];

static void note(void *user, an_log_level level, const char *text)
{
	(void)user;
	assert_int_equal(level, AN_LOG_WARNING);
	strncat(logged, text, sizeof logged - strlen(logged) - 2);
	strcat(logged, "\n");
}

static int setup(void **state)
{
	(void)state;
	an_ctx_options opt = {.log = note};
	return an_ctx_open(&opt, &ctx) != AN_OK;
}

static int teardown(void **state)
{
	(void)state;
	an_ctx_close(ctx);
	return 0;
}

static void ok(an_status s)
{
	if (s != AN_OK)
		fail_msg("%s: %s", an_status_name(s), an_message(ctx));
}

static void refused(an_status s, an_status want, const char *words)
{
	if (s != want || !strstr(an_message(ctx), words))
		fail_msg("%s: \"%s\", expected %s with \"%s\"", an_status_name(s), an_message(ctx),
			 an_status_name(want), words);
}

/* ---- config.json ---------------------------------------------------------------- */

static void same_config(const an_llama_config *a, const an_llama_config *b)
{
	assert_int_equal(a->dim, b->dim);
	assert_int_equal(a->layers, b->layers);
	assert_int_equal(a->heads, b->heads);
	assert_int_equal(a->kv_heads, b->kv_heads);
	assert_int_equal(a->head_dim, b->head_dim);
	assert_int_equal(a->hidden, b->hidden);
	assert_int_equal(a->vocab, b->vocab);
	assert_int_equal(a->seq, b->seq);
	assert_true(a->rope_theta == b->rope_theta && a->norm_eps == b->norm_eps);
	assert_int_equal(a->tied, b->tied);
}

static void keeps_configurations(void **state)
{
	(void)state;
	an_llama_config c = {0}, got;
	for (int i = 0; an_llama_preset_name(i); i++) {
		ok(an_llama_preset(ctx, an_llama_preset_name(i), &c));
		ok(an_llama_check(ctx, &c));
		ok(an_hf_config_write(ctx, temp_path("config.json"), &c, i % 2 ? -1 : c.vocab - 1));
		ok(an_hf_config_read(ctx, temp_path("config.json"), &got));
		same_config(&c, &got);
	}
	/* everything unlike its default */
	c = (an_llama_config){.dim = 96,
			      .layers = 3,
			      .heads = 6,
			      .kv_heads = 2,
			      .head_dim = 8,
			      .hidden = 100,
			      .vocab = 777,
			      .seq = 50,
			      .rope_theta = 123456.7890123,
			      .norm_eps = 3.3e-7,
			      .tied = true};
	ok(an_hf_config_write(ctx, temp_path("config.json"), &c, 776));
	ok(an_hf_config_read(ctx, temp_path("config.json"), &got));
	same_config(&c, &got);
	char *text = temp_read("config.json", NULL);
	assert_non_null(strstr(text, "\"eos_token_id\": 776"));
	free(text);
	ok(an_hf_generation_config_write(ctx, temp_path("generation_config.json"), 776));
	text = temp_read("generation_config.json", NULL);
	assert_non_null(strstr(text, "\"eos_token_id\": 776"));
	free(text);
}

#define REQUIRED                                                                     \
	"\"model_type\": \"llama\", \"hidden_size\": 64, \"num_hidden_layers\": 2, " \
	"\"num_attention_heads\": 4, "                                               \
	"\"intermediate_size\": 96, \"vocab_size\": 300"

static an_status read_text(const char *text, an_llama_config *out)
{
	temp_write("config.json", text, strlen(text));
	return an_hf_config_read(ctx, temp_path("config.json"), out);
}

static void fills_in_defaults(void **state)
{
	(void)state;
	an_llama_config c;
	ok(read_text("{" REQUIRED "}", &c));
	same_config(&c, &(an_llama_config){64, 2, 4, 4, 16, 96, 300, 2048, 10000, 1e-6, false});
	/* as transformers 5 writes it; null is absent */
	ok(read_text(
	    "{" REQUIRED ", \"rope_parameters\": {\"rope_theta\": 5e5, \"rope_type\": \"default\"}, "
	    "\"rope_scaling\": null, \"head_dim\": null, \"quantization_config\": null, \"mlp_bias\": false, "
	    "\"rope_theta\": 3, \"tie_word_embeddings\": true}",
	    &c));
	assert_true(c.rope_theta == 5e5 && c.tied && c.head_dim == 16);
}

static void refuses_configurations(void **state)
{
	(void)state;
	static const struct {
		an_status status;
		const char *words, *text;
	} cases[] = {
	    {AN_UNSUPPORTED, "\"model_type\" is \"gpt2\"", "{\"model_type\": \"gpt2\"}"},
	    {AN_FORMAT, "\"model_type\" is missing", "{}"},
	    {AN_UNSUPPORTED, "\"model_type\"", "{\"model_type\": 7}"},
	    {AN_FORMAT, "\"hidden_size\" is missing", "{\"model_type\": \"llama\"}"},
	    {AN_FORMAT, "1:4: not valid JSON", "{\"a\""},
	    {AN_FORMAT, "expected a JSON object", "[1]"},
	    {AN_FORMAT, "duplicate", "{" REQUIRED ", \"vocab_size\": 300}"},
	    {AN_UNSUPPORTED, "\"hidden_act\" is \"gelu\"", "{" REQUIRED ", \"hidden_act\": \"gelu\"}"},
	    {AN_UNSUPPORTED, "attention_bias", "{" REQUIRED ", \"attention_bias\": true}"},
	    {AN_UNSUPPORTED, "mlp_bias", "{" REQUIRED ", \"mlp_bias\": true}"},
	    {AN_UNSUPPORTED, "quantization_config", "{" REQUIRED ", \"quantization_config\": {\"bits\": 4}}"},
	    {AN_UNSUPPORTED,
	     "\"rope_scaling\": ", "{" REQUIRED ", \"rope_scaling\": {\"rope_type\": \"llama3\"}}"},
	    {AN_UNSUPPORTED, "\"type\" is \"linear\"",
	     "{" REQUIRED ", \"rope_scaling\": {\"type\": \"linear\"}}"},
	    {AN_UNSUPPORTED,
	     "\"rope_parameters\": ", "{" REQUIRED ", \"rope_parameters\": {\"rope_type\": \"yarn\"}}"},
	    {AN_FORMAT, "\"rope_scaling\" is not", "{" REQUIRED ", \"rope_scaling\": 2}"},
	    {AN_UNSUPPORTED, "partial_rotary_factor", "{" REQUIRED ", \"partial_rotary_factor\": 0.5}"},
	    {AN_FORMAT, "\"rms_norm_eps\"", "{" REQUIRED ", \"rms_norm_eps\": -1}"},
	    {AN_FORMAT, "\"rope_theta\"", "{" REQUIRED ", \"rope_theta\": \"x\"}"},
	    {AN_FORMAT, "\"tie_word_embeddings\"", "{" REQUIRED ", \"tie_word_embeddings\": 1}"},
	    {AN_FORMAT, "\"max_position_embeddings\"", "{" REQUIRED ", \"max_position_embeddings\": 1.5}"},
	    {AN_FORMAT, "\"max_position_embeddings\"",
	     "{" REQUIRED ", \"max_position_embeddings\": 4294967297}"},
	    {AN_FORMAT, "\"max_position_embeddings\"", "{" REQUIRED ", \"max_position_embeddings\": 0}"},
	    /* impossible sizes; the rules are an_llama_check's */
	    {AN_USAGE, "config.json: ", "{" REQUIRED ", \"num_key_value_heads\": 3}"},
	};
	an_llama_config c;
	for (int i = 0; i < LENGTH(cases); i++) {
		an_status s = read_text(cases[i].text, &c);
		if (s != cases[i].status || !strstr(an_message(ctx), cases[i].words) ||
		    !strstr(an_message(ctx), "config.json"))
			fail_msg("%s: %s: \"%s\"", cases[i].text, an_status_name(s), an_message(ctx));
	}
	refused(an_hf_config_read(ctx, temp_path("absent.json"), &c), AN_IO, "absent.json");
}

/* ---- Weights -------------------------------------------------------------------- */

static const an_llama_config small = {
    .dim = 24, .layers = 2, .heads = 3, .kv_heads = 1, .hidden = 20, .vocab = 31, .seq = 8};

static an_model *model(bool tied)
{
	an_model *m;
	an_llama_config c = small;
	c.tied = tied;
	ok(an_llama_new(ctx, &c, &m));
	return m;
}

static float *block_of(const an_model *m, uint64_t seed)
{
	float *block = calloc((size_t)an_model_param_block(m), sizeof *block);
	assert_non_null(block);
	an_model_init(m, seed, block);
	/* extremes, so that conversion shows: subnormals of fp16 and fp32, overflow of fp16, ties */
	static const float odd[] = {-0.0f,  1e-7f,          1e-40f,       65519.9f, 65520.0f,
				    -1e30f, 1.00048828125f, 1.001953125f, 3.14159f};
	memcpy(block + an_model_param(m, 1)->offset, odd, sizeof odd);
	return block;
}

static void clear_folder(const char *name)
{
	char path[64];
	mkdir(temp_path(name), 0777);
	static const char *const files[] = {"model.safetensors", "model.safetensors.index.json",
					    "a.safetensors", "b.safetensors"};
	for (int i = 0; i < LENGTH(files); i++) {
		snprintf(path, sizeof path, "%s/%s", name, files[i]);
		unlink(temp_path(path));
	}
}

static void keeps_weights(void **state)
{
	(void)state;
	static const an_dtype dtypes[] = {AN_FP32, AN_FP16, AN_BF16};
	for (int tied = 0; tied < 2; tied++)
		for (int d = 0; d < LENGTH(dtypes); d++) {
			an_model *m = model(tied);
			float *block = block_of(m, 7),
			      *back = calloc((size_t)an_model_param_block(m), sizeof *back);
			clear_folder("m");
			ok(an_hf_weights_write(temp_path("m"), m, block, dtypes[d]));
			ok(an_hf_weights_read(temp_path("m"), m, back));
			for (int64_t i = 0; i < an_model_param_block(m); i++) {
				float want = dtypes[d] == AN_FP16 ? half_to_float(half_from_float(block[i]))
					     : dtypes[d] == AN_BF16
						 ? bfloat_to_float(bfloat_from_float(block[i]))
						 : block[i];
				assert_int_equal(float_bits(back[i]), float_bits(want));
			}
			/* names, shapes and type in the file */
			an_safetensors *s;
			ok(an_safetensors_open(ctx, temp_path("m/model.safetensors"), &s));
			assert_int_equal(an_safetensors_count(s), an_model_params(m));
			an_tensor_info t;
			assert_true(an_safetensors_find(s, "model.embed_tokens.weight", &t));
			an_type want = an_tensor(dtypes[d], 2, (int32_t[]){31, 24});
			assert_true(an_type_equal(&t.type, &want));
			assert_int_equal(an_safetensors_find(s, "lm_head.weight", &t), !tied);
			assert_true(an_safetensors_find(s, "model.layers.1.self_attn.k_proj.weight", &t));
			want = an_tensor(dtypes[d], 2, (int32_t[]){8, 24});
			assert_true(an_type_equal(&t.type, &want));
			assert_string_equal(an_safetensors_metadata(s, "format"), "pt");
			an_safetensors_close(s);
			free(block);
			free(back);
			an_model_free(m);
		}
	assert_string_equal(logged, "");
	an_model *m = model(true);
	refused(an_hf_weights_write(temp_path("m"), m, NULL, AN_INT8), AN_USAGE, "int8");
	an_model_free(m);
}

/* The parameters as tensors, fp32, so that tests can leave some out or change them. */
static int tensors_of(const an_model *m, const float *block, an_tensor_info *t)
{
	for (int i = 0; i < an_model_params(m); i++) {
		const an_param *p = an_model_param(m, i);
		t[i] = (an_tensor_info){p->name, an_tensor(AN_FP32, p->rank, p->dim), block + p->offset,
					(size_t)p->count * 4};
	}
	return an_model_params(m);
}

static void names_what_does_not_fit(void **state)
{
	(void)state;
	an_model *m = model(false);
	float *block = block_of(m, 1), *back = calloc((size_t)an_model_param_block(m), sizeof *back);
	an_tensor_info t[64], changed[64];
	int n = tensors_of(m, block, t);
	clear_folder("m");
	refused(an_hf_weights_read(temp_path("m"), m, back), AN_IO, "m/model.safetensors");

	for (int i = 0; i < n; i++) { /* each missing once, the head too: it is not tied */
		memcpy(changed, t, sizeof t);
		changed[i] = t[n - 1];
		ok(an_safetensors_write(ctx, temp_path("m/model.safetensors"), changed, n - 1, NULL));
		char words[128];
		snprintf(words, sizeof words, "\"%s\" is missing", t[i].name);
		refused(an_hf_weights_read(temp_path("m"), m, back), AN_FORMAT, words);
	}

	memcpy(changed, t, sizeof t);
	for (int i = 0; i < n; i++)
		if (strcmp(t[i].name, "model.layers.1.mlp.up_proj.weight") == 0) {
			changed[i].type.dim[0] = 24; /* transposed */
			changed[i].type.dim[1] = 20;
		}
	ok(an_safetensors_write(ctx, temp_path("m/model.safetensors"), changed, n, NULL));
	an_status s = an_hf_weights_read(temp_path("m"), m, back);
	refused(s, AN_FORMAT, "model.layers.1.mlp.up_proj.weight");
	refused(s, AN_FORMAT, "[24, 20]");
	refused(s, AN_FORMAT, "[20, 24]");

	memcpy(changed, t, sizeof t);
	changed[2].type.dtype = AN_INT32;
	ok(an_safetensors_write(ctx, temp_path("m/model.safetensors"), changed, n, NULL));
	refused(an_hf_weights_read(temp_path("m"), m, back), AN_UNSUPPORTED, "int32; expected F32");

	/* what is not needed is reported, save what is known to be idle */
	static const int32_t one[] = {2};
	memcpy(changed, t, sizeof t);
	changed[n] =
	    (an_tensor_info){"model.layers.0.self_attn.q_proj.bias", an_tensor(AN_FP32, 1, one), block, 8};
	changed[n + 1] = (an_tensor_info){"model.layers.0.self_attn.rotary_emb.inv_freq",
					  an_tensor(AN_FP32, 1, one), block, 8};
	ok(an_safetensors_write(ctx, temp_path("m/model.safetensors"), changed, n + 2, NULL));
	ok(an_hf_weights_read(temp_path("m"), m, back));
	assert_memory_equal(back, block, (size_t)an_model_param_block(m) * 4);
	assert_non_null(strstr(logged, "q_proj.bias\" is not used"));
	assert_null(strstr(logged, "inv_freq"));
	logged[0] = 0;
	/* a tied model may have the head or not */
	an_model *tied = model(true);
	ok(an_safetensors_write(ctx, temp_path("m/model.safetensors"), t, n, NULL));
	ok(an_hf_weights_read(temp_path("m"), tied, back));
	assert_string_equal(logged, "");
	an_model_free(tied);
	free(block);
	free(back);
	an_model_free(m);
}

static void reads_shards(void **state)
{
	(void)state;
	an_model *m = model(false);
	float *block = block_of(m, 3), *back = calloc((size_t)an_model_param_block(m), sizeof *back);
	an_tensor_info t[64];
	int n = tensors_of(m, block, t);
	clear_folder("m");
	ok(an_safetensors_write(ctx, temp_path("m/a.safetensors"), t, 5, NULL));
	ok(an_safetensors_write(ctx, temp_path("m/b.safetensors"), t + 5, n - 5, NULL));
	str index;
	str_init(&index, ctx);
	str_add(&index, "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {");
	for (int i = 0; i < n; i++)
		str_addf(&index, "%s\"%s\": \"%s.safetensors\"", i ? ", " : "", t[i].name, i < 5 ? "a" : "b");
	str_add(&index, "}}");
	temp_write("m/model.safetensors.index.json", index.data, index.len);
	ok(an_hf_weights_read(temp_path("m"), m, back));
	assert_memory_equal(back, block, (size_t)an_model_param_block(m) * 4);

	/* an index that is wrong about a tensor, lacks one, or leads outside */
	static const struct {
		an_status status;
		const char *words, *text;
	} cases[] = {
	    {AN_FORMAT, "weight_map", "{}"},
	    {AN_FORMAT, "weight_map", "{\"weight_map\": []}"},
	    {AN_FORMAT, "not the name of a file", "{\"weight_map\": {\"x\": \"../m/a.safetensors\"}}"},
	    {AN_FORMAT, "not the name of a file", "{\"weight_map\": {\"x\": \"/etc/passwd\"}}"},
	    {AN_FORMAT, "not the name of a file", "{\"weight_map\": {\"x\": 1}}"},
	    {AN_FORMAT, "not the name of a file", "{\"weight_map\": {\"x\": \"\"}}"},
	    {AN_IO, "c.safetensors", "{\"weight_map\": {\"x\": \"c.safetensors\"}}"},
	    {AN_FORMAT, "\"model.embed_tokens.weight\" is missing",
	     "{\"weight_map\": {\"x\": \"a.safetensors\"}}"},
	    {AN_FORMAT, "\"model.embed_tokens.weight\" is missing",
	     "{\"weight_map\": {\"model.embed_tokens.weight\": \"b.safetensors\"}}"},
	    {AN_FORMAT, "not valid JSON", "{\"weight_map\""}};
	for (int i = 0; i < LENGTH(cases); i++) {
		temp_write("m/model.safetensors.index.json", cases[i].text, strlen(cases[i].text));
		refused(an_hf_weights_read(temp_path("m"), m, back), cases[i].status, cases[i].words);
	}
	str_free(&index);
	free(block);
	free(back);
	an_model_free(m);
}

static void keeps_the_old_file_when_full(void **state)
{
	(void)state;
	an_model *m = model(false);
	float *block = block_of(m, 3);
	clear_folder("m");
	temp_write("m/model.safetensors", "old", 3);
	struct rlimit old, few;
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	few = (struct rlimit){5000, old.rlim_max};
	setrlimit(RLIMIT_FSIZE, &few);
	an_status s = an_hf_weights_write(temp_path("m"), m, block, AN_FP32);
	setrlimit(RLIMIT_FSIZE, &old);
	refused(s, AN_IO, "model.safetensors");
	char *kept = temp_read("m/model.safetensors", NULL);
	assert_string_equal(kept, "old");
	free(kept);
	assert_int_equal(temp_leftovers("m"), 0);
	refused(an_hf_weights_write(temp_path("no/folder"), m, block, AN_FP32), AN_IO, "no/folder");
	free(block);
	an_model_free(m);
}

static an_status whole_folder(an_ctx *c)
{
	an_model *m = NULL;
	an_llama_config config = small, got;
	an_status s = an_llama_new(c, &config, &m);
	if (s == AN_OK) {
		size_t bytes = (size_t)an_model_param_block(m) * sizeof(float);
		float *block = calloc(1, bytes);
		s = an_hf_config_write(c, temp_path("memory.json"), &config, 3);
		if (s == AN_OK)
			s = an_hf_config_read(c, temp_path("memory.json"), &got);
		if (s == AN_OK)
			s = an_hf_weights_write(temp_path("m"), m, block, AN_BF16);
		if (s == AN_OK)
			s = an_hf_weights_read(temp_path("m"), m, block);
		free(block);
	}
	an_model_free(m);
	return s;
}

static void survives_without_memory(void **state)
{
	(void)state;
	clear_folder("m");
	survive_without_memory(whole_folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(keeps_configurations),         cmocka_unit_test(fills_in_defaults),
	    cmocka_unit_test(refuses_configurations),       cmocka_unit_test(keeps_weights),
	    cmocka_unit_test(names_what_does_not_fit),      cmocka_unit_test(reads_shards),
	    cmocka_unit_test(keeps_the_old_file_when_full), cmocka_unit_test(survives_without_memory)};
	return cmocka_run_group_tests(tests, setup, teardown);
}
