/* The newest entries in memory: one buffer of bytes and a ring of heads. */
#include "bucketd/core/recent.h"

#include <stdlib.h>

#include "common/assert.h"
#include "common/buf.h"

#define RING_MIN 256u
/* So much of the forgotten front isn't worth a move of what is behind it. */
#define FRONT_BYTES_MIN (64u << 10)

struct recent_head {
    uint64_t term, chain;
    uint64_t end; /* of its bytes, counted from the first byte ever pushed */
};

struct recent {
    size_t bytes_max;
    struct buf bytes;
    uint64_t base;  /* count of the buffer's first byte */
    uint64_t start; /* and of the first entry held */
    struct recent_head *ring;
    uint64_t cap; /* a power of two */
    uint64_t first_idx, len;
};

static struct recent_head *head_of(const struct recent *recent, uint64_t idx);
static uint64_t start_of(const struct recent *recent, uint64_t idx);
static void ring_grow(struct recent *recent);
static void drop_front(struct recent *recent);

struct recent *recent_new(size_t bytes_max)
{
    struct recent *recent = calloc(1, sizeof *recent);
    ASSERT(recent != NULL);
    recent->bytes_max = bytes_max;
    return recent;
}

void recent_free(struct recent *recent)
{
    if (recent == NULL)
        return;
    buf_release(&recent->bytes);
    free(recent->ring);
    free(recent);
}

void recent_push(struct recent *recent, uint64_t idx, uint64_t term, uint64_t chain,
                 struct span bytes)
{
    ASSERT(idx > 0 && (recent->len == 0 || idx == recent->first_idx + recent->len));
    ASSERT(bytes.len > 0 && bytes.len % 8 == 0);
    if (recent->len == 0)
        recent->first_idx = idx;
    if (recent->len == recent->cap)
        ring_grow(recent);
    buf_append_span(&recent->bytes, bytes);
    recent->len++;
    *head_of(recent, idx) =
        (struct recent_head){.term = term, .chain = chain, .end = recent->base + recent->bytes.len};
}

void recent_cut(struct recent *recent, uint64_t from_idx)
{
    if (from_idx >= recent->first_idx + recent->len)
        return;
    if (from_idx <= recent->first_idx) {
        recent_reset(recent);
        return;
    }
    recent->bytes.len = start_of(recent, from_idx) - recent->base;
    recent->len = from_idx - recent->first_idx;
}

void recent_trim(struct recent *recent, uint64_t keep_from)
{
    while (recent->len > 0 && recent->first_idx < keep_from &&
           recent_bytes(recent) > recent->bytes_max) {
        recent->start = head_of(recent, recent->first_idx)->end;
        recent->first_idx++;
        recent->len--;
    }
    drop_front(recent);
}

void recent_reset(struct recent *recent)
{
    buf_clear(&recent->bytes, 2 * recent->bytes_max);
    recent->base = recent->start = 0;
    recent->first_idx = recent->len = 0;
}

uint64_t recent_first(const struct recent *recent)
{
    return recent->len == 0 ? 0 : recent->first_idx;
}

uint64_t recent_last(const struct recent *recent)
{
    return recent->len == 0 ? 0 : recent->first_idx + recent->len - 1;
}

size_t recent_bytes(const struct recent *recent)
{
    return recent->base + recent->bytes.len - recent->start;
}

bool recent_get(const struct recent *recent, uint64_t idx, struct recent_entry *ret_entry)
{
    struct span bytes;
    if (recent_span(recent, idx, idx, 0, &bytes) == 0)
        return false;
    const struct recent_head *head = head_of(recent, idx);
    *ret_entry =
        (struct recent_entry){.idx = idx, .term = head->term, .chain = head->chain, .bytes = bytes};
    return true;
}

uint64_t recent_span(const struct recent *recent, uint64_t idx, uint64_t last_idx, size_t bytes_max,
                     struct span *ret_bytes)
{
    uint64_t end_idx = recent->first_idx + recent->len;
    if (recent->len == 0 || idx < recent->first_idx || idx >= end_idx || idx > last_idx)
        return 0;
    uint64_t start = start_of(recent, idx), count = 1;
    while (idx + count < end_idx && idx + count <= last_idx &&
           head_of(recent, idx + count)->end - start <= bytes_max)
        count++;
    uint64_t end = head_of(recent, idx + count - 1)->end;
    *ret_bytes = span_of(recent->bytes.ptr + (start - recent->base), end - start);
    return count;
}

static struct recent_head *head_of(const struct recent *recent, uint64_t idx)
{
    ASSERT(idx - recent->first_idx < recent->len);
    return &recent->ring[idx & (recent->cap - 1)];
}

static uint64_t start_of(const struct recent *recent, uint64_t idx)
{
    return idx == recent->first_idx ? recent->start : head_of(recent, idx - 1)->end;
}

static void ring_grow(struct recent *recent)
{
    uint64_t cap = recent->cap == 0 ? RING_MIN : recent->cap * 2;
    struct recent_head *ring = malloc(cap * sizeof *ring);
    ASSERT(ring != NULL);
    for (uint64_t idx = recent->first_idx; idx < recent->first_idx + recent->len; idx++)
        ring[idx & (cap - 1)] = *head_of(recent, idx);
    free(recent->ring);
    recent->ring = ring;
    recent->cap = cap;
}

/* Moves what is held to the buffer's front when more than half of it is forgotten, so that each
 * byte is moved once at most. A buffer that a long tail made large shrinks again. */
static void drop_front(struct recent *recent)
{
    size_t front = recent->start - recent->base;
    size_t held = recent_bytes(recent);
    if (front < FRONT_BYTES_MIN || front < held)
        return;
    if (recent->bytes.cap > 4 * max_u64(held, recent->bytes_max)) {
        struct buf smaller = {0};
        buf_append(&smaller, recent->bytes.ptr + front, held);
        buf_release(&recent->bytes);
        recent->bytes = smaller;
    } else {
        buf_consume(&recent->bytes, front);
    }
    recent->base = recent->start;
}
