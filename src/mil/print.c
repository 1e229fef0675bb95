/* MIL text out of a program: parsed again, it is the same program. */
#include "mil/ir.h"

/* MIL 1.0 writes scalars as tensors of rank 0. */
static bool bare_scalars(const an_program *p) { return p->version_major > 1 || p->version_minor >= 3; }

static void print_type(str *s, const an_program *p, an_type t)
{
	char text[96];
	t.tensor |= !bare_scalars(p);
	str_add(s, an_type_text(&t, text, sizeof text));
}

static void print_string(str *s, const char *text)
{
	str_add(s, "\"");
	for (const char *c = text; *c; c++) {
		if (*c == '"' || *c == '\\')
			str_addf(s, "\\%c", *c);
		else if (*c == '\n')
			str_add(s, "\\n");
		else if ((unsigned char)*c < ' ' || *c == 127)
			str_addf(s, "\\x%02x", *c);
		else
			str_add_n(s, c, 1);
	}
	str_add(s, "\"");
}

static void print_element(str *s, const mil_literal *l, int64_t i)
{
	if (l->kind == LIT_STRINGS)
		print_string(s, l->strings[i]);
	else
		mil_print_number(s, l->type.dtype,
				 (const char *)l->bytes + (size_t)i * an_dtype_size(l->type.dtype));
}

static void print_literal(str *s, const an_program *p, const mil_literal *l)
{
	const char *string = bare_scalars(p) ? "string" : "tensor<string, []>";
	const char *uint64 = bare_scalars(p) ? "uint64" : "tensor<uint64, []>";
	print_type(s, p, l->type);
	str_add(s, "(");
	if (l->kind == LIT_BLOB) {
		str_addf(s, "BLOBFILE(path = %s(", string);
		print_string(s, l->path);
		str_addf(s, "), offset = %s(%llu))", uint64, (unsigned long long)l->offset);
	} else {
		/* nested lists: a bracket wherever an axis begins or ends */
		int64_t n = an_type_count(&l->type);
		for (int64_t i = 0; i < n; i++) {
			int opens = 0, closes = 0;
			int64_t block = 1;
			for (int a = l->type.rank - 1; a >= 0; a--) {
				block *= l->type.dim[a];
				opens += i % block == 0;
				closes += (i + 1) % block == 0;
			}
			str_add_n(s, "[[[[[", (size_t)opens);
			print_element(s, l, i);
			str_add_n(s, "]]]]]", (size_t)closes);
			if (i + 1 < n)
				str_add(s, ", ");
		}
	}
	str_add(s, ")");
}

static void print_op(str *s, const an_function *f, const mil_op *op)
{
	const an_program *p = f->program;
	const op_row *row = &op_table[op->op];
	str_add(s, "        ");
	for (int i = 0; i < op->nresults; i++) {
		const mil_value *v = fn_value(f, op->results[i]);
		print_type(s, p, v->type);
		str_addf(s, " %s%s", v->name, i + 1 < op->nresults ? ", " : " = ");
	}
	str_addf(s, "%s(", row->name);
	const char *comma = "";
	for (int i = 0; i < OP_MAX_PARAMS && row->param[i].name; i++) {
		const mil_use *use = &op->arg[i];
		if (!use->n)
			continue;
		str_addf(s, "%s%s = %s", comma, row->param[i].name, use->list ? "(" : "");
		for (uint32_t k = 0; k < use->n; k++)
			str_addf(s, "%s%s", k ? ", " : "", fn_value(f, use->v[k])->name);
		str_add(s, use->list ? ")" : "");
		comma = ", ";
	}
	str_addf(s, ")[name = %s(", bare_scalars(p) ? "string" : "tensor<string, []>");
	print_string(s, op->name);
	str_add(s, ")");
	for (uint32_t i = 0; i < op->nattrs; i++) {
		str_addf(s, ", %s = ", op->attrs[i].key);
		print_literal(s, p, &op->attrs[i].lit);
	}
	str_add(s, "];\n");
}

static void print_function(str *s, const an_function *f)
{
	str_addf(s, "    func %s<ios%d>(", f->name, f->opset);
	for (size_t i = 0; i < f->ninputs; i++) {
		const mil_value *v = fn_value(f, f->inputs[i]);
		str_add(s, i ? ", " : "");
		print_type(s, f->program, v->type);
		str_addf(s, " %s", v->name);
	}
	str_add(s, ") {\n");
	for (size_t i = 0; i < f->nops; i++)
		print_op(s, f, &f->ops[i]);
	str_add(s, "    } -> (");
	for (size_t i = 0; i < f->noutputs; i++)
		str_addf(s, "%s%s", i ? ", " : "", fn_value(f, f->outputs[i])->name);
	str_add(s, ");\n");
}

an_status an_program_print(const an_program *p, char **text, size_t *len)
{
	str s;
	str_init(&s, p->ctx);
	str_addf(&s, "program(%d.%d)\n", p->version_major, p->version_minor);
	if (p->ninfo) {
		const char *type = bare_scalars(p) ? "string" : "tensor<string, []>";
		str_addf(&s, "[buildInfo = dict<%s, %s>({", type, type);
		for (size_t i = 0; i < p->ninfo; i++) {
			str_add(&s, i ? ", {" : "{");
			print_string(&s, p->info[i].key);
			str_add(&s, ", ");
			print_string(&s, p->info[i].value);
			str_add(&s, "}");
		}
		str_add(&s, "})]\n");
	}
	str_add(&s, "{\n");
	for (size_t i = 0; i < p->nfunctions; i++)
		print_function(&s, p->functions[i]);
	str_add(&s, "}\n");
	an_status status = str_status(&s);
	if (status == AN_OK)
		status = s.len ? AN_OK : fail_memory(p->ctx, 0);
	char *copy = status == AN_OK ? mem_alloc(p->ctx, s.len + 1) : NULL;
	if (status == AN_OK && !copy)
		status = fail_memory(p->ctx, s.len + 1);
	if (copy)
		memcpy(copy, s.data, s.len + 1);
	*text = copy;
	*len = copy ? s.len : 0;
	str_free(&s);
	return status;
}

void an_text_free(an_ctx *ctx, char *text, size_t len) { mem_free(ctx, text, len + 1); }
