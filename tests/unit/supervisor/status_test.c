/* The table of `sierradb status`: aligned, whatever is missing. */
#include <check.h>
#include <stdlib.h>

#include "supervisor/status.h"

static void check_table(const char *json, const char *expected)
{
    json_error_t problem;
    json_t *status = json_loads(json, 0, &problem);
    ck_assert_ptr_nonnull(status);
    struct buf out = {0};
    status_print(status, &out);
    buf_append_zeros(&out, 1);
    ck_assert_str_eq((char *)out.ptr, expected);
    buf_release(&out);
    json_decref(status);
}

START_TEST(rows_are_aligned)
{
    check_table(
        "{\"version\": \"9\", \"state\": \"up\", \"node\": 0, \"dir\": \"/d\","
        " \"client_address\": \"1.2.3.4:5\", \"processes\": ["
        "{\"name\": \"netd\", \"pid\": 7, \"state\": \"up\", \"uptime_ms\": 1250, \"restarts\": 0,"
        " \"rss_bytes\": 1048576},"
        "{\"name\": \"bucketd-10\", \"pid\": 123456, \"state\": \"starting\","
        " \"uptime_ms\": 3723000, \"restarts\": 12, \"events\": 1234567890,"
        " \"appends_per_s\": 99999.6, \"reads_per_s\": 0.2, \"rss_bytes\": 21474836480,"
        " \"link\": \"up\"},"
        "{\"name\": \"bucketd-3\", \"state\": \"down\", \"restarts\": 5, \"link\": \"down\"}]}",
        "sierradb 9, node 0: up, 1.2.3.4:5, data in /d\n"
        "PROCESS        PID  STATE     UPTIME  RESTARTS      EVENTS  APPENDS/S  READS/S    MEMORY  "
        "LINK\n"
        "netd             7  up          1.2s         0           -          -        -   1.0 MiB  "
        "-\n"
        "bucketd-10  123456  starting   1h02m        12  1234567890     100000        0  20.0 GiB  "
        "up\n"
        "bucketd-3        -  down           -         5           -          -        -         -  "
        "down\n");
}
END_TEST

START_TEST(an_answer_without_anything_prints)
{
    check_table("{}", "sierradb -, node 0: -, -, data in -\n"
                      "PROCESS  PID  STATE  UPTIME  RESTARTS  EVENTS  APPENDS/S  READS/S  MEMORY  "
                      "LINK\n");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("status");
    TCase *tcase = tcase_create("status");
    tcase_add_test(tcase, rows_are_aligned);
    tcase_add_test(tcase, an_answer_without_anything_prints);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
