/* A log on a disk in memory, with a model of what was appended: an entry's content follows from its
 * idx and how often that idx was cut, so that what comes back can be checked wherever it comes
 * from. */
#pragma once

#include <check.h>

#include "bucketd/core/wal.h"
#include "tests/unit/bucketd/mem_disk.h"

#define RUN_ENTRIES_MAX 20000u
#define RUN_EVENTS_MAX  8u
#define RUN_SLOTS       8u
#define RUN_BATCHES_MAX 4096u

/* All that a log says about itself. */
struct run_state {
    uint64_t term, voted_for, last_idx, last_term, last_chain, commit_idx, config_idx, events;
    uint64_t next_seq[RUN_SLOTS];
    struct wal_voters voters;
};

struct run {
    struct mem_disk *mem;
    struct wal *wal;
    struct wal_config config;
    uint64_t acked;         /* durable idx told by on_durable */
    uint64_t rolls, spaces; /* callbacks */
    size_t data_max;        /* an event's metadata and payload have up to so many bytes each */
    bool commits;           /* with more replicas: what is durable is committed when room is
                               wanted */
    bool adopts; /* the model follows what recovery finds: an older state than the last one */
    bool is_tx[RUN_ENTRIES_MAX]; /* by idx */
    uint8_t cuts[RUN_ENTRIES_MAX];
    uint64_t first_seq[RUN_ENTRIES_MAX];
    uint32_t positions[RUN_ENTRIES_MAX][RUN_EVENTS_MAX];
    uint64_t segments[RUN_ENTRIES_MAX];
    uint64_t verified[RUN_ENTRIES_MAX]; /* hash of an entry's bytes and place that were right once;
                                           saves time */
    uint64_t seen, seen_last;           /* entries that came by on_entry, the last one's idx */
    uint64_t seen_wrong;                /* that differ from the model, or came out of order */
    bool seen_bad[RUN_ENTRIES_MAX];     /* which: a cut takes them back */
    struct run_state states[RUN_BATCHES_MAX]; /* by batch: what the log said when it was flushed */
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
/* Entries from this one on die. */
void run_cut(struct run *run, uint64_t from_idx);
void run_reconfigure(struct run *run, const struct wal_voters *voters);
bool run_voters_equal(const struct wal_voters *a, const struct wal_voters *b);
struct run_state run_get_state(const struct run *run);
/* Fails the test where they differ; a recovered commit_idx may be lower. */
void run_expect_state(const struct run *run, const struct run_state *wanted);
/* Notes the state and starts a flush, if none is running. */
void run_start_flush(struct run *run);
/* Flushes and runs all jobs. */
void run_flush(struct run *run);
/* The process dies and starts again on the same disk; the model stays. */
void run_kill(struct run *run);
/* Goes on on another disk, which it takes. */
void run_move(struct run *run, struct mem_disk *mem);

/* Scans every segment and checks everything against the model; the last idx. Fails the test on any
 * difference. */
uint64_t run_check(struct run *run);

/* All of these as one suite; returns the exit status. */
int run_tests(const char *name, const TTest *const *tests, size_t count);
