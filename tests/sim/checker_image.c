/* The checker's look at the disk: recovers copies of it and compares them with what was shown. */
#include <stdio.h>

#include "common/assert.h"
#include "tests/sim/image.h"
#include "tests/sim/world.h"

/* One reading of an image. */
struct reading {
    struct world *world;
    bool adopt;             /* what it holds is true from now on */
    const char *what;
    uint64_t hash, next;    /* sequence expected next in this partition */
    const struct tx *tx;    /* whose events are coming */
    uint32_t next_event;
    uint64_t holes;
};

static enum err read_image(struct world *world, struct sim_disk *disk, bool adopt, const char *what,
                           uint64_t *ret_hash);
static void on_event(void *ctx, const struct rec_stored_event *event);
static void on_hole(void *ctx, uint32_t partition, uint64_t sequence, enum err err);
static void on_end(void *ctx, uint32_t partition, uint64_t watermark);
static void on_problem(void *ctx, const char *what);

void checker_adopt(struct world *world)
{
    struct sim_disk *copy = sim_disk_clone(world->node.disk);
    uint64_t hash;
    sim_disk_power_cut(copy, &(struct prng){0}, 0);
    read_image(world, copy, true, "what recovery made durable", &hash);
    sim_disk_free(copy);
    checker_judge(world);
}

void checker_compare_durable(struct world *world)
{
    struct sim_disk *copy = sim_disk_clone(world->node.disk);
    uint64_t hash;
    sim_disk_power_cut(copy, &(struct prng){0}, 0);
    read_image(world, copy, false, "what is durable while it runs", &hash);
    sim_disk_free(copy);
}

void checker_after_end(struct world *world)
{
    struct sim_disk *copy = sim_disk_clone(world->node.disk);
    uint64_t first = 0, second = 0;
    enum err err = read_image(world, copy, false, "after the end", &first);
    if (err == ERR_OK) {
        /* The first reading was a process that died; now the power goes too. */
        sim_disk_power_cut(copy, &(struct prng){0}, 0);
        read_image(world, copy, false, "recovered twice", &second);
        /* With rot, what an intact index finds and what its rebuilding finds may differ. */
        if (first != second && !world->model.rot)
            trace_fail(&world->trace, "a second recovery of the same disk gives another content");
    }
    sim_disk_free(copy);
}

static enum err read_image(struct world *world, struct sim_disk *disk, bool adopt, const char *what,
                           uint64_t *ret_hash)
{
    struct reading reading = {.world = world, .adopt = adopt, .what = what};
    struct image_reader reader = {.ctx = &reading,
                                  .on_event = on_event,
                                  .on_hole = on_hole,
                                  .on_end = on_end,
                                  .on_problem = on_problem};
    world->totals.images++;
    enum err err =
        image_read(disk, &world->swarm.config, world->options.seed + world->totals.images, &reader);
    if (err != ERR_OK && !world->model.rot)
        trace_fail(&world->trace, "%s: recovery of a copy fails: %s", what, err_name(err));
    *ret_hash = reading.hash;
    return err;
}

static void mix(struct reading *reading, uint64_t value)
{
    reading->hash = (reading->hash ^ value) * 0x9fb21c651e98df25ull;
    reading->hash ^= reading->hash >> 29;
}

static void on_event(void *ctx, const struct rec_stored_event *event)
{
    struct reading *reading = ctx;
    struct world *world = reading->world;
    struct model *model = &world->model;
    struct tx *tx;
    uint32_t i;
    if (world->trace.failed || !model_match(model, event, &tx, &i))
        return;
    mix(reading, (uint64_t)tx->index << 32 | i);
    mix(reading, event->version);
    if (event->sequence != reading->next && !model->rot)
        trace_fail(&world->trace, "%s: p%u: sequence %lu instead of %lu", reading->what,
                   tx->partition, event->sequence, reading->next);
    reading->next = event->sequence + 1;
    bool whole = reading->tx == NULL ? i == 0 : reading->tx == tx && i == reading->next_event;
    if (!whole && !model->rot)
        trace_fail(&world->trace, "%s: p%u seq %lu: tx %u event %u stands alone", reading->what,
                   tx->partition, event->sequence, tx->index, i);
    reading->next_event = i + 1;
    reading->tx = reading->next_event == tx->count ? NULL : tx;
    if (reading->adopt) {
        model_see(model, event);
        return;
    }
    const struct partition_log *log = &model->partitions[tx->partition];
    const struct slot *slot = event->sequence < log->count ? &log->slots[event->sequence] : NULL;
    if (slot != NULL && slot->tx != NO_TX ? slot->tx != tx->index || slot->event != i
                                          : tx->placed || !tx->possible)
        trace_fail(&world->trace, "%s: p%u seq %lu is tx %u event %u, %s", reading->what,
                   tx->partition, event->sequence, tx->index, i,
                   slot != NULL && slot->tx != NO_TX ? "another was shown there"
                   : tx->placed                      ? "which was shown elsewhere"
                                : "which isn't stored as far as its sender was told");
    if (tx->events[i].version != NO_VERSION && tx->events[i].version != event->version)
        trace_fail(&world->trace, "%s: tx %u event %u: version %lu, shown was %lu", reading->what,
                   tx->index, i, event->version, tx->events[i].version);
}

static void on_hole(void *ctx, uint32_t partition, uint64_t sequence, enum err err)
{
    struct reading *reading = ctx;
    if (!reading->world->model.rot)
        trace_fail(&reading->world->trace, "%s: p%u seq %lu can't be read: %s", reading->what,
                   partition, sequence, err_name(err));
    reading->next = sequence + 1;
    reading->holes++;
    reading->tx = NULL;
}

static void on_end(void *ctx, uint32_t partition, uint64_t watermark)
{
    struct reading *reading = ctx;
    struct world *world = reading->world;
    struct partition_log *log = &world->model.partitions[partition];
    if (reading->tx != NULL && !world->model.rot)
        trace_fail(&world->trace, "%s: p%u: only a part of tx %u is there", reading->what,
                   partition, reading->tx->index);
    bool unknown = watermark == UINT64_MAX;
    if (unknown && !world->model.rot)
        trace_fail(&world->trace, "%s: p%u: its end can't be told", reading->what, partition);
    else if (!unknown && reading->next != watermark)
        trace_fail(&world->trace, "%s: p%u: %lu events, the watermark is %lu", reading->what,
                   partition, reading->next, watermark);
    if (watermark < log->count)
        trace_fail(&world->trace, "%s: p%u ends at %lu, events up to %lu were shown", reading->what,
                   partition, watermark, log->count);
    if (reading->adopt && !unknown)
        log->watermark = max_u64(log->watermark, watermark);
    mix(reading, watermark);
    reading->next = 0;
    reading->tx = NULL;
}

static void on_problem(void *ctx, const char *what)
{
    struct reading *reading = ctx;
    trace_fail(&reading->world->trace, "%s: %s", reading->what, what);
}
