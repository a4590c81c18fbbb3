/* What the parts of `sierradb verify` share: verify.c (the command, report), verify_bucket.c (one
 * bucket's files), verify_streams.c (versions of all streams). */
#pragma once

#include "bucketd/core/index.h"
#include "bucketd/core/wal.h"
#include "common/buf.h"

/* So many problems are kept and printed for each bucket; all are counted. */
#define VERIFY_PROBLEMS_MAX 50u

struct verify_streams;

struct verify_streams *verify_streams_new(void);
void verify_streams_free(struct verify_streams *streams);
uint64_t verify_streams_count(const struct verify_streams *streams);

/* The next version a stream must have, 0 for a new one; *ret_known tells which. The caller sets
 * what it is then. `key` is the partition key of the stream's first event. */
struct verify_stream {
    uint64_t hash;
    uint64_t next_version;
    struct uuid key;
    uint64_t name_at; /* in the names' buffer */
    uint32_t partition;
    uint8_t name_len;
};
struct verify_stream *verify_streams_find(struct verify_streams *streams, uint32_t partition,
                                          struct span name, bool *ret_known);

struct verify_problem {
    uint64_t segment, offset;
    const char *file; /* in the segment's directory; static */
    char what[160];
};

struct verify_bucket {
    /* In. */
    uint32_t bucket, bucket_count, partition_count;
    struct uuid cluster_id;
    const char *dir;
    uint64_t *bytes_done; /* progress; moved along */
    void (*progress)(void *ctx);
    void *progress_ctx;

    /* Out. */
    uint64_t segments, entries, events, streams, bytes, last_idx, term;
    uint64_t indexes, indexes_missing, torn;
    uint64_t problems;
    struct verify_problem *list; /* the first ones */
    size_t list_count;
};

/* Reads everything in the bucket's directory; what it finds wrong are problems. ERR_LOCKED: a
 * bucketd is running on it; ERR_IO, ERR_NOTFOUND. */
enum err verify_bucket(struct verify_bucket *bucket) MUST_CHECK;
void verify_bucket_release(struct verify_bucket *bucket);
