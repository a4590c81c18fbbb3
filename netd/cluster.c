/* Items between nodes and relays to the local buckets; gossip; the view. */
#include "netd/cluster.h"

#include <stdlib.h>

#include "common/assert.h"
#include "common/placement.h"

#define TICK_MS 100u
/* Routine ticks wait so long for those of other buckets, but never longer than a small part of the
 * time between them. */
#define PATIENCE_MS   5u
#define PATIENCE_PART 20u
/* Beyond so much that a local process hasn't taken, what other replicas say to it is dropped: Raft
 * says it again. Requests are bounded by their senders' credit. */
#define LOCAL_WAITING_BYTES_MAX (64u << 20)

/* A bucket of which this node holds a replica. */
struct local_bucket {
    bool placed;
    bool linked;             /* its process is there */
    bool known;              /* it has said what it is */
    enum bucket_state state; /* as the supervisor says */
    struct msg_replica_state last;
};

/* An answer to that node couldn't leave, so those behind it mustn't: it has to ask again. */
struct broken_link {
    uint32_t bucket, node;
    uint64_t boot;
};

struct cluster_stats {
    uint64_t relays_in, relays_out, relays_dropped, links_broken;
};

struct cluster {
    struct cluster_config config;
    struct peers *peers; /* NULL: a single node */
    uint32_t self, node_count, bucket_count;
    struct buf self_name; /* host:port of network.peers, where there is one */
    struct local_bucket *locals;
    struct broken_link *broken;
    uint32_t broken_count, broken_cap;
    bool stopping;

    uv_timer_t patience;
    uint64_t patience_ms;
    bool patient; /* the timer runs */

    bool gossip_changed, gossip_now; /* what is told has changed; it is told at once */
    struct buf gossip;
    uint64_t tick_at_ms, load_at_ms, load, commands;
    uint64_t started_ms; /* loop time */

    struct buf report_nodes, report_replicas, report_problems;
    struct cluster_stats stats;
};

static void on_item(void *ctx, uint32_t node, uint64_t boot, uint32_t bucket, enum relay_kind kind,
                    struct span bytes);
static void on_node(void *ctx, uint32_t node, uint64_t boot, bool alive);
static void on_gone(void *ctx, uint32_t node);
static void on_gossip(void *ctx, uint32_t node);
static void be_patient(struct cluster *cluster);
static void on_patience_end(uv_timer_t *timer);
static void pass_to_local(struct cluster *cluster, uint32_t bucket, const struct msg_relay *m);
static void pass_to_peer(struct cluster *cluster, uint32_t bucket, const struct msg_relay *m);
static void on_replica_state(struct cluster *cluster, uint32_t bucket,
                             const struct msg_replica_state *m);
static bool is_broken(const struct cluster *cluster, uint32_t bucket, uint32_t node, uint64_t boot);
static void break_link(struct cluster *cluster, uint32_t bucket, uint32_t node, uint64_t boot);
static void tell_broken(struct cluster *cluster);
static void tell_gossip(struct cluster *cluster);
static struct rec_gossip_bucket describe(const struct cluster *cluster, uint32_t bucket);
static enum node_health health_of(const struct cluster *cluster);
static void view_self(const struct cluster *cluster, struct rec_report_node *node);
static void view_peer(const struct cluster *cluster, const struct peer_info *info,
                      struct rec_report_node *node);

enum err cluster_new(const struct cluster_config *config, struct cluster **ret_cluster)
{
    struct cluster *cluster = calloc(1, sizeof *cluster);
    ASSERT(cluster != NULL);
    const struct config *c = config->config;
    cluster->config = *config;
    cluster->self = c->node.index;
    cluster->node_count = c->node.count;
    cluster->bucket_count = c->bucket.count;
    cluster->started_ms = uv_now(config->loop);
    cluster->locals = calloc(c->bucket.count, sizeof *cluster->locals);
    ASSERT(cluster->locals != NULL);
    for (uint32_t i = 0; i < c->bucket.count; i++)
        cluster->locals[i].placed =
            placement_holds(i, c->node.count, c->replication.factor, c->node.index);
    cluster->patience_ms = min_u64(PATIENCE_MS, c->replication.tick_ms / PATIENCE_PART);
    enum err err = ERR_OK;
    if (c->node.count > 1) {
        struct peers_config peers_config = {.config = c,
                                            .log = config->log,
                                            .cluster_id = config->cluster_id,
                                            .boot = config->boot,
                                            .age_ms = config->age_ms};
        struct peers_callbacks callbacks = {.ctx = cluster,
                                            .on_item = on_item,
                                            .on_node = on_node,
                                            .on_gone = on_gone,
                                            .on_gossip = on_gossip};
        if (c->network.peers.count > 0)
            config_print_peer(&c->network.peers.list[cluster->self], &cluster->self_name);
        err = peers_new(config->loop, &peers_config, &callbacks, &cluster->peers);
    }
    if (err == ERR_OK) {
        uv_timer_init(config->loop, &cluster->patience);
        cluster->patience.data = cluster;
        cluster->gossip_now = true;
        *ret_cluster = cluster;
    } else {
        buf_release(&cluster->self_name);
        free(cluster->locals);
        free(cluster);
    }
    return err;
}

/* --- Other nodes --- */

static void on_item(void *ctx, uint32_t node, uint64_t boot, uint32_t bucket, enum relay_kind kind,
                    struct span bytes)
{
    struct cluster *cluster = ctx;
    if (bucket >= cluster->bucket_count) {
        log_warn(cluster->config.log, "item.refused", "node=%u bucket=%u", node, bucket);
        return;
    }
    switch (kind) {
    case RELAY_PEER:
    case RELAY_REQUEST:
    case RELAY_NOTICE:
    case RELAY_TICK:
        pass_to_local(
            cluster, bucket,
            &(struct msg_relay){.kind = kind, .node = node, .boot = boot, .bytes = bytes});
        break;
    case RELAY_REPLY:
        router_on_remote(cluster->config.router, node, bucket, bytes);
        break;
    case RELAY_LINK_LOST:
        router_remote_lost(cluster->config.router, node, bucket);
        break;
    }
}

static void pass_to_local(struct cluster *cluster, uint32_t bucket, const struct msg_relay *m)
{
    struct buf *out = router_local_outbox(cluster->config.router, bucket);
    bool bounded = m->kind == RELAY_PEER || m->kind == RELAY_TICK;
    if (out != NULL && (!bounded || out->len < LOCAL_WAITING_BYTES_MAX)) {
        size_t before = out->len;
        cluster->stats.relays_in++;
        msg_pack_relay(out, m);
        if (m->kind == RELAY_TICK) {
            router_may_wait(cluster->config.router, bucket, before);
            be_patient(cluster);
        }
        return;
    }
    cluster->stats.relays_dropped++;
    /* Who asks needn't wait in vain. */
    if (m->kind == RELAY_REQUEST)
        break_link(cluster, bucket, (uint32_t)m->node, m->boot);
}

static void be_patient(struct cluster *cluster)
{
    if (cluster->patient)
        return;
    cluster->patient = true;
    uv_timer_start(&cluster->patience, on_patience_end, cluster->patience_ms, 0);
}

/* The turn that follows sends what has waited. */
static void on_patience_end(uv_timer_t *timer)
{
    struct cluster *cluster = timer->data;
    cluster->patient = false;
    peers_hurry(cluster->peers);
    router_hurry(cluster->config.router);
}

static void on_node(void *ctx, uint32_t node, uint64_t boot, bool alive)
{
    struct cluster *cluster = ctx;
    for (uint32_t i = 0; !alive && i < cluster->bucket_count; i++) {
        struct buf *out = router_local_outbox(cluster->config.router, i);
        if (out != NULL)
            msg_pack_relay(
                out, &(struct msg_relay){.kind = RELAY_LINK_LOST, .node = node, .boot = boot});
    }
    router_node_state(cluster->config.router, node, alive);
}

/* As if its supervisor had told the end of each process. Should one live all the same, it can't be
 * reached, and is heard again as soon as it can. */
static void on_gone(void *ctx, uint32_t node)
{
    struct cluster *cluster = ctx;
    struct buf notice = {0};
    msg_pack_peer_down(&notice, &(struct msg_peer_down){.node = node, .boot = UINT64_MAX});
    for (uint32_t i = 0; i < cluster->bucket_count; i++) {
        struct buf *out = router_local_outbox(cluster->config.router, i);
        if (out != NULL)
            msg_pack_relay(out, &(struct msg_relay){.kind = RELAY_NOTICE,
                                                    .node = node,
                                                    .bytes = buf_span(&notice)});
    }
    buf_release(&notice);
}

static void on_gossip(void *ctx, uint32_t node)
{
    struct cluster *cluster = ctx;
    struct peer_info info;
    if (!peers_get_node(cluster->peers, node, &info))
        return;
    for (unsigned i = 0; i < info.bucket_count; i++) {
        const struct rec_gossip_bucket *heard = &info.buckets[i];
        if (heard->bucket < cluster->bucket_count && heard->leader <= cluster->node_count)
            router_hint(cluster->config.router, (uint32_t)heard->bucket, heard->leader,
                        heard->term);
    }
}

/* --- The local processes --- */

void cluster_on_local(struct cluster *cluster, uint32_t bucket, bool up)
{
    struct local_bucket *local = &cluster->locals[bucket];
    local->linked = up;
    local->known = false;
    cluster->gossip_changed = cluster->gossip_now = true;
    /* What it was asked by others is lost with it. */
    for (uint32_t node = 0; !up && cluster->peers != NULL && node < cluster->node_count; node++) {
        uint64_t boot = node != cluster->self ? peers_boot(cluster->peers, node) : 0;
        if (boot != 0)
            break_link(cluster, bucket, node, boot);
    }
}

void cluster_on_local_message(struct cluster *cluster, uint32_t bucket, const struct msg *msg)
{
    if (msg->tag == TAG_replica_state)
        on_replica_state(cluster, bucket, &msg->u.replica_state);
    else if (cluster->peers != NULL && msg->u.relay.node < cluster->node_count &&
             msg->u.relay.node != cluster->self)
        pass_to_peer(cluster, bucket, &msg->u.relay);
    else
        log_warn(cluster->config.log, "relay.refused", "bucket=%u node=%lu", bucket,
                 msg->u.relay.node);
}

static void pass_to_peer(struct cluster *cluster, uint32_t bucket, const struct msg_relay *m)
{
    uint32_t node = (uint32_t)m->node;
    bool sent = false;
    if (m->kind == RELAY_PEER || m->kind == RELAY_TICK) {
        sent = peers_send(cluster->peers, node, bucket, (enum relay_kind)m->kind, 0, m->bytes);
        if (m->kind == RELAY_TICK)
            be_patient(cluster);
    } else if (m->kind == RELAY_REPLY && !is_broken(cluster, bucket, node, m->boot)) {
        sent = peers_send(cluster->peers, node, bucket, RELAY_REPLY, m->boot, m->bytes);
        if (!sent && peers_boot(cluster->peers, node) == m->boot)
            break_link(cluster, bucket, node, m->boot);
    }
    cluster->stats.relays_out += sent;
    cluster->stats.relays_dropped += !sent;
}

static void on_replica_state(struct cluster *cluster, uint32_t bucket,
                             const struct msg_replica_state *m)
{
    struct local_bucket *local = &cluster->locals[bucket];
    const struct msg_replica_state *last = &local->last;
    cluster->gossip_changed = true;
    cluster->gossip_now |= !local->known || m->role != last->role || m->term != last->term ||
                           m->leader != last->leader;
    local->known = true;
    local->last = *m;
    if (m->leader <= cluster->node_count)
        router_hint(cluster->config.router, bucket, m->leader, m->term);
}

bool cluster_send(struct cluster *cluster, uint32_t node, uint32_t bucket, struct span bytes)
{
    return peers_send(cluster->peers, node, bucket, RELAY_REQUEST, 0, bytes);
}

/* --- Links that other nodes have to local processes --- */

static bool is_broken(const struct cluster *cluster, uint32_t bucket, uint32_t node, uint64_t boot)
{
    for (uint32_t i = 0; i < cluster->broken_count; i++) {
        const struct broken_link *b = &cluster->broken[i];
        if (b->bucket == bucket && b->node == node && b->boot == boot)
            return true;
    }
    return false;
}

/* The process forgets what that node asked; the node is told, as soon as that can leave. */
static void break_link(struct cluster *cluster, uint32_t bucket, uint32_t node, uint64_t boot)
{
    if (is_broken(cluster, bucket, node, boot))
        return;
    struct buf *out = router_local_outbox(cluster->config.router, bucket);
    if (out != NULL)
        msg_pack_relay(out,
                       &(struct msg_relay){.kind = RELAY_LINK_LOST, .node = node, .boot = boot});
    cluster->stats.links_broken++;
    if (cluster->broken_count == cluster->broken_cap) {
        cluster->broken_cap = cluster->broken_cap == 0 ? 16 : cluster->broken_cap * 2;
        cluster->broken = realloc(cluster->broken, cluster->broken_cap * sizeof *cluster->broken);
        ASSERT(cluster->broken != NULL);
    }
    cluster->broken[cluster->broken_count++] =
        (struct broken_link){.bucket = bucket, .node = node, .boot = boot};
}

static void tell_broken(struct cluster *cluster)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < cluster->broken_count; i++) {
        struct broken_link *b = &cluster->broken[i];
        if (peers_boot(cluster->peers, b->node) == b->boot &&
            !peers_send(cluster->peers, b->node, b->bucket, RELAY_LINK_LOST, b->boot,
                        (struct span){0}))
            cluster->broken[kept++] = *b;
    }
    cluster->broken_count = kept;
}

/* --- The supervisor --- */

void cluster_on_bucket_state(struct cluster *cluster, uint32_t bucket, enum bucket_state state)
{
    cluster->locals[bucket].state = state;
    cluster->gossip_changed = cluster->gossip_now = true;
}

void cluster_on_bucket_ended(struct cluster *cluster, uint32_t bucket, uint64_t boot)
{
    const struct config *c = cluster->config.config;
    uint32_t nodes[REPLICAS_MAX];
    if (cluster->peers == NULL)
        return;
    struct buf notice = {0};
    msg_pack_peer_down(&notice, &(struct msg_peer_down){.node = cluster->self, .boot = boot});
    unsigned count = placement_replicas(bucket, cluster->node_count, c->replication.factor, nodes);
    for (unsigned i = 0; i < count; i++) {
        if (nodes[i] != cluster->self)
            (void)peers_send(cluster->peers, nodes[i], bucket, RELAY_NOTICE, 0, buf_span(&notice));
    }
    buf_release(&notice);
}

/* --- Turns --- */

void cluster_tick(struct cluster *cluster, uint64_t commands)
{
    uint64_t now = uv_now(cluster->config.loop);
    if (cluster->peers == NULL || now < cluster->tick_at_ms)
        return;
    cluster->tick_at_ms = now + TICK_MS;
    if (now >= cluster->load_at_ms) {
        cluster->load_at_ms = now + 1000;
        cluster->load = commands - cluster->commands;
        cluster->commands = commands;
        cluster->gossip_changed = true;
    }
    if (cluster->gossip_changed)
        tell_gossip(cluster);
    peers_tick(cluster->peers);
}

void cluster_flush(struct cluster *cluster)
{
    if (cluster->peers == NULL)
        return;
    if (cluster->gossip_now)
        tell_gossip(cluster);
    if (cluster->broken_count > 0)
        tell_broken(cluster);
    peers_flush(cluster->peers);
}

void cluster_stop(struct cluster *cluster)
{
    cluster->stopping = true;
    cluster->gossip_now = true;
    if (cluster->peers != NULL)
        peers_leave(cluster->peers);
}

bool cluster_flushed(const struct cluster *cluster)
{
    return cluster->peers == NULL || (!cluster->gossip_now && peers_flushed(cluster->peers));
}

static void tell_gossip(struct cluster *cluster)
{
    buf_clear(&cluster->gossip, 64u << 10);
    for (uint32_t i = 0; i < cluster->bucket_count; i++) {
        struct rec_gossip_bucket bucket = describe(cluster, i);
        if (cluster->locals[i].placed)
            rec_pack_gossip_bucket(&cluster->gossip, &bucket);
    }
    peers_set_gossip(cluster->peers, health_of(cluster), cluster->load, buf_span(&cluster->gossip),
                     cluster->gossip_now);
    cluster->gossip_changed = cluster->gossip_now = false;
}

/* Of a process that isn't there nothing is said but that. */
static struct rec_gossip_bucket describe(const struct cluster *cluster, uint32_t bucket)
{
    const struct local_bucket *local = &cluster->locals[bucket];
    struct rec_gossip_bucket out = {.bucket = bucket, .state = local->state};
    if (local->state == BUCKET_UP && !local->linked)
        out.state = BUCKET_STARTING;
    if (cluster->peers == NULL && local->linked) {
        out.role = VIEW_LEADER;
        out.leader = cluster->self + 1;
        out.ready = true;
    } else if (local->linked && local->known) {
        out.role = local->last.role;
        out.term = local->last.term;
        out.leader = local->last.leader;
        out.commit_idx = local->last.commit_idx;
        out.last_idx = local->last.last_idx;
        out.ready = local->last.ready;
        out.damaged = local->last.damaged;
    }
    return out;
}

static enum node_health health_of(const struct cluster *cluster)
{
    if (cluster->stopping)
        return NODE_STOPPING;
    for (uint32_t i = 0; i < cluster->bucket_count; i++) {
        const struct local_bucket *local = &cluster->locals[i];
        if (local->placed && (!local->linked || (local->known && local->last.damaged)))
            return NODE_DEGRADED;
    }
    return NODE_HEALTHY;
}

/* --- What is known --- */

void cluster_get_view(struct cluster *cluster, struct cluster_view *ret_view)
{
    const struct config *c = cluster->config.config;
    view_init(ret_view, cluster->node_count, cluster->bucket_count, c->replication.factor);
    for (uint32_t i = 0; i < cluster->node_count; i++) {
        struct peer_info info;
        if (i == cluster->self)
            view_self(cluster, &ret_view->nodes[i]);
        if (i == cluster->self || !peers_get_node(cluster->peers, i, &info))
            continue;
        view_peer(cluster, &info, &ret_view->nodes[i]);
        for (unsigned k = 0; k < info.bucket_count; k++)
            view_hear(ret_view, i, &info.buckets[k]);
    }
    for (uint32_t i = 0; i < cluster->bucket_count; i++) {
        struct rec_gossip_bucket bucket = describe(cluster, i);
        if (cluster->locals[i].placed)
            view_hear(ret_view, cluster->self, &bucket);
    }
    view_finish(ret_view);
}

static void view_self(const struct cluster *cluster, struct rec_report_node *node)
{
    const struct config *c = cluster->config.config;
    node->self = node->alive = true;
    node->name = span_str(c->network.client_address);
    if (cluster->peers != NULL) {
        struct peers_totals totals;
        peers_get_totals(cluster->peers, &totals);
        node->bytes_in = totals.stats.bytes_in;
        node->bytes_out = totals.stats.bytes_out;
        node->items_dropped = totals.stats.items_dropped;
        node->name = buf_span(&cluster->self_name);
        node->address = span_str(c->network.cluster_address);
    }
    node->version = span_str(SIERRADB_VERSION);
    node->boot = cluster->config.boot;
    node->age_ms = cluster->config.age_ms;
    node->since_ms = uv_now(cluster->config.loop) - cluster->started_ms;
    node->health = health_of(cluster);
    node->load = cluster->load;
}

static void view_peer(const struct cluster *cluster, const struct peer_info *info,
                      struct rec_report_node *node)
{
    uint64_t now = uv_now(cluster->config.loop);
    node->name = info->name;
    node->address = info->address;
    node->found = info->found;
    node->version = info->version;
    node->alive = info->alive;
    node->boot = info->boot;
    node->age_ms = info->age_ms;
    node->since_ms = now - max_u64(info->changed_ms, cluster->started_ms);
    node->silent_ms = info->heard_ms == 0 ? node->since_ms : now - info->heard_ms;
    node->rtt_us = info->rtt_us;
    node->health = info->health;
    node->load = info->load;
    node->bytes_in = info->stats.bytes_in;
    node->bytes_out = info->stats.bytes_out;
    node->items_dropped = info->stats.items_dropped;
}

void cluster_get_report(struct cluster *cluster, struct msg_report_reply *ret_report)
{
    struct cluster_view view;
    cluster_get_view(cluster, &view);
    buf_clear(&cluster->report_nodes, 0);
    buf_clear(&cluster->report_replicas, 0);
    buf_clear(&cluster->report_problems, 0);
    for (uint32_t i = 0; i < view.node_count; i++)
        rec_pack_report_node(&cluster->report_nodes, &view.nodes[i]);
    for (uint32_t i = 0; i < view.replica_count; i++)
        rec_pack_report_replica(&cluster->report_replicas, &view.replicas[i]);
    buf_append_span(&cluster->report_problems, buf_span(&view.problems));
    *ret_report = (struct msg_report_reply){.nodes = buf_span(&cluster->report_nodes),
                                            .replicas = buf_span(&cluster->report_replicas),
                                            .problems = buf_span(&cluster->report_problems),
                                            .state = view.state};
    view_release(&view);
}

void cluster_print_stats(struct cluster *cluster, struct buf *out)
{
    if (cluster->peers == NULL)
        return;
    const struct cluster_stats *stats = &cluster->stats;
    buf_printf(out, "relays_in %lu\nrelays_out %lu\nrelays_dropped %lu\nremote_links_broken %lu\n",
               stats->relays_in, stats->relays_out, stats->relays_dropped, stats->links_broken);
    peers_print_stats(cluster->peers, out);
    struct cluster_view view;
    cluster_get_view(cluster, &view);
    for (uint32_t i = 0; i < view.replica_count; i++) {
        const struct rec_report_replica *r = &view.replicas[i];
        if (r->node == cluster->self && view.buckets[r->bucket].leader != VIEW_NONE)
            buf_printf(out, "bucket_%lu_lag %lu\n", r->bucket, r->lag);
    }
    view_release(&view);
}
