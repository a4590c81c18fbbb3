/* One warning a minute for each source and reason, whoever and however many they are. */
#include "netd/peer_warnings.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

static struct peer_warnings warnings;

static void setup(void)
{
    warnings = (struct peer_warnings){0};
}

START_TEST(once_a_minute_with_the_number_kept_quiet)
{
    uint64_t quiet = 99;
    ck_assert(peer_warnings_due(&warnings, "10.0.0.1", PEER_REFUSED_MAC, 1000, &quiet));
    ck_assert_uint_eq(quiet, 0);
    for (uint64_t i = 0; i < 500; i++)
        ck_assert(!peer_warnings_due(&warnings, "10.0.0.1", PEER_REFUSED_MAC, 1000 + i, &quiet));
    ck_assert(!peer_warnings_due(&warnings, "10.0.0.1", PEER_REFUSED_MAC, 60999, &quiet));
    ck_assert(peer_warnings_due(&warnings, "10.0.0.1", PEER_REFUSED_MAC, 61000, &quiet));
    ck_assert_uint_eq(quiet, 501);
    ck_assert(peer_warnings_due(&warnings, "10.0.0.1", PEER_REFUSED_MAC, 200000, &quiet));
    ck_assert_uint_eq(quiet, 0);
}
END_TEST

START_TEST(sources_and_reasons_are_apart)
{
    uint64_t quiet;
    ck_assert(peer_warnings_due(&warnings, "10.0.0.1", PEER_REFUSED_MAC, 1000, &quiet));
    ck_assert(peer_warnings_due(&warnings, "10.0.0.1", PEER_REFUSED_CLUSTER, 1000, &quiet));
    ck_assert(peer_warnings_due(&warnings, "10.0.0.2", PEER_REFUSED_MAC, 1000, &quiet));
    ck_assert(!peer_warnings_due(&warnings, "10.0.0.2", PEER_REFUSED_MAC, 1001, &quiet));
    /* Longer than a name may be: still the same one. */
    char name[2 * PEER_WARNING_NAME];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    ck_assert(peer_warnings_due(&warnings, name, PEER_REFUSED_MAC, 1000, &quiet));
    ck_assert(!peer_warnings_due(&warnings, name, PEER_REFUSED_MAC, 1000, &quiet));
}
END_TEST

START_TEST(a_crowd_gets_one_a_second)
{
    uint64_t quiet;
    unsigned lines = 0;
    for (unsigned i = 0; i < 100000; i++) {
        char source[32];
        snprintf(source, sizeof source, "10.%u.%u.%u", i >> 16, i >> 8 & 255, i & 255);
        lines += peer_warnings_due(&warnings, source, PEER_REFUSED_LENGTH, 1000 + i / 10, &quiet);
    }
    /* In ten seconds: a table full, and then about one a second. */
    ck_assert_uint_ge(lines, PEER_WARNINGS_MAX);
    ck_assert_uint_le(lines, PEER_WARNINGS_MAX + 12);
    /* A minute later old entries make room at once. */
    ck_assert(peer_warnings_due(&warnings, "fresh", PEER_REFUSED_MAC, 80000, &quiet));
    ck_assert(peer_warnings_due(&warnings, "fresher", PEER_REFUSED_MAC, 80000, &quiet));
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("peer_warnings");
    tcase_add_checked_fixture(tcase, setup, NULL);
    tcase_add_test(tcase, once_a_minute_with_the_number_kept_quiet);
    tcase_add_test(tcase, sources_and_reasons_are_apart);
    tcase_add_test(tcase, a_crowd_gets_one_a_second);
    Suite *suite = suite_create("peer_warnings");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
