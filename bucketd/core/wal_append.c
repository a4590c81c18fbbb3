/* Records into the open group: transactions, configurations, entries of other replicas, cuts and
 * votes. */
#include "bucketd/core/wal_internal.h"

#include <lz4.h>

struct config_bytes {
    struct config_body body;
    struct config_voter voters[REPLICAS_MAX];
};
_Static_assert(REPLICAS_MAX <= FORMAT_VOTERS_MAX, "all voters find room in a checkpoint");

static size_t encode_event(struct wal *wal, uint8_t *entry, size_t at, uint64_t where,
                           uint32_t index, const struct wal_event *event, uint64_t *chain);
static size_t event_compress(struct wal *wal, uint8_t *data, size_t len);
static uint8_t *entry_begin(struct wal *wal, struct entry_head *head, size_t bound);
static void entry_end(struct wal *wal, const struct entry_head *head, uint8_t *place, size_t len);
static void record_end(struct wal *wal, uint8_t *place, size_t head_len, size_t len);

uint64_t wal_entry_bound(const struct wal_event *events, uint32_t count)
{
    uint64_t bound = sizeof(struct entry_head);
    for (uint32_t i = 0; i < count; i++) {
        const struct wal_event *event = &events[i];
        bound += align_up(sizeof(struct event_head) + event->stream.len + event->name.len +
                              event->metadata.len + event->payload.len,
                          8);
    }
    return bound;
}

uint64_t wal_entry_max(const struct wal *wal)
{
    uint64_t data_start = wal_data_start(wal->slots);
    uint64_t room = wal_limit(&wal->config, data_start) - data_start;
    return min_u64(room - WAL_WITNESS_BYTES - WAL_RESERVE_BYTES, UINT32_MAX & ~7u);
}

enum err wal_fits(struct wal *wal, uint64_t bound, enum wal_room room)
{
    bool vote = wal->votes_only && room == ROOM_MUST && bound <= WAL_TERM_BOUND;
    if (wal->damaged && !vote)
        return ERR_CORRUPT;
    if (wal->failed)
        return ERR_IO;
    /* What another replica's configuration allows has to find room here too. */
    if (bound > (wal_replicated(wal) ? UINT32_MAX : wal_entry_max(wal)))
        return ERR_MAXSIZE;
    const struct wal_group *open = wal->open;
    if (open->records > 0 && open->bytes.len + bound + sizeof(struct batch_mark) > WAL_GROUP_BYTES)
        return ERR_AGAIN;
    return wal_space_fits(wal, bound, room);
}

uint64_t wal_append_tx(struct wal *wal, uint32_t partition, const struct uuid *partition_key,
                       const struct uuid *transaction_id, const struct wal_event *events,
                       uint32_t count, uint32_t *ret_positions)
{
    ASSERT(count > 0 && partition % wal->config.bucket_count == wal->config.bucket);
    struct entry_head head = {
        .record = {.kind = RECORD_ENTRY,
                   .entry_kind = ENTRY_TX,
                   .partition = (uint16_t)partition,
                   .count = count},
        .first_seq = wal_next_seq(wal, partition),
        .transaction_id = *transaction_id,
        .partition_key = *partition_key,
    };
    uint8_t *entry = entry_begin(wal, &head, wal_entry_bound(events, count));
    uint64_t where = wal->open->at.offset + wal->open->bytes.len;
    uint64_t chain = wal_chain_entry(wal->tail.last_chain, &head);
    size_t at = sizeof head;
    for (uint32_t i = 0; i < count; i++) {
        ret_positions[i] = (uint32_t)((where + at) / POSITION_UNIT);
        at += encode_event(wal, entry, at, where, i, &events[i], &chain);
    }
    head.chain = chain;
    entry_end(wal, &head, entry, at);
    return head.idx;
}

uint64_t wal_append_noop(struct wal *wal)
{
    struct entry_head head = {.record = {.kind = RECORD_ENTRY, .entry_kind = ENTRY_NOOP}};
    uint8_t *entry = entry_begin(wal, &head, sizeof head);
    head.chain = wal_chain_entry(wal->tail.last_chain, &head);
    entry_end(wal, &head, entry, sizeof head);
    return head.idx;
}

void wal_append_settings(struct wal *wal)
{
    const struct wal_config *config = &wal->config;
    struct wal_voters voters = {.count = 1, .list = {{.node = config->node, .generation = 1}}};
    if (wal_replicated(wal)) {
        ASSERT(config->replica_count <= REPLICAS_MAX);
        voters.count = config->replica_count;
        for (uint32_t i = 0; i < config->replica_count; i++)
            voters.list[i] = (struct wal_voter){.node = config->replicas[i], .generation = 1};
    }
    wal_append_config(wal, &voters);
}

uint64_t wal_append_config(struct wal *wal, const struct wal_voters *voters)
{
    ASSERT(voters->count > 0 && voters->count <= REPLICAS_MAX);
    struct config_bytes config = {.body = {.voters = voters->count,
                                           .group_id = wal->config.cluster_id,
                                           .bucket = wal->config.bucket,
                                           .bucket_count = wal->config.bucket_count,
                                           .partition_count = wal->config.partition_count}};
    for (uint32_t i = 0; i < voters->count; i++)
        config.voters[i] = (struct config_voter){.node = voters->list[i].node,
                                                 .generation = voters->list[i].generation,
                                                 .disk_id = voters->list[i].disk_id};
    struct entry_head head = {.record = {.kind = RECORD_ENTRY, .entry_kind = ENTRY_CONFIG}};
    size_t body_len = sizeof config.body + voters->count * sizeof config.voters[0];
    uint8_t *entry = entry_begin(wal, &head, sizeof head + body_len);
    size_t covered = offsetof(struct config_body, voters);
    head.chain = wal_chain_bytes(wal_chain_entry(wal->tail.last_chain, &head),
                                 (const uint8_t *)&config + covered, body_len - covered);
    memcpy(entry + sizeof head, &config, body_len);
    head.record.len = (uint32_t)(sizeof head + body_len);
    memcpy(entry, &head, sizeof head);
    wal_entry_sign(wal->base, wal->open->at.offset + wal->open->bytes.len, entry);
    entry_end(wal, &head, entry, sizeof head + body_len);
    wal_undo_config(&wal->undo, head.idx, voters);
    return head.idx;
}

void wal_append_vote(struct wal *wal, uint64_t term, uint64_t voted_for)
{
    ASSERT(term > wal->tail.term ||
           (term == wal->tail.term && wal->tail.voted_for == 0 && voted_for != 0));
    struct vote_record vote = {
        .record = {.kind = RECORD_VOTE}, .term = term, .voted_for = voted_for};
    vote.record.len = sizeof vote;
    uint8_t *place = buf_reserve(&wal->open->bytes, sizeof vote);
    memcpy(place, &vote, sizeof vote);
    record_end(wal, place, sizeof vote, sizeof vote);
    wal->tail.term = term;
    wal->tail.voted_for = voted_for;
}

/* What is in flight may hold entries that are dead now: its end makes durable only what it had
 * before them. */
void wal_append_cut(struct wal *wal, uint64_t from_idx, uint64_t by_term)
{
    const struct tail_entry *first = wal_tail_entry(wal, from_idx);
    ASSERT(!wal->damaged && first != NULL && by_term <= wal->tail.term);
    ASSERT(first->at.segment == wal->head.segment);
    struct cut_record cut = {.record = {.kind = RECORD_CUT, .len = sizeof cut},
                             .from_idx = from_idx,
                             .by_term = by_term};
    uint8_t *place = buf_reserve(&wal->open->bytes, sizeof cut);
    memcpy(place, &cut, sizeof cut);
    record_end(wal, place, sizeof cut, sizeof cut);
    struct wal_undone undone;
    bool known = wal_undo_cut(&wal->undo, from_idx, wal->config.bucket_count, &wal->tail, &undone);
    ASSERT(known && wal->segment_entries >= undone.entries);
    wal->segment_entries -= undone.entries;
    wal->segment_events -= undone.events;
    if (wal->segment_entries == 0)
        wal->segment_first_idx = 0;
    wal->durable_idx = min_u64(wal->durable_idx, from_idx - 1);
    for (size_t i = 0; i < 2; i++)
        wal->groups[i].last_idx = min_u64(wal->groups[i].last_idx, from_idx - 1);
}

/* --- entries of other replicas --- */

enum err wal_peek_entry(struct span bytes, struct entry_head *ret_head)
{
    struct entry_head head;
    if (bytes.len < sizeof head)
        return ERR_TRUNCATED;
    memcpy(&head, bytes.ptr, sizeof head);
    if (!wal_entry_head_plausible(&head))
        return ERR_CORRUPT;
    if (head.record.len > bytes.len)
        return ERR_TRUNCATED;
    *ret_head = head;
    return ERR_OK;
}

enum err wal_append_entry(struct wal *wal, struct span bytes, struct wal_entry *ret_entry)
{
    ASSERT(!wal->damaged);
    struct entry_head head;
    struct wal_voters voters;
    if (wal_peek_entry(bytes, &head) != ERR_OK || head.record.len != bytes.len)
        return ERR_CORRUPT;
    const struct wal_config *config = &wal->config;
    struct wal_group_id group = {.cluster_id = config->cluster_id,
                                 .bucket = config->bucket,
                                 .bucket_count = config->bucket_count,
                                 .partition_count = config->partition_count};
    if (head.term > wal->tail.term ||
        wal_entry_follows(&group, &wal->tail, bytes, &wal->compressed, &voters) != ERR_OK)
        return ERR_CORRUPT;
    if (head.record.entry_kind == ENTRY_TX &&
        head.first_seq != wal_next_seq(wal, head.record.partition))
        return ERR_INVALID;
    struct wal_group *open = wal->open;
    uint64_t where = open->at.offset + open->bytes.len;
    uint8_t *place = buf_reserve(&open->bytes, bytes.len);
    memcpy(place, bytes.ptr, bytes.len);
    wal_entry_sign(wal->base, where, place);
    entry_end(wal, &head, place, bytes.len);
    if (head.record.entry_kind == ENTRY_CONFIG)
        wal_undo_config(&wal->undo, head.idx, &voters);
    *ret_entry = (struct wal_entry){.segment = wal->head.segment,
                                    .offset = where,
                                    .head = (const struct entry_head *)(const void *)place,
                                    .bytes = span_of(place, bytes.len)};
    return ERR_OK;
}

/* --- records --- */

/* Gives the entry its idx and term, and the place where it goes. */
static uint8_t *entry_begin(struct wal *wal, struct entry_head *head, size_t bound)
{
    ASSERT(!wal->damaged);
    head->idx = wal->tail.last_idx + 1;
    head->term = wal->tail.term;
    return buf_reserve(&wal->open->bytes, bound);
}

static void entry_end(struct wal *wal, const struct entry_head *head, uint8_t *place, size_t len)
{
    struct wal_group *open = wal->open;
    struct tail_entry noted = {
        .idx = head->idx,
        .term = head->term,
        .chain = head->chain,
        .at = {.segment = open->at.segment, .offset = open->at.offset + open->bytes.len},
        .len = (uint32_t)len,
        .kind = head->record.entry_kind,
        .partition = head->record.partition,
        .count = head->record.count,
        .first_seq = head->first_seq,
    };
    memcpy(place, head, sizeof *head);
    store_u32(place + offsetof(struct record_head, len), (uint32_t)len);
    record_end(wal, place, sizeof *head, len);
    if (open->first_idx == 0)
        open->first_idx = head->idx;
    wal->tail.last_idx = head->idx;
    wal->tail.last_term = head->term;
    wal->tail.last_chain = head->chain;
    if (noted.kind == ENTRY_TX)
        wal->tail.next_seq[noted.partition / wal->config.bucket_count] =
            noted.first_seq + noted.count;
    wal->tail.events += noted.count;
    wal->segment_events += noted.count;
    if (wal->segment_entries++ == 0)
        wal->segment_first_idx = head->idx;
    wal_undo_push(&wal->undo, &noted);
}

static void record_end(struct wal *wal, uint8_t *place, size_t head_len, size_t len)
{
    struct wal_group *open = wal->open;
    size_t covered = offsetof(struct record_head, len);
    uint64_t where = open->at.offset + open->bytes.len;
    store_u32(place, wal_crc(wal->base, where, place + covered, head_len - covered));
    open->bytes.len += len;
    open->records++;
    /* wal_fits has promised it. */
    ASSERT(where + len + sizeof(struct batch_mark) + WAL_RESERVE_BYTES <= wal->zeroed_end);
}

/* `at`: of the event in its entry, which begins at `where` in the file. The chain covers the bytes
 * before compression. Returns the event's length. */
static size_t encode_event(struct wal *wal, uint8_t *entry, size_t at, uint64_t where,
                           uint32_t index, const struct wal_event *event, uint64_t *chain)
{
    ASSERT(event->stream.len <= STREAM_ID_LEN_MAX && event->name.len <= EVENT_NAME_LEN_MAX);
    size_t data_len = event->metadata.len + event->payload.len;
    struct event_head head = {
        .index = index,
        .entry_distance = (uint32_t)at,
        .event_id = event->event_id,
        .version = event->version,
        .timestamp_ns = event->timestamp_ns,
        .metadata_len = (uint32_t)event->metadata.len,
        .payload_len = (uint32_t)event->payload.len,
        .stream_len = (uint8_t)event->stream.len,
        .name_len = (uint8_t)event->name.len,
    };
    uint8_t *place = entry + at, *to = place + sizeof head;
    memcpy(place, &head, sizeof head);
    const struct span *parts[] = {&event->stream, &event->name, &event->metadata, &event->payload};
    for (size_t i = 0; i < 4; i++) {
        if (parts[i]->len > 0)
            memcpy(to, parts[i]->ptr, parts[i]->len);
        to += parts[i]->len;
    }
    size_t canonical_at = offsetof(struct event_head, event_id);
    *chain = wal_chain_bytes(*chain, place + canonical_at, (size_t)(to - place) - canonical_at);

    size_t stored_len = data_len;
    if (wal->config.compression && data_len >= WAL_COMPRESS_BYTES_MIN)
        stored_len = event_compress(wal, to - data_len, data_len);
    to -= data_len - stored_len;
    head.flags = stored_len < data_len ? EVENT_LZ4 : 0;
    head.stored_len = (uint32_t)stored_len;
    size_t len = align_up((size_t)(to - place), 8);
    memset(to, 0, len - (size_t)(to - place));
    head.len = (uint32_t)len;
    memcpy(place, &head, canonical_at);
    size_t covered = offsetof(struct event_head, len);
    store_u32(place, wal_crc(wal->base, where + at, place + covered, len - covered));
    return len;
}

/* In place, where that saves at least a sixteenth. Returns the length it has then. */
static size_t event_compress(struct wal *wal, uint8_t *data, size_t len)
{
    size_t room = len - len / 16;
    buf_clear(&wal->compressed, WAL_GROUP_BYTES);
    char *to = (char *)buf_reserve(&wal->compressed, room);
    LZ4_resetStream_fast(wal->lz4);
    int got = LZ4_compress_fast_continue(wal->lz4, (const char *)data, to, (int)len, (int)room, 1);
    if (got <= 0)
        return len;
    memcpy(data, to, (size_t)got);
    return (size_t)got;
}
