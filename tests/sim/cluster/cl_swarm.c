/* What a seed tries: every seed leaves out some faults and some kinds of work, so that none hides
 * another. */
#include "tests/sim/cluster/cl_internal.h"

const char *const cl_fault_names[CL_FAULT_COUNT] = {
    [CL_DROP] = "drop",
    [CL_DELAY] = "delay",
    [CL_DUPLICATE] = "duplicate",
    [CL_REORDER] = "reorder",
    [CL_CUT] = "cut",
    [CL_RESET] = "reset",
    [CL_STALE] = "stale",
    [CL_NOTICE] = "notice",
    [CL_LINK] = "link",
    [CL_NETD] = "netd",
    [CL_KILL] = "kill",
    [CL_POWER] = "power",
    [CL_POWER_ALL] = "power-all",
    [CL_PAUSE] = "pause",
    [CL_STOP] = "stop",
    [CL_TRANSFER] = "transfer",
    [CL_READ_ERROR] = "read-error",
    [CL_WRITE_ERROR] = "write-error",
    [CL_FULL] = "full",
    [CL_SLOW] = "slow",
    [CL_INDEX] = "index",
    [CL_ROT] = "rot",
    [CL_WIPE] = "wipe",
    [CL_CLOCK] = "clock",
    [CL_JUMP] = "jump",
};

/* Chance in a million that a seed has the class at all. */
static const uint64_t fault_chances[CL_FAULT_COUNT] = {
    [CL_DROP] = 500000,      [CL_DELAY] = 400000,      [CL_DUPLICATE] = 350000,
    [CL_REORDER] = 350000,   [CL_CUT] = 500000,        [CL_RESET] = 300000,
    [CL_STALE] = 500000,     [CL_NOTICE] = 500000,     [CL_LINK] = 400000,
    [CL_NETD] = 250000,      [CL_KILL] = 600000,       [CL_POWER] = 400000,
    [CL_POWER_ALL] = 250000, [CL_PAUSE] = 300000,      [CL_STOP] = 250000,
    [CL_TRANSFER] = 250000,  [CL_READ_ERROR] = 120000, [CL_WRITE_ERROR] = 200000,
    [CL_FULL] = 150000,      [CL_SLOW] = 250000,       [CL_INDEX] = 200000,
    [CL_ROT] = 250000,       [CL_WIPE] = 200000,       [CL_CLOCK] = 500000,
    [CL_JUMP] = 250000,
};

static uint64_t pick(struct prng *prng, const uint64_t *values, unsigned count)
{
    return values[prng_below(prng, count)];
}

#define PICK(prng, ...)                                                                            \
    pick((prng), (const uint64_t[]){__VA_ARGS__},                                                  \
         sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

static void draw_config(struct cl_swarm *swarm, struct prng *prng);
static void draw_network(struct cl_swarm *swarm, struct prng *prng);
static void draw_processes(struct cl_swarm *swarm, struct prng *prng);
static void draw_disks(struct cl_swarm *swarm, struct prng *prng);
static void draw_classes(struct cl_swarm *swarm, struct prng *prng);

void cl_swarm_draw(struct cl_swarm *swarm, const struct cl_options *options)
{
    struct prng seed = {.state = options->seed * 0x2545f4914f6cdd1dull + 7};
    /* One generator for each part: what is added to one leaves the others as they are. */
    struct prng parts[8];
    for (unsigned i = 0; i < 8; i++)
        parts[i] = prng_fork(&seed);
    struct prng *prng = &parts[0];
    *swarm = (struct cl_swarm){
        .clients = (uint32_t)prng_range(prng, 1, 5),
        .ops = PICK(prng, 50, 200, 500, 500, 1500),
        .storms = prng_range(prng, 1, 6),
        .storm_ns_max = PICK(prng, 1, 3, 10, 20) * SECOND,
        .calm_ns_max = PICK(prng, 1, 3, 10) * SECOND,
        .turn_ns_max = PICK(prng, 0, 0, 50, 1000) * US,
    };
    /* Some clusters live quietly for long between their storms. */
    if (prng_chance(prng, 100000))
        swarm->calm_ns_max = PICK(prng, 200, 600, 1500) * SECOND;
    draw_config(swarm, &parts[1]);
    draw_network(swarm, &parts[2]);
    draw_processes(swarm, &parts[3]);
    draw_disks(swarm, &parts[4]);
    draw_classes(swarm, &parts[5]);
    if (options->ops_max < swarm->ops)
        swarm->ops = options->ops_max;
    if (options->storms_max < swarm->storms)
        swarm->storms = options->storms_max;
    if (options->crashes_max < swarm->crashes_max)
        swarm->crashes_max = options->crashes_max;
    for (unsigned i = 0; i < CL_FAULT_COUNT; i++)
        swarm->faults[i] = swarm->faults[i] && !options->without[i];
    cl_workload_draw(&swarm->workload, swarm, &parts[6]);
#ifdef PLANTED_BUGS
    swarm->config.planted = options->plant;
#endif
}

static void draw_config(struct cl_swarm *swarm, struct prng *prng)
{
    uint32_t replicas = (uint32_t)PICK(prng, 1, 2, 3, 3, 3, 3, 5, 5);
    bool more = prng_chance(prng, 200000);
    swarm->nodes = more ? (uint32_t)prng_range(prng, replicas, CL_NODES_MAX) : replicas;
    uint32_t partitions = (uint32_t)PICK(prng, 1, 2, 8);
    uint32_t buckets = partitions > 1 ? (uint32_t)PICK(prng, 1, 2) : 1;
    uint64_t segment_bytes = PICK(prng, 4, 8, 16, 32, 128) << 10;
    uint64_t tick_ns = PICK(prng, 20, 50, 100, 100, 200) * MS;
    struct bucket_config *config = &swarm->config;
    *config = (struct bucket_config){
        .bucket = (uint32_t)prng_below(prng, buckets),
        .bucket_count = buckets,
        .partition_count = partitions,
        .segment_bytes = segment_bytes,
        .compression = prng_chance(prng, 500000),
        .event_bytes_max = segment_bytes < 16 << 10 ? 1500 : segment_bytes / 8,
        .transaction_bytes_max = segment_bytes < 16 << 10 ? 2000 : segment_bytes / 6,
        .cache_bytes = PICK(prng, 0, 64 << 10, 1 << 20),
        .index_cache_bytes = PICK(prng, 0, 16 << 10, 1 << 20),
        .replica_count = replicas,
        .tick_ns = tick_ns,
        .election_timeout_ns = tick_ns * PICK(prng, 5, 10, 10, 15),
        .stale_after_ns = PICK(prng, 2, 10) * SECOND,
        .uncommitted_bytes_max = PICK(prng, 16 << 10, 128 << 10, 1 << 20),
        .balance_leaders = prng_chance(prng, 300000),
    };
    /* Many small segments whose index files are mapped again at each look cost minutes. */
    if (segment_bytes < 16 << 10 && swarm->ops > 200)
        config->index_cache_bytes = max_u64(config->index_cache_bytes, 1 << 20);
    prng_fill(prng, config->cluster_id.bytes, sizeof config->cluster_id.bytes);
    uint32_t order[CL_NODES_MAX];
    for (uint32_t i = 0; i < swarm->nodes; i++)
        order[i] = i;
    for (uint32_t i = 0; i < replicas; i++) {
        uint32_t other = (uint32_t)prng_range(prng, i, swarm->nodes - 1), node = order[other];
        order[other] = order[i];
        config->replicas[i] = order[i] = node;
    }
}

static void draw_network(struct cl_swarm *swarm, struct prng *prng)
{
    static const uint64_t delays_us[][2] = {{20, 200}, {50, 500}, {500, 3000}, {5000, 20000}};
    const uint64_t *delay = delays_us[prng_below(prng, 4)];
    swarm->delay_ns_min = delay[0] * US;
    swarm->delay_ns_max = delay[1] * US;
    swarm->long_delay_ns_max = PICK(prng, 100, 1000, 4000) * MS;
    swarm->drop = PICK(prng, 5000, 50000, 300000);
    swarm->long_delay = PICK(prng, 2000, 20000, 200000);
    swarm->duplicate = PICK(prng, 10000, 100000, 400000);
    swarm->reorder = PICK(prng, 20000, 200000, 600000);
    swarm->split = PICK(prng, 0, 500000, 1000000);
    swarm->cut_mean_ns = PICK(prng, 300, 1000, 4000) * MS;
    swarm->reset_mean_ns = PICK(prng, 100, 1000) * MS;
    swarm->link_loss_mean_ns = PICK(prng, 50, 500, 2000) * MS;
    swarm->hold = PICK(prng, 0, 300000, 1000000);
    swarm->notice = PICK(prng, 500000, 1000000);
    swarm->notice_ns_max = PICK(prng, 100, 1000, 10000) * MS;
}

static void draw_processes(struct cl_swarm *swarm, struct prng *prng)
{
    swarm->netd_mean_ns = PICK(prng, 500, 3000) * MS;
    swarm->netd_ns_max = PICK(prng, 20, 500, 3000) * MS;
    swarm->kill_mean_ns = PICK(prng, 100, 500, 2000) * MS;
    swarm->crash_ops_mean = PICK(prng, 15, 60, 200);
    swarm->recovery_crash = PICK(prng, 0, 100000, 400000);
    swarm->restart_ns_max = PICK(prng, 50, 1000, 5000, 20000) * MS;
    swarm->power_mean_ns = PICK(prng, 200, 1000, 3000) * MS;
    swarm->power_all_mean_ns = PICK(prng, 1000, 5000) * MS;
    swarm->pause_mean_ns = PICK(prng, 300, 2000) * MS;
    swarm->pause_ns_max = PICK(prng, 100, 2000, 5000) * MS;
    swarm->stop_mean_ns = PICK(prng, 500, 3000) * MS;
    swarm->transfer_mean_ns = PICK(prng, 300, 2000) * MS;
    swarm->crashes_max = PICK(prng, 3, 10, 40);
    swarm->drift_ppm_max = PICK(prng, 100, 5000, 100000);
    swarm->jump_mean_ns = PICK(prng, 300, 3000) * MS;
    swarm->jump_ns_max = PICK(prng, 100, 2000, 60000) * MS;
}

static void draw_disks(struct cl_swarm *swarm, struct prng *prng)
{
    swarm->disk = (struct node_faults){
        .threads = (unsigned)PICK(prng, 1, 2, 4),
        .latency_ns_min = 5 * US,
        .latency_ns_max = 100 * US,
        .sync_ns_min = 50 * US,
        .sync_ns_max = PICK(prng, 300, 1000, 10000) * US,
        .read_error = 2000,
        .write_error = 1000,
        .sync_error = PICK(prng, 1000, 10000),
        .other_error = PICK(prng, 0, 5000),
    };
    swarm->disk_slow = swarm->disk;
    swarm->disk_slow.latency_ns_max = PICK(prng, 1000, 5000) * US;
    swarm->disk_slow.sync_ns_max = PICK(prng, 30, 200, 800) * MS;
    swarm->full_mean_ns = PICK(prng, 100, 500) * MS;
    swarm->rot_mean_ns = PICK(prng, 300, 1500) * MS;
    swarm->wipe_mean_ns = PICK(prng, 1000, 4000) * MS;
}

static void draw_classes(struct cl_swarm *swarm, struct prng *prng)
{
    bool none = prng_chance(prng, 30000);
    for (unsigned i = 0; i < CL_FAULT_COUNT; i++)
        swarm->faults[i] = prng_chance(prng, fault_chances[i]) && !none;
    /* A disk that is lost or rots needs a minority to be in. */
    if (swarm->config.replica_count < 3)
        swarm->faults[CL_ROT] = swarm->faults[CL_WIPE] = false;
}

void cl_swarm_print(const struct cl_swarm *swarm, struct buf *out)
{
    const struct bucket_config *config = &swarm->config;
    buf_printf(out, "  nodes=%u replicas=", swarm->nodes);
    for (uint32_t i = 0; i < config->replica_count; i++)
        buf_printf(out, "%s%u", i > 0 ? "," : "", config->replicas[i]);
    buf_printf(out, " clients=%u ops=%lu storms=%lu storm_ms<=%lu calm_ms<=%lu turn_us<=%lu\n",
               swarm->clients, swarm->ops, swarm->storms, swarm->storm_ns_max / MS,
               swarm->calm_ns_max / MS, swarm->turn_ns_max / US);
    buf_printf(out,
               "  partitions=%u buckets=%u bucket=%u segment=%lu compression=%d cache=%lu "
               "index_cache=%lu tick_ms=%lu election_ms=%lu stale_ms=%lu uncommitted=%lu "
               "balance=%d\n",
               config->partition_count, config->bucket_count, config->bucket, config->segment_bytes,
               config->compression, config->cache_bytes, config->index_cache_bytes,
               config->tick_ns / MS, config->election_timeout_ns / MS, config->stale_after_ns / MS,
               config->uncommitted_bytes_max, config->balance_leaders);
    buf_printf(out,
               "  delay_us=%lu..%lu long_delay_ms<=%lu drop=%lu long_delay=%lu duplicate=%lu "
               "reorder=%lu split=%lu cut_ms=%lu hold=%lu\n",
               swarm->delay_ns_min / US, swarm->delay_ns_max / US, swarm->long_delay_ns_max / MS,
               swarm->drop, swarm->long_delay, swarm->duplicate, swarm->reorder, swarm->split,
               swarm->cut_mean_ns / MS, swarm->hold);
    buf_printf(out,
               "  kill_ms=%lu crash_ops=%lu recovery_crash=%lu restart_ms<=%lu power_ms=%lu "
               "power_all_ms=%lu pause_ms=%lu crashes<=%lu drift_ppm<=%lu jump_ms<=%lu "
               "sync_us<=%lu threads=%u\n",
               swarm->kill_mean_ns / MS, swarm->crash_ops_mean, swarm->recovery_crash,
               swarm->restart_ns_max / MS, swarm->power_mean_ns / MS, swarm->power_all_mean_ns / MS,
               swarm->pause_mean_ns / MS, swarm->crashes_max, swarm->drift_ppm_max,
               swarm->jump_ns_max / MS, swarm->disk.sync_ns_max / US, swarm->disk.threads);
    cl_workload_print(&swarm->workload, out);
    buf_printf(out, "  faults:");
    for (unsigned i = 0; i < CL_FAULT_COUNT; i++) {
        if (swarm->faults[i])
            buf_printf(out, " %s", cl_fault_names[i]);
    }
    buf_printf(out, "\n");
}
