/* A bounds-checked reader of msgpack tokens over borrowed bytes.
 *
 * Nothing is allocated and nothing outside [at, end) is read, whatever the bytes say. A declared
 * length or count is held against the bytes that are left before it is believed. On an error the
 * cursor stands somewhere inside the bad element and must not be used further; results are written
 * only on ERR_OK. ERR_TRUNCATED: the bytes end too early. ERR_CORRUPT: another type than asked for,
 * or nested too deep. */
#pragma once

#include "common/bytes.h"
#include "common/err.h"

#define CURSOR_DEPTH_MAX 8u

struct cursor {
    const uint8_t *at, *end;
};

static inline struct cursor cursor_of(struct span span)
{
    /* An empty span may have no address to add to. */
    return (struct cursor){.at = span.ptr, .end = span.len > 0 ? span.ptr + span.len : span.ptr};
}

static inline size_t cursor_left(const struct cursor *cursor)
{
    return (size_t)(cursor->end - cursor->at);
}

/* Steps over one element of any type, with all that is nested in it (CURSOR_DEPTH_MAX deep). */
enum err cursor_skip(struct cursor *cursor) MUST_CHECK;

/* Takes `width` (1, 2, 4 or 8) bytes as a big-endian number. */
static inline enum err cursor_big_endian(struct cursor *cursor, unsigned width, uint64_t *ret_value)
{
    if (cursor_left(cursor) < width)
        return ERR_TRUNCATED;
    uint64_t value = 0;
    for (unsigned i = 0; i < width; i++)
        value = value << 8 | cursor->at[i];
    cursor->at += width;
    *ret_value = value;
    return ERR_OK;
}

/* Takes the type byte. */
static inline enum err cursor_type(struct cursor *cursor, uint8_t *ret_type)
{
    if (cursor->at == cursor->end)
        return ERR_TRUNCATED;
    *ret_type = *cursor->at++;
    return ERR_OK;
}

/* An unsigned integer; the signed types are refused, even where their value isn't negative. */
static inline enum err cursor_u64(struct cursor *cursor, uint64_t *ret_value)
{
    uint8_t type;
    enum err err = cursor_type(cursor, &type);
    if (err != ERR_OK)
        return err;
    if (type < 0x80) {
        *ret_value = type;
        return ERR_OK;
    }
    switch (type) {
    case 0xcc:
        return cursor_big_endian(cursor, 1, ret_value);
    case 0xcd:
        return cursor_big_endian(cursor, 2, ret_value);
    case 0xce:
        return cursor_big_endian(cursor, 4, ret_value);
    case 0xcf:
        return cursor_big_endian(cursor, 8, ret_value);
    default:
        return ERR_CORRUPT;
    }
}

static inline enum err cursor_bool(struct cursor *cursor, bool *ret_value)
{
    uint8_t type;
    enum err err = cursor_type(cursor, &type);
    if (err != ERR_OK)
        return err;
    if (type != 0xc2 && type != 0xc3)
        return ERR_CORRUPT;
    *ret_value = type == 0xc3;
    return ERR_OK;
}

/* The next `len` bytes as a view. */
static inline enum err cursor_view(struct cursor *cursor, uint64_t len, struct span *ret_view)
{
    if (cursor_left(cursor) < len)
        return ERR_TRUNCATED;
    *ret_view = span_of(cursor->at, (size_t)len);
    cursor->at += len;
    return ERR_OK;
}

static inline enum err cursor_bin(struct cursor *cursor, struct span *ret_view)
{
    uint8_t type;
    uint64_t len;
    enum err err = cursor_type(cursor, &type);
    if (err != ERR_OK)
        return err;
    if (type < 0xc4 || type > 0xc6)
        return ERR_CORRUPT;
    err = cursor_big_endian(cursor, 1u << (type - 0xc4), &len);
    return err != ERR_OK ? err : cursor_view(cursor, len, ret_view);
}

static inline enum err cursor_str(struct cursor *cursor, struct span *ret_view)
{
    uint8_t type;
    uint64_t len;
    enum err err = cursor_type(cursor, &type);
    if (err != ERR_OK)
        return err;
    if ((type & 0xe0) == 0xa0)
        return cursor_view(cursor, type & 0x1f, ret_view);
    if (type < 0xd9 || type > 0xdb)
        return ERR_CORRUPT;
    err = cursor_big_endian(cursor, 1u << (type - 0xd9), &len);
    return err != ERR_OK ? err : cursor_view(cursor, len, ret_view);
}

/* An array's header. An element takes a byte at least: a count above the bytes left is refused. */
static inline enum err cursor_array(struct cursor *cursor, uint64_t *ret_count)
{
    uint8_t type;
    uint64_t count;
    enum err err = cursor_type(cursor, &type);
    if (err != ERR_OK)
        return err;
    if ((type & 0xf0) == 0x90)
        count = type & 0x0f;
    else if (type != 0xdc && type != 0xdd)
        return ERR_CORRUPT;
    else if ((err = cursor_big_endian(cursor, type == 0xdc ? 2 : 4, &count)) != ERR_OK)
        return err;
    if (count > cursor_left(cursor))
        return ERR_TRUNCATED;
    *ret_count = count;
    return ERR_OK;
}
