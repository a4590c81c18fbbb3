/* Live tail: one hub for each partition that has subscribers. The hub follows its partition in the
 * bucket once, however many they are, and hands each committed event to those that have reached it.
 * Pure: the world is behind struct tail_ops.
 *
 * hub.next is the next live sequence. A source whose position has reached it is LIVE and gets
 * events from the hub; one that is behind (it starts in the past, its window or its client's buffer
 * was full, the bucket was restarted) reads HISTORY by scans until it meets hub.next again. A live
 * event is delivered only if it is exactly the source's next one, so the seam can neither lose nor
 * repeat an event. */
#pragma once

#include "netd/call.h"

struct hub;
struct hubs;
struct source;
struct subscription;

/* What tails need from the daemon, or from a test. */
struct tail_ops {
    void *ctx;
    void (*submit)(void *ctx, uint32_t partition, struct call *call);
    void (*cancel)(void *ctx, struct call *call);
    void (*unfollow)(void *ctx, uint32_t partition);
    bool (*partition_is_down)(void *ctx, uint32_t partition);
    /* All positions are known (ERR_OK), or won't be (ERR_DOWN): the command can be answered. The
     * subscription stays silent until subscription_activate. */
    void (*created)(void *ctx, struct subscription *subscription, enum err err);
    /* Where the owner's pushes go; NULL: its buffer is full, subscription_resume is called when it
     * has room. */
    struct buf *(*push_room)(void *ctx, void *owner);
    void (*damaged)(void *ctx, uint32_t partition,
                    struct span text); /* a read failed; it is tried again */
};

struct hubs *hubs_new(uint32_t partition_count, const struct tail_ops *ops);
/* All subscriptions must have ended. */
void hubs_free(struct hubs *hubs);

void hubs_on_tail(struct hubs *hubs, const struct msg_tail *tail);
/* The bucket of these partitions (p % bucket_count == bucket) lost its link, or has a new one. */
void hubs_on_bucket_lost(struct hubs *hubs, uint32_t bucket, uint32_t bucket_count);
void hubs_on_bucket_up(struct hubs *hubs, uint32_t bucket, uint32_t bucket_count);
/* Every 100 ms or so: gives up creations that take too long, tries failed reads again once a
 * second. */
void hubs_tick(struct hubs *hubs, uint64_t now_ms);
/* Pushes sent since the start. */
uint64_t hubs_pushed(const struct hubs *hubs);
uint64_t hubs_subscriptions(const struct hubs *hubs);
