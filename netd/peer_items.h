/* Items on their way to one node, and from it: cut into parts that fit frames, and put together.
 *
 * Pure. Within a session frames are neither lost nor doubled nor reordered, so a part that isn't
 * the one expected is the sender's fault. */
#pragma once

#include "common/buf.h"
#include "common/limits.h"
#include "proto/messages.h"

/* Messages that wait for a node, packed: zeroed is empty. */
struct peer_outbox {
    struct buf packed;
    size_t taken;   /* bytes at the front that have left */
    uint64_t items; /* whole ones that wait, the one that has left in part included */
};

void peer_outbox_release(struct peer_outbox *outbox);
/* Drops what waits; returns how many items that were. */
uint64_t peer_outbox_clear(struct peer_outbox *outbox);
/* False: PEER_QUEUE_BYTES wait already. */
bool peer_outbox_put(struct peer_outbox *outbox, enum relay_kind kind, uint32_t bucket,
                     struct span bytes);
size_t peer_outbox_bytes(const struct peer_outbox *outbox);
/* Whole messages from the front, as many as a frame holds; valid until the next put. Empty where
 * nothing waits. */
struct span peer_outbox_peek(struct peer_outbox *outbox);
/* They have left; returns how many items were done with them. */
uint64_t peer_outbox_take(struct peer_outbox *outbox, struct span messages);

/* The item that has come in part: zeroed is none. */
struct peer_inbox {
    struct buf bytes;
    bool partial;
    uint64_t kind, bucket, total;
};

void peer_inbox_release(struct peer_inbox *inbox);
void peer_inbox_clear(struct peer_inbox *inbox);
/* Takes the next part. *ret_whole: the item is complete, *ret_bytes are valid until the next call,
 * views of the message's or of the inbox's. ERR_CORRUPT: it doesn't follow the last part, or is
 * larger than any item. */
enum err peer_inbox_put(struct peer_inbox *inbox, const struct msg_item *part, bool *ret_whole,
                        struct span *ret_bytes) MUST_CHECK;
