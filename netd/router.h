/* Calls to buckets: a queue for each bucket, credit, resending after a bucket's process died.
 *
 * Appends: one frame in flight for each bucket; what comes meanwhile gathers and leaves as the next
 * frame when all of the last one's appends have been answered, so that a group commit covers as
 * much as the load gives. Reads have a credit of their own and leave at the end of each turn. When
 * a link is lost what was in flight goes back to the front of its queue; appends are then sent with
 * APPEND_RETRY, in order, before anything newer. */
#pragma once

#include "common/config.h"
#include "netd/call.h"
#include "proto/link.h"

struct router;

struct router_callbacks {
    void *ctx;
    void (*on_bucket_up)(void *ctx, uint32_t bucket);
    void (*on_bucket_lost)(void *ctx, uint32_t bucket);
    void (*on_tail)(void *ctx, const struct msg_tail *tail);
    /* For the supervisor. */
    void (*on_link_state)(void *ctx, uint64_t link, bool up);
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
