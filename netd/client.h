/* One connection: its socket, reader, requests in order and output. Everything a turn produced for
 * a client is written with one write at the turn's end. */
#pragma once

#include <uv.h>

#include "common/buf.h"
#include "netd/request.h"
#include "netd/session.h"
#include "proto/resp.h"

struct netd;

struct client {
    struct client *prev, *next; /* of all clients */
    struct client *dirty_next, *stalled_next;
    struct netd *netd;
    uv_poll_t poll;
    int fd;
    int events;                     /* what poll watches */
    uint64_t id, since_ms, last_ms; /* loop time */
    struct resp_reader *reader;

    /* A parsed request that can't start yet: the reader isn't touched meanwhile. */
    const struct resp_arg *held_args;
    uint32_t held_count;

    struct request *first, *last;
    uint32_t pending;       /* requests in the queue */
    uint32_t in_flight[4];  /* by command_class */
    uint64_t waiting_bytes; /* replies that wait for their turn */
    uint64_t read_bytes;    /* expected of each read in flight: what recent ones had at most */
    struct buf out;
    size_t out_sent;    /* of out */
    bool write_blocked; /* the socket took less than it was given */
    struct subscription *subscriptions;
    uint32_t subscription_count;

    struct session session; /* unused where node.count is 1 */
    int proto;
    bool proto_fixed; /* by HELLO, or because the client introduced itself */
    bool authenticated;
    bool no_more;    /* take no further requests: QUIT, protocol error, end of input */
    bool input_done; /* no whole request is left in the reader */
    bool end_of_input;
    bool closing;
    bool is_dirty, is_stalled, wake, push_blocked, is_trimmed;
    uint64_t commands;
    char name[64], lib_name[64], lib_version[32], address[64];
    const char *last_command;
};

/* Takes over the connected socket. */
void client_new(struct netd *netd, int fd, const char *address);
/* Ends it at the end of this turn; nothing more is read or written. */
void client_close(struct client *client);
/* Something is to be written, or (wake) requests may be started again: at the end of this turn. */
void client_mark(struct client *client, bool wake);
/* Starts what requests the input holds and the limits allow. */
void client_process(struct client *client);
void client_write(struct client *client);
/* Frees what client_close ended. */
void client_reap(struct client *client);
/* Tells the client that nothing more comes, before its socket is closed. */
void client_hang_up(struct client *client);
/* Gives back the buffers of a client that was silent for a while; returns how many bytes at least.
 */
size_t client_trim(struct client *client, uint64_t now_ms);
/* Nothing in flight, nothing to be written (a subscriber's pushes may wait: it resumes with FROM).
 */
bool client_is_quiet(const struct client *client);

/* Takes done requests off the queue's head. */
void client_pop(struct client *client);
void client_set_limits(struct client *client);
void client_set_proto(struct client *client, int proto);
void client_end_subscription(struct client *client, struct subscription *subscription);
void client_end_subscriptions(struct client *client);
/* Pushes may be written: NULL where the output is full. */
struct buf *client_push_room(struct client *client);
