/* What became durable and so, with one replica, committed: watermarks move first, then answers
 * leave and followers hear of the new events. */
#include "bucketd/core/bucket_internal.h"

#include <stdlib.h>

#include "common/assert.h"

/* A tail message isn't made larger than this by a further event. */
#define TAIL_BYTES SCAN_CHUNK_BYTES

static struct noted_entry *tail_front(struct bucket *bucket);
static void publish(struct bucket *bucket, const struct noted_entry *entry, struct lsn at,
                    struct span written);
static void send_tail(struct bucket *bucket, uint32_t partition, struct partition *p);
static void send_replies(struct bucket *bucket);

void commit_note_entry(struct bucket *bucket, const struct noted_entry *entry)
{
    struct tail_queue *tail = &bucket->tail;
    if (tail->len == tail->cap) {
        uint32_t cap = tail->cap == 0 ? 1024 : tail->cap * 2;
        struct noted_entry *ring = malloc(cap * sizeof *ring);
        ASSERT(ring != NULL);
        for (uint32_t i = 0; i < tail->len; i++)
            ring[i] = tail->ring[(tail->head + i) & (tail->cap - 1)];
        free(tail->ring);
        *tail = (struct tail_queue){.ring = ring, .cap = cap, .len = tail->len};
    }
    tail->ring[(tail->head + tail->len++) & (tail->cap - 1)] = *entry;
}

void commit_up_to(struct bucket *bucket, uint64_t idx, struct lsn at, struct span written)
{
    ASSERT(idx >= bucket->commit_idx);
    bucket->commit_idx = idx;
    for (struct noted_entry *entry; (entry = tail_front(bucket)) != NULL && entry->idx <= idx;) {
        struct partition *p = bucket_partition(bucket, entry->partition);
        ASSERT(p != NULL && p->watermark == entry->first_seq);
        p->watermark += entry->count;
        bucket->stats.flushed_events += entry->count;
        if (p->followers_len > 0)
            publish(bucket, entry, at, written);
        bucket->tail.head = (bucket->tail.head + 1) & (bucket->tail.cap - 1);
        bucket->tail.len--;
    }
    for (uint32_t i = 0; i < bucket->partition_count; i++) {
        if (bucket->partitions[i].tail_count > 0)
            send_tail(bucket, bucket->config.bucket + i * bucket->config.bucket_count,
                      &bucket->partitions[i]);
    }
    send_replies(bucket);
}

struct buf *commit_reply_begin(struct bucket *bucket, uint32_t link)
{
    uint64_t idx = wal_last_idx(bucket->wal);
    if (idx <= bucket->commit_idx && bucket->replies.len == bucket->replies_at)
        return bucket->env->ops->outbox(bucket->env, link);
    struct waiting_reply head = {.idx = idx, .link = link};
    buf_append(&bucket->replies, &head, sizeof head);
    /* commit_reply_end finds the head by this: the length is filled in there. */
    bucket->reply_head = bucket->replies.len - sizeof head;
    bucket->reply_open = true;
    return &bucket->replies;
}

void commit_reply_end(struct bucket *bucket)
{
    if (!bucket->reply_open)
        return;
    bucket->reply_open = false;
    struct waiting_reply head;
    memcpy(&head, bucket->replies.ptr + bucket->reply_head, sizeof head);
    head.len = (uint32_t)(bucket->replies.len - bucket->reply_head - sizeof head);
    memcpy(bucket->replies.ptr + bucket->reply_head, &head, sizeof head);
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
    free(bucket->tail.ring);
    buf_release(&bucket->replies);
}

static struct noted_entry *tail_front(struct bucket *bucket)
{
    return bucket->tail.len == 0 ? NULL : &bucket->tail.ring[bucket->tail.head];
}

/* Packs an entry's events for its partition's followers, from the bytes that were just written. */
static void publish(struct bucket *bucket, const struct noted_entry *tail, struct lsn at,
                    struct span written)
{
    struct partition *p = bucket_partition(bucket, tail->partition);
    ASSERT(tail->offset >= at.offset &&
           tail->offset - at.offset + sizeof(struct entry_head) <= written.len);
    const uint8_t *bytes = written.ptr + (tail->offset - at.offset);
    struct entry_head head;
    memcpy(&head, bytes, sizeof head);
    struct wal_entry entry = {.segment = at.segment,
                              .offset = tail->offset,
                              .head = &head,
                              .bytes = span_of(bytes, head.record.len)};
    struct format_salt salt = bucket->salt;
    salt.segment = at.segment;
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

static void send_replies(struct bucket *bucket)
{
    struct buf *replies = &bucket->replies;
    while (bucket->replies_at < replies->len) {
        struct waiting_reply head;
        memcpy(&head, replies->ptr + bucket->replies_at, sizeof head);
        if (head.idx > bucket->commit_idx)
            break;
        struct buf *out = bucket->env->ops->outbox(bucket->env, head.link);
        if (out != NULL)
            buf_append(out, replies->ptr + bucket->replies_at + sizeof head, head.len);
        bucket->replies_at += sizeof head + head.len;
    }
    if (bucket->replies_at == replies->len) {
        buf_clear(replies, 1u << 20);
        bucket->replies_at = 0;
    } else if (bucket->replies_at > replies->len / 2) {
        buf_consume(replies, bucket->replies_at);
        bucket->replies_at = 0;
    }
}
