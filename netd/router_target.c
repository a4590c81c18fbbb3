/* The replicas of a bucket as targets of calls: their links, what they said of themselves, and
 * which of them is asked. */
#include "netd/router_internal.h"

#include <stdlib.h>

#include "common/placement.h"

/* A process that has ended is there again, or its node says who leads, within about so long. */
#define LOST_REST_MS 100u
/* A node that has just begun takes clients before its links to the others are there, and when all
 * begin at once nobody leads yet: that is no reason to refuse. Links take about a second, an
 * election one more. */
#define APPEAR_MS 3000u
/* A node from which none of a bucket's replicas is reached for so long sees no quorum; shorter, it
 * may be a link that breaks and is made again. */
#define UNREACHED_MS 2000u

static void on_up(void *ctx, struct link *link);
static void on_down(void *ctx, struct link *link);
static void on_message(void *ctx, struct link *link, const struct msg *msg);
static void target_lost(struct target *target);
static struct target *find_target(struct route *route, uint32_t node);
static void leave_followed(struct route *route, struct target *old);

void route_init(struct router *router, struct route *route, uint32_t bucket)
{
    const struct config *config = router->config;
    uint32_t nodes[REPLICAS_MAX];
    *route = (struct route){.router = router, .bucket = bucket, .slot_free = SLOT_NONE, .epoch = 1};
    route->target_count =
        placement_replicas(bucket, config->node.count, config->replication.factor, nodes);
    for (uint32_t i = 0; i < route->target_count; i++) {
        struct target *target = &route->targets[i];
        *target = (struct target){
            .route = route, .node = nodes[i], .local = nodes[i] == config->node.index};
        if (target->local)
            route->local = target;
    }
}

void route_release(struct route *route)
{
    for (uint32_t i = 0; i < route->target_count; i++) {
        if (route->targets[i].link != NULL)
            link_close(route->targets[i].link);
        buf_release(&route->targets[i].out);
    }
    free(route->slots);
}

/* --- which --- */

uint8_t target_bit(const struct target *target)
{
    return (uint8_t)(1u << (target - target->route->targets));
}

struct target *route_append_target(struct route *route, uint64_t now_ms)
{
    struct target *leader =
        route->leader == 0 ? NULL : find_target(route, (uint32_t)(route->leader - 1));
    if (leader != NULL && leader->up && now_ms >= leader->appends_rest_until_ms)
        return leader;
    for (uint32_t i = 0; i < route->target_count; i++) {
        struct target *target = &route->targets[(route->next_try + i) % route->target_count];
        if (target->up && now_ms >= target->appends_rest_until_ms) {
            route->next_try = (uint32_t)(target - route->targets) + 1;
            return target;
        }
    }
    return NULL;
}

struct target *route_read_target(struct route *route, const struct call *call, uint64_t now_ms)
{
    if (call->msg.tag == TAG_follow_req)
        return route->follow != NULL && now_ms >= route->follow->follows_rest_until_ms
                   ? route->follow
                   : NULL;
    struct target *best = NULL;
    for (uint32_t i = 0; i < route->target_count; i++) {
        struct target *target = &route->targets[i];
        if (!target->up || now_ms < target->reads_rest_until_ms ||
            (call->tried & target_bit(target)) != 0)
            continue;
        if (target->local)
            return target;
        if (best == NULL || route->leader == target->node + 1)
            best = target;
    }
    return best;
}

void route_choose_follow(struct route *route, uint64_t now_ms)
{
    struct router *router = route->router;
    struct target *best = NULL;
    for (uint32_t i = 0; i < route->target_count; i++) {
        struct target *target = &route->targets[i];
        if (!target->up)
            continue;
        bool rests = now_ms < target->follows_rest_until_ms;
        bool better = best == NULL || now_ms < best->follows_rest_until_ms;
        if (best == NULL || (!rests && (better || target->local)))
            best = target;
        /* Who is followed already stays so, unless this node has one of its own. */
        if (!rests && target == route->follow && (best == NULL || !best->local))
            best = target;
    }
    if (best == route->follow)
        return;
    struct target *old = route->follow;
    route->follow = best;
    if (old != NULL) {
        leave_followed(route, old);
        router->callbacks.on_bucket_lost(router->callbacks.ctx, route->bucket);
    }
    if (best != NULL)
        router->callbacks.on_bucket_up(router->callbacks.ctx, route->bucket);
}

/* What it still answers would be taken for the answer of the one that is followed now, whose tail
 * would never come; and it needn't send its own any more. */
static void leave_followed(struct route *route, struct target *old)
{
    const struct config *config = route->router->config;
    for (struct call *call = route->reading.first, *next; call != NULL; call = next) {
        next = call->next;
        if (call->msg.tag != TAG_follow_req || route->slots[call->slot].target != old)
            continue;
        route_release_slot(route, call->slot);
        call->in_flight = false;
        call_list_remove(call);
        call_list_add(&route->reads, call);
        route_mark(route);
    }
    for (uint32_t p = route->bucket; old->up && p < config->partition.count;
         p += config->bucket.count)
        msg_pack_unfollow_req(target_outbox(old), &(struct msg_unfollow_req){.partition = p});
}

bool route_is_up(const struct route *route)
{
    for (uint32_t i = 0; i < route->target_count; i++) {
        if (route->targets[i].up)
            return true;
    }
    return false;
}

bool router_bucket_is_up(const struct router *router, uint32_t bucket)
{
    return route_is_up(&router->routes[bucket]);
}

bool router_bucket_is_down(const struct router *router, uint32_t bucket)
{
    const struct route *route = &router->routes[bucket];
    return route->down && !route_is_up(route);
}

bool route_has_no_quorum(const struct route *route, uint64_t now_ms)
{
    bool any = false;
    if (now_ms - route->router->started_ms < APPEAR_MS)
        return false;
    for (uint32_t i = 0; i < route->target_count; i++) {
        const struct target *target = &route->targets[i];
        if (target->up && now_ms >= target->no_quorum_until_ms)
            return false;
        any |= target->up;
    }
    /* One process that is its bucket's only replica is waited for. */
    bool others = route->target_count > 1 || route->local == NULL;
    return any || (others && now_ms - route->up_ms >= UNREACHED_MS);
}

void route_learn_leader(struct route *route, uint64_t leader, uint64_t term)
{
    if (term < route->leader_term || (leader == 0 && term == route->leader_term))
        return;
    route->leader_term = term;
    route->leader = leader;
    struct target *target = leader == 0 ? NULL : find_target(route, (uint32_t)(leader - 1));
    if (target != NULL)
        target->appends_rest_until_ms = 0;
}

void router_hint(struct router *router, uint32_t bucket, uint64_t leader, uint64_t term)
{
    struct route *route = &router->routes[bucket];
    if (term > route->leader_term && leader != 0)
        route_learn_leader(route, leader, term);
}

static struct target *find_target(struct route *route, uint32_t node)
{
    for (uint32_t i = 0; i < route->target_count; i++) {
        if (route->targets[i].node == node)
            return &route->targets[i];
    }
    return NULL;
}

/* --- coming and going --- */

void router_dial(struct router *router, uint32_t bucket, uint64_t link_id, uint64_t peer_boot,
                 const char *path)
{
    ASSERT(bucket < router->route_count);
    struct route *route = &router->routes[bucket];
    struct target *target = route->local;
    if (target == NULL) {
        log_error(router->log, "link.failed", "bucket=%u error=\"no replica is placed here\"",
                  bucket);
        return;
    }
    if (target->link != NULL) {
        link_close(target->link);
        target->link = NULL;
        target_lost(target);
    }
    struct link_config config = {
        .path = path, .own_boot = router->own_boot, .peer_boot = peer_boot, .log = router->log};
    struct link_callbacks callbacks = {
        .ctx = target, .on_up = on_up, .on_down = on_down, .on_message = on_message};
    target->link_id = link_id;
    route->down = false;
    enum err err = link_open(router->loop, &config, &callbacks, &target->link);
    if (err != ERR_OK) {
        target->link = NULL;
        log_error(router->log, "link.failed", "bucket=%u link=%lu error=%s", bucket, link_id,
                  err_name(err));
        router->callbacks.on_link_state(router->callbacks.ctx, link_id, false);
    }
}

void router_node_state(struct router *router, uint32_t node, bool alive)
{
    for (uint32_t i = 0; i < router->route_count; i++) {
        struct target *target = find_target(&router->routes[i], node);
        if (target == NULL || target->local || target->up == alive)
            continue;
        if (alive) {
            target->up = true;
            target->appends_rest_until_ms = target->reads_rest_until_ms = 0;
            target->follows_rest_until_ms = target->no_quorum_until_ms = 0;
            route_choose_follow(target->route, router->now_ms);
        } else {
            target_lost(target);
        }
    }
}

void router_on_remote(struct router *router, uint32_t node, uint32_t bucket, struct span bytes)
{
    struct target *target =
        bucket < router->route_count ? find_target(&router->routes[bucket], node) : NULL;
    struct msg msg;
    while (target != NULL && target->up && bytes.len > 0) {
        enum err err = msg_unpack(&bytes, &msg);
        if (err != ERR_OK) {
            log_warn(router->log, "remote.garbled", "node=%u bucket=%u error=%s", node, bucket,
                     err_name(err));
            return;
        }
        route_on_message(target, &msg);
    }
}

/* It is asked again after a while: its process will be there again, or others lead by then. */
void router_remote_lost(struct router *router, uint32_t node, uint32_t bucket)
{
    struct target *target = find_target(&router->routes[bucket], node);
    if (target == NULL || target->local || !target->up)
        return;
    target_lost(target);
    target->up = true;
    target->appends_rest_until_ms = target->reads_rest_until_ms = router->now_ms + LOST_REST_MS;
    target->follows_rest_until_ms = router->now_ms + LOST_REST_MS;
    route_choose_follow(target->route, router->now_ms);
}

struct buf *router_local_outbox(struct router *router, uint32_t bucket)
{
    const struct target *local = router->routes[bucket].local;
    if (local == NULL || !local->up)
        return NULL;
    route_mark(local->route);
    return link_outbox(local->link);
}

void router_may_wait(struct router *router, uint32_t bucket, size_t before)
{
    struct target *local = router->routes[bucket].local;
    if (local->patient_bytes == before)
        local->patient_bytes = link_outbox(local->link)->len;
}

void router_hurry(struct router *router)
{
    for (uint32_t i = 0; i < router->route_count; i++) {
        struct target *local = router->routes[i].local;
        if (local == NULL || local->patient_bytes == 0)
            continue;
        local->patient_bytes = 0;
        route_mark(&router->routes[i]);
    }
}

static void on_up(void *ctx, struct link *link)
{
    struct target *target = ctx;
    struct router *router = target->route->router;
    (void)link;
    target->up = true;
    target->route->down = false;
    target->appends_rest_until_ms = target->reads_rest_until_ms = 0;
    target->follows_rest_until_ms = target->no_quorum_until_ms = 0;
    log_debug(router->log, "link.up", "bucket=%u link=%lu", target->route->bucket, target->link_id);
    router->callbacks.on_link_state(router->callbacks.ctx, target->link_id, true);
    router->callbacks.on_local(router->callbacks.ctx, target->route->bucket, true);
    route_choose_follow(target->route, router->now_ms);
}

static void on_down(void *ctx, struct link *link)
{
    struct target *target = ctx;
    struct router *router = target->route->router;
    log_debug(router->log, "link.down", "bucket=%u link=%lu was_up=%d", target->route->bucket,
              target->link_id, target->up);
    target->link = NULL;
    link_close(link);
    router->callbacks.on_link_state(router->callbacks.ctx, target->link_id, false);
    target_lost(target);
}

static void target_lost(struct target *target)
{
    struct router *router = target->route->router;
    bool was_up = target->up;
    target->up = false;
    target->patient_bytes = 0;
    if (target->local && was_up)
        router->callbacks.on_local(router->callbacks.ctx, target->route->bucket, false);
    target->out.len = 0;
    route_take_back(target->route, target);
    route_choose_follow(target->route, router->now_ms);
}

static void on_message(void *ctx, struct link *link, const struct msg *msg)
{
    (void)link;
    struct target *target = ctx;
    const struct router_callbacks *callbacks = &target->route->router->callbacks;
    if (msg->tag == TAG_relay || msg->tag == TAG_replica_state)
        callbacks->on_local_message(callbacks->ctx, target->route->bucket, msg);
    else
        route_on_message(target, msg);
}

/* --- out --- */

struct buf *target_outbox(struct target *target)
{
    route_mark(target->route);
    return target->local ? link_outbox(target->link) : &target->out;
}

bool target_flush(struct target *target)
{
    struct router *router = target->route->router;
    if (target->local) {
        size_t patient = target->patient_bytes;
        if (patient == 0 || link_outbox(target->link)->len != patient) {
            target->patient_bytes = 0;
            link_flush(target->link);
        }
        return true;
    }
    if (target->out.len == 0)
        return true;
    bool sent = router->callbacks.send(router->callbacks.ctx, target->node, target->route->bucket,
                                       buf_span(&target->out));
    buf_clear(&target->out, 1u << 20);
    return sent;
}
