/* Subscriptions: from a cursor on, every event once, in order, whichever node they are at. History
 * comes by scans, what is new by tail messages; the seam is where the cursor meets the next event
 * that the tail will bring. A subscription moves on when its node goes, and now and then at will.
 */
#include "tests/sim/cluster/cl_client_internal.h"

#include "common/assert.h"

static void attach(struct cl_client *client, uint32_t partition);
static void detach(struct cl_client *client, uint32_t partition, bool tell);
static void read_on(struct cl_client *client, uint32_t partition);
static bool take_event(struct cl_client *client, uint32_t partition,
                       const struct rec_stored_event *event);

static void wait_for(struct cl_client *client, struct cl_subscription *sub)
{
    sub->state = SUB_WAITS;
    sub->resume_ns = client_now(client) + prng_range(&client->prng, MS, 100 * MS);
}

void subscriptions_turn(struct cl_client *client)
{
    const struct cl_workload *workload = client->workload;
    uint32_t partitions = client->cluster->swarm.config.partition_count;
    for (uint32_t p = 0; p < partitions; p++) {
        struct cl_subscription *sub = &client->subscriptions[p];
        if (sub->state == SUB_WAITS && client_now(client) >= sub->resume_ns)
            attach(client, p);
        bool moves = sub->state == SUB_LIVE && client->finish == FINISH_NOT &&
                     workload->move_mean_ns > 0 &&
                     prng_below(&client->prng, workload->move_mean_ns) < workload->think_ns;
        if (moves)
            detach(client, p, true);
    }
}

static void attach(struct cl_client *client, uint32_t partition)
{
    struct cl_subscription *sub = &client->subscriptions[partition];
    uint32_t node = client_pick_node(client);
    struct cl_request request = {.tag = TAG_follow_req,
                                 .partition = partition,
                                 .watermark = UINT64_MAX,
                                 .session = CL_NO_SESSION};
    if (node == CL_NO_NODE || !client_send(client, &request, node)) {
        wait_for(client, sub);
        return;
    }
    sub->state = SUB_ASKED;
    sub->node = node;
}

static void detach(struct cl_client *client, uint32_t partition, bool tell)
{
    struct cl_subscription *sub = &client->subscriptions[partition];
    if (tell && client->up[sub->node]) {
        struct buf frame = {0};
        msg_pack_unfollow_req(&frame, &(struct msg_unfollow_req){.partition = partition});
        (void)cluster_send(client->cluster, client->index, sub->node, buf_span(&frame));
        buf_release(&frame);
    }
    sub->node = CL_NO_NODE;
    wait_for(client, sub);
}

void subscriptions_on_link_lost(struct cl_client *client, uint32_t node)
{
    uint32_t partitions = client->cluster->swarm.config.partition_count;
    for (uint32_t p = 0; p < partitions; p++) {
        struct cl_subscription *sub = &client->subscriptions[p];
        if (sub->state >= SUB_ASKED && sub->node == node)
            detach(client, p, false);
    }
}

void subscription_on_follow(struct cl_client *client, const struct cl_request *request,
                            const struct msg_follow_reply *reply)
{
    struct cl_subscription *sub = &client->subscriptions[request->partition];
    if (sub->state != SUB_ASKED || sub->node != request->node)
        return;
    sub->live = reply->watermark;
    sub->state = SUB_HISTORY;
    read_on(client, request->partition);
}

/* The next chunk of history, or the seam is reached. A replica may be behind the cursor: then the
 * tail will bring what was seen elsewhere first. */
static void read_on(struct cl_client *client, uint32_t partition)
{
    struct cl_subscription *sub = &client->subscriptions[partition];
    if (sub->cursor >= sub->live) {
        sub->state = SUB_LIVE;
        return;
    }
    struct cl_request request = {.tag = TAG_scan_partition_req,
                                 .partition = partition,
                                 .from = sub->cursor,
                                 .to = UINT64_MAX,
                                 .count = prng_range(&client->prng, 1, 50),
                                 .bytes = 64u << 10,
                                 .watermark = UINT64_MAX,
                                 .need = sub->live,
                                 .session = CL_NO_SESSION,
                                 .subscription = true};
    if (!client_send(client, &request, sub->node))
        detach(client, partition, true);
}

void subscription_on_history(struct cl_client *client, const struct cl_request *request,
                             const struct msg_events_reply *reply)
{
    struct cl_subscription *sub = &client->subscriptions[request->partition];
    if (sub->state != SUB_HISTORY || sub->node != request->node)
        return;
    struct rec_stored_event event;
    struct span list = reply->events;
    while (rec_next_stored_event(&list, &event) == ERR_OK) {
        if (!take_event(client, request->partition, &event))
            return;
    }
    if (reply->count == 0)
        trace_fail(&client->cluster->trace,
                   "[subscriptions] client %u: node %u has no event %lu of "
                   "p%u, it told of %lu",
                   client->index, sub->node, sub->cursor, request->partition, sub->live);
    read_on(client, request->partition);
}

void subscription_on_failure(struct cl_client *client, const struct cl_request *request)
{
    struct cl_subscription *sub = &client->subscriptions[request->partition];
    if (sub->state >= SUB_ASKED && sub->node == request->node)
        detach(client, request->partition, true);
}

void subscription_on_tail(struct cl_client *client, uint32_t node, const struct msg_tail *tail)
{
    struct cl_subscription *sub = &client->subscriptions[tail->partition];
    if (sub->state < SUB_HISTORY || sub->node != node)
        return;
    if (tail->first != sub->live) {
        trace_fail(&client->cluster->trace,
                   "[subscriptions] client %u: the tail of p%lu from node "
                   "%u begins at %lu, %lu is next",
                   client->index, tail->partition, node, tail->first, sub->live);
        return;
    }
    sub->live += tail->count;
    if (sub->state == SUB_HISTORY)
        return; /* the scans come there */
    struct rec_stored_event event;
    struct span list = tail->events;
    while (rec_next_stored_event(&list, &event) == ERR_OK) {
        if (!take_event(client, (uint32_t)tail->partition, &event))
            return;
    }
}

/* Each event once, in order: what was seen already at another node isn't taken again. */
static bool take_event(struct cl_client *client, uint32_t partition,
                       const struct rec_stored_event *event)
{
    struct cl_subscription *sub = &client->subscriptions[partition];
    if (event->sequence > sub->cursor) {
        trace_fail(&client->cluster->trace,
                   "[subscriptions] client %u: event %lu of p%u comes from "
                   "node %u, %lu is next",
                   client->index, event->sequence, partition, sub->node, sub->cursor);
        return false;
    }
    if (event->sequence == sub->cursor)
        sub->cursor++;
    return true;
}

bool subscriptions_level(const struct cl_client *client)
{
    uint32_t partitions = client->cluster->swarm.config.partition_count;
    for (uint32_t p = 0; p < partitions; p++) {
        const struct cl_subscription *sub = &client->subscriptions[p];
        if (sub->state != SUB_OFF &&
            (sub->state != SUB_LIVE || sub->cursor != oracle_committed(client->cluster->oracle, p)))
            return false;
    }
    return true;
}
