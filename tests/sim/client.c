/* A simulated netd: what it sends, when, and what it does with answers and lost links. */
#include "tests/sim/client.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/assert.h"
#include "tests/sim/requests.h"
#include "tests/sim/world.h"

static void on_tick(void *ctx, uint64_t link);
static void on_arrival_at_bucket(void *ctx, uint64_t link);
static void on_arrival_at_client(void *ctx, uint64_t link);
static void on_resend_time(void *ctx, uint64_t link);
static void send_frame(struct client *client);
static void handle_answers(struct client *client, struct span frame);
static void end_request(struct client *client, struct request *request);
static void remember_resend(struct client *client, uint32_t tx);
static void push_flight(struct client *client, struct flights *flights, struct buf *bytes,
                        uint64_t first, void (*fn)(void *ctx, uint64_t arg));
static struct flight *pop_flight(struct flights *flights);
static void drop_flights(struct flights *flights);

void client_init(struct client *client, struct world *world, uint32_t index, struct prng *seed)
{
    *client = (struct client){
        .world = world, .index = index, .next_request = 1, .final_reads = FINAL_READS};
    client->prng = prng_fork(seed);
}

void client_release(struct client *client)
{
    drop_flights(&client->out);
    drop_flights(&client->in);
    free(client->resend);
}

void client_connect(struct client *client)
{
    struct world *world = client->world;
    ASSERT(client->link == 0 && client->request_count == 0);
    client->link = (uint32_t)++world->next_link;
    node_add_link(&world->node, client->link);
    client->resend_wait = false;
    client->out.last_time_ns = client->in.last_time_ns = 0;
    sched_after(&world->sched, prng_range(&client->prng, 1, 200) * US, on_tick, client,
                client->link);
}

void client_disconnect(struct client *client)
{
    if (client->link == 0)
        return;
    /* Some of what the process had sent arrives nevertheless. */
    while (client->in.first != NULL && prng_chance(&client->prng, 500000)) {
        struct flight *flight = pop_flight(&client->in);
        handle_answers(client, buf_span(&flight->bytes));
        buf_release(&flight->bytes);
        free(flight);
    }
    drop_flights(&client->out);
    drop_flights(&client->in);
    /* Before those that had been refused for the time being: they are older. */
    uint32_t *later = client->resend;
    uint32_t later_count = client->resend_count;
    client->resend = NULL;
    client->resend_count = client->resend_cap = 0;
    for (uint32_t i = 0; i < client->request_count; i++) {
        if (client->requests[i].tag == TAG_append_req)
            remember_resend(client, client->requests[i].tx);
    }
    for (uint32_t i = 0; i < later_count; i++)
        remember_resend(client, later[i]);
    free(later);
    client->request_count = 0;
    client->link = 0;
    memset(client->follows, 0, sizeof client->follows);
}

bool client_idle(const struct client *client)
{
    return client->link != 0 && client->request_count == 0 && client->resend_count == 0 &&
           client->final_reads == 0;
}

struct request *client_find(struct client *client, uint64_t id)
{
    for (uint32_t i = 0; i < client->request_count; i++) {
        if (client->requests[i].id == id)
            return &client->requests[i];
    }
    return NULL;
}

/* --- sending --- */

static void on_tick(void *ctx, uint64_t link)
{
    struct client *client = ctx;
    struct world *world = client->world;
    const struct swarm *swarm = &world->swarm;
    if (client->link != link || world->over)
        return;
    uint64_t pause_ns = prng_range(&client->prng, swarm->think_ns / 2, swarm->think_ns * 2);
    if (world->finishing)
        pause_ns = 200 * US;
    else if (prng_chance(&client->prng, swarm->idle_chance))
        pause_ns = prng_range(&client->prng, SECOND / 2, 3 * SECOND);
    send_frame(client);
    sched_after(&world->sched, pause_ns, on_tick, client, link);
}

static void send_frame(struct client *client)
{
    struct world *world = client->world;
    const struct swarm *swarm = &world->swarm;
    uint32_t most = (uint32_t)prng_range(&client->prng, 1, swarm->batch);
    struct buf frame = {0};
    uint64_t first = client->next_request;
    uint32_t count = 0;
    while (client->resend_count > 0 && !client->resend_wait &&
           client->request_count < REQUESTS_MAX) {
        uint32_t tx = client->resend[0];
        memmove(client->resend, client->resend + 1,
                --client->resend_count * sizeof *client->resend);
        struct request request = {.tag = TAG_append_req,
                                  .tx = tx,
                                  .partition = world->model.txs[tx]->partition,
                                  .flags = APPEND_RETRY,
                                  .watermark = UINT64_MAX};
        request_send(client, &request, &frame);
        count++;
    }
    /* New ones only when nothing older waits: the order of a netd's appends stays. */
    while (count < most && client->request_count < swarm->window && client->resend_count == 0 &&
           (!world->finishing || client->final_reads > 0)) {
        struct request request;
        client->final_reads -= world->finishing;
        if (!request_invent(client, &request))
            break;
        request_send(client, &request, &frame);
        count++;
    }
    if (count > 0)
        push_flight(client, &client->out, &frame, first, on_arrival_at_bucket);
    buf_release(&frame);
}

static void on_arrival_at_bucket(void *ctx, uint64_t link)
{
    struct client *client = ctx;
    struct world *world = client->world;
    if (client->link != link || world->over)
        return;
    struct flight *flight = pop_flight(&client->out);
    /* A bucket that stops takes nothing in any more. */
    if (!world->node.stopping)
        checker_on_arrival(world, client, flight->first_request, buf_span(&flight->bytes));
    node_deliver(&world->node, client->link, buf_span(&flight->bytes));
    buf_release(&flight->bytes);
    free(flight);
}

/* --- answers --- */

void client_on_frame(struct client *client, struct span frame)
{
    struct buf copy = {0};
    buf_append_span(&copy, frame);
    push_flight(client, &client->in, &copy, 0, on_arrival_at_client);
    buf_release(&copy);
}

static void on_arrival_at_client(void *ctx, uint64_t link)
{
    struct client *client = ctx;
    if (client->link != link)
        return;
    struct flight *flight = pop_flight(&client->in);
    handle_answers(client, buf_span(&flight->bytes));
    buf_release(&flight->bytes);
    free(flight);
}

/* What each request's answer was the checker has written into the request. */
static void handle_answers(struct client *client, struct span frame)
{
    struct msg msg;
    while (frame.len > 0 && msg_unpack(&frame, &msg) == ERR_OK) {
        uint64_t id = request_answered_by(&msg);
        struct request *found = id == 0 ? NULL : client_find(client, id);
        if (found == NULL)
            continue;
        struct request request = *found;
        end_request(client, found);
        if (request.tag == TAG_append_req && request.err != ERR_OK &&
            err_class(request.err) != ERR_CLASS_NONE) {
            remember_resend(client, request.tx);
            client->resend_wait = true;
            sched_after(&client->world->sched, prng_range(&client->prng, 5, 50) * MS,
                        on_resend_time, client, client->link);
        }
        if (request.err == ERR_OK && request.more && !client->world->finishing &&
            client->request_count < REQUESTS_MAX) {
            struct request next = request;
            next.from = request.next;
            next.watermark = request.answer_watermark;
            next.continued = true;
            next.answered = next.arrived = next.more = false;
            struct buf out = {0};
            uint64_t first = client->next_request;
            request_send(client, &next, &out);
            push_flight(client, &client->out, &out, first, on_arrival_at_bucket);
            buf_release(&out);
        }
    }
}

static void on_resend_time(void *ctx, uint64_t link)
{
    struct client *client = ctx;
    if (client->link == link)
        client->resend_wait = false;
}

static void end_request(struct client *client, struct request *request)
{
    uint32_t at = (uint32_t)(request - client->requests);
    memmove(request, request + 1, (client->request_count - at - 1) * sizeof *request);
    client->request_count--;
}

static void remember_resend(struct client *client, uint32_t tx)
{
    if (client->resend_count == client->resend_cap) {
        client->resend_cap = client->resend_cap == 0 ? 16 : client->resend_cap * 2;
        client->resend = realloc(client->resend, client->resend_cap * sizeof *client->resend);
        ASSERT(client->resend != NULL);
    }
    client->resend[client->resend_count++] = tx;
}

/* --- messages under way --- */

static void push_flight(struct client *client, struct flights *flights, struct buf *bytes,
                        uint64_t first, void (*fn)(void *ctx, uint64_t arg))
{
    struct sched *sched = &client->world->sched;
    struct flight *flight = calloc(1, sizeof *flight);
    ASSERT(flight != NULL);
    flight->bytes = *bytes;
    *bytes = (struct buf){0};
    flight->first_request = first;
    if (flights->last != NULL)
        flights->last->next = flight;
    else
        flights->first = flight;
    flights->last = flight;
    /* In order: never before the one sent before. */
    uint64_t time_ns = sched->now_ns + prng_range(&client->prng, 5, 150) * US;
    time_ns = max_u64(time_ns, flights->last_time_ns);
    flights->last_time_ns = time_ns;
    sched_after(sched, time_ns - sched->now_ns, fn, client, client->link);
}

static struct flight *pop_flight(struct flights *flights)
{
    struct flight *flight = flights->first;
    ASSERT(flight != NULL);
    flights->first = flight->next;
    if (flights->first == NULL)
        flights->last = NULL;
    return flight;
}

static void drop_flights(struct flights *flights)
{
    while (flights->first != NULL) {
        struct flight *flight = pop_flight(flights);
        buf_release(&flight->bytes);
        free(flight);
    }
}
