/* Inventing requests: transactions with every kind of expectation, repeats, copies with other
 * content, oversized ones; reads of every kind. */
#include "tests/sim/requests.h"

#include <stdio.h>

#include "common/assert.h"
#include "tests/sim/world.h"

static bool invent_append(struct client *client, struct request *request);
static struct tx *invent_tx(struct client *client);
static void fill_event(struct client *client, struct tx *tx, uint32_t i, uint32_t stream);
static uint32_t add_bytes(struct client *client, struct tx *tx, uint32_t len);
static struct tx *copy_with_other_content(struct client *client, const struct tx *original);
static void invent_scan(struct client *client, struct request *request);
static bool invent_follow(struct client *client, struct request *request);
static void pack_append(struct client *client, const struct request *request, struct buf *out);

bool request_invent(struct client *client, struct request *ret_request)
{
    const struct swarm *swarm = &client->world->swarm;
    struct model *model = &client->world->model;
    *ret_request =
        (struct request){.tx = NO_TX, .watermark = UINT64_MAX, .count = 1, .bytes = UINT64_MAX};
    struct request *request = ret_request;
    request->stream = (uint32_t)prng_below(&client->prng, model->stream_count);
    request->partition = model->streams[request->stream].partition;
    bool finishing = client->world->finishing;
    uint64_t weights[] = {finishing ? 0 : swarm->append_weight, swarm->get_weight + 20 * finishing,
                          swarm->scan_weight + finishing, swarm->number_weight + finishing,
                          finishing ? 0 : swarm->follow_weight};
    uint64_t sum = 0, kind = 0;
    for (unsigned i = 0; i < 5; i++)
        sum += weights[i];
    uint64_t draw = prng_below(&client->prng, sum);
    while (draw >= weights[kind])
        draw -= weights[kind++];
    switch (kind) {
    case 0:
        return invent_append(client, request);
    case 1:
        if (model->tx_count == 0)
            return false;
        request->tag = TAG_get_req;
        request->tx = (uint32_t)prng_below(&client->prng, model->tx_count);
        if (model->txs[request->tx]->invalid || model->txs[request->tx]->copy_of != NO_TX)
            return false;
        request->partition = model->txs[request->tx]->partition;
        request->read_event = (uint32_t)prng_below(&client->prng, model->txs[request->tx]->count);
        return true;
    case 2:
        invent_scan(client, request);
        return true;
    case 3:
        request->tag = prng_chance(&client->prng, 700000) ? TAG_version_req : TAG_sequence_req;
        return true;
    default:
        return invent_follow(client, request);
    }
}

/* --- appends --- */

static bool invent_append(struct client *client, struct request *request)
{
    struct world *world = client->world;
    struct model *model = &world->model;
    const struct swarm *swarm = &world->swarm;
    if (model->tx_count >= swarm->tx_budget)
        return false;
    request->tag = TAG_append_req;
    struct tx *tx = NULL;
    if (model->tx_count > 0) {
        struct tx *old = model->txs[prng_below(&client->prng, model->tx_count)];
        if (old->acked && old->copy_of == NO_TX &&
            prng_chance(&client->prng, swarm->repeat_chance)) {
            /* A client repeats what was acknowledged long ago. */
            request->flags = APPEND_GIVEN_ID;
            tx = old;
        } else if (old->acked && old->copy_of == NO_TX &&
                   prng_chance(&client->prng, swarm->copy_chance)) {
            request->flags = APPEND_GIVEN_ID;
            tx = copy_with_other_content(client, old);
        }
    }
    if (tx == NULL) {
        tx = invent_tx(client);
        request->flags = prng_chance(&client->prng, swarm->given_chance) ? APPEND_GIVEN_ID : 0;
    }
    request->tx = tx->index;
    request->partition = tx->partition;
    return true;
}

static struct tx *invent_tx(struct client *client)
{
    struct world *world = client->world;
    struct model *model = &world->model;
    const struct swarm *swarm = &world->swarm;
    uint32_t stream = (uint32_t)prng_below(&client->prng, model->stream_count);
    uint32_t count = 1;
    if (prng_chance(&client->prng, swarm->multi_chance))
        count = (uint32_t)prng_range(&client->prng, 1, swarm->tx_events_max);
    struct tx *tx = model_add_tx(model, stream, count);
    prng_fill(&client->prng, tx->id.bytes, sizeof tx->id.bytes);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        /* Any stream under the same key. */
        uint32_t other = (uint32_t)prng_below(&client->prng, model->stream_count);
        bool same_key = model->streams[other].partition == tx->partition &&
                        uuid_equal(&model->streams[other].key, &tx->key);
        fill_event(client, tx, i, same_key ? other : stream);
        bytes += tx->events[i].payload_len + tx->events[i].metadata_len + tx->events[i].name_len +
                 model->streams[tx->events[i].stream].name_len;
    }
    if (bytes > swarm->config.transaction_bytes_max)
        tx->invalid = true;
    if (prng_chance(&client->prng, swarm->invalid_chance)) {
        struct tx_event *event = &tx->events[prng_below(&client->prng, count)];
        tx->invalid = true;
        if (prng_chance(&client->prng, 500000))
            event->timestamp_ms = UINT64_MAX / 1000;
        else
            event->id.bytes[8] ^= 0x20; /* the hash of another key */
    }
    return tx;
}

static void fill_event(struct client *client, struct tx *tx, uint32_t i, uint32_t stream)
{
    struct world *world = client->world;
    const struct swarm *swarm = &world->swarm;
    struct prng *prng = &client->prng;
    struct tx_event *event = &tx->events[i];
    uint8_t head[8];
    uint64_t now_ms = 1700000000000 + world->sched.now_ns / MS;
    prng_fill(prng, head, sizeof head);
    if (!prng_chance(prng, 100000)) {
        for (unsigned k = 0; k < 6; k++)
            head[k] = (uint8_t)(now_ms >> (40 - 8 * k));
        head[6] = (uint8_t)(0x70 | (head[6] & 0xf));
    }
    event->id = model_event_id(tx, i, head);
    event->stream = stream;
    event->timestamp_ms = prng_chance(prng, 50000) ? prng_below(prng, UINT64_MAX / MS) : now_ms;
    uint64_t before = model_stream_known(&world->model, stream);
    for (uint32_t k = 0; k < i; k++)
        before += tx->events[k].stream == stream;
    if (!prng_chance(prng, swarm->exact_chance)) {
        event->expect = prng_chance(prng, 900000) ? EXPECT_ANY : EXPECT_EXISTS;
    } else if (prng_chance(prng, swarm->wrong_chance)) {
        event->expect = prng_chance(prng, 500000) ? EXPECT_EMPTY : EXPECT_VERSION;
        event->expect_version = prng_chance(prng, 500000) ? before : prng_next(prng);
    } else {
        event->expect = before == 0 ? EXPECT_EMPTY : EXPECT_VERSION;
        event->expect_version = before == 0 ? 0 : before - 1;
    }
    event->name_len = (uint32_t)prng_below(prng, prng_chance(prng, 50000) ? 256 : 12);
    event->name_at = add_bytes(client, tx, event->name_len);
    event->metadata_len = prng_chance(prng, 300000) ? (uint32_t)prng_below(prng, 100) : 0;
    event->metadata_at = add_bytes(client, tx, event->metadata_len);
    bool big = prng_chance(prng, swarm->big_chance);
    event->payload_len = (uint32_t)prng_below(prng, big ? swarm->payload_max + 1 : 120);
    if (prng_chance(prng, swarm->invalid_chance))
        event->payload_len = (uint32_t)swarm->config.event_bytes_max + 1;
    event->payload_at = add_bytes(client, tx, event->payload_len);
    if (event->metadata_len + event->payload_len > swarm->config.event_bytes_max)
        tx->invalid = true;
}

/* Half of it compresses. */
static uint32_t add_bytes(struct client *client, struct tx *tx, uint32_t len)
{
    uint32_t at = (uint32_t)tx->bytes.len;
    if (len == 0)
        return at;
    uint8_t *place = buf_extend(&tx->bytes, len);
    if (prng_chance(&client->prng, 500000)) {
        prng_fill(&client->prng, place, len);
    } else {
        uint8_t first = (uint8_t)prng_next(&client->prng);
        for (uint32_t i = 0; i < len; i++)
            place[i] = (uint8_t)(first + i % 7);
    }
    return at;
}

/* The first event's id is taken from the original, the content isn't. */
static struct tx *copy_with_other_content(struct client *client, const struct tx *original)
{
    struct model *model = &client->world->model;
    uint32_t stream = original->events[0].stream, index = original->index;
    uint32_t count = (uint32_t)prng_range(&client->prng, 1, 3);
    struct tx *tx = model_add_tx(model, stream, count);
    original = model->txs[index];
    prng_fill(&client->prng, tx->id.bytes, sizeof tx->id.bytes);
    tx->copy_of = index;
    for (uint32_t i = 0; i < count; i++) {
        fill_event(client, tx, i, stream);
        tx->events[i].expect = EXPECT_ANY;
    }
    tx->invalid = false;
    for (uint32_t i = 0; i < count; i++)
        tx->events[i].payload_len = tx->events[i].payload_len > 50 ? 50 : tx->events[i].payload_len;
    uint32_t taken = (uint32_t)prng_below(&client->prng, count);
    tx->events[taken].id = original->events[prng_below(&client->prng, original->count)].id;
    tx->events[taken].name_len = 0;
    tx->events[taken].name_at = add_bytes(client, tx, 255);
    tx->events[taken].name_len = 255;
    return tx;
}

/* --- reads --- */

static void invent_scan(struct client *client, struct request *request)
{
    struct prng *prng = &client->prng;
    struct model *model = &client->world->model;
    bool partition = prng_chance(prng, 500000);
    uint64_t there = partition ? model->partitions[request->partition].watermark
                               : model_stream_known(model, request->stream);
    request->tag = partition ? TAG_scan_partition_req : TAG_scan_stream_req;
    request->reverse = prng_chance(prng, 500000);
    uint64_t low = prng_chance(prng, 400000) ? 0 : prng_below(prng, there + 2);
    uint64_t high = prng_chance(prng, 400000) ? UINT64_MAX : low + prng_below(prng, there + 2);
    if (prng_chance(prng, 30000))
        high = low > 0 ? low - 1 : 0; /* an empty range */
    request->from = request->reverse ? high : low;
    request->to = request->reverse ? low : high;
    request->count = prng_chance(prng, 300000) ? UINT64_MAX : prng_range(prng, 1, 30);
    request->bytes = prng_chance(prng, 300000) ? 256u << 10 : prng_range(prng, 1, 4000);
}

static bool invent_follow(struct client *client, struct request *request)
{
    struct follow *follow = &client->follows[request->partition];
    request->tag = follow->wanted ? TAG_unfollow_req : TAG_follow_req;
    follow->wanted = !follow->wanted;
    return true;
}

/* --- messages --- */

void request_send(struct client *client, const struct request *from, struct buf *out)
{
    struct model *model = &client->world->model;
    struct request *request = &client->requests[client->request_count];
    ASSERT(client->request_count < REQUESTS_MAX);
    *request = *from;
    request->id = client->next_request++;
    /* There is no answer to wait for. */
    if (request->tag != TAG_unfollow_req)
        client->request_count++;
    const struct model_stream *stream = &model->streams[request->stream];
    struct span name = span_of(stream->name, stream->name_len);
    struct msg msg = {.tag = request->tag};
    switch ((int)request->tag) {
    case TAG_append_req:
        pack_append(client, request, out);
        return;
    case TAG_get_req:
        msg.u.get_req = (struct msg_get_req){
            .req_id = request->id,
            .event_id = model->txs[request->tx]->events[request->read_event].id,
            .partition = request->partition};
        break;
    case TAG_scan_partition_req:
        msg.u.scan_partition_req = (struct msg_scan_partition_req){.req_id = request->id,
                                                                   .partition = request->partition,
                                                                   .from = request->from,
                                                                   .to = request->to,
                                                                   .reverse = request->reverse,
                                                                   .count = request->count,
                                                                   .bytes = request->bytes,
                                                                   .watermark = request->watermark};
        break;
    case TAG_scan_stream_req:
        msg.u.scan_stream_req = (struct msg_scan_stream_req){.req_id = request->id,
                                                             .partition = request->partition,
                                                             .partition_key = stream->key,
                                                             .stream = name,
                                                             .from = request->from,
                                                             .to = request->to,
                                                             .reverse = request->reverse,
                                                             .count = request->count,
                                                             .bytes = request->bytes,
                                                             .watermark = request->watermark};
        break;
    case TAG_version_req:
        msg.u.version_req = (struct msg_version_req){.req_id = request->id,
                                                     .partition = request->partition,
                                                     .partition_key = stream->key,
                                                     .stream = name};
        break;
    case TAG_sequence_req:
        msg.u.sequence_req =
            (struct msg_sequence_req){.req_id = request->id, .partition = request->partition};
        break;
    case TAG_follow_req:
        msg.u.follow_req =
            (struct msg_follow_req){.req_id = request->id, .partition = request->partition};
        break;
    case TAG_unfollow_req:
        msg.u.unfollow_req = (struct msg_unfollow_req){.partition = request->partition};
        break;
    default:
        ASSERT(false);
    }
    msg_pack(out, &msg);
}

static void pack_append(struct client *client, const struct request *request, struct buf *out)
{
    const struct model *model = &client->world->model;
    const struct tx *tx = model->txs[request->tx];
    struct buf events = {0};
    for (uint32_t i = 0; i < tx->count; i++) {
        const struct tx_event *event = &tx->events[i];
        const struct model_stream *stream = &model->streams[event->stream];
        rec_pack_new_event(&events,
                           &(struct rec_new_event){
                               .event_id = event->id,
                               .expect = event->expect,
                               .expect_version = event->expect_version,
                               .timestamp_ms = event->timestamp_ms,
                               .stream = span_of(stream->name, stream->name_len),
                               .name = tx_bytes(tx, event->name_at, event->name_len),
                               .metadata = tx_bytes(tx, event->metadata_at, event->metadata_len),
                               .payload = tx_bytes(tx, event->payload_at, event->payload_len)});
    }
    msg_pack_append_req(out, &(struct msg_append_req){.req_id = request->id,
                                                      .flags = request->flags,
                                                      .partition = tx->partition,
                                                      .partition_key = tx->key,
                                                      .transaction_id = tx->id,
                                                      .count = tx->count,
                                                      .events = buf_span(&events)});
    buf_release(&events);
}

uint64_t request_answered_by(const struct msg *msg)
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
