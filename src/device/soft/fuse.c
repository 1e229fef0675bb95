/* Which nodes become one kernel call, and in which order calls run.
 *
 * A node may join the group of one whose result it reads if every value that passes between
 * members can stay in a register (code.c tries it) and no path leaves the group and comes back,
 * which would leave no order to run things in.  Groups that read the same memory are joined under
 * the same conditions.  Bits do not change: what is not stored is rounded as if it were, where the
 * profile asks for it. */
#include "device/soft/soft.h"

/* ---- What must run before what ------------------------------------------------------- */

static bool add_to_set(soft_fn *s, int **set, int *n, int x)
{
	for (int i = *n; i-- > 0;)
		if ((*set)[i] == x)
			return true;
	/* capacities are powers of two: full when n is one */
	if ((*n & (*n - 1)) == 0) {
		int *more = arena_array(s->tmp, (size_t)MAX(4, 2 * *n), sizeof **set);
		if (!more)
			return false;
		if (*n)
			memcpy(more, *set, (size_t)*n * sizeof **set);
		*set = more;
	}
	(*set)[(*n)++] = x;
	return true;
}

static bool run_after_writers(soft_fn *s, int node, int value)
{
	const soft_value *root = &s->values[s->values[value].root];
	soft_node *n = &s->nodes[node];
	for (int i = 0; i < root->nwriters; i++)
		if (!add_to_set(s, &n->before, &n->nbefore, root->writers[i]))
			return false;
	return true;
}

static an_status order_constraints(soft_fn *s)
{
	bool ok = true;
	for (int i = 0; ok && i < (int)s->nnodes; i++) {
		soft_node *n = &s->nodes[i];
		soft_value *root = &s->values[s->values[n->out].root];
		if (n->kind == NODE_CONCAT) { /* whoever reads it waits for all its parts */
			for (int j = 0; ok && j < n->nin; j++) {
				const soft_value *part = &s->values[s->values[n->in[j]].root];
				for (int k = 0; ok && k < part->nwriters; k++)
					ok = add_to_set(s, &root->writers, &root->nwriters, part->writers[k]);
			}
			continue;
		}
		for (int j = 0; ok && j < n->nin; j++)
			ok = run_after_writers(s, i, n->in[j]);
		if (n->kind == NODE_COPY && n->u.copy.into)
			ok = ok && run_after_writers(s, i, n->out);
		ok = ok && add_to_set(s, &root->writers, &root->nwriters, i);
	}
	for (int i = 0; ok && i < (int)s->nnodes; i++)
		for (int j = 0; ok && j < s->nodes[i].nbefore; j++) {
			soft_node *b = &s->nodes[s->nodes[i].before[j]];
			ok = add_to_set(s, &b->after, &b->nafter, i);
		}
	return ok ? AN_OK : fail_memory(s->ctx, 0);
}

/* ---- Groups -------------------------------------------------------------------------- */

typedef struct fuser {
	soft_fn *s;
	int *stamp, round; /* by group: the search in which it was visited */
	int *stack;
	int *reader; /* by value: 1 + the last node seen that reads it */
} fuser;

/* Whether something outside groups a and b runs after one of them and before one of them. */
static bool path_back(fuser *f, int a, int b)
{
	const soft_fn *s = f->s;
	int top = 0;
	f->round++;
	f->stamp[a] = f->stamp[b] = f->round;
	f->stack[top++] = a;
	f->stack[top++] = b;
	while (top > 0) {
		int g = f->stack[--top];
		bool outside = g != a && g != b;
		for (int i = g; i >= 0; i = s->nodes[i].next)
			for (int j = 0; j < s->nodes[i].nafter; j++) {
				int next = s->nodes[s->nodes[i].after[j]].group;
				if (outside && (next == a || next == b))
					return true;
				if (f->stamp[next] != f->round) {
					f->stamp[next] = f->round;
					f->stack[top++] = next;
				}
			}
	}
	return false;
}

/* Members of both lists in ascending order, in one. */
static void merge(soft_fn *s, int a, int b)
{
	int first, *tail = &first;
	while (a >= 0 || b >= 0) {
		int *from = b < 0 || (a >= 0 && a < b) ? &a : &b;
		*tail = *from;
		tail = &s->nodes[*from].next;
		*from = *tail;
	}
	*tail = -1;
}

/* Takes the list that merge made apart again; nodes still carry their old group. */
static void split(soft_fn *s, int a, int b)
{
	int *tail_a = NULL, *tail_b = NULL;
	for (int i = MIN(a, b), next; i >= 0; i = next) {
		next = s->nodes[i].next;
		s->nodes[i].next = -1;
		int **tail = s->nodes[i].group == a ? &tail_a : &tail_b;
		if (*tail)
			**tail = i;
		*tail = &s->nodes[i].next;
	}
}

static bool constant(const soft_fn *s, int node) { return s->values[s->nodes[node].out].constant; }

/* Points of a group's index space. */
static int64_t elements(const soft_fn *s, int group)
{
	const soft_node *n = &s->nodes[group];
	return soft_elements(&s->values[n->kind == NODE_REDUCE ? n->in[0] : n->out]);
}

static void try_to_join(fuser *f, int a, int b)
{
	soft_fn *s = f->s;
	soft_code code;
	if (a == b || a < 0 || b < 0 || !soft_fusable(&s->nodes[a]) || !soft_fusable(&s->nodes[b]) ||
	    constant(s, a) != constant(s, b) || elements(s, a) != elements(s, b) || path_back(f, a, b))
		return;
	merge(s, a, b);
	int first = MIN(a, b);
	if (!soft_group_code(s, first, &code)) {
		split(s, a, b);
		return;
	}
	for (int i = first; i >= 0; i = s->nodes[i].next)
		s->nodes[i].group = first;
}

/* Joins nodes with those whose results they read, then groups that read the same memory: each
 * reader of a value with the one before it. */
static void make_groups(fuser *f)
{
	soft_fn *s = f->s;
	for (int i = 0; i < (int)s->nnodes; i++)
		for (int j = 0; j < s->nodes[i].nbefore; j++)
			if (s->nodes[i].group >= 0)
				try_to_join(f, s->nodes[s->nodes[i].before[j]].group, s->nodes[i].group);
	for (int i = 0; i < (int)s->nnodes; i++) {
		const soft_node *n = &s->nodes[i];
		if (n->group < 0 || !soft_fusable(n))
			continue;
		for (int j = 0; j < n->nin; j++) {
			int root = s->values[n->in[j]].root;
			if (s->values[root].bytes && soft_elements(&s->values[root]) == 1)
				continue;
			if (f->reader[root] > 0)
				try_to_join(f, s->nodes[f->reader[root] - 1].group, n->group);
			f->reader[root] = i + 1;
		}
	}
}

/* ---- Order --------------------------------------------------------------------------- */

/* Groups in the order of their last members, each after all that must run before it. */
static void visit(soft_fn *s, int group, bool *done)
{
	if (done[group])
		return;
	done[group] = true;
	for (int i = group; i >= 0; i = s->nodes[i].next)
		for (int j = 0; j < s->nodes[i].nbefore; j++)
			visit(s, s->nodes[s->nodes[i].before[j]].group, done);
	s->order[s->norder++] = group;
}

an_status soft_fuse(soft_fn *s)
{
	TRY(order_constraints(s));
	size_t n = s->nnodes + 1;
	fuser f = {.s = s,
		   .stamp = arena_array(s->tmp, n, sizeof(int)),
		   .stack = arena_array(s->tmp, n, sizeof(int)),
		   .reader = arena_array(s->tmp, s->nvalues + 1, sizeof(int))};
	bool *done = arena_array(s->tmp, n, sizeof *done);
	s->order = arena_array(s->tmp, n, sizeof *s->order);
	if (!f.stamp || !f.stack || !f.reader || !done || !s->order)
		return fail_memory(s->ctx, 0);
	for (int i = 0; i < (int)s->nnodes; i++) {
		s->nodes[i].next = -1;
		s->nodes[i].group = s->nodes[i].kind == NODE_CONCAT ? -1 : i;
	}
	if (!s->dev->no_fusion)
		make_groups(&f);
	s->norder = 0;
	for (int i = 0; i < (int)s->nnodes; i++)
		if (s->nodes[i].group >= 0 && s->nodes[i].next < 0)
			visit(s, s->nodes[i].group, done);
	return AN_OK;
}
