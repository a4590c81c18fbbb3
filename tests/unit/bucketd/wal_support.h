/* A log on a disk in memory, with a model of what was appended: an entry's content follows from its
 * idx alone, so that what comes back can be checked wherever it comes from. */
#pragma once

#include <check.h>

#include "bucketd/core/wal.h"
#include "tests/unit/bucketd/mem_disk.h"

#define RUN_ENTRIES_MAX 20000u
#define RUN_EVENTS_MAX  8u

struct run {
    struct mem_disk *mem;
    struct wal *wal;
    struct wal_config config;
    uint64_t acked;              /* durable idx told by on_durable */
    uint64_t rolls, spaces;      /* callbacks */
    size_t data_max;             /* an event's metadata and payload have up to so many bytes each */
    bool is_tx[RUN_ENTRIES_MAX]; /* by idx */
    uint64_t first_seq[RUN_ENTRIES_MAX];
    uint32_t positions[RUN_ENTRIES_MAX][RUN_EVENTS_MAX];
    uint64_t segments[RUN_ENTRIES_MAX];
    uint64_t verified[RUN_ENTRIES_MAX]; /* hash of an entry's bytes and place that were right once;
                                           saves time */
    uint64_t seen, seen_last;           /* entries that came by on_entry, the last one's idx */
    uint64_t seen_wrong;                /* that differ from the model, or came out of order */
};

/* Content of entry idx. */
struct run_tx {
    uint32_t partition, count;
    struct uuid partition_key, transaction_id;
    struct wal_event events[RUN_EVENTS_MAX];
    struct buf bytes;
};
void run_tx_make(const struct run *run, uint64_t idx, struct run_tx *tx);

struct wal_config run_config(uint64_t segment_bytes);
/* A run on a new disk, or on the given one, which it takes. Not opened. */
struct run *run_new(uint64_t segment_bytes, size_t data_max, struct mem_disk *mem);
void run_free(struct run *run);
/* wal_open only. */
enum err run_open(struct run *run, struct wal_recovery *ret_recovery);
/* The new term after it. False: no room. */
bool run_term(struct run *run);
/* One transaction; waits for space and flushes where it must. False: the disk is full or failed. */
bool run_append(struct run *run);
/* Flushes and runs all jobs. */
void run_flush(struct run *run);
/* The process dies and starts again on the same disk; the model stays. */
void run_kill(struct run *run);
/* Goes on on another disk, which it takes. */
void run_move(struct run *run, struct mem_disk *mem);

/* Scans every segment and checks everything against the model; the last idx. Fails the test on any
 * difference. */
uint64_t run_check(struct run *run);
