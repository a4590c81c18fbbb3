/* The model of the store. */
#include "tests/sim/model.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/assert.h"

static void apply_event(struct model *model, struct tx *tx, uint32_t i, uint64_t sequence);

void model_init(struct model *model, struct trace *trace, uint32_t partition_count)
{
    *model = (struct model){.trace = trace, .partition_count = partition_count};
    model->partitions = calloc(partition_count, sizeof *model->partitions);
    ASSERT(model->partitions != NULL);
}

void model_release(struct model *model)
{
    for (uint32_t i = 0; i < model->partition_count; i++)
        free(model->partitions[i].slots);
    free(model->partitions);
    for (uint32_t i = 0; i < MODEL_STREAMS_MAX; i++)
        free(model->slots[i].sequences);
    for (uint32_t i = 0; i < model->tx_count; i++) {
        buf_release(&model->txs[i]->bytes);
        free(model->txs[i]->events);
        free(model->txs[i]);
    }
    free(model->txs);
    free(model->claims);
}

void model_add_stream(struct model *model, uint32_t partition, const struct uuid *key,
                      const char *name)
{
    ASSERT(model->stream_count < MODEL_STREAMS_MAX);
    struct model_stream *stream = &model->streams[model->stream_count];
    *stream =
        (struct model_stream){.partition = partition, .key = *key, .slot = model->stream_count};
    stream->name_len = (uint8_t)strlen(name);
    snprintf(stream->name, sizeof stream->name, "%s", name);
    for (uint32_t i = 0; i < model->stream_count; i++) {
        if (model->streams[i].partition == partition && strcmp(model->streams[i].name, name) == 0) {
            stream->slot = model->streams[i].slot;
            break;
        }
    }
    model->stream_count++;
}

struct tx *model_add_tx(struct model *model, uint32_t stream, uint32_t count)
{
    if (model->tx_count == model->tx_cap) {
        model->tx_cap = model->tx_cap == 0 ? 64 : model->tx_cap * 2;
        model->txs = realloc(model->txs, model->tx_cap * sizeof(struct tx *));
        ASSERT(model->txs != NULL);
    }
    struct tx *tx = calloc(1, sizeof *tx);
    ASSERT(tx != NULL && count > 0 && count <= MODEL_TX_EVENTS_MAX);
    tx->events = calloc(count, sizeof *tx->events);
    ASSERT(tx->events != NULL);
    tx->index = model->tx_count;
    tx->partition = model->streams[stream].partition;
    tx->key = model->streams[stream].key;
    tx->count = count;
    tx->copy_of = NO_TX;
    for (uint32_t i = 0; i < count; i++)
        tx->events[i].version = NO_VERSION;
    model->txs[model->tx_count++] = tx;
    return tx;
}

struct uuid model_event_id(const struct tx *tx, uint32_t event, const uint8_t head[static 8])
{
    struct uuid id;
    memcpy(id.bytes, head, 8);
    uint16_t hash = uuid_hash(&tx->key);
    id.bytes[8] = (uint8_t)(0x80 | hash >> 10);
    id.bytes[9] = (uint8_t)(hash >> 2);
    id.bytes[10] = (uint8_t)((hash & 3u) << 6 | (event & 0x3f));
    store_u32(id.bytes + 12, tx->index);
    id.bytes[11] = 0xe5;
    return id;
}

struct span tx_bytes(const struct tx *tx, uint32_t at, uint32_t len)
{
    return span_of(tx->bytes.ptr == NULL ? (const uint8_t *)"" : tx->bytes.ptr + at, len);
}

/* --- what is stored --- */

bool model_match(struct model *model, const struct rec_stored_event *event, struct tx **ret_tx,
                 uint32_t *ret_event)
{
    uint32_t index = load_u32(event->event_id.bytes + 12);
    uint32_t i = event->event_id.bytes[10] & 0x3f;
    struct tx *tx = index < model->tx_count ? model->txs[index] : NULL;
    if (tx == NULL || i >= tx->count || !uuid_equal(&tx->events[i].id, &event->event_id)) {
        trace_fail(model->trace, "p%lu seq %lu: an event that nobody sent", event->partition,
                   event->sequence);
        return false;
    }
    const struct tx_event *sent = &tx->events[i];
    const struct model_stream *stream = &model->streams[sent->stream];
    const char *wrong = NULL;
    if (event->partition != tx->partition)
        wrong = "partition";
    else if (!uuid_equal(&event->partition_key, &tx->key))
        wrong = "partition key";
    else if (!uuid_equal(&event->transaction_id, &tx->id))
        wrong = "transaction id";
    else if (event->timestamp_ms != sent->timestamp_ms)
        wrong = "timestamp";
    else if (!span_equal(event->stream, span_of(stream->name, stream->name_len)))
        wrong = "stream";
    else if (!span_equal(event->name, tx_bytes(tx, sent->name_at, sent->name_len)))
        wrong = "name";
    else if (!span_equal(event->metadata, tx_bytes(tx, sent->metadata_at, sent->metadata_len)))
        wrong = "metadata";
    else if (!span_equal(event->payload, tx_bytes(tx, sent->payload_at, sent->payload_len)))
        wrong = "payload";
    if (wrong != NULL) {
        trace_fail(model->trace, "tx %u event %u, p%lu seq %lu: its %s isn't what was sent", index,
                   i, event->partition, event->sequence, wrong);
        return false;
    }
    *ret_tx = tx;
    *ret_event = i;
    return true;
}

void model_see(struct model *model, const struct rec_stored_event *event)
{
    struct tx *tx;
    uint32_t i;
    if (!model_match(model, event, &tx, &i))
        return;
    if (event->sequence < i) {
        trace_fail(model->trace, "tx %u event %u has sequence %lu", tx->index, i, event->sequence);
        return;
    }
    if (tx->events[i].version == NO_VERSION)
        tx->events[i].version = event->version;
    if (tx->events[i].version != event->version)
        trace_fail(model->trace, "tx %u event %u has version %lu here, %lu elsewhere", tx->index, i,
                   event->version, tx->events[i].version);
    model_place(model, tx, event->sequence - i);
}

void model_place(struct model *model, struct tx *tx, uint64_t first_seq)
{
    struct partition_log *log = &model->partitions[tx->partition];
    if (tx->placed) {
        if (tx->first_seq != first_seq)
            trace_fail(model->trace, "tx %u is at p%u seq %lu and at %lu", tx->index, tx->partition,
                       tx->first_seq, first_seq);
        return;
    }
    if (!tx->possible) {
        trace_fail(model->trace, "tx %u is stored at p%u seq %lu, but %s", tx->index, tx->partition,
                   first_seq, tx->refused ? "was refused" : "never reached the bucket");
        return;
    }
    uint64_t end = first_seq + tx->count;
    if (end > log->cap) {
        uint64_t cap = log->cap == 0 ? 64 : log->cap;
        while (cap < end)
            cap *= 2;
        ASSERT(cap < 1u << 24);
        log->slots = realloc(log->slots, cap * sizeof *log->slots);
        ASSERT(log->slots != NULL);
        for (uint64_t i = log->cap; i < cap; i++)
            log->slots[i].tx = NO_TX;
        log->cap = cap;
    }
    for (uint32_t i = 0; i < tx->count; i++) {
        struct slot *slot = &log->slots[first_seq + i];
        if (slot->tx != NO_TX) {
            trace_fail(model->trace, "tx %u and tx %u are both at p%u seq %lu", tx->index, slot->tx,
                       tx->partition, first_seq + i);
            return;
        }
        *slot = (struct slot){.tx = tx->index, .event = i};
    }
    tx->placed = true;
    tx->first_seq = first_seq;
    log->count = max_u64(log->count, end);
    model_advance(model, tx->partition);
}

void model_advance(struct model *model, uint32_t partition)
{
    struct partition_log *log = &model->partitions[partition];
    while (log->known < log->count && log->slots[log->known].tx != NO_TX && !model->trace->failed) {
        struct slot slot = log->slots[log->known];
        struct tx *tx = model->txs[slot.tx];
        /* The bucket takes requests one after the other: what arrived wholly later can't come
         * before. */
        if (slot.event == 0) {
            if (tx->last_arrival < log->latest_first_arrival)
                trace_fail(model->trace,
                           "p%u: tx %u at seq %lu comes behind one that arrived later", partition,
                           tx->index, log->known);
            log->latest_first_arrival = max_u64(log->latest_first_arrival, tx->first_arrival);
        }
        apply_event(model, tx, slot.event, log->known);
        log->known++;
    }
}

static void apply_event(struct model *model, struct tx *tx, uint32_t i, uint64_t sequence)
{
    struct tx_event *event = &tx->events[i];
    struct stream_log *stream = &model->slots[model->streams[event->stream].slot];
    uint64_t version = stream->count;
    if (version == 0)
        stream->owner = event->stream;
    else if (!uuid_equal(&model->streams[stream->owner].key, &tx->key))
        trace_fail(model->trace,
                   "tx %u event %u was stored in a stream that belongs to another key", tx->index,
                   i);
    if (event->version == NO_VERSION)
        event->version = version;
    if (event->version != version)
        trace_fail(model->trace, "tx %u event %u, p%u seq %lu: version %lu was told, it is %lu",
                   tx->index, i, tx->partition, sequence, event->version, version);
    bool held = true;
    switch (event->expect) {
    case EXPECT_ANY:
        break;
    case EXPECT_EMPTY:
        held = version == 0;
        break;
    case EXPECT_EXISTS:
        held = version > 0;
        break;
    case EXPECT_VERSION:
        held = version > 0 && version - 1 == event->expect_version;
        break;
    }
    if (!held)
        trace_fail(model->trace, "tx %u event %u was stored as version %lu against its expectation",
                   tx->index, i, version);
    if (stream->count == stream->cap) {
        stream->cap = stream->cap == 0 ? 64 : stream->cap * 2;
        stream->sequences = realloc(stream->sequences, stream->cap * sizeof *stream->sequences);
        ASSERT(stream->sequences != NULL);
    }
    stream->sequences[stream->count++] = sequence;
}

static uint64_t slot_count_below(const struct stream_log *stream, uint64_t watermark)
{
    uint64_t low = 0, high = stream->count;
    while (low < high) {
        uint64_t middle = (low + high) / 2;
        if (stream->sequences[middle] < watermark)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

uint64_t model_stream_count(const struct model *model, uint32_t stream, uint64_t watermark)
{
    const struct stream_log *slot = &model->slots[model->streams[stream].slot];
    if (slot->count == 0 ||
        !uuid_equal(&model->streams[slot->owner].key, &model->streams[stream].key))
        return 0;
    return slot_count_below(slot, watermark);
}

uint64_t model_stream_known(const struct model *model, uint32_t stream)
{
    return model_stream_count(model, stream, UINT64_MAX);
}

/* --- refusals --- */

void model_claim(struct model *model, const struct tx *tx, enum err err, uint64_t arrival,
                 struct span text)
{
    if (model->claim_count == model->claim_cap) {
        model->claim_cap = model->claim_cap == 0 ? 16 : model->claim_cap * 2;
        model->claims = realloc(model->claims, model->claim_cap * sizeof *model->claims);
        ASSERT(model->claims != NULL);
    }
    struct claim *claim = &model->claims[model->claim_count++];
    *claim = (struct claim){.tx = tx->index, .err = err, .arrival = arrival};
    snprintf(claim->text, sizeof claim->text, "%.*s", (int)text.len, (const char *)text.ptr);
}

void model_judge_claims(struct model *model)
{
    for (uint32_t c = 0; c < model->claim_count && !model->trace->failed; c++) {
        const struct claim *claim = &model->claims[c];
        const struct tx *refused = model->txs[claim->tx];
        const struct partition_log *log = &model->partitions[refused->partition];
        /* Behind all that surely arrived earlier, before all that surely arrived later. */
        uint64_t high = log->known;
        while (high > 0 && model->txs[log->slots[high - 1].tx]->first_arrival > claim->arrival)
            high = model->txs[log->slots[high - 1].tx]->first_seq;
        uint64_t k = high;
        bool held = model_claim_holds(model, claim, k);
        while (!held && k > 0 && model->txs[log->slots[k - 1].tx]->last_arrival >= claim->arrival) {
            k = model->txs[log->slots[k - 1].tx]->first_seq;
            held = model_claim_holds(model, claim, k);
        }
        if (!held)
            trace_fail(
                model->trace,
                "tx %u was refused, and nothing between p%u seq %lu and %lu makes it true: %s %s",
                claim->tx, refused->partition, k, high, err_name(claim->err), claim->text);
    }
    model->claim_count = 0;
}

static const char *version_text(char text[static 24], uint64_t version)
{
    if (version == NO_VERSION)
        return "empty";
    snprintf(text, 24, "%" PRIu64, version);
    return text;
}

bool model_claim_holds(const struct model *model, const struct claim *claim, uint64_t k)
{
    const struct tx *tx = model->txs[claim->tx];
    if (claim->err == ERR_EXISTS)
        return tx->copy_of != NO_TX && model->txs[tx->copy_of]->placed &&
               model->txs[tx->copy_of]->first_seq < k;
    char key[UUID_TEXT_LEN + 1] = {0}, owner_key[UUID_TEXT_LEN + 1] = {0}, text[400], a[24], b[24];
    uuid_format(&tx->key, key);
    for (uint32_t i = 0; i < tx->count; i++) {
        const struct tx_event *event = &tx->events[i];
        const struct model_stream *stream = &model->streams[event->stream];
        const struct stream_log *slot = &model->slots[stream->slot];
        uint64_t stored = slot_count_below(slot, k), count = stored;
        for (uint32_t j = 0; j < i; j++)
            count += model->streams[tx->events[j].stream].slot == stream->slot;
        if (stored > 0 && !uuid_equal(&model->streams[slot->owner].key, &tx->key)) {
            uuid_format(&model->streams[slot->owner].key, owner_key);
            snprintf(
                text, sizeof text,
                "partition key must be the same for all events in a stream: expected %s, got %s",
                owner_key, key);
            return claim->err == ERR_INVALID && strcmp(text, claim->text) == 0;
        }
        bool held =
            event->expect == EXPECT_ANY || (event->expect == EXPECT_EMPTY && count == 0) ||
            (event->expect == EXPECT_EXISTS && count > 0) ||
            (event->expect == EXPECT_VERSION && count > 0 && count - 1 == event->expect_version);
        if (held)
            continue;
        const char *expected = event->expect == EXPECT_EMPTY ? "empty"
                               : event->expect == EXPECT_EXISTS
                                   ? "exists"
                                   : version_text(a, event->expect_version);
        snprintf(
            text, sizeof text,
            "current stream version is %s but expected %s for partition key %s and stream id %s",
            version_text(b, count == 0 ? NO_VERSION : count - 1), expected, key, stream->name);
        return claim->err == ERR_WRONGVER && strcmp(text, claim->text) == 0;
    }
    return false;
}
