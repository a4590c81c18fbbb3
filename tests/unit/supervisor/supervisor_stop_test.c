/* The supervisor's decisions: stopping, alone and in a cluster. */
#include <stdlib.h>

#include "tests/unit/supervisor/supervisor_support.h"

START_TEST(stop_is_netd_first_then_the_buckets)
{
    all_up();
    supervisor_stop(&s, now_ms);
    ck_assert_uint_eq(take(0, TAG_stop).u.stop.deadline_ms, 3000);
    check_none(1, TAG_stop);
    say(0, (struct msg){.tag = TAG_bye});
    ck_assert_uint_eq(let_gos[0], 1);
    check_none(1, TAG_stop); /* it said bye, but it lives */
    ended(0);
    take(1, TAG_stop);
    take(2, TAG_stop);
    say(1, (struct msg){.tag = TAG_bye});
    ended(1);
    ck_assert_int_eq(s.stopping, STOP_BUCKETS);
    pass(2999);
    ck_assert_uint_eq(kills[2], 0);
    pass(1);
    ck_assert_uint_eq(kills[2], 1); /* too slow */
    ended(2);
    ck_assert_int_eq(s.stopping, STOP_DONE);
    ck_assert_uint_eq(starts[0] + starts[1] + starts[2], 3);
    ck_assert(!s.gave_up);
}
END_TEST

START_TEST(a_process_that_said_bye_must_leave)
{
    all_up();
    supervisor_stop(&s, now_ms);
    say(0, (struct msg){.tag = TAG_bye});
    pass(LEAVE_MS_MAX);
    ck_assert_uint_eq(kills[0], 1);
}
END_TEST

START_TEST(stop_in_a_cluster_is_the_buckets_first_then_netd)
{
    teardown();
    setup_with(true);
    all_up();
    uint64_t boot = boots[1];
    supervisor_stop(&s, now_ms);
    check_none(0, TAG_stop);
    ck_assert_uint_eq(take(1, TAG_stop).u.stop.deadline_ms, 2250); /* netd gets the rest */
    take(2, TAG_stop);
    say(1, (struct msg){.tag = TAG_bye});
    ended(1);
    struct msg msg = take(0, TAG_bucket_ended); /* the other nodes needn't find out by waiting */
    ck_assert_uint_eq(msg.u.bucket_ended.bucket, 0);
    ck_assert_uint_eq(msg.u.bucket_ended.boot, boot);
    pass(2249);
    ck_assert_uint_eq(kills[2], 0);
    check_none(0, TAG_stop);
    pass(1);
    ck_assert_uint_eq(kills[2], 1); /* too slow */
    ended(2);
    ck_assert_uint_eq(take(0, TAG_stop).u.stop.deadline_ms, 750);
    ck_assert_int_eq(s.stopping, STOP_NETD);
    pass(749);
    ck_assert_uint_eq(kills[0], 0);
    pass(1);
    ck_assert_uint_eq(kills[0], 1); /* all within the time for a stop */
    ended(0);
    ck_assert_int_eq(s.stopping, STOP_DONE);
    ck_assert_uint_eq(starts[0] + starts[1] + starts[2], 3);
}
END_TEST

START_TEST(a_netd_that_dies_while_the_buckets_stop_is_not_waited_for)
{
    teardown();
    setup_with(true);
    all_up();
    supervisor_stop(&s, now_ms);
    ended(0);
    ck_assert_int_eq(s.stopping, STOP_BUCKETS);
    ended(1);
    ended(2);
    ck_assert_int_eq(s.stopping, STOP_DONE);
    ck_assert_uint_eq(starts[0], 1);
}
END_TEST

START_TEST(stop_during_the_start_kills_what_is_not_ready)
{
    supervisor_start(&s, now_ms);
    linked(1);
    supervisor_stop(&s, now_ms);
    ck_assert_uint_eq(kills[0], 1);
    ended(0);
    ck_assert_uint_eq(kills[1], 1);
    ck_assert_uint_eq(kills[2], 1);
    ended(1);
    ended(2);
    ck_assert_int_eq(s.stopping, STOP_DONE);
}
END_TEST

START_TEST(stop_twice_kills)
{
    all_up();
    supervisor_stop(&s, now_ms);
    supervisor_stop(&s, now_ms);
    ck_assert_uint_eq(kills[0], 1);
    ck_assert_uint_eq(kills[1], 1);
    ended(0);
    ended(1);
    ended(2);
    ck_assert_int_eq(s.stopping, STOP_DONE);
}
END_TEST

START_TEST(a_stop_reaches_what_waits_to_be_started)
{
    supervisor_start(&s, now_ms);
    linked(0);
    ready(0);
    ended(1);
    ended(2);
    supervisor_stop(&s, now_ms);
    ended(0);
    ck_assert_int_eq(s.stopping, STOP_DONE);
    pass(60000);
    ck_assert_uint_eq(starts[1], 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("supervisor_stop");
    TCase *tcase = tcase_create("supervisor_stop");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, stop_is_netd_first_then_the_buckets);
    tcase_add_test(tcase, a_process_that_said_bye_must_leave);
    tcase_add_test(tcase, stop_in_a_cluster_is_the_buckets_first_then_netd);
    tcase_add_test(tcase, a_netd_that_dies_while_the_buckets_stop_is_not_waited_for);
    tcase_add_test(tcase, stop_during_the_start_kills_what_is_not_ready);
    tcase_add_test(tcase, stop_twice_kills);
    tcase_add_test(tcase, a_stop_reaches_what_waits_to_be_started);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
