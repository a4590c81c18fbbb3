/* The cluster in words: who leads, who lags, what is wrong. */
#include <check.h>
#include <stdlib.h>

#include "netd/cluster_view.h"

#define NODES   3u
#define BUCKETS 2u

static struct cluster_view view;
static char text[4096];

static void setup(void)
{
    view_init(&view, NODES, BUCKETS, 3);
    for (uint32_t i = 0; i < NODES; i++) {
        view.nodes[i].alive = true;
        view.nodes[i].boot = 100 + i;
        view.nodes[i].name = span_str(i == 0 ? "a:1" : i == 1 ? "b:1" : "c:1");
    }
}

static void teardown(void)
{
    view_release(&view);
}

static void hear(uint64_t bucket, uint64_t node, enum view_role role, uint64_t term,
                 uint64_t leader, uint64_t commit_idx)
{
    view_hear(&view, node,
              &(struct rec_gossip_bucket){.bucket = bucket,
                                          .state = BUCKET_UP,
                                          .role = role,
                                          .term = term,
                                          .leader = leader,
                                          .commit_idx = commit_idx,
                                          .last_idx = commit_idx,
                                          .ready = true});
}

/* Node 1 leads all. */
static void hear_all(void)
{
    for (uint32_t bucket = 0; bucket < BUCKETS; bucket++) {
        for (uint32_t node = 0; node < NODES; node++)
            hear(bucket, node, node == 1 ? VIEW_LEADER : VIEW_FOLLOWER, 5, 2, 70);
    }
}

/* All problems, a line each. */
static const char *finish(void)
{
    view_finish(&view);
    size_t len = 0;
    struct span list = buf_span(&view.problems);
    struct rec_report_problem problem;
    text[0] = '\0';
    while (rec_next_report_problem(&list, &problem) == ERR_OK) {
        ck_assert_uint_lt(len + problem.text.len + 2, sizeof text);
        memcpy(text + len, problem.text.ptr, problem.text.len);
        len += problem.text.len;
        text[len++] = '\n';
        text[len] = '\0';
    }
    return text;
}

static uint64_t leader_of(uint32_t bucket)
{
    uint32_t leader = view.buckets[bucket].leader;
    return leader == VIEW_NONE ? UINT64_MAX : view.replicas[leader].node;
}

START_TEST(nothing_is_wrong)
{
    hear_all();
    ck_assert_str_eq(finish(), "");
    ck_assert_int_eq(view.state, VIEW_OK);
    ck_assert_uint_eq(view.nodes_alive, 3);
    ck_assert_uint_eq(view.buckets_led, 2);
    ck_assert_uint_eq(leader_of(0), 1);
    ck_assert_uint_eq(view.nodes[1].leads, 2);
    ck_assert_uint_eq(view.nodes[0].leads, 0);
    ck_assert_uint_eq(view.nodes[2].replicas, 2);
    ck_assert(view_replica(&view, 1, 1)->leads);
    ck_assert(!view_replica(&view, 1, 0)->leads);
}
END_TEST

START_TEST(nothing_was_heard_yet)
{
    for (uint32_t i = 1; i < NODES; i++) {
        view.nodes[i].alive = false;
        view.nodes[i].boot = 0;
    }
    ck_assert_str_eq(finish(), "node 1 (b:1) was never heard\n"
                               "node 2 (c:1) was never heard\n"
                               "bucket 0 takes no appends: 0 of its 3 replicas are up, 2 are "
                               "needed\n"
                               "bucket 0: its process on node 0 is not heard of yet\n"
                               "bucket 1 takes no appends: 0 of its 3 replicas are up, 2 are "
                               "needed\n"
                               "bucket 1: its process on node 0 is not heard of yet\n");
    ck_assert_int_eq(view.state, VIEW_UNAVAILABLE);
    ck_assert_uint_eq(view.buckets_led, 0);
}
END_TEST

START_TEST(a_node_that_is_away_costs_no_bucket_its_quorum)
{
    hear_all(); /* what it said last is remembered, and counts no more */
    view.nodes[2].alive = false;
    view.nodes[2].since_ms = 12345;
    ck_assert_str_eq(finish(), "node 2 (c:1) is away for 12.3 s\n");
    ck_assert_int_eq(view.state, VIEW_DEGRADED);
    ck_assert_uint_eq(leader_of(0), 1);
}
END_TEST

START_TEST(a_leader_that_is_away_leads_nothing)
{
    hear_all();
    view.nodes[1].alive = false;
    ck_assert_str_eq(finish(), "node 1 (b:1) is away for 0.0 s\n"
                               "bucket 0 has no leader\nbucket 1 has no leader\n");
    ck_assert_int_eq(view.state, VIEW_UNAVAILABLE);
    ck_assert_uint_eq(leader_of(1), UINT64_MAX);
}
END_TEST

START_TEST(the_highest_term_tells_who_leads)
{
    hear_all();
    hear(0, 2, VIEW_LEADER, 6, 3, 71);   /* node 1 hasn't heard of its end */
    hear(1, 0, VIEW_FOLLOWER, 7, 3, 70); /* node 2 leads, its own word is older */
    finish();
    ck_assert_uint_eq(leader_of(0), 2);
    ck_assert_uint_eq(view.buckets[0].term, 6);
    ck_assert_uint_eq(leader_of(1), 2);
    ck_assert_uint_eq(view_replica(&view, 0, 1)->lag, 1);
}
END_TEST

START_TEST(an_election_under_way_has_no_leader)
{
    hear_all();
    hear(0, 0, VIEW_CANDIDATE, 6, 0, 70);
    ck_assert_str_eq(finish(), "bucket 0 has no leader\n");
    ck_assert_uint_eq(view.buckets_led, 1);
}
END_TEST

START_TEST(replicas_with_troubles)
{
    hear_all();
    struct rec_gossip_bucket heard = {
        .bucket = 0, .state = BUCKET_UP, .term = 5, .leader = 2, .commit_idx = 50};
    view_hear(&view, 0, &heard); /* not ready */
    heard.bucket = 1;
    heard.ready = heard.damaged = true;
    view_hear(&view, 0, &heard);
    view_hear(&view, 2, &(struct rec_gossip_bucket){.bucket = 1, .state = BUCKET_DOWN});
    view.nodes[2].health = NODE_STOPPING;
    ck_assert_str_eq(finish(),
                     "node 2 (c:1) is stopping\n"
                     "bucket 0: the replica on node 0 isn't up to date (20 entries behind)\n"
                     "bucket 1: the log on node 0 is damaged and waits for repair\n"
                     "bucket 1: its process on node 2 is down\n");
    ck_assert_int_eq(view.state, VIEW_DEGRADED);
    ck_assert_uint_eq(view_replica(&view, 0, 0)->lag, 20);
}
END_TEST

/* Gossip of a node that doesn't know its place, or of one of another configuration. */
START_TEST(words_about_what_is_not_there_are_passed_over)
{
    hear_all();
    hear(BUCKETS, 0, VIEW_LEADER, 9, 1, 70);
    hear(0, NODES, VIEW_LEADER, 9, 4, 70);
    hear(1, 0, VIEW_FOLLOWER, 9, 77, 70); /* led by a node that isn't one */
    ck_assert_str_eq(finish(), "bucket 1 has no leader\n");
    ck_assert_str_eq(view_role_name(77), "unknown");
    ck_assert_str_eq(view_health_name(77), "unknown");
    ck_assert_str_eq(view_process_name(BUCKET_DOWN), "down");
}
END_TEST

START_TEST(many_problems_are_counted)
{
    teardown();
    view_init(&view, 3, 64, 3);
    view.nodes[0].alive = true;
    finish();
    ck_assert_uint_eq(view.problem_count, 2 + 2 * 64);
    ck_assert_ptr_nonnull(strstr(text, "and 80 problems more\n"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("cluster_view");
    TCase *tcase = tcase_create("cluster_view");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, nothing_is_wrong);
    tcase_add_test(tcase, nothing_was_heard_yet);
    tcase_add_test(tcase, a_node_that_is_away_costs_no_bucket_its_quorum);
    tcase_add_test(tcase, a_leader_that_is_away_leads_nothing);
    tcase_add_test(tcase, the_highest_term_tells_who_leads);
    tcase_add_test(tcase, an_election_under_way_has_no_leader);
    tcase_add_test(tcase, replicas_with_troubles);
    tcase_add_test(tcase, words_about_what_is_not_there_are_passed_over);
    tcase_add_test(tcase, many_problems_are_counted);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
