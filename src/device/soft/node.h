/* The vocabulary of nodes: each function appends what its name says and returns its result, an
 * index of s->values.  A failure is kept in s->oom; value 0 then stands in, which can be used
 * like any other, so that only the end of an operation has to look. */
#ifndef DEVICE_SOFT_NODE_H
#define DEVICE_SOFT_NODE_H

#include "device/soft/soft.h"

extern const k_type soft_type_by_dtype[AN_DTYPE_COUNT]; /* K_TYPE_COUNT: no kernel has it */
bool soft_is_float(k_type t);

int soft_add_value(soft_fn *s, k_type type, int rank, const int64_t *dim);
/* `bytes` stay where they are until compiling ends. */
int soft_add_literal(soft_fn *s, k_type type, int rank, const int64_t *dim, const void *bytes);
/* A scalar with the value x, rounded to its type. */
int soft_add_number(soft_fn *s, k_type type, double x);

/* A node with a new result; the node is s->nodes[s->nnodes - 1]. */
int soft_add_node(soft_fn *s, node_kind kind, k_type type, int rank, const int64_t *dim, int nin,
		  const int *in);
/* An elementwise node with a result of the given type and shape, whose instruction has up to three
 * operands (-1: absent) and up to two numbers. */
int soft_add_ew(soft_fn *s, int op, k_type type, int rank, const int64_t *dim, int a, int b, int c, float imm,
		float imm2);
/* The same in the shape of value v, with up to two operands. */
int soft_add_ew_like(soft_fn *s, int op, k_type type, int v, int a, int b);
/* x y, or x y + bias where sums start at a bias (-1: none), which broadcasts to the result. */
int soft_add_gemm(soft_fn *s, k_type type, int x, int y, int bias);
/* x y + bias (-1: none) with one rounding: in fixed point sums start at the bias, else the product
 * stays in fp32 until it is added. */
int soft_add_product(soft_fn *s, k_type type, int x, int y, int bias);
/* x y of 8-bit integers: the sums times a scale that broadcasts to the result, + bias (-1: none), rounded
 * once. */
int soft_add_integer_product(soft_fn *s, k_type type, int x, int y, int scale, int bias);
bool soft_fixed_point(const soft_fn *s, k_type type); /* whether products of this type are K_FIXED */
int soft_add_reduce(soft_fn *s, k_reduction how, k_type type, int x, uint32_t mask);

/* The whole of a value: a starting point for a view that changes some axes. */
soft_view soft_whole(int rank);
int soft_add_view(soft_fn *s, int x, int rank, const int64_t *dim, const soft_view *view);
int soft_add_reshape(soft_fn *s, int x, int rank, const int64_t *dim);   /* x itself if it has the shape */
int soft_add_transposed(soft_fn *s, int x);                              /* the last two axes exchanged */
int soft_add_broadcast(soft_fn *s, int x, int rank, const int64_t *dim); /* by NumPy's rules */
/* Parts one after the other along an axis, or (interleave) their elements by turns. */
int soft_add_concat(soft_fn *s, int axis, bool interleave, int n, const int *part);
/* Copies x to a part of a value that a view of it names. */
void soft_add_copy_into(soft_fn *s, int x, int part);

#endif
