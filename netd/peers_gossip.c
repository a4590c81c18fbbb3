/* What nodes tell one another of themselves, and what is known of each. */
#include <stdlib.h>

#include "common/assert.h"
#include "common/placement.h"
#include "netd/peers_internal.h"

/* A round trip above it is a clock that was stopped. */
#define RTT_US_MAX (60u * 1000000u)
/* A new measurement counts for an eighth. */
#define RTT_SHARE 8u

_Static_assert(PEER_REFUSAL_COUNT <= sizeof((struct peers_totals *)0)->refused / sizeof(uint64_t),
               "every reason has its counter");

static uint64_t now_us(void)
{
    return uv_hrtime() / 1000;
}

/* In a large cluster most nodes have no bucket in common with this one. They hear at once of what
 * changes; for being alive half the heartbeats do, as long as three fit the timeout. */
void peers_set_heartbeats(struct peers *peers)
{
    const struct config *c = peers->config;
    uint64_t interval = c->heartbeat.interval_ms;
    uint64_t others = max_u64(min_u64(2 * interval, c->heartbeat.timeout_ms / 3), interval);
    for (uint32_t i = 0; i < peers->node_count; i++)
        peers->nodes[i].heartbeat_ms = others;
    for (uint32_t bucket = 0; bucket < c->bucket.count; bucket++) {
        uint32_t nodes[REPLICAS_MAX];
        unsigned count = placement_replicas(bucket, c->node.count, c->replication.factor, nodes);
        bool shared = false;
        for (unsigned i = 0; i < count; i++)
            shared |= nodes[i] == peers->own.node;
        for (unsigned i = 0; shared && i < count; i++)
            peers->nodes[nodes[i]].heartbeat_ms = interval;
    }
}

void peers_set_gossip(struct peers *peers, enum node_health health, uint64_t load,
                      struct span buckets, bool now)
{
    ASSERT(buckets.len < PEER_BODY_BYTES_MAX / 2);
    peers->health = health;
    peers->load = load;
    peers->buckets.len = 0;
    buf_append_span(&peers->buckets, buckets);
    for (uint32_t node = 0; now && node < peers->node_count; node++)
        peers->nodes[node].gossip_due = peers->nodes[node].alive;
}

struct span peers_make_gossip(struct peers *peers, const struct peer_node *to)
{
    uint64_t now = now_us();
    peers->body.len = 0;
    msg_pack_gossip(&peers->body, &(struct msg_gossip){
                                      .age = peers->own.age_ms,
                                      .stamp_us = now,
                                      .echo_stamp_us = to->stamp_us,
                                      .echo_held_us = to->stamp_us != 0 ? now - to->stamp_at_us : 0,
                                      .health = peers->health,
                                      .load = peers->load,
                                      .buckets = buf_span(&peers->buckets),
                                  });
    return buf_span(&peers->body);
}

static void measure_rtt(struct peer_node *node, const struct msg_gossip *gossip)
{
    uint64_t now = now_us();
    node->stamp_us = gossip->stamp_us;
    node->stamp_at_us = now;
    uint64_t since = now - gossip->echo_stamp_us;
    if (gossip->echo_stamp_us == 0 || gossip->echo_stamp_us > now || since < gossip->echo_held_us)
        return;
    uint64_t rtt = since - gossip->echo_held_us;
    if (rtt > RTT_US_MAX)
        return;
    rtt = max_u64(rtt, 1);
    node->rtt_us = node->rtt_us == 0
                       ? rtt
                       : (node->rtt_us * (RTT_SHARE - 1) + rtt + RTT_SHARE / 2) / RTT_SHARE;
}

enum err peers_take_gossip(struct peer_node *node, const struct msg_gossip *gossip)
{
    uint32_t count = 0, buckets = node->peers->config->bucket.count;
    struct span rest = gossip->buckets;
    struct rec_gossip_bucket record;
    enum err err;
    while ((err = rec_next_gossip_bucket(&rest, &record)) == ERR_OK) {
        if (record.bucket >= buckets || count == buckets)
            return ERR_CORRUPT;
        if (count == 0 && node->buckets == NULL)
            node->buckets = calloc(buckets, sizeof *node->buckets);
        ASSERT(node->buckets != NULL);
        node->buckets[count++] = record;
    }
    node->bucket_count = count;
    if (err != ERR_NOTFOUND)
        return ERR_CORRUPT;
    node->age_ms = gossip->age;
    node->health = gossip->health;
    node->load = gossip->load;
    measure_rtt(node, gossip);
    return ERR_OK;
}

/* --- What is known --- */

bool peers_get_node(const struct peers *peers, uint32_t node, struct peer_info *ret_info)
{
    if (node >= peers->node_count || node == peers->own.node)
        return false;
    const struct peer_node *at = &peers->nodes[node];
    const char *address = peer_wire_address(peers->wire, node);
    const char *found = peer_wire_by_hint(peers->wire, node) ? "mdns" : "peers";
    *ret_info = (struct peer_info){
        .name = buf_span(&at->name),
        .address = span_str(address),
        .found = span_str(address[0] != '\0' ? found : ""),
        .version = span_of(at->version, at->version_len),
        .alive = at->alive,
        .boot = at->last_boot,
        .age_ms = at->age_ms,
        .changed_ms = at->changed_ms,
        .heard_ms = at->heard_ms,
        .rtt_us = at->rtt_us,
        .queued_bytes = peer_outbox_bytes(&at->outbox),
        .stats = at->stats,
        .health = at->health,
        .load = at->load,
        .buckets = at->buckets,
        .bucket_count = at->bucket_count,
    };
    return true;
}

void peers_get_totals(const struct peers *peers, struct peers_totals *ret_totals)
{
    struct peer_wire_stats wire;
    peer_wire_get_stats(peers->wire, &wire);
    struct peers_totals totals = {.strangers = wire.strangers, .connections = wire.connections};
    memcpy(totals.refused, peers->refused, sizeof peers->refused);
    for (uint32_t node = 0; node < peers->node_count; node++) {
        const struct peer_stats *from = &peers->nodes[node].stats;
        totals.alive += peers->nodes[node].alive;
        totals.stats.sessions += from->sessions;
        totals.stats.frames_in += from->frames_in;
        totals.stats.frames_out += from->frames_out;
        totals.stats.bytes_in += from->bytes_in;
        totals.stats.bytes_out += from->bytes_out;
        totals.stats.items_in += from->items_in;
        totals.stats.items_out += from->items_out;
        totals.stats.items_dropped += from->items_dropped;
        totals.stats.refused += from->refused;
    }
    *ret_totals = totals;
}

void peers_print_stats(const struct peers *peers, struct buf *out)
{
    struct peers_totals totals;
    peers_get_totals(peers, &totals);
    const struct peer_stats *stats = &totals.stats;
    buf_printf(out,
               "peers_alive %lu\npeer_sessions %lu\npeer_frames_in %lu\npeer_frames_out %lu\n"
               "peer_bytes_in %lu\npeer_bytes_out %lu\npeer_items_in %lu\npeer_items_out %lu\n"
               "peer_items_dropped %lu\npeer_connections %lu\npeer_strangers %lu\n",
               totals.alive, stats->sessions, stats->frames_in, stats->frames_out, stats->bytes_in,
               stats->bytes_out, stats->items_in, stats->items_out, stats->items_dropped,
               totals.connections, totals.strangers);
    for (unsigned i = PEER_OK + 1; i < PEER_REFUSAL_COUNT; i++)
        buf_printf(out, "peer_refused_%s %lu\n", peer_refusal_name((enum peer_refusal)i),
                   totals.refused[i]);
    if (peers->mdns != NULL)
        mdns_print_stats(peers->mdns, out);
}
