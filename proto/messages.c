/* Expansions of messages.def: pack, unpack, print, random.
 *
 * Packing goes through msgpack-c's packer with a callback that the compiler can inline: room for
 * the message's longest form is made first, so that the callback only copies (50 ns for an append
 * of 270 bytes). Unpacking is a walk of our own over tokens (cursor.h): fields in their order,
 * further ones skipped. */
#include "proto/messages.h"

#include <inttypes.h>
#include <msgpack/pack.h>

#include "common/assert.h"
#include "proto/cursor.h"

/* What a header takes at most: an array's count, a byte string's length. */
#define HEADER_BYTES_MAX 5u
/* A trace line shows so much of a byte string. */
#define PRINT_BYTES_MAX 64u

/* --- How each kind of field is packed --------------------------------------------------------- */

/* Copies into room that was reserved. */
static inline int write_reserved(void *data, const char *bytes, size_t len)
{
    struct buf *out = data;
    ASSERT(len <= out->cap - out->len);
    memcpy(out->ptr + out->len, bytes, len);
    out->len += len;
    return 0;
}

static inline msgpack_packer packer_of(struct buf *out)
{
    return (msgpack_packer){.data = out, .callback = write_reserved};
}

static inline size_t size_max_bytes(struct span value)
{
    ASSERT(value.len <= UINT32_MAX);
    return HEADER_BYTES_MAX + value.len;
}

#define SIZE_MAX_u64(value)  9u
#define SIZE_MAX_bool(value) 1u
#define SIZE_MAX_uuid(value) 18u
#define SIZE_MAX_str(value)  size_max_bytes(value)
#define SIZE_MAX_bin(value)  size_max_bytes(value)
#define SIZE_MAX_list(value) size_max_bytes(value)

static inline void pack_u64(msgpack_packer *packer, uint64_t value)
{
    msgpack_pack_uint64(packer, value);
}

static inline void pack_bool(msgpack_packer *packer, bool value)
{
    if (value)
        msgpack_pack_true(packer);
    else
        msgpack_pack_false(packer);
}

static inline void pack_bin(msgpack_packer *packer, struct span value)
{
    msgpack_pack_bin(packer, value.len);
    if (value.len > 0)
        msgpack_pack_bin_body(packer, value.ptr, value.len);
}

static inline void pack_list(msgpack_packer *packer, struct span value)
{
    pack_bin(packer, value);
}

static inline void pack_str(msgpack_packer *packer, struct span value)
{
    msgpack_pack_str(packer, value.len);
    if (value.len > 0)
        msgpack_pack_str_body(packer, value.ptr, value.len);
}

static inline void pack_uuid(msgpack_packer *packer, struct uuid value)
{
    msgpack_pack_bin(packer, sizeof value.bytes);
    msgpack_pack_bin_body(packer, value.bytes, sizeof value.bytes);
}

/* --- How each kind of field is unpacked ------------------------------------------------------- */

static inline enum err take_u64(struct cursor *cursor, uint64_t *ret_value)
{
    return cursor_u64(cursor, ret_value);
}

static inline enum err take_bool(struct cursor *cursor, bool *ret_value)
{
    return cursor_bool(cursor, ret_value);
}

static inline enum err take_bin(struct cursor *cursor, struct span *ret_value)
{
    return cursor_bin(cursor, ret_value);
}

static inline enum err take_list(struct cursor *cursor, struct span *ret_value)
{
    return cursor_bin(cursor, ret_value);
}

static inline enum err take_str(struct cursor *cursor, struct span *ret_value)
{
    return cursor_str(cursor, ret_value);
}

static inline enum err take_uuid(struct cursor *cursor, struct uuid *ret_value)
{
    struct span view;
    enum err err = cursor_bin(cursor, &view);
    if (err != ERR_OK)
        return err;
    if (view.len != sizeof ret_value->bytes)
        return ERR_CORRUPT;
    memcpy(ret_value->bytes, view.ptr, sizeof ret_value->bytes);
    return ERR_OK;
}

static enum err skip_fields(struct cursor *cursor, uint64_t count)
{
    for (; count > 0; count--) {
        enum err err = cursor_skip(cursor);
        if (err != ERR_OK)
            return err;
    }
    return ERR_OK;
}

/* --- Frames ----------------------------------------------------------------------------------- */

void frame_pack_head(struct buf *out, const struct frame_head *head)
{
    buf_reserve(out, HEADER_BYTES_MAX + 3 * SIZE_MAX_u64());
    msgpack_packer packer = packer_of(out);
    msgpack_pack_array(&packer, 3);
    pack_u64(&packer, head->version);
    pack_u64(&packer, head->from_boot);
    pack_u64(&packer, head->to_boot);
}

enum err frame_unpack_head(struct span *frame, struct frame_head *ret_head)
{
    struct cursor cursor = cursor_of(*frame);
    struct frame_head head;
    uint64_t count;
    enum err err = cursor_array(&cursor, &count);
    if (err == ERR_OK && count < 3)
        err = ERR_CORRUPT;
    if (err == ERR_OK)
        err = cursor_u64(&cursor, &head.version);
    if (err == ERR_OK && head.version != PROTO_VERSION)
        err = ERR_INVALID;
    if (err == ERR_OK)
        err = cursor_u64(&cursor, &head.from_boot);
    if (err == ERR_OK)
        err = cursor_u64(&cursor, &head.to_boot);
    if (err == ERR_OK)
        err = skip_fields(&cursor, count - 3);
    if (err != ERR_OK)
        return err;
    *frame = span_of(cursor.at, cursor_left(&cursor));
    *ret_head = head;
    return ERR_OK;
}

/* --- Packing ---------------------------------------------------------------------------------- */

/* Elements of each one's array beside the tag: all of them, and those that must be there. */
enum {
#define MESSAGE(name, tag, from, to) FIELDS_msg_##name = 0
#define RECORD(name)                 FIELDS_rec_##name = 0
#define FIELD(kind, name)            +1
#define OPTIONAL(kind, name)         +1
#define END(name)                    ,
#include "proto/messages.def"
};
enum {
#define MESSAGE(name, tag, from, to) REQUIRED_msg_##name = 0
#define RECORD(name)                 REQUIRED_rec_##name = 0
#define FIELD(kind, name)            +1
#define OPTIONAL(kind, name)
#define END(name) ,
#include "proto/messages.def"
};

/* The longest form of each. */
#define MESSAGE(name, tag, from, to)                                                               \
    static inline size_t size_max_msg_##name(const struct msg_##name *m)                           \
    {                                                                                              \
        (void)m;                                                                                   \
        return HEADER_BYTES_MAX + SIZE_MAX_u64()
#define RECORD(name)                                                                               \
    static inline size_t size_max_rec_##name(const struct rec_##name *m)                           \
    {                                                                                              \
        (void)m;                                                                                   \
        return HEADER_BYTES_MAX
#define FIELD(kind, name)    +SIZE_MAX_##kind(m->name)
#define OPTIONAL(kind, name) +SIZE_MAX_##kind(m->name)
#define END(name)                                                                                  \
    ;                                                                                              \
    }
#include "proto/messages.def"

#define MESSAGE(name, tag, from, to)                                                               \
    void msg_pack_##name(struct buf *out, const struct msg_##name *m)                              \
    {                                                                                              \
        buf_reserve(out, size_max_msg_##name(m));                                                  \
        msgpack_packer packer = packer_of(out);                                                    \
        msgpack_pack_array(&packer, 1 + FIELDS_msg_##name);                                        \
        pack_u64(&packer, tag);
#define RECORD(name)                                                                               \
    void rec_pack_##name(struct buf *out, const struct rec_##name *m)                              \
    {                                                                                              \
        buf_reserve(out, size_max_rec_##name(m));                                                  \
        msgpack_packer packer = packer_of(out);                                                    \
        msgpack_pack_array(&packer, FIELDS_rec_##name);
#define FIELD(kind, name)    pack_##kind(&packer, m->name);
#define OPTIONAL(kind, name) pack_##kind(&packer, m->name);
#define END(name)            }
#include "proto/messages.def"

void msg_pack(struct buf *out, const struct msg *msg)
{
    switch (msg->tag) {
#define MESSAGE(name, tag, from, to)                                                               \
    case TAG_##name:                                                                               \
        msg_pack_##name(out, &msg->u.name);                                                        \
        return;
#define RECORD(name)
#define FIELD(kind, name)
#define OPTIONAL(kind, name)
#define END(name)
#include "proto/messages.def"
    }
    bool tag_is_in_the_list = false;
    ASSERT(tag_is_in_the_list);
}

/* --- Unpacking -------------------------------------------------------------------------------- */

/* take_msg_x, take_rec_x: the fields of one array of which `left` elements are still to come. */
#define TAKE_BEGIN(type)                                                                           \
    static inline enum err take_##type(struct cursor *cursor, uint64_t left, struct type *ret_m)   \
    {                                                                                              \
        enum err err = ERR_OK;                                                                     \
        memset(ret_m, 0, sizeof *ret_m);                                                           \
        if (1 + left < 1 + REQUIRED_##type) /* + 1: some have no fields */                         \
            return ERR_CORRUPT;
#define MESSAGE(name, tag, from, to) TAKE_BEGIN(msg_##name)
#define RECORD(name)                 TAKE_BEGIN(rec_##name)
#define FIELD(kind, name)                                                                          \
    if ((err = take_##kind(cursor, &ret_m->name)) != ERR_OK)                                       \
        return err;                                                                                \
    left--;
#define OPTIONAL(kind, name)                                                                       \
    if (left > 0) {                                                                                \
        FIELD(kind, name)                                                                          \
    }
#define END(name)                                                                                  \
    return left == 0 ? err : skip_fields(cursor, left);                                            \
    }
#include "proto/messages.def"

enum err msg_unpack(struct span *frame, struct msg *ret_msg)
{
    struct cursor cursor = cursor_of(*frame);
    uint64_t count, tag;
    enum err err = cursor_array(&cursor, &count);
    if (err == ERR_OK && count == 0)
        err = ERR_CORRUPT;
    if (err == ERR_OK)
        err = cursor_u64(&cursor, &tag);
    if (err != ERR_OK)
        return err;
    count--;

    bool known = true;
    switch (tag) {
#define MESSAGE(name, tag, from, to)                                                               \
    case TAG_##name: {                                                                             \
        struct msg_##name m;                                                                       \
        err = take_msg_##name(&cursor, count, &m);                                                 \
        if (err == ERR_OK)                                                                         \
            ret_msg->u.name = m;                                                                   \
        break;                                                                                     \
    }
#define RECORD(name)
#define FIELD(kind, name)
#define OPTIONAL(kind, name)
#define END(name)
#include "proto/messages.def"
    default:
        known = false;
        err = skip_fields(&cursor, count);
        break;
    }
    if (err != ERR_OK)
        return err;
    *frame = span_of(cursor.at, cursor_left(&cursor));
    if (!known)
        return ERR_NOTFOUND;
    ret_msg->tag = (enum msg_tag)tag;
    return ERR_OK;
}

#define MESSAGE(name, tag, from, to)
#define RECORD(name)                                                                               \
    enum err rec_next_##name(struct span *list, struct rec_##name *ret_record)                     \
    {                                                                                              \
        if (list->len == 0)                                                                        \
            return ERR_NOTFOUND;                                                                   \
        struct cursor cursor = cursor_of(*list);                                                   \
        struct rec_##name record;                                                                  \
        uint64_t count;                                                                            \
        enum err err = cursor_array(&cursor, &count);                                              \
        if (err == ERR_OK)                                                                         \
            err = take_rec_##name(&cursor, count, &record);                                        \
        if (err != ERR_OK)                                                                         \
            return err;                                                                            \
        *list = span_of(cursor.at, cursor_left(&cursor));                                          \
        *ret_record = record;                                                                      \
        return ERR_OK;                                                                             \
    }
#define FIELD(kind, name)
#define OPTIONAL(kind, name)
#define END(name)
#include "proto/messages.def"

/* --- Names, traces, arbitrary values ---------------------------------------------------------- */

const enum msg_tag msg_tags[] = {
#define MESSAGE(name, tag, from, to) TAG_##name,
#define RECORD(name)
#define FIELD(kind, name)
#define OPTIONAL(kind, name)
#define END(name)
#include "proto/messages.def"
};
const unsigned msg_tag_count = sizeof msg_tags / sizeof *msg_tags;

const char *msg_name(enum msg_tag tag)
{
    switch (tag) {
#define MESSAGE(name, tag, from, to)                                                               \
    case TAG_##name:                                                                               \
        return #name;
#define RECORD(name)
#define FIELD(kind, name)
#define OPTIONAL(kind, name)
#define END(name)
#include "proto/messages.def"
    }
    return "unknown";
}

static void print_u64(struct buf *out, uint64_t value)
{
    buf_printf(out, "%" PRIu64, value);
}

static void print_bool(struct buf *out, bool value)
{
    buf_printf(out, "%s", value ? "true" : "false");
}

static void print_uuid(struct buf *out, struct uuid value)
{
    uuid_format(&value, (char *)buf_extend(out, UUID_TEXT_LEN));
}

/* Quoted, everything but plain text as \xHH, so that a trace stays one readable line. */
static void print_bin(struct buf *out, struct span value)
{
    size_t shown = value.len < PRINT_BYTES_MAX ? value.len : PRINT_BYTES_MAX;
    buf_append(out, "\"", 1);
    for (size_t i = 0; i < shown; i++) {
        uint8_t c = value.ptr[i];
        if (c >= ' ' && c <= '~' && c != '"' && c != '\\')
            buf_append(out, &c, 1);
        else
            buf_printf(out, "\\x%02x", c);
    }
    buf_append(out, "\"", 1);
    if (shown < value.len)
        buf_printf(out, "+%zu", value.len - shown);
}

static void print_str(struct buf *out, struct span value)
{
    print_bin(out, value);
}

static void print_list(struct buf *out, struct span value)
{
    buf_printf(out, "[%zu bytes]", value.len);
}

#define MESSAGE(name, tag, from, to)                                                               \
    static void print_msg_##name(struct buf *out, const struct msg_##name *m)                      \
    {                                                                                              \
        (void)m;                                                                                   \
        buf_printf(out, #name);
#define RECORD(name)                                                                               \
    void rec_print_##name(struct buf *out, const struct rec_##name *m)                             \
    {                                                                                              \
        buf_printf(out, #name);
#define FIELD(kind, name)                                                                          \
    buf_printf(out, " " #name "=");                                                                \
    print_##kind(out, m->name);
#define OPTIONAL(kind, name) FIELD(kind, name)
#define END(name)            }
#include "proto/messages.def"

void msg_print(struct buf *out, const struct msg *msg)
{
    switch (msg->tag) {
#define MESSAGE(name, tag, from, to)                                                               \
    case TAG_##name:                                                                               \
        print_msg_##name(out, &msg->u.name);                                                       \
        return;
#define RECORD(name)
#define FIELD(kind, name)
#define OPTIONAL(kind, name)
#define END(name)
#include "proto/messages.def"
    }
    buf_printf(out, "unknown");
}

/* Where arbitrary values come from. */
struct source {
    uint64_t (*next)(void *);
    void *ctx;
    struct span bytes;
};

/* All widths, not only numbers of 64 bits. */
static uint64_t random_u64(const struct source *source)
{
    uint64_t shift = source->next(source->ctx) % 65;
    uint64_t value = source->next(source->ctx);
    return shift == 64 ? 0 : value >> shift;
}

static bool random_bool(const struct source *source)
{
    return source->next(source->ctx) % 2 == 1;
}

static struct uuid random_uuid(const struct source *source)
{
    struct uuid uuid;
    store_u64(uuid.bytes, source->next(source->ctx));
    store_u64(uuid.bytes + 8, source->next(source->ctx));
    return uuid;
}

static struct span random_bin(const struct source *source)
{
    uint64_t at = source->next(source->ctx) % (source->bytes.len + 1);
    uint64_t len = source->next(source->ctx) % (source->bytes.len - at + 1);
    return span_of(source->bytes.ptr + at, len);
}

static struct span random_str(const struct source *source)
{
    return random_bin(source);
}

static struct span random_list(const struct source *source)
{
    return random_bin(source);
}

#define MESSAGE(name, tag, from, to)                                                               \
    static void random_msg_##name(struct msg_##name *m, const struct source *source)               \
    {                                                                                              \
        memset(m, 0, sizeof *m);                                                                   \
        (void)source;
#define RECORD(name)                                                                               \
    void rec_random_##name(struct rec_##name *m, uint64_t (*next)(void *), void *next_ctx,         \
                           struct span bytes)                                                      \
    {                                                                                              \
        const struct source *source = &(struct source){next, next_ctx, bytes};                     \
        memset(m, 0, sizeof *m);
#define FIELD(kind, name)    m->name = random_##kind(source);
#define OPTIONAL(kind, name) FIELD(kind, name)
#define END(name)            }
#include "proto/messages.def"

void msg_random(struct msg *ret_msg, enum msg_tag tag, uint64_t (*next)(void *), void *next_ctx,
                struct span bytes)
{
    struct source source = {next, next_ctx, bytes};
    memset(ret_msg, 0, sizeof *ret_msg);
    ret_msg->tag = tag;
    switch (tag) {
#define MESSAGE(name, tag, from, to)                                                               \
    case TAG_##name:                                                                               \
        random_msg_##name(&ret_msg->u.name, &source);                                              \
        return;
#define RECORD(name)
#define FIELD(kind, name)
#define OPTIONAL(kind, name)
#define END(name)
#include "proto/messages.def"
    }
    bool tag_is_in_the_list = false;
    ASSERT(tag_is_in_the_list);
}
