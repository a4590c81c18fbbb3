/* Block cache (cache.h): fixed frames found by an open-addressing table, replaced by a clock hand.
 */
#include "bucketd/core/cache.h"

#include <stdlib.h>
#include <xxhash.h>

#include "common/assert.h"

#define NO_FRAME UINT32_MAX

struct frame {
    uint64_t segment;
    uint64_t block;
    uint8_t *bytes;     /* CACHE_BLOCK_BYTES; NULL: the frame is free */
    uint32_t known;     /* bytes known from the block's start */
    uint32_t next_free; /* of a free frame: the next one, or NO_FRAME */
    bool referenced;    /* hit since the hand last passed */
};

struct cache {
    uint64_t seed;
    struct frame *frames; /* frames_max of them, of which frames_made were ever used */
    uint32_t frames_max, frames_made, free_head, hand;
    uint32_t *table; /* frame + 1; 0 = empty. Never more than half full */
    uint32_t table_mask;
    struct cache_stats stats;
};

static uint32_t find(const struct cache *cache, uint64_t segment, uint64_t block);
static uint32_t insert(struct cache *cache, uint64_t segment, uint64_t block);
static void extend_block(struct cache *cache, uint64_t segment, uint64_t block, uint32_t from,
                         const uint8_t *bytes, uint32_t len);
static void fill(struct frame *frame, uint32_t from, const void *bytes, uint32_t len);
static void discard(struct cache *cache, uint32_t number);

struct cache *cache_new(uint64_t bytes_max, uint64_t hash_seed)
{
    struct cache *cache = calloc(1, sizeof *cache);
    ASSERT(cache != NULL);
    uint64_t frames = min_u64(bytes_max / CACHE_BLOCK_BYTES, 1u << 30);
    uint64_t cells = 2;
    while (cells < 2 * frames)
        cells *= 2;
    cache->seed = hash_seed;
    cache->frames_max = (uint32_t)frames;
    cache->free_head = NO_FRAME;
    cache->frames = calloc(frames + 1, sizeof *cache->frames);
    cache->table = calloc(cells, sizeof *cache->table);
    ASSERT(cache->frames != NULL && cache->table != NULL);
    cache->table_mask = (uint32_t)(cells - 1);
    cache->stats.bytes_max = bytes_max;
    return cache;
}

void cache_free(struct cache *cache)
{
    if (cache == NULL)
        return;
    for (uint32_t i = 0; i < cache->frames_made; i++)
        free(cache->frames[i].bytes);
    free(cache->frames);
    free(cache->table);
    free(cache);
}

struct span cache_get(struct cache *cache, uint64_t segment, uint64_t block, uint32_t need)
{
    uint32_t number = find(cache, segment, block);
    if (number == NO_FRAME || cache->frames[number].known < need) {
        cache->stats.misses++;
        return span_of(NULL, 0);
    }
    struct frame *frame = &cache->frames[number];
    frame->referenced = true;
    cache->stats.hits++;
    return span_of(frame->bytes, frame->known);
}

void cache_put(struct cache *cache, uint64_t segment, uint64_t block, const void *bytes,
               uint32_t len)
{
    ASSERT(len <= CACHE_BLOCK_BYTES);
    if (cache->frames_max == 0 || len == 0)
        return;
    uint32_t number = find(cache, segment, block);
    if (number == NO_FRAME)
        number = insert(cache, segment, block);
    struct frame *frame = &cache->frames[number];
    if (frame->known < len)
        fill(frame, 0, bytes, len);
}

void cache_extend(struct cache *cache, uint64_t segment, uint64_t offset, const void *bytes,
                  size_t len)
{
    const uint8_t *at = bytes;
    while (len > 0 && cache->frames_max > 0) {
        uint32_t from = (uint32_t)(offset % CACHE_BLOCK_BYTES);
        uint32_t piece = (uint32_t)min_u64(len, CACHE_BLOCK_BYTES - from);
        extend_block(cache, segment, offset / CACHE_BLOCK_BYTES, from, at, piece);
        offset += piece;
        at += piece;
        len -= piece;
    }
}

void cache_drop(struct cache *cache, uint64_t segment)
{
    for (uint32_t i = 0; i < cache->frames_made; i++) {
        struct frame *frame = &cache->frames[i];
        if (frame->bytes == NULL || frame->segment != segment)
            continue;
        discard(cache, i);
        free(frame->bytes);
        *frame = (struct frame){.next_free = cache->free_head};
        cache->free_head = i;
    }
}

void cache_get_stats(const struct cache *cache, struct cache_stats *ret_stats)
{
    *ret_stats = cache->stats;
    ret_stats->bytes = cache->stats.entries * CACHE_BLOCK_BYTES;
}

static void extend_block(struct cache *cache, uint64_t segment, uint64_t block, uint32_t from,
                         const uint8_t *bytes, uint32_t len)
{
    uint32_t number = find(cache, segment, block);
    if (number == NO_FRAME && from == 0)
        number = insert(cache, segment, block);
    if (number != NO_FRAME && cache->frames[number].known == from)
        fill(&cache->frames[number], from, bytes, len);
}

static void fill(struct frame *frame, uint32_t from, const void *bytes, uint32_t len)
{
    ASSERT(from + len <= CACHE_BLOCK_BYTES);
    memcpy(frame->bytes + from, bytes, len);
    frame->known = from + len;
}

/* --- the table: linear probing ------------------------------------------------------------------
 */

static uint32_t home(const struct cache *cache, uint64_t segment, uint64_t block)
{
    const uint64_t key[2] = {segment, block};
    return (uint32_t)XXH3_64bits_withSeed(key, sizeof key, cache->seed) & cache->table_mask;
}

/* The cell that holds this key, or the empty one where it would go. */
static uint32_t probe(const struct cache *cache, uint64_t segment, uint64_t block)
{
    uint32_t cell = home(cache, segment, block);
    while (cache->table[cell] != 0) {
        const struct frame *frame = &cache->frames[cache->table[cell] - 1];
        if (frame->segment == segment && frame->block == block)
            break;
        cell = (cell + 1) & cache->table_mask;
    }
    return cell;
}

static uint32_t find(const struct cache *cache, uint64_t segment, uint64_t block)
{
    uint32_t number = cache->table[probe(cache, segment, block)];
    return number == 0 ? NO_FRAME : number - 1;
}

/* Empties the frame's cell and moves later cells of the same run up, so that no probe ends early.
 */
static void discard(struct cache *cache, uint32_t number)
{
    const struct frame *frame = &cache->frames[number];
    uint32_t hole = probe(cache, frame->segment, frame->block);
    ASSERT(cache->table[hole] == number + 1);
    cache->table[hole] = 0;
    for (uint32_t cell = (hole + 1) & cache->table_mask; cache->table[cell] != 0;
         cell = (cell + 1) & cache->table_mask) {
        const struct frame *other = &cache->frames[cache->table[cell] - 1];
        uint32_t distance = (cell - home(cache, other->segment, other->block)) & cache->table_mask;
        if (distance < ((cell - hole) & cache->table_mask))
            continue;
        cache->table[hole] = cache->table[cell];
        cache->table[cell] = 0;
        hole = cell;
    }
    cache->stats.entries--;
}

/* --- frames
 * --------------------------------------------------------------------------------------- */

/* Second chance: the hand passes over what was hit since it last came by. */
static uint32_t evict(struct cache *cache)
{
    for (;;) {
        uint32_t number = cache->hand;
        cache->hand = (cache->hand + 1) % cache->frames_max;
        struct frame *frame = &cache->frames[number];
        ASSERT(frame->bytes != NULL);
        if (!frame->referenced) {
            discard(cache, number);
            cache->stats.evictions++;
            return number;
        }
        frame->referenced = false;
    }
}

static uint32_t take_frame(struct cache *cache)
{
    uint32_t number = cache->free_head;
    if (number != NO_FRAME)
        cache->free_head = cache->frames[number].next_free;
    else if (cache->frames_made < cache->frames_max)
        number = cache->frames_made++;
    else
        number = evict(cache);
    return number;
}

/* An empty block of this key, which isn't in the table. */
static uint32_t insert(struct cache *cache, uint64_t segment, uint64_t block)
{
    uint32_t number = take_frame(cache);
    struct frame *frame = &cache->frames[number];
    uint8_t *bytes = frame->bytes != NULL ? frame->bytes : malloc(CACHE_BLOCK_BYTES);
    ASSERT(bytes != NULL);
    *frame =
        (struct frame){.segment = segment, .block = block, .bytes = bytes, .next_free = NO_FRAME};
    uint32_t cell = probe(cache, segment, block);
    ASSERT(cache->table[cell] == 0);
    cache->table[cell] = number + 1;
    cache->stats.entries++;
    return number;
}
