/* The supervisor's decisions: starts, ends, links. */
#include <stdlib.h>

#include "tests/unit/supervisor/supervisor_support.h"

START_TEST(a_node_comes_up)
{
    supervisor_start(&s, now_ms);
    ck_assert_uint_eq(boots[0], 1);
    ck_assert_uint_eq(boots[1], 2);
    ck_assert_uint_eq(boots[2], 3);
    linked(0);
    ready(0);
    /* Buckets that this node doesn't run are down for netd. */
    struct msg msg = take(0, TAG_bucket_state);
    ck_assert_uint_eq(msg.u.bucket_state.state, BUCKET_STARTING);
    ck_assert_uint_eq(told_state(3), BUCKET_DOWN);
    linked(1);
    check_none(1, TAG_link_listen); /* recovers yet */
    ready(1);
    ck_assert_uint_eq(told_state(0), BUCKET_UP);
    msg = take(1, TAG_link_listen);
    ck_assert_uint_eq(msg.u.link_listen.peer_boot, boots[0]);
    ck_assert_uint_eq(msg.u.link_listen.link, 4);
    ck_assert(span_equal(msg.u.link_listen.path, span_str("/run/netd-b0.4.ipc")));
    check_none(0, TAG_link_dial); /* not before the other side listens */
    say(1, (struct msg){.tag = TAG_link_listening, .u.link_listening.link = 4});
    msg = take(0, TAG_link_dial);
    ck_assert_uint_eq(msg.u.link_dial.peer_boot, boots[1]);
    ck_assert(span_equal(msg.u.link_dial.path, span_str("/run/netd-b0.4.ipc")));
    say(0, (struct msg){.tag = TAG_link_state, .u.link_state = {.link = 4, .up = true}});
    ck_assert_uint_eq(ready_calls, 0);
    linked(2);
    ready(2);
    make_link(2);
    ck_assert_uint_eq(ready_calls, 1);
    ck_assert_uint_eq(supervisor_tick(&s, now_ms), UINT64_MAX); /* nothing to wait for */
}
END_TEST

START_TEST(a_process_without_a_sign_of_life_is_killed)
{
    supervisor_start(&s, now_ms);
    linked(0);
    linked(1);
    pass(HELLO_MS_MAX - 1);
    ck_assert_uint_eq(kills[2], 0);
    pass(1);
    ck_assert_uint_eq(kills[2], 1);
    pass(60000); /* recovery may take long, and one kill is enough */
    ck_assert_uint_eq(kills[1], 0);
    ck_assert_uint_eq(kills[2], 1);
    ended(2);
    pass(BACKOFF_MS_MIN);
    ck_assert_uint_eq(starts[2], 2);
}
END_TEST

START_TEST(a_process_that_fails_before_ready_is_throttled_and_then_down)
{
    supervisor_start(&s, now_ms);
    linked(0);
    ready(0);
    static const uint64_t pauses_ms[] = {100, 200, 400, 800};
    for (unsigned i = 0; i < 4; i++) {
        ended(1);
        ck_assert_int_eq(s.children[1].state, CHILD_BACKOFF);
        ck_assert_uint_eq(told_state(0), BUCKET_STARTING);
        pass(pauses_ms[i] - 1);
        ck_assert_uint_eq(starts[1], i + 1);
        pass(1);
        ck_assert_uint_eq(starts[1], i + 2);
        ck_assert_int_eq(s.children[1].state, CHILD_STARTING);
    }
    ended(1);
    ck_assert_int_eq(s.children[1].state, CHILD_DOWN);
    ck_assert_uint_eq(told_state(0), BUCKET_DOWN);
    pass(9999);
    ck_assert_uint_eq(starts[1], 5);
    pass(1);
    ck_assert_uint_eq(starts[1], 6);
    ck_assert_uint_eq(told_state(0), UINT64_MAX); /* still down: it was only tried */
    ended(1);
    ck_assert_int_eq(s.children[1].state, CHILD_DOWN);
    pass(10000);
    linked(1);
    ready(1);
    ck_assert_uint_eq(told_state(0), BUCKET_UP);
    ck_assert_int_eq(s.children[1].state, CHILD_UP);
    ended(1); /* it had been ready: a fresh count */
    ck_assert_int_eq(s.children[1].state, CHILD_STARTING);
    ck_assert_uint_eq(told_state(0), BUCKET_STARTING);
}
END_TEST

START_TEST(a_process_that_had_worked_is_started_at_once)
{
    all_up();
    for (unsigned i = 0; i < QUICK_RESTARTS_MAX; i++) {
        ended(1);
        ck_assert_int_eq(s.children[1].state, CHILD_STARTING);
        linked(1);
        ready(1);
    }
    ended(1); /* a habit: one a second from here on */
    ck_assert_int_eq(s.children[1].state, CHILD_BACKOFF);
    unsigned before = starts[1];
    pass(999);
    ck_assert_uint_eq(starts[1], before);
    pass(1);
    ck_assert_uint_eq(starts[1], before + 1);
    linked(1);
    ready(1);
    pass(60000); /* it lived: all is forgiven */
    ended(1);
    ck_assert_int_eq(s.children[1].state, CHILD_STARTING);
    ck_assert_uint_eq(s.children[1].quick_tokens, QUICK_RESTARTS_MAX - 1);
}
END_TEST

START_TEST(a_process_that_cannot_be_spawned_counts_as_failed)
{
    start_fails = true;
    supervisor_start(&s, now_ms);
    ck_assert_int_eq(s.children[1].state, CHILD_BACKOFF);
    start_fails = false;
    pass(100);
    ck_assert_int_eq(s.children[1].state, CHILD_STARTING);
}
END_TEST

START_TEST(a_link_that_does_not_come_up_is_made_anew)
{
    all_up();
    ended(1);
    linked(1);
    ready(1);
    uint64_t first = take(1, TAG_link_listen).u.link_listen.link;
    pass(INTRODUCE_MS_MAX - 1);
    check_none(1, TAG_link_listen);
    pass(1);
    uint64_t second = take(1, TAG_link_listen).u.link_listen.link;
    ck_assert_uint_gt(second, first);
    /* What comes late about the first changes nothing. */
    buf_clear(&outboxes[0], 4096);
    say(1, (struct msg){.tag = TAG_link_listening, .u.link_listening.link = first});
    check_none(0, TAG_link_dial);
    say(0, (struct msg){.tag = TAG_link_state, .u.link_state = {.link = first, .up = true}});
    ck_assert_int_eq(s.children[1].introduction, INTRODUCTION_LISTENING);
    /* netd never reports it: the second try gets twice the time. */
    say(1, (struct msg){.tag = TAG_link_listening, .u.link_listening.link = second});
    ck_assert_uint_eq(take(0, TAG_link_dial).u.link_dial.link, second);
    pass(2 * INTRODUCE_MS_MAX - 1);
    check_none(1, TAG_link_listen);
    pass(1);
    uint64_t third = make_link(1);
    ck_assert_int_eq(s.children[1].introduction, INTRODUCTION_UP);
    /* Lost while both live: at once again. */
    say(0, (struct msg){.tag = TAG_link_state, .u.link_state = {.link = third, .up = false}});
    ck_assert_uint_gt(make_link(1), third);
}
END_TEST

START_TEST(a_new_netd_is_introduced_to_all)
{
    all_up();
    uint64_t old_boot = boots[0];
    ended(0);
    ck_assert_int_eq(s.children[1].introduction, INTRODUCTION_NONE);
    ck_assert_uint_gt(boots[0], old_boot);
    check_none(1, TAG_link_listen);
    linked(0);
    for (unsigned i = 1; i < CHILDREN; i++) {
        struct msg msg = take(i, TAG_link_listen);
        ck_assert_uint_eq(msg.u.link_listen.peer_boot, boots[0]);
    }
    ck_assert_uint_eq(told_state(1), BUCKET_UP);
    ck_assert_uint_eq(starts[1] + starts[2], 2); /* the buckets live on */
}
END_TEST

START_TEST(a_lost_supervisor_link_ends_the_process)
{
    all_up();
    supervisor_on_unlinked(&s, 2, now_ms);
    pass(LEAVE_MS_MAX - 1);
    ck_assert_uint_eq(kills[2], 0);
    pass(1);
    ck_assert_uint_eq(kills[2], 1);
    ended(2);
    ck_assert_int_eq(s.children[2].state, CHILD_STARTING);
}
END_TEST

START_TEST(the_end_of_a_buckets_process_is_told)
{
    all_up();
    uint64_t boot = boots[2];
    ended(2);
    ck_assert_uint_gt(boots[2], boot);
    struct msg msg = take(0, TAG_bucket_ended);
    ck_assert_uint_eq(msg.u.bucket_ended.bucket, 1);
    ck_assert_uint_eq(msg.u.bucket_ended.boot, boot); /* not the new one's */
    ended(0);
    check_none(0, TAG_bucket_ended);
    ended(2); /* nobody to be told: netd isn't there yet */
    ck_assert_uint_eq(outboxes[0].len, 0);
}
END_TEST

START_TEST(a_process_that_ends_to_be_started_again_is_started_at_once)
{
    supervisor_start(&s, now_ms);
    for (unsigned i = 0; i < CHILDREN; i++)
        linked(i);
    for (unsigned i = 0; i < QUICK_RESTARTS_MAX; i++) {
        ended_as(1, true); /* before it was ready */
        ck_assert_int_eq(s.children[1].state, CHILD_STARTING);
        ck_assert_uint_eq(starts[1], i + 2);
        ck_assert_uint_eq(s.children[1].failures, 0);
    }
    ended_as(1, true); /* but not as fast as it can, for ever */
    ck_assert_int_eq(s.children[1].state, CHILD_BACKOFF);
    pass(1000);
    ck_assert_int_eq(s.children[1].state, CHILD_STARTING);
}
END_TEST

START_TEST(a_node_with_a_bucket_down_is_ready_too)
{
    supervisor_start(&s, now_ms);
    linked(0);
    ready(0);
    linked(1);
    ready(1);
    make_link(1);
    for (unsigned i = 0; i < 5; i++) {
        ck_assert_uint_eq(ready_calls, 0);
        if (i > 0)
            pass(5000);
        ended(2);
    }
    ck_assert_int_eq(s.children[2].state, CHILD_DOWN);
    ck_assert_uint_eq(ready_calls, 1);
}
END_TEST

START_TEST(the_operator_restarts_one_process)
{
    all_up();
    uint64_t old_boot = boots[1];
    supervisor_restart(&s, 1, now_ms);
    ck_assert_uint_eq(told_state(0), BUCKET_STARTING);
    take(1, TAG_stop);
    say(1, (struct msg){.tag = TAG_bye});
    ended(1);
    ck_assert_uint_gt(boots[1], old_boot);
    ck_assert_int_eq(s.children[1].state, CHILD_STARTING);
    ck_assert_uint_eq(s.children[1].restarts, 1);
    linked(1);
    ready(1);
    ck_assert_uint_eq(told_state(0), BUCKET_UP);
    ck_assert_uint_eq(starts[0] + starts[2], 2);
    make_link(1);
    ck_assert_uint_eq(ready_calls, 1); /* said once */
}
END_TEST

START_TEST(the_operator_tries_a_bucket_that_is_down)
{
    supervisor_start(&s, now_ms);
    linked(0);
    ready(0);
    for (unsigned i = 0; i < 5; i++) {
        ended(1);
        if (s.children[1].state == CHILD_BACKOFF)
            pass(10000);
    }
    ck_assert_int_eq(s.children[1].state, CHILD_DOWN);
    supervisor_restart(&s, 1, now_ms);
    ck_assert_int_eq(s.children[1].state, CHILD_STARTING);
    linked(1);
    ready(1);
    ck_assert_uint_eq(told_state(0), BUCKET_UP);
}
END_TEST

START_TEST(a_node_whose_netd_never_starts_gives_up)
{
    supervisor_start(&s, now_ms);
    for (unsigned i = 0; i < 5; i++) {
        ck_assert_int_eq(s.stopping, STOP_NONE);
        ended(0);
        pass(5000);
    }
    ck_assert(s.gave_up);
    ended(1);
    ended(2);
    ck_assert_int_eq(s.stopping, STOP_DONE);
    ck_assert_uint_eq(starts[0], 5);
}
END_TEST

START_TEST(a_netd_that_had_worked_is_tried_for_ever)
{
    all_up();
    ended(0);
    for (unsigned i = 0; i < 20; i++) {
        ended(0);
        pass(10000);
    }
    ck_assert(!s.gave_up);
    ck_assert_uint_eq(starts[0], 22);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("supervisor");
    TCase *tcase = tcase_create("supervisor");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, a_node_comes_up);
    tcase_add_test(tcase, a_process_without_a_sign_of_life_is_killed);
    tcase_add_test(tcase, a_process_that_fails_before_ready_is_throttled_and_then_down);
    tcase_add_test(tcase, a_process_that_had_worked_is_started_at_once);
    tcase_add_test(tcase, a_process_that_cannot_be_spawned_counts_as_failed);
    tcase_add_test(tcase, a_link_that_does_not_come_up_is_made_anew);
    tcase_add_test(tcase, a_new_netd_is_introduced_to_all);
    tcase_add_test(tcase, a_lost_supervisor_link_ends_the_process);
    tcase_add_test(tcase, the_end_of_a_buckets_process_is_told);
    tcase_add_test(tcase, a_process_that_ends_to_be_started_again_is_started_at_once);
    tcase_add_test(tcase, a_node_with_a_bucket_down_is_ready_too);
    tcase_add_test(tcase, the_operator_restarts_one_process);
    tcase_add_test(tcase, the_operator_tries_a_bucket_that_is_down);
    tcase_add_test(tcase, a_node_whose_netd_never_starts_gives_up);
    tcase_add_test(tcase, a_netd_that_had_worked_is_tried_for_ever);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
