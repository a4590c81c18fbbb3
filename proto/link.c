/* Links: a stream socket in the file system each, in the loop by a uv_poll handle. Each frame is a
 * length of 4 bytes and what proto/messages.h calls a frame. */
#include "proto/link.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/assert.h"
#include "common/limits.h"

#define LENGTH_BYTES 4u
/* What one turn takes from a link before others get theirs; more where a frame is larger. */
#define READ_BYTES    (256u << 10)
#define REDIAL_MS_MIN 5u
#define REDIAL_MS_MAX 100u
/* A frame is cut behind the message that makes it as large as this. */
#define FRAME_BYTES (4u << 20)
/* Capacity that an empty buffer keeps. */
#define KEEP_BYTES (1u << 20)

_Static_assert(LINK_MESSAGE_BYTES_MAX <= UINT32_MAX, "a frame's length fits its field");

struct link {
    uv_loop_t *loop;
    struct link_callbacks callbacks;
    const struct log *log;
    char *path;
    uint64_t own_boot, peer_boot, pause_bytes;
    int listen_fd; /* -1: this side dials, or met its peer */
    int fd;        /* the connection; -1: none */
    bool up, over, closing;
    bool broken; /* nothing can be sent any more; what arrived may still be read */
    bool paused; /* frames wait until less is to go out */

    struct buf in;
    size_t in_used;   /* of in: handled */
    struct span rest; /* of the frame being handled, in `in`: messages not yet handled */

    /* Packed once, with their lengths: the first frame, and the head of every other. */
    struct buf hello, head;
    struct buf outbox;
    size_t outbox_sent;
    /* Of the frame that is going out: its head or the hello, and how much of the outbox. */
    struct span out_head;
    size_t out_body;

    uv_poll_t listen_poll, poll;
    uv_timer_t redial;
    uint64_t redial_ms;
    int poll_events;
    unsigned handles; /* not yet closed */
};

static void pack_heads(struct link *link, const struct link_config *config);
static int listen_at(struct link *link);
static void dial(struct link *link);
static void dial_later(struct link *link);
static int try_dial(struct link *link);
static void on_redial(uv_timer_t *timer);
static void on_acceptable(uv_poll_t *poll, int status, int events);
static void stop_listening(struct link *link);
static void connected(struct link *link, int fd);
static void lose(struct link *link);
static void end_link(struct link *link, const char *why);
static void disconnect(struct link *link);
static void disconnected(uv_handle_t *handle);
static void on_poll(uv_poll_t *poll, int status, int events);
static void watch(struct link *link);
static void receive(struct link *link);
static void handle_frames(struct link *link);
static enum err take_frame(struct link *link);
static enum err handle_messages(struct link *link);
static bool must_pause(struct link *link);
static void handle_hello(struct link *link);
static void push(struct link *link);
static size_t unsent(const struct link *link);
static bool begin_frame(struct link *link);
static size_t frame_len(struct span messages);
static void note_sent(struct link *link, size_t len);
static void handle_closed(uv_handle_t *handle);
static void free_link(struct link *link);

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
    link->loop = loop;
    link->callbacks = *callbacks;
    link->log = config->log;
    link->own_boot = config->own_boot;
    link->peer_boot = config->peer_boot;
    link->pause_bytes = config->pause_bytes;
    link->listen_fd = link->fd = -1;
    link->path = strdup(config->path);
    ASSERT(link->path != NULL);
    pack_heads(link, config);
    int error = config->listen ? listen_at(link) : 0;
    if (error != 0) {
        log_error(link->log, "link.open_failed", "path=\"%s\" error=\"%s\"", link->path,
                  strerror(error));
        free_link(link);
        return ERR_IO;
    }
    ASSERT(uv_timer_init(loop, &link->redial) == 0);
    link->redial.data = link;
    link->handles++;
    if (!config->listen)
        dial(link);
    *ret_link = link;
    return ERR_OK;
}

struct buf *link_outbox(struct link *link)
{
    return &link->outbox;
}

void link_flush(struct link *link)
{
    if (link->fd < 0 || (link->poll_events & UV_WRITABLE) != 0)
        return;
    push(link);
    watch(link);
}

bool link_flushed(const struct link *link)
{
    return link->out_head.len == 0 && unsent(link) == 0;
}

bool link_is_up(const struct link *link)
{
    return link->up && !link->over;
}

void link_close(struct link *link)
{
    ASSERT(!link->closing);
    link->closing = link->over = true;
    stop_listening(link);
    disconnect(link);
    uv_close((uv_handle_t *)&link->redial, handle_closed);
}

static void pack_heads(struct link *link, const struct link_config *config)
{
    buf_append_zeros(&link->head, LENGTH_BYTES);
    frame_pack_head(&link->head, &(struct frame_head){.version = PROTO_VERSION,
                                                      .from_boot = config->own_boot,
                                                      .to_boot = config->peer_boot});
    buf_append_span(&link->hello, buf_span(&link->head));
    msg_pack_link_hello(&link->hello,
                        &(struct msg_link_hello){.index = config->own_index,
                                                 .version = span_str(SIERRADB_VERSION)});
    store_u32(link->hello.ptr, (uint32_t)(link->hello.len - LENGTH_BYTES));
}

/* --- Meeting: until the first hello either side just tries again --- */

static int open_socket(const struct link *link, struct sockaddr_un *ret_address)
{
    *ret_address = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(ret_address->sun_path, link->path, strlen(link->path));
    return socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

/* 0 or errno. */
static int listen_at(struct link *link)
{
    struct sockaddr_un address;
    int fd = open_socket(link, &address);
    if (fd < 0)
        return errno;
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 1) != 0) {
        int error = errno;
        close(fd);
        return error;
    }
    ASSERT(uv_poll_init(link->loop, &link->listen_poll, fd) == 0);
    link->listen_poll.data = link;
    link->listen_fd = fd;
    link->handles++;
    ASSERT(uv_poll_start(&link->listen_poll, UV_READABLE, on_acceptable) == 0);
    return 0;
}

static void dial(struct link *link)
{
    int fd = try_dial(link);
    if (fd >= 0)
        connected(link, fd);
    else
        dial_later(link);
}

static void dial_later(struct link *link)
{
    link->redial_ms =
        link->redial_ms == 0 ? REDIAL_MS_MIN : min_u64(link->redial_ms * 2, REDIAL_MS_MAX);
    uv_timer_start(&link->redial, on_redial, link->redial_ms, 0);
}

/* Over such sockets connect never has to wait. */
static int try_dial(struct link *link)
{
    struct sockaddr_un address;
    int fd = open_socket(link, &address);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static void on_redial(uv_timer_t *timer)
{
    dial(timer->data);
}

static void on_acceptable(uv_poll_t *poll, int status, int events)
{
    (void)events;
    struct link *link = poll->data;
    ASSERT(status == 0);
    int fd = accept4(link->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return; /* it left again */
    uv_poll_stop(&link->listen_poll);
    connected(link, fd);
}

static void stop_listening(struct link *link)
{
    if (link->listen_fd < 0)
        return;
    uv_close((uv_handle_t *)&link->listen_poll, handle_closed);
    close(link->listen_fd);
    unlink(link->path);
    link->listen_fd = -1;
}

static void connected(struct link *link, int fd)
{
    ASSERT(link->fd < 0 && !link->over);
    ASSERT(uv_poll_init(link->loop, &link->poll, fd) == 0);
    link->poll.data = link;
    link->fd = fd;
    link->handles++;
    link->out_head = buf_span(&link->hello);
    push(link);
    watch(link);
}

/* A connection that ended: where the two had met the link is over, else they try again. */
static void lose(struct link *link)
{
    if (link->up)
        end_link(link, "the other side is gone");
    else
        disconnect(link);
}

static void end_link(struct link *link, const char *why)
{
    if (link->over)
        return;
    link->over = true;
    stop_listening(link);
    disconnect(link);
    log_debug(link->log, "link.down", "path=\"%s\" reason=\"%s\"", link->path, why);
    link->callbacks.on_down(link->callbacks.ctx, link);
}

/* The input stays until the handle is closed: a callback may be looking at it. */
static void disconnect(struct link *link)
{
    if (link->fd < 0)
        return;
    uv_close((uv_handle_t *)&link->poll, disconnected);
    close(link->fd);
    link->fd = -1;
    link->poll_events = 0;
    link->broken = link->paused = false;
    link->rest = link->out_head = (struct span){0};
    link->out_body = 0;
}

static void disconnected(uv_handle_t *handle)
{
    struct link *link = handle->data;
    buf_clear(&link->in, 0);
    link->in_used = 0;
    if (!link->over && link->listen_fd >= 0)
        ASSERT(uv_poll_start(&link->listen_poll, UV_READABLE, on_acceptable) == 0);
    else if (!link->over)
        dial_later(link);
    handle_closed(handle);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct link *link = poll->data;
    if (status < 0) { /* the socket has an error, and libuv no longer watches it */
        link->broken = true;
        link->poll_events = 0;
    }
    if ((events & UV_WRITABLE) != 0)
        push(link);
    if (link->paused && link->broken) {
        lose(link); /* the answers to what waits have nowhere to go */
    } else if (link->paused && unsent(link) <= link->pause_bytes) {
        link->paused = false;
        handle_frames(link);
    } else if (!link->paused && ((events & UV_READABLE) != 0 || link->broken)) {
        receive(link);
    }
    watch(link);
}

static void watch(struct link *link)
{
    if (link->fd < 0)
        return;
    bool blocked = link->out_head.len > 0 || link->out_body > 0;
    int events = blocked && !link->broken ? UV_WRITABLE : 0;
    if (!link->paused || link->broken)
        events |= UV_READABLE;
    if (events == link->poll_events)
        return;
    link->poll_events = events;
    ASSERT(uv_poll_start(&link->poll, events, on_poll) == 0);
}

/* --- In --- */

static void receive(struct link *link)
{
    uint8_t *to = buf_reserve(&link->in, READ_BYTES);
    ssize_t len = recv(link->fd, to, link->in.cap - link->in.len, MSG_DONTWAIT);
    if (len > 0) {
        link->in.len += (size_t)len;
        handle_frames(link);
    } else if (len == 0 || (errno != EAGAIN && errno != EINTR)) {
        lose(link); /* what had arrived before has been handled */
    }
}

/* All frames that are whole, unless they have to wait. */
static void handle_frames(struct link *link)
{
    enum err err = ERR_OK;
    while (err == ERR_OK && link->fd >= 0 && !link->paused) {
        if (link->rest.len == 0)
            err = take_frame(link);
        if (err == ERR_OK)
            err = handle_messages(link);
    }
    if (link->fd < 0 || link->paused)
        return;
    if (err != ERR_AGAIN) {
        log_error(link->log, "link.bad_frame", "path=\"%s\" error=%s", link->path, err_name(err));
        end_link(link, "bad frame");
        return;
    }
    buf_consume(&link->in, link->in_used);
    link->in_used = 0;
    if (link->in.len == 0)
        buf_clear(&link->in, KEEP_BYTES);
}

/* The next frame's messages; none where it is another incarnation's. ERR_AGAIN: it isn't whole. */
static enum err take_frame(struct link *link)
{
    struct span input = span_of(link->in.ptr + link->in_used, link->in.len - link->in_used);
    if (input.len < LENGTH_BYTES)
        return ERR_AGAIN;
    size_t len = load_u32(input.ptr);
    if (len > LINK_MESSAGE_BYTES_MAX)
        return ERR_MAXSIZE;
    if (input.len - LENGTH_BYTES < len)
        return ERR_AGAIN;
    link->in_used += LENGTH_BYTES + len;
    struct span messages = span_of(input.ptr + LENGTH_BYTES, len);
    struct frame_head head;
    enum err err = frame_unpack_head(&messages, &head);
    if (err != ERR_OK)
        return err;
    if (head.from_boot == link->peer_boot && head.to_boot == link->own_boot)
        link->rest = messages;
    else
        log_warn(link->log, "link.stale_frame",
                 "path=\"%s\" from=%lu to=%lu expected_from=%lu expected_to=%lu", link->path,
                 head.from_boot, head.to_boot, link->peer_boot, link->own_boot);
    return ERR_OK;
}

static enum err handle_messages(struct link *link)
{
    while (link->rest.len > 0 && !must_pause(link)) {
        struct msg msg;
        enum err err = msg_unpack(&link->rest, &msg);
        if (err == ERR_NOTFOUND)
            continue; /* a message of a newer version */
        if (err != ERR_OK)
            return err;
        if (msg.tag == TAG_link_hello)
            handle_hello(link);
        else if (link->up)
            link->callbacks.on_message(link->callbacks.ctx, link, &msg);
        else
            return ERR_INVALID;
    }
    return ERR_OK;
}

static bool must_pause(struct link *link)
{
    if (link->pause_bytes == 0 || unsent(link) <= link->pause_bytes)
        return false;
    link_flush(link);
    link->paused = unsent(link) > link->pause_bytes;
    return link->paused;
}

static void handle_hello(struct link *link)
{
    if (link->up)
        return;
    link->up = true;
    stop_listening(link);
    log_debug(link->log, "link.up", "path=\"%s\"", link->path);
    link->callbacks.on_up(link->callbacks.ctx, link);
}

/* --- Out --- */

/* As much as the socket takes. That it takes no more because the other side is gone shows where
 * its input ends: on_down never comes from within link_flush. */
static void push(struct link *link)
{
    while (!link->broken && begin_frame(link)) {
        struct iovec parts[] = {
            {.iov_base = (void *)link->out_head.ptr, .iov_len = link->out_head.len},
            {.iov_base = link->outbox.ptr + link->outbox_sent, .iov_len = link->out_body},
        };
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
        ssize_t len = sendmsg(link->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (len >= 0) {
            note_sent(link, (size_t)len);
        } else if (errno == EAGAIN) {
            return;
        } else if (errno != EINTR) {
            link->broken = true;
            shutdown(link->fd, SHUT_RDWR);
        }
    }
}

static size_t unsent(const struct link *link)
{
    return link->outbox.len - link->outbox_sent;
}

/* False: nothing is to go out. */
static bool begin_frame(struct link *link)
{
    if (link->out_head.len > 0 || link->out_body > 0)
        return true;
    if (!link->up || unsent(link) == 0)
        return false;
    link->out_body = frame_len(span_of(link->outbox.ptr + link->outbox_sent, unsent(link)));
    size_t len = link->head.len - LENGTH_BYTES + link->out_body;
    ASSERT(len <= LINK_MESSAGE_BYTES_MAX);
    store_u32(link->head.ptr, (uint32_t)len);
    link->out_head = buf_span(&link->head);
    return true;
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

static void note_sent(struct link *link, size_t len)
{
    size_t of_head = min_u64(len, link->out_head.len);
    link->out_head.ptr += of_head;
    link->out_head.len -= of_head;
    link->out_body -= len - of_head;
    link->outbox_sent += len - of_head;
    if (unsent(link) == 0) {
        buf_clear(&link->outbox, KEEP_BYTES);
        link->outbox_sent = 0;
    } else if (link->outbox_sent > link->outbox.len / 2) {
        buf_consume(&link->outbox, link->outbox_sent);
        link->outbox_sent = 0;
    }
}

/* --- Closing --- */

static void handle_closed(uv_handle_t *handle)
{
    struct link *link = handle->data;
    if (--link->handles == 0)
        free_link(link);
}

static void free_link(struct link *link)
{
    buf_release(&link->in);
    buf_release(&link->hello);
    buf_release(&link->head);
    buf_release(&link->outbox);
    free(link->path);
    free(link);
}
