/* What is committed: watermarks move first, then answers leave and followers hear of the new
 * events. */
#include "bucketd/core/bucket_internal.h"

#include <stdlib.h>

#include "common/assert.h"

/* A tail message isn't made larger than this by a further event. */
#define TAIL_BYTES SCAN_CHUNK_BYTES

static void publish(struct bucket *bucket, const struct tail_entry *entry, struct lsn at,
                    struct span written);
static struct span entry_bytes(struct bucket *bucket, const struct tail_entry *entry, struct lsn at,
                               struct span written);
static struct span read_entry(struct bucket *bucket, const struct tail_entry *entry);
static void send_tail(struct bucket *bucket, uint32_t partition, struct partition *p);
static void send_replies(struct bucket *bucket, struct reply_queue *queue);
static void fail_queue(struct bucket *bucket, struct reply_queue *queue);

void commit_open(struct bucket *bucket)
{
    struct wal *wal = bucket->wal;
    /* Damage may hide where what is committed ends: all before the segment is. */
    bool unsure = bucket->damaged && !replica_is_alone(bucket);
    for (uint32_t i = 0; i < bucket->partition_count; i++) {
        uint32_t partition = bucket->config.bucket + i * bucket->config.bucket_count;
        bucket->partitions[i].watermark =
            unsure ? wal_checkpoint_seq(wal, partition) : wal_next_seq(wal, partition);
    }
    if (unsure)
        return;
    for (uint64_t idx = wal_last_idx(wal); idx > wal_commit_idx(wal); idx--) {
        const struct tail_entry *entry = wal_tail_entry(wal, idx);
        if (entry->kind == ENTRY_TX)
            bucket_partition(bucket, entry->partition)->watermark = entry->first_seq;
    }
}

void commit_up_to(struct bucket *bucket, uint64_t idx, struct lsn at, struct span written)
{
    struct wal *wal = bucket->wal;
    for (uint64_t i = wal_commit_idx(wal) + 1; i <= idx; i++) {
        const struct tail_entry *entry = wal_tail_entry(wal, i);
        uint64_t *uncommitted = &bucket->replica.uncommitted_bytes;
        *uncommitted -= min_u64(entry->len, *uncommitted);
        if (entry->kind != ENTRY_TX)
            continue;
        struct partition *p = bucket_partition(bucket, entry->partition);
        ASSERT(p != NULL && p->watermark == entry->first_seq);
        p->watermark += entry->count;
        bucket->stats.flushed_events += entry->count;
        if (p->followers_len > 0)
            publish(bucket, entry, at, written);
    }
    wal_commit(wal, idx);
    for (uint32_t i = 0; i < bucket->partition_count; i++) {
        if (bucket->partitions[i].tail_count > 0)
            send_tail(bucket, bucket->config.bucket + i * bucket->config.bucket_count,
                      &bucket->partitions[i]);
    }
    send_replies(bucket, &bucket->replies);
}

struct buf *commit_reply_begin(struct bucket *bucket, uint32_t link, uint64_t req_id, bool refusal)
{
    uint64_t idx = wal_last_idx(bucket->wal);
    bool proof = refusal && !replica_is_alone(bucket);
    struct reply_queue *queue = proof ? &bucket->refusals : &bucket->replies;
    bool now = idx <= wal_commit_idx(bucket->wal) && queue->bytes.len == queue->at;
    if (refusal && PLANTED(&bucket->config, PLANT_CONFLICT_BEFORE_COMMIT))
        proof = false, now = true;
    if (now && !proof)
        return bucket->env->ops->outbox(bucket->env, link);
    struct waiting_reply head = {
        .idx = idx, .tick = proof ? liveness_ask(bucket) : 0, .req_id = req_id, .link = link};
    /* commit_reply_end fills in the length. */
    queue->head = queue->bytes.len;
    queue->open = true;
    buf_append(&queue->bytes, &head, sizeof head);
    return &queue->bytes;
}

void commit_reply_end(struct bucket *bucket)
{
    struct reply_queue *queues[] = {&bucket->replies, &bucket->refusals};
    for (size_t i = 0; i < 2; i++) {
        struct reply_queue *queue = queues[i];
        if (!queue->open)
            continue;
        queue->open = false;
        uint8_t *at = queue->bytes.ptr + queue->head;
        store_u32(at + offsetof(struct waiting_reply, len),
                  (uint32_t)(queue->bytes.len - queue->head - sizeof(struct waiting_reply)));
    }
}

void commit_send_refusals(struct bucket *bucket)
{
    send_replies(bucket, &bucket->refusals);
}

void commit_fail_replies(struct bucket *bucket)
{
    fail_queue(bucket, &bucket->replies);
    fail_queue(bucket, &bucket->refusals);
}

static void fail_queue(struct bucket *bucket, struct reply_queue *queue)
{
    for (; queue->at < queue->bytes.len;) {
        struct waiting_reply head;
        memcpy(&head, queue->bytes.ptr + queue->at, sizeof head);
        bucket_fail(bucket, head.link, head.req_id, ERR_UNKNOWN,
                    "outcome unknown, the bucket's leader has changed");
        queue->at += sizeof head + head.len;
    }
    buf_clear(&queue->bytes, 1u << 20);
    queue->at = 0;
}

void commit_follow(struct bucket *bucket, uint32_t link, const struct msg_follow_req *req)
{
    struct partition *p = bucket_partition_asked(bucket, link, req->req_id, req->partition);
    if (p == NULL)
        return;
    if (p->end_unknown) {
        bucket_fail(bucket, link, req->req_id, ERR_READ,
                    "partition %lu: its newest events are damaged; see sierradb verify",
                    req->partition);
        return;
    }
    bool known = false;
    for (uint32_t i = 0; i < p->followers_len; i++)
        known |= p->followers[i] == link;
    if (!known) {
        p->followers = realloc(p->followers, (p->followers_len + 1) * sizeof *p->followers);
        ASSERT(p->followers != NULL);
        p->followers[p->followers_len++] = link;
    }
    struct buf *out = bucket->env->ops->outbox(bucket->env, link);
    if (out != NULL)
        msg_pack_follow_reply(out, &(struct msg_follow_reply){.req_id = req->req_id,
                                                              .partition = req->partition,
                                                              .watermark = p->watermark});
}

void commit_unfollow(struct bucket *bucket, uint32_t link, const struct msg_unfollow_req *req)
{
    struct partition *p = bucket_partition(bucket, req->partition);
    for (uint32_t i = 0; p != NULL && i < p->followers_len; i++) {
        if (p->followers[i] == link) {
            p->followers[i] = p->followers[--p->followers_len];
            return;
        }
    }
}

void commit_link_lost(struct bucket *bucket, uint32_t link)
{
    for (uint32_t i = 0; i < bucket->partition_count; i++) {
        struct msg_unfollow_req req = {.partition =
                                           bucket->config.bucket + i * bucket->config.bucket_count};
        commit_unfollow(bucket, link, &req);
    }
}

void commit_release(struct bucket *bucket)
{
    for (uint32_t i = 0; i < bucket->partition_count; i++) {
        free(bucket->partitions[i].followers);
        buf_release(&bucket->partitions[i].tail);
    }
    buf_release(&bucket->replies.bytes);
    buf_release(&bucket->refusals.bytes);
}

/* Packs an entry's events for its partition's followers. */
static void publish(struct bucket *bucket, const struct tail_entry *tail, struct lsn at,
                    struct span written)
{
    struct partition *p = bucket_partition(bucket, tail->partition);
    struct span bytes = entry_bytes(bucket, tail, at, written);
    if (bytes.ptr == NULL)
        return;
    struct entry_head head;
    memcpy(&head, bytes.ptr, sizeof head);
    struct wal_entry entry = {
        .segment = tail->at.segment, .offset = tail->at.offset, .head = &head, .bytes = bytes};
    struct format_salt salt = bucket->salt;
    salt.segment = tail->at.segment;
    uint64_t offset = sizeof head;
    struct event_view event;
    uint32_t position;
    while (wal_entry_event(&entry, &salt, &offset, &bucket->append.fetcher.scratch, &event,
                           &position) == ERR_OK) {
        if (p->tail_count == 0)
            p->tail_first = event.sequence;
        bucket_pack_event(&p->tail, &event);
        p->tail_count++;
        if (p->tail.len >= TAIL_BYTES)
            send_tail(bucket, tail->partition, p);
    }
}

/* What was just written, what is in memory, or else from the disk: entries of before this start
 * that were too many to be kept. */
static struct span entry_bytes(struct bucket *bucket, const struct tail_entry *entry, struct lsn at,
                               struct span written)
{
    uint64_t from = entry->at.offset - at.offset;
    if (written.len > 0 && entry->at.segment == at.segment && entry->at.offset >= at.offset &&
        from + entry->len <= written.len)
        return span_of(written.ptr + from, entry->len);
    struct recent_entry known;
    if (bucket->replica.recent != NULL && recent_get(bucket->replica.recent, entry->idx, &known))
        return known.bytes;
    struct span tail = wal_tail_bytes(bucket->wal, entry->at.segment, entry->at.offset, entry->len);
    return tail.ptr != NULL ? tail : read_entry(bucket, entry);
}

static struct span read_entry(struct bucket *bucket, const struct tail_entry *entry)
{
    struct disk *disk = bucket->env->disk;
    struct buf *bytes = &bucket->append.fetcher.assembled;
    char dir[32], path[64];
    struct file *file;
    snprintf(path, sizeof path, "%s/data.evts", wal_segment_dir(entry->at.segment, dir));
    enum err err = disk->ops->open(disk, path, OPEN_READ, &file);
    size_t len = 0;
    bytes->len = 0;
    buf_reserve(bytes, entry->len);
    if (err == ERR_OK) {
        err = disk->ops->pread(disk, file, entry->at.offset, bytes->ptr, entry->len, &len);
        disk->ops->close(disk, file);
    }
    if (err == ERR_OK && len == entry->len)
        return span_of(bytes->ptr, len);
    /* Whoever follows would miss an event and never know. */
    bucket->env->ops->fatal(bucket->env, err == ERR_OK ? ERR_CORRUPT : err,
                            "an uncommitted entry can't be read");
    return (struct span){0};
}

static void send_tail(struct bucket *bucket, uint32_t partition, struct partition *p)
{
    if (p->tail_count == 0)
        return;
    for (uint32_t i = 0; i < p->followers_len; i++) {
        struct buf *out = bucket->env->ops->outbox(bucket->env, p->followers[i]);
        if (out != NULL)
            msg_pack_tail(out, &(struct msg_tail){.partition = partition,
                                                  .first = p->tail_first,
                                                  .count = p->tail_count,
                                                  .events = buf_span(&p->tail)});
    }
    buf_clear(&p->tail, 4 * TAIL_BYTES);
    p->tail_count = 0;
}

static void send_replies(struct bucket *bucket, struct reply_queue *queue)
{
    struct buf *replies = &queue->bytes;
    while (queue->at < replies->len) {
        struct waiting_reply head;
        memcpy(&head, replies->ptr + queue->at, sizeof head);
        if (head.idx > wal_commit_idx(bucket->wal) ||
            (head.tick != 0 && !liveness_echoed(bucket, head.tick)))
            break;
        struct buf *out = bucket->env->ops->outbox(bucket->env, head.link);
        if (out != NULL)
            buf_append(out, replies->ptr + queue->at + sizeof head, head.len);
        queue->at += sizeof head + head.len;
    }
    if (queue->at == replies->len) {
        buf_clear(replies, 1u << 20);
        queue->at = 0;
    } else if (queue->at > replies->len / 2) {
        buf_consume(replies, queue->at);
        queue->at = 0;
    }
}
