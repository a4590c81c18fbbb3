/* Links over real sockets: meeting, order, frames of any size, waiting, and ends at any moment. */
#include "proto/link.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/limits.h"

#define BOOT_LISTENER 7u
#define BOOT_DIALER   8u
#define WAIT_MS_MAX   10000u
#define WAKER_MS      5u

/* One end, and what it heard. Messages are a number and some bytes. */
struct end {
    struct link *link;
    unsigned ups, downs;
    uint64_t received, bytes;
    uint64_t answer_bytes; /* sent back for each message */
    bool close_at_once;
};

static char folder[64], path[96];
static uv_loop_t loop;
static const struct log silent = {.level = LOG_ERROR};
static uv_timer_t waker;
static struct end listener, dialer;

static void send_numbered(struct end *end, uint64_t number, size_t bytes)
{
    uint8_t *payload = malloc(bytes + 1);
    ck_assert_ptr_nonnull(payload);
    memset(payload, (int)(number % 251), bytes);
    msg_pack_stats_reply(
        link_outbox(end->link),
        &(struct msg_stats_reply){.req_id = number, .text = span_of(payload, bytes)});
    free(payload);
}

static void on_up(void *ctx, struct link *link)
{
    struct end *end = ctx;
    ck_assert(link_is_up(link));
    end->ups++;
}

static void close_end(struct end *end)
{
    if (end->link != NULL)
        link_close(end->link);
    end->link = NULL;
}

static void on_down(void *ctx, struct link *link)
{
    struct end *end = ctx;
    ck_assert(!link_is_up(link));
    end->downs++;
    close_end(end);
}

static void on_message(void *ctx, struct link *link, const struct msg *msg)
{
    struct end *end = ctx;
    (void)link;
    ck_assert_uint_eq(end->downs, 0);
    ck_assert_int_eq(msg->tag, TAG_stats_reply);
    ck_assert_uint_eq(msg->u.stats_reply.req_id, end->received);
    struct span text = msg->u.stats_reply.text;
    uint8_t expected = (uint8_t)(end->received % 251);
    if (end->close_at_once)
        close_end(end); /* the message stays readable */
    for (size_t i = 0; i < text.len; i++)
        if (text.ptr[i] != expected)
            ck_abort_msg("byte %zu of message %lu", i, end->received);
    end->received++;
    end->bytes += text.len;
    if (end->answer_bytes > 0)
        send_numbered(end, end->received - 1, end->answer_bytes);
}

static void open_end(struct end *end, bool listen, uint64_t pause_bytes)
{
    struct link_config config = {.path = path,
                                 .listen = listen,
                                 .own_boot = listen ? BOOT_LISTENER : BOOT_DIALER,
                                 .peer_boot = listen ? BOOT_DIALER : BOOT_LISTENER,
                                 .pause_bytes = pause_bytes,
                                 .log = &silent};
    struct link_callbacks callbacks = {
        .ctx = end, .on_up = on_up, .on_down = on_down, .on_message = on_message};
    *end = (struct end){0};
    ck_assert_int_eq(link_open(&loop, &config, &callbacks, &end->link), ERR_OK);
}

static void on_timer(uv_timer_t *timer)
{
    (void)timer; /* only wakes the loop */
}

/* One turn: it ends by flushing, as those of the daemons do. */
static void turn(void)
{
    uv_run(&loop, UV_RUN_ONCE);
    if (listener.link != NULL)
        link_flush(listener.link);
    if (dialer.link != NULL)
        link_flush(dialer.link);
}

#define TURN_UNTIL(condition)                                                                      \
    do {                                                                                           \
        uint64_t end_ = uv_hrtime() + WAIT_MS_MAX * 1000000ull;                                    \
        while (!(condition)) {                                                                     \
            ck_assert_msg(uv_hrtime() < end_, "never: %s", #condition);                            \
            turn();                                                                                \
        }                                                                                          \
    } while (0)

static void setup(void)
{
    snprintf(folder, sizeof folder, "/tmp/sierradb-link-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/link.ipc", folder);
    ck_assert_int_eq(uv_loop_init(&loop), 0);
    uv_timer_init(&loop, &waker);
    uv_timer_start(&waker, on_timer, WAKER_MS, WAKER_MS);
    listener = dialer = (struct end){0};
}

/* Everything that was opened ends with its link: handles, descriptors, the path. */
static void teardown(void)
{
    close_end(&listener);
    close_end(&dialer);
    uv_close((uv_handle_t *)&waker, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    ck_assert_int_eq(rmdir(folder), 0);
}

static void meet(uint64_t pause_bytes)
{
    open_end(&listener, true, pause_bytes);
    open_end(&dialer, false, 0);
    TURN_UNTIL(listener.ups == 1 && dialer.ups == 1);
}

/* --- A peer made of bare system calls --- */

static struct sockaddr_un raw_address(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    return address;
}

static int raw_connect(void)
{
    struct sockaddr_un address = raw_address();
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static void pack_frame(struct buf *out, uint64_t from_boot, struct span messages)
{
    size_t start = out->len;
    buf_append_zeros(out, 4);
    frame_pack_head(out, &(struct frame_head){.version = PROTO_VERSION,
                                              .from_boot = from_boot,
                                              .to_boot = BOOT_LISTENER});
    buf_append_span(out, messages);
    store_u32(out->ptr + start, (uint32_t)(out->len - start - 4));
}

static void pack_hello(struct buf *out, uint64_t from_boot)
{
    struct buf hello = {0};
    msg_pack_link_hello(&hello, &(struct msg_link_hello){.version = span_str("test")});
    pack_frame(out, from_boot, buf_span(&hello));
    buf_release(&hello);
}

static void raw_send(int fd, struct span bytes)
{
    ck_assert_int_eq(send(fd, bytes.ptr, bytes.len, MSG_NOSIGNAL), (ssize_t)bytes.len);
}

START_TEST(test_order_both_ways)
{
    meet(0);
    for (uint64_t i = 0; i < 1000; i++) {
        send_numbered(&dialer, i, i % 300);
        send_numbered(&listener, i, i % 70);
        if (i % 10 == 0)
            turn();
    }
    TURN_UNTIL(listener.received == 1000 && dialer.received == 1000);
    ck_assert(link_flushed(dialer.link) && link_flushed(listener.link));
    ck_assert_int_eq(access(path, F_OK), -1); /* used once */
}
END_TEST

/* Far more than a socket holds: short writes, frames that are cut, frames that are read in parts.
 */
START_TEST(test_large)
{
    meet(0);
    for (uint64_t i = 0; i < 12; i++) {
        send_numbered(&dialer, i, (i % 3 + 1) << 20);
        send_numbered(&listener, i, 9 << 20);
    }
    ck_assert(!link_flushed(dialer.link));
    TURN_UNTIL(listener.received == 12 && dialer.received == 12);
    ck_assert_uint_eq(dialer.bytes, 12ull * (9 << 20));
}
END_TEST

/* What waits is packed before the two have met, by a dialer that comes first. */
START_TEST(test_dialer_first)
{
    open_end(&dialer, false, 0);
    send_numbered(&dialer, 0, 10);
    for (unsigned i = 0; i < 10; i++)
        turn();
    ck_assert(!link_is_up(dialer.link) && !link_flushed(dialer.link));
    open_end(&listener, true, 0);
    TURN_UNTIL(listener.received == 1 && dialer.ups == 1);
}
END_TEST

/* A peer that dies before it said hello costs nothing but time. */
START_TEST(test_death_before_hello)
{
    struct buf hello = {0};
    pack_hello(&hello, BOOT_DIALER);
    open_end(&listener, true, 0);
    for (size_t len = 0; len < hello.len; len += 3) {
        int fd = raw_connect();
        if (len > 0)
            raw_send(fd, span_of(hello.ptr, len));
        close(fd);
        for (unsigned i = 0; i < 3; i++)
            turn();
    }
    ck_assert_uint_eq(listener.ups + listener.downs, 0);
    open_end(&dialer, false, 0);
    TURN_UNTIL(listener.ups == 1 && dialer.ups == 1);
    buf_release(&hello);
}
END_TEST

/* The same from the dialer's side: it dials until somebody answers. */
START_TEST(test_dialer_tries_again)
{
    struct sockaddr_un address = raw_address();
    int listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    ck_assert_int_eq(bind(listen_fd, (struct sockaddr *)&address, sizeof address), 0);
    ck_assert_int_eq(listen(listen_fd, 1), 0);
    open_end(&dialer, false, 0);
    for (unsigned i = 0; i < 5; i++) {
        int fd;
        TURN_UNTIL((fd = accept(listen_fd, NULL, NULL)) >= 0);
        close(fd);
    }
    close(listen_fd);
    unlink(path);
    open_end(&listener, true, 0);
    TURN_UNTIL(listener.ups == 1 && dialer.ups == 1);
    ck_assert_uint_eq(dialer.downs, 0);
}
END_TEST

/* What a peer sent before it died counts, to the last whole frame. */
START_TEST(test_death_after_messages)
{
    struct buf bytes = {0}, message = {0};
    pack_hello(&bytes, BOOT_DIALER);
    for (uint64_t i = 0; i < 3; i++) {
        message.len = 0;
        uint8_t text = (uint8_t)i;
        msg_pack_stats_reply(&message,
                             &(struct msg_stats_reply){.req_id = i, .text = span_of(&text, 1)});
        pack_frame(&bytes, BOOT_DIALER, buf_span(&message));
    }
    open_end(&listener, true, 0);
    int fd = raw_connect();
    raw_send(fd, span_of(bytes.ptr, bytes.len - 1));
    close(fd);
    TURN_UNTIL(listener.downs == 1);
    ck_assert_uint_eq(listener.ups, 1);
    ck_assert_uint_eq(listener.received, 2);
    buf_release(&bytes);
    buf_release(&message);
}
END_TEST

START_TEST(test_byte_by_byte)
{
    struct buf bytes = {0}, message = {0};
    pack_hello(&bytes, BOOT_DIALER);
    msg_pack_stats_reply(&message, &(struct msg_stats_reply){.req_id = 0});
    pack_frame(&bytes, BOOT_DIALER, buf_span(&message));
    open_end(&listener, true, 0);
    int fd = raw_connect();
    for (size_t i = 0; i < bytes.len; i++) {
        raw_send(fd, span_of(bytes.ptr + i, 1));
        turn();
    }
    TURN_UNTIL(listener.received == 1);
    close(fd);
    TURN_UNTIL(listener.downs == 1);
    buf_release(&bytes);
    buf_release(&message);
}
END_TEST

START_TEST(test_other_incarnation)
{
    struct buf bytes = {0}, message = {0};
    open_end(&listener, true, 0);
    int fd = raw_connect();
    pack_hello(&bytes, BOOT_DIALER + 1);
    raw_send(fd, buf_span(&bytes));
    for (unsigned i = 0; i < 5; i++)
        turn();
    ck_assert_uint_eq(listener.ups, 0);
    bytes.len = 0;
    pack_hello(&bytes, BOOT_DIALER);
    msg_pack_stats_reply(&message, &(struct msg_stats_reply){.req_id = 99});
    pack_frame(&bytes, BOOT_DIALER + 1, buf_span(&message)); /* dropped: 99 isn't expected */
    message.len = 0;
    msg_pack_stats_reply(&message, &(struct msg_stats_reply){.req_id = 0});
    pack_frame(&bytes, BOOT_DIALER, buf_span(&message));
    raw_send(fd, buf_span(&bytes));
    TURN_UNTIL(listener.received == 1);
    close(fd);
    buf_release(&bytes);
    buf_release(&message);
}
END_TEST

/* Bytes that can't be a frame end the link, before the hello and after. */
START_TEST(test_bad_frames)
{
    static const uint8_t bad[][12] = {
        {0xff, 0xff, 0xff, 0xff},                   /* longer than any */
        {0, 0, 0, 0},                               /* no head */
        {4, 0, 0, 0, 0xc1, 0xc1, 0xc1, 0xc1},       /* no msgpack */
        {5, 0, 0, 0, 0xdd, 0xff, 0xff, 0xff, 0xff}, /* an array of 4 billion */
    };
    for (unsigned i = 0; i < 2 * sizeof bad / sizeof *bad; i++) {
        struct buf bytes = {0};
        if (i % 2 == 1)
            pack_hello(&bytes, BOOT_DIALER);
        buf_append(&bytes, bad[i / 2], sizeof bad[0]);
        open_end(&listener, true, 0);
        int fd = raw_connect();
        raw_send(fd, buf_span(&bytes));
        TURN_UNTIL(listener.downs == 1);
        ck_assert_uint_eq(listener.ups, i % 2);
        close(fd);
        buf_release(&bytes);
        TURN_UNTIL(access(path, F_OK) != 0);
    }
}
END_TEST

/* Answers larger than their requests, to a peer that reads none of them: intake stops, memory is
 * bounded, and all goes on when it reads. */
START_TEST(test_pause)
{
    enum { REQUESTS = 500, ANSWER = 64 << 10, PAUSE = 1 << 20 };
    struct buf bytes = {0}, message = {0};
    pack_hello(&bytes, BOOT_DIALER);
    for (uint64_t i = 0; i < REQUESTS - 1; i++)
        msg_pack_stats_reply(&message, &(struct msg_stats_reply){.req_id = i});
    pack_frame(&bytes, BOOT_DIALER, buf_span(&message));
    open_end(&listener, true, PAUSE);
    listener.answer_bytes = ANSWER;
    int fd = raw_connect();
    raw_send(fd, buf_span(&bytes));
    TURN_UNTIL(listener.received > 0);
    bytes.len = message.len = 0; /* the last one stands before the door */
    msg_pack_stats_reply(&message, &(struct msg_stats_reply){.req_id = REQUESTS - 1});
    pack_frame(&bytes, BOOT_DIALER, buf_span(&message));
    raw_send(fd, buf_span(&bytes));
    uint64_t start_ns = uv_hrtime();
    for (unsigned i = 0; i < 20; i++)
        turn();
    /* The waker woke it, nothing else: it waits rather than spins. */
    ck_assert_uint_gt(uv_hrtime() - start_ns, 10 * WAKER_MS * 1000000ull);
    uint64_t held = listener.received;
    ck_assert_uint_lt(held, (PAUSE + (1 << 20)) / ANSWER);
    static uint8_t answers[ANSWER];
    for (uint64_t left = REQUESTS * (uint64_t)ANSWER; left > ANSWER;) {
        ssize_t len = recv(fd, answers, sizeof answers, MSG_DONTWAIT);
        left -= len > 0 ? min_u64((uint64_t)len, left) : 0;
        if (len < 0)
            turn();
    }
    TURN_UNTIL(listener.received == REQUESTS);
    close(fd);
    TURN_UNTIL(listener.downs == 1);
    buf_release(&bytes);
    buf_release(&message);
}
END_TEST

/* The same peer dies instead. */
START_TEST(test_death_while_paused)
{
    meet(1 << 20);
    listener.answer_bytes = 1 << 20;
    for (uint64_t i = 0; i < 50; i++)
        send_numbered(&dialer, i, 1);
    link_flush(dialer.link);
    struct link *quiet = dialer.link;
    TURN_UNTIL(listener.received > 2);
    dialer.link = NULL;
    link_close(quiet); /* with input it never read */
    TURN_UNTIL(listener.downs == 1);
    ck_assert_uint_lt(listener.received, 50);
}
END_TEST

START_TEST(test_death_while_sending)
{
    meet(0);
    send_numbered(&listener, 0, 16 << 20);
    turn();
    close_end(&dialer);
    TURN_UNTIL(listener.downs == 1);
}
END_TEST

START_TEST(test_close_in_message)
{
    meet(0);
    listener.close_at_once = true;
    for (uint64_t i = 0; i < 3; i++)
        send_numbered(&dialer, i, 100 << 10);
    TURN_UNTIL(dialer.downs == 1);
    ck_assert_uint_eq(listener.received, 1);
    ck_assert_uint_eq(listener.downs, 0);
}
END_TEST

START_TEST(test_refused)
{
    struct link_callbacks callbacks = {0};
    char long_path[IPC_PATH_LEN_MAX + 2];
    memset(long_path, 'x', sizeof long_path - 1);
    long_path[0] = '/';
    long_path[IPC_PATH_LEN_MAX + 1] = '\0';
    struct link *link;
    struct link_config config = {.path = long_path, .log = &silent};
    ck_assert_int_eq(link_open(&loop, &config, &callbacks, &link), ERR_INVALID);
    config.path = "/nowhere/at/all.ipc";
    config.listen = true;
    ck_assert_int_eq(link_open(&loop, &config, &callbacks, &link), ERR_IO);
    open_end(&listener, true, 0); /* a path is never taken over */
    config.path = path;
    ck_assert_int_eq(link_open(&loop, &config, &callbacks, &link), ERR_IO);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("link");
    TCase *tests = tcase_create("link");
    tcase_add_checked_fixture(tests, setup, teardown);
    tcase_set_timeout(tests, 60);
    tcase_add_test(tests, test_order_both_ways);
    tcase_add_test(tests, test_large);
    tcase_add_test(tests, test_dialer_first);
    tcase_add_test(tests, test_death_before_hello);
    tcase_add_test(tests, test_dialer_tries_again);
    tcase_add_test(tests, test_death_after_messages);
    tcase_add_test(tests, test_byte_by_byte);
    tcase_add_test(tests, test_other_incarnation);
    tcase_add_test(tests, test_bad_frames);
    tcase_add_test(tests, test_pause);
    tcase_add_test(tests, test_death_while_paused);
    tcase_add_test(tests, test_death_while_sending);
    tcase_add_test(tests, test_close_in_message);
    tcase_add_test(tests, test_refused);
    suite_add_tcase(suite, tests);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
