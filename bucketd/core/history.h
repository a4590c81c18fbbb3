/* Older entries, by idx, from the files: for replicas that lag, and for the repair of damage. Reads
 * run in jobs and touch only their own memory and the disk.
 *
 * A segment's marks tell where its entries are. Dead ones are passed over: a cut stands behind the
 * entries it kills, so a segment's cuts are known before anything of it is delivered. Everything is
 * checked on the way, the chain of entries too: what is delivered follows from prev_chain.
 *
 * A cut that isn't durable yet isn't seen. A leader has none: its own vote stands behind them all.
 * Who follows takes entries above its commit_idx for what they are: perhaps dead. */
#pragma once

#include "bucketd/core/env.h"
#include "bucketd/core/format.h"

struct wal_config;

struct history_cut {
    uint64_t from_idx;
    uint64_t offset; /* of the record: entries >= from_idx before it are dead */
};

/* What the marks of a segment say, up to `end`. */
struct history_map {
    uint64_t segment;
    bool known;
    uint64_t start, end;                      /* of the batches that were looked at */
    uint64_t batch_no;                        /* of the last of them */
    uint64_t last_idx, last_term, last_chain; /* before this segment */
    struct history_cut *cuts;                 /* in the order of the file */
    uint32_t cuts_len, cuts_cap;
    /* Damage that may hide a cut ends here: of what stands before it nobody knows whether it lives;
     * 0: there is none. */
    uint64_t unsure_end;
};

struct history_read {
    struct job job; /* work: history_work; done is the caller's */

    /* What is wanted. */
    struct format_salt salt; /* of the bucket; segment and where don't matter */
    const struct wal_config
        *config;            /* stands in for damaged headers; NULL: their segments are lost */
    uint64_t first_segment; /* oldest that exists */
    struct lsn durable;     /* nothing is read beyond */
    uint64_t from_idx, to_idx;
    uint64_t bytes; /* about so many at most, one entry at least; a batch is read whole each time:
                     * 1 MiB or more is a good size */
    /* Also what may be dead, for somebody who knows the chains on both sides of what it asks for.
     * Then the entry before from_idx may be missing. */
    bool unsure;

    /* What came of it.
     *   ERR_OK        at least one entry
     *   ERR_NOTFOUND  from_idx isn't durable (yet), or older than the oldest segment
     *   ERR_CORRUPT   entry hole_idx, in damaged_segment, is damaged; it is from_idx, or the one
     *                 before where that is needed for prev_chain
     *   ERR_IO        in damaged_segment */
    enum err err;
    uint64_t hole_idx, damaged_segment;
    uint64_t count;
    bool prev_known;                          /* only `unsure` can make it false */
    uint64_t prev_term, prev_chain;           /* of the entry before from_idx; of idx 0: 0 */
    uint64_t last_idx, last_term, last_chain; /* of the last one in `entries`, where there is one */
    struct buf entries;                       /* whole records, back to back */

    /* Where the last read ended: one that goes on from there costs no search. */
    struct history_map map;
    struct lsn next; /* the batch to go on in */
    uint64_t next_idx;
    uint64_t searches; /* how many were needed */
    struct buf scratch;
};

void history_init(struct history_read *read, const struct format_salt *salt);
/* Not while its job runs. */
void history_release(struct history_read *read);
void history_work(struct job *job, struct disk *disk);
