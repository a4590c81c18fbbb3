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
#define RESOLVE_MAX  2u /* lookups at a time: the pool has four threads, and a lookup may hang */
/* After so long what the name meant last is tried meanwhile: without its servers a lookup hangs for
 * 10 s and more, and a network that is whole again shouldn't wait for that. */
#define RESOLVE_MS   500u
#define WARN_MS      60000u
#define LENGTH_BYTES 4u

static void look_up(struct dial *dial);
static bool literal_address(struct dial *dial);
static void on_resolved(uv_getaddrinfo_t *request, int status, struct addrinfo *list);
static void take_addresses(struct dial *dial, const struct addrinfo *list);
static void warn_unknown(struct dial *dial, int status);
static bool connect_to_known(struct dial *dial);
static void connect_next(struct dial *dial);
static void on_connect(uv_connect_t *request, int status);
static void allocate_sink(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buf);
static void on_sink(uv_stream_t *stream, ssize_t len, const uv_buf_t *buf);
static void on_written(uv_write_t *request, int status);
static void hang_up(struct dial *dial);
static void on_closed(uv_handle_t *handle);
static void enter(struct dial *dial, enum dial_state state);

void dial_init(struct dial *dial, struct peer_wire *wire, uint32_t node,
               const struct config_peer *peer)
{
    *dial = (struct dial){.wire = wire, .node = node, .peer = peer};
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
        else if (!dial->looking_up && dial->wire->resolving < RESOLVE_MAX)
            look_up(dial);
        else
            (void)connect_to_known(dial);
        return;
    case DIAL_CONNECTING:
        if (now_ms - dial->since_ms >= DIAL_MS) {
            dial->pause_ms = 0; /* it has waited long enough */
            hang_up(dial);
        }
        return;
    case DIAL_RESOLVING:
        if (now_ms - dial->since_ms >= RESOLVE_MS)
            (void)connect_to_known(dial);
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
    dial->pause_ms = min_u64(max_u64(2 * dial->pause_ms, PAUSE_MS_MIN), PAUSE_MS_MAX);
}

/* --- Names --- */

/* Puts the address in place of the name's, where it is one. */
static bool literal_address(struct dial *dial)
{
    struct sockaddr_storage address = {0}; /* both functions write also where they fail */
    const char *host = dial->peer->host;
    if (uv_ip4_addr(host, dial->peer->port, (struct sockaddr_in *)&address) != 0 &&
        (strchr(host, ':') == NULL ||
         uv_ip6_addr(host, dial->peer->port, (struct sockaddr_in6 *)&address) != 0))
        return false;
    dial->addresses[0] = address;
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
        warn_unknown(dial, status); /* its server may be down while the node isn't */
    uv_freeaddrinfo(list);
    if (dial->state == DIAL_RESOLVING) {
        enter(dial, DIAL_IDLE);
        if (wire->closing || !connect_to_known(dial))
            pause_longer(dial);
    }
    /* Others may have waited for their turn to ask. */
    for (uint32_t node = 0; !wire->closing && node < wire->node_count; node++)
        dial_tick(&wire->dials[node], uv_now(wire->loop));
    wire_handle_closed(wire);
}

/* They are for the next try. */
static void take_addresses(struct dial *dial, const struct addrinfo *list)
{
    dial->address_count = 0;
    for (const struct addrinfo *at = list; at != NULL; at = at->ai_next) {
        if (dial->address_count < PEER_ADDRESSES_MAX && at->ai_addrlen <= sizeof *dial->addresses)
            memcpy(&dial->addresses[dial->address_count++], at->ai_addr, at->ai_addrlen);
    }
    dial->address_next = dial->state == DIAL_CONNECTED ? dial->address_count : 0;
    dial->warned_ms = 0;
}

static void warn_unknown(struct dial *dial, int status)
{
    uint64_t now_ms = uv_now(dial->wire->loop);
    if (dial->warned_ms != 0 && now_ms - dial->warned_ms < WARN_MS)
        return;
    log_warn(dial->wire->log, "peer.name_unknown", "node=%u name=\"%s\" error=\"%s\"", dial->node,
             dial->peer->host, uv_strerror(status));
    dial->warned_ms = now_ms;
}

/* --- Connections --- */

/* What the name meant when it was last known; false: it never was. */
static bool connect_to_known(struct dial *dial)
{
    dial->address_next = 0;
    if (dial->address_count == 0)
        return false;
    connect_next(dial);
    return true;
}

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
