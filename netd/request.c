/* Requests: pool, reply order. */
#include "netd/request.h"

#include <stdlib.h>

#include "common/assert.h"
#include "netd/client.h"
#include "netd/netd.h"

#define POOL_COUNT_MAX 65536u
/* What a pooled request keeps of its buffers. */
#define KEEP_BYTES 2048u

struct request *request_new(struct netd *netd, struct client *client, int proto)
{
    struct request_pool *pool = &netd->requests;
    struct request *request = pool->first;
    if (request != NULL) {
        pool->first = request->next;
        pool->count--;
    } else {
        request = calloc(1, sizeof *request);
        ASSERT(request != NULL);
    }
    request->next = NULL;
    request->netd = netd;
    request->client = client;
    request->proto = proto;
    request->class = CLASS_LOCAL;
    request->command = NULL;
    request->subscription = NULL;
    request->parts = NULL;
    request->done = request->close_after = request->chunk_waits = false;
    if (client->last != NULL)
        client->last->next = request;
    else
        client->first = request;
    client->last = request;
    client->pending++;
    return request;
}

void request_free(struct request *request)
{
    struct request_pool *pool = &request->netd->requests;
    ASSERT(request->call.list == NULL && request->parts == NULL);
    buf_clear(&request->out, KEEP_BYTES);
    buf_clear(&request->events, KEEP_BYTES);
    buf_clear(&request->body, KEEP_BYTES);
    if (pool->count >= POOL_COUNT_MAX) {
        buf_release(&request->out);
        buf_release(&request->events);
        buf_release(&request->body);
        free(request);
        return;
    }
    request->client = NULL;
    request->next = pool->first;
    pool->first = request;
    pool->count++;
}

void request_pool_release(struct request_pool *pool)
{
    for (struct request *request = pool->first, *next; request != NULL; request = next) {
        next = request->next;
        buf_release(&request->out);
        buf_release(&request->events);
        buf_release(&request->body);
        free(request);
    }
    *pool = (struct request_pool){0};
}

struct buf *request_out(struct request *request)
{
    struct client *client = request->client;
    struct buf *out = client != NULL && client->first == request ? &client->out : &request->out;
    request->reply_start = out->len;
    return out;
}

void request_fail(struct request *request, const char *code, struct span text)
{
    request->netd->stats.errors++;
    resp_error(request_out(request), code, text);
    request_done(request);
}

void request_done(struct request *request)
{
    struct client *client = request->client;
    ASSERT(!request->done);
    request->done = true;
    if (client == NULL) {
        request_free(request);
        return;
    }
    if (request->class != CLASS_LOCAL) {
        ASSERT(client->in_flight[request->class] > 0);
        client->in_flight[request->class]--;
    }
    if (request->class == CLASS_READ) {
        size_t end = client->first == request ? client->out.len : request->out.len;
        client->read_bytes =
            max_u64(client->read_bytes - client->read_bytes / 16, end - request->reply_start);
    }
    if (client->first == request) {
        client_pop(client);
        return;
    }
    client->waiting_bytes += request->out.len;
    if (client->held_args != NULL || !client->input_done)
        client_mark(client, true);
}

void request_withdraw(struct request *request)
{
    struct client *client = request->client;
    struct request *before = NULL;
    for (struct request *at = client->first; at != request; at = at->next)
        before = at;
    ASSERT(client->last == request && !request->done);
    client->last = before;
    if (before != NULL)
        before->next = NULL;
    else
        client->first = NULL;
    client->pending--;
    if (request->class != CLASS_LOCAL)
        client->in_flight[request->class]--;
    request_free(request);
}
