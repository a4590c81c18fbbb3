/* A model of netd's part: frames between nodes, waiting for company, gossip, sessions. Its rules
 * and constants are those of netd/peers.c, netd/peers_gossip.c and netd/cluster.c. */
#include <lz4.h>
#include <stdlib.h>

#include "common/assert.h"
#include "netd/peer_frame.h"
#include "tests/sim/large/sc.h"

#define TURN_NS_MIN  (20 * US)
#define TURN_NS_MAX  (100 * US)
#define DELAY_NS_MIN (50 * US) /* of the network, one way */
#define DELAY_NS_MAX (200 * US)
#define PATIENCE_NS  (5 * MS)
#define TICK_NS      (100 * MS)
#define HEARTBEAT_NS SECOND
/* To a node that shares no bucket. */
#define FAR_HEARTBEAT_NS (2 * SECOND)
/* A killed process's connections are reset at once; a new one's are there after a moment. */
#define LOST_NS        MS
#define SESSION_NS     (200 * MS)
#define LENGTH_BYTES   4u
#define COMPRESS_BYTES 4096u /* peer_frame.c: larger bodies are compressed */

struct frame {
    struct scale *scale;
    uint32_t from, to;
    uint64_t from_boot, to_boot;
    bool gossip;
    struct buf body;
};

static void plan_turn(struct sc_node *node);
static void on_turn_time(void *ctx, uint64_t boot);
static void push(struct sc_node *node, uint32_t to);
static void be_patient(struct sc_node *node);
static void on_patience_end(void *ctx, uint64_t boot);
static void on_tick_time(void *ctx, uint64_t boot);
static struct span make_gossip(struct sc_node *node, struct buf *out);
static void launch(struct sc_node *node, uint32_t to, struct span body, bool gossip);
static void on_arrival(void *ctx, uint64_t bytes);
static void take_item(struct sc_node *node, uint32_t from, const struct msg_item *item);
static void take_gossip(struct sc_node *node, const struct msg_gossip *gossip);
static void on_lost(void *ctx, uint64_t lost);

void netd_init(struct sc_node *node)
{
    const struct sc_options *options = &node->scale->options;
    node->peers = calloc(options->nodes, sizeof *node->peers);
    node->hints = calloc(options->buckets, sizeof *node->hints);
    ASSERT(node->peers != NULL && node->hints != NULL);
}

void netd_release(struct sc_node *node)
{
    for (uint32_t i = 0; i < node->scale->options.nodes; i++) {
        peer_outbox_release(&node->peers[i].outbox);
        peer_inbox_release(&node->peers[i].inbox);
    }
    free(node->peers);
    free(node->hints);
}

/* A session between two nodes is there a moment after both are. */
static bool in_session(const struct sc_node *a, const struct sc_node *b)
{
    uint64_t since = max_u64(a->started_ns, b->started_ns);
    return a->alive && b->alive && a->scale->sched.now_ns >= since + SESSION_NS;
}

void netd_start(struct sc_node *node)
{
    struct scale *scale = node->scale;
    node->alive = true;
    node->turn_planned = node->patient = false;
    memset(node->hints, 0, scale->options.buckets * sizeof *node->hints);
    /* Heartbeats of nodes, and to one node and another, don't coincide but by chance. */
    for (uint32_t i = 0; i < scale->options.nodes; i++) {
        struct sc_peer *peer = &node->peers[i];
        peer_outbox_clear(&peer->outbox);
        peer_inbox_clear(&peer->inbox);
        peer->patient_bytes = 0;
        peer->gossip_due = true;
        peer->gossip_ns = scale->sched.now_ns;
    }
    sched_after(&scale->sched, prng_below(&scale->prng, TICK_NS), on_tick_time, node, node->boot);
}

void netd_end(struct sc_node *node)
{
    struct scale *scale = node->scale;
    node->alive = false;
    node->boot++; /* what is under way is of the past */
    sched_after(&scale->sched, LOST_NS, on_lost, scale, node->index);
}

/* The others' sessions with it have ended. */
static void on_lost(void *ctx, uint64_t lost)
{
    struct scale *scale = ctx;
    for (uint32_t i = 0; i < scale->options.nodes; i++) {
        struct sc_peer *peer = &scale->nodes[i].peers[lost];
        scale->nodes[i].traffic.dropped += peer_outbox_clear(&peer->outbox);
        peer_inbox_clear(&peer->inbox);
        peer->patient_bytes = 0;
    }
    calls_on_node_lost(scale, (uint32_t)lost);
}

/* --- out --- */

void netd_send(struct sc_node *from, uint32_t to, enum relay_kind kind, uint32_t bucket,
               struct span bytes)
{
    struct sc_peer *peer = &from->peers[to];
    ASSERT(to != from->index);
    if (!in_session(from, &from->scale->nodes[to])) {
        from->traffic.dropped++;
        return;
    }
    bool patient = kind == RELAY_TICK && peer_outbox_bytes(&peer->outbox) == peer->patient_bytes;
    if (!peer_outbox_put(&peer->outbox, kind, bucket, bytes)) {
        from->traffic.dropped++;
        return;
    }
    from->traffic.ticks_out += kind == RELAY_TICK;
    if (patient)
        peer->patient_bytes = peer_outbox_bytes(&peer->outbox);
    if (kind == RELAY_TICK)
        be_patient(from);
    plan_turn(from);
}

static void plan_turn(struct sc_node *node)
{
    struct scale *scale = node->scale;
    if (node->turn_planned || !node->alive)
        return;
    node->turn_planned = true;
    sched_after(&scale->sched, prng_range(&scale->prng, TURN_NS_MIN, TURN_NS_MAX), on_turn_time,
                node, node->boot);
}

static void on_turn_time(void *ctx, uint64_t boot)
{
    struct sc_node *node = ctx;
    if (node->boot != boot || !node->alive)
        return;
    node->turn_planned = false;
    node->traffic.netd_turns++;
    for (uint32_t i = 0; i < node->scale->options.nodes; i++) {
        struct sc_peer *peer = &node->peers[i];
        if (i != node->index && in_session(node, &node->scale->nodes[i]) &&
            (peer->gossip_due || peer_outbox_bytes(&peer->outbox) > peer->patient_bytes))
            push(node, i);
    }
}

static void push(struct sc_node *node, uint32_t to)
{
    struct sc_peer *peer = &node->peers[to];
    if (peer->gossip_due) {
        struct buf gossip = {0};
        peer->gossip_due = false;
        peer->gossip_ns = node->scale->sched.now_ns;
        launch(node, to, make_gossip(node, &gossip), true);
        buf_release(&gossip);
    }
    for (struct span body; (body = peer_outbox_peek(&peer->outbox)).len > 0;) {
        launch(node, to, body, false);
        node->traffic.items_out += peer_outbox_take(&peer->outbox, body);
    }
    peer->patient_bytes = 0;
}

/* As it travels: netd/peer_frame.c. */
static size_t frame_bytes(struct span body)
{
    size_t len = body.len;
    if (body.len >= COMPRESS_BYTES) {
        char *room = malloc(body.len);
        ASSERT(room != NULL);
        int packed = LZ4_compress_default((const char *)body.ptr, room, (int)body.len,
                                          (int)(body.len - body.len / 8));
        len = packed > 0 ? (size_t)packed : len;
        free(room);
    }
    return LENGTH_BYTES + peer_frame_bytes_max(len);
}

static void launch(struct sc_node *node, uint32_t to, struct span body, bool gossip)
{
    struct scale *scale = node->scale;
    struct frame *frame = calloc(1, sizeof *frame);
    ASSERT(frame != NULL && body.len > 0);
    *frame = (struct frame){.scale = scale,
                            .from = node->index,
                            .to = to,
                            .from_boot = node->boot,
                            .to_boot = scale->nodes[to].boot,
                            .gossip = gossip};
    buf_append_span(&frame->body, body);
    size_t bytes = frame_bytes(body);
    node->traffic.frames_out++;
    node->traffic.bytes_out += bytes;
    node->traffic.gossip_frames_out += gossip;
    node->traffic.gossip_bytes_out += gossip ? bytes : 0;
    /* The same delay for all of a pair: frames keep their order. */
    uint64_t spread = DELAY_NS_MAX - DELAY_NS_MIN;
    uint64_t delay = DELAY_NS_MIN + ((uint64_t)node->index * 7919 + (uint64_t)to * 104729) % spread;
    sched_after(&scale->sched, delay, on_arrival, frame, bytes);
}

/* --- waiting for company --- */

static void be_patient(struct sc_node *node)
{
    if (node->patient)
        return;
    node->patient = true;
    sched_after(&node->scale->sched, PATIENCE_NS, on_patience_end, node, node->boot);
}

static void on_patience_end(void *ctx, uint64_t boot)
{
    struct sc_node *node = ctx;
    if (node->boot != boot || !node->alive)
        return;
    node->patient = false;
    for (uint32_t i = 0; i < node->scale->options.nodes; i++)
        node->peers[i].patient_bytes = 0;
    for (uint32_t i = 0; i < node->replica_count; i++) {
        if (node->replicas[i]->patient_count > 0)
            replica_plan_turn(node->replicas[i]);
    }
    plan_turn(node);
}

void netd_pass_to_local(struct sc_node *node, struct sc_replica *replica, enum relay_kind kind,
                        uint32_t slot, struct span bytes)
{
    bool patient = kind == RELAY_TICK && replica->input_count == replica->patient_count &&
                   !replica->turn_planned;
    if (replica->process.bucket == NULL)
        return;
    replica_take(replica, kind, slot, bytes);
    if (patient)
        replica->patient_count++;
    else
        replica_plan_turn(replica);
    if (kind == RELAY_TICK)
        be_patient(node);
}

/* --- gossip --- */

static void on_tick_time(void *ctx, uint64_t boot)
{
    struct sc_node *node = ctx;
    struct scale *scale = node->scale;
    if (node->boot != boot || !node->alive)
        return;
    for (uint32_t i = 0; i < scale->options.nodes; i++) {
        struct sc_peer *peer = &node->peers[i];
        peer->gossip_due |= scale->sched.now_ns - peer->gossip_ns >=
                            (peer->shares ? HEARTBEAT_NS : FAR_HEARTBEAT_NS);
    }
    plan_turn(node);
    sched_after(&scale->sched, TICK_NS, on_tick_time, node, boot);
}

void netd_note_state(struct sc_node *node, struct sc_replica *replica)
{
    struct replica_state *told = &replica->told, now;
    bucket_get_replica_state(replica->process.bucket, &now);
    bool changed = now.role != told->role || now.term != told->term || now.leader != told->leader;
    *told = now;
    if (!changed)
        return;
    struct sc_hint *hint = &node->hints[replica->bucket];
    if (now.leader != 0 && now.term >= hint->term)
        *hint = (struct sc_hint){
            .term = now.term,
            .leader = node->scale->buckets[replica->bucket].nodes[now.leader - 1] + 1};
    for (uint32_t i = 0; i < node->scale->options.nodes; i++)
        node->peers[i].gossip_due = true;
    plan_turn(node);
}

static struct span make_gossip(struct sc_node *node, struct buf *out)
{
    struct buf buckets = {0};
    for (uint32_t i = 0; i < node->replica_count; i++) {
        const struct sc_replica *replica = node->replicas[i];
        const struct replica_state *told = &replica->told;
        uint32_t leader = told->leader == 0
                              ? 0
                              : node->scale->buckets[replica->bucket].nodes[told->leader - 1] + 1;
        rec_pack_gossip_bucket(&buckets, &(struct rec_gossip_bucket){.bucket = replica->bucket,
                                                                     .state = BUCKET_UP,
                                                                     .role = told->role,
                                                                     .term = told->term,
                                                                     .leader = leader,
                                                                     .commit_idx = told->commit_idx,
                                                                     .last_idx = told->last_idx,
                                                                     .ready = told->ready});
    }
    uint64_t now_us = 1795000000000000u + node->scale->sched.now_ns / US;
    msg_pack_gossip(out, &(struct msg_gossip){.age = now_us / 1000,
                                              .stamp_us = now_us,
                                              .echo_stamp_us = now_us,
                                              .echo_held_us = 500000,
                                              .buckets = buf_span(&buckets)});
    buf_release(&buckets);
    return buf_span(out);
}

/* --- in --- */

static void on_arrival(void *ctx, uint64_t bytes)
{
    struct frame *frame = ctx;
    struct scale *scale = frame->scale;
    struct sc_node *node = &scale->nodes[frame->to];
    struct span rest = buf_span(&frame->body);
    bool arrives = node->alive && node->boot == frame->to_boot &&
                   scale->nodes[frame->from].boot == frame->from_boot;
    if (arrives) {
        node->traffic.frames_in++;
        node->traffic.bytes_in += bytes;
        plan_turn(node);
    }
    struct msg msg;
    while (arrives && rest.len > 0) {
        ASSERT(msg_unpack(&rest, &msg) == ERR_OK);
        if (msg.tag == TAG_item)
            take_item(node, frame->from, &msg.u.item);
        else
            take_gossip(node, &msg.u.gossip);
    }
    buf_release(&frame->body);
    free(frame);
}

static void take_item(struct sc_node *node, uint32_t from, const struct msg_item *item)
{
    struct scale *scale = node->scale;
    bool whole;
    struct span bytes;
    ASSERT(peer_inbox_put(&node->peers[from].inbox, item, &whole, &bytes) == ERR_OK);
    if (!whole)
        return;
    node->traffic.items_in++;
    uint32_t bucket = (uint32_t)item->bucket;
    enum relay_kind kind = (enum relay_kind)item->kind;
    if (kind == RELAY_REPLY) {
        calls_on_reply(scale, node->index, bytes);
        return;
    }
    struct sc_replica *replica = scale_replica(scale, bucket, node->index);
    uint32_t slot = 0;
    while (kind != RELAY_REQUEST && scale->buckets[bucket].nodes[slot] != from)
        slot++;
    netd_pass_to_local(node, replica, kind, slot, bytes);
}

static void take_gossip(struct sc_node *node, const struct msg_gossip *gossip)
{
    struct span rest = gossip->buckets;
    struct rec_gossip_bucket record;
    while (rec_next_gossip_bucket(&rest, &record) == ERR_OK) {
        struct sc_hint *hint = &node->hints[record.bucket];
        if (record.leader != 0 && record.term > hint->term)
            *hint = (struct sc_hint){.term = record.term, .leader = (uint32_t)record.leader};
    }
}
