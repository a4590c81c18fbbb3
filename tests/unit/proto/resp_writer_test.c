/* The reply writer: the exact bytes of every form in both protocols. */
#include "proto/resp.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void expect(struct buf *out, const char *expected)
{
    ck_assert_uint_eq(out->len, strlen(expected));
    ck_assert_mem_eq(out->ptr, expected, out->len);
    out->len = 0;
}

START_TEST(strings_and_errors)
{
    struct buf out = {0};
    resp_simple_str(&out, "OK");
    expect(&out, "+OK\r\n");
    resp_simple(&out, span_of("a\r\nb\n", 5));
    expect(&out, "+a  b \r\n");
    resp_simple(&out, (struct span){0});
    expect(&out, "+\r\n");
    resp_error(&out, "INVALIDARG", span_str("stream\r\n+OK"));
    expect(&out, "-INVALIDARG stream  +OK\r\n");
    resp_errorf(&out, "WRONGVER", "expected %d but got '%s'", 7, "x\ny");
    expect(&out, "-WRONGVER expected 7 but got 'x y'\r\n");
    resp_bulk_str(&out, "a\r\nb");
    expect(&out, "$4\r\na\r\nb\r\n");
    resp_bulk(&out, (struct span){0});
    expect(&out, "$0\r\n\r\n");
    buf_release(&out);
}
END_TEST

START_TEST(long_texts_are_whole)
{
    struct buf out = {0};
    char text[5000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    resp_errorf(&out, "ERR", "%s", text);
    ck_assert_uint_eq(out.len, 5 + 4999 + 2);
    out.len = 0;
    resp_bulk_str(&out, text);
    ck_assert_uint_eq(out.len, 7 + 4999 + 2);
    ck_assert_mem_eq(out.ptr, "$4999\r\n", 7);
    ck_assert_mem_eq(out.ptr + 7, text, 4999);
    buf_release(&out);
}
END_TEST

START_TEST(numbers)
{
    static const int64_t values[] = {0,  1,   -1,        9,         10,       -10,
                                     99, 100, 123456789, INT64_MAX, INT64_MIN};
    struct buf out = {0};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        char expected[40];
        snprintf(expected, sizeof expected, ":%lld\r\n", (long long)values[i]);
        resp_number(&out, values[i]);
        expect(&out, expected);
    }
    for (int64_t power = 1; power < INT64_MAX / 10; power *= 10) {
        char expected[80];
        snprintf(expected, sizeof expected, ":%lld\r\n:%lld\r\n", (long long)power - 1,
                 -(long long)power);
        resp_number(&out, power - 1);
        resp_number(&out, -power);
        expect(&out, expected);
    }
    resp_array(&out, UINT64_MAX);
    expect(&out, "*18446744073709551615\r\n");
    buf_release(&out);
}
END_TEST

START_TEST(forms_of_both_protocols)
{
    struct buf out = {0};
    resp_null(&out, 2);
    expect(&out, "$-1\r\n");
    resp_null(&out, 3);
    expect(&out, "_\r\n");
    resp_boolean(&out, 2, true);
    resp_boolean(&out, 2, false);
    expect(&out, ":1\r\n:0\r\n");
    resp_boolean(&out, 3, true);
    resp_boolean(&out, 3, false);
    expect(&out, "#t\r\n#f\r\n");
    resp_map(&out, 2, 3);
    resp_map(&out, 3, 3);
    expect(&out, "*6\r\n%3\r\n");
    resp_push(&out, 2, 4);
    resp_push(&out, 3, 4);
    expect(&out, "*4\r\n>4\r\n");
    resp_array(&out, 0);
    expect(&out, "*0\r\n");
    buf_release(&out);
}
END_TEST

START_TEST(doubles_read_back_the_same)
{
    struct buf out = {0};
    resp_double(&out, 3, 0.1);
    resp_double(&out, 2, 0.1);
    expect(&out, ",0.1\r\n$3\r\n0.1\r\n");
    resp_double(&out, 3, INFINITY);
    resp_double(&out, 3, -INFINITY);
    resp_double(&out, 3, NAN);
    expect(&out, ",inf\r\n,-inf\r\n,nan\r\n");
    resp_double(&out, 2, 1e300);
    expect(&out, "$6\r\n1e+300\r\n");
    uint64_t state = 1;
    for (int i = 0; i < 20000; i++) {
        double value;
        state = state * 6364136223846793005u + 1442695040888963407u;
        memcpy(&value, &state, sizeof value);
        if (!isfinite(value))
            continue;
        out.len = 0;
        resp_double(&out, 3, value);
        buf_append(&out, "", 1);
        ck_assert(strtod((char *)out.ptr + 1, NULL) == value);
    }
    buf_release(&out);
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("resp_writer");
    tcase_add_test(tcase, strings_and_errors);
    tcase_add_test(tcase, long_texts_are_whole);
    tcase_add_test(tcase, numbers);
    tcase_add_test(tcase, forms_of_both_protocols);
    tcase_add_test(tcase, doubles_read_back_the_same);
    Suite *suite = suite_create("resp_writer");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
