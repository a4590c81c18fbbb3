/* A frame between two nodes: a head, a body of messages (proto/messages.def), a MAC over both.
 *
 *   0  4  magic "SDBP"            24  4  from node    48  8  session (0 in a hello)
 *   4  2  version                 28  4  to node      56  8  number
 *   6  2  flags                   32  8  from boot    64  4  raw_bytes: the body's, uncompressed
 *   8 16  cluster id              40  8  to boot      68  4  0
 *   72    body, perhaps one lz4 block; the last 32 bytes are the HMAC-SHA256 of all before them
 *
 * Little-endian. Nothing of a body is looked at, and no memory is taken for it, before its MAC is
 * proved right. Pure: keys are the only state, and the caller's. */
#pragma once

#include "common/buf.h"
#include "common/limits.h"
#include "common/uuid.h"

#define PEER_FRAME_VERSION   1u
#define PEER_HEAD_BYTES      72u
#define PEER_MAC_BYTES       32u
#define PEER_FRAME_BYTES_MAX (PEER_HEAD_BYTES + PEER_BODY_BYTES_MAX + PEER_MAC_BYTES)
/* Of a hello's, which anybody can make us look at: with room for fields of later versions. */
#define PEER_HELLO_BYTES_MAX 1024u

enum peer_flags {
    PEER_HELLO = 1, /* sealed with the cluster's key, not a session's */
    PEER_LZ4 = 2,
};

/* Why a frame isn't believed. */
enum peer_refusal {
    PEER_OK,
    PEER_REFUSED_LENGTH,    /* no room for head and MAC, or longer than it may be */
    PEER_REFUSED_MAGIC,     /* not of this protocol */
    PEER_REFUSED_VERSION,   /* of a program whose frames we don't know */
    PEER_REFUSED_CLUSTER,   /* of another cluster.name */
    PEER_REFUSED_FROM_NODE, /* no such peer */
    PEER_REFUSED_TO_NODE,   /* for another node: network.peers differ, or the address is wrong */
    PEER_REFUSED_TO_BOOT,   /* for an earlier process of this node */
    PEER_REFUSED_OLD_BOOT,  /* of an earlier process of that node, or two run with its index */
    PEER_REFUSED_REPLAY,    /* seen before */
    PEER_REFUSED_SESSION,   /* of a session that is over, or not begun here */
    PEER_REFUSED_GAP,       /* frames before it are missing */
    PEER_REFUSED_MAC,       /* another cluster.secret, or forged, or damaged on the way */
    PEER_REFUSED_SIZE,      /* the head's sizes and flags don't fit one another */
    PEER_REFUSED_LZ4,       /* doesn't unpack to what the head says */
    PEER_REFUSED_BODY,      /* messages that can't be read, or don't belong there */
    PEER_REFUSAL_COUNT
};
/* "length", "magic", ...: static strings. */
const char *peer_refusal_name(enum peer_refusal refusal);

struct peer_head {
    uint16_t version, flags;
    struct uuid cluster_id;
    uint32_t from_node, to_node;
    uint64_t from_boot, to_boot;
    uint64_t session, number;
    uint32_t raw_bytes;
};

/* A key for MACs, made from the cluster's secret: another one for each label and context. */
struct peer_key;
struct peer_key *peer_key_new(struct span secret, const char *label, struct span context);
void peer_key_free(struct peer_key *key);
void peer_key_mac(struct peer_key *key, struct span bytes, uint8_t ret_mac[static PEER_MAC_BYTES]);
/* The same derivation, as a number: for a session's name, which isn't secret. Never 0. */
uint64_t peer_key_number(struct span secret, const char *label, struct span context);

/* Writes a frame of `body` (PEER_BODY_BYTES_MAX at most) to `to`, which has room for
 * peer_frame_bytes_max(body.len), and returns its length. Version, raw_bytes and PEER_LZ4 are set
 * here: a body above 4 KiB is compressed where that saves an eighth. */
size_t peer_frame_seal(const struct peer_head *head, struct peer_key *key, struct span body,
                       uint8_t *to);
static inline size_t peer_frame_bytes_max(size_t body_len)
{
    return PEER_HEAD_BYTES + body_len + PEER_MAC_BYTES;
}

/* Reads the head; believes nothing. Refusals: LENGTH, MAGIC, VERSION, SIZE. */
enum peer_refusal peer_frame_head(struct span frame, struct peer_head *ret_head);
/* Proves the MAC and gives the body: a view of the frame, or of *scratch, which is overwritten.
 * `head` is what peer_frame_head gave. Refusals: MAC, LZ4. */
enum peer_refusal peer_frame_open(struct span frame, const struct peer_head *head,
                                  struct peer_key *key, struct buf *scratch, struct span *ret_body);
