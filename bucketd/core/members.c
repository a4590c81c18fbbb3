/* Voters, and the disks they vote on. A replica is a voter only on the disk that the configuration
 * in force knows: whoever lost its disk lost its votes and its acknowledged entries with it, and
 * must not count as if it had them. It is fed like any other, and when it is level the leader makes
 * it a voter again, in the next generation. */
#include "bucketd/core/bucket_internal.h"

#include "common/assert.h"

static const struct wal_voter *find_voter(const struct wal_voters *voters, uint32_t node);
static bool all_are_new(const struct bucket *bucket);

uint32_t members_quorum(const struct bucket *bucket)
{
    return wal_voters(bucket->wal)->count / 2 + 1;
}

bool members_is_voter(const struct bucket *bucket, uint32_t node, uint64_t disk_id)
{
    const struct wal_voter *voter = find_voter(wal_voters(bucket->wal), node);
    if (PLANTED(&bucket->config, PLANT_EMPTY_DISK_VOTES))
        return voter != NULL;
    return voter != NULL && (voter->disk_id == disk_id || voter->disk_id == 0);
}

bool members_self_is_voter(const struct bucket *bucket)
{
    return members_is_voter(bucket, bucket->config.node, wal_disk_id(bucket->wal));
}

/* Before the first leader has written down the disks, nobody can tell a new replica from one that
 * has lost its disk: only when all of them are new it doesn't matter, or when the candidate's log
 * knows this disk. */
bool members_may_vote(const struct bucket *bucket, uint64_t your_disk_id)
{
    uint64_t own = wal_disk_id(bucket->wal);
    const struct wal_voter *self = find_voter(wal_voters(bucket->wal), bucket->config.node);
    if (PLANTED(&bucket->config, PLANT_EMPTY_DISK_VOTES))
        return self != NULL;
    if (self == NULL)
        return your_disk_id == own;
    if (self->disk_id != 0)
        return self->disk_id == own || your_disk_id == own;
    return your_disk_id == own || (!bucket->config.replaced && all_are_new(bucket));
}

uint64_t members_disk_id(const struct bucket *bucket, uint32_t node)
{
    const struct wal_voter *voter = find_voter(wal_voters(bucket->wal), node);
    return voter == NULL ? 0 : voter->disk_id;
}

bool members_first_config(const struct bucket *bucket, struct wal_voters *ret_voters)
{
    *ret_voters = *wal_voters(bucket->wal);
    bool unknown = false;
    for (uint32_t i = 0; i < ret_voters->count; i++) {
        struct wal_voter *voter = &ret_voters->list[i];
        if (voter->disk_id != 0)
            continue;
        unknown = true;
        if (voter->node == bucket->config.node) {
            voter->disk_id = wal_disk_id(bucket->wal);
            continue;
        }
        for (uint32_t k = 0; k < bucket->replica.peer_count; k++) {
            const struct peer *peer = &bucket->replica.peers[k];
            if (peer->node == voter->node)
                voter->disk_id = peer->disk_id;
        }
    }
    return unknown;
}

/* One server at a time, and only behind a committed entry of the own term (REPLICATION.md 7). */
void members_turn(struct bucket *bucket)
{
    struct replica *replica = &bucket->replica;
    struct wal *wal = bucket->wal;
    uint64_t commit_idx = wal_commit_idx(wal);
    if (replica->begun_idx == 0 || commit_idx < replica->begun_idx ||
        wal_config_idx(wal) > commit_idx || PLANTED(&bucket->config, PLANT_EMPTY_DISK_VOTES))
        return;
    struct wal_voters voters = *wal_voters(wal);
    for (uint32_t i = 0; i < replica->peer_count; i++) {
        const struct peer *peer = &replica->peers[i];
        uint64_t now = bucket->env->ops->now_ns(bucket->env);
        /* What it was before this leader's time may be older than the configuration. */
        if (peer->echoed <= replica->lead_tick || peer->disk_id == 0 ||
            !liveness_is_alive(bucket, peer, now))
            continue;
        const struct wal_voter *voter = find_voter(&voters, peer->node);
        bool level = peer->match_disk_id == peer->disk_id && peer->match >= commit_idx;
        if (voter != NULL && voter->disk_id != peer->disk_id && voters.count > 1) {
            uint32_t at = (uint32_t)(voter - voters.list);
            voters.list[at] = voters.list[--voters.count];
        } else if (voter == NULL && level && voters.count < REPLICAS_MAX) {
            /* Any number that was never used for this node. */
            uint32_t generation = (uint32_t)(wal_last_idx(wal) + 1);
            voters.list[voters.count++] = (struct wal_voter){
                .node = peer->node, .generation = generation, .disk_id = peer->disk_id};
        } else {
            continue;
        }
        if (wal_fits(wal, WAL_CONFIG_BOUND, ROOM_MUST) != ERR_OK)
            return;
        log_info(bucket->env->log, "members.change", "node=%u voters=%u voter=%d", peer->node,
                 voters.count, find_voter(&voters, peer->node) != NULL);
        (void)wal_append_config(wal, &voters);
        return;
    }
}

static const struct wal_voter *find_voter(const struct wal_voters *voters, uint32_t node)
{
    for (uint32_t i = 0; i < voters->count; i++) {
        if (voters->list[i].node == node)
            return &voters->list[i];
    }
    return NULL;
}

/* Heard from each of them since this process started. */
static bool all_are_new(const struct bucket *bucket)
{
    if (wal_last_idx(bucket->wal) > 1)
        return false;
    for (uint32_t i = 0; i < bucket->replica.peer_count; i++) {
        const struct peer *peer = &bucket->replica.peers[i];
        if (!peer->confirmed || peer->last_idx > 1 || peer->disk_id == 0)
            return false;
    }
    return true;
}
