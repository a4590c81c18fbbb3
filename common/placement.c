/* Rendezvous hashing: the nodes with the highest scores for a bucket hold it. */
#include "common/placement.h"

#include <xxhash.h>

#include "common/assert.h"
#include "common/bytes.h"

static uint64_t score_of(uint32_t bucket, uint32_t node)
{
    uint8_t key[8];
    memcpy(key, &bucket, sizeof bucket);
    memcpy(key + 4, &node, sizeof node);
    return XXH3_64bits(key, sizeof key);
}

unsigned placement_replicas(uint32_t bucket, uint32_t node_count, uint32_t factor,
                            uint32_t ret_nodes[static REPLICAS_MAX])
{
    ASSERT(node_count > 0 && factor > 0 && factor <= REPLICAS_MAX);
    uint64_t scores[REPLICAS_MAX];
    unsigned count = 0;
    for (uint32_t node = 0; node < node_count; node++) {
        uint64_t score = score_of(bucket, node);
        unsigned at = count;
        /* Behind its equals: of the same score the lower node comes first. */
        while (at > 0 && scores[at - 1] < score)
            at--;
        if (at == factor)
            continue;
        count += count < factor;
        for (unsigned i = count - 1; i > at; i--) {
            scores[i] = scores[i - 1];
            ret_nodes[i] = ret_nodes[i - 1];
        }
        scores[at] = score;
        ret_nodes[at] = node;
    }
    return count;
}

void placement_count(uint32_t bucket_count, uint32_t node_count, uint32_t factor,
                     struct placement_share *ret_shares)
{
    memset(ret_shares, 0, node_count * sizeof *ret_shares);
    for (uint32_t bucket = 0; bucket < bucket_count; bucket++) {
        uint32_t nodes[REPLICAS_MAX];
        unsigned count = placement_replicas(bucket, node_count, factor, nodes);
        ret_shares[nodes[0]].leads++;
        for (unsigned i = 0; i < count; i++)
            ret_shares[nodes[i]].holds++;
    }
}

bool placement_holds(uint32_t bucket, uint32_t node_count, uint32_t factor, uint32_t node)
{
    uint32_t nodes[REPLICAS_MAX];
    unsigned count = placement_replicas(bucket, node_count, factor, nodes);
    for (unsigned i = 0; i < count; i++) {
        if (nodes[i] == node)
            return true;
    }
    return false;
}
