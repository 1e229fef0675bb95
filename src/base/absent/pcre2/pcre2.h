/* What stands for PCRE2 where Anneal is built without it (ANNEAL_PACKAGES=OFF): what Anneal calls of it.  No
 * pattern compiles, and the message says why. */
#ifndef BASE_ABSENT_PCRE2_H
#define BASE_ABSENT_PCRE2_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef struct pcre2_general_context {
	int unused;
} pcre2_general_context;
typedef pcre2_general_context pcre2_compile_context, pcre2_match_context, pcre2_match_data, pcre2_code,
    pcre2_jit_stack;
typedef size_t PCRE2_SIZE;
typedef unsigned char PCRE2_UCHAR;
typedef const unsigned char *PCRE2_SPTR;

enum {
	PCRE2_UTF,
	PCRE2_UCP,
	PCRE2_NEVER_BACKSLASH_C,
	PCRE2_NEWLINE_LF,
	PCRE2_JIT_COMPLETE,
	PCRE2_NO_JIT,
	PCRE2_NO_UTF_CHECK
};
enum {
	PCRE2_ERROR_NOMATCH = -1,
	PCRE2_ERROR_JIT_STACKLIMIT = -2,
	PCRE2_ERROR_NOMEMORY = -3,
	PCRE2_ERROR_HEAP_FAILED = -4
};

/* Contexts are made, so that compiling is what fails: one that is never looked into. */
static pcre2_general_context pcre2_absent;

static inline pcre2_general_context *pcre2_general_context_create(void *(*take)(size_t, void *),
								  void (*give)(void *, void *), void *user)
{
	return (void)take, (void)give, (void)user, &pcre2_absent;
}
static inline void pcre2_general_context_free(pcre2_general_context *c) { (void)c; }
static inline pcre2_compile_context *pcre2_compile_context_create(pcre2_general_context *c) { return c; }
static inline void pcre2_compile_context_free(pcre2_compile_context *c) { (void)c; }
static inline pcre2_match_context *pcre2_match_context_create(pcre2_general_context *c) { return c; }
static inline void pcre2_match_context_free(pcre2_match_context *c) { (void)c; }
static inline pcre2_jit_stack *pcre2_jit_stack_create(size_t first, size_t most, pcre2_general_context *c)
{
	return (void)first, (void)most, c;
}
static inline void pcre2_jit_stack_assign(pcre2_match_context *c, void *f, pcre2_jit_stack *s)
{
	(void)c, (void)f, (void)s;
}
static inline void pcre2_jit_stack_free(pcre2_jit_stack *s) { (void)s; }
static inline int pcre2_set_newline(pcre2_compile_context *c, uint32_t what)
{
	return (void)c, (void)what, 0;
}
static inline int pcre2_set_match_limit(pcre2_match_context *c, uint32_t n) { return (void)c, (void)n, 0; }
static inline pcre2_code *pcre2_compile(PCRE2_SPTR text, PCRE2_SIZE n, uint32_t options, int *error,
					PCRE2_SIZE *where, pcre2_compile_context *c)
{
	(void)text, (void)n, (void)options, (void)c;
	*error = -99;
	*where = 0;
	return NULL;
}
static inline void pcre2_code_free(pcre2_code *code) { (void)code; }
static inline int pcre2_jit_compile(pcre2_code *code, uint32_t options)
{
	return (void)code, (void)options, 0;
}
static inline pcre2_match_data *pcre2_match_data_create_from_pattern(const pcre2_code *code,
								     pcre2_general_context *c)
{
	return (void)code, c;
}
static inline void pcre2_match_data_free(pcre2_match_data *m) { (void)m; }
static inline int pcre2_match(const pcre2_code *code, PCRE2_SPTR text, PCRE2_SIZE n, PCRE2_SIZE from,
			      uint32_t options, pcre2_match_data *m, pcre2_match_context *c)
{
	return (void)code, (void)text, (void)n, (void)from, (void)options, (void)m, (void)c,
	       PCRE2_ERROR_NOMATCH;
}
static inline PCRE2_SIZE *pcre2_get_ovector_pointer(pcre2_match_data *m) { return (void)m, NULL; }
static inline int pcre2_get_error_message(int error, PCRE2_UCHAR *text, PCRE2_SIZE size)
{
	(void)error;
	return snprintf(
	    (char *)text, size,
	    "this build of Anneal is without PCRE2: install it (Debian: libpcre2-dev, Homebrew: pcre2) and "
	    "build again");
}

#endif
