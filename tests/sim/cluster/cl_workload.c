/* What the clients of a seed do: kinds of requests, rates, hot or many streams. */
#include "tests/sim/cluster/cl_client.h"

#include <stdio.h>

#include "tests/sim/cluster/cluster.h"
#include "tests/sim/model.h"

#define KEYS 6u

static uint64_t pick(struct prng *prng, const uint64_t *values, unsigned count)
{
    return values[prng_below(prng, count)];
}

#define PICK(prng, ...)                                                                            \
    pick((prng), (const uint64_t[]){__VA_ARGS__},                                                  \
         sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t))

static void draw_pace(struct cl_workload *workload, const struct cl_swarm *swarm,
                      struct prng *prng);

void cl_workload_draw(struct cl_workload *workload, const struct cl_swarm *swarm, struct prng *prng)
{
    const struct bucket_config *config = &swarm->config;
    *workload = (struct cl_workload){
        .streams = (uint32_t)PICK(prng, 1, 3, 8, 20),
        .partitions_used = (uint32_t)prng_range(prng, 1, 4),
        .tx_events_max = (uint32_t)PICK(prng, 1, 3, 8, 30),
        .payload_max = (uint32_t)min_u64(config->event_bytes_max, PICK(prng, 200, 1500, 20000)),
        .window = (uint32_t)PICK(prng, 1, 4, 16, 40),
        .batch = (uint32_t)PICK(prng, 1, 4, 16),
        .sessions = (uint32_t)prng_range(prng, 1, 3),
        .append_weight = (uint32_t)PICK(prng, 10, 30, 60),
        .get_weight = (uint32_t)PICK(prng, 0, 5, 10),
        .scan_weight = (uint32_t)PICK(prng, 1, 5, 20),
        .number_weight = (uint32_t)PICK(prng, 0, 5, 20),
        .multi_chance = PICK(prng, 0, 300000, 900000),
        .big_chance = PICK(prng, 50000, 100000, 700000),
        .exact_chance = PICK(prng, 0, 300000, 900000, 900000),
        .wrong_chance = PICK(prng, 0, 50000, 300000),
        .given_chance = PICK(prng, 0, 200000, 1000000),
        .repeat_chance = PICK(prng, 0, 20000, 200000),
        .copy_chance = PICK(prng, 0, 20000, 100000),
        .invalid_chance = PICK(prng, 0, 5000, 50000),
        .strong_chance = PICK(prng, 0, 100000, 500000),
        .new_session_chance = PICK(prng, 0, 300000, 1000000),
        .wake_reads = PICK(prng, 0, 1, 3),
        .follow_chance = PICK(prng, 0, 300000, 1000000),
        .move_mean_ns = PICK(prng, 0, 200, 2000) * MS,
        .eager = prng_chance(prng, 500000),
        .patience_ns = 2 * config->election_timeout_ns + PICK(prng, 200, 1000, 5000) * MS,
    };
    if (config->segment_bytes <= 8 << 10 && workload->tx_events_max > 8)
        workload->tx_events_max = 14;
    /* Small events where many go into one transaction, so that most of them fit. */
    if (workload->tx_events_max > 8)
        workload->payload_max = (uint32_t)min_u64(workload->payload_max, 60);
    draw_pace(workload, swarm, prng);
}

/* The work is spread over the run, so that every storm meets some: by steps, or in bursts with long
 * pauses between them. */
static void draw_pace(struct cl_workload *workload, const struct cl_swarm *swarm, struct prng *prng)
{
    uint64_t run = swarm->storms * (swarm->storm_ns_max + swarm->calm_ns_max) / 8 * 5;
    uint64_t turns = swarm->ops / swarm->clients * 2 / (workload->batch + 1) + 1;
    uint64_t mean = run / turns;
    if (prng_chance(prng, 500000)) {
        workload->think_ns = max_u64(mean * PICK(prng, 3, 8) / 10, 100 * US);
        return;
    }
    workload->think_ns = PICK(prng, 100, 1000, 10000) * US;
    workload->idle_chance = PICK(prng, 20000, 100000);
    uint64_t rest = mean > workload->think_ns ? mean - workload->think_ns : US;
    workload->idle_ns_max = max_u64(rest * 1000000 / workload->idle_chance, MS);
    workload->idle_ns_max = min_u64(workload->idle_ns_max, run / 3 + MS);
}

void cl_workload_print(const struct cl_workload *w, struct buf *out)
{
    buf_printf(
        out,
        "  streams=%u partitions_used=%u tx_events<=%u payload<=%u window=%u batch=%u "
        "sessions=%u think_us=%lu idle_ms<=%lu idle=%lu eager=%d patience_ms=%lu\n"
        "  append:get:scan:number=%u:%u:%u:%u multi=%lu big=%lu exact=%lu wrong=%lu given=%lu "
        "repeat=%lu copy=%lu invalid=%lu strong=%lu new_session=%lu wake_reads=%lu "
        "follow=%lu move_ms=%lu\n",
        w->streams, w->partitions_used, w->tx_events_max, w->payload_max, w->window, w->batch,
        w->sessions, w->think_ns / US, w->idle_ns_max / MS, w->idle_chance, w->eager,
        w->patience_ns / MS, w->append_weight, w->get_weight, w->scan_weight, w->number_weight,
        w->multi_chance, w->big_chance, w->exact_chance, w->wrong_chance, w->given_chance,
        w->repeat_chance, w->copy_chance, w->invalid_chance, w->strong_chance,
        w->new_session_chance, w->wake_reads, w->follow_chance, w->move_mean_ns / MS);
}

void cl_workload_add_streams(struct model *model, const struct cl_swarm *swarm, struct prng *prng)
{
    const struct bucket_config *config = &swarm->config;
    const struct cl_workload *workload = &swarm->workload;
    uint32_t own = (config->partition_count - config->bucket + config->bucket_count - 1) /
                   config->bucket_count;
    uint32_t used = workload->partitions_used < own ? workload->partitions_used : own;
    struct uuid keys[KEYS];
    uint32_t partitions[KEYS];
    for (uint32_t i = 0; i < KEYS; i++) {
        partitions[i] = config->bucket + config->bucket_count * (uint32_t)prng_below(prng, used);
        uint32_t hashes = 65536 / config->partition_count;
        uint32_t hash =
            partitions[i] + config->partition_count * (uint32_t)prng_below(prng, hashes);
        prng_fill(prng, keys[i].bytes, sizeof keys[i].bytes);
        keys[i].bytes[8] = (uint8_t)(0x80 | hash >> 10);
        keys[i].bytes[9] = (uint8_t)(hash >> 2);
        keys[i].bytes[10] = (uint8_t)((keys[i].bytes[10] & 0x3f) | (hash & 3) << 6);
    }
    for (uint32_t i = 0; i < workload->streams; i++) {
        uint32_t key = (uint32_t)prng_below(prng, KEYS);
        char name[65];
        uint64_t number = prng_below(prng, 8);
        snprintf(name, sizeof name, number == 7 ? "long-%059lu" : "s%lu", number);
        bool there = false;
        for (uint32_t k = 0; k < model->stream_count; k++)
            there = there || (strcmp(model->streams[k].name, name) == 0 &&
                              uuid_equal(&model->streams[k].key, &keys[key]));
        if (!there)
            model_add_stream(model, partitions[key], &keys[key], name);
    }
}
