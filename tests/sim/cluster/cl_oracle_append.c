/* Transactions: where each is stored, which attempts may have stored it, and whether every answer
 * was true at a time between call and return. */
#include "tests/sim/cluster/cl_oracle.h"

#include <stdio.h>

#include "bucketd/core/format.h"
#include "common/assert.h"

static bool is_young(const struct oracle *oracle, uint32_t index);
static bool refusal_is_allowed(struct oracle *oracle, const struct oracle_op *op, enum err err);
static bool is_too_large(const struct oracle *oracle, const struct tx *tx);
static void settle(struct oracle *oracle, const struct oracle_op *op, bool also_before);
static void check_tail_committed(struct oracle *oracle, const struct oracle_op *op);
static void add_claim(struct oracle *oracle, const struct oracle_op *op, enum err err,
                      struct span text);
static void check_place(struct oracle *oracle, uint32_t node, struct tx *tx);
static void judge_claims(struct oracle *oracle);
static void judge_claim(struct oracle *oracle, const struct oracle_claim *claim);
static void check_client_order(struct oracle *oracle);

#define LAST_BIT 63u

struct oracle_tx *oracle_tx_of(struct oracle *oracle, uint32_t tx)
{
    uint64_t cap = oracle->tx_cap;
    oracle->txs = oracle_grow(oracle->txs, &cap, tx, sizeof *oracle->txs);
    oracle->tx_cap = (uint32_t)cap;
    return &oracle->txs[tx];
}

void oracle_append_arrives(struct oracle *oracle, struct oracle_op *op,
                           const struct msg_append_req *req)
{
    struct model *model = &oracle->model;
    op->tx = REQUEST_ABOUT(req->req_id);
    ASSERT(op->tx < model->tx_count && req->partition == model->txs[op->tx]->partition);
    struct tx *tx = model->txs[op->tx];
    struct oracle_tx *own = oracle_tx_of(oracle, op->tx);
    op->tx_was_acked = tx->acked;
    op->attempt = own->attempts < LAST_BIT ? own->attempts : LAST_BIT;
    if (own->attempts++ == 0) {
        own->client = op->client;
        own->low = op->low;
        /* The order in which one bucket takes requests is no rule for several. */
        tx->last_arrival = UINT64_MAX;
    }
    if (tx->invalid || tx->copy_of != NO_TX)
        return;
    own->maybe |= (uint64_t)1 << op->attempt;
    tx->possible = true;
    tx->refused = false;
}

void oracle_append_answered(struct oracle *oracle, const struct oracle_op *op,
                            const struct msg_append_reply *reply)
{
    struct model *model = &oracle->model;
    struct tx *tx = model->txs[op->tx];
    if (tx->invalid || tx->copy_of != NO_TX)
        oracle_fail(oracle, "refusals", "node %u: tx %u was accepted and must be refused", op->node,
                    op->tx);
    if (reply->count != tx->count)
        oracle_fail(oracle, "answers", "node %u: tx %u has %u events, the answer says %lu",
                    op->node, op->tx, tx->count, reply->count);
    if (op->tx_was_acked && !reply->duplicate)
        oracle_fail(oracle, "once",
                    "node %u: tx %u was acknowledged before it came, the answer "
                    "calls it new",
                    op->node, op->tx);
    if (op->attempt == 0 && reply->duplicate)
        oracle_fail(oracle, "once",
                    "node %u: tx %u came for the first time, the answer calls it a "
                    "duplicate",
                    op->node, op->tx);
    uint64_t mark = oracle->nodes[op->node].marks[op->partition];
    if (reply->first_sequence + tx->count > mark)
        inside_fail(oracle, "acknowledged",
                    "node %u: tx %u at p%u seq %lu is acknowledged, the "
                    "node has committed %lu events",
                    op->node, op->tx, op->partition, reply->first_sequence, mark);
    struct span list = reply->events;
    for (uint32_t i = 0; i < tx->count && !oracle_failed(oracle); i++) {
        struct rec_appended_event event;
        if (rec_next_appended_event(&list, &event) != ERR_OK ||
            event.timestamp_ms != tx->events[i].timestamp_ms) {
            oracle_fail(oracle, "answers",
                        "node %u, tx %u event %u: it is missing in the answer, "
                        "or has another timestamp",
                        op->node, op->tx, i);
            return;
        }
        if (tx->events[i].version == NO_VERSION)
            tx->events[i].version = event.version;
        if (tx->events[i].version != event.version)
            oracle_fail(oracle, "versions",
                        "node %u: tx %u event %u has version %lu here, %lu "
                        "elsewhere",
                        op->node, op->tx, i, event.version, tx->events[i].version);
    }
    if (oracle_failed(oracle))
        return;
    check_tail_committed(oracle, op);
    model_place(model, tx, reply->first_sequence);
    check_place(oracle, op->node, tx);
    struct partition_log *log = &model->partitions[tx->partition];
    log->watermark = max_u64(log->watermark, reply->first_sequence + tx->count);
    if (!tx->acked) {
        tx->acked = true;
        model->acked_txs++;
        model->acked_events += tx->count;
    }
}

/* --- refusals --- */

void oracle_append_failed(struct oracle *oracle, const struct oracle_op *op,
                          const struct msg_fail_reply *reply)
{
    enum err err = (enum err)reply->error;
    struct tx *tx = oracle->model.txs[op->tx];
    oracle->model.refusals++;
    if (err_class(err) == ERR_CLASS_UNKNOWN) {
        oracle->totals.unknown++;
        return;
    }
    if (!refusal_is_allowed(oracle, op, err)) {
        oracle_fail(oracle, "refusals", "node %u refuses tx %u: %s %.*s", op->node, op->tx,
                    err_name(err), (int)min_u64(reply->text.len, 200),
                    (const char *)reply->text.ptr);
        return;
    }
    if (err_class(err) == ERR_CLASS_RETRY || err == ERR_READ || err == ERR_CORRUPT) {
        settle(oracle, op, false);
        return;
    }
    if (tx->placed && !tx->invalid) {
        oracle_fail(oracle, "refusals",
                    "node %u refuses tx %u, which is stored at p%u seq %lu: %s "
                    "%.*s",
                    op->node, op->tx, tx->partition, tx->first_seq, err_name(err),
                    (int)min_u64(reply->text.len, 200), (const char *)reply->text.ptr);
        return;
    }
    settle(oracle, op, true);
    if (tx->invalid || err == ERR_MAXSIZE)
        return;
    check_tail_committed(oracle, op);
    add_claim(oracle, op, err, reply->text);
}

static bool refusal_is_allowed(struct oracle *oracle, const struct oracle_op *op, enum err err)
{
    const struct cl_swarm *swarm = &oracle->cluster->swarm;
    const struct tx *tx = oracle->model.txs[op->tx];
    bool damage = oracle->nodes[op->node].was_damaged ||
                  oracle->cluster->nodes[op->node].node.read_errors_seen;
    switch ((int)err) {
    case ERR_INVALID: /* also a stream that belongs to another key: judged as a claim */
    case ERR_WRONGVER:
    case ERR_NOT_LEADER:
    case ERR_NOT_READY:
    case ERR_ORDER:
    case ERR_BUSY:
        return true;
    case ERR_NO_QUORUM:
        return !is_young(oracle, op->node);
    case ERR_EXISTS:
        return tx->copy_of != NO_TX;
    case ERR_MAXSIZE:
        return tx->invalid || is_too_large(oracle, tx);
    case ERR_FULL:
        return swarm->faults[CL_FULL];
    case ERR_READ:
    case ERR_CORRUPT:
    case ERR_READONLY:
        return damage;
    default:
        return false;
    }
}

/* Whoever has just started can't tell that there is no quorum: nobody may have found it yet. Its
 * clock may run a tenth faster than the world's. */
static bool is_young(const struct oracle *oracle, uint32_t index)
{
    const struct cluster *cluster = oracle->cluster;
    uint64_t started_ns = cluster->nodes[index].started_ns;
    uint64_t timeout_ns = cluster->swarm.config.election_timeout_ns;
    return !cluster->swarm.faults[CL_JUMP] && started_ns != UINT64_MAX &&
           cluster->sched.now_ns - started_ns < timeout_ns / 2;
}

/* It may not fit into a segment: about what its entry takes there. */
static bool is_too_large(const struct oracle *oracle, const struct tx *tx)
{
    uint64_t bytes = sizeof(struct entry_head);
    for (uint32_t i = 0; i < tx->count; i++) {
        const struct tx_event *event = &tx->events[i];
        bytes += sizeof(struct event_head) + oracle->model.streams[event->stream].name_len +
                 event->name_len + event->metadata_len + event->payload_len + 8;
    }
    uint64_t segment = max_u64(oracle->cluster->swarm.config.segment_bytes / 2, FORMAT_BLOCK);
    return bytes + 1200 > segment;
}

/* This attempt had no effect; also_before: none before it had. */
static void settle(struct oracle *oracle, const struct oracle_op *op, bool also_before)
{
    struct tx *tx = oracle->model.txs[op->tx];
    struct oracle_tx *own = oracle_tx_of(oracle, op->tx);
    uint64_t bit = (uint64_t)1 << op->attempt;
    if (op->attempt == LAST_BIT)
        return; /* it stands for several */
    own->maybe &= ~bit;
    if (also_before)
        own->maybe &= ~(bit - 1);
    tx->possible = own->maybe != 0;
    tx->refused = own->maybe == 0;
}

/* What an answer rests on was in the leader's log when the request came, or came later: an event
 * that isn't committed must cause no answer. */
static void check_tail_committed(struct oracle *oracle, const struct oracle_op *op)
{
    const struct replica_state *state = &oracle->nodes[op->node].state;
    if (op->term != 0 && op->term == state->term && state->commit_idx < op->last_idx)
        inside_fail(oracle, "tail",
                    "node %u answers tx %u with idx %lu committed; its log went to "
                    "%lu when the request came",
                    op->node, op->tx, state->commit_idx, op->last_idx);
}

static void add_claim(struct oracle *oracle, const struct oracle_op *op, enum err err,
                      struct span text)
{
    uint64_t cap = oracle->claim_cap;
    oracle->claims = oracle_grow(oracle->claims, &cap, oracle->claim_count, sizeof *oracle->claims);
    oracle->claim_cap = (uint32_t)cap;
    struct oracle_claim *claim = &oracle->claims[oracle->claim_count++];
    *claim = (struct oracle_claim){.claim = {.tx = op->tx, .err = err},
                                   .node = op->node,
                                   .low = op->low,
                                   .high = oracle->partitions[op->partition].committed};
    snprintf(claim->claim.text, sizeof claim->claim.text, "%.*s", (int)text.len,
             (const char *)text.ptr);
}

/* --- what is stored --- */

void oracle_see_event(struct oracle *oracle, uint32_t node, const struct rec_stored_event *event)
{
    struct tx *tx;
    uint32_t i;
    uint64_t mark = event->partition < oracle->partition_count
                        ? oracle->nodes[node].marks[event->partition]
                        : 0;
    if (event->sequence >= mark)
        inside_fail(oracle, "watermark", "node %u shows p%lu seq %lu and has committed %lu events",
                    node, event->partition, event->sequence, mark);
    if (!oracle_failed(oracle))
        model_see(&oracle->model, event);
    if (!oracle_failed(oracle) && model_match(&oracle->model, event, &tx, &i))
        check_place(oracle, node, tx);
}

/* What came when so many events were committed can't stand before them. */
static void check_place(struct oracle *oracle, uint32_t node, struct tx *tx)
{
    struct oracle_tx *own = oracle_tx_of(oracle, tx->index);
    if (own->checked || !tx->placed)
        return;
    own->checked = true;
    if (tx->first_seq < own->low)
        oracle_fail(oracle, "real time",
                    "tx %u of client %u is at p%u seq %lu (shown by node %u), "
                    "but %lu events were committed before it came",
                    tx->index, own->client, tx->partition, tx->first_seq, node, own->low);
}

/* --- at rest: the logs are known whole --- */

void oracle_append_at_rest(struct oracle *oracle)
{
    struct model *model = &oracle->model;
    for (uint32_t p = 0; p < model->partition_count; p++) {
        const struct partition_log *log = &model->partitions[p];
        if (log->known != log->count || log->known != oracle->partitions[p].committed)
            oracle_fail(oracle, "no gaps",
                        "p%u: %lu events are known, up to %lu was shown, %lu are "
                        "committed",
                        p, log->known, log->count, oracle->partitions[p].committed);
    }
    for (uint32_t i = 0; i < model->tx_count && !oracle_failed(oracle); i++) {
        const struct tx *tx = model->txs[i];
        if (tx->placed && !tx->acked)
            oracle_fail(oracle, "outcomes",
                        "tx %u is stored at p%u seq %lu, and its client was "
                        "never told",
                        i, tx->partition, tx->first_seq);
    }
    if (!oracle_failed(oracle))
        judge_claims(oracle);
    if (!oracle_failed(oracle))
        check_client_order(oracle);
}

static void judge_claims(struct oracle *oracle)
{
    for (uint32_t i = 0; i < oracle->claim_count && !oracle_failed(oracle); i++)
        judge_claim(oracle, &oracle->claims[i]);
    oracle->claim_count = 0;
}

/* True at some point between the request's arrival and the answer's departure; points are ends of
 * transactions. */
static void judge_claim(struct oracle *oracle, const struct oracle_claim *claim)
{
    const struct model *model = &oracle->model;
    const struct partition_log *log = &model->partitions[model->txs[claim->claim.tx]->partition];
    for (uint64_t k = claim->high;;) {
        if (model_claim_holds(model, &claim->claim, k))
            return;
        if (k <= claim->low || k == 0)
            break;
        k = model->txs[log->slots[k - 1].tx]->first_seq;
    }
    oracle_fail(oracle, "linearizable",
                "node %u refused tx %u, and nothing between p%u seq %lu and "
                "%lu makes it true: %s %s",
                claim->node, claim->claim.tx, model->txs[claim->claim.tx]->partition, claim->low,
                claim->high, err_name(claim->claim.err), claim->claim.text);
}

/* Refused at first, perhaps, but its client wasn't told; and then taken, behind what it sent later.
 * What expects nothing is refused only where reads fail. */
static bool may_be_late(const struct oracle *oracle, const struct tx *tx)
{
    const bool *faults = oracle->cluster->swarm.faults;
    bool refusable = faults[CL_READ_ERROR] || faults[CL_ROT];
    for (uint32_t i = 0; i < tx->count; i++)
        refusable = refusable || tx->events[i].expect != EXPECT_ANY;
    return refusable && oracle->txs[tx->index].attempts > 1;
}

/* A client's transactions are numbered in the order it sent them. */
static void check_client_order(struct oracle *oracle)
{
    const struct model *model = &oracle->model;
    for (uint32_t p = 0; p < model->partition_count; p++) {
        uint32_t last[CL_CLIENTS_MAX] = {0};
        const struct partition_log *log = &model->partitions[p];
        for (uint64_t at = 0; at < log->count;) {
            const struct tx *tx = model->txs[log->slots[at].tx];
            uint32_t client = oracle_tx_of(oracle, tx->index)->client;
            bool late = tx->index + 1 < last[client];
            if (late && !may_be_late(oracle, tx))
                oracle_fail(oracle, "client order",
                            "p%u: client %u sent tx %u before tx %u, and it "
                            "stands behind it at seq %lu",
                            p, client, tx->index, last[client] - 1, at);
            if (!late)
                last[client] = tx->index + 1;
            at += tx->count;
        }
    }
}
