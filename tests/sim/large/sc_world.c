/* Nodes, buckets, processes and their turns. */
#include <stdlib.h>

#include "common/assert.h"
#include "common/placement.h"
#include "tests/sim/large/sc.h"

/* From what wakes a process to its turn. */
#define WAKE_NS_MIN (20 * US)
#define WAKE_NS_MAX (100 * US)
/* The simulated netds' one link: which of them asked is in the request's number. */
#define LINK 1u
/* Boots are made from the clock: messages are as long as real ones. */
#define BOOTS_US 1795000000000000u

static void init_bucket(struct scale *scale, uint32_t index);
static void init_replica(struct scale *scale, uint32_t bucket, uint32_t slot);
static void start_replica(struct sc_replica *replica, uint64_t boot);
static void on_turn_time(void *ctx, uint64_t boot);
static void hand(struct sc_replica *replica, const struct sc_input *input);
static void drop_inputs(struct sc_replica *replica, uint32_t count);
static void on_turn(void *ctx);
static void on_frame(void *ctx, uint32_t link, struct span frame);
static void on_peer_frame(void *ctx, uint32_t to, struct span frame);
static void on_end(void *ctx, enum node_end end);
static struct buf *netd_outbox(void *ctx);

void scale_init(struct scale *scale, const struct sc_options *options)
{
    *scale = (struct scale){.options = *options, .prng.state = options->seed};
    scale->trace = (struct trace){.hash = options->seed, .now_ns = &scale->sched.now_ns};
    scale->nodes = calloc(options->nodes, sizeof *scale->nodes);
    scale->buckets = calloc(options->buckets, sizeof *scale->buckets);
    ASSERT(scale->nodes != NULL && scale->buckets != NULL);
    for (uint32_t i = 0; i < options->nodes; i++) {
        struct sc_node *node = &scale->nodes[i];
        /* Machines' clocks have nothing to do with one another. */
        *node = (struct sc_node){
            .scale = scale, .index = i, .clock_ns = prng_below(&scale->prng, 1000 * SECOND)};
        netd_init(node);
    }
    for (uint32_t i = 0; i < options->buckets; i++)
        init_bucket(scale, i);
}

static void init_bucket(struct scale *scale, uint32_t index)
{
    struct sc_bucket *bucket = &scale->buckets[index];
    bucket->count =
        placement_replicas(index, scale->options.nodes, scale->options.factor, bucket->nodes);
    for (uint32_t slot = 0; slot < bucket->count; slot++) {
        init_replica(scale, index, slot);
        for (uint32_t other = 0; other < bucket->count; other++)
            scale->nodes[bucket->nodes[slot]].peers[bucket->nodes[other]].shares |= other != slot;
    }
}

/* The core's nodes are slots of the group: the simulated process has room for so many. */
static void init_replica(struct scale *scale, uint32_t bucket, uint32_t slot)
{
    const struct sc_options *options = &scale->options;
    struct sc_bucket *group = &scale->buckets[bucket];
    struct sc_replica *replica = &group->replicas[slot];
    struct sc_node *node = &scale->nodes[group->nodes[slot]];
    *replica =
        (struct sc_replica){.scale = scale, .bucket = bucket, .slot = slot, .node = node->index};
    struct bucket_config config = {
        .bucket = bucket,
        .bucket_count = options->buckets,
        .partition_count = options->partitions,
        .node = slot,
        .segment_bytes = 256 << 10,
        .compression = true,
        .event_bytes_max = 32 << 10,
        .transaction_bytes_max = 64 << 10,
        .cache_bytes = 1 << 20,
        .index_cache_bytes = 1 << 20,
        .replica_count = group->count,
        .age = BOOTS_US / 1000 + node->index,
        .tick_ns = options->tick_ms * MS,
        .election_timeout_ns = options->election_ms * MS,
        .stale_after_ns = 10 * SECOND,
        .uncommitted_bytes_max = 64 << 20,
        .balance_leaders = true,
    };
    for (uint32_t i = 0; i < group->count; i++)
        config.replicas[i] = i;
    struct node_callbacks callbacks = {.ctx = replica,
                                       .on_turn = on_turn,
                                       .on_frame = on_frame,
                                       .on_peer_frame = on_peer_frame,
                                       .on_end = on_end};
    node_init(&replica->process, &scale->sched, &scale->trace, &scale->prng, &config, &callbacks);
    replica->process.faults = (struct node_faults){.latency_ns_min = 5 * US,
                                                   .latency_ns_max = 40 * US,
                                                   .sync_ns_min = 100 * US,
                                                   .sync_ns_max = 400 * US,
                                                   .threads = 4};
    node_set_clock(&replica->process, node->clock_ns, 0);
    struct relay_ops ops = {.ctx = replica, .netd_outbox = netd_outbox};
    relay_init(&replica->relay, slot, config.replicas, group->count, &ops, &replica->process.log);
    node->replicas =
        realloc(node->replicas, (node->replica_count + 1) * sizeof(struct sc_replica *));
    ASSERT(node->replicas != NULL);
    node->replicas[node->replica_count++] = replica;
}

void scale_release(struct scale *scale)
{
    for (uint32_t i = 0; i < scale->options.buckets; i++) {
        for (uint32_t slot = 0; slot < scale->buckets[i].count; slot++) {
            struct sc_replica *replica = &scale->buckets[i].replicas[slot];
            drop_inputs(replica, replica->input_count);
            free(replica->inputs);
            node_release(&replica->process);
            relay_release(&replica->relay);
            buf_release(&replica->to_netd);
        }
    }
    for (uint32_t i = 0; i < scale->options.nodes; i++) {
        netd_release(&scale->nodes[i]);
        free(scale->nodes[i].replicas);
    }
    calls_release(scale);
    free(scale->nodes);
    free(scale->buckets);
    sched_release(&scale->sched);
}

void scale_run_until(struct scale *scale, uint64_t time_ns)
{
    while (scale->sched.count > 0 && scale->sched.heap[0].time_ns <= time_ns &&
           !scale->trace.failed)
        sched_step(&scale->sched);
    if (!scale->trace.failed)
        scale->sched.now_ns = time_ns;
}

struct sc_replica *scale_replica(struct scale *scale, uint32_t bucket, uint32_t node)
{
    struct sc_bucket *group = &scale->buckets[bucket];
    for (uint32_t slot = 0; slot < group->count; slot++) {
        if (group->nodes[slot] == node)
            return &group->replicas[slot];
    }
    return NULL;
}

struct sc_replica *scale_leader(struct scale *scale, uint32_t bucket)
{
    struct sc_bucket *group = &scale->buckets[bucket];
    struct replica_state state;
    for (uint32_t slot = 0; slot < group->count; slot++) {
        struct bucket *core = group->replicas[slot].process.bucket;
        if (core == NULL)
            continue;
        bucket_get_replica_state(core, &state);
        if (state.role == ROLE_LEADER && state.settled)
            return &group->replicas[slot];
    }
    return NULL;
}

static bool all_ready(const struct sc_bucket *group)
{
    struct replica_state state;
    for (uint32_t slot = 0; slot < group->count; slot++) {
        struct bucket *core = group->replicas[slot].process.bucket;
        if (core == NULL)
            return false;
        bucket_get_replica_state(core, &state);
        if (!state.ready)
            return false;
    }
    return true;
}

uint32_t scale_at_home(struct scale *scale)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < scale->options.buckets; i++) {
        const struct sc_replica *leader = scale_leader(scale, i);
        count += leader != NULL && leader->slot == 0 && all_ready(&scale->buckets[i]);
    }
    return count;
}

uint32_t scale_settled(struct scale *scale)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < scale->options.buckets; i++)
        count += scale_leader(scale, i) != NULL && all_ready(&scale->buckets[i]);
    return count;
}

/* --- life --- */

void scale_start_node(struct scale *scale, uint32_t index)
{
    struct sc_node *node = &scale->nodes[index];
    node->boot++;
    node->started_ns = scale->sched.now_ns;
    for (uint32_t i = 0; i < node->replica_count; i++)
        start_replica(node->replicas[i], node->boot);
    netd_start(node);
}

static void start_replica(struct sc_replica *replica, uint64_t boot)
{
    replica->process.config.boot = BOOTS_US + boot;
    ASSERT(node_start(&replica->process) == ERR_OK);
    node_add_link(&replica->process, LINK);
}

void scale_kill_node(struct scale *scale, uint32_t index)
{
    struct sc_node *node = &scale->nodes[index];
    for (uint32_t i = 0; i < node->replica_count; i++)
        node_die(&node->replicas[i]->process, NODE_KILLED);
    netd_end(node);
}

static void on_end(void *ctx, enum node_end end)
{
    struct sc_replica *replica = ctx;
    (void)end;
    drop_inputs(replica, replica->input_count);
    replica->turn_planned = false;
    buf_clear(&replica->to_netd, 0);
    relay_on_netd_lost(&replica->relay);
    struct node *process = &replica->process;
    for (unsigned i = 0; i < process->link_count; i++)
        buf_release(&process->links[i].outbox);
    process->link_count = 0;
}

/* --- turns --- */

void replica_take(struct sc_replica *replica, enum relay_kind kind, uint32_t slot,
                  struct span bytes)
{
    if (replica->input_count == replica->input_cap) {
        replica->input_cap = replica->input_cap == 0 ? 8 : replica->input_cap * 2;
        replica->inputs = realloc(replica->inputs, replica->input_cap * sizeof *replica->inputs);
        ASSERT(replica->inputs != NULL);
    }
    struct sc_input *input = &replica->inputs[replica->input_count++];
    *input = (struct sc_input){.kind = kind, .slot = slot};
    buf_append_span(&input->bytes, bytes);
}

void replica_plan_turn(struct sc_replica *replica)
{
    replica->patient_count = 0;
    if (replica->turn_planned || replica->process.bucket == NULL)
        return;
    replica->turn_planned = true;
    sched_after(&replica->scale->sched, prng_range(&replica->scale->prng, WAKE_NS_MIN, WAKE_NS_MAX),
                on_turn_time, replica, replica->process.incarnation);
}

static void on_turn_time(void *ctx, uint64_t incarnation)
{
    struct sc_replica *replica = ctx;
    if (replica->process.incarnation != incarnation || replica->process.bucket == NULL)
        return;
    replica->turn_planned = false;
    uint32_t count = replica->input_count;
    node_begin(&replica->process);
    for (uint32_t i = 0; i < count; i++)
        hand(replica, &replica->inputs[i]);
    drop_inputs(replica, count);
    node_end(&replica->process);
}

static void hand(struct sc_replica *replica, const struct sc_input *input)
{
    if (input->kind == RELAY_PEER || input->kind == RELAY_TICK)
        node_hand_peer(&replica->process, input->slot, buf_span(&input->bytes));
    else
        node_hand(&replica->process, LINK, buf_span(&input->bytes));
}

static void drop_inputs(struct sc_replica *replica, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        buf_release(&replica->inputs[i].bytes);
    replica->input_count -= count;
    replica->patient_count = 0;
    if (replica->input_count > 0)
        memmove(replica->inputs, replica->inputs + count,
                replica->input_count * sizeof *replica->inputs);
}

static void on_turn(void *ctx)
{
    struct sc_replica *replica = ctx;
    struct sc_node *node = &replica->scale->nodes[replica->node];
    node->traffic.bucket_turns++;
    if (node->alive)
        netd_note_state(node, replica);
}

/* --- what leaves a process --- */

static struct buf *netd_outbox(void *ctx)
{
    struct sc_replica *replica = ctx;
    return &replica->to_netd;
}

/* Each answer goes to the netd that asked. */
static void on_frame(void *ctx, uint32_t link, struct span frame)
{
    struct sc_replica *replica = ctx;
    struct scale *scale = replica->scale;
    (void)link;
    while (frame.len > 0) {
        struct span at = frame;
        struct msg msg;
        ASSERT(msg_unpack(&frame, &msg) == ERR_OK);
        struct span bytes = span_of(at.ptr, at.len - frame.len);
        /* Every answer begins with its req_id. */
        uint32_t entry = calls_entry(scale, msg.u.fail_reply.req_id);
        if (entry == replica->node)
            calls_on_reply(scale, entry, bytes);
        else if (entry != UINT32_MAX)
            netd_send(&scale->nodes[replica->node], entry, RELAY_REPLY, replica->bucket, bytes);
    }
}

static void on_peer_frame(void *ctx, uint32_t to, struct span frame)
{
    struct sc_replica *replica = ctx;
    struct scale *scale = replica->scale;
    buf_append_span(relay_peer(&replica->relay, to), frame);
    relay_flush(&replica->relay);
    struct span rest = buf_span(&replica->to_netd);
    struct msg msg;
    while (rest.len > 0) {
        ASSERT(msg_unpack(&rest, &msg) == ERR_OK && msg.tag == TAG_relay);
        uint32_t node = scale->buckets[replica->bucket].nodes[msg.u.relay.node];
        netd_send(&scale->nodes[replica->node], node, (enum relay_kind)msg.u.relay.kind,
                  replica->bucket, msg.u.relay.bytes);
    }
    buf_clear(&replica->to_netd, 64 << 10);
}
