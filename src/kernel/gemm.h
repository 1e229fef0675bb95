/* Matrix multiplication: a table of kernels and one loop nest around them.
 *
 * The structure is that of BLIS (Van Zee, van de Geijn 2015): operands are packed into panels,
 * a micro-kernel multiplies one panel of A by one panel of B into a small tile of C, loops
 * around it keep panels in the caches.  Packing converts types and takes any strides, so a
 * kernel sees one layout and one type.  Everything that differs between instruction sets
 * is in a row; gemm.c knows no instruction set. */
#ifndef KERNEL_GEMM_H
#define KERNEL_GEMM_H

#include "kernel/kernel.h"

/* Packs `count` vectors of length k into a panel for `width` >= count of them; what is missing, and
 * k up to a multiple of the row's kr, is zero.  Element e of vector v is src[v * sv + e * se]. */
typedef void gemm_pack_fn(void *panel, const void *src, k_type type, int64_t sv, int64_t se, int count,
			  int k);

/* Rows of K_FIXED see all of K at once; with `add`, c holds where the sums start.
 *
 * Rows of integers: c is an int32_t *.
 *
 * c[i][j] (+)= sum over k of a[i][k] b[k][j] for i < m <= mr, j < n <= nr; row i of c starts at c + i * ldc.
 * k is a multiple of kr and may be less than the panels have, or 0, where they may hold anything. */
typedef void gemm_kernel_fn(int k, const void *a, const void *b, float *c, int64_t ldc, int m, int n,
			    bool add);

/* The same, where the sums become fp16: they go to out, row i to out + i * ldo, rounded to nearest even,
 * after c was added. */
typedef void gemm_half_fn(int k, const void *a, const void *b, const float *c, int64_t ldc, int m, int n,
			  bool add, half *out, int64_t ldo);

/* y[i] = sum over k of a[i * rs + k * cs] x[k] for i < m; x is fp32, or what the row's pack_a makes of one
 * vector.  Rows of K_FIXED with `add`: y holds where the sums start. */
typedef void gemm_vector_fn(float *y, const void *a, k_type type, int64_t rs, int64_t cs, int m, int64_t k,
			    const void *x, bool add);

struct k_gemm_row {
	const char *name;
	uint32_t isa;       /* all of these are needed */
	unsigned precision; /* bit k_precision: this row keeps what that one promises */
	bool f16_only;      /* both operands are K_F16; otherwise each is K_F16 or K_F32 */
	bool integer;       /* each operand is K_I8 or K_U8, C is K_I32; gemm_int.h has the rules */
	int mr, nr, kr;     /* tile; K is padded to a multiple of kr */
	int element;        /* bytes per element of a panel */
	int element_a;      /* of A's if they differ, else 0 */
	/* Bytes of a panel before its elements, and after them.  Kernels may get a part of a panel's k: rows
	 * with a head one that starts where the panel does, rows with a trailer all of it. */
	int head, trailer;
	/* Blocks: kc x nr of B (or mr x kc of A) in the first-level cache, kc x nc of B and
	 * mc x kc of A in the second. */
	int mc, kc, nc;
	bool follows; /* the processors that get this row follow a panel by themselves: none is asked for */
	gemm_pack_fn *pack_a, *pack_b;
	gemm_kernel_fn *kernel;
	gemm_half_fn *kernel_half;         /* may be NULL: rounding is a pass of its own */
	void (*begin)(void), (*end)(void); /* around a thread's use of `kernel`; may be NULL */
	/* Rows with this one take products with at most GEMM_VECTORS columns and use nothing above but mc,
	 * and pack_a with what describes its panel: the matrix is read once, unpacked. */
	gemm_vector_fn *vector;
};

/* Columns (or rows) up to which a product is bound by reading the other operand. */
#define GEMM_VECTORS 4
/* Rows of a matrix from this length on are multiplied one after the other, in the order of memory, and
 * memory this many bytes ahead is asked for: 2 to 8 KB measured the same, on a Zen 5 8 KB 6% faster than 4,
 * 16 slower where weights come from memory. */
#define GEMM_LONG_ROW 256
#define GEMM_AHEAD    8192

extern const struct k_gemm_row gemm_table[];
extern const int gemm_table_size;

/* Elements from x's data to its matrix of batch `batch`, the batch dims in row-major order. */
int64_t gemm_batch_offset(const k_gemm_args *g, const k_matrix *x, int64_t batch);

/* The kernels, by file. */

gemm_pack_fn pack_f32_portable_a, pack_f32_portable_b;
gemm_kernel_fn gemm_f32_portable;
gemm_vector_fn gemm_vector_portable;

gemm_pack_fn pack_f32_avx2_a, pack_f32_avx2_b;
gemm_kernel_fn gemm_f32_avx2;
gemm_vector_fn gemm_vector_avx2;

gemm_pack_fn pack_f32_avx512_a, pack_f32_avx512_b;
gemm_kernel_fn gemm_f32_avx512;
gemm_half_fn gemm_f32_avx512_half;
gemm_vector_fn gemm_vector_avx512;

gemm_pack_fn pack_bf16_avx512_a, pack_bf16_avx512_b;
gemm_kernel_fn gemm_bf16_avx512;
gemm_half_fn gemm_bf16_avx512_half;

gemm_pack_fn pack_f16_avx512_a, pack_f16_avx512_b;
gemm_kernel_fn gemm_f16_avx512;

gemm_pack_fn pack_f32_neon_a, pack_f32_neon_b;
gemm_kernel_fn gemm_f32_neon;
gemm_vector_fn gemm_vector_neon;

gemm_pack_fn pack_bf16_neon_a, pack_bf16_neon_b;
gemm_kernel_fn gemm_bf16_neon;

gemm_pack_fn pack_fixed_portable_a, pack_fixed_portable_b;
gemm_kernel_fn gemm_fixed_portable;

gemm_pack_fn pack_fixed_avx2_a, pack_fixed_avx2_b, pack_fixed_vector_avx2;
gemm_kernel_fn gemm_fixed_avx2;
gemm_vector_fn gemm_fixed_vector_avx2;

gemm_pack_fn pack_fixed_avx512_a, pack_fixed_avx512_b, pack_fixed_vector_avx512;
gemm_kernel_fn gemm_fixed_avx512;
gemm_vector_fn gemm_fixed_vector_avx512;

gemm_pack_fn pack_int_portable_a, pack_int_portable_b;
gemm_kernel_fn gemm_int_portable;

gemm_pack_fn pack_int_avx2_a, pack_int_avx2_b;
gemm_kernel_fn gemm_int_avx2;

gemm_pack_fn pack_int_amx_a, pack_int_amx_b;
gemm_kernel_fn gemm_int_amx;

gemm_pack_fn pack_int_avx512vnni_a, pack_int_avx512vnni_b;
gemm_kernel_fn gemm_int_avx512vnni;
gemm_pack_fn pack_fixed_neon_a, pack_fixed_neon_b, pack_fixed_vector_neon;
gemm_kernel_fn gemm_fixed_neon;
gemm_vector_fn gemm_fixed_vector_neon;

gemm_pack_fn pack_int_neondot_a, pack_int_neondot_b;
gemm_kernel_fn gemm_int_neondot;

gemm_pack_fn pack_int_neoni8mm_a, pack_int_neoni8mm_b;
gemm_kernel_fn gemm_int_neoni8mm;

gemm_pack_fn pack_amx_a, pack_amx_b, pack_amx_split_a, pack_amx_split_b;
gemm_pack_fn pack_amx_f16_a, pack_amx_f16_b;
gemm_kernel_fn gemm_amx, gemm_amx_split, gemm_amx_split3, gemm_amx_f16;
void gemm_amx_begin(void), gemm_amx_end(void);

#endif
