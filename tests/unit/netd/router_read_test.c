/* Reads and follows among the replicas of a bucket. */
#include "tests/unit/netd/router_world.h"

#include <check.h>
#include <stdlib.h>

START_TEST(read_goes_on_to_a_replica_that_is_ready)
{
    struct test_call read;
    world_submit(&read, TAG_sequence_req, 2);
    world_flush();
    struct sent *first = world_next_of(TAG_sequence_req);
    world_refuse(first, ERR_NOT_READY, 0, 0);
    world_flush();
    struct sent *second = world_next_of(TAG_sequence_req);
    ck_assert_uint_ne(second->node, first->node);
    world_number(second, 3);
    ck_assert_uint_eq(read.done, 1);
    ck_assert_int_eq(read.reply.tag, TAG_number_reply);
}
END_TEST

START_TEST(damage_is_told_only_where_no_copy_is_whole)
{
    struct test_call read;
    world_submit(&read, TAG_sequence_req, 2);
    world_flush();
    uint32_t asked = 0;
    for (unsigned i = 0; i < 3; i++) {
        ck_assert_uint_eq(read.done, 0);
        struct sent *to = world_next_of(TAG_sequence_req);
        ck_assert_uint_eq(asked & 1u << to->node, 0);
        asked |= 1u << to->node;
        world_refuse(to, ERR_READ, 0, 0);
        world_flush();
    }
    ck_failed(&read, ERR_READ);
}
END_TEST

/* --- Following --- */

START_TEST(lost_one_is_followed_elsewhere)
{
    struct test_call follow;
    ck_assert_uint_eq(world.ups, 1);
    world_submit(&follow, TAG_follow_req, 3);
    world_flush();
    struct sent *first = world_next_of(TAG_follow_req);
    router_node_state(world.router, first->node, false);
    ck_assert_uint_eq(world.losts, 1);
    ck_assert_uint_eq(world.ups, 2);
    world_flush();
    struct sent *second = world_next_of(TAG_follow_req);
    ck_assert_uint_ne(second->node, first->node);
    world_followed(second, 10);
    ck_assert_uint_eq(follow.done, 1);
}
END_TEST

/* A follower is asked for two partitions. It can't yet for the one; another replica is followed
 * then, and what the first one answers for the other partition isn't taken: its tail wouldn't be.
 */
START_TEST(late_answer_of_one_no_longer_followed)
{
    struct test_call a, b;
    world_submit(&a, TAG_follow_req, 0);
    world_submit(&b, TAG_follow_req, 1);
    world_flush();
    struct sent *first_a = world_next_of(TAG_follow_req), *first_b = world_next_of(TAG_follow_req);
    world_refuse(first_a, ERR_NOT_READY, 0, 0);
    world_pass(100);
    ck_assert_uint_eq(world.losts, 1);
    struct sent *again = world_next();
    unsigned unfollowed = 0, asked = 0;
    uint32_t now_followed = 0;
    for (; again != NULL; again = world_next()) {
        if (again->msg.tag == TAG_unfollow_req) {
            ck_assert_uint_eq(again->node, first_a->node);
            unfollowed++;
        } else {
            ck_assert_int_eq(again->msg.tag, TAG_follow_req);
            ck_assert_uint_ne(again->node, first_a->node);
            now_followed = again->node;
            asked++;
        }
    }
    ck_assert_uint_eq(asked, 2);
    ck_assert_uint_eq(unfollowed, world.config.partition.count);
    world_followed(first_b, 10);
    ck_assert_uint_eq(b.done, 0);
    for (unsigned i = 0; i < world.sent_count; i++) {
        if (world.sent[i].node == now_followed && world.sent[i].msg.tag == TAG_follow_req)
            world_followed(&world.sent[i], 10);
    }
    ck_assert_uint_eq(a.done, 1);
    ck_assert_uint_eq(b.done, 1);
    struct msg tail = {.tag = TAG_tail, .u.tail = {.partition = 1, .first = 10, .count = 1}};
    world_answer(first_a->node, &tail);
    ck_assert_uint_eq(world.tails, 0);
    world_answer(now_followed, &tail);
    ck_assert_uint_eq(world.tails, 1);
}
END_TEST

START_TEST(process_behind_a_living_node_is_asked_again_later)
{
    struct test_call append;
    router_hint(world.router, 0, world.replicas[0] + 1, 3);
    world_submit(&append, TAG_append_req, 1);
    world_flush();
    struct sent *first = world_next_of(TAG_append_req);
    ck_assert_uint_eq(first->node, world.replicas[0]);
    router_remote_lost(world.router, world.replicas[0], 0);
    world_flush();
    struct sent *second = world_next_of(TAG_append_req);
    ck_assert_uint_ne(second->node, world.replicas[0]);
    world_refuse(second, ERR_NOT_LEADER, world.replicas[0] + 1, 3);
    world_pass(300);
    bool back = false;
    for (struct sent *to = world_next(); to != NULL && !back; to = world_next()) {
        back = to->node == world.replicas[0];
        if (back)
            world_stored(to, 0);
        else
            world_refuse(to, ERR_NOT_LEADER, world.replicas[0] + 1, 3);
        world_flush();
    }
    ck_assert(back);
    ck_stored(&append);
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("router_read");
    tcase_add_checked_fixture(tcase, world_setup, world_teardown);
    tcase_add_test(tcase, read_goes_on_to_a_replica_that_is_ready);
    tcase_add_test(tcase, damage_is_told_only_where_no_copy_is_whole);
    tcase_add_test(tcase, lost_one_is_followed_elsewhere);
    tcase_add_test(tcase, late_answer_of_one_no_longer_followed);
    tcase_add_test(tcase, process_behind_a_living_node_is_asked_again_later);
    Suite *suite = suite_create("router_read");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
