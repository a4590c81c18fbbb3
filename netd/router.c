/* Calls to buckets over links that come and go. */
#include "netd/router.h"

#include <stdlib.h>

#include "common/assert.h"
#include "common/limits.h"

/* In flight to one bucket at most. A scan's answer holds a chunk, any other read's one event. */
#define READS_IN_FLIGHT_MAX 1024u
#define SCANS_IN_FLIGHT_MAX 64u
/* How long a call rests that a bucket refused with "not now". */
#define REFUSED_PAUSE_MS 10u
/* From then on a frame in flight keeps no other from being sent. */
#define WORKING_MS_MAX 3u
#define SLOT_NONE        UINT32_MAX

/* What an answer's req_id leads to. A slot outlives its call where the call was cancelled in
 * flight. */
struct slot {
    struct call *call;
    uint32_t generation;
    uint32_t next_free;
    bool used;
    uint8_t kind; /* enum slot_kind */
};

enum slot_kind { SLOT_APPEND, SLOT_READ, SLOT_SCAN };

struct route {
    struct router *router;
    uint32_t bucket;
    struct link *link; /* NULL: none */
    uint64_t link_id;
    bool up;
    bool down;                /* the supervisor gave it up for now */
    struct call_list appends; /* waiting */
    struct call_list frame;   /* sent, in order */
    struct call_list refused; /* of this frame, to be sent again before the waiting ones */
    uint64_t frame_sent_ms;
    uint32_t frame_pending;   /* answers the frame still owes, cancelled calls included */
    struct call_list reads, reading;
    uint32_t slots_used[3]; /* by slot_kind */
    uint64_t appends_rest_until_ms, reads_rest_until_ms;
    uint64_t queued_bytes, queued_appends;
    struct slot *slots;
    uint32_t slot_count, slot_free;
};

struct router {
    uv_loop_t *loop;
    const struct config *config;
    const struct log *log;
    uint64_t own_boot, now_ms;
    struct router_callbacks callbacks;
    uint32_t route_count;
    uint32_t first_route; /* whose turn it is to send first */
    /* Frames of appends at work at a time: as many as there are processors. More would only be
     * smaller: more flushes for as many appends. */
    uint32_t working_max;
    bool room_made;
    struct router_stats stats;
    struct route routes[];
};

static void on_up(void *ctx, struct link *link);
static void on_down(void *ctx, struct link *link);
static void on_message(void *ctx, struct link *link, const struct msg *msg);
static void on_reply(struct route *route, uint64_t req_id, const struct msg *msg);
static bool is_refusal(const struct route *route, const struct call *call, const struct msg *msg);
static void requeue_refused(struct route *route, struct call *call);
static void take_back(struct route *route);
static void prepend(struct call_list *to, struct call_list *from);
static uint32_t frames_at_work(const struct router *router);
static void send_frame(struct route *route);
static void send_reads(struct route *route);
static void send_call(struct route *route, struct call *call, enum slot_kind kind);
static void detach(struct route *route, struct call *call);
static void expire(struct route *route, struct call_list *list, uint64_t now_ms);
static void fail(struct route *route, struct call *call, enum err err, const char *text);
static void fail_all(struct route *route, struct call_list *list);
static uint32_t slot_take(struct route *route, struct call *call, enum slot_kind kind);
static void slot_release(struct route *route, uint32_t index);
static bool is_append(const struct call *call);
static enum slot_kind read_kind(const struct call *call);

struct router *router_new(uv_loop_t *loop, const struct config *config, const struct log *log,
                          uint64_t own_boot, const struct router_callbacks *callbacks)
{
    struct router *router =
        calloc(1, sizeof *router + config->bucket.count * sizeof router->routes[0]);
    ASSERT(router != NULL);
    router->loop = loop;
    router->config = config;
    router->log = log;
    router->own_boot = own_boot;
    router->callbacks = *callbacks;
    router->route_count = config->bucket.count;
    router->working_max = uv_available_parallelism();
    for (uint32_t i = 0; i < router->route_count; i++)
        router->routes[i] = (struct route){.router = router, .bucket = i, .slot_free = SLOT_NONE};
    return router;
}

void router_free(struct router *router)
{
    for (uint32_t i = 0; i < router->route_count; i++) {
        if (router->routes[i].link != NULL)
            link_close(router->routes[i].link);
        free(router->routes[i].slots);
    }
    free(router);
}

void router_dial(struct router *router, uint32_t bucket, uint64_t link_id, uint64_t peer_boot,
                 const char *path)
{
    ASSERT(bucket < router->route_count);
    struct route *route = &router->routes[bucket];
    if (route->link != NULL) {
        bool was_up = route->up;
        link_close(route->link);
        route->link = NULL;
        route->up = false;
        take_back(route);
        if (was_up)
            router->callbacks.on_bucket_lost(router->callbacks.ctx, bucket);
    }
    struct link_config config = {
        .path = path, .own_boot = router->own_boot, .peer_boot = peer_boot, .log = router->log};
    struct link_callbacks callbacks = {
        .ctx = route, .on_up = on_up, .on_down = on_down, .on_message = on_message};
    route->link_id = link_id;
    route->down = false;
    enum err err = link_open(router->loop, &config, &callbacks, &route->link);
    if (err != ERR_OK) {
        route->link = NULL;
        log_error(router->log, "link.failed", "bucket=%u link=%lu error=%s", bucket, link_id,
                  err_name(err));
        router->callbacks.on_link_state(router->callbacks.ctx, link_id, false);
    }
}

void router_bucket_state(struct router *router, uint32_t bucket, enum bucket_state state)
{
    struct route *route = &router->routes[bucket];
    log_debug(router->log, "bucket.state", "bucket=%u state=%s", bucket,
             state == BUCKET_DOWN ? "down"
             : state == BUCKET_UP ? "up"
                                  : "starting");
    route->down = state == BUCKET_DOWN;
    if (!route->down)
        return;
    fail_all(route, &route->frame);
    fail_all(route, &route->refused);
    fail_all(route, &route->appends);
    fail_all(route, &route->reading);
    fail_all(route, &route->reads);
}

void router_submit(struct router *router, uint32_t bucket, struct call *call)
{
    ASSERT(bucket < router->route_count);
    ASSERT(call->list == NULL && !call->in_flight);
    struct route *route = &router->routes[bucket];
    call->bucket = bucket;
    call->sent = false;
    if (is_append(call)) {
        route->queued_bytes += call->bytes;
        route->queued_appends++;
        call_list_add(&route->appends, call);
    } else {
        call_list_add(&route->reads, call);
    }
}

void router_cancel(struct router *router, struct call *call)
{
    if (call->list != NULL)
        detach(&router->routes[call->bucket], call);
}

void router_unfollow(struct router *router, uint32_t bucket, uint32_t partition)
{
    struct route *route = &router->routes[bucket];
    if (route->up)
        msg_pack_unfollow_req(link_outbox(route->link),
                              &(struct msg_unfollow_req){.partition = partition});
}

bool router_has_room(const struct router *router, uint32_t bucket)
{
    return router->routes[bucket].queued_bytes < router->config->network.bucket_queue_bytes;
}

bool router_take_room_made(struct router *router)
{
    bool made = router->room_made;
    router->room_made = false;
    return made;
}

bool router_bucket_is_up(const struct router *router, uint32_t bucket)
{
    return router->routes[bucket].up;
}

bool router_bucket_is_down(const struct router *router, uint32_t bucket)
{
    return router->routes[bucket].down;
}

void router_flush(struct router *router, uint64_t now_ms)
{
    router->now_ms = now_ms;
    uint32_t working = frames_at_work(router), first = router->first_route;
    for (uint32_t i = 0; i < router->route_count; i++) {
        struct route *route = &router->routes[(first + i) % router->route_count];
        if (!route->up)
            continue;
        if (route->frame_pending == 0 && route->appends.first != NULL &&
            now_ms >= route->appends_rest_until_ms && working < router->working_max) {
            send_frame(route);
            route->frame_sent_ms = now_ms;
            working++;
            router->first_route = route->bucket + 1;
        }
        if (route->reads.first != NULL && now_ms >= route->reads_rest_until_ms)
            send_reads(route);
        link_flush(route->link);
    }
}

/* Frames that keep a processor busy. One that takes long waits for something else (a slow disk, a
 * process that stands still or starts again): nobody waits for it. */
static uint32_t frames_at_work(const struct router *router)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < router->route_count; i++) {
        const struct route *route = &router->routes[i];
        count += route->up && route->frame_pending > 0 &&
                 router->now_ms - route->frame_sent_ms < WORKING_MS_MAX;
    }
    return count;
}

void router_tick(struct router *router, uint64_t now_ms)
{
    router->now_ms = now_ms;
    for (uint32_t i = 0; i < router->route_count; i++) {
        struct route *route = &router->routes[i];
        expire(route, &route->frame, now_ms);
        expire(route, &route->refused, now_ms);
        expire(route, &route->appends, now_ms);
        expire(route, &route->reading, now_ms);
        expire(route, &route->reads, now_ms);
        if (route->down) {
            fail_all(route, &route->appends);
            fail_all(route, &route->reads);
        }
    }
}

void router_get_stats(const struct router *router, struct router_stats *ret_stats)
{
    *ret_stats = router->stats;
    for (uint32_t i = 0; i < router->route_count; i++) {
        ret_stats->queued_appends += router->routes[i].queued_appends;
        ret_stats->queued_bytes += router->routes[i].queued_bytes;
    }
}

static void on_up(void *ctx, struct link *link)
{
    struct route *route = ctx;
    struct router *router = route->router;
    (void)link;
    route->up = true;
    route->down = false;
    log_debug(router->log, "link.up", "bucket=%u link=%lu", route->bucket, route->link_id);
    router->callbacks.on_link_state(router->callbacks.ctx, route->link_id, true);
    router->callbacks.on_bucket_up(router->callbacks.ctx, route->bucket);
}

static void on_down(void *ctx, struct link *link)
{
    struct route *route = ctx;
    struct router *router = route->router;
    bool was_up = route->up;
    log_debug(router->log, "link.down", "bucket=%u link=%lu was_up=%d", route->bucket,
             route->link_id, was_up);
    route->up = false;
    route->link = NULL;
    link_close(link);
    take_back(route);
    router->callbacks.on_link_state(router->callbacks.ctx, route->link_id, false);
    if (was_up)
        router->callbacks.on_bucket_lost(router->callbacks.ctx, route->bucket);
}

static void on_message(void *ctx, struct link *link, const struct msg *msg)
{
    struct route *route = ctx;
    (void)link;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wswitch-enum"
    switch (msg->tag) {
    case TAG_append_reply:
        on_reply(route, msg->u.append_reply.req_id, msg);
        break;
    case TAG_fail_reply:
        on_reply(route, msg->u.fail_reply.req_id, msg);
        break;
    case TAG_events_reply:
        on_reply(route, msg->u.events_reply.req_id, msg);
        break;
    case TAG_number_reply:
        on_reply(route, msg->u.number_reply.req_id, msg);
        break;
    case TAG_follow_reply:
        on_reply(route, msg->u.follow_reply.req_id, msg);
        break;
    case TAG_info_reply:
        on_reply(route, msg->u.info_reply.req_id, msg);
        break;
    case TAG_tail:
        route->router->callbacks.on_tail(route->router->callbacks.ctx, &msg->u.tail);
        break;
    default:
        log_warn(route->router->log, "message.unexpected", "bucket=%u message=%s", route->bucket,
                 msg_name(msg->tag));
    }
#pragma GCC diagnostic pop
}

static void on_reply(struct route *route, uint64_t req_id, const struct msg *msg)
{
    uint32_t index = (uint32_t)req_id;
    if (index >= route->slot_count || !route->slots[index].used ||
        route->slots[index].generation != (uint32_t)(req_id >> 32)) {
        log_warn(route->router->log, "reply.unknown", "bucket=%u req_id=%lu", route->bucket,
                 req_id);
        return;
    }
    struct call *call = route->slots[index].call;
    bool append = route->slots[index].kind == SLOT_APPEND;
    slot_release(route, index);
    if (append) {
        ASSERT(route->frame_pending > 0);
        route->frame_pending--;
    }
    bool refused = call != NULL && is_refusal(route, call, msg);
    if (call != NULL) {
        call_list_remove(call);
        call->in_flight = false;
    }
    if (refused)
        requeue_refused(route, call);
    if (append && route->frame_pending == 0)
        prepend(&route->appends, &route->refused);
    if (call != NULL && !refused)
        call->done(call, msg);
}

/* "Not now", and there is time left: nothing happened, so the call is sent again rather than
 * failed. */
static bool is_refusal(const struct route *route, const struct call *call, const struct msg *msg)
{
    if (msg->tag != TAG_fail_reply)
        return false;
    uint64_t error = msg->u.fail_reply.error;
    /* ERR_DOWN: the process is about to end; its successor will take the call. */
    if (error != ERR_BUSY && error != ERR_LOADING && error != ERR_AGAIN && error != ERR_DOWN)
        return false;
    return call->deadline_ms == 0 || route->router->now_ms + REFUSED_PAUSE_MS < call->deadline_ms;
}

static void requeue_refused(struct route *route, struct call *call)
{
    uint64_t until = route->router->now_ms + REFUSED_PAUSE_MS;
    route->router->stats.retried++;
    if (is_append(call)) {
        route->queued_bytes += call->bytes;
        route->queued_appends++;
        route->appends_rest_until_ms = until;
        call_list_add(&route->refused, call);
    } else {
        route->reads_rest_until_ms = until;
        call_list_add(&route->reads, call);
    }
}

/* The link is lost: what was in flight waits again, in order, before what is newer. */
static void take_back(struct route *route)
{
    for (uint32_t i = 0; i < route->slot_count; i++)
        if (route->slots[i].used)
            slot_release(route, i);
    route->frame_pending = 0;
    for (struct call *call = route->frame.first; call != NULL; call = call->next) {
        call->in_flight = false;
        route->queued_bytes += call->bytes;
        route->queued_appends++;
        route->router->stats.resent++;
    }
    for (struct call *call = route->reading.first; call != NULL; call = call->next)
        call->in_flight = false;
    prepend(&route->appends, &route->frame);
    prepend(&route->appends, &route->refused);
    prepend(&route->reads, &route->reading);
}

static void prepend(struct call_list *to, struct call_list *from)
{
    if (from->first == NULL)
        return;
    for (struct call *call = from->first; call != NULL; call = call->next)
        call->list = to;
    from->last->next = to->first;
    if (to->first != NULL)
        to->first->prev = from->last;
    else
        to->last = from->last;
    to->first = from->first;
    *from = (struct call_list){0};
}

static void send_frame(struct route *route)
{
    struct router *router = route->router;
    uint64_t room = router->config->network.bucket_inflight_bytes, bytes = 0;
    bool was_full = !router_has_room(router, route->bucket);
    router->stats.frames++;
    while (route->appends.first != NULL &&
           (bytes == 0 || bytes + route->appends.first->bytes <= room)) {
        struct call *call = route->appends.first;
        bytes += call->bytes;
        call_list_remove(call);
        route->queued_bytes -= call->bytes;
        route->queued_appends--;
        if (call->sent)
            call->msg.u.append_req.flags |= APPEND_RETRY;
        send_call(route, call, SLOT_APPEND);
        call_list_add(&route->frame, call);
        route->frame_pending++;
        router->stats.frame_appends++;
    }
    if (was_full && router_has_room(router, route->bucket))
        router->room_made = true;
}

static void send_reads(struct route *route)
{
    struct call *next;
    for (struct call *call = route->reads.first; call != NULL; call = next) {
        next = call->next;
        enum slot_kind kind = read_kind(call);
        if (route->slots_used[kind] >=
            (kind == SLOT_SCAN ? SCANS_IN_FLIGHT_MAX : READS_IN_FLIGHT_MAX))
            break;
        call_list_remove(call);
        send_call(route, call, kind);
        call_list_add(&route->reading, call);
    }
}

static void send_call(struct route *route, struct call *call, enum slot_kind kind)
{
    call->slot = slot_take(route, call, kind);
    /* Every request begins with its req_id. */
    call->msg.u.get_req.req_id = (uint64_t)route->slots[call->slot].generation << 32 | call->slot;
    call->in_flight = true;
    call->sent = true;
    msg_pack(link_outbox(route->link), &call->msg);
}

/* Takes a call out of whatever list it is in; in flight, its slot stays until the answer. */
static void detach(struct route *route, struct call *call)
{
    if (call->in_flight) {
        route->slots[call->slot].call = NULL;
        call->in_flight = false;
    } else if (is_append(call)) {
        bool was_full = !router_has_room(route->router, route->bucket);
        route->queued_bytes -= call->bytes;
        route->queued_appends--;
        if (was_full && router_has_room(route->router, route->bucket))
            route->router->room_made = true;
    }
    call_list_remove(call);
}

/* Calls stand in the order of their deadlines, but for those that have none. */
static void expire(struct route *route, struct call_list *list, uint64_t now_ms)
{
    struct call *next;
    for (struct call *call = list->first; call != NULL; call = next) {
        next = call->next;
        if (call->deadline_ms == 0)
            continue;
        if (call->deadline_ms > now_ms)
            return;
        bool unknown = call->sent && is_append(call);
        fail(route, call, unknown ? ERR_TIMEOUT : ERR_DOWN,
             unknown ? "outcome unknown" : "partition unavailable");
    }
}

static void fail(struct route *route, struct call *call, enum err err, const char *text)
{
    detach(route, call);
    struct msg msg = {.tag = TAG_fail_reply,
                      .u.fail_reply = {.error = err, .text = span_str(text)}};
    call->done(call, &msg);
}

/* Calls without a deadline go on waiting: a subscription follows its bucket whenever it comes back.
 */
static void fail_all(struct route *route, struct call_list *list)
{
    struct call *next;
    struct call *last = list->last;
    for (struct call *call = list->first; call != NULL; call = next) {
        next = call == last ? NULL : call->next;
        if (call->deadline_ms == 0)
            continue;
        bool unknown = call->sent && is_append(call);
        fail(route, call, unknown ? ERR_TIMEOUT : ERR_DOWN,
             unknown ? "outcome unknown" : "partition unavailable");
    }
}

static uint32_t slot_take(struct route *route, struct call *call, enum slot_kind kind)
{
    if (route->slot_free == SLOT_NONE) {
        uint32_t count = route->slot_count == 0 ? 256 : route->slot_count * 2;
        route->slots = realloc(route->slots, count * sizeof *route->slots);
        ASSERT(route->slots != NULL);
        for (uint32_t i = count; i-- > route->slot_count;) {
            route->slots[i] = (struct slot){.next_free = route->slot_free};
            route->slot_free = i;
        }
        route->slot_count = count;
    }
    uint32_t index = route->slot_free;
    struct slot *slot = &route->slots[index];
    route->slot_free = slot->next_free;
    slot->call = call;
    slot->used = true;
    slot->kind = (uint8_t)kind;
    route->slots_used[kind]++;
    return index;
}

static void slot_release(struct route *route, uint32_t index)
{
    struct slot *slot = &route->slots[index];
    ASSERT(slot->used);
    slot->used = false;
    slot->call = NULL;
    slot->generation++;
    slot->next_free = route->slot_free;
    route->slot_free = index;
    route->slots_used[slot->kind]--;
}

static bool is_append(const struct call *call)
{
    return call->msg.tag == TAG_append_req;
}

static enum slot_kind read_kind(const struct call *call)
{
    return call->msg.tag == TAG_scan_partition_req || call->msg.tag == TAG_scan_stream_req
               ? SLOT_SCAN
               : SLOT_READ;
}
