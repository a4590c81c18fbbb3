/* One seed from its first to its last event: starts, crashes, lost links, full disks, and the
 * end at which everything must have been answered. */
#include "tests/sim/world.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/assert.h"

#define VIRTUAL_TIME_MAX (600 * SECOND)
#define LIVENESS_BOUND   (60 * SECOND)
#define STEPS_MAX        3000000u
/* Where nothing else ends a run: reads from a warm cache touch no disk, so no crash comes. */
#define EVENTS_BEFORE_END 40000u

static void world_init(struct world *world);
static void world_release(struct world *world);
static void add_streams(struct world *world);
static void start_process(void *ctx, uint64_t arg);
static void judge_failed_start(struct world *world, enum err err);
static void plan_crash(struct world *world);
static void on_ready(void *ctx, uint64_t incarnation);
static void on_reconnect(void *ctx, uint64_t incarnation);
static void on_frame(void *ctx, uint32_t link, struct span frame);
static void on_end(void *ctx, enum node_end end);
static void on_timed_end(void *ctx, uint64_t arg);
static void on_link_loss(void *ctx, uint64_t incarnation);
static void on_capacity(void *ctx, uint64_t arg);
static void move_to_the_end(struct world *world);
static bool at_rest(const struct world *world);

const char *const planted_bug_names[PLANT_COUNT] = {
    "nothing",        "sync lies",         "power cut takes durable data",
    "answer changed", "tail message lost", "refusal changed",
};

bool world_run(const struct world_options *options, struct world_totals *ret_totals,
               char failure[static 600])
{
    struct world *world = calloc(1, sizeof *world);
    ASSERT(world != NULL);
    world->options = *options;
    world_init(world);
    uint32_t steps = 0;
    while (!world->over && !world->trace.failed) {
        if (!sched_step(&world->sched))
            trace_fail(&world->trace, "nothing is left to happen, and the run isn't over");
        if (++steps > STEPS_MAX)
            trace_fail(&world->trace, "no end after %u steps", steps);
        move_to_the_end(world);
    }
    struct world_totals *totals = &world->totals;
    totals->virtual_ns = world->sched.now_ns;
    totals->txs = world->model.tx_count;
    totals->acked_txs = world->model.acked_txs;
    totals->acked_events = world->model.acked_events;
    totals->refusals = world->model.refusals;
    totals->node = world->node.counters;
    totals->hash = world->trace.hash;
    totals->steps = world->trace.steps;
    *ret_totals = *totals;
    snprintf(failure, 600, "%s", world->trace.failure);
    bool ok = !world->trace.failed;
    world_release(world);
    return ok;
}

static void world_init(struct world *world)
{
    world->prng.state = world->options.seed * 0x2545f4914f6cdd1dull + 1;
    struct prng draws = prng_fork(&world->prng);
    swarm_draw(&world->swarm, &draws);
    world->trace = (struct trace){
        .hash = world->options.seed, .now_ns = &world->sched.now_ns, .print = world->options.trace};
    model_init(&world->model, &world->trace, world->swarm.config.partition_count);
    add_streams(world);
    struct node_callbacks callbacks = {.ctx = world, .on_frame = on_frame, .on_end = on_end};
    node_init(&world->node, &world->sched, &world->trace, &world->prng, &world->swarm.config,
              &callbacks);
    world->node.faults = world->swarm.faults;
    sim_disk_plant(world->node.disk, world->options.plant == PLANT_SYNC_LIES,
                   world->options.plant == PLANT_CUT_TAKES_DURABLE);
    for (uint32_t i = 0; i < world->swarm.clients; i++)
        client_init(&world->clients[i], world, i, &world->prng);
    if (world->swarm.full)
        sched_after(&world->sched, prng_range(&world->prng, 10, 500) * MS, on_capacity, world, 0);
    sched_after(&world->sched, 0, start_process, world, 0);
}

static void world_release(struct world *world)
{
    world->over = true;
    node_release(&world->node);
    for (uint32_t i = 0; i < world->swarm.clients; i++)
        client_release(&world->clients[i]);
    model_release(&world->model);
    sched_release(&world->sched);
    free(world->reads);
    free(world);
}

/* Few keys, few names: streams of one transaction, and one name under two keys. */
static void add_streams(struct world *world)
{
    const struct bucket_config *config = &world->swarm.config;
    uint32_t own = (config->partition_count - config->bucket + config->bucket_count - 1) /
                   config->bucket_count;
    uint32_t used = world->swarm.partitions_used < own ? world->swarm.partitions_used : own;
    struct uuid keys[6];
    uint32_t partitions[6];
    for (uint32_t i = 0; i < 6; i++) {
        partitions[i] =
            config->bucket + config->bucket_count * (uint32_t)prng_below(&world->prng, used);
        uint32_t hashes = 65536 / config->partition_count;
        uint32_t hash =
            partitions[i] + config->partition_count * (uint32_t)prng_below(&world->prng, hashes);
        prng_fill(&world->prng, keys[i].bytes, sizeof keys[i].bytes);
        keys[i].bytes[8] = (uint8_t)(0x80 | hash >> 10);
        keys[i].bytes[9] = (uint8_t)(hash >> 2);
        keys[i].bytes[10] = (uint8_t)((keys[i].bytes[10] & 0x3f) | (hash & 3) << 6);
    }
    for (uint32_t i = 0; i < world->swarm.streams; i++) {
        uint32_t key = (uint32_t)prng_below(&world->prng, 6);
        char name[65];
        uint64_t number = prng_below(&world->prng, 8);
        bool is_long = number == 7;
        snprintf(name, sizeof name, is_long ? "long-%059" PRIu64 : "s%" PRIu64, number);
        bool there = false;
        for (uint32_t k = 0; k < world->model.stream_count; k++)
            there = there || (strcmp(world->model.streams[k].name, name) == 0 &&
                              uuid_equal(&world->model.streams[k].key, &keys[key]));
        if (!there)
            model_add_stream(&world->model, partitions[key], &keys[key], name);
    }
}

/* --- life of the process --- */

static void start_process(void *ctx, uint64_t arg)
{
    struct world *world = ctx;
    struct node *node = &world->node;
    (void)arg;
    plan_crash(world);
    world->errors_at_start = node->counters.io_errors;
    uint64_t deaths = node->counters.recovery_deaths;
    enum err err = node_start(node);
    if (world->trace.failed)
        return;
    if (err != ERR_OK) {
        if (node->counters.recovery_deaths == deaths)
            judge_failed_start(world, err);
        return;
    }
    /* Recovery's own work counts as done only if it survives a power cut now. */
    checker_adopt(world);
    sched_after(&world->sched, node->recovery_ns, on_ready, world, node->incarnation);
}

static void judge_failed_start(struct world *world, enum err err)
{
    if (world->node.counters.io_errors != world->errors_at_start ||
        (err == ERR_FULL && world->swarm.full))
        return; /* it is tried again */
    if (world->model.rot)
        world->over = world->refused_start = true;
    else
        trace_fail(&world->trace, "the bucket refuses to start: %s", err_name(err));
}

static void plan_crash(struct world *world)
{
    const struct swarm *swarm = &world->swarm;
    struct node *node = &world->node;
    struct prng *prng = &world->prng;
    node->crash_in_ops = 0;
    if (world->finishing)
        return;
    bool in_recovery = prng_chance(prng, swarm->recovery_crash_chance);
    node->crash_in_ops = prng_range(prng, 1, in_recovery ? 25 : 2 * swarm->crash_ops_mean);
    node->crash_end = prng_chance(prng, swarm->power_chance) ? NODE_POWER_CUT : NODE_KILLED;
    static const uint64_t keeps[] = {0, 100000, 500000, 900000, 1000000};
    node->power_keep = keeps[prng_below(prng, 5)];
    if (prng_chance(prng, swarm->stop_chance)) {
        node->crash_in_ops *= 4;
        sched_after(&world->sched, prng_range(prng, 1, 200) * MS, on_timed_end, world,
                    (node->incarnation + 1) * 4 + NODE_STOPPED);
    } else if (prng_chance(prng, swarm->timed_crash_chance)) {
        sched_after(&world->sched, prng_range(prng, 100, 100000) * US, on_timed_end, world,
                    (node->incarnation + 1) * 4 + (uint64_t)node->crash_end);
    }
}

static void on_timed_end(void *ctx, uint64_t arg)
{
    struct world *world = ctx;
    if (world->node.incarnation != arg / 4 || world->node.bucket == NULL || world->finishing)
        return;
    if (arg % 4 == NODE_STOPPED)
        node_stop(&world->node);
    else
        node_die(&world->node, (enum node_end)(arg % 4));
}

static void on_ready(void *ctx, uint64_t incarnation)
{
    struct world *world = ctx;
    if (world->node.incarnation != incarnation || world->node.bucket == NULL)
        return;
    world->ready = true;
    for (uint32_t i = 0; i < world->swarm.clients; i++)
        client_connect(&world->clients[i]);
    if (world->swarm.link_loss_ns > 0)
        sched_after(&world->sched, prng_range(&world->prng, 1, 2 * world->swarm.link_loss_ns),
                    on_link_loss, world, incarnation);
}

static void on_end(void *ctx, enum node_end end)
{
    struct world *world = ctx;
    world->ready = false;
    for (uint32_t i = 0; i < world->swarm.clients; i++)
        client_disconnect(&world->clients[i]);
    if (world->trace.failed)
        return;
    damage_disk(world);
    if (world->finishing || prng_chance(&world->prng, 500000))
        checker_after_end(world);
    if (world->finishing && end == NODE_STOPPED) {
        checker_adopt(world);
        world->over = true;
        return;
    }
    sched_after(&world->sched, prng_range(&world->prng, 1, 30) * MS, start_process, world, 0);
}

/* --- links --- */

static void on_frame(void *ctx, uint32_t link, struct span frame)
{
    struct world *world = ctx;
    for (uint32_t i = 0; i < world->swarm.clients; i++) {
        if (world->clients[i].link != link)
            continue;
        checker_on_frame(world, &world->clients[i], frame);
        client_on_frame(&world->clients[i], frame);
    }
}

static void on_link_loss(void *ctx, uint64_t incarnation)
{
    struct world *world = ctx;
    if (world->node.incarnation != incarnation || !world->ready || world->finishing)
        return;
    struct client *client = &world->clients[prng_below(&world->prng, world->swarm.clients)];
    if (client->link != 0) {
        trace_line(&world->trace, "link %u is lost", client->link);
        uint32_t link = client->link;
        client_disconnect(client);
        node_lose_link(&world->node, link);
        sched_after(&world->sched, prng_range(&world->prng, 100, 5000) * US, on_reconnect, world,
                    incarnation);
    }
    sched_after(&world->sched, prng_range(&world->prng, 1, 2 * world->swarm.link_loss_ns),
                on_link_loss, world, incarnation);
}

static void on_reconnect(void *ctx, uint64_t incarnation)
{
    struct world *world = ctx;
    if (world->node.incarnation != incarnation || !world->ready)
        return;
    for (uint32_t i = 0; i < world->swarm.clients; i++) {
        if (world->clients[i].link == 0)
            client_connect(&world->clients[i]);
    }
}

/* --- room on the disk --- */

static void on_capacity(void *ctx, uint64_t arg)
{
    struct world *world = ctx;
    (void)arg;
    bool scarce = !world->finishing && prng_chance(&world->prng, 600000);
    uint64_t room =
        sim_disk_used(world->node.disk) + prng_below(&world->prng, 20) * DISK_BLOCK_BYTES;
    sim_disk_set_capacity(world->node.disk, scarce ? room : UINT64_MAX);
    trace_line(&world->trace, "room on the disk: %s", scarce ? "scarce" : "enough");
    if (!world->finishing)
        sched_after(&world->sched, prng_range(&world->prng, 10, 800) * MS, on_capacity, world, 0);
}

/* --- the end --- */

static void move_to_the_end(struct world *world)
{
    struct node *node = &world->node;
    const struct node_counters *counters = &node->counters;
    if (!world->finishing) {
        bool all_sent = world->model.tx_count >= world->swarm.tx_budget && counters->starts > 3;
        if (!all_sent && counters->starts <= world->swarm.crashes_max &&
            world->sched.now_ns < VIRTUAL_TIME_MAX && world->sched.next_order < EVENTS_BEFORE_END)
            return;
        trace_line(&world->trace, "faults end; everything must be answered");
        world->finishing = true;
        world->finish_ns = world->sched.now_ns;
        node->crash_in_ops = 0;
        node->faults.read_error = node->faults.write_error = node->faults.sync_error =
            node->faults.other_error = 0;
        sim_disk_set_capacity(node->disk, UINT64_MAX);
        return;
    }
    if (world->model.rot) {
        for (uint32_t i = 0; i < world->swarm.clients; i++)
            world->clients[i].resend_count = 0; /* a damaged bucket takes none of them */
    }
    if (at_rest(world)) {
        checker_at_rest(world);
        node_stop(node);
    } else if (world->sched.now_ns - world->finish_ns > LIVENESS_BOUND) {
        for (uint32_t i = 0; i < world->swarm.clients && !world->trace.failed; i++) {
            const struct client *client = &world->clients[i];
            if (client->request_count > 0)
                trace_fail(&world->trace,
                           "client %u: %s %lu (tx %d) isn't answered 60 s after the last fault", i,
                           msg_name(client->requests[0].tag), client->requests[0].id,
                           (int)client->requests[0].tx);
        }
        trace_fail(&world->trace, "no rest 60 s after the last fault");
    }
}

static bool at_rest(const struct world *world)
{
    if (world->over || !world->ready || world->node.stopping || world->node.bucket == NULL ||
        world->node.job_count > 0)
        return false;
    for (uint32_t i = 0; i < world->swarm.clients; i++) {
        if (!client_idle(&world->clients[i]))
            return false;
    }
    return true;
}
