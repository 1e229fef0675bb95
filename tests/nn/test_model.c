/* Configuration, parameter table, segments and initialisation. */
#include "anneal/nn.h"
#include "base/base.h"
#include "base/random.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdlib.h>
#include <cmocka.h>

static an_ctx *ctx;

static int open_ctx(void **state)
{
	(void)state;
	return an_ctx_open(NULL, &ctx) == AN_OK ? 0 : -1;
}
static int close_ctx(void **state)
{
	(void)state;
	an_ctx_close(ctx);
	return 0;
}

/* Parameters that Llamas of the published sizes have: embedding V*d, per layer two norms, 2 d^2 +
 * 2 d*kv + 3 d*h, and a norm; the stories models' READMEs say 15M, 42M, 110M. */
static void presets_have_published_sizes(void **state)
{
	(void)state;
	static const struct {
		const char *name;
		int64_t count;
	} want[] = {
	    {"stories15m", 32000LL * 288 + 6 * (2 * 288 + 4 * 288 * 288 + 3 * 288 * 768) + 288},
	    {"stories42m", 32000LL * 512 + 8 * (2 * 512 + 4 * 512 * 512 + 3 * 512 * 1376) + 512},
	    {"stories110m", 32000LL * 768 + 12 * (2 * 768 + 4 * 768 * 768 + 3 * 768 * 2048) + 768},
	    /* 7,077,888 matrix parameters in the layer, as published */
	    {"layer768", 32000LL * 768 + 7077888 + 3 * 768},
	};
	for (int i = 0; i < LENGTH(want); i++) {
		an_llama_config c;
		an_model *m;
		assert_int_equal(an_llama_preset(ctx, want[i].name, &c), AN_OK);
		assert_int_equal(an_llama_new(ctx, &c, &m), AN_OK);
		assert_int_equal(an_model_param_count(m), want[i].count);
		an_model_free(m);
	}
	int n = 0;
	while (an_llama_preset_name(n)) {
		an_llama_config c;
		assert_int_equal(an_llama_preset(ctx, an_llama_preset_name(n++), &c), AN_OK);
	}
	assert_true(n >= LENGTH(want));
	assert_null(an_llama_preset_name(-1));
	an_llama_config c;
	assert_int_equal(an_llama_preset(ctx, "stories7b", &c), AN_USAGE);
	assert_non_null(strstr(an_message(ctx), "stories7b"));
	assert_non_null(strstr(an_message(ctx), "stories15m, stories42m, stories110m"));
}

static const an_llama_config odd = {
    .dim = 48, .layers = 3, .heads = 6, .kv_heads = 2, .hidden = 80, .vocab = 131, .seq = 24, .tied = true};

static void zeros_become_defaults(void **state)
{
	(void)state;
	an_llama_config c = odd;
	c.kv_heads = 0;
	assert_int_equal(an_llama_check(ctx, &c), AN_OK);
	assert_int_equal(c.kv_heads, 6);
	assert_int_equal(c.head_dim, 8);
	assert_true(c.rope_theta == 10000);
	assert_true(c.norm_eps == 1e-5);
}

/* One field changed to something impossible; the message has to name it. */
static void impossible_sizes_are_named(void **state)
{
	(void)state;
	static const struct {
		size_t field;
		int32_t value;
		const char *message;
	} bad[] = {
#define FIELD(f) offsetof(an_llama_config, f)
	    {FIELD(dim), 0, "dim is 0"},
	    {FIELD(dim), -48, "dim is -48"},
	    {FIELD(dim), INT32_MAX, "dim is 2147483647; it must be 1 to 65536"},
	    {FIELD(dim), 50, "heads must divide dim, but dim 50 / heads 6 leaves 2"},
	    {FIELD(dim), 6 * 7, "must be even (dim 42, heads 6)"},
	    {FIELD(layers), 0, "layers is 0"},
	    {FIELD(layers), INT32_MAX, "layers is 2147483647"},
	    {FIELD(heads), 0, "heads is 0"},
	    {FIELD(heads), -1, "heads is -1"},
	    {FIELD(kv_heads), 4, "kv-heads must divide heads, but heads 6 / kv-heads 4 leaves 2"},
	    {FIELD(kv_heads), 12, "kv-heads must divide heads"},
	    {FIELD(kv_heads), -2, "kv-heads is -2"},
	    {FIELD(head_dim), 7, "the head dimension is 7"},
	    {FIELD(head_dim), INT32_MAX, "head-dim is 2147483647"},
	    {FIELD(hidden), 0, "hidden is 0"},
	    {FIELD(hidden), INT32_MAX, "hidden is 2147483647"},
	    {FIELD(vocab), 0, "vocab is 0"},
	    {FIELD(vocab), INT32_MAX, "vocab is 2147483647"},
	    {FIELD(seq), 0, "seq is 0"},
	    {FIELD(seq), INT32_MAX, "seq is 2147483647"},
#undef FIELD
	};
	for (int i = 0; i < LENGTH(bad); i++) {
		an_llama_config c = odd;
		memcpy((char *)&c + bad[i].field, &bad[i].value, sizeof bad[i].value);
		an_model *m;
		assert_int_equal(an_llama_new(ctx, &c, &m), AN_USAGE);
		assert_null(m);
		if (!strstr(an_message(ctx), bad[i].message))
			fail_msg("\"%s\" lacks \"%s\"", an_message(ctx), bad[i].message);
	}
	an_llama_config c = odd;
	c.norm_eps = 1e-8; /* rounds to zero in fp16 */
	assert_int_equal(an_llama_check(ctx, &c), AN_USAGE);
	assert_non_null(strstr(an_message(ctx), "norm-eps is 1e-08"));
	c = odd;
	c.norm_eps = NAN;
	assert_int_equal(an_llama_check(ctx, &c), AN_USAGE);
	c = odd;
	c.rope_theta = -1;
	assert_int_equal(an_llama_check(ctx, &c), AN_USAGE);
	assert_non_null(strstr(an_message(ctx), "rope-theta is -1"));
}

/* The largest configuration that the limits allow must not overflow anything. */
static void largest_sizes_do_not_overflow(void **state)
{
	(void)state;
	an_llama_config c = {.dim = 1 << 16,
			     .layers = 1 << 12,
			     .heads = 1 << 12,
			     .kv_heads = 1 << 12,
			     .head_dim = 1 << 12,
			     .hidden = 1 << 18,
			     .vocab = 1 << 22,
			     .seq = 1 << 20};
	an_model *m;
	assert_int_equal(an_llama_new(ctx, &c, &m), AN_OK);
	/* attention 4 * 2^24 * 2^16, feed-forward 3 * 2^18 * 2^16, two norms */
	double layer = 4 * 0x1p40 + 3 * 0x1p34 + 2 * 0x1p16;
	assert_true((double)an_model_param_count(m) == 4096 * layer + 2 * 0x1p38 + 0x1p16);
	an_model_free(m);
}

static void table_is_consistent(void **state)
{
	(void)state;
	for (int tied = 0; tied < 2; tied++) {
		an_llama_config c = odd;
		c.tied = tied;
		an_model *m;
		assert_int_equal(an_llama_new(ctx, &c, &m), AN_OK);
		int n = an_model_params(m);
		assert_int_equal(n, 1 + 3 * 9 + 1 + !tied);
		int64_t end = 0, count = 0;
		for (int i = 0; i < n; i++) {
			const an_param *p = an_model_param(m, i);
			assert_true(p->offset >= end && p->offset < end + 16 && p->offset % 16 == 0);
			assert_int_equal(p->count, p->rank == 2 ? p->dim[0] * p->dim[1] : p->dim[0]);
			assert_int_equal(p->decay, p->rank == 2);
			assert_int_equal(p->kind == AN_PARAM_NORM, p->rank == 1);
			end = p->offset + p->count;
			count += p->count;
			for (int j = 0; j < i; j++)
				assert_string_not_equal(p->name, an_model_param(m, j)->name);
		}
		assert_true(an_model_param_block(m) >= end && an_model_param_block(m) < end + 16);
		assert_int_equal(an_model_param_count(m), count);
		assert_null(an_model_param(m, n));
		assert_null(an_model_param(m, -1));

		assert_int_equal(an_model_segments(m), 4);
		const an_segment *s = an_model_segment(m, 2);
		assert_string_equal(s->name, "layers.2");
		assert_string_equal(s->function, "layer");
		assert_int_equal(s->nparams, 9);
		assert_string_equal(s->input[2], "wk");
		const an_param *k = an_model_param(m, s->param[2]);
		assert_string_equal(k->name, "model.layers.2.self_attn.k_proj.weight");
		assert_int_equal(k->dim[0], 2 * 8);
		assert_int_equal(k->dim[1], 48);
		assert_true(fabs(an_model_param(m, s->param[4])->init_std - 0.02 / sqrt(6)) < 1e-15);
		assert_true(fabs(an_model_param(m, s->param[8])->init_std - 0.02 / sqrt(6)) < 1e-15);
		assert_true(an_model_param(m, s->param[7])->init_std == 0.02);
		const an_segment *head = an_model_segment(m, 3);
		assert_string_equal(head->function, "head");
		assert_string_equal(an_model_param(m, head->param[0])->name, "model.norm.weight");
		assert_string_equal(an_model_param(m, head->param[1])->name,
				    tied ? "model.embed_tokens.weight" : "lm_head.weight");
		assert_null(an_model_segment(m, 4));
		an_model_free(m);
	}
}

static void initialisation_is_the_generators(void **state)
{
	(void)state;
	an_model *m;
	assert_int_equal(an_llama_new(ctx, &odd, &m), AN_OK);
	size_t block = (size_t)an_model_param_block(m);
	float *w = malloc(block * sizeof *w);
	assert_non_null(w);
	memset(w, 0xff, block * sizeof *w);
	an_model_init(m, 7, w);
	size_t seen = 0;
	for (int i = 0; i < an_model_params(m); i++) {
		const an_param *p = an_model_param(m, i);
		for (; seen < (size_t)p->offset; seen++)
			assert_true(w[seen] == 0); /* padding */
		double sum = 0, squares = 0;
		for (int64_t j = 0; j < p->count; j++, seen++) {
			double want =
			    p->rank == 1 ? 1 : p->init_std * random_normal(7, (uint64_t)i, (uint64_t)j);
			assert_true(w[seen] == (float)want);
			sum += w[seen];
			squares += w[seen] * w[seen];
		}
		if (p->rank == 1)
			continue;
		/* Four standard errors: of the mean std/sqrt(n), of the variance var*sqrt(2/n). */
		double n = (double)p->count,
		       std = i == 0 || !strstr(p->name, "o_proj") ? 0.02 : 0.02 / sqrt(6);
		if (strstr(p->name, "down_proj"))
			std = 0.02 / sqrt(6);
		assert_true(fabs(sum / n) < 4 * std / sqrt(n));
		assert_true(fabs(squares / n / (std * std) - 1) < 4 * sqrt(2 / n));
	}
	free(w);
	an_model_free(m);
}

static void impossible_functions_are_refused(void **state)
{
	(void)state;
	an_model *m;
	an_program *p;
	an_function *f;
	assert_int_equal(an_llama_new(ctx, &odd, &m), AN_OK);
	assert_int_equal(an_program_new(ctx, &p), AN_OK);
	assert_int_equal(an_model_build(m, p, "tail", 1, 8, &f), AN_USAGE);
	assert_non_null(strstr(an_message(ctx), "\"tail\""));
	assert_int_equal(an_model_build(m, p, "layer", 1, 25, &f), AN_USAGE);
	assert_non_null(strstr(an_message(ctx), "25 tokens per sequence; this model takes 1 to 24"));
	assert_int_equal(an_model_build(m, p, "layer", 0, 8, &f), AN_USAGE);
	assert_int_equal(an_model_build(m, p, "layer", INT32_MAX, 8, &f), AN_USAGE);
	assert_int_equal(an_model_build_decode(m, p, 0, 8, &f), AN_USAGE);
	assert_int_equal(an_model_build_decode(m, p, 4, INT32_MAX, &f), AN_USAGE);
	assert_int_equal(an_program_functions(p), 0);
	an_program_free(p);
	an_model_free(m);
}

/* ---- Out of memory ----------------------------------------------------------------- */

/* Allows so many allocations, then refuses all; counts bytes in use. */
typedef struct rationed {
	int left;
	size_t used;
} rationed;

static void *ration(void *user, void *p, size_t old_size, size_t new_size)
{
	rationed *r = user;
	if (new_size > old_size && r->left-- <= 0)
		return NULL;
	if (new_size == 0) {
		free(p);
		p = NULL;
	} else if (!(p = realloc(p, new_size)))
		return NULL;
	r->used += new_size - old_size;
	return p;
}

/* Builds a model and all its functions. */
static an_status build_all(an_ctx *c)
{
	an_model *m = NULL;
	an_program *p = NULL;
	an_function *f;
	an_status s = an_llama_new(c, &odd, &m);
	if (s == AN_OK)
		s = an_program_new(c, &p);
	if (s == AN_OK)
		s = an_model_build(m, p, "layer", 2, 24, &f);
	if (s == AN_OK)
		s = an_model_build(m, p, "head", 2, 24, &f);
	if (s == AN_OK)
		s = an_model_build_decode(m, p, 4, 20, &f);
	an_program_free(p);
	an_model_free(m);
	return s;
}

/* With one more allocation allowed each time, everything fails cleanly until it succeeds. */
static void memory_may_run_out_anywhere(void **state)
{
	(void)state;
	an_status s = AN_MEMORY;
	int allowed = 0;
	for (; s != AN_OK; allowed++) {
		rationed r = {.left = 1 << 20};
		an_allocator a = {.resize = ration, .user = &r};
		an_ctx *c;
		assert_int_equal(an_ctx_open(&(an_ctx_options){.allocator = &a}, &c), AN_OK);
		r.left = allowed;
		s = build_all(c);
		if (s != AN_OK && !strstr(an_message(c), "out of memory"))
			fail_msg("after %d allocations: %s, %s", allowed, an_status_name(s), an_message(c));
		an_ctx_close(c);
		assert_int_equal(r.used, 0);
	}
	assert_true(allowed > 10); /* it did run out */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(presets_have_published_sizes),
	    cmocka_unit_test(zeros_become_defaults),
	    cmocka_unit_test(impossible_sizes_are_named),
	    cmocka_unit_test(largest_sizes_do_not_overflow),
	    cmocka_unit_test(table_is_consistent),
	    cmocka_unit_test(initialisation_is_the_generators),
	    cmocka_unit_test(impossible_functions_are_refused),
	    cmocka_unit_test(memory_may_run_out_anywhere),
	};
	return cmocka_run_group_tests(tests, open_ctx, close_ctx);
}
