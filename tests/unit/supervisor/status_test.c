/* The tables of `sierradb status` and `sierradb cluster status`: aligned, whatever is missing. */
#include <check.h>
#include <stdlib.h>

#include "supervisor/cluster_status.h"
#include "supervisor/status.h"

static void check_printed(void (*print)(const json_t *, struct buf *), const char *json,
                          const char *expected)
{
    json_error_t problem;
    json_t *status = json_loads(json, 0, &problem);
    ck_assert_ptr_nonnull(status);
    struct buf out = {0};
    print(status, &out);
    buf_append_zeros(&out, 1);
    ck_assert_str_eq((char *)out.ptr, expected);
    buf_release(&out);
    json_decref(status);
}

static void check_table(const char *json, const char *expected)
{
    check_printed(status_print, json, expected);
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

START_TEST(replicas_have_columns_of_their_own)
{
    check_table(
        "{\"version\": \"9\", \"state\": \"up\", \"node\": 0, \"dir\": \"/d\","
        " \"client_address\": \"1.2.3.4:5\", \"processes\": ["
        "{\"name\": \"netd\", \"pid\": 7, \"state\": \"up\"},"
        "{\"name\": \"bucketd-1\", \"state\": \"up\", \"role\": \"follower\", \"term\": 12,"
        " \"leader\": 2, \"lag\": 1234, \"link\": \"up\"},"
        "{\"name\": \"bucketd-3\", \"state\": \"up\", \"role\": \"candidate\", \"term\": 3,"
        " \"link\": \"up\"}], \"waits_for\": [\"bucketd-3 isn't up to date yet\"]}",
        "sierradb 9, node 0: up, 1.2.3.4:5, data in /d\n"
        "PROCESS    PID  STATE  UPTIME  RESTARTS  EVENTS  APPENDS/S  READS/S  MEMORY  ROLE       "
        "TERM  LEADER   LAG  LINK\n"
        "netd         7  up          -         -       -          -        -       -  -          "
        "   -       -     -  -\n"
        "bucketd-1    -  up          -         -       -          -        -       -  follower   "
        "  12       2  1234  up\n"
        "bucketd-3    -  up          -         -       -          -        -       -  candidate  "
        "   3       -     -  up\n"
        "! not ready: bucketd-3 isn't up to date yet\n");
}
END_TEST

START_TEST(a_cluster_in_tables)
{
    check_printed(
        cluster_status_print,
        "{\"cluster\": \"blue\", \"node\": 1, \"node_count\": 3, \"state\": \"degraded\","
        " \"nodes\": ["
        "{\"node\": 0, \"name\": \"a:1\", \"address\": \"10.0.0.1:1\", \"version\": \"9\","
        " \"alive\": true, \"health\": \"healthy\", \"boot\": 5, \"since_ms\": 61000,"
        " \"rtt_us\": 250, \"buckets\": 2, \"leads\": 1, \"load\": 1500,"
        " \"bytes_in\": 1048576, \"bytes_out\": 2097152},"
        "{\"node\": 1, \"name\": \"b:1\", \"self\": true, \"alive\": true,"
        " \"health\": \"stopping\", \"boot\": 6},"
        "{\"node\": 2, \"name\": \"c:1\", \"alive\": false, \"boot\": 0},"
        "{\"node\": 3, \"name\": \"d:1\", \"alive\": false, \"boot\": 4}],"
        " \"buckets\": ["
        "{\"bucket\": 0, \"leader\": 1, \"term\": 4, \"replicas\": ["
        "{\"node\": 1, \"alive\": true, \"ready\": true, \"commit_idx\": 77, \"lag\": 0},"
        "{\"node\": 0, \"alive\": true, \"ready\": true, \"commit_idx\": 70, \"lag\": 7},"
        "{\"node\": 2, \"alive\": false, \"state\": \"up\"}]},"
        "{\"bucket\": 1, \"leader\": null, \"term\": 9, \"replicas\": ["
        "{\"node\": 2, \"alive\": false, \"state\": \"starting\"},"
        "{\"node\": 1, \"alive\": true, \"ready\": false},"
        "{\"node\": 0, \"alive\": true, \"damaged\": true, \"lag\": 9}]}],"
        " \"problems\": [\"node 2 (c:1) was never heard\", \"bucket 1 has no leader\"]}",
        "cluster blue as node 1 of 3 sees it: degraded\n"
        "\n"
        "NODE      NAME  ADDRESS     STATE          FOR  VERSION      RTT  BUCKETS  LEADS  "
        "COMMANDS/S       IN      OUT\n"
        "0         a:1   10.0.0.1:1  healthy      1m01s  9        0.25 ms        2      1  "
        "      1500  1.0 MiB  2.0 MiB\n"
        "1 (here)  b:1   -           stopping      0.0s  -              -        0      0  "
        "         0  0.0 MiB  0.0 MiB\n"
        "2         c:1   -           never heard   0.0s  -              -        0      0  "
        "         -  0.0 MiB  0.0 MiB\n"
        "3         d:1   -           away          0.0s  -              -        0      0  "
        "         -  0.0 MiB  0.0 MiB\n"
        "\n"
        "BUCKET  LEADER  TERM  COMMIT  REPLICAS\n"
        "     0       1     4      77  1, 0 (7 behind), 2 (away)\n"
        "     1       -     9       -  2 (starting), 1 (not ready), 0 (damaged)\n"
        "\n"
        "! node 2 (c:1) was never heard\n"
        "! bucket 1 has no leader\n");
    check_printed(cluster_status_print, "{}",
                  "cluster - as node 0 of 0 sees it: -\n"
                  "\n"
                  "NODE  NAME  ADDRESS  STATE  FOR  VERSION  RTT  BUCKETS  LEADS  COMMANDS/S  IN  "
                  "OUT\n"
                  "\n"
                  "BUCKET  LEADER  TERM  COMMIT  REPLICAS\n"
                  "\n"
                  "nothing is wrong\n");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("status");
    TCase *tcase = tcase_create("status");
    tcase_add_test(tcase, rows_are_aligned);
    tcase_add_test(tcase, an_answer_without_anything_prints);
    tcase_add_test(tcase, replicas_have_columns_of_their_own);
    tcase_add_test(tcase, a_cluster_in_tables);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
