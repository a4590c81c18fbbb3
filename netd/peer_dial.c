/* The connections that this node makes: names, tries, frames out. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "common/assert.h"
#include "netd/peer_wire_internal.h"

/* A try to connect. A SYN that is lost is sent again after a second at the earliest: a new try is
 * as quick, and asks the name again. */
#define DIAL_MS      1000u
#define PAUSE_MS_MIN 100u
#define PAUSE_MS_MAX 1000u
/* A node away for so long is tried less often: it dials too, and is answered at once when it does.
 */
#define AWAY_MS       60000u
#define AWAY_PAUSE_MS 5000u
#define RESOLVE_MAX   2u /* lookups at a time: the pool has four threads, and a lookup may hang */
/* After so long what the name meant last is tried meanwhile: without its servers a lookup hangs for
 * 10 s and more, and a network that is whole again shouldn't wait for that. */
#define RESOLVE_MS   500u
#define WARN_MS      60000u
#define WARNINGS_MAX 3u /* of all names in that time: many of them mostly have one cause */
/* A node answers a hello on the connection that it came by: so soon, or it isn't there. */
#define VOUCH_MS 3000u
/* Then it may have to find us first, which takes a round of its own. */
#define PATIENCE_MS  30000u
#define LENGTH_BYTES 4u

static void begin_round(struct dial *dial);
static bool wants_look_up(struct dial *dial);
static void look_up(struct dial *dial);
static bool literal_address(struct dial *dial);
static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *list);
static void take_addresses(struct dial *dial, const struct addrinfo *list);
static void warn_of_name(struct dial *dial, const char *error);
static void connect_next(struct dial *dial);
static void on_connect(uv_connect_t *request, int status);
static void allocate_vouch(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buf);
static void on_vouch(uv_stream_t *stream, ssize_t len, const uv_buf_t *buf);
static void on_written(uv_write_t *request, int status);
static void hang_up(struct dial *dial);
static void on_closed(uv_handle_t *handle);
static bool is_away(const struct dial *dial);
static void enter(struct dial *dial, enum dial_state state);

void dial_init(struct dial *dial, struct peer_wire *wire, uint32_t node,
               const struct config_peer *peer)
{
    *dial =
        (struct dial){.wire = wire, .node = node, .peer = peer, .connected_ms = uv_now(wire->loop)};
    dial->resolve.data = dial->tcp.data = dial->connect.data = dial->write.data = dial;
}

void dial_tick(struct dial *dial, uint64_t now_ms)
{
    if (dial->node == dial->wire->own_node)
        return;
    switch (dial->state) {
    case DIAL_IDLE:
        if (now_ms - dial->since_ms < dial->pause_ms)
            return;
        if (dial->address_next < dial->address_count && !dial->late)
            connect_next(dial);
        else if (wants_look_up(dial))
            look_up(dial);
        else
            begin_round(dial);
        return;
    case DIAL_CONNECTING:
        if (now_ms - dial->since_ms >= DIAL_MS) {
            dial->pause_ms = is_away(dial) ? AWAY_PAUSE_MS : 0; /* it has waited long enough */
            hang_up(dial);
        }
        return;
    case DIAL_RESOLVING:
        if (now_ms - dial->since_ms >= RESOLVE_MS)
            begin_round(dial);
        return;
    case DIAL_CONNECTED:
    case DIAL_CLOSING:
        return;
    }
}

void peer_wire_hurry(struct peer_wire *wire, uint32_t node)
{
    struct dial *dial = &wire->dials[node];
    dial->pause_ms = 0;
    dial_tick(dial, uv_now(wire->loop));
}

void dial_close(struct dial *dial)
{
    if (dial->looking_up)
        (void)uv_cancel((uv_req_t *)&dial->resolve);
    hang_up(dial);
}

static void enter(struct dial *dial, enum dial_state state)
{
    dial->state = state;
    dial->since_ms = uv_now(dial->wire->loop);
}

/* After a try that failed. */
static void pause_longer(struct dial *dial)
{
    dial->pause_ms = min_u64(max_u64(2 * dial->pause_ms, PAUSE_MS_MIN),
                             is_away(dial) ? AWAY_PAUSE_MS : PAUSE_MS_MAX);
}

static bool is_away(const struct dial *dial)
{
    return uv_now(dial->wire->loop) - dial->connected_ms >= AWAY_MS;
}

/* --- Addresses --- */

/* What the name meant when it was last known, and what else is known by now. Where there is nothing
 * it is looked again at the next tick, which costs nothing. */
static void begin_round(struct dial *dial)
{
    const struct peer_wire_callbacks *callbacks = &dial->wire->callbacks;
    memcpy(dial->addresses, dial->named, dial->named_count * sizeof *dial->named);
    dial->hints_from = dial->address_count = dial->named_count;
    dial->address_next = 0;
    dial->late = false;
    if (callbacks->hints != NULL)
        dial->address_count += callbacks->hints(callbacks->ctx, dial->node,
                                                dial->addresses + dial->hints_from, PEER_HINTS_MAX);
    if (dial->address_count > 0)
        connect_next(dial);
}

/* Puts the address in place of the name's, where it is one; else what the name was found to be
 * stays. */
static bool literal_address(struct dial *dial)
{
    struct sockaddr_storage address = {0}; /* both functions write also where they fail */
    const char *host = dial->peer->host;
    if (uv_ip4_addr(host, dial->peer->port, (struct sockaddr_in *)&address) != 0 &&
        (strchr(host, ':') == NULL ||
         uv_ip6_addr(host, dial->peer->port, (struct sockaddr_in6 *)&address) != 0))
        return false;
    dial->named[0] = address;
    dial->named_count = 1;
    return true;
}

/* Before a round; not where the answer is here already, or under way, or too many are asked. */
static bool wants_look_up(struct dial *dial)
{
    return dial->peer != NULL && !dial->late && !literal_address(dial) && !dial->looking_up &&
           dial->wire->resolving < RESOLVE_MAX;
}

static void look_up(struct dial *dial)
{
    char port[8];
    snprintf(port, sizeof port, "%u", dial->peer->port);
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    enter(dial, DIAL_RESOLVING);
    int error = uv_getaddrinfo(dial->wire->loop, &dial->resolve, on_resolved, dial->peer->host,
                               port, &hints);
    ASSERT(error == 0);
    dial->looking_up = true;
    dial->wire->resolving++;
    dial->wire->open_handles++;
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *list)
{
    struct dial *dial = request->data;
    struct peer_wire *wire = dial->wire;
    wire->resolving--;
    dial->looking_up = false;
    if (!wire->closing && status == 0)
        take_addresses(dial, list);
    else if (!wire->closing)
        warn_of_name(dial, uv_strerror(status)); /* its server may be down while the node isn't */
    uv_freeaddrinfo(list);
    if (dial->state == DIAL_RESOLVING) {
        enter(dial, DIAL_IDLE);
        if (!wire->closing)
            begin_round(dial);
        if (dial->state == DIAL_IDLE)
            pause_longer(dial);
    }
    /* Others may have waited for their turn to ask. */
    for (uint32_t node = 0;
         !wire->closing && wire->resolving < RESOLVE_MAX && node < wire->node_count; node++)
        dial_tick(&wire->dials[node], uv_now(wire->loop));
    wire_handle_closed(wire);
}

static void take_addresses(struct dial *dial, const struct addrinfo *list)
{
    dial->named_count = 0;
    for (const struct addrinfo *at = list; at != NULL; at = at->ai_next) {
        if (dial->named_count < PEER_ADDRESSES_MAX && at->ai_addrlen <= sizeof *dial->named)
            memcpy(&dial->named[dial->named_count++], at->ai_addr, at->ai_addrlen);
    }
    /* A connection that holds asks anew when it ends. */
    dial->late = dial->state != DIAL_RESOLVING && dial->state != DIAL_CONNECTED;
    dial->warned_ms = 0;
}

static void warn_of_name(struct dial *dial, const char *error)
{
    struct peer_wire *wire = dial->wire;
    uint64_t now_ms = uv_now(wire->loop);
    if (dial->warned_ms != 0 && now_ms - dial->warned_ms < WARN_MS)
        return;
    dial->warned_ms = now_ms;
    if (now_ms - wire->warnings_since_ms >= WARN_MS) {
        wire->warnings_since_ms = now_ms;
        wire->warnings = 0;
    }
    if (wire->warnings >= WARNINGS_MAX) {
        wire->warnings_quiet++;
        return;
    }
    wire->warnings++;
    log_warn(wire->log, "peer.name_unknown", "node=%u name=\"%s\" error=\"%s\" quiet=%u",
             dial->node, dial->peer->host, error, wire->warnings_quiet);
    wire->warnings_quiet = 0;
}

/* --- Connections --- */

static void connect_next(struct dial *dial)
{
    const struct sockaddr *address =
        (const struct sockaddr *)&dial->addresses[dial->address_next++];
    wire_print_address(address, true, dial->address);
    int error = uv_tcp_init(dial->wire->loop, &dial->tcp);
    ASSERT(error == 0);
    dial->tcp.data = dial;
    dial->wire->open_handles++;
    enter(dial, DIAL_CONNECTING);
    error = uv_tcp_connect(&dial->connect, &dial->tcp, address, on_connect);
    if (error != 0) {
        pause_longer(dial);
        hang_up(dial);
    }
}

static void on_connect(uv_connect_t *request, int status)
{
    struct dial *dial = request->data;
    if (dial->state != DIAL_CONNECTING)
        return; /* given up meanwhile */
    struct peer_wire *wire = dial->wire;
    if (status == 0) {
        wire_tune(wire, &dial->tcp);
        status = uv_read_start((uv_stream_t *)&dial->tcp, allocate_vouch, on_vouch);
    }
    if (status != 0) {
        log_debug(wire->log, "peer.unreachable", "node=%u address=\"%s\" error=\"%s\"", dial->node,
                  dial->address, uv_strerror(status));
        bool named = dial->address_next <= dial->hints_from;
        pause_longer(dial);
        hang_up(dial);
        if (status == UV_ECONNREFUSED && named)
            wire->callbacks.on_refused(wire->callbacks.ctx, dial->node);
        return;
    }
    enter(dial, DIAL_CONNECTED);
    dial->connected_ms = dial->since_ms;
    dial->late = false;
    wire->callbacks.on_connected(wire->callbacks.ctx, dial->node);
}

static void allocate_vouch(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buf)
{
    (void)suggested;
    struct dial *dial = handle->data;
    ASSERT(dial->vouch_len < sizeof dial->vouch);
    *ret_buf = uv_buf_init((char *)dial->vouch + dial->vouch_len,
                           (unsigned)(sizeof dial->vouch - dial->vouch_len));
}

/* Nothing comes this way but one answer, and the connection's end. */
static void on_vouch(uv_stream_t *stream, ssize_t len, const uv_buf_t *buf)
{
    (void)buf;
    struct dial *dial = stream->data;
    struct peer_wire *wire = dial->wire;
    if (len > 0)
        dial->vouch_len += (size_t)len;
    if (len < 0 || dial->vouch_len > PEER_VOUCH_BYTES) {
        hang_up(dial);
    } else if (len > 0 && dial->vouch_len == PEER_VOUCH_BYTES && !wire->closing) {
        dial->vouched = wire->callbacks.on_vouch(wire->callbacks.ctx, dial->node, dial->vouch);
        if (dial->vouched && dial->patient_until_ms == 0)
            dial->patient_until_ms = uv_now(wire->loop) + PATIENCE_MS;
    }
}

const struct sockaddr *peer_wire_judge(struct peer_wire *wire, uint32_t node, bool alive)
{
    struct dial *dial = &wire->dials[node];
    uint64_t now_ms = uv_now(wire->loop);
    if (dial->state != DIAL_CONNECTED || dial->proven)
        return NULL;
    bool hinted = peer_wire_by_hint(wire, node);
    dial->proven = alive && (dial->vouched || !hinted);
    if (dial->proven)
        return hinted ? (const struct sockaddr *)&dial->addresses[dial->address_next - 1] : NULL;
    uint64_t until_ms = dial->vouched ? dial->patient_until_ms : dial->since_ms + VOUCH_MS;
    if (wire->callbacks.hints != NULL && now_ms >= until_ms) {
        log_debug(wire->log, "peer.doubted", "node=%u address=\"%s\"", node, dial->address);
        hang_up(dial);
    }
    return NULL;
}

bool peer_wire_by_hint(const struct peer_wire *wire, uint32_t node)
{
    const struct dial *dial = &wire->dials[node];
    /* address_next has gone on from the one that is in use. */
    return dial->state == DIAL_CONNECTED && dial->address_next > dial->hints_from;
}

/* The connection goes, and with it what was on its way; the next try comes after the pause. */
static void hang_up(struct dial *dial)
{
    if (dial->state != DIAL_CONNECTING && dial->state != DIAL_CONNECTED)
        return;
    struct peer_wire *wire = dial->wire;
    bool was_connected = dial->state == DIAL_CONNECTED;
    /* Who isn't the node mustn't keep us from the next address; but the node itself closes what it
     * can't prove yet. */
    bool again = !dial->proven && dial->vouched && uv_now(wire->loop) < dial->patient_until_ms;
    if (again)
        dial->address_next--;
    else
        dial->patient_until_ms = 0;
    if (dial->proven)
        dial->address_next = dial->address_count;
    /* One that lasted is tried again at once, one that didn't less and less often. */
    if (was_connected && uv_now(wire->loop) - dial->since_ms >= PAUSE_MS_MAX)
        dial->pause_ms = 0;
    else if (was_connected)
        pause_longer(dial);
    if (was_connected)
        dial->connected_ms = uv_now(wire->loop);
    dial->proven = dial->vouched = false;
    dial->vouch_len = 0;
    enter(dial, DIAL_CLOSING);
    dial->address[0] = '\0';
    uv_close((uv_handle_t *)&dial->tcp, on_closed);
    if (was_connected && !wire->closing)
        wire->callbacks.on_disconnected(wire->callbacks.ctx, dial->node);
}

static void on_closed(uv_handle_t *handle)
{
    struct dial *dial = handle->data;
    dial->writing = false;
    buf_release(&dial->out);
    enter(dial, DIAL_IDLE);
    wire_handle_closed(dial->wire);
}

/* --- Frames --- */

bool peer_wire_ready(const struct peer_wire *wire, uint32_t node)
{
    const struct dial *dial = &wire->dials[node];
    return dial->state == DIAL_CONNECTED && !dial->writing;
}

const char *peer_wire_address(const struct peer_wire *wire, uint32_t node)
{
    const struct dial *dial = &wire->dials[node];
    return dial->state == DIAL_CONNECTED ? dial->address : "";
}

uint8_t *peer_wire_room(struct peer_wire *wire, uint32_t node, size_t len)
{
    struct dial *dial = &wire->dials[node];
    ASSERT(peer_wire_ready(wire, node));
    dial->out.len = 0;
    return buf_reserve(&dial->out, LENGTH_BYTES + len) + LENGTH_BYTES;
}

void peer_wire_send(struct peer_wire *wire, uint32_t node, size_t len, bool later)
{
    struct dial *dial = &wire->dials[node];
    ASSERT(peer_wire_ready(wire, node) && LENGTH_BYTES + len <= dial->out.cap);
    store_u32(dial->out.ptr, (uint32_t)len);
    dial->out.len = LENGTH_BYTES + len;
    uv_buf_t rest = uv_buf_init((char *)dial->out.ptr, (unsigned)dial->out.len);
    if (!later) {
        int written = uv_try_write((uv_stream_t *)&dial->tcp, &rest, 1);
        if (written > 0) {
            rest.base += written;
            rest.len -= (size_t)written;
        }
        if (rest.len == 0)
            return;
    }
    dial->writing = true;
    /* Errors, also those of uv_try_write, come to on_written. */
    int error = uv_write(&dial->write, (uv_stream_t *)&dial->tcp, &rest, 1, on_written);
    ASSERT(error == 0);
}

static void on_written(uv_write_t *request, int status)
{
    struct dial *dial = request->data;
    if (dial->state != DIAL_CONNECTED)
        return;
    dial->writing = false;
    if (status != 0) {
        hang_up(dial);
        return;
    }
    dial->wire->callbacks.on_ready(dial->wire->callbacks.ctx, dial->node);
}
