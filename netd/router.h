/* Calls to buckets: a queue for each bucket, credit, resending after a bucket's process died.
 *
 * A bucket has one target for each of its replicas (common/placement.h): the local process, behind
 * a link, or another node, behind that node's netd. Appends go to the one that leads, as far as is
 * known: replicas that don't lead say who does. Reads and follows go to the local one where it is
 * up to date, else to any.
 *
 * Appends: one frame in flight for each bucket; what comes meanwhile gathers and leaves as the next
 * frame when all of the last one's appends have been answered, so that a group commit covers as
 * much as the load gives. Reads have a credit of their own and leave at the end of each turn. When
 * a link is lost what was in flight goes back to the front of its queue; appends are then sent with
 * APPEND_RETRY, in order, before anything newer. The same happens where a target doesn't answer for
 * long, or says that it doesn't lead (any more). Numbers without holes in an epoch keep what is
 * late or was lost on the way from changing the order (bucketd/core/sequence.c). */
#pragma once

#include "common/config.h"
#include "netd/call.h"
#include "proto/link.h"

struct router;

struct router_callbacks {
    void *ctx;
    /* There is (another) replica to be followed, or the one that was followed is lost. */
    void (*on_bucket_up)(void *ctx, uint32_t bucket);
    void (*on_bucket_lost)(void *ctx, uint32_t bucket);
    /* Packed messages for a bucket's process on another node. False: they can't leave now, and are
     * dropped. Not called where node.count is 1. */
    bool (*send)(void *ctx, uint32_t node, uint32_t bucket, struct span bytes);
    void (*on_tail)(void *ctx, const struct msg_tail *tail);
    /* For the supervisor. */
    void (*on_link_state)(void *ctx, uint64_t link, bool up);
    /* A local process: its link is up, or was and is lost. */
    void (*on_local)(void *ctx, uint32_t bucket, bool up);
    /* What a local process says that is no answer: relay, replica_state. */
    void (*on_local_message)(void *ctx, uint32_t bucket, const struct msg *msg);
};

struct router_stats {
    uint64_t frames, frame_appends, resent, retried;
    uint64_t queued_appends, queued_bytes;
};

struct router *router_new(uv_loop_t *loop, const struct config *config, const struct log *log,
                          uint64_t own_boot, const struct router_callbacks *callbacks);
void router_free(struct router *router);

/* The supervisor's introduction to a bucket's new incarnation, and its word on a bucket's state. */
void router_dial(struct router *router, uint32_t bucket, uint64_t link, uint64_t peer_boot,
                 const char *path);
void router_bucket_state(struct router *router, uint32_t bucket, enum bucket_state state);

/* Another node has come (back) or gone; messages from a bucket's process there; what is heard of
 * who leads (node + 1; of two the higher term holds). */
void router_node_state(struct router *router, uint32_t node, bool alive);
void router_on_remote(struct router *router, uint32_t node, uint32_t bucket, struct span bytes);
/* That node is there, but what it was asked of this bucket is lost: its process has ended. */
void router_remote_lost(struct router *router, uint32_t node, uint32_t bucket);
void router_hint(struct router *router, uint32_t bucket, uint64_t leader, uint64_t term);

/* Where messages for the local process are packed; they leave at the next flush. NULL: its link
 * isn't up. */
struct buf *router_local_outbox(struct router *router, uint32_t bucket);
/* What was packed there since its length was `before` may wait for company; with router_hurry it
 * leaves with the next flush. */
void router_may_wait(struct router *router, uint32_t bucket, size_t before);
void router_hurry(struct router *router);

/* Queues a call whose msg, done and deadline_ms are set; its answer never comes from within. */
void router_submit(struct router *router, uint32_t bucket, struct call *call);
/* Forgets a call that waits or is in flight; a no-op for one that does neither. */
void router_cancel(struct router *router, struct call *call);
void router_unfollow(struct router *router, uint32_t bucket, uint32_t partition);
/* False: the bucket's append queue is at its bound; read no more from the client that wants it. */
bool router_has_room(const struct router *router, uint32_t bucket);
/* Room came back in some bucket's queue since the last time this was asked. */
bool router_take_room_made(struct router *router);
bool router_bucket_is_up(const struct router *router, uint32_t bucket);
bool router_bucket_is_down(const struct router *router, uint32_t bucket);

/* End of a turn: queues into outboxes, outboxes out. */
void router_flush(struct router *router, uint64_t now_ms);
/* Ends calls whose deadline has passed. */
void router_tick(struct router *router, uint64_t now_ms);
void router_get_stats(const struct router *router, struct router_stats *ret_stats);
