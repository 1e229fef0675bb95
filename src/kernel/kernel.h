/* The fast loops.  Everything here works on plain memory and knows nothing of MIL.
 *
 * Rules that hold for every kernel:
 *   - Results do not depend on the number of threads: work is cut into fixed blocks, each
 *     output element is computed by one item, reductions run in a fixed order.
 *   - Elementwise kernels give the same bits on every instruction set (they are one source,
 *     compiled per set without contraction of multiply and add).  GEMM kernels may differ
 *     between sets by the order of accumulation, and say so in their row.
 *   - Strides are in elements unless a name says bytes.  */
#ifndef KERNEL_KERNEL_H
#define KERNEL_KERNEL_H

#include "base/base.h"
#include "base/half.h"
#include "base/isa.h"
#include "base/pool.h"

typedef enum k_type {
	K_F16,
	K_F32,
	K_BF16,
	K_I8,
	K_U8,
	K_I16,
	K_U16,
	K_I32,
	K_U32,
	K_BOOL,
	K_TYPE_COUNT
} k_type;
/* Bytes of an element. */
static inline size_t k_type_size(k_type t)
{
	static const uint8_t size[K_TYPE_COUNT] = {
	    [K_F16] = 2, [K_F32] = 4, [K_BF16] = 2, [K_I8] = 1,  [K_U8] = 1,
	    [K_I16] = 2, [K_U16] = 2, [K_I32] = 4,  [K_U32] = 4, [K_BOOL] = 1};
	return (unsigned)t < K_TYPE_COUNT ? size[t] : 0;
}

/* For functions that only prefetch: gcc 12 counts that as no effect, and would drop their calls. */
#define HAS_EFFECT __asm__ volatile("")

/* ---- Conversion ------------------------------------------------------------------ */

void k_f16_to_f32(pool *p, uint32_t isa, float *dst, const half *src, int64_t n);
void k_f32_to_f16(pool *p, uint32_t isa, half *dst, const float *src, int64_t n); /* nearest even */
void k_f32_to_bf16(pool *p, uint32_t isa, bfloat *dst, const float *src, int64_t n);
/* Stores n fp32 values as `type` (K_F16, K_BF16: nearest even; K_F32).  make(arg, begin, n) computes values
 * begin .. begin + n - 1 and returns their address; it is called once for each block, on any thread, and a
 * block is stored while it is in the first-level cache: what computes and what converts are one pass. */
typedef const float *k_make_fn(void *arg, int64_t begin, int64_t n);
void k_store_made(pool *p, uint32_t isa, void *dst, k_type type, int64_t n, k_make_fn *make, void *arg);
/* Copies a strided array of rank <= 6 of elements of `size` bytes to another; dims[rank]. */
void k_copy_strided(pool *p, size_t size, int rank, const int64_t *dims, void *dst, const int64_t *dst_stride,
		    const void *src, const int64_t *src_stride);

/* ---- Counting what is lost --------------------------------------------------------- */

/* What the arithmetic of an operation did to its values.  Counting is a separate pass over operands and
 * results (contractions) or a check after each instruction (elementwise), so that what does not count
 * pays nothing.  Counts are added to; they do not depend on the number of threads. */
typedef struct k_counts {
	int64_t products;   /* contractions: multiplications of two operands that are not 0 */
	int64_t lost;       /* of these, those that contributed nothing: cut off, or rounded to 0 */
	int64_t results;    /* elements written */
	int64_t overflowed; /* of these, infinite though every operand was finite */
	int64_t vanished;   /* of these, 0 though the exact result is not known to be 0: a product of operands
			     * that are not 0, a sum all of whose terms that are not 0 were lost, or (not
			     * K_FIXED) a sum in double that is not 0 */
	float largest;      /* magnitude of a finite result */
} k_counts;
void k_counts_add(k_counts *to, const k_counts *from);
/* Counts n results that become `type`, K_F16 or K_F32: one is lost if it is infinite, or 0, though the sum
 * that it was made of was not. */
void k_counts_add_results(k_counts *to, const float *sum, const float *result, int64_t n, k_type type);

/* ---- GEMM ------------------------------------------------------------------------ */

/* C[b][m][n] (+)= sum over k of A[b][m][k] * B[b][k][n], fp32 accumulation, or, of 8-bit integers, int32:
 * exact, or INT32_MAX or INT32_MIN from where a sum reaches 2^31 in magnitude, k ascending.  Any strides (so
 * transposed, sliced and broadcast operands need no copy), up to GEMM_BATCH_DIMS batch dims
 * (stride 0 broadcasts).  C overlaps neither operand.  With k = 0, C becomes 0 or stays. */
#define GEMM_BATCH_DIMS 3
typedef struct k_matrix {
	void *data;     /* element [0][0][0] */
	k_type type;    /* K_F16 or K_F32; A and B both K_I8 or K_U8 (each its own), then C is K_I32 */
	int64_t rs, cs; /* row and column stride */
	int64_t bs[GEMM_BATCH_DIMS];
} k_matrix;

typedef enum k_precision {
	K_EXACT, /* products of fp16 operands are exact; fp32 operands are multiplied in fp32; integers want
		  * this one */
	K_FAST,  /* operands may be rounded to bf16, or sums of a few products to fp16: errors up to 1% of
		  * sum |A| |B|, some 0.1 to 0.3% of the rms of random results */
	K_NEAR,  /* as K_EXACT but for up to 2^-16 of a product, where that is cheaper: 3e-6 rms */
	K_FIXED  /* as a Neural Engine does it, to the bit: gemm_fixed.h has the rules; fp16 operands only */
} k_precision;

/* What is known of an operand, or wanted of C.  Of an operand that is K_LOWER the elements [i][j] with
 * j > i + d are 0, of one that is K_UPPER those with j < i + d, where d is its `diagonal`; most products with
 * these zeros are left out, which changes no bit of a result if what they are multiplied with is finite.  Of
 * C they are not needed: blocks that hold no others are not computed and become 0, or stay where the product
 * is added.  K_FIXED reads all of its operands. */
typedef enum k_triangle { K_WHOLE, K_LOWER, K_UPPER } k_triangle;

typedef struct k_gemm_args {
	int64_t m, n, k;
	int nbatch;
	int64_t batch[GEMM_BATCH_DIMS];
	k_matrix a, b, c;
	bool accumulate; /* C += ; only for C of type K_F32, and not with K_FIXED */
	/* 0, or how many products are added up before the sum is added to those before: what
	 * k_gemm_takes_blocks agrees to.  The results are those of as many products of this k, the later ones
	 * accumulated. */
	int64_t k_block;
	k_matrix bias; /* K_FIXED: where sums start; strides of 0 repeat it.  NULL data: 0 */
	k_precision precision;
	k_triangle triangle_a, triangle_b, triangle_c;
	int64_t diagonal_a, diagonal_b, diagonal_c;
	/* What k_gemm_pack made of an operand, or NULL.  a and b describe the operand nevertheless; where it
	 * is packed, its data is not read. */
	const void *packed_a, *packed_b;
} k_gemm_args;

/* The same product as C^T = B^T A^T. */
void k_gemm_transpose(k_gemm_args *g);

typedef struct k_gemm_row k_gemm_row; /* one kernel of the table, see kernel/gemm.h */
/* The kernel that a machine with this mask gets for these arguments; a pure function.  Never
 * NULL: the portable kernel takes everything. */
const k_gemm_row *k_gemm_select(const k_gemm_args *g, uint32_t isa);
const char *k_gemm_name(const k_gemm_row *r);
/* Whether the row can add up its sums in such blocks (k_gemm_args). */
bool k_gemm_takes_blocks(const k_gemm_row *r, int64_t k_block);
/* Whether a product of K_I8 or K_U8 operands of this k may hold sums that reached 2^31. */
bool k_gemm_saturates(const k_gemm_args *g);
/* Bytes of scratch k_gemm needs for these arguments with up to `threads` threads, at any address.  Of
 * packed_a and packed_b only matters whether they are NULL. */
size_t k_gemm_scratch(const k_gemm_row *r, const k_gemm_args *g, int threads);

/* Packing an operand once for many products.  What is packed serves every product with the same row, the same
 * k, type and batch of this operand, and C of the same orientation (c.cs == 1, or c.rs == 1 and not c.cs);
 * the other operand, C and the number of threads may change.  Results have the bits they have without. */
typedef enum k_operand { K_A, K_B } k_operand;
/* Bytes for packing g->a or g->b; 0 if the row reads operands as they are (matrix times vector). */
size_t k_gemm_packed_bytes(const k_gemm_row *r, const k_gemm_args *g, k_operand which);
/* Packs g->a or g->b into `to`, which is aligned to 64 bytes. */
void k_gemm_pack(pool *p, const k_gemm_row *r, const k_gemm_args *g, k_operand which, void *to);
/* Whether it would make the same of this operand of both products. */
bool k_gemm_packs_alike(const k_gemm_row *r, const k_gemm_args *g, const k_gemm_row *s, const k_gemm_args *h,
			k_operand which);
/* Whether the product, with so many threads, packs all of an operand before it computes: then k_gemm_pack
 * costs what that does, and of several products all but one save it.  Other operands are packed where they
 * are used, which takes less, or, large ones, piece by piece while caches have them. */
bool k_gemm_packs_first(const k_gemm_row *r, const k_gemm_args *g, k_operand which, int threads);
void k_gemm(pool *p, const k_gemm_row *r, const k_gemm_args *g, void *scratch);
/* Counts for a product that has been computed (C holds its results).  `lost` follows the rules of
 * K_FIXED where that is the precision, and is 0 otherwise.  Products of integers are not counted. */
void k_gemm_count(pool *p, uint32_t isa, const k_gemm_args *g, k_counts *counts);

/* ---- Elementwise chains ---------------------------------------------------------- */

/* A straight-line program over fp32 (or int32) registers, run on blocks of elements that stay
 * in the first-level cache.  Each operand is strided over a common index space of up to
 * EW_MAX_DIMS dims (stride 0 broadcasts; results may be written over an operand of the same
 * place and strides that no later instruction loads).  An instruction whose `round16` is set rounds
 * its result to fp16, so a chain has the bits of its single operations if all are set. */
#define EW_MAX_DIMS     6
#define EW_MAX_OPERANDS 24
#define EW_MAX_REGS     32

#define EW_MAX_INSTRS 160

/* ORDER EW: step_floats and step_ints in ewise_impl.h, and what follows from the order in ew_reads.
 * Comparisons give 1 or 0; SELECT takes b where a is not 0.  MAX, MIN and the reductions to them give NaN if
 * either side is NaN.  ADD_ALIGNED cuts off both operands below the 12 leading bits of the one with the
 * larger exponent, and adds what is left exactly.  FLOOR_DIV is floor(a / b), MOD has the sign of b; integers
 * divided by zero give 0.  ROUND goes to the nearest integer; a tie goes to the even one, with EW_AWAY away
 * from zero. */
/* clang-format off */
#define EW_OP_LIST(X)                                                              \
	X(LOAD) X(STORE) X(IMM)                                                    \
	X(ADD) X(SUB) X(MUL) X(DIV) X(FLOOR_DIV) X(MOD) X(POW) X(ADD_ALIGNED) X(MAX) X(MIN) \
	X(EQ) X(NE) X(LT) X(LE) X(GT) X(GE) X(SELECT)                              \
	X(MOV) X(ABS) X(NEG) X(SIGN) X(SQUARE) X(SQRT) X(RSQRT) X(INV) X(EXP) X(EXP2) X(LOG) \
	X(SIN) X(COS) X(ERF) X(FLOOR) X(CEIL) X(ROUND) X(RELU) X(LEAKY_RELU) X(ELU) X(CLIP) \
	X(SIGMOID) X(TANH) X(SILU) X(GELU) X(GELU_TANH) X(GELU_SIGMOID) X(SOFTPLUS) X(SOFTSIGN) \
	X(TRUNC)
/* clang-format on */
typedef enum ew_op {
#define X(n) EW_##n,
	EW_OP_LIST(X)
#undef X
	    EW_OP_COUNT
} ew_op;

/* How a result becomes fp16.  EW_AWAY is what Neural Engines do: half away from zero, first to 11
 * significant bits with any exponent, then, below 2^-14, to a multiple of 2^-24.  ADD, SUB, MUL and SQUARE of
 * fp16 values are rounded once, as if exact; of other instructions the fp32 result is rounded. */
typedef enum ew_rounding { EW_KEEP, EW_NEAREST_EVEN, EW_AWAY } ew_rounding;

/* Where an instruction on floats departs from IEEE 754.  Operands change for this instruction only. */
typedef enum ew_flag {
	EW_NAN_INF = 1, /* a NaN counts as +infinity as an operand */
	EW_NAN_ZERO =
	    2, /* a result that is NaN (infinity - infinity, 0 times infinity, a root of -1) is +0 */
	EW_ZERO_PLUS = 4, /* zeros have no sign: -0 counts as +0 as an operand and is +0 as a result */
} ew_flag;

typedef struct ew_instr {
	uint8_t op;      /* ew_op */
	uint8_t dst;     /* register; STORE: operand index */
	uint8_t a, b, c; /* registers (SELECT: a ? b : c); LOAD: a = operand index */
	uint8_t round16; /* ew_rounding */
	uint8_t flags;   /* of ew_flag */
	bool last;       /* STORE: nothing reads the register any more, so it need not be written */
	float imm,
	    imm2; /* IMM: the value; RSQRT, INV, LOG: epsilon; LEAKY_RELU, ELU: alpha; CLIP: alpha, beta */
	const struct ane_table *table; /* NULL, or where the function of an fp16 value is read (ane/tables.h);
					* an epsilon in fp16 is added before, rounded as by EW_AWAY */
} ew_instr;
int ew_reads(const ew_instr *x); /* how many of the registers a, b, c an instruction reads */

typedef struct ew_operand {
	void *data;
	k_type type; /* bool: 0/1 bytes; loads convert to fp32, stores round to nearest even
		      * (ints: toward zero, saturating) */
	int64_t stride[EW_MAX_DIMS];
} ew_operand;

typedef struct ew_program {
	int rank;
	int64_t dim[EW_MAX_DIMS];
	int ninstr, noperands, nregs;
	const ew_instr *instr;
	const ew_operand *operand;
	/* If they differ: what is at an index along dim `above` greater than that along dim `below` plus
	 * `shift` is not wanted.  Less of it is read, stores may write 0 there, and sums may leave it out:
	 * they want it to be 0.  K_SUM and K_MEAN only. */
	int above, below;
	int64_t shift; /* >= 0 */
	bool integer;  /* registers are int32 and instructions integer (ADD SUB MUL FLOOR_DIV MOD
			* comparisons SELECT MOV ABS SIGN SQUARE MAX MIN only) */
	/* NULL, or ninstr + 1 counters that are added to: what each instruction on floats did, but LOAD,
	 * STORE and IMM, and last what the reduction did:
	 * a result is lost if it is infinite or 0 though the sum was not.  Operands are those after ew_flag.
	 */
	k_counts *counts;
} ew_program;
void k_ewise(pool *p, uint32_t isa, const ew_program *prog);

/* Reduces register `reg` of a program, whose instructions (stores among them) run first, over the
 * dims in `mask`; dims are not 0.  `out` has strides over all dims, those of reduced dims are ignored.
 * fp32 accumulation in an order that depends on the dims alone.  MEAN divides the sum at the
 * end, L2 takes the root of the sum of squares; out's type rounds once.  Integer programs: SUM and
 * SUM_SQUARE wrap, MAX, MIN. */
typedef enum k_reduction { K_SUM, K_MEAN, K_MAX, K_MIN, K_SUM_SQUARE, K_L2 } k_reduction;
void k_reduce(pool *p, uint32_t isa, const ew_program *prog, int reg, k_reduction how, uint32_t mask,
	      const ew_operand *out);

/* Softmax of a strided array along dim `axis`: fp32 inside, maximum subtracted; terms below e^-87 are 0.  y
 * may be x.  below >= 0: elements whose index along `axis` is above that along dim `below` plus `shift` >= 0
 * count as -infinity, are not read and give 0. */
void k_softmax(pool *p, uint32_t isa, int rank, const int64_t *dim, int axis, int below, int64_t shift,
	       const ew_operand *x, const ew_operand *y);

/* ---- Random numbers ---------------------------------------------------------------- */

/* dst[i] = (float)(std * random_normal(seed, stream, i)), to the bit (base/random.h). */
void k_normal(pool *p, uint32_t isa, float *dst, uint64_t seed, uint64_t stream, double std, int64_t n);

/* ---- Training -------------------------------------------------------------------- */

/* Gathers columns: x[c][s] = table[token[s]][c], table fp32 [vocab][dim], x fp16 [dim][n]. */
void k_embed(pool *p, uint32_t isa, half *x, const float *table, const int32_t *token, int64_t dim,
	     int64_t n);
/* Scatters: dtable[token[s]][c] += scale * dx[c][s], in order of s for every row. */
void k_embed_grad(pool *p, uint32_t isa, float *dtable, const half *dx, const int32_t *token, int64_t dim,
		  int64_t n, float scale);

/* Cross-entropy over columns of fp16 logits [vocab][n]: *loss_sum is the sum over s of
 * -log softmax(logits[:,s])[target[s]] in nats (fp64, fixed order); target < 0 is skipped.
 * If grad_scale != 0, logits are replaced by grad_scale * (softmax - onehot), 0 for
 * skipped columns. column_loss[n] (may be NULL) gets each column's loss. */
void k_cross_entropy(pool *p, uint32_t isa, half *logits, const int32_t *target, int64_t vocab, int64_t n,
		     float grad_scale, double *loss_sum, float *column_loss, int64_t *counted);

/* Sum of squares in fp64 over fixed blocks; *finite is false if any value is not finite. */
double k_sum_squares(pool *p, uint32_t isa, const float *x, int64_t n, bool *finite);

/* AdamW (Loshchilov, Hutter 2019), one step over a block; g is multiplied by g_scale first.
 *   m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2
 *   w -= lr * ( (m / c1) / (sqrt(v / c2) + eps) + decay * w ),  c1 = 1-b1^t, c2 = 1-b2^t */
typedef struct k_adamw {
	float lr, beta1, beta2, eps, decay, c1, c2, g_scale;
} k_adamw;
void k_adamw_step(pool *p, uint32_t isa, const k_adamw *h, float *w, const float *g, float *m, float *v,
		  int64_t n);
/* The same on the caller's thread. */
void k_adamw_block(uint32_t isa, const k_adamw *h, float *w, const float *g, float *m, float *v, int64_t n);

#endif
