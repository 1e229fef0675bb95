/* What the passes share: rewriting one function into another. */
#ifndef PASS_PASS_H
#define PASS_PASS_H

#include "anneal/pass.h"
#include "mil/ir.h"

/* ---- Rewriting --------------------------------------------------------------- */

/* A function that is being made out of another one.  map[] says which value of `to` stands for
 * each value of `from` (AN_NO_VALUE: none yet). */
typedef struct rewrite {
	an_function *from, *to;
	an_value *map; /* nvalues of `from` */
	arena scratch; /* for the length of the pass */
} rewrite;

/* Makes the function "<from>_<suffix>" (with a number where that is taken), without inputs.
 * rewrite_end must follow, whatever happens. */
an_status rewrite_begin(rewrite *r, an_function *from, const char *suffix);
/* Adds the inputs of `from` (with keep == NULL all of them, else those with keep[value]). */
an_status rewrite_inputs(rewrite *r, const bool *keep);
/* Makes map[v] an output with the name `name`, whatever has it so far; an `identity` where map[v] is an
 * input of another name or already an output. */
an_status rewrite_output(rewrite *r, an_value v, const char *name);
/* All outputs of `from` in order. */
an_status rewrite_outputs(rewrite *r);
/* Inputs (all or the live ones), operations with a live result, and outputs of `from`. */
an_status rewrite_live(rewrite *r, const bool *live, bool all_inputs);
/* Frees the scratch memory.  With s == AN_OK verifies and hands out the function; otherwise takes it
 * out of the program again.  Returns s or verification's status. */
an_status rewrite_end(rewrite *r, an_status s, an_function **out);
/* rewrite_end without the dead code that the pass left behind, and without unused inputs unless
 * all_inputs. */
an_status rewrite_sweep(rewrite *r, an_status s, bool all_inputs, an_function **out);

/* A name for a function that its program does not have yet: "<base>_<suffix>" or with a number. */
an_status pass_function_new(an_program *p, const char *base, const char *suffix, an_function **out);

/* live[v]: an output of f depends on value v.  Allocated in the arena; NULL: out of memory. */
bool *pass_live(const an_function *f, arena *a);

/* The output v of f under the name `name`: an identity operation if v is an input or an output already
 * under another name; evicts another value of that name. */
an_status pass_output(an_function *f, an_value v, const char *name);

/* ---- Building ---------------------------------------------------------------- */

/* clang-format off */
/* Arguments for an_emit. */
#define ARG_VALUE(param, x)     {param, AN_ARG_VALUE, 1, {.value = (x)}}
#define ARG_INTS(param, n, x)   {param, AN_ARG_INTS, (n), {.ints = (x)}}
#define ARG_INT(param, x)       {param, AN_ARG_INT, 1, {.i = (x)}}
#define ARG_BOOL(param, x)      {param, AN_ARG_BOOL, 1, {.b = (x)}}
#define ARG_FLOAT(param, x)     {param, AN_ARG_FLOAT, 1, {.f = (x)}}
#define ARG_STRING(param, x)    {param, AN_ARG_STRING, 1, {.s = (x)}}
#define ARG_VALUES(param, n, x) {param, AN_ARG_VALUES, (int)(n), {.values = (x)}}
/* clang-format on */
an_value pass_emit(an_builder *b, int op, const an_arg *args, int nargs);
/* An operation with one result: EMIT(b, OP_TILE, ARG_VALUE("x", x), ARG_INTS("reps", rank, reps)). */
#define EMIT(b, op, ...) \
	pass_emit(b, op, (const an_arg[]){__VA_ARGS__}, LENGTH(((const an_arg[]){__VA_ARGS__})))

#endif
