/* 3x3 convolutions with stride 1 as one-dimensional Winograd F(2,3) along the width (Winograd 1980; Lavin,
 * Gray 2016), with the roundings that reproduce what ANEForge has published of M5, M5 Pro and M6.
 *
 * Columns 2t and 2t + 1 of the result come from columns d0..d3 of the input, from 2t on, padding included,
 * and each row g0 g1 g2 of the kernel:
 *
 *	v0 = d0 - d2      u0 = g0                       y[2t]     = m0 + m1 + m2
 *	v1 = d1 + d2      u1 = (g0 + g1 + g2) / 2       y[2t + 1] = m1 - m2 - m3
 *	v2 = d2 - d1      u2 = (g0 - g1 + g2) / 2
 *	v3 = d1 - d3      u3 = g2                       ma = sum over channels and rows of va ua
 *
 * v and u are rounded to fp16, half away from zero.  A sum of three m is one contraction over a K three
 * times as long, so that it stays in the accumulator: its order of terms, which only overflow could
 * tell, is m after m. */
#include "device/soft/node.h"

bool soft_is_winograd(const soft_fn *s, const conv_spec *c, k_type type)
{
	return CHOSEN(s->numerics, CONV3X3, WINOGRAD) && type == K_F16 && c->kh == 3 && c->kw == 3 &&
	       c->stride[0] == 1 && c->stride[1] == 1 && c->dilation[0] == 1 && c->dilation[1] == 1;
}

static int like(soft_fn *s, int op, k_type type, int a, int b)
{
	return soft_add_ew_like(s, op, type, a, a, b);
}

/* The node just added rounds half away whatever other operations do. */
static int rounded_away(soft_fn *s, int v)
{
	if (!s->oom)
		s->nodes[s->nnodes - 1].u.ew.round16 = EW_AWAY;
	return v;
}

/* a + b = *sum + *error, exactly (Knuth's TwoSum). */
static void two_sum(soft_fn *s, int a, int b, int *sum, int *error)
{
	*sum = like(s, EW_ADD, K_F32, a, b);
	const int from_b = like(s, EW_SUB, K_F32, *sum, a), from_a = like(s, EW_SUB, K_F32, *sum, from_b);
	*error = like(s, EW_ADD, K_F32, like(s, EW_SUB, K_F32, a, from_a), like(s, EW_SUB, K_F32, b, from_b));
}

/* (outer + outer_error + middle) / 2, rounded once.  All terms are multiples of 2^-24, sums are below 2^18:
 * the errors of both additions are at most 2^-7, fp32 holds their sum, and the last addition rounds the exact
 * value. */
static int half_sum(soft_fn *s, int outer, int outer_error, int middle)
{
	int sum, error;
	two_sum(s, outer, middle, &sum, &error);
	const int half_unit = soft_add_number(s, K_F32, 0.5);
	sum = like(s, EW_MUL, K_F32, sum, half_unit);
	error = like(s, EW_MUL, K_F32, like(s, EW_ADD, K_F32, error, outer_error), half_unit);
	return rounded_away(s, like(s, EW_ADD, K_F16, sum, error));
}

/* Every second column of the last axis from `begin` on, `count` of them. */
static int every_second(soft_fn *s, int x, int64_t begin, int64_t count)
{
	const int rank = s->values[x].rank;
	int64_t dim[SOFT_RANK];
	soft_view view = soft_whole(rank);
	memcpy(dim, s->values[x].dim, sizeof dim);
	dim[rank - 1] = count;
	view.begin[rank - 1] = begin;
	view.step[rank - 1] = 2;
	return soft_add_view(s, x, rank, dim, &view);
}

static int kernel_column(soft_fn *s, int w, int column)
{
	int64_t dim[] = {s->values[w].dim[0], s->values[w].dim[1], 3};
	soft_view view = soft_whole(3);
	view.begin[3] = column;
	return soft_add_view(s, w, 3, dim, &view);
}

int soft_add_winograd(soft_fn *s, const conv_spec *c, int x, int w, int bias)
{
	const int64_t groups = c->groups, in = c->in_ch / groups, out = c->out_ch / groups;
	const int64_t height = c->oh + 2, tiles = (c->ow + 1) / 2, k = 3 * in * 3;
	int d[4], v[4];
	for (int i = 0; i < 4; i++)
		d[i] = every_second(s, x, i, tiles);
	v[0] = rounded_away(s, like(s, EW_SUB, K_F16, d[0], d[2]));
	v[1] = rounded_away(s, like(s, EW_ADD, K_F16, d[1], d[2]));
	v[2] = rounded_away(s, like(s, EW_SUB, K_F16, d[2], d[1]));
	v[3] = rounded_away(s, like(s, EW_SUB, K_F16, d[1], d[3]));
	for (int i = 0; i < 4; i++)
		v[i] = soft_add_reshape(s, v[i], 5, (int64_t[]){c->batch, groups, in, height, tiles});
	const int all_v = soft_add_concat(s, 2, false, 4, v);

	int g[3], sum, error;
	w = soft_add_reshape(s, w, 4, (int64_t[]){c->out_ch, in, 3, 3});
	for (int i = 0; i < 3; i++)
		g[i] = kernel_column(s, w, i);
	two_sum(s, g[0], g[2], &sum, &error);
	const int u1 = half_sum(s, sum, error, g[1]);
	const int u2 = half_sum(s, sum, error, like(s, EW_NEG, K_F16, g[1], -1));
	const int u[2][3] = {{g[0], u1, u2},
			     {u1, like(s, EW_NEG, K_F16, u2, -1), like(s, EW_NEG, K_F16, g[2], -1)}};

	int y[2];
	for (int i = 0; i < 2; i++) { /* from v0 on, from v1 on */
		const soft_view windows = {
		    .axis = {0, 1, 2, 3, 3, 4}, .step = {1, 1, 1, 1, 1, 1}, .begin = {0, 0, i * in}};
		int b = soft_add_view(s, all_v, 6, (int64_t[]){c->batch, groups, 3 * in, 3, c->oh, tiles},
				      &windows);
		b = soft_add_reshape(s, b, 4, (int64_t[]){c->batch, groups, k, c->oh * tiles});
		int a = soft_add_concat(s, 1, false, 3, u[i]);
		a = soft_add_reshape(s, a, 4, (int64_t[]){1, groups, out, k});
		y[i] = soft_add_reshape(s, soft_add_product(s, K_F16, a, b, bias), 4,
					(int64_t[]){c->batch, c->out_ch, c->oh, tiles});
	}
	const int both = soft_add_concat(s, 3, true, 2, y);
	const soft_view columns = soft_whole(4);
	return soft_add_view(s, both, 4, (int64_t[]){c->batch, c->out_ch, c->oh, c->ow}, &columns);
}
