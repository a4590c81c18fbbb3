/* Time and processes as the test wants them. */
#include "tests/unit/supervisor/supervisor_support.h"

#include <stdio.h>

struct supervisor s;
uint64_t now_ms;
static uint64_t last_number;
uint64_t boots[CHILDREN];
unsigned starts[CHILDREN], kills[CHILDREN], let_gos[CHILDREN], ready_calls;
bool start_fails;
struct buf outboxes[CHILDREN];

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

void setup_with(bool buckets_stop_first)
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

void setup(void)
{
    setup_with(false);
}

void teardown(void)
{
    supervisor_release(&s);
    for (unsigned i = 0; i < CHILDREN; i++)
        buf_release(&outboxes[i]);
}

void pass(uint64_t ms)
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

struct msg take(unsigned child, enum msg_tag tag)
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

void check_none(unsigned child, enum msg_tag tag)
{
    struct span rest = buf_span(&outboxes[child]);
    struct msg msg;
    while (rest.len > 0) {
        ck_assert_int_eq(msg_unpack(&rest, &msg), ERR_OK);
        ck_assert_int_ne(msg.tag, tag);
    }
}

uint64_t told_state(uint32_t bucket)
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

void say(unsigned child, struct msg msg)
{
    supervisor_on_message(&s, child, &msg, now_ms);
    supervisor_tick(&s, now_ms);
}

void linked(unsigned child)
{
    supervisor_on_linked(&s, child, now_ms);
    supervisor_tick(&s, now_ms);
}

void ready(unsigned child)
{
    say(child, (struct msg){.tag = TAG_child_ready});
}

void ended_as(unsigned child, bool again)
{
    boots[child] = 0;
    buf_clear(&outboxes[child], 4096);
    supervisor_on_exit(&s, child, again ? "exit 75" : "signal 9", again, now_ms);
    supervisor_tick(&s, now_ms);
}

void ended(unsigned child)
{
    ended_as(child, false);
}

uint64_t make_link(unsigned child)
{
    uint64_t link = take(child, TAG_link_listen).u.link_listen.link;
    say(child, (struct msg){.tag = TAG_link_listening, .u.link_listening.link = link});
    ck_assert_uint_eq(take(0, TAG_link_dial).u.link_dial.link, link);
    say(0, (struct msg){.tag = TAG_link_state, .u.link_state = {.link = link, .up = true}});
    return link;
}

void all_up(void)
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
