/* What the request reader costs: memory only for bytes that came, given back afterwards, and time
 * in proportion to the bytes. */
#include <check.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

#include "proto/resp_inline.h"
#include "tests/unit/proto/resp_support.h"

static size_t allocated(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

/* ASan replaces malloc, and mallinfo2 then counts nothing. */
static bool malloc_is_counted(void)
{
    size_t before = allocated();
    void *volatile block = malloc(1 << 20);
    bool counted = allocated() >= before + (1 << 20);
    free(block);
    return counted;
}

START_TEST(announced_lengths_cost_no_memory)
{
    static const char *const starts[] = {
        "*1048576\r\n",
        "*1\r\n$536870912\r\n",
        "*1\r\n*1048576\r\n%1048576\r\n",
        "*1048576\r\n$536870912\r\nabc",
        "~1048576\r\n",
        "$536870912\r\n",
    };
    bool counted = malloc_is_counted();
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        struct buf out = {0};
        size_t before = allocated();
        struct resp_reader *reader = resp_reader_new(&resp_large_limits);
        resp_feed(reader, span_str(starts[i]), &out, resp_whole, NULL);
        ck_assert_uint_eq(out.len, 0);
        ck_assert_uint_eq(resp_reader_buffered(reader), strlen(starts[i]));
        size_t room_len;
        resp_reader_room(reader, 1000, &room_len);
        ck_assert_uint_lt(room_len, 4096);
        if (counted)
            ck_assert_uint_lt(allocated() - before, 16384);
        resp_reader_free(reader);
    }
}
END_TEST

START_TEST(memory_is_given_back)
{
    struct buf bytes = {0}, out = {0};
    size_t len = 10u << 20, piece = 50000;
    buf_printf(&bytes, "*2\r\n$4\r\nECHO\r\n$%zu\r\n", len);
    buf_append_zeros(&bytes, len);
    buf_printf(&bytes, "\r\n*20000\r\n");
    for (int i = 0; i < 20000; i++)
        buf_printf(&bytes, "$1\r\nx\r\n");
    bool counted = malloc_is_counted();
    size_t at_first = allocated() - malloc_usable_size(bytes.ptr);
    struct resp_reader *reader = resp_reader_new(&resp_large_limits);
    resp_feed(reader, buf_span(&bytes), &out, resp_fixed, &piece);
    ck_assert_uint_gt(out.len, len);
    buf_release(&out);
    ck_assert_uint_eq(resp_reader_buffered(reader), 0);
    buf_release(&bytes);
    size_t room_len;
    resp_reader_room(reader, 16384, &room_len);
    ck_assert_uint_le(room_len, 65536);
    size_t with_room = allocated();
    if (counted)
        ck_assert_uint_le(with_room - at_first, 2 * 65536);
    resp_reader_trim(reader);
    if (counted) {
        ck_assert_uint_ge(with_room - allocated(), 16384);
        struct resp_reader *fresh = resp_reader_new(&resp_large_limits);
        size_t one = allocated();
        resp_reader_free(reader);
        ck_assert_uint_le(one - allocated(), 1024);
        reader = fresh;
    }
    resp_feed(reader, span_str("PING\r\n"), &out, resp_whole, NULL);
    ck_assert_uint_eq(out.len, strlen("[1] 0.string:PING\n"));
    buf_release(&out);
    resp_reader_free(reader);
}
END_TEST

/* 6 MiB byte by byte, one bulk and many small arguments: a quadratic reader would take hours. */
START_TEST(work_is_linear_when_fed_byte_by_byte)
{
    struct buf bytes = {0}, out = {0};
    size_t len = 4u << 20, one = 1;
    buf_printf(&bytes, "*1\r\n$%zu\r\n", len);
    buf_append_zeros(&bytes, len);
    buf_printf(&bytes, "\r\n*500000\r\n");
    for (int i = 0; i < 500000; i++)
        buf_printf(&bytes, "+x\r\n");
    struct resp_reader *reader = resp_reader_new(&resp_large_limits);
    const struct resp_arg *args;
    uint32_t count = 0;
    const char *error;
    unsigned requests = 0, errors = 0; /* an assertion of Check for each byte would take longer */
    for (size_t i = 0; i < bytes.len; i++) {
        size_t room_len;
        *resp_reader_room(reader, one, &room_len) = bytes.ptr[i];
        resp_reader_fed(reader, 1);
        enum err err = resp_reader_next(reader, &args, &count, &error);
        requests += err == ERR_OK;
        errors += err != ERR_OK && err != ERR_AGAIN;
    }
    ck_assert_uint_eq(errors, 0);
    ck_assert_uint_eq(requests, 2);
    ck_assert_uint_eq(count, 500000);
    resp_reader_free(reader);
    buf_release(&bytes);
    buf_release(&out);
}
END_TEST

/* A line that grows byte by byte, and a deep pipeline of which little is taken at a time: looking
 * at the resp_whole line again, or moving the resp_whole pipeline, each time would take minutes. */
START_TEST(nothing_is_looked_at_or_moved_again_and_again)
{
    struct resp_limits limits = resp_large_limits;
    limits.inline_bytes_max = 8u << 20;
    struct resp_reader *reader = resp_reader_new(&limits);
    const struct resp_arg *args;
    uint32_t count = 0;
    const char *error;
    size_t room_len;
    unsigned early = 0;
    for (size_t i = 0; i < 4u << 20; i++) {
        *resp_reader_room(reader, 1, &room_len) = 'x';
        resp_reader_fed(reader, 1);
        early += resp_reader_next(reader, &args, &count, &error) != ERR_AGAIN;
    }
    ck_assert_uint_eq(early, 0);
    *resp_reader_room(reader, 1, &room_len) = '\n';
    resp_reader_fed(reader, 1);
    ck_assert_int_eq(resp_reader_next(reader, &args, &count, &error), ERR_OK);
    ck_assert_uint_eq(args[0].value.len, 4u << 20);

    /* Until the buffer is all but full: from then on there is no room without moving or growing. */
    size_t fed = 0;
    do {
        memcpy(resp_reader_room(reader, 3, &room_len), "ab\n", 3);
        resp_reader_fed(reader, 3);
        fed += 3;
    } while (fed < 3u << 20 || room_len >= 6);
    unsigned bad = 0;
    for (size_t i = 0; i < 1u << 20; i++) {
        bad += resp_reader_next(reader, &args, &count, &error) != ERR_OK || count != 1 ||
               !span_equal(args[0].value, span_str("ab"));
        memcpy(resp_reader_room(reader, 3, &room_len), "ab\n", 3);
        resp_reader_fed(reader, 3);
    }
    ck_assert_uint_eq(bad, 0);
    ck_assert_uint_eq(resp_reader_buffered(reader), fed);
    resp_reader_free(reader);
}
END_TEST

/* Lines in blocks of their exact size, so that ASan sees a read beyond them. */
START_TEST(a_line_is_never_left)
{
    static const char *const lines[] = {"\"", "\"\\", "\"\\x",   "\"\\x4", "'\\",
                                        "'",  "a\"b", "\"a\"\"", ""};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        size_t len = strlen(lines[i]), at = 0;
        uint8_t *line = malloc(len > 0 ? len : 1);
        memcpy(line, lines[i], len);
        struct span word;
        ck_assert_int_eq(resp_inline_next(line, len, &at, &word),
                         len == 0 ? ERR_NOTFOUND : ERR_PROTOCOL);
        free(line);
    }
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("resp_reader_cost");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, announced_lengths_cost_no_memory);
    tcase_add_test(tcase, memory_is_given_back);
    tcase_add_test(tcase, work_is_linear_when_fed_byte_by_byte);
    tcase_add_test(tcase, nothing_is_looked_at_or_moved_again_and_again);
    tcase_add_test(tcase, a_line_is_never_left);
    Suite *suite = suite_create("resp_reader_cost");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
