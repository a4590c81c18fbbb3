/* When faults have ended: every outcome is learned; then one append is made through each node; then
 * each replica's whole log is read, and some more from everywhere. */
#include "tests/sim/cluster/cl_client_internal.h"

#include "common/assert.h"

#define FINAL_READS 12u

static void append_through(struct cl_client *client);
static bool all_have_appended(const struct cl_client *client);
static void read_log(struct cl_client *client);
static bool is_mine(const struct cl_client *client, uint32_t node);

void cl_client_finish(struct cl_client *client)
{
    client->finish = FINISH_APPENDS;
    client->finish_node = 0;
    client->finish_reads = FINAL_READS;
    client_plan_tick(client, MS);
}

/* The clients share the nodes. */
static bool is_mine(const struct cl_client *client, uint32_t node)
{
    const struct cl_swarm *swarm = &client->cluster->swarm;
    return client->cluster->nodes[node].replica && node % swarm->clients == client->index;
}

void finish_turn(struct cl_client *client)
{
    uint32_t nodes = client->cluster->swarm.nodes;
    if (client->finish == FINISH_APPENDS) {
        while (client->finish_node < nodes && !is_mine(client, client->finish_node))
            client->finish_node++;
        if (client->channel.count > 0)
            return;
        if (client->finish_tx != NO_TX) {
            client->finish_tx = NO_TX;
            client->finish_node++;
        } else if (client->finish_node < nodes) {
            append_through(client);
        } else {
            client->finish = FINISH_READS;
            client->finish_node = client->finish_partition = 0;
            client->finish_from = 0;
        }
    } else if (client->finish == FINISH_READS && all_have_appended(client)) {
        read_log(client);
    }
}

static void append_through(struct cl_client *client)
{
    uint32_t node = client->finish_node;
    if (!client->up[node])
        return;
    channel_turn_to(client, node);
    struct tx *tx = request_invent_tx(client);
    client->finish_tx = tx->index;
    channel_add(client, tx->index, 0, 0);
    channel_send(client);
}

static bool all_have_appended(const struct cl_client *client)
{
    const struct cluster *cluster = client->cluster;
    for (uint32_t i = 0; i < cluster->swarm.clients; i++) {
        if (cluster->clients[i]->finish < FINISH_READS)
            return false;
    }
    return true;
}

/* finish_from: where the next scan of the log begins; UINT64_MAX: the partition is done. */
static void read_log(struct cl_client *client)
{
    struct cluster *cluster = client->cluster;
    const struct bucket_config *config = &cluster->swarm.config;
    if (client->request_count > 0 || client->retry_count > 0)
        return;
    if (client->finish_reads > 0) {
        struct cl_request request;
        uint32_t node = client_pick_node(client);
        if (node != CL_NO_NODE && request_invent_read(client, &request)) {
            client->finish_reads--;
            (void)client_send(client, &request, request.strong ? client->channel.target : node);
        }
        return;
    }
    if (client->finish_from == UINT64_MAX) {
        client->finish_from = 0;
        client->finish_partition++;
    }
    if (client->finish_partition >= config->partition_count) {
        client->finish_partition = 0;
        client->finish_node++;
    }
    while (client->finish_node < cluster->swarm.nodes && !is_mine(client, client->finish_node))
        client->finish_node++;
    uint32_t node = client->finish_node, p = client->finish_partition;
    if (node >= cluster->swarm.nodes) {
        client->finish = FINISH_DONE;
        return;
    }
    if (p % config->bucket_count != config->bucket) {
        client->finish_from = UINT64_MAX;
        return;
    }
    struct cl_request request = {.tag = TAG_scan_partition_req,
                                 .partition = p,
                                 .from = 0,
                                 .to = UINT64_MAX,
                                 .count = 1000,
                                 .bytes = 256u << 10,
                                 .watermark = UINT64_MAX,
                                 .need = oracle_committed(cluster->oracle, p),
                                 .session = CL_NO_SESSION,
                                 .node = node,
                                 .final = true};
    if (client->up[node])
        (void)client_send(client, &request, node);
}

bool cl_client_idle(const struct cl_client *client)
{
    return client->finish == FINISH_DONE && client->channel.count == 0 &&
           client->request_count == 0 && client->retry_count == 0 && subscriptions_level(client);
}

void cl_client_describe(const struct cl_client *client, struct buf *out)
{
    static const char *const stages[] = {"work", "appends", "the end's reads", "nothing"};
    const struct cl_channel *channel = &client->channel;
    buf_printf(out, "for %s (node %u)", stages[client->finish], client->finish_node);
    if (channel->count > 0)
        buf_printf(out, ", %u appends (tx %u at n%u, tries %u)", channel->count,
                   channel->queue[0].tx, channel->target, channel->queue[0].tries);
    if (client->request_count > 0)
        buf_printf(out, ", %u requests (%s at n%u)", client->request_count,
                   msg_name(client->requests[0].tag), client->requests[0].node);
    if (client->retry_count > 0)
        buf_printf(out, ", %u to be sent again (%s, tries %u)", client->retry_count,
                   msg_name(client->retries[0].tag), client->retries[0].tries);
    uint32_t partitions = client->cluster->swarm.config.partition_count;
    for (uint32_t p = 0; p < partitions; p++) {
        const struct cl_subscription *sub = &client->subscriptions[p];
        uint64_t committed = oracle_committed(client->cluster->oracle, p);
        if (sub->state != SUB_OFF && (sub->state != SUB_LIVE || sub->cursor != committed))
            buf_printf(out, ", p%u is followed up to %lu of %lu (state %d)", p, sub->cursor,
                       committed, (int)sub->state);
    }
}
