/* The engine's habits as switches. */
#include "ane/quirks.h"

#include <stdlib.h>

enum { M1 = 1, M2 = 2, M3 = 4, M4 = 8, M5 = 16, ALL = 31 };
enum { OBJC = ANE_ROUTE_OBJC, E5RT = ANE_ROUTE_E5RT, BOTH = OBJC | E5RT };
#define ROUTES(mask) ((mask) == OBJC ? "objc" : (mask) == E5RT ? "e5rt" : "objc, e5rt")
static const char *const chip_name[] = {"m1", "m2", "m3", "m4", "m5"};

static const struct row {
	an_quirk public;
	int64_t initial, number;
	unsigned chips, routes;
} rows[QUIRK_COUNT] = {
#define QUIRK(id, name, initial, number, chips, routes, breach, sentence, evidence)             \
	[QUIRK_##id] = {{name, sentence, evidence, AN_QUIRK_##breach, initial, ROUTES(routes)}, \
			initial,                                                                \
			number,                                                                 \
			chips,                                                                  \
			routes},
#include "ane/quirks.def"
#undef QUIRK
};

const an_quirk *an_quirk_at(int i) { return i >= 0 && i < QUIRK_COUNT ? &rows[i].public : NULL; }

void ane_quirk_text(str *s, int quirk)
{
	const an_quirk *r = &rows[quirk].public;
	str_addf(s, "quirk %s: %s (%s)", r->name, r->sentence, r->evidence);
}

static bool is_constant(const an_function *f, an_value v)
{
	return f->values[v].op >= 0 && f->ops[f->values[v].op].op == OP_CONST;
}

/* Whether the argument of that name is there. */
static bool has(const mil_op *op, const char *param, an_value *v)
{
	const op_row *row = &op_table[op->op];
	for (int k = 0; k < OP_MAX_PARAMS && row->param[k].name; k++)
		if (!strcmp(row->param[k].name, param) && op->arg[k].n) {
			*v = op->arg[k].v[0];
			return true;
		}
	return false;
}

int ane_quirk_of(const ane_quirks *q, const an_function *f, const mil_op *op)
{
	an_value v;
	matmul_spec m;
	switch (op->op) {
	case OP_CONCAT: return q->value[QUIRK_NO_CONCAT] ? QUIRK_NO_CONCAT : -1;
	case OP_TILE: return q->value[QUIRK_NO_TILE] ? QUIRK_NO_TILE : -1;
	case OP_SCALED_DOT_PRODUCT_ATTENTION:
		return q->value[QUIRK_UNMASKED] && has(op, "attn_mask", &v) ? QUIRK_UNMASKED : -1;
	case OP_CONV:
		return q->value[QUIRK_CONSTANT_KERNELS] && has(op, "weight", &v) && !is_constant(f, v)
			   ? QUIRK_CONSTANT_KERNELS
			   : -1;
	case OP_MATMUL:
	case OP_LINEAR:
		return q->value[QUIRK_CONTRACTION] && op_matmul_spec(f, op, &m) == AN_OK &&
			       m.k % q->value[QUIRK_CONTRACTION]
			   ? QUIRK_CONTRACTION
			   : -1;
	default: return -1;
	}
}

/* One "name=value" of `len` characters. */
static an_status set_one(an_ctx *ctx, const char *text, size_t len, ane_quirks *out)
{
	const char *equals = memchr(text, '=', len);
	size_t name = equals ? (size_t)(equals - text) : len;
	int i = 0;
	while (i < QUIRK_COUNT &&
	       (strlen(rows[i].public.name) != name || memcmp(rows[i].public.name, text, name)))
		i++;
	if (i == QUIRK_COUNT) {
		str list;
		str_init(&list, ctx);
		for (int k = 0; k < QUIRK_COUNT; k++)
			str_addf(&list, "%s%s", k ? ", " : "", rows[k].public.name);
		an_status s = str_status(&list);
		if (s == AN_OK)
			s = fail(ctx, AN_USAGE, "there is no quirk \"%.*s\"; there are %s", (int)name, text,
				 list.data);
		str_free(&list);
		return s;
	}
	size_t n = equals ? len - name - 1 : 0;
	const char *value = text + len - n;
	int64_t number = 0;
	bool digits = n > 0 && n < 10;
	for (size_t k = 0; k < n && digits; k++) {
		digits = value[k] >= '0' && value[k] <= '9';
		number = 10 * number + (value[k] - '0');
	}
	if (n == 2 && !memcmp(value, "on", 2))
		out->value[i] = rows[i].number;
	else if (n == 3 && !memcmp(value, "off", 3))
		out->value[i] = 0;
	else if (digits && (rows[i].number > 1 || number <= 1))
		out->value[i] = number;
	else
		return fail(ctx, AN_USAGE, "quirk \"%.*s\": a quirk is set by NAME=on, NAME=off%s", (int)len,
			    text, rows[i].number > 1 ? " or NAME=NUMBER" : "; this one has no number");
	return AN_OK;
}

an_status ane_quirks_set(an_ctx *ctx, const char *chip, unsigned routes, const char *text, ane_quirks *out)
{
	unsigned mask = 0;
	for (int i = 0; chip && i < LENGTH(chip_name); i++)
		if (!strcmp(chip, chip_name[i]))
			mask = 1u << i;
	for (int i = 0; i < QUIRK_COUNT; i++)
		out->value[i] =
		    (!mask || rows[i].chips & mask) && rows[i].routes & routes ? rows[i].initial : 0;
	while (text && *text) {
		size_t len = strcspn(text, ",");
		TRY(set_one(ctx, text, len, out));
		text += len + (text[len] == ',');
	}
	return AN_OK;
}
