/* Relative errors of seeded products that ANEForge has published for Neural Engines from M1 to M6,
 * the same digits on all that were measured.  A rounding that is not theirs shows in the third digit. */
#include "kernel/kernel.h"
#include "support/kernel_check.h"
#include "support/kernel_numpy.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

static void test_generator(void **state)
{
	(void)state;
	static const struct {
		uint32_t seed;
		double first[4];
	} want[] = {{0, {0.12573022, -0.13210486, 0.64042265, 0.10490012}},
		    {1, {0.34558419, 0.82161814, 0.33043708, -1.30315723}}};
	for (int i = 0; i < LENGTH(want); i++) {
		numpy_rng g;
		numpy_seed(&g, want[i].seed);
		for (int j = 0; j < 4; j++)
			assert_true(fabs(numpy_normal(&g) - want[i].first[j]) < 5.1e-9);
	}
	/* NumPy 2.4's sum of two million: every layer, the edges and the tail are met */
	numpy_rng g;
	double sum = 0;
	numpy_seed(&g, 0);
	for (int i = 0; i < 2000000; i++)
		sum += numpy_normal(&g);
	assert_true(fabs(sum - 1792.6634430679308) < 1e-8);
}

/* Draws n numbers, scaled; `single`: the quotient is rounded to fp32. */
static void draw(numpy_rng *g, double *x, half *x16, int64_t n, double root, bool single)
{
	for (int64_t i = 0; i < n; i++) {
		float v = (float)numpy_normal(g);
		x[i] = single ? (double)(v / (float)root) : (double)v / root;
		x16[i] = half_from_double(x[i]);
	}
}

/* x[m][k] by W[n][k] transposed, against double precision on the unrounded numbers in the first rows. */
static double relative_error(int64_t m, int64_t n, int64_t k, int64_t rows, bool single)
{
	double *x = malloc((size_t)(m * k) * sizeof *x), *w = malloc((size_t)(n * k) * sizeof *w);
	half *x16 = malloc((size_t)(m * k) * 2), *w16 = malloc((size_t)(n * k) * 2),
	     *y = malloc((size_t)(m * n) * 2);
	assert_true(x && w && x16 && w16 && y);
	numpy_rng g;
	numpy_seed(&g, 0);
	draw(&g, x, x16, m * k, sqrt((double)k), single);
	draw(&g, w, w16, n * k, sqrt((double)k), single);
	k_gemm_args args = {.m = rows, .n = n, .k = k, .precision = K_FIXED};
	args.a = (k_matrix){x16, K_F16, k, 1, {0}};
	args.b = (k_matrix){w16, K_F16, 1, k, {0}};
	args.c = (k_matrix){y, K_F16, n, 1, {0}};
	const k_gemm_row *r = k_gemm_select(&args, isa_detect());
	void *scratch = malloc(k_gemm_scratch(r, &args, 1));
	assert_non_null(scratch);
	k_gemm(NULL, r, &args, scratch);
	double error = 0, size = 0;
	for (int64_t i = 0; i < rows; i++)
		for (int64_t j = 0; j < n; j++) {
			double part[8] = {0};
			for (int64_t p = 0; p < k; p += 8)
				for (int l = 0; l < 8; l++)
					part[l] += x[i * k + p + l] * w[j * k + p + l];
			double sum = 0;
			for (int l = 0; l < 8; l++)
				sum += part[l];
			double d = (double)half_to_float(y[i * n + j]) - sum;
			error += d * d;
			size += sum * sum;
		}
	free(x), free(w), free(x16), free(w16), free(y), free(scratch);
	return sqrt(error / size);
}

static void test_products(void **state)
{
	(void)state;
	static const struct {
		int m, n, k, rows;
		bool single;
		double published;
	} want[] = {
	    {512, 512, 512, 256, true, 0.00257800397023792},
	    {1024, 1024, 1024, 256, true, 0.005528352999597525},
	    {2048, 2048, 2048, 256, true, 0.012131920427695623},
	    {64, 256, 256, 64, false, 0.0012522854527169441},
	    {128, 1024, 1024, 128, false, 0.005521493491066958},
	};
	for (int i = 0; i < LENGTH(want); i++) {
		double got = relative_error(want[i].m, want[i].n, want[i].k, want[i].rows, want[i].single);
		/* the reference is summed in another order: errors of 2^-53 per addition, k / 8 + 8 of them,
		 * against differences of 10^-3 */
		if (fabs(got - want[i].published) > 1e-12 * want[i].published)
			fail_msg("%dx%dx%d: %.16g, published %.16g", want[i].m, want[i].n, want[i].k, got,
				 want[i].published);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_generator), cmocka_unit_test(test_products)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
