/* Token files. */
#include "anneal/text.h"
#include "base/base.h"
#include "support/text_temp.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <cmocka.h>

static an_ctx *ctx;

static int setup(void **state)
{
	(void)state;
	return an_ctx_open(NULL, &ctx) != AN_OK;
}

static int teardown(void **state)
{
	(void)state;
	an_ctx_close(ctx);
	return 0;
}

static void keeps_tokens(void **state)
{
	(void)state;
	static const int32_t ids[] = {0, 1, 255, 256, 65535, 7, 32768};
	static const int32_t wide[] = {0, 65536, INT32_MAX, 1 << 24, 77};
	an_tokens *t;
	int32_t got[8];

	assert_int_equal(an_tokens_write(ctx, temp_path("t"), ids, LENGTH(ids), 2), AN_OK);
	size_t n;
	char *bytes = temp_read("t", &n);
	assert_int_equal(n, 2 * LENGTH(ids));
	assert_memory_equal(bytes, "\0\0\1\0\377\0\0\1\377\377\7\0\0\200", n); /* little endian */
	free(bytes);
	assert_int_equal(an_tokens_open(ctx, temp_path("t"), 2, 65536, &t), AN_OK);
	assert_int_equal(an_tokens_count(t), LENGTH(ids));
	an_tokens_get(t, 0, LENGTH(ids), got);
	assert_memory_equal(got, ids, sizeof ids);
	an_tokens_get(t, 3, 2, got);
	assert_memory_equal(got, ids + 3, 2 * sizeof *ids);
	an_tokens_close(t);

	assert_int_equal(an_tokens_write(ctx, temp_path("t"), wide, LENGTH(wide), 4), AN_OK);
	assert_int_equal(an_tokens_open(ctx, temp_path("t"), 4, INT32_MAX, &t),
			 AN_FORMAT); /* ids are below it */
	assert_null(t);
	static const int32_t below[] = {0, 65536, INT32_MAX - 1, 1 << 24, 77};
	assert_int_equal(an_tokens_write(ctx, temp_path("t"), below, LENGTH(below), 4), AN_OK);
	assert_int_equal(an_tokens_open(ctx, temp_path("t"), 4, INT32_MAX, &t), AN_OK);
	an_tokens_get(t, 0, LENGTH(below), got);
	assert_memory_equal(got, below, sizeof below);
	an_tokens_close(t);

	assert_int_equal(an_tokens_copy(ctx, below, LENGTH(below), INT32_MAX, &t), AN_OK);
	assert_int_equal(an_tokens_count(t), LENGTH(below));
	an_tokens_get(t, 1, 4, got);
	assert_memory_equal(got, below + 1, 4 * sizeof *below);
	an_tokens_close(t);
	an_tokens_close(NULL);
}

static void refused(an_status s, an_status want, const char *words)
{
	if (s != want || !strstr(an_message(ctx), words))
		fail_msg("%s: \"%s\", expected %s with \"%s\"", an_status_name(s), an_message(ctx),
			 an_status_name(want), words);
}

static void refuses_damage(void **state)
{
	(void)state;
	an_tokens *t = NULL;
	temp_write("odd", "abc", 3);
	refused(an_tokens_open(ctx, temp_path("odd"), 2, 65536, &t), AN_FORMAT, "3 bytes");
	assert_null(t);
	refused(an_tokens_open(ctx, temp_path("odd"), 4, 65536, &t), AN_FORMAT, "cut off");
	temp_write("empty", "", 0);
	refused(an_tokens_open(ctx, temp_path("empty"), 2, 65536, &t), AN_FORMAT, "empty");
	temp_write("range", "\1\0\2\0\3\1\4\1", 8);
	refused(an_tokens_open(ctx, temp_path("range"), 2, 259, &t), AN_FORMAT, "token 2 is 259");
	refused(an_tokens_open(ctx, temp_path("range"), 4, 131073, &t), AN_FORMAT,
		"token 0 is 131073, but the");
	temp_write("sign", "\377\377\377\377", 4);
	refused(an_tokens_open(ctx, temp_path("sign"), 4, INT32_MAX, &t), AN_FORMAT, "token 0 is 4294967295");
	refused(an_tokens_open(ctx, temp_path("absent"), 2, 300, &t), AN_IO, "absent");
	refused(an_tokens_open(ctx, temp_path("range"), 3, 300, &t), AN_USAGE, "2 or 4");
	refused(an_tokens_open(ctx, temp_path("range"), 2, 0, &t), AN_USAGE, "vocabulary");
	static const int32_t ids[] = {1, 2, 65536, -1};
	refused(an_tokens_write(ctx, temp_path("w"), ids, 4, 2), AN_USAGE, "token 2 is 65536");
	refused(an_tokens_write(ctx, temp_path("w"), ids, 4, 4), AN_USAGE, "token 3 is -1");
	refused(an_tokens_write(ctx, temp_path("w"), ids, 2, 1), AN_USAGE, "2 or 4");
	refused(an_tokens_copy(ctx, ids, 3, 65536, &t), AN_USAGE, "token 2 is 65536");
	assert_null(t);
	refused(an_tokens_write(ctx, temp_path("no/such/folder"), ids, 2, 2), AN_IO, "no/such/folder");
}

/* A device without room: the old file stays, nothing is left half-written. */
static void keeps_the_old_file_when_full(void **state)
{
	(void)state;
	static int32_t ids[100000];
	assert_int_equal(an_tokens_write(ctx, temp_path("full"), (int32_t[]){1, 2, 3}, 3, 2), AN_OK);
	struct rlimit old, small;
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	small = (struct rlimit){100000, old.rlim_max};
	setrlimit(RLIMIT_FSIZE, &small);
	an_status s = an_tokens_write(ctx, temp_path("full"), ids, LENGTH(ids), 2);
	setrlimit(RLIMIT_FSIZE, &old);
	refused(s, AN_IO, "full");
	an_tokens *t;
	assert_int_equal(an_tokens_open(ctx, temp_path("full"), 2, 4, &t), AN_OK);
	assert_int_equal(an_tokens_count(t), 3);
	an_tokens_close(t);
	assert_int_equal(temp_leftovers(""), 0);
}

static void counts_bytes(void **state)
{
	(void)state;
	static const char text[] = "one two one two one two three";
	an_tokenizer *by;
	an_tokens *t;
	an_bpe_options opt = {.vocab = 270};
	int32_t *ids;
	size_t n;
	assert_int_equal(an_bpe_train(ctx, (const uint8_t *)text, strlen(text), &opt, &by, NULL), AN_OK);
	assert_int_equal(an_encode(by, (const uint8_t *)text, strlen(text), &ids, &n), AN_OK);
	assert_true(n < strlen(text));
	int32_t with_end[64] = {an_tokenizer_end(by)};
	memcpy(with_end + 1, ids, n * sizeof *ids);
	assert_int_equal(an_tokens_copy(ctx, with_end, n + 1, an_tokenizer_vocab(by), &t), AN_OK);
	assert_int_equal(an_tokens_bytes(t, 0, n + 1, by), strlen(text));
	assert_int_equal(an_tokens_bytes(t, 0, 1, by), 0);
	size_t len;
	an_token_bytes(by, ids[1], &len);
	assert_int_equal(an_tokens_bytes(t, 2, 1, by), len);
	an_tokens_close(t);
	an_ids_free(ctx, ids, n);
	an_tokenizer_free(by);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(keeps_tokens), cmocka_unit_test(refuses_damage),
					   cmocka_unit_test(keeps_the_old_file_when_full),
					   cmocka_unit_test(counts_bytes)};
	return cmocka_run_group_tests(tests, setup, teardown);
}
