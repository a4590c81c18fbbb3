/* Items in parts: any sizes, in frames of any filling, come out as they went in; bounds hold. */
#include "netd/peer_items.h"

#include <check.h>
#include <stdlib.h>

#include "tests/sim/prng.h"

static struct peer_outbox outbox;
static struct peer_inbox inbox;
static uint8_t bytes[1 << 20];

static void setup(void)
{
    struct prng prng = {.state = 1};
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)prng_next(&prng);
}

static void teardown(void)
{
    peer_outbox_release(&outbox);
    peer_inbox_release(&inbox);
}

struct sent {
    uint64_t kind, bucket;
    size_t offset, len;
};

/* One frame's messages into the inbox; whole items are checked against what was sent. */
static void receive(struct span messages, const struct sent *sent, unsigned *received)
{
    struct msg msg;
    while (messages.len > 0) {
        ck_assert_int_eq(msg_unpack(&messages, &msg), ERR_OK);
        ck_assert_int_eq(msg.tag, TAG_item);
        bool whole;
        struct span got;
        ck_assert_int_eq(peer_inbox_put(&inbox, &msg.u.item, &whole, &got), ERR_OK);
        if (!whole)
            continue;
        const struct sent *item = &sent[(*received)++];
        ck_assert_uint_eq(msg.u.item.kind, item->kind);
        ck_assert_uint_eq(msg.u.item.bucket, item->bucket);
        ck_assert(span_equal(got, span_of(bytes + item->offset, item->len)));
    }
}

START_TEST(items_come_out_as_they_went_in)
{
    enum { ITEMS = 3000 };
    static struct sent sent[ITEMS];
    struct prng prng = {.state = 7};
    unsigned put = 0, received = 0, taken = 0;
    while (received < ITEMS) {
        for (uint64_t n = prng_below(&prng, 40); n > 0 && put < ITEMS; n--) {
            static const size_t sizes[] = {1, 100, 5000, PEER_PART_BYTES, 3 * PEER_PART_BYTES + 9};
            size_t len = prng_below(&prng, sizes[prng_below(&prng, 5)] + 1);
            len = prng_chance(&prng, 20000) ? PEER_PART_BYTES * (1 + prng_below(&prng, 3)) : len;
            struct sent item = {.kind = prng_range(&prng, RELAY_PEER, RELAY_LINK_LOST),
                                .bucket = prng_below(&prng, 1024),
                                .offset = prng_below(&prng, sizeof bytes - len),
                                .len = len};
            if (!peer_outbox_put(&outbox, (enum relay_kind)item.kind, (uint32_t)item.bucket,
                                 span_of(bytes + item.offset, len)))
                break;
            sent[put++] = item;
        }
        for (uint64_t n = prng_below(&prng, 20); n > 0; n--) {
            struct span messages = peer_outbox_peek(&outbox);
            ck_assert_uint_le(messages.len, PEER_BODY_BYTES_MAX);
            if (messages.len == 0)
                break;
            receive(messages, sent, &received);
            taken += (unsigned)peer_outbox_take(&outbox, messages);
            ck_assert_uint_eq(taken, received);
            ck_assert_uint_eq(outbox.items, put - received);
        }
    }
    ck_assert_uint_eq(peer_outbox_bytes(&outbox), 0);
}
END_TEST

START_TEST(the_largest_item_passes)
{
    uint8_t *large = malloc(LINK_MESSAGE_BYTES_MAX);
    ck_assert_ptr_nonnull(large);
    memset(large, 'x', LINK_MESSAGE_BYTES_MAX);
    large[LINK_MESSAGE_BYTES_MAX - 1] = 'y';
    ck_assert(peer_outbox_put(&outbox, RELAY_PEER, 0, span_of(large, LINK_MESSAGE_BYTES_MAX)));
    ck_assert(!peer_outbox_put(&outbox, RELAY_PEER, 0, span_of(large, 1)));
    bool whole = false;
    struct span messages, got = {0};
    unsigned frames = 0;
    while ((messages = peer_outbox_peek(&outbox)).len > 0) {
        struct span rest = messages;
        struct msg msg;
        while (rest.len > 0) {
            ck_assert(!whole);
            ck_assert_int_eq(msg_unpack(&rest, &msg), ERR_OK);
            ck_assert_int_eq(peer_inbox_put(&inbox, &msg.u.item, &whole, &got), ERR_OK);
        }
        peer_outbox_take(&outbox, messages);
        frames++;
    }
    ck_assert(whole && span_equal(got, span_of(large, LINK_MESSAGE_BYTES_MAX)));
    ck_assert_uint_le(frames, LINK_MESSAGE_BYTES_MAX / (PEER_BODY_BYTES_MAX - 2 * PEER_PART_BYTES));
    free(large);
    /* The memory goes with the next item. */
    ck_assert(peer_outbox_put(&outbox, RELAY_PEER, 0, span_of(bytes, 1)));
    struct msg msg;
    messages = peer_outbox_peek(&outbox);
    ck_assert_int_eq(msg_unpack(&messages, &msg), ERR_OK);
    ck_assert_int_eq(peer_inbox_put(&inbox, &msg.u.item, &whole, &got), ERR_OK);
    ck_assert_uint_le(inbox.bytes.cap, 1 << 20);
    ck_assert_uint_le(outbox.packed.cap, 1 << 20);
}
END_TEST

START_TEST(what_waits_is_bounded)
{
    struct span item = span_of(bytes, 10000);
    unsigned taken = 0;
    while (peer_outbox_put(&outbox, RELAY_REQUEST, 5, item))
        ck_assert_uint_lt(taken++, 2000);
    ck_assert_uint_ge(peer_outbox_bytes(&outbox), PEER_QUEUE_BYTES);
    ck_assert_uint_lt(peer_outbox_bytes(&outbox), PEER_QUEUE_BYTES + item.len + 64);
    struct span messages = peer_outbox_peek(&outbox);
    peer_outbox_take(&outbox, messages);
    ck_assert(peer_outbox_put(&outbox, RELAY_REQUEST, 5, item));
    ck_assert_uint_eq(outbox.items, peer_outbox_clear(&outbox));
    ck_assert_uint_eq(peer_outbox_bytes(&outbox), 0);
}
END_TEST

/* Parts that no honest sender makes: refused, whatever came before. */
START_TEST(parts_that_do_not_follow_are_refused)
{
    struct span part = span_of(bytes, 100), empty = span_of(bytes, 0);
    const struct msg_item first = {.kind = RELAY_PEER, .bucket = 3, .total = 250, .bytes = part};
    static const struct {
        uint64_t kind, bucket, total, offset;
        bool empty;
    } wrong_next[] = {
        {RELAY_REPLY, 3, 250, 100, false}, {RELAY_PEER, 4, 250, 100, false},
        {RELAY_PEER, 3, 251, 100, false},  {RELAY_PEER, 3, 250, 99, false},
        {RELAY_PEER, 3, 250, 101, false},  {RELAY_PEER, 3, 250, 0, false},
        {RELAY_PEER, 3, 250, 200, false},  {RELAY_PEER, 3, 250, 100, true},
        {RELAY_PEER, 3, 100, 0, false},
    };
    bool whole;
    struct span got;
    for (size_t i = 0; i < sizeof wrong_next / sizeof *wrong_next; i++) {
        peer_inbox_clear(&inbox);
        ck_assert_int_eq(peer_inbox_put(&inbox, &first, &whole, &got), ERR_OK);
        ck_assert(!whole);
        struct msg_item next = {.kind = wrong_next[i].kind,
                                .bucket = wrong_next[i].bucket,
                                .total = wrong_next[i].total,
                                .offset = wrong_next[i].offset,
                                .bytes = wrong_next[i].empty ? empty : part};
        ck_assert_int_eq(peer_inbox_put(&inbox, &next, &whole, &got), ERR_CORRUPT);
    }
    static const struct {
        uint64_t total, offset;
        size_t len;
    } wrong_first[] = {
        {250, 1, 100},
        {250, 0, 0},
        {99, 0, 100},
        {LINK_MESSAGE_BYTES_MAX + 1, 0, 100},
        {UINT64_MAX, 0, 100},
        {100, UINT64_MAX, 100},
        {UINT64_MAX, UINT64_MAX - 100, 100},
    };
    for (size_t i = 0; i < sizeof wrong_first / sizeof *wrong_first; i++) {
        peer_inbox_clear(&inbox);
        struct msg_item item = {.kind = RELAY_PEER,
                                .total = wrong_first[i].total,
                                .offset = wrong_first[i].offset,
                                .bytes = span_of(bytes, wrong_first[i].len)};
        ck_assert_int_eq(peer_inbox_put(&inbox, &item, &whole, &got), ERR_CORRUPT);
    }
    /* What is announced takes no memory. */
    struct msg_item huge = {.kind = RELAY_PEER, .total = LINK_MESSAGE_BYTES_MAX, .bytes = part};
    peer_inbox_release(&inbox);
    ck_assert_int_eq(peer_inbox_put(&inbox, &huge, &whole, &got), ERR_OK);
    ck_assert_uint_lt(inbox.bytes.cap, 4096);
}
END_TEST

START_TEST(an_empty_item_is_an_item)
{
    bool whole = false;
    struct span got = span_of(bytes, 9), messages;
    struct msg msg;
    ck_assert(peer_outbox_put(&outbox, RELAY_LINK_LOST, 9, (struct span){0}));
    ck_assert_uint_eq(outbox.items, 1);
    messages = peer_outbox_peek(&outbox);
    ck_assert_int_eq(msg_unpack(&messages, &msg), ERR_OK);
    ck_assert_int_eq(peer_inbox_put(&inbox, &msg.u.item, &whole, &got), ERR_OK);
    ck_assert(whole);
    ck_assert_uint_eq(got.len, 0);
    ck_assert_uint_eq(peer_outbox_take(&outbox, peer_outbox_peek(&outbox)), 1);
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("peer_items");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, items_come_out_as_they_went_in);
    tcase_add_test(tcase, the_largest_item_passes);
    tcase_add_test(tcase, what_waits_is_bounded);
    tcase_add_test(tcase, parts_that_do_not_follow_are_refused);
    tcase_add_test(tcase, an_empty_item_is_an_item);
    tcase_set_timeout(tcase, 60);
    Suite *suite = suite_create("peer_items");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
