/* The handshake and what is refused after it: two nodes, a wire in the test's hand, and somebody on
 * it who keeps what passes. */
#include "netd/peer_session.h"

#include <check.h>
#include <stdlib.h>

#include "tests/sim/prng.h"

#define FRAME_MAX 4096u

/* A node with its session with the other one. */
struct side {
    struct peer_identity own;
    struct peer_key *hello_key;
    struct peer_session session;
    struct prng prng;
    struct buf scratch;
    struct span body; /* of the last frame believed */
    struct peer_hello_result result;
    unsigned opened, ended;
};

struct frame {
    uint8_t bytes[FRAME_MAX];
    size_t len;
};

static struct side a, b;

static struct uuid nonce_of(struct side *side)
{
    struct uuid nonce;
    store_u64(nonce.bytes, prng_next(&side->prng));
    store_u64(nonce.bytes + 8, prng_next(&side->prng));
    return nonce;
}

static void start(struct side *side, uint32_t node, uint64_t boot, const char *secret,
                  const char *cluster)
{
    *side = (struct side){.prng = {.state = 1000 * boot + node}};
    side->own = (struct peer_identity){
        .cluster_id = uuid_of_cluster(span_str(cluster)),
        .secret = span_str(secret),
        .node = node,
        .boot = boot,
        .age_ms = 7,
        .version = span_str("1.2.3"),
    };
    side->hello_key = peer_hello_key_new(&side->own);
    peer_session_init(&side->session, &side->own, side->hello_key, 1 - node, nonce_of(side));
}

static void stop(struct side *side)
{
    peer_session_release(&side->session);
    peer_key_free(side->hello_key);
    buf_release(&side->scratch);
}

static void setup(void)
{
    start(&a, 0, 10, "0123456789abcdef", "c");
    start(&b, 1, 20, "0123456789abcdef", "c");
}

static void teardown(void)
{
    stop(&a);
    stop(&b);
}

static struct frame hello(struct side *from)
{
    struct frame frame;
    frame.len = peer_session_seal_hello(&from->session, frame.bytes);
    return frame;
}

static struct frame data(struct side *from, const char *text)
{
    struct frame frame;
    frame.len = peer_session_seal(&from->session, span_str(text), frame.bytes);
    return frame;
}

/* What a node does with a frame, without its answer; as netd/peers.c does it. */
static enum peer_refusal receive(struct side *to, const struct frame *frame)
{
    struct span bytes = span_of(frame->bytes, frame->len);
    struct peer_head head;
    to->result = (struct peer_hello_result){0};
    enum peer_refusal refusal = peer_session_sender(&to->own, 2, bytes, &head);
    if (refusal == PEER_OK)
        refusal = peer_session_open(&to->session, &head, bytes, &to->scratch, &to->body);
    if (refusal == PEER_OK && (head.flags & PEER_HELLO) != 0) {
        struct msg_peer_hello said;
        refusal =
            peer_session_on_hello(&to->session, &head, to->body, nonce_of(to), &to->result, &said);
        to->ended += to->result.ended;
        to->opened += to->result.opened;
    }
    if (refusal == PEER_REFUSED_GAP) {
        peer_session_end(&to->session, nonce_of(to));
        to->ended++;
    }
    return refusal;
}

/* Hands hellos back and forth until nobody asks for one. Returns how many passed. */
static unsigned shake_hands(struct side *first, struct side *second)
{
    struct side *from = first, *to = second;
    unsigned count = 0;
    do {
        struct frame frame = hello(from);
        enum peer_refusal refusal = receive(to, &frame);
        ck_assert_msg(refusal == PEER_OK, "%s", peer_refusal_name(refusal));
        struct side *last = from;
        from = to;
        to = last;
        ck_assert_uint_lt(++count, 10);
    } while (from->result.answer);
    return count;
}

static void check_talk(struct side *from, struct side *to, const char *text)
{
    struct frame frame = data(from, text);
    ck_assert_int_eq(receive(to, &frame), PEER_OK);
    ck_assert(span_equal(to->body, span_str(text)));
}

static void check_both_talk(void)
{
    ck_assert(a.session.open && b.session.open);
    for (int i = 0; i < 3; i++) {
        check_talk(&a, &b, "from a");
        check_talk(&b, &a, "from b");
    }
}

START_TEST(hellos_open_a_session)
{
    ck_assert_uint_eq(shake_hands(&a, &b), 4);
    check_both_talk();
    ck_assert_uint_eq(a.opened, 1);
    ck_assert_uint_eq(b.opened, 1);
    ck_assert_uint_eq(a.ended + b.ended, 0);
    ck_assert_uint_eq(a.session.boot, 20);
    ck_assert_uint_eq(b.session.boot, 10);
}
END_TEST

START_TEST(hellos_that_cross_open_it_too)
{
    struct frame from_a = hello(&a), from_b = hello(&b);
    ck_assert_int_eq(receive(&b, &from_a), PEER_OK);
    ck_assert(b.result.answer && !b.session.open);
    ck_assert_int_eq(receive(&a, &from_b), PEER_OK);
    ck_assert(a.result.answer && !a.session.open);
    from_a = hello(&a);
    from_b = hello(&b);
    ck_assert_int_eq(receive(&b, &from_a), PEER_OK);
    ck_assert_int_eq(receive(&a, &from_b), PEER_OK);
    ck_assert(a.session.open && b.session.open);
    /* Each opened before it heard that the other had: both answer once more. */
    ck_assert(a.result.answer && b.result.answer);
    from_a = hello(&a);
    from_b = hello(&b);
    ck_assert_int_eq(receive(&b, &from_a), PEER_OK);
    ck_assert_int_eq(receive(&a, &from_b), PEER_OK);
    ck_assert(!a.result.answer && !b.result.answer);
    check_both_talk();
    ck_assert_uint_eq(a.ended + b.ended, 0);
}
END_TEST

/* Whatever hellos get lost, a few more do it: sends by turns, each with its chance. */
START_TEST(lost_hellos_only_cost_time)
{
    struct prng prng = {.state = (uint64_t)_i};
    unsigned tries = 0;
    bool answer_a = true, answer_b = true;
    while (!(a.session.open && b.session.open) && tries++ < 1000) {
        struct side *from = prng_chance(&prng, 500000) ? &a : &b, *to = from == &a ? &b : &a;
        bool *answer = from == &a ? &answer_a : &answer_b;
        if (from->session.open && !*answer)
            continue;
        struct frame frame = hello(from);
        *answer = false;
        if (prng_chance(&prng, 400000))
            continue;
        enum peer_refusal refusal = receive(to, &frame);
        ck_assert(refusal == PEER_OK || refusal == PEER_REFUSED_GAP);
        *(from == &a ? &answer_b : &answer_a) = to->result.answer || refusal != PEER_OK;
    }
    ck_assert_uint_lt(tries, 1000);
    /* One side may still owe the hello that the other's numbers go on from. */
    struct frame last_a = hello(&a), last_b = hello(&b);
    if (receive(&b, &last_a) != PEER_OK || receive(&a, &last_b) != PEER_OK)
        shake_hands(&a, &b);
    check_both_talk();
}
END_TEST

START_TEST(a_frame_counts_once)
{
    shake_hands(&a, &b);
    struct frame frames[5];
    for (int i = 0; i < 5; i++) {
        frames[i] = data(&a, "x");
        ck_assert_int_eq(receive(&b, &frames[i]), PEER_OK);
    }
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(receive(&b, &frames[i]), PEER_REFUSED_REPLAY);
    ck_assert_uint_eq(b.ended, 0);
    check_both_talk();
}
END_TEST

START_TEST(a_missing_frame_ends_the_session_on_both_sides)
{
    shake_hands(&a, &b);
    data(&a, "lost");
    struct frame next = data(&a, "next");
    ck_assert_int_eq(receive(&b, &next), PEER_REFUSED_GAP);
    ck_assert(!b.session.open);
    next = data(&a, "more");
    ck_assert_int_eq(receive(&b, &next), PEER_REFUSED_SESSION);
    shake_hands(&b, &a);
    ck_assert_uint_eq(a.ended, 1);
    ck_assert_uint_eq(a.opened, 2);
    check_both_talk();
}
END_TEST

/* Who can't make a MAC can't end a session by a wrong number either. */
START_TEST(a_forged_number_changes_nothing)
{
    shake_hands(&a, &b);
    struct frame good = data(&a, "x"), forged = good;
    for (uint64_t number = 0; number < 20; number++) {
        store_u64(forged.bytes + 56, number);
        enum peer_refusal refusal = receive(&b, &forged);
        if (number != load_u64(good.bytes + 56))
            ck_assert(refusal == PEER_REFUSED_REPLAY || refusal == PEER_REFUSED_MAC);
        if (number == load_u64(good.bytes + 56))
            ck_assert_int_eq(refusal, PEER_OK);
    }
    check_both_talk();
    ck_assert_uint_eq(a.ended + b.ended, 0);
}
END_TEST

/* Every bit of a hello and of a session's frame, at a node that has a session and at one that has
 * none. */
START_TEST(nothing_altered_is_believed)
{
    struct frame good = hello(&b);
    for (int open = 0; open < 2; open++) {
        for (size_t bit = 0; bit < good.len * 8; bit++) {
            struct frame altered = good;
            altered.bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
            ck_assert_int_ne(receive(&a, &altered), PEER_OK);
        }
        ck_assert_int_eq(receive(&a, &good), PEER_OK);
        if (open == 0)
            shake_hands(&a, &b);
        good = data(&b, "something that a node says");
    }
    ck_assert_uint_eq(a.ended, 0);
}
END_TEST

START_TEST(strangers_are_refused)
{
    static const struct {
        const char *secret, *cluster;
        uint32_t node;
        enum peer_refusal refusal;
    } strangers[] = {
        {"0123456789abcdeF", "c", 1, PEER_REFUSED_MAC},
        {"", "c", 1, PEER_REFUSED_MAC},
        {"0123456789abcdef", "d", 1, PEER_REFUSED_CLUSTER},
        {"0123456789abcdef", "c", 0, PEER_REFUSED_FROM_NODE},
        {"0123456789abcdef", "c", 2, PEER_REFUSED_FROM_NODE},
        {"0123456789abcdef", "c", UINT32_MAX, PEER_REFUSED_FROM_NODE},
    };
    for (size_t i = 0; i < sizeof strangers / sizeof *strangers; i++) {
        struct side stranger;
        start(&stranger, strangers[i].node, 99, strangers[i].secret, strangers[i].cluster);
        stranger.session.peer = 0;
        struct frame frame = hello(&stranger);
        ck_assert_int_eq(receive(&a, &frame), strangers[i].refusal);
        /* Even one that has heard a's nonce. */
        stranger.session.heard_nonce = a.session.nonce;
        frame = hello(&stranger);
        ck_assert_int_eq(receive(&a, &frame), strangers[i].refusal);
        ck_assert(!a.session.open && !a.result.answer);
        stop(&stranger);
    }
    /* For another node: a's own frame sent back to it, and b's to a wrong address. */
    struct frame mine = hello(&a);
    ck_assert_int_eq(receive(&a, &mine), PEER_REFUSED_TO_NODE);
    shake_hands(&a, &b);
    mine = data(&a, "x");
    ck_assert_int_eq(receive(&a, &mine), PEER_REFUSED_TO_NODE);
    store_u32(mine.bytes + 24, 1);
    store_u32(mine.bytes + 28, 0);
    ck_assert_int_ne(receive(&a, &mine), PEER_OK);
}
END_TEST

/* Everything b ever said, said again by somebody else: to a with a session, without one, and to a's
 * next process. Nothing is believed that changes anything. */
START_TEST(recordings_convince_nobody)
{
    struct frame kept[64];
    unsigned count = 0;
    for (int session = 0; session < 3; session++) {
        struct frame frame = hello(&b);
        kept[count++] = frame;
        receive(&a, &frame);
        frame = hello(&a);
        receive(&b, &frame);
        ck_assert(b.session.open);
        kept[count++] = frame = hello(&b);
        ck_assert_int_eq(receive(&a, &frame), PEER_OK);
        ck_assert(a.session.open);
        for (int i = 0; i < 3; i++) {
            kept[count++] = frame = data(&b, "secret command");
            ck_assert_int_eq(receive(&a, &frame), PEER_OK);
        }
        for (unsigned i = 0; i < count; i++)
            ck_assert_int_eq(receive(&a, &kept[i]), PEER_REFUSED_REPLAY);
        peer_session_end(&a.session, nonce_of(&a));
        peer_session_end(&b.session, nonce_of(&b));
        for (unsigned i = 0; i < count; i++)
            ck_assert_int_eq(receive(&a, &kept[i]), PEER_REFUSED_REPLAY);
    }
    /* a's next process has forgotten the numbers, but its nonces are new. */
    stop(&a);
    start(&a, 0, 11, "0123456789abcdef", "c");
    for (unsigned i = 0; i < count; i++) {
        enum peer_refusal refusal = receive(&a, &kept[i]);
        ck_assert(refusal == PEER_OK ? a.result.answer : refusal == PEER_REFUSED_TO_BOOT);
        ck_assert(!a.session.open);
    }
    ck_assert_uint_eq(a.opened, 0);
    shake_hands(&a, &b);
    for (unsigned i = 0; i < count; i++)
        ck_assert_int_ne(receive(&a, &kept[i]), PEER_OK);
    check_both_talk();
    ck_assert_uint_eq(a.ended, 0);
}
END_TEST

START_TEST(a_new_process_replaces_the_old_one)
{
    shake_hands(&a, &b);
    struct frame old_hello = hello(&b);
    struct frame old_data = data(&b, "late");
    stop(&b);
    start(&b, 1, 21, "0123456789abcdef", "c");
    shake_hands(&b, &a);
    ck_assert_uint_eq(a.ended, 1);
    ck_assert_uint_eq(a.opened, 2);
    ck_assert_uint_eq(a.session.boot, 21);
    check_both_talk();
    ck_assert_int_eq(receive(&a, &old_data), PEER_REFUSED_OLD_BOOT);
    ck_assert_int_eq(receive(&a, &old_hello), PEER_REFUSED_OLD_BOOT);
    /* And what a said to the old one. */
    stop(&b);
    struct frame to_old = data(&a, "for boot 21");
    start(&b, 1, 22, "0123456789abcdef", "c");
    ck_assert_int_eq(receive(&b, &to_old), PEER_REFUSED_TO_BOOT);
}
END_TEST

/* An unproven hello of a higher boot doesn't even end the session: it may be a recording of another
 * life. */
START_TEST(an_unproven_hello_changes_nothing)
{
    shake_hands(&a, &b);
    struct side other;
    start(&other, 1, 500, "0123456789abcdef", "c");
    struct frame frame = hello(&other);
    ck_assert_int_eq(receive(&a, &frame), PEER_OK);
    ck_assert(a.result.answer && !a.result.ended && !a.result.opened);
    check_both_talk();
    stop(&other);
}
END_TEST

/* Two with the same index: the higher boot keeps the place. */
START_TEST(an_old_boot_gets_in_only_when_nobody_else_is)
{
    shake_hands(&a, &b);
    struct side old;
    start(&old, 1, 5, "0123456789abcdef", "c");
    old.session.heard_nonce = a.session.nonce;
    struct frame frame = hello(&old);
    ck_assert_int_eq(receive(&a, &frame), PEER_REFUSED_OLD_BOOT);
    check_both_talk();
    /* b is gone for long: its disk and clock were lost, boot 5 is all there is. */
    peer_session_end(&a.session, nonce_of(&a));
    frame = hello(&old);
    ck_assert_int_eq(receive(&a, &frame), PEER_REFUSED_OLD_BOOT);
    struct frame from_a = hello(&a);
    ck_assert_int_eq(receive(&old, &from_a), PEER_OK);
    frame = hello(&old);
    ck_assert_int_eq(receive(&a, &frame), PEER_OK);
    ck_assert(a.result.opened);
    ck_assert_uint_eq(a.session.boot, 5);
    shake_hands(&a, &old);
    check_talk(&a, &old, "welcome");
    check_talk(&old, &a, "thanks");
    stop(&old);
}
END_TEST

START_TEST(one_side_forgets_and_both_begin_again)
{
    shake_hands(&a, &b);
    for (int i = 0; i < 5; i++) {
        struct side *side = i % 2 == 0 ? &a : &b, *other = i % 2 == 0 ? &b : &a;
        unsigned ended = other->ended;
        peer_session_end(&side->session, nonce_of(side));
        struct frame late = data(other, "late");
        ck_assert_int_eq(receive(side, &late), PEER_REFUSED_SESSION);
        shake_hands(side, other);
        ck_assert_uint_eq(other->ended, ended + 1);
        check_both_talk();
    }
}
END_TEST

/* A body with a right MAC that is no hello. */
START_TEST(a_hello_is_a_hello)
{
    struct peer_head head = {.cluster_id = b.own.cluster_id,
                             .flags = PEER_HELLO,
                             .from_node = 1,
                             .from_boot = 20,
                             .number = 1};
    struct buf bodies[3] = {0};
    msg_pack_item(&bodies[0], &(struct msg_item){.kind = 1});
    msg_pack_peer_hello(&bodies[1], &(struct msg_peer_hello){.want = true});
    msg_pack_peer_hello(&bodies[1], &(struct msg_peer_hello){.want = true});
    buf_append(&bodies[2], "\x93\x50\xc4", 3);
    for (int i = 0; i < 3; i++) {
        struct frame frame;
        frame.len = peer_frame_seal(&head, b.hello_key, buf_span(&bodies[i]), frame.bytes);
        ck_assert_int_eq(receive(&a, &frame), PEER_REFUSED_BODY);
        buf_release(&bodies[i]);
    }
}
END_TEST

START_TEST(who_knows_the_secret_may_vouch)
{
    uint8_t vouch[PEER_VOUCH_BYTES];
    struct msg_peer_hello said = {.nonce = a.session.nonce};
    peer_session_vouch(&b.session, &said, vouch);
    ck_assert(peer_session_vouched(&a.session, vouch));
    /* For this hello alone, of this sender alone. */
    ck_assert(!peer_session_vouched(&b.session, vouch));
    for (size_t i = 0; i < sizeof vouch; i++) {
        vouch[i] ^= 1;
        ck_assert(!peer_session_vouched(&a.session, vouch));
        vouch[i] ^= 1;
    }
    struct uuid nonce = a.session.nonce;
    a.session.nonce.bytes[0] ^= 1;
    ck_assert(!peer_session_vouched(&a.session, vouch));
    a.session.nonce = nonce;
    a.session.peer = 5;
    ck_assert(!peer_session_vouched(&a.session, vouch));
    a.session.peer = 1;
    ck_assert(peer_session_vouched(&a.session, vouch));
    /* Nor is what a node says of itself, or a frame's end, such an answer. */
    peer_session_vouch(&a.session, &said, vouch);
    ck_assert(!peer_session_vouched(&a.session, vouch));
    struct frame frame = hello(&b);
    ck_assert(!peer_session_vouched(&a.session, frame.bytes + frame.len - PEER_VOUCH_BYTES));
    ck_assert_uint_eq(shake_hands(&a, &b), 4);
    check_both_talk();
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("peer_session");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, hellos_open_a_session);
    tcase_add_test(tcase, hellos_that_cross_open_it_too);
    tcase_add_loop_test(tcase, lost_hellos_only_cost_time, 0, 200);
    tcase_add_test(tcase, a_frame_counts_once);
    tcase_add_test(tcase, a_missing_frame_ends_the_session_on_both_sides);
    tcase_add_test(tcase, a_forged_number_changes_nothing);
    tcase_add_test(tcase, nothing_altered_is_believed);
    tcase_add_test(tcase, strangers_are_refused);
    tcase_add_test(tcase, recordings_convince_nobody);
    tcase_add_test(tcase, a_new_process_replaces_the_old_one);
    tcase_add_test(tcase, an_unproven_hello_changes_nothing);
    tcase_add_test(tcase, an_old_boot_gets_in_only_when_nobody_else_is);
    tcase_add_test(tcase, one_side_forgets_and_both_begin_again);
    tcase_add_test(tcase, a_hello_is_a_hello);
    tcase_add_test(tcase, who_knows_the_secret_may_vouch);
    Suite *suite = suite_create("peer_session");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
