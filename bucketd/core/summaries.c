/* The summaries of a bucket's older segments: made in the pool when the last of their segments is
 * sealed, looked at before the segments themselves. All of it can be lost without harm. */
#include "bucketd/core/bucket_internal.h"

#include <stdlib.h>

#include "common/assert.h"

struct summary_job {
    struct job job;
    struct summary_job *next;
    struct bucket *bucket;
    uint32_t number; /* in segments.summaries */
    struct format_salt salt;
    enum err err;
};

static struct summary *summary_at(struct bucket *bucket, uint32_t left);
static bool is_complete(const struct bucket *bucket, uint32_t number);
static bool find_part(const struct bucket *bucket, uint64_t segment, uint32_t *ret_i);
static struct format_salt summary_salt(const struct bucket *bucket, uint32_t number);
static void start_job(struct bucket *bucket, uint32_t number);
static void job_work(struct job *job, struct disk *disk);
static void job_done(struct job *job);

void summaries_open(struct bucket *bucket)
{
    const struct segments *segments = &bucket->segments;
    for (uint32_t i = 0; i < segments->count; i++) {
        uint64_t number = segments->list[i].number;
        if (number % INDEX_SUMMARY_SEGMENTS == INDEX_SUMMARY_SEGMENTS - 1)
            summaries_update(bucket, number);
    }
}

void summaries_update(struct bucket *bucket, uint64_t segment)
{
    struct segments *segments = &bucket->segments;
    uint32_t number = (uint32_t)(segment / INDEX_SUMMARY_SEGMENTS);
    if (!is_complete(bucket, number))
        return;
    if (number >= segments->summaries_len) {
        segments->summaries =
            realloc(segments->summaries, (number + 1) * sizeof *segments->summaries);
        ASSERT(segments->summaries != NULL);
        memset(segments->summaries + segments->summaries_len, 0,
               (number + 1 - segments->summaries_len) * sizeof *segments->summaries);
        segments->summaries_len = number + 1;
    }
    struct summary *summary = &segments->summaries[number];
    if (summary->index != NULL || summary->building)
        return;
    struct format_salt salt = summary_salt(bucket, number);
    if (index_summary_open(bucket->env->disk, &salt, &summary->index) != ERR_OK) {
        summary->index = NULL;
        start_job(bucket, number);
    }
}

void summaries_release(struct bucket *bucket)
{
    struct segments *segments = &bucket->segments;
    for (uint32_t i = 0; i < segments->summaries_len; i++) {
        if (segments->summaries[i].index != NULL)
            index_summary_free(segments->summaries[i].index, bucket->env->disk);
    }
    free(segments->summaries);
    while (segments->summary_jobs != NULL) {
        struct summary_job *job = segments->summary_jobs;
        segments->summary_jobs = job->next;
        free(job);
    }
}

bool summaries_skip_stream(struct bucket *bucket, uint32_t partition, struct span stream,
                           uint32_t *left)
{
    struct summary *summary = summary_at(bucket, *left);
    if (summary == NULL || index_summary_has_stream(summary->index, partition, stream))
        return false;
    *left -= INDEX_SUMMARY_SEGMENTS;
    return true;
}

bool summaries_skip_event(struct bucket *bucket, const struct uuid *event_id, uint32_t *left)
{
    struct summary *summary = summary_at(bucket, *left);
    if (summary == NULL || index_summary_has_event(summary->index, event_id))
        return false;
    *left -= INDEX_SUMMARY_SEGMENTS;
    return true;
}

/* The summary whose segments are exactly the last ones of the `left` parts; NULL where there is
 * none that can be used. */
static struct summary *summary_at(struct bucket *bucket, uint32_t left)
{
    struct segments *segments = &bucket->segments;
    if (left < INDEX_SUMMARY_SEGMENTS)
        return NULL;
    uint64_t last = segments->list[left - 1].number;
    uint64_t number = last / INDEX_SUMMARY_SEGMENTS;
    if (last % INDEX_SUMMARY_SEGMENTS != INDEX_SUMMARY_SEGMENTS - 1 ||
        number >= segments->summaries_len)
        return NULL;
    struct summary *summary = &segments->summaries[number];
    if (summary->index != NULL && index_summary_damaged(summary->index)) {
        log_warn(bucket->env->log, "summary.damaged", "summary=%lu", number);
        index_summary_free(summary->index, bucket->env->disk);
        summary->index = NULL;
        if (!summary->building)
            start_job(bucket, (uint32_t)number);
    }
    /* A damaged segment that had to be indexed anew may have come out as several parts, or stay in
     * memory: then this is no run of so many parts any more. */
    const struct segment *first = &segments->list[left - INDEX_SUMMARY_SEGMENTS];
    bool one_run = first->number == last - (INDEX_SUMMARY_SEGMENTS - 1) && !segments->holed;
    return summary->index != NULL && one_run ? summary : NULL;
}

/* All its segments are there, each in one part, whose index is in files. */
static bool is_complete(const struct bucket *bucket, uint32_t number)
{
    const struct segments *segments = &bucket->segments;
    uint64_t first = (uint64_t)number * INDEX_SUMMARY_SEGMENTS;
    uint32_t i;
    if (!find_part(bucket, first, &i) || segments->count - i <= INDEX_SUMMARY_SEGMENTS)
        return false;
    for (uint32_t k = 0; k < INDEX_SUMMARY_SEGMENTS; k++) {
        const struct segment *segment = &segments->list[i + k];
        bool in_files = segment->index == NULL || index_is_mapped(segment->index);
        if (segment->number != first + k || !in_files || segment->hole_before)
            return false;
    }
    return true;
}

/* The first part of a segment. */
static bool find_part(const struct bucket *bucket, uint64_t segment, uint32_t *ret_i)
{
    const struct segments *segments = &bucket->segments;
    uint32_t from = 0, to = segments->count;
    while (from < to) {
        uint32_t middle = from + (to - from) / 2;
        if (segments->list[middle].number < segment)
            from = middle + 1;
        else
            to = middle;
    }
    *ret_i = from;
    return from < segments->count && segments->list[from].number == segment;
}

static struct format_salt summary_salt(const struct bucket *bucket, uint32_t number)
{
    struct format_salt salt = bucket->salt;
    salt.segment = (uint64_t)number * INDEX_SUMMARY_SEGMENTS;
    return salt;
}

static void start_job(struct bucket *bucket, uint32_t number)
{
    struct summary_job *job = calloc(1, sizeof *job);
    ASSERT(job != NULL);
    *job = (struct summary_job){
        .job = {.work = job_work, .done = job_done},
        .next = bucket->segments.summary_jobs,
        .bucket = bucket,
        .number = number,
        .salt = summary_salt(bucket, number),
    };
    bucket->segments.summary_jobs = job;
    bucket->segments.summaries[number].building = true;
    bucket->env->ops->submit(bucket->env, &job->job);
}

static void job_work(struct job *base, struct disk *disk)
{
    struct summary_job *job = (struct summary_job *)base;
    job->err = index_summary_write(disk, &job->salt);
}

static void job_done(struct job *base)
{
    struct summary_job *job = (struct summary_job *)base;
    struct bucket *bucket = job->bucket;
    struct summary *summary = &bucket->segments.summaries[job->number];
    struct summary_job **at = &bucket->segments.summary_jobs;
    while (*at != job)
        at = &(*at)->next;
    *at = job->next;
    summary->building = false;
    enum err err = job->err;
    if (err == ERR_OK)
        err = index_summary_open(bucket->env->disk, &job->salt, &summary->index);
    if (err != ERR_OK) {
        summary->index = NULL;
        log_warn(bucket->env->log, "summary.not_written", "summary=%u error=%s", job->number,
                 err_name(err));
    }
    free(job);
}
