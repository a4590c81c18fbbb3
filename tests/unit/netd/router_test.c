/* Appends among the replicas of a bucket: who is asked, what comes back to the front and in which
 * order, what a client is told. */
#include "tests/unit/netd/router_world.h"

#include <check.h>
#include <stdlib.h>

START_TEST(hint_leads_to_the_leader_in_order)
{
    struct test_call calls[3];
    for (unsigned i = 0; i < 3; i++)
        world_submit(&calls[i], TAG_append_req, i);
    world_flush();
    struct sent *first[3];
    for (unsigned i = 0; i < 3; i++) {
        first[i] = world_next_of(TAG_append_req);
        ck_assert_uint_eq(first[i]->msg.u.append_req.number, i);
        ck_assert_uint_eq(first[i]->msg.u.append_req.flags & APPEND_RETRY, 0);
    }
    uint32_t leader = world_other(first[0]->node);
    for (unsigned i = 0; i < 3; i++)
        world_refuse(first[i], ERR_NOT_LEADER, leader + 1, 5);
    world_flush();
    for (unsigned i = 0; i < 3; i++) {
        struct sent *again = world_next_of(TAG_append_req);
        ck_assert_uint_eq(again->node, leader);
        ck_assert_uint_eq(again->msg.u.append_req.partition, i);
        ck_assert_uint_eq(again->msg.u.append_req.number, i);
        ck_assert_uint_gt(again->msg.u.append_req.epoch, first[i]->msg.u.append_req.epoch);
        ck_assert_uint_ne(again->msg.u.append_req.flags & APPEND_RETRY, 0);
        world_stored(again, i);
        ck_stored(&calls[i]);
    }
    /* It is remembered. */
    world_submit(&calls[0], TAG_append_req, 0);
    world_flush();
    ck_assert_uint_eq(world_next_of(TAG_append_req)->node, leader);
}
END_TEST

START_TEST(partly_refused_frame_keeps_its_order)
{
    struct test_call calls[4];
    for (unsigned i = 0; i < 4; i++)
        world_submit(&calls[i], TAG_append_req, i);
    world_flush();
    struct sent *first[4];
    for (unsigned i = 0; i < 4; i++)
        first[i] = world_next_of(TAG_append_req);
    world_stored(first[0], 0);
    world_refuse(first[1], ERR_BUSY, 0, 0);
    world_refuse(first[2], ERR_ORDER, 0, 0);
    /* What comes meanwhile stays behind them. */
    struct test_call later;
    world_submit(&later, TAG_append_req, 7);
    world_flush();
    ck_assert_ptr_null(world_next());
    world_refuse(first[3], ERR_ORDER, 0, 0);
    world_pass(20);
    static const uint64_t wanted[] = {1, 2, 3, 7};
    for (unsigned i = 0; i < 4; i++) {
        struct sent *again = world_next_of(TAG_append_req);
        ck_assert_uint_eq(again->msg.u.append_req.partition, wanted[i]);
        ck_assert_uint_eq(again->msg.u.append_req.number, i);
        ck_assert_uint_gt(again->msg.u.append_req.epoch, first[0]->msg.u.append_req.epoch);
        world_stored(again, 1 + i);
    }
    ck_stored(&later);
}
END_TEST

START_TEST(lost_node_gives_its_calls_back)
{
    struct test_call append, read;
    world_submit(&append, TAG_append_req, 1);
    world_submit(&read, TAG_sequence_req, 1);
    world_flush();
    struct sent *a = world_next_of(TAG_append_req), *r = world_next_of(TAG_sequence_req);
    if (r->node != a->node)
        router_node_state(world.router, r->node, false);
    router_node_state(world.router, a->node, false);
    world_flush();
    for (unsigned i = 0; i < 2; i++) {
        struct sent *again = world_next();
        ck_assert_ptr_nonnull(again);
        ck_assert_uint_ne(again->node, a->node);
        ck_assert_uint_ne(again->node, r->node);
        if (again->msg.tag == TAG_append_req)
            ck_assert_uint_ne(again->msg.u.append_req.flags & APPEND_RETRY, 0);
        /* What the lost one says now is nobody's answer. */
        router_node_state(world.router, a->node, true);
        world_stored(a, 99);
        world_number(r, 99);
        ck_assert_uint_eq(append.done + read.done, i);
        again->msg.tag == TAG_append_req ? world_stored(again, 3) : world_number(again, 4);
    }
    ck_stored(&append);
    ck_assert_uint_eq(append.reply.u.append_reply.first_sequence, 3);
    ck_assert_uint_eq(read.reply.u.number_reply.value, 4);
}
END_TEST

START_TEST(silent_process_is_left_while_its_node_lives)
{
    struct test_call append;
    world_submit(&append, TAG_append_req, 1);
    world_flush();
    struct sent *a = world_next_of(TAG_append_req);
    world_pass(1400);
    ck_assert_ptr_null(world_next());
    world_pass(200);
    struct sent *again = world_next_of(TAG_append_req);
    ck_assert_uint_ne(again->node, a->node);
    ck_assert_uint_gt(again->msg.u.append_req.epoch, a->msg.u.append_req.epoch);
    world_stored(a, 1); /* late */
    ck_assert_uint_eq(append.done, 0);
    world_stored(again, 1);
    ck_stored(&append);
}
END_TEST

/* Refuses what was sent at every replica in turn until nothing more is sent. */
static void refuse_everywhere(enum err err)
{
    for (unsigned i = 0; i < 20; i++) {
        struct sent *to = world_next();
        if (to == NULL)
            return;
        world_refuse(to, err, 0, 0);
        world_flush();
    }
    ck_abort_msg("there is no end to it");
}

START_TEST(no_quorum_anywhere_fails_at_once)
{
    struct test_call calls[2];
    world_submit(&calls[0], TAG_append_req, 5);
    world_flush();
    refuse_everywhere(ERR_NO_QUORUM);
    world_flush();
    ck_failed(&calls[0], ERR_NO_QUORUM);
    ck_assert_str_eq(calls[0].text, "no quorum for partition 5");
    /* And so the next one, without asking anybody. */
    world_submit(&calls[1], TAG_append_req, 6);
    world_flush();
    ck_failed(&calls[1], ERR_NO_QUORUM);
    ck_assert_ptr_null(world_next());
    /* After a while they are asked again. */
    world.now_ms += 1500;
    world_submit(&calls[0], TAG_append_req, 5);
    world_flush();
    world_stored(world_next_of(TAG_append_req), 1);
    ck_stored(&calls[0]);
}
END_TEST

START_TEST(nobody_in_reach_is_no_quorum)
{
    struct test_call append, next;
    world_pass(100);
    for (unsigned i = 0; i < 3; i++)
        router_node_state(world.router, world.replicas[i], false);
    world_submit(&append, TAG_append_req, 5);
    world_pass(1500);
    ck_assert_uint_eq(append.done, 0); /* they may be back at once */
    world_pass(600);
    ck_failed(&append, ERR_NO_QUORUM);
    world_submit(&next, TAG_append_req, 5);
    world_flush();
    ck_failed(&next, ERR_NO_QUORUM);
    router_node_state(world.router, world.replicas[1], true);
    world_pass(100);
    world_submit(&append, TAG_append_req, 5);
    world_flush();
    world_stored(world_next_of(TAG_append_req), 0);
    ck_stored(&append);
}
END_TEST

START_TEST(one_that_sees_a_quorum_is_enough)
{
    struct test_call append;
    world_submit(&append, TAG_append_req, 5);
    world_flush();
    struct sent *first = world_next_of(TAG_append_req);
    world_refuse(first, ERR_NO_QUORUM, 0, 0);
    world_flush();
    struct sent *second = world_next_of(TAG_append_req);
    world_refuse(second, ERR_NO_QUORUM, 0, 0);
    world_flush();
    struct sent *leader = world_next_of(TAG_append_req);
    ck_assert_uint_eq(leader->node, world_third(first->node, second->node));
    world_stored(leader, 0);
    ck_stored(&append);
}
END_TEST

/* A node that has just begun: its own replica answers before the links to others are there. */
START_TEST(a_node_that_begins_waits_for_the_others_to_appear)
{
    struct test_call append;
    world_teardown();
    world_setup_young(1);
    world_submit(&append, TAG_append_req, 5);
    for (unsigned i = 0; i < 5; i++) {
        refuse_everywhere(ERR_NO_QUORUM);
        world_pass(300);
        ck_assert_uint_eq(append.done, 0);
    }
    refuse_everywhere(ERR_NO_QUORUM);
    router_node_state(world.router, world.replicas[1], true);
    world_flush();
    struct sent *to = world_next_of(TAG_append_req);
    ck_assert_uint_eq(to->node, world.replicas[1]);
    world_stored(to, 0);
    ck_stored(&append);
}
END_TEST

/* All begin at once: nobody leads yet, and nobody sees a quorum. */
START_TEST(nodes_that_begin_together_wait_for_an_election)
{
    struct test_call append;
    world_teardown();
    world_setup_young(3);
    world_submit(&append, TAG_append_req, 5);
    world_flush();
    for (unsigned i = 0; i < 20; i++) {
        refuse_everywhere(ERR_NO_QUORUM);
        world_pass(100);
        ck_assert_uint_eq(append.done, 0);
    }
    world_stored(world_next_of(TAG_append_req), 0);
    ck_stored(&append);
}
END_TEST

START_TEST(but_not_for_long)
{
    struct test_call append;
    world_teardown();
    world_setup_young(1);
    world_submit(&append, TAG_append_req, 5);
    uint64_t begin_ms = world.now_ms;
    while (append.done == 0) {
        refuse_everywhere(ERR_NO_QUORUM);
        world_pass(100);
        ck_assert_uint_lt(world.now_ms - begin_ms, 3500);
    }
    ck_assert_uint_ge(world.now_ms - begin_ms, 3000);
    ck_failed(&append, ERR_NO_QUORUM);
}
END_TEST

START_TEST(who_was_there_and_went_is_not_waited_for)
{
    struct test_call append;
    for (unsigned i = 1; i < 3; i++)
        router_node_state(world.router, world.replicas[i], false);
    world_forget();
    world_submit(&append, TAG_append_req, 5);
    world_flush();
    refuse_everywhere(ERR_NO_QUORUM);
    world_flush();
    ck_failed(&append, ERR_NO_QUORUM);
}
END_TEST

START_TEST(unknown_is_never_told_as_refused)
{
    struct test_call unknown, fresh;
    world_submit(&unknown, TAG_append_req, 5);
    world_flush();
    world_refuse(world_next_of(TAG_append_req), ERR_UNKNOWN, 0, 0);
    world_pass(30);
    refuse_everywhere(ERR_NO_QUORUM);
    world_submit(&fresh, TAG_append_req, 6);
    for (unsigned i = 0; i < 30 && fresh.done == 0; i++) {
        world_pass(30);
        refuse_everywhere(ERR_NO_QUORUM);
    }
    ck_failed(&fresh, ERR_NO_QUORUM);
    ck_assert_uint_eq(unknown.done, 0);
    /* It has an end: the deadline. */
    for (unsigned i = 0; i < 400 && unknown.done == 0; i++) {
        world.now_ms += 100;
        router_tick(world.router, world.now_ms);
        world_flush();
        world_forget(); /* nobody answers */
    }
    ck_failed(&unknown, ERR_TIMEOUT);
}
END_TEST

START_TEST(unsent_call_ends_without_effect)
{
    for (unsigned i = 0; i < 3; i++)
        router_node_state(world.router, world.replicas[i], false);
    struct test_call read;
    world_submit(&read, TAG_sequence_req, 5);
    world_pass(29000);
    ck_assert_uint_eq(read.done, 0);
    world_pass(1001);
    ck_failed(&read, ERR_DOWN);
}
END_TEST

START_TEST(what_cannot_leave_is_sent_again)
{
    struct test_call append;
    world_submit(&append, TAG_append_req, 5);
    world.refuse_sending = true;
    world_flush();
    world_flush();
    ck_assert_ptr_null(world_next());
    world.refuse_sending = false;
    world_flush();
    world_stored(world_next_of(TAG_append_req), 0);
    ck_stored(&append);
}
END_TEST

START_TEST(higher_term_wins_among_hints)
{
    router_hint(world.router, 0, world.replicas[0] + 1, 7);
    router_hint(world.router, 0, world.replicas[1] + 1, 6);
    struct test_call append;
    world_submit(&append, TAG_append_req, 1);
    world_flush();
    struct sent *to = world_next_of(TAG_append_req);
    ck_assert_uint_eq(to->node, world.replicas[0]);
    world_stored(to, 0);
    router_hint(world.router, 0, world.replicas[2] + 1, 8);
    world_submit(&append, TAG_append_req, 1);
    world_flush();
    ck_assert_uint_eq(world_next_of(TAG_append_req)->node, world.replicas[2]);
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("router");
    tcase_add_checked_fixture(tcase, world_setup, world_teardown);
    tcase_add_test(tcase, hint_leads_to_the_leader_in_order);
    tcase_add_test(tcase, partly_refused_frame_keeps_its_order);
    tcase_add_test(tcase, lost_node_gives_its_calls_back);
    tcase_add_test(tcase, silent_process_is_left_while_its_node_lives);
    tcase_add_test(tcase, no_quorum_anywhere_fails_at_once);
    tcase_add_test(tcase, nobody_in_reach_is_no_quorum);
    tcase_add_test(tcase, one_that_sees_a_quorum_is_enough);
    tcase_add_test(tcase, a_node_that_begins_waits_for_the_others_to_appear);
    tcase_add_test(tcase, nodes_that_begin_together_wait_for_an_election);
    tcase_add_test(tcase, but_not_for_long);
    tcase_add_test(tcase, who_was_there_and_went_is_not_waited_for);
    tcase_add_test(tcase, unknown_is_never_told_as_refused);
    tcase_add_test(tcase, unsent_call_ends_without_effect);
    tcase_add_test(tcase, what_cannot_leave_is_sent_again);
    tcase_add_test(tcase, higher_term_wins_among_hints);
    Suite *suite = suite_create("router");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
