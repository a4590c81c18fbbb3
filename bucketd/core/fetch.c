/* One event's bytes: from the tail that isn't in the file yet, from the block cache, or from the
 * disk (in the pool, so that nobody waits behind a cold read; at once for the search for
 * duplicates). */
#include "bucketd/core/bucket_internal.h"

#include "common/assert.h"

static enum err fetch_at(struct bucket *bucket, struct fetcher *fetcher, uint64_t segment,
                         uint32_t position, struct event_view *ret_event);
static enum err learn_extent(struct bucket *bucket, struct fetcher *fetcher, uint64_t segment,
                             uint64_t offset);
static enum err get_bytes(struct bucket *bucket, struct fetcher *fetcher, uint64_t segment,
                          uint64_t offset, size_t len, struct buf *assembled,
                          const uint8_t **ret_bytes);
static bool get_cached(struct bucket *bucket, uint64_t segment, uint64_t offset, size_t len,
                       struct buf *assembled, const uint8_t **ret_bytes);
static bool range_holds(const struct range_read *range, uint64_t segment, uint64_t offset,
                        size_t len);
static enum err read_range(struct bucket *bucket, struct fetcher *fetcher, uint64_t segment,
                           uint64_t offset, size_t len);
static void enqueue(struct read_queue *queue, struct range_read *range);
static bool may_answer(struct bucket *bucket, const struct range_read *range);
static bool may_start(struct bucket *bucket, const struct range_read *range);
static void start_range(struct bucket *bucket, struct range_read *range);
static void range_work(struct job *job, struct disk *disk);
static void range_done(struct job *job);
static void keep_blocks(struct bucket *bucket, const struct range_read *range);

void fetcher_release(struct fetcher *fetcher)
{
    ASSERT(!fetcher->range.running);
    buf_release(&fetcher->range.bytes);
    buf_release(&fetcher->assembled);
    buf_release(&fetcher->scratch);
}

void fetcher_forget(struct fetcher *fetcher)
{
    fetcher->len = 0;
    fetcher->head_offset = 0;
    if (!fetcher->range.running)
        fetcher->range.len = fetcher->range.bytes.len = 0;
}

enum err fetch_event(struct bucket *bucket, struct fetcher *fetcher, uint64_t segment,
                     uint32_t position, struct event_view *ret_event)
{
    enum err err = fetch_at(bucket, fetcher, segment, position, ret_event);
    if (err == ERR_CORRUPT || err == ERR_IO)
        repair_note(bucket, segment);
    return err;
}

static enum err fetch_at(struct bucket *bucket, struct fetcher *fetcher, uint64_t segment,
                         uint32_t position, struct event_view *ret_event)
{
    uint64_t offset = (uint64_t)position * POSITION_UNIT;
    const uint8_t *bytes;
    enum err err = learn_extent(bucket, fetcher, segment, offset);
    if (err != ERR_OK)
        return err;
    /* The entry's head is copied, so that fetching the event can't invalidate it. */
    uint64_t entry_offset = offset - fetcher->distance;
    if (fetcher->head_segment != segment || fetcher->head_offset != entry_offset) {
        err = get_bytes(bucket, fetcher, segment, entry_offset, sizeof fetcher->head,
                        &fetcher->assembled, &bytes);
        if (err != ERR_OK)
            return err;
        memcpy(fetcher->head, bytes, sizeof fetcher->head);
        fetcher->head_segment = segment;
        fetcher->head_offset = entry_offset;
    }
    uint32_t len = fetcher->len;
    err = get_bytes(bucket, fetcher, segment, offset, len, &fetcher->assembled, &bytes);
    if (err != ERR_OK)
        return err;
    struct format_salt salt = bucket->salt;
    salt.segment = segment;
    err = wal_decode_event(&salt, entry_offset, span_of(fetcher->head, sizeof fetcher->head),
                           offset, span_of(bytes, len), &fetcher->scratch, ret_event);
    if (err != ERR_OK) {
        /* Not to be believed the next time. */
        fetcher->len = 0;
        fetcher->head_offset = 0;
    }
    return err;
}

/* How far before the event its entry's head is, and how long it is. */
static enum err learn_extent(struct bucket *bucket, struct fetcher *fetcher, uint64_t segment,
                             uint64_t offset)
{
    if (fetcher->len > 0 && fetcher->segment == segment && fetcher->offset == offset)
        return ERR_OK;
    fetcher->len = 0;
    const uint8_t *bytes;
    enum err err = get_bytes(bucket, fetcher, segment, offset, sizeof(struct event_head),
                             &fetcher->assembled, &bytes);
    if (err != ERR_OK)
        return err;
    uint32_t distance, len;
    err = wal_event_extent(span_of(bytes, sizeof(struct event_head)), &distance, &len);
    if (err != ERR_OK || distance > offset || distance < sizeof(struct entry_head))
        return ERR_CORRUPT;
    fetcher->segment = segment;
    fetcher->offset = offset;
    fetcher->distance = distance;
    fetcher->len = len;
    return ERR_OK;
}

static enum err get_bytes(struct bucket *bucket, struct fetcher *fetcher, uint64_t segment,
                          uint64_t offset, size_t len, struct buf *assembled,
                          const uint8_t **ret_bytes)
{
    struct span tail = wal_tail_bytes(bucket->wal, segment, offset, len);
    if (tail.ptr != NULL) {
        *ret_bytes = tail.ptr;
        return ERR_OK;
    }
    for (;;) {
        const struct range_read *range = &fetcher->range;
        if (range_holds(range, segment, offset, len)) {
            *ret_bytes = range->bytes.ptr + (offset - range->offset);
            return ERR_OK;
        }
        if (get_cached(bucket, segment, offset, len, assembled, ret_bytes))
            return ERR_OK;
        /* Just read, and these bytes weren't there: the file is too short for what an index or a
         * head says. */
        if (range->segment == segment && range->len > 0 && offset >= range->offset &&
            offset + len <= range->offset + range->len)
            return range->err == ERR_OK ? ERR_CORRUPT : range->err;
        enum err err = read_range(bucket, fetcher, segment, offset, len);
        if (err != ERR_OK)
            return err;
    }
}

static bool get_cached(struct bucket *bucket, uint64_t segment, uint64_t offset, size_t len,
                       struct buf *assembled, const uint8_t **ret_bytes)
{
    uint64_t block = offset / CACHE_BLOCK_BYTES;
    uint32_t at = (uint32_t)(offset % CACHE_BLOCK_BYTES);
    if (at + len <= CACHE_BLOCK_BYTES) {
        struct span known = cache_get(bucket->cache, segment, block, at + (uint32_t)len);
        *ret_bytes = known.ptr == NULL ? NULL : known.ptr + at;
        return known.ptr != NULL;
    }
    assembled->len = 0;
    for (size_t left = len; left > 0; block++, at = 0) {
        uint32_t piece = (uint32_t)min_u64(left, CACHE_BLOCK_BYTES - at);
        struct span known = cache_get(bucket->cache, segment, block, at + piece);
        if (known.ptr == NULL)
            return false;
        buf_append(assembled, known.ptr + at, piece);
        left -= piece;
    }
    *ret_bytes = assembled->ptr;
    return true;
}

static bool range_holds(const struct range_read *range, uint64_t segment, uint64_t offset,
                        size_t len)
{
    return range->segment == segment && range->bytes.len > 0 && offset >= range->offset &&
           offset + len <= range->offset + range->bytes.len;
}

static enum err read_range(struct bucket *bucket, struct fetcher *fetcher, uint64_t segment,
                           uint64_t offset, size_t len)
{
    struct range_read *range = &fetcher->range;
    ASSERT(!range->running);
    uint64_t from = offset, to = offset + len;
    if (fetcher->backward)
        from = from > fetcher->ahead ? from - fetcher->ahead : 0;
    else
        to += fetcher->ahead;
    from -= from % CACHE_BLOCK_BYTES;
    to = align_up(to, CACHE_BLOCK_BYTES);
    /* Never what may still be written while it is read. */
    uint64_t limit = wal_durable_end(bucket->wal, segment);
    if (offset + len > limit)
        return ERR_CORRUPT;
    to = min_u64(to, limit);
    range->segment = segment;
    range->offset = from;
    range->len = to - from;
    range->bytes.len = 0;
    range->err = ERR_OK;
    if (fetcher->synchronous) {
        range_work(&range->job, bucket->env->disk);
        keep_blocks(bucket, range);
        return ERR_OK;
    }
    range->running = true;
    if (bucket->reads_waiting.first == NULL && may_start(bucket, range))
        start_range(bucket, range);
    else
        enqueue(&bucket->reads_waiting, range);
    return ERR_AGAIN;
}

void fetch_resume(struct bucket *bucket)
{
    struct range_read *range;
    while ((range = bucket->reads_done.first) != NULL && may_answer(bucket, range)) {
        bucket->reads_done.first = range->next;
        range->running = false;
        if (range->layout != bucket->layout) /* of a file that may not be there any more */
            range->len = range->bytes.len = 0;
        query_step(bucket, range->query);
    }
    while ((range = bucket->reads_waiting.first) != NULL && may_start(bucket, range)) {
        bucket->reads_waiting.first = range->next;
        start_range(bucket, range);
    }
}

static void enqueue(struct read_queue *queue, struct range_read *range)
{
    range->next = NULL;
    if (queue->first == NULL)
        queue->first = range;
    else
        queue->last->next = range;
    queue->last = range;
}

/* What was read may be much smaller than the answer: it may be compressed. */
static bool may_answer(struct bucket *bucket, const struct range_read *range)
{
    const struct buf *out = bucket->env->ops->outbox(bucket->env, range->query->link);
    return out == NULL || out->len <= ANSWERS_BYTES_MAX;
}

static bool may_start(struct bucket *bucket, const struct range_read *range)
{
    bool room =
        bucket->reading_bytes == 0 || bucket->reading_bytes + range->len <= READING_BYTES_MAX;
    return room && may_answer(bucket, range);
}

static void start_range(struct bucket *bucket, struct range_read *range)
{
    bucket->reading_bytes += range->len;
    range->layout = bucket->layout;
    range->job.work = range_work;
    range->job.done = range_done;
    bucket->env->ops->submit(bucket->env, &range->job);
}

static void range_work(struct job *job, struct disk *disk)
{
    struct range_read *range = (struct range_read *)job;
    char dir[32], path[64];
    struct file *file;
    snprintf(path, sizeof path, "%s/data.evts", wal_segment_dir(range->segment, dir));
    range->err = disk->ops->open(disk, path, OPEN_READ, &file);
    if (range->err != ERR_OK)
        return;
    size_t len = 0;
    buf_reserve(&range->bytes, range->len);
    range->err = disk->ops->pread(disk, file, range->offset, range->bytes.ptr, range->len, &len);
    if (range->err == ERR_OK)
        range->bytes.len = len;
    disk->ops->close(disk, file);
}

_Static_assert(offsetof(struct range_read, job) == 0, "a job is its range_read");

static void range_done(struct job *job)
{
    struct range_read *range = (struct range_read *)job;
    struct bucket *bucket = range->query->bucket;
    bucket->reading_bytes -= range->len;
    if (range->layout == bucket->layout)
        keep_blocks(bucket, range);
    enqueue(&bucket->reads_done, range);
    fetch_resume(bucket);
}

static void keep_blocks(struct bucket *bucket, const struct range_read *range)
{
    for (size_t at = 0; at < range->bytes.len; at += CACHE_BLOCK_BYTES) {
        uint32_t len = (uint32_t)min_u64(range->bytes.len - at, CACHE_BLOCK_BYTES);
        cache_put(bucket->cache, range->segment, (range->offset + at) / CACHE_BLOCK_BYTES,
                  range->bytes.ptr + at, len);
    }
}
