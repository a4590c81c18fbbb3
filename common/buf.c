/* Growable byte buffer: doubling growth, so that appends cost amortised O(1). */
#include "common/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/assert.h"

void buf_release(struct buf *buf)
{
    free(buf->ptr);
    *buf = (struct buf){0};
}

uint8_t *buf_reserve(struct buf *buf, size_t more)
{
    if (buf->cap - buf->len < more) {
        size_t cap = buf->cap < 64 ? 64 : buf->cap;
        while (cap - buf->len < more) {
            ASSERT(cap <= SIZE_MAX / 2);
            cap *= 2;
        }
        uint8_t *ptr = realloc(buf->ptr, cap);
        ASSERT(ptr != NULL);
        buf->ptr = ptr;
        buf->cap = cap;
    }
    return buf->ptr + buf->len;
}

uint8_t *buf_extend(struct buf *buf, size_t more)
{
    uint8_t *place = buf_reserve(buf, more);
    buf->len += more;
    return place;
}

void buf_append(struct buf *buf, const void *bytes, size_t len)
{
    if (len > 0)
        memcpy(buf_extend(buf, len), bytes, len);
}

void buf_append_zeros(struct buf *buf, size_t len)
{
    if (len > 0)
        memset(buf_extend(buf, len), 0, len);
}

void buf_append_span(struct buf *buf, struct span span)
{
    buf_append(buf, span.ptr, span.len);
}

void buf_printf(struct buf *buf, const char *format, ...)
{
    ASSERT(format != NULL);
    va_list args;
    va_start(args, format);
    int len = vsnprintf(NULL, 0, format, args);
    va_end(args);
    ASSERT(len >= 0);
    char *place = (char *)buf_reserve(buf, (size_t)len + 1);
    va_start(args, format);
    vsnprintf(place, (size_t)len + 1, format, args);
    va_end(args);
    buf->len += (size_t)len;
}

void buf_consume(struct buf *buf, size_t len)
{
    ASSERT(len <= buf->len);
    if (len == 0)
        return;
    buf->len -= len;
    memmove(buf->ptr, buf->ptr + len, buf->len);
}

void buf_clear(struct buf *buf, size_t keep)
{
    if (buf->cap > keep)
        buf_release(buf);
    buf->len = 0;
}
