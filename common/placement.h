/* Where a bucket's replicas live: rendezvous hashing over the nodes' indexes. The one function for
 * it, used by all that place, route and count; what it gives for a bucket depends on the numbers of
 * its arguments alone, so that every node comes to the same.
 *
 * Node n more moves only what n then holds: no bucket goes from one old node to another. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/limits.h"

/* Writes the nodes that hold the bucket's replicas, the first choice for its leadership first, and
 * returns how many: the lesser of factor (REPLICAS_MAX at most) and node_count. */
unsigned placement_replicas(uint32_t bucket, uint32_t node_count, uint32_t factor,
                            uint32_t ret_nodes[static REPLICAS_MAX]);
/* What a node holds of all buckets, and of how many it is the first choice. */
struct placement_share {
    uint32_t holds, leads;
};
/* Of each node: ret_shares has room for node_count. */
void placement_count(uint32_t bucket_count, uint32_t node_count, uint32_t factor,
                     struct placement_share *ret_shares);
bool placement_holds(uint32_t bucket, uint32_t node_count, uint32_t factor, uint32_t node);
