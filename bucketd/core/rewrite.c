/* A segment written anew. */
#include "bucketd/core/rewrite.h"

#include <stdio.h>
#include <stdlib.h>

#define REWRITE_PATH        REWRITE_DIR "/data.evts"
#define REWRITE_BATCH_BYTES (1u << 20)

static void batch_open(struct rewrite *rewrite);
static enum err batch_write(struct rewrite *rewrite);
static void vote_add(struct rewrite *rewrite, uint64_t term, uint64_t voted_for);
static void index_events(struct rewrite *rewrite, const struct wal_entry *entry);

enum err rewrite_begin(struct rewrite *rewrite, struct disk *disk, const struct wal_config *config,
                       const struct rewrite_start *start, uint64_t commit_idx, struct index *index)
{
    uint32_t slots = wal_slot_count(config->bucket, config->bucket_count, config->partition_count);
    rewrite_release(rewrite);
    *rewrite = (struct rewrite){
        .disk = disk,
        .config = *config,
        .salt = {.cluster_id = config->cluster_id,
                 .bucket = config->bucket,
                 .segment = start->segment},
        .commit_idx = commit_idx,
        .state = start->state,
        .index = index,
    };
    rewrite->base = wal_salt_base(&rewrite->salt);
    rewrite->state.next_seq = malloc((slots + 1) * sizeof(uint64_t));
    ASSERT(rewrite->state.next_seq != NULL);
    memcpy(rewrite->state.next_seq, start->state.next_seq, slots * sizeof(uint64_t));

    enum err err = rewrite_remove(disk);
    if (err == ERR_OK)
        err = disk->ops->mkdir(disk, REWRITE_DIR);
    if (err == ERR_OK)
        err = disk->ops->open(disk, REWRITE_PATH, OPEN_CREATE, &rewrite->file);
    if (err != ERR_OK)
        return err;
    struct segment_header header = wal_header_make(config, start->segment, start->disk_id);
    struct buf checkpoint = {0};
    wal_checkpoint_render(config, start->disk_id, &start->state, &start->config, &checkpoint);
    err = wal_front_write(disk, rewrite->file, rewrite->base, &header, &checkpoint);
    buf_release(&checkpoint);
    rewrite->batch.at = (struct lsn){.segment = start->segment, .offset = wal_data_start(slots)};
    batch_open(rewrite);
    return err;
}

void rewrite_release(struct rewrite *rewrite)
{
    if (rewrite->file != NULL)
        rewrite->disk->ops->close(rewrite->disk, rewrite->file);
    if (rewrite->index != NULL)
        index_free(rewrite->index, rewrite->disk);
    free(rewrite->state.next_seq);
    buf_release(&rewrite->batch.bytes);
    buf_release(&rewrite->scratch);
    *rewrite = (struct rewrite){0};
}

enum err rewrite_remove(struct disk *disk)
{
    enum err err = disk->ops->unlink(disk, REWRITE_PATH);
    return err == ERR_NOTFOUND ? ERR_OK : err;
}

enum err rewrite_add(struct rewrite *rewrite, struct span bytes)
{
    const struct wal_config *config = &rewrite->config;
    struct wal_group_id group = {.cluster_id = config->cluster_id,
                                 .bucket = config->bucket,
                                 .bucket_count = config->bucket_count,
                                 .partition_count = config->partition_count};
    struct wal_state *state = &rewrite->state;
    struct wal_group *batch = &rewrite->batch;
    struct wal_voters voters;
    enum err err = wal_entry_follows(&group, state, bytes, &rewrite->scratch, &voters);
    if (err != ERR_OK)
        return err;
    struct entry_head head;
    memcpy(&head, bytes.ptr, sizeof head);
    bool is_tx = head.record.entry_kind == ENTRY_TX;
    uint32_t slot = head.record.partition / config->bucket_count;
    if (is_tx && head.first_seq != state->next_seq[slot])
        return ERR_CORRUPT;
    if (batch->records > 0 && batch->bytes.len + bytes.len > REWRITE_BATCH_BYTES)
        err = batch_write(rewrite);
    if (err != ERR_OK)
        return err;
    if (head.term > state->term)
        vote_add(rewrite, head.term, 0);

    uint64_t where = batch->at.offset + batch->bytes.len;
    uint8_t *place = buf_extend(&batch->bytes, bytes.len);
    memcpy(place, bytes.ptr, bytes.len);
    wal_entry_sign(rewrite->base, where, place);
    batch->records++;
    if (batch->first_idx == 0)
        batch->first_idx = head.idx;
    if (rewrite->entries++ == 0)
        rewrite->first_idx = head.idx;
    rewrite->events += head.record.count;
    state->last_idx = head.idx;
    state->last_term = head.term;
    state->last_chain = head.chain;
    state->events += head.record.count;
    if (is_tx)
        state->next_seq[slot] += head.record.count;
    struct wal_entry entry = {.segment = rewrite->salt.segment,
                              .offset = where,
                              .head = &head,
                              .bytes = span_of(place, bytes.len)};
    if (is_tx && rewrite->index != NULL)
        index_events(rewrite, &entry);
    return ERR_OK;
}

static void index_events(struct rewrite *rewrite, const struct wal_entry *entry)
{
    struct event_view event;
    uint64_t offset = sizeof(struct entry_head);
    uint32_t position = 0;
    while (wal_entry_event(entry, &rewrite->salt, &offset, &rewrite->scratch, &event, &position) ==
           ERR_OK)
        index_add(rewrite->index, &(struct index_event){.event_id = event.event_id,
                                                        .partition = event.partition,
                                                        .sequence = event.sequence,
                                                        .version = event.version,
                                                        .partition_key = event.partition_key,
                                                        .stream = event.stream,
                                                        .position = position});
}

enum err rewrite_sync(struct rewrite *rewrite)
{
    enum err err = rewrite->batch.records > 0 ? batch_write(rewrite) : ERR_OK;
    return err == ERR_OK ? rewrite->disk->ops->sync(rewrite->disk, rewrite->file) : err;
}

enum err rewrite_seal(struct rewrite *rewrite)
{
    enum err err = rewrite->batch.records > 0 ? batch_write(rewrite) : ERR_OK;
    if (err != ERR_OK)
        return err;
    struct segment_footer footer = {
        .magic = FOOTER_MAGIC,
        .data_end = rewrite->batch.at.offset,
        .batches = rewrite->batches,
        .last_batch = rewrite->state.batch_no,
        .entries = rewrite->entries,
        .events = rewrite->events,
        .first_idx = rewrite->first_idx,
        .last_idx = rewrite->state.last_idx,
        .last_chain = rewrite->state.last_chain,
    };
    return wal_footer_write(rewrite->disk, rewrite->file, rewrite->base, &footer);
}

/* The witness tells that all before it was synced, as it is when the file gets its name: what is
 * damaged from then on isn't torn. */
enum err rewrite_end(struct rewrite *rewrite, uint64_t term, uint64_t voted_for)
{
    const struct wal_state *state = &rewrite->state;
    ASSERT(term >= state->term);
    if (term != state->term || voted_for != state->voted_for)
        vote_add(rewrite, term, voted_for);
    enum err err = rewrite->batch.records > 0 ? batch_write(rewrite) : ERR_OK;
    if (err == ERR_OK)
        err = batch_write(rewrite);
    return err == ERR_OK ? rewrite->disk->ops->sync(rewrite->disk, rewrite->file) : err;
}

enum err rewrite_publish(struct rewrite *rewrite)
{
    struct disk *disk = rewrite->disk;
    char path[48], dir[32];
    wal_data_path(rewrite->salt.segment, false, path);
    wal_segment_dir(rewrite->salt.segment, dir);
    disk->ops->close(disk, rewrite->file);
    rewrite->file = NULL;
    enum err err = disk->ops->rename(disk, REWRITE_PATH, path);
    if (err == ERR_OK)
        err = disk->ops->sync_dir(disk, dir);
    return err == ERR_OK ? disk->ops->sync_dir(disk, REWRITE_DIR) : err;
}

enum err rewrite_remove_index(struct disk *disk, uint64_t segment)
{
    char dir[32], path[64];
    wal_segment_dir(segment, dir);
    for (unsigned i = 0; i < INDEX_FILES; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, index_file_names[i]);
        enum err err = disk->ops->unlink(disk, path);
        if (err != ERR_OK && err != ERR_NOTFOUND)
            return err;
    }
    return disk->ops->sync_dir(disk, dir);
}

/* --- batches --- */

static void batch_open(struct rewrite *rewrite)
{
    struct wal_group *batch = &rewrite->batch;
    buf_clear(&batch->bytes, 2 * WAL_GROUP_BYTES);
    buf_append_zeros(&batch->bytes, sizeof(struct batch_mark));
    batch->first_idx = 0;
    batch->records = 0;
}

static enum err batch_write(struct rewrite *rewrite)
{
    struct wal_group *batch = &rewrite->batch;
    struct wal_state *state = &rewrite->state;
    struct batch_mark mark = {
        .magic = BATCH_HEAD_MAGIC,
        .number = ++state->batch_no,
        .offset = batch->at.offset,
        .bytes = batch->bytes.len + sizeof mark,
        .synced_upto = batch->at,
        .first_idx = batch->first_idx,
        .last_idx = state->last_idx,
        .last_term = state->last_term,
        .term = state->term,
        .voted_for = state->voted_for,
        .commit_hint = min_u64(rewrite->commit_idx, state->last_idx),
        .records = batch->records,
    };
    memcpy(batch->bytes.ptr, &mark, sizeof mark);
    mark.magic = BATCH_TAIL_MAGIC;
    buf_append(&batch->bytes, &mark, sizeof mark);
    wal_group_finish(batch, rewrite->base);
    enum err err = rewrite->disk->ops->pwrite(rewrite->disk, rewrite->file, batch->at.offset,
                                              batch->bytes.ptr, batch->bytes.len);
    batch->at.offset += batch->bytes.len;
    rewrite->batches++;
    batch_open(rewrite);
    return err;
}

static void vote_add(struct rewrite *rewrite, uint64_t term, uint64_t voted_for)
{
    struct wal_group *batch = &rewrite->batch;
    struct vote_record vote = {
        .record = {.kind = RECORD_VOTE, .len = sizeof vote}, .term = term, .voted_for = voted_for};
    size_t covered = offsetof(struct record_head, len);
    vote.record.crc = wal_crc(rewrite->base, batch->at.offset + batch->bytes.len,
                              (const uint8_t *)&vote + covered, sizeof vote - covered);
    buf_append(&batch->bytes, &vote, sizeof vote);
    batch->records++;
    rewrite->state.term = term;
    rewrite->state.voted_for = voted_for;
}
