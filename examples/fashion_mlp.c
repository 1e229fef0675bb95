/* Trains a small classifier on Fashion-MNIST: a network that is not a Llama, on the public API alone.
 *
 *   fashion_mlp [FOLDER]     the four .gz files of the dataset; default: where Debian's package
 *                            dataset-fashion-mnist puts them
 *
 * The pattern is that of any training with Anneal:
 *   1. build the network's forward function as MIL,
 *   2. an_grad makes of it a forward that keeps what the backward needs, and the backward,
 *   3. compile both, allocate a buffer for every name, bind,
 *   4. per step: put data and weights into buffers, run forward, compute the loss and its gradient
 *      on the host, run backward, update the weights from the gradients.
 *
 * The network computes in fp16, as the engine does.  Its inputs and outputs are fp32 and are cast inside,
 * so that the host needs no half-precision arithmetic; the weights' master copies are fp32 as well. */
#include <anneal/anneal.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
	PIXELS = 28 * 28,
	CLASSES = 10,
	BATCH = 100, /* divides the 60000 training and 10000 test images */
	EPOCHS = 6,
	LAYERS = 3,
	PARAMS = 2 * LAYERS /* a matrix and a bias each */
};
static const int width[LAYERS + 1] = {PIXELS, 256, 128, CLASSES};

/* Gradients are computed of SCALE times the loss: fp16 has no numbers below 6e-8, and the gradient of
 * a mean over a batch is small.  The host divides it out again. */
static const float SCALE = 1024;

static an_ctx *ctx;

/* Every call that can fail returns a status; the context has the message. */
static void check(an_status s)
{
	if (s != AN_OK) {
		fprintf(stderr, "fashion_mlp: %s\n", an_message(ctx));
		exit(1);
	}
}

static void *allocate(size_t n, size_t size)
{
	void *p = calloc(n, size);
	if (!p) {
		fprintf(stderr, "fashion_mlp: out of memory\n");
		exit(1);
	}
	return p;
}

/* ---- The dataset ------------------------------------------------------------------- */

typedef struct dataset {
	int n;
	float *image; /* [n][PIXELS], mean 0 and variance 1 over the training set */
	unsigned char *label;
} dataset;

/* Reads an IDX file: a big-endian magic number and dimensions, then bytes. */
static unsigned char *read_idx(const char *folder, const char *name, unsigned magic, size_t item, int *n)
{
	char command[4096];
	snprintf(command, sizeof command, "gzip -dc '%s/%s.gz' 2>/dev/null", folder, name);
	FILE *pipe = popen(command, "r");
	unsigned char header[16] = {0};
	size_t header_size = item > 1 ? 16 : 8; /* images have height and width, labels have not */
	if (!pipe || fread(header, 1, header_size, pipe) != header_size || header[2] != 8 ||
	    header[3] != magic) {
		fprintf(stderr,
			"fashion_mlp: cannot read %s/%s.gz\n"
			"Install the dataset with \"apt install dataset-fashion-mnist\", or give the folder "
			"that has its "
			"four .gz files.\n",
			folder, name);
		exit(1);
	}
	*n = header[4] << 24 | header[5] << 16 | header[6] << 8 | header[7];
	if (*n < 1 || *n > 1000000 || *n % BATCH) {
		fprintf(stderr, "fashion_mlp: %s.gz has %d items; a multiple of %d was expected\n", name, *n,
			BATCH);
		exit(1);
	}
	unsigned char *data = allocate((size_t)*n, item);
	if (fread(data, item, (size_t)*n, pipe) != (size_t)*n) {
		fprintf(stderr, "fashion_mlp: %s/%s.gz ends early\n", folder, name);
		exit(1);
	}
	pclose(pipe);
	return data;
}

static dataset read_dataset(const char *folder, const char *part)
{
	char images[64], labels[64];
	snprintf(images, sizeof images, "%s-images-idx3-ubyte", part);
	snprintf(labels, sizeof labels, "%s-labels-idx1-ubyte", part);
	dataset d;
	int n;
	unsigned char *pixel = read_idx(folder, images, 3, PIXELS, &d.n);
	d.label = read_idx(folder, labels, 1, 1, &n);
	if (n != d.n) {
		fprintf(stderr, "fashion_mlp: %d images but %d labels in %s\n", d.n, n, folder);
		exit(1);
	}
	d.image = allocate((size_t)d.n * PIXELS, sizeof *d.image);
	for (size_t i = 0; i < (size_t)d.n * PIXELS; i++)
		d.image[i] = ((float)pixel[i] / 255 - 0.2860f) / 0.3530f; /* of the training set */
	free(pixel);
	for (int i = 0; i < d.n; i++) {
		if (d.label[i] >= CLASSES) {
			fprintf(stderr, "fashion_mlp: label %d of image %d; there are %d classes\n",
				d.label[i], i, CLASSES);
			exit(1);
		}
	}
	return d;
}

/* ---- The network -------------------------------------------------------------------- */

static const char *const param_name[PARAMS] = {"w1", "b1", "w2", "b2", "w3", "b3"};

static an_type param_type(int i)
{
	int out = width[i / 2 + 1], in = i % 2 ? 1 : width[i / 2];
	return an_tensor(AN_FP32, 2, (int32_t[]){out, in});
}

/* x [BATCH, PIXELS] -> logits [CLASSES, BATCH].  Inside, activations are [width, BATCH]: a layer is
 * relu(W h + b), its bias a column. */
static an_function *build(an_program *program)
{
	an_function *f;
	check(an_function_new(program, "mlp", &f));
	an_builder b = an_builder_on(f);
	an_value x = an_input(&b, "x", an_tensor(AN_FP32, 2, (int32_t[]){BATCH, PIXELS}));
	an_value h = an_cast(&b, x, AN_FP16);
	for (int i = 0; i < LAYERS; i++) {
		an_value w = an_input(&b, param_name[2 * i], param_type(2 * i));
		an_value bias = an_input(&b, param_name[2 * i + 1], param_type(2 * i + 1));
		h = an_matmul(&b, an_cast(&b, w, AN_FP16), h, false, i == 0);
		h = an_add(&b, h, an_cast(&b, bias, AN_FP16));
		if (i < LAYERS - 1)
			h = an_unary(&b, "relu", h);
	}
	an_output(&b, an_name(&b, an_cast(&b, h, AN_FP32), "logits"));
	check(an_builder_finish(&b));
	return f;
}

/* ---- Running ------------------------------------------------------------------------- */

/* All buffers by name: what one function calls the other's, and the host's, is the same memory. */
static struct named_buffer {
	const char *name;
	an_buffer *buffer;
} buffers[64];
static int nbuffers;

static an_buffer *find(const char *name)
{
	for (int i = 0; i < nbuffers; i++)
		if (strcmp(buffers[i].name, name) == 0)
			return buffers[i].buffer;
	fprintf(stderr, "fashion_mlp: no buffer \"%s\"\n", name);
	exit(1);
}

static void bind(an_device *device, an_call *call, const char *name, const an_type *type)
{
	int i = 0;
	while (i < nbuffers && strcmp(buffers[i].name, name) != 0)
		i++;
	if (i == nbuffers) {
		if (nbuffers == (int)(sizeof buffers / sizeof *buffers)) {
			fprintf(stderr, "fashion_mlp: too many buffers\n");
			exit(1);
		}
		buffers[nbuffers].name = name;
		check(an_buffer_new(device, type, &buffers[nbuffers++].buffer));
	}
	check(an_call_bind(call, name, buffers[i].buffer));
}

/* Compiles a function and binds every input and output to the buffer of its name. */
static an_call *prepare(an_device *device, an_function *f)
{
	an_executable *executable;
	an_call *call;
	an_type type;
	check(an_compile(device, f, &executable));
	check(an_call_new(executable, &call));
	const char *name;
	for (int i = 0; (name = an_executable_input(executable, i, &type)); i++)
		bind(device, call, name, &type);
	for (int i = 0; (name = an_executable_output(executable, i, &type)); i++)
		bind(device, call, name, &type);
	return call;
}

/* Mean cross-entropy of logits [CLASSES, BATCH] and, where wanted, SCALE times its gradient; counts
 * the images whose largest logit is the label's. */
static double cross_entropy(const float *logits, const unsigned char *label, float *gradient, int *correct)
{
	double loss = 0;
	for (int i = 0; i < BATCH; i++) {
		int best = 0;
		for (int c = 1; c < CLASSES; c++)
			if (logits[c * BATCH + i] > logits[best * BATCH + i])
				best = c;
		double max = logits[best * BATCH + i], sum = 0;
		for (int c = 0; c < CLASSES; c++)
			sum += exp(logits[c * BATCH + i] - max);
		loss += log(sum) + max - logits[label[i] * BATCH + i];
		*correct += best == label[i];
		for (int c = 0; gradient && c < CLASSES; c++) {
			double p = exp(logits[c * BATCH + i] - max) / sum;
			gradient[c * BATCH + i] = (float)((p - (c == label[i])) * SCALE / BATCH);
		}
	}
	return loss / BATCH;
}

/* One parameter on the host: its fp32 values and Adam's two moments (Kingma, Ba 2015). */
typedef struct param {
	an_buffer *value, *gradient;
	int64_t n;
	float *w, *m, *v;
} param;

static void adam(param *p, double lr, int step)
{
	const float b1 = 0.9f, b2 = 0.999f;
	float c1 = 1 - powf(b1, (float)step), c2 = 1 - powf(b2, (float)step);
	const float *g = an_buffer_map(p->gradient);
	for (int64_t i = 0; i < p->n; i++) {
		float gi = g[i] / SCALE;
		p->m[i] = b1 * p->m[i] + (1 - b1) * gi;
		p->v[i] = b2 * p->v[i] + (1 - b2) * gi * gi;
		p->w[i] -= (float)lr * (p->m[i] / c1) / (sqrtf(p->v[i] / c2) + 1e-8f);
	}
	an_buffer_unmap(p->gradient);
	check(an_buffer_update_from_f32(p->value, 0, p->n, p->w));
}

/* Uniform in [0, 1): a 64-bit linear congruential generator (Knuth's MMIX constants), top bits. */
static double uniform(void)
{
	static unsigned long long state = 1;
	state = state * 6364136223846793005u + 1442695040888963407u;
	return (double)(state >> 11) * 0x1p-53;
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv)
{
	const char *folder = argc > 1 ? argv[1] : "/usr/share/datasets/fashion-mnist";
	dataset train = read_dataset(folder, "train"), test = read_dataset(folder, "t10k");

	if (an_ctx_open(NULL, &ctx) != AN_OK) {
		fprintf(stderr, "fashion_mlp: out of memory\n");
		return 1;
	}
	an_program *program;
	an_function *forward, *backward;
	check(an_program_new(ctx, &program));
	an_grad_options wanted = {.wrt = param_name, .nwrt = PARAMS}; /* not the images' gradient */
	check(an_grad(build(program), &wanted, &forward, &backward));

	an_device *device;
	check(an_device_open(ctx, &(an_device_options){.name = "soft", .numerics = "fast"}, &device));
	an_call *run_forward = prepare(device, forward), *run_backward = prepare(device, backward);
	an_device_info info;
	an_device_get_info(device, &info);
	printf("%d training and %d test images; device %s, numerics %s, %s, %d threads\n", train.n, test.n,
	       info.name, info.numerics, info.isa, info.threads);

	param params[PARAMS];
	for (int i = 0; i < PARAMS; i++) {
		char gradient[8];
		snprintf(gradient, sizeof gradient, "d_%s", param_name[i]);
		an_type type = param_type(i);
		param *p = &params[i];
		p->value = find(param_name[i]);
		p->gradient = find(gradient);
		p->n = an_type_count(&type);
		p->w = allocate((size_t)p->n, sizeof *p->w);
		p->m = allocate((size_t)p->n, sizeof *p->m);
		p->v = allocate((size_t)p->n, sizeof *p->v);
		/* Biases start at 0, matrices uniform with variance 2 / inputs, which relu keeps (He 2015).
		 */
		for (int64_t j = 0; i % 2 == 0 && j < p->n; j++)
			p->w[j] = (float)((2 * uniform() - 1) * sqrt(6.0 / type.dim[1]));
		check(an_buffer_update_from_f32(p->value, 0, p->n, p->w));
	}
	an_buffer *x = find("x"), *logits = find("logits"), *d_logits = find("d_logits");

	int *order = allocate((size_t)train.n, sizeof *order);
	for (int i = 0; i < train.n; i++)
		order[i] = i;
	double start = now(), accuracy = 0;
	const int steps = EPOCHS * (train.n / BATCH);
	for (int epoch = 0, step = 0; epoch < EPOCHS; epoch++) {
		for (int i = train.n - 1; i > 0; i--) { /* Fisher and Yates' shuffle */
			int j = (int)(uniform() * (i + 1)), t = order[i];
			order[i] = order[j];
			order[j] = t;
		}
		double loss = 0;
		int correct = 0;
		for (int first = 0; first < train.n; first += BATCH, step++) {
			unsigned char label[BATCH];
			float *image = an_buffer_map(x);
			for (int i = 0; i < BATCH; i++) {
				int which = order[first + i];
				memcpy(image + i * PIXELS, train.image + (size_t)which * PIXELS,
				       PIXELS * sizeof *image);
				label[i] = train.label[which];
			}
			an_buffer_unmap(x);
			check(an_call_run(run_forward));
			loss +=
			    cross_entropy(an_buffer_map(logits), label, an_buffer_map(d_logits), &correct);
			an_buffer_unmap(logits);
			an_buffer_unmap(d_logits);
			check(an_call_run(run_backward));
			for (int i = 0; i < PARAMS; i++)
				adam(&params[i], 1e-3 * (1 - (double)step / steps), step + 1);
		}
		int right = 0;
		for (int first = 0; first < test.n; first += BATCH) {
			check(an_buffer_update_from_f32(x, 0, BATCH * PIXELS,
							test.image + (size_t)first * PIXELS));
			check(an_call_run(run_forward));
			cross_entropy(an_buffer_map(logits), test.label + first, NULL, &right);
			an_buffer_unmap(logits);
		}
		accuracy = 100.0 * right / test.n;
		printf("epoch %d of %d  loss %.3f  train %.1f%%  test %.2f%%  %.1f s\n", epoch + 1, EPOCHS,
		       loss * BATCH / train.n, 100.0 * correct / train.n, accuracy, now() - start);
		fflush(stdout);
	}
	printf("accuracy on the test set: %.2f%%\n", accuracy);

	for (int i = 0; i < PARAMS; i++)
		free(params[i].w), free(params[i].m), free(params[i].v);
	free(order), free(train.image), free(train.label), free(test.image), free(test.label);
	an_device_close(device); /* with its executables, buffers and calls */
	an_program_free(program);
	an_ctx_close(ctx);
	return 0;
}
