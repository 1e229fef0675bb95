/* What stands for jansson where Anneal is built without it (ANNEAL_PACKAGES=OFF): what Anneal calls of it,
 * each of which fails.  Reading says why, as for a file that is malformed; JANSSON_ABSENT is the same for who
 * writes. */
#ifndef BASE_ABSENT_JANSSON_H
#define BASE_ABSENT_JANSSON_H

#include <stdbool.h>
#include <stdio.h>

#define JANSSON_ABSENT                                                                                       \
	"this build of Anneal is without JSON: install jansson (Debian: libjansson-dev, Homebrew: jansson) " \
	"and build again"

typedef struct json_t {
	int unused;
} json_t;
typedef long long json_int_t;
typedef struct json_error_t {
	int line, column, position;
	char text[160];
} json_error_t;

#define JSON_REJECT_DUPLICATES 0
#define JSON_COMPACT           0
#define JSON_INDENT(n)         0
#define JSON_REAL_PRECISION(n) 0

static inline json_t *json_loadb(const char *text, size_t n, size_t flags, json_error_t *e)
{
	(void)text, (void)n, (void)flags;
	if (e) {
		*e = (json_error_t){.line = 1, .column = 1};
		snprintf(e->text, sizeof e->text, "%s", JANSSON_ABSENT);
	}
	return NULL;
}
static inline char *json_dumps(const json_t *x, size_t flags)
{
	(void)x, (void)flags;
	char *volatile none = NULL; /* compilers that know better warn of what follows */
	return none;
}
static inline json_t *json_pack(const char *format, ...) { return (void)format, NULL; }
static inline json_t *json_object(void) { return NULL; }
static inline json_t *json_array(void) { return NULL; }
static inline json_t *json_null(void) { return NULL; }
static inline json_t *json_string(const char *s) { return (void)s, NULL; }
static inline json_t *json_integer(json_int_t x) { return (void)x, NULL; }
static inline json_t *json_real(double x) { return (void)x, NULL; }
static inline void json_decref(json_t *x) { (void)x; }
static inline json_t *json_object_get(const json_t *x, const char *key) { return (void)x, (void)key, NULL; }
static inline int json_object_set_new(json_t *x, const char *key, json_t *value)
{
	return (void)x, (void)key, (void)value, -1;
}
static inline int json_array_append_new(json_t *x, json_t *value) { return (void)x, (void)value, -1; }
static inline json_t *json_array_get(const json_t *x, size_t i) { return (void)x, (void)i, NULL; }
static inline size_t json_array_size(const json_t *x) { return (void)x, 0; }
static inline size_t json_object_size(const json_t *x) { return (void)x, 0; }
static inline const char *json_string_value(const json_t *x) { return (void)x, NULL; }
static inline size_t json_string_length(const json_t *x) { return (void)x, 0; }
static inline json_int_t json_integer_value(const json_t *x) { return (void)x, 0; }
static inline double json_number_value(const json_t *x) { return (void)x, 0; }
static inline bool json_is_object(const json_t *x) { return (void)x, false; }
static inline bool json_is_array(const json_t *x) { return (void)x, false; }
static inline bool json_is_string(const json_t *x) { return (void)x, false; }
static inline bool json_is_integer(const json_t *x) { return (void)x, false; }
static inline bool json_is_number(const json_t *x) { return (void)x, false; }
static inline bool json_is_boolean(const json_t *x) { return (void)x, false; }
static inline bool json_is_true(const json_t *x) { return (void)x, false; }
static inline bool json_is_false(const json_t *x) { return (void)x, false; }
static inline bool json_is_null(const json_t *x) { return (void)x, false; }

/* No object and no array has members. */
#define json_object_foreach(x, key, value) for (key = NULL, value = NULL, (void)(x); (key) && (value);)
#define json_array_foreach(x, i, value)    for (i = 0, value = NULL, (void)(x), (void)i; value;)

#endif
