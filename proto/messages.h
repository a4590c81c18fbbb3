/* Messages between actors, expanded from messages.def.
 *
 * Wire form of a frame: a msgpack array [PROTO_VERSION, from_boot, to_boot], then
 * messages back to back until its end. Every unpack is bounds-checked and fuzzed; nothing is
 * allocated, and views point into the frame. msgpack-c packs; reading is a cursor of our own
 * (cursor.h), because msgpack-c's unpacker reserves memory by declared counts (STYLE.md 3.13) and
 * would need the same walk first. */
#pragma once

#include "common/buf.h"
#include "common/err.h"
#include "common/uuid.h"

#define PROTO_VERSION 1u

enum append_flags {
    APPEND_RETRY = 1,    /* sent before: look for its ids first */
    APPEND_GIVEN_ID = 2, /* a client chose an id: look for it first */
};

enum read_mode {
    READ_DEFAULT, /* any replica that is up to date, cut at its watermark */
    READ_STRONG,  /* sees all that was acknowledged before it was asked; the leader only */
};

enum expect { EXPECT_ANY, EXPECT_EXISTS, EXPECT_EMPTY, EXPECT_VERSION };

enum bucket_state { BUCKET_STARTING, BUCKET_UP, BUCKET_DOWN };

/* What a relay or an item carries. */
enum relay_kind {
    RELAY_PEER = 1, /* a bucket's process to the same bucket's on the other node */
    RELAY_REQUEST,  /* a netd's messages to another node's bucket; its link is (node, boot) */
    RELAY_REPLY,    /* and the bucket's messages to that netd */
    /* To a bucket: that netd is gone, or has another boot: its requests are forgotten. Between
     * netds: the link to that bucket's process there is gone: its answers won't come. */
    RELAY_LINK_LOST,
    RELAY_NOTICE, /* peer_down for the bucket's process, from the node where that process ended */
    RELAY_TICK,   /* as RELAY_PEER: one routine tick, that may wait a little for company */
};

enum node_health { NODE_HEALTHY, NODE_DEGRADED /* a bucket is down or damaged */, NODE_STOPPING };

/* C types of the field kinds. */
typedef uint64_t field_u64;
typedef bool field_bool;
typedef struct uuid field_uuid;
typedef struct span field_str;
typedef struct span field_bin;
typedef struct span field_list;

/* Structs: struct msg_append_req { field_u64 req_id; ... }; records: struct rec_new_event {...}. */
#define MESSAGE(name, tag, from, to) struct msg_##name {
#define RECORD(name)                 struct rec_##name {
#define FIELD(kind, name)            field_##kind name;
#define OPTIONAL(kind, name)         field_##kind name;
/* The empty array stands for the members of a message without fields. */
#define END(name)                                                                                  \
    __extension__ char end_[0];                                                                    \
    }                                                                                              \
    ;
#include "proto/messages.def"

/* MSG_APPEND_REQ_TAG would need upper case; the tag of message x is TAG_x. */
enum msg_tag {
#define MESSAGE(name, tag, from, to) TAG_##name = tag,
#define RECORD(name)
#define FIELD(kind, name)
#define OPTIONAL(kind, name)
#define END(name)
#include "proto/messages.def"
};

/* Any message, by tag. Views point into the frame it was unpacked from. */
struct msg {
    enum msg_tag tag;
    union {
#define MESSAGE(name, tag, from, to) struct msg_##name name;
#define RECORD(name)
#define FIELD(kind, name)
#define OPTIONAL(kind, name)
#define END(name)
#include "proto/messages.def"
    } u;
};

/* Frame header. */
struct frame_head {
    uint64_t version, from_boot, to_boot;
};
void frame_pack_head(struct buf *out, const struct frame_head *head);
/* Takes the head off *frame. ERR_TRUNCATED, ERR_CORRUPT (no head), ERR_INVALID (unknown version).
 */
enum err frame_unpack_head(struct span *frame, struct frame_head *ret_head) MUST_CHECK;

/* Appends one message to out. One function for each message: msg_pack_append_req(out, &req). */
#define MESSAGE(name, tag, from, to)                                                               \
    void msg_pack_##name(struct buf *out, const struct msg_##name *m);
#define RECORD(name)
#define FIELD(kind, name)
#define OPTIONAL(kind, name)
#define END(name)
#include "proto/messages.def"
void msg_pack(struct buf *out, const struct msg *msg);

/* Takes the next message off *frame; call until frame->len is 0. ERR_CORRUPT or ERR_TRUNCATED: the
 * frame can't be trusted, drop the rest. An unknown tag is skipped whole and returns ERR_NOTFOUND.
 */
enum err msg_unpack(struct span *frame, struct msg *ret_msg) MUST_CHECK;

/* Records: rec_pack_x appends one; rec_next_x takes the next off *list (ERR_NOTFOUND at its end);
 * print and random as msg_print and msg_random below. */
#define MESSAGE(name, tag, from, to)
#define RECORD(name)                                                                               \
    void rec_pack_##name(struct buf *out, const struct rec_##name *r);                             \
    enum err rec_next_##name(struct span *list, struct rec_##name *ret_record) MUST_CHECK;         \
    void rec_print_##name(struct buf *out, const struct rec_##name *r);                            \
    void rec_random_##name(struct rec_##name *ret_record, uint64_t (*next)(void *),                \
                           void *next_ctx, struct span bytes);
#define FIELD(kind, name)
#define OPTIONAL(kind, name)
#define END(name)
#include "proto/messages.def"

/* Name of a message, "unknown" for a tag that isn't in the list. */
const char *msg_name(enum msg_tag tag);
/* One readable line, for traces: append_req req_id=4 flags=0 .... */
void msg_print(struct buf *out, const struct msg *msg);
/* Fills a message of this tag with arbitrary but valid values, for tests: `next` yields numbers,
 * `bytes` is what views point into (at least 256 bytes). A `list` is such a view too, not valid
 * records. */
void msg_random(struct msg *ret_msg, enum msg_tag tag, uint64_t (*next)(void *), void *next_ctx,
                struct span bytes);
/* All tags, ascending. */
extern const enum msg_tag msg_tags[];
extern const unsigned msg_tag_count;
