/* The work of a repair that is done in jobs, one after the other. */
#pragma once

#include "bucketd/core/history.h"
#include "bucketd/core/salvage.h"

enum repair_work {
    REPAIR_SCAN,   /* what is whole of the old file */
    REPAIR_BEGIN,  /* the new one's front */
    REPAIR_COPY,   /* own entries */
    REPAIR_ADD,    /* fetched ones */
    REPAIR_FINISH, /* all of it is on the disk */
};

/* Its own entries that are tried, less and less of them. */
enum repair_own {
    OWN_PERHAPS, /* also those that a cut in the damage may have killed */
    OWN_SURE,
    OWN_NONE,
};

/* Zeroed is valid to release. */
struct repair_build {
    struct job job; /* work: repair_build_work */
    void *owner;
    enum repair_work work;
    enum err err; /* ERR_CORRUPT of COPY: the run isn't what it seemed */

    enum repair_own own; /* which of its own entries are taken */
    uint64_t commit_idx, hash_seed;
    struct lsn durable;
    struct salvage salvage;
    struct rewrite rewrite;
    struct history_read read;

    uint64_t upto_idx;  /* COPY, ADD */
    uint64_t bytes;     /* COPY: about so many at most */
    struct buf chunk;   /* ADD */
    uint64_t raw_bytes; /* ADD: of the lz4 block; 0: it isn't one */
    struct buf plain;
    uint64_t added; /* entries by the last COPY or ADD */
};

void repair_build_work(struct job *job, struct disk *disk);
void repair_build_release(struct repair_build *build);
const char *repair_work_name(enum repair_work work);
/* The first stretch of own entries that ends at or behind idx; NULL: there is none. */
const struct salvage_run *repair_build_run(const struct repair_build *build, uint64_t idx);
/* The end of the hole that begins with the next entry, where end_idx is the log's. */
uint64_t repair_build_hole_last(const struct repair_build *build, uint64_t end_idx);
/* Whether it is what it must come to. confirmed_idx: up to there the leader has the same; 0: nobody
 * has said so. */
enum repair_verdict { REPAIR_IS_SHORT, REPAIR_IS_COMPLETE, REPAIR_IS_WRONG };
enum repair_verdict repair_build_judge(const struct repair_build *build, uint64_t confirmed_idx);
/* What is left of the stretch that the next entry was to be taken from is of no use. */
void repair_build_drop_run(struct repair_build *build);
