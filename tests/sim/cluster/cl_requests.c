/* Requests made up by simulated clients, and their messages. */
#include "tests/sim/cluster/cl_client_internal.h"

#include "common/assert.h"

static void fill_event(struct cl_client *client, struct tx *tx, uint32_t i, uint32_t stream);
static void draw_expectation(struct cl_client *client, const struct tx *tx, uint32_t i);
static uint32_t add_bytes(struct cl_client *client, struct tx *tx, uint32_t len);
static struct tx *copy_with_other_content(struct cl_client *client, const struct tx *original);
static struct tx *draw_acked(struct cl_client *client);
static bool in_queue(const struct cl_client *client, uint32_t tx);
static void invent_scan(struct cl_client *client, struct cl_request *request);

/* --- appends --- */

void request_invent_append(struct cl_client *client)
{
    const struct cl_workload *workload = client->workload;
    struct prng *prng = &client->prng;
    uint32_t session = (uint32_t)prng_below(prng, workload->sessions);
    struct tx *tx = draw_acked(client);
    if (tx != NULL && prng_chance(prng, workload->repeat_chance)) {
        /* A client repeats what was acknowledged long ago, to another client perhaps. */
        if (!in_queue(client, tx->index))
            channel_add(client, tx->index, APPEND_GIVEN_ID, session);
        return;
    }
    uint64_t flags = APPEND_GIVEN_ID;
    if (tx != NULL && prng_chance(prng, workload->copy_chance)) {
        tx = copy_with_other_content(client, tx);
    } else {
        tx = request_invent_tx(client);
        flags = prng_chance(prng, workload->given_chance) ? APPEND_GIVEN_ID : 0;
    }
    channel_add(client, tx->index, flags, session);
}

static struct tx *draw_acked(struct cl_client *client)
{
    struct model *model = client->model;
    if (model->tx_count == 0)
        return NULL;
    struct tx *tx = model->txs[prng_below(&client->prng, model->tx_count)];
    return tx->acked && tx->copy_of == NO_TX ? tx : NULL;
}

static bool in_queue(const struct cl_client *client, uint32_t tx)
{
    for (uint32_t i = 0; i < client->channel.count; i++) {
        if (client->channel.queue[i].tx == tx)
            return true;
    }
    return false;
}

struct tx *request_invent_tx(struct cl_client *client)
{
    struct model *model = client->model;
    const struct cl_workload *workload = client->workload;
    const struct bucket_config *config = &client->cluster->swarm.config;
    struct prng *prng = &client->prng;
    uint32_t stream = (uint32_t)prng_below(prng, model->stream_count);
    uint32_t count = 1;
    if (prng_chance(prng, workload->multi_chance))
        count = (uint32_t)prng_range(prng, 1, workload->tx_events_max);
    struct tx *tx = model_add_tx(model, stream, count);
    prng_fill(prng, tx->id.bytes, sizeof tx->id.bytes);
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++) {
        /* Any stream under the same key. */
        uint32_t other = (uint32_t)prng_below(prng, model->stream_count);
        bool same_key = model->streams[other].partition == tx->partition &&
                        uuid_equal(&model->streams[other].key, &tx->key);
        fill_event(client, tx, i, same_key ? other : stream);
        bytes += tx->events[i].payload_len + tx->events[i].metadata_len + tx->events[i].name_len +
                 model->streams[tx->events[i].stream].name_len;
    }
    if (bytes > config->transaction_bytes_max)
        tx->invalid = true;
    if (prng_chance(prng, workload->invalid_chance)) {
        struct tx_event *event = &tx->events[prng_below(prng, count)];
        tx->invalid = true;
        if (prng_chance(prng, 500000))
            event->timestamp_ms = UINT64_MAX / 1000;
        else
            event->id.bytes[8] ^= 0x20; /* the hash of another key */
    }
    return tx;
}

static void fill_event(struct cl_client *client, struct tx *tx, uint32_t i, uint32_t stream)
{
    const struct cl_workload *workload = client->workload;
    const struct bucket_config *config = &client->cluster->swarm.config;
    struct prng *prng = &client->prng;
    struct tx_event *event = &tx->events[i];
    uint8_t head[8];
    uint64_t now_ms = 1700000000000 + client_now(client) / MS;
    prng_fill(prng, head, sizeof head);
    if (!prng_chance(prng, 100000)) {
        for (unsigned k = 0; k < 6; k++)
            head[k] = (uint8_t)(now_ms >> (40 - 8 * k));
        head[6] = (uint8_t)(0x70 | (head[6] & 0xf));
    }
    event->id = model_event_id(tx, i, head);
    event->stream = stream;
    event->timestamp_ms = prng_chance(prng, 50000) ? prng_below(prng, UINT64_MAX / MS) : now_ms;
    draw_expectation(client, tx, i);
    event->name_len = (uint32_t)prng_below(prng, prng_chance(prng, 50000) ? 256 : 12);
    event->name_at = add_bytes(client, tx, event->name_len);
    event->metadata_len = prng_chance(prng, 300000) ? (uint32_t)prng_below(prng, 100) : 0;
    event->metadata_at = add_bytes(client, tx, event->metadata_len);
    bool big = prng_chance(prng, workload->big_chance);
    event->payload_len = (uint32_t)prng_below(prng, big ? workload->payload_max + 1 : 80);
    if (prng_chance(prng, workload->invalid_chance))
        event->payload_len = (uint32_t)config->event_bytes_max + 1;
    event->payload_at = add_bytes(client, tx, event->payload_len);
    if (event->metadata_len + event->payload_len > config->event_bytes_max)
        tx->invalid = true;
}

/* Exact versions by what is known of the stream; where others write to it too that is soon wrong.
 */
static void draw_expectation(struct cl_client *client, const struct tx *tx, uint32_t i)
{
    const struct cl_workload *workload = client->workload;
    struct prng *prng = &client->prng;
    struct tx_event *event = &tx->events[i];
    uint64_t before = model_stream_known(client->model, event->stream);
    for (uint32_t k = 0; k < i; k++)
        before += tx->events[k].stream == event->stream;
    /* A pipeline counts on what it has sent before. */
    for (uint32_t k = 0; k < client->channel.count && prng_chance(prng, 800000); k++) {
        const struct tx *other = client->model->txs[client->channel.queue[k].tx];
        for (uint32_t j = 0; j < other->count && !other->placed && !other->invalid; j++)
            before += other->events[j].stream == event->stream;
    }
    if (!prng_chance(prng, workload->exact_chance)) {
        event->expect = prng_chance(prng, 900000) ? EXPECT_ANY : EXPECT_EXISTS;
    } else if (prng_chance(prng, workload->wrong_chance)) {
        event->expect = prng_chance(prng, 500000) ? EXPECT_EMPTY : EXPECT_VERSION;
        event->expect_version = prng_chance(prng, 500000) ? before : prng_next(prng);
    } else {
        event->expect = before == 0 ? EXPECT_EMPTY : EXPECT_VERSION;
        event->expect_version = before == 0 ? 0 : before - 1;
    }
}

/* Half of it compresses. */
static uint32_t add_bytes(struct cl_client *client, struct tx *tx, uint32_t len)
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

/* One event's id is taken from the original, the content isn't. */
static struct tx *copy_with_other_content(struct cl_client *client, const struct tx *original)
{
    struct model *model = client->model;
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

bool request_invent_read(struct cl_client *client, struct cl_request *ret_request)
{
    const struct cl_workload *workload = client->workload;
    struct model *model = client->model;
    struct prng *prng = &client->prng;
    struct cl_request *request = ret_request;
    *request =
        (struct cl_request){.tx = NO_TX, .watermark = UINT64_MAX, .count = 1, .bytes = UINT64_MAX};
    request->stream = (uint32_t)prng_below(prng, model->stream_count);
    request->partition = model->streams[request->stream].partition;
    uint64_t all = workload->get_weight + workload->scan_weight + workload->number_weight;
    uint64_t draw = all == 0 ? 0 : prng_below(prng, all);
    if (draw < workload->get_weight) {
        if (model->tx_count == 0)
            return false;
        request->tag = TAG_get_req;
        request->tx = (uint32_t)prng_below(prng, model->tx_count);
        const struct tx *tx = model->txs[request->tx];
        if (tx->invalid || tx->copy_of != NO_TX)
            return false;
        request->partition = tx->partition;
        request->event = (uint32_t)prng_below(prng, tx->count);
    } else if (draw < workload->get_weight + workload->scan_weight) {
        invent_scan(client, request);
    } else {
        request->tag = prng_chance(prng, 500000) ? TAG_version_req : TAG_sequence_req;
    }
    request->strong = prng_chance(prng, workload->strong_chance);
    request->session = (uint32_t)prng_below(prng, workload->sessions);
    if (prng_chance(prng, workload->new_session_chance))
        request->session = CL_NO_SESSION;
    return true;
}

static void invent_scan(struct cl_client *client, struct cl_request *request)
{
    struct prng *prng = &client->prng;
    struct model *model = client->model;
    bool partition = prng_chance(prng, 500000);
    uint64_t there = partition ? model->partitions[request->partition].watermark
                               : model_stream_known(model, request->stream);
    request->tag = partition ? TAG_scan_partition_req : TAG_scan_stream_req;
    request->reverse = prng_chance(prng, 500000);
    uint64_t low = prng_chance(prng, 300000) ? 0 : prng_below(prng, there + 2);
    uint64_t high = prng_chance(prng, 400000) ? UINT64_MAX : low + prng_below(prng, there + 2);
    if (prng_chance(prng, 30000))
        high = low > 0 ? low - 1 : 0; /* an empty range */
    request->from = request->reverse ? high : low;
    request->to = request->reverse ? low : high;
    request->count = prng_chance(prng, 300000) ? 200 : prng_range(prng, 1, 20);
    request->bytes = prng_chance(prng, 300000) ? 256u << 10 : prng_range(prng, 1, 4000);
}

/* --- messages --- */

void request_pack(const struct cl_client *client, const struct cl_request *request, struct buf *out)
{
    const struct model_stream *stream = &client->model->streams[request->stream];
    struct span name = span_of(stream->name, stream->name_len);
    uint64_t mode = request->strong ? READ_STRONG : READ_DEFAULT;
    struct msg msg = {.tag = request->tag};
#define COMMON .req_id = request->id, .partition = request->partition
#define RANGE                                                                                      \
    .from = request->from, .to = request->to, .reverse = request->reverse,                         \
    .count = request->count, .bytes = request->bytes, .watermark = request->watermark
#define DEMAND .need = request->need, .mode = mode
    switch ((int)request->tag) {
    case TAG_get_req:
        msg.u.get_req = (struct msg_get_req){
            COMMON, .event_id = client->model->txs[request->tx]->events[request->event].id, DEMAND};
        break;
    case TAG_scan_partition_req:
        msg.u.scan_partition_req = (struct msg_scan_partition_req){COMMON, RANGE, DEMAND};
        break;
    case TAG_scan_stream_req:
        msg.u.scan_stream_req = (struct msg_scan_stream_req){
            COMMON, RANGE, DEMAND, .partition_key = stream->key, .stream = name};
        break;
    case TAG_version_req:
        msg.u.version_req =
            (struct msg_version_req){COMMON, DEMAND, .partition_key = stream->key, .stream = name};
        break;
    case TAG_sequence_req:
        msg.u.sequence_req = (struct msg_sequence_req){COMMON, DEMAND};
        break;
    case TAG_follow_req:
        msg.u.follow_req = (struct msg_follow_req){COMMON};
        break;
    default:
        ASSERT(false);
    }
#undef COMMON
#undef RANGE
#undef DEMAND
    msg_pack(out, &msg);
}

void request_pack_append(const struct cl_client *client, const struct cl_append *append,
                         uint64_t epoch, uint64_t number, struct buf *out)
{
    const struct model *model = client->model;
    const struct tx *tx = model->txs[append->tx];
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
    msg_pack_append_req(out, &(struct msg_append_req){
                                 .req_id = append->sent_id,
                                 .flags = append->flags | (append->tries > 0 ? APPEND_RETRY : 0),
                                 .partition = tx->partition,
                                 .partition_key = tx->key,
                                 .transaction_id = tx->id,
                                 .count = tx->count,
                                 .events = buf_span(&events),
                                 .origin = (uint64_t)client->index + 1,
                                 .epoch = epoch,
                                 .number = number});
    buf_release(&events);
}
