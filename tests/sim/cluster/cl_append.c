/* A netd's channel of appends to one bucket (REPLICATION.md 5.6): they stand in the order in which
 * they were wanted until their outcome is known. After anything but a final answer a new epoch
 * begins: all of them are sent again with the same ids, the oldest first, to whom the hints of
 * replicas name as leader, at most one hop at a time. */
#include "tests/sim/cluster/cl_client_internal.h"

#include <stdlib.h>

#include "common/assert.h"

static void on_resume(void *ctx, uint64_t number);
static void pause_channel(struct cl_client *client, uint64_t ns_max);
static void next_target(struct cl_client *client);
static bool under_way(const struct cl_channel *channel);
static void begin_epoch(struct cl_client *client);
static void on_appended(struct cl_client *client, struct cl_append *append,
                        const struct msg_append_reply *reply);
static void on_failed(struct cl_client *client, struct cl_append *append, uint32_t node,
                      const struct msg_fail_reply *reply);
static void reopen(struct cl_client *client);
static void remove_append(struct cl_channel *channel, struct cl_append *append);
static struct cl_append *find_by_id(struct cl_channel *channel, uint64_t id);
static struct cl_append *find_by_tx(struct cl_channel *channel, uint32_t tx);

void channel_release(struct cl_client *client)
{
    free(client->channel.queue);
}

void channel_add(struct cl_client *client, uint32_t tx, uint64_t flags, uint32_t session)
{
    struct cl_channel *channel = &client->channel;
    if (channel->count == channel->cap) {
        channel->cap = channel->cap == 0 ? 32 : channel->cap * 2;
        channel->queue = realloc(channel->queue, channel->cap * sizeof *channel->queue);
        ASSERT(channel->queue != NULL);
    }
    channel->queue[channel->count++] =
        (struct cl_append){.tx = tx, .flags = flags, .session = session};
}

uint64_t channel_oldest_ns(const struct cl_client *client)
{
    const struct cl_channel *channel = &client->channel;
    for (uint32_t i = 0; i < channel->count; i++) {
        if (channel->queue[i].sent_id != 0)
            return channel->queue[i].sent_ns;
    }
    return UINT64_MAX;
}

void channel_turn_to(struct cl_client *client, uint32_t node)
{
    struct cl_channel *channel = &client->channel;
    if (node >= CL_NODES_MAX || !client->up[node] || channel->target == node)
        return;
    if (under_way(channel))
        return; /* their answers will tell */
    channel->target = node;
    channel->reopen = true;
}

/* --- sending --- */

void channel_send(struct cl_client *client)
{
    struct cl_channel *channel = &client->channel;
    if (channel->count == 0 || client_now(client) < channel->resume_ns)
        return;
    if (channel->reopen && under_way(channel) && !client->workload->eager)
        return; /* every answer of the old epoch first */
    if (!client->up[channel->target]) {
        next_target(client);
        channel->reopen = true;
        if (!client->up[channel->target])
            return;
    }
    if (channel->reopen)
        begin_epoch(client);
    struct buf frame = {0};
    for (uint32_t i = 0; i < channel->count; i++) {
        struct cl_append *append = &channel->queue[i];
        if (append->sent_id != 0)
            continue;
        append->sent_id = client_new_id(client, append->tx);
        append->sent_ns = client_now(client);
        append->sent_to = channel->target;
        request_pack_append(client, append, channel->epoch, channel->number++, &frame);
        append->tries++;
    }
    if (frame.len > 0)
        (void)cluster_send(client->cluster, client->index, channel->target, buf_span(&frame));
    buf_release(&frame);
}

static void begin_epoch(struct cl_client *client)
{
    struct cl_channel *channel = &client->channel;
    channel->reopen = false;
    channel->epoch++;
    channel->number = 0;
    for (uint32_t i = 0; i < channel->count; i++)
        channel->queue[i].sent_id = 0;
}

static bool under_way(const struct cl_channel *channel)
{
    for (uint32_t i = 0; i < channel->count; i++) {
        if (channel->queue[i].sent_id != 0)
            return true;
    }
    return false;
}

/* The next node whose link is up. */
static void next_target(struct cl_client *client)
{
    struct cl_channel *channel = &client->channel;
    for (uint32_t i = 1; i <= CL_NODES_MAX; i++) {
        uint32_t node = (channel->target + i) % CL_NODES_MAX;
        if (client->up[node]) {
            channel->target = node;
            return;
        }
    }
}

static void pause_channel(struct cl_client *client, uint64_t ns_max)
{
    struct cl_channel *channel = &client->channel;
    /* Longer and longer, while nobody takes them. */
    ns_max = min_u64(ns_max << min_u64(channel->failures++, 4), 500 * MS);
    uint64_t pause = prng_range(&client->prng, ns_max / 10, ns_max);
    channel->resume_ns = client_now(client) + pause;
    channel->hopped = false;
    sched_after(&client->cluster->sched, pause, on_resume, client, ++channel->pauses);
}

static void on_resume(void *ctx, uint64_t number)
{
    struct cl_client *client = ctx;
    if (client->cluster->over || client->cluster->trace.failed || client->channel.pauses != number)
        return;
    channel_send(client);
}

/* --- answers --- */

void channel_on_answer(struct cl_client *client, uint32_t node, const struct msg *msg)
{
    struct cl_channel *channel = &client->channel;
    bool appended = msg->tag == TAG_append_reply;
    if (!appended && msg->tag != TAG_fail_reply)
        return;
    uint64_t id = appended ? msg->u.append_reply.req_id : msg->u.fail_reply.req_id;
    struct cl_append *append = find_by_id(channel, id);
    /* An older attempt's success is one, whatever was sent since; its failure says nothing. */
    if (append == NULL && appended)
        append = find_by_tx(channel, REQUEST_ABOUT(id));
    if (append == NULL)
        return;
    if (appended)
        on_appended(client, append, &msg->u.append_reply);
    else
        on_failed(client, append, node, &msg->u.fail_reply);
    channel_send(client);
}

static void on_appended(struct cl_client *client, struct cl_append *append,
                        const struct msg_append_reply *reply)
{
    const struct tx *tx = client->model->txs[append->tx];
    client_saw(client, append->session, tx->partition, reply->first_sequence + tx->count);
    client->channel.hopped = false;
    client->channel.failures = 0;
    remove_append(&client->channel, append);
}

static void on_failed(struct cl_client *client, struct cl_append *append, uint32_t node,
                      const struct msg_fail_reply *reply)
{
    struct cl_channel *channel = &client->channel;
    enum err err = (enum err)reply->error;
    if (err_class(err) == ERR_CLASS_NONE) {
        remove_append(channel, append);
        return;
    }
    append->sent_id = 0;
    bool first = !channel->reopen;
    reopen(client);
    uint32_t hint = (uint32_t)reply->leader - 1;
    bool good_hint = reply->leader != 0 && hint < CL_NODES_MAX && hint != node &&
                     client->up[hint] && reply->term >= channel->hint_term;
    if (good_hint) {
        channel->hint_term = reply->term;
        channel->target = hint;
    }
    if (!first && !good_hint)
        return; /* the first failure of the epoch has decided what to do */
    if (err == ERR_ORDER) {
        /* At once, at the same one. */
    } else if (good_hint && !channel->hopped) {
        channel->hopped = true;
    } else if (err == ERR_BUSY || err == ERR_FULL || err == ERR_READONLY) {
        pause_channel(client, 200 * MS);
        if (prng_chance(&client->prng, 300000))
            next_target(client);
    } else {
        if (!good_hint)
            next_target(client);
        pause_channel(client, err == ERR_NO_QUORUM ? 300 * MS : 50 * MS);
    }
}

/* What is under way counts no more; eagerly, or when its answers are there. */
static void reopen(struct cl_client *client)
{
    struct cl_channel *channel = &client->channel;
    channel->reopen = true;
    if (!client->workload->eager)
        return;
    for (uint32_t i = 0; i < channel->count; i++)
        channel->queue[i].sent_id = 0;
}

void channel_on_link_lost(struct cl_client *client, uint32_t node)
{
    struct cl_channel *channel = &client->channel;
    /* What was sent there may be under way still when others are asked already. */
    bool lost = channel->target == node;
    for (uint32_t i = 0; i < channel->count; i++) {
        struct cl_append *append = &channel->queue[i];
        if (append->sent_id == 0 || append->sent_to != node)
            continue;
        append->sent_id = 0;
        lost = true;
    }
    channel->reopen |= lost;
    if (channel->target != node)
        return;
    next_target(client);
    pause_channel(client, 20 * MS);
}

static void remove_append(struct cl_channel *channel, struct cl_append *append)
{
    uint32_t at = (uint32_t)(append - channel->queue);
    channel->count--;
    memmove(append, append + 1, (channel->count - at) * sizeof *append);
}

static struct cl_append *find_by_id(struct cl_channel *channel, uint64_t id)
{
    for (uint32_t i = 0; i < channel->count; i++) {
        if (channel->queue[i].sent_id == id)
            return &channel->queue[i];
    }
    return NULL;
}

static struct cl_append *find_by_tx(struct cl_channel *channel, uint32_t tx)
{
    for (uint32_t i = 0; i < channel->count; i++) {
        if (channel->queue[i].tx == tx)
            return &channel->queue[i];
    }
    return NULL;
}
