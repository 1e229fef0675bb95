/* Programs in folders: text, blobs, parameter tables; written, read, moved, damaged. */
#include "support/mil_support.h"

#include <sys/stat.h>

static char dir[256];

static const char *in_dir(const char *name)
{
	static char paths[4][1024];
	static int next;
	char *p = paths[next++ % 4];
	snprintf(p, sizeof paths[0], "%s/%s", dir, name);
	return p;
}

static void write_text(const char *name, const char *text)
{
	FILE *f = fopen(in_dir(name), "wb");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

/* y = (x w + b) * s with w large (a blob), b a blob, s inline. */
static an_program *example(an_ctx *ctx, float seed)
{
	an_program *p;
	an_function *f;
	MIL_OK(ctx, an_program_new(ctx, &p));
	MIL_OK(ctx, an_function_new(p, "main", &f));
	an_builder b = an_builder_on(f);
	uint16_t w[16 * 16];
	float big[65];
	for (int i = 0; i < LENGTH(w); i++)
		w[i] = (uint16_t)(i * 7);
	for (int i = 0; i < LENGTH(big); i++)
		big[i] = seed + (float)i;
	an_value x = an_input(&b, "x", an_tensor(AN_FP16, 2, (int32_t[]){3, 16}));
	an_value k = an_input(&b, "k", an_tensor(AN_FP16, 2, (int32_t[]){1, 16}));
	an_value y =
	    an_matmul(&b, x, an_const(&b, "w", an_tensor(AN_FP16, 2, (int32_t[]){16, 16}), w), false, false);
	y = an_scale(&b, an_add(&b, y, k), 0.5);
	an_output(&b, an_name(&b, y, "y"));
	an_output(
	    &b,
	    an_name(&b, an_unary(&b, "abs", an_const(&b, "big", an_tensor(AN_FP32, 1, (int32_t[]){65}), big)),
		    "z"));
	an_function_set_role(f, k, AN_ROLE_PARAM);
	MIL_OK(ctx, an_builder_finish(&b));
	return p;
}

static const mil_literal *literal(an_program *p, const char *name)
{
	const an_function *f = an_program_function(p, NULL);
	for (size_t i = 0; i < f->nops; i++)
		if (f->ops[i].op == OP_CONST && op_attr(&f->ops[i], "val")->kind == LIT_BLOB &&
		    (!name || strcmp(f->values[f->ops[i].results[0]].name, name) == 0))
			return op_attr(&f->ops[i], "val");
	fail_msg("no blob constant %s", name ? name : "");
	return NULL;
}

static void written_programs_are_read(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	an_program *p = example(ctx, 1), *q, *other = example(ctx, 2), *r;
	MIL_OK(ctx, an_program_write(p, in_dir("net"), "a"));
	MIL_OK(ctx, an_program_write(other, in_dir("net"),
				     "b")); /* beside it, with other values under the same names */
	MIL_OK(ctx, an_program_read(ctx, in_dir("net/a.mil"), &q));
	const char *d = mil_difference(p, q); /* roles too */
	if (d)
		fail_msg("%s", d);
	assert_null(literal(q, "w")->bytes);
	assert_null(
	    fn_const(an_program_function(q, NULL), an_function_find(an_program_function(q, NULL), "w")));
	MIL_OK(ctx, program_load_blobs(q));
	assert_memory_equal(literal(q, "w")->bytes, literal(p, "w")->bytes, 512);
	assert_memory_equal(literal(q, "big")->bytes, literal(p, "big")->bytes, 65 * 4);
	/* written elsewhere: once with its values loaded, once without (copied) */
	MIL_OK(ctx, an_program_write(q, in_dir("loaded"), "c"));
	MIL_OK(ctx, an_program_read(ctx, in_dir("net/a.mil"), &r));
	MIL_OK(ctx, an_program_write(r, in_dir("copied"), "c"));
	MIL_OK(ctx, an_program_write(r, in_dir("net"), "a")); /* onto itself */
	an_program_free(r);
	for (int i = 0; i < 2; i++) {
		MIL_OK(ctx, an_program_read(ctx, in_dir(i ? "copied/c.mil" : "loaded/c.mil"), &r));
		MIL_OK(ctx, program_load_blobs(r));
		assert_null(mil_difference(p, r));
		assert_memory_equal(literal(r, "w")->bytes, literal(p, "w")->bytes, 512);
		an_program_free(r);
	}
	/* a clone in another program owns its constants */
	an_function *f;
	MIL_OK(ctx, an_program_new(ctx, &r));
	MIL_OK(ctx, an_function_clone(r, an_program_function(q, NULL), "copy", &f));
	an_program_free(q);
	MIL_OK(ctx, an_program_verify(r));
	assert_memory_equal(literal(r, "w")->bytes, literal(p, "w")->bytes, 512);
	assert_int_equal(an_function_role(f, an_function_find(f, "k")), AN_ROLE_PARAM);
	an_program_free(r);
	an_program_free(p);
	an_program_free(other);
	an_ctx_close(ctx);
}

static void refused(an_ctx *ctx, an_status s, const char *words)
{
	assert_int_not_equal(s, AN_OK);
	if (!strstr(an_message(ctx), words))
		fail_msg("wanted %s\n   got %s", words, an_message(ctx));
}

static void damaged_folders_are_refused(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	an_program *p = example(ctx, 3), *q;
	MIL_OK(ctx, an_program_write(p, in_dir("bad"), "a"));
	refused(ctx, an_program_read(ctx, in_dir("bad/none.mil"), &q), "none.mil");
	/* a table that does not fit the program */
	static const char *const tables[][2] = {
	    {"{", "a.params.json:1:"},
	    {"[]", "not a table of parameters"},
	    {"{\"format\": \"anneal params\", \"version\": 2, \"functions\": {}}", "version must be 1"},
	    {"{\"format\": \"anneal params\", \"version\": 1, \"functions\": {\"m\": []}}",
	     "no function \"m\""},
	    {"{\"format\": \"anneal params\", \"version\": 1, \"functions\": {\"main\": 3}}",
	     "must be a list"},
	    {"{\"format\": \"anneal params\", \"version\": 1, \"functions\": {\"main\": [{\"name\": "
	     "\"k\"}]}}",
	     "needs name, role"},
	    {"{\"format\": \"anneal params\", \"version\": 1, \"functions\": {\"main\": [{\"name\": \"y\", "
	     "\"role\": \"data\", "
	     "\"dtype\": \"fp16\", \"shape\": []}]}}",
	     "no input \"y\""},
	    {"{\"format\": \"anneal params\", \"version\": 1, \"functions\": {\"main\": [{\"name\": \"k\", "
	     "\"role\": \"data\", "
	     "\"dtype\": \"fp16\", \"shape\": [16]}]}}",
	     "is tensor<fp16, [1, 16]> in the program"},
	    {"{\"format\": \"anneal params\", \"version\": 1, \"functions\": {\"main\": [{\"name\": \"k\", "
	     "\"role\": \"boss\", "
	     "\"dtype\": \"fp16\", \"shape\": [1, 16]}]}}",
	     "has the role \"boss\""}};
	for (int i = 0; i < LENGTH(tables); i++) {
		write_text("bad/a.params.json", tables[i][0]);
		refused(ctx, an_program_read(ctx, in_dir("bad/a.mil"), &q), tables[i][1]);
		assert_null(q);
	}
	unlink(in_dir("bad/a.params.json")); /* without a table all inputs are data */
	MIL_OK(ctx, an_program_read(ctx, in_dir("bad/a.mil"), &q));
	const an_function *f = an_program_function(q, NULL);
	assert_int_equal(an_function_role(f, an_function_find(f, "k")), AN_ROLE_DATA);
	an_program_free(q);
	/* blobs: cut, then gone */
	char blob[400];
	snprintf(blob, sizeof blob, "bad/%s", literal(p, "w")->path + strlen("@model_path/"));
	assert_int_equal(truncate(in_dir(blob), 300), 0);
	MIL_OK(ctx, an_program_read(ctx, in_dir("bad/a.mil"), &q));
	refused(ctx, program_load_blobs(q), "truncated or malformed");
	an_program_free(q);
	unlink(in_dir(blob));
	MIL_OK(ctx, an_program_read(ctx, in_dir("bad/a.mil"), &q));
	refused(ctx, program_load_blobs(q), "weights/w_");
	/* text alone can be worked on: it is written without the values that are not there */
	an_program *r;
	an_function *g;
	MIL_OK(ctx, an_program_new(ctx, &r));
	MIL_OK(ctx, an_function_clone(r, an_program_function(q, NULL), "main", &g));
	an_program_free(q);
	MIL_OK(ctx, an_program_write(r, in_dir("elsewhere"), "a"));
	an_program_free(r);
	MIL_OK(ctx, an_program_read(ctx, in_dir("elsewhere/a.mil"), &q));
	refused(ctx, program_load_blobs(q), "weights/w_");
	an_program_free(q);
	refused(ctx, an_program_write(p, in_dir("bad"), "x/y"), "cannot be the name");
	refused(ctx, an_program_write(p, "/proc/no/such/folder", "a"), "/proc/no");
	an_program_free(p);
	an_ctx_close(ctx);
}

/* Programs come from anywhere: their paths stay below their folder. */
static void paths_stay_inside(void **state)
{
	(void)state;
	static const char *const bad[] = {
	    "/etc/passwd",  "w.bin",          "@model_path/../w.bin", "@model_path/a/../../w.bin",
	    "@model_path/", "@model_path/a/", "@model_path/.."};
	an_ctx *ctx = mil_open();
	an_program *p;
	char text[400];
	for (int i = 0; i < LENGTH(bad); i++) {
		snprintf(text, sizeof text,
			 "program(1.3) { func main<ios18>(fp16 x) { tensor<fp16, [2]> y = const()[val = "
			 "tensor<fp16, "
			 "[2]>(BLOBFILE(path = string(\"%s\"), offset = uint64(64)))]; } -> (y); }",
			 bad[i]);
		write_text("p.mil", text);
		MIL_OK(ctx, an_program_read(ctx, in_dir("p.mil"), &p));
		assert_int_not_equal(program_load_blobs(p), AN_OK);
		assert_non_null(strstr(an_message(ctx), bad[i]));
		assert_int_not_equal(an_program_write(p, in_dir("out"), "p"), AN_OK);
		an_program_free(p);
	}
	/* a program that was not read has no folder */
	char *dots = strstr(text, "..");
	memcpy(dots, "ab", 2);
	MIL_OK(ctx, an_program_parse(ctx, text, strlen(text), "t", &p));
	refused(ctx, program_load_blobs(p), "was not read from a file");
	refused(ctx, an_program_write(p, in_dir("out"), "p"), "no values");
	an_program_free(p);
	an_ctx_close(ctx);
}

/* Several constants in one file, sharing records; misaligned data; malformed records on request. */
static void shared_and_malformed_files(void **state)
{
	(void)state;
	an_ctx *ctx = mil_open();
	an_program *p, *q;
	static const char text[] = "program(1.3) { func main<ios18>(fp16 x) {\n"
				   "tensor<fp16, [2]> a = const()[val = tensor<fp16, [2]>(BLOBFILE(path = "
				   "string(\"@model_path/w.bin\"), offset = "
				   "uint64(64)))];\n"
				   "tensor<fp16, [1, 2]> b = const()[val = tensor<fp16, [1, "
				   "2]>(BLOBFILE(path = string(\"@model_path/w.bin\"), offset = "
				   "uint64(64)))];\n"
				   "tensor<fp32, [1]> c = const()[val = tensor<fp32, [1]>(BLOBFILE(path = "
				   "string(\"@model_path/w.bin\"), offset = "
				   "uint64(192)))];\n} -> (a, b, c); }";
	blob_writer *w;
	uint64_t at;
	an_type t = an_tensor(AN_FP16, 1, (int32_t[]){2}), u = an_tensor(AN_FP32, 1, (int32_t[]){1});
	write_text("s.mil", text);
	MIL_OK(ctx, blob_create(ctx, in_dir("w.bin"), 2, &w));
	MIL_OK(ctx, blob_add(w, &t, (uint16_t[]){1, 2}, &at));
	MIL_OK(ctx, blob_add(w, &u, (float[]){3}, &at));
	MIL_OK(ctx, blob_commit(w));
	MIL_OK(ctx, an_program_read(ctx, in_dir("s.mil"), &p));
	MIL_OK(ctx, program_load_blobs(p));
	MIL_OK(ctx, an_program_write(p, in_dir("shared"), "s"));
	size_t n1, n2;
	char *one = mil_slurp(in_dir("w.bin"), &n1), *two = mil_slurp(in_dir("shared/w.bin"), &n2);
	assert_int_equal(n1, n2);
	assert_memory_equal(one, two, n1);
	an_program_free(p);
	/* a record that only has the sentinel, at an odd place */
	uint8_t odd[160] = {0};
	memcpy(odd + 65, "\xef\xbe\xad\xde", 4);
	odd[129] = 7;
	FILE *f = fopen(in_dir("w.bin"), "wb");
	fwrite(odd, 1, sizeof odd, f);
	fclose(f);
	write_text(
	    "s.mil",
	    "program(1.3) { func main<ios18>(fp16 x) { tensor<fp16, [2]> a = const()[val = tensor<fp16, "
	    "[2]>(BLOBFILE(path = string(\"@model_path/w.bin\"), offset = uint64(65)))]; } -> (a); }");
	MIL_OK(ctx, an_program_read(ctx, in_dir("s.mil"), &q));
	assert_int_equal(program_load_blobs(q), AN_FORMAT);
	q->lenient_blobs = true;
	MIL_OK(ctx, program_load_blobs(q));
	assert_true(lit_number(literal(q, "a"), 0) == 0x7p-24);
	assert_int_equal((uintptr_t)literal(q, "a")->bytes % 2, 0);
	MIL_OK(ctx, an_program_write(q, in_dir("odd"), "s")); /* cannot be rewritten officially: copied */
	free(two);
	two = mil_slurp(in_dir("odd/w.bin"), &n2);
	assert_int_equal(n2, sizeof odd);
	assert_memory_equal(two, odd, n2);
	an_program_free(q);
	free(one);
	free(two);
	an_ctx_close(ctx);
}

int main(void)
{
	snprintf(dir, sizeof dir, "/tmp/anneal-test-files-%ld", (long)getpid());
	if (mkdir(dir, 0700))
		return 1;
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(written_programs_are_read), cmocka_unit_test(damaged_folders_are_refused),
	    cmocka_unit_test(paths_stay_inside), cmocka_unit_test(shared_and_malformed_files)};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	an_ctx *ctx = mil_open();
	dir_remove(ctx, dir);
	an_ctx_close(ctx);
	return failed;
}
