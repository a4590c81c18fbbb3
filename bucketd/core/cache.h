/* Block cache: 64 KiB blocks of data files, bounded in bytes, CLOCK (second chance) eviction. Pure
 * memory, no I/O. A block of the open segment may be known only up to some length; what lies behind
 * is a miss. */
#pragma once

#include "common/bytes.h"

#define CACHE_BLOCK_BYTES (64u << 10)

struct cache;

struct cache_stats {
    uint64_t hits, misses, entries, bytes, bytes_max, evictions;
};

/* bytes_max 0 is allowed: nothing is ever kept. */
struct cache *cache_new(uint64_t bytes_max, uint64_t hash_seed);
void cache_free(struct cache *cache);

/* The block's bytes as far as known, valid until the next cache_put, cache_extend or cache_drop;
 * ptr NULL on a miss. `need`: bytes of the block that must be known for a hit. Counts hits and
 * misses. */
struct span cache_get(struct cache *cache, uint64_t segment, uint64_t block, uint32_t need);
/* Stores the first `len` bytes of a block (a copy); a shorter known prefix is replaced, a longer
 * one kept. */
void cache_put(struct cache *cache, uint64_t segment, uint64_t block, const void *bytes,
               uint32_t len);
/* Bytes newly written at [offset, offset + len) of a segment: extends blocks whose known prefix
 * ends exactly where they begin, makes new blocks for those that begin at a block's start; leaves
 * other blocks alone. */
void cache_extend(struct cache *cache, uint64_t segment, uint64_t offset, const void *bytes,
                  size_t len);
/* Forgets all blocks of a segment. */
void cache_drop(struct cache *cache, uint64_t segment);
void cache_get_stats(const struct cache *cache, struct cache_stats *ret_stats);
