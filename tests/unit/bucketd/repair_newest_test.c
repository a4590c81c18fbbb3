/* A damaged newest segment at start: from what is left of it, from who has its entries committed,
 * and from the leader, without ever forgetting what it may have acknowledged, nor a vote. */
#include <stdlib.h>

#include "tests/unit/bucketd/repair_world.h"

#define BATCHES_MAX 200u

/* Everybody has the same; much of it stands in one open segment. */
static struct world *world_of_one(uint64_t seed, bool cuts)
{
    struct world *world = world_new(seed, 1 << 20, 90);
    world_append(world, 40, cuts);
    world_settle(world);
    return world;
}

static void restart(struct node *node, bool damaged)
{
    node_kill(node);
    node_start(node);
    ck_assert_int_eq(node->recovery.damaged, damaged);
}

/* The process has ended for a new one, which finds a whole log that ends with `last`. */
static void expect_repaired(struct node *node, uint64_t last)
{
    struct world *world = node->world;
    ck_assert(node->fatal);
    ck_assert_int_eq(node->fatal_err, ERR_OK);
    uint64_t term = wal_term(node->wal), voted_for = wal_voted_for(node->wal);
    restart(node, false);
    ck_assert_uint_eq(repairer_waiting(node->repairer), 0);
    ck_assert_uint_eq(wal_last_idx(node->wal), last);
    ck_assert_uint_eq(wal_last_chain(node->wal), world->chains[last]);
    ck_assert_uint_ge(wal_term(node->wal), term);
    if (wal_term(node->wal) == term && voted_for != 0)
        ck_assert_uint_eq(wal_voted_for(node->wal), voted_for);
    check_log(node, last, UINT64_MAX);
}

static void ticks(struct world *world, uint32_t to)
{
    for (uint32_t i = 0; i < NODES; i++) {
        if (i != to && world->nodes[i].up)
            world_tick(world, i, to, true);
    }
}

START_TEST(each_batch)
{
    uint64_t tries = 0;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        struct world *world = world_of_one(seed, seed % 2 == 0);
        struct node *node = &world->nodes[1];
        struct batch_at batches[BATCHES_MAX];
        size_t count = batches_of(node, 0, batches, BATCHES_MAX);
        struct mem_disk *original = mem_disk_copy(node->mem);
        for (size_t i = 0; i < count; i++) {
            uint64_t places[] = {20, batches[i].bytes / 2, batches[i].bytes - 20};
            for (size_t p = 0; p < 3; p++) {
                node_kill(node);
                mem_disk_free(node->mem);
                node->mem = mem_disk_copy(original);
                data_of(node, 0)->ptr[batches[i].offset + places[p]] ^= 4;
                node_start(node);
                if (!node->recovery.damaged)
                    continue; /* the very last batch looks torn */
                tries++;
                ticks(world, 1);
                world_run(world, 100 * TICK_NS);
                expect_repaired(node, world->last);
            }
        }
        mem_disk_free(original);
        world_free(world);
    }
    ck_assert_uint_gt(tries, 100);
}
END_TEST

/* What its own marks tell the end of can be fetched from anybody who has it committed. */
START_TEST(a_hole_in_the_middle_needs_no_leader)
{
    struct world *world = world_of_one(5, false);
    struct node *node = &world->nodes[2];
    world->nodes[0].leads = false;
    damage(node, 0);
    restart(node, true);
    world_run(world, 100 * TICK_NS);
    expect_repaired(node, world->last);
    world_free(world);
}
END_TEST

START_TEST(only_the_header_or_a_checkpoint)
{
    struct world *world = world_of_one(6, true);
    struct node *node = &world->nodes[1];
    node_kill(&world->nodes[0]);
    node_kill(&world->nodes[2]);
    data_of(node, 0)->ptr[60] ^= 1;
    restart(node, true);
    world_run(world, 100 * TICK_NS);
    expect_repaired(node, world->last);
    world_free(world);
}
END_TEST

/* Nothing tells how far the log had come: it is what the leader has, which a tick from before this
 * start doesn't tell. */
static void cut_to_unknown(struct node *node, size_t keep)
{
    struct batch_at batches[BATCHES_MAX];
    size_t count = batches_of(node, 0, batches, BATCHES_MAX);
    ck_assert_uint_gt(count, keep + 2);
    struct buf *file = data_of(node, 0);
    uint64_t from = batches[keep].offset;
    memset(file->ptr + from, 0x77, batches[count - 1].offset + batches[count - 1].bytes - from);
    /* A mark far behind it says that all of that was synced. */
    struct batch_mark mark;
    struct format_salt salt = {.cluster_id = node->world->made->config.cluster_id,
                               .bucket = node->world->made->config.bucket};
    uint64_t at = batches[count - 2].offset;
    mark = (struct batch_mark){.magic = BATCH_TAIL_MAGIC,
                               .number = 1000,
                               .offset = at - 8000,
                               .bytes = 8000,
                               .synced_upto = {.segment = 0, .offset = at},
                               .last_idx = UINT64_MAX, /* damaged itself, or of who knows what */
                               .term = 1};
    mark.crc = wal_crc(wal_salt_base(&salt), at, &mark, sizeof mark);
    memcpy(file->ptr + at, &mark, sizeof mark);
}

START_TEST(an_unknown_end_is_the_leaders)
{
    struct world *world = world_of_one(7, false);
    struct node *node = &world->nodes[1];
    cut_to_unknown(node, 4);
    restart(node, true);
    ck_assert_uint_eq(node->recovery.hole_last, UINT64_MAX);
    world_run(world, 50 * TICK_NS);
    ck_assert(!node->fatal);
    world_tick(world, 0, 1, false);
    world_run(world, 50 * TICK_NS);
    ck_assert(!node->fatal);
    world_tick(world, 2, 1, true); /* no leader */
    world_run(world, 50 * TICK_NS);
    ck_assert(!node->fatal);
    world_tick(world, 0, 1, true);
    /* What the leader takes from now on isn't waited for. */
    uint64_t last = world->last;
    world_append_to(world, 1);
    world_run(world, 50 * TICK_NS);
    expect_repaired(node, last);
    /* A vote of its own may have been lost: in this term it has one for its leader now. */
    ck_assert_uint_eq(wal_voted_for(node->wal), 1);
    world_free(world);
}
END_TEST

/* What it had acknowledged to the leader, and nobody else has yet, is waited for. */
START_TEST(what_only_the_leader_has_is_not_forgotten)
{
    struct world *world = world_of_one(8, false);
    struct node *node = &world->nodes[1];
    for (int i = 0; i < 6; i++) {
        world_append_to(world, 3);
        world_flush(&world->nodes[0]);
        world_flush(node);
    }
    wal_flush_witness(node->wal);
    mem_disk_settle(node->mem);
    struct batch_at batches[BATCHES_MAX];
    size_t count = batches_of(node, 0, batches, BATCHES_MAX);
    /* Both of the last but one, whose entry only the leader has beside this one. */
    data_of(node, 0)->ptr[batches[count - 3].offset + 150] ^= 1;
    restart(node, true);
    ck_assert_uint_le(node->recovery.hole_last, world->last);
    world->nodes[0].leads = false;
    world_run(world, 60 * TICK_NS);
    ck_assert(!node->fatal); /* node 2 hasn't got it */
    world->nodes[0].leads = true;
    ticks(world, 1);
    world_run(world, 60 * TICK_NS);
    expect_repaired(node, world->last);
    world_free(world);
}
END_TEST

/* Its last entries are an old leader's, whom nobody followed: they go. */
START_TEST(a_tail_that_is_not_the_leaders_is_replaced)
{
    for (uint64_t seed = 1; seed <= 10; seed++) {
        struct world *world = world_of_one(seed, false);
        struct node *node = &world->nodes[1];
        uint64_t agreed = world->last;
        for (int i = 0; i < 6; i++) {
            world_append_stray(world, node, 1);
            world_flush(node);
        }
        wal_flush_witness(node->wal);
        mem_disk_settle(node->mem);
        struct batch_at batches[BATCHES_MAX];
        size_t count = batches_of(node, 0, batches, BATCHES_MAX);
        uint64_t place = batches[count - 5 + seed % 3].offset + 150;
        node_kill(node);
        /* The others go on without it, for more or less than it has. */
        world_new_term(world, 0);
        for (uint64_t i = 0; i < seed; i++)
            world_append_to(world, 5);
        world_settle(world);
        ck_assert_uint_eq(world->last, agreed + 1 + seed);
        data_of(node, 0)->ptr[place] ^= 1;
        node_start(node);
        ck_assert(node->recovery.damaged);
        ticks(world, 1);
        world_run(world, 100 * TICK_NS);
        expect_repaired(node, world->last);
        world_free(world);
    }
}
END_TEST

/* Whoever leads when it is asked may not lead when it is done. */
START_TEST(leaders_change_meanwhile)
{
    struct world *world = world_of_one(9, false);
    struct node *node = &world->nodes[1];
    cut_to_unknown(node, 3);
    restart(node, true);
    world->nodes[0].leads = true;
    world_tick(world, 0, 1, true);
    world_run(world, TICK_NS / 100); /* it has begun */
    /* Entries that only the old leader has had; then node 2 leads without them. */
    world_append_to(world, 1);
    world_flush(&world->nodes[0]);
    uint64_t stray = world->last--;
    (void)stray;
    world_new_term(world, 2);
    for (int i = 0; i < 5; i++)
        world_append_to(world, 5);
    world_settle(world);
    world_tick(world, 2, 1, true);
    world_run(world, 200 * TICK_NS);
    ck_assert(node->fatal);
    uint64_t has = 0;
    restart(node, false);
    has = wal_last_idx(node->wal);
    ck_assert_uint_eq(wal_last_chain(node->wal), world->chains[has]);
    ck_assert_uint_eq(has, world->last);
    check_log(node, has, UINT64_MAX);
    world_free(world);
}
END_TEST

/* Somebody who thinks that it still leads lends what nobody else will ever have. */
START_TEST(what_a_deposed_leader_lends_is_not_the_end_of_it)
{
    struct world *world = world_of_one(13, false);
    struct node *leader = &world->nodes[0], *node = &world->nodes[1], *old = &world->nodes[2];
    /* Three logs that differ in the next four entries, which are of terms 1, 2 and 3. */
    for (int i = 0; i < 4; i++) {
        world_append_stray(world, node, 1);
        world_flush(node);
    }
    wal_flush_witness(node->wal);
    mem_disk_settle(node->mem);
    struct batch_at batches[BATCHES_MAX];
    size_t count = batches_of(node, 0, batches, BATCHES_MAX);
    data_of(node, 0)->ptr[batches[count - 4].offset + 150] ^= 1;
    wal_append_vote(old->wal, 2, 3);
    world_append_stray(world, old, 4);
    world_flush(old);
    wal_append_vote(leader->wal, 3, 1);
    for (int i = 0; i < 4; i++)
        world_append_to(world, 1);
    world_flush(leader);
    ck_assert_uint_eq(wal_last_idx(old->wal), world->last);
    leader->leads = false;
    old->leads = true;
    restart(node, true);
    world_run(world, 60 * TICK_NS);
    ck_assert(!node->fatal);
    leader->leads = true;
    old->leads = false;
    world_tick(world, 0, 1, true);
    world_run(world, 60 * TICK_NS);
    expect_repaired(node, world->last);
    world_free(world);
}
END_TEST

/* What was repaired was synced: damage in its last entries isn't torn. */
START_TEST(the_repaired_end_is_known_as_synced)
{
    struct world *world = world_of_one(14, false);
    struct node *node = &world->nodes[1];
    damage(node, 0);
    for (int times = 0; times < 3; times++) {
        restart(node, true);
        ticks(world, 1);
        world_run(world, 60 * TICK_NS);
        expect_repaired(node, world->last);
        struct batch_at batches[BATCHES_MAX];
        size_t count = batches_of(node, 0, batches, BATCHES_MAX);
        ck_assert_uint_eq(batches[count - 1].first_idx, 0);
        data_of(node, 0)->ptr[batches[count - 2].offset + batches[count - 2].bytes / 2] ^= 1;
    }
    world_free(world);
}
END_TEST

/* A vote given while the repair is under way is in the repaired log. */
START_TEST(votes_given_meanwhile_are_kept)
{
    struct world *world = world_of_one(10, false);
    struct node *node = &world->nodes[1];
    damage(node, 0);
    restart(node, true);
    world_run(world, TICK_NS / 1000);
    ck_assert(!node->fatal);
    ck_assert_int_eq(wal_fits(node->wal, sizeof(struct vote_record), ROOM_MUST), ERR_OK);
    wal_append_vote(node->wal, 7, 3);
    ticks(world, 1);
    world_run(world, 10 * TICK_NS);
    ck_assert(!node->fatal); /* it isn't durable yet, so nobody has heard of it */
    wal_flush(node->wal);
    world_run(world, 50 * TICK_NS);
    expect_repaired(node, world->last);
    ck_assert_uint_eq(wal_term(node->wal), 7);
    ck_assert_uint_eq(wal_voted_for(node->wal), 3);
    world_free(world);
}
END_TEST

START_TEST(a_crash_at_any_operation)
{
    bool ended = false;
    uint64_t again = 0, done = 0;
    for (uint64_t at = 1; !ended; at++) {
        for (uint64_t seed = 0; seed < 4; seed++) {
            struct world *world = world_of_one(11, true);
            struct node *node = &world->nodes[1];
            damage(node, 0);
            restart(node, true);
            uint64_t term = wal_term(node->wal), voted_for = wal_voted_for(node->wal);
            node->mem->ops = 0;
            node->mem->crash_at = at;
            ticks(world, 1);
            world_run(world, 30 * TICK_NS);
            ended = !node->mem->crashed;
            struct mem_disk *after = mem_disk_crash(node->mem, seed == 3 ? at * 1000 + 7 : seed);
            node_kill(node);
            mem_disk_free(node->mem);
            node->mem = after;
            node_start(node);
            ck_assert_ptr_null(mem_disk_bytes(node->mem, "repair/data.evts"));
            ck_assert_uint_eq(wal_term(node->wal), term);
            ck_assert_uint_eq(wal_voted_for(node->wal), voted_for);
            again += node->recovery.damaged;
            done += !node->recovery.damaged;
            if (node->recovery.damaged) {
                ticks(world, 1);
                world_run(world, 30 * TICK_NS);
                expect_repaired(node, world->last);
            } else {
                check_log(node, world->last, UINT64_MAX);
            }
            world_free(world);
        }
    }
    ck_assert_uint_gt(again, 10);
    ck_assert_uint_gt(done, 3);
}
END_TEST

/* All three are damaged, each elsewhere. */
START_TEST(everybody_is_damaged)
{
    struct world *world = world_of_one(12, false);
    for (uint32_t i = 0; i < NODES; i++) {
        struct node *node = &world->nodes[i];
        struct batch_at batches[BATCHES_MAX];
        size_t count = batches_of(node, 0, batches, BATCHES_MAX);
        data_of(node, 0)->ptr[batches[(i + 1) * count / 5].offset + 150] ^= 1;
    }
    for (uint32_t i = 0; i < NODES; i++)
        restart(&world->nodes[i], true);
    for (int tries = 0; tries < 20; tries++) {
        world_run(world, 30 * TICK_NS);
        for (uint32_t i = 0; i < NODES; i++) {
            if (world->nodes[i].fatal)
                expect_repaired(&world->nodes[i], world->last);
        }
    }
    for (uint32_t i = 0; i < NODES; i++)
        ck_assert_uint_eq(repairer_waiting(world->nodes[i].repairer), 0);
    world_free(world);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("repair_newest");
    TCase *tests = tcase_create("newest");
    tcase_set_timeout(tests, 120);
    tcase_add_test(tests, each_batch);
    tcase_add_test(tests, a_hole_in_the_middle_needs_no_leader);
    tcase_add_test(tests, only_the_header_or_a_checkpoint);
    tcase_add_test(tests, an_unknown_end_is_the_leaders);
    tcase_add_test(tests, what_only_the_leader_has_is_not_forgotten);
    tcase_add_test(tests, a_tail_that_is_not_the_leaders_is_replaced);
    tcase_add_test(tests, leaders_change_meanwhile);
    tcase_add_test(tests, what_a_deposed_leader_lends_is_not_the_end_of_it);
    tcase_add_test(tests, the_repaired_end_is_known_as_synced);
    tcase_add_test(tests, votes_given_meanwhile_are_kept);
    tcase_add_test(tests, a_crash_at_any_operation);
    tcase_add_test(tests, everybody_is_damaged);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
