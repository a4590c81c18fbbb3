/* Blocked bloom filter (bloom.h). */
#include "bucketd/core/bloom.h"

#define BLOOM_LINE_BITS (BLOOM_LINE_BYTES * 8)
#define BLOOM_PROBES    6u
#define PROBE_BITS      9u
_Static_assert(1u << PROBE_BITS == BLOOM_LINE_BITS && BLOOM_PROBES * PROBE_BITS <= 64,
               "one hash feeds all probes");

uint64_t bloom_lines(uint64_t keys)
{
    uint64_t lines = (keys * BLOOM_BITS_PER_KEY + BLOOM_LINE_BITS - 1) / BLOOM_LINE_BITS;
    return lines == 0 ? 1 : lines;
}

uint64_t bloom_line(uint64_t lines, uint64_t hash)
{
    return ((hash >> 32) * lines) >> 32;
}

/* The line was chosen by the hash's top: all keys of a line share it, so the probes need other
 * bits. */
static uint64_t probes_of(uint64_t hash)
{
    hash *= 0x9fb21c651e98df25u;
    return hash ^ (hash >> 35);
}

void bloom_set(uint8_t *line, uint64_t hash)
{
    uint64_t probes = probes_of(hash);
    for (uint32_t i = 0; i < BLOOM_PROBES; i++, probes >>= PROBE_BITS) {
        uint32_t bit = probes % BLOOM_LINE_BITS;
        line[bit / 8] = (uint8_t)(line[bit / 8] | 1u << bit % 8);
    }
}

bool bloom_has(const uint8_t *line, uint64_t hash)
{
    uint64_t probes = probes_of(hash);
    for (uint32_t i = 0; i < BLOOM_PROBES; i++, probes >>= PROBE_BITS) {
        uint32_t bit = probes % BLOOM_LINE_BITS;
        if ((line[bit / 8] >> bit % 8 & 1) == 0)
            return false;
    }
    return true;
}
