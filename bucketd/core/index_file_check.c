/* Checks all of an index's files, and prints one as text. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "bucketd/core/bloom.h"
#include "bucketd/core/index_file.h"
#include "common/assert.h"
#include "common/limits.h"

/* What must be the same in all three files: each lists the position of every event once. */
struct tally {
    uint64_t events;
    uint64_t fingerprint; /* of the positions, in any order */
};

struct printer {
    void (*line)(void *ctx, const char *text);
    void *ctx;
};

static enum err check_pages(struct index_file *file);
static enum err check_events(struct index_file *file, struct tally *ret_tally);
static enum err check_streams(struct index_file *file, uint64_t *per_partition,
                              struct tally *ret_tally);
static enum err check_partitions(struct index_file *file, uint64_t *per_partition,
                                 struct tally *ret_tally);
static enum err check_fanout(struct index_file *file);
static enum err check_list(struct index_file *file, uint32_t list, uint32_t count, uint64_t *listed,
                           struct tally *tally);
static void print(const struct printer *printer, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void print_header(const struct printer *printer, const struct index_file *file);
static enum err print_events(const struct printer *printer, struct index_file *file);
static enum err print_streams(const struct printer *printer, struct index_file *file);
static enum err print_partitions(const struct printer *printer, struct index_file *file);

enum err index_files_check(struct index_files *files)
{
    struct tally events, streams, partitions;
    /* Events of each partition: streams add, the partition takes off. */
    uint64_t *per_partition = calloc(PARTITION_COUNT_MAX + 1, sizeof *per_partition);
    ASSERT(per_partition != NULL);
    enum err err = check_events(&files->file[INDEX_EVENTS], &events);
    if (err == ERR_OK)
        err = check_streams(&files->file[INDEX_STREAMS], per_partition, &streams);
    if (err == ERR_OK)
        err = check_partitions(&files->file[INDEX_PARTITIONS], per_partition, &partitions);
    for (uint32_t i = 0; err == ERR_OK && i <= PARTITION_COUNT_MAX; i++) {
        if (per_partition[i] != 0)
            err = ERR_CORRUPT;
    }
    free(per_partition);
    if (err != ERR_OK)
        return err;
    bool agree = events.events == streams.events && events.events == partitions.events &&
                 events.fingerprint == streams.fingerprint &&
                 events.fingerprint == partitions.fingerprint;
    return agree ? ERR_OK : ERR_CORRUPT;
}

enum err index_dump(struct span bytes, void (*line)(void *ctx, const char *text), void *ctx)
{
    const struct printer printer = {line, ctx};
    if (bytes.len < INDEX_PAGE)
        return ERR_CORRUPT;
    enum index_kind kind = INDEX_EVENTS;
    while (kind < INDEX_KINDS && load_u64(bytes.ptr) != index_magic(kind))
        kind++;
    struct index_file file;
    if (kind == INDEX_KINDS || index_file_init(&file, kind, bytes, NULL) != ERR_OK)
        return ERR_CORRUPT;
    print_header(&printer, &file);
    enum err err = ERR_OK;
    for (uint64_t page = 1; page < file.layout.pages; page++) {
        if (index_file_at(&file, page * INDEX_PAGE, INDEX_PAGE) != NULL)
            continue;
        print(&printer, "damaged page=%lu offset=%lu", page, page * INDEX_PAGE);
        err = ERR_CORRUPT;
    }
    struct tally tally;
    if (err == ERR_OK && kind == INDEX_EVENTS) {
        err = check_events(&file, &tally);
        err = err == ERR_OK ? print_events(&printer, &file) : err;
    } else if (err == ERR_OK && kind == INDEX_STREAMS) {
        err = check_streams(&file, NULL, &tally);
        err = err == ERR_OK ? print_streams(&printer, &file) : err;
    } else if (err == ERR_OK && kind == INDEX_PARTITIONS) {
        err = check_partitions(&file, NULL, &tally);
        err = err == ERR_OK ? print_partitions(&printer, &file) : err;
    }
    index_file_release(&file);
    return err;
}

/* --- checks
 * --------------------------------------------------------------------------------------- */

static void count_position(struct tally *tally, uint32_t position)
{
    uint64_t mixed = (position + 1ull) * 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ (mixed >> 32)) * 0xd6e8feb86659fd93u;
    tally->fingerprint += mixed ^ (mixed >> 29);
    tally->events++;
}

static enum err check_pages(struct index_file *file)
{
    uint64_t data = file->layout.page_crcs - INDEX_PAGE;
    return index_file_at(file, INDEX_PAGE, data) != NULL ? ERR_OK : ERR_CORRUPT;
}

/* Buckets follow each other without holes from the first entry to the last. */
static enum err check_fanout(struct index_file *file)
{
    uint32_t expected = 0;
    for (uint32_t b = 0; b < 1u << file->layout.fanout_bits; b++) {
        uint32_t from, to;
        if (index_file_bucket(file, b, &from, &to) != ERR_OK || from != expected)
            return ERR_CORRUPT;
        expected = to;
    }
    return expected == file->header.keys ? ERR_OK : ERR_CORRUPT;
}

static struct eidx_entry event_entry(const struct index_file *file, uint32_t i)
{
    struct eidx_entry entry;
    memcpy(&entry, file->view.ptr + file->layout.entries + i * sizeof entry, sizeof entry);
    return entry;
}

static enum err check_events(struct index_file *file, struct tally *ret_tally)
{
    struct tally tally = {0};
    if (check_pages(file) != ERR_OK || check_fanout(file) != ERR_OK)
        return ERR_CORRUPT;
    for (uint32_t b = 0; b < 1u << file->layout.fanout_bits; b++) {
        uint32_t from, to, tag = 0;
        if (index_file_bucket(file, b, &from, &to) != ERR_OK)
            return ERR_CORRUPT;
        for (uint32_t i = from; i < to; i++) {
            struct eidx_entry entry = event_entry(file, i);
            if (entry.tag < tag)
                return ERR_CORRUPT;
            tag = entry.tag;
            count_position(&tally, entry.position);
        }
    }
    *ret_tally = tally;
    return ERR_OK;
}

/* Lists lie in the order of their entries: *listed is where the next one must begin. */
static enum err check_list(struct index_file *file, uint32_t list, uint32_t count, uint64_t *listed,
                           struct tally *tally)
{
    if (count > 1 && list != *listed)
        return ERR_CORRUPT;
    *listed += count > 1 ? count : 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t position;
        if (index_file_position(file, list, count, i, &position) != ERR_OK)
            return ERR_CORRUPT;
        count_position(tally, position);
    }
    return ERR_OK;
}

/* One entry against its bucket, tag, bloom filter and name. */
static enum err check_stream(struct index_file *file, uint32_t bucket, uint32_t i,
                             const struct sidx_entry *entry)
{
    const struct index_layout *layout = &file->layout;
    struct span name = index_file_name(file, entry);
    if (name.ptr == NULL || name.len > STREAM_ID_LEN_MAX || entry->reserved != 0)
        return ERR_CORRUPT;
    uint64_t hash = index_hash_stream(file->header.hash_seed, entry->partition, name);
    uint32_t tag = load_u32(file->view.ptr + layout->tags + i * sizeof tag);
    const uint8_t *line =
        file->view.ptr + layout->bloom + bloom_line(layout->bloom_lines, hash) * BLOOM_LINE_BYTES;
    bool right = index_bucket(layout, hash) == bucket && index_tag(layout, hash) == tag &&
                 bloom_has(line, hash);
    return right ? ERR_OK : ERR_CORRUPT;
}

static enum err check_streams(struct index_file *file, uint64_t *per_partition,
                              struct tally *ret_tally)
{
    struct tally tally = {0};
    uint64_t listed = 0, name = 0;
    if (check_pages(file) != ERR_OK || check_fanout(file) != ERR_OK)
        return ERR_CORRUPT;
    for (uint32_t b = 0; b < 1u << file->layout.fanout_bits; b++) {
        uint32_t from, to;
        if (index_file_bucket(file, b, &from, &to) != ERR_OK)
            return ERR_CORRUPT;
        for (uint32_t i = from; i < to; i++) {
            struct sidx_entry entry;
            if (index_file_stream(file, i, &entry) != ERR_OK ||
                check_stream(file, b, i, &entry) != ERR_OK)
                return ERR_CORRUPT;
            if (entry.name != name ||
                check_list(file, entry.list, entry.count, &listed, &tally) != ERR_OK)
                return ERR_CORRUPT;
            name += align_up(entry.name_len, INDEX_NAME_UNIT) / INDEX_NAME_UNIT;
            if (per_partition != NULL)
                per_partition[entry.partition] += entry.count;
        }
    }
    if (tally.events != file->header.events || listed != file->header.listed ||
        name * INDEX_NAME_UNIT != file->header.name_bytes)
        return ERR_CORRUPT;
    *ret_tally = tally;
    return ERR_OK;
}

static enum err check_partitions(struct index_file *file, uint64_t *per_partition,
                                 struct tally *ret_tally)
{
    struct tally tally = {0};
    uint64_t listed = 0;
    uint64_t next_partition = 0;
    if (check_pages(file) != ERR_OK)
        return ERR_CORRUPT;
    for (uint32_t i = 0; i < file->header.keys; i++) {
        struct pidx_entry entry;
        if (index_file_partition(file, i, &entry) != ERR_OK || entry.partition < next_partition ||
            entry.partition > PARTITION_COUNT_MAX || entry.reserved != 0)
            return ERR_CORRUPT;
        if (check_list(file, entry.list, entry.count, &listed, &tally) != ERR_OK)
            return ERR_CORRUPT;
        next_partition = entry.partition + 1ull;
        if (per_partition != NULL)
            per_partition[entry.partition] -= entry.count;
    }
    if (tally.events != file->header.events || listed != file->header.listed)
        return ERR_CORRUPT;
    *ret_tally = tally;
    return ERR_OK;
}

/* --- text
 * ----------------------------------------------------------------------------------------- */

static void print(const struct printer *printer, const char *format, ...)
{
    char text[768];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    printer->line(printer->ctx, text);
}

static void format_uuid(const struct uuid *uuid, char text[static UUID_TEXT_LEN + 1])
{
    uuid_format(uuid, text);
    text[UUID_TEXT_LEN] = '\0';
}

static void print_header(const struct printer *printer, const struct index_file *file)
{
    char cluster[UUID_TEXT_LEN + 1];
    const struct index_header *header = &file->header;
    format_uuid(&header->cluster_id, cluster);
    print(printer, "%s version=%u cluster=%s bucket=%lu segment=%010lu",
          file->kind == INDEX_SUMMARY ? "summary" : index_file_names[file->kind], header->version,
          cluster, header->bucket, header->segment);
    print(printer,
          "events=%u keys=%u listed=%u name_bytes=%lu file_bytes=%lu pages=%lu bloom_lines=%lu "
          "fanout_bits=%u",
          header->events, header->keys, header->listed, header->name_bytes, header->file_bytes,
          file->layout.pages, file->layout.bloom_lines, file->layout.fanout_bits);
}

static enum err print_events(const struct printer *printer, struct index_file *file)
{
    for (uint32_t b = 0; b < 1u << file->layout.fanout_bits; b++) {
        uint32_t from, to;
        if (index_file_bucket(file, b, &from, &to) != ERR_OK)
            return ERR_CORRUPT;
        for (uint32_t i = from; i < to; i++) {
            struct eidx_entry entry = event_entry(file, i);
            print(printer, "event bucket=%u tag=%08x offset=%lu", b, entry.tag,
                  entry.position * (uint64_t)POSITION_UNIT);
        }
    }
    return ERR_OK;
}

/* One line for each position, with the number it has: version or sequence. */
static enum err print_list(const struct printer *printer, struct index_file *file, const char *what,
                           uint64_t first, uint32_t list, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t position;
        if (index_file_position(file, list, count, i, &position) != ERR_OK)
            return ERR_CORRUPT;
        print(printer, "  %s=%lu offset=%lu", what, first + i, position * (uint64_t)POSITION_UNIT);
    }
    return ERR_OK;
}

/* Printable ASCII as it is, other bytes, quotes and backslashes as \xNN. */
static void escape(struct span name, char text[static 4 * UINT8_MAX + 1])
{
    char *to = text;
    for (size_t i = 0; i < name.len; i++) {
        uint8_t byte = name.ptr[i];
        if (byte >= 0x20 && byte < 0x7f && byte != '"' && byte != '\\')
            *to++ = (char)byte;
        else
            to += snprintf(to, 5, "\\x%02x", byte);
    }
    *to = '\0';
}

static enum err print_streams(const struct printer *printer, struct index_file *file)
{
    for (uint32_t i = 0; i < file->header.keys; i++) {
        struct sidx_entry entry;
        if (index_file_stream(file, i, &entry) != ERR_OK)
            return ERR_CORRUPT;
        char name[4 * UINT8_MAX + 1], key[UUID_TEXT_LEN + 1];
        escape(index_file_name(file, &entry), name);
        format_uuid(&entry.partition_key, key);
        print(printer, "stream \"%s\" partition=%u key=%s versions=%lu..%lu", name, entry.partition,
              key, entry.first_version, entry.first_version + entry.count - 1);
        if (print_list(printer, file, "version", entry.first_version, entry.list, entry.count) !=
            ERR_OK)
            return ERR_CORRUPT;
    }
    return ERR_OK;
}

static enum err print_partitions(const struct printer *printer, struct index_file *file)
{
    for (uint32_t i = 0; i < file->header.keys; i++) {
        struct pidx_entry entry;
        if (index_file_partition(file, i, &entry) != ERR_OK)
            return ERR_CORRUPT;
        print(printer, "partition=%u sequences=%lu..%lu", entry.partition, entry.first_seq,
              entry.first_seq + entry.count - 1);
        if (print_list(printer, file, "sequence", entry.first_seq, entry.list, entry.count) !=
            ERR_OK)
            return ERR_CORRUPT;
    }
    return ERR_OK;
}
