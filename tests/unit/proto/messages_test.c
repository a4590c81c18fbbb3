/* Messages: every one survives pack and unpack; damaged, cut, longer and unknown ones are handled.
 * Bytes to be unpacked lie in blocks of their exact size, so that ASan sees a read beyond them. */
#include "proto/messages.h"

#include <check.h>
#include <msgpack.h>
#include <stdlib.h>

#include "proto/cursor.h"

#define ROUNDS 200

static uint64_t next_number(void *ctx)
{
    uint64_t *state = ctx; /* splitmix64 */
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static struct span sample_bytes(void)
{
    static const uint8_t bytes[300] = {"plain text, \"quotes\", \\ and \r\n"};
    return span_of(bytes, sizeof bytes);
}

/* A copy in a block of its exact size. */
static struct span exact_copy(const uint8_t *bytes, size_t len)
{
    uint8_t *copy = malloc(len > 0 ? len : 1);
    ck_assert_ptr_nonnull(copy);
    if (len > 0)
        memcpy(copy, bytes, len);
    return span_of(copy, len);
}

static void free_copy(struct span copy)
{
    free((void *)(uintptr_t)copy.ptr);
}

/* Two messages are the same where they pack to the same bytes and print the same line. */
static void expect_same(const struct msg *a, const struct msg *b)
{
    struct buf first = {0}, second = {0};
    ck_assert_int_eq(a->tag, b->tag);
    msg_pack(&first, a);
    msg_pack(&second, b);
    ck_assert(span_equal(buf_span(&first), buf_span(&second)));
    buf_clear(&first, SIZE_MAX);
    buf_clear(&second, SIZE_MAX);
    msg_print(&first, a);
    msg_print(&second, b);
    ck_assert(span_equal(buf_span(&first), buf_span(&second)));
    buf_release(&first);
    buf_release(&second);
}

START_TEST(every_message_survives_the_round_trip)
{
    uint64_t seed = 1;
    for (unsigned i = 0; i < msg_tag_count; i++)
        for (int round = 0; round < ROUNDS; round++) {
            struct msg msg, back;
            struct buf out = {0};
            msg_random(&msg, msg_tags[i], next_number, &seed, sample_bytes());
            msg_pack(&out, &msg);
            struct span copy = exact_copy(out.ptr, out.len);
            struct span frame = copy;
            ck_assert_int_eq(msg_unpack(&frame, &back), ERR_OK);
            ck_assert_uint_eq(frame.len, 0);
            expect_same(&msg, &back);
            free_copy(copy);
            buf_release(&out);
        }
}
END_TEST

START_TEST(a_message_cut_anywhere_is_an_error)
{
    uint64_t seed = 2;
    for (unsigned i = 0; i < msg_tag_count; i++) {
        struct msg msg, back;
        struct buf out = {0};
        msg_random(&msg, msg_tags[i], next_number, &seed, sample_bytes());
        msg_pack(&out, &msg);
        for (size_t len = 0; len < out.len; len++) {
            struct span copy = exact_copy(out.ptr, len);
            struct span frame = copy;
            ck_assert_int_eq(msg_unpack(&frame, &back), ERR_TRUNCATED);
            ck_assert_ptr_eq(frame.ptr, copy.ptr);
            ck_assert_uint_eq(frame.len, len);
            free_copy(copy);
        }
        buf_release(&out);
    }
}
END_TEST

/* Whatever a byte is changed to: an error, or a message that lies wholly inside the frame. */
START_TEST(a_changed_byte_never_leads_outside)
{
    uint64_t seed = 3;
    for (unsigned i = 0; i < msg_tag_count; i++) {
        struct msg msg, back;
        struct buf out = {0}, line = {0};
        msg_random(&msg, msg_tags[i], next_number, &seed, span_of("0123456789abcdef", 16));
        msg_pack(&out, &msg);
        uint8_t *bytes = malloc(out.len);
        for (size_t at = 0; at < out.len; at++)
            for (unsigned value = 0; value < 256; value++) {
                memcpy(bytes, out.ptr, out.len);
                bytes[at] = (uint8_t)value;
                struct span frame = span_of(bytes, out.len);
                if (msg_unpack(&frame, &back) != ERR_OK)
                    continue;
                ck_assert_ptr_eq(frame.ptr + frame.len, bytes + out.len);
                line.len = 0;
                msg_print(&line, &back);
                ck_assert_uint_gt(line.len, 0);
            }
        free(bytes);
        buf_release(&out);
        buf_release(&line);
    }
}
END_TEST

/* An element of any type, nested within what is allowed. */
static void pack_strange(msgpack_packer *packer)
{
    msgpack_pack_array(packer, 7);
    msgpack_pack_map(packer, 1);
    msgpack_pack_int(packer, -70000);
    msgpack_pack_double(packer, 1.5);
    msgpack_pack_nil(packer);
    msgpack_pack_float(packer, 0.5f);
    msgpack_pack_ext_with_body(packer, "0123456789abcdef", 16, 7);
    msgpack_pack_ext_with_body(packer, "abc", 3, 7);
    msgpack_pack_str_with_body(packer, "text", 4);
    msgpack_pack_bin_with_body(packer, "\0\1\2", 3);
}

START_TEST(further_fields_are_skipped)
{
    msgpack_sbuffer sbuffer;
    msgpack_packer packer;
    msgpack_sbuffer_init(&sbuffer);
    msgpack_packer_init(&packer, &sbuffer, msgpack_sbuffer_write);
    msgpack_pack_array(&packer, 5);
    msgpack_pack_uint64(&packer, TAG_follow_req);
    msgpack_pack_uint64(&packer, 77);
    msgpack_pack_uint64(&packer, 5);
    pack_strange(&packer);
    msgpack_pack_true(&packer);
    msgpack_pack_array(&packer, 1);
    msgpack_pack_uint64(&packer, TAG_bye);

    struct span copy = exact_copy((uint8_t *)sbuffer.data, sbuffer.size);
    struct span frame = copy;
    struct msg msg;
    ck_assert_int_eq(msg_unpack(&frame, &msg), ERR_OK);
    ck_assert_int_eq(msg.tag, TAG_follow_req);
    ck_assert_uint_eq(msg.u.follow_req.req_id, 77);
    ck_assert_uint_eq(msg.u.follow_req.partition, 5);
    ck_assert_int_eq(msg_unpack(&frame, &msg), ERR_OK);
    ck_assert_int_eq(msg.tag, TAG_bye);
    ck_assert_uint_eq(frame.len, 0);
    free_copy(copy);
    msgpack_sbuffer_destroy(&sbuffer);
}
END_TEST

START_TEST(an_unknown_tag_is_skipped_whole)
{
    msgpack_sbuffer sbuffer;
    msgpack_packer packer;
    msgpack_sbuffer_init(&sbuffer);
    msgpack_packer_init(&packer, &sbuffer, msgpack_sbuffer_write);
    msgpack_pack_array(&packer, 3);
    msgpack_pack_uint64(&packer, UINT64_C(1) << 40 | TAG_stop);
    pack_strange(&packer);
    msgpack_pack_uint64(&packer, 1);
    msgpack_pack_array(&packer, 2);
    msgpack_pack_uint64(&packer, TAG_stop);
    msgpack_pack_uint64(&packer, 1500);

    struct span copy = exact_copy((uint8_t *)sbuffer.data, sbuffer.size);
    struct span frame = copy;
    struct msg msg;
    ck_assert_int_eq(msg_unpack(&frame, &msg), ERR_NOTFOUND);
    ck_assert_int_eq(msg_unpack(&frame, &msg), ERR_OK);
    ck_assert_int_eq(msg.tag, TAG_stop);
    ck_assert_uint_eq(msg.u.stop.deadline_ms, 1500);
    ck_assert_uint_eq(frame.len, 0);
    free_copy(copy);
    msgpack_sbuffer_destroy(&sbuffer);
}
END_TEST

static enum err unpack_bytes(const char *bytes, size_t len)
{
    struct span copy = exact_copy((const uint8_t *)bytes, len);
    struct span frame = copy;
    struct msg msg;
    enum err err = msg_unpack(&frame, &msg);
    free_copy(copy);
    return err;
}

START_TEST(what_is_no_message_is_refused)
{
#define UNPACK(text) unpack_bytes(text, sizeof(text) - 1)
    ck_assert_int_eq(UNPACK(""), ERR_TRUNCATED);
    ck_assert_int_eq(UNPACK("\x90"), ERR_CORRUPT);                 /* no tag */
    ck_assert_int_eq(UNPACK("\x08"), ERR_CORRUPT);                 /* no array */
    ck_assert_int_eq(UNPACK("\x91\xa1x"), ERR_CORRUPT);            /* tag is a string */
    ck_assert_int_eq(UNPACK("\x91\xd0\x09"), ERR_CORRUPT);         /* tag of a signed type */
    ck_assert_int_eq(UNPACK("\x91\x08"), ERR_CORRUPT);             /* stop without its field */
    ck_assert_int_eq(UNPACK("\x92\x08\xff"), ERR_CORRUPT);         /* a negative deadline */
    ck_assert_int_eq(UNPACK("\x92\x08\xca\0\0\0\0"), ERR_CORRUPT); /* a float */
    ck_assert_int_eq(UNPACK("\x93\x06\x01\x01"), ERR_CORRUPT);     /* a number for a bool */
    ck_assert_int_eq(UNPACK("\xdd\xff\xff\xff\xff\x09"), ERR_TRUNCATED);
    ck_assert_int_eq(UNPACK("\x92\x7f\xc1"), ERR_CORRUPT); /* the type never used */
    ck_assert_int_eq(UNPACK("\x92\x7f\xdf\xff\xff\xff\xff"), ERR_TRUNCATED);
    ck_assert_int_eq(UNPACK("\x94\x16\x01\xc4\x0f"
                            "0123456789abcde"
                            "\x01"),
                     ERR_CORRUPT);
    ck_assert_int_eq(UNPACK("\x94\x16\x01\xc4\x10"
                            "0123456789abcdef"
                            "\x01"),
                     ERR_OK);
#undef UNPACK
}
END_TEST

START_TEST(skipping_is_bounded_in_depth)
{
    for (unsigned depth = 1; depth < 3000; depth++) {
        uint8_t *bytes = malloc(depth + 1);
        memset(bytes, 0x91, depth);
        bytes[depth] = 0;
        struct cursor cursor = cursor_of(span_of(bytes, depth + 1));
        ck_assert_int_eq(cursor_skip(&cursor), depth <= CURSOR_DEPTH_MAX ? ERR_OK : ERR_CORRUPT);
        if (depth <= CURSOR_DEPTH_MAX)
            ck_assert_uint_eq(cursor_left(&cursor), 0);
        free(bytes);
    }
}
END_TEST

/* Every type byte with every length of zeros behind it: msgpack-c's parser agrees on the size. */
START_TEST(skipping_agrees_with_msgpack_c)
{
    for (unsigned type = 0; type < 256; type++)
        for (size_t len = 1; len < 70; len++) {
            uint8_t *bytes = calloc(1, len);
            bytes[0] = (uint8_t)type;
            if (len > 1)
                bytes[1] = (type >= 0xc4 && type <= 0xdf) ? (uint8_t)(len % 5 == 0) : 0;
            struct cursor cursor = cursor_of(span_of(bytes, len));
            enum err err = cursor_skip(&cursor);
            msgpack_unpacked unpacked;
            msgpack_unpacked_init(&unpacked);
            size_t off = 0;
            int ret = msgpack_unpack_next(&unpacked, (char *)bytes, len, &off);
            msgpack_unpacked_destroy(&unpacked);
            bool ok = ret == MSGPACK_UNPACK_SUCCESS;
            ck_assert_msg((err == ERR_OK) == ok, "type %02x len %zu: %d, %d", type, len, err, ret);
            if (ok)
                ck_assert_uint_eq(cursor_left(&cursor), len - off);
            free(bytes);
        }
}
END_TEST

START_TEST(records_come_back_in_order)
{
    uint64_t seed = 4;
    struct rec_stored_event events[20];
    struct buf list = {0}, a = {0}, b = {0};
    for (int i = 0; i < 20; i++) {
        rec_random_stored_event(&events[i], next_number, &seed, sample_bytes());
        rec_pack_stored_event(&list, &events[i]);
    }
    struct span copy = exact_copy(list.ptr, list.len);
    struct span rest = copy;
    for (int i = 0; i < 20; i++) {
        struct rec_stored_event event;
        ck_assert_int_eq(rec_next_stored_event(&rest, &event), ERR_OK);
        a.len = b.len = 0;
        rec_pack_stored_event(&a, &events[i]);
        rec_pack_stored_event(&b, &event);
        ck_assert(span_equal(buf_span(&a), buf_span(&b)));
    }
    struct rec_stored_event event;
    ck_assert_int_eq(rec_next_stored_event(&rest, &event), ERR_NOTFOUND);
    free_copy(copy);

    list.len = 0;
    rec_pack_stored_event(&list, &events[0]);
    for (size_t len = 1; len < list.len; len++) {
        copy = exact_copy(list.ptr, len);
        rest = copy;
        ck_assert_int_eq(rec_next_stored_event(&rest, &event), ERR_TRUNCATED);
        free_copy(copy);
    }
    buf_release(&list);
    buf_release(&a);
    buf_release(&b);
}
END_TEST

START_TEST(a_frame_has_its_head)
{
    struct frame_head head = {PROTO_VERSION, 7, UINT64_MAX}, back;
    struct msg stop = {.tag = TAG_stop, .u.stop = {.deadline_ms = 9}}, msg;
    struct buf out = {0};
    frame_pack_head(&out, &head);
    size_t head_len = out.len;
    msg_pack(&out, &stop);
    struct span frame = buf_span(&out);
    ck_assert_int_eq(frame_unpack_head(&frame, &back), ERR_OK);
    ck_assert_uint_eq(back.version, PROTO_VERSION);
    ck_assert_uint_eq(back.from_boot, 7);
    ck_assert_uint_eq(back.to_boot, UINT64_MAX);
    ck_assert_int_eq(msg_unpack(&frame, &msg), ERR_OK);
    expect_same(&stop, &msg);
    for (size_t len = 0; len < head_len; len++) {
        struct span copy = exact_copy(out.ptr, len);
        frame = copy;
        ck_assert_int_eq(frame_unpack_head(&frame, &back), ERR_TRUNCATED);
        free_copy(copy);
    }
    buf_release(&out);

    head.version = PROTO_VERSION + 1;
    frame_pack_head(&out, &head);
    frame = buf_span(&out);
    ck_assert_int_eq(frame_unpack_head(&frame, &back), ERR_INVALID);
    buf_release(&out);
    frame = span_of("\x92\x01\x01", 3);
    ck_assert_int_eq(frame_unpack_head(&frame, &back), ERR_CORRUPT);
    frame = span_of("\x94\x01\x01\x02\xc0\x91", 6);
    ck_assert_int_eq(frame_unpack_head(&frame, &back), ERR_OK);
    ck_assert_uint_eq(frame.len, 1);
}
END_TEST

START_TEST(a_trace_is_one_readable_line)
{
    struct msg msg = {
        .tag = TAG_link_dial,
        .u.link_dial = {
            .link = 3, .peer_index = 1, .peer_boot = 2, .path = span_str("/run/\"x\"\n")}};
    struct buf out = {0};
    msg_print(&out, &msg);
    buf_append(&out, "", 1);
    ck_assert_str_eq((char *)out.ptr,
                     "link_dial link=3 peer_index=1 peer_boot=2 path=\"/run/\\x22x\\x22\\x0a\"");
    buf_release(&out);
    struct rec_appended_event event = {.version = 4, .timestamp_ms = 5};
    rec_print_appended_event(&out, &event);
    buf_append(&out, "", 1);
    ck_assert_str_eq((char *)out.ptr, "appended_event version=4 timestamp_ms=5");
    buf_release(&out);
    for (unsigned i = 0; i < msg_tag_count; i++)
        ck_assert_str_ne(msg_name(msg_tags[i]), "unknown");
    for (unsigned i = 1; i < msg_tag_count; i++)
        ck_assert_int_lt(msg_tags[i - 1], msg_tags[i]);
    ck_assert_str_eq(msg_name((enum msg_tag)9999), "unknown");
    ck_assert_str_eq(msg_name(TAG_append_req), "append_req");
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("messages");
    tcase_set_timeout(tcase, 60);
    tcase_add_test(tcase, every_message_survives_the_round_trip);
    tcase_add_test(tcase, a_message_cut_anywhere_is_an_error);
    tcase_add_test(tcase, a_changed_byte_never_leads_outside);
    tcase_add_test(tcase, further_fields_are_skipped);
    tcase_add_test(tcase, an_unknown_tag_is_skipped_whole);
    tcase_add_test(tcase, what_is_no_message_is_refused);
    tcase_add_test(tcase, skipping_is_bounded_in_depth);
    tcase_add_test(tcase, skipping_agrees_with_msgpack_c);
    tcase_add_test(tcase, records_come_back_in_order);
    tcase_add_test(tcase, a_frame_has_its_head);
    tcase_add_test(tcase, a_trace_is_one_readable_line);
    Suite *suite = suite_create("messages");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
