/* Summaries of many segments' index files: two bloom filters in a file of the same make. */
#include <stdio.h>
#include <stdlib.h>

#include "bucketd/core/bloom.h"
#include "bucketd/core/index_file.h"
#include "bucketd/core/index_image.h"
#include "common/assert.h"

#define SUMMARY_DIR "summaries"

struct index_summary {
    struct index_file file;
    bool damaged;
};

static enum err open_segments(struct disk *disk, const struct format_salt *salt,
                              struct index **indexes, struct index_header *header);
static enum err add_keys(struct index_file *file, bool tags_apart, uint8_t *bloom,
                         uint64_t bloom_lines);
static void summary_name(uint64_t first, char name[static 24]);
static bool has(struct index_summary *summary, uint64_t bloom, uint64_t lines, uint64_t hash);

enum err index_summary_write(struct disk *disk, const struct format_salt *salt)
{
    ASSERT(salt->segment % INDEX_SUMMARY_SEGMENTS == 0);
    struct index *indexes[INDEX_SUMMARY_SEGMENTS] = {0};
    struct index_image image = {.header = {.hash_seed = index_file_seed(salt)}};
    enum err err = open_segments(disk, salt, indexes, &image.header);
    if (err == ERR_OK)
        index_image_begin(&image, INDEX_SUMMARY, salt);
    for (uint32_t i = 0; i < INDEX_SUMMARY_SEGMENTS && err == ERR_OK; i++) {
        struct index_files *files = indexes[i]->files;
        err = add_keys(&files->file[INDEX_EVENTS], false, image.bytes + image.layout.bloom,
                       image.layout.bloom_lines);
        if (err == ERR_OK)
            err = add_keys(&files->file[INDEX_STREAMS], true,
                           image.bytes + image.layout.streams_bloom,
                           image.layout.streams_bloom_lines);
    }
    for (uint32_t i = 0; i < INDEX_SUMMARY_SEGMENTS; i++) {
        if (indexes[i] != NULL)
            index_free(indexes[i], disk);
    }
    if (err == ERR_OK) {
        char name[24];
        summary_name(salt->segment, name);
        index_image_finish(&image, INDEX_SUMMARY, salt);
        err = disk->ops->mkdir(disk, SUMMARY_DIR);
        if (err == ERR_OK)
            err = index_image_write(&image, disk, SUMMARY_DIR, name);
        if (err == ERR_OK)
            err = disk->ops->sync_dir(disk, SUMMARY_DIR);
    }
    free(image.bytes);
    return err;
}

enum err index_summary_open(struct disk *disk, const struct format_salt *salt,
                            struct index_summary **ret_summary)
{
    char name[24], path[48];
    summary_name(salt->segment, name);
    snprintf(path, sizeof path, SUMMARY_DIR "/%s", name);
    struct span view;
    enum err err = index_file_map(disk, path, &view);
    if (err != ERR_OK)
        return err;
    struct index_summary *summary = calloc(1, sizeof *summary);
    ASSERT(summary != NULL);
    err = index_file_init(&summary->file, INDEX_SUMMARY, view, salt);
    if (err == ERR_OK && summary->file.header.hash_seed != index_file_seed(salt)) {
        index_file_release(&summary->file);
        err = ERR_CORRUPT;
    }
    if (err != ERR_OK) {
        disk->ops->unmap(disk, view);
        free(summary);
        return err;
    }
    *ret_summary = summary;
    return ERR_OK;
}

void index_summary_free(struct index_summary *summary, struct disk *disk)
{
    disk->ops->unmap(disk, summary->file.view);
    index_file_release(&summary->file);
    free(summary);
}

bool index_summary_has_event(struct index_summary *summary, const struct uuid *event_id)
{
    const struct index_file *file = &summary->file;
    return has(summary, file->layout.bloom, file->layout.bloom_lines,
               index_hash_event(file->header.hash_seed, event_id));
}

bool index_summary_has_stream(struct index_summary *summary, uint32_t partition, struct span stream)
{
    const struct index_file *file = &summary->file;
    return has(summary, file->layout.streams_bloom, file->layout.streams_bloom_lines,
               index_hash_stream(file->header.hash_seed, partition, stream));
}

bool index_summary_damaged(const struct index_summary *summary)
{
    return summary->damaged;
}

/* Maps the segments' files and adds up their keys. */
static enum err open_segments(struct disk *disk, const struct format_salt *salt,
                              struct index **indexes, struct index_header *header)
{
    uint64_t events = 0, streams = 0;
    for (uint32_t i = 0; i < INDEX_SUMMARY_SEGMENTS; i++) {
        char dir[32];
        struct format_salt own = *salt;
        own.segment += i;
        snprintf(dir, sizeof dir, "segments/%010llu", (unsigned long long)own.segment);
        enum err err = index_open(disk, dir, &own, &indexes[i]);
        if (err != ERR_OK)
            return err;
        const struct index_files *files = indexes[i]->files;
        if (files->file[INDEX_EVENTS].header.hash_seed != header->hash_seed ||
            files->file[INDEX_STREAMS].header.hash_seed != header->hash_seed)
            return ERR_CORRUPT;
        events += files->file[INDEX_EVENTS].header.keys;
        streams += files->file[INDEX_STREAMS].header.keys;
    }
    if (events > UINT32_MAX)
        return ERR_MAXSIZE;
    header->events = header->keys = (uint32_t)events;
    header->listed = (uint32_t)streams;
    return ERR_OK;
}

/* A bucket's number and an entry's tag are the top bits of the key's hash. */
static enum err add_keys(struct index_file *file, bool tags_apart, uint8_t *bloom, uint64_t lines)
{
    const struct index_layout *layout = &file->layout;
    uint64_t tags = tags_apart ? layout->tags : layout->entries;
    uint64_t stride = tags_apart ? sizeof(uint32_t) : sizeof(struct eidx_entry);
    for (uint64_t bucket = 0; bucket < 1ull << layout->fanout_bits; bucket++) {
        uint32_t from, to;
        enum err err = index_file_bucket(file, (uint32_t)bucket, &from, &to);
        if (err != ERR_OK)
            return err;
        for (uint64_t i = from; i < to; i++) {
            const uint8_t *at = index_file_at(file, tags + i * stride, sizeof(uint32_t));
            if (at == NULL)
                return ERR_CORRUPT;
            uint64_t top = bucket << 32 | load_u32(at);
            uint64_t hash = index_summary_hash(top << (32 - layout->fanout_bits));
            bloom_set(bloom + bloom_line(lines, hash) * BLOOM_LINE_BYTES, hash);
        }
    }
    return ERR_OK;
}

static void summary_name(uint64_t first, char name[static 24])
{
    snprintf(name, 24, "%010llu.sum", (unsigned long long)first);
}

static bool has(struct index_summary *summary, uint64_t bloom, uint64_t lines, uint64_t hash)
{
    hash = index_summary_hash(hash);
    const uint8_t *line = index_file_at(
        &summary->file, bloom + bloom_line(lines, hash) * BLOOM_LINE_BYTES, BLOOM_LINE_BYTES);
    if (line == NULL)
        summary->damaged = true;
    return line == NULL || bloom_has(line, hash);
}
