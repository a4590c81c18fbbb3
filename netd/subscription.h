/* One subscription: its sources, its cursor and window. Created by ESUB and EPSUB; belongs to its
 * client. Pure. */
#pragma once

#include "netd/args.h"
#include "netd/hub.h"

/* History chunks one subscription asks for at once. */
#define SUBSCRIPTION_READS_MAX 4u

struct subscription {
    struct subscription *next; /* of the same owner; the owner's list */
    void *owner;
    struct uuid id;
    int proto;     /* the connection's, 2 or 3 */
    void *request; /* the command that waits for the creation */
    /* The rest is the state machine's own. */
    struct hubs *hubs;
    struct subscription *creating_prev, *creating_next;
    uint64_t deadline_ms;
    bool creating, active;
    uint64_t window;
    uint64_t cursor;       /* of the next message */
    uint64_t acknowledged; /* messages below this cursor are */
    uint32_t source_count;
    uint32_t waiting; /* sources whose position isn't known yet */
    uint32_t history; /* sources in history */
    uint32_t reading; /* of them, with a chunk on its way */
    uint32_t turn;    /* the source to read next */
    uint32_t prefix_len;
    char prefix[64]; /* of each push, up to the cursor */
    struct source *sources;
};

/* Starts it. Where its positions are known at once `waiting` is 0 and ops->created is not called;
 * else that comes later, never from within. Positions are taken from `args`, which may be released.
 */
struct subscription *subscription_new(struct hubs *hubs, void *owner, const struct uuid *id,
                                      int proto, const struct subscribe_args *args,
                                      uint64_t window_default, uint32_t partition_count,
                                      uint64_t deadline_ms);
/* Ends and frees it. Nothing is sent afterwards. */
void subscription_free(struct subscription *subscription);
/* The command's answer is in the output: writes the `subscribe` push with `count`, then messages
 * may follow. */
void subscription_activate(struct subscription *subscription, struct buf *out, uint64_t count);
/* All messages up to and including `cursor` are acknowledged. Never goes back; what wasn't sent
 * can't be acknowledged. */
void subscription_acknowledge(struct subscription *subscription, uint64_t cursor);
/* The owner has room for pushes again. */
void subscription_resume(struct subscription *subscription);
