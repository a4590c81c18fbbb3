/* Transactions: validation, duplicates, expected versions, encoding. Decisions look at the tail,
 * committed or not; answers wait until the tail they looked at is committed (REPLICATION.md 5.5).
 */
#include "bucketd/core/bucket_internal.h"

#include <stdlib.h>
#include <xxhash.h>

#include "common/assert.h"

static bool is_taken(struct bucket *bucket, uint32_t link, const struct msg_append_req *req);
static enum err append_now(struct bucket *bucket, uint32_t link, const struct msg_append_req *req);
static void fail_order(struct bucket *bucket, uint32_t link, const struct msg_append_req *req);
static void keep_waiting(struct bucket *bucket, uint32_t link, const struct msg *msg);
static bool is_valid(struct bucket *bucket, uint32_t link, const struct msg_append_req *req);
static const char *event_problem(const struct bucket *bucket, const struct msg_append_req *req,
                                 const struct rec_new_event *event);
static bool repeats_an_id(struct append_scratch *scratch, uint32_t count);
static int compare_ids(const void *a, const void *b);
static void reserve_scratch(struct append_scratch *scratch, uint32_t count);
static bool answer_duplicate(struct bucket *bucket, uint32_t link,
                             const struct msg_append_req *req);
static enum err find_stored(struct bucket *bucket, const struct uuid *event_id,
                            struct event_view *ret_event);
static bool same_content(const struct rec_new_event *asked, const struct event_view *stored);
static bool check_versions(struct bucket *bucket, uint32_t link, const struct msg_append_req *req);
static enum err look_up_stream(struct bucket *bucket, uint64_t partition, struct tx_stream *stream);
static struct tx_stream *tx_stream_slot(struct append_scratch *scratch, struct span stream);
static bool expectation_holds(const struct rec_new_event *event, const struct tx_stream *stream);
static void fail_version(struct bucket *bucket, uint32_t link, const struct msg_append_req *req,
                         const struct rec_new_event *event, const struct tx_stream *stream);
static void encode(struct bucket *bucket, uint32_t link, const struct msg_append_req *req);
static void reply_appended(struct bucket *bucket, uint32_t link, uint64_t req_id,
                           uint64_t first_seq, uint32_t count, bool duplicate);
static void fail_later(struct bucket *bucket, uint32_t link, uint64_t req_id, enum err err,
                       struct span text, bool refusal);

void append_release(struct bucket *bucket)
{
    struct append_scratch *scratch = &bucket->append;
    free(scratch->events);
    free(scratch->records);
    free(scratch->positions);
    free(scratch->streams);
    buf_release(&scratch->reply);
    fetcher_release(&scratch->fetcher);
    *scratch = (struct append_scratch){0};
}

void append_on_request(struct bucket *bucket, uint32_t link, const struct msg *msg)
{
    const struct msg_append_req *req = &msg->u.append_req;
    if (bucket->waiting.len + req->events.len > WAITING_BYTES_MAX) {
        bucket_fail(bucket, link, req->req_id, ERR_BUSY, "bucket %u: too many appends wait",
                    bucket->config.bucket);
        return;
    }
    if (!is_taken(bucket, link, req))
        return;
    /* Requests take effect in the order sent: nobody overtakes one that waits. */
    bool others_wait = bucket->waiting.len > bucket->waiting_at;
    if (!others_wait && append_now(bucket, link, req) != ERR_AGAIN)
        return;
    keep_waiting(bucket, link, msg);
}

/* Only a leader takes appends, in the order of their numbers, and only as many as it may have
 * uncommitted. What is refused here has no effect: neither on the log nor on the order. */
static bool is_taken(struct bucket *bucket, uint32_t link, const struct msg_append_req *req)
{
    if (!replica_leads(&bucket->replica)) {
        replica_fail_not_leader(bucket, link, req->req_id);
        return false;
    }
    if (sequence_check(bucket, req) != ERR_OK) {
        fail_order(bucket, link, req);
        return false;
    }
    if (!replica_is_alone(bucket) &&
        bucket->replica.uncommitted_bytes > bucket->config.uncommitted_bytes_max) {
        bucket_fail(bucket, link, req->req_id, ERR_BUSY,
                    "bucket %u: too many appends wait for a quorum", bucket->config.bucket);
        return false;
    }
    sequence_take(bucket, req);
    return true;
}

void append_fail_waiting(struct bucket *bucket)
{
    while (bucket->waiting_at < bucket->waiting.len) {
        const uint8_t *at = bucket->waiting.ptr + bucket->waiting_at;
        uint32_t link = load_u32(at), len = load_u32(at + 4);
        struct span frame = span_of(at + 8, len);
        struct msg msg;
        enum err err = msg_unpack(&frame, &msg);
        ASSERT(err == ERR_OK && msg.tag == TAG_append_req);
        replica_fail_not_leader(bucket, link, msg.u.append_req.req_id);
        bucket->waiting_at += 8 + len;
    }
    buf_clear(&bucket->waiting, 1u << 20);
    bucket->waiting_at = 0;
}

void append_retry_waiting(struct bucket *bucket)
{
    while (bucket->waiting_at < bucket->waiting.len) {
        const uint8_t *at = bucket->waiting.ptr + bucket->waiting_at;
        uint32_t link = load_u32(at), len = load_u32(at + 4);
        struct span frame = span_of(at + 8, len);
        struct msg msg;
        enum err err = msg_unpack(&frame, &msg);
        ASSERT(err == ERR_OK && msg.tag == TAG_append_req);
        if (append_now(bucket, link, &msg.u.append_req) == ERR_AGAIN)
            return;
        bucket->waiting_at += 8 + len;
    }
    buf_clear(&bucket->waiting, 1u << 20);
    bucket->waiting_at = 0;
}

/* Answers the request, or returns ERR_AGAIN where the log can't take it before something else has
 * ended. */
static enum err append_now(struct bucket *bucket, uint32_t link, const struct msg_append_req *req)
{
    if (bucket->segments.sealing > SEALING_MAX || bucket->replica.transfer_to != 0)
        return ERR_AGAIN;
    if (!replica_is_alone(bucket) && bucket->replica.begun_idx == 0)
        return ERR_AGAIN;
    if (sequence_is_broken(bucket, req)) {
        fail_order(bucket, link, req);
        return ERR_OK;
    }
    if (!is_valid(bucket, link, req))
        return ERR_OK;
    /* With other replicas a first try may arrive late, behind its own retry. */
    bool known = (req->flags & (APPEND_RETRY | APPEND_GIVEN_ID)) != 0 || !replica_is_alone(bucket);
    if (known && answer_duplicate(bucket, link, req))
        return ERR_OK;
    if (!check_versions(bucket, link, req))
        return ERR_OK;
    if (bucket->damaged) {
        bucket_fail(bucket, link, req->req_id, ERR_READONLY,
                    "bucket %u takes no appends: its log is damaged at segment %lu offset %lu; it "
                    "can be read",
                    bucket->config.bucket, bucket->damage_segment, bucket->damage_offset);
        return ERR_OK;
    }
    uint64_t bound = wal_entry_bound(bucket->append.events, (uint32_t)req->count);
    if (bound > wal_entry_max(bucket->wal)) {
        bucket_fail(bucket, link, req->req_id, ERR_MAXSIZE,
                    "the transaction needs %lu bytes, a segment takes %lu", bound,
                    wal_entry_max(bucket->wal));
        return ERR_OK;
    }
    bool begun = !replica_is_alone(bucket) || bucket_begin_term(bucket);
    enum err err = wal_fits(bucket->wal, bound, ROOM_WAIT);
    if (err == ERR_AGAIN || (err == ERR_OK && !begun))
        return ERR_AGAIN;
    if (err == ERR_OK) {
        encode(bucket, link, req);
        return ERR_OK;
    }
    sequence_break(bucket, req);
    bucket_fail(bucket, link, req->req_id, err,
                "disk full, nothing was stored: free space and try again");
    return ERR_OK;
}

static void fail_order(struct bucket *bucket, uint32_t link, const struct msg_append_req *req)
{
    bucket_fail(bucket, link, req->req_id, ERR_ORDER, "append %lu of epoch %lu isn't the next one",
                req->number, req->epoch);
}

static void keep_waiting(struct bucket *bucket, uint32_t link, const struct msg *msg)
{
    struct buf *waiting = &bucket->waiting;
    size_t head = waiting->len;
    buf_append_zeros(waiting, 8);
    msg_pack(waiting, msg);
    store_u32(waiting->ptr + head, link);
    store_u32(waiting->ptr + head + 4, (uint32_t)(waiting->len - head - 8));
}

/* Unpacks the events and checks everything that can be checked without looking at what is stored:
 * what comes from netd is trusted no more than it must be. */
static bool is_valid(struct bucket *bucket, uint32_t link, const struct msg_append_req *req)
{
    const char *problem = NULL;
    uint64_t bytes = 0;
    if (bucket_partition_asked(bucket, link, req->req_id, req->partition) == NULL)
        return false;
    if (uuid_hash(&req->partition_key) % bucket->config.partition_count != req->partition)
        problem = "the partition key doesn't belong to the partition";
    if (req->count == 0 || req->count > req->events.len)
        problem = "a transaction has at least one event, and as many as it says";
    if (problem == NULL) {
        struct append_scratch *scratch = &bucket->append;
        struct span list = req->events;
        reserve_scratch(scratch, (uint32_t)req->count);
        for (uint32_t i = 0; i < req->count && problem == NULL; i++) {
            struct rec_new_event *event = &scratch->records[i];
            if (rec_next_new_event(&list, event) != ERR_OK) {
                problem = "fewer events than the transaction says";
                break;
            }
            problem = event_problem(bucket, req, event);
            bytes += event->stream.len + event->name.len + event->metadata.len + event->payload.len;
            scratch->events[i] = (struct wal_event){
                .event_id = event->event_id,
                .timestamp_ns = event->timestamp_ms * NS_PER_MS,
                .stream = event->stream,
                .name = event->name,
                .metadata = event->metadata,
                .payload = event->payload,
            };
        }
        if (problem == NULL && list.len > 0)
            problem = "more events than the transaction says";
        if (problem == NULL && (req->flags & APPEND_GIVEN_ID) != 0 &&
            repeats_an_id(scratch, (uint32_t)req->count))
            problem = "an event id occurs twice in the transaction";
    }
    if (problem != NULL)
        bucket_fail(bucket, link, req->req_id, ERR_INVALID, "%s", problem);
    else if (bytes > bucket->config.transaction_bytes_max) {
        bucket_fail(bucket, link, req->req_id, ERR_MAXSIZE,
                    "the transaction has %lu bytes, the limit is %lu", bytes,
                    bucket->config.transaction_bytes_max);
        return false;
    }
    return problem == NULL;
}

static const char *event_problem(const struct bucket *bucket, const struct msg_append_req *req,
                                 const struct rec_new_event *event)
{
    if (event->stream.len < 1 || event->stream.len > STREAM_ID_LEN_MAX)
        return "stream id must be between 1 and 64 characters in length";
    if (event->name.len > EVENT_NAME_LEN_MAX)
        return "event name must be at most 255 bytes";
    if (event->metadata.len + event->payload.len > bucket->config.event_bytes_max)
        return "metadata and payload are larger than append.max_event_bytes";
    if (event->timestamp_ms > UINT64_MAX / NS_PER_MS)
        return "invalid timestamp format: expected milliseconds, got nanoseconds";
    if (event->expect > EXPECT_VERSION)
        return "unknown kind of expected version";
    if (uuid_hash(&event->event_id) != uuid_hash(&req->partition_key))
        return "the event id must embed the partition hash";
    return NULL;
}

static bool repeats_an_id(struct append_scratch *scratch, uint32_t count)
{
    if (count < 2)
        return false;
    struct uuid *ids = malloc(count * sizeof *ids);
    ASSERT(ids != NULL);
    for (uint32_t i = 0; i < count; i++)
        ids[i] = scratch->records[i].event_id;
    qsort(ids, count, sizeof *ids, compare_ids);
    bool repeats = false;
    for (uint32_t i = 1; i < count; i++)
        repeats |= uuid_equal(&ids[i - 1], &ids[i]);
    free(ids);
    return repeats;
}

static int compare_ids(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct uuid));
}

static void reserve_scratch(struct append_scratch *scratch, uint32_t count)
{
    if (count > scratch->cap) {
        scratch->cap = count < 16 ? 16 : count;
        scratch->events = realloc(scratch->events, scratch->cap * sizeof *scratch->events);
        scratch->records = realloc(scratch->records, scratch->cap * sizeof *scratch->records);
        scratch->positions = realloc(scratch->positions, scratch->cap * sizeof *scratch->positions);
        uint32_t streams = 16;
        while (streams < 2 * scratch->cap)
            streams *= 2;
        scratch->streams = realloc(scratch->streams, streams * sizeof *scratch->streams);

        ASSERT(scratch->events != NULL && scratch->records != NULL && scratch->positions != NULL &&
               scratch->streams != NULL);
    }
}

/* True where the request is answered: all its events are stored, as one transaction of the same
 * content (the first answer again), or one of its ids belongs to something else. */
static bool answer_duplicate(struct bucket *bucket, uint32_t link, const struct msg_append_req *req)
{
    struct append_scratch *scratch = &bucket->append;
    const struct uuid *found = NULL;
    struct uuid transaction_id;
    uint64_t first_seq = 0;
    bool same = true;
    memset(&transaction_id, 0, sizeof transaction_id);
    for (uint32_t i = 0; i < req->count; i++) {
        struct event_view stored;
        enum err err = find_stored(bucket, &scratch->records[i].event_id, &stored);
        if (err == ERR_NOTFOUND) {
            same = false;
            if (found == NULL && i + 1 == req->count)
                return false;
            continue;
        }
        if (err != ERR_OK) {
            /* A first try that nobody heard of may be what can't be read. */
            bool retry = (req->flags & APPEND_RETRY) != 0;
            if (retry)
                sequence_break(bucket, req);
            bucket_fail(bucket, link, req->req_id, retry ? ERR_IO : ERR_READ,
                        "%s: stored data is damaged",
                        retry ? "outcome unknown, a first try may be stored"
                              : "can't tell whether the event ids are new");
            return true;
        }
        if (found == NULL)
            found = &scratch->records[i].event_id;
        struct entry_head head;
        memcpy(&head, scratch->fetcher.head, sizeof head);
        if (i == 0) {
            transaction_id = stored.transaction_id;
            first_seq = stored.sequence;
        }
        same = same && same_content(&scratch->records[i], &stored) &&
               head.record.count == req->count && stored.sequence == first_seq + i &&
               uuid_equal(&transaction_id, &stored.transaction_id) &&
               uuid_equal(&stored.partition_key, &req->partition_key);
        scratch->events[i].version = stored.version;
        scratch->events[i].timestamp_ns = stored.timestamp_ns;
        if (!same)
            break;
    }
    if (same) {
        bucket->stats.duplicates++;
        reply_appended(bucket, link, req->req_id, first_seq, (uint32_t)req->count, true);
    } else {
        char id[UUID_TEXT_LEN + 1] = {0};
        char text[96];
        uuid_format(found, id);
        int len = snprintf(text, sizeof text, "event %s already stored", id);
        fail_later(bucket, link, req->req_id, ERR_EXISTS, span_of(text, (size_t)len), false);
    }
    return true;
}

/* The stored event of this id, wherever it is. Reads at once: a duplicate is rare, or comes among
 * many whose blocks are cached. */
static enum err find_stored(struct bucket *bucket, const struct uuid *event_id,
                            struct event_view *ret_event)
{
    struct fetcher *fetcher = &bucket->append.fetcher;
    fetcher->synchronous = true;
    fetcher->ahead = CACHE_BLOCK_BYTES;
    struct event_search search = {.left = bucket->segments.count};
    uint64_t segment;
    uint32_t position;
    enum err err;
    while ((err = segments_find_event(bucket, event_id, &search, &segment, &position)) == ERR_OK) {
        fetcher->range.len = fetcher->range.bytes.len = 0;
        err = fetch_event(bucket, fetcher, segment, position, ret_event);
        if (err != ERR_OK || uuid_equal(&ret_event->event_id, event_id))
            return err;
    }
    return err;
}

static bool same_content(const struct rec_new_event *asked, const struct event_view *stored)
{
    return span_equal(asked->stream, stored->stream) && span_equal(asked->name, stored->name) &&
           span_equal(asked->metadata, stored->metadata) &&
           span_equal(asked->payload, stored->payload);
}

/* Checks each event's expectation against the state after the events before it, and gives versions.
 * Fails the request and returns false where one doesn't hold. */
static bool check_versions(struct bucket *bucket, uint32_t link, const struct msg_append_req *req)
{
    struct append_scratch *scratch = &bucket->append;
    if (req->count > 1) {
        /* Only as much of the table as this transaction can fill. */
        scratch->streams_cap = 16;
        while (scratch->streams_cap < 2 * req->count)
            scratch->streams_cap *= 2;
    } else {
        scratch->streams_cap = 1;
    }
    memset(scratch->streams, 0, scratch->streams_cap * sizeof *scratch->streams);
    for (uint32_t i = 0; i < req->count; i++) {
        const struct rec_new_event *event = &scratch->records[i];
        struct tx_stream *stream = tx_stream_slot(scratch, event->stream);
        if (stream->stream.ptr == NULL) {
            stream->stream = event->stream;
            if (look_up_stream(bucket, req->partition, stream) != ERR_OK) {
                bucket_fail(bucket, link, req->req_id, ERR_READ,
                            "can't tell the stream's version: stored data is damaged");
                return false;
            }
        }
        if (stream->exists && !uuid_equal(&stream->owner, &req->partition_key)) {
            char expected[UUID_TEXT_LEN + 1] = {0}, got[UUID_TEXT_LEN + 1] = {0}, text[192];
            uuid_format(&stream->owner, expected);
            uuid_format(&req->partition_key, got);
            int len = snprintf(
                text, sizeof text,
                "partition key must be the same for all events in a stream: expected %s, got %s",
                expected, got);
            fail_later(bucket, link, req->req_id, ERR_INVALID, span_of(text, (size_t)len), false);
            return false;
        }
        if (!expectation_holds(event, stream)) {
            bucket->stats.conflicts++;
            fail_version(bucket, link, req, event, stream);
            return false;
        }
        stream->version = stream->exists ? stream->version + 1 : 0;
        stream->owner = req->partition_key;
        stream->exists = true;
        scratch->events[i].version = stream->version;
    }
    return true;
}

static enum err look_up_stream(struct bucket *bucket, uint64_t partition, struct tx_stream *stream)
{
    uint32_t i;
    struct index_stream found;
    enum err err = segments_find_stream(bucket, (uint32_t)partition, stream->stream,
                                        bucket->segments.count, &i, &found);
    stream->exists = err == ERR_OK;
    if (err == ERR_OK) {
        stream->version = found.first_version + found.count - 1;
        stream->owner = found.partition_key;
    }
    return err == ERR_NOTFOUND ? ERR_OK : err;
}

static struct tx_stream *tx_stream_slot(struct append_scratch *scratch, struct span stream)
{
    uint32_t mask = scratch->streams_cap - 1;
    if (mask == 0)
        return scratch->streams;
    uint32_t at = (uint32_t)XXH3_64bits(stream.ptr, stream.len) & mask;
    while (scratch->streams[at].stream.ptr != NULL &&
           !span_equal(scratch->streams[at].stream, stream))
        at = (at + 1) & mask;
    return &scratch->streams[at];
}

static bool expectation_holds(const struct rec_new_event *event, const struct tx_stream *stream)
{
    switch ((enum expect)event->expect) {
    case EXPECT_ANY:
        return true;
    case EXPECT_EXISTS:
        return stream->exists;
    case EXPECT_EMPTY:
        return !stream->exists;
    case EXPECT_VERSION:
        return stream->exists && stream->version == event->expect_version;
    }
    return false;
}

static void fail_version(struct bucket *bucket, uint32_t link, const struct msg_append_req *req,
                         const struct rec_new_event *event, const struct tx_stream *stream)
{
    char current[24] = "empty", expected[24], key[UUID_TEXT_LEN + 1] = {0}, text[320];
    if (stream->exists)
        snprintf(current, sizeof current, "%lu", stream->version);
    if (event->expect == EXPECT_VERSION)
        snprintf(expected, sizeof expected, "%lu", event->expect_version);
    else
        snprintf(expected, sizeof expected, "%s",
                 event->expect == EXPECT_EMPTY ? "empty" : "exists");
    uuid_format(&req->partition_key, key);
    int len = snprintf(
        text, sizeof text,
        "current stream version is %s but expected %s for partition key %s and stream id %.*s",
        current, expected, key, (int)event->stream.len, (const char *)event->stream.ptr);
    fail_later(bucket, link, req->req_id, ERR_WRONGVER, span_of(text, (size_t)len), true);
}

static void encode(struct bucket *bucket, uint32_t link, const struct msg_append_req *req)
{
    struct append_scratch *scratch = &bucket->append;
    uint32_t partition = (uint32_t)req->partition, count = (uint32_t)req->count;
    uint64_t first_seq = wal_next_seq(bucket->wal, partition);
    (void)wal_append_tx(bucket->wal, partition, &req->partition_key, &req->transaction_id,
                        scratch->events, count, scratch->positions);
    bucket->replica.uncommitted_bytes +=
        wal_tail_entry(bucket->wal, wal_last_idx(bucket->wal))->len;
    struct index *index = segments_open_index(bucket);
    for (uint32_t i = 0; i < count; i++) {
        index_add(index, &(struct index_event){
                             .event_id = scratch->events[i].event_id,
                             .partition = partition,
                             .sequence = first_seq + i,
                             .version = scratch->events[i].version,
                             .partition_key = req->partition_key,
                             .stream = scratch->events[i].stream,
                             .position = scratch->positions[i],
                         });
    }
    bucket->stats.appends++;
    bucket->stats.events += count;
    reply_appended(bucket, link, req->req_id, first_seq, count, false);
}

static void reply_appended(struct bucket *bucket, uint32_t link, uint64_t req_id,
                           uint64_t first_seq, uint32_t count, bool duplicate)
{
    struct append_scratch *scratch = &bucket->append;
    scratch->reply.len = 0;
    for (uint32_t i = 0; i < count; i++) {
        rec_pack_appended_event(&scratch->reply,
                                &(struct rec_appended_event){
                                    .version = scratch->events[i].version,
                                    .timestamp_ms = scratch->events[i].timestamp_ns / NS_PER_MS,
                                });
    }
    struct buf *out = commit_reply_begin(bucket, link, req_id, false);
    if (out == NULL)
        return;
    msg_pack_append_reply(out, &(struct msg_append_reply){
                                   .req_id = req_id,
                                   .first_sequence = first_seq,
                                   .count = count,
                                   .duplicate = duplicate,
                                   .events = buf_span(&scratch->reply),
                               });
    commit_reply_end(bucket);
}

/* A refusal that rests on the tail: leaves when the tail is committed. `refusal`: it rests on the
 * tail being the newest one. */
static void fail_later(struct bucket *bucket, uint32_t link, uint64_t req_id, enum err err,
                       struct span text, bool refusal)
{
    struct buf *out = commit_reply_begin(bucket, link, req_id, refusal);
    if (out == NULL)
        return;
    msg_pack_fail_reply(out,
                        &(struct msg_fail_reply){.req_id = req_id, .error = err, .text = text});
    commit_reply_end(bucket);
}
