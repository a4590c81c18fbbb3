/* One replica's log among others: entries taken over from another log, and what a damaged log may
 * still do. */
#include <stdio.h>
#include <stdlib.h>

#include "bucketd/core/wal_internal.h"
#include "tests/unit/bucketd/wal_support.h"

#define DATA_0 "segments/0000000000/data.evts"

static struct run *replica_new(uint32_t node, uint64_t segment_bytes, size_t data_max)
{
    struct run *run = run_new(segment_bytes, data_max, NULL);
    run->config.node = node;
    run->config.replica_count = 3;
    for (uint32_t i = 0; i < 3; i++)
        run->config.replicas[i] = i;
    run->commits = true;
    return run;
}

static void open_whole(struct run *run)
{
    struct wal_recovery recovery;
    ck_assert_int_eq(run_open(run, &recovery), ERR_OK);
    ck_assert(!recovery.damaged);
}

/* --- entries of another log --- */

struct copies {
    struct buf bytes; /* entries, one behind the other */
    uint64_t from;
};

static void copy_entry(void *ctx, const struct wal_entry *entry)
{
    struct copies *copies = ctx;
    if (entry->head->idx >= copies->from)
        buf_append_span(&copies->bytes, entry->bytes);
}

static struct buf copies_of(struct run *run, uint64_t from)
{
    struct copies copies = {.from = from};
    struct wal_scan scan = {.ctx = &copies, .on_entry = copy_entry};
    struct wal_scan_result result;
    struct format_salt salt = {.cluster_id = run->config.cluster_id, .bucket = run->config.bucket};
    for (uint64_t segment = 0; segment <= wal_segment(run->wal); segment++)
        ck_assert_int_eq(wal_scan_segment(&run->mem->disk, segment, &salt, &scan, &result), ERR_OK);
    return copies.bytes;
}

/* Zeroes the CRCs, which are of the place. */
static void unsign(uint8_t *entry)
{
    struct entry_head head;
    memcpy(&head, entry, sizeof head);
    store_u32(entry, 0);
    size_t at = sizeof head;
    if (head.record.entry_kind == ENTRY_CONFIG)
        store_u32(entry + at, 0);
    for (uint32_t i = 0; i < head.record.count; i++) {
        store_u32(entry + at, 0);
        at += load_u32(entry + at + offsetof(struct event_head, len));
    }
}

static void unsign_all(struct buf *copies)
{
    struct entry_head head;
    for (size_t at = 0; at < copies->len; at += head.record.len) {
        memcpy(&head, copies->ptr + at, sizeof head);
        unsign(copies->ptr + at);
    }
}

static void take(struct run *run, struct span bytes)
{
    enum err err;
    struct wal_entry entry;
    struct entry_head head;
    ck_assert_int_eq(wal_peek_entry(bytes, &head), ERR_OK);
    while ((err = wal_fits(run->wal, bytes.len, ROOM_WAIT)) == ERR_AGAIN) {
        run_flush(run);
        wal_commit(run->wal, wal_durable_idx(run->wal));
    }
    ck_assert_int_eq(err, ERR_OK);
    if (head.term > wal_term(run->wal)) {
        ck_assert_int_eq(wal_append_entry(run->wal, bytes, &entry), ERR_CORRUPT);
        wal_append_vote(run->wal, head.term, 0);
    }
    while ((err = wal_fits(run->wal, bytes.len, ROOM_WAIT)) == ERR_AGAIN) {
        run_flush(run);
        wal_commit(run->wal, wal_durable_idx(run->wal));
    }
    ck_assert_int_eq(err, ERR_OK);
    run->is_tx[head.idx] = head.record.entry_kind == ENTRY_TX;
    run->first_seq[head.idx] = head.first_seq;
    ck_assert_int_eq(wal_append_entry(run->wal, bytes, &entry), ERR_OK);
    ck_assert_uint_eq(entry.head->idx, head.idx);
    ck_assert_uint_eq(entry.bytes.len, bytes.len);
    ck_assert_uint_eq(entry.segment, wal_segment(run->wal));
    ck_assert_uint_eq(wal_last_chain(run->wal), head.chain);
    ck_assert_uint_eq(wal_last_term(run->wal), head.term);
}

static struct run *leader_new(size_t data_max, int entries, bool compression)
{
    struct run *leader = replica_new(0, 1 << 20, data_max);
    struct wal_voters voters = {.count = 2, .list = {{1, 2, 3}, {4, 5, 6}}};
    leader->config.compression = compression;
    open_whole(leader);
    ck_assert(run_term(leader));
    for (int i = 0; i < entries; i++)
        ck_assert(run_append(leader));
    run_reconfigure(leader, &voters);
    ck_assert(run_term(leader));
    for (int i = 0; i < entries; i++)
        ck_assert(run_append(leader));
    run_flush(leader);
    run_flush(leader);
    return leader;
}

/* Whatever the segments' sizes and the compression: the same entries, the same chain. */
START_TEST(entries_of_another_log_are_taken_over_byte_by_byte)
{
    for (uint64_t size = 4096; size <= 1 << 20; size *= 16) {
        struct run *leader = leader_new(3000, 40, true), *follower = replica_new(1, size, 100);
        follower->config.compression = size > 4096;
        open_whole(follower);
        struct buf entries = copies_of(leader, 2);
        struct entry_head head;
        uint64_t largest = 0;
        for (size_t at = 0; at < entries.len; at += head.record.len) {
            ck_assert_int_eq(wal_peek_entry(span_of(entries.ptr + at, entries.len - at), &head),
                             ERR_OK);
            /* Wherever in a message it came. */
            struct buf shifted = {0};
            buf_append_zeros(&shifted, at % 8 + 1);
            buf_append(&shifted, entries.ptr + at, head.record.len);
            take(follower, span_of(shifted.ptr + at % 8 + 1, head.record.len));
            buf_release(&shifted);
            largest = max_u64(largest, head.record.len);
        }
        ck_assert(size > 4096 || largest > wal_entry_max(follower->wal));
        run_flush(follower);
        run_flush(follower);
        struct run_state wanted = run_get_state(leader), got = run_get_state(follower);
        ck_assert_uint_eq(got.last_chain, wanted.last_chain);
        ck_assert_uint_eq(got.config_idx, wanted.config_idx);
        ck_assert(run_voters_equal(&got.voters, &wanted.voters));
        ck_assert_int_eq(memcmp(got.next_seq, wanted.next_seq, sizeof got.next_seq), 0);
        struct buf taken = copies_of(follower, 2);
        unsign_all(&entries);
        unsign_all(&taken);
        ck_assert(span_equal(buf_span(&entries), buf_span(&taken)));
        run_kill(follower);
        open_whole(follower);
        wanted.voted_for = got.voted_for;
        ck_assert_uint_eq(wal_last_chain(follower->wal), wanted.last_chain);
        ck_assert_uint_eq(wal_config_idx(follower->wal), wanted.config_idx);
        buf_release(&taken);
        buf_release(&entries);
        run_free(leader);
        run_free(follower);
    }
}
END_TEST

static bool is_crc(const uint8_t *entry, size_t byte)
{
    struct entry_head head;
    memcpy(&head, entry, sizeof head);
    size_t at = sizeof head;
    bool crc = byte < 4 || (head.record.entry_kind == ENTRY_CONFIG && byte >= at && byte < at + 4);
    for (uint32_t i = 0; i < head.record.count; i++) {
        crc |= byte >= at && byte < at + 4;
        at += load_u32(entry + at + offsetof(struct event_head, len));
    }
    return crc;
}

static void expect_refused(struct run *run, struct span bytes)
{
    struct run_state before = run_get_state(run);
    uint32_t records = run->wal->open->records;
    size_t len = run->wal->open->bytes.len;
    struct wal_entry entry;
    ck_assert_int_eq(wal_append_entry(run->wal, bytes, &entry), ERR_CORRUPT);
    run_expect_state(run, &before);
    ck_assert_uint_eq(run->wal->open->records, records);
    ck_assert_uint_eq(run->wal->open->bytes.len, len);
}

/* No CRC protects it on its way: the chain and the structure do, bit by bit. (Uncompressed: lz4 may
 * say the same in other bits.) */
START_TEST(a_damaged_entry_is_refused_and_nothing_of_it_appended)
{
    struct run *leader = leader_new(200, 4, false), *follower = replica_new(1, 1 << 20, 100);
    open_whole(follower);
    wal_append_vote(follower->wal, 2, 0);
    struct buf entries = copies_of(leader, 2);
    struct entry_head head;
    uint64_t refused = 0;
    for (size_t at = 0; at < entries.len; at += head.record.len) {
        uint8_t *bytes = entries.ptr + at;
        memcpy(&head, bytes, sizeof head);
        while (wal_fits(follower->wal, head.record.len, ROOM_MUST) == ERR_AGAIN)
            run_flush(follower);
        for (size_t bit = 0; bit < head.record.len * 8; bit++) {
            if (is_crc(bytes, bit / 8))
                continue;
            bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
            expect_refused(follower, span_of(bytes, head.record.len));
            bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
            refused++;
        }
        for (size_t len = 0; len < head.record.len; len += 8)
            expect_refused(follower, span_of(bytes, len));
        if (at + head.record.len < entries.len)
            expect_refused(follower, span_of(bytes, head.record.len + 8));
        take(follower, span_of(bytes, head.record.len));
        expect_refused(follower, span_of(bytes, head.record.len)); /* twice */
    }
    ck_assert_uint_gt(refused, 10000);
    ck_assert_uint_eq(wal_last_chain(follower->wal), wal_last_chain(leader->wal));
    buf_release(&entries);
    run_free(leader);
    run_free(follower);
}
END_TEST

START_TEST(an_entry_that_another_history_leads_to_is_refused)
{
    struct run *leader = leader_new(200, 4, false), *follower = replica_new(1, 1 << 20, 100);
    open_whole(follower);
    ck_assert(run_term(follower));
    wal_append_vote(follower->wal, 2, 0);
    ck_assert(run_append(follower));
    follower->cuts[3] = 1; /* another entry at idx 3 */
    struct buf entries = copies_of(leader, 4);
    struct entry_head head;
    memcpy(&head, entries.ptr, sizeof head);
    expect_refused(follower, span_of(entries.ptr, head.record.len));
    /* Nor at another idx. */
    buf_consume(&entries, head.record.len);
    memcpy(&head, entries.ptr, sizeof head);
    expect_refused(follower, span_of(entries.ptr, head.record.len));
    buf_release(&entries);
    run_free(leader);
    run_free(follower);
}
END_TEST

/* --- damage --- */

/* Batches: 1 the configuration; 2 a vote and a no-op; then of 3 entries each; a vote for node 2 in
 * term 9; a witness. Returns where each began. */
struct history {
    struct run *run;
    uint64_t at[20];
    uint32_t batches, vote;
};

static void history_note(struct history *history)
{
    history->at[history->batches++] = wal_durable_end(history->run->wal, 0);
}

static struct history history_make(uint32_t replicas, uint64_t commit)
{
    struct history history = {.run = replica_new(0, 256 << 10, 100)};
    struct run *run = history.run;
    run->config.replica_count = replicas;
    run->config.replicas[0] = 0;
    open_whole(run);
    history.at[history.batches++] = 3 * FORMAT_BLOCK;
    history_note(&history);
    ck_assert(run_term(run));
    run_flush(run);
    for (int i = 0; i < 6; i++) {
        history_note(&history);
        for (int j = 0; j < 3; j++)
            ck_assert(run_append(run));
        run_flush(run);
        if (wal_last_idx(run->wal) >= commit)
            wal_commit(run->wal, max_u64(commit, wal_commit_idx(run->wal)));
    }
    history_note(&history);
    history.vote = history.batches - 1;
    wal_append_vote(run->wal, 9, 3);
    run_flush(run);
    history_note(&history);
    ck_assert(wal_flush_witness(run->wal));
    mem_disk_settle(run->mem);
    history_note(&history);
    ck_assert_uint_eq(wal_last_idx(run->wal), 20);
    run_kill(run);
    return history;
}

/* On the disk itself: a power cut doesn't undo it. */
static void change(struct run *run, uint64_t at, uint64_t end, uint8_t with)
{
    struct disk *disk = &run->mem->disk;
    struct file *file = NULL;
    ck_assert_int_eq(disk->ops->open(disk, DATA_0, OPEN_WRITE, &file), ERR_OK);
    for (; at < end; at++) {
        uint8_t byte = 0;
        if (with != 0)
            byte = mem_disk_bytes(run->mem, DATA_0)->ptr[at] ^ with;
        ck_assert_int_eq(disk->ops->pwrite(disk, file, at, &byte, 1), ERR_OK);
    }
    ck_assert_int_eq(disk->ops->sync(disk, file), ERR_OK);
    disk->ops->close(disk, file);
}

static void damage(const struct history *history, uint32_t batch)
{
    uint64_t at = history->at[batch] + sizeof(struct batch_mark) + 20;
    change(history->run, at, at + 1, 1);
}

static void expect_vote(struct run *run, uint64_t term)
{
    struct wal_recovery recovery;
    uint64_t last_idx = wal_last_idx(run->wal), last_term = wal_last_term(run->wal);
    enum err err;
    while ((err = wal_fits(run->wal, WAL_TERM_BOUND, ROOM_MUST)) == ERR_AGAIN)
        run_flush(run);
    ck_assert_int_eq(err, ERR_OK);
    ck_assert_int_eq(wal_fits(run->wal, WAL_TERM_BOUND, ROOM_WAIT), ERR_CORRUPT);
    ck_assert_int_eq(wal_fits(run->wal, WAL_TERM_BOUND + 8, ROOM_MUST), ERR_CORRUPT);
    struct buf *file = mem_disk_bytes(run->mem, DATA_0), before = {0};
    buf_append_span(&before, buf_span(file));
    while (before.ptr[before.len - 1] == 0)
        before.len--;
    uint64_t batch = wal_open_batch(run->wal);
    wal_append_vote(run->wal, term, 2);
    run_flush(run);
    ck_assert_uint_eq(wal_durable_batch(run->wal), batch);
    ck_assert(memcmp(file->ptr, before.ptr, before.len) == 0); /* evidence stays */
    buf_release(&before);
    run_move(run, mem_disk_crash(run->mem, 0));
    ck_assert_int_eq(run_open(run, &recovery), ERR_OK);
    ck_assert(recovery.damaged);
    ck_assert_uint_eq(wal_term(run->wal), term);
    ck_assert_uint_eq(wal_voted_for(run->wal), 2);
    ck_assert_uint_eq(wal_last_idx(run->wal), last_idx);
    ck_assert_uint_eq(wal_last_term(run->wal), last_term);
}

/* Whichever batch is damaged, the log says what it had come to, and votes. */
START_TEST(a_damaged_log_votes_honestly)
{
    for (uint64_t commit = 5; commit <= 20; commit += 15) {
        for (uint32_t batch = 0; batch < 9; batch++) {
            struct history history = history_make(3, commit);
            struct run *run = history.run;
            struct wal_recovery recovery;
            damage(&history, batch);
            ck_assert_int_eq(run_open(run, &recovery), ERR_OK);
            ck_assert(recovery.damaged);
            ck_assert_uint_eq(run->seen_wrong, 0);
            ck_assert_uint_eq(wal_last_idx(run->wal), 20);
            ck_assert_uint_eq(wal_last_term(run->wal), 1);
            ck_assert_uint_eq(wal_term(run->wal), 9);
            ck_assert_uint_eq(wal_voted_for(run->wal), 3);
            ck_assert_uint_eq(wal_commit_idx(run->wal), commit);
            if (batch == history.vote) {
                ck_assert(recovery.hole_first == 0 && recovery.hole_last == 0);
                ck_assert_uint_eq(run->seen, 20);
            } else {
                uint64_t first = batch == 0 ? 1 : batch == 1 ? 2 : 3 * batch - 3;
                uint64_t last = batch == 0 ? 1 : batch == 1 ? 2 : 3 * batch - 1;
                ck_assert_uint_eq(recovery.hole_last, last);
                /* What wasn't known to be committed before the hole may be dead. */
                ck_assert_uint_le(recovery.hole_first, first);
                ck_assert_uint_eq(run->seen, 20 - (last + 1 - recovery.hole_first));
            }
            expect_vote(run, 11);
            expect_vote(run, 12);
            run_free(run);
        }
    }
}
END_TEST

START_TEST(a_damaged_log_without_other_replicas_takes_nothing)
{
    struct history history = history_make(1, 20);
    struct run *run = history.run;
    struct wal_recovery recovery;
    damage(&history, 4);
    ck_assert_int_eq(run_open(run, &recovery), ERR_OK);
    ck_assert(recovery.damaged && recovery.hole_first == 9 && recovery.hole_last == 11);
    ck_assert_uint_eq(run->seen, 17);
    ck_assert_uint_eq(wal_last_idx(run->wal), 20);
    ck_assert_int_eq(wal_fits(run->wal, WAL_TERM_BOUND, ROOM_MUST), ERR_CORRUPT);
    run_free(run);
}
END_TEST

/* Damage up to the end: a mark that is left says what there was; where something stands behind it
 * nobody knows, and the log must not vote. */
START_TEST(a_log_that_cannot_tell_what_it_had_come_to_does_not_vote)
{
    struct wal_recovery recovery;
    struct history history = history_make(3, 14);
    struct run *run = history.run;
    uint32_t vote = history.vote;
    change(run, history.at[vote - 1], history.at[vote + 1] - sizeof(struct batch_mark), 0x55);
    change(run, history.at[vote + 1], history.at[vote + 2], 0x55);
    ck_assert_int_eq(run_open(run, &recovery), ERR_OK);
    ck_assert(recovery.damaged && recovery.hole_first == 15 && recovery.hole_last == UINT64_MAX);
    ck_assert_int_eq(wal_fits(run->wal, WAL_TERM_BOUND, ROOM_MUST), ERR_CORRUPT);
    run_free(run);
    /* The witness is gone, and the vote's batch but for its tail. */
    history = history_make(3, 14);
    run = history.run;
    damage(&history, vote - 1);
    damage(&history, vote);
    change(run, history.at[vote] + 9, history.at[vote] + 10, 1);
    change(run, history.at[vote + 1], history.at[vote + 2], 0);
    ck_assert_int_eq(run_open(run, &recovery), ERR_OK);
    ck_assert(recovery.damaged && recovery.hole_first == 15 && recovery.hole_last == 20);
    ck_assert_uint_eq(wal_last_idx(run->wal), 20);
    ck_assert_uint_eq(wal_term(run->wal), 9);
    expect_vote(run, 11);
    run_free(run);
}
END_TEST

/* A CUT may be where the damage is: what it killed must not come back as if it lived. */
START_TEST(what_a_damaged_cut_may_have_killed_is_not_shown)
{
    struct run *run = replica_new(0, 256 << 10, 100);
    open_whole(run);
    ck_assert(run_term(run));
    for (int i = 0; i < 8; i++)
        ck_assert(run_append(run)); /* 3 .. 10 */
    run_flush(run);
    wal_commit(run->wal, 6);
    ck_assert(run_append(run)); /* 11; its mark tells the hint */
    run_flush(run);
    uint64_t at = wal_durable_end(run->wal, 0);
    run_cut(run, 8);
    for (int i = 0; i < 2; i++)
        ck_assert(run_append(run)); /* 8, 9 */
    run_flush(run);
    for (int i = 0; i < 2; i++)
        ck_assert(run_append(run)); /* 10, 11 */
    run_flush(run);
    ck_assert(wal_flush_witness(run->wal));
    mem_disk_settle(run->mem);
    run_kill(run);
    mem_disk_bytes(run->mem, DATA_0)->ptr[at + 150] ^= 1;
    struct wal_recovery recovery;
    ck_assert_int_eq(run_open(run, &recovery), ERR_OK);
    ck_assert(recovery.damaged);
    ck_assert_uint_eq(run->seen_wrong, 0);
    ck_assert_uint_eq(run->seen, 8); /* 1 .. 6, 10, 11 */
    ck_assert(recovery.hole_first == 7 && recovery.hole_last == 9);
    ck_assert_uint_eq(wal_commit_idx(run->wal), 6);
    ck_assert_uint_eq(wal_last_idx(run->wal), 11);
    run_free(run);
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("wal_replica");
    tcase_set_timeout(tcase, 100);
    tcase_add_test(tcase, entries_of_another_log_are_taken_over_byte_by_byte);
    tcase_add_test(tcase, a_damaged_entry_is_refused_and_nothing_of_it_appended);
    tcase_add_test(tcase, an_entry_that_another_history_leads_to_is_refused);
    tcase_add_test(tcase, a_damaged_log_votes_honestly);
    tcase_add_test(tcase, a_damaged_log_without_other_replicas_takes_nothing);
    tcase_add_test(tcase, a_log_that_cannot_tell_what_it_had_come_to_does_not_vote);
    tcase_add_test(tcase, what_a_damaged_cut_may_have_killed_is_not_shown);
    Suite *suite = suite_create("wal_replica");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
