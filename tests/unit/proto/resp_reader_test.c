/* The request reader: every type of argument, inline lines, limits with their texts, and the same
 * requests however the bytes are cut. Memory and time: resp_reader_cost_test.c. */
#include "tests/unit/proto/resp_support.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#define ERROR_PREFIX "ERR Protocol error: "

static void run(struct span bytes, const struct resp_limits *limits, struct buf *out,
                size_t (*piece)(void *), void *ctx)
{
    struct resp_reader *reader = resp_reader_new(limits);
    resp_feed(reader, bytes, out, piece, ctx);
    resp_reader_free(reader);
}

/* What the bytes give: in one piece, at every split in two, byte by byte, in arbitrary pieces. */
static void expect_bytes(struct span bytes, const struct resp_limits *limits, const char *expected)
{
    struct buf out = {0};
    run(bytes, limits, &out, resp_whole, NULL);
    buf_append(&out, "", 1);
    ck_assert_str_eq((char *)out.ptr, expected);
    for (size_t at = 1; at < bytes.len; at++) {
        size_t first = at;
        out.len = 0;
        run(bytes, limits, &out, resp_split_at, &first);
        buf_append(&out, "", 1);
        ck_assert_str_eq((char *)out.ptr, expected);
    }
    for (uint64_t seed = 0; seed < 50; seed++) {
        uint64_t state = seed;
        size_t size = seed + 1;
        out.len = 0;
        if (seed < 3)
            run(bytes, limits, &out, resp_fixed, &size);
        else
            run(bytes, limits, &out, resp_arbitrary, &state);
        buf_append(&out, "", 1);
        ck_assert_str_eq((char *)out.ptr, expected);
    }
    buf_release(&out);
}

static void expect(const char *text, const char *expected)
{
    expect_bytes(span_str(text), &resp_small_limits, expected);
}

START_TEST(requests_are_arrays_of_bulk_strings)
{
    expect("*1\r\n$4\r\nPING\r\n", "[1] 0.string:PING\n");
    expect("*2\r\n$4\r\nECHO\r\n$0\r\n\r\n", "[2] 0.string:ECHO 0.string:\n");
    expect("*3\r\n$3\r\nSET\r\n$4\r\na\r\nb\r\n$5\r\n$1\r\nx\r\n*1\r\n$4\r\nQUIT\r\n",
           "[3] 0.string:SET 0.string:a\r\nb 0.string:$1\r\nx\n[1] 0.string:QUIT\n");
    expect("*0\r\n*-1\r\n*1\r\n$1\r\nx\r\n", "[0]\n[0]\n[1] 0.string:x\n");
    expect("*01\r\n$0001\r\nx\r\n", "[1] 0.string:x\n");
}
END_TEST

START_TEST(bytes_of_any_value_are_kept)
{
    char request[600];
    char bulk[256];
    for (int i = 0; i < 256; i++)
        bulk[i] = (char)i;
    int len = snprintf(request, sizeof request, "*1\r\n$256\r\n");
    memcpy(request + len, bulk, 256);
    memcpy(request + len + 256, "\r\n", 2);
    struct buf out = {0};
    for (size_t size = 1; size < 300; size++) {
        out.len = 0;
        run(span_of(request, (size_t)len + 258), &resp_small_limits, &out, resp_fixed, &size);
        ck_assert_uint_eq(out.len, strlen("[1] 0.string:") + 256 + 1);
        ck_assert_mem_eq(out.ptr + strlen("[1] 0.string:"), bulk, 256);
    }
    buf_release(&out);
}
END_TEST

START_TEST(other_types_are_arguments_too)
{
    expect("*2\r\n+PING\r\n+a b\r\n", "[2] 0.string:PING 0.string:a b\n");
    expect("*2\r\n=8\r\ntxt:PING\r\n=4\r\nmkd:\r\n", "[2] 0.string:PING 0.string:\n");
    expect("*3\r\n:12\r\n:-7\r\n:+5\r\n", "[3] 1.number:12 1.number:-7 1.number:5\n");
    expect("*1\r\n(3492890328409238509324850943850943825024385\r\n",
           "[1] 0.big number:3492890328409238509324850943850943825024385\n");
    expect("*2\r\n#t\r\n#f\r\n", "[2] 3.boolean:t 3.boolean:f\n");
    expect("*3\r\n_\r\n$-1\r\n*-1\r\n", "[3] 2.null: 2.null: 2.null:\n");
    expect("*3\r\n,1.5e10\r\n,-inf\r\n,nan\r\n",
           "[3] 4.double:1.5e10 4.double:-inf 4.double:nan\n");
    expect("*2\r\n-ERR x\r\n!5\r\nERR x\r\n", "[2] 5.error: 5.error:\n");
}
END_TEST

START_TEST(nested_aggregates_are_named_and_skipped)
{
    expect("*3\r\n*2\r\n$1\r\na\r\n*1\r\n:1\r\n$1\r\nb\r\n%1\r\n+k\r\n~2\r\n#t\r\n_\r\n",
           "[3] 5.array: 0.string:b 5.map:\n");
    expect("*3\r\n~0\r\n>1\r\n$3\r\nxyz\r\n*0\r\n*1\r\n$1\r\nq\r\n",
           "[3] 5.set: 5.push: 5.array:\n[1] 0.string:q\n");
}
END_TEST

START_TEST(attributes_are_skipped)
{
    expect("*2\r\n|1\r\n+ttl\r\n:3600\r\n$3\r\nGET\r\n|0\r\n$1\r\nk\r\n",
           "[2] 0.string:GET 0.string:k\n");
    expect("|1\r\n+a\r\n*2\r\n+b\r\n$1\r\nc\r\n*1\r\n$4\r\nPING\r\n", "[1] 0.string:PING\n");
    expect("|0\r\nPING\r\n", "[1] 0.string:PING\n");
    expect("*1\r\n*2\r\n|1\r\n+a\r\n+b\r\n:1\r\n:2\r\n", "[1] 5.array:\n");
}
END_TEST

#define REFUSED "INVALID ERR expected a command as an array of bulk strings\n"

START_TEST(frames_that_are_no_request_are_skipped)
{
    static const char *const frames[] = {
        "+OK\r\n",
        "-ERR x\r\n",
        ":1\r\n",
        "$4\r\nPING\r\n",
        "$0\r\n\r\n",
        "$-1\r\n",
        "_\r\n",
        "#t\r\n",
        ",1\r\n",
        "(1\r\n",
        ">2\r\n+a\r\n+b\r\n",
        "~0\r\n",
        "%1\r\n*1\r\n:1\r\n$1\r\nx\r\n",
        "=5\r\ntxt:x\r\n",
        "!1\r\nx\r\n",
        "~1\r\n|1\r\n:1\r\n:2\r\n:3\r\n",
    };
    for (size_t i = 0; i < sizeof frames / sizeof *frames; i++) {
        char text[100];
        snprintf(text, sizeof text, "%s*1\r\n$4\r\nPING\r\n", frames[i]);
        expect(text, REFUSED "[1] 0.string:PING\n");
    }
}
END_TEST

START_TEST(inline_lines_are_commands)
{
    expect("PING\r\n", "[1] 0.string:PING\n");
    expect("PING\nHELLO 3\r\n\r\n\n \r\n",
           "[1] 0.string:PING\n[2] 0.string:HELLO 0.string:3\n[0]\n[0]\n[0]\n");
    expect("  EGET\t x  y \r\n", "[3] 0.string:EGET 0.string:x 0.string:y\n");
    expect("ECHO \"a b\\n\\x41\\\"\\q\\\\\" 'c \\'d\\n' '' \"\"\r\n",
           "[5] 0.string:ECHO 0.string:a b\nA\"q\\ 0.string:c 'd\\n 0.string: 0.string:\n");
    expect("a\"b c\" x\"\\xzz\\x4\"\r\n", "[2] 0.string:ab c 0.string:xxzzx4\n");
    expect("a\"b\r\n", "PROTOCOL " ERROR_PREFIX "unbalanced quotes in request\n");
    expect("\"a\"b\r\n", "PROTOCOL " ERROR_PREFIX "unbalanced quotes in request\n");
    expect("PING\r\n'a\r\nPING\r\n",
           "[1] 0.string:PING\nPROTOCOL " ERROR_PREFIX "unbalanced quotes in request\n");
    expect("\"\\\r\n", "PROTOCOL " ERROR_PREFIX "unbalanced quotes in request\n");
}
END_TEST

START_TEST(what_breaks_the_protocol_is_named)
{
    static const struct {
        const char *bytes, *error;
    } cases[] = {
        {"*x\r\n", "invalid multibulk length"},
        {"*\r\n", "invalid multibulk length"},
        {"*-2\r\n", "invalid multibulk length"},
        {"*-\r\n", "invalid multibulk length"},
        {"*-11\r\n", "invalid multibulk length"},
        {"*+1\r\n", "invalid multibulk length"},
        {"*1\n$1\r\nx\r\n", "invalid multibulk length"},
        {"*1\rx", "invalid multibulk length"},
        {"*12345678901234567890\r\n", "invalid multibulk length"},
        {"*101\r\n", "invalid multibulk length: 101 exceeds the limit of 100"},
        {"*9999999999999999999\r\n",
         "invalid multibulk length: 9999999999999999999 exceeds the limit of 100"},
        {"*1\r\n*101\r\n", "invalid multibulk length: 101 exceeds the limit of 100"},
        {"*1\r\n%-1\r\n", "invalid multibulk length"},
        {"*1\r\n$x\r\n", "invalid bulk length"},
        {"*1\r\n$-2\r\n", "invalid bulk length"},
        {"*1\r\n$18446744073709551617\r\nx\r\n", "invalid bulk length"}, /* 2^64 + 1 */
        {"*1\r\n$\r\n", "invalid bulk length"},
        {"*1\r\n=-1\r\n", "invalid bulk length"},
        {"*1\r\n$1001\r\n", "bulk of 1001 bytes exceeds the limit of 1000 bytes"},
        {"*1\r\n$1\r\nxyz", "expected CRLF behind a bulk of 1 bytes"},
        {"*1\r\n$1\r\nx\rz", "expected CRLF behind a bulk of 1 bytes"},
        {"*1\r\n=3\r\ntxt\r\n", "invalid verbatim string: expected a format like 'txt:' first"},
        {"*1\r\n=5\r\ntext:\r\n", "invalid verbatim string: expected a format like 'txt:' first"},
        {"*1\r\nPING\r\n", "expected '$', got 'P'"},
        {"*1\r\n\r\n", "expected '$', got '\\x0d'"},
        {"*1\r\n$?\r\n", "streamed strings and aggregates are not supported"},
        {"*?\r\n", "streamed strings and aggregates are not supported"},
        {"*1\r\n:\r\n", "invalid value of type ':'"},
        {"*1\r\n:1.5\r\n", "invalid value of type ':'"},
        {"*1\r\n:12345678901234567890\r\n", "invalid value of type ':'"},
        {"*1\r\n(-\r\n", "invalid value of type '('"},
        {"*1\r\n#x\r\n", "invalid value of type '#'"},
        {"*1\r\n_x\r\n", "invalid value of type '_'"},
        {"*1\r\n,x\r\n", "invalid value of type ','"},
        {"*1\r\n+x\n", "expected CRLF at the end of a line"},
        {"*1\r\n+\n", "expected CRLF at the end of a line"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char expected[200];
        snprintf(expected, sizeof expected, "PROTOCOL " ERROR_PREFIX "%s\n", cases[i].error);
        expect(cases[i].bytes, expected);
    }
}
END_TEST

START_TEST(an_error_stays)
{
    struct resp_reader *reader = resp_reader_new(&resp_small_limits);
    struct buf out = {0};
    size_t room_len;
    memcpy(resp_reader_room(reader, 100, &room_len), "*x\r\n", 4);
    resp_reader_fed(reader, 4);
    resp_drain(reader, &out);
    memcpy(resp_reader_room(reader, 100, &room_len), "PING\r\n", 6);
    resp_reader_fed(reader, 6);
    resp_drain(reader, &out);
    buf_append(&out, "", 1);
    ck_assert_str_eq((char *)out.ptr, "PROTOCOL " ERROR_PREFIX "invalid multibulk length\n"
                                      "PROTOCOL " ERROR_PREFIX "invalid multibulk length\n");
    buf_release(&out);
    resp_reader_free(reader);
}
END_TEST

START_TEST(long_lines_are_refused)
{
    char text[300], expected[300];
    memset(text, 'a', sizeof text);
    memcpy(text + 199, "\r\n", 2);
    int len = snprintf(expected, sizeof expected, "[1] 0.string:");
    memset(expected + len, 'a', 199);
    memcpy(expected + len + 199, "\n", 2);
    expect_bytes(span_of(text, 201), &resp_small_limits, expected);
    memset(text, 'a', sizeof text);
    expect_bytes(span_of(text, 201), &resp_small_limits,
                 "PROTOCOL " ERROR_PREFIX "too big inline request: the limit is 200 bytes\n");
    memcpy(text + 200, "\r\n", 2);
    expect_bytes(span_of(text, 202), &resp_small_limits,
                 "PROTOCOL " ERROR_PREFIX "too big inline request: the limit is 200 bytes\n");
    text[0] = '+';
    expect_bytes(span_of(text, 202), &resp_small_limits,
                 "PROTOCOL " ERROR_PREFIX "too big simple value: the limit is 200 bytes\n");
}
END_TEST

START_TEST(a_request_is_bounded_as_a_whole)
{
    struct buf bytes = {0};
    buf_printf(&bytes, "*10\r\n");
    for (int i = 0; i < 10; i++)
        buf_printf(&bytes, "$900\r\n%0900d\r\n", 0);
    expect_bytes(buf_span(&bytes), &resp_small_limits,
                 "PROTOCOL " ERROR_PREFIX "request exceeds the limit of 6000 bytes\n");
    /* To the byte: what an argument takes beside its own is in resp_reader.c. */
    struct resp_limits exact = resp_small_limits;
    exact.request_bytes_max =
        strlen("*1\r\n$4\r\nPING\r\n") + sizeof(struct resp_arg) + sizeof(size_t);
    expect_bytes(span_str("*1\r\n$4\r\nPING\r\n"), &exact, "[1] 0.string:PING\n");
    char expected[100];
    exact.request_bytes_max--;
    snprintf(expected, sizeof expected,
             "PROTOCOL " ERROR_PREFIX "request exceeds the limit of %zu bytes\n",
             (size_t)exact.request_bytes_max);
    expect_bytes(span_str("*1\r\n$4\r\nPING\r\n"), &exact, expected);
    /* Arguments of no bytes cost memory too, and so do attributes that nobody sees. */
    struct resp_limits limits = resp_small_limits;
    limits.request_bytes_max = 1000;
    bytes.len = 0;
    buf_printf(&bytes, "*100\r\n");
    for (int i = 0; i < 100; i++)
        buf_printf(&bytes, "_\r\n");
    expect_bytes(buf_span(&bytes), &limits,
                 "PROTOCOL " ERROR_PREFIX "request exceeds the limit of 1000 bytes\n");
    bytes.len = 0;
    for (int i = 0; i < 300; i++)
        buf_printf(&bytes, "|0\r\n");
    expect_bytes(buf_span(&bytes), &limits,
                 "PROTOCOL " ERROR_PREFIX "request exceeds the limit of 1000 bytes\n");
    buf_release(&bytes);
}
END_TEST

START_TEST(nesting_is_bounded)
{
    struct buf bytes = {0};
    for (int depth = 1; depth <= 1000; depth++) {
        bytes.len = 0;
        for (int i = 0; i < depth; i++)
            buf_printf(&bytes, "*1\r\n");
        buf_printf(&bytes, ":1\r\n");
        struct buf out = {0};
        run(buf_span(&bytes), &resp_large_limits, &out, resp_whole, NULL);
        buf_append(&out, "", 1);
        ck_assert_str_eq((char *)out.ptr, depth == 1   ? "[1] 1.number:1\n"
                                          : depth <= 8 ? "[1] 5.array:\n"
                                                       : "PROTOCOL " ERROR_PREFIX
                                                         "nesting deeper than 8\n");
        buf_release(&out);
    }
    size_t one = 1;
    struct buf out = {0};
    run(buf_span(&bytes), &resp_large_limits, &out, resp_fixed, &one);
    buf_append(&out, "", 1);
    ck_assert_str_eq((char *)out.ptr, "PROTOCOL " ERROR_PREFIX "nesting deeper than 8\n");
    buf_release(&out);
    buf_release(&bytes);
}
END_TEST

/* A pipeline of all kinds of requests at once, with the limits changed on the way. */
START_TEST(a_pipeline_is_read_in_order)
{
    struct buf bytes = {0}, expected = {0};
    for (int i = 0; i < 40; i++) {
        buf_printf(&bytes, "*2\r\n$4\r\nECHO\r\n$%d\r\n%d\r\n", i < 10 ? 1 : 2, i);
        buf_printf(&expected, "[2] 0.string:ECHO 0.string:%d\n", i);
        buf_printf(&bytes, "GET \"%d\"\r\n", i);
        buf_printf(&expected, "[2] 0.string:GET 0.string:%d\n", i);
        buf_printf(&bytes, "%%1\r\n+a\r\n$1\r\nb\r\n");
        buf_printf(&expected, REFUSED);
        buf_printf(&bytes, "*3\r\n:%d\r\n*2\r\n_\r\n#t\r\n|1\r\n+a\r\n+b\r\n$0\r\n\r\n", i);
        buf_printf(&expected, "[3] 1.number:%d 5.array: 0.string:\n", i);
    }
    buf_append(&expected, "", 1);
    expect_bytes(buf_span(&bytes), &resp_small_limits, (char *)expected.ptr);
    buf_release(&bytes);
    buf_release(&expected);

    struct resp_reader *reader = resp_reader_new(&resp_small_limits);
    struct buf out = {0};
    resp_feed(reader, span_str("PING\r\n"), &out, resp_whole, NULL);
    struct resp_limits limits = resp_small_limits;
    limits.bulk_bytes_max = 2;
    resp_reader_set_limits(reader, &limits);
    resp_feed(reader, span_str("*1\r\n$3\r\nabc\r\n"), &out, resp_whole, NULL);
    buf_append(&out, "", 1);
    ck_assert_str_eq((char *)out.ptr, "[1] 0.string:PING\nPROTOCOL " ERROR_PREFIX
                                      "bulk of 3 bytes exceeds the limit of 2 bytes\n");
    buf_release(&out);
    resp_reader_free(reader);
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("resp_reader");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, requests_are_arrays_of_bulk_strings);
    tcase_add_test(tcase, bytes_of_any_value_are_kept);
    tcase_add_test(tcase, other_types_are_arguments_too);
    tcase_add_test(tcase, nested_aggregates_are_named_and_skipped);
    tcase_add_test(tcase, attributes_are_skipped);
    tcase_add_test(tcase, frames_that_are_no_request_are_skipped);
    tcase_add_test(tcase, inline_lines_are_commands);
    tcase_add_test(tcase, what_breaks_the_protocol_is_named);
    tcase_add_test(tcase, an_error_stays);
    tcase_add_test(tcase, long_lines_are_refused);
    tcase_add_test(tcase, a_request_is_bounded_as_a_whole);
    tcase_add_test(tcase, nesting_is_bounded);
    tcase_add_test(tcase, a_pipeline_is_read_in_order);
    Suite *suite = suite_create("resp_reader");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
