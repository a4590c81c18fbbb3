/* Reading a log from the durable bytes of a simulated disk. */
#include "tests/sim/cluster/cl_durable.h"

#include <stdlib.h>

#include "bucketd/core/wal_internal.h"
#include "tests/sim/disk_internal.h"

static const struct inode *find_segment(const struct sim_disk *disk, uint64_t number,
                                        uint64_t *ret_newest);
static const struct inode *data_file(const struct sim_disk *disk, const struct dir_entry *segment);
static const struct dir_entry *find_name(const struct dir_list *list, const char *name);
static uint32_t salt_base(const struct bucket_config *config, uint64_t segment);
static bool begin_segment(struct durable_log *log, const struct inode *file, uint64_t number,
                          const struct bucket_config *config);
static bool read_batch(struct durable_log *log, const struct inode *file, uint32_t base);
static void apply_record(struct durable_log *log, const uint8_t *bytes);
static void push(struct durable_log *log, const struct entry_head *head);

void durable_log_release(struct durable_log *log)
{
    free(log->points);
    *log = (struct durable_log){0};
}

void durable_log_forget(struct durable_log *log)
{
    log->valid = false;
}

bool durable_log_read(struct durable_log *log, struct sim_disk *disk,
                      const struct bucket_config *config)
{
    uint64_t newest = 0;
    const struct inode *file = NULL;
    if (log->valid) {
        /* Segments are begun one at a time, but several may have come since. */
        const struct inode *next = find_segment(disk, log->segment + 1, NULL);
        if (next == NULL)
            file = find_segment(disk, log->segment, NULL);
    }
    if (file == NULL) {
        file = find_segment(disk, UINT64_MAX, &newest);
        if (file == NULL || !begin_segment(log, file, newest, config))
            return log->valid = false;
    }
    uint32_t base = salt_base(config, log->segment);
    while (read_batch(log, file, base))
        continue;
    return true;
}

struct durable_point durable_log_last(const struct durable_log *log)
{
    return log->points[log->last_idx - log->base_idx];
}

bool durable_log_holds(const struct durable_log *log, uint64_t idx, uint64_t chain)
{
    if (!log->valid || idx > log->last_idx)
        return false;
    return idx < log->base_idx || log->points[idx - log->base_idx].chain == chain;
}

static uint32_t salt_base(const struct bucket_config *config, uint64_t segment)
{
    struct format_salt salt = {
        .cluster_id = config->cluster_id, .bucket = config->bucket, .segment = segment};
    return wal_salt_base(&salt);
}

/* The data file with this number whose name is durable too; UINT64_MAX: the newest. */
static const struct inode *find_segment(const struct sim_disk *disk, uint64_t number,
                                        uint64_t *ret_newest)
{
    const struct dir_entry *entry = find_name(&disk->inodes[0].kept, "segments");
    if (entry == NULL)
        return NULL;
    const struct dir_list *list = &disk->inodes[entry->inode].kept;
    if (number != UINT64_MAX) {
        char name[DISK_NAME_MAX];
        snprintf(name, sizeof name, "%010lu", number);
        return data_file(disk, find_name(list, name));
    }
    for (unsigned i = list->count; i-- > 0;) {
        const struct inode *file = data_file(disk, &list->entries[i]);
        if (file != NULL) {
            *ret_newest = strtoull(list->entries[i].name, NULL, 10);
            return file;
        }
    }
    return NULL;
}

static const struct inode *data_file(const struct sim_disk *disk, const struct dir_entry *segment)
{
    if (segment == NULL || !disk->inodes[segment->inode].is_dir)
        return NULL;
    const struct dir_entry *data = find_name(&disk->inodes[segment->inode].kept, "data.evts");
    return data == NULL ? NULL : &disk->inodes[data->inode];
}

/* Directories are sorted, and this one grows long. */
static const struct dir_entry *find_name(const struct dir_list *list, const char *name)
{
    unsigned low = 0, high = list->count;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        int order = strcmp(list->entries[middle].name, name);
        if (order == 0)
            return &list->entries[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static bool begin_segment(struct durable_log *log, const struct inode *file, uint64_t number,
                          const struct bucket_config *config)
{
    struct segment_header header;
    struct checkpoint checkpoint;
    uint32_t base = salt_base(config, number);
    const uint8_t *bytes = file->durable;
    if (file->durable_size < 2 * FORMAT_BLOCK)
        return false;
    memcpy(&header, bytes, sizeof header);
    if (header.magic != SEGMENT_MAGIC ||
        header.crc !=
            wal_crc_struct(base, 0, bytes, FORMAT_BLOCK, offsetof(struct segment_header, crc)))
        return false;
    for (uint64_t at = FORMAT_BLOCK;; at = (header.data_start + FORMAT_BLOCK) / 2) {
        memcpy(&checkpoint, bytes + at, sizeof checkpoint);
        if (checkpoint.magic == CHECKPOINT_MAGIC &&
            checkpoint.crc == wal_crc_struct(base, FORMAT_BLOCK, bytes + at, header.checkpoint_len,
                                             offsetof(struct checkpoint, crc)))
            break;
        if (at != FORMAT_BLOCK)
            return false; /* both copies */
    }
    log->valid = true;
    log->segment = number;
    log->batch_no = checkpoint.batch_no;
    log->offset = header.data_start;
    log->term = checkpoint.term;
    log->voted_for = checkpoint.voted_for;
    log->base_idx = log->last_idx = checkpoint.last_idx;
    if (log->cap == 0) {
        log->cap = 64;
        log->points = malloc(log->cap * sizeof *log->points);
        ASSERT(log->points != NULL);
    }
    log->points[0] = (struct durable_point){checkpoint.last_term, checkpoint.last_chain};
    return true;
}

/* The next batch, where it is whole: head, tail and the CRC of what lies between. */
static bool read_batch(struct durable_log *log, const struct inode *file, uint32_t base)
{
    struct batch_mark head, tail;
    uint64_t size = file->durable_size, at = log->offset;
    if (at + 2 * sizeof head > size)
        return false;
    const uint8_t *bytes = file->durable + at;
    memcpy(&head, bytes, sizeof head);
    if (head.magic != BATCH_HEAD_MAGIC || !wal_mark_valid(base, at, &head, BATCH_HEAD_MAGIC) ||
        head.number != log->batch_no + 1 || head.bytes > size - at || head.bytes < 2 * sizeof head)
        return false;
    uint64_t tail_at = head.bytes - sizeof tail;
    memcpy(&tail, bytes + tail_at, sizeof tail);
    if (!wal_mark_valid(base, at + tail_at, &tail, BATCH_TAIL_MAGIC) ||
        tail.number != head.number ||
        tail.body_crc !=
            wal_crc(base, at + sizeof head, bytes + sizeof head, tail_at - sizeof head))
        return false;
    for (uint64_t i = sizeof head; i < tail_at;) {
        struct record_head record;
        memcpy(&record, bytes + i, sizeof record);
        ASSERT(record.len >= sizeof record && record.len <= tail_at - i);
        apply_record(log, bytes + i);
        i += record.len;
    }
    log->batch_no = head.number;
    log->offset += head.bytes;
    return true;
}

static void apply_record(struct durable_log *log, const uint8_t *bytes)
{
    struct record_head record;
    memcpy(&record, bytes, sizeof record);
    if (record.kind == RECORD_ENTRY) {
        struct entry_head head;
        memcpy(&head, bytes, sizeof head);
        push(log, &head);
    } else if (record.kind == RECORD_VOTE) {
        struct vote_record vote;
        memcpy(&vote, bytes, sizeof vote);
        log->term = vote.term;
        log->voted_for = vote.voted_for;
    } else if (record.kind == RECORD_CUT) {
        struct cut_record cut;
        memcpy(&cut, bytes, sizeof cut);
        if (cut.from_idx > log->base_idx && cut.from_idx <= log->last_idx)
            log->last_idx = cut.from_idx - 1;
    }
}

static void push(struct durable_log *log, const struct entry_head *head)
{
    if (head->idx != log->last_idx + 1)
        return; /* behind damage */
    uint64_t at = ++log->last_idx - log->base_idx;
    if (at == log->cap) {
        log->cap *= 2;
        log->points = realloc(log->points, log->cap * sizeof *log->points);
        ASSERT(log->points != NULL);
    }
    log->points[at] = (struct durable_point){head->term, head->chain};
}
