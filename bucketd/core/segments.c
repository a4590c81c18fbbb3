/* The table of a bucket's segments and their indexes: one open, some being sealed, the rest
 * immutable files that are mapped when used. An index that is missing or damaged is built again
 * from the data. */
#include "bucketd/core/bucket_internal.h"

#include <stdlib.h>

#include "common/assert.h"

/* Of a segment that can't be read. */
#define SCAN_TRIES 3u

/* Writes one sealed segment's index files. */
struct seal_job {
    struct job job;
    struct seal_job *next;
    struct bucket *bucket;
    const struct index *index;
    uint64_t number;
    struct format_salt salt;
    enum err err;
};

static void mark_holes(struct bucket *bucket, const struct wal_recovery *recovery);
static struct segment *add_segment(struct bucket *bucket, uint64_t number, struct index *index);
static void index_entry(struct bucket *bucket, struct index *index, const struct wal_entry *entry);
static bool take_dead(struct buf *recovered, uint64_t from_idx, struct recovered_entry *ret_dead);
static enum err build_index(struct bucket *bucket, uint32_t i, bool despite_io);
static bool files_exist(struct bucket *bucket, uint64_t number);
static void start_seal(struct bucket *bucket, struct segment *segment);
static void seal_work(struct job *job, struct disk *disk);
static void seal_done(struct job *job);
static void seal_at_once(struct bucket *bucket, struct segment *segment);
static void sealed(struct bucket *bucket, struct segment *segment, enum err err);
static void map_segment(struct bucket *bucket, struct segment *segment, struct index *index);
static void unmap_least_used(struct bucket *bucket, const struct segment *keep);
static struct format_salt segment_salt(const struct bucket *bucket, uint64_t number);

void segments_init(struct bucket *bucket)
{
    bucket->segments = (struct segments){0};
}

void segments_release(struct bucket *bucket)
{
    struct segments *segments = &bucket->segments;
    for (uint32_t i = 0; i < segments->count; i++) {
        if (segments->list[i].index != NULL)
            index_free(segments->list[i].index, bucket->env->disk);
    }
    summaries_release(bucket);
    while (segments->jobs != NULL) {
        struct seal_job *job = segments->jobs;
        segments->jobs = job->next;
        free(job);
    }
    free(segments->list);
    buf_release(&segments->recovered);
    *segments = (struct segments){0};
}

void segments_on_entry(struct bucket *bucket, const struct wal_entry *entry)
{
    struct segments *segments = &bucket->segments;
    bool gap = bucket->recovered_idx != 0 && entry->head->idx != bucket->recovered_idx + 1;
    if (segments->count == 0)
        segments->first_offset = entry->offset;
    segments->last_offset = entry->offset;
    if (segments->count == 0 || gap) {
        if (segments->count > 0)
            segments->list[segments->count - 1].kept = true;
        add_segment(bucket, entry->segment, index_new(bucket->hash_seed))->hole_before = gap;
        segments->holed |= gap;
    }
    bucket->recovered_idx = entry->head->idx;
    if (!replica_is_alone(bucket))
        buf_append(&segments->recovered,
                   &(struct recovered_entry){.idx = entry->head->idx,
                                             .part = segments->count - 1,
                                             .events = entry->head->record.count},
                   sizeof(struct recovered_entry));
    if (entry->head->record.entry_kind == ENTRY_TX)
        index_entry(bucket, segments_open_index(bucket), entry);
}

void segments_on_cut(struct bucket *bucket, uint64_t from_idx)
{
    struct recovered_entry dead;
    while (take_dead(&bucket->segments.recovered, from_idx, &dead)) {
        for (uint32_t i = 0; i < dead.events; i++)
            index_pop(bucket->segments.list[dead.part].index);
    }
    bucket->recovered_idx = from_idx - 1;
}

/* The newest of the entries from this idx on; false: there is none (any more). */
static bool take_dead(struct buf *recovered, uint64_t from_idx, struct recovered_entry *ret_dead)
{
    if (recovered->len == 0)
        return false;
    size_t at = recovered->len - sizeof *ret_dead;
    memcpy(ret_dead, recovered->ptr + at, sizeof *ret_dead);
    if (ret_dead->idx < from_idx)
        return false;
    recovered->len = at;
    return true;
}

void segments_index_entry(struct bucket *bucket, const struct wal_entry *entry)
{
    index_entry(bucket, segments_open_index(bucket), entry);
}

enum err segments_open(struct bucket *bucket, const struct wal_recovery *recovery)
{
    struct segments *segments = &bucket->segments;
    buf_release(&segments->recovered);
    if (recovery->damaged)
        mark_holes(bucket, recovery);
    uint32_t newest_parts = segments->count;
    uint64_t older = recovery->segment - recovery->first_segment;
    ASSERT(recovery->segment >= recovery->first_segment && older < UINT32_MAX - newest_parts);
    if (newest_parts == 0) {
        add_segment(bucket, recovery->segment, index_new(bucket->hash_seed));
        newest_parts = 1;
    }
    /* The newest one's parts came first; the older ones go in front of them. */
    for (uint32_t i = 0; i < older; i++)
        add_segment(bucket, 0, NULL);
    memmove(segments->list + older, segments->list, newest_parts * sizeof *segments->list);
    for (uint32_t i = 0; i < older; i++)
        segments->list[i] = (struct segment){.number = recovery->first_segment + i};
    for (uint32_t i = 0; i < older; i++) {
        if (files_exist(bucket, segments->list[i].number))
            continue;
        log_info(bucket->env->log, "index.rebuild", "segment=%lu remaining=%lu",
                 segments->list[i].number, older - i);
        uint32_t count = segments->count;
        enum err err = build_index(bucket, i, true);
        if (err != ERR_OK)
            return err;
        older += segments->count - count;
        i += segments->count - count;
        /* A crash leaves the newest one without its files: they are written beside the bucket's
         * work. Where more are missing, they are written at once, lest all be in memory together.
         */
        if (i + 1 < older && !segments->list[i].kept)
            seal_at_once(bucket, &segments->list[i]);
    }
    segments_seal(bucket, recovery->segment);
    summaries_open(bucket);
    return ERR_OK;
}

/* Entries before the first or behind the last of those that recovery could deliver. */
static void mark_holes(struct bucket *bucket, const struct wal_recovery *recovery)
{
    struct segments *segments = &bucket->segments;
    uint64_t offset = recovery->damage_offset;
    if (segments->count > 0 && offset >= recovery->data_start && offset < segments->first_offset)
        segments->list[0].hole_before = segments->holed = true;
    if (segments->count > 0 && recovery->damage_last < segments->last_offset)
        return;
    if (segments->count > 0)
        segments->list[segments->count - 1].kept = true;
    add_segment(bucket, recovery->segment, index_new(bucket->hash_seed))->hole_before = true;
    segments->holed = true;
}

void segments_roll(struct bucket *bucket, uint64_t number)
{
    add_segment(bucket, number, index_new(bucket->hash_seed));
}

void segments_seal(struct bucket *bucket, uint64_t number)
{
    struct segments *segments = &bucket->segments;
    /* All but the newest few have been sealed long ago. */
    for (uint32_t i = segments->count - 1; i-- > 0;) {
        struct segment *segment = &segments->list[i];
        if (segment->index == NULL || index_is_mapped(segment->index))
            break;
        if (segment->number < number && !segment->sealing && !segment->kept)
            start_seal(bucket, segment);
    }
}

enum err segments_index(struct bucket *bucket, uint32_t i, struct index **ret_index)
{
    struct segment *segment = &bucket->segments.list[i];
    segment->used = ++bucket->segments.clock;
    if (segment->index == NULL) {
        char dir[32];
        struct format_salt salt = segment_salt(bucket, segment->number);
        struct index *index = NULL;
        enum err err =
            index_open(bucket->env->disk, wal_segment_dir(segment->number, dir), &salt, &index);
        if (err == ERR_OK)
            map_segment(bucket, segment, index);
        else if (err == ERR_IO)
            return err;
        else
            return ERR_CORRUPT;
    }
    *ret_index = segment->index;
    return ERR_OK;
}

enum err segments_rebuild(struct bucket *bucket, uint32_t i, uint32_t *ret_i)
{
    struct segment *segment = &bucket->segments.list[i];
    uint32_t count = bucket->segments.count;
    log_warn(bucket->env->log, "index.rebuild", "segment=%lu reason=\"missing or damaged\"",
             segment->number);
    if (segment->index != NULL) {
        ASSERT(index_is_mapped(segment->index));
        bucket->segments.mapped_bytes -= index_file_bytes(segment->index);
        index_free(segment->index, bucket->env->disk);
        segment->index = NULL;
    }
    enum err err = build_index(bucket, i, false);
    if (err == ERR_OK) {
        *ret_i = i + (bucket->segments.count - count);
        segment = &bucket->segments.list[*ret_i];
        if (!segment->kept)
            start_seal(bucket, segment);
    }
    return err;
}

void segments_replace(struct bucket *bucket, uint64_t number, struct index *index)
{
    struct segments *segments = &bucket->segments;
    uint32_t first = 0;
    while (segments->list[first].number != number)
        ASSERT(++first < segments->count);
    uint32_t behind = first;
    for (; behind < segments->count && segments->list[behind].number == number; behind++) {
        struct segment *part = &segments->list[behind];
        ASSERT(!part->sealing);
        if (part->index != NULL && index_is_mapped(part->index))
            segments->mapped_bytes -= index_file_bytes(part->index);
        if (part->index != NULL)
            index_free(part->index, bucket->env->disk);
    }
    ASSERT(behind < segments->count); /* the open one isn't replaced */
    segments->list[first] = (struct segment){
        .number = number,
        .index = index,
        .hole_before = first > 0 && segments->list[first - 1].damaged,
    };
    memmove(segments->list + first + 1, segments->list + behind,
            (segments->count - behind) * sizeof *segments->list);
    segments->count -= behind - first - 1;
    /* Nothing is missing between this one and the next, unless that may have lost its beginning. */
    if (!segments->list[first + 1].damaged)
        segments->list[first + 1].hole_before = false;
    segments->holed = false;
    for (uint32_t i = 0; i < segments->count; i++)
        segments->holed |= segments->list[i].hole_before;
    start_seal(bucket, &segments->list[first]);
}

struct index *segments_open_index(struct bucket *bucket)
{
    ASSERT(bucket->segments.count > 0);
    return bucket->segments.list[bucket->segments.count - 1].index;
}

bool segments_busy(const struct bucket *bucket)
{
    return bucket->segments.sealing > 0 || bucket->segments.summary_jobs != NULL;
}

static struct segment *add_segment(struct bucket *bucket, uint64_t number, struct index *index)
{
    struct segments *segments = &bucket->segments;
    if (segments->count == segments->cap) {
        segments->cap = segments->cap == 0 ? 16 : segments->cap * 2;
        segments->list = realloc(segments->list, segments->cap * sizeof *segments->list);
        ASSERT(segments->list != NULL);
    }
    struct segment *segment = &segments->list[segments->count++];
    *segment = (struct segment){.number = number, .index = index};
    return segment;
}

static void index_entry(struct bucket *bucket, struct index *index, const struct wal_entry *entry)
{
    struct format_salt salt = segment_salt(bucket, entry->segment);
    struct event_view event;
    uint64_t offset = sizeof(struct entry_head);
    uint32_t position;
    while (wal_entry_event(entry, &salt, &offset, &bucket->append.fetcher.scratch, &event,
                           &position) == ERR_OK) {
        index_add(index, &(struct index_event){
                             .event_id = event.event_id,
                             .partition = event.partition,
                             .sequence = event.sequence,
                             .version = event.version,
                             .partition_key = event.partition_key,
                             .stream = event.stream,
                             .position = position,
                         });
    }
}

/* Builds the index of a sealed segment in memory. Rot in it splits it into parts, which stay in
 * memory. */
struct rebuild {
    struct bucket *bucket;
    uint64_t last_idx;
    struct index **parts;
    uint32_t count;
    struct buf recovered; /* struct recovered_entry: what a cut may take back */
};

static void rebuild_drop(struct rebuild *rebuild);
static void rebuild_entry(void *ctx, const struct wal_entry *entry);
static void rebuild_cut(void *ctx, uint64_t from_idx);

/* A read that fails may succeed the next time. */
static enum err scan_for_index(struct rebuild *rebuild, uint64_t number,
                               struct wal_scan_result *ret_result)
{
    struct bucket *bucket = rebuild->bucket;
    struct format_salt salt = segment_salt(bucket, number);
    struct wal_scan scan = {.ctx = rebuild, .on_entry = rebuild_entry, .on_cut = rebuild_cut};
    enum err err = ERR_IO;
    for (unsigned tries = 0; err == ERR_IO && tries < SCAN_TRIES; tries++) {
        rebuild_drop(rebuild);
        err = wal_scan_segment(bucket->env->disk, number, &salt, &scan, ret_result);
    }
    buf_release(&rebuild->recovered);
    return err;
}

/* despite_io: what can't be read is a hole too. A start does with what there is; later the segment
 * stays without an index until it can be read. */
static enum err build_index(struct bucket *bucket, uint32_t i, bool despite_io)
{
    struct segments *segments = &bucket->segments;
    uint64_t number = segments->list[i].number;
    bool hole_before = segments->list[i].hole_before; /* known from the segment before */
    struct rebuild rebuild = {.bucket = bucket};
    struct wal_scan_result result;
    enum err err = scan_for_index(&rebuild, number, &result);
    if (err != ERR_OK || result.problems > 0)
        log_error(bucket->env->log, "segment.damaged", "segment=%lu problems=%lu error=%s", number,
                  err == ERR_OK ? result.problems : 1, err_name(err));
    if (err == ERR_IO && !despite_io) {
        rebuild_drop(&rebuild);
        return err;
    }
    if (rebuild.count == 0) {
        rebuild.parts = realloc(rebuild.parts, sizeof *rebuild.parts);
        ASSERT(rebuild.parts != NULL);
        rebuild.parts[rebuild.count++] = index_new(bucket->hash_seed);
    }
    bool whole = err == ERR_OK && result.problems == 0 && rebuild.count == 1;
    if (!whole)
        repair_note(bucket, number);
    for (uint32_t part = 1; part < rebuild.count; part++)
        add_segment(bucket, 0, NULL);
    memmove(segments->list + i + rebuild.count, segments->list + i + 1,
            (segments->count - i - rebuild.count) * sizeof *segments->list);
    for (uint32_t part = 0; part < rebuild.count; part++)
        segments->list[i + part] = (struct segment){.number = number,
                                                    .index = rebuild.parts[part],
                                                    .kept = !whole,
                                                    .damaged = !whole,
                                                    .hole_before = !whole};
    segments->list[i].hole_before |= hole_before;
    /* Nobody knows whether the damage reaches to the segment's end. */
    if (!whole && i + rebuild.count < segments->count)
        segments->list[i + rebuild.count].hole_before = true;
    segments->holed |= !whole;
    free(rebuild.parts);
    return ERR_OK;
}

static void rebuild_drop(struct rebuild *rebuild)
{
    for (uint32_t part = 0; part < rebuild->count; part++)
        index_free(rebuild->parts[part], rebuild->bucket->env->disk);
    free(rebuild->parts);
    buf_release(&rebuild->recovered);
    *rebuild = (struct rebuild){.bucket = rebuild->bucket};
}

static void rebuild_entry(void *ctx, const struct wal_entry *entry)
{
    struct rebuild *rebuild = ctx;
    if (rebuild->count == 0 || entry->head->idx != rebuild->last_idx + 1) {
        rebuild->parts = realloc(rebuild->parts, (rebuild->count + 1) * sizeof *rebuild->parts);
        ASSERT(rebuild->parts != NULL);
        rebuild->parts[rebuild->count++] = index_new(rebuild->bucket->hash_seed);
    }
    rebuild->last_idx = entry->head->idx;
    struct recovered_entry recovered = {
        .idx = entry->head->idx, .part = rebuild->count - 1, .events = entry->head->record.count};
    if (!replica_is_alone(rebuild->bucket))
        buf_append(&rebuild->recovered, &recovered, sizeof recovered);
    if (entry->head->record.entry_kind == ENTRY_TX)
        index_entry(rebuild->bucket, rebuild->parts[rebuild->count - 1], entry);
}

static void rebuild_cut(void *ctx, uint64_t from_idx)
{
    struct rebuild *rebuild = ctx;
    struct recovered_entry dead;
    while (take_dead(&rebuild->recovered, from_idx, &dead)) {
        for (uint32_t i = 0; i < dead.events; i++)
            index_pop(rebuild->parts[dead.part]);
    }
    rebuild->last_idx = from_idx - 1;
}

static bool files_exist(struct bucket *bucket, uint64_t number)
{
    char dir[32], path[64];
    wal_segment_dir(number, dir);
    for (unsigned i = 0; i < INDEX_FILES; i++) {
        struct file *file;
        snprintf(path, sizeof path, "%s/%s", dir, index_file_names[i]);
        if (bucket->env->disk->ops->open(bucket->env->disk, path, OPEN_READ, &file) != ERR_OK)
            return false;
        bucket->env->disk->ops->close(bucket->env->disk, file);
    }
    return true;
}

static void start_seal(struct bucket *bucket, struct segment *segment)
{
    struct seal_job *job = calloc(1, sizeof *job);
    ASSERT(job != NULL);
    *job = (struct seal_job){
        .job = {.work = seal_work, .done = seal_done},
        .next = bucket->segments.jobs,
        .bucket = bucket,
        .index = segment->index,
        .number = segment->number,
        .salt = segment_salt(bucket, segment->number),
    };
    bucket->segments.jobs = job;
    bucket->segments.sealing++;
    segment->sealing = true;
    bucket->env->ops->submit(bucket->env, &job->job);
}

static void seal_work(struct job *base, struct disk *disk)
{
    struct seal_job *job = (struct seal_job *)base;
    char dir[32];
    job->err = index_write(job->index, disk, wal_segment_dir(job->number, dir), &job->salt);
}

static void seal_done(struct job *base)
{
    struct seal_job *job = (struct seal_job *)base;
    struct bucket *bucket = job->bucket;
    struct segments *segments = &bucket->segments;
    struct seal_job **at = &segments->jobs;
    while (*at != job)
        at = &(*at)->next;
    *at = job->next;
    segments->sealing--;
    uint32_t i = 0;
    while (segments->list[i].index != job->index)
        ASSERT(++i < segments->count);
    struct segment *segment = &segments->list[i];
    segment->sealing = false;
    sealed(bucket, segment, job->err);
    free(job);
    append_retry_waiting(bucket);
}

static void seal_at_once(struct bucket *bucket, struct segment *segment)
{
    char dir[32];
    struct format_salt salt = segment_salt(bucket, segment->number);
    sealed(bucket, segment,
           index_write(segment->index, bucket->env->disk, wal_segment_dir(segment->number, dir),
                       &salt));
}

/* The index files are written, or not (err): from now on they are used, or what is in memory is
 * kept. */
static void sealed(struct bucket *bucket, struct segment *segment, enum err err)
{
    struct index *mapped = NULL;
    char dir[32];
    uint64_t number = segment->number;
    struct format_salt salt = segment_salt(bucket, number);
    if (err == ERR_OK)
        err = index_open(bucket->env->disk, wal_segment_dir(number, dir), &salt, &mapped);
    if (err == ERR_OK) {
        index_free(segment->index, bucket->env->disk);
        map_segment(bucket, segment, mapped);
        summaries_update(bucket, number);
        log_debug(bucket->env->log, "segment.sealed", "segment=%lu", number);
    } else {
        /* Full disk: the index stays in memory; the next start builds the files. Anything else is
         * no reason to stop either: what is derived can be derived again. */
        segment->kept = true;
        log_warn(bucket->env->log, "index.not_written", "segment=%lu error=%s", number,
                 err_name(err));
    }
}

static void map_segment(struct bucket *bucket, struct segment *segment, struct index *index)
{
    segment->index = index;
    bucket->segments.mapped_bytes += index_file_bytes(index);
    while (bucket->segments.mapped_bytes > bucket->config.index_cache_bytes) {
        uint64_t before = bucket->segments.mapped_bytes;
        unmap_least_used(bucket, segment);
        if (bucket->segments.mapped_bytes == before)
            break;
    }
}

static void unmap_least_used(struct bucket *bucket, const struct segment *keep)
{
    struct segments *segments = &bucket->segments;
    struct segment *least = NULL;
    for (uint32_t i = 0; i + 1 < segments->count; i++) {
        struct segment *segment = &segments->list[i];
        if (segment != keep && segment->index != NULL && index_is_mapped(segment->index) &&
            (least == NULL || segment->used < least->used))
            least = segment;
    }
    if (least != NULL) {
        segments->mapped_bytes -= index_file_bytes(least->index);
        index_free(least->index, bucket->env->disk);
        least->index = NULL;
    }
}

static struct format_salt segment_salt(const struct bucket *bucket, uint64_t number)
{
    struct format_salt salt = bucket->salt;
    salt.segment = number;
    return salt;
}
