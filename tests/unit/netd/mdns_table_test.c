/* Claims of where nodes are, and when packets about them go out. */
#include "netd/mdns_table.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "netd/mdns_schedule.h"

static struct mdns_table *table;
static struct mdns_endpoint list[MDNS_ENDPOINTS_MAX];

static void setup(void)
{
    table = mdns_table_new(3);
}

static void teardown(void)
{
    mdns_table_free(table);
}

static struct mdns_address address(unsigned last)
{
    return (struct mdns_address){.ip = {10, 0, (uint8_t)(last >> 8), (uint8_t)last}};
}

static struct mdns_endpoint endpoint(unsigned last)
{
    return (struct mdns_endpoint){address(last), 9190};
}

/* Sender 10.0.0.s says that node 1 is at these. */
static bool say(unsigned sender, uint64_t now_ms, unsigned a, unsigned b)
{
    struct mdns_announcement said = {.node = 1, .port = 9190, .ttl_s = 120};
    struct mdns_address from = address(sender);
    said.addresses[said.address_count++] = address(a);
    if (b != 0)
        said.addresses[said.address_count++] = address(b);
    return mdns_table_take(table, &said, &from, now_ms);
}

static void leave(unsigned sender)
{
    struct mdns_address from = address(sender);
    mdns_table_take(table, &(struct mdns_announcement){.node = 1}, &from, 1);
}

/* Last bytes of what is listed for node 1, as text. */
static const char *listed(uint64_t now_ms)
{
    static char text[128];
    size_t len = 0;
    unsigned count = mdns_table_list(table, 1, now_ms, list, MDNS_ENDPOINTS_MAX);
    text[0] = '\0';
    for (unsigned i = 0; i < count; i++)
        len += (size_t)snprintf(text + len, sizeof text - len, "%s%u", i > 0 ? " " : "",
                                list[i].address.ip[3]);
    return text;
}

START_TEST(what_is_said_is_listed_until_it_is_over)
{
    ck_assert_str_eq(listed(5), "");
    ck_assert(say(7, 1000, 7, 8));
    ck_assert(!say(7, 2000, 7, 8));
    ck_assert_str_eq(listed(2000), "7 8");
    ck_assert_uint_eq(list[0].port, 9190);
    ck_assert_uint_eq(mdns_table_list(table, 0, 2000, list, MDNS_ENDPOINTS_MAX), 0);
    ck_assert_uint_eq(mdns_table_list(table, 1, 2000, list, 1), 1);
    ck_assert_str_eq(listed(121999), "7 8");
    ck_assert_str_eq(listed(122000), "");
    ck_assert(say(7, 122000, 7, 8));
}
END_TEST

START_TEST(a_sender_has_one_claim)
{
    ck_assert(say(7, 1000, 7, 0));
    ck_assert(say(7, 1001, 9, 0));
    ck_assert_str_eq(listed(1001), "9");
    for (unsigned i = 0; i < 200; i++)
        say(7, 1002 + i, 20 + i, 0);
    ck_assert(say(8, 2000, 8, 0));
    ck_assert_str_eq(listed(2000), "8 219");
}
END_TEST

START_TEST(who_speaks_for_itself_comes_first)
{
    say(5, 1000, 50, 51);
    say(7, 1001, 70, 7);
    say(8, 1002, 8, 80);
    /* 7 and 8 for themselves; then a turn for each. */
    ck_assert_str_eq(listed(1003), "7 8 50 70 80 51");
}
END_TEST

START_TEST(only_its_own_goodbye_ends_a_claim)
{
    say(7, 1000, 7, 0);
    leave(8);
    ck_assert_str_eq(listed(1001), "7");
    leave(7);
    ck_assert_str_eq(listed(1001), "");
}
END_TEST

START_TEST(what_is_proven_stays_and_is_first)
{
    say(7, 1000, 7, 0);
    struct mdns_endpoint proven = endpoint(7), moved = endpoint(30);
    mdns_table_prove(table, 1, &proven);
    ck_assert_str_eq(listed(1001), "7");
    leave(7);
    /* A crowd, each with an address of its own. */
    for (unsigned i = 0; i < 10000; i++)
        say(100 + i, 2000 + i, 100 + i, 0);
    unsigned count = mdns_table_list(table, 1, 12000, list, MDNS_ENDPOINTS_MAX);
    ck_assert_uint_eq(count, 1 + MDNS_CLAIMS_MAX);
    ck_assert(mdns_endpoint_equal(&list[0], &proven));
    count = mdns_table_list(table, 1, 500000, list, MDNS_ENDPOINTS_MAX);
    ck_assert_uint_eq(count, 1);
    mdns_table_prove(table, 1, &moved);
    ck_assert_str_eq(listed(500000), "30");
}
END_TEST

START_TEST(the_oldest_claim_makes_room)
{
    for (unsigned sender = 1; sender <= MDNS_CLAIMS_MAX; sender++)
        say(sender, 1000 + sender, sender, 0);
    say(1, 2000, 1, 0); /* heard again */
    say(9, 3000, 9, 0);
    ck_assert_str_eq(listed(3000), "1 9 3 4");
}
END_TEST

/* --- The schedule --- */

/* Runs it tick by tick; what was sent goes to the two strings, as times since `from`. */
static void run(struct mdns_schedule *schedule, uint64_t from, uint64_t to, struct buf *announced,
                struct buf *asked)
{
    announced->len = asked->len = 0;
    for (uint64_t now_ms = from; now_ms < to; now_ms += 100) {
        if (mdns_schedule_announce(schedule, now_ms))
            buf_printf(announced, "%lu ", now_ms - from);
        if (mdns_schedule_ask(schedule, now_ms))
            buf_printf(asked, "%lu ", now_ms - from);
    }
    buf_append_zeros(announced, 1);
    buf_append_zeros(asked, 1);
}

START_TEST(announced_thrice_and_then_on_demand)
{
    struct mdns_schedule schedule = {0};
    struct buf announced = {0}, asked = {0};
    mdns_schedule_start(&schedule, 1000, 0);
    run(&schedule, 1000, 100000, &announced, &asked);
    ck_assert_str_eq((char *)announced.ptr, "100 1100 3100 ");
    ck_assert_str_eq((char *)asked.ptr, ""); /* nobody is missing */
    /* However many ask, once a second. */
    unsigned sent = 0;
    for (uint64_t now_ms = 100000; now_ms < 110000; now_ms += 100) {
        mdns_schedule_asked(&schedule, now_ms, 70);
        mdns_schedule_asked(&schedule, now_ms, 3);
        sent += mdns_schedule_announce(&schedule, now_ms);
    }
    ck_assert_uint_ge(sent, 9);
    ck_assert_uint_le(sent, 10);
    run(&schedule, 110000, 200000, &announced, &asked);
    ck_assert_uint_le(announced.len, 6); /* the last of them */
    buf_release(&announced);
    buf_release(&asked);
}
END_TEST

START_TEST(asked_less_and_less_while_one_is_missing)
{
    struct mdns_schedule schedule = {0};
    struct buf announced = {0}, asked = {0};
    mdns_schedule_missing(&schedule, true, false, 1000, 5);
    mdns_schedule_start(&schedule, 1000, 5);
    run(&schedule, 1000, 250000, &announced, &asked);
    ck_assert_str_eq((char *)asked.ptr,
                     "100 1100 3100 7100 15100 31100 63100 123100 183100 243100 ");
    mdns_schedule_missing(&schedule, false, false, 250000, 5);
    run(&schedule, 250000, 400000, &announced, &asked);
    ck_assert_str_eq((char *)asked.ptr, "");
    /* One is lost: at once, and so again where one more is. */
    mdns_schedule_missing(&schedule, true, true, 400000, 5);
    run(&schedule, 400000, 410000, &announced, &asked);
    ck_assert_str_eq((char *)asked.ptr, "100 1100 3100 7100 ");
    mdns_schedule_missing(&schedule, true, true, 410000, 5);
    run(&schedule, 410000, 411000, &announced, &asked);
    ck_assert_str_eq((char *)asked.ptr, "100 ");
    /* One that comes and goes all the time is asked for once a second. */
    unsigned sent = 0;
    for (uint64_t now_ms = 411000; now_ms < 421000; now_ms += 100) {
        mdns_schedule_missing(&schedule, false, false, now_ms, 5);
        mdns_schedule_missing(&schedule, true, true, now_ms, 5);
        sent += mdns_schedule_ask(&schedule, now_ms);
    }
    ck_assert_uint_ge(sent, 8);
    ck_assert_uint_le(sent, 10);
    buf_release(&announced);
    buf_release(&asked);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("mdns_table");
    TCase *tcase = tcase_create("claims");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, what_is_said_is_listed_until_it_is_over);
    tcase_add_test(tcase, a_sender_has_one_claim);
    tcase_add_test(tcase, who_speaks_for_itself_comes_first);
    tcase_add_test(tcase, only_its_own_goodbye_ends_a_claim);
    tcase_add_test(tcase, what_is_proven_stays_and_is_first);
    tcase_add_test(tcase, the_oldest_claim_makes_room);
    suite_add_tcase(suite, tcase);
    tcase = tcase_create("schedule");
    tcase_add_test(tcase, announced_thrice_and_then_on_demand);
    tcase_add_test(tcase, asked_less_and_less_while_one_is_missing);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
