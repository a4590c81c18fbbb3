/* What may happen to files while nobody runs: index files lost or damaged, rot in data. */
#include <stdio.h>

#include "bucketd/core/format.h"
#include "common/assert.h"
#include "tests/sim/world.h"

#define FILES_MAX 1500u
#define PATH_MAX_LEN 64u

struct found_files {
    const char *suffix;
    char (*paths)[PATH_MAX_LEN];
    uint64_t *sizes;
    uint32_t count;
};

static void damage_index(struct world *world);
static void rot_data(struct world *world);
static uint64_t last_batch(struct span file);

void damage_disk(struct world *world)
{
    if (world->swarm.index_damage && prng_chance(&world->prng, 500000))
        damage_index(world);
    if (world->swarm.rot && !world->rot_done && !world->finishing &&
        world->model.acked_events > 50 && prng_chance(&world->prng, 300000))
        rot_data(world);
}

static void note_file(void *ctx, const char *path, uint64_t size)
{
    struct found_files *found = ctx;
    size_t len = strlen(path), suffix = strlen(found->suffix);
    if (len < suffix || strcmp(path + len - suffix, found->suffix) != 0 ||
        found->count == FILES_MAX || size == 0)
        return;
    snprintf(found->paths[found->count], PATH_MAX_LEN, "%s", path);
    found->sizes[found->count++] = size;
}

static void damage_index(struct world *world)
{
    char paths[FILES_MAX][PATH_MAX_LEN];
    uint64_t sizes[FILES_MAX];
    struct found_files found = {.suffix = "idx", .paths = paths, .sizes = sizes};
    struct sim_disk *disk = world->node.disk;
    sim_disk_each_file(disk, note_file, &found);
    if (found.count == 0)
        return;
    uint64_t times = prng_range(&world->prng, 1, 3);
    for (uint64_t i = 0; i < times; i++) {
        uint64_t at = prng_below(&world->prng, found.count);
        if (sim_disk_peek(disk, paths[at]).len == 0)
            continue;
        uint64_t offset = prng_below(&world->prng, sim_disk_peek(disk, paths[at]).len);
        uint64_t way = prng_below(&world->prng, 3);
        trace_line(&world->trace, "damage %s: %s at %lu", paths[at],
                   way == 0   ? "lost"
                   : way == 1 ? "cut"
                              : "flipped",
                   offset);
        if (way == 0)
            sim_disk_remove(disk, paths[at]);
        else if (way == 1)
            sim_disk_cut_file(disk, paths[at], offset);
        else
            sim_disk_flip(disk, paths[at], offset, (uint8_t)(1u << prng_below(&world->prng, 8)));
    }
}

/* Anywhere in data that a later batch proves to have been durable. Rot in the very last batch
 * can't be told from a torn one, so it isn't tried. */
static void rot_data(struct world *world)
{
    char paths[FILES_MAX][PATH_MAX_LEN];
    uint64_t sizes[FILES_MAX];
    struct found_files found = {.suffix = "data.evts", .paths = paths, .sizes = sizes};
    struct sim_disk *disk = world->node.disk;
    sim_disk_each_file(disk, note_file, &found);
    while (found.count > 0 && last_batch(sim_disk_peek(disk, paths[found.count - 1])) == 0)
        found.count--;
    if (found.count == 0)
        return;
    uint64_t at =
        prng_chance(&world->prng, 500000) ? found.count - 1 : prng_below(&world->prng, found.count);
    bool newest = at == found.count - 1;
    uint64_t end = newest ? last_batch(sim_disk_peek(disk, paths[at])) : sizes[at];
    uint64_t offset = prng_below(&world->prng, end);
    uint64_t len = prng_chance(&world->prng, 500000) ? 1 : prng_range(&world->prng, 1, 600);
    trace_line(&world->trace, "rot in %s at %lu, %lu bytes", paths[at], offset, len);
    for (uint64_t i = offset; i < offset + len && i < end; i++)
        sim_disk_flip(disk, paths[at], i, (uint8_t)(1 + prng_below(&world->prng, 255)));
    world->rot_done = true;
    world->model.rot = true;
    world->totals.damaged_seeds = 1;
}

/* Where the last whole batch of a data file begins; 0: it has none. */
static uint64_t last_batch(struct span file)
{
    uint64_t found = 0;
    const uint64_t mark = sizeof(struct batch_mark);
    for (uint64_t at = 0; at + mark <= file.len; at += 8) {
        struct batch_mark head;
        memcpy(&head, file.ptr + at, sizeof head);
        if (head.magic != BATCH_HEAD_MAGIC || head.offset != at || head.bytes < 2 * mark ||
            head.bytes > file.len - at)
            continue;
        /* One that was being written when the end came may be torn: then it's the one before. */
        if (load_u64(file.ptr + at + head.bytes - mark) == BATCH_TAIL_MAGIC)
            found = at;
    }
    return found;
}
