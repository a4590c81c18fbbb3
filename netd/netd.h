/* The network daemon's state and its turn: clients in, calls to buckets out, answers back. One
 * loop, one thread. */
#pragma once

#include <uv.h>

#include "common/config.h"
#include "netd/client.h"
#include "netd/cluster.h"
#include "netd/hub.h"
#include "netd/request.h"
#include "netd/router.h"
#include "proto/child.h"

struct netd_stats {
    uint64_t connections, rejected, commands, errors;
    uint64_t appends, events_appended, events_read, bytes_in, bytes_out;
};

struct netd {
    uv_loop_t *loop;
    const struct config *config;
    const struct log *log;
    struct child *child; /* set once the supervisor's link is open */
    struct router *router;
    struct cluster *cluster;
    struct hubs *hubs;
    uv_prepare_t prepare;
    uv_check_t check;
    uv_timer_t timer;
    uint64_t started_ms;             /* loop time */
    char node_id[UUID_TEXT_LEN + 1]; /* of this start */
    uint64_t event_bytes_max, transaction_bytes_max;

    int listen_fd; /* -1: not listening */
    uv_poll_t listen_poll;
    bool accepting;
    uint64_t accept_warning_at_ms, trim_at_ms;
    struct client *clients;
    uint64_t client_count, next_client_id;
    uint64_t clients_max;   /* network.max_clients, or less where too few files may be open */
    struct client *dirty;   /* want something done at the end of this turn */
    struct client *stalled; /* wait for room in a bucket's append queue */
    struct request_pool requests;

    bool stopping, said_bye;
    uint64_t stop_at_ms; /* loop time: leave, whatever is in flight */

    struct buf error; /* of the command being parsed */
    uint8_t random[4096];
    size_t random_left;
    struct netd_stats stats;
};

/* ERR_IO: it can't listen for other nodes; the log says why. */
enum err netd_init(struct netd *netd, uv_loop_t *loop, const struct config *config,
                   const struct log *log, const struct child_args *args) MUST_CHECK;
/* Listens for clients on network.client_address. ERR_IO: it can't; the log says why. */
enum err netd_listen(struct netd *netd) MUST_CHECK;
/* Takes no more requests, answers what is in flight, then says bye. */
void netd_stop(struct netd *netd, uint64_t deadline_ms);
void netd_print_stats(struct netd *netd, struct buf *out);

/* Loop time in ms; milliseconds since the epoch; random bytes from a refilled buffer. */
uint64_t netd_now_ms(const struct netd *netd);
uint64_t netd_wall_ms(void);
const uint8_t *netd_random(struct netd *netd, size_t len);
uint64_t netd_memory_bytes(void);
/* A client went away: there may be room for another. */
void netd_resume_accept(struct netd *netd);
