/* How much of a gradient a Neural Engine's arithmetic loses, on the public API alone.
 *
 *   lost_products [--numerics m4] [--preset layer768] [--tokens N] [--json] [LOSS SCALE ...]
 *
 * The workload is that of the first published training on the engine (maderix/ANE, commit f213c8d): one
 * transformer layer without rotary embedding, x = 0.1 U(-1,1), target 0.1 sin(0.03 i + 1), mean squared
 * error, weights U(-1,1) / sqrt(dim), those that expand in the feed-forward network / sqrt(hidden).  It did
 * not scale its loss: the gradient of a mean over 393216 elements is then below 1e-6, products of it and of
 * weights are below 2^-16, and a chip drops them.
 *
 * For every loss scale (default: 1, and the number of elements that the loss is the mean of) the program
 * says what share of products the backward programs lost, the size of every parameter's gradient, and how
 * far it is from the gradient in IEEE arithmetic at the largest scale.  As in that training, gradients of
 * matrices are contracted on the host, in fp32, from fp16 operands.  Exit status 3: at the largest of the
 * scales some gradient is exactly zero. */
#include <anneal/anneal.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ATTENTION, FFN, HALVES, NAMES = 64 };

static an_ctx *ctx;
static an_llama_config size;
static int C, F, S; /* dim, hidden, tokens */

static _Noreturn void end(const char *what, const char *message)
{
	fprintf(stderr, "lost_products: %s%s\n", what, message);
	exit(1);
}

/* Every call that can fail returns a status; the context has the message. */
static void check(an_status s)
{
	if (s != AN_OK)
		end("", an_message(ctx));
}

static void *allocate(size_t n, size_t bytes)
{
	void *p = calloc(n, bytes);
	if (!p)
		end("out of memory", "");
	return p;
}

/* ---- The layer --------------------------------------------------------------------------- */

static const struct param {
	const char *name;
	int half;
} params[] = {{"attn_norm", ATTENTION}, {"wq", ATTENTION}, {"wk", ATTENTION}, {"wv", ATTENTION},
	      {"wo", ATTENTION},        {"ffn_norm", FFN}, {"w_up", FFN},     {"w_gate", FFN},
	      {"w_down", FFN}};
enum { PARAMS = sizeof params / sizeof *params };

static an_type matrix(int rows, int columns) { return an_tensor(AN_FP16, 2, (int32_t[]){rows, columns}); }

static an_type param_type(int i)
{
	const char *name = params[i].name;
	if (strstr(name, "norm"))
		return matrix(C, 1);
	return name[1] != '_' ? matrix(C, C) : strcmp(name, "w_down") ? matrix(F, C) : matrix(C, F);
}

static an_value norm(an_builder *b, an_value x, an_value weight)
{
	an_value mean = an_reduce(b, "reduce_mean", an_mul(b, x, x), 0, true);
	an_value root = an_unary(b, "rsqrt", an_add(b, mean, an_scalar(b, AN_FP16, size.norm_eps)));
	return an_mul(b, an_mul(b, x, root), weight);
}

static an_value mask(an_builder *b)
{
	an_type type = matrix(S, S);
	void *data = allocate((size_t)an_type_count(&type), an_dtype_size(AN_FP16));
	for (int q = 0; q < S; q++)
		for (int k = q + 1; k < S; k++)
			an_set_element(AN_FP16, data, (int64_t)q * S + k, AN_MASKED);
	an_value v = an_const(b, "mask", type, data);
	free(data);
	return v;
}

/* x [C, S] -> h, or h -> y: activations are channels by tokens. */
static an_function *build(an_program *program, int half)
{
	an_function *f;
	an_value w[PARAMS];
	check(an_function_new(program, half == ATTENTION ? "attention" : "ffn", &f));
	an_builder b = an_builder_on(f);
	an_value x = an_input(&b, half == ATTENTION ? "x" : "h", matrix(C, S)), out;
	for (int i = 0; i < PARAMS; i++)
		if (params[i].half == half)
			w[i] = an_input(&b, params[i].name, param_type(i));
	if (half == ATTENTION) {
		const int32_t heads[] = {size.heads, C / size.heads, S};
		an_value n = norm(&b, x, w[0]), qkv[3];
		for (int i = 0; i < 3; i++)
			qkv[i] = an_reshape(&b, an_matmul(&b, w[1 + i], n, false, false), 3, heads);
		an_value scores = an_matmul(&b, qkv[0], qkv[1], true, false);
		scores = an_add(&b, an_scale(&b, scores, 1 / sqrt((double)heads[1])), mask(&b));
		an_value mixed = an_matmul(&b, qkv[2], an_softmax(&b, scores, -1), false, true);
		out = an_matmul(&b, w[4], an_reshape(&b, mixed, 2, (int32_t[]){C, S}), false, false);
	} else {
		an_value n = norm(&b, x, w[5]), up = an_matmul(&b, w[6], n, false, false);
		an_value gate = an_unary(&b, "silu", an_matmul(&b, w[7], n, false, false));
		out = an_matmul(&b, w[8], an_mul(&b, gate, up), false, false);
	}
	an_output(&b, an_name(&b, an_add(&b, x, out), half == ATTENTION ? "h" : "y"));
	check(an_builder_finish(&b));
	return f;
}

/* ---- Programs on a device ------------------------------------------------------------------- */

typedef struct pass {
	an_executable *executable;
	an_call *call;
	an_function *f;
} pass;

typedef struct engine {
	an_device *device;
	an_program *program;
	pass forward[HALVES], backward[HALVES];
	an_contraction *matrices[HALVES]; /* gradients of matrices: what the host contracts */
	int nmatrices[HALVES];
	struct {
		int half; /* -1: of both, the borders x, h, y and their gradients */
		const char *name;
		an_buffer *buffer;
	} at[2 * NAMES];
	int n;
} engine;

static an_buffer *find(const engine *e, int half, const char *name)
{
	for (int i = 0; i < e->n; i++)
		if ((e->at[i].half < 0 || e->at[i].half == half) && !strcmp(e->at[i].name, name))
			return e->at[i].buffer;
	return NULL;
}

static void bind(engine *e, int half, an_call *call, const char *name, const an_type *type)
{
	an_buffer *b = find(e, half, name);
	if (!b) {
		const char *border = strncmp(name, "d_", 2) ? name : name + 2;
		if (e->n == 2 * NAMES)
			end("too many buffers", "");
		check(an_buffer_new(e->device, type, &b));
		e->at[e->n].half =
		    strcmp(border, "x") && strcmp(border, "h") && strcmp(border, "y") ? half : -1;
		e->at[e->n].name = name;
		e->at[e->n++].buffer = b;
	}
	check(an_call_bind(call, name, b));
}

static pass prepare(engine *e, int half, an_function *f)
{
	pass p = {.f = f};
	an_type type;
	const char *name;
	check(an_compile(e->device, f, &p.executable));
	check(an_call_new(p.executable, &p.call));
	for (int i = 0; (name = an_executable_input(p.executable, i, &type)); i++)
		bind(e, half, p.call, name, &type);
	for (int i = 0; (name = an_executable_output(p.executable, i, &type)); i++)
		bind(e, half, p.call, name, &type);
	return p;
}

static void open_engine(engine *e, const char *numerics)
{
	check(an_program_new(ctx, &e->program));
	check(an_device_open(ctx, &(an_device_options){.numerics = numerics}, &e->device));
	for (int half = 0; half < HALVES; half++) {
		an_function *forward, *backward;
		const char *wrt[PARAMS + 1], *matrices[PARAMS];
		int nwrt = 0, nmatrices = 0;
		if (half == FFN)
			wrt[nwrt++] = "h";
		for (int i = 0; i < PARAMS; i++) {
			if (params[i].half != half)
				continue;
			wrt[nwrt++] = params[i].name;
			if (!strstr(params[i].name, "norm")) {
				char *name = allocate(16, 1);
				snprintf(name, 16, "d_%s", params[i].name);
				matrices[nmatrices++] = name; /* for as long as the program runs */
			}
		}
		check(an_grad(build(e->program, half), &(an_grad_options){.wrt = wrt, .nwrt = nwrt}, &forward,
			      &backward));
		check(an_outline(backward, matrices, nmatrices, &backward, &e->matrices[half],
				 &e->nmatrices[half]));
		if (e->nmatrices[half] != nmatrices)
			end("a gradient is not a product", "");
		e->forward[half] = prepare(e, half, forward);
		e->backward[half] = prepare(e, half, backward);
	}
}

/* POSIX's drand48, which the published program draws from. */
static double uniform(unsigned long long *state)
{
	*state = (*state * 0x5DEECE66D + 0xB) & 0xFFFFFFFFFFFF;
	return (double)*state * 0x1p-48;
}

static void fill(engine *e)
{
	unsigned long long state = 42ull << 16 | 0x330E; /* srand48(42) */
	float *data = allocate((size_t)C * (size_t)(F > S ? F : S), sizeof *data);
	for (int i = 0; i < PARAMS; i++) {
		an_type type = param_type(i);
		bool expands = type.dim[0] == F && F != C;
		for (int64_t j = 0; j < an_type_count(&type); j++)
			data[j] =
			    type.dim[1] == 1 ? 1 : (float)((2 * uniform(&state) - 1) / sqrt(expands ? F : C));
		check(an_buffer_update_from_f32(find(e, params[i].half, params[i].name), 0,
						an_type_count(&type), data));
	}
	for (int i = 0; i < C * S; i++)
		data[i] = (float)(0.1 * (2 * uniform(&state) - 1));
	check(an_buffer_update_from_f32(find(e, ATTENTION, "x"), 0, (int64_t)C * S, data));
	free(data);
}

/* ---- Loss and gradients ------------------------------------------------------------------------ */

/* fp32 copy of a buffer. */
static float *read_buffer(an_buffer *b)
{
	const an_type *t = an_buffer_type(b);
	float *out = allocate((size_t)an_type_count(t), sizeof *out);
	const void *data = an_buffer_map(b);
	for (int64_t i = 0; i < an_type_count(t); i++)
		out[i] = (float)an_element((an_dtype)t->dtype, data, i);
	an_buffer_unmap(b);
	return out;
}

/* Mean squared error; its gradient times `scale` becomes d_y. */
static double loss(engine *e, double scale)
{
	const int64_t n = (int64_t)C * S;
	double sum = 0;
	float *y = read_buffer(find(e, FFN, "y"));
	for (int64_t i = 0; i < n; i++) {
		double d = (double)y[i] - 0.1 * sin(0.03 * (double)i + 1);
		sum += d * d;
		y[i] = (float)(scale * 2 * d / (double)n);
	}
	check(an_buffer_update_from_f32(find(e, FFN, "d_y"), 0, n, y));
	free(y);
	return sum / (double)n;
}

/* One matrix's gradient in fp32: sum over i of x(m, i) y(i, n). */
static float *contract(const engine *e, int half, const an_contraction *c)
{
	enum { BLOCK = 32 };
	float *x = read_buffer(find(e, half, c->x)), *y = read_buffer(find(e, half, c->y));
	float *out = allocate((size_t)(c->m * c->n), sizeof *out);
	float *rows = allocate((size_t)(BLOCK * c->n), sizeof *rows); /* of y */
	for (int64_t b = 0; b < c->batch; b++)
		for (int64_t i0 = 0; i0 < c->k; i0 += BLOCK) {
			int64_t ni = c->k - i0 < BLOCK ? c->k - i0 : BLOCK;
			for (int64_t i = 0; i < ni; i++)
				for (int64_t n = 0; n < c->n; n++)
					rows[i * c->n + n] =
					    y[c->y_offset + b * c->y_stride[0] + (i0 + i) * c->y_stride[1] +
					      n * c->y_stride[2]];
			for (int64_t m = 0; m < c->m; m++)
				for (int64_t i = 0; i < ni; i++) {
					float a = x[c->x_offset + b * c->x_stride[0] + m * c->x_stride[1] +
						    (i0 + i) * c->x_stride[2]];
					float *to = out + m * c->n;
					const float *row = rows + i * c->n;
					for (int64_t n = 0; a != 0 && n < c->n; n++)
						to[n] += a * row[n];
				}
		}
	free(x), free(y), free(rows);
	return out;
}

/* Gradients of all parameters, unscaled. */
static void gradients(engine *e, double scale, float **out)
{
	for (int half = HALVES; half-- > 0;)
		check(an_call_run(e->backward[half].call));
	for (int i = 0; i < PARAMS; i++) {
		char name[16];
		int half = params[i].half;
		snprintf(name, sizeof name, "d_%s", params[i].name);
		out[i] = NULL;
		for (int j = 0; j < e->nmatrices[half]; j++)
			if (!strcmp(e->matrices[half][j].output, name))
				out[i] = contract(e, half, &e->matrices[half][j]);
		if (!out[i])
			out[i] = read_buffer(find(e, half, name));
		an_type type = param_type(i);
		for (int64_t j = 0; j < an_type_count(&type); j++)
			out[i][j] *= (float)(1 / scale);
	}
}

/* ---- Report ------------------------------------------------------------------------------------- */

static void print_program(const char *name, const pass *p, bool json, bool first)
{
	an_counts c;
	check(an_executable_counts(p->executable, -1, &c));
	double share = c.products ? (double)c.lost / (double)c.products : 0;
	if (json)
		printf("%s\n    {\"name\": \"%s\", \"products\": %lld, \"lost\": %lld, \"share\": %.6g, "
		       "\"results\": %lld, "
		       "\"vanished\": %lld, \"overflowed\": %lld, \"largest\": %.6g}",
		       first ? "" : ",", name, (long long)c.products, (long long)c.lost, share,
		       (long long)c.results, (long long)c.vanished, (long long)c.overflowed, c.largest);
	else
		printf("  %-20s %11lld products, %7.3f%% lost; %9lld results, %lld vanished, %lld "
		       "overflowed, largest %.3g\n",
		       name, (long long)c.products, 100 * share, (long long)c.results, (long long)c.vanished,
		       (long long)c.overflowed, c.largest);
	an_executable_reset_counts(p->executable);
}

/* Returns how many gradients are exactly zero. */
static int print_gradients(float **g, float **exact, bool json)
{
	int zeros = 0;
	for (int i = 0; i < PARAMS; i++) {
		an_type type = param_type(i);
		double norm = 0, error = 0, reference = 0;
		for (int64_t j = 0; j < an_type_count(&type); j++) {
			norm += (double)g[i][j] * g[i][j];
			error += ((double)g[i][j] - exact[i][j]) * ((double)g[i][j] - exact[i][j]);
			reference += (double)exact[i][j] * exact[i][j];
		}
		bool zero = norm == 0, finite = isfinite(norm);
		zeros += zero;
		if (json) {
			printf("%s\n    {\"name\": \"%s\", \"zero\": %s", i ? "," : "", params[i].name,
			       zero ? "true" : "false");
			printf(finite ? ", \"norm\": %.6g, \"error\": %.6g}"
				      : ", \"norm\": null, \"error\": null}",
			       sqrt(norm), sqrt(error / reference));
		} else {
			printf("  gradient of %-10s norm %-11.4g %s", params[i].name, sqrt(norm),
			       zero     ? "exactly zero\n"
			       : finite ? ""
					: "not finite\n");
			if (!zero && finite)
				printf("relative error %.2g\n", sqrt(error / reference));
		}
	}
	return zeros;
}

static int measure(engine *e, double scale, float **exact, bool json, bool first)
{
	float *g[PARAMS];
	check(an_device_count(e->device, true));
	for (int half = 0; half < HALVES; half++)
		check(an_call_run(e->forward[half].call));
	double l = loss(e, scale);
	gradients(e, scale, g);
	check(an_device_count(e->device, false));
	if (json)
		printf("%s\n  {\"loss_scale\": %.9g, \"loss\": %.9g, \"programs\": [", first ? "" : ",",
		       scale, l);
	else
		printf("\nloss scale %g (loss %.6g)\n", scale, l);
	print_program("attention forward", &e->forward[ATTENTION], json, true);
	print_program("ffn forward", &e->forward[FFN], json, false);
	print_program("ffn backward", &e->backward[FFN], json, false);
	print_program("attention backward", &e->backward[ATTENTION], json, false);
	printf(json ? "],\n   \"gradients\": [" : "");
	int zeros = print_gradients(g, exact, json);
	printf(json ? "],\n   \"zero_gradients\": %d}" : "  %d of the gradients are exactly zero\n", zeros);
	for (int i = 0; i < PARAMS; i++)
		free(g[i]);
	return zeros;
}

int main(int argc, char **argv)
{
	const char *numerics = "m4", *preset = "layer768";
	bool json = false;
	double scale[32];
	int nscales = 0;
	for (int i = 1; i < argc; i++) {
		char *rest;
		if (!strcmp(argv[i], "--json"))
			json = true;
		else if (!strcmp(argv[i], "--numerics") && i + 1 < argc)
			numerics = argv[++i];
		else if (!strcmp(argv[i], "--preset") && i + 1 < argc)
			preset = argv[++i];
		else if (!strcmp(argv[i], "--tokens") && i + 1 < argc)
			S = atoi(argv[++i]);
		else if (nscales < 32 && (scale[nscales] = strtod(argv[i], &rest)) > 0 && !*rest &&
			 isfinite(scale[nscales]))
			nscales++;
		else {
			fprintf(stderr,
				"lost_products [--numerics m4] [--preset layer768] [--tokens N] [--json] "
				"[LOSS SCALE ...]\n");
			return 2;
		}
	}
	if (an_ctx_open(NULL, &ctx) != AN_OK)
		end("out of memory", "");
	check(an_llama_preset(ctx, preset, &size));
	C = size.dim, F = size.hidden, S = S > 0 ? S : size.seq;
	double elements = (double)C * S;
	if (nscales == 0) {
		scale[nscales++] = 1;
		scale[nscales++] = elements;
	}

	float *exact[PARAMS];
	engine ieee = {0}, chip = {0};
	open_engine(&ieee, "ieee");
	open_engine(&chip, numerics);
	fill(&ieee);
	fill(&chip);
	for (int half = 0; half < HALVES; half++)
		check(an_call_run(ieee.forward[half].call));
	loss(&ieee, elements);
	gradients(&ieee, elements, exact);

	an_device_info info;
	an_device_get_info(chip.device, &info);
	printf(json ? "{\"numerics\": \"%s\", \"dim\": %d, \"hidden\": %d, \"heads\": %d, \"tokens\": %d, "
		      "\"runs\": ["
		    : "%s: one layer, dim %d, hidden %d, %d heads, %d tokens\n",
	       info.numerics, C, F, size.heads, S);
	int largest = 0, zeros = 0;
	for (int i = 0; i < nscales; i++) {
		int z = measure(&chip, scale[i], exact, json, i == 0);
		if (i == 0 || scale[i] > scale[largest])
			largest = i, zeros = z;
	}
	printf(json ? "]}\n" : "");
	for (int i = 0; i < PARAMS; i++)
		free(exact[i]);
	an_device_close(ieee.device); /* with executables, buffers and calls */
	an_device_close(chip.device);
	an_program_free(ieee.program);
	an_program_free(chip.program);
	an_ctx_close(ctx);
	return zeros ? 3 : 0;
}
