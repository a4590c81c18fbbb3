/* Rendered replies, byte for byte, in both protocols. */
#include "netd/reply.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

static struct uuid uuid(const char *text)
{
    struct uuid id;
    ck_assert(uuid_parse(span_str(text), &id));
    return id;
}

static void check_bytes(struct buf *out, const char *expected)
{
    ck_assert_uint_eq(out->len, strlen(expected));
    buf_append(out, "", 1);
    ck_assert_str_eq((char *)out->ptr, expected);
    buf_release(out);
}

static struct rec_stored_event sample(void)
{
    return (struct rec_stored_event){
        .event_id = uuid("01a207c7-3da1-7357-b6eb-0436e59aed7c"),
        .partition_key = uuid("7c529de9-ad5a-5e7e-b6eb-202b61a5f7c5"),
        .transaction_id = uuid("00000000-0000-4000-8000-0000000000ff"),
        .partition = 12,
        .sequence = 100,
        .version = 9,
        .timestamp_ms = 1795426827682,
        .stream = span_str("a\r\nb"),
        .name = span_str(""),
        .metadata = span_str(""),
        .payload = span_of("x\0y", 3),
    };
}

#define EVENT_BODY_HEAD                                                                            \
    "+event_id\r\n+01a207c7-3da1-7357-b6eb-0436e59aed7c\r\n"                                       \
    "+partition_key\r\n+7c529de9-ad5a-5e7e-b6eb-202b61a5f7c5\r\n+partition_id\r\n:12\r\n"          \
    "+transaction_id\r\n+00000000-0000-4000-8000-0000000000ff\r\n+partition_sequence\r\n:100\r\n"  \
    "+stream_version\r\n:9\r\n+timestamp\r\n:1795426827682\r\n+stream_id\r\n$4\r\na\r\nb\r\n"      \
    "+event_name\r\n$0\r\n\r\n+metadata\r\n$0\r\n\r\n+payload\r\n$3\r\n"

START_TEST(events)
{
    static const char expected[] =
        "%11\r\n" EVENT_BODY_HEAD "x\0y\r\n*22\r\n" EVENT_BODY_HEAD "x\0y\r\n";
    struct rec_stored_event event = sample();
    struct buf out = {0}, list = {0};
    rec_pack_stored_event(&list, &event);
    rec_pack_stored_event(&list, &event);
    enum err err;
    ck_assert_uint_eq(reply_events(&out, 3, buf_span(&list), 1, &err), 1);
    ck_assert_int_eq(err, ERR_OK);
    ck_assert_uint_eq(reply_events(&out, 2, buf_span(&list), 1, &err), 1);
    ck_assert(span_equal(buf_span(&out), span_of(expected, sizeof expected - 1)));
    out.len = 0;
    ck_assert_uint_eq(reply_events(&out, 3, buf_span(&list), 9, &err), 2);
    ck_assert_int_eq(err, ERR_OK);
    ck_assert_uint_eq(reply_events(&out, 3, span_of(list.ptr, list.len - 1), 9, &err), 1);
    ck_assert_int_ne(err, ERR_OK);
    buf_release(&out);
    buf_release(&list);
}
END_TEST

START_TEST(appends)
{
    struct append_result result = {
        .event_id = uuid("01a207c7-3da1-2357-b6eb-0436e59aed7c"),
        .partition_key = uuid("7c529de9-ad5a-5e7e-b6eb-202b61a5f7c5"),
        .partition = 12,
        .timestamp_ms = 1795426827682,
    };
    struct buf out = {0};
    reply_append(&out, 3, &result);
    check_bytes(&out,
                "%6\r\n+event_id\r\n+01a207c7-3da1-2357-b6eb-0436e59aed7c\r\n+partition_key\r\n"
                "+7c529de9-ad5a-5e7e-b6eb-202b61a5f7c5\r\n+partition_id\r\n:12\r\n+partition_"
                "sequence\r\n:0\r\n"
                "+stream_version\r\n:0\r\n+timestamp\r\n:1795426827682\r\n");
    reply_append(&out, 2, &result);
    ck_assert(out.len > 5 && memcmp(out.ptr, "*12\r\n", 5) == 0);
    buf_release(&out);
    reply_multi_append_head(&out, 2, &result.partition_key, 12, 40, 2);
    reply_multi_append_event(&out, 2, &result.event_id, span_str("s\r\n"), 7, 8);
    check_bytes(
        &out,
        "*10\r\n+partition_key\r\n+7c529de9-ad5a-5e7e-b6eb-202b61a5f7c5\r\n+partition_id\r\n:12\r\n"
        "+first_partition_sequence\r\n:40\r\n+last_partition_sequence\r\n:41\r\n+events\r\n*2\r\n"
        "*8\r\n+event_id\r\n+01a207c7-3da1-2357-b6eb-0436e59aed7c\r\n+stream_id\r\n$3\r\ns\r\n\r\n"
        "+stream_version\r\n:7\r\n+timestamp\r\n:8\r\n");
}
END_TEST

START_TEST(scan_heads)
{
    struct buf out = {0};
    reply_scan_head(&out, 3, true, 5);
    check_bytes(&out, "%2\r\n+has_more\r\n#t\r\n+events\r\n*5\r\n");
    reply_scan_head(&out, 2, false, 0);
    check_bytes(&out, "*4\r\n+has_more\r\n:0\r\n+events\r\n*0\r\n");
}
END_TEST

START_TEST(numbers)
{
    uint64_t value = 1;
    for (unsigned digits = 1; digits <= 20; digits++, value *= 10)
        for (int near = -1; near <= 1; near++) {
            uint8_t text[REPLY_NUMBER_LEN_MAX + 1] = {0};
            char expected[32];
            uint64_t number = value + (uint64_t)(int64_t)near;
            text[reply_number(text, number)] = 0;
            snprintf(expected, sizeof expected, "%lu", number);
            ck_assert_str_eq((char *)text, expected);
        }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("reply");
    TCase *tcase = tcase_create("reply");
    tcase_add_test(tcase, events);
    tcase_add_test(tcase, appends);
    tcase_add_test(tcase, scan_heads);
    tcase_add_test(tcase, numbers);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
