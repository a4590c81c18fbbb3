/* What peer_wire.c (connections made to us) and peer_dial.c (those that we make) share. */
#pragma once

#include "netd/peer_frame.h"
#include "netd/peer_wire.h"

#define PEER_ADDRESS_LEN_MAX 64u /* "[ipv6]:port" */
#define PEER_ADDRESSES_MAX   8u  /* of one name */

enum dial_state { DIAL_IDLE, DIAL_RESOLVING, DIAL_CONNECTING, DIAL_CONNECTED, DIAL_CLOSING };

/* The connection to one node. */
struct dial {
    struct peer_wire *wire;
    uint32_t node;
    const struct config_peer *peer;
    enum dial_state state;
    uint64_t since_ms;     /* of this state */
    uint64_t pause_ms;     /* before the next try; grows with each that fails */
    uint64_t warned_ms;    /* the name's last error was logged */
    uint64_t connected_ms; /* when it last was; at first: when this began */
    struct sockaddr_storage addresses[PEER_ADDRESSES_MAX];
    unsigned address_count, address_next;
    char address[PEER_ADDRESS_LEN_MAX]; /* of the connection */
    uv_getaddrinfo_t resolve;
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_write_t write;
    char sink[16];  /* for what the other side must not send */
    struct buf out; /* length and frame on their way */
    bool writing;
};

struct peer_wire {
    uv_loop_t *loop;
    uint32_t own_node, node_count;
    const struct log *log;
    struct peer_wire_callbacks callbacks;
    uv_tcp_t listener;
    struct peer_source *sources; /* newest first */
    unsigned stranger_count;
    uint64_t warnings_since_ms; /* of names, in the minute at hand */
    unsigned warnings, warnings_quiet;
    unsigned resolving; /* names being looked up, each in a thread of libuv's pool */
    struct dial *dials; /* by node; the own one unused */
    unsigned user_timeout_ms;
    bool closing;
    unsigned open_handles; /* the memory goes with the last of them */
    struct peer_wire_stats stats;
};

void dial_init(struct dial *dial, struct peer_wire *wire, uint32_t node,
               const struct config_peer *peer);
void dial_tick(struct dial *dial, uint64_t now_ms);
void dial_close(struct dial *dial);
/* A handle or a lookup has ended; frees all with the last one of a closing wire. */
void wire_handle_closed(struct peer_wire *wire);
/* Nagle off, keepalive on, and an end for bytes that nobody acknowledges. */
void wire_tune(struct peer_wire *wire, uv_tcp_t *tcp);
void wire_print_address(const struct sockaddr *address, bool port, char to[PEER_ADDRESS_LEN_MAX]);
