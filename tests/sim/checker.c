/* The checker: every answer against the model, at the moment it leaves the bucket; every image
 * of the disk against what was ever shown. */
#include <stdio.h>
#include <stdlib.h>

#include "common/assert.h"
#include "tests/sim/image.h"
#include "tests/sim/requests.h"
#include "tests/sim/world.h"

#define SPOT_CHECK_CHANCE 30000u

static void on_append_reply(struct world *world, struct request *request,
                            const struct msg_append_reply *reply);
static void on_fail_reply(struct world *world, struct request *request,
                          const struct msg_fail_reply *reply);
static void on_append_refused(struct world *world, struct request *request, enum err err,
                              struct span text);
static void on_events_reply(struct world *world, struct request *request,
                            const struct msg_events_reply *reply);
static void on_number_reply(struct world *world, struct request *request,
                            const struct msg_number_reply *reply);
static void on_follow_reply(struct world *world, struct client *client, struct request *request,
                            const struct msg_follow_reply *reply);
static void on_tail(struct world *world, struct client *client, const struct msg_tail *tail);
static bool see_watermark(struct world *world, const struct request *request, uint64_t watermark);
static void note_read(struct world *world, const struct read_check *read);
static void judge_read(struct world *world, const struct read_check *read);
static void judge_reads(struct world *world);

void checker_on_arrival(struct world *world, struct client *client, uint64_t first_request,
                        struct span frame)
{
    struct msg msg;
    for (uint64_t id = first_request; frame.len > 0 && msg_unpack(&frame, &msg) == ERR_OK; id++) {
        if (msg.tag == TAG_unfollow_req)
            client->follows[msg.u.unfollow_req.partition].state = FOLLOW_NOT;
        if (msg.tag == TAG_follow_req)
            client->follows[msg.u.follow_req.partition].state = FOLLOW_ASKED;
        struct request *request = client_find(client, id);
        if (request == NULL)
            continue;
        request->arrived = true;
        request->arrival = ++world->arrivals;
        request->low = world->model.partitions[request->partition].watermark;
        if (request->tx == NO_TX)
            continue;
        struct tx *tx = world->model.txs[request->tx];
        request->tx_was_placed = tx->placed;
        if (request->tag != TAG_append_req)
            continue;
        request->tx_was_acked = tx->acked;
        request->tx_was_tried = tx->first_arrival != 0;
        if (tx->first_arrival == 0)
            tx->first_arrival = request->arrival;
        tx->last_arrival = request->arrival;
        tx->refused = false;
        tx->possible = !tx->invalid && tx->copy_of == NO_TX;
    }
}

void checker_on_frame(struct world *world, struct client *client, struct span frame)
{
    bool acked = false;
    trace_mix(&world->trace, client->link);
    trace_mix_bytes(&world->trace, frame.ptr, frame.len);
    while (frame.len > 0 && !world->trace.failed) {
        struct msg msg;
        if (msg_unpack(&frame, &msg) != ERR_OK) {
            trace_fail(&world->trace, "link %u: a message that can't be unpacked", client->link);
            return;
        }
        if (world->trace.print) {
            struct buf text = {0};
            msg_print(&text, &msg);
            trace_line(&world->trace, "link %u <- %.*s", client->link, (int)min_u64(text.len, 300),
                       (const char *)text.ptr);
            buf_release(&text);
        }
        if (msg.tag == TAG_tail) {
            on_tail(world, client, &msg.u.tail);
            continue;
        }
        struct request *request = client_find(client, request_answered_by(&msg));
        if (request == NULL || !request->arrived || request->answered) {
            trace_fail(&world->trace, "link %u: %s answers no request, or one twice", client->link,
                       msg_name(msg.tag));
            return;
        }
        request->answered = true;
        request->err = ERR_OK;
        if (msg.tag == TAG_fail_reply)
            on_fail_reply(world, request, &msg.u.fail_reply);
        else if (msg.tag == TAG_append_reply && request->tag == TAG_append_req)
            on_append_reply(world, request, &msg.u.append_reply);
        else if (msg.tag == TAG_events_reply)
            on_events_reply(world, request, &msg.u.events_reply);
        else if (msg.tag == TAG_number_reply)
            on_number_reply(world, request, &msg.u.number_reply);
        else if (msg.tag == TAG_follow_reply && request->tag == TAG_follow_req)
            on_follow_reply(world, client, request, &msg.u.follow_reply);
        else
            trace_fail(&world->trace, "%s answers a %s", msg_name(msg.tag), msg_name(request->tag));
        acked = acked || msg.tag == TAG_append_reply;
    }
    if (acked && prng_chance(&world->prng, SPOT_CHECK_CHANCE))
        checker_compare_durable(world);
}

/* --- appends --- */

static void on_append_reply(struct world *world, struct request *request,
                            const struct msg_append_reply *reply)
{
    struct model *model = &world->model;
    struct tx *tx = model->txs[request->tx];
    if (tx->invalid || tx->copy_of != NO_TX)
        trace_fail(&world->trace, "tx %u was accepted and must be refused", tx->index);
    if (reply->count != tx->count)
        trace_fail(&world->trace, "tx %u has %u events, the answer says %lu", tx->index, tx->count,
                   reply->count);
    if (request->tx_was_acked && !reply->duplicate)
        trace_fail(&world->trace, "tx %u was stored before, the answer calls it new", tx->index);
    if (!request->tx_was_tried && reply->duplicate)
        trace_fail(&world->trace, "tx %u was sent once, the answer calls it a duplicate",
                   tx->index);
    if (!reply->duplicate && reply->first_sequence < request->low)
        trace_fail(&world->trace,
                   "tx %u has sequence %lu, but %lu events were there before it came", tx->index,
                   reply->first_sequence, request->low);
    struct span list = reply->events;
    for (uint32_t i = 0; i < tx->count && !world->trace.failed; i++) {
        struct rec_appended_event event;
        if (rec_next_appended_event(&list, &event) != ERR_OK) {
            trace_fail(&world->trace, "tx %u: the answer has %u events", tx->index, i);
            return;
        }
        if (event.timestamp_ms != tx->events[i].timestamp_ms)
            trace_fail(&world->trace, "tx %u event %u: another timestamp is answered", tx->index,
                       i);
        if (tx->events[i].version == NO_VERSION)
            tx->events[i].version = event.version;
        if (tx->events[i].version != event.version)
            trace_fail(&world->trace, "tx %u event %u has version %lu here, %lu elsewhere",
                       tx->index, i, event.version, tx->events[i].version);
    }
    if (world->trace.failed)
        return;
    model_place(model, tx, reply->first_sequence);
    struct partition_log *log = &model->partitions[tx->partition];
    log->watermark = max_u64(log->watermark, reply->first_sequence + tx->count);
    if (!tx->acked) {
        tx->acked = true;
        model->acked_txs++;
        model->acked_events += tx->count;
    }
}

static void on_fail_reply(struct world *world, struct request *request,
                          const struct msg_fail_reply *reply)
{
    enum err err = (enum err)reply->error;
    request->err = err;
    world->model.refusals++;
    if (request->tag == TAG_append_req) {
        on_append_refused(world, request, err, reply->text);
        return;
    }
    bool damage = err == ERR_READ || err == ERR_CORRUPT || err == ERR_IO;
    if (!damage || (!world->model.rot && !world->node.read_errors_seen))
        trace_fail(&world->trace, "%s is refused: %s %.*s", msg_name(request->tag), err_name(err),
                   (int)reply->text.len, (const char *)reply->text.ptr);
}

static void on_append_refused(struct world *world, struct request *request, enum err err,
                              struct span text)
{
    struct tx *tx = world->model.txs[request->tx];
    bool damage = world->model.rot || world->node.read_errors_seen;
    if (err == ERR_READ || err == ERR_CORRUPT || err == ERR_READONLY || err == ERR_IO) {
        if (!damage)
            trace_fail(&world->trace, "tx %u is refused: %s %.*s", tx->index, err_name(err),
                       (int)text.len, (const char *)text.ptr);
        /* Whether an earlier try of it was stored isn't known. */
        tx->possible = tx->possible && request->tx_was_tried;
        return;
    }
    if (tx->placed) {
        trace_fail(&world->trace, "tx %u is stored, and refused: %s %.*s", tx->index, err_name(err),
                   (int)text.len, (const char *)text.ptr);
        return;
    }
    tx->possible = false;
    if (err == ERR_FULL && world->swarm.full)
        return;
    tx->refused = true;
    if (tx->invalid && (err == ERR_INVALID || err == ERR_MAXSIZE))
        return;
    char changed[400];
    if (world->options.plant == PLANT_REFUSAL_CHANGED && err == ERR_WRONGVER &&
        !world->plant_done && text.len < 400) {
        memcpy(changed, text.ptr, text.len);
        changed[strlen("current stream version is ")] ^= 1;
        text.ptr = (const uint8_t *)changed;
        world->plant_done = true;
    }
    if (!tx->invalid && (err == ERR_WRONGVER || err == ERR_INVALID || err == ERR_EXISTS))
        model_claim(&world->model, tx, err, request->arrival, text);
    else
        trace_fail(&world->trace, "tx %u is refused: %s %.*s", tx->index, err_name(err),
                   (int)text.len, (const char *)text.ptr);
}

/* --- reads --- */

static void on_events_reply(struct world *world, struct request *request,
                            const struct msg_events_reply *reply)
{
    struct rec_stored_event event;
    struct span list = reply->events;
    uint64_t count = 0, first = 0, at = 0, newest = 0;
    bool stream = request->tag == TAG_scan_stream_req;
    while (rec_next_stored_event(&list, &event) == ERR_OK) {
        uint8_t changed[1];
        if (world->options.plant == PLANT_ANSWER_CHANGED && !world->plant_done &&
            event.name.len == 1) {
            changed[0] = event.name.ptr[0] ^ 0x10;
            event.name.ptr = changed;
            world->plant_done = true;
        }
        model_see(&world->model, &event);
        uint64_t position = stream ? event.version : event.sequence;
        if (count == 0)
            first = at = position;
        else if (position != (request->reverse ? --at : ++at))
            trace_fail(&world->trace, "a scan jumps to %lu", position);
        newest = max_u64(newest, event.sequence + 1);
        count++;
    }
    if (list.len != 0 || count != reply->count)
        trace_fail(&world->trace, "an answer of %lu events says %lu", count, reply->count);
    if (request->tag == TAG_get_req) {
        if (count == 0 && request->tx_was_placed)
            trace_fail(&world->trace, "tx %u event %u is stored, and not found", request->tx,
                       request->read_event);
        if (count > 0 &&
            !uuid_equal(&event.event_id,
                        &world->model.txs[request->tx]->events[request->read_event].id))
            trace_fail(&world->trace, "another event than tx %u event %u is found", request->tx,
                       request->read_event);
        return;
    }
    /* Where the newest events of a partition are damaged its watermark may be too low, but no
     * answer may pretend that they don't exist. */
    uint64_t watermark = reply->watermark;
    if (world->model.rot && request->watermark == UINT64_MAX)
        watermark = max_u64(watermark, request->low);
    if (!see_watermark(world, request, watermark))
        return;
    if (newest > reply->watermark)
        trace_fail(&world->trace, "event %lu lies behind the watermark %lu", newest - 1,
                   reply->watermark);
    if (count > request->count)
        trace_fail(&world->trace, "a chunk of %lu events, %lu were asked for", count,
                   request->count);
    request->more = reply->more;
    request->next = reply->next;
    request->answer_watermark = reply->watermark;
    if (reply->more && reply->next != (request->reverse ? at - 1 : at + 1))
        trace_fail(&world->trace, "a chunk ends at %lu and says to go on at %lu", at, reply->next);
    note_read(world, &(struct read_check){request->tag, request->partition, request->stream,
                                          request->reverse, reply->more, request->from, request->to,
                                          first, count, watermark});
}

static void on_number_reply(struct world *world, struct request *request,
                            const struct msg_number_reply *reply)
{
    if (request->tag != TAG_version_req && request->tag != TAG_sequence_req) {
        trace_fail(&world->trace, "a number answers a %s", msg_name(request->tag));
        return;
    }
    if (see_watermark(world, request, reply->watermark))
        note_read(world, &(struct read_check){.tag = request->tag,
                                              .partition = request->partition,
                                              .stream = request->stream,
                                              .more = reply->present,
                                              .first = reply->value,
                                              .watermark = reply->watermark});
}

/* A read sees at least what was shown before it came, or the watermark it asked for. */
static bool see_watermark(struct world *world, const struct request *request, uint64_t watermark)
{
    struct partition_log *log = &world->model.partitions[request->partition];
    if (request->watermark != UINT64_MAX && watermark != request->watermark)
        trace_fail(&world->trace, "p%u: watermark %lu was asked for, the answer has %lu",
                   request->partition, request->watermark, watermark);
    else if (request->watermark == UINT64_MAX && watermark < request->low)
        trace_fail(&world->trace, "p%u: the watermark went back from %lu to %lu",
                   request->partition, request->low, watermark);
    log->watermark = max_u64(log->watermark, watermark);
    return !world->trace.failed;
}

static void note_read(struct world *world, const struct read_check *read)
{
    world->totals.reads++;
    if (world->model.partitions[read->partition].known >= read->watermark) {
        judge_read(world, read);
        return;
    }
    if (world->read_count == world->read_cap) {
        world->read_cap = world->read_cap == 0 ? 16 : world->read_cap * 2;
        world->reads = realloc(world->reads, world->read_cap * sizeof *world->reads);
        ASSERT(world->reads != NULL);
    }
    world->reads[world->read_count++] = *read;
}

static void judge_reads(struct world *world)
{
    for (uint32_t i = 0; i < world->read_count && !world->trace.failed; i++) {
        const struct read_check *read = &world->reads[i];
        if (world->model.partitions[read->partition].known >= read->watermark)
            judge_read(world, read);
        else if (!world->model.rot)
            trace_fail(
                &world->trace, "p%u: an answer saw the watermark %lu, there are only %lu events",
                read->partition, read->watermark, world->model.partitions[read->partition].known);
    }
    world->read_count = 0;
}

/* Exact: the slice of what lies below the watermark, and whether there is more of it. */
static void judge_read(struct world *world, const struct read_check *read)
{
    bool stream = read->tag == TAG_scan_stream_req || read->tag == TAG_version_req;
    uint64_t there =
        stream ? model_stream_count(&world->model, read->stream, read->watermark) : read->watermark;
    const char *what = stream ? world->model.streams[read->stream].name : "partition";
    if (read->tag == TAG_version_req || read->tag == TAG_sequence_req) {
        if (read->more != (there > 0) || (there > 0 && read->first != there - 1))
            trace_fail(&world->trace,
                       "p%u %s: %lu events below %lu, but the last is said to be %lu%s",
                       read->partition, what, there, read->watermark, read->first,
                       read->more ? "" : " (none)");
        return;
    }
    uint64_t first = read->from, last = read->to;
    bool any = there > 0;
    if (read->reverse) {
        first = any ? min_u64(read->from, there - 1) : 0;
        any = any && first >= read->to;
    } else {
        last = any ? min_u64(read->to, there - 1) : 0;
        any = any && read->from <= last;
    }
    uint64_t end = read->reverse ? read->first - read->count + 1 : read->first + read->count - 1;
    /* In front of damage a chunk may end anywhere, and say that more follows. */
    if (world->model.rot && read->more)
        return;
    bool right = any ? read->count > 0 && read->first == first &&
                           (read->reverse ? end >= last : end <= last) &&
                           read->more == (end != last)
                     : read->count == 0 && !read->more;
    if (!right)
        trace_fail(&world->trace,
                   "p%u %s: scan %lu..%lu of %lu below %lu answers %lu from %lu, more=%d",
                   read->partition, what, read->from, read->to, there, read->watermark, read->count,
                   read->first, read->more);
}

/* --- live tail --- */

static void on_follow_reply(struct world *world, struct client *client, struct request *request,
                            const struct msg_follow_reply *reply)
{
    struct follow *follow = &client->follows[request->partition];
    if (!see_watermark(world, request, reply->watermark) || follow->state != FOLLOW_ASKED)
        return;
    follow->state = FOLLOW_ON;
    follow->next = reply->watermark;
}

static void on_tail(struct world *world, struct client *client, const struct msg_tail *tail)
{
    struct follow *follow =
        tail->partition < world->model.partition_count ? &client->follows[tail->partition] : NULL;
    if (world->options.plant == PLANT_TAIL_DROPPED && !world->plant_done) {
        world->plant_done = true;
        return;
    }
    world->totals.tails++;
    if (follow == NULL || follow->state != FOLLOW_ON || tail->first != follow->next) {
        trace_fail(&world->trace, "link %u: tail of p%lu from %lu, %s", client->link,
                   tail->partition, tail->first,
                   follow == NULL || follow->state != FOLLOW_ON ? "not followed"
                                                                : "another one is next");
        return;
    }
    struct rec_stored_event event;
    struct span list = tail->events;
    uint64_t count = 0;
    while (rec_next_stored_event(&list, &event) == ERR_OK) {
        if (event.sequence != tail->first + count || event.partition != tail->partition)
            trace_fail(&world->trace, "tail of p%lu from %lu: event %lu has sequence %lu",
                       tail->partition, tail->first, count, event.sequence);
        model_see(&world->model, &event);
        count++;
    }
    if (list.len != 0 || count != tail->count)
        trace_fail(&world->trace, "a tail of %lu events says %lu", count, tail->count);
    follow->next += count;
    struct partition_log *log = &world->model.partitions[tail->partition];
    log->watermark = max_u64(log->watermark, follow->next);
}

void checker_judge(struct world *world)
{
    judge_reads(world);
    if (!world->model.rot)
        model_judge_claims(&world->model);
}

void checker_at_rest(struct world *world)
{
    const struct model *model = &world->model;
    checker_judge(world);
    for (uint32_t p = 0; p < model->partition_count; p++) {
        const struct partition_log *log = &model->partitions[p];
        if (!model->rot && log->known != log->count)
            trace_fail(&world->trace, "p%u: sequence %lu was never shown, %lu was", p, log->known,
                       log->count - 1);
        for (uint32_t i = 0; i < world->swarm.clients; i++) {
            const struct follow *follow = &world->clients[i].follows[p];
            if (follow->state == FOLLOW_ON && follow->next < log->count)
                trace_fail(&world->trace,
                           "p%u: client %u follows, and was told events up to %lu of %lu", p, i,
                           follow->next, log->count);
        }
    }
}
