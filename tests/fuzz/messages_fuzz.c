/* Frames of messages with any bytes: every view lies in the frame, what is unpacked packs to
 * something that unpacks to the same, and every step takes bytes, so that reading ends.
 *
 * The first byte chooses: a frame with its head, messages alone, or records alone. */
#include "common/assert.h"
#include "proto/messages.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len);

static void read_records(struct span list);

static void check_span(struct span view, struct span frame)
{
    if (view.len > 0)
        ASSERT(view.ptr >= frame.ptr && view.ptr + view.len <= frame.ptr + frame.len);
}

#define CHECK_u64(value)
#define CHECK_bool(value)
#define CHECK_uuid(value)
#define CHECK_str(value) check_span(value, frame);
#define CHECK_bin(value) check_span(value, frame);
#define CHECK_list(value)                                                                          \
    check_span(value, frame);                                                                      \
    read_records(value);

#define MESSAGE(name, tag, from, to)                                                               \
    static void check_msg_##name(const struct msg_##name *m, struct span frame)                    \
    {                                                                                              \
        (void)m;                                                                                   \
        (void)frame;
#define RECORD(name)                                                                               \
    static void check_rec_##name(const struct rec_##name *m, struct span frame)                    \
    {                                                                                              \
        (void)m;                                                                                   \
        (void)frame;
#define FIELD(kind, name)    CHECK_##kind(m->name)
#define OPTIONAL(kind, name) CHECK_##kind(m->name)
#define END(name)            }
#include "proto/messages.def"

/* Records of each type from the same bytes. */
#define MESSAGE(name, tag, from, to)
#define RECORD(name)                                                                               \
    static void read_##name(struct span list)                                                      \
    {                                                                                              \
        struct buf packed = {0}, again = {0}, line = {0};                                          \
        struct rec_##name record, back;                                                            \
        struct span rest = list;                                                                   \
        size_t before = rest.len;                                                                  \
        for (; rec_next_##name(&rest, &record) == ERR_OK; before = rest.len) {                     \
            ASSERT(rest.len < before);                                                             \
            check_rec_##name(&record, list);                                                       \
            packed.len = again.len = line.len = 0;                                                 \
            rec_pack_##name(&packed, &record);                                                     \
            struct span view = buf_span(&packed);                                                  \
            ASSERT(rec_next_##name(&view, &back) == ERR_OK && view.len == 0);                      \
            rec_pack_##name(&again, &back);                                                        \
            ASSERT(span_equal(buf_span(&packed), buf_span(&again)));                               \
            rec_print_##name(&line, &record);                                                      \
        }                                                                                          \
        buf_release(&packed);                                                                      \
        buf_release(&again);                                                                       \
        buf_release(&line);                                                                        \
    }
#define FIELD(kind, name)
#define OPTIONAL(kind, name)
#define END(name)
#include "proto/messages.def"

static void read_records(struct span list)
{
#define MESSAGE(name, tag, from, to)
#define RECORD(name) read_##name(list);
#define FIELD(kind, name)
#define OPTIONAL(kind, name)
#define END(name)
#include "proto/messages.def"
}

static void check_message(const struct msg *msg, struct span frame)
{
    switch (msg->tag) {
#define MESSAGE(name, tag, from, to)                                                               \
    case TAG_##name:                                                                               \
        check_msg_##name(&msg->u.name, frame);                                                     \
        return;
#define RECORD(name)
#define FIELD(kind, name)
#define OPTIONAL(kind, name)
#define END(name)
#include "proto/messages.def"
    }
    abort(); /* a tag that isn't in the list was called known */
}

static void read_messages(struct span frame)
{
    struct buf packed = {0}, again = {0}, line = {0};
    struct msg msg, back;
    struct span rest = frame;
    while (rest.len > 0) {
        size_t before = rest.len;
        enum err err = msg_unpack(&rest, &msg);
        if (err == ERR_OK || err == ERR_NOTFOUND)
            ASSERT(rest.len < before);
        else
            break;
        if (err == ERR_NOTFOUND)
            continue;
        check_message(&msg, frame);
        packed.len = again.len = line.len = 0;
        msg_pack(&packed, &msg);
        struct span view = buf_span(&packed);
        ASSERT(msg_unpack(&view, &back) == ERR_OK && view.len == 0);
        msg_pack(&again, &back);
        ASSERT(span_equal(buf_span(&packed), buf_span(&again)));
        msg_print(&line, &msg);
    }
    buf_release(&packed);
    buf_release(&again);
    buf_release(&line);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len)
{
    if (len == 0)
        return 0;
    struct span input = span_of(bytes + 1, len - 1);
    struct frame_head head;
    switch (bytes[0] % 3) {
    case 0:
        if (frame_unpack_head(&input, &head) == ERR_OK)
            read_messages(input);
        break;
    case 1:
        read_messages(input);
        break;
    default:
        read_records(input);
        break;
    }
    return 0;
}
