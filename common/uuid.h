/* UUIDs: text form, version 5, event ids that carry a partition hash (WIRE.md, ids and arithmetic).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "common/bytes.h"

struct uuid {
    uint8_t bytes[16]; /* big-endian, as printed */
};

#define UUID_TEXT_LEN 36

static inline bool uuid_equal(const struct uuid *a, const struct uuid *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

/* Writes 36 characters, lower-case with dashes, and no NUL. */
void uuid_format(const struct uuid *uuid, char text[static UUID_TEXT_LEN]);
/* Accepts 36 characters with dashes or 32 without, {…} and urn:uuid:… forms, any case, spaces
 * around. Returns false, and leaves *ret alone, where the text is no UUID. */
bool uuid_parse(struct span text, struct uuid *ret_uuid);

/* UUIDv5 (SHA-1) of a stream id in SierraDB's namespace: the default partition key. */
struct uuid uuid_partition_key(struct span stream_id);
/* Bits 61..46 of the 128-bit big-endian value. */
static inline uint16_t uuid_hash(const struct uuid *uuid)
{
    return (uint16_t)(((uuid->bytes[8] & 0x3f) << 10) | (uuid->bytes[9] << 2) |
                      (uuid->bytes[10] >> 6));
}

/* A UUIDv7 of time_ms with `hash` in bits 61..46; `random` supplies 16 random bytes. */
struct uuid uuid_event_id(uint64_t time_ms, uint16_t hash, const uint8_t random[static 16]);
/* A UUIDv4 from 16 random bytes. */
struct uuid uuid_random(const uint8_t random[static 16]);
/* The id of the cluster of this name (XXH3, 128 bits, as a UUIDv8): its nodes needn't agree on
 * anything else to come to the same. */
struct uuid uuid_of_cluster(struct span name);
