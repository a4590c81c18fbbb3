/* The fixed front of a segment file (header, checkpoint) and its footer; reading a file through a
 * window. */
#include "bucketd/core/wal_internal.h"

#include <stdlib.h>

static enum err header_read(struct wal_reader *reader, const struct format_salt *salt,
                            const struct segment_header *expected, struct wal_front *ret,
                            struct buf *what);
static enum err header_compare(const struct segment_header *header, const struct format_salt *salt,
                               const struct segment_header *expected, struct buf *what);
static enum err checkpoint_read(struct wal_reader *reader, uint32_t base, struct wal_front *ret,
                                uint64_t **ret_next_seq, struct buf *what);
static bool checkpoint_plausible(const struct checkpoint *checkpoint);
static enum err footer_read(struct wal_reader *reader, uint32_t base, struct wal_front *front);

enum err wal_front_read(struct wal_reader *reader, const struct format_salt *salt,
                        const struct segment_header *expected, struct wal_front *ret,
                        uint64_t **ret_next_seq, struct buf *what)
{
    *ret = (struct wal_front){0};
    enum err err = header_read(reader, salt, expected, ret, what);
    if (err != ERR_OK)
        return err;
    err = checkpoint_read(reader, wal_salt_base(salt), ret, ret_next_seq, what);
    if (err != ERR_OK)
        return err;
    return footer_read(reader, wal_salt_base(salt), ret);
}

/* The salt is part of the CRC, so a header of another cluster would look damaged: its own claim is
 * what it is checked with, then the claim is compared. */
static enum err header_read(struct wal_reader *reader, const struct format_salt *salt,
                            const struct segment_header *expected, struct wal_front *ret,
                            struct buf *what)
{
    const uint8_t *bytes = NULL;
    enum err err = wal_reader_get(reader, 0, FORMAT_BLOCK, &bytes);
    if (err != ERR_OK && err != ERR_TRUNCATED)
        return err;
    if (err == ERR_OK) {
        struct segment_header *header = &ret->header;
        memcpy(header, bytes, sizeof *header);
        struct format_salt own = {
            .cluster_id = header->cluster_id, .bucket = header->bucket, .segment = header->segment};
        uint32_t crc = wal_crc_struct(wal_salt_base(&own), 0, bytes, FORMAT_BLOCK,
                                      offsetof(struct segment_header, crc));
        if (header->magic == SEGMENT_MAGIC && header->crc == crc)
            return header_compare(header, salt, expected, what);
    }
    if (expected == NULL) {
        buf_printf(what, "segment header");
        return ERR_CORRUPT;
    }
    ret->header_bad = true;
    ret->header = *expected;
    return ERR_OK;
}

static enum err header_compare(const struct segment_header *header, const struct format_salt *salt,
                               const struct segment_header *expected, struct buf *what)
{
    if (!uuid_equal(&header->cluster_id, &salt->cluster_id)) {
        char found[UUID_TEXT_LEN], wanted[UUID_TEXT_LEN];
        uuid_format(&header->cluster_id, found);
        uuid_format(&salt->cluster_id, wanted);
        buf_printf(what, "cluster id: expected %.36s, found %.36s", wanted, found);
        return ERR_CORRUPT;
    }
    const struct {
        const char *name;
        uint64_t expected, found;
        bool always;
    } facts[] = {
        {"format version", FORMAT_VERSION, header->version, true},
        {"bucket", salt->bucket, header->bucket, true},
        {"segment number", salt->segment, header->segment, true},
        {"node", expected ? expected->node : 0, header->node, false},
        {"bucket count", expected ? expected->bucket_count : 0, header->bucket_count, false},
        {"partition count", expected ? expected->partition_count : 0, header->partition_count,
         false},
    };
    for (size_t i = 0; i < sizeof facts / sizeof facts[0]; i++) {
        if (facts[i].expected != facts[i].found && (facts[i].always || expected != NULL)) {
            buf_printf(what, "%s: expected %llu, found %llu", facts[i].name,
                       (unsigned long long)facts[i].expected, (unsigned long long)facts[i].found);
            return ERR_CORRUPT;
        }
    }
    bool plausible = header->bucket_count > 0 && header->partition_count <= PARTITION_COUNT_MAX &&
                     header->bucket < header->bucket_count;
    uint32_t slots =
        plausible ? wal_slot_count(header->bucket, header->bucket_count, header->partition_count)
                  : 0;
    if (!plausible || header->data_start != wal_data_start(slots)) {
        buf_printf(what, "segment header contradicts itself");
        return ERR_CORRUPT;
    }
    return ERR_OK;
}

static enum err checkpoint_read(struct wal_reader *reader, uint32_t base, struct wal_front *ret,
                                uint64_t **ret_next_seq, struct buf *what)
{
    const struct segment_header *header = &ret->header;
    uint32_t slots = wal_slot_count(header->bucket, header->bucket_count, header->partition_count);
    size_t len = sizeof(struct checkpoint) + slots * sizeof(struct partition_state);
    for (unsigned copy = 0; copy < 2; copy++) {
        const uint8_t *bytes = NULL;
        enum err err =
            wal_reader_get(reader, FORMAT_BLOCK + copy * align_up(len, FORMAT_BLOCK), len, &bytes);
        if (err != ERR_OK && err != ERR_TRUNCATED)
            return err;
        struct checkpoint checkpoint = {0};
        if (err == ERR_OK)
            memcpy(&checkpoint, bytes, sizeof checkpoint);
        if (checkpoint.magic != CHECKPOINT_MAGIC || checkpoint.partitions != slots ||
            checkpoint.crc !=
                wal_crc_struct(base, FORMAT_BLOCK, bytes, len, offsetof(struct checkpoint, crc)) ||
            !checkpoint_plausible(&checkpoint)) {
            ret->checkpoints_bad++;
            continue;
        }
        if (copy > ret->checkpoints_bad)
            continue; /* the first one was good */
        ret->checkpoint = checkpoint;
        uint64_t *next_seq = calloc(slots + 1, sizeof *next_seq);
        ASSERT(next_seq != NULL);
        for (uint32_t i = 0; i < slots; i++) {
            struct partition_state state;
            memcpy(&state, bytes + sizeof checkpoint + i * sizeof state, sizeof state);
            next_seq[i] = state.next_seq;
        }
        *ret_next_seq = next_seq;
    }
    if (ret->checkpoints_bad == 2)
        buf_printf(what, "both copies of the checkpoint");
    return ret->checkpoints_bad == 2 ? ERR_CORRUPT : ERR_OK;
}

/* No arithmetic on what follows from it can overflow, and it doesn't contradict itself. */
static bool checkpoint_plausible(const struct checkpoint *checkpoint)
{
    return checkpoint->term <= WAL_NUMBER_MAX && checkpoint->last_idx <= WAL_NUMBER_MAX &&
           checkpoint->batch_no <= WAL_NUMBER_MAX && checkpoint->events <= WAL_NUMBER_MAX &&
           checkpoint->last_term <= checkpoint->term &&
           checkpoint->config_idx <= checkpoint->last_idx &&
           checkpoint->commit_hint <= checkpoint->last_idx && checkpoint->voters <= REPLICAS_MAX &&
           (checkpoint->voters == 0) == (checkpoint->config_idx == 0) &&
           (checkpoint->last_idx == 0) == (checkpoint->batch_no == 0);
}

static enum err footer_read(struct wal_reader *reader, uint32_t base, struct wal_front *front)
{
    const uint8_t *bytes = NULL;
    if (reader->size < front->header.data_start + sizeof front->footer || reader->size % 8 != 0)
        return ERR_OK;
    uint64_t where = reader->size - sizeof front->footer;
    enum err err = wal_reader_get(reader, where, sizeof front->footer, &bytes);
    if (err != ERR_OK)
        return err;
    struct segment_footer footer;
    memcpy(&footer, bytes, sizeof footer);
    uint32_t crc =
        wal_crc_struct(base, where, &footer, sizeof footer, offsetof(struct segment_footer, crc));
    front->sealed = footer.magic == FOOTER_MAGIC && footer.crc == crc && footer.data_end == where;
    if (front->sealed)
        front->footer = footer;
    return ERR_OK;
}

/* --- reading through a window --- */

enum err wal_reader_open(struct wal_reader *reader, struct disk *disk, const char *path)
{
    *reader = (struct wal_reader){.disk = disk};
    enum err err = disk->ops->open(disk, path, OPEN_READ, &reader->file);
    if (err != ERR_OK)
        return err;
    err = disk->ops->size(disk, reader->file, &reader->size);
    if (err != ERR_OK)
        wal_reader_close(reader);
    return err;
}

void wal_reader_close(struct wal_reader *reader)
{
    if (reader->file != NULL)
        reader->disk->ops->close(reader->disk, reader->file);
    buf_release(&reader->window);
    *reader = (struct wal_reader){0};
}

enum err wal_reader_get(struct wal_reader *reader, uint64_t offset, size_t len,
                        const uint8_t **ret_bytes)
{
    if (offset > reader->size || len > reader->size - offset)
        return ERR_TRUNCATED;
    if (offset < reader->start || offset + len > reader->start + reader->window.len) {
        size_t want = (size_t)min_u64(max_u64(len, WAL_READ_BYTES), reader->size - offset);
        size_t got = 0;
        buf_clear(&reader->window, WAL_GROUP_BYTES * 2);
        reader->start = offset;
        buf_reserve(&reader->window, want);
        enum err err = reader->disk->ops->pread(reader->disk, reader->file, offset,
                                                reader->window.ptr, want, &got);
        if (err != ERR_OK)
            return err;
        reader->window.len = got;
        if (got < len)
            return ERR_TRUNCATED; /* shrank meanwhile */
    }
    *ret_bytes = reader->window.ptr + (offset - reader->start);
    return ERR_OK;
}
