#include "support/text_temp.h"

#include "base/file.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

static char root[64];

static void remove_root(void)
{
	an_ctx *ctx;
	if (an_ctx_open(NULL, &ctx) == AN_OK) {
		(void)dir_remove(ctx, root);
		an_ctx_close(ctx);
	}
}

const char *temp_path(const char *name)
{
	static char path[8][512];
	static int next;
	if (!root[0]) {
		/* in memory where that is possible: tests write many files, and each is flushed to disk */
		snprintf(root, sizeof root, "/dev/shm/anneal-test-XXXXXX");
		if (!mkdtemp(root)) {
			snprintf(root, sizeof root, "/tmp/anneal-test-XXXXXX");
			if (!mkdtemp(root))
				abort();
		}
		atexit(remove_root);
	}
	char *p = path[next++ % 8];
	snprintf(p, sizeof path[0], "%s/%s", root, name);
	return p;
}

void temp_write(const char *name, const void *data, size_t n)
{
	FILE *f = fopen(temp_path(name), "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
}

char *temp_read(const char *name, size_t *n)
{
	FILE *f = fopen(temp_path(name), "rb");
	assert_non_null(f);
	fseek(f, 0, SEEK_END);
	size_t size = (size_t)ftell(f);
	rewind(f);
	char *p = malloc(size + 1);
	assert_non_null(p);
	assert_int_equal(fread(p, 1, size, f), size);
	p[size] = 0;
	fclose(f);
	if (n)
		*n = size;
	return p;
}

int temp_leftovers(const char *folder)
{
	DIR *d = opendir(temp_path(folder));
	assert_non_null(d);
	int n = 0;
	for (struct dirent *e; (e = readdir(d));)
		n += strstr(e->d_name, ".tmp-") != NULL;
	closedir(d);
	return n;
}

static void *count_resize(void *user, void *p, size_t old_size, size_t new_size)
{
	counting *c = user;
	(void)old_size;
	if (new_size == 0) {
		c->live -= p != NULL;
		free(p);
		return NULL;
	}
	c->calls++;
	if (c->fail_at && c->calls >= c->fail_at)
		return NULL;
	c->live += p == NULL;
	return realloc(p, new_size);
}

an_ctx *counting_ctx(counting *c)
{
	an_allocator a = {count_resize, c};
	an_ctx_options opt = {.allocator = &a, .threads = 1};
	an_ctx *ctx;
	assert_int_equal(an_ctx_open(&opt, &ctx), AN_OK);
	return ctx;
}

void survive_without_memory(an_status (*fn)(an_ctx *ctx))
{
	for (long k = 1;; k++) {
		counting c = {0};
		an_ctx *ctx = counting_ctx(&c);
		c.fail_at = c.calls + k;
		an_status s = fn(ctx);
		if (s != AN_OK && (s != AN_MEMORY || !*an_message(ctx)))
			fail_msg("allocation %ld failing: %s: \"%s\"", k, an_status_name(s), an_message(ctx));
		bool enough = c.calls < c.fail_at;
		if (enough && s != AN_OK)
			fail_msg("failed with memory: %s", an_message(ctx));
		an_ctx_close(ctx);
		if (c.live)
			fail_msg("allocation %ld failing: %ld blocks were not freed", k, c.live);
		if (enough)
			return;
	}
}
