/* Strangers at a node's cluster port: other secrets and names, garbage, silence, recordings. */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "netd/peer_frame.h"
#include "tests/sim/prng.h"
#include "tests/unit/netd/peers_support.h"

#define MIB (1u << 20)

static struct test_cluster cluster;

static void setup(void)
{
    test_cluster_init(&cluster, 3);
}

static void teardown(void)
{
    test_cluster_release(&cluster);
}

static struct peers_totals totals_of(unsigned at)
{
    struct peers_totals totals;
    peers_get_totals(cluster.nodes[at].peers, &totals);
    return totals;
}

static void start_two(void)
{
    test_node_start(&cluster, 0, 10, "");
    test_node_start(&cluster, 1, 11, "");
    test_run_until(&cluster, test_all_alive, 10);
}

static unsigned count_in(const struct buf *text, const char *part)
{
    unsigned count = 0;
    struct span rest = buf_span(text);
    const uint8_t *at;
    while (rest.len > 0 && (at = memmem(rest.ptr, rest.len, part, strlen(part))) != NULL) {
        count++;
        rest = span_of(at + 1, rest.len - (size_t)(at + 1 - rest.ptr));
    }
    return count;
}

static bool several_refused(struct test_cluster *unused)
{
    (void)unused;
    struct peers_totals totals = totals_of(0);
    uint64_t refused = 0;
    for (unsigned i = 0; i < PEER_REFUSAL_COUNT; i++)
        refused += totals.refused[i];
    return refused >= 6;
}

static const struct {
    const char *more;
    enum peer_refusal refusal;
} strangers[] = {
    {"cluster: {secret: 'another secret of 16'}\n", PEER_REFUSED_MAC},
    {"cluster: {name: another}\n", PEER_REFUSED_CLUSTER},
    {"node: {index: 2}\n", PEER_OK}, /* the last one: it does belong here */
};

START_TEST(who_does_not_belong_here_does_not_get_in)
{
    start_two();
    test_node_start(&cluster, 2, 12, strangers[_i].more);
    if (strangers[_i].refusal == PEER_OK) {
        test_run_until(&cluster, test_all_alive, 10);
        return;
    }
    test_run_until(&cluster, several_refused, 30);
    ck_assert_uint_ge(totals_of(0).refused[strangers[_i].refusal], 6);
    ck_assert(!cluster.nodes[0].alive[2] && !cluster.nodes[1].alive[2]);
    ck_assert(!cluster.nodes[2].alive[0] && !cluster.nodes[2].alive[1]);
    ck_assert_uint_eq(cluster.nodes[0].downs[1], 0);
    /* However many, one line. */
    char line[64];
    snprintf(line, sizeof line, "peer.refused source=127.0.0.1 reason=%s",
             peer_refusal_name(strangers[_i].refusal));
    ck_assert_uint_eq(count_in(&cluster.nodes[0].log_text, line), 1);
    ck_assert_uint_eq(count_in(&cluster.nodes[0].log_text, "peer.refused"), 1);
}
END_TEST

static bool strangers_gone(struct test_cluster *unused)
{
    (void)unused;
    return totals_of(0).strangers >= 300;
}

/* Connections that say nothing, garbage, lengths that lie, and resets in every order: no memory, no
 * harm to those who are here, and who belongs here still gets in. */
START_TEST(noise_at_the_door_is_no_harm)
{
    start_two();
    uint64_t before = test_memory_bytes();
    struct prng prng = {.state = 9};
    int silent[100];
    for (unsigned i = 0; i < 100; i++)
        silent[i] = test_connect(&cluster, 0);
    for (unsigned i = 0; i < 300; i++) {
        int fd = test_connect(&cluster, 0);
        uint8_t bytes[3000];
        size_t len = 1 + (size_t)prng_below(&prng, sizeof bytes);
        for (size_t at = 0; at < len; at++)
            bytes[at] = (uint8_t)prng_next(&prng);
        static const uint32_t lengths[] = {0, 1, 103, 104, 1024, 1025, 1u << 20, UINT32_MAX};
        if (i % 3 != 0 && len >= 4)
            store_u32(bytes, lengths[prng_below(&prng, 8)]);
        (void)send(fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (i % 4 == 0)
            shutdown(fd, SHUT_WR);
        struct linger linger = {.l_onoff = i % 2, .l_linger = 0};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
        close(fd);
        uv_run(&cluster.loop, UV_RUN_NOWAIT);
    }
    test_run_until(&cluster, strangers_gone, 20);
    ck_assert_uint_le(totals_of(0).connections, 1 + PEER_STRANGERS_MAX);
    ck_assert_uint_le(test_memory_bytes(), before + 8 * MIB);
    /* One is closed before it sends anything: what makes nng's listener deaf (peer_wire.h). */
    int fd = test_connect(&cluster, 0);
    shutdown(fd, SHUT_WR);
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    close(fd);
    test_node_start(&cluster, 2, 12, "");
    test_run_until(&cluster, test_all_alive, 10);
    ck_assert_uint_eq(cluster.nodes[0].downs[1], 0);
    for (unsigned i = 0; i < 100; i++)
        close(silent[i]);
}
END_TEST

static bool ten_sent_away(struct test_cluster *unused)
{
    (void)unused;
    return totals_of(0).strangers >= 10;
}

START_TEST(the_silent_have_to_go)
{
    start_two();
    int fds[10];
    for (unsigned i = 0; i < 10; i++)
        fds[i] = test_connect(&cluster, 0);
    /* One of them says the first half of something. */
    uint8_t half[100] = {200};
    ck_assert_int_eq(send(fds[0], half, sizeof half, 0), sizeof half);
    test_run_until(&cluster, ten_sent_away, 20);
    ck_assert_uint_eq(totals_of(0).strangers, 10);
    ck_assert_uint_eq(totals_of(0).connections, 1);
    ck_assert_uint_eq(cluster.nodes[0].downs[1], 0);
    for (unsigned i = 0; i < 10; i++)
        close(fds[i]);
}
END_TEST

/* --- A recorder between two nodes --- */

static struct {
    uv_tcp_t listener, in, out;
    uv_connect_t connect;
    unsigned port;
    struct buf kept;  /* all that node 1 said to node 0 */
    struct buf early; /* before the way on was there */
    bool connected;
    unsigned open;
} recorder;

static void recorder_allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buf)
{
    (void)handle;
    *ret_buf = uv_buf_init(malloc(suggested), (unsigned)suggested);
}

static void recorder_read(uv_stream_t *stream, ssize_t len, const uv_buf_t *buf)
{
    (void)stream;
    if (len > 0) {
        buf_append(&recorder.kept, buf->base, (size_t)len);
        buf_append(&recorder.early, buf->base, (size_t)len);
    }
    if (recorder.connected && recorder.early.len > 0) {
        uv_buf_t out = uv_buf_init((char *)recorder.early.ptr, (unsigned)recorder.early.len);
        int written = uv_try_write((uv_stream_t *)&recorder.out, &out, 1);
        ck_assert_int_eq(written, (int)recorder.early.len);
        recorder.early.len = 0;
    }
    free(buf->base);
}

static void recorder_connected(uv_connect_t *request, int status)
{
    (void)request;
    ck_assert_int_eq(status, 0);
    recorder.connected = true;
    recorder_read((uv_stream_t *)&recorder.in, 0, &(uv_buf_t){0});
}

static void recorder_accept(uv_stream_t *listener, int status)
{
    struct sockaddr_in at;
    ck_assert_int_eq(status, 0);
    uv_tcp_init(&cluster.loop, &recorder.in);
    uv_tcp_init(&cluster.loop, &recorder.out);
    recorder.open += 2;
    ck_assert_int_eq(uv_accept(listener, (uv_stream_t *)&recorder.in), 0);
    uv_read_start((uv_stream_t *)&recorder.in, recorder_allocate, recorder_read);
    uv_ip4_addr("127.0.0.1", (int)cluster.ports[0], &at);
    uv_tcp_connect(&recorder.connect, &recorder.out, (struct sockaddr *)&at, recorder_connected);
}

static void recorder_start(void)
{
    struct sockaddr_in at;
    int len = sizeof at;
    uv_ip4_addr("127.0.0.1", 0, &at);
    uv_tcp_init(&cluster.loop, &recorder.listener);
    ck_assert_int_eq(uv_tcp_bind(&recorder.listener, (struct sockaddr *)&at, 0), 0);
    ck_assert_int_eq(uv_listen((uv_stream_t *)&recorder.listener, 5, recorder_accept), 0);
    uv_tcp_getsockname(&recorder.listener, (struct sockaddr *)&at, &len);
    recorder.port = ntohs(at.sin_port);
    recorder.open = 1;
}

static void play(struct span bytes)
{
    int fd = test_connect(&cluster, 0);
    size_t sent = 0;
    while (sent < bytes.len) {
        ssize_t len = send(fd, bytes.ptr + sent, bytes.len - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (len < 0 && errno != EAGAIN)
            break;
        sent += len > 0 ? (size_t)len : 0;
        uv_run(&cluster.loop, UV_RUN_NOWAIT);
    }
    test_run_for(&cluster, 100);
    close(fd);
}

static bool items_are_there(struct test_cluster *unused)
{
    (void)unused;
    return cluster.nodes[0].items == 300;
}

START_TEST(what_was_recorded_can_not_be_said_again)
{
    recorder_start();
    char more[128];
    snprintf(more, sizeof more, "network: {peers: '127.0.0.1:%u,localhost:%u,127.0.0.1:%u'}",
             recorder.port, cluster.ports[1], cluster.ports[2]);
    test_node_start(&cluster, 0, 10, "");
    test_node_start(&cluster, 1, 11, more);
    test_run_until(&cluster, test_all_alive, 10);
    static uint8_t noise[1000];
    struct prng prng = {.state = 4};
    for (int i = 0; i < 300; i++) {
        for (size_t at = 0; at < sizeof noise; at++)
            noise[at] = (uint8_t)prng_next(&prng);
        ck_assert(peers_send(cluster.nodes[1].peers, 0, 0, RELAY_REQUEST, 10,
                             span_of(noise, sizeof noise)));
    }
    test_run_until(&cluster, items_are_there, 10);
    struct buf kept = {0};
    buf_append_span(&kept, buf_span(&recorder.kept));
    ck_assert_uint_gt(kept.len, 100000);

    /* While the session is open, and piece by piece from somewhere in the middle. */
    play(buf_span(&kept));
    size_t first = 4 + load_u32(kept.ptr);
    play(span_of(kept.ptr + first, kept.len - first));
    ck_assert_uint_eq(cluster.nodes[0].downs[1], 0);
    ck_assert_uint_gt(totals_of(0).refused[PEER_REFUSED_REPLAY], 0);

    /* To a node that has lost everything but its number, with nobody else there. */
    test_node_stop(&cluster.nodes[1]);
    test_node_stop(&cluster.nodes[0]);
    test_node_start(&cluster, 0, 20, "");
    for (int i = 0; i < 5; i++)
        play(buf_span(&kept));
    ck_assert_uint_eq(cluster.nodes[0].ups[1], 1);
    ck_assert_uint_eq(cluster.nodes[0].items, 300);
    /* True frames, and still nobody's. */
    ck_assert_uint_eq(totals_of(0).strangers, 5);
    ck_assert(!test_text_has(&kept, "the secret of the test"));
    buf_release(&kept);
    buf_release(&recorder.kept);
    buf_release(&recorder.early);
    uv_close((uv_handle_t *)&recorder.listener, NULL);
    uv_close((uv_handle_t *)&recorder.in, NULL);
    uv_close((uv_handle_t *)&recorder.out, NULL);
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("peers_strangers");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, who_does_not_belong_here_does_not_get_in, 0,
                        sizeof strangers / sizeof *strangers);
    tcase_add_test(tcase, noise_at_the_door_is_no_harm);
    tcase_add_test(tcase, the_silent_have_to_go);
    tcase_add_test(tcase, what_was_recorded_can_not_be_said_again);
    Suite *suite = suite_create("peers_strangers");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
