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
#define WARN_MS       60000u
#define WARNINGS_MAX  3u /* of all names in that time: many of them mostly have one cause */
#define LENGTH_BYTES  4u

static void look_up(struct dial *dial);
static bool literal_address(struct dial *dial);
static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *list);
static void connect_next(struct dial *dial);
static void on_connect(uv_connect_t *request, int status);
static void allocate_sink(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buf);
static void on_sink(uv_stream_t *stream, ssize_t len, const uv_buf_t *buf);
static void on_written(uv_write_t *request, int status);
static void hang_up(struct dial *dial);
static void on_closed(uv_handle_t *handle);
static void warn_of_name(struct dial *dial, const char *error);
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
        if (dial->address_next < dial->address_count || literal_address(dial))
            connect_next(dial);
        else if (dial->wire->resolving < RESOLVE_MAX)
            look_up(dial);
        return;
    case DIAL_CONNECTING:
        if (now_ms - dial->since_ms >= DIAL_MS) {
            dial->pause_ms = is_away(dial) ? AWAY_PAUSE_MS : 0; /* it has waited long enough */
            hang_up(dial);
        }
        return;
    case DIAL_RESOLVING:
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
    switch (dial->state) {
    case DIAL_RESOLVING:
        (void)uv_cancel((uv_req_t *)&dial->resolve);
        return;
    case DIAL_CONNECTING:
    case DIAL_CONNECTED:
        hang_up(dial);
        return;
    case DIAL_IDLE:
    case DIAL_CLOSING:
        return;
    }
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

/* --- Names --- */

/* Puts the address in place of the name's, where it is one. */
static bool literal_address(struct dial *dial)
{
    struct sockaddr_in *in = (struct sockaddr_in *)dial->addresses;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)dial->addresses;
    const char *host = dial->peer->host;
    if (uv_ip4_addr(host, dial->peer->port, in) != 0 &&
        (strchr(host, ':') == NULL || uv_ip6_addr(host, dial->peer->port, in6) != 0))
        return false;
    dial->address_count = 1;
    dial->address_next = 0;
    return true;
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
    dial->wire->resolving++;
    dial->wire->open_handles++;
}

static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *list)
{
    struct dial *dial = request->data;
    struct peer_wire *wire = dial->wire;
    wire->resolving--;
    if (!wire->closing && status == 0) {
        dial->address_count = 0;
        for (const struct addrinfo *at = list; at != NULL; at = at->ai_next) {
            if (dial->address_count < PEER_ADDRESSES_MAX &&
                at->ai_addrlen <= sizeof *dial->addresses)
                memcpy(&dial->addresses[dial->address_count++], at->ai_addr, at->ai_addrlen);
        }
        dial->warned_ms = 0;
    } else if (!wire->closing) {
        /* The name's server may be down while the node isn't: what it said last is tried again. */
        warn_of_name(dial, uv_strerror(status));
    }
    uv_freeaddrinfo(list);
    enter(dial, DIAL_IDLE);
    dial->address_next = 0;
    if (!wire->closing && dial->address_count > 0)
        connect_next(dial);
    else
        pause_longer(dial);
    /* Others may have waited for their turn to ask. */
    for (uint32_t node = 0;
         !wire->closing && wire->resolving < RESOLVE_MAX && node < wire->node_count; node++)
        dial_tick(&wire->dials[node], uv_now(wire->loop));
    wire_handle_closed(wire);
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
        status = uv_read_start((uv_stream_t *)&dial->tcp, allocate_sink, on_sink);
    }
    if (status != 0) {
        log_debug(wire->log, "peer.unreachable", "node=%u address=\"%s\" error=\"%s\"", dial->node,
                  dial->address, uv_strerror(status));
        pause_longer(dial);
        hang_up(dial);
        return;
    }
    enter(dial, DIAL_CONNECTED);
    dial->connected_ms = dial->since_ms;
    dial->address_next = dial->address_count; /* the name is asked again next time */
    wire->callbacks.on_connected(wire->callbacks.ctx, dial->node);
}

static void allocate_sink(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buf)
{
    (void)suggested;
    struct dial *dial = handle->data;
    *ret_buf = uv_buf_init(dial->sink, sizeof dial->sink);
}

/* Nothing comes this way but the connection's end. */
static void on_sink(uv_stream_t *stream, ssize_t len, const uv_buf_t *buf)
{
    (void)buf;
    if (len != 0)
        hang_up(stream->data);
}

/* The connection goes, and with it what was on its way; the next try comes after the pause. */
static void hang_up(struct dial *dial)
{
    if (dial->state != DIAL_CONNECTING && dial->state != DIAL_CONNECTED)
        return;
    struct peer_wire *wire = dial->wire;
    bool was_connected = dial->state == DIAL_CONNECTED;
    /* One that lasted is tried again at once, one that didn't less and less often. */
    if (was_connected && uv_now(wire->loop) - dial->since_ms >= PAUSE_MS_MAX)
        dial->pause_ms = 0;
    else if (was_connected)
        pause_longer(dial);
    if (was_connected)
        dial->connected_ms = uv_now(wire->loop);
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
