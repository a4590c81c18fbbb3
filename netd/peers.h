/* The other nodes: one listener for all of them, one connection to each, sessions, items, gossip.
 *
 * Two nodes first prove to each other, by HMAC-SHA256 keyed with cluster.secret over nonces of both
 * sides, that they belong to one cluster and live now (netd/peer_session.h). That opens a session:
 * from then on the node is alive, and items sent to it arrive whole, once and in the order sent, or
 * the session ends at both sides. It ends when a connection between the two is lost, when a frame
 * is missing, when the node comes back with another boot, and when it is unheard for
 * heartbeat.timeout_ms. What was on its way then may or may not have arrived: whoever waits for
 * answers asks again.
 *
 * All items given to peers_send in one turn leave as one frame for each node (several where they
 * are many). Ticks (RELAY_TICK) wait for others to go with, or for peers_hurry: with many buckets
 * one frame then carries what all of them have to say. What waits for one node is bounded: beyond
 * PEER_QUEUE_BYTES items for it are refused. Nothing is ever sent to a node without a session.
 *
 * One loop, one thread. Callbacks come from the loop or from peers_tick, never from peers_send,
 * peers_flush, peers_set_gossip or peers_close. */
#pragma once

#include <uv.h>

#include "common/config.h"
#include "proto/messages.h"

struct peers;

struct peers_callbacks {
    void *ctx;
    /* Messages packed back to back, from `boot` of that node (its session's). Valid during
     * the call. */
    void (*on_item)(void *ctx, uint32_t node, uint64_t boot, uint32_t bucket, enum relay_kind kind,
                    struct span bytes);
    /* A session began (alive) or ended; they alternate for each node. `boot` is the session's. */
    void (*on_node)(void *ctx, uint32_t node, uint64_t boot, bool alive);
    /* For a while nobody has listened where a node was whose session has ended: none of its
     * processes will be heard soon. Once after each session at most. May be NULL. */
    void (*on_gone)(void *ctx, uint32_t node);
    /* News in peers_get_node(node). May be NULL. */
    void (*on_gossip)(void *ctx, uint32_t node);
};

struct peers_config {
    /* network.peers, network.mdns, network.cluster_address, cluster.secret, heartbeat, node:
     * borrowed. */
    const struct config *config;
    const struct log *log;
    struct uuid cluster_id; /* the same on all nodes: uuid_of_cluster(cluster.name) */
    uint64_t boot;          /* of this netd: grows with each start */
    uint64_t age_ms;        /* when this node started, ms since the epoch: smaller is older */
};

struct peer_stats {
    uint64_t sessions;                                   /* begun since the start */
    uint64_t frames_in, frames_out, bytes_in, bytes_out; /* as they travel */
    uint64_t items_in, items_out, items_dropped;         /* dropped: refused by peers_send, or left
                                                            unsent when the session ended */
    uint64_t refused;                                    /* frames from it that weren't believed */
};

/* One other node as it is known here. Views are valid until the next turn. */
struct peer_info {
    struct span name;    /* host:port of network.peers; empty: it is found by multicast DNS alone */
    struct span address; /* ip:port of the connection to it; empty: none */
    struct span found;   /* how that was found: "peers" or "mdns"; empty: no connection */
    struct span version; /* of its program; empty before the first session */
    bool alive;
    uint64_t boot;       /* 0: never heard */
    uint64_t age_ms;     /* when it started; 0: never heard */
    uint64_t changed_ms; /* loop time at which alive became what it is */
    uint64_t heard_ms;   /* loop time of the last frame believed; 0: never heard */
    uint64_t rtt_us;     /* 0: not measured yet */
    uint64_t queued_bytes;
    struct peer_stats stats;
    /* Its last gossip; kept when it dies. */
    uint64_t health, load;
    const struct rec_gossip_bucket *buckets;
    unsigned bucket_count;
};

struct peers_totals {
    uint64_t alive;       /* nodes with a session, this one not counted */
    uint64_t refused[16]; /* frames by reason: enum peer_refusal (netd/peer_frame.h) */
    uint64_t strangers;   /* connections closed because they weren't a node's */
    uint64_t connections; /* accepted ones that are open */
    struct peer_stats stats;
};

/* Listens on network.cluster_address and begins to dial. ERR_IO: it can't listen; the log says why.
 * config->node.count must be above 1. */
enum err peers_new(uv_loop_t *loop, const struct peers_config *config,
                   const struct peers_callbacks *callbacks, struct peers **ret_peers) MUST_CHECK;
/* No callback follows. Sockets and memory go as the loop runs on; at the end of a process that
 * isn't worth waiting for. */
void peers_close(struct peers *peers);

/* Gathers an item (packed messages, LINK_MESSAGE_BYTES_MAX at most) for a bucket's affairs at
 * `node`. `boot`: only for that incarnation of the node; 0: whichever is there. False: dropped,
 * because there is no session, another boot, or too much waits. `node` must not be this one. */
bool peers_send(struct peers *peers, uint32_t node, uint32_t bucket, enum relay_kind kind,
                uint64_t boot, struct span bytes);
/* The end of a turn: what was gathered leaves, as far as the connections take it now; the rest
 * follows by itself. */
void peers_flush(struct peers *peers);
/* This node is about to leave: it is no longer announced. */
void peers_leave(struct peers *peers);
/* What has waited for company waits no more: it leaves with the next flush. */
void peers_hurry(struct peers *peers);
/* Every 100 ms or so: heartbeats, timeouts, names, connections. */
void peers_tick(struct peers *peers);

/* What this node tells the others; `buckets`: gossip_bucket records, packed. now: with the next
 * flush, instead of with the next heartbeat. */
void peers_set_gossip(struct peers *peers, enum node_health health, uint64_t load,
                      struct span buckets, bool now);

/* The session's boot; 0: none, the node isn't alive. */
uint64_t peers_boot(const struct peers *peers, uint32_t node);
/* Nothing given to peers_send waits any more: for a clean stop. */
bool peers_flushed(const struct peers *peers);
/* False for this node itself, and above node.count. */
bool peers_get_node(const struct peers *peers, uint32_t node, struct peer_info *ret_info);
void peers_get_totals(const struct peers *peers, struct peers_totals *ret_totals);
/* "name value" lines for stats_reply: peers_alive 2 ... */
void peers_print_stats(const struct peers *peers, struct buf *out);
