/* tests/sim/scale: a run's phases and its figures. */
#include <getopt.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/assert.h"
#include "tests/sim/large/sc.h"

#define STEP          (100 * MS)
#define START_NS_MAX  (60 * SECOND)
#define HOME_NS_MAX   (180 * SECOND)
#define ANSWER_NS_MAX (30 * SECOND)
#define DOWN_NS       (4 * SECOND)
/* While nodes are killed: what is measured is a probe of each bucket, beside some load. */
#define KILL_RATE_MAX 500u
/* Where nothing fails. A follower that has no room for what it could take makes a leader wait for
 * a quarter of the election's timeout. */
#define LATENCY_NS_MAX (100 * MS)
/* With 3 replicas and the usual times it is 5.5. */
#define IDLE_TICKS_MAX 8u /* of a replica in a second, on an average */

static const char usage[] =
    "usage: scale [--nodes N] [--buckets N] [--partitions N] [--rf N] [--seed S]\n"
    "             [--seconds N] [--rate N] [--kills N] [--tick-ms N] [--election-ms N]\n"
    "             [--payload BYTES]\n"
    "The whole cluster in the simulator: what it costs idle and at --rate appends/s, for\n"
    "--seconds of virtual time each, and how long writes stand still when a node is killed.\n";

static void parse(int argc, char **argv, struct sc_options *options);
static void run(struct scale *scale, uint64_t ns);
static void require(struct scale *scale, bool ok, const char *what);
static _Noreturn void fail(const char *what);

/* --- figures of nodes --- */

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void print_spread(const char *name, uint64_t *values, uint32_t count, double scale)
{
    double sum = 0;
    for (uint32_t i = 0; i < count; i++)
        sum += (double)values[i];
    qsort(values, count, sizeof *values, compare_u64);
    printf("  %-34s %10.1f %10.1f %10.1f %10.1f\n", name, (double)values[0] / scale,
           (double)values[count / 2] / scale, (double)values[count - 1] / scale,
           sum / count / scale);
}

static void print_head(const char *name)
{
    printf("%-36s %10s %10s %10s %10s\n", name, "min", "median", "max", "mean");
}

#define PRINT_TRAFFIC(scale, name, field)                                                          \
    do {                                                                                           \
        uint64_t values[SC_NODES_MAX];                                                             \
        for (uint32_t i_ = 0; i_ < (scale)->options.nodes; i_++)                                   \
            values[i_] = (scale)->nodes[i_].traffic.field;                                         \
        print_spread(name, values, (scale)->options.nodes, (double)(scale)->options.seconds);      \
    } while (0)

/* Ticks come further apart where nothing happens. */
static void check_idle(struct scale *scale)
{
    uint64_t ticks = 0, replicas = 0;
    for (uint32_t i = 0; i < scale->options.nodes; i++) {
        ticks += scale->nodes[i].traffic.ticks_out;
        replicas += scale->nodes[i].replica_count;
    }
    require(scale, ticks <= IDLE_TICKS_MAX * replicas * scale->options.seconds,
            "idle replicas say little");
}

static void measure(struct scale *scale, const char *name)
{
    for (uint32_t i = 0; i < scale->options.nodes; i++)
        scale->nodes[i].traffic = (struct sc_traffic){0};
    scale->latency.count = 0;
    uint64_t acked = scale->acked;
    run(scale, scale->options.seconds * SECOND);
    print_head(name);
    PRINT_TRAFFIC(scale, "frames out/s", frames_out);
    PRINT_TRAFFIC(scale, "  of them gossip", gossip_frames_out);
    PRINT_TRAFFIC(scale, "frames in/s", frames_in);
    PRINT_TRAFFIC(scale, "items out/s", items_out);
    PRINT_TRAFFIC(scale, "  of them routine ticks", ticks_out);
    PRINT_TRAFFIC(scale, "items in/s", items_in);
    PRINT_TRAFFIC(scale, "bytes out/s", bytes_out);
    PRINT_TRAFFIC(scale, "  of them gossip", gossip_bytes_out);
    PRINT_TRAFFIC(scale, "netd's turns/s", netd_turns);
    PRINT_TRAFFIC(scale, "turns/s of all bucket processes", bucket_turns);
    acked = scale->acked - acked;
    if (acked == 0)
        check_idle(scale);
    else
        require(scale, samples_at(&scale->latency, 1000) < LATENCY_NS_MAX,
                "without faults no append waits for long");
    if (acked > 0)
        printf("  %lu appends/s acknowledged; latency ms p50 %.2f, p99 %.2f, max %.2f\n",
               acked / scale->options.seconds, (double)samples_at(&scale->latency, 500) / MS,
               (double)samples_at(&scale->latency, 990) / MS,
               (double)samples_at(&scale->latency, 1000) / MS);
}

static void measure_load(struct scale *scale)
{
    char name[64];
    snprintf(name, sizeof name, "at %lu appends/s", scale->options.rate);
    calls_begin_load(scale);
    run(scale, 3 * SECOND);
    measure(scale, name);
    scale->options.rate = min_u64(scale->options.rate, KILL_RATE_MAX);
}

static void print_placement(struct scale *scale)
{
    uint64_t replicas[SC_NODES_MAX], leaders[SC_NODES_MAX] = {0}, peers[SC_NODES_MAX];
    for (uint32_t i = 0; i < scale->options.buckets; i++)
        leaders[scale->buckets[i].nodes[0]]++;
    for (uint32_t i = 0; i < scale->options.nodes; i++) {
        replicas[i] = scale->nodes[i].replica_count;
        peers[i] = 0;
        for (uint32_t k = 0; k < scale->options.nodes; k++)
            peers[i] += scale->nodes[i].peers[k].shares;
    }
    print_head("placement");
    print_spread("replicas of a node", replicas, scale->options.nodes, 1);
    print_spread("buckets it is to lead", leaders, scale->options.nodes, 1);
    print_spread("nodes it shares buckets with", peers, scale->options.nodes, 1);
}

/* --- phases --- */

static void wait_for(struct scale *scale, uint32_t (*count)(struct scale *), uint64_t ns_max,
                     const char *what)
{
    uint64_t begin = scale->sched.now_ns;
    while (count(scale) < scale->options.buckets) {
        if (scale->sched.now_ns - begin >= ns_max)
            fail(what);
        run(scale, STEP);
    }
    scale->passed++;
    printf("%s: after %.1f s\n", what, (double)(scale->sched.now_ns - begin) / SECOND);
}

static void start(struct scale *scale)
{
    for (uint32_t i = 0; i < scale->options.nodes; i++) {
        scale_start_node(scale, i);
        run(scale, prng_below(&scale->prng, 5 * MS));
    }
    wait_for(scale, scale_settled, START_NS_MAX, "every bucket has a leader, all replicas ready");
    wait_for(scale, scale_at_home, HOME_NS_MAX, "every bucket is led by its first choice");
    run(scale, 5 * SECOND);
}

/* Under load one node after another is killed; how long until each bucket that it led has
 * acknowledged an append again. */
static void kill_nodes(struct scale *scale)
{
    bool *led = calloc(scale->options.buckets, sizeof *led);
    ASSERT(led != NULL);
    uint64_t buckets = 0;
    for (uint64_t k = 0; k < scale->options.kills; k++) {
        uint32_t node = (uint32_t)prng_below(&scale->prng, scale->options.nodes);
        uint64_t begin = scale->sched.now_ns;
        for (uint32_t i = 0; i < scale->options.buckets; i++) {
            const struct sc_replica *leader = scale_leader(scale, i);
            led[i] = leader != NULL && leader->node == node;
            buckets += led[i];
        }
        scale_kill_node(scale, node);
        calls_probe(scale, led);
        while (scale->probes_open > 0) {
            if (scale->sched.now_ns - begin >= ANSWER_NS_MAX)
                fail("every bucket that a killed node led acknowledges again");
            run(scale, MS);
        }
        run(scale, max_u64(scale->sched.now_ns, begin + DOWN_NS) - scale->sched.now_ns);
        scale_start_node(scale, node);
        begin = scale->sched.now_ns;
        while (scale_settled(scale) < scale->options.buckets) {
            if (scale->sched.now_ns - begin >= START_NS_MAX)
                fail("a node that is back is ready");
            run(scale, STEP);
        }
        run(scale, prng_range(&scale->prng, SECOND, 2 * SECOND));
    }
    free(led);
    struct sc_samples *f = &scale->failover;
    require(scale, f->count == buckets, "each probe was answered once");
    printf("failover: %lu nodes killed, %lu buckets led by them; ms until each acknowledged "
           "again: min %.0f, p50 %.0f, p99 %.0f, max %.0f\n",
           scale->options.kills, buckets, (double)samples_at(f, 0) / MS,
           (double)samples_at(f, 500) / MS, (double)samples_at(f, 990) / MS,
           (double)samples_at(f, 1000) / MS);
}

static size_t heap_bytes(void)
{
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd;
}

/* What the core's objects of a replica hold: what the heap gets back when its process ends. */
static void print_memory(struct scale *scale)
{
    uint64_t nodes[SC_NODES_MAX] = {0}, sum = 0, count = 0, least = UINT64_MAX, most = 0;
    calls_end_load(scale);
    run(scale, 5 * SECOND);
    for (uint32_t i = 0; i < scale->options.nodes; i++) {
        for (uint32_t k = 0; k < scale->nodes[i].replica_count; k++) {
            size_t before = heap_bytes();
            node_die(&scale->nodes[i].replicas[k]->process, NODE_KILLED);
            uint64_t bytes = before - heap_bytes();
            nodes[i] += bytes;
            sum += bytes;
            count++;
            least = min_u64(least, bytes);
            most = max_u64(most, bytes);
        }
    }
    printf("memory of the core in each replica: min %lu, mean %lu, max %lu KiB (heap; its process "
           "comes on top)\n",
           least >> 10, sum / count >> 10, most >> 10);
    print_head("KiB of a node's cores");
    print_spread("", nodes, scale->options.nodes, 1024);
}

int main(int argc, char **argv)
{
    struct sc_options options = {.seed = 1,
                                 .nodes = 10,
                                 .buckets = 32,
                                 .partitions = 1024,
                                 .factor = 3,
                                 .seconds = 30,
                                 .rate = 2000,
                                 .kills = 10,
                                 .tick_ms = 100,
                                 .election_ms = 1000,
                                 .payload = 203};
    parse(argc, argv, &options);
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("%u nodes, %u buckets, %u partitions, %u replicas, seed %lu, ticks %lu ms, election "
           "timeout %lu ms\n",
           options.nodes, options.buckets, options.partitions, options.factor, options.seed,
           options.tick_ms, options.election_ms);
    struct scale *scale = calloc(1, sizeof *scale);
    ASSERT(scale != NULL);
    scale_init(scale, &options);
    print_placement(scale);
    start(scale);
    measure(scale, "idle");
    if (options.rate > 0)
        measure_load(scale);
    kill_nodes(scale);
    print_memory(scale);
    printf("%.0f s of virtual time, hash %016lx\n", (double)scale->sched.now_ns / SECOND,
           scale->trace.hash);
    printf("%u passed, 0 failed\n", scale->passed);
    scale_release(scale);
    free(scale);
    return 0;
}

static void run(struct scale *scale, uint64_t ns)
{
    scale_run_until(scale, scale->sched.now_ns + ns);
    if (scale->trace.failed)
        fail(scale->trace.failure);
}

static void require(struct scale *scale, bool ok, const char *what)
{
    if (!ok)
        fail(what);
    scale->passed++;
}

static _Noreturn void fail(const char *what)
{
    printf("not so: %s\n0 passed, 1 failed\n", what);
    exit(EXIT_FAILURE);
}

static void parse(int argc, char **argv, struct sc_options *options)
{
    static const struct option known[] = {
        {"nodes", 1, NULL, 'n'},       {"buckets", 1, NULL, 'b'}, {"partitions", 1, NULL, 'p'},
        {"rf", 1, NULL, 'f'},          {"seed", 1, NULL, 's'},    {"seconds", 1, NULL, 't'},
        {"rate", 1, NULL, 'r'},        {"kills", 1, NULL, 'k'},   {"tick-ms", 1, NULL, 'i'},
        {"election-ms", 1, NULL, 'e'}, {"payload", 1, NULL, 'l'}, {NULL, 0, NULL, 0}};
    bool ok = true;
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        char *end = NULL;
        uint64_t value = optarg != NULL ? strtoull(optarg, &end, 10) : 0;
        ok = ok && c != '?' && end != NULL && *end == '\0';
        uint64_t *to = c == 's'   ? &options->seed
                       : c == 't' ? &options->seconds
                       : c == 'r' ? &options->rate
                       : c == 'k' ? &options->kills
                       : c == 'i' ? &options->tick_ms
                       : c == 'e' ? &options->election_ms
                       : c == 'l' ? &options->payload
                                  : NULL;
        uint32_t *to32 = c == 'n'   ? &options->nodes
                         : c == 'b' ? &options->buckets
                         : c == 'p' ? &options->partitions
                         : c == 'f' ? &options->factor
                                    : NULL;
        if (ok && to != NULL)
            *to = value;
        if (ok && to32 != NULL)
            *to32 = (uint32_t)value;
    }
    ok = ok && optind == argc && options->nodes >= 2 && options->nodes <= SC_NODES_MAX &&
         options->factor >= 1 && options->factor <= REPLICAS_MAX &&
         options->factor <= options->nodes && options->buckets >= 1 &&
         options->buckets <= BUCKET_COUNT_MAX && options->partitions >= options->buckets &&
         options->partitions <= PARTITION_COUNT_MAX && options->seconds >= 1 &&
         options->tick_ms >= 1 && options->election_ms >= 3 * options->tick_ms &&
         options->payload <= 4096;
    if (ok)
        return;
    fputs(usage, stderr);
    exit(2);
}
