/* Real nodes on loopback: they find each other, items pass, processes end, stop and come back. */
#include <check.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/limits.h"
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

static void start_all(void)
{
    for (uint32_t i = 0; i < 3; i++)
        test_node_start(&cluster, i, 10 + i, "");
    test_run_until(&cluster, test_all_alive, 10);
}

static struct peer_info info_of(unsigned at, uint32_t node)
{
    struct peer_info info;
    ck_assert(peers_get_node(cluster.nodes[at].peers, node, &info));
    return info;
}

static struct peers_totals totals_of(unsigned at)
{
    struct peers_totals totals;
    peers_get_totals(cluster.nodes[at].peers, &totals);
    return totals;
}

/* --- Items whose order and content can be checked --- */

/* An item: from, number, a length that follows from both, bytes that follow from all of it. */
static struct {
    uint64_t sent[3][3], got[3][3];
    uint8_t noise[2 * MIB];
} traffic;

static size_t item_len(uint32_t from, uint32_t to, uint64_t number)
{
    struct prng prng = {.state = from * 1000003 + to * 5003 + number};
    if (number % 500 == 499)
        return MIB + (size_t)prng_below(&prng, MIB - 32);
    return 32 + (size_t)prng_below(&prng, number % 10 == 9 ? 100000 : 400);
}

static bool send_next(uint32_t from, uint32_t to)
{
    static uint8_t item[2 * MIB];
    uint64_t number = traffic.sent[from][to];
    size_t len = item_len(from, to, number);
    store_u32(item, from);
    store_u32(item + 4, to);
    store_u64(item + 8, number);
    memcpy(item + 16, traffic.noise + number % 1000, len - 16);
    if (!peers_send(cluster.nodes[from].peers, to, (uint32_t)(number % 4), RELAY_PEER,
                    cluster.nodes[to].boot, span_of(item, len)))
        return false;
    traffic.sent[from][to]++;
    return true;
}

static void check_item(struct test_node *node, uint32_t from, uint64_t boot, uint32_t bucket,
                       enum relay_kind kind, struct span bytes)
{
    uint64_t number = traffic.got[from][node->index]++;
    ck_assert_uint_eq(boot, cluster.nodes[from].boot);
    ck_assert_int_eq(kind, RELAY_PEER);
    ck_assert_uint_eq(bytes.len, item_len(from, node->index, number));
    ck_assert_uint_eq(load_u32(bytes.ptr), from);
    ck_assert_uint_eq(load_u32(bytes.ptr + 4), node->index);
    ck_assert_uint_eq(load_u64(bytes.ptr + 8), number);
    ck_assert_uint_eq(bucket, number % 4);
    ck_assert(memcmp(bytes.ptr + 16, traffic.noise + number % 1000, bytes.len - 16) == 0);
}

static void begin_traffic(void)
{
    struct prng prng = {.state = 3};
    memset(traffic.sent, 0, sizeof traffic.sent);
    memset(traffic.got, 0, sizeof traffic.got);
    for (size_t i = 0; i < sizeof traffic.noise; i++)
        traffic.noise[i] = i % 4096 < 2048 ? (uint8_t)prng_next(&prng) : 'x';
    for (unsigned i = 0; i < 3; i++)
        cluster.nodes[i].on_item = check_item;
}

static bool all_got(struct test_cluster *unused)
{
    (void)unused;
    return memcmp(traffic.sent, traffic.got, sizeof traffic.sent) == 0;
}

/* `count` items each way between all that run, as many in a turn as are taken. */
static void exchange(uint64_t count)
{
    uint64_t goal[3][3];
    memcpy(goal, traffic.sent, sizeof goal);
    bool more = true;
    while (more) {
        more = false;
        for (uint32_t from = 0; from < 3; from++) {
            for (uint32_t to = 0; to < 3; to++) {
                if (from == to || cluster.nodes[from].peers == NULL ||
                    cluster.nodes[to].peers == NULL)
                    continue;
                for (int i = 0; i < 50 && traffic.sent[from][to] < goal[from][to] + count; i++)
                    if (!send_next(from, to))
                        break;
                more |= traffic.sent[from][to] < goal[from][to] + count;
            }
        }
        uv_run(&cluster.loop, UV_RUN_NOWAIT);
    }
    test_run_until(&cluster, all_got, 20);
}

static bool all_gossiped(struct test_cluster *unused)
{
    (void)unused;
    for (unsigned a = 0; a < 3; a++)
        for (unsigned b = 0; b < 3; b++)
            if (a != b && (cluster.nodes[a].gossips[b] < 3 || info_of(a, b).rtt_us == 0))
                return false;
    return true;
}

START_TEST(nodes_meet_and_tell_of_themselves)
{
    start_all();
    struct buf records = {0};
    for (uint32_t i = 0; i < 3; i++) {
        records.len = 0;
        rec_pack_gossip_bucket(&records, &(struct rec_gossip_bucket){.bucket = i,
                                                                     .state = BUCKET_UP,
                                                                     .role = 2,
                                                                     .term = 70 + i,
                                                                     .leader = i + 1,
                                                                     .commit_idx = 1000 + i,
                                                                     .ready = true});
        rec_pack_gossip_bucket(&records, &(struct rec_gossip_bucket){.bucket = 3});
        peers_set_gossip(cluster.nodes[i].peers, NODE_DEGRADED, 5000 + i, buf_span(&records), true);
    }
    buf_release(&records);
    test_run_until(&cluster, all_gossiped, 10);
    for (unsigned a = 0; a < 3; a++) {
        for (uint32_t b = 0; b < 3; b++) {
            struct peer_info info;
            ck_assert(peers_get_node(cluster.nodes[a].peers, b, &info) == (a != b));
            if (a == b)
                continue;
            char name[64];
            snprintf(name, sizeof name, "%s:%u", b == 1 ? "localhost" : "127.0.0.1",
                     cluster.ports[b]);
            ck_assert(span_equal(info.name, span_str(name)));
            ck_assert_uint_gt(info.address.len, 0);
            ck_assert(span_equal(info.version, span_str(SIERRADB_VERSION)));
            ck_assert(info.alive);
            ck_assert_uint_eq(info.boot, 10 + b);
            ck_assert_uint_eq(peers_boot(cluster.nodes[a].peers, b), 10 + b);
            ck_assert_uint_eq(info.age_ms, 1000 + b);
            ck_assert_uint_lt(info.rtt_us, 1000000);
            ck_assert_uint_eq(info.health, NODE_DEGRADED);
            ck_assert_uint_eq(info.load, 5000 + b);
            ck_assert_uint_eq(info.bucket_count, 2);
            ck_assert_uint_eq(info.buckets[0].bucket, b);
            ck_assert_uint_eq(info.buckets[0].term, 70 + b);
            ck_assert_uint_eq(info.buckets[0].leader, b + 1);
            ck_assert_uint_eq(info.buckets[0].commit_idx, 1000 + b);
            ck_assert_uint_eq(cluster.nodes[a].ups[b], 1);
            ck_assert_uint_eq(cluster.nodes[a].downs[b], 0);
            ck_assert_uint_eq(info.stats.refused, 0);
        }
        ck_assert_uint_eq(totals_of(a).alive, 2);
        ck_assert_uint_eq(totals_of(a).strangers, 0);
        ck_assert(!test_text_has(&cluster.nodes[a].log_text, "the secret"));
    }
}
END_TEST

START_TEST(items_pass_whole_and_in_order)
{
    start_all();
    begin_traffic();
    exchange(3000);
    for (unsigned a = 0; a < 3; a++) {
        ck_assert_uint_eq(cluster.nodes[a].items, 6000);
        ck_assert(peers_flushed(cluster.nodes[a].peers));
        for (uint32_t b = 0; b < 3; b++) {
            if (a == b)
                continue;
            struct peer_stats stats = info_of(a, b).stats;
            ck_assert_uint_eq(stats.items_out, 3000);
            ck_assert_uint_eq(stats.items_in, 3000);
            ck_assert_uint_eq(stats.refused, 0);
            /* Half of it is x. */
            ck_assert_uint_lt(stats.bytes_out, cluster.nodes[a].item_bytes * 4 / 5);
            ck_assert_uint_eq(cluster.nodes[a].ups[b], 1);
        }
    }
}
END_TEST

static bool zero_and_two_lost_one(struct test_cluster *unused)
{
    (void)unused;
    return !cluster.nodes[0].alive[1] && !cluster.nodes[2].alive[1];
}

static bool zero_and_two_found_one_gone(struct test_cluster *unused)
{
    (void)unused;
    unsigned downs = cluster.nodes[0].downs[1];
    return cluster.nodes[0].gones[1] == downs && cluster.nodes[2].gones[1] == downs;
}

START_TEST(a_node_comes_back_with_a_new_boot)
{
    start_all();
    begin_traffic();
    for (uint64_t boot = 20; boot < 25; boot++) {
        exchange(100);
        test_node_stop(&cluster.nodes[1]);
        uint64_t lost_at = uv_hrtime();
        test_run_until(&cluster, zero_and_two_lost_one, 10);
        /* By the end of its connections, long before it would be unheard for 1.5 s. */
        ck_assert_uint_lt(uv_hrtime() - lost_at, 500000000);
        ck_assert(!peers_send(cluster.nodes[0].peers, 1, 0, RELAY_PEER, 0, span_str("nobody")));
        ck_assert_uint_eq(peers_boot(cluster.nodes[0].peers, 1), 0);
        exchange(100);
        /* Nobody listens there: told once, however often that is found. */
        test_run_until(&cluster, zero_and_two_found_one_gone, 5);
        ck_assert_uint_lt(uv_hrtime() - lost_at, 1500000000);
        test_run_for(&cluster, 300);
        test_node_start(&cluster, 1, boot, "");
        for (unsigned i = 0; i < 3; i++)
            traffic.sent[1][i] = traffic.got[1][i] = 0;
        test_run_until(&cluster, test_all_alive, 10);
        ck_assert_uint_eq(cluster.nodes[0].boots[1], boot);
        ck_assert(
            !peers_send(cluster.nodes[0].peers, 1, 0, RELAY_PEER, boot - 1, span_str("late")));
    }
    exchange(100);
    ck_assert_uint_eq(cluster.nodes[0].ups[1], 6);
    ck_assert_uint_eq(cluster.nodes[0].downs[1], 5);
    ck_assert_uint_eq(cluster.nodes[0].gones[1], 5);
    ck_assert_uint_eq(cluster.nodes[0].gones[2], 0);
    ck_assert_uint_eq(cluster.nodes[0].ups[2], 1);
    ck_assert_uint_ge(info_of(0, 1).stats.items_dropped, 10);
}
END_TEST

static void send_kind(enum relay_kind kind, uint32_t bucket)
{
    ck_assert(peers_send(cluster.nodes[0].peers, 1, bucket, kind, 0, span_str("tick")));
}

static bool one_has_four(struct test_cluster *unused)
{
    (void)unused;
    return cluster.nodes[1].items >= 4;
}

START_TEST(ticks_wait_for_company)
{
    start_all();
    struct peers *peers = cluster.nodes[0].peers;
    send_kind(RELAY_TICK, 0);
    send_kind(RELAY_TICK, 1);
    peers_flush(peers);
    ck_assert(!peers_flushed(peers));
    test_run_for(&cluster, 20); /* less than until its next heartbeat, as a rule */
    uint64_t before = info_of(0, 1).stats.frames_out;
    if (cluster.nodes[1].items == 0)
        ck_assert(!peers_flushed(peers));
    send_kind(RELAY_PEER, 2); /* takes them along */
    peers_flush(peers);
    ck_assert(peers_flushed(peers));
    send_kind(RELAY_TICK, 3);
    peers_flush(peers);
    ck_assert(!peers_flushed(peers));
    peers_hurry(peers);
    peers_flush(peers);
    ck_assert(peers_flushed(peers));
    ck_assert_uint_eq(info_of(0, 1).stats.frames_out, before + 2);
    test_run_until(&cluster, one_has_four, 10);
    ck_assert_uint_eq(cluster.nodes[1].items, 4);
}
END_TEST

/* --- A node in a process of its own, which can be stopped --- */

static pid_t start_child(uint32_t index, uint64_t boot)
{
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (uv_loop_fork(&cluster.loop) != 0)
        _exit(1);
    test_node_start(&cluster, index, boot, "");
    uv_run(&cluster.loop, UV_RUN_DEFAULT);
    _exit(1);
}

static bool all_alive_with_child(struct test_cluster *unused)
{
    (void)unused;
    return test_all_alive(&cluster) && cluster.nodes[0].alive[2] && cluster.nodes[1].alive[2];
}

static bool child_is_lost(struct test_cluster *unused)
{
    (void)unused;
    return !cluster.nodes[0].alive[2] && !cluster.nodes[1].alive[2];
}

START_TEST(a_stopped_node_costs_bounded_memory)
{
    pid_t child = start_child(2, 12);
    test_node_start(&cluster, 0, 10, "");
    test_node_start(&cluster, 1, 11, "");
    test_run_until(&cluster, all_alive_with_child, 10);
    begin_traffic();
    ck_assert_int_eq(kill(child, SIGSTOP), 0);
    uint64_t before = test_memory_bytes(), most = 0, queued = 0, taken = 0, refused = 0;
    uint64_t stopped_at = uv_hrtime();
    /* Until it is given up: everything that is offered beyond the bound is refused at once. */
    while (cluster.nodes[0].alive[2]) {
        for (int i = 0; i < 20; i++) {
            bool ok = peers_send(cluster.nodes[0].peers, 2, 1, RELAY_PEER, 0,
                                 span_of(traffic.noise, 200000));
            taken += ok;
            refused += !ok;
        }
        queued = max_u64(queued, info_of(0, 2).queued_bytes);
        most = max_u64(most, test_memory_bytes());
        ck_assert(send_next(0, 1) && send_next(1, 0));
        uv_run(&cluster.loop, UV_RUN_ONCE);
        ck_assert_uint_lt(uv_hrtime() - stopped_at, 10000000000);
    }
    ck_assert_uint_gt(refused, 0);
    ck_assert_uint_gt(taken, 0);
    ck_assert_uint_le(queued, PEER_QUEUE_BYTES + 201000);
    ck_assert_uint_le(most, before + 4 * PEER_QUEUE_BYTES);
    test_run_until(&cluster, child_is_lost, 10);
    ck_assert_uint_eq(info_of(0, 2).queued_bytes, 0);
    ck_assert_uint_eq(info_of(0, 2).stats.items_dropped + info_of(0, 2).stats.items_out,
                      taken + refused);
    /* Nobody else noticed. */
    test_run_until(&cluster, all_got, 10);
    ck_assert_uint_eq(cluster.nodes[0].downs[1], 0);

    ck_assert_int_eq(kill(child, SIGCONT), 0);
    test_run_until(&cluster, all_alive_with_child, 10);
    ck_assert_uint_eq(cluster.nodes[0].boots[2], 12);
    kill(child, SIGKILL);
    test_run_until(&cluster, child_is_lost, 10);
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
}
END_TEST

static bool name_warned(struct test_cluster *unused)
{
    (void)unused;
    return test_text_has(&cluster.nodes[0].log_text, "peer.name_unknown node=2");
}

START_TEST(an_unknown_name_holds_nobody_up)
{
    char more[128];
    snprintf(more, sizeof more,
             "network: {peers: '127.0.0.1:%u,localhost:%u,no-such-name.invalid:1'}",
             cluster.ports[0], cluster.ports[1]);
    test_node_start(&cluster, 0, 10, more);
    test_node_start(&cluster, 1, 11, more);
    test_run_until(&cluster, test_all_alive, 10);
    test_run_until(&cluster, name_warned, 30);
    ck_assert_uint_eq(cluster.nodes[0].downs[1], 0);
}
END_TEST

START_TEST(a_port_in_use_is_an_error)
{
    test_node_start(&cluster, 0, 10, "");
    struct test_node *node = &cluster.nodes[0];
    struct peers_config config = {.config = &node->config, .log = &node->log, .boot = 1};
    struct peers_callbacks callbacks = {.ctx = node};
    struct peers *second;
    ck_assert_int_eq(peers_new(&cluster.loop, &config, &callbacks, &second), ERR_IO);
    ck_assert(test_text_has(&node->log_text, "peers.listen_failed"));
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("peers");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_set_timeout(tcase, 120);
    tcase_add_test(tcase, nodes_meet_and_tell_of_themselves);
    tcase_add_test(tcase, items_pass_whole_and_in_order);
    tcase_add_test(tcase, a_node_comes_back_with_a_new_boot);
    tcase_add_test(tcase, ticks_wait_for_company);
    tcase_add_test(tcase, a_stopped_node_costs_bounded_memory);
    tcase_add_test(tcase, an_unknown_name_holds_nobody_up);
    tcase_add_test(tcase, a_port_in_use_is_an_error);
    Suite *suite = suite_create("peers");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
