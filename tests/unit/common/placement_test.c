/* Placement: the same everywhere and for ever, evenly spread, and still where nodes are added. */
#include "common/placement.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

START_TEST(it_never_changes)
{
    /* A cluster's data lies where these say: other values would lose it. */
    static const uint32_t expected[][3] = {
        {1, 2, 0}, {1, 0, 2}, {2, 1, 0}, {1, 0, 2}, {0, 2, 1}, {1, 0, 2},
    };
    uint32_t nodes[REPLICAS_MAX];
    for (uint32_t bucket = 0; bucket < sizeof expected / sizeof *expected; bucket++) {
        ck_assert_uint_eq(placement_replicas(bucket, 3, 3, nodes), 3);
        ck_assert_msg(memcmp(nodes, expected[bucket], sizeof expected[bucket]) == 0,
                      "bucket %u: %u %u %u", bucket, nodes[0], nodes[1], nodes[2]);
    }
    ck_assert_uint_eq(placement_replicas(1023, 1024, 1, nodes), 1);
    ck_assert_uint_eq(nodes[0], 120);
}
END_TEST

/* README's table of how leaders spread. */
START_TEST(shares_are_those_that_are_documented)
{
    static const struct {
        uint32_t nodes, buckets, leads_min, leads_max, holds_min, holds_max, without_lead;
    } rows[] = {
        {3, 4, 0, 3, 4, 4, 1},         {3, 8, 2, 4, 8, 8, 0},         {3, 16, 5, 6, 16, 16, 0},
        {3, 64, 20, 22, 64, 64, 0},    {3, 256, 79, 92, 256, 256, 0}, {5, 4, 0, 1, 1, 4, 1},
        {5, 8, 1, 3, 3, 7, 0},         {5, 16, 1, 5, 7, 12, 0},       {5, 64, 11, 15, 33, 44, 0},
        {5, 256, 41, 61, 137, 171, 0}, {10, 4, 0, 1, 0, 3, 6},        {10, 8, 0, 2, 0, 6, 4},
        {10, 16, 0, 4, 1, 7, 1},       {10, 64, 4, 10, 15, 26, 0},    {10, 256, 12, 35, 66, 86, 0},
        {100, 256, 0, 7, 1, 15, 6},    {100, 1024, 3, 20, 20, 43, 0},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct placement_share shares[100];
        uint32_t leads_min = UINT32_MAX, leads_max = 0, holds_min = UINT32_MAX, holds_max = 0;
        uint32_t without_lead = 0;
        placement_count(rows[i].buckets, rows[i].nodes, 3, shares);
        for (uint32_t node = 0; node < rows[i].nodes; node++) {
            leads_min = shares[node].leads < leads_min ? shares[node].leads : leads_min;
            leads_max = shares[node].leads > leads_max ? shares[node].leads : leads_max;
            holds_min = shares[node].holds < holds_min ? shares[node].holds : holds_min;
            holds_max = shares[node].holds > holds_max ? shares[node].holds : holds_max;
            without_lead += shares[node].leads == 0;
        }
        ck_assert_uint_eq(leads_min, rows[i].leads_min);
        ck_assert_uint_eq(leads_max, rows[i].leads_max);
        ck_assert_uint_eq(holds_min, rows[i].holds_min);
        ck_assert_uint_eq(holds_max, rows[i].holds_max);
        ck_assert_uint_eq(without_lead, rows[i].without_lead);
    }
}
END_TEST

START_TEST(replicas_are_different_nodes)
{
    uint32_t nodes[REPLICAS_MAX];
    for (uint32_t count = 1; count <= 12; count++) {
        for (uint32_t factor = 1; factor <= REPLICAS_MAX; factor++) {
            for (uint32_t bucket = 0; bucket < 64; bucket++) {
                unsigned got = placement_replicas(bucket, count, factor, nodes);
                ck_assert_uint_eq(got, factor < count ? factor : count);
                uint32_t seen = 0;
                for (unsigned i = 0; i < got; i++) {
                    ck_assert_uint_lt(nodes[i], count);
                    ck_assert_uint_eq(seen & 1u << nodes[i], 0);
                    seen |= 1u << nodes[i];
                }
                for (uint32_t node = 0; node < count; node++)
                    ck_assert(placement_holds(bucket, count, factor, node) == (seen >> node & 1));
            }
        }
    }
}
END_TEST

START_TEST(fewer_copies_are_a_prefix_of_more)
{
    uint32_t more[REPLICAS_MAX], fewer[REPLICAS_MAX];
    for (uint32_t bucket = 0; bucket < 256; bucket++) {
        placement_replicas(bucket, 10, 5, more);
        placement_replicas(bucket, 10, 2, fewer);
        ck_assert(memcmp(more, fewer, 2 * sizeof *more) == 0);
    }
}
END_TEST

/* Copies and first choices of 1,024 buckets: as even as throwing dice gives, that is within four
 * standard deviations of the mean. */
static const uint32_t node_counts[] = {3, 5, 10, 100};

START_TEST(nodes_get_equal_shares)
{
    uint32_t nodes[REPLICAS_MAX], count = node_counts[_i];
    unsigned copies[100] = {0}, leads[100] = {0}, least = 1024, most = 0;
    const unsigned buckets = 1024;
    for (uint32_t bucket = 0; bucket < buckets; bucket++) {
        placement_replicas(bucket, count, 3, nodes);
        leads[nodes[0]]++;
        for (unsigned i = 0; i < 3; i++)
            copies[nodes[i]]++;
    }
    double share = 3.0 / count, lead = 1.0 / count;
    double copies_spread = 4 * sqrt(buckets * share * (1 - share));
    double leads_spread = 4 * sqrt(buckets * lead * (1 - lead));
    for (uint32_t node = 0; node < count; node++) {
        ck_assert_double_le(fabs(copies[node] - buckets * share), copies_spread);
        ck_assert_double_le(fabs(leads[node] - buckets * lead), leads_spread);
        least = leads[node] < least ? leads[node] : least;
        most = leads[node] > most ? leads[node] : most;
    }
    printf("%u nodes: %u to %u of %u buckets lead\n", count, least, most, buckets);
}
END_TEST

START_TEST(a_new_node_takes_and_nothing_else_moves)
{
    uint32_t before[REPLICAS_MAX], after[REPLICAS_MAX], count = node_counts[_i];
    unsigned taken = 0;
    for (uint32_t bucket = 0; bucket < 1024; bucket++) {
        placement_replicas(bucket, count, 3, before);
        placement_replicas(bucket, count + 1, 3, after);
        /* The new list is the old one, perhaps with the new node put in and the last left out. */
        unsigned from = 0;
        for (unsigned i = 0; i < 3; i++) {
            if (after[i] == count)
                taken++;
            else
                ck_assert_uint_eq(after[i], before[from++]);
        }
    }
    double expected = 1024 * 3.0 / (count + 1);
    ck_assert_double_le(fabs(taken - expected), 4 * sqrt(expected));
}
END_TEST

int main(void)
{
    TCase *tcase = tcase_create("placement");
    tcase_add_test(tcase, it_never_changes);
    tcase_add_test(tcase, shares_are_those_that_are_documented);
    tcase_add_test(tcase, replicas_are_different_nodes);
    tcase_add_test(tcase, fewer_copies_are_a_prefix_of_more);
    tcase_add_loop_test(tcase, nodes_get_equal_shares, 0, 4);
    tcase_add_loop_test(tcase, a_new_node_takes_and_nothing_else_moves, 0, 4);
    Suite *suite = suite_create("placement");
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
