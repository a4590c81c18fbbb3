/* Connections made to this node: strangers until they prove to be peers. */
#include "netd/peer_wire.h"

#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "common/assert.h"
#include "netd/peer_wire_internal.h"

#define STRANGER_MS  5000u
#define BACKLOG      128
#define LENGTH_BYTES 4u
/* Room for each read of a peer's, and what of it stays when nothing is there. */
#define READ_BYTES      (64u << 10)
#define READ_KEEP_BYTES (256u << 10)
/* Bytes that nobody acknowledges for so long mean that the connection is dead. */
#define USER_TIMEOUT_MS_MIN 2000u

struct peer_source {
    struct peer_wire *wire;
    struct peer_source *prev, *next;
    uv_tcp_t tcp;
    uint64_t since_ms;
    bool believed, closing, vouched;
    struct buf in;
    char address[PEER_ADDRESS_LEN_MAX];
};

static enum err listen_on(struct peer_wire *wire, const char *address);
static void on_connection(uv_stream_t *listener, int status);
static void drop_oldest_stranger(struct peer_wire *wire);
static void allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buf);
static void on_read(uv_stream_t *stream, ssize_t len, const uv_buf_t *buf);
static bool take_frames(struct peer_source *source);
static void close_source(struct peer_source *source);
static void source_closed(uv_handle_t *handle);
static void listener_closed(uv_handle_t *handle);

enum err peer_wire_new(uv_loop_t *loop, const struct config *config, const struct log *log,
                       const struct peer_wire_callbacks *callbacks, struct peer_wire **ret_wire)
{
    const struct config_peers *peers = &config->network.peers;
    uint32_t count = config->node.count;
    struct peer_wire *wire = calloc(1, sizeof *wire);
    ASSERT(wire != NULL && (peers->count == count || (peers->count == 0 && callbacks->hints)));
    *wire = (struct peer_wire){
        .loop = loop,
        .own_node = config->node.index,
        .node_count = count,
        .log = log,
        .callbacks = *callbacks,
        .user_timeout_ms =
            (unsigned)min_u64(config->heartbeat.timeout_ms,
                              max_u64(USER_TIMEOUT_MS_MIN, 2 * config->heartbeat.interval_ms)),
    };
    wire->dials = calloc(count, sizeof *wire->dials);
    ASSERT(wire->dials != NULL);
    for (uint32_t node = 0; node < count; node++)
        dial_init(&wire->dials[node], wire, node, peers->count > 0 ? &peers->list[node] : NULL);
    int error = uv_tcp_init(loop, &wire->listener);
    ASSERT(error == 0);
    wire->listener.data = wire;
    wire->open_handles = 1;
    if (listen_on(wire, config->network.cluster_address) != ERR_OK) {
        peer_wire_close(wire);
        return ERR_IO;
    }
    *ret_wire = wire;
    return ERR_OK;
}

static enum err listen_on(struct peer_wire *wire, const char *address)
{
    char host[PEER_ADDRESS_LEN_MAX];
    struct sockaddr_storage at;
    const char *colon = strrchr(address, ':');
    bool v6 = address[0] == '[';
    size_t len = colon == NULL ? 0 : (size_t)(colon - address) - 2 * (size_t)v6;
    ASSERT(len > 0 && len < sizeof host); /* config_address_valid */
    memcpy(host, address + v6, len);
    host[len] = '\0';
    int port = (int)strtol(colon + 1, NULL, 10);
    int error = v6 ? uv_ip6_addr(host, port, (struct sockaddr_in6 *)&at)
                   : uv_ip4_addr(host, port, (struct sockaddr_in *)&at);
    if (error == 0)
        error = uv_tcp_bind(&wire->listener, (struct sockaddr *)&at, 0);
    if (error == 0)
        error = uv_listen((uv_stream_t *)&wire->listener, BACKLOG, on_connection);
    if (error == 0)
        return ERR_OK;
    log_error(wire->log, "peers.listen_failed", "address=\"%s\" error=\"%s\"", address,
              uv_strerror(error));
    return ERR_IO;
}

void peer_wire_close(struct peer_wire *wire)
{
    ASSERT(!wire->closing);
    wire->closing = true;
    for (struct peer_source *source = wire->sources; source != NULL; source = source->next)
        close_source(source);
    for (uint32_t node = 0; node < wire->node_count; node++)
        dial_close(&wire->dials[node]);
    uv_close((uv_handle_t *)&wire->listener, listener_closed);
}

static void listener_closed(uv_handle_t *handle)
{
    wire_handle_closed(handle->data);
}

void wire_handle_closed(struct peer_wire *wire)
{
    if (--wire->open_handles > 0 || !wire->closing)
        return;
    for (uint32_t node = 0; node < wire->node_count; node++)
        buf_release(&wire->dials[node].out);
    free(wire->dials);
    free(wire);
}

void peer_wire_tick(struct peer_wire *wire)
{
    uint64_t now_ms = uv_now(wire->loop);
    struct peer_source *next;
    for (struct peer_source *source = wire->sources; source != NULL; source = next) {
        next = source->next;
        if (!source->believed && now_ms - source->since_ms > STRANGER_MS)
            close_source(source);
    }
    for (uint32_t node = 0; node < wire->node_count; node++)
        dial_tick(&wire->dials[node], now_ms);
}

void peer_wire_get_stats(const struct peer_wire *wire, struct peer_wire_stats *ret_stats)
{
    *ret_stats = wire->stats;
}

/* --- Accepting --- */

static void on_connection(uv_stream_t *listener, int status)
{
    struct peer_wire *wire = listener->data;
    if (status != 0) {
        log_warn(wire->log, "peers.accept_failed", "error=\"%s\"", uv_strerror(status));
        return;
    }
    if (wire->stranger_count >= PEER_STRANGERS_MAX)
        drop_oldest_stranger(wire);
    struct peer_source *source = calloc(1, sizeof *source);
    ASSERT(source != NULL);
    int error = uv_tcp_init(wire->loop, &source->tcp);
    ASSERT(error == 0);
    source->wire = wire;
    source->tcp.data = source;
    source->since_ms = uv_now(wire->loop);
    source->next = wire->sources;
    if (source->next != NULL)
        source->next->prev = source;
    wire->sources = source;
    wire->stranger_count++;
    wire->stats.connections++;
    wire->open_handles++;
    struct sockaddr_storage address = {0};
    int len = sizeof address;
    error = uv_accept(listener, (uv_stream_t *)&source->tcp);
    if (error == 0)
        error = uv_tcp_getpeername(&source->tcp, (struct sockaddr *)&address, &len);
    wire_print_address((struct sockaddr *)&address, false, source->address);
    if (error == 0) {
        wire_tune(wire, &source->tcp);
        error = uv_read_start((uv_stream_t *)&source->tcp, allocate, on_read);
    }
    if (error != 0)
        close_source(source);
}

static void drop_oldest_stranger(struct peer_wire *wire)
{
    struct peer_source *oldest = NULL;
    for (struct peer_source *source = wire->sources; source != NULL; source = source->next)
        if (!source->believed && !source->closing)
            oldest = source;
    if (oldest != NULL)
        close_source(oldest);
}

void wire_tune(struct peer_wire *wire, uv_tcp_t *tcp)
{
    uv_os_fd_t fd;
    unsigned timeout_ms = wire->user_timeout_ms;
    uv_tcp_nodelay(tcp, 1);
    uv_tcp_keepalive(tcp, 1, 5);
    if (uv_fileno((uv_handle_t *)tcp, &fd) == 0)
        (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms);
}

void wire_print_address(const struct sockaddr *address, bool port, char to[PEER_ADDRESS_LEN_MAX])
{
    char ip[INET6_ADDRSTRLEN] = "?";
    bool v6 = address->sa_family == AF_INET6;
    unsigned number = 0;
    if (v6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
        uv_ip6_name(in6, ip, sizeof ip);
        number = ntohs(in6->sin6_port);
    } else if (address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)address;
        uv_ip4_name(in, ip, sizeof ip);
        number = ntohs(in->sin_port);
    }
    if (port)
        snprintf(to, PEER_ADDRESS_LEN_MAX, v6 ? "[%s]:%u" : "%s:%u", ip, number);
    else
        snprintf(to, PEER_ADDRESS_LEN_MAX, "%s", ip);
}

void peer_source_believe(struct peer_source *source)
{
    if (source->believed)
        return;
    source->believed = true;
    source->wire->stranger_count--;
}

void peer_source_vouch(struct peer_source *source, const uint8_t vouch[static PEER_VOUCH_BYTES])
{
    uv_buf_t buf = uv_buf_init((char *)(uintptr_t)vouch, PEER_VOUCH_BYTES);
    if (source->vouched || source->closing)
        return;
    source->vouched = true;
    /* The first bytes on this way fit the socket, or else it has an error that reading meets. */
    (void)uv_try_write((uv_stream_t *)&source->tcp, &buf, 1);
}

const char *peer_source_address(const struct peer_source *source)
{
    return source->address;
}

/* --- Reading --- */

static void allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buf)
{
    (void)suggested;
    struct peer_source *source = handle->data;
    size_t room = LENGTH_BYTES + PEER_HELLO_BYTES_MAX -
                  min_u64(source->in.len, LENGTH_BYTES + PEER_HELLO_BYTES_MAX);
    if (source->believed)
        room = READ_BYTES;
    ASSERT(room > 0); /* a stranger's full buffer is a frame, or refused */
    ret_buf->base = (char *)buf_reserve(&source->in, room);
    ret_buf->len = room;
}

static void on_read(uv_stream_t *stream, ssize_t len, const uv_buf_t *buf)
{
    (void)buf;
    struct peer_source *source = stream->data;
    if (len == 0)
        return;
    if (len > 0)
        source->in.len += (size_t)len;
    if (len < 0 || !take_frames(source))
        close_source(source);
}

/* All whole frames that are there; what is left of the next one moves to the front. */
static bool take_frames(struct peer_source *source)
{
    const struct peer_wire_callbacks *callbacks = &source->wire->callbacks;
    size_t at = 0;
    bool go_on = true;
    while (go_on && source->in.len - at >= LENGTH_BYTES) {
        size_t len = load_u32(source->in.ptr + at);
        size_t max = source->believed ? PEER_FRAME_BYTES_MAX : PEER_HELLO_BYTES_MAX;
        if (len > max || len < PEER_HEAD_BYTES + PEER_MAC_BYTES)
            go_on = callbacks->on_frame(callbacks->ctx, source, (struct span){0}) && false;
        else if (source->in.len - at - LENGTH_BYTES < len)
            break;
        else
            go_on = callbacks->on_frame(callbacks->ctx, source,
                                        span_of(source->in.ptr + at + LENGTH_BYTES, len));
        at += LENGTH_BYTES + len;
        /* A callback that closed the wire has closed this, too. */
        go_on = go_on && !source->closing;
    }
    if (!go_on)
        return false;
    buf_consume(&source->in, at);
    if (source->in.len == 0)
        buf_clear(&source->in, READ_KEEP_BYTES);
    return true;
}

static void close_source(struct peer_source *source)
{
    if (source->closing)
        return;
    struct peer_wire *wire = source->wire;
    source->closing = true;
    wire->stats.connections--;
    if (!source->believed) {
        wire->stranger_count--;
        wire->stats.strangers++;
    }
    if (!wire->closing)
        wire->callbacks.on_source_lost(wire->callbacks.ctx, source);
    uv_close((uv_handle_t *)&source->tcp, source_closed);
}

static void source_closed(uv_handle_t *handle)
{
    struct peer_source *source = handle->data;
    struct peer_wire *wire = source->wire;
    if (source->prev != NULL)
        source->prev->next = source->next;
    else
        wire->sources = source->next;
    if (source->next != NULL)
        source->next->prev = source->prev;
    buf_release(&source->in);
    free(source);
    wire_handle_closed(wire);
}
