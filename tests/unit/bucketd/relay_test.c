/* A bucket's traffic with other nodes: whose message goes where, what is lost with whom, what is
 * refused. This is node 1 of the replicas 0, 1 and 2. */
#include <check.h>
#include <stdlib.h>

#include "bucketd/relay.h"

#define HEARD_MAX 64u

enum event { PEER, REQUEST, LINK_LOST, PEER_DOWN };
struct heard {
    enum event event;
    uint32_t who; /* node or link */
    uint64_t value;
};

static struct relay relay;
static struct buf netd;
static bool netd_there;
static struct heard heard[HEARD_MAX];
static unsigned heard_count, logged;

static void note(enum event event, uint32_t who, uint64_t value)
{
    ck_assert_uint_lt(heard_count, HEARD_MAX);
    heard[heard_count++] = (struct heard){event, who, value};
}

static struct buf *netd_outbox(void *ctx)
{
    (void)ctx;
    return netd_there ? &netd : NULL;
}

static void on_peer(void *ctx, uint32_t node, const struct msg *msg)
{
    (void)ctx;
    ck_assert_int_eq(msg->tag, TAG_transfer);
    note(PEER, node, msg->u.transfer.term);
}

static void on_request(void *ctx, uint32_t link, const struct msg *msg)
{
    (void)ctx;
    ck_assert_int_eq(msg->tag, TAG_info_req);
    note(REQUEST, link, msg->u.info_req.req_id);
}

/* The core may have something to say to it, and must find nobody. */
static void on_link_lost(void *ctx, uint32_t link)
{
    (void)ctx;
    ck_assert_ptr_null(relay_outbox(&relay, link));
    note(LINK_LOST, link, 0);
}

static void on_peer_down(void *ctx, const struct msg *msg)
{
    (void)ctx;
    note(PEER_DOWN, (uint32_t)msg->u.peer_down.node, msg->u.peer_down.boot);
}

static void count_log(void *ctx, enum log_level level, const char *line)
{
    (void)ctx;
    (void)level;
    (void)line;
    logged++;
}

static const struct log log_handle = {.proc = "test", .sink = count_log};

static void setup(void)
{
    static const uint32_t replicas[] = {2, 1, 0};
    struct relay_ops ops = {.netd_outbox = netd_outbox,
                            .on_peer = on_peer,
                            .on_request = on_request,
                            .on_link_lost = on_link_lost,
                            .on_peer_down = on_peer_down};
    netd_there = true;
    relay_init(&relay, 1, replicas, 3, &ops, &log_handle);
}

static void teardown(void)
{
    relay_release(&relay);
    buf_release(&netd);
}

static void come(enum relay_kind kind, uint64_t node, uint64_t boot, struct span bytes)
{
    relay_on_message(&relay,
                     &(struct msg_relay){.kind = kind, .node = node, .boot = boot, .bytes = bytes});
}

static void request(uint64_t node, uint64_t boot, uint64_t req_id)
{
    struct buf bytes = {0};
    msg_pack_info_req(&bytes, &(struct msg_info_req){.req_id = req_id});
    come(RELAY_REQUEST, node, boot, buf_span(&bytes));
    buf_release(&bytes);
}

static void check_heard(unsigned at, enum event event, uint32_t who, uint64_t value)
{
    ck_assert_uint_lt(at, heard_count);
    ck_assert_int_eq(heard[at].event, event);
    ck_assert_uint_eq(heard[at].who, who);
    ck_assert_uint_eq(heard[at].value, value);
}

/* The next relay that has left. Its bytes live until the next call. */
static struct msg_relay take(void)
{
    static struct buf taken;
    struct msg msg;
    buf_clear(&taken, 0);
    buf_append_span(&taken, buf_span(&netd));
    struct span rest = buf_span(&taken);
    ck_assert_int_eq(msg_unpack(&rest, &msg), ERR_OK);
    ck_assert_int_eq(msg.tag, TAG_relay);
    buf_consume(&netd, taken.len - rest.len);
    return msg.u.relay;
}

START_TEST(messages_of_replicas_come_and_go_by_node)
{
    struct buf bytes = {0};
    msg_pack_transfer(&bytes, &(struct msg_transfer){.term = 7});
    msg_pack_transfer(&bytes, &(struct msg_transfer){.term = 8});
    come(RELAY_PEER, 2, 0, buf_span(&bytes));
    check_heard(0, PEER, 2, 7);
    check_heard(1, PEER, 2, 8);
    msg_pack_transfer(relay_peer(&relay, 0), &(struct msg_transfer){.term = 9});
    msg_pack_transfer(relay_peer(&relay, 2), &(struct msg_transfer){.term = 10});
    msg_pack_transfer(relay_peer(&relay, 0), &(struct msg_transfer){.term = 11});
    ck_assert_ptr_null(relay_peer(&relay, 1)); /* itself */
    ck_assert_ptr_null(relay_peer(&relay, 3));
    ck_assert_uint_eq(netd.len, 0); /* not before the turn's end */
    relay_flush(&relay);
    static const uint64_t terms[2][2] = {{10, 0}, {9, 11}};
    for (unsigned i = 0; i < 2; i++) {
        struct msg_relay m = take();
        ck_assert_uint_eq(m.kind, RELAY_PEER);
        ck_assert_uint_eq(m.node, i == 0 ? 2 : 0);
        for (unsigned k = 0; k < 2 && terms[i][k] != 0; k++) {
            struct msg msg;
            ck_assert_int_eq(msg_unpack(&m.bytes, &msg), ERR_OK);
            ck_assert_uint_eq(msg.u.transfer.term, terms[i][k]);
        }
        ck_assert_uint_eq(m.bytes.len, 0);
    }
    ck_assert_uint_eq(netd.len, 0);
    relay_flush(&relay); /* nothing more to say */
    ck_assert_uint_eq(netd.len, 0);
    buf_release(&bytes);
}
END_TEST

START_TEST(a_routine_tick_alone_may_wait)
{
    static const struct {
        bool routine, more;
        enum relay_kind kind;
    } cases[] = {{true, false, RELAY_TICK}, {false, false, RELAY_PEER}, {true, true, RELAY_PEER}};
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf *out = relay_peer(&relay, 0);
        msg_pack_tick(out, &(struct msg_tick){.number = 3, .routine = cases[i].routine});
        if (cases[i].more)
            msg_pack_transfer(out, &(struct msg_transfer){.term = 9});
        relay_flush(&relay);
        ck_assert_uint_eq(take().kind, cases[i].kind);
    }
    struct buf bytes = {0};
    msg_pack_transfer(&bytes, &(struct msg_transfer){.term = 7});
    come(RELAY_TICK, 2, 0, buf_span(&bytes));
    check_heard(0, PEER, 2, 7);
    buf_release(&bytes);
}
END_TEST

START_TEST(each_netd_that_asks_is_a_link)
{
    uint32_t direct = relay_new_link(&relay);
    request(0, 100, 1);
    request(5, 200, 2); /* a node that holds no replica of the bucket asks too */
    request(0, 100, 3);
    uint32_t zero = heard[0].who, five = heard[1].who;
    check_heard(2, REQUEST, zero, 3);
    ck_assert_uint_ne(zero, five);
    ck_assert_uint_ne(zero, direct);
    ck_assert_ptr_null(relay_outbox(&relay, direct));
    msg_pack_info_reply(relay_outbox(&relay, five), &(struct msg_info_reply){.req_id = 2});
    msg_pack_info_reply(relay_outbox(&relay, zero), &(struct msg_info_reply){.req_id = 1});
    msg_pack_info_reply(relay_outbox(&relay, five), &(struct msg_info_reply){.req_id = 4});
    relay_flush(&relay);
    for (unsigned i = 0; i < 2; i++) {
        struct msg_relay m = take();
        ck_assert_uint_eq(m.kind, RELAY_REPLY);
        ck_assert_uint_eq(m.node, i == 0 ? 0 : 5);
        ck_assert_uint_eq(m.boot, i == 0 ? 100 : 200);
        struct msg msg;
        ck_assert_int_eq(msg_unpack(&m.bytes, &msg), ERR_OK);
        ck_assert_uint_eq(msg.u.info_reply.req_id, i == 0 ? 1 : 2);
    }
    ck_assert_uint_eq(netd.len, 0);
}
END_TEST

START_TEST(a_netd_with_another_boot_is_another_link)
{
    request(0, 100, 1);
    uint32_t old = heard[0].who;
    request(0, 101, 2);
    check_heard(1, LINK_LOST, old, 0);
    ck_assert_int_eq(heard[2].event, REQUEST);
    uint32_t now = heard[2].who;
    ck_assert_uint_gt(now, old);
    request(0, 100, 3); /* late: nobody waits for its answer */
    ck_assert_uint_eq(heard_count, 3);
    come(RELAY_LINK_LOST, 0, 100, span_of("", 0)); /* late as well */
    ck_assert_ptr_nonnull(relay_outbox(&relay, now));
    come(RELAY_LINK_LOST, 0, 101, span_of("", 0));
    check_heard(3, LINK_LOST, now, 0);
    come(RELAY_LINK_LOST, 0, 101, span_of("", 0));
    ck_assert_uint_eq(heard_count, 4);
    request(0, 101, 4); /* its session began anew: numbers aren't used twice all the same */
    ck_assert_uint_gt(heard[4].who, now);
}
END_TEST

START_TEST(links_end_with_the_own_netd)
{
    request(0, 100, 1);
    request(5, 100, 2);
    request(6, 100, 3);
    request(7, 100, 4);
    request(8, 100, 5);
    msg_pack_transfer(relay_peer(&relay, 0), &(struct msg_transfer){.term = 9});
    come(RELAY_LINK_LOST, 5, 100, span_of("", 0)); /* from the middle */
    check_heard(5, LINK_LOST, heard[1].who, 0);
    netd_there = false;
    ck_assert_ptr_null(relay_peer(&relay, 0));
    ck_assert_ptr_null(relay_outbox(&relay, heard[0].who));
    relay_on_netd_lost(&relay);
    ck_assert_uint_eq(heard_count, 10);
    for (unsigned i = 6; i < 10; i++)
        ck_assert_int_eq(heard[i].event, LINK_LOST);
    netd_there = true;
    relay_flush(&relay); /* what was packed for the old one is gone */
    ck_assert_uint_eq(netd.len, 0);
}
END_TEST

START_TEST(what_cannot_be_read_is_dropped_alone)
{
    struct buf bytes = {0};
    static const uint8_t newer[] = {0x92, 0xcd, 0x03, 0xe7, 0x01}; /* [999, 1] */
    msg_pack_transfer(&bytes, &(struct msg_transfer){.term = 7});
    buf_append(&bytes, newer, sizeof newer);
    msg_pack_transfer(&bytes, &(struct msg_transfer){.term = 8});
    come(RELAY_PEER, 2, 0, buf_span(&bytes)); /* a message of a newer version is passed over */
    check_heard(1, PEER, 2, 8);
    ck_assert_uint_eq(logged, 0);
    for (size_t len = 0; len < bytes.len; len++)
        come(RELAY_PEER, 2, 0, span_of(bytes.ptr, len));
    unsigned before = heard_count;
    buf_clear(&bytes, 0);
    buf_append(&bytes, "\xc1garbage", 8);
    msg_pack_transfer(&bytes, &(struct msg_transfer){.term = 9});
    come(RELAY_PEER, 2, 0, buf_span(&bytes));
    come(RELAY_REQUEST, 2, 5, buf_span(&bytes));
    come(RELAY_NOTICE, 2, 0, buf_span(&bytes));
    ck_assert_uint_eq(heard_count, before);
    come((enum relay_kind)77, 2, 0, buf_span(&bytes));
    come(RELAY_REPLY, 2, 0, buf_span(&bytes)); /* a bucket asks nobody */
    come(RELAY_PEER, NODE_COUNT_MAX, 0, buf_span(&bytes));
    come(RELAY_REQUEST, UINT64_MAX, 1, buf_span(&bytes));
    ck_assert_uint_eq(heard_count, before);
    ck_assert_uint_gt(logged, 6);
    buf_release(&bytes);
}
END_TEST

START_TEST(only_requests_are_requests_and_a_node_tells_of_itself)
{
    struct buf bytes = {0};
    msg_pack_peer_down(&bytes, &(struct msg_peer_down){.node = 0, .boot = 5});
    come(RELAY_REQUEST, 2, 5, buf_span(&bytes));
    come(RELAY_NOTICE, 2, 0, buf_span(&bytes)); /* of node 0, says node 2 */
    ck_assert_uint_eq(heard_count, 0);
    ck_assert_uint_eq(logged, 2);
    come(RELAY_NOTICE, 0, 0, buf_span(&bytes));
    check_heard(0, PEER_DOWN, 0, 5);
    buf_clear(&bytes, 0);
    msg_pack_transfer(&bytes, &(struct msg_transfer){.term = 7});
    come(RELAY_REQUEST, 2, 5, buf_span(&bytes));
    come(RELAY_NOTICE, 0, 0, buf_span(&bytes));
    ck_assert_uint_eq(heard_count, 1);
    ck_assert_uint_eq(logged, 4);
    buf_release(&bytes);
}
END_TEST

START_TEST(a_large_relay_is_closed_between_messages)
{
    struct span payload = {.ptr = calloc(1, RELAY_BYTES / 4), .len = RELAY_BYTES / 4};
    ck_assert_ptr_nonnull(payload.ptr);
    for (unsigned i = 0; i < 6; i++)
        msg_pack_chunk(relay_peer(&relay, 0), &(struct msg_chunk){.id = i, .entries = payload});
    relay_flush(&relay);
    uint64_t id = 0;
    static const unsigned counts[] = {4, 2};
    for (unsigned i = 0; i < 2; i++) {
        struct msg_relay m = take();
        for (unsigned k = 0; k < counts[i]; k++) {
            struct msg msg;
            ck_assert_int_eq(msg_unpack(&m.bytes, &msg), ERR_OK);
            ck_assert_uint_eq(msg.u.chunk.id, id++);
        }
        ck_assert_uint_eq(m.bytes.len, 0);
    }
    ck_assert_uint_eq(netd.len, 0);
    free((void *)payload.ptr);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("relay");
    TCase *tcase = tcase_create("relay");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, messages_of_replicas_come_and_go_by_node);
    tcase_add_test(tcase, a_routine_tick_alone_may_wait);
    tcase_add_test(tcase, each_netd_that_asks_is_a_link);
    tcase_add_test(tcase, a_netd_with_another_boot_is_another_link);
    tcase_add_test(tcase, links_end_with_the_own_netd);
    tcase_add_test(tcase, what_cannot_be_read_is_dropped_alone);
    tcase_add_test(tcase, only_requests_are_requests_and_a_node_tells_of_itself);
    tcase_add_test(tcase, a_large_relay_is_closed_between_messages);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
