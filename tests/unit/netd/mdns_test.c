/* Nodes that know no peers find one another by multicast DNS on loopback, whoever else talks there.
 */
#include <arpa/inet.h>
#include <check.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/assert.h"
#include "netd/mdns_socket.h"
#include "netd/peer_frame.h"
#include "tests/sim/prng.h"
#include "tests/unit/netd/peers_support.h"

/* Somebody at 127.0.0.66 who wants to be node 1. */
struct liar {
    int fd;
    struct mdns_interface interface;
    struct mdns_self self;
    int silent;           /* listens, and says nothing */
    uv_tcp_t closing;     /* takes connections and closes them */
    unsigned connections; /* so many */
};

static struct test_cluster cluster;
static struct liar liar;
static char settings[160]; /* a cluster's name of its own: others may run on this machine */

static void setup(void)
{
    test_cluster_init(&cluster, 3);
    snprintf(settings, sizeof settings,
             "cluster: {name: 'mdns test %d'}\nnode: {count: 3}\n"
             "network: {peers: '', mdns: true}\n",
             getpid());
}

static void teardown(void)
{
    test_cluster_release(&cluster);
}

static void start(uint32_t index, uint64_t boot)
{
    test_node_start(&cluster, index, boot, settings);
}

static struct peer_info info_of(unsigned at, unsigned node)
{
    struct peer_info info;
    ck_assert(peers_get_node(cluster.nodes[at].peers, node, &info));
    return info;
}

static unsigned free_port(int *ret_fd)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t len = sizeof at;
    *ret_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT(bind(*ret_fd, (struct sockaddr *)&at, sizeof at) == 0);
    ASSERT(getsockname(*ret_fd, (struct sockaddr *)&at, &len) == 0);
    return ntohs(at.sin_port);
}

static unsigned datagram_sockets(void)
{
    unsigned count = 0;
    DIR *dir = opendir("/proc/self/fd");
    ASSERT(dir != NULL);
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        int type, domain;
        socklen_t len = sizeof type, domain_len = sizeof domain;
        int fd = (int)strtol(entry->d_name, NULL, 10);
        if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 &&
            getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &domain_len) == 0)
            count += type == SOCK_DGRAM || domain == AF_NETLINK;
    }
    closedir(dir);
    return count;
}

START_TEST(nodes_without_peers_find_one_another)
{
    for (uint32_t i = 0; i < 3; i++)
        start(i, 10 + i);
    test_run_until(&cluster, test_all_alive, 10);
    for (unsigned a = 0; a < 3; a++) {
        for (unsigned b = 0; b < 3; b++) {
            if (a == b)
                continue;
            struct peer_info info = info_of(a, b);
            ck_assert(span_equal(info.found, span_str("mdns")));
            ck_assert_uint_eq(info.name.len, 0);
            ck_assert_uint_gt(info.address.len, 0);
        }
    }
    ck_assert_uint_eq(datagram_sockets(), 6);
}
END_TEST

START_TEST(a_node_with_another_address_is_found_again)
{
    for (uint32_t i = 0; i < 3; i++)
        start(i, 10 + i);
    test_run_until(&cluster, test_all_alive, 10);
    for (unsigned round = 1; round <= 2; round++) {
        int fd;
        test_node_stop(&cluster.nodes[1]);
        test_run_for(&cluster, 300);
        ck_assert(!cluster.nodes[0].alive[1]);
        cluster.ports[1] = free_port(&fd);
        close(fd);
        start(1, 20 + round);
        test_run_until(&cluster, test_all_alive, 10);
        char port[16];
        snprintf(port, sizeof port, ":%u", cluster.ports[1]);
        struct span address = info_of(0, 1).address;
        ck_assert_ptr_nonnull(memmem(address.ptr, address.len, port, strlen(port)));
    }
}
END_TEST

START_TEST(names_come_first_and_hints_help)
{
    /* Node 1's port in network.peers is one where nobody is. */
    char more[700], peers[300];
    int fd;
    unsigned empty = free_port(&fd);
    close(fd);
    snprintf(peers, sizeof peers, "127.0.0.1:%u,127.0.0.1:%u,127.0.0.1:%u", cluster.ports[0], empty,
             cluster.ports[2]);
    snprintf(more, sizeof more,
             "cluster: {name: 'mdns test %d'}\nnetwork: {peers: '%s', mdns: true}\n", getpid(),
             peers);
    for (uint32_t i = 0; i < 3; i++)
        test_node_start(&cluster, i, 10 + i, more);
    test_run_until(&cluster, test_all_alive, 10);
    ck_assert(span_equal(info_of(0, 1).found, span_str("mdns")));
    ck_assert(span_equal(info_of(0, 2).found, span_str("peers")));
    ck_assert(span_equal(info_of(1, 0).found, span_str("peers")));
}
END_TEST

START_TEST(switched_off_it_opens_nothing)
{
    for (uint32_t i = 0; i < 3; i++)
        test_node_start(&cluster, i, 10 + i, "");
    test_run_until(&cluster, test_all_alive, 10);
    ck_assert(span_equal(info_of(0, 1).found, span_str("peers")));
    ck_assert_uint_eq(datagram_sockets(), 0);
}
END_TEST

/* --- Somebody else --- */

static void close_at_once(uv_stream_t *listener, int status)
{
    uv_tcp_t *tcp = malloc(sizeof *tcp);
    ASSERT(status == 0 && uv_tcp_init(listener->loop, tcp) == 0);
    ASSERT(uv_accept(listener, (uv_stream_t *)tcp) == 0);
    liar.connections++;
    uv_close((uv_handle_t *)tcp, (uv_close_cb)free);
}

static unsigned listen_closing(void)
{
    struct sockaddr_in at;
    int len = sizeof at;
    ASSERT(uv_ip4_addr("127.0.0.1", 0, &at) == 0);
    ASSERT(uv_tcp_init(&cluster.loop, &liar.closing) == 0);
    ASSERT(uv_tcp_bind(&liar.closing, (struct sockaddr *)&at, 0) == 0);
    ASSERT(uv_listen((uv_stream_t *)&liar.closing, 8, close_at_once) == 0);
    ASSERT(uv_tcp_getsockname(&liar.closing, (struct sockaddr *)&at, &len) == 0);
    return ntohs(at.sin_port);
}

static void liar_init(void)
{
    const char *step;
    char name[64];
    snprintf(name, sizeof name, "mdns test %d", getpid());
    liar = (struct liar){.fd = mdns_open(false, &step),
                         .interface = {.index = if_nametoindex("lo"), .v4 = true},
                         .self = {.cluster_id = uuid_of_cluster(span_str(name)),
                                  .cluster_name = span_str("x"),
                                  .node = 1,
                                  .node_count = 3}};
    ASSERT(liar.fd >= 0);
    mdns_make_label(&liar.self, 666);
}

/* From 127.0.0.`from`: node 1 is at 127.0.0.1, this port. */
static void lie(unsigned from, unsigned port, bool goodbye)
{
    struct buf packet = {0};
    struct mdns_address here = {.ip = {127, 0, 0, 1}};
    liar.self.port = (uint16_t)port;
    liar.interface.addresses[0] = (struct mdns_address){.ip = {127, 0, 0, (uint8_t)from}};
    liar.interface.address_count = 1;
    mdns_write_announcement(&packet, &liar.self, &here, 1, goodbye);
    ck_assert(mdns_send(liar.fd, false, &liar.interface, buf_span(&packet)));
    buf_release(&packet);
}

START_TEST(false_addresses_are_tried_and_left)
{
    liar_init();
    unsigned silent = free_port(&liar.silent);
    ASSERT(listen(liar.silent, 100) == 0);
    unsigned closing = listen_closing();
    start(0, 10);
    start(2, 12);
    test_run_until(&cluster, test_all_alive, 10);
    lie(66, silent, false);
    lie(67, closing, false);
    lie(68, cluster.ports[2], false); /* a node, but another one */
    test_run_for(&cluster, 6000);
    ck_assert_uint_gt(liar.connections, 0);
    ck_assert_uint_lt(liar.connections, 20); /* not all the time */
    ck_assert(!cluster.nodes[0].alive[1]);
    start(1, 11);
    test_run_until(&cluster, test_all_alive, 20);
    ck_assert(cluster.nodes[0].alive[1] && cluster.nodes[2].alive[1]);
    ck_assert_uint_eq(cluster.nodes[0].downs[2], 0);
    close(liar.silent);
    close(liar.fd);
    uv_close((uv_handle_t *)&liar.closing, NULL);
}
END_TEST

START_TEST(sessions_outlast_lies_and_noise)
{
    struct prng prng = {.state = 5};
    liar_init();
    for (uint32_t i = 0; i < 3; i++)
        start(i, 10 + i);
    test_run_until(&cluster, test_all_alive, 10);
    uint64_t before = test_memory_bytes();
    for (unsigned round = 0; round < 200; round++) {
        for (unsigned i = 0; i < 50; i++) {
            struct buf noise = {0};
            uint64_t len = prng_below(&prng, 1600);
            for (uint64_t k = 0; k < len; k++)
                buf_append(&noise, &(uint8_t){(uint8_t)prng_next(&prng)}, 1);
            if (noise.len > 3)
                noise.ptr[2] = 0x84, noise.ptr[3] = 0;
            (void)mdns_send(liar.fd, false, &liar.interface, buf_span(&noise));
            buf_release(&noise);
            lie(2 + (unsigned)prng_below(&prng, 250), 1 + (unsigned)prng_below(&prng, 65535),
                i % 10 == 0);
        }
        lie(1, 9, true); /* node 1 leaves, says who isn't it */
        test_run_for(&cluster, 10);
    }
    ck_assert(test_all_alive(&cluster));
    for (unsigned i = 0; i < 3; i++)
        ck_assert_uint_eq(
            cluster.nodes[i].downs[0] + cluster.nodes[i].downs[1] + cluster.nodes[i].downs[2], 0);
    ck_assert_uint_le(test_memory_bytes(), before + (4u << 20));
    /* And it is found where it was. */
    test_node_stop(&cluster.nodes[1]);
    test_run_for(&cluster, 200);
    start(1, 31);
    test_run_until(&cluster, test_all_alive, 10);
    close(liar.fd);
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("mdns");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, nodes_without_peers_find_one_another);
    tcase_add_test(tcase, a_node_with_another_address_is_found_again);
    tcase_add_test(tcase, names_come_first_and_hints_help);
    tcase_add_test(tcase, switched_off_it_opens_nothing);
    tcase_add_test(tcase, false_addresses_are_tried_and_left);
    tcase_add_test(tcase, sessions_outlast_lies_and_noise);
    Suite *suite = suite_create("mdns");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
