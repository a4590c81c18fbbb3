/* Which reads a replica may answer (REPLICATION.md 5.7), and those that wait until it may.
 *
 * A replica answers from its own log, cut at its watermark, when it is level: not long ago it had
 * all that a settled leader had committed by then. One that has just begun, was cut off or paused
 * is not, and never answers from the past; only after long without any quorum in sight it does, and
 * says so. */
#include "bucketd/core/bucket_internal.h"

#include "common/assert.h"

#define HELD_MAX       8192u
#define HELD_BYTES_MAX (16u << 20)

/* What a request asks of the replica that answers it. */
struct demand {
    uint64_t req_id, partition, need, mode;
};

enum verdict { VERDICT_ANSWER, VERDICT_WAIT, VERDICT_NOT_LEADER, VERDICT_NOT_READY };

static struct demand demand_of(const struct msg *msg);
static enum verdict judge(struct bucket *bucket, const struct demand *demand, uint64_t tick,
                          uint64_t now);
static bool is_level(const struct bucket *bucket, uint64_t now);
static bool is_stale(const struct bucket *bucket, uint64_t now);
static void hold(struct bucket *bucket, uint32_t link, const struct msg *msg, uint64_t deadline_ns,
                 uint64_t tick);
static void fail(struct bucket *bucket, uint32_t link, uint64_t req_id, enum verdict verdict);
static void forget(struct bucket *bucket, uint32_t link, uint64_t partition);

/* --- how far this replica is --- */

void reads_note_statement(struct bucket *bucket, uint64_t commit_idx, uint64_t at_ns)
{
    struct replica *replica = &bucket->replica;
    if (replica->statement_ns == 0) {
        replica->statement_idx = commit_idx;
        replica->statement_ns = at_ns;
    }
    reads_note_commit(bucket);
}

void reads_note_commit(struct bucket *bucket)
{
    struct replica *replica = &bucket->replica;
    if (replica->statement_ns == 0 || wal_commit_idx(bucket->wal) < replica->statement_idx)
        return;
    replica->level_ns = max_u64(replica->level_ns, replica->statement_ns);
    replica->statement_ns = 0;
}

static bool is_level(const struct bucket *bucket, uint64_t now)
{
    const struct replica *replica = &bucket->replica;
    if (PLANTED(&bucket->config, PLANT_READY_TOO_EARLY))
        return true;
    /* Beside damage nobody knows how far the watermarks should be. */
    if (bucket->damaged)
        return false;
    if (replica_leads(replica))
        return replica->begun_idx != 0 && wal_commit_idx(bucket->wal) >= replica->begun_idx &&
               liveness_quorum_echoes(bucket, now);
    return replica->level_ns != 0 && now - replica->level_ns < bucket->config.election_timeout_ns;
}

static bool is_stale(const struct bucket *bucket, uint64_t now)
{
    return !is_level(bucket, now) &&
           now - bucket->replica.quorum_ns >= bucket->config.stale_after_ns;
}

bool reads_are_stale(const struct bucket *bucket)
{
    return !replica_is_alone(bucket) && is_stale(bucket, bucket->env->ops->now_ns(bucket->env));
}

/* --- requests --- */

bool reads_admit(struct bucket *bucket, uint32_t link, const struct msg *msg)
{
    struct replica *replica = &bucket->replica;
    if (replica_is_alone(bucket))
        return true;
    struct demand demand = demand_of(msg);
    uint64_t now = bucket->env->ops->now_ns(bucket->env), tick = 0;
    if (demand.mode == READ_STRONG && replica_leads(replica))
        tick = liveness_ask(bucket);
    enum verdict verdict = judge(bucket, &demand, tick, now);
    if (verdict == VERDICT_ANSWER)
        return true;
    if (verdict != VERDICT_WAIT) {
        fail(bucket, link, demand.req_id, verdict);
    } else if (replica->held_count >= HELD_MAX || replica->held.len >= HELD_BYTES_MAX) {
        bucket_fail(bucket, link, demand.req_id, ERR_BUSY, "bucket %u: too many reads wait",
                    bucket->config.bucket);
    } else {
        hold(bucket, link, msg, now + bucket->config.election_timeout_ns, tick);
    }
    return false;
}

static struct demand demand_of(const struct msg *msg)
{
    struct demand demand = {0};
#define DEMAND(name)                                                                               \
    case TAG_##name:                                                                               \
        demand = (struct demand){msg->u.name.req_id, msg->u.name.partition, msg->u.name.need,      \
                                 msg->u.name.mode};                                                \
        break
    switch ((int)msg->tag) {
        DEMAND(get_req);
        DEMAND(scan_partition_req);
        DEMAND(scan_stream_req);
        DEMAND(version_req);
        DEMAND(sequence_req);
    case TAG_follow_req:
        demand.req_id = msg->u.follow_req.req_id;
        demand.partition = msg->u.follow_req.partition;
        break;
    default:
        break;
    }
#undef DEMAND
    return demand;
}

static enum verdict judge(struct bucket *bucket, const struct demand *demand, uint64_t tick,
                          uint64_t now)
{
    const struct partition *p = bucket_partition(bucket, demand->partition);
    if (p == NULL)
        return VERDICT_ANSWER; /* with an error */
    bool has = p->watermark >= demand->need;
    if (demand->mode == READ_STRONG) {
        if (!replica_leads(&bucket->replica))
            return VERDICT_NOT_LEADER;
        bool proven = tick != 0 && liveness_echoed(bucket, tick);
        return proven && has && is_level(bucket, now) ? VERDICT_ANSWER : VERDICT_WAIT;
    }
    if (is_level(bucket, now))
        return has ? VERDICT_ANSWER : VERDICT_WAIT;
    if (is_stale(bucket, now))
        return has ? VERDICT_ANSWER : VERDICT_NOT_READY;
    return VERDICT_WAIT;
}

static void hold(struct bucket *bucket, uint32_t link, const struct msg *msg, uint64_t deadline_ns,
                 uint64_t tick)
{
    struct replica *replica = &bucket->replica;
    struct held_read head = {.link = link, .deadline_ns = deadline_ns, .tick = tick};
    size_t at = replica->held.len;
    buf_append(&replica->held, &head, sizeof head);
    msg_pack(&replica->held, msg);
    head.len = (uint32_t)(replica->held.len - at - sizeof head);
    memcpy(replica->held.ptr + at, &head, sizeof head);
    replica->held_count++;
}

uint64_t reads_turn(struct bucket *bucket, uint64_t now)
{
    struct replica *replica = &bucket->replica;
    if (replica_leads(replica)
            ? liveness_quorum_echoes(bucket, now)
            : replica->leader_heard_ns != 0 &&
                  now - replica->leader_heard_ns < bucket->config.election_timeout_ns)
        replica->quorum_ns = now;
    if (replica->held_count == 0)
        return UINT64_MAX;
    /* What still has to wait is held again, in the same order. */
    struct buf held = replica->held;
    replica->held = (struct buf){0};
    replica->held_count = 0;
    uint64_t next = UINT64_MAX;
    for (size_t at = 0; at < held.len;) {
        struct held_read head;
        memcpy(&head, held.ptr + at, sizeof head);
        struct span frame = span_of(held.ptr + at + sizeof head, head.len);
        at += sizeof head + head.len;
        struct msg msg;
        enum err err = msg_unpack(&frame, &msg);
        ASSERT(err == ERR_OK);
        struct demand demand = demand_of(&msg);
        enum verdict verdict = judge(bucket, &demand, head.tick, now);
        if (verdict == VERDICT_WAIT && now >= head.deadline_ns)
            verdict = VERDICT_NOT_READY;
        if (verdict == VERDICT_ANSWER) {
            bucket_answer_read(bucket, head.link, &msg);
        } else if (verdict == VERDICT_WAIT) {
            hold(bucket, head.link, &msg, head.deadline_ns, head.tick);
            next = min_u64(next, head.deadline_ns);
        } else {
            fail(bucket, head.link, demand.req_id, verdict);
        }
    }
    buf_release(&held);
    return next;
}

/* Leadership is over: what only a leader may answer is asked elsewhere. */
void reads_fail_strong(struct bucket *bucket)
{
    (void)reads_turn(bucket, bucket->env->ops->now_ns(bucket->env));
}

void reads_link_lost(struct bucket *bucket, uint32_t link)
{
    forget(bucket, link, UINT64_MAX);
}

void reads_unfollow(struct bucket *bucket, uint32_t link, uint64_t partition)
{
    forget(bucket, link, partition);
}

/* All that this link waits for, or only its wishes to follow one partition. */
static void forget(struct bucket *bucket, uint32_t link, uint64_t partition)
{
    struct buf *held = &bucket->replica.held;
    size_t kept = 0;
    for (size_t at = 0; at < held->len;) {
        struct held_read head;
        memcpy(&head, held->ptr + at, sizeof head);
        size_t len = sizeof head + head.len;
        struct span frame = span_of(held->ptr + at + sizeof head, head.len);
        struct msg msg;
        enum err err = msg_unpack(&frame, &msg);
        ASSERT(err == ERR_OK);
        bool drop = head.link == link &&
                    (partition == UINT64_MAX ||
                     (msg.tag == TAG_follow_req && msg.u.follow_req.partition == partition));
        if (drop) {
            bucket->replica.held_count--;
        } else {
            memmove(held->ptr + kept, held->ptr + at, len);
            kept += len;
        }
        at += len;
    }
    held->len = kept;
}

static void fail(struct bucket *bucket, uint32_t link, uint64_t req_id, enum verdict verdict)
{
    if (verdict == VERDICT_NOT_LEADER) {
        replica_fail_not_leader(bucket, link, req_id);
        return;
    }
    struct buf *out = bucket->env->ops->outbox(bucket->env, link);
    const struct replica *replica = &bucket->replica;
    static const char text[] = "this replica isn't up to date";
    if (out != NULL)
        msg_pack_fail_reply(out, &(struct msg_fail_reply){
                                     .req_id = req_id,
                                     .error = ERR_NOT_READY,
                                     .text = span_of(text, sizeof text - 1),
                                     .leader = replica_leads(replica) ? 0 : replica->leader,
                                     .term = wal_term(bucket->wal),
                                 });
}

void reads_release(struct bucket *bucket)
{
    buf_release(&bucket->replica.held);
}
