/* Relay messages to links and peers, and back. */
#include "bucketd/relay.h"

#include <stdlib.h>

#include "common/assert.h"

/* Capacity that an empty buffer keeps: there are few peers, and perhaps many links. */
#define PEER_KEEP_BYTES (256u << 10)
#define LINK_KEEP_BYTES (64u << 10)

static void on_requests(struct relay *relay, const struct msg_relay *m);
static void on_notice(struct relay *relay, const struct msg_relay *m);
static bool is_request(const struct msg *msg);
static bool next_message(struct relay *relay, const struct msg_relay *m, struct span *rest,
                         struct msg *ret_msg);
static struct relay_link *find_node(struct relay *relay, uint64_t node);
static struct relay_link *find_link(struct relay *relay, uint32_t number);
static struct relay_link *add_link(struct relay *relay, uint32_t node, uint64_t boot);
static void lose_link(struct relay *relay, struct relay_link *link);
static struct buf *room(struct relay *relay, struct relay_out *out);
static void ship(struct relay *relay, struct relay_out *out);
static bool is_routine(struct span bytes);

void relay_init(struct relay *relay, uint32_t node, const uint32_t *replicas, uint32_t count,
                const struct relay_ops *ops, const struct log *log)
{
    ASSERT(count <= REPLICAS_MAX);
    *relay = (struct relay){.ops = *ops, .log = log};
    for (uint32_t i = 0; i < count; i++) {
        if (replicas[i] != node)
            relay->peers[relay->peer_count++] =
                (struct relay_out){.kind = RELAY_PEER, .node = replicas[i]};
    }
}

void relay_release(struct relay *relay)
{
    for (uint32_t i = 0; i < relay->peer_count; i++)
        buf_release(&relay->peers[i].bytes);
    for (uint32_t i = 0; i < relay->link_count; i++)
        buf_release(&relay->links[i].out.bytes);
    free(relay->links);
}

uint32_t relay_new_link(struct relay *relay)
{
    ASSERT(relay->last_number < UINT32_MAX);
    return ++relay->last_number;
}

struct buf *relay_peer(struct relay *relay, uint32_t node)
{
    for (uint32_t i = 0; i < relay->peer_count; i++) {
        if (relay->peers[i].node == node)
            return room(relay, &relay->peers[i]);
    }
    return NULL;
}

struct buf *relay_outbox(struct relay *relay, uint32_t link)
{
    struct relay_link *found = find_link(relay, link);
    return found != NULL ? room(relay, &found->out) : NULL;
}

/* --- In --- */

void relay_on_message(struct relay *relay, const struct msg_relay *m)
{
    struct msg msg;
    struct span rest = m->bytes;
    struct relay_link *link = find_node(relay, m->node);
    if (m->node >= NODE_COUNT_MAX) {
        log_warn(relay->log, "relay.refused", "node=%lu", m->node);
    } else if (m->kind == RELAY_PEER || m->kind == RELAY_TICK) {
        while (next_message(relay, m, &rest, &msg))
            relay->ops.on_peer(relay->ops.ctx, (uint32_t)m->node, &msg);
    } else if (m->kind == RELAY_REQUEST) {
        on_requests(relay, m);
    } else if (m->kind == RELAY_LINK_LOST) {
        if (link != NULL && link->out.boot <= m->boot)
            lose_link(relay, link);
    } else if (m->kind == RELAY_NOTICE) {
        on_notice(relay, m);
    } else {
        log_warn(relay->log, "relay.refused", "node=%lu kind=%lu", m->node, m->kind);
    }
}

static void on_requests(struct relay *relay, const struct msg_relay *m)
{
    struct relay_link *link = find_node(relay, m->node);
    if (link != NULL && link->out.boot > m->boot)
        return; /* of a netd that has ended since */
    if (link != NULL && link->out.boot < m->boot) {
        lose_link(relay, link);
        link = NULL;
    }
    if (link == NULL)
        link = add_link(relay, (uint32_t)m->node, m->boot);
    uint32_t number = link->number;
    struct msg msg;
    struct span rest = m->bytes;
    while (next_message(relay, m, &rest, &msg)) {
        if (is_request(&msg))
            relay->ops.on_request(relay->ops.ctx, number, &msg);
        else
            log_warn(relay->log, "relay.refused", "node=%lu message=%s", m->node,
                     msg_name(msg.tag));
    }
}

/* A node speaks of its own processes only. */
static void on_notice(struct relay *relay, const struct msg_relay *m)
{
    struct msg msg;
    struct span rest = m->bytes;
    while (next_message(relay, m, &rest, &msg)) {
        if (msg.tag == TAG_peer_down && msg.u.peer_down.node == m->node)
            relay->ops.on_peer_down(relay->ops.ctx, &msg);
        else
            log_warn(relay->log, "relay.refused", "node=%lu message=%s kind=notice", m->node,
                     msg_name(msg.tag));
    }
}

static bool is_request(const struct msg *msg)
{
    switch ((int)msg->tag) {
    case TAG_append_req:
    case TAG_get_req:
    case TAG_scan_partition_req:
    case TAG_scan_stream_req:
    case TAG_version_req:
    case TAG_sequence_req:
    case TAG_follow_req:
    case TAG_unfollow_req:
    case TAG_info_req:
        return true;
    default:
        return false;
    }
}

/* Skips messages of a newer version; ends at what can't be read. */
static bool next_message(struct relay *relay, const struct msg_relay *m, struct span *rest,
                         struct msg *ret_msg)
{
    while (rest->len > 0) {
        enum err err = msg_unpack(rest, ret_msg);
        if (err == ERR_OK)
            return true;
        if (err != ERR_NOTFOUND) {
            log_warn(relay->log, "relay.garbled", "node=%lu kind=%lu error=%s bytes=%zu", m->node,
                     m->kind, err_name(err), m->bytes.len);
            return false;
        }
    }
    return false;
}

void relay_on_netd_lost(struct relay *relay)
{
    for (uint32_t i = 0; i < relay->peer_count; i++)
        buf_clear(&relay->peers[i].bytes, PEER_KEEP_BYTES);
    while (relay->link_count > 0)
        lose_link(relay, &relay->links[relay->link_count - 1]);
}

/* --- Links --- */

static struct relay_link *find_node(struct relay *relay, uint64_t node)
{
    for (uint32_t i = 0; i < relay->link_count; i++) {
        if (relay->links[i].out.node == node)
            return &relay->links[i];
    }
    return NULL;
}

/* Answers to one node mostly follow one another. */
static struct relay_link *find_link(struct relay *relay, uint32_t number)
{
    if (relay->last_found < relay->link_count && relay->links[relay->last_found].number == number)
        return &relay->links[relay->last_found];
    for (uint32_t i = 0; i < relay->link_count; i++) {
        if (relay->links[i].number == number) {
            relay->last_found = i;
            return &relay->links[i];
        }
    }
    return NULL;
}

static struct relay_link *add_link(struct relay *relay, uint32_t node, uint64_t boot)
{
    if (relay->link_count == relay->link_cap) {
        relay->link_cap = relay->link_cap == 0 ? 4 : relay->link_cap * 2;
        relay->links = realloc(relay->links, relay->link_cap * sizeof *relay->links);
        ASSERT(relay->links != NULL);
    }
    ASSERT(relay->link_count < NODE_COUNT_MAX);
    struct relay_link *link = &relay->links[relay->link_count++];
    *link = (struct relay_link){.number = relay_new_link(relay),
                                .out = {.kind = RELAY_REPLY, .node = node, .boot = boot}};
    return link;
}

static void lose_link(struct relay *relay, struct relay_link *link)
{
    uint32_t number = link->number;
    buf_release(&link->out.bytes);
    *link = relay->links[--relay->link_count];
    relay->ops.on_link_lost(relay->ops.ctx, number);
}

/* --- Out --- */

static struct buf *room(struct relay *relay, struct relay_out *out)
{
    if (relay->ops.netd_outbox(relay->ops.ctx) == NULL)
        return NULL;
    if (out->bytes.len >= RELAY_BYTES)
        ship(relay, out);
    return &out->bytes;
}

static void ship(struct relay *relay, struct relay_out *out)
{
    struct buf *to = relay->ops.netd_outbox(relay->ops.ctx);
    bool routine = out->kind == RELAY_PEER && is_routine(buf_span(&out->bytes));
    if (to != NULL)
        msg_pack_relay(to, &(struct msg_relay){.kind = routine ? RELAY_TICK : out->kind,
                                               .node = out->node,
                                               .boot = out->boot,
                                               .bytes = buf_span(&out->bytes)});
    buf_clear(&out->bytes, out->kind == RELAY_PEER ? PEER_KEEP_BYTES : LINK_KEEP_BYTES);
}

/* One tick that nobody waits for, and nothing else. */
static bool is_routine(struct span bytes)
{
    struct msg msg;
    return msg_unpack(&bytes, &msg) == ERR_OK && bytes.len == 0 && msg.tag == TAG_tick &&
           msg.u.tick.routine;
}

void relay_flush(struct relay *relay)
{
    for (uint32_t i = 0; i < relay->peer_count; i++) {
        if (relay->peers[i].bytes.len > 0)
            ship(relay, &relay->peers[i]);
    }
    for (uint32_t i = 0; i < relay->link_count; i++) {
        if (relay->links[i].out.bytes.len > 0)
            ship(relay, &relay->links[i].out);
    }
}
