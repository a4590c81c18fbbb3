/* Subscriptions: positions, history by chunks, the seam to live, window and cursor. */
#include "netd/subscription.h"

#include <stdlib.h>

#include "common/assert.h"
#include "netd/reply.h"
#include "netd/tail.h"

/* A chunk asks for no more events than this, however large the window. */
#define CHUNK_EVENTS_MAX 1000u

static uint64_t seen(const struct hub *hub);
static void init_source(struct subscription *subscription, const struct subscribe_args *args,
                        uint32_t i, uint32_t partition_count);
static void set_prefix(struct subscription *subscription);
static void source_known(struct source *source);
static void set_state(struct source *source, enum source_state state);
static void ask_version(struct source *source);
static void on_version(struct call *call, const struct msg *reply);
static void pump(struct subscription *subscription);
static void read_chunk(struct source *source, uint64_t count);
static void on_chunk(struct call *call, const struct msg *reply);
static bool take_chunk(struct source *source, struct span list);
static void meet_seam(struct source *source, bool more, uint64_t watermark);
static bool deliver(struct subscription *subscription, struct span body);
static bool wants(const struct source *source, const struct rec_stored_event *event);
static void fail_read(struct source *source, const struct msg *reply);
static void leave_creating(struct subscription *subscription);
static void submit(struct source *source);

struct subscription *subscription_new(struct hubs *hubs, void *owner, const struct uuid *id,
                                      int proto, const struct subscribe_args *args,
                                      uint64_t window_default, uint32_t partition_count,
                                      uint64_t deadline_ms)
{
    struct subscription *s = calloc(1, sizeof *s);
    ASSERT(s != NULL);
    s->hubs = hubs;
    s->owner = owner;
    s->id = *id;
    s->proto = proto;
    s->window = args->window != 0 ? args->window : window_default;
    s->deadline_ms = deadline_ms;
    s->source_count = s->waiting = args->count;
    s->sources = calloc(args->count, sizeof *s->sources);
    ASSERT(s->sources != NULL && args->count > 0);
    set_prefix(s);
    hubs->subscriptions++;
    for (uint32_t i = 0; i < args->count; i++)
        init_source(s, args, i, partition_count);
    if (s->waiting > 0) {
        s->creating = true;
        s->creating_next = hubs->creating;
        if (hubs->creating != NULL)
            hubs->creating->creating_prev = s;
        hubs->creating = s;
    }
    return s;
}

void subscription_free(struct subscription *s)
{
    leave_creating(s);
    for (uint32_t i = 0; i < s->source_count; i++) {
        if (s->sources[i].busy)
            s->hubs->ops.cancel(s->hubs->ops.ctx, &s->sources[i].call);
        hub_detach(&s->sources[i]);
    }
    s->hubs->subscriptions--;
    free(s->sources);
    free(s);
}

void subscription_activate(struct subscription *s, struct buf *out, uint64_t count)
{
    ASSERT(!s->active && s->waiting == 0);
    char id[UUID_TEXT_LEN];
    uuid_format(&s->id, id);
    buf_printf(out, "%c3\r\n+subscribe\r\n+%.*s\r\n:%lu\r\n", s->proto == 3 ? '>' : '*',
               UUID_TEXT_LEN, id, count);
    s->active = true;
    pump(s);
}

void subscription_acknowledge(struct subscription *s, uint64_t cursor)
{
    uint64_t below = cursor == UINT64_MAX ? cursor : cursor + 1;
    s->acknowledged = max_u64(s->acknowledged, min_u64(below, s->cursor));
    pump(s);
}

void subscription_resume(struct subscription *s)
{
    pump(s);
}

void subscription_give_up(struct subscription *s)
{
    leave_creating(s);
    s->hubs->ops.created(s->hubs->ops.ctx, s, ERR_DOWN);
}

void source_on_followed(struct source *source)
{
    struct hub *hub = source->hub;
    switch (source->state) {
    case SOURCE_UNKNOWN:
        if (source->busy)
            return; /* the version's answer decides */
        if (source->is_stream) {
            ask_version(source);
            return;
        }
        source->next = hub->next;
        set_state(source, SOURCE_LIVE);
        break;
    case SOURCE_HISTORY:
        if (!source->is_stream && source->next >= hub->next)
            set_state(source, SOURCE_LIVE);
        break;
    case SOURCE_LIVE:
        if ((source->is_stream ? source->complete_below : source->next) < hub->next)
            set_state(source, SOURCE_HISTORY);
        break;
    }
    source_known(source);
    pump(source->subscription);
}

void source_on_live(struct source *source, struct live_event *events, uint64_t count)
{
    struct hubs *hubs = source->hub->hubs;
    if (source->state != SOURCE_LIVE)
        return;
    for (uint64_t i = 0; i < count; i++) {
        const struct rec_stored_event *event = &events[i].record;
        if (!wants(source, event))
            continue;
        uint64_t position = source->is_stream ? event->version : event->sequence;
        if (position != source->next ||
            !deliver(source->subscription, hub_event_body(hubs, &events[i]))) {
            set_state(source, SOURCE_HISTORY);
            pump(source->subscription);
            return;
        }
        source->next = position + 1;
    }
    source->complete_below = max_u64(source->complete_below, source->hub->next);
}

void source_retry(struct source *source)
{
    source->failed = false;
    if (source->state == SOURCE_UNKNOWN)
        source_on_followed(source);
    else
        pump(source->subscription);
}

static void init_source(struct subscription *s, const struct subscribe_args *args, uint32_t i,
                        uint32_t partition_count)
{
    struct source *source = &s->sources[i];
    source->subscription = s;
    source->waiting = true;
    uint32_t partition;
    struct start_args start;
    if (args->streams != NULL) {
        const struct stream_source_args *from = &args->streams[i];
        ASSERT(from->stream.len <= STREAM_ID_LEN_MAX && from->key_given);
        source->is_stream = true;
        source->key = from->key;
        source->stream_len = (uint8_t)from->stream.len;
        memcpy(source->stream, from->stream.ptr, from->stream.len);
        partition = uuid_hash(&from->key) % partition_count;
        start = from->start;
    } else {
        partition = args->partitions[i].partition;
        start = args->partitions[i].start;
    }
    if (!start.latest) {
        source->next = start.position;
        set_state(source, SOURCE_HISTORY);
    }
    struct hub *hub = &s->hubs->hubs[partition];
    hub_attach(hub, source);
    if (hub->state == HUB_LIVE)
        source_on_followed(source);
}

static void set_prefix(struct subscription *s)
{
    char id[UUID_TEXT_LEN];
    uuid_format(&s->id, id);
    s->prefix_len = (uint32_t)snprintf(s->prefix, sizeof s->prefix,
                                       ">4\r\n+message\r\n+%.*s\r\n:", UUID_TEXT_LEN, id);
    ASSERT(s->prefix_len < sizeof s->prefix);
}

static void source_known(struct source *source)
{
    struct subscription *s = source->subscription;
    if (!source->waiting)
        return;
    source->waiting = false;
    if (--s->waiting == 0) {
        bool created_later = s->creating;
        leave_creating(s);
        if (created_later)
            s->hubs->ops.created(s->hubs->ops.ctx, s, ERR_OK);
    }
}

static void set_state(struct source *source, enum source_state state)
{
    struct subscription *s = source->subscription;
    s->history -= source->state == SOURCE_HISTORY;
    source->state = state;
    s->history += state == SOURCE_HISTORY;
}

/* History is read at any replica: at one that has what the followed one had. */
static uint64_t seen(const struct hub *hub)
{
    return hub->state == HUB_LIVE ? hub->next : 0;
}

/* LATEST of a stream: its last version now, complete up to the answer's watermark. */
static void ask_version(struct source *source)
{
    source->call = (struct call){.done = on_version, .msg.tag = TAG_version_req};
    source->call.msg.u.version_req = (struct msg_version_req){
        .partition = source->hub->partition,
        .partition_key = source->key,
        .stream = span_of(source->stream, source->stream_len),
        .need = seen(source->hub),
    };
    submit(source);
}

static void on_version(struct call *call, const struct msg *reply)
{
    struct source *source = (struct source *)((char *)call - offsetof(struct source, call));
    source->busy = false;
    if (reply->tag != TAG_number_reply) {
        fail_read(source, reply);
        return;
    }
    const struct msg_number_reply *number = &reply->u.number_reply;
    source->next = number->present ? number->value + 1 : 0;
    set_state(source, SOURCE_HISTORY);
    meet_seam(source, false, number->watermark);
    source_known(source);
    pump(source->subscription);
}

/* Asks for history as far as window and buffer have room, a few sources at once, in turn. */
static void pump(struct subscription *s)
{
    if (!s->active || s->reading >= SUBSCRIPTION_READS_MAX || s->history <= s->reading)
        return;
    uint64_t credit = s->window - (s->cursor - s->acknowledged);
    if (credit == 0 || s->hubs->ops.push_room(s->hubs->ops.ctx, s->owner) == NULL)
        return;
    for (uint32_t i = 0; i < s->source_count && s->reading < SUBSCRIPTION_READS_MAX; i++) {
        struct source *source = &s->sources[s->turn];
        s->turn = s->turn + 1 == s->source_count ? 0 : s->turn + 1;
        if (source->state == SOURCE_HISTORY && !source->busy && !source->failed &&
            source->hub->state == HUB_LIVE)
            read_chunk(source, min_u64(credit, CHUNK_EVENTS_MAX));
    }
}

static void read_chunk(struct source *source, uint64_t count)
{
    uint32_t partition = source->hub->partition;
    source->call = (struct call){.done = on_chunk};
    struct msg *msg = &source->call.msg;
    if (source->is_stream) {
        msg->tag = TAG_scan_stream_req;
        msg->u.scan_stream_req = (struct msg_scan_stream_req){
            .partition = partition,
            .partition_key = source->key,
            .stream = span_of(source->stream, source->stream_len),
            .from = source->next,
            .to = UINT64_MAX,
            .count = count,
            .bytes = SCAN_CHUNK_BYTES,
            .watermark = UINT64_MAX,
            .need = seen(source->hub),
        };
    } else {
        msg->tag = TAG_scan_partition_req;
        msg->u.scan_partition_req = (struct msg_scan_partition_req){
            .partition = partition,
            .from = source->next,
            .to = UINT64_MAX,
            .count = count,
            .bytes = SCAN_CHUNK_BYTES,
            .watermark = UINT64_MAX,
            .need = seen(source->hub),
        };
    }
    source->subscription->reading++;
    submit(source);
}

static void on_chunk(struct call *call, const struct msg *reply)
{
    struct source *source = (struct source *)((char *)call - offsetof(struct source, call));
    source->busy = false;
    source->subscription->reading--;
    if (reply->tag != TAG_events_reply) {
        fail_read(source, reply);
        return;
    }
    const struct msg_events_reply *chunk = &reply->u.events_reply;
    if (take_chunk(source, chunk->events))
        meet_seam(source, chunk->more, chunk->watermark);
    pump(source->subscription);
}

/* False where window or buffer ended before the chunk did. */
static bool take_chunk(struct source *source, struct span list)
{
    struct hubs *hubs = source->hub->hubs;
    struct rec_stored_event record;
    bool taken = true;
    while (taken && rec_next_stored_event(&list, &record) == ERR_OK) {
        uint64_t position = source->is_stream ? record.version : record.sequence;
        if (position < source->next)
            continue;
        struct live_event event = {.record = record};
        hubs->rendered.len = 0;
        taken = deliver(source->subscription, hub_event_body(hubs, &event));
        if (taken)
            source->next = position + 1;
    }
    buf_clear(&hubs->rendered, HUB_RENDERED_KEEP_BYTES);
    return taken;
}

/* After a chunk that was taken whole: has the source reached what the hub delivers next? */
static void meet_seam(struct source *source, bool more, uint64_t watermark)
{
    struct hub *hub = source->hub;
    if (source->is_stream && !more)
        source->complete_below = max_u64(source->complete_below, watermark);
    if (hub->state != HUB_LIVE || more)
        return;
    if ((source->is_stream ? source->complete_below : source->next) >= hub->next)
        set_state(source, SOURCE_LIVE);
}

static bool wants(const struct source *source, const struct rec_stored_event *event)
{
    if (!source->is_stream)
        return event->sequence >= source->next;
    return event->stream.len == source->stream_len &&
           memcmp(event->stream.ptr, source->stream, source->stream_len) == 0 &&
           uuid_equal(&event->partition_key, &source->key) && event->version >= source->next;
}

static bool deliver(struct subscription *s, struct span body)
{
    if (!s->active || s->cursor - s->acknowledged >= s->window)
        return false;
    struct buf *out = s->hubs->ops.push_room(s->hubs->ops.ctx, s->owner);
    if (out == NULL)
        return false;
    uint8_t *start = buf_reserve(out, s->prefix_len + REPLY_NUMBER_LEN_MAX + 7 + body.len),
            *p = start;
    memcpy(p, s->prefix, s->prefix_len);
    p[0] = s->proto == 3 ? '>' : '*';
    p += s->prefix_len;
    p += reply_number(p, s->cursor++);
    memcpy(p, s->proto == 3 ? "\r\n%11\r\n" : "\r\n*22\r\n", 7);
    p += 7;
    memcpy(p, body.ptr, body.len);
    p += body.len;
    out->len += (size_t)(p - start);
    s->hubs->pushed++;
    return true;
}

static void fail_read(struct source *source, const struct msg *reply)
{
    struct hubs *hubs = source->hub->hubs;
    source->failed = true;
    if (reply->tag == TAG_fail_reply)
        hubs->ops.damaged(hubs->ops.ctx, source->hub->partition, reply->u.fail_reply.text);
}

static void leave_creating(struct subscription *s)
{
    if (!s->creating)
        return;
    s->creating = false;
    if (s->creating_prev != NULL)
        s->creating_prev->creating_next = s->creating_next;
    else
        s->hubs->creating = s->creating_next;
    if (s->creating_next != NULL)
        s->creating_next->creating_prev = s->creating_prev;
}

static void submit(struct source *source)
{
    struct tail_ops *ops = &source->hub->hubs->ops;
    source->busy = true;
    ops->submit(ops->ctx, source->hub->partition, &source->call);
}
