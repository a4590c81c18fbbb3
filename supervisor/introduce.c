/* Introductions: each bucketd gets a link to netd on a fresh path. The bucketd listens first,
 * then netd dials; a link that doesn't come up in time, or is lost while both live, is made anew
 * under a new number. */
#include "common/assert.h"
#include "supervisor/supervisor.h"

static void introduce(struct supervisor *s, struct supervised *bucketd, uint64_t now_ms);
static void introduction_failed(struct supervisor *s, struct supervised *bucketd, const char *why,
                                uint64_t now_ms);
static bool can_meet(const struct supervisor *s, const struct supervised *bucketd);
static enum bucket_state state_of(const struct supervised *bucketd);
static void send_state(struct supervisor *s, uint32_t bucket, enum bucket_state state);

void introduce_tick(struct supervisor *s, uint64_t now_ms, uint64_t *next_ms)
{
    for (unsigned i = 1; i < s->count; i++) {
        struct supervised *c = &s->children[i];
        if (!can_meet(s, c))
            continue;
        if (c->introduction == INTRODUCTION_NONE)
            introduce(s, c, now_ms);
        else if (c->introduction != INTRODUCTION_UP && now_ms >= c->introduction_ms)
            introduction_failed(s, c, "not up in time", now_ms);
        if (c->introduction != INTRODUCTION_UP)
            *next_ms = min_u64(*next_ms, c->introduction_ms);
    }
}

void introduce_on_listening(struct supervisor *s, struct supervised *child,
                            const struct msg_link_listening *m, uint64_t now_ms)
{
    if (child->introduction != INTRODUCTION_LISTENING || m->link != child->link ||
        !can_meet(s, child))
        return; /* of an earlier introduction */
    if (m->error != ERR_OK) {
        /* Tried again when its time is over, not at once: what hinders it now likely still does. */
        log_error(s->log, "link.listen_failed", "bucket=%u link=%lu error=%lu", child->index,
                  child->link, m->error);
        return;
    }
    (void)now_ms;
    char path[IPC_PATH_LEN_MAX + 1];
    s->ops.link_path(s->ops.ctx, child->index, child->link, path);
    child->introduction = INTRODUCTION_DIALLING;
    msg_pack_link_dial(s->ops.outbox(s->ops.ctx, 0),
                       &(struct msg_link_dial){.link = child->link,
                                               .peer_index = child->index,
                                               .peer_boot = child->boot,
                                               .path = span_str(path)});
}

void introduce_on_link_state(struct supervisor *s, const struct msg_link_state *m, uint64_t now_ms)
{
    for (unsigned i = 1; i < s->count; i++) {
        struct supervised *c = &s->children[i];
        if (c->link != m->link || c->introduction == INTRODUCTION_NONE)
            continue;
        if (m->up) {
            c->introduction = INTRODUCTION_UP;
            c->introductions_failed = 0;
        } else {
            introduction_failed(s, c, "lost", now_ms);
        }
    }
}

void introduce_forget(struct supervisor *s, struct supervised *child)
{
    if (child->kind == CHILD_BUCKETD) {
        child->introduction = INTRODUCTION_NONE;
        child->introductions_failed = 0;
        return;
    }
    for (unsigned i = 1; i < s->count; i++)
        introduce_forget(s, &s->children[i]);
}

static bool can_meet(const struct supervisor *s, const struct supervised *bucketd)
{
    const struct supervised *netd = &s->children[0];
    return netd->linked && netd->state != CHILD_STOPPING && bucketd->linked &&
           bucketd->state == CHILD_UP;
}

static void introduce(struct supervisor *s, struct supervised *bucketd, uint64_t now_ms)
{
    char path[IPC_PATH_LEN_MAX + 1];
    uint64_t wait_ms = min_u64(INTRODUCE_MS_CAP, (uint64_t)INTRODUCE_MS_MAX
                                                     << min_u64(bucketd->introductions_failed, 8));
    bucketd->link = s->ops.next_number(s->ops.ctx);
    bucketd->introduction = INTRODUCTION_LISTENING;
    bucketd->introduction_ms = now_ms + wait_ms;
    s->ops.link_path(s->ops.ctx, bucketd->index, bucketd->link, path);
    msg_pack_link_listen(s->ops.outbox(s->ops.ctx, (unsigned)(bucketd - s->children)),
                         &(struct msg_link_listen){.link = bucketd->link,
                                                   .peer_index = 0,
                                                   .peer_boot = s->children[0].boot,
                                                   .path = span_str(path)});
}

/* A link is often reported lost just before one of its two ends is known to have ended, so a
 * lost link alone is worth no alarm; one that doesn't come up is. */
static void introduction_failed(struct supervisor *s, struct supervised *bucketd, const char *why,
                                uint64_t now_ms)
{
    enum log_level level = bucketd->introduction == INTRODUCTION_UP ? LOG_DEBUG : LOG_WARN;
    log_event(s->log, level, "link.again", "bucket=%u link=%lu reason=\"%s\"", bucketd->index,
              bucketd->link, why);
    bucketd->introduction = INTRODUCTION_NONE;
    bucketd->introductions_failed++;
    if (can_meet(s, bucketd))
        introduce(s, bucketd, now_ms);
}

/* --- What netd is told --- */

void introduce_bucket_state(struct supervisor *s, const struct supervised *child)
{
    if (child->kind == CHILD_BUCKETD)
        send_state(s, child->index, state_of(child));
}

void introduce_bucket_ended(struct supervisor *s, const struct supervised *child)
{
    if (child->kind == CHILD_BUCKETD && s->children[0].linked)
        msg_pack_bucket_ended(
            s->ops.outbox(s->ops.ctx, 0),
            &(struct msg_bucket_ended){.bucket = child->index, .boot = child->boot});
}

void introduce_all_states(struct supervisor *s)
{
    for (uint32_t bucket = 0; bucket < s->bucket_count; bucket++) {
        enum bucket_state state = BUCKET_DOWN; /* runs elsewhere */
        for (unsigned i = 1; i < s->count; i++) {
            if (s->children[i].index == bucket)
                state = state_of(&s->children[i]);
        }
        send_state(s, bucket, state);
    }
}

/* Down until it is ready again: each try to start it would else make its requests wait in vain. */
static enum bucket_state state_of(const struct supervised *bucketd)
{
    if (bucketd->state == CHILD_UP)
        return BUCKET_UP;
    return bucketd->reported_down ? BUCKET_DOWN : BUCKET_STARTING;
}

static void send_state(struct supervisor *s, uint32_t bucket, enum bucket_state state)
{
    if (s->children[0].linked)
        msg_pack_bucket_state(s->ops.outbox(s->ops.ctx, 0),
                              &(struct msg_bucket_state){.bucket = bucket, .state = state});
}
