/* Every maximum of the system in one place, each with the reason it comes from. */
#pragma once

#include <stdint.h>

/* --- Ids and names: WIRE.md ------------------------------------------------------------------ */
#define STREAM_ID_LEN_MAX  64u
#define EVENT_NAME_LEN_MAX 255u

/* --- Topology: ids are u16 on the wire ------------------------------------------------------- */
#define PARTITION_COUNT_MAX 65535u
#define BUCKET_COUNT_MAX    1024u
#define NODE_COUNT_MAX      1024u
/* Replicas of a bucket: more would cost more than they protect. */
#define REPLICAS_MAX 7u

/* --- Sizes ------------------------------------------------------------------------------------ */
#define SEGMENT_SIZE_MIN (128ull << 10)
#define SEGMENT_SIZE_MAX (10ull << 30)
/* Positions are in units of 8 bytes in 32 bits. */
#define POSITION_UNIT 8u
_Static_assert(SEGMENT_SIZE_MAX / POSITION_UNIT <= UINT32_MAX, "a position fits 32 bits");

/* Metadata + payload of one event, at most; also never more than a quarter of a segment. */
#define EVENT_BYTES_DEFAULT (8ull << 20)
#define EVENT_BYTES_MAX     (64ull << 20)
/* All events of one transaction as they travel; also never more than a quarter of a segment. */
#define TRANSACTION_BYTES_DEFAULT (32ull << 20)
#define TRANSACTION_BYTES_MAX     (256ull << 20)

/* One frame of a link: a largest transaction with its envelope, and room for field headers. */
#define LINK_MESSAGE_BYTES_MAX (TRANSACTION_BYTES_MAX + (1ull << 20))
/* What a batch of appends gathers before it leaves, unless one transaction alone is larger. */
#define APPEND_BATCH_BYTES (4ull << 20)
/* A scan's answer travels in chunks of about this size. */
#define SCAN_CHUNK_BYTES (256u << 10)

/* --- RESP: WIRE.md ---------------------------------------------------------------------------- */
#define RESP_ARGUMENTS_MAX    (1u << 20)
#define RESP_INLINE_BYTES_MAX (64u << 10)
#define RESP_NESTING_MAX      8u
#define RESP_BULK_SLACK       (64u << 10)

/* --- Links ------------------------------------------------------------------------------------ */
/* sun_path holds 108 bytes, one of them the terminating NUL. */
#define IPC_PATH_LEN_MAX 107u

/* --- Between nodes: netd/peers.h -------------------------------------------------------------- */
/* What a frame holds, uncompressed. It bounds what an unknown sender can make a node hold: as much
 * for each connection that hasn't proved yet that it is a peer's. */
#define PEER_BODY_BYTES_MAX ((256u << 10) + 512u)
/* A larger item travels in parts of this size: four fill a frame. */
#define PEER_PART_BYTES (64u << 10)
_Static_assert(4 * (PEER_PART_BYTES + 64) <= PEER_BODY_BYTES_MAX, "four parts fit a frame");
/* What may wait for one node before items for it are refused: so much, and one item more. */
#define PEER_QUEUE_BYTES (16u << 20)
/* Connections that haven't proved that they are a peer's, at a time. */
#define PEER_STRANGERS_MAX 64u
