/* Links: one nng pair1 socket each, driven by two uv_poll handles and an async for nng's pipe
 * events. */
#include "proto/link.h"

#include <nng/nng.h>
#include <nng/protocol/pair1/pair.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "common/assert.h"
#include "common/limits.h"

/* Messages that one turn takes from a link before others get theirs; the descriptor stays
 * readable. */
#define INTAKE_MAX 64
/* nng's own buffers, in messages: the receiving one saves wake-ups, the sending one only hides
 * bursts. */
#define RECV_BUFFER 128
#define SEND_BUFFER 8
#define REDIAL_MS_MIN 10
#define REDIAL_MS_MAX 100
/* A frame is cut behind the message that makes it as large as this. */
#define FRAME_BYTES (4u << 20)
/* Capacity that an empty outbox keeps. */
#define OUTBOX_KEEP_BYTES (1u << 20)
/* Pipe events between two turns; more than these few only come from a peer gone mad. */
#define EVENTS_MAX 32

struct pipe_event {
    int pipe;
    bool added; /* else removed */
};

struct link {
    nng_socket socket;
    struct link_callbacks callbacks;
    const struct log *log;
    char *path;
    uint64_t own_boot, peer_boot;
    /* packed once: the head of every frame, and the first frame's message */
    struct buf head, hello;
    int pipe;               /* 0: nobody is there */
    bool hello_due, up, over, closing;
    struct buf outbox;
    size_t outbox_sent; /* of outbox: already in a frame */
    nng_msg *pending;   /* a frame that nng hasn't taken yet */

    nng_msg *frame;     /* being handled */
    struct span rest;   /* of frame: messages not yet handled */
    uint64_t pause_bytes;
    bool paused;        /* rest waits until less is to go out */

    uv_poll_t recv_poll, send_poll;
    bool send_polling;
    unsigned handles; /* not yet closed */
    uv_async_t async;
    uv_work_t close_work;

    /* Written by nng's threads. */
    pthread_mutex_t lock;
    struct pipe_event events[EVENTS_MAX];
    unsigned events_count;
    bool events_lost;
};

static enum err open_socket(struct link *link, const struct link_config *config);
static int start_endpoint(struct link *link, const struct link_config *config);
static void start_polling(struct link *link, uv_loop_t *loop);
static void on_pipe_event(nng_pipe pipe, nng_pipe_ev event, void *ctx);
static void on_async(uv_async_t *async);
static void on_pipe_added(struct link *link, int pipe);
static void on_pipe_removed(struct link *link, int pipe);
static void on_readable(uv_poll_t *poll, int status, int events);
static bool receive_one(struct link *link);
static void handle_frame(struct link *link);
static void handle_messages(struct link *link);
static bool must_pause(struct link *link);
static void resume_intake(struct link *link);
static void drop_frame(struct link *link);
static void handle_hello(struct link *link);
static void end_link(struct link *link, const char *why);
static void push(struct link *link);
static size_t unsent(const struct link *link);
static size_t frame_len(struct span messages);
static nng_msg *make_frame(const struct link *link, struct span messages);
static bool send_pending(struct link *link);
static void on_sendable(uv_poll_t *poll, int status, int events);
static void poll_closed(uv_handle_t *handle);
static void close_socket(uv_work_t *work);
static void socket_closed(uv_work_t *work, int status);
static void free_link(uv_handle_t *handle);

enum err link_open(uv_loop_t *loop, const struct link_config *config,
                   const struct link_callbacks *callbacks, struct link **ret_link)
{
    if (strlen(config->path) > IPC_PATH_LEN_MAX || config->path[0] != '/') {
        log_error(config->log, "link.path_invalid", "path=\"%s\" bytes_max=%u", config->path,
                  IPC_PATH_LEN_MAX);
        return ERR_INVALID;
    }
    struct link *link = calloc(1, sizeof *link);
    ASSERT(link != NULL);
    link->callbacks = *callbacks;
    link->log = config->log;
    link->own_boot = config->own_boot;
    link->peer_boot = config->peer_boot;
    link->pause_bytes = config->pause_bytes;
    link->path = strdup(config->path);
    ASSERT(link->path != NULL && pthread_mutex_init(&link->lock, NULL) == 0);
    frame_pack_head(&link->head, &(struct frame_head){.version = PROTO_VERSION,
                                                      .from_boot = config->own_boot,
                                                      .to_boot = config->peer_boot});
    msg_pack_link_hello(&link->hello, &(struct msg_link_hello){
                                          .index = config->own_index,
                                          .version = span_str(SIERRADB_VERSION)});
    ASSERT(uv_async_init(loop, &link->async, on_async) == 0);
    link->async.data = link;

    /* nng starts its threads in the first call; they must not take the process's signals. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    enum err err = open_socket(link, config);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (err != ERR_OK) {
        uv_close((uv_handle_t *)&link->async, free_link);
        return err;
    }
    start_polling(link, loop);
    *ret_link = link;
    return ERR_OK;
}

struct buf *link_outbox(struct link *link)
{
    return &link->outbox;
}

void link_flush(struct link *link)
{
    if (!link->send_polling)
        push(link);
}

bool link_flushed(const struct link *link)
{
    return link->pending == NULL && unsent(link) == 0;
}

bool link_is_up(const struct link *link)
{
    return link->up && !link->over;
}

void link_close(struct link *link)
{
    ASSERT(!link->closing);
    link->closing = link->over = true;
    link->handles = 2;
    uv_close((uv_handle_t *)&link->recv_poll, poll_closed);
    uv_close((uv_handle_t *)&link->send_poll, poll_closed);
}

/* --- Opening --- */

static enum err open_socket(struct link *link, const struct link_config *config)
{
    int error = nng_pair1_open(&link->socket);
    if (error != 0) {
        log_error(link->log, "link.open_failed", "path=\"%s\" error=\"%s\"", link->path,
                  nng_strerror(error));
        return ERR_IO;
    }
    error = start_endpoint(link, config);
    if (error != 0) {
        log_error(link->log, "link.open_failed", "path=\"%s\" listen=%d error=\"%s\"", link->path,
                  config->listen, nng_strerror(error));
        nng_close(link->socket);
        return ERR_IO;
    }
    return ERR_OK;
}

static int start_endpoint(struct link *link, const struct link_config *config)
{
    char url[sizeof "ipc://" + IPC_PATH_LEN_MAX];
    snprintf(url, sizeof url, "ipc://%s", link->path);
    int error = nng_socket_set_int(link->socket, NNG_OPT_RECVBUF, RECV_BUFFER);
    if (error == 0)
        error = nng_socket_set_int(link->socket, NNG_OPT_SENDBUF, SEND_BUFFER);
    if (error == 0)
        error = nng_pipe_notify(link->socket, NNG_PIPE_EV_ADD_POST, on_pipe_event, link);
    if (error == 0)
        error = nng_pipe_notify(link->socket, NNG_PIPE_EV_REM_POST, on_pipe_event, link);
    if (error != 0)
        return error;
    if (config->listen) {
        nng_listener listener;
        error = nng_listener_create(&listener, link->socket, url);
        if (error == 0)
            error = nng_listener_set_size(listener, NNG_OPT_RECVMAXSZ, LINK_MESSAGE_BYTES_MAX);
        return error == 0 ? nng_listener_start(listener, 0) : error;
    }
    nng_dialer dialer;
    error = nng_dialer_create(&dialer, link->socket, url);
    if (error == 0)
        error = nng_dialer_set_size(dialer, NNG_OPT_RECVMAXSZ, LINK_MESSAGE_BYTES_MAX);
    if (error == 0)
        error = nng_dialer_set_ms(dialer, NNG_OPT_RECONNMINT, REDIAL_MS_MIN);
    if (error == 0)
        error = nng_dialer_set_ms(dialer, NNG_OPT_RECONNMAXT, REDIAL_MS_MAX);
    return error == 0 ? nng_dialer_start(dialer, NNG_FLAG_NONBLOCK) : error;
}

static void start_polling(struct link *link, uv_loop_t *loop)
{
    int recv_fd = -1, send_fd = -1;
    ASSERT(nng_socket_get_int(link->socket, NNG_OPT_RECVFD, &recv_fd) == 0);
    ASSERT(nng_socket_get_int(link->socket, NNG_OPT_SENDFD, &send_fd) == 0);
    ASSERT(uv_poll_init(loop, &link->recv_poll, recv_fd) == 0);
    ASSERT(uv_poll_init(loop, &link->send_poll, send_fd) == 0);
    link->recv_poll.data = link->send_poll.data = link;
    ASSERT(uv_poll_start(&link->recv_poll, UV_READABLE, on_readable) == 0);
}

/* --- Who is there --- */

/* On one of nng's threads: only notes what happened. */
static void on_pipe_event(nng_pipe pipe, nng_pipe_ev event, void *ctx)
{
    struct link *link = ctx;
    pthread_mutex_lock(&link->lock);
    if (link->events_count < EVENTS_MAX)
        link->events[link->events_count++] = (struct pipe_event){
            .pipe = nng_pipe_id(pipe), .added = event == NNG_PIPE_EV_ADD_POST};
    else
        link->events_lost = true;
    pthread_mutex_unlock(&link->lock);
    uv_async_send(&link->async);
}

static void on_async(uv_async_t *async)
{
    struct link *link = async->data;
    struct pipe_event events[EVENTS_MAX];
    pthread_mutex_lock(&link->lock);
    unsigned count = link->events_count;
    memcpy(events, link->events, count * sizeof *events);
    link->events_count = 0;
    bool lost = link->events_lost;
    pthread_mutex_unlock(&link->lock);
    for (unsigned i = 0; i < count && !link->over; i++) {
        if (events[i].added)
            on_pipe_added(link, events[i].pipe);
        else
            on_pipe_removed(link, events[i].pipe);
    }
    if (lost)
        end_link(link, "the connection flaps");
    resume_intake(link);
}

static void on_pipe_added(struct link *link, int pipe)
{
    link->pipe = pipe;
    link->hello_due = true;
    link_flush(link);
}

/* Before the first hello the dialer just tries again. Afterwards the link is over, but what arrived
 * before the end still counts, unless it had to wait: its answers have nowhere to go. */
static void on_pipe_removed(struct link *link, int pipe)
{
    if (pipe != link->pipe)
        return;
    if (link->paused)
        drop_frame(link);
    while (!link->over && receive_one(link)) {
    }
    link->pipe = 0;
    if (link->up)
        end_link(link, "the other side is gone");
}

static void end_link(struct link *link, const char *why)
{
    if (link->over)
        return;
    link->over = true;
    uv_poll_stop(&link->recv_poll);
    uv_poll_stop(&link->send_poll);
    log_debug(link->log, "link.down", "path=\"%s\" reason=\"%s\"", link->path, why);
    link->callbacks.on_down(link->callbacks.ctx, link);
}

/* --- In --- */

static void on_readable(uv_poll_t *poll, int status, int events)
{
    (void)events;
    struct link *link = poll->data;
    ASSERT(status == 0);
    for (unsigned i = 0; i < INTAKE_MAX && !link->over; i++) {
        if (!receive_one(link))
            return;
    }
}

/* False where nothing waits, or nothing may come in. */
static bool receive_one(struct link *link)
{
    if (link->paused || nng_recvmsg(link->socket, &link->frame, NNG_FLAG_NONBLOCK) != 0)
        return false;
    link->rest = span_of(nng_msg_body(link->frame), nng_msg_len(link->frame));
    handle_frame(link);
    return true;
}

static void handle_frame(struct link *link)
{
    struct frame_head head;
    enum err err = frame_unpack_head(&link->rest, &head);
    if (err != ERR_OK) {
        log_error(link->log, "link.bad_frame", "path=\"%s\" error=%s", link->path, err_name(err));
        drop_frame(link);
        end_link(link, "bad frame");
        return;
    }
    if ( (head.from_boot != link->peer_boot || head.to_boot != link->own_boot)) {
        log_warn(link->log, "link.stale_frame",
                 "path=\"%s\" from=%lu to=%lu expected_from=%lu expected_to=%lu", link->path,
                 head.from_boot, head.to_boot, link->peer_boot, link->own_boot);
        drop_frame(link);
        return;
    }
    handle_messages(link);
}

static void handle_messages(struct link *link)
{
    enum err err = ERR_OK;
    struct msg msg;
    while (err == ERR_OK && link->rest.len > 0 && !link->over) {
        if (must_pause(link))
            return;
        err = msg_unpack(&link->rest, &msg);
        if (err == ERR_NOTFOUND) {
            err = ERR_OK; /* a message of a newer version */
        } else if (err == ERR_OK && msg.tag == TAG_link_hello) {
            handle_hello(link);
        } else if (err == ERR_OK && !link->up) {
            err = ERR_INVALID;
        } else if (err == ERR_OK) {
            link->callbacks.on_message(link->callbacks.ctx, link, &msg);
        }
    }
    drop_frame(link);
    if (err != ERR_OK) {
        log_error(link->log, "link.bad_frame", "path=\"%s\" error=%s", link->path, err_name(err));
        end_link(link, "bad frame");
    }
}

static bool must_pause(struct link *link)
{
    if (link->pause_bytes == 0 || unsent(link) <= link->pause_bytes)
        return false;
    link_flush(link);
    if (unsent(link) <= link->pause_bytes)
        return false;
    link->paused = true;
    uv_poll_stop(&link->recv_poll);
    return true;
}

static void resume_intake(struct link *link)
{
    if (!link->paused || link->over || unsent(link) > link->pause_bytes)
        return;
    link->paused = false;
    ASSERT(uv_poll_start(&link->recv_poll, UV_READABLE, on_readable) == 0);
    handle_messages(link);
}

static void drop_frame(struct link *link)
{
    nng_msg_free(link->frame);
    link->frame = NULL;
    link->rest = (struct span){0};
    link->paused = false;
}

static void handle_hello(struct link *link)
{
    if (link->up)
        return; /* said again on a connection that was made again */
    link->up = true;
    log_debug(link->log, "link.up", "path=\"%s\"", link->path);
    link->callbacks.on_up(link->callbacks.ctx, link);
}

/* --- Out --- */

static void push(struct link *link)
{
    if (link->over || link->pipe == 0)
        return;
    if (link->pending != NULL && !send_pending(link))
        return;
    if (link->hello_due) {
        link->hello_due = false;
        link->pending = make_frame(link, buf_span(&link->hello));
        if (!send_pending(link))
            return;
    }
    while (link->up && unsent(link) > 0) {
        struct span messages = span_of(link->outbox.ptr + link->outbox_sent, unsent(link));
        messages.len = frame_len(messages);
        link->pending = make_frame(link, messages);
        link->outbox_sent += messages.len;
        if (unsent(link) == 0) {
            buf_clear(&link->outbox, OUTBOX_KEEP_BYTES);
            link->outbox_sent = 0;
        } else if (link->outbox_sent > link->outbox.len / 2) {
            buf_consume(&link->outbox, link->outbox_sent);
            link->outbox_sent = 0;
        }
        if (!send_pending(link))
            return;
    }
    if (link->send_polling) {
        uv_poll_stop(&link->send_poll);
        link->send_polling = false;
    }
}

static size_t unsent(const struct link *link)
{
    return link->outbox.len - link->outbox_sent;
}

/* Whole messages, one at least. */
static size_t frame_len(struct span messages)
{
    struct span rest = messages;
    struct msg msg;
    if (messages.len <= FRAME_BYTES)
        return messages.len;
    while (rest.len > 0 && messages.len - rest.len < FRAME_BYTES)
        ASSERT(msg_unpack(&rest, &msg) == ERR_OK);
    return messages.len - rest.len;
}

static nng_msg *make_frame(const struct link *link, struct span messages)
{
    size_t len = link->head.len + messages.len;
    ASSERT(len <= LINK_MESSAGE_BYTES_MAX);
    nng_msg *msg;
    ASSERT(nng_msg_alloc(&msg, 0) == 0 && nng_msg_reserve(msg, len) == 0);
    ASSERT(nng_msg_append(msg, link->head.ptr, link->head.len) == 0);
    ASSERT(nng_msg_append(msg, messages.ptr, messages.len) == 0);
    return msg;
}

/* False: nng takes nothing now, and the descriptor that says when is watched. */
static bool send_pending(struct link *link)
{
    int error = nng_sendmsg(link->socket, link->pending, NNG_FLAG_NONBLOCK);
    if (error == 0) {
        link->pending = NULL;
        return true;
    }
    ASSERT(error == NNG_EAGAIN || error == NNG_ECLOSED || error == NNG_ETIMEDOUT);
    if (!link->send_polling) {
        link->send_polling = true;
        /* nng's descriptor becomes readable when sending would work. */
        ASSERT(uv_poll_start(&link->send_poll, UV_READABLE, on_sendable) == 0);
    }
    return false;
}

static void on_sendable(uv_poll_t *poll, int status, int events)
{
    (void)events;
    ASSERT(status == 0);
    push(poll->data);
    resume_intake(poll->data);
}

/* --- Closing --- */

/* nng_close waits for nng's threads: it runs in the pool, after the loop stopped watching the
 * socket's descriptors and before the async that nng's callbacks use goes away. */
static void poll_closed(uv_handle_t *handle)
{
    struct link *link = handle->data;
    if (--link->handles > 0)
        return;
    link->close_work.data = link;
    ASSERT(uv_queue_work(link->async.loop, &link->close_work, close_socket, socket_closed) == 0);
}

static void close_socket(uv_work_t *work)
{
    struct link *link = work->data;
    nng_close(link->socket);
}

static void socket_closed(uv_work_t *work, int status)
{
    (void)status;
    struct link *link = work->data;
    uv_close((uv_handle_t *)&link->async, free_link);
}

static void free_link(uv_handle_t *handle)
{
    struct link *link = handle->data;
    if (link->pending != NULL)
        nng_msg_free(link->pending);
    if (link->frame != NULL)
        nng_msg_free(link->frame);
    buf_release(&link->head);
    buf_release(&link->hello);
    buf_release(&link->outbox);
    pthread_mutex_destroy(&link->lock);
    free(link->path);
    free(link);
}
