/* Reading a segment from its front to its end: the pass that recovery and verify share. It tells a
 * torn tail from rot. */
#include "bucketd/core/wal_internal.h"

#include <stdlib.h>

/* What lies behind a bad place. */
struct wal_behind {
    bool synced;            /* a later mark knows that the bad place had been synced */
    uint64_t next_head;     /* the next valid batch head, 0: none */
    struct batch_mark last; /* the newest valid mark; number 0: none */
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
static const char *batch_end(struct wal_pass *pass, const struct batch_mark *head);
static const char *record_apply(struct wal_pass *pass, uint64_t offset, struct span rest,
                                uint64_t *first_idx);
static const char *vote_apply(struct wal_pass *pass, const struct vote_record *vote);
static const char *cut_apply(struct wal_pass *pass, const struct cut_record *cut);
static const char *entry_apply(struct wal_pass *pass, uint64_t offset, struct span bytes);
static const char *entry_follows(struct wal_pass *pass, uint64_t offset, struct span bytes);
static const char *chain_check(struct wal_pass *pass, uint64_t offset, struct span bytes,
                               const char *chain_wrong);
static void gap_close(struct wal_pass *pass, uint64_t next_idx);
static bool undo(struct wal_pass *pass, uint64_t from_idx);
static void end_adopt(struct wal_pass *pass, const struct wal_behind *behind);
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
    if (pass.undo.configs_len > 0) {
        ret_result->config_idx = wal_undo_in_force(&pass.undo)->idx;
        ret_result->voters = wal_undo_in_force(&pass.undo)->voters;
    }
    wal_pass_release(&pass);
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
    pass->state.events = checkpoint->events;
    struct wal_config_at config = {.idx = checkpoint->config_idx,
                                   .voters = {.count = checkpoint->voters}};
    for (uint32_t i = 0; i < checkpoint->voters; i++)
        config.voters.list[i] = (struct wal_voter){.node = checkpoint->voter[i].node,
                                                   .generation = checkpoint->voter[i].generation,
                                                   .disk_id = checkpoint->voter[i].disk_id};
    wal_undo_begin(&pass->undo, &pass->state, &config);
}

void wal_pass_release(struct wal_pass *pass)
{
    free(pass->state.next_seq);
    pass->state.next_seq = NULL;
    wal_undo_release(&pass->undo);
    buf_release(&pass->scratch);
}

enum err wal_pass_run(struct wal_pass *pass)
{
    uint64_t offset = pass->data_start;
    pass->data_end = pass->write_at = offset;
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
        pass->data_end = pass->write_at = offset;
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
    pass->write_at = align_up(behind.nonzero_end, 8);
    if (!pass->complete && (pass->all_torn || (!whole && !behind.synced))) {
        pass->torn_bytes = behind.nonzero_end - *offset;
        if (pass->torn_bytes > 0)
            problem(pass, WAL_TORN, *offset, what);
        *ret_end = true;
        if (pass->gap)
            end_adopt(pass, &behind); /* no batch behind the gap has told what was lost in it */
        return ERR_OK;
    }
    problem(pass, WAL_ROT, *offset, what);
    pass->gap = pass->gapped = pass->blind = true;
    /* One replica cuts nothing: whatever stands there lives. */
    if (wal_undo_in_force(&pass->undo)->voters.count <= 1 && !pass->adrift)
        wal_undo_commit(&pass->undo, pass->state.last_idx);
    if (behind.next_head == 0)
        end_adopt(pass, &behind);
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
    if (head->term > WAL_NUMBER_MAX || head->last_idx > WAL_NUMBER_MAX)
        return "batch contradicts its records";
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
        head->term != pass->state.term || head->voted_for != pass->state.voted_for)
        return "batch contradicts its records";
    return batch_end(pass, head);
}

/* The hint counts for the batches to come: what it covers may have been cut and written anew in
 * this one. */
static const char *batch_end(struct wal_pass *pass, const struct batch_mark *head)
{
    struct wal_state *state = &pass->state;
    bool same = head->last_idx == state->last_idx && head->last_term == state->last_term;
    if (head->last_term > state->term || head->last_idx < pass->undo.commit_idx ||
        head->commit_hint > head->last_idx)
        return "batch contradicts its records";
    if (!pass->blind && !same)
        return "batch contradicts its records";
    if (pass->blind && same && !pass->adrift)
        pass->blind = false; /* the same idx and term: the same log, nothing is missing */
    if (pass->blind) {
        gap_close(pass, head->last_idx + 1);
        state->last_idx = head->last_idx;
        state->last_term = head->last_term;
    }
    wal_undo_commit(&pass->undo, head->commit_hint);
    state->batch_no = head->number;
    return NULL;
}

static const char *record_apply(struct wal_pass *pass, uint64_t offset, struct span rest,
                                uint64_t *first_idx)
{
    struct record_head record;
    if (rest.len < sizeof record)
        return "record cut off";
    memcpy(&record, rest.ptr, sizeof record);
    _Static_assert(sizeof(struct vote_record) == sizeof(struct cut_record), "one length");
    bool is_entry = record.kind == RECORD_ENTRY;
    size_t head_len = is_entry ? sizeof(struct entry_head) : sizeof(struct vote_record);
    if (!is_entry && record.kind != RECORD_VOTE && record.kind != RECORD_CUT)
        return "record kind of a later version";
    if (record.len < head_len || record.len > rest.len || record.len % 8 != 0 ||
        (!is_entry && record.len != head_len))
        return "record length";
    size_t covered = offsetof(struct record_head, len);
    if (record.crc != wal_crc(pass->base, offset, rest.ptr + covered, head_len - covered))
        return "record head";
    if (pass->scan->on_record != NULL)
        pass->scan->on_record(pass->scan->ctx, offset,
                              (const struct record_head *)(const void *)rest.ptr);
    if (record.kind == RECORD_VOTE)
        return vote_apply(pass, (const struct vote_record *)(const void *)rest.ptr);
    if (record.kind == RECORD_CUT)
        return cut_apply(pass, (const struct cut_record *)(const void *)rest.ptr);
    const char *what = entry_apply(pass, offset, span_of(rest.ptr, record.len));
    if (what == NULL && *first_idx == 0)
        *first_idx = pass->state.last_idx;
    return what;
}

static const char *vote_apply(struct wal_pass *pass, const struct vote_record *vote)
{
    struct wal_state *state = &pass->state;
    if (pass->gap) /* the batch's head has told what it comes to in the end */
        return vote->term <= state->term ? NULL : "term goes back";
    if (vote->term < state->term || vote->term > WAL_NUMBER_MAX)
        return "term goes back";
    if (vote->term == state->term && state->voted_for != 0 && state->voted_for != vote->voted_for)
        return "two votes in one term";
    state->term = vote->term;
    state->voted_for = vote->voted_for;
    return NULL;
}

static const char *cut_apply(struct wal_pass *pass, const struct cut_record *cut)
{
    struct wal_state *state = &pass->state;
    if (cut->by_term > state->term || cut->from_idx <= pass->undo.commit_idx ||
        cut->from_idx > WAL_NUMBER_MAX)
        return "cut of a committed entry";
    pass->cut_blind |= pass->gapped;
    if (!pass->blind && cut->from_idx > state->last_idx)
        return "cut of no entry";
    if (!pass->blind && undo(pass, cut->from_idx))
        return NULL;
    /* The entry before it is in a hole. */
    pass->blind = true;
    gap_close(pass, cut->from_idx);
    state->last_idx = cut->from_idx - 1;
    state->last_term = 0;
    return NULL;
}

static const char *entry_apply(struct wal_pass *pass, uint64_t offset, struct span bytes)
{
    const struct entry_head *head = (const void *)bytes.ptr;
    struct wal_state *state = &pass->state;
    const char *what =
        wal_entry_head_plausible(head) ? entry_follows(pass, offset, bytes) : "entry head";
    if (what != NULL)
        return what;
    uint32_t partition = head->record.partition, slot = partition / pass->bucket_count;
    bool is_tx = head->record.entry_kind == ENTRY_TX;
    if (is_tx) {
        if (partition % pass->bucket_count != pass->salt.bucket ||
            partition >= pass->partition_count)
            return "entry partition";
        uint64_t next = state->next_seq[slot];
        if (pass->gapped ? head->first_seq < next && !pass->cut_blind : head->first_seq != next)
            return "partition sequence";
    }
    struct wal_voters voters;
    struct wal_group_id group = {.cluster_id = pass->salt.cluster_id,
                                 .bucket = (uint32_t)pass->salt.bucket,
                                 .bucket_count = pass->bucket_count,
                                 .partition_count = pass->partition_count};
    bool is_config = head->record.entry_kind == ENTRY_CONFIG;
    if (is_config && wal_config_parse(bytes, &group, &voters) != ERR_OK)
        return "config body";

    if (is_tx)
        state->next_seq[slot] = head->first_seq + head->record.count;
    if (is_config)
        wal_undo_config(&pass->undo, head->idx, &voters);
    struct tail_entry noted = {.idx = head->idx,
                               .term = head->term,
                               .chain = head->chain,
                               .at = {.segment = pass->salt.segment, .offset = offset},
                               .len = head->record.len,
                               .kind = head->record.entry_kind,
                               .partition = partition,
                               .count = head->record.count,
                               .first_seq = head->first_seq};
    wal_undo_push(&pass->undo, &noted);
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

/* Whether it is the next one. Behind a gap: whether the gap hides entries. */
static const char *entry_follows(struct wal_pass *pass, uint64_t offset, struct span bytes)
{
    static const char chain[] = "chain";
    const struct entry_head *head = (const void *)bytes.ptr;
    struct wal_state *state = &pass->state;
    bool next = head->idx == state->last_idx + 1 && head->term >= state->last_term;
    bool deep = pass->deep || (pass->blind && next && !pass->adrift);
    if (!pass->blind && !next)
        return head->idx == state->last_idx + 1 ? "entry term" : "entry idx";
    if (head->term > state->term)
        return "entry term";
    if (head->idx <= pass->undo.commit_idx)
        return "entry idx";
    const char *what = deep ? chain_check(pass, offset, bytes, chain) : NULL;
    if (what != NULL && (what != chain || !pass->blind))
        return what;
    if (pass->blind && (!next || pass->adrift || what != NULL))
        gap_close(pass, head->idx);
    pass->blind = pass->adrift = false;
    return NULL;
}

/* --- gaps and cuts --- */

/* What stands before a gap doesn't lead to what stands behind it: entries are missing, and a CUT
 * among them may have killed those before it that weren't committed. Nobody knows: they aren't
 * shown as alive. */
static void gap_close(struct wal_pass *pass, uint64_t next_idx)
{
    if (pass->undo.count > 0)
        (void)undo(pass, pass->undo.first);
    uint64_t from = pass->undo.commit_idx + 1;
    if (pass->hole_first == 0 && next_idx > from)
        pass->hole_first = from;
    if (next_idx > from)
        pass->hole_last = max_u64(pass->hole_last, next_idx - 1);
    pass->adrift = true;
}

/* False: what the state's last entry is now isn't known. */
static bool undo(struct wal_pass *pass, uint64_t from_idx)
{
    struct wal_undone undone;
    bool known = wal_undo_cut(&pass->undo, from_idx, pass->bucket_count, &pass->state, &undone);
    ASSERT(pass->entries >= undone.entries && pass->events >= undone.events);
    pass->entries -= undone.entries;
    pass->events -= undone.events;
    if (pass->entries == 0)
        pass->first_idx = 0;
    if (undone.entries > 0 && pass->scan->on_cut != NULL)
        pass->scan->on_cut(pass->scan->ctx, from_idx);
    return known;
}

/* Behind a bad place no batch is whole: the newest mark there is all that tells of what was lost.
 */
static void end_adopt(struct wal_pass *pass, const struct wal_behind *behind)
{
    const struct batch_mark *last = &behind->last;
    struct wal_state *state = &pass->state;
    bool told = last->number != 0 && last->last_idx <= WAL_NUMBER_MAX &&
                last->term <= WAL_NUMBER_MAX && last->last_idx >= pass->undo.commit_idx &&
                last->commit_hint <= last->last_idx;
    pass->end_unknown = !told || behind->nonzero_end > last->offset + last->bytes;
    if (told) {
        state->term = last->term;
        state->voted_for = last->voted_for;
        state->batch_no = last->number;
        bool same = last->last_idx == state->last_idx && last->last_term == state->last_term;
        if (!same || pass->adrift) {
            gap_close(pass, last->last_idx + 1);
            state->last_idx = last->last_idx;
            state->last_term = last->last_term;
        }
        wal_undo_commit(&pass->undo, last->commit_hint);
    }
    if (pass->end_unknown) {
        if (pass->hole_first == 0)
            pass->hole_first = pass->undo.commit_idx + 1;
        pass->hole_last = UINT64_MAX;
    }
}

/* Every event or the config body, and the chain over them. */
static const char *chain_check(struct wal_pass *pass, uint64_t offset, struct span bytes,
                               const char *chain_wrong)
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
    return chain == head->chain ? NULL : chain_wrong;
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
            if (mark && len - i >= sizeof(struct batch_mark))
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
    if (mark.number > behind->last.number)
        behind->last = mark;
    if (at == bad)
        return;
    if (mark.synced_upto.segment == pass->salt.segment && mark.synced_upto.offset > bad)
        behind->synced = true;
    if (mark.magic == BATCH_HEAD_MAGIC && mark.offset == at && behind->next_head == 0)
        behind->next_head = at;
}
