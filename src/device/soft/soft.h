/* The software Neural Engine: one MIL function becomes a flat list of kernel calls.
 *
 *   lower.c  MIL operations -> nodes, each of which one kernel can run; composite operations
 *            fall apart into several, views stay views
 *   node.c   the vocabulary of nodes
 *   winograd.c  3x3 convolutions as M5 does them
 *   triangle.c  what masks throw away need not be computed ("fast")
 *   place.c  every value gets its place in memory; views are expressed by strides, what is
 *            concatenated or returned is computed where it belongs, the rest is copied
 *   fuse.c   chains of elementwise nodes, and the reductions they end in, become one group
 *   code.c   the instructions of a group
 *   emit.c   groups -> kernel calls
 *   loop.c   calls that go through the same heads become a loop over heads
 *   band.c   of these, calls that go through the same rows do so band by band
 *   axis.c   how calls go through their operands, for both
 *   private.c what threads have for themselves in a loop
 *   share.c  an operand that several products read is packed once for all of them
 *   plan.c   offsets of everything that lives only during a call, in one block
 *   run.c    addresses are filled in, kernels run
 *   packed.c weights are kept as products read them
 *   dump.c   the list as text
 *
 * soft.c shows the order.  Numerics are a row of ane/numerics.def: stages ask for its choices, none knows
 * a profile by name. */
#ifndef DEVICE_SOFT_SOFT_H
#define DEVICE_SOFT_SOFT_H

#include "ane/tables.h"
#include "device/device.h"
#include "kernel/kernel.h"

#include <assert.h>

/* ---- The lowered function --------------------------------------------------------- */

/* One more than MIL's highest rank, so that a window or a repetition is a view. */
enum { SOFT_RANK = EW_MAX_DIMS };

/* Where a value's element [0,0,...] is, and how far apart its elements are along each axis.
 * Strides and offset count elements of the value's type. */
typedef struct soft_place {
	int storage; /* -1: not placed */
	int64_t offset;
	int64_t stride[SOFT_RANK];
} soft_place;

typedef enum storage_kind { STORE_PORT, STORE_SCRATCH, STORE_CONST } storage_kind;

/* A piece of memory: what is bound to a port, or a range of the scratch or constant block. */
typedef struct soft_storage {
	storage_kind kind;
	int port; /* STORE_PORT: index among inputs, then outputs */
	int64_t bytes;
	int64_t offset;  /* in its block, bytes; set by plan.c */
	int first, last; /* first and last kernel call that touches it; -1: none */
} soft_storage;

/* The elements of a value whose index along one axis is above that along another; none if the axes are one.
 */
typedef struct soft_half {
	int8_t above, below;
} soft_half;

typedef struct soft_value {
	const char *name;  /* MIL's, for dumps; NULL: not a value of the function */
	const void *bytes; /* a literal's; NULL otherwise */
	k_type type;
	int rank;
	int64_t dim[SOFT_RANK];
	int def;                /* the node that computes it, -1: port or literal */
	int root;               /* the value of whose memory this one is a view; set by place.c */
	int nwriters, *writers; /* of a root: nodes that write it; set by fuse.c */
	bool constant;          /* known at compile time */
	bool port;              /* an input */
	soft_half zero;         /* known to be 0 */
	soft_half masked;       /* 0 after a softmax along `above` */
	soft_half unneeded;     /* may be left out */
	soft_place at;
	soft_place wish; /* where it should be, if it has to be copied anyway */
} soft_value;

/* Axis i of a view steps through axis `axis[i]` of its operand (-1: none, the element is
 * repeated) `step[i]` elements at a time, from element begin[] of the operand. */
typedef struct soft_view {
	int8_t axis[SOFT_RANK];
	int64_t step[SOFT_RANK];
	int64_t begin[SOFT_RANK]; /* by axis of the operand */
} soft_view;

typedef enum node_kind {
	NODE_EW,      /* one instruction; operands broadcast as in NumPy */
	NODE_REDUCE,  /* over the axes in mask; the result keeps them as 1 */
	NODE_GEMM,    /* [batch, m, k] x [batch, k, n], batch axes broadcast; with in[2], + that */
	NODE_SOFTMAX, /* along one axis */
	NODE_ARG,     /* index of the largest or smallest along one axis, int32 */
	NODE_COPY,    /* in[0] to out, which is a view defined before if `into` */
	NODE_VIEW,    /* soft_view */
	NODE_RESHAPE, /* the same elements in row-major order */
	NODE_CONCAT   /* its parts are views of the result, in[0] of those defined by part[] */
} node_kind;

typedef struct soft_node {
	node_kind kind;
	int op; /* index of the MIL operation it comes from */
	int nin, out;
	int *in;
	union {
		struct {
			uint8_t op;
			bool integer;
			uint8_t round16; /* ew_rounding */
			uint8_t flags;   /* of ew_flag */
			float imm, imm2;
			const ane_table *table; /* NULL: computed */
		} ew;
		struct {
			k_reduction how;
			uint32_t mask;
			bool integer;
		} reduce;
		struct {
			int axis;
			bool min;
		} along; /* SOFTMAX, ARG */
		struct {
			bool into;
		} copy;
		soft_view view;
		struct {
			int axis;
			bool interleave;
		} concat;
	} u;
	/* fuse.c: */
	int nbefore, *before; /* nodes that must run before this one */
	int nafter, *after;   /* nodes that must run after it */
	int group;            /* its first node; -1: a CONCAT, which is no work */
	int next;             /* next node of its group, ascending; -1: last */
} soft_node;

/* Operands, instructions and registers of a group of elementwise nodes that may end in a
 * reduction; code.c. */
enum { CODE_INSTRS = EW_MAX_INSTRS };
typedef struct soft_code {
	int rank; /* the index space: every node's, cut into common factors, without axes of 1 */
	int64_t dim[SOFT_RANK];
	int ninstr, noperands, nregs;
	ew_instr instr[CODE_INSTRS];
	int op[CODE_INSTRS]; /* MIL operation of each */
	struct {
		int value; /* what is loaded or stored */
		bool store;
		int64_t stride[SOFT_RANK];
	} operand[EW_MAX_OPERANDS];
	bool integer;
	int reduce;     /* the REDUCE node, -1: none */
	int reg;        /* the register it reduces */
	uint32_t mask;  /* axes of the index space that it reduces */
	soft_half half; /* of the index space: what no result needs, or is 0 */
	int64_t out_stride[SOFT_RANK];
} soft_code;

/* ---- Kernel calls ----------------------------------------------------------------- */

/* A place in memory that is known at run time: a port, or one of the blocks. */
typedef struct soft_ref {
	int base;       /* port index, or one of the two below counted from the number of ports */
	int64_t offset; /* bytes */
} soft_ref;
enum { BASE_SCRATCH, BASE_CONST, BASE_BLOCKS };

typedef enum call_kind {
	CALL_EWISE,
	CALL_REDUCE,
	CALL_GEMM,
	CALL_PACK, /* an operand of products */
	CALL_SOFTMAX,
	CALL_ARG,
	CALL_COPY,
	CALL_LOOP /* of calls without their own ref and storage */
} call_kind;

/* In an iteration of a loop: calls that go band by band through an axis that they share. */
typedef struct soft_band {
	int calls;             /* of the first of them: how many follow each other in each band; else 0 */
	int axis;              /* as in loop.h */
	int64_t length, width; /* of the axis; of a band, 0: the call is in no section */
} soft_band;

typedef struct soft_call {
	call_kind kind;
	int op;                    /* MIL operation of its last node */
	int nodes;                 /* how many nodes it does */
	int64_t flops;             /* contractions: 2*M*N*K */
	int64_t bytes;             /* read and written at least once */
	int64_t nanoseconds, runs; /* timed; of calls in a loop those of all threads together */
	soft_band band;
	const char *text; /* for profiles; NULL: not asked for yet */
	int nrefs;
	soft_ref *ref; /* of each operand in turn, the result last; GEMM: a, b, c, bias if any, scratch,
			* packed operands */
	int *storage;  /* of each ref */
	union {
		struct { /* EWISE, REDUCE: ref[i] belongs to operand[i]; REDUCE: out after them */
			ew_program prog;
			ew_operand *operand, out;
			int *op; /* MIL operation of each instruction; REDUCE: one more */
			k_reduction how;
			uint32_t mask;
			int reg;
		} ew;
		struct { /* GEMM; PACK: of one that reads it */
			k_gemm_args args;
			const k_gemm_row *row;
			size_t form_bytes[2]; /* A, B: packed; 0: cannot be kept so */
			int packed[2];        /* A, B: the ref to what a PACK made of it; 0: none did */
			k_operand which;      /* PACK */
			bool biased;
			bool alone;   /* in a loop: its scratch is for one thread */
			int64_t kept; /* bytes at the start of scratch for the operand of all bands, packed,
				       * or, if they are of K, for the sums */
		} gemm;
		struct { /* SOFTMAX, ARG, COPY */
			int rank, axis;
			int64_t dim[SOFT_RANK];
			ew_operand x, y;
			bool min;
			int below; /* SOFTMAX: k_softmax's */
		} copy;
		struct {               /* ref: those of call[0], then of call[1] ... in iteration 0 */
			int64_t count; /* iterations, in any order, each on one thread */
			int n;
			struct soft_call *call;
			int64_t *step;      /* by ref: bytes from one iteration to the next, or, */
			bool *by_worker;    /* where this is true, from one thread to the next */
			int64_t *every;     /* by ref: so many iterations have the same */
			int64_t *band_step; /* by ref: bytes from one band to the next */
		} loop;
	} u;
} soft_call;

/* The memory behind a buffer and its views. */
typedef struct soft_form soft_form; /* packed.c */
typedef struct soft_memory {
	void *data;
	int64_t version; /* rises whenever it may have changed */
	bool keep;       /* it is kept packed */
	soft_form *forms;
} soft_memory;

/* What an executable keeps; everything but the constants is in its arena. */
typedef struct soft_exe {
	an_device *device;
	int nports;
	int ncalls, nearly; /* the first `nearly` calls were run when compiling ended */
	soft_call *call;
	size_t scratch;      /* bytes needed while running */
	size_t values_bytes; /* bytes that what is in scratch would take side by side */
	void *constants;
	size_t constants_size;
	void **base;        /* nports + BASE_BLOCKS addresses, filled in by run.c */
	soft_memory **kept; /* by base: memory that is read and kept packed, else NULL; set by run.c */
	/* kept for dumps and checks */
	int nstorages;
	soft_storage *storage;
	const char **op_text; /* "matmul scores" by MIL operation */
} soft_exe;

typedef struct soft_device {
	ane_numerics numerics;
	void *scratch;
	size_t scratch_size; /* shared: calls run one after the other */
	void *stage;
	size_t stage_size;  /* outputs that are bound over inputs */
	bool no_fusion;     /* for tests: every node is its own call */
	int64_t loop_flops; /* an iteration of a loop is worth its calls from so many FLOPs on; tests set 0 */
	int64_t band_bytes; /* what calls in a loop share is cut into bands of so many bytes, ... */
	int64_t band_unit;  /* ... a multiple of so many rows; tests set both as low as they like */
	an_status status;   /* of the last run */
} soft_device;

/* The lowered function while it is compiled; all of it lives in `tmp`. */
typedef struct soft_fn {
	an_ctx *ctx;
	soft_device *dev;
	const ane_numerics *numerics;
	const an_function *f;
	arena *tmp;
	int op;         /* MIL operation being lowered */
	bool oom;       /* memory ran out while nodes were added, or ... */
	bool too_large; /* ... a value could not be in any memory */
	int *map;       /* MIL value -> soft value, -1: not there */
	soft_value *values;
	size_t nvalues, values_cap;
	soft_node *nodes;
	size_t nnodes, nodes_cap;
	soft_storage *storages;
	size_t nstorages, storages_cap;
	int *outputs; /* soft value of each output of f */
	int *order;
	int norder; /* fuse.c: groups' first nodes in the order of execution */
} soft_fn;

/* node.c */
int64_t soft_elements(const soft_value *v);
/* lower.c */
bool soft_supports(an_device *d, const an_function *f, const mil_op *op, const char **rule);
an_status soft_lower(soft_fn *s);
/* winograd.c: whether a convolution of this type is computed so; its nodes, for x[batch][in_ch][oh + 2][ow +
 * 2], padded and with one more column if ow is odd, and a bias of [1][groups][out_ch / groups][1] or -1. */
bool soft_is_winograd(const soft_fn *s, const conv_spec *c, k_type type);
int soft_add_winograd(soft_fn *s, const conv_spec *c, int x, int w, int bias);
/* triangle.c */
an_status soft_find_triangles(soft_fn *s);
/* place.c */
an_status soft_place_values(soft_fn *s);
an_status soft_add_storage(soft_fn *s, storage_kind kind, int port, int64_t bytes, int *out);
/* code.c */
bool soft_fusable(const soft_node *n);
/* The program of the nodes from `first` on through next, which count as one group.  false: they
 * do not fit together, or need more registers or operands than there are. */
bool soft_group_code(const soft_fn *s, int first, soft_code *code);
/* fuse.c */
an_status soft_fuse(soft_fn *s);
/* emit.c */
an_status soft_emit(soft_fn *s, soft_exe *e, arena *a);
void soft_add_ref(soft_call *c, int storage, int64_t bytes);
/* Sets the sizes that follow from how a top-level product is computed: of its scratch, and of operands that
 * may be kept packed.  To be called again when its args or `packed` have changed. */
void soft_size_gemm(soft_fn *s, soft_call *c);
/* loop.c */
an_status soft_loop(soft_fn *s, soft_exe *e, arena *a);
/* share.c */
an_status soft_share(soft_fn *s, soft_exe *e, arena *a);
/* plan.c */
/* Bytes up to a whole number of cache lines, which are as long as the widest vector. */
static inline int64_t soft_aligned(int64_t n) { return (n + 63) / 64 * 64; }
an_status soft_plan(soft_fn *s, soft_exe *e, arena *a);
/* Gives n ranges with `bytes`, `first` and `last` their offsets in a block of *end bytes; side by side they
 * would take *sum.  Sorts `range`. */
an_status soft_place_ranges(soft_fn *s, soft_storage **range, int n, int64_t *end, int64_t *sum);
/* run.c */
/* Calls [first, end); counts, by operation, may be NULL. */
void soft_run(an_device *d, soft_exe *e, int first, int end, an_counts *counts);
an_status soft_submit(an_call *c);
an_status soft_wait(an_call *c);
an_status soft_reserve(an_device *d, void **block, size_t *have, size_t want);
/* packed.c */
/* Bytes that an operand takes as it is packed; 0: keeping it so does not pay. */
size_t soft_form_bytes(const k_gemm_row *row, const k_gemm_args *g, k_operand which);
/* What c multiplies, K_A or K_B, which is at `at` in m, as it is kept; NULL: it is packed as ever. */
const void *soft_packed(an_device *d, soft_memory *m, const soft_call *c, k_operand which, void *at);
void soft_drop_forms(an_device *d, soft_memory *m);
size_t soft_packed_bytes(const an_executable *x, int port);
/* soft.c */
void *soft_data(const an_buffer *b);
/* dump.c */
an_status soft_dump(const an_executable *e, str *out);
int soft_kernels(const an_executable *e);
an_status soft_kernel(an_executable *e, int i, an_kernel *out);
void soft_reset_times(an_executable *e);

#endif
