/* One seed from its first to its last event: storms and calms take turns, then everything heals and
 * the cluster must come to rest in bounded time. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/cluster/cl_internal.h"

#define LIVENESS_BOUND (60 * SECOND)
#define EVENTS_MAX     30000000u

static void cluster_init(struct cluster *cluster, const struct cl_options *options);
static void cluster_release(struct cluster *cluster);
static void on_phase_end(void *ctx, uint64_t unused);
static void begin_end(struct cluster *cluster);
static void on_look(void *ctx, uint64_t unused);
static void on_review(void *ctx, uint64_t unused);
static bool replicas_agree(struct cluster *cluster, struct buf *why);
static bool at_rest(struct cluster *cluster, struct buf *why);
static void sum_up(struct cluster *cluster);

bool cluster_run(const struct cl_options *options, struct cl_totals *ret_totals,
                 char failure[static 600])
{
    struct cluster *cluster = calloc(1, sizeof *cluster);
    ASSERT(cluster != NULL);
    cluster_init(cluster, options);
    uint64_t events = 0;
    while (!cluster->over && !cluster->trace.failed) {
        if (!sched_step(&cluster->sched))
            trace_fail(&cluster->trace, "nothing is left to happen, and the run isn't over");
        if (++events > EVENTS_MAX)
            trace_fail(&cluster->trace, "no end after %lu events", events);
    }
    cluster->over = true;
    sum_up(cluster);
    *ret_totals = cluster->totals;
    snprintf(failure, 600, "%s", cluster->trace.failure);
    bool ok = !cluster->trace.failed;
    cluster_release(cluster);
    return ok;
}

static void cluster_init(struct cluster *cluster, const struct cl_options *options)
{
    cluster->options = *options;
    cluster->prng.state = options->seed * 0x2545f4914f6cdd1dull + 1;
    for (unsigned i = 0; i < CL_FAULT_COUNT; i++)
        cluster->fault_prng[i] = prng_fork(&cluster->prng);
    cl_swarm_draw(&cluster->swarm, options);
    cluster->trace = (struct trace){
        .hash = options->seed, .now_ns = &cluster->sched.now_ns, .print = options->trace};
    cluster->phase = CL_CALM;
    cluster->net = cl_net_new(cluster);
    cluster->links = cl_links_new(cluster);
    for (uint32_t i = 0; i < cluster->swarm.nodes; i++)
        cl_node_init(cluster, i);
    cl_faults_end_storm(cluster);
    cluster->oracle = oracle_new(cluster);
    for (uint32_t i = 0; i < cluster->swarm.clients; i++)
        cluster->clients[i] = cl_client_new(cluster, i);
    bool late = prng_chance(&cluster->prng, 200000);
    for (uint32_t i = 0; i < cluster->swarm.nodes; i++) {
        uint64_t delay = prng_range(&cluster->prng, 1, late ? 3 * SECOND : 20 * MS);
        if (cluster->nodes[i].replica)
            cl_node_start_after(&cluster->nodes[i], delay);
    }
    sched_after(&cluster->sched, prng_range(&cluster->prng, MS, 3 * SECOND), on_phase_end, cluster,
                0);
    sched_after(&cluster->sched, 100 * MS, on_review, cluster, 0);
}

static void cluster_release(struct cluster *cluster)
{
    for (uint32_t i = 0; i < cluster->swarm.nodes; i++)
        cl_node_release(&cluster->nodes[i]);
    for (uint32_t i = 0; i < cluster->swarm.clients; i++)
        cl_client_free(cluster->clients[i]);
    oracle_free(cluster->oracle);
    cl_links_free(cluster->links);
    cl_net_free(cluster->net);
    sched_release(&cluster->sched);
    free(cluster);
}

bool cl_is_quiet(const struct cluster *cluster)
{
    return cluster->phase == CL_END;
}

uint32_t cl_leader(struct cluster *cluster)
{
    uint32_t leader = UINT32_MAX;
    uint64_t term = 0;
    for (uint32_t i = 0; i < cluster->swarm.nodes; i++) {
        struct bucket *bucket = cluster_bucket(cluster, i);
        if (bucket == NULL)
            continue;
        struct replica_state state;
        bucket_get_replica_state(bucket, &state);
        if (state.role != ROLE_LEADER || state.term < term)
            continue;
        leader = i;
        term = state.term;
    }
    return leader;
}

/* --- phases --- */

static void on_phase_end(void *ctx, uint64_t unused)
{
    struct cluster *cluster = ctx;
    const struct cl_swarm *swarm = &cluster->swarm;
    (void)unused;
    if (cluster->over)
        return;
    uint64_t most;
    if (cluster->phase == CL_STORM) {
        trace_line(&cluster->trace, "--- a calm");
        cluster->phase = CL_CALM;
        cl_faults_end_storm(cluster);
        most = swarm->calm_ns_max;
    } else if (cluster->storm < swarm->storms) {
        trace_line(&cluster->trace, "--- a storm");
        cluster->phase = CL_STORM;
        cl_faults_begin_storm(cluster);
        most = swarm->storm_ns_max;
    } else {
        begin_end(cluster);
        return;
    }
    sched_after(&cluster->sched, prng_range(&cluster->prng, most / 4, most), on_phase_end, cluster,
                0);
}

static void begin_end(struct cluster *cluster)
{
    trace_line(&cluster->trace, "--- faults end; everything must be answered");
    cluster->phase = CL_END;
    cluster->end_ns = cluster->sched.now_ns;
    for (uint32_t i = 0; i < cluster->swarm.nodes; i++) {
        struct cl_node *node = &cluster->nodes[i];
        node->node.crash_in_ops = node->node.crash_in_turns = 0;
        if (node->replica && node->node.bucket == NULL)
            cl_node_start_after(node, prng_range(&cluster->prng, 1, 200 * MS));
    }
    for (uint32_t i = 0; i < cluster->swarm.clients; i++)
        cl_client_finish(cluster->clients[i]);
    sched_after(&cluster->sched, 20 * MS, on_look, cluster, 0);
}

static void on_look(void *ctx, uint64_t unused)
{
    struct cluster *cluster = ctx;
    struct buf why = {0};
    (void)unused;
    if (at_rest(cluster, &why)) {
        trace_line(&cluster->trace, "--- at rest");
        oracle_at_rest(cluster->oracle);
        cluster->over = true;
    } else if (cluster->sched.now_ns - cluster->end_ns > LIVENESS_BOUND) {
        trace_fail(&cluster->trace, "no rest 60 s after the last fault: %.*s", (int)why.len,
                   (const char *)why.ptr);
    } else {
        sched_after(&cluster->sched, 20 * MS, on_look, cluster, 0);
    }
    buf_release(&why);
}

static void on_review(void *ctx, uint64_t unused)
{
    struct cluster *cluster = ctx;
    (void)unused;
    if (cluster->over || cluster->phase == CL_END)
        return;
    if (cl_has(cluster, CL_ROT) || cl_has(cluster, CL_WIPE))
        cl_damage_review(cluster);
    sched_after(&cluster->sched, 100 * MS, on_review, cluster, 0);
}

static bool at_rest(struct cluster *cluster, struct buf *why)
{
    if (!replicas_agree(cluster, why))
        return false;
    for (uint32_t i = 0; i < cluster->swarm.clients; i++) {
        if (cl_client_idle(cluster->clients[i]))
            continue;
        buf_printf(why, "client %u waits: ", i);
        cl_client_describe(cluster->clients[i], why);
        return false;
    }
    return true;
}

/* All run, one leads and all follow it, with equal logs, all of them committed and durable. */
static bool replicas_agree(struct cluster *cluster, struct buf *why)
{
    struct replica_state first = {0};
    uint32_t leader = UINT32_MAX, seen = 0;
    for (uint32_t i = 0; i < cluster->swarm.nodes; i++) {
        struct cl_node *node = &cluster->nodes[i];
        if (!node->replica)
            continue;
        if (node->state != CL_UP || node->node.stopping) {
            buf_printf(why, "n%u doesn't run", i);
            return false;
        }
        struct replica_state state;
        bucket_get_replica_state(node->node.bucket, &state);
        if (seen++ == 0)
            first = state;
        if (state.role == ROLE_LEADER && state.settled)
            leader = i;
        if (cluster->swarm.config.replica_count == 1)
            first.leader = (leader = i) + 1; /* it needs nobody's consent */
        bool equal = state.term == first.term && (seen == 1 || state.leader == first.leader) &&
                     state.last_idx == first.last_idx && state.last_chain == first.last_chain &&
                     state.commit_idx == first.last_idx && state.durable_idx == first.last_idx;
        if (!equal || state.damaged || !state.voter || state.role == ROLE_CANDIDATE) {
            buf_printf(why,
                       "n%u: role %d term %lu leader %u last %lu durable %lu commit %lu chain %lx "
                       "voter %d damaged %d; the first one: term %lu leader %u last %lu chain %lx",
                       i, (int)state.role, state.term, state.leader, state.last_idx,
                       state.durable_idx, state.commit_idx, state.last_chain, state.voter,
                       state.damaged, first.term, first.leader, first.last_idx, first.last_chain);
            return false;
        }
    }
    if (leader == UINT32_MAX || first.leader != leader + 1)
        buf_printf(why, "nobody leads (term %lu)", first.term);
    return leader != UINT32_MAX && first.leader == leader + 1;
}

static void sum_up(struct cluster *cluster)
{
    struct cl_totals *totals = &cluster->totals;
    totals->virtual_ns = cluster->sched.now_ns;
    totals->hash = cluster->trace.hash;
    totals->steps = cluster->trace.steps;
    oracle_get_totals(cluster->oracle, &totals->oracle);
    for (uint32_t i = 0; i < cluster->swarm.nodes; i++) {
        const struct cl_node *node = &cluster->nodes[i];
        const struct node_counters *counters = &node->node.counters;
        if (node->started_ns != UINT64_MAX)
            totals->node_ns += cluster->sched.now_ns - node->started_ns;
        totals->node.disk_ops += counters->disk_ops;
        totals->node.starts += counters->starts;
        totals->node.power_cuts += counters->power_cuts;
        totals->node.kills += counters->kills;
        totals->node.fatals += counters->fatals;
        totals->node.stops += counters->stops;
        totals->node.io_errors += counters->io_errors;
        totals->node.recovery_deaths += counters->recovery_deaths;
    }
}
