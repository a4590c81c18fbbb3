/* Clients: appends that come at random to all nodes alike, and go to who leads, as netd/router.c
 * sends them: by the hints of gossip and refusals, again after a rest, with the same event id. */
#include <stdio.h>
#include <stdlib.h>

#include "common/assert.h"
#include "tests/sim/large/sc.h"

/* netd/router.c: NOT_LEADER_REST_MS, NO_QUORUM_REST_MS, SILENCE_MS_MAX. */
#define REST_NS           (20 * MS)
#define NO_QUORUM_REST_NS (100 * MS)
#define SILENCE_NS        (1500 * MS)
#define STREAMS           64u /* of a partition */
#define PAYLOAD_MAX       4096u

static void on_next(void *ctx, uint64_t unused);
static struct sc_call *new_call(struct scale *scale, uint32_t partition);
static void end_call(struct scale *scale, struct sc_call *call);
static uint32_t alive_node(struct scale *scale);
static void send_call(struct scale *scale, struct sc_call *call);
static bool choose_target(struct scale *scale, struct sc_call *call);
static void pack_call(struct scale *scale, const struct sc_call *call, struct buf *out);
static void again_after(struct scale *scale, struct sc_call *call, uint64_t rest_ns);
static void on_again(void *ctx, uint64_t id);
static void on_failed(struct scale *scale, struct sc_call *call, const struct msg_fail_reply *m);

static uint64_t id_of(const struct scale *scale, const struct sc_call *call)
{
    return (uint64_t)call->number << 32 | (uint32_t)(call - scale->calls);
}

static struct sc_call *find_call(struct scale *scale, uint64_t id)
{
    uint32_t at = (uint32_t)id;
    if (at >= scale->call_count || !scale->calls[at].used || scale->calls[at].number != id >> 32)
        return NULL;
    return &scale->calls[at];
}

uint32_t calls_entry(struct scale *scale, uint64_t req_id)
{
    const struct sc_call *call = find_call(scale, req_id);
    return call != NULL ? call->entry : UINT32_MAX;
}

void calls_release(struct scale *scale)
{
    free(scale->calls);
    free(scale->latency.values);
    free(scale->failover.values);
}

/* --- load and probes --- */

void calls_begin_load(struct scale *scale)
{
    scale->loaded = true;
    if (scale->options.rate > 0)
        on_next(scale, 0);
}

void calls_end_load(struct scale *scale)
{
    scale->loaded = false;
}

static void on_next(void *ctx, uint64_t unused)
{
    struct scale *scale = ctx;
    (void)unused;
    if (!scale->loaded)
        return;
    uint32_t partition = (uint32_t)prng_below(&scale->prng, scale->options.partitions);
    send_call(scale, new_call(scale, partition));
    sched_after(&scale->sched, prng_below(&scale->prng, 2 * SECOND / scale->options.rate + 1),
                on_next, scale, 0);
}

void calls_probe(struct scale *scale, const bool *buckets)
{
    for (uint32_t i = 0; i < scale->options.buckets; i++) {
        if (!buckets[i])
            continue;
        struct sc_call *call = new_call(scale, i);
        call->probe = true;
        scale->probes_open++;
        send_call(scale, call);
    }
}

static struct sc_call *new_call(struct scale *scale, uint32_t partition)
{
    uint32_t at = 0;
    while (at < scale->call_count && scale->calls[at].used)
        at++;
    if (at == scale->call_count && at == scale->call_cap) {
        scale->call_cap = scale->call_cap == 0 ? 256 : 2 * scale->call_cap;
        scale->calls = realloc(scale->calls, scale->call_cap * sizeof *scale->calls);
        ASSERT(scale->calls != NULL);
    }
    if (at == scale->call_count)
        scale->calls[scale->call_count++] = (struct sc_call){0};
    struct sc_call *call = &scale->calls[at];
    uint8_t random[16];
    prng_fill(&scale->prng, random, sizeof random);
    *call = (struct sc_call){.used = true,
                             .number = call->number + 1,
                             .bucket = partition % scale->options.buckets,
                             .partition = partition,
                             .entry = alive_node(scale),
                             .since_ns = scale->sched.now_ns,
                             .id = uuid_event_id(1795000000000u + scale->sched.now_ns / MS,
                                                 (uint16_t)partition, random)};
    call->target_slot = scale->buckets[call->bucket].count - 1; /* the first choice is next */
    scale->calls_open++;
    scale->sent++;
    return call;
}

static uint32_t alive_node(struct scale *scale)
{
    uint32_t node;
    do
        node = (uint32_t)prng_below(&scale->prng, scale->options.nodes);
    while (!scale->nodes[node].alive);
    return node;
}

static void end_call(struct scale *scale, struct sc_call *call)
{
    scale->calls_open--;
    scale->probes_open -= call->probe;
    call->used = false;
}

/* --- out --- */

static void send_call(struct scale *scale, struct sc_call *call)
{
    struct sc_bucket *bucket = &scale->buckets[call->bucket];
    call->number++;
    scale->resent += call->tries > 0;
    if (!choose_target(scale, call)) {
        again_after(scale, call, REST_NS);
        return;
    }
    struct buf bytes = {0};
    pack_call(scale, call, &bytes);
    call->tries++;
    call->in_flight = true;
    uint32_t node = bucket->nodes[call->target_slot];
    if (node == call->entry)
        netd_pass_to_local(&scale->nodes[node], &bucket->replicas[call->target_slot], RELAY_REQUEST,
                           0, buf_span(&bytes));
    else
        netd_send(&scale->nodes[call->entry], node, RELAY_REQUEST, call->bucket, buf_span(&bytes));
    buf_release(&bytes);
    sched_after(&scale->sched, SILENCE_NS, on_again, scale, id_of(scale, call));
}

/* Who is said to lead, else the next one. */
static bool choose_target(struct scale *scale, struct sc_call *call)
{
    const struct sc_bucket *bucket = &scale->buckets[call->bucket];
    const struct sc_hint *hint = &scale->nodes[call->entry].hints[call->bucket];
    for (uint32_t slot = 0; call->tries < 2 && slot < bucket->count; slot++) {
        if (bucket->nodes[slot] + 1 == hint->leader && scale->nodes[bucket->nodes[slot]].alive) {
            call->target_slot = slot;
            return true;
        }
    }
    for (uint32_t i = 1; i <= bucket->count; i++) {
        uint32_t slot = (call->target_slot + i) % bucket->count;
        if (scale->nodes[bucket->nodes[slot]].alive) {
            call->target_slot = slot;
            return true;
        }
    }
    return false;
}

static void pack_call(struct scale *scale, const struct sc_call *call, struct buf *out)
{
    uint8_t payload[PAYLOAD_MAX];
    char stream[32];
    /* Of no pattern, and the same each time it is sent; half of it is what lz4 can save. */
    struct prng prng = {0};
    memcpy(&prng.state, call->id.bytes + 8, sizeof prng.state);
    for (size_t i = 0; i < scale->options.payload; i++)
        payload[i] = i % 2 == 0 ? (uint8_t)prng_next(&prng) : (uint8_t)'e';
    struct uuid key = {.bytes = {[6] = 0x50}};
    key.bytes[8] = (uint8_t)(0x80 | call->partition >> 10);
    key.bytes[9] = (uint8_t)(call->partition >> 2);
    key.bytes[10] = (uint8_t)(call->partition << 6);
    int len = snprintf(stream, sizeof stream, "stream-%u-%u", call->partition,
                       call->id.bytes[15] % STREAMS);
    struct buf events = {0};
    rec_pack_new_event(
        &events, &(struct rec_new_event){.event_id = call->id,
                                         .expect = EXPECT_ANY,
                                         .timestamp_ms = 1795000000000u + call->since_ns / MS,
                                         .stream = span_of((uint8_t *)stream, (size_t)len),
                                         .name = span_str("OrderPlaced"),
                                         .payload = span_of(payload, scale->options.payload)});
    msg_pack_append_req(out, &(struct msg_append_req){.req_id = id_of(scale, call),
                                                      .flags = call->tries > 0 ? APPEND_RETRY : 0,
                                                      .partition = call->partition,
                                                      .partition_key = key,
                                                      .transaction_id = call->id,
                                                      .count = 1,
                                                      .events = buf_span(&events)});
    buf_release(&events);
}

/* --- in --- */

void calls_on_reply(struct scale *scale, uint32_t entry, struct span bytes)
{
    struct msg msg;
    while (bytes.len > 0) {
        ASSERT(msg_unpack(&bytes, &msg) == ERR_OK);
        struct sc_call *call = find_call(scale, msg.u.fail_reply.req_id);
        if (call == NULL || call->entry != entry)
            continue; /* it was sent to somebody else since */
        call->in_flight = false;
        if (msg.tag != TAG_append_reply) {
            on_failed(scale, call, &msg.u.fail_reply);
            continue;
        }
        scale->acked++;
        samples_add(call->probe ? &scale->failover : &scale->latency,
                    scale->sched.now_ns - call->since_ns);
        end_call(scale, call);
    }
}

static void on_failed(struct scale *scale, struct sc_call *call, const struct msg_fail_reply *m)
{
    struct sc_hint *hint = &scale->nodes[call->entry].hints[call->bucket];
    const struct sc_bucket *bucket = &scale->buckets[call->bucket];
    bool elsewhere = m->leader != 0 && m->leader - 1 != call->target_slot;
    if (err_class((enum err)m->error) == ERR_CLASS_NONE && m->error != ERR_NOT_LEADER &&
        m->error != ERR_NO_QUORUM)
        trace_fail(&scale->trace, "an append failed: %.*s", (int)m->text.len,
                   (const char *)m->text.ptr);
    if (elsewhere && m->term > hint->term) {
        *hint = (struct sc_hint){.term = m->term, .leader = bucket->nodes[m->leader - 1] + 1};
        call->tries = 1;
        send_call(scale, call);
        return;
    }
    again_after(scale, call, m->error == ERR_NO_QUORUM ? NO_QUORUM_REST_NS : REST_NS);
}

static void again_after(struct scale *scale, struct sc_call *call, uint64_t rest_ns)
{
    sched_after(&scale->sched, rest_ns, on_again, scale, id_of(scale, call));
}

static void on_again(void *ctx, uint64_t id)
{
    struct scale *scale = ctx;
    struct sc_call *call = find_call(scale, id);
    if (call != NULL)
        send_call(scale, call);
}

void calls_on_node_lost(struct scale *scale, uint32_t node)
{
    for (uint32_t i = 0; i < scale->call_count; i++) {
        struct sc_call *call = &scale->calls[i];
        if (!call->used)
            continue;
        if (call->entry == node)
            end_call(scale, call); /* its client's connection is gone with it */
        else if (call->in_flight && scale->buckets[call->bucket].nodes[call->target_slot] == node)
            send_call(scale, call);
    }
}

/* --- figures --- */

void samples_add(struct sc_samples *samples, uint64_t value)
{
    if (samples->count == samples->cap) {
        samples->cap = samples->cap == 0 ? 1024 : 2 * samples->cap;
        samples->values = realloc(samples->values, samples->cap * sizeof *samples->values);
        ASSERT(samples->values != NULL);
    }
    samples->values[samples->count++] = value;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

uint64_t samples_at(struct sc_samples *samples, uint64_t part)
{
    if (samples->count == 0)
        return 0;
    qsort(samples->values, samples->count, sizeof *samples->values, compare);
    uint64_t at = (samples->count * part + 999) / 1000;
    return samples->values[at > 0 ? at - 1 : 0];
}
