/* Reads: an event by its id, chunks of a partition or a stream in either direction, last versions
 * and sequences. A query sees only sequences below its watermark. It runs as far as the bytes at
 * hand go; where some must come from the disk it waits for them and goes on from its position:
 * nothing but the position is kept across the wait. */
#include "bucketd/core/bucket_internal.h"

#include <stdlib.h>

#include "common/assert.h"

#define READ_AHEAD     (256u << 10)
#define FETCH_KEEP_MAX (1u << 20)

/* Where a scan is; good only until the query waits. */
struct cursor {
    uint32_t i; /* part */
    bool valid;
    struct index_partition partition;
    struct index_stream stream;
};

static struct query *query_new(struct bucket *bucket, uint32_t link, uint64_t req_id,
                               enum query_kind kind);
static void query_end(struct bucket *bucket, struct query *query);
static void query_free(struct query *query);
static bool set_partition(struct bucket *bucket, struct query *query, uint64_t partition);
static bool set_stream(struct bucket *bucket, struct query *query, struct span stream,
                       const struct uuid *key);
static void set_range(struct query *query, uint64_t from, uint64_t to, bool reverse, uint64_t count,
                      uint64_t bytes, uint64_t watermark);
static void answer_sequence(struct bucket *bucket, uint32_t link,
                            const struct msg_sequence_req *req);
static void answer_info(struct bucket *bucket, uint32_t link, const struct msg_info_req *req);
static enum err run_get(struct bucket *bucket, struct query *query);
static enum err run_scan(struct bucket *bucket, struct query *query);
static enum err run_version(struct bucket *bucket, struct query *query);
static enum err locate(struct bucket *bucket, struct query *query, struct cursor *cursor,
                       uint32_t *ret_position);
static enum err locate_in_partition(struct bucket *bucket, struct query *query,
                                    struct cursor *cursor, uint32_t *ret_position);
static enum err locate_in_stream(struct bucket *bucket, struct query *query, struct cursor *cursor,
                                 uint32_t *ret_position);
static bool is_wanted(const struct query *query, const struct event_view *event);
static void add_record(struct query *query, const struct event_view *event);
static void answer_events(struct bucket *bucket, struct query *query, bool more);

void query_on_message(struct bucket *bucket, uint32_t link, const struct msg *msg)
{
    struct query *query = NULL;
    bool ok = true;
    bucket->stats.reads++;
    if (msg->tag == TAG_get_req) {
        const struct msg_get_req *req = &msg->u.get_req;
        if ((query = query_new(bucket, link, req->req_id, QUERY_GET)) == NULL)
            return;
        query->event_id = req->event_id;
        ok = set_partition(bucket, query, req->partition);
        query->fetcher.ahead = 0;
    } else if (msg->tag == TAG_scan_partition_req) {
        const struct msg_scan_partition_req *req = &msg->u.scan_partition_req;
        if ((query = query_new(bucket, link, req->req_id, QUERY_PARTITION)) == NULL)
            return;
        ok = set_partition(bucket, query, req->partition);
        set_range(query, req->from, req->to, req->reverse, req->count, req->bytes, req->watermark);
    } else if (msg->tag == TAG_scan_stream_req) {
        const struct msg_scan_stream_req *req = &msg->u.scan_stream_req;
        if ((query = query_new(bucket, link, req->req_id, QUERY_STREAM)) == NULL)
            return;
        ok = set_partition(bucket, query, req->partition) &&
             set_stream(bucket, query, req->stream, &req->partition_key);
        set_range(query, req->from, req->to, req->reverse, req->count, req->bytes, req->watermark);
    } else if (msg->tag == TAG_version_req) {
        const struct msg_version_req *req = &msg->u.version_req;
        if ((query = query_new(bucket, link, req->req_id, QUERY_VERSION)) == NULL)
            return;
        ok = set_partition(bucket, query, req->partition) &&
             set_stream(bucket, query, req->stream, &req->partition_key);
        set_range(query, UINT64_MAX, 0, true, 1, UINT64_MAX, UINT64_MAX);
    } else if (msg->tag == TAG_sequence_req) {
        answer_sequence(bucket, link, &msg->u.sequence_req);
        return;
    } else {
        answer_info(bucket, link, &msg->u.info_req);
        return;
    }
    if (!ok) {
        query_end(bucket, query);
        return;
    }
    uint64_t committed = bucket_partition(bucket, query->partition)->watermark;
    if (PLANTED(&bucket->config, PLANT_WATERMARK_INCLUSIVE))
        committed = min_u64(committed + 1, wal_next_seq(bucket->wal, query->partition));
    query->watermark = min_u64(query->watermark, committed);
    query->stale = reads_are_stale(bucket);
    query_step(bucket, query);
}

void query_step(struct bucket *bucket, struct query *query)
{
    enum err err;
    if (query->kind == QUERY_GET)
        err = run_get(bucket, query);
    else if (query->kind == QUERY_VERSION)
        err = run_version(bucket, query);
    else
        err = run_scan(bucket, query);
    if (err == ERR_AGAIN)
        return;
    if (err != ERR_OK)
        bucket_fail(bucket, query->link, query->req_id, ERR_READ,
                    "partition %u: stored data is damaged (%s); see sierradb verify",
                    query->partition, err_name(err));
    query_end(bucket, query);
}

void query_release(struct bucket *bucket)
{
    struct query *lists[2] = {bucket->queries, bucket->queries_free};
    for (unsigned i = 0; i < 2; i++) {
        while (lists[i] != NULL) {
            struct query *query = lists[i];
            lists[i] = query->next;
            query->fetcher.range.running = false;
            query_free(query);
        }
    }
}

void query_forget_places(struct bucket *bucket)
{
    for (struct query *query = bucket->queries; query != NULL; query = query->next)
        fetcher_forget(&query->fetcher);
    for (struct query *query = bucket->queries_free; query != NULL; query = query->next)
        fetcher_forget(&query->fetcher);
    fetcher_forget(&bucket->append.fetcher);
}

static struct query *query_new(struct bucket *bucket, uint32_t link, uint64_t req_id,
                               enum query_kind kind)
{
    if (bucket->queries_len >= QUERIES_MAX) {
        bucket_fail(bucket, link, req_id, ERR_BUSY, "bucket %u: too many reads wait",
                    bucket->config.bucket);
        return NULL;
    }
    struct query *query = bucket->queries_free;
    if (query != NULL) {
        bucket->queries_free = query->next;
        bucket->queries_free_len--;
    } else {
        query = calloc(1, sizeof *query);
        ASSERT(query != NULL);
        query->bucket = bucket;
        query->fetcher.range.query = query;
    }
    query->kind = kind;
    query->link = link;
    query->req_id = req_id;
    query->watermark = UINT64_MAX;
    query->stream_len = 0;
    query->found = 0;
    query->fetcher.range.len = 0;
    query->fetcher.range.bytes.len = 0;
    query->fetcher.ahead = READ_AHEAD;
    query->fetcher.backward = false;
    query->prev = NULL;
    query->next = bucket->queries;
    if (query->next != NULL)
        query->next->prev = query;
    bucket->queries = query;
    bucket->queries_len++;
    return query;
}

static void query_end(struct bucket *bucket, struct query *query)
{
    if (query->prev != NULL)
        query->prev->next = query->next;
    else
        bucket->queries = query->next;
    if (query->next != NULL)
        query->next->prev = query->prev;
    bucket->queries_len--;
    if (bucket->queries_free_len >= QUERIES_KEPT_MAX) {
        query_free(query);
        return;
    }
    buf_clear(&query->records, FETCH_KEEP_MAX);
    buf_clear(&query->fetcher.range.bytes, FETCH_KEEP_MAX);
    buf_clear(&query->fetcher.assembled, FETCH_KEEP_MAX);
    buf_clear(&query->fetcher.scratch, FETCH_KEEP_MAX);
    query->next = bucket->queries_free;
    bucket->queries_free = query;
    bucket->queries_free_len++;
}

static void query_free(struct query *query)
{
    fetcher_release(&query->fetcher);
    buf_release(&query->records);
    free(query);
}

static bool set_partition(struct bucket *bucket, struct query *query, uint64_t partition)
{
    if (bucket_partition_asked(bucket, query->link, query->req_id, partition) == NULL)
        return false;
    query->partition = (uint32_t)partition;
    return true;
}

static bool set_stream(struct bucket *bucket, struct query *query, struct span stream,
                       const struct uuid *key)
{
    if (stream.len < 1 || stream.len > STREAM_ID_LEN_MAX) {
        bucket_fail(bucket, query->link, query->req_id, ERR_INVALID,
                    "stream id must be between 1 and 64 characters in length, but got %zu",
                    stream.len);
        return false;
    }
    memcpy(query->stream, stream.ptr, stream.len);
    query->stream_len = (uint8_t)stream.len;
    query->partition_key = *key;
    return true;
}

static void set_range(struct query *query, uint64_t from, uint64_t to, bool reverse, uint64_t count,
                      uint64_t bytes, uint64_t watermark)
{
    query->at = from;
    query->end = to;
    query->reverse = reverse;
    query->count = count;
    query->bytes = bytes;
    query->watermark = watermark;
    query->fetcher.backward = reverse;
}

static void answer_sequence(struct bucket *bucket, uint32_t link,
                            const struct msg_sequence_req *req)
{
    const struct partition *p = bucket_partition_asked(bucket, link, req->req_id, req->partition);
    if (p == NULL)
        return;
    if (p->end_unknown) {
        bucket_fail(bucket, link, req->req_id, ERR_READ,
                    "partition %lu: its newest events are damaged; see sierradb verify",
                    req->partition);
        return;
    }
    struct buf *out = bucket->env->ops->outbox(bucket->env, link);
    if (out != NULL)
        msg_pack_number_reply(
            out, &(struct msg_number_reply){.req_id = req->req_id,
                                            .present = p->watermark > 0,
                                            .value = p->watermark > 0 ? p->watermark - 1 : 0,
                                            .watermark = p->watermark,
                                            .stale = reads_are_stale(bucket)});
}

static void answer_info(struct bucket *bucket, uint32_t link, const struct msg_info_req *req)
{
    struct bucket_stats stats;
    bucket_get_stats(bucket, &stats);
    struct buf *out = bucket->env->ops->outbox(bucket->env, link);
    if (out != NULL)
        msg_pack_info_reply(out, &(struct msg_info_reply){.req_id = req->req_id,
                                                          .cache_hits = stats.cache_hits,
                                                          .cache_misses = stats.cache_misses,
                                                          .cache_entries = stats.cache_entries,
                                                          .cache_bytes = stats.cache_bytes,
                                                          .cache_bytes_max = stats.cache_bytes_max,
                                                          .cache_evictions = stats.cache_evictions,
                                                          .events = stats.events,
                                                          .segments = stats.segments,
                                                          .disk_bytes = stats.disk_bytes});
}

static enum err run_get(struct bucket *bucket, struct query *query)
{
    struct event_search search = {.left = bucket->segments.count};
    uint64_t segment;
    uint32_t position;
    enum err err;
    while ((err = segments_find_event(bucket, &query->event_id, &search, &segment, &position)) ==
           ERR_OK) {
        struct event_view event;
        err = fetch_event(bucket, &query->fetcher, segment, position, &event);
        if (err != ERR_OK)
            return err;
        if (!uuid_equal(&event.event_id, &query->event_id))
            continue;
        if (event.partition == query->partition && event.sequence < query->watermark)
            add_record(query, &event);
        break;
    }
    if (err != ERR_OK && err != ERR_NOTFOUND)
        return err;
    answer_events(bucket, query, false);
    return ERR_OK;
}

/* Emits events until the chunk is full or the range ends; then looks whether another one would
 * follow. */
static enum err run_scan(struct bucket *bucket, struct query *query)
{
    struct cursor cursor = {0};
    for (;;) {
        bool over = query->reverse ? query->at < query->end : query->at > query->end;
        bool nothing =
            query->watermark == 0 && !bucket_partition(bucket, query->partition)->end_unknown;
        if (over || nothing) {
            answer_events(bucket, query, false);
            return ERR_OK;
        }
        bool full = query->found >= query->count ||
                    (query->found > 0 && query->records.len >= query->bytes);
        uint32_t position;
        enum err err = locate(bucket, query, &cursor, &position);
        if (err == ERR_NOTFOUND) {
            answer_events(bucket, query, false);
            return ERR_OK;
        }
        /* What is whole before the damage is answered; who goes on from there gets the error. */
        if (err == ERR_CORRUPT && query->found > 0) {
            answer_events(bucket, query, true);
            return ERR_OK;
        }
        if (err != ERR_OK)
            return err;
        /* A partition's sequences below the watermark are all there: no need to look at the event
         * itself. */
        if (full && query->kind == QUERY_PARTITION) {
            answer_events(bucket, query, true);
            return ERR_OK;
        }
        struct event_view event;
        err = fetch_event(bucket, &query->fetcher, bucket->segments.list[cursor.i].number, position,
                          &event);
        if (err == ERR_OK && !is_wanted(query, &event))
            err = ERR_CORRUPT;
        if (err == ERR_CORRUPT && query->found > 0) {
            answer_events(bucket, query, true);
            return ERR_OK;
        }
        if (err != ERR_OK)
            return err;
        bool readable = event.sequence < query->watermark;
        if (!readable && !query->reverse) {
            answer_events(bucket, query, false);
            return ERR_OK;
        }
        if (readable && full) {
            answer_events(bucket, query, true);
            return ERR_OK;
        }
        if (readable)
            add_record(query, &event);
        if (query->reverse ? query->at == 0 : query->at == UINT64_MAX) {
            answer_events(bucket, query, false);
            return ERR_OK;
        }
        query->at += query->reverse ? UINT64_MAX : 1;
    }
}

/* The last committed version of a stream: the newest event below the watermark. */
static enum err run_version(struct bucket *bucket, struct query *query)
{
    struct cursor cursor = {0};
    bool present = false;
    uint32_t position;
    enum err err;
    while (!present && (err = locate(bucket, query, &cursor, &position)) == ERR_OK) {
        /* With nothing in the partition behind the watermark what the index has is readable. */
        if (wal_next_seq(bucket->wal, query->partition) > query->watermark) {
            struct event_view event;
            err = fetch_event(bucket, &query->fetcher, bucket->segments.list[cursor.i].number,
                              position, &event);
            if (err != ERR_OK)
                return err;
            if (event.sequence >= query->watermark) {
                if (query->at == 0)
                    break;
                query->at--;
                continue;
            }
        }
        present = true;
    }
    if (!present && err != ERR_OK && err != ERR_NOTFOUND)
        return err;
    struct buf *out = bucket->env->ops->outbox(bucket->env, query->link);
    if (out != NULL)
        msg_pack_number_reply(out, &(struct msg_number_reply){.req_id = query->req_id,
                                                              .present = present,
                                                              .value = present ? query->at : 0,
                                                              .watermark = query->watermark,
                                                              .stale = query->stale});
    return ERR_OK;
}

/* The position of the event at query->at, or of the next one in the query's direction where the
 * range begins outside of what there is (then query->at moves). ERR_NOTFOUND: there is none. */
static enum err locate(struct bucket *bucket, struct query *query, struct cursor *cursor,
                       uint32_t *ret_position)
{
    for (;;) {
        enum err err = query->kind == QUERY_PARTITION
                           ? locate_in_partition(bucket, query, cursor, ret_position)
                           : locate_in_stream(bucket, query, cursor, ret_position);
        const struct segment *segment = cursor->valid ? &bucket->segments.list[cursor->i] : NULL;
        /* Its files can't be mapped, or a page of them is bad; each part is rebuilt at most once,
         * since what is in memory is right: then the hole is in the data. */
        if (err != ERR_CORRUPT || segment == NULL ||
            (segment->index != NULL && !index_is_mapped(segment->index)))
            return err;
        err = segments_rebuild(bucket, cursor->i, &cursor->i);
        cursor->valid = false;
        if (err != ERR_OK)
            return err;
    }
}

static enum err locate_in_partition(struct bucket *bucket, struct query *query,
                                    struct cursor *cursor, uint32_t *ret_position)
{
    if (query->at >= query->watermark) {
        const struct partition *p = bucket_partition(bucket, query->partition);
        if (p->end_unknown && query->watermark == p->watermark) {
            cursor->valid = false;
            return ERR_CORRUPT;
        }
        if (!query->reverse)
            return ERR_NOTFOUND;
        query->at = query->watermark - 1;
        if (query->at < query->end)
            return ERR_NOTFOUND;
    }
    const struct index_partition *found = &cursor->partition;
    struct index *index;
    if (!cursor->valid || query->at < found->first_seq ||
        query->at - found->first_seq >= found->count) {
        /* Forward scans mostly go on in the next part; else the newest part that begins at or
         * before the sequence. */
        cursor->valid = false;
        for (uint32_t i = bucket->segments.count; i-- > 0 && !cursor->valid;) {
            enum err err = segments_index(bucket, i, &index);
            if (err == ERR_OK)
                err = index_find_partition(index, query->partition, &cursor->partition);
            if (err == ERR_NOTFOUND)
                continue;
            cursor->i = i;
            cursor->valid = true;
            if (err != ERR_OK)
                return err;
            cursor->valid = query->at >= found->first_seq;
        }
        /* Every sequence below the watermark was stored: one that isn't found lies in a damaged
         * stretch. */
        if (!cursor->valid || query->at - found->first_seq >= found->count) {
            cursor->valid = false;
            return ERR_CORRUPT;
        }
    }
    enum err err = segments_index(bucket, cursor->i, &index);
    if (err != ERR_OK)
        return err;
    return index_partition_position(index, found, (uint32_t)(query->at - found->first_seq),
                                    ret_position);
}

static enum err locate_in_stream(struct bucket *bucket, struct query *query, struct cursor *cursor,
                                 uint32_t *ret_position)
{
    struct index_stream *found = &cursor->stream;
    struct span stream = span_of(query->stream, query->stream_len);
    uint32_t below = bucket->segments.count;
    bool newest = true, seen = false;
    uint64_t seen_first = 0;
    while (!cursor->valid || query->at < found->first_version ||
           query->at - found->first_version >= found->count) {
        cursor->valid = false;
        enum err err =
            segments_find_stream(bucket, query->partition, stream, below, &cursor->i, found);
        if (err == ERR_NOTFOUND) {
            /* Versions start at 0, so an older stretch must exist: unless the stream doesn't. */
            return seen ? ERR_CORRUPT : ERR_NOTFOUND;
        }
        if (err != ERR_OK)
            return err;
        if (!uuid_equal(&found->partition_key, &query->partition_key))
            return ERR_NOTFOUND;
        uint64_t last = found->first_version + found->count - 1;
        if (newest && query->at > last) {
            if (!query->reverse)
                return ERR_NOTFOUND;
            query->at = last;
            if (query->at < query->end)
                return ERR_NOTFOUND;
        }
        if (seen && query->at > last && query->at < seen_first)
            return ERR_CORRUPT;
        cursor->valid = true;
        newest = false;
        seen = true;
        seen_first = found->first_version;
        below = cursor->i;
    }
    struct index *index;
    enum err err = segments_index(bucket, cursor->i, &index);
    if (err != ERR_OK)
        return err;
    return index_stream_position(index, found, (uint32_t)(query->at - found->first_version),
                                 ret_position);
}

/* The index led to the event that was looked for. */
static bool is_wanted(const struct query *query, const struct event_view *event)
{
    if (event->partition != query->partition)
        return false;
    if (query->kind == QUERY_PARTITION)
        return event->sequence == query->at;
    return event->version == query->at &&
           span_equal(event->stream, span_of(query->stream, query->stream_len));
}

static void add_record(struct query *query, const struct event_view *event)
{
    bucket_pack_event(&query->records, event);
    query->found++;
}

static void answer_events(struct bucket *bucket, struct query *query, bool more)
{
    struct buf *out = bucket->env->ops->outbox(bucket->env, query->link);
    if (out == NULL)
        return;
    msg_pack_events_reply(out, &(struct msg_events_reply){.req_id = query->req_id,
                                                          .count = query->found,
                                                          .more = more,
                                                          .next = query->at,
                                                          .watermark = query->watermark,
                                                          .stale = query->stale,
                                                          .events = buf_span(&query->records)});
}
