/* The log in good order: what is appended comes back, at its place, across segments, compression
 * and full disks. */
#include <stdio.h>
#include <stdlib.h>

#include "bucketd/core/wal_internal.h"
#include "tests/unit/bucketd/wal_support.h"

static struct wal_recovery open_and_begin(struct run *run)
{
    struct wal_recovery recovery;
    ck_assert_int_eq(run_open(run, &recovery), ERR_OK);
    ck_assert(!recovery.damaged);
    ck_assert_uint_eq(run->seen_wrong, 0);
    ck_assert(run_term(run));
    return recovery;
}

static void append_many(struct run *run, int count, int per_flush)
{
    for (int i = 0; i < count; i++) {
        ck_assert(run_append(run));
        if (i % per_flush == per_flush - 1)
            run_flush(run);
    }
    run_flush(run);
}

START_TEST(the_first_start_writes_the_configuration_as_entry_1)
{
    struct run *run = run_new(1 << 20, 100, NULL);
    struct wal_recovery recovery;
    ck_assert_int_eq(run_open(run, &recovery), ERR_OK);
    ck_assert(recovery.created && recovery.segments == 1 && recovery.segment == 0 &&
              recovery.entries == 1);
    ck_assert_uint_eq(wal_last_idx(run->wal), 1);
    ck_assert_uint_eq(wal_term(run->wal), 0);
    ck_assert_uint_eq(wal_durable_idx(run->wal), 1);
    ck_assert_uint_eq(recovery.data_start, FORMAT_BLOCK * 3);
    ck_assert_uint_eq(run_check(run), 1);
    uint64_t chain = wal_last_chain(run->wal);
    run_kill(run);
    ck_assert_int_eq(run_open(run, &recovery), ERR_OK);
    ck_assert(!recovery.created);
    ck_assert_uint_eq(wal_last_chain(run->wal), chain);
    run_free(run);
}
END_TEST

START_TEST(what_was_appended_comes_back_after_a_kill)
{
    struct run *run = run_new(1 << 20, 200, NULL);
    open_and_begin(run);
    append_many(run, 300, 7);
    ck_assert_uint_eq(run->acked, 302); /* config, noop, 300 transactions */
    uint64_t chain = wal_last_chain(run->wal), end = wal_durable_end(run->wal, 0);
    run_kill(run);
    struct wal_recovery recovery;
    ck_assert_int_eq(run_open(run, &recovery), ERR_OK);
    ck_assert_uint_eq(run->seen, 302);
    ck_assert_uint_eq(run->seen_wrong, 0);
    ck_assert_uint_eq(recovery.torn_bytes, 0);
    ck_assert_uint_eq(recovery.data_end, end);
    ck_assert_uint_eq(wal_last_chain(run->wal), chain);
    ck_assert_uint_eq(wal_term(run->wal), 1);
    ck_assert(run_term(run));
    ck_assert_uint_eq(wal_term(run->wal), 2);
    append_many(run, 10, 3);
    ck_assert_uint_eq(run_check(run), 313);
    run_free(run);
}
END_TEST

START_TEST(what_was_not_flushed_is_gone_and_nothing_else)
{
    struct run *run = run_new(1 << 20, 200, NULL);
    open_and_begin(run);
    append_many(run, 20, 20);
    for (int i = 0; i < 5; i++)
        ck_assert(run_append(run));
    run_kill(run);
    open_and_begin(run);
    ck_assert_uint_eq(wal_last_idx(run->wal), 23);
    run_flush(run);
    ck_assert_uint_eq(run_check(run), 23);
    run_free(run);
}
END_TEST

START_TEST(small_segments_roll_over_again_and_again)
{
    for (uint64_t size = 4096; size <= 65536; size *= 2) {
        struct run *run = run_new(size, 60, NULL);
        open_and_begin(run);
        append_many(run, 400, 5);
        ck_assert_uint_gt(run->rolls, 1);
        ck_assert_uint_eq(run_check(run), 402);
        uint64_t segment = wal_segment(run->wal);
        ck_assert_uint_eq(segment, run->rolls);
        ck_assert_uint_eq(wal_durable_end(run->wal, segment - 1), UINT64_MAX);
        ck_assert_uint_eq(wal_durable_end(run->wal, segment + 1), 0);
        run_kill(run);
        struct wal_recovery recovery = open_and_begin(run);
        ck_assert_uint_eq(recovery.segments, segment + 1);
        append_many(run, 30, 5);
        ck_assert_uint_eq(run_check(run), 433);
        run_free(run);
    }
}
END_TEST

START_TEST(jobs_in_any_order_give_the_same_log)
{
    struct run *run = run_new(8192, 60, NULL);
    open_and_begin(run);
    for (int i = 0; i < 300; i++) {
        while (!run_append(run))
            ck_abort();
        wal_flush(run->wal);
        if (run->mem->jobs_count > 0)
            mem_disk_run_job(run->mem, (size_t)i % run->mem->jobs_count);
    }
    run_flush(run);
    ck_assert_uint_eq(run_check(run), wal_last_idx(run->wal));
    run_free(run);
}
END_TEST

/* Work that prepares space may end long after the log has moved on. This size of a segment leaves a
 * last step of 4 KiB, which is smaller than many of the entries: the log is at a segment's end
 * while it is still being extended. */
START_TEST(slow_preparation_of_space_does_no_harm)
{
    struct run *run = run_new(147456, 6000, NULL);
    open_and_begin(run);
    for (int i = 0; i < 1000; i++) {
        ck_assert(run_append(run));
        wal_flush(run->wal);
        for (size_t j = 0; j < run->mem->jobs_count;) {
            if (run->mem->jobs[j] == &run->wal->ahead.job)
                j++; /* until it is waited for */
            else
                mem_disk_run_job(run->mem, j);
        }
    }
    run_flush(run);
    ck_assert_uint_gt(run->rolls, 10);
    ck_assert_uint_eq(run_check(run), wal_last_idx(run->wal));
    run_free(run);
}
END_TEST

START_TEST(the_sequences_of_a_new_segments_checkpoint_are_those_before_it)
{
    struct run *run = run_new(8192, 60, NULL);
    open_and_begin(run);
    uint64_t rolls = 0, before[8], events = 0, events_in_segment = 0;
    for (int i = 0; i < 200; i++) {
        for (uint32_t slot = 0; slot < 8; slot++)
            before[slot] = wal_next_seq(run->wal, slot * 4 + 1);
        ck_assert(run_append(run));
        uint64_t after = 0;
        for (uint32_t slot = 0; slot < 8; slot++)
            after += wal_next_seq(run->wal, slot * 4 + 1);
        if (run->rolls > rolls) {
            for (uint32_t slot = 0; slot < 8; slot++)
                ck_assert_uint_eq(wal_checkpoint_seq(run->wal, slot * 4 + 1), before[slot]);
            ck_assert_uint_eq(wal_events_before(run->wal), events);
            events_in_segment = 0;
        }
        events_in_segment += after - events;
        events = after;
        rolls = run->rolls;
    }
    run_flush(run);
    run_kill(run);
    struct wal_recovery recovery = open_and_begin(run);
    ck_assert_uint_eq(wal_events_before(run->wal) + recovery.events, events);
    ck_assert_uint_eq(recovery.events, events_in_segment);
    run_free(run);
}
END_TEST

START_TEST(compressed_events_come_back_and_take_less)
{
    uint64_t ends[2];
    for (int compression = 0; compression < 2; compression++) {
        struct run *run = run_new(4 << 20, 3000, NULL);
        run->config.compression = compression != 0;
        open_and_begin(run);
        append_many(run, 300, 20);
        ends[compression] = wal_durable_end(run->wal, 0);
        ck_assert_uint_eq(run_check(run), 302);
        run_kill(run);
        open_and_begin(run);
        run_free(run);
    }
    ck_assert_uint_lt(ends[1] * 10, ends[0] * 7);
}
END_TEST

START_TEST(compression_does_not_change_the_chain)
{
    uint64_t chains[2];
    for (int compression = 0; compression < 2; compression++) {
        struct run *run = run_new(1 << 20, 1000, NULL);
        run->config.compression = compression != 0;
        open_and_begin(run);
        append_many(run, 50, 20);
        chains[compression] = wal_last_chain(run->wal);
        run_free(run);
    }
    ck_assert_uint_eq(chains[0], chains[1]);
}
END_TEST

/* A transaction of as many events as fill the largest entry, and events of several MiB. */
START_TEST(large_transactions_and_large_events)
{
    struct run *run = run_new(64 << 20, 10, NULL);
    open_and_begin(run);
    enum { COUNT = 40000 };
    struct wal_event *events = calloc(COUNT, sizeof *events);
    uint32_t *positions = calloc(COUNT, sizeof *positions);
    uint8_t *big = calloc(1, 9 << 20);
    for (size_t i = 0; i < (9 << 20); i++)
        big[i] = (uint8_t)(i * 2654435761u >> 13);
    for (uint32_t i = 0; i < COUNT; i++)
        events[i] = (struct wal_event){
            .version = i, .stream = span_str("s"), .payload = span_of(big + i, 300)};
    struct uuid id = {.bytes = {9}};
    uint64_t bounds[] = {wal_entry_bound(events, COUNT), 0};
    struct wal_event huge = {.stream = span_str("huge"), .payload = span_of(big, 9 << 20)};
    bounds[1] = wal_entry_bound(&huge, 1);
    run_flush(run);
    for (int which = 0; which < 2; which++) {
        enum err err;
        while ((err = wal_fits(run->wal, bounds[which], ROOM_WAIT)) == ERR_AGAIN)
            run_flush(run);
        ck_assert_int_eq(err, ERR_OK);
        wal_append_tx(run->wal, 1, &id, &id, which == 0 ? events : &huge, which == 0 ? COUNT : 1,
                      positions);
    }
    ck_assert_int_eq(wal_fits(run->wal, 100, ROOM_WAIT),
                     ERR_AGAIN); /* a group that has grown so far leaves first */
    run_flush(run);
    struct format_salt salt = {.cluster_id = run->config.cluster_id, .bucket = 1};
    struct wal_scan scan = {0};
    struct wal_scan_result result;
    ck_assert_int_eq(wal_scan_segment(&run->mem->disk, 0, &salt, &scan, &result), ERR_OK);
    ck_assert_uint_eq(result.problems, 0);
    ck_assert_uint_eq(result.events, COUNT + 1);
    ck_assert_int_eq(wal_fits(run->wal, wal_entry_max(run->wal) + 8, ROOM_WAIT), ERR_MAXSIZE);
    free(events);
    free(positions);
    free(big);
    run_free(run);
}
END_TEST

START_TEST(a_flipped_bit_of_an_event_or_its_head_is_never_returned)
{
    struct run *run = run_new(1 << 20, 200, NULL);
    run->config.compression = true;
    open_and_begin(run);
    append_many(run, 6, 6);
    struct buf scratch = {0};
    struct format_salt salt = {.cluster_id = run->config.cluster_id, .bucket = 1};
    uint8_t *file = mem_disk_bytes(run->mem, "segments/0000000000/data.evts")->ptr;
    for (uint64_t idx = 3; idx <= 8; idx++) {
        struct event_view view;
        uint32_t distance, len;
        uint64_t at = (uint64_t)run->positions[idx][0] * POSITION_UNIT;
        ck_assert_int_eq(wal_event_extent(span_of(file + at, 72), &distance, &len), ERR_OK);
        struct span event = span_of(file + at, len);
        struct span head = span_of(file + at - distance, sizeof(struct entry_head));
        for (size_t bit = 0; bit < (head.len + len) * 8; bit++) {
            uint8_t *byte = bit / 8 < head.len ? file + at - distance + bit / 8
                                               : file + at + bit / 8 - head.len;
            *byte ^= (uint8_t)(1u << bit % 8);
            enum err err = wal_decode_event(&salt, at - distance, head, at, event, &scratch, &view);
            ck_assert_int_eq(err, ERR_CORRUPT);
            *byte ^= (uint8_t)(1u << bit % 8);
        }
        ck_assert_int_eq(wal_decode_event(&salt, at - distance, head, at, event, &scratch, &view),
                         ERR_OK);
    }
    buf_release(&scratch);
    run_free(run);
}
END_TEST

START_TEST(every_event_can_be_read_at_its_position)
{
    struct run *run = run_new(16384, 400, NULL);
    run->config.compression = true;
    open_and_begin(run);
    append_many(run, 100, 6);
    struct buf scratch = {0};
    for (uint64_t idx = 3; idx <= 102; idx++) {
        struct run_tx tx;
        char dir[32], path[64];
        run_tx_make(run, idx, &tx);
        snprintf(path, sizeof path, "%s/data.evts", wal_segment_dir(run->segments[idx], dir));
        const struct buf *file = mem_disk_bytes(run->mem, path);
        struct format_salt salt = {
            .cluster_id = run->config.cluster_id, .bucket = 1, .segment = run->segments[idx]};
        for (uint32_t i = 0; i < tx.count; i++) {
            uint64_t at = (uint64_t)run->positions[idx][i] * POSITION_UNIT;
            uint32_t distance, len;
            ck_assert_int_eq(wal_event_extent(span_of(file->ptr + at, 71), &distance, &len),
                             ERR_TRUNCATED);
            ck_assert_int_eq(wal_event_extent(span_of(file->ptr + at, 72), &distance, &len),
                             ERR_OK);
            struct span head = span_of(file->ptr + at - distance, sizeof(struct entry_head));
            struct event_view view;
            ck_assert_int_eq(wal_decode_event(&salt, at - distance, head, at,
                                              span_of(file->ptr + at, len), &scratch, &view),
                             ERR_OK);
            ck_assert(span_equal(view.payload, tx.events[i].payload));
            ck_assert_uint_eq(view.sequence, run->first_seq[idx] + i);
            /* The right bytes in the wrong place are wrong. */
            ck_assert_int_eq(wal_decode_event(&salt, at - distance + 8, head, at + 8,
                                              span_of(file->ptr + at, len), &scratch, &view),
                             ERR_CORRUPT);
            salt.segment++;
            ck_assert_int_eq(wal_decode_event(&salt, at - distance, head, at,
                                              span_of(file->ptr + at, len), &scratch, &view),
                             ERR_CORRUPT);
            salt.segment--;
            ck_assert_int_eq(wal_decode_event(&salt, at - distance, head, at,
                                              span_of(file->ptr + at, len - 8), &scratch, &view),
                             ERR_CORRUPT);
        }
        buf_release(&tx.bytes);
    }
    buf_release(&scratch);
    run_free(run);
}
END_TEST

START_TEST(bytes_on_their_way_can_be_read)
{
    struct run *run = run_new(1 << 20, 100, NULL);
    open_and_begin(run);
    run_flush(run);
    uint64_t idx[2];
    for (int i = 0; i < 2; i++) {
        ck_assert(run_append(run));
        idx[i] = wal_last_idx(run->wal);
        if (i == 0)
            wal_flush(run->wal); /* stays in flight: its job isn't run */
    }
    for (int i = 0; i < 2; i++) {
        uint64_t at = (uint64_t)run->positions[idx[i]][0] * POSITION_UNIT;
        struct span bytes = wal_tail_bytes(run->wal, 0, at, sizeof(struct event_head));
        ck_assert_uint_eq(bytes.len, sizeof(struct event_head));
        ck_assert_uint_eq(load_u64(bytes.ptr + offsetof(struct event_head, event_id)), idx[i]);
        ck_assert_uint_eq(wal_tail_bytes(run->wal, 1, at, 8).len, 0);
        ck_assert_uint_eq(wal_tail_bytes(run->wal, 0, at, 1 << 20).len, 0);
    }
    ck_assert_uint_eq(wal_tail_bytes(run->wal, 0, 4096, 8).len, 0);
    mem_disk_settle(run->mem);
    ck_assert_uint_eq(wal_tail_bytes(run->wal, 0, (uint64_t)run->positions[idx[0]][0] * 8, 8).len,
                      0);
    run_flush(run);
    ck_assert_uint_eq(run_check(run), idx[1]);
    run_free(run);
}
END_TEST

START_TEST(a_witness_follows_once_when_it_is_quiet)
{
    struct run *run = run_new(1 << 20, 100, NULL);
    open_and_begin(run);
    ck_assert(!wal_flush_witness(run->wal)); /* something waits: its flush comes first */
    append_many(run, 3, 3);
    ck_assert(wal_flush_witness(run->wal));
    ck_assert(!wal_flush_witness(run->wal));
    mem_disk_settle(run->mem);
    ck_assert(!wal_flush_witness(run->wal));
    run_kill(run);
    open_and_begin(run);
    append_many(run, 1, 1);
    ck_assert(wal_flush_witness(run->wal));
    mem_disk_settle(run->mem);
    ck_assert_uint_eq(run_check(run), 7);
    run_free(run);
}
END_TEST

START_TEST(one_flush_is_one_write_and_one_sync)
{
    struct run *run = run_new(1 << 20, 100, NULL);
    open_and_begin(run);
    append_many(run, 3, 3);
    uint64_t ops = run->mem->ops, syncs = run->mem->sync_count;
    for (int i = 0; i < 5; i++)
        ck_assert(run_append(run));
    run_flush(run);
    ck_assert_uint_eq(run->mem->ops - ops, 2);
    ck_assert_uint_eq(run->mem->sync_count - syncs, 1);
    run_free(run);
}
END_TEST

START_TEST(a_full_disk_is_met_before_anything_is_encoded_and_passes)
{
    for (size_t capacity = 80 << 10; capacity < 400 << 10; capacity += 7 << 10) {
        struct run *run = run_new(32 << 10, 300, NULL);
        run->mem->capacity = capacity;
        struct wal_recovery recovery;
        ck_assert_int_eq(run_open(run, &recovery), ERR_OK);
        bool room = run_term(run);
        while (room)
            room = run_append(run);
        run_flush(run);
        ck_assert(!run->mem->fatal);
        ck_assert(wal_disk_full(run->wal));
        uint64_t last = wal_last_idx(run->wal);
        ck_assert_uint_eq(run->acked, last > 1 ? last : 0);
        ck_assert_uint_eq(run_check(run), last);

        /* Starting on the full disk, more than once. */
        for (int i = 0; i < 2; i++) {
            run_kill(run);
            ck_assert_int_eq(run_open(run, &recovery), ERR_OK);
            ck_assert_uint_eq(wal_last_idx(run->wal), last);
            ck_assert_uint_eq(run->seen_wrong, 0);
        }
        while (run_append(run))
            continue;
        last = wal_last_idx(run->wal);
        run_flush(run);
        uint64_t spaces = run->spaces;
        wal_retry_space(run->wal);
        mem_disk_settle(run->mem);
        ck_assert_uint_eq(run->spaces, spaces + 1);
        ck_assert(!run_append(run));
        ck_assert(wal_disk_full(run->wal));

        run->mem->capacity = 0;
        wal_retry_space(run->wal);
        mem_disk_settle(run->mem);
        ck_assert(!wal_disk_full(run->wal));
        ck_assert(run_term(run));
        append_many(run, 50, 5);
        ck_assert_uint_eq(run_check(run), last + 51);
        run_free(run);
    }
}
END_TEST

START_TEST(a_first_start_on_a_full_disk_leaves_nothing_in_the_way)
{
    struct run *run = run_new(1 << 20, 100, NULL);
    run->mem->capacity = 10000;
    struct wal_recovery recovery;
    ck_assert_int_eq(run_open(run, &recovery), ERR_FULL);
    run_kill(run);
    run->mem->capacity = 0;
    open_and_begin(run);
    run_flush(run);
    ck_assert_uint_eq(run_check(run), 2);
    run_free(run);
}
END_TEST

static void expect_refused(struct run *run, const char *text)
{
    struct wal_recovery recovery;
    ck_assert_int_eq(run_open(run, &recovery), ERR_CORRUPT);
    ck_assert_msg(strstr(run->mem->last_error, text) != NULL, "\"%s\" lacks \"%s\"",
                  run->mem->last_error, text);
    run_kill(run);
}

START_TEST(the_directory_of_another_bucket_is_refused_with_what_was_expected_and_found)
{
    struct run *run = run_new(1 << 20, 100, NULL);
    open_and_begin(run);
    append_many(run, 3, 3);
    run_kill(run);
    const struct buf *file = mem_disk_bytes(run->mem, "segments/0000000000/data.evts");
    struct buf before = {0};
    buf_append_span(&before, buf_span(file));
    struct wal_config config = run->config;
    run->config.cluster_id.bytes[0] ^= 1;
    expect_refused(run, "expected c0c1c1c1-c1c1-c1c1-c1c1-c1c1c1c1c1c1, found c1c1c1c1-");
    run->config = config;
    run->config.bucket = 2;
    expect_refused(run, "bucket: expected 2, found 1");
    run->config = config;
    run->config.bucket_count = 8;
    expect_refused(run, "bucket count: expected 8, found 4");
    run->config = config;
    run->config.partition_count = 64;
    expect_refused(run, "partition count: expected 64, found 32");
    run->config = config;
    run->config.node = 3;
    expect_refused(run, "node: expected 3, found 0");
    run->config = config;
    ck_assert(span_equal(buf_span(file), buf_span(&before)));
    buf_release(&before);
    open_and_begin(run);
    run_free(run);
}
END_TEST

START_TEST(a_missing_segment_is_noticed)
{
    struct run *run = run_new(8192, 60, NULL);
    open_and_begin(run);
    append_many(run, 200, 5);
    run_kill(run);
    ck_assert_int_eq(run->mem->disk.ops->unlink(&run->mem->disk, "segments/0000000001/data.evts"),
                     ERR_OK);
    expect_refused(run, "segments/0000000001/data.evts");
    ck_assert_int_eq(run->mem->disk.ops->unlink(&run->mem->disk, "segments/0000000001"), ERR_OK);
    expect_refused(run, "segments/0000000001/data.evts");
    run_free(run);
}
END_TEST

START_TEST(a_changed_segment_size_is_taken_up)
{
    struct run *run = run_new(256 << 10, 200, NULL);
    open_and_begin(run);
    append_many(run, 200, 5);
    run_kill(run);
    for (uint64_t size = 8192; size <= 1 << 20; size *= 128) {
        run->config.segment_bytes = size;
        open_and_begin(run);
        append_many(run, 100, 5);
        run_kill(run);
    }
    open_and_begin(run);
    run_flush(run);
    ck_assert_uint_eq(run_check(run), wal_last_idx(run->wal));
    ck_assert_uint_gt(run->rolls, 1);
    run_free(run);
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("wal_write");
    tcase_set_timeout(tcase, 100);
    tcase_add_test(tcase, the_first_start_writes_the_configuration_as_entry_1);
    tcase_add_test(tcase, what_was_appended_comes_back_after_a_kill);
    tcase_add_test(tcase, what_was_not_flushed_is_gone_and_nothing_else);
    tcase_add_test(tcase, small_segments_roll_over_again_and_again);
    tcase_add_test(tcase, jobs_in_any_order_give_the_same_log);
    tcase_add_test(tcase, slow_preparation_of_space_does_no_harm);
    tcase_add_test(tcase, the_sequences_of_a_new_segments_checkpoint_are_those_before_it);
    tcase_add_test(tcase, compressed_events_come_back_and_take_less);
    tcase_add_test(tcase, compression_does_not_change_the_chain);
    tcase_add_test(tcase, large_transactions_and_large_events);
    tcase_add_test(tcase, a_flipped_bit_of_an_event_or_its_head_is_never_returned);
    tcase_add_test(tcase, every_event_can_be_read_at_its_position);
    tcase_add_test(tcase, bytes_on_their_way_can_be_read);
    tcase_add_test(tcase, a_witness_follows_once_when_it_is_quiet);
    tcase_add_test(tcase, one_flush_is_one_write_and_one_sync);
    tcase_add_test(tcase, a_full_disk_is_met_before_anything_is_encoded_and_passes);
    tcase_add_test(tcase, a_first_start_on_a_full_disk_leaves_nothing_in_the_way);
    tcase_add_test(tcase,
                   the_directory_of_another_bucket_is_refused_with_what_was_expected_and_found);
    tcase_add_test(tcase, a_missing_segment_is_noticed);
    tcase_add_test(tcase, a_changed_segment_size_is_taken_up);
    Suite *suite = suite_create("wal_write");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
