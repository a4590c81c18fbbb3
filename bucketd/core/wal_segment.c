/* The log's files: space prepared ahead of the head, the next segment's file, and the change from
 * one to the next. */
#include "bucketd/core/wal_internal.h"

#include <stdio.h>

static void space_ahead(struct wal *wal, uint64_t need);
static void space_spare(struct wal *wal, uint64_t need);
static bool must_stay(const struct wal *wal);
static bool may_grow(const struct wal *wal, enum wal_room room);
static enum err space_roll(struct wal *wal, uint64_t bound);
static void roll(struct wal *wal);
static void ahead_work(struct job *base, struct disk *disk);
static void ahead_done(struct job *base);
static void spare_work(struct job *base, struct disk *disk);
static enum err spare_create(struct wal_space_job *job, struct disk *disk);
static void spare_done(struct job *base);
static void space_start(struct wal *wal, struct wal_space_job *job);
static void space_done(struct wal *wal, struct wal_space_job *job, uint64_t *zeroed);
static enum err space_get(struct wal_space_job *job, struct disk *disk);

/* --- names and sizes --- */

void wal_data_path(uint64_t segment, bool is_new, char text[static 48])
{
    char dir[32];
    snprintf(text, 48, "%s/data.%s", wal_segment_dir(segment, dir), is_new ? "new" : "evts");
}

struct format_salt wal_salt(const struct wal *wal, uint64_t segment)
{
    return (struct format_salt){
        .cluster_id = wal->config.cluster_id, .bucket = wal->config.bucket, .segment = segment};
}

static size_t checkpoint_len(uint32_t slots)
{
    return sizeof(struct checkpoint) + slots * sizeof(struct partition_state);
}

uint64_t wal_data_start(uint32_t slots)
{
    return FORMAT_BLOCK + 2 * align_up(checkpoint_len(slots), FORMAT_BLOCK);
}

/* The configured size, but never so little that the front leaves no room: half of it is for data in
 * any case. */
uint64_t wal_limit(const struct wal_config *config, uint64_t data_start)
{
    uint64_t data_min = max_u64(config->segment_bytes / 2, WAL_DATA_BYTES_MIN);
    return align_up(max_u64(config->segment_bytes, data_start + data_min), FORMAT_BLOCK);
}

uint64_t wal_step(const struct wal_config *config)
{
    return align_up(min_u64(max_u64(config->segment_bytes / 16, WAL_STEP_MIN), WAL_STEP_MAX),
                    FORMAT_BLOCK);
}

/* --- room for the next record --- */

enum err wal_space_fits(struct wal *wal, uint64_t bound, enum wal_room room)
{
    const struct wal_group *open = wal->open;
    uint64_t end =
        open->at.offset + open->bytes.len + bound + sizeof(struct batch_mark) + WAL_RESERVE_BYTES;
    if (wal->sealed || (end > wal->data_limit && !may_grow(wal, room))) {
        if (open->records > 0 || must_stay(wal))
            return ERR_AGAIN;
        ASSERT(!open->rolls); /* an empty segment grows, or wal_entry_max fits into it */
        enum err err = space_roll(wal, bound);
        /* The limit of the new one may be too small as well. */
        return err == ERR_OK && wal_replicated(wal) ? wal_space_fits(wal, bound, room) : err;
    }
    if (end > WAL_SEGMENT_BYTES_MAX)
        return ERR_FULL;
    if (end <= wal->zeroed_end)
        return ERR_OK;
    space_ahead(wal, end);
    return wal->disk_full ? ERR_FULL : ERR_AGAIN;
}

/* A cut must not reach into an older segment. */
static bool must_stay(const struct wal *wal)
{
    return wal_replicated(wal) && wal->undo.commit_idx < wal->tail.last_idx;
}

/* Whether the configured size doesn't bind: for an entry that no segment here would hold, for what
 * commits the tail, and for votes behind damage. */
static bool may_grow(const struct wal *wal, enum wal_room room)
{
    if (!wal_replicated(wal))
        return false;
    bool empty = wal->head.offset == wal_data_start(wal->slots) && wal->open->records == 0;
    return empty || wal->damaged || (room == ROOM_MUST && must_stay(wal));
}

void wal_space_poll(struct wal *wal)
{
    if (wal->failed || wal->damaged || wal->disk_full)
        return;
    uint64_t used = wal->open->at.offset + wal->open->bytes.len;
    uint64_t wanted = min_u64(used + wal->step, wal->data_limit);
    if (!wal->sealed && wal->zeroed_end < wanted)
        space_ahead(wal, wanted);
    bool spare_soon =
        wal->sealed || wal->data_limit <= WAL_SPARE_AT_ONCE_BYTES || used > wal->data_limit / 2;
    if (spare_soon && wal->spare.log == NULL)
        space_spare(wal, 0);
}

void wal_retry_space(struct wal *wal)
{
    if (!wal->disk_full || wal->failed || (wal->damaged && !wal->votes_only) ||
        wal->ahead.running || wal->spare_job.running)
        return;
    uint64_t used = wal->open->at.offset + wal->open->bytes.len;
    uint64_t wanted = max_u64(min_u64(used + wal->step, wal->data_limit), wal->ahead.need);
    if (!wal->sealed && wal->zeroed_end < wanted)
        space_ahead(wal, wanted);
    else if (wal->spare.log == NULL || wal->spare_zeroed < wal->spare_job.need)
        space_spare(wal, wal->spare_job.need);
    else
        wal->disk_full = false;
}

static void space_ahead(struct wal *wal, uint64_t need)
{
    struct wal_space_job *job = &wal->ahead;
    if (job->running)
        return;
    job->job.work = ahead_work;
    job->job.done = ahead_done;
    job->files = wal->files;
    job->segment = wal->head.segment;
    job->zeros = wal->zeros;
    job->from = wal->zeroed_end;
    job->need = align_up(need, FORMAT_BLOCK);
    uint64_t step_end = align_up(wal->zeroed_end + wal->step, FORMAT_BLOCK);
    /* Beyond the limit by steps too, or each record there would wait for a job of its own. */
    bool grows = job->need > wal->data_limit;
    job->to = max_u64(job->need, grows ? step_end : min_u64(step_end, wal->data_limit));
    space_start(wal, job);
}

/* need 0: whatever the first step gives. */
static void space_spare(struct wal *wal, uint64_t need)
{
    struct wal_space_job *job = &wal->spare_job;
    if (job->running)
        return;
    uint64_t data_start = wal_data_start(wal->slots);
    uint64_t limit = wal_limit(&wal->config, data_start);
    job->job.work = spare_work;
    job->job.done = spare_done;
    job->files = wal->spare;
    job->segment = wal->head.segment + 1;
    job->zeros = wal->zeros;
    job->from = wal->spare.log != NULL ? wal->spare_zeroed : 0;
    job->need =
        min_u64(align_up(max_u64(need, data_start + WAL_DATA_BYTES_MIN), FORMAT_BLOCK), limit);
    job->to = max_u64(job->need, min_u64(align_up(data_start + wal->step, FORMAT_BLOCK), limit));
    space_start(wal, job);
}

/* Recovery has no turns to wait for jobs: there it is done at once. */
static void space_start(struct wal *wal, struct wal_space_job *job)
{
    job->running = true;
    if (!wal->opening) {
        wal->env->ops->submit(wal->env, &job->job);
        return;
    }
    job->job.work(&job->job, wal->env->disk);
    job->job.done(&job->job);
}

/* The open group is empty and the record doesn't fit behind it: it goes to the next segment. */
static enum err space_roll(struct wal *wal, uint64_t bound)
{
    uint64_t data_start = wal_data_start(wal->slots);
    uint64_t need = min_u64(data_start + WAL_WITNESS_BYTES + bound + WAL_RESERVE_BYTES,
                            wal_limit(&wal->config, data_start));
    uint64_t footer_end = wal->head.offset + sizeof(struct segment_footer);
    /* A job that extends the old file must not do so behind its footer; one change at a time. */
    bool changing = wal->ahead.running || (wal->flushing && wal->flush.roll != NULL);
    if (changing)
        return wal->disk_full ? ERR_FULL : ERR_AGAIN;
    if (!wal->sealed && footer_end > wal->zeroed_end) {
        space_ahead(wal, footer_end);
        return wal->disk_full ? ERR_FULL : ERR_AGAIN;
    }
    if (wal->spare_job.running || wal->spare.log == NULL || wal->spare_zeroed < need) {
        space_spare(wal, need);
        return wal->disk_full ? ERR_FULL : ERR_AGAIN;
    }
    roll(wal);
    return ERR_OK;
}

/* --- rollover --- */

static void roll(struct wal *wal)
{
    struct wal_roll *roll = &wal->roll;
    uint64_t data_end = wal->head.offset;
    ASSERT(roll->old.log == NULL);
    if (wal->callbacks.on_roll != NULL)
        wal->callbacks.on_roll(wal->callbacks.ctx, wal->head.segment + 1);
    roll->old = wal->files;
    roll->old_segment = wal->head.segment;
    roll->footer_needed = !wal->sealed;
    roll->footer = (struct segment_footer){
        .magic = FOOTER_MAGIC,
        .data_end = data_end,
        .batches = wal->segment_batches,
        .last_batch = wal->tail.batch_no,
        .entries = wal->segment_entries,
        .events = wal->segment_events,
        .first_idx = wal->segment_first_idx,
        .last_idx = wal->tail.last_idx,
        .last_chain = wal->tail.last_chain,
    };
    roll->old_base = wal->base;
    if (!wal->sealed)
        wal->disk_bytes -=
            wal->zeroed_end - min_u64(wal->zeroed_end, data_end + sizeof roll->footer);
    wal_segment_begin(wal, wal->head.segment + 1, wal->spare, wal->spare_zeroed);
    wal->spare = (struct wal_handles){0};
    wal->spare_zeroed = 0;
    wal->spare_job.need = 0;
    roll->header = wal_header_make(&wal->config, wal->head.segment, wal->disk_id);
    wal_checkpoint_make(wal, &roll->checkpoint);
    wal_group_open(wal, wal->open);
    wal->open->rolls = true;
}

/* The tail's state becomes that of a new segment's checkpoint. */
void wal_segment_begin(struct wal *wal, uint64_t segment, struct wal_handles files,
                       uint64_t zeroed_end)
{
    struct format_salt salt = wal_salt(wal, segment);
    uint64_t data_start = wal_data_start(wal->slots);
    wal->files = files;
    wal->zeroed_end = zeroed_end;
    wal->head = (struct lsn){.segment = segment, .offset = data_start};
    wal->data_limit = wal_limit(&wal->config, data_start);
    wal->step = wal_step(&wal->config);
    wal->base = wal_salt_base(&salt);
    wal->sealed = false;
    wal->ahead.need = 0;
    wal->segment_batches = wal->segment_entries = wal->segment_events = wal->segment_first_idx = 0;
    wal->events_before = wal->tail.events;
    memcpy(wal->checkpoint_seq, wal->tail.next_seq, wal->slots * sizeof(uint64_t));
}

struct segment_header wal_header_make(const struct wal_config *config, uint64_t segment,
                                      uint64_t disk_id)
{
    uint32_t slots = wal_slot_count(config->bucket, config->bucket_count, config->partition_count);
    return (struct segment_header){
        .magic = SEGMENT_MAGIC,
        .version = FORMAT_VERSION,
        .cluster_id = config->cluster_id,
        .node = config->node,
        .bucket = config->bucket,
        .bucket_count = config->bucket_count,
        .partition_count = config->partition_count,
        .segment = segment,
        .data_start = wal_data_start(slots),
        .checkpoint_len = checkpoint_len(slots),
        .segment_bytes = config->segment_bytes,
        .disk_id = disk_id,
    };
}

void wal_checkpoint_make(const struct wal *wal, struct buf *out)
{
    wal_checkpoint_render(&wal->config, wal->disk_id, &wal->tail, wal_undo_in_force(&wal->undo),
                          out);
}

void wal_checkpoint_render(const struct wal_config *config, uint64_t disk_id,
                           const struct wal_state *state, const struct wal_config_at *in_force,
                           struct buf *out)
{
    uint32_t slots = wal_slot_count(config->bucket, config->bucket_count, config->partition_count);
    const struct wal_voters *voters = &in_force->voters;
    struct checkpoint checkpoint = {
        .magic = CHECKPOINT_MAGIC,
        .partitions = slots,
        .term = state->term,
        .voted_for = state->voted_for,
        .last_idx = state->last_idx,
        .last_term = state->last_term,
        .last_chain = state->last_chain,
        .commit_hint = state->last_idx, /* with one replica: durable when this is written */
        .batch_no = state->batch_no,
        .events = state->events,
        .config_idx = in_force->idx,
        .disk_id = disk_id,
        .voters = voters->count,
    };
    for (uint32_t i = 0; i < voters->count; i++)
        checkpoint.voter[i] = (struct config_voter){.node = voters->list[i].node,
                                                    .generation = voters->list[i].generation,
                                                    .disk_id = voters->list[i].disk_id};
    buf_clear(out, SIZE_MAX);
    buf_append(out, &checkpoint, sizeof checkpoint);
    for (uint32_t slot = 0; slot < slots; slot++) {
        struct partition_state partition = {
            .partition = slot * config->bucket_count + config->bucket,
            .next_seq = state->next_seq[slot],
        };
        buf_append(out, &partition, sizeof partition);
    }
}

/* In the pool. The old segment is complete and synced before the new one can be seen; the new one's
 * front is synced before it gets its name. */
enum err wal_roll_write(struct wal_flush_job *job, struct disk *disk)
{
    struct wal_roll *roll = job->roll;
    uint64_t new_segment = job->group->at.segment;
    enum err err = ERR_OK;
    job->what = "sealing of a segment";
    if (roll->footer_needed)
        err = wal_footer_write(disk, roll->old.log, roll->old_base, &roll->footer);
    if (err != ERR_OK)
        return err;
    job->what = "opening of a segment";
    err = wal_front_write(disk, job->group->file, job->base, &roll->header, &roll->checkpoint);
    if (err == ERR_OK)
        err = disk->ops->sync(disk, job->group->file);
    if (err == ERR_OK)
        err = wal_publish(disk, new_segment);
    if (err != ERR_OK)
        return err;
    wal_handles_close(disk, &roll->old);
    return ERR_OK;
}

enum err wal_footer_write(struct disk *disk, struct file *file, uint32_t base,
                          struct segment_footer *footer)
{
    uint64_t where = footer->data_end;
    footer->crc =
        wal_crc_struct(base, where, footer, sizeof *footer, offsetof(struct segment_footer, crc));
    enum err err = disk->ops->pwrite(disk, file, where, footer, sizeof *footer);
    if (err == ERR_OK)
        err = disk->ops->truncate(disk, file, where + sizeof *footer);
    return err == ERR_OK ? disk->ops->sync(disk, file) : err;
}

enum err wal_front_write(struct disk *disk, struct file *file, uint32_t base,
                         struct segment_header *header, struct buf *checkpoint)
{
    uint8_t block[FORMAT_BLOCK] = {0};
    header->crc = 0;
    memcpy(block, header, sizeof *header);
    header->crc = wal_crc(base, 0, block, sizeof block);
    memcpy(block, header, sizeof *header);
    enum err err = disk->ops->pwrite(disk, file, 0, block, sizeof block);
    size_t crc_at = offsetof(struct checkpoint, crc);
    store_u32(checkpoint->ptr + crc_at,
              wal_crc_struct(base, FORMAT_BLOCK, checkpoint->ptr, checkpoint->len, crc_at));
    for (unsigned copy = 0; copy < 2 && err == ERR_OK; copy++) {
        uint64_t where = FORMAT_BLOCK + copy * align_up(checkpoint->len, FORMAT_BLOCK);
        err = disk->ops->pwrite(disk, file, where, checkpoint->ptr, checkpoint->len);
    }
    return err;
}

enum err wal_publish(struct disk *disk, uint64_t segment)
{
    char from[48], to[48], dir[32];
    wal_data_path(segment, true, from);
    wal_data_path(segment, false, to);
    enum err err = disk->ops->rename(disk, from, to);
    if (err == ERR_OK)
        err = disk->ops->sync_dir(disk, wal_segment_dir(segment, dir));
    return err == ERR_OK ? disk->ops->sync_dir(disk, "segments") : err;
}

/* --- jobs --- */

static void ahead_work(struct job *base, struct disk *disk)
{
    struct wal_space_job *job = (struct wal_space_job *)base;
    job->result = space_get(job, disk);
}

static void ahead_done(struct job *base)
{
    struct wal_space_job *job = (struct wal_space_job *)base;
    space_done(job->wal, job, &job->wal->zeroed_end);
}

static void spare_work(struct job *base, struct disk *disk)
{
    struct wal_space_job *job = (struct wal_space_job *)base;
    job->result = wal_spare_prepare(job, disk);
}

static void spare_done(struct job *base)
{
    struct wal_space_job *job = (struct wal_space_job *)base;
    job->wal->spare = job->files;
    space_done(job->wal, job, &job->wal->spare_zeroed);
}

static void space_done(struct wal *wal, struct wal_space_job *job, uint64_t *zeroed)
{
    job->running = false;
    if (job->result != ERR_OK && job->result != ERR_FULL) {
        wal_failed(wal, job->result, "preparing space");
        return;
    }
    bool full = job->result == ERR_FULL;
    wal->disk_bytes += job->reached;
    wal->disk_bytes -= *zeroed;
    *zeroed = job->reached;
    if (full != wal->disk_full)
        log_event(wal->env->log, full ? LOG_WARN : LOG_INFO, full ? "disk.full" : "disk.space",
                  "segment=%llu", (unsigned long long)job->segment);
    wal->disk_full = full;
    if (!wal->opening && wal->callbacks.on_space != NULL)
        wal->callbacks.on_space(wal->callbacks.ctx);
    wal_space_poll(wal);
}

/* Makes the spare's file where there is none yet. Where the disk is full nothing of it stays. */
enum err wal_spare_prepare(struct wal_space_job *job, struct disk *disk)
{
    bool is_new = job->files.space == NULL;
    enum err err = is_new ? spare_create(job, disk) : ERR_OK;
    if (err == ERR_OK)
        err = space_get(job, disk);
    char dir[32], path[48];
    wal_segment_dir(job->segment, dir);
    wal_data_path(job->segment, true, path);
    if (err == ERR_OK && is_new)
        err = disk->ops->sync_dir(disk, dir);
    if (err == ERR_OK && is_new)
        err = disk->ops->sync_dir(disk, "segments");
    if (err != ERR_FULL || !is_new)
        return err;
    wal_handles_close(disk, &job->files);
    job->reached = 0;
    enum err undo = disk->ops->unlink(disk, path);
    if (undo != ERR_OK && undo != ERR_NOTFOUND)
        return undo;
    undo = disk->ops->unlink(disk, dir);
    return undo != ERR_OK && undo != ERR_NOTFOUND ? undo : ERR_FULL;
}

static enum err spare_create(struct wal_space_job *job, struct disk *disk)
{
    char dir[32], path[48];
    job->reached = 0;
    enum err err = disk->ops->mkdir(disk, wal_segment_dir(job->segment, dir));
    wal_data_path(job->segment, true, path);
    if (err == ERR_OK)
        err = disk->ops->open(disk, path, OPEN_CREATE, &job->files.space);
    return err == ERR_OK ? disk->ops->open(disk, path, OPEN_WRITE, &job->files.log) : err;
}

void wal_handles_close(struct disk *disk, struct wal_handles *handles)
{
    if (handles->log != NULL)
        disk->ops->close(disk, handles->log);
    if (handles->space != NULL)
        disk->ops->close(disk, handles->space);
    *handles = (struct wal_handles){0};
}

/* As much of [from, to) as can be had, [from, need) at least; else ERR_FULL. */
static enum err space_get(struct wal_space_job *job, struct disk *disk)
{
    job->reached = job->from;
    for (uint64_t to = job->to;;) {
        enum err err = disk->ops->allocate(disk, job->files.space, job->from, to - job->from);
        if (err == ERR_OK)
            return wal_zero(disk, job->files.space, job->zeros, job->from, to, &job->reached);
        if (err != ERR_FULL || to <= job->need)
            return err;
        uint64_t half = align_up(job->from + (to - job->from) / 2, FORMAT_BLOCK);
        to = half < to ? max_u64(job->need, half) : job->need;
    }
}

enum err wal_zero(struct disk *disk, struct file *file, const uint8_t *zeros, uint64_t from,
                  uint64_t to, uint64_t *ret_reached)
{
    *ret_reached = from;
    for (uint64_t at = from; at < to;) {
        uint64_t len = min_u64(WAL_ZERO_BYTES, to - at);
        enum err err = disk->ops->pwrite(disk, file, at, zeros, len);
        if (err == ERR_OK)
            err = disk->ops->sync(disk, file);
        if (err != ERR_OK)
            return err;
        at += len;
        *ret_reached = at;
    }
    return ERR_OK;
}
