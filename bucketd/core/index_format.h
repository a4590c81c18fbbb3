/* The three index files of a sealed segment, and the summary of 32 of them: little-endian, fixed
 * layouts, sections in units of 64 bytes.
 *
 *   index.eidx                   stream.sidx                      partition.pidx
 *   +----------------------+ 0   +----------------------+ 0       +----------------------+ 0
 *   | header               |     | header               |         | header               |
 *   +----------------------+ 4K  +----------------------+ 4K      +----------------------+ 4K
 *   | bloom: 64-byte lines |     | bloom: 64-byte lines |         | table: pidx_entry[]  |
 *   | fan-out: u32[]       |     | fan-out: u32[]       |         | lists: u32 positions |
 *   | entries: eidx_entry[]|     | tags: u32[]          |         +----------------------+ 4K
 *   +----------------------+ 4K  | entries: sidx_entry[]|         | page CRCs: u32[]     |
 *   | page CRCs: u32[]     |     | lists: u32 positions |         +----------------------+
 *   +----------------------+     | names                |
 *                                +----------------------+ 4K
 *                                | page CRCs: u32[]     |
 *                                +----------------------+
 *
 *   A summary, summaries/<first segment>.sum, has header, the bloom filter of all event ids, that
 *   of all streams, and page CRCs. It is made from the sorted hashes of the segments' own files, of
 *   which the top 32 bits can be told; so its filters are of those (index_summary_hash).
 *
 * Where the sections lie follows from the counts in the header alone (index_layout).
 *
 * A key's hash is XXH3 with the header's seed. Its top `fanout_bits` number a bucket; fanout[b] ..
 * fanout[b + 1] are the entries of bucket b. The 32 bits behind those are the entry's tag; a
 * bucket's entries ascend by tag. A bucket holds 8 entries on average at most, so that a lookup
 * touches one bloom line, one line of the fan-out and one or two of tags.
 *
 * A list of one position is kept in the entry itself. Lists lie in the order of their entries,
 * without holes.
 *
 * CRCs: the header has its own. A page's CRC32C starts with the salt (cluster, bucket, segment;
 * where = page number) and the kind; the table of them has its CRC in the header. */
#pragma once

#include "bucketd/core/format.h"
#include "common/err.h"

#define INDEX_VERSION 1u
#define INDEX_PAGE    4096u
#define INDEX_SECTION 64u

enum index_kind { INDEX_EVENTS, INDEX_PARTITIONS, INDEX_STREAMS, INDEX_SUMMARY };
#define INDEX_KINDS 4u
#define EIDX_MAGIC 0x5844494542445253ull /* "SRDBEIDX" */
#define PIDX_MAGIC 0x5844495042445253ull /* "SRDBPIDX" */
#define SIDX_MAGIC 0x5844495342445253ull /* "SRDBSIDX" */
#define SUM_MAGIC  0x4d4d555342445253ull /* "SRDBSUMM" */

struct index_header {
    uint64_t magic;
    uint32_t version;
    uint32_t crc; /* of the whole 4 KiB page with this field 0, salted as page 0 */
    struct uuid cluster_id;
    uint64_t bucket;
    uint64_t segment;
    uint64_t hash_seed;
    uint64_t file_bytes;
    uint32_t events;     /* in the segment; the same in all three files */
    uint32_t keys;       /* entries of this file: events, streams or partitions */
    uint32_t listed;     /* positions in the lists; in a summary: streams */
    uint32_t pages_crc;  /* of the table of page CRCs */
    uint64_t name_bytes; /* stream.sidx only */
};
_Static_assert(sizeof(struct index_header) == 88, "fixed layout");

struct eidx_entry {
    uint32_t tag;
    uint32_t position;
};
_Static_assert(sizeof(struct eidx_entry) == 8, "fixed layout");

struct sidx_entry {
    struct uuid partition_key;
    uint64_t first_version;
    uint32_t count;
    uint32_t list; /* first of its positions in the lists; where count is 1 the position itself */
    uint32_t name; /* in the names, in units of INDEX_NAME_UNIT */
    uint16_t partition;
    uint8_t name_len;
    uint8_t reserved;
};
_Static_assert(sizeof(struct sidx_entry) == 40, "fixed layout");

/* So that 32 bits reach all names that a largest segment can hold. */
#define INDEX_NAME_UNIT 2u

struct pidx_entry {
    uint64_t first_seq;
    uint32_t partition; /* ascending */
    uint32_t count;
    uint32_t list; /* as above */
    uint32_t reserved;
};
_Static_assert(sizeof(struct pidx_entry) == 24, "fixed layout");

/* Where things lie, in bytes from the file's start. Sections a kind doesn't have are empty. */
struct index_layout {
    uint64_t bloom, bloom_lines;
    uint64_t streams_bloom, streams_bloom_lines; /* summary only */
    uint64_t fanout; /* (1 << fanout_bits) + 1 numbers */
    uint32_t fanout_bits;
    uint64_t tags; /* stream.sidx only */
    uint64_t entries;
    uint64_t lists;
    uint64_t names;
    uint64_t page_crcs;
    uint64_t pages; /* whole pages before page_crcs, the header's among them */
    uint64_t file_bytes;
};

/* By kind, keys, listed and name_bytes of the header. False where no file can have such counts. */
bool index_layout(const struct index_header *header, enum index_kind kind,
                  struct index_layout *ret_layout);

/* `salt` names the segment; its `where` is ignored. `page` is one whole page. */
uint32_t index_page_crc(const struct format_salt *salt, enum index_kind kind, uint64_t number,
                        const uint8_t *page);
/* CRC of the header's page, whatever stands in its crc field. */
uint32_t index_header_crc(const struct format_salt *salt, enum index_kind kind,
                          const uint8_t *page);
uint32_t index_pages_crc(const struct format_salt *salt, enum index_kind kind, struct span table);

uint64_t index_magic(enum index_kind kind);

/* The seed of all index files of a bucket, so that a key has one hash in them. */
uint64_t index_file_seed(const struct format_salt *salt);
uint64_t index_hash_event(uint64_t seed, const struct uuid *event_id);
uint64_t index_hash_stream(uint64_t seed, uint32_t partition, struct span stream);

/* What stands for a key in a summary's filters: its top 32 bits, spread over 64. */
static inline uint64_t index_summary_hash(uint64_t hash)
{
    uint64_t mixed = ((hash >> 32) + 1) * 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ (mixed >> 32)) * 0xd6e8feb86659fd93u;
    return mixed ^ (mixed >> 32);
}

static inline uint32_t index_bucket(const struct index_layout *layout, uint64_t hash)
{
    return layout->fanout_bits == 0 ? 0 : (uint32_t)(hash >> (64 - layout->fanout_bits));
}

static inline uint32_t index_tag(const struct index_layout *layout, uint64_t hash)
{
    return (uint32_t)((hash << layout->fanout_bits) >> 32);
}
