/* The structure behind anneal/mil.h, open to the layers below mil.
 *
 * What a program holds lives in its arena, except the arrays that grow with each operation;
 * passes build new functions instead of editing, so nothing is ever freed singly.  */
#ifndef MIL_IR_H
#define MIL_IR_H

#include "anneal/mil.h"
#include "base/base.h"

/* ORDER OP: enumerators in the order of ops.def. */
enum {
#define OP(id, ...) OP_##id,
#include "mil/ops.def"
#undef OP
	OP_COUNT
};

/* ---- Types ----------------------------------------------------------------------- */

/* More elements than any memory holds; below it sizes in bytes cannot overflow. */
#define MIL_MAX_COUNT ((int64_t)1 << 40)
/* Rank, dims and number of elements within bounds. */
bool mil_type_fits(const an_type *t);
an_dtype mil_dtype_find(const char *name, size_t len); /* AN_NO_DTYPE: none of that name */

/* ---- The op table --------------------------------------------------------------- */

/* What a parameter accepts.  Tensor kinds take bare scalars too. */
typedef enum param_kind {
	PK_FLOAT = 1 << 0, /* fp16 or fp32 */
	PK_INT = 1 << 1,   /* int8..int32, uint8..uint32 */
	PK_BOOL = 1 << 2,
	PK_STRING = 1 << 3,
	PK_ANY = PK_FLOAT | PK_INT | PK_BOOL,
	PK_CONST = 1 << 4,    /* must be a compile-time constant */
	PK_LIST = 1 << 5,     /* (a, b, c): one or more values */
	PK_ATTR = 1 << 6,     /* given as an attribute in the brackets, not in the parentheses */
	PK_OPTIONAL = 1 << 7, /* may be absent (default NULL: no value at all) */
	PK_SAME = 1 << 8      /* dtype must equal that of the first PK_SAME parameter */
} param_kind;

typedef struct op_param {
	const char *name;
	uint16_t kind;
	const char *fallback; /* default as text ("false", "-1", "valid"; strings without quotes) or NULL */
} op_param;

/* How the op's result values depend on its operands; drives fusion and grad's choices. */
typedef enum op_class {
	OC_CONST,    /* const, constexpr_* */
	OC_UNARY,    /* elementwise, one operand x */
	OC_BINARY,   /* elementwise with broadcasting, operands x and y */
	OC_SELECT,   /* elementwise, three operands */
	OC_REDUCE,   /* over `axes` */
	OC_VIEW,     /* only moves elements: reshape, transpose, slice, concat, split ... */
	OC_CONTRACT, /* matmul, linear, conv */
	OC_OTHER
} op_class;

typedef struct mil_op mil_op;
struct mil_infer; /* mil/infer.h */
/* Writes the types of all results of the operation, or says what is wrong (infer_fail). */
typedef an_status (*op_infer)(struct mil_infer *in);

#define OP_MAX_PARAMS 10
typedef struct op_row {
	const char *name;
	uint8_t opset; /* first opset that has it: 15 means ios15 */
	uint8_t cls;   /* op_class */
	op_infer infer;
	const char *summary;           /* one line for `anneal ops` and the docs */
	op_param param[OP_MAX_PARAMS]; /* ends at name == NULL */
} op_row;
extern const op_row op_table[OP_COUNT];
/* Index of a parameter of `op` by name, or -1. */
int op_param_index(int op, const char *name);
/* Whether a value of this type is of one of the kinds (PK_FLOAT .. PK_STRING bits). */
bool op_kind_takes(unsigned kinds, an_dtype t);

/* ---- Literals ------------------------------------------------------------------- */

/* A constant's value: inline bytes, strings, or a place in a blob file.  Exact bits. */
typedef struct mil_literal {
	an_type type;
	enum { LIT_BYTES, LIT_STRINGS, LIT_BLOB } kind;
	const void *bytes;    /* LIT_BYTES: an_type_bytes() of them, little endian, bool one byte.
			       * LIT_BLOB: the values when they live in memory or were loaded
			       * (program_load_blobs), else NULL */
	const char **strings; /* LIT_STRINGS: an_type_count() of them */
	const char *path;     /* LIT_BLOB: "@model_path/weights/w.bin" */
	uint64_t offset;      /* LIT_BLOB: byte offset of the metadata record */
} mil_literal;

/* Numbers as text (number.c).  Decimal, hexadecimal, inf and nan, with a sign; independent of
 * the locale.  false: not a number. */
bool mil_parse_double(const char *text, size_t len, double *out);
/* Stores a number as an element of type `t`, rounded once to nearest even. */
typedef enum mil_number { NUMBER_OK, NUMBER_MALFORMED, NUMBER_NOT_INTEGER, NUMBER_OUT_OF_RANGE } mil_number;
mil_number mil_parse_number(const char *text, size_t len, an_dtype t, void *out);
/* The text that mil_parse_number turns back into the same bits. */
void mil_print_number(str *s, an_dtype t, const void *element);
/* Stores a double as an element of type `t` (integers: truncated, clamped). */
void mil_store_double(an_dtype t, double v, void *out);

/* ---- Functions ------------------------------------------------------------------ */

typedef struct mil_value {
	const char *name;
	an_type type;
	int32_t op;     /* index of the defining op, -1 for a function input */
	int32_t result; /* which result of that op; which input of the function */
} mil_value;

typedef struct mil_use { /* the argument for one parameter */
	uint32_t n;      /* 0: absent */
	bool list;       /* written in parentheses */
	an_value *v;
} mil_use;

typedef struct mil_attr {
	const char *key;
	mil_literal lit;
} mil_attr;

struct mil_op {
	uint16_t op;
	uint16_t nresults;
	uint32_t nattrs;
	int32_t line, column;       /* in the source; 0 when built */
	const char *name;           /* the name attribute; may differ from the results' names */
	mil_use arg[OP_MAX_PARAMS]; /* by parameter index; unused entries are zero */
	an_value *results;
	mil_attr *attrs; /* all attributes but name: `val` of const, those of constexpr_* */
};

struct an_function {
	an_program *program;
	const char *name;
	uint8_t opset; /* 15..18, 26 */
	mil_value *values;
	size_t nvalues, values_cap;
	mil_op *ops;
	size_t nops, ops_cap;
	an_value *inputs;
	size_t ninputs, inputs_cap;
	an_value *outputs;
	size_t noutputs, outputs_cap;
	uint8_t *roles;
	size_t roles_cap; /* an_role by input index */
	struct mil_table {
		uint32_t *slot;
		size_t cap, n;
	} names, consts; /* hash tables of value + 1:
			  * all values by name; constants by content, for sharing */
	uint32_t fresh;  /* next number for a generated name */
};

typedef struct mil_pair {
	const char *key, *value;
} mil_pair;

struct an_program {
	an_ctx *ctx;
	arena arena;                      /* everything below and all functions' contents */
	int version_major, version_minor; /* 1.3 or 1.0 */
	mil_pair *info;
	size_t ninfo; /* buildInfo */
	an_function **functions;
	size_t nfunctions, functions_cap;
	const char *file; /* name used in diagnostics; NULL when built */
	const char *source;
	size_t source_len;      /* text kept for carets; NULL when built */
	const char *model_path; /* folder that "@model_path" stands for; NULL: blobs in memory only */
	struct blob_set *blobs; /* open blob files (mil/blob.h) */
	bool lenient_blobs;     /* accept the malformed records in circulation (blob_read) */
};

/* What is wrong with an operation: the parameter to blame (-1: the operation itself). */
typedef struct mil_problem {
	an_status status; /* AN_TYPE or AN_UNSUPPORTED */
	int param;
	char text[480];
} mil_problem;
/* Checks an operation's arguments against its row and infers its result types into out
 * (op->nresults of them).  The context's message is left alone. */
an_status op_check(const an_function *f, const mil_op *op, an_type *out, mil_problem *problem);

/* The attribute of that key, or NULL. */
const mil_literal *op_attr(const mil_op *op, const char *key);

/* Pointers from these are good until the function grows. */
static inline const mil_value *fn_value(const an_function *f, an_value v) { return &f->values[v]; }
/* The op that defines v; NULL for an input. */
static inline const mil_op *fn_def(const an_function *f, an_value v)
{
	int32_t op = f->values[v].op;
	return op < 0 ? NULL : &f->ops[op];
}
/* The single value bound to parameter index `p`, AN_NO_VALUE if absent. */
static inline an_value op_arg(const mil_op *op, int p)
{
	return op->arg[p].n ? op->arg[p].v[0] : AN_NO_VALUE;
}

/* ---- Arguments as constants ------------------------------------------------------ */

/* Whether v is a compile-time constant: defined by `const` or a constexpr operation. */
bool fn_is_const(const an_function *f, an_value v);
/* The literal of a value defined by `const` whose bytes or strings are there; else NULL (a
 * blob has them once it was loaded). */
const mil_literal *fn_const(const an_function *f, an_value v);
/* Compile-time arguments by parameter name, the row's default where the argument is
 * absent.  fn_arg_ints returns the count (a scalar counts as 1); negative if the argument is
 * absent without a default, is not constant, is not loaded, or has more than `max` elements. */
int fn_arg_ints(const an_function *f, const mil_op *op, const char *param, int32_t *out, int max);
int32_t fn_arg_int(const an_function *f, const mil_op *op, const char *param);
bool fn_arg_bool(const an_function *f, const mil_op *op, const char *param);
double fn_arg_float(const an_function *f, const mil_op *op, const char *param);
const char *fn_arg_string(const an_function *f, const mil_op *op, const char *param);
an_value fn_arg_value(const an_function *f, const mil_op *op, const char *param);
/* Element i of a literal as double (floats and ints). */
double lit_number(const mil_literal *l, int64_t i);
/* A hash of its type and values (which are there). */
uint64_t lit_hash(const mil_literal *l);
/* Makes sure that every LIT_BLOB literal of the program has bytes: opens and checks the
 * files (see lenient_blobs), converts nothing.  The bytes live as long as the program. */
an_status program_load_blobs(an_program *p);
/* an_program_write as dir/model.mil, without the table of parameters: what Apple's compiler reads.  A folder
 * of passing: its files are not flushed to disk. */
an_status program_write_model(const an_program *p, const char *dir);

/* ---- Normalised views of ops' parameters, shared by infer, grad and the devices --- */

/* slice_by_index and slice_by_size as one: per axis begin, count and step (may be negative). */
typedef struct slice_spec {
	int32_t begin[AN_MAX_RANK], count[AN_MAX_RANK], step[AN_MAX_RANK];
	bool squeeze[AN_MAX_RANK];
} slice_spec;
an_status op_slice_spec(const an_function *f, const mil_op *op, slice_spec *out);
/* Bit i set: axis i is reduced (negative axes resolved; absent axes: all). */
an_status op_reduce_axes(const an_function *f, const mil_op *op, uint32_t *mask, bool *keep);
/* matmul (also linear): M, N, K and the flags. Batch dims are those before the last two. */
typedef struct matmul_spec {
	int32_t m, n, k;
	bool tx, ty;
	an_value x, y, bias;
} matmul_spec;
an_status op_matmul_spec(const an_function *f, const mil_op *op, matmul_spec *out);
/* 1-D or 2-D convolution with everything resolved (pad_type too); 1-D has kh = h = 1. */
typedef struct conv_spec {
	int32_t batch, in_ch, out_ch, h, w, oh, ow, kh, kw, groups;
	int32_t stride[2], dilation[2], pad[4]; /* top, bottom, left, right */
	an_value x, weight, bias;
} conv_spec;
an_status op_conv_spec(const an_function *f, const mil_op *op, conv_spec *out);
/* FLOPs of an op: 2*M*N*K for contractions (all batches), 0 for everything else. */
int64_t op_flops(const an_function *f, const mil_op *op);

/* ---- Editing -------------------------------------------------------------------- */

/* Appends a fully formed op (`args` has OP_MAX_PARAMS entries or is NULL; arguments and attributes are copied
 * into the arena), checks it, infers its result types and gives the results the names `names[i]`
 * (NULL: generated).  `name` is the name attribute (NULL: that of the first result); names and
 * results may be NULL. */
an_status fn_append(an_function *f, int op, const char *name, const mil_use *args, const mil_attr *attrs,
		    int nattrs, const char *const *names, int nresults, an_value *results);
/* The unchecked part of it: `op` (its arrays already in the arena) defines values of these
 * types; names are identifiers that are free. */
an_status fn_push(an_function *f, mil_op *op, const an_type *types, const char *const *names);
an_status fn_append_input(an_function *f, const char *name, an_type type, an_role role, an_value *out);
an_value fn_add_input(an_function *f, const char *name, an_type type, an_role role); /* AN_NO_VALUE: failed */
an_status fn_add_output(an_function *f, an_value v);
/* Renames a value.  AN_USAGE if the name is taken by another. */
an_status fn_rename(an_function *f, an_value v, const char *name);
/* A name not used in f: `want` (what no identifier may contain becomes '_') or want_N.  In the
 * arena; NULL when memory is out. */
const char *fn_fresh_name(an_function *f, const char *want);
/* Whether `name` is an identifier of MIL: [A-Za-z_][A-Za-z0-9_@]*. */
bool mil_is_identifier(const char *name);
/* A const op for a literal (copied).  `share`: an equal one that is there is used again, and the
 * name is a wish (fn_fresh_name; NULL: "const"); otherwise the name must be free.  fn_add_const
 * shares if it gets no name. */
an_status fn_append_const(an_function *f, const char *name, bool share, const mil_literal *lit,
			  an_value *out);
an_value fn_add_const(an_function *f, const char *name, const mil_literal *lit); /* AN_NO_VALUE: failed */
/* Copies op `src` of function `from` into `f`, mapping its values by map[] (indexed by value
 * of `from`), keeping names where free; sets map[] for its results. */
an_status fn_copy_op(an_function *f, const an_function *from, const mil_op *src, an_value *map);
/* Copies one function (into the same or another program of the same context). */
an_status fn_clone(an_program *to, const an_function *from, const char *name, an_function **out);
/* Takes a function out of its program and frees what grows with it; NULL is fine. */
void fn_discard(an_function *f);
/* Verifies one function; diagnostics as an_program_verify. */
an_status fn_verify(const an_function *f);

#endif
