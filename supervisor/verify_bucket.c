/* `sierradb verify`, one bucket: every segment is scanned (CRCs, chain, idx, sequences), then its
 * events are followed across segments and looked up in the index files. */
#include <fcntl.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

#include "common/assert.h"
#include "supervisor/disk_read.h"
#include "supervisor/verify_internal.h"

#define HELD_KEEP_BYTES (16u << 20)

struct walk {
    struct verify_bucket *out;
    struct disk *disk;
    struct format_salt salt;
    struct verify_streams *streams;
    uint64_t *next_seq;  /* by partition */
    bool from_start;     /* segment 0 is there: everything begins at 0 */
    struct index *index; /* of this segment; NULL: none to compare */
    bool index_bad;
    struct index_summary *summary; /* of the segments around this one; NULL: none */
    uint64_t segment, batch_offset;
    /* Entries that a CUT may still make dead: copies, in order, checked when the batch after the
     * one that says they are committed begins, or at the segment's end. */
    struct buf held;               /* held_entry, its bytes, ... */
    uint64_t held_done;            /* bytes at its front that were checked */
    uint64_t hint;                 /* committed, by the last batch */
    struct wal_scan_result before; /* the segment before this one */
    bool before_known;
    struct buf scratch;
};

struct held_entry {
    uint64_t offset, idx, len;
};

struct numbers {
    struct buf list; /* uint64_t */
};

static int lock_bucket(const char *dir);
static void numbers_each(void *ctx, const char *name);
static enum err walk_segments(struct walk *walk, const struct numbers *numbers);
static uint64_t number_at(const struct numbers *numbers, size_t i);
static enum err data_size(struct walk *walk, uint64_t segment, uint64_t *ret_size);
static enum err walk_segment(struct walk *walk, bool newest);
static void compare_with_before(struct walk *walk, const struct wal_scan_result *now);
static void open_index(struct walk *walk, bool sealed);
static void close_index(struct walk *walk, uint64_t events);
static void change_summary(struct walk *walk);
static enum err summary_check_all(struct walk *walk, uint64_t first);
static void ignore_line(void *ctx, const char *text);
static void on_batch(void *ctx, const struct batch_mark *head);
static void on_entry(void *ctx, const struct wal_entry *entry);
static void on_cut(void *ctx, uint64_t from_idx);
static void check_held(struct walk *walk, uint64_t idx);
static void check_entry(struct walk *walk, const struct wal_entry *entry);
static void check_event(struct walk *walk, const struct event_view *event, uint32_t position);
static void check_stream(struct walk *walk, const struct event_view *event, uint64_t offset);
static void check_index(struct walk *walk, const struct event_view *event, uint32_t position);
static void on_problem(void *ctx, enum wal_problem kind, uint64_t offset, const char *what);
static void problem(struct walk *walk, uint64_t offset, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void problem_in(struct walk *walk, const char *file, uint64_t offset, const char *format,
                       va_list args);
static void index_problem(struct walk *walk, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

enum err verify_bucket(struct verify_bucket *out)
{
    int lock = lock_bucket(out->dir);
    if (lock < 0)
        return errno == EWOULDBLOCK ? ERR_LOCKED : errno == ENOENT ? ERR_NOTFOUND : ERR_IO;
    struct walk walk = {
        .out = out,
        .disk = disk_read_open(out->dir),
        .salt = {.cluster_id = out->cluster_id, .bucket = out->bucket},
        .streams = verify_streams_new(),
        .next_seq = calloc(out->partition_count + 1, sizeof(uint64_t)),
    };
    ASSERT(walk.next_seq != NULL);
    struct numbers numbers = {0};
    enum err err = walk.disk->ops->list(walk.disk, "segments", numbers_each, &numbers);
    if (err == ERR_OK)
        err = walk_segments(&walk, &numbers);
    else if (err == ERR_NOTFOUND)
        err = ERR_OK; /* never started */
    if (walk.summary != NULL)
        index_summary_free(walk.summary, walk.disk);
    out->streams = verify_streams_count(walk.streams);
    buf_release(&numbers.list);
    buf_release(&walk.scratch);
    buf_release(&walk.held);
    free(walk.next_seq);
    verify_streams_free(walk.streams);
    disk_read_close(walk.disk);
    close(lock);
    return err;
}

void verify_bucket_release(struct verify_bucket *out)
{
    free(out->list);
    out->list = NULL;
}

/* A bucketd holds an exclusive lock on its directory. */
static int lock_bucket(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) != 0) {
        int reason = errno;
        close(fd);
        errno = reason;
        return -1;
    }
    return fd;
}

/* --- segments --- */

static void numbers_each(void *ctx, const char *name)
{
    struct numbers *numbers = ctx;
    char *end = NULL;
    uint64_t number = strtoull(name, &end, 10);
    if (strlen(name) == 10 && *end == '\0')
        buf_append(&numbers->list, &number, sizeof number);
}

/* A newest directory without data.evts is a segment in preparation. */
static enum err walk_segments(struct walk *walk, const struct numbers *numbers)
{
    size_t count = numbers->list.len / sizeof(uint64_t);
    enum err err = ERR_OK;
    if (count > 0 && data_size(walk, number_at(numbers, count - 1), NULL) == ERR_NOTFOUND)
        count--;
    for (size_t i = 0; i < count && err == ERR_OK; i++) {
        uint64_t number = number_at(numbers, i);
        if (i == 0)
            walk->from_start = number == 0;
        else if (number != walk->segment + 1)
            problem(walk, 0, "segments %" PRIu64 " to %" PRIu64 " are missing", walk->segment + 1,
                    number - 1);
        walk->segment = walk->salt.segment = number;
        if (i == 0 || number % INDEX_SUMMARY_SEGMENTS == 0)
            change_summary(walk);
        err = walk_segment(walk, i + 1 == count);
        if (err == ERR_NOTFOUND) {
            problem(walk, 0, "data.evts is missing");
            walk->before_known = false;
            err = ERR_OK;
        }
    }
    return err;
}

static uint64_t number_at(const struct numbers *numbers, size_t i)
{
    return load_u64(numbers->list.ptr + i * sizeof(uint64_t));
}

static enum err data_size(struct walk *walk, uint64_t segment, uint64_t *ret_size)
{
    char dir[32], path[64];
    struct file *file = NULL;
    uint64_t size = 0;
    snprintf(path, sizeof path, "%s/data.evts", wal_segment_dir(segment, dir));
    enum err err = walk->disk->ops->open(walk->disk, path, OPEN_READ, &file);
    if (err != ERR_OK)
        return err;
    err = walk->disk->ops->size(walk->disk, file, &size);
    walk->disk->ops->close(walk->disk, file);
    if (err == ERR_OK && ret_size != NULL)
        *ret_size = size;
    return err;
}

static enum err walk_segment(struct walk *walk, bool newest)
{
    struct verify_bucket *out = walk->out;
    struct wal_scan scan = {.ctx = walk,
                            .on_batch = on_batch,
                            .on_entry = on_entry,
                            .on_cut = on_cut,
                            .on_problem = on_problem};
    struct wal_scan_result result = {0};
    uint64_t before = *out->bytes_done;
    uint64_t size = 0;
    enum err err = data_size(walk, walk->segment, &size);
    if (err != ERR_OK)
        return err;
    open_index(walk, !newest);
    walk->hint = 0;
    err = wal_scan_segment(walk->disk, walk->segment, &walk->salt, &scan, &result);
    check_held(walk, UINT64_MAX);
    close_index(walk, result.events);
    *out->bytes_done = before + size;
    out->bytes += size;
    out->segments++;
    walk->before_known = err == ERR_OK && walk->before_known;
    if (err == ERR_CORRUPT)
        return ERR_OK; /* reported; the next segment may be whole */
    if (err != ERR_OK)
        return err;
    compare_with_before(walk, &result);
    walk->before = result;
    walk->before_known = true;
    out->entries += result.entries;
    out->events += result.events;
    out->last_idx = result.last_idx;
    out->term = result.last_term;
    return ERR_OK;
}

/* What a segment's checkpoint says must be what the segment before it has come to. */
static void compare_with_before(struct walk *walk, const struct wal_scan_result *now)
{
    const struct checkpoint *checkpoint = &now->checkpoint;
    const struct wal_scan_result *before = &walk->before;
    if (now->header.bucket_count != walk->out->bucket_count ||
        now->header.partition_count != walk->out->partition_count)
        problem(walk, 0,
                "header: %" PRIu32 " buckets and %" PRIu32 " partitions, meta.json says other",
                now->header.bucket_count, now->header.partition_count);
    if (!walk->before_known || before->problems > 0)
        return;
    if (checkpoint->last_idx != before->last_idx)
        problem(walk, FORMAT_BLOCK,
                "checkpoint: idx %" PRIu64 ", the segment before ends with %" PRIu64,
                checkpoint->last_idx, before->last_idx);
    else if (checkpoint->last_chain != before->last_chain)
        problem(walk, FORMAT_BLOCK, "checkpoint: the chain is not that of the segment before");
    if (checkpoint->config_idx != before->config_idx)
        problem(walk, FORMAT_BLOCK,
                "checkpoint: configuration of idx %" PRIu64
                ", the segment before ends with %" PRIu64,
                checkpoint->config_idx, before->config_idx);
    if (checkpoint->disk_id != now->header.disk_id || now->header.disk_id != before->header.disk_id)
        problem(walk, 0, "header: the disk's id is not that of the segment before");
    if (checkpoint->events != before->checkpoint.events + before->events)
        problem(walk, FORMAT_BLOCK,
                "checkpoint: %" PRIu64 " events, the segment before has %" PRIu64,
                checkpoint->events, before->checkpoint.events + before->events);
}

/* --- events --- */

static void on_batch(void *ctx, const struct batch_mark *head)
{
    struct walk *walk = ctx;
    *walk->out->bytes_done += head->offset - min_u64(head->offset, walk->batch_offset);
    walk->batch_offset = head->offset;
    walk->out->progress(walk->out->progress_ctx);
    check_held(walk, walk->hint);
    walk->hint = head->commit_hint;
}

static void on_entry(void *ctx, const struct wal_entry *entry)
{
    struct walk *walk = ctx;
    struct held_entry held = {
        .offset = entry->offset, .idx = entry->head->idx, .len = entry->bytes.len};
    buf_append(&walk->held, &held, sizeof held);
    buf_append_span(&walk->held, entry->bytes);
}

static void on_cut(void *ctx, uint64_t from_idx)
{
    struct walk *walk = ctx;
    struct held_entry held;
    for (size_t at = walk->held_done; at < walk->held.len; at += sizeof held + held.len) {
        memcpy(&held, walk->held.ptr + at, sizeof held);
        if (held.idx >= from_idx) {
            walk->held.len = at;
            return;
        }
    }
}

/* Those up to this idx live. */
static void check_held(struct walk *walk, uint64_t idx)
{
    struct held_entry held;
    while (walk->held_done < walk->held.len) {
        const uint8_t *bytes = walk->held.ptr + walk->held_done;
        memcpy(&held, bytes, sizeof held);
        if (held.idx > idx)
            break;
        bytes += sizeof held; /* 8-byte aligned, as records are */
        struct wal_entry entry = {.segment = walk->segment,
                                  .offset = held.offset,
                                  .head = (const struct entry_head *)(const void *)bytes,
                                  .bytes = span_of(bytes, held.len)};
        check_entry(walk, &entry);
        walk->held_done += sizeof held + held.len;
    }
    if (walk->held_done == walk->held.len) {
        buf_clear(&walk->held, HELD_KEEP_BYTES);
        walk->held_done = 0;
    } else if (walk->held_done > walk->held.len / 2) {
        buf_consume(&walk->held, walk->held_done);
        walk->held_done = 0;
    }
}

static void check_entry(struct walk *walk, const struct wal_entry *entry)
{
    uint32_t partition = entry->head->record.partition;
    if (entry->head->record.entry_kind != ENTRY_TX || partition >= walk->out->partition_count)
        return;
    uint64_t *next_seq = &walk->next_seq[partition];
    if (*next_seq == 0 && !walk->from_start)
        *next_seq = entry->head->first_seq; /* older segments are gone */
    if (entry->head->first_seq != *next_seq)
        problem(walk, entry->offset, "partition %" PRIu32 ": sequence %" PRIu64 " follows %" PRIu64,
                partition, entry->head->first_seq, *next_seq);
    *next_seq = entry->head->first_seq + entry->head->record.count;
    struct event_view event;
    uint64_t offset = sizeof *entry->head;
    uint32_t position = 0;
    while (wal_entry_event(entry, &walk->salt, &offset, &walk->scratch, &event, &position) ==
           ERR_OK)
        check_event(walk, &event, position);
}

static void check_event(struct walk *walk, const struct event_view *event, uint32_t position)
{
    uint64_t offset = (uint64_t)position * 8;
    if (uuid_hash(&event->partition_key) % walk->out->partition_count != event->partition)
        problem(walk, offset, "partition %" PRIu32 " is not that of the partition key",
                event->partition);
    if (uuid_hash(&event->event_id) != uuid_hash(&event->partition_key))
        problem(walk, offset, "the event id doesn't carry the hash of the partition key");
    check_stream(walk, event, offset);
    if (walk->index != NULL && !walk->index_bad)
        check_index(walk, event, position);
    if (walk->summary != NULL &&
        (!index_summary_has_event(walk->summary, &event->event_id) ||
         !index_summary_has_stream(walk->summary, event->partition, event->stream)))
        index_problem(walk, "the summary doesn't know the event at %" PRIu64, offset);
}

static void check_stream(struct walk *walk, const struct event_view *event, uint64_t offset)
{
    bool known = false;
    struct verify_stream *stream =
        verify_streams_find(walk->streams, event->partition, event->stream, &known);
    if (!known) {
        stream->key = event->partition_key;
        if (!walk->from_start)
            stream->next_version = event->version;
    }
    if (event->version != stream->next_version)
        problem(walk, offset, "stream \"%.*s\": version %" PRIu64 " where %" PRIu64 " is due",
                (int)event->stream.len, (const char *)event->stream.ptr, event->version,
                stream->next_version);
    if (!uuid_equal(&stream->key, &event->partition_key))
        problem(walk, offset, "stream \"%.*s\" has a second partition key", (int)event->stream.len,
                (const char *)event->stream.ptr);
    stream->next_version = event->version + 1;
}

/* --- the index files --- */

static void open_index(struct walk *walk, bool sealed)
{
    char dir[32];
    walk->index = NULL;
    walk->index_bad = false;
    walk->batch_offset = 0;
    if (!sealed)
        return;
    wal_segment_dir(walk->segment, dir);
    enum err err = index_open(walk->disk, dir, &walk->salt, &walk->index);
    if (err == ERR_OK) {
        walk->out->indexes++;
        err = index_check_all(walk->index);
    } else {
        walk->index = NULL;
    }
    if (err == ERR_NOTFOUND)
        walk->out->indexes_missing++; /* a start makes it again */
    else if (err != ERR_OK)
        index_problem(walk, "index files are damaged; a start makes them again");
    walk->index_bad = err != ERR_OK;
}

static void close_index(struct walk *walk, uint64_t events)
{
    if (walk->index == NULL)
        return;
    if (!walk->index_bad && index_event_count(walk->index) != events)
        index_problem(walk, "index has %" PRIu32 " events, data.evts %" PRIu64,
                      index_event_count(walk->index), events);
    index_free(walk->index, walk->disk);
    walk->index = NULL;
}

/* The summary of the run of segments that begins here, or around here with the first. */
static void change_summary(struct walk *walk)
{
    struct format_salt salt = walk->salt;
    salt.segment -= salt.segment % INDEX_SUMMARY_SEGMENTS;
    if (walk->summary != NULL)
        index_summary_free(walk->summary, walk->disk);
    walk->summary = NULL;
    enum err err = summary_check_all(walk, salt.segment);
    if (err == ERR_OK)
        err = index_summary_open(walk->disk, &salt, &walk->summary);
    if (err != ERR_OK)
        walk->summary = NULL;
    if (err != ERR_OK && err != ERR_NOTFOUND)
        index_problem(walk, "summaries/%010" PRIu64 ".sum is damaged; a start makes it again",
                      salt.segment);
}

static enum err summary_check_all(struct walk *walk, uint64_t first)
{
    char path[64];
    struct file *file = NULL;
    struct span view;
    snprintf(path, sizeof path, "summaries/%010" PRIu64 ".sum", first);
    enum err err = walk->disk->ops->open(walk->disk, path, OPEN_READ, &file);
    if (err != ERR_OK)
        return err;
    err = walk->disk->ops->map(walk->disk, file, &view);
    walk->disk->ops->close(walk->disk, file);
    if (err != ERR_OK)
        return err;
    err = index_dump(view, ignore_line, NULL);
    walk->disk->ops->unmap(walk->disk, view);
    return err;
}

static void ignore_line(void *ctx, const char *text)
{
    (void)ctx;
    (void)text;
}

/* By its id, its stream and its partition: the event must be found where it lies. */
static void check_index(struct walk *walk, const struct event_view *event, uint32_t position)
{
    uint32_t found = 0;
    enum err err = index_find_event(walk->index, &event->event_id, 0, &found);
    for (uint32_t skip = 1; err == ERR_OK && found != position; skip++)
        err = index_find_event(walk->index, &event->event_id, skip, &found);
    const char *missing = err != ERR_OK ? "event id" : NULL;

    struct index_stream stream;
    err = index_find_stream(walk->index, event->partition, event->stream, &stream);
    if (err == ERR_OK && event->version - stream.first_version < stream.count)
        err = index_stream_position(walk->index, &stream,
                                    (uint32_t)(event->version - stream.first_version), &found);
    if (err != ERR_OK || found != position)
        missing = "stream";

    struct index_partition partition;
    err = index_find_partition(walk->index, event->partition, &partition);
    if (err == ERR_OK && event->sequence - partition.first_seq < partition.count)
        err = index_partition_position(walk->index, &partition,
                                       (uint32_t)(event->sequence - partition.first_seq), &found);
    if (err != ERR_OK || found != position)
        missing = "partition";
    if (missing != NULL)
        index_problem(walk, "the event at %" PRIu64 " is not found by its %s",
                      (uint64_t)position * 8, missing);
}

/* --- problems --- */

static void on_problem(void *ctx, enum wal_problem kind, uint64_t offset, const char *what)
{
    struct walk *walk = ctx;
    if (kind == WAL_TORN)
        walk->out->torn++; /* what an unfinished write left; a start removes it */
    else
        problem(walk, offset, "%s", what);
}

static void problem(struct walk *walk, uint64_t offset, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    problem_in(walk, "data.evts", offset, format, args);
    va_end(args);
}

static void index_problem(struct walk *walk, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    problem_in(walk, "*.*idx", 0, format, args);
    va_end(args);
}

static void problem_in(struct walk *walk, const char *file, uint64_t offset, const char *format,
                       va_list args)
{
    struct verify_bucket *out = walk->out;
    if (out->problems++ >= VERIFY_PROBLEMS_MAX)
        return;
    out->list = realloc(out->list, (out->list_count + 1) * sizeof *out->list);
    ASSERT(out->list != NULL);
    struct verify_problem *entry = &out->list[out->list_count++];
    entry->segment = walk->segment;
    entry->offset = offset;
    entry->file = file;
    vsnprintf(entry->what, sizeof entry->what, format, args);
}
