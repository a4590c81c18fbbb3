/* Whether a node is ready: what each process's state and word mean for it. */
#include <stdlib.h>

#include "supervisor/ready.h"
#include "tests/unit/supervisor/supervisor_support.h"

static const struct ready_word alone = {.answers = true};
static const struct ready_word level = {
    .answers = true, .replicated = true, .told = true, .level = true};

static void check(unsigned child, const struct ready_word *word, enum readiness readiness,
                  const char *expected)
{
    char why[READY_WHY_LEN];
    ck_assert_int_eq(ready_process(&s.children[child], word, why), readiness);
    ck_assert_str_eq(why, expected);
}

START_TEST(processes_that_are_up_and_linked_are_ready)
{
    supervisor_start(&s, now_ms);
    check(0, &alone, READY_SOON, "netd is starting");
    check(1, &alone, READY_SOON, "bucketd-0 is starting");
    linked(0);
    linked(1);
    ready(0);
    ready(1);
    check(0, &alone, READY, "");
    check(1, &alone, READY_SOON, "bucketd-0 has no link to netd yet");
    make_link(1);
    check(1, &alone, READY, "");
    supervisor_restart(&s, 1, now_ms);
    check(1, &alone, READY_SOON, "bucketd-0 is stopping");
}
END_TEST

START_TEST(a_silent_process_is_not)
{
    all_up();
    check(0, &(struct ready_word){0}, READY_SOON, "netd doesn't answer");
    check(1, &(struct ready_word){0}, READY_SOON, "bucketd-0 doesn't answer");
}
END_TEST

START_TEST(a_bucket_that_is_down_for_good_holds_nobody_back)
{
    supervisor_start(&s, now_ms);
    linked(0);
    ready(0);
    ended(1);
    check(1, &alone, READY_SOON, "bucketd-0 ended and is about to start again");
    for (unsigned i = 0; i < 10 && !s.children[1].reported_down; i++) {
        pass(10000);
        ended(1);
    }
    check(1, &alone, READY_NOT_SOON, "bucketd-0 doesn't start");
    pass(10000); /* it is tried again: not a reason to wait for it */
    ck_assert_int_eq(s.children[1].state, CHILD_STARTING);
    check(1, &alone, READY_NOT_SOON, "bucketd-0 doesn't start");
}
END_TEST

START_TEST(a_replica_is_ready_when_level_or_told_that_it_is_stale)
{
    all_up();
    struct ready_word word = level;
    check(1, &word, READY, "");
    word.level = false;
    check(1, &word, READY_SOON, "bucketd-0 isn't up to date yet");
    word.stale = true;
    check(1, &word, READY, "");
    word.told = false;
    check(1, &word, READY_SOON, "bucketd-0 hasn't told of its replica yet");
    word.replicated = false; /* a bucket without other replicas has nothing to tell */
    check(1, &word, READY, "");
}
END_TEST

START_TEST(damage_holds_nobody_back)
{
    all_up();
    struct ready_word word = level;
    word.damaged = true;
    check(1, &word, READY_NOT_SOON, "bucketd-0 has a damaged log that waits for repair");
    ended(1);
    check(1, &word, READY_SOON, "bucketd-0 is starting");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ready");
    TCase *tcase = tcase_create("ready");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, processes_that_are_up_and_linked_are_ready);
    tcase_add_test(tcase, a_silent_process_is_not);
    tcase_add_test(tcase, a_bucket_that_is_down_for_good_holds_nobody_back);
    tcase_add_test(tcase, a_replica_is_ready_when_level_or_told_that_it_is_stale);
    tcase_add_test(tcase, damage_holds_nobody_back);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
