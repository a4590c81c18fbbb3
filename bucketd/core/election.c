/* Elections: pre-vote (nothing persisted), votes (durable before they are sent), transfer of
 * leadership. REPLICATION.md 5.3 and 5.4; the rules of the vote are those of Raft (Ongaro,
 * "Consensus: Bridging Theory and Practice", 3.4, 3.6, 9.6). */
#include "bucketd/core/bucket_internal.h"

#include <inttypes.h>

#include "common/assert.h"

/* A node hands leadership to another one that has been up for so many timeouts, and not more often
 * than that. */
#define TRANSFER_UP_TIMEOUTS 30u
/* The successor may lack so many entries when intake stops. */
#define TRANSFER_WINDOW 1024u

static void start_prevote(struct bucket *bucket);
static void stand(struct bucket *bucket);
static void ask_for_votes(struct bucket *bucket, bool pre);
static void count_grants(struct bucket *bucket);
static bool log_is_new_enough(const struct bucket *bucket, const struct msg_vote_req *req);
static bool leader_is_alive(const struct bucket *bucket, uint64_t now);
static void on_prevote(struct bucket *bucket, uint32_t node, const struct msg_vote_req *req);
static void reply_vote(struct bucket *bucket, uint32_t node, uint64_t term, uint64_t round,
                       bool pre, bool granted);
static struct peer *best_successor(struct bucket *bucket, uint64_t now);

/* --- when --- */

static uint32_t rank_of_self(const struct bucket *bucket, uint64_t now)
{
    uint32_t rank = 0;
    for (uint32_t i = 0; i < bucket->replica.peer_count; i++) {
        const struct peer *peer = &bucket->replica.peers[i];
        bool older = peer->age < bucket->config.age ||
                     (peer->age == bucket->config.age && peer->node < bucket->config.node);
        rank += older && liveness_is_alive(bucket, peer, now) &&
                members_is_voter(bucket, peer->node, peer->disk_id);
    }
    return rank;
}

void election_reset_timer(struct bucket *bucket, bool at_once)
{
    uint64_t now = bucket->env->ops->now_ns(bucket->env);
    uint64_t timeout = bucket->config.election_timeout_ns, jitter = 0;
    bucket->env->ops->random(bucket->env, &jitter, sizeof jitter);
    uint64_t wait = (at_once ? 0 : timeout) + rank_of_self(bucket, now) * (timeout / 5) +
                    jitter % (timeout / 10 + 1);
    bucket->replica.election_ns = now + wait;
}

uint64_t election_turn(struct bucket *bucket, uint64_t now)
{
    struct replica *replica = &bucket->replica;
    if (replica_leads(replica))
        return UINT64_MAX;
    if (now >= replica->election_ns) {
        election_reset_timer(bucket, false);
        /* Damage doesn't lead: the log may lack what was committed. */
        if (!bucket->damaged && !bucket->stopping && members_self_is_voter(bucket) &&
            members_may_vote(bucket, 0))
            start_prevote(bucket);
    }
    return replica->election_ns;
}

/* --- standing --- */

static void start_prevote(struct bucket *bucket)
{
    struct replica *replica = &bucket->replica;
    replica->role = ROLE_CANDIDATE;
    replica->phase = ELECTION_PREVOTE;
    replica->leader = 0;
    replica->by_transfer = false;
    replica->round++;
    for (uint32_t i = 0; i < replica->peer_count; i++)
        replica->peers[i].granted = false;
    ask_for_votes(bucket, true);
    count_grants(bucket);
}

/* In a new term, with the own vote; the others are asked when it is durable. */
static void stand(struct bucket *bucket)
{
    struct replica *replica = &bucket->replica;
    struct wal *wal = bucket->wal;
    if (wal_fits(wal, WAL_TERM_BOUND, ROOM_MUST) != ERR_OK) {
        replica->phase = ELECTION_NONE; /* the timer tries again */
        return;
    }
    wal_append_vote(wal, wal_term(wal) + 1, (uint64_t)bucket->config.node + 1);
    replica->role = ROLE_CANDIDATE;
    replica->phase = ELECTION_VOTE;
    replica->leader = 0;
    replica->leader_heard_ns = 0;
    replica->verified_idx = 0;
    replica->statement_ns = 0;
    replica->grant.waits = false;
    replica->refusal.waits = false;
    replica->ack_due = false;
    replica->vote_batch = wal_open_batch(wal);
    replica->asked = false;
    replica->round++;
    for (uint32_t i = 0; i < replica->peer_count; i++)
        replica->peers[i].granted = false;
    log_info(bucket->env->log, "election.stand", "term=%" PRIu64 " last_idx=%" PRIu64,
             wal_term(wal), wal_last_idx(wal));
    if (PLANTED(&bucket->config, PLANT_GRANT_BEFORE_SYNC))
        election_on_durable(bucket);
}

void election_on_durable(struct bucket *bucket)
{
    struct replica *replica = &bucket->replica;
    uint64_t durable = wal_durable_batch(bucket->wal);
    bool early = PLANTED(&bucket->config, PLANT_GRANT_BEFORE_SYNC);
    if (replica->phase == ELECTION_VOTE && !replica->asked &&
        (durable >= replica->vote_batch || early)) {
        replica->asked = true;
        replica->asked_ns = bucket->env->ops->now_ns(bucket->env);
        ask_for_votes(bucket, false);
        count_grants(bucket);
    }
    struct pending_grant *grant = &replica->grant;
    if (grant->waits && (durable >= grant->batch || early)) {
        grant->waits = false;
        if (grant->term == wal_term(bucket->wal))
            reply_vote(bucket, grant->node, grant->term, grant->round, false, grant->granted);
    }
}

static void ask_for_votes(struct bucket *bucket, bool pre)
{
    struct replica *replica = &bucket->replica;
    struct wal *wal = bucket->wal;
    for (uint32_t i = 0; i < replica->peer_count; i++) {
        uint32_t node = replica->peers[i].node;
        struct buf *out = replica_outbox(bucket, node);
        if (out != NULL)
            msg_pack_vote_req(out, &(struct msg_vote_req){
                                       .term = wal_term(wal) + pre,
                                       .pre = pre,
                                       .transfer = replica->by_transfer,
                                       .last_idx = wal_last_idx(wal),
                                       .last_term = wal_last_term(wal),
                                       .disk_id = wal_disk_id(wal),
                                       .your_disk_id = members_disk_id(bucket, node),
                                       .round = replica->round,
                                   });
    }
}

static void count_grants(struct bucket *bucket)
{
    struct replica *replica = &bucket->replica;
    uint32_t count = members_self_is_voter(bucket);
    for (uint32_t i = 0; i < replica->peer_count; i++)
        count += replica->peers[i].granted;
    if (count < members_quorum(bucket))
        return;
    if (replica->phase == ELECTION_PREVOTE)
        stand(bucket);
    else if (replica->phase == ELECTION_VOTE && replica->asked)
        replica_become_leader(bucket);
}

void election_on_vote_reply(struct bucket *bucket, uint32_t node,
                            const struct msg_vote_reply *reply)
{
    struct replica *replica = &bucket->replica;
    uint64_t term = wal_term(bucket->wal);
    if (reply->own_term > term) {
        (void)!replica_adopt_term(bucket, reply->own_term);
        return;
    }
    enum election_phase phase = reply->pre ? ELECTION_PREVOTE : ELECTION_VOTE;
    if (replica->phase != phase || reply->round != replica->round ||
        reply->term != term + reply->pre || !reply->granted ||
        !members_is_voter(bucket, node, reply->disk_id))
        return;
    replica_peer(bucket, node)->granted = true;
    count_grants(bucket);
}

/* --- voting --- */

void election_on_vote_req(struct bucket *bucket, uint32_t node, const struct msg_vote_req *req)
{
    struct replica *replica = &bucket->replica;
    struct wal *wal = bucket->wal;
    uint64_t now = bucket->env->ops->now_ns(bucket->env);
    if (!members_may_vote(bucket, req->your_disk_id))
        return;
    if (req->pre) {
        on_prevote(bucket, node, req);
        return;
    }
    if (req->term < wal_term(wal)) {
        if (replica_term_durable(bucket))
            reply_vote(bucket, node, req->term, req->round, false, false);
        return;
    }
    /* Who has a leader doesn't help to depose it, and takes no term from who tries. */
    if (!req->transfer && leader_is_alive(bucket, now))
        return;
    if (req->term > wal_term(wal) && !replica_adopt_term(bucket, req->term))
        return;
    uint64_t wish = (uint64_t)node + 1;
    bool granted = !replica_leads(replica) && replica->phase != ELECTION_VOTE &&
                   (wal_voted_for(wal) == 0 || wal_voted_for(wal) == wish) &&
                   log_is_new_enough(bucket, req);
    if (granted && wal_voted_for(wal) == 0) {
        if (wal_fits(wal, WAL_TERM_BOUND, ROOM_MUST) != ERR_OK)
            return;
        wal_append_vote(wal, req->term, wish);
        replica->vote_batch = wal_open_batch(wal);
    }
    if (granted) {
        replica->phase = ELECTION_NONE;
        election_reset_timer(bucket, false);
    }
    replica->grant = (struct pending_grant){.waits = true,
                                            .granted = granted,
                                            .node = node,
                                            .term = req->term,
                                            .round = req->round,
                                            .batch = replica->vote_batch};
    election_on_durable(bucket);
}

static void on_prevote(struct bucket *bucket, uint32_t node, const struct msg_vote_req *req)
{
    uint64_t now = bucket->env->ops->now_ns(bucket->env);
    if (!replica_term_durable(bucket))
        return;
    bool granted = req->term > wal_term(bucket->wal) && log_is_new_enough(bucket, req) &&
                   (req->transfer || !leader_is_alive(bucket, now));
    reply_vote(bucket, node, req->term, req->round, true, granted);
}

/* Raft 3.6.1. */
static bool log_is_new_enough(const struct bucket *bucket, const struct msg_vote_req *req)
{
    uint64_t last_term = wal_last_term(bucket->wal);
    return req->last_term > last_term ||
           (req->last_term == last_term && req->last_idx >= wal_last_idx(bucket->wal));
}

/* A process that has just begun may have forgotten that it heard one. */
static bool leader_is_alive(const struct bucket *bucket, uint64_t now)
{
    const struct replica *replica = &bucket->replica;
    uint64_t timeout = bucket->config.election_timeout_ns;
    if (replica_leads(replica))
        return liveness_quorum_echoes(bucket, now);
    if (now - replica->started_ns < timeout)
        return true;
    return replica->leader_heard_ns != 0 && now - replica->leader_heard_ns < timeout;
}

static void reply_vote(struct bucket *bucket, uint32_t node, uint64_t term, uint64_t round,
                       bool pre, bool granted)
{
    struct buf *out = replica_outbox(bucket, node);
    if (out != NULL)
        msg_pack_vote_reply(out, &(struct msg_vote_reply){
                                     .term = term,
                                     .pre = pre,
                                     .granted = granted,
                                     .own_term = wal_term(bucket->wal),
                                     .disk_id = wal_disk_id(bucket->wal),
                                     .round = round,
                                 });
}

/* --- transfer --- */

void election_start_transfer(struct bucket *bucket, uint32_t node)
{
    struct replica *replica = &bucket->replica;
    uint64_t now = bucket->env->ops->now_ns(bucket->env);
    if (!replica_leads(replica) || replica->transfer_to != 0)
        return;
    struct peer *peer =
        node == UINT32_MAX ? best_successor(bucket, now) : replica_peer(bucket, node);
    if (peer == NULL || !liveness_is_alive(bucket, peer, now) ||
        !members_is_voter(bucket, peer->node, peer->disk_id))
        return;
    log_info(bucket->env->log, "leader.transfer", "to=%u term=%" PRIu64, peer->node,
             wal_term(bucket->wal));
    replica->transfer_to = peer->node + 1;
    replica->transfer_sent = false;
    replica->transfer_deadline_ns = now + bucket->config.election_timeout_ns;
}

/* The oldest of those whose logs are level. */
static struct peer *best_successor(struct bucket *bucket, uint64_t now)
{
    struct replica *replica = &bucket->replica;
    struct peer *best = NULL;
    for (uint32_t i = 0; i < replica->peer_count; i++) {
        struct peer *peer = &replica->peers[i];
        if (!liveness_is_alive(bucket, peer, now) || peer->progress != PROGRESS_STREAM ||
            !members_is_voter(bucket, peer->node, peer->disk_id))
            continue;
        if (best == NULL || peer->age < best->age)
            best = peer;
    }
    return best;
}

/* Where leadership should lie: the first-choice replica, or without balance the oldest node. */
static struct peer *wished_leader(struct bucket *bucket)
{
    struct replica *replica = &bucket->replica;
    if (bucket->config.balance_leaders)
        return replica_peer(bucket, bucket->config.replicas[0]);
    struct peer *oldest = NULL;
    uint64_t age = bucket->config.age;
    for (uint32_t i = 0; i < replica->peer_count; i++) {
        if (replica->peers[i].boot != 0 && replica->peers[i].age < age) {
            oldest = &replica->peers[i];
            age = oldest->age;
        }
    }
    return oldest;
}

uint64_t election_transfer_turn(struct bucket *bucket, uint64_t now)
{
    struct replica *replica = &bucket->replica;
    uint64_t timeout = bucket->config.election_timeout_ns;
    if (replica->transfer_to == 0 && now >= replica->transfer_next_ns) {
        replica->transfer_next_ns = now + TRANSFER_UP_TIMEOUTS * timeout;
        const struct peer *wish = wished_leader(bucket);
        bool ready = wish != NULL && now - wish->up_since_ns >= TRANSFER_UP_TIMEOUTS * timeout &&
                     wish->progress == PROGRESS_STREAM &&
                     wal_last_idx(bucket->wal) - wish->match <= TRANSFER_WINDOW;
        if (ready && replica->begun_idx != 0 && wal_commit_idx(bucket->wal) >= replica->begun_idx)
            election_start_transfer(bucket, wish->node);
    }
    if (replica->transfer_to == 0)
        return replica->transfer_next_ns;
    struct peer *peer = replica_peer(bucket, replica->transfer_to - 1);
    if (now >= replica->transfer_deadline_ns) {
        replica->transfer_to = 0;
        append_retry_waiting(bucket);
        return replica->transfer_next_ns;
    }
    if (!replica->transfer_sent && peer->match == wal_last_idx(bucket->wal)) {
        struct buf *out = replica_outbox(bucket, peer->node);
        if (out != NULL)
            msg_pack_transfer(out, &(struct msg_transfer){.term = wal_term(bucket->wal),
                                                          .last_idx = peer->match});
        replica->transfer_sent = true;
    }
    return replica->transfer_deadline_ns;
}

void election_on_transfer(struct bucket *bucket, uint32_t node, const struct msg_transfer *m)
{
    struct replica *replica = &bucket->replica;
    if (m->term != wal_term(bucket->wal) || replica->leader != node + 1 || bucket->damaged ||
        wal_last_idx(bucket->wal) < m->last_idx || !members_self_is_voter(bucket) ||
        bucket->stopping)
        return;
    replica->by_transfer = true;
    stand(bucket);
}
