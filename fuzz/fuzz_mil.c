/* MIL text: what parses prints, and what is printed parses to the same text. */
static const char *const input_name = "program.mil";
#include "fuzz.h"

static void try_input(an_ctx *ctx, const char *path, const char *text, size_t len)
{
	an_program *p, *again;
	char *first, *second;
	size_t first_len, second_len;
	(void)path;
	if (!accepted(ctx, an_program_parse(ctx, text, len, "fuzz.mil", &p)))
		return;
	if (an_program_print(p, &first, &first_len) != AN_OK ||
	    an_program_parse(ctx, first, first_len, "again.mil", &again) != AN_OK ||
	    an_program_print(again, &second, &second_len) != AN_OK)
		abort();
	if (first_len != second_len || memcmp(first, second, first_len) != 0)
		abort();
	an_text_free(ctx, first, first_len);
	an_text_free(ctx, second, second_len);
	an_program_free(again);
	an_program_free(p);
}
