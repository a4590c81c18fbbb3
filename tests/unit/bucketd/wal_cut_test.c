/* The log of a bucket with more than one replica: entries that are cut and written anew, what isn't
 * committed, configurations, segments that wait for a commit. */
#include <stdio.h>
#include <stdlib.h>

#include "bucketd/core/wal_internal.h"
#include "tests/sim/prng.h"
#include "tests/unit/bucketd/wal_support.h"

static struct run *replica_new(uint64_t segment_bytes, size_t data_max)
{
    struct run *run = run_new(segment_bytes, data_max, NULL);
    run->config.replica_count = 3;
    for (uint32_t i = 0; i < 3; i++)
        run->config.replicas[i] = 2 - i;
    run->commits = true;
    return run;
}

static struct wal_recovery open_whole(struct run *run)
{
    struct wal_recovery recovery;
    ck_assert_int_eq(run_open(run, &recovery), ERR_OK);
    ck_assert(!recovery.damaged);
    ck_assert_uint_eq(run->seen_wrong, 0);
    ck_assert(recovery.hole_first == 0 && recovery.hole_last == 0);
    return recovery;
}

static void flush_all(struct run *run)
{
    while (wal_pending(run->wal) || wal_flushing(run->wal))
        run_flush(run);
}

/* Starts again, twice, and finds what was there each time. */
static void expect_again(struct run *run)
{
    flush_all(run);
    struct run_state before = run_get_state(run);
    run_kill(run);
    struct wal_recovery first = open_whole(run);
    run_expect_state(run, &before);
    struct run_state once = run_get_state(run);
    uint64_t hash = mem_disk_hash(run->mem, "data.evts");
    run_kill(run);
    struct wal_recovery second = open_whole(run);
    ck_assert_int_eq(memcmp(&first, &second, sizeof first), 0);
    run_expect_state(run, &once);
    ck_assert_uint_eq(wal_commit_idx(run->wal), once.commit_idx);
    ck_assert_uint_eq(mem_disk_hash(run->mem, "data.evts"), hash);
    ck_assert_uint_eq(wal_durable_idx(run->wal), wal_last_idx(run->wal));
    ck_assert_uint_eq(run_check(run), wal_last_idx(run->wal));
}

START_TEST(the_configuration_of_the_settings_is_the_same_on_all_replicas)
{
    uint64_t chain = 0;
    for (uint32_t node = 0; node < 3; node++) {
        struct run *run = replica_new(1 << 20, 100);
        run->config.node = node;
        open_whole(run);
        const struct wal_voters *voters = wal_voters(run->wal);
        ck_assert_uint_eq(voters->count, 3);
        for (uint32_t i = 0; i < 3; i++)
            ck_assert(voters->list[i].node == 2 - i && voters->list[i].generation == 1 &&
                      voters->list[i].disk_id == 0);
        ck_assert_uint_eq(wal_config_idx(run->wal), 1);
        ck_assert(node == 0 || chain == wal_last_chain(run->wal));
        chain = wal_last_chain(run->wal);
        ck_assert_uint_ne(wal_disk_id(run->wal), 0);
        ck_assert(wal_term(run->wal) == 0 && wal_voted_for(run->wal) == 0);
        expect_again(run);
        run_free(run);
    }
    struct run *run = run_new(1 << 20, 100, NULL);
    run->config.node = 5;
    open_whole(run);
    ck_assert(wal_voters(run->wal)->count == 1 && wal_voters(run->wal)->list[0].node == 5);
    run_free(run);
}
END_TEST

START_TEST(the_disks_id_stays_across_starts_segments_and_a_damaged_header)
{
    struct run *run = replica_new(8192, 60);
    open_whole(run);
    uint64_t id = wal_disk_id(run->wal);
    ck_assert(run_term(run));
    for (int i = 0; i < 100; i++)
        ck_assert(run_append(run));
    ck_assert_uint_gt(run->rolls, 1);
    expect_again(run);
    ck_assert_uint_eq(wal_disk_id(run->wal), id);
    char dir[32], path[64];
    snprintf(path, sizeof path, "%s/data.evts", wal_segment_dir(wal_segment(run->wal), dir));
    run_kill(run);
    mem_disk_bytes(run->mem, path)->ptr[20] ^= 1;
    struct wal_recovery recovery;
    ck_assert_int_eq(run_open(run, &recovery), ERR_OK);
    ck_assert(recovery.damaged);
    ck_assert_uint_eq(wal_disk_id(run->wal), id);
    run_free(run);
}
END_TEST

START_TEST(a_cut_brings_back_what_was_before_it)
{
    struct run *run = replica_new(1 << 20, 100);
    open_whole(run);
    ck_assert(run_term(run));
    for (int i = 0; i < 5; i++)
        ck_assert(run_append(run));
    struct run_state before = run_get_state(run);
    for (int i = 0; i < 10; i++)
        ck_assert(run_append(run));
    run_cut(run, before.last_idx + 1);
    before.commit_idx = wal_commit_idx(run->wal);
    run_expect_state(run, &before);
    ck_assert_uint_eq(before.commit_idx, 1); /* the settings' entry alone is known to be */
    expect_again(run);
    /* Everything but the configuration, in a later batch; a leader of a later term writes anew. */
    run_cut(run, 2);
    ck_assert_uint_eq(wal_last_idx(run->wal), 1);
    ck_assert_uint_eq(wal_last_term(run->wal), 0);
    ck_assert_uint_eq(wal_next_seq(run->wal, 1), 0);
    expect_again(run);
    ck_assert(run_term(run));
    for (int i = 0; i < 7; i++)
        ck_assert(run_append(run));
    expect_again(run);
    ck_assert_uint_eq(wal_last_idx(run->wal), 9);
    ck_assert_uint_eq(wal_last_term(run->wal), 2);
    run_free(run);
}
END_TEST

START_TEST(what_is_cut_in_flight_never_counts_as_durable)
{
    struct run *run = replica_new(1 << 20, 100);
    open_whole(run);
    ck_assert(run_term(run));
    flush_all(run); /* 2 entries */
    for (int i = 0; i < 6; i++)
        ck_assert(run_append(run)); /* 3 .. 8 */
    run_start_flush(run);
    ck_assert(wal_flushing(run->wal));
    uint64_t batch = wal_open_batch(run->wal);
    ck_assert_uint_eq(wal_durable_batch(run->wal), batch - 2);
    for (int i = 0; i < 2; i++)
        ck_assert(run_append(run)); /* 9, 10 */
    run_cut(run, 5);
    for (int i = 0; i < 4; i++)
        ck_assert(run_append(run)); /* 5 .. 8, others */
    ck_assert_uint_eq(wal_durable_idx(run->wal), 2);
    mem_disk_settle(run->mem);
    ck_assert_uint_eq(wal_durable_batch(run->wal), batch - 1);
    ck_assert_uint_eq(wal_durable_idx(run->wal), 4); /* 5 to 8 of that flush are dead */
    ck_assert_uint_eq(run->acked, 4);
    run_flush(run);
    ck_assert_uint_eq(wal_durable_idx(run->wal), 8);
    ck_assert_uint_eq(wal_durable_batch(run->wal), batch);
    /* What was durable isn't when it is cut. */
    run_cut(run, 7);
    ck_assert_uint_eq(wal_durable_idx(run->wal), 6);
    ck_assert(run_append(run));
    ck_assert_uint_eq(wal_durable_idx(run->wal), 6);
    expect_again(run);
    ck_assert_uint_eq(wal_last_idx(run->wal), 7);
    run_free(run);
}
END_TEST

static struct wal_voters voters_of(uint32_t seed, uint32_t count)
{
    struct wal_voters voters = {.count = count};
    for (uint32_t i = 0; i < count; i++)
        voters.list[i] = (struct wal_voter){
            .node = seed + i, .generation = seed, .disk_id = seed * 1000003ull + i};
    return voters;
}

START_TEST(the_configuration_in_force_survives_cuts_segments_and_starts)
{
    struct run *run = replica_new(8192, 60);
    open_whole(run);
    ck_assert(run_term(run));
    struct wal_voters first = *wal_voters(run->wal), a = voters_of(10, 3), b = voters_of(20, 7);
    run_reconfigure(run, &a);
    ck_assert(run_append(run));
    run_reconfigure(run, &b);
    uint64_t b_idx = wal_config_idx(run->wal);
    expect_again(run);
    run_cut(run, b_idx);
    ck_assert(run_voters_equal(wal_voters(run->wal), &a));
    expect_again(run);
    run_cut(run, 2);
    ck_assert(run_voters_equal(wal_voters(run->wal), &first));
    ck_assert_uint_eq(wal_config_idx(run->wal), 1);
    expect_again(run);
    run_reconfigure(run, &b);
    b_idx = wal_config_idx(run->wal);
    flush_all(run);
    wal_commit(run->wal, b_idx);
    uint64_t rolls = run->rolls;
    while (run->rolls < rolls + 3)
        ck_assert(run_append(run));
    expect_again(run); /* from the newest segment alone */
    ck_assert(run_voters_equal(wal_voters(run->wal), &b));
    ck_assert_uint_eq(wal_config_idx(run->wal), b_idx);
    run_reconfigure(run, &a);
    run_cut(run, wal_last_idx(run->wal));
    expect_again(run);
    ck_assert(run_voters_equal(wal_voters(run->wal), &b));
    run_free(run);
}
END_TEST

/* --- segments --- */

START_TEST(a_segment_is_left_only_when_all_in_it_is_committed)
{
    struct run *run = replica_new(8192, 60);
    struct wal_event event = {.stream = span_str("s")};
    uint64_t bound = wal_entry_bound(&event, 1) + 400;
    open_whole(run);
    ck_assert(run_term(run));
    run->commits = false;
    enum err err;
    struct uuid id = {{1}};
    uint32_t position;
    while ((err = wal_fits(run->wal, bound, ROOM_WAIT)) == ERR_OK || wal_pending(run->wal) ||
           wal_busy(run->wal)) {
        if (err == ERR_OK)
            run->is_tx[wal_append_tx(run->wal, 1, &id, &id, &event, 1, &position)] = true;
        else
            run_flush(run);
    }
    ck_assert_int_eq(err, ERR_AGAIN);
    ck_assert_uint_eq(wal_durable_idx(run->wal), wal_last_idx(run->wal));
    ck_assert_uint_eq(wal_segment(run->wal), 0);
    /* All but one: still not. */
    wal_commit(run->wal, wal_last_idx(run->wal) - 1);
    ck_assert_int_eq(wal_fits(run->wal, bound, ROOM_WAIT), ERR_AGAIN);
    ck_assert_uint_eq(wal_segment(run->wal), 0);
    wal_commit(run->wal, wal_last_idx(run->wal));
    while ((err = wal_fits(run->wal, bound, ROOM_WAIT)) == ERR_AGAIN)
        mem_disk_settle(run->mem);
    ck_assert_int_eq(err, ERR_OK);
    ck_assert_uint_eq(wal_segment(run->wal), 1);
    run_free(run);
}
END_TEST

START_TEST(what_must_be_written_makes_the_segment_larger)
{
    struct run *run = replica_new(8192, 60);
    open_whole(run);
    ck_assert(run_term(run));
    flush_all(run);
    uint64_t limit = run->wal->data_limit;
    wal_commit(run->wal, 2);
    while (wal_durable_end(run->wal, 0) < 3 * limit) {
        struct run_tx tx;
        uint64_t idx = wal_last_idx(run->wal) + 1;
        run_tx_make(run, idx, &tx);
        enum err err;
        while ((err = wal_fits(run->wal, wal_entry_bound(tx.events, tx.count), ROOM_MUST)) ==
               ERR_AGAIN)
            run_flush(run);
        ck_assert_int_eq(err, ERR_OK);
        run->first_seq[idx] = wal_next_seq(run->wal, tx.partition);
        run->is_tx[idx] = true;
        run->segments[idx] = 0;
        wal_append_tx(run->wal, tx.partition, &tx.partition_key, &tx.transaction_id, tx.events,
                      tx.count, run->positions[idx]);
        buf_release(&tx.bytes);
        if (idx % 5 == 0)
            run_flush(run);
    }
    ck_assert_uint_eq(wal_segment(run->wal), 0);
    expect_again(run);
    run_cut(run, 20);
    expect_again(run);
    ck_assert_uint_eq(wal_segment(run->wal), 0);
    flush_all(run);
    wal_commit(run->wal, wal_last_idx(run->wal));
    ck_assert(run_append(run));
    ck_assert_uint_eq(wal_segment(run->wal), 1);
    expect_again(run);
    run_free(run);
}
END_TEST

/* --- everything together --- */

struct mix {
    struct run *run;
    struct prng prng;
    uint64_t cuts, kills, crashes, configs;
};

static void mix_recover(struct mix *mix, bool power)
{
    struct run *run = mix->run;
    if (power)
        run_move(run, mem_disk_crash(run->mem, prng_below(&mix->prng, 1u << 30)));
    else
        run_kill(run);
    run->adopts = true;
    open_whole(run);
    run->adopts = false;
    /* What came back is what was there when its last batch left. */
    uint64_t batch = wal_open_batch(run->wal) - 1;
    if (run->states[batch].last_idx != 0)
        run_expect_state(run, &run->states[batch]);
    run->states[batch] = run_get_state(run);
}

static void mix_step(struct mix *mix)
{
    struct run *run = mix->run;
    struct wal *wal = run->wal;
    uint64_t commit = wal_commit_idx(wal), last = wal_last_idx(wal);
    switch (prng_below(&mix->prng, 16)) {
    case 0:
    case 1:
        if (last > commit) {
            run_cut(run, commit + 1 + prng_below(&mix->prng, last - commit));
            mix->cuts++;
        }
        break;
    case 2:
        /* Others may have it before it is durable here. */
        wal_commit(wal, commit + prng_below(&mix->prng, last - commit + 1));
        break;
    case 3:
    case 4:
        run_start_flush(run);
        break;
    case 5:
    case 6:
        if (run->mem->jobs_count > 0)
            mem_disk_run_job(run->mem, prng_below(&mix->prng, run->mem->jobs_count));
        break;
    case 7:
        ck_assert(run_term(run));
        break;
    case 8: {
        struct wal_voters voters = voters_of((uint32_t)prng_below(&mix->prng, 1000),
                                             1 + (uint32_t)prng_below(&mix->prng, REPLICAS_MAX));
        run_reconfigure(run, &voters);
        mix->configs++;
        break;
    }
    default:
        ck_assert(run_append(run));
    }
}

START_TEST(any_order_of_appends_cuts_commits_and_crashes)
{
    uint64_t cuts = 0, rolls = 0;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        uint64_t size = seed % 3 == 0 ? 4096 : seed % 3 == 1 ? 16384 : 262144;
        struct mix mix = {.run = replica_new(size, 80), .prng = {.state = seed}};

        open_whole(mix.run);
        ck_assert(run_term(mix.run));
        for (int i = 0; i < 400; i++) {
            mix_step(&mix);
            if (prng_below(&mix.prng, 40) == 0)
                mix_recover(&mix, prng_below(&mix.prng, 2) == 0);
        }
        expect_again(mix.run);
        cuts += mix.cuts;
        rolls += mix.run->rolls;
        run_free(mix.run);
    }
    ck_assert_uint_gt(cuts, 2500);
    ck_assert_uint_gt(rolls, 500);
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("wal_cut");
    tcase_set_timeout(tcase, 100);
    tcase_add_test(tcase, the_configuration_of_the_settings_is_the_same_on_all_replicas);
    tcase_add_test(tcase, the_disks_id_stays_across_starts_segments_and_a_damaged_header);
    tcase_add_test(tcase, a_cut_brings_back_what_was_before_it);
    tcase_add_test(tcase, what_is_cut_in_flight_never_counts_as_durable);
    tcase_add_test(tcase, the_configuration_in_force_survives_cuts_segments_and_starts);
    tcase_add_test(tcase, a_segment_is_left_only_when_all_in_it_is_committed);
    tcase_add_test(tcase, what_must_be_written_makes_the_segment_larger);
    tcase_add_test(tcase, any_order_of_appends_cuts_commits_and_crashes);
    Suite *suite = suite_create("wal_cut");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
