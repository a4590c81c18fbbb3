/* One bucket: life, dispatch and turns. What is decided where: bucket_internal.h. */
#include "bucketd/core/bucket_internal.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>

#include "common/assert.h"

#define WITNESS_IDLE_NS    (1000 * NS_PER_MS)
#define BRIEF_FLUSH_NS_MAX (1 * NS_PER_MS)
#define SPACE_RETRY_NS     (200 * NS_PER_MS)

static void find_unknown_ends(struct bucket *bucket, uint64_t newest);
static void wal_on_entry(void *ctx, const struct wal_entry *entry);
static void wal_on_cut(void *ctx, uint64_t from_idx);
static void wal_on_durable(void *ctx, uint64_t last_idx, struct lsn at, struct span written);
static void wal_on_roll(void *ctx, uint64_t new_segment);
static void wal_on_space(void *ctx);
static void start_flush(struct bucket *bucket);
static uint64_t idle_turn(struct bucket *bucket, uint64_t now);

struct bucket *bucket_new(const struct bucket_config *config, struct env *env)
{
    ASSERT(config->bucket < config->bucket_count &&
           config->bucket_count <= config->partition_count);
    struct bucket *bucket = calloc(1, sizeof *bucket);
    ASSERT(bucket != NULL);
    bucket->config = *config;
    bucket->env = env;
    bucket->salt = (struct format_salt){.cluster_id = config->cluster_id, .bucket = config->bucket};
    bucket->flush_took_ns = UINT64_MAX; /* none yet */
    env->ops->random(env, &bucket->hash_seed, sizeof bucket->hash_seed);
    bucket->partition_count =
        (config->partition_count - config->bucket + config->bucket_count - 1) /
        config->bucket_count;
    bucket->partitions = calloc(bucket->partition_count, sizeof *bucket->partitions);
    ASSERT(bucket->partitions != NULL);
    bucket->cache = cache_new(config->cache_bytes, bucket->hash_seed);
    replica_init(bucket);
    bucket->wal_config = (struct wal_config){
        .cluster_id = config->cluster_id,
        .node = config->node,
        .bucket = config->bucket,
        .bucket_count = config->bucket_count,
        .partition_count = config->partition_count,
        .segment_bytes = config->segment_bytes,
        .compression = config->compression,
        .replica_count = bucket->config.replica_count,
#ifdef PLANTED_BUGS
        .planted = config->planted,
#endif
    };
    memcpy(bucket->wal_config.replicas, bucket->config.replicas,
           sizeof bucket->wal_config.replicas);
    struct wal_callbacks callbacks = {
        .ctx = bucket,
        .on_entry = wal_on_entry,
        .on_cut = wal_on_cut,
        .on_durable = wal_on_durable,
        .on_roll = wal_on_roll,
        .on_space = wal_on_space,
    };
    bucket->wal = wal_new(&bucket->wal_config, env, &callbacks);
    segments_init(bucket);
    return bucket;
}

void bucket_free(struct bucket *bucket)
{
    query_release(bucket);
    append_release(bucket);
    commit_release(bucket);
    replica_release(bucket);
    repair_release(bucket);
    segments_release(bucket);
    wal_free(bucket->wal);
    cache_free(bucket->cache);
    buf_release(&bucket->waiting);
    free(bucket->partitions);
    free(bucket);
}

enum err bucket_open(struct bucket *bucket)
{
    struct wal_recovery recovery;
    enum err err = wal_open(bucket->wal, &recovery);
    if (recovery.lost && !replica_is_alone(bucket))
        (void)bucket->env->ops->replace_disk(bucket->env, "nothing tells the log's end");
    if (err != ERR_OK)
        return err;
    err = segments_open(bucket, &recovery);
    if (err != ERR_OK)
        return err;
    bucket->stats.events = wal_events_before(bucket->wal) + recovery.events;
    bucket->damaged = recovery.damaged;
    commit_open(bucket);
    bucket->damage_segment = recovery.segment;
    bucket->damage_offset = recovery.damage_offset;
    if (recovery.torn_bytes > 0)
        log_info(bucket->env->log, "log.torn_tail_cut", "segment=%" PRIu64 " bytes=%" PRIu64,
                 recovery.segment, recovery.torn_bytes);
    if (recovery.damaged)
        find_unknown_ends(bucket, recovery.segment);
    if (recovery.damaged)
        log_error(bucket->env->log, "log.damaged",
                  "segment=%" PRIu64 " offset=%" PRIu64 " effect=\"reads only\"", recovery.segment,
                  recovery.damage_offset);
    if (replica_is_alone(bucket)) {
        (void)bucket_begin_term(bucket);
    } else {
        replica_open(bucket);
        repair_open(bucket, &bucket->wal_config, &recovery);
    }
    bucket->flushed_ns = bucket->env->ops->now_ns(bucket->env);
    return ERR_OK;
}

/* A partition without an event behind the last hole may have lost its newest ones in it. */
static void find_unknown_ends(struct bucket *bucket, uint64_t newest)
{
    const struct segments *segments = &bucket->segments;
    uint32_t last = segments->count - 1;
    while (last > 0 && !segments->list[last].hole_before)
        last--;
    if (!segments->list[last].hole_before || segments->list[last].number != newest)
        return;
    for (uint32_t i = 0; i < bucket->partition_count; i++) {
        struct index_partition found;
        uint32_t partition = bucket->config.bucket + i * bucket->config.bucket_count;
        bucket->partitions[i].end_unknown = true;
        for (uint32_t part = last; part < segments->count; part++) {
            if (index_find_partition(segments->list[part].index, partition, &found) == ERR_OK)
                bucket->partitions[i].end_unknown = false;
        }
    }
}

void bucket_on_message(struct bucket *bucket, uint32_t link, const struct msg *msg)
{
    /* A stopping bucket doesn't answer; what it leaves unanswered is sent again to its next
     * incarnation. */
    if (bucket->stopping)
        return;
    switch ((int)msg->tag) {
    case TAG_append_req:
        append_on_request(bucket, link, msg);
        break;
    case TAG_get_req:
    case TAG_scan_partition_req:
    case TAG_scan_stream_req:
    case TAG_version_req:
    case TAG_sequence_req:
    case TAG_follow_req:
        if (reads_admit(bucket, link, msg))
            bucket_answer_read(bucket, link, msg);
        break;
    case TAG_info_req:
        query_on_message(bucket, link, msg);
        break;
    case TAG_peer_down:
        replica_on_peer_down(bucket, &msg->u.peer_down);
        break;
    case TAG_unfollow_req:
        reads_unfollow(bucket, link, msg->u.unfollow_req.partition);
        commit_unfollow(bucket, link, &msg->u.unfollow_req);
        break;
    default:
        log_warn(bucket->env->log, "message.unexpected", "name=%s", msg_name(msg->tag));
    }
}

void bucket_answer_read(struct bucket *bucket, uint32_t link, const struct msg *msg)
{
    if (msg->tag == TAG_follow_req)
        commit_follow(bucket, link, &msg->u.follow_req);
    else
        query_on_message(bucket, link, msg);
}

void bucket_on_peer_message(struct bucket *bucket, uint32_t node, const struct msg *msg)
{
    replica_on_message(bucket, node, msg);
}

void bucket_on_link_lost(struct bucket *bucket, uint32_t link)
{
    reads_link_lost(bucket, link);
    commit_link_lost(bucket, link);
}

uint64_t bucket_turn(struct bucket *bucket)
{
    struct env *env = bucket->env;
    uint64_t next = UINT64_MAX;
    fetch_resume(bucket);
    if (replica_is_alone(bucket))
        (void)bucket_begin_term(bucket);
    else
        next = replica_turn(bucket, env->ops->now_ns(env));
    if (wal_pending(bucket->wal) && !wal_flushing(bucket->wal))
        start_flush(bucket);
    if (wal_busy(bucket->wal) || wal_pending(bucket->wal))
        return next;
    return min_u64(next, idle_turn(bucket, env->ops->now_ns(env)));
}

/* Nothing is on its way to the disk: room that was missing, the witness of the last flush. */
static uint64_t idle_turn(struct bucket *bucket, uint64_t now)
{
    uint64_t next = UINT64_MAX;
    if (wal_disk_full(bucket->wal)) {
        if (now >= bucket->space_retry_ns) {
            bucket->space_retry_ns = now + SPACE_RETRY_NS;
            wal_retry_space(bucket->wal);
        }
        next = bucket->space_retry_ns;
    }
    if (bucket->damaged || bucket->idle)
        return next;
    uint64_t witness_ns = bucket->flushed_ns + WITNESS_IDLE_NS;
    if (now < witness_ns)
        return min_u64(next, witness_ns);
    bucket->idle = !wal_flush_witness(bucket->wal);
    return next;
}

/* In the pool, so that reads never wait behind the disk; but where no read came since the last
 * flush, and that was a short one, here: the way through the pool costs about as much as the disk.
 */
static void start_flush(struct bucket *bucket)
{
    /* With other replicas, what this turn has packed for them leaves before the disk is waited for.
     */
    bool quiet = bucket->stats.reads == bucket->reads_at_flush && replica_is_alone(bucket);
    wal_set_brief(bucket->wal, quiet && bucket->flush_took_ns < BRIEF_FLUSH_NS_MAX);
    bucket->reads_at_flush = bucket->stats.reads;
    bucket->flush_started_ns = bucket->env->ops->now_ns(bucket->env);
    wal_flush(bucket->wal);
}

void bucket_stop(struct bucket *bucket)
{
    bucket->stopping = true;
    if (!replica_is_alone(bucket)) {
        election_start_transfer(bucket, UINT32_MAX);
        repairer_stop(bucket->repairer);
    }
}

void bucket_transfer(struct bucket *bucket, uint32_t node)
{
    if (!replica_is_alone(bucket))
        election_start_transfer(bucket, node);
}

bool bucket_idle(const struct bucket *bucket)
{
    return !wal_busy(bucket->wal) && !wal_pending(bucket->wal) && !segments_busy(bucket) &&
           bucket->queries_len == 0 && bucket->waiting.len == bucket->waiting_at &&
           !catchup_busy(bucket) && !repair_busy(bucket) && bucket->replica.transfer_to == 0;
}

void bucket_get_stats(const struct bucket *bucket, struct bucket_stats *ret_stats)
{
    *ret_stats = bucket->stats;
    struct cache_stats cache;
    cache_get_stats(bucket->cache, &cache);
    ret_stats->cache_hits = cache.hits;
    ret_stats->cache_misses = cache.misses;
    ret_stats->cache_entries = cache.entries;
    ret_stats->cache_bytes = cache.bytes;
    ret_stats->cache_bytes_max = cache.bytes_max;
    ret_stats->cache_evictions = cache.evictions;
    ret_stats->segments = bucket->segments.count;
    ret_stats->disk_bytes = wal_disk_bytes(bucket->wal);
    ret_stats->commit_idx = wal_commit_idx(bucket->wal);
    ret_stats->term = wal_term(bucket->wal);
    ret_stats->disk_full = wal_disk_full(bucket->wal);
}

struct partition *bucket_partition(struct bucket *bucket, uint64_t partition)
{
    if (partition >= bucket->config.partition_count ||
        partition % bucket->config.bucket_count != bucket->config.bucket)
        return NULL;
    return &bucket->partitions[partition / bucket->config.bucket_count];
}

struct partition *bucket_partition_asked(struct bucket *bucket, uint32_t link, uint64_t req_id,
                                         uint64_t partition)
{
    struct partition *p = bucket_partition(bucket, partition);
    if (p == NULL)
        bucket_fail(bucket, link, req_id, ERR_INVALID, "partition %lu isn't in bucket %u",
                    partition, bucket->config.bucket);
    return p;
}

void bucket_pack_event(struct buf *out, const struct event_view *event)
{
    rec_pack_stored_event(out, &(struct rec_stored_event){
                                   .event_id = event->event_id,
                                   .partition_key = event->partition_key,
                                   .transaction_id = event->transaction_id,
                                   .partition = event->partition,
                                   .sequence = event->sequence,
                                   .version = event->version,
                                   .timestamp_ms = event->timestamp_ns / NS_PER_MS,
                                   .stream = event->stream,
                                   .name = event->name,
                                   .metadata = event->metadata,
                                   .payload = event->payload,
                               });
}

void bucket_fail(struct bucket *bucket, uint32_t link, uint64_t req_id, enum err err,
                 const char *format, ...)
{
    struct buf *out = bucket->env->ops->outbox(bucket->env, link);
    if (out == NULL)
        return;
    char text[512];
    va_list args;
    va_start(args, format);
    int len = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    ASSERT(len >= 0);
    msg_pack_fail_reply(out, &(struct msg_fail_reply){
                                 .req_id = req_id,
                                 .error = err,
                                 .text = span_of(text, min_u64((uint64_t)len, sizeof text - 1)),
                             });
}

static void wal_on_entry(void *ctx, const struct wal_entry *entry)
{
    segments_on_entry(ctx, entry);
    replica_on_recovered(ctx, entry);
}

static void wal_on_cut(void *ctx, uint64_t from_idx)
{
    segments_on_cut(ctx, from_idx);
    replica_on_recovered_cut(ctx, from_idx);
}

static void wal_on_durable(void *ctx, uint64_t last_idx, struct lsn at, struct span written)
{
    struct bucket *bucket = ctx;
    bucket->flushed_ns = bucket->env->ops->now_ns(bucket->env);
    bucket->flush_took_ns = bucket->flushed_ns - bucket->flush_started_ns;
    bucket->stats.flushes++;
    bucket->stats.flushed_bytes += written.len;
    bucket->idle = false;
    cache_extend(bucket->cache, at.segment, at.offset, written.ptr, written.len);
    if (!replica_is_alone(bucket))
        replica_on_durable(bucket);
    else if (last_idx > wal_commit_idx(bucket->wal))
        commit_up_to(bucket, last_idx, at, written);
    segments_seal(bucket, at.segment);
    append_retry_waiting(bucket);
}

static void wal_on_roll(void *ctx, uint64_t new_segment)
{
    segments_roll(ctx, new_segment);
}

static void wal_on_space(void *ctx)
{
    follow_on_room(ctx);
    append_retry_waiting(ctx);
}

/* A new incarnation leads with a term of its own; its NOOP commits what it found. */
bool bucket_begin_term(struct bucket *bucket)
{
    if (bucket->term_begun)
        return true;
    if (bucket->damaged || wal_fits(bucket->wal, WAL_TERM_BOUND, ROOM_MUST) != ERR_OK)
        return false;
    wal_append_vote(bucket->wal, wal_term(bucket->wal) + 1, (uint64_t)bucket->config.node + 1);
    bucket->replica.begun_idx = wal_append_noop(bucket->wal);
    bucket->term_begun = true;
    return true;
}
