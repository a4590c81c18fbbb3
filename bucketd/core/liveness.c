/* Ticks: every replica tells every other that it lives, how old it is, how far its log goes, and
 * whether it leads. A tick repeats the number of the last one heard, so a leader knows how many
 * hear it: without echoes from a quorum it steps down, and what needs proof that it still leads
 * waits for the echoes of a tick sent later.
 *
 * Ticks are nearly all that an idle bucket costs, and what they cost is processes that wake. Hence:
 * where nothing happens they come further apart; leaders tick at whole multiples of the interval by
 * their clock, so that those of one machine do so together, and netd finds many in one turn; a
 * follower ticks when it hears its leader, being awake then; and followers tell each other only
 * every other time. None of this makes a leader's end known any later: who waits for it waits from
 * its last tick on. */
#include "bucketd/core/bucket_internal.h"

/* Where nothing happens the interval is so many times as long, and a third of the election's
 * timeout at most: so a tick or two may be late and nobody stands for election. */
#define QUIET_INTERVALS   3u
#define TICKS_PER_TIMEOUT 3u

/* Election timeouts after which nothing of a silent process is on its way any more. */
#define SILENT_TIMEOUTS 4

static bool is_overtaken(const struct bucket *bucket, const struct peer *peer,
                         const struct msg_tick *tick);
static void note_sender(struct bucket *bucket, struct peer *peer, const struct msg_tick *tick);
static bool find_echoed(const struct bucket *bucket, const struct msg_tick *tick,
                        uint64_t *ret_sent_ns);
static void hear_leader(struct bucket *bucket, struct peer *peer, const struct msg_tick *tick);
static void note_moves(struct bucket *bucket, uint64_t now);
static uint64_t tick_interval(const struct bucket *bucket, uint64_t now);
static void plan_next(struct bucket *bucket, uint64_t now);
static bool spares(const struct bucket *bucket, const struct peer *peer, uint64_t now);
static void send_tick(struct bucket *bucket, struct peer *peer, bool ask, bool routine);

void liveness_on_tick(struct bucket *bucket, uint32_t node, const struct msg_tick *tick)
{
    struct peer *peer = replica_peer(bucket, node);
    if (is_overtaken(bucket, peer, tick))
        return;
    note_sender(bucket, peer, tick);
    if (tick->term > wal_term(bucket->wal) && !replica_adopt_term(bucket, tick->term))
        return;
    if (tick->term == wal_term(bucket->wal))
        hear_leader(bucket, peer, tick);
}

/* By one that was sent later. Processes have growing numbers, but for that of a node that lost its
 * disk and whose clock has been set back: the number of its process counts once nothing was heard
 * of the one before for long. */
static bool is_overtaken(const struct bucket *bucket, const struct peer *peer,
                         const struct msg_tick *tick)
{
    if (tick->boot == peer->boot)
        return tick->number <= peer->tick_number;
    uint64_t silent_ns = bucket->env->ops->now_ns(bucket->env) - peer->tick_ns;
    return tick->boot < peer->boot &&
           silent_ns < SILENT_TIMEOUTS * bucket->config.election_timeout_ns;
}

static void note_sender(struct bucket *bucket, struct peer *peer, const struct msg_tick *tick)
{
    struct replica *replica = &bucket->replica;
    uint64_t now = bucket->env->ops->now_ns(bucket->env);
    if (tick->boot != peer->boot) {
        peer->up_since_ns = now;
        replica->moved_ns = now; /* it has to learn where all are */
        peer->echoed = 0;
        peer->confirmed = false;
        if (replica_leads(replica))
            replicate_forget_peer(bucket, peer);
    }
    peer->boot = tick->boot;
    peer->tick_number = tick->number;
    peer->age = tick->age;
    peer->heard_ns = peer->tick_ns = now;
    peer->disk_id = tick->disk_id;
    peer->last_idx = tick->last_idx;
    peer->term = tick->term;
    peer->owes_tick |= tick->ask;
    uint64_t sent_ns;
    if (!find_echoed(bucket, tick, &sent_ns))
        return;
    peer->confirmed = true;
    /* Who knows of a newer term is no witness that this one still holds. */
    if (tick->term > wal_term(bucket->wal))
        return;
    peer->echoed = max_u64(peer->echoed, tick->echo_number);
    peer->echoed_ns = max_u64(peer->echoed_ns, sent_ns);
}

/* When the tick was sent that this one echoes: however late it comes, it was made after that.
 * False: it echoes none of this process's last ones. */
static bool find_echoed(const struct bucket *bucket, const struct msg_tick *tick,
                        uint64_t *ret_sent_ns)
{
    const struct replica *replica = &bucket->replica;
    if (tick->echo_boot != bucket->config.boot || tick->echo_number == 0 ||
        tick->echo_number > replica->tick_number ||
        replica->tick_number - tick->echo_number >= TICKS_REMEMBERED)
        return false;
    *ret_sent_ns = replica->tick_sent_ns[tick->echo_number % TICKS_REMEMBERED];
    return true;
}

/* A tick of the current term. */
static void hear_leader(struct bucket *bucket, struct peer *peer, const struct msg_tick *tick)
{
    struct replica *replica = &bucket->replica;
    if (!tick->leads) {
        if (replica->leader == peer->node + 1) { /* it has stepped down */
            replica->leader = 0;
            replica->leader_heard_ns = 0;
            election_reset_timer(bucket, true);
        }
        return;
    }
    if (replica_leads(replica)) {
        bucket->env->ops->fatal(bucket->env, ERR_CORRUPT, "two leaders in one term");
        return;
    }
    if (replica->leader != peer->node + 1)
        replica_become_follower(bucket, peer->node + 1);
    replica->leader_heard_ns = peer->heard_ns;
    election_reset_timer(bucket, false);
    if (peer->heard_ns - replica->ticked_ns >= bucket->config.tick_ns / 2)
        replica->next_tick_ns = peer->heard_ns;
    uint64_t sent_ns;
    if (tick->settled && find_echoed(bucket, tick, &sent_ns))
        reads_note_statement(bucket, tick->commit_idx, sent_ns);
    follow_commit(bucket, tick->commit_idx);
}

uint64_t liveness_turn(struct bucket *bucket, uint64_t now)
{
    struct replica *replica = &bucket->replica;
    /* Nothing is said in a term that could be forgotten; its flush brings the next turn. */
    if (!replica_term_durable(bucket))
        return UINT64_MAX;
    note_moves(bucket, now);
    bool due = now >= replica->next_tick_ns;
    for (uint32_t i = 0; i < replica->peer_count; i++) {
        struct peer *peer = &replica->peers[i];
        bool owed = replica->ask || peer->owes_tick;
        if (owed || (due && !spares(bucket, peer, now)))
            send_tick(bucket, peer, replica->ask, !owed);
        peer->owes_tick = false;
    }
    replica->ask = false;
    if (due)
        plan_next(bucket, now);
    return replica->next_tick_ns;
}

static void note_moves(struct bucket *bucket, uint64_t now)
{
    struct replica *replica = &bucket->replica;
    uint64_t idx = wal_last_idx(bucket->wal), commit_idx = wal_commit_idx(bucket->wal);
    uint64_t term = wal_term(bucket->wal);
    if (idx == replica->moved_idx && commit_idx == replica->moved_commit_idx &&
        term == replica->moved_term && replica->role == replica->moved_role)
        return;
    replica->moved_idx = idx;
    replica->moved_commit_idx = commit_idx;
    replica->moved_term = term;
    replica->moved_role = replica->role;
    replica->moved_ns = now;
    replica->next_tick_ns = min_u64(replica->next_tick_ns, now + bucket->config.tick_ns);
}

static uint64_t tick_interval(const struct bucket *bucket, uint64_t now)
{
    const struct replica *replica = &bucket->replica;
    uint64_t tick = bucket->config.tick_ns, timeout = bucket->config.election_timeout_ns;
    bool nobody = true; /* is there who could hear it */
    for (uint32_t i = 0; i < replica->peer_count; i++)
        nobody = nobody && !liveness_is_alive(bucket, &replica->peers[i], now);
    bool quiet = now - replica->moved_ns >= timeout &&
                 (nobody || (replica->leader != 0 && !bucket->damaged &&
                             wal_commit_idx(bucket->wal) == wal_last_idx(bucket->wal)));
    if (!quiet)
        return tick;
    return max_u64(min_u64(QUIET_INTERVALS * tick, timeout / TICKS_PER_TIMEOUT), tick);
}

static void plan_next(struct bucket *bucket, uint64_t now)
{
    struct replica *replica = &bucket->replica;
    uint64_t interval = tick_interval(bucket, now);
    replica->ticked_ns = now;
    replica->tick_rounds++;
    if (replica_leads(replica))
        replica->next_tick_ns = (now / interval + 1) * interval;
    else if (replica->leader != 0)
        replica->next_tick_ns = now + interval + interval / 4; /* it is heard before */
    else
        replica->next_tick_ns = now + interval;
}

/* One follower to another: they only want to know who else is there, should they need a leader. */
static bool spares(const struct bucket *bucket, const struct peer *peer, uint64_t now)
{
    const struct replica *replica = &bucket->replica;
    return !replica_leads(replica) && replica->leader != 0 && replica->leader != peer->node + 1 &&
           replica->tick_rounds % 2 != 0 && liveness_is_alive(bucket, peer, now);
}

static void send_tick(struct bucket *bucket, struct peer *peer, bool ask, bool routine)
{
    struct replica *replica = &bucket->replica;
    struct buf *out = replica_outbox(bucket, peer->node);
    if (out == NULL)
        return;
    /* Each tick has its number: a receiver takes the newest only. */
    uint64_t commit_idx = wal_commit_idx(bucket->wal);
    bool leads = replica_leads(replica);
    replica->tick_number++;
    replica->tick_sent_ns[replica->tick_number % TICKS_REMEMBERED] =
        bucket->env->ops->now_ns(bucket->env);
    msg_pack_tick(
        out, &(struct msg_tick){
                 .boot = bucket->config.boot,
                 .age = bucket->config.age,
                 .number = replica->tick_number,
                 .echo_boot = peer->boot,
                 .echo_number = peer->tick_number,
                 .term = wal_term(bucket->wal),
                 .leads = leads,
                 .commit_idx = commit_idx,
                 .settled = leads && replica->begun_idx != 0 && commit_idx >= replica->begun_idx,
                 .last_idx = wal_last_idx(bucket->wal),
                 .durable_idx = wal_durable_idx(bucket->wal),
                 .disk_id = wal_disk_id(bucket->wal),
                 .ask = ask,
                 .routine = routine,
             });
}

bool liveness_is_alive(const struct bucket *bucket, const struct peer *peer, uint64_t now)
{
    return peer->heard_ns != 0 && now - peer->heard_ns < bucket->config.election_timeout_ns;
}

static bool is_voter(const struct bucket *bucket, const struct peer *peer)
{
    return members_is_voter(bucket, peer->node, peer->disk_id);
}

bool liveness_quorum_echoes(const struct bucket *bucket, uint64_t now)
{
    uint32_t count = members_self_is_voter(bucket);
    for (uint32_t i = 0; i < bucket->replica.peer_count; i++) {
        const struct peer *peer = &bucket->replica.peers[i];
        count +=
            is_voter(bucket, peer) && now - peer->echoed_ns < bucket->config.election_timeout_ns;
    }
    return count >= members_quorum(bucket);
}

bool liveness_quorum_heard(const struct bucket *bucket, uint64_t now)
{
    uint32_t count = members_self_is_voter(bucket);
    for (uint32_t i = 0; i < bucket->replica.peer_count; i++) {
        const struct peer *peer = &bucket->replica.peers[i];
        count += is_voter(bucket, peer) && liveness_is_alive(bucket, peer, now);
    }
    return count >= members_quorum(bucket);
}

uint64_t liveness_ask(struct bucket *bucket)
{
    bucket->replica.ask = true;
    return bucket->replica.tick_number + 1;
}

bool liveness_echoed(const struct bucket *bucket, uint64_t tick)
{
    uint32_t count = members_self_is_voter(bucket);
    for (uint32_t i = 0; i < bucket->replica.peer_count; i++) {
        const struct peer *peer = &bucket->replica.peers[i];
        count += is_voter(bucket, peer) && peer->echoed >= tick;
    }
    return count >= members_quorum(bucket);
}
