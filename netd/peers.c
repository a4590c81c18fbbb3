/* Sessions with the other nodes: their beginnings and ends, frames in and out. */
#include "netd/peers.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "common/assert.h"
#include "netd/peers_internal.h"

/* Without a session, hellos go out so often. */
#define HELLO_MS 250u
/* Hellos that the other side's may ask for between two ticks: somebody may play recordings. */
#define ANSWERS_MAX 5u
/* Frames for one node in one turn of the loop (1 MiB): others have their turn, too. */
#define BURST_MAX 4u
/* Ticks that far apart: this process stood still, not the others. */
#define STALL_MS 1000u
/* Where nobody listens so long after a session's end, nobody is about to: a netd that is started
 * again listens after some 10 ms. */
#define GONE_MS 250u
/* Nodes that aren't there for so long are mentioned, all of them in one line so often, and get
 * hellos less often. */
#define ABSENT_MS       60000u
#define ABSENT_HELLO_MS 1000u

static bool on_frame(void *ctx, struct peer_source *source, struct span frame);
static enum peer_refusal on_hello(struct peer_node *node, struct peer_source *source,
                                  const struct peer_head *head, struct span body);
static enum peer_refusal on_messages(struct peer_node *node, struct peer_source *source,
                                     struct span body);
static enum peer_refusal on_item(struct peer_node *node, const struct msg_item *item);
static bool refuse(struct peers *peers, struct peer_source *source, struct peer_node *node,
                   enum peer_refusal refusal);
static void believe(struct peer_node *node, struct peer_source *source);
static void begin_session(struct peer_node *node, const struct msg_peer_hello *hello);
static void end_session(struct peer_node *node, const char *why);
static void session_over(struct peer_node *node, const char *why);
static void on_source_lost(void *ctx, struct peer_source *source);
static void on_connected(void *ctx, uint32_t node);
static void on_disconnected(void *ctx, uint32_t node);
static void on_refused(void *ctx, uint32_t node);
static void on_ready(void *ctx, uint32_t node);
static unsigned give_hints(void *ctx, uint32_t node, struct sockaddr_storage *to, unsigned max);
static void push(struct peer_node *node);
static void judge_connection(struct peer_node *node);
static bool on_vouch(void *ctx, uint32_t node, const uint8_t vouch[static PEER_VOUCH_BYTES]);
static void tick_node(struct peer_node *node, uint64_t now_ms);
static bool is_absent(const struct peer_node *node, uint64_t now_ms);
static void mention_absent(struct peers *peers, uint64_t now_ms);
static void free_nodes(struct peers *peers);

static struct uuid new_nonce(void)
{
    struct uuid nonce;
    ssize_t len;
    do
        len = getrandom(nonce.bytes, sizeof nonce.bytes, 0);
    while (len < 0 && errno == EINTR);
    ASSERT(len == sizeof nonce.bytes);
    return nonce;
}

enum err peers_new(uv_loop_t *loop, const struct peers_config *config,
                   const struct peers_callbacks *callbacks, struct peers **ret_peers)
{
    const struct config *c = config->config;
    bool named = c->network.peers.count > 0;
    ASSERT(c->node.count > 1 &&
           (named ? c->network.peers.count == c->node.count : c->network.mdns));
    struct peers *peers = calloc(1, sizeof *peers);
    ASSERT(peers != NULL);
    *peers = (struct peers){
        .loop = loop,
        .config = c,
        .log = config->log,
        .callbacks = *callbacks,
        .own = {.cluster_id = config->cluster_id,
                .secret = span_str(c->cluster.secret),
                .node = c->node.index,
                .boot = config->boot,
                .age_ms = config->age_ms,
                .version = span_str(SIERRADB_VERSION)},
        .node_count = c->node.count,
        .ticked_ms = uv_now(loop),
    };
    peers->hello_key = peer_hello_key_new(&peers->own);
    peers->nodes = calloc(peers->node_count, sizeof *peers->nodes);
    ASSERT(peers->nodes != NULL);
    for (uint32_t i = 0; i < peers->node_count; i++) {
        struct peer_node *node = &peers->nodes[i];
        node->peers = peers;
        node->node = i;
        node->changed_ms = peers->ticked_ms;
        if (named)
            config_print_peer(&c->network.peers.list[i], &node->name);
        peer_session_init(&node->session, &peers->own, peers->hello_key, i, new_nonce());
    }
    peers_set_heartbeats(peers);
    enum err err = peer_wire_new(loop, c, config->log,
                                 &(struct peer_wire_callbacks){
                                     .ctx = peers,
                                     .on_frame = on_frame,
                                     .on_source_lost = on_source_lost,
                                     .on_connected = on_connected,
                                     .on_disconnected = on_disconnected,
                                     .on_refused = on_refused,
                                     .on_vouch = on_vouch,
                                     .on_ready = on_ready,
                                     .hints = c->network.mdns ? give_hints : NULL,
                                 },
                                 &peers->wire);
    if (err != ERR_OK) {
        free_nodes(peers);
        return err;
    }
    if (c->network.mdns)
        peers->mdns = mdns_new(loop, c, config->log, &config->cluster_id);
    *ret_peers = peers;
    return ERR_OK;
}

void peers_close(struct peers *peers)
{
    peer_wire_close(peers->wire);
    if (peers->mdns != NULL)
        mdns_close(peers->mdns);
    free_nodes(peers);
}

void peers_leave(struct peers *peers)
{
    if (peers->mdns != NULL)
        mdns_goodbye(peers->mdns);
}

static void free_nodes(struct peers *peers)
{
    for (uint32_t i = 0; i < peers->node_count; i++) {
        struct peer_node *node = &peers->nodes[i];
        buf_release(&node->name);
        peer_session_release(&node->session);
        peer_outbox_release(&node->outbox);
        peer_inbox_release(&node->inbox);
        free(node->buckets);
    }
    free(peers->nodes);
    peer_key_free(peers->hello_key);
    buf_release(&peers->scratch);
    buf_release(&peers->body);
    buf_release(&peers->buckets);
    free(peers);
}

/* --- Items and turns --- */

bool peers_send(struct peers *peers, uint32_t node, uint32_t bucket, enum relay_kind kind,
                uint64_t boot, struct span bytes)
{
    ASSERT(node < peers->node_count && node != peers->own.node);
    struct peer_node *to = &peers->nodes[node];
    bool patient = kind == RELAY_TICK && peer_outbox_bytes(&to->outbox) == to->patient_bytes;
    if (to->alive && (boot == 0 || boot == to->boot) &&
        peer_outbox_put(&to->outbox, kind, bucket, bytes)) {
        if (patient)
            to->patient_bytes = peer_outbox_bytes(&to->outbox);
        return true;
    }
    to->stats.items_dropped++;
    return false;
}

void peers_hurry(struct peers *peers)
{
    for (uint32_t i = 0; i < peers->node_count; i++)
        peers->nodes[i].patient_bytes = 0;
}

void peers_flush(struct peers *peers)
{
    for (uint32_t i = 0; i < peers->node_count; i++) {
        struct peer_node *node = &peers->nodes[i];
        if (node->hello_due || node->gossip_due ||
            peer_outbox_bytes(&node->outbox) > node->patient_bytes)
            push(node);
    }
}

bool peers_flushed(const struct peers *peers)
{
    for (uint32_t i = 0; i < peers->node_count; i++) {
        const struct peer_node *node = &peers->nodes[i];
        if (node->alive &&
            (peer_outbox_bytes(&node->outbox) > 0 || !peer_wire_ready(peers->wire, i)))
            return false;
    }
    return true;
}

uint64_t peers_boot(const struct peers *peers, uint32_t node)
{
    ASSERT(node < peers->node_count);
    return peers->nodes[node].alive ? peers->nodes[node].boot : 0;
}

void peers_tick(struct peers *peers)
{
    uint64_t now_ms = uv_now(peers->loop), gap_ms = now_ms - peers->ticked_ms;
    peers->ticked_ms = now_ms;
    if (peers->mdns != NULL)
        mdns_tick(peers->mdns);
    peer_wire_tick(peers->wire);
    for (uint32_t i = 0; i < peers->node_count; i++) {
        struct peer_node *node = &peers->nodes[i];
        if (i == peers->own.node)
            continue;
        if (gap_ms > STALL_MS && node->heard_ms != 0)
            node->heard_ms = min_u64(node->heard_ms + gap_ms, now_ms);
        tick_node(node, now_ms);
    }
    if (now_ms - peers->absent_ms >= ABSENT_MS)
        mention_absent(peers, now_ms);
    peers_flush(peers);
}

static void tick_node(struct peer_node *node, uint64_t now_ms)
{
    const struct config *config = node->peers->config;
    node->answers_left = ANSWERS_MAX;
    judge_connection(node);
    if (node->alive && now_ms - node->heard_ms > config->heartbeat.timeout_ms)
        end_session(node, "unheard");
    if (node->alive) {
        if (now_ms - node->gossip_ms >= node->heartbeat_ms)
            node->gossip_due = true;
        return;
    }
    uint64_t pause_ms = is_absent(node, now_ms) ? ABSENT_HELLO_MS : HELLO_MS;
    if (node->connected && now_ms - node->hello_ms >= pause_ms)
        node->hello_due = true;
}

static bool is_absent(const struct peer_node *node, uint64_t now_ms)
{
    return node->node != node->peers->own.node && !node->alive &&
           now_ms - node->changed_ms >= ABSENT_MS;
}

/* "peer.absent count=3 nodes=4,7-8": a line, however many they are. */
static void mention_absent(struct peers *peers, uint64_t now_ms)
{
    struct buf nodes = {0};
    uint32_t count = 0;
    for (uint32_t i = 0; i < peers->node_count; i++) {
        uint32_t first = i;
        while (i < peers->node_count && is_absent(&peers->nodes[i], now_ms))
            i++;
        if (i == first)
            continue;
        buf_printf(&nodes, i - first > 1 ? "%s%u-%u" : "%s%u", count > 0 ? "," : "", first, i - 1);
        count += i - first;
    }
    if (count > 0) {
        peers->absent_ms = now_ms;
        log_warn(peers->log, "peer.absent", "count=%u nodes=%.*s", count, (int)nodes.len,
                 (char *)nodes.ptr);
    }
    buf_release(&nodes);
}

/* With multicast DNS anybody may have named the address. */
static void judge_connection(struct peer_node *node)
{
    struct peers *peers = node->peers;
    const struct sockaddr *proven = peer_wire_judge(peers->wire, node->node, node->alive);
    if (peers->mdns != NULL && proven != NULL)
        mdns_prove(peers->mdns, node->node, proven);
}

static bool on_vouch(void *ctx, uint32_t node, const uint8_t vouch[static PEER_VOUCH_BYTES])
{
    const struct peers *peers = ctx;
    return peer_session_vouched(&peers->nodes[node].session, vouch);
}

/* --- Frames out --- */

/* As much as the socket takes: a hello that is due before all else (it opens the session), then
 * gossip, then items. */
static void push(struct peer_node *node)
{
    struct peers *peers = node->peers;
    struct peer_wire *wire = peers->wire;
    for (unsigned burst = 1; peer_wire_ready(wire, node->node); burst++) {
        struct span body = {0};
        size_t len;
        bool items = false;
        if (node->hello_due) {
            node->hello_due = false;
            node->hello_ms = uv_now(peers->loop);
            len = peer_session_seal_hello(&node->session,
                                          peer_wire_room(wire, node->node, PEER_HELLO_BYTES_MAX));
        } else if (!node->alive) {
            return;
        } else {
            if (node->gossip_due) {
                node->gossip_due = false;
                node->gossip_ms = uv_now(peers->loop);
                body = peers_make_gossip(peers, node);
            } else {
                body = peer_outbox_peek(&node->outbox);
                items = true;
            }
            if (body.len == 0)
                return;
            uint8_t *room = peer_wire_room(wire, node->node, peer_frame_bytes_max(body.len));
            len = peer_session_seal(&node->session, body, room);
        }
        if (items) {
            node->stats.items_out += peer_outbox_take(&node->outbox, body);
            node->patient_bytes = 0;
        }
        node->stats.frames_out++;
        node->stats.bytes_out += len;
        peer_wire_send(wire, node->node, len, burst == BURST_MAX);
    }
}

static void on_ready(void *ctx, uint32_t node)
{
    struct peers *peers = ctx;
    push(&peers->nodes[node]);
}

/* --- Connections --- */

static void on_connected(void *ctx, uint32_t node)
{
    struct peers *peers = ctx;
    peers->nodes[node].connected = true;
    peers->nodes[node].hello_due = true;
    push(&peers->nodes[node]);
}

static unsigned give_hints(void *ctx, uint32_t node, struct sockaddr_storage *to, unsigned max)
{
    const struct peers *peers = ctx;
    return mdns_addresses(peers->mdns, node, to, max);
}

static void on_disconnected(void *ctx, uint32_t node)
{
    struct peers *peers = ctx;
    peers->nodes[node].connected = false;
    end_session(&peers->nodes[node], "connection lost");
}

static void on_refused(void *ctx, uint32_t number)
{
    struct peers *peers = ctx;
    struct peer_node *node = &peers->nodes[number];
    bool waited = uv_now(peers->loop) - node->changed_ms >= GONE_MS;
    if (node->alive || node->gone || node->stats.sessions == 0 || !waited)
        return;
    node->gone = true;
    log_info(peers->log, "peer.gone", "node=%u name=\"%.*s\"", node->node, (int)node->name.len,
             (char *)node->name.ptr);
    if (peers->callbacks.on_gone != NULL)
        peers->callbacks.on_gone(peers->callbacks.ctx, number);
}

static void on_source_lost(void *ctx, struct peer_source *source)
{
    struct peers *peers = ctx;
    for (uint32_t i = 0; i < peers->node_count; i++) {
        struct peer_node *node = &peers->nodes[i];
        if (node->source != source)
            continue;
        node->source = NULL;
        end_session(node, "it closed its connection");
    }
}

/* --- Frames in --- */

static bool on_frame(void *ctx, struct peer_source *source, struct span frame)
{
    struct peers *peers = ctx;
    struct peer_node *node = NULL;
    struct peer_head head;
    struct span body;
    enum peer_refusal refusal = PEER_REFUSED_LENGTH;
    if (frame.len > 0)
        refusal = peer_session_sender(&peers->own, peers->node_count, frame, &head);
    if (refusal == PEER_OK) {
        node = &peers->nodes[head.from_node];
        refusal = peer_session_open(&node->session, &head, frame, &peers->scratch, &body);
    }
    if (refusal == PEER_OK) {
        node->stats.frames_in++;
        node->stats.bytes_in += frame.len;
        refusal = (head.flags & PEER_HELLO) != 0 ? on_hello(node, source, &head, body)
                                                 : on_messages(node, source, body);
    }
    return refusal == PEER_OK || refuse(peers, source, node, refusal);
}

static enum peer_refusal on_hello(struct peer_node *node, struct peer_source *source,
                                  const struct peer_head *head, struct span body)
{
    struct peer_hello_result result;
    struct msg_peer_hello hello;
    enum peer_refusal refusal =
        peer_session_on_hello(&node->session, head, body, new_nonce(), &result, &hello);
    if (refusal != PEER_OK)
        return refusal;
    if (result.ended)
        session_over(node, node->session.boot == node->boot ? "it lost the session"
                                                            : "it was started again");
    /* Proved to be no recording, by its echo or by its number in the session. */
    if (node->session.open && node->session.boot == head->from_boot)
        believe(node, source);
    if (node->peers->mdns != NULL) {
        uint8_t vouch[PEER_VOUCH_BYTES];
        peer_session_vouch(&node->session, &hello, vouch);
        peer_source_vouch(source, vouch);
    }
    if (result.opened)
        begin_session(node, &hello);
    else if (result.answer && node->answers_left > 0) {
        node->answers_left--;
        node->hello_due = true;
        if (!node->connected)
            peer_wire_hurry(node->peers->wire, node->node);
    }
    push(node);
    return PEER_OK;
}

static enum peer_refusal on_messages(struct peer_node *node, struct peer_source *source,
                                     struct span body)
{
    believe(node, source);
    struct msg msg;
    enum peer_refusal refusal = PEER_OK;
    while (body.len > 0 && refusal == PEER_OK) {
        enum err err = msg_unpack(&body, &msg);
        if (err == ERR_NOTFOUND)
            continue; /* of a newer version */
        if (err != ERR_OK) {
            refusal = PEER_REFUSED_BODY;
        } else if (msg.tag == TAG_item) {
            refusal = on_item(node, &msg.u.item);
        } else if (msg.tag == TAG_gossip) {
            if (peers_take_gossip(node, &msg.u.gossip) != ERR_OK)
                refusal = PEER_REFUSED_BODY;
            else if (node->peers->callbacks.on_gossip != NULL)
                node->peers->callbacks.on_gossip(node->peers->callbacks.ctx, node->node);
        } else {
            refusal = PEER_REFUSED_BODY;
        }
    }
    return refusal;
}

static enum peer_refusal on_item(struct peer_node *node, const struct msg_item *item)
{
    const struct peers *peers = node->peers;
    bool whole;
    struct span bytes;
    if (item->bucket >= peers->config->bucket.count ||
        peer_inbox_put(&node->inbox, item, &whole, &bytes) != ERR_OK)
        return PEER_REFUSED_BODY;
    /* Kinds of a newer version mean nothing here. */
    if (!whole || item->kind < RELAY_PEER || item->kind > RELAY_TICK)
        return PEER_OK;
    node->stats.items_in++;
    peers->callbacks.on_item(peers->callbacks.ctx, node->node, node->boot, (uint32_t)item->bucket,
                             (enum relay_kind)item->kind, bytes);
    return PEER_OK;
}

/* True: the connection may go on. */
static bool refuse(struct peers *peers, struct peer_source *source, struct peer_node *node,
                   enum peer_refusal refusal)
{
    /* What is on its way when a session ends; the rest is somebody's mistake, or worse. */
    bool ordinary = refusal == PEER_REFUSED_TO_BOOT || refusal == PEER_REFUSED_REPLAY ||
                    refusal == PEER_REFUSED_SESSION || refusal == PEER_REFUSED_GAP;
    peers->refused[refusal]++;
    if (node != NULL)
        node->stats.refused++;
    uint64_t quiet;
    if (peer_warnings_due(&peers->warnings, peer_source_address(source), refusal,
                          max_u64(uv_now(peers->loop), 1), &quiet))
        log_event(peers->log, ordinary ? LOG_INFO : LOG_WARN, "peer.refused",
                  "source=%s reason=%s said_node=%d quiet=%lu", peer_source_address(source),
                  peer_refusal_name(refusal), node != NULL ? (int)node->node : -1, quiet);
    if (node != NULL && (refusal == PEER_REFUSED_GAP || refusal == PEER_REFUSED_BODY ||
                         refusal == PEER_REFUSED_LZ4))
        /* It had the right MAC. */
        end_session(node, peer_refusal_name(refusal));
    return ordinary;
}

static void believe(struct peer_node *node, struct peer_source *source)
{
    node->heard_ms = uv_now(node->peers->loop);
    node->source = source;
    peer_source_believe(source);
}

/* --- Sessions --- */

static void begin_session(struct peer_node *node, const struct msg_peer_hello *hello)
{
    struct peers *peers = node->peers;
    ASSERT(node->session.open && !node->alive);
    node->alive = true;
    node->gone = false;
    node->boot = node->last_boot = node->session.boot;
    node->changed_ms = uv_now(peers->loop);
    node->hello_due = node->gossip_due = true;
    node->stats.sessions++;
    if (peers->mdns != NULL)
        mdns_set_alive(peers->mdns, node->node, true);
    node->age_ms = hello->age;
    node->version_len = min_u64(hello->version.len, sizeof node->version);
    if (node->version_len > 0)
        memcpy(node->version, hello->version.ptr, node->version_len);
    log_info(peers->log, "peer.up", "node=%u name=\"%.*s\" boot=%lu version=\"%.*s\"", node->node,
             (int)node->name.len, (char *)node->name.ptr, node->boot, (int)node->version_len,
             node->version);
    peers->callbacks.on_node(peers->callbacks.ctx, node->node, node->boot, true);
}

/* Ends the session, where there is one, and asks for the next. */
static void end_session(struct peer_node *node, const char *why)
{
    if (!node->session.open)
        return;
    peer_session_end(&node->session, new_nonce());
    session_over(node, why);
    node->hello_due = node->connected;
}

/* What a session's end means to all but the session itself. */
static void session_over(struct peer_node *node, const char *why)
{
    struct peers *peers = node->peers;
    ASSERT(node->alive);
    node->alive = false;
    node->changed_ms = uv_now(peers->loop);
    node->gossip_due = false;
    node->rtt_us = node->stamp_us = 0;
    if (peers->mdns != NULL)
        mdns_set_alive(peers->mdns, node->node, false);
    node->stats.items_dropped += peer_outbox_clear(&node->outbox);
    node->patient_bytes = 0;
    peer_inbox_clear(&node->inbox);
    log_info(peers->log, "peer.down", "node=%u name=\"%.*s\" boot=%lu reason=\"%s\"", node->node,
             (int)node->name.len, (char *)node->name.ptr, node->boot, why);
    peers->callbacks.on_node(peers->callbacks.ctx, node->node, node->boot, false);
}
