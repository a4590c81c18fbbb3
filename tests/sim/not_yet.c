/* Stands for functions of the core that aren't there yet. Weak: the core's own take their place. */
#include <string.h>

#include "bucketd/core/bucket.h"

#define WEAK __attribute__((weak))

WEAK void bucket_on_peer_message(struct bucket *bucket, uint32_t node, const struct msg *msg)
{
    (void)bucket;
    (void)node;
    (void)msg;
}

WEAK void bucket_get_replica_state(const struct bucket *bucket, struct replica_state *state)
{
    struct bucket_stats stats;
    bucket_get_stats(bucket, &stats);
    *state = (struct replica_state){.role = ROLE_LEADER,
                                    .settled = true,
                                    .term = stats.term,
                                    .leader = 1,
                                    .last_idx = stats.commit_idx,
                                    .commit_idx = stats.commit_idx,
                                    .durable_idx = stats.commit_idx,
                                    .voter = true,
                                    .ready = true};
}

WEAK void bucket_transfer(struct bucket *bucket, uint32_t node)
{
    (void)bucket;
    (void)node;
}
