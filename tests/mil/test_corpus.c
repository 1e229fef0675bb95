/* Programs that real clients emit: all parse, verify, and survive printing.  Skipped where the
 * collection is absent. */
#include "support/mil_support.h"

#include <dirent.h>

static int compare(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* All .mil files below the corpus, sorted; NULL-terminated. */
static char **list_files(int *n)
{
	static const char *const folders[] = {"maderix", "orion"};
	char **files = calloc(1000, sizeof *files);
	*n = 0;
	for (int i = 0; i < LENGTH(folders); i++) {
		char dir[600], path[1200];
		snprintf(dir, sizeof dir, "%s/%s", TEST_CORPUS_DIR, folders[i]);
		DIR *d = opendir(dir);
		for (struct dirent *e; d && *n < 999 && (e = readdir(d));)
			if (strstr(e->d_name, ".mil")) {
				snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
				files[(*n)++] = strdup(path);
			}
		if (d)
			closedir(d);
	}
	qsort(files, (size_t)*n, sizeof *files, compare);
	return files;
}

static void corpus_round_trips(void **state)
{
	(void)state;
	int n;
	char **files = list_files(&n);
	if (!n) {
		free(files);
		skip();
	}
	an_ctx *ctx = mil_open();
	for (int i = 0; i < n; i++) {
		size_t len, len1, len2;
		char *text = mil_slurp(files[i], &len), *once, *twice;
		an_program *p, *q;
		MIL_OK(ctx, an_program_parse(ctx, text, len, files[i], &p));
		MIL_OK(ctx, an_program_verify(p));
		MIL_OK(ctx, an_program_print(p, &once, &len1));
		MIL_OK(ctx, an_program_parse(ctx, once, len1, "printed", &q));
		const char *d = mil_difference(p, q);
		if (d)
			fail_msg("%s: %s", files[i], d);
		MIL_OK(ctx, an_program_print(q, &twice, &len2));
		assert_int_equal(len1, len2);
		assert_memory_equal(once, twice, len1);
		an_text_free(ctx, once, len1);
		an_text_free(ctx, twice, len2);
		an_program_free(p);
		an_program_free(q);
		free(text);
		free(files[i]);
	}
	print_message("%d programs\n", n);
	free(files);
	an_ctx_close(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(corpus_round_trips)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
