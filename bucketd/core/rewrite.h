/* A segment written anew, beside the old one: entries go in, in order, each checked against the
 * chain of those before it; a whole file comes out and takes the old one's place. Until then
 * nothing of the old one is touched, and a crash leaves one of the two. */
#pragma once

#include "bucketd/core/index.h"
#include "bucketd/core/wal_internal.h"

/* One at a time. */
#define REWRITE_DIR "repair"

/* All of it is driven from jobs, by one of them at a time, but for rewrite_end and rewrite_publish.
 * Zeroed is valid to release. */
struct rewrite {
    struct disk *disk;
    struct file *file;
    struct wal_config config;
    struct format_salt salt;
    uint32_t base;
    uint64_t commit_idx;    /* entries up to here are known to be committed */
    struct wal_state state; /* after what was added */
    struct wal_group batch;
    uint64_t batches, entries, events, first_idx;
    struct index *index; /* of what was added; NULL: none is made */
    struct buf scratch;
};

/* Where a segment begins: what its checkpoint says. */
struct rewrite_start {
    uint64_t segment, disk_id;
    struct wal_state state; /* owns next_seq */
    struct wal_config_at config;
};

/* Makes the file. `index`: taken, may be NULL. */
enum err rewrite_begin(struct rewrite *rewrite, struct disk *disk, const struct wal_config *config,
                       const struct rewrite_start *start, uint64_t commit_idx,
                       struct index *index) MUST_CHECK;
/* An entry's record, from whichever log. ERR_CORRUPT: it doesn't follow, or isn't whole; then
 * nothing has changed. */
enum err rewrite_add(struct rewrite *rewrite, struct span entry) MUST_CHECK;
/* Puts what was added on the disk. */
enum err rewrite_sync(struct rewrite *rewrite) MUST_CHECK;
/* Completes a segment that another one follows. */
enum err rewrite_seal(struct rewrite *rewrite) MUST_CHECK;
/* Completes the newest segment: with this term and vote. */
enum err rewrite_end(struct rewrite *rewrite, uint64_t term, uint64_t voted_for) MUST_CHECK;
/* A segment's index files are gone, for sure: they tell places in the file that is to go. */
enum err rewrite_remove_index(struct disk *disk, uint64_t segment) MUST_CHECK;
/* The file, complete and synced, takes the old one's place. */
enum err rewrite_publish(struct rewrite *rewrite) MUST_CHECK;
void rewrite_release(struct rewrite *rewrite);
/* Removes what a crash has left. */
enum err rewrite_remove(struct disk *disk) MUST_CHECK;
