/* Decoding token by token: every weight is read once per token. */
#include "bench/bench.h"

#include <math.h>

enum { CONTEXT = 256, PROMPT = 64, TOKENS = 32 };

static an_status run_preset(bench *b, const char *preset, bench_model *m, an_generator **g)
{
	an_llama_config c;
	bench_times t, memory;
	double seconds[TOKENS], rate;
	bench_progress(b, "decoding, %s", preset);
	TRY(an_llama_preset(b->ctx, preset, &c));
	TRY(model_open(b, &c, m));
	TRY(model_fill(b, m));
	TRY(an_generator_new(m->device, m->model, m->block, CONTEXT, g));
	int32_t ids[PROMPT + TOKENS + 1];
	an_tokens_get(m->tokens, 0, LENGTH(ids), ids);
	/* programs are compiled when they are first needed */
	TRY(an_generator_feed(*g, ids, PROMPT));
	TRY(an_generator_feed(*g, ids + PROMPT, 1));
	bench_clock from = measure_clock(b->pool);
	for (int i = 0; i < TOKENS; i++) {
		double began = seconds_now();
		TRY(an_generator_feed(*g, ids + PROMPT + 1 + i, 1));
		seconds[i] = seconds_now() - began;
	}
	bench_clock to = measure_clock(b->pool);
	t = stats_times(seconds, TOKENS, measure_noisy(&from, &to, b->threads));
	double bytes = model_matrix_flop(m->model, 1); /* an fp16 weight is two bytes and two operations */
	stream_memory block;
	an_status s = stream_open(b, (int64_t)bytes, &block);
	if (s == AN_OK)
		s = stream_measure(&block, STREAM_READ, (int64_t)bytes, &memory, &rate);
	stream_close(&block);
	TRY(s);
	double floor = 1e-9 * bytes / rate;
	ROW(b, "decode", CELL_TEXT("model", "model", 12, preset), CELL_TIMES(t),
	    CELL_NUMBER("tokens_per_second", "tokens/s", 9, 1, 1 / t.median),
	    CELL_NUMBER("mbytes", "MB/token", 9, 1, 1e-6 * bytes),
	    CELL_NUMBER("gbps", "GB/s", 8, 1, 1e-9 * bytes / t.median),
	    CELL_NUMBER("read_gbps", "read GB/s", 10, 1, rate),
	    CELL_NUMBER("floor_ms", "floor ms", 9, 2, 1e3 * floor),
	    CELL_NUMBER("over_floor", "x floor", 8, 2, t.median / floor));
	return AN_OK;
}

an_status bench_decode_run(bench *b)
{
	static const char *const presets[] = {"stories15m", "stories42m", "stories110m"};
	int done = 0;
	for (int i = 0; i < LENGTH(presets); i++) {
		if (b->o.model && strcmp(b->o.model, presets[i]) != 0)
			continue;
		done++;
		bench_model m = {0};
		an_generator *g = NULL;
		an_status s = run_preset(b, presets[i], &m, &g);
		an_generator_free(g);
		model_close(&m);
		TRY(s);
	}
	return done ? AN_OK
		    : fail(b->ctx, AN_USAGE, "decoding is not measured with model \"%s\"", b->o.model);
}
