/* Writes the three index files of an in-memory index: each is built whole in memory, then written,
 * synced and renamed. */
#include <stdio.h>
#include <stdlib.h>

#include "bucketd/core/bloom.h"
#include "bucketd/core/index_image.h"
#include "bucketd/core/index_internal.h"
#include "common/assert.h"

#define PATH_LEN_MAX 256u

const char *const index_file_names[INDEX_FILES] = {
    [INDEX_EVENTS] = "index.eidx",
    [INDEX_PARTITIONS] = "partition.pidx",
    [INDEX_STREAMS] = "stream.sidx",
};

/* Keys to be sorted, as (hash, value): next goes on to the next key, `at` starts as zeros. */
struct key_cursor {
    const struct index_memory *memory;
    uint64_t seed;
    uint32_t event;
    struct index_memory_stream stream;
};
typedef bool next_key_fn(struct key_cursor *at, uint64_t *ret_hash, uint32_t *ret_value);

static void build_events(struct index_image *image, const struct index_memory *memory);
static void build_streams(struct index_image *image, const struct index_memory *memory);
static void build_partitions(struct index_image *image, const struct index_memory *memory);
static void count_streams(const struct index_memory *memory, struct index_header *header);
static void count_partitions(const struct index_memory *memory, struct index_header *header);

enum err index_write(const struct index *index, struct disk *disk, const char *dir,
                     const struct format_salt *salt)
{
    ASSERT(index->memory != NULL);
    const struct index_memory *memory = index->memory;
    const uint64_t seed = index_file_seed(salt);

    for (enum index_kind kind = INDEX_EVENTS; kind < INDEX_FILES; kind++) {
        struct index_image image = {
            .header = {.hash_seed = seed, .events = index_memory_events(memory)}};
        if (kind == INDEX_EVENTS)
            image.header.keys = image.header.events;
        else if (kind == INDEX_STREAMS)
            count_streams(memory, &image.header);
        else
            count_partitions(memory, &image.header);
        index_image_begin(&image, kind, salt);
        if (kind == INDEX_EVENTS)
            build_events(&image, memory);
        else if (kind == INDEX_STREAMS)
            build_streams(&image, memory);
        else
            build_partitions(&image, memory);
        index_image_finish(&image, kind, salt);
        enum err err = index_image_write(&image, disk, dir, index_file_names[kind]);
        free(image.bytes);
        if (err != ERR_OK)
            return err;
    }
    return disk->ops->sync_dir(disk, dir);
}

static uint32_t name_units(size_t len)
{
    return (uint32_t)(len + INDEX_NAME_UNIT - 1) / INDEX_NAME_UNIT;
}

static void count_streams(const struct index_memory *memory, struct index_header *header)
{
    struct index_memory_stream stream = {0};
    header->keys = index_memory_streams(memory);
    while (index_memory_next_stream(memory, &stream)) {
        header->name_bytes += name_units(stream.name.len) * (uint64_t)INDEX_NAME_UNIT;
        header->listed += stream.count > 1 ? stream.count : 0;
    }
}

static void count_partitions(const struct index_memory *memory, struct index_header *header)
{
    header->keys = index_memory_partitions(memory);
    for (uint32_t i = 0; i < header->keys; i++) {
        uint32_t count = index_memory_partition(memory, i).count;
        header->listed += count > 1 ? count : 0;
    }
}

/* --- contents
 * ------------------------------------------------------------------------------------- */

/* A bucket holds a few entries: anything cleverer would cost more. */
static void sort_bucket(struct eidx_entry *entries, uint32_t count)
{
    for (uint32_t i = 1; i < count; i++) {
        struct eidx_entry entry = entries[i];
        uint32_t to = i;
        for (; to > 0; to--) {
            struct eidx_entry before = entries[to - 1];
            if (before.tag < entry.tag ||
                (before.tag == entry.tag && before.position <= entry.position))
                break;
            entries[to] = before;
        }
        entries[to] = entry;
    }
}

/* Fills the image's bloom filter and fan-out, and `to` with (tag, value) in the order of the file.
 */
static void sort_keys(struct index_image *image, struct key_cursor start, next_key_fn *next,
                      struct eidx_entry *to)
{
    const struct index_layout *layout = &image->layout;
    const uint32_t buckets = 1u << layout->fanout_bits;
    uint32_t *fanout = (uint32_t *)(image->bytes + layout->fanout);
    uint8_t *bloom = image->bytes + layout->bloom;
    uint64_t hash;
    uint32_t value;
    for (struct key_cursor at = start; next(&at, &hash, &value);) {
        bloom_set(bloom + bloom_line(layout->bloom_lines, hash) * BLOOM_LINE_BYTES, hash);
        fanout[index_bucket(layout, hash) + 1]++;
    }
    for (uint32_t b = 0; b < buckets; b++)
        fanout[b + 1] += fanout[b];
    for (struct key_cursor at = start; next(&at, &hash, &value);)
        to[fanout[index_bucket(layout, hash)]++] =
            (struct eidx_entry){index_tag(layout, hash), value};
    /* Each start has moved to its bucket's end, which is the start of the next one. */
    for (uint32_t b = buckets; b > 0; b--)
        fanout[b] = fanout[b - 1];
    fanout[0] = 0;
    for (uint32_t b = 0; b < buckets; b++)
        sort_bucket(to + fanout[b], fanout[b + 1] - fanout[b]);
}

static bool next_event(struct key_cursor *at, uint64_t *ret_hash, uint32_t *ret_value)
{
    if (at->event == index_memory_events(at->memory))
        return false;
    struct uuid id = index_memory_event(at->memory, at->event++, ret_value);
    *ret_hash = index_hash_event(at->seed, &id);
    return true;
}

static void build_events(struct index_image *image, const struct index_memory *memory)
{
    struct key_cursor start = {.memory = memory, .seed = image->header.hash_seed};
    sort_keys(image, start, next_event,
              (struct eidx_entry *)(image->bytes + image->layout.entries));
}

static bool next_stream(struct key_cursor *at, uint64_t *ret_hash, uint32_t *ret_value)
{
    if (!index_memory_next_stream(at->memory, &at->stream))
        return false;
    *ret_hash = index_hash_stream(at->seed, at->stream.partition, at->stream.name);
    *ret_value = at->stream.slot;
    return true;
}

/* Puts a list behind those already there, or its only position into the entry. */
static uint32_t put_list(struct index_image *image, uint32_t *listed, const uint32_t *positions,
                         uint32_t count)
{
    if (count == 1)
        return positions[0];
    uint32_t first = *listed;
    ASSERT(count > 1 && count <= image->header.listed - first);
    memcpy(image->bytes + image->layout.lists + first * sizeof *positions, positions,
           count * sizeof *positions);
    *listed += count;
    return first;
}

static void build_streams(struct index_image *image, const struct index_memory *memory)
{
    const struct index_layout *layout = &image->layout;
    const uint32_t keys = image->header.keys;
    struct eidx_entry *order = malloc((keys + 1ull) * sizeof *order);
    ASSERT(order != NULL);
    sort_keys(image, (struct key_cursor){.memory = memory, .seed = image->header.hash_seed},
              next_stream, order);

    uint32_t *tags = (uint32_t *)(image->bytes + layout->tags);
    struct sidx_entry *entries = (struct sidx_entry *)(image->bytes + layout->entries);
    uint32_t listed = 0, name = 0;
    for (uint32_t i = 0; i < keys; i++) {
        struct index_memory_stream stream = index_memory_stream(memory, order[i].position);
        tags[i] = order[i].tag;
        entries[i] = (struct sidx_entry){
            .partition_key = stream.partition_key,
            .first_version = stream.first_version,
            .count = stream.count,
            .list = put_list(image, &listed, stream.positions, stream.count),
            .name = name,
            .partition = (uint16_t)stream.partition,
            .name_len = (uint8_t)stream.name.len,
        };
        memcpy(image->bytes + layout->names + name * (uint64_t)INDEX_NAME_UNIT, stream.name.ptr,
               stream.name.len);
        name += name_units(stream.name.len);
    }
    free(order);
}

static int compare_partitions(const void *a, const void *b)
{
    const struct index_memory_partition *left = a, *right = b;
    return (left->partition > right->partition) - (left->partition < right->partition);
}

static void build_partitions(struct index_image *image, const struct index_memory *memory)
{
    const uint32_t keys = image->header.keys;
    struct index_memory_partition *order = malloc((keys + 1ull) * sizeof *order);
    ASSERT(order != NULL);
    for (uint32_t i = 0; i < keys; i++)
        order[i] = index_memory_partition(memory, i);
    qsort(order, keys, sizeof *order, compare_partitions);

    struct pidx_entry *entries = (struct pidx_entry *)(image->bytes + image->layout.entries);
    uint32_t listed = 0;
    for (uint32_t i = 0; i < keys; i++) {
        entries[i] = (struct pidx_entry){
            .first_seq = order[i].first_seq,
            .partition = order[i].partition,
            .count = order[i].count,
            .list = put_list(image, &listed, order[i].positions, order[i].count),
        };
    }
    free(order);
}

/* --- the file
 * ------------------------------------------------------------------------------------- */

/* From the counts in the header. */
void index_image_begin(struct index_image *image, enum index_kind kind,
                       const struct format_salt *salt)
{
    bool fits = index_layout(&image->header, kind, &image->layout);
    ASSERT(fits);
    image->bytes = calloc(1, image->layout.file_bytes);
    ASSERT(image->bytes != NULL);
    image->header.magic = index_magic(kind);
    image->header.version = INDEX_VERSION;
    image->header.cluster_id = salt->cluster_id;
    image->header.bucket = salt->bucket;
    image->header.segment = salt->segment;
    image->header.file_bytes = image->layout.file_bytes;
}

/* The header's page comes last: it tells the CRC of the table, which has the others'. Its own place
 * in the table is 0. */
void index_image_finish(struct index_image *image, enum index_kind kind,
                        const struct format_salt *salt)
{
    const struct index_layout *layout = &image->layout;
    uint32_t *crcs = (uint32_t *)(image->bytes + layout->page_crcs);
    for (uint64_t page = 1; page < layout->pages; page++)
        crcs[page] = index_page_crc(salt, kind, page, image->bytes + page * INDEX_PAGE);
    image->header.pages_crc =
        index_pages_crc(salt, kind, span_of(crcs, layout->pages * sizeof *crcs));
    memcpy(image->bytes, &image->header, sizeof image->header);
    image->header.crc = index_header_crc(salt, kind, image->bytes);
    memcpy(image->bytes, &image->header, sizeof image->header);
}

enum err index_image_write(const struct index_image *image, struct disk *disk, const char *dir,
                           const char *name)
{
    char path[PATH_LEN_MAX], path_new[PATH_LEN_MAX];
    int len = snprintf(path, sizeof path, "%s/%s", dir, name);
    int len_new = snprintf(path_new, sizeof path_new, "%s/%s.new", dir, name);
    ASSERT(len > 0 && len_new > len && (size_t)len_new < sizeof path_new);

    enum err err = disk->ops->unlink(disk, path_new); /* left by a crash */
    if (err != ERR_OK && err != ERR_NOTFOUND)
        return err;
    struct file *file;
    err = disk->ops->open(disk, path_new, OPEN_CREATE, &file);
    if (err != ERR_OK)
        return err;
    err = disk->ops->pwrite(disk, file, 0, image->bytes, image->layout.file_bytes);
    if (err == ERR_OK)
        err = disk->ops->sync(disk, file);
    disk->ops->close(disk, file);
    if (err == ERR_OK)
        err = disk->ops->rename(disk, path_new, path);
    if (err != ERR_OK) {
        /* Only room is lost if this fails too. */
        enum err cleanup = disk->ops->unlink(disk, path_new);
        (void)cleanup;
    }
    return err;
}
