#include "support/nn_reference.h"

#include "base/half.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

double nn_reference_fp16(double x) { return half_to_float(half_from_double(x)); }

static double constant(const nn_reference *r, double x) { return r->constant ? r->constant(x) : x; }

static double *rows(int n, int width)
{
	double *p = calloc((size_t)n * (size_t)width, sizeof *p);
	assert(p);
	return p;
}

/* y_i = w_i x_i / sqrt(mean(x^2) + eps) */
static void rms_norm(const double *x, const double *w, int n, double eps, double *y)
{
	double sum = 0;
	for (int i = 0; i < n; i++)
		sum += x[i] * x[i];
	for (int i = 0; i < n; i++)
		y[i] = w[i] * x[i] / sqrt(sum / n + eps);
}

/* y = W x, W [out, in] */
static void linear(const double *w, const double *x, int out, int in, double *y)
{
	for (int i = 0; i < out; i++) {
		y[i] = 0;
		for (int j = 0; j < in; j++)
			y[i] += w[(size_t)i * (size_t)in + (size_t)j] * x[j];
	}
}

/* Turns the pairs (x_i, x_{i+d/2}) of one head by pos * theta^(-2i/d). */
static void rotate(const nn_reference *r, double *x, int d, int pos)
{
	for (int i = 0; i < d / 2; i++) {
		double angle = pos / pow(r->config->rope_theta, (double)(2 * i) / d);
		double c = constant(r, cos(angle)), s = constant(r, sin(angle));
		double a = x[i], b = x[i + d / 2];
		x[i] = a * c - b * s;
		x[i + d / 2] = a * s + b * c;
	}
}

void nn_reference_layer(const nn_reference *r, const double *const *w, const double *x, int tokens, double *y)
{
	const an_llama_config *c = r->config;
	int dim = c->dim, d = c->head_dim, nq = c->heads * d, nkv = c->kv_heads * d, hidden = c->hidden;
	double *h = rows(1, dim), *q = rows(tokens, nq), *k = rows(tokens, nkv), *v = rows(tokens, nkv);
	double *o = rows(1, nq), *p = rows(1, tokens), *gate = rows(1, hidden), *up = rows(1, hidden);
	for (int t = 0; t < tokens; t++) {
		rms_norm(x + t * dim, w[0], dim, c->norm_eps, h);
		linear(w[1], h, nq, dim, q + t * nq);
		linear(w[2], h, nkv, dim, k + t * nkv);
		linear(w[3], h, nkv, dim, v + t * nkv);
		for (int i = 0; i < c->heads; i++)
			rotate(r, q + t * nq + i * d, d, t);
		for (int i = 0; i < c->kv_heads; i++)
			rotate(r, k + t * nkv + i * d, d, t);
	}
	for (int t = 0; t < tokens; t++) {
		for (int head = 0; head < c->heads; head++) {
			int kv = head / (c->heads / c->kv_heads);
			double max = -INFINITY, sum = 0;
			for (int s = 0; s <= t; s++) {
				double dot = 0;
				for (int i = 0; i < d; i++)
					dot += q[t * nq + head * d + i] * k[s * nkv + kv * d + i];
				p[s] = dot * constant(r, 1 / sqrt(d));
				max = fmax(max, p[s]);
			}
			for (int s = 0; s <= t; s++)
				sum += p[s] = exp(p[s] - max);
			for (int i = 0; i < d; i++) {
				o[head * d + i] = 0;
				for (int s = 0; s <= t; s++)
					o[head * d + i] += p[s] / sum * v[s * nkv + kv * d + i];
			}
		}
		double *yt = y + t * dim;
		linear(w[4], o, dim, nq, yt);
		for (int i = 0; i < dim; i++)
			yt[i] += x[t * dim + i];
		rms_norm(yt, w[5], dim, c->norm_eps, h);
		linear(w[6], h, hidden, dim, gate);
		linear(w[7], h, hidden, dim, up);
		for (int i = 0; i < hidden; i++)
			gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
		linear(w[8], gate, dim, hidden, h);
		for (int i = 0; i < dim; i++)
			yt[i] += h[i];
	}
	free(h), free(q), free(k), free(v), free(o), free(p), free(gate), free(up);
}

void nn_reference_head(const nn_reference *r, const double *const *w, const double *x, int tokens,
		       double *logits)
{
	const an_llama_config *c = r->config;
	double *h = rows(1, c->dim);
	for (int t = 0; t < tokens; t++) {
		rms_norm(x + t * c->dim, w[0], c->dim, c->norm_eps, h);
		linear(w[1], h, c->vocab, c->dim, logits + (size_t)t * (size_t)c->vocab);
	}
	free(h);
}
