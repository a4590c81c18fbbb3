/* A growable byte buffer. A zeroed struct is an empty buffer and valid to release.
 * Memory that can't be had ends the process: every caller bounds what it puts in (limits.h). */
#pragma once

#include "common/bytes.h"

struct buf {
    uint8_t *ptr;
    size_t len;
    size_t cap;
};

/* Frees the memory and leaves an empty buffer. */
void buf_release(struct buf *buf);
/* Makes room for `more` bytes behind len; returns the place where they go (len is unchanged). */
uint8_t *buf_reserve(struct buf *buf, size_t more);
/* Adds `more` uninitialised bytes and returns the first of them. */
uint8_t *buf_extend(struct buf *buf, size_t more);
void buf_append(struct buf *buf, const void *bytes, size_t len);
void buf_append_zeros(struct buf *buf, size_t len);
void buf_append_span(struct buf *buf, struct span span);
void buf_printf(struct buf *buf, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Drops the first `len` bytes, moving the rest to the front. */
void buf_consume(struct buf *buf, size_t len);
/* Empties the buffer, and gives memory beyond `keep` bytes of capacity back. */
void buf_clear(struct buf *buf, size_t keep);

static inline struct span buf_span(const struct buf *buf)
{
    return span_of(buf->ptr, buf->len);
}
