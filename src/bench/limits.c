/* What the machine could do: the peaks of its units and the bandwidth of its memory. */
#include "bench/bench.h"

static an_status peaks(bench *b, bench_limits *l)
{
	const peak_unit *u;
	for (int i = 0; (u = peak_at(i)); i++) {
		if ((b->ctx->isa & u->isa) != u->isa)
			continue;
		bench_times t;
		double rate;
		bench_progress(b, "peak of %s", u->name);
		TRY(peak_measure(b, u, &t, &rate));
		l->noisy |= t.noisy;
		double ieee = rate * u->share;
		if (u->use & BENCH_FAST && rate > l->fast) {
			l->fast = rate;
			l->fast_unit = u->name;
		}
		if (u->use & BENCH_IEEE && ieee > l->ieee) {
			l->ieee = ieee;
			l->ieee_unit = u->name;
		}
		ROW(b, "peaks", CELL_TEXT("unit", "unit", 13, u->name),
		    CELL_TEXT("what", "what", 40, u->what),
		    CELL_NUMBER(u->use ? "gflops" : "gops", "G(FL)OP/s", 10, 1, rate),
		    CELL_NUMBER("spread_percent", "spread %", 9, 1, 100 * (t.high - t.low) / t.median),
		    CELL_FLAG("noisy", "noisy", t.noisy));
	}
	return AN_OK;
}

static void report_stream(const bench *b, const char *level, const char *pattern, int64_t bytes, double rate,
			  const bench_times *t)
{
	ROW(b, "bandwidth", CELL_TEXT("level", "memory", 7, level),
	    CELL_TEXT("pattern", "pattern", 11, pattern),
	    CELL_NUMBER("mbytes", "set MB", 9, 1, 1e-6 * (double)bytes),
	    CELL_NUMBER("gbps", "GB/s", 9, 1, rate),
	    CELL_NUMBER("spread_percent", "spread %", 9, 1, 100 * (t->high - t->low) / t->median),
	    CELL_FLAG("noisy", "noisy", t->noisy));
}

static an_status levels(bench *b, const bench_machine *m, const stream_memory *memory, limits_extent extent,
			bench_limits *l)
{
	static const char *const name[] = {"L2", "L3", "DRAM"};
	for (int level = extent == LIMITS_ALL ? STREAM_L2 : STREAM_DRAM; level < STREAM_LEVELS; level++) {
		if (level == STREAM_L3 && m->l3 == 0)
			continue;
		int64_t bytes = stream_working_set(m, (stream_level)level, b->threads);
		for (int p = 0; p < STREAM_PATTERNS; p++) {
			bench_times t;
			double rate;
			bench_progress(b, "%s, %s", name[level], stream_name((stream_pattern)p));
			TRY(stream_measure(memory, (stream_pattern)p, bytes, &t, &rate));
			if (level == STREAM_DRAM) {
				l->dram = MAX(l->dram, rate);
				l->noisy |= t.noisy;
			}
			report_stream(b, name[level], stream_name((stream_pattern)p), bytes, rate, &t);
		}
	}
	return AN_OK;
}

static an_status bandwidth(bench *b, limits_extent extent, bench_limits *l)
{
	bench_machine m;
	bench_times t;
	double rate;
	stream_memory memory;
	machine_get(&m);
	bench_progress(b, "memory");
	an_status s = stream_open(b, stream_working_set(&m, STREAM_DRAM, b->threads), &memory);
	if (s == AN_OK)
		s = levels(b, &m, &memory, extent, l);
	stream_close(&memory);
	TRY(s);
	if (extent != LIMITS_ALL)
		return AN_OK;
	bench_progress(b, "fresh memory");
	TRY(stream_fresh(b, &t, &rate));
	report_stream(b, "DRAM", "first touch", 64 << 20, rate, &t);
	return AN_OK;
}

an_status limits_measure(bench *b, limits_extent extent, bench_limits *out)
{
	*out = (bench_limits){0};
	TRY(peaks(b, out));
	return extent == LIMITS_PEAKS ? AN_OK : bandwidth(b, extent, out);
}

an_status bench_limits_run(bench *b)
{
	bench_limits l;
	return limits_measure(b, LIMITS_ALL, &l);
}
