/* Asking a running node. */
#include "supervisor/client.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/assert.h"
#include "supervisor/control.h"

#define ANSWER_MS_MAX 10000

struct client {
    int fd;
    struct buf in;
};

static bool read_line(struct client *client, size_t *ret_len);

enum err client_open(const struct config *config, struct client **ret_client)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int len = snprintf(address.sun_path, sizeof address.sun_path, "%s/" CONTROL_SOCKET,
                       config->run_dir);
    if (len >= (int)sizeof address.sun_path) {
        fprintf(stderr, "sierradb: run_dir is too long: %s\n", config->run_dir);
        return ERR_CONFIG;
    }
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ASSERT(fd >= 0);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        if (errno == ENOENT || errno == ECONNREFUSED)
            fprintf(stderr, "sierradb: no node runs on %s (give its directory with --dir, or its "
                            "configuration with --config)\n", config->dir);
        else
            fprintf(stderr, "sierradb: %s: %s\n", address.sun_path, strerror(errno));
        close(fd);
        return ERR_DOWN;
    }
    struct client *client = calloc(1, sizeof *client);
    ASSERT(client != NULL);
    client->fd = fd;
    *ret_client = client;
    return ERR_OK;
}

void client_close(struct client *client)
{
    close(client->fd);
    buf_release(&client->in);
    free(client);
}

json_t *client_ask(struct client *client, json_t *take_request)
{
    ASSERT(take_request != NULL);
    char *text = json_dumps(take_request, JSON_COMPACT);
    ASSERT(text != NULL);
    struct buf line = {0};
    buf_printf(&line, "%s\n", text);
    bool sent = send(client->fd, line.ptr, line.len, MSG_NOSIGNAL) == (ssize_t)line.len;
    free(text);
    buf_release(&line);
    json_decref(take_request);
    size_t len;
    json_error_t problem;
    json_t *answer = NULL;
    if (sent && read_line(client, &len)) {
        answer = json_loadb((char *)client->in.ptr, len, 0, &problem);
        buf_consume(&client->in, len + 1);
    }
    if (answer == NULL) {
        fprintf(stderr, "sierradb: the node didn't answer\n");
        return NULL;
    }
    if (!json_is_true(json_object_get(answer, "ok"))) {
        const char *error = json_string_value(json_object_get(answer, "error"));
        fprintf(stderr, "sierradb: %s\n", error != NULL ? error : "the node refused");
        json_decref(answer);
        return NULL;
    }
    return answer;
}

/* False: the connection ended, or nothing came in time. */
static bool read_some(struct client *client, int timeout_ms)
{
    struct pollfd poll_fd = {.fd = client->fd, .events = POLLIN};
    if (poll(&poll_fd, 1, timeout_ms) <= 0)
        return false;
    ssize_t len = read(client->fd, buf_reserve(&client->in, 4096), 4096);
    if (len <= 0)
        return false;
    client->in.len += (size_t)len;
    return true;
}

static bool read_line(struct client *client, size_t *ret_len)
{
    uint8_t *end;
    while (client->in.len == 0 ||
           (end = memchr(client->in.ptr, '\n', client->in.len)) == NULL) {
        if (!read_some(client, ANSWER_MS_MAX))
            return false;
    }
    *ret_len = (size_t)(end - client->in.ptr);
    return true;
}

bool client_wait_end(struct client *client, uint64_t timeout_ms)
{
    struct pollfd poll_fd = {.fd = client->fd, .events = POLLIN};
    char byte;
    return poll(&poll_fd, 1, (int)timeout_ms) > 0 && read(client->fd, &byte, 1) <= 0;
}
