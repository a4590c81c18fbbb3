/* The leader's part: which entries each replica gets, and what a quorum has. */
#include "bucketd/core/bucket_internal.h"

#include <stdlib.h>

#include "common/assert.h"

/* One message of entries, and what may be on its way to one peer. */
#define MESSAGE_BYTES (256u << 10)
#define PROBE_BYTES   (64u << 10)
#define WINDOW_BYTES  (4u << 20)

static void probe_from(struct peer *peer, uint64_t next);
static uint64_t peer_turn(struct bucket *bucket, struct peer *peer, uint64_t now);
static bool send_from_memory(struct bucket *bucket, struct peer *peer, size_t bytes_max,
                             bool probe);
static bool point_before(struct bucket *bucket, uint64_t idx, struct msg_entries *ret);
static void note_match(struct peer *peer, const struct msg_entries_ack *ack);
static void on_refusal(struct bucket *bucket, struct peer *peer, const struct msg_entries_ack *ack);

void replicate_begin(struct bucket *bucket)
{
    struct replica *replica = &bucket->replica;
    for (uint32_t i = 0; i < replica->peer_count; i++) {
        struct peer *peer = &replica->peers[i];
        peer->match = 0;
        peer->match_disk_id = 0;
        peer->told_commit = 0;
        probe_from(peer, wal_last_idx(bucket->wal) + 1);
    }
}

void replicate_end(struct bucket *bucket)
{
    for (uint32_t i = 0; i < bucket->replica.peer_count; i++)
        catchup_abandon(&bucket->replica.peers[i]);
}

void replicate_forget_peer(struct bucket *bucket, struct peer *peer)
{
    (void)bucket;
    peer->match = 0;
    peer->match_disk_id = 0;
    probe_from(peer, peer->next);
}

static void probe_from(struct peer *peer, uint64_t next)
{
    catchup_abandon(peer);
    peer->progress = PROGRESS_PROBE;
    peer->next = next;
    peer->probing = false;
    peer->flights_len = 0;
    peer->flight_bytes = 0;
}

uint64_t replicate_turn(struct bucket *bucket, uint64_t now)
{
    struct replica *replica = &bucket->replica;
    uint64_t next = UINT64_MAX;
    for (uint32_t i = 0; i < replica->peer_count; i++)
        next = min_u64(next, peer_turn(bucket, &replica->peers[i], now));
    return next;
}

static uint64_t peer_turn(struct bucket *bucket, struct peer *peer, uint64_t now)
{
    uint64_t resend_ns = bucket->config.election_timeout_ns / 4;
    bool waits = peer->probing || peer->flights_len > 0;
    if (waits && now - peer->sent_ns >= resend_ns)
        probe_from(peer, peer->match + 1);
    /* Who isn't heard gets ticks only, until it is. */
    if (!liveness_is_alive(bucket, peer, now))
        return UINT64_MAX;
    uint64_t last = wal_last_idx(bucket->wal);
    if (peer->progress == PROGRESS_STREAM) {
        bool sent = false;
        while (peer->next <= last && peer->progress == PROGRESS_STREAM &&
               peer->flights_len < FLIGHTS_MAX && peer->flight_bytes < WINDOW_BYTES) {
            peer->sent_ns = peer->flights_len == 0 ? now : peer->sent_ns;
            if (!send_from_memory(bucket, peer, MESSAGE_BYTES, false))
                break;
            sent = true;
        }
        if (!sent && peer->told_commit < wal_commit_idx(bucket->wal) &&
            peer->progress == PROGRESS_STREAM)
            (void)send_from_memory(bucket, peer, 0, false);
    } else if (!peer->probing && peer->catchup == NULL) {
        peer->sent_ns = now;
        if (send_from_memory(bucket, peer, PROBE_BYTES, true))
            peer->probing = true;
    }
    waits = peer->probing || peer->flights_len > 0;
    return waits ? peer->sent_ns + resend_ns : UINT64_MAX;
}

/* Sends entries from peer->next on, or none (bytes_max 0, or there are none). False: they aren't in
 * memory, so a job has been started to read them; or nothing can leave. */
static bool send_from_memory(struct bucket *bucket, struct peer *peer, size_t bytes_max, bool probe)
{
    struct replica *replica = &bucket->replica;
    uint64_t last = wal_last_idx(bucket->wal);
    struct msg_entries m = {.prev_idx = peer->next - 1, .probe = probe};
    ASSERT(peer->next >= 1 && peer->next <= last + 1);
    bool wants = bytes_max > 0 && peer->next <= last;
    if (wants)
        m.count = recent_span(replica->recent, peer->next, last, bytes_max, &m.entries);
    if ((wants && m.count == 0) || !point_before(bucket, peer->next, &m)) {
        peer->progress = PROGRESS_CATCHUP;
        catchup_start(bucket, peer);
        return false;
    }
    replicate_send(bucket, peer, &m);
    if (!probe && m.count > 0) {
        uint32_t at = (peer->flights_head + peer->flights_len++) % FLIGHTS_MAX;
        peer->flights[at] = (struct entries_flight){.last_idx = m.prev_idx + m.count,
                                                    .bytes = (uint32_t)m.entries.len};
        peer->flight_bytes += m.entries.len;
        peer->next += m.count;
    }
    return true;
}

void replicate_send(struct bucket *bucket, struct peer *peer, const struct msg_entries *entries)
{
    struct buf *out = replica_outbox(bucket, peer->node);
    if (out == NULL)
        return;
    struct msg_entries m = *entries;
    m.term = wal_term(bucket->wal);
    m.commit_idx = wal_commit_idx(bucket->wal);
    msg_pack_entries(out, &m);
    peer->told_commit = m.commit_idx;
}

/* What the receiver must have before idx. False: not known without the disk. */
static bool point_before(struct bucket *bucket, uint64_t idx, struct msg_entries *ret)
{
    uint64_t prev = idx - 1;
    struct recent_entry entry;
    if (prev == 0)
        return true;
    if (wal_point(bucket->wal, prev, &ret->prev_term, &ret->prev_chain))
        return true;
    if (!recent_get(bucket->replica.recent, prev, &entry))
        return false;
    ret->prev_term = entry.term;
    ret->prev_chain = entry.chain;
    return true;
}

/* --- acknowledgements --- */

void replicate_on_ack(struct bucket *bucket, uint32_t node, const struct msg_entries_ack *ack)
{
    struct replica *replica = &bucket->replica;
    struct peer *peer = replica_peer(bucket, node);
    if (ack->term > wal_term(bucket->wal)) {
        (void)!replica_adopt_term(bucket, ack->term);
        return;
    }
    if (!replica_leads(replica) || ack->term < wal_term(bucket->wal))
        return;
    if (ack->disk_id != peer->match_disk_id) {
        peer->match = 0;
        peer->match_disk_id = ack->disk_id;
    }
    if (!ack->ok) {
        on_refusal(bucket, peer, ack);
        return;
    }
    if (ack->match_idx > wal_last_idx(bucket->wal))
        return; /* of another log: it can't be */
    note_match(peer, ack);
    peer->sent_ns = bucket->env->ops->now_ns(bucket->env);
    if (ack->dropped) {
        /* No room there now: it says so when there is, and if that is lost it is probed. */
        probe_from(peer, peer->match + 1);
        peer->probing = true;
    } else if (peer->progress != PROGRESS_STREAM) {
        probe_from(peer, peer->match + 1);
        if (peer->next > wal_last_idx(bucket->wal) || peer->next >= recent_first(replica->recent))
            peer->progress = PROGRESS_STREAM;
    }
    replicate_advance_commit(bucket);
}

static void note_match(struct peer *peer, const struct msg_entries_ack *ack)
{
    peer->match = max_u64(peer->match, ack->match_idx);
    peer->next = max_u64(peer->next, peer->match + 1);
    while (peer->flights_len > 0 && peer->flights[peer->flights_head].last_idx <= peer->match) {
        peer->flight_bytes -= peer->flights[peer->flights_head].bytes;
        peer->flights_head = (peer->flights_head + 1) % FLIGHTS_MAX;
        peer->flights_len--;
    }
}

/* The logs differ before what was sent: further back. */
static void on_refusal(struct bucket *bucket, struct peer *peer, const struct msg_entries_ack *ack)
{
    uint64_t next = ack->conflict_term == 0 ? ack->last_idx + 1 : ack->conflict_idx;
    next = min_u64(next, wal_last_idx(bucket->wal) + 1);
    if (next > peer->next)
        return; /* late */
    probe_from(peer, max_u64(next, peer->match + 1));
}

/* --- commit --- */

/* The Q-th largest idx that voters have durable, this one included; counted only where that entry
 * is of the own term (REPLICATION.md 5.5; Raft 3.6.2 says why). */
void replicate_advance_commit(struct bucket *bucket)
{
    struct replica *replica = &bucket->replica;
    struct wal *wal = bucket->wal;
    uint64_t matches[REPLICAS_MAX];
    uint32_t count = 0, quorum = members_quorum(bucket);
    if (replica->begun_idx == 0)
        return;
    if (members_self_is_voter(bucket))
        matches[count++] = wal_durable_idx(wal);
    for (uint32_t i = 0; i < replica->peer_count; i++) {
        const struct peer *peer = &replica->peers[i];
        if (members_is_voter(bucket, peer->node, peer->match_disk_id))
            matches[count++] = peer->match;
    }
    if (count < quorum)
        return;
    for (uint32_t i = 1; i < count; i++) { /* largest first */
        for (uint32_t k = i; k > 0 && matches[k] > matches[k - 1]; k--) {
            uint64_t swap = matches[k];
            matches[k] = matches[k - 1];
            matches[k - 1] = swap;
        }
    }
    uint64_t idx = min_u64(matches[quorum - 1], wal_last_idx(wal));
    bool own_term = idx >= replica->begun_idx || PLANTED(&bucket->config, PLANT_COMMIT_OLD_TERM);
    if (idx <= wal_commit_idx(wal) || !own_term)
        return;
    commit_up_to(bucket, idx, (struct lsn){0}, (struct span){0});
    append_retry_waiting(bucket); /* a full segment may be left now */
}
