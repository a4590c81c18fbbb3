/* Skipping msgpack elements of any type, without recursion. */
#include "proto/cursor.h"

static enum err read_header(struct cursor *cursor, uint64_t *ret_body, uint64_t *ret_elements);
static enum err read_wide_header(struct cursor *cursor, uint8_t type, uint64_t *ret_body,
                                 uint64_t *ret_elements);

enum err cursor_skip(struct cursor *cursor)
{
    /* Elements still to be skipped on each level; level 0 is the one element asked for. */
    uint64_t left[CURSOR_DEPTH_MAX + 1] = {1};
    unsigned depth = 0;
    for (;;) {
        while (left[depth] == 0) {
            if (depth == 0)
                return ERR_OK;
            depth--;
        }
        left[depth]--;
        uint64_t body, elements;
        enum err err = read_header(cursor, &body, &elements);
        if (err != ERR_OK)
            return err;
        if (body > cursor_left(cursor) || elements > cursor_left(cursor))
            return ERR_TRUNCATED;
        cursor->at += body;
        if (elements > 0) {
            if (depth == CURSOR_DEPTH_MAX)
                return ERR_CORRUPT;
            left[++depth] = elements;
        }
    }
}

/* Takes an element's header; `body` bytes, or `elements` elements of their own, follow it. */
static enum err read_header(struct cursor *cursor, uint64_t *ret_body, uint64_t *ret_elements)
{
    uint8_t type;
    enum err err = cursor_type(cursor, &type);
    if (err != ERR_OK)
        return err;
    *ret_body = 0;
    *ret_elements = 0;
    if (type < 0x80 || type >= 0xe0) /* fixint */
        return ERR_OK;
    if (type < 0x90) /* fixmap */
        *ret_elements = 2u * (type & 0x0f);
    else if (type < 0xa0) /* fixarray */
        *ret_elements = type & 0x0f;
    else if (type < 0xc0) /* fixstr */
        *ret_body = type & 0x1f;
    else
        return read_wide_header(cursor, type, ret_body, ret_elements);
    return ERR_OK;
}

/* Types 0xc0 to 0xdf: how many bytes of length follow each, and what the length counts. */
static enum err read_wide_header(struct cursor *cursor, uint8_t type, uint64_t *ret_body,
                                 uint64_t *ret_elements)
{
    static const struct {
        uint8_t known, length_width, body, elements;
    } rows[32] = {
        /* nil, (never used), false, true */
        {1, 0, 0, 0},
        {0, 0, 0, 0},
        {1, 0, 0, 0},
        {1, 0, 0, 0},
        /* bin 8, 16, 32; ext 8, 16, 32 have a type byte behind their length */
        {1, 1, 0, 0},
        {1, 2, 0, 0},
        {1, 4, 0, 0},
        {1, 1, 1, 0},
        {1, 2, 1, 0},
        {1, 4, 1, 0},
        /* float 32, 64; uint 8, 16, 32, 64; int 8, 16, 32, 64 */
        {1, 0, 4, 0},
        {1, 0, 8, 0},
        {1, 0, 1, 0},
        {1, 0, 2, 0},
        {1, 0, 4, 0},
        {1, 0, 8, 0},
        {1, 0, 1, 0},
        {1, 0, 2, 0},
        {1, 0, 4, 0},
        {1, 0, 8, 0},
        /* fixext 1, 2, 4, 8, 16: a type byte first */
        {1, 0, 2, 0},
        {1, 0, 3, 0},
        {1, 0, 5, 0},
        {1, 0, 9, 0},
        {1, 0, 17, 0},
        /* str 8, 16, 32; array 16, 32; map 16, 32 */
        {1, 1, 0, 0},
        {1, 2, 0, 0},
        {1, 4, 0, 0},
        {1, 2, 0, 1},
        {1, 4, 0, 1},
        {1, 2, 0, 2},
        {1, 4, 0, 2},
    };
    unsigned row = type - 0xc0u;
    if (!rows[row].known)
        return ERR_CORRUPT;
    uint64_t length = 0;
    enum err err = cursor_big_endian(cursor, rows[row].length_width, &length);
    if (err != ERR_OK)
        return err;
    if (rows[row].elements > 0)
        *ret_elements = length * rows[row].elements;
    else
        *ret_body = length + rows[row].body;
    return ERR_OK;
}
