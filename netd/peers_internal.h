/* What peers.c (sessions and frames) and peers_gossip.c (what nodes tell of themselves) share. */
#pragma once

#include "netd/mdns.h"
#include "netd/peer_items.h"
#include "netd/peer_session.h"
#include "netd/peer_warnings.h"
#include "netd/peer_wire.h"
#include "netd/peers.h"

#define PEER_VERSION_LEN_MAX 48u

/* Another node. */
struct peer_node {
    struct peers *peers;
    uint32_t node;
    struct buf name;
    struct peer_session session;
    struct peer_outbox outbox;
    size_t patient_bytes; /* of the outbox, from its front: they wait for company */
    struct peer_inbox inbox;
    struct peer_source *source; /* that its last believed frame came by; NULL: none */
    bool connected;             /* our connection to it */
    bool alive;                 /* as the callbacks were told; boot is that session's */
    uint64_t boot;
    bool gone; /* said so since its last session */
    bool hello_due, gossip_due;
    uint64_t heartbeat_ms; /* between two gossips to it */
    unsigned answers_left; /* hellos that its hellos may ask for until the next tick */
    /* Loop times in ms. */
    uint64_t changed_ms, heard_ms, hello_ms, gossip_ms;
    struct peer_stats stats;

    /* What it told. */
    uint64_t last_boot, age_ms;
    char version[PEER_VERSION_LEN_MAX];
    size_t version_len;
    uint64_t health, load;
    struct rec_gossip_bucket *buckets;
    unsigned bucket_count;
    uint64_t rtt_us;
    uint64_t stamp_us, stamp_at_us; /* its last gossip's stamp, and when that came by our clock */
};

struct peers {
    uv_loop_t *loop;
    const struct config *config;
    const struct log *log;
    struct peers_callbacks callbacks;
    struct peer_identity own;
    struct peer_key *hello_key;
    struct peer_wire *wire;
    struct mdns *mdns;       /* NULL: network.mdns is off */
    struct peer_node *nodes; /* by index; the own one unused */
    uint32_t node_count;
    struct buf scratch; /* the frame being read, unpacked */
    struct buf body;    /* the gossip being sent */
    struct peer_warnings warnings;
    uint64_t refused[PEER_REFUSAL_COUNT];
    uint64_t ticked_ms, absent_ms; /* absent_ms: when absent nodes were last mentioned */

    /* What this node tells. */
    enum node_health health;
    uint64_t load;
    struct buf buckets;
};

/* How often each node gets gossip. */
void peers_set_heartbeats(struct peers *peers);
/* Packs this node's gossip for that one into peers->body. */
struct span peers_make_gossip(struct peers *peers, const struct peer_node *to);
/* ERR_CORRUPT: records that can't be read, or of no such bucket. */
enum err peers_take_gossip(struct peer_node *node, const struct msg_gossip *gossip) MUST_CHECK;
