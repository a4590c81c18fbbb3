/* Layout, CRCs and hashes of index files (index_format.h): what writer, reader and check share. */
#include "bucketd/core/index_format.h"

#include <xxhash.h>

#include "bucketd/core/bloom.h"
#include "common/crc32c.h"
#include "common/limits.h"

#define KEYS_PER_BUCKET 8u

static uint64_t put_section(uint64_t *at, uint64_t bytes);
static uint32_t salted(const struct format_salt *salt, enum index_kind kind, uint64_t number);

bool index_layout(const struct index_header *header, enum index_kind kind,
                  struct index_layout *ret_layout)
{
    bool streams = kind == INDEX_STREAMS;
    /* A list is kept apart only where it has two positions or more. */
    if (header->keys > header->events || header->listed > header->events)
        return false;
    if (kind == INDEX_EVENTS && (header->keys != header->events || header->listed != 0))
        return false;
    if (header->name_bytes >
        (streams ? (uint64_t)header->keys * (STREAM_ID_LEN_MAX + INDEX_NAME_UNIT) : 0))
        return false;

    struct index_layout layout = {0};
    uint64_t at = INDEX_PAGE;
    if (kind != INDEX_PARTITIONS) {
        layout.bloom_lines = bloom_lines(header->keys);
        layout.bloom = put_section(&at, layout.bloom_lines * BLOOM_LINE_BYTES);
    }
    if (kind == INDEX_SUMMARY) {
        layout.streams_bloom_lines = bloom_lines(header->listed);
        layout.streams_bloom = put_section(&at, layout.streams_bloom_lines * BLOOM_LINE_BYTES);
    } else if (kind != INDEX_PARTITIONS) {
        while ((uint64_t)KEYS_PER_BUCKET << layout.fanout_bits < header->keys)
            layout.fanout_bits++;
        layout.fanout = put_section(&at, ((1ull << layout.fanout_bits) + 1) * sizeof(uint32_t));
    }
    layout.tags = put_section(&at, streams ? header->keys * (uint64_t)sizeof(uint32_t) : 0);
    const uint64_t entry_bytes[] = {
        [INDEX_EVENTS] = sizeof(struct eidx_entry),
        [INDEX_PARTITIONS] = sizeof(struct pidx_entry),
        [INDEX_STREAMS] = sizeof(struct sidx_entry),
        [INDEX_SUMMARY] = 0,
    };
    layout.entries = put_section(&at, header->keys * entry_bytes[kind]);
    if (kind != INDEX_SUMMARY)
        layout.lists = put_section(&at, header->listed * (uint64_t)sizeof(uint32_t));
    layout.names = put_section(&at, header->name_bytes);
    layout.page_crcs = align_up(at, INDEX_PAGE);
    layout.pages = layout.page_crcs / INDEX_PAGE;
    layout.file_bytes = layout.page_crcs + layout.pages * sizeof(uint32_t);
    *ret_layout = layout;
    return true;
}

uint32_t index_page_crc(const struct format_salt *salt, enum index_kind kind, uint64_t number,
                        const uint8_t *page)
{
    return crc32c(salted(salt, kind, number), page, INDEX_PAGE);
}

uint32_t index_header_crc(const struct format_salt *salt, enum index_kind kind, const uint8_t *page)
{
    const size_t before = offsetof(struct index_header, crc);
    const uint32_t none = 0;
    uint32_t crc = crc32c(salted(salt, kind, 0), page, before);
    crc = crc32c(crc, &none, sizeof none);
    return crc32c(crc, page + before + sizeof none, INDEX_PAGE - before - sizeof none);
}

uint32_t index_pages_crc(const struct format_salt *salt, enum index_kind kind, struct span table)
{
    return crc32c(salted(salt, kind, UINT64_MAX), table.ptr, table.len);
}

uint64_t index_magic(enum index_kind kind)
{
    static const uint64_t magics[INDEX_KINDS] = {
        [INDEX_EVENTS] = EIDX_MAGIC,
        [INDEX_PARTITIONS] = PIDX_MAGIC,
        [INDEX_STREAMS] = SIDX_MAGIC,
        [INDEX_SUMMARY] = SUM_MAGIC,
    };
    return magics[kind];
}

uint64_t index_file_seed(const struct format_salt *salt)
{
    return XXH3_64bits_withSeed(salt->cluster_id.bytes, sizeof salt->cluster_id.bytes,
                                salt->bucket);
}

uint64_t index_hash_event(uint64_t seed, const struct uuid *event_id)
{
    return XXH3_64bits_withSeed(event_id->bytes, sizeof event_id->bytes, seed);
}

uint64_t index_hash_stream(uint64_t seed, uint32_t partition, struct span stream)
{
    return XXH3_64bits_withSeed(stream.ptr, stream.len,
                                seed + 0x9e3779b97f4a7c15u * (partition + 1ull));
}

static uint64_t put_section(uint64_t *at, uint64_t bytes)
{
    uint64_t start = *at;
    *at = align_up(start + bytes, INDEX_SECTION);
    return start;
}

static uint32_t salted(const struct format_salt *salt, enum index_kind kind, uint64_t number)
{
    struct format_salt full = *salt;
    full.where = number;
    const uint32_t kind_number = kind;
    return crc32c(crc32c(0, &full, sizeof full), &kind_number, sizeof kind_number);
}
