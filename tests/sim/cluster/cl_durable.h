/* What a power cut would leave of a node's log at the least: read from the durable bytes of the
 * disk, without the core's recovery. It reads only what is new since the last call, so it may be
 * asked about every acknowledgement and every vote. */
#pragma once

#include "bucketd/core/bucket.h"
#include "tests/sim/disk.h"

struct durable_point {
    uint64_t term, chain;
};

struct durable_log {
    bool valid;                 /* a segment's front has been read */
    uint64_t segment, batch_no; /* of the last whole batch */
    uint64_t offset;            /* behind it */
    uint64_t term, voted_for;
    uint64_t base_idx, last_idx; /* points[i]: of the entry base_idx + i, in this segment */
    struct durable_point *points;
    uint64_t cap;
};

void durable_log_release(struct durable_log *log);
/* Begins anew: the disk has been changed in other ways than by appending. */
void durable_log_forget(struct durable_log *log);
/* Reads on to the end of what is durable. False: there is no whole segment. */
bool durable_log_read(struct durable_log *log, struct sim_disk *disk,
                      const struct bucket_config *config);
/* The last one. */
struct durable_point durable_log_last(const struct durable_log *log);
/* Whether the entry is durable, as far as it can be told: one in an older segment is taken for
 * right. */
bool durable_log_holds(const struct durable_log *log, uint64_t idx, uint64_t chain);
