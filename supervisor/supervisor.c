/* Life of the node's processes; see supervisor.h for the states. */
#include "supervisor/supervisor.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/assert.h"

static void start_child(struct supervisor *s, struct supervised *c, uint64_t now_ms);
static void child_failed(struct supervisor *s, struct supervised *c, uint64_t now_ms);
static void child_crashed(struct supervisor *s, struct supervised *c, uint64_t now_ms);
static void on_ready(struct supervisor *s, struct supervised *c, const struct msg_child_ready *m,
                     uint64_t now_ms);
static void ask_to_stop(struct supervisor *s, struct supervised *c, uint64_t timeout_ms,
                        uint64_t now_ms);
static void kill_child(struct supervisor *s, struct supervised *c, const char *why);
static void tick_child(struct supervisor *s, struct supervised *c, uint64_t now_ms);
static void go_on_stopping(struct supervisor *s, uint64_t now_ms);
static uint64_t stop_timeout_ms(const struct supervisor *s, uint64_t now_ms);
static void refill_tokens(struct supervised *c, uint64_t now_ms);
static void check_ready(struct supervisor *s);
static void enter(struct supervisor *s, struct supervised *c, enum child_state state);

static unsigned number_of(const struct supervisor *s, const struct supervised *c)
{
    return (unsigned)(c - s->children);
}

void supervisor_init(struct supervisor *s, const struct supervisor_config *config,
                     uint32_t bucket_count, const uint32_t *buckets, unsigned buckets_count,
                     const struct supervisor_ops *ops, const struct log *log)
{
    *s = (struct supervisor){.config = *config,
                             .ops = *ops,
                             .log = log,
                             .count = buckets_count + 1,
                             .bucket_count = bucket_count};
    s->children = calloc(s->count, sizeof *s->children);
    ASSERT(s->children != NULL);
    for (unsigned i = 0; i < s->count; i++)
        s->children[i] = (struct supervised){.kind = i == 0 ? CHILD_NETD : CHILD_BUCKETD,
                                             .index = i == 0 ? 0 : buckets[i - 1],
                                             .state = CHILD_BACKOFF,
                                             .kill_ms = UINT64_MAX,
                                             .quick_tokens = QUICK_RESTARTS_MAX};
}

void supervisor_release(struct supervisor *s)
{
    free(s->children);
    *s = (struct supervisor){0};
}

void supervisor_start(struct supervisor *s, uint64_t now_ms)
{
    for (unsigned i = 0; i < s->count && s->stopping == STOP_NONE; i++)
        start_child(s, &s->children[i], now_ms);
}

void supervisor_on_linked(struct supervisor *s, unsigned child, uint64_t now_ms)
{
    struct supervised *c = &s->children[child];
    (void)now_ms;
    c->linked = true;
    if (c->state == CHILD_STARTING)
        c->kill_ms = UINT64_MAX; /* recovery takes the time it takes */
    if (c->kind == CHILD_NETD)
        introduce_all_states(s);
}

void supervisor_on_unlinked(struct supervisor *s, unsigned child, uint64_t now_ms)
{
    struct supervised *c = &s->children[child];
    c->linked = false;
    introduce_forget(s, c);
    c->kill_ms = min_u64(c->kill_ms, now_ms + LEAVE_MS_MAX);
}

void supervisor_on_message(struct supervisor *s, unsigned child, const struct msg *msg,
                           uint64_t now_ms)
{
    struct supervised *c = &s->children[child];
    if (msg->tag == TAG_child_ready) {
        on_ready(s, c, &msg->u.child_ready, now_ms);
    } else if (msg->tag == TAG_link_listening && c->kind == CHILD_BUCKETD) {
        introduce_on_listening(s, c, &msg->u.link_listening, now_ms);
    } else if (msg->tag == TAG_link_state && c->kind == CHILD_NETD) {
        introduce_on_link_state(s, &msg->u.link_state, now_ms);
        check_ready(s);
    } else if (msg->tag == TAG_bye) {
        c->linked = false;
        introduce_forget(s, c);
        c->kill_ms = min_u64(c->kill_ms, now_ms + LEAVE_MS_MAX);
        s->ops.let_go(s->ops.ctx, child);
    }
}

static void on_ready(struct supervisor *s, struct supervised *c, const struct msg_child_ready *m,
                     uint64_t now_ms)
{
    if (c->state != CHILD_STARTING)
        return;
    c->recovery_us = m->recovery_us;
    c->ready_ms = now_ms;
    c->failures = 0;
    c->reported_down = false;
    char name[24];
    supervised_name(c, name);
    if (c->restarts > 0)
        log_info(s->log, "process.ready",
                 "process=%s boot=%lu after_ms=%lu recovery_ms=%lu restarts=%u", name, c->boot,
                 now_ms - c->started_ms, c->recovery_us / 1000, c->restarts);
    c->ever_ready = true;
    enter(s, c, CHILD_UP);
    introduce_bucket_state(s, c);
    check_ready(s);
}

/* netd listens, every bucket has recovered and has its link, or is down: said once. */
static void check_ready(struct supervisor *s)
{
    for (unsigned i = 0; i < s->count; i++) {
        const struct supervised *c = &s->children[i];
        if (c->kind == CHILD_BUCKETD && c->reported_down)
            continue;
        if (c->state != CHILD_UP ||
            (c->kind == CHILD_BUCKETD && c->introduction != INTRODUCTION_UP))
            return;
    }
    if (s->ready)
        return;
    s->ready = true;
    s->ops.node_ready(s->ops.ctx);
}

/* --- Starting and ending --- */

static void start_child(struct supervisor *s, struct supervised *c, uint64_t now_ms)
{
    ASSERT(!c->running);
    c->boot = s->ops.next_number(s->ops.ctx);
    c->linked = c->kill_sent = c->restart_asked = false;
    c->started_ms = now_ms;
    c->kill_ms = now_ms + HELLO_MS_MAX;
    enter(s, c, CHILD_STARTING);
    c->running = s->ops.start(s->ops.ctx, number_of(s, c), c->boot);
    if (!c->running)
        child_failed(s, c, now_ms);
}

void supervisor_on_exit(struct supervisor *s, unsigned child, const char *how, bool again,
                        uint64_t now_ms)
{
    struct supervised *c = &s->children[child];
    char name[24];
    supervised_name(c, name);
    bool wanted = c->state == CHILD_STOPPING;
    c->running = c->linked = false;
    c->kill_ms = UINT64_MAX;
    introduce_forget(s, c);
    introduce_bucket_ended(s, c);
    if (!wanted)
        log_event(s->log, again ? LOG_INFO : LOG_WARN, "process.ended",
                  "process=%s boot=%lu how=\"%s\" state=%s after_ms=%lu", name, c->boot,
                  again ? "to start again" : how, child_state_name(c->state),
                  now_ms - c->started_ms);
    if (s->stopping != STOP_NONE) {
        enter(s, c, CHILD_STOPPING);
        go_on_stopping(s, now_ms);
    } else if (wanted) {
        c->restarts++;
        start_child(s, c, now_ms);
        introduce_bucket_state(s, c);
    } else if (c->state == CHILD_UP || again) {
        child_crashed(s, c, now_ms);
    } else {
        child_failed(s, c, now_ms);
    }
}

/* It had worked: at once again, unless that has become a habit. */
static void child_crashed(struct supervisor *s, struct supervised *c, uint64_t now_ms)
{
    c->restarts++;
    refill_tokens(c, now_ms);
    if (c->quick_tokens > 0) {
        c->quick_tokens--;
        start_child(s, c, now_ms);
    } else {
        char name[24];
        supervised_name(c, name);
        log_error(s->log, "process.unstable", "process=%s restarts=%u pause_ms=1000", name,
                  c->restarts);
        c->start_ms = now_ms + 1000;
        enter(s, c, CHILD_BACKOFF);
    }
    introduce_bucket_state(s, c);
}

static void refill_tokens(struct supervised *c, uint64_t now_ms)
{
    uint64_t seconds = (now_ms - c->quick_refill_ms) / 1000;
    c->quick_tokens = (unsigned)min_u64(QUICK_RESTARTS_MAX, c->quick_tokens + seconds);
    c->quick_refill_ms += seconds * 1000;
}

/* It ended before it was ready. */
static void child_failed(struct supervisor *s, struct supervised *c, uint64_t now_ms)
{
    c->restarts++;
    c->failures++;
    uint64_t pause_ms = s->config.backoff_ms_max;
    if (c->failures < 32)
        pause_ms = min_u64(pause_ms, (uint64_t)BACKOFF_MS_MIN << (c->failures - 1));
    bool down = c->reported_down || c->failures >= s->config.crash_limit;
    if (down && c->kind == CHILD_NETD && !c->ever_ready) {
        log_error(s->log, "node.failed", "reason=\"netd doesn't start\" tries=%u", c->failures);
        s->gave_up = true;
        enter(s, c, CHILD_DOWN);
        supervisor_stop(s, now_ms);
        return;
    }
    c->start_ms = now_ms + (down ? s->config.backoff_ms_max : pause_ms);
    enter(s, c, down ? CHILD_DOWN : CHILD_BACKOFF);
    if (down && !c->reported_down) {
        char name[24];
        supervised_name(c, name);
        log_error(s->log, "process.down", "process=%s tries=%u next_try_ms=%lu", name, c->failures,
                  s->config.backoff_ms_max);
        c->reported_down = true;
        check_ready(s);
    }
    introduce_bucket_state(s, c);
}

void supervisor_restart(struct supervisor *s, unsigned child, uint64_t now_ms)
{
    struct supervised *c = &s->children[child];
    if (s->stopping != STOP_NONE)
        return;
    if (c->running) {
        c->restart_asked = true;
        ask_to_stop(s, c, s->config.stop_timeout_ms, now_ms);
    } else {
        c->failures = 0;
        c->quick_tokens = QUICK_RESTARTS_MAX;
        start_child(s, c, now_ms);
    }
}

/* --- Stopping --- */

/* A process that isn't ready yet has nothing to finish: recovery may be cut at any point. */
static void ask_to_stop(struct supervisor *s, struct supervised *c, uint64_t timeout_ms,
                        uint64_t now_ms)
{
    bool working = c->state == CHILD_UP && c->linked;
    if (c->state != CHILD_STOPPING) {
        enter(s, c, CHILD_STOPPING);
        introduce_bucket_state(s, c);
        c->kill_ms = min_u64(c->kill_ms, now_ms + timeout_ms);
        if (working)
            msg_pack_stop(s->ops.outbox(s->ops.ctx, number_of(s, c)),
                          &(struct msg_stop){.deadline_ms = timeout_ms});
        else
            kill_child(s, c, NULL);
    }
}

void supervisor_stop(struct supervisor *s, uint64_t now_ms)
{
    if (s->stopping == STOP_NONE) {
        s->stopping = s->config.buckets_stop_first ? STOP_BUCKETS : STOP_NETD;
        s->stop_asked_ms = now_ms;
        go_on_stopping(s, now_ms);
        return;
    }
    for (unsigned i = 0; i < s->count; i++) {
        if (s->children[i].running)
            kill_child(s, &s->children[i], "stop was asked for twice");
    }
}

static void go_on_stopping(struct supervisor *s, uint64_t now_ms)
{
    while (s->stopping != STOP_DONE) {
        bool netd = s->stopping == STOP_NETD;
        bool running = false;
        for (unsigned i = netd ? 0 : 1; i < (netd ? 1 : s->count); i++) {
            if (s->children[i].running) {
                running = true;
                ask_to_stop(s, &s->children[i], stop_timeout_ms(s, now_ms), now_ms);
            }
        }
        if (running)
            return;
        bool last = netd == s->config.buckets_stop_first;
        s->stopping = last ? STOP_DONE : netd ? STOP_BUCKETS : STOP_NETD;
    }
}

/* Of the phase that begins. A quarter of the whole is kept for netd where it comes last. */
static uint64_t stop_timeout_ms(const struct supervisor *s, uint64_t now_ms)
{
    uint64_t whole_ms = s->config.stop_timeout_ms;
    if (!s->config.buckets_stop_first)
        return whole_ms;
    uint64_t share_ms = s->stopping == STOP_BUCKETS ? whole_ms - whole_ms / 4 : whole_ms;
    uint64_t end_ms = s->stop_asked_ms + share_ms;
    return end_ms > now_ms ? end_ms - now_ms : 0;
}

static void kill_child(struct supervisor *s, struct supervised *c, const char *why)
{
    c->kill_ms = UINT64_MAX;
    if (c->kill_sent)
        return;
    char name[24];
    supervised_name(c, name);
    if (why != NULL)
        log_error(s->log, "process.killed", "process=%s boot=%lu reason=\"%s\"", name, c->boot,
                  why);
    c->kill_sent = true;
    s->ops.kill(s->ops.ctx, number_of(s, c));
}

/* --- Time
 * -----------------------------------------------------------------------------------------------
 */

uint64_t supervisor_tick(struct supervisor *s, uint64_t now_ms)
{
    uint64_t next_ms = UINT64_MAX;
    for (unsigned i = 0; i < s->count; i++)
        tick_child(s, &s->children[i], now_ms);
    if (s->stopping == STOP_NONE)
        introduce_tick(s, now_ms, &next_ms);
    for (unsigned i = 0; i < s->count; i++) {
        const struct supervised *c = &s->children[i];
        if (c->running)
            next_ms = min_u64(next_ms, c->kill_ms);
        else if (s->stopping == STOP_NONE)
            next_ms = min_u64(next_ms, c->start_ms);
    }
    return next_ms;
}

static void tick_child(struct supervisor *s, struct supervised *c, uint64_t now_ms)
{
    if (c->running && now_ms >= c->kill_ms) {
        kill_child(s, c,
                   c->state == CHILD_STARTING   ? "no sign of life after its start"
                   : c->state == CHILD_STOPPING ? "didn't stop in time"
                                                : "its link is lost");
    } else if (!c->running && s->stopping == STOP_NONE && now_ms >= c->start_ms) {
        bool was_down = c->state == CHILD_DOWN;
        start_child(s, c, now_ms);
        if (!was_down)
            introduce_bucket_state(s, c);
    }
}

/* --- Names --- */

static void enter(struct supervisor *s, struct supervised *c, enum child_state state)
{
    char name[24];
    supervised_name(c, name);
    log_debug(s->log, "process.state", "process=%s boot=%lu from=%s to=%s", name, c->boot,
              child_state_name(c->state), child_state_name(state));
    c->state = state;
}

const char *child_state_name(enum child_state state)
{
    static const char *const names[] = {[CHILD_STARTING] = "starting",
                                        [CHILD_UP] = "up",
                                        [CHILD_STOPPING] = "stopping",
                                        [CHILD_BACKOFF] = "backoff",
                                        [CHILD_DOWN] = "down"};
    return names[state];
}

void supervised_name(const struct supervised *child, char name[static 24])
{
    if (child->kind == CHILD_NETD)
        snprintf(name, 24, "netd");
    else
        snprintf(name, 24, "bucketd-%u", child->index);
}
