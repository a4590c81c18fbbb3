/* The mapped form of the index: opening and lookups. Nothing in a file is believed before its
 * page's CRC was checked, and no count or offset is used before it was compared with the section it
 * points into. */
#include <stdio.h>
#include <stdlib.h>

#include "bucketd/core/bloom.h"
#include "bucketd/core/index_file.h"
#include "common/assert.h"

#define PATH_LEN_MAX 256u

static bool header_agrees(const struct index_file *file, const struct format_salt *salt);

enum err index_open(struct disk *disk, const char *dir, const struct format_salt *salt,
                    struct index **ret_index)
{
    struct index_files *files = calloc(1, sizeof *files);
    ASSERT(files != NULL);
    enum err err = ERR_OK;
    for (enum index_kind kind = INDEX_EVENTS; kind < INDEX_FILES && err == ERR_OK; kind++) {
        struct span view;
        char path[PATH_LEN_MAX];
        int len = snprintf(path, sizeof path, "%s/%s", dir, index_file_names[kind]);
        ASSERT(len > 0 && (size_t)len < sizeof path);
        err = index_file_map(disk, path, &view);
        if (err != ERR_OK)
            break;
        err = index_file_init(&files->file[kind], kind, view, salt);
        if (err != ERR_OK)
            disk->ops->unmap(disk, view);
    }
    if (err == ERR_OK) {
        uint32_t events = files->file[INDEX_EVENTS].header.events;
        if (events != files->file[INDEX_STREAMS].header.events ||
            events != files->file[INDEX_PARTITIONS].header.events)
            err = ERR_CORRUPT;
    }
    if (err != ERR_OK) {
        index_files_free(files, disk);
        return err;
    }
    struct index *index = calloc(1, sizeof *index);
    ASSERT(index != NULL);
    index->files = files;
    *ret_index = index;
    return ERR_OK;
}

void index_files_free(struct index_files *files, struct disk *disk)
{
    for (enum index_kind kind = INDEX_EVENTS; kind < INDEX_FILES; kind++) {
        struct index_file *file = &files->file[kind];
        if (file->view.ptr != NULL)
            disk->ops->unmap(disk, file->view);
        index_file_release(file);
    }
    free(files);
}

uint32_t index_files_events(const struct index_files *files)
{
    return files->file[INDEX_EVENTS].header.events;
}

size_t index_files_bytes(const struct index_files *files)
{
    size_t bytes = 0;
    for (enum index_kind kind = INDEX_EVENTS; kind < INDEX_FILES; kind++)
        bytes += files->file[kind].view.len;
    return bytes;
}

size_t index_files_memory(const struct index_files *files)
{
    size_t bytes = sizeof *files;
    for (enum index_kind kind = INDEX_EVENTS; kind < INDEX_FILES; kind++)
        bytes += index_file_memory(&files->file[kind]);
    return bytes;
}

/* --- lookups
 * -------------------------------------------------------------------------------------- */

/* The bucket to search; ERR_NOTFOUND where the bloom filter knows that the key isn't there. */
static enum err find_bucket(struct index_file *file, uint64_t hash, uint32_t *ret_from,
                            uint32_t *ret_to)
{
    const struct index_layout *layout = &file->layout;
    uint64_t line = layout->bloom + bloom_line(layout->bloom_lines, hash) * BLOOM_LINE_BYTES;
    const uint8_t *bloom = index_file_at(file, line, BLOOM_LINE_BYTES);
    if (bloom == NULL)
        return ERR_CORRUPT;
    if (!bloom_has(bloom, hash))
        return ERR_NOTFOUND;
    return index_file_bucket(file, index_bucket(layout, hash), ret_from, ret_to);
}

enum err index_files_find_event(struct index_files *files, const struct uuid *event_id,
                                uint32_t skip, uint32_t *ret_position)
{
    struct index_file *file = &files->file[INDEX_EVENTS];
    uint64_t hash = index_hash_event(file->header.hash_seed, event_id);
    uint32_t from, to;
    enum err err = find_bucket(file, hash, &from, &to);
    if (err != ERR_OK)
        return err;
    const size_t entry_bytes = sizeof(struct eidx_entry);
    const uint8_t *at =
        index_file_at(file, file->layout.entries + from * entry_bytes, (to - from) * entry_bytes);
    if (at == NULL)
        return ERR_CORRUPT;
    uint32_t tag = index_tag(&file->layout, hash);
    for (uint32_t i = from; i < to; i++, at += entry_bytes) {
        struct eidx_entry entry;
        memcpy(&entry, at, sizeof entry);
        if (entry.tag != tag || skip-- > 0)
            continue;
        *ret_position = entry.position;
        return ERR_OK;
    }
    return ERR_NOTFOUND;
}

enum err index_files_find_stream(struct index_files *files, uint32_t partition, struct span stream,
                                 struct index_stream *ret_stream)
{
    struct index_file *file = &files->file[INDEX_STREAMS];
    uint64_t hash = index_hash_stream(file->header.hash_seed, partition, stream);
    uint32_t from, to;
    enum err err = find_bucket(file, hash, &from, &to);
    if (err != ERR_OK)
        return err;
    const size_t tag_bytes = sizeof(uint32_t);
    const uint8_t *at =
        index_file_at(file, file->layout.tags + from * tag_bytes, (to - from) * tag_bytes);
    if (at == NULL)
        return ERR_CORRUPT;
    uint32_t tag = index_tag(&file->layout, hash);
    for (uint32_t i = from; i < to; i++, at += tag_bytes) {
        if (load_u32(at) != tag)
            continue;
        struct sidx_entry entry;
        if (index_file_stream(file, i, &entry) != ERR_OK)
            return ERR_CORRUPT;
        struct span name = index_file_name(file, &entry);
        if (name.ptr == NULL)
            return ERR_CORRUPT;
        if (entry.partition != partition || !span_equal(name, stream))
            continue;
        *ret_stream =
            (struct index_stream){entry.partition_key, entry.first_version, entry.count, i};
        return ERR_OK;
    }
    return ERR_NOTFOUND;
}

enum err index_files_find_partition(struct index_files *files, uint32_t partition,
                                    struct index_partition *ret_partition)
{
    struct index_file *file = &files->file[INDEX_PARTITIONS];
    uint32_t from = 0, to = file->header.keys;
    while (from < to) {
        uint32_t middle = from + (to - from) / 2;
        struct pidx_entry entry;
        if (index_file_partition(file, middle, &entry) != ERR_OK)
            return ERR_CORRUPT;
        if (entry.partition == partition) {
            *ret_partition = (struct index_partition){entry.first_seq, entry.count, middle};
            return ERR_OK;
        }
        if (entry.partition < partition)
            from = middle + 1;
        else
            to = middle;
    }
    return ERR_NOTFOUND;
}

enum err index_files_stream_position(struct index_files *files, const struct index_stream *stream,
                                     uint32_t i, uint32_t *ret_position)
{
    struct index_file *file = &files->file[INDEX_STREAMS];
    struct sidx_entry entry;
    if (index_file_stream(file, stream->slot, &entry) != ERR_OK)
        return ERR_CORRUPT;
    return index_file_position(file, entry.list, entry.count, i, ret_position);
}

enum err index_files_partition_position(struct index_files *files,
                                        const struct index_partition *partition, uint32_t i,
                                        uint32_t *ret_position)
{
    struct index_file *file = &files->file[INDEX_PARTITIONS];
    struct pidx_entry entry;
    if (index_file_partition(file, partition->slot, &entry) != ERR_OK)
        return ERR_CORRUPT;
    return index_file_position(file, entry.list, entry.count, i, ret_position);
}

/* --- one file
 * ------------------------------------------------------------------------------------- */

enum err index_file_map(struct disk *disk, const char *path, struct span *ret_view)
{
    struct file *file;
    enum err err = disk->ops->open(disk, path, OPEN_READ, &file);
    if (err != ERR_OK)
        return err;
    /* An empty file can't be mapped. */
    uint64_t size = 0;
    err = disk->ops->size(disk, file, &size);
    if (err == ERR_OK && size < INDEX_PAGE)
        err = ERR_CORRUPT;
    if (err == ERR_OK)
        err = disk->ops->map(disk, file, ret_view);
    disk->ops->close(disk, file);
    return err;
}

enum err index_file_init(struct index_file *file, enum index_kind kind, struct span view,
                         const struct format_salt *salt)
{
    if (view.len < INDEX_PAGE)
        return ERR_CORRUPT;
    struct index_file new = {.kind = kind, .view = view};
    memcpy(&new.header, view.ptr, sizeof new.header);
    const struct index_header *header = &new.header;
    new.salt = (struct format_salt){header->cluster_id, header->bucket, header->segment, 0};
    if (!header_agrees(&new, salt) || !index_layout(header, kind, &new.layout) ||
        header->file_bytes != view.len || new.layout.file_bytes != view.len)
        return ERR_CORRUPT;
    struct span crcs =
        span_of(view.ptr + new.layout.page_crcs, new.layout.pages * sizeof(uint32_t));
    if (index_pages_crc(&new.salt, kind, crcs) != header->pages_crc)
        return ERR_CORRUPT;

    new.checked = calloc(1, (new.layout.pages + 7) / 8);
    ASSERT(new.checked != NULL);
    /* A summary's filters are large, and wanted at once in a start: its pages wait to be touched.
     */
    uint64_t bloom_bytes = kind == INDEX_SUMMARY ? 0 : new.layout.bloom_lines * BLOOM_LINE_BYTES;
    if (bloom_bytes > 0 && index_file_at(&new, new.layout.bloom, bloom_bytes) == NULL) {
        index_file_release(&new);
        return ERR_CORRUPT;
    }
    *file = new;
    return ERR_OK;
}

static bool header_agrees(const struct index_file *file, const struct format_salt *salt)
{
    const struct index_header *header = &file->header;
    if (header->magic != index_magic(file->kind) || header->version != INDEX_VERSION ||
        header->crc != index_header_crc(&file->salt, file->kind, file->view.ptr))
        return false;
    return salt == NULL || (uuid_equal(&salt->cluster_id, &header->cluster_id) &&
                            salt->bucket == header->bucket && salt->segment == header->segment);
}

void index_file_release(struct index_file *file)
{
    free(file->checked);
    *file = (struct index_file){0};
}

size_t index_file_memory(const struct index_file *file)
{
    return (file->layout.pages + 7) / 8;
}

static bool check_page(struct index_file *file, uint64_t page)
{
    uint8_t *bits = &file->checked[page / 8];
    const uint8_t bit = (uint8_t)(1u << page % 8);
    if (__atomic_load_n(bits, __ATOMIC_RELAXED) & bit)
        return true;
    uint32_t crc = load_u32(file->view.ptr + file->layout.page_crcs + page * sizeof crc);
    if (index_page_crc(&file->salt, file->kind, page, file->view.ptr + page * INDEX_PAGE) != crc)
        return false;
    __atomic_fetch_or(bits, bit, __ATOMIC_RELAXED);
    return true;
}

const uint8_t *index_file_at(struct index_file *file, uint64_t offset, uint64_t len)
{
    if (offset < INDEX_PAGE || offset > file->layout.page_crcs ||
        len > file->layout.page_crcs - offset)
        return NULL;
    for (uint64_t page = offset / INDEX_PAGE; page * INDEX_PAGE < offset + len; page++) {
        if (!check_page(file, page))
            return NULL;
    }
    return file->view.ptr + offset;
}

enum err index_file_bucket(struct index_file *file, uint32_t bucket, uint32_t *ret_from,
                           uint32_t *ret_to)
{
    const uint8_t *at =
        index_file_at(file, file->layout.fanout + bucket * sizeof(uint32_t), 2 * sizeof(uint32_t));
    if (at == NULL)
        return ERR_CORRUPT;
    uint32_t from = load_u32(at), to = load_u32(at + sizeof from);
    if (from > to || to > file->header.keys)
        return ERR_CORRUPT;
    *ret_from = from;
    *ret_to = to;
    return ERR_OK;
}

static bool list_fits(const struct index_file *file, uint64_t first, uint32_t list, uint32_t count)
{
    if (count == 0 || first > UINT64_MAX - count)
        return false;
    return count == 1 || (list <= file->header.listed && count <= file->header.listed - list);
}

enum err index_file_stream(struct index_file *file, uint32_t slot, struct sidx_entry *ret_entry)
{
    ASSERT(slot < file->header.keys);
    struct sidx_entry entry;
    const uint8_t *at =
        index_file_at(file, file->layout.entries + slot * sizeof entry, sizeof entry);
    if (at == NULL)
        return ERR_CORRUPT;
    memcpy(&entry, at, sizeof entry);
    if (!list_fits(file, entry.first_version, entry.list, entry.count))
        return ERR_CORRUPT;
    *ret_entry = entry;
    return ERR_OK;
}

enum err index_file_partition(struct index_file *file, uint32_t slot, struct pidx_entry *ret_entry)
{
    ASSERT(slot < file->header.keys);
    struct pidx_entry entry;
    const uint8_t *at =
        index_file_at(file, file->layout.entries + slot * sizeof entry, sizeof entry);
    if (at == NULL)
        return ERR_CORRUPT;
    memcpy(&entry, at, sizeof entry);
    if (!list_fits(file, entry.first_seq, entry.list, entry.count))
        return ERR_CORRUPT;
    *ret_entry = entry;
    return ERR_OK;
}

struct span index_file_name(struct index_file *file, const struct sidx_entry *entry)
{
    uint64_t offset = entry->name * (uint64_t)INDEX_NAME_UNIT;
    if (offset > file->header.name_bytes || entry->name_len > file->header.name_bytes - offset)
        return span_of(NULL, 0);
    return span_of(index_file_at(file, file->layout.names + offset, entry->name_len),
                   entry->name_len);
}

enum err index_file_position(struct index_file *file, uint32_t list, uint32_t count, uint32_t i,
                             uint32_t *ret_position)
{
    if (i >= count)
        return ERR_CORRUPT;
    if (count == 1) {
        *ret_position = list;
        return ERR_OK;
    }
    uint64_t number = (uint64_t)list + i;
    const uint8_t *at =
        index_file_at(file, file->layout.lists + number * sizeof(uint32_t), sizeof(uint32_t));
    if (at == NULL)
        return ERR_CORRUPT;
    *ret_position = load_u32(at);
    return ERR_OK;
}
