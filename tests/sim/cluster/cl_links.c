/* Links between clients and the nodes' buckets: reliable and in order as long as they last. A
 * client (a netd) lives on a node, and its links to the others go the way of all that this node
 * sends: a cut stalls them, and breaks them after a while. When one breaks, some of what was under
 * way arrives, the rest never does. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/cluster/cl_internal.h"

struct parcel {
    struct parcel *next;
    uint64_t time_ns;
    struct buf bytes;
};

/* One direction of a link. */
struct pipe {
    struct parcel *first, *last;
    uint64_t last_ns;
    bool pumping; /* an event is planned */
};

enum link_state {
    LINK_DOWN,
    LINK_UP,
    LINK_DEAD /* the node's end is gone, the client hasn't noticed */
};

struct cl_link {
    struct cluster *cluster;
    uint32_t client, node;
    enum link_state state;
    uint32_t id;         /* as the node knows it */
    uint64_t number;     /* of the state: what was planned for another is void */
    struct pipe out, in; /* as the client sees it */
};

struct cl_links {
    struct prng prng;
    uint32_t last_id;
    struct cl_link links[CL_CLIENTS_MAX][CL_NODES_MAX];
};

static struct cl_link *link_at(const struct cluster *cluster, uint32_t client, uint32_t node);
static bool is_cut(const struct cl_link *link, bool out);
static void retry(struct cl_link *link, uint64_t delay_ns);
static void on_retry(void *ctx, uint64_t number);
static void push(struct cl_link *link, struct pipe *pipe, struct span bytes);
static void plan_pump(struct cl_link *link, bool out);
static void on_pump_out(void *ctx, uint64_t number);
static void on_pump_in(void *ctx, uint64_t number);
static void pump(struct cl_link *link, bool out);
static void deliver(struct cl_link *link, bool out, struct parcel *parcel);
static struct parcel *pop(struct pipe *pipe);
static void drop_all(struct pipe *pipe);
static void lose(struct cl_link *link, bool some_arrive, bool tell_client);
static void on_patience_end(void *ctx, uint64_t number);

struct cl_links *cl_links_new(struct cluster *cluster)
{
    struct cl_links *links = calloc(1, sizeof *links);
    ASSERT(links != NULL);
    links->prng = prng_fork(&cluster->prng);
    for (uint32_t c = 0; c < CL_CLIENTS_MAX; c++) {
        for (uint32_t n = 0; n < CL_NODES_MAX; n++)
            links->links[c][n] = (struct cl_link){.cluster = cluster, .client = c, .node = n};
    }
    return links;
}

void cl_links_free(struct cl_links *links)
{
    for (uint32_t c = 0; c < CL_CLIENTS_MAX; c++) {
        for (uint32_t n = 0; n < CL_NODES_MAX; n++) {
            drop_all(&links->links[c][n].out);
            drop_all(&links->links[c][n].in);
        }
    }
    free(links);
}

static struct cl_link *link_at(const struct cluster *cluster, uint32_t client, uint32_t node)
{
    ASSERT(client < CL_CLIENTS_MAX && node < CL_NODES_MAX);
    return &cluster->links->links[client][node];
}

static bool is_cut(const struct cl_link *link, bool out)
{
    uint32_t home = link->client % link->cluster->swarm.nodes;
    return home != link->node && (out ? cl_net_is_cut(link->cluster, home, link->node)
                                      : cl_net_is_cut(link->cluster, link->node, home));
}

/* --- coming up --- */

void cl_links_on_node_up(struct cluster *cluster, uint32_t node)
{
    for (uint32_t c = 0; c < cluster->swarm.clients; c++) {
        struct cl_link *link = link_at(cluster, c, node);
        if (link->state == LINK_DEAD)
            lose(link, false, true); /* the new process knows nothing of it */
        else
            retry(link, prng_range(&cluster->links->prng, 1, 5 * MS));
    }
}

static void retry(struct cl_link *link, uint64_t delay_ns)
{
    sched_after(&link->cluster->sched, delay_ns, on_retry, link, ++link->number);
}

static void on_retry(void *ctx, uint64_t number)
{
    struct cl_link *link = ctx;
    struct cluster *cluster = link->cluster;
    struct cl_node *node = &cluster->nodes[link->node];
    if (cluster->over || link->number != number || link->state != LINK_DOWN || node->state != CL_UP)
        return;
    bool netds = cl_has_netd(cluster, link->node) &&
                 cl_has_netd(cluster, link->client % cluster->swarm.nodes);
    if (!netds || is_cut(link, true) || is_cut(link, false) ||
        node->node.link_count == NODE_LINKS_MAX) {
        retry(link, prng_range(&cluster->links->prng, 20 * MS, 300 * MS));
        return;
    }
    link->state = LINK_UP;
    link->number++;
    link->id = ++cluster->links->last_id;
    link->out.last_ns = link->in.last_ns = 0;
    trace_line(&cluster->trace, "c%u - n%u: link %u is up", link->client, link->node, link->id);
    node_add_link(&node->node, link->id);
    cl_client_on_link_up(cluster->clients[link->client], link->node);
}

/* --- sending --- */

bool cluster_link_up(const struct cluster *cluster, uint32_t client, uint32_t node)
{
    return link_at(cluster, client, node)->state != LINK_DOWN;
}

bool cluster_send(struct cluster *cluster, uint32_t client, uint32_t node, struct span frame)
{
    struct cl_link *link = link_at(cluster, client, node);
    if (link->state == LINK_DOWN)
        return false;
    if (link->state == LINK_UP)
        push(link, &link->out, frame);
    return true;
}

static void trace_frame(struct cluster *cluster, uint32_t client, uint32_t node, struct span frame)
{
    struct msg msg;
    while (cluster->trace.print && frame.len > 0 && msg_unpack(&frame, &msg) == ERR_OK) {
        struct buf text = {0};
        msg_print(&text, &msg);
        trace_line(&cluster->trace, "n%u -> c%u %.*s", node, client, (int)min_u64(text.len, 300),
                   (const char *)text.ptr);
        buf_release(&text);
    }
}

void cl_links_on_reply(struct cluster *cluster, uint32_t node, uint32_t id, struct span frame)
{
    for (uint32_t c = 0; c < cluster->swarm.clients; c++) {
        struct cl_link *link = link_at(cluster, c, node);
        if (link->state != LINK_UP || link->id != id)
            continue;
        trace_frame(cluster, c, node, frame);
        oracle_on_reply(cluster->oracle, c, node, frame);
        push(link, &link->in, frame);
    }
}

static void push(struct cl_link *link, struct pipe *pipe, struct span bytes)
{
    struct cluster *cluster = link->cluster;
    const struct cl_swarm *swarm = &cluster->swarm;
    struct prng *prng = &cluster->links->prng;
    bool local = link->client % swarm->nodes == link->node;
    struct parcel *parcel = calloc(1, sizeof *parcel);
    ASSERT(parcel != NULL);
    buf_append_span(&parcel->bytes, bytes);
    uint64_t delay = local ? prng_range(prng, 5, 150) * US
                           : prng_range(prng, swarm->delay_ns_min, swarm->delay_ns_max);
    if (!local && cluster->phase == CL_STORM && cl_has(cluster, CL_DELAY)) {
        struct prng *delays = cl_prng(cluster, CL_DELAY);
        if (prng_chance(delays, swarm->long_delay))
            delay += prng_below(delays, swarm->long_delay_ns_max);
    }
    pipe->last_ns = max_u64(pipe->last_ns, cluster->sched.now_ns + delay);
    parcel->time_ns = pipe->last_ns;
    if (pipe->last != NULL)
        pipe->last->next = parcel;
    else
        pipe->first = parcel;
    pipe->last = parcel;
    plan_pump(link, pipe == &link->out);
}

/* Where a cut stalls it the event is planned when it heals. */
static void plan_pump(struct cl_link *link, bool out)
{
    struct pipe *pipe = out ? &link->out : &link->in;
    if (pipe->pumping || pipe->first == NULL || is_cut(link, out))
        return;
    pipe->pumping = true;
    uint64_t now = link->cluster->sched.now_ns, time = pipe->first->time_ns;
    sched_after(&link->cluster->sched, time > now ? time - now : 0, out ? on_pump_out : on_pump_in,
                link, link->number);
}

static void on_pump_out(void *ctx, uint64_t number)
{
    struct cl_link *link = ctx;
    if (link->number == number)
        pump(link, true);
}

static void on_pump_in(void *ctx, uint64_t number)
{
    struct cl_link *link = ctx;
    if (link->number == number)
        pump(link, false);
}

static void pump(struct cl_link *link, bool out)
{
    struct pipe *pipe = out ? &link->out : &link->in;
    uint64_t number = link->number;
    pipe->pumping = false;
    /* What is delivered may end the link. */
    while (link->number == number && !is_cut(link, out) && pipe->first != NULL &&
           pipe->first->time_ns <= link->cluster->sched.now_ns)
        deliver(link, out, pop(pipe));
    if (link->number == number)
        plan_pump(link, out);
}

static void deliver(struct cl_link *link, bool out, struct parcel *parcel)
{
    struct cluster *cluster = link->cluster;
    struct cl_node *node = &cluster->nodes[link->node];
    if (out && node->state == CL_UP)
        cl_node_take(node, INPUT_LINK, link->id, link->client, &parcel->bytes);
    else if (!out)
        cl_client_on_frame(cluster->clients[link->client], link->node, buf_span(&parcel->bytes));
    buf_release(&parcel->bytes);
    free(parcel);
}

static struct parcel *pop(struct pipe *pipe)
{
    struct parcel *parcel = pipe->first;
    ASSERT(parcel != NULL);
    pipe->first = parcel->next;
    if (pipe->first == NULL)
        pipe->last = NULL;
    return parcel;
}

static void drop_all(struct pipe *pipe)
{
    while (pipe->first != NULL) {
        struct parcel *parcel = pop(pipe);
        buf_release(&parcel->bytes);
        free(parcel);
    }
    pipe->pumping = false;
}

/* --- breaking --- */

/* The client's end goes, and the node's where it is still there. */
static void lose(struct cl_link *link, bool some_arrive, bool tell_client)
{
    struct cluster *cluster = link->cluster;
    struct cl_node *node = &cluster->nodes[link->node];
    struct prng *prng = &cluster->links->prng;
    if (link->state == LINK_DOWN)
        return;
    trace_line(&cluster->trace, "c%u - n%u: link %u is lost", link->client, link->node, link->id);
    cluster->totals.lost_links++;
    bool node_knows = link->state == LINK_UP && node->node.bucket != NULL;
    uint32_t id = link->id;
    link->state = LINK_DOWN;
    link->number++;
    struct pipe out = link->out, in = link->in;
    link->out = link->in = (struct pipe){0};
    while (some_arrive && node_knows && out.first != NULL && prng_chance(prng, 500000))
        deliver(link, true, pop(&out));
    if (node_knows) {
        struct buf none = {0};
        cl_node_take(node, INPUT_LOST_LINK, id, link->client, &none);
    }
    while (some_arrive && tell_client && in.first != NULL && prng_chance(prng, 500000))
        deliver(link, false, pop(&in));
    drop_all(&out);
    drop_all(&in);
    if (node->state == CL_UP)
        retry(link, prng_range(prng, 100 * US, prng_chance(prng, 800000) ? 20 * MS : 2 * SECOND));
    if (tell_client)
        cl_client_on_link_lost(cluster->clients[link->client], link->node);
}

void cluster_drop_link(struct cluster *cluster, uint32_t client, uint32_t node)
{
    lose(link_at(cluster, client, node), true, false);
}

void cl_links_break(struct cluster *cluster, uint32_t client, uint32_t node)
{
    lose(link_at(cluster, client, node), true, true);
}

void cl_links_on_node_down(struct cluster *cluster, uint32_t node, bool abrupt)
{
    for (uint32_t c = 0; c < cluster->swarm.clients; c++) {
        struct cl_link *link = link_at(cluster, c, node);
        if (link->state == LINK_DOWN)
            continue;
        link->state = LINK_DEAD;
        drop_all(&link->out);
        bool late = abrupt || is_cut(link, false);
        if (late)
            drop_all(&link->in);
        link->number++;
        link->in.pumping = false;
        sched_after(&cluster->sched,
                    prng_range(&cluster->links->prng, 10 * US, late ? 3 * SECOND : 2 * MS),
                    on_patience_end, link, link->number);
    }
}

static void on_patience_end(void *ctx, uint64_t number)
{
    struct cl_link *link = ctx;
    if (link->cluster->over || link->number != number)
        return;
    if (link->state == LINK_DEAD)
        lose(link, true, true);
    else if (is_cut(link, true) || is_cut(link, false))
        lose(link, false, true);
}

void cl_links_on_cut(struct cluster *cluster)
{
    for (uint32_t c = 0; c < cluster->swarm.clients; c++) {
        for (uint32_t n = 0; n < cluster->swarm.nodes; n++) {
            struct cl_link *link = link_at(cluster, c, n);
            if (link->state == LINK_UP && (is_cut(link, true) || is_cut(link, false)))
                sched_after(&cluster->sched,
                            prng_range(&cluster->links->prng, 200 * MS, 3 * SECOND),
                            on_patience_end, link, link->number);
        }
    }
}

void cl_links_on_heal(struct cluster *cluster)
{
    for (uint32_t c = 0; c < cluster->swarm.clients; c++) {
        for (uint32_t n = 0; n < cluster->swarm.nodes; n++) {
            struct cl_link *link = link_at(cluster, c, n);
            if (link->state == LINK_UP) {
                plan_pump(link, true);
                plan_pump(link, false);
            }
        }
    }
}
