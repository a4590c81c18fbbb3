/* The grammar of the commands' arguments: what is taken, and the exact texts of what is refused. */
#include "netd/args.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#define KEY       "550e8400-e29b-41d4-a716-446655440000"
#define MAX_WORDS 64

/* Words from one line; "" in quotes is an empty word, :n a RESP number, @null a null. */
struct line {
    struct resp_arg words[MAX_WORDS];
    struct args args;
    struct buf error;
    char text[2048];
};

static struct args *line(struct line *line, const char *text)
{
    memset(line, 0, sizeof *line);
    snprintf(line->text, sizeof line->text, "%s", text);
    line->args = (struct args){.at = line->words, .error = &line->error};
    char *rest = NULL;
    for (char *word = strtok_r(line->text, " ", &rest); word != NULL;
         word = strtok_r(NULL, " ", &rest)) {
        ck_assert_uint_lt(line->args.left, MAX_WORDS);
        struct resp_arg *arg = &line->words[line->args.left++];
        *arg = (struct resp_arg){.value = span_str(word), .type = RESP_STRING, .kind = "string"};
        if (strcmp(word, "\"\"") == 0)
            arg->value.len = 0;
        if (word[0] == ':' && word[1] != '\0')
            *arg = (struct resp_arg){
                .value = span_str(word + 1), .type = RESP_NUMBER, .kind = "number"};
        if (strcmp(word, "@null") == 0)
            *arg = (struct resp_arg){.type = RESP_NULL, .kind = "null"};
    }
    return &line->args;
}

static void check_error(struct line *line, const char *expected)
{
    buf_append(&line->error, "", 1);
    ck_assert_str_eq((char *)line->error.ptr, expected);
    buf_release(&line->error);
}

static void append_fails(const char *text, const char *expected)
{
    struct line l;
    struct append_args event;
    ck_assert_msg(!args_append(line(&l, text), &event), "accepted: %s", text);
    check_error(&l, expected);
}

static void multi_fails(const char *text, const char *expected)
{
    struct line l;
    struct append_args event;
    struct args *args = line(&l, text);
    bool ok = true;
    while (ok && args->left > 0)
        ok = args_multi_event(args, &event);
    ck_assert_msg(!ok, "accepted: %s", text);
    check_error(&l, expected);
}

static bool span_is(struct span span, const char *text)
{
    return span_equal(span, span_str(text));
}

START_TEST(append_takes_options_in_any_order)
{
    struct line l;
    struct append_args event;
    ck_assert(args_append(
        line(&l, "s n payload P TIMESTAMP 12 Metadata M EXPECTED_VERSION 7 PARTITION_KEY " KEY
                 " EVENT_ID " KEY),
        &event));
    ck_assert(span_is(event.stream, "s") && span_is(event.name, "n"));
    ck_assert(span_is(event.payload, "P") && span_is(event.metadata, "M"));
    ck_assert_uint_eq(event.timestamp_ms, 12);
    ck_assert_int_eq(event.expect, EXPECT_VERSION);
    ck_assert_uint_eq(event.expect_version, 7);
    ck_assert_uint_eq(uuid_hash(&event.partition_key), 0x9c59);
    ck_assert_uint_eq(event.given, 63);
    ck_assert(args_append(line(&l, "s n EXPECTED_VERSION eMpty"), &event));
    ck_assert_int_eq(event.expect, EXPECT_EMPTY);
    ck_assert(args_append(line(&l, "s n EXPECTED_VERSION :3 TIMESTAMP :0"), &event));
    ck_assert_uint_eq(event.expect_version, 3);
    ck_assert(args_append(line(&l, "s \"\""), &event));
    ck_assert_uint_eq(event.name.len, 0);
}
END_TEST

START_TEST(positions_are_no_keywords)
{
    struct line l;
    struct append_args event;
    ck_assert(args_append(line(&l, "PAYLOAD EVENT_ID PAYLOAD PAYLOAD"), &event));
    ck_assert(span_is(event.stream, "PAYLOAD") && span_is(event.name, "EVENT_ID") &&
              span_is(event.payload, "PAYLOAD"));
    struct args *args = line(&l, "PAYLOAD METADATA PAYLOAD x TIMESTAMP 5");
    ck_assert(args_multi_event(args, &event));
    ck_assert(span_is(event.stream, "PAYLOAD") && span_is(event.name, "METADATA") &&
              span_is(event.payload, "x"));
    ck_assert_uint_eq(args->left, 0);
}
END_TEST

START_TEST(append_refuses)
{
    append_fails("", "unexpected end of input: expected stream id");
    append_fails("s", "unexpected end of input: expected event name");
    append_fails(":5 n", "unexpected number: expected stream id");
    append_fails("s @null", "unexpected null: expected event name");
    append_fails("\"\" n",
                 "stream id must be between 1 and 64 characters in length, but got 0 for ''");
    append_fails(
        "s n x",
        "unexpected string: expected EVENT_ID, PARTITION_KEY, EXPECTED_VERSION, TIMESTAMP, "
        "PAYLOAD, METADATA or end of input");
    append_fails("s n PAYLOAD", "unexpected end of input: expected payload");
    append_fails("s n PAYLOAD @null", "unexpected null: expected payload");
    append_fails("s n PAYLOAD a PAYLOAD b", "payload already specified");
    append_fails("s n METADATA a METADATA b", "metadata already specified");
    append_fails("s n EXPECTED_VERSION any EXPECTED_VERSION 1",
                 "expected version already specified");
    append_fails("s n TIMESTAMP 1 TIMESTAMP 1", "timestamp already specified");
    append_fails("s n EVENT_ID zzz", "invalid event id");
    append_fails("s n PARTITION_KEY 12", "invalid partition key");
    append_fails("s n EXPECTED_VERSION foo",
                 "unexpected string: expected EXPECTED_VERSION any, exists, empty or number");
    append_fails("s n EXPECTED_VERSION -1",
                 "unexpected string: expected EXPECTED_VERSION any, exists, empty or number");
    append_fails("s n TIMESTAMP 18446744073710",
                 "invalid timestamp format: expected milliseconds, got nanoseconds");
    append_fails("s n TIMESTAMP abc", "unexpected string: expected TIMESTAMP in milliseconds");
    append_fails("\xff n", "unexpected string: expected stream id");
    append_fails("s \xed\xa0\x80", "unexpected string: expected event name");
}
END_TEST

START_TEST(multi_takes_events_until_the_end)
{
    struct line l;
    struct append_args event;
    struct args *args = line(&l, "s n PAYLOAD a s n2 t n3 EXPECTED_VERSION 1");
    ck_assert(args_multi_event(args, &event) && span_is(event.payload, "a"));
    ck_assert(args_multi_event(args, &event) && span_is(event.name, "n2") && event.given == 0);
    ck_assert(args_multi_event(args, &event) && span_is(event.stream, "t") &&
              event.expect_version == 1);
    ck_assert_uint_eq(args->left, 0);
}
END_TEST

START_TEST(multi_reserves_keywords)
{
    /* In the original these silently become events of streams called EXPECTED_VERSION and
     * PARTITION_KEY. */
    multi_fails("s n EXPECTED_VERSION foo",
                "unexpected string: expected EXPECTED_VERSION any, exists, empty or number");
    multi_fails("s n t m EXPECTED_VERSION foo",
                "unexpected string: expected EXPECTED_VERSION any, exists, empty or number");
    multi_fails(
        "s n PARTITION_KEY " KEY,
        "unexpected string: expected EVENT_ID, EXPECTED_VERSION, TIMESTAMP, PAYLOAD, METADATA, "
        "stream id or end of input (the partition key is given once, first)");
    multi_fails("s n t", "unexpected end of input: expected event name");
    multi_fails("s n PAYLOAD a PAYLOAD b", "payload already specified");
}
END_TEST

static void range_is(const char *text, uint64_t from, uint64_t to, bool reverse)
{
    struct line l;
    struct range_args range;
    ck_assert_msg(args_range(line(&l, text), "version", &range), "refused: %s", text);
    ck_assert_uint_eq(range.from, from);
    ck_assert_uint_eq(range.to, to);
    ck_assert_int_eq(range.reverse, reverse);
}

static void range_fails(const char *text, const char *expected)
{
    struct line l;
    struct range_args range;
    ck_assert(!args_range(line(&l, text), "version", &range));
    check_error(&l, expected);
}

START_TEST(ranges)
{
    range_is("- +", 0, UINT64_MAX, false);
    range_is("3 5", 3, 5, false);
    range_is("5 3", 5, 3, false);
    range_is("+ -", UINT64_MAX, 0, true);
    range_is("+ 7", UINT64_MAX, 7, true);
    range_is("18446744073709551615 +", UINT64_MAX, UINT64_MAX, false);
    range_fails("+ +", "start version cannot be '+' when the end is '+'");
    range_fails("- -", "end version cannot be '-' unless the start is '+'");
    range_fails("5 -", "end version cannot be '-' unless the start is '+'");
    range_fails("x 5", "unexpected string: expected range value (-, +, or number)");
    range_fails("5", "unexpected end of input: expected range value (-, +, or number)");
    range_fails("18446744073709551616 +",
                "unexpected string: expected range value (-, +, or number)");
}
END_TEST

static void esub_fails(const char *text, const char *expected)
{
    struct line l;
    struct subscribe_args parsed;
    ck_assert_msg(!args_esub(line(&l, text), &parsed), "accepted: %s", text);
    subscribe_args_release(&parsed);
    check_error(&l, expected);
}

START_TEST(esub_knows_its_keywords)
{
    struct line l;
    struct subscribe_args parsed;
    ck_assert(args_esub(line(&l, "s FROM 5 WINDOW 10"), &parsed));
    ck_assert_uint_eq(parsed.count, 1);
    ck_assert_uint_eq(parsed.window, 10);
    ck_assert(!parsed.streams[0].start.latest && parsed.streams[0].start.position == 5);
    struct uuid key = uuid_partition_key(span_str("s"));
    ck_assert(uuid_equal(&parsed.streams[0].key, &key));
    subscribe_args_release(&parsed);

    ck_assert(args_esub(line(&l, "FROM"), &parsed));
    ck_assert(parsed.count == 1 && span_is(parsed.streams[0].stream, "FROM") &&
              parsed.streams[0].start.latest);
    subscribe_args_release(&parsed);

    ck_assert(args_esub(line(&l, "WINDOW PARTITION_KEY " KEY " WINDOW 3"), &parsed));
    ck_assert(parsed.count == 1 && parsed.window == 3 &&
              uuid_hash(&parsed.streams[0].key) == 0x9c59);
    subscribe_args_release(&parsed);

    ck_assert(args_esub(line(&l, "a b a WINDOW 2 FROM MAP a=1 x=y=3 zz=4"), &parsed));
    ck_assert_uint_eq(parsed.count, 2); /* the same stream twice is one source */
    ck_assert(span_is(parsed.streams[0].stream, "a") && parsed.streams[0].start.position == 1);
    ck_assert(span_is(parsed.streams[1].stream, "b") && parsed.streams[1].start.latest);
    subscribe_args_release(&parsed);

    ck_assert(args_esub(line(&l, "x=y b FROM MAP x=y=3 DEFAULT 9"), &parsed));
    ck_assert(parsed.streams[0].start.latest == false && parsed.streams[0].start.position == 9);
    ck_assert(parsed.streams[1].start.position == 3);
    subscribe_args_release(&parsed);

    ck_assert(args_esub(line(&l, "a a PARTITION_KEY " KEY), &parsed));
    ck_assert_uint_eq(parsed.count, 2); /* under two keys they are two streams */
    subscribe_args_release(&parsed);
}
END_TEST

START_TEST(esub_refuses)
{
    esub_fails("", "unexpected end of input: expected stream id");
    esub_fails("s FROM", "unexpected end of input: expected LATEST, number or MAP");
    esub_fails("s FROM x", "unexpected string: expected LATEST, number or MAP");
    esub_fails("s FROM MAP", "unexpected end of input: expected stream=version");
    esub_fails("s FROM MAP s=x", "unexpected string: expected stream=version");
    esub_fails("s FROM MAP s=1 t", "unexpected string: expected stream=version");
    esub_fails("s WINDOW", "unexpected end of input: expected WINDOW number");
    esub_fails("s WINDOW 0", "number 0 must not be less than 1");
    esub_fails("s WINDOW 1 t", "unexpected string: expected FROM or end of input");
    esub_fails("s FROM 1 FROM 2", "unexpected string: expected WINDOW or end of input");
    esub_fails("s PARTITION_KEY", "unexpected end of input: expected partition key");
    esub_fails("s PARTITION_KEY x", "invalid partition key");
    esub_fails("s PARTITION_KEY " KEY " PARTITION_KEY " KEY, "partition key already specified");
}
END_TEST

static void epsub_is(const char *text, const char *expected)
{
    struct line l;
    struct subscribe_args parsed;
    struct buf seen = {0};
    bool ok = args_epsub(line(&l, text), 32, &parsed);
    for (uint32_t i = 0; ok && i < parsed.count; i++) {
        buf_printf(&seen, "%u:", parsed.partitions[i].partition);
        if (parsed.partitions[i].start.latest)
            buf_printf(&seen, "L ");
        else
            buf_printf(&seen, "%lu ", parsed.partitions[i].start.position);
    }
    if (!ok)
        buf_append_span(&seen, buf_span(&l.error));
    buf_append(&seen, "", 1);
    ck_assert_str_eq((char *)seen.ptr, expected);
    subscribe_args_release(&parsed);
    buf_release(&seen);
    buf_release(&l.error);
}

START_TEST(epsub_selectors)
{
    epsub_is("3", "3:L ");
    epsub_is(":3", "3:L ");
    epsub_is("5,1,1,30-31", "1:L 5:L 30:L 31:L ");
    epsub_is(KEY, "25:L ");
    epsub_is("1,2 FROM 7", "1:7 2:7 ");
    epsub_is("1-3 FROM MAP 2=9 1=4 1=5 20=1", "1:5 2:9 3:L ");
    epsub_is("1-3 FROM MAP 2=9 DEFAULT 0 WINDOW 5", "1:0 2:9 3:0 ");
    epsub_is("32", "partition id 32 is out of range: expected 0 to 31");
    epsub_is("0-32", "partition id 32 is out of range: expected 0 to 31");
    epsub_is("5-3", "partition id 3 is out of range: expected an ascending range within 0 to 31");
    epsub_is("1,,2",
             "unexpected string: expected *, partition id or comma-separated partition ids");
    epsub_is("",
             "unexpected end of input: expected *, partition id or comma-separated partition ids");
    epsub_is("1 FROM MAP s=1", "unexpected string: expected partition id sequence value");
    epsub_is("1 x", "unexpected string: expected FROM, WINDOW or end of input");
    struct line l;
    struct subscribe_args parsed;
    ck_assert(args_epsub(line(&l, "* WINDOW 18446744073709551615"), 32, &parsed));
    ck_assert(parsed.count == 32 && parsed.window == UINT64_MAX);
    subscribe_args_release(&parsed);
}
END_TEST

START_TEST(partitions_by_id_or_key)
{
    struct line l;
    uint32_t partition;
    ck_assert(args_partition(line(&l, "31"), 32, &partition) && partition == 31);
    ck_assert(args_partition(line(&l, KEY), 32, &partition) && partition == 25);
    ck_assert(!args_partition(line(&l, "32"), 32, &partition));
    check_error(&l, "partition id 32 is out of range: expected 0 to 31");
    ck_assert(!args_partition(line(&l, "x"), 32, &partition));
    check_error(&l, "unexpected string: expected partition id or key");
}
END_TEST

START_TEST(utf8)
{
    static const char *const good[] = {"",
                                       "plain ascii text of some length",
                                       "\xc3\xa4",
                                       "\xe2\x82\xac",
                                       "\xf0\x9f\x98\x80",
                                       "\xed\x9f\xbf",
                                       "\xf4\x8f\xbf\xbf",
                                       "12345678\xc3\xa4"};
    static const char *const bad[] = {"\x80",
                                      "\xc0\x80",
                                      "\xc1\xbf",
                                      "\xc3",
                                      "\xe0\x9f\xbf",
                                      "\xed\xa0\x80",
                                      "\xf0\x8f\xbf\xbf",
                                      "\xf4\x90\x80\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xe2\x82",
                                      "\xe2\x28\xa1",
                                      "1234567\xc3"};
    for (unsigned i = 0; i < sizeof good / sizeof *good; i++)
        ck_assert_msg(text_is_utf8(span_str(good[i])), "%u", i);
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++)
        ck_assert_msg(!text_is_utf8(span_str(bad[i])), "%u", i);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("args");
    TCase *tcase = tcase_create("args");
    tcase_add_test(tcase, append_takes_options_in_any_order);
    tcase_add_test(tcase, positions_are_no_keywords);
    tcase_add_test(tcase, append_refuses);
    tcase_add_test(tcase, multi_takes_events_until_the_end);
    tcase_add_test(tcase, multi_reserves_keywords);
    tcase_add_test(tcase, ranges);
    tcase_add_test(tcase, esub_knows_its_keywords);
    tcase_add_test(tcase, esub_refuses);
    tcase_add_test(tcase, epsub_selectors);
    tcase_add_test(tcase, partitions_by_id_or_key);
    tcase_add_test(tcase, utf8);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
