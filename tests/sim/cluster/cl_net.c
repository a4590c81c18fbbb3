/* The network between nodes, as the replicas' messages see it: each direction of each pair of
 * nodes delays, loses, doubles and reorders, and may be cut. Without the fault class that does so
 * a direction keeps the order. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/cluster/cl_internal.h"

/* Messages on their way; in a list of all, so that a run can end at any time. */
struct flight {
    struct cl_net *net;
    struct flight *next, *previous;
    uint32_t from, to;
    uint64_t session, from_boot, to_boot;
    bool notice;
    struct buf bytes;
};

struct direction {
    uint64_t last_ns; /* when the last one arrives that keeps the order */
    uint64_t session; /* messages of an older one are lost */
    bool cut, hold;
    struct flight *held, *held_last; /* arrived during a cut that holds */
};

struct cl_net {
    struct cluster *cluster;
    struct prng prng;
    struct flight *flights;
    struct direction directions[CL_NODES_MAX][CL_NODES_MAX];
};

static void send_part(struct cl_net *net, uint32_t from, uint32_t to, struct span bytes);
static void launch(struct cl_net *net, uint32_t from, uint32_t to, struct span bytes, bool orderly);
static struct flight *new_flight(struct cl_net *net, uint32_t from, uint32_t to);
static void on_arrival(void *ctx, uint64_t unused);
static bool hold(struct cl_net *net, struct flight *flight);
static void free_flight(struct flight *flight);
static void release_held(struct cl_net *net, uint32_t from, uint32_t to);

struct cl_net *cl_net_new(struct cluster *cluster)
{
    struct cl_net *net = calloc(1, sizeof *net);
    ASSERT(net != NULL);
    net->cluster = cluster;
    net->prng = prng_fork(&cluster->prng);
    return net;
}

void cl_net_free(struct cl_net *net)
{
    for (uint32_t from = 0; from < CL_NODES_MAX; from++) {
        for (uint32_t to = 0; to < CL_NODES_MAX; to++)
            release_held(net, from, to);
    }
    while (net->flights != NULL)
        free_flight(net->flights);
    free(net);
}

/* --- sending --- */

void cl_net_send(struct cluster *cluster, uint32_t from, uint32_t to, struct span frame)
{
    struct cl_net *net = cluster->net;
    bool split = prng_chance(&net->prng, cluster->swarm.split);
    struct span rest = frame;
    while (rest.len > 0) {
        struct span at = rest;
        struct msg msg;
        enum err err = msg_unpack(&rest, &msg);
        ASSERT(err == ERR_OK);
        cluster->totals.peer_messages++;
        if (cluster->trace.print) {
            struct buf text = {0};
            msg_print(&text, &msg);
            trace_line(&cluster->trace, "n%u -> n%u %.*s", from, to, (int)min_u64(text.len, 300),
                       (const char *)text.ptr);
            buf_release(&text);
        }
        oracle_on_peer_message(cluster->oracle, from, to, &msg);
        if (split)
            send_part(net, from, to, span_of(at.ptr, at.len - rest.len));
    }
    if (!split)
        send_part(net, from, to, frame);
}

static void send_part(struct cl_net *net, uint32_t from, uint32_t to, struct span bytes)
{
    struct cluster *cluster = net->cluster;
    const struct cl_swarm *swarm = &cluster->swarm;
    bool stormy = cluster->phase == CL_STORM;
    if (stormy && cl_has(cluster, CL_DROP) && prng_chance(cl_prng(cluster, CL_DROP), swarm->drop)) {
        trace_line(&cluster->trace, "lost on the way from n%u to n%u", from, to);
        cluster->totals.dropped++;
        return;
    }
    bool orderly = !(stormy && cl_has(cluster, CL_REORDER) &&
                     prng_chance(cl_prng(cluster, CL_REORDER), swarm->reorder));
    cluster->totals.overtaken += !orderly;
    launch(net, from, to, bytes, orderly);
    if (stormy && cl_has(cluster, CL_DUPLICATE) &&
        prng_chance(cl_prng(cluster, CL_DUPLICATE), swarm->duplicate)) {
        cluster->totals.duplicated++;
        launch(net, from, to, bytes, false);
    }
}

static void launch(struct cl_net *net, uint32_t from, uint32_t to, struct span bytes, bool orderly)
{
    struct cluster *cluster = net->cluster;
    const struct cl_swarm *swarm = &cluster->swarm;
    struct direction *direction = &net->directions[from][to];
    uint64_t now = cluster->sched.now_ns;
    uint64_t delay = prng_range(&net->prng, swarm->delay_ns_min, swarm->delay_ns_max);
    if (!orderly)
        delay += prng_below(&net->prng, 20 * swarm->delay_ns_max);
    if (cluster->phase == CL_STORM && cl_has(cluster, CL_DELAY)) {
        struct prng *prng = cl_prng(cluster, CL_DELAY);
        if (prng_chance(prng, swarm->long_delay))
            delay += prng_below(prng, swarm->long_delay_ns_max);
    }
    if (orderly) {
        direction->last_ns = max_u64(direction->last_ns, now + delay);
        delay = direction->last_ns - now;
    }
    struct flight *flight = new_flight(net, from, to);
    buf_append_span(&flight->bytes, bytes);
    sched_after(&cluster->sched, delay, on_arrival, flight, 0);
}

static struct flight *new_flight(struct cl_net *net, uint32_t from, uint32_t to)
{
    struct flight *flight = calloc(1, sizeof *flight);
    ASSERT(flight != NULL);
    *flight = (struct flight){.net = net,
                              .next = net->flights,
                              .from = from,
                              .to = to,
                              .session = net->directions[from][to].session,
                              .from_boot = net->cluster->nodes[from].boots,
                              .to_boot = net->cluster->nodes[to].boots};
    if (net->flights != NULL)
        net->flights->previous = flight;
    net->flights = flight;
    return flight;
}

/* --- arriving --- */

static void on_arrival(void *ctx, uint64_t unused)
{
    struct flight *flight = ctx;
    struct cl_net *net = flight->net;
    struct cluster *cluster = net->cluster;
    struct cl_node *to = &cluster->nodes[flight->to];
    (void)unused;
    if (hold(net, flight))
        return;
    bool stale =
        to->boots != flight->to_boot || cluster->nodes[flight->from].boots != flight->from_boot;
    bool lost = net->directions[flight->from][flight->to].cut ||
                flight->session != net->directions[flight->from][flight->to].session ||
                to->state != CL_UP || !cl_has_netd(cluster, flight->to) ||
                !cl_has_netd(cluster, flight->from) ||
                (stale && !flight->notice && !cl_has(cluster, CL_STALE));
    if (lost)
        cluster->totals.dropped++;
    else
        cl_node_take(to, flight->notice ? INPUT_NOTICE : INPUT_PEER, flight->from, 0,
                     &flight->bytes);
    free_flight(flight);
}

/* Behind a cut that holds, and behind what it held, order is kept. */
static bool hold(struct cl_net *net, struct flight *flight)
{
    struct direction *direction = &net->directions[flight->from][flight->to];
    if (!direction->cut || !direction->hold || flight->session != direction->session)
        return false;
    struct flight **end = direction->held == NULL ? &direction->held : &direction->held_last->next;
    /* It leaves the list of all for this one. */
    if (flight->previous != NULL)
        flight->previous->next = flight->next;
    else
        net->flights = flight->next;
    if (flight->next != NULL)
        flight->next->previous = flight->previous;
    flight->next = flight->previous = NULL;
    *end = flight;
    direction->held_last = flight;
    return true;
}

static void free_flight(struct flight *flight)
{
    struct cl_net *net = flight->net;
    if (flight->previous != NULL)
        flight->previous->next = flight->next;
    else
        net->flights = flight->next;
    if (flight->next != NULL)
        flight->next->previous = flight->previous;
    buf_release(&flight->bytes);
    free(flight);
}

/* --- cuts --- */

bool cl_net_is_cut(const struct cluster *cluster, uint32_t from, uint32_t to)
{
    return cluster->net->directions[from][to].cut;
}

void cl_net_cut(struct cluster *cluster, bool cut[CL_NODES_MAX][CL_NODES_MAX], bool hold_all)
{
    struct cl_net *net = cluster->net;
    cl_net_heal(cluster);
    cluster->totals.cuts++;
    for (uint32_t from = 0; from < CL_NODES_MAX; from++) {
        for (uint32_t to = 0; to < CL_NODES_MAX; to++) {
            if (!cut[from][to] || from == to)
                continue;
            trace_line(&cluster->trace, "cut from n%u to n%u%s", from, to,
                       hold_all ? ", what is sent waits" : "");
            net->directions[from][to].cut = true;
            net->directions[from][to].hold = hold_all;
        }
    }
    cl_links_on_cut(cluster);
}

void cl_net_heal(struct cluster *cluster)
{
    struct cl_net *net = cluster->net;
    for (uint32_t from = 0; from < CL_NODES_MAX; from++) {
        for (uint32_t to = 0; to < CL_NODES_MAX; to++) {
            if (!net->directions[from][to].cut)
                continue;
            trace_line(&cluster->trace, "no cut from n%u to n%u any more", from, to);
            net->directions[from][to].cut = false;
            release_held(net, from, to);
        }
    }
    cl_links_on_heal(cluster);
}

static void release_held(struct cl_net *net, uint32_t from, uint32_t to)
{
    struct direction *direction = &net->directions[from][to];
    struct flight *flight = direction->held;
    direction->held = direction->held_last = NULL;
    uint64_t now = net->cluster->sched.now_ns;
    while (flight != NULL) {
        struct flight *next = flight->next;
        flight->next = net->flights;
        if (net->flights != NULL)
            net->flights->previous = flight;
        net->flights = flight;
        direction->last_ns = max_u64(direction->last_ns, now + prng_below(&net->prng, 100 * US));
        sched_after(&net->cluster->sched, direction->last_ns - now, on_arrival, flight, 0);
        flight = next;
    }
}

void cl_net_reset(struct cluster *cluster, uint32_t a, uint32_t b)
{
    trace_line(&cluster->trace, "what is under way between n%u and n%u is lost", a, b);
    cluster->totals.resets++;
    cluster->net->directions[a][b].session++;
    cluster->net->directions[b][a].session++;
}

/* --- notices --- */

void cl_net_notice(struct cluster *cluster, uint32_t node, uint64_t boot)
{
    const struct cl_swarm *swarm = &cluster->swarm;
    struct cl_net *net = cluster->net;
    if (!cl_has(cluster, CL_NOTICE))
        return;
    struct prng *prng = cl_prng(cluster, CL_NOTICE);
    for (uint32_t to = 0; to < swarm->nodes; to++) {
        if (to == node || !cluster->nodes[to].replica || !prng_chance(prng, swarm->notice))
            continue;
        bool late = prng_chance(prng, 200000);
        struct flight *flight = new_flight(net, node, to);
        flight->notice = true;
        cluster->totals.notices++;
        msg_pack_peer_down(&flight->bytes, &(struct msg_peer_down){.node = node, .boot = boot});
        sched_after(&cluster->sched, prng_range(prng, 1, late ? swarm->notice_ns_max : 5 * MS),
                    on_arrival, flight, 0);
    }
}
