/* Roles and terms of one replica; messages in, timers. What is decided where: replica.h. */
#include "bucketd/core/bucket_internal.h"

#include <inttypes.h>
#include <stdlib.h>

#include "common/assert.h"

/* What is kept in memory of the log's newest entries, beside all that isn't committed and durable.
 */
#define RECENT_BYTES (16u << 20)

#define TICK_NS_DEFAULT        (100 * NS_PER_MS)
#define ELECTION_NS_DEFAULT    (1000 * NS_PER_MS)
#define STALE_AFTER_NS_DEFAULT (10000 * NS_PER_MS)
#define UNCOMMITTED_DEFAULT    (64ull << 20)

static void begin_term(struct bucket *bucket);
static void step_down_waiters(struct bucket *bucket);

bool replica_is_alone(const struct bucket *bucket)
{
    return bucket->config.replica_count <= 1;
}

void replica_init(struct bucket *bucket)
{
    struct bucket_config *config = &bucket->config;
    struct replica *replica = &bucket->replica;
    if (config->replica_count == 0) {
        config->replicas[0] = config->node;
        config->replica_count = 1;
    }
    ASSERT(config->replica_count <= REPLICAS_MAX);
    if (config->tick_ns == 0)
        config->tick_ns = TICK_NS_DEFAULT;
    if (config->election_timeout_ns == 0)
        config->election_timeout_ns = ELECTION_NS_DEFAULT;
    if (config->stale_after_ns == 0)
        config->stale_after_ns = STALE_AFTER_NS_DEFAULT;
    if (config->uncommitted_bytes_max == 0)
        config->uncommitted_bytes_max = UNCOMMITTED_DEFAULT;
    if (replica_is_alone(bucket)) {
        replica->role = ROLE_LEADER;
        return;
    }
    bool self = false;
    for (uint32_t i = 0; i < config->replica_count; i++) {
        if (config->replicas[i] == config->node)
            self = true;
        else
            replica->peers[replica->peer_count++].node = config->replicas[i];
    }
    ASSERT(self && config->boot != 0);
    replica->recent = recent_new(RECENT_BYTES);
}

void replica_release(struct bucket *bucket)
{
    struct replica *replica = &bucket->replica;
    catchup_release(bucket);
    reads_release(bucket);
    buf_release(&replica->raw);
    free(replica->origins);
    recent_free(replica->recent);
}

void replica_open(struct bucket *bucket)
{
    struct replica *replica = &bucket->replica;
    uint64_t now = bucket->env->ops->now_ns(bucket->env);
    replica->started_ns = now;
    replica->next_tick_ns = now;
    replica->quorum_ns = now;
    election_reset_timer(bucket, false);
}

void replica_on_recovered(struct bucket *bucket, const struct wal_entry *entry)
{
    struct recent *recent = bucket->replica.recent;
    uint64_t idx = entry->head->idx;
    if (recent == NULL)
        return;
    if (recent_last(recent) != 0 && recent_last(recent) + 1 != idx)
        recent_reset(recent);
    recent_push(recent, idx, entry->head->term, entry->head->chain, entry->bytes);
    recent_trim(recent, idx);
}

void replica_on_recovered_cut(struct bucket *bucket, uint64_t from_idx)
{
    if (bucket->replica.recent != NULL)
        recent_cut(bucket->replica.recent, from_idx);
}

/* --- messages --- */

void replica_on_message(struct bucket *bucket, uint32_t node, const struct msg *msg)
{
    if (replica_peer(bucket, node) == NULL) {
        log_warn(bucket->env->log, "peer.unknown", "node=%u name=%s", node, msg_name(msg->tag));
        return;
    }
    switch ((int)msg->tag) {
    case TAG_tick:
        liveness_on_tick(bucket, node, &msg->u.tick);
        repair_on_message(bucket, node, msg);
        break;
    case TAG_fetch:
    case TAG_chunk:
        repair_on_message(bucket, node, msg);
        break;
    case TAG_vote_req:
        election_on_vote_req(bucket, node, &msg->u.vote_req);
        break;
    case TAG_vote_reply:
        election_on_vote_reply(bucket, node, &msg->u.vote_reply);
        break;
    case TAG_entries:
        follow_on_entries(bucket, node, &msg->u.entries);
        break;
    case TAG_entries_ack:
        replicate_on_ack(bucket, node, &msg->u.entries_ack);
        break;
    case TAG_transfer:
        election_on_transfer(bucket, node, &msg->u.transfer);
        break;
    default:
        log_warn(bucket->env->log, "message.unexpected", "name=%s node=%u", msg_name(msg->tag),
                 node);
    }
}

void replica_on_peer_down(struct bucket *bucket, const struct msg_peer_down *m)
{
    struct replica *replica = &bucket->replica;
    struct peer *peer = replica_peer(bucket, (uint32_t)m->node);
    if (peer == NULL || peer->boot > m->boot)
        return; /* it has begun again since */
    peer->heard_ns = 0;
    if (replica->leader == peer->node + 1 && replica->role == ROLE_FOLLOWER) {
        replica->leader_heard_ns = 0;
        election_reset_timer(bucket, true);
    }
}

uint64_t replica_turn(struct bucket *bucket, uint64_t now)
{
    struct replica *replica = &bucket->replica;
    uint64_t next = UINT64_MAX;
    if (replica_leads(replica)) {
        if (!liveness_quorum_echoes(bucket, now)) {
            log_warn(bucket->env->log, "leader.quorum_lost", "term=%" PRIu64,
                     wal_term(bucket->wal));
            replica_become_follower(bucket, 0);
            liveness_ask(bucket); /* the others needn't wait for their timeouts */
        } else {
            begin_term(bucket);
            members_turn(bucket);
            next = min_u64(next, election_transfer_turn(bucket, now));
        }
    }
    next = min_u64(next, election_turn(bucket, now));
    replica_remember(bucket);
    if (replica_leads(replica)) {
        replicate_advance_commit(bucket);
        next = min_u64(next, replicate_turn(bucket, now));
    } else {
        follow_turn(bucket);
    }
    commit_send_refusals(bucket);
    next = min_u64(next, reads_turn(bucket, now));
    next = min_u64(next, repairer_turn(bucket->repairer, now));
    /* Last: what it tells is of this turn's end. */
    return min_u64(next, liveness_turn(bucket, now));
}

void replica_on_durable(struct bucket *bucket)
{
    election_on_durable(bucket);
    if (replica_leads(&bucket->replica)) {
        replica_remember(bucket);
        replicate_advance_commit(bucket);
    } else {
        follow_on_durable(bucket);
    }
}

/* --- terms and roles --- */

bool replica_adopt_term(struct bucket *bucket, uint64_t term)
{
    struct replica *replica = &bucket->replica;
    ASSERT(term > wal_term(bucket->wal));
    if (wal_fits(bucket->wal, WAL_TERM_BOUND, ROOM_MUST) != ERR_OK)
        return false;
    /* First the old role's end, which looks at the log of the old term. */
    replica_become_follower(bucket, 0);
    wal_append_vote(bucket->wal, term, 0);
    replica->vote_batch = wal_open_batch(bucket->wal);
    replica->verified_idx = 0;
    replica->statement_ns = 0;
    return true;
}

bool replica_term_durable(const struct bucket *bucket)
{
    return wal_durable_batch(bucket->wal) >= bucket->replica.vote_batch;
}

/* In the current term. */
void replica_become_follower(struct bucket *bucket, uint32_t leader)
{
    struct replica *replica = &bucket->replica;
    if (replica_leads(replica)) {
        log_info(bucket->env->log, "leader.ends", "term=%" PRIu64, wal_term(bucket->wal));
        replicate_end(bucket);
        replica->role = ROLE_FOLLOWER;
        step_down_waiters(bucket);
        replica->transfer_to = 0;
        replica->begun_idx = 0;
        replica->leader_heard_ns = 0;
        /* Its own log is that of this term's leader, which it was. */
        replica->verified_idx = 0;
    }
    replica->role = ROLE_FOLLOWER;
    replica->phase = ELECTION_NONE;
    replica->leader = leader;
    replica->grant.waits = false;
    replica->refusal.waits = false;
    replica->ack_due = false;
    election_reset_timer(bucket, false);
}

/* Nobody can say what becomes of their entries: the clients ask again with the same ids. */
static void step_down_waiters(struct bucket *bucket)
{
    commit_fail_replies(bucket);
    append_fail_waiting(bucket);
    reads_fail_strong(bucket);
    sequence_forget(bucket);
}

void replica_become_leader(struct bucket *bucket)
{
    struct replica *replica = &bucket->replica;
    replica->role = ROLE_LEADER;
    replica->phase = ELECTION_NONE;
    replica->leader = bucket->config.node + 1;
    replica->begun_idx = 0;
    replica->transfer_to = 0;
    replica->verified_idx = 0;
    replica->statement_ns = 0;
    replica->ack_due = false;
    replica->refusal.waits = false;
    uint64_t now = bucket->env->ops->now_ns(bucket->env);
    replica->lead_since_ns = now;
    replica->lead_tick = replica->tick_number;
    replica->transfer_next_ns = now + 30 * bucket->config.election_timeout_ns;
    for (uint32_t i = 0; i < replica->peer_count; i++)
        replica->peers[i].echoed_ns = replica->asked_ns; /* a grant is an echo too */
    replica->uncommitted_bytes = 0;
    for (uint64_t idx = wal_commit_idx(bucket->wal) + 1; idx <= wal_last_idx(bucket->wal); idx++)
        replica->uncommitted_bytes += wal_tail_entry(bucket->wal, idx)->len;
    log_info(bucket->env->log, "leader.begins", "term=%" PRIu64 " last_idx=%" PRIu64,
             wal_term(bucket->wal), wal_last_idx(bucket->wal));
    replicate_begin(bucket);
    begin_term(bucket);
    liveness_ask(bucket);
}

/* The entry of the own term that commits the older tail with it, as soon as the log takes it. */
static void begin_term(struct bucket *bucket)
{
    struct replica *replica = &bucket->replica;
    if (replica->begun_idx != 0)
        return;
    if (PLANTED(&bucket->config, PLANT_NO_NOOP) && wal_last_idx(bucket->wal) > 1) {
        replica->begun_idx = wal_last_idx(bucket->wal);
        return;
    }
    if (wal_fits(bucket->wal, WAL_CONFIG_BOUND, ROOM_MUST) != ERR_OK)
        return;
    struct wal_voters voters;
    bool config = members_first_config(bucket, &voters);
    replica->begun_idx =
        config ? wal_append_config(bucket->wal, &voters) : wal_append_noop(bucket->wal);
    append_retry_waiting(bucket);
}

/* --- the newest entries --- */

void replica_remember(struct bucket *bucket)
{
    struct replica *replica = &bucket->replica;
    struct wal *wal = bucket->wal;
    /* Damage hides entries, and nothing is appended beside it. */
    if (bucket->damaged)
        return;
    uint64_t last = wal_last_idx(wal), known = recent_last(replica->recent);
    /* Nothing is remembered of before what this start has recovered. */
    if (known < wal_commit_idx(wal) && known < last) {
        recent_reset(replica->recent);
        known = wal_commit_idx(wal);
    }
    for (uint64_t idx = known + 1; idx <= last; idx++) {
        const struct tail_entry *entry = wal_tail_entry(wal, idx);
        ASSERT(entry != NULL);
        struct span bytes = wal_tail_bytes(wal, entry->at.segment, entry->at.offset, entry->len);
        if (bytes.ptr == NULL) { /* recovered, and too much to be remembered then */
            recent_reset(replica->recent);
            continue;
        }
        if (recent_last(replica->recent) != 0 && recent_last(replica->recent) + 1 != idx)
            recent_reset(replica->recent);
        recent_push(replica->recent, idx, entry->term, entry->chain, bytes);
    }
    recent_trim(replica->recent, min_u64(wal_commit_idx(wal), wal_durable_idx(wal)) + 1);
}

/* --- others --- */

struct peer *replica_peer(struct bucket *bucket, uint32_t node)
{
    struct replica *replica = &bucket->replica;
    for (uint32_t i = 0; i < replica->peer_count; i++) {
        if (replica->peers[i].node == node)
            return &replica->peers[i];
    }
    return NULL;
}

struct buf *replica_outbox(struct bucket *bucket, uint32_t node)
{
    return bucket->env->ops->peer(bucket->env, node);
}

void replica_fail_not_leader(struct bucket *bucket, uint32_t link, uint64_t req_id)
{
    const struct replica *replica = &bucket->replica;
    struct buf *out = bucket->env->ops->outbox(bucket->env, link);
    if (out == NULL)
        return;
    uint64_t now = bucket->env->ops->now_ns(bucket->env);
    bool hint = replica->leader != 0 && !replica_leads(replica);
    /* Who has just started has heard of nobody yet: that tells nothing of a quorum. */
    bool young = now - replica->started_ns < bucket->config.election_timeout_ns;
    bool quorum = hint || young || liveness_quorum_heard(bucket, now);
    char text[96];
    int len = quorum
                  ? snprintf(text, sizeof text, "bucket %u is led by another replica",
                             bucket->config.bucket)
                  : snprintf(text, sizeof text, "no quorum for bucket %u", bucket->config.bucket);
    msg_pack_fail_reply(out, &(struct msg_fail_reply){
                                 .req_id = req_id,
                                 .error = quorum ? ERR_NOT_LEADER : ERR_NO_QUORUM,
                                 .text = span_of(text, (size_t)len),
                                 .leader = hint ? replica->leader : 0,
                                 .term = wal_term(bucket->wal),
                             });
}

void bucket_get_replica_state(const struct bucket *bucket, struct replica_state *ret_state)
{
    const struct replica *replica = &bucket->replica;
    const struct wal *wal = bucket->wal;
    bool leads = replica_leads(replica);
    *ret_state = (struct replica_state){
        .role = replica->role,
        .term = wal_term(wal),
        .voted_for = wal_voted_for(wal),
        .leader = replica_is_alone(bucket) ? bucket->config.node + 1 : replica->leader,
        .last_idx = wal_last_idx(wal),
        .last_term = wal_last_term(wal),
        .last_chain = wal_last_chain(wal),
        .durable_idx = wal_durable_idx(wal),
        .commit_idx = wal_commit_idx(wal),
        .verified_idx = replica->verified_idx,
        .settled = leads && replica->begun_idx != 0 && wal_commit_idx(wal) >= replica->begun_idx,
        .ready = replica_is_alone(bucket) || leads || replica->level_ns != 0,
        .stale = reads_are_stale(bucket),
        .damaged = bucket->damaged,
        .voter = members_self_is_voter(bucket),
        .disk_id = wal_disk_id(wal),
    };
}

bool bucket_chain_at(const struct bucket *bucket, uint64_t idx, uint64_t *ret_term,
                     uint64_t *ret_chain)
{
    if (wal_point(bucket->wal, idx, ret_term, ret_chain))
        return true;
    struct recent_entry entry;
    if (bucket->replica.recent == NULL || !recent_get(bucket->replica.recent, idx, &entry))
        return false;
    *ret_term = entry.term;
    *ret_chain = entry.chain;
    return true;
}
