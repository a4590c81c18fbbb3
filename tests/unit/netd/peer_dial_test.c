/* Names of nodes: what happens where they can't be looked up, or where that hangs. */
#include <check.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/assert.h"
#include "tests/unit/netd/peers_support.h"

/* What a lookup does. */
enum answer { ANSWER_ADDRESS, ANSWER_FAILURE, ANSWER_NEVER };

static enum answer answer;
static const char *address; /* of the name */
static unsigned lookups;
/* The one that hangs. */
static uv_getaddrinfo_t *hanging;
static uv_getaddrinfo_cb hanging_cb;
static struct test_cluster cluster;

struct reply {
    uv_timer_t timer;
    uv_getaddrinfo_t *request;
    uv_getaddrinfo_cb cb;
    int status;
    char port[8];
};

static void reply_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void on_reply(uv_timer_t *timer)
{
    struct reply *reply = timer->data;
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST, .ai_socktype = SOCK_STREAM}, *list = NULL;
    if (reply->status == 0)
        ASSERT(getaddrinfo(address, reply->port, &hints, &list) == 0);
    reply->cb(reply->request, reply->status, list);
    uv_close((uv_handle_t *)timer, reply_closed);
}

static void reply_soon(uv_getaddrinfo_t *request, uv_getaddrinfo_cb cb, int status,
                       const char *port)
{
    struct reply *reply = calloc(1, sizeof *reply);
    ASSERT(reply != NULL);
    *reply = (struct reply){.request = request, .cb = cb, .status = status};
    snprintf(reply->port, sizeof reply->port, "%s", port);
    uv_timer_init(&cluster.loop, &reply->timer);
    reply->timer.data = reply;
    uv_timer_start(&reply->timer, on_reply, 1, 0);
}

/* In place of libuv's: a program's own come first. */
int uv_getaddrinfo(uv_loop_t *loop, uv_getaddrinfo_t *request, uv_getaddrinfo_cb cb,
                   const char *node, const char *service, const struct addrinfo *hints)
{
    ASSERT(loop == &cluster.loop && strcmp(node, "localhost") == 0 && hints != NULL);
    lookups++;
    if (answer == ANSWER_NEVER) {
        ASSERT(hanging == NULL);
        hanging = request;
        hanging_cb = cb;
    } else {
        reply_soon(request, cb, answer == ANSWER_ADDRESS ? 0 : UV_EAI_AGAIN, service);
    }
    return 0;
}

int uv_cancel(uv_req_t *request)
{
    if (request != (uv_req_t *)hanging)
        return UV_EBUSY;
    hanging = NULL;
    reply_soon((uv_getaddrinfo_t *)request, hanging_cb, UV_EAI_CANCELED, "0");
    return 0;
}

/* Node 0 knows node 1 by name. It listens at an address that isn't 0.0.0.0 by another name. */
static void start(uint32_t index, uint64_t boot)
{
    char more[96] = "";
    if (index == 1)
        snprintf(more, sizeof more, "network: {cluster_address: '%s:%u'}", address,
                 cluster.ports[1]);
    test_node_start(&cluster, index, boot, more);
}

static void setup(void)
{
    answer = ANSWER_ADDRESS;
    address = "127.0.0.2";
    lookups = 0;
    hanging = NULL;
    test_cluster_init(&cluster, 2);
    start(0, 10);
    start(1, 20);
    test_run_until(&cluster, test_all_alive, 10);
}

static void teardown(void)
{
    test_cluster_release(&cluster);
}

static bool node_1_is_away(struct test_cluster *c)
{
    return !c->nodes[0].alive[1];
}

static bool is_asked(struct test_cluster *c)
{
    (void)c;
    return lookups >= 2;
}

/* Node 1 goes, is looked for, and comes again. */
static void away_and_back(uint64_t boot)
{
    lookups = 0;
    test_node_stop(&cluster.nodes[1]);
    test_run_until(&cluster, node_1_is_away, 5);
    start(1, boot);
    test_run_until(&cluster, test_all_alive, 5);
}

START_TEST(a_name_that_is_unknown_now_means_what_it_meant_last)
{
    answer = ANSWER_FAILURE;
    away_and_back(21);
    ck_assert_uint_gt(lookups, 0);
    ck_assert(test_text_has(&cluster.nodes[0].log_text, "event=peer.name_unknown node=1"));
    /* Nobody was dialled that isn't meant, this node itself for one. */
    ck_assert(!test_text_has(&cluster.nodes[0].log_text, "event=peer.refused"));
}
END_TEST

START_TEST(a_lookup_that_hangs_is_not_waited_for)
{
    answer = ANSWER_NEVER;
    away_and_back(21);
    ck_assert_uint_eq(lookups, 1);
    ck_assert_ptr_nonnull(hanging);
    away_and_back(22); /* there is one lookup at a time */
    ck_assert_uint_eq(lookups, 0);
    /* Its answer comes at last; then the name is asked anew each time. */
    answer = ANSWER_ADDRESS;
    reply_soon(hanging, hanging_cb, 0, "1");
    hanging = NULL;
    test_run_for(&cluster, 50);
    ck_assert(test_all_alive(&cluster));
    away_and_back(23);
    ck_assert_uint_ge(lookups, 1);
}
END_TEST

START_TEST(another_address_is_found_behind_the_one_that_was_known)
{
    answer = ANSWER_NEVER;
    test_node_stop(&cluster.nodes[1]);
    test_run_until(&cluster, node_1_is_away, 5);
    address = "127.0.0.3";
    start(1, 21);
    test_run_for(&cluster, 1000);
    ck_assert(!cluster.nodes[0].alive[1]);
    char port[8];
    snprintf(port, sizeof port, "%u", cluster.ports[1]);
    answer = ANSWER_ADDRESS;
    reply_soon(hanging, hanging_cb, 0, port);
    hanging = NULL;
    test_run_until(&cluster, test_all_alive, 5);
}
END_TEST

START_TEST(a_name_that_was_never_known_is_asked_again)
{
    test_node_stop(&cluster.nodes[0]);
    lookups = 0;
    answer = ANSWER_FAILURE;
    start(0, 11);
    test_run_until(&cluster, is_asked, 5);
    answer = ANSWER_ADDRESS;
    test_run_until(&cluster, test_all_alive, 5);
}
END_TEST

START_TEST(a_node_that_leaves_does_not_wait_for_a_lookup)
{
    answer = ANSWER_NEVER;
    test_node_stop(&cluster.nodes[1]);
    test_run_for(&cluster, 300);
    ck_assert_ptr_nonnull(hanging);
    test_node_stop(&cluster.nodes[0]); /* teardown finds the loop empty */
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("peer_dial");
    TCase *tcase = tcase_create("peer_dial");
    tcase_set_timeout(tcase, 60);
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, a_name_that_is_unknown_now_means_what_it_meant_last);
    tcase_add_test(tcase, a_lookup_that_hangs_is_not_waited_for);
    tcase_add_test(tcase, another_address_is_found_behind_the_one_that_was_known);
    tcase_add_test(tcase, a_name_that_was_never_known_is_asked_again);
    tcase_add_test(tcase, a_node_that_leaves_does_not_wait_for_a_lookup);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
