/* Blob storage files, through a program that takes a constant from one. */
static const char *const input_name = "w.bin";
#include "fuzz.h"

static void try_input(an_ctx *ctx, const char *path, const char *text, size_t len)
{
	static const char program[] =
	    "program(1.3)\n{\n    func main<ios18>(tensor<fp16, [4]> x) {\n"
	    "        tensor<fp16, [4]> w = const()[name = string(\"w\"), val = tensor<fp16, [4]>(BLOBFILE("
	    "path = string(\"@model_path/w.bin\"), offset = uint64(64)))];\n"
	    "        tensor<fp16, [4]> y = add(x = x, y = w)[name = string(\"y\")];\n    } -> (y);\n}\n";
	char mil[160];
	(void)text;
	(void)len;
	snprintf(mil, sizeof mil, "%.*s/p.mil", (int)(strrchr(path, '/') - path), path);
	FILE *f = fopen(mil, "w");
	if (!f || fputs(program, f) < 0 || fclose(f) != 0)
		abort();
	an_program *p;
	an_device *d;
	an_executable *e;
	if (accepted(ctx, an_program_read(ctx, mil, &p))) {
		if (an_device_open(ctx, NULL, &d) != AN_OK)
			abort();
		accepted(ctx, an_compile(d, an_program_function(p, NULL), &e)); /* reads the constant */
		an_device_close(d);
		an_program_free(p);
	}
	unlink(mil);
}
