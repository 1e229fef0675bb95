/* Elementwise programs and reductions: the index space is cut into tiles that fit the
 * interpreter's registers; tiles are spread over threads. */
#include "kernel/loops.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- Index spaces ----------------------------------------------------------------- */

static void swap_dims(ew_space *s, int a, int b)
{
	int64_t d = s->dim[a];
	bool f = s->folded[a];
	int8_t r = s->role[a];
	s->dim[a] = s->dim[b], s->dim[b] = d;
	s->folded[a] = s->folded[b], s->folded[b] = f;
	s->role[a] = s->role[b], s->role[b] = r;
	for (int o = 0; o < s->noperands; o++) {
		int64_t t = s->stride[o][a];
		s->stride[o][a] = s->stride[o][b], s->stride[o][b] = t;
	}
}

static void remove_dim(ew_space *s, int at)
{
	for (; at + 1 < s->rank; at++)
		swap_dims(s, at, at + 1);
	s->rank--;
}

static void insert_unit_dim(ew_space *s)
{
	for (int d = s->rank++; d > 0; d--) {
		s->dim[d] = s->dim[d - 1];
		s->folded[d] = s->folded[d - 1];
		s->role[d] = s->role[d - 1];
		for (int o = 0; o < s->noperands; o++)
			s->stride[o][d] = s->stride[o][d - 1];
	}
	s->dim[0] = 1;
	s->folded[0] = false;
	s->role[0] = 0;
	for (int o = 0; o < s->noperands; o++)
		s->stride[o][0] = 0;
}

/* Whether dims d and d + 1 are one for every operand. */
static bool mergeable(const ew_space *s, int d)
{
	if (s->folded[d] != s->folded[d + 1] || s->role[d] || s->role[d + 1])
		return false;
	for (int o = 0; o < s->noperands; o++)
		if (s->stride[o][d] != s->stride[o][d + 1] * s->dim[d + 1])
			return false;
	return true;
}

/* Whether dim a should be inside dim b: operands decide in turn, the leading one first. */
static bool belongs_inside(const ew_space *s, int a, int b, int lead)
{
	for (int i = 0; i < s->noperands; i++) {
		int o = (lead + i) % s->noperands;
		int64_t sa = llabs(s->stride[o][a]), sb = llabs(s->stride[o][b]);
		if (sa && sb && sa != sb)
			return sa < sb;
	}
	return false;
}

static int64_t blocks_of(const ew_space *s, int d) { return (s->dim[d] + s->block[d] - 1) / s->block[d]; }

void space_make(ew_space *s, int rank, const int64_t *dim, uint32_t mask, int above, int below, int noperands,
		const int64_t (*stride)[EW_MAX_DIMS], int lead, int limit)
{
	s->rank = 0;
	s->noperands = noperands;
	for (int d = 0; d < rank; d++) {
		if (dim[d] == 1)
			continue;
		s->dim[s->rank] = dim[d];
		s->folded[s->rank] = mask >> d & 1;
		s->role[s->rank] = (int8_t)((d == above) - (d == below)); /* 0 if they are one */
		for (int o = 0; o < noperands; o++)
			s->stride[o][s->rank] = stride[o][d];
		s->rank++;
	}
	for (int i = 1; i < s->rank; i++)
		for (int j = i; j > 0 && belongs_inside(s, j - 1, j, lead); j--)
			swap_dims(s, j - 1, j);
	for (int d = s->rank - 2; d >= 0; d--)
		if (mergeable(s, d)) {
			s->dim[d + 1] *= s->dim[d];
			remove_dim(s, d);
		}
	while (s->rank < 2)
		insert_unit_dim(s);

	int j = s->rank - 1, other = -1;
	for (int o = 0; o < noperands && other < 0; o++)
		if (s->stride[o][j] != 0 && s->stride[o][j] != 1)
			for (int d = 0; d < j; d++)
				if (s->stride[o][d] == 1)
					other = d;
	for (int d = 0; d < s->rank; d++)
		s->block[d] = 1;
	int width = limit;
	if (other >= 0) {
		for (int d = other; d < j - 1; d++)
			swap_dims(s, d, d + 1);
		width = 32;
	} else if (!s->folded[j] && (s->folded[j - 1] || space_tiles(s, true) > 1)) {
		width = s->dim[j] >= 256 ? 64 : 32; /* columns of a reduction: several pieces, whole lines */
	}
	if (s->folded[j] && !s->folded[j - 1])
		width = MAX(width, EW_LANES);
	s->block[j] = MAX(MIN(s->dim[j], width), 1);
	s->block[j - 1] = MAX(MIN(s->dim[j - 1], limit / s->block[j]), 1);
	for (int d = 0; d < s->rank; d++)
		s->blocks[d] = blocks_of(s, d);
}

int64_t space_tiles(const ew_space *s, bool folded)
{
	int64_t n = 1;
	for (int d = 0; d < s->rank; d++)
		if (s->folded[d] == folded)
			n *= blocks_of(s, d);
	return n;
}

void space_at(const ew_space *s, int64_t index, int64_t step, ew_tile *t)
{
	int64_t at[EW_MAX_DIMS + 2];
	t->at[0] = t->at[1] = 0;
	for (int d = s->rank - 1; d >= 0; d--) {
		int64_t *const left = s->folded[d] ? &step : &index;
		const int64_t count = s->blocks[d];
		at[d] = count == 1 ? 0 : *left % count * s->block[d];
		*left = count == 1 ? *left : *left / count;
		if (s->role[d])
			t->at[s->role[d] < 0] = at[d];
	}
	const int i = s->rank - 2, j = s->rank - 1;
	t->ni = (int)MIN(s->block[i], s->dim[i] - at[i]);
	t->nj = (int)MIN(s->block[j], s->dim[j] - at[j]);
	for (int o = 0; o < s->noperands; o++) {
		int64_t offset = 0;
		for (int d = 0; d < s->rank; d++)
			offset += at[d] * s->stride[o][d];
		t->offset[o] = offset;
	}
}

/* ---- Programs --------------------------------------------------------------------- */

int ew_reads(const ew_instr *x)
{
	if (x->op == EW_LOAD || x->op == EW_IMM)
		return 0;
	if (x->op == EW_SELECT)
		return 3;
	return x->op >= EW_ADD && x->op <= EW_GE ? 2 : 1; /* ORDER EW: ADD .. GE are binary */
}

/* Adds what a piece has counted; integers, so that the order of pieces does not matter. */
static void add_counts(k_counts *to, const k_counts *from, int n)
{
	for (int i = 0; i < n; i++) {
		__atomic_fetch_add(&to[i].results, from[i].results, __ATOMIC_RELAXED);
		__atomic_fetch_add(&to[i].overflowed, from[i].overflowed, __ATOMIC_RELAXED);
		__atomic_fetch_add(&to[i].vanished, from[i].vanished, __ATOMIC_RELAXED);
		float seen;
		__atomic_load(&to[i].largest, &seen, __ATOMIC_RELAXED);
		float largest = from[i].largest;
		while (largest > seen && !__atomic_compare_exchange(&to[i].largest, &seen, &largest, false,
								    __ATOMIC_RELAXED, __ATOMIC_RELAXED))
			;
	}
}

typedef struct ew_job {
	const ew_program *prog;
	const k_loops *loops;
	ew_space space;
	/* reductions */
	int reg; /* that is reduced; k_ewise: -1 */
	k_reduction how;
	const ew_operand *out; /* operand number prog->noperands of the space */
	int64_t count;
} ew_job;

static bool is_empty(const ew_program *p)
{
	for (int d = 0; d < p->rank; d++)
		if (p->dim[d] == 0)
			return true;
	return false;
}

/* The operand to walk along: the first that is stored, else the first that covers the most dims. */
static int leading_operand(const ew_program *p)
{
	for (int i = 0; i < p->ninstr; i++)
		if (p->instr[i].op == EW_STORE)
			return p->instr[i].dst;
	int best = 0, most = -1;
	for (int o = 0; o < p->noperands; o++) {
		int covered = 0;
		for (int d = 0; d < p->rank; d++)
			covered += p->operand[o].stride[d] != 0 && p->dim[d] > 1;
		if (covered > most) {
			most = covered;
			best = o;
		}
	}
	return best;
}

static void start_tile(const ew_space *s, ew_tile *t)
{
	for (int o = 0; o < s->noperands; o++) {
		t->si[o] = s->stride[o][s->rank - 2];
		t->sj[o] = s->stride[o][s->rank - 1];
	}
}

/* Leaves of a tile, rows x columns, what is wanted of it, in whole vectors; perhaps nothing. */
static void cut_tile(const ew_space *s, ew_tile *t)
{
	const int i = s->rank - 2, j = s->rank - 1;
	const int below = s->role[i] < 0 ? t->ni : s->role[j] < 0 ? t->nj : 1; /* how much of it there is */
	const int64_t wanted = t->at[1] + below + s->shift - t->at[0];         /* along `above` */
	const int64_t kept = wanted <= 0 ? 0 : (wanted + EW_LANES - 1) / EW_LANES * EW_LANES;
	if (s->role[i] > 0)
		t->ni = (int)MIN(kept, t->ni);
	else if (s->role[j] > 0 || !kept)
		t->nj = (int)MIN(kept, t->nj);
}

/* Stores of what is not wanted: all of a tile of ni x nj, but what t has of it. */
static void store_zeros(const ew_program *p, const ew_tile *t, int ni, int nj)
{
	for (const ew_instr *x = p->instr; x < p->instr + p->ninstr; x++) {
		if (x->op != EW_STORE)
			continue;
		const int64_t size = (int64_t)k_type_size(p->operand[x->dst].type);
		const int64_t si = t->si[x->dst] * size, sj = t->sj[x->dst] * size;
		char *row = (char *)p->operand[x->dst].data + t->offset[x->dst] * size;
		for (int i = 0; i < ni; i++, row += si) {
			const int first = i < t->ni ? t->nj : 0;
			if (sj == size)
				memset(row + first * sj, 0, (size_t)((nj - first) * size));
			else
				for (int j = first; j < nj; j++)
					memset(row + j * sj, 0, (size_t)size);
		}
	}
}

/* Runs a program on what is wanted of a tile, which is what t is then. */
static void run_tile(const ew_job *job, ew_tile *t, ew_register *reg, k_counts *counted)
{
	const int ni = t->ni, nj = t->nj;
	cut_tile(&job->space, t);
	if (t->ni && t->nj)
		job->loops->run(job->prog, t, reg, job->reg, counted);
	if (t->ni < ni || t->nj < nj)
		store_zeros(job->prog, t, ni, nj);
}

/* From so many instructions on a tile takes longer than its lines take to come: they are asked for before.
 * The processor does it for what a shorter program walks along. */
#define LONG_PROGRAM 16

/* Asks for the lines of a tile: of long programs, and of rows that are short and do not follow each other,
 * which the processor does not foresee.  `from`: the tile that runs meanwhile. */
static void ask_for_tile(const ew_program *p, const ew_tile *t, const ew_tile *from)
{
	HAS_EFFECT;
	for (int o = 0; o < p->noperands; o++) {
		const int64_t si = t->si[o], sj = t->sj[o], size = (int64_t)k_type_size(p->operand[o].type);
		if (t->offset[o] == from->offset[o] || (si != 1 && sj != 1))
			continue;
		const int64_t step = (sj == 1 ? si : sj) * size;
		int64_t lines = sj == 1 ? t->ni : t->nj, bytes = (sj == 1 ? t->nj : t->ni) * size;
		if (step == 0 || lines == 1 || step == bytes) {
			if (p->ninstr < LONG_PROGRAM)
				continue;
			bytes *= step ? lines : 1;
			lines = 1;
		}
		const char *at = (const char *)p->operand[o].data + t->offset[o] * size;
		for (int64_t i = 0; i < lines; i++, at += step)
			for (int64_t b = 0; b < bytes; b += 64)
				__builtin_prefetch(at + b);
	}
}

static void ewise_piece(void *arg, int64_t first, int64_t last)
{
	const ew_job *job = arg;
	const ew_space *s = &job->space;
	_Alignas(64) ew_register reg[EW_MAX_REGS];
	k_counts counts[EW_MAX_INSTRS], *counted = job->prog->counts ? counts : NULL;
	memset(reg, 0, sizeof *reg * (size_t)job->prog->nregs);
	if (counted)
		memset(counts, 0, sizeof *counts * (size_t)job->prog->ninstr);
	ew_tile t[2];
	start_tile(s, &t[0]);
	start_tile(s, &t[1]);
	space_at(s, first, 0, &t[0]);
	for (int64_t k = 0; k < last - first; k++) {
		if (first + k + 1 < last) {
			space_at(s, first + k + 1, 0, &t[~k & 1]);
			ask_for_tile(job->prog, &t[~k & 1], &t[k & 1]);
		}
		run_tile(job, &t[k & 1], reg, counted);
	}
	if (counted)
		add_counts(job->prog->counts, counts, job->prog->ninstr);
}

void k_ewise(pool *p, uint32_t isa, const ew_program *prog)
{
	assert(prog->rank <= EW_MAX_DIMS && prog->nregs <= EW_MAX_REGS &&
	       prog->noperands <= EW_MAX_OPERANDS && prog->ninstr <= EW_MAX_INSTRS);
	if (is_empty(prog))
		return;
	int64_t stride[EW_MAX_OPERANDS][EW_MAX_DIMS];
	for (int o = 0; o < prog->noperands; o++)
		memcpy(stride[o], prog->operand[o].stride, sizeof stride[o]);
	ew_job job = {.prog = prog, .loops = loops_for(isa), .reg = -1};
	const int above = prog->counts ? prog->below : prog->above; /* all count */
	space_make(&job.space, prog->rank, prog->dim, 0, above, prog->below, prog->noperands, stride,
		   leading_operand(prog), EW_BLOCK);
	job.space.shift = prog->shift;
	run_pieces(p, space_tiles(&job.space, false), EW_BLOCK, ewise_piece, &job);
}

/* ---- Reductions ------------------------------------------------------------------- */

void k_counts_add_results(k_counts *to, const float *sum, const float *result, int64_t n, k_type type)
{
	to->results += n;
	for (int64_t i = 0; i < n; i++) {
		float y = type == K_F16 ? half_to_float(half_from_float(result[i])) : result[i];
		to->overflowed += fabsf(y) == INFINITY && fabsf(sum[i]) < INFINITY;
		to->vanished += y == 0 && sum[i] != 0;
		if (fabsf(y) < INFINITY)
			to->largest = fmaxf(to->largest, fabsf(y));
	}
}

/* One instruction that stores acc: converts as programs do. */
static void store_reduced_ints(const ew_job *job, const ew_tile *t, ew_register *acc, int ni, int nj)
{
	const int out = job->prog->noperands;
	const ew_instr store = {.op = EW_STORE, .dst = 0, .a = 0};
	const ew_program tail = {
	    .ninstr = 1, .noperands = 1, .nregs = 1, .instr = &store, .operand = job->out, .integer = true};
	ew_tile last = {.ni = ni, .nj = nj};
	last.offset[0] = t->offset[out];
	last.si[0] = t->si[out];
	last.sj[0] = t->sj[out];
	job->loops->run(&tail, &last, acc, -1, NULL);
}

static void reduce_piece(void *arg, int64_t first, int64_t last)
{
	const ew_job *job = arg;
	const ew_space *s = &job->space;
	const ew_program *prog = job->prog;
	const int out = prog->noperands;
	const bool fold_i = s->folded[s->rank - 2], fold_j = s->folded[s->rank - 1];
	const int64_t steps = space_tiles(s, true);
	_Alignas(64) ew_register reg[EW_MAX_REGS];
	_Alignas(64) float acc[EW_BLOCK];
	k_counts counts[EW_MAX_INSTRS + 1], *counted = prog->counts ? counts : NULL;
	memset(reg, 0, sizeof *reg * (size_t)prog->nregs);
	if (counted)
		memset(counts, 0, sizeof *counts * (size_t)(prog->ninstr + 1));
	ew_tile two[2];
	start_tile(s, &two[0]);
	start_tile(s, &two[1]);
	space_at(s, first, 0, &two[0]);
	const int64_t end = (last - first) * steps;
	for (int64_t k = 0, r = 0; k < end; k++) {
		ew_tile *const t = &two[k & 1];
		if (k + 1 < end) {
			ew_tile *const next = &two[~k & 1];
			space_at(s, first + (k + 1) / steps, r + 1 < steps ? r + 1 : 0, next);
			ask_for_tile(prog, next, t);
		}
		const int ni = fold_i ? 1 : t->ni, nj = fold_j ? 1 : t->nj; /* of results */
		run_tile(job, t, reg, counted);
		if (t->ni && t->nj) /* which the first of a sum has */
			job->loops->fold(acc, reg[job->reg], t->ni, t->nj, fold_i, fold_j, job->how,
					 prog->integer, r == 0);
		if (++r < steps)
			continue;
		r = 0;
		if (prog->integer) {
			store_reduced_ints(job, t, &acc, ni, nj);
			continue;
		}
		float sum[EW_BLOCK];
		if (counted)
			memcpy(sum, acc, sizeof *sum * (size_t)(ni * nj));
		job->loops->finish(acc, ni * nj, job->how, job->count);
		if (counted)
			k_counts_add_results(&counts[prog->ninstr], sum, acc, ni * nj, job->out->type);
		const k_type type = job->out->type;
		char *to = (char *)job->out->data + t->offset[out] * (int64_t)k_type_size(type);
		if (nj == 1)
			job->loops->store(to, type, t->si[out], acc, ni);
		else
			for (int i = 0; i < ni; i++, to += t->si[out] * (int64_t)k_type_size(type))
				job->loops->store(to, type, t->sj[out], acc + i * nj, nj);
	}
	if (counted)
		add_counts(prog->counts, counts, prog->ninstr + 1);
}

void k_reduce(pool *p, uint32_t isa, const ew_program *prog, int reg, k_reduction how, uint32_t mask,
	      const ew_operand *out)
{
	assert(prog->noperands < EW_MAX_OPERANDS && reg < prog->nregs && prog->nregs <= EW_MAX_REGS &&
	       prog->ninstr <= EW_MAX_INSTRS);
	int64_t stride[EW_MAX_OPERANDS][EW_MAX_DIMS] = {{0}};
	int64_t count = 1, total = 1;
	for (int o = 0; o < prog->noperands; o++)
		memcpy(stride[o], prog->operand[o].stride, sizeof stride[o]);
	for (int d = 0; d < prog->rank; d++) {
		total *= prog->dim[d];
		if (mask >> d & 1)
			count *= prog->dim[d];
		else
			stride[prog->noperands][d] = out->stride[d];
	}
	if (!total) {
		return;
	}
	ew_job job = {
	    .prog = prog, .loops = loops_for(isa), .reg = reg, .how = how, .out = out, .count = count};
	/* cutting what is summed keeps the results that a tile has */
	const bool cut = mask >> prog->above & 1 && !prog->counts;
	space_make(&job.space, prog->rank, prog->dim, mask, cut ? prog->above : prog->below, prog->below,
		   prog->noperands + 1, (const int64_t(*)[EW_MAX_DIMS])stride, leading_operand(prog),
		   EW_BLOCK);
	job.space.shift = prog->shift;
	int64_t pieces = space_tiles(&job.space, false);
	run_pieces(p, pieces, total / pieces, reduce_piece, &job);
}
