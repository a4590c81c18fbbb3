/* A simulated netd: what it sends, to whom, and what it does with answers and lost links. */
#include "tests/sim/cluster/cl_client_internal.h"

#include <stdlib.h>

#include "common/assert.h"

#define RETRY_PAUSE_MAX (50 * MS)
#define TRIES_MAX       4u

static void on_tick(void *ctx, uint64_t number);
static void work(struct cl_client *client);
static void give_up_slow(struct cl_client *client);
static void send_retries(struct cl_client *client);
static void on_message(struct cl_client *client, uint32_t node, const struct msg *msg);
static void on_read_answer(struct cl_client *client, const struct cl_request *request,
                           const struct msg *msg);
static void on_read_failure(struct cl_client *client, const struct cl_request *request,
                            const struct msg_fail_reply *reply);
static void go_on(struct cl_client *client, const struct cl_request *request,
                  const struct msg_events_reply *reply);
static bool take_request(struct cl_client *client, uint64_t id, struct cl_request *ret_request);
static void lose_requests(struct cl_client *client, uint32_t node);
static uint64_t answered_id(const struct msg *msg);

struct cl_client *cl_client_new(struct cluster *cluster, uint32_t index)
{
    struct cl_client *client = calloc(1, sizeof *client);
    ASSERT(client != NULL);
    *client = (struct cl_client){.cluster = cluster,
                                 .model = oracle_model(cluster->oracle),
                                 .workload = &cluster->swarm.workload,
                                 .index = index,
                                 .last_up = CL_NO_NODE,
                                 .finish_tx = NO_TX};
    client->prng = prng_fork(&cluster->prng);
    uint32_t partitions = cluster->swarm.config.partition_count;
    for (uint32_t s = 0; s < CL_SESSIONS_MAX; s++) {
        client->need[s] = calloc(partitions, sizeof(uint64_t));
        ASSERT(client->need[s] != NULL);
    }
    client->subscriptions = calloc(partitions, sizeof *client->subscriptions);
    ASSERT(client->subscriptions != NULL);
    for (uint32_t i = 0; i < client->model->stream_count; i++) {
        struct cl_subscription *sub = &client->subscriptions[client->model->streams[i].partition];
        if (prng_chance(&client->prng, client->workload->follow_chance))
            *sub = (struct cl_subscription){.state = SUB_WAITS, .node = CL_NO_NODE};
    }
    client->channel.target = cluster->swarm.config.replicas[0];
    client_plan_tick(client, prng_range(&client->prng, 1, 100) * MS);
    return client;
}

void cl_client_free(struct cl_client *client)
{
    channel_release(client);
    for (uint32_t s = 0; s < CL_SESSIONS_MAX; s++)
        free(client->need[s]);
    free(client->subscriptions);
    free(client);
}

/* --- turns --- */

void client_plan_tick(struct cl_client *client, uint64_t delay_ns)
{
    sched_after(&client->cluster->sched, delay_ns, on_tick, client, ++client->ticks);
}

static void on_tick(void *ctx, uint64_t number)
{
    struct cl_client *client = ctx;
    struct cluster *cluster = client->cluster;
    const struct cl_workload *workload = client->workload;
    if (cluster->over || cluster->trace.failed || number != client->ticks)
        return;
    uint64_t pause = prng_range(&client->prng, workload->think_ns / 2, workload->think_ns * 2);
    if (client->finish != FINISH_NOT)
        pause = prng_range(&client->prng, 1, 10) * MS;
    else if (prng_chance(&client->prng, workload->idle_chance))
        pause = prng_range(&client->prng, workload->idle_ns_max / 10, workload->idle_ns_max);
    give_up_slow(client);
    send_retries(client);
    channel_send(client);
    if (client->finish == FINISH_NOT)
        work(client);
    else
        finish_turn(client);
    subscriptions_turn(client);
    /* What waits for its time isn't left alone for long. */
    if (client->retry_count > 0 || client->channel.count > 0)
        pause = min_u64(pause, 100 * MS);
    client_plan_tick(client, pause + 1);
}

static void work(struct cl_client *client)
{
    struct cluster *cluster = client->cluster;
    const struct cl_workload *workload = client->workload;
    uint64_t count = prng_range(&client->prng, 1, workload->batch);
    uint64_t appends = workload->append_weight;
    uint64_t reads = workload->get_weight + workload->scan_weight + workload->number_weight;
    for (; count > 0 && cluster->ops < cluster->swarm.ops; count--) {
        if (client->request_count + client->channel.count >= workload->window)
            break;
        cluster->ops++;
        if (prng_below(&client->prng, appends + reads) < appends) {
            request_invent_append(client);
            continue;
        }
        struct cl_request request;
        if (!request_invent_read(client, &request))
            continue;
        uint32_t node = request.strong ? client->channel.target : client_pick_node(client);
        if (node != CL_NO_NODE)
            (void)client_send(client, &request, node);
    }
    channel_send(client);
}

/* A node that doesn't answer: the link is let go, so that nothing of it comes later. */
static void give_up_slow(struct cl_client *client)
{
    uint64_t now = client_now(client), patience = client->workload->patience_ns;
    if (client->finish != FINISH_NOT)
        return; /* now everything must be answered */
    if (channel_oldest_ns(client) != UINT64_MAX && now - channel_oldest_ns(client) > patience)
        client_give_up(client, client->channel.target);
    for (uint32_t i = 0; i < client->request_count; i++) {
        if (now - client->requests[i].sent_ns > patience) {
            client_give_up(client, client->requests[i].node);
            return;
        }
    }
}

void client_give_up(struct cl_client *client, uint32_t node)
{
    if (!client->up[node])
        return;
    trace_line(&client->cluster->trace, "c%u lets go of n%u", client->index, node);
    cluster_drop_link(client->cluster, client->index, node);
    cl_client_on_link_lost(client, node);
}

static void send_retries(struct cl_client *client)
{
    uint32_t count = client->retry_count;
    struct cl_request retries[CL_RETRIES_MAX];
    memcpy(retries, client->retries, count * sizeof *retries);
    client->retry_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct cl_request *request = &retries[i];
        uint32_t node = request->final    ? request->node
                        : request->strong ? client->channel.target
                                          : client_pick_node(client);
        if (client_now(client) < request->sent_ns || node == CL_NO_NODE ||
            !client_send(client, request, node))
            client->retries[client->retry_count++] = *request;
    }
}

void client_retry(struct cl_client *client, const struct cl_request *request)
{
    bool ending = client->finish != FINISH_NOT;
    if ((request->tries >= TRIES_MAX && !ending && !request->final) ||
        client->retry_count == CL_RETRIES_MAX)
        return;
    struct cl_request *retry = &client->retries[client->retry_count++];
    *retry = *request;
    retry->tries++;
    retry->sent_ns = client_now(client) + prng_range(&client->prng, MS, RETRY_PAUSE_MAX);
}

/* --- links --- */

void cl_client_on_link_up(struct cl_client *client, uint32_t node)
{
    client->up[node] = true;
    client->last_up = node;
    if (client->channel.target == node)
        channel_send(client);
    if (client->finish != FINISH_NOT)
        return;
    /* It may have been away for long, and must not answer as if it hadn't. */
    struct cluster *cluster = client->cluster;
    for (uint64_t i = 0; i < client->workload->wake_reads; i++) {
        struct cl_request request;
        if (cluster->ops >= cluster->swarm.ops || !request_invent_read(client, &request))
            return;
        cluster->ops++;
        if (request.strong)
            continue;
        request.session = CL_NO_SESSION;
        request.need = 0;
        (void)client_send(client, &request, node);
    }
}

void cl_client_on_link_lost(struct cl_client *client, uint32_t node)
{
    client->up[node] = false;
    lose_requests(client, node);
    subscriptions_on_link_lost(client, node);
    channel_on_link_lost(client, node);
}

static void lose_requests(struct cl_client *client, uint32_t node)
{
    uint32_t kept = 0, count = client->request_count;
    struct cl_request lost[CL_REQUESTS_MAX];
    uint32_t lost_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        if (client->requests[i].node != node)
            client->requests[kept++] = client->requests[i];
        else
            lost[lost_count++] = client->requests[i];
    }
    client->request_count = kept;
    for (uint32_t i = 0; i < lost_count; i++) {
        if (lost[i].subscription || lost[i].tag == TAG_follow_req)
            subscription_on_failure(client, &lost[i]);
        else
            client_retry(client, &lost[i]);
    }
}

uint32_t client_pick_node(struct cl_client *client)
{
    uint32_t count = 0, picked = CL_NO_NODE;
    for (uint32_t n = 0; n < CL_NODES_MAX; n++)
        count += client->up[n];
    if (count == 0)
        return CL_NO_NODE;
    /* Often the one that came up last: it knows the least. */
    if (client->last_up != CL_NO_NODE && client->up[client->last_up] &&
        prng_chance(&client->prng, 200000))
        return client->last_up;
    uint64_t at = prng_below(&client->prng, count);
    for (uint32_t n = 0; n < CL_NODES_MAX; n++) {
        if (client->up[n] && at-- == 0)
            picked = n;
    }
    return picked;
}

/* --- sending --- */

uint64_t client_new_id(struct cl_client *client, uint32_t about)
{
    return REQUEST_ID(about, ++client->next_count);
}

bool client_send(struct cl_client *client, const struct cl_request *request, uint32_t node)
{
    if (client->request_count == CL_REQUESTS_MAX || !client->up[node])
        return false;
    struct cl_request *own = &client->requests[client->request_count];
    *own = *request;
    uint32_t about =
        own->tag == TAG_get_req ? own->tx * MODEL_TX_EVENTS_MAX + own->event : own->stream;
    own->id = client_new_id(client, about);
    own->node = node;
    own->sent_ns = client_now(client);
    /* The session may have seen more since it was made up. */
    if (own->session != CL_NO_SESSION && own->watermark == UINT64_MAX)
        own->need = max_u64(own->need, client->need[own->session][own->partition]);
    struct buf frame = {0};
    request_pack(client, own, &frame);
    bool sent = cluster_send(client->cluster, client->index, node, buf_span(&frame));
    buf_release(&frame);
    client->request_count += sent;
    return sent;
}

void client_saw(struct cl_client *client, uint32_t session, uint32_t partition, uint64_t count)
{
    if (session != CL_NO_SESSION)
        client->need[session][partition] = max_u64(client->need[session][partition], count);
}

/* --- answers --- */

void cl_client_on_frame(struct cl_client *client, uint32_t node, struct span frame)
{
    while (frame.len > 0 && client->up[node] && !client->cluster->trace.failed) {
        struct msg msg;
        if (msg_unpack(&frame, &msg) != ERR_OK)
            return; /* the oracle has seen it */
        on_message(client, node, &msg);
    }
}

static void on_message(struct cl_client *client, uint32_t node, const struct msg *msg)
{
    struct cl_request request;
    if (msg->tag == TAG_tail)
        subscription_on_tail(client, node, &msg->u.tail);
    else if (take_request(client, answered_id(msg), &request))
        on_read_answer(client, &request, msg);
    else
        channel_on_answer(client, node, msg);
}

static void on_read_answer(struct cl_client *client, const struct cl_request *request,
                           const struct msg *msg)
{
    if (msg->tag == TAG_fail_reply) {
        on_read_failure(client, request, &msg->u.fail_reply);
        return;
    }
    if (msg->tag == TAG_follow_reply) {
        subscription_on_follow(client, request, &msg->u.follow_reply);
        return;
    }
    bool number = msg->tag == TAG_number_reply;
    uint64_t watermark = number ? msg->u.number_reply.watermark : msg->u.events_reply.watermark;
    client_saw(client, request->session, request->partition, watermark);
    if (number)
        return;
    if (request->subscription)
        subscription_on_history(client, request, &msg->u.events_reply);
    else if (msg->u.events_reply.more)
        go_on(client, request, &msg->u.events_reply);
    else if (request->final)
        client->finish_from = UINT64_MAX;
}

/* The next chunk of a scan, cut at the same watermark, at this node or another. */
static void go_on(struct cl_client *client, const struct cl_request *request,
                  const struct msg_events_reply *reply)
{
    struct cl_request next = *request;
    next.from = reply->next;
    next.watermark = next.need = reply->watermark;
    next.tries = 0;
    uint32_t node = request->node;
    if (!request->final && !request->strong && prng_chance(&client->prng, 300000))
        node = client_pick_node(client);
    if (!request->final && prng_chance(&client->prng, 200000))
        return;
    if (!client_send(client, &next, node))
        client_retry(client, &next);
}

static void on_read_failure(struct cl_client *client, const struct cl_request *request,
                            const struct msg_fail_reply *reply)
{
    if (request->subscription || request->tag == TAG_follow_req) {
        subscription_on_failure(client, request);
        return;
    }
    if (request->strong && reply->leader != 0)
        channel_turn_to(client, (uint32_t)reply->leader - 1);
    client_retry(client, request);
}

static bool take_request(struct cl_client *client, uint64_t id, struct cl_request *ret_request)
{
    for (uint32_t i = 0; i < client->request_count; i++) {
        if (client->requests[i].id != id)
            continue;
        *ret_request = client->requests[i];
        client->request_count--;
        memmove(&client->requests[i], &client->requests[i + 1],
                (client->request_count - i) * sizeof client->requests[0]);
        return true;
    }
    return false;
}

static uint64_t answered_id(const struct msg *msg)
{
    switch ((int)msg->tag) {
    case TAG_fail_reply:
        return msg->u.fail_reply.req_id;
    case TAG_events_reply:
        return msg->u.events_reply.req_id;
    case TAG_number_reply:
        return msg->u.number_reply.req_id;
    case TAG_follow_reply:
        return msg->u.follow_reply.req_id;
    default:
        return 0;
    }
}
