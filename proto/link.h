/* A link between two actors: one stream socket over a path, in a libuv loop.
 *
 * One side listens on a path that is fresh for each link, the other dials until it is heard. All
 * messages packed into the outbox in one turn of the loop leave as one frame, or as several where
 * they are many. Frames from or for another incarnation are dropped. What the socket can't take
 * stays in the outbox (bounded by the callers' credit and by pause_bytes) and follows as soon as
 * it can.
 *
 * A link that was up and goes down is over: it is never up again; the supervisor introduces a
 * new one. */
#pragma once

#include <uv.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/log.h"
#include "proto/messages.h"

struct link;

struct link_callbacks {
    void *ctx;
    /* The other side is there and said link_hello. */
    void (*on_up)(void *ctx, struct link *link);
    /* Over: the other side went away, or sent what can't be trusted. Called at most once, never
     * from link_close. */
    void (*on_down)(void *ctx, struct link *link);
    /* The messages of one frame. Views are valid during the call. Called for each message in
     * turn. */
    void (*on_message)(void *ctx, struct link *link, const struct msg *msg);
};

struct link_config {
    const char *path; /* absolute, at most IPC_PATH_LEN_MAX bytes */
    bool listen;      /* or dial */
    uint64_t own_boot, peer_boot;
    uint64_t own_index; /* goes out in link_hello */
    /* While more bytes than this wait to go out, no further message comes in: answers that are
     * much larger than their requests then can't fill the memory. 0: messages always come in. Only
     * one side of a link may wait so, or both could wait for each other. */
    uint64_t pause_bytes;
    const struct log *log;
};

/* Opens the socket and starts listening or dialling; never blocks. ERR_INVALID: path too long;
 * ERR_IO. */
enum err link_open(uv_loop_t *loop, const struct link_config *config,
                   const struct link_callbacks *callbacks, struct link **ret_link) MUST_CHECK;
/* Where messages are packed; they leave at the next link_flush. */
struct buf *link_outbox(struct link *link);
/* Sends the outbox as one frame, what the socket can't take now as soon as it can. Call once at
 * the end of a turn; no callback comes from within. */
void link_flush(struct link *link);
/* All that was packed has left: the other side gets it even if this process ends now. */
bool link_flushed(const struct link *link);
bool link_is_up(const struct link *link);
/* Closes and frees; no callback follows. The handles' ends happen as the loop goes on. */
void link_close(struct link *link);
