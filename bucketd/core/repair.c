/* Repair of damage as a bucket does it: what is noted, what is lent to others, and what changes
 * here when a segment was written anew. The work itself: repairer.h, lender.h. */
#include "bucketd/core/bucket_internal.h"

#include "common/assert.h"

static bool may_replace(void *ctx, uint64_t segment);
static void on_replaced(void *ctx, uint64_t segment, struct index *index);
static bool led_by_another(void *ctx);
static void give_way(void *ctx);
static bool leads(void *ctx);
static void on_damage(void *ctx, uint64_t segment);

void repair_open(struct bucket *bucket, const struct wal_config *wal_config,
                 const struct wal_recovery *recovery)
{
    struct repairer_config config = {
        .wal = *wal_config,
        .boot = bucket->config.boot,
        .hash_seed = bucket->hash_seed,
        .timeout_ns = bucket->config.election_timeout_ns,
        .pause_ns = bucket->config.election_timeout_ns,
    };
    struct repairer_callbacks callbacks = {
        .ctx = bucket,
        .may_replace = may_replace,
        .on_replaced = on_replaced,
        .led_by_another = led_by_another,
        .give_way = give_way,
    };
    bucket->repairer = repairer_new(&config, bucket->env, bucket->wal, &callbacks);
    bucket->lender = lender_new(
        &bucket->salt, bucket->env, bucket->wal,
        &(struct lender_callbacks){.ctx = bucket, .leads = leads, .on_damage = on_damage});
    repairer_open(bucket->repairer, recovery);
    /* What a start found in older segments, when it had to build their indexes. */
    for (uint32_t i = 0; i + 1 < bucket->segments.count; i++) {
        const struct segment *segment = &bucket->segments.list[i];
        if (segment->damaged)
            repairer_note(bucket->repairer, segment->number);
    }
}

void repair_release(struct bucket *bucket)
{
    if (bucket->repairer == NULL)
        return;
    repairer_free(bucket->repairer);
    lender_free(bucket->lender);
}

void repair_note(struct bucket *bucket, uint64_t segment)
{
    if (bucket->repairer != NULL)
        repairer_note(bucket->repairer, segment);
}

bool repair_busy(const struct bucket *bucket)
{
    return bucket->repairer != NULL &&
           (repairer_busy(bucket->repairer) || lender_busy(bucket->lender));
}

void repair_on_message(struct bucket *bucket, uint32_t node, const struct msg *msg)
{
    if (msg->tag == TAG_tick)
        repairer_on_tick(bucket->repairer, node, &msg->u.tick);
    else if (msg->tag == TAG_chunk)
        repairer_on_chunk(bucket->repairer, node, &msg->u.chunk);
    else
        lender_on_fetch(bucket->lender, node, &msg->u.fetch, bucket->replica.recent,
                        bucket->segments.list[0].number);
}

/* Its index files aren't being written, nor a summary that is made of them. */
static bool may_replace(void *ctx, uint64_t segment)
{
    const struct bucket *bucket = ctx;
    for (uint32_t i = 0; i < bucket->segments.count; i++) {
        if (bucket->segments.list[i].number == segment && bucket->segments.list[i].sealing)
            return false;
    }
    return bucket->segments.summary_jobs == NULL;
}

static void on_replaced(void *ctx, uint64_t segment, struct index *index)
{
    struct bucket *bucket = ctx;
    log_info(bucket->env->log, "segment.repaired", "segment=%lu", segment);
    bucket->layout++;
    cache_drop(bucket->cache, segment);
    query_forget_places(bucket);
    segments_replace(bucket, segment, index);
}

static bool led_by_another(void *ctx)
{
    const struct bucket *bucket = ctx;
    return bucket->replica.leader != 0 && !replica_leads(&bucket->replica);
}

static void give_way(void *ctx)
{
    election_start_transfer(ctx, UINT32_MAX);
}

static bool leads(void *ctx)
{
    const struct bucket *bucket = ctx;
    return replica_leads(&bucket->replica);
}

static void on_damage(void *ctx, uint64_t segment)
{
    repair_note(ctx, segment);
}
