/* The replicas' logs: one leader for each term, one vote of each node in it; what is acknowledged
 * or voted is durable; what is committed never changes, is the same everywhere, and every leader
 * has it. */
#include "tests/sim/cluster/cl_oracle.h"

#include "bucketd/core/bucket_internal.h"

/* So long a leader may be without an entry of its term in its log, for want of room or of disk. */
#define BEGIN_TERM_NS (5 * SECOND)
/* Recovery is tried on a copy of the disk so often, for acknowledgements and ends of processes. */
#define ACK_IMAGE_CHANCE 3000u
#define END_IMAGE_CHANCE 100000u

static void check_roles(struct oracle *oracle, uint32_t node, const struct replica_state *now);
static void on_leader(struct oracle *oracle, uint32_t node, const struct replica_state *now);
static void check_log(struct oracle *oracle, uint32_t node, const struct replica_state *now);
static void on_commit(struct oracle *oracle, uint32_t node, const struct replica_state *now);
static void check_entry(struct oracle *oracle, uint32_t node, uint64_t idx);
static void check_marks(struct oracle *oracle, uint32_t node, uint64_t idx, bool damaged);
static void grow_partition(struct oracle *oracle, uint32_t partition, uint64_t count);
static void check_quorum(struct oracle *oracle, uint64_t idx);
static const struct durable_log *durable_of(struct oracle *oracle, uint32_t node);
static void check_term_said(struct oracle *oracle, uint32_t node, uint64_t term, const char *what);
static void on_vote(struct oracle *oracle, uint32_t node, uint64_t term, uint32_t candidate);
static void on_ack(struct oracle *oracle, uint32_t node, const struct msg_entries_ack *ack);

static bool may_say_durable(const struct oracle_node *self, uint64_t idx)
{
    return self->blind || (self->durable.valid && self->durable.last_idx >= idx);
}

/* --- life --- */

void oracle_log_start(struct oracle *oracle, uint32_t node)
{
    struct oracle_node *self = &oracle->nodes[node];
    struct bucket *bucket = cluster_bucket(oracle->cluster, node);
    struct replica_state now;
    bucket_get_replica_state(bucket, &now);
    self->runs = true;
    self->boots++;
    memset(self->marks, 0, oracle->partition_count * sizeof *self->marks);
    self->lead_since_ns = 0;
    /* A repaired segment's name may have been less durable than the segment when the process ended.
     */
    if (self->was_damaged)
        durable_log_forget(&self->durable);
    const struct durable_log *durable = durable_of(oracle, node);
    self->blind =
        self->was_damaged && (now.damaged || durable == NULL ||
                              durable->last_idx < now.durable_idx || durable->term < now.term);
    if (self->floor_known) {
        bool shorter = now.last_term < self->floor_term ||
                       (now.last_term == self->floor_term && now.last_idx < self->floor_idx);
        if (shorter)
            inside_fail(oracle, "durable",
                        "node %u starts with a log up to idx %lu term %lu, but "
                        "idx %lu term %lu was durable",
                        node, now.last_idx, now.last_term, self->floor_idx, self->floor_term);
        bool older = now.term < self->floor_vote_term ||
                     (now.term == self->floor_vote_term && self->floor_vote != 0 &&
                      now.voted_for != self->floor_vote);
        if (older)
            inside_fail(oracle, "durable",
                        "node %u starts in term %lu with vote %lu, durable was "
                        "term %lu with vote %lu",
                        node, now.term, now.voted_for, self->floor_vote_term, self->floor_vote);
    }
    /* What recovery took for committed is compared like any other, but nobody led it there. */
    self->state = (struct replica_state){.term = now.term,
                                         .voted_for = now.voted_for,
                                         .damaged = now.damaged,
                                         .role = ROLE_CANDIDATE};
    if (!may_say_durable(self, now.durable_idx))
        inside_fail(oracle, "durable", "node %u recovered idx %lu, on its disk are %lu", node,
                    now.durable_idx, self->durable.valid ? self->durable.last_idx : 0);
    oracle_log_step(oracle, node);
}

void oracle_log_end(struct oracle *oracle, uint32_t node)
{
    struct oracle_node *self = &oracle->nodes[node];
    self->runs = false;
    self->blind = self->was_damaged; /* until the next start has shown what it reads */
    self->acked_term = UINT64_MAX;
    self->term_said = 0;
    durable_log_forget(&self->durable);
    const struct durable_log *durable = durable_of(oracle, node);
    self->floor_known = durable != NULL;
    if (durable == NULL)
        return;
    if (prng_chance(&oracle->prng, END_IMAGE_CHANCE))
        oracle_check_image(oracle, node, false);
    self->floor_term = durable_log_last(durable).term;
    self->floor_idx = durable->last_idx;
    /* What the process had cut may be gone, whether the cut is durable or only written. */
    const struct replica_state *state = &self->state;
    if (state->last_term < self->floor_term ||
        (state->last_term == self->floor_term && state->last_idx < self->floor_idx)) {
        self->floor_term = state->last_term;
        self->floor_idx = state->last_idx;
    }
    self->floor_vote_term = durable->term;
    self->floor_vote = durable->voted_for;
}

void oracle_log_damage(struct oracle *oracle, uint32_t node, enum damage damage)
{
    struct oracle_node *self = &oracle->nodes[node];
    if (damage == DAMAGE_INDEX)
        return;
    self->was_damaged = true;
    if (damage == DAMAGE_WIPED) {
        self->was_wiped = true;
        if (self->floor_known)
            self->lost_idx = max_u64(self->lost_idx, self->floor_idx);
        durable_log_forget(&self->durable);
        self->floor_known = false;
        self->acked_term = UINT64_MAX;
        self->wiped_at_idx = oracle_commit_idx(oracle);
        self->disks++;
    }
}

void oracle_log_step(struct oracle *oracle, uint32_t node)
{
    struct oracle_node *self = &oracle->nodes[node];
    struct bucket *bucket = cluster_bucket(oracle->cluster, node);
    if (bucket == NULL || !self->runs)
        return; /* the first turn comes before oracle_on_start */
    struct replica_state now;
    bucket_get_replica_state(bucket, &now);
    check_roles(oracle, node, &now);
    if (now.last_idx != self->state.last_idx || now.durable_idx != self->state.durable_idx ||
        now.last_chain != self->state.last_chain)
        check_log(oracle, node, &now);
    if (now.commit_idx != self->state.commit_idx)
        on_commit(oracle, node, &now);
    self->state = now;
}

/* --- terms and roles --- */

static void check_roles(struct oracle *oracle, uint32_t node, const struct replica_state *now)
{
    struct oracle_node *self = &oracle->nodes[node];
    const struct replica_state *before = &self->state;
    if (now->term < before->term)
        inside_fail(oracle, "terms", "node %u goes back from term %lu to %lu", node, before->term,
                    now->term);
    if (now->term == before->term && before->voted_for != 0 && now->voted_for != before->voted_for)
        inside_fail(oracle, "one vote", "node %u, term %lu: its vote for %lu becomes one for %lu",
                    node, now->term, before->voted_for, now->voted_for);
    if (now->last_idx >= self->wiped_at_idx)
        self->wiped_at_idx = 0; /* level, so its votes can do no harm */
    if (now->role != ROLE_LEADER) {
        self->lead_since_ns = 0;
        return;
    }
    if (before->role != ROLE_LEADER || before->term != now->term)
        on_leader(oracle, node, now);
    bool begun = now->last_term == now->term;
    uint64_t paused_ns = oracle->cluster->nodes[node].node.paused_until_ns;
    if (begun || is_alone(oracle) || paused_ns + BEGIN_TERM_NS > oracle_now(oracle) ||
        wal_disk_full(cluster_bucket(oracle->cluster, node)->wal))
        self->lead_since_ns = oracle_now(oracle);
    if (oracle_now(oracle) - self->lead_since_ns > BEGIN_TERM_NS)
        inside_fail(oracle, "noop",
                    "node %u leads in term %lu for %lu ms, its last entry is of "
                    "term %lu",
                    node, now->term, (oracle_now(oracle) - self->lead_since_ns) / MS,
                    now->last_term);
}

static void on_leader(struct oracle *oracle, uint32_t node, const struct replica_state *now)
{
    /* What was committed in older terms; one that wins late knows nothing of newer ones. */
    uint64_t committed = oracle_commit_idx(oracle);
    while (committed > 0 && oracle->log[committed].commit_term >= now->term)
        committed--;
    oracle->nodes[node].lead_since_ns = oracle_now(oracle);
    oracle->totals.elections++;
    oracle->leaders =
        oracle_grow(oracle->leaders, &oracle->leaders_cap, now->term, sizeof *oracle->leaders);
    uint32_t *leader = &oracle->leaders[now->term];
    if (*leader != 0 && *leader != node + 1)
        inside_fail(oracle, "one leader", "term %lu is led by node %u and by node %u", now->term,
                    *leader - 1, node);
    *leader = node + 1;
    if (now->last_idx < committed ||
        (committed > 0 && now->last_term < oracle->log[committed].term))
        inside_fail(oracle, "completeness",
                    "node %u leads in term %lu with a log up to idx %lu "
                    "term %lu, idx %lu term %lu is committed",
                    node, now->term, now->last_idx, now->last_term, committed,
                    oracle->log[committed].term);
    if (is_alone(oracle))
        return;
    /* While a voter that lost its disk is replaced there is one less. */
    uint32_t votes = 0, replicas = oracle->cluster->swarm.config.replica_count;
    for (uint32_t n = 0; n < CL_NODES_MAX; n++) {
        const struct oracle_node *other = &oracle->nodes[n];
        votes +=
            now->term < other->votes_cap && other->votes[now->term] % VOTES_PER_DISK == node + 1;
    }
    if (votes < (replicas - 1) / 2 + 1)
        inside_fail(oracle, "one leader", "node %u leads in term %lu with %u of %u votes", node,
                    now->term, votes, replicas);
}

/* --- the log --- */

static void check_log(struct oracle *oracle, uint32_t node, const struct replica_state *now)
{
    struct oracle_node *self = &oracle->nodes[node];
    if (now->last_idx < now->commit_idx || now->durable_idx > now->last_idx)
        inside_fail(oracle, "log", "node %u: last idx %lu, durable %lu, committed %lu", node,
                    now->last_idx, now->durable_idx, now->commit_idx);
    if (self->acked_term == now->term && now->last_idx < self->acked_idx)
        inside_fail(oracle, "cut",
                    "node %u, term %lu: its log ends at idx %lu now, it has "
                    "acknowledged %lu in this term",
                    node, now->term, now->last_idx, self->acked_idx);
    if (now->durable_idx > self->state.durable_idx) {
        durable_of(oracle, node);
        oracle->totals.durable_checks++;
        if (!may_say_durable(self, now->durable_idx))
            inside_fail(oracle, "durable",
                        "node %u says that idx %lu is durable, on its disk are "
                        "%lu",
                        node, now->durable_idx, self->durable.last_idx);
    }
}

static void on_commit(struct oracle *oracle, uint32_t node, const struct replica_state *now)
{
    const struct replica_state *before = &oracle->nodes[node].state;
    uint64_t idx = now->commit_idx, known = oracle_commit_idx(oracle);
    if (idx < before->commit_idx) {
        inside_fail(oracle, "committed", "node %u: its commit idx goes back from %lu to %lu", node,
                    before->commit_idx, idx);
        return;
    }
    bool same_term = before->term == now->term && !is_alone(oracle);
    if (same_term && before->role == ROLE_FOLLOWER && now->role == ROLE_FOLLOWER &&
        idx > now->verified_idx)
        inside_fail(oracle, "verified",
                    "node %u, term %lu commits idx %lu, only %lu is proven "
                    "equal to its leader's",
                    node, now->term, idx, now->verified_idx);
    oracle->log = oracle_grow(oracle->log, &oracle->log_cap, idx, sizeof *oracle->log);
    if (idx >= oracle->log_len)
        oracle->log_len = idx + 1;
    oracle->nodes[node].commit_term = now->term;
    for (uint64_t i = before->commit_idx + 1; i <= idx && !oracle_failed(oracle); i++)
        check_entry(oracle, node, i);
    if (same_term && before->role == ROLE_LEADER && now->role == ROLE_LEADER &&
        oracle->log[idx].term != 0 && oracle->log[idx].term != now->term)
        inside_fail(oracle, "old term",
                    "node %u leads in term %lu and commits up to idx %lu of "
                    "term %lu",
                    node, now->term, idx, oracle->log[idx].term);
    check_marks(oracle, node, idx, now->damaged);
    if (idx > known)
        check_quorum(oracle, idx);
}

static void check_entry(struct oracle *oracle, uint32_t node, uint64_t idx)
{
    uint64_t term, chain;
    if (!bucket_chain_at(cluster_bucket(oracle->cluster, node), idx, &term, &chain))
        return;
    struct oracle_entry *entry = &oracle->log[idx];
    if (entry->term == 0 && entry->chain == 0) {
        entry->term = term;
        entry->chain = chain;
        entry->node = node;
        entry->commit_term = oracle->nodes[node].commit_term;
    } else if (entry->term != term || entry->chain != chain) {
        inside_fail(oracle, "committed",
                    "idx %lu is term %lu chain %lx at node %u, and term %lu "
                    "chain %lx at node %u",
                    idx, term, chain, node, entry->term, entry->chain, entry->node);
    }
}

/* Watermarks are a function of the committed idx. */
static void check_marks(struct oracle *oracle, uint32_t node, uint64_t idx, bool damaged)
{
    struct oracle_node *self = &oracle->nodes[node];
    const struct bucket *bucket = cluster_bucket(oracle->cluster, node);
    uint64_t hash = 0x9e3779b97f4a7c15ull;
    for (uint32_t i = 0; i < bucket->partition_count; i++) {
        uint32_t p = bucket->config.bucket + i * bucket->config.bucket_count;
        uint64_t mark = bucket->partitions[i].watermark;
        if (mark < self->marks[p])
            inside_fail(oracle, "watermark",
                        "node %u: the watermark of p%u goes back from %lu to "
                        "%lu",
                        node, p, self->marks[p], mark);
        self->marks[p] = mark;
        hash = (hash ^ mark) * 0x9fb21c651e98df25ull;
        hash ^= hash >> 29;
        if (mark > oracle->partitions[p].committed)
            grow_partition(oracle, p, mark);
    }
    struct oracle_entry *entry = &oracle->log[idx];
    if (damaged)
        return; /* it can't tell what the hole holds */
    if (entry->marks == 0)
        entry->marks = hash;
    if (entry->marks != hash)
        inside_fail(oracle, "watermark",
                    "node %u, committed idx %lu: its watermarks are others "
                    "than those that node %u or a later one had there",
                    node, idx, entry->node);
}

static void grow_partition(struct oracle *oracle, uint32_t partition, uint64_t count)
{
    struct oracle_partition *p = &oracle->partitions[partition];
    p->committed = count;
    p->marks = oracle_grow(p->marks, &p->mark_cap, p->mark_count, sizeof *p->marks);
    p->marks[p->mark_count++] = (struct oracle_mark){oracle_now(oracle), count};
}

/* An entry that is committed for the first time is on the disks of a quorum. */
static void check_quorum(struct oracle *oracle, uint64_t idx)
{
    const struct bucket_config *config = &oracle->cluster->swarm.config;
    const struct oracle_entry *entry = &oracle->log[idx];
    uint32_t count = 0, wiped = 0;
    if (entry->term == 0)
        return;
    for (uint32_t i = 0; i < config->replica_count; i++) {
        struct oracle_node *other = &oracle->nodes[config->replicas[i]];
        (void)durable_of(oracle, config->replicas[i]);
        count += other->blind || other->lost_idx >= idx ||
                 durable_log_holds(&other->durable, idx, entry->chain);
        wiped += other->was_wiped;
    }
    /* A voter that lost its disk isn't one until it has a new one. */
    if (count < (config->replica_count - min_u64(wiped, 1)) / 2 + 1)
        inside_fail(oracle, "quorum",
                    "idx %lu term %lu is committed (node %u), and durable on %u "
                    "of %u nodes",
                    idx, entry->term, entry->node, count, config->replica_count);
}

/* --- messages --- */

void oracle_log_message(struct oracle *oracle, uint32_t from, uint32_t to, const struct msg *msg)
{
    switch ((int)msg->tag) {
    case TAG_tick:
        check_term_said(oracle, from, msg->u.tick.term, "a tick");
        break;
    case TAG_vote_req:
        if (!msg->u.vote_req.pre)
            on_vote(oracle, from, msg->u.vote_req.term, from);
        break;
    case TAG_vote_reply:
        if (msg->u.vote_reply.granted && !msg->u.vote_reply.pre)
            on_vote(oracle, from, msg->u.vote_reply.term, to);
        check_term_said(oracle, from, msg->u.vote_reply.own_term, "a vote's answer");
        break;
    case TAG_entries:
        check_term_said(oracle, from, msg->u.entries.term, "entries");
        break;
    case TAG_entries_ack:
        check_term_said(oracle, from, msg->u.entries_ack.term, "an acknowledgement");
        if (msg->u.entries_ack.ok)
            on_ack(oracle, from, &msg->u.entries_ack);
        break;
    default:
        break;
    }
}

/* The node's durable log as it is now; NULL where there is none. */
static const struct durable_log *durable_of(struct oracle *oracle, uint32_t node)
{
    struct oracle_node *self = &oracle->nodes[node];
    struct node *process = &oracle->cluster->nodes[node].node;
    bool there = durable_log_read(&self->durable, process->disk, &process->config);
    if (self->blind && there && self->runs && !self->state.damaged &&
        self->durable.last_idx >= self->state.durable_idx && self->durable.term >= self->state.term)
        self->blind = false;
    return there ? &self->durable : NULL;
}

/* Nothing is said in a term that a crash could take back. */
static void check_term_said(struct oracle *oracle, uint32_t node, uint64_t term, const char *what)
{
    struct oracle_node *self = &oracle->nodes[node];
    if (term <= self->term_said)
        return;
    const struct durable_log *durable = durable_of(oracle, node);
    if (!self->blind && (durable == NULL || durable->term < term))
        inside_fail(oracle, "durable", "node %u sends %s in term %lu, on its disk is term %lu",
                    node, what, term, durable == NULL ? 0 : durable->term);
    self->term_said = term;
}

/* A vote leaves: its only one in this term. With a new disk the node is another voter. */
static void on_vote(struct oracle *oracle, uint32_t node, uint64_t term, uint32_t candidate)
{
    struct oracle_node *self = &oracle->nodes[node];
    self->votes = oracle_grow(self->votes, &self->votes_cap, term, sizeof *self->votes);
    uint32_t *vote = &self->votes[term], now = self->disks * VOTES_PER_DISK + candidate + 1;
    if (*vote / VOTES_PER_DISK == self->disks && *vote != 0 && *vote != now)
        inside_fail(oracle, "one vote", "node %u votes in term %lu for node %u and for node %u",
                    node, term, *vote % VOTES_PER_DISK - 1, candidate);
    *vote = now;
    const struct durable_log *durable = durable_of(oracle, node);
    oracle->totals.durable_checks++;
    bool is_there = durable != NULL &&
                    (durable->term > term ||
                     (durable->term == term && durable->voted_for == (uint64_t)candidate + 1));
    if (!self->blind && !is_there)
        inside_fail(oracle, "durable",
                    "node %u votes in term %lu for node %u; on its disk is term "
                    "%lu with vote %lu",
                    node, term, candidate, durable == NULL ? 0 : durable->term,
                    durable == NULL ? 0 : durable->voted_for);
    if (self->wiped_at_idx != 0 && self->state.last_idx < self->wiped_at_idx)
        inside_fail(oracle, "empty disk",
                    "node %u votes in term %lu with a log up to idx %lu, %lu "
                    "was committed when it lost its disk",
                    node, term, self->state.last_idx, self->wiped_at_idx);
}

static void on_ack(struct oracle *oracle, uint32_t node, const struct msg_entries_ack *ack)
{
    struct oracle_node *self = &oracle->nodes[node];
    const struct durable_log *durable = durable_of(oracle, node);
    oracle->totals.durable_checks++;
    bool is_there = durable != NULL && durable->last_idx >= ack->match_idx;
    if (!self->blind && !is_there)
        inside_fail(oracle, "durable",
                    "node %u acknowledges idx %lu in term %lu, on its disk are "
                    "%lu",
                    node, ack->match_idx, ack->term, durable == NULL ? 0 : durable->last_idx);
    if (self->acked_term != ack->term)
        self->acked_idx = 0;
    self->acked_term = ack->term;
    if (ack->match_idx > self->acked_idx)
        self->acked_idx = ack->match_idx;
    if (prng_chance(&oracle->prng, ACK_IMAGE_CHANCE))
        oracle_check_image(oracle, node, true);
}

/* --- at rest --- */

void oracle_log_at_rest(struct oracle *oracle)
{
    const struct bucket_config *config = &oracle->cluster->swarm.config;
    uint32_t leaders = 0, first = config->replicas[0];
    const struct replica_state *a = &oracle->nodes[first].state;
    for (uint32_t i = 0; i < config->replica_count; i++) {
        uint32_t node = config->replicas[i];
        const struct replica_state *b = &oracle->nodes[node].state;
        leaders += b->role == ROLE_LEADER;
        if (b->commit_idx != b->last_idx || b->commit_idx != a->commit_idx ||
            b->last_chain != a->last_chain || b->last_term != a->last_term)
            oracle_fail(oracle, "equal logs",
                        "at the end node %u has idx %lu chain %lx, committed "
                        "%lu; node %u idx %lu chain %lx, committed %lu",
                        first, a->last_idx, a->last_chain, a->commit_idx, node, b->last_idx,
                        b->last_chain, b->commit_idx);
        if (b->damaged || !b->voter)
            oracle_fail(oracle, "equal logs", "at the end node %u is %s", node,
                        b->damaged ? "damaged" : "no voter");
    }
    if (leaders != 1)
        oracle_fail(oracle, "one leader", "at the end %u replicas lead", leaders);
}
