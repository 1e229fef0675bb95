/* Options: defaults, checks, the schedule. */
#include "train/train.h"

#include <math.h>

/* 0 asks for the default, a negative number for none. */
static double choose(double x, double fallback) { return x < 0 ? 0 : x > 0 ? x : fallback; }

static an_status check_real(an_ctx *ctx, const char *name, double x, double low, double high)
{
	if (!(x >= low && x <= high))
		return fail(ctx, AN_USAGE, "%s is %g; it must be %g to %g", name, x, low, high);
	return AN_OK;
}

static an_status check_count(an_ctx *ctx, const char *name, int64_t x, int64_t high)
{
	if (x < 1 || x > high)
		return fail(ctx, AN_USAGE, "%s is %lld; it must be 1 to %lld", name, (long long)x,
			    (long long)high);
	return AN_OK;
}

an_status train_resolve(an_ctx *ctx, const an_model *m, const an_train_options *opt, an_train_options *out)
{
	an_train_options o = *opt;
	int seq = an_model_config(m)->seq;
	o.batch = o.batch ? o.batch : 1;
	o.tokens = o.tokens ? o.tokens : seq;
	o.accumulate = o.accumulate ? o.accumulate : 1;
	TRY(check_count(ctx, "batch", o.batch, 1 << 20));
	TRY(check_count(ctx, "tokens", o.tokens, seq));
	TRY(check_count(ctx, "accumulate", o.accumulate, 1 << 20));
	o.layers_per_program = o.layers_per_program ? o.layers_per_program : 1;
	TRY(check_count(ctx, "layers-per-program", o.layers_per_program, 1 << 12));
	if (o.split && o.layers_per_program > 1)
		return fail(ctx, AN_USAGE,
			    "split \"%s\" cuts one layer; it does not go with %d layers per program", o.split,
			    o.layers_per_program);
	TRY(check_count(ctx, "steps", o.steps, INT64_C(1) << 40));
	if (o.steps > (INT64_C(1) << 60) / ((int64_t)o.batch * o.accumulate))
		return fail(ctx, AN_USAGE, "%lld updates of %d x %d sequences cannot be counted",
			    (long long)o.steps, o.batch, o.accumulate);
	o.lr = o.lr == 0 ? 1e-3 : o.lr;
	o.min_lr = choose(o.min_lr, 0.1);
	o.beta1 = choose(o.beta1, 0.9);
	o.beta2 = choose(o.beta2, 0.95);
	o.eps = choose(o.eps, 1e-8);
	o.decay = choose(o.decay, 0.1);
	o.clip = o.clip == 0 ? 1 : o.clip;
	o.warmup = o.warmup < 0 ? 0 : o.warmup ? o.warmup : o.steps / 20;
	TRY(check_real(ctx, "lr", o.lr, 0x1p-60, 1e6));
	TRY(check_real(ctx, "min-lr", o.min_lr, 0, 1));
	TRY(check_real(ctx, "beta1", o.beta1, 0, 1 - 0x1p-20));
	TRY(check_real(ctx, "beta2", o.beta2, 0, 1 - 0x1p-20));
	TRY(check_real(ctx, "eps", o.eps, 0, 1));
	TRY(check_real(ctx, "decay", o.decay, 0, 1e6));
	TRY(check_real(ctx, "clip", o.clip, -INFINITY, INFINITY));
	/* A token's d_logits is at most loss_scale / tokens of an update: 4.  The smallest normal fp16 number
	 * is 1.5e-5 of that, and there is room for norms, which multiply gradients by 1 / rms(x) (50 at the
	 * embeddings), for sums over tokens, and for the spikes of young trainings. */
	if (o.loss_scale == 0)
		o.loss_scale = 4.0 * o.batch * o.tokens * o.accumulate;
	TRY(check_real(ctx, "loss-scale", o.loss_scale, 0x1p-40, 0x1p80));
	int exponent;
	frexp(o.loss_scale, &exponent);
	o.loss_scale = ldexp(1, exponent - 1); /* a power of two: scaling back is exact */
	int64_t often = MAX(o.steps / 10, 1);
	o.eval_every = o.eval_every ? o.eval_every : often;
	o.save_every = o.save_every ? o.save_every : often;
	if (o.count_every < 0)
		return fail(ctx, AN_USAGE, "count-every is %lld; it must not be negative",
			    (long long)o.count_every);
	if (o.eval_tokens < 0)
		return fail(ctx, AN_USAGE, "eval-tokens is %lld; it must not be negative",
			    (long long)o.eval_tokens);
	*out = o;
	return AN_OK;
}

double train_learning_rate(const an_train_options *o, int64_t k)
{
	if (k < o->warmup)
		return o->lr * (double)(k + 1) / (double)o->warmup;
	double t = o->steps > o->warmup ? (double)(k - o->warmup) / (double)(o->steps - o->warmup) : 1;
	return o->lr * (o->min_lr + (1 - o->min_lr) * 0.5 * (1 + cos(acos(-1) * t)));
}
