/* The oracle's life, and the requests and answers between clients and nodes. */
#include "tests/sim/cluster/cl_oracle.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/assert.h"

static struct oracle_op *new_op(struct oracle *oracle, uint32_t client, uint32_t node,
                                const struct msg *msg);
static void set_scan(struct oracle_op *op, uint64_t from, uint64_t to, bool reverse, uint64_t count,
                     uint64_t bytes, uint64_t watermark);
static struct oracle_op *take_op(struct oracle_link *link, uint64_t id);
static void on_answer(struct oracle *oracle, const struct oracle_op *op, const struct msg *msg);
static uint64_t answered_id(const struct msg *msg);
static void drop_link(struct oracle *oracle, struct oracle_link *link);

struct oracle *oracle_new(struct cluster *cluster)
{
    struct oracle *oracle = calloc(1, sizeof *oracle);
    ASSERT(oracle != NULL);
    const struct bucket_config *config = &cluster->swarm.config;
    oracle->cluster = cluster;
    oracle->prng = prng_fork(&cluster->prng);
    oracle->partition_count = config->partition_count;
    model_init(&oracle->model, &cluster->trace, config->partition_count);
    cl_workload_add_streams(&oracle->model, &cluster->swarm, &oracle->prng);
    oracle->partitions = calloc(config->partition_count, sizeof *oracle->partitions);
    ASSERT(oracle->partitions != NULL);
    for (uint32_t n = 0; n < CL_NODES_MAX; n++) {
        struct oracle_node *node = &oracle->nodes[n];
        node->marks = calloc(config->partition_count, sizeof *node->marks);
        node->covered = calloc(config->partition_count, sizeof *node->covered);
        ASSERT(node->marks != NULL && node->covered != NULL);
        for (uint32_t c = 0; c < CL_CLIENTS_MAX; c++) {
            struct oracle_link *link = &oracle->links[c][n];
            link->follows = calloc(config->partition_count, sizeof *link->follows);
            ASSERT(link->follows != NULL);
        }
    }
    return oracle;
}

void oracle_free(struct oracle *oracle)
{
    for (uint32_t n = 0; n < CL_NODES_MAX; n++) {
        for (uint32_t c = 0; c < CL_CLIENTS_MAX; c++) {
            drop_link(oracle, &oracle->links[c][n]);
            free(oracle->links[c][n].follows);
        }
        durable_log_release(&oracle->nodes[n].durable);
        free(oracle->nodes[n].marks);
        free(oracle->nodes[n].covered);
        free(oracle->nodes[n].votes);
    }
    for (uint32_t p = 0; p < oracle->partition_count; p++)
        free(oracle->partitions[p].marks);
    free(oracle->partitions);
    model_release(&oracle->model);
    free(oracle->log);
    free(oracle->leaders);
    free(oracle->txs);
    free(oracle->claims);
    free(oracle->reads);
    free(oracle);
}

void oracle_get_totals(const struct oracle *oracle, struct oracle_totals *ret_totals)
{
    *ret_totals = oracle->totals;
    ret_totals->acked_txs = oracle->model.acked_txs;
    ret_totals->acked_events = oracle->model.acked_events;
    ret_totals->refusals = oracle->model.refusals;
    ret_totals->entries = oracle->log_len;
}

struct model *oracle_model(struct oracle *oracle)
{
    return &oracle->model;
}

uint64_t oracle_committed(const struct oracle *oracle, uint32_t partition)
{
    return oracle->partitions[partition].committed;
}

uint64_t oracle_commit_idx(const struct oracle *oracle)
{
    return oracle->log_len == 0 ? 0 : oracle->log_len - 1;
}

void oracle_fail_at(struct oracle *oracle, const char *format, ...)
{
    char text[480];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    trace_fail(&oracle->cluster->trace, "%s", text);
}

void *oracle_grow(void *array, uint64_t *cap, uint64_t at, size_t size)
{
    if (at < *cap)
        return array;
    uint64_t new_cap = *cap == 0 ? 64 : *cap;
    while (at >= new_cap)
        new_cap *= 2;
    ASSERT(new_cap < 1u << 28);
    char *grown = realloc(array, new_cap * size);
    ASSERT(grown != NULL);
    memset(grown + *cap * size, 0, (new_cap - *cap) * size);
    *cap = new_cap;
    return grown;
}

/* --- life of nodes --- */

void oracle_on_start(struct oracle *oracle, uint32_t node)
{
    if (!oracle_failed(oracle))
        oracle_log_start(oracle, node);
}

void oracle_on_end(struct oracle *oracle, uint32_t node, enum node_end how)
{
    (void)how;
    for (uint32_t c = 0; c < CL_CLIENTS_MAX; c++)
        drop_link(oracle, &oracle->links[c][node]);
    if (!oracle_failed(oracle))
        oracle_log_end(oracle, node);
}

void oracle_after_step(struct oracle *oracle, uint32_t node)
{
    oracle->nodes[node].turns++;
    if (!oracle_failed(oracle))
        oracle_log_step(oracle, node);
}

void oracle_on_peer_message(struct oracle *oracle, uint32_t from, uint32_t to,
                            const struct msg *msg)
{
    if (!oracle_failed(oracle))
        oracle_log_message(oracle, from, to, msg);
}

void oracle_on_damage(struct oracle *oracle, uint32_t node, enum damage damage)
{
    oracle_log_damage(oracle, node, damage);
}

void oracle_on_link_lost(struct oracle *oracle, uint32_t client, uint32_t node)
{
    drop_link(oracle, &oracle->links[client][node]);
}

/* What was asked on it may have had its effect. */
static void drop_link(struct oracle *oracle, struct oracle_link *link)
{
    while (link->first != NULL) {
        struct oracle_op *op = link->first;
        link->first = op->next;
        free(op);
    }
    link->last = NULL;
    memset(link->follows, 0, oracle->partition_count * sizeof *link->follows);
}

/* --- requests --- */

void oracle_on_request(struct oracle *oracle, uint32_t client, uint32_t node, struct span frame)
{
    struct oracle_link *link = &oracle->links[client][node];
    struct msg msg;
    while (frame.len > 0 && msg_unpack(&frame, &msg) == ERR_OK && !oracle_failed(oracle)) {
        if (msg.tag == TAG_unfollow_req) {
            struct oracle_follow *follow = &link->follows[msg.u.unfollow_req.partition];
            if (follow->state == OFOLLOW_ON)
                follow->ended = oracle->nodes[node].turns + 1;
            follow->state = OFOLLOW_NOT;
            continue;
        }
        struct oracle_op *op = new_op(oracle, client, node, &msg);
        if (link->last == NULL)
            link->first = op;
        else
            link->last->next = op;
        link->last = op;
        oracle->totals.ops++;
        if (msg.tag == TAG_append_req)
            oracle_append_arrives(oracle, op, &msg.u.append_req);
        if (msg.tag == TAG_follow_req)
            link->follows[op->partition].state = OFOLLOW_ASKED;
    }
}

static struct oracle_op *new_op(struct oracle *oracle, uint32_t client, uint32_t node,
                                const struct msg *msg)
{
    struct oracle_op *op = calloc(1, sizeof *op);
    ASSERT(op != NULL);
    *op = (struct oracle_op){
        .tag = msg->tag, .client = client, .node = node, .tx = NO_TX, .watermark = UINT64_MAX};
#define COMMON(name)                                                                               \
    op->id = msg->u.name.req_id;                                                                   \
    op->partition = (uint32_t)msg->u.name.partition
#define DEMAND(name)                                                                               \
    COMMON(name);                                                                                  \
    op->need = msg->u.name.need;                                                                   \
    op->mode = msg->u.name.mode
#define SCAN(name)                                                                                 \
    DEMAND(name);                                                                                  \
    set_scan(op, msg->u.name.from, msg->u.name.to, msg->u.name.reverse, msg->u.name.count,         \
             msg->u.name.bytes, msg->u.name.watermark)
    switch ((int)msg->tag) {
    case TAG_append_req:
        COMMON(append_req);
        break;
    case TAG_get_req:
        DEMAND(get_req);
        op->tx = REQUEST_ABOUT(op->id) / MODEL_TX_EVENTS_MAX;
        op->event = REQUEST_ABOUT(op->id) % MODEL_TX_EVENTS_MAX;
        break;
    case TAG_scan_partition_req:
        SCAN(scan_partition_req);
        break;
    case TAG_scan_stream_req:
        SCAN(scan_stream_req);
        op->stream = REQUEST_ABOUT(op->id);
        break;
    case TAG_version_req:
        DEMAND(version_req);
        op->stream = REQUEST_ABOUT(op->id);
        break;
    case TAG_sequence_req:
        DEMAND(sequence_req);
        break;
    case TAG_follow_req:
        COMMON(follow_req);
        break;
    default:
        ASSERT(false);
    }
#undef COMMON
#undef DEMAND
#undef SCAN
    const struct replica_state *state = &oracle->nodes[node].state;
    op->arrived_ns = oracle_now(oracle);
    op->low = oracle->partitions[op->partition].committed;
    op->last_idx = state->last_idx;
    op->term = state->role == ROLE_LEADER ? state->term : 0;
    return op;
}

static void set_scan(struct oracle_op *op, uint64_t from, uint64_t to, bool reverse, uint64_t count,
                     uint64_t bytes, uint64_t watermark)
{
    op->from = from;
    op->to = to;
    op->reverse = reverse;
    op->count = count;
    op->bytes = bytes;
    op->watermark = watermark;
}

/* --- answers --- */

void oracle_on_reply(struct oracle *oracle, uint32_t client, uint32_t node, struct span frame)
{
    struct oracle_link *link = &oracle->links[client][node];
    while (frame.len > 0 && !oracle_failed(oracle)) {
        struct msg msg;
        if (msg_unpack(&frame, &msg) != ERR_OK) {
            oracle_fail(oracle, "answers", "node %u sends what can't be unpacked", node);
            return;
        }
        if (msg.tag == TAG_tail) {
            oracle_on_tail(oracle, client, node, &msg.u.tail);
            continue;
        }
        struct oracle_op *op = take_op(link, answered_id(&msg));
        if (op == NULL) {
            oracle_fail(oracle, "answers",
                        "node %u, client %u: %s answers no request, or one twice", node, client,
                        msg_name(msg.tag));
            return;
        }
        on_answer(oracle, op, &msg);
        free(op);
    }
}

static void on_answer(struct oracle *oracle, const struct oracle_op *op, const struct msg *msg)
{
    bool events = op->tag == TAG_get_req || op->tag == TAG_scan_partition_req ||
                  op->tag == TAG_scan_stream_req;
    bool number = op->tag == TAG_version_req || op->tag == TAG_sequence_req;
    if (msg->tag == TAG_fail_reply && op->tag == TAG_append_req)
        oracle_append_failed(oracle, op, &msg->u.fail_reply);
    else if (msg->tag == TAG_fail_reply)
        oracle_read_failed(oracle, op, &msg->u.fail_reply);
    else if (msg->tag == TAG_append_reply && op->tag == TAG_append_req)
        oracle_append_answered(oracle, op, &msg->u.append_reply);
    else if (msg->tag == TAG_events_reply && events)
        oracle_read_events(oracle, op, &msg->u.events_reply);
    else if (msg->tag == TAG_number_reply && number)
        oracle_read_number(oracle, op, &msg->u.number_reply);
    else if (msg->tag == TAG_follow_reply && op->tag == TAG_follow_req)
        oracle_follow_answered(oracle, op, &msg->u.follow_reply);
    else
        oracle_fail(oracle, "answers", "node %u: %s answers a %s", op->node, msg_name(msg->tag),
                    msg_name(op->tag));
}

static struct oracle_op *take_op(struct oracle_link *link, uint64_t id)
{
    struct oracle_op *before = NULL;
    for (struct oracle_op *op = link->first; op != NULL; before = op, op = op->next) {
        if (op->id != id)
            continue;
        if (before == NULL)
            link->first = op->next;
        else
            before->next = op->next;
        if (link->last == op)
            link->last = before;
        return op;
    }
    return NULL;
}

static uint64_t answered_id(const struct msg *msg)
{
    switch ((int)msg->tag) {
    case TAG_append_reply:
        return msg->u.append_reply.req_id;
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

void oracle_at_rest(struct oracle *oracle)
{
    if (!oracle_failed(oracle))
        oracle_log_at_rest(oracle);
    if (!oracle_failed(oracle))
        oracle_append_at_rest(oracle);
    if (!oracle_failed(oracle))
        oracle_read_at_rest(oracle);
}
