/* The log on a disk that lies: crashes at every operation with any part of what wasn't synced,
 * failing syncs, flipped bits, cut files, sectors in the wrong place. What was acknowledged comes
 * back or is reported; nothing wrong ever comes. */
#include <stdio.h>
#include <stdlib.h>

#include "common/limits.h"
#include "tests/unit/bucketd/wal_support.h"

#define DATA_0 "segments/0000000000/data.evts"

/* --- crashes --- */

/* A fixed sequence with rollovers, a witness and several flushes; ends early where the disk ends.
 * Returns whether it reached its end. */
static bool script(struct run *run)
{
    struct wal_recovery recovery;
    if (run_open(run, &recovery) != ERR_OK || !run_term(run))
        return false;
    for (int i = 0; i < 60; i++) {
        if (!run_append(run))
            return false;
        if (i % 4 == 3)
            wal_flush(run->wal);
        if (i % 3 == 0)
            mem_disk_run_job(run->mem, 0);
        if (i == 30) {
            run_flush(run);
            wal_flush_witness(run->wal);
        }
    }
    run_flush(run);
    return !run->mem->fatal;
}

static struct run *script_run(void)
{
    return run_new(6000, 120, NULL);
}

/* After a crash: recovers (twice, to the same bytes), has all that was acknowledged, and works. */
static void expect_recovery(struct run *run)
{
    struct wal_recovery recovery, again;
    uint64_t acked = run->acked;
    ck_assert_int_eq(run_open(run, &recovery), ERR_OK);
    ck_assert(!recovery.damaged);
    uint64_t last = wal_last_idx(run->wal);
    ck_assert_uint_ge(last, acked);
    ck_assert_uint_eq(run_check(run), last);
    run_kill(run);
    uint64_t hash = mem_disk_hash(run->mem, "data.evts");
    ck_assert_int_eq(run_open(run, &again), ERR_OK);
    ck_assert_uint_eq(wal_last_idx(run->wal), last);
    ck_assert_uint_eq(again.data_end, recovery.data_end);
    ck_assert_uint_eq(again.torn_bytes, 0);
    ck_assert_uint_eq(mem_disk_hash(run->mem, "data.evts"), hash);
    ck_assert(run_term(run));
    for (int i = 0; i < 5; i++)
        ck_assert(run_append(run));
    run_flush(run);
    ck_assert_uint_eq(run_check(run), wal_last_idx(run->wal));
    ck_assert_uint_eq(run->acked, wal_last_idx(run->wal));
}

START_TEST(a_crash_at_any_operation_loses_nothing_acknowledged)
{
    bool ended = false;
    uint64_t points = 0, lost_some = 0;
    for (uint64_t at = 1; !ended; at++) {
        for (uint64_t seed = 0; seed < 5; seed++) {
            struct run *run = script_run();
            run->mem->crash_at = at;
            ended = script(run);
            uint64_t before = wal_last_idx(run->wal);
            run_move(run, mem_disk_crash(run->mem, seed == 4 ? at * 1000 + 7 : seed));
            expect_recovery(run);
            lost_some += before > run->acked;
            run_free(run);
            points++;
        }
    }
    ck_assert_uint_gt(points, 500);
}
END_TEST

START_TEST(a_crash_at_any_operation_of_a_recovery_after_a_crash_neither)
{
    bool ended = false;
    for (uint64_t at = 1; !ended; at += 3) {
        bool recovered = false;
        for (uint64_t second = 1; !recovered; second++) {
            struct run *run = script_run();
            run->mem->crash_at = at;
            ended = script(run);
            run_move(run, mem_disk_crash(run->mem, at + 2));
            run->mem->crash_at = second;
            struct wal_recovery recovery;
            recovered = run_open(run, &recovery) == ERR_OK && run_term(run) && !run->mem->crashed;
            run_move(run, mem_disk_crash(run->mem, at * 100 + second));
            expect_recovery(run);
            run_free(run);
        }
    }
}
END_TEST

START_TEST(any_failing_operation_ends_the_process_and_loses_nothing)
{
    bool ended = false;
    for (uint64_t at = 1; !ended; at++) {
        struct run *run = script_run();
        run->mem->fail_at = at;
        run->mem->fail_with = ERR_IO;
        run->mem->fail_drops = true;
        ended = script(run);
        ck_assert(ended || run->mem->fatal || wal_last_idx(run->wal) <= 1);
        /* The process is started again on the same cache; then the power fails. */
        run_kill(run);
        expect_recovery(run);
        run_move(run, mem_disk_crash(run->mem, 0));
        expect_recovery(run);
        run_free(run);
    }
}
END_TEST

START_TEST(a_full_disk_at_any_operation_is_no_failure_of_what_was_promised)
{
    bool ended = false;
    for (uint64_t at = 1; !ended; at++) {
        struct run *run = script_run();
        run->mem->fail_at = at;
        run->mem->fail_with = ERR_FULL;
        ended = script(run);
        run_kill(run);
        expect_recovery(run);
        run_free(run);
    }
}
END_TEST

/* A failed sync may have dropped the pages: what recovery then finds in the cache isn't on the
 * disk, until it is written again. */
START_TEST(what_recovery_found_only_in_the_page_cache_is_durable_afterwards)
{
    struct run *run = run_new(1 << 20, 100, NULL);
    struct wal_recovery recovery;
    ck_assert_int_eq(run_open(run, &recovery), ERR_OK);
    ck_assert(run_term(run));
    run_flush(run);
    ck_assert(run_append(run));
    run->mem->fail_at = run->mem->ops + 2; /* the write goes well, its sync doesn't */
    run->mem->fail_with = ERR_IO;
    run->mem->fail_drops = true;
    uint64_t acked = run->acked;
    run_flush(run);
    ck_assert(run->mem->fatal);
    ck_assert_uint_eq(run->acked, acked);
    ck_assert_int_eq(wal_fits(run->wal, 100, ROOM_WAIT), ERR_IO);
    run_kill(run);
    ck_assert_int_eq(run_open(run, &recovery), ERR_OK);
    ck_assert_uint_eq(wal_last_idx(run->wal), acked + 1);
    ck_assert_uint_eq(wal_durable_idx(run->wal), acked + 1);
    run_move(run, mem_disk_crash(run->mem, 0));
    ck_assert_int_eq(run_open(run, &recovery), ERR_OK);
    ck_assert_uint_eq(wal_last_idx(run->wal), acked + 1);
    run_free(run);
}
END_TEST

/* --- damage
 * ------------------------------------------------------------------------------------------------
 */

#define IMAGE_BYTES (60u << 10)

/* A file of some 64 KiB: several batches, a witness at its end. */
struct image {
    struct run *run;
    struct buf bytes; /* of data.evts, to the end of its data */
    struct buf older; /* the same file when it was half as long */
    uint64_t last_idx;
    uint64_t file_size;
    uint64_t last_batch; /* offset of the last batch with entries; idx before it */
    uint64_t idx_before;
    uint64_t first_end; /* of the batch with the configuration */
    uint64_t witness;   /* offset */
    bool touched;       /* recovery has written to the file */
};

static void image_take(struct image *image, struct buf *bytes)
{
    const struct buf *file = mem_disk_bytes(image->run->mem, DATA_0);
    buf_clear(bytes, SIZE_MAX);
    buf_append(bytes, file->ptr, wal_durable_end(image->run->wal, 0));
}

static void image_make(struct image *image, uint8_t cluster)
{
    *image = (struct image){.run = run_new(80 << 10, 200, NULL)};
    struct run *run = image->run;
    struct wal_recovery recovery;
    memset(run->config.cluster_id.bytes, cluster, 16);
    ck_assert_int_eq(run_open(run, &recovery), ERR_OK);
    image->first_end = wal_durable_end(run->wal, 0);
    ck_assert(run_term(run));
    while (wal_durable_end(run->wal, 0) < IMAGE_BYTES) {
        if (wal_durable_end(run->wal, 0) < IMAGE_BYTES / 2)
            image_take(image, &image->older);
        image->last_batch = wal_durable_end(run->wal, 0);
        image->idx_before = wal_durable_idx(run->wal);
        for (int i = 0; i < 6; i++)
            ck_assert(run_append(run));
        run_flush(run);
    }
    image->witness = wal_durable_end(run->wal, 0);
    ck_assert(wal_flush_witness(run->wal));
    mem_disk_settle(run->mem);
    ck_assert_uint_eq(wal_segment(run->wal), 0);
    image->last_idx = wal_last_idx(run->wal);
    image_take(image, &image->bytes);
    image->file_size = mem_disk_bytes(run->mem, DATA_0)->len;
    image->touched = true;
    run_kill(run);
}

static void image_free(struct image *image)
{
    buf_release(&image->bytes);
    buf_release(&image->older);
    run_free(image->run);
}

/* Puts the whole image back. */
static uint8_t *image_reset(struct image *image)
{
    struct mem_disk *mem = image->run->mem;
    if (image->touched) {
        mem_disk_resize(mem, DATA_0, 0);
        mem_disk_resize(mem, DATA_0, image->file_size);
    }
    image->touched = false;
    uint8_t *file = mem_disk_bytes(mem, DATA_0)->ptr;
    memcpy(file, image->bytes.ptr, image->bytes.len);
    return file;
}

struct outcome {
    uint64_t clean, damaged, refused, torn;
};

/* Opens what the test has made of the image. `may_lose`: the damage lies at the very end, where the
 * last batch looks torn. */
static void expect_detected(struct image *image, bool may_lose, struct outcome *outcome)
{
    struct run *run = image->run;
    struct wal_recovery recovery;
    enum err err = run_open(run, &recovery);
    ck_assert(err == ERR_OK || err == ERR_CORRUPT);
    image->touched = err == ERR_OK && !recovery.damaged;
    ck_assert_uint_eq(run->seen_wrong, 0);
    if (err == ERR_CORRUPT) {
        outcome->refused++;
    } else if (recovery.damaged) {
        outcome->damaged++;
        ck_assert_int_eq(wal_fits(run->wal, 100, ROOM_WAIT), ERR_CORRUPT);
        ck_assert_uint_le(wal_last_idx(run->wal), image->last_idx);
        ck_assert(run->mem->last_error[0] != '\0');
    } else {
        ck_assert_uint_ge(wal_last_idx(run->wal), may_lose ? image->idx_before : image->last_idx);
        ck_assert_uint_eq(run->seen, wal_last_idx(run->wal));
        outcome->torn += recovery.torn_bytes > 0;
        outcome->clean += recovery.torn_bytes == 0;
    }
    run_kill(run);
}

START_TEST(every_byte_flipped_is_detected_or_irrelevant)
{
    struct image image;
    struct outcome outcome = {0};
    image_make(&image, 0xc1);
    ck_assert_uint_gt(image.bytes.len, 50000);
    for (size_t at = 0; at < image.bytes.len; at++) {
        uint8_t *file = image_reset(&image);
        file[at] ^= (uint8_t)(1u << (at % 8));
        expect_detected(&image, false, &outcome);
    }
    /* Irrelevant: the checkpoints' padding, and one of their two copies. */
    ck_assert_uint_le(outcome.clean, 2 * FORMAT_BLOCK);
    ck_assert_uint_le(outcome.torn, 2 * sizeof(struct batch_mark));
    ck_assert_uint_eq(outcome.refused, 0);
    image_free(&image);
}
END_TEST

/* Appends behind a cut, and finds it again; the model of what was overwritten is put back. */
static void expect_append(struct run *run, uint64_t last, uint64_t data_end)
{
    struct wal_recovery again;
    bool is_tx[2] = {run->is_tx[last + 1], run->is_tx[last + 2]};
    uint64_t first_seq = run->first_seq[last + 2];
    uint32_t positions[RUN_EVENTS_MAX];
    memcpy(positions, run->positions[last + 2], sizeof positions);
    ck_assert_int_eq(run_open(run, &again), ERR_OK);
    ck_assert_uint_eq(wal_last_idx(run->wal), last);
    ck_assert_uint_eq(again.data_end, data_end);
    ck_assert_uint_eq(again.torn_bytes, 0);
    ck_assert(run_term(run) && run_append(run));
    run_flush(run);
    run_kill(run);
    ck_assert_int_eq(run_open(run, &again), ERR_OK);
    ck_assert_uint_eq(wal_last_idx(run->wal), last + 2);
    ck_assert_uint_eq(run->seen_wrong, 0);
    run_kill(run);
    memcpy(run->is_tx + last + 1, is_tx, sizeof is_tx);
    run->first_seq[last + 2] = first_seq;
    run->verified[last + 1] = run->verified[last + 2] = 0;
    memcpy(run->positions[last + 2], positions, sizeof positions);
}

START_TEST(cut_at_any_length_the_whole_batches_come_back)
{
    struct image image;
    image_make(&image, 0xc1);
    struct run *run = image.run;
    uint64_t refused = 0, ends = 0, last_seen = 0;
    for (size_t len = 0; len <= image.bytes.len; len++) {
        struct wal_recovery recovery;
        image.touched = true;
        image_reset(&image);
        mem_disk_resize(run->mem, DATA_0, len);
        run->acked = 0;
        enum err err = run_open(run, &recovery);
        if (err == ERR_CORRUPT || recovery.damaged) {
            ck_assert_uint_lt(
                len,
                image.first_end); /* what the first start wrote was synced before it had a name */
            refused++;
            run_kill(run);
            continue;
        }
        ck_assert_int_eq(err, ERR_OK);
        ck_assert_uint_eq(run->seen_wrong, 0);
        uint64_t last = wal_last_idx(run->wal);
        bool more = last > last_seen;
        ck_assert_uint_eq(run->seen, last);
        ck_assert(recovery.data_end <= max_u64(len, recovery.data_start));
        ck_assert_uint_ge(last, last_seen);
        ends += more;
        last_seen = last;
        run_kill(run);
        if (more || len % 13 == 0)
            expect_append(run, last, recovery.data_end);
    }
    ck_assert_uint_eq(last_seen, image.last_idx);
    ck_assert_uint_ge(ends, 10);
    ck_assert_uint_eq(refused, image.first_end);
    image_free(&image);
}
END_TEST

enum sector_fault { SECTOR_SWAPPED, SECTOR_COPIED, SECTOR_ZEROED, SECTOR_OLDER, SECTOR_FOREIGN };

static void sector_put(uint8_t *file, const struct image *image, size_t i, const struct buf *from,
                       size_t j)
{
    uint8_t sector[MEM_SECTOR] = {0};
    if (from != NULL && j * MEM_SECTOR < from->len)
        memcpy(sector, from->ptr + j * MEM_SECTOR, min_u64(MEM_SECTOR, from->len - j * MEM_SECTOR));
    memcpy(file + i * MEM_SECTOR, sector, min_u64(MEM_SECTOR, image->bytes.len - i * MEM_SECTOR));
}

/* Two sectors that hold the end of one batch and all marks behind it: nothing is left that could
 * tell what was lost. */
static bool takes_all_marks(const struct image *image, size_t i, size_t j)
{
    size_t first = i < j ? i : j, last = i < j ? j : i;
    uint64_t witness_tail = image->witness + sizeof(struct batch_mark);
    return first * MEM_SECTOR < image->last_batch && (first + 1) * MEM_SECTOR > image->last_batch &&
           last * MEM_SECTOR < image->witness && (last + 1) * MEM_SECTOR > witness_tail;
}

static void sector_case(struct image *image, const struct image *foreign, enum sector_fault fault,
                        size_t i, size_t j, struct outcome *outcome)
{
    if (fault == SECTOR_SWAPPED && takes_all_marks(image, i, j))
        return;
    uint8_t *file = image_reset(image);
    const struct buf *from = fault == SECTOR_ZEROED    ? NULL
                             : fault == SECTOR_OLDER   ? &image->older
                             : fault == SECTOR_FOREIGN ? &foreign->bytes
                                                       : &image->bytes;
    sector_put(file, image, i, from, j);
    if (fault == SECTOR_SWAPPED)
        sector_put(file, image, j, from, i);
    size_t last = fault == SECTOR_SWAPPED && j > i ? j : i;
    bool may_lose = (last + 1) * MEM_SECTOR > image->witness;
    expect_detected(image, may_lose, outcome);
}

START_TEST(sectors_in_the_wrong_place_or_of_another_time_are_detected)
{
    struct image image, foreign;
    struct outcome outcome = {0};
    image_make(&image, 0xc1);
    image_make(&foreign, 0xd2);
    size_t sectors = (image.bytes.len + MEM_SECTOR - 1) / MEM_SECTOR;
    size_t first = 3 * FORMAT_BLOCK / MEM_SECTOR;
    for (size_t i = 0; i < sectors; i++) {
        sector_case(&image, &foreign, SECTOR_ZEROED, i, 0, &outcome);
        sector_case(&image, &foreign, SECTOR_OLDER, i, i, &outcome);
        sector_case(&image, &foreign, SECTOR_FOREIGN, i, i, &outcome);
    }
    uint64_t before = outcome.damaged;
    for (size_t i = first; i < sectors; i++) {
        for (size_t j = first; j < sectors; j++) {
            if (i < j)
                sector_case(&image, &foreign, SECTOR_SWAPPED, i, j, &outcome);
            if (i != j)
                sector_case(&image, &foreign, SECTOR_COPIED, i, j, &outcome);
        }
    }
    size_t n = sectors - first;
    ck_assert_uint_ge(outcome.damaged - before, (n - 2) * (n - 3) * 3 / 2 - n);
    image_free(&image);
    image_free(&foreign);
}
END_TEST

START_TEST(behind_a_hole_the_rest_is_still_delivered)
{
    struct image image;
    image_make(&image, 0xc1);
    uint8_t *file = image_reset(&image);
    uint64_t at = (uint64_t)image.run->positions[40][0] * POSITION_UNIT;
    file[at + 30] ^= 4;
    struct wal_recovery recovery;
    struct buf before = {0};
    buf_append(&before, file, image.file_size);
    ck_assert_int_eq(run_open(image.run, &recovery), ERR_OK);
    ck_assert(recovery.damaged);
    ck_assert_uint_lt(recovery.damage_offset, at);
    ck_assert_uint_eq(image.run->seen_wrong, 0);
    ck_assert_uint_eq(image.run->seen,
                      image.last_idx - 6); /* the entries of one batch are missing */
    ck_assert_uint_eq(wal_last_idx(image.run->wal), image.last_idx);
    ck_assert(span_equal(buf_span(mem_disk_bytes(image.run->mem, DATA_0)),
                         buf_span(&before))); /* evidence stays */
    buf_release(&before);
    run_kill(image.run);
    image_free(&image);
}
END_TEST

START_TEST(damage_in_an_older_segment_is_found_by_a_scan_and_never_torn)
{
    struct run *run = run_new(16384, 200, NULL);
    struct wal_recovery recovery;
    ck_assert_int_eq(run_open(run, &recovery), ERR_OK);
    ck_assert(run_term(run));
    for (int i = 0; i < 100; i++)
        ck_assert(run_append(run));
    run_flush(run);
    struct buf *file = mem_disk_bytes(run->mem, DATA_0);
    struct format_salt salt = {.cluster_id = run->config.cluster_id, .bucket = 1};
    struct wal_scan scan = {0};
    struct wal_scan_result good, bad;
    ck_assert_int_eq(wal_scan_segment(&run->mem->disk, 0, &salt, &scan, &good), ERR_OK);
    ck_assert(good.sealed && good.problems == 0);
    ck_assert_uint_eq(file->len, good.data_end + sizeof(struct segment_footer));
    for (size_t at = 3 * FORMAT_BLOCK; at < file->len; at += 5) {
        file->ptr[at] ^= 1;
        ck_assert_int_eq(wal_scan_segment(&run->mem->disk, 0, &salt, &scan, &bad), ERR_OK);
        ck_assert_msg(bad.problems > 0, "flip at %zu not seen", at);
        file->ptr[at] ^= 1;
    }
    run_free(run);
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("wal_fault");
    tcase_set_timeout(tcase, 110);
    tcase_add_test(tcase, a_crash_at_any_operation_loses_nothing_acknowledged);
    tcase_add_test(tcase, a_crash_at_any_operation_of_a_recovery_after_a_crash_neither);
    tcase_add_test(tcase, any_failing_operation_ends_the_process_and_loses_nothing);
    tcase_add_test(tcase, a_full_disk_at_any_operation_is_no_failure_of_what_was_promised);
    tcase_add_test(tcase, what_recovery_found_only_in_the_page_cache_is_durable_afterwards);
    tcase_add_test(tcase, every_byte_flipped_is_detected_or_irrelevant);
    tcase_add_test(tcase, cut_at_any_length_the_whole_batches_come_back);
    tcase_add_test(tcase, sectors_in_the_wrong_place_or_of_another_time_are_detected);
    tcase_add_test(tcase, behind_a_hole_the_rest_is_still_delivered);
    tcase_add_test(tcase, damage_in_an_older_segment_is_found_by_a_scan_and_never_torn);
    Suite *suite = suite_create("wal_fault");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
