/* Reads: each answer is a slice of the committed prefix below its watermark, which is neither
 * ahead of what the node has committed nor older than the request may see. Followers: every event
 * from their watermark on, once, in order. */
#include "tests/sim/cluster/cl_oracle.h"

#include "common/assert.h"

static bool check_watermark(struct oracle *oracle, const struct oracle_op *op, uint64_t watermark,
                            bool stale);
static void check_fresh(struct oracle *oracle, const struct oracle_op *op, uint64_t watermark);
static void check_get(struct oracle *oracle, const struct oracle_op *op, uint64_t count,
                      const struct rec_stored_event *event);
static void cover(struct oracle *oracle, const struct oracle_op *op, uint64_t first,
                  uint64_t count);
static void keep(struct oracle *oracle, const struct oracle_read *read);
static void judge(struct oracle *oracle, const struct oracle_read *read);
static void judge_number(struct oracle *oracle, const struct oracle_read *read, uint64_t there);
static void judge_get(struct oracle *oracle, const struct oracle_read *read);

void oracle_read_events(struct oracle *oracle, const struct oracle_op *op,
                        const struct msg_events_reply *reply)
{
    struct rec_stored_event event;
    struct span list = reply->events;
    uint64_t count = 0, first = 0, at = 0, newest = 0;
    bool stream = op->tag == TAG_scan_stream_req;
    while (rec_next_stored_event(&list, &event) == ERR_OK && !oracle_failed(oracle)) {
        oracle_see_event(oracle, op->node, &event);
        uint64_t position = stream ? event.version : event.sequence;
        if (count == 0)
            first = at = position;
        else if (position != (op->reverse ? --at : ++at))
            oracle_fail(oracle, "slices", "node %u: a scan of p%u jumps to %lu", op->node,
                        op->partition, position);
        newest = max_u64(newest, event.sequence + 1);
        count++;
    }
    if (oracle_failed(oracle))
        return;
    if (list.len != 0 || count != reply->count || (op->tag != TAG_get_req && count > op->count))
        oracle_fail(oracle, "answers", "node %u: an answer of %lu events says %lu, asked were %lu",
                    op->node, count, reply->count, op->count);
    if (newest > reply->watermark)
        oracle_fail(oracle, "watermark", "node %u shows p%u seq %lu behind the watermark %lu",
                    op->node, op->partition, newest - 1, reply->watermark);
    if (!check_watermark(oracle, op, reply->watermark, reply->stale != 0))
        return;
    oracle->totals.reads++;
    struct oracle_read read = {
        .op = *op, .more = reply->more, .found = count, .watermark = reply->watermark};
    read.first = first;
    if (op->tag == TAG_get_req) {
        check_get(oracle, op, count, &event);
    } else {
        if (reply->more && reply->next != (op->reverse ? at - 1 : at + 1))
            oracle_fail(oracle, "slices", "node %u: a chunk ends at %lu and says to go on at %lu",
                        op->node, at, reply->next);
        cover(oracle, op, first, count);
    }
    keep(oracle, &read);
}

static void check_get(struct oracle *oracle, const struct oracle_op *op, uint64_t count,
                      const struct rec_stored_event *event)
{
    const struct uuid *id = &oracle->model.txs[op->tx]->events[op->event].id;
    if (count > 1 || (count == 1 && !uuid_equal(&event->event_id, id)))
        oracle_fail(oracle, "slices", "node %u: %lu other events than tx %u event %u are found",
                    op->node, count, op->tx, op->event);
}

void oracle_read_number(struct oracle *oracle, const struct oracle_op *op,
                        const struct msg_number_reply *reply)
{
    if (!check_watermark(oracle, op, reply->watermark, reply->stale != 0))
        return;
    oracle->totals.reads++;
    keep(oracle, &(struct oracle_read){.op = *op,
                                       .more = reply->present,
                                       .first = reply->value,
                                       .watermark = reply->watermark});
}

void oracle_read_failed(struct oracle *oracle, const struct oracle_op *op,
                        const struct msg_fail_reply *reply)
{
    enum err err = (enum err)reply->error;
    const struct cl_node *node = &oracle->cluster->nodes[op->node];
    bool damage = oracle->nodes[op->node].was_damaged || node->node.read_errors_seen;
    bool allowed = err == ERR_BUSY || err == ERR_NOT_READY || err == ERR_NO_QUORUM ||
                   (err == ERR_NOT_LEADER && op->mode == READ_STRONG) ||
                   ((err == ERR_READ || err == ERR_CORRUPT || err == ERR_IO) && damage);
    if (is_alone(oracle) && !damage)
        allowed = err == ERR_BUSY;
    oracle->model.refusals++;
    if (!allowed)
        oracle_fail(oracle, "refusals", "node %u refuses a %s: %s %.*s", op->node,
                    msg_name(op->tag), err_name(err), (int)min_u64(reply->text.len, 200),
                    (const char *)reply->text.ptr);
    if (op->tag == TAG_follow_req)
        oracle->links[op->client][op->node].follows[op->partition].state = OFOLLOW_NOT;
}

/* --- watermarks --- */

static bool check_watermark(struct oracle *oracle, const struct oracle_op *op, uint64_t watermark,
                            bool stale)
{
    const struct oracle_node *node = &oracle->nodes[op->node];
    if (watermark > node->marks[op->partition])
        inside_fail(oracle, "watermark",
                    "node %u answers with the watermark %lu of p%u and has "
                    "committed %lu events",
                    op->node, watermark, op->partition, node->marks[op->partition]);
    if (watermark < op->need)
        oracle_fail(oracle, "sessions",
                    "node %u answers with the watermark %lu of p%u, its session "
                    "has seen %lu",
                    op->node, watermark, op->partition, op->need);
    if (op->watermark != UINT64_MAX && watermark > op->watermark)
        oracle_fail(oracle, "watermark",
                    "node %u answers with the watermark %lu of p%u, %lu was "
                    "asked for",
                    op->node, watermark, op->partition, op->watermark);
    if (op->mode == READ_STRONG && op->watermark == UINT64_MAX && watermark < op->low)
        oracle_fail(oracle, "strong reads",
                    "node %u answers with the watermark %lu of p%u, %lu "
                    "events were committed before it was asked",
                    op->node, watermark, op->partition, op->low);
    oracle->totals.stale_reads += stale;
    if (stale && (is_alone(oracle) || op->mode == READ_STRONG))
        oracle_fail(oracle, "stale", "node %u flags an answer as stale that can't be", op->node);
    if (!stale && op->watermark == UINT64_MAX)
        check_fresh(oracle, op, watermark);
    struct partition_log *log = &oracle->model.partitions[op->partition];
    log->watermark = max_u64(log->watermark, watermark);
    return !oracle_failed(oracle);
}

/* An answer that isn't flagged is no older than two election timeouts before the request came: a
 * leader that nobody hears any more steps down within one, and a replica that hears no leader
 * doesn't answer for longer than another. */
static void check_fresh(struct oracle *oracle, const struct oracle_op *op, uint64_t watermark)
{
    const struct cl_swarm *swarm = &oracle->cluster->swarm;
    const struct oracle_partition *p = &oracle->partitions[op->partition];
    uint64_t bound = 2 * swarm->config.election_timeout_ns;
    bound += bound / 1000000 * 2 * swarm->drift_ppm_max + 2 * swarm->config.tick_ns;
    uint64_t then = op->arrived_ns;
    if (is_alone(oracle) || then < bound)
        return;
    then -= bound;
    uint64_t low = 0, high = p->mark_count; /* marks[0..low) are not later than then */
    while (low < high) {
        uint64_t middle = (low + high) / 2;
        if (p->marks[middle].time_ns <= then)
            low = middle + 1;
        else
            high = middle;
    }
    if (low > 0 && watermark < p->marks[low - 1].count)
        oracle_fail(oracle, "fresh",
                    "node %u answers with the watermark %lu of p%u and doesn't call it stale; %lu "
                    "events were committed %lu ms before it was asked (%lu ms ago)",
                    op->node, watermark, op->partition, p->marks[low - 1].count,
                    (op->arrived_ns - p->marks[low - 1].time_ns) / MS,
                    (oracle_now(oracle) - p->marks[low - 1].time_ns) / MS);
}

/* --- slices --- */

/* The scans of the end show each replica's whole log. */
static void cover(struct oracle *oracle, const struct oracle_op *op, uint64_t first, uint64_t count)
{
    uint64_t *covered = &oracle->nodes[op->node].covered[op->partition];
    if (oracle->cluster->phase == CL_END && op->tag == TAG_scan_partition_req && !op->reverse &&
        count > 0 && first <= *covered)
        *covered = max_u64(*covered, first + count);
}

static void keep(struct oracle *oracle, const struct oracle_read *read)
{
    if (oracle->model.partitions[read->op.partition].known >= read->watermark) {
        judge(oracle, read);
        return;
    }
    uint64_t cap = oracle->read_cap;
    oracle->reads = oracle_grow(oracle->reads, &cap, oracle->read_count, sizeof *oracle->reads);
    oracle->read_cap = (uint32_t)cap;
    oracle->reads[oracle->read_count++] = *read;
}

/* Exact: the slice of what lies below the watermark, and whether there is more of it. */
static void judge(struct oracle *oracle, const struct oracle_read *read)
{
    const struct oracle_op *op = &read->op;
    const struct model *model = &oracle->model;
    bool stream = op->tag == TAG_scan_stream_req || op->tag == TAG_version_req;
    const struct partition_log *log = &model->partitions[op->partition];
    uint64_t there =
        stream ? model_stream_count(model, op->stream, read->watermark) : read->watermark;
    if (read->watermark > 0 && read->watermark < log->known &&
        log->slots[read->watermark].event != 0)
        oracle_fail(oracle, "whole transactions",
                    "node %u: the watermark %lu of p%u lies within "
                    "tx %u",
                    op->node, read->watermark, op->partition, log->slots[read->watermark].tx);
    if (op->tag == TAG_get_req) {
        judge_get(oracle, read);
        return;
    }
    if (op->tag == TAG_version_req || op->tag == TAG_sequence_req) {
        judge_number(oracle, read, there);
        return;
    }
    uint64_t first = op->from, last = op->to;
    bool any = there > 0;
    if (op->reverse) {
        first = any ? min_u64(op->from, there - 1) : 0;
        any = any && first >= op->to;
    } else {
        last = any ? min_u64(op->to, there - 1) : 0;
        any = any && op->from <= last;
    }
    uint64_t end = op->reverse ? read->first - read->found + 1 : read->first + read->found - 1;
    /* In front of damage a chunk may end anywhere, and say that more follows. */
    if (read->more && oracle->nodes[op->node].was_damaged)
        return;
    bool right = any ? read->found > 0 && read->first == first &&
                           (op->reverse ? end >= last : end <= last) && read->more == (end != last)
                     : read->found == 0 && !read->more;
    if (!right)
        oracle_fail(oracle, "slices",
                    "node %u, p%u %s: scan %lu..%lu of %lu below %lu answers %lu "
                    "from %lu, more=%d",
                    op->node, op->partition, stream ? model->streams[op->stream].name : "",
                    op->from, op->to, there, read->watermark, read->found, read->first, read->more);
}

static void judge_number(struct oracle *oracle, const struct oracle_read *read, uint64_t there)
{
    if (read->more != (there > 0) || (there > 0 && read->first != there - 1))
        oracle_fail(oracle, "slices",
                    "node %u, p%u: %lu events below %lu, but the last is said to "
                    "be %lu%s",
                    read->op.node, read->op.partition, there, read->watermark, read->first,
                    read->more ? "" : " (none)");
}

static void judge_get(struct oracle *oracle, const struct oracle_read *read)
{
    const struct tx *tx = oracle->model.txs[read->op.tx];
    bool there = tx->placed && tx->first_seq + read->op.event < read->watermark;
    if (there != (read->found > 0))
        oracle_fail(oracle, "slices",
                    "node %u: tx %u event %u is %s below the watermark %lu, and %s", read->op.node,
                    tx->index, read->op.event, there ? "stored" : "not stored", read->watermark,
                    there ? "isn't found" : "is found");
}

void oracle_read_at_rest(struct oracle *oracle)
{
    const struct bucket_config *config = &oracle->cluster->swarm.config;
    for (uint32_t i = 0; i < oracle->read_count && !oracle_failed(oracle); i++)
        judge(oracle, &oracle->reads[i]);
    oracle->read_count = 0;
    for (uint32_t i = 0; i < config->replica_count; i++) {
        const struct oracle_node *node = &oracle->nodes[config->replicas[i]];
        for (uint32_t p = 0; p < oracle->partition_count; p++) {
            if (node->covered[p] != oracle->partitions[p].committed)
                oracle_fail(oracle, "equal logs",
                            "at the end node %u shows %lu events of p%u, "
                            "committed are %lu",
                            config->replicas[i], node->covered[p], p,
                            oracle->partitions[p].committed);
        }
    }
}

/* --- followers --- */

void oracle_follow_answered(struct oracle *oracle, const struct oracle_op *op,
                            const struct msg_follow_reply *reply)
{
    struct oracle_follow *follow = &oracle->links[op->client][op->node].follows[op->partition];
    if (reply->partition != op->partition ||
        reply->watermark > oracle->nodes[op->node].marks[op->partition])
        inside_fail(oracle, "followers", "node %u: p%u is followed from %lu, committed are %lu",
                    op->node, op->partition, reply->watermark,
                    oracle->nodes[op->node].marks[op->partition]);
    if (follow->state != OFOLLOW_ASKED)
        return;
    follow->state = OFOLLOW_ON;
    follow->next = reply->watermark;
}

void oracle_on_tail(struct oracle *oracle, uint32_t client, uint32_t node,
                    const struct msg_tail *tail)
{
    struct oracle_follow *follow = tail->partition < oracle->partition_count
                                       ? &oracle->links[client][node].follows[tail->partition]
                                       : NULL;
    oracle->totals.tails++;
    bool on = follow != NULL &&
              (follow->state == OFOLLOW_ON || follow->ended == oracle->nodes[node].turns);
    if (!on || tail->first != follow->next) {
        oracle_fail(oracle, "followers", "node %u sends client %u the tail of p%lu from %lu, %s",
                    node, client, tail->partition, tail->first,
                    on ? "another one is next" : "which it doesn't follow");
        return;
    }
    struct rec_stored_event event;
    struct span list = tail->events;
    uint64_t count = 0;
    while (rec_next_stored_event(&list, &event) == ERR_OK && !oracle_failed(oracle)) {
        if (event.sequence != tail->first + count || event.partition != tail->partition)
            oracle_fail(oracle, "followers",
                        "node %u: event %lu of the tail of p%lu from %lu has "
                        "sequence %lu",
                        node, count, tail->partition, tail->first, event.sequence);
        oracle_see_event(oracle, node, &event);
        count++;
    }
    if (!oracle_failed(oracle) && (list.len != 0 || count != tail->count))
        oracle_fail(oracle, "followers", "node %u: a tail of %lu events says %lu", node, count,
                    tail->count);
    follow->next += count;
    struct partition_log *log = &oracle->model.partitions[tail->partition];
    log->watermark = max_u64(log->watermark, follow->next);
}
