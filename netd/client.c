/* One connection. */
#include "netd/client.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/assert.h"
#include "common/limits.h"
#include "netd/command.h"
#include "netd/netd.h"

#define READ_BYTES (64u << 10)
/* Requests of one connection that may wait for answers. */
#define PENDING_MAX 4096u
#define READS_MAX   256u
/* Unread output above which a subscriber's pushes wait, and below which they go on. */
#define PUSH_BYTES_MAX    (1u << 20)
#define PUSH_BYTES_RESUME (256u << 10)
#define OUT_KEEP_BYTES    (64u << 10)
#define TRIM_AFTER_MS     1000u

static void on_poll(uv_poll_t *handle, int status, int events);
static void read_input(struct client *client);
static void watch(struct client *client);
static bool may_start(const struct client *client);
static bool may_read(const struct client *client);
static uint64_t unsent(const struct client *client);
static void refuse(struct client *client, const char *error, bool close_after);
static void drop_requests(struct client *client);
static void on_closed(uv_handle_t *handle);

void client_new(struct netd *netd, int fd, const char *address)
{
    struct client *client = calloc(1, sizeof *client);
    ASSERT(client != NULL);
    client->netd = netd;
    client->fd = fd;
    client->id = ++netd->next_client_id;
    client->since_ms = client->last_ms = netd_now_ms(netd);
    client->proto = netd->config->network.default_protocol[0] == '2' ? 2 : 3;
    client->proto_fixed = netd->config->network.default_protocol[0] != 'a';
    client->authenticated = netd->config->network.password[0] == '\0';
    client->last_command = "";
    client->input_done = true;
    client->read_bytes = netd->event_bytes_max; /* a few answers show what is usual here */
    snprintf(client->address, sizeof client->address, "%s", address);
    client->reader = resp_reader_new(&(struct resp_limits){0});
    client_set_limits(client);
    client->next = netd->clients;
    if (netd->clients != NULL)
        netd->clients->prev = client;
    netd->clients = client;
    netd->client_count++;
    netd->stats.connections++;
    int error = uv_poll_init_socket(netd->loop, &client->poll, fd);
    ASSERT(error == 0);
    client->poll.data = client;
    watch(client);
}

void client_close(struct client *client)
{
    client->closing = true;
    client_mark(client, false);
}

void client_mark(struct client *client, bool wake)
{
    client->wake |= wake;
    if (client->is_dirty)
        return;
    client->is_dirty = true;
    client->dirty_next = client->netd->dirty;
    client->netd->dirty = client;
}

void client_process(struct client *client)
{
    client->wake = false;
    while (may_start(client)) {
        const char *error = NULL;
        if (client->held_args == NULL) {
            enum err err =
                resp_reader_next(client->reader, &client->held_args, &client->held_count, &error);
            if (err != ERR_OK || client->held_count == 0)
                client->held_args = NULL;
            client->input_done = err == ERR_AGAIN;
            if (err == ERR_AGAIN)
                break;
            if (err != ERR_OK) {
                refuse(client, error, err == ERR_PROTOCOL);
                continue;
            }
            if (client->held_args == NULL)
                continue;
        }
        const struct resp_arg *args = client->held_args;
        if (!command_start(client, args, client->held_count))
            break;
        client->held_args = NULL;
    }
    watch(client);
}

void client_write(struct client *client)
{
    while (client->out_sent < client->out.len) {
        ssize_t sent = send(client->fd, client->out.ptr + client->out_sent,
                            client->out.len - client->out_sent, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK) {
            client_close(client);
            return;
        }
        client->write_blocked = sent < 0;
        if (sent < 0)
            break;
        client->netd->stats.bytes_out += (uint64_t)sent;
        client->out_sent += (size_t)sent;
    }
    if (client->out_sent == client->out.len) {
        client->out_sent = 0;
        buf_clear(&client->out, OUT_KEEP_BYTES);
        if (client->no_more && client->first == NULL)
            client_close(client);
    } else if (client->out_sent > client->out.len / 2) {
        buf_consume(&client->out, client->out_sent);
        client->out_sent = 0;
    }
    if (client->push_blocked && unsent(client) <= PUSH_BYTES_RESUME) {
        client->push_blocked = false;
        for (struct subscription *s = client->subscriptions; s != NULL; s = s->next)
            subscription_resume(s);
    }
    /* The output may have been what kept further requests waiting. */
    if (!client->closing && !client->input_done && may_start(client) && client->held_args == NULL)
        client_mark(client, true);
    watch(client);
}

void client_reap(struct client *client)
{
    struct netd *netd = client->netd;
    ASSERT(client->closing);
    drop_requests(client);
    client_end_subscriptions(client);
    if (client->is_stalled)
        for (struct client **at = &netd->stalled; *at != NULL; at = &(*at)->stalled_next)
            if (*at == client) {
                *at = client->stalled_next;
                break;
            }
    if (client->prev != NULL)
        client->prev->next = client->next;
    else
        netd->clients = client->next;
    if (client->next != NULL)
        client->next->prev = client->prev;
    netd->client_count--;
    uv_poll_stop(&client->poll);
    uv_close((uv_handle_t *)&client->poll, on_closed);
    client_hang_up(client);
    close(client->fd);
    netd_resume_accept(netd);
}

void client_hang_up(struct client *client)
{
    /* Unread input would turn the close into a reset, and the last reply could be lost with it. */
    uint8_t discarded[4096];
    shutdown(client->fd, SHUT_WR);
    for (unsigned i = 0; i < 64 && recv(client->fd, discarded, sizeof discarded, MSG_DONTWAIT) > 0;
         i++)
        continue;
}

bool client_is_quiet(const struct client *client)
{
    return client->first == NULL &&
           (client->out_sent == client->out.len || client->subscriptions != NULL);
}

size_t client_trim(struct client *client, uint64_t now_ms)
{
    if (client->is_trimmed || client->closing || now_ms < client->last_ms + TRIM_AFTER_MS ||
        client->first != NULL || client->held_args != NULL || !client->input_done ||
        unsent(client) > 0)
        return 0;
    size_t released = client->out.cap;
    client->is_trimmed = true;
    resp_reader_trim(client->reader);
    buf_release(&client->out);
    return released + READ_BYTES;
}

void client_pop(struct client *client)
{
    struct request *request;
    while ((request = client->first) != NULL && request->done) {
        if (request->out.len > 0) {
            client->waiting_bytes -= request->out.len;
            buf_append_span(&client->out, buf_span(&request->out));
        }
        client->first = request->next;
        if (client->first == NULL)
            client->last = NULL;
        client->pending--;
        client->no_more |= request->close_after;
        struct subscription *subscription = request->subscription;
        request_free(request);
        if (subscription == NULL)
            continue;
        subscription->request = NULL;
        subscription_activate(subscription, &client->out, client->subscription_count);
    }
    if (request != NULL && request->chunk_waits)
        scan_continue(request);
    client_mark(client, !client->input_done || client->held_args != NULL);
}

void client_set_limits(struct client *client)
{
    const struct netd *netd = client->netd;
    /* A stranger may not make us hold more than a login needs. */
    struct resp_limits limits = {
        .bulk_bytes_max = 16 << 10,
        .arguments_max = 10,
        .inline_bytes_max = 16 << 10,
        .request_bytes_max = 16 << 10,
    };
    if (client->authenticated)
        limits = (struct resp_limits){
            /* What is too large for a small segment only is refused by the command, which can say
               why. */
            .bulk_bytes_max = max_u64(netd->event_bytes_max, EVENT_BYTES_DEFAULT) + RESP_BULK_SLACK,
            .arguments_max = RESP_ARGUMENTS_MAX,
            .inline_bytes_max = RESP_INLINE_BYTES_MAX,
            .request_bytes_max =
                2 * max_u64(netd->transaction_bytes_max, TRANSACTION_BYTES_DEFAULT) + (32 << 20),
        };
    resp_reader_set_limits(client->reader, &limits);
}

void client_set_proto(struct client *client, int proto)
{
    client->proto = proto;
    for (struct subscription *s = client->subscriptions; s != NULL; s = s->next)
        s->proto = proto;
}

void client_end_subscription(struct client *client, struct subscription *subscription)
{
    for (struct subscription **at = &client->subscriptions; *at != NULL; at = &(*at)->next)
        if (*at == subscription) {
            *at = subscription->next;
            client->subscription_count--;
            struct request *request = subscription->request;
            if (request != NULL) {
                request->subscription = NULL;
                if (!request->done)
                    request_fail(request, "NOTFOUND",
                                 span_str("the subscription ended before it began"));
            }
            subscription_free(subscription);
            return;
        }
    ASSERT(false);
}

void client_end_subscriptions(struct client *client)
{
    while (client->subscriptions != NULL)
        client_end_subscription(client, client->subscriptions);
}

struct buf *client_push_room(struct client *client)
{
    if (client->closing)
        return NULL;
    if (unsent(client) >= PUSH_BYTES_MAX) {
        client->push_blocked = true;
        return NULL;
    }
    client->is_trimmed = false;
    client_mark(client, false);
    return &client->out;
}

static void on_poll(uv_poll_t *handle, int status, int events)
{
    struct client *client = handle->data;
    if (client->closing)
        return;
    if (status < 0) {
        client_close(client);
        return;
    }
    if ((events & UV_WRITABLE) != 0)
        client_mark(client, false);
    if ((events & UV_READABLE) == 0)
        return;
    /* Not wanted now: watched until it shows, so that a short wait costs no system call. */
    if (!may_read(client)) {
        client->events &= ~UV_READABLE;
        if (client->events != 0)
            uv_poll_start(&client->poll, client->events, on_poll);
        else
            uv_poll_stop(&client->poll);
        return;
    }
    read_input(client);
}

static void read_input(struct client *client)
{
    size_t room;
    uint8_t *to = resp_reader_room(client->reader, READ_BYTES, &room);
    ssize_t len = recv(client->fd, to, room, MSG_DONTWAIT);
    if (len < 0) {
        if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
            client_close(client);
        return;
    }
    client->last_ms = netd_now_ms(client->netd);
    client->is_trimmed = false;
    if (len == 0) {
        /* Half a close: what was asked is answered, subscriptions end. */
        client->end_of_input = client->no_more = client->input_done = true;
        client_end_subscriptions(client);
        client_mark(client, false);
        return;
    }
    client->netd->stats.bytes_in += (uint64_t)len;
    resp_reader_fed(client->reader, (size_t)len);
    client->input_done = false;
    client_process(client);
}

/* Watches for what the client is waiting for. Reading is only ever switched on here. */
static void watch(struct client *client)
{
    int events = client->events;
    if (client->closing)
        return;
    if (may_read(client))
        events |= UV_READABLE;
    if (client->end_of_input)
        events &= ~UV_READABLE;
    if (client->write_blocked)
        events |= UV_WRITABLE;
    else
        events &= ~UV_WRITABLE;
    if (events == client->events)
        return;
    client->events = events;
    if (events != 0)
        uv_poll_start(&client->poll, events, on_poll);
    else
        uv_poll_stop(&client->poll);
}

static bool may_start(const struct client *client)
{
    return !client->closing && !client->no_more && !client->netd->stopping &&
           client->pending < PENDING_MAX && client->in_flight[CLASS_READ] < READS_MAX &&
           unsent(client) + client->waiting_bytes +
                   client->in_flight[CLASS_READ] * client->read_bytes <
               client->netd->config->network.output_buffer_bytes;
}

/* Only an empty reader is fed: so its memory is bounded, and at the end of the input nothing is
 * left over. */
static bool may_read(const struct client *client)
{
    return client->held_args == NULL && client->input_done && may_start(client);
}

static uint64_t unsent(const struct client *client)
{
    return client->out.len - client->out_sent;
}

static void refuse(struct client *client, const char *error, bool close_after)
{
    struct request *request = request_new(client->netd, client, client->proto);
    struct buf *out = request_out(request);
    buf_append(out, "-", 1);
    buf_append(out, error, strlen(error));
    buf_append(out, "\r\n", 2);
    client->netd->stats.errors++;
    client->no_more |= close_after;
    request->close_after = close_after;
    request_done(request);
}

/* Answers to come are dropped; appends go on nevertheless, as if the client had left a moment
 * later. */
static void drop_requests(struct client *client)
{
    for (struct request *request = client->first, *next; request != NULL; request = next) {
        next = request->next;
        request->client = NULL;
        if (!request->done && request->class == CLASS_APPEND)
            continue;
        router_cancel(client->netd->router, &request->call);
        request_cancel_parts(request);
        if (request->subscription != NULL)
            request->subscription->request = NULL;
        request_free(request);
    }
    client->first = client->last = NULL;
}

static void on_closed(uv_handle_t *handle)
{
    struct client *client = handle->data;
    resp_reader_free(client->reader);
    session_release(&client->session);
    buf_release(&client->out);
    free(client);
}
