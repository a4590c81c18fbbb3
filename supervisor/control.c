/* Serving the operator's socket: few connections, short lines, nothing that waits. */
#include "supervisor/control.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/assert.h"
#include "common/limits.h"

#define CONNECTIONS_MAX 16
#define LINE_BYTES_MAX  4096
/* A connection that says nothing for so long is closed. */
#define IDLE_MS_MAX 60000

struct control {
    uv_pipe_t listener;
    control_fn *on_request;
    void *ctx;
    const struct log *log;
    struct connection *first;
    unsigned connections;
    uint64_t last_token;
};

struct connection {
    uv_pipe_t pipe;
    uv_timer_t idle;
    struct control *control;
    struct connection *next;
    unsigned handles;
    uint64_t token; /* of the request whose answer is still to come; 0: none */
    char line[LINE_BYTES_MAX];
    size_t len;
};

struct outgoing {
    uv_write_t write;
    char *text;
};

static void on_connection(uv_stream_t *listener, int status);
static void on_idle(uv_timer_t *timer);
static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buf);
static void on_read(uv_stream_t *stream, ssize_t len, const uv_buf_t *buf);
static void take_lines(struct connection *connection);
static void answer(struct connection *connection, const char *line, size_t len);
static void reply(struct connection *connection, json_t *take_answer);
static void on_written(uv_write_t *write, int status);
static void close_connection(struct connection *connection);
static void handle_closed(uv_handle_t *handle);

enum err control_open(uv_loop_t *loop, const char *run_dir, control_fn *on_request, void *ctx,
                      const struct log *log, struct control **ret_control)
{
    char path[IPC_PATH_LEN_MAX + 1];
    int len = snprintf(path, sizeof path, "%s/" CONTROL_SOCKET, run_dir);
    ASSERT(len > 0 && len < (int)sizeof path); /* shorter than a link's, which datadir.c checked */
    struct control *control = calloc(1, sizeof *control);
    ASSERT(control != NULL);
    control->on_request = on_request;
    control->ctx = ctx;
    control->log = log;
    uv_pipe_init(loop, &control->listener, 0);
    control->listener.data = control;
    mode_t before = umask(0177);
    int error = uv_pipe_bind(&control->listener, path);
    umask(before);
    if (error == 0)
        error = uv_listen((uv_stream_t *)&control->listener, CONNECTIONS_MAX, on_connection);
    if (error != 0) {
        log_error(log, "control.listen_failed", "path=\"%s\" error=\"%s\"", path,
                  uv_strerror(error));
        uv_close((uv_handle_t *)&control->listener, NULL);
        return ERR_IO;
    }
    *ret_control = control;
    return ERR_OK;
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct control *control = listener->data;
    if (status != 0) {
        log_warn(control->log, "control.accept_failed", "error=\"%s\"", uv_strerror(status));
        return;
    }
    struct connection *connection = calloc(1, sizeof *connection);
    ASSERT(connection != NULL);
    connection->control = control;
    connection->handles = 2;
    connection->next = control->first;
    control->first = connection;
    control->connections++;
    uv_pipe_init(listener->loop, &connection->pipe, 0);
    uv_timer_init(listener->loop, &connection->idle);
    connection->pipe.data = connection->idle.data = connection;
    if (uv_accept(listener, (uv_stream_t *)&connection->pipe) != 0 ||
        control->connections > CONNECTIONS_MAX) {
        close_connection(connection);
        return;
    }
    uv_timer_start(&connection->idle, on_idle, IDLE_MS_MAX, 0);
    uv_read_start((uv_stream_t *)&connection->pipe, on_alloc, on_read);
}

static void on_idle(uv_timer_t *timer)
{
    close_connection(timer->data);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *ret_buf)
{
    (void)suggested;
    struct connection *connection = handle->data;
    *ret_buf = uv_buf_init(connection->line + connection->len,
                           (unsigned)(sizeof connection->line - connection->len));
}

static void on_read(uv_stream_t *stream, ssize_t len, const uv_buf_t *buf)
{
    (void)buf;
    struct connection *connection = stream->data;
    if (len < 0) { /* also UV_ENOBUFS: the line is too long */
        close_connection(connection);
        return;
    }
    connection->len += (size_t)len;
    uv_timer_start(&connection->idle, on_idle, IDLE_MS_MAX, 0);
    take_lines(connection);
}

static void take_lines(struct connection *connection)
{
    char *end;
    while (connection->token == 0 &&
           (end = memchr(connection->line, '\n', connection->len)) != NULL) {
        size_t line_len = (size_t)(end - connection->line);
        answer(connection, connection->line, line_len);
        connection->len -= line_len + 1;
        memmove(connection->line, end + 1, connection->len);
    }
}

static void answer(struct connection *connection, const char *line, size_t len)
{
    struct control *control = connection->control;
    json_error_t problem;
    json_t *request = json_loadb(line, len, JSON_REJECT_DUPLICATES, &problem);
    connection->token = ++control->last_token;
    json_t *result = request != NULL
                         ? control->on_request(control->ctx, request, connection->token)
                         : json_pack("{s:b, s:s}", "ok", 0, "error", "expected a JSON object");
    json_decref(request);
    if (result != NULL)
        reply(connection, result);
}

void control_answer(struct control *control, uint64_t token, json_t *take_answer)
{
    struct connection *connection = control->first;
    while (connection != NULL && connection->token != token)
        connection = connection->next;
    if (connection == NULL) {
        json_decref(take_answer);
        return;
    }
    reply(connection, take_answer);
    take_lines(connection);
}

static void reply(struct connection *connection, json_t *take_answer)
{
    ASSERT(take_answer != NULL);
    struct outgoing *outgoing = calloc(1, sizeof *outgoing);
    char *text = json_dumps(take_answer, JSON_COMPACT);
    ASSERT(outgoing != NULL && text != NULL && asprintf(&outgoing->text, "%s\n", text) > 0);
    free(text);
    json_decref(take_answer);
    connection->token = 0;
    uv_buf_t out = uv_buf_init(outgoing->text, (unsigned)strlen(outgoing->text));
    if (uv_write(&outgoing->write, (uv_stream_t *)&connection->pipe, &out, 1, on_written) != 0)
        on_written(&outgoing->write, 0);
}

static void on_written(uv_write_t *write, int status)
{
    (void)status; /* a lost connection shows in on_read */
    struct outgoing *outgoing = (struct outgoing *)write;
    free(outgoing->text);
    free(outgoing);
}

static void close_connection(struct connection *connection)
{
    if (uv_is_closing((uv_handle_t *)&connection->pipe))
        return;
    struct connection **at = &connection->control->first;
    while (*at != connection)
        at = &(*at)->next;
    *at = connection->next;
    uv_close((uv_handle_t *)&connection->pipe, handle_closed);
    uv_close((uv_handle_t *)&connection->idle, handle_closed);
}

static void handle_closed(uv_handle_t *handle)
{
    struct connection *connection = handle->data;
    if (--connection->handles > 0)
        return;
    connection->control->connections--;
    free(connection);
}
