/* Versions of all streams of a bucket, for `sierradb verify`: a hash table with open addressing. */
#include <stdlib.h>

#include <xxhash.h>

#include "common/assert.h"
#include "supervisor/verify_internal.h"

struct verify_streams {
    struct verify_stream *slots; /* hash 0: free */
    uint64_t count, mask;
    struct buf names;
};

static void grow(struct verify_streams *streams);

struct verify_streams *verify_streams_new(void)
{
    struct verify_streams *streams = calloc(1, sizeof *streams);
    ASSERT(streams != NULL);
    streams->mask = 1023;
    streams->slots = calloc(streams->mask + 1, sizeof *streams->slots);
    ASSERT(streams->slots != NULL);
    return streams;
}

void verify_streams_free(struct verify_streams *streams)
{
    buf_release(&streams->names);
    free(streams->slots);
    free(streams);
}

uint64_t verify_streams_count(const struct verify_streams *streams)
{
    return streams->count;
}

struct verify_stream *verify_streams_find(struct verify_streams *streams, uint32_t partition,
                                          struct span name, bool *ret_known)
{
    uint64_t hash = XXH3_64bits_withSeed(name.ptr, name.len, partition) | 1;
    if (streams->count * 4 > streams->mask * 3)
        grow(streams);
    uint64_t at = hash & streams->mask;
    for (; streams->slots[at].hash != 0; at = (at + 1) & streams->mask) {
        struct verify_stream *slot = &streams->slots[at];
        if (slot->hash == hash && slot->partition == partition &&
            span_equal(name, span_of(streams->names.ptr + slot->name_at, slot->name_len))) {
            *ret_known = true;
            return slot;
        }
    }
    streams->slots[at] = (struct verify_stream){.hash = hash,
                                                .partition = partition,
                                                .name_at = streams->names.len,
                                                .name_len = (uint8_t)name.len};
    buf_append_span(&streams->names, name);
    streams->count++;
    *ret_known = false;
    return &streams->slots[at];
}

static void grow(struct verify_streams *streams)
{
    struct verify_stream *old = streams->slots;
    uint64_t old_count = streams->mask + 1;
    streams->mask = old_count * 2 - 1;
    streams->slots = calloc(streams->mask + 1, sizeof *streams->slots);
    ASSERT(streams->slots != NULL);
    for (uint64_t i = 0; i < old_count; i++) {
        if (old[i].hash == 0)
            continue;
        uint64_t at = old[i].hash & streams->mask;
        while (streams->slots[at].hash != 0)
            at = (at + 1) & streams->mask;
        streams->slots[at] = old[i];
    }
    free(old);
}
