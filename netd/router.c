/* Calls to buckets over links that come and go. */
#include "netd/router_internal.h"

#include <stdlib.h>

/* In flight to one bucket at most. A scan's answer holds a chunk, any other read's one event. */
#define READS_IN_FLIGHT_MAX 1024u
#define SCANS_IN_FLIGHT_MAX 64u
/* How long a call rests that a bucket refused with "not now". */
#define REFUSED_PAUSE_MS 10u
/* From then on a frame in flight keeps no other from being sent. */
#define WORKING_MS_MAX 3u
/* Where there are other replicas: one that has said "not I" isn't asked again for so long, and one
 * that says nothing for so long is taken for dead, though its node may live. */
#define NOT_LEADER_REST_MS 20u
#define NOT_READY_REST_MS  50u
#define NO_QUORUM_REST_MS  100u
#define NO_QUORUM_HOLDS_MS 1000u
#define FOLLOW_REST_MS     2000u
#define SILENCE_MS_MAX     1500u

static void on_reply(struct target *target, uint64_t req_id, const struct msg *msg);
static bool is_refusal(struct target *target, struct call *call, const struct msg *msg);
static bool is_refused_append(struct target *target, struct call *call,
                              const struct msg_fail_reply *reply);
static bool is_refused_read(struct target *target, struct call *call,
                            const struct msg_fail_reply *reply);
static void requeue_refused(struct route *route, struct call *call);
static void end_frame(struct route *route);
static void prepend(struct call_list *to, struct call_list *from);
static uint32_t frames_at_work(const struct router *router);
static void send_frame(struct route *route, struct target *target);
static void send_reads(struct route *route);
static void send_call(struct target *target, struct call *call, enum slot_kind kind);
static void detach(struct route *route, struct call *call);
static void take_back_silent(struct route *route, uint64_t now_ms);
static void fail_without_quorum(struct route *route);
static void expire(struct route *route, struct call_list *list, uint64_t now_ms);
static void fail(struct route *route, struct call *call, enum err err, const char *text);
static void fail_all(struct route *route, struct call_list *list);
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
    /* No other node's netd has the same, nor had this one at an earlier start. */
    if (config->node.count > 1)
        router->origin = own_boot * 1024 + config->node.index;
    router->marks = calloc(config->bucket.count, sizeof *router->marks);
    ASSERT(router->marks != NULL);
    for (uint32_t i = 0; i < router->route_count; i++)
        route_init(router, &router->routes[i], i);
    return router;
}

void router_free(struct router *router)
{
    for (uint32_t i = 0; i < router->route_count; i++)
        route_release(&router->routes[i]);
    free(router->marks);
    free(router);
}

void router_bucket_state(struct router *router, uint32_t bucket, enum bucket_state state)
{
    struct route *route = &router->routes[bucket];
    log_debug(router->log, "bucket.state", "bucket=%u state=%s", bucket,
              state == BUCKET_DOWN ? "down"
              : state == BUCKET_UP ? "up"
                                   : "starting");
    route->down = state == BUCKET_DOWN;
    if (!route->down || route_is_up(route))
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
    call->sent = call->maybe = false;
    call->tried = 0;
    route_mark(route);
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
    if (route->follow != NULL)
        msg_pack_unfollow_req(target_outbox(route->follow),
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

void router_flush(struct router *router, uint64_t now_ms)
{
    router->now_ms = now_ms;
    if (router->started_ms == 0)
        router->started_ms = now_ms;
    if (!router->marked)
        return;
    router->marked = false;
    uint32_t working = frames_at_work(router), first = router->first_route;
    for (uint32_t i = 0; i < router->route_count; i++) {
        struct route *route = &router->routes[(first + i) % router->route_count];
        struct target *target = NULL;
        if (!router->marks[route->bucket])
            continue;
        router->marks[route->bucket] = false;
        if (route->frame_pending == 0 && route->appends.first != NULL &&
            working < router->working_max)
            target = route_append_target(route, now_ms);
        if (target != NULL) {
            send_frame(route, target);
            working++;
            router->first_route = route->bucket + 1;
        } else if (route->appends.first != NULL && route->frame_pending == 0 &&
                   route_has_no_quorum(route, now_ms)) {
            fail_without_quorum(route);
        }
        if (route->reads.first != NULL)
            send_reads(route);
        for (uint32_t k = 0; k < route->target_count; k++) {
            target = &route->targets[k];
            if (target->up && !target_flush(target))
                route_take_back(route, target);
        }
        if (route->appends.first != NULL || route->reads.first != NULL)
            route_mark(route);
    }
}

/* Frames that keep a processor busy. One that takes long waits for something else (a slow disk, a
 * process that stands still or starts again): nobody waits for it. */
static uint32_t frames_at_work(const struct router *router)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < router->route_count; i++) {
        const struct route *route = &router->routes[i];
        count += route->frame_pending > 0 && router->now_ms - route->frame_sent_ms < WORKING_MS_MAX;
    }
    return count;
}

void router_tick(struct router *router, uint64_t now_ms)
{
    router->now_ms = now_ms;
    for (uint32_t i = 0; i < router->route_count; i++) {
        struct route *route = &router->routes[i];
        if (route_is_up(route))
            route->up_ms = now_ms;
        if (route->target_count > 1) {
            take_back_silent(route, now_ms);
            route_choose_follow(route, now_ms);
        }
        expire(route, &route->frame, now_ms);
        expire(route, &route->refused, now_ms);
        expire(route, &route->appends, now_ms);
        expire(route, &route->reading, now_ms);
        expire(route, &route->reads, now_ms);
        if (route->down && !route_is_up(route)) {
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

void route_on_message(struct target *target, const struct msg *msg)
{
    struct router *router = target->route->router;
    route_mark(target->route);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wswitch-enum"
    switch (msg->tag) {
    case TAG_append_reply:
    case TAG_fail_reply:
    case TAG_events_reply:
    case TAG_number_reply:
    case TAG_follow_reply:
    case TAG_info_reply:
        /* Every answer begins with its req_id. */
        on_reply(target, msg->u.fail_reply.req_id, msg);
        break;
    case TAG_tail:
        if (target == target->route->follow)
            router->callbacks.on_tail(router->callbacks.ctx, &msg->u.tail);
        break;
    default:
        log_warn(router->log, "message.unexpected", "bucket=%u message=%s", target->route->bucket,
                 msg_name(msg->tag));
    }
#pragma GCC diagnostic pop
}

static void on_reply(struct target *target, uint64_t req_id, const struct msg *msg)
{
    struct route *route = target->route;
    uint32_t index = (uint32_t)req_id;
    if (index >= route->slot_count || !route->slots[index].used ||
        route->slots[index].generation != (uint32_t)(req_id >> 32) ||
        route->slots[index].target != target) {
        /* Where there are other replicas, answers may come after the call was sent to one of
         * them. */
        if (route->target_count == 1)
            log_warn(route->router->log, "reply.unknown", "bucket=%u req_id=%lu", route->bucket,
                     req_id);
        return;
    }
    struct call *call = route->slots[index].call;
    bool append = route->slots[index].kind == SLOT_APPEND;
    route_release_slot(route, index);
    if (append) {
        ASSERT(route->frame_pending > 0);
        route->frame_pending--;
        route->frame_moved_ms = route->router->now_ms;
    }
    bool refused = call != NULL && is_refusal(target, call, msg);
    if (call != NULL) {
        call_list_remove(call);
        call->in_flight = false;
    }
    if (append && msg->tag == TAG_append_reply)
        route->leader = target->node + 1;
    if (refused)
        requeue_refused(route, call);
    if (append && route->frame_pending == 0)
        end_frame(route);
    if (call != NULL && !refused)
        call->done(call, msg);
}

/* All of it is answered. What was refused goes first in the next one, in a new epoch. */
static void end_frame(struct route *route)
{
    if (route->refused.first == NULL)
        return;
    prepend(&route->appends, &route->refused);
    route->epoch++;
    route->number = 0;
}

/* "Not now" or "not I", and there is time left: nothing happened, or what happened will be
 * recognised by its ids, so the call is sent again rather than failed. */
static bool is_refusal(struct target *target, struct call *call, const struct msg *msg)
{
    const struct route *route = target->route;
    if (msg->tag != TAG_fail_reply)
        return false;
    bool refused = is_append(call) ? is_refused_append(target, call, &msg->u.fail_reply)
                                   : is_refused_read(target, call, &msg->u.fail_reply);
    return refused &&
           (call->deadline_ms == 0 || route->router->now_ms + REFUSED_PAUSE_MS < call->deadline_ms);
}

static bool is_refused_append(struct target *target, struct call *call,
                              const struct msg_fail_reply *reply)
{
    struct route *route = target->route;
    uint64_t now_ms = route->router->now_ms;
    switch (reply->error) {
    case ERR_BUSY:
    case ERR_LOADING:
    case ERR_AGAIN:
    case ERR_DOWN: /* the process is about to end; its successor will take the call */
        target->appends_rest_until_ms = now_ms + REFUSED_PAUSE_MS;
        return true;
    case ERR_ORDER:
        return true;
    case ERR_UNKNOWN:
        call->maybe = true;
        /* fallthrough */
    case ERR_NOT_LEADER:
        target->appends_rest_until_ms = now_ms + NOT_LEADER_REST_MS;
        if (route->leader == target->node + 1)
            route->leader = 0;
        route_learn_leader(route, reply->leader, reply->term);
        return true;
    case ERR_NO_QUORUM:
        target->appends_rest_until_ms = now_ms + NO_QUORUM_REST_MS;
        target->no_quorum_until_ms = now_ms + NO_QUORUM_HOLDS_MS;
        if (route->leader == target->node + 1)
            route->leader = 0;
        return true; /* perhaps another one sees it; router_flush fails it where none does */
    default:
        /* What a first try did, only a later answer can say. */
        return false;
    }
}

static bool is_refused_read(struct target *target, struct call *call,
                            const struct msg_fail_reply *reply)
{
    struct route *route = target->route;
    uint64_t now_ms = route->router->now_ms;
    switch (reply->error) {
    case ERR_BUSY:
    case ERR_LOADING:
    case ERR_AGAIN:
    case ERR_DOWN:
        target->reads_rest_until_ms = now_ms + REFUSED_PAUSE_MS;
        return true;
    case ERR_NOT_READY:
    case ERR_NOT_LEADER:
        route_learn_leader(route, reply->leader, reply->term);
        if (call->msg.tag == TAG_follow_req)
            target->follows_rest_until_ms = now_ms + FOLLOW_REST_MS;
        else
            target->reads_rest_until_ms = now_ms + NOT_READY_REST_MS;
        return true;
    case ERR_READ:
    case ERR_CORRUPT:
    case ERR_IO:
        /* Another replica's copy may be whole. */
        call->tried |= target_bit(target);
        return call->msg.tag != TAG_follow_req &&
               route_read_target(route, call, UINT64_MAX) != NULL;
    default:
        return false;
    }
}

static void requeue_refused(struct route *route, struct call *call)
{
    route->router->stats.retried++;
    if (is_append(call)) {
        route->queued_bytes += call->bytes;
        route->queued_appends++;
        call_list_add(&route->refused, call);
    } else {
        call_list_add(&route->reads, call);
    }
}

void route_take_back(struct route *route, struct target *target)
{
    struct call_list reading = {0};
    bool frame = route->frame_target == target && route->frame.first != NULL;
    route_mark(route);
    for (struct call *call = route->reading.first, *next; call != NULL; call = next) {
        next = call->next;
        if (route->slots[call->slot].target != target)
            continue;
        call->in_flight = false;
        call_list_remove(call);
        call_list_add(&reading, call);
    }
    for (uint32_t i = 0; i < route->slot_count; i++) {
        if (route->slots[i].used && route->slots[i].target == target)
            route_release_slot(route, i);
    }
    prepend(&route->reads, &reading);
    if (route->frame_target != target)
        return;
    route->frame_pending = 0;
    route->frame_target = NULL;
    if (route->leader == target->node + 1)
        route->leader = 0;
    for (struct call *call = route->frame.first; call != NULL; call = call->next) {
        call->in_flight = false;
        call->maybe = true;
        route->queued_bytes += call->bytes;
        route->queued_appends++;
        route->router->stats.resent++;
    }
    if (frame || route->refused.first != NULL) {
        route->epoch++;
        route->number = 0;
    }
    prepend(&route->appends, &route->frame);
    prepend(&route->appends, &route->refused);
}

/* A process may stand still while its node lives. */
static void take_back_silent(struct route *route, uint64_t now_ms)
{
    struct target *silent = NULL;
    if (route->frame_pending > 0 && now_ms - route->frame_moved_ms >= SILENCE_MS_MAX)
        silent = route->frame_target;
    for (struct call *call = route->reading.first; call != NULL && silent == NULL;
         call = call->next) {
        struct target *target = route->slots[call->slot].target;
        if (call->msg.tag != TAG_follow_req && now_ms - call->sent_ms >= SILENCE_MS_MAX)
            silent = target;
    }
    if (silent == NULL)
        return;
    silent->appends_rest_until_ms = silent->reads_rest_until_ms = now_ms + SILENCE_MS_MAX;
    silent->follows_rest_until_ms = now_ms + FOLLOW_REST_MS;
    route_take_back(route, silent);
}

/* At once, not after a timeout: but for those of which nobody knows whether they were taken. */
static void fail_without_quorum(struct route *route)
{
    struct call *last = route->appends.last, *next;
    char text[64];
    for (struct call *call = route->appends.first; call != NULL; call = next) {
        next = call == last ? NULL : call->next;
        if (call->maybe)
            continue;
        snprintf(text, sizeof text, "no quorum for partition %lu",
                 call->msg.u.append_req.partition);
        fail(route, call, ERR_NO_QUORUM, text);
    }
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

static void send_frame(struct route *route, struct target *target)
{
    struct router *router = route->router;
    uint64_t room = router->config->network.bucket_inflight_bytes, bytes = 0;
    bool was_full = !router_has_room(router, route->bucket);
    router->stats.frames++;
    route->frame_target = target;
    route->frame_sent_ms = route->frame_moved_ms = router->now_ms;
    while (route->appends.first != NULL &&
           (bytes == 0 || bytes + route->appends.first->bytes <= room)) {
        struct call *call = route->appends.first;
        struct msg_append_req *req = &call->msg.u.append_req;
        bytes += call->bytes;
        call_list_remove(call);
        route->queued_bytes -= call->bytes;
        route->queued_appends--;
        if (call->sent)
            req->flags |= APPEND_RETRY;
        if (router->origin != 0) {
            req->origin = router->origin;
            req->epoch = route->epoch;
            req->number = route->number++;
        }
        send_call(target, call, SLOT_APPEND);
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
        struct target *target = route_read_target(route, call, route->router->now_ms);
        if (target == NULL && route->target_count > 1)
            continue; /* others may have somebody to ask */
        if (target == NULL || route->slots_used[kind] >=
                                  (kind == SLOT_SCAN ? SCANS_IN_FLIGHT_MAX : READS_IN_FLIGHT_MAX))
            break;
        call_list_remove(call);
        send_call(target, call, kind);
        call_list_add(&route->reading, call);
    }
}

static void send_call(struct target *target, struct call *call, enum slot_kind kind)
{
    struct route *route = target->route;
    call->slot = route_take_slot(target, call, kind);
    /* Every request begins with its req_id. */
    call->msg.u.get_req.req_id = (uint64_t)route->slots[call->slot].generation << 32 | call->slot;
    call->in_flight = true;
    call->sent = true;
    call->sent_ms = route->router->now_ms;
    msg_pack(target_outbox(target), &call->msg);
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
