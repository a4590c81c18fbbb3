/* Decoding and checking what the log wrote: pure functions on bytes. */
#include "bucketd/core/wal_internal.h"

#include <lz4.h>
#include <stdio.h>
#include <xxhash.h>

#include "common/crc32c.h"

#define CANONICAL_AT   offsetof(struct event_head, event_id)
#define CANONICAL_HEAD (sizeof(struct event_head) - CANONICAL_AT)

static enum err event_lengths_check(const struct event_head *head);
static enum err event_expand(const struct event_head *head, const uint8_t *event,
                             struct buf *scratch);

const char *wal_segment_dir(uint64_t segment, char text[static 32])
{
    snprintf(text, 32, "segments/%010llu", (unsigned long long)segment);
    return text;
}

enum err wal_event_extent(struct span bytes, uint32_t *ret_entry_distance, uint32_t *ret_len)
{
    struct event_head head;
    if (bytes.len < sizeof head)
        return ERR_TRUNCATED;
    memcpy(&head, bytes.ptr, sizeof head);
    if (event_lengths_check(&head) != ERR_OK)
        return ERR_CORRUPT;
    *ret_entry_distance = head.entry_distance;
    *ret_len = head.len;
    return ERR_OK;
}

enum err wal_decode_event(const struct format_salt *salt, uint64_t entry_offset,
                          struct span entry_head_bytes, uint64_t event_offset,
                          struct span event_bytes, struct buf *scratch,
                          struct event_view *ret_event)
{
    struct entry_head head;
    if (entry_head_bytes.len < sizeof head)
        return ERR_CORRUPT;
    memcpy(&head, entry_head_bytes.ptr, sizeof head);
    uint32_t base = wal_salt_base(salt);
    size_t covered = offsetof(struct record_head, len);
    if (head.record.crc !=
            wal_crc(base, entry_offset, entry_head_bytes.ptr + covered, sizeof head - covered) ||
        head.record.kind != RECORD_ENTRY || head.record.entry_kind != ENTRY_TX)
        return ERR_CORRUPT;
    struct wal_decoded decoded;
    enum err err =
        wal_decode(base, entry_offset, &head, event_offset, event_bytes, scratch, &decoded);
    if (err != ERR_OK)
        return err;
    *ret_event = decoded.view;
    return ERR_OK;
}

enum err wal_entry_event(const struct wal_entry *entry, const struct format_salt *salt,
                         uint64_t *offset, struct buf *scratch, struct event_view *ret_event,
                         uint32_t *ret_position)
{
    if (entry->head->record.entry_kind != ENTRY_TX || *offset >= entry->bytes.len)
        return ERR_NOTFOUND;
    struct wal_decoded decoded;
    struct span rest = span_of(entry->bytes.ptr + *offset, entry->bytes.len - *offset);
    uint64_t at = entry->offset + *offset;
    enum err err =
        wal_decode(wal_salt_base(salt), entry->offset, entry->head, at, rest, scratch, &decoded);
    if (err != ERR_OK)
        return err;
    *ret_event = decoded.view;
    *ret_position = (uint32_t)(at / POSITION_UNIT);
    *offset += decoded.len;
    return ERR_OK;
}

enum err wal_decode(uint32_t base, uint64_t entry_offset, const struct entry_head *head,
                    uint64_t event_offset, struct span bytes, struct buf *scratch,
                    struct wal_decoded *ret)
{
    struct event_head event;
    if (bytes.len < sizeof event)
        return ERR_CORRUPT;
    memcpy(&event, bytes.ptr, sizeof event);
    if (event_lengths_check(&event) != ERR_OK || event.len > bytes.len)
        return ERR_CORRUPT;
    size_t covered = offsetof(struct event_head, len);
    if (event.crc != wal_crc(base, event_offset, bytes.ptr + covered, event.len - covered) ||
        event_offset < entry_offset)
        return ERR_CORRUPT;
    return wal_decode_unsalted(head, event_offset - entry_offset, bytes, scratch, ret);
}

enum err wal_decode_unsalted(const struct entry_head *head, uint64_t distance, struct span bytes,
                             struct buf *scratch, struct wal_decoded *ret)
{
    struct event_head event;
    if (bytes.len < sizeof event)
        return ERR_CORRUPT;
    memcpy(&event, bytes.ptr, sizeof event);
    if (event_lengths_check(&event) != ERR_OK || event.len > bytes.len ||
        distance != event.entry_distance || event.index >= head->record.count ||
        (uint64_t)event.entry_distance + event.len > head->record.len)
        return ERR_CORRUPT;

    const uint8_t *canonical = bytes.ptr + CANONICAL_AT;
    if (event.flags & EVENT_LZ4) {
        enum err err = event_expand(&event, bytes.ptr, scratch);
        if (err != ERR_OK)
            return err;
        canonical = scratch->ptr;
    }
    const uint8_t *stream = canonical + CANONICAL_HEAD;
    const uint8_t *name = stream + event.stream_len;
    const uint8_t *metadata = name + event.name_len;
    const uint8_t *payload = metadata + event.metadata_len;
    *ret = (struct wal_decoded){
        .view = {.event_id = event.event_id,
                 .partition_key = head->partition_key,
                 .transaction_id = head->transaction_id,
                 .partition = head->record.partition,
                 .sequence = head->first_seq + event.index,
                 .version = event.version,
                 .timestamp_ns = event.timestamp_ns,
                 .stream = span_of(stream, event.stream_len),
                 .name = span_of(name, event.name_len),
                 .metadata = span_of(metadata, event.metadata_len),
                 .payload = span_of(payload, event.payload_len)},
        .canonical = span_of(canonical, (size_t)(payload + event.payload_len - canonical)),
        .index = event.index,
        .len = event.len,
        .data_len = (uint32_t)sizeof event + event.stream_len + event.name_len + event.stored_len,
    };
    return ERR_OK;
}

/* The lengths agree with one another, so that no arithmetic on them can overflow. */
static enum err event_lengths_check(const struct event_head *head)
{
    uint64_t data = (uint64_t)head->metadata_len + head->payload_len;
    uint64_t len = sizeof *head + (uint64_t)head->stream_len + head->name_len + head->stored_len;
    bool compressed = (head->flags & EVENT_LZ4) != 0;
    bool ok = (head->flags & ~EVENT_LZ4) == 0 && data <= EVENT_BYTES_MAX &&
              (compressed ? head->stored_len < data : head->stored_len == data) &&
              head->stream_len <= STREAM_ID_LEN_MAX && head->len == align_up(len, 8) &&
              head->entry_distance >= sizeof(struct entry_head) && head->entry_distance % 8 == 0;
    return ok ? ERR_OK : ERR_CORRUPT;
}

/* Puts the canonical bytes of a compressed event into scratch. */
static enum err event_expand(const struct event_head *head, const uint8_t *event,
                             struct buf *scratch)
{
    size_t plain = CANONICAL_HEAD + head->stream_len + head->name_len;
    size_t data = (size_t)head->metadata_len + head->payload_len;
    buf_clear(scratch, SIZE_MAX);
    uint8_t *to = buf_extend(scratch, plain + data);
    memcpy(to, event + CANONICAL_AT, plain);
    int got = LZ4_decompress_safe((const char *)event + CANONICAL_AT + plain, (char *)to + plain,
                                  (int)head->stored_len, (int)data);
    return got == (int)data ? ERR_OK : ERR_CORRUPT;
}

/* --- entries --- */

bool wal_entry_head_plausible(const struct entry_head *head)
{
    const struct record_head *record = &head->record;
    bool is_tx = record->entry_kind == ENTRY_TX;
    return record->kind == RECORD_ENTRY && record->entry_kind >= ENTRY_TX &&
           record->entry_kind <= ENTRY_CONFIG && record->len >= sizeof *head &&
           record->len % 8 == 0 && is_tx == (record->count > 0) &&
           (record->entry_kind != ENTRY_NOOP || record->len == sizeof *head) &&
           head->idx <= WAL_NUMBER_MAX && head->term <= WAL_NUMBER_MAX &&
           head->first_seq <= WAL_NUMBER_MAX;
}

enum err wal_entry_follows(const struct wal_group_id *group, const struct wal_state *state,
                           struct span bytes, struct buf *scratch, struct wal_voters *ret_voters)
{
    struct entry_head head;
    if (bytes.len < sizeof head)
        return ERR_CORRUPT;
    memcpy(&head, bytes.ptr, sizeof head);
    if (!wal_entry_head_plausible(&head) || head.record.len != bytes.len ||
        head.idx != state->last_idx + 1 || head.term < state->last_term)
        return ERR_CORRUPT;
    uint32_t partition = head.record.partition;
    if (head.record.entry_kind == ENTRY_TX &&
        (partition >= group->partition_count || partition % group->bucket_count != group->bucket))
        return ERR_CORRUPT;
    if (head.record.entry_kind == ENTRY_CONFIG &&
        wal_config_parse(bytes, group, ret_voters) != ERR_OK)
        return ERR_CORRUPT;
    uint64_t chain;
    enum err err = wal_entry_chain(bytes, state->last_chain, scratch, &chain);
    return err == ERR_OK && chain != head.chain ? ERR_CORRUPT : err;
}

enum err wal_entry_chain(struct span bytes, uint64_t chain, struct buf *scratch,
                         uint64_t *ret_chain)
{
    struct entry_head head;
    size_t at = sizeof head;
    ASSERT(bytes.len >= at);
    memcpy(&head, bytes.ptr, sizeof head);
    chain = wal_chain_entry(chain, &head);
    if (head.record.entry_kind == ENTRY_CONFIG) {
        size_t covered = offsetof(struct config_body, voters);
        if (bytes.len < at + sizeof(struct config_body))
            return ERR_CORRUPT;
        *ret_chain = wal_chain_bytes(chain, bytes.ptr + at + covered, bytes.len - at - covered);
        return ERR_OK;
    }
    for (uint32_t i = 0; i < head.record.count; i++) {
        struct wal_decoded event;
        struct span rest = span_of(bytes.ptr + at, bytes.len - at);
        if (wal_decode_unsalted(&head, at, rest, scratch, &event) != ERR_OK || event.index != i)
            return ERR_CORRUPT;
        chain = wal_chain_bytes(chain, event.canonical.ptr, event.canonical.len);
        /* Neither the chain nor anything else covers the zeros behind it. */
        for (size_t pad = at + event.data_len; pad < at + event.len; pad++) {
            if (bytes.ptr[pad] != 0)
                return ERR_CORRUPT;
        }
        at += event.len;
    }
    *ret_chain = chain;
    return at == bytes.len ? ERR_OK : ERR_CORRUPT;
}

void wal_entry_sign(uint32_t base, uint64_t where, uint8_t *entry)
{
    struct entry_head head;
    memcpy(&head, entry, sizeof head);
    if (head.record.entry_kind == ENTRY_CONFIG) {
        size_t at = sizeof head, covered = offsetof(struct config_body, voters);
        store_u32(entry + at,
                  wal_crc(base, where + at, entry + at + covered, head.record.len - at - covered));
    }
    size_t covered = offsetof(struct event_head, len);
    for (size_t at = sizeof head; head.record.entry_kind == ENTRY_TX && at < head.record.len;) {
        size_t len = load_u32(entry + at + covered);
        store_u32(entry + at, wal_crc(base, where + at, entry + at + covered, len - covered));
        at += len;
    }
    covered = offsetof(struct record_head, len);
    store_u32(entry, wal_crc(base, where, entry + covered, sizeof head - covered));
}

enum err wal_config_parse(struct span entry, const struct wal_group_id *group,
                          struct wal_voters *ret_voters)
{
    struct config_body body;
    size_t at = sizeof(struct entry_head) + sizeof body;
    if (entry.len < at)
        return ERR_CORRUPT;
    memcpy(&body, entry.ptr + sizeof(struct entry_head), sizeof body);
    if (body.voters == 0 || body.voters > REPLICAS_MAX ||
        entry.len != at + body.voters * sizeof(struct config_voter) ||
        !uuid_equal(&body.group_id, &group->cluster_id) || body.bucket != group->bucket ||
        body.bucket_count != group->bucket_count || body.partition_count != group->partition_count)
        return ERR_CORRUPT;
    *ret_voters = (struct wal_voters){.count = body.voters};
    for (uint32_t i = 0; i < body.voters; i++) {
        struct config_voter voter;
        memcpy(&voter, entry.ptr + at + i * sizeof voter, sizeof voter);
        ret_voters->list[i] = (struct wal_voter){
            .node = voter.node, .generation = voter.generation, .disk_id = voter.disk_id};
    }
    return ERR_OK;
}

/* --- checksums --- */

uint32_t wal_salt_base(const struct format_salt *salt)
{
    return crc32c(0, salt, offsetof(struct format_salt, where));
}

uint32_t wal_crc(uint32_t base, uint64_t where, const void *bytes, size_t len)
{
    return crc32c(crc32c(base, &where, sizeof where), bytes, len);
}

uint32_t wal_crc_struct(uint32_t base, uint64_t where, const void *bytes, size_t len, size_t crc_at)
{
    static const uint8_t zeros[4];
    const uint8_t *at = bytes;
    uint32_t crc = wal_crc(base, where, at, crc_at);
    crc = crc32c(crc, zeros, sizeof zeros);
    return crc32c(crc, at + crc_at + sizeof zeros, len - crc_at - sizeof zeros);
}

bool wal_mark_valid(uint32_t base, uint64_t where, const struct batch_mark *mark, uint64_t magic)
{
    return mark->magic == magic && mark->crc == wal_crc_struct(base, where, mark, sizeof *mark,
                                                               offsetof(struct batch_mark, crc));
}

uint64_t wal_chain_entry(uint64_t chain, const struct entry_head *head)
{
    struct chain_head bytes = {
        .idx = head->idx,
        .term = head->term,
        .entry_kind = head->record.entry_kind,
        .partition = head->record.partition,
        .count = head->record.count,
        .first_seq = head->first_seq,
        .transaction_id = head->transaction_id,
        .partition_key = head->partition_key,
    };
    return XXH3_64bits_withSeed(&bytes, sizeof bytes, chain);
}

uint64_t wal_chain_bytes(uint64_t chain, const void *bytes, size_t len)
{
    return XXH3_64bits_withSeed(bytes, len, chain);
}
