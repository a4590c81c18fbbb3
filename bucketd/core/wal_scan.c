/* Reading a segment from its front to its end: the pass that recovery and verify share. It tells a
 * torn tail from rot. */
#include "bucketd/core/wal_internal.h"

#include <stdlib.h>

/* What lies behind a bad place. */
struct wal_behind {
    bool synced;        /* a later mark knows that the bad place had been synced */
    uint64_t next_head; /* the next valid batch head, 0: none */
    uint64_t
        nonzero_end; /* behind the last byte that isn't zero; the bad place itself where all are */
};

static const char batch_number[] = "batch number";

static enum err pass_bad_place(struct wal_pass *pass, bool whole, const char *what,
                               uint64_t *offset, bool *ret_end);
static enum err batch_read(struct wal_pass *pass, uint64_t offset, struct batch_mark *ret_head,
                           const uint8_t **ret_bytes, const char **ret_what);
static const char *batch_apply(struct wal_pass *pass, uint64_t offset,
                               const struct batch_mark *head, const uint8_t *bytes);
static const char *record_apply(struct wal_pass *pass, uint64_t offset, struct span rest,
                                uint64_t *first_idx);
static const char *entry_apply(struct wal_pass *pass, uint64_t offset, struct span bytes);
static const char *chain_check(struct wal_pass *pass, uint64_t offset, struct span bytes);
static enum err look_behind(struct wal_pass *pass, uint64_t bad, struct wal_behind *ret);
static void behind_mark(const struct wal_pass *pass, uint64_t bad, uint64_t at,
                        const uint8_t *bytes, struct wal_behind *behind);
static void footer_compare(struct wal_pass *pass, const struct segment_footer *footer);
static void problem(struct wal_pass *pass, enum wal_problem kind, uint64_t offset,
                    const char *what);

/* --- whole segments --- */

enum err wal_scan_segment(struct disk *disk, uint64_t segment, const struct format_salt *salt,
                          const struct wal_scan *scan, struct wal_scan_result *ret_result)
{
    char path[48], next_path[48];
    wal_data_path(segment, false, path);
    wal_data_path(segment + 1, false, next_path);
    struct wal_reader reader, next;
    enum err err = wal_reader_open(&reader, disk, path);
    if (err != ERR_OK)
        return err;
    bool last = wal_reader_open(&next, disk, next_path) != ERR_OK;
    if (!last)
        wal_reader_close(&next);

    struct wal_front front;
    struct buf what = {0};
    struct wal_pass pass = {.reader = &reader, .salt = *salt, .scan = scan, .deep = true};
    pass.salt.segment = segment;
    err = wal_front_read(&reader, &pass.salt, NULL, &front, &pass.state.next_seq, &what);
    if (err == ERR_OK) {
        pass.bucket_count = front.header.bucket_count;
        pass.partition_count = front.header.partition_count;
        pass.complete = front.sealed || !last;
        wal_pass_begin(&pass, &front);
        if (front.checkpoints_bad > 0)
            problem(&pass, WAL_ROT, FORMAT_BLOCK, "one copy of the checkpoint");
        if (!last && !front.sealed)
            problem(&pass, WAL_ROT, reader.size, "no footer, though another segment follows");
        err = wal_pass_run(&pass);
        if (front.sealed)
            footer_compare(&pass, &front.footer);
    } else if (err == ERR_CORRUPT) {
        buf_append(&what, "", 1);
        problem(&pass, WAL_ROT, 0, (const char *)what.ptr);
    }
    *ret_result = (struct wal_scan_result){
        .header = front.header,
        .checkpoint = front.checkpoint,
        .sealed = front.sealed,
        .footer = front.footer,
        .data_end = pass.data_end,
        .batches = pass.batches,
        .entries = pass.entries,
        .events = pass.events,
        .last_idx = pass.state.last_idx,
        .last_term = pass.state.last_term,
        .last_chain = pass.state.last_chain,
        .problems = pass.problems,
    };
    free(pass.state.next_seq);
    buf_release(&pass.scratch);
    buf_release(&what);
    wal_reader_close(&reader);
    return err;
}

static void footer_compare(struct wal_pass *pass, const struct segment_footer *footer)
{
    bool same = footer->batches == pass->batches && footer->entries == pass->entries &&
                footer->events == pass->events && footer->last_idx == pass->state.last_idx &&
                footer->last_batch == pass->state.batch_no &&
                footer->last_chain == pass->state.last_chain &&
                footer->first_idx == pass->first_idx;
    if (!same && pass->problems == 0)
        problem(pass, WAL_ROT, footer->data_end, "footer disagrees with the batches");
}

static void problem(struct wal_pass *pass, enum wal_problem kind, uint64_t offset, const char *what)
{
    pass->problems++;
    if (kind == WAL_ROT && pass->rots++ == 0)
        pass->rot_offset = offset;
    if (kind == WAL_ROT)
        pass->rot_last = offset;
    if (pass->scan->on_problem != NULL)
        pass->scan->on_problem(pass->scan->ctx, kind, offset, what);
}

/* --- the pass over the batches --- */

void wal_pass_begin(struct wal_pass *pass, const struct wal_front *front)
{
    const struct checkpoint *checkpoint = &front->checkpoint;
    pass->base = wal_salt_base(&pass->salt);
    pass->data_start = front->header.data_start;
    pass->data_limit = front->sealed ? front->footer.data_end : pass->reader->size;
    pass->state.term = checkpoint->term;
    pass->state.voted_for = checkpoint->voted_for;
    pass->state.last_idx = checkpoint->last_idx;
    pass->state.last_term = checkpoint->last_term;
    pass->state.last_chain = checkpoint->last_chain;
    pass->state.batch_no = checkpoint->batch_no;
    pass->state.config_idx = checkpoint->config_idx;
    pass->state.events = checkpoint->events;
}

enum err wal_pass_run(struct wal_pass *pass)
{
    uint64_t offset = pass->data_start;
    pass->data_end = offset;
    bool end = pass->complete && offset == pass->data_limit;
    while (!end) {
        struct batch_mark head;
        const uint8_t *bytes = NULL;
        const char *what = NULL;
        enum err err = batch_read(pass, offset, &head, &bytes, &what);
        if (err != ERR_OK)
            return err;
        bool whole = what == NULL || what == batch_number;
        if (what == NULL)
            what = batch_apply(pass, offset, &head, bytes);
        if (what != NULL) {
            err = pass_bad_place(pass, whole, what, &offset, &end);
            if (err != ERR_OK)
                return err;
            continue;
        }
        pass->gap = false;
        pass->batches++;
        pass->last_offset = offset;
        pass->last_bytes = head.bytes;
        pass->last_records = head.records;
        offset += head.bytes;
        pass->data_end = offset;
        end = pass->complete && offset == pass->data_limit;
    }
    return ERR_OK;
}

/* Torn: the end. Rot: goes on at the next valid batch, if there is one. A batch that is `whole` but
 * contradicts itself was never torn. */
static enum err pass_bad_place(struct wal_pass *pass, bool whole, const char *what,
                               uint64_t *offset, bool *ret_end)
{
    struct wal_behind behind;
    enum err err = look_behind(pass, *offset, &behind);
    if (err != ERR_OK)
        return err;
    if (!pass->complete && !whole && !behind.synced) {
        pass->torn_bytes = behind.nonzero_end - *offset;
        if (pass->torn_bytes > 0)
            problem(pass, WAL_TORN, *offset, what);
        *ret_end = true;
        return ERR_OK;
    }
    problem(pass, WAL_ROT, *offset, what);
    pass->gap = pass->gapped = true;
    *ret_end = behind.next_head == 0;
    *offset = behind.next_head;
    return ERR_OK;
}

/* *ret_what: NULL where head, tail and the CRC of all between them are good. */
static enum err batch_read(struct wal_pass *pass, uint64_t offset, struct batch_mark *ret_head,
                           const uint8_t **ret_bytes, const char **ret_what)
{
    uint64_t room = pass->data_limit > offset ? pass->data_limit - offset : 0;
    *ret_what = "batch head";
    if (room < WAL_WITNESS_BYTES)
        return ERR_OK;
    enum err err = wal_reader_get(pass->reader, offset, sizeof *ret_head, ret_bytes);
    if (err != ERR_OK)
        return err;
    struct batch_mark head, tail;
    memcpy(&head, *ret_bytes, sizeof head);
    bool number_ok =
        pass->gap ? head.number > pass->state.batch_no : head.number == pass->state.batch_no + 1;
    if (!wal_mark_valid(pass->base, offset, &head, BATCH_HEAD_MAGIC) || head.offset != offset ||
        head.bytes < WAL_WITNESS_BYTES || head.bytes % 8 != 0)
        return ERR_OK;
    *ret_what = batch_number; /* here no other batch has ever been begun: torn it can't be */
    if (!number_ok)
        return ERR_OK;
    *ret_what = "batch cut off";
    if (head.bytes > room)
        return ERR_OK;
    err = wal_reader_get(pass->reader, offset, head.bytes, ret_bytes);
    if (err != ERR_OK)
        return err;

    *ret_what = "batch tail";
    uint64_t tail_at = head.bytes - sizeof tail;
    memcpy(&tail, *ret_bytes + tail_at, sizeof tail);
    size_t same = offsetof(struct batch_mark, number);
    if (!wal_mark_valid(pass->base, offset + tail_at, &tail, BATCH_TAIL_MAGIC) ||
        memcmp((const uint8_t *)&head + same, (const uint8_t *)&tail + same, sizeof head - same) !=
            0)
        return ERR_OK;
    *ret_what = "batch body";
    uint64_t body = tail_at - sizeof head;
    if (tail.body_crc != wal_crc(pass->base, offset + sizeof head, *ret_bytes + sizeof head, body))
        return ERR_OK;
    *ret_what = NULL;
    *ret_head = head;
    return ERR_OK;
}

static const char *batch_apply(struct wal_pass *pass, uint64_t offset,
                               const struct batch_mark *head, const uint8_t *bytes)
{
    uint64_t end = head->bytes - sizeof *head, first_idx = 0;
    uint32_t records = 0;
    if (pass->scan->on_batch != NULL)
        pass->scan->on_batch(pass->scan->ctx, head);
    if (pass->gap) {
        pass->state.term = head->term; /* a lost VOTE record may have been where the hole is */
        pass->state.voted_for = head->voted_for;
    }
    for (uint64_t at = sizeof *head; at < end; records++) {
        const char *what =
            record_apply(pass, offset + at, span_of(bytes + at, end - at), &first_idx);
        if (what != NULL)
            return what;
        at += ((const struct record_head *)(const void *)(bytes + at))->len;
    }
    if (records != head->records || first_idx != head->first_idx ||
        (first_idx != 0 && pass->state.last_idx != head->last_idx) ||
        head->term != pass->state.term || head->voted_for != pass->state.voted_for)
        return "batch contradicts its records";
    pass->state.batch_no = head->number;
    return NULL;
}

static const char *record_apply(struct wal_pass *pass, uint64_t offset, struct span rest,
                                uint64_t *first_idx)
{
    struct record_head record;
    if (rest.len < sizeof record)
        return "record cut off";
    memcpy(&record, rest.ptr, sizeof record);
    size_t head_len =
        record.kind == RECORD_ENTRY ? sizeof(struct entry_head) : sizeof(struct vote_record);
    if (record.kind != RECORD_ENTRY && record.kind != RECORD_VOTE)
        return "record kind of a later version";
    if (record.len < head_len || record.len > rest.len || record.len % 8 != 0)
        return "record length";
    size_t covered = offsetof(struct record_head, len);
    if (record.crc != wal_crc(pass->base, offset, rest.ptr + covered, head_len - covered))
        return "record head";
    if (pass->scan->on_record != NULL)
        pass->scan->on_record(pass->scan->ctx, offset,
                              (const struct record_head *)(const void *)rest.ptr);
    if (record.kind == RECORD_ENTRY) {
        const char *what = entry_apply(pass, offset, span_of(rest.ptr, record.len));
        if (what == NULL && *first_idx == 0)
            *first_idx = pass->state.last_idx;
        return what;
    }
    struct vote_record vote;
    memcpy(&vote, rest.ptr, sizeof vote);
    if (vote.term < pass->state.term || vote.term > WAL_NUMBER_MAX)
        return "term goes back";
    pass->state.term = vote.term;
    pass->state.voted_for = vote.voted_for;
    return NULL;
}

static const char *entry_apply(struct wal_pass *pass, uint64_t offset, struct span bytes)
{
    const struct entry_head *head = (const void *)bytes.ptr;
    struct wal_state *state = &pass->state;
    bool idx_ok = pass->gapped ? head->idx > state->last_idx : head->idx == state->last_idx + 1;
    bool hole = head->idx != state->last_idx + 1;
    if (!idx_ok)
        return "entry idx";
    if (head->term < state->last_term || head->term > state->term)
        return "entry term";
    uint32_t slot = head->record.partition / pass->bucket_count;
    bool is_tx = head->record.entry_kind == ENTRY_TX;
    if (is_tx) {
        if (head->record.partition % pass->bucket_count != pass->salt.bucket ||
            head->record.partition >= pass->partition_count || head->record.count == 0)
            return "entry partition";
        uint64_t next = state->next_seq[slot];
        if (pass->gapped ? head->first_seq < next : head->first_seq != next)
            return "partition sequence";
    } else if (head->record.count != 0) {
        return "entry count";
    }
    const char *what = pass->deep ? chain_check(pass, offset, bytes) : NULL;
    if (what != NULL && !(hole && strcmp(what, "chain") == 0))
        return what;

    if (is_tx)
        state->next_seq[slot] = head->first_seq + head->record.count;
    if (head->record.entry_kind == ENTRY_CONFIG)
        state->config_idx = head->idx;
    state->last_idx = head->idx;
    state->last_term = head->term;
    state->last_chain = head->chain;
    state->events += head->record.count;
    if (pass->entries++ == 0)
        pass->first_idx = head->idx;
    pass->events += head->record.count;
    struct wal_entry entry = {
        .segment = pass->salt.segment, .offset = offset, .head = head, .bytes = bytes};
    if (pass->scan->on_entry != NULL)
        pass->scan->on_entry(pass->scan->ctx, &entry);
    return NULL;
}

/* Every event or the config body, and the chain over them. */
static const char *chain_check(struct wal_pass *pass, uint64_t offset, struct span bytes)
{
    const struct entry_head *head = (const void *)bytes.ptr;
    uint64_t chain = wal_chain_entry(pass->state.last_chain, head);
    uint64_t at = sizeof *head;
    if (head->record.entry_kind == ENTRY_CONFIG) {
        size_t covered = offsetof(struct config_body, voters);
        if (bytes.len < at + sizeof(struct config_body) ||
            load_u32(bytes.ptr + at) != wal_crc(pass->base, offset + at, bytes.ptr + at + covered,
                                                bytes.len - at - covered))
            return "config body";
        chain = wal_chain_bytes(chain, bytes.ptr + at + covered, bytes.len - at - covered);
        at = bytes.len;
    }
    for (uint32_t i = 0; i < head->record.count; i++) {
        struct wal_decoded event;
        struct span rest = span_of(bytes.ptr + at, bytes.len - at);
        if (wal_decode(pass->base, offset, head, offset + at, rest, &pass->scratch, &event) !=
                ERR_OK ||
            event.index != i)
            return "event";
        chain = wal_chain_bytes(chain, event.canonical.ptr, event.canonical.len);
        at += event.len;
    }
    if (at != bytes.len)
        return "entry length";
    return chain == head->chain ? NULL : "chain";
}

/* --- behind a bad place --- */

static enum err look_behind(struct wal_pass *pass, uint64_t bad, struct wal_behind *ret)
{
    uint64_t size = pass->reader->size;
    *ret = (struct wal_behind){.nonzero_end = bad};
    for (uint64_t at = bad; at < size;) {
        const uint8_t *bytes = NULL;
        size_t len = (size_t)min_u64(WAL_READ_BYTES, size - at);
        enum err err = wal_reader_get(pass->reader, at, len, &bytes);
        if (err != ERR_OK)
            return err;
        /* A mark may lie across the end of the piece: pieces overlap by one mark. */
        size_t step = at + len == size ? len : len - sizeof(struct batch_mark);
        for (size_t i = 0; i < step; i += 8) {
            size_t word_len = min_u64(8, len - i);
            uint64_t word = 0;
            memcpy(&word, bytes + i, word_len);
            if (word == 0)
                continue;
            ret->nonzero_end = at + i + word_len;
            bool mark = word == BATCH_HEAD_MAGIC || word == BATCH_TAIL_MAGIC;
            if (mark && at + i > bad && len - i >= sizeof(struct batch_mark))
                behind_mark(pass, bad, at + i, bytes + i, ret);
        }
        if (ret->next_head != 0 && (ret->synced || pass->complete))
            break;
        at += step;
    }
    return ERR_OK;
}

static void behind_mark(const struct wal_pass *pass, uint64_t bad, uint64_t at,
                        const uint8_t *bytes, struct wal_behind *behind)
{
    struct batch_mark mark;
    memcpy(&mark, bytes, sizeof mark);
    if (!wal_mark_valid(pass->base, at, &mark, mark.magic) || mark.number <= pass->state.batch_no)
        return;
    if (mark.synced_upto.segment == pass->salt.segment && mark.synced_upto.offset > bad)
        behind->synced = true;
    if (mark.magic == BATCH_HEAD_MAGIC && mark.offset == at && behind->next_head == 0)
        behind->next_head = at;
}
