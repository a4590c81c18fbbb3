/* Connections between nodes: plain TCP in the loop, a frame with its length (u32) before it.
 *
 * Each node sends on connections that it made, and receives on those that were made to it: one each
 * way between two nodes. It dials every other node for ever: names are resolved anew for each try,
 * without blocking the loop, and a try takes DIAL_MS at most; a connection whose bytes nobody
 * acknowledges is given up by the kernel (TCP_USER_TIMEOUT), so that an interrupted network is back
 * soon after it works again, whatever TCP's own patience.
 *
 * Who connects to us is a stranger until one of its frames is believed. A stranger may send one
 * small frame (PEER_HELLO_BYTES_MAX), has STRANGER_MS for it, and there are PEER_STRANGERS_MAX of
 * them: the oldest goes when one more comes. Memory grows with what arrived, never with what was
 * announced.
 *
 * Why not nng under these, too: its TCP listener takes no new peer, ever again, after one client
 * that connects, shuts down its writing side and resets (1.5.2: the handshake's write fails with
 * EPIPE, which the accepting loop takes for its own socket's end). Any stranger could cut a node
 * off. Besides, a try to connect can't be bounded (the kernel's SYNs take 127 s), and a frame
 * changes threads four times on its way. */
#pragma once

#include <uv.h>

#include "common/config.h"
#include "netd/peer_session.h"

struct peer_wire;
/* A connection that was made to us. */
struct peer_source;

/* None comes from within a call of this interface, except from peer_wire_tick and
 * peer_wire_judge. */
struct peer_wire_callbacks {
    void *ctx;
    /* A frame, valid during the call; empty where its length can't be right. False: close. */
    bool (*on_frame)(void *ctx, struct peer_source *source, struct span frame);
    /* The connection has ended, by us or the other side; the pointer is invalid from here on. */
    void (*on_source_lost)(void *ctx, struct peer_source *source);
    void (*on_connected)(void *ctx, uint32_t node);
    void (*on_disconnected)(void *ctx, uint32_t node);
    /* The machine at an address of the node's name was reached, and nobody listens there. */
    void (*on_refused)(void *ctx, uint32_t node);
    /* The one thing that may come back on a connection that we made. False: it says nothing. */
    bool (*on_vouch)(void *ctx, uint32_t node, const uint8_t vouch[static PEER_VOUCH_BYTES]);
    /* The node's connection takes the next frame. */
    void (*on_ready)(void *ctx, uint32_t node);
    /* Writes up to `max` addresses at which the node may be, best first; how many. They are tried
     * after its name's. NULL: nobody knows any. */
    unsigned (*hints)(void *ctx, uint32_t node, struct sockaddr_storage *to, unsigned max);
};

struct peer_wire_stats {
    uint64_t connections; /* made to us, open now */
    uint64_t strangers;   /* closed before one of their frames was believed */
};

/* Listens on network.cluster_address; dials all nodes but node.index, by network.peers and hints.
 */
enum err peer_wire_new(uv_loop_t *loop, const struct config *config, const struct log *log,
                       const struct peer_wire_callbacks *callbacks,
                       struct peer_wire **ret_wire) MUST_CHECK;
/* No callback follows; frees itself as the loop runs on. */
void peer_wire_close(struct peer_wire *wire);
/* Every 100 ms or so. */
void peer_wire_tick(struct peer_wire *wire);

/* Connected, and no frame is on its way into the socket. */
bool peer_wire_ready(const struct peer_wire *wire, uint32_t node);
/* Room for a frame of `len` bytes at most; then peer_wire_send with its real length. Only when
 * ready. later: be ready again only in a later turn of the loop, even where the socket has taken
 * it. */
uint8_t *peer_wire_room(struct peer_wire *wire, uint32_t node, size_t len);
void peer_wire_send(struct peer_wire *wire, uint32_t node, size_t len, bool later);
/* The node seems to be there: dials it now, if a pause is all that it waits for. */
void peer_wire_hurry(struct peer_wire *wire, uint32_t node);
/* Every tick: looks whether the connection to the node leads to it. Where there are hints, one that
 * doesn't seem to ends, and the next address is tried. alive: there is a session. Returns the
 * address once it is proven right, where it was a hint; else NULL. */
const struct sockaddr *peer_wire_judge(struct peer_wire *wire, uint32_t node, bool alive);
/* There is a connection to the node, at an address that was a hint. */
bool peer_wire_by_hint(const struct peer_wire *wire, uint32_t node);
/* "ip:port" of the connection to the node, "" where there is none. Static until the next turn. */
const char *peer_wire_address(const struct peer_wire *wire, uint32_t node);

/* It is a peer's: it may stay, and send large frames. */
void peer_source_believe(struct peer_source *source);
/* Sends it back on this connection, the first time. */
void peer_source_vouch(struct peer_source *source, const uint8_t vouch[static PEER_VOUCH_BYTES]);
/* "ip", without its port, for the log. */
const char *peer_source_address(const struct peer_source *source);
void peer_wire_get_stats(const struct peer_wire *wire, struct peer_wire_stats *ret_stats);
