/* tokenizer.json and tokenizer_config.json.
 *
 * Such a file describes a pipeline: normalizer, pre_tokenizer (how text is cut), model (here BPE),
 * post_processor, decoder.  Byte-level models write a byte as one of 256 printable characters
 * ("Ġ" is a space), GPT-2's alphabet. */
#include "base/file.h"
#include "text/tokenizer.h"

#include <jansson.h>

#define CONFIG_NAME "tokenizer_config.json"
#define MAX_VOCAB   (1 << 22)

/* ---- The byte alphabet ---------------------------------------------------------- */

/* Bytes that print in Latin-1 stand for themselves, the others for U+0100, U+0101, ... in order. */
static bool prints(int byte)
{
	return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

typedef struct alphabet {
	uint16_t code[256];  /* of a byte: its character, always below U+0144 */
	int16_t byte[0x144]; /* the reverse; -1: none */
} alphabet;

static void alphabet_init(alphabet *a)
{
	memset(a->byte, -1, sizeof a->byte);
	uint16_t next = 0x100;
	for (int b = 0; b < 256; b++) {
		a->code[b] = prints(b) ? (uint16_t)b : next++;
		a->byte[a->code[b]] = (int16_t)b;
	}
}

static void add_byte_text(str *s, const alphabet *a, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		unsigned c = a->code[p[i]];
		char utf8[2] = {(char)(0xc0 | c >> 6), (char)(0x80 | (c & 0x3f))};
		if (c == '"' || c == '\\')
			str_add(s, "\\");
		if (c < 0x80)
			str_add_n(s, (char[]){(char)c}, 1);
		else
			str_add_n(s, utf8, 2);
	}
}

/* The bytes that text stands for, into out (at least len bytes).  -1: a character is not in the alphabet. */
static int64_t bytes_of(const alphabet *a, const char *text, size_t len, uint8_t *out)
{
	const uint8_t *p = (const uint8_t *)text;
	size_t n = 0;
	for (size_t i = 0; i < len;) {
		uint32_t c = 0;
		int size = utf8_sequence(p + i, len - i, &c);
		if (!size || c >= LENGTH(a->byte) || a->byte[c] < 0)
			return -1;
		out[n++] = (uint8_t)a->byte[c];
		i += (size_t)size;
	}
	return (int64_t)n;
}

/* ---- Writing -------------------------------------------------------------------- */

static void print_document(const an_tokenizer *t, str *s)
{
	alphabet a;
	alphabet_init(&a);
	str_addf(
	    s,
	    "{\n\"version\": \"1.0\",\n\"truncation\": null,\n\"padding\": null,\n\"added_tokens\": [\n"
	    "{\"id\": %d, \"content\": \"%s\", \"single_word\": false, \"lstrip\": false, \"rstrip\": false, "
	    "\"normalized\": false, \"special\": true}\n],\n\"normalizer\": null,\n",
	    t->end, TOK_END_TEXT);
	const char *byte_level =
	    "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, "
	    "\"use_regex\": true}";
	str_addf(s, "\"pre_tokenizer\": %s,\n\"post_processor\": null,\n\"decoder\": %s,\n", byte_level,
		 byte_level);
	str_add(s,
		"\"model\": {\n\"type\": \"BPE\",\n\"dropout\": null,\n\"unk_token\": null,\n"
		"\"continuing_subword_prefix\": null,\n\"end_of_word_suffix\": null,\n\"fuse_unk\": false,\n"
		"\"byte_fallback\": false,\n\"ignore_merges\": false,\n\"vocab\": {\n");
	for (int32_t i = 0; i < t->vocab; i++) {
		const tok_token *k = &t->token[i];
		str_add(s, "\"");
		if (k->added)
			str_add_n(s, (const char *)k->bytes, k->len);
		else
			add_byte_text(s, &a, k->bytes, k->len);
		str_addf(s, "\": %d%s\n", i, i + 1 < t->vocab ? "," : "");
	}
	str_add(s, "},\n\"merges\": [\n");
	for (int32_t i = 0; i < t->merges; i++) {
		const tok_token *l = &t->token[t->merge[i].left], *r = &t->token[t->merge[i].right];
		str_add(s, "\"");
		add_byte_text(s, &a, l->bytes, l->len);
		str_add(s, " ");
		add_byte_text(s, &a, r->bytes, r->len);
		str_addf(s, "\"%s\n", i + 1 < t->merges ? "," : "");
	}
	str_add(s, "]\n}\n}\n");
}

static void print_config(str *s)
{
	str_add(s, "{\n\"tokenizer_class\": \"PreTrainedTokenizerFast\",\n"
		   "\"bos_token\": \"" TOK_END_TEXT "\",\n\"eos_token\": \"" TOK_END_TEXT "\",\n"
		   "\"add_bos_token\": false,\n\"add_prefix_space\": false,\n"
		   "\"clean_up_tokenization_spaces\": false\n}\n");
}

/* dir/CONFIG_NAME for dir/tokenizer.json, NULL for any other name; *status: whether memory was out. */
static char *config_path(arena *a, const char *path, an_status *status)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	*status = AN_OK;
	if (strcmp(name, "tokenizer.json") != 0)
		return NULL;
	char *p = arena_printf(a, "%.*s" CONFIG_NAME, (int)(name - path), path);
	if (!p)
		*status = fail_memory(a->ctx, 0);
	return p;
}

static an_status save_text(an_ctx *ctx, const char *path, const str *loaded, str *own)
{
	const str *s = loaded->data ? loaded : own;
	TRY(str_status(own));
	return s->data ? file_replace(ctx, path, s->data, s->len) : AN_OK;
}

an_status an_tokenizer_save(const an_tokenizer *t, const char *path)
{
	an_ctx *ctx = t->ctx;
	arena scratch;
	str document, config;
	arena_init(&scratch, ctx);
	str_init(&document, ctx);
	str_init(&config, ctx);
	an_status s;
	const char *beside = config_path(&scratch, path, &s);
	if (!t->document.data) {
		print_document(t, &document);
		print_config(&config);
	}
	if (s == AN_OK && beside)
		s = save_text(ctx, beside, &t->config, &config);
	if (s == AN_OK)
		s = save_text(ctx, path, &t->document, &document);
	str_free(&document);
	str_free(&config);
	arena_free(&scratch);
	return s;
}

/* ---- Reading: small things ------------------------------------------------------ */

/* While one file is read. */
typedef struct reader {
	an_ctx *ctx;
	an_tokenizer *t;
	const char *path;
	alphabet alphabet;
	json_t *ids; /* the vocabulary: text -> id */
	str bytes;   /* scratch */
} reader;

#define BAD(r, ...)    fail_prefix((r)->ctx, fail((r)->ctx, AN_FORMAT, __VA_ARGS__), "%s", (r)->path)
#define REFUSE(r, ...) fail_prefix((r)->ctx, fail((r)->ctx, AN_UNSUPPORTED, __VA_ARGS__), "%s", (r)->path)

static bool absent(const json_t *v) { return !v || json_is_null(v); }

static const char *type_of(const json_t *v)
{
	const char *s = json_string_value(json_object_get(v, "type"));
	return s ? s : "";
}

/* A boolean member that may be absent. */
static an_status get_bool(reader *r, const json_t *object, const char *where, const char *key, bool otherwise,
			  bool *out)
{
	const json_t *v = json_object_get(object, key);
	*out = otherwise;
	if (absent(v))
		return AN_OK;
	if (!json_is_boolean(v))
		return BAD(r, "%s.%s is not true or false", where, key);
	*out = json_is_true(v);
	return AN_OK;
}

/* Refuses a member that is there and not `false`, "" or 0. */
static an_status refuse_if_set(reader *r, const json_t *object, const char *where, const char *key)
{
	const json_t *v = json_object_get(object, key);
	bool off = absent(v) || json_is_false(v) || (json_is_string(v) && json_string_length(v) == 0) ||
		   (json_is_number(v) && json_number_value(v) == 0);
	return off ? AN_OK : REFUSE(r, "%s.%s is set, which is not supported", where, key);
}

/* ---- Reading: how text is cut --------------------------------------------------- */

static an_status read_byte_level(reader *r, const json_t *v)
{
	bool prefix, regex;
	TRY(get_bool(r, v, "pre_tokenizer", "add_prefix_space", true, &prefix));
	TRY(get_bool(r, v, "pre_tokenizer", "use_regex", true, &regex));
	if (prefix)
		return REFUSE(r, "pre_tokenizer.add_prefix_space is true: a space would be added to a text");
	return regex ? split_add(r->t->split, SPLIT_GPT2) : AN_OK;
}

static an_status read_split(reader *r, const json_t *v)
{
	const json_t *pattern = json_object_get(v, "pattern"), *regex = json_object_get(pattern, "Regex"),
		     *literal = json_object_get(pattern, "String");
	const char *behavior = json_string_value(json_object_get(v, "behavior"));
	bool invert;
	TRY(get_bool(r, v, "pre_tokenizer", "invert", false, &invert));
	if (!behavior || strcmp(behavior, "Isolated") != 0)
		return REFUSE(r, "pre_tokenizer Split: behavior is %s%s%s, only \"Isolated\" is supported",
			      behavior ? "\"" : "", behavior ? behavior : "missing", behavior ? "\"" : "");
	/* inverting exchanges matches and what is between them; both are pieces here */
	if (json_is_string(regex)) {
		an_status s = split_add(r->t->split, json_string_value(regex));
		return s == AN_OK ? s : fail_prefix(r->ctx, s, "%s: pre_tokenizer", r->path);
	}
	if (!json_is_string(literal))
		return BAD(r, "pre_tokenizer Split: pattern has neither a \"Regex\" nor a \"String\"");
	str s;
	str_init(&s, r->ctx);
	for (const char *p = json_string_value(literal); *p; p++)
		str_addf(&s, strchr("\\^$.|?*+()[]{}", *p) ? "\\%c" : "%c", *p);
	an_status status = str_status(&s);
	if (status == AN_OK && s.len)
		status = split_add(r->t->split, s.data);
	str_free(&s);
	return status;
}

static an_status read_digits(reader *r, const json_t *v)
{
	bool each;
	TRY(get_bool(r, v, "pre_tokenizer", "individual_digits", false, &each));
	return split_add(r->t->split, each ? "\\p{N}" : "\\p{N}+");
}

/* ByteLevel, or a Sequence of Split and Digits that ends with it. */
static an_status read_pre_tokenizer(reader *r, const json_t *v)
{
	const json_t *list = json_object_get(v, "pretokenizers");
	bool sequence = strcmp(type_of(v), "Sequence") == 0;
	if (sequence && !json_is_array(list))
		return BAD(r, "pre_tokenizer is a Sequence without a list \"pretokenizers\"");
	size_t n = sequence ? json_array_size(list) : 1;
	for (size_t i = 0; i < n; i++) {
		const json_t *e = sequence ? json_array_get(list, i) : v;
		const char *type = type_of(e);
		bool last = i + 1 == n;
		if (last && strcmp(type, "ByteLevel") == 0)
			return read_byte_level(r, e);
		if (!last && strcmp(type, "Split") == 0)
			TRY(read_split(r, e));
		else if (!last && strcmp(type, "Digits") == 0)
			TRY(read_digits(r, e));
		else
			return REFUSE(r,
				      "pre_tokenizer %s%s is not supported; expected ByteLevel, or a "
				      "Sequence of Split and Digits that ends with it",
				      *type ? type : "null", last ? "" : " before another");
	}
	return REFUSE(r, "pre_tokenizer is an empty Sequence; expected ByteLevel at its end");
}

static an_status read_normalizer(reader *r, const json_t *v)
{
	if (absent(v))
		return AN_OK;
	const json_t *list = json_object_get(v, "normalizers");
	if (strcmp(type_of(v), "Sequence") == 0 && json_is_array(list)) {
		for (size_t i = 0; i < json_array_size(list); i++)
			TRY(read_normalizer(r, json_array_get(list, i)));
		return AN_OK;
	}
	if (strcmp(type_of(v), "NFC") != 0)
		return REFUSE(r, "normalizer \"%s\" is not supported", type_of(v));
	r->t->nfc = true;
	return AN_OK;
}

/* ---- Reading: tokens and merges ------------------------------------------------- */

static an_status check_id(reader *r, const char *text, const json_t *v, int32_t *out)
{
	if (!json_is_integer(v))
		return BAD(r, "the id of token \"%s\" is not a whole number", text);
	json_int_t id = json_integer_value(v);
	if (id < 0 || id >= MAX_VOCAB)
		return BAD(r, "the id of token \"%s\" is %lld, expected 0 to %d", text, (long long)id,
			   MAX_VOCAB - 1);
	*out = (int32_t)id;
	return AN_OK;
}

static an_status put_new(reader *r, const char *text, int32_t id, const void *bytes, size_t len, bool added)
{
	size_t other_len;
	const uint8_t *other = an_token_bytes(r->t, id, &other_len);
	if (other)
		return BAD(r, "tokens \"%.*s\" and \"%s\" have the same id %d", (int)MIN(other_len, 40),
			   (const char *)other, text, id);
	return tok_put(r->t, id, bytes, len, added);
}

/* The bytes that text stands for, in r->bytes; its length 0: it is not in the byte-level alphabet. */
static an_status decode(reader *r, const char *text, size_t len)
{
	r->bytes.len = 0;
	str_add_n(&r->bytes, text, len); /* at least as long as the bytes */
	TRY(str_status(&r->bytes));
	int64_t n = bytes_of(&r->alphabet, text, len, (uint8_t *)r->bytes.data);
	r->bytes.len = n < 0 ? 0 : (size_t)n;
	return AN_OK;
}

/* Added tokens come first: their text is verbatim, also where the vocabulary repeats it. */
static an_status read_added(reader *r, const json_t *list)
{
	if (absent(list))
		return AN_OK;
	if (!json_is_array(list))
		return BAD(r, "added_tokens is not a list");
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *e = json_array_get(list, i), *text = json_object_get(e, "content");
		if (!json_is_string(text) || json_string_length(text) == 0)
			return BAD(r, "added_tokens[%zu] has no \"content\"", i);
		const char *s = json_string_value(text);
		const json_t *in_vocab = json_object_get(r->ids, s);
		int32_t id = -1, again = -1;
		TRY(check_id(r, s, json_object_get(e, "id"), &id));
		if (in_vocab) {
			TRY(check_id(r, s, in_vocab, &again));
			if (id != again)
				return BAD(r, "token \"%s\" has id %d in added_tokens and %d in model.vocab",
					   s, id, again);
		}
		TRY(put_new(r, s, id, s, json_string_length(text), true));
	}
	return AN_OK;
}

static an_status read_vocab(reader *r)
{
	an_tokenizer *t = r->t;
	const char *text;
	json_t *v;
	json_object_foreach(r->ids, text, v)
	{
		int32_t id = -1;
		size_t len = strlen(text), other_len;
		TRY(check_id(r, text, v, &id));
		const uint8_t *other = an_token_bytes(t, id, &other_len);
		if (other && t->token[id].added && other_len == len && memcmp(other, text, len) == 0)
			continue;
		TRY(decode(r, text, len));
		if (!r->bytes.len)
			return BAD(r, "token \"%s\" is not written in the byte-level alphabet", text);
		TRY(put_new(r, text, id, r->bytes.data, r->bytes.len, false));
	}
	for (int b = 0; b < 256; b++)
		if (t->byte[b] < 0)
			return REFUSE(r,
				      "model.vocab has no token for byte 0x%02X, so that not every text "
				      "could be encoded",
				      b);
	return AN_OK;
}

/* The id of one side of a merge, which must be a token made of bytes. */
static an_status merge_side(reader *r, size_t rank, const char *text, size_t len, int32_t *out)
{
	TRY(decode(r, text, len));
	*out = r->bytes.len ? tok_find(r->t, (const uint8_t *)r->bytes.data, r->bytes.len) : -1;
	return *out >= 0 ? AN_OK
			 : BAD(r, "model.merges[%zu]: \"%.*s\" is not in model.vocab", rank, (int)len, text);
}

static an_status read_merge(reader *r, size_t rank, const json_t *e)
{
	const char *left, *right;
	size_t left_len, right_len;
	if (json_is_string(e)) {
		left = json_string_value(e);
		if (strncmp(left, "#version", 8) == 0) /* the first line of old merges files */
			return AN_OK;
		const char *space = strchr(left, ' ');
		if (!space || strchr(space + 1, ' '))
			return BAD(r, "model.merges[%zu]: \"%s\" is not two tokens with a space between them",
				   rank, left);
		left_len = (size_t)(space - left);
		right = space + 1;
		right_len = strlen(right);
	} else if (json_array_size(e) == 2 && json_is_string(json_array_get(e, 0)) &&
		   json_is_string(json_array_get(e, 1))) {
		left = json_string_value(json_array_get(e, 0));
		right = json_string_value(json_array_get(e, 1));
		left_len = strlen(left);
		right_len = strlen(right);
	} else {
		return BAD(r, "model.merges[%zu] is neither \"left right\" nor [\"left\", \"right\"]", rank);
	}
	an_tokenizer *t = r->t;
	int32_t a, b;
	TRY(merge_side(r, rank, left, left_len, &a));
	TRY(merge_side(r, rank, right, right_len, &b));
	r->bytes.len = 0;
	str_add_n(&r->bytes, (const char *)t->token[a].bytes, t->token[a].len);
	str_add_n(&r->bytes, (const char *)t->token[b].bytes, t->token[b].len);
	TRY(str_status(&r->bytes));
	int32_t id = tok_find(t, (const uint8_t *)r->bytes.data, r->bytes.len);
	if (id < 0)
		return BAD(r, "model.merges[%zu]: \"%.*s%.*s\", the result, is not in model.vocab", rank,
			   (int)left_len, left, (int)right_len, right);
	return tok_put_merge(t, a, b, id);
}

static an_status read_model(reader *r, const json_t *model, const json_t *added)
{
	if (!json_is_object(model))
		return BAD(r, "has no \"model\"; is this a tokenizer.json?");
	const char *type = type_of(model);
	if (*type && strcmp(type, "BPE") != 0)
		return REFUSE(r, "model.type is \"%s\", only \"BPE\" is supported", type);
	bool fallback;
	TRY(get_bool(r, model, "model", "byte_fallback", false, &fallback));
	if (fallback)
		return REFUSE(
		    r,
		    "model.byte_fallback is true (a SentencePiece model); only byte-level BPE is supported");
	TRY(refuse_if_set(r, model, "model", "dropout"));
	TRY(refuse_if_set(r, model, "model", "continuing_subword_prefix"));
	TRY(refuse_if_set(r, model, "model", "end_of_word_suffix"));
	TRY(get_bool(r, model, "model", "ignore_merges", false, &r->t->whole_first));
	const json_t *merges = json_object_get(model, "merges");
	r->ids = json_object_get(model, "vocab");
	if (!json_is_object(r->ids))
		return BAD(r, "model.vocab is missing or not a map from text to ids");
	if (!json_is_array(merges))
		return BAD(r, "model.merges is missing or not a list");
	TRY(read_added(r, added));
	TRY(read_vocab(r));
	for (size_t i = 0; i < json_array_size(merges); i++)
		TRY(read_merge(r, i, json_array_get(merges, i)));
	return AN_OK;
}

/* ---- Reading: the files --------------------------------------------------------- */

static int32_t find_added(const an_tokenizer *t, const char *text)
{
	size_t len = strlen(text);
	for (int32_t i = 0; i < t->vocab; i++)
		if (t->token[i].added && t->token[i].len == len && memcmp(t->token[i].bytes, text, len) == 0)
			return i;
	return -1;
}

static void find_end(an_tokenizer *t, const json_t *config)
{
	const json_t *eos = json_object_get(config, "eos_token");
	if (json_is_object(eos))
		eos = json_object_get(eos, "content");
	if (json_is_string(eos))
		t->end = find_added(t, json_string_value(eos));
	static const char *const usual[] = {
	    TOK_END_TEXT, "<|end_of_text|>", "<|eot_id|>", "<|im_end|>", "</s>", "<eos>"};
	for (int i = 0; i < LENGTH(usual) && t->end < 0; i++)
		t->end = find_added(t, usual[i]);
}

/* Reads and parses a file, and keeps its text. */
static an_status read_json(an_ctx *ctx, const char *path, str *text, json_t **out)
{
	file_view view;
	json_error_t e;
	*out = NULL;
	TRY(file_open_view(ctx, path, &view));
	str_add_n(text, (const char *)view.data, view.size);
	file_close_view(ctx, &view);
	TRY(str_status(text));
	*out = json_loadb(text->data ? text->data : "", text->len, JSON_REJECT_DUPLICATES, &e);
	if (!*out)
		return fail(ctx, AN_FORMAT, "%s:%d:%d: not valid JSON: %s", path, e.line, e.column, e.text);
	if (!json_is_object(*out)) {
		json_decref(*out);
		*out = NULL;
		return fail(ctx, AN_FORMAT, "%s: expected a JSON object", path);
	}
	return AN_OK;
}

static an_status read_document(reader *r, const json_t *root)
{
	TRY(read_normalizer(r, json_object_get(root, "normalizer")));
	TRY(read_model(r, json_object_get(root, "model"), json_object_get(root, "added_tokens")));
	TRY(read_pre_tokenizer(r, json_object_get(root, "pre_tokenizer")));
	const json_t *decoder = json_object_get(root, "decoder");
	if (!absent(decoder) && strcmp(type_of(decoder), "ByteLevel") != 0)
		return REFUSE(r, "decoder \"%s\" is not supported, only ByteLevel is", type_of(decoder));
	return AN_OK;
}

static an_status load(an_tokenizer *t, const char *path)
{
	an_ctx *ctx = t->ctx;
	reader r = {.ctx = ctx, .t = t, .path = path};
	alphabet_init(&r.alphabet);
	str_init(&r.bytes, ctx);
	json_t *root, *config = NULL;
	an_status s = read_json(ctx, path, &t->document, &root);
	if (s == AN_OK)
		s = read_document(&r, root);
	json_decref(root);
	str_free(&r.bytes);
	TRY(s);

	arena scratch;
	arena_init(&scratch, ctx);
	const char *beside = config_path(&scratch, path, &s);
	if (s == AN_OK && beside && path_exists(beside))
		s = read_json(ctx, beside, &t->config, &config);
	arena_free(&scratch);
	TRY(s);
	find_end(t, config);
	json_decref(config);
	return AN_OK;
}

an_status an_tokenizer_load(an_ctx *ctx, const char *path, an_tokenizer **out)
{
	*out = NULL;
	an_tokenizer *t;
	TRY(tok_new(ctx, &t));
	an_status s = load(t, path);
	if (s == AN_OK)
		*out = t;
	else
		an_tokenizer_free(t);
	return s;
}
