/* Training byte-level BPE.
 *
 * The distinct pieces of the text, each with the number of times it occurs, are laid out one after
 * the other with a wall between them.  The places at which a pair of neighbouring tokens stands are
 * linked into a list that belongs to the pair, so that merging a pair touches its occurrences and
 * their neighbours and nothing else (as in Re-Pair: Larsson, Moffat 1999).  A heap knows the most
 * frequent pair.  Time is about the number of distinct bytes times the logarithm of the number of
 * pairs; a piece may be megabytes long. */
#include "text/tokenizer.h"

/* No token is longer, in bytes: in a text with a long run of one letter, doubling it would give
 * tokens of megabytes that stand for nothing else. */
#define MAX_TOKEN 128

typedef struct word {
	const uint8_t *p; /* in the text */
	size_t n;
	int64_t count;
} word;

typedef struct pair {
	int32_t left, right;
	int64_t count; /* occurrences now */
	int64_t key;   /* count as the heap knows it */
	int32_t first; /* of the occurrences; -1: none */
	int32_t place; /* in the heap */
	bool touched;  /* count and key may differ */
} pair;

/* What is known of one byte of the layout. */
typedef struct place {
	int32_t at;         /* id of the token that starts here; -1: inside a token, or a wall */
	int32_t begin;      /* at a token's last byte: where it starts; wall: -1 */
	int32_t next, prev; /* occurrences of the same pair; prev of the first: -1 */
	int32_t word;
} place;

typedef struct trainer {
	an_ctx *ctx;
	an_tokenizer *t;
	word *words;
	size_t words_n, words_cap;
	int32_t *table; /* words by content, -1: free */
	size_t table_cap;
	place *x;
	size_t x_n;
	pair *pair;
	size_t pairs_n, pairs_cap;
	pairs index; /* (left, right) -> index into pair */
	int32_t *heap;
	size_t heap_cap; /* every pair is in the heap, so it has pairs_n entries */
	int32_t *touched;
	size_t touched_n, touched_cap;
} trainer;

/* ---- Counting pieces ------------------------------------------------------------ */

static int32_t *word_slot(const trainer *r, const uint8_t *p, size_t n)
{
	for (size_t i = random_mix(hash_bytes(HASH_INIT, p, n));; i++) {
		int32_t *w = &r->table[i & (r->table_cap - 1)];
		if (*w < 0 || (r->words[*w].n == n && memcmp(r->words[*w].p, p, n) == 0))
			return w;
	}
}

static an_status grow_table(trainer *r)
{
	size_t cap = r->table_cap ? r->table_cap * 2 : 4096;
	int32_t *bigger = mem_alloc(r->ctx, cap * sizeof *bigger);
	if (!bigger)
		return fail_memory(r->ctx, cap * sizeof *bigger);
	memset(bigger, -1, cap * sizeof *bigger);
	mem_free(r->ctx, r->table, r->table_cap * sizeof *r->table);
	r->table = bigger;
	r->table_cap = cap;
	for (size_t i = 0; i < r->words_n; i++)
		*word_slot(r, r->words[i].p, r->words[i].n) = (int32_t)i;
	return AN_OK;
}

static an_status count_piece(void *arg, const uint8_t *p, size_t n)
{
	trainer *r = arg;
	if (n < 2) /* nothing to merge */
		return AN_OK;
	if (r->words_n * 2 >= r->table_cap)
		TRY(grow_table(r));
	int32_t *w = word_slot(r, p, n);
	if (*w < 0) {
		if (!mem_grow(r->ctx, &r->words, &r->words_cap, r->words_n, sizeof *r->words))
			return fail_memory(r->ctx, r->words_cap * 2 * sizeof *r->words);
		*w = (int32_t)r->words_n;
		r->words[r->words_n++] = (word){p, n, 0};
		r->x_n += n + 1;
		if (r->x_n > INT32_MAX - 1)
			return fail(
			    r->ctx, AN_UNSUPPORTED,
			    "the distinct words of this text have more than 2 GB; train on a part of it");
	}
	r->words[*w].count++;
	return AN_OK;
}

/* ---- The heap of pairs ---------------------------------------------------------- */

static int compare_tokens(const trainer *r, int32_t a, int32_t b)
{
	const tok_token *x = &r->t->token[a], *y = &r->t->token[b];
	int c = memcmp(x->bytes, y->bytes, MIN(x->len, y->len));
	return c ? c : (x->len > y->len) - (x->len < y->len);
}

/* Whether pair a is to be merged before pair b. */
static bool before(const trainer *r, int32_t a, int32_t b)
{
	const pair *p = &r->pair[a], *q = &r->pair[b];
	if (p->key != q->key)
		return p->key > q->key;
	int c = compare_tokens(r, p->left, q->left);
	return (c ? c : compare_tokens(r, p->right, q->right)) < 0;
}

static void heap_store(trainer *r, size_t i, int32_t p)
{
	r->heap[i] = p;
	r->pair[p].place = (int32_t)i;
}

/* Restores the heap's order after the key of pair p has changed. */
static void heap_fix(trainer *r, int32_t p)
{
	size_t i = (size_t)r->pair[p].place, n = r->pairs_n;
	for (; i && before(r, p, r->heap[(i - 1) / 2]); i = (i - 1) / 2)
		heap_store(r, i, r->heap[(i - 1) / 2]);
	for (size_t child; (child = 2 * i + 1) < n; i = child) {
		if (child + 1 < n && before(r, r->heap[child + 1], r->heap[child]))
			child++;
		if (!before(r, r->heap[child], p))
			break;
		heap_store(r, i, r->heap[child]);
	}
	heap_store(r, i, p);
}

/* Tells the heap all that has changed; one key at a time, because its order can be restored
 * only where a single key is wrong. */
static void settle(trainer *r)
{
	for (size_t i = 0; i < r->touched_n; i++) {
		pair *p = &r->pair[r->touched[i]];
		p->touched = false;
		p->key = p->count;
		heap_fix(r, r->touched[i]);
	}
	r->touched_n = 0;
}

/* ---- Pairs and their occurrences ------------------------------------------------ */

static an_status touch(trainer *r, int32_t p)
{
	if (r->pair[p].touched)
		return AN_OK;
	if (!mem_grow(r->ctx, &r->touched, &r->touched_cap, r->touched_n, sizeof *r->touched))
		return fail_memory(r->ctx, 0);
	r->touched[r->touched_n++] = p;
	r->pair[p].touched = true;
	return AN_OK;
}

static an_status new_pair(trainer *r, int32_t left, int32_t right, int32_t *out)
{
	size_t n = r->pairs_n;
	if (n == INT32_MAX || !mem_grow(r->ctx, &r->pair, &r->pairs_cap, n, sizeof *r->pair) ||
	    !mem_grow(r->ctx, &r->heap, &r->heap_cap, n, sizeof *r->heap) ||
	    !pairs_set(&r->index, left, right, (int32_t)n))
		return fail_memory(r->ctx, 0);
	r->pair[n] = (pair){.left = left, .right = right, .first = -1};
	*out = (int32_t)n;
	heap_store(r, n, *out);
	r->pairs_n++;
	heap_fix(r, *out); /* with key 0 it may still come before others by its bytes */
	return AN_OK;
}

/* Where the token behind the one at i starts, or a wall. */
static int32_t after(const trainer *r, int32_t i) { return i + (int32_t)r->t->token[r->x[i].at].len; }

/* Whether the token at i has one behind it that it may be merged with. */
static bool has_pair(const trainer *r, int32_t i)
{
	int32_t j = after(r, i);
	return r->x[j].at >= 0 && after(r, j) - i <= MAX_TOKEN;
}

/* Notes that the token at i and the one behind it are a pair. */
static an_status link_pair(trainer *r, int32_t i)
{
	if (!has_pair(r, i))
		return AN_OK;
	int32_t left = r->x[i].at, right = r->x[after(r, i)].at;
	int32_t k = pairs_get(&r->index, left, right);
	if (k < 0)
		TRY(new_pair(r, left, right, &k));
	TRY(touch(r, k));
	pair *p = &r->pair[k];
	p->count += r->words[r->x[i].word].count;
	r->x[i].prev = -1;
	r->x[i].next = p->first;
	if (p->first >= 0)
		r->x[p->first].prev = i;
	p->first = i;
	return AN_OK;
}

/* The reverse. */
static an_status unlink_pair(trainer *r, int32_t i)
{
	if (!has_pair(r, i))
		return AN_OK;
	int32_t k = pairs_get(&r->index, r->x[i].at, r->x[after(r, i)].at);
	TRY(touch(r, k));
	pair *p = &r->pair[k];
	const place *x = &r->x[i];
	p->count -= r->words[x->word].count;
	if (x->prev >= 0)
		r->x[x->prev].next = x->next;
	else
		p->first = x->next;
	if (x->next >= 0)
		r->x[x->next].prev = x->prev;
	return AN_OK;
}

/* Replaces the token at i and the one behind it by token `id`. */
static an_status merge_at(trainer *r, int32_t i, int32_t id)
{
	int32_t j = after(r, i), end = after(r, j), h = r->x[i - 1].begin;
	if (h >= 0)
		TRY(unlink_pair(r, h));
	TRY(unlink_pair(r, i));
	TRY(unlink_pair(r, j));
	r->x[j].at = -1;
	r->x[i].at = id;
	r->x[end - 1].begin = i;
	if (h >= 0)
		TRY(link_pair(r, h));
	return link_pair(r, i);
}

/* Merges all occurrences.  In a run of equal tokens they overlap and the leftmost go first. */
static an_status merge_pair(trainer *r, int32_t k, int32_t id)
{
	int32_t left = r->pair[k].left, right = r->pair[k].right;
	for (int32_t i; (i = r->pair[k].first) >= 0;) {
		if (left == right)
			for (int32_t h; (h = r->x[i - 1].begin) >= 0 && r->x[h].at == left;)
				i = h;
		while (r->x[i].at == left && r->x[after(r, i)].at == right) {
			TRY(merge_at(r, i, id));
			i = after(r, i);
		}
	}
	return AN_OK;
}

/* ---- Training ------------------------------------------------------------------- */

static an_status lay_out(trainer *r)
{
	r->x_n++; /* a wall before the first word */
	r->x = mem_alloc(r->ctx, r->x_n * sizeof *r->x);
	if (!r->x)
		return fail_memory(r->ctx, r->x_n * sizeof *r->x);
	const place wall = {-1, -1, -1, -1, -1};
	place *x = r->x;
	*x++ = wall;
	for (size_t w = 0; w < r->words_n; w++) {
		for (size_t i = 0; i < r->words[w].n; i++, x++)
			*x = (place){r->words[w].p[i], (int32_t)(x - r->x), -1, -1, (int32_t)w};
		*x++ = wall;
	}
	for (size_t i = 0; i < r->x_n; i++)
		if (r->x[i].at >= 0)
			TRY(link_pair(r, (int32_t)i));
	settle(r);
	return AN_OK;
}

/* Makes the next token.  *more = false: no pair occurs twice. */
static an_status next_token(trainer *r, bool *more)
{
	an_tokenizer *t = r->t;
	*more = r->pairs_n && r->pair[r->heap[0]].count >= 2;
	if (!*more)
		return AN_OK;
	int32_t k = r->heap[0];
	pair p = r->pair[k];
	const tok_token *a = &t->token[p.left], *b = &t->token[p.right];
	size_t len = a->len + b->len;
	uint8_t *bytes = mem_alloc(r->ctx, len);
	if (!bytes)
		return fail_memory(r->ctx, len);
	memcpy(bytes, a->bytes, a->len);
	memcpy(bytes + a->len, b->bytes, b->len);
	/* two merges may give the same bytes; they are one token then */
	int32_t id = tok_find(t, bytes, len);
	an_status s = AN_OK;
	if (id < 0) {
		id = t->vocab;
		s = tok_put(t, id, bytes, len, false);
	}
	mem_free(r->ctx, bytes, len);
	TRY(s);
	TRY(tok_put_merge(t, p.left, p.right, id));
	TRY(merge_pair(r, k, id));
	settle(r);
	return AN_OK;
}

static an_status train(trainer *r, const uint8_t *text, size_t len, const an_bpe_options *opt,
		       int64_t *invalid)
{
	an_tokenizer *t = r->t;
	TRY(split_add(t->split, SPLIT_GPT2));
	for (int i = 0; i < 256; i++) {
		uint8_t byte = (uint8_t)i;
		TRY(tok_put(t, i, &byte, 1, false));
	}
	TRY(split_text(t->split, text, len, count_piece, r, invalid));
	TRY(lay_out(r));
	for (bool more = true; more && t->vocab < opt->vocab - 1;) {
		if (opt->progress && t->merges % 64 == 0)
			opt->progress(opt->user, (double)(t->vocab - 256) / (opt->vocab - 256));
		TRY(next_token(r, &more));
	}
	if (opt->progress)
		opt->progress(opt->user, 1.0);
	t->end = t->vocab;
	return tok_put(t, t->end, TOK_END_TEXT, strlen(TOK_END_TEXT), true);
}

an_status an_bpe_train(an_ctx *ctx, const uint8_t *text, size_t len, const an_bpe_options *opt,
		       an_tokenizer **out, int64_t *invalid)
{
	*out = NULL;
	if (opt->vocab < 257 || opt->vocab > 65536)
		return fail(
		    ctx, AN_USAGE,
		    "a vocabulary of %d tokens: expected 257 (256 bytes and the end of text) to 65536",
		    opt->vocab);
	trainer r = {.ctx = ctx, .index.ctx = ctx};
	an_status s = tok_new(ctx, &r.t);
	if (s == AN_OK)
		s = train(&r, text, len, opt, invalid);
	mem_free(ctx, r.words, r.words_cap * sizeof *r.words);
	mem_free(ctx, r.table, r.table_cap * sizeof *r.table);
	mem_free(ctx, r.x, r.x_n * sizeof *r.x);
	mem_free(ctx, r.pair, r.pairs_cap * sizeof *r.pair);
	mem_free(ctx, r.heap, r.heap_cap * sizeof *r.heap);
	mem_free(ctx, r.touched, r.touched_cap * sizeof *r.touched);
	pairs_free(&r.index);
	if (s == AN_OK)
		*out = r.t;
	else
		an_tokenizer_free(r.t);
	return s;
}
