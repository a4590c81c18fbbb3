/* The follower's part: the leader's entries become this log's, exactly as they are; what the leader
 * doesn't have is cut. An acknowledgement says what is durable and proven equal. */
#include "bucketd/core/bucket_internal.h"

#include <inttypes.h>
#include <lz4.h>

#include "common/assert.h"

/* Nobody sends so much in one message. */
#define RAW_BYTES_MAX (2 * TRANSACTION_BYTES_MAX)

static bool precede(struct bucket *bucket, uint32_t node, const struct msg_entries *m);
static void refuse(struct bucket *bucket, uint32_t node, uint64_t conflict_idx,
                   uint64_t conflict_term);
static uint64_t first_of_term(const struct bucket *bucket, uint64_t idx, uint64_t term);
static void accept_all(struct bucket *bucket, const struct msg_entries *m, struct span entries);
static enum err accept_one(struct bucket *bucket, const struct entry_head *head, struct span bytes);
static enum err append_one(struct bucket *bucket, const struct entry_head *head, struct span bytes);
static enum err cut(struct bucket *bucket, uint64_t from_idx);
static void send_ack(struct bucket *bucket, uint32_t node, const struct msg_entries_ack *ack);

void follow_on_entries(struct bucket *bucket, uint32_t node, const struct msg_entries *m)
{
    struct replica *replica = &bucket->replica;
    struct wal *wal = bucket->wal;
    if (m->term < wal_term(wal)) {
        if (replica_term_durable(bucket))
            send_ack(bucket, node, &(struct msg_entries_ack){.ok = false});
        return;
    }
    if (m->term > wal_term(wal) && !replica_adopt_term(bucket, m->term))
        return;
    if (replica_leads(replica)) {
        bucket->env->ops->fatal(bucket->env, ERR_CORRUPT, "two leaders in one term");
        return;
    }
    if (replica->leader != node + 1)
        replica_become_follower(bucket, node + 1);
    replica->leader_heard_ns = bucket->env->ops->now_ns(bucket->env);
    election_reset_timer(bucket, false);
    /* Beside damage nothing is taken in, and nothing acknowledged. */
    if (bucket->damaged || !precede(bucket, node, m))
        return;
    struct span entries = m->entries;
    struct buf *raw = &replica->raw;
    if (m->raw_bytes > 0) {
        raw->len = 0;
        if (m->raw_bytes > RAW_BYTES_MAX ||
            LZ4_decompress_safe((const char *)entries.ptr, (char *)buf_reserve(raw, m->raw_bytes),
                                (int)entries.len, (int)m->raw_bytes) != (int)m->raw_bytes) {
            log_warn(bucket->env->log, "entries.garbled", "node=%u", node);
            return;
        }
        entries = span_of(raw->ptr, m->raw_bytes);
    }
    /* Before and after: a full segment may be left for what comes when its end is committed. */
    follow_commit(bucket, m->commit_idx);
    accept_all(bucket, m, entries);
    follow_commit(bucket, m->commit_idx);
    replica->ack_due |= m->count > 0 || m->probe;
}

/* Whether this log has the entry that the message's entries stand behind. What is committed is the
 * leader's too, without a look. */
static bool precede(struct bucket *bucket, uint32_t node, const struct msg_entries *m)
{
    struct wal *wal = bucket->wal;
    uint64_t term, chain;
    if (m->prev_idx <= wal_commit_idx(wal)) {
        bucket->replica.verified_idx = max_u64(bucket->replica.verified_idx, wal_commit_idx(wal));
        return true;
    }
    if (m->prev_idx > wal_last_idx(wal)) {
        refuse(bucket, node, wal_last_idx(wal) + 1, 0);
        return false;
    }
    bool known = wal_point(wal, m->prev_idx, &term, &chain);
    ASSERT(known);
    if (PLANTED(&bucket->config, PLANT_NO_PREV_CHECK))
        term = m->prev_term, chain = m->prev_chain;
    if (term != m->prev_term) {
        refuse(bucket, node, first_of_term(bucket, m->prev_idx, term), term);
        return false;
    }
    if (chain != m->prev_chain) {
        bucket->env->ops->fatal(bucket->env, ERR_CORRUPT, "chain differs from the leader's");
        return false;
    }
    bucket->replica.verified_idx = max_u64(bucket->replica.verified_idx, m->prev_idx);
    return true;
}

static uint64_t first_of_term(const struct bucket *bucket, uint64_t idx, uint64_t term)
{
    const struct tail_entry *entry;
    while ((entry = wal_tail_entry(bucket->wal, idx - 1)) != NULL && entry->term == term)
        idx--;
    return idx;
}

static void refuse(struct bucket *bucket, uint32_t node, uint64_t conflict_idx,
                   uint64_t conflict_term)
{
    bucket->replica.refusal = (struct pending_refusal){
        .waits = true, .node = node, .conflict_idx = conflict_idx, .conflict_term = conflict_term};
}

static void accept_all(struct bucket *bucket, const struct msg_entries *m, struct span entries)
{
    struct replica *replica = &bucket->replica;
    uint64_t idx = m->prev_idx;
    for (uint64_t i = 0; i < m->count; i++) {
        struct entry_head head;
        enum err err = wal_peek_entry(entries, &head);
        if (err == ERR_OK && head.idx != idx + 1)
            err = ERR_CORRUPT;
        if (err == ERR_OK)
            err = accept_one(bucket, &head, span_of(entries.ptr, head.record.len));
        if (err == ERR_AGAIN || err == ERR_FULL)
            replica->dropped = true;
        else if (err != ERR_OK)
            log_warn(bucket->env->log, "entries.refused", "idx=%" PRIu64 " error=%s", idx + 1,
                     err_name(err));
        if (err != ERR_OK)
            return;
        idx = head.idx;
        replica->verified_idx = max_u64(replica->verified_idx, idx);
        entries.ptr += head.record.len;
        entries.len -= head.record.len;
    }
    if (PLANTED(&bucket->config, PLANT_CUT_ON_SHORT_APPEND) && idx < wal_last_idx(bucket->wal) &&
        idx >= wal_commit_idx(bucket->wal)) {
        (void)!cut(bucket, idx + 1);
        replica->verified_idx = min_u64(replica->verified_idx, idx);
    }
}

/* Same term: there already. Another term: cut, and append. */
static enum err accept_one(struct bucket *bucket, const struct entry_head *head, struct span bytes)
{
    struct wal *wal = bucket->wal;
    uint64_t term, chain;
    if (head->idx <= wal_commit_idx(wal))
        return ERR_OK;
    if (head->idx <= wal_last_idx(wal)) {
        bool known = wal_point(wal, head->idx, &term, &chain);
        ASSERT(known);
        if (term == head->term && chain != head->chain &&
            !PLANTED(&bucket->config, PLANT_NO_PREV_CHECK)) {
            bucket->env->ops->fatal(bucket->env, ERR_CORRUPT, "chain differs from the leader's");
            return ERR_CORRUPT;
        }
        if (term == head->term)
            return ERR_OK;
        enum err err = cut(bucket, head->idx);
        if (err != ERR_OK)
            return err;
    }
    return append_one(bucket, head, bytes);
}

static enum err append_one(struct bucket *bucket, const struct entry_head *head, struct span bytes)
{
    struct wal *wal = bucket->wal;
    /* A full segment is left when its tail is committed. That needs nothing but acknowledgements
     * where the tail ends in this term; otherwise what comes is needed for it. */
    bool must = wal_last_term(wal) != wal_term(wal) || head->record.entry_kind != ENTRY_TX;
    if (bucket->segments.sealing > SEALING_MAX && !must)
        return ERR_AGAIN;
    enum err err = wal_fits(wal, bytes.len, must ? ROOM_MUST : ROOM_WAIT);
    struct wal_entry entry;
    if (err == ERR_OK)
        err = wal_append_entry(wal, bytes, &entry);
    if (err != ERR_OK)
        return err;
    if (head->record.entry_kind == ENTRY_TX) {
        segments_index_entry(bucket, &entry);
        bucket->stats.events += head->record.count;
    }
    return ERR_OK;
}

/* The newest first: the index takes back what it was given last. */
static enum err cut(struct bucket *bucket, uint64_t from_idx)
{
    struct wal *wal = bucket->wal;
    ASSERT(from_idx > wal_commit_idx(wal));
    enum err err = wal_fits(wal, WAL_CUT_BOUND, ROOM_MUST);
    if (err != ERR_OK)
        return err;
    log_info(bucket->env->log, "log.cut", "from_idx=%" PRIu64 " last_idx=%" PRIu64, from_idx,
             wal_last_idx(wal));
    struct index *index = segments_open_index(bucket);
    for (uint64_t idx = wal_last_idx(wal); idx >= from_idx; idx--) {
        const struct tail_entry *entry = wal_tail_entry(wal, idx);
        for (uint32_t i = 0; i < entry->count; i++)
            index_pop(index);
        bucket->stats.events -= entry->count;
    }
    recent_cut(bucket->replica.recent, from_idx);
    wal_append_cut(wal, from_idx, wal_term(wal));
    return ERR_OK;
}

void follow_commit(struct bucket *bucket, uint64_t commit_idx)
{
    struct replica *replica = &bucket->replica;
    uint64_t proven = PLANTED(&bucket->config, PLANT_COMMIT_BY_LAST_IDX) ? wal_last_idx(bucket->wal)
                                                                         : replica->verified_idx;
    uint64_t idx = min_u64(commit_idx, proven);
    if (idx > wal_commit_idx(bucket->wal)) {
        replica_remember(bucket);
        commit_up_to(bucket, idx, (struct lsn){0}, (struct span){0});
        follow_on_room(bucket); /* a full segment may be left now */
    }
    reads_note_commit(bucket);
}

/* --- acknowledgements --- */

void follow_turn(struct bucket *bucket)
{
    struct replica *replica = &bucket->replica;
    if (replica->leader == 0 || !replica_term_durable(bucket) || bucket->damaged)
        return;
    uint32_t node = replica->leader - 1;
    struct pending_refusal *refusal = &replica->refusal;
    if (refusal->waits) {
        refusal->waits = false;
        send_ack(bucket, refusal->node,
                 &(struct msg_entries_ack){.ok = false,
                                           .conflict_idx = refusal->conflict_idx,
                                           .conflict_term = refusal->conflict_term});
    }
    if (!replica->ack_due)
        return;
    uint64_t durable = PLANTED(&bucket->config, PLANT_ACK_BEFORE_SYNC)
                           ? wal_last_idx(bucket->wal)
                           : wal_durable_idx(bucket->wal);
    /* Otherwise when the flush ends. */
    if (durable < replica->verified_idx && !replica->dropped)
        return;
    replica->ack_due = durable < replica->verified_idx;
    send_ack(bucket, node,
             &(struct msg_entries_ack){.ok = true,
                                       .match_idx = min_u64(durable, replica->verified_idx),
                                       .dropped = replica->dropped});
    replica->starved |= replica->dropped;
    replica->dropped = false;
}

void follow_on_room(struct bucket *bucket)
{
    struct replica *replica = &bucket->replica;
    replica->ack_due |= replica->starved;
    replica->starved = false;
}

void follow_on_durable(struct bucket *bucket)
{
    follow_on_room(bucket);
    follow_turn(bucket);
}

static void send_ack(struct bucket *bucket, uint32_t node, const struct msg_entries_ack *ack)
{
    struct buf *out = replica_outbox(bucket, node);
    if (out == NULL)
        return;
    struct msg_entries_ack m = *ack;
    m.term = wal_term(bucket->wal);
    m.last_idx = wal_last_idx(bucket->wal);
    m.disk_id = wal_disk_id(bucket->wal);
    msg_pack_entries_ack(out, &m);
}
