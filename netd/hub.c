/* Hubs: following partitions, fan-out of live events. */
#include "netd/hub.h"

#include <stdlib.h>

#include "common/assert.h"
#include "netd/reply.h"
#include "netd/tail.h"

#define RETRY_INTERVAL_MS 1000u

static void follow(struct hub *hub);
static void on_followed(struct call *call, const struct msg *reply);
static uint64_t decode(struct hubs *hubs, const struct msg_tail *tail, uint64_t from);
static struct hub *hub_of_call(struct call *call);
static bool creation_is_hopeless(const struct hubs *hubs, const struct subscription *subscription,
                                 uint64_t now_ms);

struct hubs *hubs_new(uint32_t partition_count, const struct tail_ops *ops)
{
    struct hubs *hubs = calloc(1, sizeof *hubs + partition_count * sizeof hubs->hubs[0]);
    ASSERT(hubs != NULL);
    hubs->ops = *ops;
    hubs->partition_count = partition_count;
    for (uint32_t p = 0; p < partition_count; p++)
        hubs->hubs[p] = (struct hub){.hubs = hubs, .partition = p};
    return hubs;
}

void hubs_free(struct hubs *hubs)
{
    ASSERT(hubs->subscriptions == 0);
    buf_release(&hubs->rendered);
    free(hubs->events);
    free(hubs);
}

void hubs_on_tail(struct hubs *hubs, const struct msg_tail *tail)
{
    if (tail->partition >= hubs->partition_count)
        return;
    struct hub *hub = &hubs->hubs[tail->partition];
    if (hub->state != HUB_LIVE)
        return;
    uint64_t from = hub->next;
    if (tail->first + tail->count <= from)
        return;
    uint64_t count = decode(hubs, tail, from);
    if (count == 0)
        return;
    /* First hub.next: a source that can't take an event compares its position with it. A gap would
     * make the sources that are behind read history, as any event that isn't exactly the next one
     * does. */
    hub->next = hubs->events[count - 1].record.sequence + 1;
    for (struct source *source = hub->first, *next; source != NULL; source = next) {
        next = source->hub_next;
        source_on_live(source, hubs->events, count);
    }
    buf_clear(&hubs->rendered, HUB_RENDERED_KEEP_BYTES);
}

void hubs_on_bucket_lost(struct hubs *hubs, uint32_t bucket, uint32_t bucket_count)
{
    for (uint32_t p = bucket; p < hubs->partition_count; p += bucket_count)
        if (hubs->hubs[p].state == HUB_LIVE)
            hubs->hubs[p].state = HUB_LOST;
}

void hubs_on_bucket_up(struct hubs *hubs, uint32_t bucket, uint32_t bucket_count)
{
    for (uint32_t p = bucket; p < hubs->partition_count; p += bucket_count)
        if (hubs->hubs[p].state == HUB_LOST)
            follow(&hubs->hubs[p]);
}

void hubs_tick(struct hubs *hubs, uint64_t now_ms)
{
    for (struct subscription *s = hubs->creating, *next; s != NULL; s = next) {
        next = s->creating_next;
        if (creation_is_hopeless(hubs, s, now_ms))
            subscription_give_up(s);
    }
    if (now_ms < hubs->retry_at_ms)
        return;
    hubs->retry_at_ms = now_ms + RETRY_INTERVAL_MS;
    for (uint32_t p = 0; p < hubs->partition_count; p++) {
        struct hub *hub = &hubs->hubs[p];
        if (hub->state == HUB_FAILED)
            follow(hub);
        for (struct source *source = hub->first; source != NULL; source = source->hub_next)
            if (source->failed)
                source_retry(source);
    }
}

uint64_t hubs_pushed(const struct hubs *hubs)
{
    return hubs->pushed;
}

uint64_t hubs_subscriptions(const struct hubs *hubs)
{
    return hubs->subscriptions;
}

void hub_attach(struct hub *hub, struct source *source)
{
    source->hub = hub;
    source->hub_prev = NULL;
    source->hub_next = hub->first;
    if (hub->first != NULL)
        hub->first->hub_prev = source;
    hub->first = source;
    if (hub->state == HUB_IDLE)
        follow(hub);
}

void hub_detach(struct source *source)
{
    struct hub *hub = source->hub;
    if (source->hub_prev != NULL)
        source->hub_prev->hub_next = source->hub_next;
    else
        hub->first = source->hub_next;
    if (source->hub_next != NULL)
        source->hub_next->hub_prev = source->hub_prev;
    if (hub->first != NULL)
        return;
    if (hub->state == HUB_ASKED)
        hub->hubs->ops.cancel(hub->hubs->ops.ctx, &hub->call);
    if (hub->state == HUB_ASKED || hub->state == HUB_LIVE)
        hub->hubs->ops.unfollow(hub->hubs->ops.ctx, hub->partition);
    hub->state = HUB_IDLE;
}

struct span hub_event_body(struct hubs *hubs, struct live_event *event)
{
    if (event->body_len == 0) {
        event->body = hubs->rendered.len;
        reply_event_body(&hubs->rendered, &event->record);
        event->body_len = hubs->rendered.len - event->body;
    }
    return span_of(hubs->rendered.ptr + event->body, event->body_len);
}

static void follow(struct hub *hub)
{
    hub->state = HUB_ASKED;
    hub->call = (struct call){.done = on_followed, .msg.tag = TAG_follow_req};
    hub->call.msg.u.follow_req.partition = hub->partition;
    hub->hubs->ops.submit(hub->hubs->ops.ctx, hub->partition, &hub->call);
}

static void on_followed(struct call *call, const struct msg *reply)
{
    struct hub *hub = hub_of_call(call);
    ASSERT(hub->state == HUB_ASKED);
    if (reply->tag != TAG_follow_reply) {
        hub->state = HUB_FAILED;
        if (reply->tag == TAG_fail_reply)
            hub->hubs->ops.damaged(hub->hubs->ops.ctx, hub->partition, reply->u.fail_reply.text);
        return;
    }
    hub->state = HUB_LIVE;
    hub->next = reply->u.follow_reply.watermark;
    for (struct source *source = hub->first, *next; source != NULL; source = next) {
        next = source->hub_next;
        source_on_followed(source);
    }
}

/* The tail's events from sequence `from` on, into hubs->events. */
static uint64_t decode(struct hubs *hubs, const struct msg_tail *tail, uint64_t from)
{
    uint64_t count = 0;
    struct span list = tail->events;
    struct rec_stored_event record;
    while (rec_next_stored_event(&list, &record) == ERR_OK) {
        if (record.sequence < from)
            continue;
        if (count == hubs->events_cap) {
            hubs->events_cap = hubs->events_cap == 0 ? 64 : hubs->events_cap * 2;
            hubs->events = realloc(hubs->events, hubs->events_cap * sizeof *hubs->events);
            ASSERT(hubs->events != NULL);
        }
        hubs->events[count++] = (struct live_event){.record = record};
    }
    return count;
}

static struct hub *hub_of_call(struct call *call)
{
    return (struct hub *)((char *)call - offsetof(struct hub, call));
}

/* Nobody waits longer than any other request would, nor for a bucket that is given up. */
static bool creation_is_hopeless(const struct hubs *hubs, const struct subscription *subscription,
                                 uint64_t now_ms)
{
    if (now_ms >= subscription->deadline_ms)
        return true;
    for (uint32_t i = 0; i < subscription->source_count; i++) {
        const struct source *source = &subscription->sources[i];
        if (source->waiting && hubs->ops.partition_is_down(hubs->ops.ctx, source->hub->partition))
            return true;
    }
    return false;
}
