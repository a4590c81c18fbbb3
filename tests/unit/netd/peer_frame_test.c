/* Frames between nodes: round trips, every byte changed, every length cut, sizes that lie. */
#include "netd/peer_frame.h"

#include <check.h>
#include <lz4.h>
#include <stdlib.h>

#include "tests/sim/prng.h"

static struct peer_key *key;
static struct buf scratch;
static uint8_t frame[PEER_FRAME_BYTES_MAX + 64];
static uint8_t body[PEER_BODY_BYTES_MAX];

static const struct peer_head head = {
    .cluster_id = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}},
    .from_node = 1,
    .to_node = 2,
    .from_boot = 0x1122334455667788,
    .to_boot = 0x99aabbccddeeff00,
    .session = 77,
    .number = 3,
};

static void setup(void)
{
    key = peer_key_new(span_str("a secret"), "label", span_str("context"));
}

static void teardown(void)
{
    peer_key_free(key);
    buf_release(&scratch);
}

/* Text that lz4 can shorten, or noise that it can't. */
static struct span fill(size_t len, bool noise)
{
    struct prng prng = {.state = len};
    for (size_t i = 0; i < len; i++)
        body[i] = noise ? (uint8_t)prng_next(&prng) : (uint8_t)("event sourcing "[i % 15]);
    return span_of(body, len);
}

static enum peer_refusal open_frame(struct span bytes, struct span *ret_body)
{
    struct peer_head got;
    enum peer_refusal refusal = peer_frame_head(bytes, &got);
    return refusal != PEER_OK ? refusal : peer_frame_open(bytes, &got, key, &scratch, ret_body);
}

START_TEST(what_is_sealed_opens)
{
    static const size_t sizes[] = {
        1, 2, 100, 4095, 4096, 4097, 65536, 200000, PEER_BODY_BYTES_MAX - 1, PEER_BODY_BYTES_MAX};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (int noise = 0; noise < 2; noise++) {
            struct span given = fill(sizes[i], noise == 1), got;
            size_t len = peer_frame_seal(&head, key, given, frame);
            struct peer_head back;
            ck_assert_uint_le(len, peer_frame_bytes_max(given.len));
            ck_assert_int_eq(peer_frame_head(span_of(frame, len), &back), PEER_OK);
            bool shorter = noise == 0 && given.len >= 4096;
            ck_assert_uint_eq(back.flags, shorter ? PEER_LZ4 : 0);
            ck_assert_uint_eq(back.version, PEER_FRAME_VERSION);
            ck_assert(uuid_equal(&back.cluster_id, &head.cluster_id));
            ck_assert_uint_eq(back.from_node, head.from_node);
            ck_assert_uint_eq(back.to_node, head.to_node);
            ck_assert_uint_eq(back.from_boot, head.from_boot);
            ck_assert_uint_eq(back.to_boot, head.to_boot);
            ck_assert_uint_eq(back.session, head.session);
            ck_assert_uint_eq(back.number, head.number);
            ck_assert_int_eq(peer_frame_open(span_of(frame, len), &back, key, &scratch, &got),
                             PEER_OK);
            ck_assert(span_equal(got, given));
            if (shorter)
                ck_assert_uint_lt(len, given.len / 8);
        }
    }
}
END_TEST

/* Each bit of a plain and of a compressed frame. */
START_TEST(no_byte_may_change)
{
    struct span given = fill(_i == 0 ? 200 : 6000, false), got;
    size_t len = peer_frame_seal(&head, key, given, frame);
    ck_assert_int_eq(open_frame(span_of(frame, len), &got), PEER_OK);
    unsigned refused = 0;
    for (size_t at = 0; at < len; at++) {
        for (unsigned bit = 0; bit < 8; bit++) {
            frame[at] ^= (uint8_t)(1u << bit);
            refused += open_frame(span_of(frame, len), &got) != PEER_OK;
            frame[at] ^= (uint8_t)(1u << bit);
        }
    }
    ck_assert_uint_eq(refused, 8 * len);
    ck_assert_int_eq(open_frame(span_of(frame, len), &got), PEER_OK);
}
END_TEST

/* In memory of exactly its size, so that ASan sees a read behind it. */
START_TEST(no_length_but_its_own)
{
    struct span given = fill(_i == 0 ? 200 : 6000, false), got;
    size_t len = peer_frame_seal(&head, key, given, frame);
    for (size_t cut = 0; cut < len + 64; cut++) {
        if (cut == len)
            continue;
        uint8_t *copy = malloc(cut > 0 ? cut : 1);
        ck_assert_ptr_nonnull(copy);
        memcpy(copy, frame, cut);
        ck_assert_int_ne(open_frame(span_of(copy, cut), &got), PEER_OK);
        free(copy);
    }
    memset(frame, 0, sizeof frame);
    ck_assert_int_eq(open_frame(span_of(frame, sizeof frame), &got), PEER_REFUSED_LENGTH);
}
END_TEST

START_TEST(keys_differ_by_secret_label_and_context)
{
    struct span given = fill(50, false), got;
    struct peer_head back;
    size_t len = peer_frame_seal(&head, key, given, frame);
    ck_assert_int_eq(peer_frame_head(span_of(frame, len), &back), PEER_OK);
    struct peer_key *others[] = {
        peer_key_new(span_str("A secret"), "label", span_str("context")),
        peer_key_new(span_str("a secret"), "labe", span_str("lcontext")),
        peer_key_new(span_str("a secret"), "label", span_str("contexT")),
        peer_key_new(span_str("a secret"), "label", span_str("")),
        peer_key_new(span_str(""), "label", span_str("context")),
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        ck_assert_int_eq(peer_frame_open(span_of(frame, len), &back, others[i], &scratch, &got),
                         PEER_REFUSED_MAC);
        peer_key_free(others[i]);
    }
    /* Each use begins anew. */
    ck_assert_int_eq(peer_frame_open(span_of(frame, len), &back, key, &scratch, &got), PEER_OK);
    ck_assert_uint_ne(peer_key_number(span_str("s"), "label", span_str("1")),
                      peer_key_number(span_str("s"), "label", span_str("2")));
}
END_TEST

/* The key is HMAC-SHA256(secret, label NUL context), the MAC HMAC-SHA256 by that key: as computed
 * by another implementation (Python's hmac). */
START_TEST(the_mac_is_hmac_sha256)
{
    static const uint8_t expected[PEER_MAC_BYTES] = {
        0xd8, 0x9d, 0x42, 0x54, 0x23, 0x79, 0x2a, 0xfd, 0xba, 0x1d, 0xbf,
        0x93, 0x42, 0xeb, 0x34, 0x09, 0xaf, 0x51, 0x89, 0xf4, 0xb9, 0xd8,
        0x2e, 0x76, 0x95, 0xce, 0x7e, 0xa4, 0x8b, 0x1e, 0xed, 0x16,
    };
    struct span given = span_str("x");
    size_t len = peer_frame_seal(&head, key, given, frame);
    ck_assert_uint_eq(len, PEER_HEAD_BYTES + 1 + PEER_MAC_BYTES);
    ck_assert(memcmp(frame + len - PEER_MAC_BYTES, expected, sizeof expected) == 0);
}
END_TEST

/* A frame as no honest node makes it, with the right MAC: of a member that was taken over. */
static struct span seal_raw(uint16_t flags, uint32_t raw_bytes, struct span bytes)
{
    peer_frame_seal(&head, key, span_str("x"), frame);
    store_u16(frame + 6, flags);
    store_u32(frame + 64, raw_bytes);
    if (bytes.len > 0)
        memcpy(frame + PEER_HEAD_BYTES, bytes.ptr, bytes.len);
    peer_key_mac(key, span_of(frame, PEER_HEAD_BYTES + bytes.len),
                 frame + PEER_HEAD_BYTES + bytes.len);
    return span_of(frame, PEER_HEAD_BYTES + bytes.len + PEER_MAC_BYTES);
}

START_TEST(blocks_unpack_to_what_was_said_or_not_at_all)
{
    static uint8_t block[LZ4_COMPRESSBOUND(PEER_BODY_BYTES_MAX)];
    struct span given = fill(100000, false), got;
    int packed =
        LZ4_compress_default((const char *)given.ptr, (char *)block, (int)given.len, sizeof block);
    ck_assert_int_gt(packed, 0);
    struct span bytes = span_of(block, (size_t)packed);
    ck_assert_int_eq(open_frame(seal_raw(PEER_LZ4, 100000, bytes), &got), PEER_OK);
    ck_assert(span_equal(got, given));
    ck_assert_int_eq(open_frame(seal_raw(PEER_LZ4, 100001, bytes), &got), PEER_REFUSED_LZ4);
    ck_assert_int_eq(open_frame(seal_raw(PEER_LZ4, 99999, bytes), &got), PEER_REFUSED_LZ4);
    ck_assert_int_eq(open_frame(seal_raw(PEER_LZ4, (uint32_t)packed + 1, bytes), &got),
                     PEER_REFUSED_LZ4);
    bytes.len--;
    ck_assert_int_eq(open_frame(seal_raw(PEER_LZ4, 100000, bytes), &got), PEER_REFUSED_LZ4);
    ck_assert_int_eq(open_frame(seal_raw(PEER_LZ4, 200, fill(100, true)), &got), PEER_REFUSED_LZ4);
}
END_TEST

/* 64 MiB of zeros in 256 KiB: refused by what it says of itself, or by what it unpacks to; the
 * memory for it is never more than a body's. */
START_TEST(bombs_cost_no_memory)
{
    const size_t raw_len = 64u << 20;
    char *zeros = calloc(1, raw_len);
    static uint8_t bomb[LZ4_COMPRESSBOUND(64u << 20)];
    ck_assert_ptr_nonnull(zeros);
    int packed = LZ4_compress_default(zeros, (char *)bomb, (int)raw_len, sizeof bomb);
    free(zeros);
    ck_assert_int_gt(packed, 0);
    ck_assert_int_lt(packed, 300000);
    struct span got, bytes = span_of(bomb, min_u64((size_t)packed, PEER_BODY_BYTES_MAX - 1));
    static const uint32_t said[] = {64u << 20, UINT32_MAX, PEER_BODY_BYTES_MAX + 1};
    for (size_t i = 0; i < 3; i++)
        ck_assert_int_eq(open_frame(seal_raw(PEER_LZ4, said[i], bytes), &got), PEER_REFUSED_SIZE);
    ck_assert_uint_eq(scratch.cap, 0);
    ck_assert_int_eq(open_frame(seal_raw(PEER_LZ4, PEER_BODY_BYTES_MAX, bytes), &got),
                     PEER_REFUSED_LZ4);
    ck_assert_uint_le(scratch.cap, 2 * PEER_BODY_BYTES_MAX);
}
END_TEST

START_TEST(sizes_and_flags_fit_one_another)
{
    struct span got, bytes = fill(100, false);
    ck_assert_int_eq(open_frame(seal_raw(0, 100, bytes), &got), PEER_OK);
    ck_assert_int_eq(open_frame(seal_raw(0, 99, bytes), &got), PEER_REFUSED_SIZE);
    ck_assert_int_eq(open_frame(seal_raw(0, 101, bytes), &got), PEER_REFUSED_SIZE);
    ck_assert_int_eq(open_frame(seal_raw(PEER_LZ4, 100, bytes), &got), PEER_REFUSED_SIZE);
    ck_assert_int_eq(open_frame(seal_raw(4, 100, bytes), &got), PEER_REFUSED_SIZE);
    ck_assert_int_eq(open_frame(seal_raw(0x8000, 100, bytes), &got), PEER_REFUSED_SIZE);
    /* A hello has no session and is for no boot; all others have one. */
    ck_assert_int_eq(open_frame(seal_raw(PEER_HELLO, 100, bytes), &got), PEER_REFUSED_SIZE);
    seal_raw(PEER_HELLO, 100, bytes);
    memset(frame + 40, 0, 16);
    peer_key_mac(key, span_of(frame, PEER_HEAD_BYTES + 100), frame + PEER_HEAD_BYTES + 100);
    struct span hello = span_of(frame, PEER_HEAD_BYTES + 100 + PEER_MAC_BYTES);
    ck_assert_int_eq(open_frame(hello, &got), PEER_OK);
    store_u16(frame + 6, 0);
    ck_assert_int_eq(open_frame(hello, &got), PEER_REFUSED_SIZE);
    store_u16(frame + 6, PEER_HELLO);
    store_u32(frame + 64, 1000);
    hello.len = PEER_HEAD_BYTES + 1000 + PEER_MAC_BYTES;
    ck_assert_int_eq(open_frame(hello, &got), PEER_REFUSED_SIZE);
    /* Without a body there is nothing to say. */
    ck_assert_int_eq(open_frame(seal_raw(0, 0, span_of(NULL, 0)), &got), PEER_REFUSED_LENGTH);
}
END_TEST

START_TEST(other_protocols_and_versions_are_named)
{
    struct span got, bytes = fill(100, false), sealed = seal_raw(0, 100, bytes);
    store_u16(frame + 4, PEER_FRAME_VERSION + 1);
    ck_assert_int_eq(open_frame(sealed, &got), PEER_REFUSED_VERSION);
    frame[0] = 'G';
    ck_assert_int_eq(open_frame(sealed, &got), PEER_REFUSED_MAGIC);
    for (int i = 0; i < PEER_REFUSAL_COUNT; i++)
        ck_assert_uint_gt(strlen(peer_refusal_name((enum peer_refusal)i)), 0);
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("peer_frame");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, what_is_sealed_opens);
    tcase_add_loop_test(tcase, no_byte_may_change, 0, 2);
    tcase_add_loop_test(tcase, no_length_but_its_own, 0, 2);
    tcase_add_test(tcase, keys_differ_by_secret_label_and_context);
    tcase_add_test(tcase, the_mac_is_hmac_sha256);
    tcase_add_test(tcase, blocks_unpack_to_what_was_said_or_not_at_all);
    tcase_add_test(tcase, bombs_cost_no_memory);
    tcase_add_test(tcase, sizes_and_flags_fit_one_another);
    tcase_add_test(tcase, other_protocols_and_versions_are_named);
    Suite *suite = suite_create("peer_frame");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
