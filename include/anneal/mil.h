/* MIL, the one intermediate representation: programs, functions, operations, values.
 *
 * A model builds MIL, autodiff turns MIL into MIL, passes rewrite it, devices compile it,
 * and it prints as the text that Apple's compiler reads.  A value is an index into its
 * function.  Operations stand in execution order; every value is defined before it is
 * used (SSA).  */
#ifndef ANNEAL_MIL_H
#define ANNEAL_MIL_H

#include "anneal/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Types ---------------------------------------------------------------------- */

/* Element types: enumerator, MIL's name, bytes per element (0: not storable), and the
 * dtype number in blob files (coremltools MILBlob StorageFormat.hpp; 0: none). */
#define AN_DTYPE_LIST(X)           \
	X(FP16, "fp16", 2, 1)      \
	X(FP32, "fp32", 4, 2)      \
	X(BF16, "bf16", 2, 5)      \
	X(INT8, "int8", 1, 4)      \
	X(UINT8, "uint8", 1, 3)    \
	X(INT16, "int16", 2, 6)    \
	X(UINT16, "uint16", 2, 7)  \
	X(INT32, "int32", 4, 14)   \
	X(UINT32, "uint32", 4, 15) \
	X(INT64, "int64", 8, 0)    \
	X(UINT64, "uint64", 8, 0)  \
	X(BOOL, "bool", 1, 0)      \
	X(STRING, "string", 0, 0)

typedef enum an_dtype {
	AN_NO_DTYPE,
#define X(name, text, size, blob) AN_##name,
	AN_DTYPE_LIST(X)
#undef X
	    AN_DTYPE_COUNT
} an_dtype;

AN_API const char *an_dtype_name(an_dtype t); /* "fp16" */
AN_API size_t an_dtype_size(an_dtype t);      /* bytes per element */

#define AN_MAX_RANK 5 /* the engine compiles nothing of higher rank */

/* The type of a value.  `tensor` distinguishes tensor<fp16, []> from the bare scalar fp16,
 * which MIL 1.3 writes; both have rank 0 and are interchangeable everywhere else. */
typedef struct an_type {
	uint8_t dtype; /* an_dtype */
	uint8_t rank;
	bool tensor;
	int32_t dim[AN_MAX_RANK]; /* each >= 1; row-major, last axis contiguous */
} an_type;

/* tensor<dtype, [dims...]> */
AN_API an_type an_tensor(an_dtype dtype, int rank, const int32_t *dims);
/* Number of elements; 1 for rank 0. */
AN_API int64_t an_type_count(const an_type *t);
/* an_type_count times the element size. */
AN_API size_t an_type_bytes(const an_type *t);
/* Same dtype, rank and dims (bare or tensor does not matter). */
AN_API bool an_type_equal(const an_type *a, const an_type *b);
/* "tensor<fp16, [1, 768, 1, 64]>"; always terminated. Returns buf. */
AN_API const char *an_type_text(const an_type *t, char *buf, size_t size);

/* Element i of an array of values of type `t`, as double (exact but for 64-bit integers). */
AN_API double an_element(an_dtype t, const void *data, int64_t i);
/* Stores a double there: rounded once to nearest even, integers clamped to their range. */
AN_API void an_set_element(an_dtype t, void *data, int64_t i, double value);

/* ---- Programs ------------------------------------------------------------------- */

typedef struct an_program an_program;
typedef struct an_function an_function; /* belongs to its program */
typedef uint32_t an_value;              /* index into a function; AN_NO_VALUE: none */
#define AN_NO_VALUE UINT32_MAX

/* Every operation; the rows are in src/mil/ops.def, `anneal ops` prints them. */
typedef int an_opcode;
/* Opcode by MIL name, or -1. */
AN_API an_opcode an_op_find(const char *name);
/* The table itself: operations 0 .. an_op_count() - 1, and their parameters by index. */
typedef struct an_op_description {
	const char *name, *summary;
	int opset; /* first opset that has it: 15 means ios15 */
	int params;
} an_op_description;
typedef struct an_op_param_description {
	const char *name;
	const char *fallback; /* default value as text, NULL: none */
	char kinds[32];       /* "float|int" */
	bool required, constant, list;
} an_op_param_description;
AN_API int an_op_count(void);
AN_API bool an_op_info(an_opcode op, an_op_description *out);                   /* false: no such op */
AN_API bool an_op_param(an_opcode op, int index, an_op_param_description *out); /* false: no such index */

/* An empty program (MIL 1.3, iOS 18). */
AN_API an_status an_program_new(an_ctx *ctx, an_program **out);
AN_API void an_program_free(an_program *p);
AN_API an_ctx *an_program_ctx(const an_program *p);

/* Parses MIL text.  `name` stands for the file in diagnostics.  All syntax and type errors
 * found (at most 20) are in the message, each as "name:line:column: error: ..." with the
 * source line and a caret.  A parsed program has been verified. */
AN_API an_status an_program_parse(an_ctx *ctx, const char *text, size_t len, const char *name,
				  an_program **out);
/* an_program_parse on a file; blobs are looked for relative to the file's folder, which
 * takes the place of "@model_path". */
AN_API an_status an_program_read(an_ctx *ctx, const char *path, an_program **out);

/* Text that parses back to the same program; *text is freed with an_text_free. */
AN_API an_status an_program_print(const an_program *p, char **text, size_t *len);
AN_API void an_text_free(an_ctx *ctx, char *text, size_t len);
/* Writes DIR/<stem>.mil and the blob files it refers to (below DIR for "@model_path").
 * Blobs whose values live in memory are written in the official storage layout; files that were
 * not loaded are copied from the folder the program came from (one that is absent there is
 * logged as a warning).  The text comes last: a program that is there is complete. */
AN_API an_status an_program_write(const an_program *p, const char *dir, const char *stem);

/* Checks every rule that holds for all programs: known operations, required parameters,
 * kinds and types of arguments, inferred result types equal to the declared ones, names
 * unique, values defined before use, outputs defined.  Diagnostics as for parsing. */
AN_API an_status an_program_verify(const an_program *p);

/* Functions, in order; `name` may be NULL for the first. NULL: there is none. */
AN_API int an_program_functions(const an_program *p);
AN_API an_function *an_program_function(const an_program *p, const char *name);
AN_API an_function *an_program_function_at(const an_program *p, int index);
AN_API an_status an_function_new(an_program *p, const char *name, an_function **out);
/* Copies a function into the same program under another name, or into another program of the
 * same context. */
AN_API an_status an_function_clone(an_program *to, const an_function *from, const char *name,
				   an_function **out);
AN_API const char *an_function_name(const an_function *f);

AN_API int an_function_inputs(const an_function *f);
AN_API int an_function_outputs(const an_function *f);
AN_API an_value an_function_input(const an_function *f, int i);
AN_API an_value an_function_output(const an_function *f, int i);
AN_API int an_function_ops(const an_function *f);
/* The operation at an index, and its first result in *result (may be NULL; AN_NO_VALUE: it has none); -1: no
 * such index. */
AN_API an_opcode an_function_op(const an_function *f, int index, an_value *result);
AN_API an_value an_function_find(const an_function *f, const char *name);
/* Names live as long as the program; the pointer to a type until the function grows. */
AN_API const char *an_value_name(const an_function *f, an_value v);
AN_API const an_type *an_value_type(const an_function *f, an_value v);

/* ---- Parameters ----------------------------------------------------------------- */

/* What an input is for.  MIL text cannot say it; it is kept beside the function and
 * written as <stem>.params.json next to a dumped program. */
typedef enum an_role { AN_ROLE_DATA, AN_ROLE_PARAM, AN_ROLE_STATE } an_role;
AN_API void an_function_set_role(an_function *f, an_value input, an_role role);
AN_API an_role an_function_role(const an_function *f, an_value input);

/* ---- Building ------------------------------------------------------------------- */

/* A builder appends operations to a function.  Its first failure is sticky: every later
 * call returns AN_NO_VALUE, and an_builder_finish reports it.  So a model is written
 * without a check per line.  Result types are inferred. */
typedef struct an_builder {
	an_function *f;
	an_status status;
	const char *prefix; /* put before every name given and generated; may be NULL */
} an_builder;

AN_API an_builder an_builder_on(an_function *f);
/* Reports the sticky status; AN_OK also verifies the function. */
AN_API an_status an_builder_finish(an_builder *b);

AN_API an_value an_input(an_builder *b, const char *name, an_type type);
AN_API void an_output(an_builder *b, an_value v);
/* Gives a value the name it will have as output or in text (must be unused). */
AN_API an_value an_name(an_builder *b, an_value v, const char *name);

/* One argument of an operation by parameter name. */
typedef struct an_arg {
	const char *param;
	enum {
		AN_ARG_VALUE,
		AN_ARG_VALUES,
		AN_ARG_INTS,
		AN_ARG_INT,
		AN_ARG_BOOL,
		AN_ARG_STRING,
		AN_ARG_FLOAT
	} kind;
	int n;
	union {
		an_value value;
		const an_value *values;
		const int32_t *ints; /* becomes a const tensor<int32, [n]> */
		int32_t i;
		bool b;
		const char *s;
		double f; /* takes the dtype of the operation's first tensor argument */
	} u;
} an_arg;

/* Appends any operation with `nargs` arguments and writes its results (`nresults` of
 * them).  Non-value arguments become const operations of their own, shared when equal. */
AN_API an_status an_emit(an_builder *b, an_opcode op, const char *name, const an_arg *args, int nargs,
			 an_value *results, int nresults);

/* Constants.  Small ones are written into the text, others become blobs. */
AN_API an_value an_const(an_builder *b, const char *name, an_type type, const void *data);
AN_API an_value an_scalar(an_builder *b, an_dtype dtype, double value);

/* The common operations; each is an_emit with fixed parameters.  Broadcasting as in NumPy. */
AN_API an_value an_unary(an_builder *b, const char *op, an_value x); /* "relu", "exp", "sigmoid", ... */
AN_API an_value an_binary(an_builder *b, const char *op, an_value x, an_value y); /* "add", "pow", ... */
AN_API an_value an_add(an_builder *b, an_value x, an_value y);
AN_API an_value an_sub(an_builder *b, an_value x, an_value y);
AN_API an_value an_mul(an_builder *b, an_value x, an_value y);
AN_API an_value an_scale(an_builder *b, an_value x, double factor); /* mul by a scalar const */
AN_API an_value an_matmul(an_builder *b, an_value x, an_value y, bool transpose_x, bool transpose_y);
AN_API an_value an_softmax(an_builder *b, an_value x, int axis);
/* op: "reduce_sum", "reduce_mean", "reduce_max", ... over one axis. */
AN_API an_value an_reduce(an_builder *b, const char *op, an_value x, int axis, bool keep_dims);
AN_API an_value an_reshape(an_builder *b, an_value x, int rank, const int32_t *shape);
AN_API an_value an_transpose(an_builder *b, an_value x, int rank, const int32_t *perm);
AN_API an_value an_slice(an_builder *b, an_value x, int axis, int begin, int size);
AN_API an_value an_concat(an_builder *b, const an_value *xs, int n, int axis);
AN_API an_value an_cast(an_builder *b, an_value x, an_dtype dtype);

#ifdef __cplusplus
}
#endif
#endif
