/* The log's writing side: records into the open group, groups to the disk, one flush at a time. */
#include "bucketd/core/wal_internal.h"

#include <lz4.h>
#include <stdlib.h>

static size_t encode_event(struct wal *wal, uint8_t *entry, size_t at, uint64_t where,
                           uint32_t index, const struct wal_event *event, uint64_t *chain);
static size_t event_compress(struct wal *wal, uint8_t *data, size_t len);
static uint8_t *entry_begin(struct wal *wal, struct entry_head *head, size_t bound);
static void entry_end(struct wal *wal, const struct entry_head *head, uint8_t *place, size_t len);
static void record_end(struct wal *wal, uint8_t *place, size_t head_len, size_t len);
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

uint64_t wal_last_idx(const struct wal *wal)
{
    return wal->tail.last_idx;
}

uint64_t wal_last_chain(const struct wal *wal)
{
    return wal->tail.last_chain;
}

uint64_t wal_durable_idx(const struct wal *wal)
{
    return wal->durable_idx;
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

/* --- appending --- */

uint64_t wal_entry_bound(const struct wal_event *events, uint32_t count)
{
    uint64_t bound = sizeof(struct entry_head);
    for (uint32_t i = 0; i < count; i++) {
        const struct wal_event *event = &events[i];
        bound += align_up(sizeof(struct event_head) + event->stream.len + event->name.len +
                              event->metadata.len + event->payload.len,
                          8);
    }
    return bound;
}

uint64_t wal_entry_max(const struct wal *wal)
{
    uint64_t data_start = wal_data_start(wal->slots);
    uint64_t room = wal_limit(&wal->config, data_start) - data_start;
    return min_u64(room - WAL_WITNESS_BYTES - WAL_RESERVE_BYTES, UINT32_MAX & ~7u);
}

enum err wal_fits(struct wal *wal, uint64_t bound, enum wal_room room)
{
    (void)room;
    if (wal->damaged)
        return ERR_CORRUPT;
    if (wal->failed)
        return ERR_IO;
    if (bound > wal_entry_max(wal))
        return ERR_MAXSIZE;
    const struct wal_group *open = wal->open;
    if (open->records > 0 && open->bytes.len + bound + sizeof(struct batch_mark) > WAL_GROUP_BYTES)
        return ERR_AGAIN;
    return wal_space_fits(wal, bound);
}

uint64_t wal_append_tx(struct wal *wal, uint32_t partition, const struct uuid *partition_key,
                       const struct uuid *transaction_id, const struct wal_event *events,
                       uint32_t count, uint32_t *ret_positions)
{
    ASSERT(count > 0 && partition % wal->config.bucket_count == wal->config.bucket);
    uint64_t *next_seq = &wal->tail.next_seq[partition / wal->config.bucket_count];
    struct entry_head head = {
        .record = {.kind = RECORD_ENTRY,
                   .entry_kind = ENTRY_TX,
                   .partition = (uint16_t)partition,
                   .count = count},
        .first_seq = *next_seq,
        .transaction_id = *transaction_id,
        .partition_key = *partition_key,
    };
    uint8_t *entry = entry_begin(wal, &head, wal_entry_bound(events, count));
    uint64_t where = wal->open->at.offset + wal->open->bytes.len;
    uint64_t chain = wal_chain_entry(wal->tail.last_chain, &head);
    size_t at = sizeof head;
    for (uint32_t i = 0; i < count; i++) {
        ret_positions[i] = (uint32_t)((where + at) / POSITION_UNIT);
        at += encode_event(wal, entry, at, where, i, &events[i], &chain);
    }
    head.chain = chain;
    entry_end(wal, &head, entry, at);
    *next_seq += count;
    wal->tail.events += count;
    wal->segment_events += count;
    return head.idx;
}

uint64_t wal_append_noop(struct wal *wal)
{
    struct entry_head head = {.record = {.kind = RECORD_ENTRY, .entry_kind = ENTRY_NOOP}};
    uint8_t *entry = entry_begin(wal, &head, sizeof head);
    head.chain = wal_chain_entry(wal->tail.last_chain, &head);
    entry_end(wal, &head, entry, sizeof head);
    return head.idx;
}

void wal_append_settings(struct wal *wal)
{
    const struct wal_config *config = &wal->config;
    struct {
        struct config_body body;
        struct config_voter voters[1];
    } body = {
        .body = {.voters = 1,
                 .group_id = config->cluster_id,
                 .bucket = config->bucket,
                 .bucket_count = config->bucket_count,
                 .partition_count = config->partition_count},
        .voters = {{.node = config->node, .generation = 1}},
    };
    struct entry_head head = {.record = {.kind = RECORD_ENTRY, .entry_kind = ENTRY_CONFIG}};
    uint8_t *entry = entry_begin(wal, &head, sizeof head + sizeof body);
    uint64_t where = wal->open->at.offset + wal->open->bytes.len + sizeof head;
    size_t covered = offsetof(struct config_body, voters);
    const uint8_t *canonical = (const uint8_t *)&body + covered;
    body.body.crc = wal_crc(wal->base, where, canonical, sizeof body - covered);
    head.chain = wal_chain_bytes(wal_chain_entry(wal->tail.last_chain, &head), canonical,
                                 sizeof body - covered);
    memcpy(entry + sizeof head, &body, sizeof body);
    entry_end(wal, &head, entry, sizeof head + sizeof body);
    wal->tail.config_idx = head.idx;
}

void wal_append_vote(struct wal *wal, uint64_t term, uint64_t voted_for)
{
    ASSERT(term > wal->tail.term);
    struct vote_record vote = {
        .record = {.kind = RECORD_VOTE}, .term = term, .voted_for = voted_for};
    vote.record.len = sizeof vote;
    uint8_t *place = buf_reserve(&wal->open->bytes, sizeof vote);
    memcpy(place, &vote, sizeof vote);
    record_end(wal, place, sizeof vote, sizeof vote);
    wal->tail.term = term;
    wal->tail.voted_for = voted_for;
}

/* Gives the entry its idx and term, and the place where it goes. */
static uint8_t *entry_begin(struct wal *wal, struct entry_head *head, size_t bound)
{
    head->idx = wal->tail.last_idx + 1;
    head->term = wal->tail.term;
    return buf_reserve(&wal->open->bytes, bound);
}

static void entry_end(struct wal *wal, const struct entry_head *head, uint8_t *place, size_t len)
{
    struct wal_group *open = wal->open;
    memcpy(place, head, sizeof *head);
    store_u32(place + offsetof(struct record_head, len), (uint32_t)len);
    record_end(wal, place, sizeof *head, len);
    if (open->first_idx == 0)
        open->first_idx = head->idx;
    open->last_idx = head->idx;
    wal->tail.last_idx = head->idx;
    wal->tail.last_term = head->term;
    wal->tail.last_chain = head->chain;
    if (wal->segment_entries++ == 0)
        wal->segment_first_idx = head->idx;
}

static void record_end(struct wal *wal, uint8_t *place, size_t head_len, size_t len)
{
    struct wal_group *open = wal->open;
    size_t covered = offsetof(struct record_head, len);
    uint64_t where = open->at.offset + open->bytes.len;
    store_u32(place, wal_crc(wal->base, where, place + covered, head_len - covered));
    open->bytes.len += len;
    open->records++;
    /* wal_fits has promised it. */
    ASSERT(where + len + sizeof(struct batch_mark) + WAL_RESERVE_BYTES <= wal->zeroed_end);
}

/* `at`: of the event in its entry, which begins at `where` in the file. The chain covers the bytes
 * before compression. Returns the event's length. */
static size_t encode_event(struct wal *wal, uint8_t *entry, size_t at, uint64_t where,
                           uint32_t index, const struct wal_event *event, uint64_t *chain)
{
    ASSERT(event->stream.len <= STREAM_ID_LEN_MAX && event->name.len <= EVENT_NAME_LEN_MAX);
    size_t data_len = event->metadata.len + event->payload.len;
    struct event_head head = {
        .index = index,
        .entry_distance = (uint32_t)at,
        .event_id = event->event_id,
        .version = event->version,
        .timestamp_ns = event->timestamp_ns,
        .metadata_len = (uint32_t)event->metadata.len,
        .payload_len = (uint32_t)event->payload.len,
        .stream_len = (uint8_t)event->stream.len,
        .name_len = (uint8_t)event->name.len,
    };
    uint8_t *place = entry + at, *to = place + sizeof head;
    memcpy(place, &head, sizeof head);
    const struct span *parts[] = {&event->stream, &event->name, &event->metadata, &event->payload};
    for (size_t i = 0; i < 4; i++) {
        if (parts[i]->len > 0)
            memcpy(to, parts[i]->ptr, parts[i]->len);
        to += parts[i]->len;
    }
    size_t canonical_at = offsetof(struct event_head, event_id);
    *chain = wal_chain_bytes(*chain, place + canonical_at, (size_t)(to - place) - canonical_at);

    size_t stored_len = data_len;
    if (wal->config.compression && data_len >= WAL_COMPRESS_BYTES_MIN)
        stored_len = event_compress(wal, to - data_len, data_len);
    to -= data_len - stored_len;
    head.flags = stored_len < data_len ? EVENT_LZ4 : 0;
    head.stored_len = (uint32_t)stored_len;
    size_t len = align_up((size_t)(to - place), 8);
    memset(to, 0, len - (size_t)(to - place));
    head.len = (uint32_t)len;
    memcpy(place, &head, canonical_at);
    size_t covered = offsetof(struct event_head, len);
    store_u32(place, wal_crc(wal->base, where + at, place + covered, len - covered));
    return len;
}

/* In place, where that saves at least a sixteenth. Returns the length it has then. */
static size_t event_compress(struct wal *wal, uint8_t *data, size_t len)
{
    size_t room = len - len / 16;
    buf_clear(&wal->compressed, WAL_GROUP_BYTES);
    char *to = (char *)buf_reserve(&wal->compressed, room);
    LZ4_resetStream_fast(wal->lz4);
    int got = LZ4_compress_fast_continue(wal->lz4, (const char *)data, to, (int)len, (int)room, 1);
    if (got <= 0)
        return len;
    memcpy(data, to, (size_t)got);
    return (size_t)got;
}

/* --- groups --- */

void wal_group_open(struct wal *wal, struct wal_group *group)
{
    buf_clear(&group->bytes, 2 * WAL_GROUP_BYTES);
    buf_append_zeros(&group->bytes, sizeof(struct batch_mark));
    group->at = wal->head;
    group->file = wal->files.log;
    group->first_idx = group->last_idx = 0;
    group->records = 0;
    group->rolls = false;
}

void wal_group_mark(struct wal *wal, struct wal_group *group)
{
    struct batch_mark mark = {
        .magic = BATCH_HEAD_MAGIC,
        .number = ++wal->tail.batch_no,
        .offset = group->at.offset,
        .bytes = group->bytes.len + sizeof mark,
        .synced_upto = wal->durable,
        .first_idx = group->first_idx,
        .last_idx = group->last_idx,
        .term = wal->tail.term,
        .voted_for = wal->tail.voted_for,
        .commit_hint = wal->durable_idx, /* RF 1: durable is committed */
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
    ASSERT(!wal->damaged && !wal->sealed);
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
    if (wal->callbacks.on_durable != NULL)
        wal->callbacks.on_durable(wal->callbacks.ctx, wal->durable_idx, group->at,
                                  buf_span(&group->bytes));
    wal->flushing = false;
    wal_space_poll(wal);
}

void wal_failed(struct wal *wal, enum err err, const char *what)
{
    wal->failed = true;
    wal->env->ops->fatal(wal->env, err, what);
}
