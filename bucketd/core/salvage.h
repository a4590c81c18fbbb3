/* What is whole of a damaged segment: read in a job, changes nothing. */
#pragma once

#include "bucketd/core/rewrite.h"

/* Entries that are whole and follow one another. */
struct salvage_run {
    uint64_t first, last; /* idx */
};

struct salvage_runs {
    struct salvage_run *list; /* ascending */
    uint32_t len, cap;
};

struct salvage {
    struct job job; /* work: salvage_work */

    struct wal_config config;
    uint64_t segment, first_segment, disk_id;
    bool newest;

    /* ERR_OK; ERR_CORRUPT: what stands before it can't be told; ERR_IO... */
    enum err err;
    bool whole;          /* nothing is damaged */
    bool before_damaged; /* with ERR_CORRUPT: the segment before would tell */
    struct rewrite_start start;
    /* Those that surely live; and with them those that live unless the damage hides a cut. */
    struct salvage_runs sure, perhaps;
    /* The last entry, where something tells which it is: what follows the segment, or its own
     * marks, which know no chain. */
    bool end_known, end_chain_known;
    uint64_t end_idx, end_term, end_chain;
};

void salvage_work(struct job *job, struct disk *disk);
void salvage_release(struct salvage *salvage);
