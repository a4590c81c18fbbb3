/* What nodes can say to one another over loopback: bench-peers [SECONDS]. Two processes; round
 * trips of one small item, many small items, large items that lz4 can shorten and that it can't. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "common/assert.h"
#include "tests/unit/netd/peers_support.h"

/* A request's first byte says what the other side does with it; what comes as RELAY_PEER is only
 * taken. */
enum { WANT_ECHO = 'e', WANT_WORD = 't' };

struct bench {
    struct test_cluster cluster; /* first */
    uint8_t payload[2 << 20];
    size_t at; /* where the next item begins: no two in one frame are the same */
    uint64_t answers;
    uint64_t other_cpu_ns; /* of the other process, as it said last */
};

static uint64_t own_cpu_ns(void)
{
    struct timespec now;
    ASSERT(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now) == 0);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static struct bench *bench_of(struct test_node *node)
{
    return (struct bench *)node->cluster;
}

static void serve(struct test_node *node, uint32_t from, uint64_t boot, uint32_t bucket,
                  enum relay_kind kind, struct span bytes)
{
    uint64_t cpu_ns = own_cpu_ns();
    if (kind == RELAY_REQUEST)
        peers_send(node->peers, from, bucket, RELAY_REPLY, boot,
                   bytes.ptr[0] == WANT_ECHO ? bytes : span_of(&cpu_ns, sizeof cpu_ns));
}

static void take_answer(struct test_node *node, uint32_t from, uint64_t boot, uint32_t bucket,
                        enum relay_kind kind, struct span bytes)
{
    (void)from;
    (void)boot;
    (void)bucket;
    (void)kind;
    bench_of(node)->answers++;
    if (bytes.len == sizeof bench_of(node)->other_cpu_ns)
        bench_of(node)->other_cpu_ns = load_u64(bytes.ptr);
}

static bool connected(struct test_cluster *cluster)
{
    return cluster->nodes[0].alive[1];
}

static void send_item(struct bench *bench, enum relay_kind kind, struct span bytes)
{
    struct test_node *node = &bench->cluster.nodes[0];
    while (!peers_send(node->peers, 1, 0, kind, 0, bytes))
        uv_run(&bench->cluster.loop, UV_RUN_ONCE);
}

/* Sends a request and runs until its answer is there: so is everything before it. */
static void ask(struct bench *bench, uint8_t what, size_t len)
{
    uint64_t wanted = bench->answers + 1;
    bench->payload[0] = what;
    send_item(bench, RELAY_REQUEST, span_of(bench->payload, len));
    while (bench->answers < wanted)
        uv_run(&bench->cluster.loop, UV_RUN_ONCE);
}

static void round_trips(struct bench *bench, uint64_t until)
{
    uint64_t begun = uv_hrtime(), count = 0;
    for (; uv_hrtime() < until; count++)
        ask(bench, WANT_ECHO, 200);
    printf("%-44s %10.1f us\n", "round trip of one item of 200 bytes",
           (double)(uv_hrtime() - begun) / 1000 / (double)count);
}

/* Items of one size as fast as they go; per_turn of them leave together. */
static void stream(struct bench *bench, const char *name, size_t len, unsigned per_turn,
                   uint64_t until)
{
    struct peer_info before, after;
    ask(bench, WANT_WORD, 1);
    uint64_t cpu = own_cpu_ns(), other_cpu = bench->other_cpu_ns;
    peers_get_node(bench->cluster.nodes[0].peers, 1, &before);
    uint64_t begun = uv_hrtime(), count = 0;
    while (uv_hrtime() < until) {
        for (unsigned i = 0; i < per_turn; i++, count++) {
            send_item(bench, RELAY_PEER, span_of(bench->payload + bench->at, len));
            bench->at = (bench->at + len) % (sizeof bench->payload - len);
        }
        uv_run(&bench->cluster.loop, UV_RUN_NOWAIT);
    }
    ask(bench, WANT_WORD, 1);
    double seconds = (double)(uv_hrtime() - begun) / 1e9;
    peers_get_node(bench->cluster.nodes[0].peers, 1, &after);
    printf("%-40s %9.0f items/s %7.1f MB/s %7.0f frames/s %6.1f MB/s on the wire, CPU %3.0f + "
           "%3.0f %%\n",
           name, (double)count / seconds, (double)(count * len) / seconds / 1e6,
           (double)(after.stats.frames_out - before.stats.frames_out) / seconds,
           (double)(after.stats.bytes_out - before.stats.bytes_out) / seconds / 1e6,
           (double)(own_cpu_ns() - cpu) / seconds / 1e7,
           (double)(bench->other_cpu_ns - other_cpu) / seconds / 1e7);
}

int main(int argc, char **argv)
{
    uint64_t ns = (argc > 1 ? strtoull(argv[1], NULL, 10) : 2) * 1000000000;
    struct bench *bench = calloc(1, sizeof *bench);
    ASSERT(bench != NULL && ns > 0);
    test_cluster_init(&bench->cluster, 2);
    pid_t child = fork();
    ASSERT(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        ASSERT(uv_loop_fork(&bench->cluster.loop) == 0);
        test_node_start(&bench->cluster, 1, 1, "");
        bench->cluster.nodes[1].on_item = serve;
        uv_run(&bench->cluster.loop, UV_RUN_DEFAULT);
        _exit(1);
    }
    test_node_start(&bench->cluster, 0, 1, "");
    bench->cluster.nodes[0].on_item = take_answer;
    test_run_until(&bench->cluster, connected, 10);
    memset(bench->payload, 'x', sizeof bench->payload);
    round_trips(bench, uv_hrtime() + ns);
    stream(bench, "one item of 300 bytes a turn", 300, 1, uv_hrtime() + ns);
    stream(bench, "100 items of 300 bytes a turn", 300, 100, uv_hrtime() + ns);
    stream(bench, "items of 64 KiB that shrink", 64 << 10, 4, uv_hrtime() + ns);
    FILE *noise = fopen("/dev/urandom", "re");
    ASSERT(noise != NULL && fread(bench->payload, sizeof bench->payload, 1, noise) == 1);
    fclose(noise);
    stream(bench, "100 items of 300 bytes of noise a turn", 300, 100, uv_hrtime() + ns);
    stream(bench, "items of 64 KiB of noise", 64 << 10, 4, uv_hrtime() + ns);
    stream(bench, "items of 256 KiB of noise", 256 << 10, 1, uv_hrtime() + ns);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    return 0;
}
