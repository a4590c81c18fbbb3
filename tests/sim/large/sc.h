/* What a large cluster costs: all replicas of all buckets of up to a hundred nodes, each the real
 * core on a simulated disk (tests/sim/node.h), in one virtual time, without faults but for nodes
 * that are killed. Buckets are placed by common/placement.h, as in the product.
 *
 * A node's netd is a model of what netd/peers.c, netd/cluster.c and netd/router.c do with messages
 * of buckets: items for a node gather through a turn and leave as one frame, routine ticks wait for
 * company, gossip goes each heartbeat and where something changed. What decides sizes and kinds is
 * the product's own (bucketd/relay.c, netd/peer_items.c, proto/messages.c). Sessions are there or
 * not: hellos aren't played. */
#pragma once

#include "bucketd/relay.h"
#include "netd/peer_items.h"
#include "tests/sim/node.h"

#define SC_NODES_MAX 128u

struct sc_options {
    uint64_t seed, seconds, rate, kills, tick_ms, election_ms, payload;
    uint32_t nodes, buckets, partitions, factor;
};

/* Of a node, since the last reset. */
struct sc_traffic {
    uint64_t items_in, items_out, frames_in, frames_out, bytes_in, bytes_out;
    uint64_t gossip_frames_out, gossip_bytes_out;
    uint64_t ticks_out;
    uint64_t netd_turns, bucket_turns;
    uint64_t dropped; /* items for nodes without a session */
};

/* What waits for a process's next turn. */
struct sc_input {
    enum relay_kind kind;
    uint32_t slot; /* of the replica that it is from */
    struct buf bytes;
};

struct sc_replica {
    struct scale *scale;
    uint32_t bucket, slot, node;
    struct node process; /* knows the group's replicas by their slots */
    struct relay relay;
    struct buf to_netd;
    struct sc_input *inputs;
    uint32_t input_count, input_cap, patient_count; /* the first ones that wait for company */
    bool turn_planned;
    struct replica_state told; /* as the netd knows it */
};

struct sc_bucket {
    uint32_t nodes[REPLICAS_MAX];
    uint32_t count;
    struct sc_replica replicas[REPLICAS_MAX];
};

/* A node's netd's view of another one. */
struct sc_peer {
    struct peer_outbox outbox;
    struct peer_inbox inbox;
    size_t patient_bytes;
    uint64_t gossip_ns;
    bool gossip_due, shares; /* shares: a bucket, with this node */
};

/* Who leads, as far as this node's netd was told. */
struct sc_hint {
    uint64_t term;
    uint32_t leader; /* node + 1 */
};

struct sc_node {
    struct scale *scale;
    uint32_t index;
    bool alive;
    uint64_t boot, clock_ns, started_ns;
    struct sc_peer *peers;
    struct sc_hint *hints; /* by bucket */
    bool turn_planned, patient;
    struct sc_replica **replicas;
    uint32_t replica_count;
    struct sc_traffic traffic;
};

/* An append on its way, from its first sending to its answer. */
struct sc_call {
    bool used, probe;
    uint32_t number; /* of this use of the place */
    uint32_t bucket, partition, entry, target_slot;
    bool in_flight;
    uint64_t since_ns, sent_ns;
    struct uuid id;
    uint64_t tries;
};

struct sc_samples {
    uint64_t *values;
    size_t count, cap;
};

struct scale {
    struct sc_options options;
    struct sched sched;
    struct trace trace;
    struct prng prng;
    struct sc_node *nodes;
    struct sc_bucket *buckets;
    struct sc_call *calls;
    uint32_t call_count, call_cap, calls_open, probes_open;
    bool loaded;
    unsigned passed; /* checks */
    struct sc_samples latency, failover;
    uint64_t acked, sent, resent;
};

/* --- sc_world.c --- */
void scale_init(struct scale *scale, const struct sc_options *options);
void scale_release(struct scale *scale);
/* Stops before where scale->trace.failed. */
void scale_run_until(struct scale *scale, uint64_t time_ns);
void scale_start_node(struct scale *scale, uint32_t node);
void scale_kill_node(struct scale *scale, uint32_t node);
/* Leads, and has committed an entry of its term; NULL: nobody does. */
struct sc_replica *scale_leader(struct scale *scale, uint32_t bucket);
/* Buckets that their first choice leads, settled, with all replicas that run ready. */
uint32_t scale_at_home(struct scale *scale);
uint32_t scale_settled(struct scale *scale);
/* The process's next turn takes what waits. */
void replica_plan_turn(struct sc_replica *replica);
void replica_take(struct sc_replica *replica, enum relay_kind kind, uint32_t slot,
                  struct span bytes);

/* --- sc_netd.c --- */
void netd_init(struct sc_node *node);
void netd_release(struct sc_node *node);
/* Its processes begin or end. */
void netd_start(struct sc_node *node);
void netd_end(struct sc_node *node);
/* From one of the own processes, or a call's request. */
void netd_send(struct sc_node *from, uint32_t to, enum relay_kind kind, uint32_t bucket,
               struct span bytes);
void netd_pass_to_local(struct sc_node *node, struct sc_replica *replica, enum relay_kind kind,
                        uint32_t slot, struct span bytes);
void netd_note_state(struct sc_node *node, struct sc_replica *replica);
struct sc_replica *scale_replica(struct scale *scale, uint32_t bucket, uint32_t node);

/* --- sc_calls.c --- */
void calls_begin_load(struct scale *scale);
void calls_end_load(struct scale *scale);
/* One append to each of these buckets, whose time counts from now on. */
void calls_probe(struct scale *scale, const bool *buckets);
/* Messages of a bucket's process to a netd that asked it. */
void calls_on_reply(struct scale *scale, uint32_t entry, struct span bytes);
void calls_on_node_lost(struct scale *scale, uint32_t node);
/* Whose call a reply is. */
uint32_t calls_entry(struct scale *scale, uint64_t req_id);
void calls_release(struct scale *scale);
void samples_add(struct sc_samples *samples, uint64_t value);
/* part: of a thousand. */
uint64_t samples_at(struct sc_samples *samples, uint64_t part);
