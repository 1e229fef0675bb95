/* Decoding with a cache against the full forward, sampling against its definition. */
#include "base/half.h"
#include "base/random.h"
#include "support/train_support.h"
#include "train/sample.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#undef fail
#include <cmocka.h>

/* Weights large enough for attention that is not uniform. */
static float *make_block(const an_model *m)
{
	float *block = calloc((size_t)an_model_param_block(m), sizeof *block);
	assert_non_null(block);
	for (int i = 0; i < an_model_params(m); i++) {
		const an_param *p = an_model_param(m, i);
		for (int64_t j = 0; j < p->count; j++) {
			double z = random_normal(11, (uint64_t)i, (uint64_t)j);
			block[p->offset + j] = (float)(p->kind == AN_PARAM_NORM ? 1 + 0.2 * z : 0.25 * z);
		}
	}
	return block;
}

/* Logits [n][vocab] of a whole sequence by the training programs, one after the other. */
static void full_forward(const setup *s, const float *block, const int32_t *ids, int n, float *logits)
{
	const an_llama_config *c = an_model_config(s->model);
	an_program *p;
	an_buffer *x = NULL;
	an_type t = an_tensor(AN_FP16, 4, (int32_t[]){1, c->dim, 1, n});
	check_ok(s->ctx, an_program_new(s->ctx, &p));
	check_ok(s->ctx, an_buffer_new(s->device, &t, &x));
	half *in = an_buffer_map(x);
	for (int i = 0; i < n; i++)
		for (int j = 0; j < c->dim; j++)
			in[j * n + i] =
			    half_from_float(block[ids[i] * c->dim + j]); /* the table comes first */
	an_buffer_unmap(x);
	for (int k = 0; k < an_model_segments(s->model); k++) {
		const an_segment *segment = an_model_segment(s->model, k);
		an_function *f = an_program_function(p, segment->function);
		an_executable *e;
		an_call *call;
		if (!f)
			check_ok(s->ctx, an_model_build(s->model, p, segment->function, 1, n, &f));
		check_ok(s->ctx, an_compile(s->device, f, &e));
		check_ok(s->ctx, an_call_new(e, &call));
		check_ok(s->ctx, an_call_bind(call, "x", x));
		for (int i = 0; i < segment->nparams; i++) {
			const an_param *q = an_model_param(s->model, segment->param[i]);
			an_type wt = an_tensor(AN_FP16, q->rank, q->dim);
			an_buffer *w;
			check_ok(s->ctx, an_buffer_new(s->device, &wt, &w));
			check_ok(s->ctx, an_buffer_update_from_f32(w, 0, q->count, block + q->offset));
			check_ok(s->ctx, an_call_bind(call, segment->input[i], w));
			an_buffer_free(w);
		}
		an_type out_type;
		const char *name = an_executable_output(e, 0, &out_type);
		an_buffer *out;
		check_ok(s->ctx, an_buffer_new(s->device, &out_type, &out));
		check_ok(s->ctx, an_call_bind(call, name, out));
		check_ok(s->ctx, an_call_run(call));
		an_call_free(call);
		an_executable_free(e);
		an_buffer_free(x);
		x = out;
	}
	const half *y = an_buffer_map(x);
	for (int i = 0; i < n; i++)
		for (int v = 0; v < c->vocab; v++)
			logits[i * c->vocab + v] = half_to_float(y[v * n + i]);
	an_buffer_unmap(x);
	an_buffer_free(x);
	an_program_free(p);
}

/* Both compute the same function and round differently where the softmax and the product with the values are
 * split into cache and new tokens; from there on every stored value differs by its own rounding.  An fp16
 * rounding has a relative error of u/sqrt(3), u = 2^-11, root mean square.  On the way to a logit lie about
 * 25 of them in each of the 2 layers and 10 in the head; independent errors add in squares: sqrt(60)
 * u/sqrt(3) = 4.5 u of a logit's root mean square.  The difference of two such results has sqrt(2) of that,
 * and of the 28000 logits compared here one is expected beyond 4.2 standard deviations: the bound is 5, which
 * is 5 * sqrt(2) * 4.5 u = 2^-6.  A wrong row, position or mask changes logits by their own size. */
static void check_close(const float *got, const float *want, int n, const char *what, int at)
{
	double squares = 0;
	for (int i = 0; i < n; i++)
		squares += (double)want[i] * (double)want[i];
	double size = sqrt(squares / n);
	assert_true(size > 0.1);
	for (int i = 0; i < n; i++)
		if (!(fabs((double)got[i] - (double)want[i]) <= size * 0x1p-6))
			fail_msg("%s, token %d, logit %d: %g instead of %g", what, at, i, (double)got[i],
				 (double)want[i]);
}

static void cache_gives_the_full_forward(void **state)
{
	(void)state;
	enum { N = 83 };
	an_llama_config c = small_config;
	c.seq = 300;
	setup s;
	setup_open(&s, 0, "ieee", &c);
	float *block = make_block(s.model), *want = malloc(N * SMALL_VOCAB * sizeof *want);
	int32_t ids[N];
	assert_non_null(want);
	learnable_tokens(ids, N, SMALL_VOCAB, 3);
	full_forward(&s, block, ids, N, want);
	/* token by token; pieces that need filling up; a context that has no room for filling up */
	static const struct {
		const char *what;
		int context, pieces[8];
	} cases[] = {
	    {"one by one", 300, {1}},
	    {"whole", 300, {N}},
	    {"pieces", 300, {5, 17, 16, 1, 40, 4}},
	    {"no room", N, {70, 13}},
	    {"small context", 90, {3, 61, 19}},
	};
	for (int k = 0; k < (int)(sizeof cases / sizeof *cases); k++) {
		an_generator *g;
		check_ok(s.ctx, an_generator_new(s.device, s.model, block, cases[k].context, &g));
		for (int at = 0, i = 0; at < N; i++) {
			int n = cases[k].pieces[0] == 1 ? 1 : cases[k].pieces[i];
			check_ok(s.ctx, an_generator_feed(g, ids + at, (size_t)n));
			at += n;
			assert_int_equal(an_generator_length(g), at);
			check_close(an_generator_logits(g), want + (at - 1) * SMALL_VOCAB, SMALL_VOCAB,
				    cases[k].what, at - 1);
		}
		/* the context is full, or not */
		size_t room = (size_t)cases[k].context - N;
		int32_t more[301] = {0};
		check_refused(s.ctx, an_generator_feed(g, more, room + 1), AN_USAGE, "context", NULL);
		check_refused(s.ctx, an_generator_feed(g, (int32_t[]){SMALL_VOCAB}, 1), AN_USAGE, NULL);
		assert_int_equal(an_generator_length(g), N);
		an_generator_free(g);
	}
	free(want);
	free(block);
	setup_close(&s);
}

/* After a slide the text begins with what was kept. */
static void slide_begins_anew(void **state)
{
	(void)state;
	setup s;
	setup_open(&s, 0, "ieee", NULL);
	float *block = make_block(s.model), want[12 * SMALL_VOCAB];
	int32_t ids[20];
	an_generator *g;
	learnable_tokens(ids, 20, SMALL_VOCAB, 4);
	full_forward(&s, block, ids + 8, 12, want);
	check_ok(s.ctx, an_generator_new(s.device, s.model, block, 20, &g));
	check_ok(s.ctx, an_generator_feed(g, ids, 19));
	check_ok(s.ctx, an_generator_slide(g, 11));
	assert_int_equal(an_generator_length(g), 11);
	check_close(an_generator_logits(g), want + 10 * SMALL_VOCAB, SMALL_VOCAB, "slide", 10);
	check_ok(s.ctx, an_generator_feed(g, ids + 19, 1));
	check_close(an_generator_logits(g), want + 11 * SMALL_VOCAB, SMALL_VOCAB, "after the slide", 11);
	check_ok(s.ctx, an_generator_slide(g, 0));
	assert_int_equal(an_generator_length(g), 0);
	an_generator_free(g);
	check_refused(s.ctx, an_generator_new(s.device, s.model, block, 21, &g), AN_USAGE, "20", NULL);
	assert_null(g);
	free(block);
	setup_close(&s);
}

/* ---- Sampling ------------------------------------------------------------------------------ */

enum { V = 5, DRAWS = 20000 };
static const float logits[V] = {1.0f, 3.0f, -1.0f, 2.5f, 0.0f};

/* Draws against probabilities p: each count is binomial, and 5 standard deviations are exceeded with
 * probability 6e-7 per count.  The generator is fixed, so the test gives the same result every time. */
static void check_distribution(const an_sample_options *o, const double *p)
{
	int count[V] = {0};
	sample_candidate c[V];
	for (uint64_t i = 0; i < DRAWS; i++)
		count[sample_token(NULL, 0, logits, V, o, i, c)]++;
	for (int i = 0; i < V; i++)
		assert_true(fabs(count[i] - DRAWS * p[i]) <= 5 * sqrt(DRAWS * p[i] * (1 - p[i])));
}

static void samples_follow_the_definition(void **state)
{
	(void)state;
	double p[V], sum = 0;
	for (int i = 0; i < V; i++)
		sum += p[i] = exp(logits[i] / 0.7);
	for (int i = 0; i < V; i++)
		p[i] /= sum;
	check_distribution(&(an_sample_options){.temperature = 0.7, .seed = 1}, p);
	check_distribution(&(an_sample_options){.temperature = 0.7, .top_p = 1, .top_k = V, .seed = 2}, p);
	check_distribution(&(an_sample_options){.seed = 3}, (double[V]){0, 1, 0, 0, 0});
	check_distribution(&(an_sample_options){.temperature = 2, .top_k = 1}, (double[V]){0, 1, 0, 0, 0});
	/* top-k 2: tokens 1 and 3 */
	double two = p[1] / (p[1] + p[3]);
	check_distribution(&(an_sample_options){.temperature = 0.7, .top_k = 2, .seed = 4},
			   (double[V]){0, two, 0, 1 - two, 0});
	/* top-p just below and just above the share of the likeliest */
	check_distribution(&(an_sample_options){.temperature = 0.7, .top_p = p[1] - 1e-6, .seed = 5},
			   (double[V]){0, 1, 0, 0, 0});
	check_distribution(&(an_sample_options){.temperature = 0.7, .top_p = p[1] + 1e-6, .seed = 6},
			   (double[V]){0, two, 0, 1 - two, 0});
}

/* A vocabulary of usual size against its definition, sorted in full: what is drawn is among the likeliest,
 * and each half of these as often as it weighs (within 5 standard deviations); on any number of threads the
 * same. */
static int by_size(const void *a, const void *b)
{
	const sample_candidate *x = a, *y = b;
	return x->logit != y->logit ? (x->logit < y->logit ? 1 : -1) : x->id - y->id;
}

static void likeliest_are_found_in_a_large_vocabulary(void **state)
{
	(void)state;
	enum { MANY = 20000, TRIALS = 100 };
	float *x = malloc(MANY * sizeof *x);
	sample_candidate *c = malloc(MANY * sizeof *c), *all = malloc(MANY * sizeof *all);
	an_ctx *ctx;
	an_ctx_options three = {.threads = 3};
	assert_int_equal(an_ctx_open(&three, &ctx), AN_OK);
	static const an_sample_options how[] = {{.temperature = 1, .top_k = 40, .seed = 1},
						{.temperature = 0.7, .top_p = 0.9, .seed = 2},
						{.temperature = 1.5, .top_k = 500, .top_p = 0.5, .seed = 3},
						{.temperature = 1e-3, .top_p = 0.99, .seed = 4}};
	for (int spread = 0; spread < 2; spread++)
		for (int h = 0; h < LENGTH(how); h++) {
			const an_sample_options *o = &how[h];
			double mass = 0, part = 0;
			int n = o->top_k ? o->top_k : MANY, m = 0;
			for (int i = 0; i < MANY; i++) {
				/* some equal ones; with spread 0 most are as likely as the best */
				x[i] =
				    (float)random_normal(4, 0, (uint64_t)(i / 2)) * (spread ? 3.0f : 0.01f);
				all[i] = (sample_candidate){.logit = x[i], .id = i};
			}
			qsort(all, MANY, sizeof *all, by_size);
			for (int i = 0; i < MANY; i++)
				all[i].weight = (float)exp(((double)all[i].logit - (double)all[0].logit) /
							   o->temperature);
			for (int i = 0; i < n; i++)
				mass += (double)all[i].weight;
			for (; o->top_p > 0 && m < n && part < o->top_p * mass; m++)
				part += (double)all[m].weight;
			n = o->top_p > 0 ? m : n;
			mass = o->top_p > 0 ? part : mass;
			double front = 0;
			int halfway = 0, before = 0, rank[MANY];
			while (front < mass / 2)
				front += (double)all[halfway++].weight;
			for (int i = 0; i < MANY; i++)
				rank[all[i].id] = i;
			for (uint64_t k = 0; k < TRIALS; k++) {
				int32_t id = sample_token(ctx_pool(ctx), ctx->isa, x, MANY, o, k, c);
				assert_int_equal(id, sample_token(NULL, 0, x, MANY, o, k, c));
				assert_true(rank[id] < n);
				before += rank[id] < halfway;
			}
			front /= mass;
			assert_true(fabs(before - TRIALS * front) <=
				    5 * sqrt(TRIALS * front * (1 - front)) + 1e-3);
		}
	an_ctx_close(ctx);
	free(x);
	free(c);
	free(all);
}

static void draws_depend_on_seed_and_position(void **state)
{
	(void)state;
	float flat[64] = {0};
	sample_candidate c[64];
	int differ = 0;
	an_sample_options a = {.temperature = 1, .seed = 1}, b = {.temperature = 1, .seed = 2};
	for (uint64_t i = 0; i < 200; i++) {
		assert_int_equal(sample_token(NULL, 0, flat, 64, &a, i, c),
				 sample_token(NULL, 0, flat, 64, &a, i, c));
		differ +=
		    sample_token(NULL, 0, flat, 64, &a, i, c) != sample_token(NULL, 0, flat, 64, &b, i, c);
	}
	assert_true(differ > 180); /* 197 expected, 3 of 200 equal by chance */
	/* what is not a number has no effect but the likeliest of the rest, and never leaves the table */
	float odd[4] = {NAN, 1, -INFINITY, 0};
	int32_t id = sample_token(NULL, 0, odd, 4, &a, 0, c);
	assert_in_range(id, 0, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(cache_gives_the_full_forward),
	    cmocka_unit_test(slide_begins_anew),
	    cmocka_unit_test(samples_follow_the_definition),
	    cmocka_unit_test(likeliest_are_found_in_a_large_vocabulary),
	    cmocka_unit_test(draws_depend_on_seed_and_position),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
