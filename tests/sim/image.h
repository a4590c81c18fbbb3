/* Reads the whole content of a disk image through the core: recovery, then every partition from
 * its first event to its last. A process of its own without faults or latency, whose jobs run at
 * once. */
#pragma once

#include "bucketd/core/bucket.h"
#include "tests/sim/disk.h"

struct image_reader {
    void *ctx;
    void (*on_event)(void *ctx, const struct rec_stored_event *event);
    /* What lies at this sequence can't be read. */
    void (*on_hole)(void *ctx, uint32_t partition, uint64_t sequence, enum err err);
    /* watermark: UINT64_MAX where the bucket says that it can't know it. */
    void (*on_end)(void *ctx, uint32_t partition, uint64_t watermark);
    /* The core broke a rule of its interface. */
    void (*on_problem)(void *ctx, const char *what);
};

/* Recovers on this disk, which it may change; returns bucket_open's error. */
enum err image_read(struct sim_disk *disk, const struct bucket_config *config, uint64_t seed,
                    const struct image_reader *reader);
