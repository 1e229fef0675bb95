/* The tokenizer: its tables, encoding, decoding. */
#include "text/tokenizer.h"

/* ---- Tables --------------------------------------------------------------------- */

an_status tok_new(an_ctx *ctx, an_tokenizer **out)
{
	*out = NULL;
	an_tokenizer *t = mem_zalloc(ctx, sizeof *t);
	if (!t)
		return fail_memory(ctx, sizeof *t);
	t->ctx = t->rank.ctx = ctx;
	arena_init(&t->mem, ctx);
	str_init(&t->document, ctx);
	str_init(&t->config, ctx);
	memset(t->byte, -1, sizeof t->byte);
	t->end = -1;
	an_status s = split_new(ctx, &t->split);
	if (s != AN_OK) {
		an_tokenizer_free(t);
		return s;
	}
	*out = t;
	return AN_OK;
}

void an_tokenizer_free(an_tokenizer *t)
{
	if (!t)
		return;
	split_free(t->split);
	mem_free(t->ctx, t->token, t->token_cap * sizeof *t->token);
	mem_free(t->ctx, t->merge, t->merge_cap * sizeof *t->merge);
	mem_free(t->ctx, t->by_text, t->by_text_cap * sizeof *t->by_text);
	pairs_free(&t->rank);
	str_free(&t->document);
	str_free(&t->config);
	arena_free(&t->mem);
	mem_free(t->ctx, t, sizeof *t);
}

/* Where a token with these bytes is in the hash table, or the free slot where it belongs. */
static int32_t *text_slot(const an_tokenizer *t, const uint8_t *bytes, size_t len)
{
	for (size_t i = random_mix(hash_bytes(HASH_INIT, bytes, len));; i++) {
		int32_t *id = &t->by_text[i & (t->by_text_cap - 1)];
		if (*id < 0 || (t->token[*id].len == len && memcmp(t->token[*id].bytes, bytes, len) == 0))
			return id;
	}
}

int32_t tok_find(const an_tokenizer *t, const uint8_t *bytes, size_t len)
{
	return t->by_text_cap ? *text_slot(t, bytes, len) : -1;
}

static an_status grow_by_text(an_tokenizer *t)
{
	size_t old = t->by_text_cap, cap = old ? old * 2 : 1024;
	int32_t *bigger = mem_alloc(t->ctx, cap * sizeof *bigger), *from = t->by_text;
	if (!bigger)
		return fail_memory(t->ctx, cap * sizeof *bigger);
	memset(bigger, -1, cap * sizeof *bigger);
	t->by_text = bigger;
	t->by_text_cap = cap;
	for (size_t i = 0; i < old; i++)
		if (from[i] >= 0)
			*text_slot(t, t->token[from[i]].bytes, t->token[from[i]].len) = from[i];
	mem_free(t->ctx, from, old * sizeof *from);
	return AN_OK;
}

an_status tok_put(an_tokenizer *t, int32_t id, const void *bytes, size_t len, bool added)
{
	size_t old = t->token_cap;
	if (!mem_grow(t->ctx, &t->token, &t->token_cap, (size_t)id, sizeof *t->token))
		return fail_memory(t->ctx, (size_t)id * sizeof *t->token);
	memset(t->token + old, 0, (t->token_cap - old) * sizeof *t->token);
	if (t->by_text_used * 2 >= t->by_text_cap)
		TRY(grow_by_text(t));
	const uint8_t *copy = arena_copy(&t->mem, bytes, len);
	if (!copy)
		return fail_memory(t->ctx, len);
	t->token[id] = (tok_token){copy, len, added};
	t->vocab = MAX(t->vocab, id + 1);
	if (!added) {
		*text_slot(t, copy, len) = id;
		t->by_text_used++;
		if (len == 1)
			t->byte[*copy] = id;
	}
	return AN_OK;
}

an_status tok_put_merge(an_tokenizer *t, int32_t left, int32_t right, int32_t id)
{
	if (!mem_grow(t->ctx, &t->merge, &t->merge_cap, (size_t)t->merges, sizeof *t->merge) ||
	    !pairs_set(&t->rank, left, right, t->merges))
		return fail_memory(t->ctx, 0);
	t->merge[t->merges++] = (tok_merge){left, right, id};
	return AN_OK;
}

int32_t an_tokenizer_vocab(const an_tokenizer *t) { return t->vocab; }
int32_t an_tokenizer_end(const an_tokenizer *t) { return t->end; }

const uint8_t *an_token_bytes(const an_tokenizer *t, int32_t id, size_t *len)
{
	*len = 0;
	if (id < 0 || id >= t->vocab || !t->token[id].bytes)
		return NULL;
	*len = t->token[id].len;
	return t->token[id].bytes;
}

/* ---- Encoding ------------------------------------------------------------------- */

/* Up to here a piece is merged by looking through all its pairs each time, which beats a heap. */
#define SHORT_PIECE 64
#define NO_RANK     INT32_MAX

typedef struct encoder {
	const an_tokenizer *t;
	int32_t *ids;
	size_t n, cap;
	/* for long pieces, by byte of the piece */
	int32_t *at;    /* id of the token that starts here; -1: inside a token */
	int32_t *begin; /* at a token's last byte: where it starts */
	size_t at_cap, begin_cap;
	uint64_t *heap; /* rank << 32 | place of the left token, smallest first */
	size_t heap_n, heap_cap;
	size_t done, total, reported; /* bytes */
	void (*progress)(void *user, double fraction);
	void *user;
} encoder;

static inline int32_t rank_of(const an_tokenizer *t, int32_t left, int32_t right)
{
	int32_t r = pairs_get(&t->rank, left, right);
	return r < 0 ? NO_RANK : r;
}

static an_status push_id(encoder *e, int32_t id)
{
	if (!mem_grow(e->t->ctx, &e->ids, &e->cap, e->n, sizeof *e->ids))
		return fail_memory(e->t->ctx, e->cap * 2 * sizeof *e->ids);
	e->ids[e->n++] = id;
	return AN_OK;
}

/* Merges the pair of lowest rank, of several the leftmost, until no pair has one. */
static an_status encode_short(encoder *e, const uint8_t *p, int n)
{
	const an_tokenizer *t = e->t;
	int32_t id[SHORT_PIECE], rank[SHORT_PIECE]; /* rank[i]: of tokens i and i + 1 */
	for (int i = 0; i < n; i++)
		id[i] = t->byte[p[i]];
	for (int i = 0; i + 1 < n; i++)
		rank[i] = rank_of(t, id[i], id[i + 1]);
	for (;;) {
		int best = 0;
		rank[n - 1] = NO_RANK; /* the last has no right neighbour */
		for (int i = 1; i < n; i++)
			if (rank[i] < rank[best])
				best = i;
		if (rank[best] == NO_RANK)
			break;
		id[best] = t->merge[rank[best]].id;
		n--;
		memmove(id + best + 1, id + best + 2, (size_t)(n - best - 1) * sizeof *id);
		memmove(rank + best + 1, rank + best + 2, (size_t)(n - best - 1) * sizeof *rank);
		if (best + 1 < n)
			rank[best] = rank_of(t, id[best], id[best + 1]);
		if (best > 0)
			rank[best - 1] = rank_of(t, id[best - 1], id[best]);
	}
	for (int i = 0; i < n; i++)
		TRY(push_id(e, id[i]));
	return AN_OK;
}

static void heap_down(uint64_t *heap, size_t n, size_t i)
{
	uint64_t x = heap[i];
	for (size_t child; (child = 2 * i + 1) < n; i = child) {
		if (child + 1 < n && heap[child + 1] < heap[child])
			child++;
		if (x <= heap[child])
			break;
		heap[i] = heap[child];
	}
	heap[i] = x;
}

/* Puts the pair whose left token starts at i into the heap if it has a rank. */
static an_status heap_put(encoder *e, size_t i, size_t n)
{
	const an_tokenizer *t = e->t;
	size_t j = i + t->token[e->at[i]].len;
	int32_t rank = j < n ? rank_of(t, e->at[i], e->at[j]) : NO_RANK;
	if (rank == NO_RANK)
		return AN_OK;
	if (!mem_grow(t->ctx, &e->heap, &e->heap_cap, e->heap_n, sizeof *e->heap))
		return fail_memory(t->ctx, e->heap_cap * 2 * sizeof *e->heap);
	uint64_t x = (uint64_t)rank << 32 | i;
	size_t k = e->heap_n++;
	for (; k && e->heap[(k - 1) / 2] > x; k = (k - 1) / 2)
		e->heap[k] = e->heap[(k - 1) / 2];
	e->heap[k] = x;
	return AN_OK;
}

/* The same in n log n steps.  An entry whose pair has meanwhile changed is recognised when it comes up. */
static an_status encode_long(encoder *e, const uint8_t *p, size_t n)
{
	const an_tokenizer *t = e->t;
	if (n > INT32_MAX)
		return fail(t->ctx, AN_UNSUPPORTED, "one unbroken piece of text has %zu bytes, more than %d",
			    n, INT32_MAX);
	if (!mem_grow(t->ctx, &e->at, &e->at_cap, n, sizeof *e->at) ||
	    !mem_grow(t->ctx, &e->begin, &e->begin_cap, n, sizeof *e->begin))
		return fail_memory(t->ctx, n * sizeof *e->at);
	for (size_t i = 0; i < n; i++) {
		e->at[i] = t->byte[p[i]];
		e->begin[i] = (int32_t)i;
	}
	e->heap_n = 0;
	for (size_t i = 0; i + 1 < n; i++)
		TRY(heap_put(e, i, n));
	while (e->heap_n) {
		uint64_t top = e->heap[0];
		e->heap[0] = e->heap[--e->heap_n];
		if (e->heap_n)
			heap_down(e->heap, e->heap_n, 0);
		size_t i = (uint32_t)top;
		tok_merge m = t->merge[top >> 32];
		size_t j = i + t->token[m.left].len;
		if (e->at[i] != m.left || j >= n || e->at[j] != m.right)
			continue;
		e->at[i] = m.id;
		e->at[j] = -1;
		e->begin[j + t->token[m.right].len - 1] = (int32_t)i;
		TRY(heap_put(e, i, n));
		if (i)
			TRY(heap_put(e, (size_t)e->begin[i - 1], n));
	}
	for (size_t i = 0; i < n; i += t->token[e->at[i]].len)
		TRY(push_id(e, e->at[i]));
	return AN_OK;
}

static an_status encode_piece(void *arg, const uint8_t *p, size_t n)
{
	encoder *e = arg;
	e->done += n;
	if (e->progress && e->done - e->reported >= 1 << 18) {
		e->reported = e->done;
		e->progress(e->user, (double)e->done / (double)e->total);
	}
	int32_t whole = e->t->whole_first ? tok_find(e->t, p, n) : -1;
	if (whole >= 0)
		return push_id(e, whole);
	return n <= SHORT_PIECE ? encode_short(e, p, (int)n) : encode_long(e, p, n);
}

/* Whether NFC may change this character or what stands before it: combining marks, Hangul's vowels
 * and finals, and characters whose decomposition is another character.  Errs on the side of yes. */
static bool nfc_matters(uint32_t c)
{
	static const uint32_t range[][2] = {
	    {0x300, 0x36f},     {0x374, 0x374},     {0x37e, 0x37e},   {0x387, 0x387},   {0x483, 0x487},
	    {0x591, 0x5c7},     {0x610, 0x61a},     {0x64b, 0x65f},   {0x670, 0x670},   {0x6d6, 0x6ed},
	    {0x711, 0x711},     {0x730, 0x74a},     {0x7eb, 0x7f3},   {0x7fd, 0x7fd},   {0x816, 0x82d},
	    {0x859, 0x85b},     {0x890, 0x8ff},     {0x93c, 0x93c},   {0x94d, 0x954},   {0x958, 0x95f},
	    {0x980, 0x1bff},    {0x1c37, 0x1c37},   {0x1cd0, 0x1cf9}, {0x1dc0, 0x1dff}, {0x1f71, 0x1fff},
	    {0x2000, 0x2001},   {0x20d0, 0x20f0},   {0x2126, 0x2126}, {0x212a, 0x212b}, {0x2329, 0x232a},
	    {0x2adc, 0x2adc},   {0x2cef, 0x2cf1},   {0x2d7f, 0x2d7f}, {0x2de0, 0x2dff}, {0x302a, 0x302f},
	    {0x3099, 0x309a},   {0xa66f, 0xa67d},   {0xa69e, 0xa69f}, {0xa6f0, 0xa6f1}, {0xa800, 0xabff},
	    {0xd7b0, 0xd7ff},   {0xf900, 0xfaff},   {0xfb1d, 0xfb4f}, {0xfe20, 0xfe2f}, {0x10000, 0x1efff},
	    {0x2f800, 0x2fa1f}, {0xe0000, 0x10ffff}};
	for (int i = 0; i < LENGTH(range) && c >= range[i][0]; i++)
		if (c <= range[i][1])
			return true;
	return false;
}

static an_status check_nfc(const an_tokenizer *t, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n;) {
		uint32_t c = 0;
		int size = utf8_sequence(p + i, n - i, &c);
		if (size && c >= 0x300 && nfc_matters(c))
			return fail(t->ctx, AN_UNSUPPORTED,
				    "this tokenizer normalizes text to NFC (\"normalizer\" in its file), "
				    "which is not done here; it might change U+%04X at byte %zu",
				    c, i);
		i += size ? (size_t)size : 1;
	}
	return AN_OK;
}

an_status an_encode_progress(const an_tokenizer *t, const uint8_t *text, size_t len,
			     void (*progress)(void *user, double fraction), void *user, int32_t **ids,
			     size_t *n, int64_t *invalid)
{
	encoder e = {.t = t, .total = len, .progress = progress, .user = user};
	*ids = NULL;
	*n = 0;
	an_status s = t->nfc ? check_nfc(t, text, len) : AN_OK;
	if (s == AN_OK)
		s = split_text(t->split, text, len, encode_piece, &e, invalid);
	mem_free(t->ctx, e.at, e.at_cap * sizeof *e.at);
	mem_free(t->ctx, e.begin, e.begin_cap * sizeof *e.begin);
	mem_free(t->ctx, e.heap, e.heap_cap * sizeof *e.heap);
	if (s == AN_OK) { /* an_ids_free is told n, not the capacity */
		int32_t *exact = mem_resize(t->ctx, e.ids, e.cap * sizeof *e.ids, e.n * sizeof *e.ids);
		if (exact) {
			*ids = exact;
			*n = e.n;
			return AN_OK;
		}
		s = fail_memory(t->ctx, e.n * sizeof *e.ids);
	}
	mem_free(t->ctx, e.ids, e.cap * sizeof *e.ids);
	return s;
}

an_status an_encode(const an_tokenizer *t, const uint8_t *text, size_t len, int32_t **ids, size_t *n)
{
	return an_encode_progress(t, text, len, NULL, NULL, ids, n, NULL);
}

void an_ids_free(an_ctx *ctx, int32_t *ids, size_t n) { mem_free(ctx, ids, n * sizeof *ids); }
