/* The log's writing side: the open group, groups to the disk, one flush at a time. */
#include "bucketd/core/wal_internal.h"

#include <lz4.h>
#include <stdlib.h>

static uint64_t durable_by_offset(const struct wal *wal);
static void flush_start(struct wal *wal);
static void flush_work(struct job *job, struct disk *disk);
static void flush_done(struct job *job);
static struct wal_group *flight_group(const struct wal *wal);

struct wal *wal_new(const struct wal_config *config, struct env *env,
                    const struct wal_callbacks *callbacks)
{
    ASSERT(config->bucket < config->bucket_count && config->partition_count <= PARTITION_COUNT_MAX);
    struct wal *wal = calloc(1, sizeof *wal);
    ASSERT(wal != NULL);
    wal->config = *config;
    wal->env = env;
    wal->callbacks = *callbacks;
    wal->slots = wal_slot_count(config->bucket, config->bucket_count, config->partition_count);
    wal->tail.next_seq = calloc(wal->slots + 1, sizeof(uint64_t));
    wal->checkpoint_seq = calloc(wal->slots + 1, sizeof(uint64_t));
    wal->zeros = calloc(1, WAL_ZERO_BYTES);
    wal->lz4 = LZ4_createStream();
    ASSERT(wal->tail.next_seq && wal->checkpoint_seq && wal->zeros && wal->lz4);
    wal->open = &wal->groups[0];
    wal->flush.wal = wal;
    wal->ahead.wal = wal;
    wal->spare_job.wal = wal;
    return wal;
}

void wal_free(struct wal *wal)
{
    if (wal == NULL)
        return;
    struct disk *disk = wal->env->disk;
    /* A job that never came to its end may have opened the spare's file. */
    if (wal->spare_job.running && wal->spare.log == NULL)
        wal_handles_close(disk, &wal->spare_job.files);
    wal_handles_close(disk, &wal->files);
    wal_handles_close(disk, &wal->spare);
    wal_handles_close(disk, &wal->roll.old);
    wal_undo_release(&wal->undo);
    buf_release(&wal->groups[0].bytes);
    buf_release(&wal->groups[1].bytes);
    buf_release(&wal->roll.checkpoint);
    buf_release(&wal->compressed);
    LZ4_freeStream(wal->lz4);
    free(wal->tail.next_seq);
    free(wal->checkpoint_seq);
    free(wal->zeros);
    free(wal);
}

/* --- what it knows --- */

uint64_t wal_term(const struct wal *wal)
{
    return wal->tail.term;
}

uint64_t wal_voted_for(const struct wal *wal)
{
    return wal->tail.voted_for;
}

uint64_t wal_last_idx(const struct wal *wal)
{
    return wal->tail.last_idx;
}

uint64_t wal_last_term(const struct wal *wal)
{
    return wal->tail.last_term;
}

uint64_t wal_last_chain(const struct wal *wal)
{
    return wal->tail.last_chain;
}

uint64_t wal_durable_idx(const struct wal *wal)
{
    if (PLANTED(&wal->config, PLANT_OFFSET_WITHOUT_SEGMENT))
        return durable_by_offset(wal);
    return wal->durable_idx;
}

/* A planted bug: the offset of what is synced is compared with those of another segment. */
static uint64_t durable_by_offset(const struct wal *wal)
{
    uint64_t idx = wal->durable_idx;
    const struct tail_entry *next;
    while ((next = wal_tail_entry(wal, idx + 1)) != NULL && next->at.offset < wal->durable.offset)
        idx++;
    return idx;
}

uint64_t wal_open_batch(const struct wal *wal)
{
    return wal->tail.batch_no + 1;
}

uint64_t wal_durable_batch(const struct wal *wal)
{
    return wal->durable_batch;
}

uint64_t wal_disk_id(const struct wal *wal)
{
    return wal->disk_id;
}

uint64_t wal_segment(const struct wal *wal)
{
    return wal->head.segment;
}

uint64_t wal_events_before(const struct wal *wal)
{
    return wal->events_before;
}

uint64_t wal_disk_bytes(const struct wal *wal)
{
    return wal->disk_bytes;
}

uint64_t wal_next_seq(const struct wal *wal, uint32_t partition)
{
    ASSERT(partition % wal->config.bucket_count == wal->config.bucket);
    return wal->tail.next_seq[partition / wal->config.bucket_count];
}

uint64_t wal_checkpoint_seq(const struct wal *wal, uint32_t partition)
{
    ASSERT(partition % wal->config.bucket_count == wal->config.bucket);
    return wal->checkpoint_seq[partition / wal->config.bucket_count];
}

bool wal_pending(const struct wal *wal)
{
    return wal->open->records > 0;
}

bool wal_flushing(const struct wal *wal)
{
    return wal->flushing;
}

bool wal_busy(const struct wal *wal)
{
    return wal->flushing || wal->ahead.running || wal->spare_job.running;
}

bool wal_disk_full(const struct wal *wal)
{
    return wal->disk_full;
}

struct lsn wal_durable(const struct wal *wal)
{
    return wal->durable;
}

uint64_t wal_durable_end(const struct wal *wal, uint64_t segment)
{
    if (segment < wal->durable.segment)
        return UINT64_MAX;
    return segment == wal->durable.segment ? wal->durable.offset : 0;
}

struct span wal_tail_bytes(const struct wal *wal, uint64_t segment, uint64_t offset, size_t len)
{
    const struct wal_group *groups[] = {wal->open, flight_group(wal)};
    for (size_t i = 0; i < 2; i++) {
        const struct wal_group *group = groups[i];
        if (group == NULL || group->at.segment != segment || offset < group->at.offset)
            continue;
        uint64_t from = offset - group->at.offset;
        if (from <= group->bytes.len && len <= group->bytes.len - from)
            return span_of(group->bytes.ptr + from, len);
    }
    return (struct span){0};
}

static struct wal_group *flight_group(const struct wal *wal)
{
    return wal->flushing ? wal->flush.group : NULL;
}

/* --- groups --- */

void wal_group_open(struct wal *wal, struct wal_group *group)
{
    buf_clear(&group->bytes, 2 * WAL_GROUP_BYTES);
    buf_append_zeros(&group->bytes, sizeof(struct batch_mark));
    group->at = wal->head;
    group->file = wal->files.log;
    group->number = group->first_idx = group->last_idx = 0;
    group->records = 0;
    group->rolls = false;
}

void wal_group_mark(struct wal *wal, struct wal_group *group)
{
    group->number = ++wal->tail.batch_no;
    group->last_idx = wal->tail.last_idx;
    struct batch_mark mark = {
        .magic = BATCH_HEAD_MAGIC,
        .number = group->number,
        .offset = group->at.offset,
        .bytes = group->bytes.len + sizeof mark,
        .synced_upto = wal->durable,
        .first_idx = group->first_idx,
        .last_idx = group->last_idx,
        .last_term = wal->tail.last_term,
        .term = wal->tail.term,
        .voted_for = wal->tail.voted_for,
        .commit_hint = wal->undo.commit_idx,
        .records = group->records,
    };
    memcpy(group->bytes.ptr, &mark, sizeof mark);
    mark.magic = BATCH_TAIL_MAGIC;
    buf_append(&group->bytes, &mark, sizeof mark);
}

void wal_group_finish(struct wal_group *group, uint32_t base)
{
    struct batch_mark mark;
    uint8_t *bytes = group->bytes.ptr;
    size_t tail_at = group->bytes.len - sizeof mark;
    memcpy(&mark, bytes, sizeof mark);
    mark.crc = wal_crc(base, group->at.offset, &mark, sizeof mark);
    memcpy(bytes, &mark, sizeof mark);

    memcpy(&mark, bytes + tail_at, sizeof mark);
    mark.body_crc =
        wal_crc(base, group->at.offset + sizeof mark, bytes + sizeof mark, tail_at - sizeof mark);
    mark.crc = wal_crc(base, group->at.offset + tail_at, &mark, sizeof mark);
    memcpy(bytes + tail_at, &mark, sizeof mark);
}

void wal_flush(struct wal *wal)
{
    if (!wal->flushing && !wal->failed && wal->open->records > 0)
        flush_start(wal);
}

void wal_set_brief(struct wal *wal, bool brief)
{
    wal->brief = brief;
}

bool wal_flush_witness(struct wal *wal)
{
    bool room = wal->head.offset + WAL_RESERVE_BYTES <= wal->zeroed_end;
    if (!wal->witness_due || wal->flushing || wal->failed || wal->open->records > 0 ||
        wal->sealed || !room)
        return false;
    flush_start(wal);
    return true;
}

static void flush_start(struct wal *wal)
{
    struct wal_group *group = wal->open;
    ASSERT((!wal->damaged || wal->votes_only) && !wal->sealed);
    wal_group_mark(wal, group);
    ASSERT(group->at.offset + group->bytes.len + sizeof(struct segment_footer) <= wal->zeroed_end);
    struct wal_flush_job *job = &wal->flush;
    job->job.work = flush_work;
    job->job.done = flush_done;
    job->job.brief = wal->brief && !group->rolls;
    job->group = group;
    job->roll = group->rolls ? &wal->roll : NULL;
    job->base = wal->base;
    job->result = ERR_OK;
    wal->flushing = true;
    wal->witness_due = group->records > 0;
    wal->segment_batches++;
    wal->head.offset += group->bytes.len;
    wal->open = group == &wal->groups[0] ? &wal->groups[1] : &wal->groups[0];
    wal_group_open(wal, wal->open);
    wal->env->ops->submit(wal->env, &job->job);
    wal_space_poll(wal);
}

/* In the pool: touches only the job and its group. */
static void flush_work(struct job *base, struct disk *disk)
{
    struct wal_flush_job *job = (struct wal_flush_job *)base;
    struct wal_group *group = job->group;
    if (job->roll != NULL) {
        job->result = wal_roll_write(job, disk);
        if (job->result != ERR_OK)
            return;
    }
    wal_group_finish(group, job->base);
    job->what = "write of a batch";
    job->result =
        disk->ops->pwrite(disk, group->file, group->at.offset, group->bytes.ptr, group->bytes.len);
    if (job->result != ERR_OK)
        return;
    job->what = "sync of a batch";
    job->result = disk->ops->sync(disk, group->file);
}

static void flush_done(struct job *base)
{
    struct wal_flush_job *job = (struct wal_flush_job *)base;
    struct wal *wal = job->wal;
    struct wal_group *group = job->group;
    if (job->result != ERR_OK) {
        wal->flushing = false;
        wal_failed(wal, job->result, job->what);
        return;
    }
    wal->durable =
        (struct lsn){.segment = group->at.segment, .offset = group->at.offset + group->bytes.len};
    wal->durable_idx = max_u64(wal->durable_idx, group->last_idx);
    wal->durable_batch = group->number;
    if (wal->callbacks.on_durable != NULL)
        wal->callbacks.on_durable(wal->callbacks.ctx, wal->durable_idx, group->at,
                                  buf_span(&group->bytes));
    if (!wal_replicated(wal))
        wal_commit(wal, wal->durable_idx);
    wal->flushing = false;
    wal_space_poll(wal);
}

void wal_failed(struct wal *wal, enum err err, const char *what)
{
    wal->failed = true;
    wal->env->ops->fatal(wal->env, err, what);
}
