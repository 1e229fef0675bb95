/* MIL text to a verified program.
 *
 * Recursive descent over one token of lookahead; nothing recurses deeper than the grammar, and
 * lists are read in a loop, so depth and size of the input do not matter.  Functions that return
 * bool have reported what was wrong when they return false; parsing then goes on after the next
 * ';', and what the broken statement would have defined is marked so that its uses are not
 * reported as well.  */
#include "mil/diag.h"
#include "mil/lex.h"

#include <stdio.h>

/* For functions that return false once something was reported. */
#define TRY_TRUE(expr)                \
	do {                          \
		if (!(expr))          \
			return false; \
	} while (0)

enum { MARK_NONE, MARK_BROKEN, MARK_INLINE }; /* INLINE: a constant made from an inline literal */

typedef struct parser {
	an_ctx *ctx;
	an_program *p;
	an_function *f;
	arena *a;
	arena scratch; /* of one statement */
	mil_diag diag;
	lexer lex;
	token tok;                /* the next token */
	int end_line, end_column; /* just after the token before it */
	uint8_t *mark;            /* MARK_ by value of f */
	size_t mark_cap;
	uint8_t *bytes; /* elements of the literal being read */
	size_t bytes_cap;
	const char **strings;
	size_t strings_cap;
	bool in_blob; /* between the parentheses of BLOBFILE */
} parser;

/* ---- Tokens and errors ------------------------------------------------------------- */

#define SHOWN(t) (int)MIN((t)->len, 60), (t)->text

static void advance(parser *ps)
{
	ps->end_line = ps->tok.line;
	ps->end_column = ps->tok.column + (int)MIN(ps->tok.len, INT32_MAX / 2);
	ps->tok = lex_next(&ps->lex);
}

/* Reports and is false. */
#define ERROR(ps, status, t, ...)                                                   \
	({                                                                          \
		diag_add(&(ps)->diag, status, (t)->line, (t)->column, __VA_ARGS__); \
		false;                                                              \
	})

static bool out_of_memory(parser *ps) { return ERROR(ps, AN_MEMORY, &ps->tok, "out of memory"); }

/* "expected X, found Y" at the next token; if that is on another line, where X is missing. */
static bool expected(parser *ps, const char *what)
{
	const token *t = &ps->tok;
	token at = *t;
	if (ps->end_line && ps->end_line < t->line) {
		at.line = ps->end_line;
		at.column = ps->end_column;
	}
	if (t->kind == TOKEN_END)
		return ERROR(ps, AN_SYNTAX, &at, "expected %s, found the end of the text", what);
	if (t->kind == TOKEN_BAD && *t->text == '"')
		return ERROR(ps, AN_SYNTAX, t, "this string has no end on its line");
	if (t->kind == TOKEN_BAD && ((unsigned char)*t->text < ' ' || (unsigned char)*t->text > 126))
		return ERROR(ps, AN_SYNTAX, t, "expected %s, found the byte 0x%02x", what,
			     (unsigned char)*t->text);
	return ERROR(ps, AN_SYNTAX, &at, "expected %s, found '%.*s'", what, SHOWN(t));
}

static bool take(parser *ps, char c)
{
	if (!token_is(&ps->tok, c))
		return expected(ps, (char[]){'\'', c, '\'', 0});
	advance(ps);
	return true;
}

static bool accept(parser *ps, char c)
{
	bool is = token_is(&ps->tok, c);
	if (is)
		advance(ps);
	return is;
}

static bool take_name(parser *ps, const char *what, token *out)
{
	*out = ps->tok;
	if (out->kind != TOKEN_NAME)
		return expected(ps, what);
	advance(ps);
	return true;
}

static bool take_word(parser *ps, const char *word)
{
	char quoted[32];
	snprintf(quoted, sizeof quoted, "'%s'", word);
	if (!token_word(&ps->tok, word))
		return expected(ps, quoted);
	advance(ps);
	return true;
}

static const char *keep(parser *ps, const token *t)
{
	const char *s = arena_strndup(ps->a, t->text, t->len);
	if (!s)
		out_of_memory(ps);
	return s;
}

/* After an error: past the next ';' of this level, or before the '}' that ends it. */
static void skip_statement(parser *ps)
{
	for (int depth = 0; ps->tok.kind != TOKEN_END; advance(ps)) {
		if (token_is(&ps->tok, '{'))
			depth++;
		else if (token_is(&ps->tok, '}') && depth-- == 0)
			return;
		else if (token_is(&ps->tok, ';') && depth == 0) {
			advance(ps);
			return;
		}
	}
}

static bool too_many(const parser *ps) { return ps->diag.count >= DIAG_MAX; }

/* ---- Types ------------------------------------------------------------------------- */

static bool parse_dims(parser *ps, an_type *t)
{
	int rank = 0;
	token open = ps->tok;
	TRY_TRUE(take(ps, '['));
	if (accept(ps, ']'))
		return true;
	do {
		token d = ps->tok;
		int32_t n = 0;
		if (token_is(&d, '?') || d.kind == TOKEN_NAME)
			return ERROR(ps, AN_UNSUPPORTED, &d,
				     "dimensions that are not known in advance are not supported");
		if (d.kind != TOKEN_NUMBER)
			return expected(ps, "a dimension");
		if (mil_parse_number(d.text, d.len, AN_INT32, &n) != NUMBER_OK || n < 1)
			return ERROR(ps, AN_TYPE, &d, "expected a dimension from 1 to %d, found '%.*s'",
				     INT32_MAX, SHOWN(&d));
		if (rank < AN_MAX_RANK)
			t->dim[rank] = n;
		rank++;
		advance(ps);
	} while (accept(ps, ','));
	TRY_TRUE(take(ps, ']'));
	if (rank > AN_MAX_RANK)
		return ERROR(ps, AN_UNSUPPORTED, &open,
			     "rank %d is not supported: the engine has at most %d axes", rank, AN_MAX_RANK);
	t->rank = (uint8_t)rank;
	if (!mil_type_fits(t))
		return ERROR(ps, AN_UNSUPPORTED, &open,
			     "a tensor of more than 2^40 elements is not supported");
	return true;
}

static bool parse_dtype(parser *ps, an_type *t)
{
	token name;
	TRY_TRUE(take_name(ps, "an element type", &name));
	t->dtype = (uint8_t)mil_dtype_find(name.text, name.len);
	if (t->dtype != AN_NO_DTYPE)
		return true;
	static const char *const known[] = {"fp64",  "int4",      "uint1",   "uint2",  "uint3",  "uint4",
					    "uint6", "fp8e4m3fn", "fp8e5m2", "cplx64", "cplx128"};
	for (int i = 0; i < LENGTH(known); i++)
		if (token_word(&name, known[i]))
			return ERROR(ps, AN_UNSUPPORTED, &name, "element type %s is not supported", known[i]);
	return ERROR(ps, AN_SYNTAX, &name, "expected an element type such as fp16 or int32, found '%.*s'",
		     SHOWN(&name));
}

/* tensor<fp16, [1, 2]> or a bare fp16. */
static bool parse_type(parser *ps, an_type *t)
{
	static const char *const others[] = {"state", "list", "tuple", "dict", "memory"};
	*t = (an_type){0};
	for (int i = 0; i < LENGTH(others); i++)
		if (token_word(&ps->tok, others[i]))
			return ERROR(ps, AN_UNSUPPORTED, &ps->tok, "%s<...> is not supported", others[i]);
	if (!token_word(&ps->tok, "tensor"))
		return ps->tok.kind == TOKEN_NAME ? parse_dtype(ps, t) : expected(ps, "a type");
	advance(ps);
	t->tensor = true;
	return take(ps, '<') && parse_dtype(ps, t) && take(ps, ',') && parse_dims(ps, t) && take(ps, '>');
}

/* ---- Literals ---------------------------------------------------------------------- */

static int hex_value(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* "text" with \" \\ \n \t \r \xHH; the result is in the program's arena. */
static bool parse_string(parser *ps, const char **out)
{
	token t = ps->tok;
	if (t.kind != TOKEN_STRING)
		return expected(ps, "a string");
	char *s = arena_alloc(ps->a, t.len);
	if (!s)
		return out_of_memory(ps);
	*out = s;
	for (const char *c = t.text + 1, *end = t.text + t.len - 1; c < end; c++) {
		char plain = *c;
		if (*c == '\\') {
			c++;
			int h = end - c > 2 && *c == 'x' ? hex_value(c[1]) : -1,
			    l = h < 0 ? -1 : hex_value(c[2]);
			if (*c == 'n' || *c == 't' || *c == 'r')
				plain = *c == 'n' ? '\n' : *c == 't' ? '\t' : '\r';
			else if (*c == '"' || *c == '\\')
				plain = *c;
			else if (l >= 0 && h + l > 0) {
				plain = (char)(h * 16 + l);
				c += 2;
			} else {
				t.column += (int)(c - 1 - t.text);
				return ERROR(ps, AN_SYNTAX, &t, "unknown escape in a string");
			}
		}
		if (!plain) {
			t.column += (int)(c - t.text);
			return ERROR(ps, AN_SYNTAX, &t, "a string cannot hold the byte 0");
		}
		*s++ = plain;
	}
	advance(ps);
	return true;
}

/* One number, bool or string as element `i` of the literal being read. */
static bool parse_element(parser *ps, const an_type *type, size_t i)
{
	token t = ps->tok;
	size_t size = an_dtype_size(type->dtype);
	if (type->dtype == AN_STRING) {
		if (!mem_grow(ps->ctx, &ps->strings, &ps->strings_cap, i, sizeof *ps->strings))
			return out_of_memory(ps);
		return parse_string(ps, &ps->strings[i]);
	}
	if (!mem_grow(ps->ctx, &ps->bytes, &ps->bytes_cap, (i + 1) * size, 1))
		return out_of_memory(ps);
	uint8_t *at = ps->bytes + i * size;
	if (type->dtype == AN_BOOL) {
		if (!token_word(&t, "true") && !token_word(&t, "false"))
			return expected(ps, "true or false");
		*at = *t.text == 't';
	} else {
		mil_number n = NUMBER_MALFORMED;
		if (t.kind == TOKEN_NUMBER || t.kind == TOKEN_NAME) /* inf and nan are names */
			n = mil_parse_number(t.text, t.len, type->dtype, at);
		if (n == NUMBER_MALFORMED)
			return expected(ps, "a number");
		if (n == NUMBER_NOT_INTEGER)
			return ERROR(ps, AN_TYPE, &t, "expected an integer for %s, found '%.*s'",
				     an_dtype_name(type->dtype), SHOWN(&t));
		if (n == NUMBER_OUT_OF_RANGE)
			return ERROR(ps, AN_TYPE, &t, "'%.*s' does not fit into %s", SHOWN(&t),
				     an_dtype_name(type->dtype));
	}
	advance(ps);
	return true;
}

/* [1, 2, 3], nested as the type has axes ([[1, 2], [3, 4]]) or flat. */
static bool parse_list(parser *ps, const an_type *type)
{
	int depth = 0, level = 0; /* level: depth of the elements, once it is known */
	int64_t count[AN_MAX_RANK + 1] = {0}, n = 0, want = an_type_count(type);
	token open = ps->tok;
	do {
		token t = ps->tok;
		if (token_is(&t, '[')) {
			if (depth == type->rank)
				return ERROR(ps, AN_TYPE, &t,
					     "this list is nested deeper than the %d ax%s of its type",
					     type->rank, type->rank == 1 ? "is" : "es");
			count[++depth] = 0;
			advance(ps);
			if (!token_is(&ps->tok, ']'))
				continue;
			t = ps->tok;
		} else if (!token_is(&t, ']')) {
			if (level == 0 && (depth == 1 || depth == type->rank))
				level = depth;
			if (depth != level)
				return ERROR(ps, AN_TYPE, &t,
					     "this list is not nested as the axes of its type are");
			if (n == want)
				return ERROR(ps, AN_TYPE, &t, "more than the %lld values of the type",
					     (long long)want);
			TRY_TRUE(parse_element(ps, type, (size_t)n++));
			count[depth]++;
			if (accept(ps, ','))
				continue;
			if (!token_is(&ps->tok, ']'))
				return expected(ps, "',' or ']'");
		}
		while (depth && token_is(&ps->tok, ']')) {
			if (level == type->rank && count[depth] != type->dim[depth - 1])
				return ERROR(ps, AN_TYPE, &ps->tok,
					     "this list has %lld values, axis %d has length %d",
					     (long long)count[depth], depth - 1, type->dim[depth - 1]);
			advance(ps);
			if (--depth)
				count[depth]++;
		}
		if (depth && !take(ps, ','))
			return false;
	} while (depth);
	if (n != want)
		return ERROR(ps, AN_TYPE, &open, "%lld values, but the type has %lld", (long long)n,
			     (long long)want);
	return true;
}

static bool parse_literal(parser *ps, mil_literal *out);

/* BLOBFILE(path = string("..."), offset = uint64(64)) */
static bool parse_blob(parser *ps, mil_literal *out)
{
	bool path = false, offset = false;
	token at = ps->tok;
	advance(ps);
	TRY_TRUE(take(ps, '('));
	do {
		token key, value;
		mil_literal l;
		TRY_TRUE(take_name(ps, "'path' or 'offset'", &key) && take(ps, '='));
		value = ps->tok;
		ps->in_blob = true; /* its own arguments stand in the text: nothing nests */
		bool good = parse_literal(ps, &l);
		ps->in_blob = false;
		TRY_TRUE(good);
		if (token_word(&key, "path") && l.type.dtype == AN_STRING && l.type.rank == 0) {
			path = true;
			out->path = l.strings[0];
		} else if (token_word(&key, "offset") && l.type.dtype == AN_UINT64 && l.type.rank == 0) {
			offset = true;
			memcpy(&out->offset, l.bytes, sizeof out->offset);
		} else {
			return ERROR(ps, AN_SYNTAX,
				     token_word(&key, "path") || token_word(&key, "offset") ? &value : &key,
				     "expected path = string(...) and offset = uint64(...)");
		}
	} while (accept(ps, ','));
	TRY_TRUE(take(ps, ')'));
	if (!path || !offset)
		return ERROR(ps, AN_SYNTAX, &at, "BLOBFILE needs path and offset");
	if (!an_dtype_size(out->type.dtype))
		return ERROR(ps, AN_TYPE, &at, "%s values cannot be in a blob file",
			     an_dtype_name(out->type.dtype));
	out->kind = LIT_BLOB;
	return true;
}

/* The part of a literal in parentheses, for a type that is known. */
static bool parse_value(parser *ps, mil_literal *out)
{
	const an_type *t = &out->type;
	if (token_word(&ps->tok, "BLOBFILE") && !ps->in_blob)
		return parse_blob(ps, out);
	if (t->rank == 0)
		TRY_TRUE(parse_element(ps, t, 0));
	else if (token_is(&ps->tok, '['))
		TRY_TRUE(parse_list(ps, t));
	else
		return expected(ps, "'[' or BLOBFILE");
	size_t n = (size_t)an_type_count(t);
	if (t->dtype == AN_STRING) {
		out->kind = LIT_STRINGS;
		out->strings = arena_copy(ps->a, ps->strings, n * sizeof *ps->strings);
	} else {
		out->kind = LIT_BYTES;
		out->bytes = arena_copy(ps->a, ps->bytes, an_type_bytes(t));
	}
	return out->strings || out->bytes || out_of_memory(ps);
}

/* TYPE(value) */
static bool parse_literal(parser *ps, mil_literal *out)
{
	*out = (mil_literal){0};
	return parse_type(ps, &out->type) && take(ps, '(') && parse_value(ps, out) && take(ps, ')');
}

/* ---- Statements -------------------------------------------------------------------- */

typedef struct statement {
	token name; /* of the operation */
	token arg_at[OP_MAX_PARAMS];
	token *type_at, *result;
	an_type *types;
	size_t nresults, types_cap, type_at_cap, result_cap;
	mil_op op;
	mil_attr *attrs;
	token *attr_at;
	size_t nattrs, attrs_cap, attr_at_cap;
	bool broken; /* uses something broken: keep quiet */
} statement;

static bool set_mark(parser *ps, an_value v, uint8_t mark)
{
	size_t old = ps->mark_cap;
	if (!mem_grow(ps->ctx, &ps->mark, &ps->mark_cap, v, 1))
		return out_of_memory(ps);
	memset(ps->mark + old, 0, ps->mark_cap - old);
	ps->mark[v] = mark;
	return true;
}

static uint8_t mark_of(const parser *ps, an_value v)
{
	return v < ps->mark_cap ? ps->mark[v] : (uint8_t)MARK_NONE;
}

/* An unused name for a new value, copied into the arena; NULL: reported. */
static const char *claim(parser *ps, const token *t)
{
	const char *name = keep(ps, t);
	if (!name)
		return NULL;
	an_value old = an_function_find(ps->f, name);
	if (old == AN_NO_VALUE)
		return name;
	if (mark_of(ps, old) == MARK_INLINE) { /* a name we made up: give way */
		const char *other = fn_fresh_name(ps->f, name);
		if (other && fn_rename(ps->f, old, other) == AN_OK)
			return name;
		out_of_memory(ps);
		return NULL;
	}
	const mil_op *def = fn_def(ps->f, old);
	if (def && def->line)
		ERROR(ps, AN_TYPE, t, "%.*s is already defined on line %d", SHOWN(t), def->line);
	else
		ERROR(ps, AN_TYPE, t, "%.*s is already defined as an input", SHOWN(t));
	return NULL;
}

/* The value named by a token; marks the statement when the value is broken. */
static bool parse_use(parser *ps, statement *st, const token *t, an_value *out)
{
	char small[128], *name = t->len < sizeof small ? small : arena_alloc(&ps->scratch, t->len + 1);
	if (!name)
		return out_of_memory(ps);
	memcpy(name, t->text, t->len);
	name[t->len] = 0;
	*out = an_function_find(ps->f, name);
	if (*out == AN_NO_VALUE)
		return ERROR(ps, AN_TYPE, t, "%.*s is not defined", SHOWN(t));
	st->broken |= mark_of(ps, *out) == MARK_BROKEN;
	return true;
}

/* A const operation for an inline literal. */
static bool add_inline(parser *ps, const statement *st, const token *at, const char *param,
		       const mil_literal *l, an_value *out)
{
	char want[160];
	snprintf(want, sizeof want, "%.*s_%s", (int)MIN(st->result[0].len, 100), st->result[0].text, param);
	mil_attr val = {"val", *l};
	mil_op op = {.op = OP_CONST, .nresults = 1, .nattrs = 1, .line = at->line, .column = at->column};
	op.attrs = arena_copy(ps->a, &val, sizeof val);
	op.name = fn_fresh_name(ps->f, want);
	if (!op.attrs || !op.name || fn_push(ps->f, &op, &l->type, &op.name) != AN_OK)
		return out_of_memory(ps);
	*out = (an_value)ps->f->nvalues - 1;
	return set_mark(ps, *out, MARK_INLINE);
}

/* true, -1, 0.5, "valid", [1, 2]: the type follows from the parameter. */
static bool parse_bare_literal(parser *ps, const statement *st, const op_param *param, mil_literal *out)
{
	token t = ps->tok;
	*out = (mil_literal){0};
	bool number = t.kind == TOKEN_NUMBER;
	if (token_is(&t, '[')) { /* integers only; counted beforehand */
		lexer ahead = ps->lex;
		int32_t n = 0;
		for (token c = lex_next(&ahead); c.kind == TOKEN_NUMBER; c = lex_next(&ahead)) {
			n++;
			c = lex_next(&ahead);
			if (!token_is(&c, ','))
				break;
		}
		if (!n)
			return ERROR(ps, AN_SYNTAX, &t, "expected a list of integers");
		out->type = an_tensor(AN_INT32, 1, &n);
	} else if (t.kind == TOKEN_STRING) {
		out->type.dtype = AN_STRING;
	} else if (number && (param->kind & PK_FLOAT)) { /* as the floating point argument before it */
		for (int p = 0; p < OP_MAX_PARAMS && !out->type.dtype; p++)
			if (st->op.arg[p].n &&
			    op_kind_takes(param->kind, ps->f->values[st->op.arg[p].v[0]].type.dtype))
				out->type.dtype = ps->f->values[st->op.arg[p].v[0]].type.dtype;
		if (!out->type.dtype)
			return ERROR(ps, AN_SYNTAX, &t, "write the type of this number: fp16(%.*s)",
				     SHOWN(&t));
	} else if (number && (param->kind & PK_INT)) {
		out->type.dtype = AN_INT32;
	} else if (token_word(&t, "true") || token_word(&t, "false")) {
		out->type.dtype = AN_BOOL;
	} else {
		return expected(ps, "a value");
	}
	return parse_value(ps, out);
}

/* One argument value: a name, or a literal. */
static bool parse_argument_value(parser *ps, statement *st, int p, an_value *out)
{
	token at = ps->tok;
	const op_param *param = &op_table[st->op.op].param[p];
	mil_literal l;
	if (at.kind == TOKEN_NAME) {
		lexer ahead = ps->lex;
		token next = lex_next(&ahead);
		if (token_is(&next, '(') || token_is(&next, '<')) {
			TRY_TRUE(parse_literal(ps, &l));
			return add_inline(ps, st, &at, param->name, &l, out);
		}
		char word[8] = {0};
		memcpy(word, at.text, MIN(at.len, sizeof word - 1));
		bool literal = token_word(&at, "true") || token_word(&at, "false");
		if (!literal || an_function_find(ps->f, word) != AN_NO_VALUE) {
			advance(ps);
			return parse_use(ps, st, &at, out);
		}
	}
	return parse_bare_literal(ps, st, param, &l) && add_inline(ps, st, &at, param->name, &l, out);
}

/* "x, y, transpose_x" */
static const char *param_names(int op, char *buf, size_t size)
{
	size_t at = 0;
	*buf = 0;
	for (int p = 0; p < OP_MAX_PARAMS && op_table[op].param[p].name && at < size; p++)
		at +=
		    (size_t)snprintf(buf + at, size - at, "%s%s", p ? ", " : "", op_table[op].param[p].name);
	return buf;
}

static bool parse_argument(parser *ps, statement *st)
{
	token key;
	TRY_TRUE(take_name(ps, "a parameter name", &key));
	int op = st->op.op, p = 0;
	while (p < OP_MAX_PARAMS && op_table[op].param[p].name &&
	       !token_word(&key, op_table[op].param[p].name))
		p++;
	if (p == OP_MAX_PARAMS || !op_table[op].param[p].name) {
		char names[200];
		return ERROR(ps, AN_TYPE, &key, "%s has no parameter %.*s (it has %s)", op_table[op].name,
			     SHOWN(&key), param_names(op, names, sizeof names));
	}
	if (op_table[op].param[p].kind & PK_ATTR)
		return ERROR(ps, AN_TYPE, &key, "%s: %.*s is an attribute: it stands in the brackets",
			     op_table[op].name, SHOWN(&key));
	mil_use *use = &st->op.arg[p];
	if (use->n)
		return ERROR(ps, AN_TYPE, &key, "%s: %.*s is given twice", op_table[op].name, SHOWN(&key));
	TRY_TRUE(take(ps, '='));
	st->arg_at[p] = ps->tok;
	an_value *values = NULL;
	size_t n = 0, cap = 0;
	bool good = true, list = accept(ps, '(');
	do {
		an_value v = AN_NO_VALUE;
		good = parse_argument_value(ps, st, p, &v);
		if (good && !mem_grow(ps->ctx, &values, &cap, n, sizeof *values))
			good = out_of_memory(ps);
		if (good)
			values[n++] = v;
	} while (good && list && accept(ps, ','));
	good = good && (!list || take(ps, ')'));
	if (good) {
		*use = (mil_use){(uint32_t)n, list, arena_copy(ps->a, values, n * sizeof *values)};
		good = use->v || out_of_memory(ps);
	}
	mem_free(ps->ctx, values, cap * sizeof *values);
	return good;
}

static bool parse_attribute(parser *ps, statement *st)
{
	token key, at;
	TRY_TRUE(take_name(ps, "an attribute name", &key) && take(ps, '='));
	at = ps->tok;
	mil_literal l;
	TRY_TRUE(parse_literal(ps, &l));
	if (token_word(&key, "name")) {
		if (l.type.dtype != AN_STRING || l.type.rank)
			return ERROR(ps, AN_TYPE, &at, "the name must be a string");
		if (st->op.name)
			return ERROR(ps, AN_TYPE, &key, "name is given twice");
		st->op.name = l.strings[0];
		return true;
	}
	const char *name = keep(ps, &key);
	if (!name)
		return false;
	for (size_t i = 0; i < st->nattrs; i++)
		if (strcmp(st->attrs[i].key, name) == 0)
			return ERROR(ps, AN_TYPE, &key, "%.*s is given twice", SHOWN(&key));
	enum { ATTRS_MAX = 64 }; /* each is compared with all before it */
	if (st->nattrs == ATTRS_MAX)
		return ERROR(ps, AN_UNSUPPORTED, &key, "more than %d attributes are not supported",
			     ATTRS_MAX);
	if (!mem_grow(ps->ctx, &st->attrs, &st->attrs_cap, st->nattrs, sizeof *st->attrs) ||
	    !mem_grow(ps->ctx, &st->attr_at, &st->attr_at_cap, st->nattrs, sizeof *st->attr_at))
		return out_of_memory(ps);
	st->attr_at[st->nattrs] = at;
	st->attrs[st->nattrs++] = (mil_attr){name, l};
	return true;
}

/* TYPE name, TYPE name = */
static bool parse_results(parser *ps, statement *st)
{
	do {
		token at = ps->tok, name = at;
		an_type t;
		TRY_TRUE(parse_type(ps, &t) && take_name(ps, "a name", &name));
		size_t n = st->nresults;
		if (!mem_grow(ps->ctx, &st->types, &st->types_cap, n, sizeof *st->types) ||
		    !mem_grow(ps->ctx, &st->type_at, &st->type_at_cap, n, sizeof *st->type_at) ||
		    !mem_grow(ps->ctx, &st->result, &st->result_cap, n, sizeof *st->result))
			return out_of_memory(ps);
		st->types[n] = t;
		st->type_at[n] = at;
		st->result[n] = name;
		st->nresults++;
	} while (accept(ps, ','));
	return take(ps, '=');
}

/* Fewest single-character edits from a to b; names are short. */
static int distance(const char *a, size_t n, const char *b)
{
	enum { LONGEST = 40 };
	size_t m = strlen(b);
	if (n > LONGEST || m > LONGEST)
		return LONGEST;
	int row[LONGEST + 1];
	for (size_t j = 0; j <= m; j++)
		row[j] = (int)j;
	for (size_t i = 1; i <= n; i++) {
		int diagonal = row[0];
		row[0] = (int)i;
		for (size_t j = 1; j <= m; j++) {
			int best = MIN(MIN(row[j], row[j - 1]) + 1, diagonal + (a[i - 1] != b[j - 1]));
			diagonal = row[j];
			row[j] = best;
		}
	}
	return row[m];
}

/* Operations of MIL that have no row (coremltools mil/ops/defs); prefixes end in '*'. */
static const char *const other_operations[] = {"acos",
					       "acosh",
					       "asin",
					       "asinh",
					       "atan",
					       "atan2",
					       "atanh",
					       "argsort",
					       "avg_pool",
					       "band_part",
					       "batch_norm",
					       "batch_to_space",
					       "classify",
					       "clamped_relu",
					       "cond",
					       "constexpr_*",
					       "conv_quantized",
					       "conv_transpose",
					       "cosh",
					       "coreml_update_state",
					       "crop",
					       "crop_resize",
					       "cumsum",
					       "depth_to_space",
					       "einsum",
					       "fill",
					       "fill_like",
					       "flatten2d",
					       "gather",
					       "gather_*",
					       "gru",
					       "instance_norm",
					       "l2_norm",
					       "l2_pool",
					       "linear_activation",
					       "list_*",
					       "local_response_norm",
					       "logical_*",
					       "lstm",
					       "make_list",
					       "max_pool",
					       "non_maximum_suppression",
					       "non_zero",
					       "one_hot",
					       "pixel_shuffle",
					       "pixel_unshuffle",
					       "prelu",
					       "random_*",
					       "range_1d",
					       "read_state",
					       "reduce_*",
					       "relu6",
					       "resample",
					       "reshape_like",
					       "resize*",
					       "reverse",
					       "reverse_sequence",
					       "rnn",
					       "scaled_tanh",
					       "scatter",
					       "scatter_*",
					       "shape",
					       "sigmoid_hard",
					       "sinh",
					       "slice_update",
					       "sliding_windows",
					       "softplus_parametric",
					       "space_to_batch",
					       "space_to_depth",
					       "tan",
					       "threshold",
					       "thresholded_relu",
					       "upsample_*",
					       "while_loop",
					       "write_state"};

static bool unknown_operation(parser *ps, const token *t)
{
	int best = -1, fewest = 3;
	for (int i = 0; i < LENGTH(other_operations); i++) {
		size_t n = strlen(other_operations[i]);
		bool prefix = other_operations[i][n - 1] == '*';
		if (prefix ? t->len >= n && memcmp(t->text, other_operations[i], n - 1) == 0
			   : token_word(t, other_operations[i]))
			return ERROR(ps, AN_UNSUPPORTED, t, "operation %.*s is not supported yet", SHOWN(t));
	}
	for (int i = 0; i < OP_COUNT; i++) {
		int d = distance(t->text, t->len, op_table[i].name);
		if (d < fewest) {
			fewest = d;
			best = i;
		}
	}
	if (best >= 0)
		return ERROR(ps, AN_UNSUPPORTED, t, "there is no operation '%.*s': did you mean %s?",
			     SHOWN(t), op_table[best].name);
	return ERROR(ps, AN_UNSUPPORTED, t, "there is no operation '%.*s'", SHOWN(t));
}

/* name(arguments)[attributes]; */
static bool parse_operation(parser *ps, statement *st)
{
	char name[64] = {0};
	TRY_TRUE(take_name(ps, "an operation", &st->name));
	memcpy(name, st->name.text, MIN(st->name.len, sizeof name - 1));
	int op = st->name.len < sizeof name ? an_op_find(name) : -1;
	if (op < 0)
		return unknown_operation(ps, &st->name);
	st->op.op = (uint16_t)op;
	st->op.line = st->name.line;
	st->op.column = st->name.column;
	TRY_TRUE(take(ps, '('));
	if (!accept(ps, ')')) {
		do
			TRY_TRUE(parse_argument(ps, st));
		while (accept(ps, ','));
		TRY_TRUE(take(ps, ')'));
	}
	if (token_is(&ps->tok, '{'))
		return ERROR(ps, AN_UNSUPPORTED, &ps->tok, "nested blocks are not supported");
	if (accept(ps, '[') && !accept(ps, ']')) {
		do
			TRY_TRUE(parse_attribute(ps, st));
		while (accept(ps, ','));
		TRY_TRUE(take(ps, ']'));
	}
	return take(ps, ';');
}

/* The place of a problem: the argument or attribute it blames, else the operation. */
static token problem_place(const statement *st, const mil_problem *problem)
{
	if (problem->param < 0)
		return st->name;
	if (st->op.arg[problem->param].n)
		return st->arg_at[problem->param];
	for (size_t i = 0; i < st->nattrs; i++)
		if (strcmp(st->attrs[i].key, op_table[st->op.op].param[problem->param].name) == 0)
			return st->attr_at[i];
	return st->name;
}

/* Checks the statement against the row of its operation. */
static bool check_statement(parser *ps, statement *st)
{
	mil_problem problem;
	mil_op *op = &st->op;
	if (st->nresults > UINT16_MAX)
		return ERROR(ps, AN_UNSUPPORTED, &st->name, "%zu results are too many", st->nresults);
	op->nresults = (uint16_t)st->nresults;
	op->nattrs = (uint32_t)st->nattrs;
	op->attrs = arena_copy(ps->a, st->attrs, st->nattrs * sizeof *st->attrs);
	an_type *types = arena_array(&ps->scratch, st->nresults, sizeof *types);
	if (!types || !op->attrs)
		return out_of_memory(ps);
	if (op_check(ps->f, op, types, &problem) != AN_OK) {
		token at = problem_place(st, &problem);
		if (!st->broken)
			diag_problem(&ps->diag, ps->f, op, &problem, at.line, at.column);
		return false;
	}
	if (op_table[op->op].opset > ps->f->opset)
		return ERROR(ps, AN_TYPE, &st->name, "%s exists from ios%d on, this function is ios%d",
			     op_table[op->op].name, op_table[op->op].opset, ps->f->opset);
	for (size_t i = 0; i < st->nresults; i++) {
		char have[96], want[96];
		if (an_type_equal(&st->types[i], &types[i]) || st->broken)
			continue;
		return ERROR(ps, AN_TYPE, &st->type_at[i], "%.*s is declared %s, but %s gives %s",
			     SHOWN(&st->result[i]), an_type_text(&st->types[i], have, sizeof have),
			     op_table[op->op].name, an_type_text(&types[i], want, sizeof want));
	}
	return true;
}

/* Enters the results; of a broken statement, so that their uses are not reported again. */
static bool define_results(parser *ps, statement *st, bool good)
{
	const char **names = arena_array(&ps->scratch, st->nresults, sizeof *names);
	size_t n = 0;
	if (!names)
		return out_of_memory(ps);
	for (size_t i = 0; i < st->nresults; i++) {
		const char *name = claim(ps, &st->result[i]);
		for (size_t k = 0; name && k < n && k < 64; k++)
			if (strcmp(names[k], name) == 0) {
				ERROR(ps, AN_TYPE, &st->result[i], "%s is defined twice in this statement",
				      name);
				name = NULL;
			}
		if (name) {
			st->types[n] = st->types[i];
			names[n++] = name;
		}
	}
	good = good && n == st->nresults && !st->broken;
	if (!n)
		return false;
	mil_op op = st->op;
	if (!good)
		op = (mil_op){.op = OP_IDENTITY, .line = st->result[0].line, .column = st->result[0].column};
	op.nresults = (uint16_t)MIN(n, UINT16_MAX);
	if (!op.name)
		op.name = names[0];
	if (fn_push(ps->f, &op, st->types, names) != AN_OK)
		return out_of_memory(ps);
	for (int i = 0; i < op.nresults && !good; i++)
		TRY_TRUE(set_mark(ps, ps->f->ops[ps->f->nops - 1].results[i], MARK_BROKEN));
	return good;
}

/* After an error in the results: what stands before the '=' will be used further down. */
static void recover_result(parser *ps, statement *st)
{
	token name = ps->tok;
	while (ps->tok.kind != TOKEN_END && ps->tok.kind != TOKEN_ARROW && !strchr("=(){};", *ps->tok.text)) {
		name = ps->tok;
		advance(ps);
	}
	size_t n = st->nresults;
	if (name.kind != TOKEN_NAME || !token_is(&ps->tok, '=') ||
	    !mem_grow(ps->ctx, &st->types, &st->types_cap, n, sizeof *st->types) ||
	    !mem_grow(ps->ctx, &st->result, &st->result_cap, n, sizeof *st->result))
		return;
	st->types[n] = (an_type){.dtype = AN_FP16};
	st->result[n] = name;
	st->nresults++;
}

static void parse_statement(parser *ps)
{
	statement st = {0};
	arena_mark mark = arena_save(&ps->scratch);
	bool typed = parse_results(ps, &st), good = typed && parse_operation(ps, &st);
	if (!typed)
		recover_result(ps, &st);
	if (!good)
		skip_statement(ps);
	else
		good = check_statement(ps, &st);
	define_results(ps, &st, good);
	mem_free(ps->ctx, st.types, st.types_cap * sizeof *st.types);
	mem_free(ps->ctx, st.type_at, st.type_at_cap * sizeof *st.type_at);
	mem_free(ps->ctx, st.result, st.result_cap * sizeof *st.result);
	mem_free(ps->ctx, st.attrs, st.attrs_cap * sizeof *st.attrs);
	mem_free(ps->ctx, st.attr_at, st.attr_at_cap * sizeof *st.attr_at);
	arena_rewind(&ps->scratch, mark);
}

/* ---- Functions --------------------------------------------------------------------- */

static bool parse_opset(parser *ps, uint8_t *opset)
{
	static const uint8_t known[] = {15, 16, 17, 18, 26};
	token t = ps->tok;
	TRY_TRUE(take(ps, '<') && take_name(ps, "an opset such as ios18", &t));
	for (int i = 0; i < LENGTH(known); i++) {
		char name[8];
		snprintf(name, sizeof name, "ios%d", known[i]);
		if (token_word(&t, name)) {
			*opset = known[i];
			return take(ps, '>');
		}
	}
	return ERROR(ps, AN_UNSUPPORTED, &t,
		     "opset '%.*s' is not supported: ios15, ios16, ios17, ios18 and ios26 are", SHOWN(&t));
}

static bool parse_inputs(parser *ps)
{
	TRY_TRUE(take(ps, '('));
	if (accept(ps, ')'))
		return true;
	do {
		token at = ps->tok, name = at;
		an_type t;
		TRY_TRUE(parse_type(ps, &t) && take_name(ps, "a name", &name));
		if (t.dtype == AN_STRING)
			return ERROR(ps, AN_TYPE, &at, "an input cannot be a string");
		const char *copy = claim(ps, &name);
		if (copy && fn_add_input(ps->f, copy, t, AN_ROLE_DATA) == AN_NO_VALUE)
			return out_of_memory(ps);
	} while (accept(ps, ','));
	return take(ps, ')');
}

static bool parse_outputs(parser *ps)
{
	if (ps->tok.kind != TOKEN_ARROW)
		return expected(ps, "'->' and the outputs");
	advance(ps);
	TRY_TRUE(take(ps, '('));
	do {
		token t;
		statement st = {0};
		an_value v;
		TRY_TRUE(take_name(ps, "the name of an output", &t));
		if (!parse_use(ps, &st, &t, &v))
			continue;
		if (ps->f->values[v].type.dtype == AN_STRING)
			ERROR(ps, AN_TYPE, &t, "%.*s is a string, which cannot be an output", SHOWN(&t));
		else if (fn_add_output(ps->f, v) != AN_OK)
			ERROR(ps, AN_TYPE, &t, "%.*s is returned twice", SHOWN(&t));
	} while (accept(ps, ','));
	return take(ps, ')') && take(ps, ';');
}

static bool parse_function(parser *ps)
{
	token name = ps->tok;
	TRY_TRUE(take_word(ps, "func") && take_name(ps, "a function name", &name));
	const char *copy = keep(ps, &name);
	if (!copy)
		return false;
	if (an_program_function(ps->p, copy))
		return ERROR(ps, AN_TYPE, &name, "function %.*s is already defined", SHOWN(&name));
	enum { FUNCTIONS_MAX = 4096 }; /* each name is compared with all before it */
	if (ps->p->nfunctions == FUNCTIONS_MAX)
		return ERROR(ps, AN_UNSUPPORTED, &name, "more than %d functions are not supported",
			     FUNCTIONS_MAX);
	if (ps->f && ps->mark) /* of the function before */
		memset(ps->mark, 0, MIN(ps->mark_cap, ps->f->nvalues));
	if (an_function_new(ps->p, copy, &ps->f) != AN_OK)
		return out_of_memory(ps);
	TRY_TRUE(parse_opset(ps, &ps->f->opset) && parse_inputs(ps));
	if (token_is(&ps->tok, '['))
		return ERROR(ps, AN_UNSUPPORTED, &ps->tok,
			     "attributes of functions (flexible shapes) are not supported");
	TRY_TRUE(take(ps, '{'));
	while (!token_is(&ps->tok, '}') && ps->tok.kind != TOKEN_END && !too_many(ps))
		parse_statement(ps);
	return too_many(ps) || (take(ps, '}') && parse_outputs(ps));
}

/* ---- Programs ---------------------------------------------------------------------- */

/* program(1.3) */
static bool parse_version(parser *ps)
{
	TRY_TRUE(take_word(ps, "program") && take(ps, '('));
	token t = ps->tok;
	int major = 0, minor = 0;
	char text[16] = {0}, rest;
	if (t.kind != TOKEN_NUMBER)
		return expected(ps, "a version such as 1.3");
	memcpy(text, t.text, MIN(t.len, sizeof text - 1));
	if (t.len >= sizeof text || sscanf(text, "%2d.%3d%c", &major, &minor, &rest) != 2 || minor < 0)
		return ERROR(ps, AN_SYNTAX, &t, "expected a version such as 1.3, found '%.*s'", SHOWN(&t));
	if (major != 1)
		return ERROR(ps, AN_UNSUPPORTED, &t, "MIL %d is not supported, only MIL 1", major);
	ps->p->version_major = major;
	ps->p->version_minor = minor;
	advance(ps);
	return take(ps, ')');
}

/* string or tensor<string, []> */
static bool parse_string_type(parser *ps)
{
	token at = ps->tok;
	an_type t;
	TRY_TRUE(parse_type(ps, &t));
	return (t.dtype == AN_STRING && t.rank == 0) ||
	       ERROR(ps, AN_UNSUPPORTED, &at, "only strings are supported here");
}

/* [buildInfo = dict<string, string>({{"key", "value"}, ...})] */
static bool parse_build_info(parser *ps)
{
	token key = ps->tok;
	TRY_TRUE(take(ps, '[') && take_name(ps, "buildInfo", &key));
	if (!token_word(&key, "buildInfo"))
		return ERROR(ps, AN_UNSUPPORTED, &key, "attribute '%.*s' of a program is not supported",
			     SHOWN(&key));
	TRY_TRUE(take(ps, '=') && take_word(ps, "dict") && take(ps, '<') && parse_string_type(ps) &&
		 take(ps, ',') && parse_string_type(ps) && take(ps, '>') && take(ps, '(') && take(ps, '{'));
	mil_pair *pairs = NULL;
	size_t n = 0, cap = 0;
	bool good = true;
	if (!token_is(&ps->tok, '}'))
		do {
			mil_pair pair = {0};
			good = take(ps, '{') && parse_string(ps, &pair.key) && take(ps, ',') &&
			       parse_string(ps, &pair.value) && take(ps, '}');
			if (good && !mem_grow(ps->ctx, &pairs, &cap, n, sizeof *pairs))
				good = out_of_memory(ps);
			if (good)
				pairs[n++] = pair;
		} while (good && accept(ps, ','));
	if (good) {
		ps->p->info = arena_copy(ps->a, pairs, n * sizeof *pairs);
		ps->p->ninfo = n;
		good = ps->p->info || out_of_memory(ps);
	}
	mem_free(ps->ctx, pairs, cap * sizeof *pairs);
	return good && take(ps, '}') && take(ps, ')') && take(ps, ']');
}

static bool parse_program(parser *ps)
{
	TRY_TRUE(parse_version(ps));
	ps->p->ninfo = 0;
	if (token_is(&ps->tok, '['))
		TRY_TRUE(parse_build_info(ps));
	TRY_TRUE(take(ps, '{'));
	while (!token_is(&ps->tok, '}') && !too_many(ps))
		TRY_TRUE(parse_function(ps));
	if (too_many(ps))
		return false;
	TRY_TRUE(take(ps, '}'));
	if (ps->tok.kind != TOKEN_END)
		return expected(ps, "the end of the text");
	if (!ps->p->nfunctions)
		return ERROR(ps, AN_TYPE, &ps->tok, "the program has no function");
	return true;
}

an_status an_program_parse(an_ctx *ctx, const char *text, size_t len, const char *name, an_program **out)
{
	an_program *p;
	*out = NULL;
	TRY(an_program_new(ctx, &p));
	p->file = arena_strdup(&p->arena, name ? name : "<text>");
	p->source = arena_strndup(&p->arena, text, len);
	p->source_len = len;
	if (!p->file || !p->source) {
		an_program_free(p);
		return fail_memory(ctx, len);
	}
	parser ps = {.ctx = ctx, .p = p, .a = &p->arena};
	arena_init(&ps.scratch, ctx);
	diag_init(&ps.diag, ctx, p->file, p->source, len);
	lex_init(&ps.lex, p->source, len);
	advance(&ps);
	parse_program(&ps);
	an_status s = diag_finish(&ps.diag);
	arena_free(&ps.scratch);
	mem_free(ctx, ps.mark, ps.mark_cap);
	mem_free(ctx, ps.bytes, ps.bytes_cap);
	mem_free(ctx, ps.strings, ps.strings_cap * sizeof *ps.strings);
	if (s == AN_OK)
		*out = p;
	else
		an_program_free(p);
	return s;
}
