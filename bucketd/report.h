/* What a bucket says of itself: counters for the supervisor, and with several replicas its state
 * for the own netd. */
#pragma once

#include "bucketd/core/bucket.h"

/* The last replica_state that was sent; zeroed: none. */
struct report {
    bool sent;
    uint64_t sent_ns;
    struct msg_replica_state last;
};

/* "name value\n" lines. replicated: there are several replicas. */
void report_stats(const struct bucket *bucket, bool replicated, struct buf *out);
/* Packs a replica_state where there is news: at once of everything but the log's ends, of those
 * once a second. */
void report_replica(struct report *report, const struct bucket *bucket, uint64_t now_ns,
                    struct buf *out);
