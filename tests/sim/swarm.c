/* What a seed tries: every seed leaves out some faults and some kinds of work, so that none
 * hides another. */
#include <stdio.h>

#include "tests/sim/world.h"

static uint64_t pick(struct prng *prng, const uint64_t *values, unsigned count)
{
    return values[prng_below(prng, count)];
}

#define PICK(prng, ...)                                                                            \
    pick((prng), (const uint64_t[]){__VA_ARGS__},                                                  \
         sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

static void draw_config(struct swarm *swarm, struct prng *prng);
static void draw_faults(struct swarm *swarm, struct prng *prng);

void swarm_draw(struct swarm *swarm, struct prng *prng)
{
    *swarm = (struct swarm){
        .clients = (uint32_t)prng_range(prng, 1, CLIENTS_MAX),
        .streams = (uint32_t)prng_range(prng, 2, 12),
        .partitions_used = (uint32_t)prng_range(prng, 1, 8),
        .tx_events_max = (uint32_t)PICK(prng, 1, 3, 8, 40),
        .window = (uint32_t)PICK(prng, 1, 4, 16, 60),
        .batch = (uint32_t)PICK(prng, 1, 4, 16),
        .tx_budget = (uint32_t)PICK(prng, 100, 300, 700, 1500),
        .think_ns = PICK(prng, 50, 300, 2000, 10000) * US,
        .idle_chance = PICK(prng, 0, 3000, 20000),
        .append_weight = (uint32_t)PICK(prng, 10, 30, 60),
        .get_weight = (uint32_t)PICK(prng, 0, 5, 10),
        .scan_weight = (uint32_t)PICK(prng, 0, 5, 20),
        .number_weight = (uint32_t)PICK(prng, 0, 5, 10),
        .follow_weight = (uint32_t)PICK(prng, 0, 1, 5),
        .multi_chance = PICK(prng, 300000, 300000, 900000),
        .big_chance = PICK(prng, 100000, 100000, 700000),
        .exact_chance = PICK(prng, 0, 300000, 800000, 1000000),
        .wrong_chance = PICK(prng, 0, 50000, 300000),
        .given_chance = PICK(prng, 0, 200000, 1000000),
        .repeat_chance = PICK(prng, 0, 20000, 200000),
        .copy_chance = PICK(prng, 0, 20000, 100000),
        .invalid_chance = PICK(prng, 0, 0, 10000),
    };
    draw_config(swarm, prng);
    draw_faults(swarm, prng);
}

static void draw_config(struct swarm *swarm, struct prng *prng)
{
    uint32_t partitions = (uint32_t)PICK(prng, 1, 2, 8, 32);
    uint32_t buckets = (uint32_t)PICK(prng, 1, 2, 4);
    buckets = buckets > partitions ? partitions : buckets;
    uint64_t segment_bytes = PICK(prng, 4, 16, 32, 64, 128) << 10;
    swarm->config = (struct bucket_config){
        .bucket = (uint32_t)prng_below(prng, buckets),
        .bucket_count = buckets,
        .partition_count = partitions,
        .node = (uint32_t)prng_below(prng, 3),
        .segment_bytes = segment_bytes,
        .compression = prng_chance(prng, 500000),
        .event_bytes_max = segment_bytes < 16 << 10 ? 1500 : segment_bytes / 8,
        .transaction_bytes_max = segment_bytes < 16 << 10 ? 2000 : segment_bytes / 6,
        .cache_bytes = PICK(prng, 0, 64 << 10, 256 << 10, 4 << 20),
        .index_cache_bytes = PICK(prng, 0, 16 << 10, 128 << 10, 4 << 20),
    };
    prng_fill(prng, swarm->config.cluster_id.bytes, sizeof swarm->config.cluster_id.bytes);
    swarm->payload_max = (uint32_t)PICK(prng, 16, 400, swarm->config.event_bytes_max);
    if (segment_bytes < 16 << 10 && swarm->tx_events_max > 8)
        swarm->tx_events_max = 8;
    /* Small events where many go into one transaction, so that most of them fit. */
    if (swarm->tx_events_max > 8 && swarm->payload_max > 16)
        swarm->payload_max = segment_bytes < 64 << 10 ? 16 : 400;
}

static void draw_faults(struct swarm *swarm, struct prng *prng)
{
    swarm->crash_ops_mean = PICK(prng, 15, 60, 200, 600);
    swarm->crashes_max = (uint32_t)PICK(prng, 10, 25, 60);
    swarm->recovery_crash_chance = PICK(prng, 0, 100000, 400000);
    swarm->power_chance = PICK(prng, 0, 500000, 500000, 1000000);
    swarm->stop_chance = PICK(prng, 0, 100000, 300000);
    swarm->timed_crash_chance = PICK(prng, 0, 300000);
    swarm->link_loss_ns = PICK(prng, 0, 0, 20, 200) * MS;
    swarm->full = prng_chance(prng, 250000);
    swarm->index_damage = prng_chance(prng, 300000);
    swarm->rot = prng_chance(prng, 120000);
    bool slow = prng_chance(prng, 300000);
    swarm->faults = (struct node_faults){
        .threads = (unsigned)PICK(prng, 1, 2, 4),
        .latency_ns_min = 5 * US,
        .latency_ns_max = (slow ? 3000 : 100) * US,
        .sync_ns_min = 50 * US,
        .sync_ns_max = (slow ? 30000 : 1000) * US,
        .read_error = prng_chance(prng, 150000) ? 2000 : 0,
        .write_error = prng_chance(prng, 150000) ? 3000 : 0,
        .sync_error = prng_chance(prng, 250000) ? 10000 : 0,
        .other_error = prng_chance(prng, 100000) ? 5000 : 0,
    };
}

void swarm_print(const struct swarm *swarm, struct buf *out)
{
    const struct bucket_config *config = &swarm->config;
    buf_printf(out,
               "  clients=%u streams=%u window=%u batch=%u txs=%u tx_events_max=%u payload_max=%u "
               "think_us=%lu\n"
               "  partitions=%u buckets=%u segment=%lu compression=%d cache=%lu index_cache=%lu\n",
               swarm->clients, swarm->streams, swarm->window, swarm->batch, swarm->tx_budget,
               swarm->tx_events_max, swarm->payload_max, swarm->think_ns / US,
               config->partition_count, config->bucket_count, config->segment_bytes,
               config->compression, config->cache_bytes, config->index_cache_bytes);
    buf_printf(out,
               "  crash_ops=%lu crashes_max=%u recovery_crash=%lu power=%lu stop=%lu timed=%lu "
               "link_loss_ms=%lu\n"
               "  full=%d index_damage=%d rot=%d read_error=%lu write_error=%lu sync_error=%lu "
               "other_error=%lu threads=%u\n",
               swarm->crash_ops_mean, swarm->crashes_max, swarm->recovery_crash_chance,
               swarm->power_chance, swarm->stop_chance, swarm->timed_crash_chance,
               swarm->link_loss_ns / MS, swarm->full, swarm->index_damage, swarm->rot,
               swarm->faults.read_error, swarm->faults.write_error, swarm->faults.sync_error,
               swarm->faults.other_error, swarm->faults.threads);
}
