/* A node of the cluster: starts and ends of its process, and the turns in which it takes up what
 * has arrived. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/cluster/cl_internal.h"

#define WAITING_MAX     4096u
#define TURN_INPUTS_MAX 256u
/* A supervisor waits so long for a process that is to stop. */
#define STOP_PATIENCE (3 * SECOND)

static void on_start_time(void *ctx, uint64_t number);
static void on_ready(void *ctx, uint64_t boot);
static void judge_failed_start(struct cl_node *node, enum err err);
static void on_turn_time(void *ctx, uint64_t boot);
static void run_turn(struct cl_node *node);
static void hand(struct cl_node *node, struct cl_waiting *waiting);
static void clear_waiting(struct cl_node *node);
static void on_stop_time(void *ctx, uint64_t boot);
static void on_turn(void *ctx);
static void on_frame(void *ctx, uint32_t link, struct span frame);
static void on_peer_frame(void *ctx, uint32_t to, struct span frame);
static void on_end(void *ctx, enum node_end end);
static void set_clock(struct cl_node *node);
static void give_new_disk(struct cl_node *node);

void cl_node_init(struct cluster *cluster, uint32_t index)
{
    struct cl_node *node = &cluster->nodes[index];
    *node = (struct cl_node){.cluster = cluster, .index = index, .started_ns = UINT64_MAX};
    const struct bucket_config *settings = &cluster->swarm.config;
    for (uint32_t i = 0; i < settings->replica_count; i++)
        node->replica = node->replica || settings->replicas[i] == index;
    struct bucket_config config = *settings;
    config.node = index;
    /* Nodes are of different age; which is the oldest doesn't follow from their order. */
    config.age = 1 + (index * 5 + cluster->options.seed) % CL_NODES_MAX;
    struct node_callbacks callbacks = {.ctx = node,
                                       .on_turn = on_turn,
                                       .on_frame = on_frame,
                                       .on_peer_frame = on_peer_frame,
                                       .on_end = on_end};
    node_init(&node->node, &cluster->sched, &cluster->trace, &cluster->prng, &config, &callbacks);
    snprintf(node->node.name, sizeof node->node.name, "n%u", index);
    sim_disk_set_name(node->node.disk, node->node.name);
    node->node.faults = cluster->swarm.disk;
    set_clock(node);
}

void cl_node_release(struct cl_node *node)
{
    clear_waiting(node);
    free(node->waiting);
    node_release(&node->node);
}

/* As after a boot of the machine. */
static void set_clock(struct cl_node *node)
{
    struct cluster *cluster = node->cluster;
    if (!cl_has(cluster, CL_CLOCK))
        return;
    struct prng *prng = cl_prng(cluster, CL_CLOCK);
    uint64_t most = cluster->swarm.drift_ppm_max;
    node_set_clock(&node->node, prng_range(prng, 0, 1000 * SECOND),
                   (int64_t)prng_below(prng, 2 * most + 1) - (int64_t)most);
}

/* --- starts --- */

void cl_node_start_after(struct cl_node *node, uint64_t delay_ns)
{
    sched_after(&node->cluster->sched, delay_ns, on_start_time, node, ++node->start_number);
}

static void on_start_time(void *ctx, uint64_t number)
{
    struct cl_node *node = ctx;
    struct cluster *cluster = node->cluster;
    if (cluster->over || number != node->start_number || node->node.bucket != NULL)
        return;
    cl_faults_plan_recovery(node);
    node->node.config.boot = CL_BOOT_FIRST + ++node->boots - node->boots_behind;
    node->state = CL_RECOVERING;
    node->io_errors_at_start = node->node.counters.io_errors;
    uint64_t deaths = node->node.counters.recovery_deaths;
    enum err err = node_start(&node->node);
    if (cluster->trace.failed)
        return;
    if (err != ERR_OK) {
        if (node->node.counters.recovery_deaths == deaths)
            judge_failed_start(node, err);
        return;
    }
    node->started_ns = cluster->sched.now_ns;
    oracle_on_start(cluster->oracle, node->index);
    sched_after(&cluster->sched, node->node.recovery_ns, on_ready, node, node->boots);
}

static void on_ready(void *ctx, uint64_t boot)
{
    struct cl_node *node = ctx;
    if (node->boots != boot || node->state != CL_RECOVERING || node->node.bucket == NULL)
        return;
    node->state = CL_UP;
    cl_links_on_node_up(node->cluster, node->index);
}

/* on_end has planned the next try. */
static void judge_failed_start(struct cl_node *node, enum err err)
{
    struct cluster *cluster = node->cluster;
    if (node->node.counters.io_errors != node->io_errors_at_start ||
        (err == ERR_FULL && cl_has(cluster, CL_FULL)))
        return;
    if (cl_damage_excuses(node)) {
        trace_line(&cluster->trace,
                   "n%u refuses to start on its damaged disk: %s; it gets a new one", node->index,
                   err_name(err));
        cl_damage_wipe(node);
        return;
    }
    trace_fail(&cluster->trace, "n%u refuses to start: %s", node->index, err_name(err));
}

/* --- ends --- */

void cl_node_end_now(struct cl_node *node, enum node_end end)
{
    if (node->node.bucket != NULL)
        node_die(&node->node, end);
}

void cl_node_stop(struct cl_node *node)
{
    struct cluster *cluster = node->cluster;
    if (node->node.bucket == NULL || node->stop_deadline_ns != 0)
        return;
    trace_line(&cluster->trace, "n%u is to stop", node->index);
    node->stop_deadline_ns = cluster->sched.now_ns + STOP_PATIENCE;
    struct buf none = {0};
    cl_node_take(node, INPUT_TRANSFER, UINT32_MAX, 0, &none);
    sched_after(&cluster->sched, 10 * MS, on_stop_time, node, node->boots);
}

/* Until it doesn't lead any more, or for a second; then it stops, or is made to. */
static void on_stop_time(void *ctx, uint64_t boot)
{
    struct cl_node *node = ctx;
    struct cluster *cluster = node->cluster;
    if (node->boots != boot || node->node.bucket == NULL || node->stop_deadline_ns == 0)
        return;
    uint64_t now = cluster->sched.now_ns;
    if (now >= node->stop_deadline_ns) {
        cl_node_end_now(node, NODE_KILLED);
        return;
    }
    struct replica_state state;
    bucket_get_replica_state(node->node.bucket, &state);
    struct buf none = {0};
    if (!node->node.stopping &&
        (state.role != ROLE_LEADER || now + 2 * SECOND >= node->stop_deadline_ns))
        cl_node_take(node, INPUT_STOP, 0, 0, &none);
    /* What it was handed may have been its end. */
    if (node->boots == boot && node->node.bucket != NULL)
        sched_after(&cluster->sched, 20 * MS, on_stop_time, node, boot);
}

static void on_end(void *ctx, enum node_end end)
{
    struct cl_node *node = ctx;
    struct cluster *cluster = node->cluster;
    bool was_up = node->state == CL_UP;
    if (node->started_ns != UINT64_MAX)
        cluster->totals.node_ns += cluster->sched.now_ns - node->started_ns;
    node->started_ns = UINT64_MAX;
    node->state = CL_DOWN;
    node->stop_deadline_ns = 0;
    node->turn_planned = false;
    node->node.crash_in_ops = node->node.crash_in_turns = 0;
    clear_waiting(node);
    if (cluster->trace.failed || cluster->over)
        return;
    oracle_on_end(cluster->oracle, node->index, end);
    if (was_up)
        cl_links_on_node_down(cluster, node->index, end == NODE_POWER_CUT);
    if (end != NODE_POWER_CUT)
        cl_net_notice(cluster, node->index, node->node.config.boot);
    else
        set_clock(node);
    if (node->node.disk_given_up)
        give_new_disk(node);
    else
        cl_damage_at_rest(node);
    uint64_t most = cl_is_quiet(cluster) ? 200 * MS : cluster->swarm.restart_ns_max;
    bool at_once = prng_chance(&cluster->prng, 500000);
    cl_node_start_after(node, prng_range(&cluster->prng, 1, at_once ? 20 * MS : most));
}

/* As the shell does it: an empty one that knows it isn't new. */
static void give_new_disk(struct cl_node *node)
{
    if (!cl_damage_excuses(node))
        trace_fail(&node->cluster->trace, "n%u gives up a disk without damage", node->index);
    node->node.disk_given_up = false;
    node->node.config.replaced = true;
    cl_damage_wipe(node);
}

/* --- turns --- */

void cl_node_take(struct cl_node *node, enum cl_input input, uint32_t from, uint32_t client,
                  struct buf *bytes)
{
    struct cluster *cluster = node->cluster;
    if (node->node.bucket == NULL || node->waiting_count == WAITING_MAX) {
        buf_release(bytes);
        return;
    }
    if (node->waiting_count == node->waiting_cap) {
        node->waiting_cap = node->waiting_cap == 0 ? 16 : node->waiting_cap * 2;
        node->waiting = realloc(node->waiting, node->waiting_cap * sizeof *node->waiting);
        ASSERT(node->waiting != NULL);
    }
    node->waiting[node->waiting_count++] =
        (struct cl_waiting){.input = input, .from = from, .client = client, .bytes = *bytes};
    *bytes = (struct buf){0};
    if (node->turn_planned)
        return;
    uint64_t now = cluster->sched.now_ns, delay = 0;
    if (now < node->node.paused_until_ns)
        delay = node->node.paused_until_ns - now;
    else if (cluster->swarm.turn_ns_max > 0)
        delay = prng_below(&cluster->prng, cluster->swarm.turn_ns_max + 1);
    if (delay == 0 && !node->node.in_turn) {
        run_turn(node);
        return;
    }
    node->turn_planned = true;
    sched_after(&cluster->sched, delay, on_turn_time, node, node->boots);
}

static void on_turn_time(void *ctx, uint64_t boot)
{
    struct cl_node *node = ctx;
    struct cluster *cluster = node->cluster;
    if (node->boots != boot || node->node.bucket == NULL || !node->turn_planned)
        return;
    uint64_t now = cluster->sched.now_ns;
    if (now < node->node.paused_until_ns) {
        sched_after(&cluster->sched, node->node.paused_until_ns - now, on_turn_time, node, boot);
        return;
    }
    node->turn_planned = false;
    run_turn(node);
}

static void run_turn(struct cl_node *node)
{
    uint64_t boot = node->boots;
    uint32_t count = node->waiting_count < TURN_INPUTS_MAX ? node->waiting_count : TURN_INPUTS_MAX;
    node_begin(&node->node);
    for (uint32_t i = 0; i < count; i++)
        hand(node, &node->waiting[i]);
    for (uint32_t i = 0; i < count; i++)
        buf_release(&node->waiting[i].bytes);
    node->waiting_count -= count;
    memmove(node->waiting, node->waiting + count, node->waiting_count * sizeof *node->waiting);
    bool more = node->waiting_count > 0;
    node->turn_planned = more;
    if (more)
        sched_after(&node->cluster->sched, 10 * US, on_turn_time, node, boot);
    node_end(&node->node);
}

static void hand(struct cl_node *node, struct cl_waiting *waiting)
{
    struct cluster *cluster = node->cluster;
    if (node->node.dead)
        return;
    switch (waiting->input) {
    case INPUT_PEER:
        node_hand_peer(&node->node, waiting->from, buf_span(&waiting->bytes));
        return;
    case INPUT_LINK:
        if (!node->node.stopping)
            oracle_on_request(cluster->oracle, waiting->client, node->index,
                              buf_span(&waiting->bytes));
        node_hand(&node->node, waiting->from, buf_span(&waiting->bytes));
        return;
    case INPUT_LOST_LINK:
        oracle_on_link_lost(cluster->oracle, waiting->client, node->index);
        node_hand_lost_link(&node->node, waiting->from);
        return;
    case INPUT_NOTICE:
        node_hand(&node->node, 0, buf_span(&waiting->bytes));
        return;
    case INPUT_TRANSFER:
        bucket_transfer(node->node.bucket, waiting->from);
        return;
    case INPUT_STOP:
        trace_line(&cluster->trace, "n%u is asked to stop", node->index);
        node->node.stopping = true;
        bucket_stop(node->node.bucket);
        return;
    }
}

static void clear_waiting(struct cl_node *node)
{
    for (uint32_t i = 0; i < node->waiting_count; i++)
        buf_release(&node->waiting[i].bytes);
    node->waiting_count = 0;
}

/* --- what the process does --- */

static void on_turn(void *ctx)
{
    struct cl_node *node = ctx;
    oracle_after_step(node->cluster->oracle, node->index);
}

static void on_frame(void *ctx, uint32_t link, struct span frame)
{
    struct cl_node *node = ctx;
    cl_links_on_reply(node->cluster, node->index, link, frame);
}

static void on_peer_frame(void *ctx, uint32_t to, struct span frame)
{
    struct cl_node *node = ctx;
    cl_net_send(node->cluster, node->index, to, frame);
}
