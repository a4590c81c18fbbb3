/* A bucket's traffic with other nodes, which all goes by way of the own netd: the same bucket's
 * processes there, and netds there that ask this bucket on behalf of their clients. Each such netd
 * (a node, and the boot of its netd) is a link of its own for the core, as long as it is there.
 *
 * Pure: relay messages come in, the messages in them go out through relay_ops; what the core packs
 * for others gathers here and leaves at the end of the turn as relay messages in netd's outbox.
 * What comes from other nodes is never trusted to be whole: what can't be read is logged and
 * dropped. */
#pragma once

#include "common/buf.h"
#include "common/limits.h"
#include "common/log.h"
#include "proto/messages.h"

/* A relay is closed behind the message that makes it so large. */
#define RELAY_BYTES (8u << 20)

struct relay_ops {
    void *ctx;
    /* The outbox of the link to netd; NULL: there is none, and what is for others is dropped. */
    struct buf *(*netd_outbox)(void *ctx);
    void (*on_peer)(void *ctx, uint32_t node, const struct msg *msg);
    void (*on_request)(void *ctx, uint32_t link, const struct msg *msg);
    void (*on_link_lost)(void *ctx, uint32_t link);
    void (*on_peer_down)(void *ctx, const struct msg *msg);
};

/* What gathers for one receiver. */
struct relay_out {
    enum relay_kind kind;
    uint32_t node;
    uint64_t boot;
    struct buf bytes;
};

struct relay_link {
    uint32_t number; /* the core's */
    struct relay_out out;
};

struct relay {
    struct relay_ops ops;
    const struct log *log;
    struct relay_out peers[REPLICAS_MAX];
    uint32_t peer_count;
    struct relay_link *links; /* one for each node at most */
    uint32_t link_count, link_cap;
    uint32_t last_found;
    uint32_t last_number;
};

/* replicas: nodes that hold this bucket, this one (`node`) may be among them. */
void relay_init(struct relay *relay, uint32_t node, const uint32_t *replicas, uint32_t count,
                const struct relay_ops *ops, const struct log *log);
void relay_release(struct relay *relay);

/* A number for a link of the core that no other had before: answers to a lost link's appends may
 * come after its end. */
uint32_t relay_new_link(struct relay *relay);
/* Where the core packs for another replica's process, or for a link that a node's netd has here.
 * NULL: it can't be reached. Between two calls whole messages were packed. */
struct buf *relay_peer(struct relay *relay, uint32_t node);
struct buf *relay_outbox(struct relay *relay, uint32_t link);

void relay_on_message(struct relay *relay, const struct msg_relay *m);
/* The link to the own netd is gone, and with it all that other nodes asked. */
void relay_on_netd_lost(struct relay *relay);
/* The end of a turn. */
void relay_flush(struct relay *relay);
