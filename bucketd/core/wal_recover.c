/* The log's start: creates the first segment, or recovers from the newest (REPLICATION.md 6). Every
 * step can be repeated: a crash at any disk operation in here leaves what the next start recovers
 * to the same state. */
#include "bucketd/core/wal_internal.h"

#include <stdlib.h>

struct listing {
    struct buf numbers; /* uint64_t, ascending */
};

static enum err segments_list(struct wal *wal, struct listing *listing);
static void listing_each(void *ctx, const char *name);
static enum err leftover_remove(struct disk *disk, uint64_t segment);
static enum err segments_check(struct wal *wal, const struct listing *listing);
static enum err create_first(struct wal *wal);
static enum err create_write(struct wal *wal, struct disk *disk);
static enum err newest_read(struct wal *wal, struct wal_reader *reader,
                            struct wal_recovery *recovery, struct wal_front *front,
                            struct wal_pass *pass);
static void newest_adopt(struct wal *wal, const struct wal_reader *reader,
                         const struct wal_front *front, struct wal_pass *pass);
static enum err newest_settle(struct wal *wal, struct wal_reader *reader, struct wal_front *front,
                              const struct wal_pass *pass);
static enum err newest_zero(struct wal *wal, struct wal_reader *reader);
static enum err zero_leftovers(struct wal *wal, struct wal_reader *reader, uint64_t *ret_reached);
static void recover_entry(void *ctx, const struct wal_entry *entry);
static void recover_cut(void *ctx, uint64_t from_idx);
static void recover_problem(void *ctx, enum wal_problem kind, uint64_t offset, const char *what);

static size_t listing_count(const struct listing *listing)
{
    return listing->numbers.len / sizeof(uint64_t);
}

static uint64_t listing_at(const struct listing *listing, size_t i)
{
    return load_u64(listing->numbers.ptr + i * sizeof(uint64_t));
}

enum err wal_open(struct wal *wal, struct wal_recovery *ret_recovery)
{
    struct disk *disk = wal->env->disk;
    struct listing listing = {0};
    struct wal_recovery recovery = {0};
    *ret_recovery = recovery;
    enum err err = disk->ops->mkdir(disk, "segments");
    if (err == ERR_OK)
        err = segments_list(wal, &listing);
    if (err == ERR_OK && listing_count(&listing) == 0) {
        recovery.created = true;
        err = create_first(wal);
        if (err == ERR_OK)
            err = segments_list(wal, &listing);
    }
    if (err == ERR_OK)
        err = segments_check(wal, &listing);
    if (err != ERR_OK) {
        buf_release(&listing.numbers);
        ret_recovery->lost = err == ERR_CORRUPT;
        return err;
    }
    recovery.segments = listing_count(&listing);
    recovery.first_segment = listing_at(&listing, 0);
    recovery.segment = listing_at(&listing, recovery.segments - 1);
    buf_release(&listing.numbers);

    char path[48];
    wal_data_path(recovery.segment, false, path);
    struct wal_reader reader;
    struct wal_front front;
    struct wal_pass pass = {0};
    err = wal_reader_open(&reader, disk, path);
    if (err != ERR_OK)
        return err;
    err = newest_read(wal, &reader, &recovery, &front, &pass);
    if (err == ERR_OK) {
        wal->damaged = recovery.damaged;
        newest_adopt(wal, &reader, &front, &pass);
        err = newest_settle(wal, &reader, &front, &pass);
    }
    wal_pass_release(&pass);
    wal_reader_close(&reader);
    recovery.lost = err == ERR_CORRUPT && front.checkpoints_bad == 2;
    *ret_recovery = recovery;
    return err;
}

/* --- which segments there are --- */

/* A newest directory without data.evts is what a crash left of a spare: it is removed. */
static enum err segments_list(struct wal *wal, struct listing *listing)
{
    struct disk *disk = wal->env->disk;
    listing->numbers.len = 0;
    enum err err = disk->ops->list(disk, "segments", listing_each, listing);
    while (err == ERR_OK && listing_count(listing) > 0) {
        char path[48];
        struct file *file = NULL;
        uint64_t newest = listing_at(listing, listing_count(listing) - 1);
        wal_data_path(newest, false, path);
        err = disk->ops->open(disk, path, OPEN_READ, &file);
        if (err == ERR_OK) {
            disk->ops->close(disk, file);
            break;
        }
        if (err == ERR_NOTFOUND)
            err = leftover_remove(disk, newest);
        listing->numbers.len -= sizeof(uint64_t);
    }
    return err;
}

static void listing_each(void *ctx, const char *name)
{
    struct listing *listing = ctx;
    uint64_t number = 0;
    size_t len = strlen(name);
    for (size_t i = 0; i < len; i++) {
        if (name[i] < '0' || name[i] > '9')
            return;
        number = number * 10 + (uint64_t)(name[i] - '0');
    }
    if (len == 10)
        buf_append(&listing->numbers, &number, sizeof number);
}

static enum err leftover_remove(struct disk *disk, uint64_t segment)
{
    char path[48], dir[32];
    wal_data_path(segment, true, path);
    enum err err = disk->ops->unlink(disk, path);
    if (err == ERR_OK || err == ERR_NOTFOUND)
        err = disk->ops->unlink(disk, wal_segment_dir(segment, dir));
    return err;
}

/* Numbers without holes, every file there; sums up sizes. */
static enum err segments_check(struct wal *wal, const struct listing *listing)
{
    struct disk *disk = wal->env->disk;
    wal->disk_bytes = 0;
    for (size_t i = 0; i < listing_count(listing); i++) {
        uint64_t segment = listing_at(listing, i), size = 0;
        uint64_t expected = listing_at(listing, 0) + i;
        char path[48];
        struct file *file = NULL;
        wal_data_path(expected, false, path);
        enum err err =
            segment == expected ? disk->ops->open(disk, path, OPEN_READ, &file) : ERR_NOTFOUND;
        if (err == ERR_NOTFOUND) {
            log_error(wal->env->log, "wal.segment_missing", "path=%s", path);
            return ERR_CORRUPT;
        }
        if (err == ERR_OK) {
            err = disk->ops->size(disk, file, &size);
            disk->ops->close(disk, file);
        }
        if (err != ERR_OK)
            return err;
        wal->disk_bytes += size;
    }
    return ERR_OK;
}

/* --- the first start --- */

/* Writes segment 0 with the CONFIG entry as idx 1, then it is recovered like any other. */
static enum err create_first(struct wal *wal)
{
    struct disk *disk = wal->env->disk;
    struct wal_space_job *job = &wal->spare_job;
    uint64_t data_start = wal_data_start(wal->slots);
    enum err err = disk->ops->sync_dir(disk, ".");
    if (err != ERR_OK)
        return err;
    job->segment = 0;
    job->zeros = wal->zeros;
    job->need = align_up(data_start + WAL_DATA_BYTES_MIN, FORMAT_BLOCK);
    job->to =
        max_u64(job->need, min_u64(align_up(data_start + wal_step(&wal->config), FORMAT_BLOCK),
                                   wal_limit(&wal->config, data_start)));
    err = wal_spare_prepare(job, disk);
    if (err == ERR_OK) {
        wal_segment_begin(wal, 0, job->files, job->reached);
        err = create_write(wal, disk);
    }
    wal_handles_close(disk, &job->files);
    wal->files = job->files;
    job->need = 0;
    wal->tail = (struct wal_state){.next_seq = wal->tail.next_seq};
    return err;
}

static enum err create_write(struct wal *wal, struct disk *disk)
{
    struct wal_group *group = wal->open;
    while (wal->disk_id == 0)
        wal->env->ops->random(wal->env, &wal->disk_id, sizeof wal->disk_id);
    struct segment_header header = wal_header_make(&wal->config, 0, wal->disk_id);
    wal_undo_begin(&wal->undo, &wal->tail, &(struct wal_config_at){0});
    wal_checkpoint_make(wal, &wal->roll.checkpoint);
    enum err err = wal_front_write(disk, wal->files.log, wal->base, &header, &wal->roll.checkpoint);
    if (err != ERR_OK)
        return err;
    wal_group_open(wal, group);
    wal_append_settings(wal);
    wal_commit(wal, wal_last_idx(wal)); /* it is the same on all replicas */
    wal_group_mark(wal, group);
    wal_group_finish(group, wal->base);
    err = disk->ops->pwrite(disk, wal->files.log, group->at.offset, group->bytes.ptr,
                            group->bytes.len);
    if (err == ERR_OK)
        err = disk->ops->sync(disk, wal->files.log);
    return err == ERR_OK ? wal_publish(disk, 0) : err;
}

/* --- the newest segment --- */

static enum err newest_read(struct wal *wal, struct wal_reader *reader,
                            struct wal_recovery *recovery, struct wal_front *front,
                            struct wal_pass *pass)
{
    struct wal_scan scan = {.ctx = wal,
                            .on_entry = recover_entry,
                            .on_cut = recover_cut,
                            .on_problem = recover_problem};
    struct segment_header expected = wal_header_make(&wal->config, recovery->segment, 0);
    struct buf what = {0};
    *pass = (struct wal_pass){
        .reader = reader,
        .salt = wal_salt(wal, recovery->segment),
        .bucket_count = wal->config.bucket_count,
        .partition_count = wal->config.partition_count,
        .scan = &scan,
        .all_torn = PLANTED(&wal->config, PLANT_ROT_AS_TORN),
    };
    enum err err =
        wal_front_read(reader, &pass->salt, &expected, front, &pass->state.next_seq, &what);
    if (err == ERR_CORRUPT)
        log_error(wal->env->log, "wal.refused", "segment=%llu what=\"%.*s\"",
                  (unsigned long long)recovery->segment, (int)what.len, (const char *)what.ptr);
    buf_release(&what);
    if (err != ERR_OK)
        return err;
    if (front->header_bad)
        recover_problem(wal, WAL_ROT, 0, "segment header");
    if (front->checkpoints_bad > 0)
        recover_problem(wal, WAL_ROT, FORMAT_BLOCK,
                        "one copy of the checkpoint; the other is used");
    memcpy(wal->checkpoint_seq, pass->state.next_seq, wal->slots * sizeof(uint64_t));
    wal->events_before = front->checkpoint.events;
    pass->complete = front->sealed;
    wal_pass_begin(pass, front);
    err = wal_pass_run(pass);
    pass->scan = NULL;
    bool empty = err == ERR_OK && pass->state.last_idx == 0;
    if (empty)
        recover_problem(wal, WAL_ROT, pass->data_start,
                        "the first entry, which was synced before the file had its name");
    recovery->data_start = pass->data_start;
    recovery->data_end = pass->data_end;
    recovery->entries = pass->entries;
    recovery->events = pass->events;
    recovery->torn_bytes = pass->torn_bytes;
    recovery->damaged = front->header_bad || empty || pass->rots > 0;
    if (recovery->damaged && !front->header_bad)
        recovery->damage_offset = empty ? pass->data_start : pass->rot_offset;
    recovery->damage_last = empty ? pass->data_start : pass->rot_last;
    recovery->hole_first = empty ? 1 : pass->hole_first;
    recovery->hole_last = empty ? UINT64_MAX : pass->hole_last;
    /* Whoever can't tell what its log had come to must not vote. */
    wal->votes_only =
        recovery->damaged && wal_replicated(wal) && !empty && !pass->end_unknown && !front->sealed;
    return err;
}

/* What the segment says becomes the writer's state. */
static void newest_adopt(struct wal *wal, const struct wal_reader *reader,
                         const struct wal_front *front, struct wal_pass *pass)
{
    uint64_t *next_seq = wal->tail.next_seq;
    memcpy(next_seq, pass->state.next_seq, wal->slots * sizeof(uint64_t));
    wal->tail = pass->state;
    wal->tail.next_seq = next_seq;
    wal_undo_release(&wal->undo);
    wal->undo = pass->undo;
    pass->undo = (struct wal_undo){0};
    /* A segment is sealed when all in it is committed. */
    if (!wal_replicated(wal) || (front->sealed && !wal->damaged))
        wal_commit(wal, wal->tail.last_idx);
    wal->disk_id = front->header_bad ? front->checkpoint.disk_id : front->header.disk_id;
    wal->durable_idx = wal->tail.last_idx;
    wal->durable_batch = wal->tail.batch_no;
    uint64_t offset = wal->damaged ? pass->write_at : pass->data_end;
    wal->head = wal->durable = (struct lsn){.segment = pass->salt.segment, .offset = offset};
    wal->base = pass->base;
    wal->data_limit = wal_limit(&wal->config, pass->data_start);
    wal->step = wal_step(&wal->config);
    wal->sealed = front->sealed;
    wal->zeroed_end = reader->size;
    wal->segment_batches = pass->batches;
    wal->segment_entries = pass->entries;
    wal->segment_events = pass->events;
    wal->segment_first_idx = pass->first_idx;
    wal->witness_due = pass->batches > 0 && pass->last_records > 0;
}

/* The last batch may be in the page cache only (a failed sync drops it there in silence): it is
 * written again and synced before anything rests on it. Nothing of a torn batch stays behind it. */
static enum err newest_settle(struct wal *wal, struct wal_reader *reader, struct wal_front *front,
                              const struct wal_pass *pass)
{
    struct disk *disk = wal->env->disk;
    char path[48], dir[32];
    wal_data_path(wal->head.segment, false, path);
    enum err err = disk->ops->open(disk, path, OPEN_WRITE, &wal->files.log);
    if (err == ERR_OK)
        err = disk->ops->open(disk, path, OPEN_WRITE, &wal->files.space);
    if (err != ERR_OK)
        return err;
    if (pass->batches > 0) {
        const uint8_t *bytes = NULL;
        err = wal_reader_get(reader, pass->last_offset, pass->last_bytes, &bytes);
        if (err == ERR_OK)
            err =
                disk->ops->pwrite(disk, wal->files.log, pass->last_offset, bytes, pass->last_bytes);
    }
    /* Beside damage nothing else is touched, but what readers will see must stay there. */
    if (err == ERR_OK && wal->damaged)
        err = disk->ops->sync(disk, wal->files.log);
    if (err == ERR_OK && wal->damaged)
        wal_group_open(wal, wal->open);
    if (wal->damaged)
        return err;
    if (err == ERR_OK && front->sealed)
        err = wal_footer_write(disk, wal->files.log, wal->base, &front->footer);
    else if (err == ERR_OK)
        err = disk->ops->sync(disk, wal->files.log);
    if (err == ERR_OK && !front->sealed)
        err = newest_zero(wal, reader);
    if (err == ERR_OK)
        err = disk->ops->sync_dir(disk, wal_segment_dir(wal->head.segment, dir));
    if (err == ERR_OK)
        err = disk->ops->sync_dir(disk, "segments");
    if (err != ERR_OK)
        return err;
    wal_group_open(wal, wal->open);
    /* Room for the next term's records is had at once, all other space later, by jobs. */
    uint64_t term_end = wal->head.offset + WAL_TERM_BOUND + WAL_WITNESS_BYTES + WAL_RESERVE_BYTES;
    if (wal->zeroed_end < term_end) {
        wal->opening = true;
        wal_space_poll(wal);
        wal->opening = false;
    }
    return wal->failed ? ERR_IO : ERR_OK;
}

/* Where even zeros over existing blocks find no room (a sparse copy), the file is cut instead. */
static enum err newest_zero(struct wal *wal, struct wal_reader *reader)
{
    struct disk *disk = wal->env->disk;
    uint64_t reached;
    enum err err = zero_leftovers(wal, reader, &reached);
    if (err == ERR_FULL) {
        wal->disk_full = true;
        wal->disk_bytes -= reader->size - reached;
        wal->zeroed_end = reached;
        err = disk->ops->truncate(disk, wal->files.log, reached);
    }
    return err == ERR_OK ? disk->ops->sync(disk, wal->files.log) : err;
}

/* Writes zeros over what a torn batch left behind the head. Mostly there is nothing: zeros are left
 * as they are, since to write and sync some 16 MiB of them took longer than all the rest of a
 * start. */
static enum err zero_leftovers(struct wal *wal, struct wal_reader *reader, uint64_t *ret_reached)
{
    struct disk *disk = wal->env->disk;
    enum err err = ERR_OK;
    for (*ret_reached = wal->head.offset; *ret_reached < reader->size && err == ERR_OK;) {
        const uint8_t *bytes;
        size_t len = min_u64(WAL_ZERO_BYTES, reader->size - *ret_reached);
        err = wal_reader_get(reader, *ret_reached, len, &bytes);
        if (err == ERR_OK && memcmp(bytes, wal->zeros, len) != 0)
            err = disk->ops->pwrite(disk, wal->files.log, *ret_reached, wal->zeros, len);
        if (err == ERR_OK)
            *ret_reached += len;
    }
    return err;
}

static void recover_entry(void *ctx, const struct wal_entry *entry)
{
    struct wal *wal = ctx;
    if (wal->callbacks.on_entry != NULL)
        wal->callbacks.on_entry(wal->callbacks.ctx, entry);
}

static void recover_cut(void *ctx, uint64_t from_idx)
{
    struct wal *wal = ctx;
    if (wal->callbacks.on_cut != NULL)
        wal->callbacks.on_cut(wal->callbacks.ctx, from_idx);
}

static void recover_problem(void *ctx, enum wal_problem kind, uint64_t offset, const char *what)
{
    struct wal *wal = ctx;
    log_event(wal->env->log, kind == WAL_TORN ? LOG_WARN : LOG_ERROR,
              kind == WAL_TORN ? "wal.torn" : "wal.damaged", "offset=%llu what=\"%s\"",
              (unsigned long long)offset, what);
}
