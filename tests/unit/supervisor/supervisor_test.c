/* The supervisor's decisions, with time and processes played by the test. Two buckets: children 0
 * (netd), 1 and 2. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "supervisor/supervisor.h"

#define CHILDREN 3

static struct supervisor s;
static uint64_t now_ms;
static uint64_t last_number;
static uint64_t boots[CHILDREN]; /* of the running process; 0: none */
static unsigned starts[CHILDREN], kills[CHILDREN], let_gos[CHILDREN], ready_calls;
static bool start_fails;
static struct buf outboxes[CHILDREN];

static uint64_t next_number(void *ctx)
{
    (void)ctx;
    return ++last_number;
}

static bool start(void *ctx, unsigned child, uint64_t boot)
{
    (void)ctx;
    ck_assert_uint_eq(boots[child], 0); /* never two of a kind */
    starts[child]++;
    if (start_fails)
        return false;
    boots[child] = boot;
    return true;
}

static void kill_process(void *ctx, unsigned child)
{
    (void)ctx;
    ck_assert_uint_ne(boots[child], 0);
    kills[child]++;
}

static struct buf *outbox(void *ctx, unsigned child)
{
    (void)ctx;
    return &outboxes[child];
}

static void let_go(void *ctx, unsigned child)
{
    (void)ctx;
    let_gos[child]++;
}

static void link_path(void *ctx, uint32_t bucket, uint64_t link,
                      char path[static IPC_PATH_LEN_MAX + 1])
{
    (void)ctx;
    snprintf(path, IPC_PATH_LEN_MAX + 1, "/run/netd-b%u.%lu.ipc", bucket, link);
}

static void node_ready(void *ctx)
{
    (void)ctx;
    ready_calls++;
}

static void no_log(void *ctx, enum log_level level, const char *line)
{
    (void)ctx;
    (void)level;
    (void)line;
}

static const struct log log_handle = {.proc = "test", .sink = no_log};

static void setup_with(bool buckets_stop_first)
{
    static const uint32_t buckets[] = {0, 1};
    struct supervisor_config config = {.backoff_ms_max = 10000,
                                       .crash_limit = 5,
                                       .stop_timeout_ms = 3000,
                                       .buckets_stop_first = buckets_stop_first};
    struct supervisor_ops ops = {.next_number = next_number,
                                 .start = start,
                                 .kill = kill_process,
                                 .outbox = outbox,
                                 .let_go = let_go,
                                 .link_path = link_path,
                                 .node_ready = node_ready};
    now_ms = 1000000;
    supervisor_init(&s, &config, 4, buckets, 2, &ops, &log_handle);
}

static void setup(void)
{
    setup_with(false);
}

static void teardown(void)
{
    supervisor_release(&s);
    for (unsigned i = 0; i < CHILDREN; i++)
        buf_release(&outboxes[i]);
}

/* Lets time pass as the shell does: called exactly when it asked to be. */
static void pass(uint64_t ms)
{
    uint64_t end_ms = now_ms + ms;
    for (;;) {
        uint64_t next_ms = supervisor_tick(&s, now_ms);
        if (next_ms > end_ms)
            break;
        now_ms = next_ms > now_ms ? next_ms : now_ms + 1;
    }
    now_ms = end_ms;
    supervisor_tick(&s, now_ms);
}

/* The next message to a child of this kind of tag; others before it are skipped. */
static struct msg take(unsigned child, enum msg_tag tag)
{
    static uint8_t bytes[CHILDREN][4096];
    struct msg msg;
    struct span all = buf_span(&outboxes[child]);
    ck_assert_uint_le(all.len, sizeof bytes[child]);
    memcpy(bytes[child], all.ptr, all.len);
    struct span rest = span_of(bytes[child], all.len);
    while (rest.len > 0) {
        ck_assert_int_eq(msg_unpack(&rest, &msg), ERR_OK);
        if (msg.tag == tag) {
            buf_consume(&outboxes[child], all.len - rest.len);
            return msg;
        }
    }
    ck_abort_msg("no message %s for child %u", msg_name(tag), child);
    return msg;
}

/* Nothing of this tag waits for the child. */
static void check_none(unsigned child, enum msg_tag tag)
{
    struct span rest = buf_span(&outboxes[child]);
    struct msg msg;
    while (rest.len > 0) {
        ck_assert_int_eq(msg_unpack(&rest, &msg), ERR_OK);
        ck_assert_int_ne(msg.tag, tag);
    }
}

/* The last bucket_state that netd was told of this bucket; forgets all that waits. */
static uint64_t told_state(uint32_t bucket)
{
    uint64_t state = UINT64_MAX;
    struct span rest = buf_span(&outboxes[0]);
    struct msg msg;
    while (rest.len > 0) {
        ck_assert_int_eq(msg_unpack(&rest, &msg), ERR_OK);
        if (msg.tag == TAG_bucket_state && msg.u.bucket_state.bucket == bucket)
            state = msg.u.bucket_state.state;
    }
    buf_clear(&outboxes[0], 4096);
    return state;
}

static void say(unsigned child, struct msg msg)
{
    supervisor_on_message(&s, child, &msg, now_ms);
    supervisor_tick(&s, now_ms);
}

static void linked(unsigned child)
{
    supervisor_on_linked(&s, child, now_ms);
    supervisor_tick(&s, now_ms);
}

static void ready(unsigned child)
{
    say(child, (struct msg){.tag = TAG_child_ready});
}

static void ended_as(unsigned child, bool again)
{
    boots[child] = 0;
    buf_clear(&outboxes[child], 4096);
    supervisor_on_exit(&s, child, again ? "exit 75" : "signal 9", again, now_ms);
    supervisor_tick(&s, now_ms);
}

static void ended(unsigned child)
{
    ended_as(child, false);
}

/* The bucketd listens, netd dials and reports the link as up. Returns its number. */
static uint64_t make_link(unsigned child)
{
    uint64_t link = take(child, TAG_link_listen).u.link_listen.link;
    say(child, (struct msg){.tag = TAG_link_listening, .u.link_listening.link = link});
    ck_assert_uint_eq(take(0, TAG_link_dial).u.link_dial.link, link);
    say(0, (struct msg){.tag = TAG_link_state, .u.link_state = {.link = link, .up = true}});
    return link;
}

static void all_up(void)
{
    supervisor_start(&s, now_ms);
    for (unsigned i = 0; i < CHILDREN; i++) {
        linked(i);
        ready(i);
    }
    make_link(1);
    make_link(2);
    ck_assert_uint_eq(ready_calls, 1);
    buf_clear(&outboxes[0], 4096);
}

START_TEST(a_node_comes_up)
{
    supervisor_start(&s, now_ms);
    ck_assert_uint_eq(boots[0], 1);
    ck_assert_uint_eq(boots[1], 2);
    ck_assert_uint_eq(boots[2], 3);
    linked(0);
    ready(0);
    /* Buckets that this node doesn't run are down for netd. */
    struct msg msg = take(0, TAG_bucket_state);
    ck_assert_uint_eq(msg.u.bucket_state.state, BUCKET_STARTING);
    ck_assert_uint_eq(told_state(3), BUCKET_DOWN);
    linked(1);
    check_none(1, TAG_link_listen); /* recovers yet */
    ready(1);
    ck_assert_uint_eq(told_state(0), BUCKET_UP);
    msg = take(1, TAG_link_listen);
    ck_assert_uint_eq(msg.u.link_listen.peer_boot, boots[0]);
    ck_assert_uint_eq(msg.u.link_listen.link, 4);
    ck_assert(span_equal(msg.u.link_listen.path, span_str("/run/netd-b0.4.ipc")));
    check_none(0, TAG_link_dial); /* not before the other side listens */
    say(1, (struct msg){.tag = TAG_link_listening, .u.link_listening.link = 4});
    msg = take(0, TAG_link_dial);
    ck_assert_uint_eq(msg.u.link_dial.peer_boot, boots[1]);
    ck_assert(span_equal(msg.u.link_dial.path, span_str("/run/netd-b0.4.ipc")));
    say(0, (struct msg){.tag = TAG_link_state, .u.link_state = {.link = 4, .up = true}});
    ck_assert_uint_eq(ready_calls, 0);
    linked(2);
    ready(2);
    make_link(2);
    ck_assert_uint_eq(ready_calls, 1);
    ck_assert_uint_eq(supervisor_tick(&s, now_ms), UINT64_MAX); /* nothing to wait for */
}
END_TEST

START_TEST(a_process_without_a_sign_of_life_is_killed)
{
    supervisor_start(&s, now_ms);
    linked(0);
    linked(1);
    pass(HELLO_MS_MAX - 1);
    ck_assert_uint_eq(kills[2], 0);
    pass(1);
    ck_assert_uint_eq(kills[2], 1);
    pass(60000); /* recovery may take long, and one kill is enough */
    ck_assert_uint_eq(kills[1], 0);
    ck_assert_uint_eq(kills[2], 1);
    ended(2);
    pass(BACKOFF_MS_MIN);
    ck_assert_uint_eq(starts[2], 2);
}
END_TEST

START_TEST(a_process_that_fails_before_ready_is_throttled_and_then_down)
{
    supervisor_start(&s, now_ms);
    linked(0);
    ready(0);
    static const uint64_t pauses_ms[] = {100, 200, 400, 800};
    for (unsigned i = 0; i < 4; i++) {
        ended(1);
        ck_assert_int_eq(s.children[1].state, CHILD_BACKOFF);
        ck_assert_uint_eq(told_state(0), BUCKET_STARTING);
        pass(pauses_ms[i] - 1);
        ck_assert_uint_eq(starts[1], i + 1);
        pass(1);
        ck_assert_uint_eq(starts[1], i + 2);
        ck_assert_int_eq(s.children[1].state, CHILD_STARTING);
    }
    ended(1);
    ck_assert_int_eq(s.children[1].state, CHILD_DOWN);
    ck_assert_uint_eq(told_state(0), BUCKET_DOWN);
    pass(9999);
    ck_assert_uint_eq(starts[1], 5);
    pass(1);
    ck_assert_uint_eq(starts[1], 6);
    ck_assert_uint_eq(told_state(0), UINT64_MAX); /* still down: it was only tried */
    ended(1);
    ck_assert_int_eq(s.children[1].state, CHILD_DOWN);
    pass(10000);
    linked(1);
    ready(1);
    ck_assert_uint_eq(told_state(0), BUCKET_UP);
    ck_assert_int_eq(s.children[1].state, CHILD_UP);
    ended(1); /* it had been ready: a fresh count */
    ck_assert_int_eq(s.children[1].state, CHILD_STARTING);
    ck_assert_uint_eq(told_state(0), BUCKET_STARTING);
}
END_TEST

START_TEST(a_process_that_had_worked_is_started_at_once)
{
    all_up();
    for (unsigned i = 0; i < QUICK_RESTARTS_MAX; i++) {
        ended(1);
        ck_assert_int_eq(s.children[1].state, CHILD_STARTING);
        linked(1);
        ready(1);
    }
    ended(1); /* a habit: one a second from here on */
    ck_assert_int_eq(s.children[1].state, CHILD_BACKOFF);
    unsigned before = starts[1];
    pass(999);
    ck_assert_uint_eq(starts[1], before);
    pass(1);
    ck_assert_uint_eq(starts[1], before + 1);
    linked(1);
    ready(1);
    pass(60000); /* it lived: all is forgiven */
    ended(1);
    ck_assert_int_eq(s.children[1].state, CHILD_STARTING);
    ck_assert_uint_eq(s.children[1].quick_tokens, QUICK_RESTARTS_MAX - 1);
}
END_TEST

START_TEST(a_process_that_cannot_be_spawned_counts_as_failed)
{
    start_fails = true;
    supervisor_start(&s, now_ms);
    ck_assert_int_eq(s.children[1].state, CHILD_BACKOFF);
    start_fails = false;
    pass(100);
    ck_assert_int_eq(s.children[1].state, CHILD_STARTING);
}
END_TEST

START_TEST(a_link_that_does_not_come_up_is_made_anew)
{
    all_up();
    ended(1);
    linked(1);
    ready(1);
    uint64_t first = take(1, TAG_link_listen).u.link_listen.link;
    pass(INTRODUCE_MS_MAX - 1);
    check_none(1, TAG_link_listen);
    pass(1);
    uint64_t second = take(1, TAG_link_listen).u.link_listen.link;
    ck_assert_uint_gt(second, first);
    /* What comes late about the first changes nothing. */
    buf_clear(&outboxes[0], 4096);
    say(1, (struct msg){.tag = TAG_link_listening, .u.link_listening.link = first});
    check_none(0, TAG_link_dial);
    say(0, (struct msg){.tag = TAG_link_state, .u.link_state = {.link = first, .up = true}});
    ck_assert_int_eq(s.children[1].introduction, INTRODUCTION_LISTENING);
    /* netd never reports it: the second try gets twice the time. */
    say(1, (struct msg){.tag = TAG_link_listening, .u.link_listening.link = second});
    ck_assert_uint_eq(take(0, TAG_link_dial).u.link_dial.link, second);
    pass(2 * INTRODUCE_MS_MAX - 1);
    check_none(1, TAG_link_listen);
    pass(1);
    uint64_t third = make_link(1);
    ck_assert_int_eq(s.children[1].introduction, INTRODUCTION_UP);
    /* Lost while both live: at once again. */
    say(0, (struct msg){.tag = TAG_link_state, .u.link_state = {.link = third, .up = false}});
    ck_assert_uint_gt(make_link(1), third);
}
END_TEST

START_TEST(a_new_netd_is_introduced_to_all)
{
    all_up();
    uint64_t old_boot = boots[0];
    ended(0);
    ck_assert_int_eq(s.children[1].introduction, INTRODUCTION_NONE);
    ck_assert_uint_gt(boots[0], old_boot);
    check_none(1, TAG_link_listen);
    linked(0);
    for (unsigned i = 1; i < CHILDREN; i++) {
        struct msg msg = take(i, TAG_link_listen);
        ck_assert_uint_eq(msg.u.link_listen.peer_boot, boots[0]);
    }
    ck_assert_uint_eq(told_state(1), BUCKET_UP);
    ck_assert_uint_eq(starts[1] + starts[2], 2); /* the buckets live on */
}
END_TEST

START_TEST(a_lost_supervisor_link_ends_the_process)
{
    all_up();
    supervisor_on_unlinked(&s, 2, now_ms);
    pass(LEAVE_MS_MAX - 1);
    ck_assert_uint_eq(kills[2], 0);
    pass(1);
    ck_assert_uint_eq(kills[2], 1);
    ended(2);
    ck_assert_int_eq(s.children[2].state, CHILD_STARTING);
}
END_TEST

START_TEST(stop_is_netd_first_then_the_buckets)
{
    all_up();
    supervisor_stop(&s, now_ms);
    ck_assert_uint_eq(take(0, TAG_stop).u.stop.deadline_ms, 3000);
    check_none(1, TAG_stop);
    say(0, (struct msg){.tag = TAG_bye});
    ck_assert_uint_eq(let_gos[0], 1);
    check_none(1, TAG_stop); /* it said bye, but it lives */
    ended(0);
    take(1, TAG_stop);
    take(2, TAG_stop);
    say(1, (struct msg){.tag = TAG_bye});
    ended(1);
    ck_assert_int_eq(s.stopping, STOP_BUCKETS);
    pass(2999);
    ck_assert_uint_eq(kills[2], 0);
    pass(1);
    ck_assert_uint_eq(kills[2], 1); /* too slow */
    ended(2);
    ck_assert_int_eq(s.stopping, STOP_DONE);
    ck_assert_uint_eq(starts[0] + starts[1] + starts[2], 3);
    ck_assert(!s.gave_up);
}
END_TEST

START_TEST(a_process_that_said_bye_must_leave)
{
    all_up();
    supervisor_stop(&s, now_ms);
    say(0, (struct msg){.tag = TAG_bye});
    pass(LEAVE_MS_MAX);
    ck_assert_uint_eq(kills[0], 1);
}
END_TEST

START_TEST(stop_in_a_cluster_is_the_buckets_first_then_netd)
{
    teardown();
    setup_with(true);
    all_up();
    uint64_t boot = boots[1];
    supervisor_stop(&s, now_ms);
    check_none(0, TAG_stop);
    ck_assert_uint_eq(take(1, TAG_stop).u.stop.deadline_ms, 2250); /* netd gets the rest */
    take(2, TAG_stop);
    say(1, (struct msg){.tag = TAG_bye});
    ended(1);
    struct msg msg = take(0, TAG_bucket_ended); /* the other nodes needn't find out by waiting */
    ck_assert_uint_eq(msg.u.bucket_ended.bucket, 0);
    ck_assert_uint_eq(msg.u.bucket_ended.boot, boot);
    pass(2249);
    ck_assert_uint_eq(kills[2], 0);
    check_none(0, TAG_stop);
    pass(1);
    ck_assert_uint_eq(kills[2], 1); /* too slow */
    ended(2);
    ck_assert_uint_eq(take(0, TAG_stop).u.stop.deadline_ms, 750);
    ck_assert_int_eq(s.stopping, STOP_NETD);
    pass(749);
    ck_assert_uint_eq(kills[0], 0);
    pass(1);
    ck_assert_uint_eq(kills[0], 1); /* all within the time for a stop */
    ended(0);
    ck_assert_int_eq(s.stopping, STOP_DONE);
    ck_assert_uint_eq(starts[0] + starts[1] + starts[2], 3);
}
END_TEST

START_TEST(a_netd_that_dies_while_the_buckets_stop_is_not_waited_for)
{
    teardown();
    setup_with(true);
    all_up();
    supervisor_stop(&s, now_ms);
    ended(0);
    ck_assert_int_eq(s.stopping, STOP_BUCKETS);
    ended(1);
    ended(2);
    ck_assert_int_eq(s.stopping, STOP_DONE);
    ck_assert_uint_eq(starts[0], 1);
}
END_TEST

START_TEST(the_end_of_a_buckets_process_is_told)
{
    all_up();
    uint64_t boot = boots[2];
    ended(2);
    ck_assert_uint_gt(boots[2], boot);
    struct msg msg = take(0, TAG_bucket_ended);
    ck_assert_uint_eq(msg.u.bucket_ended.bucket, 1);
    ck_assert_uint_eq(msg.u.bucket_ended.boot, boot); /* not the new one's */
    ended(0);
    check_none(0, TAG_bucket_ended);
    ended(2); /* nobody to be told: netd isn't there yet */
    ck_assert_uint_eq(outboxes[0].len, 0);
}
END_TEST

START_TEST(a_process_that_ends_to_be_started_again_is_started_at_once)
{
    supervisor_start(&s, now_ms);
    for (unsigned i = 0; i < CHILDREN; i++)
        linked(i);
    for (unsigned i = 0; i < QUICK_RESTARTS_MAX; i++) {
        ended_as(1, true); /* before it was ready */
        ck_assert_int_eq(s.children[1].state, CHILD_STARTING);
        ck_assert_uint_eq(starts[1], i + 2);
        ck_assert_uint_eq(s.children[1].failures, 0);
    }
    ended_as(1, true); /* but not as fast as it can, for ever */
    ck_assert_int_eq(s.children[1].state, CHILD_BACKOFF);
    pass(1000);
    ck_assert_int_eq(s.children[1].state, CHILD_STARTING);
}
END_TEST

START_TEST(stop_during_the_start_kills_what_is_not_ready)
{
    supervisor_start(&s, now_ms);
    linked(1);
    supervisor_stop(&s, now_ms);
    ck_assert_uint_eq(kills[0], 1);
    ended(0);
    ck_assert_uint_eq(kills[1], 1);
    ck_assert_uint_eq(kills[2], 1);
    ended(1);
    ended(2);
    ck_assert_int_eq(s.stopping, STOP_DONE);
}
END_TEST

START_TEST(stop_twice_kills)
{
    all_up();
    supervisor_stop(&s, now_ms);
    supervisor_stop(&s, now_ms);
    ck_assert_uint_eq(kills[0], 1);
    ck_assert_uint_eq(kills[1], 1);
    ended(0);
    ended(1);
    ended(2);
    ck_assert_int_eq(s.stopping, STOP_DONE);
}
END_TEST

START_TEST(a_stop_reaches_what_waits_to_be_started)
{
    supervisor_start(&s, now_ms);
    linked(0);
    ready(0);
    ended(1);
    ended(2);
    supervisor_stop(&s, now_ms);
    ended(0);
    ck_assert_int_eq(s.stopping, STOP_DONE);
    pass(60000);
    ck_assert_uint_eq(starts[1], 1);
}
END_TEST

START_TEST(a_node_with_a_bucket_down_is_ready_too)
{
    supervisor_start(&s, now_ms);
    linked(0);
    ready(0);
    linked(1);
    ready(1);
    make_link(1);
    for (unsigned i = 0; i < 5; i++) {
        ck_assert_uint_eq(ready_calls, 0);
        if (i > 0)
            pass(5000);
        ended(2);
    }
    ck_assert_int_eq(s.children[2].state, CHILD_DOWN);
    ck_assert_uint_eq(ready_calls, 1);
}
END_TEST

START_TEST(the_operator_restarts_one_process)
{
    all_up();
    uint64_t old_boot = boots[1];
    supervisor_restart(&s, 1, now_ms);
    ck_assert_uint_eq(told_state(0), BUCKET_STARTING);
    take(1, TAG_stop);
    say(1, (struct msg){.tag = TAG_bye});
    ended(1);
    ck_assert_uint_gt(boots[1], old_boot);
    ck_assert_int_eq(s.children[1].state, CHILD_STARTING);
    ck_assert_uint_eq(s.children[1].restarts, 1);
    linked(1);
    ready(1);
    ck_assert_uint_eq(told_state(0), BUCKET_UP);
    ck_assert_uint_eq(starts[0] + starts[2], 2);
    make_link(1);
    ck_assert_uint_eq(ready_calls, 1); /* said once */
}
END_TEST

START_TEST(the_operator_tries_a_bucket_that_is_down)
{
    supervisor_start(&s, now_ms);
    linked(0);
    ready(0);
    for (unsigned i = 0; i < 5; i++) {
        ended(1);
        if (s.children[1].state == CHILD_BACKOFF)
            pass(10000);
    }
    ck_assert_int_eq(s.children[1].state, CHILD_DOWN);
    supervisor_restart(&s, 1, now_ms);
    ck_assert_int_eq(s.children[1].state, CHILD_STARTING);
    linked(1);
    ready(1);
    ck_assert_uint_eq(told_state(0), BUCKET_UP);
}
END_TEST

START_TEST(a_node_whose_netd_never_starts_gives_up)
{
    supervisor_start(&s, now_ms);
    for (unsigned i = 0; i < 5; i++) {
        ck_assert_int_eq(s.stopping, STOP_NONE);
        ended(0);
        pass(5000);
    }
    ck_assert(s.gave_up);
    ended(1);
    ended(2);
    ck_assert_int_eq(s.stopping, STOP_DONE);
    ck_assert_uint_eq(starts[0], 5);
}
END_TEST

START_TEST(a_netd_that_had_worked_is_tried_for_ever)
{
    all_up();
    ended(0);
    for (unsigned i = 0; i < 20; i++) {
        ended(0);
        pass(10000);
    }
    ck_assert(!s.gave_up);
    ck_assert_uint_eq(starts[0], 22);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("supervisor");
    TCase *tcase = tcase_create("supervisor");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, a_node_comes_up);
    tcase_add_test(tcase, a_process_without_a_sign_of_life_is_killed);
    tcase_add_test(tcase, a_process_that_fails_before_ready_is_throttled_and_then_down);
    tcase_add_test(tcase, a_process_that_had_worked_is_started_at_once);
    tcase_add_test(tcase, a_process_that_cannot_be_spawned_counts_as_failed);
    tcase_add_test(tcase, a_link_that_does_not_come_up_is_made_anew);
    tcase_add_test(tcase, a_new_netd_is_introduced_to_all);
    tcase_add_test(tcase, a_lost_supervisor_link_ends_the_process);
    tcase_add_test(tcase, stop_is_netd_first_then_the_buckets);
    tcase_add_test(tcase, a_process_that_said_bye_must_leave);
    tcase_add_test(tcase, stop_in_a_cluster_is_the_buckets_first_then_netd);
    tcase_add_test(tcase, a_netd_that_dies_while_the_buckets_stop_is_not_waited_for);
    tcase_add_test(tcase, the_end_of_a_buckets_process_is_told);
    tcase_add_test(tcase, a_process_that_ends_to_be_started_again_is_started_at_once);
    tcase_add_test(tcase, stop_during_the_start_kills_what_is_not_ready);
    tcase_add_test(tcase, stop_twice_kills);
    tcase_add_test(tcase, a_stop_reaches_what_waits_to_be_started);
    tcase_add_test(tcase, a_node_with_a_bucket_down_is_ready_too);
    tcase_add_test(tcase, the_operator_restarts_one_process);
    tcase_add_test(tcase, the_operator_tries_a_bucket_that_is_down);
    tcase_add_test(tcase, a_node_whose_netd_never_starts_gives_up);
    tcase_add_test(tcase, a_netd_that_had_worked_is_tried_for_ever);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
